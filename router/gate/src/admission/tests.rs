use std::sync::atomic::AtomicUsize;

use cell_model::{
    CellId, ClusterId, Epoch, Hold, Lineage, Mapping, MappingState, Rev, Revision, TenantId, Tier, Uid,
};
use cell_trust::{RoutedMapping, SignedMapping, SigningKey};
use futures::future::BoxFuture;

use super::*;
use crate::decision::Role;
use crate::newest::{MappingSource, NoMappings};

fn stamp(epoch: u64) -> RequestStamp {
    RequestStamp { tenant: TenantId::new("t").unwrap(), uid: Uid(1), epoch: Epoch(epoch) }
}

fn grant(epoch: u64, role: Role) -> Option<Grant> {
    Some(Grant { uid: Uid(1), epoch: Epoch(epoch), role })
}

fn signed(epoch: u64) -> SignedMapping {
    let mapping = Mapping {
        lineage: Lineage(1),
        tenant: TenantId::new("t").unwrap(),
        uid: Uid(1),
        epoch: Epoch(epoch),
        rev: Rev(1),
        revision: Revision(1),
        state: MappingState::Active,
        owner: CellId::new("c2").unwrap(),
        peer: None,
        hold: Hold::None,
        tier: Tier::Bronze,
    };
    let routed = RoutedMapping { cluster: ClusterId(1), mapping, owner_gates: vec![], owner_agent: String::new() };
    SignedMapping::sign(&SigningKey::from_bytes(&[7; 32]), &routed)
}

/// Answers with one mapping after a while, and counts how often it was asked.
struct Counting {
    asked: Arc<AtomicUsize>,
    epoch: u64,
}

impl MappingSource for Counting {
    fn newest(&self, _tenant: TenantId) -> BoxFuture<'static, Option<SignedMapping>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = signed(self.epoch);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some(answer)
        })
    }
}

fn gatekeeper_with(source: impl MappingSource, limits: WaitLimits) -> Arc<Gatekeeper> {
    let gatekeeper = Gatekeeper::new(Asker::new(Arc::new(source), Duration::from_secs(1)), limits);
    gatekeeper.lease.renew(Instant::now(), Duration::from_secs(3_600));
    Arc::new(gatekeeper)
}

fn gatekeeper() -> Arc<Gatekeeper> {
    gatekeeper_with(NoMappings, WaitLimits::default())
}

fn refused(outcome: Result<Admission, Refusal>) -> Code {
    outcome.expect_err("it must be refused").code()
}

