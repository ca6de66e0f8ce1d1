//! The demo: a fleet of real processes, tenants that move while clients write and read, and a verdict.
//!
//! ```text
//! start ► make cells and tenants ► background load ► fill ► lanes of moves ► faulty moves alone ► heal ► stop load
//!       ► read everything back, through the routers and at the owners ► check ► report
//! ```
//!
//! Where it is told to, each tenant also has a shop ([`crate::shop`]), whose books are audited with the rest.
//!
//! [`plan`] decides everything that the seed decides, [`moves`] drives one move, [`crate::observe`] reads what is there at
//! the end; the judging is done by [`crate::check`] and [`crate::exercise`], which know nothing of all this.

mod moves;
pub mod plan;
mod stage;
mod trade;

pub use stage::run;

use std::path::PathBuf;
use std::sync::Arc;

use cell_model::MoveOptions;

/// What routers call the answers that told them of a newer owner.
const STALE_REDIRECTS: &str = "cell_router_stale_redirects";

/// What a demo is told.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// What sizes, tenants and moves follow.
    pub seed: u64,
    /// How many tenants.
    pub tenants: u32,
    /// How many moves, not counting the one that is called off.
    pub moves: u32,
    /// How many of them at once; those with a fault run alone.
    pub moves_at_once: usize,
    /// The longest that writes may wait in one hold, in milliseconds.
    pub hold_max_ms: u32,
    /// Whether a leader is killed under one move, and a router cut off under another one.
    pub faults: bool,
    /// How many cells.
    pub cells: usize,
    /// Application instances, each behind a gate, of a cell.
    pub gates_per_cell: usize,
    /// How many routers.
    pub routers: usize,
    /// Writes per second that are promised; the background aims a little higher.
    pub writes_per_second: u32,
    /// Size of the big tenant.
    pub big_bytes: u64,
    /// The program that runs a server: called as `<program> run control|router|cell --options FILE`.
    pub program: PathBuf,
    /// Where data, options and logs go.
    pub directory: PathBuf,
    /// A fault to be planted in the cells, by name; only builds with the feature know any.
    pub plant: Option<String>,
    /// PostgreSQL databases, one for each cell; none: cells keep their data themselves.
    pub databases: Vec<String>,
    /// What a tenant's own schema is called in every one of them but the first, where tenants share tables.
    pub tenant_schema: Option<String>,
    /// What a tenant's own database is called in every cell but the first, behind `c2_`, `c3_`, …: names are the whole server's.
    pub tenant_database: Option<String>,
    /// Whether the cells keep a shop for each tenant, in which tills trade meanwhile.
    pub shop: bool,
}

impl DemoOptions {
    /// One with the leader killed, one with a router cut off, one that is brought back, and the big one.
    pub const MOVES_MIN: u32 = 4;
    /// The same without the two that are faults.
    pub const MOVES_MIN_CALM: u32 = 2;
    /// Size of each document of the big tenant.
    pub const BIG_DOC_BYTES: u64 = 50_000;

    /// How many documents the big tenant has.
    #[must_use]
    pub const fn big_docs(&self) -> u64 {
        self.big_bytes.div_ceil(Self::BIG_DOC_BYTES)
    }
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            tenants: 200,
            moves: 20,
            moves_at_once: 2,
            hold_max_ms: MoveOptions::default().hold_max_ms,
            faults: true,
            cells: 3,
            gates_per_cell: 2,
            routers: 2,
            writes_per_second: 500,
            big_bytes: 100_000_000,
            program: PathBuf::new(),
            directory: PathBuf::new(),
            plant: None,
            databases: Vec::new(),
            tenant_schema: None,
            tenant_database: None,
            shop: false,
        }
    }
}

/// What a demo tells while it runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// A new part has begun.
    Stage(String),
    /// So much of the tenants' content has been written.
    Filled {
        /// Bytes so far.
        bytes: u64,
        /// Bytes in all.
        total: u64,
    },
    /// What clients did in the last second.
    Load {
        /// Writes acknowledged so far.
        acked_writes: usize,
        /// Of them in the last second.
        per_second: usize,
        /// Requests that failed so far.
        failed: usize,
    },
    /// A move has entered a phase.
    Move {
        /// Its name.
        id: String,
        /// Whose.
        tenant: String,
        /// From where, to where.
        route: String,
        /// Which phase.
        phase: String,
    },
    /// A move has ended.
    Ended {
        /// Its name.
        id: String,
        /// Whose.
        tenant: String,
        /// How.
        end: String,
        /// Moves that have ended, and moves in all.
        done: (usize, usize),
    },
    /// A fault was injected, or healed.
    Fault(String),
}

/// Where progress goes.
pub type Tell = Arc<dyn Fn(Progress) + Send + Sync>;
