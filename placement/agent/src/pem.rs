//! Certificates and keys on disk, and what is said where they cannot be used.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Whole bundles of authorities are smaller.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("{}: {reason}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Others may read the key.
    #[error("{} may be read by others than its owner (mode {mode:o}): chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

fn content(path: &Path, reason: impl Into<String>) -> PemError {
    PemError::Content { path: path.to_owned(), reason: reason.into() }
}

fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    whole(path, &file, FILE_BYTES_MAX)
}

fn unreadable(path: &Path, source: std::io::Error) -> PemError {
    PemError::Unreadable { path: path.to_owned(), source }
}

/// What is in a file, unless that is far too much.
fn whole(path: &Path, file: &File, bytes_max: u64) -> Result<Vec<u8>, PemError> {
    let mut text = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut text).map_err(|source| unreadable(path, source))?;
    if text.len() as u64 > bytes_max {
        return Err(content(path, format!("it has more than {bytes_max} bytes")));
    }
    Ok(text)
}

/// What is in a file that nobody but its owner may read.
pub(crate) fn private(path: &Path, bytes_max: u64) -> Result<Vec<u8>, PemError> {
    use std::os::unix::fs::PermissionsExt as _;
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    // Of what was opened: by its name it may be another one by now.
    let mode = file.metadata().map_err(|source| unreadable(path, source))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PemError::Exposed { path: path.to_owned(), mode });
    }
    whole(path, &file, bytes_max)
}

/// All certificates of a file, at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| content(path, error.to_string()))?;
    if found.is_empty() { Err(content(path, "there is no certificate in it")) } else { Ok(found) }
}

/// Whose signatures on certificates are believed.
pub(crate) fn roots(path: &Path) -> Result<RootCertStore, PemError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| content(path, error.to_string()))?;
    }
    Ok(roots)
}

/// The first private key of a file that only its owner may read.
pub(crate) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    match PrivateKeyDer::from_pem_slice(&private(path, FILE_BYTES_MAX)?) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(content(path, "there is no private key in it")),
        Err(error) => Err(content(path, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_read_no_further_than_a_key_could_be_long() {
        let said = certificates(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(said.contains("/dev/zero: it has more than"), "{said}");
        let exposed = private(Path::new("/dev/zero"), 10).unwrap_err().to_string();
        assert!(exposed.contains("may be read by others"), "{exposed}");
    }
}
