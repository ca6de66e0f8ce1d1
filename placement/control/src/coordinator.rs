//! The coordinator's view of this node's store, and its wiring into the daemon.

use std::sync::Arc;

use cell_client::{AgentOptions, AgentPool, Link};
use cell_migration::{ControlPlane, Coordinator, Leadership, Options, ProposeError, Wake};
use cell_model::{CellId, CellRecord, Change, Envelope, FleetView, Reply, TenantId, TenantRecord, UnixMillis};
use cell_store::{Feed, ReadError, Store, SubmitError};
use cell_trust::SignedMapping;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::Signer;
use crate::service::{Ground, now};
use crate::signer::routed;

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
