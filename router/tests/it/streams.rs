//! Answers without an end in sight, when their tenant moves.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cell_model::Hold;
use futures::StreamExt;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::client::read_until;
use crate::control::FakeControl;
use crate::fleet::{Fleet, until};
use crate::gate::{Body, FakeGate};

type Pieces = mpsc::UnboundedSender<Result<Frame<Bytes>, hyper::Error>>;

/// A cell whose answers go on for as long as the test likes.
struct Talking {
    gate: FakeGate,
    answers: Arc<Mutex<Vec<Pieces>>>,
}

impl Talking {
    async fn start(kind: &'static str) -> Self {
        let answers: Arc<Mutex<Vec<Pieces>>> = Arc::default();
        let begun = Arc::clone(&answers);
        let gate = FakeGate::start(move |_, _| {
            let (say, said) = mpsc::unbounded_channel();
            begun.lock().unwrap().push(say);
            let said =
                futures::stream::unfold(said, |mut said| async move { said.recv().await.map(|it| (it, said)) });
            let body: Body = BodyExt::boxed(StreamBody::new(said));
            let mut response = Response::new(body);
            response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
            async move { response }
        })
        .await;
        Self { gate, answers }
    }

    fn say(&self, answer: usize, text: &'static str) -> bool {
        self.answers.lock().unwrap()[answer].send(Ok(Frame::data(Bytes::from_static(text.as_bytes())))).is_ok()
    }

    /// Nobody listens to an answer any more.
    async fn until_left(&self, answer: usize) {
        let say = self.answers.lock().unwrap()[answer].clone();
        tokio::time::timeout(Duration::from_secs(10), say.closed())
            .await
            .expect("the cell is told that it is over");
    }
}

/// Tenants t-1 and t-2 in cell `a`; cell `b` is there, too.
async fn fleet(a: &Talking, b: &FakeGate, change: impl FnOnce(&mut cell_router::Options)) -> Fleet {
    let control = FakeControl::of_two_tenants(&a.gate.address);
    control.set_cell("b", std::slice::from_ref(&b.address));
    Fleet::start(control, |options| {
        options.timeouts.stream_grace = Duration::from_millis(50);
        change(options);
    })
    .await
}

