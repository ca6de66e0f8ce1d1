//! Watchers that want only some of it, at any moment, over changes of any kind.

use std::collections::BTreeMap;

use cell_model::{CellId, ClusterId, Epoch, FleetHead, Life, Rev, TenantRecord, Tier, Uid};

use super::*;

fn cell(name: &str) -> CellId {
    CellId::new(name).unwrap()
}

fn record(tenant: &str, owner: &str, revision: Revision) -> TenantRecord {
    TenantRecord {
        id: TenantId::new(tenant).unwrap(),
        uid: Uid(1),
        lineage: Lineage(1),
        epoch: Epoch(1),
        rev: Rev(revision.get()),
        revision,
        owner: cell(owner),
        life: Life::Live,
        tier: Tier::Bronze,
        residency: "".into(),
        movement: None,
        retained: Vec::new(),
        placed: "".into(),
    }
}

struct Store {
    hub: Arc<Hub>,
    fleet: Arc<SharedFleet>,
}

impl Store {
    fn new(history_revisions: usize) -> Self {
        let fleet = Fleet::new(ClusterId(1), Lineage(1));
        let hub = Hub::new(&fleet, &Bounds { history_revisions, ..Bounds::default() });
        Self { hub: Arc::new(hub), fleet: Arc::new(SharedFleet::new(fleet)) }
    }

    fn revision(&self) -> Revision {
        self.fleet.read().head().revision
    }

    fn place(&self, tenant: &str, owner: &str) {
        let mut fleet = self.fleet.write();
        let revision = fleet.head().revision.next();
        let changes = vec![Change::Tenant(Arc::new(record(tenant, owner, revision)))];
        let departures = departures(&fleet, &changes);
        let head = FleetHead { revision, ..fleet.head().clone() };
        *fleet = std::mem::take(&mut *fleet).under(head);
        changes.iter().cloned().for_each(|change| fleet.install(change));
        self.hub.publish(vec![(Committed { revision, changes, departures }, 100)]);
    }

    fn watch(&self, filter: Filter, after: Option<Revision>) -> Watcher {
        let after = after.map(|after| (Lineage(1), after));
        let subscription = Subscription::new(Arc::clone(&self.hub), Arc::clone(&self.fleet), after, filter);
        Watcher { subscription, held: BTreeMap::new(), told: 0 }
    }
}

struct Watcher {
    subscription: Subscription,
    /// Each tenant as it was told last.
    held: BTreeMap<TenantId, Arc<TenantRecord>>,
    told: usize,
}

impl Watcher {
    /// Takes up to `count` of what there is.
    fn take(&mut self, count: usize) {
        for _ in 0..count {
            let Some(feed) = self.subscription.look() else { return };
            let changes = match feed {
                Feed::Reset { .. } => {
                    self.held.clear();
                    continue;
                }
                Feed::Snapshot { records, .. } => records,
                Feed::SnapshotEnd { .. } => continue,
                Feed::Changes(committed) => {
                    assert!(!committed.is_empty() && committed.iter().all(|one| !one.changes.is_empty()));
                    committed.iter().flat_map(|one| one.changes.clone()).collect()
                }
            };
            for change in changes {
                let Change::Tenant(record) = change else { continue };
                self.told += 1;
                self.held.insert(record.id.clone(), record);
            }
        }
    }

    /// What it holds of a cell, or of all.
    fn holds(&self, of: Option<&CellId>) -> Vec<Arc<TenantRecord>> {
        self.held.values().filter(|record| of.is_none_or(|cell| record.owner == *cell)).cloned().collect()
    }
}

fn filters() -> Vec<Filter> {
    let (tenant, cell_1) = (TenantId::new("a-b").ok(), Some(cell("c1")));
    vec![
        Filter { tenant: tenant.clone(), ..Filter::default() },
        Filter { prefix: "a".into(), ..Filter::default() },
        Filter { prefix: "a-".into(), ..Filter::default() },
        Filter { prefix: "zz".into(), ..Filter::default() },
        Filter { cell: cell_1.clone(), ..Filter::default() },
        Filter { prefix: "a-".into(), cell: cell_1.clone(), ..Filter::default() },
        Filter { tenant, cell: cell_1, ..Filter::default() },
        Filter::default(),
    ]
}

#[test]
fn whoever_wants_some_of_it_holds_exactly_that_whenever_it_looks() {
    const TENANTS: [&str; 7] = ["a", "a-b", "a-bc", "a0", "ab", "b", "z"];
    const CELLS: [&str; 3] = ["c1", "c2", "c3"];
    for seed in 0..50_u64 {
        // So short a history that whoever does not look for a while begins anew.
        let store = Store::new(8);
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut any = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random >> 33).unwrap() % below
        };
        let mut watchers: Vec<Watcher> = filters().into_iter().map(|filter| store.watch(filter, None)).collect();
        for _ in 0..120 {
            store.place(TENANTS[any(7)], CELLS[any(3)]);
            let watcher = any(watchers.len());
            watchers[watcher].take(any(6));
        }
        for (mut watcher, filter) in watchers.into_iter().zip(filters()) {
            watcher.take(usize::MAX);
            assert_eq!(watcher.subscription.position(), Some((Lineage(1), store.revision())), "{filter:?}");
            let fleet = store.fleet.read();
            let all =
                fleet.tenants_after(None).filter(|record| filter.standing(&Change::Tenant(Arc::clone(record))));
            let wanted: Vec<_> = all.cloned().collect();
            assert_eq!(watcher.holds(filter.cell.as_ref()), wanted, "seed {seed}: {filter:?}");
        }
    }
}

#[test]
fn a_cells_watcher_is_told_when_a_tenant_leaves_and_not_what_becomes_of_it() {
    let store = Store::new(100);
    store.place("acme", "c1");
    let of_cell = Filter { cell: Some(cell("c1")), ..Filter::default() };
    let mut watcher = store.watch(of_cell.clone(), Some(store.revision()));
    for owner in ["c2", "c2", "c3"] {
        store.place("acme", owner);
    }
    watcher.take(usize::MAX);
    let told: Vec<_> = watcher.holds(None).iter().map(|record| (record.owner.clone(), record.revision)).collect();
    assert_eq!((told, watcher.told), (vec![(cell("c2"), Revision(2))], 1));
    // A resume from before tells the same.
    let mut resumed = store.watch(of_cell, Some(Revision(1)));
    resumed.take(usize::MAX);
    assert_eq!((resumed.holds(None), resumed.told), (watcher.holds(None), 1));
}

#[test]
fn whoever_wants_one_tenant_of_many_is_not_kept_by_the_others() {
    let store = Store::new(100);
    for number in 0..2_500 {
        store.place(&format!("t{number}"), "c1");
    }
    let parts = |filter: Filter| {
        let mut watcher = store.watch(filter, None);
        let mut parts = 0;
        while let Some(feed) = watcher.subscription.look() {
            parts += usize::from(matches!(feed, Feed::Snapshot { .. }));
        }
        parts
    };
    // Cells, tenants, ended moves.
    assert_eq!(parts(Filter { tenant: TenantId::new("t7").ok(), ..Filter::default() }), 3);
    assert_eq!(parts(Filter { prefix: "t9".into(), ..Filter::default() }), 3);
    // Between two looks at a thousand of others, somebody else has his turn.
    assert_eq!(parts(Filter { cell: Some(cell("c2")), ..Filter::default() }), 5);
}
