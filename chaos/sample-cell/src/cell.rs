//! A cell as one component: its agent, and the instances of the application, each behind a gate of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use cell_agent::engine::{Engine, EngineError};
use cell_agent::{Agent, AgentError, AgentOptions, DatabaseOptions};
use cell_client::net::Host;
use cell_gate::{Application, Gate, GateError, GateHandle, GateOptions, MappingSource, Relay};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::{Documents, Elsewhere, TableDocuments, TablesError, tables};
use crate::options::Options;

/// Why a cell does not start, or has stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent cannot be opened, or has failed.
    #[error("the cell's agent has failed")]
    Agent(#[source] Box<AgentError>),
    /// The application's tables cannot be used.
    #[error("the application cannot use the database")]
    Tables(#[from] TablesError),
    /// A gate cannot be started.
    #[error("the gate {instance} cannot be started")]
    Gate {
        /// Which.
        instance: String,
        /// Why.
        #[source]
        source: GateError,
    },
    /// Rows of a database are not sealed.
    #[error("a cell that keeps its data in a database seals no documents: it takes no keys")]
    KeysOfDatabase,
    /// The shop is made of tables.
    #[error("a cell that keeps its data itself has no shop: that is made of a database's tables")]
    ShopOfEmbedded,
    /// An application of somebody's own cannot be passed anything.
    #[error("option --application: {reason}")]
    Application {
        /// Why.
        reason: String,
    },
    /// The agent's task has ended in a panic.
    #[error("the cell's agent has ended in a panic: {reason}")]
    Panic {
        /// What is known.
        reason: String,
    },
}

impl Error {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Agent(error) => match &**error {
                AgentError::Engine(EngineError::Open { .. }) => "STORE_NOT_OPENED",
                other => other.code(),
            },
            Self::Tables(error) => error.code(),
            Self::Gate { source, .. } => source.code(),
            Self::KeysOfDatabase | Self::ShopOfEmbedded | Self::Application { .. } => "INVALID_OPTION",
            Self::Panic { .. } => "PANIC",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self.code() {
            "PORT_IN_USE" | "LISTEN_FAILED" => {
                "stop the process that has the port, or choose another one; port 0 lets the system choose"
            }
            "OTHER_CELL" => "give each cell a --data-dir or a --database of its own",
            "TABLES_FAILED" | "DATABASE_LOGIN" | "DATABASE_MISSING" | "DATABASE_RIGHT" | "DATABASE_UNREACHABLE" => {
                "correct --database, or start the server; docs/postgresql.md lists the rights that are needed"
            }
            "DATABASE_TLS" | "DATABASE_TLS_FILE" | "DATABASE_KEY_EXPOSED" => {
                "correct sslmode, sslrootcert, sslcert and sslkey in --database (docs/postgresql.md)"
            }
            "AGENT_RUNNING" => "stop the other process that serves this database",
            "STORE_NOT_OPENED" => {
                "stop the other process that serves this --data-dir, or correct the directory's rights"
            }
            "IDENTITY_REQUIRED" => {
                "name the directory of a certificate with --identity (`cellctl ca issue agent CELL` makes one); \
                 --insecure-plaintext only for trying things out on one machine"
            }
            "PLAINTEXT_REFUSED" => "listen on 127.0.0.1, or name a certificate with --identity",
            "IDENTITY_UNREADABLE"
            | "IDENTITY_INVALID"
            | "IDENTITY_EXPOSED"
            | "IDENTITY_NOT_VALID"
            | "IDENTITY_OTHER_ROLE" => "correct the identity, or issue it anew: `cellctl ca issue agent CELL`",
            "HOOK_FILE_INVALID" | "HOOK_KEY_EXPOSED" => {
                "correct the file that `hooks` names; `cell-control keygen --out FILE` makes a key (docs/hooks.md)"
            }
            "INVALID_OPTION" => "correct the option; `sample-cell serve --help` lists them",
            _ => "look at the causes above and at the log; nothing that was acknowledged is lost by stopping here",
        }
    }
}

impl From<AgentError> for Error {
    fn from(error: AgentError) -> Self {
        Self::Agent(Box::new(error))
    }
}

/// A running cell.
#[derive(Debug)]
pub struct Cell {
    agent: SocketAddr,
    gates: Vec<Gate>,
    agent_task: JoinHandle<Result<(), AgentError>>,
    agent_stop: CancellationToken,
    shutdown: CancellationToken,
}

/// Where a cell listens.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Addresses {
    /// The agent's gRPC service.
    pub agent: SocketAddr,
    /// Each gate.
    pub gates: Vec<SocketAddr>,
}

