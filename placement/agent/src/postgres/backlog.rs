//! A copy whose changes are applied more slowly than they come reads no chunk until it has caught up with most of them: the target has
//! one disk for both, and what is captured has a limit beyond which the copy is given up. Pure.

/// Of what may be captured: with more than this part of it not applied, chunks wait,
const HIGH: u64 = 8;
/// until no more than this part is left.
const LOW: u64 = 32;

/// See the module.
#[derive(Debug)]
pub(crate) struct Backlog {
    bytes_max: u64,
    waits: bool,
}

impl Backlog {
    /// `bytes_max`: as much may be captured and not applied.
    pub(crate) const fn new(bytes_max: u64) -> Self {
        Self { bytes_max, waits: false }
    }

    /// Whether the next chunk waits, with so much captured and not applied.
    pub(crate) const fn holds_back(&mut self, kept_bytes: u64) -> bool {
        let part = if self.waits { LOW } else { HIGH };
        self.waits = kept_bytes > self.bytes_max / part;
        self.waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_wait_for_a_long_backlog_until_most_of_it_is_applied() {
        let mut backlog = Backlog::new(6_400);
        assert!(!backlog.holds_back(0) && !backlog.holds_back(800), "writers that are kept up with are in no way");
        assert!(backlog.holds_back(801) && backlog.holds_back(500) && backlog.holds_back(201));
        assert!(!backlog.holds_back(200) && !backlog.holds_back(800));
    }
}
