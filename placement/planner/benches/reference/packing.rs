//! Perfect packings: K full cells are cut into tenants at random, so that K cells are known to be enough. How many
//! does the planner need? Peer: first fit decreasing by the largest share, the usual rule.

use std::time::Instant;

use cell_figures::{Figure, Figures};
use cell_model::Revision;
use cell_planner::{Amounts, CellEntry, Demand, FleetDocument, Hourly, Policy, ResourceDemand, TenantEntry, pack};

use crate::dice::Dice;

const CAPACITY: usize = 100_000;
/// How long a search goes on for each cell that it tries to dissolve.
const EFFORT: u32 = 200_000;

/// Sizes of the pieces of `cells` full cells, in three resources, in random order.
fn pieces(cells: usize, dice: &mut Dice) -> Vec<[usize; 3]> {
    let mut pieces = Vec::new();
    for _ in 0..cells {
        let count = 4 + dice.below(9);
        let begin = pieces.len();
        pieces.resize(begin + count, [0; 3]);
        for resource in 0..3 {
            let mut cuts: Vec<usize> = (1..count).map(|_| dice.below(CAPACITY + 1)).collect();
            cuts.extend([0, CAPACITY]);
            cuts.sort_unstable();
            for (piece, cut) in pieces[begin..].iter_mut().zip(cuts.windows(2)) {
                piece[resource] = cut[1] - cut[0];
            }
        }
    }
    for at in (1..pieces.len()).rev() {
        pieces.swap(at, dice.below(at + 1));
    }
    // The largest first: the same order for everybody.
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.iter().max().copied()));
    pieces
}

fn document(pieces: &[[usize; 3]], cells: usize) -> FleetDocument {
    let unit = CAPACITY as f64 / 1_000.0;
    let amount = |thousandths: usize| thousandths as f64 / 1_000.0;
    let capacity = Amounts { cpu: unit, connections: unit, storage: unit };
    let cell = |index| CellEntry { id: format!("c-{index:04}"), capacity, ..CellEntry::default() };
    let tenant = |(index, piece): (usize, &[usize; 3])| {
        let [cpu, connections, storage] =
            piece.map(|size| ResourceDemand { mean: Hourly::Flat(amount(size)), deviation: Hourly::Flat(0.0) });
        let demand = Demand { cpu, connections, storage };
        TenantEntry { id: format!("t-{index:05}"), demand, ..TenantEntry::default() }
    };
    FleetDocument {
        revision: Revision(1),
        cells: (0..cells).map(cell).collect(),
        tenants: pieces.iter().enumerate().map(tenant).collect(),
        ..FleetDocument::default()
    }
}

/// How many cells the planner needs. The effort is what it takes to search for a minute at the most.
fn packed(pieces: &[[usize; 3]], cells: usize) -> usize {
    let fleet = document(pieces, cells).build().unwrap();
    let zones = pack(&fleet, Policy::default(), EFFORT).unwrap();
    zones.iter().map(|zone| zone.cells_packed).sum()
}

fn first_fit(pieces: &[[usize; 3]]) -> usize {
    let mut cells: Vec<[usize; 3]> = Vec::new();
    for piece in pieces {
        let takes = |cell: &[usize; 3]| (0..3).all(|at| cell[at] + piece[at] <= CAPACITY);
        let at = cells.iter().position(takes).unwrap_or_else(|| {
            cells.push([0; 3]);
            cells.len() - 1
        });
        (0..3).for_each(|resource| cells[at][resource] += piece[resource]);
    }
    cells.len()
}

pub(crate) fn run(figures: &mut Figures) {
    for (cells, floor, goal) in [(20, None, 10.0), (50, None, 5.0), (100, Some(2.0), 2.0), (200, None, 1.0)] {
        let pieces = pieces(cells, &mut Dice(cells as u64));
        let began = Instant::now();
        let ours = packed(&pieces, cells);
        let took = began.elapsed().as_secs_f64();
        let gap = |count: usize| (count as f64 / cells as f64 - 1.0) * 100.0;
        let measure = |what: &str| format!("perfect packing, {cells} cells, {} tenants: {what}", pieces.len());
        figures.add(Figure::at_most(measure("gap"), "%", gap(ours), floor, Some(goal)));
        let gaps = (gap(ours), gap(first_fit(&pieces)));
        figures.add(Figure::less_beside(measure("gap"), "%", gaps, "first fit decreasing", None));
        figures.add(Figure::free(measure("time"), "s", took));
    }
}
