//! Holds, fences and redirects, as the coordinator's steps to a real agent bring them about.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cell_model::{ClusterId, Hold, Mapping, MappingState, Rev, Revision, Tier};
use cell_trust::{RoutedMapping, SignedMapping, SigningKey, TrustedKeys};

use super::*;

fn moved(to_epoch: u64) -> RoutedMapping {
    let mapping = Mapping {
        lineage: Lineage(1),
        tenant: TenantId::new("t").unwrap(),
        uid: Uid(1),
        epoch: Epoch(to_epoch),
        rev: Rev(20),
        revision: Revision(50),
        state: MappingState::Cutover,
        owner: CellId::new("c2").unwrap(),
        peer: Some(CellId::new("c1").unwrap()),
        hold: Hold::None,
        tier: Tier::Bronze,
    };
    RoutedMapping {
        cluster: ClusterId(1),
        mapping,
        owner_gates: vec!["127.0.0.1:9".into()],
        owner_agent: "127.0.0.1:8".into(),
    }
}

/// Clients that increment a counter without a pause; each answer is counted.
struct Writers {
    acknowledged: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Writers {
    fn start(running: &Running, count: usize) -> Self {
        let (acknowledged, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let write = |n: usize| {
            let gate = running.gates[n % running.gates.len()];
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut router = Router::to(gate, "t", 1).await;
                while !stop.load(Ordering::SeqCst) {
                    let answer = router.ask(Method::POST, "/counters/n/increment", "").await;
                    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let tasks = (0..count).map(write).collect();
        Self { acknowledged, stop, tasks }
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    async fn go_on(&self) {
        let before = self.acknowledged();
        eventually("writes go on", || self.acknowledged() > before + 10).await;
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.acknowledged.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_seals_the_tenant_and_costs_no_write() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(options(directory.path())).await;
    running.grant("t").await;
    running.steps.start_capture(&running.agent, &context("t", 1, Some(1))).await.unwrap();
    let writers = Writers::start(&running, 6);
    let mut reader = Router::to(running.gates[0], "t", 1).await;
    for attempt in 1..=4 {
        writers.go_on().await;
        let context = context("t", 1, Some(attempt));
        let budget = Duration::from_secs(2);
        let sealed = running.steps.hold_writes(&running.agent, &context, budget).await.unwrap();
        // An answer that was on its way may still arrive; nothing is executed.
        let value = reader.ask(Method::GET, "/counters/n", "").await.json()["value"].as_i64().unwrap();
        let handles = running.cell.gates();
        eventually("every writer waits", || handles.iter().map(|gate| gate.counts().waiting).sum::<u32>() == 6)
            .await;
        let again = reader.ask(Method::GET, "/counters/n", "").await.json()["value"].as_i64().unwrap();
        assert_eq!(value, again, "a write was executed after the seal");
        assert_eq!(writers.acknowledged(), usize::try_from(value).unwrap());
        let repeated = running.steps.hold_writes(&running.agent, &context, budget).await.unwrap();
        assert_eq!(repeated, sealed, "the same hold has the same seal");
        running.steps.release_hold(&running.agent, &context).await.unwrap();
    }
    let acknowledged = writers.stop().await;
    let value = reader.ask(Method::GET, "/counters/n", "").await.json()["value"].as_u64().unwrap();
    assert_eq!(usize::try_from(value).unwrap(), acknowledged);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_cell_lets_everybody_wait_and_then_tells_them_the_new_owner() {
    let directory = tempfile::tempdir().unwrap();
    let key = SigningKey::generate();
    let mut options = options(directory.path());
    options.trusted_keys = vec![key.public().to_string()];
    let running = Running::start(options).await;
    running.grant("t").await;
    let mut router = Router::to(running.gates[0], "t", 1).await;
    router.ask(Method::PUT, "/docs/a", "1").await;
    let context = context("t", 1, Some(1));
    running.steps.start_capture(&running.agent, &context).await.unwrap();
    let sealed = running.steps.hold_writes(&running.agent, &context, Duration::from_secs(2)).await.unwrap();
    running.steps.fence(&running.agent, &context, sealed).await.unwrap();

    let waiting: Vec<_> = [(0, Method::PUT), (1, Method::GET)]
        .into_iter()
        .map(|(gate, method)| {
            let gate = running.gates[gate];
            tokio::spawn(async move { Router::to(gate, "t", 1).await.ask(method, "/docs/a", "2").await })
        })
        .collect();
    let handles = running.cell.gates();
    eventually("both wait", || handles.iter().map(|gate| gate.counts().waiting).sum::<u32>() == 2).await;

    let mut committed = super::context("t", 2, Some(1));
    committed.term = Term(2);
    let signed = SignedMapping::sign(&key, &moved(2));
    running.steps.deliver_mapping(&running.agent, &committed, &signed, None).await.unwrap();
    for task in waiting {
        let answer = task.await.unwrap();
        assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{answer:?}");
        assert_eq!(answer.header("cell-not-executed"), "1");
        let told = SignedMapping::from_header(answer.header("cell-mapping")).unwrap();
        assert_eq!(told.verify(&TrustedKeys::new([key.public()])).unwrap(), moved(2));
    }
    // Once more after a restart: fence and redirect are durable.
    drop(router);
    running.stop().await;
    let running = Running::start(super::options(directory.path())).await;
    let answer = Router::to(running.gates[0], "t", 1).await.ask(Method::GET, "/docs/a", "").await;
    assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_tenant_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(options(directory.path())).await;
    running.grant("t").await;
    let mut router = Router::to(running.gates[0], "t", 1).await;
    router.ask(Method::PUT, "/docs/a", "1").await;
    running.steps.revoke(&running.agent, &context("t", 1, None)).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = router.ask(Method::GET, "/docs/a", "").await;
        if answer.status == StatusCode::GONE {
            assert_eq!(answer.header("cell-code"), "TENANT_DELETED");
            break;
        }
        // The gate is told a moment after the agent has answered.
        assert!(Instant::now() < deadline, "{answer:?}");
    }
    running.stop().await;
}
