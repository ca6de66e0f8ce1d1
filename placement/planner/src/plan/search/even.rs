//! Evens all cells out together, where relieving them one after the other gets stuck.
//!
//! Near the lower bound every cell is nearly full at several hours and in several resources, and no tenant can leave one
//! without making another as full somewhere. So what is brought down is not the fullest cell but the sum over all cells
//! of [`excess`]: what they have above a level, squared. A tenant goes where that sum falls the most, though its target
//! may get a little above the level for it and is relieved by a later move. Where no move lowers the sum, two tenants
//! change places.
//!
//! ```text
//! level ── a little above the bound ──► cells above it: one move or exchange at a time
//!              ▲                                            │ nothing above: a lower level
//!              └────────── the best one is kept ◄───────────┘ stuck: a level half way back
//! ```
//!
//! Only the heaviest tenants of each cell take part. One that has been moved may be moved on, or back, as often as
//! that helps: what counts against the bounds is where it ends up. `even/order.rs` makes moves of it that can be
//! carried out one after the other.

mod excess;
mod order;
mod weight;

use super::Search;
use super::relieve::Aim;
use crate::filter::Question;
use crate::fleet::{CellIx, TenantIx};
use crate::layout::Layout;
use crate::load::{Rough, single};
use crate::plan::bound::least_after;
use crate::resource::{DIMS, RESOURCES, Resource};
use crate::score::shared_fate;
use excess::{Inverse, difference, excess, excess_with};
use weight::{Slopes, heaviest};

/// How many tenants of a cell take part, the heaviest ...
const HEAVY_MAX: usize = 64;
/// ... and how many of all cells; each takes some 330 bytes.
const ITEMS_MAX: usize = 250_000;
/// How many tenants of a cell are tried for one move, those that take the most off it ...
const LEAVING_MAX: usize = 16;
/// ... and for one exchange, against the tenants of so many cells.
const PARTNERS_MAX: usize = 16;
/// How often a cell with one tenant more is looked at: some twenty nanoseconds each. A count and not a time, so that the
/// same input makes the same plan.
const LOOKS_MAX: u64 = 90_000_000;
/// The first level: by so much above the floor, and above what the number of moves cannot get below.
const ABOVE_FLOOR: f64 = 1.06;
const ABOVE_MOVES: f64 = 1.03;
/// After a level that has been reached the next one is so much of the way up from the highest that has been missed.
const LEVEL_SHRINK: f64 = 0.7;
/// No level this close to the floor or to one that has been reached is tried.
const LEVEL_STEP: f64 = 0.000_5;
/// Levels that may be missed.
const MISSES_MAX: u32 = 4;
/// A sum of squares that is nothing, and a gain that is none.
const NOTHING: f32 = 2e-9;

/// One tenant that takes part.
struct Item {
    tenant: TenantIx,
    home: CellIx,
    at: CellIx,
    bytes: u64,
    /// The share of a cell that it must weigh, so that moving it pays.
    least: f32,
    /// What it adds to a cell, in thousandths.
    adds: Rough,
    /// By resource: the dimension in which it adds the most.
    heavy: [usize; RESOURCES],
}

/// What is kept of the best arrangement: who is not at home, and where instead.
type Away = Vec<(TenantIx, CellIx)>;

/// All cells, and the tenants that take part.
pub(super) struct Evening<'s, 'a> {
    search: &'s mut Search<'a>,
    floors: &'s [f64],
    items: Vec<Item>,
    /// By cell: the tenants on it that take part.
    on: Vec<Vec<usize>>,
    inverse: Vec<Inverse>,
    /// By cell: what it is to be brought down to, and what it has above that.
    settle: Vec<f32>,
    excess: Vec<f32>,
    /// Cells that were hot: they are brought down to the level, not just below the high water.
    begun: Vec<bool>,
    stuck: Vec<bool>,
    moves: usize,
    bytes: u64,
    looks: u64,
    /// A cell that has no more than this above its level is not worth a move.
    idle: f32,
    /// A bound was in the way of a move.
    bounded: bool,
}

impl Search<'_> {
    /// Evens cells out as far as the bounds allow. Says whether they were in the way.
    pub(super) fn even_out(&mut self, floors: &[f64]) -> bool {
        let mut evening = Evening::new(self, floors);
        let away = evening.best();
        let bounded = evening.bounded;
        evening.go_home();
        self.carry_out(away, floors);
        bounded
    }
}

