//! Fairness between tenants: how much each may ask for, and who is next where a cell cannot do everything at once.
//!
//! ```text
//! rate (GCRA) → concurrency cap → the cell's way in: at once, or in a fair order → the cell, at its adaptive limit
//!   429            503                503 after its time, or where the queue is full
//! ```
//! What is kept of a tenant is small and forgotten only when that gives nobody anything ([`tenants`]). Rates hold for the
//! fleet: each router has a share by the demand that it sees ([`fleet`]).

pub(crate) mod adaptive;
pub(crate) mod fleet;
mod meter;
pub(crate) mod places;
pub(crate) mod queue;
pub(crate) mod rate;
pub(crate) mod scheduler;
pub(crate) mod tenants;
