//! Steps from the coordinator. Each takes its turn at the tenant, asks [`crate::transition`] what it makes of it, makes
//! that durable in the database, tells the gates, and answers. Done again, it answers the same.

mod copying;
mod ending;
mod force;
mod mending;
mod owning;
mod preflight;

pub(crate) use copying::cell_id;
pub(crate) use ending::empty;
pub(crate) use force::{go_on, read_tail};

use std::sync::Arc;
use std::time::Duration;

use cell_model::{Epoch, Seq, TenantId};
use cell_protos::v1 as wire;
use cell_protos::v1::step_request::Step;
use cell_protos::v1::step_response::Result as Answer;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::catalogue::Catalogue;
use super::cell::Cell;
use super::floor::Least;
use super::layout::Place;
use super::records::{self, Copied, Rows};
use super::tenant::{Core, Tenant};
use super::{follower, schemas, standbys};
use crate::driver::Sender;
use crate::record::Control;
use crate::refusal::Refusal;
use crate::transition::Context;

/// How long standbys are waited for where writes are not.
const CONFIRM_MAX: Duration = Duration::from_secs(2);

/// What a step works on.
pub(crate) struct Work<'a> {
    pub(crate) cell: &'a Arc<Cell>,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) sender: Sender,
}

/// What becomes of the record of the tenant's rows.
enum Keep {
    Same,
    Are(Copied),
    /// They were copied so far, and are this cell's own from now on.
    Own(Copied),
    Gone,
}

/// Does one step.
pub(crate) async fn run(cell: &Arc<Cell>, sender: Sender, id: &TenantId, step: Step) -> Result<Answer, Refusal> {
    let work = Work { cell, tenant: cell.entry(id), sender };
    let now = Instant::now();
    let held_until = work.tenant.lock().holds.standing(now).map(|hold| hold.deadline);
    let answer = work.step(step).await?;
    let latest = Instant::now() + CONFIRM_MAX;
    work.confirm(held_until.map_or(latest, |deadline| deadline.min(latest))).await?;
    Ok(answer)
}

