//! The routers that this node has heard of while it leads: what each holds, and until when it may take that for fresh.
//!
//! ```text
//! router  t0 ── ping (name, what its table holds) ──►  leader: lease until t_received + D, revision confirmed
//!         ◄── revision, D ──                           the router counts D from t0, so its lease ends before ours
//! ```
//!
//! A lease is only granted behind a read index: a majority has confirmed the leader after the ping came. So a leader of
//! a later term, which was elected later still, has waited out every lease of the one before it when it has led for
//! [`Routers::LEASE`] and a margin. Nothing here is replicated and losing it loses nothing: whether a tenant may be served
//! is decided by its cell. See docs/architecture.md, "Freshness and partitions".

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use cell_model::{HoldSight, Holds};
use cell_model::{Lineage, Revision, RouterSight, Sight, TenantId};
use tokio::sync::watch;
use tokio::time::Instant;

/// What a router says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// Random at each of its starts.
    pub instance: u64,
    /// History of its table.
    pub lineage: Lineage,
    /// What its table holds.
    pub revision: Revision,
    /// How old its table may be, if anybody has ever confirmed it.
    pub staleness: Option<Duration>,
    /// Of its program.
    pub version: String,
    /// When its certificate runs out, in seconds since 1970; 0 where it has none, or does not say.
    pub certificate_not_after_s: u64,
    /// What it holds back of tenants whose cells have no gate.
    pub holds: Holds,
}

/// What is known of one router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What it said last.
    pub report: Report,
    /// How long ago that was.
    pub silence: Duration,
    /// What is left of its lease.
    pub lease: Duration,
}

impl Known {
    const fn stands(&self) -> RouterSight<'_> {
        let Report { lineage, revision, holds, .. } = &self.report;
        RouterSight { table: (*lineage, *revision), leased: !self.lease.is_zero(), holds }
    }

    /// How it stands to a revision.
    #[must_use]
    pub fn sight(&self, lineage: Lineage, revision: Revision) -> Sight {
        self.stands().sight((lineage, revision))
    }

    /// How it stands to a tenant that is held since a revision.
    #[must_use]
    pub fn holds_back(&self, tenant: &TenantId, at: (Lineage, Revision)) -> HoldSight {
        self.stands().holds_back(tenant, at)
    }
}

#[derive(Debug)]
struct Heard {
    report: Report,
    at: Instant,
    lease_ends: Instant,
}

/// Name and instance.
type Key = (String, u64);

#[derive(Debug)]
struct Shared {
    heard: Mutex<BTreeMap<Key, Heard>>,
    /// When everything was forgotten last: a lease granted before may still run.
    forgotten: Mutex<Option<Instant>>,
    reports: watch::Sender<u64>,
}

/// Cheap to clone; clones share what was heard.
#[derive(Debug, Clone)]
pub struct Routers(Arc<Shared>);

impl Default for Routers {
    fn default() -> Self {
        let reports = watch::Sender::new(0);
        Self(Arc::new(Shared { heard: Mutex::default(), forgotten: Mutex::default(), reports }))
    }
}

impl Routers {
    /// For how long a router may take its table for fresh after a ping.
    pub const LEASE: Duration = Duration::from_secs(1);
    /// Clocks run apart by less than 1 in 200 over a lease; and a little for rounding.
    const MARGIN: Duration = Duration::from_millis(25);
    /// Routers ping several times in a lease: one that has not for so long may have gone.
    const HEARD_WITHIN: Duration = Duration::from_millis(500);
    /// Routers that are remembered; one more gets no lease.
    pub const ROUTERS_MAX: usize = 4_096;
    /// A router that was silent for so long is forgotten.
    const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

