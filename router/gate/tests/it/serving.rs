//! What routers are answered while grants, holds and leases change.

use cell_gate::wire;
use cell_model::{CellId, ClusterId, Hold, Lineage, Mapping, MappingState, Rev, Revision, Tier};
use cell_protos::v1::{Role, SignedMapping as WireMapping, TenantGrant};
use cell_trust::{RoutedMapping, SignedMapping, SigningKey, TrustedKeys};
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_granted_tenant_is_served_over_both_versions_of_http() {
    let cell = cell(LONG, |_| {}).await;
    cell.agent.grant("t", (1, 3), Role::Owner);
    let to = cell.gate.address();
    let answer = send(to, stamped(Method::POST, "/docs", "t", 3, "hello")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "Ok(5)");

    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = stamped(Method::GET, "/docs", "t", 3, "");
    *request.uri_mut() = format!("http://{to}/docs").parse().unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::OK);

    // What a router takes of a client at the most, and what it adds.
    let mut many = stamped(Method::GET, "/docs", "t", 3, "");
    for _ in 0..108 {
        many.headers_mut().append("x-more", "1".parse().unwrap());
    }
    assert_eq!(send(to, many).await.status(), StatusCode::OK);

    let own = cell.gate.address().to_string();
    assert_eq!(cell.agent.hellos(), [("g1".to_string(), own)]);
}

