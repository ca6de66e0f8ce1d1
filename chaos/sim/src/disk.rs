//! A disk in memory that takes time to sync, and loses at a crash what was not synced.
//!
//! ```text
//! write ──► visible, pending        sync ──► pending becomes durable        crash ──► durable + some of pending
//! ```
//!
//! A lying disk ([`Flaw::LyingDisk`]) has a fourth part, and it is all that is left when every node loses its power at
//! once. With one node alone openraft notices by itself that a follower has lost its end, and panics.
//!
//! A failing disk ([`Flaw::FailingDisk`]) forgets at a sync that fails what was pending, as a kernel does: reads show it, and
//! no later sync makes it durable. That would be the store's to notice, were it told.
//!
//! What survives of the pending writes is their beginning, up to a byte that chance decides: a file that is written
//! at its end keeps a prefix, and the write in which that byte lies is torn. Of such a write there is what its engine promises:
//! whole rows up to there, or, where it is all or nothing, nothing. Log and state are two files, and lose independently of each
//! other.

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cell_store::EngineError;
use cell_store::engine::{LogEngine, StateEngine, Visit, Write};

use crate::chance::Chance;
use crate::flaw::Flaw;

/// Contents that are changed by replayable writes.
pub(crate) trait Contents: Clone + Default + fmt::Debug + Send + 'static {
    /// A change.
    type Write: fmt::Debug + Send;

    /// Makes it.
    fn take(&mut self, write: &Self::Write);

    /// Makes what is left of it where the power went in the middle: nothing, where it is all or nothing.
    fn take_torn(&mut self, write: &Self::Write, chance: &mut Chance);
}

#[derive(Debug)]
pub(crate) struct Layers<C: Contents> {
    durable: C,
    visible: C,
    pending: Vec<C::Write>,
    chance: Chance,
    /// What a lying disk really has.
    lie: Option<Lie<C>>,
    /// Of a failing disk: so many more syncs are done.
    sound_syncs: Option<u32>,
}

/// What a file makes of its syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syncs {
    /// It does them.
    Done,
    /// After the first so many it says so, and does nothing.
    Lied(u32),
    /// After the first so many, now and then one fails, and nobody is told.
    Failing(u32),
}

/// A disk that kept to itself what it was to make durable since some sync.
#[derive(Debug)]
struct Lie<C: Contents> {
    honest_syncs: u32,
    really: C,
}

/// How the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PowerCut {
    /// For some nodes.
    Some,
    /// For all nodes at once.
    All,
}

impl<C: Contents> Layers<C> {
    /// What a reader sees.
    pub(crate) const fn visible(&self) -> &C {
        &self.visible
    }

    /// Takes effect at once, and lasts from the next sync on.
    pub(crate) fn write(&mut self, write: C::Write) {
        self.visible.take(&write);
        self.pending.push(write);
    }

    /// Everything before it lasts.
    pub(crate) fn sync(&mut self) {
        let pending = mem::take(&mut self.pending);
        if self.fails() {
            return;
        }
        for write in pending {
            self.durable.take(&write);
        }
        if let Some(Lie { honest_syncs: left @ 1.., really }) = &mut self.lie {
            *left -= 1;
            *really = self.durable.clone();
        }
    }

