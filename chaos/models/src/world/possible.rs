//! Everything that can happen in a state.

use cell_model::{MoveIntent, Phase, SyncMode};

use super::{Action, World};
use crate::coordinator::note;
use crate::{Bounds, Call, Coordinator, Deed, Log, Mutant, Note, Place, Said, Step};

impl World {
    /// What the leader can do now. A cell that is stopped is not reached. Whether sync has had everything matters only to a
    /// takeover: where there is none, nobody says it, and there are fewer states.
    #[must_use]
    pub fn deeds(&self, bounds: &Bounds) -> Vec<Deed> {
        let possible = |deed: &Deed| match deed {
            Deed::Call(call) => !self.cell(call.to).stopped,
            Deed::Propose(Note { said: Said::InSync { .. }, .. }) => bounds.budget.takeovers > 0,
            Deed::Propose(_) => true,
        };
        self.leader(bounds.mutant).deeds().into_iter().filter(possible).collect()
    }

    /// Steps of the leader before, as far as they would change something.
    #[must_use]
    pub fn zombie_calls(&self, mutant: Option<Mutant>) -> Vec<Call> {
        let Some(zombie) = &self.zombie else { return Vec::new() };
        let (term, ledger, stood) = (zombie.term, &*zombie.ledger, zombie.stood);
        let coordinator = Coordinator { term, ledger, cells: &self.cells, stood, is_hasty: false, mutant };
        let calls = coordinator.deeds().into_iter().filter_map(|deed| match deed {
            // It asks the quorum before it destroys anything, and gets no answer.
            Deed::Call(Call { step: Step::Reclaim(_), .. }) | Deed::Propose(_) => None,
            Deed::Call(call) => Some(call),
        });
        calls.filter(|call| !self.cell(call.to).stopped).collect()
    }

    /// Everything that can happen; some of it changes nothing.
    pub fn actions(&self, bounds: &Bounds, actions: &mut Vec<Action>) {
        if self.broken.any() {
            return;
        }
        self.actions_of_coordinators(bounds, actions);
        self.actions_of_cells(bounds, actions);
        self.actions_of_operators(bounds, actions);
        self.actions_of_clients(bounds, actions);
        self.actions_of_routers(bounds, actions);
        if self.left.rogues > 0 {
            self.actions_of_rogues(bounds, actions);
        }
    }

    fn actions_of_coordinators(&self, bounds: &Bounds, actions: &mut Vec<Action>) {
        let may_delay = self.delayed.iter().flatten().count() < bounds.delayed;
        let may_be_late = self.late.iter().flatten().count() < bounds.late;
        for deed in self.deeds(bounds) {
            match deed {
                // Each effect is run once at a time: what it proposes comes first.
                _ if self.is_under_way(&deed) => {}
                Deed::Call(call) => {
                    for (again, late) in [(false, false), (true, false), (false, true), (true, true)] {
                        if (!again || may_delay) && (!late || may_be_late) {
                            actions.push(Action::Call { call, again, late });
                        }
                    }
                    if may_delay {
                        actions.push(Action::Delay(call));
                    }
                }
                Deed::Propose(note) => {
                    actions.push(Action::Propose { note, late: false });
                    if may_be_late {
                        actions.push(Action::Propose { note, late: true });
                    }
                }
            }
        }
        actions.extend(self.faults_of_move().map(|note| Action::Propose { note, late: false }));
        actions.extend(self.zombie_calls(bounds.mutant).into_iter().map(Action::Zombie));
        let reached = |slot: &usize| self.delayed[*slot].is_some_and(|call| !self.cell(call.to).stopped);
        actions.extend((0..Bounds::SLOTS).filter(reached).map(Action::Arrive));
        actions.extend((0..Bounds::SLOTS).filter(|slot| self.late[*slot].is_some()).map(Action::Apply));
        if self.left.elections > 0 {
            actions.push(Action::Elect);
        }
    }

    /// Whether what the leader would hear, or say, is a late proposal already.
    fn is_under_way(&self, deed: &Deed) -> bool {
        self.late.iter().flatten().any(|note| match deed {
            Deed::Call(call) => call.leads_to(&note.said),
            Deed::Propose(other) => other == note,
        })
    }

