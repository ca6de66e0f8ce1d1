//! What a node says of itself.

use std::time::Duration;

use cell_model::{ClusterId, Lineage, Revision, Term};
use tokio::time::Instant;

use crate::honesty::SyncPath;

/// One node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Random for each data directory, never used again.
    pub node_id: u64,
    /// `host:port` of its gRPC server.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
}

/// How long applying has stood still: the longest times in which an entry was committed and none was applied, since the
/// node was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApplyPace {
    /// Of all.
    pub longest: Duration,
    /// Of those while a snapshot was being taken.
    pub longest_in_snapshot: Duration,
    /// The longest while the last snapshot was.
    pub last_in_snapshot: Duration,
    /// Snapshots that were taken.
    pub snapshots: u64,
}

/// A node at this moment. Nothing of it is linearizable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// This node.
    pub node_id: u64,
    /// Where it says that it is reached.
    pub advertise: String,
    /// The cluster that has claimed it.
    pub cluster: Option<ClusterId>,
    /// Whether it knows the members of its cluster.
    pub initialized: bool,
    /// Raft's term.
    pub term: Term,
    /// `host:port` of the leader, where one is known.
    pub leader: Option<String>,
    /// Whether this node leads.
    pub is_leader: bool,
    /// Newest revision applied here.
    pub revision: Revision,
    /// Incarnation of the history.
    pub lineage: Lineage,
    /// Newest entry of the log here; 0 where there is none.
    pub last_log_index: u64,
    /// Newest entry applied here; 0 where there is none.
    pub applied_index: u64,
    /// Newest entry that the current snapshot covers; 0 where there is none.
    pub snapshot_index: u64,
    /// Newest entry that the log no longer has; 0 where there is none.
    pub purged_index: u64,
    /// How long applying has stood still here.
    pub pace: ApplyPace,
    /// How long ago a majority has confirmed this node as the leader; none where it does not lead, or none has yet.
    pub quorum_ack: Option<Duration>,
    /// Everybody in the cluster.
    pub members: Vec<Member>,
    /// How far syncs reach; none where the store is in memory.
    pub sync_path: Option<SyncPath>,
    /// Bytes that are free for the data directory, where that is known.
    pub disk_available: Option<u64>,
    /// Nothing is accepted, because the disk is nearly full.
    pub disk_full: bool,
}

/// Who leads, as this node knows it. Every change of it is seen through a `tokio::sync::watch`.
///
/// `is_leader` says that a majority has voted for this node in `term`. It does not say that all entries of earlier
/// terms are applied: call [`crate::Store::read_index`] before deciding anything as the new leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// Raft's term.
    pub term: Term,
    /// Whether this node leads.
    pub is_leader: bool,
    /// `host:port` of the leader, where one is known; this node's own where it leads.
    pub leader: Option<String>,
    /// Since when this has been so.
    pub since: Instant,
}

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberProgress {
    /// Random for each data directory, never used again.
    pub node_id: u64,
    /// `host:port` of its gRPC server.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// Newest entry that it is known to have; none where nothing is known.
    pub matched: Option<u64>,
    /// Entries that it lacks; none where nothing is known.
    pub lag: Option<u64>,
    /// How long ago it last answered; none where it never has.
    pub heard: Option<Duration>,
}
