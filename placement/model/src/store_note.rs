//! What people do to the store itself: its members, its disks, its backups. No record changes, so that it is told to the audit
//! trail by a command of its own.

use serde::{Deserialize, Serialize};

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreAction {
    /// A cluster was made of nodes.
    InitCluster,
    /// A node joined.
    AddMember,
    /// A learner votes.
    PromoteMember,
    /// A member left.
    RemoveMember,
    /// A learner took the place of a voter.
    ReplaceMember,
    /// Another node is to lead.
    MoveLeader,
    /// A node wrote a snapshot.
    Snapshot,
    /// A node dropped its log as well.
    Compact,
    /// Everything was handed out.
    Backup,
    /// This history was made of a backup.
    Restore,
}

impl StoreAction {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::InitCluster,
        Self::AddMember,
        Self::PromoteMember,
        Self::RemoveMember,
        Self::ReplaceMember,
        Self::MoveLeader,
        Self::Snapshot,
        Self::Compact,
        Self::Backup,
        Self::Restore,
    ];

    /// As the audit trail writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InitCluster => "init-cluster",
            Self::AddMember => "add-member",
            Self::PromoteMember => "promote-member",
            Self::RemoveMember => "remove-member",
            Self::ReplaceMember => "replace-member",
            Self::MoveLeader => "move-leader",
            Self::Snapshot => "snapshot",
            Self::Compact => "compact",
            Self::Backup => "backup",
            Self::Restore => "restore",
        }
    }
}

/// One such deed, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreNote {
    /// What was done,
    pub action: StoreAction,
    /// to what, as `node/10.0.0.1:7401`,
    pub subject: String,
    /// with what particulars.
    pub detail: String,
    /// [`StoreNote::ASKED`] before it is done; after that `done`, or the code of the refusal.
    pub outcome: String,
}

impl StoreNote {
    /// The outcome of what is about to be done.
    pub const ASKED: &'static str = "asked";
    /// The outcome of what was done.
    pub const DONE: &'static str = "done";
    /// Bytes of subject and detail together, and of the outcome.
    pub const BYTES_MAX: usize = 400;

    /// Whether it is as short as it has to be.
    #[must_use]
    pub const fn fits(&self) -> bool {
        self.subject.len() + self.detail.len() + self.outcome.len() <= Self::BYTES_MAX
    }
}
