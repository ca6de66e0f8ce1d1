//! How long applying stands still: the longest time in which an entry was committed and none was applied.
//!
//! ```text
//! committed 7   9                applied 7        8  9
//!     ├─────────┼────── gap ─────────┼── gap ─────┼──┤      while a snapshot is taken: those that overlap with it
//! ```
//!
//! What an entry waits for before it is committed, the disks and the other members, is not in it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::status::ApplyPace;

/// Told of every commit and of everything applied. Clones tell the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    committed: u64,
    applied: u64,
    /// Since when something that is committed waits.
    waiting: Option<Waiting>,
    /// Snapshots that are being taken.
    taking: u32,
    /// The longest gap while they are.
    this: Duration,
    seen: ApplyPace,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    /// A snapshot was being taken for a part of it.
    in_snapshot: bool,
}

/// A snapshot that is being taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taking(Pace);

impl Pace {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries up to `index` may be applied.
    pub(crate) fn committed(&self, index: u64) {
        self.state().committed(index, Instant::now());
    }

    /// The entry `index` is applied.
    pub(crate) fn applied(&self, index: u64) {
        self.state().applied(index, Instant::now());
    }

    /// Begins to count gaps as those of a snapshot.
    pub(crate) fn taking(&self) -> Taking {
        self.state().take();
        Taking(self.clone())
    }

    /// The newest entry that is applied.
    pub(crate) fn applied_index(&self) -> u64 {
        self.state().applied
    }

    pub(crate) fn seen(&self) -> ApplyPace {
        self.state().seen
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.0.state().taken(Instant::now());
    }
}

impl State {
    fn committed(&mut self, index: u64, now: Instant) {
        self.committed = self.committed.max(index);
        if self.waiting.is_none() {
            self.wait(now);
        }
    }

    fn applied(&mut self, index: u64, now: Instant) {
        self.applied = self.applied.max(index);
        if let Some(waited) = self.waiting.take() {
            self.note(now - waited.since, waited.in_snapshot);
        }
        self.wait(now);
    }

    /// Begins a gap, where anything waits.
    fn wait(&mut self, since: Instant) {
        if self.committed > self.applied {
            self.waiting = Some(Waiting { since, in_snapshot: self.taking > 0 });
        }
    }

    fn note(&mut self, gap: Duration, in_snapshot: bool) {
        self.seen.longest = self.seen.longest.max(gap);
        if !in_snapshot {
            return;
        }
        self.seen.longest_in_snapshot = self.seen.longest_in_snapshot.max(gap);
        if self.taking > 0 {
            self.this = self.this.max(gap);
        } else {
            // It began while the last one was taken.
            self.seen.last_in_snapshot = self.seen.last_in_snapshot.max(gap);
        }
    }

    fn take(&mut self) {
        if self.taking == 0 {
            self.this = Duration::ZERO;
        }
        self.taking += 1;
        if let Some(waiting) = &mut self.waiting {
            waiting.in_snapshot = true;
        }
    }

    fn taken(&mut self, now: Instant) {
        // What still waits may wait for longer, and is noted again then.
        if let Some(since) = self.waiting.as_ref().map(|waiting| waiting.since) {
            self.note(now - since, true);
        }
        self.taking -= 1;
        self.seen.snapshots += 1;
        self.seen.last_in_snapshot = self.this;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn only_the_time_in_which_something_committed_waits_counts() {
        let (mut state, at) = (State::default(), Instant::now());
        // Nothing waits for an hour.
        state.committed(3, at + ms(3_600_000));
        state.applied(1, at + ms(3_600_002));
        state.applied(2, at + ms(3_600_009));
        // A further commit begins no new gap.
        state.committed(4, at + ms(3_600_010));
        state.applied(3, at + ms(3_600_012));
        assert_eq!(state.seen.longest, ms(7));
        state.applied(4, at + ms(3_600_013));
        state.committed(5, at + ms(7_200_000));
        state.applied(5, at + ms(7_200_001));
        assert_eq!(state.seen, ApplyPace { longest: ms(7), ..ApplyPace::default() });
    }

    #[test]
    fn a_gap_counts_as_a_snapshots_where_they_overlap() {
        let (mut state, at) = (State::default(), Instant::now());
        state.committed(1, at);
        state.take();
        state.applied(1, at + ms(4));
        state.committed(2, at + ms(10));
        state.applied(2, at + ms(11));
        state.taken(at + ms(12));
        state.committed(3, at + ms(20));
        state.applied(3, at + ms(50));
        let seen = state.seen;
        assert_eq!((seen.longest, seen.longest_in_snapshot, seen.last_in_snapshot), (ms(30), ms(4), ms(4)));
        // The next one is shorter, and a gap that outlasts it is its own.
        state.take();
        state.committed(4, at + ms(60));
        state.taken(at + ms(61));
        assert_eq!(state.seen.last_in_snapshot, ms(1));
        state.applied(4, at + ms(63));
        let seen = state.seen;
        assert_eq!((seen.snapshots, seen.longest_in_snapshot, seen.last_in_snapshot), (2, ms(4), ms(3)));
    }

    #[test]
    fn snapshots_that_are_taken_at_once_share_what_is_seen() {
        let (mut state, at) = (State::default(), Instant::now());
        state.take();
        state.take();
        state.taken(at);
        state.committed(1, at);
        state.applied(1, at + ms(2));
        state.taken(at + ms(3));
        assert_eq!((state.seen.snapshots, state.seen.last_in_snapshot), (2, ms(2)));
    }
}
