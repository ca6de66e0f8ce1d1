//! What the follower does with what it is sent: each message is one atomic batch with the position after it.

use cell_model::{MoveId, Seq};
use cell_protos::v1 as wire;

use super::mending;
use crate::capture::digest_from_wire;
use crate::durable::Ticket;
use crate::engine::Batch;
use crate::record::{Frontier, Position, Role};
use crate::refusal::Refusal;
use crate::tenant::{Core, Tenant};
use crate::tenants::Tenants;

/// The copy holds everything up to `seq`, durably with `ticket`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Held {
    pub(super) seq: Seq,
    pub(super) ticket: Ticket,
}

/// The copy is no longer wanted, or this task is not the one that makes it.
pub(super) const NOT_WANTED: &str = "NOT_IMPORTING";

pub(super) fn copying(core: &Core, move_id: MoveId) -> Result<Position, Refusal> {
    let control = core.known()?;
    let wanted = control.follow.as_ref().is_some_and(|follow| follow.move_id == move_id)
        && matches!(control.role, Role::Importing | Role::Redirect);
    let position = core.position().filter(|_| wanted).cloned();
    position.ok_or_else(|| Refusal::new(NOT_WANTED, format!("nothing is copied for {move_id}")))
}

pub(super) fn broken(reason: impl Into<String>) -> Refusal {
    Refusal::new("STREAM_BROKEN", reason)
}

/// Applies whole transactions in order; those that are already here are passed over.
pub(super) fn changes(
    tenants: &Tenants,
    tenant: &Tenant,
    move_id: MoveId,
    transactions: Vec<wire::Transaction>,
    source: Seq,
) -> Result<Held, Refusal> {
    let mut core = tenant.lock();
    copying(&core, move_id)?;
    let may_differ = mending::may_differ(&core);
    let mut differs = None;
    let mut staging = core.staging(&tenants.durable)?;
    let (mut digests, mut bytes) = (Vec::new(), 0);
    for transaction in transactions {
        #[cfg(feature = "planted")]
        let transaction = {
            let mut transaction = transaction;
            crate::planted::delivered(tenants, tenant, &mut transaction);
            transaction
        };
        let (applied, seq) = (staging.position.seq, Seq(transaction.seq));
        if seq <= applied {
            continue;
        }
        if seq != applied.next() {
            return Err(Refusal::new("SEQ_GAP", format!("change {seq} came after {applied}")));
        }
        for mutation in transaction.mutations {
            bytes += (mutation.key.len() + mutation.value.as_ref().map_or(0, |value| value.len())) as u64;
            if staging.position.frontier.covers(&mutation.key) {
                staging.set(&mutation.key, mutation.value.map(Into::into))?;
            }
        }
        let told = transaction
            .digest
            .as_ref()
            .and_then(digest_from_wire)
            .ok_or_else(|| broken("a change has no digest"))?;
        #[cfg(feature = "planted")]
        if crate::planted::believes(tenants) {
            staging.position.digest = told;
        }
        let counted = staging.position.digest;
        if staging.position.frontier == Frontier::End && told != counted {
            let reason = format!("after change {seq} the source adds up to {told}, the copy to {counted}");
            if !may_differ {
                return Err(Refusal::new("DIGEST_MISMATCH", reason));
            }
            differs = Some(reason);
        }
        staging.position.seq = seq;
        digests.push((seq, counted));
    }
    let (position, rows) = staging.finish();
    let seq = position.seq;
    if let Some(reason) = differs {
        core.mending.apart(&tenant.id, &reason);
    }
    if !digests.is_empty() {
        core.commit(&tenant.id, &tenants.durable, Batch::default(), &rows, None, Some(Some(position)))?;
    }
    core.progress.applied.0 += digests.len() as u64;
    core.progress.applied.1 += bytes;
    for (seq, digest) in digests {
        core.recent.push(seq, digest);
    }
    core.progress.heard_of(source.max(seq), seq);
    let held = Held { seq, ticket: core.ticket };
    drop(core);
    tenant.notify();
    Ok(held)
}

/// Loads a chunk: its range is virgin, and the copy has been brought to its label before.
pub(super) fn chunk(
    tenants: &Tenants,
    tenant: &Tenant,
    move_id: MoveId,
    chunk: wire::Chunk,
) -> Result<Held, Refusal> {
    let mut core = tenant.lock();
    let position = copying(&core, move_id)?;
    let label = Seq(chunk.seq);
    match &position.frontier {
        Frontier::End => return Err(broken("a chunk after the last one")),
        Frontier::Start if label >= position.seq => {}
        Frontier::At(_) if label == position.seq => {}
        Frontier::Start | Frontier::At(_) => {
            return Err(Refusal::new("SEQ_GAP", format!("a chunk at {label}, the copy is at {}", position.seq)));
        }
    }
    let mut staging = core.staging(&tenants.durable)?;
    let (mut bytes, rows) = (0, chunk.rows.len() as u64);
    let mut last = match &position.frontier {
        Frontier::At(last) => last.clone(),
        Frontier::Start | Frontier::End => Vec::new(),
    };
    for row in chunk.rows {
        if row.key.as_ref() <= last.as_slice() {
            return Err(broken("the rows of a chunk are not in order"));
        }
        bytes += (row.key.len() + row.value.len()) as u64;
        last = row.key.to_vec();
        staging.load(&row.key, row.value.into());
    }
    if last.as_slice() > chunk.last_key.as_ref() && !chunk.done {
        return Err(broken("a chunk ends before its rows"));
    }
    staging.position.seq = label;
    staging.position.frontier = if chunk.done { Frontier::End } else { Frontier::At(chunk.last_key.to_vec()) };
    let (position, changes) = staging.finish();
    let digest = position.digest;
    core.commit(&tenant.id, &tenants.durable, Batch::default(), &changes, None, Some(Some(position)))?;
    core.recent.clear();
    core.recent.push(label, digest);
    core.progress.copied.0 += rows;
    core.progress.copied.1 += bytes;
    core.progress.heard_of(label, label);
    let held = Held { seq: label, ticket: core.ticket };
    drop(core);
    tenant.notify();
    Ok(held)
}

/// The owner has nothing new.
pub(super) fn heartbeat(tenant: &Tenant, source: Seq) {
    let mut core = tenant.lock();
    let applied = core.last_seq();
    core.progress.heard_of(source, applied);
}
