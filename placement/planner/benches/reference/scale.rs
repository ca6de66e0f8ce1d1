//! A million tenants on a thousand cells, three resources by the hour: how long a placement and a plan of a thousand
//! moves take, and how much memory all of it needs.

use std::time::Instant;

use cell_model::{CellId, Revision, UnixMillis};
use cell_planner::{
    Amounts, Bounds, CellEntry, Fleet, FleetBuilder, Goal, HomeRing, Layout, Place, Policy, Request, TenantEntry,
    place, plan,
};

use crate::dice::Dice;
use crate::figure::Figures;
use crate::fleets::{self, Shape, percentile, ring};

const PLACED: usize = 2_000;

/// The tenants are those of a smaller reference fleet, many times over: making them is not what is measured.
fn fleet(tenants: usize, cells: usize) -> Fleet {
    let shape =
        Shape { name: "", seed: 3, tenants: 10_000, cells: 10, small: 0.95, mid: 0.04, eu_only: 0.0, fill: 0.7 };
    let sample = fleets::document(shape);
    let capacity = sample.cells[0].capacity;
    let times = tenants as f64 / 10_000.0 * 10.0 / cells as f64;
    let capacity = Amounts {
        cpu: capacity.cpu * times,
        connections: capacity.connections * times,
        storage: capacity.storage * times,
    };
    let cell = |index| CellEntry { id: format!("c-{index:04}"), capacity, ..CellEntry::default() };
    let entries: Vec<CellEntry> = (0..cells).map(cell).collect();
    let mut builder =
        FleetBuilder::new(Revision(1), entries.iter().enumerate().map(|(at, cell)| (Place::Cell(at), cell)));
    let mut dice = Dice(11);
    for index in 0..tenants + PLACED {
        let nowhere = index >= tenants;
        let entry = TenantEntry {
            id: format!("t-{index:07}"),
            cell: if nowhere { String::new() } else { entries[dice.below(cells)].id.clone() },
            ..sample.tenants[index % sample.tenants.len()].clone()
        };
        builder.tenant(Place::Tenant(index), &entry);
    }
    builder.finish().unwrap()
}

pub(crate) fn run(figures: &mut Figures, quick: bool) {
    let (tenants, cells, name) =
        if quick { (100_000, 1_000, "100,000 × 1,000") } else { (1_000_000, 1_000, "1,000,000 × 1,000") };
    let before = megabytes("VmRSS:");
    let began = Instant::now();
    let fleet = fleet(tenants, cells);
    figures.ours(format!("{name}: fleet checked and packed"), "s", began.elapsed().as_secs_f64());
    if let (Some(before), Some(after)) = (before, megabytes("VmRSS:")) {
        figures.ours(format!("{name}: memory of the fleet"), "MB", after - before).floor = Some(300.0);
    }
    let policy = Policy::default();
    let began = Instant::now();
    let mut layout = Layout::new(&fleet, policy);
    figures.ours(format!("{name}: laid out"), "s", began.elapsed().as_secs_f64());
    let ring = ring(&fleet);
    let mut micros = Vec::with_capacity(PLACED);
    for tenant in fleet.tenants().skip(tenants) {
        let began = Instant::now();
        let decision = place(&layout, Some(&ring), tenant).unwrap();
        micros.push(began.elapsed().as_secs_f64() * 1e6);
        if let Some(cell) = decision.chosen {
            layout.settle(tenant, fleet.find_cell(cell.as_str()).unwrap());
        }
    }
    figures.ours(format!("{name}: place with explanation, p50"), "µs", percentile(&mut micros, 0.5));
    let p99 = figures.ours(format!("{name}: place with explanation, p99"), "µs", percentile(&mut micros, 0.99));
    (p99.floor, p99.goal) = (Some(200.0), Some(100.0));
    drop(layout);
    drain(figures, &fleet, &ring, name);
    plans(figures, &fleet, &ring, name);
    match megabytes("VmHWM:") {
        Some(peak) => figures.ours("the run so far: peak memory", "MB", peak).floor = Some(600.0),
        None => {
            figures.left_out.push("peak memory: this system does not tell it".into());
        }
    }
}

/// A cell is emptied: about a thousand tenants where there are a million on a thousand cells.
fn drain(figures: &mut Figures, fleet: &Fleet, ring: &HomeRing, name: &str) {
    let cells = vec![CellId::new("c-0007").unwrap()];
    let bounds = Bounds { moves_max: u32::MAX, ..Bounds::default() };
    let request = Request { goal: Goal::Drain { cells }, bounds, now: UnixMillis(0) };
    let began = Instant::now();
    let planned = plan(fleet, Policy::default(), Some(ring), &request).unwrap();
    let took = began.elapsed().as_secs_f64() * 1e3;
    let moves = planned.moves;
    figures.ours(format!("{name}: drain of {moves} tenants planned"), "ms", took).floor = Some(100.0);
    let left = planned.left.len() + planned.left_unlisted;
    figures.ours(format!("{name}: tenants that the drain leaves"), "", left as f64).floor = Some(0.0);
}

/// A plan of a thousand moves as an operator asks for it, and one that evens cells out with one move for each hundred
/// tenants.
fn plans(figures: &mut Figures, fleet: &Fleet, ring: &HomeRing, name: &str) {
    let cooled = (Policy::default(), 1_000, (2.0, 0.5));
    let one_per_cent = u32::try_from(fleet.tenants().len() / 100).unwrap();
    // Many of its tenants are a thousandth of a cell.
    let evened = (Policy { gain_min: 5e-4, ..Policy::default().even() }, one_per_cent, (10.0, 10.0));
    for (policy, moves_max, (floor, goal)) in [cooled, evened] {
        let bounds = Bounds { moves_max, ..Bounds::default() };
        let request = Request { goal: Goal::Rebalance, bounds, now: UnixMillis(0) };
        let began = Instant::now();
        let planned = plan(fleet, policy, Some(ring), &request).unwrap();
        let took = began.elapsed().as_secs_f64();
        let figure = figures.ours(format!("{name}: plan of {} moves", planned.moves), "s", took);
        (figure.floor, figure.goal) = (Some(floor), Some(goal));
        let quality = planned.quality;
        let measure = format!("{name}, {} moves: fullest cell", planned.moves);
        figures.beside(&*measure, "", quality.hottest_after, quality.hottest_before, "before");
        figures.beside(&*measure, "", quality.hottest_after, quality.lower_bound, "lower bound");
        figures.beside(&*measure, "", quality.hottest_after, quality.lower_bound_of_moves, "bound of moves");
        if moves_max == one_per_cent {
            let gap = figures.ours(
                format!("{name}, {} moves: gap to the bound", planned.moves),
                "%",
                quality.gap * 100.0,
            );
            gap.floor = Some(2.0);
            let least = (quality.hottest_after / quality.lower_bound_of_moves - 1.0) * 100.0;
            figures.ours(format!("{name}, {} moves: gap to the bound of moves", planned.moves), "%", least);
        }
    }
}

/// Memory of this process by its name in `status`, now or at the most so far, in millions of bytes.
fn megabytes(name: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok()? * 1024.0 / 1e6)
}
