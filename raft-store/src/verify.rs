//! A data directory that is only looked at: not one byte of it changes, nor a time.
//!
//! ```text
//! DIR ── locked, copied ──► $TMPDIR/cellway-verify-… ──► opened as at a start, read to the end ──► removed
//! ```
//!
//! Opening a directory writes. sled makes its recovery durable, the log cuts off what was never synced, lets go of segments that
//! nobody wants and ends a change of engines, and half a snapshot is removed. Somebody who looks at what a crash or a failing
//! disk has left wants it to be there afterwards as it was. So a copy is opened, by the very code of a start: a second reader
//! that only reads would one day disagree with it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::backup::Summary;
use crate::disk::Disk;
use crate::engine::log_places;
use crate::error::{EngineError, OpenError};
use crate::fault::Fault;
use crate::identity::Identity;
use crate::log::Log;
use crate::mirror::Mirror;

const MIB: u64 = 1024 * 1024;
/// What opening the copy may write besides.
const SPARE_BYTES: u64 = 64 * MIB;
/// With less left than this whatever goes wrong with the copy may be for want of room.
const LEFT_BYTES_MIN: u64 = 4 * MIB;
/// Files that whoever has the directory open holds locked: its own, and those of its engines, of which some of a store that was
/// just dropped go last.
const LOCKS: [&str; 4] = ["lock", "segments/lock", "log/db", "sm/db"];

/// Reads a whole data directory, as a start would, and checks every record, entry and snapshot. The node must not run. Nothing
/// in the directory changes: what is opened is a copy, in the directory for temporary files (`TMPDIR`). Needs a runtime around
/// it, and blocks.
///
/// # Errors
/// [`OpenError`] names what is wrong, and where in the directory itself.
pub async fn verify_directory(path: &Path) -> Result<Summary, OpenError> {
    verify_beside(path, &std::env::temp_dir()).await
}

async fn verify_beside(path: &Path, temporary: &Path) -> Result<Summary, OpenError> {
    // Held until it is done: nothing is copied that somebody writes.
    let _locks = lock(path)?;
    let copy = Scratch::of(path, temporary)?;
    let looked = look(copy.path()).await;
    looked.map_err(|error| {
        if free(temporary).is_some_and(|free| free < LEFT_BYTES_MIN) {
            return no_copy(temporary, io::ErrorKind::StorageFull.into());
        }
        renamed(error, copy.path(), path)
    })
}

async fn look(path: &Path) -> Result<Summary, OpenError> {
    let failed = |source: EngineError| OpenError::Storage { path: path.to_owned(), source };
    let disk = Disk::as_it_is(path)?;
    let identity = Identity::open(Arc::clone(&disk.log), path, None).await?;
    let log = Log::open(Arc::clone(&disk.log), Fault::new()).map_err(failed)?;
    let (_, loaded) = Mirror::load(Arc::clone(&disk.state), &disk.depot).map_err(failed)?;
    log.check_against(loaded.head.applied, loaded.log_synced).map_err(failed)?;
    let entries = log.check_all().map_err(failed)?;
    let (applied, last) = (loaded.head.applied, disk.log.last().map_err(failed)?);
    let mut summary = Summary::of(&loaded.fleet, 0, entries);
    summary.log_ahead = last.map_or(0, |(last, _)| last.saturating_sub(applied.map_or(0, |applied| applied.index)));
    summary.cluster = identity.cluster().unwrap_or_default();
    Ok(summary)
}

/// Nobody has the directory open, and nobody opens it as long as the answer is kept. Shared, so that a file that may only be
/// read can be locked as well.
fn lock(path: &Path) -> Result<Vec<File>, OpenError> {
    let unusable = |source: io::Error| OpenError::Directory { path: path.to_owned(), source };
    let mut locked = Vec::new();
    for name in LOCKS {
        match File::open(path.join(name)) {
            Ok(file) => match file.try_lock_shared() {
                Ok(()) => locked.push(file),
                Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { path: path.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(unusable(source)),
            },
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(error)),
            // A node makes it before anything else.
            Err(_) if locked.is_empty() => {
                return Err(unusable(io::Error::new(io::ErrorKind::NotFound, "it holds no store")));
            }
            Err(_) => {}
        }
    }
    Ok(locked)
}

