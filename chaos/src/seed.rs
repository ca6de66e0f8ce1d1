//! Choices that a seed decides: the same seed makes the same choices, whatever the machine does meanwhile.

/// A small random source (SplitMix64). Not for secrets.
#[derive(Debug, Clone)]
pub struct Choices {
    state: u64,
}

impl Choices {
    /// The choices of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Choices of their own for one part, so that parts that run beside each other do not disturb one another.
    #[must_use]
    pub fn part(&self, number: u64) -> Self {
        let mut mixed = Self { state: self.state ^ number.wrapping_mul(0xa076_1d64_78bd_642f) };
        mixed.number();
        mixed
    }

    /// Any number.
    pub const fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 where `end` is 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.number() % end }
    }

    /// An index of a list of this length; 0 where it is empty.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// Between both, both included.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True in so many of a hundred cases.
    pub const fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// Puts the list into an order of its own.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.index(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_choices_and_another_makes_others() {
        let draw = |seed| {
            let mut choices = Choices::new(seed).part(3);
            let mut list: Vec<u32> = (0..50).collect();
            choices.shuffle(&mut list);
            (list, choices.between(5, 9))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7).0, draw(8).0);
    }

    #[test]
    fn a_range_includes_both_its_ends() {
        let mut choices = Choices::new(1);
        let drawn: std::collections::BTreeSet<u64> = (0..200).map(|_| choices.between(2, 4)).collect();
        assert_eq!(drawn, [2, 3, 4].into());
        assert_eq!(choices.below(0), 0);
    }
}
