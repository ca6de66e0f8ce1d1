//! How the services say no: a gRPC code for machines, a stable code and a hint as trailers, a sentence.

use cell_client::trailer;
use cell_model::Rejected;
use cell_protos::Malformed;
use cell_store::{
    BackupError, ClaimError, CompactError, InitializeError, MembershipError, ReadError, SubmitError, TransferError,
};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// A leader that no majority confirms at the moment.
const NO_QUORUM: &str = "NO_QUORUM";

/// A refusal with its code and what to do next.
pub(crate) fn refusal(code: Code, cellway_code: &'static str, message: impl Into<String>, hint: &str) -> Status {
    let mut status = Status::new(code, message);
    status.metadata_mut().insert(trailer::CODE, MetadataValue::from_static(cellway_code));
    // A hint names ids, which are ASCII; whatever is not would make no trailer.
    if let Ok(hint) = hint.replace(|c: char| !c.is_ascii() || c.is_ascii_control(), "?").parse() {
        status.metadata_mut().insert(trailer::HINT, hint);
    }
    status
}

/// What the model has refused.
pub(crate) fn rejected(rejected: &Rejected) -> Status {
    let code = match rejected {
        Rejected::TenantUnknown { .. } | Rejected::CellUnknown { .. } | Rejected::MoveUnknown { .. } => {
            Code::NotFound
        }
        Rejected::TenantExists { .. } | Rejected::CellExists { .. } => Code::AlreadyExists,
        Rejected::InvalidOption { .. } => Code::InvalidArgument,
        Rejected::StaleRevision { .. } => Code::Aborted,
        _ => Code::FailedPrecondition,
    };
    refusal(code, rejected.code(), rejected.to_string(), &rejected.hint())
}

/// A request that makes no sense.
pub(crate) fn malformed(error: &Malformed) -> Status {
    refusal(Code::InvalidArgument, Malformed::CODE, error.to_string(), "correct the field and send it again")
}

/// This node does not lead; `leader` may.
pub(crate) fn not_leader(leader: Option<&str>, belongs: bool) -> Status {
    let (message, hint) = match leader {
        Some(leader) => (format!("this node is not the leader, {leader} is"), "ask the leader"),
        None if belongs => (
            "this node is not the leader, and knows of none".to_owned(),
            "try again: a leader is elected in a second",
        ),
        None => (
            "this node belongs to no cluster yet".to_owned(),
            "`cellctl cluster init` makes a cluster of the nodes",
        ),
    };
    let mut status = refusal(Code::FailedPrecondition, trailer::NOT_LEADER, message, hint);
    if let Some(leader) = leader.and_then(|leader| leader.parse().ok()) {
        status.metadata_mut().insert(trailer::LEADER, leader);
    }
    status
}

fn stopped() -> Status {
    refusal(Code::Unavailable, "NODE_STOPPED", "this node is stopping", "ask another node")
}

/// A command that got no reply. `belongs`: this node belongs to a cluster.
pub(crate) fn submit(error: &SubmitError, belongs: bool) -> Status {
    match error {
        SubmitError::NotLeader { leader } => not_leader(leader.as_deref(), belongs),
        SubmitError::NoQuorum { .. } => refusal(
            Code::Unavailable,
            NO_QUORUM,
            error.to_string(),
            "it has not run: try again in a moment; if it lasts, check that a majority of the nodes runs",
        ),
        SubmitError::Busy { .. } => {
            refusal(Code::ResourceExhausted, "STORE_BUSY", error.to_string(), "try again a little later")
        }
        SubmitError::DiskFull { .. } => refusal(
            Code::ResourceExhausted,
            trailer::DISK_FULL,
            error.to_string(),
            "make room on the disk of the leader: it accepts again by itself",
        ),
        SubmitError::TooLarge { .. } => {
            refusal(Code::InvalidArgument, "COMMAND_TOO_LARGE", error.to_string(), "name fewer or shorter things")
        }
        SubmitError::Unknown { .. } => refusal(
            Code::Unknown,
            trailer::OUTCOME_UNKNOWN,
            error.to_string(),
            "send it again with the same request id: it runs once",
        ),
        SubmitError::Stopped => stopped(),
    }
}

