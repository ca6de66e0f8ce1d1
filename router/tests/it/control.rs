//! A control plane of one process: what it is told it hands to every watcher, unless it is cut off.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cell_client::{WatchEvent, WatchItem};
use cell_model::{
    CellId, CellRecord, CellState, CellTraits, ClusterId, Epoch, Generation, Hold, Lineage, Mapping, MappingState,
    Rev, Revision, TenantId, Tier, Uid,
};
use cell_router::{Confirmed, ControlPlane, Held};
use cell_trust::{RoutedMapping, SignedMapping, SigningKey};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

pub(crate) const LINEAGE: Lineage = Lineage(1);

pub(crate) struct FakeControl {
    pub(crate) key: SigningKey,
    cluster: ClusterId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revision: u64,
    tenants: BTreeMap<TenantId, Mapping>,
    cells: BTreeMap<CellId, CellRecord>,
    watchers: Vec<mpsc::UnboundedSender<WatchEvent>>,
    cut_off: bool,
    /// No router is counted any more.
    counts_nobody: bool,
    /// What the router has said last of what it holds.
    told: Option<Held>,
    watched_after: Vec<Option<Revision>>,
}

impl FakeControl {
    pub(crate) fn new(cluster: u64) -> Arc<Self> {
        let key = SigningKey::from_bytes(&[42; 32]);
        Arc::new(Self { key, cluster: ClusterId(cluster), state: Mutex::default() })
    }

    /// With a cell `a` that has one instance, and the tenants t-1 and t-2 in it.
    pub(crate) fn of_two_tenants(gate: &String) -> Arc<Self> {
        let control = Self::new(1);
        control.set_cell("a", std::slice::from_ref(gate));
        control.set_tenant("t-1", "a", 1, |_| {});
        control.set_tenant("t-2", "a", 1, |_| {});
        control
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on a cell has no gate.
    pub(crate) fn without_gate(&self, cell: &str) {
        let mut state = self.state();
        state.revision += 1;
        let revision = Revision(state.revision);
        let record = state.cells.get_mut(&CellId::new(cell).unwrap()).unwrap();
        (record.traits.ungated, record.revision) = (true, revision);
        let item = WatchItem::Cell(record.clone());
        state.publish(item);
    }

    /// Where the instances of a cell are.
    pub(crate) fn set_cell(&self, cell: &str, gates: &[String]) {
        let mut state = self.state();
        state.revision += 1;
        let record = CellRecord {
            id: CellId::new(cell).unwrap(),
            state: CellState::Active,
            gates: gates.to_vec(),
            agent: "127.0.0.1:1".into(),
            region: String::new(),
            residency: String::new(),
            traits: CellTraits::default(),
            generation: Generation(1),
            revision: Revision(state.revision),
        };
        state.cells.insert(record.id.clone(), record.clone());
        state.publish(WatchItem::Cell(record));
    }

    /// A tenant is made, or changes; the rev rises by itself. Answers its mapping.
    pub(crate) fn set_tenant(
        &self,
        tenant: &str,
        owner: &str,
        epoch: u64,
        change: impl FnOnce(&mut Mapping),
    ) -> Mapping {
        let mut state = self.state();
        state.revision += 1;
        let id = TenantId::new(tenant).unwrap();
        let rev = state.tenants.get(&id).map_or(1, |held| held.rev.get() + 1);
        let mut mapping = Mapping {
            lineage: LINEAGE,
            tenant: id.clone(),
            uid: Uid(1),
            epoch: Epoch(epoch),
            rev: Rev(rev),
            revision: Revision(state.revision),
            state: MappingState::Active,
            owner: CellId::new(owner).unwrap(),
            peer: None,
            hold: Hold::None,
            tier: Tier::Bronze,
        };
        change(&mut mapping);
        state.tenants.insert(id, mapping.clone());
        let item = self.item(&state, &mapping);
        state.publish(item);
        mapping
    }

    /// The mapping of a tenant as this control plane signs it, with the owner's instances of now.
    pub(crate) fn signed(&self, mapping: &Mapping) -> SignedMapping {
        SignedMapping::sign(&self.key, &self.routed(&self.state(), mapping))
    }

    /// From where each watch has begun. None: from the beginning.
    pub(crate) fn watched_after(&self) -> Vec<Option<Revision>> {
        self.state().watched_after.clone()
    }

    /// From now on nobody hears anything from it.
    pub(crate) fn cut_off(&self) {
        self.state().cut_off = true;
    }

    /// Everybody hears from it again.
    pub(crate) fn heal(&self) {
        self.state().cut_off = false;
    }

    /// From now on no router is granted a lease, as where there are too many.
    pub(crate) fn count_nobody(&self) {
        self.state().counts_nobody = true;
    }

    /// What the router has said last of what it holds.
    pub(crate) fn told(&self) -> Option<Held> {
        self.state().told.clone()
    }

    fn routed(&self, state: &State, mapping: &Mapping) -> RoutedMapping {
        let gates = state.cells.get(&mapping.owner).map(|cell| cell.gates.clone()).unwrap_or_default();
        RoutedMapping {
            cluster: self.cluster,
            mapping: mapping.clone(),
            owner_gates: gates,
            owner_agent: "127.0.0.1:1".into(),
        }
    }

    fn item(&self, state: &State, mapping: &Mapping) -> WatchItem {
        WatchItem::Mapping(self.routed(state, mapping))
    }
}

impl State {
    fn publish(&mut self, item: WatchItem) {
        if !self.cut_off {
            let revision = Revision(self.revision);
            for watcher in &self.watchers {
                let items = vec![item.clone()];
                let _gone = watcher.send(WatchEvent::Changes { revision, items });
            }
        }
    }
}

impl ControlPlane for FakeControl {
    fn cluster(&self) -> BoxFuture<'static, Result<ClusterId, String>> {
        let answer = if self.state().cut_off { Err("cut off".to_owned()) } else { Ok(self.cluster) };
        Box::pin(async move { answer })
    }

    fn watch(&self, after: Option<(Lineage, Revision)>) -> BoxStream<'static, WatchEvent> {
        let mut state = self.state();
        state.watched_after.push(after.map(|(_, revision)| revision));
        if state.cut_off {
            return futures::stream::pending().boxed();
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let revision = Revision(state.revision);
        let (since, resumes) = match after {
            Some((LINEAGE, after)) if after <= revision => (after, true),
            _ => (Revision(0), false),
        };
        let cells = state.cells.values().filter(|cell| cell.revision > since).cloned().map(WatchItem::Cell);
        let tenants = state.tenants.values().filter(|mapping| mapping.revision > since);
        let items: Vec<WatchItem> = cells.chain(tenants.map(|mapping| self.item(&state, mapping))).collect();
        let events = if resumes {
            vec![WatchEvent::Changes { revision, items }]
        } else {
            let end = WatchEvent::SnapshotEnd { revision, lineage: LINEAGE };
            vec![WatchEvent::Reset, WatchEvent::Snapshot(items), end]
        };
        for event in events {
            sender.send(event).unwrap();
        }
        state.watchers.push(sender);
        futures::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
            .boxed()
    }

    fn confirm(&self, _nonce: u64, held: Held) -> BoxFuture<'static, Result<Confirmed, String>> {
        let mut state = self.state();
        state.told = Some(held);
        let answer = if state.cut_off {
            Err("cut off".to_owned())
        } else {
            // As long as its own options have it.
            let lease = (!state.counts_nobody).then_some(Duration::from_secs(3_600));
            Ok(Confirmed { lineage: LINEAGE, revision: Revision(state.revision), lease })
        };
        Box::pin(async move { answer })
    }
}
