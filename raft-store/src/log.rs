//! The Raft log on a [`LogEngine`]: acknowledged means synced, and one sync serves everybody who waits.
//!
//! ```text
//! append, save_vote, truncate ──► engine (visible at once) ──► queue ──► flusher: drain, one sync, complete in order
//! ```
//!
//! A failed sync is never tried again: the flusher fails everything from then on, and the node stops.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::OptionalSend;
use openraft::entry::RaftEntry;
use openraft::storage::{LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::{mpsc, oneshot, watch};

use crate::codec;
use crate::consensus::{Entry, IoFlushed, LogId, TypeConfig, Vote};
use crate::engine::LogEngine;
use crate::error::EngineError;
use crate::fault::Fault;
use crate::offload::sync_log;
use crate::pace::Pace;
use crate::recent::Recent;
use crate::wire::{WireEntry, WireHardState, WireLogId};

pub(crate) const META_HARD_STATE: &str = "hard-state";
pub(crate) const META_PURGED: &str = "purged";
/// Syncs that may wait; beyond it openraft waits.
const FLUSH_QUEUE: usize = 1_024;
/// Bytes of entries that are read at once for a follower.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

enum Waiter {
    Raft(IoFlushed),
    Caller(oneshot::Sender<Result<(), EngineError>>),
}

impl Waiter {
    fn complete(self, result: Result<(), EngineError>) {
        match self {
            Self::Raft(callback) => callback.io_completed(result.map_err(io::Error::from)),
            // A caller that is gone has no use for the answer.
            Self::Caller(answer) => drop(answer.send(result)),
        }
    }
}

/// The log of one node. Clones are the same log.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engine: Arc<dyn LogEngine>,
    hard_state: Mutex<WireHardState>,
    purged: Mutex<Option<WireLogId>>,
    recent: Mutex<Recent>,
    /// The last row that was handed to the engine.
    written: Arc<watch::Sender<u64>>,
    synced: Synced,
    flush: mpsc::Sender<Waiter>,
    fault: Fault,
    pace: Pace,
}

/// Up to which entry the log is surely on disk. Clones follow the same log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Synced(Arc<AtomicU64>);

impl Synced {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Up to which entry the log was handed to its engine. Clones follow the same log.
#[derive(Debug, Clone)]
pub(crate) struct Written(watch::Receiver<u64>);

impl From<watch::Receiver<u64>> for Written {
    fn from(written: watch::Receiver<u64>) -> Self {
        Self(written)
    }
}

impl Written {
    /// Now. [`Self::changed`] tells of what comes after.
    pub(crate) fn get(&mut self) -> u64 {
        *self.0.borrow_and_update()
    }

