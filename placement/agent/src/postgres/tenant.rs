//! One tenant in this cell: its records as the database has them, and what of it is only in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cell_model::{Attempt, Digest, Seq, TenantId};
use cell_protos::v1 as wire;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::captures::RowKey;
use super::feed::Feed;
use super::follower::Ask;
use super::leaping::Leapt;
use super::records::{Copied, Known};
use super::seal::Seal;
use crate::board::{Board, Posted};
use crate::follow::Progress;
use crate::hold::Holds;
use crate::record::{Control, Role, TailRecord};
use crate::refusal::Refusal;

/// Digests at cuts that are remembered.
const CUTS: usize = 4;

/// See the module.
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    /// Whoever changes the control has this; it is held while the database makes the change durable.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// The stream to the follower. Whoever has the lock decides what is sent next.
    pub(crate) feed: tokio::sync::Mutex<Option<Feed>>,
    /// Whoever looks for rows that differ, or puts them in place, has this.
    pub(crate) mending: tokio::sync::Mutex<()>,
    core: Mutex<Core>,
    changed: watch::Sender<u64>,
}

/// Everything of a tenant behind its lock, which is never held across a wait.
#[derive(Default)]
pub(crate) struct Core {
    pub(crate) control: Option<Control>,
    /// How often the control was changed, as the database has counted it.
    pub(crate) number: u64,
    pub(crate) copied: Option<Copied>,
    pub(crate) holds: Holds,
    /// The session that holds the exclusive lock, from the seal on.
    pub(crate) seal: Option<Seal>,
    pub(crate) progress: Progress,
    /// What the rows added up to at cuts, or why that could not be found out.
    pub(crate) cuts: BTreeMap<(Seq, Attempt), Result<Digest, Refusal>>,
    /// What may be asked of the owner, while this cell follows it.
    pub(crate) asks: Option<mpsc::Sender<Ask>>,
    /// The rows that were found to differ, and where.
    pub(crate) differing: (Seq, Vec<RowKey>),
    /// The next chunk waits for changes to be applied.
    pub(crate) held_back: bool,
    /// In which files the rows were when both cells were last known to have the same.
    pub(crate) files: String,
    /// Its rows are kept until an operator has looked at them: why.
    pub(crate) kept: Option<String>,
    /// The end of the log behind what was last given or taken, until standbys have it.
    pub(crate) unconfirmed: Option<Seq>,
    /// A change was sent to the database and not answered: it may have been made.
    pub(crate) doubted: bool,
    /// What was put aside since this cell was taken over.
    pub(crate) tail: Option<TailRecord>,
    /// This process has started in the middle of a move, and nobody has said yet who owns: see [`super::asking`].
    pub(crate) unasked: bool,
    /// The last change that its owner was told to be durable here.
    pub(crate) acknowledged: Seq,
    /// The newest stream to a follower.
    pub(crate) streams: u64,
    /// Rows and bytes as they were last counted.
    pub(crate) counted: (u64, u64),
    /// The last digest of all rows.
    pub(crate) digest: Digest,
    /// Where its sequences stood before it is taken over by force.
    pub(crate) leapt: Leapt,
}

