//! A gate as a component: started with options, stopped by a token.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cell_client::Link;
use cell_client::net::{Host, Listener};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, Gatekeeper, Refusal};
use crate::application::Application;
use crate::attach::{self, Attachment};
use crate::context::Contexts;
use crate::front::Front;
use crate::listener;
use crate::newest::{Asker, MappingSource};
use crate::options::GateOptions;
use crate::stamp::RequestStamp;
use crate::tls::Tls;

/// Why a gate does not start.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The address cannot be listened on.
    #[error("the gate cannot listen on {listen:?}")]
    Listen {
        /// As given.
        listen: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nobody is told who this gate is.
    #[error("the gate's identity cannot be used")]
    Identity(#[from] cell_client::IdentityError),
    /// A certificate or key cannot be used.
    #[error("{}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        reason: String,
    },
    /// A key whose contexts are to be believed is none.
    #[error("context key {key:?} cannot be used: {source}")]
    ContextKey {
        /// As given.
        key: String,
        /// Why.
        #[source]
        source: cell_trust::InvalidKey,
    },
}

impl GateError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => "PORT_IN_USE",
            Self::Listen { .. } => "LISTEN_FAILED",
            Self::Identity(error) => error.code(),
            Self::ContextKey { .. } => "CONTEXT_KEY_INVALID",
            Self::Certificate { .. } => "CERTIFICATE_INVALID",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self.code() {
            "LISTEN_FAILED" => "give an address of this machine as host:port",
            "PORT_IN_USE" => "stop the other process, or choose another port; port 0 lets the system choose",
            "CERTIFICATE_INVALID" => "correct the file that is named; certificates and keys are PEM",
            "CONTEXT_KEY_INVALID" => "give the 64 hexadecimal digits of a router's public key",
            _ => "issue the identity anew: `cellctl ca issue agent CELL`",
        }
    }
}

/// A running gate.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    handle: GateHandle,
    running: JoinHandle<()>,
}

/// What others may ask of a running gate. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GateHandle {
    gatekeeper: Arc<Gatekeeper>,
}

/// How often what has happened at a gate, and what is happening now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateCounts {
    /// Requests let in since the start.
    pub admitted: u64,
    /// Requests answered with a newer mapping since the start.
    pub redirected: u64,
    /// Requests refused with a code since the start.
    pub refused: u64,
    /// Requests that had to wait, since the start.
    pub waited: u64,
    /// Requests that are waiting.
    pub waiting: u32,
    /// Writes that are running.
    pub writes: u64,
    /// Tenants known.
    pub tenants: usize,
}

impl GateHandle {
    /// Lets a request in, or says why not: for servers that bring their own HTTP. A write counts as running until the
    /// [`Admission`] is dropped.
    ///
    /// # Errors
    /// [`Refusal`]: surely not executed.
    pub async fn admit(&self, stamp: &RequestStamp, is_write: bool) -> Result<Admission, Refusal> {
        self.gatekeeper.admit(stamp, is_write).await
    }

    /// Whether the gate is attached under a live lease, and not closing.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.gatekeeper.is_open()
    }

    /// The counts of this moment.
    #[must_use]
    pub fn counts(&self) -> GateCounts {
        let counters = &self.gatekeeper.counters;
        GateCounts {
            admitted: counters.admitted.load(Ordering::Relaxed),
            redirected: counters.redirected.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            waited: counters.waited.load(Ordering::Relaxed),
            waiting: self.gatekeeper.waiting(),
            writes: self.gatekeeper.table.writes(),
            tenants: self.gatekeeper.table.len(),
        }
    }
}

impl Gate {
    /// Starts to listen before `application`, and attaches to the agent. `mappings` is asked for the newest mapping
    /// of a tenant where the grant has none.
    ///
    /// # Errors
    /// [`GateError::Listen`] where the address cannot be listened on.
    pub async fn start<A: Application>(
        options: GateOptions,
        mappings: Arc<dyn MappingSource>,
        application: A,
        shutdown: CancellationToken,
    ) -> Result<Self, GateError> {
        let link = Link::open(options.identity.as_deref(), options.identity.is_none())?;
        Self::start_over(options, mappings, application, link, shutdown).await
    }

