//! Writes that an application does not bring to an end, in the way of a hold.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cell_client::StepError;
use cell_gate::{Application, Gate, GateOptions, NoMappings, RequestBody, ResponseBody, full};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::cells::*;
use crate::deciding::ready;

/// Reads what it is sent, and never answers on one of its paths.
struct Hanging;

impl Application for Hanging {
    async fn call(&self, request: Request<RequestBody>) -> Response<ResponseBody> {
        let hangs = request.uri().path() == "/hangs";
        let _read = request.into_body().collect().await;
        if hangs {
            return std::future::pending().await;
        }
        Response::new(full("read"))
    }
}

/// Sends the head of a write, and the first byte of a body of two.
async fn begin(to: SocketAddr, path: &str, request_id: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: cell\r\ncell-tenant: t-1\r\ncell-uid: 7\r\ncell-epoch: 1\r\n\
         cell-request-id: {request_id}\r\ncontent-length: 2\r\n\r\n1"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// The age in a sentence, which goes on behind it with `then`.
fn age(said: &str, before: &str, then: &str) -> u64 {
    let found = said.split_once(before).and_then(|(_, rest)| rest.split_once(then));
    found.unwrap_or_else(|| panic!("{said}")).0.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_missed_names_the_request_that_it_has_waited_for() {
    let ground = Ground::new();
    let (a, _b) = ready(&ground).await;
    let shutdown = CancellationToken::new();
    let options = GateOptions::new(a.agent.clone(), "g-1", "127.0.0.1:0");
    let gate = Gate::start(options, Arc::new(NoMappings), Hanging, shutdown.clone()).await.unwrap();
    let writes_are = async |count: u64| {
        let are = async {
            while !gate.handle().is_open() || gate.handle().counts().writes != count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, are).await.expect("in time");
    };
    writes_are(0).await;
    // Its client goes away, and it hangs on.
    let mut hangs = begin(gate.address(), "/hangs", "r-hangs").await;
    hangs.write_all(b"2").await.unwrap();
    writes_are(1).await;
    drop(hangs);
    let mut trickles = begin(gate.address(), "/reads", "r-trickles").await;
    writes_are(2).await;

    // Long enough for the gate to have said so.
    let budget = Duration::from_millis(1_000);
    let missed = async |attempt: u32| match ground.pool.hold_writes(&a.agent, &context(1, attempt), budget).await {
        Err(StepError::Refused { code, reason }) if code == "NOT_QUIESCED" => reason,
        other => panic!("{other:?}"),
    };
    let said = missed(1).await;
    assert!(age(&said, ": g-1 (2 writes under way, the oldest for ", " ms: request r-hangs)") >= 1_000, "{said}");
    trickles.write_all(b"2").await.unwrap();
    let mut answer = [0; 15];
    trickles.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    writes_are(1).await;
    let said = missed(2).await;
    assert!(age(&said, ": g-1 (a write under way for ", " ms: request r-hangs)") >= 2_000, "{said}");
    shutdown.cancel();
}
