//! Cells without a gate, in the world: routers send by their tables, and a hold waits for them.
//!
//! Routers matter from Sync to Soak; until then nothing of what they know changes, and whatever may become of them happens in Sync as well.

use std::sync::Arc;

use cell_model::{HoldSight, Move, Phase, RouterVerdict, TableAge};

use super::{Action, World};
use crate::cell::{Grant, Rows};
use crate::judge::{self, Broken};
use crate::ledger::small;
use crate::routers::{Answer, Heard, Router, Routers, Sending, Turn};
use crate::{Bounds, Mutant, Place};

impl World {
    /// What may happen to routers.
    pub(super) fn actions_of_routers(&self, bounds: &Bounds, actions: &mut Vec<Action>) {
        let Some(routers) = &self.routers else { return };
        let mut turns = vec![Turn::WaitOut, Turn::Stand];
        for (at, router) in routers.each.iter().enumerate() {
            turns.extend([Turn::Watch(at), Turn::Ping(at), Turn::Confirm(at), Turn::Send(at), Turn::Expire(at)]);
            for (again, lost) in [(false, false), (true, false), (false, true)] {
                if router.ping.is_some() && (!again || bounds.delayed > 0) {
                    turns.push(Turn::Hear { router: at, again, lost });
                }
            }
            if self.left.silences > 0 {
                turns.push(Turn::Silence(at));
            }
            if self.left.restarts > 0 {
                turns.push(Turn::Restart(at));
            }
            if bounds.mutant == Some(Mutant::LeaseWithoutQuorum) {
                turns.push(Turn::HearDeposed(at));
            }
        }
        if !self.routers_matter() {
            turns.clear();
        }
        turns.extend((0..routers.each.len()).map(Turn::Land));
        actions.extend(turns.into_iter().map(Action::Router));
    }

    fn routers_matter(&self) -> bool {
        let phases = [Phase::Sync, Phase::Hold, Phase::Fenced, Phase::Activate, Phase::Unfence, Phase::Soak];
        self.phase().is_some_and(|phase| phases.contains(&phase))
    }

    /// What routers and the leader do so that a hold comes to its end, where nothing goes wrong.
    pub(crate) fn turns_of_a_hold(&self) -> Vec<Action> {
        let Some(routers) = self.routers.as_ref().filter(|_| self.awaits_routers()) else { return Vec::new() };
        let mut turns = Vec::new();
        for (at, router) in routers.each.iter().enumerate() {
            turns.extend([Turn::Land(at), Turn::Watch(at), Turn::Confirm(at)]);
            turns.push(Turn::Hear { router: at, again: false, lost: false });
            if router.lease != Some(self.term) || router.heard.map(|heard| heard.told) != Some(router.told()) {
                turns.push(Turn::Ping(at));
            }
        }
        turns.extend([Turn::WaitOut, Turn::Stand]);
        // A write that a hold keeps waiting is what the next one waits for: the first has its time.
        let waits = |place: &Place| {
            let is_there = |router: &Router| router.sending.is_some_and(|sending| sending.to == *place);
            self.cell(*place).hold.is_some() && routers.each.iter().any(is_there)
        };
        let lapses = Place::ALL.into_iter().filter(waits).map(Action::Lapse);
        turns.into_iter().map(Action::Router).chain(lapses).collect()
    }

    /// Each router, with how it stands to the hold under way as the leader knows it.
    #[must_use]
    pub fn stands(&self) -> Vec<(Router, Option<HoldSight>)> {
        let (tenant, since) = (&self.ledger.record.id, self.ledger.newest_shown());
        let each = self.routers.iter().flat_map(|routers| &routers.each);
        each.map(|router| (*router, router.heard.map(|heard| heard.stands(tenant, since, None)))).collect()
    }

    /// The hold under way of an owner without a gate for which the leader has not found yet that routers hold back.
    #[must_use]
    pub fn awaits_routers(&self) -> bool {
        self.held_ungated().is_some_and(|held| {
            self.routers.as_ref().is_some_and(|routers| routers.stood.is_none_or(|stood| stood.held != held))
        })
    }

    /// The move and the attempt of a hold under way of an owner without a gate.
    fn held_ungated(&self) -> Option<(u8, u8)> {
        let held = |movement: &Move| movement.phase == Phase::Hold && movement.leaves_ungated();
        let movement = self.ledger.record.movement.as_deref().filter(|movement| held(movement))?;
        Some((small(movement.id.0), small(movement.attempt.0.into())))
    }

    /// Who may write to a cell without a gate besides: whoever comes past the routers.
    pub(super) fn writes_past_routers(&self, bounds: &Bounds, write: u8, actions: &mut Vec<Action>) {
        for cell in Place::ALL.into_iter().filter(|place| self.ledger.is_ungated(*place)) {
            if self.cell(cell).commits(bounds.mutant) {
                actions.push(Action::Write { cell, epoch: self.cell(cell).epoch, write });
            }
        }
    }

    pub(super) fn turn(&mut self, bounds: &Bounds, turn: Turn) -> Option<()> {
        let mut routers = Arc::unwrap_or_clone(self.routers.take()?);
        let turned = self.turned(bounds, turn, &mut routers);
        routers.each.sort_unstable();
        self.routers = Some(Arc::new(routers));
        turned
    }

    fn turned(&mut self, bounds: &Bounds, turn: Turn, routers: &mut Routers) -> Option<()> {
        let mutant = bounds.mutant;
        match turn {
            Turn::Send(at) => self.send(bounds, at, routers)?,
            Turn::Land(at) => self.land(bounds, routers.each.get_mut(at)?)?,
            Turn::Stand => self.stand(routers, mutant)?,
            Turn::WaitOut => self.wait_out(routers)?,
            Turn::Watch(at)
            | Turn::Ping(at)
            | Turn::Hear { router: at, .. }
            | Turn::HearDeposed(at)
            | Turn::Confirm(at)
            | Turn::Silence(at)
            | Turn::Restart(at)
            | Turn::Expire(at) => self.turn_of(turn, routers.each.get_mut(at)?)?,
        }
        Some(())
    }

