//! Takeover by force: the cell that owns from what it holds, and the one that is told when it is back.
//!
//! ```text
//!  the log:   … after │ after+1 … where the last who had entered has ended     the new owner holds what is left of the bar
//!                     └────── decoded and written down, part by part ──────► the tail; only then the slot lets go of the log
//! ```
//! The cell stops owning in the transaction that begins the tail, before anything is read. Who had entered by then goes on to the end of
//! his transaction and is waited for: what he has written is in the tail.

use std::time::Duration;

use cell_model::{Epoch, Seq, TenantId};
use cell_protos::v1 as wire;
use cell_protos::v1::step_response::Result as Answer;
use tokio::time::Instant;

use super::owning::PATIENCE;
use super::{Core, Keep, Work, position};
use crate::postgres::captures::{Captured, Standing};
use crate::postgres::catalogue::Catalogue;
use crate::postgres::cell::Cell;
use crate::postgres::failover::failed_over;
use crate::postgres::leaping::Leapt;
use crate::postgres::records::{self, Copied, Reach, Rows, from_db};
use crate::postgres::tenant::Tenant;
use crate::postgres::{follower, seal, standbys, tails};
use crate::record::{Control, Record as _, Role, TailRecord};
use crate::refusal::Refusal;
use crate::transition::{self, Verdict};

/// Captured bytes that are written down in one transaction; a single larger one goes alone.
const MOVED_BYTES: u64 = 4 * 1024 * 1024;
/// Nobody who has stopped owning waits for writers any longer before he says that he is waiting.
const LOCKED_MAX: &str = "SET LOCAL lock_timeout = '4s'";
/// What has failed is tried again so often, where nobody asks.
const AGAIN: Duration = Duration::from_secs(1);

