use std::collections::HashMap as Reference;
use std::sync::atomic::{AtomicBool, Ordering};

use cell_model::{CellId, Epoch, Hold, Lineage, MappingState, Rev, Tier, Uid};
use proptest::prelude::*;

use super::*;

fn entry(tenant: &str, uid: u64, epoch: u64, rev: u64, revision: u64) -> Arc<Entry> {
    let mapping = Mapping {
        lineage: Lineage(1),
        tenant: TenantId::new(tenant).unwrap(),
        uid: Uid(uid),
        epoch: Epoch(epoch),
        rev: Rev(rev),
        revision: Revision(revision),
        state: MappingState::Active,
        owner: CellId::new("a").unwrap(),
        peer: None,
        hold: Hold::None,
        tier: Tier::Bronze,
    };
    Arc::new(Entry {
        mapping,
        endpoints: Arc::new(Endpoints { gates: Arc::new(InstanceSet::new(Vec::new())), agent: String::new() }),
    })
}

/// Exchanges the table for a snapshot that comes in one piece.
fn replace(table: &ConcurrentTable, entries: &[Arc<Entry>], at: Revision) {
    let mut draft = Draft::default();
    table.add(&mut draft, entries);
    table.replace(draft, at);
}

fn epoch_of(table: &ConcurrentTable, tenant: &str) -> Option<u64> {
    table.find(&TenantId::new(tenant).unwrap(), None).map(|entry| entry.mapping.epoch.get())
}

#[test]
fn an_entry_comes_back_as_it_was_taken() {
    let table = ConcurrentTable::new();
    let mut taken = Entry::clone(&entry("t", 1, 2, 3, 4));
    taken.mapping.peer = Some(CellId::new("b").unwrap());
    taken.mapping.state = MappingState::Migrating;
    taken.mapping.hold = Hold::Writes;
    taken.mapping.tier = Tier::Gold;
    assert!(table.install(Arc::new(taken.clone())));
    assert_eq!(*table.find(&taken.mapping.tenant, None).unwrap(), taken);
    let mut blocks = Vec::new();
    let gathered = table.blocks(7, &mut |block| {
        blocks.push(block.to_vec());
        Ok(())
    });
    assert!(gathered.is_ok());
    assert_eq!(blocks, [[Arc::new(taken)]]);
}

#[test]
fn what_was_found_last_is_given_again_for_as_long_as_it_stands() {
    let table = ConcurrentTable::new();
    let tenant = TenantId::new("t").unwrap();
    let first = entry("t", 1, 2, 3, 4);
    assert!(table.install(Arc::clone(&first)));
    let found = table.find(&tenant, None).unwrap();
    assert!(Arc::ptr_eq(&table.find(&tenant, Some(Arc::clone(&found))).unwrap(), &found));
    type Change = fn(&mut Entry);
    let changes: [Change; 7] = [
        |entry| entry.mapping.epoch = Epoch(9),
        |entry| entry.mapping.hold = Hold::All,
        |entry| entry.mapping.state = MappingState::Migrating,
        |entry| entry.mapping.tier = Tier::Gold,
        |entry| entry.mapping.peer = Some(CellId::new("b").unwrap()),
        |entry| entry.mapping.owner = CellId::new("b").unwrap(),
        |entry| entry.endpoints = Arc::new(Endpoints::clone(&entry.endpoints)),
    ];
    let mut known = found;
    for (n, change) in (5..).zip(changes) {
        let mut changed = Entry::clone(&known);
        changed.mapping.epoch = Epoch(changed.mapping.epoch.get().max(n));
        changed.mapping.rev = Rev(n);
        changed.mapping.revision = Revision(n);
        change(&mut changed);
        assert!(table.install(Arc::new(changed.clone())), "{n}");
        let found = table.find(&tenant, Some(known)).unwrap();
        assert_eq!(*found, changed, "{n}");
        known = found;
    }
    let other = table.find(&tenant, Some(entry("u", 1, 2, 3, 4))).unwrap();
    assert_eq!(other.mapping.tenant, tenant, "another tenant's is no help");
}

#[test]
fn places_that_no_tenant_is_at_are_forgotten() {
    let table = ConcurrentTable::new();
    for n in 1..2_000 {
        // Each brings addresses of its own.
        assert!(table.install(entry("t", 1, n, n, n)));
    }
    assert!(table.lock().places.count() <= 256, "{}", table.lock().places.count());
}

#[test]
fn an_older_owner_never_comes_back() {
    let table = ConcurrentTable::new();
    assert!(table.install(entry("t", 1, 2, 5, 10)));
    assert!(!table.install(entry("t", 1, 1, 9, 11)), "a lower epoch, though at a higher revision");
    assert!(!table.install(entry("t", 1, 2, 5, 10)), "the same");
    assert!(table.install(entry("t", 1, 2, 6, 11)), "the same owner, later in its move");
    assert!(table.install(entry("t", 2, 1, 1, 12)), "made again");
    assert_eq!(epoch_of(&table, "t"), Some(1));
}

