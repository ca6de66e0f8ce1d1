//! What an operator says about a cell.

use std::path::PathBuf;

use cell_gate::Relay;
use cell_model::CellId;
use clap::Args;
use serde::{Deserialize, Serialize};

/// Options of one cell: an agent and the instances of its application, each behind a gate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Options {
    /// The cell's name, as it was made with `cellctl create cell`.
    #[arg(long, value_name = "CELL")]
    pub cell: CellId,
    /// Where the tenants' data is kept; with --database, what the agent has answered, so that a database that fails over, or is put
    /// back, makes no second owner. It belongs to this cell for ever.
    #[arg(long, value_name = "DIR", required_unless_present = "database")]
    #[serde(default)]
    pub data_dir: Option<PathBuf>,
    /// Keep the tenants' data in PostgreSQL instead: postgres://user:password@host:port/database; over TLS with
    /// ?sslmode=verify-full&sslrootcert=FILE behind it.
    #[arg(long, value_name = "URL", env = "CELL_DATABASE_URL", hide_env_values = true)]
    #[serde(default)]
    pub database: Option<String>,
    /// http://host:port of an application of one's own on that database: the gates pass requests on to it, and the tables are its own.
    /// Give it once for all gates, or once for each.
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        requires = "database",
        group = "foreign",
        conflicts_with = "shop"
    )]
    #[serde(default)]
    pub application: Vec<String>,
    /// Give each tenant a schema of its own, called so, with {id} in the tenant's place: tenant_{id}. Without it, tenants
    /// share tables.
    #[arg(long, value_name = "NAME", requires = "database")]
    #[serde(default)]
    pub tenant_schema: Option<String>,
    /// Give each tenant a database of its own on the server of --database, called so, with {id} in the tenant's place:
    /// tenant_{id}. --database then names the cell's own, in which nobody's rows are.
    #[arg(long, value_name = "NAME", requires = "database", conflicts_with_all = ["tenant_schema", "observe"])]
    #[serde(default)]
    pub tenant_database: Option<String>,
    /// The database that tenants' own are made as copies of; it is made where it is not there.
    #[arg(long, value_name = "NAME", requires = "tenant_database", default_value = TEMPLATE_DATABASE)]
    #[serde(default = "template_database")]
    pub template_database: String,
    /// Keep a shop for each tenant, too, under /shop/: tables tied by foreign keys and numbered by sequences. In every cell that its
    /// tenants move to, and, where tenants have tables of their own, from the cell's first day on.
    #[arg(long, requires = "database")]
    #[serde(default)]
    pub shop: bool,
    /// Directory with a file TENANT.key, of 32 bytes, for each tenant whose key is enabled: its documents are sealed under it, and
    /// without it nothing of the tenant is served. Of a cell that keeps its data itself, from its first day on.
    #[arg(long, value_name = "DIR", conflicts_with = "database")]
    #[serde(default)]
    pub keys: Option<PathBuf>,
    /// While tenants that are in the database already are adopted: let in, and note, writers of those that this cell was
    /// never granted.
    #[arg(long, requires = "database")]
    #[serde(default)]
    pub observe: bool,
    /// What a commit in the database may take, in milliseconds, while tenants are copied out of it: beyond it the copies
    /// are slowed down. 0: they are not. Unsaid: 100.
    #[arg(long, value_name = "MS", requires = "database")]
    #[serde(default)]
    pub source_latency_ms_max: Option<u32>,
    /// The directory with the database server's data, where that is on this machine: a tenant for which there is no room on its disk is
    /// not moved here.
    #[arg(long, value_name = "DIR", requires = "database")]
    #[serde(default)]
    pub database_directory: Option<PathBuf>,
    /// How many bytes the databases of the server may take together, where its disk cannot be seen from here. 0: nobody knows.
    #[arg(long, value_name = "BYTES", requires = "database", default_value_t = 0)]
    #[serde(default)]
    pub database_bytes_max: u64,
    /// How many standbys of the database have to have what gives or takes a tenant before it is answered for. 0: those that its
    /// synchronous_standby_names waits for.
    #[arg(long, value_name = "N", requires = "database", default_value_t = 0)]
    #[serde(default)]
    pub standbys_confirm: u32,
    /// The agent alone, beside an application that is somewhere else and stays as it is: nobody stands before it. The cell has been
    /// made known so (`cellctl cell enroll --without-gate`).
    #[arg(long, requires = "database", group = "foreign", conflicts_with_all = ["gate_listen", "gate_address", "keys", "shop"])]
    #[serde(default)]
    pub without_gate: bool,
    /// The schema with that application's tables, where tenants share them.
    #[arg(long, value_name = "NAME", requires = "foreign", conflicts_with_all = ["tenant_schema", "tenant_database"])]
    #[serde(default)]
    pub schema: Option<String>,
    /// The column of them that says whose a row is.
    #[arg(long, value_name = "NAME", requires = "foreign", conflicts_with_all = ["tenant_schema", "tenant_database"])]
    #[serde(default)]
    pub tenant_column: Option<String>,
    /// host:port of the agent's gRPC service; port 0 lets the system choose.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    #[serde(default = "any_port")]
    pub agent_listen: String,
    /// host:port at which Prometheus finds what the agent counts, in plain text.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(default)]
    pub metrics_listen: Option<String>,
    /// host:port at which the coordinator and other agents reach the agent, if it is another one.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(default)]
    pub agent_address: Option<String>,
    /// host:port of each gate; give it once for each instance. Port 0 lets the system choose.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    #[serde(default)]
    pub gate_listen: Vec<String>,
    /// host:port at which routers reach each gate, in the order of --gate-listen, where it is another one.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    #[serde(default)]
    pub gate_address: Vec<String>,
    /// Instances of the application, where no --gate-listen says it.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    #[serde(default = "two")]
    pub instances: u16,
    /// host:port of each node of the control plane.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', env = "CELLWAY_CONTROL")]
    #[serde(default)]
    pub control: Vec<String>,
    /// Directory with ca.crt, tls.crt and tls.key of role agent, in the name of the cell.
    #[arg(long, value_name = "DIR", env = "CELL_IDENTITY")]
    #[serde(default)]
    pub identity: Option<PathBuf>,
    /// Offer the agent without certificates, to everybody on this machine. Only on a loopback address.
    #[arg(long)]
    #[serde(default)]
    pub insecure_plaintext: bool,
    /// Public key of the control plane, in hex; give it once for each key.
    #[arg(long, value_name = "KEY", value_delimiter = ',', env = "CELLWAY_TRUSTED_KEYS")]
    #[serde(default)]
    pub trusted_keys: Vec<String>,
    /// Bytes of a request's body that a gate takes.
    #[arg(long, value_name = "BYTES", default_value_t = BODY_BYTES_MAX)]
    #[serde(default = "body_bytes_max")]
    pub body_bytes_max: u64,
    /// How long the application may take for its answer, in milliseconds, since the last piece of the request.
    #[arg(long, value_name = "MS", default_value_t = APPLICATION_MS, value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(default = "application_ms")]
    pub application_ms: u64,
    /// Requests that each --application has at once, streams and WebSockets among them; half as many of one tenant.
    #[arg(long, value_name = "COUNT", default_value_t = Relay::REQUESTS_MAX, requires = "application",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    #[serde(default = "application_requests_max")]
    pub application_requests_max: usize,
    /// Public key of a router whose signed context the gates believe, in hex; give it once for each. Without one, none is
    /// asked for.
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    #[serde(default)]
    pub context_keys: Vec<String>,
    /// TLS between routers and gates: a directory with the gates' certificate (tls.crt) and key (tls.key), and whose certificates routers
    /// have (ca.crt). An identity of the cell does.
    #[arg(long, value_name = "DIR", value_parser = gate_tls_in)]
    #[serde(default)]
    pub gate_tls: Option<cell_gate::GateTls>,
    /// A file, in JSON, that says who is told what becomes of a tenant that moves (docs/hooks.md).
    #[arg(long, value_name = "FILE", value_parser = hooks_in)]
    #[serde(default)]
    pub hooks: Option<cell_agent::HooksOptions>,
    /// What the agent of a cell with a store of its own waits for, and keeps. Only for tests.
    #[arg(skip)]
    #[serde(skip)]
    pub agent_limits: Option<cell_agent::Limits>,
    /// A fault to plant, so that a drill can prove that its checker catches it.
    #[cfg(feature = "planted")]
    #[arg(long, value_enum, value_name = "FAULT")]
    #[serde(default)]
    pub plant: Option<Plant>,
}

