//! What may be typed. kubectl's grammar: a verb, a noun, a name; "explicit always overrides implicit".

mod plan;

use std::path::PathBuf;
use std::time::Duration;

use cell_model::{CellId, MoveId, TenantId};
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueEnum};

mod adopt;
mod care;
mod cells;
mod drill;
mod earlier;
mod host;
mod moves;
mod tenants;
mod unbounded;
mod watch;

pub(crate) use adopt::{Adopt, Enroll, OfCells};
pub(crate) use care::{Audit, Ca, Category, Check};
pub(crate) use cells::{Declare, Traits};
pub(crate) use drill::{Drill, RunDrills, Wires};
pub(crate) use earlier::EarlierTry;
#[cfg(feature = "planted")]
pub(crate) use host::Plant;
pub(crate) use host::{Demo, Dev, Run, RunOptions};
pub(crate) use moves::{LimitMoves, Move, MoveTenant, OfQuarantine, TakeOver};
pub(crate) use plan::{
    AddedCell, Apply, Asked, BoundArgs, CapacityArgs, Explain, FailCell, FleetArgs, JudgeArgs, Place, Plan,
    RingArgs, Simulate, Tiers,
};
pub(crate) use tenants::{OfTenant, Tier};
pub(crate) use watch::Watch;

/// The command line of Cellway.
#[derive(Debug, Parser)]
#[command(
    name = "cellctl",
    version,
    about = "Place tenants in cells and move them while they are used",
    arg_required_else_help = true,
    after_help = "Exit codes:\n  0 done · 1 failed · 2 plan has moves (with --detailed-exitcode) · 3 checks warn · 4 move aborted, cancelled or rolled back (with --watch)\n  \
                  5 outcome unknown: run the printed command to learn it · 64 wrong usage · 75 control plane unavailable"
)]
pub struct Cli {
    /// Where the control plane is, and how answers are printed.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Said with any command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Control nodes, host:port, separated by commas
    #[arg(long, global = true, env = "CELLCTL_ENDPOINTS", value_delimiter = ',', value_name = "HOST:PORT")]
    pub endpoints: Vec<String>,
    /// A named set of endpoints from the configuration file
    #[arg(long, global = true, env = "CELLCTL_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,
    /// Who you are: directory with ca.crt, tls.crt and tls.key of role viewer, operator or admin
    #[arg(long, global = true, env = "CELLCTL_IDENTITY", value_name = "DIR", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub identity: Option<PathBuf>,
    /// Call without certificates, for trying things out on one machine
    #[arg(long, global = true)]
    pub insecure_plaintext: bool,
    /// The configuration file [default: ~/.config/cellctl/config.toml]
    #[arg(long, global = true, env = "CELLCTL_CONFIG", value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub config: Option<PathBuf>,
    /// How to print what there is
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Leave out the column names
    #[arg(long, global = true)]
    pub no_headers: bool,
    /// Give up after this long
    #[arg(long, global = true, value_parser = timeout, default_value = "10s", value_name = "DURATION")]
    pub timeout: Duration,
    /// Name of an earlier try of the same command, as an unknown outcome printed it: it runs once
    #[arg(long, global = true, value_name = "HEX[@MS]", value_parser = earlier::earlier_try)]
    pub request_id: Option<EarlierTry>,
    /// Only where the record (or the limits) is still at this revision, as `describe` shows it; for commands that change one
    #[arg(long, global = true, value_name = "REVISION")]
    pub expected_revision: Option<u64>,
    /// Read from whichever node answers, without asking a leader: it may lag behind what was acknowledged
    #[arg(long, global = true)]
    pub stale: bool,
}

/// How long somebody waits: no longer than clocks count.
fn patience(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(366 * 24 * 3_600);
    let asked = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if asked <= LONGEST { Ok(asked) } else { Err("at most 366days".into()) }
}

/// How long something lasts that is not over when it begins.
fn lasting(text: &str) -> Result<Duration, String> {
    let asked = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if asked.is_zero() { Err("give more than nothing, as 10s or 90days".into()) } else { Ok(asked) }
}

