//! How many requests a cell may have at once, found out by watching what they take (after the gradient controllers of
//! Netflix, Envoy and Uber's Cinnamon).
//!
//! The *baseline* is what an answer takes while the cell is not pressed. Where answers take more than half as long again
//! plus the slack, requests are queueing in the cell: the limit falls, and they queue here, where the order is fair. Where
//! the limit is used up and answers are still quick, it rises.
//!
//! ```text
//! Rising ──first pressed window──► Steady ──probe due and pressed──► Settling ──► Probing ──► Steady
//!  doubles while it is used up      grows by steps,          limit halved; what was         the mean of a whole
//!                                   shrinks by gradient      in the cell runs out           window is the baseline
//! ```
//! Without the probe a cell that answers slower for good (heavier requests) would be throttled for ever, and one that was
//! measured while it was pressed would never be relieved.

use std::time::Duration;

use crate::moment::Moment;

/// Bounds of the limit and what counts as pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LimitRange {
    pub(crate) initial: u32,
    pub(crate) min: u32,
    pub(crate) max: u32,
    /// This much more than half as long again is no sign of anything.
    pub(crate) slack: Duration,
}

/// What was seen of a cell in one window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) answers: u64,
    /// Of those that were answered.
    pub(crate) mean: Duration,
    /// The quickest of them.
    pub(crate) quickest: Duration,
    /// Requests that the cell did not answer in time.
    pub(crate) timeouts: u64,
    /// The most that were there at once.
    pub(crate) in_flight_peak: u32,
}

/// How often the baseline is measured anew, where the cell is pressed.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const TOLERANCE: f64 = 1.5;
const GRADIENT_MIN: f64 = 0.5;
/// How much of a change is made in one window.
const SMOOTHING: f64 = 0.5;
const BASELINE_SMOOTHING: f64 = 0.1;
const AFTER_TIMEOUTS: f64 = 0.9;
/// A limit that is used to this part is used up.
const USED_UP: f64 = 0.8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Rising,
    Steady,
    Settling,
    Probing,
}

/// The controller of one cell. Pure: windows in, limit out.
#[derive(Debug)]
pub(crate) struct Adaptive {
    range: LimitRange,
    limit: f64,
    baseline: Option<f64>,
    phase: Phase,
    probe_due: Moment,
}

impl Adaptive {
    pub(crate) fn new(range: LimitRange, now: Moment) -> Self {
        let limit = f64::from(range.initial.clamp(range.min, range.max));
        Self { range, limit, baseline: None, phase: Phase::Rising, probe_due: now.after(PROBE_INTERVAL) }
    }

    pub(crate) fn set_range(&mut self, range: LimitRange) {
        self.range = range;
        self.limit = self.limit.clamp(f64::from(range.min), f64::from(range.max));
    }

    /// The limit to go by until the next window.
    #[expect(clippy::cast_possible_truncation, reason = "clamped to u32s")]
    pub(crate) fn limit(&self) -> u32 {
        let probing = matches!(self.phase, Phase::Settling | Phase::Probing);
        let limit = if probing { self.limit / 2.0 } else { self.limit };
        (limit as u32).clamp(self.range.min, self.range.max)
    }

    /// What an answer takes while the cell is not pressed.
    pub(crate) fn baseline(&self) -> Option<Duration> {
        self.baseline.map(Duration::from_secs_f64)
    }

    /// A window is over.
    pub(crate) fn observe(&mut self, window: Window, now: Moment) {
        let mean = window.mean.as_secs_f64();
        match self.phase {
            Phase::Settling => self.phase = Phase::Probing,
            Phase::Probing => {
                if window.answers > 0 {
                    self.baseline = Some(mean);
                }
                self.phase = Phase::Steady;
                self.probe_due = now.after(PROBE_INTERVAL);
            }
            Phase::Rising | Phase::Steady => self.adjust(window, mean, now),
        }
        self.limit = self.limit.clamp(f64::from(self.range.min), f64::from(self.range.max));
    }

