//! A tenant's rows as seen by one read or one write: limits, read-your-writes, ordered scans.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::durable::Ticket;
use crate::engine::{Engine, EngineError, Entry};
use crate::keys::TenantKeys;
use crate::unsynced::Unsynced;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 512;
/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;
/// The most rows that one write may touch.
pub const WRITE_ROWS_MAX: usize = 1_024;
/// The most bytes, keys and values together, that one write may put.
pub const WRITE_BYTES_MAX: usize = 1024 * 1024;
/// The most rows that one scan returns.
pub const SCAN_ROWS_MAX: usize = 10_000;

/// Why a row cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// A key is empty or too long.
    #[error("a key of {bytes} bytes: keys have 1 to {KEY_BYTES_MAX}")]
    KeyLength {
        /// Its length.
        bytes: usize,
    },
    /// A value is too long.
    #[error("a value of {bytes} bytes: values have at most {VALUE_BYTES_MAX}; split it over several rows")]
    ValueLength {
        /// Its length.
        bytes: usize,
    },
    /// One write touches too much.
    #[error("one write may touch {WRITE_ROWS_MAX} rows and {WRITE_BYTES_MAX} bytes; split it into several")]
    TooMuch,
    /// The store failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl RowError {
    /// Stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::KeyLength { .. } => "KEY_LENGTH",
            Self::ValueLength { .. } => "VALUE_LENGTH",
            Self::TooMuch => "WRITE_TOO_LARGE",
            Self::Engine(_) => "STORE_FAILED",
        }
    }
}

pub(crate) const fn check_key(key: &[u8]) -> Result<(), RowError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(RowError::KeyLength { bytes: key.len() });
    }
    Ok(())
}

/// A tenant's rows at one moment.
pub struct View<'a> {
    engine: &'a dyn Engine,
    keys: &'a TenantKeys,
    watched: Option<&'a Unsynced>,
    waits_for: Cell<Ticket>,
}

impl<'a> View<'a> {
    pub(crate) const fn new(engine: &'a dyn Engine, keys: &'a TenantKeys) -> Self {
        Self { engine, keys, watched: None, waits_for: Cell::new(Ticket(0)) }
    }

    /// The same, and it is noted which batches have to last for what is read to last.
    pub(crate) fn watching(self, unsynced: &'a Unsynced) -> Self {
        // Also where nothing is read: that the cell owns the tenant has to last.
        Self { watched: Some(unsynced), waits_for: Cell::new(unsynced.floor()), ..self }
    }

    /// The newest of these batches.
    pub(crate) const fn waits_for(&self) -> Ticket {
        self.waits_for.get()
    }

    fn note(&self, of: impl FnOnce(&Unsynced) -> Ticket) {
        if let Some(unsynced) = self.watched {
            self.waits_for.set(self.waits_for.get().max(of(unsynced)));
        }
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`RowError`] where the key has no fitting length or the store fails.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowError> {
        check_key(key)?;
        self.note(|unsynced| unsynced.of_row(key));
        Ok(self.engine.get(&self.keys.row(key))?)
    }

    /// At most `limit` rows (and at most [`SCAN_ROWS_MAX`]) with `from <= key < until`, in order; without an end,
    /// to the last.
    ///
    /// # Errors
    /// [`RowError::Engine`].
    pub fn scan(&self, from: &[u8], until: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, RowError> {
        self.note(|unsynced| unsynced.of_range(from, until));
        let end = until.map_or_else(|| self.keys.rows_end(), |until| self.keys.row(until));
        let entries = self.engine.scan(&self.keys.row(from), &end, limit.min(SCAN_ROWS_MAX))?;
        Ok(entries.into_iter().map(|(key, value)| (self.keys.strip_row(&key), value)).collect())
    }
}

/// A write in the making: reads see what it has put and deleted so far.
pub struct Transaction<'a> {
    view: View<'a>,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
}

impl<'a> Transaction<'a> {
    pub(crate) const fn new(view: View<'a>) -> Self {
        Self { view, writes: BTreeMap::new(), bytes: 0 }
    }

    /// As [`View::waits_for`].
    pub(crate) const fn waits_for(&self) -> Ticket {
        self.view.waits_for()
    }

    pub(crate) fn into_writes(self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        self.writes
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.view.get(key),
        }
    }

    /// Sets `key`.
    ///
    /// # Errors
    /// [`RowError`] where key or value have no fitting length, or the write touches too much.
    pub fn put(&mut self, key: &[u8], value: impl Into<Vec<u8>>) -> Result<(), RowError> {
        let value = value.into();
        if value.len() > VALUE_BYTES_MAX {
            return Err(RowError::ValueLength { bytes: value.len() });
        }
        self.touch(key, Some(value))
    }

    /// Removes `key`; nothing happens where it is not there.
    ///
    /// # Errors
    /// As [`Transaction::put`].
    pub fn delete(&mut self, key: &[u8]) -> Result<(), RowError> {
        self.touch(key, None)
    }

    fn touch(&mut self, key: &[u8], value: Option<Vec<u8>>) -> Result<(), RowError> {
        check_key(key)?;
        let size = |value: &Option<Vec<u8>>| key.len() + value.as_ref().map_or(0, Vec::len);
        let before = self.writes.get(key).map_or(0, size);
        let after = self.bytes - before + size(&value);
        if after > WRITE_BYTES_MAX || (before == 0 && self.writes.len() == WRITE_ROWS_MAX) {
            return Err(RowError::TooMuch);
        }
        self.bytes = after;
        self.writes.insert(key.to_vec(), value);
        Ok(())
    }

    /// As [`View::scan`], with this write's own changes in it.
    ///
    /// # Errors
    /// [`RowError::Engine`].
    pub fn scan(&self, from: &[u8], until: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, RowError> {
        let limit = limit.min(SCAN_ROWS_MAX);
        let inside = |key: &[u8]| key >= from && until.is_none_or(|until| key < until);
        let own: Vec<_> = self.writes.iter().filter(|(key, _)| inside(key)).collect();
        let deleted = own.iter().filter(|(_, value)| value.is_none()).count();
        let stored = self.view.scan(from, until, limit.saturating_add(deleted))?;
        // Beyond the last stored row of a full page there may be others that come before own ones.
        let complete_to =
            (stored.len() == limit.saturating_add(deleted)).then(|| stored.last().map(|row| row.0.clone()));
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = stored.into_iter().collect();
        for (key, value) in own {
            match value {
                Some(value) if complete_to.iter().flatten().all(|last| key <= last) => {
                    rows.insert(key.clone(), value.clone());
                }
                Some(_) => {}
                None => {
                    rows.remove(key);
                }
            }
        }
        Ok(rows.into_iter().take(limit).collect())
    }
}
