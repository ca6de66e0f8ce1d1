//! A tenant moves from cell to cell under its writers' hands; the test runs the steps that a coordinator would.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cell_model::{ClusterId, Hold, Mapping, MappingState, Rev, Revision, Tier};
use cell_trust::{RoutedMapping, SignedMapping, SigningKey, TrustedKeys};

use super::*;

/// A router that believes what it is told under a signature, and sends again only what was surely not executed.
pub(crate) struct Following {
    trusted: TrustedKeys,
    router: Router,
    gate: SocketAddr,
    epoch: u64,
    pub(crate) redirected: usize,
}

impl Following {
    pub(crate) async fn from(gate: SocketAddr, trusted: TrustedKeys) -> Self {
        Self { trusted, router: Router::to(gate, "t", 1).await, gate, epoch: 1, redirected: 0 }
    }

    pub(crate) async fn ask(&mut self, method: Method, uri: &str, body: &str, key: Option<&str>) -> Answer {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.router.ask_under(method.clone(), uri, body.to_owned(), key).await;
            if answer.header("cell-not-executed") != "1" {
                return answer;
            }
            assert!(Instant::now() < deadline, "not executed for 20 seconds: {answer:?}");
            if answer.status == StatusCode::MISDIRECTED_REQUEST {
                let told = SignedMapping::from_header(answer.header("cell-mapping")).unwrap();
                let told = told.verify(&self.trusted).unwrap();
                assert!(told.mapping.epoch.get() > self.epoch, "a redirect to something older");
                self.epoch = told.mapping.epoch.get();
                self.gate = told.owner_gates[0].parse().unwrap();
                self.router = Router::to(self.gate, "t", self.epoch).await;
                self.redirected += 1;
            }
        }
    }
}

fn mapping(owner: &str, epoch: u64, to: &Running) -> RoutedMapping {
    let mapping = Mapping {
        lineage: Lineage(1),
        tenant: TenantId::new("t").unwrap(),
        uid: Uid(1),
        epoch: Epoch(epoch),
        rev: Rev(epoch * 10),
        revision: Revision(epoch * 10),
        state: MappingState::Cutover,
        owner: CellId::new(owner).unwrap(),
        peer: None,
        hold: Hold::None,
        tier: Tier::Bronze,
    };
    let owner_gates = to.gates.iter().map(ToString::to_string).collect();
    RoutedMapping { cluster: ClusterId(1), mapping, owner_gates, owner_agent: to.agent.clone() }
}

async fn start(name: &str, directory: &Path, key: &SigningKey) -> Running {
    let mut options = Options::new(CellId::new(name).unwrap(), directory);
    options.insecure_plaintext = true;
    options.trusted_keys = vec![key.public().to_string()];
    Running::start(options).await
}

