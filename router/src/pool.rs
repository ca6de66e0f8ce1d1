//! Connections of one thread to the instances of cells, kept while they are warm: over HTTP/1.1 one request at a time
//! each, over HTTP/2 many, up to a cap that makes a crowd fan out. In the clear or over TLS.
//!
//! No lock and no other thread: a connection lives and dies on the thread that serves its requests.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cell_client::net::{Connection as Stream, Network};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::body::UploadBody;
use crate::front::SameThread;
use crate::instance::{Instance, Occupied};
use crate::tls::TlsBack;

/// What a client's body is on its way to a cell.
pub(crate) type Sent = UploadBody<Incoming>;

/// How many and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolLimits {
    pub(crate) connections_per_instance_max: usize,
    pub(crate) idle_per_instance_max: usize,
    pub(crate) idle_max: Duration,
    pub(crate) connect: Duration,
}

/// What hyper may buffer of an answer, and the size of the pieces of a body.
const BUFFER_BYTES: usize = 64 << 10;

/// Requests at once on one HTTP/2 connection; the next one is opened for more.
const STREAMS_MAX: usize = 100;
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// An HTTP/2 connection that does not answer a ping is dead, though TCP may not know yet.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Which protocol a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    Http1,
    Http2,
}

/// Why there is no connection. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{0} connections to it are in use, which is the limit")]
    Busy(usize),
    #[error("it did not take the connection in time")]
    Timeout,
    #[error("{0}")]
    Refused(std::io::Error),
    #[error("{0}")]
    Handshake(hyper::Error),
    #[error("TLS: {0}")]
    Tls(std::io::Error),
}

impl ConnectError {
    /// Whether it says something about the instance, and not about us.
    pub(crate) fn is_of_instance(&self) -> bool {
        !matches!(self, Self::Busy(_))
    }
}

/// Addresses come out of signed mappings, so nobody chooses them to collide; and without a random seed connections are
/// looked at, and dropped, in the same order in each run of a simulation.
type Unseeded = BuildHasherDefault<DefaultHasher>;

/// The connections of one thread.
pub(crate) struct Pool {
    limits: PoolLimits,
    tls: Option<TlsBack>,
    network: Network,
    hosts: RefCell<HashMap<Arc<str>, Host, Unseeded>>,
}

#[derive(Default)]
struct Host {
    idle: Vec<Idle>,
    shared: Vec<Rc<Shared>>,
    /// Somebody opens a connection that many will share.
    opening: Option<Rc<Notify>>,
    open: usize,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// An HTTP/1.1 connection.
struct Connection {
    sender: http1::SendRequest<Sent>,
    task: AbortHandle,
}

/// An HTTP/2 connection.
struct Shared {
    sender: http2::SendRequest<Sent>,
    task: AbortHandle,
    streams: Cell<usize>,
    used: Cell<Instant>,
}

impl Shared {
    fn has_room(&self) -> bool {
        self.sender.is_ready() && self.streams.get() < STREAMS_MAX
    }
}

impl Pool {
    pub(crate) fn new(limits: PoolLimits, tls: Option<TlsBack>, network: Network) -> Rc<Self> {
        Rc::new(Self { limits, tls, network, hosts: RefCell::default() })
    }

    /// A connection to `address`: one that is open, else a new one.
    pub(crate) async fn checkout(
        self: &Rc<Self>,
        address: &Arc<str>,
        wire: Wire,
        until: Instant,
    ) -> Result<Lease, ConnectError> {
        match wire {
            Wire::Http1 => {
                while let Some(connection) = self.pop_idle(address) {
                    if connection.sender.is_ready() {
                        return Ok(self.lease(address, Leased::Alone(connection)));
                    }
                }
                let connection = self.open_alone(address, until).await?;
                Ok(self.lease(address, Leased::Alone(connection)))
            }
            Wire::Http2 => self.checkout_shared(address, until).await,
        }
    }