fn timeout(text: &str) -> Result<Duration, String> {
    lasting(text).and_then(|_| patience(text))
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
    /// Names only, as `tenant/acme`
    Name,
    /// One page with everything on it, for `plan`, `explain` and `simulate`
    Html,
}

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a tenant or a cell
    #[command(subcommand)]
    Create(Create),
    /// Delete a tenant with all its data
    #[command(subcommand)]
    Delete(Delete),
    /// List tenants, cells, routers or moves
    #[command(subcommand)]
    Get(Get),
    /// Show everything about one tenant, cell or move
    #[command(subcommand)]
    Describe(Describe),
    /// Print what there is, and then each change as it is made
    Watch(Watch),
    /// Let a cell take no more tenants
    #[command(subcommand)]
    Cordon(OfCell),
    /// Let a cell take tenants again
    #[command(subcommand)]
    Uncordon(OfCell),
    /// Make tenants known that live in cells already, where they are
    Adopt(Adopt),
    /// Let a cell join with all that it needs; give cells ids of their own
    #[command(subcommand)]
    Cell(OfCells),
    /// Change what a tenant has paid for
    #[command(subcommand)]
    Tenant(OfTenant),
    /// Move a tenant to another cell, look at moves, steer them, prove them
    #[command(subcommand)]
    Move(Move),
    /// Look at what cells that were taken over have put aside, write it out, let go of it
    #[command(subcommand)]
    Quarantine(OfQuarantine),
    /// Plan placements, moves, drains and losses; nothing is changed
    #[command(subcommand)]
    Plan(Plan),
    /// Say why a tenant is where it is, and where it would be better
    #[command(subcommand)]
    Explain(Explain),
    /// Run days of a fleet on paper, with the code that places and plans in earnest
    Simulate(Simulate),
    /// Carry out a plan of moves, wave by wave; run again it goes on where it was
    Apply(Apply),
    /// Make a cluster of control nodes, or look at it
    #[command(subcommand)]
    Cluster(Cluster),
    /// Who asked for what, and what came of it; and the proof that nobody has rewritten it
    #[command(subcommand)]
    Audit(Audit),
    /// Look over the whole fleet: each finding with what to do about it
    Check(Check),
    /// Make an authority, and certificates for nodes, routers, cells and people
    #[command(subcommand)]
    Ca(Ca),
    /// Look after the store: members, disks, snapshots, backups
    #[command(subcommand)]
    Store(crate::store::Store),
    /// Make the key that the control plane signs mappings with, or a router contexts; or print the public half of one
    Keygen(cell_control::key_file::Keygen),
    /// Run a whole fleet in this process, to try things out
    Dev(Dev),
    /// Run a fleet of processes, move tenants under load, and check every answer
    Demo(Demo),
    /// Break a fleet on purpose: experiments with a hypothesis, a fault and a verdict
    #[command(subcommand)]
    Drill(Drill),
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
    /// Run one server of a fleet
    #[command(subcommand, hide = true)]
    Run(Run),
}

/// What can be made.
#[derive(Debug, Subcommand)]
pub enum Create {
    /// Place a new tenant
    #[command(visible_alias = "t")]
    Tenant {
        /// Its name: lower-case letters, digits and '-'
        name: TenantId,
        /// Where it is to live [default: the planner chooses; `explain tenant` says why]
        #[arg(long, value_name = "CELL")]
        cell: Option<CellId>,
        /// What it has paid for
        #[arg(long, value_enum, default_value_t = Tier::Bronze)]
        tier: Tier,
        /// Legal zone that its data may not leave
        #[arg(long, default_value = "")]
        residency: String,
    },
    /// Let a cell join
    #[command(visible_alias = "c")]
    Cell {
        /// Its name: lower-case letters, digits and '-'
        name: CellId,
        /// Its agent
        #[arg(long, value_name = "HOST:PORT")]
        agent: String,
        /// Its gates; they are learnt from the agent where none is given. With --without-gate: its application
        #[arg(long = "gate", value_name = "HOST:PORT", required_if_eq("without_gate", "true"))]
        gates: Vec<String>,
        /// Where it stands
        #[arg(long, default_value = "")]
        region: String,
        /// Legal zone of its data
        #[arg(long, default_value = "")]
        residency: String,
        /// What else tenants are placed by
        #[command(flatten)]
        traits: Traits,
    },
}

