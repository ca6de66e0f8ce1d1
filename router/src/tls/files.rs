//! Certificates and keys on disk, and what is said where they cannot be used.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::options::{CertificateFiles, TlsOptions, UpstreamTlsOptions};

/// Why TLS cannot be set up with what the options name.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not PEM.
    #[error("{}, line {line}: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A file has nothing of what it should have.
    #[error("{}: there is no {wanted} in it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What it should have.
        wanted: &'static str,
    },
    /// A certificate has run out, or is not valid yet.
    #[error(
        "{}, line {line}: this certificate is valid from {} to {}, which is not now",
        path.display(), humantime::format_rfc3339_seconds(*from), humantime::format_rfc3339_seconds(*to)
    )]
    NotValidNow {
        /// The file.
        path: PathBuf,
        /// The line on which it begins, from 1.
        line: usize,
        /// From when.
        from: SystemTime,
        /// Until when.
        to: SystemTime,
    },
    /// Anybody may read a key.
    #[error("key {} may be read by anybody on this machine (mode {mode:o}): chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A certificate and a key do not fit.
    #[error("{} and {}: {reason}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        reason: String,
    },
    /// Certificates of an authority cannot be used.
    #[error("{}: {reason}", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A name that no server can have.
    #[error("upstream.tls.server-name: {name:?} is not a host name")]
    ServerName {
        /// The name.
        name: String,
    },
    /// Nothing is named.
    #[error("tls.certificates: at least one certificate is needed")]
    None,
    /// The library refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// All certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| broken(path, &text, &error))?;
    if found.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), wanted: "certificate" });
    }
    Ok(found)
}

/// The lines on which certificates begin.
pub(super) fn beginnings(path: &Path) -> Vec<usize> {
    let text = read(path).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    lines.filter(|(_, line)| line.starts_with(b"-----BEGIN CERTIFICATE")).map(|(at, _)| at + 1).collect()
}

/// The first private key of a file.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(TlsError::Empty { path: path.to_owned(), wanted: "private key" }),
        Err(error) => Err(broken(path, &text, &error)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn broken(path: &Path, text: &[u8], error: &pem::Error) -> TlsError {
    TlsError::Pem { path: path.to_owned(), line: line_of(text), reason: error.to_string() }
}

/// The line at which a PEM file stops to be one: the first within a section that is not base64, or the section's end that
/// is missing.
fn line_of(text: &[u8]) -> usize {
    let (mut within, mut last) = (false, 1);
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        last = at + 1;
        if line.starts_with(b"-----BEGIN ") && line.ends_with(b"-----") && !within {
            within = true;
        } else if line.starts_with(b"-----END ") && line.ends_with(b"-----") && within {
            within = false;
        } else if line.starts_with(b"-----")
            || within && !line.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte))
        {
            return last;
        }
    }
    last
}

/// Every file that the options name.
pub(super) fn named(front: Option<&TlsOptions>, back: Option<&UpstreamTlsOptions>) -> Vec<PathBuf> {
    let both = |files: &CertificateFiles| [files.certificate_file.clone(), files.key_file.clone()];
    let mut paths: Vec<PathBuf> = Vec::new();
    if let Some(front) = front {
        paths.extend(front.certificates.iter().flat_map(both));
        paths.extend(front.client_ca_file.clone());
    }
    if let Some(back) = back {
        paths.push(back.ca_file.clone());
        paths.extend(back.certificate.iter().flat_map(both));
    }
    paths
}

/// By what a change of a file is seen.
pub(super) fn states(paths: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    let state = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    paths.iter().map(state).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_is_wrong_is_named() {
        assert_eq!(line_of(b"-----BEGIN CERTIFICATE-----\nAAAA\nAA!A\n-----END CERTIFICATE-----\n"), 3);
        assert_eq!(line_of(b"# text\n-----BEGIN CERTIFICATE-----\nAAAA\n"), 4, "the end is missing");
        assert_eq!(line_of(b"-----BEGIN A-----\nAAAA\n-----END A-----\n-----BEGIN B\n"), 4);
    }

    #[test]
    fn what_cannot_be_read_or_has_nothing_in_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pem");
        assert!(certificates(&path).unwrap_err().to_string().starts_with("cannot read "));
        std::fs::write(&path, "nothing").unwrap();
        assert!(certificates(&path).unwrap_err().to_string().ends_with("there is no certificate in it"));
        assert!(key(&path).unwrap_err().to_string().ends_with("there is no private key in it"));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAA!A\n-----END CERTIFICATE-----\n").unwrap();
        assert!(certificates(&path).unwrap_err().to_string().contains("line 2"));
    }
}
