//! The coordinator's view of this node's store, and its wiring into the daemon.

use std::sync::Arc;

use cell_client::{AgentOptions, AgentPool, Link};
use cell_migration::{ControlPlane, Coordinator, Leadership, Options, ProposeError, RoutersStood, Wake};
use cell_model::{
    CellId, CellRecord, Change, Envelope, FleetView, Lineage, Reply, Revision, TenantId, TenantRecord, UnixMillis,
};
use cell_store::{Feed, ReadError, Store, SubmitError};
use cell_trust::SignedMapping;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::routers::{HoldSight, Known};
use crate::service::{Ground, now};
use crate::signer::routed;
use crate::{Routers, Signer};

/// Changed records that may wait for the coordinator before it is told to look at everything instead.
const WAKES_MAX: usize = 4_096;

/// How often a leader looks whether what the cells hold has been adopted, after a restore.
const RECONCILED_LOOK: std::time::Duration = std::time::Duration::from_millis(100);

/// Runs the coordinator beside the store until shut down. It works only while this node leads.
pub(crate) async fn run(ground: Ground, shutdown: CancellationToken) {
    let store = ground.store;
    let agents = AgentOptions { link: ground.link.clone(), ..AgentOptions::default() };
    let leadership = watch::Sender::new(Leadership::Follower);
    let control = Arc::new(StoreControlPlane {
        store: store.clone(),
        signer: ground.signer,
        link: ground.link,
        routers: ground.routers,
        leadership: leadership.clone(),
    });
    let coordinator = Coordinator::new(Options::default(), control, AgentPool::new(agents), ground.setbacks);
    tokio::join!(follow_leadership(store, leadership, shutdown.clone()), coordinator.run(shutdown));
}

