//! A tenant that no cell serves: the decision that was on its way is carried out, or the fenced cell gets it back.

use super::{Adoption, Case, Held, HeldRole, Standing, Verdict, contradictory, overtaken, unheld};
use crate::{CellId, Epoch, Leg, Life, MoveId, Phase};

/// Whether a cell is what a cutover leaves its target before the activation: a copy, or on the way back the old owner, who
/// follows with its copy until it owns again.
fn can_be_activated(coming: &Held, epoch: Epoch) -> bool {
    match coming.role {
        HeldRole::Importing => true,
        HeldRole::Redirect => coming.has_copy && coming.epoch < epoch,
        HeldRole::Owner | HeldRole::Fenced | HeldRole::Deleted | HeldRole::Nothing => false,
    }
}

impl Case<'_> {
    /// Nobody serves it.
    pub(super) fn unowned(&self) -> Standing {
        let record = self.record_of_uid();
        if let Some(record) = record
            && record.movement.as_ref().is_some_and(|movement| movement.is_committed())
            && record.epoch >= self.highest()
            && self.on(&record.owner).is_some_and(|held| held.role != HeldRole::Fenced)
        {
            // COMMIT is in the backup: the owner is told once more.
            let mut next = record.clone();
            let why = self.go_on(&mut next);
            return Standing::Next { next: next.into(), ended: None, why };
        }
        let fenced = self.in_role(HeldRole::Fenced).max_by_key(|held| held.epoch);
        let least = fenced.map_or(Epoch(0), |held| held.epoch);
        if let Some((owner, epoch)) = self.sent_beyond(least) {
            return self.carry_out(&owner, epoch);
        }
        if let Some(fenced) = fenced {
            return self.give_back(fenced);
        }
        match record {
            Some(record) if record.life == Life::Provisioning => Standing::Verdict(Verdict::Confirmed),
            Some(record) => unheld(format!("cell {} does not hold it, nor does any other", record.owner)),
            None => {
                let copies: Vec<String> =
                    self.held.iter().map(|held| format!("{} ({})", held.cell, held.role.as_str())).collect();
                contradictory(format!(
                    "the store does not know it, and no cell owns it: only {}",
                    copies.join(", ")
                ))
            }
        }
    }

    /// The newest owner that a cell sends to, where that is above `epoch`. Its own word counts for more.
    pub(super) fn sent_beyond(&self, epoch: Epoch) -> Option<(CellId, Epoch)> {
        let sent = self.in_role(HeldRole::Redirect).filter_map(|held| held.sends_to.clone());
        sent.filter(|(_, at)| *at > epoch).max_by_key(|(_, at)| *at)
    }

    /// A cell hands out the mapping of an owner that does not know of it yet.
    fn carry_out(&self, owner: &CellId, epoch: Epoch) -> Standing {
        let source = self.in_role(HeldRole::Redirect).find(|held| {
            held.cell != *owner && held.sends_to.as_ref().is_some_and(|(to, at)| to == owner && *at == epoch)
        });
        let (coming, source) = match (self.on(owner), source) {
            (None, Some(source)) => return self.belongs_to_a_silent(owner, epoch, source),
            (Some(coming), Some(source)) if can_be_activated(coming, epoch) => (coming, source),
            (coming, _) => {
                let is = coming.map_or("not heard", |coming| coming.role.as_str());
                return contradictory(format!(
                    "a cell sends to cell {owner} at epoch {epoch}, and that cell is {is}"
                ));
            }
        };
        let mut next = self.record_of_uid().cloned().unwrap_or_else(|| self.new_record(coming));
        // Where it is the record's own move, that one goes on.
        let ended = self.end_move_at(&mut next, owner).filter(|ended| ended.movement.id != coming.move_id);
        next.life = Life::Live;
        next.owner = owner.clone();
        self.raise(&mut next, epoch);
        let mut movement = self.new_move(coming.move_id, &source.cell, owner, Phase::Activate);
        movement.fenced_epoch = Some(source.epoch);
        next.movement = Some(Box::new(movement));
        Standing::Next { next: next.into(), ended, why: Some(Adoption::CarriedOut) }
    }

    /// A cell sends to one that holds nothing, or that is gone: the mapping is signed, so COMMIT was decided.
    fn belongs_to_a_silent(&self, owner: &CellId, epoch: Epoch, source: &Held) -> Standing {
        let seen = format!("cell {} sends to cell {owner} at epoch {epoch}", source.cell);
        let record = self.record_of_uid();
        if record.is_some_and(|record| record.owner == *owner && record.epoch >= epoch) {
            return unheld(format!("{seen}, and that cell does not hold it, nor does any other"));
        }
        if self.fleet.cell(owner).is_none() {
            return contradictory(format!("{seen}, and the store does not know that cell: make it first"));
        }
        let mut next = record.cloned().unwrap_or_else(|| self.new_record(source));
        let ended = self.end_move_at(&mut next, owner);
        next.life = Life::Live;
        next.owner = owner.clone();
        self.raise(&mut next, epoch);
        let why = if record.is_some() { Adoption::Moved } else { Adoption::Made };
        Standing::Next { next: next.into(), ended, why: Some(why) }
    }

    /// Nothing was served since the fence, and nothing will be by anybody else: the steps of the old control plane are
    /// of a lower lineage.
    fn give_back(&self, fenced: &Held) -> Standing {
        let mut next = self.record_of_uid().cloned().unwrap_or_else(|| self.new_record(fenced));
        let fits = next.movement.as_ref().is_some_and(|old| {
            (old.source == fenced.cell && !old.is_committed() && old.leg == Leg::Forward)
                || (old.target == fenced.cell && (old.leg == Leg::Back || old.phase == Phase::Soak))
        });
        let fits = fits && !self.has_newer_move(&next);
        let ended = if fits { None } else { self.end_move_at(&mut next, &fenced.cell) };
        let already =
            next.movement.as_ref().is_some_and(|old| old.phase == Phase::Unfence) && next.owner == fenced.cell;
        if !already || next.epoch <= fenced.epoch {
            next.owner = fenced.cell.clone();
            self.raise(&mut next, self.highest().next());
        }
        next.life = Life::Live;
        let importing = self.in_role(HeldRole::Importing).next().map(|held| held.cell.clone());
        let movement = next.movement.get_or_insert_with(|| {
            let target = importing.as_ref().unwrap_or(&fenced.cell);
            let mut movement = self.new_move(MoveId(self.stamp.revision.0), &fenced.cell, target, Phase::Unfence);
            movement.acks.import_dropped = importing.is_none();
            movement.ending = Some(overtaken());
            Box::new(movement)
        });
        if movement.target == fenced.cell && fits {
            // The fence of a rollback: the move goes back to where it was, and may be rolled back again.
            movement.leg = Leg::Back;
        } else {
            movement.ending.get_or_insert_with(overtaken);
        }
        if movement.phase != Phase::Unfence {
            crate::step::enter(movement, Phase::Unfence, self.stamp);
        }
        movement.attempt = self.attempt(movement.attempt);
        Standing::Next { next: next.into(), ended, why: Some(Adoption::GivenBack) }
    }
}
