//! Connections of one thread to the instances of cells: HTTP/1.1, one request at a time each, kept while they are warm.
//!
//! No lock and no other thread: a connection lives and dies on the thread that serves its requests.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::body::UploadBody;
use crate::instance::{Instance, Occupied};

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
}

impl ConnectError {
    /// Whether it says something about the instance, and not about us.
    pub(crate) fn is_of_instance(&self) -> bool {
        !matches!(self, Self::Busy(_))
    }
}

/// The connections of one thread.
pub(crate) struct Pool {
    limits: PoolLimits,
    hosts: RefCell<HashMap<Arc<str>, Host>>,
}

#[derive(Default)]
struct Host {
    idle: Vec<Idle>,
    open: usize,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

struct Connection {
    sender: SendRequest<Sent>,
    task: AbortHandle,
}

impl Pool {
    pub(crate) fn new(limits: PoolLimits) -> Rc<Self> {
        Rc::new(Self { limits, hosts: RefCell::default() })
    }

    /// A connection to `address`: the one that was used last, else a new one.
    pub(crate) async fn checkout(
        self: &Rc<Self>,
        address: &Arc<str>,
        until: Instant,
    ) -> Result<Lease, ConnectError> {
        while let Some(connection) = self.pop_idle(address) {
            if connection.sender.is_ready() {
                return Ok(self.lease(address, connection));
            }
        }
        let connection = self.open(address, until).await?;
        Ok(self.lease(address, connection))
    }

    /// Closes what has been idle for too long and forgets instances that nothing is known of any more.
    pub(crate) fn sweep(&self) {
        let idle_max = self.limits.idle_max;
        self.hosts.borrow_mut().retain(|_, host| {
            host.idle.retain(|idle| idle.since.elapsed() < idle_max && !idle.connection.sender.is_closed());
            host.open > 0 || !host.idle.is_empty()
        });
    }

    fn lease(self: &Rc<Self>, address: &Arc<str>, connection: Connection) -> Lease {
        Lease { pool: Rc::clone(self), address: Arc::clone(address), connection: Some(connection), occupied: None }
    }

    fn pop_idle(&self, address: &Arc<str>) -> Option<Connection> {
        let mut hosts = self.hosts.borrow_mut();
        let idle = hosts.get_mut(address)?.idle.pop()?;
        (idle.since.elapsed() < self.limits.idle_max).then_some(idle.connection)
    }

    async fn open(self: &Rc<Self>, address: &Arc<str>, until: Instant) -> Result<Connection, ConnectError> {
        let counted = self.count(address)?;
        let until = until.min(Instant::now() + self.limits.connect);
        let connect = async {
            let stream = TcpStream::connect(&**address).await.map_err(ConnectError::Refused)?;
            // Small requests must not wait for an acknowledgement; a socket that cannot do that still works.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, %address, "cannot set TCP_NODELAY");
            }
            http1::Builder::new()
                .max_buf_size(BUFFER_BYTES)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(ConnectError::Handshake)
        };
        let (sender, connection) =
            tokio::time::timeout_at(until, connect).await.map_err(|_| ConnectError::Timeout)??;
        let task = tokio::task::spawn_local(async move {
            let _counted = counted;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a cell has broken");
            }
        });
        Ok(Connection { sender, task: task.abort_handle() })
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

/// A connection in use by one request. Dropped before [`Lease::done`] it is closed, with whatever was on it.
pub(crate) struct Lease {
    pool: Rc<Pool>,
    address: Arc<str>,
    connection: Option<Connection>,
    /// The instance counts it until it is dropped.
    occupied: Option<Occupied>,
}

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

    /// To send on.
    pub(crate) fn sender(&mut self) -> &mut SendRequest<Sent> {
        &mut self.connection.as_mut().expect("a lease has its connection until it is done").sender
    }

    /// The answer was read to its end: the connection may serve another request.
    pub(crate) fn done(mut self) {
        let Some(mut connection) = self.connection.take() else { return };
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
        if let Some(connection) = self.connection.take() {
            connection.task.abort();
        }
    }
}