#[tokio::test]
async fn a_stale_router_is_told_the_new_cell_under_a_signature() {
    let cell = cell(LONG, |_| {}).await;
    let key = SigningKey::generate();
    let mapping = Mapping {
        lineage: Lineage(1),
        tenant: TenantId::new("t").unwrap(),
        uid: Uid(1),
        epoch: Epoch(4),
        rev: Rev(9),
        revision: Revision(30),
        state: MappingState::Cutover,
        owner: CellId::new("c2").unwrap(),
        peer: None,
        hold: Hold::None,
        tier: Tier::Bronze,
    };
    let routed = RoutedMapping {
        cluster: ClusterId(1),
        mapping,
        owner_gates: vec!["127.0.0.1:9".into()],
        owner_agent: "127.0.0.1:8".into(),
    };
    let signed = SignedMapping::sign(&key, &routed);
    cell.agent.install(TenantGrant {
        tenant: "t".into(),
        uid: 1,
        epoch: 3,
        role: Role::Redirect.into(),
        mapping: Some(WireMapping {
            payload: signed.payload.clone().into(),
            key_id: signed.key_id.clone(),
            signature: signed.signature.clone().into(),
        }),
        ..TenantGrant::default()
    });
    for method in [Method::GET, Method::POST] {
        let answer = send(cell.gate.address(), stamped(method, "/docs", "t", 3, "x")).await;
        assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST);
        assert!(wire::is_not_executed(answer.headers()));
        let header = answer.headers()[&wire::MAPPING].to_str().unwrap();
        let told = SignedMapping::from_header(header).unwrap().verify(&TrustedKeys::new([key.public()])).unwrap();
        assert_eq!(told, routed);
    }
    assert_eq!(cell.app.finished.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_silent_agent_stops_reads_and_writes_within_the_lease() {
    let lease = Duration::from_millis(600);
    let cell = cell(lease, |_| {}).await;
    cell.agent.grant("t", (1, 1), Role::Owner);
    let to = cell.gate.address();
    assert_eq!(send(to, stamped(Method::GET, "/", "t", 1, "")).await.status(), StatusCode::OK);
    cell.agent.silence(true);
    let silent_since = Instant::now();
    let handle = cell.gate.handle();
    eventually("the lease runs out", || !handle.is_open()).await;
    // A pong that was on its way may have arrived after the silence began.
    assert!(silent_since.elapsed() < lease + Duration::from_millis(300), "{:?}", silent_since.elapsed());
    for method in [Method::GET, Method::POST] {
        let answer = send(to, stamped(method, "/", "t", 1, "")).await;
        assert_eq!((answer.status(), code(&answer)), (StatusCode::SERVICE_UNAVAILABLE, "NO_LEASE"));
        assert!(wire::is_not_executed(answer.headers()));
    }
    cell.agent.silence(false);
    eventually("the lease is renewed", || handle.is_open()).await;
    assert_eq!(send(to, stamped(Method::GET, "/", "t", 1, "")).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_gate_attaches_again_and_learns_what_it_has_missed() {
    let cell = cell(Duration::from_millis(600), |options| options.wait.wait_ms = 200).await;
    for tenant in ["kept", "fenced"] {
        cell.agent.grant(tenant, (1, 1), Role::Owner);
    }
    let to = cell.gate.address();
    assert_eq!(send(to, stamped(Method::GET, "/", "kept", 1, "")).await.status(), StatusCode::OK);
    cell.agent.leave(true);
    cell.agent.grant("fenced", (1, 1), Role::Fenced);
    let handle = cell.gate.handle();
    eventually("the lease runs out", || !handle.is_open()).await;
    cell.agent.leave(false);
    eventually("the gate is attached again", || handle.is_open()).await;
    assert_eq!(send(to, stamped(Method::GET, "/", "kept", 1, "")).await.status(), StatusCode::OK);
    let answer = send(to, stamped(Method::GET, "/", "fenced", 1, "")).await;
    assert_eq!((answer.status(), code(&answer)), (StatusCode::SERVICE_UNAVAILABLE, "FENCED"));
    assert_eq!(cell.agent.hellos().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn holds_quiesce_under_load_and_no_request_fails() {
    let cell = cell(LONG, |_| {}).await;
    cell.agent.grant("t", (1, 1), Role::Owner);
    let to = cell.gate.address();
    let stop = CancellationToken::new();
    let writers: Vec<_> = (0..12)
        .map(|_| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut connection = connect(to).await;
                let mut written = 0usize;
                while !stop.is_cancelled() {
                    connection.ready().await.unwrap();
                    let answer = connection.send_request(stamped(Method::POST, "/", "t", 1, "x")).await.unwrap();
                    assert_eq!(answer.status(), StatusCode::OK);
                    answer.into_body().collect().await.unwrap();
                    written += 1;
                }
                written
            })
        })
        .collect();
    for hold_id in 1..=20u64 {
        let before = cell.app.finished.load(Ordering::SeqCst);
        eventually("writes go on", || cell.app.finished.load(Ordering::SeqCst) > before + 12).await;
        cell.agent.hold("t", (1, 1), hold_id);
        eventually("the hold is quiesced", || cell.agent.quiesced().contains(&hold_id)).await;
        let (running, finished) =
            (cell.app.running.load(Ordering::SeqCst), cell.app.finished.load(Ordering::SeqCst));
        assert_eq!(running, 0, "a write runs in hold {hold_id}");
        let handle = cell.gate.handle();
        eventually("every writer waits", || handle.counts().waiting == 12).await;
        let answer = send(to, stamped(Method::GET, "/", "t", 1, "")).await;
        assert_eq!(answer.status(), StatusCode::OK, "reads are served in a hold");
        assert_eq!(cell.app.finished.load(Ordering::SeqCst), finished, "a write ran in hold {hold_id}");
        cell.agent.grant("t", (1, 1), Role::Owner);
    }
    stop.cancel();
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    assert_eq!(written, cell.app.finished.load(Ordering::SeqCst));
    assert_eq!(cell.agent.quiesced(), (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_write_that_keeps_a_hold_waiting_is_told_of_until_it_has_finished() {
    let cell = cell(LONG, |_| {}).await;
    cell.agent.grant("t", (1, 1), Role::Owner);
    let mut request = stamped(Method::POST, "/stuck", "t", 1, "x");
    request.headers_mut().insert("cell-request-id", "r-stuck".parse().unwrap());
    let stuck = tokio::spawn(send(cell.gate.address(), request));
    eventually("it runs", || cell.app.running.load(Ordering::SeqCst) == 1).await;
    assert_eq!(cell.agent.unquiesced(), [], "nobody waits for it");
    cell.agent.hold("t", (1, 1), 7);
    eventually("it is told of", || !cell.agent.unquiesced().is_empty()).await;
    let told = cell.agent.unquiesced().remove(0);
    assert_eq!((told.hold_id, told.writes, told.request_id.as_str()), (7, 1, "r-stuck"));
    eventually("and grows old", || cell.agent.unquiesced().iter().any(|now| now.oldest_ms > told.oldest_ms)).await;
    assert_eq!(cell.agent.quiesced(), [0; 0]);
    cell.app.gate.notify_one();
    eventually("the hold is quiesced", || cell.agent.quiesced() == [7]).await;
    eventually("and waits for nothing", || cell.agent.unquiesced().is_empty()).await;
    assert_eq!(stuck.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_refused_client_is_not_asked_for_its_body() {
    let cell = cell(LONG, |options| options.wait.wait_ms = 50).await;
    cell.agent.grant("t", (1, 1), Role::Fenced);
    let mut stream = tokio::net::TcpStream::connect(cell.gate.address()).await.unwrap();
    let head = "POST /docs HTTP/1.1\r\nhost: c\r\ncell-tenant: t\r\ncell-uid: 1\r\ncell-epoch: 1\r\n\
                content-length: 5\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("cell-code: FENCED"), "{answer}");
}

#[tokio::test]
async fn a_long_body_does_not_cost_the_answer_nor_the_connection() {
    let cell = cell(LONG, |options| options.wait.wait_ms = 50).await;
    cell.agent.grant("t", (1, 1), Role::Fenced);
    let mut connection = connect(cell.gate.address()).await;
    for _ in 0..5 {
        connection.ready().await.unwrap();
        let request = stamped(Method::POST, "/docs", "t", 1, vec![b'x'; 200_000]);
        let answer = connection.send_request(request).await.unwrap();
        assert_eq!(code(&answer), "FENCED");
        answer.into_body().collect().await.unwrap();
    }
    assert_eq!(cell.app.finished.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_gate_whose_port_is_taken_says_so() {
    let cell = cell(LONG, |_| {}).await;
    let taken = cell.gate.address().to_string();
    let options = GateOptions::new("127.0.0.1:1", "g2", taken.clone());
    let shutdown = CancellationToken::new();
    let error =
        Gate::start(options, Arc::new(NoMappings), Counting::default(), shutdown).await.expect_err("it is taken");
    assert_eq!(error.code(), "PORT_IN_USE");
    assert!(error.to_string().contains(&taken), "{error}");
}
