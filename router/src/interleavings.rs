//! Limits and table in every order of steps that small cases allow, tried by loom. What is not ours
//! (papaya, arc-swap) counts as one step each time it is used; their own proofs are their authors'.

use std::sync::Arc;
use std::time::Duration;

use cell_model::{CellId, Epoch, Hold, Lineage, Mapping, MappingState, Rev, Revision, TenantId, Tier, Uid};
use loom::thread;

use crate::contain::breaker::{Breaker, BreakerOptions, Verdict};
use crate::contain::budget::{Budget, BudgetOptions};
use crate::fair::rate::{Bucket, Rate};
use crate::fair::tenants::Tenants;
use crate::instance::set::InstanceSet;
use crate::moment::Moment;
use crate::table::{ConcurrentTable, Draft, Endpoints, Entry, Table};

const NOW: Moment = Moment(1_000_000_000);

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

/// Runs each on a thread of its own, the last one here, and answers what they answered.
fn at_once<T: 'static>(run: Vec<Box<dyn FnOnce() -> T>>) -> Vec<T> {
    let threads: Vec<_> = run.into_iter().map(thread::spawn).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn a_burst_is_given_out_once() {
    loom::model(|| {
        let bucket = Arc::new(Bucket::default());
        let take = || {
            let bucket = Arc::clone(&bucket);
            Box::new(move || bucket.take(NOW, Rate::new(1, 2)).is_ok()) as Box<dyn FnOnce() -> bool>
        };
        let passed = at_once(vec![take(), take(), take()]);
        assert_eq!(passed.into_iter().filter(|passed| *passed).count(), 2);
    });
}

#[test]
fn no_more_than_the_cap_are_on_their_way_and_none_stays_counted() {
    loom::model(|| {
        let active = Tenants::default().of(&tenant(), cell_model::Uid(1));
        let enter = || {
            let active = Arc::clone(&active);
            Box::new(move || active.enter(1)) as Box<dyn FnOnce() -> Option<_>>
        };
        let entered = at_once(vec![enter(), enter(), enter()]);
        assert!(entered.iter().flatten().count() <= 1);
        drop(entered);
        assert_eq!(active.in_flight(), 0);
        assert!(active.enter(1).is_some());
    });
}

#[test]
fn a_saved_retry_is_spent_once() {
    loom::model(|| {
        let options = BudgetOptions { percent: 1, floor_per_second: 0 };
        let budget = Arc::new(Budget::default());
        // Three are there at the beginning.
        assert!(budget.retry(NOW, options) && budget.retry(NOW, options));
        let retry = || {
            let budget = Arc::clone(&budget);
            Box::new(move || budget.retry(NOW, options)) as Box<dyn FnOnce() -> bool>
        };
        let spent = at_once(vec![retry(), retry()]);
        assert_eq!(spent.into_iter().filter(|spent| *spent).count(), 1);
    });
}

const BREAKER: BreakerOptions = BreakerOptions {
    failures_min: 2,
    failures_percent: 1,
    window: Duration::from_secs(10),
    open: Duration::from_secs(1),
    open_max: Duration::from_secs(8),
    probes: 1,
};

#[test]
fn failures_at_once_are_all_counted_and_the_breaker_opens_once() {
    loom::model(|| {
        let breaker = Arc::new(Breaker::default());
        let fail = || {
            let breaker = Arc::clone(&breaker);
            Box::new(move || breaker.tell(Verdict::Pass, true, NOW, BREAKER, 0.0)) as Box<dyn FnOnce() -> bool>
        };
        let opened = at_once(vec![fail(), fail()]);
        assert_eq!(opened.into_iter().filter(|opened| *opened).count(), 1);
        assert!(!breaker.is_closed());
    });
}

#[test]
fn one_probe_is_on_its_way_and_its_place_comes_back() {
    loom::model(|| {
        let breaker = Arc::new(Breaker::default());
        while !breaker.tell(Verdict::Pass, true, NOW, BREAKER, 0.0) {}
        let later = NOW.after(Duration::from_secs(2));
        let ask = || {
            let breaker = Arc::clone(&breaker);
            Box::new(move || {
                let verdict = breaker.ask(later);
                breaker.withdraw(verdict);
                verdict
            }) as Box<dyn FnOnce() -> Verdict>
        };
        let verdicts = at_once(vec![ask(), ask()]);
        assert!(verdicts.contains(&Verdict::Probe));
        assert_eq!(breaker.ask(later), Verdict::Probe, "the places were given back");
        assert_ne!(breaker.ask(later), Verdict::Probe, "and there is one");
    });
}

fn entry(epoch: u64) -> Arc<Entry> {
    let mapping = Mapping {
        lineage: Lineage(1),
        tenant: tenant(),
        uid: Uid(1),
        epoch: Epoch(epoch),
        rev: Rev(epoch),
        revision: Revision(epoch),
        state: MappingState::Active,
        owner: CellId::new("a").unwrap(),
        peer: None,
        hold: Hold::None,
        tier: Tier::Bronze,
    };
    let gates = Arc::new(InstanceSet::new(Vec::new()));
    Arc::new(Entry { mapping, endpoints: Arc::new(Endpoints { gates, agent: String::new() }) })
}

fn epoch(table: &ConcurrentTable) -> Option<u64> {
    table.find(&tenant(), None).map(|entry| entry.mapping.epoch.get())
}

#[test]
fn what_is_installed_while_an_image_is_exchanged_stays() {
    loom::model(|| {
        let table = Arc::new(ConcurrentTable::new());
        table.install(entry(1));
        let mut draft = Draft::default();
        table.add(&mut draft, &[entry(1)]);
        let installing = Arc::clone(&table);
        let installed = thread::spawn(move || installing.install(entry(2)));
        table.replace(draft, Revision(1));
        assert!(installed.join().unwrap());
        assert_eq!(epoch(&table), Some(2));
    });
}

#[test]
fn nobody_sees_an_epoch_go_back_while_an_image_is_exchanged() {
    loom::model(|| {
        let table = Arc::new(ConcurrentTable::new());
        table.install(entry(1));
        let mut draft = Draft::default();
        table.add(&mut draft, &[entry(1)]);
        let installing = Arc::clone(&table);
        let installed = thread::spawn(move || installing.install(entry(2)));
        let looking = Arc::clone(&table);
        let looked = thread::spawn(move || (epoch(&looking), epoch(&looking)));
        table.replace(draft, Revision(1));
        installed.join().unwrap();
        let (before, after) = looked.join().unwrap();
        assert!(before.is_some() && after >= before, "{before:?}, then {after:?}");
    });
}
