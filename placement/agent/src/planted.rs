//! Faults that a drill plants to prove that its checker catches them. Compiled only with the feature `planted`, and
//! even then inert until one is chosen.

use cell_gate::RequestStamp;
use cell_protos::v1 as wire;
use serde::{Deserialize, Serialize};

use crate::board::Posted;
use crate::capture::digest_to_wire;
use crate::record::{Position, Role};
use crate::tenant::{Admission, Core, Tenant};
use crate::tenants::Tenants;

/// One write in so many is lost.
const LOST_EVERY: u64 = 8;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Planted {
    /// Now and then an acknowledged write is not captured for the follower, and no digest tells.
    LostWrite,
    /// The epoch is checked neither before nor in the write batch: a fenced cell goes on serving.
    StaleEpoch,
    /// The copying cell serves before it owns.
    EarlyServe,
}

pub(crate) fn is(tenants: &Tenants, fault: Planted) -> bool {
    tenants.planted == Some(fault)
}

/// What of a write is captured.
pub(crate) fn captured(
    tenants: &Tenants,
    sync: bool,
    before: Option<&Position>,
    position: &mut Position,
    mut transaction: wire::Transaction,
) -> wire::Transaction {
    let lost = is(tenants, Planted::LostWrite) && sync && position.seq.get().is_multiple_of(LOST_EVERY);
    if let Some(before) = before.filter(|_| lost) {
        position.digest = before.digest;
        transaction.mutations.clear();
        transaction.digest = Some(digest_to_wire(before.digest));
    }
    transaction
}

fn early(tenants: &Tenants, core: &Core) -> bool {
    let ready = core.control().is_some_and(|control| control.role == Role::Importing && control.reverse.is_some());
    is(tenants, Planted::EarlyServe) && ready && core.is_complete()
}

fn stale(tenants: &Tenants, core: &Core) -> bool {
    let left = core.control().is_some_and(|control| matches!(control.role, Role::Fenced { .. } | Role::Redirect));
    is(tenants, Planted::StaleEpoch) && left && core.position().is_some()
}

/// Whether a request may run, faults included.
pub(crate) fn admission(tenants: &Tenants, core: &Core, stamp: &RequestStamp, sound: Admission) -> Admission {
    let known = core.control().is_some_and(|control| control.uid == stamp.uid);
    if known && (early(tenants, core) || stale(tenants, core)) { Admission::Yes } else { sound }
}

/// Tells the gates a lie, if there is one to tell.
pub(crate) fn post(tenants: &Tenants, tenant: &Tenant, core: &Core) -> bool {
    let Some(control) = core.control() else { return false };
    let epoch = if early(tenants, core) {
        control.epoch.next()
    } else if stale(tenants, core) {
        control.epoch
    } else {
        return false;
    };
    let posted = Posted { uid: control.uid, epoch, role: wire::Role::Owner, hold: None, mapping: None };
    tenants.board.post(&tenant.id, posted);
    true
}