    /// What a coordinator proposes because something takes too long or fails.
    fn faults_of_move(&self) -> impl Iterator<Item = Note> {
        let movement = self.ledger.record.movement.as_ref();
        let said = movement.into_iter().flat_map(|movement| {
            let attempt = crate::ledger::small(movement.attempt.0.into());
            let (from, to) = (self.cell(Place::of(movement.from())), self.cell(Place::of(movement.to())));
            // Somebody has to ask it.
            let lags = from.sync && !from.stopped && to.log.last() < from.log.last();
            let engaged = matches!(movement.acks.sync, SyncMode::Engaged { .. });
            let copying = matches!(movement.phase, Phase::Backfill | Phase::CatchUp | Phase::Sync);
            let miss =
                (movement.phase == Phase::Hold && self.left.misses > 0).then_some(Said::HoldMissed { attempt });
            let degrade = movement.phase == Phase::Sync && engaged && lags && self.left.degrades > 0;
            let fail = copying && self.left.failures > 0;
            let degrade = degrade.then_some(Said::SyncDegraded { attempt });
            let fail = fail.then_some(Said::GaveUp);
            miss.into_iter().chain(degrade).chain(fail).map(move |said| note(movement, said))
        });
        said.collect::<Vec<_>>().into_iter()
    }

    fn actions_of_cells(&self, bounds: &Bounds, actions: &mut Vec<Action>) {
        for place in Place::ALL {
            let cell = self.cell(place);
            if cell.can_pull(self.cell(place.other())) {
                actions.push(Action::Pull(place));
            }
            if self.left.damages > 0 && self.may_be_damaged(place) {
                actions.push(Action::Damage(place));
            }
            if cell.hold.is_some() && self.left.lapses > 0 {
                actions.push(Action::Lapse(place));
            }
            if self.left.crashes > 0 && !cell.stopped {
                actions.push(Action::Crash(place));
            }
            if cell.stopped {
                actions.push(Action::Start(place));
            } else if self.left.stops > 0 && Place::of(&self.ledger.record.owner) == place {
                actions.push(Action::Stop(place));
            }
            if cell.unconfirmed && !cell.stopped {
                actions.push(Action::Confirm(place));
            }
            if cell.generation != self.ledger.generation(place) && !cell.stopped {
                actions.push(Action::Report(place));
            }
            if bounds.mutant == Some(Mutant::FenceTimesOut) && matches!(cell.grant, crate::Grant::Fenced { .. }) {
                actions.push(Action::TimeOut(place));
            }
        }
    }

    /// Only where a comparison comes that would see it: of all rows, or of those that have changed since; in soak perhaps.
    fn may_be_damaged(&self, place: Place) -> bool {
        let cell = self.cell(place);
        let Some(movement) = &self.ledger.record.movement else { return false };
        let is_compared = match movement.phase {
            Phase::CatchUp | Phase::Verify | Phase::Sync => true,
            Phase::Hold => movement.acks.sealed.is_none(),
            Phase::Soak => movement.intent == cell_model::Intent::Run,
            _ => false,
        };
        let copies = cell.follow.is_some() && cell.rows == crate::cell::Rows::Complete;
        is_compared && copies && !cell.damaged && !cell.stopped
    }

    fn actions_of_operators(&self, bounds: &Bounds, actions: &mut Vec<Action>) {
        let stopped = self.cell(Place::of(&self.ledger.record.owner)).stopped;
        let unproven = bounds.mutant == Some(Mutant::TakeoverWithoutEvidence);
        if self.left.takeovers > 0 && (stopped || unproven) {
            actions.extend([false, true].map(|accept_data_loss| Action::TakeOver { accept_data_loss }));
        }
        if bounds.budget.takeovers > 0 {
            actions.extend(Place::ALL.map(Action::Drop));
        }
        if self.ledger.record.movement.is_some() {
            if self.left.cancels > 0 {
                actions.push(Action::Steer(MoveIntent::Cancel));
            }
            if self.left.rollbacks > 0 {
                actions.push(Action::Steer(MoveIntent::Rollback));
            }
            if self.left.pauses > 0 {
                actions.push(Action::Steer(MoveIntent::Pause));
            }
            if bounds.budget.pauses > 0 {
                actions.push(Action::Steer(MoveIntent::Resume));
            }
        } else if self.left.moves > 0 {
            actions.push(Action::Ask(Place::of(&self.ledger.record.owner).other()));
        }
        if self.left.cordons > 0 {
            actions.push(Action::Cordon(Place::B));
        }
    }

    fn actions_of_clients(&self, bounds: &Bounds, actions: &mut Vec<Action>) {
        let on_their_way = self.routers.as_ref().map_or(0, |routers| routers.on_their_way());
        let fresh = (usize::from(self.left.writes) > on_their_way).then(|| bounds.budget.writes - self.left.writes);
        let unknown = self.executed & !self.acked;
        let replayed = (0..=Log::WRITES_MAX)
            .filter(|write| bounds.mutant == Some(Mutant::UnknownReplayed) && unknown >> write & 1 == 1);
        for write in fresh.into_iter().chain(replayed) {
            for epoch in 1..=self.ledger.epoch() {
                let cell = self.ledger.owner_at(epoch);
                if !self.ledger.is_ungated(cell) && self.cell(cell).executes(epoch, bounds.mutant) {
                    actions.push(Action::Write { cell, epoch, write });
                }
            }
            self.writes_past_routers(bounds, write, actions);
        }
    }
}
