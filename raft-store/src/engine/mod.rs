//! What the store wants of a disk: two narrow traits, one for the log and one for the mirror of the state.
//!
//! Nothing in them knows Raft, a codec or a clock; they keep bytes. What a write means is spelled out:
//!
//! * A write is *visible* to the next read of the same engine when its call returns.
//! * A write is *durable* when a [`LogEngine::sync`] or [`StateEngine::sync`] that began after it has returned.
//! * After a failed sync nothing is known of what was written before it. It is never tried again: the caller stops.
//!
//! All engines pass the same tests. Of the log there are three: [segments](SegmentLog), which nodes use, [sled](SledLog),
//! which they used before and may use again ([`LogKind`]), and [memory](MemoryLog) for simulation. Of the state there are
//! two: [sled](SledState) and [memory](MemoryState).

mod choice;
mod lazy;
mod memory;
mod rows;
mod segments;
mod sled_engine;
#[cfg(test)]
mod tests;
mod watermark;

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;

pub use choice::LogKind;
pub(crate) use choice::{log_places, open_log, settled};
pub(crate) use lazy::LazyState;
pub use memory::{MemoryLog, MemoryState};
pub use segments::SegmentLog;
pub use sled_engine::{SledLog, SledState};

use crate::error::EngineError;

/// How an engine says that somebody else has its files open (the words are sled's).
pub(crate) const LOCKED: &str = "could not acquire lock";

/// Makes the names in a directory durable, and its own name in its parent.
pub(crate) fn sync_directory(path: &Path) -> Result<(), EngineError> {
    let failed =
        |error: std::io::Error| EngineError::Io { operation: "syncing a directory", reason: error.to_string() };
    let sync = |path: &Path| File::open(path)?.sync_all();
    sync(path).map_err(failed)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync(parent).map_err(failed),
        _ => Ok(()),
    }
}

/// A log of rows with consecutive indices, and a handful of named values beside it.
pub trait LogEngine: fmt::Debug + Send + Sync + 'static {
    /// Puts rows in place, replacing what was at their indices.
    ///
    /// # Errors
    /// [`EngineError::Io`] where the disk refuses.
    fn append(&self, rows: &[(u64, Vec<u8>)]) -> Result<(), EngineError>;

    /// Rows from `from` up to and without `until`, in order. It stops before `bytes_max` is passed, but not before
    /// the first row.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] where a part of a row is missing.
    fn range(&self, from: u64, until: u64, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, EngineError>;

    /// The row with the highest index.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] where a part of it is missing.
    fn last(&self) -> Result<Option<(u64, Vec<u8>)>, EngineError>;

    /// Removes the rows from `index` on, the highest first.
    ///
    /// # Errors
    /// [`EngineError::Io`] where the disk refuses.
    fn truncate_from(&self, index: u64) -> Result<(), EngineError>;

    /// Removes the rows up to and with `index`, the lowest first.
    ///
    /// # Errors
    /// [`EngineError::Io`] where the disk refuses.
    fn purge_to(&self, index: u64) -> Result<(), EngineError>;

    /// Puts a named value in place.
    ///
    /// # Errors
    /// [`EngineError::Io`] where the disk refuses.
    fn put_meta(&self, name: &'static str, value: &[u8]) -> Result<(), EngineError>;

    /// A named value.
    ///
    /// # Errors
    /// [`EngineError::Io`] where the disk refuses.
    fn get_meta(&self, name: &'static str) -> Result<Option<Vec<u8>>, EngineError>;

    /// Makes every write before it durable.
    ///
    /// # Errors
    /// [`EngineError::Io`] where the disk refuses; the process must then end.
    fn sync(&self) -> Result<(), EngineError>;

    /// Whether [`Self::sync`] takes so long that it belongs on a thread of its own.
    fn sync_blocks(&self) -> bool;

    /// How much time goes by before a [`Self::sync`] that does not block: only in a simulation, whose clock does not
    /// move while a call runs.
    fn sync_delay(&self) -> Duration {
        Duration::ZERO
    }
}

/// One write of a batch: a key, and its value or nothing to remove it.
pub type Write = (Vec<u8>, Option<Vec<u8>>);

/// What is called with each key and value; its error ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), EngineError> + 'a;

/// An ordered map of keys and values that is changed in batches.
pub trait StateEngine: fmt::Debug + Send + Sync + 'static {
    /// Makes all writes, or none.
    ///
    /// # Errors
    /// [`EngineError::Io`] where the disk refuses.
    fn apply(&self, writes: &[Write]) -> Result<(), EngineError>;

    /// Where [`Self::apply`] would wait for what was given before: until it would not. None: it would not.
    fn room(&self) -> Option<BoxFuture<'_, ()>> {
        None
    }

    /// One value.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] where a part of it is missing.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// Every key and value in the order of keys.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] where a part of a value is missing, and whatever `visit` returns.
    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), EngineError>;

    /// Removes everything but the row `mark`. It is not atomic: the mark, written and synced before, tells whoever finds
    /// the rest that it is not to be believed.
    ///
    /// # Errors
    /// [`EngineError::Io`] where the disk refuses.
    fn clear_but(&self, mark: &[u8]) -> Result<(), EngineError>;

    /// Makes every write before it durable.
    ///
    /// # Errors
    /// [`EngineError::Io`] where the disk refuses; the process must then end.
    fn sync(&self) -> Result<(), EngineError>;

    /// Whether [`Self::sync`] takes so long that it belongs on a thread of its own.
    fn sync_blocks(&self) -> bool;

    /// How much time goes by before a [`Self::sync`] that does not block: only in a simulation, whose clock does not
    /// move while a call runs.
    fn sync_delay(&self) -> Duration {
        Duration::ZERO
    }
}
