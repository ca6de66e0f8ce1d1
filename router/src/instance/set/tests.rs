use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::Instances;
use super::*;
use crate::moment::Clock;

const OPTIONS: InstanceOptions = InstanceOptions {
    eject_after: 1,
    eject: Duration::from_secs(1),
    eject_max: Duration::from_secs(1),
    slow_start: Duration::from_secs(10),
    subset: 0,
};

fn set(count: usize) -> InstanceSet {
    let instances = Instances::new(Clock::start());
    InstanceSet::new((0..count).map(|n| instances.at(&format!("10.0.0.{n}:80").into(), false)).collect())
}

fn tenant(n: usize) -> TenantId {
    TenantId::new(format!("t-{n}")).unwrap()
}

fn home(set: &InstanceSet, n: usize) -> Arc<Instance> {
    Arc::clone(set.pick(&tenant(n), &[], Moment(1), OPTIONS).unwrap())
}

#[test]
fn a_tenant_goes_to_the_same_instance_and_tenants_spread_over_all() {
    let (one, same) = (set(8), set(8));
    let mut tenants: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for n in 0..4_000 {
        let at = home(&one, n);
        assert_eq!(at.address(), home(&same, n).address(), "in every router");
        *tenants.entry(Arc::clone(at.address())).or_default() += 1;
    }
    assert_eq!(tenants.len(), 8);
    assert!(tenants.values().all(|count| (250..=900).contains(count)), "{tenants:?}");
}

#[test]
fn a_new_instance_takes_tenants_only_for_itself() {
    let (before, after) = (set(8), set(9));
    let moved: Vec<_> = (0..2_000).filter(|n| home(&before, *n).address() != home(&after, *n).address()).collect();
    assert!(moved.iter().all(|n| &**home(&after, *n).address() == "10.0.0.8:80"));
    assert!((80..=420).contains(&moved.len()), "{}", moved.len());
}

#[test]
fn no_instance_has_more_than_a_quarter_above_the_mean() {
    let set = set(4);
    let mut occupied = Vec::new();
    for _ in 0..400 {
        occupied.push(set.pick(&tenant(7), &[], Moment(1), OPTIONS).unwrap().occupy());
        let most = set.instances().iter().map(|instance| instance.in_flight()).max().unwrap();
        let mean = f64::from(u32::try_from(occupied.len()).unwrap()) / 4.0;
        assert!(f64::from(most) <= (mean * LOAD_BOUND).ceil(), "{most} of {}", occupied.len());
    }
    drop(occupied);
    assert!(set.instances().iter().all(|instance| instance.in_flight() == 0));
}

#[test]
fn one_that_is_not_well_is_passed_over_and_taken_where_nothing_else_is_left() {
    let set = set(3);
    let first = home(&set, 1);
    assert!(first.failed(Moment(1), OPTIONS));
    let second = home(&set, 1);
    assert_ne!(first.address(), second.address());
    second.set_healthy(false, Moment(1));
    let third = home(&set, 1);
    assert!(!Arc::ptr_eq(&third, &first) && !Arc::ptr_eq(&third, &second));
    let last = set.pick(&tenant(1), std::slice::from_ref(&third), Moment(1), OPTIONS).unwrap();
    assert!(Arc::ptr_eq(last, &first) || Arc::ptr_eq(last, &second), "better than none");
    assert!(set.pick(&tenant(1), &[first, second, third], Moment(1), OPTIONS).is_none());
}

#[test]
fn one_that_warms_up_gets_a_small_part_first() {
    let instances = Instances::new(Clock::start());
    let old: Vec<_> = (0..2).map(|n| instances.at(&format!("old:{n}").into(), false)).collect();
    let new = instances.at(&"new:1".into(), true);
    let set = InstanceSet::new([old, vec![Arc::clone(&new)]].concat());
    let taken = |at: Moment| {
        let occupied: Vec<_> = (0..300).map(|n| set.pick(&tenant(n), &[], at, OPTIONS).unwrap().occupy()).collect();
        let taken = new.in_flight();
        drop(occupied);
        taken
    };
    let (early, late) = (taken(Moment(1)), taken(Moment::from_millis(60_000)));
    assert!(early <= 25 && late >= 60, "{early} early, {late} late");
}

#[test]
fn a_tenant_keeps_to_its_subset_and_subsets_differ() {
    let set = set(8);
    let options = InstanceOptions { subset: 2, ..OPTIONS };
    let mut subsets = BTreeSet::new();
    for n in 0..200 {
        let touched: BTreeSet<Arc<str>> = (0..40)
            .map(|_| set.pick(&tenant(n), &[], Moment(1), options).unwrap().occupy())
            .collect::<Vec<_>>()
            .iter()
            .map(|occupied| Arc::clone(occupied.instance().address()))
            .collect();
        assert_eq!(touched.len(), 2, "all the load of one tenant stays on two");
        subsets.insert(touched);
    }
    assert!(subsets.len() >= 25, "{} of 28 pairs", subsets.len());
    let touched: Vec<_> = subsets.first().unwrap().iter().cloned().collect();
    for instance in set.instances().iter().filter(|instance| touched.contains(instance.address())) {
        instance.set_healthy(false, Moment(1));
    }
    assert!((0..200).all(|n| set.pick(&tenant(n), &[], Moment(1), options).unwrap().is_healthy()));
}
