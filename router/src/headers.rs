//! What of a message's head belongs to one connection, and what to the other side (RFC 9110, 7.6).

use cell_gate::wire;
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE, VIA};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version};

use crate::conn::{Conn, Say};
use crate::strict::{Field, Fields};

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
static REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
static FORWARDED: HeaderName = HeaderName::from_static("forwarded");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// A request's name, from the client and back to it.
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const REQUEST_ID_LENGTH_MAX: usize = 128;

/// Takes out what belongs to the connection that the message came on, and what only Cellway may say.
fn strip(headers: &mut HeaderMap, fields: Fields) {
    if fields.has(Field::Connection) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(','))
            .filter_map(|option| option.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for (field, name) in [
        (Field::KeepAlive, &KEEP_ALIVE),
        (Field::ProxyConnection, &PROXY_CONNECTION),
        (Field::TransferEncoding, &TRANSFER_ENCODING),
        (Field::Upgrade, &UPGRADE),
        (Field::Http2Settings, &HTTP2_SETTINGS),
    ] {
        if fields.has(field) {
            headers.remove(name);
        }
    }
    if fields.has(Field::Reserved) {
        wire::strip_reserved(headers);
    }
}

/// Turns a client's head into the one that goes to a gate, but for what is [`added`].
///
/// The target becomes origin-form, and nothing that Cellway or its gates trust is taken from outside.
pub(crate) fn to_gate(parts: &mut Parts, fields: Fields) {
    let headers = &mut parts.headers;
    let takes_trailers = parts.version == Version::HTTP_2
        || (fields.has(Field::Te)
            && headers.get(TE).and_then(|te| te.to_str().ok()).is_some_and(|te| te.contains("trailers")));
    strip(headers, fields);
    for (field, name) in [
        (Field::Te, &TE),
        (Field::Expect, &EXPECT),
        (Field::ForwardedFor, &FORWARDED_FOR),
        (Field::ForwardedHost, &FORWARDED_HOST),
        (Field::ForwardedPort, &FORWARDED_PORT),
        (Field::ForwardedPrefix, &FORWARDED_PREFIX),
        (Field::ForwardedProto, &FORWARDED_PROTO),
        (Field::Forwarded, &FORWARDED),
        (Field::RealIp, &REAL_IP),
        (Field::RequestId, &REQUEST_ID),
    ] {
        if fields.has(field) {
            headers.remove(name);
        }
    }
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(HOST, host);
    }
    if fields.repeats(Field::Cookie) {
        join_cookies(headers);
    }
    let target = parts.uri.path_and_query().cloned();
    parts.uri = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    parts.version = Version::HTTP_11;
}

/// Says what a gate is told of a request beside what its client has said ([`to_gate`]): fields that the head has not, but for
/// `Via`, which becomes its last.
pub(crate) fn added(conn: &Conn, request_id: &HeaderValue, say: &mut Say<'_>) {
    static HTTP: HeaderValue = HeaderValue::from_static("http");
    static HTTPS: HeaderValue = HeaderValue::from_static("https");
    static OURS: HeaderValue = HeaderValue::from_static("1.1 cellway");
    say(&FORWARDED_FOR, conn.shown_peer());
    say(&FORWARDED_PROTO, if conn.secure { &HTTPS } else { &HTTP });
    say(&VIA, &OURS);
    say(&REQUEST_ID, request_id);
    say(&wire::REQUEST_ID, request_id);
}

/// HTTP/2 may split one `Cookie` into several; before it becomes HTTP/1.1 it must be one again (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(COOKIE, joined);
        }
    }
}

