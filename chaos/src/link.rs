//! A network link in user space: a TCP forwarder that can be cut.
//!
//! A cut link behaves like a network that drops every packet: connections stay, new ones are accepted, and not a byte
//! gets through in either direction. When it heals, what waited goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No port to listen on.
    #[error("cannot listen for a link to {target}")]
    Listen {
        /// Where it was to lead.
        target: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// One link. It ends when this is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    open: watch::Sender<bool>,
    carried: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Link {
    /// A link to `target` (`host:port`), open.
    ///
    /// # Errors
    /// [`LinkError::Listen`].
    pub async fn open(target: &str) -> Result<Self, LinkError> {
        let failed = |source| LinkError::Listen { target: target.to_owned(), source };
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (open, state) = watch::channel(true);
        let (carried, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        tokio::spawn(accept(listener, target.to_owned(), state, carried.clone(), stop.clone()));
        Ok(Self { address, open, carried, stop })
    }

    /// Where to connect to in place of the target.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing gets through from now on.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Everything gets through again.
    pub fn heal(&self) {
        self.open.send_replace(true);
    }

    /// Bytes carried in both directions so far.
    #[must_use]
    pub fn carried_bytes(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    target: String,
    state: watch::Receiver<bool>,
    carried: Arc<AtomicU64>,
    stop: CancellationToken,
) {
    loop {
        let near = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => near,
                Err(error) => {
                    tracing::warn!(%error, "a link cannot accept");
                    continue;
                }
            },
        };
        let (target, state, carried, stop) = (target.clone(), state.clone(), carried.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = carry(near, &target, state, carried) => {}
            }
        });
    }
}

/// Both directions of one connection, until either side closes.
async fn carry(near: TcpStream, target: &str, mut state: watch::Receiver<bool>, carried: Arc<AtomicU64>) {
    if until_open(&mut state).await.is_err() {
        return;
    }
    let far = match TcpStream::connect(target).await {
        Ok(far) => far,
        Err(error) => {
            tracing::debug!(%target, %error, "the far end of a link refuses");
            return;
        }
    };
    // Latency of small messages is all that this could spoil.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let there = copy(near_read, far_write, state.clone(), carried.clone());
    let back = copy(far_read, near_write, state, carried);
    tokio::join!(there, back);
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<bool>,
    carried: Arc<AtomicU64>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length) = from.read(&mut buffer).await {
        // The end of a connection is news, too: it does not pass a cut link.
        if until_open(&mut state).await.is_err() || length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
        carried.fetch_add(length as u64, Ordering::Relaxed);
    }
    // Nothing can be done for a peer that is gone.
    let _ = to.shutdown().await;
}

async fn until_open(state: &mut watch::Receiver<bool>) -> Result<(), watch::error::RecvError> {
    state.wait_for(|open| *open).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut read, mut write) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut read, &mut write).await });
            }
        });
        address
    }

    async fn answer(stream: &mut TcpStream) -> Option<u8> {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(200), stream.read_exact(&mut byte)).await;
        read.ok().map(|read| read.map(|_| byte[0]).unwrap())
    }

    #[tokio::test]
    async fn a_cut_link_keeps_connections_and_carries_nothing_until_it_heals() {
        let target = echo().await.to_string();
        let link = Link::open(&target).await.unwrap();
        let mut old = TcpStream::connect(link.address()).await.unwrap();
        old.write_all(b"a").await.unwrap();
        assert_eq!(answer(&mut old).await, Some(b'a'));

        link.cut();
        old.write_all(b"b").await.unwrap();
        let mut new = TcpStream::connect(link.address()).await.unwrap();
        new.write_all(b"c").await.unwrap();
        assert_eq!((answer(&mut old).await, answer(&mut new).await), (None, None));
        assert_eq!(link.carried_bytes(), 2);

        link.heal();
        assert_eq!((answer(&mut old).await, answer(&mut new).await), (Some(b'b'), Some(b'c')));
    }

    #[tokio::test]
    async fn a_link_ends_when_it_is_dropped() {
        let target = echo().await.to_string();
        let link = Link::open(&target).await.unwrap();
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        stream.write_all(b"a").await.unwrap();
        assert_eq!(answer(&mut stream).await, Some(b'a'));
        drop(link);
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    }
}
