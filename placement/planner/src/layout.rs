//! Who is where, and what that costs each cell.
//!
//! A cell must have room for the mean of its tenants plus `risk` standard deviations of their sum. Deviations of
//! tenants of one spike cluster add up; all others are independent and their variances add up:
//!
//! `need = Σ mean + risk · √( Σ variance of the unclustered + Σ over clusters (Σ deviation)² )`
//!
//! A tenant that is moving counts on both cells. Means, variances and the sums by cluster are whole numbers below
//! 2^53, so the need of a cell depends on who is on it and not on the order in which they came and went.

use cell_model::CellId;
use serde::{Deserialize, Serialize};

use crate::demand::Profile;
use crate::fleet::{CellIx, Fleet, TenantIx};
use crate::policy::Policy;
use crate::resource::{ByDim, DIMS, Dim, HOURS};

/// Rounding of a root and a division: a cell is over its budget only beyond this.
const ROUNDING: f64 = 1e-9;

/// The dimension in which a cell is fullest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Peak {
    /// Need by budget; infinite where there is need and no budget.
    pub(crate) share: f64,
    pub(crate) dim: usize,
}

impl Peak {
    const IDLE: Self = Self { share: 0.0, dim: 0 };

    pub(crate) fn is_over_budget(self) -> bool {
        self.share > 1.0 + ROUNDING
    }

    pub(crate) fn report(self) -> PeakReport {
        PeakReport { share: rounded(self.share), at: Dim::at(self.dim) }
    }
}

/// Where a cell is fullest, for people and documents.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PeakReport {
    /// Need by budget, to four digits after the point.
    pub share: f64,
    /// In which resource, at which hour.
    pub at: Dim,
}

/// Four digits: what a person can use, and the same text on every machine. JSON has no infinity, so a cell with need
/// and no budget is said to be a million times full.
pub(crate) fn rounded(share: f64) -> f64 {
    (share.min(1e6) * 1e4).round() / 1e4
}

fn share_of(need: f64, budget: f64) -> f64 {
    if need <= 0.0 {
        0.0
    } else if budget <= 0.0 {
        f64::INFINITY
    } else {
        need / budget
    }
}

/// What the tenants of one cell add up to.
#[derive(Debug, Clone)]
struct Load {
    mean: ByDim,
    /// Of the tenants without a cluster.
    variance: ByDim,
    /// Σ over clusters (Σ deviation)².
    shared_variance: ByDim,
    /// Σ deviation, by cluster.
    clusters: Vec<ByDim>,
}

/// One tenant more or less than a load has.
#[derive(Clone, Copy)]
pub(crate) struct Delta<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) cluster: Option<usize>,
    /// 1 for one more, -1 for one less, 0 for one that is counted already.
    pub(crate) sign: f64,
}

impl Load {
    fn new(clusters: usize) -> Self {
        Self {
            mean: [0.0; DIMS],
            variance: [0.0; DIMS],
            shared_variance: [0.0; DIMS],
            clusters: vec![[0.0; DIMS]; clusters],
        }
    }

    fn apply(&mut self, delta: Delta<'_>) {
        for (sum, mean) in self.mean.iter_mut().zip(&delta.profile.mean) {
            *sum += delta.sign * mean;
        }
        let deviation = &delta.profile.deviation;
        let Some(cluster) = delta.cluster else {
            for (variance, deviation) in self.variance.iter_mut().zip(deviation) {
                *variance += delta.sign * (deviation * deviation);
            }
            return;
        };
        for (sum, deviation) in self.clusters[cluster].iter_mut().zip(deviation) {
            *sum += delta.sign * deviation;
        }
        // From scratch, so that no rounding is carried along.
        self.shared_variance = [0.0; DIMS];
        for sums in &self.clusters {
            for (shared, sum) in self.shared_variance.iter_mut().zip(sums) {
                *shared += sum * sum;
            }
        }
    }

