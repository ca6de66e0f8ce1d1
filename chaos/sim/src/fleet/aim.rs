//! A fault that waits for its moment, which is over after some hundredths of a second and that no plan would meet: a cutover has been
//! committed, and the source, which is fenced, has not heard of it. It does so only later.

use std::time::Duration;

use cell_model::{FleetView, Phase, TenantId};
use turmoil::Sim;

use super::machine::ControlMachine;
use super::nemesis::hosts;
use super::{CELLS, MOVING};
use crate::nemesis::NetworkFault;
use crate::node::NODES;

/// For so long the source hears nothing of the control plane.
const LASTS: Duration = Duration::from_millis(1_500);

/// See the module. It happens once in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    /// The moment has not come.
    Waits,
    /// This cell is cut off since then.
    Cut(&'static str, Duration),
    /// It is over.
    Over,
}

impl Aim {
    /// What becomes of it at `now`; `until`: when everything is healed. Answers who is cut off, or is not any more.
    pub(super) fn look(
        &mut self,
        (now, until): (Duration, Duration),
        leader: Option<&ControlMachine>,
        sim: &mut Sim<'_>,
    ) -> Option<(&'static str, bool)> {
        match *self {
            Self::Waits if now + LASTS < until => {
                let source = leader.and_then(source_behind_commit)?;
                apply(source, true, sim);
                *self = Self::Cut(source, now);
                Some((source, true))
            }
            Self::Cut(source, since) if since + LASTS <= now => {
                apply(source, false, sim);
                *self = Self::Over;
                Some((source, false))
            }
            Self::Waits | Self::Cut(..) | Self::Over => None,
        }
    }
}

fn apply(source: &'static str, begins: bool, sim: &mut Sim<'_>) {
    NODES.into_iter().for_each(|node| NetworkFault::Cut(node, source).apply(begins, &hosts(), sim));
}

/// The cell that a move leaves whose cutover this node's store has committed, and whose new owner has not answered yet.
fn source_behind_commit(leader: &ControlMachine) -> Option<&'static str> {
    let tenant = TenantId::new(MOVING).ok()?;
    let source = leader.view(|fleet| {
        let movement = fleet.tenant(&tenant)?.movement.as_ref()?;
        (movement.phase == Phase::Activate).then(|| movement.from().clone())
    })??;
    CELLS.into_iter().find(|cell| *cell == source.as_str())
}
