//! One segment: a file that has its full length, filled with zeroes and synced, before the first record goes into it.
//!
//! So a sync of a record is one write of data and nothing else: the file system has no length and no block to note.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::EngineError;

const ENDING: &str = ".log";
/// Zeroes that are written at once.
const FILL_BYTES: usize = 256 * 1024;

/// A file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub number: u64,
    pub capacity: u32,
    file: File,
}

/// Names what the operating system refused.
pub(super) fn failed(operation: &'static str) -> impl Fn(io::Error) -> EngineError {
    move |error| EngineError::Io { operation, reason: error.to_string() }
}

/// The name of a segment, as errors say it.
pub(super) fn name(number: u64) -> String {
    format!("{number:016x}{ENDING}")
}

/// Makes the names in the directory durable. Its own name has been since the log was opened.
fn sync_names(directory: &Path) -> Result<(), EngineError> {
    File::open(directory).and_then(|names| names.sync_all()).map_err(failed("syncing the directory of the log"))
}

/// Removes what was never finished.
pub(super) fn tidy(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// The numbers of the segments in a directory, in their order.
pub(super) fn list(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some(number) = name.strip_suffix(ENDING) {
            let number = u64::from_str_radix(number, 16);
            found.push((number.map_err(|error| io::Error::other(format!("{name}: {error}")))?, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

impl Segment {
    /// Makes an empty segment. When it returns, the file with its name and its length is on disk.
    pub(super) fn make(directory: &Path, number: u64, capacity: u32) -> Result<Self, EngineError> {
        let path = directory.join(name(number));
        let unfinished = path.with_extension("new");
        let filled = || {
            let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&unfinished)?;
            let zeroes = vec![0; FILL_BYTES];
            let mut left = usize::try_from(capacity).unwrap_or(usize::MAX);
            while left > 0 {
                let piece = left.min(FILL_BYTES);
                file.write_all(&zeroes[..piece])?;
                left -= piece;
            }
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            Ok(file)
        };
        let file = filled().map_err(failed("making a segment of the log"))?;
        sync_names(directory)?;
        Ok(Self { number, capacity, file })
    }

    /// Opens one that is there.
    pub(super) fn open(path: &Path, number: u64) -> Result<Self, EngineError> {
        let opened = || {
            let file = File::options().read(true).write(true).open(path)?;
            let length = u32::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
            Ok((file, length))
        };
        let (file, capacity) = opened().map_err(failed("opening a segment of the log"))?;
        Ok(Self { number, capacity, file })
    }

    /// Gives the file of segment `before` a new number. Its records are none of the new segment.
    pub(super) fn reuse(directory: &Path, before: u64, number: u64) -> Result<Self, EngineError> {
        let path = directory.join(name(number));
        fs::rename(directory.join(name(before)), &path).map_err(failed("naming a segment of the log"))?;
        sync_names(directory)?;
        Self::open(&path, number)
    }

    /// Removes the file of a segment, durably.
    pub(super) fn remove(directory: &Path, number: u64) -> Result<(), EngineError> {
        fs::remove_file(directory.join(name(number))).map_err(failed("removing a segment of the log"))?;
        sync_names(directory)
    }

    pub(super) fn write(&self, bytes: &[u8], at: u32) -> Result<(), EngineError> {
        self.file.write_all_at(bytes, u64::from(at)).map_err(failed("writing the log"))
    }

    pub(super) fn read(&self, bytes: &mut [u8], at: u32) -> Result<(), EngineError> {
        self.file.read_exact_at(bytes, u64::from(at)).map_err(failed("reading the log"))
    }

    /// Makes what was written durable. The length never changes, so the data is all that there is.
    pub(super) fn sync(&self) -> Result<(), EngineError> {
        self.file.sync_data().map_err(failed("syncing"))
    }

    /// Overwrites everything from `at` on with zeroes, durably.
    pub(super) fn clear_from(&self, at: u32) -> Result<(), EngineError> {
        self.write(&vec![0; usize::try_from(self.capacity.saturating_sub(at)).unwrap_or(0)], at)?;
        self.sync()
    }
}
