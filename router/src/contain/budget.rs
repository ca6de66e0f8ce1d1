//! How much may be tried again: a part of what is asked, so that trying again never multiplies a load that is too large
//! already (the shape of Finagle's, linkerd's and Envoy's budgets).
//!
//! Each request pays in a part of a retry, each retry takes a whole one; a little flows in by itself, so that who asks
//! seldom can try again, too. Only what the cell may have seen or did not take counts: a gate's 421, after which the
//! request goes to another cell, is not a retry.

use std::time::Duration;

use crate::atomics::{AtomicU64, Ordering};
use crate::moment::Moment;

/// How much flows in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BudgetOptions {
    /// Retries for a hundred requests. 0, with no floor: nothing is tried again.
    pub(crate) percent: u32,
    /// Retries a second that are always there.
    pub(crate) floor_per_second: u32,
}

/// Retries that are saved up at the most, in seconds of the floor and at least so many.
const SAVED_SECONDS: u64 = 10;
const SAVED_MIN: u64 = 20;
/// Retries that a tenant or a cell begins with.
const FIRST: u64 = 3;
/// A retry, in the unit that is counted.
const RETRY: u64 = 1_000;

/// A budget that threads share: 40 bits of milliseconds, 24 bits of thousandths of a retry.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU64);

/// Before the first request.
const UNUSED: u64 = u64::MAX;
const BALANCE_BITS: u32 = 24;
const BALANCE_MASK: u64 = (1 << BALANCE_BITS) - 1;

impl Default for Budget {
    /// As nobody has used it yet: a word that nothing else makes.
    fn default() -> Self {
        Self(AtomicU64::new(UNUSED))
    }
}

impl Budget {
    /// A request was made.
    pub(crate) fn request(&self, now: Moment, options: BudgetOptions) {
        self.change(now, options, |balance| Some(balance + u64::from(options.percent) * RETRY / 100));
    }

    /// Takes a retry. Whether there was one.
    pub(crate) fn retry(&self, now: Moment, options: BudgetOptions) -> bool {
        self.change(now, options, |balance| balance.checked_sub(RETRY))
    }

    fn change(&self, now: Moment, options: BudgetOptions, change: impl Fn(u64) -> Option<u64>) -> bool {
        let most = (u64::from(options.floor_per_second) * SAVED_SECONDS).max(SAVED_MIN) * RETRY;
        let most = if options.percent == 0 && options.floor_per_second == 0 { 0 } else { most.min(BALANCE_MASK) };
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let (since, balance) = match word {
                UNUSED => (now.millis(), FIRST * RETRY),
                _ => (word >> BALANCE_BITS, word & BALANCE_MASK),
            };
            // A second of the floor at a time would be coarse; a millisecond of one retry a second is one unit.
            let passed = Duration::from_millis(now.millis().saturating_sub(since)).min(Duration::from_secs(3_600));
            let flowed =
                u64::try_from(passed.as_millis()).unwrap_or(u64::MAX) * u64::from(options.floor_per_second);
            let Some(next) = change((balance + flowed).min(most)) else { return false };
            let next = (now.millis().max(since) << BALANCE_BITS) | next.min(most);
            if next == word {
                return true;
            }
            match self.0.compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(other) => word = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPTIONS: BudgetOptions = BudgetOptions { percent: 20, floor_per_second: 3 };

    #[test]
    fn who_asks_seldom_can_try_again() {
        let budget = Budget::default();
        let now = Moment::from_millis(60_000);
        budget.request(now, OPTIONS);
        assert!((0..3).all(|_| budget.retry(now, OPTIONS)));
    }

    #[test]
    fn under_load_retries_are_a_fifth_and_the_floor() {
        let budget = Budget::default();
        let mut retried = 0;
        for ms in 0..100_000 {
            let now = Moment::from_millis(ms);
            budget.request(now, OPTIONS);
            retried += u32::from(budget.retry(now, OPTIONS));
        }
        let most = 20_000 + 300 + 3;
        assert!((most - 300..=most + 60).contains(&retried), "{retried}");
    }

    #[test]
    fn with_neither_part_nor_floor_nothing_is_tried_again() {
        let none = BudgetOptions { percent: 0, floor_per_second: 0 };
        let budget = Budget::default();
        budget.request(Moment::from_millis(9_000), none);
        assert!(!budget.retry(Moment::from_millis(9_000), none));
    }

    proptest! {
        #[test]
        fn retries_never_exceed_what_flowed_in(
            steps in proptest::collection::vec((0..500_u64, any::<bool>()), 1..400), percent in 0..100_u32, floor in 0..9_u32,
        ) {
            let options = BudgetOptions { percent, floor_per_second: floor };
            let budget = Budget::default();
            let (mut now, mut requests, mut retries) = (0, 0_u64, 0_u64);
            for (gap, retry) in steps {
                now += gap;
                if retry {
                    retries += u64::from(budget.retry(Moment::from_millis(now), options));
                } else {
                    budget.request(Moment::from_millis(now), options);
                    requests += 1;
                }
            }
            let flowed = FIRST * RETRY + requests * u64::from(percent) * 10 + now * u64::from(floor);
            prop_assert!(retries * RETRY <= flowed, "{retries} of {flowed}");
        }
    }
}
