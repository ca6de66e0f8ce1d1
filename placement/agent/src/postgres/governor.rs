//! How fast a database may be read for copies, so that its own commits do not take longer than they may. Pure.
//!
//! ```text
//! latency ≤ limit: no limit of the rate ──latency > limit──► the rate of now, then PID ──rate beyond what was ever read──► none
//! ```
//! A PID controller in its velocity form (each step changes the rate by a factor, so nothing winds up while the rate is at
//! its floor), after Barker et al., "Cut me some slack", EDBT 2012. Its error is how far the smoothed latency lies below the
//! limit, as a part of the limit.

use std::collections::VecDeque;
use std::time::Duration;

/// A copy never stops: what makes commits slow may be somebody else, for ever.
pub(super) const RATE_MIN: u64 = 1024 * 1024;
/// Looks at the latency in a second.
pub(super) const LOOKS: u32 = 5;
/// How much of what is known of the latency is what was seen last.
const WEIGHT: f64 = 0.4;
/// What the error, its change, and the change of that do to the logarithm of the rate, at each look: with a latency of twice
/// the limit, or of nothing, the rate is halved or doubled in 0.7 seconds.
const INTEGRAL: f64 = 0.2;
const PROPORTIONAL: f64 = 0.4;
const DERIVATIVE: f64 = 0.1;
/// A rate that is so many times what has ever been read is no limit.
const BEYOND: f64 = 1.5;

/// See the module.
#[derive(Debug)]
pub(super) struct Governor {
    /// In seconds.
    limit: f64,
    latency: Option<f64>,
    /// The last two errors, the later one first.
    errors: [f64; 2],
    rate: Option<f64>,
    /// Bytes read between the last looks.
    read: VecDeque<u64>,
    fastest: f64,
}

#[expect(clippy::cast_precision_loss, reason = "of bytes in a second only the order of magnitude matters")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

impl Governor {
    pub(super) fn new(limit: Duration) -> Self {
        let limit = limit.as_secs_f64();
        Self { limit, latency: None, errors: [0.0; 2], rate: None, read: VecDeque::new(), fastest: 0.0 }
    }

    /// One look: how long a commit has taken, and what was read since the last look.
    pub(super) fn look(&mut self, latency: Duration, read: u64) {
        let seen = latency.as_secs_f64();
        let known = self.latency.map_or(seen, |known| known + WEIGHT * (seen - known));
        self.latency = Some(known);
        self.read.push_back(read);
        if self.read.len() > LOOKS as usize {
            self.read.pop_front();
        }
        let now = float(self.read.iter().sum()) * f64::from(LOOKS) / float(self.read.len() as u64);
        self.fastest = self.fastest.max(now);
        let error = ((self.limit - known) / self.limit).clamp(-1.0, 1.0);
        self.rate = match self.rate {
            None if error >= 0.0 => None,
            None => Some(now),
            Some(rate) => Some(rate * self.step(error).exp()),
        };
        self.errors = [error, self.errors[0]];
        self.rate = self.rate.map(|rate| rate.max(float(RATE_MIN))).filter(|rate| !self.is_no_limit(*rate, error));
    }

    fn step(&self, error: f64) -> f64 {
        let [last, before] = self.errors;
        let (change, bend) = (error - last, error - 2.0 * last + before);
        INTEGRAL * error + PROPORTIONAL * change + DERIVATIVE * bend
    }

    fn is_no_limit(&self, rate: f64, error: f64) -> bool {
        error > 0.0 && rate > (BEYOND * self.fastest).max(2.0 * float(RATE_MIN))
    }