/// Bytes that are free there; none where that is not known.
fn free(directory: &Path) -> Option<u64> {
    rustix::fs::statvfs(directory).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn no_copy(temporary: &Path, source: io::Error) -> OpenError {
    OpenError::Copy { path: temporary.to_owned(), source }
}

/// What a node keeps in its directory. What else lies there is nobody's business here.
#[derive(Debug, Default)]
struct Contents {
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
    bytes: u64,
}

impl Contents {
    fn of(path: &Path) -> Result<Self, OpenError> {
        let mut contents = Self::default();
        for part in log_places().chain(["sm".to_owned(), "snapshot".to_owned()]) {
            let part = PathBuf::from(part);
            match fs::metadata(path.join(&part)) {
                Ok(found) if found.is_dir() => {
                    let listed = contents.list(path, part.clone());
                    listed.map_err(|error| unreadable(path, &part, &error))?;
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(path, &part, &error)),
            }
        }
        Ok(contents)
    }

    fn list(&mut self, root: &Path, directory: PathBuf) -> io::Result<()> {
        for entry in fs::read_dir(root.join(&directory))? {
            let entry = entry?;
            let (name, kind) = (directory.join(entry.file_name()), entry.file_type()?);
            if kind.is_dir() {
                self.list(root, name)?;
            } else if kind.is_file() {
                self.bytes += entry.metadata()?.len();
                self.files.push(name);
            }
        }
        self.directories.push(directory);
        Ok(())
    }
}

/// The part of the directory is named, as what becomes of a damaged one depends on it.
fn unreadable(path: &Path, file: &Path, error: &io::Error) -> OpenError {
    let part = file.components().next().map_or_else(|| path.to_owned(), |part| path.join(part));
    let reason = format!("{}: {error}", file.display());
    OpenError::Storage { path: part, source: EngineError::Io { operation: "reading", reason } }
}

/// The copy. It goes with the value.
struct Scratch(TempDir);

impl Scratch {
    fn of(path: &Path, temporary: &Path) -> Result<Self, OpenError> {
        let failed = |error| no_copy(temporary, error);
        let contents = Contents::of(path)?;
        let needed = contents.bytes.saturating_add(SPARE_BYTES);
        if let Some(free) = free(temporary).filter(|free| *free < needed) {
            let (needed, free) = (needed.div_ceil(MIB), free / MIB);
            let reason = format!("it takes {needed} MiB, and {free} MiB are free");
            return Err(failed(io::Error::new(io::ErrorKind::StorageFull, reason)));
        }
        let copy = Self(tempfile::Builder::new().prefix("cellway-verify-").tempdir_in(temporary).map_err(failed)?);
        for directory in &contents.directories {
            fs::create_dir_all(copy.path().join(directory)).map_err(failed)?;
        }
        for file in &contents.files {
            let mut from = File::open(path.join(file)).map_err(|error| unreadable(path, file, &error))?;
            let mut to = File::create_new(copy.path().join(file)).map_err(failed)?;
            // Which of both has failed the kernel does not say: the one that is looked at is looked at for a reason.
            io::copy(&mut from, &mut to).map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => failed(error),
                _ => unreadable(path, file, &error),
            })?;
        }
        Ok(copy)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    /// sled's threads may write a last file behind whoever removes them.
    fn drop(&mut self) {
        const TRIES: u32 = 50;
        const PAUSE: Duration = Duration::from_millis(20);
        for _ in 0..TRIES {
            match fs::remove_dir_all(self.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => std::thread::sleep(PAUSE),
                _ => return,
            }
        }
        tracing::warn!(path = %self.path().display(), "a copy that was looked at could not be removed");
    }
}

