//! Who is where, and what that costs each cell (see `load.rs` for how it adds up).
//!
//! A tenant that is moving counts on both cells. A layout is for trying things out: tenants are shifted to and fro, and
//! one that has left again leaves no trace.

use cell_model::CellId;
use serde::{Deserialize, Serialize};

use crate::fleet::{CellIx, Fleet, TenantIx};
use crate::load::{Delta, Load, Peak, Reach, Rough, roughly};
use crate::policy::Policy;
use crate::resource::{ByDim, DIMS, Dim, HOURS};

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
    // Adding nothing makes of the nothing below nothing the usual one.
    (share.min(1e6) * 1e4).round() / 1e4 + 0.0
}

/// The same for what nothing gets below: never more than was proven, but for the last bits of a sum.
pub(crate) fn rounded_down(share: f64) -> f64 {
    (share.min(1e6) * 1e4 + 1e-4).floor() / 1e4
}

impl Peak {
    pub(crate) fn report(self) -> PeakReport {
        PeakReport { share: rounded(self.share), at: Dim::at(self.dim) }
    }
}

/// A fleet with its tenants at places that may be tried out.
#[derive(Debug, Clone)]
pub struct Layout<'a> {
    fleet: &'a Fleet,
    policy: Policy,
    loads: Vec<Load>,
    /// By cell and dimension: need by budget. Very large where there is need and no budget.
    shares: Vec<ByDim>,
    /// The same in single precision: what a tenant that asks every cell looks at first.
    rough: Vec<Rough>,
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
        let standing = fleet.standing();
        let mut layout = Self {
            fleet,
            policy,
            loads: standing.loads.clone(),
            shares: vec![[0.0; DIMS]; standing.loads.len()],
            rough: vec![[0.0; DIMS]; standing.loads.len()],
            peaks: vec![Peak::IDLE; standing.loads.len()],
            members: standing.members.clone(),
            homes: fleet.tenants().map(|tenant| fleet.tenant(tenant).cell()).collect(),
            groups: standing.groups.clone(),
        };
        fleet.cells().for_each(|cell| layout.refresh(cell));
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
        let load = &self.loads[cell.index()];
        let shares = &mut self.shares[cell.index()];
        *shares = load.shares(budget, self.policy.risk);
        self.rough[cell.index()] = roughly(shares);
        self.peaks[cell.index()] = load.peak(shares, budget, self.policy.risk);
    }

    pub(crate) fn peak(&self, cell: CellIx) -> Peak {
        self.peaks[cell.index()]
    }

    pub(crate) fn peak_with(&self, cell: CellIx, delta: Delta<'_>) -> Peak {
        self.loads[cell.index()].peak_with(&self.fleet.cell(cell).budget, self.policy.risk, delta)
    }

    /// Need by budget in each dimension.
    pub(crate) fn shares(&self, cell: CellIx) -> &ByDim {
        &self.shares[cell.index()]
    }

    /// The same in single precision.
    pub(crate) fn rough(&self, cell: CellIx) -> &Rough {
        &self.rough[cell.index()]
    }

    /// What the tenants of a cell add up to.
    pub(crate) fn load(&self, cell: CellIx) -> &Load {
        &self.loads[cell.index()]
    }

    /// As [`Layout::peak_with`] of one more, for the many cells that one tenant asks.
    pub(crate) fn peak_within(&self, cell: CellIx, delta: Delta<'_>, reach: &mut Reach) -> Peak {
        let of = self.fleet.cell(cell);
        reach.look_at(of.size, &of.budget, self.policy.risk, delta.profile);
        self.loads[cell.index()].peak_within(&self.rough[cell.index()], &of.budget, self.policy.risk, delta, reach)
    }

    /// How full a cell would be with one more at least and at most.
    pub(crate) fn range_within(&self, cell: CellIx, delta: Delta<'_>, reach: &mut Reach) -> (f64, f64) {
        let of = self.fleet.cell(cell);
        reach.look_at(of.size, &of.budget, self.policy.risk, delta.profile);
        reach.range(&self.rough[cell.index()], self.peaks[cell.index()].share)
    }

    /// Where a cell would be fullest, and by how much all its dimensions together would be above `level`.
    pub(crate) fn peak_above(&self, cell: CellIx, delta: Delta<'_>, level: f64) -> (Peak, f64) {
        self.loads[cell.index()].peak_above(&self.fleet.cell(cell).budget, self.policy.risk, delta, level)
    }

    pub(crate) fn need_at(&self, cell: CellIx, dim: usize, delta: Option<Delta<'_>>) -> f64 {
        self.loads[cell.index()].need_with(dim, self.policy.risk, delta)
    }

    pub(crate) fn need_without(&self, cell: CellIx, dim: usize, demand: (f64, f64), cluster: Option<usize>) -> f64 {
        self.loads[cell.index()].need_without(dim, self.policy.risk, demand, cluster)
    }

    pub(crate) fn share_at(&self, cell: CellIx, dim: usize, delta: Option<Delta<'_>>) -> f64 {
        self.fleet.cell(cell).budget.share(dim, self.need_at(cell, dim, delta))
    }

    /// Need less budget, in thousandths; negative where there is room.
    pub(crate) fn shortfall_at(&self, cell: CellIx, dim: usize, delta: Option<Delta<'_>>) -> f64 {
        self.need_at(cell, dim, delta) - self.fleet.cell(cell).budget.amounts[dim]
    }

    /// The part of the variance at `dim` that one spike cluster is to blame for, with `delta` counted.
    pub(crate) fn spike_share(&self, cell: CellIx, dim: usize, delta: Delta<'_>) -> f64 {
        let Some(cluster) = delta.cluster else { return 0.0 };
        let load = &self.loads[cell.index()];
        let variance = load.variance_with(dim, Some(delta));
        let sum = load.cluster_with(cluster, dim, delta);
        if variance > 0.0 { (sum * sum / variance).min(1.0) } else { 0.0 }
    }

    /// The cells that hold copies of a group's members.
    pub(crate) fn group_cells(&self, group: usize) -> &[CellIx] {
        &self.groups[group]
    }

    /// The largest share of its own cell that a tenant alone would take; of the first one where it is nowhere.
    pub(crate) fn largest_share(&self, tenant: TenantIx) -> f64 {
        let profile = self.fleet.demand(tenant);
        let cell = self.home(tenant).unwrap_or(CellIx::new(0));
        let budget = &self.fleet.cell(cell).budget;
        (0..DIMS).map(|dim| budget.share(dim, profile.need(dim, self.policy.risk))).fold(0.0, f64::max)
    }

    /// Hour by hour, how full the fullest resource is.
    pub(crate) fn hours(&self, cell: CellIx) -> Vec<f64> {
        let fullest =
            |hour: usize| (hour..DIMS).step_by(HOURS).map(|dim| self.share_at(cell, dim, None)).fold(0.0, f64::max);
        (0..HOURS).map(|hour| rounded(fullest(hour))).collect()
    }
}
