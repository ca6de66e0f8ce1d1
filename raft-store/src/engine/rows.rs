//! Values in pieces: sled writes values above 128 KiB into files that it never syncs, so nothing that large is given
//! to it. A value at `key` becomes rows at `key | number of the piece`, big endian.
//!
//! Keys of one kind have one length or hold no zero byte, so the pieces of a value lie beside each other.

use crate::error::EngineError;

/// The largest piece.
pub(super) const PIECE_BYTES: usize = 64 * 1024;
const SUFFIX_BYTES: usize = 2;

/// The key of one piece.
pub(super) fn piece_key(key: &[u8], piece: u16) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.len() + SUFFIX_BYTES);
    row.extend_from_slice(key);
    row.extend_from_slice(&piece.to_be_bytes());
    row
}

/// The pieces of a value: at least one, also of an empty value.
pub(super) fn pieces(value: &[u8]) -> Result<impl Iterator<Item = (u16, &[u8])>, EngineError> {
    let count = value.len().div_ceil(PIECE_BYTES).max(1);
    let count = u16::try_from(count).map_err(|_| EngineError::Io {
        operation: "writing a value",
        reason: format!("{} bytes are too many for one value", value.len()),
    })?;
    Ok((0..count).map(move |piece| {
        let begin = usize::from(piece) * PIECE_BYTES;
        (piece, &value[begin..value.len().min(begin + PIECE_BYTES)])
    }))
}

/// A key and its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// Puts the rows of a scan together again and hands on whole values.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    key: Vec<u8>,
    value: Vec<u8>,
    next: u16,
}

impl Assembly {
    /// Takes the next row; answers the value before it where the row begins a new one.
    pub(super) fn take(&mut self, row: &[u8], piece: &[u8]) -> Result<Option<Pair>, EngineError> {
        let corrupt = |detail: String| EngineError::Corrupt { what: describe(row), detail };
        let Some((key, number)) = row.split_last_chunk::<SUFFIX_BYTES>() else {
            return Err(corrupt("its key is too short".into()));
        };
        let number = u16::from_be_bytes(*number);
        if number == 0 {
            let before = self.finish();
            (self.key, self.value, self.next) = (key.to_vec(), piece.to_vec(), 1);
            return Ok(before);
        }
        if self.key != key || self.next != number {
            return Err(corrupt(format!("piece {} is missing", if self.key == key { self.next } else { 0 })));
        }
        self.value.extend_from_slice(piece);
        self.next += 1;
        Ok(None)
    }

    /// The last value.
    pub(super) fn finish(&mut self) -> Option<Pair> {
        let whole = (self.next > 0).then(|| (std::mem::take(&mut self.key), std::mem::take(&mut self.value)));
        self.next = 0;
        whole
    }
}

/// A key for people.
fn describe(row: &[u8]) -> String {
    format!("row {}", row.escape_ascii())
}
