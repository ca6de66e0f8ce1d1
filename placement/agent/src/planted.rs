//! Faults that a drill plants to prove that its checker catches them. Compiled only with the feature `planted`, and
//! even then inert until one is chosen.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cell_gate::RequestStamp;
use cell_protos::v1 as wire;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::board::Posted;
use crate::engine::{Applied, Batch, Engine, EngineError, Entry};
use crate::record::{Control, Role};
use crate::tenant::{Admission, Core, Tenant};
use crate::tenants::Tenants;

/// One write in so many is lost.
const LOST_EVERY: u64 = 8;
/// Each change is delivered a second time, so many changes later.
const AGAIN_AFTER: usize = 16;
/// A fence that lapses lasts longer than one that nothing disturbs.
const FENCE_LASTS: Duration = Duration::from_millis(250);

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
    /// Writes are acknowledged without being synced: the power, or the process, takes them along.
    UnflushedWrite,
    /// The copying cell does not apply deletions, and believes the source's digest.
    DroppedTombstone,
    /// The copying cell applies an old change a second time, behind newer ones, and believes the source's digest.
    ChangeTwice,
    /// The source is sealed at once: a write that was under way ends after the cutover, here, and is acknowledged.
    UndrainedCutover,
    /// A fence ends by itself after a while: the cell serves again, under its old epoch.
    LapsingFence,
    /// Steps are done whoever has led meanwhile.
    IgnoredTerm,
}

/// The engine under an agent: one that does not sync, where that is the fault.
pub(crate) fn engine(planted: Option<Planted>, engine: Arc<dyn Engine>) -> Arc<dyn Engine> {
    if planted == Some(Planted::UnflushedWrite) { Arc::new(Unflushed(engine)) } else { engine }
}

struct Unflushed(Arc<dyn Engine>);

impl Engine for Unflushed {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.0.get(key)
    }

    fn scan(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Entry>, EngineError> {
        self.0.scan(from, until, limit)
    }

    fn apply(&self, batch: &Batch) -> Result<Applied, EngineError> {
        self.0.apply(batch)
    }

    fn sync(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

/// What the copying cell makes of a transaction that it is sent.
pub(crate) fn delivered(tenants: &Tenants, tenant: &Tenant, transaction: &mut wire::Transaction) {
    if is(tenants, Planted::DroppedTombstone) {
        transaction.mutations.retain(|mutation| mutation.value.is_some());
    }
    if is(tenants, Planted::ChangeTwice) {
        let mut delivered = tenants.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = delivered.entry(tenant.id.clone()).or_default();
        kept.push_back(transaction.mutations.clone());
        if kept.len() > AGAIN_AFTER {
            transaction.mutations.extend(kept.pop_front().into_iter().flatten());
        }
    }
}

/// Whether the copying cell believes whatever digest it is told.
pub(crate) fn believes(tenants: &Tenants) -> bool {
    is(tenants, Planted::DroppedTombstone) || is(tenants, Planted::ChangeTwice)
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

/// What becomes of a write that a gate has let in before it knew of the fence: it waits, and ends when another cell owns.
fn undrained(tenants: &Tenants, core: &Core, stamp: &RequestStamp, is_write: bool) -> Option<Admission> {
    let control = core.control().filter(|control| (control.uid, control.epoch) == (stamp.uid, stamp.epoch))?;
    match control.role {
        _ if !is_write || !is(tenants, Planted::UndrainedCutover) => None,
        Role::Fenced { .. } => Some(Admission::Wait("FENCED")),
        Role::Redirect if core.position().is_some() => Some(Admission::Yes),
        Role::Nothing | Role::Owner | Role::Importing | Role::Redirect | Role::Deleted => None,
    }
}

/// Whether a request may run, faults included.
pub(crate) fn admission(
    tenants: &Tenants,
    core: &Core,
    (stamp, is_write): (&RequestStamp, bool),
    sound: Admission,
) -> Admission {
    let known = core.control().is_some_and(|control| control.uid == stamp.uid);
    if known && (early(tenants, core) || stale(tenants, core)) {
        return Admission::Yes;
    }
    undrained(tenants, core, stamp, is_write).unwrap_or(sound)
}

/// Lets a fence that has just begun lapse by itself.
pub(crate) fn lapse(tenants: &Arc<Tenants>, tenant: &Arc<Tenant>) {
    if !is(tenants, Planted::LapsingFence) {
        return;
    }
    let (tenants, tenant) = (Arc::clone(tenants), Arc::clone(tenant));
    let (stop, tasks) = (tenants.stop.clone(), tenants.tasks.clone());
    tasks.spawn(async move {
        if stop.run_until_cancelled(tokio::time::sleep(FENCE_LASTS)).await.is_none() {
            return;
        }
        let mut core = tenant.lock();
        let fenced = core.control().filter(|control| matches!(control.role, Role::Fenced { .. })).cloned();
        let Some(control) = fenced else { return };
        core.holds.end();
        let serves = Control { role: Role::Owner, ..control };
        if let Err(refusal) = core.set_control(&tenant.id, &tenants.durable, serves) {
            tracing::error!(reason = refusal.reason, "a planted fault was not done");
        }
        tenants.post(&tenant, &core);
    });
}

/// A hold that gates are not told of.
fn unheld(tenants: &Tenants, core: &Core) -> bool {
    let owns = core.control().is_some_and(|control| control.role == Role::Owner);
    is(tenants, Planted::UndrainedCutover) && owns && core.holds.standing(Instant::now()).is_some()
}

/// Tells the gates a lie, if there is one to tell.
pub(crate) fn post(tenants: &Tenants, tenant: &Tenant, core: &Core) -> bool {
    let Some(control) = core.control() else { return false };
    let epoch = if early(tenants, core) {
        control.epoch.next()
    } else if stale(tenants, core) || unheld(tenants, core) {
        control.epoch
    } else {
        return false;
    };
    let posted = Posted { uid: control.uid, epoch, role: wire::Role::Owner, hold: None, mapping: None };
    tenants.board.post(&tenant.id, posted);
    true
}
