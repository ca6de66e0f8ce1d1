//! One day of a simulation.

use cell_model::{CellState, UnixMillis};

use super::{DAY_MS, DayReport, DayUsage, Simulation, Usage};
use crate::demand::Profile;
use crate::fleet::{CellIx, Fleet, TenantIx};
use crate::layout::rounded;
use crate::plan::{Plan, arrange};
use crate::resource::{ByDim, DIMS, Dim, HOURS, RESOURCES, Resource, SCALE};
use crate::ring::HomeRing;

/// Never moved.
const NEVER: u32 = u32::MAX;

/// A fleet on its way through days.
pub(super) struct Run<'s> {
    fleet: Fleet,
    simulation: &'s Simulation,
    /// By tenant: the day of its last move.
    moved: Vec<u32>,
    /// Tenants that came and found no cell.
    waiting: Vec<TenantIx>,
}

/// What really happens to the cells on one day.
struct Cells {
    used: Vec<ByDim>,
    expected: Vec<ByDim>,
    tenants: Vec<u32>,
    /// Of cores: the sum of tenants' own peaks, and all of them hour by hour.
    peaks: f64,
    together: [f64; HOURS],
}

impl<'s> Run<'s> {
    pub(super) fn new(fleet: Fleet, simulation: &'s Simulation) -> Self {
        let moved = vec![NEVER; fleet.tenants().len()];
        Self { fleet, simulation, moved, waiting: Vec::new() }
    }

    pub(super) const fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Takes off who leaves and places who arrives.
    pub(super) fn change_tenants(&mut self, day: u32, usage: &impl Usage, ring: Option<&HomeRing>) -> DayReport {
        let mut left = 0;
        let mut coming = std::mem::take(&mut self.waiting);
        for tenant in self.fleet.tenants() {
            if usage.leaves(tenant) == Some(day) {
                left += usize::from(self.fleet.tenant(tenant).cell().is_some());
                self.fleet.set_home(tenant, None);
                coming.retain(|&of| of != tenant);
            } else if usage.arrives(tenant) == day && self.fleet.tenant(tenant).cell().is_none() {
                coming.push(tenant);
            } else if day == 0 && usage.arrives(tenant) > 0 {
                self.fleet.set_home(tenant, None);
            }
        }
        let placed = if coming.is_empty() {
            Vec::new()
        } else {
            arrange(&self.fleet, self.simulation.policy, ring, &coming, None).homes
        };
        let homes = placed.iter().filter(|(_, cell)| cell.is_some()).count();
        for (tenant, cell) in placed {
            match cell {
                Some(_) => self.fleet.set_home(tenant, cell),
                None => self.waiting.push(tenant),
            }
        }
        DayReport {
            day,
            tenants: self.fleet.tenants().filter(|&tenant| self.fleet.tenant(tenant).cell().is_some()).count(),
            placed: homes,
            waiting: self.waiting.len(),
            left,
            verdict: None,
            why: String::new(),
            moves: 0,
            moved_again: 0,
            bytes: 0,
            seconds: 0,
            hottest_expected: 0.0,
            hottest: 0.0,
            hottest_at: None,
            hours_over_budget: 0,
            hours_over_capacity: 0,
            tenant_hours_over_capacity: 0,
            fill: 0.0,
            density: 0.0,
            forecast_error: 0.0,
            stacking: 0.0,
        }
    }

    /// Carries out a plan.
    pub(super) fn follow(&mut self, day: u32, plan: &Plan, report: &mut DayReport) {
        let until = UnixMillis((u64::from(day) + u64::from(self.simulation.cooldown_days)) * DAY_MS);
        for planned in plan.waves.iter().flat_map(|wave| &wave.moves) {
            let tenant =
                self.fleet.find_tenant(planned.tenant.as_str()).expect("a plan names tenants of its fleet");
            let target = self.fleet.find_cell(planned.target.as_str());
            self.fleet.set_home(tenant, target);
            self.fleet.set_cooldown(tenant, until);
            let last = std::mem::replace(&mut self.moved[tenant.index()], day);
            report.moved_again += usize::from(last != NEVER && day - last <= 1);
        }
        report.verdict = Some(plan.verdict);
        report.why.clone_from(&plan.why);
        report.moves = plan.moves;
        report.bytes = plan.bytes;
        report.seconds = plan.seconds;
        report.hottest_expected = plan.quality.hottest_after;
    }

