//! Refuses what two readers of one message could understand differently, before anything trusts it.
//!
//! * On HTTP/1 a connection is read through a [`StrictStream`], which checks lines, framing and chunks as bytes before
//!   hyper sees them: hyper, like other servers, settles by itself a length beside chunks, bare line feeds, two hosts.
//! * What can be seen of a parsed head is checked by [`check`], for both versions: hosts that disagree, names that are
//!   mistaken for trusted ones, fields that name each other away.

mod chunks;
mod fields;
mod head;
mod rule;
mod said;
mod stream;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use crate::identify::authority_of;
use crate::refusal::{Code, Refusal};
use cell_gate::wire;

pub(crate) use fields::{Field, Fields};
pub(crate) use head::HeadLimits;
pub(crate) use rule::Rule;
pub(crate) use said::{Next, Said};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use stream::fuzzing;
pub(crate) use stream::{StrictLimits, StrictStream};

/// Names that somebody trusts: here, at the gate, or in the application.
const TRUSTED: [&str; 14] = [
    "x-tenant-id",
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "forwarded",
    "idempotency-key",
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "authorization",
    "upgrade",
    "expect",
];
/// Fields that say something else where they stand twice.
static SINGLE: [(Field, HeaderName); 5] = [
    (Field::Authorization, http::header::AUTHORIZATION),
    (Field::ContentType, http::header::CONTENT_TYPE),
    (Field::IdempotencyKey, HeaderName::from_static("idempotency-key")),
    (Field::RequestId, HeaderName::from_static("x-request-id")),
    (Field::Expect, EXPECT),
];

/// Whether the message can be understood in one way only.
pub(crate) fn check(parts: &Parts, fields: Fields, limits: HeadLimits) -> Result<(), Refusal> {
    // TRACE would give back what others have added on the way.
    if (parts.method == Method::CONNECT && parts.extensions.get::<hyper::ext::Protocol>().is_none())
        || parts.method == Method::TRACE
    {
        return Err(Refusal::new(Code::MethodUnsupported, format!("{} is not forwarded", parts.method)));
    }
    // Over HTTP/1 they were counted, and the target was looked at, as bytes.
    if parts.version == Version::HTTP_2 {
        if parts.headers.len() > limits.headers_max {
            return Err(Rule::TooManyHeaders.refusal());
        }
        if list_bytes(parts) > limits.bytes_max {
            return Err(Rule::HeadTooLarge.refusal());
        }
        check_target(parts)?;
    }
    // Over HTTP/2, or behind an authority, the reader of bytes has not seen it as it goes to the cell.
    if parts.uri.path().starts_with("//") {
        return Err(Rule::Target.refusal());
    }
    check_host(parts, fields)?;
    check_framing(parts, fields)?;
    check_fields(parts, fields)?;
    if fields.has(Field::Connection) { check_connection(parts) } else { Ok(()) }
}

/// Whether trailers are as few as they may be, of either version.
pub(crate) fn are_few(trailers: &HeaderMap) -> bool {
    let bytes: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    trailers.len() <= usize::from(chunks::TRAILERS_MAX) && bytes <= chunks::TRAILER_BYTES_MAX
}

/// How long a head is, as HTTP/2 counts it (RFC 9113, 6.5.2): 32 bytes for each field beside its name and value.
fn list_bytes(parts: &Parts) -> usize {
    const EACH: usize = 32;
    let uri = &parts.uri;
    let target = [
        (":method", parts.method.as_str()),
        (":scheme", uri.scheme_str().unwrap_or_default()),
        (":authority", uri.authority().map_or("", |authority| authority.as_str())),
        (":path", uri.path_and_query().map_or("", |target| target.as_str())),
    ];
    let target = target.iter().map(|(name, value)| name.len() + value.len() + EACH);
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + EACH);
    target.chain(fields).sum()
}

fn check_target(parts: &Parts) -> Result<(), Refusal> {
    if parts.uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(Rule::Target.refusal());
    }
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    head::check_target(parts.method.as_str().as_bytes(), target.as_bytes()).map_err(Rule::refusal)
}

fn ambiguous(detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::MessageAmbiguous, detail)
}

fn check_host(parts: &Parts, fields: Fields) -> Result<(), Refusal> {
    if fields.repeats(Field::Host) {
        return Err(Rule::HostRepeated.refusal());
    }
    let host = parts.headers.get(HOST);
    let authority = authority_of(&parts.uri);
    if host.is_none() && authority.is_none() && parts.version >= Version::HTTP_11 {
        return Err(Rule::HostMissing.refusal());
    }
    if let (Some(host), Some(authority)) = (host, authority)
        && !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes())
    {
        return Err(ambiguous("the target and the header Host name different authorities"));
    }
    let said = authority.map(str::as_bytes).or_else(|| host.map(HeaderValue::as_bytes));
    if said.is_some_and(|said| !is_host(said)) {
        return Err(ambiguous("the Host is not a host name or an address with an optional port"));
    }
    Ok(())
}

