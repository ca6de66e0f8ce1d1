//! The control-plane daemon: one node of the mapping store, the services in front of it, and the coordinator behind it.
//!
//! ```text
//!              ┌───────────────────────── one listener ─────────────────────────┐
//!   clients ──►│ ControlService   ClusterService   RaftService   health, reflection │◄── other nodes
//!              └──────┬───────────────┬───────────────┬─────────────────────────┘
//!                     ▼               ▼               ▼
//!              signer, liveness    cell_store::Store (a Fleet, replicated) ──► coordinator (leader only)
//! ```
//!
//! * [`Options`] → [`Service::start`] → [`Service::run`], with a [`Handle`] that is cheap to clone;
//! * [`key_file`]: the key with which the nodes of a cluster sign mappings. It stands in a file of each node and is
//!   nowhere else: not in the log, not in a snapshot, not in a message;
//! * `signer`, `liveness`: what a node keeps besides the replicated state. Losing it loses nothing;
//! * `service`: the gRPC services; `refusal` is how they say no;
//! * `coordinator`: what the leader does about the records.

mod coordinator;
mod error;
pub mod key_file;
mod liveness;
mod node;
mod options;
mod refusal;
mod service;
mod signer;

pub use error::Error;
pub use liveness::Liveness;
pub use node::{Handle, Service, run};
pub use options::Options;
pub use signer::Signer;
