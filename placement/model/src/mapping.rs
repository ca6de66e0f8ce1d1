//! What routers and gates need to know of a tenant: the public face of its record.

use serde::{Deserialize, Serialize};

use crate::{CellId, Epoch, Life, Lineage, Phase, Rev, Revision, TenantId, TenantRecord, Tier, Uid};

/// The state of the mapping, in the words of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
pub enum MappingState {
    /// Placed, not yet granted: requests wait or get 503.
    Provisioning,
    /// One cell owns.
    Active,
    /// One cell owns, reads there; writes are captured and go to the other cell too, in the owner's order.
    Migrating,
    /// The other cell owns since COMMIT; the old one follows.
    Cutover,
    /// As Active, with a copy left behind that redirects.
    Final,
    /// Refused everywhere.
    Deleted,
}

impl MappingState {
    /// As tables print it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "PROVISIONING",
            Self::Active => "ACTIVE",
            Self::Migrating => "MIGRATING",
            Self::Cutover => "CUTOVER",
            Self::Final => "FINAL",
            Self::Deleted => "DELETED",
        }
    }
}

/// What a router does with requests while a cutover is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// Send everything on.
    #[default]
    None,
    /// Let writes wait.
    Writes,
    /// Let everything wait.
    All,
}

/// tenant → cell, as routers hold it and as it is signed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mapping {
    /// Incarnation of the control plane's history.
    pub lineage: Lineage,
    /// Whose.
    pub tenant: TenantId,
    /// Incarnation of the tenant.
    pub uid: Uid,
    /// Fencing token of the owner's grant.
    pub epoch: Epoch,
    /// Version of the record.
    pub rev: Rev,
    /// Store-wide revision of that version.
    pub revision: Revision,
    /// The state.
    pub state: MappingState,
    /// The cell that owns.
    pub owner: CellId,
    /// The other cell of a move under way.
    pub peer: Option<CellId>,
    /// What is to wait.
    pub hold: Hold,
    /// Limits and weights go by it.
    pub tier: Tier,
}

impl Mapping {
    /// Orders ownership: a mapping may replace another only if this is higher, or equal with a higher [`Self::rev`].
    #[must_use]
    pub const fn fencing(&self) -> (Lineage, Uid, Epoch) {
        (self.lineage, self.uid, self.epoch)
    }

    /// Whether this one is newer than `other`, for a table that holds `other`.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> bool {
        (self.fencing(), self.rev) > (other.fencing(), other.rev)
    }
}

impl TenantRecord {
    /// The public face of this record.
    #[must_use]
    pub fn mapping(&self) -> Mapping {
        let (state, hold) = match (self.life, &self.movement) {
            (Life::Provisioning, _) => (MappingState::Provisioning, Hold::None),
            (Life::Deleting { .. } | Life::Deleted, _) => (MappingState::Deleted, Hold::None),
            (Life::Live, None) if self.retained.is_empty() => (MappingState::Active, Hold::None),
            (Life::Live, None) => (MappingState::Final, Hold::None),
            (Life::Live, Some(movement)) => {
                let state = match movement.phase {
                    _ if movement.is_committed() => MappingState::Cutover,
                    // On the way back the reverse stream runs until COMMIT(A, e+2).
                    _ if movement.leg == crate::Leg::Back => MappingState::Cutover,
                    Phase::Preflight | Phase::Cleanup if self.retained.is_empty() => MappingState::Active,
                    Phase::Preflight | Phase::Cleanup => MappingState::Final,
                    Phase::Prepare
                    | Phase::Backfill
                    | Phase::CatchUp
                    | Phase::Verify
                    | Phase::Sync
                    | Phase::Hold
                    | Phase::Fenced
                    | Phase::Activate
                    | Phase::Soak
                    | Phase::Unfence => MappingState::Migrating,
                };
                let hold = match movement.phase {
                    // Where no gate is, nobody but the routers keeps reads from an owner that is none any more.
                    Phase::Hold if movement.leaves_ungated() => Hold::All,
                    Phase::Hold => Hold::Writes,
                    Phase::Fenced | Phase::Unfence => Hold::All,
                    // And nobody but they waits until the new owner may serve.
                    Phase::Activate if movement.enters_ungated() => Hold::All,
                    Phase::Preflight
                    | Phase::Prepare
                    | Phase::Backfill
                    | Phase::CatchUp
                    | Phase::Verify
                    | Phase::Sync
                    | Phase::Activate
                    | Phase::Soak
                    | Phase::Cleanup => Hold::None,
                };
                (state, hold)
            }
        };
        let peer = self.movement.as_ref().map(|movement| {
            if movement.source == self.owner { movement.target.clone() } else { movement.source.clone() }
        });
        Mapping {
            lineage: self.lineage,
            tenant: self.id.clone(),
            uid: self.uid,
            epoch: self.epoch,
            rev: self.rev,
            revision: self.revision,
            state,
            owner: self.owner.clone(),
            peer,
            hold,
            tier: self.tier,
        }
    }
}