impl Work<'_> {
    /// `knows`: whoever asks has heard that writers come who wait for nobody, and takes nothing for lossless because of a position.
    pub(super) async fn look_at_copy(&self, knows: bool) -> Result<Answer, Refusal> {
        if !knows {
            let reason = "the node that asks is of a version that would take this copy for one that lacks nothing: upgrade the \
                          control plane's nodes, the one that leads last, and run the command again";
            return Err(Refusal::new("CONTROL_OUTDATED", reason));
        }
        transition::look_at_copy(self.lock()?.known()?, self.context())?;
        // Written, so that what is found is durable: what is decided upon does not vanish in a crash.
        let sql = "UPDATE cellway.copies SET applied = applied WHERE tenant = $1 RETURNING applied, frontier";
        let found = self.cell.database.client().await?.query_opt(sql, &[&self.tenant.id.as_str()]).await?;
        let copied = found.map(|row| read(&row)).transpose()?;
        let core = self.lock()?;
        let applied = match core.known()?.role {
            // Everything up to its own fence.
            Role::Fenced { seq, .. } => seq,
            _ => copied.as_ref().map_or(Seq(0), |copied| copied.applied),
        };
        Ok(Answer::Copy(wire::CopySeen {
            complete: copied.is_some_and(|copied| copied.reach.done) && is_alike(&core),
            applied_seq: applied.get(),
            heard_seq: core.progress.source_seq.max(applied).get(),
            // The database lets everybody in who has the right to write, and only those behind a gate wait for the other cell.
            ungated: true,
        }))
    }

    pub(super) async fn own_by_force(&self) -> Result<Answer, Refusal> {
        let _turn = self.tenant.turn.lock().await;
        self.refresh().await?;
        let context = *self.context();
        let owned = {
            let core = self.lock()?;
            let before = core.known()?;
            before.role == Role::Owner && before.epoch == context.epoch
        };
        if owned {
            // It says what it has said before, also to a later attempt: it has changes of its own by now.
            let seq = self.taken().await?;
            let again =
                |core: &mut Core| Ok((transition::own_by_force(core.known()?, &context, true)?, Keep::Same));
            self.change_in_turn(again).await?;
            return Ok(position(seq));
        }
        {
            let core = self.lock()?;
            transition::own_by_force(core.known()?, &context, core.is_complete() && is_alike(&core))?;
        }
        // What the lost owner has handed out since it was last heard of is not known.
        self.cell.leap_sequences(&self.tenant, context.move_id).await?;
        let (next, number, copied, seq) = self.forced().await.inspect_err(|_| self.tenant.lock().doubted = true)?;
        self.settle(next, number, Keep::Own(copied)).await?;
        self.tenant.lock().leapt = Leapt::default();
        follower::ensure(self.cell, &self.tenant);
        self.let_go().await;
        Ok(position(seq))
    }

    /// Where this cell took over, as it has said before. It owns at the epoch of this takeover, and nobody comes to that otherwise: a
    /// database that does not know where has been put back since, and of the other one's changes nothing is certain to be here.
    async fn taken(&self) -> Result<Seq, Refusal> {
        let (id, move_id) = (&self.tenant.id, self.context().move_id);
        let mut client = self.cell.database.client().await?;
        if let Some(taken) = tails::taken(&client, id, move_id).await? {
            return Ok(taken);
        }
        if self.lock()?.known()?.move_id != move_id {
            return Err(Refusal::new("STALE_EPOCH", format!("this cell owns, and not because of {move_id}")));
        }
        let transaction = client.transaction().await?;
        records::expect_agent(&transaction, self.cell.incarnation).await?;
        tails::take_in(&transaction, id, (move_id, Seq(0))).await?;
        transaction.commit().await?;
        self.cell.is_to_be_confirmed(&self.tenant).await?;
        Ok(Seq(0))
    }

    /// In one transaction with the copy as it is then: nothing more is applied to it.
    async fn forced(&self) -> Result<(Control, u64, Copied, Seq), Refusal> {
        let sql = "SELECT applied, frontier FROM cellway.copies WHERE tenant = $1 FOR UPDATE";
        let id = &self.tenant.id;
        let mut client = self.cell.database.client().await?;
        let transaction = client.transaction().await?;
        transaction.batch_execute(LOCKED_MAX).await?;
        let found = transaction.query_opt(sql, &[&id.as_str()]).await?;
        let copied = found.map(|row| read(&row)).transpose()?;
        let copied = copied.ok_or_else(|| failed_over(id, "it had a copy, and has none any more"))?;
        let (before, next, follows) = {
            let core = self.lock()?;
            let before = core.known()?.clone();
            let complete = copied.reach.done && is_alike(&core);
            let next = transition::own_by_force(&before, self.context(), complete)?;
            let follows = before.follow.is_some();
            if follows && copied.applied < core.acknowledged {
                let what = format!("its copy went up to {}, and does not any more", core.acknowledged);
                return Err(failed_over(id, &what));
            }
            (before, next, follows)
        };
        // Positions are of the lost cell's log. Of that one nothing is here where this cell was fenced, and not told to follow yet.
        let seq = if follows { copied.applied } else { Seq(0) };
        let controls = (Some(&before), &next);
        let number =
            records::change_in(&transaction, self.cell.incarnation, id, controls, Rows::Own(&copied)).await?;
        tails::take_in(&transaction, id, (self.context().move_id, seq)).await?;
        transaction.commit().await?;
        Ok((next, number, copied, seq))
    }

    pub(super) async fn put_aside(&self, put: wire::PutAside) -> Result<Answer, Refusal> {
        let mapping = put.mapping.ok_or_else(|| Refusal::new("INVALID", "the verdict has no mapping"))?;
        let signed = cell_client::signed_from_wire(mapping);
        let routed = self.verified(&signed)?;
        let fenced = Epoch(put.fenced_epoch);
        {
            let _turn = self.tenant.turn.lock().await;
            self.refresh().await?;
            let verdict = Verdict { signed: &signed, routed: &routed, here: &self.cell.here, fenced };
            let (before, next, begun) = {
                let core = self.lock()?;
                let before = core.control.clone();
                // A cell that has lost its database redirects all the same.
                let unknown = Control { uid: self.context().uid, ..Control::default() };
                let next = transition::put_aside(before.as_ref().unwrap_or(&unknown), self.context(), verdict)?;
                let over = before.as_ref().is_some_and(|before| before.ended >= self.context().move_id);
                if over && core.copied.is_none() && core.tail.is_none() {
                    // It was told, and what it had is deleted by now: this comes late.
                    let last_seq = put.after_seq;
                    return Ok(Answer::Tail(wire::Tail { last_seq, whole: true, ..wire::Tail::default() }));
                }
                let begun = core.tail.as_ref().is_some_and(|tail| tail.move_id == self.context().move_id);
                (before, next, begun)
            };
            if begun {
                self.change_in_turn(|_| Ok((next, Keep::Same))).await?;
            } else {
                let tail = self.beginning(before.as_ref(), (fenced, Seq(put.after_seq)));
                self.begin_tail((before.as_ref(), next), tail).await?;
            }
        }
        self.let_go().await;
        follower::ensure(self.cell, &self.tenant);
        move_aside(self.cell, &self.tenant).await?;
        // What is answered outlives a failover.
        self.cell.is_to_be_confirmed(&self.tenant).await?;
        let tail = self.tenant.lock().tail.clone();
        let tail = tail.ok_or_else(|| Refusal::internal("what was put aside is gone"))?;
        Ok(Answer::Tail(told(&tail)))
    }

    /// What there is to be put aside: whatever the log has of the tenant since this cell began to capture, as far as the new owner does
    /// not hold it. Positions are of this cell's log.
    fn beginning(&self, before: Option<&Control>, (fenced_epoch, after): (Epoch, Seq)) -> TailRecord {
        let move_id = self.context().move_id;
        let role = before.map_or(Role::Nothing, |before| before.role);
        let owned = matches!(role, Role::Owner | Role::Fenced { .. });
        let capture = before.and_then(|before| before.capture.as_ref());
        let capture = capture.filter(|capture| owned && capture.move_id == move_id);
        let has_log = self.cell.replication.captures().standing(&self.tenant.id).is_some_and(|known| known.is_ok());
        // A copy that has never owned has nothing of its own; unless its database said for a while that it owns.
        let is_only_a_copy = matches!(role, Role::Importing | Role::Redirect) && self.tenant.lock().kept.is_none();
        let (moved, whole) = match capture {
            // It holds nothing of this log: this cell has owned since the capture began.
            Some(capture) if after == Seq(0) => (capture.from, has_log),
            Some(capture) => (after.max(capture.from), has_log && after >= capture.from),
            None => (after, is_only_a_copy),
        };
        TailRecord {
            move_id,
            fenced_epoch,
            after,
            last: moved,
            whole,
            first: moved.next(),
            moved,
            changes: 0,
            bytes: 0,
            done: capture.is_none(),
        }
    }

    /// Owns no more, and what it alone has is to be put aside: both in one transaction.
    async fn begin_tail(
        &self,
        (before, next): (Option<&Control>, Control),
        tail: TailRecord,
    ) -> Result<(), Refusal> {
        let id = &self.tenant.id;
        let tables = match tail.done {
            true => wire::TailTables::default(),
            false => tails::describe(&*self.cell.catalogue(id).await?),
        };
        let begun = async {
            let mut client = self.cell.database.client().await?;
            let transaction = client.transaction().await?;
            transaction.batch_execute(LOCKED_MAX).await?;
            let controls = (before, &next);
            let number = records::change_in(&transaction, self.cell.incarnation, id, controls, Rows::Stay).await?;
            tails::begin_in(&transaction, id, &tail, &tables).await?;
            transaction.commit().await?;
            Ok::<_, Refusal>(number)
        };
        let number = begun.await.inspect_err(|_| self.tenant.lock().doubted = true)?;
        // Before anybody can find that nothing waits for the other cell any more.
        self.tenant.lock().tail = Some(tail);
        self.settle(next, number, Keep::Same).await
    }
}

