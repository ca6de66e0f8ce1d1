//! Who this process is, to others: a certificate, its key, and the authority whose certificates it believes.
//!
//! ```text
//! DIR/ca.crt    certificates of the authority, PEM; several while it is exchanged
//! DIR/tls.crt   this process's certificate: spiffe://cellway/<role>/<name> as a URI, and, for servers, the DNS name that
//!               callers ask for: control.cellway or agent.cellway
//! DIR/tls.key   its key, readable by its owner only
//! ```
//!
//! Callers check the *role* of a server by its DNS name, not where it runs: addresses come from the control plane, and a
//! certificate does not have to be made anew because a cell got another port.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cell_trust::{InvalidPrincipal, Principal, Role};
use tonic::transport::{Certificate, ClientTlsConfig, Identity as PemIdentity, ServerTlsConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::pem::Pem;

/// A file above this is certainly something else.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// Names of the files, as certificate managers write them.
pub mod file {
    /// Certificates of the authority.
    pub const AUTHORITY: &str = "ca.crt";
    /// The process's own certificate.
    pub const CERTIFICATE: &str = "tls.crt";
    /// Its key.
    pub const KEY: &str = "tls.key";
}

/// What kind of server is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// A control node.
    Control,
    /// A cell's agent.
    Agent,
}

impl Server {
    /// The name that stands in its certificate.
    #[must_use]
    pub const fn dns_name(self) -> &'static str {
        match self {
            Self::Control => "control.cellway",
            Self::Agent => "agent.cellway",
        }
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{} is not what it should be: {reason}", path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Others than its owner may read the key.
    #[error("key {} may be read by others than its owner (mode {mode:o})", path.display())]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It has run out, or is not valid yet.
    #[error("certificate {} is valid from {from} to {to} (seconds since 1970), which is not now", path.display())]
    NotValidNow {
        /// Which.
        path: PathBuf,
        /// From when.
        from: i64,
        /// Until when.
        to: i64,
    },
    /// Nobody has said who this process is.
    #[error("it is not said who this process is")]
    NotNamed,
    /// A server in plaintext that others could call.
    #[error("in plaintext nothing may be offered at {address}, where others can call it")]
    PlaintextBeyondLoopback {
        /// Where.
        address: std::net::IpAddr,
    },
    /// The certificate is of another role than this process needs.
    #[error("the certificate names {found}, and role {wanted} is wanted here")]
    OtherRole {
        /// Whose it is.
        found: Principal,
        /// What is needed.
        wanted: Role,
    },
    /// The certificate names nobody that this house knows.
    #[error("certificate {} names nobody", path.display())]
    Nobody {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: NoPrincipal,
    },
}

impl IdentityError {
    /// Stable code, with a row in `docs/errors`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "IDENTITY_UNREADABLE",
            Self::Invalid { .. } | Self::Nobody { .. } => "IDENTITY_INVALID",
            Self::Exposed { .. } => "IDENTITY_EXPOSED",
            Self::NotValidNow { .. } => "IDENTITY_NOT_VALID",
            Self::NotNamed => "IDENTITY_REQUIRED",
            Self::PlaintextBeyondLoopback { .. } => "PLAINTEXT_REFUSED",
            Self::OtherRole { .. } => "IDENTITY_OTHER_ROLE",
        }
    }

    /// What the operator may do next.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Exposed { path, .. } => format!("chmod 600 {}", path.display()),
            Self::Unreadable { .. } => {
                "name a directory with ca.crt, tls.crt and tls.key: `cellctl ca issue` makes one".into()
            }
            Self::NotValidNow { .. } => "check the clock, or issue it anew: `cellctl ca issue`".into(),
            Self::NotNamed => {
                "name the directory of a certificate with --identity DIR (`cellctl ca issue` makes one); \
                               --insecure-plaintext only for trying things out on one machine"
                    .into()
            }
            Self::PlaintextBeyondLoopback { .. } => {
                "listen on 127.0.0.1, or name a certificate with --identity DIR".into()
            }
            Self::OtherRole { wanted, .. } => format!("issue one: `cellctl ca issue {wanted} NAME`"),
            Self::Invalid { .. } | Self::Nobody { .. } => "issue it anew: `cellctl ca issue`".into(),
        }
    }
}

/// Why a certificate names no principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPrincipal {
    /// Its bytes are no certificate.
    #[error("it is no X.509 certificate")]
    NotParsed,
    /// No URI, or more than one.
    #[error("it has {0} URIs, and exactly one is wanted")]
    Uris(usize),
    /// The URI is not one of ours.
    #[error(transparent)]
    Uri(#[from] InvalidPrincipal),
}

/// The principal that a certificate names.
///
/// # Errors
/// [`NoPrincipal`]
pub fn principal_of(der: &[u8]) -> Result<Principal, NoPrincipal> {
    let (_, certificate) = parse_x509_certificate(der).map_err(|_| NoPrincipal::NotParsed)?;
    let names = certificate.subject_alternative_name().map_err(|_| NoPrincipal::NotParsed)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [uri] => Ok(Principal::of_uri(uri)?),
        _ => Err(NoPrincipal::Uris(uris.len())),
    }
}

