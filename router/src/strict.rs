//! Refuses what two readers of one message could understand differently, before anything trusts it.
//!
//! hyper has parsed the message by now: what it settles by itself (a length beside chunks, bare line feeds) is not to
//! be seen here any more. What is left to see is refused.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Version};

use crate::identify::authority_of;
use crate::refusal::{Code, Refusal};
use cell_gate::wire;

/// Names that somebody trusts: here, at the gate, or in the application.
const TRUSTED: [&str; 9] = [
    "x-tenant-id",
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-proto",
    "idempotency-key",
    "host",
    "content-length",
    "transfer-encoding",
    "authorization",
];

/// Whether the message can be understood in one way only.
pub(crate) fn check(parts: &Parts) -> Result<(), Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::new(Code::MethodUnsupported, "CONNECT is not forwarded"));
    }
    check_host(parts)?;
    check_framing(parts)?;
    check_aliases(parts)?;
    check_connection(parts)
}

fn ambiguous(detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::MessageAmbiguous, detail)
}

fn check_host(parts: &Parts) -> Result<(), Refusal> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(ambiguous("the header Host is there more than once"));
    }
    let authority = authority_of(&parts.uri);
    if host.is_none() && authority.is_none() && parts.version >= Version::HTTP_11 {
        return Err(ambiguous("the request has no Host"));
    }
    if let (Some(host), Some(authority)) = (host, authority)
        && !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes())
    {
        return Err(ambiguous("the target and the header Host name different authorities"));
    }
    let said = authority.map(str::as_bytes).or_else(|| host.map(http::HeaderValue::as_bytes));
    if said.is_some_and(|said| said.contains(&b'@') || !said.iter().all(u8::is_ascii_graphic)) {
        return Err(ambiguous("the Host is not a host name with an optional port"));
    }
    Ok(())
}

fn check_framing(parts: &Parts) -> Result<(), Refusal> {
    let encoded = parts.headers.contains_key(TRANSFER_ENCODING);
    if encoded && parts.headers.contains_key(CONTENT_LENGTH) {
        return Err(ambiguous("both Content-Length and Transfer-Encoding say how long the body is"));
    }
    if encoded && parts.version != Version::HTTP_11 {
        return Err(ambiguous("Transfer-Encoding belongs to HTTP/1.1 only"));
    }
    let only_chunked = |value: &http::HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if parts.headers.get_all(TRANSFER_ENCODING).iter().count() > 1
        || parts.headers.get(TRANSFER_ENCODING).is_some_and(|value| !only_chunked(value))
    {
        return Err(ambiguous("a Transfer-Encoding other than one `chunked`"));
    }
    let mut lengths = parts.headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(ambiguous("the header Content-Length is there more than once"));
    }
    if length.is_some_and(|length| length.is_empty() || !length.as_bytes().iter().all(u8::is_ascii_digit)) {
        return Err(ambiguous("Content-Length is not a number"));
    }
    Ok(())
}

/// Many applications read `X_Tenant_ID` as `X-Tenant-ID`: a name with an underscore that looks like a trusted one.
fn check_aliases(parts: &Parts) -> Result<(), Refusal> {
    for name in parts.headers.keys() {
        if name.as_str().contains('_') {
            let alias = name.as_str().replace('_', "-");
            if is_trusted(&alias) {
                return Err(ambiguous(format!("the header {name} can be mistaken for {alias}")));
            }
        }
    }
    Ok(())
}

/// `Connection: X-Tenant-ID` asks the next hop to forget the header.
fn check_connection(parts: &Parts) -> Result<(), Refusal> {
    for value in parts.headers.get_all(CONNECTION) {
        let text = value.to_str().map_err(|_| ambiguous("the header Connection is not visible ASCII"))?;
        for option in text.split(',').map(|option| option.trim().to_ascii_lowercase()) {
            if is_trusted(&option) || is_trusted(&option.replace('_', "-")) {
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

    fn verdict(version: Version, uri: &str, headers: &[(&str, &str)]) -> Result<(), Code> {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&parts).map_err(|refusal| refusal.code)
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
    fn a_tunnel_is_not_forwarded() {
        let (parts, ()) = Request::connect("a:443").header("host", "a:443").body(()).unwrap().into_parts();
        assert_eq!(check(&parts).unwrap_err().code, Code::MethodUnsupported);
    }
}
