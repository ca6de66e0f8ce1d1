//! Where connections come from: the kernel's TCP, or a network that is passed in, as in a simulation.
//!
//! ```text
//! Host ─┬─ Network ─┬─ Kernel              connect ─► Connection ─┬─ Kernel(TcpStream)
//!       ├─ clock    └─ Given(dyn Fabric)   listen  ─► Listener    └─ Given(dyn Pipe)
//!       └─ random
//! ```
//! Clients, routers, gates, agents and control nodes take the connections between them from here, so that a whole fleet runs
//! on simulated streams without knowing it. In production there is one more branch in each call, and nothing else. Calls to
//! others (hooks, keys of tokens, the collector of spans, databases) go to the kernel.

mod connection;
mod listener;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Channel, Endpoint, Error, Uri};

use crate::Random;

pub use connection::{Connection, Cut, Given};
pub use listener::Listener;

/// Both directions of a stream that is not the kernel's.
pub trait Pipe: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Pipe for T {}

/// A port of a network that is not the kernel's.
pub trait Port: Send + Sync + 'static {
    /// The next stream, and who is at its other end.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Pipe>, SocketAddr)>>;

    /// Where it listens.
    ///
    /// # Errors
    /// Where that is not known.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A network that is not the kernel's.
pub trait Fabric: Send + Sync + 'static {
    /// A stream to `host:port`.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Pipe>>>;

    /// Listens at an address of this host.
    ///
    /// # Errors
    /// Where that is not to be had.
    fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Port>>;
}

/// No simulation takes so long by the clock of its machine.
pub const LONGER_THAN_ANY_RUN: Duration = Duration::from_secs(30 * 86_400);

/// Where connections come from. Cheap to clone.
#[derive(Clone, Default)]
pub enum Network {
    /// The kernel's TCP.
    #[default]
    Kernel,
    /// Another one.
    Given(Arc<dyn Fabric>),
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "Kernel",
            Self::Given(_) => "Given",
        })
    }
}

impl Network {
    /// A connection to `host:port`.
    ///
    /// # Errors
    /// As the network says.
    pub async fn connect(&self, address: &str) -> io::Result<Connection> {
        match self {
            Self::Kernel => TcpStream::connect(address).await.map(Connection::Kernel),
            Self::Given(fabric) => Ok(Connection::given(fabric.connect(address).await?)),
        }
    }

    /// Listens at `host:port`; port 0 takes a free one.
    ///
    /// # Errors
    /// As the network says.
    pub async fn listen(&self, address: &str) -> io::Result<Listener> {
        match self {
            Self::Kernel => TcpListener::bind(address).await.map(Listener::Kernel),
            Self::Given(fabric) => {
                let address =
                    address.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                fabric.listen(address).map(Listener::Given)
            }
        }
    }

    /// A gRPC channel that connects when it is used, and again after it was lost.
    #[must_use]
    pub fn channel(&self, endpoint: &Endpoint) -> Channel {
        match self {
            Self::Kernel => endpoint.connect_lazy(),
            Self::Given(_) => endpoint.connect_with_connector_lazy(self.connector()),
        }
    }

    /// A gRPC channel that is connected.
    ///
    /// # Errors
    /// Where it cannot be.
    pub async fn connected(&self, endpoint: &Endpoint) -> Result<Channel, Error> {
        match self {
            Self::Kernel => endpoint.connect().await,
            Self::Given(_) => endpoint.connect_with_connector(self.connector()).await,
        }
    }

    fn connector(
        &self,
    ) -> impl tower::Service<
        Uri,
        Response = TokioIo<Connection>,
        Error = io::Error,
        Future = BoxFuture<'static, io::Result<TokioIo<Connection>>>,
    > + Clone
    + Send
    + 'static {
        let network = self.clone();
        tower::service_fn(move |uri: Uri| {
            let network = network.clone();
            let dialing: BoxFuture<'static, _> = Box::pin(async move {
                let address = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
                network.connect(address).await.map(TokioIo::new)
            });
            dialing
        })
    }
}

/// What a part of Cellway has of the machine that it runs on. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    network: Network,
    /// Since 1970.
    clock: Arc<dyn Fn() -> Duration + Send + Sync>,
    random: Random,
}

impl Host {
    /// A host of a network that is passed in, with its wall clock, in time since 1970, and what its choices follow from.
    pub fn given(
        fabric: Arc<dyn Fabric>,
        clock: impl Fn() -> Duration + Send + Sync + 'static,
        random: Random,
    ) -> Self {
        Self { network: Network::Given(fabric), clock: Arc::new(clock), random }
    }

    /// Where its connections come from.
    #[must_use]
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// Its wall clock.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + (self.clock)()
    }

    /// Where its random numbers come from.
    #[must_use]
    pub const fn random(&self) -> &Random {
        &self.random
    }
}

impl Default for Host {
    /// This machine.
    fn default() -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { network: Network::Kernel, clock: Arc::new(clock), random: Random::default() }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("network", &self.network).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
