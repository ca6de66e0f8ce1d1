//! A whole cell over real sockets: agent, store, two gates and the application; the test plays coordinator and router.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cutover;
#[cfg(not(feature = "planted"))]
mod elsewhere;
mod moving;
#[cfg(feature = "planted")]
mod planted;
mod serving;
#[cfg(not(feature = "planted"))]
mod shop;
mod starting;
#[cfg(not(feature = "planted"))]
mod tables;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cell_client::{AgentPool, StepContext};
use cell_gate::RequestStamp;
use cell_model::{Attempt, CellId, Epoch, Leg, Lineage, MoveId, TenantId, Term, Uid};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sample_cell::{Cell, Options};
use tokio_util::sync::CancellationToken;

/// Waits until something holds, and fails where it does not within ten seconds.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A running cell, the coordinator's steps to it, and routers' requests.
pub(crate) struct Running {
    pub(crate) cell: Cell,
    pub(crate) agent: String,
    pub(crate) gates: Vec<SocketAddr>,
    pub(crate) steps: AgentPool,
    pub(crate) shutdown: CancellationToken,
}

pub(crate) fn options(directory: &Path) -> Options {
    Options { insecure_plaintext: true, ..Options::new(CellId::new("c1").unwrap(), directory) }
}

impl Running {
    pub(crate) async fn start(options: Options) -> Self {
        let shutdown = CancellationToken::new();
        let cell = Cell::start(options, shutdown.clone()).await.unwrap();
        let addresses = cell.addresses();
        let handles = cell.gates();
        eventually("every gate is attached", || handles.iter().all(cell_gate::GateHandle::is_open)).await;
        let steps = AgentPool::new(cell_client::AgentOptions::default());
        Self { cell, agent: addresses.agent.to_string(), gates: addresses.gates, steps, shutdown }
    }

    pub(crate) async fn grant(&self, tenant: &str) {
        self.steps.grant(&self.agent, &context(tenant, 1, None)).await.unwrap();
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.cell.stopped().await.unwrap();
    }
}

pub(crate) fn context(tenant: &str, epoch: u64, attempt: Option<u32>) -> StepContext {
    StepContext {
        lineage: Lineage(1),
        term: Term(1),
        tenant: TenantId::new(tenant).unwrap(),
        uid: Uid(1),
        move_id: attempt.map(|_| MoveId(9)),
        attempt: Attempt(attempt.unwrap_or_default()),
        epoch: Epoch(epoch),
        leg: attempt.map(|_| Leg::Forward),
    }
}

/// What a router gets.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

/// One connection of a router to a gate.
pub(crate) struct Router {
    connection: http1::SendRequest<Full<Bytes>>,
    tenant: String,
    epoch: u64,
}

impl Router {
    pub(crate) async fn to(gate: SocketAddr, tenant: &str, epoch: u64) -> Self {
        let stream = tokio::net::TcpStream::connect(gate).await.unwrap();
        let (connection, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(driver);
        Self { connection, tenant: tenant.into(), epoch }
    }

    pub(crate) async fn ask(&mut self, method: Method, uri: &str, body: impl Into<Bytes>) -> Answer {
        self.ask_under(method, uri, body, None).await
    }

    pub(crate) async fn ask_under(
        &mut self,
        method: Method,
        uri: &str,
        body: impl Into<Bytes>,
        key: Option<&str>,
    ) -> Answer {
        let mut request = Request::new(Full::new(body.into()));
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().unwrap();
        let tenant = TenantId::new(&self.tenant).unwrap();
        let headers = request.headers_mut();
        headers.insert("host", "cell".parse().unwrap());
        RequestStamp { tenant, uid: Uid(1), epoch: Epoch(self.epoch) }.insert_into(headers);
        if let Some(key) = key {
            headers.insert("idempotency-key", key.parse().unwrap());
        }
        self.connection.ready().await.unwrap();
        let (parts, body) = self.connection.send_request(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }
}
