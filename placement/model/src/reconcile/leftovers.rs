//! What moves have left in cells that the record does not know of: it gets an end, too.

use super::{Adoption, Case, Held, HeldRole, overtaken};
use crate::{CellId, Life, Move, MoveId, MoveOptions, Phase, PhaseStamp, Retained, TenantRecord, UnixMillis};

/// Whether a cell is not yet done with a tenant that is deleted.
pub(super) fn is_left_by_a_deletion(held: &Held) -> bool {
    match held.role {
        HeldRole::Redirect | HeldRole::Deleted => held.has_copy,
        HeldRole::Importing | HeldRole::Fenced | HeldRole::Owner => true,
        HeldRole::Nothing => false,
    }
}

impl Case<'_> {
    /// Gives everything that is left an end in the record. Answers what it was, if it was anything.
    pub(super) fn with_leftovers(&self, next: &mut TenantRecord) -> Option<Adoption> {
        let owner = next.owner.clone();
        // The tenant has moved back to where a copy of it was.
        let copies = next.retained.len();
        next.retained.retain(|retained| retained.cell != owner);
        let mut found = (next.retained.len() < copies).then_some(Adoption::Copies);
        let is_deleting = matches!(next.life, Life::Deleting { .. });
        let others: Vec<&Held> = self.held.iter().copied().filter(|held| held.cell != owner).collect();
        for held in &others {
            let wants_an_end = if is_deleting {
                is_left_by_a_deletion(held)
            } else {
                held.role == HeldRole::Redirect && held.has_copy
            };
            let moves = next
                .movement
                .as_ref()
                .is_some_and(|movement| movement.source == held.cell || movement.target == held.cell);
            if wants_an_end && !moves && next.retained_on(&held.cell).is_none() {
                next.retained.push(self.retained(held, &owner));
                found = Some(Adoption::Copies);
            }
        }
        if next.movement.is_some() || next.life != Life::Live {
            return found;
        }
        let captures = self.on(&owner).is_some_and(|held| held.captures);
        let newest = self.on(&owner).map_or(MoveId(0), |held| held.move_id);
        let of_role = |role| others.iter().find(|held| held.role == role);
        if let Some(fenced) = of_role(HeldRole::Fenced) {
            // The owner serves already: what is left is to tell the other one.
            let mut movement = self.new_move(newest, &fenced.cell, &owner, Phase::Activate);
            movement.fenced_epoch = Some(fenced.epoch);
            next.movement = Some(Box::new(movement));
            return Some(Adoption::CarriedOut);
        }
        // Retiring a copy ends the capture for it, and none of a later move.
        let retires = next.retained.iter().any(|retained| !retained.retired && retained.move_id >= newest);
        let importing = of_role(HeldRole::Importing).map(|held| held.cell.clone());
        if importing.is_none() && (!captures || retires) {
            return found;
        }
        let target = importing.as_ref().unwrap_or(&owner);
        let mut movement = self.new_move(MoveId(self.stamp.revision.0), &owner, target, Phase::Cleanup);
        movement.acks.import_dropped = importing.is_none();
        movement.ending = Some(overtaken());
        next.movement = Some(Box::new(movement));
        Some(Adoption::CalledOff)
    }

    fn retained(&self, held: &Held, successor: &CellId) -> Retained {
        Retained {
            cell: held.cell.clone(),
            move_id: MoveId(self.stamp.revision.0),
            successor: successor.clone(),
            fenced_epoch: held.epoch,
            until: UnixMillis(self.stamp.at.0 + MoveOptions::default().retain_ms),
            retired: false,
            reclaiming: false,
            quarantine: None,
        }
    }

    /// A move that the cells know of, or that takes away what one has left.
    pub(super) fn new_move(&self, id: MoveId, source: &CellId, target: &CellId, phase: Phase) -> Move {
        let attempt = self.attempt(crate::Attempt(1));
        Move {
            id: if id == MoveId(0) { MoveId(self.stamp.revision.0) } else { id },
            phase,
            attempt,
            admitted: true,
            history: vec![PhaseStamp { phase, attempt, at: self.stamp.at, revision: self.stamp.revision }],
            ..crate::decide::new_move(source, target, &MoveOptions::default(), self.stamp)
        }
    }
}
