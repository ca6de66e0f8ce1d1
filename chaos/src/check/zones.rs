//! Is there one order of all requests on a key that explains what everybody was told?
//!
//! Where each value is written once, that is decided by its zone alone: from the first end of a request that wrote or read it
//! to the last beginning of one (P. Gibbons, E. Korach: Testing Shared Memories, SIAM J. Comput. 26(4), 1997). Of two
//! values, one comes first; so it cannot be that a request on the first ended before one on the second began, and the other
//! way round:
//!
//! ```text
//! one      ──[put 4]──────────────────────────[get 4]──      not both: 4 was there before 5 was read, and 5 was read
//! another  ───────────[put 5]──[get 5]────────────────       before 4 was read
//! ```
//! A write whose outcome nobody knows has no end; where nobody has read it either, it need not have happened. An
//! acknowledged delete is a value that nobody has read: it fits wherever a put would that nobody has read. Absence is
//! written by every delete and by nobody, before the first put; so reads that found nothing have no zone, and find their
//! place between those of the values, in [`super::gaps`].

use crate::clock::Micros;

/// One value, and when it was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Zone {
    pub(super) version: u64,
    pub(super) first_end: Micros,
    pub(super) last_begin: Micros,
}

impl Zone {
    /// Of the request that wrote it; an unknown outcome ends at no time.
    pub(super) const fn written(version: u64, invoked: Micros, returned: Micros) -> Self {
        Self { version, first_end: returned, last_begin: invoked }
    }

    /// Was read, too.
    pub(super) fn read(&mut self, invoked: Micros, returned: Micros) {
        self.first_end = self.first_end.min(returned);
        self.last_begin = self.last_begin.max(invoked);
    }

    /// One of its requests ended before another one began: nothing else was there in between. All requests of one that
    /// does not last were under way at one moment, which is enough for them.
    pub(super) const fn lasts(&self) -> bool {
        self.first_end < self.last_begin
    }

    const fn contradicts(&self, other: &Self) -> bool {
        self.first_end < other.last_begin && other.first_end < self.last_begin
    }
}

/// Two values of which neither can have come first; none where there is an order. The first of them lasts.
pub(super) fn contradiction(zones: impl Iterator<Item = Zone>) -> Option<(Zone, Zone)> {
    let (mut lasting, moments): (Vec<Zone>, Vec<Zone>) = zones.partition(Zone::lasts);
    lasting.sort_by_key(|zone| zone.first_end);
    // Where no two neighbours overlap, no two do.
    if let Some(pair) = lasting.windows(2).find(|pair| pair[0].contradicts(&pair[1])) {
        return Some((pair[0], pair[1]));
    }
    moments.into_iter().find_map(|zone| {
        // Those that last follow each other: only the last one that had begun to last before can reach beyond.
        let before = lasting.partition_point(|other| other.first_end < zone.last_begin);
        let around = lasting[..before].last()?;
        around.contradicts(&zone).then_some((*around, zone))
    })
}
