//! How many requests a cell may have at once, found out by watching what they take (after the gradient controllers of
//! Netflix and Envoy, and the probes of BBR).
//!
//! The *baseline* is what an answer takes where nothing waits in the cell. Answers that take `r` times as long say, by
//! Little's law, that the cell works at 1/r of what it has. It gets that, and a little more so that it never runs dry; the
//! rest waits here, where the order is fair:
//!
//! ```text
//! wanted = in flight × bearable / mean + headroom
//!
//! Rising ──answers take longer──► Steady ──due, or the limit has sunk──► Settling ──► Probing ──► Steady, or Rising
//!  doubles while it is used up     half of the way to                    half of what was in flight: what waits in the
//!                                  what is wanted, each window           cell runs out, then a window is measured
//! ```
//! That answers take longer says only that the cell is slower, or that it has too much. A probe tells which: at half of the
//! requests they take half as long where they had waited, and as long as before where the work is what takes longer. So the
//! limit sinks by a quarter at the most until a probe has shown that it may.

use std::time::Duration;

/// Bounds of the limit and what counts as pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LimitRange {
    pub(crate) initial: u32,
    pub(crate) min: u32,
    pub(crate) max: u32,
    /// Waiting in the cell up to this long is no sign of anything.
    pub(crate) slack: Duration,
}

/// What was seen of a cell in one window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) answers: u64,
    /// Of those that were answered.
    pub(crate) mean: Duration,
    /// Requests that the cell did not answer in time.
    pub(crate) timeouts: u64,
    /// The most that were there at once.
    pub(crate) in_flight_peak: u32,
    /// Requests that found no room at once.
    pub(crate) crowded: u64,
}

/// A window lasts at least so long, and where only something has to begin or to end, so long.
const WINDOW: Duration = Duration::from_millis(100);
const WINDOW_BRIEF: Duration = Duration::from_millis(20);
/// Answers of a window were sent in it or in the one before: it lasts as long as one takes. But no longer than this.
const WINDOW_LONGEST: Duration = Duration::from_secs(5);
/// Windows from one probe to the next where the cell is used up, and at the least.
const PROBE_INTERVAL: u32 = 100;
const PROBE_PAUSE: u32 = 10;
/// Answers may take this many times the baseline.
const TOLERANCE: f64 = 1.15;
/// Beyond that the cell gets a third of a root more: what chance alone makes wait in it grows with the root.
const HEADROOM: f64 = 1.0 / 3.0;
/// What one window changes, of what it asks for.
const STEP: f64 = 0.5;
/// To this part of the highest since the last probe the limit may sink without another.
const UNPROVEN_MIN: f64 = 0.75;
/// Windows until everything that had been sent before is gone, at the most: half of what an answer takes each.
const SETTLING_WINDOWS_MAX: u32 = 8;
/// Half of the requests took this part of the time, or less: they had waited.
const WAITED: f64 = 0.7;
/// Measured within this factor of the baseline, both are right by half; beyond, it has changed.
const NEAR: f64 = 1.5;
/// From one window to the next answers take the same, within this factor: they say what the limit does.
const STEADY: f64 = 1.25;
const CALM_SMOOTHING: f64 = 0.1;
const AFTER_TIMEOUTS: f64 = 0.9;
/// A limit that is used to this part may rise. Where it is used to this part or less, nothing waits in the cell.
const USED_UP: f64 = 0.8;
const CALM: f64 = 0.5;

/// What answers took, in seconds, with so many in flight.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    in_flight: f64,
    mean: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Rising,
    Steady,
    /// What was seen before. So many of those that were there then may still be there, and for so many windows it may last.
    Settling(Seen, f64, u32),
    Probing(Seen),
}

/// The controller of one cell. Pure: windows in, limit out.
#[derive(Debug)]
pub(crate) struct Adaptive {
    range: LimitRange,
    limit: f64,
    /// The highest limit since the last probe.
    highest: f64,
    /// What an answer takes while nothing waits, in seconds.
    baseline: Option<f64>,
    /// A probe has measured it.
    is_proven: bool,
    /// Less was tried, or there was no less to try.
    is_found_out: bool,
    phase: Phase,
    windows_since_probe: u32,
    /// In the last window the limit was used up, and was what it is.
    was_used_up: bool,
    /// Half of its requests had to wait.
    was_short: bool,
    mean: Duration,
}

impl Adaptive {
    pub(crate) fn new(range: LimitRange) -> Self {
        let limit = f64::from(range.initial.clamp(range.min, range.max));
        Self {
            range,
            limit,
            highest: limit,
            baseline: None,
            is_proven: false,
            is_found_out: false,
            phase: Phase::Rising,
            windows_since_probe: PROBE_INTERVAL,
            was_used_up: false,
            was_short: false,
            mean: Duration::ZERO,
        }
    }

    pub(crate) fn set_range(&mut self, range: LimitRange) {
        self.range = range;
        self.limit = self.within_range(self.limit);
        self.highest = self.limit;
    }

    fn within_range(&self, limit: f64) -> f64 {
        limit.clamp(f64::from(self.range.min), f64::from(self.range.max))
    }

    /// The limit to go by until the next window.
    #[expect(clippy::cast_possible_truncation, reason = "clamped to u32s")]
    pub(crate) fn limit(&self) -> u32 {
        let limit = match self.phase {
            Phase::Rising | Phase::Steady => self.limit,
            Phase::Settling(before, ..) | Phase::Probing(before) => before.in_flight / 2.0,
        };
        self.within_range(limit) as u32
    }

