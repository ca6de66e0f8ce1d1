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
//! * [`authority`]: certificates for a fleet that has no authority of its own;
//! * `signer`, `liveness`, `routers`: what a node keeps besides the replicated state. Losing it loses nothing;
//! * `service`: the gRPC services; `refusal` is how they say no; `press` makes the frames of the watch for all who watch;
//! * `coordinator`: what the leader does about the records; `witness`: how routers stood to a change of owner.

pub mod authority;
mod coordinator;
mod error;
pub mod key_file;
mod liveness;
mod node;
mod options;
mod peers;
mod press;
mod refusal;
mod routers;
mod service;
mod signer;
mod witness;

pub use authority::{Authority, AuthorityError};
pub use error::Error;
pub use liveness::Liveness;
pub use node::{Handle, Parts, Service, run};
pub use options::Options;
pub use routers::{HoldSight, Holds, Known, Report, Routers};
pub use signer::Signer;
