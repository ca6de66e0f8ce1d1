//! What a move stands on, as a file that anybody can check: its steps out of the audit trail, and a summary that must follow
//! from them. Pure.
//!
//! ```text
//! line 1            the summary: who, from where to where, S*, digests, epochs, for how long writes and reads waited
//! lines 2 …         the trail from the entry that asked for the move on, whole: a chain of hashes
//! last line         the trail's end under the control plane's signature
//! ```
//!
//! The summary is believed for nothing: whoever checks the file makes it anew from the entries. Entries of other tenants
//! that lie between are part of the chain, and so of the file.

use std::collections::BTreeMap;

use cell_model::{Attempt, AuditEntry, HeldFor, MoveId, Phase, PhaseStamp, Revision, UnixMillis, holds};
use cell_trust::TrustedKeys;
use serde::{Deserialize, Serialize};

use crate::audit_chain::{Doubt, Trail};

const KIND: &str = "MoveProof";
const VERSION: u32 = 1;
const COMMIT: &str = "Commit";
/// An operator's command, and the event that it is.
const TAKE_OVER: &str = "take-over";
const BY_FORCE: &str = "TakeOver";
/// With these words begins what was found to differ.
const DIFFERS: &str = "differs-in=";

/// The first line of a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Summary {
    kind: String,
    version: u32,
    /// The move.
    #[serde(rename = "move")]
    pub(crate) id: String,
    pub(crate) tenant: String,
    pub(crate) source: String,
    pub(crate) target: String,
    /// Who has asked for it; empty where nobody had to say.
    pub(crate) asked_by: String,
    /// The entry in which it was cancelled, and by whom.
    pub(crate) cancelled: Option<(u64, String)>,
    /// completed, cancelled, rolled-back, rehearsed, taken-over, aborted.
    pub(crate) outcome: String,
    /// Rows and bytes as preflight has counted them.
    pub(crate) rows: Option<u64>,
    pub(crate) bytes: Option<u64>,
    /// The full comparison before the hold.
    pub(crate) verified: Option<u64>,
    pub(crate) verified_digest: Option<String>,
    /// S* of the last COMMIT, or, where there was none, of the last hold that was sealed; up to where the other cell had
    /// applied; where it was fenced.
    pub(crate) sealed: Option<u64>,
    pub(crate) applied: Option<u64>,
    pub(crate) fenced: Option<u64>,
    /// What both cells added up to there.
    pub(crate) digest: Option<String>,
    pub(crate) epoch_before: u64,
    pub(crate) epoch_after: u64,
    pub(crate) owner_after: String,
    /// Each hold, measured.
    pub(crate) holds: Vec<HeldFor>,
    /// Requests that the old cell has turned away since, at the end of soak.
    pub(crate) stale_rejected: Option<u64>,
    /// Transactions of writers that no gate had let in, which holds have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended_writers: Option<u64>,
    /// Where the owner had no gate, of the last hold: routers that held the tenant's writes back, and those whose lease had run out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) routers_held: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) routers_fenced: Option<u64>,
    /// In what the copy was found to differ, as the trail has it. All but a last one that ended the move was copied anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) differences: Vec<String>,
    /// How routers stood to each change of owner, as the trail has it.
    pub(crate) routers: Vec<String>,
    /// Every step: its entry in the trail, its revision in the replicated log, and what it was.
    pub(crate) steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) entry: u64,
    pub(crate) revision: u64,
    pub(crate) at_unix_ms: u64,
    pub(crate) event: String,
    /// The phase that it entered; empty at the end.
    pub(crate) phase: String,
    pub(crate) attempt: u32,
    pub(crate) epoch: u64,
    pub(crate) owner: String,
    /// What the hold stood on by then, from the seal on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seal: Option<Seal>,
}

/// What a hold stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Seal {
    pub(crate) sealed: u64,
    pub(crate) applied: Option<u64>,
    pub(crate) fenced: Option<u64>,
    pub(crate) digest: Option<String>,
}

/// A proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) summary: Summary,
    pub(crate) trail: Trail,
}

