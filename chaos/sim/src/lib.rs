//! Deterministic simulation of the mapping store: three real nodes on simulated network, disks and time, with
//! everything that can break, breaking.
//!
//! A run follows from its seed alone (`chance`). It makes a cluster, lets clients and watchers work while the
//! nemesis cuts links and power (safety: nothing wrong may be answered), heals everything (liveness: everybody must get
//! through in time), and hands what clients and watchers were told to the [`oracle`].
//!
//! With [`Options::fleet`] it is the whole fleet (`fleet`): control nodes, a router, cells. Without, the store alone:
//!
//! * `node`, `wire`, `disk`, `front`: a real [`cell_store::Store`], and what the simulation puts around it.
//! * `client`, `workload`, `watcher`: who uses it; `history` is what they were told.
//! * `nemesis`: what breaks, and when.
//! * [`run`]: all of it together; [`simulate`]: many seeds, as [`Arguments`] name them; [`Flaw`]: faults of the harness itself, which the oracle has to find.
//!
//! The same seed gives the same trace, in a process of its own for each run.

mod arguments;
mod chance;
mod client;
mod disk;
mod flaw;
mod fleet;
mod front;
mod history;
mod nemesis;
mod node;
pub mod oracle;
mod run;
mod seeds;
mod stage;
mod trace;
mod watcher;
mod wire;
mod workload;

pub use arguments::Arguments;
pub use flaw::Flaw;
pub use run::{Options, Verdict, run};
pub use seeds::{Program, Said, SeedsError, simulate};
