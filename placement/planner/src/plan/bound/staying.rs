//! What stays where it is: a sharper limit for plans that may make only so many moves.
//!
//! The limit without a cap lets variance be heaped up on cells that hold nothing but steep tenants. A plan of few moves
//! cannot clear such cells: it would have to move a thousand small tenants off each. So let tenants be *light* below
//! some mean and *heavy* above. A plan of `M` moves takes at most `M` light tenants off their cells, so the light ones
//! still take what they take now, less the means of the `M` largest of them; only the rest of each cell is room for the
//! heavy ones. Where those are is not limited at all, and the deviations of the light ones are not counted.
//!
//! Any border between light and heavy makes a limit, so the best of several counts. All of this is for a level: a plan
//! that is nowhere fuller than `t` is somewhere as full as `f(t)`. As `f` falls with `t`, no plan gets below the `t` at
//! which both are the same.
//!
//! It is asked in one dimension, the one with the highest limit without a cap: each takes a pass over all tenants.

use std::collections::BTreeMap;
use std::ops::Range;

use super::heaps::Steps;
use super::prices::Market;
use super::{Bound, Side, least_level};
use crate::layout::Layout;

/// How many borders between classes of size are tried.
const BORDERS_MAX: usize = 24;
/// Classes are made of the exponent and the first bits of what follows it: four of size to each doubling, and sixteen of
/// steepness.
const SIZE: u32 = 50;
const STEEPNESS: u32 = 48;

/// Variance by how steep it is, in classes: the most of it by mean, and how much there is.
type Steepness = BTreeMap<u64, (f64, f64)>;

/// Tenants with about the same mean in one dimension.
struct Class {
    count: usize,
    largest: f64,
    mean: f64,
    /// By cell, in the order of the zone.
    by_cell: Vec<f64>,
    /// Of those without a spike cluster, and of those with one.
    alone: Steepness,
    clustered: Steepness,
}

/// The tenants of a zone in one dimension, the smallest first.
struct Sizes {
    dim: usize,
    classes: Vec<Class>,
}

/// The room that is left beside light tenants, and the heavy ones that want it.
struct Split {
    /// By cell: its budget, and what light tenants take of it.
    cells: Vec<(f64, f64)>,
    /// What moves may take off all cells together.
    free: f64,
    alone: Steps,
    all: Steps,
}

impl Bound {
    /// No plan of so many moves makes the fullest cell of a zone less full than this; `most_full` is how full one that
    /// is known makes it. The layout is as it is before any move. 0 where tenants are on cells outside their zone.
    pub(crate) fn of_zone_after(&self, layout: &Layout<'_>, zone: usize, moves_max: u32, most_full: f64) -> f64 {
        let side = &self.zones[zone][0];
        if !self.sharp || !most_full.is_finite() || most_full <= 0.0 {
            return 0.0;
        }
        let averages = side.averages(self.risk, most_full).into_iter();
        let highest = averages.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        let Some(sizes) = highest.and_then(|(_, dim)| sizes(layout, zone, dim, side)) else { return 0.0 };
        let staying = self.least(side, &sizes, moves_max as usize, most_full);
        let market = Market::of(layout, sizes.dim, side, self.risk, most_full);
        let paid = market.map_or(0.0, |market| market.least(moves_max, most_full));
        staying.max(paid).min(most_full)
    }

    /// The limit of one dimension.
    fn least(&self, side: &Side, sizes: &Sizes, moves_max: usize, most_full: f64) -> f64 {
        let borders = sizes.borders();
        let mut best: Option<(f64, usize)> = None;
        for border in borders.clone().step_by(borders.len().div_ceil(BORDERS_MAX).max(1)) {
            let split = sizes.split(border, moves_max, side);
            let level = split.average(side, sizes.dim, self.risk, most_full, false);
            if best.is_none_or(|(most, _)| level > most) {
                best = Some((level, border));
            }
        }
        let Some((_, border)) = best else { return 0.0 };
        let split = sizes.split(border, moves_max, side);
        least_level(most_full, |level| split.average(side, sizes.dim, self.risk, level, true))
    }
}

impl Sizes {
    /// A border by how many classes are light: any number but all of them.
    const fn borders(&self) -> Range<usize> {
        0..self.classes.len()
    }

