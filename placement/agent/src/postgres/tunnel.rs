//! TLS for the replication client, which has one of its own that is not ours: another library's cryptography, set for the
//! whole process, and other rules of whom to believe.
//!
//! ```text
//! replication client ──► a socket that only this user reaches, for one connection ──► TLS ──► server
//! ```
//! The server is reached, and believed, before the socket is there, so whoever connects to it has a server. Once somebody
//! has, the socket and its directory are gone: an agent that is killed leaves neither.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener};
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use super::fault::Fault;
use super::tls::Tls;

/// What asks a server to speak TLS: its length, and a number that no protocol version has.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// Whoever it was made for comes at once.
const ACCEPT_MAX: Duration = Duration::from_secs(3);

/// See the module. With it the connection ends.
pub(crate) struct Tunnel {
    host: String,
    _carrying: AbortOnDropHandle<()>,
}

impl Tunnel {
    pub(crate) async fn open(tls: &Tls, host: &str, port: u16, patience: Duration) -> Result<Self, Fault> {
        let connecting = tokio::time::timeout(patience, connect(tls, host, port));
        let server = connecting.await.map_err(|_| Fault::new("DATABASE_UNREACHABLE", "no answer in time"))??;
        Self::to(server, port)
    }

    fn to(mut server: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, port: u16) -> Result<Self, Fault> {
        let local = |error: std::io::Error| {
            Fault::new("DATABASE_UNREACHABLE", format!("no socket for the replication stream: {error}"))
        };
        let directory = tempfile::Builder::new()
            .prefix("cellway-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(local)?;
        let listener = UnixListener::bind(directory.path().join(format!(".s.PGSQL.{port}"))).map_err(local)?;
        let host = directory.path().display().to_string();
        let carrying = tokio::spawn(async move {
            let accepted = tokio::time::timeout(ACCEPT_MAX, listener.accept()).await;
            drop((listener, directory));
            let Ok(Ok((mut client, _))) = accepted else { return };
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
                tracing::debug!(%error, "a replication stream has ended");
            }
        });
        Ok(Self { host, _carrying: AbortOnDropHandle::new(carrying) })
    }

    /// Where a client of PostgreSQL finds it, as its host; the port is the server's.
    pub(crate) fn host(&self) -> String {
        self.host.clone()
    }
}

async fn connect(tls: &Tls, host: &str, port: u16) -> Result<TlsStream<TcpStream>, Fault> {
    let unreachable = |error: std::io::Error| Fault::new("DATABASE_UNREACHABLE", error.to_string());
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Fault::new("DATABASE_TLS", format!("{host} is no name that a certificate can have")))?;
    let mut stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    stream.write_all(&SSL_REQUEST).await.map_err(unreachable)?;
    if stream.read_u8().await.map_err(unreachable)? != b'S' {
        return Err(Fault::no_tls());
    }
    tls.plain_connector().connect(name, stream).await.map_err(|error| Fault::of_io(&error))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[tokio::test]
    async fn a_socket_is_gone_once_somebody_has_come_by_it_and_what_it_carries_goes_on() {
        let (mut server, far) = tokio::io::duplex(64);
        let tunnel = Tunnel::to(far, 5432).unwrap();
        let directory = tunnel.host();
        let mut client = tokio::net::UnixStream::connect(format!("{directory}/.s.PGSQL.5432")).await.unwrap();
        let mut heard = [0; 4];
        client.write_all(b"ping").await.unwrap();
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");
        assert!(!Path::new(&directory).exists(), "an agent that is killed now leaves nothing");
        server.write_all(b"pong").await.unwrap();
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"pong");
    }

    #[tokio::test]
    async fn a_socket_that_nobody_came_by_is_gone_with_its_tunnel() {
        let (_server, far) = tokio::io::duplex(64);
        let tunnel = Tunnel::to(far, 5432).unwrap();
        let directory = tunnel.host();
        assert!(Path::new(&directory).exists());
        drop(tunnel);
        let gone = async {
            while Path::new(&directory).exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("in time");
    }
}
