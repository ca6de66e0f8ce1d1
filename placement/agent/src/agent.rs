//! The agent as a component: opened on a directory, run until it is told to stop.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cell_client::net::{Host, Listener};
use cell_client::{ClientOptions, ControlClient, Link};
use cell_model::Generation;
use cell_protos::v1 as wire;
use cell_protos::v1::agent_service_server::AgentServiceServer;
use cell_trust::{PublicKey, TrustedKeys};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::data::TenantData;
use crate::driver::{Driver, Surroundings};
use crate::engine::{Engine, SledEngine};
use crate::error::AgentError;
use crate::grpc::Service;
use crate::hooks::Hooks;
use crate::metrics::Metrics;
use crate::newest::NewestMappings;
use crate::options::AgentOptions;
use crate::postgres::{Cell, DatabaseOptions, Databases, TenantDatabase};
use crate::tenants::Tenants;

/// How often the control plane is told where this cell is to be found.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Gates come to an agent that has started within this time; those that the control plane knows stay until then.
const GATES_COME_WITHIN: Duration = Duration::from_secs(3);
/// From a change of the gates to the report of it.
const GATES_SETTLE: Duration = Duration::from_millis(20);
/// Open requests may take this long to end after a stop.
const QUIESCE_MAX: Duration = Duration::from_secs(3);
/// How often a caller that sends nothing is asked whether it still hears,
const HEARD_EVERY: Duration = Duration::from_secs(5);
/// and how long its answer may take: it may stand behind a chunk on a slow link.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// See the module.
///
/// `D` is the application's way to the tenants' rows: [`TenantData`] where the agent keeps them itself,
/// [`crate::TenantDatabase`] where they are in PostgreSQL.
pub struct Agent<D = TenantData> {
    driver: Arc<dyn Driver>,
    data: D,
    server: tonic::transport::Server,
    listener: Listener,
    address: SocketAddr,
    advertise: String,
    control: Option<ControlClient>,
    newest: NewestMappings,
    hooks: Arc<Hooks>,
    metrics: Option<Metrics>,
    /// The control plane says whose signatures are believed.
    names_keys: bool,
}

impl Agent<TenantData> {
    /// Opens the data directory and takes the port. Nothing is durable, and so nothing is answered, before
    /// [`Agent::run`].
    ///
    /// # Errors
    /// [`AgentError`] where the options make no sense, the directory cannot be opened or is another cell's, or the
    /// port is taken.
    pub async fn open(options: AgentOptions) -> Result<Self, AgentError> {
        options.check()?;
        let (directory, cache_bytes) = (options.directory.clone(), options.limits.cache_bytes);
        let opened = tokio::task::spawn_blocking(move || SledEngine::open(&directory, cache_bytes)).await;
        let engine = opened.map_err(|error| crate::engine::EngineError::Open {
            path: options.directory.display().to_string(),
            reason: error.to_string(),
        })??;
        Self::open_on(options, Arc::new(engine)).await
    }

    /// As [`Agent::open`], on a store that is open already.
    ///
    /// # Errors
    /// As [`Agent::open`].
    pub async fn open_on(options: AgentOptions, engine: Arc<dyn Engine>) -> Result<Self, AgentError> {
        let link = options.link()?;
        Self::open_over(options, engine, link).await
    }

    /// As [`Agent::open_on`], on a host that is passed in, as in a simulation.
    ///
    /// # Errors
    /// As [`Agent::open`].
    pub async fn open_within(
        options: AgentOptions,
        engine: Arc<dyn Engine>,
        host: Host,
    ) -> Result<Self, AgentError> {
        Self::open_over(options, engine, Link::Within(host)).await
    }

    async fn open_over(options: AgentOptions, engine: Arc<dyn Engine>, link: Link) -> Result<Self, AgentError> {
        options.check()?;
        let trusted = options.trusted()?;
        #[cfg(feature = "planted")]
        let engine = crate::planted::engine(options.planted, engine);
        #[cfg_attr(not(feature = "planted"), expect(unused_mut, reason = "a planted fault is set below"))]
        let mut tenants = Tenants::open(options.cell.clone(), options.limits.clone(), trusted, link, engine)?;
        #[cfg(feature = "planted")]
        {
            tenants.planted = options.planted;
        }
        if !options.control.is_empty() {
            crate::confirm::mark(&tenants);
        }
        let tenants = Arc::new(tenants);
        let data = TenantData::new(Arc::clone(&tenants));
        Self::listen(options, tenants, data).await
    }
}

