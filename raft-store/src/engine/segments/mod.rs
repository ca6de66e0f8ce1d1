//! The log as segments: files of a fixed length, made ahead, written from the front to the back and used again.
//!
//! ```text
//! 0000000000000007.log   begin · values · row · row · purge · row …      full
//! 0000000000000008.log   begin · values · row · value · row ▏0000000     written here
//! 0000000000000009.log   0000000000000000000000000000000000000000000     made ahead, by a thread, at half
//! synced                 how far the log was synced, as of the last sync
//! ```
//!
//! Everything is a record that is added at the end ([`record`]): rows, named values (vote and term are one), truncations
//! and purges. A write is one `pwrite`, a sync one `fdatasync` that moves data and no metadata. Each segment begins with
//! all named values, so that the oldest can go as soon as none of its rows is wanted; after a sync, because only then
//! the record that makes it unwanted is on disk, and by a thread, because nobody waits for it. What a start finds is in
//! [`recovery`]; a segment that was not yet released is found to be unwanted again.

mod file;
mod record;
mod recovery;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use file::{Segment, failed};
use record::{Kind, Record};
use recovery::{Contents, Recovered, corrupt};
use serde::{Deserialize, Serialize};

use super::watermark::Watermark;
use super::{LOCKED, LogEngine};
use crate::error::EngineError;

/// Length of a segment.
const SEGMENT_BYTES: u32 = 4 * 1024 * 1024;

/// A place in the log. Later is greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Position {
    segment: u64,
    offset: u32,
}

/// Where the record of a row is.
#[derive(Debug, Clone, Copy)]
struct Place {
    segment: u64,
    offset: u32,
    /// Of the payload.
    length: u32,
}

/// The next segment.
#[derive(Debug)]
enum Spare {
    None,
    Ready(Segment),
    Coming(Making),
    /// It could not be made, or an old one could not be released. Nothing is made or released any more.
    Failed(EngineError),
}

type Making = JoinHandle<Result<Segment, EngineError>>;

#[derive(Debug)]
struct State {
    contents: Contents,
    segments: BTreeMap<u64, Arc<Segment>>,
    /// Where the next record goes.
    end: Position,
    /// How far everything is surely on disk.
    synced: Position,
    /// What has been written to since the last sync began.
    unsynced: Vec<Arc<Segment>>,
    /// Records before `end` that are not in the file yet: within one call only.
    buffer: Vec<u8>,
    spare: Spare,
    /// Removes segments that nobody wants any more.
    removing: Option<JoinHandle<Result<(), EngineError>>>,
}

/// The log on segments.
#[derive(Debug)]
pub struct SegmentLog {
    directory: PathBuf,
    capacity: u32,
    state: Mutex<State>,
    /// One sync at a time.
    watermark: Mutex<Watermark>,
    /// Nobody else writes here. A thread that makes a segment holds it as well.
    lock: Arc<File>,
}

/// Who has just ended may hold it for a moment longer.
fn lock(directory: &Path) -> Result<File, EngineError> {
    const TRIES: u32 = 50;
    const PAUSE: Duration = Duration::from_millis(20);
    let opened = File::options().create(true).truncate(false).write(true).open(directory.join("lock"));
    let file = opened.map_err(failed("locking the log"))?;
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(TryLockError::Error(error)) => return Err(failed("locking the log")(error)),
        }
    }
    Err(EngineError::Io { operation: "locking the log", reason: LOCKED.into() })
}

