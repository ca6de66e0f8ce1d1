//! What a tenant has paid for, changed while it lives.

use std::sync::Arc;

use super::{check_still, known, known_cell};
use crate::rule::require;
use crate::{Change, FleetView, Life, Rejected, Rule, Stamp, TenantId, Tier};

/// The tenant stays where it is. A tier that wants another cell comes with a move ([`crate::MoveOptions::tier`]), so that at no time
/// anybody is beside a platinum tenant, or on a cell that was bought for one.
pub(super) fn set(
    fleet: &dyn FleetView,
    tenant: &TenantId,
    tier: Tier,
    stamp: Stamp,
) -> Result<Vec<Change>, Rejected> {
    let before = known(fleet, tenant)?;
    if before.tier == tier {
        return Ok(Vec::new());
    }
    let lives = before.life == Life::Live;
    require(Rule::SetTierLife, lives, || Rejected::TenantNotLive { tenant: tenant.clone() })?;
    // The move was asked for with the tier as it is.
    check_still(Rule::SetTierMoving, before)?;
    let cell = known_cell(fleet, &before.owner)?;
    let kind = cell.traits.kind;
    require(Rule::SetTierKind, cell.traits.is_for(tier), || Rejected::TierNeedsMove {
        tenant: tenant.clone(),
        tier,
        cell: cell.id.clone(),
        kind,
    })?;
    let mut record = before.clone();
    record.tier = tier;
    record.rev = record.rev.next();
    record.revision = stamp.revision;
    Ok(vec![Change::Tenant(Arc::new(record))])
}
