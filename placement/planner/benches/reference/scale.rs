//! A million tenants on a thousand cells, three resources by the hour: how long a placement and a plan of a thousand
//! moves take, and how much memory all of it needs.

use std::time::Instant;

use cell_figures::{Figure, Figures};
use cell_model::{CellId, Revision, UnixMillis};
use cell_planner::{
    Amounts, Bounds, CellEntry, Fleet, FleetBuilder, Goal, HomeRing, Layout, Place, Policy, Request, TenantEntry,
    place, plan,
};

use crate::dice::Dice;
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
    figures.add(Figure::free(format!("{name}: fleet checked and packed"), "s", began.elapsed().as_secs_f64()));
    if let (Some(before), Some(after)) = (before, megabytes("VmRSS:")) {
        let measure = format!("{name}: memory of the fleet");
        figures.add(Figure::at_most(measure, "MB", after - before, Some(300.0), None));
    }
    let policy = Policy::default();
    let began = Instant::now();
    let mut layout = Layout::new(&fleet, policy);
    figures.add(Figure::free(format!("{name}: laid out"), "s", began.elapsed().as_secs_f64()));
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
    let (p50, p99) = (percentile(&mut micros, 0.5), percentile(&mut micros, 0.99));
    figures.add(Figure::free(format!("{name}: place with explanation, p50"), "µs", p50));
    let measure = format!("{name}: place with explanation, p99");
    figures.add(Figure::at_most(measure, "µs", p99, Some(200.0), Some(100.0)));
    drop(layout);
    drain(figures, &fleet, &ring, name);
    plans(figures, &fleet, &ring, name);
    match megabytes("VmHWM:") {
        Some(peak) => figures.add(Figure::at_most("the run so far: peak memory", "MB", peak, Some(600.0), None)),
        None => figures.leave_out("peak memory: this system does not tell it"),
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
    let measure = format!("{name}: drain of {moves} tenants planned");
    figures.add(Figure::at_most(measure, "ms", took, Some(100.0), None));
    let left = (planned.left.len() + planned.left_unlisted) as f64;
    figures.add(Figure::at_most(format!("{name}: tenants that the drain leaves"), "", left, Some(0.0), None));
    // Of cells that were filled by dice, none has much less than its part.
    let least = fleet.tenants().len() as f64 / fleet.cells().len() as f64 * 0.8;
    figures.add(Figure::at_least(format!("{name}: moves of the drain"), "", moves as f64, Some(least)));
}

/// A plan of a thousand moves as an operator asks for it, and one that evens cells out with one move for each hundred
/// tenants.
fn plans(figures: &mut Figures, fleet: &Fleet, ring: &HomeRing, name: &str) {
    // Among fewer tenants there may be fewer moves that make anything better.
    let moves_min = (fleet.tenants().len() >= 1_000_000).then_some(1_000.0);
    if moves_min.is_none() {
        figures.leave_out(format!("{name}: that the plan has 1,000 moves, because of --quick"));
    }
    let cooled = (Policy::default(), 1_000, moves_min, (2.0, 0.5));
    let one_per_cent = u32::try_from(fleet.tenants().len() / 100).unwrap();
    // Many of its tenants are a thousandth of a cell.
    let evened = (Policy { gain_min: 5e-4, ..Policy::default().even() }, one_per_cent, None, (10.0, 10.0));
    for (policy, moves_max, moves_min, (floor, goal)) in [cooled, evened] {
        let bounds = Bounds { moves_max, ..Bounds::default() };
        let request = Request { goal: Goal::Rebalance, bounds, now: UnixMillis(0) };
        let began = Instant::now();
        let planned = plan(fleet, policy, Some(ring), &request).unwrap();
        let took = began.elapsed().as_secs_f64();
        let (quality, moves) = (planned.quality, planned.moves);
        let measure = |what: &str| format!("{name}, {moves} moves: {what}");
        figures.add(Figure::at_most(measure("time of the plan"), "s", took, Some(floor), Some(goal)));
        // A plan of fewer is no answer to how long one of so many takes.
        figures.add(Figure::at_least(measure("moves"), "", moves as f64, moves_min));
        let others = [
            ("before", quality.hottest_before),
            ("lower bound", quality.lower_bound),
            ("bound of moves", quality.lower_bound_of_moves),
        ];
        for (peer, theirs) in others {
            let hottest = (quality.hottest_after, theirs);
            figures.add(Figure::less_beside(measure("fullest cell"), "", hottest, peer, None));
        }
        if moves_max == one_per_cent {
            let gap = quality.gap * 100.0;
            figures.add(Figure::at_most(
                measure("gap to the bound of any number of moves"),
                "%",
                gap,
                Some(2.0),
                None,
            ));
            let least = (quality.hottest_after / quality.lower_bound_of_moves - 1.0) * 100.0;
            figures.add(Figure::at_most(measure("gap to the bound of so many moves"), "%", least, Some(2.0), None));
        }
    }
}

/// Memory of this process by its name in `status`, now or at the most so far, in millions of bytes.
fn megabytes(name: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok()? * 1024.0 / 1e6)
}
