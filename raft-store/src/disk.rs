//! What a node writes to, as one value that can be swapped: a directory, or memory for simulation.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::{LogEngine, MemoryLog, MemoryState, SledLog, SledState, StateEngine};
use crate::error::{EngineError, OpenError};
use crate::honesty::{self, SyncPath};
use crate::snapshot::Depot;

/// How sled says that somebody else has its file open.
const SLED_LOCKED: &str = "could not acquire lock";

/// Log, state and snapshots of one node.
#[derive(Debug, Clone)]
pub struct Disk {
    pub(crate) log: Arc<dyn LogEngine>,
    pub(crate) state: Arc<dyn StateEngine>,
    pub(crate) depot: Depot,
    /// Where it is, and how far its syncs reach; none in memory.
    pub(crate) place: Option<Arc<(PathBuf, SyncPath)>>,
    /// Held as long as anything of this disk is in use.
    _lock: Option<Arc<File>>,
}

impl Disk {
    /// A disk in memory. Clones share it: a node opened on a clone finds what an earlier one has written.
    #[must_use]
    pub fn memory() -> Self {
        Self::of(Arc::new(MemoryLog::default()), Arc::new(MemoryState::default()))
    }

    /// A disk of other engines; its snapshots are kept in memory.
    #[must_use]
    pub fn of(log: Arc<dyn LogEngine>, state: Arc<dyn StateEngine>) -> Self {
        Self { log, state, depot: Depot::Memory(Arc::default()), place: None, _lock: None }
    }

    /// Locks and opens a data directory, or makes it. Blocks while sled reads its file.
    ///
    /// # Errors
    /// [`OpenError::Locked`] where another store has it open, and others where it cannot be read.
    pub fn directory(path: &Path) -> Result<Self, OpenError> {
        let unusable = |source: std::io::Error| OpenError::Directory { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(unusable)?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("lock"));
        let lock = lock.map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let sync_path = honesty::probe(path).map_err(unusable)?;
        let inside = |name: &str| {
            let path = path.join(name);
            (path.clone(), move |source: EngineError| match &source {
                // Tasks of a store that was just dropped may hold it for a moment longer.
                EngineError::Io { reason, .. } if reason.contains(SLED_LOCKED) => OpenError::Locked { path },
                _ => OpenError::Storage { path, source },
            })
        };
        let (log_path, log_failed) = inside("log");
        let (state_path, state_failed) = inside("sm");
        let (snapshot_path, snapshot_failed) = inside("snapshot");
        Ok(Self {
            log: Arc::new(SledLog::open(log_path).map_err(log_failed)?),
            state: Arc::new(SledState::open(state_path).map_err(state_failed)?),
            depot: Depot::open_directory(&snapshot_path).map_err(snapshot_failed)?,
            place: Some(Arc::new((path.to_owned(), sync_path))),
            _lock: Some(Arc::new(lock)),
        })
    }
}
