//! Requests of tenants that stay where they are.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use crate::client::{self, get, post, request, send, send_h2};
use crate::control::FakeControl;
use crate::fleet::Fleet;
use crate::gate::{Body, FakeGate, text};

async fn fleet_with(gate: &FakeGate) -> Fleet {
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 3, |_| {});
    Fleet::start(control, |_| {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reaches_its_owner_with_a_stamp_that_nobody_can_forge() {
    let gate = FakeGate::start(|_, _| async {
        let mut response = text(StatusCode::CREATED, "made");
        response.headers_mut().insert("cell-secret", HeaderValue::from_static("1"));
        response.headers_mut().insert("connection", HeaderValue::from_static("x-own"));
        response.headers_mut().insert("x-own", HeaderValue::from_static("1"));
        response.headers_mut().insert("x-app", HeaderValue::from_static("1"));
        response
    })
    .await;
    let fleet = fleet_with(&gate).await;
    let forged = Request::post("/docs?a=b")
        .header("host", "T-1.example.com:80")
        .header("x-tenant-id", "t-1")
        .header("x-request-id", "r-77")
        .header("cell-tenant", "t-2")
        .header("cell-uid", "9")
        .header("cell-epoch", "99")
        .header("cell-anything", "x")
        .header("x-forwarded-for", "1.2.3.4")
        .body(http_body_util::Full::new(Bytes::from_static(b"{}")))
        .unwrap();
    let answer = send(fleet.address(), forged).await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::CREATED, "made"));
    assert_eq!(answer.headers["x-request-id"], "r-77");
    assert_eq!(answer.headers["x-app"], "1");
    assert!(!answer.headers.contains_key("cell-secret") && !answer.headers.contains_key("x-own"));
    let seen = &gate.seen()[0];
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/docs?a=b"));
    for (name, value) in [
        ("cell-tenant", "t-1"),
        ("cell-uid", "1"),
        ("cell-epoch", "3"),
        ("cell-request-id", "r-77"),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(seen.headers.get_all(name).iter().collect::<Vec<_>>(), [value], "{name}");
    }
    assert!(!seen.headers.contains_key("cell-anything"));
    fleet.stop().await;
}

/// Sends pieces on demand and gets back what comes, with trailers at the end: over either protocol.
async fn echo_is_piece_by_piece(http2: bool) {
    let gate = FakeGate::start(|request, _| async {
        let mut response = Response::new(request.into_body().boxed() as Body);
        response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
        response
    })
    .await;
    let fleet = fleet_with(&gate).await;
    let (mut pieces, body) = futures::channel::mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
    let request = Request::post("http://t-1.example.com/stream")
        .header("host", "t-1.example.com")
        .header("te", "trailers")
        .header("trailer", "x-sum")
        .body(StreamBody::new(body))
        .unwrap();
    let (mut parts, body) = request.into_parts();
    if !http2 {
        parts.uri = "/stream".parse().unwrap();
    } else {
        parts.headers.remove("host");
    }
    let request = Request::from_parts(parts, body);
    pieces.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.unwrap();
    let response = if http2 { open_h2(&fleet, request).await } else { open_h1(&fleet, request).await };
    assert_eq!(response.status(), StatusCode::OK);
    let mut echo = response.into_body();
    for piece in ["one", "two", "three"] {
        if piece != "one" {
            pieces.send(Ok(Frame::data(Bytes::from(piece)))).await.unwrap();
        }
        let got = tokio::time::timeout(Duration::from_secs(5), echo.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(got.into_data().unwrap(), piece);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("11"));
    pieces.send(Ok(Frame::trailers(trailers))).await.unwrap();
    drop(pieces);
    let got = echo.frame().await.unwrap().unwrap();
    assert_eq!(got.trailers_ref().unwrap()["x-sum"], "11");
    fleet.stop().await;
}

async fn open_h1<B>(fleet: &Fleet, request: Request<B>) -> Response<hyper::body::Incoming>
where
    B: http_body::Body<Data = Bytes, Error = std::io::Error> + Send + 'static,
{
    let stream = tokio::net::TcpStream::connect(fleet.address()).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    // The connection lives as long as its sender.
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(10)).await;
        drop(sender)
    });
    response
}

