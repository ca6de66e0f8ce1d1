//! The watch: what the store's hub feeds, signed and put into frames, with marks of progress in between. Frames of changes
//! are mostly those that [`crate::press`] has made for everybody.
//!
//! ```text
//! subscription ──► Reset ──► Snapshot… ──► SnapshotEnd ──► Changes… ──► …
//!                    │ another history: LineageChanged first
//!                    │ in the middle of a snapshot: the stream ends with WATCH_RESTART, the client begins anew
//!                    └─ after changes (fell behind): a snapshot on the same stream
//! ```
//!
//! Who wants only some of it gets frames of its own, and progress for what is not in them.
//!
//! A watcher that does not take its frames is cut off with WATCHER_TOO_SLOW. Both ends are resumable by revision. A node has
//! [`WATCHERS_MAX`] at once.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cell_client::Link;
use cell_model::{CellId, Change, FleetView, InvalidId, Lineage, Revision};
use cell_protos::v1::watch_response::Frame;
use cell_protos::{Malformed, v1};
use cell_store::{Committed, Feed, Filter, ResetCause, Subscription, WatchClosed};
use futures::{Stream, StreamExt};
use prost::bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinError;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::Ground;
use crate::press::{ITEMS_MAX, Next, Pressed, Watching, encode, parts, press};
use crate::refusal::{malformed, not_leader, watch_ended};
use crate::signer::routed;

/// Watchers of a node at once.
const WATCHERS_MAX: usize = 4_096;
/// Frames that wait for one watcher.
const FRAMES_WAITING_MAX: usize = 16;
/// How long a watcher may leave its frames waiting.
const PATIENCE: Duration = Duration::from_secs(10);
const PROGRESS_DEFAULT: Duration = Duration::from_secs(1);
const PROGRESS: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);

/// So many items are encoded and signed where they are, in less than a tenth of a millisecond: on a busy machine another
/// thread takes longer to get to it.
const FEW: usize = 64;

/// What a watcher gets, as it is sent.
pub(super) type Frames = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// No tenant has a longer name.
const PREFIX_BYTES_MAX: usize = 63;

/// What a watcher wants.
fn filter(wire: v1::WatchFilter) -> Result<Filter, Malformed> {
    fn id<T: std::str::FromStr<Err = InvalidId>>(field: &'static str, text: &str) -> Result<Option<T>, Malformed> {
        let parsed = (!text.is_empty()).then(|| text.parse()).transpose();
        parsed.map_err(|invalid: InvalidId| Malformed::new(field, invalid.to_string()))
    }
    let begins_a_name = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let prefix = wire.prefix.as_bytes();
    let fits = prefix.len() <= PREFIX_BYTES_MAX
        && prefix.first().is_none_or(begins_a_name)
        && prefix.iter().all(|byte| begins_a_name(byte) || *byte == b'-');
    if !fits {
        let rule = "no tenant's name begins so: at most 63 characters of a-z, 0-9 and '-', the first one no '-'";
        return Err(Malformed::new("filter.prefix", rule));
    }
    let cell: Option<CellId> = id("filter.cell", &wire.cell)?;
    Ok(Filter { tenant: id("filter.tenant", &wire.tenant)?, prefix: wire.prefix, cell })
}

/// Who watches this node: each has frames that wait and a task of its own, so there is a limit.
#[derive(Debug, Clone)]
pub(crate) struct Watchers(Arc<Semaphore>);

impl Default for Watchers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WATCHERS_MAX)))
    }
}

impl Watchers {
    /// A place, until it is dropped.
    fn enter(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = Arc::clone(&self.0).try_acquire_owned();
        place.map_err(|_full| {
            let message = format!("{WATCHERS_MAX} watch this node already");
            watch_ended(Code::ResourceExhausted, "WATCHERS_FULL", &message)
        })
    }
}