    /// Whether this sync of a failing disk does.
    fn fails(&mut self) -> bool {
        match &mut self.sound_syncs {
            None => false,
            Some(0) => self.chance.percent(FAILING_SYNCS_PERCENT),
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }

    /// What would be left if the power went now, at the least.
    pub(crate) fn image(&self) -> C {
        self.durable.clone()
    }

    /// Becomes what an image holds. The host's tasks must be gone already.
    pub(crate) fn put_back(&mut self, image: &C) {
        (self.durable, self.visible) = (image.clone(), image.clone());
        self.pending.clear();
    }

    /// Loses what was not synced, or a part of it.
    pub(crate) fn crash(&mut self, cut: PowerCut) {
        let pending = mem::take(&mut self.pending);
        let kept = self.chance.index(pending.len() + 1);
        for write in &pending[..kept] {
            self.durable.take(write);
        }
        if let Some(torn) = pending.get(kept) {
            self.durable.take_torn(torn, &mut self.chance);
        }
        if let Some(Lie { really, .. }) = self.lie.as_ref().filter(|_| cut == PowerCut::All) {
            self.durable = really.clone();
        }
        self.visible = self.durable.clone();
    }

    /// Mostly quick, as a disk is; and sometimes not, as a disk is.
    pub(crate) fn delay(&mut self) -> Duration {
        let slow = self.chance.percent(3);
        Duration::from_millis(if slow { self.chance.between(20, 200) } else { self.chance.between(1, 6) })
    }
}

/// A file of a simulated disk. Clones are the same file.
#[derive(Debug)]
pub(crate) struct File<C: Contents>(Arc<Mutex<Layers<C>>>);

impl<C: Contents> Clone for File<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Contents> File<C> {
    pub(crate) fn new(chance: Chance, syncs: Syncs) -> Self {
        let (durable, visible) = (C::default(), C::default());
        let (lie, sound_syncs) = match syncs {
            Syncs::Done => (None, None),
            Syncs::Lied(honest_syncs) => (Some(Lie { honest_syncs, really: C::default() }), None),
            Syncs::Failing(sound) => (None, Some(sound)),
        };
        Self(Arc::new(Mutex::new(Layers { durable, visible, pending: Vec::new(), chance, lie, sound_syncs })))
    }

    pub(crate) fn layers(&self) -> MutexGuard<'_, Layers<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Default)]
struct Log {
    rows: BTreeMap<u64, Vec<u8>>,
    meta: BTreeMap<&'static str, Vec<u8>>,
}

#[derive(Debug)]
enum LogWrite {
    Append(Vec<(u64, Vec<u8>)>),
    TruncateFrom(u64),
    PurgeTo(u64),
    PutMeta(&'static str, Vec<u8>),
}

impl Contents for Log {
    type Write = LogWrite;

    fn take(&mut self, write: &LogWrite) {
        match write {
            LogWrite::Append(rows) => self.rows.extend(rows.iter().cloned()),
            LogWrite::TruncateFrom(index) => drop(self.rows.split_off(index)),
            LogWrite::PurgeTo(index) => self.rows.retain(|row, _| row > index),
            LogWrite::PutMeta(name, value) => drop(self.meta.insert(name, value.clone())),
        }
    }

    fn take_torn(&mut self, write: &LogWrite, chance: &mut Chance) {
        match write {
            LogWrite::Append(rows) => {
                let bytes: usize = rows.iter().map(|(_, row)| row.len()).sum();
                let mut left = chance.index(bytes.max(1));
                // The row in which that byte lies does not add up, and is as if it were not there.
                for (index, row) in rows {
                    let Some(after) = left.checked_sub(row.len()) else { break };
                    left = after;
                    self.rows.insert(*index, row.clone());
                }
            }
            // The highest first.
            LogWrite::TruncateFrom(index) => {
                let going: Vec<u64> = self.rows.range(index..).rev().map(|(row, _)| *row).collect();
                going.iter().take(chance.index(going.len() + 1)).for_each(|row| drop(self.rows.remove(row)));
            }
            // The lowest first.
            LogWrite::PurgeTo(index) => {
                let going: Vec<u64> = self.rows.range(..=index).map(|(row, _)| *row).collect();
                going.iter().take(chance.index(going.len() + 1)).for_each(|row| drop(self.rows.remove(row)));
            }
            LogWrite::PutMeta(..) => {}
        }
    }
}

impl LogEngine for File<Log> {
    fn append(&self, rows: &[(u64, Vec<u8>)]) -> Result<(), EngineError> {
        self.layers().write(LogWrite::Append(rows.to_vec()));
        Ok(())
    }

