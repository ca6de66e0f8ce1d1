//! Changes of several moves, made one after the other and taken back as one.
//!
//! * Services that need each other go *together*: where a process leaves for another neighborhood, those that it needs
//!   there come along, and so do those that would be left without it.
//! * A large process *makes room*: some of those in its way go home or elsewhere first. Alone they would not, for there is
//!   nothing in it for them.

use super::search::{Chance, Odds};
use super::state::{More, State};

/// The most moves of one chain.
const MOVES_MAX: usize = 32;
/// How many are asked to go before there is no room to be made.
const ASKED_MAX: usize = 8;

/// Moves that have been made: who, and where from.
#[derive(Default)]
pub(super) struct Chain {
    made: Vec<(usize, usize)>,
    more: More,
}

impl Chain {
    fn go(&mut self, state: &mut State<'_>, process: usize, target: usize) -> bool {
        let Some(more) = state.shift(process, target).filter(|_| self.made.len() < MOVES_MAX) else { return false };
        self.made.push((process, state.at[process]));
        self.more = self.more + more;
        state.put(process, target);
        true
    }

    /// Keeps what has been made, if it is whole and the odds are for it; takes it back otherwise.
    fn end(&mut self, state: &mut State<'_>, is_whole: bool, odds: &Odds) {
        if is_whole && odds.favor(self.more) {
            state.add(self.more);
        } else {
            for &(process, source) in self.made.iter().rev() {
                state.put(process, source);
            }
        }
        self.made.clear();
        self.more = More::default();
    }

    /// A process goes to a machine of another neighborhood, with all who depend on that.
    pub(super) fn together(&mut self, state: &mut State<'_>, first: usize, chance: &mut Chance, odds: &Odds) {
        let (source, target) = (state.at[first], chance.pick(&state.reach[first]));
        let near = |machine: usize| state.instance.machines[machine].neighborhood;
        let (from, to) = (near(source), near(target));
        if from == to || !self.go(state, first, target) {
            return;
        }
        let mut is_whole = true;
        let mut at = 0;
        while is_whole && at < self.made.len() {
            let service = state.service(self.made[at].0);
            is_whole = self.bring_needed(state, service, (from, to), target, chance)
                && self.bring_left_alone(state, service, (from, to), target, chance);
            at += 1;
        }
        self.end(state, is_whole, odds);
    }

    /// Brings one of each service that is needed and not there yet; best one from where the first has left.
    fn bring_needed(
        &mut self,
        state: &mut State<'_>,
        service: usize,
        (from, to): (usize, usize),
        target: usize,
        chance: &mut Chance,
    ) -> bool {
        let instance = state.instance;
        let lacking = |state: &State<'_>, needed: usize| state.services.near(needed, to) == 0;
        instance.services[service].needs.iter().all(|&needed| {
            if !lacking(state, needed) {
                return true;
            }
            let all = state.services.processes(needed);
            let is_near = |&&process: &&usize| instance.machines[state.at[process]].neighborhood == from;
            let process = all.iter().find(is_near).copied().unwrap_or_else(|| chance.pick(all));
            let machine = near_to(state, target, chance);
            self.go(state, process, machine)
        })
    }

    /// Brings those that need a service of which none is left behind.
    fn bring_left_alone(
        &mut self,
        state: &mut State<'_>,
        service: usize,
        (from, _): (usize, usize),
        target: usize,
        chance: &mut Chance,
    ) -> bool {
        if state.services.near(service, from) > 0 {
            return true;
        }
        for at in 0..state.services.needed_by(service).len() {
            let needing = state.services.needed_by(service)[at];
            let instance = state.instance;
            loop {
                let all = state.services.processes(needing);
                let is_left = |&&process: &&usize| instance.machines[state.at[process]].neighborhood == from;
                let Some(process) = all.iter().find(is_left).copied() else { break };
                let machine = near_to(state, target, chance);
                if !self.go(state, process, machine) {
                    return false;
                }
            }
        }
        true
    }

    /// A process goes where there is no room for it until others have left.
    pub(super) fn make_room(&mut self, state: &mut State<'_>, first: usize, chance: &mut Chance, odds: &Odds) {
        let target = chance.pick(&state.reach[first]);
        if state.at[first] == target || !state.may_go(first, target) {
            return;
        }
        let mut is_whole = true;
        while is_whole && !state.fits(first, target) {
            is_whole = (0..ASKED_MAX).any(|_| {
                let Some(other) = chance.any(state.members(target)) else { return false };
                if !state.makes_room(other, first, target) {
                    return false;
                }
                let home = state.instance.start[other];
                let elsewhere =
                    if home != target && chance.even() { home } else { chance.pick(&state.reach[other]) };
                self.go(state, other, elsewhere)
            });
        }
        is_whole = is_whole && self.go(state, first, target);
        self.end(state, is_whole, odds);
    }
}

/// A machine, or one of its neighborhood.
fn near_to(state: &State<'_>, machine: usize, chance: &mut Chance) -> usize {
    let machines = &state.instance.machines;
    if chance.even() {
        return machine;
    }
    let is_near = |of: &usize| machines[*of].neighborhood == machines[machine].neighborhood;
    (0..ASKED_MAX).map(|_| chance.below(machines.len())).find(is_near).unwrap_or(machine)
}
