//! What may be typed to look after a fleet: certificates, the audit trail, the check.

use std::path::PathBuf;
use std::time::Duration;

use cell_model::TenantId;
use cell_trust::Role;
use clap::{Args, Subcommand, ValueEnum};

/// The authority.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Make an authority; its key is readable by its owner only
    Init {
        /// Where to keep it
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Make a certificate: ca.crt, tls.crt and tls.key in a directory, to be named with --identity
    Issue {
        /// viewer, operator, admin, router, agent or control
        role: Role,
        /// Whose: a person, a router, a node; for an agent the name of its cell
        name: String,
        /// The authority
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// Where to write it
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// For how long
        #[arg(long, value_parser = super::lasting, default_value = "365days", value_name = "DURATION")]
        valid: Duration,
    },
}

/// The audit trail.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Check the chain on every node, that all nodes have the same, and that nothing is missing since an earlier export
    Verify {
        /// An export of `audit export`: the trail of now must continue it
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
        /// Check this export by itself, without any node
        #[arg(long, value_name = "FILE", conflicts_with = "against")]
        file: Option<PathBuf>,
        /// Public key of the control plane, in hex: signatures are checked, too
        #[arg(long, value_name = "KEY", value_delimiter = ',', env = "CELLWAY_TRUSTED_KEYS")]
        trusted_keys: Vec<String>,
    },
    /// Show entries, the newest last
    Show {
        /// Only those of this tenant
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantId>,
        /// At most so many, the newest
        #[arg(long, default_value_t = 100, value_name = "N")]
        last: usize,
    },
    /// Write every entry that is kept as lines of JSON, the signed end last
    Export {
        /// Where to; standard output where nothing is said
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Only entries behind this number, to continue an earlier export
        #[arg(long, default_value_t = 0, value_name = "NUMBER")]
        after: u64,
    },
}

/// `check`.
#[derive(Debug, Clone, Args)]
pub struct Check {
    /// Only these categories
    #[arg(long = "only", value_enum, value_delimiter = ',', value_name = "CATEGORY")]
    pub only: Vec<Category>,
    /// Look again until nothing fails, at most this long
    #[arg(long, value_parser = super::patience, value_name = "DURATION")]
    pub wait: Option<Duration>,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Category {
    /// Every node answers, one leads, all agree
    Quorum,
    /// Room where the data is
    Disk,
    /// Clocks of nodes and of this machine
    Clock,
    /// How far nodes, routers and cells are behind
    Lag,
    /// When certificates run out
    Certificates,
    /// Moves that do not come to an end
    Moves,
    /// Tenants on cells that are gone, copies that nobody reclaims
    Orphans,
    /// The audit trail
    Audit,
}
