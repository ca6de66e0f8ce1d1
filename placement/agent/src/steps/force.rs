//! Takeover by force: the cell that owns from what it holds, and the one that is told when it is back.
//!
//! ```text
//!  captured:   … after │ after+1 … last         the new owner holds what is left of the bar
//!                      └────── moved, part by part ──────► put aside, under keys of its own: the tail
//! ```
//! The cell stops owning in the batch that begins the tail, before anything is moved. The parts are moved in bounded
//! batches, each with how far it has come, so that a crash loses and doubles nothing.

use cell_client::signed_from_wire;
use cell_model::{Epoch, Seq, TenantId};
use cell_protos::v1 as wire;
use cell_protos::v1::step_response::Result as Answer;

use super::{Work, position};
use crate::capture;
use crate::engine::Batch;
use crate::follow;
use crate::keys::TenantKeys;
use crate::record::{Control, Position, Record, Role, TailRecord, Taken};
use crate::refusal::Refusal;
use crate::staging::Changes;
use crate::tenant::{Core, Tenant};
use crate::tenants::Tenants;
use crate::transition::{self, Verdict};

/// Parts of captured transactions that are moved in one batch: a part has up to 96 KiB, and other tenants wait for a batch.
const MOVED_PARTS: usize = 32;
/// Bytes of one answer with what was put aside; a single larger transaction goes alone.
const TAIL_BYTES: usize = 256 * 1024;

impl Work<'_> {
    pub(super) async fn look_at_copy(&self) -> Result<Answer, Refusal> {
        let (seen, ticket) = {
            let core = self.lock()?;
            transition::look_at_copy(core.known()?, self.context())?;
            let applied = core.last_seq();
            let seen = wire::CopySeen {
                complete: is_whole(&core),
                applied_seq: applied.get(),
                heard_seq: core.progress.source_seq.max(applied).get(),
                // Nobody writes here but by way of a gate.
                ungated: false,
            };
            (seen, core.ticket)
        };
        // What is decided upon does not vanish in a crash.
        self.tenants.wait(ticket).await?;
        Ok(Answer::Copy(seen))
    }

    pub(super) async fn own_by_force(&self) -> Result<Answer, Refusal> {
        let (seq, ticket) = {
            let mut core = self.lock()?;
            let before = core.known()?;
            let owned = before.role == Role::Owner && before.epoch == self.context().epoch;
            let next = transition::own_by_force(before, self.context(), is_whole(&core))?;
            let (id, durable) = (&self.tenant.id, &self.tenants.durable);
            if owned {
                // It says what it has said before, also to a later attempt: it has changes of its own by now.
                (self.taken(&core)?, core.set_control(id, durable, next)?)
            } else {
                let seq = core.last_seq();
                let mut batch = Batch::default();
                batch.put(core.keys.taken(), Taken { move_id: self.context().move_id, seq }.encode());
                let position =
                    core.position().cloned().map(|old| Position { captured_bytes: 0, trimmed: seq, ..old });
                core.holds.end();
                (seq, core.commit(id, durable, batch, &Changes::default(), Some(next), Some(position))?)
            }
        };
        // Served only once it is durable: a crash must not take an epoch back that a client has seen.
        self.tenants.wait(ticket).await?;
        self.tenants.post(&self.tenant, &self.tenant.lock());
        follow::ensure(self.tenants, &self.tenant);
        // Of a source that was fenced: nobody follows any more.
        capture::clear(&self.tenant, &self.tenants.durable).await?;
        Ok(position(seq))
    }

    /// Where this cell took over, as it has said before.
    fn taken(&self, core: &Core) -> Result<Seq, Refusal> {
        let stored = self.tenants.durable.engine().get(&core.keys.taken())?;
        let taken = stored.map(|bytes| Taken::decode(&bytes)).transpose();
        let taken = taken.map_err(|error| Refusal::internal(error.to_string()))?;
        let of_move = taken.filter(|taken| taken.move_id == self.context().move_id);
        of_move.map(|taken| taken.seq).ok_or_else(|| {
            Refusal::new("STALE_EPOCH", format!("this cell owns, and not because of {}", self.context().move_id))
        })
    }

    pub(super) async fn put_aside(&self, put: wire::PutAside) -> Result<Answer, Refusal> {
        let mapping = put.mapping.ok_or_else(|| Refusal::new("INVALID", "the verdict has no mapping"))?;
        let signed = signed_from_wire(mapping);
        let routed = self.verified(&signed)?;
        let fenced = Epoch(put.fenced_epoch);
        let ticket = {
            let mut core = self.lock()?;
            let context = self.context();
            let verdict = Verdict { signed: &signed, routed: &routed, here: &self.tenants.here, fenced };
            // A cell that has lost its disk redirects all the same.
            let unknown = Control { uid: context.uid, ..Control::default() };
            let before = core.control().cloned();
            let next = transition::put_aside(before.as_ref().unwrap_or(&unknown), context, verdict)?;
            let over = before.as_ref().is_some_and(|before| before.ended >= context.move_id);
            if over && core.position().is_none() && core.tail.is_none() {
                // It was told, and what it had is deleted by now: this comes late.
                let last_seq = put.after_seq;
                return Ok(Answer::Tail(wire::Tail { last_seq, whole: true, ..wire::Tail::default() }));
            }
            let begun = core.tail.as_ref().is_some_and(|tail| tail.move_id == context.move_id);
            let ticket = if begun {
                core.set_control(&self.tenant.id, &self.tenants.durable, next)?
            } else {
                let tail = self.begin_tail(&core, before.as_ref(), fenced, Seq(put.after_seq));
                let mut batch = Batch::default();
                batch.put(TenantKeys::new(&self.tenant.id, context.uid).tail(), tail.encode());
                core.holds.end();
                let (id, durable) = (&self.tenant.id, &self.tenants.durable);
                let ticket = core.commit(id, durable, batch, &Changes::default(), Some(next), None)?;
                core.tail = Some(tail);
                ticket
            };
            self.tenants.post(&self.tenant, &core);
            ticket
        };
        self.tenants.wait(ticket).await?;
        self.tenant.notify();
        follow::ensure(self.tenants, &self.tenant);
        move_aside(self.tenants, &self.tenant).await?;
        let tail = self.tenant.lock().tail.clone();
        let tail = tail.ok_or_else(|| Refusal::internal("what was put aside is gone"))?;
        Ok(Answer::Tail(told(&tail)))
    }

    /// What there is to be put aside. It is whole if every change behind `after` was captured and is still kept.
    fn begin_tail(&self, core: &Core, before: Option<&Control>, fenced_epoch: Epoch, after: Seq) -> TailRecord {
        let (last, move_id) = (core.last_seq(), self.context().move_id);
        let capture = before.and_then(|control| control.capture.as_ref());
        let capture = capture.filter(|capture| capture.move_id == move_id && !capture.overflowed);
        let whole = core.position().is_some_and(|position| {
            last <= after || (after >= position.trimmed && capture.is_some_and(|capture| after >= capture.from))
        });
        let (first, moved) = (after.next(), after);
        TailRecord { move_id, fenced_epoch, after, last, whole, first, moved, changes: 0, bytes: 0, done: false }
    }
}

