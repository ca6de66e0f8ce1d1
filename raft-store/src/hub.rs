//! The watch: every change, in revision order, to any number of watchers, without a gap and without a duplicate.
//!
//! ```text
//!              apply ── publish ──►  ring of recent revisions (bounded in count and bytes)
//!                                        ▲            ▲
//!                     cursor of watcher A│            │cursor of watcher B
//! ```
//!
//! There is one ring and no queue for each watcher: a slow one costs nothing until the ring has moved past its cursor,
//! and then it is told to begin anew ([`Feed::Reset`]) and gets a snapshot. After a restart the ring is empty, so a
//! resume from before it gets a snapshot, too.
//!
//! A snapshot does not stop `apply`: it is read page by page, and what changed meanwhile is taken from the ring and
//! sent after the pages. Its parts, put in place one after another, are the state at the revision of
//! [`Feed::SnapshotEnd`].
//!
//! A watcher may want only some of it ([`Filter`]). It walks the same ring, past what it does not want.

mod filter;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use cell_model::{Change, Fleet, FleetView, Lineage, MoveId, Revision, TenantId};
use tokio::sync::watch;

use crate::options::Bounds;

pub(crate) use filter::departures;
pub use filter::{Departure, Filter};

/// Records in one part of a snapshot.
const SNAPSHOT_PART_RECORDS: usize = 1_000;
/// Revisions in one [`Feed::Changes`].
const CHANGES_PART_REVISIONS: usize = 256;

/// What one command changed. It is never split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The revision of the command.
    pub revision: Revision,
    /// Every record that it wrote.
    pub changes: Vec<Change>,
    /// Tenants that went elsewhere with it.
    pub departures: Vec<Departure>,
}

/// Why a watcher has to forget what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetCause {
    /// It asked for a snapshot.
    Asked,
    /// The changes after its revision are no longer remembered: it was away for too long, or too slow.
    Compacted,
    /// Its revision belongs to another history than the cluster's.
    LineageChanged,
}

/// What a watcher gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feed {
    /// Forget everything: a snapshot follows.
    Reset {
        /// Why.
        cause: ResetCause,
        /// The history that follows.
        lineage: Lineage,
    },
    /// A part of a snapshot. A record may come twice; the later one holds.
    Snapshot {
        /// Nothing in it is newer.
        revision: Revision,
        /// Records. A part of which nothing is wanted may be empty.
        records: Vec<Change>,
    },
    /// The parts make up the state at this revision; changes after it follow.
    SnapshotEnd {
        /// Of the whole snapshot.
        revision: Revision,
        /// Of the cluster.
        lineage: Lineage,
    },
    /// One or more whole revisions in order. Never empty.
    Changes(Vec<Arc<Committed>>),
}

/// The end of the store: no more changes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node has stopped")]
pub struct WatchClosed;

/// The replicated state as every part of the store shares it.
#[derive(Debug)]
pub(crate) struct SharedFleet(RwLock<Fleet>);

impl SharedFleet {
    pub(crate) const fn new(fleet: Fleet) -> Self {
        Self(RwLock::new(fleet))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Fleet> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> std::sync::RwLockWriteGuard<'_, Fleet> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Ring {
    lineage: Lineage,
    /// Everything after this revision is in `recent`.
    floor: Revision,
    recent: VecDeque<(Arc<Committed>, usize)>,
    bytes: usize,
}

impl Ring {
    fn last(&self) -> Revision {
        self.recent.back().map_or(self.floor, |(committed, _)| committed.revision)
    }

