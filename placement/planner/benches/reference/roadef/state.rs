//! An assignment with its sums.

use super::instance::{Instance, Process};

/// What one machine takes and gives.
#[derive(Clone, Copy, Default)]
pub(super) struct Change {
    pub(super) comes: Option<usize>,
    pub(super) goes: Option<usize>,
}

/// What a change adds.
#[derive(Clone, Copy)]
pub(super) struct More {
    pub(super) cost: i64,
    pub(super) lonely: i64,
}

pub(super) struct State<'i> {
    instance: &'i Instance,
    pub(super) at: Vec<usize>,
    pub(super) cost: i64,
    /// How often a process lacks a neighbor that its service needs. Nothing else may be broken on the way.
    pub(super) lonely: i64,
    /// By machine and resource: what is used, and what those use that have gone and still count.
    uses: Vec<i64>,
    in_flight: Vec<i64>,
    /// By machine: what is above its levels and out of balance.
    costs: Vec<i64>,
    /// By service and machine, location, neighborhood: how many processes are there.
    on_machine: Vec<u32>,
    at_location: Vec<u32>,
    near: Vec<u32>,
    /// By service: at how many locations, how many have moved, and who needs it.
    locations: Vec<usize>,
    moved: Vec<usize>,
    needed_by: Vec<Vec<usize>>,
    /// By a number: how many services have moved so many processes; and the largest of these numbers.
    with_moved: Vec<usize>,
    most_moved: usize,
    location_count: usize,
    neighborhood_count: usize,
}

impl<'i> State<'i> {
    pub(super) fn new(instance: &'i Instance) -> Self {
        let (machines, services) = (instance.machines.len(), instance.services.len());
        let location_count = instance.machines.iter().map(|of| of.location).max().unwrap_or(0) + 1;
        let neighborhood_count = instance.machines.iter().map(|of| of.neighborhood).max().unwrap_or(0) + 1;
        let mut needed_by = vec![Vec::new(); services];
        for (at, service) in instance.services.iter().enumerate() {
            service.needs.iter().for_each(|&needed| needed_by[needed].push(at));
        }
        let mut with_moved = vec![0; instance.processes.len() + 2];
        with_moved[0] = services;
        let mut state = Self {
            instance,
            at: instance.start.clone(),
            cost: 0,
            lonely: 0,
            uses: vec![0; machines * instance.resources.len()],
            in_flight: vec![0; machines * instance.resources.len()],
            costs: vec![0; machines],
            on_machine: vec![0; services * machines],
            at_location: vec![0; services * location_count],
            near: vec![0; services * neighborhood_count],
            locations: vec![0; services],
            moved: vec![0; services],
            needed_by,
            with_moved,
            most_moved: 0,
            location_count,
            neighborhood_count,
        };
        for (process, &machine) in instance.processes.iter().zip(&instance.start) {
            state.count(process, machine, true);
        }
        (0..machines).for_each(|machine| state.measure(machine));
        state.cost = state.costs.iter().sum();
        state
    }

    fn count(&mut self, process: &Process, machine: usize, comes: bool) {
        let Process { service, uses, .. } = process;
        let of = &self.instance.machines[machine];
        let row = machine * uses.len();
        for (sum, uses) in self.uses[row..].iter_mut().zip(uses) {
            *sum += if comes { *uses } else { -uses };
        }
        let places = [
            &mut self.on_machine[service * self.instance.machines.len() + machine],
            &mut self.near[service * self.neighborhood_count + of.neighborhood],
            &mut self.at_location[service * self.location_count + of.location],
        ];
        let mut is_only = false;
        for place in places {
            is_only = *place == u32::from(!comes);
            *place = if comes { *place + 1 } else { *place - 1 };
        }
        if is_only {
            let locations = &mut self.locations[*service];
            *locations = if comes { *locations + 1 } else { *locations - 1 };
        }
    }

