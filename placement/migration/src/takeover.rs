//! A takeover by force: the coming owner is promoted, and the old one is told whenever it is reached.

use cell_client::StepError;
use cell_model::{CellId, Epoch, Event, MoveId, Seq};

use crate::ControlPlane;
use crate::steps::{Run, Setback};

impl<P: ControlPlane> Run<'_, P> {
    pub(crate) async fn own_by_force(&self) -> Result<(), Setback> {
        let (context, agent) = (self.context(), self.to()?);
        let owned = self.insist("own by force", || self.of.agents.own_by_force(&agent, &context)).await;
        let (seq, generation) = owned?;
        self.happened(Event::TakenOver { seq, generation }).await
    }

    /// Asks once, and comes again until the cell is there, also where it counts as dead: whatever comes back must not think that it
    /// owns. In between it is somebody else's turn.
    pub(crate) async fn quarantine(
        &self,
        cell: &CellId,
        move_id: MoveId,
        fenced_epoch: Epoch,
        after: Seq,
    ) -> Result<(), Setback> {
        let context = self.context_of_ended(move_id);
        // The tenant may have moved on since.
        let now = self.of.control.record(&self.record.id).filter(|now| now.uid == self.record.uid);
        let signed = self.of.control.sign(now.as_ref().unwrap_or(self.record));
        // It may have come back at another address.
        let agent = self.agent(cell)?;
        let permit = self.of.outside.acquire().await.ok();
        let told = self.of.agents.put_aside(&agent, &context, &signed, fenced_epoch, after).await;
        drop(permit);
        match told {
            Ok(tail) => self.propose_outside(Event::Quarantined { cell: cell.clone(), tail }).await,
            Err(error @ StepError::Refused { .. }) => Err(error.into()),
            Err(error) => {
                tracing::debug!(tenant = %self.record.id, %cell, %error, "the cell that was taken over is not back");
                tokio::time::sleep(self.of.options.quarantine_every).await;
                Ok(())
            }
        }
    }
}