/// Why a proof is not believed, or cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unproven {
    #[error("the first line is no summary of a move: {0}")]
    NoSummary(String),
    #[error("the trail behind the summary: {0}")]
    Trail(Doubt),
    #[error("the trail has no entry that asks for {0}: it was dropped, or there was no such move")]
    NoBeginning(MoveId),
    #[error("{0} has not ended yet")]
    NotEnded(MoveId),
    #[error("entry {entry} is no step of a move: {reason}")]
    Step { entry: u64, reason: String },
    #[error("the summary says {field} is {said}, and it follows from the trail that it is {is}")]
    Differs { field: String, said: String, is: String },
    #[error("entry {entry} breaks the protocol: {reason}")]
    Unlawful { entry: u64, reason: String },
    #[error("line {line} is not written as it must be, from byte {byte} on")]
    Written { line: usize, byte: usize },
}

impl Unproven {
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::NoSummary(_) | Self::Written { .. } => "PROOF_UNREADABLE",
            Self::Trail(doubt) => doubt.code(),
            Self::NoBeginning(_) | Self::NotEnded(_) => "PROOF_INCOMPLETE",
            Self::Step { .. } | Self::Differs { .. } | Self::Unlawful { .. } => "PROOF_BROKEN",
        }
    }
}

/// `a=1 b=2`.
fn words(detail: &str) -> BTreeMap<&str, &str> {
    detail.split_whitespace().filter_map(|word| word.split_once('=')).collect()
}

fn number(words: &BTreeMap<&str, &str>, name: &str) -> Option<u64> {
    words.get(name).and_then(|text| text.parse().ok())
}

impl Proof {
    /// Of a trail that goes at least from the beginning of the move to its end. What lies before is left out.
    pub(crate) fn of(mut trail: Trail, id: MoveId) -> Result<Self, Unproven> {
        let begins = trail.entries.iter().position(|entry| asks_for(entry, id)).ok_or(Unproven::NoBeginning(id))?;
        trail.entries.drain(..begins);
        let summary = Summary::of(&trail.entries, id)?;
        Ok(Self { summary, trail })
    }

    pub(crate) fn to_lines(&self) -> String {
        let summary = serde_json::to_string(&self.summary).expect("a summary is text and numbers");
        format!("{summary}\n{}", self.trail.to_lines())
    }

    pub(crate) fn from_lines(text: &str) -> Result<Self, Unproven> {
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        let summary: Summary =
            serde_json::from_str(first).map_err(|error| Unproven::NoSummary(error.to_string()))?;
        if summary.kind != KIND || summary.version != VERSION {
            let (kind, version) = (&summary.kind, summary.version);
            return Err(Unproven::NoSummary(format!("it is a {kind:?} of version {version}")));
        }
        let trail = Trail::from_lines(rest).map_err(Unproven::Trail)?;
        let proof = Self { summary, trail };
        // What is read alike may be written otherwise: nothing of the file is left unchecked.
        let must = proof.to_lines();
        let differs = must.lines().chain([""]).zip(text.lines().chain([""])).position(|(must, is)| must != is);
        match differs.or_else(|| (must != text).then(|| must.lines().count())) {
            None => Ok(proof),
            Some(index) => {
                let line = |text: &'_ str| text.lines().nth(index).unwrap_or_default().as_bytes().to_vec();
                let same = line(&must).iter().zip(line(text)).take_while(|(must, is)| **must == *is).count();
                Err(Unproven::Written { line: index + 1, byte: same + 1 })
            }
        }
    }

    /// Whether the chain holds, its end is signed, the summary follows from it, and every step was one that the protocol
    /// allows. Without keys the signature is not asked.
    pub(crate) fn verify(&self, trusted: &TrustedKeys) -> Result<(), Unproven> {
        self.trail.verify(trusted).map_err(Unproven::Trail)?;
        let id = self.summary.id.parse();
        let id = id.map_err(|_| Unproven::NoSummary(format!("{:?} names no move", self.summary.id)))?;
        self.summary.follows(&Summary::of(&self.trail.entries, id)?)?;
        self.summary.is_lawful()
    }
}

fn asks_for(entry: &AuditEntry, id: MoveId) -> bool {
    entry.action == "move-tenant"
        && entry.outcome == "done"
        && words(&entry.detail).get("move").is_some_and(|named| *named == id.to_string())
}

