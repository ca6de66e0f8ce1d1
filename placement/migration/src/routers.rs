//! Owners without a gate: nobody there lets writes wait, so routers do, and a hold waits for them before it seals.
//!
//! That is for those who come through a router. Whoever else writes is fenced by the database, so such a cell has to have one.

use cell_client::{Finding, PreflightReport};
use cell_model::{Attempt, CellId, Event};
use tokio::time::Instant;

use crate::steps::Run;
use crate::{ControlPlane, RoutersStood};

impl<P: ControlPlane> Run<'_, P> {
    /// Where the owner has no gate: waits until no router sends writes any more that it may have to refuse. Answers what is to be
    /// told of that.
    pub(crate) async fn routers_hold_back(
        &self,
        attempt: Attempt,
        deadline: Instant,
    ) -> Result<Option<Event>, String> {
        let movement = self.record.movement.as_ref();
        if !movement.is_some_and(|movement| movement.leaves_ungated()) {
            return Ok(None);
        }
        // The record that this hold was begun with: whoever has seen that holds everything back.
        let (tenant, since, began) = (&self.record.id, self.record.revision, Instant::now());
        let RoutersStood { seen, fenced } = self.of.control.routers_hold_back(tenant, since, deadline).await?;
        tracing::debug!(%tenant, seen, fenced, took = ?began.elapsed(), "routers hold back");
        Ok(Some(Event::RoutersHeld { attempt, seen, fenced }))
    }

    /// Whether it is a moment for a hold, as far as that waits for routers: all requests would wait as long as it does.
    pub(crate) fn routers_at_hand(&self) -> bool {
        let ungated = self.record.movement.as_ref().is_some_and(|movement| {
            if self.record.owner == movement.source { movement.ungated.source } else { movement.ungated.target }
        });
        !ungated || self.of.control.routers_at_hand()
    }

    /// What is in the way of a move because nobody stands before a cell's application.
    pub(crate) fn without_fence(&self, cell: &CellId, report: &PreflightReport) -> Option<Finding> {
        let movement = self.record.movement.as_ref()?;
        let ungated = if *cell == movement.source { movement.ungated.source } else { movement.ungated.target };
        if ungated { report.without_fence(cell) } else { None }
    }
}
