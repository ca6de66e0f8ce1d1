//! A router as a whole: what it starts, in which order, and how it ends.

mod edge;
mod ending;
mod handle;
mod table_file;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use cell_client::Link;
use cell_client::net::{Host, Network};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::ending::{all_ended, quiesce};
use crate::Error;
use crate::admin::{Admin, Usage};
use crate::control::Control;
use crate::directory::Directory;
use crate::fair::fleet;
use crate::feed::{self, ControlPlane};
use crate::flow::Flow;
use crate::handover::Giver;
use crate::instance::check;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::observe::log::Log;
use crate::observe::recent::Recent;
use crate::observe::spans::Spans;
use crate::options::{Checked, Options};
use crate::reload::Reload;
use crate::sharing::Sharing;
use crate::sockets::Sockets;
use crate::usage::Meter;
use crate::usage::batches::Batches;
use crate::waiting::Waiters;
use crate::worker::{self, Phase, Seed};

pub(crate) use self::edge::Edge;
pub use self::handle::{Addresses, Handle};

/// A router that has its sockets and, where there was a file, its table.
pub struct Router {
    options: Arc<Options>,
    checked: Checked,
    control: Arc<dyn ControlPlane>,
    directory: Arc<Directory>,
    flow: Arc<Flow>,
    metrics: Metrics,
    admin: Arc<Admin>,
    edge: Edge,
    connections: Arc<AtomicUsize>,
    reload: Arc<Reload>,
    sockets: Sockets,
    addresses: Addresses,
    host: Host,
}

/// Runs a router until `shutdown`, and then until its requests have finished.
///
/// # Errors
/// [`Error`] where it cannot start, or where a thread of it has failed.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    let router = Router::bind(options, Registry::default())?;
    router.run(shutdown).await
}

impl Router {
    /// Checks the options, loads the table from its file and takes the sockets. Metrics go into `registry`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`], or [`Error::Listen`] where an address is not to be had.
    pub fn bind(options: Options, registry: Registry) -> Result<Self, Error> {
        let checked = options.checked()?;
        let control = Control::new(&options, checked.trusted.clone())?;
        Self::bind_with(options, registry, Arc::new(control))
    }

    /// As [`Router::bind`], with a control plane of the caller's.
    ///
    /// # Errors
    /// As [`Router::bind`].
    pub fn bind_with(options: Options, registry: Registry, control: Arc<dyn ControlPlane>) -> Result<Self, Error> {
        Self::bind_over(options, registry, control, Host::default())
    }

    /// As [`Router::bind`], on a host that is passed in, as in a simulation. [`Router::run`] then serves as a task of the
    /// runtime that it is called on, which has to be a local one.
    ///
    /// # Errors
    /// As [`Router::bind`].
    pub fn bind_within(options: Options, registry: Registry, host: Host) -> Result<Self, Error> {
        let checked = options.checked()?;
        let control = Control::over(&options, checked.trusted, Link::Within(host.clone()));
        Self::bind_over(options, registry, Arc::new(control), host)
    }

    fn bind_over(
        options: Options,
        mut registry: Registry,
        control: Arc<dyn ControlPlane>,
        host: Host,
    ) -> Result<Self, Error> {
        let checked = options.checked()?;
        let edge = Edge::load(&options)?;
        let mut sockets = match host.network() {
            Network::Kernel => Sockets::open(&options)?,
            Network::Given(fabric) => Sockets::within(&**fabric, &options)?,
        };
        let addresses = sockets.addresses(&options)?;
        let waiters = Waiters::new(options.limits.held_per_tenant_max, options.limits.held_max);
        let tunnels = Waiters::new(options.limits.tunnels_per_tenant_max, options.limits.tunnels_max);
        let directory = Arc::new(Directory::new(waiters, tunnels, options.timeouts.fresh));
        if let Some(path) = &options.snapshot_file {
            table_file::load(path, &directory);
        }
        let learnt = std::mem::take(&mut sockets.limits);
        let flow = Flow::new(Live::new(&options), directory.instances.clock(), options.usage.is_some(), learnt);
        let metrics = Metrics::register(&mut registry, Arc::clone(&directory), Arc::clone(&flow));
        let reload = Reload::new(
            options.clone(),
            Arc::clone(&flow),
            metrics.reloads.clone(),
            metrics.reloads_refused.clone(),
        );
        let reload = Arc::new(reload);
        let admin = Arc::new(Admin {
            listen: addresses.listen,
            directory: Arc::clone(&directory),
            registry: Arc::new(registry),
            flow: Arc::clone(&flow),
            recent: Arc::new(Recent::new(options.limits.remembered_requests)),
            usage: usage(&options, &metrics)?,
            quiescing: AtomicBool::new(false),
        });
        let options = Arc::new(options);
        let connections = Arc::default();
        Ok(Self {
            options,
            checked,
            control,
            directory,
            flow,
            metrics,
            admin,
            edge,
            connections,
            reload,
            sockets,
            addresses,
            host,
        })
    }

