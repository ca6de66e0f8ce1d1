//! Clients that take their time: what they keep is theirs, and no place in the cell of everybody.

use std::time::Duration;

use bytes::Bytes;
use cell_router::Options;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{get, raw, read_until, send, send_h2};
use crate::control::FakeControl;
use crate::fleet::{Fleet, until};
use crate::gate::{FakeGate, full, text};

/// More than is taken for granted once the head of an answer is here.
const LARGE: usize = 1 << 20;

/// A cell of sixteen places that reads what it is sent, and has something large, with tenants t-1 and t-2.
async fn cell(change: impl FnOnce(&mut Options)) -> (FakeGate, Fleet) {
    let gate = FakeGate::start(|request, _| async move {
        let is_large = request.uri().path() == "/large";
        let _read = request.into_body().collect().await;
        if is_large { http::Response::new(full(vec![b'x'; LARGE])) } else { text(StatusCode::OK, "done") }
    })
    .await;
    let control = FakeControl::of_two_tenants(&gate.address);
    let fleet = Fleet::start(control, |options| {
        options.fairness.cell_concurrency_initial = 16;
        options.fairness.cell_concurrency_min = 16;
        options.fairness.cell_concurrency_max = 16;
        options.fairness.queue_wait = Duration::from_secs(10);
        change(options);
    })
    .await;
    (gate, fleet)
}

/// Opens an upload and sends the first byte of it.
async fn upload(fleet: &Fleet) -> TcpStream {
    let mut stream = TcpStream::connect(fleet.address()).await.unwrap();
    let head = b"PUT /up HTTP/1.1\r\nhost: t-1.example.com\r\ncontent-length: 50000\r\n\r\n1";
    stream.write_all(head).await.unwrap();
    stream
}

async fn until_nobody_has_a_place(fleet: &Fleet) {
    let emptied = async {
        while fleet.metric("cell_router_cell_requests", "cell=\"a\"").await > 0.5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), emptied).await.expect("the places are given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_stand_still_keep_no_places() {
    let (gate, fleet) = cell(|_| {}).await;
    let mut uploads = Vec::new();
    for _ in 0..40 {
        uploads.push(upload(&fleet).await);
    }
    assert_eq!(get(fleet.address(), "t-2", "/").await.status, StatusCode::OK, "another tenant");
    until("all uploads are at the cell", || gate.seen().len() == 41).await;
    assert_eq!(get(fleet.address(), "t-1", "/").await.status, StatusCode::OK, "the same tenant");
    until_nobody_has_a_place(&fleet).await;
    for upload in &mut uploads {
        upload.write_all(&[b'2'; 49_999]).await.unwrap();
    }
    for upload in &mut uploads {
        let answer = read_until(upload, "done").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_keep_no_places() {
    let (_gate, fleet) = cell(|_| {}).await;
    let stream = TcpStream::connect(fleet.address()).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let asked = (0..40).map(|_| {
        let mut sender = sender.clone();
        let request = Request::get("http://t-1.example.com/large").body(Empty::<Bytes>::new()).unwrap();
        async move { sender.send_request(request).await.unwrap() }
    });
    let unread = futures::future::join_all(asked).await;
    assert!(unread.iter().all(|answer| answer.status() == StatusCode::OK));
    assert_eq!(get(fleet.address(), "t-2", "/").await.status, StatusCode::OK, "another tenant");
    until_nobody_has_a_place(&fleet).await;
    drop(unread);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_too_slowly_is_refused_though_it_never_stops() {
    let (_gate, fleet) = cell(|options| {
        options.limits.body_rate_min = 1_000_000;
        options.timeouts.body_idle = Duration::from_millis(300);
    })
    .await;
    let (mut reads, mut writes) = upload(&fleet).await.into_split();
    let trickle = tokio::spawn(async move {
        while writes.write_all(b"1").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = String::new();
    let reading = async {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = reads.read(&mut piece).await {
            answer.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
    };
    // However it ends: the router closes with what is still coming unread.
    tokio::time::timeout(Duration::from_secs(10), reading).await.expect("it is not read for ever");
    trickle.abort();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("below 1000000 a second"), "{answer}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_answers_before_it_has_read_is_heard_and_nobody_is_blamed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                read_until(&mut stream, "\r\n\r\n").await;
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
                // What has come by now, and what comes later, is left unread: the connection is reset.
                stream.readable().await.unwrap();
                let answer = b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig";
                stream.write_all(answer).await.unwrap();
            });
        }
    });
    let control = FakeControl::new(1);
    control.set_cell("a", &[address]);
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, |options| {
        options.containment.breaker_failures_min = 3;
        options.instances.eject_after = 2;
    })
    .await;
    for _ in 0..12 {
        let pieces =
            (0..64).map(|_| Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from(vec![b'x'; 64 << 10]))));
        let body = http_body_util::StreamBody::new(futures::stream::iter(pieces));
        let request = Request::put("http://t-1.example.com/").body(body).unwrap();
        // Over HTTP/2, where a client is told before it has sent everything.
        let answer = send_h2(fleet.address(), request).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.as_str()),
            (413, "big"),
            "the cell has refused, and not failed"
        );
    }
    assert!(fleet.metric("cell_router_instance_ejections_total", "").await < 0.5);
    assert!(fleet.metric("cell_router_breaker_openings_total", "").await < 0.5);
    fleet.stop().await;
}