async fn ask(stream: &mut TcpStream, tenant: &str) {
    let head = format!("GET /events HTTP/1.1\r\nhost: {tenant}.example.com\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
}

async fn quiesced(fleet: &Fleet) -> f64 {
    fleet.metric("cell_router_streams_quiesced_total", "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn events_end_as_if_there_were_no_more_and_the_connection_goes_on_at_the_new_cell() {
    let (a, b) = (Talking::start("text/event-stream").await, FakeGate::echo("b").await);
    let fleet = fleet(&a, &b, |_| {}).await;
    let mut stream = TcpStream::connect(fleet.address()).await.unwrap();
    let mut other = TcpStream::connect(fleet.address()).await.unwrap();
    ask(&mut stream, "t-1").await;
    until("it is asked", || a.answers.lock().unwrap().len() == 1).await;
    ask(&mut other, "t-2").await;
    until("both are asked", || a.answers.lock().unwrap().len() == 2).await;
    assert!(a.say(0, "data: one\n\n") && a.say(1, "data: one\n\n"));
    read_until(&mut stream, "data: one").await;
    read_until(&mut other, "data: one").await;
    fleet.control.set_tenant("t-1", "b", 2, |_| {});
    let last = read_until(&mut stream, "0\r\n\r\n").await;
    assert!(last.ends_with("0\r\n\r\n"), "{last:?}");
    a.until_left(0).await;
    ask(&mut stream, "t-1").await;
    assert!(read_until(&mut stream, "b:").await.contains("b:"));
    assert!((quiesced(&fleet).await - 1.0).abs() < f64::EPSILON);
    assert!(a.say(1, "data: two\n\n"), "the other tenant's goes on");
    read_until(&mut other, "data: two").await;
    fleet.shutdown.cancel();
    drop(other);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_chunks_breaks_off_so_that_nobody_takes_it_for_whole() {
    let (a, b) = (Talking::start("text/plain").await, FakeGate::echo("b").await);
    let fleet = fleet(&a, &b, |_| {}).await;
    let mut stream = TcpStream::connect(fleet.address()).await.unwrap();
    ask(&mut stream, "t-1").await;
    until("it is asked", || a.answers.lock().unwrap().len() == 1).await;
    assert!(a.say(0, "one"));
    read_until(&mut stream, "one").await;
    fleet.control.set_tenant("t-1", "b", 2, |_| {});
    // Reads until the router closes, for ten seconds at the most.
    let last = read_until(&mut stream, "never").await;
    assert!(!last.contains("0\r\n\r\n"), "{last:?}");
    a.until_left(0).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_in_time_or_whose_end_is_known_is_not_cut() {
    let (a, b) = (Talking::start("text/plain").await, FakeGate::echo("b").await);
    let fleet = fleet(&a, &b, |options| options.timeouts.stream_grace = Duration::from_secs(60)).await;
    let mut stream = TcpStream::connect(fleet.address()).await.unwrap();
    ask(&mut stream, "t-1").await;
    until("it is asked", || a.answers.lock().unwrap().len() == 1).await;
    assert!(a.say(0, "one"));
    read_until(&mut stream, "one").await;
    let moved = fleet.control.set_tenant("t-1", "b", 2, |_| {});
    fleet.until_believed(&moved).await;
    // It has been looked at since.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(a.say(0, "two"));
    a.answers.lock().unwrap().clear();
    let last = read_until(&mut stream, "0\r\n\r\n").await;
    assert!(last.contains("two") && last.ends_with("0\r\n\r\n"), "{last:?}");
    assert!(quiesced(&fleet).await < f64::EPSILON);
    fleet.stop().await;
}

type Words = StreamBody<futures::stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;

async fn call(fleet: &Fleet, words: mpsc::UnboundedReceiver<Bytes>) -> Response<hyper::body::Incoming> {
    let words = futures::stream::unfold(words, |mut words| async move { words.recv().await.map(|it| (it, words)) });
    let request = Request::post("http://t-1.example.com/echo.Echo/Chat")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Words::new(words.map(|word| Ok(Frame::data(word))).boxed()))
        .unwrap();
    let stream = TcpStream::connect(fleet.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_grpc_ends_with_a_status_for_which_clients_call_again() {
    let (a, b) = (Talking::start("application/grpc").await, FakeGate::echo("b").await);
    let fleet = fleet(&a, &b, |_| {}).await;
    let (say, words) = mpsc::unbounded_channel();
    say.send(Bytes::from_static(b"\0\0\0\0\x01x")).unwrap();
    let answer = call(&fleet, words).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let mut body = answer.into_body();
    assert!(a.say(0, "\0\0\0\0\x03one"));
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), &b"\0\0\0\0\x03one"[..]);
    fleet.control.set_tenant("t-1", "b", 2, |_| {});
    let last = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.unwrap().unwrap().unwrap();
    let trailers = last.into_trailers().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["cellway-code"]),
        (&"14".parse().unwrap(), &"STREAM_MOVED".parse().unwrap())
    );
    assert!(body.frame().await.is_none());
    a.until_left(0).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_sent_for_ever_and_not_answered_does_not_keep_a_hold_waiting() {
    let gate = FakeGate::start(|request, _| async move {
        let _all = request.into_body().collect().await;
        std::future::pending().await
    })
    .await;
    let control = FakeControl::of_two_tenants(&gate.address);
    let fleet = Fleet::start(control, |options| options.timeouts.answer = Duration::from_millis(200)).await;
    let (say, words) = mpsc::unbounded_channel();
    let sending = tokio::spawn(async move {
        while say.send(Bytes::from_static(b"\0\0\0\0\x01x")).is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let calling = {
        let answer = call(&fleet, words);
        let held = async {
            // Longer than the cell may take, were it the cell that is awaited.
            tokio::time::sleep(Duration::from_millis(400)).await;
            fleet.control.set_tenant("t-1", "a", 1, |mapping| mapping.hold = Hold::Writes);
        };
        tokio::join!(answer, held).0
    };
    let (status, code) = (&calling.headers()["grpc-status"], &calling.headers()["cellway-code"]);
    assert_eq!((status.as_bytes(), code.as_bytes()), (&b"2"[..], &b"CELL_FAILED"[..]), "it may have run");
    assert!(calling.headers()["grpc-message"].to_str().unwrap().contains("is being moved"));
    sending.abort();
    fleet.stop().await;
}
