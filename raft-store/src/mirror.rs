//! The durable mirror of the state: one ordered map, one batch for each applied Raft entry.
//!
//! ```text
//! m            head: revision, limits, applied entry, membership
//! c/<cell>     t/<tenant>     g/<ended move>
//! A/<ordinal>  L/<number>     remembered answers and the audit trail, many in a row ([`series`])
//! f            the first of each of them that counts
//! r/reconciled whether what cells hold has been adopted since a restore; absent where there was none
//! s            up to which applied entry the log was synced when the head was written
//! i            present while a snapshot is being installed: the rest is then unfinished and not to be believed
//! ```
//!
//! It is not synced with each batch: after a crash the log is applied again from what the head says. It is synced
//! before the log behind it is purged, when a snapshot is made, and when the node stops.
//!
//! Earlier versions had a row for each answer (`a/<request id>`) and audit entry (`l/<number>`). Where such are found, they
//! are read, and written anew with the first batch.

mod series;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cell_model::{AuditEntry, Change, Envelope, Fleet, FleetHead, MoveId, RequestId};
use series::Series;

use crate::codec;
use crate::engine::{StateEngine, Write};
use crate::error::EngineError;
use crate::wire::{WireAnswer, WireHead};

const HEAD: &[u8] = b"m";
const INSTALLING: &[u8] = b"i";
const LOG_SYNCED: &[u8] = b"s";
const FIRSTS: &[u8] = b"f";
/// Records in one batch while a snapshot is installed.
const INSTALL_ROWS: usize = 1_024;

/// What the mirror remembers of itself so that it can follow what the fleet forgets.
#[derive(Debug)]
pub(crate) struct Mirror {
    engine: Arc<dyn StateEngine>,
    answers: Series,
    last_answer: Option<RequestId>,
    next_ordinal: u64,
    ended: BTreeSet<MoveId>,
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
}

fn key(prefix: u8, id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(id.len() + 2);
    key.extend_from_slice(&[prefix, b'/']);
    key.extend_from_slice(id);
    key
}

fn ended_key(id: MoveId) -> Vec<u8> {
    key(b'g', &id.0.to_be_bytes())
}

/// Where a record lives; the limits live in the head.
fn record_key(change: &Change) -> Option<Vec<u8>> {
    match change {
        Change::Tenant(record) => Some(key(b't', record.id.as_str().as_bytes())),
        Change::Cell(record) => Some(key(b'c', record.id.as_str().as_bytes())),
        Change::MoveEnded(record) => Some(ended_key(record.movement.id)),
        Change::Reconciled(_) => Some(key(b'r', b"reconciled")),
        Change::Limits(_) => None,
    }
}

/// The head as it is written.
pub(crate) fn head_of(fleet: &Fleet, before: &WireHead) -> WireHead {
    let head = fleet.head();
    WireHead {
        cluster: head.cluster,
        lineage: head.lineage,
        revision: head.revision,
        limits: head.limits,
        ..before.clone()
    }
}

impl Mirror {
    /// Reads everything. An unfinished installation counts as nothing: the snapshot is still there.
    pub(crate) fn load(engine: Arc<dyn StateEngine>) -> Result<(Self, Loaded), EngineError> {
        let mut mirror = Self {
            engine,
            answers: Series::new(b'A'),
            last_answer: None,
            next_ordinal: 0,
            ended: BTreeSet::new(),
            audit: Series::new(b'L'),
            audited: 0,
            firsts: (0, 0),
            firsts_written: (0, 0),
            log_synced: 0,
            writes: Vec::new(),
        };
        if mirror.engine.get(INSTALLING)?.is_some() {
            mirror.engine.clear_but(INSTALLING)?;
            mirror.engine.apply(&[(INSTALLING.to_vec(), None)])?;
        }
        let found = mirror.scan()?;
        let Some(head) = found.head else {
            if found.records.is_empty() && found.answers.is_empty() && found.trail.is_empty() {
                return Ok((mirror, Loaded::default()));
            }
            return Err(EngineError::Corrupt { what: "the state".into(), detail: "its head is missing".into() });
        };
        let answers: Vec<WireAnswer> = found.answers.into_values().collect();
        let mut fleet = Fleet::from_head(FleetHead {
            cluster: head.cluster,
            lineage: head.lineage,
            revision: head.revision,
            limits: head.limits,
            unreconciled: false,
            answered: answers.iter().map(|answer| (answer.id, answer.at, answer.reply.clone())).collect(),
        });
        mirror.next_ordinal = answers.last().map_or(0, |answer| answer.ordinal + 1);
        mirror.last_answer = answers.last().map(|answer| answer.id);
        mirror.log_synced = found.log_synced;
        for record in found.records {
            if let Change::MoveEnded(ended) = &record {
                mirror.ended.insert(ended.movement.id);
            }
            fleet.install(record);
        }
        for entry in found.trail.into_values() {
            fleet.restore_audit(entry).map_err(|broken| EngineError::Corrupt {
                what: "the audit trail".into(),
                detail: broken.to_string(),
            })?;
        }
        mirror.audited = fleet.audit().last_number();
        if !found.single.is_empty() {
            mirror.write_anew(found.single, &answers, &fleet);
        }
        Ok((mirror, Loaded { head, fleet, log_synced: found.log_synced }))
    }

