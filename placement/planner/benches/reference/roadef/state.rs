//! An assignment with its sums.
//!
//! A process that has left its home still takes its transient resources there. So of those a machine never has more to
//! give than it had free at the start, whoever leaves it: where a process is larger than that, it never goes, and no
//! search has to try. [`State::reach`] is what is left.

use super::instance::Instance;
use super::services::Services;

/// What a change adds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct More {
    pub(super) cost: i64,
    pub(super) lonely: i64,
    /// Of what is in flight, by the average process.
    pub(super) in_flight: f64,
}

impl std::ops::Add for More {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            cost: self.cost + other.cost,
            lonely: self.lonely + other.lonely,
            in_flight: self.in_flight + other.in_flight,
        }
    }
}

pub(super) struct State<'i> {
    pub(super) instance: &'i Instance,
    pub(super) services: Services<'i>,
    pub(super) at: Vec<usize>,
    pub(super) cost: i64,
    /// How often a process lacks a neighbor that its service needs. Nothing else may be broken on the way.
    pub(super) lonely: i64,
    /// By process: the machines that have room for it if all who can leave them have left.
    pub(super) reach: Vec<Vec<usize>>,
    resources: usize,
    /// By process and resource: what it uses; and what of that is not transient, so that it ends when the process goes.
    uses: Vec<i64>,
    ends: Vec<i64>,
    /// By process: the transient resources that it uses, by what an average process uses of them.
    weight: Vec<f64>,
    /// By resource: the cost of one unit above a level.
    prices: Vec<i64>,
    /// By machine and resource: what is used above the level (less than nothing where there is room below it), and what is
    /// free for others, with what is in flight counted.
    above: Vec<i64>,
    free: Vec<i64>,
    /// By machine: what is above its levels and out of balance.
    costs: Vec<i64>,
    /// By machine: who is there. By process: where in that list.
    members: Vec<Vec<usize>>,
    place: Vec<usize>,
    nothing: Vec<i64>,
}

impl<'i> State<'i> {
    pub(super) fn new(instance: &'i Instance) -> Self {
        let (machines, processes) = (instance.machines.len(), instance.processes.len());
        let resources = instance.resources.len();
        let all = || instance.processes.iter().flat_map(|process| process.uses.iter().zip(&instance.resources));
        let mut state = Self {
            instance,
            services: Services::new(instance),
            at: instance.start.clone(),
            cost: 0,
            lonely: 0,
            reach: Vec::new(),
            resources,
            uses: all().map(|(uses, _)| *uses).collect(),
            ends: all().map(|(uses, of)| if of.transient { 0 } else { *uses }).collect(),
            weight: weights(instance),
            prices: instance.resources.iter().map(|of| of.weight).collect(),
            above: instance.machines.iter().flat_map(|of| of.safety.iter().map(|level| -level)).collect(),
            free: instance.machines.iter().flat_map(|of| of.capacity.iter().copied()).collect(),
            costs: vec![0; machines],
            members: vec![Vec::new(); machines],
            place: vec![0; processes],
            nothing: vec![0; resources],
        };
        for process in 0..processes {
            let machine = state.at[process];
            for resource in 0..resources {
                let uses = state.uses[process * resources + resource];
                state.above[machine * resources + resource] += uses;
                state.free[machine * resources + resource] -= uses;
            }
            state.join(process, machine);
        }
        state.costs = (0..machines).map(|of| state.cost_with(of, &state.nothing, &state.nothing)).collect();
        state.cost = state.costs.iter().sum();
        state.reach = (0..processes).map(|process| state.reach_of(process)).collect();
        state
    }

    fn reach_of(&self, process: usize) -> Vec<usize> {
        let has_room = |&machine: &usize| {
            let most = |resource: usize| {
                let is_transient = self.instance.resources[resource].transient;
                let free = self.free[machine * self.resources + resource];
                if is_transient { free } else { self.instance.machines[machine].capacity[resource] }
            };
            machine == self.instance.start[process]
                || (0..self.resources).all(|resource| self.uses_of(process)[resource] <= most(resource))
        };
        (0..self.instance.machines.len()).filter(has_room).collect()
    }

