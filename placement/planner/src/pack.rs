//! How few cells would do? Each zone's tenants are packed into cells of one shape as tightly as can be found: a
//! yardstick for density and for how many cells a region needs, not a plan. It counts capacity alone.
//!
//! First each tenant goes to the cell that it fills best. Then one cell after the other is dissolved: its tenants go to
//! a pool, and a search with ejections (see `pack/ejection.rs`) puts them into the others. Where that fails within the
//! effort, the packing before it stands.

mod ejection;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::document::Amounts;
use crate::fleet::{CellIx, Fleet, TenantIx};
use crate::layout::rounded;
use crate::policy::{Policy, PolicyInvalid};
use crate::resource::{DIMS, Dim, SCALE};
use ejection::Bins;

/// Zones with more tenants than this are packed, but not searched.
const SEARCHED_MAX: usize = 20_000;

/// How tightly a zone's tenants can be packed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Packing {
    /// What its cells have in common.
    pub zone: String,
    /// How many tenants are packed.
    pub tenants: usize,
    /// Tenants that not even an empty cell of that shape could hold.
    pub too_large: usize,
    /// The capacity of each cell: that of the zone's largest, less its reserve.
    pub shape: Amounts,
    /// Cells that hold tenants today.
    pub cells_now: usize,
    /// Cells that would do.
    pub cells_packed: usize,
    /// Fewer cannot.
    pub lower_bound: usize,
    /// `cells_packed` above `lower_bound`, as a share of it.
    pub gap: f64,
}

/// Packs each zone. `effort` is how many ejections may be tried to save one more cell. The same input gives the same
/// answer.
///
/// # Errors
/// [`PolicyInvalid`] for a policy that cannot hold.
pub fn pack(fleet: &Fleet, policy: Policy, effort: u32) -> Result<Vec<Packing>, PolicyInvalid> {
    policy.check()?;
    let zones = &fleet.standing().zones;
    let mut tenants: Vec<Vec<TenantIx>> = vec![Vec::new(); zones.all.len()];
    for tenant in fleet.tenants() {
        if let Some(zone) = zones.of_tenant(fleet.tenant(tenant)) {
            tenants[zone].push(tenant);
        }
    }
    let pack = |(zone, tenants): (&crate::zone::Zone, &Vec<TenantIx>)| {
        let used = |cell: &&CellIx| tenants.iter().any(|&tenant| fleet.tenant(tenant).cell() == Some(**cell));
        let cells_now = zone.cells.iter().filter(used).count();
        let like = zone.cells.iter().copied().max_by(|&a, &b| {
            let cpu = |cell: CellIx| fleet.capacity(cell).cpu;
            cpu(a).total_cmp(&cpu(b)).then(b.cmp(&a))
        });
        let like = like.expect("a zone has cells");
        let problem = Problem::new(fleet, &policy, tenants, like);
        let bins = problem.solve(effort);
        let lower_bound = problem.lower_bound();
        Packing {
            zone: zone.name.clone(),
            tenants: problem.items.len(),
            too_large: tenants.len() - problem.items.len(),
            shape: shape(fleet, like),
            cells_now,
            cells_packed: bins,
            lower_bound,
            gap: if lower_bound > 0 { rounded(count(bins) / count(lower_bound) - 1.0) } else { 0.0 },
        }
    };
    Ok(zones.all.iter().zip(&tenants).map(pack).collect())
}