impl Step {
    fn of(entry: &AuditEntry) -> Result<Self, Unproven> {
        let words = words(&entry.detail);
        let missing = |name: &str| Unproven::Step { entry: entry.number, reason: format!("it has no {name}") };
        let text = |name: &str| words.get(name).map(|text| (*text).to_owned());
        Ok(Self {
            entry: entry.number,
            revision: entry.revision.get(),
            at_unix_ms: entry.at.get(),
            event: text("event").ok_or_else(|| missing("event"))?,
            phase: text("phase").unwrap_or_default(),
            attempt: number(&words, "attempt")
                .and_then(|attempt| u32::try_from(attempt).ok())
                .ok_or_else(|| missing("attempt"))?,
            epoch: number(&words, "epoch").ok_or_else(|| missing("epoch"))?,
            owner: text("owner").ok_or_else(|| missing("owner"))?,
            seal: number(&words, "sealed").map(|sealed| Seal {
                sealed,
                applied: number(&words, "applied"),
                fenced: number(&words, "fenced"),
                digest: text("digest"),
            }),
        })
    }

    /// Of a COMMIT: the other cell had everything up to the seal, the owner was fenced there, and both were compared.
    fn stands_on_its_seal(&self) -> Result<(), Unproven> {
        let unlawful = |reason: String| Err(Unproven::Unlawful { entry: self.entry, reason });
        let Some(Seal { sealed, applied, fenced, digest }) = &self.seal else {
            return unlawful("committed, and nothing was sealed".into());
        };
        if *applied != Some(*sealed) || *fenced != Some(*sealed) {
            return unlawful(format!("committed, but sealed at {sealed}, applied {applied:?}, fenced {fenced:?}"));
        }
        if digest.is_none() {
            return unlawful("committed, and nothing was compared at the seal".into());
        }
        Ok(())
    }

    fn stamp(&self) -> Option<PhaseStamp> {
        // The end of a move ends its last phase.
        let phase = if self.phase.is_empty() { Phase::Cleanup } else { self.phase.parse().ok()? };
        let (at, revision) = (UnixMillis(self.at_unix_ms), Revision(self.revision));
        Some(PhaseStamp { phase, attempt: Attempt(self.attempt), at, revision })
    }
}

impl Summary {
    /// From the entries alone.
    fn of(entries: &[AuditEntry], id: MoveId) -> Result<Self, Unproven> {
        let asked = entries.first().filter(|entry| asks_for(entry, id)).ok_or(Unproven::NoBeginning(id))?;
        let asked_words = words(&asked.detail);
        let said = |name: &str| asked_words.get(name).map(|text| (*text).to_owned()).unwrap_or_default();
        let name = id.to_string();
        let of_move = |entry: &&AuditEntry| {
            entry.subject == asked.subject && words(&entry.detail).get("move").is_some_and(|named| *named == name)
        };
        let mut summary = Self {
            kind: KIND.into(),
            version: VERSION,
            tenant: asked.subject.trim_start_matches("tenant/").to_owned(),
            source: said("source"),
            target: said("target"),
            asked_by: asked.actor.clone(),
            cancelled: None,
            outcome: String::new(),
            rows: None,
            bytes: None,
            verified: None,
            verified_digest: None,
            sealed: None,
            applied: None,
            fenced: None,
            digest: None,
            epoch_before: 0,
            epoch_after: 0,
            owner_after: said("source"),
            holds: Vec::new(),
            stale_rejected: None,
            ended_writers: None,
            routers_held: None,
            routers_fenced: None,
            differences: Vec::new(),
            routers: Vec::new(),
            steps: Vec::new(),
            id: name.clone(),
        };
        for entry in entries.iter().filter(of_move) {
            if let Some(at) = entry.detail.find(DIFFERS).filter(|_| entry.outcome == "done") {
                summary.differences.push(entry.detail[at..].to_owned());
            }
            match entry.action.as_str() {
                "move-phase" | TAKE_OVER if entry.outcome == "done" => summary.take(entry)?,
                "cancel-move" if entry.outcome == "done" => {
                    summary.cancelled = Some((entry.number, entry.actor.clone()));
                    summary.turn(entry)?;
                }
                "rollback-move" if entry.outcome == "done" => summary.turn(entry)?,
                "routers-saw" => summary.routers.push(entry.detail.clone()),
                _ => {}
            }
        }
        if summary.outcome.is_empty() {
            return Err(Unproven::NotEnded(id));
        }
        let stamps: Vec<PhaseStamp> = summary.steps.iter().filter_map(Step::stamp).collect();
        summary.holds = holds(&stamps);
        Ok(summary)
    }