    fn range(&self, from: u64, until: u64, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, EngineError> {
        let mut bytes = 0;
        let mut found = Vec::new();
        for (index, row) in self.layers().visible.rows.range(from..until.max(from)) {
            bytes += row.len();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push((*index, row.clone()));
        }
        Ok(found)
    }

    fn last(&self) -> Result<Option<(u64, Vec<u8>)>, EngineError> {
        Ok(self.layers().visible.rows.last_key_value().map(|(index, row)| (*index, row.clone())))
    }

    fn truncate_from(&self, index: u64) -> Result<(), EngineError> {
        self.layers().write(LogWrite::TruncateFrom(index));
        Ok(())
    }

    fn purge_to(&self, index: u64) -> Result<(), EngineError> {
        self.layers().write(LogWrite::PurgeTo(index));
        Ok(())
    }

    fn put_meta(&self, name: &'static str, value: &[u8]) -> Result<(), EngineError> {
        self.layers().write(LogWrite::PutMeta(name, value.to_vec()));
        Ok(())
    }

    fn get_meta(&self, name: &'static str) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.layers().visible.meta.get(name).cloned())
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.layers().sync();
        Ok(())
    }

    fn sync_blocks(&self) -> bool {
        false
    }

    fn sync_delay(&self) -> Duration {
        self.layers().delay()
    }
}

#[derive(Debug, Clone, Default)]
struct State(BTreeMap<Vec<u8>, Vec<u8>>);

#[derive(Debug)]
enum StateWrite {
    Apply(Vec<Write>),
    ClearBut(Vec<u8>),
}

impl Contents for State {
    type Write = StateWrite;

    fn take(&mut self, write: &StateWrite) {
        match write {
            StateWrite::Apply(writes) => {
                for (key, value) in writes {
                    match value {
                        Some(value) => self.0.insert(key.clone(), value.clone()),
                        None => self.0.remove(key),
                    };
                }
            }
            StateWrite::ClearBut(mark) => self.0.retain(|key, _| key == mark),
        }
    }

    fn take_torn(&mut self, write: &StateWrite, chance: &mut Chance) {
        match write {
            StateWrite::Apply(_) => {}
            StateWrite::ClearBut(mark) => self.0.retain(|key, _| key == mark || chance.percent(50)),
        }
    }
}

impl StateEngine for File<State> {
    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        self.layers().write(StateWrite::Apply(writes.to_vec()));
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.layers().visible.0.get(key).cloned())
    }

    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), EngineError> {
        self.layers().visible.0.iter().try_for_each(|(key, value)| visit(key, value))
    }

    fn clear_but(&self, mark: &[u8]) -> Result<(), EngineError> {
        self.layers().write(StateWrite::ClearBut(mark.to_vec()));
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.layers().sync();
        Ok(())
    }

    fn sync_blocks(&self) -> bool {
        false
    }

    fn sync_delay(&self) -> Duration {
        self.layers().delay()
    }
}

/// The disk of one node; it outlives the node's crashes. Clones are the same disk.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk {
    log: File<Log>,
    state: File<State>,
    mounted: cell_store::Disk,
}

impl SimDisk {
    pub(crate) fn new(seed: u64, node: &str, flaw: Option<Flaw>) -> Self {
        let (of_log, of_state) = match flaw {
            Some(Flaw::LyingDisk) => (Syncs::Lied(SOUND_SYNCS), Syncs::Lied(0)),
            Some(Flaw::FailingDisk) => (Syncs::Failing(SOUND_SYNCS), Syncs::Failing(0)),
            _ => (Syncs::Done, Syncs::Done),
        };
        let log = File::new(Chance::of(seed, &format!("log of {node}")), of_log);
        let state = File::new(Chance::of(seed, &format!("state of {node}")), of_state);
        let mounted = cell_store::Disk::of(Arc::new(log.clone()), Arc::new(state.clone()));
        Self { log, state, mounted }
    }

    /// As the store wants it. Snapshots are durable as soon as they are whole.
    pub(crate) fn mount(&self) -> cell_store::Disk {
        self.mounted.clone()
    }

    /// The power goes.
    pub(crate) fn crash(&self, cut: PowerCut) {
        self.log.layers().crash(cut);
        self.state.layers().crash(cut);
    }
}

