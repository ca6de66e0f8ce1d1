//! For how long a gate may believe its grants: the one clock on which the freshness of reads rests.
//!
//! The agent answers a ping with a time. The lease is valid for that time from when the ping was *sent*, on the gate's
//! own monotonic clock; the agent counts the same time from when the ping *arrived*, which is later. So when the agent
//! takes a silent gate for stopped, it has stopped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A lease that is renewed by one task and read by every request.
#[derive(Debug)]
pub(crate) struct Lease {
    origin: Instant,
    /// Nanoseconds after `origin` at which it ends; 0 where there is none.
    ends: AtomicU64,
}

impl Lease {
    /// A lease that has never been granted.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), ends: AtomicU64::new(0) }
    }

    /// Whether it is valid at this moment.
    #[must_use]
    pub(crate) fn is_live(&self) -> bool {
        self.nanos(Instant::now()) < self.ends.load(Ordering::Acquire)
    }

    /// Extends it to `term` after `asked_at`. An answer to an older ping never shortens it.
    pub(crate) fn renew(&self, asked_at: Instant, term: Duration) {
        self.ends.fetch_max(self.nanos(asked_at + term), Ordering::AcqRel);
    }

    /// Ends it now, before the gate says farewell to its agent.
    pub(crate) fn end(&self) {
        self.ends.store(0, Ordering::Release);
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_counts_from_when_it_was_asked_for() {
        let lease = Lease::new();
        assert!(!lease.is_live());
        let asked_at = Instant::now();
        tokio::time::advance(Duration::from_millis(400)).await;
        lease.renew(asked_at, Duration::from_millis(1000));
        tokio::time::advance(Duration::from_millis(599)).await;
        assert!(lease.is_live());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!lease.is_live());
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_does_not_shorten_it_and_an_end_is_an_end() {
        let lease = Lease::new();
        let early = Instant::now();
        tokio::time::advance(Duration::from_millis(500)).await;
        lease.renew(Instant::now(), Duration::from_millis(1000));
        lease.renew(early, Duration::from_millis(1000));
        tokio::time::advance(Duration::from_millis(900)).await;
        assert!(lease.is_live());
        lease.end();
        assert!(!lease.is_live());
    }
}