struct Parts {
    authority: String,
    certificate: String,
    key: String,
    principal: Principal,
    not_after: SystemTime,
}

/// Who this process is. Cheap to clone. Its `Debug` shows only the name.
#[derive(Clone)]
pub struct Identity(Arc<Parts>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.0.principal)
    }
}

impl Identity {
    /// Reads `ca.crt`, `tls.crt` and `tls.key` of a directory.
    ///
    /// # Errors
    /// [`IdentityError`] where one is missing, is something else, may be read by others or is not valid now.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let authority_path = directory.join(file::AUTHORITY);
        let authority = read(&authority_path)?;
        let certificates = certificates(&authority_path, &authority)?;
        if certificates.is_empty() {
            return Err(IdentityError::Invalid { path: authority_path, reason: "it holds no certificate".into() });
        }
        let path = directory.join(file::CERTIFICATE);
        let certificate = read(&path)?;
        let chain = self::certificates(&path, &certificate)?;
        let leaf = chain.first().ok_or_else(|| IdentityError::Invalid {
            path: path.clone(),
            reason: "it holds no certificate".into(),
        })?;
        // Without its authority it is believed by nobody.
        let not_after = check_validity(&path, leaf)?.min(last_of(&authority_path, &certificates)?);
        let principal = principal_of(leaf).map_err(|source| IdentityError::Nobody { path, source })?;
        let key_path = directory.join(file::KEY);
        check_private(&key_path)?;
        let key = read(&key_path)?;
        if !key.contains("PRIVATE KEY") {
            return Err(IdentityError::Invalid { path: key_path, reason: "it holds no private key".into() });
        }
        Ok(Self(Arc::new(Parts { authority, certificate, key, principal, not_after })))
    }

    /// Who it is.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.0.principal
    }

    /// When its certificate runs out, or its authority's, whichever is first.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.0.not_after
    }

    /// Refuses an identity of another role.
    ///
    /// # Errors
    /// [`IdentityError::OtherRole`]
    pub fn require(&self, wanted: Role) -> Result<(), IdentityError> {
        if self.0.principal.role() == wanted {
            return Ok(());
        }
        Err(IdentityError::OtherRole { found: self.0.principal.clone(), wanted })
    }

    fn pem(&self) -> PemIdentity {
        PemIdentity::from_pem(&self.0.certificate, &self.0.key)
    }

    /// How this process calls a server of this kind.
    #[must_use]
    pub fn calls(&self, server: Server) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.0.authority))
            .identity(self.pem())
            .domain_name(server.dns_name())
            .timeout(HANDSHAKE)
    }

    /// How this process is called: nobody without a certificate of the authority comes in.
    #[must_use]
    pub fn serves(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.pem())
            .client_ca_root(Certificate::from_pem(&self.0.authority))
            .timeout(HANDSHAKE)
    }
}

fn read(path: &Path) -> Result<String, IdentityError> {
    use std::io::Read;
    let unreadable = |source| IdentityError::Unreadable { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn certificates(path: &Path, text: &str) -> Result<Vec<Vec<u8>>, IdentityError> {
    let invalid = |reason: String| IdentityError::Invalid { path: path.to_owned(), reason };
    let mut found = Vec::new();
    for block in Pem::iter_from_buffer(text.as_bytes()) {
        let block = block.map_err(|error| invalid(error.to_string()))?;
        if block.label == "CERTIFICATE" {
            parse_x509_certificate(&block.contents).map_err(|error| invalid(error.to_string()))?;
            found.push(block.contents);
        }
    }
    Ok(found)
}

/// When the last of a file's certificates runs out.
///
/// # Errors
/// [`IdentityError`] where it holds none.
pub fn runs_out(path: &Path) -> Result<SystemTime, IdentityError> {
    last_of(path, &certificates(path, &read(path)?)?)
}

fn last_of(path: &Path, certificates: &[Vec<u8>]) -> Result<SystemTime, IdentityError> {
    let mut last = UNIX_EPOCH;
    for der in certificates {
        let (_, to) = validity(path, der)?;
        last = last.max(UNIX_EPOCH + Duration::from_secs(u64::try_from(to).unwrap_or_default()));
    }
    Ok(last)
}

/// From when until when, in seconds since 1970.
fn validity(path: &Path, der: &[u8]) -> Result<(i64, i64), IdentityError> {
    let invalid = |error: x509_parser::nom::Err<x509_parser::error::X509Error>| IdentityError::Invalid {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let (_, certificate) = parse_x509_certificate(der).map_err(invalid)?;
    let validity = certificate.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

fn check_validity(path: &Path, der: &[u8]) -> Result<SystemTime, IdentityError> {
    let (from, to) = validity(path, der)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    if !(from..=to).contains(&now) {
        return Err(IdentityError::NotValidNow { path: path.to_owned(), from, to });
    }
    Ok(UNIX_EPOCH + Duration::from_secs(u64::try_from(to).unwrap_or_default()))
}

fn check_private(path: &Path) -> Result<(), IdentityError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let metadata = std::fs::metadata(path);
        let metadata = metadata.map_err(|source| IdentityError::Unreadable { path: path.to_owned(), source })?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { path: path.to_owned(), mode });
        }
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