/// What is wrong with the copy is wrong with what it was made of.
fn renamed(error: OpenError, copy: &Path, path: &Path) -> OpenError {
    let there = |at: PathBuf| match at.strip_prefix(copy) {
        Ok(rest) if rest.as_os_str().is_empty() => path.to_owned(),
        Ok(rest) => path.join(rest),
        Err(_) => at,
    };
    match error {
        OpenError::Directory { path, source } => OpenError::Directory { path: there(path), source },
        OpenError::Full { path, source } => OpenError::Full { path: there(path), source },
        OpenError::Locked { path } => OpenError::Locked { path: there(path) },
        OpenError::Format { path, found, expected } => OpenError::Format { path: there(path), found, expected },
        OpenError::Storage { path, source } => OpenError::Storage { path: there(path), source },
        other @ (OpenError::InvalidOption { .. }
        | OpenError::Copy { .. }
        | OpenError::Elsewhere { .. }
        | OpenError::Raft { .. }) => other,
    }
}

#[cfg(test)]
mod tests {
    use cell_model::ClusterId;

    use super::*;
    use crate::engine::LogKind;

    /// A directory of a node that has said no more than which cluster it is of.
    async fn claimed() -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let disk = Disk::directory(&path, LogKind::default()).unwrap();
        let identity = Identity::open(Arc::clone(&disk.log), &path, None).await.unwrap();
        identity.claim(ClusterId(7)).await.unwrap();
        (directory, path)
    }

    /// Once whoever was there has let go of it.
    async fn verified(path: &Path, temporary: &Path) -> Result<Summary, OpenError> {
        for _ in 0..500 {
            match verify_beside(path, temporary).await {
                Err(OpenError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                verified => return verified,
            }
        }
        panic!("{} stays locked", path.display())
    }

    fn is_empty(directory: &Path) -> bool {
        fs::read_dir(directory).unwrap().next().is_none()
    }

    #[tokio::test]
    async fn the_copy_goes_whatever_was_found() {
        let (_directory, path) = claimed().await;
        let temporary = tempfile::tempdir().unwrap();
        assert_eq!(verified(&path, temporary.path()).await.unwrap().cluster, ClusterId(7));
        assert!(is_empty(temporary.path()));
        // Its cluster is in the first segment.
        let segment = path.join("segments/0000000000000001.log");
        let mut bytes = fs::read(&segment).unwrap();
        bytes[40] ^= 1;
        fs::write(&segment, bytes).unwrap();
        let refused = verified(&path, temporary.path()).await.expect_err("a byte is flipped");
        assert_eq!(refused.code(), "STORE_CORRUPT", "{refused:?}");
        assert!(is_empty(temporary.path()));
        let told = format!("{refused:?} {}", refused.hint());
        assert!(told.contains(path.to_str().unwrap()) && !told.contains("cellway-verify"), "{told}");
    }

    #[tokio::test]
    async fn where_no_copy_can_be_made_that_is_said_and_no_damage() {
        let (_directory, path) = claimed().await;
        let nowhere = path.join("nowhere");
        let refused = verified(&path, &nowhere).await.expect_err("there is no such directory");
        assert_eq!(refused.code(), "NO_COPY", "{refused:?}");
        assert!(refused.hint().contains("TMPDIR"), "{}", refused.hint());
    }

    #[test]
    fn what_is_wrong_with_the_copy_is_told_of_the_directory() {
        let of = |at: &str| OpenError::Locked { path: at.into() };
        for (at, told) in [("/tmp/copy", "/data"), ("/tmp/copy/sm", "/data/sm"), ("/elsewhere", "/elsewhere")] {
            let renamed = renamed(of(at), Path::new("/tmp/copy"), Path::new("/data"));
            assert_eq!(renamed.to_string(), of(told).to_string());
        }
    }

    #[test]
    fn only_what_a_node_keeps_is_copied_and_empty_directories_are() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["segments", "log.retired", "sm/blobs", "lost+found"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["lock", "segments/1.log", "sm/db", "lost+found/1", "notes.txt"] {
            fs::write(at(name), "1234").unwrap();
        }
        let mut contents = Contents::of(directory.path()).unwrap();
        contents.files.sort();
        contents.directories.sort();
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(contents.files, paths(&["segments/1.log", "sm/db"]));
        assert_eq!(contents.directories, paths(&["log.retired", "segments", "sm", "sm/blobs"]));
        assert_eq!(contents.bytes, 8);
    }
}