    /// Reads every row.
    fn scan(&mut self) -> Result<Found, EngineError> {
        let mut found = Found::default();
        let engine = Arc::clone(&self.engine);
        engine.scan(&mut |key, value| {
            let what = || format!("state row {}", key.escape_ascii());
            match key.first() {
                Some(b'm') => found.head = Some(codec::open::<WireHead>(value, what)?),
                Some(b's') => found.log_synced = codec::open(value, what)?,
                Some(b'f') => self.firsts = codec::open(value, what)?,
                Some(b'A') => found.take_answers(self.answers.found(key, value, what)?),
                Some(b'L') => found.take_entries(self.audit.found(key, value, what)?),
                Some(b'a') => {
                    found.take_answers(vec![codec::open(value, what)?]);
                    found.single.push(key.to_vec());
                }
                Some(b'l') => {
                    found.take_entries(vec![codec::open(value, what)?]);
                    found.single.push(key.to_vec());
                }
                Some(b'c' | b't' | b'g' | b'r') => {
                    let change: Change = codec::open(value, what)?;
                    if record_key(&change).as_deref() != Some(key) {
                        return Err(EngineError::Corrupt { what: what(), detail: "it is another record".into() });
                    }
                    found.records.push(change);
                }
                _ => return Err(EngineError::Corrupt { what: what(), detail: "its kind is unknown".into() }),
            }
            Ok(())
        })?;
        self.firsts_written = self.firsts;
        // A row may begin with some that are forgotten.
        found.answers = found.answers.split_off(&self.firsts.0);
        found.trail = found.trail.split_off(&self.firsts.1);
        let ordinals = found.answers.keys().next().zip(found.answers.keys().next_back());
        if ordinals.is_some_and(|(first, last)| last - first + 1 != found.answers.len() as u64) {
            return Err(EngineError::Corrupt { what: "the answers".into(), detail: "some are missing".into() });
        }
        Ok(found)
    }

    /// Puts what was found in rows of its own into series. It goes to the disk with the first batch.
    fn write_anew(&mut self, single: Vec<Vec<u8>>, answers: &[WireAnswer], fleet: &Fleet) {
        self.answers.clear();
        self.audit.clear();
        for answer in answers {
            self.answers.push(answer.ordinal, answer, &mut self.writes);
        }
        for entry in fleet.audit().after(0) {
            self.audit.push(entry.number, &**entry, &mut self.writes);
        }
        self.writes.extend(single.into_iter().map(|key| (key, None)));
    }

    pub(crate) fn engine(&self) -> &Arc<dyn StateEngine> {
        &self.engine
    }

    /// Takes what one command has done to the fleet. Answers the bytes of the changes.
    pub(crate) fn note(&mut self, fleet: &Fleet, envelope: &Envelope, changes: &[Change]) -> usize {
        let mut bytes = 0;
        for change in changes {
            let Some(key) = record_key(change) else { continue };
            let value = codec::seal(change);
            bytes += value.len();
            self.writes.push((key, Some(value)));
            if let Change::MoveEnded(ended) = change {
                self.ended.insert(ended.movement.id);
            }
        }
        while self.ended.len() > Fleet::ENDED_MAX {
            if let Some(oldest) = self.ended.pop_first() {
                self.writes.push((ended_key(oldest), None));
            }
        }
        self.note_answer(fleet, envelope);
        self.note_audit(fleet);
        self.note_firsts(fleet);
        bytes
    }

