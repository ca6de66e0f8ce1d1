//! Faults that are to fall into one phase of a move: a phase may be over after a few hundredths of a second, so move after
//! move is tried until one is met there.

use std::time::Duration;

use cell_client::ClientError;
use cell_model::{MoveIntent, Phase};

use super::evidence::MoveTrace;
use super::script::{REACH_WITHIN, Runner, Trouble, said};
use super::steer::Moves;
use super::{Act, Who};
use crate::link::Condition;

/// Moves that are tried for one phase. What was never met is not exercised, and the verdict says so.
const TRIES: usize = 5;
/// On a slow way to the cells each phase is long enough to be met.
const SLOW: Condition =
    Condition { open: true, delay: Duration::from_millis(25), jitter: Duration::ZERO, loss_percent: 0 };
const CUT_FOR: Duration = Duration::from_millis(1_500);
const DOWN_FOR: Duration = Duration::from_millis(400);

/// How a move is steered so that it comes to a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Not at all.
    Forward,
    /// It is cancelled in this phase.
    Cancelled(Phase),
    /// It is rolled back in Soak; the phase is one of the way back.
    Back,
}

/// What is done to it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// The leader is killed, with its coordinator, and started again once another one leads.
    KillLeader,
    /// No control node reaches any cell, for a second and a half.
    CutCells,
}

impl Runner {
    /// Moves of a tenant, one after the other, until the blow has fallen into the phase.
    pub(super) async fn meet(&mut self, tenant: usize, phase: Phase, way: Way, blow: Blow) -> Result<(), Trouble> {
        for _ in 0..TRIES {
            let begun = self.evidence.faults.len();
            self.network(&Act::Shape(Who::Controls, Who::Cells, SLOW)).await?;
            let struck = self.try_to_meet(tenant, phase, way, blow).await;
            // Healed though it was not met.
            self.network(&Act::Heal).await?;
            self.moves.settle().await;
            struck?;
            let blows = self.evidence.faults.iter().skip(begun + 1).map(|fault| fault.from);
            let newest = self.moves.traces().pop();
            let is_met =
                |at| newest.as_ref().and_then(|one| one.met_at(at)) == Some((phase.as_str(), way == Way::Back));
            if blows.into_iter().any(is_met) {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn try_to_meet(&mut self, tenant: usize, phase: Phase, way: Way, blow: Blow) -> Result<(), Trouble> {
        // Whom to kill is known before the phase begins.
        self.names(Who::Leader).await?;
        let to = self.moves.elsewhere(tenant).await.map_err(|error| said(&error))?;
        let id = self.moves.begin(tenant, to, None).await;
        let id = id.map_err(|error| format!("a move to meet {phase} was refused: {}", said(&error)))?;
        self.mark(&format!("{id} is to be met in {phase}"));
        if !self.moves.bring(phase, way).await {
            return Ok(());
        }
        match blow {
            Blow::KillLeader => {
                self.process(&Act::Kill(Who::Victim)).await?;
                tokio::time::sleep(DOWN_FOR).await;
                let elected = self.elect().await;
                self.process(&Act::Start(Who::Victim)).await?;
                elected
            }
            Blow::CutCells => {
                self.network(&Act::Cut(Who::Controls, Who::Cells)).await?;
                tokio::time::sleep(CUT_FOR).await;
                Ok(())
            }
        }
    }
}

impl Moves {
    /// Brings the newest move into a phase. False where it has not come there.
    async fn bring(&self, phase: Phase, way: Way) -> bool {
        match way {
            Way::Forward => self.reach(phase, REACH_WITHIN).await,
            Way::Cancelled(within) => {
                self.reach(within, REACH_WITHIN).await
                    && is_done(&self.steer(MoveIntent::Cancel, "cancelled").await)
                    && self.reach(phase, REACH_WITHIN).await
            }
            Way::Back => {
                self.reach(Phase::Soak, REACH_WITHIN).await
                    && is_done(&self.steer(MoveIntent::Rollback, "rolled-back").await)
                    && self.reach_back(phase, REACH_WITHIN).await
            }
        }
    }
}

/// A move that is past the point where it could be steered goes on as it would have.
fn is_done(steered: &Result<(), ClientError>) -> bool {
    if let Err(error) = steered {
        tracing::info!(%error, "a move was not steered");
    }
    steered.is_ok()
}

impl MoveTrace {
    /// The phase that it was in at a moment, and whether that was on the way back.
    #[must_use]
    pub fn met_at(&self, at: u64) -> Option<(&str, bool)> {
        let phase = self.phase_at(at)?;
        let soak = Phase::Soak.as_str();
        let soaked = self.phases.iter().any(|(entered, when)| *when <= at && entered == soak);
        Some((phase, soaked && phase != soak))
    }
}
