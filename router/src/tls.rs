//! TLS on both sides: certificates for clients, chosen by the name that they ask for and read again when their files
//! change, and the router's own certificate towards gates. TLS 1.3 only.
//!
//! New certificates are read whole before they are used: where anything is wrong with them, the old ones stay and the log
//! names file and line.

mod files;
mod names;

use std::io;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cell_client::net::Connection;
use cell_model::TenantId;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::options::{CertificateFiles, TlsOptions, UpstreamTlsOptions};

pub use files::TlsError;
use names::Certificates;

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// TLS towards clients. Cheap to clone: all threads share it.
#[derive(Clone)]
pub(crate) struct TlsFront(Arc<ArcSwap<ServerConfig>>);

/// A finished handshake.
pub(crate) struct Accepted {
    pub(crate) stream: server::TlsStream<Connection>,
    pub(crate) http2: bool,
    /// The tenant that the client's certificate is for.
    pub(crate) certified: Option<TenantId>,
}

impl TlsFront {
    /// Reads everything that the options name.
    pub(crate) fn load(options: &TlsOptions) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(ArcSwap::new(Arc::new(server_config(options)?)))))
    }

    /// Reads it again. Where that fails, what was read before stays.
    pub(crate) fn reload(&self, options: &TlsOptions) -> Result<(), TlsError> {
        self.0.store(Arc::new(server_config(options)?));
        Ok(())
    }

    pub(crate) async fn accept(&self, stream: Connection) -> io::Result<Accepted> {
        let stream = TlsAcceptor::from(self.0.load_full()).accept(stream).await?;
        let (_, session) = stream.get_ref();
        let http2 = session.alpn_protocol() == Some(HTTP2);
        let certified = session.peer_certificates().and_then(|chain| names::tenant_of(chain.first()?));
        Ok(Accepted { stream, http2, certified })
    }
}

fn server_config(options: &TlsOptions) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    let certificates = Certificates::load(&options.certificates, &provider)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?;
    let builder = match &options.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(roots(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier =
                if options.client_certificate_required { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier
                .build()
                .map_err(|error| TlsError::Roots { path: path.clone(), reason: error.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    Ok(config)
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in files::certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Roots { path: path.to_owned(), reason: error.to_string() })?;
    }
    Ok(roots)
}

/// TLS to gates. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TlsBack(Arc<ArcSwap<Connectors>>);

struct Connectors {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl TlsBack {
    pub(crate) fn load(options: &UpstreamTlsOptions) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(ArcSwap::new(Arc::new(connectors(options)?)))))
    }

    pub(crate) fn reload(&self, options: &UpstreamTlsOptions) -> Result<(), TlsError> {
        self.0.store(Arc::new(connectors(options)?));
        Ok(())
    }

    /// `address` is `host:port`, as the connection was made to.
    pub(crate) async fn connect(
        &self,
        stream: Connection,
        address: &str,
        http2: bool,
    ) -> io::Result<client::TlsStream<Connection>> {
        let connectors = self.0.load_full();
        let name = match &connectors.server_name {
            Some(name) => name.clone(),
            None => host_name(address)?,
        };
        let config = if http2 { &connectors.http2 } else { &connectors.http1 };
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        if http2 && stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(io::Error::other("the gate does not speak HTTP/2 over TLS"));
        }
        Ok(stream)
    }
}

fn host_name(address: &str) -> io::Result<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

fn connectors(options: &UpstreamTlsOptions) -> Result<Connectors, TlsError> {
    let server_name = match &options.server_name {
        None => None,
        Some(name) => {
            Some(ServerName::try_from(name.clone()).map_err(|_| TlsError::ServerName { name: name.clone() })?)
        }
    };
    let with_alpn = |protocol: &[u8]| {
        let mut config = client_config(&options.ca_file, options.certificate.as_ref())?;
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok::<_, TlsError>(Arc::new(config))
    };
    Ok(Connectors { http1: with_alpn(HTTP1)?, http2: with_alpn(HTTP2)?, server_name })
}

/// For those who connect: whom they trust, and who they are.
pub(crate) fn client_config(ca_file: &Path, own: Option<&CertificateFiles>) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .with_root_certificates(roots(ca_file)?);
    match own {
        None => Ok(builder.with_no_client_auth()),
        Some(own) => builder
            .with_client_auth_cert(files::certificates(&own.certificate_file)?, files::key(&own.key_file)?)
            .map_err(|error| TlsError::Pair {
                certificate: own.certificate_file.clone(),
                key: own.key_file.clone(),
                reason: error.to_string(),
            }),
    }
}

/// Looks at the files of both sides until `shutdown`, and reads them again where one has changed.
pub(crate) async fn watch(
    front: Option<(TlsFront, TlsOptions)>,
    back: Option<(TlsBack, UpstreamTlsOptions)>,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let interval =
        front.as_ref().map_or(std::time::Duration::from_secs(10), |(_, options)| options.reload_interval);
    let paths = files::named(front.as_ref().map(|(_, o)| o), back.as_ref().map(|(_, o)| o));
    let mut seen = files::states(&paths);
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = shutdown.cancelled() => return,
        }
        let now = files::states(&paths);
        if now == seen {
            continue;
        }
        let reloaded = front
            .as_ref()
            .map_or(Ok(()), |(front, options)| front.reload(options))
            .and_then(|()| back.as_ref().map_or(Ok(()), |(back, options)| back.reload(options)));
        match reloaded {
            Ok(()) => tracing::info!("certificates were read again"),
            Err(error) => {
                metrics.tls_reload_failures.inc();
                tracing::error!(code = "CERTIFICATE_INVALID", %error, "new certificates are not used: the old ones stay");
            }
        }
        seen = now;
    }
}
