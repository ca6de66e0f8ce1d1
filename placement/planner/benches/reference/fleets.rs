//! The reference fleets: 12,000 tenants (95 % small, 4 % mid, 1 % enterprise), 5,000 and 8,000 of other mixes; some may
//! only be in the EU. Tenants arrive one by one; each way of choosing a cell sees those before them. Then all of them are
//! placed together, and the next rebalancing has nothing to do.

use std::time::Instant;

use cell_figures::{Figure, Figures};
use cell_model::{Revision, UnixMillis};
use cell_planner::{
    Amounts, Bounds, CellEntry, Demand, Fleet, FleetDocument, Goal, HomeRing, Hourly, Layout, Policy, Request,
    ResourceDemand, RingOptions, Room, TenantEntry, place, plan,
};

use crate::dice::Dice;
use crate::peers;

/// What a fleet is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) seed: u64,
    pub(crate) tenants: usize,
    pub(crate) cells: usize,
    /// Shares of small and mid tenants; the rest are enterprises.
    pub(crate) small: f64,
    pub(crate) mid: f64,
    /// Share of tenants that may only be in the EU.
    pub(crate) eu_only: f64,
    /// How full the cells would be if every load were spread evenly.
    pub(crate) fill: f64,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "12,000 × 48",
        seed: 12,
        tenants: 12_000,
        cells: 48,
        small: 0.95,
        mid: 0.04,
        eu_only: 0.25,
        fill: 0.7,
    },
    Shape {
        name: "5,000 × 20",
        seed: 5,
        tenants: 5_000,
        cells: 20,
        small: 0.90,
        mid: 0.08,
        eu_only: 0.4,
        fill: 0.7,
    },
    Shape {
        name: "8,000 × 32",
        seed: 8,
        tenants: 8_000,
        cells: 32,
        small: 0.97,
        mid: 0.025,
        eu_only: 0.1,
        fill: 0.7,
    },
];

/// Business hours somewhere in the world: the later the zone, the later the peak.
fn day(peak_hour: usize, height: f64) -> impl Fn(usize) -> f64 {
    move |hour| {
        let distance = (hour + 24 - peak_hour) % 24;
        let distance = distance.min(24 - distance) as f64;
        1.0 + (height - 1.0) * (-(distance / 4.0).powi(2)).exp()
    }
}

fn demand(dice: &mut Dice, size: f64) -> Demand {
    let shape = day([8, 14, 20][dice.below(3)], 2.0 + 3.0 * dice.share());
    let hourly = |scale: f64| ResourceDemand {
        mean: Hourly::ByHour((0..24).map(|hour| size * scale * shape(hour)).collect()),
        deviation: Hourly::ByHour((0..24).map(|hour| 0.3 * size * scale * shape(hour)).collect()),
    };
    // Some are heavy on connections, some on data.
    let (connections, storage) = (dice.log_normal(0.5), dice.log_normal(0.8));
    let flat = ResourceDemand { mean: Hourly::Flat(size * 20.0 * storage), deviation: Hourly::Flat(0.0) };
    Demand { cpu: hourly(1.0), connections: hourly(10.0 * connections), storage: flat }
}

fn tenant(dice: &mut Dice, index: usize, shape: Shape) -> TenantEntry {
    let kind = dice.share();
    let size = if kind < shape.small {
        0.01
    } else if kind < shape.small + shape.mid {
        0.12
    } else {
        1.0
    } * dice.log_normal(0.6);
    TenantEntry {
        id: format!("t-{index:07}"),
        residency: if dice.chance(shape.eu_only) { "eu".into() } else { String::new() },
        spike_cluster: if dice.chance(0.2) { format!("s-{}", dice.below(8)) } else { String::new() },
        demand: demand(dice, size),
        ..TenantEntry::default()
    }
}

/// A fleet whose tenants are nowhere yet. Capacities follow from the demands: full to `fill` if spread evenly.
pub(crate) fn document(shape: Shape) -> FleetDocument {
    let mut dice = Dice(shape.seed);
    let tenants: Vec<TenantEntry> = (0..shape.tenants).map(|index| tenant(&mut dice, index, shape)).collect();
    let worst = |of: fn(&Demand) -> &ResourceDemand| {
        let mut hours = [0.0; 24];
        for tenant in &tenants {
            for (hour, total) in hours.iter_mut().enumerate() {
                *total += amount(&of(&tenant.demand).mean, hour);
            }
        }
        hours.into_iter().fold(0.0, f64::max) / (shape.cells as f64 * shape.fill)
    };
    let capacity = Amounts {
        cpu: worst(|demand| &demand.cpu),
        connections: worst(|demand| &demand.connections),
        storage: worst(|demand| &demand.storage),
    };
    let cell = |index: usize| {
        // Two fifths of the cells stand in the EU: who must be there finds room.
        let eu = index % 5 < 2;
        CellEntry {
            id: format!("c-{index:04}"),
            region: if eu { "eu-1" } else { "us-1" }.into(),
            residency: if eu { "eu" } else { "us" }.into(),
            capacity,
            ..CellEntry::default()
        }
    };
    FleetDocument {
        revision: Revision(1),
        cells: (0..shape.cells).map(cell).collect(),
        tenants,
        ..FleetDocument::default()
    }
}

pub(crate) fn amount(hourly: &Hourly, hour: usize) -> f64 {
    match hourly {
        Hourly::Flat(value) => *value,
        Hourly::ByHour(values) => values[hour],
    }
}