impl Agent<TenantDatabase> {
    /// Connects to the cell's database, puts there what the agent needs, and takes the port.
    ///
    /// # Errors
    /// [`AgentError`] where the options make no sense, the database cannot be reached, lacks a right or is another
    /// cell's, or the port is taken.
    pub async fn connect(options: AgentOptions, database: DatabaseOptions) -> Result<Self, AgentError> {
        options.check()?;
        let (trusted, link) = (options.trusted()?, options.link()?);
        let (here, limits) = (options.cell.clone(), options.limits.clone());
        let asks = !options.control.is_empty();
        if database.tenant_database.is_some() {
            let databases =
                Databases::open(here, limits, trusted, link, (database, &options.directory, asks)).await?;
            let data = TenantDatabase::of_each(Arc::clone(&databases));
            return Self::listen(options, databases, data).await;
        }
        let cell = Cell::open(here, limits, trusted, link, (database, &options.directory, asks)).await?;
        let data = TenantDatabase::new(Arc::clone(&cell));
        Self::listen(options, cell, data).await
    }
}

impl<D: Clone> Agent<D> {
    async fn listen(options: AgentOptions, driver: Arc<dyn Driver>, data: D) -> Result<Self, AgentError> {
        let link = driver.surroundings().link.clone();
        let names_keys = options.trusted_keys.is_empty();
        let hooks = Arc::new(Hooks::new(options.hooks.as_ref(), &options.cell)?);
        let refused = |source| AgentError::Listen { address: options.listen.clone(), source };
        let listener = link.listen(&options.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        link.may_listen(address.ip())?;
        let metrics = match &options.metrics {
            Some(at) => {
                let refused = |source| AgentError::Listen { address: at.clone(), source };
                Some(Metrics::listen(at, &link, Arc::clone(&driver)).await.map_err(refused)?)
            }
            None => None,
        };
        let server = link.server().map_err(AgentError::Tls)?;
        // An owner that sends changes and hears no acknowledgement: the path may have lost one direction.
        let server = server.http2_keepalive_interval(Some(HEARD_EVERY)).http2_keepalive_timeout(Some(HEARD_WITHIN));
        let advertise = if options.advertise.is_empty() { address.to_string() } else { options.advertise };
        let calls = ClientOptions::over(link);
        let control = (!options.control.is_empty()).then(|| ControlClient::new(options.control, calls));
        let newest = NewestMappings::new(Arc::clone(&driver), control.clone());
        Ok(Self { driver, data, server, listener, address, advertise, control, newest, hooks, metrics, names_keys })
    }

    /// The tenants' rows, for the application.
    #[must_use]
    pub fn data(&self) -> D {
        self.data.clone()
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its metrics are.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(|metrics| metrics.address().ok())
    }

    /// Its incarnation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.driver.surroundings().generation
    }

    /// What gates in the same process ask for the newest mapping of a tenant.
    #[must_use]
    pub fn mappings(&self) -> NewestMappings {
        self.newest.clone()
    }

