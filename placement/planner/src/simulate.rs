//! Days of a fleet, with the code that runs it: forecast, place, plan, and then see what really comes.
//!
//! Each day begins with what the days before have taught ([`Forecast`]). Who leaves is taken off; who arrives is placed
//! by the same path as [`place`](crate::place); a rebalancing [`plan`] is made and carried out. Then the day happens
//! ([`Usage`]): what tenants really use, hour by hour, is added up by cell and held against what was planned with and
//! against what there is. Nothing of the day is known to the decisions before it.

mod day;
mod usage;

use cell_model::{CellId, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::plan::{Bounds, Goal, PlanError, Request, Verdict, plan};
use crate::policy::Policy;
use crate::resource::Dim;
use crate::ring::HomeRing;
use day::Run;

pub use usage::{DayUsage, Recorded, Scenario, Synthetic, Usage};

/// The most days of one simulation.
const DAYS_MAX: u32 = 3_650;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// How tomorrow is expected from the days before: for each tenant, resource and hour a mean and a deviation that
/// forget exponentially.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forecast {
    /// Weight of the newest day, above 0 and at most 1.
    pub smoothing: f64,
}

impl Default for Forecast {
    fn default() -> Self {
        Self { smoothing: 0.3 }
    }
}

/// How to simulate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Simulation {
    /// How many days.
    pub days: u32,
    /// What decisions are judged by.
    pub policy: Policy,
    /// How much one plan may do.
    pub bounds: Bounds,
    /// How tomorrow is expected.
    pub forecast: Forecast,
    /// A plan is made every so many days; 0: never.
    pub plan_every_days: u32,
    /// Who has moved is left alone for so many days, but for repairs.
    pub cooldown_days: u32,
}

impl Default for Simulation {
    fn default() -> Self {
        Self {
            days: 30,
            policy: Policy::default(),
            bounds: Bounds::default(),
            forecast: Forecast::default(),
            plan_every_days: 1,
            cooldown_days: 7,
        }
    }
}

/// One day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DayReport {
    /// Which, from 0.
    pub day: u32,
    /// Tenants with a home.
    pub tenants: usize,
    /// Tenants that came and were placed.
    pub placed: usize,
    /// Tenants that came, or wait from before, and that no cell admits.
    pub waiting: usize,
    /// Tenants that left.
    pub left: usize,
    /// What the plan came to; nothing where none was made.
    pub verdict: Option<Verdict>,
    /// Why so.
    pub why: String,
    /// Moves.
    pub moves: usize,
    /// Moves of tenants that had moved within the day before.
    pub moved_again: usize,
    /// Bytes copied.
    pub bytes: u64,
    /// How long the waves are expected to take.
    pub seconds: u64,
    /// How full the fullest cell is expected to be, of its budget.
    pub hottest_expected: f64,
    /// How full the fullest cell was, of its budget.
    pub hottest: f64,
    /// Which one, in what, when.
    pub hottest_at: Option<(CellId, Dim)>,
    /// Cells by hours in which a resource was used beyond the budget: the reserve was eaten.
    pub hours_over_budget: u32,
    /// Cells by hours in which more of a resource was wanted than there is: a violation.
    pub hours_over_capacity: u32,
    /// Tenants by hours on a cell of which more was wanted than there is.
    pub tenant_hours_over_capacity: u64,
    /// What was used of all capacity, in the resource and hour in which that was most.
    pub fill: f64,
    /// Tenants on a cell that has any.
    pub density: f64,
    /// How far the expected means of cells were off, by what they used.
    pub forecast_error: f64,
    /// The sum of tenants' own peaks by the peak of their sum, in cores: what reservations by peak would waste.
    pub stacking: f64,
}

