//! Which transactions a snapshot has seen. Only this decides whether a row that was read holds a captured change.

use std::collections::BTreeSet;

/// `pg_current_snapshot()`: transactions below `xmin` are seen, from `xmax` on are not, between them those that were
/// not running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    xmin: u64,
    xmax: u64,
    running: BTreeSet<u64>,
}

impl Snapshot {
    /// `xmin:xmax:a,b,…`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let xmin = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let running = parts.next()?.split(',').filter(|xid| !xid.is_empty());
        let running = running.map(str::parse).collect::<Result<_, _>>().ok()?;
        parts.next().is_none().then_some(Self { xmin, xmax, running })
    }

    /// Whether it has seen a transaction that had committed, or whose commit was in the log, when it was taken or
    /// later. The log numbers transactions with 32 bits; they lie within 2³¹ of the snapshot.
    pub(crate) fn has_seen(&self, xid: u32) -> bool {
        let full = self.full(xid);
        full < self.xmin || (full < self.xmax && !self.running.contains(&full))
    }

    fn full(&self, xid: u32) -> u64 {
        const ROUND: u64 = 1 << 32;
        let guess = (self.xmax & !(ROUND - 1)) | u64::from(xid);
        if guess > self.xmax && guess - self.xmax > ROUND / 2 {
            guess.saturating_sub(ROUND)
        } else if self.xmax > guess && self.xmax - guess > ROUND / 2 {
            guess + ROUND
        } else {
            guess
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_whose_commit_is_logged_but_not_visible_is_not_seen() {
        // Measured: the log had the commit of 728, and a read after it still gave the old row.
        let snapshot = Snapshot::parse("728:730:728").unwrap();
        assert!(!snapshot.has_seen(728));
        assert!(snapshot.has_seen(727) && snapshot.has_seen(729));
        assert!(!snapshot.has_seen(730) && !snapshot.has_seen(731));
    }

    #[test]
    fn numbers_that_wrap_are_told_apart() {
        let round = 1_u64 << 32;
        let snapshot = Snapshot { xmin: round + 3, xmax: round + 5, running: [round + 3].into() };
        assert!(snapshot.has_seen(u32::MAX), "it lies before the wrap");
        assert!(snapshot.has_seen(2) && !snapshot.has_seen(3) && snapshot.has_seen(4) && !snapshot.has_seen(5));
        let before = Snapshot { xmin: round - 2, xmax: round - 1, running: BTreeSet::new() };
        assert!(!before.has_seen(7), "it lies after the wrap");
    }

    #[test]
    fn other_text_is_no_snapshot() {
        for text in ["", "1", "1:2", "a:b:c", "1:2:3:4", "1:2:x"] {
            assert_eq!(Snapshot::parse(text), None, "{text}");
        }
        assert!(Snapshot::parse("1:2:").is_some());
    }
}