impl Work<'_> {
    async fn step(&self, step: Step) -> Result<Answer, Refusal> {
        match step {
            Step::Grant(_) => self.grant().await,
            Step::Revoke(_) => self.revoke().await,
            Step::Preflight(preflight) => self.preflight(preflight.as_target).await,
            Step::PrepareImport(import) => self.prepare_import(&import).await,
            Step::StartCapture(_) => self.start_capture().await,
            Step::ImportStatus(status) => self.import_status(status.bytes_per_second).await,
            Step::ScanDigest(scan) => self.scan_digest(Seq(scan.at_seq)).await,
            Step::EngageSync(sync) => self.engage_sync(sync.engaged).await,
            Step::SyncStatus(asked) => self.sync_status(asked.oldest_write).await,
            Step::PrepareReverse(_) => self.prepare_reverse().await,
            Step::HoldWrites(hold) => self.hold_writes(&hold).await,
            Step::ReleaseHold(_) => self.release_hold().await,
            Step::AwaitApplied(applied) => self.await_applied(Seq(applied.seq), applied.timeout_ms).await,
            Step::DigestAt(digest) => self.digest_at(Seq(digest.seq), digest.timeout_ms).await,
            Step::Fence(fence) => self.fence(Seq(fence.sealed_seq)).await,
            Step::Unfence(_) => self.unfence().await,
            // On the way back nobody follows; but until the move is over the owner may be taken over, and what it alone has then
            // must be known.
            Step::Activate(activate) => {
                let back = self.context().leg == Some(cell_model::Leg::Back);
                self.activate(activate.keep_follower || back).await
            }
            Step::DeliverMapping(delivery) => self.deliver_mapping(delivery).await,
            Step::DropImport(_) => self.drop_import().await,
            Step::StopCapture(_) => self.stop_capture().await,
            Step::Retire(_) => self.retire().await,
            Step::Reclaim(reclaim) => self.reclaim(Epoch(reclaim.fenced_epoch)).await,
            // In boxes: what they wait for is large, and they are few.
            Step::Examine(examine) => Box::pin(self.examine(examine.every_row)).await,
            Step::CompareSample(sample) => Box::pin(self.compare_sample(sample.seed)).await,
            Step::Recopy(recopy) => Box::pin(self.recopy(Seq(recopy.at_seq))).await,
            Step::LookAtCopy(look) => self.look_at_copy(look.knows_ungated).await,
            Step::OwnByForce(_) => Box::pin(self.own_by_force()).await,
            Step::PutAside(put) => Box::pin(self.put_aside(put)).await,
        }
    }

    /// What was given or taken is on the standbys, where they are waited for. Asked again, a step waits again.
    async fn confirm(&self, deadline: Instant) -> Result<(), Refusal> {
        let unconfirmed = self.tenant.lock().unconfirmed;
        let Some(end) = unconfirmed else { return Ok(()) };
        standbys::confirm(&self.cell.database, end, deadline).await?;
        let mut core = self.tenant.lock();
        core.unconfirmed = core.unconfirmed.filter(|newer| *newer > end);
        Ok(())
    }

    const fn context(&self) -> &Context {
        &self.sender.context
    }

    /// The tenant's lock, if the step's leader is still the newest.
    fn lock(&self) -> Result<std::sync::MutexGuard<'_, Core>, Refusal> {
        self.cell.check_term(self.sender.lineage, self.sender.term)?;
        Ok(self.tenant.lock())
    }

    /// Takes a turn and makes durable what `next` makes of the tenant.
    async fn change(
        &self,
        next: impl FnOnce(&mut Core) -> Result<(Control, Keep), Refusal> + Send,
    ) -> Result<(), Refusal> {
        let _turn = self.tenant.turn.lock().await;
        self.change_in_turn(next).await
    }

    /// As [`Work::change`], for whoever has the turn.
    async fn change_in_turn(
        &self,
        next: impl FnOnce(&mut Core) -> Result<(Control, Keep), Refusal> + Send,
    ) -> Result<(), Refusal> {
        self.change_and_make(None, next).await
    }

    /// As [`Work::change_in_turn`]; a schema of the tenant's own is made with it, or not at all.
    async fn change_and_make(
        &self,
        making: Option<Place>,
        next: impl FnOnce(&mut Core) -> Result<(Control, Keep), Refusal> + Send,
    ) -> Result<(), Refusal> {
        self.refresh().await?;
        let (old, next, keep) = {
            let mut core = self.lock()?;
            let (next, keep) = next(&mut core)?;
            (core.control.clone(), next, keep)
        };
        if old.as_ref() != Some(&next) || !matches!(keep, Keep::Same) {
            let rows = match &keep {
                Keep::Same => Rows::Stay,
                Keep::Are(copied) => Rows::Are(copied),
                Keep::Own(copied) => Rows::Own(copied),
                Keep::Gone => Rows::Gone,
            };
            let mut client = self.cell.database.client().await?;
            let made = self.store(&mut client, making, (old.as_ref(), &next), rows).await;
            let (number, catalogue) = made.inspect_err(|_| self.tenant.lock().doubted = true)?;
            self.settle(next, number, keep).await?;
            if let Some(catalogue) = catalogue {
                self.cell.replication.set_catalogue(&self.tenant.id, catalogue);
            }
        }
        follower::ensure(self.cell, &self.tenant);
        Ok(())
    }

    async fn store(
        &self,
        client: &mut Client,
        making: Option<Place>,
        controls: (Option<&Control>, &Control),
        rows: Rows<'_>,
    ) -> Result<(u64, Option<Catalogue>), Refusal> {
        let (id, transaction) = (&self.tenant.id, client.transaction().await?);
        let made = match making {
            Some(place) => {
                let template = self.cell.database.layout.pattern();
                Some(schemas::make(&transaction, &template, &place, id.as_str()).await?)
            }
            None => None,
        };
        let number = records::change_in(&transaction, self.cell.incarnation, id, controls, rows).await?;
        transaction.commit().await?;
        Ok((number, made.filter(|_| controls.1.is_under_way())))
    }

    /// As [`Cell::refresh`].
    async fn refresh(&self) -> Result<(), Refusal> {
        self.cell.refresh(&self.tenant).await
    }

    /// What the database has now is noted outside of it before anybody hears of it.
    async fn settle(&self, next: Control, number: u64, keep: Keep) -> Result<(), Refusal> {
        let has_rows = match &keep {
            Keep::Same => self.tenant.lock().copied.is_some(),
            Keep::Are(_) | Keep::Own(_) => true,
            Keep::Gone => false,
        };
        let noted = self.cell.floor.note(&self.tenant.id, Least { control: next.clone(), number, has_rows }).await;
        // Tried again, the step finds it in the database, and notes it then.
        noted.inspect_err(|_| self.tenant.lock().doubted = true)?;
        self.took(next, number, keep);
        self.cell.is_to_be_confirmed(&self.tenant).await.inspect_err(|_| self.tenant.lock().doubted = true)
    }

    /// What the database has now.
    fn took(&self, next: Control, number: u64, keep: Keep) {
        let puts_aside = !matches!(keep, Keep::Gone) && self.tenant.lock().puts_aside();
        if !next.needs_log() && !puts_aside {
            self.cell.replication.unwant(&self.tenant.id);
        }
        if !next.is_under_way() && !puts_aside {
            self.cell.replication.forget_catalogue(&self.tenant.id);
        }
        {
            let mut core = self.tenant.lock();
            // Other rows: what was compared before was at positions of another log, perhaps, and says nothing of these.
            let same_rows = matches!(keep, Keep::Same);
            let same_uid = core.control.as_ref().is_some_and(|control| control.uid == next.uid);
            core.control = Some(next);
            core.number = number;
            match keep {
                Keep::Same => {}
                Keep::Are(copied) => core.copied = Some(copied),
                Keep::Own(_) => core.copied = Some(Copied::whole()),
                Keep::Gone => (core.copied, core.tail) = (None, None),
            }
            if !(same_uid && same_rows) {
                core.cuts.clear();
            }
        }
        self.cell.post(&self.tenant);
    }
}

const fn done() -> Answer {
    Answer::Done(wire::Done {})
}

const fn position(seq: Seq) -> Answer {
    Answer::Position(wire::Position { seq: seq.get(), ended_writers: 0 })
}
