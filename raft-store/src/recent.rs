//! The end of the log as openraft has it, so that what was just written is not read back and decoded again for each
//! follower and for applying it. Entries share their commands, so a copy costs next to nothing.

use std::collections::VecDeque;

use cell_model::Envelope;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;

use crate::consensus::Entry;

/// Bytes of entries that are kept, roughly as they are in memory.
const BYTES_MAX: usize = 16 * 1024 * 1024;
const ENTRIES_MAX: usize = 4_096;

/// Entries with consecutive indices, up to the end of the log.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// With their lengths as written.
    entries: VecDeque<(Entry, usize)>,
    /// What they take in memory.
    bytes: usize,
}

/// What an entry takes in memory, roughly: a command is several times as large there as it is written, and its texts come on
/// top.
fn room_of((entry, written): &(Entry, usize)) -> usize {
    let commands = match &entry.payload {
        EntryPayload::Normal(batch) => batch.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    commands * size_of::<Envelope>() + written
}

impl Recent {
    fn first(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.index())
    }

    fn next(&self) -> Option<u64> {
        self.entries.back().map(|(entry, _)| entry.index() + 1)
    }

    /// Takes an entry that was written, with its length.
    pub(crate) fn push(&mut self, entry: Entry, bytes: usize) {
        if self.next().is_some_and(|next| next != entry.index()) {
            self.clear();
        }
        let kept = (entry, bytes);
        self.bytes += room_of(&kept);
        self.entries.push_back(kept);
        while self.entries.len() > ENTRIES_MAX || (self.bytes > BYTES_MAX && self.entries.len() > 1) {
            if let Some(gone) = self.entries.pop_front() {
                self.bytes -= room_of(&gone);
            }
        }
    }

    /// Forgets the entries from `index` on: they were truncated.
    pub(crate) fn truncate_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|(entry, _)| entry.index() >= index) {
            if let Some(gone) = self.entries.pop_back() {
                self.bytes -= room_of(&gone);
            }
        }
    }

    /// Forgets the entries up to `index`: they were purged.
    pub(crate) fn purge_to(&mut self, index: u64) {
        while self.first().is_some_and(|first| first <= index) {
            if let Some(gone) = self.entries.pop_front() {
                self.bytes -= room_of(&gone);
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Entries from `from` up to and without `until`, as many as fit into `bytes_max`, but at least one. None where
    /// they are not all here, so that the disk has to be asked.
    pub(crate) fn range(&self, from: u64, until: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let (first, next) = (self.first()?, self.next()?);
        if from < first || from >= until || until > next {
            return None;
        }
        let skipped = usize::try_from(from - first).ok()?;
        let wanted = usize::try_from(until - from).ok()?;
        let mut bytes = 0;
        let mut found = Vec::with_capacity(wanted);
        for (entry, length) in self.entries.iter().skip(skipped).take(wanted) {
            bytes += length;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::WireLogId;

    fn entry(index: u64) -> Entry {
        Entry { log_id: WireLogId { term: 1, node: 1, index }.into(), payload: EntryPayload::Blank }
    }

    fn filled(from: u64, until: u64) -> Recent {
        let mut recent = Recent::default();
        (from..until).for_each(|index| recent.push(entry(index), 10));
        recent
    }

    fn indices(recent: &Recent, from: u64, until: u64, bytes: usize) -> Option<Vec<u64>> {
        Some(recent.range(from, until, bytes)?.iter().map(RaftEntry::index).collect())
    }

    #[test]
    fn what_is_all_here_is_answered_and_nothing_else() {
        let recent = filled(5, 10);
        assert_eq!(indices(&recent, 5, 10, 1_000), Some(vec![5, 6, 7, 8, 9]));
        assert_eq!(indices(&recent, 7, 9, 1_000), Some(vec![7, 8]));
        for (from, until) in [(4, 6), (9, 11), (7, 7), (10, 12)] {
            assert_eq!(indices(&recent, from, until, 1_000), None, "{from}..{until}");
        }
        assert_eq!(indices(&recent, 5, 10, 25), Some(vec![5, 6]));
        assert_eq!(indices(&recent, 5, 10, 0), Some(vec![5]));
    }

    #[test]
    fn truncated_purged_and_replaced_entries_are_forgotten() {
        let mut recent = filled(5, 10);
        recent.truncate_from(8);
        assert_eq!(indices(&recent, 5, 8, 1_000), Some(vec![5, 6, 7]));
        recent.purge_to(5);
        assert_eq!(indices(&recent, 5, 8, 1_000), None);
        recent.push(entry(8), 10);
        assert_eq!(indices(&recent, 6, 9, 1_000), Some(vec![6, 7, 8]));
        recent.push(entry(20), 10);
        assert_eq!((indices(&recent, 6, 9, 1_000), indices(&recent, 20, 21, 0)), (None, Some(vec![20])));
        assert_eq!(recent.bytes, 10);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut recent = Recent::default();
        (0..10_000).for_each(|index| recent.push(entry(index), 10));
        assert_eq!(recent.entries.len(), ENTRIES_MAX);
        (10_000..10_010).for_each(|index| recent.push(entry(index), BYTES_MAX / 4));
        assert!(recent.bytes <= BYTES_MAX && recent.entries.len() <= 4);
    }
}
