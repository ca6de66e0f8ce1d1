//! HTTP/2 towards clients, case by case from RFC 9113 and RFC 7541: what has to be understood is answered, what must not be
//! is refused as the section says, and none of that reaches an application. Where a frame has the wrong length or a head
//! cannot be decompressed, the library ends the connection with PROTOCOL_ERROR in place of the code of its own that the RFC
//! has for that; either is taken.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::control::FakeControl;
use crate::fleet::Fleet;
use crate::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, field, frame, head,
};
use crate::gate::FakeGate;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

const LONG: Duration = Duration::from_secs(20);

/// What has to come of it.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// The connection ends with one of these.
    Connection(&'static [u32]),
    /// The stream, or with it the connection, ends with one of these, or the request is refused as a bad one.
    Stream(&'static [u32]),
    /// The request on stream 1 is answered with 200.
    Answer,
}

struct Case {
    section: &'static str,
    name: &'static str,
    bytes: Vec<u8>,
    wanted: Wanted,
}

fn case(section: &'static str, name: &'static str, wanted: Wanted, frames: &[Vec<u8>]) -> Case {
    Case { section, name, bytes: frames.concat(), wanted }
}

/// A request whose head has these fields, whole.
fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
}

fn get() -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("/"))
}

/// The usual four, and more behind them.
fn with(more: &[(&str, &str)]) -> Vec<u8> {
    let usual = [(":method", "GET"), (":scheme", "http"), (":authority", "t-1.example.com"), (":path", "/")];
    request(&[&usual, more].concat())
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// Frames and their order.
#[expect(clippy::too_many_lines, reason = "a list: one entry for each case")]
fn framing() -> Vec<Case> {
    use Wanted::{Answer, Connection};
    const PROTOCOL: Wanted = Connection(&[PROTOCOL_ERROR]);
    const SIZE: Wanted = Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]);
    let open = frame(HEADERS, END_STREAM, 1, &head("/"));
    let half = &head("/")[..20];
    let rest = &head("/")[20..];
    vec![
        case("4.1", "a frame of an unknown type is passed over", Answer, &[frame(0xee, 0xff, 0, &[0; 8]), get()]),
        case("4.2", "a frame larger than allowed", SIZE, &[frame(DATA, 0, 1, &[0; 16_385])]),
        case(
            "4.3",
            "a head in three frames",
            Answer,
            &[
                frame(HEADERS, END_STREAM, 1, half),
                frame(CONTINUATION, 0, 1, rest),
                frame(CONTINUATION, END_HEADERS, 1, &[]),
            ],
        ),
        case("4.3", "a frame within a head", PROTOCOL, &[open.clone(), frame(PING, 0, 0, &[0; 8])]),
        case(
            "4.3",
            "another stream within a head",
            PROTOCOL,
            &[open.clone(), frame(CONTINUATION, END_HEADERS, 3, &[])],
        ),
        case("4.3", "an unknown frame within a head", PROTOCOL, &[open, frame(0xee, 0, 1, &[])]),
        case("5.1", "data before a head", PROTOCOL, &[frame(DATA, END_STREAM, 1, b"x")]),
        case("5.1", "a reset before a head", PROTOCOL, &[frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])]),
        case("5.1", "a window before a head", PROTOCOL, &[frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])]),
        case("5.1.1", "an even stream", PROTOCOL, &[frame(HEADERS, END_HEADERS | END_STREAM, 2, &head("/"))]),
        case(
            "5.1.1",
            "streams in the wrong order",
            Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
            &[
                frame(HEADERS, END_HEADERS | END_STREAM, 5, &head("/order")),
                frame(HEADERS, END_HEADERS | END_STREAM, 3, &head("/order")),
            ],
        ),
        case("6.1", "data of no stream", PROTOCOL, &[frame(DATA, 0, 0, b"x")]),
        case(
            "6.1",
            "more padding than data",
            PROTOCOL,
            &[frame(HEADERS, END_HEADERS, 1, &head("/padding")), frame(DATA, PADDED, 1, &[9, b'x'])],
        ),
        case("6.2", "a head of no stream", PROTOCOL, &[frame(HEADERS, END_HEADERS, 0, &head("/"))]),
        case(
            "6.2",
            "a padded head",
            Answer,
            &[frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[&[3][..], &head("/"), &[0; 3]].concat())],
        ),
        case("6.2", "more padding than head", PROTOCOL, &[frame(HEADERS, END_HEADERS | PADDED, 1, &[200, 0x82])]),
        case(
            "6.3",
            "a priority of a stream that is not there",
            Answer,
            &[frame(PRIORITY, 0, 9, &[0, 0, 0, 7, 1]), get()],
        ),
        case("6.4", "a reset of no stream", PROTOCOL, &[frame(RST_STREAM, 0, 0, &[0, 0, 0, 8])]),
        case(
            "6.4",
            "a reset of three bytes",
            SIZE,
            &[frame(HEADERS, END_HEADERS, 1, &head("/reset")), frame(RST_STREAM, 0, 1, &[0; 3])],
        ),
        case("6.6", "a push from a client", PROTOCOL, &[frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])]),
        case("6.7", "a ping of a stream", PROTOCOL, &[frame(PING, 0, 1, &[0; 8])]),
        case("6.7", "a ping of six bytes", SIZE, &[frame(PING, 0, 0, &[0; 6])]),
        case("6.8", "a goodbye of a stream", PROTOCOL, &[frame(GOAWAY, 0, 1, &[0; 8])]),
        case("6.9", "a window of three bytes", SIZE, &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])]),
        case("6.9", "a window of nothing", PROTOCOL, &[frame(WINDOW_UPDATE, 0, 0, &[0; 4])]),
        case(
            "6.9.1",
            "a window of more than there is",
            Connection(&[FLOW_CONTROL_ERROR]),
            &[
                frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
                frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            ],
        ),
        case("6.10", "a continuation of nothing", PROTOCOL, &[frame(CONTINUATION, END_HEADERS, 1, &head("/"))]),
    ]
}