    fn turn_of(&mut self, turn: Turn, router: &mut Router) -> Option<()> {
        let newest = self.ledger.newest_shown();
        match turn {
            Turn::Watch(_) if router.table < newest => router.table += 1,
            Turn::Ping(_) => {
                let known = Some(Heard { told: router.told(), leased: true });
                // It has a lease, and the leader knows what it would tell.
                let is_idle = router.heard == known && router.lease == Some(self.term);
                if is_idle {
                    return None;
                }
                router.ping = Some(router.told());
            }
            Turn::Hear { again, lost, .. } => {
                let told = router.ping?;
                router.heard = Some(Heard { told, leased: true });
                router.ping = router.ping.filter(|_| again);
                if !lost {
                    router.answer = Some(Answer { term: self.term, upto: newest });
                }
            }
            Turn::HearDeposed(_) => {
                let zombie = self.zombie.as_ref()?;
                router.ping.take()?;
                router.answer = Some(Answer { term: zombie.term, upto: zombie.ledger.newest_shown() });
            }
            Turn::Confirm(_) => {
                let answer = router.answer.filter(|answer| answer.upto <= router.table)?;
                (router.lease, router.answer) = (Some(answer.term), None);
            }
            Turn::Silence(_) => {
                router.lease.take()?;
                self.left.silences = self.left.silences.saturating_sub(1);
                router.sending = router.sending.map(|sending| Sending { cut: true, ..sending });
            }
            Turn::Restart(_) => {
                self.left.restarts = self.left.restarts.saturating_sub(1);
                *router = Router::default();
            }
            Turn::Expire(_) => {
                // By any clock the router's own lease has ended before, and an answer to what was heard says nothing any more.
                let heard = router.heard.filter(|heard| heard.leased && router.lease.is_none())?;
                (router.heard, router.answer) = (Some(Heard { leased: false, ..heard }), None);
            }
            _ => return None,
        }
        Some(())
    }

    /// Counted as on its way, and sent by what the table says then.
    fn send(&self, bounds: &Bounds, at: usize, routers: &mut Routers) -> Option<()> {
        let is_spare = usize::from(self.left.writes) > routers.on_their_way();
        let router = routers.each.get_mut(at)?;
        if router.sending.is_some() || !is_spare {
            return None;
        }
        let to = self.goes_to(router, true, bounds.mutant)?;
        router.sending = Some(Sending { to, cut: false });
        Some(())
    }

    /// The cell without a gate to which the router's table has a request go.
    fn goes_to(&self, router: &Router, is_write: bool, mutant: Option<Mutant>) -> Option<Place> {
        let mapping = self.ledger.shown(router.table);
        let owner = Place::of(&mapping.owner);
        let age = if router.is_fresh(mutant) { TableAge::Fresh } else { TableAge::Old };
        // What the new owner is spared before it may serve.
        let early = mutant == Some(Mutant::EnteredBeforeActivated) && mapping.epoch == self.ledger.record.epoch;
        let hurries = early && self.phase() == Some(Phase::Activate) && age == TableAge::Fresh;
        let goes = mapping.verdict(true, is_write, age) == RouterVerdict::Go || hurries;
        (goes && self.ledger.is_ungated(owner)).then_some(owner)
    }

    fn land(&mut self, bounds: &Bounds, router: &mut Router) -> Option<()> {
        let sending = router.sending?;
        let cell = self.cell(sending.to);
        if cell.commits(bounds.mutant) {
            let write = u8::try_from(self.executed.count_ones()).unwrap_or(u8::MAX);
            self.write(sending.to, write);
        } else if cell.grant == Grant::Owner {
            // The database lets it wait.
            return None;
        } else if !sending.cut {
            self.broken.note(judge::WAITS);
        }
        router.sending = None;
        Some(())
    }

    fn stand(&self, routers: &mut Routers, mutant: Option<Mutant>) -> Option<()> {
        let held = self.held_ungated().filter(|_| self.awaits(routers))?;
        let since = self.ledger.newest_shown();
        routers.stood = Some(routers.stand(&self.ledger.record.id, since, held, mutant)?);
        Some(())
    }

    fn awaits(&self, routers: &Routers) -> bool {
        let held = self.held_ungated();
        routers.stood.is_none_or(|stood| Some(stood.held) != held)
    }

    fn wait_out(&self, routers: &mut Routers) -> Option<()> {
        let is_former = |term: u8| term < self.term;
        let runs = |router: &Router| router.lease.is_some_and(is_former);
        if routers.waited_out || routers.each.iter().any(runs) {
            return None;
        }
        for router in &mut routers.each {
            router.answer = router.answer.filter(|answer| !is_former(answer.term));
        }
        routers.waited_out = true;
        Some(())
    }

    /// Whoever reads through a router that is not cut off sees what anybody was told of, also where no gate is.
    pub(crate) fn judge_reads(&self, mutant: Option<Mutant>, broken: &mut Broken) {
        for router in self.routers.iter().flat_map(|routers| &routers.each) {
            let reads = self.goes_to(router, false, mutant).filter(|_| router.is_fresh(mutant));
            let Some(place) = reads else { continue };
            let cell = self.cell(place);
            let has_all = self.acked & !self.given_up & !cell.log.writes() == 0;
            if cell.rows != Rows::Complete || !has_all {
                broken.note(judge::I3);
            }
        }
    }
}
