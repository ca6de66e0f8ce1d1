//! WebSockets through the router: byte for byte, over both versions of HTTP, and ended when the tenant moves.

use std::time::Duration;

use bytes::Bytes;
use cell_model::Hold;
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{get, raw, read_until};
use crate::control::FakeControl;
use crate::fleet::{Fleet, until};
use crate::gate::FakeGate;

async fn fleet(change: impl FnOnce(&mut cell_router::Options)) -> (FakeGate, Fleet) {
    let gate = FakeGate::echo_websocket().await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, change).await;
    (gate, fleet)
}

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: t-1.example.com\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// An open WebSocket.
async fn open(fleet: &Fleet) -> TcpStream {
    open_at(fleet.address()).await
}

pub(crate) async fn open_at(address: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(ASK.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    stream
}

/// A frame with a mask of zeros.
fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x82, 0x80 | 126][..], &length, &[0; 4], payload].concat()
}

async fn echoed(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    let mut back = vec![0; bytes.len()];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, bytes);
}

pub(crate) async fn still_echoes(stream: &mut TcpStream) {
    echoed(stream, &frame(b"still here")).await;
}

async fn to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    rest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_carries_every_byte_both_ways() {
    let (gate, fleet) = fleet(|_| {}).await;
    let mut stream = open(&fleet).await;
    for length in [0, 1, 125, 126, 5_000, 60_000] {
        let payload: Vec<u8> = (0..length).map(|at| u8::try_from(at * 7 % 256).unwrap()).collect();
        echoed(&mut stream, &frame(&payload)).await;
    }
    let seen = &gate.seen()[0];
    assert_eq!(
        (seen.headers["cell-tenant"].as_bytes(), seen.headers["upgrade"].as_bytes()),
        (&b"t-1"[..], &b"websocket"[..])
    );
    stream.shutdown().await.unwrap();
    assert!(to_the_end(&mut stream).await.is_empty());
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_moves_has_its_websockets_closed_between_two_frames() {
    let (_gate, fleet) = fleet(|_| {}).await;
    let mut stream = open(&fleet).await;
    echoed(&mut stream, &frame(b"hello")).await;
    // Half of a frame is on its way when the hold begins.
    let half = frame(&[7; 1_000]);
    echoed(&mut stream, &half[..600]).await;
    let held = fleet.control.set_tenant("t-1", "a", 1, |mapping| mapping.hold = Hold::Writes);
    fleet.until_believed(&held).await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    echoed(&mut stream, &half[600..]).await;
    let rest = to_the_end(&mut stream).await;
    assert_eq!(rest[..4], [0x88, 0x02, 0x03, 0xf4], "close, 1012");
    let metrics = fleet.admin("/metrics").await.body;
    assert!(metrics.contains("cell_router_tunnels_quiesced_total"), "{metrics}");
    fleet.stop().await;
}

/// A gate does not wait for the router's farewell: what a hold must not wait for it cuts. The client is told all the same, also one
/// that goes on sending.
#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_goes_without_a_word_is_spoken_for() {
    let gate = FakeGate::cut_websocket().await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, |_| {}).await;
    let mut stream = open(&fleet).await;
    echoed(&mut stream, &frame(b"hello")).await;
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn(async move {
        while write.write_all(&frame(b"and more")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), read.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, [0x88, 0x02, 0x03, 0xf4], "close, 1012");
    sending.abort();
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_end_with_the_router_and_other_tenants_keep_theirs() {
    let (_gate, fleet) = fleet(|_| {}).await;
    fleet.control.set_tenant("t-2", "a", 1, |_| {});
    let mut stream = open(&fleet).await;
    let moved = fleet.control.set_tenant("t-2", "a", 2, |_| {});
    fleet.until_believed(&moved).await;
    echoed(&mut stream, &frame(b"still here")).await;
    let ending = tokio::spawn(async move { to_the_end(&mut stream).await });
    tokio::time::timeout(Duration::from_secs(10), fleet.stop()).await.unwrap();
    assert_eq!(ending.await.unwrap()[..4], [0x88, 0x02, 0x03, 0xf4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_options_under_load_fail_no_request_and_cut_no_websocket() {
    let (_gate, fleet) = fleet(|_| {}).await;
    let (mut stream, address) = (open(&fleet).await, fleet.address());
    let load: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                for _ in 0..50 {
                    assert_eq!(get(address, "t-1", "/").await.body, "plain");
                }
            })
        })
        .collect();
    let mut options = crate::fleet::options(&fleet.control);
    for round in 0..20 {
        options.fairness.queue_wait = Duration::from_millis(900 + round);
        assert_eq!(fleet.router.reload(Ok(options.clone())).unwrap().len(), 1);
        echoed(&mut stream, &frame(b"still here")).await;
    }
    for requests in load {
        requests.await.unwrap();
    }
    echoed(&mut stream, &frame(b"and after")).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_websocket_is_closed() {
    let (_gate, fleet) = fleet(|options| options.timeouts.tunnel_idle = Duration::from_millis(100)).await;
    let mut stream = open(&fleet).await;
    assert_eq!(to_the_end(&mut stream).await[..4], [0x88, 0x02, 0x03, 0xe9], "close, 1001");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_protocol_is_switched_to_and_the_connection_goes_on() {
    let (gate, fleet) = fleet(|_| {}).await;
    let ask = "GET / HTTP/1.1\r\nHost: t-1.example.com\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let plain = "GET / HTTP/1.1\r\nHost: t-1.example.com\r\nConnection: close\r\n\r\n";
    let answer = raw(fleet.address(), format!("{ask}{plain}").as_bytes(), "never").await;
    assert_eq!(answer.matches("plain").count(), 2, "{answer}");
    assert!(gate.seen().iter().all(|seen| !seen.headers.contains_key("upgrade")));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_before_the_answer_to_an_upgrade_are_refused() {
    let (_gate, fleet) = fleet(|_| {}).await;
    let answer = raw(fleet.address(), format!("{ASK}GET /smuggled HTTP/1.1\r\n\r\n").as_bytes(), "never").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("before the upgrade"), "{answer}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_so_many_websockets_and_no_more() {
    let (_gate, fleet) = fleet(|options| options.limits.tunnels_per_tenant_max = 1).await;
    let mut first = open(&fleet).await;
    echoed(&mut first, &frame(b"x")).await;
    let refused = raw(fleet.address(), ASK.as_bytes(), "TUNNELS_FULL").await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    drop(first);
    until("its place is free again", || fleet.open_tunnels() == 0).await;
    open(&fleet).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_over_http_2_reaches_a_cell_that_knows_http_1() {
    let (gate, fleet) = fleet(|_| {}).await;
    let stream = TcpStream::connect(fleet.address()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    until("extended CONNECT is offered", || client.is_extended_connect_protocol_enabled()).await;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://t-1.example.com/chat")
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let (answer, mut upload) = client.send_request(request, false).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(!answer.headers().contains_key("upgrade") && !answer.headers().contains_key("connection"));
    let sent = frame(b"over a stream");
    upload.send_data(Bytes::from(sent.clone()), false).unwrap();
    let mut body = answer.into_body();
    let mut back = Vec::new();
    while back.len() < sent.len() {
        back.extend_from_slice(&body.data().await.unwrap().unwrap());
    }
    assert_eq!(back, sent);
    let seen = &gate.seen()[0];
    assert_eq!(
        (seen.method.as_str(), seen.path.as_str(), seen.headers["sec-websocket-key"].len()),
        ("GET", "/chat", 24)
    );
    connection.abort();
    fleet.stop().await;
}
