//! Looks at a fleet on days ahead, zone by zone.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cell_model::CellState;

use super::waiting::{Waiting, cells_for};
use super::{Breach, CapacityRequest, Growth, GrowthRule, Survive, ZoneCapacity, ZoneUse};
use crate::document::Amounts;
use crate::fleet::{CellIx, Fleet, NONE, TenantIx};
use crate::layout::{Layout, PeakReport, rounded};
use crate::policy::Policy;
use crate::resource::{ByDim, DIMS, Dim, HOURS, Resource, SCALE};
use crate::zone::{Zone, Zones};

/// Days of the month that growth is said for.
const MONTH_DAYS: f64 = 30.0;

/// The rate at which a tenant's demand grows.
fn monthly(fleet: &Fleet, growth: &Growth, tenant: TenantIx) -> f64 {
    let of = fleet.tenant(tenant);
    let asked = of.region();
    let region = if asked == NONE { of.cell().map_or(NONE, |cell| fleet.cell(cell).region) } else { asked };
    let fits = |rule: &&GrowthRule| {
        (rule.region.is_empty() || fleet.find_region(&rule.region) == Some(region))
            && rule.tier.is_none_or(|tier| tier == of.tier)
    };
    growth.rules.iter().find(fits).map_or(growth.monthly, |rule| rule.monthly)
}

/// The fleet as it is expected to be in so many days.
fn grown(fleet: &Fleet, growth: &Growth, days: u32) -> Fleet {
    let mut later = fleet.clone();
    let months = f64::from(days) / MONTH_DAYS;
    later.change_demands(|tenant, profile| {
        let factor = libm::pow(1.0 + monthly(fleet, growth, tenant), months);
        profile.mean.iter_mut().chain(&mut profile.deviation).for_each(|value| *value *= factor);
    });
    later
}

