//! As much of WebSocket frames (RFC 6455, section 5.2) as it takes to end a conversation between two of them.

/// Where in a frame a stream is.
#[derive(Debug, Default)]
pub(super) struct Border {
    head: [u8; 14],
    have: usize,
    /// Bytes of the payload that are to come.
    payload: u64,
    /// A close frame has begun.
    closed: bool,
}

/// A close frame's kind, in the lower half of a head's first byte.
const CLOSE: u8 = 0x8;

impl Border {
    /// Whether no frame has been begun.
    pub(super) fn is_here(&self) -> bool {
        self.have == 0 && self.payload == 0
    }

    /// Whether a close frame has passed, or has begun to.
    pub(super) fn has_closed(&self) -> bool {
        self.closed
    }

    /// Takes all of `bytes`; how many that are.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            at += self.step(&bytes[at..]);
        }
        at
    }

    /// Takes `bytes` up to the next border; how many those are.
    pub(super) fn pass_to_border(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !self.is_here() {
            at += self.step(&bytes[at..]);
        }
        at
    }

    /// At least one byte: of the head, or as much of the payload as there is.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.payload > 0 {
            let taken = usize::try_from(self.payload).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.payload -= taken as u64;
            return taken;
        }
        self.head[self.have] = bytes[0];
        self.have += 1;
        if self.have >= 2 && self.have == self.head_length() {
            self.payload = self.payload_length();
            self.closed |= self.head[0] & 0x0f == CLOSE;
            self.have = 0;
        }
        1
    }

    fn head_length(&self) -> usize {
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        mask + match self.head[1] & 0x7f {
            127 => 10,
            126 => 4,
            _ => 2,
        }
    }

    fn payload_length(&self) -> u64 {
        match self.head[1] & 0x7f {
            127 => self.head[2..10].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
            126 => u64::from(u16::from_be_bytes([self.head[2], self.head[3]])),
            short => u64::from(short),
        }
    }
}

/// A close frame with a code. The mask is a formality here: it protects caches from what a script in a browser writes, and
/// nothing in this frame is written by anybody.
pub(super) fn close_frame(code: u16, masked: bool) -> Vec<u8> {
    let [high, low] = code.to_be_bytes();
    if masked { vec![0x88, 0x82, 0, 0, 0, 0, high, low] } else { vec![0x88, 0x02, high, low] }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match u16::try_from(payload) {
            Ok(short @ 0..126) => frame.push(mask | u8::try_from(short).unwrap()),
            Ok(middle) => {
                frame.push(mask | 126);
                frame.extend(middle.to_be_bytes());
            }
            Err(_) => {
                frame.push(mask | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend([1, 2, 3, 4]);
        }
        // Looks like heads of frames to whoever loses count.
        frame.extend(std::iter::repeat_n(0x82, payload));
        frame
    }

    #[test]
    fn borders_are_found_whatever_the_length_is_written_in() {
        for payload in [0, 1, 125, 126, 65_535, 65_536] {
            for masked in [false, true] {
                let bytes = frame(payload, masked);
                let mut border = Border::default();
                assert_eq!(border.pass(&bytes[..bytes.len() - 1]), bytes.len() - 1);
                assert!(!border.is_here(), "{payload} {masked}");
                border.pass(&bytes[bytes.len() - 1..]);
                assert!(border.is_here(), "{payload} {masked}");
            }
        }
    }

    #[test]
    fn a_close_frame_is_seen_and_its_kind_in_a_payload_is_none() {
        let mut border = Border::default();
        border.pass(&[0x82, 0x02, 0x88, 0x88]);
        assert!(!border.has_closed());
        border.pass(&close_frame(1000, false));
        assert!(border.has_closed());
    }

    proptest! {
        #[test]
        fn frames_in_any_pieces_end_where_they_end(payloads in proptest::collection::vec((0_usize..300, any::<bool>()), 1..8), piece in 1_usize..40) {
            let frames: Vec<Vec<u8>> = payloads.iter().map(|(payload, masked)| frame(*payload, *masked)).collect();
            let bytes = frames.concat();
            let mut borders = Vec::new();
            let mut border = Border::default();
            let mut at = 0;
            while at < bytes.len() {
                let end = (at + piece).min(bytes.len());
                // One byte first, so that it is not at a border that has been seen.
                at += border.step(&bytes[at..=at]);
                if !border.is_here() {
                    at += border.pass_to_border(&bytes[at..end.max(at)]);
                }
                if border.is_here() {
                    borders.push(at);
                }
            }
            let mut expected = Vec::new();
            let mut end = 0;
            for frame in &frames {
                end += frame.len();
                expected.push(end);
            }
            prop_assert_eq!(borders, expected);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut border = Border::default();
            prop_assert_eq!(border.pass(&bytes), bytes.len());
        }
    }
}