    fn variance_with(&self, dim: usize, delta: Option<Delta<'_>>) -> f64 {
        let own = self.variance[dim] + self.shared_variance[dim];
        let Some(delta) = delta else { return own };
        let deviation = delta.profile.deviation[dim];
        let change = match delta.cluster {
            None => delta.sign * (deviation * deviation),
            Some(cluster) => {
                let sum = self.clusters[cluster][dim];
                delta.sign * (2.0 * sum * deviation) + delta.sign.abs() * (deviation * deviation)
            }
        };
        (own + change).max(0.0)
    }

    fn need_with(&self, dim: usize, risk: f64, delta: Option<Delta<'_>>) -> f64 {
        let mean = self.mean[dim] + delta.map_or(0.0, |delta| delta.sign * delta.profile.mean[dim]);
        mean + risk * self.variance_with(dim, delta).sqrt()
    }

    fn peak_with(&self, budget: &ByDim, risk: f64, delta: Option<Delta<'_>>) -> Peak {
        let mut peak = Peak::IDLE;
        for (dim, &budget) in budget.iter().enumerate() {
            let share = share_of(self.need_with(dim, risk, delta), budget);
            if share > peak.share {
                peak = Peak { share, dim };
            }
        }
        peak
    }
}

/// A fleet with its tenants at places that may be tried out.
#[derive(Debug, Clone)]
pub struct Layout<'a> {
    fleet: &'a Fleet,
    policy: Policy,
    loads: Vec<Load>,
    peaks: Vec<Peak>,
    /// In order, so that a layout does not depend on how it came about.
    members: Vec<Vec<TenantIx>>,
    homes: Vec<Option<CellIx>>,
    /// By anti-affinity group: the cell of each copy of each member.
    groups: Vec<Vec<CellIx>>,
}

impl<'a> Layout<'a> {
    /// The fleet as it stands.
    #[must_use]
    pub fn new(fleet: &'a Fleet, policy: Policy) -> Self {
        let cells = fleet.cells().len();
        let mut layout = Self {
            fleet,
            policy,
            loads: vec![Load::new(fleet.spike_cluster_count()); cells],
            peaks: vec![Peak::IDLE; cells],
            members: vec![Vec::new(); cells],
            homes: vec![None; fleet.tenants().len()],
            groups: vec![Vec::new(); fleet.group_count()],
        };
        for index in fleet.tenants() {
            let tenant = fleet.tenant(index);
            for cell in [tenant.cell(), tenant.moving_to()].into_iter().flatten() {
                layout.count(index, cell, 1.0);
                layout.members[cell.index()].push(index);
            }
            layout.homes[index.index()] = tenant.cell();
        }
        for cell in fleet.cells() {
            layout.refresh(cell);
        }
        layout
    }

