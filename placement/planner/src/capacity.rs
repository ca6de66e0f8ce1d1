//! Capacity: how long is there room, how many cells are missing, and what if some are lost?
//!
//! Demand grows by rules. For each zone (cells between which tenants may move) two days are looked for: the one on which
//! the first *cell* passes its budget if nobody is moved, so that its reserve is eaten, and the one on which the *zone*
//! does, however well its tenants are spread. Cells to add are counted so that at the horizon the zone stays below the
//! high water even while its largest cell, or failure domain, is lost.

mod loss;

use std::collections::BTreeMap;

use cell_model::{Revision, Tier};
use serde::{Deserialize, Serialize};

use crate::document::Amounts;
use crate::fleet::{CellIx, Fleet, NONE, TenantIx};
use crate::layout::{Layout, PeakReport, rounded};
use crate::policy::{Policy, PolicyInvalid};
use crate::resource::{ByDim, DIMS, Dim, Resource, SCALE};
use crate::ring::HomeRing;
use crate::zone::{Zone, Zones};
use cell_model::{CellId, CellState};

pub use loss::{Loss, LossReport};

/// The farthest that is looked ahead: ten years.
const HORIZON_DAYS_MAX: u32 = 3_650;
/// The most rules of growth, and the most losses, of one question.
const RULES_MAX: usize = 64;
/// Days of the month that growth is said for.
const MONTH_DAYS: f64 = 30.0;

/// Demand of some tenants that grows at a rate of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrowthRule {
    /// Tenants of this region, and on cells of this region; empty: any.
    pub region: String,
    /// Tenants of this tier; nothing: any.
    pub tier: Option<Tier>,
    /// Share by which demand grows in 30 days: 0.05 is five per cent.
    pub monthly: f64,
}

/// How demand grows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Growth {
    /// Share by which demand grows in 30 days, where no rule fits.
    pub monthly: f64,
    /// The first rule that fits a tenant counts.
    pub rules: Vec<GrowthRule>,
}

/// What a zone must be able to lose without passing the high water.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Survive {
    /// Nothing.
    Nothing,
    /// Its largest cell.
    #[default]
    Cell,
    /// Its largest failure domain. A cell without one is a domain by itself.
    Domain,
}

/// A question about capacity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CapacityRequest {
    /// How demand grows.
    pub growth: Growth,
    /// How far to look ahead.
    pub horizon_days: u32,
    /// What each zone must be able to lose.
    pub survive: Survive,
    /// Capacity of a cell to add; nothing: that of the zone's largest cell.
    pub shape: Option<Amounts>,
    /// What is lost in thought, each for itself.
    pub losses: Vec<Loss>,
}

impl Default for CapacityRequest {
    fn default() -> Self {
        Self {
            growth: Growth::default(),
            horizon_days: 365,
            survive: Survive::default(),
            shape: None,
            losses: Vec::new(),
        }
    }
}

/// A day on which something passes its budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Breach {
    /// Days from now; 0: it is so today.
    pub days: u32,
    /// Which cell, where it is one.
    pub cell: Option<CellId>,
    /// What is short, and when.
    pub peak: PeakReport,
}

/// One resource of a zone at the hour at which it is shortest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZoneUse {
    /// Which resource, at which hour.
    pub at: Dim,
    /// What all cells need together, in units of the resource.
    pub need: f64,
    /// What they may be planned with together.
    pub budget: f64,
    /// Need by budget.
    pub share: f64,
    /// Need by budget at the horizon.
    pub share_at_horizon: f64,
}

