//! What is seen of a cell, window by window, and the limit that follows from it. It counts beside the way into the cell and
//! decides nothing there, so that it may be read a moment late.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::adaptive::{Adaptive, LimitRange, Window};
use crate::moment::{Moment, nanos};

/// A window has at least so many answers, or lasts so long.
const WINDOW_ANSWERS_MIN: u64 = 10;
const WINDOW_SPARSE: Duration = Duration::from_secs(1);

/// What is seen of the cell since the last window.
pub(super) struct Meter {
    taken_nanos: AtomicU64,
    answers: AtomicU64,
    timeouts: AtomicU64,
    crowded: AtomicU64,
    in_flight_peak: AtomicU64,
    began_nanos: AtomicU64,
    /// How long the window has to last.
    lasts_nanos: AtomicU64,
    mean_nanos: AtomicU64,
    finding_out: AtomicBool,
    adaptive: Mutex<Adaptive>,
}

impl Meter {
    pub(super) fn new(adaptive: Adaptive, now: Moment) -> Self {
        Self {
            taken_nanos: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            crowded: AtomicU64::new(0),
            in_flight_peak: AtomicU64::new(0),
            began_nanos: AtomicU64::new(now.0),
            lasts_nanos: AtomicU64::new(nanos(adaptive.window())),
            mean_nanos: AtomicU64::new(0),
            finding_out: AtomicBool::new(adaptive.is_finding_out()),
            adaptive: Mutex::new(adaptive),
        }
    }

    pub(super) fn saw(&self, in_flight: u64) {
        if in_flight > self.in_flight_peak.load(Ordering::Relaxed) {
            self.in_flight_peak.fetch_max(in_flight, Ordering::Relaxed);
        }
    }

    pub(super) fn answered(&self, took: Duration) {
        self.taken_nanos.fetch_add(nanos(took), Ordering::Relaxed);
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// A request has found no room.
    pub(super) fn crowded(&self) {
        self.crowded.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn timed_out(&self) {
        self.timeouts.fetch_add(1, Ordering::Relaxed);
    }

    /// What an answer has taken lately.
    pub(super) fn mean(&self) -> Duration {
        Duration::from_nanos(self.mean_nanos.load(Ordering::Relaxed))
    }

    /// Whether it is not known yet what the cell can do.
    pub(super) fn is_finding_out(&self) -> bool {
        self.finding_out.load(Ordering::Relaxed)
    }

    /// The new limit, where a window has ended; one thread alone ends it.
    pub(super) fn end_of_window(&self, now: Moment, in_flight: u64) -> Option<u32> {
        let began = Moment(self.began_nanos.load(Ordering::Relaxed));
        let lasted = nanos(now.since(began));
        if lasted < self.lasts_nanos.load(Ordering::Relaxed) {
            return None;
        }
        let enough = self.answers.load(Ordering::Relaxed) >= WINDOW_ANSWERS_MIN;
        if !enough && lasted < nanos(WINDOW_SPARSE) {
            return None;
        }
        let mut adaptive = self.adaptive.try_lock().ok()?;
        self.began_nanos.compare_exchange(began.0, now.0, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        let answers = self.answers.swap(0, Ordering::Relaxed);
        let taken = self.taken_nanos.swap(0, Ordering::Relaxed);
        let mean = taken.checked_div(answers).unwrap_or(0);
        if answers > 0 {
            self.mean_nanos.store(mean, Ordering::Relaxed);
        }
        adaptive.observe(Window {
            answers,
            mean: Duration::from_nanos(mean),
            timeouts: self.timeouts.swap(0, Ordering::Relaxed),
            in_flight_peak: u32::try_from(self.in_flight_peak.swap(in_flight, Ordering::Relaxed))
                .unwrap_or(u32::MAX),
            crowded: self.crowded.swap(0, Ordering::Relaxed),
        });
        self.lasts_nanos.store(nanos(adaptive.window()), Ordering::Relaxed);
        self.finding_out.store(adaptive.is_finding_out(), Ordering::Relaxed);
        Some(adaptive.limit())
    }

    pub(super) fn set_range(&self, range: LimitRange) -> u32 {
        let mut adaptive = self.adaptive.lock().unwrap_or_else(PoisonError::into_inner);
        adaptive.set_range(range);
        self.finding_out.store(adaptive.is_finding_out(), Ordering::Relaxed);
        adaptive.limit()
    }

    pub(super) fn baseline(&self) -> Option<Duration> {
        self.adaptive.lock().unwrap_or_else(PoisonError::into_inner).baseline()
    }
}
