//! The instances of a cell: which one a request goes to.
//!
//! ```text
//! tenant ──ring──► its instance, the same each time, so that what the application has in memory is there
//!                    │ has more than its part of what is in flight (bounded load), still warming up,
//!                    │ ejected, or not healthy
//!                    ▼
//!                  the next one on the ring ─► … ─► the least loaded of those that are well ─► anything at all
//! ```
//! * *Bounded load* (Mirrokni, Thorup, Zadimoghaddam 2016): no instance has more than a quarter above the mean.
//! * *Slow start*: an instance that has just come, or come back, has a small part that grows.
//! * *Ejection*: an instance that has failed several times in a row is asked last for a while, longer each time.
//! * *Health* is asked for by [`check`], whether there is traffic or not.
//! * *Subsets*: with `instances.subset` a tenant keeps to so many instances of the ring while one of them is well, so that
//!   a tenant that breaks what it touches does not touch everything (shuffle sharding).
//!
//! What is known of an instance goes by its address and is shared by all threads and by all sets that name it.

pub(crate) mod check;
pub(crate) mod set;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::moment::{Clock, Moment};

/// When an instance is left alone and how it is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstanceOptions {
    /// Failures in a row after which it is ejected. 0: never.
    pub(crate) eject_after: u32,
    /// For how long the first time; longer by as much each time.
    pub(crate) eject: Duration,
    pub(crate) eject_max: Duration,
    /// How long it takes an instance that is new, or back, to get its full part.
    pub(crate) slow_start: Duration,
    /// To how many instances a tenant keeps. 0: all.
    pub(crate) subset: usize,
}

/// One instance, as this router sees it.
#[derive(Debug)]
pub(crate) struct Instance {
    address: Arc<str>,
    in_flight: AtomicU32,
    failures_in_row: AtomicU32,
    strikes: AtomicU32,
    ejected_until: AtomicU64,
    /// Since when it gets its part. 0: it was there from the beginning.
    since: AtomicU64,
    unhealthy: AtomicBool,
}

impl Instance {
    fn new(address: Arc<str>, since: Moment) -> Self {
        Self {
            address,
            in_flight: AtomicU32::new(0),
            failures_in_row: AtomicU32::new(0),
            strikes: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            since: AtomicU64::new(since.0),
            unhealthy: AtomicBool::new(false),
        }
    }

    pub(crate) fn address(&self) -> &Arc<str> {
        &self.address
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn is_healthy(&self) -> bool {
        !self.unhealthy.load(Ordering::Relaxed)
    }

    pub(crate) fn is_ejected(&self, now: Moment) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > now.0
    }

    /// Whether it is to be asked before those that are not well.
    pub(crate) fn is_well(&self, now: Moment) -> bool {
        self.is_healthy() && !self.is_ejected(now)
    }

    /// Its part of a full one: from a tenth up to the whole.
    pub(crate) fn warmth(&self, now: Moment, slow_start: Duration) -> f64 {
        let since = self.since.load(Ordering::Relaxed);
        if since == 0 || slow_start.is_zero() {
            return 1.0;
        }
        (now.since(Moment(since)).as_secs_f64() / slow_start.as_secs_f64()).clamp(0.1, 1.0)
    }

    /// It has answered, whatever it said.
    pub(crate) fn succeeded(&self, now: Moment) {
        if self.failures_in_row.load(Ordering::Relaxed) != 0 {
            self.failures_in_row.store(0, Ordering::Relaxed);
        }
        if self.strikes.load(Ordering::Relaxed) != 0 && !self.is_ejected(now) {
            self.strikes.store(0, Ordering::Relaxed);
            self.since.store(now.0.max(1), Ordering::Relaxed);
        }
    }

    /// It took no connection, broke one, or did not answer in time. Whether that has ejected it.
    pub(crate) fn failed(&self, now: Moment, options: InstanceOptions) -> bool {
        let in_row = self.failures_in_row.fetch_add(1, Ordering::Relaxed) + 1;
        if options.eject_after == 0 || in_row < options.eject_after || self.is_ejected(now) {
            return false;
        }
        // The next ejection needs as many again, unless it has been out before: then one is enough.
        self.failures_in_row.store(options.eject_after - 1, Ordering::Relaxed);
        let strikes = self.strikes.fetch_add(1, Ordering::Relaxed) + 1;
        let long = options.eject.saturating_mul(strikes).min(options.eject_max);
        self.ejected_until.store(now.after(long).0, Ordering::Relaxed);
        true
    }

    /// It took no connection, which leaves no doubt: one is enough. Whether that has ejected it.
    pub(crate) fn unreachable(&self, now: Moment, options: InstanceOptions) -> bool {
        self.failed(now, InstanceOptions { eject_after: options.eject_after.min(1), ..options })
    }