    async fn checkout_shared(self: &Rc<Self>, address: &Arc<str>, until: Instant) -> Result<Lease, ConnectError> {
        loop {
            let opening = {
                let mut hosts = self.hosts.borrow_mut();
                let host = hosts.entry(Arc::clone(address)).or_default();
                if let Some(shared) = host.shared.iter().find(|shared| shared.has_room()) {
                    let shared = Rc::clone(shared);
                    drop(hosts);
                    return Ok(self.share(address, shared));
                }
                match &host.opening {
                    Some(opening) => Some(Rc::clone(opening)),
                    None => {
                        host.opening = Some(Rc::default());
                        None
                    }
                }
            };
            // The others wait for the one that opens, and look again.
            let Some(opening) = opening else { break };
            let opened = opening.notified();
            if tokio::time::timeout_at(until, opened).await.is_err() {
                return Err(ConnectError::Timeout);
            }
        }
        let _opened = Opened { pool: self, address };
        let shared = self.open_shared(address, until).await?;
        self.hosts.borrow_mut().entry(Arc::clone(address)).or_default().shared.push(Rc::clone(&shared));
        Ok(self.share(address, shared))
    }

    /// Closes what has been idle for too long and forgets instances that nothing is known of any more.
    pub(crate) fn sweep(&self) {
        let idle_max = self.limits.idle_max;
        self.hosts.borrow_mut().retain(|_, host| {
            host.idle.retain(|idle| idle.since.elapsed() < idle_max && !idle.connection.sender.is_closed());
            host.shared.retain(|shared| {
                let rested = shared.streams.get() == 0 && shared.used.get().elapsed() >= idle_max;
                if rested {
                    shared.task.abort();
                }
                !rested && !shared.sender.is_closed()
            });
            host.open > 0 || host.opening.is_some() || !host.idle.is_empty()
        });
    }

    fn lease(self: &Rc<Self>, address: &Arc<str>, leased: Leased) -> Lease {
        Lease { pool: Rc::clone(self), address: Arc::clone(address), leased: Some(leased), occupied: None }
    }

    fn share(self: &Rc<Self>, address: &Arc<str>, shared: Rc<Shared>) -> Lease {
        shared.streams.set(shared.streams.get() + 1);
        self.lease(address, Leased::Shared(shared))
    }

    fn pop_idle(&self, address: &Arc<str>) -> Option<Connection> {
        let mut hosts = self.hosts.borrow_mut();
        let idle = hosts.get_mut(address)?.idle.pop()?;
        (idle.since.elapsed() < self.limits.idle_max).then_some(idle.connection)
    }

    async fn open_alone(self: &Rc<Self>, address: &Arc<str>, until: Instant) -> Result<Connection, ConnectError> {
        let counted = self.count(address)?;
        let until = until.min(Instant::now() + self.limits.connect);
        let opened = tokio::time::timeout_at(until, async {
            let stream = dial(&self.network, address).await?;
            match &self.tls {
                None => speak_http1(stream, counted).await,
                Some(tls) => {
                    let stream = tls.connect(stream, address, false).await.map_err(ConnectError::Tls)?;
                    speak_http1(stream, counted).await
                }
            }
        });
        opened.await.map_err(|_| ConnectError::Timeout)?
    }

    async fn open_shared(self: &Rc<Self>, address: &Arc<str>, until: Instant) -> Result<Rc<Shared>, ConnectError> {
        let counted = self.count(address)?;
        let until = until.min(Instant::now() + self.limits.connect);
        let opened = tokio::time::timeout_at(until, async {
            let stream = dial(&self.network, address).await?;
            match &self.tls {
                None => speak_http2(stream, counted).await,
                Some(tls) => {
                    let stream = tls.connect(stream, address, true).await.map_err(ConnectError::Tls)?;
                    speak_http2(stream, counted).await
                }
            }
        });
        opened.await.map_err(|_| ConnectError::Timeout)?
    }

    fn count(self: &Rc<Self>, address: &Arc<str>) -> Result<Counted, ConnectError> {
        let mut hosts = self.hosts.borrow_mut();
        let host = hosts.entry(Arc::clone(address)).or_default();
        if host.open >= self.limits.connections_per_instance_max {
            return Err(ConnectError::Busy(host.open));
        }
        host.open += 1;
        Ok(Counted { pool: Rc::clone(self), address: Arc::clone(address) })
    }
}

async fn dial(network: &Network, address: &Arc<str>) -> Result<Stream, ConnectError> {
    let stream = network.connect(address).await.map_err(ConnectError::Refused)?;
    // Small requests must not wait for an acknowledgement; a socket that cannot do that still works.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %address, "cannot set TCP_NODELAY");
    }
    Ok(stream)
}