    /// What an operator wants turns a move round at once where it stands in a hold or behind the fence.
    fn turn(&mut self, entry: &AuditEntry) -> Result<(), Unproven> {
        if words(&entry.detail).contains_key("event") { self.take(entry) } else { Ok(()) }
    }

    fn take(&mut self, entry: &AuditEntry) -> Result<(), Unproven> {
        let step = Step::of(entry)?;
        let words = words(&entry.detail);
        if self.steps.is_empty() {
            self.epoch_before = step.epoch;
        }
        (self.epoch_after, self.owner_after) = (step.epoch, step.owner.clone());
        for (field, name) in [
            (&mut self.rows, "rows"),
            (&mut self.bytes, "bytes"),
            (&mut self.verified, "verified"),
            (&mut self.stale_rejected, "stale-rejected"),
            (&mut self.ended_writers, "ended-writers"),
            (&mut self.routers_held, "routers-held"),
            (&mut self.routers_fenced, "routers-fenced"),
        ] {
            *field = number(&words, name).or(*field);
        }
        if words.contains_key("verified") {
            self.verified_digest = words.get("digest").map(|digest| (*digest).to_owned());
        }
        // A hold that was let go of after a COMMIT says nothing of it.
        if let Some(seal) = &step.seal
            && (step.event == COMMIT || !self.steps.iter().any(|step| step.event == COMMIT))
        {
            (self.sealed, self.applied, self.fenced) = (Some(seal.sealed), seal.applied, seal.fenced);
            self.digest.clone_from(&seal.digest);
        }
        if let Some(end) = words.get("end") {
            self.outcome = (*end).to_owned();
        }
        self.steps.push(step);
        Ok(())
    }

    /// Names the first field that is not what it must be.
    fn follows(&self, must: &Self) -> Result<(), Unproven> {
        let fields = |summary: &Self| match serde_json::to_value(summary) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (said, must) = (fields(self), fields(must));
        // What is left out is said, too.
        let differs = said.keys().chain(must.keys()).find(|field| said.get(*field) != must.get(*field));
        differs.map_or(Ok(()), |field| {
            let text = |of: &serde_json::Map<_, serde_json::Value>| {
                of.get(field).map_or_else(|| "nothing".into(), ToString::to_string)
            };
            Err(Unproven::Differs { field: field.clone(), said: text(&said), is: text(&must) })
        })
    }

    /// What must hold of every move, whatever became of it.
    fn is_lawful(&self) -> Result<(), Unproven> {
        let (mut epoch, mut owner) = (self.epoch_before, self.source.clone());
        for step in &self.steps {
            let unlawful = |reason: String| Err(Unproven::Unlawful { entry: step.entry, reason });
            // A cancel behind the fence is an ABORT.
            let cancelled = self.cancelled.as_ref().is_some_and(|(entry, _)| *entry <= step.entry);
            let decides = matches!(step.event.as_str(), COMMIT | BY_FORCE | "Abort") || cancelled;
            let rises = step.epoch == epoch + 1;
            if step.epoch != epoch && !(rises && decides) {
                return unlawful(format!("{} takes the epoch from {epoch} to {}", step.event, step.epoch));
            }
            if step.owner != owner && !(rises && matches!(step.event.as_str(), COMMIT | BY_FORCE)) {
                return unlawful(format!("{} gives the tenant to {} without a COMMIT", step.event, step.owner));
            }
            if step.owner != self.source && step.owner != self.target {
                return unlawful(format!("{} is neither cell of the move", step.owner));
            }
            if step.event == COMMIT {
                step.stands_on_its_seal()?;
            }
            (epoch, owner) = (step.epoch, step.owner.clone());
        }
        let last = self.steps.last().map_or(0, |step| step.entry);
        let unlawful = |reason: String| Err(Unproven::Unlawful { entry: last, reason });
        let should = if self.outcome == "completed" { &self.target } else { &self.source };
        let by_force = self.outcome == "taken-over";
        if by_force != self.steps.iter().any(|step| step.event == BY_FORCE) {
            return unlawful(format!("it ended as {}, and that was not decided", self.outcome));
        }
        if owner != *should && !by_force {
            return unlawful(format!("it ended as {}, and {owner} owns", self.outcome));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