/// Everything before the hold.
pub(crate) async fn copy(source: &Running, target: &Running, source_cell: &CellId) {
    let context = context("t", 1, Some(1));
    source.steps.start_capture(&source.agent, &context).await.unwrap();
    target.steps.prepare_import(&target.agent, &context, source_cell, &source.agent).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let progress = target.steps.import_status(&target.agent, &context).await.unwrap();
        if progress.backfilled && progress.lag_bytes < 100_000 {
            break;
        }
        assert!(Instant::now() < deadline, "not copied: {progress:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    source.steps.engage_sync(&source.agent, &context, true).await.unwrap();
    target.steps.prepare_reverse(&target.agent, &context).await.unwrap();
}

/// From the hold to the fence. A machine that is too slow for the hold's budget misses it, which costs nothing.
async fn fence(source: &Running, target: &Running, held: &StepContext) -> Result<(), cell_client::StepError> {
    let budget = Duration::from_secs(2);
    let sealed = source.steps.hold_writes(&source.agent, held, budget).await?;
    target.steps.await_applied(&target.agent, held, sealed, budget).await?;
    let here = source.steps.digest_at(&source.agent, held, sealed, budget).await?;
    let there = target.steps.digest_at(&target.agent, held, sealed, budget).await?;
    assert_eq!(here, there, "the copy differs");
    source.steps.fence(&source.agent, held, sealed).await?;
    Ok(())
}

/// Hold, fence, activation, and the news of it to the old owner.
pub(crate) async fn cut_over(source: &Running, target: &Running, key: &SigningKey) {
    let mut attempt = 1;
    while let Err(missed) = fence(source, target, &context("t", 1, Some(attempt))).await {
        assert!(attempt < 20, "{missed}");
        let _lapsed = source.steps.release_hold(&source.agent, &context("t", 1, Some(attempt))).await;
        attempt += 1;
    }
    let committed = context("t", 2, Some(attempt));
    let (source_cell, target_cell) = (CellId::new("c1").unwrap(), CellId::new("c2").unwrap());
    let follower = Some((&source_cell, source.agent.as_str()));
    target.steps.activate(&target.agent, &committed, follower).await.unwrap();
    let signed = SignedMapping::sign(key, &mapping("c2", 2, target));
    let follow = Some((&target_cell, target.agent.as_str()));
    source.steps.deliver_mapping(&source.agent, &committed, &signed, follow).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_under_its_writers_and_nothing_is_lost_or_done_twice() {
    let key = SigningKey::generate();
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let source = start("c1", directories[0].path(), &key).await;
    let target = start("c2", directories[1].path(), &key).await;
    moves_under_its_writers(source, target, &key).await;
}

/// From `c1` to `c2`; every write that was answered is there once.
pub(crate) async fn moves_under_its_writers(source: Running, target: Running, key: &SigningKey) {
    source.grant("t").await;
    let trusted = TrustedKeys::new([key.public()]);
    let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..6usize)
        .map(|writer| {
            let (gate, trusted) = (source.gates[writer % 2], trusted.clone());
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut router = Following::from(gate, trusted).await;
                let mut written = 0usize;
                while !stop.load(Ordering::SeqCst) {
                    let name = format!("w{writer}-{written}");
                    let posted = router.ask(Method::POST, "/docs", &format!("\"{name}\""), Some(&name)).await;
                    assert_eq!(posted.status, StatusCode::CREATED, "{posted:?}");
                    let counted = router.ask(Method::POST, "/counters/n/increment", "", None).await;
                    assert_eq!(counted.status, StatusCode::OK, "{counted:?}");
                    written += 1;
                    done.fetch_add(1, Ordering::SeqCst);
                }
                (writer, written, router.redirected)
            })
        })
        .collect();
    let more = async |wanted: usize| {
        let before = done.load(Ordering::SeqCst);
        eventually("writes go on", || done.load(Ordering::SeqCst) >= before + wanted).await;
    };
    more(30).await;
    copy(&source, &target, &CellId::new("c1").unwrap()).await;
    more(30).await;
    cut_over(&source, &target, key).await;
    more(30).await;
    stop.store(true, Ordering::SeqCst);
    let mut total = 0;
    let mut names = std::collections::BTreeSet::new();
    for writer in writers {
        let (writer, written, redirected) = writer.await.unwrap();
        assert_eq!(redirected, 1, "every writer is told once of the new owner");
        total += written;
        names.extend((0..written).map(|n| format!("w{writer}-{n}")));
    }
    let mut router = Following::from(source.gates[0], trusted).await;
    // A key that the source has executed is not executed again by the target.
    let again = router.ask(Method::POST, "/docs", "\"w0-0\"", Some("w0-0")).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(router.ask(Method::GET, "/counters/n", "", None).await.json()["value"], total);
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let uri = format!("/docs?limit=1000&values=true{after}");
        let page = router.ask(Method::GET, &uri, "", None).await.json();
        found.extend(
            page["items"].as_array().unwrap().iter().map(|item| item["value"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(found.len(), names.len(), "each post is there once");
    assert_eq!(found.into_iter().collect::<std::collections::BTreeSet<_>>(), names);
    source.stop().await;
    target.stop().await;
}