/// Every row is there, up to the last change. That the copy follows no further says nothing against it; a digest that differs
/// does.
fn is_whole(core: &Core) -> bool {
    let failure = core.progress.failure.as_ref();
    core.is_complete()
        && !core.mending.is_apart()
        && failure.is_none_or(|failure| failure.code != "DIGEST_MISMATCH")
}

const fn told(tail: &TailRecord) -> wire::Tail {
    wire::Tail { changes: tail.changes, bytes: tail.bytes, last_seq: tail.last.get(), whole: tail.whole }
}

/// Moves captured transactions to where they are kept until somebody drops them. Goes on where it was.
pub(crate) async fn move_aside(tenants: &Tenants, tenant: &Tenant) -> Result<(), Refusal> {
    loop {
        let ended = {
            let mut core = tenant.lock();
            let Some(mut tail) = core.tail.clone().filter(|tail| !tail.done) else { break };
            let from = core.keys.captured(tail.after.next(), 0);
            let parts = tenants.durable.engine().scan(&from, &core.keys.captured_end(), MOVED_PARTS)?;
            tail.done = parts.len() < MOVED_PARTS;
            let mut batch = Batch::default();
            for (key, bytes) in parts {
                let Some((seq, part)) = core.keys.strip_captured(&key) else {
                    return Err(Refusal::internal("a captured change has a damaged key"));
                };
                if part == 0 {
                    // What comes before the first whole one was cut in two when it was trimmed.
                    tail.first = if tail.changes == 0 { seq } else { tail.first };
                    tail.changes += 1;
                }
                tail.moved = tail.moved.max(seq);
                tail.bytes += bytes.len() as u64;
                batch.delete(key);
                batch.put(core.keys.put_aside(seq, part), bytes);
            }
            batch.put(core.keys.tail(), tail.encode());
            let ticket = core.commit(&tenant.id, &tenants.durable, batch, &Changes::default(), None, None)?;
            let ended = tail.done.then_some(ticket);
            core.tail = Some(tail);
            ended
        };
        if let Some(ticket) = ended {
            tenants.wait(ticket).await?;
        }
        tokio::task::yield_now().await;
    }
    // What the new owner holds already.
    capture::clear(tenant, &tenants.durable).await
}

/// Part of what was put aside of a tenant, behind `after`; none where nothing is.
pub(crate) fn read_tail(
    tenants: &Tenants,
    id: &TenantId,
    after: Seq,
) -> Result<Option<wire::ReadTailResponse>, Refusal> {
    let Some(tenant) = tenants.get(id) else { return Ok(None) };
    let (tail, keys, uid) = {
        let core = tenant.lock();
        let (Some(tail), Some(control)) = (core.tail.clone(), core.control()) else { return Ok(None) };
        (tail, core.keys.clone(), control.uid)
    };
    if !tail.done {
        return Err(Refusal::new("BUSY", "changes are still being put aside"));
    }
    // Where changes are missing, what is there is told all the same.
    let from = after.max(Seq(tail.first.get().saturating_sub(1)));
    let transactions = if tail.changes == 0 || from >= tail.moved {
        Vec::new()
    } else {
        capture::read_at(&tenants.durable, &keys, TenantKeys::put_aside, (from, tail.moved), TAIL_BYTES)?
    };
    let more = transactions.last().is_some_and(|last| Seq(last.seq) < tail.moved);
    Ok(Some(wire::ReadTailResponse {
        uid: uid.get(),
        move_id: tail.move_id.0,
        fenced_epoch: tail.fenced_epoch.get(),
        after_seq: tail.after.get(),
        tail: Some(told(&tail)),
        more,
        transactions,
        ..wire::ReadTailResponse::default()
    }))
}
