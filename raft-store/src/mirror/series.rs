//! Small things with consecutive numbers, some dozens of them in one row: changes, answers, entries of the audit trail.
//!
//! ```text
//! <prefix>/<number of the first>   item · item · item …        the last row grows until it is full
//! ```
//!
//! What sled does for a row costs far more than the bytes in it: with a row for each item, keeping them was half of what a
//! node did for a command. The oldest go with their row, so the row that the first kept item is in may begin with some that
//! are forgotten.

use std::collections::VecDeque;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::engine::Write;
use crate::error::EngineError;

/// A row that has reached this is full. sled keeps sixteen rows on a page, and a page must stay far below 128 KiB.
const ROW_BYTES: usize = 3 * 1024;
/// So many rows go at once, or twice as many as have come: there may be tens of thousands behind a snapshot, and whoever
/// applies waits for it. Those that are left go the next time.
const ROWS_GONE_MAX: usize = 64;

/// Where each row of one series begins, and what is in the last one.
#[derive(Debug)]
pub(super) struct Series {
    prefix: u8,
    /// The first number in each row.
    rows: VecDeque<u64>,
    /// The items of the last row.
    open: Vec<u8>,
    grown: bool,
    /// Rows that have come since some were let go of.
    begun: usize,
}

/// `<prefix>/<number of the first item>`.
pub(super) fn key(prefix: u8, first: u64) -> Vec<u8> {
    let mut key = vec![prefix, b'/'];
    key.extend_from_slice(&first.to_be_bytes());
    key
}

impl Series {
    pub(super) const fn new(prefix: u8) -> Self {
        Self { prefix, rows: VecDeque::new(), open: Vec::new(), grown: false, begun: 0 }
    }

    /// Adds the item with the next number. Answers its length.
    pub(super) fn push(&mut self, number: u64, item: &impl Serialize, writes: &mut Vec<Write>) -> usize {
        if self.rows.is_empty() || self.open.len() >= ROW_BYTES {
            self.settle(writes);
            self.open.clear();
            self.rows.push_back(number);
            self.begun += 1;
        }
        let before = self.open.len();
        self.open = codec::extend(std::mem::take(&mut self.open), item);
        self.grown = true;
        self.open.len() - before
    }

    /// Lets go of some rows in which everything is before `first`.
    pub(super) fn forget_before(&mut self, first: u64, writes: &mut Vec<Write>) {
        for _ in 0..ROWS_GONE_MAX.max(2 * std::mem::take(&mut self.begun)) {
            if self.rows.get(1).is_none_or(|next| *next > first) {
                break;
            }
            if let Some(gone) = self.rows.pop_front() {
                writes.push((key(self.prefix, gone), None));
            }
        }
    }

    /// Writes the last row, where it has grown.
    pub(super) fn settle(&mut self, writes: &mut Vec<Write>) {
        if std::mem::take(&mut self.grown)
            && let Some(first) = self.rows.back()
        {
            writes.push((key(self.prefix, *first), Some(codec::seal_items(&self.open))));
        }
    }

    /// Takes a row that was found, in the order of their keys. Answers what is in it.
    pub(super) fn found<T: Serialize + DeserializeOwned>(
        &mut self,
        key: &[u8],
        value: &[u8],
        what: impl Fn() -> String,
    ) -> Result<Vec<T>, EngineError> {
        let number = key.get(2..).and_then(|number| <[u8; 8]>::try_from(number).ok()).map(u64::from_be_bytes);
        let number =
            number.ok_or_else(|| EngineError::Corrupt { what: what(), detail: "its key is none".into() })?;
        let (items, written) = codec::open_items(value, &what)?;
        self.rows.push_back(number);
        self.open = written;
        Ok(items)
    }
}
