//! What can go wrong with the store, one type for each thing that was asked of it.

use std::path::PathBuf;

use cell_model::{ClusterId, Lineage};

mod members;

pub use members::{MembershipError, TransferError};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The options contradict each other.
    #[error("option {option}: {rule}")]
    InvalidOption {
        /// Which.
        option: &'static str,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The data directory cannot be made or read.
    #[error("cannot use data directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no room in the data directory for the little that a start writes.
    #[error("there is no room in data directory {}", path.display())]
    Full {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process, or another store in this one, has the directory open.
    #[error("data directory {} is locked by another process", path.display())]
    Locked {
        /// Which.
        path: PathBuf,
    },
    /// The directory was written by another version of the store.
    #[error("data directory {} has format {found}, and this program reads format {expected}", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// What is read.
        expected: u32,
    },
    /// What is on disk cannot be read, or not be believed.
    #[error("what is stored in {} cannot be read", path.display())]
    Storage {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: EngineError,
    },
    /// The directory is to be looked at, and there is nowhere to put the copy that is opened for it.
    #[error("cannot copy the data directory to {}, to be looked at there", path.display())]
    Copy {
        /// Where to.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The members look for this node at another address than it says.
    #[error("the node of data directory {} is known to the members as {known}, and not as {said}", path.display())]
    Elsewhere {
        /// Which.
        path: PathBuf,
        /// Where they look for it.
        known: String,
        /// Where it says that it is.
        said: String,
    },
    /// Raft did not start.
    #[error("raft did not start: {reason}")]
    Raft {
        /// Why.
        reason: String,
    },
}

impl OpenError {
    /// Stable code, with a row in `docs/errors`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidOption { .. } => "INVALID_OPTION",
            Self::Directory { .. } => "DATA_DIRECTORY_UNUSABLE",
            Self::Full { .. } => "DISK_FULL",
            Self::Locked { .. } => "DATA_DIRECTORY_LOCKED",
            Self::Format { .. } | Self::Storage { source: EngineError::Layout { .. }, .. } => {
                "DATA_DIRECTORY_FORMAT"
            }
            Self::Storage { source: EngineError::Corrupt { .. }, .. } => "STORE_CORRUPT",
            Self::Storage { .. } => "STORE_UNREADABLE",
            Self::Copy { .. } => "NO_COPY",
            Self::Elsewhere { .. } => "MEMBER_ELSEWHERE",
            Self::Raft { .. } => "STORE_RAFT_FAILED",
        }
    }

    /// What the operator may do next.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::InvalidOption { .. } => "correct the option and start again".into(),
            Self::Full { path, .. } => {
                format!("make room on the disk of {}, and start it again: nothing is lost", path.display())
            }
            Self::Directory { path, .. } => {
                format!("check that {} exists, may be written, and is the directory of one node", path.display())
            }
            Self::Locked { .. } => "stop the other process, or give each node a data directory of its own".into(),
            Self::Format { .. } | Self::Storage { source: EngineError::Layout { .. }, .. } => {
                "start the version of the program that wrote it; nothing has been changed".into()
            }
            Self::Storage { path, .. } if path.ends_with("sm") => format!(
                "move {} away and start again: the state is made again from the snapshot and the log",
                path.display()
            ),
            Self::Storage { .. } => {
                "move the whole data directory away and let this node join as a new one; never put \
                 an older copy back, because the votes in it are out of date"
                    .into()
            }
            Self::Copy { .. } => {
                "have TMPDIR name a directory with room for it, which may be on any disk; the data directory \
                 itself stays as it is, whatever is found"
                    .into()
            }
            Self::Elsewhere { known, .. } => format!(
                "start it with --advertise {known}, if it is not running elsewhere; at another address it joins as a new \
                 node: give it an empty data directory, and `cellctl store members replace` the old one by it"
            ),
            Self::Raft { .. } => "the log of this process says more".into(),
        }
    }
}

/// What a storage engine may answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The operating system refused.
    #[error("{operation} failed: {reason}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        reason: String,
    },
    /// A value is not what was written: its checksum does not fit, or a part of it is missing.
    #[error("{what} is corrupt: {detail}")]
    Corrupt {
        /// Which value.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A whole value, written by a version of the program that lays it out in another way.
    #[error("{what} has layout {found}, and this program reads layout {expected}")]
    Layout {
        /// Which value.
        what: String,
        /// Its layout.
        found: u8,
        /// What is read.
        expected: u8,
    },
    /// An earlier sync failed, so nothing that was written since may be believed.
    #[error("an earlier sync failed: {reason}")]
    Poisoned {
        /// What the system said then.
        reason: String,
    },
}

