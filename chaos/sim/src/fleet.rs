//! The whole fleet in one simulated world: real control nodes, a real router, real cells with agents, gates and the sample
//! application, on simulated network, time and disks.
//!
//! ```text
//! field (operator, load, judge) ─► router ─► cell a ═══ cell b
//!         │                          │         │           │
//!         └───────────────────► n1 ── n2 ── n3 ◄───────────┘
//! ```
//! A run makes a cluster, two cells and two tenants, and begins to write. While things break (`nemesis`) it moves one
//! tenant to and fro. Then everything is healed: the move that is under way has to end, one more move has to complete
//! under load, and what is there has to be what clients were told. The clients and their judge are those of the drills. A third
//! tenant is deleted and made again, and a cell hears of a leader that is long gone.
//!
//! * `fabric`: simulated streams, clocks and choices as [`cell_client::net::Host`] wants them.
//! * `store`: a cell's store that loses at a crash what was not synced.
//! * `machine`: what runs on each host; `script`: what the field does; `renewal` and `former`: what must not come back; `aim`: a fault
//!   that waits for a commit; `run`:
//!   all of it together.

mod aim;
mod fabric;
mod former;
mod machine;
mod nemesis;
mod renewal;
mod run;
mod script;
mod store;

pub(crate) use run::run;

/// Where the router and the clients of the run are.
const ROUTER: &str = "router";
const FIELD: &str = "field";
/// The cells, by their names in the simulated network, which are their ids.
const CELLS: [&str; 2] = ["a", "b"];
/// The tenant that moves, one that stays where it is, and one that is deleted and made again.
const MOVING: &str = "moving";
const STAYING: &str = "staying";
const RENEWED: &str = "renewed";