/// `name[:port]`, `1.2.3.4[:port]` or `[::1][:port]`, and nothing that needs decoding.
fn is_host(said: &[u8]) -> bool {
    let (name, port) = match said.iter().rposition(|byte| *byte == b':') {
        Some(colon) if said.last() != Some(&b']') => (&said[..colon], Some(&said[colon + 1..])),
        _ => (said, None),
    };
    let name_fits = match name {
        [b'[', address @ .., b']'] => {
            !address.is_empty() && address.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte))
        }
        _ => {
            !name.is_empty()
                && !name.windows(2).any(|pair| pair == b"..")
                && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte))
        }
    };
    let port_fits = port.is_none_or(|port| {
        (1..=5).contains(&port.len())
            && port.iter().all(u8::is_ascii_digit)
            && std::str::from_utf8(port).is_ok_and(|port| port.parse::<u16>().is_ok())
    });
    name_fits && port_fits
}

fn check_framing(parts: &Parts, fields: Fields) -> Result<(), Refusal> {
    let (encoded, measured) = (fields.has(Field::TransferEncoding), fields.has(Field::ContentLength));
    if encoded && measured {
        return Err(Rule::LengthAndCoding.refusal());
    }
    if encoded && parts.version != Version::HTTP_11 {
        return Err(Rule::CodingBeforeHttp11.refusal());
    }
    let only_chunked = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if encoded
        && (fields.repeats(Field::TransferEncoding)
            || parts.headers.get(TRANSFER_ENCODING).is_some_and(|value| !only_chunked(value)))
    {
        return Err(Rule::CodingUnknown.refusal());
    }
    if fields.repeats(Field::ContentLength) {
        return Err(Rule::LengthRepeated.refusal());
    }
    let is_number = |length: &HeaderValue| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    if measured && !parts.headers.get(CONTENT_LENGTH).is_some_and(is_number) {
        return Err(Rule::LengthNumber.refusal());
    }
    Ok(())
}

/// Many applications read `X_Tenant_ID` as `X-Tenant-ID`: a name that looks like a trusted one is refused.
fn check_fields(parts: &Parts, fields: Fields) -> Result<(), Refusal> {
    if fields.has(Field::Unusual) {
        for name in parts.headers.keys().map(HeaderName::as_str) {
            let alias = alias_of(name);
            if alias != name && is_trusted(&alias) {
                return Err(ambiguous(format!("the header {name} can be mistaken for {alias}")));
            }
        }
    }
    if let Some((_, name)) = SINGLE.iter().find(|(field, _)| fields.repeats(*field)) {
        return Err(ambiguous(format!("the header {name} is there more than once")));
    }
    if fields.has(Field::Expect)
        && parts.headers.get(EXPECT).is_some_and(|expect| !expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        return Err(ambiguous("the header Expect says something else than 100-continue"));
    }
    // Fields with which an application runs another method than the one that decides whether a request is a write.
    if !wire::is_write(&parts.method)
        && fields.has(Field::MethodOverride)
        && let Some(name) = parts.headers.keys().find(|name| Field::named(name) == Some(Field::MethodOverride))
    {
        return Err(ambiguous(format!("the header {name} would turn a {} into something else", parts.method)));
    }
    Ok(())
}