/// How a zone stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZoneCapacity {
    /// What its cells have in common.
    pub zone: String,
    /// How many cells may hold tenants.
    pub cells: usize,
    /// How many copies of tenants are on them.
    pub tenants: usize,
    /// Resource by resource.
    pub uses: Vec<ZoneUse>,
    /// When the first cell passes its budget if nobody is moved; nothing: not before the horizon.
    pub cell_breach: Option<Breach>,
    /// When the zone does, however well its tenants are spread.
    pub zone_breach: Option<Breach>,
    /// Cells to add, so that it stays below the high water up to the horizon, whatever it must survive.
    pub cells_to_add: u32,
    /// The shape of the cells to add.
    pub shape: Amounts,
    /// What asks for them: the resource and hour.
    pub because: Option<Dim>,
    /// All of it in a sentence.
    pub sentence: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CapacityReport {
    /// Revision of the fleet that it was made on.
    pub parent: Revision,
    /// What was asked.
    pub request: CapacityRequest,
    /// What it was judged by.
    pub policy: Policy,
    /// Zone by zone.
    pub zones: Vec<ZoneCapacity>,
    /// Loss by loss.
    pub losses: Vec<LossReport>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapacityError {
    /// A rate that cannot be.
    #[error("growth of {given} a month: give a share from 0 to 10, such as 0.05")]
    GrowthInvalid {
        /// As given.
        given: String,
    },
    /// A rule that no tenant can fit.
    #[error("a growth rule is for region {region}, where no cell stands")]
    RegionUnknown {
        /// Which.
        region: String,
    },
    /// Too far ahead, or not at all.
    #[error("a horizon of {given} days: give 1 to {HORIZON_DAYS_MAX}")]
    HorizonInvalid {
        /// As given.
        given: u32,
    },
    /// Too many rules or losses.
    #[error("{given} growth rules or losses: at most {RULES_MAX} are taken")]
    TooMany {
        /// How many.
        given: usize,
    },
    /// A shape of nothing.
    #[error("the shape of a cell to add has {given} {}: give more than 0", resource.unit())]
    ShapeInvalid {
        /// Of what.
        resource: Resource,
        /// As given.
        given: String,
    },
    /// Nothing of that name can be lost.
    #[error("there is no {what} {name} in the fleet to be lost")]
    LossUnknown {
        /// Cell, domain or region.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The policy cannot hold.
    #[error(transparent)]
    Policy(#[from] PolicyInvalid),
}

impl CapacityError {
    /// Stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::GrowthInvalid { .. } => "GROWTH_INVALID",
            Self::RegionUnknown { .. } => "REGION_UNKNOWN",
            Self::HorizonInvalid { .. } => "HORIZON_INVALID",
            Self::TooMany { .. } => "RULES_TOO_MANY",
            Self::ShapeInvalid { .. } => "SHAPE_INVALID",
            Self::LossUnknown { .. } => "LOSS_UNKNOWN",
            Self::Policy(_) => "POLICY_INVALID",
        }
    }
}

/// Answers a question about capacity. The same input gives the same bytes.
///
/// # Errors
/// [`CapacityError`] where the question makes no sense.
pub fn capacity(
    fleet: &Fleet,
    policy: Policy,
    ring: Option<&HomeRing>,
    request: &CapacityRequest,
) -> Result<CapacityReport, CapacityError> {
    policy.check()?;
    check(fleet, request)?;
    let losses: Result<Vec<_>, _> = request.losses.iter().map(|of| loss::lose(fleet, policy, ring, of)).collect();
    let zones = Zones::new(fleet);
    let mut ahead = Ahead { fleet, policy, growth: &request.growth, zones: &zones, seen: BTreeMap::new() };
    let told = (0..zones.all.len()).map(|zone| ahead.zone(zone, request)).collect();
    Ok(CapacityReport { parent: fleet.revision(), request: request.clone(), policy, zones: told, losses: losses? })
}

fn check(fleet: &Fleet, request: &CapacityRequest) -> Result<(), CapacityError> {
    let growth = &request.growth;
    let rates = growth.rules.iter().map(|rule| rule.monthly).chain([growth.monthly]);
    if let Some(rate) = rates.into_iter().find(|rate| !(0.0..=10.0).contains(rate)) {
        return Err(CapacityError::GrowthInvalid { given: rate.to_string() });
    }
    let unknown = |rule: &&GrowthRule| !rule.region.is_empty() && fleet.find_region(&rule.region).is_none();
    if let Some(rule) = growth.rules.iter().find(unknown) {
        return Err(CapacityError::RegionUnknown { region: rule.region.clone() });
    }
    if !(1..=HORIZON_DAYS_MAX).contains(&request.horizon_days) {
        return Err(CapacityError::HorizonInvalid { given: request.horizon_days });
    }
    if let Some(given) = [growth.rules.len(), request.losses.len()].into_iter().find(|&count| count > RULES_MAX) {
        return Err(CapacityError::TooMany { given });
    }
    for resource in Resource::ALL {
        let given = request.shape.map_or(1.0, |shape| shape.of(resource));
        if !(given > 0.0 && given <= 2e6) {
            return Err(CapacityError::ShapeInvalid { resource, given: given.to_string() });
        }
    }
    Ok(())
}

/// The rate at which a tenant's demand grows.
fn monthly(fleet: &Fleet, growth: &Growth, tenant: TenantIx) -> f64 {
    let of = fleet.tenant(tenant);
    let region = if of.region == NONE { of.cell().map_or(NONE, |cell| fleet.cell(cell).region) } else { of.region };
    let fits = |rule: &&GrowthRule| {
        (rule.region.is_empty() || fleet.find_region(&rule.region) == Some(region))
            && rule.tier.is_none_or(|tier| tier == of.tier)
    };
    growth.rules.iter().find(fits).map_or(growth.monthly, |rule| rule.monthly)
}

/// The fleet as it is expected to be in so many days.
pub(crate) fn grown(fleet: &Fleet, growth: &Growth, days: u32) -> Fleet {
    let mut later = fleet.clone();
    let months = f64::from(days) / MONTH_DAYS;
    later.change_demands(|tenant, profile| {
        let factor = (1.0 + monthly(fleet, growth, tenant)).powf(months);
        profile.mean.iter_mut().chain(&mut profile.deviation).for_each(|value| *value *= factor);
    });
    later
}

/// How one zone stands on one day.
#[derive(Clone)]
struct Standing {
    /// The fullest cell.
    cell: (CellIx, PeakReport, bool),
    need: ByDim,
    budget: ByDim,
}

impl Standing {
    fn of(layout: &Layout<'_>, zone: &Zone) -> Self {
        let mut standing = Self {
            cell: (zone.cells[0], layout.peak_report(zone.cells[0]), false),
            need: [0.0; DIMS],
            budget: [0.0; DIMS],
        };
        let mut fullest = -1.0;
        for &cell in zone.cells.iter().filter(|&&cell| gives_room(layout, cell)) {
            let peak = layout.peak(cell);
            if peak.share > fullest {
                fullest = peak.share;
                standing.cell = (cell, peak.report(), peak.is_over_budget());
            }
            let budget = &layout.fleet().cell(cell).budget.amounts;
            for dim in 0..DIMS {
                standing.need[dim] += layout.need_at(cell, dim, None);
                standing.budget[dim] += budget[dim];
            }
        }
        standing
    }

    fn share(&self, dim: usize) -> f64 {
        if self.need[dim] <= 0.0 { 0.0 } else { self.need[dim] / self.budget[dim].max(1.0) }
    }

    /// The dimension in which the zone as a whole is fullest.
    fn fullest(&self, dims: impl Iterator<Item = usize>) -> (f64, usize) {
        dims.map(|dim| (self.share(dim), dim)).fold((-1.0, 0), |most, of| if of.0 > most.0 { of } else { most })
    }
}

/// A cell that holds nobody and may not take anybody gives no room.
fn gives_room(layout: &Layout<'_>, cell: CellIx) -> bool {
    match layout.fleet().cell(cell).state {
        CellState::Active => true,
        CellState::Cordoned => !layout.members(cell).is_empty(),
        CellState::Dead => false,
    }
}

/// Looks at days ahead, each once.
struct Ahead<'a> {
    fleet: &'a Fleet,
    policy: Policy,
    growth: &'a Growth,
    zones: &'a Zones,
    seen: BTreeMap<u32, Vec<Standing>>,
}

