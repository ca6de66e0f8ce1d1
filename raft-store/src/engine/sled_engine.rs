//! The engines on sled 0.34.7, as it really behaves.
//!
//! sled's `flush` is not an fsync on Linux: it hands its pages to the kernel and asks for write-back. A power cut
//! after it loses acknowledged writes, or leaves a file that cannot be opened. So [`Files::sync`] flushes and then
//! calls `sync_data` on the same file; and the values stay below the size that sled would put into files of their own
//! that nobody syncs ([`super::rows`]). Log and state are two databases: applying never rides on the commit path.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sled::{Batch, Db, Tree};

use super::rows::{Assembly, Pair, piece_key, pieces};
use super::watermark::{Mark, Watermark};
use super::{LOCKED, LogEngine, StateEngine, Visit, Write, sync_directory};
use crate::error::EngineError;

const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Rows removed in one batch.
const REMOVE_ROWS: usize = 1_024;

fn io(operation: &'static str) -> impl Fn(sled::Error) -> EngineError {
    move |error| match error {
        sled::Error::Corruption { .. } => {
            EngineError::Corrupt { what: operation.to_owned(), detail: error.to_string() }
        }
        other => EngineError::Io { operation, reason: other.to_string() },
    }
}

fn std_io(operation: &'static str) -> impl Fn(std::io::Error) -> EngineError {
    move |error| EngineError::Io { operation, reason: error.to_string() }
}

/// A sled database and the file that has to be synced behind its back.
#[derive(Debug)]
struct Files {
    db: Db,
    file: File,
}

/// sled lets go of its lock on a thread of its own, a moment after its last handle is dropped: who opens the same
/// directory again at once may come too early.
fn open_when_released(config: &sled::Config) -> sled::Result<Db> {
    const TRIES: u32 = 50;
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
    for _ in 1..TRIES {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains(LOCKED) => {
                std::thread::sleep(PAUSE);
            }
            opened => return opened,
        }
    }
    config.open()
}

impl Files {
    fn open(path: &Path) -> Result<Self, EngineError> {
        let config = sled::Config::new().path(path).flush_every_ms(None).cache_capacity(CACHE_BYTES);
        // sled panics on some kinds of damage.
        let db = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| open_when_released(&config)))
            .map_err(|panic| EngineError::Corrupt { what: "database".into(), detail: panic_text(&*panic) })?
            .map_err(io("opening a database"))?;
        let file = File::open(path.join("db")).map_err(std_io("opening a database"))?;
        let files = Self { db, file };
        files.sync()?;
        sync_directory(path)?;
        Ok(files)
    }

    fn tree(&self, name: &str) -> Result<Tree, EngineError> {
        self.db.open_tree(name).map_err(io("opening a tree"))
    }

    fn sync(&self) -> Result<(), EngineError> {
        let synced =
            self.db.flush().map_err(io("flushing")).and_then(|_| self.file.sync_data().map_err(std_io("syncing")));
        if synced.is_err() {
            // It is never tried again, also not by the last handle, which would panic where it fails.
            std::mem::forget(self.db.clone());
        }
        synced
    }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into())
}

/// The log on sled.
#[derive(Debug)]
pub struct SledLog {
    files: Files,
    rows: Tree,
    meta: Tree,
    watermark: Watermark,
    written: Mutex<Written>,
}

/// What the next sync will have made durable, and how often less was asked for.
#[derive(Debug, Default)]
struct Written {
    mark: Mark,
    lowered: u64,
}

/// Counts the writes of named values, within their batches.
const META_WRITES: &str = "writes";

impl SledLog {
    /// Opens or makes the log in a directory of its own.
    ///
    /// # Errors
    /// [`EngineError`] where it cannot be read or written.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, EngineError> {
        let path = path.into();
        let files = Files::open(&path)?;
        let (rows, meta) = (files.tree("raft_log")?, files.tree("raft_meta")?);
        let (watermark, mark): (_, Mark) = Watermark::open(&path.join("watermark"))?;
        let log = Self { files, rows, meta, watermark, written: Mutex::default() };
        let found = Mark { last_index: log.last_index()?, meta_writes: log.meta_writes()? };
        mark.check(found)?;
        log.written().mark = found;
        Ok(log)
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_index(&self) -> Result<u64, EngineError> {
        let Some((key, _)) = self.rows.last().map_err(io("reading the log"))? else { return Ok(0) };
        index_of(key.split_last_chunk::<2>().map_or(&key[..], |(index, _)| index))
    }

