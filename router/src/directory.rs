//! Everything that a request is routed by: the table, the cells, how far and how fresh they are, and who waits for a
//! change. Shared by all threads; lookups take no lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use cell_model::{CellId, CellRecord, ClusterId, Hold, Lineage, Revision, TenantId};
use cell_trust::RoutedMapping;
use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::feed::{Confirmed, Held};
use crate::freshness::Freshness;
use crate::instance::Instances;
use crate::instance::set::InstanceSet;
use crate::moment::Clock;
use crate::table::{ConcurrentTable, Draft, Each, Endpoints, Entry, Table};
use crate::ungated::Ungated;
use crate::waiting::Waiters;

/// All cells, by name.
pub(crate) type Cells = BTreeMap<CellId, Arc<CellRecord>>;

/// A mapping of another cluster than the one that this table is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OtherCluster {
    pub(crate) ours: ClusterId,
    pub(crate) theirs: ClusterId,
}

/// Where the watch is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) lineage: Lineage,
    pub(crate) revision: Revision,
}

/// Everything that a request is routed by.
pub(crate) struct Directory {
    table: Box<dyn Table>,
    cells: ArcSwap<Cells>,
    /// The instances that cells themselves have reported.
    reported: ArcSwap<HashMap<CellId, Reported, RandomState>>,
    pub(crate) instances: Arc<Instances>,
    /// One value for all tenants of a cell, so that a tenant does not carry its owner's addresses of its own.
    endpoints: Mutex<HashMap<CellId, Arc<Endpoints>>>,
    cluster: Mutex<Option<ClusterId>>,
    lineage: AtomicU64,
    /// The highest revision up to which everything is in the table.
    applied: AtomicU64,
    /// Counts changes, so that the file is written only where there were some.
    changes: AtomicU64,
    loaded: AtomicBool,
    /// The control plane that is followed is the one that the table is of.
    attached: AtomicBool,
    pub(crate) waiters: Waiters,
    /// WebSockets that are to be told when their tenant moves.
    pub(crate) tunnels: Waiters,
    pub(crate) freshness: Freshness,
    pub(crate) ungated: Ungated,
    /// The control plane waits to hear that something is held here.
    is_awaited: AtomicBool,
    fresh_bound: Duration,
    /// The last lease, in milliseconds.
    lease_ms: AtomicU64,
    /// There was one: the control plane knows of this router, and waits for it.
    has_lease: AtomicBool,
}

impl Directory {
    pub(crate) fn new(waiters: Waiters, tunnels: Waiters, fresh_bound: Duration) -> Self {
        Self {
            table: Box::new(ConcurrentTable::new()),
            cells: ArcSwap::default(),
            reported: ArcSwap::default(),
            instances: Arc::new(Instances::new(Clock::start())),
            endpoints: Mutex::default(),
            cluster: Mutex::default(),
            lineage: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            loaded: AtomicBool::new(false),
            attached: AtomicBool::new(false),
            waiters,
            tunnels,
            freshness: Freshness::new(),
            ungated: Ungated::default(),
            is_awaited: AtomicBool::new(false),
            fresh_bound,
            lease_ms: AtomicU64::new(u64::MAX),
            has_lease: AtomicBool::new(false),
        }
    }

    pub(crate) fn find(&self, tenant: &TenantId) -> Option<Arc<Entry>> {
        self.table.find(tenant, None)
    }

    /// The same, by whoever knows what it was a moment ago.
    pub(crate) fn find_again(&self, tenant: &TenantId, known: Option<Arc<Entry>>) -> Option<Arc<Entry>> {
        self.table.find(tenant, known)
    }

    pub(crate) fn tenants(&self) -> usize {
        self.table.count()
    }

    /// Everything in the table, so many entries at a time: never all at once, which would take three times the table's room.
    pub(crate) fn blocks(&self, at_once: usize, each: &mut Each<'_>) -> std::io::Result<()> {
        self.table.blocks(at_once, each)
    }

    pub(crate) fn cells(&self) -> Arc<Cells> {
        self.cells.load_full()
    }