impl Ahead<'_> {
    fn on(&mut self, day: u32) -> &[Standing] {
        let Self { fleet, policy, growth, zones, seen } = self;
        seen.entry(day).or_insert_with(|| {
            let later = grown(fleet, growth, day);
            let layout = Layout::new(&later, *policy);
            zones.all.iter().map(|zone| Standing::of(&layout, zone)).collect()
        })
    }

    /// The first day on which the condition holds. Demand only grows, so it holds from then on.
    fn first_day(&mut self, zone: usize, horizon: u32, holds: impl Fn(&Standing) -> bool) -> Option<u32> {
        if !holds(&self.on(horizon)[zone]) {
            return None;
        }
        let (mut from, mut to) = (0, horizon);
        while from < to {
            let middle = from.midpoint(to);
            if holds(&self.on(middle)[zone]) {
                to = middle;
            } else {
                from = middle + 1;
            }
        }
        Some(to)
    }

    fn zone(&mut self, zone: usize, request: &CapacityRequest) -> ZoneCapacity {
        let horizon = request.horizon_days;
        let cell_day = self.first_day(zone, horizon, |standing| standing.cell.2);
        let zone_day = self.first_day(zone, horizon, |standing| standing.fullest(0..DIMS).0 > 1.0);
        let cell_breach = cell_day.map(|days| {
            let (cell, peak, _) = self.on(days)[zone].cell;
            Breach { days, cell: Some(self.fleet.cell_id(cell).clone()), peak }
        });
        let zone_breach = zone_day.map(|days| {
            let (share, dim) = self.on(days)[zone].fullest(0..DIMS);
            Breach { days, cell: None, peak: PeakReport { share: rounded(share), at: Dim::at(dim) } }
        });
        let now = self.on(0)[zone].clone();
        let later = self.on(horizon)[zone].clone();
        let of_resource = |resource: Resource| {
            let (share, dim) = now.fullest(resource.first_dim()..resource.first_dim() + crate::resource::HOURS);
            ZoneUse {
                at: Dim::at(dim),
                need: now.need[dim] / SCALE,
                budget: now.budget[dim] / SCALE,
                share: rounded(share),
                share_at_horizon: rounded(later.share(dim)),
            }
        };
        let (cells_to_add, shape, because) = self.missing(zone, &later, request);
        let layout_cells = &self.zones.all[zone];
        let mut told = ZoneCapacity {
            zone: layout_cells.name.clone(),
            cells: layout_cells.cells.iter().filter(|&&cell| self.is_open(cell)).count(),
            tenants: self.tenants(zone),
            uses: Resource::ALL.map(of_resource).to_vec(),
            cell_breach,
            zone_breach,
            cells_to_add,
            shape,
            because: because.map(Dim::at),
            sentence: String::new(),
        };
        told.sentence = sentence(&told, request);
        told
    }

    fn is_open(&self, cell: CellIx) -> bool {
        self.fleet.cell(cell).state != CellState::Dead
    }

    fn tenants(&self, zone: usize) -> usize {
        let homes = self.fleet.tenants().filter_map(|tenant| self.fleet.tenant(tenant).cell());
        homes.filter(|&cell| self.zones.of(cell) == zone).count()
    }

    /// Cells to add at the horizon, their shape, and the dimension that asks for them.
    fn missing(&self, zone: usize, later: &Standing, request: &CapacityRequest) -> (u32, Amounts, Option<usize>) {
        let cells = &self.zones.all[zone].cells;
        let largest = cells.iter().copied().max_by(|&a, &b| {
            let cpu = |cell: CellIx| self.fleet.capacity(cell).cpu;
            cpu(a).total_cmp(&cpu(b)).then(b.cmp(&a))
        });
        let like = largest.expect("a zone has cells");
        let shape = request.shape.unwrap_or_else(|| self.fleet.capacity(like));
        let usable = 1.0 - self.fleet.reserve(like);
        let lost = self.largest_loss(cells, request.survive);
        let mut most = (0u32, None);
        for dim in 0..DIMS {
            let each = shape.of(Dim::at(dim).resource) * SCALE * usable;
            // Above the high water a cell is hot: the zone is to stay below it with the largest part lost.
            let wanted = later.need[dim] / self.policy.high_water.max(0.01) + lost[dim] - later.budget[dim];
            if wanted > 0.0 && each > 0.0 {
                let count = whole_cells(wanted / each);
                if count > most.0 {
                    most = (count, Some(dim));
                }
            }
        }
        (most.0, shape, most.1)
    }

    /// By dimension: what the largest part that may be lost offers.
    fn largest_loss(&self, cells: &[CellIx], survive: Survive) -> ByDim {
        let mut parts: BTreeMap<(u32, usize), ByDim> = BTreeMap::new();
        for &cell in cells.iter().filter(|&&cell| self.is_open(cell)) {
            let of = self.fleet.cell(cell);
            let part = match survive {
                Survive::Nothing => continue,
                Survive::Domain if of.domain != NONE => (of.domain, 0),
                Survive::Cell | Survive::Domain => (NONE, cell.index()),
            };
            let sums = parts.entry(part).or_insert([0.0; DIMS]);
            sums.iter_mut().zip(&of.budget.amounts).for_each(|(sum, budget)| *sum += budget);
        }
        let mut largest = [0.0f64; DIMS];
        for part in parts.values() {
            largest.iter_mut().zip(part).for_each(|(most, amount)| *most = most.max(*amount));
        }
        largest
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range just before")]
fn whole_cells(count: f64) -> u32 {
    // A hair less, so that rounding does not ask for a cell.
    (count - 1e-9).ceil().clamp(0.0, 1e9) as u32
}

fn sentence(of: &ZoneCapacity, request: &CapacityRequest) -> String {
    let horizon = request.horizon_days;
    let first = match &of.cell_breach {
        None => format!("no cell passes its budget within {horizon} days"),
        Some(Breach { days, cell: Some(cell), peak }) => {
            format!("cell {cell} passes its budget in {days} days ({}) if nobody is moved", peak.at)
        }
        Some(Breach { days, peak, .. }) => format!("a cell passes its budget in {days} days ({})", peak.at),
    };
    let second = match &of.zone_breach {
        None => "all of them together do not".to_owned(),
        Some(Breach { days, peak, .. }) => format!("all of them together do in {days} days ({})", peak.at),
    };
    let third = match (of.cells_to_add, of.because, request.survive) {
        (0, ..) | (_, None, _) => "no cell is to be added".to_owned(),
        (count, Some(dim), Survive::Nothing) => format!("add {count} cells for {dim}"),
        (count, Some(dim), Survive::Cell) => format!("add {count} cells for {dim}, with the largest cell lost"),
        (count, Some(dim), Survive::Domain) => {
            format!("add {count} cells for {dim}, with the largest failure domain lost")
        }
    };
    format!("{first}; {second}; {third}")
}