    fn meta_writes(&self) -> Result<u64, EngineError> {
        let count = self.meta.get(META_WRITES).map_err(io("reading the log's meta"))?;
        count.map_or(Ok(0), |count| index_of(&count))
    }

    /// Asks for less than before, durably and ahead of a removal.
    fn lower(&self, last_index: u64) -> Result<(), EngineError> {
        let mut written = self.written();
        if last_index < written.mark.last_index {
            written.mark.last_index = last_index;
            written.lowered += 1;
            self.watermark.put(&written.mark)?;
            self.watermark.sync()?;
        }
        Ok(())
    }

    fn remove(&self, keys: impl Iterator<Item = sled::Result<sled::IVec>>) -> Result<(), EngineError> {
        let mut batch = Batch::default();
        let mut count = 0;
        for key in keys {
            batch.remove(key.map_err(io("removing from the log"))?);
            count += 1;
            if count == REMOVE_ROWS {
                self.rows.apply_batch(std::mem::take(&mut batch)).map_err(io("removing from the log"))?;
                count = 0;
            }
        }
        self.rows.apply_batch(batch).map_err(io("removing from the log"))
    }
}

fn index_of(key: &[u8]) -> Result<u64, EngineError> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| EngineError::Corrupt {
        what: format!("log row {}", key.escape_ascii()),
        detail: "its key is not an index".into(),
    })
}

impl LogEngine for SledLog {
    fn append(&self, rows: &[(u64, Vec<u8>)]) -> Result<(), EngineError> {
        let mut batch = Batch::default();
        for (index, value) in rows {
            for (piece, bytes) in pieces(value)? {
                batch.insert(piece_key(&index.to_be_bytes(), piece), bytes);
            }
        }
        self.rows.apply_batch(batch).map_err(io("appending to the log"))?;
        let mut written = self.written();
        written.mark.last_index = rows.iter().map(|(index, _)| *index).fold(written.mark.last_index, u64::max);
        Ok(())
    }

    fn range(&self, from: u64, until: u64, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, EngineError> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut assembly = Assembly::default();
        let mut keep = |whole: Option<Pair>| -> Result<bool, EngineError> {
            let Some((key, value)) = whole else { return Ok(true) };
            bytes += value.len();
            let fits = bytes <= bytes_max || found.is_empty();
            if fits {
                found.push((index_of(&key)?, value));
            }
            Ok(fits)
        };
        if from < until {
            for row in self.rows.range(piece_key(&from.to_be_bytes(), 0)..piece_key(&until.to_be_bytes(), 0)) {
                let (key, piece) = row.map_err(io("reading the log"))?;
                if !keep(assembly.take(&key, &piece)?)? {
                    return Ok(found);
                }
            }
            keep(assembly.finish())?;
        }
        Ok(found)
    }

    fn last(&self) -> Result<Option<(u64, Vec<u8>)>, EngineError> {
        if self.rows.is_empty() {
            return Ok(None);
        }
        let index = self.last_index()?;
        let row = self.range(index, index.saturating_add(1), usize::MAX)?.pop();
        row.map(Some).ok_or_else(|| EngineError::Corrupt {
            what: format!("log row {index}"),
            detail: "its first piece is missing".into(),
        })
    }

    fn truncate_from(&self, index: u64) -> Result<(), EngineError> {
        self.lower(index.saturating_sub(1))?;
        self.remove(self.rows.range(piece_key(&index.to_be_bytes(), 0)..).keys().rev())
    }

    fn purge_to(&self, index: u64) -> Result<(), EngineError> {
        if index >= self.last_index()? {
            self.lower(0)?;
        }
        self.remove(self.rows.range(..=piece_key(&index.to_be_bytes(), u16::MAX)).keys())
    }

    fn put_meta(&self, name: &'static str, value: &[u8]) -> Result<(), EngineError> {
        let mut written = self.written();
        let count = written.mark.meta_writes + 1;
        let mut batch = Batch::default();
        batch.insert(name, value);
        batch.insert(META_WRITES, &count.to_be_bytes());
        self.meta.apply_batch(batch).map_err(io("writing the log's meta"))?;
        written.mark.meta_writes = count;
        Ok(())
    }