impl SegmentLog {
    /// Opens or makes the log in a directory of its own.
    ///
    /// # Errors
    /// [`EngineError`] where it cannot be read or written, or is not what was written.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, EngineError> {
        Self::open_sized(path, SEGMENT_BYTES)
    }

    /// As [`Self::open`], with segments of a given length.
    pub(crate) fn open_sized(path: impl Into<PathBuf>, capacity: u32) -> Result<Self, EngineError> {
        let directory = path.into();
        fs::create_dir_all(&directory).map_err(failed("making the directory of the log"))?;
        let lock = Arc::new(lock(&directory)?);
        let (watermark, noted) = Watermark::open(&directory.join("synced"))?;
        let recovered = match recovery::recover(&directory, noted)? {
            Some(recovered) => recovered,
            None => begin(&directory, capacity)?,
        };
        let Recovered { contents, segments, end } = recovered;
        let segments = segments.into_iter().map(|(number, segment)| (number, Arc::new(segment))).collect();
        let mut state = State {
            contents,
            segments,
            end,
            synced: noted,
            unsynced: Vec::new(),
            buffer: Vec::new(),
            spare: Spare::None,
            removing: None,
        };
        if end.offset == 0 {
            state.add(Kind::Begin, 0, &0_u32.to_le_bytes());
            state.write_out()?;
        } else {
            // A process that was killed may have left what it had not synced.
            state.unsynced.extend(state.segments.values().cloned());
        }
        let (state, watermark) = (Mutex::new(state), Mutex::new(watermark));
        let log = Self { directory, capacity, state, watermark, lock };
        log.sync()?;
        Ok(log)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record, in a new segment where this one has no room. Answers where its payload is.
    fn add(&self, state: &mut State, kind: Kind, index: u64, payload: &[u8]) -> Result<Place, EngineError> {
        let needed = short(record::length(payload.len()))?;
        if state.active()?.capacity - state.end.offset < needed {
            self.roll(state, needed)?;
        }
        let place = Place { segment: state.end.segment, offset: state.end.offset, length: short(payload.len())? };
        state.add(kind, index, payload);
        Ok(place)
    }

    /// Goes on in the next segment, which begins with the named values.
    fn roll(&self, state: &mut State, needed: u32) -> Result<(), EngineError> {
        state.write_out()?;
        let values: Vec<Vec<u8>> =
            state.contents.meta.iter().map(|(name, value)| record::meta_payload(name, value)).collect();
        let begin = record::length(size_of::<u32>())
            + values.iter().map(|value| record::length(value.len())).sum::<usize>();
        let capacity = self.capacity.max(short(begin)?.saturating_add(needed));
        let number = state.end.segment + 1;
        state.wait_for_spare()?;
        let ready = match std::mem::replace(&mut state.spare, Spare::None) {
            Spare::Ready(segment) => Some(segment),
            Spare::None | Spare::Coming(_) | Spare::Failed(_) => None,
        };
        let segment = match ready.filter(|segment| segment.number == number && segment.capacity >= capacity) {
            Some(segment) => segment,
            None => Segment::make(&self.directory, number, capacity)?,
        };
        state.contents.live.insert(number, 0);
        state.segments.insert(number, Arc::new(segment));
        let before = state.end.offset;
        state.end = Position { segment: number, offset: 0 };
        state.add(Kind::Begin, 0, &before.to_le_bytes());
        values.iter().for_each(|value| state.add(Kind::Meta, 0, value));
        Ok(())
    }

    /// Has the next segment made when half of this one is used.
    fn prepare(&self, state: &mut State) {
        if state.end.offset < self.capacity / 2 || !matches!(state.spare, Spare::None) {
            return;
        }
        let (number, capacity) = (state.end.segment + 1, self.capacity);
        // Where there is no thread to be had it is made when it is needed.
        if let Some(making) = self.begin(move |directory| Segment::make(directory, number, capacity)) {
            state.spare = Spare::Coming(making);
        }
    }

    /// Begins work on the files, on a thread of its own.
    fn begin<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, EngineError> + Send + 'static,
    ) -> Option<JoinHandle<Result<T, EngineError>>> {
        let (directory, lock) = (self.directory.clone(), Arc::clone(&self.lock));
        let worked = move || {
            let done = work(&directory);
            drop(lock);
            done
        };
        std::thread::Builder::new().name("log-segment".into()).spawn(worked).ok()
    }

    /// Adds one record and hands it to the kernel.
    fn write(&self, kind: Kind, index: u64, payload: &[u8]) -> Result<MutexGuard<'_, State>, EngineError> {
        let mut state = self.state();
        self.add(&mut state, kind, index, payload)?;
        state.write_out()?;
        Ok(state)
    }

    fn read(&self, state: &State, index: u64, place: Place) -> Result<Vec<u8>, EngineError> {
        let rotten = |why: &str| corrupt(place.segment, place.offset, &format!("{why}: entry {index}"));
        let segment = state.segments.get(&place.segment).ok_or_else(|| rotten("its segment is gone"))?;
        let length = record::HEAD_BYTES + usize::try_from(place.length).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        segment.read(&mut bytes, place.offset)?;
        let found = record::read(&bytes, place.segment, 0).map_err(rotten)?;
        if (found.kind, found.index) != (Kind::Row, index) {
            return Err(rotten("another record is there"));
        }
        Ok(bytes.split_off(record::HEAD_BYTES))
    }

    /// Lets go of segments that nobody wants any more: the oldest is used again where a spare is wanted, otherwise all are
    /// removed. One after the other, each durably before the next is begun, so that there is never a gap between two; and
    /// what is left, or cannot be begun now, is for a later sync.
    fn release(&self, state: &mut State, unwanted: Vec<u64>) -> Result<(), EngineError> {
        if matches!(&state.spare, Spare::Coming(making) if making.is_finished()) || state.has_failed() {
            state.wait_for_spare()?;
        }
        if let Some(removed) = state.removing.take_if(|removing| removing.is_finished()) {
            joined(removed).inspect_err(|error| state.spare = Spare::Failed(error.clone()))?;
        }
        let Some(oldest) = unwanted.first().copied() else { return Ok(()) };
        if state.removing.is_some() || matches!(state.spare, Spare::Coming(_)) {
            return Ok(());
        }
        let usual = state.segments.get(&oldest).is_some_and(|segment| segment.capacity == self.capacity);
        if usual && matches!(state.spare, Spare::None) {
            let number = state.end.segment + 1;
            if let Some(making) = self.begin(move |directory| Segment::reuse(directory, oldest, number)) {
                state.spare = Spare::Coming(making);
                state.forget(oldest);
            }
            return Ok(());
        }
        let gone = unwanted.clone();
        let remove = move |directory: &Path| gone.iter().try_for_each(|number| Segment::remove(directory, *number));
        if let Some(removing) = self.begin(remove) {
            state.removing = Some(removing);
            unwanted.into_iter().for_each(|number| state.forget(number));
        }
        Ok(())
    }
}

