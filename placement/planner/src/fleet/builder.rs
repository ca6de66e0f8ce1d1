//! Takes a fleet entry by entry, checks all of it and says everything that is wrong at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use cell_model::{CellId, CellState, Revision, TenantId, Tier};

use super::{
    AMOUNT_MAX, Arena, Cell, CellIx, Demands, Fleet, NONE, Names, SHORT_MAX, Short, Tenant, budget_of, by_dim,
};
use crate::demand::Profile;
use crate::document::{CellEntry, CellKind, Hourly, TenantEntry};
use crate::load::Budget;
use crate::problem::{FleetError, Place, ProblemCode, Problems};
use crate::resource::{DIMS, HOURS, Resource, SCALE};

/// The most cells of one fleet.
const CELLS_MAX: usize = 100_000;
/// The most tenants of one fleet.
const TENANTS_MAX: usize = 20_000_000;
/// The most spike clusters of one fleet: each cell keeps a sum for each of them.
const SPIKE_CLUSTERS_MAX: usize = 256;
/// Below this, sums of whole numbers are exact in an `f64`.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Builds a [`Fleet`]: cells first, then tenants one by one.
#[derive(Debug)]
pub struct FleetBuilder {
    fleet: Fleet,
    places: Vec<Place>,
    problems: Problems,
    mean_total: [f64; DIMS],
    variance_total: [f64; DIMS],
}

