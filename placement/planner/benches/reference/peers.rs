//! The ways of choosing a cell that others use. All of them keep to residency; each knows of capacity what it knows.

use cell_model::CellId;
use cell_planner::{CellEntry, FleetDocument, HomeRing, RingOptions, TenantEntry};

use crate::dice::Dice;
use crate::fleets::amount;

/// Gives every tenant a cell.
pub(crate) type Assign = fn(&mut FleetDocument, u64);

pub(crate) const ALL: [(&str, Assign); 5] = [
    ("the field's formula", formula),
    ("random", random),
    ("ring", ring),
    ("ring with bounded load", bounded_ring),
    ("best fit on peaks", best_fit),
];

/// What a simple product knows of a cell: sums of peaks, and how many of its tenants are spiky.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    peaks: [f64; 3],
    tenants: f64,
    spiky: f64,
}

/// Peak of the mean plus two deviations, by resource.
pub(crate) fn peaks(tenant: &TenantEntry) -> [f64; 3] {
    [&tenant.demand.cpu, &tenant.demand.connections, &tenant.demand.storage].map(|demand| {
        let at = |hour| amount(&demand.mean, hour) + 2.0 * amount(&demand.deviation, hour);
        (0..24).map(at).fold(0.0, f64::max)
    })
}

fn capacity(cell: &CellEntry) -> [f64; 3] {
    [cell.capacity.cpu, cell.capacity.connections, cell.capacity.storage]
}

fn eligible(tenant: &TenantEntry, cell: &CellEntry) -> bool {
    tenant.residency.is_empty() || tenant.residency == cell.residency
}

/// Chooses by the highest score among the eligible cells; `score` sees the sums before the tenant arrives.
fn greedily(document: &mut FleetDocument, score: impl Fn(&Sum, &[f64; 3], &[f64; 3]) -> f64) {
    let cells = document.cells.clone();
    let mut sums = vec![Sum::default(); cells.len()];
    for tenant in &mut document.tenants {
        let peaks = peaks(tenant);
        let of = |at: usize| score(&sums[at], &peaks, &capacity(&cells[at]));
        let choice = (0..cells.len()).filter(|&at| eligible(tenant, &cells[at]));
        let Some(best) = choice.max_by(|&a, &b| of(a).total_cmp(&of(b)).then(b.cmp(&a))) else { continue };
        tenant.cell.clone_from(&cells[best].id);
        let sum = &mut sums[best];
        (0..3).for_each(|at| sum.peaks[at] += peaks[at]);
        sum.tenants += 1.0;
        sum.spiky += if tenant.spike_cluster.is_empty() { 0.0 } else { 1.0 };
    }
}

/// `0.6 · cpu headroom + 0.4 · connection headroom − 0.5 · share of spiky tenants − 0.2 · utilisation`.
fn formula(document: &mut FleetDocument, _: u64) {
    greedily(document, |sum, _, capacity| {
        let used = |at: usize| sum.peaks[at] / capacity[at];
        let spiky = sum.spiky / sum.tenants.max(1.0);
        let utilisation = used(0).max(used(1));
        0.6 * (1.0 - used(0)) + 0.4 * (1.0 - used(1)) - 0.5 * spiky - 0.2 * utilisation
    });
}

/// The fullest cell that still has room for the tenant's peaks; where none has, the emptiest.
fn best_fit(document: &mut FleetDocument, _: u64) {
    greedily(document, |sum, peaks, capacity| {
        let then = (0..3).map(|at| (sum.peaks[at] + peaks[at]) / capacity[at]).fold(0.0, f64::max);
        if then <= 1.0 { then } else { -then }
    });
}

fn random(document: &mut FleetDocument, seed: u64) {
    let mut dice = Dice(seed);
    let cells = document.cells.clone();
    for tenant in &mut document.tenants {
        let choice: Vec<&CellEntry> = cells.iter().filter(|cell| eligible(tenant, cell)).collect();
        tenant.cell.clone_from(&choice[dice.below(choice.len())].id);
    }
}

fn ring_of(cells: &[CellEntry]) -> HomeRing {
    let ids = cells.iter().map(|cell| CellId::new(&cell.id).unwrap());
    HomeRing::build(ids, RingOptions::default()).unwrap()
}

fn by_id<'a>(cells: &'a [CellEntry], id: &CellId) -> (usize, &'a CellEntry) {
    let at = cells.binary_search_by(|cell| cell.id.as_str().cmp(id.as_str())).unwrap();
    (at, &cells[at])
}

fn ring(document: &mut FleetDocument, _: u64) {
    let cells = document.cells.clone();
    let ring = ring_of(&cells);
    for tenant in &mut document.tenants {
        let home = ring.home(&tenant.id, |cell| eligible(tenant, by_id(&cells, cell).1));
        tenant.cell = home.map(ToString::to_string).unwrap_or_default();
    }
}

/// No cell takes more than 1.25 times the mean number of tenants.
fn bounded_ring(document: &mut FleetDocument, _: u64) {
    let cells = document.cells.clone();
    let ring = ring_of(&cells);
    let bound = (document.tenants.len() as f64 * 1.25 / cells.len() as f64).ceil() as usize;
    let mut counts = vec![0; cells.len()];
    for tenant in &mut document.tenants {
        let takes = |cell: &CellId| {
            let (at, of) = by_id(&cells, cell);
            eligible(tenant, of) && counts[at] < bound
        };
        let home = ring
            .home(&tenant.id, takes)
            .or_else(|| ring.home(&tenant.id, |cell| eligible(tenant, by_id(&cells, cell).1)));
        let Some(home) = home else { continue };
        counts[by_id(&cells, home).0] += 1;
        tenant.cell = home.to_string();
    }
}