fn shape(fleet: &Fleet, cell: CellIx) -> Amounts {
    let budget = &fleet.cell(cell).budget.amounts;
    let of = |resource: crate::resource::Resource| budget[resource.first_dim()] / SCALE;
    Amounts {
        cpu: of(Dim::at(0).resource),
        connections: of(Dim::at(DIMS / 3).resource),
        storage: of(Dim::at(DIMS - 1).resource),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of cells need no 53 bits")]
fn count(cells: usize) -> f64 {
    cells as f64
}

/// One tenant: what it adds to a cell, as shares of the cell, in the dimensions that differ.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) mean: Vec<f64>,
    /// Risk squared times the variance.
    pub(crate) spread: Vec<f64>,
}

impl Item {
    fn need(&self, dim: usize) -> f64 {
        self.mean[dim] + self.spread[dim].sqrt()
    }

    /// The largest share of a cell that it takes.
    pub(crate) fn size(&self) -> f64 {
        (0..self.mean.len()).map(|dim| self.need(dim)).fold(0.0, f64::max)
    }
}

struct Problem {
    items: Vec<Item>,
    dims: usize,
}

impl Problem {
    fn new(fleet: &Fleet, policy: &Policy, tenants: &[TenantIx], like: CellIx) -> Self {
        let budget = &fleet.cell(like).budget.amounts;
        let whole = |tenant: &TenantIx| {
            let profile = fleet.demand(*tenant);
            // Deviations of a spike cluster add up. Counted like means they do, and a little more: the packing holds.
            let clustered = fleet.tenant(*tenant).spike_cluster().is_some();
            let mut item = Item { mean: Vec::with_capacity(DIMS), spread: Vec::with_capacity(DIMS) };
            for dim in 0..DIMS {
                let deviation = policy.risk * profile.deviation[dim];
                let mean = profile.mean[dim] + if clustered { deviation } else { 0.0 };
                let deviation = if clustered { 0.0 } else { deviation };
                item.mean.push(share(mean, budget[dim]));
                item.spread.push(share(deviation, budget[dim]).powi(2));
            }
            item
        };
        let mut items: Vec<Item> = tenants.iter().map(whole).filter(|item| item.size() <= 1.0).collect();
        let dims = distinct(&items);
        for item in &mut items {
            item.mean = dims.iter().map(|&dim| item.mean[dim]).collect();
            item.spread = dims.iter().map(|&dim| item.spread[dim]).collect();
        }
        Self { items, dims: dims.len() }
    }

    /// The cells that a packing was found for.
    fn solve(&self, effort: u32) -> usize {
        let mut bins = Bins::filled(&self.items, self.dims);
        if self.items.len() <= SEARCHED_MAX {
            let fewest = self.lower_bound();
            while bins.len() > fewest {
                let mut fewer = bins.clone();
                if !fewer.dissolve_one(effort) {
                    break;
                }
                bins = fewer;
            }
        }
        bins.len()
    }

    /// No packing has fewer cells: in some dimension all means and the root of all variances must fit.
    fn lower_bound(&self) -> usize {
        let all = |dim: usize| {
            let mean: f64 = self.items.iter().map(|item| item.mean[dim]).sum();
            let spread: f64 = self.items.iter().map(|item| item.spread[dim]).sum();
            mean + spread.sqrt()
        };
        let most = (0..self.dims).map(all).fold(0.0, f64::max);
        // A hair less, so that rounding does not ask for a cell.
        let mut cells = 0;
        while count(cells) < most - 1e-6 {
            cells += 1;
        }
        cells
    }
}

fn share(amount: f64, budget: f64) -> f64 {
    if amount <= 0.0 {
        0.0
    } else if budget <= 0.0 {
        f64::INFINITY
    } else {
        amount / budget
    }
}

/// Dimensions in which not all tenants want the same as in an earlier one: of a demand that is flat all day, one hour
/// says all.
fn distinct(items: &[Item]) -> Vec<usize> {
    let mut seen: BTreeMap<Vec<u64>, usize> = BTreeMap::new();
    for dim in 0..DIMS {
        let column = items.iter().flat_map(|item| [item.mean[dim].to_bits(), item.spread[dim].to_bits()]).collect();
        seen.entry(column).or_insert(dim);
    }
    let mut dims: Vec<usize> = seen.into_values().collect();
    dims.sort_unstable();
    dims
}