impl Cell {
    /// Opens the data directory, starts the agent and then its gates.
    ///
    /// # Errors
    /// [`Error`] where the directory cannot be opened or an address cannot be listened on; nothing is left running.
    pub async fn start(options: Options, shutdown: CancellationToken) -> Result<Self, Error> {
        match options.database.clone() {
            None if options.shop => Err(Error::ShopOfEmbedded),
            None if !options.application.is_empty() => {
                let reason =
                    "only a cell on a --database has data that an application in a process of its own can use";
                Err(Error::Application { reason: reason.into() })
            }
            None => {
                let agent = Agent::open(agent_options(&options)).await?;
                let application = documents(&options, &agent);
                Self::start_on(&options, agent, |_| application.clone(), None, shutdown).await
            }
            Some(_) if options.keys.is_some() => Err(Error::KeysOfDatabase),
            Some(url) if options.without_gate => {
                let agent = Agent::connect(agent_options(&options), database_options(&options, &url)).await?;
                Ok(Self::alone(agent, shutdown))
            }
            Some(url) => {
                let relays = relays(&options)?;
                let layout = match (&options.tenant_database, &options.tenant_schema) {
                    (Some(_), _) => tables::Layout::DatabaseEach,
                    (None, Some(_)) => tables::Layout::SchemaEach,
                    (None, None) => tables::Layout::Shared,
                };
                if relays.is_empty() {
                    tables::make(&url, layout, &options.template_database, options.shop).await?;
                }
                let agent = Agent::connect(agent_options(&options), database_options(&options, &url)).await?;
                let data = agent.data();
                if !relays.is_empty() {
                    // One for all gates, or one for each.
                    let of_gate = |index: usize| Elsewhere::new(relays[index % relays.len()].clone(), data.clone());
                    return Self::start_on(&options, agent, of_gate, None, shutdown).await;
                }
                tables::tell_apart(&url, layout, options.shop).await?;
                let application = TableDocuments::new(data, &url, layout, options.shop)?;
                Self::start_on(&options, agent, |_| application.clone(), None, shutdown).await
            }
        }
    }

    /// As [`Cell::start`], on a store that is open already and on a host that is passed in, as in a simulation.
    ///
    /// # Errors
    /// As [`Cell::start`].
    pub async fn start_within(
        options: Options,
        engine: Arc<dyn Engine>,
        host: Host,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let agent = Agent::open_within(agent_options(&options), engine, host.clone()).await?;
        let application = documents(&options, &agent).naming(host.random().clone());
        Self::start_on(&options, agent, |_| application.clone(), Some(host), shutdown).await
    }

    /// The agent, and nothing before an application that is somewhere else.
    fn alone<D: Clone + Send + Sync + 'static>(agent: Agent<D>, shutdown: CancellationToken) -> Self {
        let (address, agent_stop) = (agent.address(), CancellationToken::new());
        let agent_task = tokio::spawn(agent.run(agent_stop.clone()));
        Self { agent: address, gates: Vec::new(), agent_task, agent_stop, shutdown }
    }

    async fn start_on<D: Clone + Send + Sync + 'static, A: Application>(
        options: &Options,
        agent: Agent<D>,
        of_gate: impl Fn(usize) -> A,
        host: Option<Host>,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let address = agent.address();
        let mappings: Arc<dyn MappingSource> = Arc::new(agent.mappings());
        let mut cell = Self::alone(agent, shutdown);
        for (index, listen) in options.gates().into_iter().enumerate() {
            let instance = format!("{}-{}", options.cell, index + 1);
            let mut gate_options = gate_options(options, address, &instance, listen);
            gate_options.address = options.gate_address.get(index).cloned();
            let (application, stop) = (of_gate(index), cell.shutdown.child_token());
            let mappings = Arc::clone(&mappings);
            let started = match &host {
                None => Gate::start(gate_options, mappings, application, stop).await,
                Some(host) => Gate::start_within(gate_options, mappings, application, host.clone(), stop).await,
            };
            match started {
                Ok(gate) => cell.gates.push(gate),
                Err(source) => {
                    cell.shutdown.cancel();
                    // What is said of the gate tells more than how its agent stopped.
                    let _ = cell.stopped().await;
                    return Err(Error::Gate { instance, source });
                }
            }
        }
        Ok(cell)
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses { agent: self.agent, gates: self.gates.iter().map(Gate::address).collect() }
    }

    /// A handle to each gate.
    #[must_use]
    pub fn gates(&self) -> Vec<GateHandle> {
        self.gates.iter().map(Gate::handle).collect()
    }

    /// Waits until it has stopped: after its token was cancelled, or because its agent has failed. The gates stop
    /// first, so that what they have let in is finished before the store is closed.
    ///
    /// # Errors
    /// [`Error`] where the agent has failed. The process must end then: what was not synced may be lost.
    pub async fn stopped(self) -> Result<(), Error> {
        let Self { gates, mut agent_task, agent_stop, shutdown, .. } = self;
        let early = tokio::select! {
            ended = &mut agent_task => Some(ended),
            () = shutdown.cancelled() => None,
        };
        shutdown.cancel();
        for gate in gates {
            gate.stopped().await;
        }
        agent_stop.cancel();
        let ended = match early {
            Some(ended) => ended,
            None => agent_task.await,
        };
        match ended {
            Ok(result) => Ok(result?),
            Err(error) => Err(Error::Panic { reason: error.to_string() }),
        }
    }
}