/// Begins to watch.
pub(super) fn begin(ground: &Ground, wire: &v1::WatchRequest) -> Result<Frames, Status> {
    // A node that has not joined yet would hand out an empty fleet as if it were all.
    if !ground.store.status().initialized {
        return Err(not_leader(None, false));
    }
    let asked = Duration::from_millis(u64::from(wire.progress_interval_ms));
    let progress = if asked.is_zero() { PROGRESS_DEFAULT } else { asked.clamp(*PROGRESS.start(), *PROGRESS.end()) };
    let filter = filter(wire.filter.clone().unwrap_or_default()).map_err(|error| malformed(&error))?;
    let resumes = wire.after_revision != 0;
    let lineage = match wire.lineage {
        0 => ground.view(|fleet| fleet.lineage()),
        lineage => Lineage(lineage),
    };
    let after = resumes.then_some((lineage, Revision(wire.after_revision)));
    let place = ground.watchers.enter()?;
    let (frames, taken) = mpsc::channel(FRAMES_WAITING_MAX);
    let (end, ended) = oneshot::channel();
    let sender = Sender {
        ground: ground.clone(),
        include_moves: wire.include_moves,
        frames,
        sent: after.map(|(_, revision)| revision),
        in_snapshot: false,
        // What is made for everybody is of no use to whoever wants only some of it.
        watching: filter.is_everything().then(|| ground.press.enter()),
    };
    let subscription = ground.store.subscribe_to(filter, after);
    tracing::debug!(client = wire.client, after = wire.after_revision, "watch begun");
    let client = wire.client.clone();
    tokio::spawn(async move {
        let status = sender.run(subscription, progress).await;
        drop(place);
        if let Some(status) = status {
            tracing::debug!(client, reason = status.message(), "watch ended");
            // The watcher may be gone, and then nobody asks.
            drop(end.send(status));
        }
    });
    // What waits is handed out first, then why it ended.
    let last = futures::stream::once(ended).filter_map(|status| std::future::ready(status.ok().map(Err)));
    Ok(Box::pin(ReceiverStream::new(taken).map(Ok).chain(last)))
}

struct Sender {
    ground: Ground,
    include_moves: bool,
    frames: mpsc::Sender<Bytes>,
    /// Everything up to here has been sent.
    sent: Option<Revision>,
    in_snapshot: bool,
    watching: Option<Watching>,
}

/// What comes next.
enum Step {
    /// A frame that was made for everybody.
    Pressed(Arc<Pressed>),
    Feed(Feed),
}

/// It may be dropped at any time without losing anything.
async fn next(subscription: &mut Subscription, watching: Option<&mut Watching>) -> Result<Step, WatchClosed> {
    let Some(watching) = watching else { return subscription.next().await.map(Step::Feed) };
    loop {
        let Some((lineage, position)) = subscription.position() else {
            return subscription.next().await.map(Step::Feed);
        };
        match watching.next(lineage, position) {
            Next::Frame(frame) => {
                subscription.go_on_after(frame.last);
                return Ok(Step::Pressed(frame));
            }
            Next::Within(until) => {
                let mut feed = subscription.next().await?;
                if let Feed::Changes(committed) = &mut feed {
                    committed.retain(|one| one.revision <= until);
                    subscription.go_on_after(committed.last().map_or(until, |last| last.revision));
                }
                return Ok(Step::Feed(feed));
            }
            Next::Before => return subscription.next().await.map(Step::Feed),
            Next::Wait => watching.changed().await,
        }
    }
}

