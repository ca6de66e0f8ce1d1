//! An instance as the challenge writes it: whole numbers, one after the other; and the judge of assignments.

use std::collections::{BTreeMap, BTreeSet};

pub(super) struct Resource {
    /// A process that has moved uses it on both machines.
    pub(super) transient: bool,
    /// The cost of one unit above the safety capacity.
    pub(super) weight: i64,
}

pub(super) struct Machine {
    pub(super) neighborhood: usize,
    pub(super) location: usize,
    pub(super) capacity: Vec<i64>,
    /// The level: what is above it costs.
    pub(super) safety: Vec<i64>,
    /// Of a process that moves from here, by machine.
    pub(super) move_cost: Vec<i64>,
}

pub(super) struct Service {
    /// The fewest locations that it is at.
    pub(super) spread_min: usize,
    /// Each of its processes has one of each of these in its neighborhood.
    pub(super) needs: Vec<usize>,
}

pub(super) struct Process {
    pub(super) service: usize,
    pub(super) uses: Vec<i64>,
    pub(super) move_cost: i64,
}

/// For `target` of what is free of one resource there should be one free of the other.
pub(super) struct Balance {
    pub(super) of: usize,
    pub(super) other: usize,
    pub(super) target: i64,
    pub(super) weight: i64,
}

pub(super) struct Instance {
    pub(super) resources: Vec<Resource>,
    pub(super) machines: Vec<Machine>,
    pub(super) services: Vec<Service>,
    pub(super) processes: Vec<Process>,
    pub(super) balances: Vec<Balance>,
    pub(super) process_weight: i64,
    pub(super) service_weight: i64,
    pub(super) machine_weight: i64,
    /// By process.
    pub(super) start: Vec<usize>,
}

/// The words of a file, as numbers.
struct Words<'t>(std::str::SplitAsciiWhitespace<'t>);

impl Words<'_> {
    fn number(&mut self) -> Result<i64, String> {
        let word = self.0.next().ok_or("it ends too early")?;
        word.parse().map_err(|_| format!("{word:?} is no number"))
    }

    fn index(&mut self, below: usize) -> Result<usize, String> {
        let number = self.number()?;
        let index = usize::try_from(number).ok().filter(|&index| index < below);
        index.ok_or_else(|| format!("{number} is not below {below}"))
    }

    fn numbers(&mut self, count: usize) -> Result<Vec<i64>, String> {
        (0..count).map(|_| self.number()).collect()
    }

    fn list<T>(&mut self, each: impl Fn(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        let count = self.index(1_000_000)?;
        (0..count).map(|_| each(self)).collect()
    }
}

impl Instance {
    pub(super) fn read(model: &str, assignment: &str) -> Result<Self, String> {
        const MANY: usize = 1_000_000;
        let mut words = Words(model.split_ascii_whitespace());
        let words = &mut words;
        let resources =
            words.list(|words| Ok(Resource { transient: words.number()? != 0, weight: words.number()? }))?;
        let count = words.index(MANY)?;
        let machine = |words: &mut Words<'_>| {
            Ok::<_, String>(Machine {
                neighborhood: words.index(MANY)?,
                location: words.index(MANY)?,
                capacity: words.numbers(resources.len())?,
                safety: words.numbers(resources.len())?,
                move_cost: words.numbers(count)?,
            })
        };
        let machines = (0..count).map(|_| machine(words)).collect::<Result<Vec<_>, _>>()?;
        let services = words.list(|words| {
            let (spread_min, count) = (words.index(MANY)?, words.index(MANY)?);
            let needs = (0..count).map(|_| words.index(MANY)).collect::<Result<_, _>>()?;
            Ok(Service { spread_min, needs })
        })?;
        let processes = words.list(|words| {
            let service = words.index(services.len())?;
            Ok(Process { service, uses: words.numbers(resources.len())?, move_cost: words.number()? })
        })?;
        let balances = words.list(|words| {
            let (of, other) = (words.index(resources.len())?, words.index(resources.len())?);
            Ok(Balance { of, other, target: words.number()?, weight: words.number()? })
        })?;
        let (process_weight, service_weight, machine_weight) = (words.number()?, words.number()?, words.number()?);
        let mut words = Words(assignment.split_ascii_whitespace());
        let start = processes.iter().map(|_| words.index(count)).collect::<Result<_, _>>()?;
        Ok(Self {
            resources,
            machines,
            services,
            processes,
            balances,
            process_weight,
            service_weight,
            machine_weight,
            start,
        })
    }

    /// What an assignment costs, or which constraint it breaks; everything is added up anew.
    pub(super) fn judge(&self, assignment: &[usize]) -> Result<i64, String> {
        self.check_services(assignment)?;
        let mut cost = 0;
        for (at, machine) in self.machines.iter().enumerate() {
            let here = |process: &usize| assignment[*process] == at;
            let astray = |process: &usize| self.start[*process] == at && assignment[*process] != at;
            let sum = |resource: usize, of: &dyn Fn(&usize) -> bool| -> i64 {
                (0..assignment.len()).filter(of).map(|process| self.processes[process].uses[resource]).sum()
            };
            let uses: Vec<i64> = (0..self.resources.len()).map(|resource| sum(resource, &here)).collect();
            for (resource, of) in self.resources.iter().enumerate() {
                let in_flight = if of.transient { sum(resource, &astray) } else { 0 };
                if uses[resource] + in_flight > machine.capacity[resource] {
                    return Err(format!("machine {at} has too little of resource {resource}"));
                }
                cost += of.weight * (uses[resource] - machine.safety[resource]).max(0);
            }
            for balance in &self.balances {
                let free = |resource: usize| machine.capacity[resource] - uses[resource];
                cost += balance.weight * (balance.target * free(balance.of) - free(balance.other)).max(0);
            }
        }
        let mut moved: BTreeMap<usize, i64> = BTreeMap::new();
        for (process, (&from, &to)) in self.processes.iter().zip(self.start.iter().zip(assignment)) {
            if from != to {
                *moved.entry(process.service).or_default() += 1;
                cost += self.process_weight * process.move_cost;
                cost += self.machine_weight * self.machines[from].move_cost[to];
            }
        }
        Ok(cost + self.service_weight * moved.into_values().max().unwrap_or(0))
    }

    /// No two processes of a service on a machine, enough locations, and near to what it needs.
    fn check_services(&self, assignment: &[usize]) -> Result<(), String> {
        let mut machines: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); self.services.len()];
        for (process, &machine) in self.processes.iter().zip(assignment) {
            if !machines[process.service].insert(machine) {
                return Err(format!("two processes of service {} are on machine {machine}", process.service));
            }
        }
        let near = |service: usize| -> BTreeSet<usize> {
            machines[service].iter().map(|&machine| self.machines[machine].neighborhood).collect()
        };
        for (at, service) in self.services.iter().enumerate() {
            let locations: BTreeSet<_> = machines[at].iter().map(|&of| self.machines[of].location).collect();
            if locations.len() < service.spread_min {
                return Err(format!("service {at} is at {} locations", locations.len()));
            }
            if let Some(needed) = service.needs.iter().find(|&&needed| !near(at).is_subset(&near(needed))) {
                return Err(format!("service {at} is where there is none of service {needed}"));
            }
        }
        Ok(())
    }
}