    /// A look at it from outside.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            addresses: self.addresses,
            connections: Arc::clone(&self.connections),
            directory: Arc::clone(&self.directory),
            reload: Arc::clone(&self.reload),
        }
    }

    /// Serves until `shutdown`, then lets requests in flight finish within the time that the options give.
    ///
    /// # Errors
    /// [`Error`] where a thread cannot be started or has failed.
    #[expect(clippy::too_many_lines, reason = "the life of a router from its first thread to its last, in order")]
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let (phase, seen) = watch::channel(Phase::Serving);
        let (alive, mut ended) = mpsc::channel::<()>(1);
        let mut background = self.background(&shutdown)?;
        let (log, writer) = Log::open(&self.options, self.metrics.log_lines_left_out.clone());
        let writing = writer.map(|writer| tokio::spawn(writer.run()));
        let (spans, exporting) = self.spans()?;
        let (requests_over, over) = oneshot::channel::<()>();
        let metering = self.meter().map(|meter| tokio::spawn(meter.run(async move { drop(over.await) })));
        let giver = self.giver()?;
        let lent = giver.as_ref().map(Giver::lent).unwrap_or_default();
        let (listeners, admin, old) = self.sockets.into_parts();
        if old.is_some() {
            until_it_can_serve(&self.directory).await;
        }
        let threads = listeners.len();
        for (index, (sharing, listener)) in (0..).zip(Sharing::among(threads).into_iter().zip(listeners)) {
            let seed = Seed {
                index,
                threads,
                listener,
                network: self.host.network().clone(),
                random: self.host.random().clone(),
                options: Arc::clone(&self.options),
                identity: self.checked.identity.clone(),
                tokens: self.checked.tokens.clone().zip(self.edge.keys.clone()),
                tls: self.edge.tls.clone(),
                upstream_tls: self.edge.upstream_tls.clone(),
                signer: self.edge.signer.clone(),
                sharing,
                connections: Arc::clone(&self.connections),
                trusted: self.checked.trusted.clone(),
                directory: Arc::clone(&self.directory),
                flow: Arc::clone(&self.flow),
                ring: self.admin.recent.ring(),
                log: log.clone(),
                spans: spans.clone(),
                metrics: self.metrics.clone(),
                phase: seen.clone(),
                lent: Arc::clone(&lent),
            };
            worker::start(seed, alive.clone()).map_err(|source| Error::StartWorker { source })?;
        }
        drop(alive);
        let admin = admin.bound().map_err(|source| Error::Listen { address: self.addresses.admin, source })?;
        let answering = background.spawn(Arc::clone(&self.admin).serve(admin));
        if let Some(old) = old
            && let Err(error) = old.ready()
        {
            tracing::warn!(%error, "the process that ran before is gone already");
        }
        let name = &self.options.name;
        tracing::info!(name, listen = %self.addresses.listen, admin = %self.addresses.admin, "routing");
        let handed_over = async {
            match giver {
                Some(giver) => giver.handed_over().await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            () = shutdown.cancelled() => End::Stopped,
            () = handed_over => End::HandedOver,
            _ = ended.recv() => End::Failed,
        };
        self.admin.quiescing.store(true, Ordering::Release);
        let times = self.reload.timeouts();
        match end {
            End::Stopped => quiesce(&phase, Phase::Quiescing, &mut ended, times).await,
            End::HandedOver => {
                answering.abort();
                quiesce(&phase, Phase::HandedOver, &mut ended, times).await;
            }
            End::Failed => {}
        }
        phase.send_replace(Phase::Cut);
        all_ended(&mut ended).await;
        background.shutdown().await;
        drop((log, spans, requests_over));
        // Each ends with the last that it has, now that nobody is left who could bring more.
        for ending in [writing, metering].into_iter().flatten() {
            let _ended = ending.await;
        }
        if let Some(path) = self.options.snapshot_file.clone()
            && end != End::HandedOver
        {
            table_file::save(path, Arc::clone(&self.directory), &self.metrics).await;
        }
        // Last, and not for long: a collector that does not answer must not keep the process.
        if let Some(exporting) = exporting
            && tokio::time::timeout(crate::observe::spans::EXPORT_TIME_MAX, exporting).await.is_err()
        {
            tracing::warn!(code = "SPANS_NOT_TAKEN", "the collector does not answer; the last spans are left out");
        }
        tracing::info!(name, "stopped");
        if end == End::Failed { Err(Error::WorkerFailed) } else { Ok(()) }
    }

    /// What takes spans, and what sends them.
    fn spans(&self) -> Result<(Option<Spans>, Option<JoinHandle<()>>), Error> {
        let Some(options) = &self.options.spans else { return Ok((None, None)) };
        let made = Spans::new(options, &self.options.name, self.metrics.spans_left_out.clone());
        let (spans, exporter) = made.map_err(|reason| Error::Spans { reason })?;
        Ok((Some(spans), Some(tokio::spawn(exporter.run()))))
    }

    /// What writes down what tenants use.
    fn meter(&self) -> Option<Meter> {
        let (options, batches) = (self.options.usage.as_ref()?, Arc::clone(&self.admin.usage.as_ref()?.batches));
        let (flow, failures) = (Arc::clone(&self.flow), self.metrics.usage_failures.clone());
        Some(Meter::new(flow, batches, self.options.name.clone(), options.interval, failures))
    }

    /// What goes on beside the threads that serve.
    fn background(&self, shutdown: &CancellationToken) -> Result<JoinSet<()>, Error> {
        let mut background = JoinSet::new();
        let (directory, metrics, timeouts) = (&self.directory, &self.metrics, &self.options.timeouts);
        // Counted before anything can change: what comes from now on is not yet in the file.
        let on_file = directory.changes();
        let control = || Arc::clone(&self.control);
        background.spawn(feed::follow(Arc::clone(directory), control(), metrics.clone()));
        let interval = timeouts.confirm_interval;
        background.spawn(feed::confirm(Arc::clone(directory), control(), metrics.clone(), interval));
        background.spawn(Arc::clone(&self.flow).sweep());
        background.spawn(fleet::share(
            Arc::clone(&self.flow),
            Arc::clone(directory),
            self.host.network().clone(),
            metrics.peer_failures.clone(),
        ));
        let instances = Arc::clone(&directory.instances);
        background.spawn(check::run(
            instances,
            Arc::clone(&self.flow),
            self.edge.upstream_tls.clone(),
            self.host.network().clone(),
            metrics.check_failures.clone(),
        ));
        if let Some(path) = self.options.snapshot_file.clone() {
            let interval = timeouts.snapshot_interval;
            background.spawn(table_file::keep(path, Arc::clone(directory), metrics.clone(), interval, on_file));
        }
        self.edge.keep_up(&mut background, &self.options, metrics, shutdown)?;
        Ok(background)
    }

    /// What hands the sockets to the next process.
    fn giver(&self) -> Result<Option<Giver>, Error> {
        let Some(path) = &self.options.handover_socket else { return Ok(None) };
        let Addresses { listen, admin } = self.addresses;
        let sockets = self.sockets.for_the_next();
        let flow = Arc::clone(&self.flow);
        let limits = Box::new(move || flow.limits());
        let giver = sockets.and_then(|sockets| Giver::listen(path, listen, admin, sockets, limits));
        giver.map(Some).map_err(|source| Error::HandOver { path: path.clone(), source })
    }
}