impl FleetBuilder {
    /// Starts with the cells, each with the place where it was read.
    pub fn new<'a>(revision: Revision, cells: impl IntoIterator<Item = (Place, &'a CellEntry)>) -> Self {
        let fleet = Fleet {
            revision,
            cluster: String::new(),
            cells: Vec::new(),
            tenants: Vec::new(),
            ids: Arena::default(),
            by_id: Vec::new(),
            demands: Demands::default(),
            regions: Names::default(),
            residencies: Names::default(),
            domains: Names::default(),
            groups: Names::default(),
            spike_clusters: Names::default(),
            standing: std::sync::OnceLock::new(),
        };
        let mut builder = Self {
            fleet,
            places: Vec::new(),
            problems: Problems::default(),
            mean_total: [0.0; DIMS],
            variance_total: [0.0; DIMS],
        };
        let mut placed = Vec::new();
        for (place, entry) in cells {
            if let Some(cell) = builder.cell(place, entry) {
                placed.push((place, cell));
            }
        }
        builder.sort_cells(placed);
        builder
    }

    /// Says which store, and which history of it, this is a picture of.
    #[must_use]
    pub fn of_cluster(mut self, cluster: &str) -> Self {
        cluster.clone_into(&mut self.fleet.cluster);
        self
    }

    fn cell(&mut self, place: Place, entry: &CellEntry) -> Option<Cell> {
        let id = match CellId::new(&entry.id) {
            Ok(id) => id,
            Err(error) => {
                self.problems.add(ProblemCode::IdInvalid, place, error.to_string(), "rename the cell");
                return None;
            }
        };
        if !(0.0..1.0).contains(&entry.reserve) {
            let sentence = format!("reserve of cell {id} is {}", entry.reserve);
            let remedy = "give a share of the capacity from 0 to below 1, such as 0.1";
            self.problems.add(ProblemCode::CapacityInvalid, place, sentence, remedy);
        }
        for resource in Resource::ALL {
            let given = entry.capacity.of(resource);
            if !(0.0..=AMOUNT_MAX).contains(&given) {
                let sentence = format!("{} capacity of cell {id} is {given}", resource.name());
                let remedy = format!("give {} from 0 to {AMOUNT_MAX}", resource.unit());
                self.problems.add(ProblemCode::CapacityInvalid, place, sentence, remedy);
            }
        }
        let budget = |resource| budget_of(entry.capacity.of(resource), entry.reserve);
        Some(Cell {
            id,
            state: entry.state,
            kind: entry.kind,
            region: self.fleet.regions.add(&entry.region),
            residency: self.fleet.residencies.add(&entry.residency),
            domain: self.fleet.domains.add(&entry.domain),
            size: 0,
            budget: Arc::new(Budget::new(by_dim(budget))),
            capacity: entry.capacity,
            reserve: entry.reserve,
            databases: entry.databases,
        })
    }

    fn sort_cells(&mut self, mut cells: Vec<(Place, Cell)>) {
        if cells.is_empty() && self.problems.is_empty() {
            let remedy = "add at least one cell with a capacity";
            self.problems.add(ProblemCode::FleetEmpty, Place::Fleet, "there is no cell", remedy);
        }
        if cells.len() > CELLS_MAX {
            let sentence = format!("{} cells, at most {CELLS_MAX} are taken", cells.len());
            self.problems.add(ProblemCode::FleetTooLarge, Place::Fleet, sentence, "split the fleet by region");
        }
        for (what, names) in [("regions", &self.fleet.regions), ("residencies", &self.fleet.residencies)] {
            if names.len() > SHORT_MAX {
                let sentence = format!("{} {what}, at most {SHORT_MAX} are taken", names.len());
                let remedy = "give cells that are alike one name";
                self.problems.add(ProblemCode::FleetTooLarge, Place::Fleet, sentence, remedy);
            }
        }
        cells.sort_by(|(at, a), (bt, b)| a.id.cmp(&b.id).then(at.cmp(bt)));
        for pair in cells.windows(2) {
            if pair[0].1.id == pair[1].1.id {
                let sentence = format!("cell {} is already at {}", pair[1].1.id, pair[0].0);
                self.problems.add(ProblemCode::IdDuplicate, pair[1].0, sentence, "rename or remove one of them");
            }
        }
        self.fleet.cells = cells.into_iter().map(|(_, cell)| cell).collect();
        let mut sizes = BTreeMap::new();
        for cell in &mut self.fleet.cells {
            let budget = Resource::ALL.map(|resource| cell.budget.amounts[resource.first_dim()].to_bits());
            let next = u32::try_from(sizes.len()).expect("fewer sizes than cells");
            let (size, budget) = sizes.entry(budget).or_insert((next, Arc::clone(&cell.budget)));
            (cell.size, cell.budget) = (*size, Arc::clone(budget));
        }
    }

    /// Adds a tenant. What is wrong with it comes out of [`FleetBuilder::finish`].
    pub fn tenant(&mut self, place: Place, entry: &TenantEntry) {
        if let Err(error) = TenantId::new(&entry.id) {
            self.problems.add(ProblemCode::IdInvalid, place, error.to_string(), "rename the tenant");
            return;
        }
        if self.fleet.tenants.len() >= TENANTS_MAX || !self.fleet.ids.push(&entry.id) {
            if self.fleet.tenants.len() == TENANTS_MAX {
                let sentence = format!("more than {TENANTS_MAX} tenants");
                self.problems.add(ProblemCode::FleetTooLarge, place, sentence, "split the fleet by region");
            }
            return;
        }
        let tenant = Tenant {
            tier: entry.tier,
            region: Short::of(self.label(place, entry, Kind::Region)),
            residency: Short::of(self.label(place, entry, Kind::Residency)),
            spike_cluster: Short::of(self.fleet.spike_clusters.add(&entry.spike_cluster)),
            group: self.fleet.groups.add(&entry.group),
            pin: self.cell_named(place, entry, "pin", &entry.pin),
            cell: self.cell_named(place, entry, "cell", &entry.cell),
            elsewhere: if entry.moving_to.is_empty() {
                self.cell_named(place, entry, "arrived_from", &entry.arrived_from)
            } else {
                self.cell_named(place, entry, "moving_to", &entry.moving_to)
            },
            has_arrived: entry.moving_to.is_empty(),
            cooldown_until: entry.cooldown_until,
        };
        self.check_constraints(place, entry, &tenant);
        let profile = self.profile(place, entry);
        for dim in 0..DIMS {
            self.mean_total[dim] += profile.mean[dim];
            self.variance_total[dim] += profile.deviation[dim] * profile.deviation[dim];
        }
        self.fleet.demands.push(&profile);
        self.fleet.tenants.push(tenant);
        self.places.push(place);
    }

    fn label(&mut self, place: Place, entry: &TenantEntry, kind: Kind) -> u32 {
        let (names, name, code, what) = match kind {
            Kind::Region => (&self.fleet.regions, &entry.region, ProblemCode::RegionUnknown, "region"),
            Kind::Residency => {
                (&self.fleet.residencies, &entry.residency, ProblemCode::ResidencyUnknown, "residency")
            }
        };
        names.find(name).unwrap_or_else(|| {
            let sentence = format!("tenant {} wants {what} {name:?}, where no cell stands", entry.id);
            let remedy = match names.listed() {
                known if known.is_empty() => format!("no cell says its {what}: add it to the cells"),
                known => format!("choose one of: {known}; or add a cell there"),
            };
            self.problems.add(code, place, sentence, remedy);
            NONE
        })
    }

    fn cell_named(&mut self, place: Place, entry: &TenantEntry, field: &str, name: &str) -> u32 {
        if name.is_empty() {
            return NONE;
        }
        if let Some(cell) = self.fleet.find_cell(name) {
            return cell.0;
        }
        let sentence = format!("{field} of tenant {} names cell {name:?}, which is not in the fleet", entry.id);
        self.problems.add(ProblemCode::CellUnknown, place, sentence, "add that cell or name another");
        NONE
    }

    /// What can never hold, whatever is decided. (That nothing is eligible *today* is an answer, not an error.)
    fn check_constraints(&mut self, place: Place, entry: &TenantEntry, tenant: &Tenant) {
        let mut contradict = |sentence: String, remedy: &str| {
            self.problems.add(ProblemCode::ConstraintsContradict, place, sentence, remedy);
        };
        let id = &entry.id;
        if !entry.moving_to.is_empty() && !entry.arrived_from.is_empty() {
            let sentence = format!("tenant {id} is on its way and has arrived");
            contradict(sentence, "say moving_to until its cell is the new one, arrived_from from then on");
        } else if let Some(elsewhere) = tenant.elsewhere() {
            let field = if tenant.has_arrived { "arrived_from" } else { "moving_to" };
            match tenant.cell() {
                None if entry.cell.is_empty() => {
                    contradict(format!("tenant {id} is moving but is on no cell"), "say its cell");
                }
                Some(cell) if cell == elsewhere => {
                    let sentence = format!("{field} of tenant {id} is the cell that it is on");
                    contradict(sentence, "remove it, or name the other cell");
                }
                _ => {}
            }
        }
        let (region, residency) = (tenant.region(), tenant.residency());
        if region != NONE && residency != NONE {
            let both = |cell: &&Cell| cell.region == region && cell.residency == residency;
            if !self.fleet.cells.iter().any(|cell| both(&cell)) {
                let sentence =
                    format!("tenant {id}: no cell of region {} has residency {}", entry.region, entry.residency);
                contradict(sentence, "drop the region, or add a cell there with that residency");
            }
        }
        if let Some(pin) = tenant.pin() {
            let cell = self.fleet.cell(pin);
            let mut against = Vec::new();
            if region != NONE && region != cell.region {
                against.push("another region");
            }
            if residency != NONE && residency != cell.residency {
                against.push("another residency");
            }
            if !cell.is_for(tenant.tier) {
                against.push(if (tenant.tier == Tier::Platinum) == (cell.kind == CellKind::Dedicated) {
                    "databases that tenants share"
                } else {
                    "a kind that its tier may not use"
                });
            }
            if cell.state == CellState::Dead {
                against.push("the state dead");
            }
            if !against.is_empty() {
                let sentence =
                    format!("tenant {id} is pinned to cell {}, which has {}", entry.pin, against.join(" and "));
                contradict(sentence, "drop the pin or the other constraint");
            }
        }
    }

    fn profile(&mut self, place: Place, entry: &TenantEntry) -> Profile {
        let mut profile = Profile::ZERO;
        for resource in Resource::ALL {
            let demand = entry.demand.of(resource);
            let dims = resource.first_dim()..resource.first_dim() + HOURS;
            for (what, hourly, into) in [
                ("mean", &demand.mean, &mut profile.mean),
                ("deviation", &demand.deviation, &mut profile.deviation),
            ] {
                if let Err(wrong) = fill(hourly, &mut into[dims.clone()]) {
                    let sentence = format!("{} {what} of tenant {} {wrong}", resource.name(), entry.id);
                    let remedy = format!("give {} from 0 to {AMOUNT_MAX}: one value, or 24", resource.unit());
                    self.problems.add(ProblemCode::DemandInvalid, place, sentence, remedy);
                    into[dims.clone()].fill(0.0);
                }
            }
        }
        profile
    }

    /// Ends the fleet, and adds it up.
    ///
    /// # Errors
    /// [`FleetError`] lists everything that is wrong with it.
    pub fn finish(mut self) -> Result<Fleet, FleetError> {
        if self.fleet.spike_clusters.len() > SPIKE_CLUSTERS_MAX {
            let sentence = format!("{} spike clusters", self.fleet.spike_clusters.len());
            let remedy = format!("at most {SPIKE_CLUSTERS_MAX} are taken: join small ones");
            self.problems.add(ProblemCode::FleetTooLarge, Place::Fleet, sentence, remedy);
        }
        if self.mean_total.iter().chain(&self.variance_total).any(|&total| total > EXACT_MAX) {
            let sentence = "the demands, or their variances, add up to more than can be added exactly";
            self.problems.add(ProblemCode::FleetTooLarge, Place::Fleet, sentence, "split the fleet by region");
        }
        let count = u32::try_from(self.fleet.tenants.len()).expect("fewer than TENANTS_MAX");
        let mut by_id: Vec<u32> = (0..count).collect();
        let ids = &self.fleet.ids;
        by_id.sort_unstable_by(|&a, &b| ids.get(a as usize).cmp(ids.get(b as usize)).then(a.cmp(&b)));
        for pair in by_id.windows(2) {
            let (first, second) = (pair[0] as usize, pair[1] as usize);
            if ids.get(first) == ids.get(second) {
                let sentence = format!("tenant {} is already at {}", ids.get(first), self.places[first]);
                let remedy = "rename or remove one of them";
                self.problems.add(ProblemCode::IdDuplicate, self.places[second], sentence, remedy);
            }
        }
        self.fleet.by_id = by_id;
        self.check_groups();
        self.check_dedicated();
        let fleet = self.problems.or(self.fleet)?;
        fleet.standing();
        Ok(fleet)
    }

    /// A dedicated cell has one tenant: two that are pinned to it can never both be where they must.
    fn check_dedicated(&mut self) {
        let mut pinned: Vec<(CellIx, usize)> = Vec::new();
        for (index, tenant) in self.fleet.tenants.iter().enumerate() {
            let dedicated = |cell: &CellIx| self.fleet.cell(*cell).kind == CellKind::Dedicated;
            pinned.extend(tenant.pin().filter(dedicated).map(|cell| (cell, index)));
        }
        pinned.sort_unstable();
        for pair in pinned.windows(2) {
            let ((cell, first), (other, second)) = (pair[0], pair[1]);
            if cell == other {
                let ids = &self.fleet.ids;
                let (first, id) = (ids.get(first), ids.get(second));
                let cell = self.fleet.cell_id(cell);
                let sentence = format!("tenants {first} and {id} are both pinned to cell {cell}, which is for one");
                let remedy = "drop one of the pins";
                self.problems.add(ProblemCode::ConstraintsContradict, self.places[second], sentence, remedy);
            }
        }
    }

    /// Two tenants of one group that are pinned to one cell can never both be where they must.
    fn check_groups(&mut self) {
        let mut pinned: Vec<(usize, CellIx, usize)> = Vec::new();
        for (index, tenant) in self.fleet.tenants.iter().enumerate() {
            if let (Some(group), Some(pin)) = (tenant.group(), tenant.pin()) {
                pinned.push((group, pin, index));
            }
        }
        pinned.sort_unstable();
        for pair in pinned.windows(2) {
            let ((group, cell, first), (other, pin, second)) = (pair[0], pair[1]);
            if group == other && cell == pin {
                let ids = &self.fleet.ids;
                let sentence = format!(
                    "tenants {} and {} are of one anti-affinity group and both pinned to cell {}",
                    ids.get(first),
                    ids.get(second),
                    self.fleet.cell_id(cell)
                );
                let remedy = "drop one of the pins";
                self.problems.add(ProblemCode::ConstraintsContradict, self.places[second], sentence, remedy);
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Region,
    Residency,
}

/// Spreads amounts over 24 hours, in thousandths, rounded up.
fn fill(hourly: &Hourly, into: &mut [f64]) -> Result<(), String> {
    let check = |value: f64| {
        if value.is_nan() {
            Err("is not a number".to_owned())
        } else if !(0.0..=AMOUNT_MAX).contains(&value) {
            Err(format!("is {value}"))
        } else {
            Ok(ceil_thousandths(value))
        }
    };
    match hourly {
        Hourly::Flat(value) => into.fill(check(*value)?),
        Hourly::ByHour(values) if values.len() == HOURS => {
            for (hour, (slot, &value)) in into.iter_mut().zip(values).enumerate() {
                *slot = check(value).map_err(|wrong| format!("{wrong} at {hour:02}:00"))?;
            }
        }
        Hourly::ByHour(values) => return Err(format!("has {} values", values.len())),
    }
    Ok(())
}

/// Rounds up to whole thousandths, but takes 0.003 for 3 and not for 4, whatever 0.003 × 1000 is in binary.
fn ceil_thousandths(value: f64) -> f64 {
    let scaled = value * SCALE;
    let nearest = scaled.round();
    if (scaled - nearest).abs() < 1e-6 { nearest } else { scaled.ceil() }
}
