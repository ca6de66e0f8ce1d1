//! Where a node keeps its current snapshot, and where one that arrives is put together.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cell_model::FleetImage;

use super::format;
use crate::engine::sync_directory;
use crate::error::EngineError;
use crate::steady::Steady;
use crate::wire::WireHead;

const CURRENT: &str = "current.snapshot";
/// Bytes that are handed to the kernel at once.
const WRITE_BYTES: usize = 64 * 1024;

/// A readable snapshot. It stays readable when another one becomes the current one.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotData(Source);

#[derive(Debug, Clone)]
enum Source {
    Memory(Bytes),
    File { file: Arc<File>, path: PathBuf, _temporary: Option<Arc<Temporary>> },
}

impl SnapshotData {
    /// Whether reading it waits for a disk.
    pub(crate) const fn blocks(&self) -> bool {
        matches!(self.0, Source::File { .. })
    }

    /// Its length in bytes.
    pub(crate) fn length(&self) -> io::Result<u64> {
        match &self.0 {
            Source::Memory(bytes) => Ok(bytes.len() as u64),
            Source::File { file, .. } => Ok(file.metadata()?.len()),
        }
    }

    /// A reader of its own from the beginning.
    pub(crate) fn reader(&self) -> impl Read + Send + use<> {
        self.reader_from(0)
    }

    /// A reader of its own from a byte on.
    pub(crate) fn reader_from(&self, offset: u64) -> impl Read + Send + use<> {
        BufReader::with_capacity(128 * 1024, Cursor { source: self.0.clone(), offset })
    }
}

struct Cursor {
    source: Source,
    offset: u64,
}

impl Read for Cursor {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = match &self.source {
            Source::Memory(bytes) => {
                let begin = usize::try_from(self.offset).unwrap_or(usize::MAX).min(bytes.len());
                (&bytes[begin..]).read(into)?
            }
            Source::File { file, .. } => file.read_at(into, self.offset)?,
        };
        self.offset += count as u64;
        Ok(count)
    }
}

/// Where snapshots are.
#[derive(Debug, Clone)]
pub(crate) enum Depot {
    /// Nothing survives the process, but everything survives the node: clones share it.
    Memory(Arc<Mutex<Option<Bytes>>>),
    /// In a directory of their own.
    Directory(PathBuf),
}

/// A snapshot being written. Dropping it removes it.
#[derive(Debug)]
pub(crate) enum Incoming {
    Memory(Vec<u8>),
    File { writer: BufWriter<Steady<File>>, temporary: Temporary },
}

/// A name that goes when nobody holds it any more. A snapshot that was put in place has another name by then.
#[derive(Debug)]
pub(crate) struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "an unfinished snapshot could not be removed");
            }
            _ => {}
        }
    }
}

fn failed(operation: &'static str) -> impl Fn(io::Error) -> EngineError {
    move |error| EngineError::Io { operation, reason: error.to_string() }
}

impl Depot {
    /// Makes the directory and removes what a crash has left half-written.
    pub(crate) fn open_directory(path: &Path) -> Result<Self, EngineError> {
        fs::create_dir_all(path).map_err(failed("making the snapshot directory"))?;
        for entry in fs::read_dir(path).map_err(failed("reading the snapshot directory"))? {
            let entry = entry.map_err(failed("reading the snapshot directory"))?;
            if entry.file_name() != CURRENT {
                fs::remove_file(entry.path()).map_err(failed("removing an unfinished snapshot"))?;
            }
        }
        sync_directory(path)?;
        Ok(Self::Directory(path.to_owned()))
    }

    /// Whether reading and writing here waits for a disk.
    pub(crate) const fn blocks(&self) -> bool {
        matches!(self, Self::Directory(_))
    }

    /// The current snapshot.
    pub(crate) fn current(&self) -> Result<Option<SnapshotData>, EngineError> {
        match self {
            Self::Memory(current) => {
                let bytes = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
                Ok(bytes.map(|bytes| SnapshotData(Source::Memory(bytes))))
            }
            Self::Directory(directory) => {
                let path = directory.join(CURRENT);
                match File::open(&path) {
                    Ok(file) => {
                        Ok(Some(SnapshotData(Source::File { file: Arc::new(file), path, _temporary: None })))
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(failed("opening the snapshot")(error)),
                }
            }
        }
    }

    /// Begins a new one.
    pub(crate) fn begin(&self) -> Result<Incoming, EngineError> {
        match self {
            Self::Memory(_) => Ok(Incoming::Memory(Vec::new())),
            Self::Directory(directory) => {
                let number = getrandom::u64()
                    .map_err(|error| failed("naming a snapshot")(io::Error::other(error.to_string())))?;
                let path = directory.join(format!("{number:016x}.part"));
                let file = File::create_new(&path).map_err(failed("making a snapshot"))?;
                let writer = BufWriter::with_capacity(WRITE_BYTES, Steady::new(file));
                Ok(Incoming::File { writer, temporary: Temporary(path) })
            }
        }
    }

    /// Writes a state. It is on the disk then, under a name of its own that [`Self::adopt`] changes.
    pub(crate) fn write(&self, head: &WireHead, fleet: &FleetImage) -> Result<SnapshotData, EngineError> {
        let mut incoming = self.begin()?;
        format::write(&mut incoming, head, fleet).map_err(failed("writing a snapshot"))?;
        incoming.finish()
    }

    /// Makes a finished snapshot the current one, durably. A crash leaves the one before or this one.
    pub(crate) fn adopt(&self, snapshot: &SnapshotData) -> Result<(), EngineError> {
        match (self, &snapshot.0) {
            (Self::Memory(current), Source::Memory(bytes)) => {
                *current.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes.clone());
                Ok(())
            }
            (Self::Directory(directory), Source::File { path, .. }) => {
                let current = directory.join(CURRENT);
                if *path == current {
                    return Ok(());
                }
                fs::rename(path, &current).map_err(failed("putting a snapshot in place"))?;
                sync_directory(directory)
            }
            (Self::Memory(_), Source::File { .. }) | (Self::Directory(_), Source::Memory(_)) => {
                Err(failed("putting a snapshot in place")(io::Error::other("it is of another depot")))
            }
        }
    }
}

impl Incoming {
    /// Ends the writing: what is there is on disk, under a name of its own that [`Depot::adopt`] changes.
    pub(crate) fn finish(self) -> Result<SnapshotData, EngineError> {
        match self {
            Self::Memory(bytes) => Ok(SnapshotData(Source::Memory(bytes.into()))),
            Self::File { mut writer, temporary } => {
                writer.flush().map_err(failed("writing a snapshot"))?;
                writer.get_ref().get_ref().sync_all().map_err(failed("syncing a snapshot"))?;
                let path = temporary.0.clone();
                let file = Arc::new(File::open(&path).map_err(failed("opening a snapshot"))?);
                Ok(SnapshotData(Source::File { file, path, _temporary: Some(Arc::new(temporary)) }))
            }
        }
    }
}

impl Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Memory(buffer) => buffer.write(bytes),
            Self::File { writer, .. } => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::File { writer, .. } => writer.flush(),
        }
    }
}
