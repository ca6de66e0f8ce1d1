//! What may be typed to run fleets on this machine: `dev`, `demo`, and the servers that they start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cell_model::MoveOptions;
use clap::{Args, Subcommand};

/// `dev`.
#[derive(Debug, Clone, Args)]
pub struct Dev {
    /// Keep data in this directory and find it again [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub retain: Option<PathBuf>,
    /// How many cells
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub cells: u8,
    /// Where the router listens; with port 0 it and the control nodes take whatever ports are free
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
}

/// `demo`.
#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// What sizes, tenants and moves follow
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the report here, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Write what it measured here, as a list of figures with their limits, and print them as a table; where one misses its limit, the
    /// command fails
    #[arg(long, value_name = "FILE")]
    pub figures: Option<PathBuf>,
    /// How many tenants
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(12..=5_000))]
    pub tenants: u32,
    /// How many moves, not counting the one that is cancelled; at least 4, and 2 without faults
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..=500))]
    pub moves: u32,
    /// Kill no leader under a move, and cut off no router under another one
    #[arg(long)]
    pub without_faults: bool,
    /// How many of them at once; those with a fault run alone
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8), value_name = "COUNT")]
    pub moves_at_once: u8,
    /// The longest that writes may wait in one hold, up to 2s; more on a machine that has much else to do
    #[arg(long, default_value = "500ms", value_parser = max_hold, value_name = "DURATION")]
    pub max_hold: Duration,
    /// Writes per second that there must be at least
    #[arg(long, default_value_t = 500, value_name = "RATE")]
    pub writes_per_second: u32,
    /// Size of the big tenant, in megabytes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=2_000), value_name = "MB")]
    pub big: u32,
    /// Keep data and logs of all processes in this directory
    #[arg(long, value_name = "DIR")]
    pub retain: Option<PathBuf>,
    /// Let the cells keep their tenants in PostgreSQL: one empty database for each of the three cells
    #[arg(long = "database", value_name = "URL", num_args = 1)]
    pub databases: Vec<String>,
    /// Give each tenant a schema of its own, called so, with {id} in the tenant's place, in every database but the first:
    /// moves go from layout to layout
    #[arg(long, value_name = "NAME", requires = "databases")]
    pub tenant_schema: Option<String>,
    /// Give each tenant a database of its own, called so behind c2_ or c3_, with {id} in the tenant's place, in every cell but the
    /// first; those of an earlier run have to be dropped before
    #[arg(long, value_name = "NAME", requires = "databases", conflicts_with = "tenant_schema")]
    pub tenant_database: Option<String>,
    /// Let the cells keep a shop for each tenant, too, in tables tied by foreign keys and numbered by sequences; tills trade in all of
    /// them while tenants move, and in the end their books are audited
    #[arg(long, requires = "databases")]
    pub shop: bool,
    /// Plant a fault that the checker must find
    #[cfg(feature = "planted")]
    #[arg(long, value_enum)]
    pub plant: Option<Plant>,
}

/// Faults that can be planted in builds that are made for it.
#[cfg(feature = "planted")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Plant {
    /// In sync, now and then, a write is acknowledged and not done
    LostWrite,
    /// The fenced source goes on serving
    StaleEpoch,
    /// The target serves before the commit
    EarlyServe,
    /// Writes are acknowledged without being synced
    UnflushedWrite,
    /// The target does not apply deletions
    DroppedTombstone,
    /// The target applies a change twice
    ChangeTwice,
}

/// One server of a fleet, as `demo` starts it.
#[derive(Debug, Subcommand)]
pub enum Run {
    /// A control node
    Control(RunOptions),
    /// A router
    Router(RunOptions),
    /// A cell: agent, gates and the sample application
    Cell(RunOptions),
}

/// How a server is started.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// The server's own options, as JSON
    #[arg(long, value_name = "FILE")]
    pub options: PathBuf,
    /// End when standard input ends
    #[arg(long)]
    pub exit_with_parent: bool,
}

/// From a millisecond to the cap of every hold.
fn max_hold(text: &str) -> Result<Duration, String> {
    let hold = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let cap = Duration::from_millis(MoveOptions::HOLD_CAP_MS.into());
    let fits = (Duration::from_millis(1)..=cap).contains(&hold);
    if fits { Ok(hold) } else { Err(format!("a hold takes from 1ms to {}", humantime::format_duration(cap))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_takes_no_longer_than_the_cap_and_takes_some_time() {
        assert_eq!(max_hold("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["0ms", "2001ms", "soon"] {
            assert!(max_hold(wrong).is_err(), "{wrong}");
        }
        assert_eq!(max_hold("3s").unwrap_err(), "a hold takes from 1ms to 2s");
    }
}
