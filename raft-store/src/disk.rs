//! What a node writes to, as one value that can be swapped: a directory, or memory for simulation.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::{
    LOCKED, LazyState, LogEngine, LogKind, MemoryLog, MemoryState, SledState, StateEngine, open_log, settled,
};
use crate::error::{EngineError, OpenError};
use crate::honesty::{self, SyncPath};
use crate::snapshot::Depot;

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

    /// Locks and opens a data directory, or makes it, with its log in `wanted`: a log that another engine has kept goes
    /// over to it. Blocks while files are read.
    ///
    /// # Errors
    /// [`OpenError::Locked`] where another store has it open, and others where it cannot be read.
    pub fn directory(path: &Path, wanted: LogKind) -> Result<Self, OpenError> {
        fs::create_dir_all(path).map_err(|source| OpenError::Directory { path: path.to_owned(), source })?;
        Self::open(path, |_| Ok(wanted), probed)
    }

    /// As [`Self::directory`], with its log in whatever it is, to be looked at: nothing is tried out on its disk. It writes all the
    /// same, so it is for copies.
    pub(crate) fn as_it_is(path: &Path) -> Result<Self, OpenError> {
        Self::open(path, settled, |_| Ok(None))
    }

    fn open(
        path: &Path,
        wanted: impl FnOnce(&Path) -> Result<LogKind, EngineError>,
        probe: impl FnOnce(&Path) -> Result<Option<SyncPath>, OpenError>,
    ) -> Result<Self, OpenError> {
        let unusable = |source: std::io::Error| OpenError::Directory { path: path.to_owned(), source };
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("lock"));
        let lock = lock.map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let sync_path = probe(path)?;
        let inside = |name: &str| {
            let path = path.join(name);
            (path.clone(), move |source: EngineError| match &source {
                // Tasks of a store that was just dropped may hold it for a moment longer.
                EngineError::Io { reason, .. } if reason.contains(LOCKED) => OpenError::Locked { path },
                _ => OpenError::Storage { path, source },
            })
        };
        let wanted = wanted(path).map_err(|source| OpenError::Storage { path: path.to_owned(), source })?;
        let (_, log_failed) = inside(wanted.directory());
        let (state_path, state_failed) = inside("sm");
        let (snapshot_path, snapshot_failed) = inside("snapshot");
        Ok(Self {
            log: open_log(path, wanted).map_err(log_failed)?,
            state: Arc::new(SledState::open(state_path.clone()).and_then(LazyState::new).map_err(state_failed)?),
            depot: Depot::open_directory(&snapshot_path).map_err(snapshot_failed)?,
            place: sync_path.map(|sync_path| Arc::new((path.to_owned(), sync_path))),
            _lock: Some(Arc::new(lock)),
        })
    }
}

/// How far syncs reach there.
fn probed(path: &Path) -> Result<Option<SyncPath>, OpenError> {
    honesty::probe(path).map(Some).map_err(|source| match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            OpenError::Full { path: path.to_owned(), source }
        }
        _ => OpenError::Directory { path: path.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_on_a_full_disk_says_so_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        // Whatever is written there finds no room.
        let probe = directory.path().join(honesty::PROBE);
        std::os::unix::fs::symlink("/dev/full", &probe).unwrap();
        let refused = Disk::directory(directory.path(), LogKind::Segments).unwrap_err();
        assert_eq!(refused.code(), "DISK_FULL", "{refused}");
        assert!(refused.hint().contains("room"), "{}", refused.hint());
        assert!(probe.symlink_metadata().is_err(), "the file of the probe is gone");
    }

    #[test]
    fn looking_at_a_directory_leaves_its_log_in_the_engine_that_a_change_was_going_to() {
        for (from, to) in [(LogKind::Segments, LogKind::Sled), (LogKind::Sled, LogKind::Segments)] {
            let directory = tempfile::tempdir().unwrap();
            let disk = Disk::directory(directory.path(), to).unwrap();
            disk.log.append(&[(1, b"entry 1".to_vec())]).unwrap();
            disk.log.sync().unwrap();
            drop(disk);
            // A crash behind step 2: the log that was is retired, the copy has not got its name yet.
            let at = |name: String| directory.path().join(name);
            fs::rename(at(to.directory().into()), at(format!("{}.new", to.directory()))).unwrap();
            fs::create_dir(at(format!("{}.retired", from.directory()))).unwrap();
            let disk = Disk::as_it_is(directory.path()).unwrap();
            assert_eq!(disk.log.last().unwrap(), Some((1, b"entry 1".to_vec())));
            assert!(at(to.directory().into()).exists() && !at(from.directory().into()).exists(), "{from} to {to}");
        }
    }
}