impl Sender {
    /// Why the stream ends; none where the watcher is gone.
    async fn run(mut self, mut subscription: Subscription, progress: Duration) -> Option<Status> {
        let (closing, taken) = (self.ground.closing.clone(), self.frames.clone());
        let mut marks = tokio::time::interval_at(Instant::now() + progress, progress);
        marks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Waited for once and not anew with each frame: all watchers of a node wait for the first of the two, in one list.
        let (closed, gone) = (closing.cancelled(), taken.closed());
        tokio::pin!(closed, gone);
        loop {
            if closing.is_cancelled() {
                return Some(stopping());
            }
            let done = tokio::select! {
                biased;
                step = next(&mut subscription, self.watching.as_mut()) => match step {
                    Ok(Step::Pressed(frame)) => self.pressed(&frame).await,
                    Ok(Step::Feed(feed)) => self.feed(feed).await,
                    Err(_) => Err(Some(stopping())),
                },
                () = &mut closed => Err(Some(stopping())),
                () = &mut gone => Err(None),
                _ = marks.tick() => {
                    // What is not wanted has been passed over without a frame.
                    self.sent = subscription.position().map(|(_, at)| at).or(self.sent);
                    self.mark().await
                }
            };
            if let Err(status) = done {
                return status;
            }
        }
    }

