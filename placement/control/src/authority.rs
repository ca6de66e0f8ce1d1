//! The development authority: makes the certificates of a fleet that has no authority of its own.
//!
//! ```text
//! DIR/ca.crt, DIR/ca.key      the authority
//! OUT/ca.crt, tls.crt, tls.key    what one process is given; see cell_client::identity
//! ```
//!
//! In production another authority may issue the same: a URI `spiffe://cellway/<role>/<name>`, for servers the DNS name of
//! their kind, and both uses of a key.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cell_client::identity::{file, runs_out};
use cell_client::{IdentityError, Server};
use cell_trust::{Principal, Role};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};

/// The authority's key, beside its certificate.
const AUTHORITY_KEY: &str = "ca.key";
/// For how long the authority itself is valid.
const AUTHORITY_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);
/// Clocks of machines differ.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is one already, and it is not overwritten.
    #[error("{} exists already and is not overwritten", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Unwritable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It would be valid for longer than what it is issued by.
    #[error("the authority runs out in {} days, before the certificate would", left.as_secs() / 86_400)]
    Outlives {
        /// For how long the authority is valid.
        left: Duration,
    },
    /// The authority's certificate cannot be read.
    #[error("the authority's certificate cannot be used")]
    Certificate(#[source] IdentityError),
    /// The authority's files are something else.
    #[error("{} holds no authority", path.display())]
    Invalid {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rcgen::Error,
    },
}

impl AuthorityError {
    /// Stable code, with a row in `docs/errors`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "CERTIFICATE_EXISTS",
            Self::Unreadable { .. } | Self::Invalid { .. } | Self::Certificate(_) => "AUTHORITY_UNREADABLE",
            Self::Outlives { .. } => "CERTIFICATE_OUTLIVES_AUTHORITY",
            Self::Unwritable { .. } => "CERTIFICATE_UNWRITABLE",
        }
    }

    /// What the operator may do next.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "use what is there, or name another directory",
            Self::Unreadable { .. } | Self::Invalid { .. } | Self::Certificate(_) => {
                "`cellctl ca init --dir DIR` makes an authority"
            }
            Self::Outlives { .. } => {
                "issue it for a shorter time (--valid), or by a new authority: see docs/security.md"
            }
            Self::Unwritable { .. } => "check that the directory may be written",
        }
    }
}

/// An authority.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    runs_out: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let unwritable = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => AuthorityError::Exists { path: path.to_owned() },
        _ => AuthorityError::Unwritable { path: path.to_owned(), source },
    };
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(path).map_err(unwritable)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(unwritable)
}

fn make(directory: &Path) -> Result<(), AuthorityError> {
    std::fs::create_dir_all(directory)
        .map_err(|source| AuthorityError::Unwritable { path: directory.to_owned(), source })
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    std::fs::read_to_string(path).map_err(|source| AuthorityError::Unreadable { path: path.to_owned(), source })
}

fn validity(params: &mut CertificateParams, valid: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + now + valid;
}

