//! The durable mirror of the state: the last snapshot, and in an ordered map what has changed since, one batch for each
//! applied Raft entry.
//!
//! ```text
//! the snapshot   every record as of a revision; see [`crate::snapshot`]
//! D/<revision>   what each revision behind that one has changed, many in a row ([`series`])
//! m              head: revision, limits, applied entry, membership
//! A/<ordinal>  L/<number>     remembered answers and the audit trail, many in a row as well
//! f              the first of each of them that counts
//! s              up to which applied entry the log was synced when the head was written
//! i              present while a snapshot is being installed: the rest is then unfinished and not to be believed. It says
//!                what will stand in `s`
//! ```
//!
//! It is not synced with each batch: after a crash the log is applied again from what the head says. It is synced
//! before the log behind it is purged, when a snapshot is made, and when the node stops.
//!
//! A snapshot is on the disk before the changes that are in it are forgotten, so there is a whole state at any instant:
//! either the rows reach from the snapshot to their head, without a gap, or the snapshot is newer than all of them.

mod series;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use cell_model::{AuditEntry, Change, Envelope, Fleet, FleetHead, Lineage, RequestId, Revision};
use series::Series;

use crate::codec;
use crate::engine::{StateEngine, Write};
use crate::error::EngineError;
use crate::snapshot::{self, Contents, Depot};
use crate::wire::{WireAnswer, WireHead};

const HEAD: &[u8] = b"m";
const INSTALLING: &[u8] = b"i";
const LOG_SYNCED: &[u8] = b"s";
const FIRSTS: &[u8] = b"f";
/// What is said where there is a gap: no row of them has rotted, so that it does not help to move the rows away.
const SNAPSHOT_AND_ROWS: &str = "the snapshot with the rows behind it";
/// Rows in one batch while a snapshot is installed.
const INSTALL_ROWS: usize = 1_024;

/// What the mirror remembers of itself so that it can follow what the fleet forgets.
#[derive(Debug)]
pub(crate) struct Mirror {
    engine: Arc<dyn StateEngine>,
    /// What has changed since the snapshot, by revision,
    changes: Series,
    /// and as of which revision that is.
    base: Revision,
    answers: Series,
    last_answer: Option<RequestId>,
    next_ordinal: u64,
    audit: Series,
    /// Number of the newest audit entry on disk; 0 where there is none.
    audited: u64,
    /// The first answer and the first audit entry that count,
    firsts: (u64, u64),
    /// and as it is on disk.
    firsts_written: (u64, u64),
    log_synced: u64,
    writes: Vec<Write>,
}

/// What was found on disk.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub head: WireHead,
    pub fleet: Fleet,
    /// Up to this entry the log was synced when the head was written: it must not end before.
    pub log_synced: u64,
    footing: Footing,
}

/// What the state that was found rests on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Footing {
    /// The snapshot, if there is one, and the rows behind it.
    #[default]
    Both,
    /// The snapshot, which is newer than every row.
    Snapshot,
}

fn corrupt(what: &str, detail: impl Into<String>) -> EngineError {
    EngineError::Corrupt { what: what.to_owned(), detail: detail.into() }
}

/// What is noted of a log that is synced so far: what is not applied may yet be replaced.
fn noted_of(log_synced: u64, head: &WireHead) -> u64 {
    log_synced.min(head.applied.map_or(0, |applied| applied.index))
}

/// The head as it is written.
pub(crate) fn head_of(fleet: &Fleet, before: &WireHead) -> WireHead {
    let head = fleet.head();
    WireHead {
        cluster: head.cluster,
        lineage: head.lineage,
        revision: head.revision,
        limits: head.limits,
        limits_revision: head.limits_revision,
        aging: head.aging,
        forgotten: head.forgotten,
        ..before.clone()
    }
}

impl Mirror {
    fn new(engine: Arc<dyn StateEngine>) -> Self {
        Self {
            engine,
            changes: Series::new(b'D'),
            base: Revision(0),
            answers: Series::new(b'A'),
            last_answer: None,
            next_ordinal: 0,
            audit: Series::new(b'L'),
            audited: 0,
            firsts: (0, 0),
            firsts_written: (0, 0),
            log_synced: 0,
            writes: Vec::new(),
        }
    }

