//! What a gate does with a request, as a pure function of the grant, the lease and the stamp.
//!
//! | grant of the tenant | the request's (uid, epoch) is equal | higher | lower |
//! |---|---|---|---|
//! | OWNER | admit | wait, `NOT_YET` | newest mapping (421), else refuse |
//! | HOLDING | reads: admit, writes: wait, `HOLD` | wait, `NOT_YET` | newest mapping (421), else refuse |
//! | IMPORTING | wait, `IMPORTING` | the same | the same |
//! | FENCED | wait, `FENCED` | the same | the same |
//! | REDIRECT (against its mapping) | 421 | wait, `NOT_YET` | 421 |
//! | DELETED (uid alone) | 410 | wait, `NOT_YET` | 410 |
//! | none | newest mapping (421), else wait, `NOT_OWNER` | | |
//!
//! Without a live lease everything is refused: the gate may have missed a fence.

use std::cmp::Ordering;
use std::sync::Arc;

use cell_model::{Epoch, Uid};

use crate::newest::Redirect;
use crate::wire::Code;

/// What this cell is to a tenant, as its agent has said.
#[derive(Debug, Clone)]
pub enum Role {
    /// Serves.
    Owner,
    /// Serves reads; writes wait until the hold ends.
    Holding {
        /// Names the hold in the answer that all earlier writes have finished.
        hold_id: u64,
    },
    /// Is being copied to, and refuses everybody but the mover.
    Importing,
    /// Refuses everything until the control plane has decided.
    Fenced,
    /// Hands out the newest mapping.
    Redirect(Arc<Redirect>),
    /// The tenant is deleted.
    Deleted,
}

/// A tenant's grant.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The incarnation of the tenant.
    pub uid: Uid,
    /// The epoch of the grant.
    pub epoch: Epoch,
    /// What the cell may do.
    pub role: Role,
}

/// What to do with a request now.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Let the application run.
    Admit,
    /// Look again when the grant changes; refuse with this code when the request's time is up.
    Wait(Code),
    /// Answer with this mapping.
    Redirect(Arc<Redirect>),
    /// Answer with the newest mapping if one can be had that is newer than the stamp, else do this.
    AskNewest(Otherwise),
    /// Refuse at once.
    Refuse(Code),
}

/// What to do where no newer mapping can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// As [`Verdict::Wait`].
    Wait(Code),
    /// As [`Verdict::Refuse`].
    Refuse(Code),
}

/// Decides on a request with the stamp `(uid, epoch)`.
#[must_use]
pub fn decide(grant: Option<&Grant>, lease_is_live: bool, stamp: (Uid, Epoch), is_write: bool) -> Verdict {
    if !lease_is_live {
        return Verdict::Refuse(Code::NoLease);
    }
    let Some(grant) = grant else {
        return Verdict::AskNewest(Otherwise::Wait(Code::NotOwner));
    };
    match &grant.role {
        Role::Importing => Verdict::Wait(Code::Importing),
        Role::Fenced => Verdict::Wait(Code::Fenced),
        Role::Deleted if stamp.0 > grant.uid => Verdict::Wait(Code::NotYet),
        Role::Deleted => Verdict::Refuse(Code::TenantDeleted),
        Role::Redirect(redirect) if redirect.is_older_than(stamp) => Verdict::Wait(Code::NotYet),
        Role::Redirect(redirect) => Verdict::Redirect(Arc::clone(redirect)),
        Role::Owner | Role::Holding { .. } => match stamp.cmp(&(grant.uid, grant.epoch)) {
            Ordering::Greater => Verdict::Wait(Code::NotYet),
            Ordering::Less if stamp.0 < grant.uid => Verdict::AskNewest(Otherwise::Refuse(Code::TenantDeleted)),
            Ordering::Less => Verdict::AskNewest(Otherwise::Refuse(Code::Stale)),
            Ordering::Equal if is_write && matches!(grant.role, Role::Holding { .. }) => Verdict::Wait(Code::Hold),
            Ordering::Equal => Verdict::Admit,
        },
    }
}

/// Faults that a drill plants to prove that its checker catches them. None of them exists in other builds.
#[cfg(feature = "planted")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Planted {
    /// Skip the check of epoch and role: a fenced source goes on serving.
    pub stale_epoch: bool,
    /// Serve while the tenant is still being copied to this cell.
    pub early_serve: bool,
}

#[cfg(feature = "planted")]
impl Planted {
    /// Overrules a verdict.
    #[must_use]
    pub fn spoil(self, verdict: Verdict, grant: Option<&Grant>) -> Verdict {
        let serves_wrongly = match grant.map(|grant| &grant.role) {
            Some(Role::Importing) => self.early_serve,
            Some(Role::Owner | Role::Fenced | Role::Redirect(_)) => self.stale_epoch,
            Some(Role::Holding { .. } | Role::Deleted) | None => false,
        };
        if serves_wrongly { Verdict::Admit } else { verdict }
    }
}

#[cfg(test)]
mod tests;
