//! What makes a message ambiguous or too much, one rule each, with the sentence that the client is told.

use crate::refusal::{Code, Refusal};

/// A rule of the wire that a message breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    LineFeedAlone,
    CarriageReturnAlone,
    EmptyLinesBefore,
    RequestLine,
    Method,
    Target,
    Protocol,
    FoldedLine,
    HeaderName,
    SpaceBeforeColon,
    HeaderValue,
    HostMissing,
    HostRepeated,
    LengthRepeated,
    LengthNumber,
    LengthAndCoding,
    CodingRepeated,
    CodingUnknown,
    CodingBeforeHttp11,
    UpgradeWithBody,
    BytesBeforeUpgrade,
    ChunkSize,
    ChunkExtension,
    ChunkEnd,
    Trailer,
    TrailerForbidden,
    TrailersTooLarge,
    HeadTooLarge,
    TooManyHeaders,
    HeadTooSlow,
}

impl Rule {
    /// The code that goes with it.
    pub(crate) const fn code(self) -> Code {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders | Self::TrailersTooLarge => Code::HeaderTooLarge,
            Self::HeadTooSlow => Code::HeaderTimeout,
            _ => Code::MessageAmbiguous,
        }
    }

    /// What is wrong, in one sentence.
    pub(crate) const fn detail(self) -> &'static str {
        match self {
            Self::LineFeedAlone => "a line ends in a bare line feed: every line ends in CR LF",
            Self::CarriageReturnAlone => "a carriage return stands where no line ends",
            Self::EmptyLinesBefore => "more than one empty line stands before the request",
            Self::RequestLine => "the request line is not `method SP target SP version`",
            Self::Method => "the method is not a token of 1 to 32 characters",
            Self::Target => {
                "the target is not a path, an http(s) URL or `*`, or holds a character that it may not hold"
            }
            Self::Protocol => "the version is neither HTTP/1.1 nor HTTP/1.0",
            Self::FoldedLine => "a header line begins with white space: folded lines are obsolete",
            Self::HeaderName => "a header's name is empty or holds a character that it may not hold",
            Self::SpaceBeforeColon => "white space stands between a header's name and its colon",
            Self::HeaderValue => "a header's value holds a control character",
            Self::HostMissing => "the request has no Host",
            Self::HostRepeated => "the header Host is there more than once",
            Self::LengthRepeated => "the header Content-Length is there more than once",
            Self::LengthNumber => "Content-Length is not a decimal number without sign, list or leading zero",
            Self::LengthAndCoding => "both Content-Length and Transfer-Encoding say how long the body is",
            Self::CodingRepeated => "the header Transfer-Encoding is there more than once",
            Self::CodingUnknown => "a Transfer-Encoding other than one `chunked`",
            Self::CodingBeforeHttp11 => "Transfer-Encoding belongs to HTTP/1.1 only",
            Self::UpgradeWithBody => "a request that asks for a WebSocket has a body",
            Self::BytesBeforeUpgrade => "bytes came before the upgrade was answered",
            Self::ChunkSize => "a chunk's size is not 1 to 16 hexadecimal digits",
            Self::ChunkExtension => "a chunk has an extension",
            Self::ChunkEnd => "a chunk does not end where its size says",
            Self::Trailer => "a trailer line is not `name: value`",
            Self::TrailerForbidden => "a trailer that frames, routes or authenticates the message",
            Self::TrailersTooLarge => "the trailers are larger than 8,192 bytes or more than 32",
            Self::HeadTooLarge => "the head is larger than `limits.header-bytes-max`",
            Self::TooManyHeaders => "the head has more fields than `limits.headers-max`",
            Self::HeadTooSlow => "the head did not arrive within `timeouts.header`",
        }
    }

    /// As the client is told.
    pub(crate) fn refusal(self) -> Refusal {
        Refusal::new(self.code(), self.detail())
    }
}