    fn heard(&self) -> MutexGuard<'_, BTreeMap<Key, Heard>> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a report that came at `received`. Answers the lease, or none where too many routers are known already.
    pub fn report(&self, report: Report, received: Instant) -> Option<Duration> {
        let key = (report.name.clone(), report.instance);
        let mut heard = self.heard();
        if !heard.contains_key(&key) && heard.len() >= Self::ROUTERS_MAX {
            heard.retain(|_, router| router.at.elapsed() < Self::FORGOTTEN_AFTER);
            if heard.len() >= Self::ROUTERS_MAX {
                return None;
            }
        }
        let lease_ends = received + Self::LEASE + Self::MARGIN;
        // A ping may be answered behind one that came later, and says nothing new then: above all not that a lease ends sooner.
        if heard.get(&key).is_none_or(|known| known.at <= received) {
            heard.insert(key, Heard { report, at: received, lease_ends });
        }
        drop(heard);
        self.0.reports.send_modify(|count| *count += 1);
        Some(Self::LEASE)
    }

    /// Every router, by name. One that has been silent for long is forgotten.
    #[must_use]
    pub fn known(&self) -> Vec<Known> {
        let now = Instant::now();
        let mut heard = self.heard();
        heard.retain(|_, router| now.duration_since(router.at) < Self::FORGOTTEN_AFTER);
        let known = |router: &Heard| Known {
            report: router.report.clone(),
            silence: now.duration_since(router.at),
            lease: router.lease_ends.saturating_duration_since(now),
        };
        heard.values().map(known).collect()
    }

    /// Forgets all: what a former term has heard says nothing in the next.
    pub fn forget(&self) {
        let mut heard = self.heard();
        *self.0.forgotten.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        heard.clear();
    }

    /// From when on this node has heard of every router that holds a lease.
    fn waited_out(&self, leading_since: Instant) -> Instant {
        let forgotten = *self.0.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        forgotten.map_or(leading_since, |forgotten| forgotten.max(leading_since)) + Self::LEASE + Self::MARGIN
    }

    /// Whether each router either has been heard of lately or has no lease any more, and holds back when it is told to.
    /// `leading_since`: as in [`Self::await_seen`].
    #[must_use]
    pub fn at_hand(&self, leading_since: Instant) -> bool {
        let now = Instant::now();
        let silence = |router: &Heard| now.duration_since(router.at);
        let comes = |router: &Heard| router.lease_ends <= now || silence(router) <= Self::HEARD_WITHIN;
        let heard = self.heard();
        let mut known = heard.values().filter(|router| silence(router) < Self::FORGOTTEN_AFTER);
        now >= self.waited_out(leading_since)
            && known.all(|router| router.report.holds != Holds::Nothing && comes(router))
    }

    /// Waits until every router has seen `revision` or is fenced, or until the deadline. `leading_since`: when this node
    /// began to lead; until a lease later a router may be served by a lease of the leader before.
    ///
    /// Answers whether all have seen it or are fenced, and how each stands.
    pub async fn await_seen(
        &self,
        (lineage, revision): (Lineage, Revision),
        leading_since: Instant,
        deadline: Instant,
    ) -> (bool, Vec<Known>) {
        let is_done = |router: &Known| router.sight(lineage, revision) != Sight::Waiting;
        self.wait(is_done, leading_since, deadline).await
    }

    /// Waits until no router sends writes any more of a tenant that is held since a revision, in a cell without a gate, or until
    /// the deadline. The rest as [`Self::await_seen`].
    pub async fn await_held_back(
        &self,
        tenant: &TenantId,
        at: (Lineage, Revision),
        leading_since: Instant,
        deadline: Instant,
    ) -> (bool, Vec<Known>) {
        let is_done = |router: &Known| router.holds_back(tenant, at).is_done();
        self.wait(is_done, leading_since, deadline).await
    }

