//! The store under an agent: atomic batches with preconditions, point reads, ordered scans, and one call that makes
//! everything before it durable.
//!
//! Two engines keep the same promises: [`sled`](SledEngine) on disk and [`memory`](MemoryEngine) for tests and
//! simulation. A batch whose precondition fails changes nothing: this is where an old epoch's write is refused.

mod memory;
mod sled;

use std::time::Duration;

pub use memory::MemoryEngine;
pub use sled::SledEngine;

/// The longest value: beyond it sled moves values to files that it never syncs.
pub const VALUE_BYTES_MAX: usize = 128 * 1024;

/// A key with its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The directory cannot be opened.
    #[error("cannot open the store at {path}: {reason}; another process may have it open, or it is damaged")]
    Open {
        /// Which directory.
        path: String,
        /// What the store said.
        reason: String,
    },
    /// A read failed.
    #[error("cannot read from the store: {0}")]
    Read(String),
    /// A batch failed, and nothing of it is in the store.
    #[error("cannot write to the store: {0}")]
    Write(String),
    /// Batches may not be durable. The process must not go on.
    #[error("cannot sync the store: {0}")]
    Sync(String),
    /// A value is longer than the store keeps safely.
    #[error("a value of {bytes} bytes is longer than {VALUE_BYTES_MAX}")]
    ValueTooLong {
        /// Its length.
        bytes: usize,
    },
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Applied {
    /// All of it is in the store.
    Yes,
    /// A precondition did not hold: nothing of it is in the store.
    No,
}

/// Changes that are made together or not at all, and what must be so for them to be made.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    expectations: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// Only if `key` has this value, or is absent, in the same atomic step.
    pub fn expect(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.expectations.push((key, value));
    }

    /// Sets `key`.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.push((key, Some(value)));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.changes.push((key, None));
    }

    /// What must be so, in the order in which it was said: a key, and its value or its absence.
    #[must_use]
    pub fn expectations(&self) -> &[(Vec<u8>, Option<Vec<u8>>)] {
        &self.expectations
    }

    /// What is changed, in the order in which it was said: a key, and its new value or its end.
    #[must_use]
    pub fn changes(&self) -> &[(Vec<u8>, Option<Vec<u8>>)] {
        &self.changes
    }

    /// That no value is too long for the engine.
    ///
    /// # Errors
    /// [`EngineError::ValueTooLong`].
    pub fn check_lengths(&self) -> Result<(), EngineError> {
        let lengths = self.changes.iter().filter_map(|(_, value)| value.as_ref().map(Vec::len));
        match lengths.max() {
            Some(bytes) if bytes > VALUE_BYTES_MAX => Err(EngineError::ValueTooLong { bytes }),
            _ => Ok(()),
        }
    }
}

/// See the module.
pub trait Engine: Send + Sync + 'static {
    /// The value of `key`.
    ///
    /// # Errors
    /// [`EngineError::Read`].
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// At most `limit` entries with `from <= key < until`, in order.
    ///
    /// # Errors
    /// [`EngineError::Read`].
    fn scan(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Entry>, EngineError>;

    /// Makes every change of `batch` if every expectation holds, atomically for readers and for crashes.
    ///
    /// # Errors
    /// [`EngineError::Write`], or [`EngineError::ValueTooLong`].
    fn apply(&self, batch: &Batch) -> Result<Applied, EngineError>;

    /// Returns when every batch applied before the call survives a power cut.
    ///
    /// # Errors
    /// [`EngineError::Sync`], after which nothing that was not synced before may be relied upon.
    fn sync(&self) -> Result<(), EngineError>;

    /// Whether [`Engine::sync`] waits for a disk, and so belongs on a thread of its own.
    fn sync_blocks(&self) -> bool {
        true
    }

    /// What is free on its disk, where it has one and that is known.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// How long a simulated disk takes for its next sync, in simulated time.
    fn sync_delay(&self) -> Duration {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests;
