//! Time as the parts of the router that only count see it: nanoseconds since the router began, so that a moment fits
//! into an atomic and a test can make one up.

use std::time::Duration;

use tokio::time::Instant;

/// A point in time on this router's monotonic clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    /// So much later. The end of time stays where it is.
    #[must_use]
    pub(crate) const fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// How long since `earlier`; nothing where that lies ahead.
    #[must_use]
    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Whole milliseconds.
    #[must_use]
    pub(crate) const fn millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// A moment given in milliseconds.
    #[cfg(test)]
    #[must_use]
    pub(crate) const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }
}

/// Nanoseconds of a duration; 584 years at the most.
#[expect(clippy::cast_possible_truncation, reason = "compared with the largest before")]
pub(crate) const fn nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}

/// The router's clock. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// The moment of an instant.
    pub(crate) fn at(self, instant: Instant) -> Moment {
        Moment(nanos(instant.saturating_duration_since(self.0)))
    }

    pub(crate) fn now(self) -> Moment {
        self.at(Instant::now())
    }
}
