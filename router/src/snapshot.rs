//! The table in a file, so that a router starts and serves with the control plane dead.
//!
//! ```text
//! "CELLRTBL" version:u32 │ block │ block │ …        block = length:u32 crc32c:u32 postcard bytes   (little endian)
//!                          head    at most 1,000 entries each, one of none, their number, the end of the file
//! ```
//! Entries are written as they are met in the table, which goes on changing: how many they were is known at their end. In
//! version 1 the head said it, and neither a block of none nor a number came. Version 3 has, behind the number, a block with the
//! cells that have no gate; it is written where there are such. All three are read.
//! Written beside, synced, renamed over the old one, and the directory synced: a crash leaves the old file or the new
//! one. A file that cannot be understood is set aside as `<name>.corrupt`, never believed and never deleted.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cell_model::{CellId, CellRecord, CellState, CellTraits, ClusterId, Generation, Lineage, Mapping, Revision};
use cell_trust::RoutedMapping;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::directory::{Cursor, Directory};
use crate::table::{Draft, Entry};

const MAGIC: [u8; 8] = *b"CELLRTBL";
const VERSION: u32 = 2;
/// The version with cells that have no gate.
const VERSION_UNGATED: u32 = 3;
/// The version whose head says how many entries follow.
const VERSION_COUNTED: u32 = 1;
const ENTRIES_PER_BLOCK: usize = 1_000;
const BLOCK_LENGTH_MAX: usize = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    cluster: ClusterId,
    lineage: Lineage,
    revision: Revision,
    written_at_ms: u64,
    /// In version 1 how many entries follow, else 0.
    tenants: u64,
    cells: Vec<StoredCell>,
}

/// What a router needs of a cell. What else its record says has no place in the file, whose layout is to stay.
#[derive(Debug, Serialize, Deserialize)]
struct StoredCell {
    id: CellId,
    state: CellState,
    gates: Vec<String>,
    agent: String,
    region: String,
    residency: String,
    generation: Generation,
    revision: Revision,
}

impl From<&CellRecord> for StoredCell {
    fn from(cell: &CellRecord) -> Self {
        let CellRecord { id, state, gates, agent, region, residency, traits: _, generation, revision } =
            cell.clone();
        Self { id, state, gates, agent, region, residency, generation, revision }
    }
}

impl From<StoredCell> for CellRecord {
    fn from(stored: StoredCell) -> Self {
        let StoredCell { id, state, gates, agent, region, residency, generation, revision } = stored;
        let traits = CellTraits::default();
        Self { id, state, gates, agent, region, residency, traits, generation, revision }
    }
}

#[derive(Debug, Serialize)]
struct StoredRef<'a> {
    mapping: &'a Mapping,
    gates: Vec<&'a str>,
    agent: &'a str,
}

#[derive(Debug, Deserialize)]
struct Stored {
    mapping: Mapping,
    gates: Vec<String>,
    agent: String,
}

/// Why there is no table in the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not what was written.
    #[error("{0}")]
    Corrupt(String),
}

/// What a file held.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) tenants: usize,
    pub(crate) at: Cursor,
    pub(crate) age: Duration,
}

