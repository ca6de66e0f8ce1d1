//! How old the table may be, without any agreement of clocks.
//!
//! ```text
//! router  t0 ── ping ──►  store: "everything up to revision r was committed" (read index)
//!         ◄── r ──        once the watch has brought r, the table is as of t0
//! ```
//! Staleness is `now − t0` on the router's own monotonic clock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cell_model::Revision;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

/// Answers that wait for the watch; older ones are forgotten.
const PENDING_MAX: usize = 64;

/// As of when the table is.
pub(crate) struct Freshness {
    started: Instant,
    /// Nanoseconds from `started` to t0, plus one; 0: never confirmed.
    as_of: AtomicU64,
    pending: Mutex<VecDeque<(Instant, Revision)>>,
    confirmed: Notify,
    wanted: Notify,
}

impl Freshness {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            as_of: AtomicU64::new(0),
            pending: Mutex::default(),
            confirmed: Notify::new(),
            wanted: Notify::new(),
        }
    }

    /// A ping sent at `asked_at` was answered with `revision`; the table has everything up to `applied`.
    pub(crate) fn answered(&self, asked_at: Instant, revision: Revision, applied: Revision) {
        {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.len() == PENDING_MAX {
                pending.pop_front();
            }
            pending.push_back((asked_at, revision));
        }
        self.applied(applied);
    }

    /// The table has everything up to `applied`.
    pub(crate) fn applied(&self, applied: Revision) {
        let newest = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let newest = pending.iter().filter(|(_, revision)| *revision <= applied).map(|(at, _)| *at).max();
            if let Some(newest) = newest {
                pending.retain(|(at, _)| *at > newest);
            }
            newest
        };
        if let Some(asked_at) = newest {
            let nanos = u64::try_from(asked_at.duration_since(self.started).as_nanos()).unwrap_or(u64::MAX - 1);
            self.as_of.fetch_max(nanos + 1, Ordering::AcqRel);
            self.confirmed.notify_waiters();
        }
    }

    /// Nothing that was confirmed holds any more: the table is another one.
    pub(crate) fn forget(&self) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.as_of.store(0, Ordering::Release);
    }

    /// The moment as of which the table is known to be.
    pub(crate) fn as_of(&self) -> Option<Instant> {
        let nanos = self.as_of.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.started + Duration::from_nanos(nanos))
    }

    /// How old the table may be. None: nobody has ever confirmed it.
    pub(crate) fn staleness(&self, now: Instant) -> Option<Duration> {
        self.as_of().map(|as_of| now.saturating_duration_since(as_of))
    }

    /// Done at the next confirmation after this call.
    pub(crate) fn confirmed(&self) -> Notified<'_> {
        self.confirmed.notified()
    }

    /// Somebody needs a confirmation now; calls made together are answered by one ping.
    pub(crate) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Done when somebody needs a confirmation.
    pub(crate) fn wanted(&self) -> Notified<'_> {
        self.wanted.notified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_of_the_ping_once_the_revision_has_come() {
        let freshness = Freshness::new();
        let t0 = freshness.started + Duration::from_millis(5);
        assert_eq!(freshness.staleness(t0), None);
        freshness.answered(t0, Revision(7), Revision(6));
        assert_eq!(freshness.staleness(t0), None, "revision 7 has not come yet");
        freshness.applied(Revision(7));
        assert_eq!(freshness.staleness(t0 + Duration::from_millis(30)), Some(Duration::from_millis(30)));
    }

    #[test]
    fn an_older_answer_does_not_make_the_table_older() {
        let freshness = Freshness::new();
        let t0 = freshness.started + Duration::from_millis(5);
        freshness.answered(t0 + Duration::from_millis(9), Revision(7), Revision(7));
        freshness.answered(t0, Revision(3), Revision(7));
        assert_eq!(freshness.as_of(), Some(t0 + Duration::from_millis(9)));
    }

    #[test]
    fn answers_that_the_watch_never_catches_up_with_are_bounded() {
        let freshness = Freshness::new();
        for n in 0..1_000 {
            freshness.answered(freshness.started + Duration::from_millis(n), Revision(n + 10), Revision(0));
        }
        assert_eq!(freshness.pending.lock().unwrap().len(), PENDING_MAX);
    }
}
