//! How far a log was synced, kept beside it: what tells a log that lost its end from one that never had it.
//!
//! Both engines on disk keep one. In that of the segments a place is noted, which never goes back. sled ends its recovery at the first page whose checksum does not fit, and what came after is gone without a word.
//! For a page that was torn by a power cut that is right; for one that has rotted it would take back votes and
//! entries that were acknowledged, and a cluster could commit twice in one place. So after each sync the log notes the
//! last index and how often its named values were written. That note is not synced: after a power cut it may be older
//! than the log, never newer, and then it only asks for less. Only before rows are removed it is lowered and synced.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::error::EngineError;

/// What must still be there, on sled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The last row; 0 where there need be none.
    pub last_index: u64,
    /// Writes of named values.
    pub meta_writes: u64,
}

/// The file of the note.
#[derive(Debug)]
pub(super) struct Watermark(File);

/// The note is shorter; a fixed length keeps it within one sector.
const LENGTH: usize = 64;

fn failed(operation: &'static str) -> impl Fn(std::io::Error) -> EngineError {
    move |error| EngineError::Io { operation, reason: error.to_string() }
}

impl Watermark {
    /// Opens the note and reads it; the default where there is none.
    pub(super) fn open<M: DeserializeOwned + Default>(path: &Path) -> Result<(Self, M), EngineError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(failed("opening the watermark"))?;
        let mut bytes = [0; LENGTH];
        let mark = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {
                let length = usize::from(bytes[0]).min(LENGTH - 1);
                codec::open_first(&bytes[1..=length], || "the watermark of the log".into())?
            }
            // New, or cut off by a power cut before it ever was on disk.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => M::default(),
            Err(error) => return Err(failed("reading the watermark")(error)),
        };
        Ok((Self(file), mark))
    }

    /// Writes the note.
    pub(super) fn put(&self, mark: &impl Serialize) -> Result<(), EngineError> {
        let sealed = codec::seal_first(mark);
        let mut bytes = [0; LENGTH];
        bytes[0] = u8::try_from(sealed.len()).unwrap_or(u8::MAX);
        bytes[1..=sealed.len()].copy_from_slice(&sealed);
        self.0.write_all_at(&bytes, 0).map_err(failed("writing the watermark"))
    }

    /// Makes the note durable.
    pub(super) fn sync(&self) -> Result<(), EngineError> {
        self.0.sync_data().map_err(failed("syncing the watermark"))
    }
}

impl Mark {
    /// Refuses a log that has less than this.
    pub(super) fn check(self, found: Self) -> Result<(), EngineError> {
        let missing = |what: &str| {
            Err(EngineError::Corrupt { what: "the log".into(), detail: format!("{what} were synced and are gone") })
        };
        if found.last_index < self.last_index {
            return missing(&format!("entries {} to {}", found.last_index + 1, self.last_index));
        }
        if found.meta_writes < self.meta_writes {
            return missing("the newest vote or claim");
        }
        Ok(())
    }
}
