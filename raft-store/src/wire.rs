//! What is written to disk and sent between nodes: structs of our own, and nothing of openraft.
//!
//! openraft's own types change their layout between versions, and a positional encoding would read the change as
//! nonsense without a word. Converting costs little and keeps the library replaceable.

use std::collections::{BTreeMap, BTreeSet};

use cell_model::layout::since_5;
use cell_model::{
    Aging, Answered, Asked, ClusterId, Forgotten, Limits, Lineage, Reply, RequestId, Revision, UnixMillis,
};
use openraft::raft::StreamAppendError;
use openraft::vote::RaftLeaderId;
use openraft::{BasicNode, EntryPayload, Membership};
use serde::{Deserialize, Serialize};

use crate::consensus::{Batch, Entry, LogId, SnapshotMeta, StoredMembership, Vote};

/// A term and the node that leads or stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireVote {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

impl From<&Vote> for WireVote {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<WireVote> for Vote {
    fn from(wire: WireVote) -> Self {
        if wire.committed { Self::new_committed(wire.term, wire.node) } else { Self::new(wire.term, wire.node) }
    }
}

/// The place of an entry in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct WireLogId {
    pub term: u64,
    pub node: u64,
    pub index: u64,
}

impl From<&LogId> for WireLogId {
    fn from(id: &LogId) -> Self {
        Self { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
    }
}

impl From<WireLogId> for LogId {
    fn from(wire: WireLogId) -> Self {
        Self::new(RaftLeaderId::new(wire.term, wire.node), wire.index)
    }
}

/// Who votes, and where everybody is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireMembership {
    pub configs: Vec<BTreeSet<u64>>,
    pub nodes: BTreeMap<u64, String>,
}

impl From<&Membership<u64, BasicNode>> for WireMembership {
    fn from(membership: &Membership<u64, BasicNode>) -> Self {
        Self {
            configs: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
        }
    }
}

impl TryFrom<WireMembership> for Membership<u64, BasicNode> {
    type Error = String;

    fn try_from(wire: WireMembership) -> Result<Self, String> {
        let nodes: BTreeMap<u64, BasicNode> =
            wire.nodes.into_iter().map(|(id, address)| (id, BasicNode::new(address))).collect();
        Self::new(wire.configs, nodes).map_err(|error| format!("it holds an impossible membership: {error}"))
    }
}

/// The membership as of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireStored {
    pub at: Option<WireLogId>,
    pub membership: WireMembership,
}

impl From<&StoredMembership> for WireStored {
    fn from(stored: &StoredMembership) -> Self {
        Self { at: stored.log_id().as_ref().map(WireLogId::from), membership: stored.membership().into() }
    }
}

impl TryFrom<WireStored> for StoredMembership {
    type Error = String;

    fn try_from(wire: WireStored) -> Result<Self, String> {
        Ok(Self::new(wire.at.map(LogId::from), wire.membership.try_into()?))
    }
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireEntry {
    pub id: WireLogId,
    pub payload: WirePayload,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WirePayload {
    Blank,
    Commands(Batch),
    Membership(WireMembership),
}

impl From<Entry> for WireEntry {
    fn from(entry: Entry) -> Self {
        let payload = match entry.payload {
            EntryPayload::Blank => WirePayload::Blank,
            EntryPayload::Normal(batch) => WirePayload::Commands(batch),
            EntryPayload::Membership(membership) => WirePayload::Membership((&membership).into()),
        };
        Self { id: (&entry.log_id).into(), payload }
    }
}

impl WireEntry {
    /// The entry as openraft has it, or what is wrong with it.
    pub(crate) fn into_entry(self) -> Result<Entry, String> {
        let payload = match self.payload {
            WirePayload::Blank => EntryPayload::Blank,
            WirePayload::Commands(commands) => EntryPayload::Normal(commands),
            WirePayload::Membership(membership) => EntryPayload::Membership(membership.try_into()?),
        };
        Ok(Entry { log_id: self.id.into(), payload })
    }
}

/// Term, vote and what is known to be committed: one record, so that they are never torn apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireHardState {
    pub vote: Option<WireVote>,
    pub committed: Option<WireLogId>,
}

/// Which node a data directory is, written once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireIdentity {
    pub format: u32,
    pub node_id: u64,
}

/// What the state machine holds besides records and answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireHead {
    pub cluster: ClusterId,
    pub lineage: Lineage,
    pub revision: Revision,
    pub limits: Limits,
    pub applied: Option<WireLogId>,
    pub membership: WireStored,
    #[serde(deserialize_with = "since_5")]
    pub limits_revision: Revision,
    /// By what answers grow old.
    #[serde(deserialize_with = "since_5")]
    pub aging: Aging,
    /// The newest answer that is not remembered any more.
    #[serde(deserialize_with = "since_5")]
    pub forgotten: Option<Forgotten>,
    /// Nodes that have left, the newest last.
    #[serde(deserialize_with = "since_5")]
    pub removed: Vec<u64>,
}

impl WireHead {
    /// Nodes that have left and are remembered; those that left first are forgotten beyond it.
    pub(crate) const REMOVED_MAX: usize = 64;

    /// Other members than before: whoever is none of them any more has left for ever.
    pub(crate) fn change_members(&mut self, next: WireStored) {
        let gone = self.membership.membership.nodes.keys().filter(|id| !next.membership.nodes.contains_key(*id));
        self.removed.extend(gone);
        let forgotten = self.removed.len().saturating_sub(Self::REMOVED_MAX);
        self.removed.drain(..forgotten);
        self.membership = next;
    }
}

/// A remembered answer; `ordinal` keeps their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireAnswer {
    pub ordinal: u64,
    pub id: RequestId,
    pub at: UnixMillis,
    #[serde(deserialize_with = "since_5")]
    pub asked: Option<Asked>,
    #[serde(deserialize_with = "since_5")]
    pub passed_ms: u64,
    pub reply: Reply,
}