impl From<EngineError> for std::io::Error {
    fn from(error: EngineError) -> Self {
        let kind = match &error {
            EngineError::Corrupt { .. } | EngineError::Layout { .. } => std::io::ErrorKind::InvalidData,
            EngineError::Io { .. } | EngineError::Poisoned { .. } => std::io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Why a running store has stopped.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Log or state could not be written or read. The process must end: what it holds in memory may not be on disk.
    #[error("storage failed: {reason}")]
    Storage {
        /// What failed.
        reason: String,
    },
    /// Raft ended by itself.
    #[error("raft stopped: {reason}")]
    Raft {
        /// Why.
        reason: String,
    },
}

/// What became of a submitted command that got no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// It surely did not run: another node leads, or none does at the moment.
    #[error("this node is not the leader")]
    NotLeader {
        /// `host:port` of the leader, where one is known.
        leader: Option<String>,
    },
    /// It surely did not run: this node leads, but no majority has answered it in time. Either one does again, or elects
    /// another leader.
    #[error("this node leads, and no majority confirms it: {reason}")]
    NoQuorum {
        /// For how long, or behind what the command would have had to wait.
        reason: String,
    },
    /// It surely did not run: too many commands wait already.
    #[error("{queued} commands wait already")]
    Busy {
        /// The limit.
        queued: usize,
    },
    /// It surely did not run: the disk of this node is nearly full.
    #[error("{reason}")]
    DiskFull {
        /// How much there is and how much is needed.
        reason: String,
    },
    /// It surely did not run: it is too large.
    #[error("the command takes {bytes} bytes, and {limit} is the limit")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// It may or may not have run, and may yet run. A retry with the same request id finds out.
    #[error("the outcome is unknown: {reason}")]
    Unknown {
        /// Why.
        reason: String,
    },
    /// It surely did not run: this node has stopped.
    #[error("this node has stopped")]
    Stopped,
}

/// Why a linearizable read was not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Another node leads, or none does at the moment.
    #[error("this node is not the leader")]
    NotLeader {
        /// `host:port` of the leader, where one is known.
        leader: Option<String>,
    },
    /// No majority answered in time.
    #[error("no majority has confirmed the read: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// This node has stopped.
    #[error("this node has stopped")]
    Stopped,
}

/// Why a node does not agree to belong to a cluster.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClaimError {
    /// It belongs to another one already.
    #[error("the data directory belongs to cluster {actual}, not to {wanted}")]
    OtherCluster {
        /// Which was asked for.
        wanted: ClusterId,
        /// Which it is.
        actual: ClusterId,
    },
    /// Zero names no cluster.
    #[error("0 is not a cluster id")]
    Zero,
    /// The claim could not be made durable.
    #[error("the claim could not be written")]
    Storage(#[source] EngineError),
}

/// Why a cluster could not be made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InitializeError {
    /// This node has not been claimed, or for another cluster.
    #[error("this node is not claimed for cluster {wanted}")]
    NotClaimed {
        /// Which was asked for.
        wanted: ClusterId,
    },
    /// The list of members makes no cluster.
    #[error("members: {rule}")]
    InvalidMembers {
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The cluster exists, with other members.
    #[error("the cluster has been made already, with other members")]
    Exists,
    /// Raft refused or has stopped.
    #[error("raft refused: {reason}")]
    Raft {
        /// Why.
        reason: String,
    },
}

/// Why a snapshot was not made, or the log not shortened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompactError {
    /// There is no room for it.
    #[error("{reason}")]
    Full {
        /// How much there is and how much is needed.
        reason: String,
    },
    /// It goes on, but was not done in time.
    #[error("it was not done in time")]
    TimedOut,
    /// This node has stopped.
    #[error("this node has stopped")]
    Stopped,
}

/// Why a backup was not made, is not to be believed, or was not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no room for it.
    #[error("{reason}")]
    Full {
        /// How much there is and how much is needed.
        reason: String,
    },
    /// It cannot be read or written.
    #[error("the backup cannot be read or written")]
    Read(#[source] std::io::Error),
    /// The disk refuses, or a part is not what was written.
    #[error(transparent)]
    Engine(EngineError),
    /// There is something where the restored data is to go.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// Where.
        path: PathBuf,
    },
    /// The history that was asked for is not above that of the backup.
    #[error("lineage {wanted} is not above {backup}, which the backup is of")]
    Lineage {
        /// What was asked for.
        wanted: Lineage,
        /// Whose state it is.
        backup: Lineage,
    },
    /// The history that was asked for is too far above that of the backup: its revisions would be no numbers any more.
    #[error("lineage {wanted} is above {most}, the highest that this backup can be restored to")]
    LineageTooHigh {
        /// What was asked for.
        wanted: Lineage,
        /// What may be asked for.
        most: Lineage,
    },
    /// The new data directory cannot be used.
    #[error(transparent)]
    Open(OpenError),
    /// The new data directory does not take its cluster.
    #[error(transparent)]
    Claim(ClaimError),
}

impl BackupError {
    /// Stable code, with a row in `docs/errors`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Full { .. } => "DISK_FULL",
            Self::Read(_) => "BACKUP_UNREADABLE",
            Self::Engine(EngineError::Corrupt { .. }) => "BACKUP_CORRUPT",
            Self::Engine(EngineError::Layout { .. }) => "BACKUP_FORMAT",
            Self::Engine(_) | Self::Claim(_) => "STORE_UNWRITABLE",
            Self::NotEmpty { .. } => "DIRECTORY_NOT_EMPTY",
            Self::Lineage { .. } => "LINEAGE_TOO_LOW",
            Self::LineageTooHigh { .. } => "LINEAGE_TOO_HIGH",
            Self::Open(error) => error.code(),
        }
    }

    /// What the operator may do next.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Full { .. } => "make room on the disk of the node".into(),
            Self::Read(_) => "check the path and its rights".into(),
            Self::Engine(EngineError::Corrupt { .. }) => {
                "take another backup: this one was damaged or cut off".into()
            }
            Self::Engine(EngineError::Layout { .. }) => {
                "restore it with the version of the program that wrote it".into()
            }
            Self::Engine(_) | Self::Claim(_) => "check the disk".into(),
            Self::Lineage { backup, .. } => {
                format!("name a lineage above {backup} and above every one that the cells have followed, or none")
            }
            Self::LineageTooHigh { most, .. } => {
                format!("name a lineage up to {most}, above every one that the cells have followed")
            }
            Self::NotEmpty { .. } => "name a directory that does not exist yet; nothing is ever overwritten".into(),
            Self::Open(error) => error.hint(),
        }
    }
}