/// Turns a gate's head into the one that goes to the client.
pub(crate) fn to_client(status: StatusCode, headers: &mut HeaderMap, request_id: &HeaderValue) {
    let fields = Fields::of(headers);
    if fields.has(Field::TransferEncoding) {
        // The other was gone by (RFC 9112, 6.3): as it stands it would cut the body off.
        headers.remove(CONTENT_LENGTH);
    }
    if status != StatusCode::SWITCHING_PROTOCOLS {
        strip(headers, fields);
    } else if fields.has(Field::Reserved) {
        wire::strip_reserved(headers);
    }
    headers.insert(&REQUEST_ID, request_id.clone());
}

/// Turns the head of a cell's interim answer into the one that goes to the client.
pub(crate) fn of_interim(headers: &mut HeaderMap) {
    strip(headers, Fields::of(headers));
    headers.remove(CONTENT_LENGTH);
}

/// The client's name for the request, where it has given one that can stand in logs.
pub(crate) fn request_id_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(&REQUEST_ID)?;
    let bytes = value.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:/+=".contains(byte);
    ((1..=REQUEST_ID_LENGTH_MAX).contains(&bytes.len()) && bytes.iter().all(plain)).then(|| value.clone())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::conn::Came;
    use crate::identify::Proven;

    fn forwarded(request: http::request::Builder) -> Parts {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let came = Came { peer: std::net::IpAddr::from([10, 0, 0, 9]), secure: true, place: None };
        let fields = Fields::of(&parts.headers);
        to_gate(&mut parts, fields);
        let (conn, headers) = (Conn::new(came, Proven::Nobody, None), &mut parts.headers);
        added(&conn, &HeaderValue::from_static("r-1"), &mut |name, value| {
            headers.append(name, value.clone());
        });
        parts
    }

    #[test]
    fn what_belongs_to_the_connection_stays_behind() {
        let request = Request::get("http://t.example.com/a?b=c")
            .header("connection", "close, x-own")
            .header("x-own", "1")
            .header("keep-alive", "5")
            .header("te", "gzip, trailers")
            .header("upgrade", "websocket")
            .header("expect", "100-continue")
            .header("accept", "*/*");
        let parts = forwarded(request);
        for gone in ["connection", "x-own", "keep-alive", "upgrade", "expect"] {
            assert!(!parts.headers.contains_key(gone), "{gone}");
        }
        assert_eq!(parts.headers["te"], "trailers");
        assert_eq!(parts.headers["accept"], "*/*");
        assert_eq!(parts.headers["host"], "t.example.com");
        assert_eq!(parts.uri, "/a?b=c");
    }

    #[test]
    fn nothing_that_cells_trust_is_taken_from_outside() {
        let request = Request::get("/")
            .header("host", "t")
            .header("cell-tenant", "other")
            .header("Cell-Epoch", "99")
            .header("x-forwarded-for", "1.2.3.4")
            .header("x-forwarded-host", "other")
            .header("x-forwarded-proto", "http")
            .header("forwarded", "for=1.2.3.4");
        let parts = forwarded(request);
        assert!(!parts.headers.contains_key("cell-tenant") && !parts.headers.contains_key("cell-epoch"));
        assert_eq!(parts.headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["10.0.0.9"]);
        assert_eq!(parts.headers["cell-request-id"], "r-1");
        assert_eq!(parts.headers.get_all("x-forwarded-proto").iter().collect::<Vec<_>>(), ["https"]);
        assert!(!parts.headers.contains_key("forwarded") && !parts.headers.contains_key("x-forwarded-host"));
    }

    #[test]
    fn a_cookie_that_came_in_crumbs_is_one_again() {
        let parts = forwarded(Request::get("/").header("cookie", "a=1").header("cookie", "b=2; c=3"));
        assert_eq!(parts.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn a_request_id_is_taken_only_where_it_can_stand_in_a_log() {
        let given = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(&REQUEST_ID, HeaderValue::from_static(value));
            request_id_of(&headers).is_some()
        };
        assert!(given("0b5e-77/a:1"));
        assert!(!given("") && !given("a b") && !given("{}"));
        assert!(request_id_of(&HeaderMap::new()).is_none());
    }
}