/// Where batches of usage are, if there are any, and who may have them.
fn usage(options: &Options, metrics: &Metrics) -> Result<Option<Usage>, Error> {
    let Some(usage) = &options.usage else { return Ok(None) };
    let collectors = usage.collectors()?;
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let lot = getrandom::u32().map_err(|error| Error::StartWorker { source: error.into() })?;
    let process = format!("{:013}{lot:08x}", began.as_millis());
    let opened = Batches::open(&usage.directory, usage.bytes_max, process, metrics.usage_waiting.clone());
    let opened = opened.map_err(|source| Error::Usage { path: usage.directory.clone(), source })?;
    Ok(Some(Usage { batches: Arc::new(opened), collectors }))
}

/// Why a router ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stopped,
    /// Another process serves now.
    HandedOver,
    Failed,
}

/// A router that takes over serves once its table is fresh; where that does not come about, with one that is not; and in
/// the end without any.
async fn until_it_can_serve(directory: &Directory) {
    let began = Instant::now();
    loop {
        let waited = began.elapsed();
        let fresh = directory.is_fresh(Instant::now());
        if fresh || (directory.loaded() && waited > FRESH_TIME_MAX) || waited > TABLE_TIME_MAX {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const FRESH_TIME_MAX: Duration = Duration::from_secs(5);
const TABLE_TIME_MAX: Duration = Duration::from_secs(30);
