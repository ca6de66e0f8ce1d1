//! What a forced takeover asks of the fleet, beside what the tenant's own record says ([`crate::holder`]).

use super::{changes, check_alive, check_incarnation, check_residency, invalid, known, known_cell};
use crate::rule::require;
use crate::step::{drop_quarantine as drop_tail, take_over};
use crate::{CellId, CellState, Change, FleetView, Life, Rejected, Rule, Stamp, TakeoverOrder, TenantId};

/// The other cell of the move is made the owner, because this one is out of reach. Also under a cordon: nobody else has
/// the tenant.
pub(super) fn forced(
    fleet: &dyn FleetView,
    tenant: &TenantId,
    order: &TakeoverOrder,
    stamp: Stamp,
) -> Result<Vec<Change>, Rejected> {
    let record = known(fleet, tenant)?;
    require(Rule::TakeOverLife, record.life == Life::Live, || Rejected::TenantNotLive { tenant: tenant.clone() })?;
    let cell = known_cell(fleet, &order.target)?;
    require(Rule::TakeOverSameCell, record.owner != order.target, || Rejected::SameCell {
        tenant: tenant.clone(),
        cell: cell.id.clone(),
    })?;
    check_alive(Rule::TakeOverDead, cell)?;
    check_residency(Rule::TakeOverResidency, tenant, &record.residency, cell)?;
    let most = TakeoverOrder::EVIDENCE_MAX;
    let words = !order.evidence.trim().is_empty() && order.evidence.len() <= most;
    require(Rule::TakeOverEvidence, words && !order.evidence.contains(char::is_control), || {
        invalid(
            "stopped",
            format!("say in 1 to {most} bytes on one line how it is known that the owner is stopped"),
        )
    })?;
    let stepped = take_over(record, order, fleet.lineage(), stamp)?;
    // What the copy is was said by this incarnation.
    check_incarnation(Rule::TakeOverCopyIncarnation, cell, order.copy.generation)?;
    // One that has started since it was found to be stopped has asked, or will, and may have heard that it owns.
    check_incarnation(Rule::TakeOverStoppedIncarnation, known_cell(fleet, &record.owner)?, order.stopped)?;
    changes(fleet, record, stepped)
}

/// What a cell has put aside is not needed any more.
pub(super) fn drop_quarantine(
    fleet: &dyn FleetView,
    tenant: &TenantId,
    cell: &CellId,
    stamp: Stamp,
) -> Result<Vec<Change>, Rejected> {
    let record = known(fleet, tenant)?;
    let dead = fleet.cell(cell).is_some_and(|cell| cell.state == CellState::Dead);
    changes(fleet, record, drop_tail(record, cell, dead, stamp)?)
}
