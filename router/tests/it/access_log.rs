//! The access log: a line for each request, once its answer has ended, in whatever way.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::client::{get, post, raw, read_until, send_h2};
use crate::control::FakeControl;
use crate::fleet::{Fleet, until};
use crate::gate::{Body, FakeGate, text};

struct Logged {
    fleet: Fleet,
    gate: FakeGate,
    folder: tempfile::TempDir,
}

impl Logged {
    async fn start(change: impl FnOnce(&mut cell_router::Options)) -> Self {
        let gate = FakeGate::start(|request, _| async move {
            match request.uri().path() {
                "/never" => std::future::pending().await,
                "/part" => {
                    let one = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"part")))]);
                    let body: Body = BodyExt::boxed(StreamBody::new(one.chain(futures::stream::pending())));
                    Response::new(body)
                }
                _ => {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    text(StatusCode::OK, &String::from_utf8_lossy(&body))
                }
            }
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access");
        let fleet = Fleet::start(FakeControl::of_two_tenants(&gate.address), |options| {
            options.access_log = Some(path);
            change(options);
        })
        .await;
        Self { fleet, gate, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("access")
    }

    /// The lines, once there are so many.
    async fn lines(&self, count: usize) -> Vec<Value> {
        let read = || std::fs::read_to_string(self.path()).unwrap_or_default();
        until("the lines are written", || read().lines().count() >= count).await;
        let lines: Vec<Value> = read().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), count);
        lines
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_says_what_was_asked_by_whom_and_how_much_went_both_ways() {
    let logged = Logged::start(|_| {}).await;
    assert_eq!(post(logged.fleet.address(), "t-1", "/docs/x?secret=1", "12345").await.body, "12345");
    let line = &logged.lines(1).await[0];
    for (field, value) in [
        ("path", "/docs/x".into()),
        ("method", "POST".into()),
        ("client", "127.0.0.1".into()),
        ("protocol", "HTTP/1.1".into()),
        ("tls", false.into()),
        ("tenant", "t-1".into()),
        ("status", 200.into()),
        ("received_bytes", 5.into()),
        ("answered_bytes", 5.into()),
        ("ended", Value::from("whole")),
    ] {
        assert_eq!(line[field], value, "{field} of {line}");
    }
    assert!(line["lasted_ms"].as_f64() >= line["took_ms"].as_f64(), "{line}");
    let over_h2 = http::Request::head("http://t-2.example.com/docs").body(http_body_util::Empty::new()).unwrap();
    assert_eq!(send_h2(logged.fleet.address(), over_h2).await.status, StatusCode::OK);
    let line = &logged.lines(2).await[1];
    assert_eq!((&line["protocol"], &line["ended"]), (&"HTTP/2.0".into(), &"whole".into()), "{line}");
    assert_eq!(get(logged.fleet.address(), "nobody", "/").await.status, StatusCode::NOT_FOUND);
    let line = &logged.lines(3).await[2];
    assert_eq!((&line["code"], &line["ended"]), (&"TENANT_UNKNOWN".into(), &"whole".into()), "{line}");
    logged.fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_not_logged_as_a_whole_one() {
    let logged = Logged::start(|_| {}).await;
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: t-1.example.com\r\n\r\n");
    let mut leaves = TcpStream::connect(logged.fleet.address()).await.unwrap();
    leaves.write_all(ask("/part").as_bytes()).await.unwrap();
    read_until(&mut leaves, "part").await;
    drop(leaves);
    let line = &logged.lines(1).await[0];
    let said = (&line["status"], &line["ended"], &line["answered_bytes"]);
    assert_eq!(said, (&200.into(), &"client_left".into(), &4.into()), "{line}");
    let mut waits = TcpStream::connect(logged.fleet.address()).await.unwrap();
    waits.write_all(ask("/never").as_bytes()).await.unwrap();
    until("it is asked", || logged.gate.seen().len() == 2).await;
    drop(waits);
    let line = &logged.lines(2).await[1];
    assert_eq!((&line["status"], &line["ended"]), (&499.into(), &"client_left".into()), "{line}");
    logged.fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_breaks_off_is_told_from_a_client_that_leaves() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let cell = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access");
    let fleet =
        Fleet::start(FakeControl::of_two_tenants(&address), |options| options.access_log = Some(path)).await;
    let ask = b"GET / HTTP/1.1\r\nhost: t-1.example.com\r\n\r\n";
    raw(fleet.address(), ask, "never").await;
    let read = || std::fs::read_to_string(folder.path().join("access")).unwrap_or_default();
    until("the line is written", || read().lines().count() == 1).await;
    let line: Value = serde_json::from_str(read().lines().next().unwrap()).unwrap();
    assert_eq!((&line["ended"], &line["answered_bytes"]), (&"cell_broke_off".into(), &4.into()), "{line}");
    cell.await.unwrap();
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_write_takes_only_so_much_of_a_line() {
    let logged = Logged::start(|options| options.access_log_query = true).await;
    let long = format!("/docs?q={}", "x".repeat(5_000));
    assert_eq!(get(logged.fleet.address(), "t-1", &long).await.status, StatusCode::OK);
    let path = logged.lines(1).await[0]["path"].as_str().unwrap().to_owned();
    assert!(path.starts_with("/docs?q=xxx") && path.ends_with("x…") && path.len() < 1_100, "{}", path.len());
    // Over HTTP/1 a method of more than 32 characters does not get so far.
    let odd = http::Request::builder().method("M".repeat(4_000).as_str()).uri("http://t-1.example.com/");
    send_h2(logged.fleet.address(), odd.body(http_body_util::Empty::new()).unwrap()).await;
    let line = &logged.lines(2).await[1];
    assert_eq!(line["method"].as_str().unwrap(), "M".repeat(32), "{line}");
    let large = http::Request::get("http://t-1.example.com/docs").header("x-large", "x".repeat(40_000));
    send_h2(logged.fleet.address(), large.body(http_body_util::Empty::new()).unwrap()).await;
    let line = &logged.lines(3).await[2];
    let said = (&line["status"], &line["code"], &line["path"], &line["protocol"]);
    assert_eq!(said, (&431.into(), &"HEADER_TOO_LARGE".into(), &"/docs".into(), &"HTTP/2.0".into()), "{line}");
    let detail = format!("GET / HTTP/1.1\r\nhost: {}.example.com\r\n\r\n", "T".repeat(4_000));
    raw(logged.fleet.address(), detail.as_bytes(), "\r\n\r\n").await;
    assert!(logged.lines(4).await[3]["detail"].as_str().unwrap_or_default().len() < 600);
    tokio::time::timeout(Duration::from_secs(10), logged.fleet.stop()).await.unwrap();
}
