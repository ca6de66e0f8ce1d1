//! Where connections arrive.

use std::io;
use std::net::SocketAddr;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

use super::{Connection, Port};

/// See the module.
pub enum Listener {
    /// The kernel's.
    Kernel(TcpListener),
    /// Of a network that was passed in.
    Given(Box<dyn Port>),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Listener").field(&self.local_addr()).finish()
    }
}

impl Listener {
    /// The next connection, and who is at its other end.
    ///
    /// # Errors
    /// As the network says.
    pub async fn accept(&self) -> io::Result<(Connection, SocketAddr)> {
        match self {
            Self::Kernel(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Connection::Kernel(stream), peer))
            }
            Self::Given(port) => {
                let (pipe, peer) = port.accept().await?;
                Ok((Connection::given(pipe), peer))
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Where that is not known.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Kernel(listener) => listener.local_addr(),
            Self::Given(port) => port.local_addr(),
        }
    }

    /// All that comes, for a gRPC server: small messages do not wait for the acknowledgement of those before.
    #[must_use]
    pub fn incoming(self) -> BoxStream<'static, io::Result<Connection>> {
        match self {
            Self::Kernel(listener) => TcpIncoming::from(listener)
                .with_nodelay(Some(true))
                .map(|accepted| accepted.map(Connection::Kernel))
                .boxed(),
            Self::Given(port) => futures::stream::unfold(port, |port| async {
                let accepted = port.accept().await.map(|(pipe, _)| Connection::given(pipe));
                Some((accepted, port))
            })
            .boxed(),
        }
    }
}