/// Runs a cell until `shutdown`. `bound` is told where it listens once everything is started.
///
/// # Errors
/// As [`Cell::start`] and [`Cell::stopped`].
pub async fn run(
    options: Options,
    shutdown: CancellationToken,
    bound: impl FnOnce(&Addresses) + Send,
) -> Result<(), Error> {
    let cell = Cell::start(options, shutdown).await?;
    bound(&cell.addresses());
    cell.stopped().await
}

/// The applications that requests are passed on to; none where the cell brings its own.
fn relays(options: &Options) -> Result<Vec<Relay>, Error> {
    let (applications, gates) = (options.application.len(), options.gates().len());
    if applications > 1 && applications != gates {
        let reason =
            format!("{applications} applications for {gates} gates: give one for all of them, or one for each");
        return Err(Error::Application { reason });
    }
    let relay = |address: &String| {
        let relay = Relay::to(address).map_err(|no| Error::Application { reason: no.to_string() })?;
        Ok(relay.with_requests_max(options.application_requests_max))
    };
    options.application.iter().map(relay).collect()
}

fn documents(options: &Options, agent: &Agent) -> Documents {
    let documents = Documents::new(agent.data());
    match &options.keys {
        Some(keys) => documents.keyed(keys.clone()),
        None => documents,
    }
}

fn agent_options(options: &Options) -> AgentOptions {
    let mut agent = AgentOptions::new(
        options.cell.clone(),
        options.data_dir.clone().unwrap_or_default(),
        &options.agent_listen,
    );
    agent.advertise = options.agent_address.clone().unwrap_or_default();
    agent.control.clone_from(&options.control);
    agent.identity.clone_from(&options.identity);
    agent.insecure_plaintext = options.insecure_plaintext;
    agent.trusted_keys.clone_from(&options.trusted_keys);
    agent.hooks.clone_from(&options.hooks);
    agent.metrics.clone_from(&options.metrics_listen);
    if let Some(limits) = &options.agent_limits {
        agent.limits.clone_from(limits);
    }
    #[cfg(feature = "planted")]
    {
        agent.planted = options.plant.map(crate::options::Plant::in_agent);
    }
    agent
}

fn database_options(options: &Options, url: &str) -> DatabaseOptions {
    let mut database = DatabaseOptions {
        observe: options.observe,
        tenant_schema: options.tenant_schema.clone(),
        tenant_database: options.tenant_database.clone(),
        template_database: options.template_database.clone(),
        data_directory: options.database_directory.clone(),
        disk_bytes_max: options.database_bytes_max,
        standbys_confirm: options.standbys_confirm,
        ..DatabaseOptions::new(url)
    };
    if let Some(millis) = options.source_latency_ms_max {
        database.source_latency_ms_max = millis;
    }
    if let Some(schema) = &options.schema {
        database.schema.clone_from(schema);
    }
    if let Some(column) = &options.tenant_column {
        database.tenant_column.clone_from(column);
    }
    database
}

fn gate_options(options: &Options, agent: SocketAddr, instance: &str, listen: String) -> GateOptions {
    // An address that means "every interface" is reached over the loopback one.
    let reach = if agent.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], agent.port())) } else { agent };
    let mut gate = GateOptions::new(reach.to_string(), instance, listen);
    gate.identity.clone_from(&options.identity);
    gate.http.body_bytes = options.body_bytes_max;
    gate.http.application_ms = options.application_ms;
    gate.context_keys.clone_from(&options.context_keys);
    gate.tls.clone_from(&options.gate_tls);
    #[cfg(feature = "planted")]
    {
        gate.planted.stale_epoch = options.plant == Some(crate::options::Plant::StaleEpoch);
        gate.planted.early_serve = options.plant == Some(crate::options::Plant::EarlyServe);
    }
    gate
}
