//! What may be typed to bring what exists under Cellway: tenants, cells, and the numbers that cells hand out.

use std::path::PathBuf;
use std::time::Duration;

use cell_model::CellId;
use clap::{Args, Subcommand};

use super::cells::{Declare, Traits};

/// `adopt`.
#[derive(Debug, Clone, Args)]
pub struct Adopt {
    /// One tenant a line: tenant,cell[,tier[,residency]]; empty lines and lines that begin with # are passed over
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// Look at the file, the store and each cell's database, and say what stands in the way; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How many tenants are made known at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256), value_name = "COUNT")]
    pub at_once: u16,
    /// How long to wait until the cells serve them
    #[arg(long, value_parser = super::patience, default_value = "60s", value_name = "DURATION")]
    pub wait: Duration,
}

/// Cells as a whole.
#[derive(Debug, Subcommand)]
pub enum OfCells {
    /// Declare a cell dead: nothing goes there, and nobody waits for what it may have; `uncordon cell` takes it back
    Dead {
        /// Its name
        name: CellId,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Say anew what tenants are placed by: kind, capacity, failure domain, region, residency; what is not named stays
    Declare(Declare),
    /// Let a cell join with what it needs: its database looked at, its certificate made, its addresses known
    Enroll(Box<Enroll>),
    /// Give each cell numbers of its own to hand out as ids: which cell has which, and the SQL that brings it about
    Ids {
        /// Ids are handed out in steps of this; more cells than this cannot be told apart
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(i64).range(2..=1_000_000), value_name = "COUNT")]
        stride: i64,
        /// Ids that are left out, so that cells still counting by one do not reach the new ones while the SQL is run
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(i64).range(0..=1_000_000_000_000), value_name = "COUNT")]
        headroom: i64,
        /// Print the SQL of this cell, and nothing else
        #[arg(long, value_name = "CELL")]
        sql: Option<CellId>,
    },
}

/// `cell enroll`.
#[derive(Debug, Clone, Args)]
pub struct Enroll {
    /// Its name: lower-case letters, digits and '-'
    pub name: CellId,
    /// Where its agent will be reached
    #[arg(long, value_name = "HOST:PORT")]
    pub agent: String,
    /// Its gates; they are learnt from the agent where none is given. With --without-gate: its application
    #[arg(long = "gate", value_name = "HOST:PORT", required_if_eq("without_gate", "true"))]
    pub gates: Vec<String>,
    /// Where it stands
    #[arg(long, default_value = "")]
    pub region: String,
    /// Legal zone of its data
    #[arg(long, default_value = "")]
    pub residency: String,
    /// What else tenants are placed by
    #[command(flatten)]
    pub traits: Traits,
    /// The database with its tenants, looked at before anything is made: postgres://user:password@host:port/database
    #[arg(long, value_name = "URL", env = "CELL_DATABASE_URL", hide_env_values = true)]
    pub database: Option<String>,
    /// The schema with the tenants' tables
    #[arg(long, default_value = "public", requires = "database")]
    pub schema: String,
    /// The column that says whose a row is
    #[arg(long, default_value = "tenant_id", requires = "database")]
    pub tenant_column: String,
    /// Where each tenant has a schema of its own: what it is called, with {id} in the tenant's place
    #[arg(long, requires = "database", conflicts_with_all = ["schema", "tenant_column"], value_name = "NAME")]
    pub tenant_schema: Option<String>,
    /// The schema that tenants' own are made as
    #[arg(long, default_value = "cellway_template", requires = "tenant_schema", value_name = "NAME")]
    pub template_schema: String,
    /// Where each tenant has a database of its own on that server: what it is called, with {id} in the tenant's place
    #[arg(long, requires = "database", conflicts_with_all = ["tenant_schema", "tenant_column"], value_name = "NAME")]
    pub tenant_database: Option<String>,
    /// The database that tenants' own are made as copies of
    #[arg(long, default_value = "cellway_template", requires = "tenant_database", value_name = "NAME")]
    pub template_database: String,
    /// The authority that makes the agent's certificate
    #[arg(long, value_name = "DIR", requires = "out")]
    pub ca: Option<PathBuf>,
    /// Where to write the certificate
    #[arg(long, value_name = "DIR", requires = "ca")]
    pub out: Option<PathBuf>,
    /// For how long the certificate is valid
    #[arg(long, value_parser = super::lasting, default_value = "365days", value_name = "DURATION")]
    pub valid: Duration,
    /// Say what would be done; change nothing
    #[arg(long)]
    pub dry_run: bool,
}
