//! A plan: what to move, in which order, why, and what that is worth.
//!
//! A plan is made against one revision of the fleet (its `parent`) and never changes. Its moves are in waves: those of
//! one wave may run at the same time, and a wave begins when the one before has ended. **Every prefix is feasible**:
//! whichever moves of a wave have begun or ended, no cell passes its budget (one that was above it before only loses),
//! no two members of a group share a cell, and residency holds, with every running move counted on both cells.

mod bound;
mod make;
mod newcomers;
mod search;
mod waves;

use cell_model::{CellId, Revision, TenantId, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::explain::Decision;
use crate::filter::RefusalCode;
use crate::fleet::Fleet;
use crate::layout::PeakReport;
use crate::policy::{Policy, PolicyInvalid};

pub(crate) use bound::Bound;
pub use make::plan;
pub(crate) use newcomers::arrange;
pub use newcomers::{Batch, Room, place_all};

/// What a plan is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// Put right what breaks a constraint; touch nothing else.
    Repair,
    /// Empty these cells.
    Drain {
        /// Which.
        cells: Vec<CellId>,
    },
    /// Repair, then bring hot cells down to the low water.
    Rebalance,
}

/// How much a plan may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// The most moves.
    pub moves_max: u32,
    /// The most bytes copied.
    pub bytes_max: u64,
    /// The most moves of one wave.
    pub at_once_max: u32,
    /// The most moves of one wave that one cell takes part in.
    pub at_once_per_cell_max: u32,
    /// The most moves of one wave that one failure domain takes part in.
    pub at_once_per_domain_max: u32,
    /// The most moves of the whole plan that one cell takes part in. A cell that is emptied is bounded by `moves_max`
    /// only.
    pub moves_per_cell_max: u32,
    /// The longest that all waves may take, one after the other (see [`Policy::seconds_for`]): the window.
    pub seconds_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            moves_max: 1_000,
            bytes_max: u64::MAX,
            at_once_max: 16,
            at_once_per_cell_max: 4,
            at_once_per_domain_max: u32::MAX,
            moves_per_cell_max: u32::MAX,
            seconds_max: u64::MAX,
        }
    }
}

/// A question for a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What for.
    pub goal: Goal,
    /// Within what.
    pub bounds: Bounds,
    /// The time for cooldowns.
    pub now: UnixMillis,
}

/// Why a tenant moves; in the order of urgency.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "code")]
pub enum Reason {
    /// It may not be where it is.
    Violation {
        /// What its cell breaks.
        filter: RefusalCode,
    },
    /// Its cell is above its budget.
    Overloaded {
        /// How full the cell was when this move was chosen, in thousandths.
        source_per_mille: u32,
        /// How full the fuller of the two cells is after it.
        after_per_mille: u32,
    },
    /// Its cell is emptied.
    Drain,
    /// Its cell is above the high water.
    Hot {
        /// How full the cell was when this move was chosen, in thousandths.
        source_per_mille: u32,
        /// How full the fuller of the two cells is after it.
        after_per_mille: u32,
    },
    /// It changes places with another one, which weighs more where the other's cell is fullest.
    Exchange {
        /// Who goes to where it is.
        with: TenantId,
    },
    /// It makes room for another one, which no cell could take otherwise.
    MakeRoom {
        /// Who comes to where it was.
        waits: TenantId,
    },
}

/// One move of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// Who.
    pub tenant: TenantId,
    /// From where.
    pub source: CellId,
    /// To where.
    pub target: CellId,
    /// What is copied.
    pub bytes: u64,
    /// Why.
    pub reason: Reason,
}

/// Moves that may run at the same time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// Which.
    pub moves: Vec<PlannedMove>,
    /// How long the longest of them is expected to take.
    pub seconds: u64,
}

/// A tenant that the goal wants elsewhere and that stays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Left {
    /// Who.
    pub tenant: TenantId,
    /// Where it stays.
    pub cell: CellId,
    /// Why, in a sentence.
    pub why: String,
    /// What each cell said, where no cell admits it.
    pub decision: Option<Box<Decision>>,
}

/// Tenants that are on no cell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// How many.
    pub tenants: usize,
    /// The first of them.
    pub first: Vec<TenantId>,
}

impl Waiting {
    /// How many are named.
    const NAMED_MAX: usize = 20;

    pub(crate) fn of(fleet: &Fleet) -> Self {
        let nowhere = || fleet.tenants().filter(|&tenant| fleet.tenant(tenant).cell().is_none());
        Self {
            tenants: nowhere().count(),
            first: nowhere().take(Self::NAMED_MAX).map(|tenant| fleet.tenant_id(tenant)).collect(),
        }
    }

    /// Every tenant is on a cell.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tenants == 0
    }
}

