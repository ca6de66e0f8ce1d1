//! One record of the log file.
//!
//! ```text
//! "CWR" kind | length | crc32c | synced: offset | index | synced: segment | payload | zeroes up to 8 bytes
//! 3     1      4        4        4                8       8                 length
//! ```
//!
//! The checksum begins with the number of the segment, so that what an earlier use of the same file has left there is no
//! record of it. `synced` says how far the log was surely on disk when the record was written: that is how a reader
//! tells an end that was torn off by a power cut from bytes that have rotted.

use crate::engine::segments::Position;

/// Length of what stands before the payload.
pub(super) const HEAD_BYTES: usize = 32;
const MAGIC: [u8; 3] = *b"CWR";
const ALIGNMENT: usize = 8;

/// What a record does to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first record of a segment; its payload is where the one before ends.
    Begin,
    /// A row at `index`.
    Row,
    /// A named value.
    Meta,
    /// Rows from `index` on are gone.
    Truncate,
    /// Rows up to and with `index` are gone.
    Purge,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::Begin => 1,
            Self::Row => 2,
            Self::Meta => 3,
            Self::Truncate => 4,
            Self::Purge => 5,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Begin),
            2 => Some(Self::Row),
            3 => Some(Self::Meta),
            4 => Some(Self::Truncate),
            5 => Some(Self::Purge),
            _ => None,
        }
    }
}

/// A record as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub kind: Kind,
    pub index: u64,
    pub synced: Position,
    pub payload: &'a [u8],
}

/// Bytes that a record with such a payload takes.
pub(super) const fn length(payload: usize) -> usize {
    (HEAD_BYTES + payload).next_multiple_of(ALIGNMENT)
}

/// Adds a record of segment `number` to `bytes`.
pub(super) fn write(bytes: &mut Vec<u8>, number: u64, record: &Record<'_>) {
    let from = bytes.len();
    let size = u32::try_from(record.payload.len()).expect("rows are bounded far below 4 GiB");
    bytes.extend_from_slice(&MAGIC);
    bytes.push(record.kind.byte());
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&record.synced.offset.to_le_bytes());
    bytes.extend_from_slice(&record.index.to_le_bytes());
    bytes.extend_from_slice(&record.synced.segment.to_le_bytes());
    bytes.extend_from_slice(record.payload);
    let checksum = checksum(number, &bytes[from..]);
    bytes[from + 8..from + 12].copy_from_slice(&checksum.to_le_bytes());
    bytes.resize(from + length(record.payload.len()), 0);
}

/// Of everything but itself and the zeroes at the end.
fn checksum(number: u64, record: &[u8]) -> u32 {
    let seed = crc32c::crc32c(&number.to_le_bytes());
    let head = crc32c::crc32c_append(seed, &record[..8]);
    crc32c::crc32c_append(head, &record[12..])
}

fn number_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the length was checked")
}

/// The record that begins at `at` in segment `number`, or what is wrong there.
pub(super) fn read(bytes: &[u8], number: u64, at: usize) -> Result<Record<'_>, &'static str> {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.len() < HEAD_BYTES || rest[..3] != MAGIC {
        return Err("no record begins there");
    }
    let size = usize::try_from(u32::from_le_bytes(number_at(rest, 4))).unwrap_or(usize::MAX);
    let Some(whole) = rest.get(..HEAD_BYTES.saturating_add(size)) else {
        return Err("the record there is longer than its segment");
    };
    if checksum(number, whole) != u32::from_le_bytes(number_at(whole, 8)) {
        return Err("the checksum of the record there does not fit");
    }
    let kind = Kind::of(whole[3]).ok_or("the kind of the record there is unknown")?;
    let offset = u32::from_le_bytes(number_at(whole, 12));
    let segment = u64::from_le_bytes(number_at(whole, 24));
    Ok(Record {
        kind,
        index: u64::from_le_bytes(number_at(whole, 16)),
        synced: Position { segment, offset },
        payload: &whole[HEAD_BYTES..],
    })
}

/// The farthest that a whole record at or after `from` says to have been synced.
pub(super) fn claimed(bytes: &[u8], number: u64, from: usize) -> Option<Position> {
    let mut farthest = None;
    for at in (from.next_multiple_of(ALIGNMENT)..bytes.len()).step_by(ALIGNMENT) {
        if let Ok(record) = read(bytes, number, at) {
            farthest = farthest.max(Some(record.synced));
        }
    }
    farthest
}

/// The payload of a named value.
pub(super) fn meta_payload(name: &str, value: &[u8]) -> Vec<u8> {
    let mut payload = vec![u8::try_from(name.len()).expect("names of values are short")];
    payload.extend_from_slice(name.as_bytes());
    payload.extend_from_slice(value);
    payload
}

/// Name and value of such a payload.
pub(super) fn meta_of(payload: &[u8]) -> Option<(String, Vec<u8>)> {
    let (length, rest) = payload.split_first()?;
    let (name, value) = rest.split_at_checked(usize::from(*length))?;
    Some((String::from_utf8(name.to_vec()).ok()?, value.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        let synced = Position { segment: 4, offset: 96 };
        write(&mut bytes, 5, &Record { kind: Kind::Row, index: 77, synced, payload: b"thirteen byte" });
        bytes
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_only_in_its_segment() {
        let bytes = sample();
        assert_eq!(bytes.len(), length(13));
        let record = read(&bytes, 5, 0).unwrap();
        assert_eq!((record.kind, record.index, record.payload), (Kind::Row, 77, &b"thirteen byte"[..]));
        assert_eq!(record.synced, Position { segment: 4, offset: 96 });
        assert!(read(&bytes, 6, 0).is_err(), "an earlier use of the file");
        assert_eq!((claimed(&bytes, 5, 0), claimed(&bytes, 5, 8)), (Some(record.synced), None));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_record_is_found() {
        let bytes = sample();
        let used = HEAD_BYTES + 13;
        for position in 0..used * 8 {
            let mut flipped = bytes.clone();
            flipped[position / 8] ^= 1 << (position % 8);
            assert!(read(&flipped, 5, 0).is_err(), "bit {position}");
        }
        for cut in 0..used {
            assert!(read(&bytes[..cut], 5, 0).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_named_value_is_read_as_it_was_written() {
        assert_eq!(meta_of(&meta_payload("vote", b"12")), Some(("vote".into(), b"12".to_vec())));
        assert_eq!(meta_of(&[9, b'a']), None);
        assert_eq!(meta_of(&[]), None);
    }
}
