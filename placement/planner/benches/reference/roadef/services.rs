//! Where the processes of each service are, as far as the service minds, and how many of them have moved.

use super::instance::Instance;

pub(super) struct Services<'i> {
    instance: &'i Instance,
    machines: usize,
    locations: usize,
    neighborhoods: usize,
    /// By service and machine, location, neighborhood: how many processes are there.
    on_machine: Vec<u32>,
    at_location: Vec<u32>,
    near: Vec<u32>,
    /// By service: at how many locations it is, and who needs it.
    spread: Vec<usize>,
    needed_by: Vec<Vec<usize>>,
    /// By service: its processes.
    processes: Vec<Vec<usize>>,
    /// By service: how many have moved. By a number: how many services have moved so many. The largest of these numbers.
    moved: Vec<usize>,
    with_moved: Vec<usize>,
    most_moved: usize,
}

impl<'i> Services<'i> {
    pub(super) fn new(instance: &'i Instance) -> Self {
        let (machines, services) = (instance.machines.len(), instance.services.len());
        let locations = instance.machines.iter().map(|of| of.location).max().unwrap_or(0) + 1;
        let neighborhoods = instance.machines.iter().map(|of| of.neighborhood).max().unwrap_or(0) + 1;
        let (mut needed_by, mut processes) = (vec![Vec::new(); services], vec![Vec::new(); services]);
        for (at, service) in instance.services.iter().enumerate() {
            service.needs.iter().for_each(|&needed| needed_by[needed].push(at));
        }
        for (at, process) in instance.processes.iter().enumerate() {
            processes[process.service].push(at);
        }
        let mut with_moved = vec![0; instance.processes.len() + 2];
        with_moved[0] = services;
        let mut all = Self {
            instance,
            machines,
            locations,
            neighborhoods,
            on_machine: vec![0; services * machines],
            at_location: vec![0; services * locations],
            near: vec![0; services * neighborhoods],
            spread: vec![0; services],
            needed_by,
            processes,
            moved: vec![0; services],
            with_moved,
            most_moved: 0,
        };
        for (process, &machine) in instance.processes.iter().zip(&instance.start) {
            all.count(process.service, machine, true);
        }
        all
    }

    pub(super) fn count(&mut self, service: usize, machine: usize, comes: bool) {
        let of = &self.instance.machines[machine];
        let places = [
            &mut self.on_machine[service * self.machines + machine],
            &mut self.near[service * self.neighborhoods + of.neighborhood],
            &mut self.at_location[service * self.locations + of.location],
        ];
        let mut is_only = false;
        for place in places {
            is_only = *place == u32::from(!comes);
            *place = if comes { *place + 1 } else { *place - 1 };
        }
        if is_only {
            let spread = &mut self.spread[service];
            *spread = if comes { *spread + 1 } else { *spread - 1 };
        }
    }

    pub(super) fn near(&self, service: usize, neighborhood: usize) -> u32 {
        self.near[service * self.neighborhoods + neighborhood]
    }

    pub(super) fn needed_by(&self, service: usize) -> &[usize] {
        &self.needed_by[service]
    }

    pub(super) fn processes(&self, service: usize) -> &[usize] {
        &self.processes[service]
    }

    /// Whether a service allows that one of its processes goes from one machine to another.
    pub(super) fn may_go(&self, service: usize, source: usize, target: usize) -> bool {
        if self.on_machine[service * self.machines + target] > 0 {
            return false;
        }
        let (from, to) = (self.instance.machines[source].location, self.instance.machines[target].location);
        let at = |location: usize| self.at_location[service * self.locations + location];
        let (left, found) = (usize::from(at(from) == 1), usize::from(at(to) == 0));
        from == to || self.spread[service] + found >= self.instance.services[service].spread_min + left
    }

    /// How many more processes lack a neighbor that they need if one of a service goes from one machine to another.
    pub(super) fn more_lonely(&self, service: usize, source: usize, target: usize) -> i64 {
        let from = self.instance.machines[source].neighborhood;
        let to = self.instance.machines[target].neighborhood;
        if from == to {
            return 0;
        }
        let count = |service: usize, near: usize| i64::from(self.near(service, near));
        let mut more = 0;
        for &needed in &self.instance.services[service].needs {
            more += i64::from(count(needed, to) == 0) - i64::from(count(needed, from) == 0);
        }
        for &of in &self.needed_by[service] {
            // The last one leaves those that need it; the first one comes to them.
            more += if count(service, from) == 1 { count(of, from) } else { 0 };
            more -= if count(service, to) == 0 { count(of, to) } else { 0 };
        }
        more
    }

    /// Whether what two services lack depends on both.
    pub(super) fn are_bound(&self, one: usize, other: usize) -> bool {
        let needs = |of: usize| &self.instance.services[of].needs;
        one == other || needs(one).contains(&other) || needs(other).contains(&one)
    }

    /// How many the service has moved that has moved the most.
    pub(super) const fn most_moved(&self) -> usize {
        self.most_moved
    }

    /// One process of a service leaves its home, or returns.
    pub(super) fn count_moved(&mut self, service: usize, leaves: bool) {
        let count = self.moved[service];
        let then = if leaves { count + 1 } else { count - 1 };
        self.with_moved[count] -= 1;
        self.with_moved[then] += 1;
        self.moved[service] = then;
        self.most_moved = self.most_moved.max(then);
        while self.most_moved > 0 && self.with_moved[self.most_moved] == 0 {
            self.most_moved -= 1;
        }
    }
}
