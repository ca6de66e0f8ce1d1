//! What members have acknowledged to this leader. One that has lost it was put back to an older copy of its directory, or its disk
//! has lied: Raft cannot tell, and an operator has to know.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::wire::{WireLogId, WireVote};

/// Of one leadership at a time: in the next one entries that nobody had committed may have been replaced. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acknowledged(Arc<Mutex<BTreeMap<u64, (WireVote, WireLogId)>>>);

impl Acknowledged {
    /// A node has told the leader of `vote` that it has everything up to there on its disk.
    pub(crate) fn note(&self, node: u64, vote: WireVote, up_to: WireLogId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&node) {
            Some((known, before)) if *known == vote => *before = up_to.max(*before),
            _ => {
                all.retain(|_, (known, _)| *known == vote);
                all.insert(node, (vote, up_to));
            }
        }
    }

    /// A node has told the leader of `vote` that it lacks the entry `at`. Answers what it had acknowledged to the same leader, where
    /// that entry was among it; once, as everything is sent to it again.
    pub(crate) fn lost(&self, node: u64, vote: WireVote, at: WireLogId) -> Option<WireLogId> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, acknowledged) = *all.get(&node)?;
        let is_lost = known == vote && at.index <= acknowledged.index;
        is_lost.then(|| {
            all.remove(&node);
            acknowledged
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(term: u64) -> WireVote {
        WireVote { term, node: 1, committed: true }
    }

    fn id(term: u64, index: u64) -> WireLogId {
        WireLogId { term, node: 1, index }
    }

    #[test]
    fn who_lacks_what_it_had_acknowledged_to_the_same_leader_is_noticed_once() {
        let all = Acknowledged::default();
        assert_eq!(all.lost(2, vote(5), id(4, 7)), None, "it is asked what it has");
        all.note(2, vote(5), id(5, 100));
        all.note(2, vote(5), id(5, 90));
        assert_eq!(all.lost(3, vote(5), id(5, 50)), None, "another one");
        assert_eq!(all.lost(2, vote(5), id(5, 101)), None, "it has not acknowledged that");
        assert_eq!(all.lost(2, vote(5), id(5, 100)), Some(id(5, 100)));
        assert_eq!(all.lost(2, vote(5), id(5, 50)), None, "everything is sent again");
    }

    #[test]
    fn what_an_earlier_leadership_was_told_counts_no_more_and_takes_no_room() {
        let all = Acknowledged::default();
        for node in 0..9 {
            all.note(node, vote(5), id(5, 100));
        }
        all.note(2, vote(7), id(5, 90));
        // Entries 91 to 100 were of nobody's majority, and others came in their place.
        assert_eq!(all.lost(2, vote(7), id(7, 95)), None);
        assert_eq!(all.lost(3, vote(7), id(7, 95)), None);
        assert_eq!(all.0.lock().unwrap().len(), 1);
    }
}
