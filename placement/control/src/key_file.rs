//! The signing key in its file: 64 hexadecimal digits, readable by its owner only.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use cell_trust::{InvalidKey, PublicKey, SigningKey};

/// No key is longer; a file above this is certainly something else.
const FILE_BYTES_MAX: u64 = 1_024;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read signing key {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("signing key {} is not a key", path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: InvalidKey,
    },
    /// Others than its owner may read it.
    #[error("signing key {} may be read by others than its owner (mode {mode:o})", path.display())]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is a file already.
    #[error("{} exists already and is not overwritten", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("cannot write signing key {}", path.display())]
    Unwritable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl KeyFileError {
    /// Stable code, with a row in `docs/errors`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "SIGNING_KEY_UNREADABLE",
            Self::Invalid { .. } => "SIGNING_KEY_INVALID",
            Self::Exposed { .. } => "SIGNING_KEY_EXPOSED",
            Self::Exists { .. } => "SIGNING_KEY_EXISTS",
            Self::Unwritable { .. } => "SIGNING_KEY_UNWRITABLE",
        }
    }

    /// What the operator may do next.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Unreadable { path, .. } => format!(
                "copy the cluster's key to {0}, or, for a new cluster, run `cell-control keygen --out {0}`",
                path.display()
            ),
            Self::Invalid { path, .. } => format!("{} should hold 64 hexadecimal digits", path.display()),
            Self::Exposed { path, .. } => format!("chmod 600 {}", path.display()),
            Self::Exists { path } => format!(
                "use the key that is there (`keygen --show {}` prints its public half), or name another file",
                path.display()
            ),
            Self::Unwritable { path, .. } => {
                format!("check that the directory of {} may be written", path.display())
            }
        }
    }
}

/// What `keygen` is asked for.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Keygen {
    /// Where to write the new secret key, readable by its owner only; a file that is there is never overwritten
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Make nothing, and print the public half of the key in this file; of a router's `context.key-file`, too
    #[arg(long, value_name = "FILE")]
    show: Option<PathBuf>,
}

impl Keygen {
    /// The public half of the key that has been made, or was there.
    ///
    /// # Errors
    /// As [`generate`] and [`read`].
    ///
    /// # Panics
    /// Where neither was asked for, which no command line can.
    pub fn run(&self) -> Result<PublicKey, KeyFileError> {
        if let Some(out) = &self.out {
            return generate(out);
        }
        let show = self.show.as_deref().expect("the command line has one of the two");
        read(show).map(|key| key.public())
    }

    /// Whether a key is made.
    #[must_use]
    pub const fn makes(&self) -> bool {
        self.out.is_some()
    }
}

/// Makes a new key in a new file.
///
/// # Errors
/// [`KeyFileError::Exists`] or [`KeyFileError::Unwritable`].
pub fn generate(path: &Path) -> Result<PublicKey, KeyFileError> {
    let key = SigningKey::generate();
    let unwritable = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => KeyFileError::Exists { path: path.to_owned() },
        _ => KeyFileError::Unwritable { path: path.to_owned(), source },
    };
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(unwritable)?;
    let digits: String = key.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    file.write_all(format!("{digits}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(unwritable)?;
    Ok(key.public())
}

/// Reads a key.
///
/// # Errors
/// [`KeyFileError`] where there is none, it is not a key, or others may read it.
pub fn read(path: &Path) -> Result<SigningKey, KeyFileError> {
    let unreadable = |source| KeyFileError::Unreadable { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    #[cfg(unix)]
    {
        let metadata = file.metadata().map_err(unreadable)?;
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
        }
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    text.trim().parse().map_err(|source| KeyFileError::Invalid { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let public = generate(&path).unwrap();
        assert_eq!(read(&path).unwrap().public(), public);
        assert_eq!(generate(&path).unwrap_err().code(), "SIGNING_KEY_EXISTS");
        assert_eq!(read(&path).unwrap().public(), public);
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        generate(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = read(&path).unwrap_err();
        assert_eq!(refused.code(), "SIGNING_KEY_EXPOSED");
        assert!(refused.to_string().contains("640"), "{refused}");
    }

    #[test]
    fn what_is_not_a_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&dir.path().join("none")).unwrap_err().code(), "SIGNING_KEY_UNREADABLE");
        let path = dir.path().join("key");
        generate(&path).unwrap();
        std::fs::write(&path, "secret").unwrap();
        let refused = read(&path).unwrap_err();
        assert_eq!(refused.code(), "SIGNING_KEY_INVALID");
        assert!(!format!("{refused:?}").contains("secret"), "{refused:?}");
    }
}
