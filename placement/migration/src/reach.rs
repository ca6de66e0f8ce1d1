//! Whether routers would reach the tenant where it goes to: whoever is moved behind no gate is served by nobody.

use std::time::Duration;

use cell_client::Finding;
use cell_model::CellRecord;
use tokio::time::Instant;

use crate::ControlPlane;
use crate::steps::{Run, Setback};

/// What is in the way of a move because no router would reach the tenant at the new owner. Behind a cell of which no gate is known
/// it is served past the routers, if at all: nothing of theirs is lost when it leaves for another.
#[must_use]
pub fn out_of_reach(source: &CellRecord, target: &CellRecord) -> Option<Finding> {
    if source.gates.is_empty() || !target.gates.is_empty() {
        return None;
    }
    let id = &target.id;
    let remedy = if target.traits.ungated {
        format!("Say where its application is: `cellctl cell declare {id} --gate HOST:PORT`")
    } else {
        "Start its application with a gate that is connected to the agent".into()
    };
    let reason =
        format!("no gate of cell {id} is known: no router would reach the tenant there. {remedy}, and move again");
    Some(Finding { code: "NO_GATE".into(), reason })
}

impl<P: ControlPlane> Run<'_, P> {
    /// The same of the owner and the other cell of this move as they are now: a way back has no leg of its own before its hold.
    pub(crate) fn out_of_reach(&self) -> Result<Option<Finding>, Setback> {
        let (movement, owner) = (self.movement()?, &self.record.owner);
        let other = if *owner == movement.source { &movement.target } else { &movement.source };
        Ok(out_of_reach(&self.cell(owner)?, &self.cell(other)?))
    }

    /// A hold is not begun towards a cell whose gates have gone, however long that takes: whoever looks at the move is told.
    pub(crate) fn reached_in_the_end(&self, patient_until: Instant) -> Result<(), Setback> {
        match self.out_of_reach()? {
            Some(found) if Instant::now() >= patient_until => Err(Setback::NotYet(found.reason)),
            _ => Ok(()),
        }
    }

    /// Gates come and go with their processes: what is still in the way after a while.
    pub(crate) async fn still_out_of_reach(&self, patience: Duration) -> Result<Option<Finding>, Setback> {
        let deadline = Instant::now() + patience;
        loop {
            let found = self.out_of_reach()?;
            if found.is_none() || Instant::now() >= deadline {
                return Ok(found);
            }
            tokio::time::sleep(self.of.options.poll).await;
        }
    }
}
