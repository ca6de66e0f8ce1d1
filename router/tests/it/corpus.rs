//! Ambiguous messages, one a line in `tests/corpus/*.txt`, each with the code that it is refused with, sent as they are
//! to a running router; and those that have to pass.

#[path = "../corpus/reader.rs"]
mod reader;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use self::reader::corpus;
use crate::control::FakeControl;
use crate::fleet::Fleet;
use crate::gate::{FakeGate, text};

/// A router before an application that counts what it has read to its end.
async fn fleet() -> (FakeGate, Arc<AtomicUsize>, Fleet) {
    let finished = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&finished);
    let gate = FakeGate::start(move |request, _| {
        let counter = Arc::clone(&counter);
        async move {
            if request.into_body().collect().await.is_ok() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
            text(StatusCode::OK, "ok")
        }
    })
    .await;
    let control = FakeControl::of_two_tenants(&gate.address);
    let fleet = Fleet::start(control, |_| {}).await;
    (gate, finished, fleet)
}

/// All that the router answers until it closes, or until it has said nothing for a while.
async fn answer(fleet: &Fleet, bytes: &[u8], wait_for_end: bool) -> String {
    let mut stream = TcpStream::connect(fleet.address()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut read = Vec::new();
    let limit = Duration::from_secs(if wait_for_end { 5 } else { 10 });
    let reading = async {
        let mut piece = [0; 4096];
        loop {
            match stream.read(&mut piece).await {
                Ok(length @ 1..) => read.extend_from_slice(&piece[..length]),
                Ok(0) | Err(_) => return true,
            }
            if !wait_for_end && read.ends_with(b"ok") {
                return false;
            }
        }
    };
    let closed = tokio::time::timeout(limit, reading).await;
    let shown = String::from_utf8_lossy(&read).into_owned();
    match closed {
        Ok(_) => shown,
        Err(_) => format!("(still open) {shown}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ambiguous_message_is_refused_with_its_code_and_runs_nowhere() {
    let (_gate, finished, fleet) = fleet().await;
    let messages = corpus(|file| file != "accepted.txt");
    assert!(messages.len() >= 200, "{} messages", messages.len());
    let mut wrong = Vec::new();
    for crowd in messages.chunks(32) {
        let answers = futures::future::join_all(crowd.iter().map(|message| {
            // What is refused after its head was understood may be followed by another request: this one closes.
            let last: &[u8] = if message.file == "chunks.txt" { b"" } else { b"GET / bad\r\n" };
            let closing = [&message.bytes[..], last].concat();
            let fleet = &fleet;
            async move { answer(fleet, &closing, true).await }
        }))
        .await;
        for (message, answer) in crowd.iter().zip(answers) {
            let (status, code) = message.expected.split_once(' ').unwrap();
            let fits = answer.starts_with(&format!("HTTP/1.1 {status} "))
                && answer.contains(&format!("\"code\":\"{code}\""));
            if !fits || answer.contains("200 OK") {
                wrong.push(format!(
                    "{}: {}: expected {}, got {answer:?}",
                    message.file, message.name, message.expected
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), messages.len(), wrong.join("\n"));
    assert_eq!(finished.load(Ordering::SeqCst), 0, "the application has read a message to its end");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_order_passes() {
    let (_gate, finished, fleet) = fleet().await;
    let messages = corpus(|file| file == "accepted.txt");
    let mut expected = 0;
    for message in &messages {
        let answer = answer(&fleet, &message.bytes, false).await;
        let fine =
            answer.starts_with("HTTP/1.") && answer.contains(" 200 OK\r\n") && !answer.contains("HTTP/1.1 4");
        assert!(fine, "{}: {answer}", message.name);
        expected += 1;
    }
    assert!(finished.load(Ordering::SeqCst) >= expected);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_in_the_middle_of_a_pipeline_does_not_disturb_what_came_before() {
    let (gate, _finished, fleet) = fleet().await;
    let good = "GET /good HTTP/1.1\r\nHost: t-1.example.com\r\n\r\n";
    let bytes = format!("{good}{good}GET /bad HTTP/1.1\nHost: t-1.example.com\n\n{good}");
    let answer = answer(&fleet, bytes.as_bytes(), true).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 400 Bad Request").count(), 1, "{answer}");
    assert!(answer.contains("bare line feed") && answer.contains("connection: close"), "{answer}");
    assert_eq!(gate.seen().len(), 2);
    fleet.stop().await;
}
