//! Why a router does not start, or stops by itself.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::signing::KeyFault;
use crate::tls::TlsError;

/// Why a router does not start, or stops by itself. One variant for each thing that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file with the options cannot be read.
    #[error("cannot read options from {}: {source}", path.display())]
    ReadOptions {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file with the options cannot be understood.
    #[error("cannot understand options in {}: {source}", path.display())]
    ParseOptions {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// An option breaks its rule.
    #[error("option {option}: {rule}")]
    InvalidOption {
        /// Which.
        option: String,
        /// The rule.
        rule: String,
    },
    /// The control plane is not told who this router is.
    #[error("{0}")]
    Identity(#[from] cell_client::IdentityError),
    /// A certificate or key cannot be used.
    #[error("{source}")]
    Certificate {
        /// Which, and why.
        source: TlsError,
    },
    /// The key for signed contexts cannot be used.
    #[error("context.key-file: {fault}")]
    ContextKey {
        /// Which, and why.
        fault: KeyFault,
    },
    /// The file with the issuer's keys cannot be used.
    #[error("tenant.token.jwks {}: {reason}", path.display())]
    KeySet {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// An address to listen at is not to be had.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The sockets of the process that runs cannot be taken over, or not be offered to the next one.
    #[error("cannot hand sockets over at {}: {source}", path.display())]
    HandOver {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory for batches of usage cannot be used.
    #[error("usage.directory {}: {source}", path.display())]
    Usage {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Spans cannot be sent.
    #[error("spans: {reason}")]
    Spans {
        /// Which option or file, and why.
        reason: String,
    },
    /// A thread that serves requests cannot be started.
    #[error("cannot start a thread that serves requests: {source}")]
    StartWorker {
        /// Why.
        source: io::Error,
    },
    /// A thread that serves requests ended before it was told to.
    #[error("a thread that serves requests has failed; the log says why")]
    WorkerFailed,
}

impl Error {
    /// Stable code, with a row in `docs/errors`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::ReadOptions { .. } => "OPTIONS_UNREADABLE",
            Self::ParseOptions { .. } | Self::InvalidOption { .. } => "OPTIONS_INVALID",
            Self::Identity(error) => error.code(),
            Self::Certificate { .. } => "CERTIFICATE_INVALID",
            Self::ContextKey { .. } => "CONTEXT_KEY_INVALID",
            Self::KeySet { .. } => "JWKS_INVALID",
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => "PORT_IN_USE",
            Self::Listen { .. } => "LISTEN_FAILED",
            Self::HandOver { .. } => "HANDOVER_FAILED",
            Self::Usage { .. } => "USAGE_UNWRITABLE",
            Self::Spans { .. } => "SPANS_INVALID",
            Self::StartWorker { .. } | Self::WorkerFailed => "WORKER_FAILED",
        }
    }

    /// What the operator may do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::ReadOptions { .. } => "check the path given with --config",
            Self::ParseOptions { .. } | Self::InvalidOption { .. } => {
                "correct it and look with `cell-router --check` before you start again"
            }
            Self::Identity(_) => {
                "name the directory of a certificate as `identity` (`cellctl ca issue router NAME` makes one); \
                 `insecure-plaintext = true` only for trying things out on one machine"
            }
            Self::Certificate { .. } => "correct the file that is named; certificates and keys are PEM",
            Self::ContextKey { fault: KeyFault::Unreadable { .. } } => {
                "check path and rights of `context.key-file`"
            }
            Self::ContextKey { fault: KeyFault::Exposed(_) } => {
                "the key is a secret: let its owner alone read it (`chmod 600`), and replace it where somebody has"
            }
            Self::ContextKey { fault: KeyFault::NoKey { .. } } => {
                "write 64 hexadecimal digits into the file, as `openssl rand -hex 32` prints them"
            }
            Self::KeySet { .. } => {
                "correct the file: a JSON Web Key Set (RFC 7517), with a public key for each `kid`"
            }
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                "another process listens there: stop it, or choose another port with --listen or --admin-listen"
            }
            Self::Listen { .. } => "choose an address of this host with --listen or --admin-listen",
            Self::HandOver { .. } => {
                "check `handover-socket`, and that both processes are of one user and listen at the same addresses"
            }
            Self::Usage { .. } => "check path, space and rights of `usage.directory`",
            Self::Spans { .. } => "check `spans.endpoint`, and that `spans.ca-file` is PEM",
            Self::StartWorker { .. } | Self::WorkerFailed => {
                "check the limits of the process (threads, open files)"
            }
        }
    }
}