    /// An entry of this directory, sharing its owner's addresses. Refused where it is of another cluster.
    pub(crate) fn entry(&self, routed: RoutedMapping) -> Result<Arc<Entry>, OtherCluster> {
        {
            let mut cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
            let ours = *cluster.get_or_insert(routed.cluster);
            if ours != routed.cluster {
                return Err(OtherCluster { ours, theirs: routed.cluster });
            }
        }
        let mut shared = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let held = shared.get(&routed.mapping.owner);
        let joins = held.is_some();
        let same = held.filter(|held| {
            held.agent == routed.owner_agent
                && held.gates.addresses().map(|gate| &**gate).eq(routed.owner_gates.iter().map(String::as_str))
        });
        let endpoints = if let Some(same) = same {
            Arc::clone(same)
        } else {
            let gates = Arc::new(self.instance_set(&routed.owner_gates, joins));
            let fresh = Arc::new(Endpoints { gates, agent: routed.owner_agent });
            shared.insert(routed.mapping.owner.clone(), Arc::clone(&fresh));
            fresh
        };
        Ok(Arc::new(Entry { mapping: routed.mapping, endpoints }))
    }

    fn instance_set(&self, addresses: &[String], joins: bool) -> InstanceSet {
        let mut unique: Vec<Arc<str>> = Vec::with_capacity(addresses.len());
        for address in addresses {
            if !unique.iter().any(|held| **held == **address) {
                unique.push(Arc::from(address.as_str()));
            }
        }
        InstanceSet::new(unique.iter().map(|address| self.instances.at(address, joins)).collect())
    }

    /// Works out the instances of cells that have changed; those of all others stay.
    fn report(&self, cells: &Cells) {
        let held = self.reported.load();
        let reported = cells.iter().filter(|(_, cell)| !cell.gates.is_empty()).map(|(id, cell)| {
            let known = held.get(id);
            let same = known.filter(|known| {
                known.set.addresses().map(|gate| &**gate).eq(cell.gates.iter().map(String::as_str))
            });
            let set = same.map_or_else(
                || Arc::new(self.instance_set(&cell.gates, known.is_some())),
                |known| Arc::clone(&known.set),
            );
            (id.clone(), Reported { revision: cell.revision, set })
        });
        self.reported.store(Arc::new(reported.collect()));
    }

    /// One tenant has changed. Whether that was news.
    pub(crate) fn install(&self, entry: Arc<Entry>) -> bool {
        let tenant = entry.mapping.tenant.clone();
        let is_awaited = entry.mapping.hold == Hold::All && self.ungated.has(&entry.mapping.owner);
        let news = self.table.install(entry);
        if news {
            self.is_awaited.fetch_or(is_awaited, Ordering::AcqRel);
            self.changes.fetch_add(1, Ordering::Relaxed);
            self.waiters.wake(&tenant);
            self.tunnels.wake(&tenant);
        }
        news
    }

    /// Cells have changed.
    pub(crate) fn install_cells(&self, changed: Vec<CellRecord>) {
        self.cells.rcu(|cells| {
            let mut cells = Cells::clone(cells);
            for cell in &changed {
                let older = cells.get(&cell.id).is_none_or(|held| held.revision <= cell.revision);
                if older {
                    cells.insert(cell.id.clone(), Arc::new(cell.clone()));
                }
            }
            cells
        });
        let cells = self.cells.load();
        self.ungated.set(&cells);
        self.report(&cells);
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.wake_all();
    }

    /// Another part of what is to take the place of the table has come in.
    pub(crate) fn add(&self, draft: &mut Draft, entries: &[Arc<Entry>]) {
        self.table.add(draft, entries);
    }

    /// Everything that the control plane, or the file, had at a revision.
    pub(crate) fn replace(&self, draft: Draft, cells: Vec<CellRecord>, at: Cursor) {
        let cells: Cells = cells.into_iter().map(|cell| (cell.id.clone(), Arc::new(cell))).collect();
        // Before the tenants that go by it.
        self.ungated.set(&cells);
        self.table.replace(draft, at.revision);
        self.cells.store(Arc::new(cells));
        self.report(&self.cells.load());
        // How far another history went is not told as how far this one does.
        self.applied.store(0, Ordering::Release);
        self.lineage.store(at.lineage.get(), Ordering::Release);
        self.applied.store(at.revision.get(), Ordering::Release);
        self.loaded.store(true, Ordering::Release);
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.freshness.applied(at.revision);
        self.wake_all();
        // Somebody may wait to hear that something is held here.
        self.freshness.want();
    }

    fn wake_all(&self) {
        self.waiters.wake_all();
        self.tunnels.wake_all();
    }