/// Cells to add.
struct Missing {
    cells: u32,
    /// The dimension that asks for them.
    because: Option<usize>,
    /// One that is short, and of which they have nothing.
    lacking: Option<usize>,
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
    /// `waiting` is what tenants without a cell need of it.
    fn of(layout: &Layout<'_>, zone: &Zone, waiting: ByDim) -> Self {
        let mut standing = Self {
            cell: (zone.cells[0], layout.peak_report(zone.cells[0]), false),
            need: waiting,
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
pub(super) struct Ahead<'a> {
    fleet: &'a Fleet,
    policy: Policy,
    growth: &'a Growth,
    zones: &'a Zones,
    waiting: Waiting,
    /// By zone: those of them that no cell admits today.
    stranded: Vec<Vec<TenantIx>>,
    /// By cell: whether it gives room. Demand changes nothing about that.
    gives_room: Vec<bool>,
    seen: BTreeMap<u32, Vec<Standing>>,
}

impl<'a> Ahead<'a> {
    pub(super) fn new(fleet: &'a Fleet, policy: Policy, growth: &'a Growth, zones: &'a Zones) -> Self {
        let waiting = Waiting::of(fleet, zones);
        let stranded = waiting.without_a_cell(fleet, policy);
        let layout = Layout::new(fleet, policy);
        let gives_room = fleet.cells().map(|cell| gives_room(&layout, cell)).collect();
        Self { fleet, policy, growth, zones, waiting, stranded, gives_room, seen: BTreeMap::new() }
    }

    /// Tenants without a cell that no zone has a place for.
    pub(super) const fn nowhere(&self) -> usize {
        self.waiting.nowhere
    }

    fn on(&mut self, day: u32) -> &[Standing] {
        let Self { fleet, policy, growth, zones, waiting, seen, .. } = self;
        seen.entry(day).or_insert_with(|| {
            let later = grown(fleet, growth, day);
            let layout = Layout::new(&later, *policy);
            let of = |(index, zone)| Standing::of(&layout, zone, waiting.need(&later, index, policy.risk));
            zones.all.iter().enumerate().map(of).collect()
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

    pub(super) fn zone(&mut self, zone: usize, request: &CapacityRequest) -> ZoneCapacity {
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
            let (share, dim) = now.fullest(resource.first_dim()..resource.first_dim() + HOURS);
            ZoneUse {
                at: Dim::at(dim),
                need: now.need[dim] / SCALE,
                budget: now.budget[dim] / SCALE,
                share: rounded(share),
                share_at_horizon: rounded(later.share(dim)),
            }
        };
        let (shape, Missing { cells: cells_to_add, because, lacking }) = self.missing(zone, &later, request);
        let layout_cells = &self.zones.all[zone];
        let mut told = ZoneCapacity {
            zone: layout_cells.name.clone(),
            cells: layout_cells.cells.iter().filter(|&&cell| self.is_open(cell)).count(),
            tenants: self.tenants(zone),
            waiting: self.waiting.by_zone[zone].len(),
            stranded: self.stranded[zone].len(),
            uses: Resource::ALL.map(of_resource).to_vec(),
            cell_breach,
            zone_breach,
            cells_to_add,
            shape,
            because: because.map(Dim::at),
            lacking: lacking.map(Dim::at),
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

    /// Cells to add at the horizon, and their shape.
    fn missing(&self, zone: usize, later: &Standing, request: &CapacityRequest) -> (Amounts, Missing) {
        let cells = &self.zones.all[zone].cells;
        let largest = cells.iter().copied().max_by(|&a, &b| {
            let cpu = |cell: CellIx| self.fleet.capacity(cell).cpu;
            cpu(a).total_cmp(&cpu(b)).then(b.cmp(&a))
        });
        let like = largest.expect("a zone has cells");
        let shape = request.shape.unwrap_or_else(|| self.fleet.capacity(like));
        let usable = 1.0 - self.fleet.reserve(like);
        let lost = self.largest_loss(cells, request.survive);
        let (mut most, mut largest) = ((0u32, None), 0.0);
        // More than what rounding leaves.
        let (mut lacking, mut least) = (None, 1e-6);
        for dim in 0..DIMS {
            let each = shape.of(Dim::at(dim).resource) * SCALE * usable;
            // Above the high water a cell is hot: the zone is to stay below it with the largest part lost.
            let wanted = later.need[dim] / self.policy.high_water.max(0.01) + lost[dim] - later.budget[dim];
            if wanted > 0.0 && each > 0.0 {
                let cells = wanted / each;
                if whole_cells(cells) > 0 && cells > largest {
                    (most, largest) = ((whole_cells(cells), Some(dim)), cells);
                }
            } else if wanted > least {
                (lacking, least) = (Some(dim), wanted);
            }
        }
        let (count, because) = cells_for(self.fleet, self.policy, &self.stranded[zone], shape, usable);
        if count > most.0 {
            most = (count, because);
        }
        (shape, Missing { cells: most.0, because: most.1, lacking })
    }

    /// By dimension: what the largest part that may be lost offers.
    fn largest_loss(&self, cells: &[CellIx], survive: Survive) -> ByDim {
        let mut parts: BTreeMap<(u32, usize), ByDim> = BTreeMap::new();
        for &cell in cells.iter().filter(|cell| self.gives_room[cell.index()]) {
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

fn when(days: u32) -> String {
    match days {
        0 => "today".into(),
        1 => "in 1 day".into(),
        days => format!("in {days} days"),
    }
}

fn sentence(of: &ZoneCapacity, request: &CapacityRequest) -> String {
    let horizon = request.horizon_days;
    let first = match &of.cell_breach {
        None if horizon == 1 => "no cell passes its budget within a day".to_owned(),
        None => format!("no cell passes its budget within {horizon} days"),
        Some(Breach { days, cell: Some(cell), peak }) => {
            format!("cell {cell} passes its budget {} ({}) if nobody is moved", when(*days), peak.at)
        }
        Some(Breach { days, peak, .. }) => format!("a cell passes its budget {} ({})", when(*days), peak.at),
    };
    let second = match &of.zone_breach {
        None => "all of them together do not".to_owned(),
        Some(Breach { days, peak, .. }) => format!("all of them together do {} ({})", when(*days), peak.at),
    };
    let cells = |count| if count == 1 { "1 cell".to_owned() } else { format!("{count} cells") };
    let mut third = match (of.cells_to_add, of.because, request.survive) {
        (0, ..) | (_, None, _) if of.lacking.is_some() => "cells of this shape do not help".to_owned(),
        (0, ..) | (_, None, _) => "no cell is to be added".to_owned(),
        (count, Some(dim), Survive::Nothing) => format!("add {} for {dim}", cells(count)),
        (count, Some(dim), Survive::Cell) => format!("add {} for {dim}, with the largest cell lost", cells(count)),
        (count, Some(dim), Survive::Domain) => {
            format!("add {} for {dim}, with the largest failure domain lost", cells(count))
        }
    };
    if let Some(dim) = of.lacking {
        let _written = write!(third, ": {dim} is short, and they have none");
    }
    let fourth = match (of.waiting, of.stranded) {
        (0, _) => String::new(),
        (1, 0) => "; 1 tenant waits for a cell, and some admit it".to_owned(),
        (1, _) => "; 1 tenant waits for a cell, and none admits it".to_owned(),
        (count, stranded) => format!("; {count} tenants wait for a cell, {stranded} of them admitted by none"),
    };
    format!("{first}; {second}; {third}{fourth}")
}
