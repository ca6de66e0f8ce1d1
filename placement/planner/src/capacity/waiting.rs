//! Tenants that are on no cell yet: what they add to the need of their zone, and how many cells they want.
//!
//! Their need is added up as if one cell held all of them, which is the least that it can be. That alone would let twenty
//! halves and a bit share ten cells, so those that no cell admits today are also put into cells of the shape that is to
//! be added, one after the other.

use cell_model::Tier;

use crate::document::Amounts;
use crate::fleet::{Fleet, TenantIx};
use crate::load::{Budget, Delta, Load};
use crate::plan::arrange;
use crate::policy::Policy;
use crate::resource::{ByDim, DIMS, Dim, SCALE};
use crate::zone::Zones;

/// How many tenants are placed in thought. A fleet that is still to be placed as a whole is asked `place` first.
const PLACED_MAX: usize = 20_000;
/// How many of the cells to add are looked at for one tenant: the newest.
const OPEN_MAX: usize = 32;

/// Who waits, by zone.
pub(super) struct Waiting {
    pub(super) by_zone: Vec<Vec<TenantIx>>,
    /// Those that no cell may ever hold.
    pub(super) nowhere: usize,
}

impl Waiting {
    pub(super) fn of(fleet: &Fleet, zones: &Zones) -> Self {
        let mut waiting = Self { by_zone: vec![Vec::new(); zones.all.len()], nowhere: 0 };
        for tenant in fleet.tenants().filter(|&tenant| fleet.tenant(tenant).cell().is_none()) {
            match zones.of_tenant(fleet.tenant(tenant)) {
                Some(zone) => waiting.by_zone[zone].push(tenant),
                None => waiting.nowhere += 1,
            }
        }
        waiting
    }

    /// Who of each zone's finds no cell as things stand, the hardest first.
    pub(super) fn without_a_cell(&self, fleet: &Fleet, policy: Policy) -> Vec<Vec<TenantIx>> {
        let mut stranded = vec![Vec::new(); self.by_zone.len()];
        let all: Vec<TenantIx> = self.by_zone.iter().flatten().copied().collect();
        if all.is_empty() || all.len() > PLACED_MAX {
            return stranded;
        }
        let zones = &fleet.standing().zones;
        for (tenant, home) in arrange(fleet, policy, None, &all, None).homes {
            if let Some(zone) = zones.of_tenant(fleet.tenant(tenant)).filter(|_| home.is_none()) {
                stranded[zone].push(tenant);
            }
        }
        stranded
    }

    /// What those of one zone need together, at the least.
    pub(super) fn need(&self, fleet: &Fleet, zone: usize, risk: f64) -> ByDim {
        let mut need = [0.0; DIMS];
        if self.by_zone[zone].is_empty() {
            return need;
        }
        let mut load = Load::new(fleet.spike_cluster_count());
        for &tenant in &self.by_zone[zone] {
            load.add(one_more(fleet, tenant, &fleet.demand(tenant)));
        }
        load.settle();
        for (dim, need) in need.iter_mut().enumerate() {
            *need = load.need_with(dim, risk, None);
        }
        need
    }
}

fn one_more<'a>(fleet: &Fleet, tenant: TenantIx, profile: &'a crate::demand::Profile) -> Delta<'a> {
    Delta { profile, cluster: fleet.tenant(tenant).spike_cluster(), sign: 1.0 }
}

/// A cell to add, and who is put on it.
struct Added {
    load: Load,
    groups: Vec<usize>,
    /// Of a platinum tenant.
    is_taken: bool,
}

/// How many cells of a shape hold these tenants, in the order given, and the dimension in which the last one is fullest.
/// Who is too large for any of them is not counted: no number of cells would do.
pub(super) fn cells_for(
    fleet: &Fleet,
    policy: Policy,
    tenants: &[TenantIx],
    shape: Amounts,
    usable: f64,
) -> (u32, Option<usize>) {
    let mut amounts = [0.0; DIMS];
    for (dim, amount) in amounts.iter_mut().enumerate() {
        *amount = (shape.of(Dim::at(dim).resource) * SCALE * usable).floor();
    }
    let budget = Budget::new(amounts);
    let mut added: Vec<Added> = Vec::new();
    for &tenant in tenants {
        let (of, profile) = (fleet.tenant(tenant), fleet.demand(tenant));
        let delta = one_more(fleet, tenant, &profile);
        let owns = of.tier == Tier::Platinum;
        let fits = |cell: &Added| {
            !owns
                && !cell.is_taken
                && of.group().is_none_or(|group| !cell.groups.contains(&group))
                && cell.load.peak_with(&budget, policy.risk, delta).share <= 1.0
        };
        let newest = added.len().saturating_sub(OPEN_MAX);
        let cell = match added[newest..].iter().position(fits) {
            Some(at) => &mut added[newest + at],
            None => {
                let load = Load::new(fleet.spike_cluster_count());
                if load.peak_with(&budget, policy.risk, delta).share > 1.0 {
                    continue;
                }
                added.push(Added { load, groups: Vec::new(), is_taken: owns });
                added.last_mut().expect("it has just been added")
            }
        };
        cell.load.apply(delta);
        cell.groups.extend(of.group());
    }
    let because = added.last().map(|cell| {
        let shares = cell.load.shares(&budget, policy.risk);
        cell.load.peak(&shares, &budget, policy.risk).dim
    });
    (u32::try_from(added.len()).unwrap_or(u32::MAX), because)
}
