//! One effect under way: whom it talks to, how it tries again, and how it says what came of it.

use std::future::Future;
use std::time::Duration;

use cell_client::{StepContext, StepError};
use cell_model::{
    Attempt, CellId, CellRecord, CellState, Command, Envelope, Event, Leg, Move, MoveId, Outcome, Phase, Rejected,
    Reply, TenantRecord, UnixMillis,
};

use tokio::time::Instant;

use crate::coordinator::Tenure;
use crate::{ControlPlane, Coordinator};

/// How often a step is tried before its surroundings are looked at anew.
const TRIES: u32 = 4;

/// The surroundings of one effect.
pub(crate) struct Run<'a, P> {
    pub(crate) of: &'a Coordinator<P>,
    pub(crate) tenure: Tenure,
    pub(crate) record: &'a TenantRecord,
}

/// Why an effect has come to nothing this time. It is still pending, so it is started again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Setback {
    #[error("{0}")]
    Step(#[from] StepError),
    #[error("the store knows no cell {0}")]
    NoCell(CellId),
    #[error("{0}")]
    Propose(#[from] crate::ProposeError),
    #[error("the store refused: {0}")]
    Rejected(#[from] Rejected),
    #[error("{0}")]
    NotYet(String),
}

impl Setback {
    /// The agent has heard of a younger leader: this one must not draw any conclusion from the refusal.
    pub(crate) fn is_of_an_old_leader(&self) -> bool {
        matches!(self, Self::Step(StepError::Refused { code, .. }) if code == "STALE_TERM")
    }
}

impl<P: ControlPlane> Run<'_, P> {
    /// The move of the record that this effect was computed from.
    pub(crate) fn movement(&self) -> Result<&Move, Setback> {
        self.record.movement.as_deref().ok_or_else(|| Setback::NotYet("the record has no move".into()))
    }

    /// What every step of this effect carries.
    pub(crate) fn context(&self) -> StepContext {
        let movement = self.record.movement.as_ref();
        StepContext {
            lineage: self.tenure.lineage,
            term: self.tenure.term,
            tenant: self.record.id.clone(),
            uid: self.record.uid,
            move_id: movement.map(|movement| movement.id),
            attempt: movement.map_or(Attempt(0), |movement| movement.attempt),
            epoch: self.record.epoch,
            leg: movement.map(|movement| movement.leg),
        }
    }

    /// The same for a move that has ended and left a copy.
    pub(crate) fn context_of_ended(&self, move_id: MoveId) -> StepContext {
        // Later than every attempt that the move can have had, so that it is never taken for an older one.
        let attempt = Attempt(u32::MAX);
        StepContext { move_id: Some(move_id), attempt, leg: Some(Leg::Forward), ..self.context() }
    }

    pub(crate) fn cell(&self, id: &CellId) -> Result<CellRecord, Setback> {
        self.of.control.cell(id).ok_or_else(|| Setback::NoCell(id.clone()))
    }

    pub(crate) fn is_dead(&self, id: &CellId) -> bool {
        self.of.control.cell(id).is_some_and(|cell| cell.state == CellState::Dead)
    }

    /// Address of a cell's agent, as the store knows it now.
    pub(crate) fn agent(&self, id: &CellId) -> Result<String, Setback> {
        Ok(self.cell(id)?.agent)
    }

    /// Agent of the cell that is to be left, on this leg.
    pub(crate) fn from(&self) -> Result<String, Setback> {
        self.agent(self.movement()?.from())
    }

    /// Agent of the cell that is to own, on this leg.
    pub(crate) fn to(&self) -> Result<String, Setback> {
        self.agent(self.movement()?.to())
    }

    /// Waits for a time of the wall clock, and no longer than `at_most` whatever that clock says: one that was ahead when the
    /// time was written down, and is right again, would else keep a move waiting by as much.
    pub(crate) async fn until(&self, at: UnixMillis, at_most: Duration) {
        let began = Instant::now();
        loop {
            let now = self.of.control.now();
            let left = at_most.saturating_sub(began.elapsed());
            if now >= at || left.is_zero() {
                return;
            }
            // Looked at again each minute, so that a clock that was set does not keep a move waiting.
            tokio::time::sleep(Duration::from_millis((at.0 - now.0).min(60_000)).min(left)).await;
        }
    }

    /// Proposes what has happened within the move; refusals come back one by one.
    pub(crate) async fn propose(&self, events: Vec<Event>) -> Result<Vec<Reply>, Setback> {
        self.propose_due(events, UnixMillis(0)).await
    }

    /// The same of what was due at a time that was waited for: not said earlier than that, whatever the wall clock says.
    pub(crate) async fn propose_due(&self, events: Vec<Event>, due: UnixMillis) -> Result<Vec<Reply>, Setback> {
        let movement = self.record.movement.as_ref();
        let within = movement.map(|movement| (movement.id, movement.leg));
        self.propose_as(events, within, due).await
    }

    /// Proposes what has happened outside a move.
    pub(crate) async fn propose_outside(&self, event: Event) -> Result<(), Setback> {
        accepted(self.propose_as(vec![event], None, UnixMillis(0)).await?)
    }

    async fn propose_as(
        &self,
        events: Vec<Event>,
        within: Option<(MoveId, Leg)>,
        due: UnixMillis,
    ) -> Result<Vec<Reply>, Setback> {
        let at = self.of.control.now().max(due);
        let envelope = |event: Event| {
            Envelope::new(
                at,
                Command::Record {
                    tenant: self.record.id.clone(),
                    uid: self.record.uid,
                    move_id: within.map(|(id, _)| id),
                    leg: within.map(|(_, leg)| leg),
                    event,
                },
            )
        };
        let (began, proposed) = (Instant::now(), events.len());
        let replies = self.of.control.propose(events.into_iter().map(envelope).collect()).await?;
        tracing::debug!(tenant = %self.record.id, proposed, took = ?began.elapsed(), "proposal taken");
        Ok(replies)
    }

    /// Proposes one event, and is content only if it was taken.
    pub(crate) async fn happened(&self, event: Event) -> Result<(), Setback> {
        accepted(self.propose(vec![event]).await?)
    }

    /// Tries a step a few times. What is still not answered then is looked at anew: the cell may have another address,
    /// or the operator may have declared it dead.
    pub(crate) async fn insist<T, F, R>(&self, step: &str, mut run: F) -> Result<T, Setback>
    where
        F: FnMut() -> R,
        R: Future<Output = Result<T, StepError>>,
    {
        let (mut pause, longest) = self.of.options.retry;
        let mut tries_left = TRIES;
        let began = Instant::now();
        loop {
            tries_left -= 1;
            match run().await {
                Ok(answer) => {
                    tracing::debug!(tenant = %self.record.id, step, took = ?began.elapsed(), "step done");
                    return Ok(answer);
                }
                Err(error) if tries_left == 0 || matches!(error, StepError::Refused { .. }) => {
                    self.met(step, &error);
                    return Err(error.into());
                }
                Err(error) => {
                    self.met(step, &error);
                    tracing::debug!(tenant = %self.record.id, step, %error, "step not answered, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
            }
        }
    }
}

impl<P: ControlPlane> Run<'_, P> {
    /// Keeps what is in the way of the move, for who looks at it.
    fn met(&self, step: &str, error: &StepError) {
        let Some(movement) = &self.record.movement else { return };
        self.met_in((movement.leg, movement.phase), step, error);
    }

    /// The same of what is in the way of the phase that the move goes back to.
    pub(crate) fn met_in(&self, within: (Leg, Phase), step: &str, error: &StepError) {
        match error {
            // Another node leads: it is in nobody's way.
            StepError::Refused { code, .. } if code == "STALE_TERM" => {}
            StepError::Refused { code, reason } => self.met_as(within, code, &format!("{step}: {reason}")),
            StepError::Unreachable { .. } | StepError::Unknown { .. } => {
                self.met_as(within, "CELL_UNREACHABLE", &format!("{step}: {error}"));
            }
        }
    }

    pub(crate) fn met_as(&self, within: (Leg, Phase), code: &str, reason: &str) {
        let Some(movement) = &self.record.movement else { return };
        if self.of.setbacks.met(movement.id, within, (code, reason), self.of.control.now()) {
            let (tenant, id, phase) = (&self.record.id, movement.id, within.1.as_str());
            tracing::warn!(%tenant, r#move = %id, phase, code, reason, "the move does not go on");
        }
    }
}

/// The first refusal among answers, if there is one.
pub(crate) fn accepted(replies: Vec<Reply>) -> Result<(), Setback> {
    for reply in replies {
        let _outcome: Outcome = reply.result?;
    }
    Ok(())
}
