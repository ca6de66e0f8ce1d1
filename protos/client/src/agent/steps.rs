//! The steps. Each says in its answer what the coordinator's event needs.

use std::time::Duration;

use cell_model::{CellId, Digest, Epoch, Generation, Seq};
use cell_protos::v1;
use cell_protos::v1::step_request::Step;
use cell_protos::v1::step_response::Result as Answer;
use cell_trust::SignedMapping;

use super::{AgentPool, Finding, ImportProgress, PreflightReport, StepContext, SyncProgress, unfitting};
use crate::{StepError, signed_to_wire};

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl AgentPool {
    async fn done(&self, agent: &str, context: &StepContext, step: Step) -> Result<Generation, StepError> {
        self.done_within(agent, context, step, self.options.step).await
    }

    async fn done_within(
        &self,
        agent: &str,
        context: &StepContext,
        step: Step,
        patience: Duration,
    ) -> Result<Generation, StepError> {
        match self.run(agent, context, step, patience).await? {
            (generation, Answer::Done(_)) => Ok(generation),
            _ => Err(unfitting(agent, "it should only say done")),
        }
    }

    pub(super) async fn position(
        &self,
        agent: &str,
        context: &StepContext,
        step: Step,
        patience: Duration,
    ) -> Result<(Seq, Generation), StepError> {
        match self.run(agent, context, step, patience).await? {
            (generation, Answer::Position(position)) => Ok((Seq(position.seq), generation)),
            _ => Err(unfitting(agent, "it should be a position")),
        }
    }

    async fn digest(
        &self,
        agent: &str,
        context: &StepContext,
        step: Step,
        patience: Duration,
    ) -> Result<(Seq, Digest), StepError> {
        match self.run(agent, context, step, patience).await? {
            (_, Answer::Digest(v1::DigestResult { seq, digest: Some(digest) })) => {
                let digest = Digest::try_from(digest).map_err(|error| unfitting(agent, &error.to_string()))?;
                Ok((Seq(seq), digest))
            }
            _ => Err(unfitting(agent, "it should be a digest")),
        }
    }

    /// The cell owns (uid, epoch): it serves.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn grant(&self, agent: &str, context: &StepContext) -> Result<(), StepError> {
        self.done(agent, context, Step::Grant(v1::Grant {})).await.map(drop)
    }

    /// The tenant is deleted: the cell refuses it and deletes its rows.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn revoke(&self, agent: &str, context: &StepContext) -> Result<(), StepError> {
        self.done_within(agent, context, Step::Revoke(v1::Revoke {}), self.options.scan).await.map(drop)
    }

    /// The cell looks at itself and changes nothing.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn preflight(
        &self,
        agent: &str,
        context: &StepContext,
        as_target: bool,
    ) -> Result<PreflightReport, StepError> {
        let step = Step::Preflight(v1::Preflight { as_target });
        match self.run(agent, context, step, self.options.step).await? {
            (_, Answer::Preflight(report)) => {
                let finding = |finding: v1::Finding| Finding { code: finding.code, reason: finding.reason };
                let findings = report.findings.into_iter().map(finding).collect();
                let notes = report.notes.into_iter().map(finding).collect();
                let storage = report.storage.and_then(|storage| v1::Storage::try_from(storage).ok());
                let v1::PreflightReport { rows, bytes, tables, disk_bytes, free_bytes, log_bytes_max, .. } = report;
                Ok(PreflightReport {
                    findings,
                    notes,
                    rows,
                    bytes,
                    tables,
                    storage,
                    disk_bytes,
                    free_bytes,
                    log_bytes_max,
                })
            }
            _ => Err(unfitting(agent, "it should be a preflight report")),
        }
    }

    /// The owner logs every change from the answered position on, durably.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn start_capture(&self, agent: &str, context: &StepContext) -> Result<Seq, StepError> {
        let step = Step::StartCapture(v1::StartCapture {});
        Ok(self.position(agent, context, step, self.options.step).await?.0)
    }

    /// The copying cell makes room and starts or resumes the copy.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn prepare_import(
        &self,
        agent: &str,
        context: &StepContext,
        source_cell: &CellId,
        source_agent: &str,
    ) -> Result<Generation, StepError> {
        let (source_cell, source_agent) = (source_cell.to_string(), source_agent.to_owned());
        self.done(agent, context, Step::PrepareImport(v1::PrepareImport { source_cell, source_agent })).await
    }

    /// How far the copy has come.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn import_status(&self, agent: &str, context: &StepContext) -> Result<ImportProgress, StepError> {
        self.import_status_at(agent, context, 0).await
    }

    /// The same, and from now on the copy reads at the most so much of the source in a second; 0: as fast as it goes.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn import_status_at(
        &self,
        agent: &str,
        context: &StepContext,
        bytes_per_second: u64,
    ) -> Result<ImportProgress, StepError> {
        let step = Step::ImportStatus(v1::ImportStatus { bytes_per_second });
        match self.run(agent, context, step, self.options.step).await? {
            (_, Answer::Import(import)) => Ok(ImportProgress {
                backfilled: import.backfilled,
                applied: Seq(import.applied_seq),
                source: Seq(import.source_seq),
                lag_bytes: import.lag_bytes,
                lag_ms: import.lag_ms,
                copied_rows: import.copied_rows,
                copied_bytes: import.copied_bytes,
                failure_code: import.failure_code,
                failure: import.failure,
                stale_rejected: import.stale_rejected,
            }),
            _ => Err(unfitting(agent, "it should be the progress of an import")),
        }
    }

    /// Every row read again at a consistent cut: the owner's own, or the one given.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn scan_digest(
        &self,
        agent: &str,
        context: &StepContext,
        at_seq: Option<Seq>,
    ) -> Result<(Seq, Digest), StepError> {
        let step = Step::ScanDigest(v1::ScanDigest { at_seq: at_seq.unwrap_or_default().get() });
        self.digest(agent, context, step, self.options.scan).await
    }

    /// The owner answers a write only when the copying cell holds it, or does not wait for it any more.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn engage_sync(&self, agent: &str, context: &StepContext, engaged: bool) -> Result<(), StepError> {
        self.done(agent, context, Step::EngageSync(v1::EngageSync { engaged })).await.map(drop)
    }

    /// How the owner stands to its follower. What it answers comes from memory.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn sync_status(&self, agent: &str, context: &StepContext) -> Result<SyncProgress, StepError> {
        self.sync(agent, context, false).await
    }

    /// The same, and the age of the oldest open write, which only the owner's database knows.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn sync_status_with_writes(
        &self,
        agent: &str,
        context: &StepContext,
    ) -> Result<SyncProgress, StepError> {
        self.sync(agent, context, true).await
    }

    async fn sync(
        &self,
        agent: &str,
        context: &StepContext,
        oldest_write: bool,
    ) -> Result<SyncProgress, StepError> {
        let step = Step::SyncStatus(v1::SyncStatus { oldest_write });
        match self.run(agent, context, step, self.options.step).await? {
            (_, Answer::Sync(sync)) => Ok(SyncProgress {
                engaged: sync.engaged,
                wants_degrade: sync.wants_degrade,
                last: Seq(sync.last_seq),
                acked: Seq(sync.acked_seq),
                oldest_write: Duration::from_millis(sync.oldest_write_ms.into()),
                ended_writers: sync.ended_writers,
            }),
            _ => Err(unfitting(agent, "it should be the state of sync")),
        }
    }

    /// The coming owner's own capture is durable.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn prepare_reverse(
        &self,
        agent: &str,
        context: &StepContext,
    ) -> Result<(Seq, Generation), StepError> {
        self.position(agent, context, Step::PrepareReverse(v1::PrepareReverse {}), self.options.step).await
    }

    /// Gates closed and quiesced: S*. The hold lapses by itself after `budget`.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn hold_writes(
        &self,
        agent: &str,
        context: &StepContext,
        budget: Duration,
    ) -> Result<Seq, StepError> {
        Ok(self.hold_writes_of(agent, context, budget, false).await?.0)
    }

    /// The same, which ends transactions of writers that no gate has let in, if `terminate_writers` says so and they would be waited for
    /// beyond half of the budget; and how many of them were ended in this move so far.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn hold_writes_of(
        &self,
        agent: &str,
        context: &StepContext,
        budget: Duration,
        terminate_writers: bool,
    ) -> Result<(Seq, u32), StepError> {
        let step = Step::HoldWrites(v1::HoldWrites { budget_ms: millis(budget), terminate_writers });
        match self.run(agent, context, step, budget + self.options.travel).await? {
            (_, Answer::Position(position)) => Ok((Seq(position.seq), position.ended_writers)),
            _ => Err(unfitting(agent, "it should be a position")),
        }
    }

    /// Lets the held writes go on.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn release_hold(&self, agent: &str, context: &StepContext) -> Result<(), StepError> {
        self.done(agent, context, Step::ReleaseHold(v1::ReleaseHold {})).await.map(drop)
    }

    /// The copying cell has everything up to `seq`, durably; its last applied change.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn await_applied(
        &self,
        agent: &str,
        context: &StepContext,
        seq: Seq,
        timeout: Duration,
    ) -> Result<(Seq, Generation), StepError> {
        let step = Step::AwaitApplied(v1::AwaitApplied { seq: seq.get(), timeout_ms: millis(timeout) });
        self.position(agent, context, step, timeout + self.options.travel).await
    }

    /// The kept digest at exactly `seq`; of a copying cell as soon as it has come that far, but within `timeout`.
    ///
    /// # Errors
    /// [`StepError`]; also where the answer is of another `seq`.
    pub async fn digest_at(
        &self,
        agent: &str,
        context: &StepContext,
        seq: Seq,
        timeout: Duration,
    ) -> Result<Digest, StepError> {
        let step = Step::DigestAt(v1::DigestAt { seq: seq.get(), timeout_ms: millis(timeout) });
        let (at, digest) = self.digest(agent, context, step, timeout + self.options.travel).await?;
        if at == seq { Ok(digest) } else { Err(unfitting(agent, &format!("a digest at {at} instead of {seq}"))) }
    }

    /// The owner refuses everything from now on, durably, if the seal still stands at `sealed`.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn fence(&self, agent: &str, context: &StepContext, sealed: Seq) -> Result<Seq, StepError> {
        let step = Step::Fence(v1::Fence { sealed_seq: sealed.get() });
        Ok(self.position(agent, context, step, self.options.step).await?.0)
    }

    /// The fenced owner owns again.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn unfence(&self, agent: &str, context: &StepContext) -> Result<(), StepError> {
        self.done(agent, context, Step::Unfence(v1::Unfence {})).await.map(drop)
    }

    /// The cell owns; the old owner follows, where one is named.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn activate(
        &self,
        agent: &str,
        context: &StepContext,
        follower: Option<(&CellId, &str)>,
    ) -> Result<Generation, StepError> {
        let (follower_cell, follower_agent) = named(follower);
        let keep_follower = follower.is_some();
        self.done(agent, context, Step::Activate(v1::Activate { follower_cell, follower_agent, keep_follower }))
            .await
    }

    /// The fenced cell hands this mapping out, and follows the new owner, where one is named.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn deliver_mapping(
        &self,
        agent: &str,
        context: &StepContext,
        signed: &SignedMapping,
        follow: Option<(&CellId, &str)>,
    ) -> Result<(), StepError> {
        let (follow_cell, follow_agent) = named(follow);
        let mapping = Some(signed_to_wire(signed));
        let step = Step::DeliverMapping(v1::DeliverMapping { mapping, follow_cell, follow_agent });
        self.done(agent, context, step).await.map(drop)
    }

    /// The copying cell deletes what it has copied.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn drop_import(&self, agent: &str, context: &StepContext) -> Result<(), StepError> {
        self.done_within(agent, context, Step::DropImport(v1::DropImport {}), self.options.scan).await.map(drop)
    }

    /// The owner stops capturing and drops what it has captured.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn stop_capture(&self, agent: &str, context: &StepContext) -> Result<(), StepError> {
        self.done_within(agent, context, Step::StopCapture(v1::StopCapture {}), self.options.scan).await.map(drop)
    }

    /// The cell with the old copy stops following and is a tombstone that redirects.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn retire(&self, agent: &str, context: &StepContext) -> Result<(), StepError> {
        self.done(agent, context, Step::Retire(v1::Retire {})).await.map(drop)
    }

    /// The cell with the old copy deletes it.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn reclaim(&self, agent: &str, context: &StepContext, fenced_epoch: Epoch) -> Result<(), StepError> {
        let step = Step::Reclaim(v1::Reclaim { fenced_epoch: fenced_epoch.get() });
        self.done_within(agent, context, step, self.options.scan).await.map(drop)
    }
}

fn named(cell: Option<(&CellId, &str)>) -> (String, String) {
    cell.map(|(cell, agent)| (cell.to_string(), agent.to_owned())).unwrap_or_default()
}