/// What can be deleted.
#[derive(Debug, Subcommand)]
pub enum Delete {
    /// Refuse a tenant from now on and delete its data
    #[command(visible_alias = "t")]
    Tenant {
        /// Its name
        name: TenantId,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// What can be listed.
#[derive(Debug, Subcommand)]
pub enum Get {
    /// Tenants, all or one
    #[command(visible_aliases = ["tenant", "t"])]
    Tenants {
        /// Only this one
        name: Option<TenantId>,
        /// Only those that this cell owns
        #[arg(long, value_name = "CELL", conflicts_with = "name")]
        cell: Option<CellId>,
    },
    /// Cells, all or one
    #[command(visible_aliases = ["cell", "c"])]
    Cells {
        /// Only this one
        name: Option<CellId>,
    },
    /// Routers, what each holds and how far it lags
    #[command(visible_aliases = ["router", "r"])]
    Routers {
        /// Which epoch of this tenant each of them holds
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantId>,
    },
    /// Moves that wait or run, or one
    #[command(visible_aliases = ["move", "m"])]
    Moves {
        /// Only this one
        id: Option<MoveId>,
        /// Only those of this tenant
        #[arg(long, value_name = "TENANT", conflicts_with = "id")]
        tenant: Option<TenantId>,
        /// Ended moves, too
        #[arg(long, short)]
        all: bool,
    },
}

/// What can be shown.
#[derive(Debug, Subcommand)]
pub enum Describe {
    /// A tenant: where it is, its epoch, its move, copies left behind
    #[command(visible_alias = "t")]
    Tenant {
        /// Its name
        name: TenantId,
    },
    /// A cell: its state, addresses and tenants
    #[command(visible_alias = "c")]
    Cell {
        /// Its name
        name: CellId,
    },
    /// A move: its phase, history and options
    #[command(visible_alias = "m")]
    Move {
        /// Its name, as m-4182
        id: MoveId,
    },
}

/// The one noun of `cordon` and `uncordon`.
#[derive(Debug, Subcommand)]
pub enum OfCell {
    /// A cell
    #[command(visible_alias = "c")]
    Cell {
        /// Its name
        name: CellId,
    },
}

/// The cluster itself.
#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Make one cluster of the nodes in --endpoints; run again it answers the same
    Init,
    /// What each node says of itself
    Status,
}

#[cfg(test)]
mod tests {
    use cell_model::Phase;
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_grammar_has_no_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_move_has_the_options_and_defaults_of_the_manual() {
        let cli = parse("cellctl move tenant acme --to c2 --watch --until verify --max-hold 250ms").unwrap();
        let Command::Move(Move::Tenant(asked)) = cli.command else { panic!("another command") };
        assert_eq!((asked.tenant.as_str(), asked.to.as_str(), asked.watch), ("acme", "c2", true));
        assert_eq!((asked.until, asked.max_hold), (Some(Phase::Verify), Duration::from_millis(250)));
        assert_eq!((asked.soak, asked.retain), (Duration::from_secs(10), Duration::from_secs(3_600)));
    }

    #[test]
    fn nouns_are_singular_plural_or_short() {
        for noun in ["tenants", "tenant", "t"] {
            let cli = parse(&format!("cellctl get {noun} -o json")).unwrap();
            assert!(matches!(cli.command, Command::Get(Get::Tenants { name: None, .. })));
            assert_eq!(cli.global.output, Output::Json);
        }
        assert!(matches!(parse("cellctl cordon cell c1").unwrap().command, Command::Cordon(OfCell::Cell { .. })));
    }

    #[test]
    fn a_malformed_name_is_refused_with_its_rule() {
        let refused = parse("cellctl create tenant Not_A_Label").unwrap_err().to_string();
        assert!(refused.contains("tenant id") && refused.contains("1 to 63 characters"), "{refused}");
        let refused = parse("cellctl move cancel 17").unwrap_err().to_string();
        assert!(refused.contains("move id"), "{refused}");
        let refused = parse("cellctl move tenant a --to b --until halfway").unwrap_err().to_string();
        assert!(refused.contains("one of preflight"), "{refused}");
        let refused = parse("cellctl move tenant a --to b --max-hold fast").unwrap_err().to_string();
        assert!(refused.contains("--max-hold"), "{refused}");
        for long in ["get cells --timeout", "check --wait", "adopt --from f --wait"] {
            assert!(parse(&format!("cellctl {long} 366days")).is_ok());
            let refused = parse(&format!("cellctl {long} 300000000000y")).unwrap_err().to_string();
            assert!(refused.contains("at most 366days"), "{refused}");
        }
        for nothing in ["get cells --timeout", "ca issue admin a --ca d --out e --valid"] {
            let refused = parse(&format!("cellctl {nothing} 0s")).unwrap_err().to_string();
            assert!(refused.contains("more than nothing"), "{refused}");
        }
    }

    #[test]
    #[cfg(not(feature = "planted"))]
    fn an_ordinary_build_plants_no_faults() {
        assert!(parse("cellctl demo --plant lost-write").is_err());
    }
}