impl Tenant {
    pub(crate) fn new(id: TenantId, known: Option<Known>) -> Self {
        let mut core = Core::default();
        core.knows(known);
        Self {
            id,
            turn: tokio::sync::Mutex::default(),
            feed: tokio::sync::Mutex::default(),
            mending: tokio::sync::Mutex::default(),
            core: Mutex::new(core),
            changed: watch::Sender::new(0),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes everybody who waits for something about this tenant.
    pub(crate) fn notify(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl Core {
    /// What the database has.
    pub(crate) fn knows(&mut self, known: Option<Known>) {
        (self.control, self.copied, self.number) = match known {
            Some(Known { control, copied, number }) => (Some(control), copied, number),
            None => (None, None, 0),
        };
    }

    /// What is known beyond doubt.
    pub(crate) fn takes(&mut self, known: Option<Known>) {
        self.knows(known);
        self.doubted = false;
    }

    /// What this cell is to the tenant, for steps that need it to be something.
    pub(crate) fn known(&self) -> Result<&Control, Refusal> {
        self.control.as_ref().ok_or_else(|| Refusal::new("NOT_OWNER", "this cell knows nothing of the tenant"))
    }

    /// Changes are still being put aside: they are in the log until they are.
    pub(crate) fn puts_aside(&self) -> bool {
        self.tail.as_ref().is_some_and(|tail| !tail.done)
    }

    /// More of it is written down; unless it was let go of meanwhile.
    pub(crate) fn goes_on_putting_aside(&mut self, now: &TailRecord) {
        if let Some(tail) = self.tail.as_mut().filter(|tail| tail.move_id == now.move_id) {
            tail.clone_from(now);
        }
    }

    /// Whether rows of the tenant are here, whole or in part, or what was put aside of them.
    pub(crate) fn has_copy(&self) -> bool {
        self.copied.is_some()
            || self.tail.is_some()
            || self.control.as_ref().is_some_and(|control| control.emptying)
    }

    /// Whether every row is here.
    pub(crate) fn is_complete(&self) -> bool {
        self.copied.as_ref().is_some_and(|copied| copied.reach.done)
    }

    pub(crate) fn applied(&self) -> Seq {
        self.copied.as_ref().map_or(Seq(0), |copied| copied.applied)
    }

    /// Each comparison is remembered for itself, also where an earlier one was at the same change.
    pub(crate) fn remember_cut(&mut self, cut: (Seq, Attempt), digest: Result<Digest, Refusal>) {
        self.cuts.insert(cut, digest);
        while self.cuts.len() > CUTS {
            // Never the newest one, whatever its position: somebody waits for it.
            let Some(oldest) = self.cuts.keys().find(|known| **known != cut).copied() else { return };
            self.cuts.remove(&oldest);
        }
    }

    /// Tells the gates what this cell is to the tenant now.
    pub(crate) fn post(&self, tenant: &TenantId, board: &Board) {
        if let Some(mut posted) = self.posted(Instant::now()) {
            if self.unasked && matches!(posted.role, wire::Role::Owner | wire::Role::Holding) {
                // Everybody waits, as behind a fence.
                (posted.role, posted.hold) = (wire::Role::Fenced, None);
            }
            board.post(tenant, posted);
        }
    }

    /// What this cell is to the tenant, as gates see it.
    pub(crate) fn posted(&self, now: Instant) -> Option<Posted> {
        let control = self.control.as_ref()?;
        let hold = self.holds.standing(now).map(|hold| (hold.id, hold.deadline));
        let (role, hold) = match control.role {
            Role::Nothing => (wire::Role::None, None),
            Role::Owner if hold.is_some() => (wire::Role::Holding, hold),
            Role::Owner => (wire::Role::Owner, None),
            Role::Importing => (wire::Role::Importing, None),
            Role::Fenced { .. } => (wire::Role::Fenced, None),
            Role::Redirect => (wire::Role::Redirect, None),
            Role::Deleted => (wire::Role::Deleted, None),
        };
        let mapping = control.mapping.clone().filter(|_| role == wire::Role::Redirect);
        Some(Posted { uid: control.uid, epoch: control.epoch, role, hold, mapping })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_is_remembered_also_where_older_ones_were_at_higher_positions() {
        let mut core = Core::default();
        let digest = |rows| Ok(Digest { rows, sum: 1 });
        for seq in 1_000..1_010 {
            core.remember_cut((Seq(seq), Attempt(1)), digest(seq));
        }
        // The log of the other cell is shorter.
        core.remember_cut((Seq(7), Attempt(2)), digest(7));
        assert_eq!(core.cuts.get(&(Seq(7), Attempt(2))), Some(&digest(7)));
        assert_eq!(core.cuts.len(), CUTS);
    }
}
