//! What must hold of a connection's bytes, whatever they are (see `crate::fuzzing`).

use std::task::Waker;

use super::*;

const LIMITS: StrictLimits =
    StrictLimits { head: HeadLimits { bytes_max: 2_048, headers_max: 50 }, head_time: Duration::from_secs(10) };

/// Bytes that come so many at a time, and then never again.
struct Pieces<'b> {
    rest: &'b [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (piece, rest) = self.rest.split_at(self.size.min(self.rest.len()).min(into.remaining()));
        into.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

/// What becomes of bytes.
struct Outcome {
    passed: Vec<u8>,
    /// The rule that a head has broken.
    refused: Option<Rule>,
    /// The rule that a body has broken.
    broken: Option<Rule>,
    /// In what it ends.
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    BetweenMessages,
    WithinHead,
    WithinBody,
    Upgrade,
    Over,
}

fn outcome(bytes: &[u8], size: usize) -> Outcome {
    let said = Arc::<Said>::default();
    let mut stream = StrictStream::new(Pieces { rest: bytes, size }, LIMITS, Arc::clone(&said));
    let mut passed = Vec::new();
    let mut piece = [0; 512];
    loop {
        let mut into = ReadBuf::new(&mut piece);
        let read = Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut into);
        passed.extend_from_slice(into.filled());
        if !matches!(read, Poll::Ready(Ok(()))) || into.filled().is_empty() {
            break;
        }
    }
    let end = match &stream.state {
        State::Head(_) if stream.held.is_empty() => End::BetweenMessages,
        State::Head(_) => End::WithinHead,
        State::Body(_) => End::WithinBody,
        State::Deciding | State::Tunnel => End::Upgrade,
        State::Refused | State::Broken => End::Over,
    };
    let broken = said.body_rule();
    let refused = (0..=bytes.len()).find_map(|_| said.next_request());
    Outcome { passed, refused, broken, end }
}

/// Everything that a client sends on a connection.
///
/// # Panics
/// Where something passes that did not come, where it depends on the pieces that it comes in, or where another parser finds
/// other messages in it.
pub fn strict(bytes: &[u8]) {
    let whole = outcome(bytes, usize::MAX);
    let came = match whole.refused {
        Some(_) => whole.passed.strip_suffix(STAND_IN).expect("a refused head has something in its place"),
        None => &whole.passed,
    };
    assert!(bytes.starts_with(came), "something passes that did not come");
    for size in [1, 7] {
        let pieces = outcome(bytes, size);
        assert_eq!((pieces.refused, pieces.broken), (whole.refused, whole.broken), "in pieces of {size}");
        assert_eq!(pieces.end, whole.end, "in pieces of {size}");
        // How much of a chunk passes before it turns out to be none depends on when it comes.
        assert!(pieces.passed == whole.passed || whole.broken.is_some(), "in pieces of {size}");
    }
    let seen = read_by_another(came);
    match (whole.end, whole.broken) {
        (End::BetweenMessages | End::WithinHead, _) => assert_eq!(seen, Seen::Between),
        (End::WithinBody, _) | (End::Over, Some(_)) => assert_eq!(seen, Seen::Within),
        (End::Upgrade, _) => assert_eq!(seen, Seen::Between, "a request for an upgrade has no body"),
        (End::Over, None) => assert_eq!(seen, Seen::Between, "a refused head comes after whole messages"),
    }
}

/// Where another reader is at the end of bytes.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Between,
    Within,
}

/// The same bytes, message by message, with a parser that others wrote and the shortest reading of RFC 9112, 6.
fn read_by_another(mut rest: &[u8]) -> Seen {
    while !rest.is_empty() {
        let mut fields = [httparse::EMPTY_HEADER; 50];
        let mut head = httparse::Request::new(&mut fields);
        let parsed = head.parse(rest).expect("another parser understands what passes");
        assert!(parsed.is_complete(), "a part of a head has passed");
        let named = |wanted: &str| {
            let of_name = head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(wanted));
            of_name.map(|field| field.value).collect::<Vec<_>>()
        };
        let (lengths, codings) = (named("content-length"), named("transfer-encoding"));
        assert!(lengths.len() + codings.len() <= 1, "two fields say where the message ends");
        assert!(named("host").len() <= 1, "two hosts");
        let length = lengths.first().map(|value| {
            let digits = std::str::from_utf8(value).expect("a length is digits");
            digits.parse::<usize>().expect("a length is a number")
        });
        rest = &rest[parsed.unwrap()..];
        let ended = match (length, codings.first()) {
            (Some(length), _) => rest.get(length..),
            (None, Some(_)) => after_chunks(rest),
            (None, None) => Some(rest),
        };
        match ended {
            Some(next) => rest = next,
            None => return Seen::Within,
        }
    }
    Seen::Between
}

/// What follows a chunked body; none where it is not there whole.
fn after_chunks(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let size = httparse::parse_chunk_size(rest).expect("another parser understands what passes");
        let httparse::Status::Complete((line, size)) = size else { return None };
        rest = &rest[line..];
        if size == 0 {
            break;
        }
        let end = usize::try_from(size).ok()?.checked_add(2)?;
        assert_eq!(rest.get(end - 2..end)?, b"\r\n", "a chunk ends with its line");
        rest = &rest[end..];
    }
    let mut trailers = [httparse::EMPTY_HEADER; 50];
    match httparse::parse_headers(rest, &mut trailers).expect("another parser understands what passes") {
        httparse::Status::Complete((length, _)) => Some(&rest[length..]),
        httparse::Status::Partial => None,
    }
}
