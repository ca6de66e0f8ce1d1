//! Rates and bursts of one tenant: the generic cell rate algorithm (ITU-T I.371), whose whole state is one number, the
//! *theoretical arrival time* (TAT) of the next request that would be exactly on time.
//!
//! ```text
//! TAT ≤ now              nothing owed: as good as new, which is why forgetting such a tenant refills nothing
//! now < TAT ≤ now + tolerance   within the burst: let in, TAT += interval
//! TAT > now + tolerance  refused; it may come again at TAT − tolerance
//! ```

use std::time::Duration;

use crate::atomics::{AtomicU64, Ordering};
use crate::moment::{Moment, nanos};

/// So many requests a second, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    interval_nanos: u64,
    tolerance_nanos: u64,
}

/// A whole share, as [`Rate::shared`] takes it.
pub(crate) const WHOLE: u32 = 1 << 16;

impl Rate {
    /// `per_second` and `burst` are at least 1: the options see to that.
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let interval_nanos = 1_000_000_000 / u64::from(per_second.max(1));
        let tolerance_nanos = interval_nanos * u64::from(burst.saturating_sub(1));
        Self { interval_nanos: interval_nanos.max(1), tolerance_nanos }
    }

    /// This router's part of a rate that holds for the fleet; at least a thousandth. The burst shrinks with it.
    #[must_use]
    pub(crate) fn shared(self, share: u32) -> Self {
        if share >= WHOLE {
            return self;
        }
        let share = u64::from(share.max(WHOLE / 1_000));
        // The same number of nanoseconds of tolerance at a longer interval is a smaller burst: exactly its share.
        let interval_nanos = self.interval_nanos.saturating_mul(u64::from(WHOLE)) / share;
        Self { interval_nanos, tolerance_nanos: self.tolerance_nanos }
    }
}

/// What one tenant has used of its rate.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    arrival_nanos: AtomicU64,
}

impl Bucket {
    /// Takes one request, or says how long it is until the next one would be let in.
    pub(crate) fn take(&self, now: Moment, rate: Rate) -> Result<(), Duration> {
        let mut held = self.arrival_nanos.load(Ordering::Relaxed);
        loop {
            let arrival = held.max(now.0);
            let early = arrival - now.0;
            if early > rate.tolerance_nanos {
                return Err(Duration::from_nanos(early - rate.tolerance_nanos));
            }
            let next = arrival.saturating_add(rate.interval_nanos);
            match self.arrival_nanos.compare_exchange_weak(held, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => held = other,
            }
        }
    }

    /// Whether it is as good as new, so that forgetting it gives nobody anything.
    pub(crate) fn is_full(&self, now: Moment) -> bool {
        Moment(self.arrival_nanos.load(Ordering::Relaxed)) <= now
    }
}

/// Seconds for `Retry-After`: rounded up, and never none.
pub(crate) fn retry_after(wait: Duration) -> Duration {
    Duration::from_secs(nanos(wait).div_ceil(1_000_000_000).max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_passes_at_once_and_the_next_one_is_told_when() {
        let (bucket, rate) = (Bucket::default(), Rate::new(10, 5));
        let now = Moment(7 * SECOND);
        for _ in 0..5 {
            bucket.take(now, rate).unwrap();
        }
        let wait = bucket.take(now, rate).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        assert!(bucket.take(now.after(wait - Duration::from_nanos(1)), rate).is_err());
        bucket.take(now.after(wait), rate).unwrap();
    }

    #[test]
    fn a_full_bucket_is_full_for_as_long_as_it_owes_nothing() {
        let (bucket, rate) = (Bucket::default(), Rate::new(10, 5));
        let now = Moment(SECOND);
        assert!(bucket.is_full(now));
        bucket.take(now, rate).unwrap();
        assert!(!bucket.is_full(now));
        assert!(bucket.is_full(now.after(Duration::from_millis(100))));
    }

    #[test]
    fn half_a_share_is_half_the_rate_and_half_the_burst() {
        let (bucket, rate) = (Bucket::default(), Rate::new(100, 101).shared(WHOLE / 2));
        let admitted = |from_ms: u64, until_ms: u64| {
            (from_ms..until_ms).filter(|ms| bucket.take(Moment::from_millis(*ms), rate).is_ok()).count()
        };
        let (first, later) = (admitted(0, 200), admitted(200, 10_200));
        assert!((50..=62).contains(&first), "{first}");
        assert!((499..=501).contains(&later), "{later}");
    }

    #[test]
    fn retry_after_is_whole_seconds_and_at_least_one() {
        assert_eq!(retry_after(Duration::ZERO), Duration::from_secs(1));
        assert_eq!(retry_after(Duration::from_millis(1_001)), Duration::from_secs(2));
    }

    proptest! {
        /// In no interval does more pass than the burst and what the rate gives in it; and whoever asks for less than
        /// the rate is never refused.
        #[test]
        fn no_interval_gets_more_than_burst_and_rate(
            per_second in 1..2_000_u32, burst in 1..50_u32, gaps in proptest::collection::vec(0..20_000_000_u64, 1..300),
        ) {
            let (bucket, rate) = (Bucket::default(), Rate::new(per_second, burst));
            let mut now = 5 * SECOND;
            let mut passed = Vec::new();
            for gap in gaps {
                now += gap;
                if bucket.take(Moment(now), rate).is_ok() {
                    passed.push(now);
                }
            }
            for (i, from) in passed.iter().enumerate() {
                for (j, until) in passed.iter().enumerate().skip(i) {
                    let most = u64::from(burst) + (until - from) / rate.interval_nanos;
                    prop_assert!((j - i + 1) as u64 <= most, "{} in {} ns", j - i + 1, until - from);
                }
            }
        }

        #[test]
        fn who_keeps_to_the_rate_is_never_refused(per_second in 1..5_000_u32, burst in 1..9_u32, extra in 0..1_000_u64) {
            let (bucket, rate) = (Bucket::default(), Rate::new(per_second, burst));
            for n in 0..200 {
                prop_assert!(bucket.take(Moment(n * (rate.interval_nanos + extra)), rate).is_ok());
            }
        }
    }
}