/// What a thread has come to.
fn joined<T>(working: JoinHandle<Result<T, EngineError>>) -> Result<T, EngineError> {
    working.join().unwrap_or_else(|_| {
        Err(EngineError::Io {
            operation: "making or removing a segment of the log",
            reason: "its thread has panicked".into(),
        })
    })
}

impl Drop for SegmentLog {
    /// Nothing of it goes on in the directory.
    fn drop(&mut self) {
        // What was made is found, or removed, by the next start; what was not removed, too.
        let mut state = self.state();
        if let Spare::Coming(making) = std::mem::replace(&mut state.spare, Spare::None) {
            drop(making.join());
        }
        drop(state.removing.take().map(JoinHandle::join));
    }
}

/// The first segment of a new log.
fn begin(directory: &Path, capacity: u32) -> Result<Recovered, EngineError> {
    let first = Segment::make(directory, 1, capacity)?;
    let mut contents = Contents::default();
    contents.live.insert(1, 0);
    Ok(Recovered { contents, segments: [(1, first)].into(), end: Position { segment: 1, offset: 0 } })
}

fn short(bytes: usize) -> Result<u32, EngineError> {
    u32::try_from(bytes).map_err(|_| EngineError::Io {
        operation: "writing the log",
        reason: format!("{bytes} bytes are too many for one record"),
    })
}

impl State {
    fn active(&self) -> Result<&Arc<Segment>, EngineError> {
        self.segments.get(&self.end.segment).ok_or_else(|| corrupt(self.end.segment, 0, "it is gone"))
    }

    /// Adds a record that fits, to the buffer.
    fn add(&mut self, kind: Kind, index: u64, payload: &[u8]) {
        let record = Record { kind, index, synced: self.synced, payload };
        let before = self.buffer.len();
        record::write(&mut self.buffer, self.end.segment, &record);
        self.end.offset += u32::try_from(self.buffer.len() - before).unwrap_or(u32::MAX);
    }

