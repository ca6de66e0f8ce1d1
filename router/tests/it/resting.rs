//! Connections between requests: they rest, and nobody who asks again sees a difference.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::{read, read_until, request};
use crate::control::FakeControl;
use crate::fleet::Fleet;
use crate::gate::FakeGate;

const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: t-1.example.com\r\n\r\n";
/// Longer than it takes a connection to rest.
const A_WHILE: Duration = Duration::from_millis(2_300);

async fn fleet(gate: &FakeGate, change: impl FnOnce(&mut cell_router::Options)) -> Fleet {
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 3, |_| {});
    Fleet::start(control, change).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_rested_serves_whatever_comes_next_as_if_it_had_not() {
    let gate = FakeGate::echo("a").await;
    let fleet = fleet(&gate, |_| {}).await;
    let (address, mut asks) = (fleet.address(), tokio::task::JoinSet::new());
    // A request in one piece.
    asks.spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            stream.write_all(ASK).await.unwrap();
            assert!(read_until(&mut stream, "a:").await.starts_with("HTTP/1.1 200"));
            tokio::time::sleep(A_WHILE).await;
        }
    });
    // A head in pieces, and then a body that is longer than what is read at once.
    asks.spawn(async move {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        for length in [3, 70_000] {
            let answer = read(sender.send_request(request("POST", "t-1", "/", vec![b'x'; length])).await.unwrap());
            assert_eq!(answer.await.body.len(), length + 2);
            tokio::time::sleep(A_WHILE).await;
        }
    });
    asks.spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(ASK).await.unwrap();
        read_until(&mut stream, "a:").await;
        tokio::time::sleep(A_WHILE).await;
        for piece in [&ASK[..1], &ASK[1..20], &ASK[20..]] {
            stream.write_all(piece).await.unwrap();
            stream.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        assert!(read_until(&mut stream, "a:").await.starts_with("HTTP/1.1 200"));
    });
    // Two at once.
    asks.spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(ASK).await.unwrap();
        read_until(&mut stream, "a:").await;
        tokio::time::sleep(A_WHILE).await;
        stream.write_all(&[ASK, ASK].concat()).await.unwrap();
        let mut both = read_until(&mut stream, "a:").await;
        if both.matches("a:").count() < 2 {
            both += &read_until(&mut stream, "a:").await;
        }
        assert_eq!(both.matches("HTTP/1.1 200").count(), 2, "{both}");
    });
    // What may be understood in two ways.
    asks.spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(ASK).await.unwrap();
        read_until(&mut stream, "a:").await;
        tokio::time::sleep(A_WHILE).await;
        stream.write_all(b"GET / HTTP/1.1\nhost: t-1.example.com\n\n").await.unwrap();
        let refused = read_until(&mut stream, "MESSAGE_AMBIGUOUS").await;
        assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    });
    while let Some(asked) = asks.join_next().await {
        asked.unwrap();
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_rests_is_closed_when_it_is_idle_for_too_long_and_when_the_router_stops() {
    let gate = FakeGate::echo("a").await;
    let fleet = fleet(&gate, |options| options.timeouts.idle = Duration::from_secs(4)).await;
    let mut first = TcpStream::connect(fleet.address()).await.unwrap();
    first.write_all(ASK).await.unwrap();
    read_until(&mut first, "a:").await;
    let began = tokio::time::Instant::now();
    assert_eq!(read_until(&mut first, "never").await, "");
    assert!(began.elapsed() > Duration::from_secs(3), "closed after {:?}", began.elapsed());

    let mut second = TcpStream::connect(fleet.address()).await.unwrap();
    second.write_all(ASK).await.unwrap();
    read_until(&mut second, "a:").await;
    tokio::time::sleep(A_WHILE).await;
    let stopping = tokio::spawn(fleet.stop());
    assert_eq!(read_until(&mut second, "never").await, "");
    tokio::time::timeout(Duration::from_secs(5), stopping).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_takes_long_is_no_rest() {
    let gate = FakeGate::start(|_, _| async {
        tokio::time::sleep(A_WHILE).await;
        crate::gate::text(StatusCode::OK, "late")
    })
    .await;
    let fleet = fleet(&gate, |_| {}).await;
    assert_eq!(crate::client::get(fleet.address(), "t-1", "/").await.body, "late");
    fleet.stop().await;
}
