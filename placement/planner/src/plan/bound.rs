//! A proven limit: no legal placement of a zone's tenants has a fullest cell below this.
//!
//! Three arguments, the largest of which counts. (1) In each dimension the cells' needs add up to at least the sum of
//! the means plus `risk` times a bound on the sum of the deviations, and the fullest cell is at least as full as the
//! average. (2) The same for the tenants of one legal zone, which only the cells of that legal zone may hold. (3) Each
//! tenant is on some cell, which is then at least as full as that tenant alone makes the largest one.
//!
//! The deviations. A cell's is the length of a vector: the root of its unclustered variance `V`, and the sum of
//! deviations of each spike cluster. Lengths add up to at least the length of the sum, so
//! `Σ need ≥ Σ mean + risk · √( (Σ √V)² + Σ over clusters (Σ deviation)² )`, and of `Σ √V` a least value is wanted.
//!
//! A root is concave: it is least where variance is heaped up. How far it can be, says a placement that is nowhere
//! fuller than `t`, which is all that a placement better than one at `t` can be: `mean + risk · √V ≤ t · budget`. Let
//! `mean_for(V)` be the least mean of any tenants whose variance adds up to `V`: those with the most variance for their
//! mean come first, so it is convex. No cell has more than `V₁` with `mean_for(V₁) + risk · √V₁ = t · budget`; so `k`
//! cells have at most the `V_k` with `mean_for(V_k) + risk · V_k / √V₁ = k · t · budget`, and their differences fall.
//! Whatever the placement, its variances, largest first, add up to no more than these at any `k`: so
//! `Σ √V ≥ Σ √(V_k − V_{k−1})` (Karamata).

mod departures;

use cell_model::CellState;

pub(crate) use departures::least_after;

use crate::fleet::{CellIx, Label, NONE, Totals};
use crate::layout::Layout;
use crate::resource::{ByDim, DIMS, HOURS};

/// The cells of a zone, or of a legal zone within it, that may hold tenants.
#[derive(Clone)]
struct Room {
    budget: ByDim,
    largest: ByDim,
    cells: usize,
}

impl Room {
    const NONE: Self = Self { budget: [0.0; DIMS], largest: [0.0; DIMS], cells: 0 };

    fn add(&mut self, budget: &ByDim) {
        for (dim, &budget) in budget.iter().enumerate() {
            self.budget[dim] += budget;
            self.largest[dim] = self.largest[dim].max(budget);
        }
        self.cells += 1;
    }
}

/// Tenants and the cells that may hold them.
struct Side {
    totals: Totals,
    room: Room,
}

impl Side {
    /// At least so full is the fullest cell of a placement that is nowhere fuller than `most_full`.
    fn average(&self, risk: f64, most_full: f64) -> f64 {
        let Self { totals, room } = self;
        let of = |dim: usize| {
            let together = totals.clusters.values().map(|sums| sums[dim] * sums[dim]).sum::<f64>();
            let apart = roots(totals, dim, risk, most_full * room.largest[dim], room.cells);
            let need = totals.mean[dim] + risk * (apart * apart + together).sqrt();
            let (mean, deviation) = totals.largest[dim];
            ratio(need, room.budget[dim]).max(ratio(mean + risk * deviation, room.largest[dim]))
        };
        (0..DIMS).map(of).fold(0.0, f64::max)
    }
}

