//! Connections to cells have no task of their own: what comes on them, or is still to go out, must not wait for somebody
//! who does not poll.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{self, get, post};
use crate::control::FakeControl;
use crate::fleet::{Fleet, until};
use crate::gate::{Body, FakeGate};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_yet_does_not_stop_the_request_that_it_began_before() {
    // Each more than all sockets and buffers on its way take (the kernel lets a socket grow to 6 MiB on either side).
    const SENT: usize = 48 << 20;
    const ANSWERED: usize = 64 << 20;
    let arrived = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&arrived);
    let gate = FakeGate::start(move |request, _| {
        let counted = Arc::clone(&counted);
        async move {
            let mut body = request.into_body().into_data_stream();
            tokio::spawn(async move {
                while let Some(Ok(piece)) = body.next().await {
                    counted.fetch_add(piece.len(), Ordering::SeqCst);
                }
            });
            let piece = Bytes::from(vec![b'x'; 64 << 10]);
            let pieces = std::iter::repeat_n(piece, ANSWERED / (64 << 10)).map(|piece| Ok(Frame::data(piece)));
            let body: Body = BodyExt::boxed(StreamBody::new(futures::stream::iter(pieces)));
            Response::new(body)
        }
    })
    .await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 3, |_| {});
    let fleet = Fleet::start(control, |options| {
        options.threads = 1;
        options.limits.body_bytes_max = SENT as u64;
        // On a slow machine the whole request takes its time, and nobody reads the answer meanwhile.
        options.timeouts.write_idle = LONG * 2;
    })
    .await;
    let mut stream = TcpStream::connect(fleet.address()).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: t-1.example.com\r\ncontent-length: {SENT}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let sending = async {
        for _ in 0..SENT / (64 << 10) {
            stream.write_all(&[b'y'; 64 << 10]).await.unwrap();
        }
    };
    tokio::time::timeout(LONG, sending).await.expect("the request goes out, though nobody reads the answer");
    until("the cell has the whole request", || arrived.load(Ordering::SeqCst) == SENT).await;
    let mut read = 0;
    let mut piece = vec![0; 256 << 10];
    while read < ANSWERED {
        let length = tokio::time::timeout(LONG, stream.read(&mut piece)).await.unwrap().unwrap();
        assert!(length > 0, "the answer breaks off after {read}");
        read += length;
    }
    drop(stream);
    fleet.stop().await;
}

/// A cell that answers one request on each connection, and closes it when it is told to.
async fn closing_gate(accepted: Arc<AtomicUsize>, close: Arc<tokio::sync::Notify>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (accepted, close) = (Arc::clone(&accepted), Arc::clone(&close));
            tokio::spawn(async move {
                client::read_until(&mut stream, "\r\n\r\n").await;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                close.notified().await;
                drop(stream);
                accepted.fetch_add(100, Ordering::SeqCst);
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_closes_its_connections_while_they_are_idle_breaks_no_request() {
    let (answered, close) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
    let other = FakeGate::echo("b").await;
    let control = FakeControl::new(1);
    control.set_cell("a", &[closing_gate(Arc::clone(&answered), Arc::clone(&close)).await]);
    control.set_cell("b", std::slice::from_ref(&other.address));
    control.set_tenant("t-1", "a", 3, |_| {});
    control.set_tenant("t-2", "b", 3, |_| {});
    let fleet = Fleet::start(control, |options| options.threads = 1).await;
    for round in 1..=5 {
        let answer = post(fleet.address(), "t-1", "/", "").await;
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "ok"), "round {round}");
        close.notify_one();
        until("the cell has closed", || answered.load(Ordering::SeqCst) == round * 101).await;
        // The router's only thread has looked at its sockets once it has answered something else.
        assert_eq!(get(fleet.address(), "t-2", "/").await.body, "b:");
    }
    assert!(
        fleet.metric("cell_router_broken_exchanges_total", "").await < f64::EPSILON,
        "nothing was sent in vain"
    );
    fleet.stop().await;
}

/// What comes while a request is under way waits, whoever reads it, and is lost to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_come_before_the_answer_to_another_are_answered_after_it() {
    let let_go = Arc::new(tokio::sync::Semaphore::new(0));
    let waiting = Arc::clone(&let_go);
    let gate = FakeGate::start(move |request, _| {
        let waiting = Arc::clone(&waiting);
        async move {
            let path = request.uri().path().to_owned();
            waiting.acquire().await.unwrap().forget();
            let length = request.into_body().collect().await.unwrap().to_bytes().len();
            crate::gate::text(StatusCode::OK, &format!("{path} {length}."))
        }
    })
    .await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 3, |_| {});
    let fleet = Fleet::start(control, |options| options.threads = 1).await;
    let mut stream = TcpStream::connect(fleet.address()).await.unwrap();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: t-1.example.com\r\n");
    let long = format!(
        "POST /c HTTP/1.1\r\nhost: t-1.example.com\r\ncontent-length: 20000\r\nx: {}\r\n\r\n",
        "y".repeat(3_000)
    );
    stream.write_all(format!("{}\r\n", get("/a")).as_bytes()).await.unwrap();
    until("the first is under way", || gate.seen().len() == 1).await;
    // One that is whole, one with a head that is longer than what is read at once, and the beginning of one.
    stream.write_all(format!("{}\r\n{long}", get("/b")).as_bytes()).await.unwrap();
    stream.write_all(&[b'z'; 20_000]).await.unwrap();
    stream.write_all(get("/d").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(gate.seen().len(), 1, "one after the other");
    let_go.add_permits(3);
    let mut came = String::new();
    for wanted in ["/a 0.", "/b 0.", "/c 20000."] {
        if !came.contains(wanted) {
            came += &client::read_until(&mut stream, wanted).await;
        }
        assert!(came.contains(wanted), "{came}");
    }
    stream.write_all(b"\r\n").await.unwrap();
    let_go.add_permits(1);
    assert!(client::read_until(&mut stream, "/d 0.").await.contains("/d 0."));
    fleet.stop().await;
}