/// Lets every other task run until it waits.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_waits_for_the_end_of_a_hold_and_is_then_let_in() {
    let gatekeeper = gatekeeper();
    let tenant = stamp(1).tenant;
    gatekeeper.table.install(&tenant, grant(1, Role::Holding { hold_id: 1 }));
    let waiting = tokio::spawn({
        let gatekeeper = Arc::clone(&gatekeeper);
        async move { gatekeeper.admit(&stamp(1), true).await.is_ok() }
    });
    settle().await;
    assert_eq!(gatekeeper.waiting(), 1);
    gatekeeper.table.install(&tenant, grant(1, Role::Owner));
    assert!(waiting.await.unwrap());
    assert_eq!(gatekeeper.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waited_out_a_cutover_is_told_the_new_owner() {
    let gatekeeper = gatekeeper();
    let tenant = stamp(1).tenant;
    gatekeeper.table.install(&tenant, grant(1, Role::Holding { hold_id: 1 }));
    let waiting = tokio::spawn({
        let gatekeeper = Arc::clone(&gatekeeper);
        async move { refused(gatekeeper.admit(&stamp(1), true).await) }
    });
    settle().await;
    gatekeeper.table.install(&tenant, grant(1, Role::Fenced));
    settle().await;
    assert!(!waiting.is_finished());
    let redirect = Redirect::new(&tenant, &signed(2)).unwrap();
    gatekeeper.table.install(&tenant, grant(1, Role::Redirect(Arc::new(redirect))));
    assert_eq!(waiting.await.unwrap(), Code::Stale);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_deadline_with_the_reason() {
    let gatekeeper = gatekeeper();
    let tenant = stamp(1).tenant;
    let rows = [
        (grant(1, Role::Holding { hold_id: 1 }), 1, Code::Hold),
        (grant(1, Role::Fenced), 1, Code::Fenced),
        (grant(1, Role::Importing), 1, Code::Importing),
        (grant(1, Role::Owner), 2, Code::NotYet),
        (None, 1, Code::NotOwner),
    ];
    for (granted, epoch, code) in rows {
        gatekeeper.table.install(&tenant, granted);
        let began = Instant::now();
        assert_eq!(refused(gatekeeper.admit(&stamp(epoch), true).await), code);
        assert_eq!(began.elapsed().as_millis(), 3_000, "{code}");
    }
    assert!(gatekeeper.table.is_empty(), "a tenant without a grant is forgotten when nobody waits for it");
}

#[tokio::test(start_paused = true)]
async fn without_a_lease_nothing_is_let_in_and_nothing_is_remembered() {
    let gatekeeper = gatekeeper();
    gatekeeper.lease.end();
    for n in 0..100 {
        let stranger = RequestStamp { tenant: TenantId::new(format!("t{n}")).unwrap(), ..stamp(1) };
        assert_eq!(refused(gatekeeper.admit(&stranger, n % 2 == 0).await), Code::NoLease);
    }
    assert!(gatekeeper.table.is_empty());
    gatekeeper.table.install(&stamp(1).tenant, grant(1, Role::Owner));
    for is_write in [true, false] {
        assert_eq!(refused(gatekeeper.admit(&stamp(1), is_write).await), Code::NoLease);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_stale_requests_ask_once_for_the_newest_mapping() {
    let asked = Arc::new(AtomicUsize::new(0));
    let gatekeeper = gatekeeper_with(Counting { asked: Arc::clone(&asked), epoch: 5 }, WaitLimits::default());
    gatekeeper.table.install(&stamp(1).tenant, grant(5, Role::Owner));
    let all = (0..100).map(|n| {
        let gatekeeper = Arc::clone(&gatekeeper);
        async move { refused(gatekeeper.admit(&stamp(1 + n % 4), n % 2 == 0).await) }
    });
    let codes = futures::future::join_all(all).await;
    assert!(codes.iter().all(|code| *code == Code::Stale), "{codes:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // Kept, as long as it is not older than the grant.
    assert_eq!(refused(gatekeeper.admit(&stamp(3), true).await), Code::Stale);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_mapping_that_tells_nothing_new_is_not_handed_out() {
    let asked = Arc::new(AtomicUsize::new(0));
    let gatekeeper = gatekeeper_with(Counting { asked: Arc::clone(&asked), epoch: 3 }, WaitLimits::default());
    gatekeeper.table.install(&stamp(1).tenant, grant(5, Role::Owner));
    let outcome = gatekeeper.admit(&stamp(3), true).await;
    assert!(matches!(outcome, Err(Refusal::Refused(Code::Stale))), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn more_than_may_wait_are_refused_at_once() {
    let limits = WaitLimits { waiting_per_tenant: 3, ..WaitLimits::default() };
    let gatekeeper = gatekeeper_with(NoMappings, limits);
    gatekeeper.table.install(&stamp(1).tenant, grant(1, Role::Fenced));
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let gatekeeper = Arc::clone(&gatekeeper);
            tokio::spawn(async move { refused(gatekeeper.admit(&stamp(1), true).await) })
        })
        .collect();
    settle().await;
    assert_eq!(gatekeeper.waiting(), 3);
    assert_eq!(refused(gatekeeper.admit(&stamp(1), true).await), Code::TooManyWaiting);
    for task in waiting {
        assert_eq!(task.await.unwrap(), Code::Fenced);
    }
    assert_eq!(gatekeeper.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_request_whose_client_goes_away_leaves_its_place() {
    let gatekeeper = gatekeeper();
    let stranger = stamp(1);
    let waiting = tokio::spawn({
        let gatekeeper = Arc::clone(&gatekeeper);
        async move { gatekeeper.admit(&stranger, true).await.is_ok() }
    });
    settle().await;
    assert_eq!((gatekeeper.waiting(), gatekeeper.table.len()), (1, 1));
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    assert_eq!((gatekeeper.waiting(), gatekeeper.table.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn closing_sends_home_who_waits() {
    let gatekeeper = gatekeeper();
    gatekeeper.table.install(&stamp(1).tenant, grant(1, Role::Fenced));
    let waiting = tokio::spawn({
        let gatekeeper = Arc::clone(&gatekeeper);
        async move { refused(gatekeeper.admit(&stamp(1), false).await) }
    });
    settle().await;
    gatekeeper.close();
    assert_eq!(waiting.await.unwrap(), Code::ShuttingDown);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_data_layer_becomes_what_the_gate_learns_a_moment_later() {
    let gatekeeper = gatekeeper();
    let tenant = stamp(1).tenant;
    gatekeeper.table.install(&tenant, grant(1, Role::Owner));
    let admission = gatekeeper.admit(&stamp(1), true).await.unwrap();
    let answering = tokio::spawn({
        let gatekeeper = Arc::clone(&gatekeeper);
        async move { gatekeeper.after_refusal(&stamp(1), admission, Code::Fenced).await.code() }
    });
    settle().await;
    let redirect = Redirect::new(&tenant, &signed(2)).unwrap();
    gatekeeper.table.install(&tenant, grant(1, Role::Redirect(Arc::new(redirect))));
    assert_eq!(answering.await.unwrap(), Code::Stale);
}

#[tokio::test(start_paused = true)]
async fn a_read_is_not_answered_when_the_cell_has_stopped_to_own_meanwhile() {
    let gatekeeper = gatekeeper();
    let tenant = stamp(1).tenant;
    gatekeeper.table.install(&tenant, grant(1, Role::Owner));
    let admission = gatekeeper.admit(&stamp(1), false).await.unwrap();
    assert_eq!(gatekeeper.confirm_read(&stamp(1), &admission), Ok(()));
    gatekeeper.table.install(&tenant, grant(1, Role::Holding { hold_id: 2 }));
    assert_eq!(gatekeeper.confirm_read(&stamp(1), &admission), Ok(()), "reads are served in a hold");
    gatekeeper.table.install(&tenant, grant(1, Role::Fenced));
    assert_eq!(gatekeeper.confirm_read(&stamp(1), &admission), Err(Code::Fenced));
    gatekeeper.table.install(&tenant, grant(1, Role::Owner));
    gatekeeper.lease.end();
    assert_eq!(gatekeeper.confirm_read(&stamp(1), &admission), Err(Code::NoLease));
}

/// Admission on many threads against holds that come and go: whenever a hold is reported as quiesced, no write that was
/// admitted before it is running, and none is admitted while it lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hold_is_quiesced_exactly_when_no_write_runs() {
    let gatekeeper = gatekeeper();
    let tenant = stamp(1).tenant;
    gatekeeper.table.install(&tenant, grant(1, Role::Owner));
    let running = Arc::new(AtomicUsize::new(0));
    let finished = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..16)
        .map(|n| {
            let (gatekeeper, running) = (Arc::clone(&gatekeeper), Arc::clone(&running));
            let (finished, stop) = (Arc::clone(&finished), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::Acquire) {
                    let admission = gatekeeper.admit(&stamp(1), true).await.unwrap();
                    running.fetch_add(1, Ordering::SeqCst);
                    if n % 2 == 0 {
                        tokio::task::yield_now().await;
                    }
                    running.fetch_sub(1, Ordering::SeqCst);
                    drop(admission);
                    finished.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for hold_id in 1..=100u64 {
        gatekeeper.table.install(&tenant, grant(1, Role::Holding { hold_id }));
        let quiesced = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                let told = gatekeeper.table.outbox().take();
                if !told.is_empty() {
                    return told;
                }
                gatekeeper.table.outbox().filled().await;
            }
        });
        assert_eq!(quiesced.await.expect("the hold quiesces"), [hold_id]);
        for _ in 0..50 {
            assert_eq!(running.load(Ordering::SeqCst), 0, "a write runs in hold {hold_id}");
            std::hint::spin_loop();
        }
        let before = finished.load(Ordering::SeqCst);
        gatekeeper.table.install(&tenant, grant(1, Role::Owner));
        let deadline = Instant::now() + Duration::from_secs(10);
        while finished.load(Ordering::SeqCst) < before + 8 {
            assert!(Instant::now() < deadline, "no write is let in after hold {hold_id}");
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Release);
    for writer in writers {
        writer.await.unwrap();
    }
}