/// Says that this node leads only once it has applied everything that earlier leaders have committed: an effect computed
/// from less would be an effect of the past.
async fn follow_leadership(store: Store, leadership: watch::Sender<Leadership>, shutdown: CancellationToken) {
    let mut seen = store.leadership();
    loop {
        let now = seen.borrow_and_update().clone();
        if now.is_leader {
            match store.read_index().await {
                // After a restore nothing is done to a tenant before what the cells hold has been adopted.
                Ok(_) if store.view(FleetView::unreconciled) => {
                    tokio::select! {
                        () = tokio::time::sleep(RECONCILED_LOOK) => {}
                        changed = seen.changed() => if changed.is_err() { return },
                        () = shutdown.cancelled() => return,
                    }
                    continue;
                }
                Ok(_) => {
                    let lineage = store.view(|fleet| fleet.lineage());
                    leadership.send_replace(Leadership::Leader { term: now.term, lineage });
                }
                Err(ReadError::Stopped) => return,
                Err(error) => {
                    tracing::debug!(%error, "leading, not yet confirmed");
                    leadership.send_replace(Leadership::Follower);
                    tokio::select! {
                        () = tokio::time::sleep(std::time::Duration::from_millis(20)) => continue,
                        () = shutdown.cancelled() => return,
                    }
                }
            }
        } else {
            leadership.send_replace(Leadership::Follower);
        }
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}

struct StoreControlPlane {
    store: Store,
    signer: Signer,
    link: Link,
    routers: Routers,
    leadership: watch::Sender<Leadership>,
}

impl ControlPlane for StoreControlPlane {
    async fn propose(&self, commands: Vec<Envelope>) -> Result<Vec<Reply>, ProposeError> {
        // Submitted in order and together: the proposer puts what waits into one entry, in this order.
        let submitted = commands
            .into_iter()
            .map(|envelope| self.store.submit(Envelope { actor: "control".into(), ..envelope }));
        let answers = futures::future::join_all(submitted).await;
        answers.into_iter().map(|answer| answer.map_err(|error| not_proposed(&error))).collect()
    }

    async fn confirm(&self) -> Result<(), ProposeError> {
        match self.store.read_index().await {
            Ok(_) => Ok(()),
            Err(ReadError::NotLeader { .. } | ReadError::Stopped) => Err(ProposeError::NotLeader),
            Err(error @ ReadError::Unavailable { .. }) => Err(ProposeError::Unknown { reason: error.to_string() }),
        }
    }

    fn record(&self, tenant: &TenantId) -> Option<TenantRecord> {
        self.store.view(|fleet| fleet.tenant(tenant).cloned())
    }

    fn cell(&self, cell: &CellId) -> Option<CellRecord> {
        self.store.view(|fleet| fleet.cell(cell).cloned())
    }

    fn unsettled(&self) -> Vec<TenantId> {
        self.store.view(|fleet| fleet.unsettled().map(|record| record.id.clone()).collect())
    }

    fn routers_at_hand(&self) -> bool {
        let since = self.store.leadership().borrow().since;
        self.routers.at_hand(since)
    }

    async fn routers_hold_back(
        &self,
        tenant: &TenantId,
        revision: Revision,
        deadline: Instant,
    ) -> Result<RoutersStood, String> {
        let since = self.store.leadership().borrow().since;
        let at = (self.store.view(FleetView::lineage), revision);
        let (complete, known) = self.routers.await_held_back(tenant, at, since, deadline).await;
        stood(tenant, at, complete, &known)
    }

    fn sign(&self, record: &TenantRecord) -> SignedMapping {
        let (cluster, owner) = self.store.view(|fleet| (fleet.head().cluster, fleet.shared_cell(&record.owner)));
        self.signer.sign(&routed(cluster, record, owner.as_deref()))
    }

    fn wakes(&self) -> mpsc::Receiver<Wake> {
        let (sender, receiver) = mpsc::channel(WAKES_MAX);
        let position = self.store.view(|fleet| (fleet.lineage(), fleet.head().revision));
        tokio::spawn(forward_wakes(self.store.subscribe(Some(position)), sender));
        receiver
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn now(&self) -> UnixMillis {
        now(&self.link)
    }
}

/// Routers that are named where a hold was missed because of them.
const NAMED_MAX: usize = 5;

/// How all were found; or a sentence on those that may still send writes of the tenant.
fn stood(
    tenant: &TenantId,
    at: (Lineage, Revision),
    complete: bool,
    known: &[Known],
) -> Result<RoutersStood, String> {
    let sights: Vec<HoldSight> = known.iter().map(|router| router.holds_back(tenant, at)).collect();
    let count = |of: &dyn Fn(&HoldSight) -> bool| u32::try_from(sights.iter().filter(|sight| of(sight)).count());
    let [seen, fenced] =
        [HoldSight::Back, HoldSight::Fenced].map(|wanted| count(&|sight| *sight == wanted).unwrap_or(u32::MAX));
    if complete {
        return Ok(RoutersStood { seen, fenced });
    }
    let waited = known.iter().zip(&sights).filter_map(|(router, sight)| {
        let name = &router.report.name;
        match sight {
            HoldSight::Back | HoldSight::Fenced => None,
            HoldSight::Behind => Some(format!("{name} has not said that it has seen the hold")),
            HoldSight::Sending => Some(format!("{name} has writes of it on their way")),
            HoldSight::Unable => Some(format!("{name} is of a version that holds nothing back: upgrade it")),
        }
    });
    let mut told: Vec<String> = waited.collect();
    let more = told.len().saturating_sub(NAMED_MAX);
    told.truncate(NAMED_MAX);
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    if told.is_empty() {
        told.push("a new leader has to wait out what the one before may have let routers do".into());
    }
    Err(format!("the owner has no gate, and routers may send it writes: {}", told.join("; ")))
}

fn not_proposed(error: &SubmitError) -> ProposeError {
    match error {
        SubmitError::NotLeader { .. } | SubmitError::NoQuorum { .. } | SubmitError::Stopped => {
            ProposeError::NotLeader
        }
        SubmitError::Busy { .. }
        | SubmitError::DiskFull { .. }
        | SubmitError::TooLarge { .. }
        | SubmitError::Unknown { .. } => ProposeError::Unknown { reason: error.to_string() },
    }
}

/// Ends when the coordinator stops listening or the store stops.
async fn forward_wakes(mut changes: cell_store::Subscription, wakes: mpsc::Sender<Wake>) {
    loop {
        let feed = tokio::select! {
            feed = changes.next() => feed,
            () = wakes.closed() => return,
        };
        let Ok(feed) = feed else { return };
        let wake_of = |change: &Change| match change {
            Change::Tenant(record) => Some(Wake::Tenant(record.id.clone())),
            // An address, an incarnation or a death may be what an effect has been waiting for.
            Change::Cell(_) => Some(Wake::All),
            Change::MoveEnded(_) | Change::Limits(_) | Change::Reconciled(_) => None,
        };
        let woken: Vec<Wake> = match feed {
            Feed::Changes(commits) => {
                commits.iter().flat_map(|commit| commit.changes.iter().filter_map(wake_of)).collect()
            }
            Feed::Reset { .. } | Feed::SnapshotEnd { .. } => vec![Wake::All],
            Feed::Snapshot { .. } => Vec::new(),
        };
        for wake in woken {
            // Waiting here is enough of a bound: what is not fetched meanwhile stays in the hub's ring, and beyond
            // that becomes a reset.
            if wakes.send(wake).await.is_err() {
                return;
            }
        }
    }
}