    /// Serves until `shutdown`, then lets go of gates and followers and makes everything durable.
    ///
    /// # Errors
    /// [`AgentError::Engine`] where the store could not be synced: the process must end, because what was not
    /// acknowledged may be lost. [`AgentError::Serve`] where the server failed.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AgentError> {
        let Self { driver, server, listener, advertise, control, hooks, metrics, names_keys, .. } = self;
        let around = driver.surroundings();
        tracing::info!(cell = %around.here, generation = %around.generation, agent = %advertise, "agent serving");
        let durable_stop = CancellationToken::new();
        let syncing = tokio::spawn(Arc::clone(&driver).sustain(durable_stop.clone()));
        Arc::clone(&driver).resume();
        let stop = around.stop.clone();
        // Set there and not at the server, which does not ask it of streams from outside: without it, grants and answers of
        // a cutover wait up to 40 ms for an acknowledgement of TCP.
        let incoming = listener.incoming();
        let service = AgentServiceServer::new(Service { driver: Arc::clone(&driver), hooks });
        let server = server
            .layer(around.link.guard())
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let mut server = tokio::spawn(server);
        if let Some(metrics) = metrics {
            let stop = stop.clone();
            around.tasks.spawn(async move { stop.run_until_cancelled(metrics.serve()).await });
        }
        if let Some(control) = control {
            let (reported, heard) = watch::channel(false);
            let confirming = confirm(Arc::clone(&driver), control.clone(), heard);
            let reporting = report(Arc::clone(&driver), advertise, control, names_keys, reported);
            let stop = stop.clone();
            around.tasks.spawn(async move { stop.run_until_cancelled(reporting).await });
            let stop = around.stop.clone();
            around.tasks.spawn(async move { stop.run_until_cancelled(confirming).await });
        }
        tokio::pin!(syncing);
        let failed = tokio::select! {
            () = shutdown.cancelled() => None,
            synced = &mut syncing => Some(ended(synced)),
            served = &mut server => Some(Err(AgentError::Serve(match served {
                Ok(Ok(())) => "it ended by itself".into(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            }))),
        };
        stop.cancel();
        around.tasks.close();
        if tokio::time::timeout(QUIESCE_MAX, async {
            if !server.is_finished() {
                let _ended = (&mut server).await;
            }
            around.tasks.wait().await;
        })
        .await
        .is_err()
        {
            tracing::warn!("requests were still open when the agent stopped");
            server.abort();
        }
        durable_stop.cancel();
        match failed {
            Some(Err(error @ AgentError::Engine(_))) => Err(error),
            Some(other) => {
                // Where it was what has ended first, its end is told already.
                if !syncing.is_finished() {
                    let _synced = syncing.await;
                }
                other
            }
            None => ended(syncing.await),
        }
    }
}

fn ended(synced: Result<Result<(), AgentError>, tokio::task::JoinError>) -> Result<(), AgentError> {
    match synced {
        Ok(synced) => synced,
        Err(error) => Err(AgentError::Serve(error.to_string())),
    }
}

/// Asks whether this cell still owns, once the log knows of this process: a takeover that was ordered before that is refused
/// then, or is decided before the question is answered.
async fn confirm(driver: Arc<dyn Driver>, control: ControlClient, mut reported: watch::Receiver<bool>) {
    if reported.wait_for(|reported| *reported).await.is_ok() {
        driver.confirm(control).await;
    }
}

/// Tells the control plane every second where this cell is to be found.
async fn report(
    driver: Arc<dyn Driver>,
    advertise: String,
    control: ControlClient,
    names_keys: bool,
    reported: watch::Sender<bool>,
) {
    let mut ticks = tokio::time::interval(REPORT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let around = driver.surroundings();
    let mut gates = around.board.gates_changed();
    let mut reached = true;
    let began = tokio::time::Instant::now();
    let mut told = Vec::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            changed = gates.changed() => {
                if changed.is_err() { return }
                if around.board.addresses() == told {
                    continue;
                }
                // Gates of one process come and go together: one report for all of them.
                tokio::time::sleep(GATES_SETTLE).await;
            }
        }
        told = around.board.addresses();
        let request = wire::ReportCellRequest {
            cell: around.here.to_string(),
            generation: around.generation.get(),
            gates: told.clone(),
            agent: advertise.clone(),
            partial: began.elapsed() < GATES_COME_WITHIN,
        };
        match control.report_cell(request).await {
            Ok(answer) => {
                reached = true;
                reported.send_replace(true);
                if names_keys {
                    trust(around, &answer.trusted_keys);
                }
            }
            Err(error) => {
                if reached {
                    tracing::warn!(cell = %around.here, %error, "the control plane could not be told of this cell");
                }
                reached = false;
            }
        }
    }
}

/// Believes the keys that the control plane names, and no others: while a key is exchanged it names both.
fn trust(around: &Surroundings, keys: &[impl AsRef<[u8]>]) {
    let mut named = TrustedKeys::default();
    for key in keys {
        match PublicKey::from_bytes(key.as_ref()) {
            Ok(key) => named.insert(key),
            Err(error) => tracing::warn!(%error, "the control plane named a key that is none"),
        }
    }
    if named.is_empty() {
        return;
    }
    let mut trusted = around.trusted.write().unwrap_or_else(PoisonError::into_inner);
    let same = trusted.iter().map(PublicKey::to_bytes).eq(named.iter().map(PublicKey::to_bytes));
    if !same {
        let names: Vec<String> = named.iter().map(PublicKey::key_id).collect();
        tracing::info!(keys = names.join(" "), "the control plane has named the keys that it signs with");
        *trusted = named;
    }
}

impl<D> std::fmt::Debug for Agent<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("address", &self.address).finish_non_exhaustive()
    }
}
