//! One tenant in this cell: its two durable records, and what of it is only in memory, behind one lock.
//!
//! Whatever changes a tenant goes through [`Core::commit`]: one batch whose preconditions are both records as they
//! were read. Nothing waits while it holds the lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cell_gate::RequestStamp;
use cell_model::{Seq, TenantId, Uid};
use cell_protos::v1 as wire;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::board::{Board, Posted};
use crate::digest::RowHash;
use crate::durable::{Durable, Ticket};
use crate::engine::Batch;
use crate::follow::{Mending, Progress};
use crate::hold::Holds;
use crate::keys::{self, TenantKeys};
use crate::recent::Recent;
use crate::record::{Control, Frontier, Position, Record, Role, TailRecord};
use crate::refusal::Refusal;
use crate::scan::Scan;
use crate::staging::{Changes, Staging};
use crate::unsynced::Unsynced;

/// See the module.
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    core: Mutex<Core>,
    changed: watch::Sender<u64>,
}

impl Tenant {
    pub(crate) fn new(id: TenantId, control: Option<Control>, position: Option<Position>) -> Self {
        let core = Mutex::new(Core::new(&id, control, position));
        Self { id, core, changed: watch::Sender::new(0) }
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

/// Whether a request may run now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may.
    Yes,
    /// Not now; a change of the grant may come soon.
    Wait(&'static str),
    /// No.
    No(&'static str),
}

/// Everything of a tenant behind its lock.
pub(crate) struct Core {
    control_key: Vec<u8>,
    control: Option<Control>,
    position: Option<Position>,
    pub(crate) keys: TenantKeys,
    pub(crate) hash: RowHash,
    /// Of the last batch.
    pub(crate) ticket: Ticket,
    pub(crate) unsynced: Unsynced,
    pub(crate) holds: Holds,
    /// The follower holds everything up to here, durably.
    pub(crate) acked: Seq,
    /// Since when it has not moved on, where there is something that it does not hold.
    pub(crate) unacked_since: Option<Instant>,
    /// The follower's newest stream; older ones end.
    pub(crate) stream: u64,
    pub(crate) recent: Recent,
    pub(crate) scan: Option<Scan>,
    pub(crate) progress: Progress,
    /// Of a copy that differs.
    pub(crate) mending: Mending,
    /// What was put aside since this cell was taken over.
    pub(crate) tail: Option<TailRecord>,
    /// This process has started in the middle of a move, and nobody has said yet who owns: see [`crate::confirm`].
    pub(crate) unconfirmed: bool,
}

impl Core {
    fn new(id: &TenantId, control: Option<Control>, position: Option<Position>) -> Self {
        let uid = control.as_ref().map_or(Uid(0), |control| control.uid);
        let mut recent = Recent::default();
        if let Some(position) = &position {
            recent.push(position.seq, position.digest);
        }
        let acked = position.as_ref().map_or(Seq(0), |position| position.trimmed);
        Self {
            control_key: keys::control(id),
            control,
            position,
            keys: TenantKeys::new(id, uid),
            hash: RowHash::new(id, uid),
            ticket: Ticket::default(),
            unsynced: Unsynced::default(),
            holds: Holds::default(),
            acked,
            unacked_since: None,
            stream: 0,
            recent,
            scan: None,
            progress: Progress::default(),
            mending: Mending::default(),
            tail: None,
            unconfirmed: false,
        }
    }

    pub(crate) const fn control(&self) -> Option<&Control> {
        self.control.as_ref()
    }

    /// What this cell is to the tenant, for steps that need it to be something.
    pub(crate) fn known(&self) -> Result<&Control, Refusal> {
        self.control.as_ref().ok_or_else(|| Refusal::new("NOT_OWNER", "this cell knows nothing of the tenant"))
    }

    pub(crate) const fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// The last change in the rows; 0 where there is no data.
    pub(crate) fn last_seq(&self) -> Seq {
        self.position.as_ref().map_or(Seq(0), |position| position.seq)
    }

    /// Whether rows of the tenant are here, whole or in part.
    pub(crate) fn has_copy(&self) -> bool {
        self.position.is_some() || self.control.as_ref().is_some_and(|control| control.emptying)
    }

    /// Whether every row is here.
    pub(crate) fn is_complete(&self) -> bool {
        self.position.as_ref().is_some_and(|position| position.frontier == Frontier::End)
    }

    /// Row changes on top of where the tenant stands.
    pub(crate) fn staging<'a>(&'a self, durable: &'a Durable) -> Result<Staging<'a>, Refusal> {
        let position = self.position.clone().ok_or_else(|| Refusal::internal("the tenant has no data here"))?;
        Ok(Staging::new(durable.engine(), &self.keys, &self.hash, position))
    }

    /// Makes `batch`, `changes` and the new records durable together, if nothing has changed since they were read.
    /// The answer's ticket says when. `position: Some(None)` removes it.
    pub(crate) fn commit(
        &mut self,
        tenant: &TenantId,
        durable: &Durable,
        mut batch: Batch,
        changes: &Changes,
        control: Option<Control>,
        position: Option<Option<Position>>,
    ) -> Result<Ticket, Refusal> {
        batch.expect(self.control_key.clone(), self.control.as_ref().map(Control::encode));
        batch.expect(self.keys.position(), self.position.as_ref().map(Position::encode));
        self.commit_unchecked(tenant, durable, batch, changes, control, position)
    }

    /// [`Core::commit`] without its preconditions. Only a planted fault calls it directly.
    pub(crate) fn commit_unchecked(
        &mut self,
        tenant: &TenantId,
        durable: &Durable,
        mut batch: Batch,
        changes: &Changes,
        control: Option<Control>,
        position: Option<Option<Position>>,
    ) -> Result<Ticket, Refusal> {
        let uid = control.as_ref().or(self.control.as_ref()).map_or(Uid(0), |control| control.uid);
        let keys = TenantKeys::new(tenant, uid);
        changes.put_into(&mut batch, &keys);
        if let Some(control) = &control {
            batch.put(self.control_key.clone(), control.encode());
        }
        match &position {
            Some(Some(position)) => batch.put(keys.position(), position.encode()),
            Some(None) => batch.delete(keys.position()),
            None => {}
        }
        let ticket = durable
            .apply(&batch)?
            .ok_or_else(|| Refusal::internal("the store does not hold what the agent believes"))?;
        self.ticket = ticket;
        let owns = self.control.as_ref().is_some_and(|control| control.role == Role::Owner);
        if owns && control.is_none() {
            self.unsynced.rows(ticket, changes.each().map(|(key, ..)| key), durable.synced());
        } else {
            // What the cell is has changed, or it is read by nobody: whoever reads next waits for all of it.
            self.unsynced.all(ticket);
        }
        if let Some(scan) = &mut self.scan {
            scan.correct(changes);
        }
        if let Some(control) = control {
            if self.control.as_ref().map(|old| old.uid) != Some(control.uid) {
                self.hash = RowHash::new(tenant, control.uid);
                self.recent.clear();
                self.acked = Seq(0);
            }
            self.control = Some(control);
        }
        self.keys = keys;
        if let Some(position) = position {
            if position.is_none() {
                self.recent.clear();
                self.scan = None;
            }
            self.position = position;
        }
        Ok(ticket)
    }

    /// Makes a new control record durable. Nothing is written where it is the same; the ticket is that of the last
    /// batch then, so that a step that is done again waits for the first one's durability.
    pub(crate) fn set_control(
        &mut self,
        tenant: &TenantId,
        durable: &Durable,
        next: Control,
    ) -> Result<Ticket, Refusal> {
        if self.control.as_ref() == Some(&next) {
            return Ok(self.ticket);
        }
        self.commit(tenant, durable, Batch::default(), &Changes::default(), Some(next), None)
    }

    /// Whether a request under `stamp` may run at `now`.
    pub(crate) fn admission(&self, stamp: &RequestStamp, is_write: bool, now: Instant) -> Admission {
        let Some(control) = &self.control else { return Admission::No("NOT_OWNER") };
        match stamp.uid.cmp(&control.uid) {
            std::cmp::Ordering::Less => return Admission::No("TENANT_DELETED"),
            std::cmp::Ordering::Greater => return Admission::Wait("NOT_YET"),
            std::cmp::Ordering::Equal => {}
        }
        match control.role {
            Role::Owner if self.unconfirmed => Admission::Wait("UNCONFIRMED"),
            Role::Owner if stamp.epoch > control.epoch => Admission::Wait("NOT_YET"),
            Role::Owner if stamp.epoch < control.epoch => Admission::No("STALE"),
            // Admitted writes may still come until the seal; after it, none.
            Role::Owner if is_write && self.holds.standing(now).is_some_and(|hold| hold.sealed.is_some()) => {
                Admission::Wait("HOLD")
            }
            Role::Owner => Admission::Yes,
            Role::Importing => Admission::Wait("IMPORTING"),
            Role::Fenced { .. } => Admission::No("FENCED"),
            Role::Redirect | Role::Nothing => Admission::No("NOT_OWNER"),
            Role::Deleted => Admission::No("TENANT_DELETED"),
        }
    }

    /// Tells the gates what this cell is to the tenant now.
    pub(crate) fn post(&self, tenant: &TenantId, board: &Board) {
        if let Some(mut posted) = self.posted(Instant::now()) {
            if self.unconfirmed && matches!(posted.role, wire::Role::Owner | wire::Role::Holding) {
                // Everybody waits, as behind a fence.
                (posted.role, posted.hold) = (wire::Role::Fenced, None);
            }
            board.post(tenant, posted);
        }
    }

    /// What it is, durably.
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
