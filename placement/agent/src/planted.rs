//! Faults that a drill plants to prove that its checker catches them. Compiled only with the feature `planted`, and
//! even then inert until one is chosen.

use std::collections::BTreeMap;

use cell_gate::RequestStamp;
use cell_protos::v1 as wire;
use serde::{Deserialize, Serialize};

use crate::board::Posted;
use crate::record::Role;
use crate::tenant::{Admission, Core, Tenant};
use crate::tenants::Tenants;

/// One write in so many is lost.
const LOST_EVERY: u64 = 8;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Planted {
    /// In Sync, now and then, a write is acknowledged and not done, and no digest tells.
    LostWrite,
    /// The epoch is checked neither before nor in the write batch: a fenced cell goes on serving.
    StaleEpoch,
    /// The copying cell serves before it owns.
    EarlyServe,
}

pub(crate) fn is(tenants: &Tenants, fault: Planted) -> bool {
    tenants.planted == Some(fault)
}

/// What of a write is done: nothing, now and then, though its client is told that it was. Whether a write is lost goes by
/// its first key, so that later writes of the same key are lost, too, and both cells go on adding up to the same: only
/// somebody who knows what clients were told can find it.
pub(crate) fn kept(
    tenants: &Tenants,
    core: &Core,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let sync = core.control().is_some_and(|control| control.role == Role::Owner && control.sync);
    let lost = |key: &[u8]| key.iter().map(|byte| u64::from(*byte)).sum::<u64>().is_multiple_of(LOST_EVERY);
    match writes.keys().next() {
        Some(first) if is(tenants, Planted::LostWrite) && sync && lost(first) => BTreeMap::new(),
        Some(_) | None => writes,
    }
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
