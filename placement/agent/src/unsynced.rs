//! Rows that were written by batches which may not last yet.
//!
//! What a read has seen must last before it is answered. A read of one row need not wait for the sync of another: where
//! many write, there is always a write that is being synced, and just behind a cutover all that were held.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use crate::durable::Ticket;

/// Rows that are told apart, and batches; with more, reads wait for the newest batch.
const ROWS_MAX: usize = 4_096;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Unsynced {
    /// What every read waits for.
    floor: Ticket,
    /// The batches behind it, oldest first, and the rows of each.
    batches: VecDeque<(Ticket, Vec<Vec<u8>>)>,
    /// Row → the newest batch that wrote it.
    rows: BTreeMap<Vec<u8>, Ticket>,
}

impl Unsynced {
    /// A batch that concerns every read.
    pub(crate) fn all(&mut self, ticket: Ticket) {
        *self = Self { floor: ticket, ..Self::default() };
    }

    /// A batch that wrote these rows. What is durable by now is forgotten.
    pub(crate) fn rows<'a>(&mut self, ticket: Ticket, rows: impl Iterator<Item = &'a [u8]>, durable: Ticket) {
        while let Some((synced, rows)) = self.batches.pop_front_if(|(ticket, _)| *ticket <= durable) {
            for row in rows {
                if self.rows.get(&row) == Some(&synced) {
                    self.rows.remove(&row);
                }
            }
        }
        let rows: Vec<Vec<u8>> = rows.map(<[u8]>::to_vec).collect();
        if self.rows.len() + rows.len() > ROWS_MAX || self.batches.len() >= ROWS_MAX {
            return self.all(ticket);
        }
        for row in &rows {
            self.rows.insert(row.clone(), ticket);
        }
        self.batches.push_back((ticket, rows));
    }

    /// What every read waits for, also of nothing.
    pub(crate) const fn floor(&self) -> Ticket {
        self.floor
    }

    /// What a read of this row waits for.
    pub(crate) fn of_row(&self, row: &[u8]) -> Ticket {
        self.rows.get(row).copied().unwrap_or_default().max(self.floor)
    }

    /// What a read of these rows waits for, of deleted ones, too.
    pub(crate) fn of_range(&self, from: &[u8], until: Option<&[u8]>) -> Ticket {
        if until.is_some_and(|until| until <= from) {
            return self.floor;
        }
        let range = (Bound::Included(from), until.map_or(Bound::Unbounded, Bound::Excluded));
        let newest = self.rows.range::<[u8], _>(range).map(|(_, ticket)| *ticket).max();
        newest.unwrap_or_default().max(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(rows: &[(u64, &[&str])], durable: u64) -> Unsynced {
        let mut unsynced = Unsynced::default();
        for (ticket, keys) in rows {
            unsynced.rows(Ticket(*ticket), keys.iter().map(|key| key.as_bytes()), Ticket(durable));
        }
        unsynced
    }

    #[test]
    fn a_row_waits_for_the_newest_batch_that_wrote_it_and_for_no_other() {
        let unsynced = written(&[(1, &["a", "b"]), (2, &["b"]), (3, &["c"])], 0);
        let waits = ["a", "b", "c", "d"].map(|row| unsynced.of_row(row.as_bytes()));
        assert_eq!(waits, [Ticket(1), Ticket(2), Ticket(3), Ticket(0)]);
    }

    #[test]
    fn a_range_waits_for_the_newest_of_its_rows() {
        let unsynced = written(&[(3, &["a"]), (2, &["b"]), (1, &["c"])], 0);
        assert_eq!(unsynced.of_range(b"b", None), Ticket(2));
        assert_eq!(unsynced.of_range(b"b", Some(b"c")), Ticket(2));
        assert_eq!(unsynced.of_range(b"bb", Some(b"c")), Ticket(0), "the end is not part of it");
        assert_eq!(unsynced.of_range(b"c", Some(b"a")), Ticket(0), "a range that is turned round is empty");
        assert_eq!(unsynced.of_range(b"", None), Ticket(3));
    }

    #[test]
    fn what_is_durable_is_forgotten_unless_it_was_written_again() {
        let mut unsynced = written(&[(1, &["a", "b"]), (2, &["b"])], 0);
        unsynced.rows(Ticket(3), std::iter::empty(), Ticket(1));
        assert_eq!([unsynced.of_row(b"a"), unsynced.of_row(b"b")], [Ticket(0), Ticket(2)]);
        unsynced.rows(Ticket(4), std::iter::empty(), Ticket(3));
        assert!(unsynced.rows.is_empty() && unsynced.batches.len() == 1);
    }

    #[test]
    fn behind_a_batch_that_concerns_all_every_read_waits_for_it() {
        let mut unsynced = written(&[(1, &["a"])], 0);
        unsynced.all(Ticket(2));
        unsynced.rows(Ticket(3), std::iter::once(b"b".as_slice()), Ticket(0));
        assert_eq!([unsynced.of_row(b"a"), unsynced.of_row(b"b")], [Ticket(2), Ticket(3)]);
        assert_eq!(unsynced.of_range(b"x", None), Ticket(2));
    }

    #[test]
    fn more_rows_than_are_told_apart_make_every_read_wait() {
        let mut unsynced = Unsynced::default();
        let keys: Vec<String> = (0..=ROWS_MAX).map(|row| row.to_string()).collect();
        unsynced.rows(Ticket(1), keys[1..].iter().map(|key| key.as_bytes()), Ticket(0));
        assert_eq!(unsynced.of_row(b"other"), Ticket(0));
        unsynced.rows(Ticket(2), keys[..1].iter().map(|key| key.as_bytes()), Ticket(0));
        assert_eq!((unsynced.of_row(b"other"), unsynced.rows.len()), (Ticket(2), 0));
    }
}
