//! What is kept of each tenant that asks: its bucket, how many of its requests are on their way, its breaker, its budget
//! of retries. Made at its first request, forgotten once forgetting gives nobody anything; so it grows with the tenants
//! that are active, not with those that exist, and never past the table.

use std::sync::Arc;
use std::time::Duration;

use cell_model::{TenantId, Uid};
use foldhash::fast::RandomState;
use papaya::HashMap;

use super::places::Places;
use super::rate::{Bucket, WHOLE};
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::contain::breaker::Breaker;
use crate::contain::budget::Budget;
use crate::moment::{Moment, nanos};
use crate::usage::{Counters, Drawer};

/// One active tenant. Shared by all threads, changed by atomics alone.
#[derive(Debug)]
pub(crate) struct Active {
    /// Whose all of it is: a tenant that is created again has nothing of the one before.
    uid: Uid,
    pub(crate) bucket: Bucket,
    pub(crate) retries: Budget,
    /// What it has used and nobody has written down yet.
    pub(crate) used: Counters,
    /// What it has of its cell.
    pub(crate) places: Arc<Places>,
    breaker: Breaker,
    /// The epoch that the breaker is of: with another owner it starts anew, so it is one of (tenant, cell).
    breaker_epoch: AtomicU64,
    in_flight: AtomicU32,
    /// This router's part of the tenant's rate, of [`WHOLE`].
    share: AtomicU32,
    /// Requests since the last turn of the fleet's shares.
    asked: AtomicU32,
    /// Requests a second, smoothed, in thousandths; let in or not.
    demand_milli: AtomicU64,
    /// What its requests take in the cell, smoothed.
    takes_nanos: AtomicU64,
    /// Where what it has used goes when it is forgotten; none where nobody wants to know.
    home: Option<(TenantId, Arc<Drawer>)>,
}

impl Active {
    fn new(uid: Uid, share: u32, home: Option<(TenantId, Arc<Drawer>)>) -> Self {
        Self {
            uid,
            bucket: Bucket::default(),
            retries: Budget::default(),
            used: Counters::default(),
            places: Arc::default(),
            home,
            breaker: Breaker::default(),
            breaker_epoch: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            share: AtomicU32::new(share),
            asked: AtomicU32::new(0),
            demand_milli: AtomicU64::new(0),
            takes_nanos: AtomicU64::new(0),
        }
    }

    /// The breaker of this tenant in the cell that owns it at this epoch. None: the request is of an older one.
    pub(crate) fn breaker(&self, epoch: u64) -> Option<&Breaker> {
        let known = self.breaker_epoch.load(Ordering::Relaxed);
        if epoch < known {
            return None;
        }
        if epoch > known && self.breaker_epoch.fetch_max(epoch, Ordering::Relaxed) < epoch {
            self.breaker.reset();
        }
        Some(&self.breaker)
    }

    /// The breaker as it is.
    pub(crate) fn last_breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// A request of it is on its way, unless so many are already.
    pub(crate) fn enter(self: &Arc<Self>, most: u32) -> Option<OnItsWay> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let entered = OnItsWay(Arc::clone(self));
        (before < most).then_some(entered)
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn share(&self) -> u32 {
        self.share.load(Ordering::Relaxed)
    }

