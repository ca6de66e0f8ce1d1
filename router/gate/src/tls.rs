//! TLS towards routers (1.3), with a certificate asked of them: only those whom the named authority vouches for get as far
//! as a request.
//!
//! The files are looked at again when a connection comes, at most every ten seconds. Broken ones change nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::gate::GateError;

const LOOK_EVERY: Duration = Duration::from_secs(10);

/// TLS towards routers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GateTls {
    /// The gate's certificate chain (PEM).
    pub certificate_file: PathBuf,
    /// Its private key (PEM).
    pub key_file: PathBuf,
    /// Whose certificates routers have (PEM).
    pub router_ca_file: PathBuf,
}

/// Certificates in use.
pub(crate) struct Tls {
    options: GateTls,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    states: Vec<Option<(SystemTime, u64)>>,
    looked: Instant,
}

impl Tls {
    pub(crate) fn load(options: GateTls) -> Result<Self, GateError> {
        let current = Current { states: states(&options), acceptor: acceptor(&options)?, looked: Instant::now() };
        Ok(Self { options, current: Mutex::new(current) })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK_EVERY {
            current.looked = Instant::now();
            self.look(&mut current);
        }
        current.acceptor.clone()
    }

    fn look(&self, current: &mut Current) {
        let now = states(&self.options);
        if now == current.states {
            return;
        }
        current.states = now;
        match acceptor(&self.options) {
            Ok(acceptor) => {
                current.acceptor = acceptor;
                tracing::info!("certificates were read again");
            }
            Err(error) => {
                tracing::error!(code = error.code(), %error, "new certificates are not used: the old ones stay")
            }
        }
    }
}

/// By what a change of a file is seen.
fn states(options: &GateTls) -> Vec<Option<(SystemTime, u64)>> {
    let state = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    [&options.certificate_file, &options.key_file, &options.router_ca_file].into_iter().map(state).collect()
}

fn acceptor(options: &GateTls) -> Result<TlsAcceptor, GateError> {
    let broken = |path: &Path, reason: String| GateError::Certificate { path: path.to_owned(), reason };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&options.router_ca_file)? {
        roots.add(certificate).map_err(|error| broken(&options.router_ca_file, error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| broken(&options.router_ca_file, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&options.key_file)
        .map_err(|error| broken(&options.key_file, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| broken(&options.certificate_file, error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&options.certificate_file)?, key)
        .map_err(|error| broken(&options.certificate_file, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// All certificates of a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, GateError> {
    let broken = |reason: String| GateError::Certificate { path: path.to_owned(), reason };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| broken(error.to_string()))?;
    if found.is_empty() { Err(broken("there is no certificate in it".into())) } else { Ok(found) }
}