    /// What the health check has decided. Whether that is news.
    pub(crate) fn set_healthy(&self, healthy: bool, now: Moment) -> bool {
        let was_unhealthy = self.unhealthy.swap(!healthy, Ordering::Relaxed);
        if was_unhealthy && healthy {
            self.since.store(now.0.max(1), Ordering::Relaxed);
        }
        was_unhealthy == healthy
    }

    /// A request is with it, until what is returned is dropped.
    pub(crate) fn occupy(self: &Arc<Self>) -> Occupied {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Occupied(Arc::clone(self))
    }
}

/// A request that is with an instance.
#[derive(Debug)]
pub(crate) struct Occupied(Arc<Instance>);

impl Occupied {
    pub(crate) fn instance(&self) -> &Arc<Instance> {
        &self.0
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Every instance that some set names.
pub(crate) struct Instances {
    known: Mutex<BTreeMap<Arc<str>, Weak<Instance>>>,
    clock: Clock,
}

/// After so many more addresses those that nobody names any more are forgotten.
const SWEEP_AT: usize = 64;

impl Instances {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { known: Mutex::default(), clock }
    }

    /// The instance at an address. `joins`: its cell had others before, so that it has to warm up.
    pub(crate) fn at(&self, address: &Arc<str>, joins: bool) -> Arc<Instance> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(instance) = known.get(address).and_then(Weak::upgrade) {
            return instance;
        }
        if known.len() % SWEEP_AT == SWEEP_AT - 1 {
            known.retain(|_, instance| instance.strong_count() > 0);
        }
        let since = if joins { Moment(self.clock.now().0.max(1)) } else { Moment(0) };
        let instance = Arc::new(Instance::new(Arc::clone(address), since));
        known.insert(Arc::clone(address), Arc::downgrade(&instance));
        instance
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// Every instance that is named now.
    pub(crate) fn all(&self) -> Vec<Arc<Instance>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: InstanceOptions = InstanceOptions {
        eject_after: 3,
        eject: Duration::from_secs(1),
        eject_max: Duration::from_secs(3),
        slow_start: Duration::from_secs(10),
        subset: 0,
    };

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    #[test]
    fn an_instance_is_ejected_after_failures_in_a_row_and_longer_each_time() {
        let instance = Instance::new("a:1".into(), Moment(0));
        assert!(!instance.failed(at(1), OPTIONS) && !instance.failed(at(1), OPTIONS));
        instance.succeeded(at(2));
        assert!(!instance.failed(at(3), OPTIONS) && !instance.failed(at(3), OPTIONS));
        assert!(instance.failed(at(3), OPTIONS), "three in a row");
        assert!(instance.is_ejected(at(1_002)) && !instance.is_ejected(at(1_003)));
        assert!(!instance.failed(at(500), OPTIONS), "it is out already");
        assert!(instance.failed(at(1_100), OPTIONS), "after an ejection one is enough");
        assert!(instance.is_ejected(at(3_099)) && !instance.is_ejected(at(3_100)));
        assert!(instance.failed(at(3_200), OPTIONS) && instance.failed(at(7_000), OPTIONS));
        assert!(!instance.is_ejected(at(10_000)), "never for longer than the longest");
        instance.succeeded(at(10_000));
        assert!(!instance.failed(at(10_001), OPTIONS), "an answer makes good");
    }

    #[test]
    fn what_comes_or_comes_back_warms_up() {
        let clock = Clock::start();
        let instances = Instances::new(clock);
        let first = instances.at(&"a:1".into(), false);
        assert!((first.warmth(at(5), OPTIONS.slow_start) - 1.0).abs() < f64::EPSILON, "there from the beginning");
        assert!(first.set_healthy(false, at(5)) && !first.set_healthy(false, at(6)));
        assert!(first.set_healthy(true, at(1_000)));
        assert!((first.warmth(at(1_000), OPTIONS.slow_start) - 0.1).abs() < f64::EPSILON);
        assert!((first.warmth(at(6_000), OPTIONS.slow_start) - 0.5).abs() < 1e-9);
        assert!((first.warmth(at(60_000), OPTIONS.slow_start) - 1.0).abs() < f64::EPSILON);
        assert!(Arc::ptr_eq(&first, &instances.at(&"a:1".into(), true)), "one state for one address");
        let joins = instances.at(&"b:1".into(), true);
        assert!(joins.warmth(clock.now(), OPTIONS.slow_start) < 0.2);
    }

    #[test]
    fn addresses_that_nobody_names_are_forgotten() {
        let instances = Instances::new(Clock::start());
        for n in 0..10_000 {
            drop(instances.at(&format!("a:{n}").into(), false));
        }
        assert!(instances.known.lock().unwrap().len() < 2 * SWEEP_AT);
    }
}
