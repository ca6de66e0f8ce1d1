//! Every choice of a run, out of its seed: each part has a stream of its own, so that one more choice in one part does
//! not change what another one does.

use blake3::OutputReader;

/// The choices of one part.
#[derive(Debug, Clone)]
pub(crate) struct Chance(OutputReader);

impl Chance {
    /// The stream of `part` in the run of `seed`.
    #[must_use]
    pub(crate) fn of(seed: u64, part: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(part.as_bytes());
        Self(hasher.finalize_xof())
    }

    /// Any number.
    pub(crate) fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// From `low` up to and with `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.number() % (high - low + 1)
    }

    /// True in so many of a hundred cases.
    pub(crate) fn percent(&mut self, cases: u64) -> bool {
        self.number() % 100 < cases
    }

    /// An index of a list of this length, which is not empty.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.number() % length as u64).expect("it is below a usize")
    }
}