    pub(crate) fn set_share(&self, share: u32) {
        self.share.store(share, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests a second, smoothed.
    pub(crate) fn demand(&self) -> f64 {
        self.demand_milli.load(Ordering::Relaxed) as f64 / 1_000.0
    }

    /// A turn is over: takes what was asked in it into the demand.
    #[expect(clippy::cast_possible_truncation, reason = "not negative, and far below u64")]
    pub(crate) fn turn(&self, lasted: Duration) {
        let asked = f64::from(self.asked.swap(0, Ordering::Relaxed));
        let now = asked / lasted.as_secs_f64().max(0.001) * 1_000.0;
        let held = self.demand_milli.load(Ordering::Relaxed) as f64;
        let next = if held == 0.0 { now } else { held * 0.7 + now * 0.3 };
        self.demand_milli.store(if next < 1.0 { 0 } else { next as u64 }, Ordering::Relaxed);
    }

    /// One of its requests has taken so long in the cell.
    pub(crate) fn took(&self, took: Duration) {
        let (held, took) = (self.takes_nanos.load(Ordering::Relaxed), nanos(took));
        let next = if held == 0 { took } else { held - held / 8 + took / 8 };
        // Between threads the last one wins: it is an average.
        self.takes_nanos.store(next, Ordering::Relaxed);
    }

    /// What a request of it costs where `mean` is what a request of anybody takes: a quarter to eight times.
    pub(crate) fn cost(&self, mean: Duration) -> f32 {
        let (takes, mean) = (self.takes_nanos.load(Ordering::Relaxed), nanos(mean));
        if takes == 0 || mean == 0 {
            return 1.0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a ratio, clamped")]
        let cost = (takes as f64 / mean as f64) as f32;
        cost.clamp(0.25, 8.0)
    }

    /// Puts what it has used into the drawer.
    fn put_away(&self) {
        if let Some((tenant, drawer)) = &self.home {
            drawer.put(tenant, self.used.take());
        }
    }

    fn is_idle(&self, now: Moment) -> bool {
        self.in_flight() == 0
            && self.bucket.is_full(now)
            && self.breaker.is_forgettable(now)
            && self.asked.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Active {
    /// Somebody may have counted after it was forgotten.
    fn drop(&mut self) {
        self.put_away();
    }
}

/// A request on its way, until it is dropped.
#[derive(Debug)]
pub(crate) struct OnItsWay(Arc<Active>);

impl OnItsWay {
    /// So many bytes of its answer have gone.
    pub(crate) fn answered(&self, bytes: usize) {
        self.0.used.answered(bytes);
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All active tenants.
pub(crate) struct Tenants {
    active: HashMap<TenantId, Arc<Active>, RandomState>,
    /// The share of a tenant of which nothing is known yet.
    first_share: AtomicU32,
    drawer: Arc<Drawer>,
    /// Whether what is used is to be written down.
    metered: bool,
}

impl Default for Tenants {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Tenants {
    pub(crate) fn new(metered: bool) -> Self {
        let (active, first_share) = (HashMap::default(), AtomicU32::new(WHOLE));
        Self { active, first_share, drawer: Arc::default(), metered }
    }

    /// What those have used that are forgotten.
    pub(crate) fn drawer(&self) -> &Arc<Drawer> {
        &self.drawer
    }

    /// The tenant's, made if this is its first request. Only for tenants of the table.
    pub(crate) fn of(&self, tenant: &TenantId, uid: Uid) -> Arc<Active> {
        let active = self.active.pin();
        let make = || {
            let home = self.metered.then(|| (tenant.clone(), Arc::clone(&self.drawer)));
            Arc::new(Active::new(uid, self.first_share.load(Ordering::Relaxed), home))
        };
        match active.get(tenant) {
            Some(found) if found.uid == uid => Arc::clone(found),
            Some(_) => {
                // What the one before has used is put away with the last of its requests.
                let made = make();
                active.insert(tenant.clone(), Arc::clone(&made));
                made
            }
            None => Arc::clone(active.get_or_insert_with(tenant.clone(), make)),
        }
    }

    /// The tenant's, if it is active.
    pub(crate) fn find(&self, tenant: &TenantId) -> Option<Arc<Active>> {
        self.active.pin().get(tenant).cloned()
    }

    pub(crate) fn set_first_share(&self, share: u32) {
        self.first_share.store(share, Ordering::Relaxed);
    }

    /// Forgets those of whom nothing is worth keeping.
    pub(crate) fn sweep(&self, now: Moment) {
        self.active.pin().retain(|_, active| {
            let keep = Arc::strong_count(active) > 1 || !active.is_idle(now);
            if !keep {
                active.put_away();
            }
            keep
        });
    }

    /// Each active tenant.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&TenantId, &Arc<Active>)) {
        for (tenant, active) in &self.active.pin() {
            each(tenant, active);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.active.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contain::breaker::{BreakerOptions, Verdict};
    use crate::fair::rate::Rate;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn quick() -> BreakerOptions {
        BreakerOptions {
            failures_min: 1,
            failures_percent: 1,
            window: Duration::from_secs(1),
            open: Duration::from_secs(9),
            open_max: Duration::from_secs(9),
            probes: 1,
        }
    }

    #[test]
    fn a_tenant_is_forgotten_once_that_gives_it_nothing_and_not_before() {
        let (tenants, now) = (Tenants::default(), Moment::from_millis(1_000));
        let a = tenants.of(&tenant("a"), Uid(1));
        a.bucket.take(now, Rate::new(10, 1)).unwrap();
        drop(a);
        tenants.sweep(now);
        assert_eq!(tenants.count(), 1, "forgetting would refill its bucket");
        assert!(tenants.of(&tenant("a"), Uid(1)).bucket.take(now, Rate::new(10, 1)).is_err());
        let later = now.after(Duration::from_millis(100));
        let on_its_way = tenants.of(&tenant("a"), Uid(1)).enter(5).unwrap();
        tenants.sweep(later);
        assert_eq!(tenants.count(), 1, "one of its requests is on its way");
        drop(on_its_way);
        tenants.sweep(later);
        assert_eq!(tenants.count(), 0);
    }

    #[test]
    fn what_a_forgotten_tenant_has_used_is_in_the_drawer() {
        let (tenants, now) = (Tenants::new(true), Moment::from_millis(1_000));
        tenants.of(&tenant("a"), Uid(1)).used.request(true);
        let late = tenants.of(&tenant("b"), Uid(1));
        late.used.request(false);
        tenants.sweep(now);
        assert_eq!(tenants.count(), 1, "somebody still holds the other");
        late.used.received(7);
        assert_eq!(late.used.take().received_bytes, 7);
        drop(late);
        tenants.sweep(now);
        assert_eq!(tenants.drawer().take().keys().map(TenantId::as_str).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_tenant_that_is_created_again_has_nothing_of_the_one_before() {
        let (tenants, now) = (Tenants::default(), Moment::from_millis(5));
        let options = quick();
        let before = tenants.of(&tenant("a"), Uid(1));
        assert!(before.breaker(7).unwrap().tell(Verdict::Pass, true, now, options, 0.0));
        assert!(matches!(tenants.of(&tenant("a"), Uid(1)).breaker(7).unwrap().ask(now), Verdict::Refuse(_)));
        let again = tenants.of(&tenant("a"), Uid(2));
        assert_eq!(again.breaker(1).unwrap().ask(now), Verdict::Pass);
    }

    #[test]
    fn an_open_breaker_that_nobody_asks_is_forgotten_in_the_end() {
        let (tenants, now) = (Tenants::default(), Moment::from_millis(5));
        let a = tenants.of(&tenant("a"), Uid(1));
        assert!(a.breaker(1).unwrap().tell(Verdict::Pass, true, now, quick(), 0.0));
        drop(a);
        tenants.sweep(now.after(Duration::from_secs(60)));
        assert_eq!(tenants.count(), 1, "it may come again");
        tenants.sweep(now.after(Duration::from_secs(700)));
        assert_eq!(tenants.count(), 0);
    }

    #[test]
    fn the_cap_on_concurrency_counts_what_is_on_its_way() {
        let active = Tenants::default().of(&tenant("a"), Uid(1));
        let first = active.enter(2).unwrap();
        let _second = active.enter(2).unwrap();
        assert!(active.enter(2).is_none());
        drop(first);
        assert!(active.enter(2).is_some());
    }

    #[test]
    fn a_breaker_is_of_one_owner() {
        let options = quick();
        let active = Tenants::default().of(&tenant("a"), Uid(1));
        let now = Moment::from_millis(5);
        assert!(active.breaker(3).unwrap().tell(Verdict::Pass, true, now, options, 0.0));
        assert!(matches!(active.breaker(3).unwrap().ask(now), Verdict::Refuse(_)));
        assert_eq!(active.breaker(4).unwrap().ask(now), Verdict::Pass, "another cell owns it now");
        assert!(active.breaker(3).is_none(), "what was sent to the old one says nothing of the new one");
    }

    #[test]
    fn what_takes_long_costs_more() {
        let active = Tenants::default().of(&tenant("a"), Uid(1));
        let mean = Duration::from_millis(10);
        assert!((active.cost(mean) - 1.0).abs() < f32::EPSILON, "nothing is known yet");
        for _ in 0..200 {
            active.took(Duration::from_millis(40));
        }
        assert!((3.9..=4.0).contains(&active.cost(mean)), "{}", active.cost(mean));
        for _ in 0..200 {
            active.took(Duration::from_secs(10));
        }
        assert!((active.cost(mean) - 8.0).abs() < f32::EPSILON);
    }
}