/// Settings and the compression of heads.
fn settings() -> Vec<Case> {
    use Wanted::{Answer, Connection};
    const PROTOCOL: Wanted = Connection(&[PROTOCOL_ERROR]);
    const SIZE: Wanted = Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]);
    const COMPRESSION: Wanted = Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]);
    let head_of = |block: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 1, block);
    vec![
        case("6.5", "settings of a stream", PROTOCOL, &[frame(SETTINGS, 0, 1, &[])]),
        case("6.5", "settings of three bytes", SIZE, &[frame(SETTINGS, 0, 0, &[0; 3])]),
        case("6.5", "an acknowledgement with something in it", SIZE, &[frame(SETTINGS, ACK, 0, &[0; 6])]),
        case("6.5.2", "push that is neither on nor off", PROTOCOL, &[setting(2, 2)]),
        case(
            "6.5.2",
            "a window that is too large",
            Connection(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
            &[setting(4, 1 << 31)],
        ),
        case("6.5.2", "frames that are too small", PROTOCOL, &[setting(5, 16_383)]),
        case("6.5.2", "frames that are too large", PROTOCOL, &[setting(5, 1 << 24)]),
        case("6.5.2", "a setting that nobody knows", Answer, &[setting(0xabc, 7), get()]),
        case("6.5.2", "no table for heads", Answer, &[setting(1, 0), get()]),
        case("7541 2.3.3", "an index of nothing", COMPRESSION, &[head_of(&[0x80])]),
        case("7541 2.3.3", "an index behind the table", COMPRESSION, &[head_of(&[0xff, 0x80, 0x01])]),
        case("7541 4.2", "a table that is too large", COMPRESSION, &[head_of(&[0x3f, 0xe1, 0xff, 0x03, 0x82])]),
        case(
            "7541 5.1",
            "a number without end",
            COMPRESSION,
            &[head_of(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])],
        ),
        case("7541 5.2", "a name that is cut off", COMPRESSION, &[head_of(&[0x00, 0x20, b'x'])]),
        case("7541 5.2", "padding of seven ones and more", COMPRESSION, &[head_of(&[0x04, 0x82, 0xff, 0xff])]),
    ]
}