impl Authority {
    /// Makes an authority in a directory.
    ///
    /// # Errors
    /// [`AuthorityError`], also where there is one already.
    pub fn create(directory: &Path) -> Result<Self, AuthorityError> {
        make(directory)?;
        let invalid = |source| AuthorityError::Invalid { path: directory.to_owned(), source };
        let key = KeyPair::generate().map_err(invalid)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(invalid)?;
        params.distinguished_name.push(DnType::CommonName, "Cellway development authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, AUTHORITY_VALID);
        let certificate = params.self_signed(&key).map_err(invalid)?;
        write_new(&directory.join(AUTHORITY_KEY), &key.serialize_pem(), 0o600)?;
        write_new(&directory.join(file::AUTHORITY), &certificate.pem(), 0o644)?;
        Self::open(directory)
    }

    /// The authority of a directory.
    ///
    /// # Errors
    /// [`AuthorityError`] where there is none.
    pub fn open(directory: &Path) -> Result<Self, AuthorityError> {
        let invalid = |source| AuthorityError::Invalid { path: directory.to_owned(), source };
        let certificate = read(&directory.join(file::AUTHORITY))?;
        let key = KeyPair::from_pem(&read(&directory.join(AUTHORITY_KEY))?).map_err(invalid)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(invalid)?;
        let runs_out = runs_out(&directory.join(file::AUTHORITY)).map_err(AuthorityError::Certificate)?;
        Ok(Self { certificate, runs_out, issuer })
    }

    /// The authority of a directory, made where there is none.
    ///
    /// # Errors
    /// [`AuthorityError`]
    pub fn open_or_create(directory: &Path) -> Result<Self, AuthorityError> {
        if directory.join(AUTHORITY_KEY).exists() { Self::open(directory) } else { Self::create(directory) }
    }

    /// Makes a certificate and its key in a directory.
    ///
    /// # Errors
    /// [`AuthorityError`], also where there are some already, or the authority would run out first.
    pub fn issue(&self, principal: &Principal, valid: Duration, out: &Path) -> Result<(), AuthorityError> {
        let left = self.runs_out.duration_since(SystemTime::now()).unwrap_or_default();
        if valid > left {
            return Err(AuthorityError::Outlives { left });
        }
        make(out)?;
        let invalid = |source| AuthorityError::Invalid { path: out.to_owned(), source };
        let mut params = CertificateParams::new(Vec::new()).map_err(invalid)?;
        params.distinguished_name.push(DnType::CommonName, principal.to_string());
        params.subject_alt_names.push(SanType::URI(principal.uri().try_into().map_err(invalid)?));
        let server = match principal.role() {
            Role::Control => Some(Server::Control),
            Role::Agent => Some(Server::Agent),
            Role::Viewer | Role::Operator | Role::Admin | Role::Router => None,
        };
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        if let Some(server) = server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            params.subject_alt_names.push(SanType::DnsName(server.dns_name().try_into().map_err(invalid)?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        validity(&mut params, valid);
        let key = KeyPair::generate().map_err(invalid)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(invalid)?;
        write_new(&out.join(file::KEY), &key.serialize_pem(), 0o600)?;
        write_new(&out.join(file::CERTIFICATE), &certificate.pem(), 0o644)?;
        write_new(&out.join(file::AUTHORITY), &self.certificate, 0o644)
    }

    /// As [`Authority::issue`] where the directory has no certificate yet; what is there is left as it is.
    ///
    /// # Errors
    /// [`AuthorityError`]
    pub fn issue_once(&self, principal: &Principal, valid: Duration, out: &Path) -> Result<(), AuthorityError> {
        if out.join(file::AUTHORITY).exists() { Ok(()) } else { self.issue(principal, valid, out) }
    }
}

#[cfg(test)]
mod tests {
    use cell_client::Identity;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn principal(text: &str) -> Principal {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_issued_names_who_it_was_issued_to_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca")).unwrap();
        assert_eq!(Authority::create(&dir.path().join("ca")).unwrap_err().code(), "CERTIFICATE_EXISTS");
        let out = dir.path().join("alice");
        authority.issue(&principal("operator/alice"), DAY, &out).unwrap();
        let identity = Identity::load(&out).unwrap();
        assert_eq!(identity.principal(), &principal("operator/alice"));
        let left = identity.not_after().duration_since(SystemTime::now()).unwrap();
        assert!(left > DAY / 2 && left <= DAY, "{left:?}");
        let refused = authority.issue(&principal("operator/methuselah"), DAY * 20_000, &out).unwrap_err();
        assert_eq!(refused.code(), "CERTIFICATE_OUTLIVES_AUTHORITY", "{refused}");
        assert!(
            refused.to_string().contains("3649 days") || refused.to_string().contains("3650 days"),
            "{refused}"
        );
        assert_eq!(authority.issue(&principal("admin/alice"), DAY, &out).unwrap_err().code(), "CERTIFICATE_EXISTS");
        assert_eq!(Identity::load(&out).unwrap().principal(), &principal("operator/alice"));
        assert_eq!(identity.require(Role::Control).unwrap_err().code(), "IDENTITY_OTHER_ROLE");
        assert!(!format!("{identity:?}").contains("PRIVATE"), "{identity:?}");
    }

    #[test]
    fn an_identity_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Authority::open(dir.path()).unwrap_err().code(), "AUTHORITY_UNREADABLE");
        let authority = Authority::create(dir.path()).unwrap();
        let issue = |name: &str| {
            let out = dir.path().join(name);
            authority.issue(&principal(&format!("viewer/{name}")), DAY, &out).unwrap();
            out
        };
        let code = |out: &Path| Identity::load(out).unwrap_err().code();
        let missing = issue("missing");
        std::fs::remove_file(missing.join(file::CERTIFICATE)).unwrap();
        assert_eq!(code(&missing), "IDENTITY_UNREADABLE");
        let nonsense = issue("nonsense");
        std::fs::write(nonsense.join(file::CERTIFICATE), "nonsense").unwrap();
        assert_eq!(code(&nonsense), "IDENTITY_INVALID");
        let cut = issue("cut");
        let text = std::fs::read_to_string(cut.join(file::CERTIFICATE)).unwrap();
        std::fs::write(cut.join(file::CERTIFICATE), &text[..text.len() / 2]).unwrap();
        assert_eq!(code(&cut), "IDENTITY_INVALID");
        let authority_as_leaf = issue("leaf");
        let authority_text = std::fs::read(dir.path().join(file::AUTHORITY)).unwrap();
        std::fs::write(authority_as_leaf.join(file::CERTIFICATE), authority_text).unwrap();
        assert_eq!(code(&authority_as_leaf), "IDENTITY_INVALID");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let exposed = issue("exposed");
            std::fs::set_permissions(exposed.join(file::KEY), std::fs::Permissions::from_mode(0o644)).unwrap();
            assert_eq!(code(&exposed), "IDENTITY_EXPOSED");
        }
        let old = dir.path().join("old");
        authority.issue(&principal("viewer/old"), Duration::ZERO, &old).unwrap();
        let began = SystemTime::now();
        while Identity::load(&old).is_ok() {
            assert!(began.elapsed().unwrap() < Duration::from_secs(5), "it never runs out");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(code(&old), "IDENTITY_NOT_VALID");
    }
}