    /// How long the next window has to last, at the least.
    pub(crate) fn window(&self) -> Duration {
        let longer = self.mean.min(WINDOW_LONGEST);
        match self.phase {
            Phase::Settling(..) => WINDOW_BRIEF.max(longer / 2),
            Phase::Rising => WINDOW_BRIEF.max(longer),
            Phase::Steady | Phase::Probing(_) => WINDOW.max(longer),
        }
    }

    /// Whether it is not known yet what the cell can do: nothing has shown that it has too much, or no probe has told that from
    /// work that takes longer. Where there is nothing to find out it is known.
    pub(crate) fn is_finding_out(&self) -> bool {
        self.range.min < self.range.max && (!self.is_found_out || self.phase == Phase::Rising)
    }

    /// What an answer takes while nothing waits in the cell.
    pub(crate) fn baseline(&self) -> Option<Duration> {
        self.baseline.map(Duration::from_secs_f64)
    }

    /// A window is over.
    pub(crate) fn observe(&mut self, window: Window) {
        let last_mean = self.mean.as_secs_f64();
        if window.answers > 0 {
            self.mean = window.mean;
        }
        match self.phase {
            Phase::Settling(before, left, windows) => {
                let left = left - window.answers as f64;
                let settled = left <= 0.0 || windows <= 1;
                self.phase =
                    if settled { Phase::Probing(before) } else { Phase::Settling(before, left, windows - 1) };
            }
            Phase::Probing(before) => self.conclude(before, window),
            Phase::Rising | Phase::Steady => self.adjust(window, last_mean),
        }
        self.limit = self.within_range(self.limit);
        self.highest = self.highest.max(self.limit);
    }

    fn adjust(&mut self, window: Window, last_mean: f64) {
        if window.timeouts > 0 {
            self.phase = Phase::Steady;
            self.limit *= AFTER_TIMEOUTS;
            self.highest = self.limit;
        }
        if window.answers == 0 {
            return;
        }
        self.windows_since_probe = self.windows_since_probe.saturating_add(1);
        let (mean, in_flight) = (window.mean.as_secs_f64().max(1e-9), f64::from(window.in_flight_peak));
        let used_up = in_flight >= f64::from(self.limit()) * USED_UP;
        let baseline = match self.baseline {
            None => mean,
            Some(held) if in_flight <= self.limit * CALM => held + (mean - held) * CALM_SMOOTHING,
            Some(held) => held,
        };
        self.baseline = Some(baseline);
        let is_pressed = mean > self.bearable(baseline);
        if self.phase == Phase::Rising && !is_pressed {
            // Its answers have been measured while it was used up: those of the window before were sent before that.
            let has_been = std::mem::replace(&mut self.was_used_up, used_up);
            if used_up && has_been {
                self.limit *= 2.0;
                self.was_used_up = false;
            }
            return;
        }
        self.phase = Phase::Steady;
        // Half of them had to wait, in this window and in the one before: that is no chance.
        let crowded = window.crowded * 2 >= window.answers;
        let is_short = std::mem::replace(&mut self.was_short, crowded) && crowded;
        let seen = Seen { in_flight, mean };
        let change = (self.wanted(seen, baseline) - self.limit) * STEP;
        if (change > 0.0 && used_up) || is_short {
            self.limit += change;
        }
        let lowest = self.highest * UNPROVEN_MIN;
        let has_sunk = self.limit < lowest && self.windows_since_probe >= PROBE_PAUSE;
        let is_due = is_short && is_pressed && self.windows_since_probe >= PROBE_INTERVAL;
        self.limit = self.limit.max(lowest);
        let is_steady = (1.0 / STEADY..=STEADY).contains(&(mean / last_mean));
        if (has_sunk || is_due) && is_steady {
            if in_flight > f64::from(self.range.min) {
                self.phase = Phase::Settling(seen, in_flight, SETTLING_WINDOWS_MAX);
            } else {
                // There is no less to try: what waits at the least limit does not count.
                self.learn(mean, true);
                self.is_found_out = true;
            }
        }
    }

    /// A probe is over.
    fn conclude(&mut self, before: Seen, window: Window) {
        self.phase = Phase::Steady;
        self.windows_since_probe = 0;
        if window.answers == 0 {
            return;
        }
        let mean = window.mean.as_secs_f64().max(1e-9);
        let have_waited = mean <= before.mean * WAITED;
        let baseline = self.learn(mean, !have_waited);
        (self.is_proven, self.is_found_out) = (true, true);
        if have_waited {
            // At half of it some may still have waited.
            self.windows_since_probe = PROBE_INTERVAL - PROBE_PAUSE;
        } else if before.mean <= self.bearable(mean) {
            // With all of it nothing has.
            self.phase = Phase::Rising;
            self.was_used_up = false;
        }
        self.limit = self.wanted(before, baseline);
        self.highest = self.limit;
    }

    /// Takes what answers have taken with few in flight into the baseline. `is_all`: none of that was waiting.
    fn learn(&mut self, mean: f64, is_all: bool) -> f64 {
        let held = self.baseline.unwrap_or(mean);
        let learned = match mean / held {
            near if self.is_proven && (1.0 / NEAR..=NEAR).contains(&near) => f64::midpoint(held, mean),
            _ if is_all => mean,
            _ => mean.min(held * NEAR),
        };
        self.baseline = Some(learned);
        learned
    }

    /// What an answer may take.
    fn bearable(&self, baseline: f64) -> f64 {
        (baseline * TOLERANCE).max(baseline + self.range.slack.as_secs_f64())
    }

    /// What the cell can work at, and the headroom, by what answers took with so many in flight.
    fn wanted(&self, seen: Seen, baseline: f64) -> f64 {
        let part = self.bearable(baseline) / seen.mean;
        seen.in_flight * part.min(TOLERANCE) + (self.limit.sqrt() * HEADROOM).max(1.0)
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
