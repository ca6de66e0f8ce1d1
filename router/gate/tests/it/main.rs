//! A gate over real sockets: an agent that the test plays, an application that counts, and HTTP clients as routers are.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod agent;
mod relaying;
mod serving;
mod stopping;
mod upgrading;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cell_gate::{Application, Gate, GateOptions, NoMappings, RequestBody, ResponseBody, full};
use cell_model::{Epoch, TenantId, Uid};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

pub(crate) use agent::FakeAgent;

/// Waits until something holds, and fails where it does not within ten seconds.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Counts the writes that run, and takes a little time for each.
#[derive(Clone, Default)]
pub(crate) struct Counting {
    pub(crate) running: Arc<AtomicUsize>,
    pub(crate) finished: Arc<AtomicUsize>,
    /// Writes to `/stuck` wait for a permit of it.
    pub(crate) gate: Arc<tokio::sync::Notify>,
}

impl Application for Counting {
    async fn call(&self, request: Request<RequestBody>) -> Response<ResponseBody> {
        let is_write = cell_gate::wire::is_write(request.method());
        let stuck = request.uri().path() == "/stuck";
        let length = request.into_body().collect().await.map(|body| body.to_bytes().len());
        if is_write {
            self.running.fetch_add(1, Ordering::SeqCst);
            if stuck {
                self.gate.notified().await;
            } else {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            self.finished.fetch_add(1, Ordering::SeqCst);
            self.running.fetch_sub(1, Ordering::SeqCst);
        }
        Response::new(full(format!("{length:?}")))
    }
}

pub(crate) struct Cell {
    pub(crate) agent: FakeAgent,
    pub(crate) gate: Gate,
    pub(crate) app: Counting,
    pub(crate) shutdown: CancellationToken,
}

/// A gate that is attached to a fake agent, in front of a counting application.
pub(crate) async fn cell(lease: Duration, adjust: impl FnOnce(&mut GateOptions)) -> Cell {
    let agent = FakeAgent::start(lease).await;
    let (app, shutdown) = (Counting::default(), CancellationToken::new());
    let mut options = GateOptions::new(agent.address.to_string(), "g1", "127.0.0.1:0");
    adjust(&mut options);
    let gate = Gate::start(options, Arc::new(NoMappings), app.clone(), shutdown.clone()).await.unwrap();
    let handle = gate.handle();
    eventually("the gate is attached", || handle.is_open()).await;
    Cell { agent, gate, app, shutdown }
}

pub(crate) fn stamped(
    method: Method,
    path: &str,
    tenant: &str,
    epoch: u64,
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body.into()));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    request.headers_mut().insert("host", "cell".parse().unwrap());
    let tenant = TenantId::new(tenant).unwrap();
    cell_gate::RequestStamp { tenant, uid: Uid(1), epoch: Epoch(epoch) }.insert_into(request.headers_mut());
    request
}

pub(crate) async fn connect(to: SocketAddr) -> http1::SendRequest<Full<Bytes>> {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends one request on a connection of its own.
pub(crate) async fn send(to: SocketAddr, request: Request<Full<Bytes>>) -> Response<hyper::body::Incoming> {
    connect(to).await.send_request(request).await.unwrap()
}

pub(crate) fn code(response: &Response<hyper::body::Incoming>) -> &str {
    response.headers().get("cell-code").map_or("", |code| code.to_str().unwrap())
}