    fn adjust(&mut self, window: Window, mean: f64, now: Moment) {
        if window.timeouts > 0 {
            self.phase = Phase::Steady;
            self.limit *= AFTER_TIMEOUTS;
        }
        if window.answers == 0 {
            return;
        }
        let baseline = match self.baseline {
            // Half of the limit or less: what a probe would bring about is so already.
            Some(_) if f64::from(window.in_flight_peak) <= self.limit / 2.0 => {
                self.baseline.map_or(mean, |held| held + (mean - held) * BASELINE_SMOOTHING)
            }
            // Nothing is known yet: the cell may be pressed already.
            None => window.quickest.as_secs_f64(),
            Some(held) if mean < held => held + (mean - held) * BASELINE_SMOOTHING,
            Some(held) => held,
        };
        self.baseline = Some(baseline);
        let bearable = baseline * TOLERANCE + self.range.slack.as_secs_f64();
        if mean > bearable {
            let gradient = (bearable / mean).max(GRADIENT_MIN);
            self.limit *= 1.0 - SMOOTHING * (1.0 - gradient);
            let at_bottom = self.limit <= f64::from(self.range.min);
            self.phase = if now >= self.probe_due || at_bottom { Phase::Settling } else { Phase::Steady };
        } else if f64::from(window.in_flight_peak) >= self.limit * USED_UP {
            let at_ease = mean <= (baseline + bearable) / 2.0;
            self.limit = match self.phase {
                Phase::Rising if at_ease => self.limit * 2.0,
                _ => self.limit + (self.limit.sqrt() / 2.0).max(1.0),
            };
            if !at_ease && self.phase == Phase::Rising {
                self.phase = Phase::Steady;
            }
            if self.phase == Phase::Steady && now >= self.probe_due && mean > baseline * 1.2 {
                self.phase = Phase::Settling;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RANGE: LimitRange = LimitRange { initial: 64, min: 8, max: 4_096, slack: Duration::from_millis(5) };
    const WINDOW: Duration = Duration::from_millis(100);

    /// A cell that serves so many at once, each for so long, with as much demand as the limit lets in: by Little's law.
    fn pressed(limit: u32, places: u32, service: Duration) -> Window {
        let waits = f64::from(limit.max(places)) / f64::from(places);
        let mean = service.mul_f64(waits);
        Window { answers: 50, mean, quickest: mean, timeouts: 0, in_flight_peak: limit }
    }

    fn run(
        adaptive: &mut Adaptive,
        from: Moment,
        windows: u32,
        places: u32,
        service: Duration,
    ) -> (Moment, Vec<u32>) {
        let mut now = from;
        let limits = (0..windows).map(|_| {
            now = now.after(WINDOW);
            adaptive.observe(pressed(adaptive.limit(), places, service), now);
            adaptive.limit()
        });
        let limits = limits.collect();
        (now, limits)
    }

    #[test]
    fn under_twice_the_load_the_limit_settles_a_little_above_what_the_cell_can_do() {
        let mut adaptive = Adaptive::new(RANGE, Moment(0));
        let calm = Window { answers: 50, mean: Duration::from_millis(20), in_flight_peak: 5, ..Window::default() };
        adaptive.observe(calm, Moment(1));
        let (_, limits) = run(&mut adaptive, Moment(0), 600, 10, Duration::from_millis(20));
        let settled = &limits[30..];
        assert!(settled.iter().all(|limit| (8..=26).contains(limit)), "{settled:?}");
        let mean = settled.iter().sum::<u32>() as f64 / settled.len() as f64;
        assert!((12.0..20.0).contains(&mean), "{mean}");
    }

    #[test]
    fn a_baseline_that_was_measured_under_pressure_is_corrected_by_probes() {
        let mut adaptive = Adaptive::new(RANGE, Moment(0));
        // Nothing calm was ever seen: the first window says 128 ms.
        let (_, limits) = run(&mut adaptive, Moment(0), 1_200, 10, Duration::from_millis(20));
        assert!(limits[1_000..].iter().all(|limit| *limit <= 30), "{:?}", &limits[1_000..]);
    }

    #[test]
    fn a_cell_that_has_become_slower_for_good_is_not_throttled_for_ever() {
        let mut adaptive = Adaptive::new(RANGE, Moment(0));
        let (now, _) = run(&mut adaptive, Moment(0), 50, 1_000, Duration::from_millis(10));
        let (_, limits) = run(&mut adaptive, now, 400, 1_000, Duration::from_millis(80));
        assert!(*limits.last().unwrap() > 100, "{limits:?}");
    }

    #[test]
    fn timeouts_lower_the_limit_although_nothing_was_answered() {
        let mut adaptive = Adaptive::new(RANGE, Moment(0));
        for n in 0..50 {
            let window = Window { timeouts: 1, in_flight_peak: 64, ..Window::default() };
            adaptive.observe(window, Moment(n));
        }
        assert_eq!(adaptive.limit(), RANGE.min);
    }

    #[test]
    fn a_limit_that_nobody_uses_up_does_not_grow() {
        let mut adaptive = Adaptive::new(RANGE, Moment(0));
        for n in 0..50 {
            let window =
                Window { answers: 9, mean: Duration::from_millis(2), in_flight_peak: 3, ..Window::default() };
            adaptive.observe(window, Moment(n));
        }
        assert_eq!(adaptive.limit(), RANGE.initial);
    }

    proptest! {
        #[test]
        fn whatever_is_seen_the_limit_stays_within_its_bounds(
            seen in proptest::collection::vec((0..100_u64, 0..3_000_u64, 0..3_u64, 0..9_000_u32), 1..300),
        ) {
            let mut adaptive = Adaptive::new(RANGE, Moment(0));
            for (n, (answers, ms, timeouts, in_flight_peak)) in (0..).zip(seen) {
                let mean = Duration::from_millis(ms);
                adaptive.observe(Window { answers, mean, quickest: mean / 3, timeouts, in_flight_peak }, Moment::from_millis(n * 100));
                prop_assert!((RANGE.min..=RANGE.max).contains(&adaptive.limit()));
            }
        }
    }
}
