//! Steps for the cell that owns: grant, capture, sync, hold, fence, unfence.

use std::time::Duration;

use cell_model::Seq;
use cell_protos::v1 as wire;
use cell_protos::v1::step_response::Result as Answer;
use tokio::time::Instant;

use super::{Work, done, position};
use crate::capture;
use crate::engine::Batch;
use crate::record::{Position, Role};
use crate::refusal::Refusal;
use crate::staging::Changes;
use crate::transition;

impl Work<'_> {
    pub(super) async fn grant(&self) -> Result<Answer, Refusal> {
        let ticket = {
            let mut core = self.lock()?;
            let next = transition::grant(core.control(), self.context(), core.has_copy())?;
            let ticket = if core.control() == Some(&next) {
                core.ticket
            } else {
                let position = Some(Some(Position::empty()));
                let (batch, changes) = (Batch::default(), Changes::default());
                core.commit(&self.tenant.id, &self.tenants.durable, batch, &changes, Some(next), position)?
            };
            self.tenants.post(&self.tenant, &core);
            ticket
        };
        self.tenants.wait(ticket).await?;
        Ok(done())
    }

    pub(super) fn preflight(&self, as_target: bool) -> Answer {
        let mut findings = Vec::new();
        let mut find = |code: &str, reason: String| findings.push(wire::Finding { code: code.into(), reason });
        let core = self.tenant.lock();
        let control = core.control().filter(|control| control.uid == self.context().uid);
        let owns =
            control.is_some_and(|control| control.role == Role::Owner && control.epoch == self.context().epoch);
        if as_target {
            if core.has_copy() {
                find("COPY_PRESENT", format!("cell {} already has rows of the tenant", self.tenants.here));
            }
            if self.tenants.trusted.read().unwrap_or_else(std::sync::PoisonError::into_inner).is_empty() {
                find("NO_TRUSTED_KEYS", format!("cell {} trusts no signatures yet", self.tenants.here));
            }
        } else if !owns {
            find(
                "NOT_OWNER",
                format!("cell {} does not own the tenant at epoch {}", self.tenants.here, self.context().epoch),
            );
        }
        let (rows, bytes) = core.position().map_or((0, 0), |position| (position.digest.rows, position.bytes));
        let storage = Some(wire::Storage::Embedded.into());
        Answer::Preflight(wire::PreflightReport {
            findings,
            rows,
            bytes,
            storage,
            // Each row is in a segment of the store's log once, and once more while that is tidied up.
            disk_bytes: bytes.saturating_mul(2),
            free_bytes: self.tenants.durable.engine().free_bytes(),
            ..wire::PreflightReport::default()
        })
    }

    pub(super) async fn start_capture(&self) -> Result<Answer, Refusal> {
        let context = self.context();
        let stale = {
            let core = self.lock()?;
            transition::start_capture(core.known()?, context, core.last_seq())?;
            core.known()?.capture.as_ref().is_none_or(|capture| capture.move_id != context.move_id)
        };
        if stale {
            // What an older move has left goes first, so that the log begins where this capture does.
            self.change(|core| Ok(crate::record::Control { capture: None, sync: false, ..core.known()?.clone() }))
                .await?;
            capture::clear(&self.tenant, &self.tenants.durable).await?;
        }
        let (ticket, from) = {
            let mut core = self.lock()?;
            let next = transition::start_capture(core.known()?, context, core.last_seq())?;
            let from = next.capture.as_ref().map_or(Seq(0), |capture| capture.from);
            let mut ticket = core.ticket;
            if core.control() != Some(&next) {
                let position =
                    core.position().cloned().map(|old| Position { captured_bytes: 0, trimmed: from, ..old });
                let (batch, changes) = (Batch::default(), Changes::default());
                ticket = core.commit(
                    &self.tenant.id,
                    &self.tenants.durable,
                    batch,
                    &changes,
                    Some(next),
                    Some(position),
                )?;
                core.acked = from;
                core.unacked_since = None;
            }
            (ticket, from)
        };
        self.tenants.wait(ticket).await?;
        Ok(position(from))
    }

    pub(super) async fn engage_sync(&self, engaged: bool) -> Result<Answer, Refusal> {
        self.change(|core| transition::engage_sync(core.known()?, self.context(), engaged)).await?;
        Ok(done())
    }

    pub(super) fn sync_status(&self) -> Result<Answer, Refusal> {
        let mut core = self.lock()?;
        let engaged = transition::admit(core.known()?, self.context(), false)?.sync;
        let (last, acked) = (core.last_seq(), core.acked);
        if acked < last {
            core.unacked_since.get_or_insert_with(Instant::now);
        }
        let overdue =
            core.unacked_since.is_some_and(|since| since.elapsed() > self.tenants.limits.confirm_overdue());
        Ok(Answer::Sync(wire::SyncProgress {
            engaged,
            wants_degrade: engaged && acked < last && overdue,
            last_seq: last.get(),
            acked_seq: acked.get(),
            // The gates wait for requests, and nothing else writes here.
            oldest_write_ms: 0,
            // Nobody writes here but by way of a gate.
            ended_writers: 0,
        }))
    }

    pub(super) async fn hold_writes(&self, budget_ms: u32) -> Result<Answer, Refusal> {
        let attempt = (self.context().move_id, self.context().attempt);
        let (hold, is_new) = {
            let mut core = self.lock()?;
            let next = transition::hold_writes(core.known()?, self.context())?;
            let name = self.tenants.board.next_hold();
            let budget = Duration::from_millis(u64::from(budget_ms).max(1));
            let hold = core.holds.begin(attempt, name, Instant::now(), budget)?.clone();
            core.set_control(&self.tenant.id, &self.tenants.durable, next)?;
            self.tenants.post(&self.tenant, &core);
            let is_new = hold.id == name;
            (hold, is_new)
        };
        if is_new {
            self.lapse_at(hold.deadline);
        }
        #[cfg(feature = "planted")]
        let drains = !crate::planted::is(self.tenants, crate::planted::Planted::UndrainedCutover);
        #[cfg(not(feature = "planted"))]
        let drains = true;
        if hold.sealed.is_none() && drains {
            let quiesced = self.tenants.board.await_quiesced(hold.id, hold.deadline).await;
            quiesced.map_err(|gates| {
                Refusal::new("NOT_QUIESCED", format!("gates that have not quiesced in time: {}", gates.join(", ")))
            })?;
        }
        let (seq, ticket) = {
            let mut core = self.lock()?;
            let last = core.last_seq();
            (core.holds.seal(hold.id, last, Instant::now())?, core.ticket)
        };
        self.tenants.wait(ticket).await?;
        Ok(position(seq))
    }

    /// Lets the hold lapse by itself.
    fn lapse_at(&self, deadline: Instant) {
        let (tenants, tenant) = (self.tenants.clone(), self.tenant.clone());
        let stop = tenants.stop.clone();
        let tasks = tenants.tasks.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(tokio::time::sleep_until(deadline)).await;
            let mut core = tenant.lock();
            if core.holds.expire(Instant::now()) {
                tracing::info!(tenant = %tenant.id, "the hold has lapsed");
            }
            tenants.post(&tenant, &core);
        });
    }

    pub(super) fn release_hold(&self) -> Result<Answer, Refusal> {
        let mut core = self.lock()?;
        transition::admit(core.known()?, self.context(), false)?;
        core.holds.end();
        self.tenants.post(&self.tenant, &core);
        Ok(done())
    }

    pub(super) async fn fence(&self, sealed: Seq) -> Result<Answer, Refusal> {
        let context = *self.context();
        self.change(|core| {
            let standing = core.holds.seal_of((context.move_id, context.attempt), Instant::now());
            transition::fence(core.known()?, &context, sealed, standing, core.last_seq())
        })
        .await?;
        #[cfg(feature = "planted")]
        crate::planted::lapse(self.tenants, &self.tenant);
        Ok(position(sealed))
    }

    pub(super) async fn unfence(&self) -> Result<Answer, Refusal> {
        self.change(|core| {
            let next = transition::unfence(core.known()?, self.context())?;
            core.holds.end();
            Ok(next)
        })
        .await?;
        Ok(done())
    }
}