    async fn wait(
        &self,
        is_done: impl Fn(&Known) -> bool,
        leading_since: Instant,
        deadline: Instant,
    ) -> (bool, Vec<Known>) {
        let mut reports = self.0.reports.subscribe();
        loop {
            reports.mark_unchanged();
            let now = Instant::now();
            let known = self.known();
            let waited_out = self.waited_out(leading_since);
            let leases: Vec<Duration> =
                known.iter().filter(|router| !is_done(router)).map(|router| router.lease).collect();
            if leases.is_empty() && now >= waited_out {
                return (true, known);
            }
            if now >= deadline {
                return (false, known);
            }
            let first_lease_ends = leases.iter().filter(|lease| !lease.is_zero()).min().map(|lease| now + *lease);
            let until = if leases.is_empty() { waited_out } else { deadline };
            // Never behind the deadline: whoever has set it hears here for whom was waited.
            let wake = first_lease_ends.unwrap_or(until).max(now + Duration::from_millis(1)).min(deadline);
            tokio::select! {
                _ = reports.changed() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, revision: u64) -> Report {
        Report {
            name: name.into(),
            instance: 1,
            lineage: Lineage(1),
            revision: Revision(revision),
            staleness: None,
            version: String::new(),
            certificate_not_after_s: 0,
            holds: Holds::AllBut(Vec::new()),
        }
    }

    fn sending(name: &str, revision: u64, tenants: &[&str]) -> Report {
        let tenants = tenants.iter().map(|tenant| TenantId::new(*tenant).unwrap()).collect();
        Report { holds: Holds::AllBut(tenants), ..report(name, revision) }
    }

    fn long_ago() -> Instant {
        Instant::now().checked_sub(Duration::from_secs(5)).expect("the machine has run for five seconds")
    }

    const AT: (Lineage, Revision) = (Lineage(1), Revision(7));

    #[tokio::test]
    async fn a_router_that_reports_the_revision_has_seen_it_and_one_that_does_not_is_named() {
        let routers = Routers::default();
        routers.report(report("r1", 7), Instant::now());
        routers.report(report("r2", 6), Instant::now());
        let deadline = Instant::now() + Duration::from_millis(20);
        let (complete, known) = routers.await_seen(AT, long_ago(), deadline).await;
        let sights: Vec<_> = known.iter().map(|known| known.sight(AT.0, AT.1)).collect();
        assert_eq!((complete, sights), (false, vec![Sight::Seen, Sight::Waiting]));
        routers.report(report("r2", 8), Instant::now());
        let (complete, known) = routers.await_seen(AT, long_ago(), Instant::now()).await;
        assert!(complete && known.iter().all(|known| known.sight(AT.0, AT.1) == Sight::Seen));
    }

    #[tokio::test]
    async fn a_router_that_falls_silent_is_fenced_when_its_lease_has_run_out_and_not_before() {
        let routers = Routers::default();
        let began = Instant::now();
        routers.report(report("r1", 6), began);
        let (complete, known) = routers.await_seen(AT, long_ago(), began + Duration::from_secs(5)).await;
        assert!(complete && known[0].sight(AT.0, AT.1) == Sight::Fenced);
        assert!(began.elapsed() >= Routers::LEASE, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_table_of_another_history_has_seen_nothing() {
        let routers = Routers::default();
        routers.report(Report { lineage: Lineage(9), ..report("r1", 100) }, Instant::now());
        let (complete, known) = routers.await_seen(AT, long_ago(), Instant::now()).await;
        assert!(!complete && known[0].sight(AT.0, AT.1) == Sight::Waiting);
    }

    #[tokio::test]
    async fn a_new_leader_waits_out_the_leases_of_the_one_before() {
        let (routers, began) = (Routers::default(), Instant::now());
        let (complete, _) = routers.await_seen(AT, began, began + Duration::from_millis(50)).await;
        assert!(!complete, "somebody may hold a lease of the former leader");
        let (complete, _) = routers.await_seen(AT, began, began + Duration::from_secs(5)).await;
        assert!(complete && began.elapsed() >= Routers::LEASE);
    }

    #[tokio::test]
    async fn what_was_forgotten_may_still_hold_a_lease() {
        let (routers, began) = (Routers::default(), Instant::now());
        routers.report(report("r1", 6), began);
        routers.forget();
        let (complete, known) = routers.await_seen(AT, long_ago(), began + Duration::from_millis(50)).await;
        assert_eq!((complete, known.len()), (false, 0));
    }

    #[tokio::test]
    async fn a_ping_that_is_heard_behind_a_later_one_takes_nothing_of_the_lease_back() {
        let routers = Routers::default();
        let now = Instant::now();
        let earlier = now.checked_sub(Routers::LEASE + Routers::MARGIN).unwrap();
        routers.report(report("r1", 6), now);
        routers.report(report("r1", 5), earlier);
        let (complete, known) = routers.await_seen(AT, long_ago(), now + Duration::from_millis(20)).await;
        assert_eq!(
            (complete, known[0].report.revision),
            (false, Revision(6)),
            "it holds a lease since its later ping"
        );
    }

    #[test]
    fn how_many_are_remembered_is_bounded() {
        let routers = Routers::default();
        for number in 0..Routers::ROUTERS_MAX {
            assert!(routers.report(report(&format!("r{number}"), 1), Instant::now()).is_some());
        }
        assert_eq!(routers.report(report("one-more", 1), Instant::now()), None);
        assert!(routers.report(report("r7", 2), Instant::now()).is_some(), "a known one goes on");
    }

    async fn held_back(routers: &Routers, patience: Duration) -> (bool, Vec<HoldSight>) {
        let tenant = TenantId::new("t").unwrap();
        let deadline = Instant::now() + patience;
        let (complete, known) = routers.await_held_back(&tenant, AT, long_ago(), deadline).await;
        (complete, known.iter().map(|router| router.holds_back(&tenant, AT)).collect())
    }

    #[tokio::test]
    async fn a_hold_waits_for_routers_that_are_behind_or_have_writes_of_the_tenant_on_their_way() {
        use HoldSight::{Back, Behind, Sending};
        let routers = Routers::default();
        routers.report(sending("r1", 7, &["u"]), Instant::now());
        routers.report(sending("r2", 6, &[]), Instant::now());
        routers.report(sending("r3", 8, &["u", "t"]), Instant::now());
        routers.report(Report { holds: Holds::Unknown, ..report("r4", 8) }, Instant::now());
        let soon = Duration::from_millis(20);
        assert_eq!(held_back(&routers, soon).await, (false, vec![Back, Behind, Sending, Sending]));
        for name in ["r2", "r3", "r4"] {
            routers.report(report(name, 9), Instant::now());
        }
        assert_eq!(held_back(&routers, Duration::ZERO).await, (true, vec![Back; 4]));
    }

    #[tokio::test]
    async fn a_silent_router_holds_back_when_its_lease_has_run_out_and_one_of_an_older_version_never_does() {
        let routers = Routers::default();
        let long_silent = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        // Also where it was sending then: it may be so still, and its writes are the database's to refuse.
        routers.report(sending("r1", 6, &["t"]), long_silent);
        assert_eq!(held_back(&routers, Duration::ZERO).await, (true, vec![HoldSight::Fenced]));
        routers.report(Report { holds: Holds::Nothing, ..report("r2", 9) }, long_silent);
        let (complete, sights) = held_back(&routers, Duration::from_millis(20)).await;
        assert_eq!((complete, sights[1]), (false, HoldSight::Unable));
    }

    #[tokio::test]
    async fn a_hold_is_not_begun_while_a_router_has_just_gone_or_a_leader_knows_too_little() {
        let routers = Routers::default();
        assert!(routers.at_hand(long_ago()) && !routers.at_hand(Instant::now()));
        let ago = |ms| Instant::now().checked_sub(Duration::from_millis(ms)).unwrap();
        routers.report(report("r1", 1), ago(100));
        assert!(routers.at_hand(long_ago()));
        routers.report(report("r2", 1), ago(700));
        assert!(!routers.at_hand(long_ago()), "it may hold a lease still");
        let routers = Routers::default();
        routers.report(report("r1", 1), ago(100));
        routers.report(report("r2", 1), ago(2_000));
        assert!(routers.at_hand(long_ago()), "it has none any more");
        routers.report(Report { holds: Holds::Nothing, ..report("r3", 9) }, ago(0));
        assert!(!routers.at_hand(long_ago()), "a hold would wait for it in vain");
        routers.forget();
        assert!(!routers.at_hand(long_ago()), "somebody may hold a lease that is not known any more");
    }
}
