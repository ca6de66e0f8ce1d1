//! `cellctl store`: members, disks, snapshots and backups of the control plane.
//!
//! `members`, `status`, `snapshot`, `compact`, `backup` and `reconcile` ask running nodes. `verify` and `restore` work on files of this
//! machine and need no node.

mod files;
mod members;
mod reconcile;
mod status;

use std::path::PathBuf;

use cell_model::CellId;
use clap::Subcommand;

use crate::commands::Control;
use crate::failure::{Exit, Failure};

/// `store`.
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Disk, log and snapshot of every node
    Status,
    /// Who belongs to the cluster; add, promote, replace or remove a node, move the leader
    Members {
        /// What to change; nothing: list them
        #[command(subcommand)]
        change: Option<Members>,
    },
    /// Have every node write a snapshot of its state
    Snapshot,
    /// Have every node write a snapshot and drop the log that it covers
    Compact,
    /// Write everything that was acknowledged to a file, while the cluster runs
    Backup {
        /// The file; it must not exist yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Check every part of a backup, or of the data directory of a node that does not run
    Verify {
        /// A backup or a data directory
        path: PathBuf,
    },
    /// Make the first node of a new cluster out of a backup; the others join it with `store members add`
    Restore {
        /// The backup
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// The data directory to be made; it must not exist yet, or be empty
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Where the new node will be reached
        #[arg(long, value_name = "HOST:PORT")]
        advertise: String,
        /// Lineage of the new cluster: above that of every cluster that the cells have followed. Without it one more
        /// than the backup's
        #[arg(long, value_name = "N")]
        lineage: Option<u64>,
    },
    /// After a restore: ask every cell what it holds, and adopt the highest grants. Without --yes it only shows them
    Reconcile {
        /// Adopt; from then on tenants may be made, moved and deleted again
        #[arg(long)]
        yes: bool,
        /// Go without this cell: you answer for what it holds (it is gone, or wrong)
        #[arg(long, value_name = "CELL", value_delimiter = ',')]
        without: Vec<CellId>,
    },
}

/// A node is named by its id, as `store members` prints it, or by its address.
#[derive(Debug, Subcommand)]
pub enum Members {
    /// Let a new node join: it gets everything, and votes once it is promoted
    Add {
        /// A running node with an empty data directory
        #[arg(value_name = "HOST:PORT")]
        node: String,
        /// Promote it as soon as it has caught up
        #[arg(long)]
        promote: bool,
    },
    /// Let a learner that has caught up vote
    Promote {
        /// Which
        node: String,
    },
    /// Let a learner vote in the place of a dead voter, in one step
    Replace {
        /// The voter that leaves for ever
        node: String,
        /// The learner
        #[arg(long, value_name = "NODE")]
        by: String,
    },
    /// Take a node out for ever
    Remove {
        /// Which
        node: String,
    },
    /// Let another voter lead
    Lead {
        /// Which
        node: String,
    },
}

/// Whether a command needs no control plane.
pub(crate) const fn is_local(command: &Store) -> bool {
    matches!(command, Store::Verify { .. } | Store::Restore { .. })
}

pub(crate) async fn run_local(command: Store) -> Result<Exit, Failure> {
    match command {
        Store::Verify { path } => files::verify(&path).await,
        Store::Restore { from, data_dir, advertise, lineage } => {
            files::restore(&from, &data_dir, &advertise, lineage).await
        }
        Store::Status
        | Store::Members { .. }
        | Store::Snapshot
        | Store::Compact
        | Store::Backup { .. }
        | Store::Reconcile { .. } => Err(Failure::usage("this command asks a control plane", "")),
    }
}

pub(crate) async fn run(control: Control, command: Store) -> Result<Exit, Failure> {
    match command {
        Store::Status => status::status(&control).await,
        Store::Members { change: None } => members::list(&control).await,
        Store::Members { change: Some(change) } => members::change(&control, change).await,
        Store::Snapshot => status::snapshot(&control, false).await,
        Store::Compact => status::snapshot(&control, true).await,
        Store::Backup { out } => files::backup(&control, &out).await,
        Store::Reconcile { yes, without } => reconcile::reconcile(&control, yes, &without).await,
        local @ (Store::Verify { .. } | Store::Restore { .. }) => run_local(local).await,
    }
}