    /// The fleet that this lays out.
    #[must_use]
    pub const fn fleet(&self) -> &'a Fleet {
        self.fleet
    }

    /// The numbers that it is judged by.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The cell that a tenant is on.
    #[must_use]
    pub fn home(&self, tenant: TenantIx) -> Option<CellIx> {
        self.homes[tenant.index()]
    }

    /// The tenants with a copy on a cell, in order.
    #[must_use]
    pub fn members(&self, cell: CellIx) -> &[TenantIx] {
        &self.members[cell.index()]
    }

    /// Where a cell is fullest.
    #[must_use]
    pub fn peak_report(&self, cell: CellIx) -> PeakReport {
        self.peak(cell).report()
    }

    /// Name of a cell.
    #[must_use]
    pub fn cell_id(&self, cell: CellIx) -> &'a CellId {
        self.fleet.cell_id(cell)
    }

    /// Makes a tenant that is nowhere yet at home on a cell. Nothing is asked: [`crate::place`] does the asking.
    ///
    /// # Panics
    /// Where the tenant is at home already.
    pub fn settle(&mut self, tenant: TenantIx, cell: CellIx) {
        assert!(self.homes[tenant.index()].is_none(), "a tenant has one home");
        self.add_copy(tenant, cell);
        self.homes[tenant.index()] = Some(cell);
    }

    /// A move at once: from its home to another cell.
    pub(crate) fn shift(&mut self, tenant: TenantIx, target: CellIx) {
        self.begin_move(tenant, target);
        self.end_move(tenant, target);
    }

    /// From here on the tenant counts on both cells.
    pub(crate) fn begin_move(&mut self, tenant: TenantIx, target: CellIx) {
        self.add_copy(tenant, target);
    }

    /// The source is rid of it.
    pub(crate) fn end_move(&mut self, tenant: TenantIx, target: CellIx) {
        let source = self.homes[tenant.index()].replace(target).expect("who moves has a home");
        self.count(tenant, source, -1.0);
        let members = &mut self.members[source.index()];
        let at = members.binary_search(&tenant).expect("who is at home is a member");
        members.remove(at);
        self.refresh(source);
    }

    fn add_copy(&mut self, tenant: TenantIx, cell: CellIx) {
        self.count(tenant, cell, 1.0);
        let members = &mut self.members[cell.index()];
        let at = members.binary_search(&tenant).expect_err("a cell holds one copy of a tenant");
        members.insert(at, tenant);
        self.refresh(cell);
    }

    fn count(&mut self, index: TenantIx, cell: CellIx, sign: f64) {
        let profile = self.fleet.demand(index);
        let tenant = self.fleet.tenant(index);
        let delta = Delta { profile: &profile, cluster: tenant.spike_cluster(), sign };
        self.loads[cell.index()].apply(delta);
        if let Some(group) = tenant.group() {
            let cells = &mut self.groups[group];
            if sign > 0.0 {
                cells.push(cell);
            } else {
                let at = cells.iter().position(|&of| of == cell).expect("a counted copy is in its group");
                cells.swap_remove(at);
            }
        }
    }

    fn refresh(&mut self, cell: CellIx) {
        let budget = &self.fleet.cell(cell).budget;
        self.peaks[cell.index()] = self.loads[cell.index()].peak_with(budget, self.policy.risk, None);
    }

    pub(crate) fn peak(&self, cell: CellIx) -> Peak {
        self.peaks[cell.index()]
    }

    pub(crate) fn peak_with(&self, cell: CellIx, delta: Delta<'_>) -> Peak {
        self.loads[cell.index()].peak_with(&self.fleet.cell(cell).budget, self.policy.risk, Some(delta))
    }

    pub(crate) fn share_at(&self, cell: CellIx, dim: usize, delta: Option<Delta<'_>>) -> f64 {
        let need = self.loads[cell.index()].need_with(dim, self.policy.risk, delta);
        share_of(need, self.fleet.cell(cell).budget[dim])
    }

    /// Need less budget, in thousandths; negative where there is room.
    pub(crate) fn shortfall_at(&self, cell: CellIx, dim: usize, delta: Option<Delta<'_>>) -> f64 {
        self.loads[cell.index()].need_with(dim, self.policy.risk, delta) - self.fleet.cell(cell).budget[dim]
    }

    /// The part of the variance at `dim` that one spike cluster is to blame for, with `delta` counted.
    pub(crate) fn spike_share(&self, cell: CellIx, dim: usize, delta: Delta<'_>) -> f64 {
        let Some(cluster) = delta.cluster else { return 0.0 };
        let load = &self.loads[cell.index()];
        let variance = load.variance_with(dim, Some(delta));
        let sum = load.clusters[cluster][dim] + delta.sign * delta.profile.deviation[dim];
        if variance > 0.0 { (sum * sum / variance).min(1.0) } else { 0.0 }
    }

    /// The cells that hold copies of a group's members.
    pub(crate) fn group_cells(&self, group: usize) -> &[CellIx] {
        &self.groups[group]
    }

    /// Hour by hour, how full the fullest resource is.
    pub(crate) fn hours(&self, cell: CellIx) -> Vec<f64> {
        let fullest =
            |hour: usize| (hour..DIMS).step_by(HOURS).map(|dim| self.share_at(cell, dim, None)).fold(0.0, f64::max);
        (0..HOURS).map(|hour| rounded(fullest(hour))).collect()
    }
}
