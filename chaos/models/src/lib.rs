//! The migration protocol under a model checker: the production [`cell_model::decide`], `step` and `pending_effects`
//! in a small world where everything that can go wrong may go wrong at any moment.
//!
//! * [`World`] is one state: the store ([`Ledger`]), two cells ([`Cell`]), the leader and a deposed one
//!   ([`Coordinator`]), steps and proposals that come late, clients whose writes are numbered. [`Action`] is one thing
//!   that happens.
//! * [`Routers`] are those of cells without a gate: they hold back what a gate would.
//! * [`judge`] says which promises a step has broken: the invariants of cell-model, and that no acknowledged write is
//!   missing at a cell that serves, and none is there twice.
//! * [`settling`] asks of each state whether the move ends once nothing more goes wrong.
//! * [`configurations`] are the bounds within which every state is visited; [`check`] visits them.
//! * [`incarnations`] is a model of its own: a name that is deleted and created again.
//! * [`Mutant`]s are guards switched off, one at a time, and so are [`UidMutant`]s; a [`Guard`] is either: the checker must find a counterexample
//!   for each.
//!
//! The cells here follow the rules of `placement/agent` by hand, since an agent cannot be part of a state. That the two
//! agree is for the drills on real processes to show.

mod bounds;
mod cell;
pub mod configurations;
mod coordinator;
mod desk;
mod guard;
pub mod guards;
pub mod incarnations;
pub mod judge;
mod ledger;
mod log;
pub mod model;
mod mutant;
mod note;
mod routers;
mod run;
pub mod settling;
mod world;

pub use bounds::{Bounds, Budget, Off};
pub use cell::{Capture, Cell, Grant, Header, Hold, Refusal, Rows, Step};
pub use coordinator::{Call, Coordinator, Deed};
pub use desk::{Desk, Told};
pub use guard::Guard;
pub use incarnations::UidMutant;
pub use ledger::{Ended, Ledger, Place, Rogue, Slip};
pub use log::Log;
pub use model::CellModel;
pub use mutant::Mutant;
pub use note::{Note, Said, Seen};
pub use routers::{Router, Routers, Turn};
pub use run::{Search, Verdict, check, check_incarnations, check_incarnations_without, check_telling};
pub use world::{Action, World, Zombie};
