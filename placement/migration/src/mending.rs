//! A copy that is not the original: the copying cell finds the rows that differ, the record keeps which, and they are copied anew.
//! Then everything is compared again.

use cell_client::StepError;
use cell_model::{Difference, Digest, Event, Move, Seq};

use crate::ControlPlane;
use crate::steps::{Run, Setback};

/// How often rows are to be copied anew by a cell whose change stream comes and goes, before all are compared again.
const TRIES: u32 = 6;
/// Of a cell that will never find out more: it keeps its tenants elsewhere, or knows no such step.
const NEVER: [&str; 3] = ["REPAIR_UNSUPPORTED", "INVALID", "INVALID_ARGUMENT"];

impl<P: ControlPlane> Run<'_, P> {
    /// The full comparison has found this. Evidence first: what is mended was written down before.
    pub(crate) async fn mend(&self, known: String) -> Result<(), Setback> {
        let (context, to) = (self.context(), self.to()?);
        let found = match self.insist("examine", || self.of.agents.examine(&to, &context)).await {
            Ok(found) => found,
            Err(Setback::Step(StepError::Refused { code, reason })) if NEVER.contains(&code.as_str()) => {
                let reason = format!("{known}; which rows was not found out: {code}: {reason}");
                return self.happened(Event::Mismatched { reason }).await;
            }
            Err(setback) => return Err(setback),
        };
        self.mend_what_was(found, &to).await
    }

    /// Both add up to the same; and each row is compared with its original where that was asked for.
    pub(crate) async fn compare_rows(&self, seq: Seq, digest: Digest) -> Result<(), Setback> {
        let (context, to) = (self.context(), self.to()?);
        match self.insist("compare rows", || self.of.agents.compare_rows(&to, &context)).await {
            Ok(found) if found.count() == 0 => self.happened(Event::FullyVerified { seq, digest }).await,
            Ok(found) => self.mend_what_was(found, &to).await,
            Err(Setback::Step(StepError::Refused { code, reason }))
                if code == "EXACT_UNSUPPORTED" || NEVER.contains(&code.as_str()) =>
            {
                self.happened(Event::GaveUp { code: "EXACT_UNSUPPORTED".into(), reason }).await
            }
            Err(setback) => Err(setback),
        }
    }

    async fn mend_what_was(&self, found: Difference, to: &str) -> Result<(), Setback> {
        let at = found.seq;
        let before = self.of.control.record(&self.record.id).and_then(|record| record.movement);
        let is_last = before.is_none_or(|movement| movement.differences.len() >= Move::DIFFERENCES_MAX);
        tracing::warn!(tenant = %self.record.id, r#move = %self.movement()?.id, %found, "the copy differs");
        self.happened(Event::Differed(Box::new(found))).await?;
        if is_last {
            return Ok(());
        }
        let mended = self.recopied(to, at).await?;
        tracing::info!(tenant = %self.record.id, %at, %mended, "rows that differed were copied anew");
        Ok(())
    }

    async fn recopied(&self, to: &str, at: Seq) -> Result<Seq, Setback> {
        let context = self.context();
        let (mut pause, longest) = self.of.options.retry;
        for _ in 1..TRIES {
            match self.insist("recopy", || self.of.agents.recopy(to, &context, at)).await {
                Err(Setback::Step(StepError::Refused { code, .. })) if code == "BUSY" => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
                outcome => return outcome,
            }
        }
        self.insist("recopy", || self.of.agents.recopy(to, &context, at)).await
    }
}
