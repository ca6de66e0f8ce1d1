//! A cell, as far as incarnations go: the rules of `placement/agent`, in `transition` (`succeed`, `admit`, `grant`,
//! `revoke`) and in `admission`.

use super::{Report, UidMutant};
use crate::Place;

/// What a cell is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OrderKind {
    /// Serve a new tenant.
    Grant,
    /// Refuse and delete a deleted one.
    Revoke,
}

/// A step on its way to a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Order {
    /// Which cell.
    pub place: Place,
    /// As production names the incarnation.
    pub uid: u8,
    /// The tenant's epoch when the step was computed.
    pub epoch: u8,
    /// The incarnation that is meant.
    pub incarnation: u8,
    /// What is to be done.
    pub kind: OrderKind,
}

impl Order {
    /// What the leader reports once it is done.
    pub(super) const fn leads_to(&self) -> Report {
        Report { uid: self.uid, of: self.kind, place: self.place }
    }
}

/// What a router believes, and writes on requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The owner.
    pub place: Place,
    /// As production names the incarnation.
    pub uid: u8,
    /// The owner's epoch.
    pub epoch: u8,
    /// The incarnation that is meant.
    pub incarnation: u8,
}

/// What a cell is to the name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Nothing.
    #[default]
    Nothing,
    /// Serves.
    Owner,
    /// Refuses for good.
    Deleted,
}

/// One cell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The incarnation that it knows; 0: none.
    pub uid: u8,
    /// The epoch of its grant.
    pub epoch: u8,
    /// What it may do.
    pub role: Role,
    /// Rows of the incarnation are here, be there none.
    pub has_copy: bool,
    /// The incarnation that was meant when it was granted.
    pub incarnation: u8,
    /// Incarnations of which there are writes, a bit each.
    pub rows: u8,
}

impl Holder {
    /// The first owner.
    pub(super) fn owner() -> Self {
        Self { uid: 1, epoch: 1, role: Role::Owner, has_copy: true, ..Self::default() }
    }

    /// Whether it serves a later incarnation.
    pub(super) fn is_newer_than(&self, uid: u8) -> bool {
        self.role == Role::Owner && self.uid > uid
    }

    /// Does one step, or refuses it: then nothing has changed.
    pub(super) fn take(&mut self, order: &Order, mutant: Option<UidMutant>) -> bool {
        let Some(mut next) = self.succeeded(order, mutant) else { return false };
        match (order.kind, next.role) {
            (OrderKind::Grant, Role::Owner) if next.epoch == order.epoch => {}
            (OrderKind::Grant, Role::Nothing) if next.epoch == 0 => {
                next.epoch = order.epoch;
                next.role = Role::Owner;
                next.has_copy = true;
                next.incarnation = order.incarnation;
            }
            (OrderKind::Grant, _) => return false,
            (OrderKind::Revoke, _) => {
                next = Self { epoch: order.epoch, role: Role::Deleted, has_copy: false, rows: 0, ..next };
            }
        }
        *self = next;
        true
    }

    /// An older incarnation gives way only where nothing of it can be served any more.
    fn succeeded(&self, order: &Order, mutant: Option<UidMutant>) -> Option<Self> {
        let fresh = Self { uid: order.uid, ..Self::default() };
        if self.uid == 0 {
            return Some(fresh);
        }
        if order.uid > self.uid {
            return (self.role != Role::Owner && !self.has_copy).then_some(fresh);
        }
        let is_of_it = order.uid == self.uid || mutant == Some(UidMutant::OldObeyed);
        (is_of_it && order.epoch >= self.epoch).then_some(*self)
    }

    /// Whether a request with this stamp runs.
    pub(super) fn executes(&self, stamp: &Stamp, mutant: Option<UidMutant>) -> bool {
        let is_of_it = stamp.uid == self.uid || mutant == Some(UidMutant::Unchecked);
        is_of_it && self.role == Role::Owner && stamp.epoch == self.epoch
    }
}
