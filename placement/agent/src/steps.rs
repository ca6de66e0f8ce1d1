//! Steps from the coordinator. Each takes the tenant's lock, asks [`crate::transition`] what it makes of the tenant,
//! commits that, tells the gates, and answers when it is durable. Done again, it answers the same.

mod copying;
mod ending;
mod force;
mod mending;
mod owning;

pub(crate) use ending::empty;
pub(crate) use force::{move_aside, read_tail};

use std::sync::Arc;

use cell_model::{Epoch, Seq, TenantId};
use cell_protos::v1 as wire;
use cell_protos::v1::step_request::Step;
use cell_protos::v1::step_response::Result as Answer;

use crate::driver::Sender;
use crate::durable::Ticket;
use crate::follow;
use crate::record::Control;
use crate::refusal::Refusal;
use crate::tenant::{Core, Tenant};
use crate::tenants::Tenants;
use crate::transition::Context;

/// What a step works on.
pub(crate) struct Work<'a> {
    pub(crate) tenants: &'a Arc<Tenants>,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) sender: Sender,
}

/// Does one step of the embedded driver.
pub(crate) async fn run(
    tenants: &Arc<Tenants>,
    sender: Sender,
    id: &TenantId,
    step: Step,
) -> Result<Answer, Refusal> {
    Work { tenants, tenant: tenants.entry(id), sender }.step(step).await
}

impl Work<'_> {
    async fn step(&self, step: Step) -> Result<Answer, Refusal> {
        match step {
            Step::Grant(_) => self.grant().await,
            Step::Revoke(_) => self.revoke().await,
            Step::Preflight(preflight) => Ok(self.preflight(preflight.as_target)),
            Step::PrepareImport(import) => self.prepare_import(&import).await,
            Step::StartCapture(_) => self.start_capture().await,
            Step::ImportStatus(status) => self.import_status(status.bytes_per_second).await,
            Step::ScanDigest(scan) => self.scan_digest(Seq(scan.at_seq)).await,
            Step::EngageSync(sync) => self.engage_sync(sync.engaged).await,
            Step::SyncStatus(_) => self.sync_status(),
            Step::PrepareReverse(_) => self.prepare_reverse().await,
            Step::HoldWrites(hold) => self.hold_writes(hold.budget_ms).await,
            Step::ReleaseHold(_) => self.release_hold(),
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
            Step::LookAtCopy(_) => self.look_at_copy().await,
            Step::OwnByForce(_) => self.own_by_force().await,
            Step::PutAside(put) => self.put_aside(put).await,
            Step::Examine(examine) => self.examine(examine.every_row).await,
            Step::Recopy(recopy) => self.recopy(Seq(recopy.at_seq)).await,
            Step::CompareSample(_) => self.compare_sample().await,
        }
    }

    const fn context(&self) -> &Context {
        &self.sender.context
    }

    /// The tenant's lock, if the step's leader is still the newest.
    fn lock(&self) -> Result<std::sync::MutexGuard<'_, Core>, Refusal> {
        let core = self.tenant.lock();
        self.tenants.check_term(self.sender.lineage, self.sender.term)?;
        Ok(core)
    }

    /// Commits what `next` makes of the tenant, tells gates and followers, and waits until it is durable.
    async fn change(&self, next: impl FnOnce(&mut Core) -> Result<Control, Refusal>) -> Result<(), Refusal> {
        let ticket = self.change_now(next)?;
        self.tenants.wait(ticket).await
    }

    fn change_now(&self, next: impl FnOnce(&mut Core) -> Result<Control, Refusal>) -> Result<Ticket, Refusal> {
        let ticket = {
            let mut core = self.lock()?;
            let next = next(&mut core)?;
            let ticket = core.set_control(&self.tenant.id, &self.tenants.durable, next)?;
            self.tenants.post(&self.tenant, &core);
            ticket
        };
        follow::ensure(self.tenants, &self.tenant);
        Ok(ticket)
    }
}

const fn done() -> Answer {
    Answer::Done(wire::Done {})
}

const fn position(seq: Seq) -> Answer {
    Answer::Position(wire::Position { seq: seq.get(), ended_writers: 0 })
}