/// A cell before and after a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellChange {
    /// Which.
    pub cell: CellId,
    /// Tenants on it before.
    pub tenants_before: usize,
    /// Tenants on it after.
    pub tenants_after: usize,
    /// Where it was fullest.
    pub before: PeakReport,
    /// Where it is fullest then.
    pub after: PeakReport,
    /// By hour: how full its fullest resource was.
    pub hours_before: Vec<f64>,
    /// By hour: how full its fullest resource is then.
    pub hours_after: Vec<f64>,
}

/// How good the result is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// How full the fullest cell was.
    pub hottest_before: f64,
    /// How full it is then.
    pub hottest_after: f64,
    /// No placement of these tenants on these cells that keeps to their residency has a fullest cell below this.
    pub lower_bound: f64,
    /// No plan with so many moves as this one may have ends below this: at least `lower_bound`.
    #[serde(default)]
    pub lower_bound_of_moves: f64,
    /// `hottest_after` above `lower_bound`, as a share of the bound: a proven distance to the best possible.
    pub gap: f64,
    /// How full the fullest cell is after 0, 1, 2, … moves, in the order of the waves: choose how many are worth it.
    pub curve: Vec<f64>,
    /// Zone by zone: no tenant of one may ever be on a cell of another.
    pub zones: Vec<ZoneQuality>,
}

/// How good the result is in one zone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZoneQuality {
    /// What its cells have in common.
    pub zone: String,
    /// How many cells it has.
    pub cells: usize,
    /// How many copies of tenants are on them.
    pub tenants: usize,
    /// How full its fullest cell was.
    pub hottest_before: f64,
    /// How full it is then.
    pub hottest_after: f64,
    /// No legal placement has a fullest cell below this.
    pub lower_bound: f64,
    /// `hottest_after` above `lower_bound`, as a share of the bound.
    pub gap: f64,
}

/// The way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// The waves in reverse, each move the other way.
    pub waves: Vec<Wave>,
    /// Every prefix of them is feasible as well. Not so where the plan repairs something or empties a cell: then the
    /// way back leads to what was wrong.
    pub feasible: bool,
}

/// What a plan comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The goal holds already.
    NothingToDo,
    /// The goal holds after the plan.
    Reached,
    /// The plan gets nearer to the goal; the rest is said in `why` and `left`.
    Partly,
    /// Something is to be done and nothing can be.
    Stuck,
}

/// An immutable list of moves with its reasons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Revision of the fleet that it was made on. It is refused where the fleet has moved on.
    pub parent: Revision,
    /// The store, and its history, that the fleet was a picture of; empty where it was of none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// What was asked.
    pub request: Request,
    /// What it was judged by.
    pub policy: Policy,
    /// What it comes to.
    pub verdict: Verdict,
    /// Why so, in a sentence or two.
    pub why: String,
    /// What to do, in order.
    pub waves: Vec<Wave>,
    /// Number of moves.
    pub moves: usize,
    /// Bytes copied by all of them.
    pub bytes: u64,
    /// How long all waves are expected to take.
    pub seconds: u64,
    /// Who stays although the goal wants it elsewhere.
    pub left: Vec<Left>,
    /// How many more of them there are.
    pub left_unlisted: usize,
    /// The cells that take part.
    pub cells: Vec<CellChange>,
    /// Who is on no cell yet. Placing is no part of a plan.
    #[serde(default, skip_serializing_if = "Waiting::is_empty")]
    pub waiting: Waiting,
    /// How good the result is.
    pub quality: Quality,
    /// The way back.
    pub undo: Undo,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A cell to empty is not in the fleet.
    #[error("cell {cell} is not in the fleet")]
    CellUnknown {
        /// Which.
        cell: CellId,
    },
    /// No cell to empty was named.
    #[error("no cell to drain was named")]
    NothingToDrain,
    /// A bound that nothing fits into.
    #[error("{bound} is 0: a plan could hold no move")]
    BoundInvalid {
        /// Which.
        bound: &'static str,
    },
    /// The policy cannot hold.
    #[error(transparent)]
    Policy(#[from] PolicyInvalid),
}

impl PlanError {
    /// Stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::CellUnknown { .. } => "CELL_UNKNOWN",
            Self::NothingToDrain => "NOTHING_TO_DRAIN",
            Self::BoundInvalid { .. } => "BOUND_INVALID",
            Self::Policy(_) => "POLICY_INVALID",
        }
    }
}

impl Plan {
    /// The plan as JSON, the same bytes for the same input.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a plan has string keys only");
        text.push('\n');
        text
    }

    /// Reads a plan that [`Plan::to_json`] wrote.
    ///
    /// # Errors
    /// A text with line and column where it is no plan.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}
