//! The layout: `magic`, then blocks of `length | sealed block`: one header, records, answers, audit entries, one footer.

use std::io::{self, Read, Write};

use cell_model::{AuditEntry, Change, Fleet, FleetHead, FleetImage, Trail};
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::error::EngineError;
use crate::wire::{WireAnswer, WireHead, WireSnapshotMeta};

const MAGIC: &[u8; 8] = b"CELLSNP1";
/// A block is ended when it has this many records,
const BLOCK_RECORDS: usize = 256;
/// and refused when it says that it is longer than this.
const BLOCK_BYTES_MAX: u32 = 64 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
enum Block {
    Header(WireHead),
    Records(Vec<Change>),
    Answers(Vec<WireAnswer>),
    Footer { records: u64, answers: u64, digest: [u8; 32] },
    Audit(Vec<AuditEntry>),
}

/// What a snapshot says.
#[derive(Debug)]
pub(crate) struct Contents {
    pub head: WireHead,
    pub fleet: Fleet,
}

/// Writes `fleet` as of `head`.
pub(crate) fn write(out: &mut impl Write, head: &WireHead, fleet: &FleetImage) -> io::Result<()> {
    let mut hashing = Hashing { inner: out, hasher: blake3::Hasher::new() };
    hashing.write_all(MAGIC)?;
    write_block(&mut hashing, &Block::Header(head.clone()))?;
    let mut records = 0;
    let mut block = Vec::with_capacity(BLOCK_RECORDS);
    for record in fleet.records() {
        records += 1;
        block.push(record);
        if block.len() == BLOCK_RECORDS {
            write_block(&mut hashing, &Block::Records(std::mem::take(&mut block)))?;
        }
    }
    if !block.is_empty() {
        write_block(&mut hashing, &Block::Records(block))?;
    }
    let mut answers = 0;
    let mut block = Vec::with_capacity(BLOCK_RECORDS);
    for answered in &fleet.head.answered {
        block.push(WireAnswer::of(answers, answered));
        answers += 1;
        if block.len() == BLOCK_RECORDS {
            write_block(&mut hashing, &Block::Answers(std::mem::take(&mut block)))?;
        }
    }
    if !block.is_empty() {
        write_block(&mut hashing, &Block::Answers(block))?;
    }
    let mut block = Vec::with_capacity(BLOCK_RECORDS);
    for entry in fleet.audit().after(0) {
        block.push(AuditEntry::clone(entry));
        if block.len() == BLOCK_RECORDS {
            write_block(&mut hashing, &Block::Audit(std::mem::take(&mut block)))?;
        }
    }
    if !block.is_empty() {
        write_block(&mut hashing, &Block::Audit(block))?;
    }
    let digest = *hashing.hasher.finalize().as_bytes();
    write_block(out, &Block::Footer { records, answers, digest })
}

fn write_block(out: &mut impl Write, block: &Block) -> io::Result<()> {
    // The header is read first.
    let sealed = if let Block::Header(_) = block { codec::seal_first(block) } else { codec::seal(block) };
    let length = u32::try_from(sealed.len()).ok().filter(|length| *length <= BLOCK_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("a block of the snapshot is too large"))?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&sealed)
}

/// Reads only what a snapshot covers.
pub(crate) fn read_meta(input: &mut impl Read) -> Result<WireSnapshotMeta, EngineError> {
    let mut input = Hashing { inner: input, hasher: blake3::Hasher::new() };
    let head = read_header(&mut input)?;
    Ok(WireSnapshotMeta { last: head.applied, membership: head.membership })
}

/// Reads and checks a whole snapshot.
pub(crate) fn read(input: &mut impl Read) -> Result<Contents, EngineError> {
    let mut input = Hashing { inner: input, hasher: blake3::Hasher::new() };
    let head = read_header(&mut input)?;
    let mut fleet_head = FleetHead {
        cluster: head.cluster,
        lineage: head.lineage,
        revision: head.revision,
        limits: head.limits,
        limits_revision: head.limits_revision,
        unreconciled: false,
        answered: Trail::default(),
        aging: head.aging,
        forgotten: head.forgotten,
    };
    let (mut records, mut trail) = (Vec::new(), Vec::new());
    loop {
        let before = *input.hasher.finalize().as_bytes();
        match read_block(&mut input)? {
            Block::Records(block) => records.extend(block),
            Block::Answers(block) => {
                fleet_head.answered.extend(block.into_iter().map(WireAnswer::into_answered));
            }
            Block::Audit(block) => trail.extend(block),
            Block::Header(_) => return Err(corrupt("it has a second header")),
            Block::Footer { records: records_said, answers, digest } => {
                if digest != before {
                    return Err(corrupt("its digest does not fit"));
                }
                if records_said != records.len() as u64 || answers != fleet_head.answered.len() as u64 {
                    return Err(corrupt("a block is missing"));
                }
                break;
            }
        }
    }
    if input.read(&mut [0]).map_err(unreadable)? != 0 {
        return Err(corrupt("something follows its end"));
    }
    let mut fleet = Fleet::from_head(fleet_head);
    for record in records {
        fleet.install(record);
    }
    for entry in trail {
        fleet.restore_audit(entry).map_err(|broken| corrupt(&broken.to_string()))?;
    }
    Ok(Contents { head, fleet })
}

