//! Why a node does not start, or has stopped.

use std::net::SocketAddr;

use cell_client::IdentityError;
use cell_model::ClusterId;
use cell_store::{OpenError, StoreError};

use crate::key_file::KeyFileError;

/// Each with a stable code, a sentence, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option makes no sense.
    #[error("option {option}: {reason}")]
    Option {
        /// Which.
        option: &'static str,
        /// Why.
        reason: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The signing key cannot be used.
    #[error(transparent)]
    SigningKey(#[from] KeyFileError),
    /// Nobody is told who this node is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The identity cannot be used for TLS.
    #[error("the identity cannot be used for TLS")]
    Tls(#[source] tonic::transport::Error),
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The data directory belongs to another cluster.
    #[error("the data directory belongs to cluster {found}, not to {wanted}")]
    OtherCluster {
        /// Which was asked for.
        wanted: ClusterId,
        /// Which it is.
        found: ClusterId,
    },
    /// Reflection, which is built from the compiled contract, cannot be offered.
    #[error("reflection cannot be offered")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The store has failed: what this node holds in memory may not be on disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server has failed.
    #[error("the gRPC server has failed")]
    Serve(#[source] tonic::transport::Error),
}

impl Error {
    /// Stable code, with a row in `docs/errors`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Option { .. } => "INVALID_OPTION",
            Self::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => "PORT_IN_USE",
            Self::Listen { .. } => "LISTEN_FAILED",
            Self::SigningKey(error) => error.code(),
            Self::Identity(error) => error.code(),
            Self::Tls(_) => "IDENTITY_INVALID",
            Self::Open(error) => error.code(),
            Self::OtherCluster { .. } => "OTHER_CLUSTER",
            Self::Reflection(_) => "REFLECTION_FAILED",
            Self::Store(_) => "STORE_FAILED",
            Self::Serve(_) => "SERVER_FAILED",
        }
    }

    /// What the operator may do next.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Option { .. } => {
                "correct the option and start again; `cell-control serve --help` shows them".into()
            }
            Self::Listen { address, source } if source.kind() == std::io::ErrorKind::AddrInUse => {
                format!("stop what listens on port {}, or choose another port with --listen", address.port())
            }
            Self::Listen { .. } => "choose an address of this machine with --listen".into(),
            Self::SigningKey(error) => error.hint(),
            Self::Identity(error) => error.hint(),
            Self::Tls(_) => "certificate and key do not fit together: issue them anew".into(),
            Self::Open(error) => error.hint(),
            Self::OtherCluster { .. } => "give this node its own data directory with --data-dir".into(),
            Self::Reflection(_) => "this program was not built as it should be: report it".into(),
            Self::Store(_) => "check the disk and the log of this process, then start it again".into(),
            Self::Serve(_) => "the log of this process says more; start it again".into(),
        }
    }
}