    /// What a machine costs with a change; nothing if it has no room for it, with what is in flight counted on it.
    fn cost_of(&self, machine: usize, change: Change) -> Option<i64> {
        let instance = self.instance;
        let of = &instance.machines[machine];
        let row = machine * instance.resources.len();
        let uses_of = |process: Option<usize>| process.map(|at| &instance.processes[at].uses);
        let (comes, goes) = (uses_of(change.comes), uses_of(change.goes));
        let amount = |uses: Option<&Vec<i64>>, resource: usize| uses.map_or(0, |uses| uses[resource]);
        let is_home = |process: Option<usize>| process.is_some_and(|at| instance.start[at] == machine);
        let (stays, returns) = (is_home(change.goes), is_home(change.comes));
        let uses = |resource: usize| self.uses[row + resource] + amount(comes, resource) - amount(goes, resource);
        let mut cost = 0;
        for (resource, each) in instance.resources.iter().enumerate() {
            let uses = uses(resource);
            let mut counts = uses;
            if each.transient {
                counts += self.in_flight[row + resource];
                counts += if stays { amount(goes, resource) } else { 0 };
                counts -= if returns { amount(comes, resource) } else { 0 };
            }
            if counts > of.capacity[resource] {
                return None;
            }
            cost += each.weight * (uses - of.safety[resource]).max(0);
        }
        for balance in &instance.balances {
            let free = |resource: usize| of.capacity[resource] - uses(resource);
            cost += balance.weight * (balance.target * free(balance.of) - free(balance.other)).max(0);
        }
        Some(cost)
    }

    /// Measures a machine anew, which has room for what it has.
    fn measure(&mut self, machine: usize) {
        self.costs[machine] = self.cost_of(machine, Change::default()).expect("no change is made without room");
    }

    /// Whether its own service allows that a process goes to a machine.
    fn may_go(&self, process: usize, target: usize) -> bool {
        let instance = self.instance;
        let service = instance.processes[process].service;
        let (from, to) = (&instance.machines[self.at[process]], &instance.machines[target]);
        if self.on_machine[service * instance.machines.len() + target] > 0 {
            return false;
        }
        let left = usize::from(self.at_location[service * self.location_count + from.location] == 1);
        let found = usize::from(self.at_location[service * self.location_count + to.location] == 0);
        from.location == to.location
            || self.locations[service] + found >= instance.services[service].spread_min + left
    }

    /// How many more processes lack a neighbor that they need if a process goes to a machine.
    fn more_lonely(&self, process: usize, target: usize) -> i64 {
        let instance = self.instance;
        let service = instance.processes[process].service;
        let from = instance.machines[self.at[process]].neighborhood;
        let to = instance.machines[target].neighborhood;
        if from == to {
            return 0;
        }
        let count = |service: usize, near: usize| i64::from(self.near[service * self.neighborhood_count + near]);
        let mut more = 0;
        for &needed in &instance.services[service].needs {
            more += i64::from(count(needed, to) == 0) - i64::from(count(needed, from) == 0);
        }
        for &of in &self.needed_by[service] {
            // The last one leaves those that need it; the first one comes to them.
            more += if count(service, from) == 1 { count(of, from) } else { 0 };
            more -= if count(service, to) == 0 { count(of, to) } else { 0 };
        }
        more
    }

    fn are_bound(&self, one: usize, other: usize) -> bool {
        let needs = |of: usize| &self.instance.services[of].needs;
        one == other || needs(one).contains(&other) || needs(other).contains(&one)
    }

    /// What one process costs by having moved to a machine.
    fn move_cost(&self, process: usize, machine: usize) -> i64 {
        let (instance, home) = (self.instance, self.instance.start[process]);
        if machine == home {
            return 0;
        }
        instance.process_weight * instance.processes[process].move_cost
            + instance.machine_weight * instance.machines[home].move_cost[machine]
    }