    /// Up to `count` revisions after `cursor`; none where some of them are forgotten.
    fn after(&self, cursor: Revision, count: usize) -> Option<Vec<Arc<Committed>>> {
        if cursor < self.floor {
            return None;
        }
        let begin = self.recent.partition_point(|(committed, _)| committed.revision <= cursor);
        Some(self.recent.iter().skip(begin).take(count).map(|(committed, _)| Arc::clone(committed)).collect())
    }
}

/// The ring and its bell.
#[derive(Debug)]
pub(crate) struct Hub {
    ring: Mutex<Ring>,
    /// Rings with the newest revision. Closed when the store stops.
    bell: Mutex<Option<watch::Sender<Revision>>>,
    listen: watch::Receiver<Revision>,
    revisions_max: usize,
    bytes_max: usize,
}

impl Hub {
    /// A hub that remembers nothing and goes on from `fleet`.
    pub(crate) fn new(fleet: &Fleet, bounds: &Bounds) -> Self {
        let (floor, lineage) = (fleet.head().revision, fleet.head().lineage);
        let (bell, listen) = watch::channel(floor);
        Self {
            ring: Mutex::new(Ring { lineage, floor, recent: VecDeque::new(), bytes: 0 }),
            bell: Mutex::new(Some(bell)),
            listen,
            revisions_max: bounds.history_revisions.max(1),
            bytes_max: bounds.history_bytes,
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_bell(&self, revision: Revision) {
        if let Some(bell) = &*self.bell.lock().unwrap_or_else(PoisonError::into_inner) {
            bell.send_replace(revision);
        }
    }

    /// Takes what was committed, in revision order. Called under the fleet's write lock, so that a reader of the
    /// fleet finds everything up to the fleet's revision here.
    pub(crate) fn publish(&self, committed: Vec<(Committed, usize)>) {
        let mut ring = self.ring();
        for (committed, bytes) in committed {
            debug_assert!(committed.revision > ring.last(), "revisions only rise");
            ring.bytes += bytes;
            ring.recent.push_back((Arc::new(committed), bytes));
        }
        while ring.recent.len() > self.revisions_max || (ring.bytes > self.bytes_max && ring.recent.len() > 1) {
            if let Some((oldest, bytes)) = ring.recent.pop_front() {
                ring.bytes -= bytes;
                ring.floor = oldest.revision;
            }
        }
        let last = ring.last();
        drop(ring);
        self.ring_bell(last);
    }

    /// Forgets everything: the fleet was replaced as a whole. Called under the fleet's write lock.
    pub(crate) fn restart(&self, fleet: &Fleet) {
        let mut ring = self.ring();
        ring.recent.clear();
        ring.bytes = 0;
        ring.floor = fleet.head().revision;
        ring.lineage = fleet.head().lineage;
        let last = ring.floor;
        drop(ring);
        self.ring_bell(last);
    }

    /// Tells every watcher that no more changes come.
    pub(crate) fn close(&self) {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[derive(Debug)]
enum State {
    /// A reset is to be announced.
    Begin(ResetCause),
    /// Pages are being read.
    Pages { lineage: Lineage, since: Revision, page: Page },
    /// The pages are done at `until`; what changed meanwhile is sent from the ring.
    Rest { lineage: Lineage, sent: Revision, until: Revision },
    /// Following the ring.
    Follow { lineage: Lineage, after: Revision },
}

#[derive(Debug)]
enum Page {
    LimitsAndCells,
    Tenants(Option<TenantId>),
    EndedMoves(Option<MoveId>),
}

/// One watcher. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    fleet: Arc<SharedFleet>,
    listen: watch::Receiver<Revision>,
    filter: Filter,
    state: State,
}

impl Subscription {
    pub(crate) fn new(
        hub: Arc<Hub>,
        fleet: Arc<SharedFleet>,
        after: Option<(Lineage, Revision)>,
        filter: Filter,
    ) -> Self {
        let state = match after {
            None => State::Begin(ResetCause::Asked),
            Some((lineage, after)) => State::Follow { lineage, after },
        };
        let listen = hub.listen.clone();
        Self { hub, fleet, listen, filter, state }
    }

    /// Everything that is wanted up to here has been given out, where the watcher follows the changes; none during a
    /// snapshot.
    #[must_use]
    pub const fn position(&self) -> Option<(Lineage, Revision)> {
        match self.state {
            State::Follow { lineage, after } => Some((lineage, after)),
            State::Begin(_) | State::Pages { .. } | State::Rest { .. } => None,
        }
    }

    /// Goes on behind `revision`, as if everything up to there had been given out, and nothing behind it. During a
    /// snapshot it changes nothing.
    pub const fn go_on_after(&mut self, revision: Revision) {
        if let State::Follow { after, .. } = &mut self.state {
            *after = revision;
        }
    }

    /// Waits for what comes next. It may be dropped at any time without losing anything.
    ///
    /// # Errors
    /// [`WatchClosed`] when the store has stopped.
    pub async fn next(&mut self) -> Result<Feed, WatchClosed> {
        loop {
            // Seen before looking, so that whatever is published after the look wakes the wait below.
            self.listen.borrow_and_update();
            if let Some(feed) = self.look() {
                return Ok(feed);
            }
            self.listen.changed().await.map_err(|_| WatchClosed)?;
        }
    }

    fn look(&mut self) -> Option<Feed> {
        loop {
            match &self.state {
                State::Begin(cause) => {
                    let cause = *cause;
                    let (lineage, since) = {
                        let fleet = self.fleet.read();
                        (fleet.head().lineage, fleet.head().revision)
                    };
                    self.state = State::Pages { lineage, since, page: Page::LimitsAndCells };
                    return Some(Feed::Reset { cause, lineage });
                }
                State::Pages { lineage, since, page } => {
                    let (lineage, since) = (*lineage, *since);
                    let (revision, records, next) = self.read_page(page);
                    self.state = match next {
                        Some(page) => State::Pages { lineage, since, page },
                        None => State::Rest { lineage, sent: since, until: revision },
                    };
                    // Whoever wants little is given an empty part rather than kept until something is found.
                    if !records.is_empty() || !self.filter.is_everything() {
                        return Some(Feed::Snapshot { revision, records });
                    }
                }
                State::Rest { lineage, sent, until } => return Some(self.rest(*lineage, *sent, *until)),
                State::Follow { lineage, after } => return self.follow(*lineage, *after),
            }
        }
    }

    fn read_page(&self, page: &Page) -> (Revision, Vec<Change>, Option<Page>) {
        let fleet = self.fleet.read();
        let revision = fleet.head().revision;
        match page {
            Page::LimitsAndCells => {
                let limits = std::iter::once(Change::Limits(fleet.limits()));
                let records = limits.chain(fleet.shared_cells().cloned().map(Change::Cell));
                let wanted = records.filter(|record| self.filter.standing(record)).collect();
                (revision, wanted, Some(Page::Tenants(None)))
            }
            Page::Tenants(after) => {
                let (records, last) = self.filter.tenants(&fleet, after.as_ref(), SNAPSHOT_PART_RECORDS);
                let next = last.map_or(Page::EndedMoves(None), |last| Page::Tenants(Some(last)));
                (revision, records, Some(next))
            }
            Page::EndedMoves(before) => {
                let ended = fleet.ended_moves_before(*before).take(SNAPSHOT_PART_RECORDS);
                let ended: Vec<Change> = ended.cloned().map(Change::MoveEnded).collect();
                let next = match ended.last() {
                    Some(Change::MoveEnded(last)) => Some(Page::EndedMoves(Some(last.movement.id))),
                    _ => None,
                };
                (revision, ended.into_iter().filter(|record| self.filter.standing(record)).collect(), next)
            }
        }
    }

    fn rest(&mut self, lineage: Lineage, sent: Revision, until: Revision) -> Feed {
        let (lineage_now, committed) = {
            let ring = self.hub.ring();
            (ring.lineage, ring.after(sent, CHANGES_PART_REVISIONS))
        };
        let Some(committed) = committed.filter(|_| lineage_now == lineage) else {
            // The ring has moved past the beginning of this snapshot: begin anew.
            self.state = State::Begin(ResetCause::Compacted);
            return self.look().unwrap_or(Feed::Reset { cause: ResetCause::Compacted, lineage: lineage_now });
        };
        let part: Vec<_> = committed.into_iter().filter(|committed| committed.revision <= until).collect();
        let Some(last) = part.last() else {
            self.state = State::Follow { lineage, after: until };
            return Feed::SnapshotEnd { revision: until, lineage };
        };
        self.state = State::Rest { lineage, sent: last.revision, until };
        let records = part.iter().flat_map(|committed| self.filter.of(committed)).collect();
        Feed::Snapshot { revision: until, records }
    }

    fn follow(&mut self, lineage: Lineage, mut after: Revision) -> Option<Feed> {
        loop {
            let (lineage_now, committed) = {
                let ring = self.hub.ring();
                (ring.lineage, ring.after(after, CHANGES_PART_REVISIONS))
            };
            if lineage_now != lineage {
                self.state = State::Begin(ResetCause::LineageChanged);
                return self.look();
            }
            let Some(committed) = committed else {
                self.state = State::Begin(ResetCause::Compacted);
                return self.look();
            };
            // A watcher that has seen more than this node simply waits until this node has caught up.
            after = committed.last()?.revision;
            self.state = State::Follow { lineage, after };
            let wanted = self.filter.of_all(committed);
            if !wanted.is_empty() {
                return Some(Feed::Changes(wanted));
            }
        }
    }
}

#[cfg(test)]
mod tests;