    fn uses_of(&self, process: usize) -> &[i64] {
        &self.uses[process * self.resources..][..self.resources]
    }

    /// What a process takes of what is free on a machine when it comes, and gives back when it goes.
    fn takes(&self, process: usize, machine: usize) -> &[i64] {
        let of = if self.is_home(process, machine) { &self.ends } else { &self.uses };
        &of[process * self.resources..][..self.resources]
    }

    pub(super) fn is_home(&self, process: usize, machine: usize) -> bool {
        self.instance.start[process] == machine
    }

    pub(super) fn members(&self, machine: usize) -> &[usize] {
        &self.members[machine]
    }

    pub(super) fn service(&self, process: usize) -> usize {
        self.instance.processes[process].service
    }

    fn join(&mut self, process: usize, machine: usize) {
        self.place[process] = self.members[machine].len();
        self.members[machine].push(process);
    }

    /// What a machine costs when some have come and others gone.
    #[inline]
    fn cost_with(&self, machine: usize, comes: &[i64], goes: &[i64]) -> i64 {
        let above = &self.above[machine * self.resources..][..self.resources];
        let changes = comes.iter().zip(goes);
        let each = above.iter().zip(&self.prices).zip(changes);
        let mut cost: i64 = each.map(|((above, price), (comes, goes))| price * (above + comes - goes).max(0)).sum();
        for balance in &self.instance.balances {
            let of = &self.instance.machines[machine];
            let free = |resource: usize| {
                of.capacity[resource] - of.safety[resource] - above[resource] - comes[resource] + goes[resource]
            };
            cost += balance.weight * (balance.target * free(balance.of) - free(balance.other)).max(0);
        }
        cost
    }

    /// Whether a machine has room for a process if another one leaves.
    #[inline]
    fn fits_without(&self, machine: usize, comes: usize, goes: Option<usize>) -> bool {
        let free = &self.free[machine * self.resources..][..self.resources];
        let takes = self.takes(comes, machine);
        let gives = goes.map_or(&self.nothing[..], |goes| self.takes(goes, machine));
        free.iter().zip(takes).zip(gives).all(|((free, takes), gives)| *takes <= free + gives)
    }

    pub(super) fn fits(&self, process: usize, machine: usize) -> bool {
        self.fits_without(machine, process, None)
    }

    /// Whether a process goes to a machine, room aside.
    pub(super) fn may_go(&self, process: usize, target: usize) -> bool {
        self.services.may_go(self.service(process), self.at[process], target)
    }

    /// Whether a machine lacks something for one process that another one there would give back.
    pub(super) fn makes_room(&self, goes: usize, comes: usize, machine: usize) -> bool {
        let free = &self.free[machine * self.resources..][..self.resources];
        let both = self.takes(comes, machine).iter().zip(self.takes(goes, machine));
        free.iter().zip(both).any(|(free, (takes, gives))| takes > free && *gives > 0)
    }

    /// What one process costs by having moved to a machine, and how much it has in flight.
    fn astray(&self, process: usize, machine: usize) -> (i64, f64) {
        let (instance, home) = (self.instance, self.instance.start[process]);
        if machine == home {
            return (0, 0.0);
        }
        let cost = instance.process_weight * instance.processes[process].move_cost
            + instance.machine_weight * instance.machines[home].move_cost[machine];
        (cost, self.weight[process])
    }

    /// How much more it is that a process goes to a machine; nothing if it may not.
    pub(super) fn shift(&mut self, process: usize, target: usize) -> Option<More> {
        let source = self.at[process];
        if source == target || !self.may_go(process, target) || !self.fits(process, target) {
            return None;
        }
        let uses = self.uses_of(process);
        let then = self.cost_with(source, &self.nothing, uses) + self.cost_with(target, uses, &self.nothing);
        Some(self.more(then, &[(process, target)]))
    }