    /// How much more it is that a process goes to a machine; nothing if it may not.
    pub(super) fn shift(&mut self, process: usize, target: usize) -> Option<More> {
        let source = self.at[process];
        let (come, go) = (Change { comes: Some(process), goes: None }, Change { comes: None, goes: Some(process) });
        if source == target || !self.may_go(process, target) {
            return None;
        }
        let then = self.cost_of(source, go)? + self.cost_of(target, come)?;
        let moves = self.move_cost(process, target) - self.move_cost(process, source);
        let services = self.services_cost(&[(process, target)]);
        let cost = then - self.costs[source] - self.costs[target] + moves + services;
        Some(More { cost, lonely: self.more_lonely(process, target) })
    }

    /// The same of two that change places. Not asked of two whose services know each other.
    pub(super) fn exchange(&mut self, one: usize, other: usize) -> Option<More> {
        let (here, there) = (self.at[one], self.at[other]);
        let service = |at: usize| self.instance.processes[at].service;
        if here == there || self.are_bound(service(one), service(other)) {
            return None;
        }
        let (at_here, at_there) =
            (Change { comes: Some(other), goes: Some(one) }, Change { comes: Some(one), goes: Some(other) });
        if !self.may_go(one, there) || !self.may_go(other, here) {
            return None;
        }
        let then = self.cost_of(here, at_here)? + self.cost_of(there, at_there)?;
        let moves = self.move_cost(one, there) + self.move_cost(other, here)
            - self.move_cost(one, here)
            - self.move_cost(other, there);
        let services = self.services_cost(&[(one, there), (other, here)]);
        let cost = then - self.costs[here] - self.costs[there] + moves + services;
        Some(More { cost, lonely: self.more_lonely(one, there) + self.more_lonely(other, here) })
    }

    /// How much more it costs that the service which has moved the most has moved so many.
    fn services_cost(&mut self, moves: &[(usize, usize)]) -> i64 {
        let before = self.most_moved;
        let change = |of: &(usize, usize)| (of.0, self.at[of.0], of.1);
        let changes = [moves.first(), moves.get(1)].map(|of| of.map(change));
        changes.iter().flatten().for_each(|&(process, from, to)| self.count_moved(process, from, to));
        let after = self.most_moved;
        changes.iter().flatten().rev().for_each(|&(process, from, to)| self.count_moved(process, to, from));
        let [before, after] = [before, after].map(|count| i64::try_from(count).expect("a count of processes"));
        self.instance.service_weight * (after - before)
    }

    fn count_moved(&mut self, process: usize, from: usize, to: usize) {
        let home = self.instance.start[process];
        let service = self.instance.processes[process].service;
        let count = self.moved[service];
        let then = count + usize::from(from == home) - usize::from(to == home);
        self.with_moved[count] -= 1;
        self.with_moved[then] += 1;
        self.moved[service] = then;
        self.most_moved = self.most_moved.max(then);
        while self.most_moved > 0 && self.with_moved[self.most_moved] == 0 {
            self.most_moved -= 1;
        }
    }

    /// Makes a change that was asked for, and that is so much more.
    pub(super) fn make(&mut self, moves: &[(usize, usize)], more: More) {
        let instance = self.instance;
        let sources = [moves.first(), moves.get(1)].map(|of| of.map(|&(process, _)| self.at[process]));
        for &(process, target) in moves {
            let (source, home) = (self.at[process], instance.start[process]);
            let of = &instance.processes[process];
            self.count(of, source, false);
            self.count(of, target, true);
            let flies = i64::from(source == home) - i64::from(target == home);
            for (resource, _) in instance.resources.iter().enumerate().filter(|(_, each)| each.transient) {
                self.in_flight[home * instance.resources.len() + resource] += flies * of.uses[resource];
            }
            self.count_moved(process, source, target);
            self.at[process] = target;
        }
        // Only when both have moved is there room again.
        sources.into_iter().flatten().chain(moves.iter().map(|of| of.1)).for_each(|at| self.measure(at));
        self.cost += more.cost;
        self.lonely += more.lonely;
    }
}
