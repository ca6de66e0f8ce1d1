//! Frames of the watch, made once for all who watch.
//!
//! ```text
//! changes ──► press: encode, sign ──► ring of frames (bounded) ──► the same bytes to watcher A, B, C …
//! ```
//!
//! One task follows the changes while anybody watches, and makes frames of them that follow each other without a gap. A
//! watcher has a revision; where a frame begins behind it, it takes that. Where none does (it resumes, or comes from a
//! snapshot), it makes frames of its own from the same changes until one does.
//!
//! Each frame costs each watcher a message, so with many watchers a frame waits a moment for more changes
//! ([`pause_between`]): 200 watchers of 2,000 changes a second get some 300 frames, not 2,000.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cell_model::{Change, FleetView, Lineage, Revision};
use cell_protos::v1;
use cell_protos::v1::watch_response::Frame;
use cell_store::{Committed, Feed};
use prost::Message;
use prost::bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::service::{Ground, signed};

/// Items in one frame, unless one revision has more.
pub(crate) const ITEMS_MAX: usize = 256;
/// Frames that are kept for those who are a little behind.
const FRAMES_MAX: usize = 1_024;
/// Bytes of frames that are kept.
const BYTES_MAX: usize = 4 << 20;
/// What a frame costs for each watcher, roughly: a message through its connection, sent by one of two processors.
const COST: Duration = Duration::from_micros(10);
/// No change waits for longer than this.
const PAUSE_MAX: Duration = Duration::from_millis(3);

/// The timer knows nothing shorter.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// Between two frames: so long that sending them leaves the processors time for something else.
fn pause_between(watchers: usize) -> Duration {
    let pause = COST.saturating_mul(u32::try_from(watchers).unwrap_or(u32::MAX)).min(PAUSE_MAX);
    if pause < PAUSE_MIN / 2 { Duration::ZERO } else { pause.max(PAUSE_MIN) }
}

/// Changes behind `after` up to and with `last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pressed {
    after: Revision,
    pub(crate) last: Revision,
    /// For those who want no moves. None: there is nothing in it for them.
    plain: Option<Bytes>,
    with_moves: Option<Bytes>,
}

impl Pressed {
    /// What is sent to a watcher; none where it has only to learn of the revision.
    pub(crate) fn message(&self, include_moves: bool) -> Option<Bytes> {
        if include_moves { self.with_moves.clone() } else { self.plain.clone() }
    }

    fn bytes(&self) -> usize {
        self.plain.iter().chain(&self.with_moves).map(Bytes::len).sum()
    }
}

/// What there is for a watcher.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The frame behind its revision.
    Frame(Arc<Pressed>),
    /// Its revision is within a frame, which ends here: up to there it has to make its own.
    Within(Revision),
    /// It is too far behind, or in another history.
    Before,
    /// Nothing yet.
    Wait,
}

#[derive(Debug, Default)]
struct Ring {
    lineage: Lineage,
    /// The first frame begins behind this revision.
    floor: Revision,
    frames: VecDeque<Arc<Pressed>>,
    bytes: usize,
}

impl Ring {
    fn next(&self, lineage: Lineage, position: Revision) -> Next {
        if lineage != self.lineage || position < self.floor {
            return Next::Before;
        }
        let place = self.frames.partition_point(|frame| frame.last <= position);
        match self.frames.get(place) {
            None => Next::Wait,
            Some(frame) if frame.after == position => Next::Frame(Arc::clone(frame)),
            Some(frame) => Next::Within(frame.last),
        }
    }

    fn push(&mut self, frame: Pressed) {
        self.bytes += frame.bytes();
        self.frames.push_back(Arc::new(frame));
        while self.frames.len() > FRAMES_MAX || (self.bytes > BYTES_MAX && self.frames.len() > 1) {
            if let Some(oldest) = self.frames.pop_front() {
                self.bytes -= oldest.bytes();
                self.floor = oldest.last;
            }
        }
    }
}

#[derive(Debug)]
enum State {
    /// It is about to follow the changes.
    Starting,
    Following(Ring),
    /// The store has stopped.
    Ended,
}

/// The frames of one node. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Press(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Rings with whatever changes above.
    bell: watch::Sender<()>,
    watchers: watch::Sender<usize>,
}

