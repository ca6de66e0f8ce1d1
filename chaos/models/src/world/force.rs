//! A forced takeover in the world: an owner stops, an operator decides, the cell comes back.

use cell_model::{CopySight, Generation, Lineage, Rejected, Seq, holder};

use super::{Action, World};
use crate::cell::{Grant, Rows};
use crate::ledger::small;
use crate::{Bounds, Call, Cell, Mutant, Place, Step};

impl World {
    /// What belongs to a takeover.
    pub(super) fn force(&mut self, bounds: &Bounds, action: Action) -> Option<()> {
        match action {
            Action::Stop(place) => {
                self.left.stops -= 1;
                let cell = &mut self.cells[place.index()];
                // Whoever waits for an answer gets none; and a hold is not durable.
                (cell.stopped, cell.owed, cell.hold) = (true, 0, None);
            }
            Action::Start(place) => self.cells[place.index()].restart(bounds.budget.takeovers > 0, bounds.mutant),
            Action::Confirm(place) => {
                let owns = Place::of(&self.ledger.record.owner) == place;
                let reported = self.ledger.generation(place) == self.cell(place).generation;
                let cell = &mut self.cells[place.index()];
                if !(owns && reported && cell.grant == Grant::Owner) {
                    return None;
                }
                cell.unconfirmed = false;
            }
            Action::TakeOver { accept_data_loss } => self.take_over(bounds, accept_data_loss)?,
            Action::Drop(place) => self.take(self.ledger.drop_quarantine(place).ok()?),
            _ => unreachable!("`happen` sends only what belongs to a takeover here"),
        }
        Some(())
    }

    fn take_over(&mut self, bounds: &Bounds, accept_data_loss: bool) -> Option<()> {
        let held = self.ledger.ruled(|| holder(&self.ledger.record, Lineage(1))).ok()?;
        let target = Place::of(held.cell);
        let movement = self.ledger.record.movement.as_ref()?;
        let cell = self.cell(target);
        if cell.stopped || !cell.holds(small(movement.id.0)) {
            return None;
        }
        let applied = Seq(cell.log.last().into());
        let copy = CopySight {
            generation: Generation(cell.generation.into()),
            complete: cell.rows == Rows::Complete,
            applied,
            heard: applied,
            ungated: false,
        };
        let missing = self.acked & !cell.log.writes();
        let mut taken = self.ledger.take_over(target, copy, accept_data_loss);
        let refused = matches!(taken, Err(Rejected::WouldLoseData { .. }));
        if refused && bounds.mutant == Some(Mutant::TakeoverWhileDegraded) {
            taken = self.ledger.take_over(target, copy, true);
        } else if accept_data_loss {
            // Only where it is needed: to accept what does not happen is no other state.
            if self.ledger.take_over(target, copy, false).is_ok() {
                return None;
            }
            self.given_up |= missing;
        }
        self.left.takeovers -= 1;
        self.take(taken.ok()?);
        Some(())
    }

    /// The tail given to the new owner: only where that guard is missing.
    pub(super) fn merge(&mut self, call: &Call, before: &Cell) {
        if let (Step::PutAside { after, .. }, None, Some(_)) =
            (call.step, before.put_aside, self.cell(call.to).put_aside)
        {
            let old = *self.cell(call.to);
            let new = &mut self.cells[call.to.other().index()];
            for write in (after + 1..=old.log.last()).filter_map(|seq| old.log.at(seq)) {
                new.log.push(write);
            }
        }
    }
}
