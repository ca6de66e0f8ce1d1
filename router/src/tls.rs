//! TLS on both sides: certificates for clients, chosen by the name that they ask for and read again when their files
//! change, and the router's own certificate towards gates. TLS 1.3 only.
//!
//! New certificates are read whole before they are used: where anything is wrong with them, the old ones stay and the log
//! names file and line.

mod files;
mod gate;
mod names;
pub(crate) mod worries;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use cell_client::net::Connection;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_util::sync::CancellationToken;

use crate::identify::Proven;
use crate::metrics::Metrics;
use crate::options::{CertificateFiles, TlsOptions, UpstreamTlsOptions};

pub use files::TlsError;
pub(crate) use gate::GateTls;
use names::Certificates;

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// TLS towards clients. Cheap to clone: all threads share it.
#[derive(Clone)]
pub(crate) struct TlsFront(Arc<ArcSwap<Shown>>);

/// What clients are shown, and by what theirs are judged.
struct Shown {
    certificates: Arc<Certificates>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    config: Arc<ServerConfig>,
}

/// A finished handshake.
pub(crate) struct Accepted {
    pub(crate) stream: server::TlsStream<Connection>,
    pub(crate) http2: bool,
    /// The tenant that the client's certificate is for.
    pub(crate) certified: Proven,
}

impl TlsFront {
    /// Reads everything that the options name.
    pub(crate) fn load(options: &TlsOptions) -> Result<Self, TlsError> {
        let certificates = Certificates::load(&options.certificates, &provider())?;
        let shown = shown(Arc::new(certificates), verifier(options)?)?;
        Ok(Self(Arc::new(ArcSwap::new(Arc::new(shown)))))
    }

    /// Reads it again. What cannot be used stays as it was, and is answered.
    pub(crate) fn reload(&self, options: &TlsOptions) -> Vec<TlsError> {
        let before = self.0.load_full();
        let (certificates, mut errors) = before.certificates.again(&options.certificates, &provider());
        let verifier = verifier(options).unwrap_or_else(|error| {
            errors.push(error);
            before.verifier.clone()
        });
        match shown(Arc::new(certificates), verifier) {
            Ok(shown) => self.0.store(Arc::new(shown)),
            Err(error) => errors.push(error),
        }
        errors
    }

    pub(crate) async fn accept(&self, stream: Connection) -> io::Result<Accepted> {
        let stream = TlsAcceptor::from(Arc::clone(&self.0.load().config)).accept(stream).await?;
        let (_, session) = stream.get_ref();
        let http2 = session.alpn_protocol() == Some(HTTP2);
        let certified =
            session.peer_certificates().and_then(|chain| chain.first()).map_or(Proven::Nobody, names::tenant_of);
        Ok(Accepted { stream, http2, certified })
    }
}

/// None: clients are not asked for a certificate.
fn verifier(options: &TlsOptions) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let Some(path) = &options.client_ca_file else { return Ok(None) };
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider());
    let verifier = if options.client_certificate_required { verifier } else { verifier.allow_unauthenticated() };
    let broken = |reason: String| TlsError::Roots { path: path.clone(), reason };
    verifier.build().map(Some).map_err(|error| broken(error.to_string()))
}

fn shown(
    certificates: Arc<Certificates>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Shown, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?;
    let builder = match verifier.clone() {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let resolver: Arc<dyn ResolvesServerCert> = Arc::<Certificates>::clone(&certificates);
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    Ok(Shown { certificates, verifier, config: Arc::new(config) })
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
    /// By what gates are judged, for whoever is told that one has not passed.
    ca_file: PathBuf,
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
    ) -> Result<client::TlsStream<Connection>, GateTls> {
        let connectors = self.0.load_full();
        let name = match &connectors.server_name {
            Some(name) => name.clone(),
            None => host_name(address)?,
        };
        let config = if http2 { &connectors.http2 } else { &connectors.http1 };
        let connected = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
        let stream = connected.map_err(|error| GateTls::of(&error, &connectors.ca_file))?;
        if http2 && stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(GateTls::other("it does not speak HTTP/2 over TLS (ALPN)"));
        }
        Ok(stream)
    }
}

fn host_name(address: &str) -> Result<ServerName<'static>, GateTls> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned())
        .map_err(|_| GateTls::other(format!("its address names no host that a certificate could be for: {host:?}")))
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
    let (http1, http2) = (with_alpn(HTTP1)?, with_alpn(HTTP2)?);
    Ok(Connectors { http1, http2, server_name, ca_file: options.ca_file.clone() })
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

/// Looks at the files of both sides until `shutdown`, and reads them again where one has changed, and for as long as
/// something is wrong with one.
pub(crate) async fn watch(
    front: Option<(TlsFront, TlsOptions)>,
    back: Option<(TlsBack, UpstreamTlsOptions)>,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let interval =
        front.as_ref().map_or(std::time::Duration::from_secs(10), |(_, options)| options.reload_interval);
    let mut said: Vec<String> = Vec::new();
    let paths = files::named(front.as_ref().map(|(_, o)| o), back.as_ref().map(|(_, o)| o));
    let mut seen = files::states(&paths);
    let worry = || {
        for error in worries::all(front.as_ref().map(|(_, o)| o), back.as_ref().map(|(_, o)| o)) {
            tracing::warn!(code = "CERTIFICATE_INVALID", %error, "a certificate or key is used all the same");
        }
    };
    worry();
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = shutdown.cancelled() => return,
        }
        let now = files::states(&paths);
        if now == seen && said.is_empty() {
            continue;
        }
        seen = now;
        let mut errors = front.as_ref().map_or_else(Vec::new, |(front, options)| front.reload(options));
        errors.extend(back.as_ref().and_then(|(back, options)| back.reload(options).err()));
        metrics.tls_reload_failures.inc_by(errors.len() as u64);
        let now_said: Vec<String> = errors.iter().map(TlsError::to_string).collect();
        if errors.is_empty() {
            tracing::info!("certificates were read again");
            worry();
        } else if now_said != said {
            for error in &now_said {
                tracing::error!(code = "CERTIFICATE_INVALID", %error, "a new certificate is not used: the old one stays");
            }
        }
        said = now_said;
    }
}