fn read(row: &tokio_postgres::Row) -> Result<Copied, Refusal> {
    let reach = Reach::decode(row.get(1)).map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(Copied { applied: Seq(from_db(row.get(0))), reach })
}

/// Nothing was found in which the copy is not what the owner had. That it follows no further says nothing against it.
fn is_alike(core: &Core) -> bool {
    let failure = core.progress.failure.as_ref().map(|failure| failure.code);
    core.differing.1.is_empty() && !matches!(failure, Some("DIGEST_MISMATCH" | "COPY_DIVERGED"))
}

fn told(tail: &TailRecord) -> wire::Tail {
    wire::Tail { changes: tail.changes, bytes: tail.bytes, last_seq: tail.last.get(), whole: tail.whole }
}

/// Writes down what this cell alone has, out of its log. Goes on where it was.
pub(crate) async fn move_aside(cell: &Cell, tenant: &Tenant) -> Result<(), Refusal> {
    let _alone = tenant.mending.lock().await;
    {
        // What was written down without an answer is there, or not.
        let _turn = tenant.turn.lock().await;
        cell.refresh(tenant).await?;
    }
    let under_way = || tenant.lock().tail.clone().filter(|tail| !tail.done);
    let Some(mut tail) = under_way() else { return let_go_of_log(cell, tenant).await };
    let captures = || cell.replication.captures();
    let standing = standing(cell, tenant).await?;
    // Other numbers would say something else than those that are there already.
    let is_readable = is_numbered_alike(cell, tenant).await?;
    match standing.filter(|_| is_readable) {
        Some(standing) => {
            // The other one has said that it holds durably what it does not hold now.
            tail.whole &= standing.acked <= tail.moved;
            let mut client = cell.database.client().await?;
            let mut written = under_way().ok_or_else(dropped)?;
            loop {
                let some = captures().after(&tenant.id, tail.moved, MOVED_BYTES);
                let Some(last) = some.last().map(|last| last.seq) else { break };
                let changes: Vec<wire::TableTransaction> = some.iter().map(|one| change(one)).collect();
                tail.first = if tail.changes == 0 { Seq(changes[0].seq) } else { tail.first };
                tail.changes += changes.len() as u64;
                tail.bytes += changes.iter().map(|change| prost::Message::encoded_len(change) as u64).sum::<u64>();
                (tail.moved, tail.last) = (last, last);
                let advanced =
                    tails::advance(&mut client, cell.incarnation, &tenant.id, (&written, &tail), &changes).await;
                advanced.inspect_err(|_| tenant.lock().doubted = true)?;
                tenant.lock().goes_on_putting_aside(&tail);
                written = tail.clone();
                // From here on the log is not needed for it, wherever the server fails over to.
                standbys::have_all(&cell.database).await?;
                captures().acknowledge(&tenant.id, last, Instant::now());
            }
            // It may have been given up meanwhile, or a table have come that is in no log.
            tail.whole &= captures().standing(&tenant.id).is_some_and(|standing| standing.is_ok());
            tail.whole &= has_its_tables(cell, tenant).await?;
        }
        None => tail.whole = false,
    }
    let written = under_way().ok_or_else(dropped)?;
    tail.done = true;
    let mut client = cell.database.client().await?;
    let advanced = tails::advance(&mut client, cell.incarnation, &tenant.id, (&written, &tail), &[]).await;
    advanced.inspect_err(|_| tenant.lock().doubted = true)?;
    tracing::info!(tenant = %tenant.id, changes = tail.changes, whole = tail.whole, "what this cell alone has is put aside");
    tenant.lock().goes_on_putting_aside(&tail);
    let_go_of_log(cell, tenant).await
}

