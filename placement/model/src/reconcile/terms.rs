//! Cells know neither tier nor residency of their own tenants. Of the tier the record's own move knows where it changes with the owner, and a
//! cell that sends on hands out the mapping with which the new owner got the tenant: it says the tier of then.

use super::{Case, HeldRole};
use crate::{Move, TenantRecord, Tier, TierChange};

impl Case<'_> {
    /// The tier that came with the cutover to where the tenant is now, and the way back of a move that goes on.
    pub(super) fn with_tier(&self, next: &mut TenantRecord) {
        let before = self.record_of_uid();
        let own = before.and_then(|before| before.movement.as_ref());
        let planned = own.and_then(|movement| movement.tier_on(&next.owner));
        // A record that names this grant itself may have got another tier since.
        let is_later = before.is_none_or(|before| (&before.owner, before.epoch) != (&next.owner, next.epoch));
        let told = if is_later { self.tier_told(next) } else { None };
        next.tier = planned.or(told).unwrap_or(next.tier);
        let Some(movement) = next.movement.as_deref_mut() else { return };
        if let Some(own) = own {
            bring_tiers(own, movement);
        }
        let target = next.tier;
        if let Some(before) =
            before.filter(|before| before.owner == movement.source && next.owner == movement.target)
            && movement.tiers.is_none()
        {
            let source = before.tier;
            movement.tiers = (source != target).then_some(TierChange { source, target });
        }
    }

    /// Who was made since the backup may be where he is, and nobody knows that he may be anywhere else.
    pub(super) fn with_residency(&self, next: &mut TenantRecord) {
        if self.record_of_uid().is_none() {
            next.residency = self.fleet.cell(&next.owner).map_or("", |cell| cell.residency.as_str()).into();
        }
    }

    /// What is said of the grant that the record is to name.
    fn tier_told(&self, next: &TenantRecord) -> Option<Tier> {
        let of_it = |to: &(crate::CellId, crate::Epoch)| (&to.0, to.1) == (&next.owner, next.epoch);
        let told = self.in_role(HeldRole::Redirect).filter(|held| held.sends_to.as_ref().is_some_and(of_it));
        told.filter_map(|held| held.sends_as).next()
    }
}

/// A cutover that is carried out anew is between the cells of the record's own move: a rollback of it brings the tier back, too.
fn bring_tiers(own: &Move, movement: &mut Move) {
    if movement.tiers.is_none()
        && let (Some(source), Some(target)) = (own.tier_on(&movement.source), own.tier_on(&movement.target))
    {
        movement.tiers = (source != target).then_some(TierChange { source, target });
    }
}
