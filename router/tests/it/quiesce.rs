//! How a router ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::client::{self, get, post, request};
use crate::control::FakeControl;
use crate::fleet::{Fleet, until};
use crate::gate::{FakeGate, text};

/// A cell that answers reads at once, and writes when it is let.
async fn patient(change: impl FnOnce(&mut cell_router::Options)) -> (FakeGate, Arc<Semaphore>, Fleet) {
    let let_go = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&let_go);
    let gate = FakeGate::start(move |request, _| {
        let waiting = Arc::clone(&waiting);
        async move {
            if request.method() != http::Method::GET {
                waiting.acquire().await.unwrap().forget();
            }
            text(StatusCode::OK, "done")
        }
    })
    .await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 1, |_| {});
    let fleet = Fleet::start(control, change).await;
    (gate, let_go, fleet)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_finish_and_new_connections_go_elsewhere() {
    let (gate, let_go, fleet) = patient(|options| {
        options.timeouts.quiesce_min = Duration::from_millis(300);
        options.timeouts.quiesce_max = Duration::from_secs(10);
    })
    .await;
    let address = fleet.address();
    let write = tokio::spawn(async move { post(address, "t-1", "/", "x").await });
    let mut over_h2 = request("POST", "t-1", "http://t-1.example.com/", "x");
    over_h2.headers_mut().remove("host");
    let over_h2 = tokio::spawn(async move { client::send_h2(address, over_h2).await });
    until("both are at the cell", || gate.seen().len() == 2).await;
    fleet.shutdown.cancel();
    until_not_ready(&fleet).await;
    // Still within the first deadline: taken, and asked to go elsewhere next time.
    let late = get(address, "t-1", "/").await;
    assert_eq!((late.status, late.headers["connection"].to_str().unwrap()), (StatusCode::OK, "close"));
    wait_until_refused(address).await;
    assert!(!write.is_finished() && !over_h2.is_finished(), "both are in flight still");
    let_go.add_permits(10);
    assert_eq!(write.await.unwrap().body, "done");
    assert_eq!(over_h2.await.unwrap().body, "done");
    tokio::time::timeout(Duration::from_secs(5), fleet.running).await.unwrap().unwrap().unwrap();
}

async fn until_not_ready(fleet: &Fleet) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while fleet.admin("/readyz").await.status != StatusCode::SERVICE_UNAVAILABLE {
        assert!(tokio::time::Instant::now() < deadline, "it still says that it is ready");
    }
}

async fn wait_until_refused(address: std::net::SocketAddr) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(address).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "it still takes connections");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What became of a client that has connected, asked once and read to the end.
#[derive(Debug, PartialEq)]
enum Asked {
    /// And asked to go elsewhere next time, or not.
    Answered { goes: bool },
    /// It was not let in.
    Refused,
    /// It was let in, and has no whole answer.
    Broken(String),
}

async fn ask_once(address: std::net::SocketAddr) -> Asked {
    let mut stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Asked::Refused,
        Err(error) => return Asked::Broken(format!("connecting: {error}")),
    };
    let head = b"GET / HTTP/1.1\r\nhost: t-1.example.com\r\n\r\n";
    if let Err(error) = tokio::io::AsyncWriteExt::write_all(&mut stream, head).await {
        return Asked::Broken(format!("asking: {error}"));
    }
    let mut answer = Vec::new();
    let mut piece = [0; 1_024];
    // Before it is told to quiesce the router keeps the connection.
    while !answer.ends_with(b"done") {
        match tokio::io::AsyncReadExt::read(&mut stream, &mut piece).await {
            Ok(0) => return Asked::Broken(format!("ended: {:?}", String::from_utf8_lossy(&answer))),
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(error) => return Asked::Broken(format!("reading: {error}")),
        }
    }
    let goes = String::from_utf8_lossy(&answer).to_ascii_lowercase().contains("connection: close");
    Asked::Answered { goes }
}

/// Until its socket is closed a router that stops answers whoever gets in, and from then on it refuses: nobody is let in and
/// then cut off.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_while_the_router_stops_are_answered_or_refused_and_never_reset() {
    let (_gate, _let_go, fleet) = patient(|options| {
        // Nobody else of this machine listens there, so that what is refused stays refused.
        options.listen = "127.0.0.77:0".parse().unwrap();
        options.timeouts.quiesce_min = Duration::from_secs(1);
        options.timeouts.quiesce_max = Duration::from_secs(20);
    })
    .await;
    let address = fleet.address();
    let counts: Arc<[AtomicUsize; 2]> = Arc::default();
    let answered = |goes: bool| counts[usize::from(goes)].load(Ordering::Relaxed);
    let clients: Vec<_> = (0..24)
        .map(|_| {
            let counts = Arc::clone(&counts);
            tokio::spawn(async move {
                loop {
                    match ask_once(address).await {
                        Asked::Answered { goes } => counts[usize::from(goes)].fetch_add(1, Ordering::Relaxed),
                        other => return other,
                    };
                }
            })
        })
        .collect();
    until("the clients are served", || answered(false) > 100).await;
    fleet.shutdown.cancel();
    for client in clients {
        assert_eq!(client.await.unwrap(), Asked::Refused);
    }
    assert!(answered(true) > 0, "they are served while it stops");
    tokio::time::timeout(Duration::from_secs(10), fleet.running).await.unwrap().unwrap().unwrap();
}

/// Over HTTP/2, too, who has just come is heard before it is sent away.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_2_that_comes_while_the_router_stops_is_answered_once() {
    let (_gate, _let_go, fleet) = patient(|options| {
        options.timeouts.quiesce_min = Duration::from_secs(2);
        options.timeouts.quiesce_max = Duration::from_secs(20);
    })
    .await;
    fleet.shutdown.cancel();
    until_not_ready(&fleet).await;
    for _ in 0..20 {
        let stream = TcpStream::connect(fleet.address()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let driving = tokio::spawn(connection);
        // Its settings, and whatever comes with them, are there before it asks.
        client = client.ready().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let asked = http::Request::get("http://t-1.example.com/").body(()).unwrap();
        let (answer, _) = client.send_request(asked, true).unwrap();
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
        driving.abort();
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_does_not_keep_a_router_from_stopping() {
    let (_gate, _let_go, fleet) = patient(|_| {}).await;
    let idle = TcpStream::connect(fleet.address()).await.unwrap();
    let (_sender, connection) =
        hyper::client::conn::http1::handshake::<_, http_body_util::Empty<bytes::Bytes>>(TokioIo::new(idle))
            .await
            .unwrap();
    let ended = tokio::spawn(connection);
    tokio::time::timeout(Duration::from_secs(5), fleet.stop()).await.unwrap();
    let _broken_or_closed = tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_finish_is_cut_at_the_second_deadline() {
    let (gate, _let_go, fleet) = patient(|options| options.timeouts.quiesce_max = Duration::from_millis(200)).await;
    let mut stream = TcpStream::connect(fleet.address()).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: t-1.example.com\r\ncontent-length: 0\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, head).await.unwrap();
    until("it is at the cell", || gate.seen().len() == 1).await;
    tokio::time::timeout(Duration::from_secs(5), fleet.stop()).await.unwrap();
    assert_eq!(client::read_until(&mut stream, "HTTP").await, "");
}