async fn open_h2<B>(fleet: &Fleet, request: Request<B>) -> Response<hyper::body::Incoming>
where
    B: http_body::Body<Data = Bytes, Error = std::io::Error> + Send + Unpin + 'static,
{
    let stream = tokio::net::TcpStream::connect(fleet.address()).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_trailers_stream_both_ways_over_http_1() {
    echo_is_piece_by_piece(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_trailers_stream_both_ways_over_http_2() {
    echo_is_piece_by_piece(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_are_spoken_at_one_port_and_connections_to_the_cell_are_used_again() {
    let gate = FakeGate::echo("a").await;
    let fleet = fleet_with(&gate).await;
    for n in 0..20 {
        let answer = post(fleet.address(), "t-1", "/x", format!("h1-{n}")).await;
        assert_eq!(answer.body, format!("a:h1-{n}"));
        let mut request = request("POST", "t-1", "http://t-1.example.com/x", format!("h2-{n}"));
        request.headers_mut().remove("host");
        let answer = send_h2(fleet.address(), request).await;
        assert_eq!(answer.body, format!("a:h2-{n}"));
    }
    let metrics = fleet.admin("/metrics").await.body;
    let answered: f64 = metrics
        .lines()
        .filter(|line| line.starts_with("cell_router_requests_total") && line.contains("outcome=\"answered\""))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert!((answered - 40.0).abs() < f64::EPSILON, "{metrics}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_passes_whole_though_only_a_part_of_it_is_kept() {
    let gate = FakeGate::start(|request, _| async {
        let mut length = 0;
        let mut sum = 0_u64;
        let mut body = request.into_body().into_data_stream();
        while let Some(piece) = body.next().await {
            for byte in piece.unwrap() {
                length += 1;
                sum = sum.wrapping_mul(31).wrapping_add(u64::from(byte));
            }
        }
        text(StatusCode::OK, &format!("{length}:{sum}"))
    })
    .await;
    let fleet = fleet_with(&gate).await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let sum = body.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let answer = post(fleet.address(), "t-1", "/", body).await;
    assert_eq!(answer.body, format!("3000000:{sum}"));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_an_application_that_does_not_read_a_large_body_arrives_whole() {
    let gate = FakeGate::start(|_, _| async { text(StatusCode::CONFLICT, &"no".repeat(10_000)) }).await;
    let fleet = fleet_with(&gate).await;
    for _ in 0..5 {
        let answer = post(fleet.address(), "t-1", "/", vec![0; 500_000]).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::CONFLICT, 20_000));
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_gone_is_passed_over() {
    let gate = FakeGate::echo("a").await;
    let gone = FakeGate::echo("gone").await;
    let dead = gone.address.clone();
    drop(gone);
    let control = FakeControl::new(1);
    control.set_cell("a", &[dead, gate.address.clone()]);
    control.set_tenant("t-1", "a", 3, |_| {});
    let fleet = Fleet::start(control, |_| {}).await;
    for n in 0..10 {
        let answer = post(fleet.address(), "t-1", "/", format!("{n}")).await;
        assert_eq!(answer.body, format!("a:{n}"));
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_have_run_is_sent_again_only_where_that_is_harmless() {
    // Takes the first request and breaks the connection in the middle of its answer's head; later ones are answered.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&taken);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let _head = client::read_until(&mut stream, "\r\n\r\n").await;
            if number % 2 == 1 {
                let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
                tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
            }
        }
    });
    let control = FakeControl::new(1);
    control.set_cell("a", &[address]);
    control.set_tenant("t-1", "a", 3, |_| {});
    let fleet = Fleet::start(control, |_| {}).await;
    let answer = get(fleet.address(), "t-1", "/").await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "ok"), "a read is harmless");
    assert_eq!(taken.load(std::sync::atomic::Ordering::SeqCst), 2);
    let mut keyed = request("POST", "t-1", "/", "x");
    keyed.headers_mut().insert("idempotency-key", HeaderValue::from_static("k-1"));
    let answer = send(fleet.address(), keyed).await;
    assert_eq!(answer.status, StatusCode::OK, "a keyed write runs once");
    let answer = post(fleet.address(), "t-1", "/", "x").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_GATEWAY, "CELL_FAILED"));
    assert_eq!(taken.load(std::sync::atomic::Ordering::SeqCst), 5, "the last one was sent once");
    fleet.stop().await;
}

/// A cell that answers what it is told, byte by byte as it stands there, in pieces with a pause between.
async fn spelling_gate(pieces: &'static [&'static str]) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                while !client::read_until(&mut stream, "\r\n\r\n").await.is_empty() {
                    for piece in pieces {
                        tokio::io::AsyncWriteExt::write_all(&mut stream, piece.as_bytes()).await.unwrap();
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_come_before_the_answer_and_only_to_who_can_understand_them() {
    const HINT: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\ncell-secret: 1\r\nconnection: x\r\nx: 1\r\n\r\n";
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
    const TOGETHER: &str = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
    let control = FakeControl::new(1);
    control.set_cell("a", &[spelling_gate(&[HINT, ANSWER]).await]);
    control.set_cell("b", &[spelling_gate(&[TOGETHER]).await]);
    control.set_tenant("t-1", "a", 3, |_| {});
    control.set_tenant("t-2", "b", 3, |_| {});
    let fleet = Fleet::start(control, |_| {}).await;
    let ask = |version: &str, tenant: &str| format!("GET / HTTP/{version}\r\nhost: {tenant}.example.com\r\n\r\n");
    let apart = client::raw(fleet.address(), ask("1.1", "t-1").as_bytes(), "done").await;
    let (hint, answer) = apart.split_once("\r\n\r\n").unwrap();
    assert_eq!(hint, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload", "cleaned as an answer is");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    // In one piece, twice on one connection, the second asked before the first was answered.
    let twice = format!("{0}{0}", ask("1.1", "t-2"));
    let mut stream = tokio::net::TcpStream::connect(fleet.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, twice.as_bytes()).await.unwrap();
    let mut read = String::new();
    while read.matches("done").count() < 2 {
        read += &client::read_until(&mut stream, "done").await;
    }
    let order: Vec<&str> = read.lines().filter(|line| line.contains("HTTP/1.1")).collect();
    let one = ["HTTP/1.1 102 Processing", "HTTP/1.1 103 Early Hints"];
    assert_eq!(order[..2], one, "{read}");
    assert!(order[2].contains("200 OK") && order[3].ends_with(one[0]) && order[4] == one[1], "{read}");
    let old = client::raw(fleet.address(), ask("1.0", "t-1").as_bytes(), "done").await;
    assert!(old.starts_with("HTTP/1.0 200 OK"), "{old}");
    let over_h2 = send_h2(
        fleet.address(),
        Request::get("http://t-1.example.com/").body(http_body_util::Empty::<Bytes>::new()).unwrap(),
    )
    .await;
    assert_eq!((over_h2.status, over_h2.body.as_str()), (StatusCode::OK, "done"));
    fleet.stop().await;
}

/// An answer's version is the router's own; and of two lengths the one that was read by is passed on.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_cell_says_of_its_connection_is_not_said_of_the_client_s() {
    const OLD: &str = "HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\ndone";
    const BOTH: &str =
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n4\r\ndone\r\n0\r\n\r\n";
    let control = FakeControl::new(1);
    control.set_cell("a", &[spelling_gate(&[OLD]).await]);
    control.set_cell("b", &[spelling_gate(&[BOTH]).await]);
    control.set_tenant("t-1", "a", 3, |_| {});
    control.set_tenant("t-2", "b", 3, |_| {});
    let fleet = Fleet::start(control, |_| {}).await;
    for tenant in ["t-1", "t-2"] {
        let ask = format!("GET / HTTP/1.1\r\nhost: {tenant}.example.com\r\n\r\n");
        let answer = client::raw(fleet.address(), ask.as_bytes(), "done").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("connection:"), "the client's goes on: {answer}");
        assert!(!answer.contains("content-length: 2"), "{answer}");
    }
    fleet.stop().await;
}
