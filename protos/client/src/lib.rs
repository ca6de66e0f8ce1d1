//! Clients of the control plane and of cell agents: the only way in which the processes of Cellway speak to each other.
//!
//! * [`ControlClient`] runs commands on the leader, wherever it is, and reads from it. A write carries a request id, so
//!   that it may be tried again after an unknown outcome and still runs once.
//! * [`ControlClient::watch`] is a snapshot and then every change, for ever: it reconnects and resumes by revision.
//! * `store`: the store's members, snapshots and backups, for operators.
//! * [`AgentPool`] runs the steps of a move on cell agents. A step is never tried again here: the coordinator decides.
//! * [`cluster::initialize`] makes a cluster out of nodes, once, however often and by however many it is called.
//!
//! * [`Link`] is mutual TLS under an [`Identity`], or plaintext where somebody has said so; [`Guard`] stands before every
//!   server and refuses what the role of the caller may not.
//! * [`net`] is where connections come from: the kernel, or a network that a simulation passes in.
//!
//! Every call has a deadline. Each has three outcomes: done, surely not done, and unknown; the last is never turned into
//! one of the others.

mod agent;
mod channel;
pub mod cluster;
mod control;
mod convert;
mod error;
mod guard;
pub mod identity;
mod link;
pub mod net;
mod random;
mod store;
mod watch;

pub use agent::{
    AgentOptions, AgentPool, Finding, ImportProgress, PreflightReport, StepContext, SyncProgress, tables_differ,
};
pub use cell_protos::{Malformed, v1 as wire};
pub use channel::{code_of, surely_not_sent};
pub use control::{
    AsOf, AuditPage, ClientOptions, Confirmed, ControlClient, ListOptions, Page, RouterReport, TakeoverWanted,
    WriteOptions,
};
pub use convert::{signed_from_wire, signed_to_wire};
pub use error::{ClientError, StepError};
pub use guard::{Guard, Guarded, actor, caller, check_cell, tried_ago};
pub use identity::{Identity, IdentityError, Server};
pub use link::Link;
pub use random::Random;
pub use store::BackupReader;
pub use watch::{WatchEvent, WatchFilter, WatchItem, WatchOptions};

/// Names of the gRPC trailers that go along with a refusal, and of the headers that go along with a retry and with a stale
/// answer.
pub mod trailer {
    /// `host:port` of the leader, from a node that is not it.
    pub const LEADER: &str = "cellway-leader";
    /// The stable code of a refusal.
    pub const CODE: &str = "cellway-code";
    /// What the caller may do next.
    pub const HINT: &str = "cellway-hint";
    /// In a request that is not the first try of a write: milliseconds since that one, by the client's clock.
    pub const TRIED_AGO: &str = "cellway-tried-ms-ago";
    /// In an answer that may be stale: the revision up to which nothing is missing,
    pub const AS_OF: &str = "cellway-as-of";
    /// and how long before, in milliseconds, the node was level with a leader, or was confirmed as the leader by a majority.
    pub const AGE: &str = "cellway-age-ms";
    /// The code of a write that may have run under its id, longer ago than answers are remembered.
    pub const REQUEST_TOO_OLD: &str = "REQUEST_TOO_OLD";
    /// The code that goes along with [`LEADER`].
    pub const NOT_LEADER: &str = "NOT_LEADER";
    /// The code of a write whose outcome the node does not know.
    pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
    /// The code of a refusal that lasts until somebody makes room.
    pub const DISK_FULL: &str = "DISK_FULL";
}
