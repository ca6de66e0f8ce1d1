//! What the agent keeps durably: one record of its own, and two per tenant.
//!
//! [`Control`] changes with steps and says what this cell is to the tenant. [`Position`] changes with every write and
//! says where its data stands. Both are preconditions of every batch, so that no write survives a change of grant.

use cell_model::{Attempt, CellId, Digest, Epoch, Generation, Leg, Lineage, MoveId, Seq, Term, Uid};
use cell_trust::SignedMapping;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of every record's encoding.
const VERSION: u8 = 1;

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Another version's.
    #[error("a {kind} record of version {found}; this program reads version {VERSION}")]
    Version {
        /// What it should be.
        kind: &'static str,
        /// Its version.
        found: u8,
    },
    /// Damaged.
    #[error("a {kind} record that cannot be read: {reason}")]
    Damaged {
        /// What it should be.
        kind: &'static str,
        /// Why not.
        reason: String,
    },
}

/// A record with its encoding.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// What it is called in errors.
    const KIND: &'static str;

    fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("plain data into a growing buffer")
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => postcard::from_bytes(rest)
                .map_err(|error| RecordError::Damaged { kind: Self::KIND, reason: error.to_string() }),
            Some((&found, _)) => Err(RecordError::Version { kind: Self::KIND, found }),
            None => Err(RecordError::Damaged { kind: Self::KIND, reason: "it is empty".into() }),
        }
    }
}

/// The agent's own record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentRecord {
    /// Whose data this is.
    pub(crate) cell: CellId,
    /// One more with each opening.
    pub(crate) generation: Generation,
    /// The highest that a step has carried.
    pub(crate) lineage: Lineage,
    /// The highest that a step of that lineage has carried.
    pub(crate) term: Term,
}

impl Record for AgentRecord {
    const KIND: &'static str = "agent";
}

/// What this cell is to a tenant. A hold is not among them: it is not durable and lapses by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Nothing: remembered only so that nothing older comes back.
    #[default]
    Nothing,
    /// Serves.
    Owner,
    /// Is copied to.
    Importing,
    /// Refuses everything until the control plane has decided.
    Fenced {
        /// By this move,
        move_id: MoveId,
        /// in this attempt,
        attempt: Attempt,
        /// and nothing was written after this.
        seq: Seq,
    },
    /// Hands out the newest mapping; follows the new owner where there is a [`Follow`].
    Redirect,
    /// The tenant is deleted.
    Deleted,
}

/// Changes are kept for another cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Capture {
    /// The move that it is for.
    pub(crate) move_id: MoveId,
    /// Changes after this one are kept, as far as the follower does not hold them.
    pub(crate) from: Seq,
    /// It grew beyond its bound and was thrown away: the move cannot go on.
    pub(crate) overflowed: bool,
}

/// Another cell's changes are applied here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Follow {
    /// The move that it is for.
    pub(crate) move_id: MoveId,
    /// Which way that move went when the copy was asked for.
    pub(crate) leg: Option<Leg>,
    /// The other cell.
    pub(crate) cell: CellId,
    /// `host:port` of its agent.
    pub(crate) agent: String,
}

/// What this cell is to a tenant, and what a move has made here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Control {
    /// The incarnation.
    pub(crate) uid: Uid,
    /// The epoch of the grant; never falls for one uid.
    pub(crate) epoch: Epoch,
    /// The grant.
    pub(crate) role: Role,
    /// The newest move that a step has named,
    pub(crate) move_id: MoveId,
    /// and its highest attempt.
    pub(crate) attempt: Attempt,
    /// Copies made by moves up to this one have ended here, whatever arrives late.
    pub(crate) ended: MoveId,
    /// What is left of the rows is being deleted.
    pub(crate) emptying: bool,
    /// Changes are kept for another cell.
    pub(crate) capture: Option<Capture>,
    /// Writes are answered only when the follower holds them.
    pub(crate) sync: bool,
    /// Another cell's changes are applied here.
    pub(crate) follow: Option<Follow>,
    /// When this cell owns, it captures for the other one of this move from its first write on.
    pub(crate) reverse: Option<MoveId>,
    /// What a stale router is told.
    pub(crate) mapping: Option<SignedMapping>,
}

impl Control {
    /// Something is being made of the tenant's rows, here or in another cell by way of this one.
    pub(crate) const fn is_under_way(&self) -> bool {
        self.emptying || self.needs_log() || self.follow.is_some()
    }

    /// Changes are captured for another cell, or will be as soon as this one owns.
    pub(crate) const fn needs_log(&self) -> bool {
        self.capture.is_some() || self.reverse.is_some()
    }
}

impl Record for Control {
    const KIND: &'static str = "control";
}

/// How far the copy of a tenant goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Frontier {
    /// Nothing is copied yet.
    #[default]
    Start,
    /// Every key up to this one.
    At(Vec<u8>),
    /// Everything.
    End,
}

impl Frontier {
    /// Whether `key` is among what is copied.
    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        match self {
            Self::Start => false,
            Self::At(last) => key <= last.as_slice(),
            Self::End => true,
        }
    }
}

/// Where a tenant's data stands. Absent where this cell has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The last change that is in the rows.
    pub(crate) seq: Seq,
    /// What the rows add up to.
    pub(crate) digest: Digest,
    /// Keys and values together.
    pub(crate) bytes: u64,
    /// How far the rows go.
    pub(crate) frontier: Frontier,
    /// Bytes of captured changes that are still kept.
    pub(crate) captured_bytes: u64,
    /// Captured changes up to this one are gone: the follower holds them.
    pub(crate) trimmed: Seq,
}

impl Record for Position {
    const KIND: &'static str = "position";
}

impl Position {
    /// An empty tenant of a new owner.
    pub(crate) fn empty() -> Self {
        Self { frontier: Frontier::End, ..Self::default() }
    }
}

/// Where this cell took a tenant over by force: the old owner's last change that it held then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// In this move.
    pub(crate) move_id: MoveId,
    /// There.
    pub(crate) seq: Seq,
}

impl Record for Taken {
    const KIND: &'static str = "takeover";
}

/// What this cell has put aside since it was taken over: changes that the new owner never got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TailRecord {
    /// In this move.
    pub(crate) move_id: MoveId,
    /// It owned at this epoch at the most.
    pub(crate) fenced_epoch: Epoch,
    /// The new owner holds its changes up to here.
    pub(crate) after: Seq,
    /// Its last change.
    pub(crate) last: Seq,
    /// None of those between is missing.
    pub(crate) whole: bool,
    /// The first of those that are there,
    pub(crate) first: Seq,
    /// and the last that was put aside so far.
    pub(crate) moved: Seq,
    /// How many were put aside so far,
    pub(crate) changes: u64,
    /// and of how many bytes.
    pub(crate) bytes: u64,
    /// All are.
    pub(crate) done: bool,
}

impl Record for TailRecord {
    const KIND: &'static str = "tail";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_a_strange_one_is_named() {
        let control = Control { uid: Uid(4), epoch: Epoch(2), role: Role::Owner, ..Control::default() };
        let mut bytes = control.encode();
        assert_eq!(Control::decode(&bytes).unwrap(), control);
        assert!(Control::decode(&[]).is_err());
        assert!(matches!(Control::decode(&bytes[..2]), Err(RecordError::Damaged { .. })));
        bytes[0] = 9;
        assert!(matches!(Control::decode(&bytes), Err(RecordError::Version { found: 9, .. })));
    }
}
