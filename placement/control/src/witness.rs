//! The witness: after each change of owner it waits until every router has seen it or is fenced, and keeps how each stood
//! in the audit trail. It stops nothing and delays nothing: a move is safe by its cells, this is the evidence of when the
//! fleet knew.

use std::sync::Arc;
use std::time::Duration;

use cell_model::{
    Change, Command, Crowd, Envelope, FleetView, MoveId, Phase, Revision, Sight, TenantId, TenantRecord,
};
use cell_store::Feed;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::service::Ground;

/// Changes of owner that are watched at once; what comes meanwhile has no evidence, and a line in the log.
const WATCHED_MAX: usize = 64;
/// A router is silent or fenced long before.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is watched: a commit.
struct Commit {
    tenant: TenantId,
    move_id: MoveId,
    revision: Revision,
}

impl Commit {
    /// The commit that a changed record is, if it is one.
    fn of(change: &Change) -> Option<Self> {
        let Change::Tenant(record) = change else { return None };
        let TenantRecord { id, revision, movement: Some(movement), .. } = record.as_ref() else { return None };
        let entered = movement.history.last()?;
        let is_commit = movement.phase == Phase::Activate && entered.revision == *revision;
        is_commit.then(|| Self { tenant: id.clone(), move_id: movement.id, revision: *revision })
    }
}

/// Follows the store until it stops. Works only while this node leads.
pub(crate) async fn run(ground: Ground, shutdown: CancellationToken) {
    let (store, routers) = (&ground.store, &ground.routers);
    let mut changes = store.subscribe(Some(store.view(|fleet| (fleet.lineage(), fleet.head().revision))));
    let slots = Arc::new(Semaphore::new(WATCHED_MAX));
    let mut leadership = store.leadership();
    loop {
        let feed = tokio::select! {
            feed = changes.next() => feed,
            changed = leadership.changed() => {
                if changed.is_err() { return }
                // Whatever a former term has heard says nothing in this one.
                routers.forget();
                continue;
            }
            () = shutdown.cancelled() => return,
        };
        let Ok(feed) = feed else { return };
        let Feed::Changes(committed) = feed else { continue };
        if !leadership.borrow().is_leader {
            continue;
        }
        let commits = committed.iter().flat_map(|one| one.changes.iter()).filter_map(Commit::of);
        for commit in commits {
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                tracing::warn!(tenant = %commit.tenant, "too many changes of owner at once: nobody watches this one");
                continue;
            };
            let (ground, shutdown) = (ground.clone(), shutdown.clone());
            tokio::spawn(async move {
                shutdown.run_until_cancelled(watch(&ground, commit)).await;
                drop(slot);
            });
        }
    }
}

async fn watch(ground: &Ground, commit: Commit) {
    let (store, routers) = (&ground.store, &ground.routers);
    let since = store.leadership().borrow().since;
    let lineage = store.view(|fleet| fleet.lineage());
    let at = (lineage, commit.revision);
    let (complete, known) = routers.await_seen(at, since, Instant::now() + PATIENCE).await;
    if known.is_empty() {
        return;
    }
    let sights = known.iter().map(|known| (known.report.name.clone(), known.sight(at.0, at.1)));
    let mut routers: Vec<(String, Sight)> = sights.collect();
    let crowd = Some(Crowd::of(&routers));
    routers.sort_by_key(|(_, sight)| *sight == Sight::Seen);
    routers.truncate(Command::ROUTERS_TOLD_MAX);
    let command = Command::RoutersSaw {
        tenant: commit.tenant.clone(),
        move_id: commit.move_id,
        revision: commit.revision,
        routers,
        crowd,
    };
    let envelope = Envelope { actor: "control".into(), ..Envelope::new(ground.now(), command) };
    if let Err(error) = store.submit(envelope).await {
        tracing::debug!(tenant = %commit.tenant, complete, %error, "how routers stood to a commit was not kept");
    }
}