    /// The same of two that change places. Not asked of two whose services know each other.
    pub(super) fn exchange(&mut self, one: usize, other: usize) -> Option<More> {
        let (here, there) = (self.at[one], self.at[other]);
        let may = here != there
            && self.may_go(one, there)
            && self.may_go(other, here)
            && self.fits_without(there, one, Some(other))
            && self.fits_without(here, other, Some(one))
            && !self.services.are_bound(self.service(one), self.service(other));
        if !may {
            return None;
        }
        let (of_one, of_other) = (self.uses_of(one), self.uses_of(other));
        let then = self.cost_with(here, of_other, of_one) + self.cost_with(there, of_one, of_other);
        Some(self.more(then, &[(one, there), (other, here)]))
    }

    /// What moves add besides machines that cost `then` in the end; the first is between both machines.
    #[inline]
    fn more(&mut self, then: i64, moves: &[(usize, usize)]) -> More {
        let (first, target) = moves[0];
        let before = self.costs[self.at[first]] + self.costs[target];
        let mut more = More { cost: then - before, ..More::default() };
        for &(process, target) in moves {
            let source = self.at[process];
            let (now, left) = (self.astray(process, target), self.astray(process, source));
            more.cost += now.0 - left.0;
            more.in_flight += now.1 - left.1;
            more.lonely += self.services.more_lonely(self.service(process), source, target);
        }
        more.cost += self.services_cost(moves);
        more
    }

    /// How much more it costs that the service which has moved the most has moved so many.
    fn services_cost(&mut self, moves: &[(usize, usize)]) -> i64 {
        let leaves = |state: &Self, process: usize, target: usize| {
            let (is, was) = (state.is_home(process, target), state.is_home(process, state.at[process]));
            (is != was).then_some(was)
        };
        let before = self.services.most_moved();
        let mut changed = false;
        for &(process, target) in moves {
            if let Some(leaves) = leaves(self, process, target) {
                self.services.count_moved(self.service(process), leaves);
                changed = true;
            }
        }
        if !changed {
            return 0;
        }
        let after = self.services.most_moved();
        for &(process, target) in moves {
            if let Some(leaves) = leaves(self, process, target) {
                self.services.count_moved(self.service(process), !leaves);
            }
        }
        let [before, after] = [before, after].map(|count| i64::try_from(count).expect("a count of processes"));
        self.instance.service_weight * (after - before)
    }

    /// Makes one move. What it adds is for the caller to count, see [`State::add`].
    pub(super) fn put(&mut self, process: usize, target: usize) {
        let (source, service) = (self.at[process], self.service(process));
        for (machine, sign) in [(source, -1), (target, 1)] {
            let is_home = self.is_home(process, machine);
            for resource in 0..self.resources {
                let at = process * self.resources + resource;
                let takes = if is_home { self.ends[at] } else { self.uses[at] };
                self.free[machine * self.resources + resource] -= sign * takes;
                self.above[machine * self.resources + resource] += sign * self.uses[at];
            }
            self.services.count(service, machine, sign > 0);
            if is_home {
                self.services.count_moved(service, sign < 0);
            }
        }
        let place = self.place[process];
        self.members[source].swap_remove(place);
        if let Some(&filled) = self.members[source].get(place) {
            self.place[filled] = place;
        }
        self.join(process, target);
        self.at[process] = target;
        for machine in [source, target] {
            self.costs[machine] = self.cost_with(machine, &self.nothing, &self.nothing);
        }
    }

    pub(super) const fn add(&mut self, more: More) {
        self.cost += more.cost;
        self.lonely += more.lonely;
    }
}

/// By process: the transient resources that it uses, by what an average process uses of them.
fn weights(instance: &Instance) -> Vec<f64> {
    let count = instance.processes.len() as f64;
    let mut weights = vec![0.0; instance.processes.len()];
    for (resource, _) in instance.resources.iter().enumerate().filter(|(_, of)| of.transient) {
        let all: i64 = instance.processes.iter().map(|process| process.uses[resource]).sum();
        for (weight, process) in weights.iter_mut().zip(&instance.processes) {
            *weight += process.uses[resource] as f64 * count / all.max(1) as f64;
        }
    }
    weights
}
