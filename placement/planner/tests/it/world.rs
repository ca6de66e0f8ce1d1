//! Fleets to try things on. Everything comes from one number, so a failing case is one number.

use cell_model::{CellState, Revision, Tier};
use cell_planner::{
    Amounts, CellEntry, CellKind, Databases, Demand, Fleet, FleetDocument, HomeRing, Hourly, Layout, Policy,
    ResourceDemand, RingOptions, TenantEntry, place,
};

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    /// Between 0 and 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn chance(&mut self, share: f64) -> bool {
        self.share() < share
    }
}

pub(crate) fn cell(id: &str, cpu: f64) -> CellEntry {
    CellEntry {
        id: id.into(),
        capacity: Amounts { cpu, connections: 1_000.0, storage: 10_000.0 },
        ..CellEntry::default()
    }
}

pub(crate) fn tenant(id: &str, cpu: f64) -> TenantEntry {
    let flat = |value| ResourceDemand { mean: Hourly::Flat(value), deviation: Hourly::Flat(0.0) };
    TenantEntry {
        id: id.into(),
        demand: Demand { cpu: flat(cpu), connections: flat(1.0), storage: flat(1.0) },
        ..TenantEntry::default()
    }
}

pub(crate) fn on(cell: &str, tenant: TenantEntry) -> TenantEntry {
    TenantEntry { cell: cell.into(), ..tenant }
}

pub(crate) fn fleet(cells: Vec<CellEntry>, tenants: Vec<TenantEntry>) -> Fleet {
    let document = FleetDocument { revision: Revision(7), cells, tenants, ..FleetDocument::default() };
    document.build().unwrap_or_else(|error| panic!("{error}"))
}

/// What a random fleet is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) seed: u64,
    pub(crate) cells: usize,
    pub(crate) tenants: usize,
    /// Share of all capacity that the means of all tenants take, about.
    pub(crate) fill: f64,
    /// Tenants are anywhere, whatever the constraints say.
    pub(crate) careless: bool,
}

const ZONES: [(&str, &str); 3] = [("eu-1", "eu"), ("eu-2", "eu"), ("us-1", "us")];

/// A random fleet with every kind of constraint in it.
pub(crate) fn random(shape: Shape) -> FleetDocument {
    let mut dice = Dice(shape.seed);
    let cells: Vec<CellEntry> = (0..shape.cells).map(|index| random_cell(&mut dice, index)).collect();
    let mean = shape.fill * 100.0 * shape.cells as f64 / shape.tenants.max(1) as f64;
    let tenants = (0..shape.tenants).map(|index| random_tenant(&mut dice, index, mean, &cells, shape)).collect();
    FleetDocument { revision: Revision(shape.seed), cells, tenants, ..FleetDocument::default() }
}

fn random_cell(dice: &mut Dice, index: usize) -> CellEntry {
    // The first three are plain cells, one in each zone, so that every tenant has a legal home at all.
    let (region, residency) = ZONES[if index < 3 { index } else { dice.below(3) }];
    let plain = index < 3;
    CellEntry {
        id: format!("c-{index:02}"),
        state: if plain || dice.chance(0.9) { CellState::Active } else { CellState::Cordoned },
        kind: if plain || dice.chance(0.9) { CellKind::Pooled } else { CellKind::Dedicated },
        region: region.into(),
        residency: residency.into(),
        domain: format!("rack-{}", dice.below(4)),
        capacity: Amounts { cpu: 100.0, connections: 1_000.0, storage: 1_000.0 },
        reserve: if dice.chance(0.2) { 0.1 } else { 0.0 },
        databases: [None, None, None, Some(Databases::Shared), Some(Databases::Own)][index % 5],
    }
}

fn random_tenant(dice: &mut Dice, index: usize, mean: f64, cells: &[CellEntry], shape: Shape) -> TenantEntry {
    // A few large ones among many small ones.
    let size = mean * 2.0 * dice.share().powi(3) / 0.5;
    let peak_hour = dice.below(24);
    let mut demand = |scale: f64| {
        let by_hour = (0..24).map(|hour| if hour == peak_hour { size * scale } else { size * scale * 0.5 });
        ResourceDemand {
            mean: Hourly::ByHour(by_hour.collect()),
            deviation: Hourly::Flat(size * scale * 0.2 * dice.share()),
        }
    };
    let demand = Demand { cpu: demand(1.0), connections: demand(8.0), storage: demand(5.0) };
    let mut entry = TenantEntry { id: format!("t-{index:03}"), demand, ..TenantEntry::default() };
    if dice.chance(0.2) {
        entry.residency = ZONES[dice.below(3)].1.into();
    }
    if dice.chance(0.1) {
        let (region, residency) = ZONES[dice.below(3)];
        entry.region = region.into();
        entry.residency = residency.into();
    }
    if dice.chance(0.15) {
        entry.group = format!("g-{}", dice.below(4));
    }
    if dice.chance(0.2) {
        entry.spike_cluster = format!("s-{}", dice.below(2));
    }
    if dice.chance(0.03) {
        entry.tier = Tier::Platinum;
    } else if index.is_multiple_of(11) {
        entry.tier = Tier::Gold;
    }
    if shape.careless && dice.chance(0.95) {
        entry.cell.clone_from(&cells[dice.below(cells.len())].id);
        let elsewhere = &cells[dice.below(cells.len())].id;
        if dice.chance(0.05) && *elsewhere != entry.cell {
            let field = if dice.chance(0.5) { &mut entry.moving_to } else { &mut entry.arrived_from };
            field.clone_from(elsewhere);
        }
    }
    entry
}

pub(crate) fn ring(fleet: &Fleet) -> HomeRing {
    let cells = fleet.cells().map(|cell| fleet.cell_id(cell).clone());
    HomeRing::build(cells, RingOptions::default()).unwrap()
}

/// Places every tenant of the document that is nowhere yet, one after the other, and gives the document with their
/// places. Tenants that no cell admits stay nowhere.
pub(crate) fn placed(mut document: FleetDocument, policy: Policy) -> FleetDocument {
    let fleet = document.build().unwrap_or_else(|error| panic!("{error}"));
    let ring = ring(&fleet);
    let mut layout = Layout::new(&fleet, policy);
    for tenant in fleet.tenants().filter(|&tenant| layout.home(tenant).is_none()).collect::<Vec<_>>() {
        let decision = place(&layout, Some(&ring), tenant).unwrap();
        if let Some(chosen) = decision.chosen {
            layout.settle(tenant, fleet.find_cell(chosen.as_str()).unwrap());
            document.tenants[tenant.index()].cell = chosen.to_string();
        }
    }
    document
}
