//! One clock for a whole run: monotonic, in microseconds since its start, with one anchor to wall-clock time.
//!
//! Client histories are ordered by it; the anchor places the phase stamps of moves, which are Unix milliseconds of
//! the same machine, beside them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Microseconds since the start of the run.
pub type Micros = u64;

/// The clock of a run. Copies show the same time.
#[derive(Debug, Clone, Copy)]
pub struct RunClock {
    start: Instant,
    start_unix_us: u64,
}

impl RunClock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self::start_at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// A clock that starts now, which is so long after 1970 by the wall clock.
    #[must_use]
    pub fn start_at(since_epoch: Duration) -> Self {
        Self { start: Instant::now(), start_unix_us: micros(since_epoch) }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Micros {
        micros(self.start.elapsed())
    }

    /// Since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Where a wall-clock stamp lies on this clock; what lies before the start becomes 0.
    #[must_use]
    pub const fn of_unix_millis(&self, unix_ms: u64) -> Micros {
        unix_ms.saturating_mul(1_000).saturating_sub(self.start_unix_us)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_stamp_lands_beside_the_monotonic_one() {
        let clock = RunClock::start();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let placed = clock.of_unix_millis(u64::try_from(unix.as_millis()).unwrap());
        let now = clock.now();
        assert!(now.abs_diff(placed) < 1_000_000, "{now} and {placed}");
    }
}
