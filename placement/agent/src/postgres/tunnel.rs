//! TLS for the replication client, which has one of its own that is not ours: another library's cryptography, set for the
//! whole process, and other rules of whom to believe.
//!
//! ```text
//! replication client ──► a socket that only this user reaches, for one connection ──► TLS ──► server
//! ```
//! The server is reached, and believed, before the socket is there, so whoever connects to it has a server.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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
    directory: TempDir,
    _carrying: AbortOnDropHandle<()>,
}

impl Tunnel {
    pub(crate) async fn open(tls: &Tls, host: &str, port: u16, patience: Duration) -> Result<Self, Fault> {
        let connecting = tokio::time::timeout(patience, connect(tls, host, port));
        let mut server =
            connecting.await.map_err(|_| Fault::new("DATABASE_UNREACHABLE", "no answer in time"))??;
        let local = |error: std::io::Error| {
            Fault::new("DATABASE_UNREACHABLE", format!("no socket for the replication stream: {error}"))
        };
        let directory = tempfile::Builder::new()
            .prefix("cellway-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(local)?;
        let listener = UnixListener::bind(directory.path().join(format!(".s.PGSQL.{port}"))).map_err(local)?;
        let carrying = tokio::spawn(async move {
            let Ok(Ok((mut client, _))) = tokio::time::timeout(ACCEPT_MAX, listener.accept()).await else { return };
            drop(listener);
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
                tracing::debug!(%error, "a replication stream has ended");
            }
        });
        Ok(Self { directory, _carrying: AbortOnDropHandle::new(carrying) })
    }

    /// Where a client of PostgreSQL finds it, as its host; the port is the server's.
    pub(crate) fn host(&self) -> String {
        self.directory.path().display().to_string()
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
