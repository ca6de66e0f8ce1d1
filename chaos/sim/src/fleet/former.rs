//! A step of a leader that led before all others, and that arrives at last: a cell that has obeyed a later one refuses it (I11).

use cell_client::{StepContext, StepError, wire};
use cell_model::{Attempt, Epoch, Leg, Lineage, TenantId, Term, Uid};

use super::MOVING;
use super::machine::agent_address;
use super::script::{POLL, Script};

/// Below that of every leader.
const FORMER: Term = Term(0);

impl Script {
    /// Sends the owner what a former leader might have sent it in the last move. Answers what is wrong with what becomes of it.
    pub(super) async fn obeyed_a_former_leader(
        &self,
        last: &wire::Move,
    ) -> Result<Option<String>, Box<dyn std::error::Error>> {
        let (tenant, agents) = (TenantId::new(MOVING)?, self.places()?.agents);
        self.scene.wait_for("a cell to refuse a former leader");
        loop {
            if let Ok(found) = self.control.get_tenant(&tenant).await {
                let mapping = found.mapping.unwrap_or_default();
                let context = StepContext {
                    lineage: Lineage(mapping.lineage),
                    term: FORMER,
                    tenant: tenant.clone(),
                    uid: Uid(mapping.uid),
                    move_id: Some(last.id.parse()?),
                    // As it is said of a move that has ended: later than all of its attempts.
                    attempt: Attempt(u32::MAX),
                    epoch: Epoch(mapping.epoch),
                    leg: Some(Leg::Forward),
                };
                // The move is over and nothing is captured for it: of all steps this one could change nothing.
                match agents.stop_capture(&agent_address(&mapping.owner), &context).await {
                    Err(StepError::Refused { code, .. }) if code == "STALE_TERM" => return Ok(None),
                    Err(StepError::Refused { code, reason }) => {
                        return Ok(Some(format!(
                            "I11: a former leader was refused for another reason: {code}: {reason}"
                        )));
                    }
                    Ok(()) => {
                        let owner = mapping.owner;
                        return Ok(Some(format!(
                            "I11: cell {owner} has done a step of term {FORMER}, long after another"
                        )));
                    }
                    Err(StepError::Unreachable { .. } | StepError::Unknown { .. }) => {}
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