impl<'s, 'a> Evening<'s, 'a> {
    fn new(search: &'s mut Search<'a>, floors: &'s [f64]) -> Self {
        let fleet = search.layout.fleet();
        let cells = fleet.cells().len();
        let inverse_of = |cell: CellIx| {
            let inverse = &fleet.cell(cell).budget.inverse;
            Resource::ALL.map(|resource| single(inverse[resource.first_dim()]))
        };
        let inverse: Vec<Inverse> = fleet.cells().map(inverse_of).collect();
        let mut evening = Self {
            floors,
            items: Vec::new(),
            on: vec![Vec::new(); cells],
            inverse,
            settle: vec![0.0; cells],
            excess: vec![0.0; cells],
            begun: vec![false; cells],
            stuck: vec![false; cells],
            moves: 0,
            bytes: 0,
            looks: LOOKS_MAX,
            idle: single(search.gain_wanted(Aim::WORTH_IT, 0).powi(2)).max(NOTHING),
            bounded: false,
            search,
        };
        evening.take_part();
        evening
    }

    const fn layout(&self) -> &Layout<'a> {
        &self.search.layout
    }

    /// Chooses the heaviest tenants of each cell.
    fn take_part(&mut self) {
        let layout = &self.search.layout;
        let slopes = Slopes::of(layout);
        let cells = layout.fleet().cells();
        let each = (ITEMS_MAX / cells.len().max(1)).clamp(2, HEAVY_MAX);
        for cell in cells.filter(|&cell| self.search.is_alive(cell)) {
            let mut heavy: Vec<(f32, Item)> = Vec::with_capacity(layout.members(cell).len());
            for &tenant in layout.members(cell) {
                heavy.extend(self.item(tenant, cell, &slopes));
            }
            let order = |a: &(f32, Item), b: &(f32, Item)| b.0.total_cmp(&a.0).then(a.1.tenant.cmp(&b.1.tenant));
            if heavy.len() > each {
                heavy.select_nth_unstable_by(each, order);
                heavy.truncate(each);
            }
            heavy.sort_unstable_by(order);
            for (_, item) in heavy {
                self.on[cell.index()].push(self.items.len());
                self.items.push(item);
            }
        }
    }

    /// A tenant with its weight, if it may be moved and moving it may pay.
    fn item(&self, tenant: TenantIx, cell: CellIx, slopes: &Slopes) -> Option<(f32, Item)> {
        let search = &*self.search;
        let (inverse, bytes) = (&self.inverse[cell.index()], search.bytes_of(tenant));
        let gain = search.gain_wanted(Aim::WORTH_IT, bytes);
        let too_long = search.layout.policy().seconds_for(bytes) > search.request.bounds.seconds_max;
        if search.fixed(tenant).is_some() || search.is_cooling(tenant) || too_long {
            return None;
        }
        let adds = slopes.adds(&search.layout, tenant);
        let weight = (0..DIMS).map(|dim| adds[dim] * inverse[dim * RESOURCES / DIMS]).fold(0.0, f32::max);
        let least = single(gain);
        let heavy = heaviest(&adds);
        (weight >= least).then_some((weight, Item { tenant, home: cell, at: cell, bytes, least, adds, heavy }))
    }

    /// Tries one level after the other; gives the best arrangement that was found.
    fn best(&mut self) -> Away {
        let policy = *self.layout().policy();
        let floor = self.floors.iter().copied().fold(f64::INFINITY, f64::min).max(policy.low_water);
        let hottest = self.search.hottest();
        let mut best: (f64, Away) = (hottest, Vec::new());
        // The lowest level that has been reached, and the highest that has been missed.
        let (mut reached, mut missed) = (hottest.min(super::cool::LEVEL_MAX), floor);
        let mut level = self.first_level(floor).min(f64::midpoint(missed, reached));
        let mut misses = 0;
        while misses < MISSES_MAX && reached - missed > LEVEL_STEP && self.looks > 0 {
            let all = self.bring_down_to(level, policy.high_water);
            let hottest = self.search.hottest();
            if hottest < best.0 - 1e-9 {
                best = (hottest, self.away());
            }
            if all {
                reached = level;
            } else {
                misses += 1;
                missed = level;
                reached = reached.min(hottest);
            }
            level = missed + (reached - missed) * if misses == 0 { LEVEL_SHRINK } else { 0.5 };
        }
        best.1
    }

    /// Where the search is likely to end: a little above the floor, or above what so many moves cannot get below. The
    /// nearer the first level is to the last, the fewer moves are made that do not go far enough.
    fn first_level(&self, floor: f64) -> f64 {
        let search = &*self.search;
        let moves = search.request.bounds.moves_max as usize - search.steps.len();
        let moves = u32::try_from(moves).expect("no more than the bound");
        let of_moves = least_after(&search.layout, search.layout.fleet().cells(), floor, moves);
        (floor * ABOVE_FLOOR).max(of_moves * ABOVE_MOVES)
    }

    fn away(&self) -> Away {
        let away = self.items.iter().filter(|item| item.at != item.home);
        away.map(|item| (item.tenant, item.at)).collect()
    }

    fn go_home(&mut self) {
        for item in self.items.iter().filter(|item| item.at != item.home) {
            self.search.layout.shift(item.tenant, item.home);
            for cell in [item.home, item.at] {
                self.search.parts[cell.index()] -= 1;
            }
        }
    }

    /// Says whether every cell that is looked at was brought down to the level.
    fn bring_down_to(&mut self, level: f64, high_water: f64) -> bool {
        for cell in self.layout().fleet().cells() {
            let zone = self.search.zones.of(cell);
            self.settle[cell.index()] = single(level.max(self.floors[zone]));
            self.begun[cell.index()] |= self.layout().peak(cell).share > high_water;
            self.measure(cell);
        }
        let mut changed = true;
        while changed {
            changed = false;
            self.stuck.fill(false);
            let before: f32 = self.excess.iter().sum();
            while let Some(cell) = self.worst() {
                if self.looks == 0 {
                    return false;
                }
                if !self.move_one(cell) && !self.exchange(cell) {
                    self.stuck[cell.index()] = true;
                }
            }
            let after: f32 = self.excess.iter().sum();
            changed |= after > NOTHING && after < before * 0.98;
        }
        let open = |cell: CellIx| self.begun[cell.index()] && self.excess[cell.index()] > self.idle;
        !self.layout().fleet().cells().any(|cell| open(cell) && self.search.is_alive(cell))
    }

    fn measure(&mut self, cell: CellIx) {
        self.excess[cell.index()] = excess(self.search.layout.rough(cell), self.settle[cell.index()]);
    }

    /// The cell with the most above the level.
    fn worst(&self) -> Option<CellIx> {
        let mut worst: Option<(f32, CellIx)> = None;
        for cell in self.layout().fleet().cells() {
            let of = self.excess[cell.index()];
            let open = of > self.idle && self.begun[cell.index()] && !self.stuck[cell.index()];
            if open && worst.is_none_or(|(most, _)| of > most) && self.search.is_alive(cell) {
                worst = Some((of, cell));
            }
        }
        worst.map(|(_, cell)| cell)
    }

    /// The tenants of a cell that may leave it, and what that takes off it; the most first.
    fn leaving(&mut self, cell: CellIx) -> Vec<(f32, usize)> {
        let (own, settle) = (self.excess[cell.index()], self.settle[cell.index()]);
        let shares = self.search.layout.rough(cell);
        let inverse = &self.inverse[cell.index()];
        let hot: Vec<usize> = (0..DIMS).filter(|&dim| shares[dim] > settle).collect();
        let mut leaving = Vec::with_capacity(self.on[cell.index()].len());
        let mut bounded = false;
        for &index in &self.on[cell.index()] {
            let item = &self.items[index];
            let pays = |&dim: &usize| {
                (item.adds[dim] * inverse[dim * RESOURCES / DIMS]).min(shares[dim] - settle) >= item.least
            };
            if item.at == item.home && !hot.iter().any(pays) {
                continue;
            }
            if !self.affords(&[index]) {
                bounded = true;
                continue;
            }
            let relief = own - excess_with(shares, inverse, &item.adds, -1.0, settle, own);
            if relief > NOTHING {
                leaving.push((relief, index));
            }
        }
        self.bounded |= bounded;
        self.looks = self.looks.saturating_sub(leaving.len() as u64);
        leaving.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        leaving.truncate(LEAVING_MAX);
        leaving
    }

    /// Whether these may be moved within the bounds, wherever to: the cells' own bounds are asked with the target.
    fn affords(&self, indices: &[usize]) -> bool {
        let bounds = &self.search.request.bounds;
        let new = indices.iter().map(|&index| &self.items[index]).filter(|item| item.at == item.home);
        let (count, bytes) = new.fold((0, 0u64), |(count, bytes), item| (count + 1, bytes + item.bytes));
        let bytes = self.search.bytes.saturating_add(self.bytes).saturating_add(bytes);
        self.search.steps.len() + self.moves + count <= bounds.moves_max as usize
            && (count == 0 || bytes <= bounds.bytes_max)
    }

    /// Whether a tenant may be on a cell, room aside: by the filters, its group and the bounds of both cells.
    fn admits(&self, index: usize, target: CellIx) -> bool {
        let item = &self.items[index];
        if target == item.home {
            return true;
        }
        let question = Question::new(self.layout(), item.tenant, &self.search.draining);
        let parts =
            self.search.has_part_left(target) && (item.at != item.home || self.search.has_part_left(item.home));
        parts
            && question.wish().ask(target).is_ok()
            && shared_fate(&question, target) <= shared_fate(&question, item.at)
    }

    /// Moves the tenant for which the sum falls the most, if it does for any.
    fn move_one(&mut self, cell: CellIx) -> bool {
        let leaving = self.leaving(cell);
        let mut best: Option<(f32, usize, CellIx)> = None;
        let mut looks = 0;
        for &(relief, index) in &leaving {
            let found = best.map_or(NOTHING, |(gain, ..)| gain);
            if relief <= found {
                break;
            }
            let zone = &self.search.zones.all[self.search.zones.of(cell)];
            for &target in zone.cells.iter().filter(|&&target| target != cell) {
                let found = best.map_or(NOTHING, |(gain, ..)| gain);
                let most = self.excess[target.index()] + relief - found;
                if self.glance(target, index) >= most {
                    continue;
                }
                looks += 1;
                let then = self.excess_of(target, &self.items[index].adds, 1.0, most);
                if then < most && self.admits(index, target) {
                    best = Some((relief - (then - self.excess[target.index()]), index, target));
                }
            }
        }
        self.looks = self.looks.saturating_sub(looks);
        best.is_some_and(|(_, index, target)| self.try_all(&[(index, target)]))
    }

    /// A least value, by three of the 72 dimensions, of what a cell has above the level with one tenant more.
    fn glance(&self, cell: CellIx, index: usize) -> f32 {
        let (shares, inverse) = (self.search.layout.rough(cell), &self.inverse[cell.index()]);
        let item = &self.items[index];
        let mut sum = 0.0;
        for (resource, &dim) in item.heavy.iter().enumerate() {
            let above = (shares[dim] + item.adds[dim] * inverse[resource] - self.settle[cell.index()]).max(0.0);
            sum += above * above;
        }
        sum
    }

    fn excess_of(&self, cell: CellIx, adds: &Rough, sign: f32, most: f32) -> f32 {
        let at = cell.index();
        excess_with(self.search.layout.rough(cell), &self.inverse[at], adds, sign, self.settle[at], most)
    }

    /// Lets two tenants change places where that lowers the sum the most.
    fn exchange(&mut self, cell: CellIx) -> bool {
        let own = self.excess[cell.index()];
        let hottest = self.layout().peak(cell).dim;
        let mut best: Option<(f32, usize, usize, CellIx)> = None;
        let mut looks = 0;
        for (_, index) in self.leaving(cell) {
            for partner in self.partners(cell, index) {
                for &other in &self.on[partner.index()] {
                    let (item, back) = (&self.items[index].adds, &self.items[other].adds);
                    if back[hottest] >= item[hottest] || !self.affords(&[index, other]) {
                        continue;
                    }
                    let found = best.map_or(NOTHING, |(gain, ..)| gain);
                    let both = own + self.excess[partner.index()] - found;
                    let change = difference(item, back);
                    looks += 2;
                    let here = self.excess_of(cell, &change, -1.0, both);
                    if here >= both {
                        continue;
                    }
                    let there = self.excess_of(partner, &change, 1.0, both - here);
                    let sum = here + there;
                    let pays = sum < both && self.pays(cell, (index, other), &change);
                    if pays && self.admits(index, partner) && self.admits(other, cell) {
                        best = Some((own + self.excess[partner.index()] - sum, index, other, partner));
                    }
                }
            }
        }
        self.looks = self.looks.saturating_sub(looks);
        best.is_some_and(|(_, index, other, partner)| self.try_all(&[(index, partner), (other, cell)]))
    }

    /// Two moves have to pay for both; what has been moved already costs nothing more.
    fn pays(&self, cell: CellIx, pair: (usize, usize), change: &Rough) -> bool {
        let least_of = |index: usize| {
            let item = &self.items[index];
            if item.at == item.home { item.least } else { 0.0 }
        };
        let least = least_of(pair.0) + least_of(pair.1);
        let (shares, inverse) = (self.search.layout.rough(cell), &self.inverse[cell.index()]);
        let settle = self.settle[cell.index()];
        let gain = |dim: usize| (change[dim] * inverse[dim * RESOURCES / DIMS]).min(shares[dim] - settle);
        least <= 0.0 || (0..DIMS).any(|dim| gain(dim) >= least)
    }

    /// The cells that a tenant would bring the least above the level, as far as a glance tells.
    fn partners(&self, cell: CellIx, index: usize) -> Vec<CellIx> {
        let zone = &self.search.zones.all[self.search.zones.of(cell)];
        let others = zone.cells.iter().copied().filter(|&other| other != cell);
        let more = |other: CellIx| (self.glance(other, index) - self.excess[other.index()], other);
        let mut cells: Vec<(f32, CellIx)> = others.map(more).collect();
        let order = |a: &(f32, CellIx), b: &(f32, CellIx)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if cells.len() > PARTNERS_MAX {
            cells.select_nth_unstable_by(PARTNERS_MAX, order);
            cells.truncate(PARTNERS_MAX);
        }
        cells.sort_unstable_by(order);
        cells.into_iter().map(|(_, cell)| cell).collect()
    }

    /// Makes these moves; takes them back if the layout says that they gain nothing, or make a cell too full.
    fn try_all(&mut self, moves: &[(usize, CellIx)]) -> bool {
        let sources: Vec<CellIx> = moves.iter().map(|&(index, _)| self.items[index].at).collect();
        let mut cells: Vec<CellIx> =
            sources.iter().copied().chain(moves.iter().map(|&(_, target)| target)).collect();
        cells.sort_unstable();
        cells.dedup();
        let state = |evening: &Self| {
            let sum: f32 = cells.iter().map(|cell| evening.excess[cell.index()]).sum();
            (sum, cells.iter().map(|&cell| evening.layout().peak(cell).share).fold(0.0, f64::max))
        };
        let (before, fullest) = state(self);
        moves.iter().for_each(|&(index, target)| self.shift(index, target));
        let (after, then) = state(self);
        // Two that change places take part twice at each of their cells.
        let most = self.search.request.bounds.moves_per_cell_max;
        let within = cells.iter().all(|cell| self.search.parts[cell.index()] <= most);
        let gains = after < before - NOTHING && (then <= 1.0 || then <= fullest) && within;
        if gains {
            cells.iter().for_each(|cell| self.begun[cell.index()] = true);
        } else {
            moves.iter().zip(sources).for_each(|(&(index, _), source)| self.shift(index, source));
        }
        gains
    }

    fn shift(&mut self, index: usize, target: CellIx) {
        let Item { tenant, home, at, bytes, .. } = self.items[index];
        self.search.layout.shift(tenant, target);
        for (cell, counts, less) in [(at, at != home, true), (target, target != home, false)] {
            if !counts {
                continue;
            }
            for of in [home, cell] {
                let parts = &mut self.search.parts[of.index()];
                *parts = if less { *parts - 1 } else { *parts + 1 };
            }
            self.moves = if less { self.moves - 1 } else { self.moves + 1 };
            self.bytes = if less { self.bytes - bytes } else { self.bytes + bytes };
        }
        self.on[at.index()].retain(|&of| of != index);
        self.on[target.index()].push(index);
        self.items[index].at = target;
        [at, target].into_iter().for_each(|cell| self.measure(cell));
    }
}
