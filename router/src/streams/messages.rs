//! As much of gRPC's framing as it takes to end a stream between two messages: a client reads half of one as a fault of the
//! server's and not as the status that comes after it.

/// A byte that says whether it is compressed, and four of length.
const HEAD_BYTES: usize = 5;

/// Where in a message a stream is.
#[derive(Debug, Default)]
pub(super) struct Messages {
    head: [u8; HEAD_BYTES],
    have: usize,
    /// Bytes of the message that are to come.
    left: u32,
}

impl Messages {
    /// Whether no message has been begun.
    pub(super) fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Takes all of `bytes`.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            at += self.step(&bytes[at..]);
        }
    }

    /// Takes `bytes` up to the end of the message that has been begun; how many those are.
    pub(super) fn pass_to_end(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !self.is_between() {
            at += self.step(&bytes[at..]);
        }
        at
    }

    /// At least one byte: of the head, or as much of the message as there is.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let taken = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            // At most what is left, which is 32 bits.
            self.left -= u32::try_from(taken).unwrap_or(self.left);
            return taken;
        }
        self.head[self.have] = bytes[0];
        self.have += 1;
        if self.have == HEAD_BYTES {
            self.left = u32::from_be_bytes([self.head[1], self.head[2], self.head[3], self.head[4]]);
            self.have = 0;
        }
        1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        // What it says looks like heads to whoever loses count.
        [&[0][..], &u32::try_from(length).unwrap().to_be_bytes(), &vec![1; length]].concat()
    }

    proptest! {
        #[test]
        fn messages_in_any_pieces_end_where_they_end(lengths in proptest::collection::vec(0_usize..300, 1..8), piece in 1_usize..40) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|length| message(*length)).collect();
            let mut messages = Messages::default();
            let (mut ends, mut at) = (Vec::new(), 0);
            while at < bytes.len() {
                // One byte first, so that it is not at an end that has been seen.
                messages.pass(&bytes[at..=at]);
                at += 1;
                let until = (at + piece).min(bytes.len());
                at += messages.pass_to_end(&bytes[at..until]);
                if messages.is_between() {
                    ends.push(at);
                }
            }
            let expected = lengths.iter().scan(0, |end, length| { *end += HEAD_BYTES + length; Some(*end) });
            prop_assert_eq!(ends, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_message_of_the_largest_length_is_waited_for() {
        let mut messages = Messages::default();
        messages.pass(&[0, 0xff, 0xff, 0xff, 0xff, 1]);
        assert!(!messages.is_between());
        assert_eq!(messages.pass_to_end(&[2; 100]), 100);
    }
}
