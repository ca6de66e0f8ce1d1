//! What the store keeps of a tenant and of a cell.

use serde::{Deserialize, Serialize};

use crate::{
    CellId, CellTraits, Epoch, Generation, Lineage, Move, MoveId, Rev, Revision, Seq, TenantId, Uid, UnixMillis,
};

/// What a tenant has paid for; limits and weights go by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Pooled.
    #[default]
    Bronze,
    /// Pooled, stricter limits for others.
    Silver,
    /// A database of its own.
    Gold,
    /// A cell of its own.
    Platinum,
}

impl Tier {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bronze => "bronze",
            Self::Silver => "silver",
            Self::Gold => "gold",
            Self::Platinum => "platinum",
        }
    }
}

/// A tier that a move changes: what the tenant has on either cell of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TierChange {
    /// On the source: what it had when the move was asked for.
    pub source: Tier,
    /// On the target: what it gets with COMMIT.
    pub target: Tier,
}

/// Whether a cell takes part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CellState {
    /// Takes new tenants.
    #[default]
    Active,
    /// Serves what it has and takes no new tenants.
    Cordoned,
    /// An operator has said that it is gone: nothing is placed on it and nothing is moved to it.
    Dead,
}

/// A cell as the control plane knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellRecord {
    /// Its name.
    pub id: CellId,
    /// Whether it takes part.
    pub state: CellState,
    /// `host:port` of each application instance behind a gate, where routers send requests.
    pub gates: Vec<String>,
    /// `host:port` of the agent's gRPC service, where the coordinator and other agents call.
    pub agent: String,
    /// Where it stands, such as `eu-west-1`; empty where nobody said.
    pub region: String,
    /// Legal zone of its data, such as `eu`; empty where nobody said.
    pub residency: String,
    /// What else an operator has declared of it.
    #[serde(deserialize_with = "crate::layout::since_5")]
    pub traits: CellTraits,
    /// Incarnation of its agent, as last reported.
    pub generation: Generation,
    /// Revision of the last change to this record.
    pub revision: Revision,
}

/// Where in its life a tenant is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Life {
    /// Placed, but its cell has not yet durably granted it.
    Provisioning,
    /// Served.
    Live,
    /// Refused everywhere; its data is being deleted.
    Deleting {
        /// The owner holds nothing more of it.
        owner_revoked: bool,
    },
    /// Gone. The record stays as a tombstone, so that the name, made again, gets a higher uid.
    Deleted,
}

/// What a cell that was taken over has put aside: its changes that the new owner never got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tail {
    /// How many.
    pub changes: u64,
    /// Of so many bytes.
    pub bytes: u64,
    /// The cell's last change.
    pub last: Seq,
    /// None of them is missing. Where one may be (more was written than is captured, or the cell has lost its disk) only the
    /// rows of the copy, if they are there, can tell what it was.
    pub whole: bool,
}

/// How it stands with the copy of a cell that was taken over by force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Quarantine {
    /// The new owner holds the old one's changes up to here.
    pub after: Seq,
    /// What the cell has put aside; none until it was reached.
    pub tail: Option<Tail>,
    /// An operator has said that the tail is not needed any more.
    pub dropped: bool,
}

impl Quarantine {
    /// Whether the copy may be deleted when its time has come: there is nothing in it that is nowhere else, or nobody
    /// wants it.
    #[must_use]
    pub fn lets_go(&self) -> bool {
        self.dropped || self.tail.is_some_and(|tail| tail.whole && tail.changes == 0)
    }
}

/// A copy that a finished move has left behind on its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    /// Where the copy is.
    pub cell: CellId,
    /// The move that left it.
    pub move_id: MoveId,
    /// Where the tenant went: its reverse capture for this copy is to be stopped.
    pub successor: CellId,
    /// Epoch at which that cell was fenced: its tombstone carries it and reclaim checks it.
    pub fenced_epoch: Epoch,
    /// Not reclaimed before.
    pub until: UnixMillis,
    /// The cell has turned its standby copy into a tombstone that redirects, durably.
    pub retired: bool,
    /// Retention is over, or a move back is wanted: the copy is being deleted. The cell is excluded as a target
    /// until this entry is gone.
    pub reclaiming: bool,
    /// The cell was taken over by force, and what it alone has is kept apart.
    pub quarantine: Option<Quarantine>,
}

impl Retained {
    /// Whether the copy is on its way out of the record by itself: it is not there for somebody to look at.
    #[must_use]
    pub fn lets_go(&self) -> bool {
        self.quarantine.is_none_or(|quarantine| quarantine.lets_go())
    }

    /// Whether the copy may still follow its successor, who would then capture for two.
    #[must_use]
    pub const fn may_follow(&self) -> bool {
        !self.retired && self.quarantine.is_none()
    }
}

/// Everything that the store knows of one tenant: the mapping, and the move under way with all its acknowledgements.
///
/// A control node holds a million of these in memory, so what most of them do not have takes little room
/// (`a_record_takes_little_room` below).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRecord {
    /// Its name.
    pub id: TenantId,
    /// Its incarnation.
    pub uid: Uid,
    /// Incarnation of the control plane's history that last raised `epoch`.
    pub lineage: Lineage,
    /// Fencing token of the owner's grant.
    pub epoch: Epoch,
    /// Version of this record.
    pub rev: Rev,
    /// Store-wide revision of the last change to this record.
    pub revision: Revision,
    /// The one cell whose grant at `epoch` may serve the tenant.
    pub owner: CellId,
    /// Where in its life it is.
    pub life: Life,
    /// What it has paid for.
    pub tier: Tier,
    /// Legal zone that its data may not leave; empty where it may be anywhere.
    pub residency: Box<str>,
    /// The move under way. Few tenants move at once, and a move is several times as large as all else.
    pub movement: Option<Box<Move>>,
    /// Copies that earlier moves have left behind.
    pub retained: Vec<Retained>,
    /// Why it was placed where it was made; empty where somebody named the cell.
    pub placed: Box<str>,
}

impl TenantRecord {
    /// The copy left behind on `cell`, if there is one.
    #[must_use]
    pub fn retained_on(&self, cell: &CellId) -> Option<&Retained> {
        self.retained.iter().find(|retained| &retained.cell == cell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_takes_little_room() {
        // With the two counters of its `Arc` it fits into 160 bytes, which is a size that allocators have.
        assert!(size_of::<TenantRecord>() <= 144, "{}", size_of::<TenantRecord>());
    }
}
