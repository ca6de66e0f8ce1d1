//! TLS to the database: 1.3, by the same library as everywhere else in the house.
//!
//! | mode | hidden from others | whose certificate is believed |
//! |---|---|---|
//! | `require` | from whoever listens, not from whoever stands in between | anybody's |
//! | `verify-ca` | from both, but for others with a certificate of the same authority | any that the authority has signed |
//! | `verify-full` | from everybody | one that the authority has signed for the host's name or address |

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::TlsConnector;

use super::address::AddressInvalid;
use crate::pem;

/// How far the server is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Disable,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What an address names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) roots: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Tls {
    mode: Mode,
    client: Arc<ClientConfig>,
}

impl Tls {
    pub(crate) fn new(mode: Mode, files: &Files) -> Result<Self, AddressInvalid> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let failed = |error: &dyn std::fmt::Display| AddressInvalid::Rule(format!("TLS cannot be set up: {error}"));
        let verifier = match (mode, &files.roots) {
            (Mode::Disable | Mode::Require, _) => Verifier { authority: None, provider: Arc::clone(&provider) },
            (Mode::VerifyCa | Mode::VerifyFull, Some(path)) => {
                let roots =
                    pem::roots(path).map_err(|source| AddressInvalid::File { parameter: "sslrootcert", source })?;
                let authority = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
                let authority = Some((authority.build().map_err(|error| failed(&error))?, mode));
                Verifier { authority, provider: Arc::clone(&provider) }
            }
            (Mode::VerifyCa | Mode::VerifyFull, None) => {
                let reason = "sslmode verify-ca and verify-full need sslrootcert: the file with the certificate of \
                              the authority that has signed the server's";
                return Err(AddressInvalid::Rule(reason.into()));
            }
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let client = match (&files.certificate, &files.key) {
            // Files are of no use where no TLS is spoken, and need not be there.
            _ if mode == Mode::Disable => builder.with_no_client_auth(),
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let chain = pem::certificates(certificate)
                    .map_err(|source| AddressInvalid::File { parameter: "sslcert", source })?;
                let private =
                    pem::key(key).map_err(|source| AddressInvalid::File { parameter: "sslkey", source })?;
                builder.with_client_auth_cert(chain, private).map_err(|error| AddressInvalid::Pair {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    reason: error.to_string(),
                })?
            }
            _ => return Err(AddressInvalid::Rule("sslcert and sslkey belong together: name both".into())),
        };
        Ok(Self { mode, client: Arc::new(client) })
    }

    pub(crate) const fn is_on(&self) -> bool {
        !matches!(self.mode, Mode::Disable)
    }

    /// For tokio-postgres. Where no TLS is spoken, it is never asked.
    pub(crate) fn connector(&self) -> MakeRustlsConnect {
        MakeRustlsConnect::new(ClientConfig::clone(&self.client))
    }

    /// For a connection of our own.
    pub(crate) fn plain_connector(&self) -> TlsConnector {
        TlsConnector::from(Arc::clone(&self.client))
    }
}

/// Judges the server's certificate. That the server has its key is checked in every mode.
#[derive(Debug)]
struct Verifier {
    /// Nobody: any certificate will do.
    authority: Option<(Arc<WebPkiServerVerifier>, Mode)>,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some((authority, mode)) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        match authority.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is looked at last: everything else was in order.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if *mode == Mode::VerifyCa => Ok(ServerCertVerified::assertion()),
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What went wrong between the two of us, and what to do.
pub(crate) fn explained(error: &Error) -> String {
    let next = match error {
        // With the same name, and another key.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "sslrootcert names another authority than that which has signed the server's certificate"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "connect by a name that is in the server's certificate, or give the server one with this name",
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "renew the server's certificate"
        }
        Error::InvalidCertificate(CertificateError::Other(_)) => {
            "the server shows a certificate that is not one of a server: have an authority sign one for it, and name \
             the authority's in sslrootcert"
        }
        Error::InvalidCertificate(_) => {
            "give the server a certificate that the authority in sslrootcert has signed"
        }
        Error::AlertReceived(_) => {
            "the server does not want this agent's certificate, or wants one: sslcert and sslkey, and ssl_ca_file at \
             the server"
        }
        _ => "the server must speak TLS 1.3: ssl = on, ssl_max_protocol_version",
    };
    format!("{error}; {next}")
}