// The address of the database has a password in it.
impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("cell", &self.cell)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

const TEMPLATE_DATABASE: &str = "cellway_template";

fn template_database() -> String {
    TEMPLATE_DATABASE.into()
}

const BODY_BYTES_MAX: u64 = 1024 * 1024;

const fn body_bytes_max() -> u64 {
    BODY_BYTES_MAX
}

const APPLICATION_MS: u64 = 30_000;

const fn application_ms() -> u64 {
    APPLICATION_MS
}

const fn application_requests_max() -> usize {
    Relay::REQUESTS_MAX
}

/// By the names that certificate managers use. What is in the files is read when the gates start.
fn gate_tls_in(directory: &str) -> Result<cell_gate::GateTls, String> {
    let within = |name: &str| {
        let file = PathBuf::from(directory).join(name);
        if file.is_file() { Ok(file) } else { Err(format!("there is no file {}", file.display())) }
    };
    Ok(cell_gate::GateTls {
        certificate_file: within("tls.crt")?,
        key_file: within("tls.key")?,
        router_ca_file: within("ca.crt")?,
    })
}

fn hooks_in(file: &str) -> Result<cell_agent::HooksOptions, String> {
    let text = std::fs::read(file).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

fn any_port() -> String {
    "127.0.0.1:0".into()
}

const fn two() -> u16 {
    2
}

/// A fault that a drill plants.
#[cfg(feature = "planted")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Plant {
    /// An acknowledged write is not sent to the copying cell.
    LostWrite,
    /// The fenced source goes on serving.
    StaleEpoch,
    /// The target serves before COMMIT.
    EarlyServe,
    /// Writes are acknowledged without being synced.
    UnflushedWrite,
    /// Deletions are not applied by the copying cell.
    DroppedTombstone,
    /// A change is applied twice by the copying cell.
    ChangeTwice,
    /// The source cuts over without waiting for writes that are under way.
    UndrainedCutover,
    /// A fence is released on a time-out.
    LapsingFence,
    /// Steps of a leader that is gone are done.
    IgnoredTerm,
}

