//! Clients that mean harm: each loses its connection, and others do not notice.

use std::time::Duration;

use http::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{get, read_until};
use crate::control::FakeControl;
use crate::fleet::{Fleet, until};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, head,
};
use crate::gate::{FakeGate, text};

/// A gate whose `/slow` never answers and whose `/large` answers with 8 MiB.
async fn fleet(change: impl FnOnce(&mut cell_router::Options)) -> (FakeGate, Fleet) {
    let gate = FakeGate::start(|request, _| async move {
        match request.uri().path() {
            "/slow" => std::future::pending().await,
            "/large" => text(StatusCode::OK, &"x".repeat(8 << 20)),
            _ => text(StatusCode::OK, "ok"),
        }
    })
    .await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, change).await;
    (gate, fleet)
}

async fn connected(fleet: &Fleet) -> TcpStream {
    let mut stream = TcpStream::connect(fleet.address()).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    stream
}

/// Goes on sending until the router has closed.
async fn until_cut(stream: &mut TcpStream, mut next: impl FnMut(u32) -> Vec<u8>) -> u32 {
    let (mut reader, mut writer) = stream.split();
    let reading = async {
        let mut piece = vec![0; 16 << 10];
        while let Ok(1..) = reader.read(&mut piece).await {}
    };
    let mut sent = 0;
    let writing = async {
        while writer.write_all(&next(sent)).await.is_ok() {
            sent += 1;
            tokio::task::yield_now().await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
        () = tokio::time::sleep(Duration::from_secs(10)) => panic!("the router has not cut the connection"),
    }
    sent
}

async fn others_are_served(fleet: &Fleet) {
    let answer = get(fleet.address(), "t-1", "/").await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resets_what_it_asks_for_is_cut() {
    let (_gate, fleet) = fleet(|_| {}).await;
    let mut stream = connected(&fleet).await;
    let sent = until_cut(&mut stream, |number| {
        let id = number * 2 + 1;
        [frame(HEADERS, END_STREAM | END_HEADERS, id, &head("/slow")), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])]
            .concat()
    })
    .await;
    assert!(sent < 20_000, "{sent} streams");
    others_are_served(&fleet).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_makes_the_router_reset_is_cut() {
    let (_gate, fleet) = fleet(|_| {}).await;
    let mut stream = connected(&fleet).await;
    // A window update of nothing is an error of its stream, which the router has to reset.
    let sent = until_cut(&mut stream, |number| {
        let id = number * 2 + 1;
        [frame(HEADERS, END_STREAM | END_HEADERS, id, &head("/slow")), frame(WINDOW_UPDATE, 0, id, &[0; 4])]
            .concat()
    })
    .await;
    assert!(sent < 20_000, "{sent} streams");
    others_are_served(&fleet).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_is_cut() {
    let (_gate, fleet) = fleet(|_| {}).await;
    let mut stream = connected(&fleet).await;
    stream.write_all(&frame(HEADERS, END_STREAM, 1, &head("/"))).await.unwrap();
    let field = [&[0x00, 0x01, b'x', 0x7f, 0x81, 0x07][..], &[b'y'; 256]].concat();
    let sent = until_cut(&mut stream, |_| frame(CONTINUATION, 0, 1, &field)).await;
    assert!(sent < 5_000, "{sent} frames");
    let mut stream = connected(&fleet).await;
    stream.write_all(&frame(HEADERS, END_STREAM, 1, &head("/"))).await.unwrap();
    let empty = until_cut(&mut stream, |_| frame(CONTINUATION, 0, 1, &[])).await;
    assert!(empty < 50_000, "{empty} empty frames");
    others_are_served(&fleet).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_allowed_streams_are_refused_and_the_rest_goes_on() {
    let (gate, fleet) = fleet(|options| options.limits.streams_max = 4).await;
    let mut stream = connected(&fleet).await;
    for number in 0..8 {
        let head = frame(HEADERS, END_STREAM | END_HEADERS, number * 2 + 1, &head("/slow"));
        stream.write_all(&head).await.unwrap();
    }
    until("the allowed ones are there", || gate.seen().len() == 4).await;
    others_are_served(&fleet).await;
    assert_eq!(gate.seen().len(), 5, "the refused ones have not run");
    fleet.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_cut() {
    let (_gate, fleet) = fleet(|options| options.timeouts.write_idle = Duration::from_millis(300)).await;
    // HTTP/1: the socket is full.
    let mut one = TcpStream::connect(fleet.address()).await.unwrap();
    one.write_all(b"GET /large HTTP/1.1\r\nHost: t-1.example.com\r\n\r\n").await.unwrap();
    // HTTP/2: the socket is not, but the stream's window is.
    let mut two = connected(&fleet).await;
    two.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &head("/large"))).await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(10), two.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "an answer that finds no window keeps its connection");
    until("both are cut", || open_connections(&fleet) == 0).await;
    let mut rest = Vec::new();
    let _reset = one.read_to_end(&mut rest).await;
    assert!(rest.len() < 8 << 20, "it was cut before the end");
    others_are_served(&fleet).await;
    fleet.stop().await;
}

fn open_connections(fleet: &Fleet) -> usize {
    fleet.router.client_connections()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_its_head_too_slowly_is_told_so() {
    let (_gate, fleet) = fleet(|options| options.timeouts.header = Duration::from_millis(200)).await;
    let mut stream = TcpStream::connect(fleet.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: t-1.exa").await.unwrap();
    let answer = read_until(&mut stream, "}").await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("HEADER_TIMEOUT"), "{answer}");
    let mut silent = TcpStream::connect(fleet.address()).await.unwrap();
    assert_eq!(read_until(&mut silent, "HTTP").await, "", "and who says nothing is just closed");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed() {
    let (_gate, fleet) = fleet(|options| options.timeouts.idle = Duration::from_millis(200)).await;
    let mut one = TcpStream::connect(fleet.address()).await.unwrap();
    one.write_all(b"GET / HTTP/1.1\r\nHost: t-1.example.com\r\n\r\n").await.unwrap();
    assert!(read_until(&mut one, "never").await.ends_with("ok"));
    let mut two = connected(&fleet).await;
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), two.read_to_end(&mut rest)).await.unwrap().unwrap();
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_for_a_stream_that_is_closed_does_not_keep_the_connection_from_others() {
    let (_gate, fleet) = fleet(|_| {}).await;
    let stream = TcpStream::connect(fleet.address()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..50 {
        let request = Request::get("http://t-1.example.com/").body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    }
    let mut stream = connected(&fleet).await;
    stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("/"))).await.unwrap();
    stream.write_all(&frame(DATA, 0, 1, b"too late")).await.unwrap();
    others_are_served(&fleet).await;
    fleet.stop().await;
}
