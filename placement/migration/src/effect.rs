//! Each effect, run to its end. An error leaves it pending: it is started again after a pause.

use std::time::Duration;

use cell_client::{Finding, ImportProgress, PreflightReport, StepError};
use cell_model::{CellId, Difference, Effect, Event, Leg, MoveId, Phase, TenantRecord, UnixMillis, Weight};
use tokio::time::Instant;

use crate::coordinator::Tenure;
use crate::gaining::Gaining;
use crate::lines::Place;
use crate::steps::{Run, Setback, accepted};
use crate::{ControlPlane, Coordinator};

/// A copy is looked at no more often than this.
const LOOK_MIN: Duration = Duration::from_millis(10);
/// No chunk of a copy is larger.
const CHUNK_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a cell has said before a move.
enum Looked {
    Passed(PreflightReport),
    Found { code: String, reason: String },
}

impl<P: ControlPlane> Coordinator<P> {
    /// Runs one effect; pauses where it came to nothing, so that what is started again at once does not spin.
    pub(crate) async fn execute(&self, tenure: Tenure, record: &TenantRecord, effect: &Effect) {
        let run = Run { of: self, tenure, record };
        let waits_only = matches!(effect, Effect::Admit | Effect::AwaitHold { .. } | Effect::AwaitSoak { .. });
        let _permit = match Place::of(effect) {
            None if waits_only => None,
            None => self.talking.acquire().await.ok(),
            // It takes one itself, and rests without.
            Some(Place::At(_)) if matches!(effect, Effect::Quarantine { .. }) => None,
            Some(Place::Clock) => None,
            Some(Place::At(_)) => self.outside.acquire().await.ok(),
        };
        let movement = record.movement.as_ref();
        match Box::pin(run.effect(effect)).await {
            Ok(()) => {}
            Err(setback) => {
                let r#move = movement.map(|movement| tracing::field::display(movement.id));
                let phase = movement.map(|movement| movement.phase.as_str());
                let error = setback.to_string();
                match self.telling.tells(&error, Instant::now()) {
                    Some(untold) => tracing::info!(
                        tenant = %record.id, r#move, phase, ?effect, error, untold, "effect came to nothing, looking again"
                    ),
                    None => tracing::debug!(
                        tenant = %record.id, r#move, phase, ?effect, error, "effect came to nothing, looking again"
                    ),
                }
                tokio::time::sleep(self.options.retry.0 * 4).await;
            }
        }
    }
}

