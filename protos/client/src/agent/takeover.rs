//! Steps of a forced takeover, and the tail that it has left.

use cell_model::{CopySight, Epoch, Generation, Seq, Tail, TenantId};
use cell_protos::v1;
use cell_protos::v1::step_request::Step;
use cell_protos::v1::step_response::Result as Answer;
use cell_trust::SignedMapping;

use super::{AgentPool, StepContext, failed, no_answer, unfitting};
use crate::{StepError, signed_to_wire};

/// A page of a tail has at most one transaction more than its measure, and of those PostgreSQL has large ones.
const PAGE_BYTES_MAX: usize = 256 * 1024 * 1024;

impl AgentPool {
    /// What a cell that may take a tenant over holds of it. Changes nothing.
    ///
    /// # Errors
    /// [`StepError`]; refused also where the cell cannot take a tenant over.
    pub async fn look_at_copy(&self, agent: &str, context: &StepContext) -> Result<CopySight, StepError> {
        let step = Step::LookAtCopy(v1::LookAtCopy { knows_ungated: true });
        match self.run(agent, context, step, self.options.step).await? {
            (generation, Answer::Copy(copy)) => Ok(CopySight {
                generation,
                complete: copy.complete,
                applied: Seq(copy.applied_seq),
                heard: Seq(copy.heard_seq),
                ungated: copy.ungated,
            }),
            _ => Err(unfitting(agent, "it should be what the copy is")),
        }
    }

    /// The cell owns, by force: the old owner's last change that it held then.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn own_by_force(&self, agent: &str, context: &StepContext) -> Result<(Seq, Generation), StepError> {
        self.position(agent, context, Step::OwnByForce(v1::OwnByForce {}), self.options.step).await
    }

    /// The cell was taken over: it owns no more, and puts aside what it has behind `after`.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn put_aside(
        &self,
        agent: &str,
        context: &StepContext,
        signed: &SignedMapping,
        fenced_epoch: Epoch,
        after: Seq,
    ) -> Result<Tail, StepError> {
        let step = Step::PutAside(v1::PutAside {
            mapping: Some(signed_to_wire(signed)),
            fenced_epoch: fenced_epoch.get(),
            after_seq: after.get(),
        });
        match self.run(agent, context, step, self.options.scan).await? {
            (_, Answer::Tail(tail)) => Ok(tail.into()),
            _ => Err(unfitting(agent, "it should be what was put aside")),
        }
    }

    /// Part of what a cell has put aside of a tenant: what comes behind `after`.
    ///
    /// # Errors
    /// [`StepError`]; refused with `NOT_QUARANTINED` where it has put nothing aside.
    pub async fn read_tail(
        &self,
        agent: &str,
        tenant: &TenantId,
        after: Seq,
    ) -> Result<v1::ReadTailResponse, StepError> {
        let mut client = self.client(agent)?.max_decoding_message_size(PAGE_BYTES_MAX);
        let request = v1::ReadTailRequest { tenant: tenant.to_string(), after_seq: after.get() };
        let answer = tokio::time::timeout(self.options.step, client.read_tail(request)).await;
        let answer = answer.map_err(|_| no_answer(agent, self.options.step))?;
        answer.map(tonic::Response::into_inner).map_err(|status| match status.code() {
            tonic::Code::NotFound => {
                StepError::Refused { code: "NOT_QUARANTINED".into(), reason: status.message().to_owned() }
            }
            _ => failed(agent, &status),
        })
    }
}