    /// Hands the buffer to the kernel.
    fn write_out(&mut self) -> Result<(), EngineError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let active = Arc::clone(self.active()?);
        let length = u32::try_from(self.buffer.len()).unwrap_or(u32::MAX);
        active.write(&self.buffer, self.end.offset - length)?;
        self.buffer.clear();
        if self.unsynced.last().is_none_or(|last| last.number != active.number) {
            self.unsynced.push(active);
        }
        Ok(())
    }

    const fn has_failed(&self) -> bool {
        matches!(self.spare, Spare::Failed(_))
    }

    /// Waits until the next segment is there, where one is coming.
    fn wait_for_spare(&mut self) -> Result<(), EngineError> {
        self.spare = match std::mem::replace(&mut self.spare, Spare::None) {
            Spare::Coming(making) => joined(making).map_or_else(Spare::Failed, Spare::Ready),
            spare => spare,
        };
        if let Spare::Failed(error) = &self.spare { Err(error.clone()) } else { Ok(()) }
    }

    /// Its file is about to go.
    fn forget(&mut self, number: u64) {
        self.contents.live.remove(&number);
        self.segments.remove(&number);
    }

    /// The oldest segments, as far as none of their rows is wanted.
    fn unwanted(&self) -> Vec<u64> {
        let idle = |(number, live): &(&u64, &u64)| **number < self.end.segment && **live == 0;
        self.contents.live.iter().take_while(idle).map(|(number, _)| *number).collect()
    }
}

impl LogEngine for SegmentLog {
    fn append(&self, rows: &[(u64, Vec<u8>)]) -> Result<(), EngineError> {
        let mut state = self.state();
        for (index, row) in rows {
            let place = self.add(&mut state, Kind::Row, *index, row)?;
            state.contents.put(*index, place);
        }
        state.write_out()?;
        self.prepare(&mut state);
        Ok(())
    }

    fn range(&self, from: u64, until: u64, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, EngineError> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        if from < until {
            let state = self.state();
            for (index, place) in state.contents.rows.range(from..until) {
                bytes += usize::try_from(place.length).unwrap_or(usize::MAX);
                if bytes > bytes_max && !found.is_empty() {
                    break;
                }
                found.push((*index, self.read(&state, *index, *place)?));
            }
        }
        Ok(found)
    }

    fn last(&self) -> Result<Option<(u64, Vec<u8>)>, EngineError> {
        let state = self.state();
        let Some((index, place)) = state.contents.rows.last_key_value() else { return Ok(None) };
        Ok(Some((*index, self.read(&state, *index, *place)?)))
    }

    fn truncate_from(&self, index: u64) -> Result<(), EngineError> {
        self.write(Kind::Truncate, index, &[])?.contents.truncate_from(index);
        Ok(())
    }

    fn purge_to(&self, index: u64) -> Result<(), EngineError> {
        if self.state().contents.rows.range(..=index).next().is_none() {
            return Ok(());
        }
        self.write(Kind::Purge, index, &[])?.contents.purge_to(index);
        Ok(())
    }

    fn put_meta(&self, name: &'static str, value: &[u8]) -> Result<(), EngineError> {
        let mut state = self.write(Kind::Meta, 0, &record::meta_payload(name, value))?;
        state.contents.meta.insert(name.to_owned(), value.to_vec());
        Ok(())
    }

    fn get_meta(&self, name: &'static str) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.state().contents.meta.get(name).cloned())
    }

    fn sync(&self) -> Result<(), EngineError> {
        let watermark = self.watermark.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, unsynced, unwanted) = {
            let mut state = self.state();
            (state.end, std::mem::take(&mut state.unsynced), state.unwanted())
        };
        // The oldest first: what is in a later one counts only with all before it.
        unsynced.iter().try_for_each(|segment| segment.sync())?;
        drop(unsynced);
        watermark.put(&end)?;
        let mut state = self.state();
        state.synced = end;
        self.release(&mut state, unwanted)
    }

    fn sync_blocks(&self) -> bool {
        true
    }
}