impl<P: ControlPlane> Run<'_, P> {
    async fn effect(&self, effect: &Effect) -> Result<(), Setback> {
        match effect {
            Effect::Grant { cell, .. } => self.grant(cell).await,
            Effect::Revoke { cell } => self.revoke(cell).await,
            Effect::Admit => self.happened(Event::Admitted).await,
            Effect::Preflight => self.preflight().await,
            Effect::StartCapture => self.start_capture().await,
            Effect::PrepareImport => self.prepare_import().await,
            Effect::AwaitBackfill { bytes_per_second } => self.await_backfill(*bytes_per_second).await,
            Effect::AwaitCaughtUp => self.await_caught_up().await,
            Effect::VerifyFull => self.verify_full().await,
            Effect::EngageSync => self.engage_sync(true).await,
            Effect::DisengageSync => self.engage_sync(false).await,
            Effect::WatchSync { .. } => self.watch_sync().await,
            Effect::PrepareReverse => self.prepare_reverse().await,
            Effect::AwaitHold { at } => self.await_hold(*at).await,
            Effect::AwaitFollower { at } => self.await_follower(*at).await,
            Effect::Hold { attempt, budget_ms, .. } => self.hold(*attempt, *budget_ms).await,
            Effect::Fence { attempt, seq } => self.fence(*attempt, *seq).await,
            Effect::Commit { attempt } => self.commit(*attempt, Vec::new()).await,
            Effect::Activate { .. } => self.activate().await,
            Effect::TakeOver { .. } => self.own_by_force().await,
            Effect::Quarantine { cell, move_id, fenced_epoch, after } => {
                self.quarantine(cell, *move_id, *fenced_epoch, *after).await
            }
            Effect::DeliverMapping { cell } => self.deliver_mapping(cell).await,
            Effect::AwaitSoak { at } => self.await_soak(*at).await,
            Effect::Unfence { attempt, .. } => self.unfence(*attempt).await,
            Effect::DropImport { cell } => self.drop_import(cell).await,
            Effect::StopCapture { cell } => self.stop_capture(cell).await,
            Effect::Retire { cell, successor, move_id } => self.retire(cell, successor, *move_id).await,
            Effect::AwaitRetention { cell, at } => {
                // How long a copy is to be kept is not known any more once its move has ended.
                self.until(*at, Duration::MAX).await;
                self.propose_outside(Event::RetentionOver { cell: cell.clone() }).await
            }
            Effect::Reclaim { cell, fenced_epoch, move_id } => self.reclaim(cell, *fenced_epoch, *move_id).await,
        }
    }

    async fn grant(&self, cell: &CellId) -> Result<(), Setback> {
        let context = self.context();
        let agent = self.agent(cell)?;
        self.insist("grant", || self.of.agents.grant(&agent, &context)).await?;
        self.propose_outside(Event::Granted).await
    }

    /// An old copy on a cell that the operator has declared dead is not waited for.
    async fn revoke(&self, cell: &CellId) -> Result<(), Setback> {
        let context = self.context();
        let agent = self.agent(cell)?;
        self.of.control.confirm().await?;
        if *cell == self.record.owner || !self.is_dead(cell) {
            self.insist("revoke", || self.of.agents.revoke(&agent, &context)).await?;
        }
        self.propose_outside(Event::Revoked { cell: cell.clone() }).await
    }

    /// Looks at both cells; a cell that stays silent for too long is a finding, too.
    async fn preflight(&self) -> Result<(), Setback> {
        let movement = self.movement()?;
        let mut passed = Vec::new();
        for (cell, as_target) in [(&movement.source, false), (&movement.target, true)] {
            match self.look(cell, as_target).await? {
                Looked::Found { code, reason } => {
                    return self.happened(Event::PreflightFailed { code, reason }).await;
                }
                Looked::Passed(report) => passed.push(report),
            }
        }
        if let [source, target] = passed.as_slice()
            && let Some(Finding { code, reason }) = source.apart_from(target)
        {
            return self.happened(Event::PreflightFailed { code, reason }).await;
        }
        if let Some(Finding { code, reason }) = self.still_out_of_reach(self.of.options.preflight_patience).await? {
            return self.happened(Event::PreflightFailed { code, reason }).await;
        }
        let weight = passed.first().map(|report| Weight { rows: report.rows, bytes: report.bytes });
        let weight = weight.unwrap_or_default();
        accepted(self.propose(vec![Event::Weighed(weight), Event::PreflightPassed]).await?)
    }

    async fn look(&self, cell: &CellId, as_target: bool) -> Result<Looked, Setback> {
        let context = self.context();
        let patience = self.of.options.preflight_patience;
        let deadline = Instant::now() + patience;
        loop {
            let agent = self.agent(cell)?;
            let looked = self.insist("preflight", || self.of.agents.preflight(&agent, &context, as_target));
            match tokio::time::timeout_at(deadline, looked).await {
                Ok(Ok(mut report)) if !report.findings.is_empty() => {
                    let Finding { code, reason } = report.findings.swap_remove(0);
                    return Ok(Looked::Found { code, reason });
                }
                Ok(Ok(report)) => {
                    return Ok(match self.without_fence(cell, &report) {
                        Some(Finding { code, reason }) => Looked::Found { code, reason },
                        None => Looked::Passed(report),
                    });
                }
                // It says nothing of the cell: another node leads, and looks for itself.
                Ok(Err(setback @ Setback::Step(StepError::Refused { .. }))) if setback.is_of_an_old_leader() => {
                    return Err(setback);
                }
                Ok(Err(Setback::Step(StepError::Refused { code, reason }))) => {
                    return Ok(Looked::Found { code, reason });
                }
                Ok(Err(Setback::Step(_))) => {}
                Ok(Err(setback)) => return Err(setback),
                Err(_) => {
                    let reason = format!("the agent of {cell} at {agent} has not answered for {patience:?}");
                    return Ok(Looked::Found { code: "CELL_UNREACHABLE".into(), reason });
                }
            }
        }
    }

    async fn start_capture(&self) -> Result<(), Setback> {
        let (context, agent) = (self.context(), self.from()?);
        match self.insist("start capture", || self.of.agents.start_capture(&agent, &context)).await {
            Ok(position) => self.happened(Event::CaptureStarted { position }).await,
            Err(setback) => self.unless_a_hook_refuses(setback).await,
        }
    }

    async fn prepare_import(&self) -> Result<(), Setback> {
        let (context, agent) = (self.context(), self.to()?);
        let source = self.movement()?.from();
        let source_agent = self.agent(source)?;
        let prepare = || self.of.agents.prepare_import(&agent, &context, source, &source_agent);
        let generation = match self.insist("prepare import", prepare).await {
            Ok(generation) => generation,
            Err(setback) => return self.unless_a_hook_refuses(setback).await,
        };
        // Before the phase in which the copy is looked at: a move that rests here copies all the same.
        let bytes_per_second = self.movement()?.bytes_per_second;
        if bytes_per_second != 0 {
            let slow = || self.of.agents.import_status_at(&agent, &context, bytes_per_second);
            self.insist("import status", slow).await?;
        }
        self.happened(Event::ImportPrepared { generation }).await
    }

    async fn await_backfill(&self, bytes_per_second: u64) -> Result<(), Setback> {
        let (context, agent) = (self.context(), self.to()?);
        let status = || self.of.agents.import_status_at(&agent, &context, bytes_per_second);
        let began = Instant::now();
        let (mut gaining, mut looked) = (Gaining::default(), began);
        // At this rate the next chunk may be long in coming.
        let chunk = Duration::from_secs(CHUNK_BYTES_MAX.checked_div(bytes_per_second).unwrap_or_default());
        loop {
            let import = self.insist("import status", status).await?;
            if !import.failure_code.is_empty() {
                return self.give_up(&import.failure_code, &import.failure).await;
            }
            if import.backfilled {
                return self.happened(Event::BackfillDone { applied: import.applied }).await;
            }
            let in_vain = gaining.look(&import, looked.elapsed());
            looked = Instant::now();
            if in_vain > self.of.options.gain_patience + chunk {
                return self.too_slow(&import, in_vain).await;
            }
            // A small tenant is copied in less time than lies between two looks at a large one.
            let poll = self.of.options.poll;
            tokio::time::sleep((began.elapsed() / 64).clamp(LOOK_MIN.min(poll), poll)).await;
        }
    }

    async fn await_caught_up(&self) -> Result<(), Setback> {
        let (context, agent) = (self.context(), self.to()?);
        let (mut gaining, mut looked) = (Gaining::default(), Instant::now());
        loop {
            let import = self.insist("import status", || self.of.agents.import_status(&agent, &context)).await?;
            if !import.failure_code.is_empty() {
                return self.give_up(&import.failure_code, &import.failure).await;
            }
            if self.is_close_behind(&import) {
                return self.happened(Event::CaughtUp { applied: import.applied }).await;
            }
            let in_vain = gaining.look(&import, looked.elapsed());
            looked = Instant::now();
            if in_vain > self.of.options.gain_patience {
                return self.too_slow(&import, in_vain).await;
            }
            tokio::time::sleep(self.of.options.poll).await;
        }
    }

    /// A copy that does not come closer would go on for ever, and so would the log that is kept for it.
    async fn too_slow(&self, import: &ImportProgress, in_vain: Duration) -> Result<(), Setback> {
        let ImportProgress { copied_rows, lag_bytes, lag_ms, .. } = import;
        let reason = format!(
            "for {} s changes were applied as fast as they came and nothing was gained: {copied_rows} rows are copied, the copy lags by \
             {lag_ms} ms and {lag_bytes} bytes",
            in_vain.as_secs()
        );
        self.give_up("WRITERS_TOO_FAST", &reason).await
    }

    fn is_close_behind(&self, import: &ImportProgress) -> bool {
        import.backfilled
            && Duration::from_millis(import.lag_ms) < self.of.options.caught_up_lag
            && import.lag_bytes < self.of.options.caught_up_bytes
    }

    /// What lives beside the rows does not want the move, or cannot be asked: then it ends here.
    async fn unless_a_hook_refuses(&self, setback: Setback) -> Result<(), Setback> {
        match setback {
            Setback::Step(StepError::Refused { code, reason })
                if matches!(code.as_str(), "HOOK_REFUSED" | "HOOK_FAILED") =>
            {
                self.give_up(&code, &reason).await
            }
            setback => Err(setback),
        }
    }

    async fn give_up(&self, code: &str, reason: &str) -> Result<(), Setback> {
        self.happened(Event::GaveUp { code: code.into(), reason: reason.into() }).await
    }

    /// Every row of both, read again. The source is not paused: its digest is of where its scan ended.
    async fn verify_full(&self) -> Result<(), Setback> {
        let (context, from, to) = (self.context(), self.from()?, self.to()?);
        let (seq, ours) =
            match self.insist("scan source", || self.of.agents.scan_digest(&from, &context, None)).await {
                Ok(scanned) => scanned,
                // The damage is in what would be copied: nothing mends it here.
                Err(Setback::Step(StepError::Refused { code, reason })) if code == "MISMATCH" => {
                    return self.happened(Event::Mismatched { reason: format!("the source: {reason}") }).await;
                }
                Err(setback) => return Err(setback),
            };
        let scanned = self.insist("scan target", || self.of.agents.scan_digest(&to, &context, Some(seq))).await;
        match scanned {
            Ok((_, theirs)) if theirs == ours && self.movement()?.exact => self.compare_rows(seq, ours).await,
            Ok((_, theirs)) if theirs == ours => self.happened(Event::FullyVerified { seq, digest: ours }).await,
            Ok((_, theirs)) => {
                self.mend(Difference::of_digests(Phase::Verify, seq, ours, theirs).to_string()).await
            }
            Err(Setback::Step(StepError::Refused { code, reason })) if code == "MISMATCH" => {
                self.mend(reason).await
            }
            Err(setback) => Err(setback),
        }
    }

    async fn engage_sync(&self, engaged: bool) -> Result<(), Setback> {
        let (context, agent) = (self.context(), self.from()?);
        self.insist("engage sync", || self.of.agents.engage_sync(&agent, &context, engaged)).await?;
        self.happened(if engaged { Event::SyncEngaged } else { Event::SyncDisengaged }).await
    }

    /// Runs for as long as the move is in Sync.
    async fn watch_sync(&self) -> Result<(), Setback> {
        let (context, from, to) = (self.context(), self.from()?, self.to()?);
        let attempt = self.movement()?.attempt;
        let known = self.movement()?.acks.in_sync.is_some_and(|known| known.lineage == self.tenure.lineage);
        let mut coming = (!known).then_some(None);
        loop {
            let sync = self.insist("sync status", || self.of.agents.sync_status(&from, &context)).await?;
            if sync.wants_degrade {
                return self.happened(Event::SyncDegraded { attempt }).await;
            }
            if !sync.engaged {
                // The source's agent was started again and has forgotten; the record has not.
                self.insist("engage sync", || self.of.agents.engage_sync(&from, &context, true)).await?;
            }
            // What was answered before sync was engaged may still be on its way to the target.
            if let Some(floor) = coming.as_mut().filter(|_| sync.engaged) {
                let floor = *floor.get_or_insert(sync.last);
                if sync.acked >= floor {
                    let lineage = self.tenure.lineage;
                    self.happened(Event::InSync { attempt, lineage, seq: floor }).await?;
                    coming = None;
                }
            }
            // Not insisted on: an unreachable target shows at the source as acknowledgements that are missing.
            if let Ok(import) = self.of.agents.import_status(&to, &context).await
                && !import.failure_code.is_empty()
            {
                return self.give_up(&import.failure_code, &import.failure).await;
            }
            tokio::time::sleep(self.of.options.poll * 2).await;
        }
    }

    async fn prepare_reverse(&self) -> Result<(), Setback> {
        let (context, agent) = (self.context(), self.to()?);
        let prepare = || self.of.agents.prepare_reverse(&agent, &context);
        let (position, generation) = self.insist("prepare reverse", prepare).await?;
        self.happened(Event::ReverseReady { position, generation }).await
    }

    /// Waits until a hold may be tried, and then for a quiet moment: the copy is close behind, and no transaction is
    /// open that has run for so long already that the hold would rather miss its budget than see its end.
    async fn await_hold(&self, at: UnixMillis) -> Result<(), Setback> {
        let steady = Duration::from_millis(self.movement()?.sync_steady_ms.into());
        self.until(at, steady.max(self.of.options.hold_backoff * 16)).await;
        let (context, from, to) = (self.context(), self.from()?, self.to()?);
        let budget = Duration::from_millis(u64::from(self.movement()?.hold_max_ms));
        // Neither a session that never ends its transaction nor a copy that always lags may put the hold off for ever: then
        // it is missed, and counted.
        let patient_until = Instant::now() + self.of.options.quiet_patience;
        let is_quiet = async |budget: Duration| {
            let writes = || self.of.agents.sync_status_with_writes(&from, &context);
            let sync = self.insist("sync status", writes).await?;
            Ok::<_, Setback>(sync.oldest_write.saturating_mul(2) <= budget)
        };
        loop {
            let import = self.insist("import status", || self.of.agents.import_status(&to, &context)).await?;
            let close = Duration::from_millis(import.lag_ms) * 2 <= budget;
            self.reached_in_the_end(patient_until)?;
            let is_moment = close && self.out_of_reach()?.is_none() && self.routers_at_hand();
            let due =
                import.backfilled && (Instant::now() >= patient_until || (is_moment && is_quiet(budget).await?));
            if due {
                return accepted(self.propose_due(vec![Event::HoldDue], at).await?);
            }
            tokio::time::sleep(self.of.options.poll).await;
        }
    }

    /// When the soak is over, the cell that redirects says how much it has turned away. One that cannot be asked holds
    /// nothing up: then it is not known.
    async fn await_soak(&self, at: UnixMillis) -> Result<(), Setback> {
        self.soak(at).await?;
        let (context, agent) = (self.context(), self.from()?);
        let counted = self.of.agents.import_status(&agent, &context).await.ok();
        let counted = counted.map(|import| Event::Counted { stale_rejected: import.stale_rejected });
        accepted(self.propose_due(counted.into_iter().chain([Event::SoakPassed]).collect(), at).await?)
    }

    /// The same on the way back: in Soak the old owner follows the new one.
    async fn await_follower(&self, at: UnixMillis) -> Result<(), Setback> {
        self.until(at, self.of.options.hold_backoff * 16).await;
        let context = self.context();
        let agent = self.agent(&self.movement()?.source)?;
        let patient_until = Instant::now() + self.of.options.quiet_patience;
        loop {
            let import = self.insist("follower status", || self.of.agents.import_status(&agent, &context)).await?;
            self.reached_in_the_end(patient_until)?;
            let is_moment = self.routers_at_hand() || Instant::now() >= patient_until;
            if is_moment && self.out_of_reach()?.is_none() && self.is_close_behind(&import) {
                return accepted(self.propose_due(vec![Event::HoldDue], at).await?);
            }
            tokio::time::sleep(self.of.options.poll).await;
        }
    }

    async fn activate(&self) -> Result<(), Setback> {
        let movement = self.movement()?;
        let (context, agent) = (self.context(), self.to()?);
        let follower = match movement.leg {
            Leg::Forward => Some((movement.from(), self.from()?)),
            // After a rollback nobody follows.
            Leg::Back => None,
        };
        let follower = follower.as_ref().map(|(cell, agent)| (*cell, agent.as_str()));
        let generation = self.insist("activate", || self.of.agents.activate(&agent, &context, follower)).await?;
        self.happened(Event::Activated { generation }).await
    }

    async fn deliver_mapping(&self, cell: &CellId) -> Result<(), Setback> {
        let movement = self.movement()?;
        let (context, agent) = (self.context(), self.agent(cell)?);
        let signed = self.of.control.sign(self.record);
        let follow = match movement.leg {
            Leg::Forward => Some((movement.to(), self.to()?)),
            Leg::Back => None,
        };
        let follow = follow.as_ref().map(|(cell, agent)| (*cell, agent.as_str()));
        let deliver = || self.of.agents.deliver_mapping(&agent, &context, &signed, follow);
        self.insist("deliver mapping", deliver).await?;
        self.happened(Event::MappingDelivered).await
    }

    async fn unfence(&self, attempt: cell_model::Attempt) -> Result<(), Setback> {
        let (context, agent) = (self.context(), self.from()?);
        self.insist("unfence", || self.of.agents.unfence(&agent, &context)).await?;
        self.happened(Event::Unfenced { attempt }).await
    }

    /// A cell that the operator has declared dead is not waited for: what it held went with it.
    async fn drop_import(&self, cell: &CellId) -> Result<(), Setback> {
        if !self.is_dead(cell) {
            let (context, agent) = (self.context(), self.agent(cell)?);
            self.insist("drop import", || self.of.agents.drop_import(&agent, &context)).await?;
        }
        self.happened(Event::ImportDropped).await
    }

    async fn stop_capture(&self, cell: &CellId) -> Result<(), Setback> {
        if !self.is_dead(cell) {
            let (context, agent) = (self.context(), self.agent(cell)?);
            self.insist("stop capture", || self.of.agents.stop_capture(&agent, &context)).await?;
        }
        self.happened(Event::CaptureStopped).await
    }

    async fn retire(&self, cell: &CellId, successor: &CellId, move_id: MoveId) -> Result<(), Setback> {
        let context = self.context_of_ended(move_id);
        if !self.is_dead(cell) {
            let agent = self.agent(cell)?;
            self.insist("retire", || self.of.agents.retire(&agent, &context)).await?;
        }
        if !self.is_dead(successor) {
            let agent = self.agent(successor)?;
            self.insist("stop capture", || self.of.agents.stop_capture(&agent, &context)).await?;
        }
        self.propose_outside(Event::Retired { cell: cell.clone() }).await
    }

    /// Destroys an old copy, after asking the quorum whether that is still wanted.
    async fn reclaim(
        &self,
        cell: &CellId,
        fenced_epoch: cell_model::Epoch,
        move_id: MoveId,
    ) -> Result<(), Setback> {
        self.of.control.confirm().await?;
        let wanted = self.of.control.record(&self.record.id).is_some_and(|record| {
            let copy = record.retained_on(cell);
            record.uid == self.record.uid
                && record.owner != *cell
                && copy.is_some_and(|copy| copy.reclaiming && copy.move_id == move_id)
        });
        if !wanted {
            return Err(Setback::NotYet("the copy is not to be reclaimed any more".into()));
        }
        if !self.is_dead(cell) {
            let (context, agent) = (self.context_of_ended(move_id), self.agent(cell)?);
            self.insist("reclaim", || self.of.agents.reclaim(&agent, &context, fenced_epoch)).await?;
        }
        self.propose_outside(Event::Reclaimed { cell: cell.clone() }).await
    }
}
