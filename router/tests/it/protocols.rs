//! HTTP/2 towards cells, gRPC, trailers, streams.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::client::{get, post};
use crate::control::FakeControl;
use crate::fleet::Fleet;
use crate::gate::{Body, FakeGate, not_executed, stale};

async fn fleet(gate: &FakeGate, change: impl FnOnce(&mut cell_router::Options)) -> Fleet {
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    Fleet::start(control, change).await
}

/// Gives back each piece of the body as it comes, and then trailers.
async fn streaming_gate() -> FakeGate {
    FakeGate::start(|request, _| async move {
        let (send, receive) = mpsc::channel::<Result<Frame<Bytes>, hyper::Error>>(4);
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(data) = frame.into_data() else { continue };
                if send.send(Ok(Frame::data(data))).await.is_err() {
                    return;
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let _gone = send.send(Ok(Frame::trailers(trailers))).await;
        });
        let body: Body = BodyExt::boxed(StreamBody::new(tokio_stream_of(receive)));
        let mut response = Response::new(body);
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        response
    })
    .await
}

fn tokio_stream_of<T: Send + 'static>(receive: mpsc::Receiver<T>) -> impl futures::Stream<Item = T> + Send + Sync {
    futures::stream::unfold(receive, |mut receive| async move { receive.recv().await.map(|item| (item, receive)) })
}

/// A body whose pieces come as they are said.
type Words = StreamBody<BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;
type Sender = hyper::client::conn::http2::SendRequest<Words>;

async fn connect(fleet: &Fleet) -> Sender {
    let stream = TcpStream::connect(fleet.address()).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn grpc(body: mpsc::Receiver<Bytes>) -> Request<Words> {
    let stream = tokio_stream_of(body).map(|bytes| Ok(Frame::data(bytes))).boxed();
    Request::post("http://t-1.example.com/echo.Echo/Chat")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(StreamBody::new(stream))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_goes_message_by_message_and_ends_in_trailers() {
    let gate = streaming_gate().await;
    let fleet = fleet(&gate, |_| {}).await;
    let mut sender = connect(&fleet).await;
    let (say, body) = mpsc::channel(4);
    say.send(Bytes::from_static(b"one")).await.unwrap();
    let answer = sender.send_request(grpc(body)).await.unwrap();
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
    let mut answers = answer.into_body();
    for word in [&b"one"[..], b"two", b"three"] {
        if word != b"one" {
            say.send(Bytes::copy_from_slice(word)).await.unwrap();
        }
        let heard = tokio::time::timeout(Duration::from_secs(5), answers.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(heard.into_data().unwrap(), word);
    }
    drop(say);
    let last = answers.frame().await.unwrap().unwrap();
    assert_eq!(last.trailers_ref().unwrap()["grpc-status"], "0");
    let seen = &gate.seen()[0];
    assert_eq!((seen.version, seen.path.as_str()), (Version::HTTP_2, "http://t-1.example.com/echo.Echo/Chat"));
    assert_eq!(seen.headers["te"], "trailers");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_share_one_connection_to_a_cell() {
    let gate = FakeGate::echo("a").await;
    let fleet = fleet(&gate, |options| {
        options.upstream.protocol = cell_router::UpstreamProtocol::Http2;
        options.limits.connections_per_instance_max = 1;
        options.threads = 1;
    })
    .await;
    let answers =
        futures::future::join_all((0..60).map(|at| post(fleet.address(), "t-1", "/", format!("{at}")))).await;
    for (at, answer) in answers.iter().enumerate() {
        assert_eq!((answer.status, answer.body.clone()), (StatusCode::OK, format!("a:{at}")));
    }
    assert!(gate.seen().iter().all(|seen| seen.version == Version::HTTP_2));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_over_http_2_is_followed_with_the_whole_body() {
    let control = FakeControl::new(1);
    let b = FakeGate::echo("b").await;
    control.set_cell("b", std::slice::from_ref(&b.address));
    let newer = control.set_tenant("t-1", "b", 2, |mapping| mapping.rev = cell_model::Rev(9));
    let signed = control.signed(&newer);
    let a = FakeGate::start(move |_, number| {
        let signed = signed.clone();
        async move { if number == 0 { not_executed(cell_gate::wire::Code::Hold) } else { stale(&signed) } }
    })
    .await;
    let ours = FakeControl::new(1);
    ours.set_cell("a", std::slice::from_ref(&a.address));
    ours.set_tenant("t-1", "a", 1, |_| {});
    let fleet =
        Fleet::start(ours, |options| options.upstream.protocol = cell_router::UpstreamProtocol::Http2).await;
    fleet.control.cut_off();
    let body = "z".repeat(50_000);
    let answer = post(fleet.address(), "t-1", "/", body.clone()).await;
    assert_eq!((answer.status, answer.body), (StatusCode::OK, format!("b:{body}")));
    assert_eq!((a.seen().len(), b.seen().len()), (2, 1));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_is_refused_in_its_own_words() {
    let gate = streaming_gate().await;
    let fleet = fleet(&gate, |_| {}).await;
    let mut sender = connect(&fleet).await;
    let (_say, body) = mpsc::channel(1);
    let mut request = grpc(body);
    *request.uri_mut() = "http://t-9.example.com/echo.Echo/Chat".parse().unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let said = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((said("content-type").as_str(), said("grpc-status").as_str()), ("application/grpc", "5"));
    assert_eq!(
        (said("cellway-code").as_str(), said("grpc-message").as_str()),
        ("TENANT_UNKNOWN", "there is no tenant t-9")
    );
    assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty(), "trailers only");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_that_cancels_is_cancelled_at_the_cell() {
    let (ended, mut ending) = mpsc::unbounded_channel::<()>();
    let gate = FakeGate::start(move |request, _| {
        let ended = ended.clone();
        async move {
            let mut body = request.into_body();
            // Dropped when the stream is reset: the sender then says so.
            while let Some(Ok(_)) = body.frame().await {}
            ended.send(()).unwrap();
            crate::gate::text(StatusCode::OK, "")
        }
    })
    .await;
    let fleet = fleet(&gate, |_| {}).await;
    let mut sender = connect(&fleet).await;
    let (say, body) = mpsc::channel(4);
    say.send(Bytes::from_static(b"one")).await.unwrap();
    let answer = tokio::spawn(async move { sender.send_request(grpc(body)).await });
    crate::fleet::until("it is at the cell", || gate.seen().len() == 1).await;
    answer.abort();
    let _over = answer.await;
    drop(say);
    // The handler ends with the stream: either its body does, or it is dropped with its end of the channel.
    tokio::time::timeout(Duration::from_secs(5), ending.recv()).await.unwrap();
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_survive_from_http_1_to_http_1() {
    let gate = FakeGate::start(|request, _| async move {
        let sum = request.into_body().collect().await.unwrap().trailers().and_then(|t| t.get("x-sum").cloned());
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", sum.unwrap_or(HeaderValue::from_static("none")));
        let frames =
            futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"body"))), Ok(Frame::trailers(trailers))]);
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
        response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
        response
    })
    .await;
    let fleet = fleet(&gate, |_| {}).await;
    let request = "POST / HTTP/1.1\r\nHost: t-1.example.com\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\
        \r\n3\r\nabc\r\n0\r\nX-Sum: 42\r\n\r\n";
    let answer = crate::client::raw(fleet.address(), request.as_bytes(), "x-sum: 42\r\n\r\n").await;
    assert!(answer.contains("x-sum: 42\r\n\r\n"), "{answer}");
    assert_eq!(get(fleet.address(), "t-1", "/").await.status, StatusCode::OK);
    fleet.stop().await;
}
