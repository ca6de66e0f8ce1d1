//! What may be typed of placement: `plan`, `explain`, `apply`, `simulate`.

use std::path::PathBuf;
use std::time::Duration;

use cell_model::{CellId, TenantId, UnixMillis};
use cell_planner::Amounts;
use clap::{Args, Subcommand, ValueEnum};

use super::unbounded::{Unbounded, Windowless};

mod value;

pub(crate) use value::{AddedCell, GrowthOf};
use value::{added_cell, bytes, growth_of, shape, share, time};
pub(super) use value::{byte_rate, rate};

/// Which fleet is looked at: a file, or the one that the control plane has.
#[derive(Debug, Clone, Default, Args)]
pub struct FleetArgs {
    /// Work on this fleet, without a control plane: a JSON document, or a directory with cells.csv and tenants.csv
    #[arg(long, value_name = "FILE|DIR")]
    pub fleet: Option<PathBuf>,
    /// What the live fleet's cells can do and its tenants want: a fleet file, whose places do not count
    #[arg(long, value_name = "FILE|DIR", conflicts_with = "fleet")]
    pub profile: Option<PathBuf>,
}

/// How it is judged.
#[derive(Debug, Clone, Default, Args)]
pub struct JudgeArgs {
    /// Numbers of the policy, as JSON: risk, high_water, low_water, gain_min …
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Key of the ring of default homes; the same seed gives the same answer
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
}

/// How much a plan may do.
#[derive(Debug, Clone, Args)]
pub struct BoundArgs {
    /// The most moves
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub max_moves: u32,
    /// The most that may be copied, as 500GB or 2TiB [default: no bound]
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    pub max_bytes: Option<u64>,
    /// The most moves at the same time
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub at_once: u32,
    /// The most moves at the same time that one cell takes part in
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub at_once_per_cell: u32,
    /// The most moves at the same time that one failure domain takes part in [default: no bound]
    #[arg(long, value_name = "N")]
    pub at_once_per_domain: Option<u32>,
    /// The most moves of the whole plan that one cell takes part in; a cell that is drained is not bound by it [default: no bound]
    #[arg(long, value_name = "N")]
    pub max_moves_per_cell: Option<u32>,
    /// The longest that all waves may take, as 2h; a move is expected to copy 50 MB a second [default: no bound]
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub window: Option<Duration>,
}

/// What is to be planned.
#[derive(Debug, Clone, Subcommand)]
pub enum Plan {
    /// Where tenants that are nowhere yet belong, and why
    Place(Place),
    /// Put right what breaks a constraint, then bring hot cells down
    Rebalance(Asked),
    /// Put right what breaks a constraint; touch nothing else
    Repair(Asked),
    /// Empty cells
    Drain {
        /// Which
        #[arg(required = true)]
        cells: Vec<CellId>,
        #[command(flatten)]
        asked: Asked,
    },
    /// What happens if a cell, a failure domain or a region is lost: who goes where, and who finds no room
    FailCell(FailCell),
    /// How long there is room, and how many cells are missing
    Capacity(CapacityArgs),
    /// Who has outgrown its tier, and who no longer needs it: proposals with their cost
    Tiers(Tiers),
    /// Default homes of tenants, their shards, and what changes when cells come or go
    Ring(RingArgs),
    /// Write the fleet as a file, to plan with it elsewhere
    Export {
        /// A JSON file, or a directory for cells.csv and tenants.csv where the name ends with '/' [default: print JSON]
        #[arg(long, value_name = "FILE|DIR/")]
        to: Option<PathBuf>,
        /// Of which fleet
        #[command(flatten)]
        of: FleetArgs,
    },
}

/// `plan place`.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Which tenants [default: all that are nowhere yet]
    pub tenants: Vec<TenantId>,
    /// The most moves of other tenants that may be proposed to make room; 0: none
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub max_moves: u32,
    /// The most that these moves may copy, as 500GB or 2TiB [default: no bound]
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    pub max_bytes: Option<u64>,
    /// Time for which cooldowns of others are looked at [default: now]
    #[arg(long, value_parser = time, value_name = "RFC 3339")]
    pub at: Option<UnixMillis>,
    /// Move nobody to make room who has moved within this time, as 24h: live fleets only, a file says `cooldown_until`
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION", conflicts_with = "fleet")]
    pub cooldown: Option<Duration>,
    /// Of which fleet
    #[command(flatten)]
    pub of: FleetArgs,
    /// By which numbers
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// Its moves have no waves
    #[command(flatten)]
    pub windowless: Windowless,
}