    /// Waits for more. False where no more will come.
    pub(crate) async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// Reads what is there and starts the flusher, which ends with the last clone.
    pub(crate) fn open(engine: Arc<dyn LogEngine>, fault: Fault) -> Result<Self, EngineError> {
        let mut hard_state = match engine.get_meta(META_HARD_STATE)? {
            Some(bytes) => codec::open(&bytes, || "the record of term and vote".into())?,
            None => WireHardState::default(),
        };
        if let Some(vote) = &mut hard_state.vote {
            // openraft would have a leader that was restarted go on in its old term. But it may have sent entries
            // that it had not synced and has lost: it would give their ids to others. As a mere vote, it makes the
            // node stand for election, in a new term.
            vote.committed = false;
        }
        let purged = match engine.get_meta(META_PURGED)? {
            Some(bytes) => Some(codec::open::<WireLogId>(&bytes, || "the record of the purge".into())?),
            None => None,
        };
        if let Some(purged) = purged {
            // A crash between the two steps of a purge leaves rows behind.
            engine.purge_to(purged.index)?;
        }
        check_beginning(&*engine, purged)?;
        let last = engine.last()?.map_or(0, |(index, _)| index);
        let (written, synced) = (Arc::new(watch::Sender::new(last)), Synced(Arc::new(AtomicU64::new(last))));
        let (flush, waiting) = mpsc::channel(FLUSH_QUEUE);
        let flusher = Flusher {
            engine: Arc::clone(&engine),
            written: Arc::clone(&written),
            synced: synced.clone(),
            fault: fault.clone(),
        };
        flusher.start(waiting)?;
        let (hard_state, purged) = (Mutex::new(hard_state), Mutex::new(purged));
        let (recent, pace) = (Mutex::default(), Pace::default());
        let inner = Inner { engine, hard_state, purged, recent, written, synced, flush, fault, pace };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether this node has ever voted.
    pub(crate) fn voted(&self) -> bool {
        locked(&self.inner.hard_state).vote.is_some()
    }

    /// What the state notes of this log, for [`Self::check_against`].
    pub(crate) fn synced(&self) -> Synced {
        self.inner.synced.clone()
    }

    pub(crate) fn pace(&self) -> Pace {
        self.inner.pace.clone()
    }

    /// Holds the log against what the state says of it.
    ///
    /// A log may end before what was applied: a node applies what the leader says is committed, and that may be on
    /// the disks of a majority before it is on its own. Such a log counts as purged up to what was applied (openraft
    /// does so when it starts, through [`RaftLogStorage::purge`], and a snapshot is written before): the snapshot holds
    /// the very entries that are missing, and they are committed, so nobody will ever ask to have them replaced. Saying
    /// "my log ends at what I applied" is then true, and a vote given on it is given on no less than this node had
    /// acknowledged, because of the first check: a log that has lost entries *that were synced*, and so may have
    /// counted towards a majority, is refused. `noted` is what the state remembers of that.
    ///
    /// Answers whether there is such a hole: openraft then wants a snapshot that covers it.
    pub(crate) fn check_against(&self, applied: Option<WireLogId>, noted: u64) -> Result<bool, EngineError> {
        let lost = |detail: String| EngineError::Corrupt { what: "the log".into(), detail };
        let Some(applied) = applied else { return Ok(false) };
        let purged = *locked(&self.inner.purged);
        let last = match self.inner.engine.last()? {
            Some((index, row)) => Some(WireLogId::from(&decode(index, &row)?.log_id)),
            None => purged,
        };
        let end = last.map_or(0, |last| last.index);
        if end < noted {
            return Err(lost(format!("it ends at entry {end}, and entry {noted} was synced")));
        }
        if end >= applied.index && last < Some(applied) {
            return Err(lost(format!("its end is older than entry {}, which was applied", applied.index)));
        }
        match locked(&self.inner.hard_state).vote {
            Some(vote) if vote.term >= applied.term => Ok(end < applied.index),
            _ => Err(lost(format!("it knows no vote of term {}, in which entries were applied", applied.term))),
        }
    }

    /// Reads every entry. Answers how many there are.
    pub(crate) fn check_all(&self) -> Result<u64, EngineError> {
        let Some((last, _)) = self.inner.engine.last()? else { return Ok(0) };
        let (mut next, mut count) = (locked(&self.inner.purged).map_or(0, |purged| purged.index + 1), 0);
        while next <= last {
            let entries = self.read(next, last + 1, READ_BYTES_MAX)?;
            let Some(end) = entries.last().map(RaftEntry::index) else { break };
            count += entries.len() as u64;
            next = end + 1;
        }
        Ok(count)
    }

    /// How far it goes, and when it grows.
    pub(crate) fn written(&self) -> Written {
        self.inner.written.subscribe().into()
    }

    async fn wait_for_sync(&self) -> Result<(), EngineError> {
        let (answer, synced) = oneshot::channel();
        let stopped = || EngineError::Io { operation: "syncing", reason: "the flusher has ended".into() };
        self.inner.flush.send(Waiter::Caller(answer)).await.map_err(|_| stopped())?;
        synced.await.unwrap_or_else(|_| Err(stopped()))
    }

    fn write<T>(&self, write: impl FnOnce(&dyn LogEngine) -> Result<T, EngineError>) -> Result<T, EngineError> {
        self.inner.fault.check()?;
        self.inner.fault.note(write(&*self.inner.engine))
    }

    fn put_hard_state(&self, change: impl FnOnce(&mut WireHardState)) -> Result<(), EngineError> {
        let sealed = {
            let mut hard_state = locked(&self.inner.hard_state);
            change(&mut hard_state);
            codec::seal(&*hard_state)
        };
        self.write(|engine| engine.put_meta(META_HARD_STATE, &sealed))
    }

    fn read(&self, from: u64, until: u64, bytes_max: usize) -> Result<Vec<Entry>, EngineError> {
        if let Some(entries) = locked(&self.inner.recent).range(from, until, bytes_max) {
            return Ok(entries);
        }
        let rows = self.inner.engine.range(from, until, bytes_max)?;
        let entries: Vec<Entry> = rows.iter().map(|(index, row)| decode(*index, row)).collect::<Result<_, _>>()?;
        match entries.windows(2).find(|pair| pair[0].index() + 1 != pair[1].index()) {
            Some(pair) => Err(EngineError::Corrupt {
                what: "the log".into(),
                detail: format!("there is nothing between entries {} and {}", pair[0].index(), pair[1].index()),
            }),
            None => Ok(entries),
        }
    }
}

fn decode(index: u64, row: &[u8]) -> Result<Entry, EngineError> {
    let what = || format!("log entry {index}");
    let corrupt = |detail: String| EngineError::Corrupt { what: what(), detail };
    let wire: WireEntry = codec::open(row, what)?;
    if wire.id.index != index {
        return Err(corrupt(format!("it says that it is entry {}", wire.id.index)));
    }
    wire.into_entry().map_err(corrupt)
}

/// The log begins right behind what was purged: files of its beginning may have been lost.
fn check_beginning(engine: &dyn LogEngine, purged: Option<WireLogId>) -> Result<(), EngineError> {
    let wanted = purged.map_or(0, |purged| purged.index + 1);
    match engine.range(wanted, u64::MAX, 0)?.first() {
        // The first entry of a log has index 0, or 1 after a restore.
        Some((first, _)) if *first > wanted.max(1) => Err(EngineError::Corrupt {
            what: "the log".into(),
            detail: format!("it begins with entry {first}, and was purged only before entry {wanted}"),
        }),
        _ => Ok(()),
    }
}

/// What syncs for everybody who waits.
struct Flusher {
    engine: Arc<dyn LogEngine>,
    written: Arc<watch::Sender<u64>>,
    synced: Synced,
    fault: Fault,
}

impl Flusher {
    /// A sync that blocks gets a thread of its own: between an entry and its sync there is one wake-up.
    fn start(self, mut waiting: mpsc::Receiver<Waiter>) -> Result<(), EngineError> {
        if !self.engine.sync_blocks() {
            tokio::spawn(self.run(waiting));
            return Ok(());
        }
        let thread = std::thread::Builder::new().name("log-sync".into()).spawn(move || {
            let mut group = Vec::new();
            while waiting.blocking_recv_many(&mut group, FLUSH_QUEUE) > 0 {
                let written = *self.written.borrow();
                let result = self.fault.check().and_then(|()| self.engine.sync());
                self.complete(&mut group, written, result);
            }
        });
        let failed =
            |error: io::Error| EngineError::Io { operation: "starting a thread", reason: error.to_string() };
        thread.map(drop).map_err(failed)
    }

