//! Connections of one thread to the instances of cells, kept while they are warm: over HTTP/1.1 one request at a time
//! each, over HTTP/2 many, up to a cap that makes a crowd fan out. In the clear or over TLS.
//!
//! No lock and no other thread: a connection lives and dies on the thread that serves its requests.

mod alone;
mod driven;
mod hearing;
mod lease;
mod plain;
mod replay;
mod said;
mod shared;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cell_client::net::{Connection as Stream, Network};
use hyper::body::Incoming;
use socket2::{SockRef, TcpKeepalive};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::alone::Alone;
use self::plain::{Pages, Plain};
use self::shared::{Opening, Shared};
use crate::body::UploadBody;
use crate::tls::{GateTls, TlsBack};

pub(crate) use self::lease::Lease;
pub(crate) use self::plain::Whole;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::plain::heard;
pub(crate) use self::said::{CellBody, CellError, SendError};

/// What a client's body is on its way to a cell.
pub(crate) type Sent = UploadBody<Incoming>;

/// How soon a machine is missed that has gone without a word: half of an answer, or a tunnel, would be waited for for ever.
const ALIVE_AFTER: Duration = Duration::from_secs(10);
const ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const ALIVE_TRIES: u32 = 3;

/// How many and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolLimits {
    pub(crate) connections_per_instance_max: usize,
    pub(crate) idle_per_instance_max: usize,
    pub(crate) idle_max: Duration,
    pub(crate) connect: Duration,
}

/// Which protocol a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    Http1,
    Http2,
}

/// For what a connection is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) now: Instant,
    /// Whether an idle connection is looked at before it is used. For the first time it is looked at while the request is
    /// sent; one that turns out to be closed has then not taken it.
    pub(crate) looks: bool,
    /// Whether what is to be sent is here whole, so that the library is not needed for it.
    pub(crate) whole: bool,
    /// When a new connection has to be there.
    pub(crate) until: Instant,
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
    #[error("{0}")]
    Tls(GateTls),
}

impl ConnectError {
    /// Whether it says something about the instance, and not about us.
    pub(crate) fn is_of_instance(&self) -> bool {
        !matches!(self, Self::Busy(_))
    }
}

/// Addresses come out of signed mappings, so nobody chooses them to collide; and without a random seed connections are
/// looked at, and dropped, in the same order in each run of a simulation.
type Unseeded = foldhash::fast::FixedState;

/// The connections of one thread.
pub(crate) struct Pool {
    limits: PoolLimits,
    tls: Option<TlsBack>,
    network: Network,
    hosts: RefCell<HashMap<Arc<str>, Host, Unseeded>>,
    pages: Pages,
}

#[derive(Default)]
struct Host {
    /// The last that was used last.
    idle: Vec<Idle>,
    shared: Vec<Rc<Shared>>,
    /// Somebody opens a connection that many will share.
    opening: Option<Rc<Notify>>,
    open: Rc<Cell<usize>>,
}

struct Idle {
    connection: Alone,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(limits: PoolLimits, tls: Option<TlsBack>, network: Network) -> Rc<Self> {
        Rc::new(Self { limits, tls, network, hosts: RefCell::default(), pages: Pages::default() })
    }

    /// A connection to `address`: one that is open, else a new one.
    pub(crate) async fn checkout(
        self: &Rc<Self>,
        address: &Arc<str>,
        wire: Wire,
        ask: Ask,
    ) -> Result<Lease, ConnectError> {
        let until = ask.until;
        match wire {
            Wire::Http1 => {
                while let Some(mut connection) = self.pop_idle(address, ask) {
                    if !ask.looks || connection.is_usable() {
                        return Ok(Lease::alone(self, address, connection));
                    }
                }
                // Boxed, as whatever is rare: most requests find a connection and need not carry the room for this.
                let connection = Box::pin(self.open_alone(address, until)).await?;
                Ok(Lease::alone(self, address, connection))
            }
            Wire::Http2 => match self.shared_with_room(address) {
                Some(shared) => Ok(Lease::shared(self, address, shared)),
                None => Box::pin(self.checkout_new_shared(address, until)).await,
            },
        }
    }

    /// A connection that many share and that has room for one more.
    fn shared_with_room(&self, address: &Arc<str>) -> Option<Rc<Shared>> {
        let hosts = self.hosts.borrow();
        hosts.get(address)?.shared.iter().find(|shared| shared.has_room()).cloned()
    }