/// The least that the roots of the cells' unclustered variances can add up to, where none needs more than `most`.
fn roots(totals: &Totals, dim: usize, risk: f64, most: f64, cells: usize) -> f64 {
    let hour = dim % HOURS;
    let steps = totals.steeps[dim / HOURS].values();
    let mut steps: Vec<(f64, f64)> = steps.map(|of| (of.steepest[hour], of.variance[hour])).collect();
    steps.retain(|&(_, variance)| variance > 0.0);
    steps.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let all: f64 = steps.iter().map(|(_, variance)| variance).sum();
    if risk <= 0.0 || all <= 0.0 {
        return 0.0;
    }
    let need = |variance: f64| mean_for(&steps, variance) + risk * variance.sqrt();
    if most <= 0.0 || need(all) <= most {
        return all.sqrt();
    }
    let (mut low, mut high) = (0.0, all);
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if need(middle) <= most { low = middle } else { high = middle }
    }
    // A little more than is possible makes the bound a little lower: it holds.
    let each = risk / high.sqrt();
    let mut sum = 0.0;
    let mut at = 0;
    for _ in 0..cells {
        let (mut left, mut heap) = (most, 0.0);
        while let Some((steepest, variance)) = steps.get_mut(at) {
            let price = 1.0 / *steepest + each;
            let taken = (left / price).min(*variance);
            heap += taken;
            left -= taken * price;
            *variance -= taken;
            if *variance > 0.0 {
                break;
            }
            at += 1;
        }
        sum += heap.sqrt();
        if at == steps.len() {
            break;
        }
    }
    sum
}

/// The least mean that so much variance comes with.
fn mean_for(steps: &[(f64, f64)], variance: f64) -> f64 {
    let (mut left, mut mean) = (variance, 0.0);
    for &(steepest, variance) in steps {
        let taken = variance.min(left);
        mean += taken / steepest;
        left -= taken;
        if left <= 0.0 {
            break;
        }
    }
    mean
}

fn ratio(need: f64, budget: f64) -> f64 {
    if need > 0.0 && budget > 0.0 { need / budget } else { 0.0 }
}

/// What the bounds of all zones are made of. It does not change as tenants move.
pub(crate) struct Bound {
    /// By zone: all of it, and each of its legal zones.
    zones: Vec<Vec<Side>>,
    risk: f64,
}

impl Bound {
    /// Of the tenants that are placed and the cells that may hold tenants.
    pub(crate) fn new(layout: &Layout<'_>, draining: &[bool]) -> Self {
        let fleet = layout.fleet();
        let standing = fleet.standing();
        let room = |zone: usize, label: Label| {
            let cells = standing.zones.all[zone].cells.iter().copied();
            let cells = cells.filter(|&cell| label == NONE || fleet.cell(cell).residency == label);
            let mut room = Room::NONE;
            for cell in cells.filter(|&cell| counts(layout, cell, draining)) {
                room.add(&fleet.cell(cell).budget.amounts);
            }
            room
        };
        let sides = |zone: usize| {
            let totals = &standing.totals[zone];
            let mut all = Totals::new();
            totals.values().for_each(|of| all.merge(of));
            let legal = totals.iter().filter(|(label, _)| **label != NONE);
            let legal = legal.map(|(&label, of)| Side { totals: of.clone(), room: room(zone, label) });
            std::iter::once(Side { totals: all, room: room(zone, NONE) }).chain(legal).collect()
        };
        Self { zones: (0..standing.zones.all.len()).map(sides).collect(), risk: layout.policy().risk }
    }

    /// No legal placement in that zone has a fullest cell below this; `most_full` is how full one that is known makes
    /// its fullest cell.
    pub(crate) fn of_zone(&self, zone: usize, most_full: f64) -> f64 {
        let averages = self.zones[zone].iter().map(|side| side.average(self.risk, most_full));
        averages.fold(0.0, f64::max).min(most_full)
    }
}

/// A cell that holds nobody and may not take anybody gives no room.
fn counts(layout: &Layout<'_>, cell: CellIx, draining: &[bool]) -> bool {
    let closed = draining.get(cell.index()).copied().unwrap_or(false);
    (layout.fleet().cell(cell).state == CellState::Active && !closed) || !layout.members(cell).is_empty()
}

/// How full the fullest of some cells is.
pub(crate) fn hottest(layout: &Layout<'_>, cells: impl IntoIterator<Item = CellIx>) -> f64 {
    cells.into_iter().map(|cell| layout.peak(cell).share).fold(0.0, f64::max)
}