/// Everything is written down, on standbys, too, where they are waited for.
async fn let_go_of_log(cell: &Cell, tenant: &Tenant) -> Result<(), Refusal> {
    let is_done = tenant.lock().tail.as_ref().is_some_and(|tail| tail.done);
    if is_done && cell.replication.wants(&tenant.id) {
        standbys::have_all(&cell.database).await?;
        cell.replication.unwant(&tenant.id);
        cell.replication.forget_catalogue(&tenant.id);
    }
    Ok(())
}

/// Whether the numbers in changes mean what they did when the tail was begun.
async fn is_numbered_alike(cell: &Cell, tenant: &Tenant) -> Result<bool, Refusal> {
    let known = tails::describe(&*cell.catalogue(&tenant.id).await?);
    Ok(tails::tables(&**cell.database.client().await?, &tenant.id).await? == known)
}

/// Whether the tables are those that they were.
async fn has_its_tables(cell: &Cell, tenant: &Tenant) -> Result<bool, Refusal> {
    let known = cell.catalogue(&tenant.id).await?;
    let now = Catalogue::read(&**cell.database.client().await?, &known.place).await?;
    Ok(now.lines() == known.lines())
}

fn dropped() -> Refusal {
    Refusal::new("BUSY", "what was put aside was let go of meanwhile")
}