impl WireAnswer {
    pub(crate) fn of(ordinal: u64, answered: &Answered) -> Self {
        let Answered { id, at, asked, passed_ms, reply } = answered.clone();
        Self { ordinal, id, at, asked, passed_ms, reply }
    }

    pub(crate) fn into_answered(self) -> Answered {
        let Self { ordinal: _, id, at, asked, passed_ms, reply } = self;
        Answered { id, at, asked, passed_ms, reply }
    }
}

/// What a snapshot covers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireSnapshotMeta {
    pub last: Option<WireLogId>,
    pub membership: WireStored,
}

impl From<&SnapshotMeta> for WireSnapshotMeta {
    fn from(meta: &SnapshotMeta) -> Self {
        Self { last: meta.last_log_id.as_ref().map(WireLogId::from), membership: (&meta.last_membership).into() }
    }
}

impl TryFrom<WireSnapshotMeta> for SnapshotMeta {
    type Error = String;

    fn try_from(wire: WireSnapshotMeta) -> Result<Self, String> {
        Ok(Self { last_log_id: wire.last.map(LogId::from), last_membership: wire.membership.try_into()? })
    }
}

/// A leader to a follower.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireAppend {
    pub vote: WireVote,
    pub previous: Option<WireLogId>,
    pub entries: Vec<WireEntry>,
    pub commit: Option<WireLogId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WireAppended {
    Success,
    Partial(Option<WireLogId>),
    Conflict,
    HigherVote(WireVote),
}

/// The answer to a message of a stream of entries: up to where the follower's log is the leader's, and synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WireMatched {
    UpTo(Option<WireLogId>),
    Conflict(WireLogId),
    HigherVote(WireVote),
}

/// A candidate, or with `pre` one that asks whether it should become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireVoteRequest {
    pub pre: bool,
    pub vote: WireVote,
    pub last: Option<WireLogId>,
    pub transfer: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireVoteReply {
    pub vote: WireVote,
    pub granted: bool,
    pub last: Option<WireLogId>,
}

/// A leader to the node that is to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireTransfer {
    pub from: WireVote,
    pub to: u64,
    pub last: Option<WireLogId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WireTransferReply {
    Accepted,
    VoteChanged { expected: WireVote, actual: WireVote },
    LogNotFlushed { expected: Option<WireLogId>, actual: Option<WireLogId> },
}

/// What tells one snapshot from another while it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireSnapshotName {
    pub meta: WireSnapshotMeta,
    pub bytes: u64,
    pub digest: [u8; 32],
}

/// How much of a snapshot a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireSnapshotHave {
    pub bytes: u64,
}

/// The messages of a snapshot on its way to another node, in their order: one beginning, chunks, one end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WireSnapshotPart {
    Resume { vote: WireVote, name: WireSnapshotName, from: u64 },
    Chunk(Vec<u8>),
    End { digest: [u8; 32] },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireSnapshotReply {
    pub vote: WireVote,
}

impl From<&openraft::raft::AppendEntriesRequest<crate::consensus::TypeConfig>> for WireAppend {
    fn from(rpc: &openraft::raft::AppendEntriesRequest<crate::consensus::TypeConfig>) -> Self {
        Self {
            vote: (&rpc.vote).into(),
            previous: rpc.prev_log_id.as_ref().map(WireLogId::from),
            entries: rpc.entries.iter().cloned().map(Into::into).collect(),
            commit: rpc.leader_commit.as_ref().map(WireLogId::from),
        }
    }
}

impl TryFrom<WireAppend> for openraft::raft::AppendEntriesRequest<crate::consensus::TypeConfig> {
    type Error = String;

    fn try_from(wire: WireAppend) -> Result<Self, String> {
        Ok(Self {
            vote: wire.vote.into(),
            prev_log_id: wire.previous.map(LogId::from),
            entries: wire.entries.into_iter().map(WireEntry::into_entry).collect::<Result<_, _>>()?,
            leader_commit: wire.commit.map(LogId::from),
        })
    }
}

impl From<WireMatched> for openraft::raft::StreamAppendResult<crate::consensus::TypeConfig> {
    fn from(wire: WireMatched) -> Self {
        match wire {
            WireMatched::UpTo(matched) => Ok(matched.map(LogId::from)),
            WireMatched::Conflict(at) => Err(StreamAppendError::Conflict(at.into())),
            WireMatched::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
        }
    }
}

impl From<openraft::raft::StreamAppendResult<crate::consensus::TypeConfig>> for WireMatched {
    fn from(answer: openraft::raft::StreamAppendResult<crate::consensus::TypeConfig>) -> Self {
        match answer {
            Ok(matched) => Self::UpTo(matched.as_ref().map(WireLogId::from)),
            Err(StreamAppendError::Conflict(at)) => Self::Conflict((&at).into()),
            Err(StreamAppendError::HigherVote(vote)) => Self::HigherVote((&vote).into()),
        }
    }
}

impl From<WireVoteReply> for openraft::raft::VoteResponse<crate::consensus::TypeConfig> {
    fn from(wire: WireVoteReply) -> Self {
        Self::new(Vote::from(wire.vote), wire.last.map(LogId::from), wire.granted)
    }
}

impl From<&openraft::raft::VoteResponse<crate::consensus::TypeConfig>> for WireVoteReply {
    fn from(reply: &openraft::raft::VoteResponse<crate::consensus::TypeConfig>) -> Self {
        Self {
            vote: (&reply.vote).into(),
            granted: reply.vote_granted,
            last: reply.last_log_id.as_ref().map(WireLogId::from),
        }
    }
}
