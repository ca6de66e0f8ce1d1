//! Where the issuer's keys come from: a file, or one GET.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::JwkSet;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::{TlsError, client_config};

const DEADLINE: Duration = Duration::from_secs(5);
const BYTES_MAX: usize = 1 << 20;

/// A place that has the keys.
pub(super) enum Origin {
    File(PathBuf),
    Http(Uri),
    Https(Uri, Arc<ClientConfig>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Http(uri) | Self::Https(uri, _) => uri.fmt(f),
        }
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("cannot read the file: {0}")]
    Read(std::io::Error),
    #[error("the address has no host")]
    Host,
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Slow,
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("{0}")]
    Http(hyper::Error),
    #[error("the answer is {0}")]
    Status(http::StatusCode),
    #[error("the answer breaks off or is longer than {BYTES_MAX} bytes")]
    Body,
    #[error("it is not a set of keys: {0}")]
    Parse(serde_json::Error),
}

impl Origin {
    pub(super) fn new(jwks: &str, ca_file: Option<&PathBuf>) -> Result<Self, TlsError> {
        let address = |scheme: &str| jwks.starts_with(scheme).then(|| jwks.parse::<Uri>().ok()).flatten();
        if let Some(uri) = address("http://") {
            return Ok(Self::Http(uri));
        }
        match (address("https://"), ca_file) {
            (Some(uri), Some(ca_file)) => {
                let mut config = client_config(ca_file, None)?;
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                Ok(Self::Https(uri, Arc::new(config)))
            }
            _ => Ok(Self::File(jwks.into())),
        }
    }

    /// The file, where it is one.
    pub(super) fn file(&self) -> Option<&Path> {
        if let Self::File(path) = self { Some(path) } else { None }
    }

    pub(super) async fn fetch(&self) -> Result<JwkSet, FetchError> {
        let bytes = tokio::time::timeout(DEADLINE, self.bytes()).await.map_err(|_| FetchError::Slow)??;
        serde_json::from_slice(&bytes).map_err(FetchError::Parse)
    }

    async fn bytes(&self) -> Result<Bytes, FetchError> {
        let (uri, tls) = match self {
            Self::File(path) => return tokio::fs::read(path).await.map(Bytes::from).map_err(FetchError::Read),
            Self::Http(uri) => (uri, None),
            Self::Https(uri, config) => (uri, Some(config)),
        };
        let host = uri.host().ok_or(FetchError::Host)?;
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let address = (host.trim_start_matches('[').trim_end_matches(']'), port);
        let stream = TcpStream::connect(address).await.map_err(FetchError::Connect)?;
        match tls {
            None => get(stream, uri).await,
            Some(config) => {
                let name = ServerName::try_from(address.0.to_owned()).map_err(|_| FetchError::Host)?;
                let connector = TlsConnector::from(Arc::clone(config));
                get(connector.connect(name, stream).await.map_err(FetchError::Connect)?, uri).await
            }
        }
    }
}

async fn get(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, uri: &Uri) -> Result<Bytes, FetchError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    let connection = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let authority = uri.authority().ok_or(FetchError::Host)?;
    let request = Request::get(path)
        .header(http::header::HOST, authority.as_str())
        .header(http::header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Host)?;
    let response = sender.send_request(request).await.map_err(FetchError::Http)?;
    if !response.status().is_success() {
        return Err(FetchError::Status(response.status()));
    }
    let body = Limited::new(response.into_body(), BYTES_MAX).collect().await.map_err(|_| FetchError::Body)?;
    connection.abort();
    Ok(body.to_bytes())
}
