//! What a run has left behind: everything that the judge and the page need, as plain data on the clock of the history.

use std::collections::BTreeMap;
use std::sync::Arc;

use cell_model::Phase;
use serde::{Deserialize, Serialize};

use super::Group;
use crate::check::Findings;
use crate::clock::Micros;
use crate::history::{Op, SessionId};
use crate::sights::Sights;

/// Something that was wrong from here to there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultSpan {
    /// Of which kind: one lane of the page each.
    pub lane: String,
    /// To whom, in words.
    pub label: String,
    /// Since when.
    pub from: Micros,
    /// Until when.
    pub to: Micros,
}

/// Something that happened at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When.
    pub at: Micros,
    /// What.
    pub label: String,
}

/// A move, as it went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveTrace {
    /// Its name.
    pub id: String,
    /// Whose.
    pub tenant: String,
    /// From where.
    pub source: String,
    /// To where.
    pub target: String,
    /// How it was asked to end, where it was not to complete.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub asked: String,
    /// How it ended; empty where it has not.
    pub end: String,
    /// Why, where it did not complete.
    pub reason: String,
    /// Each phase and when it was entered.
    pub phases: Vec<(String, Micros)>,
    /// When it ended.
    pub ended: Micros,
}

impl MoveTrace {
    /// The phase that it was in at a moment.
    #[must_use]
    pub fn phase_at(&self, at: Micros) -> Option<&str> {
        let since = self.phases.iter().rev().find(|(_, entered)| *entered <= at)?;
        (self.end.is_empty() || at < self.ended).then_some(since.0.as_str())
    }
}

/// What the fleet said of itself at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub at: Micros,
    /// Who leads, as far as anybody says.
    pub leader: String,
    /// Raft's term.
    pub term: u64,
    /// How old each router's table may be, in milliseconds; none where it says nothing.
    pub staleness_ms: Vec<Option<u64>>,
}

/// What came of a command to the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// What was asked.
    pub what: String,
    /// When.
    pub at: Micros,
    /// How long it took.
    pub took_ms: u64,
    /// Empty where it was done; else the code.
    pub code: String,
    /// The code that it was to be refused with; empty where it was to be done.
    pub wanted: String,
    /// The tenant that it made, to be looked for at the end.
    pub made: Option<String>,
    /// Whether that is there.
    pub kept: bool,
}

/// One tenant of a drill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) name: Arc<str>,
    /// The cell that it begins on.
    pub(super) cell: usize,
}

/// Everything.
#[derive(Debug, Clone, Default)]
pub(super) struct Evidence {
    pub(super) homes: Vec<Home>,
    pub(super) moving: Vec<usize>,
    /// Without what a haunt was told.
    pub(super) ops: Vec<Op>,
    pub(super) haunted: Vec<Op>,
    pub(super) findings: Findings,
    pub(super) steady: (Micros, Micros),
    pub(super) fault: (Micros, Micros),
    pub(super) end: Micros,
    pub(super) faults: Vec<FaultSpan>,
    pub(super) marks: Vec<Mark>,
    pub(super) moves: Vec<MoveTrace>,
    pub(super) samples: Vec<Sample>,
    pub(super) commands: Vec<Answered>,
    pub(super) elections: Vec<String>,
    pub(super) swallowed: u64,
    pub(super) slowed_bytes: u64,
    /// Pieces that the network has lost.
    pub(super) lost_pieces: u64,
    /// Pieces that have overtaken one of another connection.
    pub(super) overtaken: u64,
    pub(super) redirects: u64,
    /// Requests that routers have sent again, and those that they would have sent again, had there been a budget.
    pub(super) replays: (u64, u64),
    pub(super) disk_full: Vec<String>,
    /// Syncs that have failed or waited.
    pub(super) injected: u64,
    /// Who has ended by itself as it should, and what it said of why.
    pub(super) fallen: Vec<(String, Option<String>)>,
    pub(super) power_cuts: Vec<String>,
    /// Whose clock was wrong, by how much.
    pub(super) clocks: Vec<String>,
    /// The most statements of a database that have waited for a lock at once.
    pub(super) locked_out: u64,
    /// Databases that had no session left, and how many were taken of each.
    pub(super) sessions_taken: Vec<String>,
    /// Revision of each control node in the end.
    pub(super) revisions: BTreeMap<String, u64>,
    /// Looks at store and cells meanwhile.
    pub(super) sights: Sights,
    /// Where copies differ.
    pub(super) mismatches: Vec<String>,
    /// Whatever else did not come about.
    pub(super) trouble: Vec<String>,
}

impl Evidence {
    /// The tenants of a group.
    pub(super) fn members(&self, group: Group) -> Vec<&Home> {
        let is_in = |index: usize, home: &Home| match group {
            Group::All => true,
            Group::On(cell) => home.cell == cell,
            Group::NotOn(cell) => home.cell != cell,
            Group::One(wanted) => index == wanted,
            Group::AllBut(other) => index != other,
            Group::Beside(other) => index != other && self.homes.get(other).is_some_and(|it| it.cell == home.cell),
            Group::Moving => self.moving.contains(&index),
            Group::NotMoving => !self.moving.contains(&index),
        };
        self.homes.iter().enumerate().filter(|(index, home)| is_in(*index, home)).map(|(_, home)| home).collect()
    }

    /// Takes what these sessions were told out of the history.
    pub(super) fn set_apart(&mut self, sessions: &[SessionId]) {
        let (apart, rest) =
            std::mem::take(&mut self.ops).into_iter().partition(|op| sessions.contains(&op.session));
        self.haunted = apart;
        self.ops = rest;
    }
}

/// The name of a phase, as the page prints it.
pub(super) fn phase_name(phase: Phase) -> String {
    phase.as_str().to_owned()
}