/// What every plan of moves is asked with.
#[derive(Debug, Clone, Args)]
pub struct Asked {
    /// Of which fleet
    #[command(flatten)]
    pub of: FleetArgs,
    /// By which numbers
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// Within which bounds
    #[command(flatten)]
    pub bounds: BoundArgs,
    /// Time for which cooldowns are looked at [default: now]
    #[arg(long, value_parser = time, value_name = "RFC 3339")]
    pub at: Option<UnixMillis>,
    /// Leave alone who has moved within this time, as 24h: live fleets only, a file says `cooldown_until` of each tenant
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION", conflicts_with = "fleet")]
    pub cooldown: Option<Duration>,
    /// Exit with 2 where the plan has moves
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// `plan fail-cell`.
#[derive(Debug, Clone, Args)]
#[command(group(clap::ArgGroup::new("lost").required(true).multiple(true).args(["cells", "domain", "region"])))]
pub struct FailCell {
    /// Which cells; each is lost for itself
    pub cells: Vec<CellId>,
    /// Every cell of a failure domain
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Vec<String>,
    /// Every cell of a region
    #[arg(long, value_name = "REGION")]
    pub region: Vec<String>,
    /// Of which fleet
    #[command(flatten)]
    pub of: FleetArgs,
    /// By which numbers
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// It moves nobody
    #[command(flatten)]
    pub unbounded: Unbounded,
}

/// `plan ring`.
#[derive(Debug, Clone, Args)]
pub struct RingArgs {
    /// Which tenants to list [default: those whose default home changes]
    pub tenants: Vec<TenantId>,
    /// With this cell, which is not in the fleet yet, as eu-3 or eu-3,residency=eu,region=eu-west,kind=dedicated
    #[arg(long, value_name = "CELL", value_parser = added_cell)]
    pub add: Vec<AddedCell>,
    /// Without this cell
    #[arg(long, value_name = "CELL")]
    pub remove: Vec<CellId>,
    /// List the shard of each tenant, too: the first so many cells of its walk on which it may be
    #[arg(long, value_name = "CELLS", value_parser = clap::value_parser!(u16).range(1..))]
    pub shard: Option<u16>,
    /// Key of the ring; the same seed gives the same answer
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Of which fleet
    #[command(flatten)]
    pub of: FleetArgs,
    /// It moves nobody
    #[command(flatten)]
    pub unbounded: Unbounded,
}

/// `plan tiers`.
#[derive(Debug, Clone, Args)]
pub struct Tiers {
    /// Propose for these tenants only; without a name for all
    #[arg(value_name = "TENANT")]
    pub tenants: Vec<TenantId>,
    /// Where it is remembered from day to day who has asked for another tier: run it once a day with the same file
    #[arg(long, value_name = "FILE")]
    pub watch: Option<PathBuf>,
    /// The day that --watch counts, as any time of it; each day counts once [default: now]
    #[arg(long, value_parser = time, value_name = "RFC 3339", requires = "watch")]
    pub at: Option<UnixMillis>,
    /// For how many days demand is taken to have been as it is, without --watch
    #[arg(long, default_value_t = 30, value_name = "DAYS", conflicts_with = "watch", value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
    /// Numbers of the policy of tiers, as JSON: silver, gold, platinum, promote_days, demote_days
    #[arg(long, value_name = "FILE")]
    pub tier_policy: Option<PathBuf>,
    /// Of which fleet
    #[command(flatten)]
    pub of: FleetArgs,
    /// By which numbers
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// It moves nobody
    #[command(flatten)]
    pub unbounded: Unbounded,
}

/// `plan capacity`.
#[derive(Debug, Clone, Args)]
pub struct CapacityArgs {
    /// By how much demand grows in 30 days
    #[arg(long, value_parser = rate, default_value = "5%", value_name = "RATE")]
    pub growth: f64,
    /// Another rate for some tenants, as tier=gold:8% or region=eu-1:3%; the first that fits counts
    #[arg(long, value_parser = growth_of, value_name = "WHO:RATE")]
    pub growth_of: Vec<GrowthOf>,
    /// How many days to look ahead
    #[arg(long, default_value_t = 365, value_name = "DAYS")]
    pub horizon: u32,
    /// What each zone must be able to lose without passing the high water
    #[arg(long, value_enum, default_value_t = Survive::Cell)]
    pub survive: Survive,
    /// Capacity of a cell to add, as cpu=16,connections=400,storage=800 [default: that of the zone's largest cell]
    #[arg(long, value_parser = shape, value_name = "AMOUNTS")]
    pub shape: Option<Amounts>,
    /// Ask, too, what the loss of this cell would do
    #[arg(long, value_name = "CELL")]
    pub lose_cell: Vec<CellId>,
    /// Ask, too, what the loss of this failure domain would do
    #[arg(long, value_name = "DOMAIN")]
    pub lose_domain: Vec<String>,
    /// Ask, too, what the loss of this region would do
    #[arg(long, value_name = "REGION")]
    pub lose_region: Vec<String>,
    /// Of which fleet
    #[command(flatten)]
    pub of: FleetArgs,
    /// By which numbers
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// It moves nobody
    #[command(flatten)]
    pub unbounded: Unbounded,
}

/// As [`cell_planner::Survive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Survive {
    /// Nothing
    Nothing,
    /// Its largest cell
    Cell,
    /// Its largest failure domain
    Domain,
}