/// A read that could not be made linearizable.
pub(crate) fn read(error: &ReadError, belongs: bool) -> Status {
    match error {
        ReadError::NotLeader { leader } => not_leader(leader.as_deref(), belongs),
        ReadError::Unavailable { .. } => refusal(
            Code::Unavailable,
            NO_QUORUM,
            error.to_string(),
            "check that a majority of the nodes runs, or allow a stale answer",
        ),
        ReadError::Stopped => stopped(),
    }
}

/// A claim that was refused.
pub(crate) fn claim(error: &ClaimError) -> Status {
    let (code, cellway_code, hint) = match error {
        ClaimError::OtherCluster { .. } => (
            Code::FailedPrecondition,
            "OTHER_CLUSTER",
            "give the node an empty data directory to let it join another",
        ),
        ClaimError::Zero => (Code::InvalidArgument, Malformed::CODE, "`cellctl cluster init` chooses an id"),
        ClaimError::Storage(_) => (Code::Internal, "STORE_UNWRITABLE", "check the disk of the node"),
    };
    refusal(code, cellway_code, error.to_string(), hint)
}

/// A cluster that could not be made.
pub(crate) fn initialize(error: &InitializeError) -> Status {
    let (code, cellway_code, hint) = match error {
        InitializeError::NotClaimed { .. } => {
            (Code::FailedPrecondition, "NOT_CLAIMED", "`cellctl cluster init` claims every node first")
        }
        InitializeError::InvalidMembers { .. } => {
            (Code::InvalidArgument, Malformed::CODE, "name each node once, with an address of its own")
        }
        InitializeError::Exists => {
            (Code::FailedPrecondition, "CLUSTER_EXISTS", "`cellctl cluster status` shows the cluster")
        }
        _ => (Code::Internal, "STORE_RAFT_FAILED", "the log of the node says more"),
    };
    refusal(code, cellway_code, error.to_string(), hint)
}

/// A change of the members that was refused.
pub(crate) fn membership(error: &MembershipError, belongs: bool) -> Status {
    let code = match error {
        MembershipError::NotLeader { leader } => return not_leader(leader.as_deref(), belongs),
        MembershipError::Stopped => return stopped(),
        MembershipError::Unknown { .. } => Code::NotFound,
        MembershipError::Outcome { .. } => Code::Unknown,
        MembershipError::Changing => Code::Aborted,
        _ => Code::FailedPrecondition,
    };
    refusal(code, error.code(), error.to_string(), error.hint())
}

/// What is told to the audit trail before it is done, and could not be told.
pub(crate) fn not_told(reason: &str) -> Status {
    refusal(
        Code::Unavailable,
        "NOT_IN_AUDIT",
        format!("it was not done, because no leader has taken it into the audit trail: {reason}"),
        "try again in a moment; `cellctl store members` shows whether somebody leads",
    )
}

/// A leader that was not moved.
pub(crate) fn transfer(error: &TransferError, leader: Option<&str>) -> Status {
    match error {
        TransferError::NotLeader => not_leader(leader, true),
        TransferError::NoCandidate => refusal(
            Code::FailedPrecondition,
            "NO_VOTER",
            "that node does not vote in this cluster",
            "`cellctl store members` lists the voters",
        ),
        TransferError::TimedOut => refusal(
            Code::DeadlineExceeded,
            "LEADER_NOT_MOVED",
            error.to_string(),
            "`cellctl store members` shows who leads and how far the others are",
        ),
        TransferError::Stopped => stopped(),
    }
}

/// A snapshot that was not made.
pub(crate) fn compact(error: &CompactError) -> Status {
    match error {
        CompactError::Full { .. } => refusal(
            Code::ResourceExhausted,
            trailer::DISK_FULL,
            error.to_string(),
            "make room on the disk of the node",
        ),
        CompactError::TimedOut => refusal(
            Code::DeadlineExceeded,
            "SNAPSHOT_NOT_DONE",
            error.to_string(),
            "it goes on: `cellctl store status` shows what the snapshot covers",
        ),
        CompactError::Stopped => stopped(),
    }
}

/// A backup that was not made.
pub(crate) fn backup(error: &BackupError) -> Status {
    let code = match error {
        BackupError::Full { .. } => Code::ResourceExhausted,
        _ => Code::Internal,
    };
    refusal(code, error.code(), error.to_string(), &error.hint())
}

/// A watcher whose stream is ended; it may resume.
pub(crate) fn watch_ended(code: Code, cellway_code: &'static str, message: &str) -> Status {
    refusal(code, cellway_code, message, "watch again from the last revision")
}
