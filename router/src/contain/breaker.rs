//! A circuit breaker in one word.
//!
//! ```text
//! Closed ──enough failures, and a large enough part of all, in one window──► Open ──time is up──► HalfOpen
//!    ▲                                                                        ▲                     │ one probe at a time
//!    └──────────────── so many probes in a row went well ─────────────────────│─────────────────────┤
//!                                                                             └──── a probe failed ─┘ (twice as long)
//! ```
//! [`State`] is pure; [`Breaker`] is the word that threads share. Passing a closed breaker is one load; reporting is one
//! compare-and-swap.

use std::time::Duration;

use crate::atomics::{AtomicU64, Ordering};
use crate::moment::Moment;

/// When it opens and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BreakerOptions {
    /// The fewest failures in a window that open it. 0: it never opens.
    pub(crate) failures_min: u32,
    /// The smallest part of a window's requests, in per cent.
    pub(crate) failures_percent: u32,
    pub(crate) window: Duration,
    /// How long it is open the first time; twice as long each time a probe fails.
    pub(crate) open: Duration,
    pub(crate) open_max: Duration,
    /// How many probes in a row close it.
    pub(crate) probes: u32,
}

/// How long a probe may take before another one is let through in its place.
const PROBE_TIME_MAX_MILLIS: u64 = 30_000;
/// For how long a breaker that nobody asks is kept, from when it would have let a probe through.
const FORGOTTEN_AFTER_MILLIS: u64 = 600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Everything passes. `window` counts windows since the router began.
    Closed { window: u32, total: u16, failed: u16 },
    /// Nothing passes until then. `strikes`: how often it has opened in a row.
    Open { until_millis: u64, strikes: u8 },
    /// One at a time passes. `probe_millis`: since when one is on its way; 0: none is.
    HalfOpen { probe_millis: u64, strikes: u8, passed: u8 },
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Closed { .. } => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half-open",
        })
    }
}

/// What a breaker says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// Pass, and its outcome decides.
    Probe,
    /// Not now; again after so long.
    Refuse(Duration),
}

const CLOSED: State = State::Closed { window: 0, total: 0, failed: 0 };
const TIME_BITS: u32 = 42;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
const STRIKES_MAX: u8 = 31;

impl State {
    /// 2 bits of kind; then 30 + 16 + 16, or 42 + 5, or 42 + 5 + 5.
    fn to_word(self) -> u64 {
        match self {
            Self::Closed { window, total, failed } => {
                (u64::from(window & 0x3fff_ffff) << 32) | (u64::from(total) << 16) | u64::from(failed)
            }
            Self::Open { until_millis, strikes } => {
                (1 << 62) | (u64::from(strikes) << TIME_BITS) | (until_millis & TIME_MASK)
            }
            Self::HalfOpen { probe_millis, strikes, passed } => {
                (2 << 62)
                    | (u64::from(passed) << (TIME_BITS + 5))
                    | (u64::from(strikes) << TIME_BITS)
                    | (probe_millis & TIME_MASK)
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "each part is masked to its width")]
    fn from_word(word: u64) -> Self {
        let strikes = ((word >> TIME_BITS) & 0x1f) as u8;
        match word >> 62 {
            0 => Self::Closed {
                window: ((word >> 32) & 0x3fff_ffff) as u32,
                total: (word >> 16) as u16,
                failed: word as u16,
            },
            1 => Self::Open { until_millis: word & TIME_MASK, strikes },
            _ => Self::HalfOpen {
                probe_millis: word & TIME_MASK,
                strikes,
                passed: ((word >> (TIME_BITS + 5)) & 0x1f) as u8,
            },
        }
    }

    /// What a request is told, and what the state is then.
    fn ask(self, now: Moment) -> (Verdict, Self) {
        let now = now.millis().max(1);
        match self {
            Self::Closed { .. } => (Verdict::Pass, self),
            Self::Open { until_millis, strikes } if now < until_millis => {
                (Verdict::Refuse(Duration::from_millis(until_millis - now)), Self::Open { until_millis, strikes })
            }
            Self::Open { strikes, .. } => {
                (Verdict::Probe, Self::HalfOpen { probe_millis: now, strikes, passed: 0 })
            }
            Self::HalfOpen { probe_millis, strikes, passed } => {
                let free = probe_millis == 0 || now.saturating_sub(probe_millis) > PROBE_TIME_MAX_MILLIS;
                if free {
                    (Verdict::Probe, Self::HalfOpen { probe_millis: now, strikes, passed })
                } else {
                    (Verdict::Refuse(Duration::from_millis(100)), self)
                }
            }
        }
    }

    /// The state after an outcome. `jitter` is between 0 and 1.
    fn tell(self, verdict: Verdict, failed: bool, now: Moment, options: BreakerOptions, jitter: f64) -> Self {
        match self {
            Self::Closed { window, total, failed: failures } => {
                let window_now = window_of(now, options);
                let (total, failures) = if window == window_now { (total, failures) } else { (0, 0) };
                let (total, failures) = (total.saturating_add(1), failures.saturating_add(u16::from(failed)));
                let enough = options.failures_min > 0 && u32::from(failures) >= options.failures_min;
                let part = u64::from(failures) * 100 >= u64::from(options.failures_percent) * u64::from(total);
                if failed && enough && part {
                    opened(1, now, options, jitter)
                } else {
                    Self::Closed { window: window_now, total, failed: failures }
                }
            }
            // Sent before it opened: old news.
            Self::Open { .. } => self,
            Self::HalfOpen { .. } if verdict != Verdict::Probe => self,
            Self::HalfOpen { strikes, .. } if failed => {
                opened(strikes.saturating_add(1).min(STRIKES_MAX), now, options, jitter)
            }
            Self::HalfOpen { passed, .. } if u32::from(passed) + 1 >= options.probes => {
                Self::Closed { window: window_of(now, options), total: 0, failed: 0 }
            }
            Self::HalfOpen { strikes, passed, .. } => {
                Self::HalfOpen { probe_millis: 0, strikes, passed: passed + 1 }
            }
        }
    }
}

fn window_of(now: Moment, options: BreakerOptions) -> u32 {
    let window = crate::moment::nanos(options.window).max(1);
    ((now.0 / window) & 0x3fff_ffff) as u32
}

/// Open for twice as long with each strike, and up to a fifth longer, so that not all routers ask at once again.
fn opened(strikes: u8, now: Moment, options: BreakerOptions, jitter: f64) -> State {
    let long = options.open.saturating_mul(1 << (strikes - 1).min(16)).min(options.open_max);
    let until = now.after(long.mul_f64(1.0 + 0.2 * jitter.clamp(0.0, 1.0)));
    State::Open { until_millis: until.millis().max(1), strikes }
}

/// A breaker that threads share.
#[derive(Debug)]
pub(crate) struct Breaker(AtomicU64);

impl Default for Breaker {
    fn default() -> Self {
        Self(AtomicU64::new(CLOSED.to_word()))
    }
}

impl Breaker {
    /// Whether a request may pass.
    pub(crate) fn ask(&self, now: Moment) -> Verdict {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let state = State::from_word(word);
            let (verdict, next) = state.ask(now);
            if next == state {
                return verdict;
            }
            match self.0.compare_exchange_weak(word, next.to_word(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return verdict,
                Err(other) => word = other,
            }
        }
    }