    fn split(&self, border: usize, moves_max: usize, side: &Side) -> Split {
        let (light, heavy) = self.classes.split_at(border);
        let mut cells: Vec<(f64, f64)> = side.room.budgets.iter().map(|budget| (budget[self.dim], 0.0)).collect();
        for class in light {
            cells.iter_mut().zip(&class.by_cell).for_each(|(cell, mean)| cell.1 += mean);
        }
        let (mut free, mut left) = (0.0, moves_max);
        for class in light.iter().rev() {
            // A few of a class: each of them as large as its largest.
            #[expect(clippy::cast_precision_loss, reason = "a number of moves")]
            let most = left as f64 * class.largest;
            free += if class.count <= left { class.mean } else { most };
            left = left.saturating_sub(class.count);
        }
        let steps = |of: fn(&Class) -> &Steepness| heavy.iter().flat_map(move |class| of(class).values().copied());
        let alone = || steps(|class| &class.alone);
        Split {
            cells,
            free,
            alone: Steps::new(alone()),
            all: Steps::new(alone().chain(steps(|class| &class.clustered))),
        }
    }
}

impl Split {
    /// How full cells are on average, at least, if none is fuller than `level`; infinite if that cannot be.
    fn average(&self, side: &Side, dim: usize, risk: f64, level: f64, sharp: bool) -> f64 {
        let mut rooms: Vec<f64> = self.cells.iter().map(|(budget, light)| level * budget - light).collect();
        let mut wholes: Vec<f64> = self.cells.iter().map(|(budget, _)| level * budget).collect();
        [&mut rooms, &mut wholes].into_iter().for_each(|of| of.sort_unstable_by(|a, b| b.total_cmp(a)));
        let (mut sums, mut room, mut whole) = (vec![0.0], self.free, 0.0);
        for (more, most) in rooms.iter().zip(&wholes) {
            (room, whole) = (room + more, whole + most);
            sums.push(room.min(whole));
        }
        // Light tenants that move stay in the zone, so all cells together have no more room than without moves.
        let light: f64 = self.cells.iter().map(|(_, light)| light).sum();
        if let Some(last) = sums.last_mut() {
            *last = last.min(whole - light);
        }
        for at in (1..sums.len()).rev() {
            sums[at - 1] = sums[at - 1].min(sums[at]);
        }
        if sums.last().is_none_or(|room| *room <= 0.0) {
            return if self.all.is_nothing() { 0.0 } else { f64::INFINITY };
        }
        let (alone, all) = (self.alone.least_roots(&sums, risk, sharp), self.all.least_roots(&sums, risk, sharp));
        if !alone.fits || !all.fits {
            return f64::INFINITY;
        }
        side.average_with(dim, risk, alone.sum, all.sum)
    }
}

/// Sorts the tenants of a zone in one dimension; nothing where some are outside of their zone, or in it and not of it.
fn sizes(layout: &Layout<'_>, zone: usize, dim: usize, side: &Side) -> Option<Sizes> {
    let fleet = layout.fleet();
    let zones = &fleet.standing().zones;
    let mut classes: BTreeMap<u64, Class> = BTreeMap::new();
    for (at, &cell) in side.room.cells.iter().enumerate() {
        let at_home = |tenant: &&_| layout.home(**tenant) == Some(cell);
        for &tenant in layout.members(cell).iter().filter(at_home) {
            let of = fleet.tenant(tenant);
            if zones.of_tenant(of).is_some_and(|of| of != zone) {
                return None;
            }
            let (mean, deviation) = fleet.demand_at(tenant, dim);
            let class = classes.entry(mean.to_bits() >> SIZE).or_insert_with(|| Class::new(side.room.cells.len()));
            class.add(at, mean, deviation * deviation, of.spike_cluster().is_some());
        }
    }
    let classes: Vec<Class> = classes.into_values().collect();
    let mean: f64 = classes.iter().map(|class| class.mean).sum();
    let is_all = (mean - side.totals.mean[dim]).abs() < 0.5;
    is_all.then_some(Sizes { dim, classes })
}

impl Class {
    fn new(cells: usize) -> Self {
        let (alone, clustered) = (Steepness::new(), Steepness::new());
        Self { count: 0, largest: 0.0, mean: 0.0, by_cell: vec![0.0; cells], alone, clustered }
    }

    fn add(&mut self, cell: usize, mean: f64, variance: f64, is_clustered: bool) {
        self.count += 1;
        self.largest = self.largest.max(mean);
        self.mean += mean;
        self.by_cell[cell] += mean;
        if variance > 0.0 {
            let steep = variance / mean;
            let of = if is_clustered { &mut self.clustered } else { &mut self.alone };
            let (steepest, sum) = of.entry(steep.to_bits() >> STEEPNESS).or_insert((0.0, 0.0));
            *steepest = steepest.max(steep);
            *sum += variance;
        }
    }
}