/// What a request may be.
#[expect(clippy::too_many_lines, reason = "a list: one entry for each case")]
fn messages() -> Vec<Case> {
    use Wanted::{Answer, Stream};
    const BAD: Wanted = Stream(&[PROTOCOL_ERROR]);
    let open = |fields: &[(&str, &str)]| {
        let usual = [(":method", "POST"), (":scheme", "http"), (":authority", "t-1.example.com"), (":path", "/")];
        let block: Vec<u8> = usual.iter().chain(fields).flat_map(|(name, value)| field(name, value)).collect();
        frame(HEADERS, END_HEADERS, 1, &block)
    };
    let (method, scheme, authority, path) =
        ((":method", "GET"), (":scheme", "http"), (":authority", "t-1.example.com"), (":path", "/"));
    vec![
        case(
            "8.1",
            "a body and trailers",
            Answer,
            &[
                open(&[]),
                frame(DATA, 0, 1, b"body"),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &field("x-after", "1")),
            ],
        ),
        case(
            "8.1",
            "data after the end",
            Stream(&[STREAM_CLOSED, PROTOCOL_ERROR]),
            &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("/slow")), frame(DATA, END_STREAM, 1, b"x")],
        ),
        case(
            "8.1",
            "another head after the end",
            Stream(&[STREAM_CLOSED, PROTOCOL_ERROR]),
            &[
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("/slow")),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("/slow")),
            ],
        ),
        case(
            "8.1",
            "trailers that are not the end",
            BAD,
            &[open(&[]), frame(HEADERS, END_HEADERS, 1, &field("x-after", "1"))],
        ),
        case("8.2.1", "a name in capitals", BAD, &[with(&[("X-Own", "1")])]),
        case("8.2.1", "a name with a blank", BAD, &[with(&[("x own", "1")])]),
        case("8.2.1", "a value with a line feed", BAD, &[with(&[("x-own", "1\n2")])]),
        case("8.2.1", "a value with a null", BAD, &[with(&[("x-own", "1\0")])]),
        case("8.2.2", "connection", BAD, &[with(&[("connection", "keep-alive")])]),
        case("8.2.2", "transfer-encoding", BAD, &[with(&[("transfer-encoding", "chunked")])]),
        case("8.2.2", "keep-alive", BAD, &[with(&[("keep-alive", "5")])]),
        case("8.2.2", "proxy-connection", BAD, &[with(&[("proxy-connection", "close")])]),
        case("8.2.2", "upgrade", BAD, &[with(&[("upgrade", "h2c")])]),
        case("8.2.2", "te of something else", BAD, &[with(&[("te", "gzip")])]),
        case("8.2.2", "te of trailers", Answer, &[with(&[("te", "trailers")])]),
        case("8.3", "a pseudo field that nobody knows", BAD, &[with(&[(":own", "1")])]),
        case("8.3", "a pseudo field of answers", BAD, &[with(&[(":status", "200")])]),
        case(
            "8.3",
            "a pseudo field behind others",
            BAD,
            &[request(&[method, scheme, authority, ("x", "1"), path])],
        ),
        case(
            "8.3",
            // The library drops it where it should refuse the request: nobody sees it.
            "a pseudo field in trailers",
            Answer,
            &[open(&[]), frame(HEADERS, END_HEADERS | END_STREAM, 1, &field(":path", "/x"))],
        ),
        case("8.3.1", "two paths", BAD, &[request(&[method, scheme, authority, path, path])]),
        case("8.3.1", "no method", BAD, &[request(&[scheme, authority, path])]),
        case("8.3.1", "two methods", BAD, &[request(&[method, method, scheme, authority, path])]),
        case("8.3.1", "no scheme", BAD, &[request(&[method, authority, path])]),
        case("8.3.1", "no path", BAD, &[request(&[method, scheme, authority])]),
        case("8.3.1", "an empty path", BAD, &[request(&[method, scheme, authority, (":path", "")])]),
        case("8.3.1", "a host that is another", BAD, &[with(&[("host", "t-2.example.com")])]),
        case(
            "8.1.1",
            "more than its length",
            BAD,
            &[open(&[("content-length", "1")]), frame(DATA, END_STREAM, 1, b"four")],
        ),
        case(
            "8.1.1",
            "less than its length",
            BAD,
            &[open(&[("content-length", "9")]), frame(DATA, END_STREAM, 1, b"four")],
        ),
        case("8.1.1", "two lengths", BAD, &[with(&[("content-length", "0"), ("content-length", "0")])]),
        case(
            "6.9.1",
            "a window of nothing on a stream",
            BAD,
            &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("/slow")), frame(WINDOW_UPDATE, 0, 1, &[0; 4])],
        ),
        case(
            "6.9.1",
            "a stream's window of more than there is",
            Stream(&[FLOW_CONTROL_ERROR]),
            &[
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("/slow")),
                frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]),
            ],
        ),
    ]
}

/// What came: frames, or none where the connection has ended.
async fn next_frame(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap();
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff, payload))
}

fn code(payload: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(payload[at..at + 4].try_into().unwrap())
}