    /// As [`Gate::start`], on a host that is passed in, as in a simulation.
    ///
    /// # Errors
    /// As [`Gate::start`].
    pub async fn start_within<A: Application>(
        options: GateOptions,
        mappings: Arc<dyn MappingSource>,
        application: A,
        host: Host,
        shutdown: CancellationToken,
    ) -> Result<Self, GateError> {
        Self::start_over(options, mappings, application, Link::Within(host), shutdown).await
    }

    async fn start_over<A: Application>(
        options: GateOptions,
        mappings: Arc<dyn MappingSource>,
        application: A,
        link: Link,
        shutdown: CancellationToken,
    ) -> Result<Self, GateError> {
        let contexts = Contexts::new(&options.context_keys)?;
        let tls = options.tls.clone().map(Tls::load).transpose()?;
        let failed = |source| GateError::Listen { listen: options.listen.clone(), source };
        let listener = link.listen(&options.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let asker = Asker::new(mappings, Duration::from_millis(options.http.newest_ms));
        let gatekeeper = Gatekeeper::new(asker, options.wait);
        #[cfg(feature = "planted")]
        let gatekeeper = gatekeeper.planting(options.planted);
        let gatekeeper = Arc::new(gatekeeper);
        tracing::info!(instance = options.instance, %address, agent = options.agent, "gate listens");
        let running = tokio::spawn(run(
            options,
            link,
            Arc::clone(&gatekeeper),
            (tls, contexts),
            (listener, address),
            application,
            shutdown,
        ));
        Ok(Self { address, handle: GateHandle { gatekeeper }, running })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What others may ask of it.
    #[must_use]
    pub fn handle(&self) -> GateHandle {
        self.handle.clone()
    }

    /// Waits until it has stopped, after its token was cancelled.
    pub async fn stopped(self) {
        if let Err(error) = self.running.await {
            tracing::error!(%error, "the gate failed");
        }
    }
}

/// Serves until `shutdown`; then lets nobody in, finishes what was let in, and says farewell to the agent.
async fn run<A: Application>(
    options: GateOptions,
    link: Link,
    gatekeeper: Arc<Gatekeeper>,
    (tls, contexts): (Option<Tls>, Option<Contexts>),
    (listener, address): (Listener, SocketAddr),
    application: A,
    shutdown: CancellationToken,
) {
    let farewell = CancellationToken::new();
    let attachment = Attachment {
        link,
        agent: options.agent,
        instance: options.instance,
        address: options.address.unwrap_or_else(|| address.to_string()),
    };
    let attached = tokio::spawn(attach::keep(Arc::clone(&gatekeeper), attachment, farewell.clone()));
    let tasks = TaskTracker::new();
    let front = Arc::new(Front {
        gatekeeper: Arc::clone(&gatekeeper),
        contexts,
        application: Arc::new(application),
        body_bytes_max: options.http.body_bytes,
        application_deadline: Duration::from_millis(options.http.application_ms),
        writes: tasks.clone(),
    });
    listener::accept(listener, tls.map(Arc::new), front, options.http, shutdown, tasks.clone()).await;
    gatekeeper.close();
    tasks.close();
    let patience = Duration::from_millis(options.http.quiesce_ms);
    let in_time = tokio::time::timeout(patience, tasks.wait()).await.is_ok();
    gatekeeper.lease.end();
    if in_time {
        farewell.cancel();
        if let Err(error) = attached.await {
            tracing::error!(%error, "the gate's stream to its agent failed");
        }
    } else {
        // The agent has to know of the writes that are still running for as long as they run.
        tokio::spawn(async move {
            tasks.wait().await;
            farewell.cancel();
        });
    }
    tracing::info!(%address, in_time, "gate stopped");
}
