//! What a fleet adds up to as it stands: cell by cell for layouts, zone by zone for bounds.
//!
//! Adding a million tenants up takes longer than planning with them, so it is done once, when a fleet has been checked,
//! and every layout and every bound begins with the sums. They are whole numbers below 2^53 and maxima: in whatever
//! order and on however many threads they are made, they are the same.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{CellIx, Fleet, Label, TenantIx};
use crate::demand::Profile;
use crate::load::{Delta, Load};
use crate::resource::{ByDim, DIMS, HOURS, RESOURCES};
use crate::zone::Zones;

/// Below this a second thread costs more than it brings.
const TENANTS_PER_THREAD: usize = 50_000;
/// Risk at which the largest tenant of a dimension is chosen. Any is right; the usual one makes the sharpest bound.
const USUAL_RISK: f64 = 2.0;

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) zones: Zones,
    pub(crate) loads: Vec<Load>,
    /// By cell, in order.
    pub(crate) members: Vec<Vec<TenantIx>>,
    /// By anti-affinity group: the cell of each copy of each member, in order.
    pub(crate) groups: Vec<Vec<CellIx>>,
    /// By zone: by the residency that tenants ask for.
    pub(crate) totals: Vec<BTreeMap<Label, Totals>>,
}

/// What some tenants with a home add up to, wherever they are.
#[derive(Debug, Clone)]
pub(crate) struct Totals {
    pub(crate) mean: ByDim,
    /// Σ deviation, by spike cluster.
    pub(crate) clusters: BTreeMap<usize, ByDim>,
    /// Variance of those without a cluster: by resource, and by how much variance they have for their mean.
    pub(crate) steeps: [BTreeMap<u64, Steep>; RESOURCES],
    /// The same of those with one.
    pub(crate) clustered: [BTreeMap<u64, Steep>; RESOURCES],
    /// Mean and deviation of one of the largest.
    pub(crate) largest: Vec<(f64, f64)>,
}

/// Variance of tenants of one resource that have about as much of it for their mean, by hour.
#[derive(Debug, Clone)]
pub(crate) struct Steep {
    pub(crate) variance: [f64; HOURS],
    /// The most variance by mean of any of them; infinite where one has no mean.
    pub(crate) steepest: [f64; HOURS],
}

impl Totals {
    pub(crate) fn new() -> Self {
        Self {
            mean: [0.0; DIMS],
            clusters: BTreeMap::new(),
            steeps: Default::default(),
            clustered: Default::default(),
            largest: vec![(0.0, 0.0); DIMS],
        }
    }

