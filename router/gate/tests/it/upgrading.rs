//! WebSockets and the like behind a gate: counted as writes, and cut when the tenant is held.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cell_gate::{Application, Gate, GateOptions, NoMappings, RequestBody, ResponseBody, Upgrade, full};
use cell_protos::v1::Role;
use cell_trust::{SigningKey, TenantContext};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::{FakeAgent, code, eventually, send, stamped};

/// Gives back what comes on a tunnel; refuses `/no`.
struct Echo;

impl Application for Echo {
    async fn call(&self, mut request: Request<RequestBody>) -> Response<ResponseBody> {
        let upgrade = request.extensions_mut().remove::<Upgrade>();
        let Some(upgrade) = upgrade.filter(|_| request.uri().path() != "/no") else {
            return Response::new(full("plain"));
        };
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(upgrade.open().await.unwrap());
            let _ended = tokio::io::copy(&mut read, &mut write).await;
        });
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", "upgrade".parse().unwrap());
        response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        response
    }
}

async fn gate(adjust: impl FnOnce(&mut GateOptions)) -> (FakeAgent, Gate, CancellationToken) {
    let agent = FakeAgent::start(Duration::from_secs(3)).await;
    let shutdown = CancellationToken::new();
    let mut options = GateOptions::new(agent.address.to_string(), "g1", "127.0.0.1:0");
    options.wait.wait_ms = 200;
    adjust(&mut options);
    let gate = Gate::start(options, Arc::new(NoMappings), Echo, shutdown.clone()).await.unwrap();
    let handle = gate.handle();
    eventually("the gate is attached", || handle.is_open()).await;
    (agent, gate, shutdown)
}

fn asking(path: &str) -> Request<Full<Bytes>> {
    let mut request = stamped(Method::GET, path, "t", 1, "");
    request.headers_mut().insert("connection", "upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    request
}

async fn open(gate: &Gate) -> TokioIo<hyper::upgrade::Upgraded> {
    let stream = tokio::net::TcpStream::connect(gate.address()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(asking("/chat")).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    TokioIo::new(hyper::upgrade::on(response).await.unwrap())
}

#[tokio::test]
async fn a_tunnel_counts_as_a_write_and_a_hold_cuts_it() {
    let (agent, gate, shutdown) = gate(|_| {}).await;
    agent.grant("t", (1, 1), Role::Owner);
    let mut tunnel = open(&gate).await;
    tunnel.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    tunnel.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
    assert_eq!(gate.handle().counts().writes, 1);
    agent.hold("t", (1, 1), 77);
    assert_eq!(tunnel.read(&mut back).await.unwrap(), 0, "it has ended");
    eventually("the hold is quiesced", || agent.quiesced().contains(&77)).await;
    assert_eq!(gate.handle().counts().writes, 0);
    let refused = send(gate.address(), asking("/chat")).await;
    assert_eq!((refused.status(), code(&refused)), (StatusCode::SERVICE_UNAVAILABLE, "HOLD"));
    shutdown.cancel();
    gate.stopped().await;
}

#[tokio::test]
async fn an_application_may_answer_a_request_for_an_upgrade_like_any_other() {
    let (agent, gate, shutdown) = gate(|_| {}).await;
    agent.grant("t", (1, 1), Role::Owner);
    let answer = send(gate.address(), asking("/no")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    eventually("nothing runs", || gate.handle().counts().writes == 0).await;
    shutdown.cancel();
    gate.stopped().await;
}

#[tokio::test]
async fn a_gate_that_is_told_whom_to_believe_refuses_everybody_else() {
    let key = SigningKey::from_bytes(&[9; 32]);
    let public = key.public().to_string();
    let (agent, gate, shutdown) = gate(|options| options.context_keys = vec![public]).await;
    agent.grant("t", (1, 1), Role::Owner);
    let refused = send(gate.address(), stamped(Method::GET, "/no", "t", 1, "")).await;
    assert_eq!((refused.status(), code(&refused)), (StatusCode::FORBIDDEN, "CONTEXT_MISSING"));
    let context = TenantContext {
        tenant: cell_model::TenantId::new("t").unwrap(),
        uid: cell_model::Uid(1),
        epoch: cell_model::Epoch(1),
        tier: cell_model::Tier::Gold,
        expires_at: u64::MAX,
    };
    for (signer, status) in [(key, StatusCode::OK), (SigningKey::from_bytes(&[8; 32]), StatusCode::FORBIDDEN)] {
        let mut request = stamped(Method::GET, "/no", "t", 1, "");
        request.headers_mut().insert("cell-context", context.to_header(&signer).parse().unwrap());
        assert_eq!(send(gate.address(), request).await.status(), status);
    }
    shutdown.cancel();
    gate.stopped().await;
}
