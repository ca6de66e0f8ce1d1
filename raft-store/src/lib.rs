//! The mapping store: a [`cell_model::Fleet`] replicated by openraft, kept on sled, with a watch.
//!
//! A newcomer reads it in this order:
//!
//! * [`Store`] is the handle: submit a command, read, watch, and the making of a cluster.
//! * `proposer` puts many commands into one Raft entry; `machine` applies them with `Fleet::apply` and nothing else,
//!   and `mirror` keeps what it has applied on disk.
//! * `log` and [`engine`] keep the log: acknowledged means synced, and what is read back is checked.
//! * `hub` is the watch: one ring of recent revisions, a cursor for each watcher.
//! * `quarters` is the thread on which Raft runs: nothing else keeps it waiting.
//! * `promise` is what lets a leader answer reads by itself: what a node must not do when it has just been started.
//! * `membership` decides who may come and go; `backup` is also restore, `verify` looks at a directory; `space` and `honesty` look at the disk.
//! * `pipeline`, `snapshot`, `transfer`, `network` and `service` are how nodes talk; everything on the wire and on disk is a type of our own
//!   (`wire`, `codec`), never a type of openraft, so that the library can be replaced.
//!
//! A write is acknowledged when a majority has it on disk and the leader has applied it. A read after
//! [`Store::read_index`] sees every write acknowledged before.

mod acknowledged;
mod asked;
mod backup;
mod codec;
mod consensus;
mod disk;
pub mod engine;
mod entropy;
mod error;
mod fault;
mod honesty;
mod hub;
mod identity;
mod leadership;
mod level;
mod log;
mod machine;
mod membership;
mod mirror;
mod network;
mod offload;
mod options;
mod pace;
#[doc(hidden)]
pub mod parts;
mod pipeline;
mod promise;
mod proposer;
mod quarters;
mod recent;
mod service;
mod snapshot;
mod space;
mod status;
mod steady;
mod store;
#[cfg(test)]
mod suite;
mod transfer;
mod verify;
mod wire;

pub use asked::asked;
pub use backup::{Backup, REVISIONS_SKIPPED, Restored, Summary, restore, verify_backup};
pub use disk::Disk;
pub use error::{
    BackupError, ClaimError, CompactError, EngineError, InitializeError, MembershipError, OpenError, ReadError,
    StoreError, SubmitError, TransferError,
};
pub use honesty::{Honesty, SyncPath};
pub use hub::{Committed, Departure, Feed, Filter, ResetCause, Subscription, WatchClosed};
pub use membership::Change as MemberChange;
pub use network::{Dialer, tcp_dialer};
pub use options::{Bounds, StoreOptions, Timers, worker_threads};
pub use service::RaftEndpoint;
pub use status::{ApplyPace, Leadership, Member, MemberProgress, StoreStatus};
pub use store::{RaftServer, Store};
pub use verify::verify_directory;