fn read_header(input: &mut impl Read) -> Result<WireHead, EngineError> {
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic).map_err(unreadable)?;
    if &magic != MAGIC {
        return Err(corrupt("it does not begin as a snapshot does"));
    }
    let sealed = read_sealed(input)?;
    match codec::open_first(&sealed, || "snapshot".into())? {
        Block::Header(head) => Ok(head),
        Block::Records(_) | Block::Answers(_) | Block::Audit(_) | Block::Footer { .. } => {
            Err(corrupt("it has no header"))
        }
    }
}

fn read_block(input: &mut impl Read) -> Result<Block, EngineError> {
    codec::open(&read_sealed(input)?, || "snapshot".into())
}

fn read_sealed(input: &mut impl Read) -> Result<Vec<u8>, EngineError> {
    let mut length = [0; 4];
    input.read_exact(&mut length).map_err(unreadable)?;
    let length = u32::from_le_bytes(length);
    if length > BLOCK_BYTES_MAX {
        return Err(corrupt("the length of a block is impossible"));
    }
    let mut sealed = Vec::new();
    input.take(u64::from(length)).read_to_end(&mut sealed).map_err(unreadable)?;
    if sealed.len() as u64 != u64::from(length) {
        return Err(corrupt("it is cut off"));
    }
    Ok(sealed)
}

fn corrupt(detail: &str) -> EngineError {
    EngineError::Corrupt { what: "snapshot".into(), detail: detail.into() }
}

fn unreadable(error: io::Error) -> EngineError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => corrupt("it is cut off"),
        _ => EngineError::Io { operation: "reading a snapshot", reason: error.to_string() },
    }
}

/// Passes bytes on and hashes them.
struct Hashing<'a, T> {
    inner: &'a mut T,
    hasher: blake3::Hasher,
}

impl<T: Write> Write for Hashing<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<'_, T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cell_model::{CellId, CellRecord, CellState, ClusterId, Generation, Lineage, Revision};

    use super::*;

    fn sample() -> (WireHead, Fleet) {
        let mut fleet = Fleet::new(ClusterId(7), Lineage(1));
        for number in 0..1_000_u64 {
            fleet.install(Change::Cell(Arc::new(CellRecord {
                id: CellId::new(format!("c{number}")).unwrap(),
                state: CellState::Active,
                gates: vec!["127.0.0.1:1".into()],
                agent: "127.0.0.1:2".into(),
                region: String::new(),
                residency: "eu".into(),
                traits: cell_model::CellTraits::default(),
                generation: Generation(number),
                revision: Revision(number),
            })));
        }
        let head = WireHead { cluster: ClusterId(7), lineage: Lineage(1), ..WireHead::default() };
        (head, fleet)
    }

    #[test]
    fn a_snapshot_reads_back_what_was_written() {
        let (head, fleet) = sample();
        let mut bytes = Vec::new();
        write(&mut bytes, &head, &fleet.image()).unwrap();
        let contents = read(&mut bytes.as_slice()).unwrap();
        assert_eq!(contents.fleet, fleet);
        assert_eq!(contents.head, head);
    }

    #[test]
    fn a_flipped_or_missing_byte_of_a_snapshot_is_refused_wherever_it_is() {
        let (head, fleet) = sample();
        let mut bytes = Vec::new();
        write(&mut bytes, &head, &fleet.image()).unwrap();
        for position in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
            let mut flipped = bytes.clone();
            flipped[position] ^= 0x10;
            read(&mut flipped.as_slice()).expect_err("flipped");
            read(&mut &bytes[..position]).expect_err("cut");
        }
        bytes.push(0);
        read(&mut bytes.as_slice()).expect_err("grown");
    }
}