/// All days.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Moves.
    pub moves: usize,
    /// Moves of tenants that had moved within the day before.
    pub moved_again: usize,
    /// Bytes copied.
    pub bytes: u64,
    /// Cells by hours over the budget.
    pub hours_over_budget: u64,
    /// Cells by hours over the capacity.
    pub hours_over_capacity: u64,
    /// The same as a share of all cells by hours.
    pub violation_share: f64,
    /// How full the fullest cell ever was, of its budget.
    pub hottest: f64,
    /// Tenants on a cell that has any, on average.
    pub density: f64,
}

/// What came of a simulation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SimulationReport {
    /// How it was run.
    pub simulation: Simulation,
    /// Day by day.
    pub days: Vec<DayReport>,
    /// All of them.
    pub totals: Totals,
}

/// Why there is no simulation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimulateError {
    /// Too many days, or none.
    #[error("{given} days: give 1 to {DAYS_MAX}")]
    DaysInvalid {
        /// As given.
        given: u32,
    },
    /// A weight that is none.
    #[error("a smoothing of {given}: give more than 0 and at most 1")]
    SmoothingInvalid {
        /// As given.
        given: String,
    },
    /// A plan cannot be made with these bounds or this policy.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl SimulateError {
    /// Stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::DaysInvalid { .. } => "DAYS_INVALID",
            Self::SmoothingInvalid { .. } => "SMOOTHING_INVALID",
            Self::Plan(error) => error.code(),
        }
    }
}

/// Runs a fleet through days. Tenants without a cell are placed on the day on which they arrive. `progress` is told
/// each day as it ends. The same input gives the same bytes.
///
/// # Errors
/// [`SimulateError`] where the question makes no sense.
pub fn simulate(
    fleet: &Fleet,
    usage: &impl Usage,
    ring: Option<&HomeRing>,
    simulation: &Simulation,
    progress: &mut dyn FnMut(&DayReport),
) -> Result<SimulationReport, SimulateError> {
    check(simulation)?;
    let mut run = Run::new(fleet.clone(), simulation);
    let mut days = Vec::new();
    for day in 0..simulation.days {
        let mut report = run.change_tenants(day, usage, ring);
        let due = simulation.plan_every_days > 0 && day.is_multiple_of(simulation.plan_every_days);
        if due {
            let now = UnixMillis(u64::from(day) * DAY_MS);
            let request = Request { goal: Goal::Rebalance, bounds: simulation.bounds, now };
            let made = plan(run.fleet(), simulation.policy, ring, &request)?;
            run.follow(day, &made, &mut report);
        }
        run.happen(day, usage, &mut report);
        progress(&report);
        days.push(report);
    }
    let totals = totals(&days, fleet.cells().len());
    Ok(SimulationReport { simulation: simulation.clone(), days, totals })
}

fn check(simulation: &Simulation) -> Result<(), SimulateError> {
    if !(1..=DAYS_MAX).contains(&simulation.days) {
        return Err(SimulateError::DaysInvalid { given: simulation.days });
    }
    let smoothing = simulation.forecast.smoothing;
    if !(smoothing > 0.0 && smoothing <= 1.0) {
        return Err(SimulateError::SmoothingInvalid { given: smoothing.to_string() });
    }
    simulation.policy.check().map_err(PlanError::from)?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of cells and hours need no 53 bits")]
fn totals(days: &[DayReport], cells: usize) -> Totals {
    let mut totals = Totals::default();
    for day in days {
        totals.moves += day.moves;
        totals.moved_again += day.moved_again;
        totals.bytes += day.bytes;
        totals.hours_over_budget += u64::from(day.hours_over_budget);
        totals.hours_over_capacity += u64::from(day.hours_over_capacity);
        totals.hottest = totals.hottest.max(day.hottest);
        totals.density += day.density / days.len() as f64;
    }
    let all = (cells * days.len() * crate::resource::HOURS) as f64;
    totals.violation_share = (totals.hours_over_capacity as f64 / all * 1e6).round() / 1e6;
    totals.density = crate::layout::rounded(totals.density);
    totals
}