/// Somebody who watches. As long as it lives frames are made.
#[derive(Debug)]
pub(crate) struct Watching {
    press: Press,
    bell: watch::Receiver<()>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.press.0.watchers.send_modify(|watchers| *watchers -= 1);
    }
}

impl Watching {
    /// What there is behind a revision. Whatever comes after this look ends [`Self::changed`].
    pub(crate) fn next(&mut self, lineage: Lineage, position: Revision) -> Next {
        self.bell.borrow_and_update();
        match &*self.press.state() {
            State::Starting => Next::Wait,
            State::Following(ring) => ring.next(lineage, position),
            State::Ended => Next::Before,
        }
    }

    /// Waits until there may be more.
    pub(crate) async fn changed(&mut self) {
        // The sender lives as long as this.
        drop(self.bell.changed().await);
    }
}

/// Why following has ended.
enum Left {
    /// Nobody watches, or the changes cannot be followed from there any more.
    Again,
    Stopped,
}

impl Press {
    pub(crate) fn new() -> Self {
        let (state, bell, watchers) = (Mutex::new(State::Starting), watch::Sender::new(()), watch::Sender::new(0));
        Self(Arc::new(Shared { state, bell, watchers }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn become_now(&self, state: State) {
        *self.state() = state;
        self.0.bell.send_replace(());
    }

    /// Somebody begins to watch.
    pub(crate) fn enter(&self) -> Watching {
        self.0.watchers.send_modify(|watchers| *watchers += 1);
        Watching { press: self.clone(), bell: self.0.bell.subscribe() }
    }

    /// Makes frames while anybody watches, until `stop` or the end of the store.
    pub(crate) async fn run(self, ground: Ground, stop: CancellationToken) {
        let mut watchers = self.0.watchers.subscribe();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = watchers.wait_for(|watchers| *watchers > 0) => {}
            }
            if let Left::Stopped = self.follow(&ground, &mut watchers, &stop).await {
                break;
            }
            self.become_now(State::Starting);
        }
        self.become_now(State::Ended);
    }

    async fn follow(
        &self,
        ground: &Ground,
        watchers: &mut watch::Receiver<usize>,
        stop: &CancellationToken,
    ) -> Left {
        let (lineage, floor) = ground.view(|fleet| (fleet.lineage(), fleet.head().revision));
        let mut subscription = ground.store.subscribe(Some((lineage, floor)));
        self.become_now(State::Following(Ring { lineage, floor, ..Ring::default() }));
        let mut after = floor;
        loop {
            let fed = tokio::select! {
                () = stop.cancelled() => return Left::Stopped,
                _ = watchers.wait_for(|watchers| *watchers == 0) => return Left::Again,
                fed = subscription.next() => fed,
            };
            let committed = match fed {
                Ok(Feed::Changes(committed)) => committed,
                // It was too slow, or the history is another one: whoever watches hears it from the changes as well.
                Ok(Feed::Reset { .. } | Feed::Snapshot { .. } | Feed::SnapshotEnd { .. }) => return Left::Again,
                Err(_) => return Left::Stopped,
            };
            let begun = Instant::now();
            for part in parts(&committed) {
                let Ok(frame) = press(ground, after, part).await else { return Left::Stopped };
                after = frame.last;
                if let State::Following(ring) = &mut *self.state() {
                    ring.push(frame);
                }
            }
            self.0.bell.send_replace(());
            let pause = pause_between(*watchers.borrow());
            if !pause.is_zero() {
                tokio::time::sleep_until(begun + pause).await;
            }
        }
    }
}

/// Whole revisions, as many as fit into one frame.
pub(crate) fn parts(committed: &[Arc<Committed>]) -> impl Iterator<Item = &[Arc<Committed>]> {
    let mut rest = committed;
    std::iter::from_fn(move || {
        let mut items = rest.first()?.changes.len();
        let mut count = 1;
        while let Some(next) = rest.get(count) {
            items += next.changes.len();
            if items > ITEMS_MAX {
                break;
            }
            count += 1;
        }
        let (part, left) = rest.split_at(count);
        rest = left;
        Some(part)
    })
}

/// Makes a frame of revisions behind `after`.
pub(crate) async fn press(ground: &Ground, after: Revision, part: &[Arc<Committed>]) -> Result<Pressed, JoinError> {
    let last = part.last().map_or(after, |last| last.revision);
    let changes: Vec<Change> = part.iter().flat_map(|one| one.changes.iter().cloned()).collect();
    let has_moves = changes.iter().any(|change| matches!(change, Change::MoveEnded(_)));
    let message = |items: Option<v1::SignedItems>| items.map(|items| encode(Frame::Changes(items)));
    if !has_moves {
        let only = message(signed(ground, last, false, changes).await?);
        return Ok(Pressed { after, last, plain: only.clone(), with_moves: only });
    }
    let plain = message(signed(ground, last, false, changes.clone()).await?);
    let with_moves = message(signed(ground, last, true, changes).await?);
    Ok(Pressed { after, last, plain, with_moves })
}

/// A frame as it is sent.
pub(crate) fn encode(frame: Frame) -> Bytes {
    v1::WatchResponse { frame: Some(frame) }.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(after: u64, last: u64, bytes: usize) -> Pressed {
        let message = Some(Bytes::from(vec![0; bytes]));
        Pressed { after: Revision(after), last: Revision(last), plain: message, with_moves: None }
    }

    fn ring(frames: impl IntoIterator<Item = Pressed>) -> Ring {
        let mut ring = Ring { lineage: Lineage(1), floor: Revision(10), ..Ring::default() };
        frames.into_iter().for_each(|frame| ring.push(frame));
        ring
    }

    #[test]
    fn a_watcher_gets_the_frame_that_begins_where_it_is_and_is_told_where_to_join_otherwise() {
        let ring = ring([frame(10, 12, 1), frame(12, 20, 1)]);
        let at = |position| ring.next(Lineage(1), Revision(position));
        assert!(matches!(at(10), Next::Frame(frame) if frame.last == Revision(12)));
        assert_eq!(at(11), Next::Within(Revision(12)));
        assert!(matches!(at(12), Next::Frame(frame) if frame.last == Revision(20)));
        assert_eq!(at(13), Next::Within(Revision(20)));
        assert_eq!((at(20), at(25)), (Next::Wait, Next::Wait));
        assert_eq!(at(9), Next::Before);
        assert_eq!(ring.next(Lineage(2), Revision(12)), Next::Before);
    }

    #[test]
    fn what_is_kept_is_bounded_and_begins_with_a_whole_frame() {
        let many = ring((0..2 * 1_024).map(|number| frame(10 + number, 11 + number, 1)));
        assert_eq!((many.frames.len(), many.floor), (FRAMES_MAX, Revision(10 + 1_024)));
        let large = ring((0..10).map(|number| frame(10 + number, 11 + number, BYTES_MAX / 4)));
        assert_eq!((large.frames.len(), large.bytes, large.floor), (4, BYTES_MAX, Revision(16)));
        assert!(matches!(large.next(Lineage(1), large.floor), Next::Frame(_)));
    }

    #[test]
    fn a_revision_is_never_split_and_frames_are_of_bounded_size() {
        let limits = Change::Limits(cell_model::Limits::default());
        let committed = |revision, changes| Committed {
            revision,
            changes: vec![limits.clone(); changes],
            departures: Vec::new(),
        };
        let sizes = [100, 100, 100, 1, 300, 1];
        let all: Vec<_> =
            sizes.iter().zip(1..).map(|(size, at)| Arc::new(committed(Revision(at), *size))).collect();
        let counts: Vec<usize> = parts(&all).map(<[_]>::len).collect();
        assert_eq!(counts, [2, 2, 1, 1]);
        assert_eq!(parts(&all).flatten().count(), all.len());
    }

    #[test]
    fn with_few_watchers_no_change_waits_and_with_many_none_for_long() {
        assert_eq!(pause_between(49), Duration::ZERO);
        assert_eq!((pause_between(50), pause_between(100)), (PAUSE_MIN, PAUSE_MIN));
        assert_eq!(pause_between(200), Duration::from_millis(2));
        assert_eq!(pause_between(1_000_000), PAUSE_MAX);
    }
}