#[cfg(feature = "planted")]
impl Plant {
    /// The part of the fault that lies in the agent.
    pub(crate) const fn in_agent(self) -> cell_agent::Planted {
        match self {
            Self::LostWrite => cell_agent::Planted::LostWrite,
            Self::StaleEpoch => cell_agent::Planted::StaleEpoch,
            Self::EarlyServe => cell_agent::Planted::EarlyServe,
            Self::UnflushedWrite => cell_agent::Planted::UnflushedWrite,
            Self::DroppedTombstone => cell_agent::Planted::DroppedTombstone,
            Self::ChangeTwice => cell_agent::Planted::ChangeTwice,
            Self::UndrainedCutover => cell_agent::Planted::UndrainedCutover,
            Self::LapsingFence => cell_agent::Planted::LapsingFence,
            Self::IgnoredTerm => cell_agent::Planted::IgnoredTerm,
        }
    }
}

impl Options {
    /// A cell with everything else at its default.
    #[must_use]
    pub fn new(cell: CellId, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            cell,
            data_dir: Some(data_dir.into()),
            database: None,
            application: Vec::new(),
            tenant_schema: None,
            tenant_database: None,
            template_database: template_database(),
            shop: false,
            keys: None,
            observe: false,
            source_latency_ms_max: None,
            database_directory: None,
            database_bytes_max: 0,
            standbys_confirm: 0,
            without_gate: false,
            schema: None,
            tenant_column: None,
            agent_listen: any_port(),
            metrics_listen: None,
            agent_address: None,
            gate_listen: Vec::new(),
            gate_address: Vec::new(),
            instances: two(),
            control: Vec::new(),
            identity: None,
            insecure_plaintext: false,
            trusted_keys: Vec::new(),
            body_bytes_max: BODY_BYTES_MAX,
            application_ms: APPLICATION_MS,
            application_requests_max: Relay::REQUESTS_MAX,
            context_keys: Vec::new(),
            gate_tls: None,
            hooks: None,
            agent_limits: None,
            #[cfg(feature = "planted")]
            plant: None,
        }
    }

    /// Where each gate is to listen.
    pub(crate) fn gates(&self) -> Vec<String> {
        if self.gate_listen.is_empty() {
            vec![any_port(); usize::from(self.instances)]
        } else {
            self.gate_listen.clone()
        }
    }
}
