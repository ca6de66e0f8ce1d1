//! A fleet, checked and packed for deciding: dense arrays under dense numbers.
//!
//! Cells are sorted by id, so that the order of [`CellIx`] is the order of ids; tenants keep the order of their source.
//! A tenant costs about 280 bytes, all sums and the index of names included, so a million of them stay below 300 MB.

mod builder;
mod change;
mod names;
mod standing;

use std::sync::{Arc, OnceLock};

use cell_model::{CellId, CellState, Revision, TenantId, Tier, UnixMillis};

pub use builder::FleetBuilder;
use names::{Arena, Names};
pub(crate) use standing::{Standing, Steep, Totals};

use crate::demand::{Demands, Profile};
use crate::document::{
    Amounts, CellEntry, CellKind, Databases, Demand, FleetDocument, Hourly, ResourceDemand, TenantEntry,
};
use crate::load::Budget;
use crate::resource::{ByDim, DIMS, HOURS, RESOURCES, Resource, SCALE};

/// Number of a cell within one [`Fleet`]; in the order of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellIx(u32);

/// Number of a tenant within one [`Fleet`]; in the order of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantIx(u32);

macro_rules! dense {
    ($name:ident) => {
        impl $name {
            pub(crate) fn new(index: usize) -> Self {
                Self(u32::try_from(index).expect("the builder refuses more than 2^32 entries"))
            }

            /// The number.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}
dense!(CellIx);
dense!(TenantIx);

/// The largest amount of a resource, in its unit.
const AMOUNT_MAX: f64 = 2_000_000.0;

/// A name among the names of its kind; `NONE` where nobody said.
pub(crate) type Label = u32;
pub(crate) const NONE: u32 = u32::MAX;
/// The most names of a kind of which tenants keep a [`Short`] label.
const SHORT_MAX: usize = u16::MAX as usize;

/// The label of a kind with few names, in half of the bytes: a million tenants have three each.
#[derive(Debug, Clone, Copy)]
struct Short(u16);

impl Short {
    /// The builder refuses fleets with more than [`SHORT_MAX`] names of such a kind.
    fn of(label: Label) -> Self {
        Self(u16::try_from(label).unwrap_or(u16::MAX))
    }

    const fn label(self) -> Label {
        if self.0 == u16::MAX { NONE } else { self.0 as Label }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) id: CellId,
    pub(crate) state: CellState,
    pub(crate) kind: CellKind,
    pub(crate) region: Label,
    pub(crate) residency: Label,
    pub(crate) domain: Label,
    /// Cells of one size have one budget.
    pub(crate) size: u32,
    /// What may be planned with, in thousandths: capacity less the reserve. Shared, so that a thousand cells that are
    /// asked one after the other are close together in memory.
    pub(crate) budget: Arc<Budget>,
    capacity: Amounts,
    reserve: f64,
    databases: Option<Databases>,
}

impl Cell {
    /// Whether a tier belongs here.
    pub(crate) const fn is_for(&self, tier: Tier) -> bool {
        cell_model::is_for(tier, self.kind, self.databases)
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Tenant {
    pub(crate) tier: Tier,
    region: Short,
    residency: Short,
    spike_cluster: Short,
    group: Label,
    pin: u32,
    cell: u32,
    /// Where a move under way takes it, or has brought it from.
    elsewhere: u32,
    has_arrived: bool,
    pub(crate) cooldown_until: UnixMillis,
}

fn known(index: u32) -> Option<usize> {
    (index != NONE).then_some(index as usize)
}

impl Tenant {
    /// The same tenant, were it of that tier.
    pub(crate) const fn with_tier(self, tier: Tier) -> Self {
        Self { tier, ..self }
    }

    pub(crate) fn cell(&self) -> Option<CellIx> {
        known(self.cell).map(CellIx::new)
    }

    pub(crate) fn moving_to(&self) -> Option<CellIx> {
        self.elsewhere().filter(|_| !self.has_arrived)
    }

    pub(crate) fn arrived_from(&self) -> Option<CellIx> {
        self.elsewhere().filter(|_| self.has_arrived)
    }

    /// The other cell on which it counts, for as long as a move is under way.
    pub(crate) fn elsewhere(&self) -> Option<CellIx> {
        known(self.elsewhere).map(CellIx::new)
    }

    pub(crate) fn pin(&self) -> Option<CellIx> {
        known(self.pin).map(CellIx::new)
    }

    pub(crate) fn group(&self) -> Option<usize> {
        known(self.group)
    }

    pub(crate) fn spike_cluster(&self) -> Option<usize> {
        known(self.spike_cluster.label())
    }

    /// The region that it asks for.
    pub(crate) const fn region(&self) -> Label {
        self.region.label()
    }

    /// The legal zone that it asks for.
    pub(crate) const fn residency(&self) -> Label {
        self.residency.label()
    }
}

/// A checked fleet.
#[derive(Debug, Clone)]
pub struct Fleet {
    revision: Revision,
    cluster: String,
    cells: Vec<Cell>,
    tenants: Vec<Tenant>,
    ids: Arena,
    /// Tenants in the order of their ids.
    by_id: Vec<u32>,
    demands: Demands,
    regions: Names,
    residencies: Names,
    domains: Names,
    groups: Names,
    spike_clusters: Names,
    /// Added up when it is first asked for; forgotten when something changes.
    standing: OnceLock<Standing>,
}

impl Fleet {
    /// Revision of the store that this is a picture of.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The store, and its history, that this is a picture of; empty where it is of none.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// All cells, in the order of their ids.
    pub fn cells(&self) -> impl ExactSizeIterator<Item = CellIx> + use<> {
        (0..self.cells.len()).map(CellIx::new)
    }

    /// All tenants, in the order of their source.
    pub fn tenants(&self) -> impl ExactSizeIterator<Item = TenantIx> + use<> {
        (0..self.tenants.len()).map(TenantIx::new)
    }

    /// How a cell keeps its tenants' data apart, where somebody has said it.
    #[must_use]
    pub fn databases(&self, cell: CellIx) -> Option<Databases> {
        self.cell(cell).databases
    }

    /// The cell of that name.
    #[must_use]
    pub fn find_cell(&self, id: &str) -> Option<CellIx> {
        self.cells.binary_search_by(|cell| cell.id.as_str().cmp(id)).ok().map(CellIx::new)
    }

    /// The tenant of that name.
    #[must_use]
    pub fn find_tenant(&self, id: &str) -> Option<TenantIx> {
        let found = self.by_id.binary_search_by(|&index| self.ids.get(index as usize).cmp(id));
        found.ok().map(|at| TenantIx(self.by_id[at]))
    }

    /// Name of a cell.
    #[must_use]
    pub fn cell_id(&self, cell: CellIx) -> &CellId {
        &self.cells[cell.index()].id
    }

    /// Name of a tenant.
    #[must_use]
    pub fn tenant_id(&self, tenant: TenantIx) -> TenantId {
        TenantId::new(self.tenant_name(tenant)).expect("the builder has checked it")
    }

    /// The cell that a tenant is on.
    #[must_use]
    pub fn home(&self, tenant: TenantIx) -> Option<CellIx> {
        self.tenant(tenant).cell()
    }

    pub(crate) fn tenant_name(&self, tenant: TenantIx) -> &str {
        self.ids.get(tenant.index())
    }

    pub(crate) fn cell(&self, cell: CellIx) -> &Cell {
        &self.cells[cell.index()]
    }

    pub(crate) fn tenant(&self, tenant: TenantIx) -> &Tenant {
        &self.tenants[tenant.index()]
    }

    pub(crate) fn demand(&self, tenant: TenantIx) -> Profile {
        self.demands.get(tenant.index())
    }

    pub(crate) fn demand_at(&self, tenant: TenantIx, dim: usize) -> (f64, f64) {
        self.demands.at(tenant.index(), dim)
    }

    /// What it adds up to.
    pub(crate) fn standing(&self) -> &Standing {
        self.standing.get_or_init(|| Standing::of(self))
    }

    pub(crate) fn group_count(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn spike_cluster_count(&self) -> usize {
        self.spike_clusters.len()
    }

    pub(crate) fn domain_count(&self) -> usize {
        self.domains.len()
    }

    pub(crate) fn capacity(&self, cell: CellIx) -> Amounts {
        self.cells[cell.index()].capacity
    }

    pub(crate) fn reserve(&self, cell: CellIx) -> f64 {
        self.cells[cell.index()].reserve
    }

    /// What a move copies: the storage that the tenant is expected to have at its largest.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 2 × 10^15, not negative")]
    pub(crate) fn bytes_of(&self, tenant: TenantIx) -> u64 {
        const BYTES_PER_THOUSANDTH: f64 = 1e6;
        let dims = Resource::Storage.first_dim()..Resource::Storage.first_dim() + HOURS;
        let megabytes = dims.map(|dim| self.demand_at(tenant, dim).0).fold(0.0, f64::max);
        (megabytes * BYTES_PER_THOUSANDTH) as u64
    }

    pub(crate) fn region_name(&self, label: Label) -> &str {
        self.regions.get(label)
    }

    pub(crate) fn residency_name(&self, label: Label) -> &str {
        self.residencies.get(label)
    }

    pub(crate) fn find_region(&self, name: &str) -> Option<Label> {
        self.regions.find(name).filter(|&label| label != NONE)
    }

    pub(crate) fn find_domain(&self, name: &str) -> Option<Label> {
        self.domains.find(name).filter(|&label| label != NONE)
    }

    pub(crate) fn group_name(&self, tenant: TenantIx) -> &str {
        self.groups.get(self.tenant(tenant).group)
    }

    /// The fleet as a document. Demands are as they were packed: rounded up a little (see `demand.rs`).
    #[must_use]
    pub fn to_document(&self) -> FleetDocument {
        FleetDocument {
            revision: self.revision,
            cluster: self.cluster.clone(),
            cells: self.cells.iter().map(|cell| self.cell_entry(cell)).collect(),
            tenants: self.tenants().map(|tenant| self.tenant_entry(tenant)).collect(),
        }
    }

    fn cell_entry(&self, cell: &Cell) -> CellEntry {
        CellEntry {
            id: cell.id.to_string(),
            state: cell.state,
            kind: cell.kind,
            region: self.regions.get(cell.region).into(),
            residency: self.residencies.get(cell.residency).into(),
            domain: self.domains.get(cell.domain).into(),
            capacity: cell.capacity,
            reserve: cell.reserve,
            databases: cell.databases,
        }
    }

    fn tenant_entry(&self, index: TenantIx) -> TenantEntry {
        let tenant = self.tenant(index);
        let name = |cell: Option<CellIx>| cell.map(|cell| self.cell_id(cell).to_string()).unwrap_or_default();
        let profile = self.demand(index);
        let demand = |resource: Resource| {
            let dims = resource.first_dim()..resource.first_dim() + HOURS;
            ResourceDemand {
                mean: hourly(&profile.mean[dims.clone()]),
                deviation: hourly(&profile.deviation[dims]),
            }
        };
        TenantEntry {
            id: self.tenant_name(index).into(),
            tier: tenant.tier,
            region: self.regions.get(tenant.region()).into(),
            residency: self.residencies.get(tenant.residency()).into(),
            group: self.groups.get(tenant.group).into(),
            spike_cluster: self.spike_clusters.get(tenant.spike_cluster.label()).into(),
            pin: name(tenant.pin()),
            cooldown_until: tenant.cooldown_until,
            cell: name(tenant.cell()),
            moving_to: name(tenant.moving_to()),
            arrived_from: name(tenant.arrived_from()),
            demand: Demand {
                cpu: demand(Resource::Cpu),
                connections: demand(Resource::Connections),
                storage: demand(Resource::Storage),
            },
        }
    }
}

fn hourly(thousandths: &[f64]) -> Hourly {
    let first = thousandths[0];
    if thousandths.iter().all(|&value| value.to_bits() == first.to_bits()) {
        Hourly::Flat(first / SCALE)
    } else {
        Hourly::ByHour(thousandths.iter().map(|value| value / SCALE).collect())
    }
}

/// What of a capacity may be planned with, in whole thousandths.
pub(crate) fn budget_of(capacity: f64, reserve: f64) -> f64 {
    (capacity * SCALE * (1.0 - reserve)).floor()
}

/// Spreads one amount for each resource over the hours, in whole thousandths.
fn by_dim(of: impl Fn(Resource) -> f64) -> ByDim {
    let mut amounts = [0.0; DIMS];
    for resource in Resource::ALL {
        amounts[resource.first_dim()..resource.first_dim() + HOURS].fill(of(resource));
    }
    debug_assert_eq!(amounts.len(), RESOURCES * HOURS);
    amounts
}