impl From<Survive> for cell_planner::Survive {
    fn from(survive: Survive) -> Self {
        match survive {
            Survive::Nothing => Self::Nothing,
            Survive::Cell => Self::Cell,
            Survive::Domain => Self::Domain,
        }
    }
}

/// `simulate`.
#[derive(Debug, Clone, Args)]
pub struct Simulate {
    /// How many days
    #[arg(long, default_value_t = 30, value_name = "DAYS")]
    pub days: u32,
    /// What tenants really use, as tenant,resource,values with 24 values a day [default: made up by --seed]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["growth", "weekend", "spikes", "arrivals", "departures"])]
    pub usage: Option<PathBuf>,
    /// By how much demand grows in 30 days
    #[arg(long, value_parser = rate, default_value = "0", value_name = "RATE")]
    pub growth: f64,
    /// What is left of demand on two days of seven
    #[arg(long, value_parser = rate, default_value = "100%", value_name = "SHARE")]
    pub weekend: f64,
    /// The chance that a tenant has a spike of three hours on a day
    #[arg(long, value_parser = share, default_value = "0", value_name = "SHARE")]
    pub spikes: f64,
    /// The share of tenants that arrive after the first day
    #[arg(long, value_parser = share, default_value = "0", value_name = "SHARE")]
    pub arrivals: f64,
    /// The share of tenants that leave
    #[arg(long, value_parser = share, default_value = "0", value_name = "SHARE")]
    pub departures: f64,
    /// Make a plan every so many days; 0: never
    #[arg(long, default_value_t = 1, value_name = "DAYS")]
    pub plan_every: u32,
    /// Weight of the newest day in what is expected of tomorrow: above 0, at most 1 [default: 0.3]
    #[arg(long, value_parser = rate, value_name = "SHARE")]
    pub smoothing: Option<f64>,
    /// Leave who has moved alone for so many days
    #[arg(long, default_value_t = 7, value_name = "DAYS")]
    pub cooldown_days: u32,
    /// Of which fleet
    #[command(flatten)]
    pub of: FleetArgs,
    /// By which numbers
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// Within which bounds
    #[command(flatten)]
    pub bounds: BoundArgs,
}

/// What can be explained.
#[derive(Debug, Clone, Subcommand)]
pub enum Explain {
    /// A tenant: where it is, where it would be best, what speaks against every other cell
    #[command(visible_alias = "t")]
    Tenant {
        /// Its name
        name: TenantId,
        /// Of which fleet
        #[command(flatten)]
        of: FleetArgs,
        /// By which numbers
        #[command(flatten)]
        judge: JudgeArgs,
    },
    /// A request: by which mapping it was routed, how often it was sent, how long it waited and for what
    #[command(visible_alias = "req")]
    Request {
        /// Its `x-request-id`, which every answer carries
        #[arg(value_name = "ID")]
        id: String,
        /// Routers to ask, by the address of their metrics; without it those of the context
        #[arg(long = "router", env = "CELLCTL_ROUTERS", value_delimiter = ',', value_name = "HOST:PORT")]
        routers: Vec<String>,
    },
}

/// `apply`.
#[derive(Debug, Clone, Args)]
pub struct Apply {
    /// A plan that `cellctl plan rebalance|repair|drain -o json` has written, or proposals of `cellctl plan tiers -o json`; '-' reads it
    /// from standard input
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// Take back what an earlier run has done: the plan's own way back, wave by wave
    #[arg(long)]
    pub undo: bool,
    /// How long each new owner serves before its move is final and the next wave may begin
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s", value_name = "DURATION")]
    pub soak: Duration,
    /// How long old copies are kept after that
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1h", value_name = "DURATION")]
    pub retain: Duration,
    /// The most that each copy may read of its source in a second, as 500kB or 20MiB [default: as fast as it goes]
    #[arg(long, value_parser = byte_rate, default_value = "0", hide_default_value = true, value_name = "BYTES")]
    pub bytes_per_second: u64,
}