/// A cell that says how long its answer is, sends the half of it, goes on after `pause`, and stays.
async fn half_and_half(pause: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let head = read_until(&mut stream, "\r\n\r\n").await;
                let length =
                    if head.contains("/stream") { "transfer-encoding: chunked" } else { "content-length: 8" };
                let half = if head.contains("/stream") { "4\r\nhalf\r\n" } else { "half" };
                stream.write_all(format!("HTTP/1.1 200 OK\r\n{length}\r\n\r\n{half}").as_bytes()).await.unwrap();
                tokio::time::sleep(pause).await;
                let rest = if head.contains("/stream") { "4\r\nhalf\r\n0\r\n\r\n" } else { "half" };
                // The router may have left.
                let _ = stream.write_all(rest.as_bytes()).await;
                let _left = read_until(&mut stream, "never").await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_stops_within_an_answer_is_given_up_and_one_that_streams_may_rest() {
    let control = FakeControl::of_two_tenants(&half_and_half(Duration::from_secs(2)).await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access");
    let fleet = Fleet::start(control, |options| {
        options.timeouts.answer_idle = Duration::from_millis(300);
        options.access_log = Some(path);
    })
    .await;
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: t-1.example.com\r\n\r\n");
    let answer = raw(fleet.address(), ask("/whole").as_bytes(), "never").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nhalf"), "{answer}");
    let answer = raw(fleet.address(), ask("/stream").as_bytes(), "\r\n0\r\n\r\n").await;
    assert_eq!(answer.matches("half").count(), 2, "{answer}");
    let read = || std::fs::read_to_string(folder.path().join("access")).unwrap_or_default();
    until("the lines are written", || read().lines().count() == 2).await;
    let ended: Vec<_> = read()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["ended"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ended, ["cell_stalled", "whole"]);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_late_is_not_taken_for_a_cell_that_stops() {
    // More than sockets keep for whoever does not read.
    const LENGTH: usize = 32 << 20;
    let gate = FakeGate::start(|_, _| async { http::Response::new(full(vec![b'x'; LENGTH])) }).await;
    let fleet = Fleet::start(FakeControl::of_two_tenants(&gate.address), |options| {
        options.timeouts.answer_idle = Duration::from_millis(100);
    })
    .await;
    let mut stream = TcpStream::connect(fleet.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: t-1.example.com\r\nconnection: close\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.len() > LENGTH && answer.ends_with(b"xxx"), "{} bytes", answer.len());
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_targets_and_fields_are_held_to_the_same_rules() {
    let (gate, fleet) = cell(|options| options.limits.headers_max = 20).await;
    let ask = async |target: &str, fields: usize| {
        let mut request = Request::get(format!("http://t-1.example.com{target}"));
        for _ in 0..fields {
            request = request.header("x-more", "1");
        }
        let answer = send_h2(fleet.address(), request.body(Empty::<Bytes>::new()).unwrap()).await;
        (answer.status.as_u16(), answer.code())
    };
    assert_eq!(ask("/a|b?c=/d", 20).await.0, 200);
    assert_eq!(ask("/a", 21).await, (431, "HEADER_TOO_LARGE".into()));
    for target in ["/a\\b", "/h\u{e9}", "/?a`b"] {
        assert_eq!(ask(target, 0).await, (400, "MESSAGE_AMBIGUOUS".into()), "{target}");
    }
    assert_eq!(gate.seen().len(), 1);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gate_does_not_take_has_not_run_and_says_what_to_do() {
    let gate = FakeGate::start(|_, _| async move {
        let document = r#"{"code":"CONTEXT_INVALID","hint":"give the router a key"}"#;
        let mut response = text(StatusCode::FORBIDDEN, document);
        cell_gate::wire::mark_not_executed(response.headers_mut(), cell_gate::wire::Code::ContextInvalid);
        response
    })
    .await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, |_| {}).await;
    let answer = send(fleet.address(), crate::client::request("POST", "t-1", "/", "x")).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "CELL_REFUSED"));
    assert!(answer.body.contains("CONTEXT_INVALID: give the router a key"), "{}", answer.body);
    assert_eq!(gate.seen().len(), 1, "trying again helps nobody");
    fleet.stop().await;
}