pub(crate) fn ring(fleet: &Fleet) -> HomeRing {
    HomeRing::build(fleet.cells().map(|cell| fleet.cell_id(cell).clone()), RingOptions::default()).unwrap()
}

/// How good an assignment is, by the planner's own model of cells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judged {
    pub(crate) hottest: f64,
    pub(crate) over_budget: usize,
    pub(crate) unplaced: usize,
}

pub(crate) fn judge(document: &FleetDocument, policy: Policy) -> Judged {
    let fleet = document.build().unwrap();
    let layout = Layout::new(&fleet, policy);
    let shares: Vec<f64> = fleet.cells().map(|cell| layout.peak_report(cell).share).collect();
    Judged {
        hottest: shares.iter().copied().fold(0.0, f64::max),
        over_budget: shares.iter().filter(|share| **share > 1.0).count(),
        unplaced: document.tenants.iter().filter(|tenant| tenant.cell.is_empty()).count(),
    }
}

/// Places everybody that is nowhere, in order.
pub(crate) fn place_all(document: &mut FleetDocument, policy: Policy) -> Vec<f64> {
    let fleet = document.build().unwrap();
    let ring = ring(&fleet);
    let mut layout = Layout::new(&fleet, policy);
    let mut micros = Vec::new();
    for tenant in fleet.tenants().filter(|&tenant| layout.home(tenant).is_none()).collect::<Vec<_>>() {
        let began = Instant::now();
        let decision = place(&layout, Some(&ring), tenant).unwrap();
        micros.push(began.elapsed().as_secs_f64() * 1e6);
        if let Some(chosen) = decision.chosen {
            layout.settle(tenant, fleet.find_cell(chosen.as_str()).unwrap());
            document.tenants[tenant.index()].cell = chosen.to_string();
        }
    }
    micros
}

/// Places everybody that is nowhere, together; gives the seconds that it took.
fn place_together(document: &mut FleetDocument, policy: Policy) -> f64 {
    let fleet = document.build().unwrap();
    let (ring, all) = (ring(&fleet), fleet.tenants().collect::<Vec<_>>());
    let room = Room { bounds: Bounds::default(), now: UnixMillis(0) };
    let began = Instant::now();
    let batch = cell_planner::place_all(&fleet, policy, Some(&ring), &all, &room, &mut || {}).unwrap();
    let seconds = began.elapsed().as_secs_f64();
    for decision in batch.decisions {
        let at = fleet.find_tenant(decision.tenant.as_str()).unwrap().index();
        document.tenants[at].cell = decision.chosen.map(|cell| cell.to_string()).unwrap_or_default();
    }
    seconds
}

/// Asks once more for those who found no cell when they came, as `plan place` does: who still finds none, and how many
/// others move for the rest.
fn make_room(document: &FleetDocument, policy: Policy) -> (usize, usize) {
    let fleet = document.build().unwrap();
    let left: Vec<_> = fleet.tenants().filter(|&tenant| fleet.home(tenant).is_none()).collect();
    let room = Room { bounds: Bounds::default(), now: UnixMillis(0) };
    let batch = cell_planner::place_all(&fleet, policy, Some(&ring(&fleet)), &left, &room, &mut || {}).unwrap();
    let none = batch.decisions.iter().filter(|decision| decision.chosen.is_none()).count();
    (none, batch.moves.len())
}

/// How many moves the next rebalancing by the same policy makes.
fn moves_then(document: &FleetDocument, policy: Policy) -> usize {
    let fleet = document.build().unwrap();
    let request = Request { goal: Goal::Rebalance, bounds: Bounds::default(), now: UnixMillis(0) };
    plan(&fleet, policy, Some(&ring(&fleet)), &request).unwrap().moves
}

pub(crate) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(at).copied().unwrap_or_default()
}

pub(crate) fn run(figures: &mut Figures) {
    let policy = Policy::default();
    for shape in SHAPES {
        let empty = document(shape);
        let mut placed = empty.clone();
        let mut micros = place_all(&mut placed, policy);
        let ours = judge(&placed, policy);
        let name = shape.name;
        let none = |what: &str, found: usize| {
            Figure::at_most(format!("{name}: {what}"), "", found as f64, Some(0.0), None)
        };
        figures.add(none("tenants without a cell", ours.unplaced));
        figures.add(none("cells over budget", ours.over_budget));
        let (left, moved) = make_room(&placed, policy);
        figures.add(none("tenants without a cell, once others make room", left));
        figures.add(Figure::free(format!("{name}: moves that make that room"), "", moved as f64));
        let mut together = empty.clone();
        let seconds = place_together(&mut together, policy);
        let batch = judge(&together, policy);
        figures.add(none("tenants without a cell, placed together", batch.unplaced));
        figures.add(none("cells over budget, placed together", batch.over_budget));
        figures.add(none("moves of the next rebalancing, placed together", moves_then(&together, policy)));
        figures.add(Figure::free(format!("{name}: place all together"), "s", seconds));
        let p99 = percentile(&mut micros, 0.99);
        figures.add(Figure::free(format!("{name}: place with explanation, p99"), "µs", p99));
        for (peer, assign) in peers::ALL {
            let mut theirs = empty.clone();
            assign(&mut theirs, shape.seed);
            let judged = judge(&theirs, policy);
            let measure = format!("{name}: fullest cell");
            figures.add(Figure::less_beside(measure, "", (ours.hottest, judged.hottest), peer, None));
            let over = (ours.over_budget as f64, judged.over_budget as f64);
            figures.add(Figure::less_beside(format!("{name}: cells over budget"), "", over, peer, None));
        }
    }
}