    /// Lets the day happen, and learns from it.
    pub(super) fn happen(&mut self, day: u32, usage: &impl Usage, report: &mut DayReport) {
        let count = self.fleet.cells().len();
        let mut cells = Cells {
            used: vec![[0.0; DIMS]; count],
            expected: vec![[0.0; DIMS]; count],
            tenants: vec![0; count],
            peaks: 0.0,
            together: [0.0; HOURS],
        };
        let homes: Vec<Option<CellIx>> =
            self.fleet.tenants().map(|tenant| self.fleet.tenant(tenant).cell()).collect();
        let smoothing = self.simulation.forecast.smoothing;
        let mut today = DayUsage::default();
        self.fleet.change_demands(|tenant, profile| {
            let Some(home) = homes[tenant.index()] else { return };
            today.clear();
            usage.day(day, tenant, &mut today);
            let used = today.thousandths();
            cells.add(home, &used, profile);
            learn(profile, &used, smoothing);
        });
        cells.judge(&self.fleet, report);
    }
}

/// Moves mean and deviation towards what has been seen.
fn learn(profile: &mut Profile, used: &ByDim, smoothing: f64) {
    for dim in 0..DIMS {
        let off = used[dim] - profile.mean[dim];
        let variance = profile.deviation[dim] * profile.deviation[dim];
        profile.mean[dim] += smoothing * off;
        profile.deviation[dim] = ((1.0 - smoothing) * (variance + smoothing * off * off)).sqrt();
    }
}

impl Cells {
    fn add(&mut self, cell: CellIx, used: &ByDim, profile: &Profile) {
        let at = cell.index();
        self.tenants[at] += 1;
        self.used[at].iter_mut().zip(used).for_each(|(sum, used)| *sum += used);
        self.expected[at].iter_mut().zip(&profile.mean).for_each(|(sum, mean)| *sum += mean);
        self.peaks += used[..HOURS].iter().copied().fold(0.0, f64::max);
        self.together.iter_mut().zip(used).for_each(|(sum, used)| *sum += used);
    }

    fn judge(&self, fleet: &Fleet, report: &mut DayReport) {
        for cell in fleet.cells().filter(|&cell| fleet.cell(cell).state != CellState::Dead) {
            self.judge_cell(fleet, cell, report);
        }
        report.hottest = rounded(report.hottest);
        report.fill = rounded(self.fill(fleet));
        report.density = rounded(self.density());
        report.forecast_error = rounded(self.forecast_error());
        let most = self.together.iter().copied().fold(0.0, f64::max);
        report.stacking = rounded(if most > 0.0 { self.peaks / most } else { 0.0 });
    }

    fn judge_cell(&self, fleet: &Fleet, cell: CellIx, report: &mut DayReport) {
        let used = &self.used[cell.index()];
        let budget = &fleet.cell(cell).budget;
        let (mut eaten, mut violated) = ([false; HOURS], [false; HOURS]);
        for (dim, &used) in used.iter().enumerate() {
            let share = budget.share(dim, used);
            if share > report.hottest {
                report.hottest = share;
                report.hottest_at = Some((fleet.cell_id(cell).clone(), Dim::at(dim)));
            }
            eaten[dim % HOURS] |= share > 1.0;
            violated[dim % HOURS] |= used > fleet.capacity(cell).of(Dim::at(dim).resource) * SCALE;
        }
        let count = |hours: &[bool]| hours.iter().map(|&hour| u32::from(hour)).sum::<u32>();
        report.hours_over_budget += count(&eaten);
        report.hours_over_capacity += count(&violated);
        let tenants = u64::from(self.tenants[cell.index()]);
        report.tenant_hours_over_capacity += u64::from(count(&violated)) * tenants;
    }

    fn fill(&self, fleet: &Fleet) -> f64 {
        let open = || fleet.cells().filter(|&cell| fleet.cell(cell).state != CellState::Dead);
        let share = |dim: usize| {
            let used: f64 = open().map(|cell| self.used[cell.index()][dim]).sum();
            let there: f64 = open().map(|cell| fleet.capacity(cell).of(Dim::at(dim).resource) * SCALE).sum();
            if there > 0.0 { used / there } else { 0.0 }
        };
        (0..DIMS).map(share).fold(0.0, f64::max)
    }

    fn density(&self) -> f64 {
        let all: u32 = self.tenants.iter().sum();
        let cells = self.tenants.iter().filter(|&&tenants| tenants > 0).count();
        f64::from(all) / f64::from(u32::try_from(cells.max(1)).unwrap_or(u32::MAX))
    }

    /// Resource by resource, so that their units do not mix; then their mean.
    fn forecast_error(&self) -> f64 {
        let of = |resource: Resource| {
            let dims = resource.first_dim()..resource.first_dim() + HOURS;
            let (mut off, mut all) = (0.0, 0.0);
            for (used, expected) in self.used.iter().zip(&self.expected) {
                for dim in dims.clone() {
                    off += (used[dim] - expected[dim]).abs();
                    all += used[dim];
                }
            }
            if all > 0.0 { off / all } else { 0.0 }
        };
        let resources = u32::try_from(RESOURCES).expect("three");
        Resource::ALL.map(of).iter().sum::<f64>() / f64::from(resources)
    }
}
