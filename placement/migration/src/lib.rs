//! The coordinator: on the leader it runs what the replicated records ask for, and proposes what came of it.
//!
//! It has no memory of its own. [`cell_model::pending_effects`] says from a record alone what is to be done; each effect
//! is idempotent and carries (lineage, term, move, attempt), so that a new leader simply starts over and a cell refuses
//! what an old leader still sends. The only things kept here are the tasks that run now, and, to be shown, what they have met in
//! their way ([`Setbacks`]): losing them loses nothing.
//!
//! ```text
//!   record changed ──► pending_effects ──► one task per effect ──► steps on agents ──► events ──► propose
//!        ▲                                                                                        │
//!        └──────────────────────────── apply (cell_model::step) ◄─────────────────────────────────┘
//! ```
//!
//! * [`Coordinator`] turns leadership and changed records into running tasks;
//! * `lines` keeps the tasks few that belong to no move: a cell may be away, and every tenant have something to be done there;
//! * `effect` runs one effect to its end, `hold` the steps of a hold within its budget;
//! * `gaining` says whether a copy comes closer to its source;
//! * `mending` has rows copied anew in which a copy differs;
//! * `soaking` compares some rows while a move soaks;
//! * `routers` waits for routers where the owner has no gate;
//! * `reach` keeps a tenant from where no router would reach it;
//! * `takeover` promotes by force, and tells the old owner when it is back;
//! * [`ControlPlane`] is the store as the coordinator sees it.

mod control_plane;
mod coordinator;
mod effect;
mod gaining;
mod hold;
mod lines;
mod mending;
mod reach;
mod routers;
mod setbacks;
mod soaking;
mod steps;
mod takeover;
mod telling;

pub use control_plane::{ControlPlane, Leadership, ProposeError, RoutersStood, Wake};
pub use coordinator::{Coordinator, Options};
pub use reach::out_of_reach;
pub use setbacks::{LastSetback, Setbacks};
