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
    #[error("cannot listen at {address}: {reason}; another process may have the port")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The gRPC server ended by itself.
    #[error("the agent's server failed: {0}")]
    Serve(String),
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
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Engine(_) => "STORE_FAILED",
            Self::Database(fault) => fault.code,
            Self::OtherCell { .. } => "OTHER_CELL",
            Self::Record(_) | Self::Name(_) => "STORE_DAMAGED",
            Self::Listen { .. } => "LISTEN_FAILED",
            Self::Serve(_) => "SERVE_FAILED",
            Self::InvalidOption { .. } => "INVALID_OPTION",
        }
    }
}
