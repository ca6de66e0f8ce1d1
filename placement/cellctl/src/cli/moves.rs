//! `move`: asked for, looked at, steered, proven.

use std::path::PathBuf;
use std::time::Duration;

use cell_model::{CellId, MoveId, Phase, TenantId};
use clap::{Args, Subcommand};

use super::Tier;
use super::plan::byte_rate;

/// Moves.
#[derive(Debug, Subcommand)]
pub enum Move {
    /// Move a tenant to another cell
    #[command(visible_alias = "t")]
    Tenant(MoveTenant),
    /// List moves that wait or run, as `get moves`
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this tenant
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantId>,
        /// Ended moves, too
        #[arg(long, short)]
        all: bool,
    },
    /// Show everything about one move, as `describe move`
    Describe {
        /// Its name, as m-4182
        id: MoveId,
    },
    /// Start no new phase
    Pause {
        /// Its name, as m-4182
        id: MoveId,
    },
    /// Go on
    Resume {
        /// Its name, as m-4182
        id: MoveId,
    },
    /// Take away what was made, before the cutover
    Cancel {
        /// Its name, as m-4182
        id: MoveId,
    },
    /// Bring the tenant back, out of soak
    Rollback {
        /// Its name, as m-4182
        id: MoveId,
    },
    /// Make the other cell of a move the owner, because the owner is out of reach and stopped
    Takeover(TakeOver),
    /// Let a copy go slower, or faster
    Throttle {
        /// Its name, as m-4182
        id: MoveId,
        /// The most that it may read of the source in a second, as 500kB or 20MiB; 0: as fast as it goes
        #[arg(long, value_parser = byte_rate, value_name = "BYTES")]
        bytes_per_second: u64,
    },
    /// Show how many moves may run at once, or change it
    Limits(LimitMoves),
    /// Write what a move stands on: its steps out of the audit trail, checkable by anybody
    Proof {
        /// Its name, as m-4182
        id: MoveId,
        /// Where to; standard output where nothing is said
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Check a proof without any node
    VerifyProof {
        /// A file of `move proof`
        file: PathBuf,
        /// Public keys of the control plane, as `cellctl keygen` prints them
        #[arg(long, value_delimiter = ',', value_name = "KEY")]
        trusted_keys: Vec<String>,
    },
}

/// `move takeover`.
#[derive(Debug, Clone, Args)]
pub struct TakeOver {
    /// Which tenant
    pub tenant: TenantId,
    /// The cell that is to own: the other one of the tenant's move
    #[arg(long, value_name = "CELL")]
    pub to: CellId,
    /// How it is known that the owner is stopped and stays so until it is started anew, in your words; kept in the audit
    /// trail. A process that is only paused is not stopped
    #[arg(long, value_name = "WORDS", required_unless_present = "dry_run")]
    pub stopped: Option<String>,
    /// Also where acknowledged writes may be missing: they are kept apart if the owner ever comes back
    #[arg(long)]
    pub accept_data_loss: bool,
    /// Say what would be; decide nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What cells that were taken over have put aside.
#[derive(Debug, Subcommand)]
pub enum OfQuarantine {
    /// List it
    #[command(visible_alias = "ls")]
    List {
        /// Only that of this tenant
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantId>,
    },
    /// Write out a tail: lines of JSON, the changes in the order in which the cell has made them
    Export {
        /// Which tenant's
        tenant: TenantId,
        /// Of which cell
        #[arg(long, value_name = "CELL")]
        cell: CellId,
        /// Where to; standard output where nothing is said
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Let go of a tail: it is deleted with the old copy, for good
    Drop {
        /// Which tenant's
        tenant: TenantId,
        /// Of which cell
        #[arg(long, value_name = "CELL")]
        cell: CellId,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// `move limits`.
#[derive(Debug, Clone, Copy, Args)]
pub struct LimitMoves {
    /// Moves that run at once in the whole fleet
    #[arg(long, value_name = "N")]
    pub total: Option<u32>,
    /// Moves that run at once at one cell, into it and out of it
    #[arg(long, value_name = "N")]
    pub per_cell: Option<u32>,
    /// Moves that wait or run; more are refused
    #[arg(long, value_name = "N")]
    pub queued: Option<u32>,
}

/// `move tenant`.
#[derive(Debug, Clone, Args)]
pub struct MoveTenant {
    /// Which tenant
    pub tenant: TenantId,
    /// To which cell
    #[arg(long, value_name = "CELL")]
    pub to: CellId,
    /// Look at both cells and estimate bytes, time and hold; change nothing
    #[arg(long, conflicts_with_all = ["watch", "rehearse"])]
    pub dry_run: bool,
    /// Do everything on the tenant itself, hold and fence included, then take it back and say what it took
    #[arg(long)]
    pub rehearse: bool,
    /// Stay and show how it goes; Ctrl-C detaches
    #[arg(long, short)]
    pub watch: bool,
    /// Pause when this phase is done: `verify` stops before writes are touched, `hold` after one hold that was let go
    /// of again, `fenced` after a fence that was taken back, `activate` as soon as the target serves
    #[arg(long, value_name = "PHASE")]
    pub until: Option<Phase>,
    /// The longest that writes may wait in one hold, up to 2s; one that would take longer is let go of and tried again
    #[arg(long, value_parser = humantime::parse_duration, default_value = "500ms", value_name = "DURATION")]
    pub max_hold: Duration,
    /// How long both cells must acknowledge every write before the first hold
    #[arg(long, value_parser = humantime::parse_duration, default_value = "500ms", value_name = "DURATION")]
    pub steady: Duration,
    /// How long the new owner serves before the move is final
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s", value_name = "DURATION")]
    pub soak: Duration,
    /// How long the old copy is kept after that
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1h", value_name = "DURATION")]
    pub retain: Duration,
    /// How many holds may be missed before the move is given up
    #[arg(long, default_value_t = 10)]
    pub retries: u32,
    /// In PostgreSQL: end transactions of writers that no gate has let in (psql, cron jobs), with their sessions, where a hold has waited
    /// for them for half of its budget; those that gates have let in are never ended
    #[arg(long)]
    pub terminate_writers: bool,
    /// Before writes are touched, compare every row of the copy with its original, one by one, and not only what all of them add up to:
    /// both cells read all rows once more, and keys and hashes go from one to the other. --dry-run says how much that is
    #[arg(long)]
    pub exact: bool,
    /// The most that the copy may read of the source in a second, as 500kB or 20MiB [default: as fast as it goes]
    #[arg(long, value_parser = byte_rate, default_value = "0", hide_default_value = true, value_name = "BYTES")]
    pub bytes_per_second: u64,
    /// The tier that the tenant has from the cutover on: platinum to an empty dedicated cell, any other to a pooled one
    /// [default: it keeps its own]
    #[arg(long, value_enum)]
    pub tier: Option<Tier>,
    /// Why, for the move's record and the audit trail; at most 200 bytes
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub reason: String,
}
