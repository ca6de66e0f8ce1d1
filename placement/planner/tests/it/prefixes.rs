//! A second opinion on plans: adds everything up again from the document, in the plainest way, and looks at each cell
//! with any moves of a wave begun and any of those ended. It shares no code with the planner.

use std::collections::{BTreeMap, BTreeSet};

use cell_model::{CellState, Tier};
use cell_planner::{CellEntry, CellKind, Databases, Fleet, FleetDocument, Hourly, PlannedMove, TenantEntry, Wave};

use crate::world::Dice;

pub(crate) struct Checker {
    document: FleetDocument,
    risk: f64,
    /// Copies of tenants, by cell.
    on: BTreeMap<String, BTreeSet<usize>>,
    /// Need of each cell when the plan began, where that was above its budget.
    over: BTreeMap<(String, usize), f64>,
    draining: BTreeSet<String>,
}

fn at(hourly: &Hourly, hour: usize) -> f64 {
    match hourly {
        Hourly::Flat(value) => *value,
        Hourly::ByHour(values) => values[hour],
    }
}

fn demand(tenant: &TenantEntry, dim: usize) -> (f64, f64) {
    let of = [&tenant.demand.cpu, &tenant.demand.connections, &tenant.demand.storage][dim / 24];
    (at(&of.mean, dim % 24), at(&of.deviation, dim % 24))
}

fn budget(cell: &CellEntry, dim: usize) -> f64 {
    [cell.capacity.cpu, cell.capacity.connections, cell.capacity.storage][dim / 24] * (1.0 - cell.reserve)
}

impl Checker {
    pub(crate) fn new(fleet: &Fleet, risk: f64, draining: &[&str]) -> Self {
        let document = fleet.to_document();
        let mut on: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for (index, tenant) in document.tenants.iter().enumerate() {
            for cell in
                [&tenant.cell, &tenant.moving_to, &tenant.arrived_from].into_iter().filter(|cell| !cell.is_empty())
            {
                on.entry(cell.clone()).or_default().insert(index);
            }
        }
        let draining = draining.iter().map(|&cell| cell.to_owned()).collect();
        let mut checker = Self { document, risk, on, over: BTreeMap::new(), draining };
        for cell in checker.document.cells.clone() {
            for dim in 0..72 {
                let need = checker.need(&cell.id, dim);
                if need > budget(&cell, dim) {
                    checker.over.insert((cell.id.clone(), dim), need);
                }
            }
        }
        checker
    }

    fn need(&self, cell: &str, dim: usize) -> f64 {
        let (mut mean, mut variance) = (0.0, 0.0);
        let mut clusters: BTreeMap<&str, f64> = BTreeMap::new();
        for &index in self.on.get(cell).into_iter().flatten() {
            let tenant = &self.document.tenants[index];
            let (expected, deviation) = demand(tenant, dim);
            mean += expected;
            if tenant.spike_cluster.is_empty() {
                variance += deviation * deviation;
            } else {
                *clusters.entry(&tenant.spike_cluster).or_default() += deviation;
            }
        }
        variance += clusters.values().map(|sum| sum * sum).sum::<f64>();
        mean + self.risk * variance.sqrt()
    }

    pub(crate) fn cell_of(&self, tenant: &str) -> Vec<&str> {
        let index = self.index(tenant);
        self.on.iter().filter(|(_, tenants)| tenants.contains(&index)).map(|(cell, _)| cell.as_str()).collect()
    }

    pub(crate) fn load(&self, cell: &str) -> usize {
        self.on.get(cell).map_or(0, BTreeSet::len)
    }

    fn index(&self, tenant: &str) -> usize {
        self.document.tenants.iter().position(|of| of.id == tenant).expect("a tenant of the fleet")
    }

    fn begin(&mut self, planned: &PlannedMove) {
        let index = self.index(planned.tenant.as_str());
        assert!(self.on[planned.source.as_str()].contains(&index), "{planned:?}: it is not on its source");
        let target = self.document.cells.iter().find(|cell| cell.id == planned.target.as_str()).unwrap().clone();
        let tenant = &self.document.tenants[index];
        assert!(tenant.residency.is_empty() || tenant.residency == target.residency, "residency: {planned:?}");
        assert!(tenant.region.is_empty() || tenant.region == target.region, "region: {planned:?}");
        assert!(tenant.pin.is_empty() || tenant.pin == target.id, "pin: {planned:?}");
        assert_eq!(target.state, CellState::Active, "{planned:?}");
        assert!(!self.draining.contains(&target.id), "into a draining cell: {planned:?}");
        assert_eq!(tenant.tier == Tier::Platinum, target.kind == CellKind::Dedicated, "kind: {planned:?}");
        let there = self.on.entry(target.id.clone()).or_default();
        let shares = tenant.tier == Tier::Gold && target.databases == Some(Databases::Shared);
        assert!(!shares, "a gold tenant has a database of its own: {planned:?}");
        if target.kind == CellKind::Dedicated {
            assert!(there.is_empty(), "a dedicated cell has one tenant: {planned:?}");
        }
        let group = &tenant.group;
        let kin = there.iter().filter(|&&other| !group.is_empty() && self.document.tenants[other].group == *group);
        assert_eq!(kin.count(), 0, "anti-affinity: {planned:?}");
        assert!(there.insert(index), "{planned:?}: it is there already");
        self.check_budget(&target);
    }

    fn check_budget(&self, cell: &CellEntry) {
        for dim in 0..72 {
            let need = self.need(&cell.id, dim);
            let most = self.over.get(&(cell.id.clone(), dim)).copied().unwrap_or_else(|| budget(cell, dim));
            assert!(need <= most * (1.0 + 1e-6), "{} needs {need} of {most} in dimension {dim}", cell.id);
        }
    }

    fn end(&mut self, planned: &PlannedMove) {
        let index = self.index(planned.tenant.as_str());
        assert!(self.on.get_mut(planned.source.as_str()).unwrap().remove(&index));
    }

    /// Runs the waves with moves beginning and ending in a random order. Every state on the way is looked at: also the
    /// one in which all moves of a wave have begun and none has ended. Gives how many states these were.
    pub(crate) fn run(&mut self, waves: &[Wave], dice: &mut Dice) -> u64 {
        let mut states = 0;
        for wave in waves {
            let mut waiting: Vec<&PlannedMove> = wave.moves.iter().collect();
            let mut running: Vec<&PlannedMove> = Vec::new();
            let all_at_once = dice.chance(0.5);
            while !waiting.is_empty() || !running.is_empty() {
                states += 1;
                let begin = !waiting.is_empty() && (all_at_once || running.is_empty() || dice.chance(0.5));
                if begin {
                    let planned = waiting.swap_remove(dice.below(waiting.len()));
                    self.begin(planned);
                    running.push(planned);
                } else {
                    let planned = running.swap_remove(dice.below(running.len()));
                    self.end(planned);
                }
            }
        }
        states
    }
}