    /// Bytes in a second; nothing where there is no limit.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is at least the lowest rate")]
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate.map(|rate| rate as u64)
    }

    /// As far as it is known.
    pub(super) fn latency(&self) -> Option<Duration> {
        self.latency.map(Duration::from_secs_f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1024 * 1024;
    const LIMIT: Duration = Duration::from_millis(100);

    /// A source whose commits take as long as it is read fast, and that cannot be read faster than so.
    struct Source {
        idle_ms: f64,
        ms_per_mib: f64,
        fastest: u64,
    }

    impl Source {
        /// What is read in a look's time, and how long a commit takes meanwhile.
        fn read(&self, governor: &Governor) -> (Duration, u64) {
            let rate = governor.rate().map_or(self.fastest, |rate| rate.min(self.fastest));
            let latency = self.idle_ms + self.ms_per_mib * float(rate) / float(MIB);
            (Duration::from_secs_f64(latency / 1_000.0), rate / u64::from(LOOKS))
        }

        fn seconds(&self, governor: &mut Governor, seconds: u32) {
            for _ in 0..seconds * LOOKS {
                let (latency, read) = self.read(governor);
                governor.look(latency, read);
            }
        }
    }

    #[test]
    fn a_source_that_does_not_suffer_is_read_as_fast_as_it_goes() {
        let mut governor = Governor::new(LIMIT);
        Source { idle_ms: 4.0, ms_per_mib: 1.0, fastest: 80 * MIB }.seconds(&mut governor, 60);
        assert_eq!(governor.rate(), None);
        assert!(governor.latency().is_some_and(|latency| latency < LIMIT));
    }

    #[test]
    fn a_source_that_suffers_is_read_at_the_rate_at_which_its_commits_take_as_long_as_they_may() {
        let mut governor = Governor::new(LIMIT);
        let source = Source { idle_ms: 10.0, ms_per_mib: 3.0, fastest: 80 * MIB };
        source.seconds(&mut governor, 30);
        let wanted = 30 * MIB;
        for _ in 0..10 {
            source.seconds(&mut governor, 1);
            let rate = governor.rate().expect("it is limited");
            assert!(rate.abs_diff(wanted) < wanted / 10, "{rate} of {wanted}");
        }
    }

    #[test]
    fn a_copy_is_slowed_down_within_seconds_and_let_go_of_when_the_source_has_recovered() {
        let mut governor = Governor::new(LIMIT);
        let calm = Source { idle_ms: 5.0, ms_per_mib: 0.5, fastest: 60 * MIB };
        calm.seconds(&mut governor, 5);
        assert_eq!(governor.rate(), None);
        // Somebody else makes commits slow.
        let busy = Source { idle_ms: 300.0, ..calm };
        busy.seconds(&mut governor, 2);
        assert!(governor.rate().is_some_and(|rate| rate < 40 * MIB), "{governor:?}");
        busy.seconds(&mut governor, 10);
        assert_eq!(governor.rate(), Some(RATE_MIN), "it goes on all the same");
        busy.seconds(&mut governor, 600);
        calm.seconds(&mut governor, 10);
        assert_eq!(governor.rate(), None, "however long it has been at its floor: {governor:?}");
    }

    #[test]
    fn one_slow_commit_among_quick_ones_slows_nothing_down_for_long() {
        let mut governor = Governor::new(LIMIT);
        let calm = Source { idle_ms: 5.0, ms_per_mib: 0.5, fastest: 60 * MIB };
        calm.seconds(&mut governor, 5);
        governor.look(Duration::from_millis(150), calm.fastest / u64::from(LOOKS));
        assert_eq!(governor.rate(), None, "it is smoothed");
        governor.look(Duration::from_secs(2), calm.fastest / u64::from(LOOKS));
        assert!(governor.rate().is_some());
        calm.seconds(&mut governor, 4);
        assert_eq!(governor.rate(), None);
    }

    proptest! {
        #[test]
        fn whatever_is_seen_the_rate_is_none_or_at_least_its_floor(
            looks in proptest::collection::vec((0_u64..100_000_000, 0_u64..1 << 40), 1..200),
        ) {
            let mut governor = Governor::new(LIMIT);
            for (micros, read) in looks {
                governor.look(Duration::from_micros(micros), read);
                prop_assert!(governor.rate().is_none_or(|rate| rate >= RATE_MIN));
                prop_assert!(governor.latency().is_some());
            }
        }
    }
}