    fn get_meta(&self, name: &'static str) -> Result<Option<Vec<u8>>, EngineError> {
        self.meta.get(name).map(|value| value.map(|value| value.to_vec())).map_err(io("reading the log's meta"))
    }

    fn sync(&self) -> Result<(), EngineError> {
        let (mark, lowered) = {
            let written = self.written();
            (written.mark, written.lowered)
        };
        self.files.sync()?;
        let written = self.written();
        // After a removal in the meantime the note asks for less already, and the next sync raises it.
        if written.lowered == lowered { self.watermark.put(&mark) } else { Ok(()) }
    }

    fn sync_blocks(&self) -> bool {
        true
    }
}

/// The state on sled: one tree, so that a batch is atomic.
#[derive(Debug)]
pub struct SledState {
    files: Files,
    rows: Tree,
    /// Keys of values in more than one piece: only they can leave pieces behind when they are replaced.
    large: Mutex<BTreeSet<Vec<u8>>>,
}

impl SledState {
    /// Opens or makes the state in a directory of its own.
    ///
    /// # Errors
    /// [`EngineError`] where it cannot be read or written.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, EngineError> {
        let files = Files::open(&path.into())?;
        let rows = files.tree("state")?;
        let mut large = BTreeSet::new();
        for row in rows.iter().keys() {
            let row = row.map_err(io("reading the state"))?;
            if let Some((key, [0, 1])) = row.split_last_chunk::<2>() {
                large.insert(key.to_vec());
            }
        }
        Ok(Self { files, rows, large: Mutex::new(large) })
    }

    /// Removes the pieces of a value from `piece` on.
    fn remove_from(&self, batch: &mut Batch, key: &[u8], piece: u16) -> Result<(), EngineError> {
        for number in piece..=u16::MAX {
            let row = piece_key(key, number);
            if !self.rows.contains_key(&row).map_err(io("writing the state"))? {
                break;
            }
            batch.remove(row);
        }
        Ok(())
    }
}

impl StateEngine for SledState {
    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        let mut batch = Batch::default();
        let mut large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in writes {
            let mut kept = 0;
            if let Some(value) = value {
                for (piece, bytes) in pieces(value)? {
                    batch.insert(piece_key(key, piece), bytes);
                    kept = piece + 1;
                }
            }
            if kept == 0 {
                batch.remove(piece_key(key, 0));
                kept = 1;
            }
            let was_large = if kept > 1 { !large.insert(key.clone()) } else { large.remove(key) };
            if was_large {
                self.remove_from(&mut batch, key, kept)?;
            }
        }
        self.rows.apply_batch(batch).map_err(io("writing the state"))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let mut value: Option<Vec<u8>> = None;
        for number in 0..=u16::MAX {
            let Some(piece) = self.rows.get(piece_key(key, number)).map_err(io("reading the state"))? else {
                break;
            };
            value.get_or_insert_default().extend_from_slice(&piece);
        }
        Ok(value)
    }

    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), EngineError> {
        let mut assembly = Assembly::default();
        for row in self.rows.iter() {
            let (row, piece) = row.map_err(io("reading the state"))?;
            if let Some((key, value)) = assembly.take(&row, &piece)? {
                visit(&key, &value)?;
            }
        }
        assembly.finish().map_or(Ok(()), |(key, value)| visit(&key, &value))
    }

    fn clear_but(&self, mark: &[u8]) -> Result<(), EngineError> {
        const ROWS: usize = 1_024;
        // sled's own `clear` takes row by row, the mark among them: whoever was killed behind it would find the rest
        // without it, and believe it.
        let mark = piece_key(mark, 0);
        self.large.lock().unwrap_or_else(PoisonError::into_inner).clear();
        loop {
            let mut batch = Batch::default();
            let mut rows = 0;
            for row in
                self.rows.iter().keys().filter(|row| row.as_ref().map_or(true, |row| *row != mark)).take(ROWS)
            {
                batch.remove(row.map_err(io("clearing the state"))?);
                rows += 1;
            }
            if rows == 0 {
                return Ok(());
            }
            self.rows.apply_batch(batch).map_err(io("clearing the state"))?;
        }
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.files.sync()
    }

    fn sync_blocks(&self) -> bool {
        true
    }
}
