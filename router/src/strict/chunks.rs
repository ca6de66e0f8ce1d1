//! A body on the wire: where it ends, and that its chunks are written in the one way that nobody reads differently
//! (RFC 9112, section 7.1). Extensions are refused: nobody needs them, and parsers disagree where they end.

use super::head::{Framing, field, is_token};
use super::rule::Rule;

pub(super) const TRAILER_BYTES_MAX: usize = 8_192;
pub(super) const TRAILERS_MAX: u8 = 32;

/// What has been seen of a body.
#[derive(Debug)]
pub(crate) enum BodyScanner {
    /// So many bytes are to come.
    Length(u64),
    /// In chunks.
    Chunks(Chunk),
}

/// Where in its chunks a body is.
#[derive(Debug)]
pub(crate) enum Chunk {
    Size { digits: u8, size: u64 },
    SizeLineFeed { size: u64 },
    Data { left: u64 },
    DataReturn,
    DataLineFeed,
    Trailers { line: Vec<u8>, bytes: usize, count: u8 },
}

const FIRST: Chunk = Chunk::Size { digits: 0, size: 0 };

impl BodyScanner {
    /// For a body that there is.
    pub(crate) fn new(framing: Framing) -> Option<Self> {
        match framing {
            Framing::None | Framing::Upgrade => None,
            Framing::Length(length) => Some(Self::Length(length)),
            Framing::Chunked => Some(Self::Chunks(FIRST)),
        }
    }

    /// How many of `bytes` belong to the body, and whether it ends with them.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Result<(usize, bool), Rule> {
        match self {
            Self::Length(left) => {
                let taken = within(*left, bytes.len());
                *left -= taken as u64;
                Ok((taken, *left == 0))
            }
            Self::Chunks(chunk) => scan_chunks(chunk, bytes),
        }
    }
}

/// The smaller of both.
fn within(left: u64, there: usize) -> usize {
    usize::try_from(left).map_or(there, |left| left.min(there))
}

fn scan_chunks(chunk: &mut Chunk, bytes: &[u8]) -> Result<(usize, bool), Rule> {
    let mut at = 0;
    while at < bytes.len() {
        if let Chunk::Data { left } = chunk {
            let taken = within(*left, bytes.len() - at);
            *left -= taken as u64;
            at += taken;
            if *left == 0 {
                *chunk = Chunk::DataReturn;
            }
            continue;
        }
        let byte = bytes[at];
        at += 1;
        if step(chunk, byte)? {
            return Ok((at, true));
        }
    }
    Ok((at, false))
}

/// One byte that is no data. True where it was the last of the body.
fn step(chunk: &mut Chunk, byte: u8) -> Result<bool, Rule> {
    match chunk {
        Chunk::Size { digits, size } => match (byte, char::from(byte).to_digit(16)) {
            (_, Some(digit)) if *digits < 16 => {
                *digits += 1;
                *size = *size << 4 | u64::from(digit);
            }
            (b'\r', _) if *digits > 0 => *chunk = Chunk::SizeLineFeed { size: *size },
            (b'\n', _) => return Err(Rule::LineFeedAlone),
            (b';' | b' ' | b'\t', _) if *digits > 0 => return Err(Rule::ChunkExtension),
            _ => return Err(Rule::ChunkSize),
        },
        Chunk::SizeLineFeed { size } => match (byte, *size) {
            (b'\n', 0) => *chunk = Chunk::Trailers { line: Vec::new(), bytes: 0, count: 0 },
            (b'\n', left) => *chunk = Chunk::Data { left },
            _ => return Err(Rule::CarriageReturnAlone),
        },
        Chunk::Data { .. } | Chunk::DataReturn => match byte {
            b'\r' => *chunk = Chunk::DataLineFeed,
            _ => return Err(Rule::ChunkEnd),
        },
        Chunk::DataLineFeed => match byte {
            b'\n' => *chunk = FIRST,
            _ => return Err(Rule::ChunkEnd),
        },
        Chunk::Trailers { line, bytes, count } => return trailer_byte(line, bytes, count, byte),
    }
    Ok(false)
}

fn trailer_byte(line: &mut Vec<u8>, bytes: &mut usize, count: &mut u8, byte: u8) -> Result<bool, Rule> {
    *bytes += 1;
    if *bytes > TRAILER_BYTES_MAX {
        return Err(Rule::TrailersTooLarge);
    }
    if byte != b'\n' {
        if line.last() == Some(&b'\r') {
            return Err(Rule::CarriageReturnAlone);
        }
        // Refused where it stands: at the end of its line a part of it would have passed.
        let fits = match memchr::memchr(b':', line) {
            Some(_) => (byte >= 0x20 && byte != 0x7f) || matches!(byte, b'\t' | b'\r'),
            None if line.is_empty() => is_token(byte) || byte == b'\r',
            None => is_token(byte) || byte == b':',
        };
        if !fits {
            return Err(Rule::Trailer);
        }
        line.push(byte);
        return Ok(false);
    }
    let whole = line.strip_suffix(b"\r").ok_or(Rule::LineFeedAlone)?;
    if whole.is_empty() {
        return Ok(true);
    }
    let (name, _) = field(whole).map_err(|_| Rule::Trailer)?;
    if is_forbidden(name) {
        return Err(Rule::TrailerForbidden);
    }
    *count += 1;
    if *count > TRAILERS_MAX {
        return Err(Rule::TrailersTooLarge);
    }
    line.clear();
    Ok(false)
}

/// Fields that mean something before the body only (RFC 9110, 6.5.1), and those that the router or a cell trusts.
fn is_forbidden(name: &[u8]) -> bool {
    const FORBIDDEN: [&str; 14] = [
        "transfer-encoding",
        "content-length",
        "host",
        "trailer",
        "te",
        "connection",
        "upgrade",
        "expect",
        "authorization",
        "cookie",
        "content-type",
        "content-encoding",
        "content-range",
        "max-forwards",
    ];
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    FORBIDDEN.contains(&name.as_str()) || super::is_trusted(&super::alias_of(&name))
}

#[cfg(test)]
mod tests;