/// A lying or failing disk does its syncs while the cluster is made.
const SOUND_SYNCS: u32 = 40;
/// Of a hundred syncs of a failing disk, so many fail.
const FAILING_SYNCS_PERCENT: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(index: u64) -> Vec<(u64, Vec<u8>)> {
        vec![(index, vec![1])]
    }

    #[tokio::test(start_paused = true)]
    async fn it_passes_openrafts_suite_as_real_engines_do() {
        let disk = || SimDisk::new(1, "n1", None);
        cell_store::parts::pass_openrafts_suite(|| ((), disk().mount())).await.unwrap();
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest() {
        let mut kept_some = false;
        let mut lost_some = false;
        for seed in 0..32 {
            let disk = SimDisk::new(seed, "n", None);
            let log = &disk.log;
            log.append(&row(1)).unwrap();
            log.sync().unwrap();
            (2..=9).for_each(|index| log.append(&row(index)).unwrap());
            assert_eq!(log.last().unwrap().unwrap().0, 9, "visible at once");
            disk.crash(PowerCut::All);
            let rows: Vec<u64> = log.range(0, u64::MAX, usize::MAX).unwrap().into_iter().map(|row| row.0).collect();
            assert_eq!(rows, (1..=rows.len() as u64).collect::<Vec<_>>(), "a prefix");
            kept_some |= rows.len() > 1;
            lost_some |= rows.len() < 9;
        }
        assert!(kept_some && lost_some);
    }

    #[test]
    fn a_write_in_the_middle_of_which_the_power_goes_is_torn_between_two_rows() {
        let left = |seed| {
            let disk = SimDisk::new(seed, "n", None);
            let rows: Vec<_> = (1..=8).map(|index| (index, vec![1; 10])).collect();
            disk.log.append(&rows).unwrap();
            disk.state.apply(&[(vec![1], Some(vec![1])), (vec![2], Some(vec![2]))]).unwrap();
            disk.crash(PowerCut::All);
            let state = disk.state.layers().visible.0.len();
            assert!(state == 0 || state == 2, "what is all or nothing is not torn");
            disk.log.range(0, u64::MAX, usize::MAX).unwrap().iter().map(|row| row.0).collect::<Vec<_>>()
        };
        let lengths: std::collections::BTreeSet<usize> = (0..64)
            .map(|seed| {
                let rows = left(seed);
                assert_eq!(rows, (1..=rows.len() as u64).collect::<Vec<_>>(), "a prefix");
                rows.len()
            })
            .collect();
        assert!(lengths.iter().any(|length| (1..8).contains(length)), "{lengths:?}");
        assert_eq!(left(5), left(5), "the seed decides");
    }

    #[test]
    fn a_half_done_removal_leaves_no_hole() {
        for seed in 0..32 {
            let left = |remove: fn(&File<Log>)| {
                let disk = SimDisk::new(seed, "n", None);
                (1..=8).for_each(|index| disk.log.append(&row(index)).unwrap());
                disk.log.sync().unwrap();
                remove(&disk.log);
                disk.crash(PowerCut::All);
                disk.log.range(0, u64::MAX, usize::MAX).unwrap().iter().map(|row| row.0).collect::<Vec<_>>()
            };
            let truncated = left(|log| log.truncate_from(4).unwrap());
            assert_eq!(truncated, (1..=truncated.len() as u64).collect::<Vec<_>>(), "from the end");
            assert!(truncated.len() >= 3);
            let purged = left(|log| log.purge_to(5).unwrap());
            assert_eq!(purged, (9 - purged.len() as u64..=8).collect::<Vec<_>>(), "from the beginning");
            assert!(purged.len() >= 3);
        }
    }

    #[test]
    fn a_lying_disk_loses_what_it_said_was_synced() {
        let disk = SimDisk::new(1, "n", Some(Flaw::LyingDisk));
        for index in 1..=u64::from(SOUND_SYNCS) + 5 {
            disk.log.append(&row(index)).unwrap();
            disk.log.sync().unwrap();
        }
        disk.crash(PowerCut::Some);
        assert_eq!(disk.log.last().unwrap().unwrap().0, u64::from(SOUND_SYNCS) + 5);
        disk.crash(PowerCut::All);
        assert_eq!(disk.log.last().unwrap().unwrap().0, u64::from(SOUND_SYNCS));
    }

    #[test]
    fn a_failing_disk_shows_until_a_crash_what_no_sync_will_make_durable() {
        let disk = SimDisk::new(1, "n", Some(Flaw::FailingDisk));
        let count = u64::from(SOUND_SYNCS) + 100;
        let held = || disk.log.range(0, u64::MAX, usize::MAX).unwrap().len() as u64;
        for index in 1..=count {
            disk.log.append(&row(index)).unwrap();
            disk.log.sync().unwrap();
        }
        assert_eq!(held(), count);
        disk.crash(PowerCut::Some);
        assert!(u64::from(SOUND_SYNCS) < held() && held() < count, "{} of {count}", held());
    }
}
