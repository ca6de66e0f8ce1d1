//! Why an agent cannot be opened or has stopped.

use cell_model::{CellId, InvalidId};

use crate::engine::EngineError;
use crate::record::RecordError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The store failed. After a failed sync the process must end: what was not synced may be lost.
    #[error("the agent's store failed")]
    Engine(#[from] EngineError),
    /// The cell's database could not be used.
    #[error("the cell's database: {0}")]
    Database(#[from] crate::postgres::Fault),
    /// The database's address cannot be used.
    #[error(transparent)]
    Address(#[from] crate::postgres::AddressInvalid),
    /// The data directory belongs to another cell.
    #[error("the data belongs to cell {found}, not to {here}; give this cell a directory or a database of its own")]
    OtherCell {
        /// Whose it is.
        found: CellId,
        /// Who wanted to open it.
        here: CellId,
    },
    /// A record in the store cannot be read.
    #[error("the agent's store cannot be read")]
    Record(#[from] RecordError),
    /// A name in the store is none.
    #[error("the agent's store holds a damaged name")]
    Name(#[from] InvalidId),
    /// The address to listen at cannot be had.
    #[error("cannot listen at {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The gRPC server ended by itself.
    #[error("the agent's server failed: {0}")]
    Serve(String),
    /// Nobody is told who this agent is.
    #[error("the agent's identity cannot be used")]
    Identity(#[from] cell_client::IdentityError),
    /// Certificate and key cannot be used for TLS.
    #[error("the agent's identity cannot be used for TLS")]
    Tls(#[source] tonic::transport::Error),
    /// A hook cannot be used as it is described.
    #[error("hooks: {0}")]
    Hook(#[from] crate::hooks::HookInvalid),
    /// An option makes no sense.
    #[error("{option}: {rule}")]
    InvalidOption {
        /// Which.
        option: &'static str,
        /// What it must be.
        rule: &'static str,
    },
}

impl AgentError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Engine(_) => "STORE_FAILED",
            Self::Database(fault) => fault.code,
            Self::Address(invalid) => invalid.code(),
            Self::OtherCell { .. } => "OTHER_CELL",
            Self::Record(_) | Self::Name(_) => "STORE_DAMAGED",
            Self::Listen { source, .. } if matches!(source.kind(), std::io::ErrorKind::AddrInUse) => "PORT_IN_USE",
            Self::Listen { .. } => "LISTEN_FAILED",
            Self::Serve(_) => "SERVER_FAILED",
            Self::Identity(error) => error.code(),
            Self::Tls(_) => "IDENTITY_INVALID",
            Self::Hook(invalid) => invalid.code(),
            Self::InvalidOption { .. } => "INVALID_OPTION",
        }
    }
}
