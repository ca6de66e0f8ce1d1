//! How a value is written, on disk and between nodes: `version | crc32c | postcard`. The checksum is of what follows it and,
//! from layout 5, of the version, too: one bit lies between 5 and 4. Only what is read first of a directory or a file has one without the
//! version, as every version takes it: so an earlier one finds another layout there, and no damage.
//!
//! A flipped bit is found and named when the value is read; it is never served. The version belongs to the layout of
//! our own structs, so that an upgrade of a library cannot change what the bytes mean. What the version before this one has
//! written is read as well, value by value: what is written anew has today's layout (see [`cell_model::layout`]).

use cell_model::layout::{self, EARLIEST, LAYOUT};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::EngineError;

/// Layout of everything in [`crate::wire`] and of the model's records. A change of any of them raises it.
const VERSION: u8 = LAYOUT;
const HEAD_BYTES: usize = 5;

/// Writes a value.
pub(crate) fn seal<T: Serialize>(value: &T) -> Vec<u8> {
    seal_as(VERSION, value)
}

/// Writes a value that is laid out in `layout` as it is today, for whoever reads that one.
pub(crate) fn seal_as<T: Serialize>(layout: u8, value: &T) -> Vec<u8> {
    let mut bytes = vec![layout, 0, 0, 0, 0];
    bytes = postcard::to_extend(value, bytes).expect("our structs have no part that postcard cannot write");
    let checksum = checksum(layout, &bytes[HEAD_BYTES..]);
    bytes[1..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Writes a value that is read first of a directory or a file: [`open_first`] of any version sees its layout.
pub(crate) fn seal_first<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = seal(value);
    let checksum = crc32c::crc32c(&bytes[HEAD_BYTES..]);
    bytes[1..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn checksum(layout: u8, body: &[u8]) -> u32 {
    let of_body = crc32c::crc32c(body);
    if layout < 5 { of_body } else { crc32c::crc32c_append(of_body, &[layout]) }
}

/// Adds an item to others, for [`seal_items`].
pub(crate) fn extend<T: Serialize>(items: Vec<u8>, item: &T) -> Vec<u8> {
    postcard::to_extend(item, items).expect("our structs have no part that postcard cannot write")
}

/// Writes items, one behind the other.
pub(crate) fn seal_items(items: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + items.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&checksum(VERSION, items).to_le_bytes());
    bytes.extend_from_slice(items);
    bytes
}

/// Reads items back. Answers also what [`extend`] goes on from: they are then written as they are written today.
pub(crate) fn open_items<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
    what: impl Fn() -> String,
) -> Result<(Vec<T>, Vec<u8>), EngineError> {
    let (layout, items) = checked(bytes, &what, Of::All).map_err(no_layout_inside)?;
    let (mut rest, mut found) = (items, Vec::new());
    while !rest.is_empty() {
        let (item, left) = layout::reading(layout, || postcard::take_from_bytes(rest))
            .map_err(|error| EngineError::Corrupt { what: what(), detail: error.to_string() })?;
        found.push(item);
        rest = left;
    }
    let written = if layout == VERSION { items.to_vec() } else { found.iter().fold(Vec::new(), extend) };
    Ok((found, written))
}

/// The layout that whoever wrote this writes; today's where it says nothing that is read.
pub(crate) fn layout_of(sealed: &[u8]) -> u8 {
    sealed.first().copied().filter(|layout| is_read(*layout)).unwrap_or(VERSION)
}

fn is_read(layout: u8) -> bool {
    (EARLIEST..=VERSION).contains(&layout)
}

/// Reads a value back. `what` names it in the error.
pub(crate) fn open<T: DeserializeOwned>(bytes: &[u8], what: impl Fn() -> String) -> Result<T, EngineError> {
    read(bytes, what, Of::All).map_err(no_layout_inside)
}

/// Where something else of the same directory or file has been read, another layout is damage.
fn no_layout_inside(error: EngineError) -> EngineError {
    match error {
        EngineError::Layout { what, found, expected } => EngineError::Corrupt {
            what,
            detail: format!("it has layout {found}, and this program reads {EARLIEST} to {expected}"),
        },
        error => error,
    }
}

/// As [`open`], for what is read first of a directory or a file. There another layout is no damage: another version of
/// the program has written all of it, and reads it.
pub(crate) fn open_first<T: DeserializeOwned>(bytes: &[u8], what: impl Fn() -> String) -> Result<T, EngineError> {
    read(bytes, what, Of::Body)
}

fn read<T: DeserializeOwned>(bytes: &[u8], what: impl Fn() -> String, of: Of) -> Result<T, EngineError> {
    let (layout, body) = checked(bytes, &what, of)?;
    match layout::reading(layout, || postcard::take_from_bytes(body)) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => {
            Err(EngineError::Corrupt { what: what(), detail: format!("{} bytes are too many", rest.len()) })
        }
        Err(error) => Err(EngineError::Corrupt { what: what(), detail: error.to_string() }),
    }
}

