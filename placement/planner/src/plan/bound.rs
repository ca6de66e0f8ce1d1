//! A proven limit: no placement that keeps to residency has a fullest cell below this.
//!
//! Three arguments, the largest of which counts. (1) In each dimension the cells' needs add up to at least the sum of
//! the means plus `risk` times the root of the sum of all variances (a sum of roots is at least the root of the sum,
//! and correlation only adds), and the fullest of them is at least the average. (2) The same for the tenants of one
//! legal zone, which only the cells of that zone may hold. (3) Each tenant is on some cell of its zone, which is then
//! at least as full as that tenant alone makes the largest one.

use cell_model::CellState;

use crate::demand::Profile;
use crate::fleet::{CellIx, Fleet, NONE, Tenant};
use crate::layout::Layout;
use crate::resource::{ByDim, DIMS};

/// How full the fullest cell is.
pub(super) fn hottest(layout: &Layout<'_>) -> f64 {
    layout.fleet().cells().map(|cell| layout.peak(cell).share).fold(0.0, f64::max)
}

/// Sums over one zone.
struct Zone {
    mean: ByDim,
    variance: ByDim,
    budget: ByDim,
    largest: ByDim,
}

impl Zone {
    const EMPTY: Self =
        Self { mean: [0.0; DIMS], variance: [0.0; DIMS], budget: [0.0; DIMS], largest: [0.0; DIMS] };

    fn add_cell(&mut self, budget: &ByDim) {
        for (dim, &budget) in budget.iter().enumerate() {
            self.budget[dim] += budget;
            self.largest[dim] = self.largest[dim].max(budget);
        }
    }

    fn add_tenant(&mut self, profile: &Profile) {
        for dim in 0..DIMS {
            self.mean[dim] += profile.mean[dim];
            self.variance[dim] += profile.deviation[dim] * profile.deviation[dim];
        }
    }

    fn average(&self, risk: f64) -> f64 {
        let need = |dim: usize| self.mean[dim] + risk * self.variance[dim].sqrt();
        (0..DIMS).map(|dim| ratio(need(dim), self.budget[dim])).fold(0.0, f64::max)
    }
}

fn ratio(need: f64, budget: f64) -> f64 {
    if need > 0.0 && budget > 0.0 { need / budget } else { 0.0 }
}

/// The bound for the tenants that are placed, over the cells that may hold tenants.
pub(super) fn lower_bound(layout: &Layout<'_>) -> f64 {
    let fleet = layout.fleet();
    let risk = layout.policy().risk;
    // One zone for each residency, and the last one for everything.
    let everything = fleet.residency_count();
    let mut zones: Vec<Zone> = (0..=everything).map(|_| Zone::EMPTY).collect();
    for index in fleet.cells().filter(|&cell| counts(layout, cell)) {
        let cell = fleet.cell(index);
        zones[everything].add_cell(&cell.budget);
        if cell.residency != NONE {
            zones[cell.residency as usize].add_cell(&cell.budget);
        }
    }
    let mut alone: f64 = 0.0;
    for index in fleet.tenants().filter(|&tenant| layout.home(tenant).is_some()) {
        let tenant = fleet.tenant(index);
        let profile = fleet.demand(index);
        zones[everything].add_tenant(&profile);
        let zone = zone_of(fleet, tenant);
        if zone != everything {
            zones[zone].add_tenant(&profile);
        }
        for dim in 0..DIMS {
            alone = alone.max(ratio(profile.need(dim, risk), zones[zone].largest[dim]));
        }
    }
    zones.iter().map(|zone| zone.average(risk)).fold(alone, f64::max)
}

fn zone_of(fleet: &Fleet, tenant: &Tenant) -> usize {
    if tenant.residency == NONE { fleet.residency_count() } else { tenant.residency as usize }
}

/// A cell that holds nobody and may not take anybody gives no room.
fn counts(layout: &Layout<'_>, cell: CellIx) -> bool {
    layout.fleet().cell(cell).state == CellState::Active || !layout.members(cell).is_empty()
}