    /// What came of a request that passed. Whether that has opened the breaker.
    pub(crate) fn tell(
        &self,
        verdict: Verdict,
        failed: bool,
        now: Moment,
        options: BreakerOptions,
        jitter: f64,
    ) -> bool {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let state = State::from_word(word);
            let next = state.tell(verdict, failed, now, options, jitter);
            if next == state {
                return false;
            }
            match self.0.compare_exchange_weak(word, next.to_word(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return matches!(next, State::Open { .. }),
                Err(other) => word = other,
            }
        }
    }

    /// A request that passed came to nothing that says anything: a probe's place is free again.
    pub(crate) fn withdraw(&self, verdict: Verdict) {
        if verdict != Verdict::Probe {
            return;
        }
        // Failing to swap means that somebody has decided meanwhile.
        let word = self.0.load(Ordering::Relaxed);
        if let State::HalfOpen { strikes, passed, .. } = State::from_word(word) {
            let free = State::HalfOpen { probe_millis: 0, strikes, passed }.to_word();
            let _decided = self.0.compare_exchange(word, free, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// As new: it is another cell now.
    pub(crate) fn reset(&self) {
        self.0.store(CLOSED.to_word(), Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state(), State::Closed { .. })
    }

    /// Whether nothing is lost with it: it is closed, or nobody has asked for long after it would have let a probe through.
    pub(crate) fn is_forgettable(&self, now: Moment) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        let aged = |since: u64| now.millis().saturating_sub(since) > FORGOTTEN_AFTER_MILLIS;
        match State::from_word(word) {
            State::Closed { .. } => true,
            State::Open { until_millis, .. } => aged(until_millis),
            State::HalfOpen { probe_millis: 0, strikes, .. } => {
                // From now on it ages. Failing to swap means that somebody has asked.
                let rests = State::Open { until_millis: now.millis().max(1), strikes }.to_word();
                let _asked = self.0.compare_exchange(word, rests, Ordering::Relaxed, Ordering::Relaxed);
                false
            }
            State::HalfOpen { probe_millis, .. } => aged(probe_millis),
        }
    }

    pub(crate) fn state(&self) -> State {
        State::from_word(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPTIONS: BreakerOptions = BreakerOptions {
        failures_min: 5,
        failures_percent: 50,
        window: Duration::from_secs(10),
        open: Duration::from_secs(1),
        open_max: Duration::from_secs(8),
        probes: 2,
    };

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn fail(breaker: &Breaker, times: u32, now: Moment) -> bool {
        (0..times).any(|_| breaker.tell(Verdict::Pass, true, now, OPTIONS, 0.0))
    }

    #[test]
    fn few_failures_and_failures_among_many_answers_do_not_open_it() {
        let breaker = Breaker::default();
        assert!(!fail(&breaker, 4, at(1)));
        assert_eq!(breaker.ask(at(1)), Verdict::Pass);
        let breaker = Breaker::default();
        for _ in 0..100 {
            breaker.tell(Verdict::Pass, false, at(1), OPTIONS, 0.0);
        }
        assert!(!fail(&breaker, 99, at(1)));
        assert!(fail(&breaker, 1, at(1)), "half of all");
    }

    #[test]
    fn failures_of_an_earlier_window_do_not_count() {
        let breaker = Breaker::default();
        assert!(!fail(&breaker, 4, at(9_999)));
        assert!(!fail(&breaker, 4, at(10_000)));
        assert!(fail(&breaker, 1, at(19_999)));
    }

    #[test]
    fn probes_go_one_at_a_time_and_close_it_or_open_it_for_twice_as_long() {
        let breaker = Breaker::default();
        assert!(fail(&breaker, 5, at(100)));
        assert_eq!(breaker.ask(at(100)), Verdict::Refuse(Duration::from_secs(1)));
        assert_eq!(breaker.ask(at(1_100)), Verdict::Probe);
        assert!(matches!(breaker.ask(at(1_100)), Verdict::Refuse(_)), "one is on its way");
        assert!(breaker.tell(Verdict::Probe, true, at(1_200), OPTIONS, 0.0));
        assert_eq!(breaker.ask(at(1_200)), Verdict::Refuse(Duration::from_secs(2)), "twice as long");
        assert_eq!(breaker.ask(at(3_200)), Verdict::Probe);
        breaker.tell(Verdict::Probe, false, at(3_300), OPTIONS, 0.0);
        assert_eq!(breaker.ask(at(3_300)), Verdict::Probe, "two are needed");
        breaker.tell(Verdict::Probe, false, at(3_400), OPTIONS, 0.0);
        assert!(breaker.is_closed());
    }

    #[test]
    fn a_probe_that_says_nothing_or_never_returns_makes_room_for_another() {
        let breaker = Breaker::default();
        fail(&breaker, 5, at(100));
        assert_eq!(breaker.ask(at(1_100)), Verdict::Probe);
        breaker.withdraw(Verdict::Probe);
        assert_eq!(breaker.ask(at(1_101)), Verdict::Probe);
        assert_eq!(breaker.ask(at(1_101 + PROBE_TIME_MAX_MILLIS + 1)), Verdict::Probe);
    }

    #[test]
    fn what_was_sent_before_it_opened_does_not_count_after() {
        let breaker = Breaker::default();
        fail(&breaker, 5, at(100));
        let open = breaker.state();
        breaker.tell(Verdict::Pass, false, at(200), OPTIONS, 0.0);
        assert_eq!(breaker.state(), open);
        assert_eq!(breaker.ask(at(1_100)), Verdict::Probe);
        let half_open = breaker.state();
        breaker.tell(Verdict::Pass, true, at(1_150), OPTIONS, 0.0);
        assert_eq!(breaker.state(), half_open);
    }

    #[test]
    fn with_no_number_of_failures_it_never_opens() {
        let never = BreakerOptions { failures_min: 0, ..OPTIONS };
        let breaker = Breaker::default();
        assert!((0..1_000).all(|_| !breaker.tell(Verdict::Pass, true, at(1), never, 0.0)));
    }

    proptest! {
        #[test]
        fn a_state_survives_its_word(
            kind in 0..3, time in 0..=TIME_MASK, window in 0..0x3fff_ffff_u32, total: u16, failed: u16,
            strikes in 0..=31_u8, passed in 0..=31_u8,
        ) {
            let state = match kind {
                0 => State::Closed { window, total, failed },
                1 => State::Open { until_millis: time, strikes },
                _ => State::HalfOpen { probe_millis: time, strikes, passed },
            };
            prop_assert_eq!(State::from_word(state.to_word()), state);
        }

        /// However it goes: it is never open for longer than the longest time and a fifth, and with answers alone it closes.
        #[test]
        fn it_always_finds_its_way_back(outcomes in proptest::collection::vec((any::<bool>(), 0..3_000_u64), 0..300)) {
            let breaker = Breaker::default();
            let mut now = 1;
            for (failed, gap) in outcomes {
                now += gap;
                match breaker.ask(at(now)) {
                    Verdict::Refuse(wait) => prop_assert!(wait <= OPTIONS.open_max.mul_f64(1.2)),
                    passed => { breaker.tell(passed, failed, at(now), OPTIONS, 1.0); }
                }
            }
            for _ in 0..4 {
                now += 10_000;
                if let passed @ (Verdict::Pass | Verdict::Probe) = breaker.ask(at(now)) {
                    breaker.tell(passed, false, at(now), OPTIONS, 1.0);
                }
            }
            prop_assert!(breaker.is_closed());
        }
    }
}