#[test]
fn a_snapshot_drops_what_it_does_not_know_and_keeps_what_is_newer_than_it() {
    let table = ConcurrentTable::new();
    table.install(entry("gone", 1, 1, 1, 5));
    table.install(entry("learned", 1, 3, 9, 50));
    table.install(entry("newborn", 60, 1, 1, 60));
    replace(&table, &[entry("learned", 1, 2, 4, 20), entry("other", 7, 1, 1, 7)], Revision(40));
    assert_eq!(epoch_of(&table, "gone"), None);
    assert_eq!(epoch_of(&table, "learned"), Some(3));
    assert_eq!(epoch_of(&table, "newborn"), Some(1));
    assert_eq!(epoch_of(&table, "other"), Some(1));
    assert_eq!(table.count(), 3);
}

#[test]
fn what_is_learned_while_a_snapshot_comes_in_is_not_lost_with_it() {
    let table = ConcurrentTable::new();
    table.install(entry("t", 1, 1, 1, 1));
    let mut draft = Draft::default();
    table.add(&mut draft, &[entry("t", 1, 1, 1, 1)]);
    assert_eq!(draft.count(), 1);
    table.install(entry("t", 1, 2, 2, 2));
    table.install(entry("young", 9, 1, 1, 9));
    table.add(&mut draft, &[entry("u", 1, 1, 1, 1)]);
    assert_eq!((epoch_of(&table, "t"), epoch_of(&table, "u")), (Some(2), None), "the image is not in use yet");
    table.replace(draft, Revision(5));
    assert_eq!((epoch_of(&table, "t"), epoch_of(&table, "u")), (Some(2), Some(1)));
    assert_eq!(epoch_of(&table, "young"), Some(1), "it is newer than the snapshot");
}

#[test]
fn nothing_learned_is_lost_and_nobody_sees_an_epoch_go_back_while_images_are_exchanged() {
    const TENANTS: usize = 40;
    let table = ConcurrentTable::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let learner = scope.spawn(|| {
            for epoch in 1..200 {
                for tenant in 0..TENANTS {
                    table.install(entry(&format!("t-{tenant}"), 1, epoch, epoch, epoch));
                }
            }
            done.store(true, Ordering::Release);
        });
        let reader = scope.spawn(|| {
            let mut seen = [0; TENANTS];
            while !done.load(Ordering::Acquire) {
                for (tenant, seen) in seen.iter_mut().enumerate() {
                    let epoch = epoch_of(&table, &format!("t-{tenant}")).unwrap_or(0);
                    assert!(epoch >= *seen, "went back from {seen} to {epoch}");
                    *seen = epoch;
                }
            }
        });
        while !done.load(Ordering::Acquire) {
            let old: Vec<_> = (0..TENANTS).map(|tenant| entry(&format!("t-{tenant}"), 1, 1, 1, 1)).collect();
            replace(&table, &old, Revision(1));
        }
        learner.join().unwrap();
        reader.join().unwrap();
    });
    for tenant in 0..TENANTS {
        assert_eq!(epoch_of(&table, &format!("t-{tenant}")), Some(199));
    }
}

proptest! {
    #[test]
    fn the_newest_mapping_wins_in_whatever_order_they_come(
        mut mappings in proptest::collection::vec((0..4_u8, 1..4_u64, 1..4_u64, 1..4_u64), 1..40),
        snapshot_at in 0..40_usize,
    ) {
        let table = ConcurrentTable::new();
        let mut newest: Reference<u8, (u64, u64, u64)> = Reference::new();
        let cut = snapshot_at.min(mappings.len());
        let image: Vec<_> = mappings.drain(..cut).collect();
        for (tenant, uid, epoch, rev) in &mappings {
            table.install(entry(&format!("t{tenant}"), *uid, *epoch, *rev, 10));
        }
        let snapshot: Vec<_> = image.iter().map(|(t, u, e, r)| entry(&format!("t{t}"), *u, *e, *r, 1)).collect();
        replace(&table, &snapshot, Revision(5));
        for (tenant, uid, epoch, rev) in image.into_iter().chain(mappings) {
            let held = newest.entry(tenant).or_default();
            *held = (*held).max((uid, epoch, rev));
        }
        for (tenant, newest) in newest {
            let held = table.find(&TenantId::new(format!("t{tenant}")).unwrap(), None).unwrap();
            let held = (held.mapping.uid.get(), held.mapping.epoch.get(), held.mapping.rev.get());
            prop_assert_eq!(held, newest);
        }
    }
}