/// Writes the table.
pub(crate) fn write(path: &Path, directory: &Directory, now: SystemTime) -> io::Result<()> {
    let Some((cluster, at)) = directory.cluster().zip(directory.cursor()) else { return Ok(()) };
    // Taken before the entries: what is installed meanwhile is newer, and the watch brings it again.
    let cells = directory.cells();
    let beside = with_suffix(path, "tmp");
    let mut file = BufWriter::new(File::create(&beside)?);
    file.write_all(&MAGIC)?;
    let ungated: Vec<&CellId> = cells.values().filter(|cell| cell.traits.ungated).map(|cell| &cell.id).collect();
    let version = if ungated.is_empty() { VERSION } else { VERSION_UNGATED };
    file.write_all(&version.to_le_bytes())?;
    let head = Head {
        cluster,
        lineage: at.lineage,
        revision: at.revision,
        written_at_ms: millis(now),
        tenants: 0,
        cells: cells.values().map(|cell| StoredCell::from(&**cell)).collect(),
    };
    write_block(&mut file, &head)?;
    let mut count = 0;
    directory.blocks(ENTRIES_PER_BLOCK, &mut |block| {
        count += block.len() as u64;
        write_block(&mut file, &block.iter().map(|entry| stored(entry)).collect::<Vec<_>>())
    })?;
    write_block(&mut file, &Vec::<StoredRef<'_>>::new())?;
    write_block(&mut file, &count)?;
    if !ungated.is_empty() {
        write_block(&mut file, &ungated)?;
    }
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    File::open(parent_of(path))?.sync_all()
}

/// Loads the table into an empty directory. None: there is no file.
pub(crate) fn load(path: &Path, directory: &Directory, now: SystemTime) -> Result<Option<Loaded>, SnapshotError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut file = BufReader::new(file);
    let mut magic = [0; 8];
    read_exact(&mut file, &mut magic)?;
    if magic != MAGIC {
        return Err(SnapshotError::Corrupt("it does not begin as a table does".into()));
    }
    let version = read_u32(&mut file)?;
    if ![VERSION, VERSION_UNGATED, VERSION_COUNTED].contains(&version) {
        let reason = format!("it has version {version}, and this router reads up to {VERSION_UNGATED}");
        return Err(SnapshotError::Corrupt(reason));
    }
    let head: Head = read_block(&mut file)?;
    let (mut draft, mut read) = (Draft::default(), 0);
    let counted = version == VERSION_COUNTED;
    while !counted || read < head.tenants {
        let block: Vec<Stored> = read_block(&mut file)?;
        if block.is_empty() && counted {
            return Err(SnapshotError::Corrupt("a block without entries".into()));
        }
        if block.is_empty() {
            break;
        }
        read += block.len() as u64;
        let entries = block.into_iter().map(|stored| entry_of(directory, head.cluster, stored));
        directory.add(&mut draft, &entries.collect::<Result<Vec<_>, _>>()?);
    }
    let written = if counted { head.tenants } else { read_block(&mut file)? };
    let ungated: Vec<CellId> = if version == VERSION_UNGATED { read_block(&mut file)? } else { Vec::new() };
    if read != written || file.read(&mut [0])? != 0 {
        return Err(SnapshotError::Corrupt("it does not end where its table does".into()));
    }
    let at = Cursor { lineage: head.lineage, revision: head.revision };
    let tenants = draft.count();
    let cells = head.cells.into_iter().map(|stored| {
        let mut cell = CellRecord::from(stored);
        cell.traits.ungated = ungated.contains(&cell.id);
        cell
    });
    directory.replace(draft, cells.collect(), at);
    let age = Duration::from_millis(millis(now).saturating_sub(head.written_at_ms));
    Ok(Some(Loaded { tenants, at, age }))
}

/// Puts a file that cannot be understood out of the way. Answers where it is now.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = with_suffix(path, "corrupt");
    std::fs::rename(path, &aside)?;
    Ok(aside)
}

fn entry_of(directory: &Directory, cluster: ClusterId, stored: Stored) -> Result<Arc<Entry>, SnapshotError> {
    let routed =
        RoutedMapping { cluster, mapping: stored.mapping, owner_gates: stored.gates, owner_agent: stored.agent };
    directory.entry(routed).map_err(|_| SnapshotError::Corrupt("it is of another cluster".into()))
}

fn stored(entry: &Entry) -> StoredRef<'_> {
    StoredRef {
        mapping: &entry.mapping,
        gates: entry.endpoints.gates.addresses().map(|gate| &**gate).collect(),
        agent: &entry.endpoints.agent,
    }
}

fn write_block(file: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let bytes = postcard::to_stdvec(value).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len())
        .ok()
        .filter(|_| bytes.len() <= BLOCK_LENGTH_MAX)
        .ok_or_else(|| io::Error::other("a block of the table is too long"))?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(&crc32c::crc32c(&bytes).to_le_bytes())?;
    file.write_all(&bytes)
}

fn read_block<T: DeserializeOwned>(file: &mut impl Read) -> Result<T, SnapshotError> {
    let length = read_u32(file)? as usize;
    if length > BLOCK_LENGTH_MAX {
        return Err(SnapshotError::Corrupt(format!("a block of {length} bytes")));
    }
    let checksum = read_u32(file)?;
    // Grows with what is really there, not with what a damaged length promises.
    let mut bytes = Vec::new();
    file.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(SnapshotError::Corrupt("it is cut off".into()));
    }
    if crc32c::crc32c(&bytes) != checksum {
        return Err(SnapshotError::Corrupt("a checksum does not fit".into()));
    }
    match postcard::take_from_bytes(&bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(SnapshotError::Corrupt("a block holds more than it should".into())),
        Err(error) => Err(SnapshotError::Corrupt(format!("a block cannot be decoded: {error}"))),
    }
}

fn read_u32(file: &mut impl Read) -> Result<u32, SnapshotError> {
    let mut bytes = [0; 4];
    read_exact(file, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read_exact(file: &mut impl Read, bytes: &mut [u8]) -> Result<(), SnapshotError> {
    file.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Corrupt("it is cut off".into()),
        _ => error.into(),
    })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