/// The name as applications read it that know letters, digits and one kind of separator.
fn alias_of(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// `Connection: X-Tenant-ID` asks the next hop to forget the header.
fn check_connection(parts: &Parts) -> Result<(), Refusal> {
    for value in parts.headers.get_all(CONNECTION) {
        let text = value.to_str().map_err(|_| ambiguous("the header Connection is not visible ASCII"))?;
        for option in text.split(',').map(|option| option.trim().to_ascii_lowercase()) {
            // Leaving the connection's own fields to the connection is what the header is for.
            if option != "upgrade" && is_trusted(&alias_of(&option)) {
                return Err(ambiguous(format!("the header Connection names {option}")));
            }
        }
    }
    Ok(())
}

fn is_trusted(name: &str) -> bool {
    TRUSTED.contains(&name) || name.starts_with(wire::RESERVED_PREFIX)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes_max: 8_192, headers_max: 100 };

    fn verdict(version: Version, uri: &str, headers: &[(&str, &str)]) -> Result<(), Code> {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&parts, Fields::of(&parts.headers), LIMITS).map_err(|refusal| refusal.code)
    }

    #[test]
    fn plain_messages_pass() {
        let v11 = Version::HTTP_11;
        assert_eq!(verdict(v11, "/", &[("host", "a.example.com")]), Ok(()));
        assert_eq!(verdict(v11, "http://a.example.com/", &[("host", "A.example.com")]), Ok(()));
        assert_eq!(verdict(v11, "/", &[("host", "a"), ("content-length", "3")]), Ok(()));
        assert_eq!(verdict(v11, "/", &[("host", "a"), ("transfer-encoding", "Chunked")]), Ok(()));
        assert_eq!(verdict(v11, "/", &[("host", "a"), ("connection", "keep-alive, x-own")]), Ok(()));
        assert_eq!(verdict(v11, "/", &[("host", "a"), ("my_own", "1")]), Ok(()));
        assert_eq!(verdict(Version::HTTP_2, "https://a.example.com/", &[]), Ok(()));
        assert_eq!(verdict(Version::HTTP_10, "/", &[]), Ok(()));
    }

    #[test]
    fn what_can_be_understood_in_two_ways_is_refused() {
        let (v10, v11) = (Version::HTTP_10, Version::HTTP_11);
        type Headers = &'static [(&'static str, &'static str)];
        let ambiguous: &[(Version, &str, Headers)] = &[
            (v11, "/", &[]),
            (v11, "/", &[("host", "a"), ("host", "a")]),
            (v11, "http://a/", &[("host", "b")]),
            (Version::HTTP_2, "https://a/", &[("host", "b")]),
            (v11, "/", &[("host", "user@a")]),
            (v11, "http://a//b", &[("host", "a")]),
            (Version::HTTP_2, "https://a//b", &[]),
            (v11, "/", &[("host", "a b")]),
            (v11, "/", &[("host", "a"), ("content-length", "3"), ("transfer-encoding", "chunked")]),
            (v11, "/", &[("host", "a"), ("content-length", "3"), ("content-length", "3")]),
            (v11, "/", &[("host", "a"), ("content-length", "+3")]),
            (v11, "/", &[("host", "a"), ("content-length", "3, 3")]),
            (v11, "/", &[("host", "a"), ("transfer-encoding", "gzip, chunked")]),
            (v11, "/", &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
            (v10, "/", &[("transfer-encoding", "chunked")]),
            (v11, "/", &[("host", "a"), ("x_tenant_id", "t")]),
            (v11, "/", &[("host", "a"), ("X-Tenant_ID", "t")]),
            (v11, "/", &[("host", "a"), ("cell_tenant", "t")]),
            (v11, "/", &[("host", "a"), ("idempotency_key", "k")]),
            (v11, "/", &[("host", "a"), ("connection", "close, X-Tenant-ID")]),
            (v11, "/", &[("host", "a"), ("connection", "cell-epoch")]),
            (v11, "/", &[("host", "a"), ("connection", "content-length")]),
            (v11, "/", &[("host", "a"), ("connection", "X_Tenant_ID")]),
        ];
        for (version, uri, headers) in ambiguous {
            assert_eq!(
                verdict(*version, uri, headers),
                Err(Code::MessageAmbiguous),
                "{version:?} {uri} {headers:?}"
            );
        }
    }

    #[test]
    fn over_http_2_a_target_is_held_to_the_rules_of_http_1_and_fields_are_counted() {
        let v2 = Version::HTTP_2;
        for target in ["/a", "/a?b=c/d?e", "/a|b^{c}~", "/%5c%23"] {
            assert_eq!(verdict(v2, &format!("https://a{target}"), &[]), Ok(()), "{target}");
        }
        // A fragment is gone before anybody here sees it.
        for target in ["/a\\b", "/h\u{e9}", "/a\"b", "/a?b`c"] {
            assert_eq!(verdict(v2, &format!("https://a{target}"), &[]), Err(Code::MessageAmbiguous), "{target}");
        }
        assert_eq!(verdict(v2, "ftp://a/", &[]), Err(Code::MessageAmbiguous));
        assert_eq!(verdict(v2, "https://a/", &[("x", "1"); 100]), Ok(()));
        assert_eq!(verdict(v2, "https://a/", &[("x", "1"); 101]), Err(Code::HeaderTooLarge));
        // 42 + 44 + 43 + 38 for method, scheme, authority and path, and 33 beside the value.
        let value = |bytes: usize| "y".repeat(bytes);
        assert_eq!(verdict(v2, "https://a/", &[("x", value(8_192 - 200).as_str())]), Ok(()));
        assert_eq!(verdict(v2, "https://a/", &[("x", value(8_192 - 199).as_str())]), Err(Code::HeaderTooLarge));
        assert_eq!(
            verdict(Version::HTTP_11, "/", &[("host", "a"), ("x", value(9_000).as_str())]),
            Ok(()),
            "read before"
        );
    }

    #[test]
    fn a_tunnel_is_not_forwarded() {
        let (parts, ()) = Request::connect("a:443").header("host", "a:443").body(()).unwrap().into_parts();
        assert_eq!(check(&parts, Fields::of(&parts.headers), LIMITS).unwrap_err().code, Code::MethodUnsupported);
    }
}