    /// Reads everything, and sees to it that snapshot and rows fit together: a crash may have left one of them behind.
    pub(crate) fn open(engine: Arc<dyn StateEngine>, depot: &Depot) -> Result<(Self, Loaded), EngineError> {
        let (mut mirror, loaded) = Self::load(engine, depot)?;
        if loaded.footing == Footing::Snapshot {
            mirror.replace(&loaded.head, &loaded.fleet, loaded.log_synced)?;
        }
        Ok((mirror, loaded))
    }

    /// Reads everything. An unfinished installation counts as nothing: the snapshot is there.
    pub(crate) fn load(engine: Arc<dyn StateEngine>, depot: &Depot) -> Result<(Self, Loaded), EngineError> {
        let mut mirror = Self::new(engine);
        if let Some(mark) = mirror.engine.get(INSTALLING)? {
            mirror.clear_unfinished(&mark)?;
        }
        let base = match depot.current()? {
            Some(data) => Some(snapshot::read(&mut data.reader())?),
            None => None,
        };
        let head: Option<WireHead> = mirror.value(HEAD)?;
        let is_newer = |base: &Contents| head.as_ref().is_none_or(|head| head.applied < base.head.applied);
        let loaded = match base {
            Some(base) if is_newer(&base) => {
                let log_synced = mirror.value(LOG_SYNCED)?.unwrap_or_default();
                Loaded { head: base.head, fleet: base.fleet, log_synced, footing: Footing::Snapshot }
            }
            base => {
                let found = mirror.scan(head, base)?;
                mirror.take(found)?
            }
        };
        Ok((mirror, loaded))
    }

    /// Removes what is unfinished, but not how far the log was synced.
    fn clear_unfinished(&self, mark: &[u8]) -> Result<(), EngineError> {
        let noted: Option<u64> = self.value(LOG_SYNCED)?;
        let said: u64 = codec::open(mark, || "the mark of an installation".into())?;
        let log_synced = noted.unwrap_or_default().max(said);
        self.engine.clear_but(INSTALLING)?;
        let note = (log_synced > 0).then(|| (LOG_SYNCED.to_vec(), Some(codec::seal(&log_synced))));
        let writes: Vec<Write> = note.into_iter().chain([(INSTALLING.to_vec(), None)]).collect();
        self.engine.apply(&writes)
    }

    fn value<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, EngineError> {
        let value = self.engine.get(key)?;
        value.map(|value| codec::open(&value, || format!("state row {}", key.escape_ascii()))).transpose()
    }

    /// Makes the state of what was found, and goes on from there.
    fn take(&mut self, found: Found) -> Result<Loaded, EngineError> {
        let Some(head) = found.head else {
            if found.is_empty {
                return Ok(Loaded::default());
            }
            return Err(corrupt("the state", "its head is missing"));
        };
        let mut fleet = found.records.under(FleetHead {
            cluster: head.cluster,
            lineage: head.lineage,
            revision: head.revision,
            limits: head.limits,
            limits_revision: head.limits_revision,
            unreconciled: false,
            answered: found.answers.values().cloned().map(WireAnswer::into_answered).collect(),
            aging: head.aging,
            forgotten: head.forgotten,
        });
        let last = found.answers.last_key_value();
        self.next_ordinal = last.map_or(0, |(ordinal, _)| ordinal + 1);
        self.last_answer = last.map(|(_, answer)| answer.id);
        self.log_synced = found.log_synced;
        for entry in found.trail.into_values() {
            fleet.restore_audit(entry).map_err(|broken| corrupt("the audit trail", broken.to_string()))?;
        }
        self.audited = fleet.audit().last_number();
        Ok(Loaded { head, fleet, log_synced: found.log_synced, footing: Footing::Both })
    }

