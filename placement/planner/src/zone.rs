//! The fleet falls into parts that have nothing to do with each other: no tenant of one may ever be on a cell of
//! another. Region, residency, tier and pins draw the borders. What is decided in one zone cannot change what is best
//! in another, so each is judged against its own bound, and an average never mixes two of them.

use std::collections::{BTreeMap, BTreeSet};

use cell_model::Tier;

use crate::document::CellKind;
use crate::fleet::{Cell, CellIx, Fleet, Label, NONE, Tenant};

/// Cells between which tenants may move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Zone {
    /// What its cells have in common, for people.
    pub(crate) name: String,
    /// In order.
    pub(crate) cells: Vec<CellIx>,
}

/// All zones, the one with the first cell first.
#[derive(Debug, Clone)]
pub(crate) struct Zones {
    pub(crate) all: Vec<Zone>,
    /// Zone of each cell.
    of_cell: Vec<usize>,
    /// Zone of each kind of tenant that has one.
    of_kin: BTreeMap<Kin, usize>,
}

/// Tenants that may be on the same cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kin {
    region: Label,
    residency: Label,
    /// The lowest tier that may be on the same cells.
    tier: Tier,
}

impl Kin {
    fn of(tenant: &Tenant) -> Self {
        let tier = if tenant.tier == Tier::Silver { Tier::Bronze } else { tenant.tier };
        Self { region: tenant.region(), residency: tenant.residency(), tier }
    }

    fn may_be_on(&self, cell: &Cell) -> bool {
        (self.region == NONE || self.region == cell.region)
            && (self.residency == NONE || self.residency == cell.residency)
            && cell.is_for(self.tier)
    }
}

impl Zones {
    pub(crate) fn new(fleet: &Fleet) -> Self {
        let free = fleet.tenants().map(|tenant| fleet.tenant(tenant)).filter(|tenant| tenant.pin().is_none());
        // Kinds are few and neighbours are alike: most are known already.
        let mut kin = BTreeSet::new();
        let mut last = None;
        for of in free.map(Kin::of) {
            if last != Some(of) {
                last = Some(of);
                kin.insert(of);
            }
        }
        let count = fleet.cells().len();
        let mut roots: Vec<usize> = (0..count).collect();
        let mut met = Vec::with_capacity(kin.len());
        for kin in kin {
            let mut first = None;
            for cell in fleet.cells().filter(|&cell| kin.may_be_on(fleet.cell(cell))) {
                let root = root_of(&mut roots, cell.index());
                match first {
                    None => first = Some(root),
                    // The lower number is the root, so that zones come in the order of their first cells.
                    Some(other) => {
                        let (low, high) = (root.min(other), root.max(other));
                        roots[high] = low;
                        first = Some(low);
                    }
                }
            }
            met.extend(first.map(|cell| (kin, cell)));
        }
        let mut zones = Self { all: Vec::new(), of_cell: vec![usize::MAX; count], of_kin: BTreeMap::new() };
        for cell in fleet.cells() {
            let root = root_of(&mut roots, cell.index());
            if root == cell.index() {
                zones.of_cell[root] = zones.all.len();
                zones.all.push(Zone { name: String::new(), cells: Vec::new() });
            }
            let zone = zones.of_cell[root];
            zones.of_cell[cell.index()] = zone;
            zones.all[zone].cells.push(cell);
        }
        zones.of_kin = met.into_iter().map(|(kin, cell)| (kin, zones.of_cell[cell])).collect();
        zones.name_all(fleet);
        zones
    }

    /// The only zone that a tenant may be in, if it may be anywhere.
    pub(crate) fn of_tenant(&self, tenant: &Tenant) -> Option<usize> {
        match tenant.pin() {
            Some(pin) => Some(self.of(pin)),
            None => self.of_kin.get(&Kin::of(tenant)).copied(),
        }
    }

    pub(crate) fn of(&self, cell: CellIx) -> usize {
        self.of_cell[cell.index()]
    }

    /// Names each zone after its residencies and regions, and numbers those of one name.
    fn name_all(&mut self, fleet: &Fleet) {
        let mut taken = BTreeSet::new();
        for zone in &mut self.all {
            let mut name = name_of(fleet, &zone.cells);
            let plain = name.clone();
            for number in 2.. {
                if taken.insert(name.clone()) {
                    break;
                }
                name = format!("{plain} #{number}");
            }
            zone.name = name;
        }
    }
}

fn root_of(roots: &mut [usize], cell: usize) -> usize {
    let mut at = cell;
    while roots[at] != at {
        roots[at] = roots[roots[at]];
        at = roots[at];
    }
    at
}

/// `eu dedicated`, `eu+us`, `eu-1`; the one cell where nothing else is known.
fn name_of(fleet: &Fleet, cells: &[CellIx]) -> String {
    const NAMES_MAX: usize = 4;
    let texts = |label: fn(&Cell) -> Label, text: fn(&Fleet, Label) -> &str| {
        let labels: BTreeSet<&str> = cells.iter().map(|&cell| text(fleet, label(fleet.cell(cell)))).collect();
        let known: Vec<&str> = labels.into_iter().filter(|name| !name.is_empty()).collect();
        let more = known.len() > NAMES_MAX;
        let mut joined = known.into_iter().take(NAMES_MAX).collect::<Vec<_>>().join("+");
        if more {
            joined.push_str("+…");
        }
        joined
    };
    let mut name = texts(|cell| cell.residency, Fleet::residency_name);
    if name.is_empty() {
        name = texts(|cell| cell.region, Fleet::region_name);
    }
    if name.is_empty() {
        name = if cells.len() == 1 { fleet.cell_id(cells[0]).to_string() } else { "all".into() };
    }
    if cells.iter().all(|&cell| fleet.cell(cell).kind == CellKind::Dedicated) {
        name.push_str(" dedicated");
    }
    name
}
