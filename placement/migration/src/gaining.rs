//! Whether a copy comes closer to its source, or the writers are as fast as it is: then it would go on for ever. Pure.

use std::time::Duration;

use cell_client::ImportProgress;
use cell_model::Seq;

/// Less than a tenth closer is no closer.
const PART: u64 = 10;

/// What has to become less: rows that are missing, or the lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distance {
    /// Chunks bring what is missing: so many bytes have come.
    Copied(u64),
    /// Every row is there.
    Lag { bytes: u64, millis: u64 },
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gaining {
    best: Option<Distance>,
    /// Where the copy was when it was last looked at.
    applied: Seq,
    /// For how long changes have been applied and nothing was gained.
    in_vain: Duration,
}

impl Gaining {
    /// One look, so long after the last one. For how long changes have been applied by now and nothing was gained. A source or a target
    /// that stands still gains nothing, and is not what is looked for.
    pub(crate) fn look(&mut self, import: &ImportProgress, since: Duration) -> Duration {
        let now = if import.backfilled {
            Distance::Lag { bytes: import.lag_bytes, millis: import.lag_ms }
        } else {
            Distance::Copied(import.copied_bytes)
        };
        let (closer, went_on) = (self.best.is_none_or(|best| is_closer(best, now)), import.applied > self.applied);
        self.applied = import.applied;
        if closer {
            self.best = Some(now);
            self.in_vain = Duration::ZERO;
        } else if went_on {
            self.in_vain = self.in_vain.saturating_add(since);
        }
        self.in_vain
    }
}

fn is_closer(best: Distance, now: Distance) -> bool {
    let less = |best: u64, now: u64| now < best - best / PART || (now == 0 && best > 0);
    match (best, now) {
        // Of a copy that was begun anew less has come than before.
        (Distance::Copied(best), Distance::Copied(now)) => now != best,
        (Distance::Lag { bytes, millis }, Distance::Lag { bytes: now, millis: late }) => {
            less(bytes, now) || less(millis, late)
        }
        (Distance::Copied(_), Distance::Lag { .. }) | (Distance::Lag { .. }, Distance::Copied(_)) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lagging(applied: u64, lag_bytes: u64, lag_ms: u64) -> ImportProgress {
        let applied = Seq(applied);
        ImportProgress { backfilled: true, applied, lag_bytes, lag_ms, ..ImportProgress::default() }
    }

    fn copying(applied: u64, copied_bytes: u64) -> ImportProgress {
        ImportProgress { applied: Seq(applied), copied_bytes, ..ImportProgress::default() }
    }

    #[test]
    fn a_copy_that_applies_and_comes_no_closer_is_told_from_one_that_does() {
        let mut gaining = Gaining::default();
        for turn in 0..100 {
            let in_vain = gaining.look(&lagging(turn, 1_000_000 - turn * 9_000, 5_000 + turn), SECOND);
            assert!(in_vain < 20 * SECOND, "it comes closer, slowly: {gaining:?}");
        }
        let mut gaining = Gaining::default();
        for turn in 0..100 {
            gaining.look(&lagging(turn, 900_000 + turn % 7 * 10_000, 5_000 + turn % 5), SECOND);
        }
        assert_eq!(gaining.in_vain, 99 * SECOND);
    }

    #[test]
    fn what_stands_still_is_not_slower_than_its_writers() {
        let mut gaining = Gaining::default();
        for turn in 0..100 {
            gaining.look(&lagging(5, 1_000, turn * 1_000), SECOND);
        }
        assert_eq!(gaining.in_vain, Duration::ZERO);
    }

    #[test]
    fn a_backfill_gains_with_each_chunk_and_none_while_only_changes_come() {
        let mut gaining = Gaining::default();
        for turn in 0..50 {
            gaining.look(&copying(turn, turn / 10), SECOND);
        }
        assert_eq!(gaining.in_vain, 9 * SECOND);
        for turn in 50..80 {
            gaining.look(&copying(turn, 4), SECOND);
        }
        assert_eq!(gaining.in_vain, 39 * SECOND);
        assert_eq!(gaining.look(&copying(80, 5), SECOND), Duration::ZERO);
        assert_eq!(gaining.look(&lagging(81, 7, 7), SECOND), Duration::ZERO, "every row is there");
    }
}
