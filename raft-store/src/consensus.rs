//! The one place that says which types openraft is used with.

use std::fmt;
use std::sync::Arc;

use cell_model::{Envelope, Reply};
use openraft::{BasicNode, SnapshotPolicy};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::OpenError;
use crate::options::StoreOptions;

/// Entries in one message to a follower: with [`crate::Bounds::entry_bytes`] this bounds the message.
const MESSAGE_ENTRIES_MAX: u64 = 64;

/// The commands of one Raft entry, in the order in which they run. Copies share them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch(pub Arc<Vec<Envelope>>);

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Arc::new(Vec::deserialize(deserializer)?)))
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands", self.0.len())
    }
}

/// One reply for each command of a [`Batch`], in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replies(pub Vec<Reply>);

openraft::declare_raft_types!(
    /// Nodes are `u64`s with an address; an entry is a batch of commands.
    pub(crate) TypeConfig:
        D = Batch,
        R = Replies,
        NodeId = u64,
        Node = BasicNode,
        Term = u64,
        AsyncRuntime = crate::entropy::Runtime,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, crate::machine::Machine>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, crate::snapshot::SnapshotData>;
pub(crate) type IoFlushed = openraft::storage::IOFlushed<TypeConfig>;

/// A node's snapshots are up to this part of the distance between two earlier than its bound says.
const SNAPSHOTS_APART: u64 = 4;

/// After how many entries a node makes a snapshot: some earlier than others, by their ids. All at the same entry would have
/// the disks of a majority busy at once, and with them every sync for which a command, or the answer to a heartbeat, waits.
const fn snapshot_after(bound: u64, node_id: u64) -> u64 {
    bound - node_id % (bound / SNAPSHOTS_APART + 1)
}

/// The settings of one node among others.
pub(crate) fn of_node(config: openraft::Config, options: &StoreOptions, node_id: u64) -> Arc<openraft::Config> {
    let after = snapshot_after(options.bounds.snapshot_after, node_id);
    Arc::new(openraft::Config { snapshot_policy: SnapshotPolicy::LogsSinceLast(after), ..config })
}

/// openraft's settings for every node.
pub(crate) fn config(options: &StoreOptions) -> Result<openraft::Config, OpenError> {
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let timers = &options.timers;
    let invalid = |option, rule| Err(OpenError::InvalidOption { option, rule });
    if timers.heartbeat * 2 > timers.election_min {
        return invalid("timers.election_min", "at least twice the heartbeat");
    }
    if timers.election_min >= timers.election_max {
        return invalid("timers.election_max", "longer than election_min");
    }
    if timers.read_lease >= timers.election_max {
        return invalid("timers.read_lease", "shorter than election_max");
    }
    if options.bounds.snapshot_after == 0 {
        return invalid("bounds.snapshot_after", "at least 1 entry");
    }
    if options.advertise.is_empty() {
        return invalid("advertise", "`host:port` under which the peers reach this node");
    }
    let config = openraft::Config {
        cluster_name: "cellway".into(),
        heartbeat_interval: millis(timers.heartbeat),
        election_timeout_min: millis(timers.election_min),
        election_timeout_max: millis(timers.election_max),
        install_snapshot_timeout: millis(timers.install_snapshot),
        max_payload_entries: MESSAGE_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.bounds.snapshot_after),
        max_in_snapshot_log_to_keep: options.bounds.log_kept,
        purge_batch_size: 64,
        replication_lag_threshold: options.bounds.log_kept.max(1),
        enable_pre_vote: Some(true),
        // A member that lacks what it had acknowledged gets it again at once, rather than when another node leads: until it has it,
        // there are fewer copies than were promised. See `acknowledged`.
        allow_log_reversion: Some(true),
        // Only when no promise of before the start can hold any more: see `promise`.
        enable_elect: false,
        backoff: "50ms 100ms 200ms ...400ms".into(),
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| OpenError::Raft { reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_make_snapshots_apart_from_each_other_and_none_later_than_its_bound() {
        for bound in [1, 2, 3, 40, 5_000] {
            let after: std::collections::BTreeSet<u64> =
                (0..10_000).map(|node_id| snapshot_after(bound, node_id)).collect();
            assert_eq!(after.last(), Some(&bound));
            assert_eq!(after.len() as u64, bound / 4 + 1);
            assert!(*after.first().unwrap() >= (bound * 3 / 4).max(1), "{bound}: {after:?}");
        }
    }
}
