//! Room on the disk: a node that runs out of it stops accepting, and goes on when there is room again.
//!
//! What is accepted must fit, and so must the next snapshot: a node whose log or state cannot be written has to end.
//! So a reserve is kept. Below it the leader refuses commands with `DISK_FULL`, and a follower refuses entries, so that
//! the leader goes on with the others; votes and heartbeats go on. A little above it everything is accepted again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often the room is looked at: a disk that takes 200 MB a second must not use up the reserve in between.
const PAUSE: Duration = Duration::from_millis(200);
const MIB: u64 = 1024 * 1024;

/// Why nothing is accepted at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    pub available: u64,
    pub needed: u64,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { available, needed } = self;
        write!(
            f,
            "{} MiB are free for the data directory, and {} MiB are kept in reserve",
            available / MIB,
            needed / MIB
        )
    }
}

/// The room that there is. Clones look at the same.
#[derive(Debug, Clone)]
pub(crate) struct Space(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    available: AtomicU64,
    /// 0 while everything is accepted; otherwise what is needed before anything is.
    wanted: AtomicU64,
}

impl Space {
    /// Looks, and goes on looking until `stop`. A disk in memory is never full.
    pub(crate) fn watch(directory: Option<PathBuf>, reserve: u64, stop: CancellationToken) -> Self {
        let space = Self(Arc::new(Inner { available: AtomicU64::new(u64::MAX), wanted: AtomicU64::new(0) }));
        if let Some(directory) = directory.filter(|_| reserve > 0) {
            let watched = space.clone();
            watched.look(&directory, reserve);
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(PAUSE) => {}
                    }
                    let (space, directory) = (watched.clone(), directory.clone());
                    // It ends with the runtime at the latest.
                    drop(tokio::task::spawn_blocking(move || space.look(&directory, reserve)).await);
                }
            });
        }
        space
    }

    fn look(&self, directory: &Path, reserve: u64) {
        let Ok(stat) = rustix::fs::statvfs(directory) else { return };
        let available = stat.f_bavail.saturating_mul(stat.f_frsize);
        let snapshot = std::fs::metadata(directory.join("snapshot/current.snapshot")).map_or(0, |file| file.len());
        self.note(available, reserve.saturating_add(snapshot));
    }

    fn note(&self, available: u64, needed: u64) {
        let before = self.0.wanted.load(Ordering::Relaxed);
        // A little more than the reserve, so that it does not flicker.
        let wanted = if before == 0 { needed } else { needed.saturating_add(needed / 8) };
        let full = available < wanted;
        self.0.available.store(available, Ordering::Relaxed);
        self.0.wanted.store(if full { wanted } else { 0 }, Ordering::Relaxed);
        match (before != 0, full) {
            (false, true) => {
                tracing::error!(code = "DISK_FULL", "{}, nothing is accepted", Full { available, needed });
            }
            (true, false) => tracing::info!(available, "there is room on the disk again"),
            _ => {}
        }
    }

    /// Refuses while there is too little.
    pub(crate) fn check(&self) -> Result<(), Full> {
        match self.0.wanted.load(Ordering::Relaxed) {
            0 => Ok(()),
            needed => Err(Full { available: self.0.available.load(Ordering::Relaxed), needed }),
        }
    }

    /// Bytes that are free; none where that is not known.
    pub(crate) fn available(&self) -> Option<u64> {
        Some(self.0.available.load(Ordering::Relaxed)).filter(|available| *available != u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_is_full_below_the_reserve_and_free_a_little_above_it() {
        let space = Space::watch(None, 100 * MIB, CancellationToken::new());
        assert_eq!((space.check(), space.available()), (Ok(()), None));
        space.note(101 * MIB, 100 * MIB);
        assert_eq!(space.check(), Ok(()));
        space.note(99 * MIB, 100 * MIB);
        let full = space.check().expect_err("it is full");
        assert_eq!(full.to_string(), "99 MiB are free for the data directory, and 100 MiB are kept in reserve");
        space.note(105 * MIB, 100 * MIB);
        assert!(space.check().is_err(), "not enough to go on with");
        space.note(120 * MIB, 100 * MIB);
        assert_eq!(space.check(), Ok(()));
    }

    #[tokio::test]
    async fn the_room_of_a_real_directory_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let space = Space::watch(Some(directory.path().to_owned()), u64::MAX / 4, stop.clone());
        assert!(space.check().is_err(), "nobody has so much");
        assert!(space.available().unwrap() > 0);
        stop.cancel();
    }
}
