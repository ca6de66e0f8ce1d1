//! The digests after the last few changes, so that two cells can be compared at a sequence number that lies behind.

use std::collections::VecDeque;

use cell_model::{Digest, Seq};

/// How many are kept.
const KEPT: usize = 8_192;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    digests: VecDeque<(Seq, Digest)>,
}

impl Recent {
    pub(crate) fn push(&mut self, seq: Seq, digest: Digest) {
        if self.digests.len() == KEPT {
            self.digests.pop_front();
        }
        self.digests.push_back((seq, digest));
    }

    pub(crate) fn clear(&mut self) {
        self.digests.clear();
    }

    /// The digest after change `seq`, if it is still known.
    pub(crate) fn at(&self, seq: Seq) -> Option<Digest> {
        let found = self.digests.binary_search_by_key(&seq, |(at, _)| *at).ok()?;
        self.digests.get(found).map(|(_, digest)| *digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let mut recent = Recent::default();
        for seq in 1..=KEPT as u64 + 1 {
            recent.push(Seq(seq), Digest { rows: seq, sum: 0 });
        }
        assert_eq!(recent.at(Seq(1)), None);
        assert_eq!(recent.at(Seq(2)), Some(Digest { rows: 2, sum: 0 }));
        assert_eq!(recent.at(Seq(KEPT as u64 + 2)), None);
    }
}