    /// Reads every row, on top of the snapshot.
    fn scan(&mut self, head: Option<WireHead>, base: Option<Contents>) -> Result<Found, EngineError> {
        let mut found = Found { is_empty: true, ..Found::default() };
        if let Some(base) = base {
            found.stand_on(base, head.as_ref())?;
            self.base = found.until;
        }
        let engine = Arc::clone(&self.engine);
        engine.scan(&mut |key, value| {
            let what = || format!("state row {}", key.escape_ascii());
            found.is_empty = false;
            match key.first() {
                // It was read before.
                Some(b'm') => {}
                Some(b's') => found.log_synced = codec::open(value, what)?,
                Some(b'f') => self.firsts = codec::open(value, what)?,
                Some(b'A') => found.take_answers(self.answers.found(key, value, what)?),
                Some(b'L') => found.take_entries(self.audit.found(key, value, what)?),
                Some(b'D') => found.take_changes(self.changes.found(key, value, what)?)?,
                _ => return Err(corrupt(&what(), "its kind is unknown")),
            }
            Ok(())
        })?;
        self.firsts_written = self.firsts;
        // A row may begin with some that are forgotten.
        found.answers = found.answers.split_off(&self.firsts.0);
        found.trail = found.trail.split_off(&self.firsts.1);
        let ordinals = found.answers.keys().next().zip(found.answers.keys().next_back());
        if ordinals.is_some_and(|(first, last)| last - first + 1 != found.answers.len() as u64) {
            return Err(corrupt("the answers", "some are missing"));
        }
        if let Some(head) = &head
            && found.until != head.revision
        {
            let detail = format!("it is at revision {}, and what is there ends at {}", head.revision, found.until);
            return Err(corrupt(SNAPSHOT_AND_ROWS, detail));
        }
        found.head = head;
        Ok(found)
    }

    pub(crate) fn engine(&self) -> &Arc<dyn StateEngine> {
        &self.engine
    }

    /// Takes what one command has done to the fleet. Answers the bytes of the changes.
    pub(crate) fn note(&mut self, fleet: &Fleet, envelope: &Envelope, changes: &[Change]) -> usize {
        let revision = fleet.head().revision;
        let bytes = match changes {
            [] => 0,
            changes => self.changes.push(revision.get(), &(revision, changes), &mut self.writes),
        };
        self.note_answer(fleet, envelope);
        self.note_audit(fleet);
        self.note_firsts(fleet);
        bytes
    }

    /// There is a snapshot on the disk as of a revision: the changes up to there may go, with the next batches.
    pub(crate) fn stands_on(&mut self, revision: Revision) {
        self.base = self.base.max(revision);
    }

    fn note_audit(&mut self, fleet: &Fleet) {
        let trail = fleet.audit();
        for entry in trail.after(self.audited) {
            self.audit.push(entry.number, &**entry, &mut self.writes);
        }
        self.audited = trail.last_number();
    }

    /// The fleet has kept an answer where its newest is to this request. (After a repeated request the newest is the one
    /// that was noted last.)
    fn note_answer(&mut self, fleet: &Fleet, envelope: &Envelope) {
        let answered = &fleet.head().answered;
        let Some(newest) = answered.back().filter(|newest| Some(newest.id) == envelope.request_id) else {
            return;
        };
        if self.last_answer != Some(newest.id) {
            self.last_answer = Some(newest.id);
            let answer = WireAnswer::of(self.next_ordinal, newest);
            self.answers.push(self.next_ordinal, &answer, &mut self.writes);
            self.next_ordinal += 1;
        }
    }

    /// The fleet has forgotten as many of the oldest as are missing.
    fn note_firsts(&mut self, fleet: &Fleet) {
        let answers = self.next_ordinal.saturating_sub(fleet.head().answered.len() as u64);
        self.firsts = (answers, fleet.audit().first_number());
    }

