//! What a reader of tables has read last, for the lines of what is wrong: the text is not kept.

use std::io::{self, Read};

/// A source that remembers the last piece that was read of it.
#[derive(Debug)]
pub(super) struct Tracked<R> {
    source: R,
    /// Where that piece begins,
    begin: u64,
    /// it,
    piece: Vec<u8>,
    /// and the byte before it.
    before: Option<u8>,
    breaks: usize,
}

impl<R> Tracked<R> {
    pub(super) const fn new(source: R) -> Self {
        Self { source, begin: 0, piece: Vec::new(), before: None, breaks: 0 }
    }

    /// The byte before a place of the last piece, its beginning and its end included.
    pub(super) fn byte_before(&self, place: u64) -> Option<u8> {
        match place.checked_sub(self.begin) {
            Some(0) => self.before,
            Some(inside) => self.piece.get(usize::try_from(inside).ok()? - 1).copied(),
            None => None,
        }
    }

    pub(super) fn ends_in_a_line_break(&self) -> bool {
        self.piece.last().copied().or(self.before) == Some(b'\n')
    }

    /// How many lines were read, the last one whole or not.
    pub(super) fn lines(&self) -> usize {
        self.breaks + usize::from(!self.ends_in_a_line_break() && (self.begin > 0 || !self.piece.is_empty()))
    }
}

impl<R: Read> Read for Tracked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(into)?;
        self.before = self.piece.last().copied().or(self.before);
        self.begin += self.piece.len() as u64;
        self.piece.clear();
        self.piece.extend_from_slice(&into[..count]);
        self.breaks += self.piece.iter().filter(|byte| **byte == b'\n').count();
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_and_the_byte_before_it_are_known() {
        let mut tracked = Tracked::new(&b"ab\ncd"[..]);
        assert!(tracked.lines() == 0 && !tracked.ends_in_a_line_break());
        let mut piece = [0; 3];
        assert_eq!(tracked.read(&mut piece).unwrap(), 3);
        assert_eq!([0, 1, 3].map(|at| tracked.byte_before(at)), [None, Some(b'a'), Some(b'\n')]);
        assert!(tracked.ends_in_a_line_break() && tracked.lines() == 1);
        assert_eq!(tracked.read(&mut piece).unwrap(), 2);
        assert_eq!([2, 3, 4, 5].map(|at| tracked.byte_before(at)), [None, Some(b'\n'), Some(b'c'), Some(b'd')]);
        assert_eq!(tracked.read(&mut piece).unwrap(), 0);
        assert!(!tracked.ends_in_a_line_break() && tracked.lines() == 2 && tracked.byte_before(5) == Some(b'd'));
    }
}