    async fn feed(&mut self, feed: Feed) -> Result<(), Option<Status>> {
        match feed {
            Feed::Reset { .. } if self.in_snapshot => Err(Some(watch_ended(
                Code::Aborted,
                "WATCH_RESTART",
                "more has changed during the snapshot than is remembered",
            ))),
            Feed::Reset { cause, lineage } => {
                self.in_snapshot = true;
                self.sent = None;
                match cause {
                    ResetCause::LineageChanged => {
                        self.send_frame(Frame::LineageChanged(v1::LineageChanged { lineage: lineage.get() })).await
                    }
                    ResetCause::Asked | ResetCause::Compacted => Ok(()),
                }
            }
            Feed::Snapshot { revision, records } => {
                for part in records.chunks(ITEMS_MAX) {
                    let signed = signed(&self.ground, revision, self.include_moves, part.to_vec()).await;
                    if let Some(items) = signed.map_err(|_| Some(stopping()))? {
                        self.send_frame(Frame::Snapshot(items)).await?;
                    }
                }
                if records.is_empty() {
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
            Feed::SnapshotEnd { revision, lineage } => {
                self.in_snapshot = false;
                self.sent = Some(revision);
                let end = v1::SnapshotEnd { revision: revision.get(), lineage: lineage.get() };
                self.send_frame(Frame::SnapshotEnd(end)).await
            }
            Feed::Changes(committed) => self.changes(committed).await,
        }
    }

    /// Frames of its own, for a watcher that is not where the others are.
    async fn changes(&mut self, committed: Vec<Arc<Committed>>) -> Result<(), Option<Status>> {
        for part in parts(&committed) {
            let after = self.sent.unwrap_or_default();
            let frame = press(&self.ground, after, part).await.map_err(|_| Some(stopping()))?;
            self.pressed(&frame).await?;
        }
        Ok(())
    }

    async fn pressed(&mut self, frame: &Pressed) -> Result<(), Option<Status>> {
        self.sent = Some(frame.last);
        match frame.message(self.include_moves) {
            Some(message) => self.send(message).await,
            // Nothing in it for this watcher, but it may be waiting for the revision.
            None => self.mark().await,
        }
    }

    async fn mark(&mut self) -> Result<(), Option<Status>> {
        match self.sent {
            Some(revision) => self.send_frame(Frame::Progress(v1::Progress { revision: revision.get() })).await,
            None => Ok(()),
        }
    }

    async fn send_frame(&self, frame: Frame) -> Result<(), Option<Status>> {
        self.send(encode(frame)).await
    }

    async fn send(&self, message: Bytes) -> Result<(), Option<Status>> {
        hand(&self.frames, message).await
    }
}

/// Hands a frame to a watcher, which may leave it waiting for a while, but not for ever.
async fn hand(frames: &mpsc::Sender<Bytes>, message: Bytes) -> Result<(), Option<Status>> {
    let message = match frames.try_send(message) {
        Ok(()) => return Ok(()),
        Err(TrySendError::Closed(_)) => return Err(None),
        Err(TrySendError::Full(message)) => message,
    };
    match tokio::time::timeout(PATIENCE, frames.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(None),
        Err(_) => Err(Some(watch_ended(
            Code::ResourceExhausted,
            "WATCHER_TOO_SLOW",
            "the watcher has not taken its frames in time",
        ))),
    }
}

fn stopping() -> Status {
    watch_ended(Code::Unavailable, "NODE_STOPPED", "this node is stopping")
}

/// Encodes and signs, off the threads that answer others where it is much. None: nothing of it is for this watcher.
pub(crate) async fn signed(
    ground: &Ground,
    revision: Revision,
    include_moves: bool,
    changes: Vec<Change>,
) -> Result<Option<v1::SignedItems>, JoinError> {
    let few = changes.len() <= FEW;
    let sign = move |ground: &Ground| {
        let items: Vec<_> = changes.iter().filter_map(|change| item(ground, include_moves, change)).collect();
        let of = |items| v1::WatchItems { revision: revision.get(), items };
        (!items.is_empty()).then(|| ground.signer.sign_items(&of(items)))
    };
    // A host that is passed in has no threads: what it does has its place in simulated time, however busy the machine is.
    if few || matches!(ground.link, Link::Within(_)) {
        return Ok(sign(ground));
    }
    let ground = ground.clone();
    tokio::task::spawn_blocking(move || sign(&ground)).await
}

fn item(ground: &Ground, include_moves: bool, change: &Change) -> Option<v1::WatchItem> {
    use v1::watch_item::Item;
    let item = match change {
        Change::Tenant(record) => {
            let (cluster, owner) = ground.view(|fleet| (fleet.head().cluster, fleet.shared_cell(&record.owner)));
            Item::Mapping(routed(cluster, record, owner.as_deref()).encode().into())
        }
        Change::Cell(record) => Item::Cell(record.as_ref().into()),
        Change::MoveEnded(record) if include_moves => Item::MoveEnded(record.as_ref().into()),
        Change::Limits(limits) => Item::Limits((*limits).into()),
        Change::MoveEnded(_) | Change::Reconciled(_) => return None,
    };
    Some(v1::WatchItem { item: Some(item) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_so_many_watchers_and_another_one_when_one_has_left() {
        let watchers = Watchers::default();
        let mut places: Vec<_> = (0..WATCHERS_MAX).map(|_| watchers.enter().expect("there is room")).collect();
        let refused = watchers.enter().unwrap_err();
        assert_eq!(cell_client::code_of(&refused).as_deref(), Some("WATCHERS_FULL"));
        places.pop();
        places.push(watchers.enter().expect("one has left"));
        assert!(watchers.enter().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_may_leave_some_frames_waiting_for_a_while_and_then_is_let_go() {
        let (frames, mut taken) = mpsc::channel(FRAMES_WAITING_MAX);
        let frame = || Bytes::from_static(b"frame");
        for _ in 0..FRAMES_WAITING_MAX {
            hand(&frames, frame()).await.expect("so many may wait");
        }
        // It takes one just in time.
        let taking = async {
            tokio::time::sleep(PATIENCE - Duration::from_millis(1)).await;
            taken.recv().await
        };
        let (handed, _) = tokio::join!(hand(&frames, frame()), taking);
        handed.expect("there is room again");
        // It takes none.
        let begun = Instant::now();
        let refused = hand(&frames, frame()).await.unwrap_err().expect("it is told why");
        assert_eq!(cell_client::code_of(&refused).as_deref(), Some("WATCHER_TOO_SLOW"));
        assert!(begun.elapsed() >= PATIENCE && taken.len() == FRAMES_WAITING_MAX, "no more wait meanwhile");
        // It is gone, also while it is waited for.
        let going = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            drop(taken);
        };
        let (gone, ()) = tokio::join!(hand(&frames, frame()), going);
        assert!(gone.unwrap_err().is_none() && hand(&frames, frame()).await.unwrap_err().is_none());
    }
}