    async fn checkout_new_shared(
        self: &Rc<Self>,
        address: &Arc<str>,
        until: Instant,
    ) -> Result<Lease, ConnectError> {
        loop {
            if let Some(shared) = self.shared_with_room(address) {
                return Ok(Lease::shared(self, address, shared));
            }
            let opening = {
                let mut hosts = self.hosts.borrow_mut();
                let host = hosts.entry(Arc::clone(address)).or_default();
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
        let _opening = Opening { pool: self, address };
        let shared = self.open_shared(address, until).await?;
        self.hosts.borrow_mut().entry(Arc::clone(address)).or_default().shared.push(Rc::clone(&shared));
        Ok(Lease::shared(self, address, shared))
    }

    /// Closes what has been idle for too long, or was closed by the other side, and forgets instances that nothing is
    /// known of any more.
    pub(crate) fn sweep(&self) {
        let idle_max = self.limits.idle_max;
        for host in self.hosts.borrow_mut().values_mut() {
            host.idle.retain_mut(|idle| idle.since.elapsed() < idle_max && idle.connection.is_usable());
            host.shared.retain(|shared| shared.is_wanted(idle_max));
        }
        self.hosts
            .borrow_mut()
            .retain(|_, host| host.open.get() > 0 || host.opening.is_some() || !host.idle.is_empty());
    }

    /// The one that was used last, rather of those that suit: what the library has stays with it, and is taken first for
    /// what needs the library.
    fn pop_idle(&self, address: &Arc<str>, ask: Ask) -> Option<Alone> {
        let mut hosts = self.hosts.borrow_mut();
        let idle = &mut hosts.get_mut(address)?.idle;
        let suits = idle.iter().rposition(|idle| idle.connection.is_driven() != ask.whole);
        let idle = idle.remove(suits.or_else(|| idle.len().checked_sub(1))?);
        (ask.now.saturating_duration_since(idle.since) < self.limits.idle_max).then_some(idle.connection)
    }

    /// A connection that can serve another request.
    fn give_back(&self, address: &Arc<str>, connection: Alone) {
        let mut hosts = self.hosts.borrow_mut();
        let host = match hosts.get_mut(address) {
            Some(host) => host,
            None => hosts.entry(Arc::clone(address)).or_default(),
        };
        if host.idle.len() < self.limits.idle_per_instance_max {
            host.idle.push(Idle { connection, since: Instant::now() });
        }
    }

    async fn open_alone(self: &Rc<Self>, address: &Arc<str>, until: Instant) -> Result<Alone, ConnectError> {
        let counted = self.count(address)?;
        let until = until.min(Instant::now() + self.limits.connect);
        let opened = tokio::time::timeout_at(until, async {
            let stream = dial(&self.network, address).await?;
            match &self.tls {
                None => Ok(Plain::new(stream, counted)),
                Some(tls) => {
                    let stream = tls.connect(stream, address, false).await.map_err(ConnectError::Tls)?;
                    Ok(Plain::new(stream, counted))
                }
            }
        });
        opened.await.map_err(|_| ConnectError::Timeout)?.map(|plain| Alone::Plain(Box::new(plain)))
    }

    async fn open_shared(self: &Rc<Self>, address: &Arc<str>, until: Instant) -> Result<Rc<Shared>, ConnectError> {
        let counted = self.count(address)?;
        let until = until.min(Instant::now() + self.limits.connect);
        let opened = tokio::time::timeout_at(until, async {
            let stream = dial(&self.network, address).await?;
            match &self.tls {
                None => Shared::open(stream, counted).await,
                Some(tls) => {
                    let stream = tls.connect(stream, address, true).await.map_err(ConnectError::Tls)?;
                    Shared::open(stream, counted).await
                }
            }
        });
        opened.await.map_err(|_| ConnectError::Timeout)?
    }

    fn count(&self, address: &Arc<str>) -> Result<Counted, ConnectError> {
        let mut hosts = self.hosts.borrow_mut();
        let open = &hosts.entry(Arc::clone(address)).or_default().open;
        if open.get() >= self.limits.connections_per_instance_max {
            return Err(ConnectError::Busy(open.get()));
        }
        open.set(open.get() + 1);
        Ok(Counted(Rc::clone(open)))
    }
}

async fn dial(network: &Network, address: &Arc<str>) -> Result<Stream, ConnectError> {
    let stream = network.connect(address).await.map_err(ConnectError::Refused)?;
    // Small requests must not wait for an acknowledgement; a socket that cannot do that still works.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %address, "cannot set TCP_NODELAY");
    }
    if let Stream::Kernel(socket) = &stream
        && let Err(error) = SockRef::from(socket).set_tcp_keepalive(&asking())
    {
        tracing::debug!(%error, %address, "cannot ask whether the other side of a connection is still there");
    }
    Ok(stream)
}

/// How often a silent machine is asked whether it is still there.
fn asking() -> TcpKeepalive {
    TcpKeepalive::new().with_time(ALIVE_AFTER).with_interval(ALIVE_INTERVAL).with_retries(ALIVE_TRIES)
}

/// One open connection to an instance, until it is dropped.
struct Counted(Rc<Cell<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gate_that_says_nothing_is_asked_whether_its_machine_is_there() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Arc::from(listener.local_addr().unwrap().to_string());
        let Stream::Kernel(socket) = dial(&Network::Kernel, &address).await.unwrap() else { unreachable!() };
        let socket = SockRef::from(&socket);
        assert!(socket.keepalive().unwrap());
        let asked = (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap());
        assert_eq!(asked, (ALIVE_AFTER, ALIVE_INTERVAL));
    }
}