    /// Everything up to `revision` is in the table.
    pub(crate) fn advance(&self, revision: Revision) {
        if self.applied.fetch_max(revision.get(), Ordering::AcqRel) < revision.get() {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        self.freshness.applied(revision);
        if self.is_awaited.swap(false, Ordering::AcqRel) {
            self.freshness.want();
        }
    }

    /// A ping sent at `asked_at` was answered. An answer of another lineage says nothing of this table.
    pub(crate) fn confirm(&self, asked_at: Instant, confirmed: Confirmed) {
        let ours = self.loaded() && self.attached.load(Ordering::Acquire);
        if ours && confirmed.lineage.get() == self.lineage.load(Ordering::Acquire) {
            let lease = confirmed.lease.unwrap_or(self.fresh_bound).as_millis();
            self.lease_ms.store(u64::try_from(lease).unwrap_or(u64::MAX), Ordering::Release);
            self.has_lease.store(confirmed.lease.is_some(), Ordering::Release);
            self.freshness.answered(asked_at, confirmed.revision, self.applied());
        }
    }

    /// What the control plane is told that this table holds.
    pub(crate) fn held(&self, now: Instant) -> Held {
        let held = self.loaded() && self.attached.load(Ordering::Acquire);
        // First what the table has, and then what is on its way: see `ungated`.
        let cursor = self.cursor().filter(|_| held);
        let is_held = |tenant: &TenantId| self.find(tenant).is_some_and(|entry| entry.mapping.hold != Hold::None);
        let on_their_way = self.ungated.on_their_way(is_held);
        Held {
            lineage: cursor.map(|cursor| cursor.lineage).unwrap_or_default(),
            revision: cursor.map(|cursor| cursor.revision).unwrap_or_default(),
            staleness: self.freshness.staleness(now),
            on_their_way,
        }
    }

    /// At most so old is a fresh table: by this router's own options, and within the lease of the control plane, which
    /// counts a router whose lease has run out as one that takes its table for stale.
    fn fresh_for(&self) -> Duration {
        self.fresh_bound.min(Duration::from_millis(self.lease_ms.load(Ordering::Acquire)))
    }

    /// Whether a hold waits for this router: the control plane has granted a lease with its last word.
    pub(crate) fn has_lease(&self) -> bool {
        self.has_lease.load(Ordering::Acquire)
    }

    /// From now on the control plane's word on how far it is counts.
    pub(crate) fn attach(&self) {
        self.attached.store(true, Ordering::Release);
    }

    /// Forgets everything: it was of another cluster.
    pub(crate) fn forget(&self) {
        self.loaded.store(false, Ordering::Release);
        self.freshness.forget();
        *self.cluster.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.applied.store(0, Ordering::Release);
        self.table.clear();
        self.cells.store(Arc::default());
        self.ungated.set(&Cells::default());
        self.reported.store(Arc::default());
        self.wake_all();
    }

    /// Whether the table is young enough to say that a tenant does not exist, or that a request must wait.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        self.freshness.staleness(now).is_some_and(|staleness| staleness <= self.fresh_for())
    }

    /// When the table stops being fresh unless it is confirmed again.
    pub(crate) fn fresh_until(&self) -> Option<Instant> {
        self.freshness.as_of().map(|as_of| as_of + self.fresh_for())
    }

    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        *self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn applied(&self) -> Revision {
        Revision(self.applied.load(Ordering::Acquire))
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Whether there has been a table at all, from the control plane or from the file.
    pub(crate) fn loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// Where the watch is to go on. None: from the beginning.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        let lineage = Lineage(self.lineage.load(Ordering::Acquire));
        self.loaded().then(|| Cursor { lineage, revision: self.applied() })
    }

    /// Where the owner of a tenant is to be reached, the newest knowledge first: the cell's own report where it is younger
    /// than the mapping, else what came with the mapping; and then the other, where it names others.
    pub(crate) fn gates(&self, entry: &Entry) -> (Arc<InstanceSet>, Option<Arc<InstanceSet>>) {
        let with_mapping = Arc::clone(&entry.endpoints.gates);
        let reported = self.reported.load();
        let Some(reported) = reported.get(&entry.mapping.owner) else { return (with_mapping, None) };
        let of_cell = Arc::clone(&reported.set);
        if of_cell == with_mapping || with_mapping.instances().is_empty() {
            (of_cell, None)
        } else if reported.revision >= entry.mapping.revision {
            (of_cell, Some(with_mapping))
        } else {
            (with_mapping, Some(of_cell))
        }
    }
}

/// The instances of a cell as it has reported them.
struct Reported {
    revision: Revision,
    set: Arc<InstanceSet>,
}
