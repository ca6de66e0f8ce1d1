//! Places beyond the limit, for whoever has none while the limit has sunk below what one tenant holds.
//!
//! A tenant gets all places but a reserve. Where the limit sinks it keeps what it holds, and that may be more than there now
//! is: with 14 places for requests that take seconds, and a limit of 6, nobody else would get in until nine of them have
//! ended. As many as the reserve has go in beyond the limit until then, one for each tenant that has none.

use super::reserve_of;
use crate::atomics::{AtomicU32, Ordering};

#[derive(Debug)]
pub(super) struct Spare {
    /// 1: the limit has sunk, and there have not been so few in since that no tenant can have more than its part.
    sunk: AtomicU32,
    given: AtomicU32,
}

impl Spare {
    pub(super) fn new() -> Self {
        Self { sunk: AtomicU32::new(0), given: AtomicU32::new(0) }
    }

    /// The limit has sunk below what is in.
    pub(super) fn sink(&self) {
        self.sunk.store(1, Ordering::Release);
    }

    pub(super) fn has_sunk(&self) -> bool {
        self.sunk.load(Ordering::Relaxed) != 0
    }

    /// Under the lock, as [`Spare::sink`]: so many are in, and one tenant may have this many of them: nobody has more where there are fewer.
    pub(super) fn saw(&self, in_flight: u64, part_of_one: u64) {
        if self.sunk.load(Ordering::Relaxed) != 0 && in_flight <= part_of_one {
            self.sunk.store(0, Ordering::Release);
        }
    }

    /// There is a place beyond this limit.
    pub(super) fn has_one(&self, limit: u32) -> bool {
        self.sunk.load(Ordering::Acquire) != 0 && self.given.load(Ordering::Acquire) < reserve_of(limit).max(1)
    }

    /// Under the lock of the queue, after [`Spare::has_one`]: there are never more than that allows.
    pub(super) fn give(&self) {
        self.given.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn give_back(&self) {
        self.given.fetch_sub(1, Ordering::AcqRel);
    }
}