    async fn run(self, mut waiting: mpsc::Receiver<Waiter>) {
        let mut group = Vec::new();
        while waiting.recv_many(&mut group, FLUSH_QUEUE).await > 0 {
            let written = *self.written.borrow();
            let result = match self.fault.check() {
                Ok(()) => sync_log(&self.engine).await,
                poisoned => poisoned,
            };
            self.complete(&mut group, written, result);
        }
    }

    fn complete(&self, group: &mut Vec<Waiter>, written: u64, result: Result<(), EngineError>) {
        // A fault that is known already stays as it was.
        let result = self.fault.check().and_then(|()| self.fault.note(result));
        if result.is_ok() {
            self.synced.0.store(written, Ordering::Release);
        }
        for waiter in group.drain(..) {
            waiter.complete(result.clone());
        }
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let until = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        Ok(self.inner.fault.note(self.read(from, until, usize::MAX))?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        Ok(self.inner.fault.note(self.read(start, end, READ_BYTES_MAX))?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(locked(&self.inner.hard_state).vote.map(Vote::from))
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let purged = locked(&self.inner.purged).map(LogId::from);
        let last = match self.inner.fault.note(self.inner.engine.last())? {
            Some((index, row)) => Some(decode(index, &row)?.log_id),
            None => purged,
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.put_hard_state(|hard_state| hard_state.vote = Some(vote.into()))?;
        Ok(self.wait_for_sync().await?)
    }

    /// Not synced: it rides on the next sync, and an older one only means that more is applied again.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        committed.iter().for_each(|committed| self.inner.pace.committed(committed.index));
        Ok(self.put_hard_state(|hard_state| hard_state.committed = committed.as_ref().map(WireLogId::from))?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let committed = locked(&self.inner.hard_state).committed.map(LogId::from);
        // What is known to be committed may have been written when the entries were not: it then means nothing.
        let last = self.get_log_state().await?.last_log_id;
        Ok(committed.min(last))
    }

    async fn append<I>(&mut self, entries: I, callback: IoFlushed) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let rows: Vec<_> =
            entries.iter().map(|entry| (entry.index(), codec::seal(&WireEntry::from(entry.clone())))).collect();
        self.write(|engine| engine.append(&rows))?;
        {
            let mut recent = locked(&self.inner.recent);
            for (entry, (_, row)) in entries.into_iter().zip(&rows) {
                recent.push(entry, row.len());
            }
        }
        if let Some((last, _)) = rows.last() {
            self.inner.written.send_replace(*last);
        }
        let stopped = |_| io::Error::other("the flusher has ended");
        self.inner.flush.send(Waiter::Raft(callback)).await.map_err(stopped)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let first_gone = last_log_id.map_or(0, |last| last.index + 1);
        // Only entries that were not committed are truncated, and the state notes only of applied ones.
        self.inner.written.send_replace(first_gone.saturating_sub(1));
        locked(&self.inner.recent).truncate_from(first_gone);
        self.write(|engine| engine.truncate_from(first_gone))?;
        Ok(self.wait_for_sync().await?)
    }

    /// Waits for no disk, because Raft does nothing else meanwhile. What is purged is in a snapshot, and a snapshot is on its
    /// disk before Raft hears of it.
    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let purged = WireLogId::from(&log_id);
        *locked(&self.inner.purged) = Some(purged);
        locked(&self.inner.recent).purge_to(purged.index);
        self.write(|engine| {
            engine.put_meta(META_PURGED, &codec::seal(&purged))?;
            engine.purge_to(purged.index)
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MemoryLog;
    use crate::wire::{WirePayload, WireVote};

    fn id(term: u64, index: u64) -> WireLogId {
        WireLogId { term, node: 1, index }
    }

    /// A log with entries `1..=last` of term 2 and a vote of that term.
    fn log(last: u64) -> Log {
        let engine = MemoryLog::default();
        let entry = |index| WireEntry { id: id(2, index), payload: WirePayload::Blank };
        engine.append(&(1..=last).map(|index| (index, codec::seal(&entry(index)))).collect::<Vec<_>>()).unwrap();
        let vote = Some(WireVote { term: 2, node: 1, committed: true });
        engine.put_meta(META_HARD_STATE, &codec::seal(&WireHardState { vote, committed: None })).unwrap();
        Log::open(Arc::new(engine), Fault::new()).unwrap()
    }

    fn refused(log: &Log, applied: WireLogId, noted: u64) -> String {
        log.check_against(Some(applied), noted).expect_err("it is refused").to_string()
    }

    #[tokio::test]
    async fn a_log_that_ends_before_what_was_applied_counts_as_purged_unless_that_was_synced() {
        // Entries 401 and 402 were applied, because others had them on disk, and not yet synced here.
        let behind = log(400);
        assert!(behind.check_against(Some(id(2, 402)), 400).unwrap());
        assert!(behind.check_against(Some(id(2, 402)), 0).unwrap());
        assert!(refused(&behind, id(2, 402), 401).contains("ends at entry 400, and entry 401 was synced"));
        assert!(refused(&log(0), id(2, 402), 1).contains("ends at entry 0"));
    }

    #[tokio::test]
    async fn a_log_that_differs_from_what_was_applied_or_has_lost_its_vote_is_refused() {
        assert!(refused(&log(5), id(3, 5), 0).contains("older than entry 5"));
        assert!(refused(&log(3), id(3, 5), 0).contains("no vote of term 3"));
        assert!(!log(5).check_against(None, 0).unwrap());
    }

    #[tokio::test]
    async fn a_log_that_has_lost_its_beginning_is_refused() {
        let engine = MemoryLog::default();
        let entry = |index| WireEntry { id: id(2, index), payload: WirePayload::Blank };
        engine.append(&(5..=9).map(|index| (index, codec::seal(&entry(index)))).collect::<Vec<_>>()).unwrap();
        let open = |engine: &MemoryLog| Log::open(Arc::new(engine.clone()), Fault::new()).map(drop);
        let refused = open(&engine).expect_err("entries 0 to 4 are gone").to_string();
        assert!(refused.contains("begins with entry 5"), "{refused}");
        engine.put_meta(META_PURGED, &codec::seal(&id(1, 4))).unwrap();
        open(&engine).unwrap();
    }

    #[tokio::test]
    async fn the_hole_between_log_and_state_is_purged_when_openraft_starts_from_them() {
        let mut behind = log(400);
        behind.purge(id(2, 402).into()).await.unwrap();
        let state = behind.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id, Some(id(2, 402).into()));
        assert_eq!(state.last_log_id, Some(id(2, 402).into()));
        assert_eq!(behind.check_all().unwrap(), 0);
        assert!(!behind.check_against(Some(id(2, 402)), 400).unwrap(), "the hole is closed");
    }
}