/// The status that begins a block of the router's: the static table has five of them (RFC 7541, A).
fn status(block: &[u8]) -> String {
    let indexed = ["200", "204", "206", "304", "400", "404", "500"];
    let first = block.iter().position(|byte| byte >> 5 != 1).unwrap();
    match block[first] {
        byte @ 0x88..=0x8e => indexed[usize::from(byte - 0x88)].to_owned(),
        _ => format!("{:x?}", &block[first..block.len().min(first + 8)]),
    }
}

/// What came of one case, in words; empty where it is what was wanted.
async fn wrong(fleet: &Fleet, case: &Case) -> String {
    let mut stream = TcpStream::connect(fleet.address()).await.unwrap();
    // One that has been refused already takes no more: what it says is what counts.
    let _taken = stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &case.bytes].concat()).await;
    loop {
        let Ok(next) = tokio::time::timeout(LONG, next_frame(&mut stream)).await else {
            return "nothing came of it".into();
        };
        let Some((kind, flags, id, payload)) = next else { return "closed without a word".into() };
        match (kind, case.wanted) {
            (GOAWAY, Wanted::Connection(codes) | Wanted::Stream(codes)) => {
                let found = code(&payload, 4);
                if !codes.contains(&found) {
                    return format!("the connection ends with {found}");
                }
                // And it really ends.
                return match tokio::time::timeout(LONG, stream.read_to_end(&mut Vec::new())).await {
                    Ok(_) => String::new(),
                    Err(_) => "it says goodbye and stays".into(),
                };
            }
            (RST_STREAM, Wanted::Stream(codes)) => {
                let found = code(&payload, 0);
                return if codes.contains(&found) {
                    String::new()
                } else {
                    format!("the stream ends with {found}")
                };
            }
            (HEADERS, Wanted::Stream(_)) if status(&payload) == "400" => return String::new(),
            (HEADERS, Wanted::Answer) if id == 1 && flags & END_HEADERS != 0 => {
                let status = status(&payload);
                return if status == "200" { String::new() } else { format!("answered with {status}") };
            }
            (HEADERS, _) if id == 1 => return format!("answered with {}", status(&payload)),
            (GOAWAY, Wanted::Answer) => return format!("the connection ends with {}", code(&payload, 4)),
            (RST_STREAM, Wanted::Answer) => return format!("the stream ends with {}", code(&payload, 0)),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_of_the_rfc_ends_as_it_says() {
    let gate = FakeGate::start(|request, _| async move {
        match request.uri().path() {
            "/" => {}
            _ => std::future::pending().await,
        }
        http_body_util::BodyExt::collect(request.into_body()).await.ok();
        crate::gate::text(http::StatusCode::OK, "ok")
    })
    .await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, |_| {}).await;
    let cases: Vec<Case> = framing().into_iter().chain(settings()).chain(messages()).collect();
    let mut all = Vec::new();
    for crowd in cases.chunks(16) {
        let outcomes = futures::future::join_all(crowd.iter().map(|case| wrong(&fleet, case))).await;
        let said = crowd.iter().zip(outcomes).filter(|(_, outcome)| !outcome.is_empty());
        all.extend(
            said.map(|(case, outcome)| {
                format!("{} {}: wanted {:?}: {outcome}", case.section, case.name, case.wanted)
            }),
        );
    }
    assert!(all.is_empty(), "{} of {}:\n{}", all.len(), cases.len(), all.join("\n"));
    fleet.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_comes_back_and_windows_are_kept_to() {
    let gate = FakeGate::echo("a").await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, |_| {}).await;
    let mut stream = TcpStream::connect(fleet.address()).await.unwrap();
    let first = [PREFACE, &setting(4, 1), &frame(PING, 0, 0, b"12345678"), &get()].concat();
    stream.write_all(&first).await.unwrap();
    let (mut pinged, mut pieces) = (false, Vec::new());
    while !pinged || pieces.concat() != *b"a:" {
        let next = tokio::time::timeout(LONG, next_frame(&mut stream)).await;
        let (kind, flags, id, payload) = next.expect("more has to come").expect("the connection is kept");
        match kind {
            PING => {
                assert_eq!((flags, &payload[..]), (ACK, &b"12345678"[..]));
                pinged = true;
            }
            DATA => {
                assert!(payload.len() <= 1, "the window was one byte");
                stream.write_all(&frame(WINDOW_UPDATE, 0, id, &[0, 0, 0, 1])).await.unwrap();
                pieces.push(payload);
            }
            _ => {}
        }
    }
    drop(stream);
    fleet.stop().await;
}
