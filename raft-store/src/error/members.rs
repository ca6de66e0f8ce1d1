//! What can go wrong with the members of the cluster.

/// Why leadership was not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// There is nothing to hand over.
    #[error("this node is not the leader")]
    NotLeader,
    /// There is nobody to hand it to.
    #[error("no other voter is known")]
    NoCandidate,
    /// It was asked for and did not happen in time.
    #[error("no other node has taken over in time")]
    TimedOut,
    /// This node has stopped.
    #[error("this node has stopped")]
    Stopped,
}

/// Why the members of the cluster were not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Another node leads, or none does at the moment.
    #[error("this node is not the leader")]
    NotLeader {
        /// `host:port` of the leader, where one is known.
        leader: Option<String>,
    },
    /// There is no such member.
    #[error("{node_id:016x} is no member of this cluster")]
    Unknown {
        /// Which.
        node_id: u64,
    },
    /// The node is a member, under another address.
    #[error("{node_id:016x} is a member already, at {address}")]
    OtherAddress {
        /// Which.
        node_id: u64,
        /// Its address.
        address: String,
    },
    /// Another member has this address.
    #[error("{address} is the address of member {node_id:016x}")]
    AddressTaken {
        /// The address.
        address: String,
        /// Whose it is.
        node_id: u64,
    },
    /// It was a member and has left.
    #[error("{node_id:016x} was removed from this cluster, and a node id never comes back")]
    Removed {
        /// Which.
        node_id: u64,
    },
    /// There are enough.
    #[error("there may be {limit} of them")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// It does not answer.
    #[error("{address} does not answer the leader")]
    Silent {
        /// Its address.
        address: String,
    },
    /// It has not caught up.
    #[error("{address} lacks {} entries, and {limit} is the limit", lag.map_or_else(|| "all".into(), |lag| lag.to_string()))]
    Behind {
        /// Its address.
        address: String,
        /// How many it lacks, where that is known.
        lag: Option<u64>,
        /// How many it may lack.
        limit: u64,
    },
    /// After the change no majority of the voters would be alive.
    #[error("of {voters} voters {alive} would answer, and {needed} are needed; silent: {}", silent.join(", "))]
    QuorumAtRisk {
        /// Voters after the change.
        voters: usize,
        /// Those of them that answer.
        alive: usize,
        /// A majority.
        needed: usize,
        /// Addresses of those that do not.
        silent: Vec<String>,
    },
    /// It is the only voter.
    #[error("it is the last voter")]
    LastVoter,
    /// It leads.
    #[error("it leads the cluster")]
    Leads,
    /// It does not vote, so nobody can vote in its stead.
    #[error("{node_id:016x} does not vote")]
    NoVoter {
        /// Which.
        node_id: u64,
    },
    /// It votes already.
    #[error("{node_id:016x} votes already")]
    VotesAlready {
        /// Which.
        node_id: u64,
    },
    /// An earlier change is not finished.
    #[error("an earlier change of the members is not finished")]
    Changing,
    /// It was proposed, and what became of it is not known.
    #[error("the outcome is unknown: {reason}")]
    Outcome {
        /// Why.
        reason: String,
    },
    /// This node has stopped.
    #[error("this node has stopped")]
    Stopped,
}

impl MembershipError {
    /// Stable code, with a row in `docs/errors`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "NOT_LEADER",
            Self::Unknown { .. } => "MEMBER_UNKNOWN",
            Self::OtherAddress { .. } => "MEMBER_ELSEWHERE",
            Self::AddressTaken { .. } => "MEMBER_ADDRESS_TAKEN",
            Self::Removed { .. } => "MEMBER_REMOVED",
            Self::TooMany { .. } => "TOO_MANY_MEMBERS",
            Self::Silent { .. } => "MEMBER_SILENT",
            Self::Behind { .. } => "MEMBER_BEHIND",
            Self::QuorumAtRisk { .. } => "QUORUM_AT_RISK",
            Self::LastVoter => "LAST_VOTER",
            Self::Leads => "MEMBER_LEADS",
            Self::NoVoter { .. } => "NO_VOTER",
            Self::VotesAlready { .. } => "MEMBER_VOTES",
            Self::Changing => "MEMBERS_CHANGING",
            Self::Outcome { .. } => "OUTCOME_UNKNOWN",
            Self::Stopped => "NODE_STOPPED",
        }
    }

    /// What the operator may do next.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "ask the leader",
            Self::Unknown { .. } => "`cellctl store members` lists them",
            Self::OtherAddress { .. } => "start the node with that address, or remove the member and add it anew",
            Self::AddressTaken { .. } => {
                "that member's directory is gone: `cellctl store members replace OLD --by NEW`, with the new node at another address"
            }
            Self::Removed { .. } => {
                "start that node with an empty data directory, and add it again: it is a new one then"
            }
            Self::TooMany { .. } => "remove a member first",
            Self::Silent { .. } => "check that the node runs and that the leader reaches it at that address",
            Self::Behind { .. } => "wait: `cellctl store members` shows how it catches up",
            Self::QuorumAtRisk { .. } => "start the silent nodes first, or replace a dead one by a learner",
            Self::LastVoter => "add and promote another node first",
            Self::Leads => "`cellctl store members lead NODE` moves the leader first",
            Self::NoVoter { .. } => "remove it and promote the other one",
            Self::VotesAlready { .. } => "`cellctl store members remove` is enough",
            Self::Changing => "wait a moment; the leader finishes it, and a new leader as well",
            Self::Outcome { .. } => {
                "`cellctl store members` shows what became of it; the same command may be run again"
            }
            Self::Stopped => "ask another node",
        }
    }
}