async fn speak_http1<S>(stream: S, counted: Counted) -> Result<Connection, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Handshake)?;
    let task = tokio::task::spawn_local(async move {
        let _counted = counted;
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a cell has broken");
        }
    });
    Ok(Connection { sender, task: task.abort_handle() })
}

async fn speak_http2<S>(stream: S, counted: Counted) -> Result<Rc<Shared>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(SameThread)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Handshake)?;
    let task = tokio::task::spawn_local(async move {
        let _counted = counted;
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a cell has broken");
        }
    });
    let (streams, used) = (Cell::new(0), Cell::new(Instant::now()));
    Ok(Rc::new(Shared { sender, task: task.abort_handle(), streams, used }))
}

/// Somebody opens a connection that many will share; those wait until this is dropped.
struct Opened<'p> {
    pool: &'p Rc<Pool>,
    address: &'p Arc<str>,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        let opening = self.pool.hosts.borrow_mut().get_mut(self.address).and_then(|host| host.opening.take());
        if let Some(opening) = opening {
            opening.notify_waiters();
        }
    }
}

/// One open connection, until it is dropped.
struct Counted {
    pool: Rc<Pool>,
    address: Arc<str>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Ok(mut hosts) = self.pool.hosts.try_borrow_mut()
            && let Some(host) = hosts.get_mut(&self.address)
        {
            host.open -= 1;
        }
    }
}

/// A connection in use by one request. Dropped before [`Lease::done`], the request is taken back: an HTTP/1.1 connection
/// is closed with whatever was on it, an HTTP/2 stream is reset by what hyper drops with it.
pub(crate) struct Lease {
    pool: Rc<Pool>,
    address: Arc<str>,
    leased: Option<Leased>,
    /// The instance counts it until it is dropped.
    occupied: Option<Occupied>,
}

enum Leased {
    Alone(Connection),
    Shared(Rc<Shared>),
}

const LEASED: &str = "a lease has its connection until it is done";

impl Lease {
    /// Counted by its instance from now on.
    #[must_use]
    pub(crate) fn to(mut self, occupied: Occupied) -> Self {
        self.occupied = Some(occupied);
        self
    }

    /// The instance that it goes to.
    pub(crate) fn instance(&self) -> Option<&Arc<Instance>> {
        self.occupied.as_ref().map(Occupied::instance)
    }

    /// Where it goes to.
    pub(crate) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// Sends, and waits for the head of the answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<Sent>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Sent>>> {
        match self.leased.as_mut().expect(LEASED) {
            Leased::Alone(connection) => connection.sender.try_send_request(request).await,
            Leased::Shared(shared) => {
                let mut sender = shared.sender.clone();
                sender.try_send_request(request).await
            }
        }
    }

    /// The connection has become another protocol's and does not come back.
    pub(crate) fn upgraded(mut self) {
        self.leased = None;
    }

    /// The answer was read to its end: the connection may serve another request.
    pub(crate) fn done(mut self) {
        let mut connection = match self.leased.take() {
            Some(Leased::Alone(connection)) => connection,
            Some(Leased::Shared(shared)) => return shared.leave(),
            None => return,
        };
        if connection.sender.is_ready() {
            give_back(&self.pool, &self.address, connection);
        } else if connection.sender.is_closed() {
            // It closes by itself.
        } else {
            // hyper says a moment later that it can take another request, or never, where the cell has not read the body.
            let (pool, address) = (Rc::clone(&self.pool), Arc::clone(&self.address));
            tokio::task::spawn_local(async move {
                match tokio::time::timeout(SETTLE, connection.sender.ready()).await {
                    Ok(Ok(())) => give_back(&pool, &address, connection),
                    Ok(Err(_)) | Err(_) => connection.task.abort(),
                }
            });
        }
    }
}

impl Shared {
    fn leave(&self) {
        self.streams.set(self.streams.get() - 1);
        self.used.set(Instant::now());
    }
}

const SETTLE: Duration = Duration::from_millis(200);

fn give_back(pool: &Rc<Pool>, address: &Arc<str>, connection: Connection) {
    let mut hosts = pool.hosts.borrow_mut();
    let host = hosts.entry(Arc::clone(address)).or_default();
    if host.idle.len() < pool.limits.idle_per_instance_max {
        host.idle.push(Idle { connection, since: Instant::now() });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.leased.take() {
            Some(Leased::Alone(connection)) => connection.task.abort(),
            Some(Leased::Shared(shared)) => shared.leave(),
            None => {}
        }
    }
}
