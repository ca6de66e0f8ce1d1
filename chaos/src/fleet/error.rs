//! Why there is no fleet.

use std::path::PathBuf;
use std::time::Duration;

use cell_client::{ClientError, cluster};
use cell_control::AuthorityError;

use crate::link::LinkError;
use crate::ports::NoFreePort;
use crate::process::ProcessError;
use crate::wiring::WiringError;

/// Why there is no fleet.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No certificates.
    #[error("the fleet's certificates could not be made")]
    Certificates(#[from] AuthorityError),
    /// The fleet's own certificates cannot be used.
    #[error("the fleet's certificates cannot be used")]
    Identity(#[from] cell_client::IdentityError),
    /// No port.
    #[error(transparent)]
    Port(#[from] NoFreePort),
    /// No link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// No wires.
    #[error(transparent)]
    Wiring(#[from] WiringError),
    /// No process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The control nodes did not become a cluster.
    #[error("the control nodes did not become a cluster; the end of a log:\n{log}")]
    Cluster {
        /// What a control node said last.
        log: String,
        /// Why not.
        #[source]
        source: cluster::InitializeError,
    },
    /// A cell could not be made.
    #[error("cell {cell} was not made")]
    CreateCell {
        /// Which.
        cell: String,
        /// Why not.
        #[source]
        source: ClientError,
    },
    /// A process did not become ready.
    #[error("{name} was not ready within {waited:?}: {reason}; the end of its log:\n{log}")]
    NotReady {
        /// Which.
        name: String,
        /// How long was waited.
        waited: Duration,
        /// What it answered last.
        reason: String,
        /// What it said last.
        log: String,
    },
}
