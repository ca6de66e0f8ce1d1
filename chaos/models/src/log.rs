//! What a cell holds of the tenant: the writes that it has executed or applied, in commit order.

use cell_model::Digest;

/// Bits of one entry: writes are numbered from 0 to [`Log::WRITES_MAX`].
const BITS: u32 = 4;

/// Writes in commit order. Small and of fixed size, because a checker keeps millions of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Log {
    len: u8,
    packed: u64,
}

impl Log {
    /// The highest number of a write.
    pub const WRITES_MAX: u8 = 15;
    /// The most entries that fit.
    pub const LEN_MAX: u8 = 16;

    /// Position of the last entry; 0 where there is none.
    #[must_use]
    pub const fn last(&self) -> u8 {
        self.len
    }

    /// The write at position `seq`, counted from 1.
    #[must_use]
    pub fn at(&self, seq: u8) -> Option<u8> {
        let stored = (1..=self.len).contains(&seq);
        stored.then(|| (self.packed >> (u32::from(seq - 1) * BITS) & 0xf).to_le_bytes()[0])
    }

    /// Adds a write at the end.
    ///
    /// # Panics
    /// Where the log is full: the bounds of a configuration are wrong.
    pub fn push(&mut self, write: u8) {
        assert!(self.len < Self::LEN_MAX && write <= Self::WRITES_MAX, "the bounds are larger than a log");
        self.packed |= u64::from(write) << (u32::from(self.len) * BITS);
        self.len += 1;
    }

    /// How often a write is in it.
    #[must_use]
    pub fn count(&self, write: u8) -> usize {
        (1..=self.len).filter(|seq| self.at(*seq) == Some(write)).count()
    }

    /// The first entries, up to position `seq`.
    #[must_use]
    pub fn up_to(&self, seq: u8) -> Self {
        let mut first = Self::default();
        for write in (1..=seq.min(self.len)).filter_map(|at| self.at(at)) {
            first.push(write);
        }
        first
    }

    /// The writes in it, a bit each.
    #[must_use]
    pub fn writes(&self) -> u16 {
        (1..=self.len).filter_map(|seq| self.at(seq)).fold(0, |writes, write| writes | 1 << write)
    }

    /// What it adds up to. Exact, where production has a hash: a model has no use for collisions.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest { rows: self.len.into(), sum: self.packed.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_order_and_repetitions() {
        let mut log = Log::default();
        assert_eq!((log.last(), log.at(0), log.at(1)), (0, None, None));
        for write in [3, 15, 3] {
            log.push(write);
        }
        assert_eq!([log.at(1), log.at(2), log.at(3), log.at(4)], [Some(3), Some(15), Some(3), None]);
        assert_eq!((log.count(3), log.count(15), log.count(0)), (2, 1, 0));
        assert_eq!(log.writes(), 1 << 3 | 1 << 15);
        assert_eq!((log.up_to(1).writes(), log.up_to(9)), (1 << 3, log));
    }

    #[test]
    fn the_same_writes_in_another_order_add_up_to_something_else() {
        let (mut one, mut other) = (Log::default(), Log::default());
        for (a, b) in [(1, 2), (2, 1)] {
            one.push(a);
            other.push(b);
        }
        assert_ne!(one.digest(), other.digest());
    }
}
