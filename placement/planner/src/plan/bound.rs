//! A proven limit: no legal placement of a zone's tenants has a fullest cell below this.
//!
//! Three arguments, the largest of which counts. (1) In each dimension the cells' needs add up to at least the sum of
//! the means plus `risk` times a bound on the sum of the deviations, and the fullest cell is at least as full as the
//! average. (2) The same for the tenants of one legal zone, which only the cells of that legal zone may hold. (3) Each
//! tenant is on some cell, which is then at least as full as that tenant alone makes the largest one.
//!
//! The deviations: with `V` the sum of all variances and `V_c` those on one cell, `Σ √V_c ≥ √V` always. And in a
//! placement that is nowhere fuller than `t`, which is all that a placement better than one at `t` can be, no cell
//! holds more variance than `most`: its means are at most `t · budget`, and no tenant has more variance by mean than
//! the worst one. So `√V_c ≥ V_c / √most`, and `Σ √V_c ≥ V / √most`. Correlation only adds to either.

use std::collections::BTreeMap;

use cell_model::CellState;

use crate::demand::Profile;
use crate::fleet::{CellIx, Label, NONE};
use crate::layout::Layout;
use crate::resource::{ByDim, DIMS};
use crate::zone::Zones;

/// Sums over the tenants and cells of one zone, or of one legal zone within it.
struct Sums {
    mean: ByDim,
    variance: ByDim,
    /// The most variance by mean of any tenant.
    steepest: ByDim,
    budget: ByDim,
    largest: ByDim,
    /// The most that any tenant needs by itself.
    alone: ByDim,
}

impl Sums {
    const EMPTY: Self = Self {
        mean: [0.0; DIMS],
        variance: [0.0; DIMS],
        steepest: [0.0; DIMS],
        budget: [0.0; DIMS],
        largest: [0.0; DIMS],
        alone: [0.0; DIMS],
    };

    fn add_cell(&mut self, budget: &ByDim) {
        for (dim, &budget) in budget.iter().enumerate() {
            self.budget[dim] += budget;
            self.largest[dim] = self.largest[dim].max(budget);
        }
    }

    fn add_tenant(&mut self, profile: &Profile) {
        for dim in 0..DIMS {
            let (mean, deviation) = (profile.mean[dim], profile.deviation[dim]);
            let variance = deviation * deviation;
            self.mean[dim] += mean;
            self.variance[dim] += variance;
            // Nothing by nothing is no number, and no number is larger than any.
            self.steepest[dim] = larger(variance / mean, self.steepest[dim]);
        }
    }

    fn add_alone(&mut self, profile: &Profile, risk: f64) {
        for dim in 0..DIMS {
            self.alone[dim] = larger(profile.need(dim, risk), self.alone[dim]);
        }
    }

    /// At least so full is the fullest cell of a placement that is nowhere fuller than `most_full`.
    fn average(&self, risk: f64, most_full: f64) -> f64 {
        let share = |dim: usize| {
            let variance = self.variance[dim];
            let room = most_full * self.largest[dim];
            let most = (self.steepest[dim] * room).min((room / risk).powi(2));
            let spread = if most > 0.0 { (variance / most.sqrt()).max(variance.sqrt()) } else { variance.sqrt() };
            ratio(self.mean[dim] + risk * spread, self.budget[dim])
        };
        let alone = |dim: usize| ratio(self.alone[dim], self.largest[dim]);
        (0..DIMS).map(|dim| share(dim).max(alone(dim))).fold(0.0, f64::max)
    }
}

/// `max` without its care for what is no number, so that the compiler makes vector code of it.
#[inline]
fn larger(value: f64, than: f64) -> f64 {
    if value > than { value } else { than }
}

fn ratio(need: f64, budget: f64) -> f64 {
    if need > 0.0 && budget > 0.0 { need / budget } else { 0.0 }
}

/// What the bounds of all zones are made of. It does not change as tenants move.
pub(crate) struct Bound {
    /// By zone: all of it, and each of its legal zones.
    zones: Vec<Vec<Sums>>,
    risk: f64,
}

impl Bound {
    /// Adds up the tenants that are placed and the cells that may hold tenants.
    pub(crate) fn new(layout: &Layout<'_>, zones: &Zones, draining: &[bool]) -> Self {
        let fleet = layout.fleet();
        let risk = layout.policy().risk;
        let mut legal: Vec<BTreeMap<Label, Sums>> = zones.all.iter().map(|_| BTreeMap::new()).collect();
        for index in fleet.cells() {
            let of_zone = &mut legal[zones.of(index)];
            let cell = fleet.cell(index);
            for label in [NONE, cell.residency] {
                let sums = of_zone.entry(label).or_insert(Sums::EMPTY);
                if counts(layout, index, draining) && (label == NONE || cell.residency != NONE) {
                    sums.add_cell(&cell.budget.amounts);
                }
                if cell.residency == NONE {
                    break;
                }
            }
        }
        for index in fleet.tenants() {
            let Some(home) = layout.home(index) else { continue };
            let tenant = fleet.tenant(index);
            let of_zone = &mut legal[zones.of_tenant(tenant).unwrap_or(zones.of(home))];
            let profile = fleet.demand(index);
            let residency = tenant.residency;
            of_zone.get_mut(&NONE).expect("every zone has a cell").add_tenant(&profile);
            if residency != NONE
                && let Some(sums) = of_zone.get_mut(&residency)
            {
                sums.add_tenant(&profile);
            }
            let label = if of_zone.contains_key(&residency) { residency } else { NONE };
            of_zone.get_mut(&label).expect("just looked up").add_alone(&profile, risk);
        }
        Self { zones: legal.into_iter().map(|sums| sums.into_values().collect()).collect(), risk }
    }

    /// No legal placement in that zone has a fullest cell below this; `most_full` is how full one that is known makes
    /// its fullest cell.
    pub(crate) fn of_zone(&self, zone: usize, most_full: f64) -> f64 {
        let averages = self.zones[zone].iter().map(|sums| sums.average(self.risk, most_full));
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
