//! What one tenant has of the cell that owns it: how many places, and how many of its requests go on without one.
//!
//! Places are counted for one epoch. With another owner they are counted anew, and what still goes on in the old cell is
//! left out: it is not there that the tenant asks for more.

use crate::atomics::{AtomicU32, AtomicU64, Ordering};

/// The count stands in the lower bits of the word, the epoch in the others.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// What one tenant has of its cell. Shared by all threads, changed by atomics alone.
#[derive(Debug)]
pub(crate) struct Places {
    held: AtomicU64,
    outside: AtomicU32,
}

impl Default for Places {
    fn default() -> Self {
        Self { held: AtomicU64::new(0), outside: AtomicU32::new(0) }
    }
}

impl Places {
    /// Takes a place where the tenant has less than `most`. One of an older epoch is not counted.
    pub(crate) fn take(&self, epoch: u64, most: u64) -> bool {
        let epoch = epoch & (u64::MAX >> COUNT_BITS);
        let mut word = self.held.load(Ordering::Relaxed);
        loop {
            let (known, count) = (word >> COUNT_BITS, word & COUNT_MASK);
            let next = match epoch.cmp(&known) {
                std::cmp::Ordering::Less => return true,
                std::cmp::Ordering::Equal if count >= most => return false,
                std::cmp::Ordering::Equal => word + 1,
                std::cmp::Ordering::Greater => (epoch << COUNT_BITS) | 1,
            };
            match self.held.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(other) => word = other,
            }
        }
    }

    /// Gives back what was taken at this epoch.
    pub(crate) fn give_back(&self, epoch: u64) {
        let epoch = epoch & (u64::MAX >> COUNT_BITS);
        let mut word = self.held.load(Ordering::Relaxed);
        while word >> COUNT_BITS == epoch && word & COUNT_MASK > 0 {
            match self.held.compare_exchange_weak(word, word - 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => word = other,
            }
        }
    }

    /// One more goes on without a place, where less than `most` do.
    pub(crate) fn step_out(&self, most: u32) -> bool {
        let before = self.outside.fetch_add(1, Ordering::Relaxed);
        if before >= most {
            self.end_outside();
        }
        before < most
    }

    /// One that went on without a place has ended.
    pub(crate) fn end_outside(&self) {
        self.outside.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many places it has.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed) & COUNT_MASK
    }

    /// How many go on without one.
    pub(crate) fn outside(&self) -> u32 {
        self.outside.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_up_to_the_bound_and_come_back() {
        let places = Places::default();
        assert!(places.take(3, 2) && places.take(3, 2));
        assert!(!places.take(3, 2), "that is all it may have");
        assert!(places.take(3, 3), "where there are more it may have more");
        places.give_back(3);
        places.give_back(3);
        assert_eq!(places.held(), 1);
        assert!(places.take(3, 2));
    }

    #[test]
    fn with_another_owner_places_are_counted_anew() {
        let places = Places::default();
        assert!(places.take(3, 1));
        assert!(places.take(4, 1), "what it has in the old cell does not count in the new one");
        assert!(!places.take(4, 1));
        places.give_back(3);
        assert_eq!(places.held(), 1, "the old one was not counted any more");
        assert!(places.take(3, 1), "who still goes to the old cell is not held to the new one's bound");
        places.give_back(3);
        places.give_back(4);
        places.give_back(4);
        assert_eq!(places.held(), 0);
    }

    #[test]
    fn only_so_many_go_on_without_a_place() {
        let places = Places::default();
        assert!(places.step_out(1));
        assert!(!places.step_out(1));
        assert_eq!(places.outside(), 1);
        places.end_outside();
        assert!(places.step_out(1));
    }
}