    fn note_audit(&mut self, fleet: &Fleet) {
        let trail = fleet.audit();
        for entry in trail.after(self.audited) {
            self.audit.push(entry.number, &**entry, &mut self.writes);
        }
        self.audited = trail.last_number();
        self.audit.forget_before(trail.first_number(), &mut self.writes);
    }

    /// The fleet has kept an answer where its newest is to this request, and has forgotten as many of the oldest as
    /// are missing. (After a repeated request the newest is the one that was noted last.)
    fn note_answer(&mut self, fleet: &Fleet, envelope: &Envelope) {
        let answered = &fleet.head().answered;
        let Some((id, at, reply)) = answered.back().filter(|(id, ..)| Some(*id) == envelope.request_id) else {
            return;
        };
        if self.last_answer != Some(*id) {
            self.last_answer = Some(*id);
            let answer = WireAnswer { ordinal: self.next_ordinal, id: *id, at: *at, reply: reply.clone() };
            self.answers.push(self.next_ordinal, &answer, &mut self.writes);
            self.next_ordinal += 1;
        }
        let first = self.next_ordinal.saturating_sub(answered.len() as u64);
        self.answers.forget_before(first, &mut self.writes);
    }

    fn note_firsts(&mut self, fleet: &Fleet) {
        let answers = self.next_ordinal.saturating_sub(fleet.head().answered.len() as u64);
        self.firsts = (answers, fleet.audit().first_number());
    }

    /// Writes what was noted, with the head, as one batch. `log_synced` is how far the log is on disk: what is not
    /// applied may yet be replaced, so no more than that is noted of it.
    pub(crate) fn commit(&mut self, head: &WireHead, log_synced: u64) -> Result<(), EngineError> {
        self.answers.settle(&mut self.writes);
        self.audit.settle(&mut self.writes);
        if self.firsts != self.firsts_written {
            self.firsts_written = self.firsts;
            self.writes.push((FIRSTS.to_vec(), Some(codec::seal(&self.firsts))));
        }
        let log_synced = log_synced.min(head.applied.map_or(0, |applied| applied.index));
        if log_synced > self.log_synced {
            self.log_synced = log_synced;
            self.writes.push((LOG_SYNCED.to_vec(), Some(codec::seal(&log_synced))));
        }
        self.writes.push((HEAD.to_vec(), Some(codec::seal(head))));
        let result = self.engine.apply(&self.writes);
        self.writes.clear();
        result
    }

    /// Replaces everything. A crash on the way leaves the mark, and the mirror counts as empty.
    pub(crate) fn replace(&mut self, head: &WireHead, fleet: &Fleet, log_synced: u64) -> Result<(), EngineError> {
        self.engine.apply(&[(INSTALLING.to_vec(), Some(vec![1]))])?;
        self.engine.sync()?;
        self.engine.clear_but(INSTALLING)?;
        self.log_synced = 0;
        self.firsts_written = (0, 0);
        self.answers.clear();
        self.audit.clear();
        self.last_answer = None;
        self.ended.clear();
        self.writes.clear();
        for record in fleet.records() {
            if let Change::MoveEnded(ended) = &record {
                self.ended.insert(ended.movement.id);
            }
            let Some(key) = record_key(&record) else { continue };
            self.writes.push((key, Some(codec::seal(&record))));
            self.hand_on_full()?;
        }
        self.next_ordinal = 0;
        for (id, at, reply) in &fleet.head().answered {
            let answer = WireAnswer { ordinal: self.next_ordinal, id: *id, at: *at, reply: reply.clone() };
            self.answers.push(self.next_ordinal, &answer, &mut self.writes);
            self.next_ordinal += 1;
            self.last_answer = Some(*id);
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

/// What the rows hold.
#[derive(Debug, Default)]
struct Found {
    head: Option<WireHead>,
    log_synced: u64,
    records: Vec<Change>,
    /// By ordinal, and by number: a crash may have left one in two rows.
    answers: BTreeMap<u64, WireAnswer>,
    trail: BTreeMap<u64, AuditEntry>,
    /// Rows of earlier versions, with one thing in each.
    single: Vec<Vec<u8>>,
}

impl Found {
    fn take_answers(&mut self, answers: Vec<WireAnswer>) {
        self.answers.extend(answers.into_iter().map(|answer| (answer.ordinal, answer)));
    }

    fn take_entries(&mut self, entries: Vec<AuditEntry>) {
        self.trail.extend(entries.into_iter().map(|entry| (entry.number, entry)));
    }
}
