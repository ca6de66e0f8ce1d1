//! What a move would meet, and how many may run: as they are printed.

use cell_client::wire;
use cell_model::{Limits, Revision};
use serde::Serialize;

use super::View;

/// What a move would meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PreviewView {
    /// Whose.
    pub tenant: String,
    /// From where.
    pub source: String,
    /// To where.
    pub target: String,
    /// The tenant's record that was looked at.
    pub revision: u64,
    /// What stands in the way.
    pub findings: Vec<FindingView>,
    /// What does not, and is better mended.
    pub notes: Vec<FindingView>,
    /// Rows of the tenant.
    pub rows: Option<u64>,
    /// Bytes of them.
    pub bytes: Option<u64>,
    /// What it may be expected to take; none where no move has ended yet.
    pub estimate: Option<EstimateView>,
    /// The longest that writes may wait.
    pub hold_max_ms: u32,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FindingView {
    /// Where.
    pub cell: String,
    /// Stable code.
    pub code: String,
    /// A sentence, with what mends it.
    pub reason: String,
}

/// An estimate, and what it was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EstimateView {
    /// From so many ended moves.
    pub moves: u32,
    /// The copy.
    pub copy_ms: u64,
    /// Up to the first request that the target serves.
    pub total_ms: u64,
    /// How long writes have waited in the middle one of those moves,
    pub hold_ms: u64,
    /// and at the most.
    pub hold_max_ms: u64,
}

impl PreviewView {
    /// From what the control plane has found.
    #[must_use]
    pub fn new(tenant: String, found: wire::PreviewMoveResponse, hold_max_ms: u32) -> Self {
        let finding =
            |found: wire::PreviewFinding| FindingView { cell: found.cell, code: found.code, reason: found.reason };
        let estimate = |estimate: wire::MoveEstimate| EstimateView {
            moves: estimate.moves,
            copy_ms: estimate.copy_ms,
            total_ms: estimate.total_ms,
            hold_ms: estimate.hold_ms,
            hold_max_ms: estimate.hold_max_ms,
        };
        Self {
            tenant,
            source: found.source,
            target: found.target,
            revision: found.revision,
            findings: found.findings.into_iter().map(finding).collect(),
            notes: found.notes.into_iter().map(finding).collect(),
            rows: found.weight.map(|weight| weight.rows),
            bytes: found.weight.map(|weight| weight.bytes),
            estimate: found.estimate.filter(|estimate| estimate.moves > 0).map(estimate),
            hold_max_ms,
        }
    }
}

impl View for PreviewView {
    const KIND: &'static str = "MovePreview";
    const COLUMNS: &'static [&'static str] = &["TENANT", "FROM", "TO", "FINDINGS"];

    fn row(&self) -> Vec<String> {
        vec![self.tenant.clone(), self.source.clone(), self.target.clone(), self.findings.len().to_string()]
    }

    fn name(&self) -> String {
        format!("tenant/{}", self.tenant)
    }
}

/// How many moves may run, and how many do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitsView {
    /// At once in the whole fleet.
    pub total: u32,
    /// At once at one cell.
    pub per_cell: u32,
    /// That run or wait.
    pub queued: u32,
    /// That run now.
    pub running: usize,
    /// That wait for a slot now.
    pub waiting: usize,
    /// At which revision they were set, for `--expected-revision`; 0 where they never were.
    pub revision: u64,
}

impl LimitsView {
    /// Limits, the revision at which they were set, and the moves under way.
    #[must_use]
    pub fn new(limits: Limits, revision: Revision, moves: &[wire::Move]) -> Self {
        let running = moves.iter().filter(|movement| movement.admitted).count();
        Self {
            total: limits.moves_total,
            per_cell: limits.moves_per_cell,
            queued: limits.moves_queued,
            running,
            waiting: moves.len() - running,
            revision: revision.get(),
        }
    }
}

impl View for LimitsView {
    const KIND: &'static str = "MoveLimits";
    const COLUMNS: &'static [&'static str] = &["TOTAL", "PER CELL", "QUEUED", "RUNNING", "WAITING", "REVISION"];

    fn row(&self) -> Vec<String> {
        let numbers = [self.total, self.per_cell, self.queued].map(|number| number.to_string());
        let moves = [self.running.to_string(), self.waiting.to_string()];
        numbers.into_iter().chain(moves).chain([self.revision.to_string()]).collect()
    }

    fn name(&self) -> String {
        "limits".into()
    }
}