    fn add(&mut self, profile: &Profile, cluster: Option<usize>) {
        for (sum, mean) in self.mean.iter_mut().zip(&profile.mean) {
            *sum += mean;
        }
        for (dim, largest) in self.largest.iter_mut().enumerate() {
            let given = (profile.mean[dim], profile.deviation[dim]);
            if is_larger(given, *largest) {
                *largest = given;
            }
        }
        match cluster {
            Some(cluster) => {
                let sums = self.clusters.entry(cluster).or_insert([0.0; DIMS]);
                sums.iter_mut().zip(&profile.deviation).for_each(|(sum, deviation)| *sum += deviation);
                add_steeps(&mut self.clustered, profile);
            }
            None => add_steeps(&mut self.steeps, profile),
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.mean.iter_mut().zip(&other.mean).for_each(|(sum, more)| *sum += more);
        for (&cluster, more) in &other.clusters {
            let sums = self.clusters.entry(cluster).or_insert([0.0; DIMS]);
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        let others = other.steeps.iter().chain(&other.clustered);
        for (own, other) in self.steeps.iter_mut().chain(&mut self.clustered).zip(others) {
            for (&class, more) in other {
                let new = Steep { variance: [0.0; HOURS], steepest: [0.0; HOURS] };
                own.entry(class).or_insert(new).add(&more.variance, &more.steepest);
            }
        }
        for (largest, &given) in self.largest.iter_mut().zip(&other.largest) {
            if is_larger(given, *largest) {
                *largest = given;
            }
        }
    }
}

impl Steep {
    fn add(&mut self, variance: &[f64; HOURS], ratio: &[f64; HOURS]) {
        for hour in 0..HOURS {
            self.variance[hour] += variance[hour];
            self.steepest[hour] = larger(ratio[hour], self.steepest[hour]);
        }
    }
}

fn add_steeps(steeps: &mut [BTreeMap<u64, Steep>; RESOURCES], profile: &Profile) {
    for resource in 0..RESOURCES {
        let first = resource * HOURS;
        let (mut variance, mut ratio) = ([0.0; HOURS], [0.0; HOURS]);
        for hour in 0..HOURS {
            let deviation = profile.deviation[first + hour];
            variance[hour] = deviation * deviation;
            ratio[hour] = variance[hour] / profile.mean[first + hour];
        }
        // Nothing by nothing is no number, and no number is larger than any.
        let steepest = ratio.iter().fold(0.0, |most, &ratio| larger(ratio, most));
        if steepest > 0.0 {
            let new = Steep { variance: [0.0; HOURS], steepest: [0.0; HOURS] };
            steeps[resource].entry(class(steepest)).or_insert(new).add(&variance, &ratio);
        }
    }
}

/// Sixteen classes to each doubling: the exponent and four bits of what follows it.
fn class(ratio: f64) -> u64 {
    ratio.to_bits() >> 48
}

fn is_larger((mean, deviation): (f64, f64), than: (f64, f64)) -> bool {
    let need = |(mean, deviation): (f64, f64)| mean + USUAL_RISK * deviation;
    let (own, other) = (need((mean, deviation)), need(than));
    own > other || (own >= other && mean > than.0)
}

/// `max` without its care for what is no number, so that the compiler makes vector code of it.
#[inline]
fn larger(value: f64, than: f64) -> f64 {
    if value > than { value } else { than }
}

/// What one thread adds up: the tenants on some of the cells.
struct Part {
    loads: Vec<Load>,
    members: Vec<Vec<TenantIx>>,
    groups: Vec<(usize, CellIx)>,
    totals: Vec<BTreeMap<Label, Totals>>,
}

/// By cell: an empty list with room for its members and no more, so that a million of them leave no gaps behind.
fn rooms(fleet: &Fleet, cells: &Range<usize>) -> Vec<Vec<TenantIx>> {
    let mut counts = vec![0; cells.len()];
    for tenant in fleet.tenants().map(|index| fleet.tenant(index)) {
        let copies = [tenant.cell(), tenant.elsewhere()].into_iter().flatten();
        copies
            .filter(|cell| cells.contains(&cell.index()))
            .for_each(|cell| counts[cell.index() - cells.start] += 1);
    }
    counts.into_iter().map(Vec::with_capacity).collect()
}

impl Part {
    fn of(fleet: &Fleet, zones: &Zones, cells: Range<usize>) -> Self {
        let mut part = Self {
            loads: vec![Load::new(fleet.spike_cluster_count()); cells.len()],
            members: rooms(fleet, &cells),
            groups: Vec::new(),
            totals: vec![BTreeMap::new(); zones.all.len()],
        };
        for index in fleet.tenants() {
            let tenant = fleet.tenant(index);
            let (home, next) = (tenant.cell(), tenant.elsewhere());
            let is_here = |cell: &CellIx| cells.contains(&cell.index());
            if home.iter().chain(&next).all(|cell| !is_here(cell)) {
                continue;
            }
            let profile = fleet.demand(index);
            let cluster = tenant.spike_cluster();
            for cell in [home, next].into_iter().flatten().filter(is_here) {
                let at = cell.index() - cells.start;
                part.loads[at].add(Delta { profile: &profile, cluster, sign: 1.0 });
                part.members[at].push(index);
                part.groups.extend(tenant.group().map(|group| (group, cell)));
            }
            if let Some(home) = home.filter(is_here) {
                let zone = &mut part.totals[zones.of_tenant(tenant).unwrap_or(zones.of(home))];
                zone.entry(tenant.residency()).or_insert_with(Totals::new).add(&profile, cluster);
            }
        }
        part.loads.iter_mut().for_each(Load::settle);
        part
    }
}

impl Standing {
    pub(crate) fn of(fleet: &Fleet) -> Self {
        let zones = Zones::new(fleet);
        let cells = fleet.cells().len();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.min(fleet.tenants().len() / TENANTS_PER_THREAD).clamp(1, cells.max(1));
        let ranges = (0..threads).map(|at| cells * at / threads..cells * (at + 1) / threads);
        let parts: Vec<Part> = std::thread::scope(|scope| {
            let part = |range: Range<usize>| scope.spawn(|| Part::of(fleet, &zones, range));
            let running: Vec<_> = ranges.map(part).collect();
            running.into_iter().map(|part| part.join().expect("adding up does not panic")).collect()
        });
        let mut standing = Self {
            loads: Vec::with_capacity(cells),
            members: Vec::with_capacity(cells),
            groups: vec![Vec::new(); fleet.group_count()],
            totals: vec![BTreeMap::new(); zones.all.len()],
            zones,
        };
        parts.into_iter().for_each(|part| standing.add(part));
        standing.groups.iter_mut().for_each(|cells| cells.sort_unstable());
        standing
    }

    fn add(&mut self, part: Part) {
        self.loads.extend(part.loads);
        self.members.extend(part.members);
        for (group, cell) in part.groups {
            self.groups[group].push(cell);
        }
        for (own, more) in self.totals.iter_mut().zip(part.totals) {
            for (residency, totals) in more {
                own.entry(residency).or_insert_with(Totals::new).merge(&totals);
            }
        }
    }
}