/// What a checksum may be of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Of all that its layout asks for.
    All,
    /// Of that, or of the body alone.
    Body,
}

/// The layout and what stands behind the head, where the checksum fits and the layout is one that is read.
fn checked(bytes: &[u8], what: impl Fn() -> String, of: Of) -> Result<(u8, &[u8]), EngineError> {
    let Some((&[version, c0, c1, c2, c3], body)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Err(EngineError::Corrupt { what: what(), detail: format!("{} bytes are too few", bytes.len()) });
    };
    let (expected, actual) = (u32::from_le_bytes([c0, c1, c2, c3]), checksum(version, body));
    if expected != actual && (of == Of::All || expected != crc32c::crc32c(body)) {
        let detail = format!("its checksum is {actual:08x} and should be {expected:08x}");
        return Err(EngineError::Corrupt { what: what(), detail });
    }
    if !is_read(version) {
        return Err(EngineError::Layout { what: what(), found: version, expected: VERSION });
    }
    Ok((version, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_single_flipped_bit_is_found_and_named() {
        let sealed = seal(&("a record", 7_u64, vec![1_u8, 2, 3]));
        for position in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[position / 8] ^= 1 << (position % 8);
            let refused = open::<(String, u64, Vec<u8>)>(&bytes, || "entry 7".into()).expect_err("flipped");
            assert!(refused.to_string().starts_with("entry 7 is corrupt"), "{refused}");
        }
    }

    #[test]
    fn what_is_read_first_is_not_called_corrupt_where_another_version_wrote_it() {
        for layout in [EARLIEST - 1, VERSION + 1] {
            let sealed = seal_as(layout, &42_u64);
            let refused = open_first::<u64>(&sealed, || "it".into()).expect_err("another layout");
            assert!(matches!(&refused, EngineError::Layout { found, .. } if *found == layout), "{refused:?}");
            let torn = open_first::<u64>(&sealed[..5], || "it".into()).expect_err("damaged as well");
            assert!(matches!(torn, EngineError::Corrupt { .. }), "{torn:?}");
        }
    }

    #[test]
    fn what_is_read_first_is_of_another_layout_and_not_damaged_to_the_version_before() {
        let value = ("a record".to_owned(), 7_u64);
        let sealed = seal_first(&value);
        let (head, body) = sealed.split_at(HEAD_BYTES);
        // As that version checks it.
        assert_eq!((head[0], &head[1..]), (LAYOUT, &crc32c::crc32c(body).to_le_bytes()[..]));
        assert_eq!(open_first::<(String, u64)>(&sealed, || "it".into()).unwrap(), value);
        for position in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[position / 8] ^= 1 << (position % 8);
            match open_first::<(String, u64)>(&bytes, || "it".into()) {
                // Layout 4 laid this out in the same way.
                Ok(read) => assert_eq!((bytes[0], read), (EARLIEST, value.clone())),
                Err(EngineError::Layout { .. }) => assert!(position < 8),
                Err(error) => assert!(error.to_string().starts_with("it is corrupt"), "{error}"),
            }
        }
        assert!(open::<(String, u64)>(&sealed, || "it".into()).is_err(), "further inside the version counts, too");
    }

    #[test]
    fn a_value_that_was_cut_or_grew_is_named() {
        let sealed = seal(&42_u64);
        for length in 0..sealed.len() {
            open::<u64>(&sealed[..length], || "x".into()).expect_err("cut");
        }
        let mut longer = sealed.clone();
        longer.push(0);
        open::<u64>(&longer, || "x".into()).expect_err("grown");
        assert_eq!(open::<u64>(&sealed, || "x".into()).expect("whole"), 42);
    }
}
