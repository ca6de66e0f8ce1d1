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
//! fuller than `t`, which is all that a placement better than one at `t` can be: `mean + risk · √V ≤ t · budget`. What
//! follows from that is in `heaps.rs`. Or the clusters are forgotten, which makes deviations less as well: a sum of
//! deviations is at least as long as a vector of them. Of both the larger one counts.
//!
//! Two more limits are for plans that may make only so many moves: `departures.rs` counts who has to leave, and
//! `staying.rs` what stays and takes the room of others.

mod departures;
mod heaps;
mod prices;
mod staying;

use std::collections::BTreeMap;

use cell_model::CellState;

pub(crate) use departures::least_after;
use heaps::Steps;

use crate::fleet::{CellIx, Label, NONE, Steep, Totals};
use crate::layout::Layout;
use crate::resource::{ByDim, DIMS, HOURS, RESOURCES};

/// Steps of the search for the level below which no placement is.
const BISECTIONS: usize = 6;
/// In how many dimensions variance is heaped up with care: those in which the bound is the highest without it.
const SHARP_MAX: usize = 4;

/// The cells of a zone, or of a legal zone within it, that may hold tenants.
#[derive(Clone)]
struct Room {
    budget: ByDim,
    largest: ByDim,
    cells: Vec<CellIx>,
    budgets: Vec<ByDim>,
}

impl Room {
    const NONE: Self = Self { budget: [0.0; DIMS], largest: [0.0; DIMS], cells: Vec::new(), budgets: Vec::new() };

    fn add(&mut self, cell: CellIx, budget: &ByDim) {
        for (dim, &budget) in budget.iter().enumerate() {
            self.budget[dim] += budget;
            self.largest[dim] = self.largest[dim].max(budget);
        }
        self.cells.push(cell);
        self.budgets.push(*budget);
    }
}

/// Tenants and the cells that may hold them.
struct Side {
    totals: Totals,
    room: Room,
}

impl Side {
    /// At least so full is the fullest cell of a placement that is nowhere fuller than `most_full`.
    fn average(&self, risk: f64, most_full: f64, sharp: bool) -> f64 {
        let mut averages = self.averages(risk, most_full);
        if sharp {
            averages.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let with_care = |of: &(f64, usize)| self.average_at(of.1, risk, most_full, true).max(of.0);
            return averages.iter().take(SHARP_MAX).map(with_care).fold(0.0, f64::max);
        }
        averages.into_iter().map(|(average, _)| average).fold(0.0, f64::max)
    }

    /// The same in each dimension, without care.
    fn averages(&self, risk: f64, most_full: f64) -> Vec<(f64, usize)> {
        (0..DIMS).map(|dim| (self.average_at(dim, risk, most_full, false), dim)).collect()
    }

    fn average_at(&self, dim: usize, risk: f64, most_full: f64, sharp: bool) -> f64 {
        let Self { totals, room } = self;
        let each = most_full * room.largest[dim];
        #[expect(clippy::cast_precision_loss, reason = "the builder bounds the cells")]
        let rooms: Vec<f64> = (0..=room.cells.len()).map(|cells| cells as f64 * each).collect();
        let alone = Steps::new(steps(&totals.steeps, dim));
        let all = Steps::new(steps(&totals.steeps, dim).chain(steps(&totals.clustered, dim)));
        let roots = |steps: &Steps| steps.least_roots(&rooms, risk, sharp).sum;
        let (mean, deviation) = totals.largest[dim];
        let largest = ratio(mean + risk * deviation, room.largest[dim]);
        self.average_with(dim, risk, roots(&alone), roots(&all)).max(largest)
    }

    /// By what the roots of the variances add up to at least: of those without a spike cluster, and of all of them where
    /// clusters are forgotten.
    fn average_with(&self, dim: usize, risk: f64, alone: f64, all: f64) -> f64 {
        let Self { totals, room } = self;
        let together = totals.clusters.values().map(|sums| sums[dim] * sums[dim]).sum::<f64>();
        let length = (alone * alone + together).sqrt().max(all);
        ratio(totals.mean[dim] + risk * length, room.budget[dim])
    }
}

/// How steep variance is in one dimension, and how much there is of it.
fn steps<'s>(of: &'s [BTreeMap<u64, Steep>; RESOURCES], dim: usize) -> impl Iterator<Item = (f64, f64)> + use<'s> {
    of[dim / HOURS].values().map(move |of| (of.steepest[dim % HOURS], of.variance[dim % HOURS]))
}

fn ratio(need: f64, budget: f64) -> f64 {
    if need > 0.0 && budget > 0.0 { need / budget } else { 0.0 }
}

/// What the bounds of all zones are made of. It does not change as tenants move.
pub(crate) struct Bound {
    /// By zone: all of it, and each of its legal zones.
    zones: Vec<Vec<Side>>,
    risk: f64,
    /// With care, which takes some ten milliseconds.
    sharp: bool,
}

impl Bound {
    /// Of the tenants that are placed and the cells that may hold tenants. `sharp`: for plans that even out, whose
    /// distance to the bound says how good they are.
    pub(crate) fn new(layout: &Layout<'_>, draining: &[bool], sharp: bool) -> Self {
        let fleet = layout.fleet();
        let standing = fleet.standing();
        let room = |zone: usize, label: Label| {
            let cells = standing.zones.all[zone].cells.iter().copied();
            let cells = cells.filter(|&cell| label == NONE || fleet.cell(cell).residency == label);
            let mut room = Room::NONE;
            for cell in cells.filter(|&cell| counts(layout, cell, draining)) {
                room.add(cell, &fleet.cell(cell).budget.amounts);
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
        Self { zones: (0..standing.zones.all.len()).map(sides).collect(), risk: layout.policy().risk, sharp }
    }

    /// No legal placement in that zone has a fullest cell below this; `most_full` is how full one that is known makes
    /// its fullest cell.
    pub(crate) fn of_zone(&self, zone: usize, most_full: f64) -> f64 {
        if !self.sharp || !most_full.is_finite() {
            return self.floor_of_zone(zone, most_full);
        }
        let sides = &self.zones[zone];
        least_level(most_full, |level| {
            sides.iter().map(|side| side.average(self.risk, level, true)).fold(0.0, f64::max)
        })
    }

    /// The same in less time, and a little lower.
    pub(crate) fn floor_of_zone(&self, zone: usize, most_full: f64) -> f64 {
        let averages = self.zones[zone].iter().map(|side| side.average(self.risk, most_full, false));
        averages.fold(0.0, f64::max).min(most_full)
    }
}

/// A placement that is nowhere fuller than a level is somewhere as full as `average` of it, which falls with the level:
/// so no placement is below the level at which both are the same. What is found is a little lower.
fn least_level(most_full: f64, average: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (average(most_full).min(most_full), most_full);
    for _ in 0..BISECTIONS {
        let level = f64::midpoint(low, high);
        let average = average(level);
        if average >= level {
            low = level;
        } else {
            (low, high) = (low.max(average), level);
        }
    }
    low
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
