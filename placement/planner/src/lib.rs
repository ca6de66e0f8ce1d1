//! Pure placement: a fleet in, a decision or a plan out, each with its reasons.
//!
//! * [`FleetDocument`] (JSON) and [`FleetTables`] (CSV) are checked and packed into a [`Fleet`].
//! * [`Layout`] is who is where, and what that costs each cell: three resources, by hour of the day.
//! * [`place`] asks every cell (*filter*), orders those that admit the tenant (*score*) and returns a [`Decision`]
//!   that says all of it (*explain*). There is no other way to choose a cell in this crate: planning calls the same
//!   filter and the same score.
//! * [`place_all`] does that for many at once, so that the next rebalancing leaves them where they are.
//! * [`HomeRing`] gives each tenant a default home that moves little when cells come and go.
//! * [`plan`] repairs, drains or rebalances within bounds, and returns a [`Plan`]: ordered waves of which every prefix
//!   is feasible, a reason for each move, and the proven distance to the best that is possible.
//!
//! Nothing here reads a clock, a random source or a file. The same input gives the same bytes, on every platform: what the
//! system's library of mathematics would round in a way of its own comes from `libm`.

#![allow(clippy::needless_range_loop, reason = "a dimension is the index of several arrays at once")]

mod capacity;
mod demand;
mod document;
mod explain;
mod filter;
mod fleet;
mod layout;
mod load;
mod pack;
mod plan;
mod policy;
mod problem;
mod resource;
mod ring;
mod score;
mod simulate;
mod table;
mod tier;
mod zone;

pub use capacity::{
    Breach, CapacityError, CapacityReport, CapacityRequest, Growth, GrowthRule, Loss, LossReport, NewHome, Survive,
    ZoneCapacity, ZoneUse, capacity, losses,
};
pub use document::{
    Amounts, CellEntry, CellKind, Databases, Demand, FleetDocument, Hourly, ResourceDemand, TenantEntry,
};
pub use explain::{Candidate, Counterfactual, Decision, Margin, PlaceError, RefusedCells, place};
pub use filter::{RefusalCode, never};
pub use fleet::{CellIx, Fleet, FleetBuilder, TenantIx};
pub use layout::{Layout, PeakReport};
pub use pack::{Packing, pack};
pub use plan::{
    Batch, Bounds, CellChange, Goal, Left, Plan, PlanError, PlannedMove, Quality, Reason, Request, Room, Undo,
    Verdict, Waiting, Wave, ZoneQuality, place_all, plan,
};
pub use policy::{Policy, PolicyInvalid};
pub use problem::{FleetError, PROBLEMS_MAX, Place, Problem, ProblemCode};
pub use resource::{DIMS, Dim, HOURS, RESOURCES, Resource};
pub use ring::{Churn, Flow, HomeRing, RingError, RingOptions, VIRTUAL_NODES_MIN};
pub use score::Terms;
pub use simulate::{
    DayReport, DayUsage, Forecast, Recorded, Scenario, SimulateError, Simulation, SimulationReport, Synthetic,
    Totals, Usage, simulate,
};
pub use table::FleetTables;
pub use tier::{Proposal, Signal, Streak, Threshold, TierCost, TierPolicy, TierWatch};