fn change(captured: &Captured) -> wire::TableTransaction {
    wire::TableTransaction { seq: captured.seq.get(), mutations: captured.mutations.clone() }
}

/// How the capture stands once everything is decoded that the tenant's writers have committed here; none where it is lost. No new ones
/// come in.
async fn standing(cell: &Cell, tenant: &Tenant) -> Result<Option<Standing>, Refusal> {
    let standing = || cell.replication.captures().standing(&tenant.id).and_then(Result::ok);
    if standing().is_none() {
        return Ok(None);
    }
    seal::drain(&*cell.database.client().await?, &tenant.id, PATIENCE).await?;
    let decoded = async {
        cell.replication.streaming(PATIENCE).await?;
        cell.replication.barrier(PATIENCE).await
    };
    match decoded.await {
        Ok(_) => Ok(standing()),
        Err(_) if cell.replication.is_lost().await? => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// Goes on with what was being put aside when the agent was stopped, until it is.
pub(crate) async fn go_on(cell: &Cell, tenant: &Tenant) {
    while let Err(refusal) = move_aside(cell, tenant).await {
        tracing::warn!(tenant = %tenant.id, %refusal, "changes could not be put aside yet");
        tokio::time::sleep(AGAIN).await;
    }
}

/// Part of what was put aside of a tenant, behind `after`; none where nothing is.
pub(crate) async fn read_tail(
    cell: &Cell,
    id: &TenantId,
    after: Seq,
) -> Result<Option<wire::ReadTailResponse>, Refusal> {
    let Some(tenant) = cell.get(id) else { return Ok(None) };
    let (tail, uid) = {
        let core = tenant.lock();
        let (Some(tail), Some(control)) = (core.tail.clone(), core.control.as_ref()) else { return Ok(None) };
        (tail, control.uid)
    };
    if !tail.done {
        return Err(Refusal::new("BUSY", "changes are still being put aside"));
    }
    let (transactions, tables) = tails::page(&**cell.database.client().await?, id, after).await?;
    let more = transactions.last().is_some_and(|last| Seq(last.seq) < tail.moved);
    Ok(Some(wire::ReadTailResponse {
        uid: uid.get(),
        move_id: tail.move_id.0,
        fenced_epoch: tail.fenced_epoch.get(),
        after_seq: tail.after.get(),
        tail: Some(told(&tail)),
        more,
        table_transactions: transactions,
        tables: Some(tables),
        ..wire::ReadTailResponse::default()
    }))
}