    /// Writes what was noted, with the head, as one batch. `log_synced` is how far the log is on disk.
    pub(crate) fn commit(&mut self, head: &WireHead, log_synced: u64) -> Result<(), EngineError> {
        self.changes.settle(&mut self.writes);
        self.answers.settle(&mut self.writes);
        self.audit.settle(&mut self.writes);
        self.changes.forget_before(self.base.next().get(), &mut self.writes);
        self.answers.forget_before(self.firsts.0, &mut self.writes);
        self.audit.forget_before(self.firsts.1, &mut self.writes);
        if self.firsts != self.firsts_written {
            self.firsts_written = self.firsts;
            self.writes.push((FIRSTS.to_vec(), Some(codec::seal(&self.firsts))));
        }
        let log_synced = noted_of(log_synced, head);
        if log_synced > self.log_synced {
            self.log_synced = log_synced;
            self.writes.push((LOG_SYNCED.to_vec(), Some(codec::seal(&log_synced))));
        }
        self.writes.push((HEAD.to_vec(), Some(codec::seal(head))));
        let result = self.engine.apply(&self.writes);
        self.writes.clear();
        result
    }

    /// Begins anew from the snapshot, which holds this state and is on the disk. A crash on the way leaves the mark, and then
    /// the rows count as none.
    pub(crate) fn replace(&mut self, head: &WireHead, fleet: &Fleet, log_synced: u64) -> Result<(), EngineError> {
        let log_synced = noted_of(log_synced, head);
        self.engine.apply(&[(INSTALLING.to_vec(), Some(codec::seal(&log_synced)))])?;
        self.engine.sync()?;
        self.engine.clear_but(INSTALLING)?;
        *self = Self::new(Arc::clone(&self.engine));
        for answered in &fleet.head().answered {
            let answer = WireAnswer::of(self.next_ordinal, answered);
            self.answers.push(self.next_ordinal, &answer, &mut self.writes);
            self.next_ordinal += 1;
            self.last_answer = Some(answered.id);
            self.hand_on_full()?;
        }
        for entry in fleet.audit().after(0) {
            self.audit.push(entry.number, &**entry, &mut self.writes);
            self.hand_on_full()?;
        }
        self.audited = fleet.audit().last_number();
        self.note_firsts(fleet);
        self.writes.push((INSTALLING.to_vec(), None));
        self.commit(head, log_synced)?;
        self.engine.sync()
    }

    /// Hands on what is to be written, where it is much.
    fn hand_on_full(&mut self) -> Result<(), EngineError> {
        if self.writes.len() < INSTALL_ROWS {
            return Ok(());
        }
        let result = self.engine.apply(&self.writes);
        self.writes.clear();
        result
    }
}

/// What snapshot and rows hold.
#[derive(Debug, Default)]
struct Found {
    head: Option<WireHead>,
    log_synced: u64,
    /// Every record,
    records: Fleet,
    /// as of this revision.
    until: Revision,
    /// By ordinal, and by number: a crash may have left one in two rows.
    answers: BTreeMap<u64, WireAnswer>,
    trail: BTreeMap<u64, AuditEntry>,
    /// There is no row at all.
    is_empty: bool,
}

impl Found {
    fn stand_on(&mut self, base: Contents, head: Option<&WireHead>) -> Result<(), EngineError> {
        let of = |head: &WireHead| (head.cluster, head.lineage);
        // A node that had no cluster yet says nothing of one.
        let says = base.head.lineage != Lineage::default();
        if says && head.is_some_and(|head| of(head) != of(&base.head)) {
            return Err(corrupt("the snapshot", "it belongs to another cluster, or another of its histories"));
        }
        self.until = base.head.revision;
        self.records = base.fleet;
        Ok(())
    }

    fn take_changes(&mut self, found: Vec<(Revision, Vec<Change>)>) -> Result<(), EngineError> {
        for (revision, changes) in found {
            // A row may begin with some that are in the snapshot.
            if revision <= self.until {
                continue;
            }
            if revision != self.until.next() {
                let detail = format!("it goes on with revision {revision}, and {} was the last", self.until);
                return Err(corrupt(SNAPSHOT_AND_ROWS, detail));
            }
            changes.into_iter().for_each(|change| self.records.install(change));
            self.until = revision;
        }
        Ok(())
    }

    fn take_answers(&mut self, answers: Vec<WireAnswer>) {
        self.answers.extend(answers.into_iter().map(|answer| (answer.ordinal, answer)));
    }

    fn take_entries(&mut self, entries: Vec<AuditEntry>) {
        self.trail.extend(entries.into_iter().map(|entry| (entry.number, entry)));
    }
}
