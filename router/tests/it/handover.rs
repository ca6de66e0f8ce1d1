//! A new router takes over from the one that runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::client::{get, request};
use crate::control::FakeControl;
use crate::fleet::{Fleet, until};
use crate::gate::FakeGate;

/// Asks over kept connections, opening another where it is told that this one closes, and over new ones. Counts what
/// went well, `each` requests on a connection and says what did not.
async fn ask(
    address: std::net::SocketAddr,
    each: usize,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
) -> Result<(), String> {
    while !stop.load(Ordering::SeqCst) {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        for _ in 0..each {
            let answer = sender.send_request(request("GET", "t-1", "/", "")).await;
            let answer = answer.map_err(|error| format!("send: {error}"))?;
            if answer.status() != StatusCode::OK {
                return Err(answer.status().to_string());
            }
            let closes = answer.headers().get("connection").is_some_and(|value| value == "close");
            crate::client::read(answer).await;
            answered.fetch_add(1, Ordering::SeqCst);
            if closes {
                break;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_router_takes_over_under_load_and_no_request_fails() {
    let gate = FakeGate::echo("a").await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("handover");
    let start = || {
        let path = path.clone();
        Fleet::start(Arc::clone(&control), move |options| {
            options.handover_socket = Some(path);
            // One hands on what it accepts where it has clearly more.
            options.threads = 2;
            options.timeouts.quiesce_min = Duration::from_millis(1_500);
            options.timeouts.quiesce_max = Duration::from_secs(10);
        })
    };
    let mut runs = start().await;
    let address = runs.address();
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let asking: Vec<_> = (0..24)
        .map(|n| tokio::spawn(ask(address, [20, 1, 1][n % 3], Arc::clone(&stop), Arc::clone(&answered))))
        .collect();
    for _ in 0..3 {
        let before = answered.load(Ordering::SeqCst);
        until("requests are answered", || answered.load(Ordering::SeqCst) > before + 100).await;
        let next = start().await;
        assert_eq!(next.address(), address, "the same sockets");
        runs.running.await.unwrap().unwrap();
        runs = next;
    }
    let before = answered.load(Ordering::SeqCst);
    until("requests are answered", || answered.load(Ordering::SeqCst) > before + 100).await;
    stop.store(true, Ordering::SeqCst);
    for asked in asking {
        assert_eq!(asked.await.unwrap(), Ok(()));
    }
    assert_eq!(get(address, "t-1", "/").await.status, StatusCode::OK);
    assert_eq!(runs.admin("/readyz").await.status, StatusCode::OK, "operators ask the new one");
    runs.stop().await;
}
