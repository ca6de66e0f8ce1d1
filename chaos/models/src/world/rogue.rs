//! Proposals that only a rule keeps out, in the world: where one is switched off, what it would have refused goes through.

use std::sync::Arc;

use cell_model::Phase;

use super::{Action, World};
use crate::coordinator::note;
use crate::ledger::{Rogue, Slip, small};
use crate::{Bounds, Note, Place, Rows, Said};

impl World {
    pub(super) fn actions_of_rogues(&self, bounds: &Bounds, actions: &mut Vec<Action>) {
        let slips = self.ledger.slips();
        let may = |which: &usize| self.may_slip(bounds, &slips[*which].rogue);
        actions.extend((0..slips.len()).filter(may).map(Action::Slip));
        // Whoever gets past one rule has to get past the next.
        if self.left.rogues > 1 {
            actions.extend(self.parts_of_hold().into_iter().map(|note| Action::Propose { note, late: false }));
        }
    }

    /// The acknowledgements of a hold one by one, as far as they are true: a leader that falls in between, or a rule that
    /// lets one through and not the next. Only where rules are switched off: in one entry they are one step.
    fn parts_of_hold(&self) -> Vec<Note> {
        let Some(movement) = &self.ledger.record.movement else { return Vec::new() };
        let attempt = small(movement.attempt.0.into());
        let given = (small(movement.id.0), attempt);
        let (from, to) = (self.cell(Place::of(movement.from())), self.cell(Place::of(movement.to())));
        let held = from.hold.filter(|hold| (hold.move_id, hold.attempt) == given);
        let Some(hold) = held.filter(|_| movement.phase == Phase::Hold) else { return Vec::new() };
        let (seq, generation) = (hold.sealed, to.generation);
        let mut said = vec![Said::Sealed { attempt, seq }];
        if to.rows == Rows::Complete && to.log.last() >= seq {
            said.push(Said::Applied { attempt, seq, generation });
        }
        if to.rows == Rows::Complete && to.log == from.log {
            said.push(Said::Verified { attempt, seq });
        }
        said.into_iter().map(|said| note(movement, said)).collect()
    }

    /// Who orders a takeover knows that the owner has stopped, or knew it of an earlier incarnation. Where nobody does, cells
    /// start without asking who owns.
    fn may_slip(&self, bounds: &Bounds, rogue: &Rogue) -> bool {
        let Rogue::TakeOver { generations, .. } = rogue else { return true };
        let place = Place::of(&self.ledger.record.owner);
        let owner = self.cell(place);
        let known = owner.stopped || generations[place.index()] < owner.generation;
        bounds.budget.takeovers > 0 && known
    }

    pub(super) fn slip(&mut self, which: usize) {
        let slips = self.ledger.slips();
        let Slip { rogue, ledger, broken } = &slips[which];
        self.left.rogues -= 1;
        if let Rogue::TakeOver { target, accept_data_loss: true, .. } = rogue {
            self.given_up |= self.acked & !self.cell(*target).log.writes();
        }
        self.ledger = Arc::clone(ledger);
        self.broken.add(broken);
    }
}
