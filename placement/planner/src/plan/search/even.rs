//! Evens all cells out together, where relieving them one after the other gets stuck.
//!
//! Near the lower bound every cell is nearly full at several hours and in several resources, and no tenant can leave one
//! without making another as full somewhere. So what is brought down is not the fullest cell but the sum over all cells
//! of [`excess`]: what they have above a level, squared. A tenant goes where that sum falls the most, though its target
//! may get a little above the level for it and is relieved by a later move. Where no move lowers the sum, two tenants
//! change places. Where moves are used up, those that do the least are taken back for others.
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

mod board;
mod excess;
mod look;
mod order;
mod weight;

use super::Search;
use super::relieve::Aim;
use crate::fleet::{CellIx, TenantIx};
use crate::layout::Layout;
use crate::load::single;
use crate::plan::bound::least_after;
use crate::resource::{DIMS, HOURS};
use board::Board;
use excess::Weight;
use look::{Away, Found};
use weight::Slopes;

/// How many tenants of a cell take part, the heaviest ...
const HEAVY_MAX: usize = 64;
/// ... and how many of all cells; each takes some 720 bytes.
const ITEMS_MAX: usize = 125_000;
/// How many cells are looked at together, the worst.
const TOGETHER: usize = 16;
/// How often a cell with one tenant more is looked at: some forty nanoseconds each, on two threads. A count and not a time, so that
/// the same input makes the same plan.
const LOOKS_MAX: u64 = 150_000_000;
/// The first level: by so much above the floor, and above what the number of moves cannot get below.
const ABOVE_FLOOR: f64 = 1.0625;
const ABOVE_MOVES: f64 = 1.03;
/// After a level that has been reached the next one is so much of the way up from the highest that has been missed.
const LEVEL_SHRINK: f64 = 0.7;
/// No level this close to the floor or to one that has been reached is tried.
const LEVEL_STEP: f64 = 0.000_5;
/// Levels that may be missed.
const MISSES_MAX: u32 = 4;
/// Where moves are used up, one of so many is given back, so often at the most.
const GIVEN_BACK: usize = 20;
const GIVE_BACKS_MAX: u32 = 8;
/// A sum has to fall to less than this part of itself, or what was done for it is not done again.
const WORTHWHILE: f32 = 0.98;
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
    cluster: Option<usize>,
    weight: Weight,
}

/// What is kept of the best arrangement: who is not at home, and where instead.
type Arrangement = Vec<(TenantIx, CellIx)>;

/// All cells, and the tenants that take part.
pub(super) struct Evening<'s, 'a> {
    search: &'s mut Search<'a>,
    floors: &'s [f64],
    items: Vec<Item>,
    /// By cell: the tenants on it that take part.
    on: Vec<Vec<usize>>,
    board: Board,
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
        let mut evening = Self {
            floors,
            items: Vec::new(),
            on: vec![Vec::new(); cells],
            board: Board::of(&search.layout),
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
        let (inverse, bytes) = (&self.board.inverse[cell.index()], search.bytes_of(tenant));
        let gain = search.gain_wanted(Aim::WORTH_IT, bytes);
        let too_long = search.layout.policy().seconds_for(bytes) > search.request.bounds.seconds_max;
        if search.fixed(tenant).is_some() || search.is_cooling(tenant) || too_long {
            return None;
        }
        let layout = &search.layout;
        let adds = slopes.adds(layout, tenant);
        let share = (0..DIMS).map(|dim| adds[dim] * inverse[dim / HOURS]).fold(0.0, f32::max);
        let least = single(gain);
        let weight = || Weight::of(&layout.fleet().demand(tenant), layout.policy().risk);
        let cluster = layout.fleet().tenant(tenant).spike_cluster();
        (share >= least)
            .then(|| (share, Item { tenant, home: cell, at: cell, bytes, least, cluster, weight: weight() }))
    }

    /// Tries one level after the other; gives the best arrangement that was found.
    fn best(&mut self) -> Arrangement {
        let policy = *self.layout().policy();
        let floor = self.floors.iter().copied().fold(f64::INFINITY, f64::min).max(policy.low_water);
        let hottest = self.search.hottest();
        let mut best: (f64, Arrangement) = (hottest, Vec::new());
        // The lowest level that has been reached, and the highest that has been missed.
        let (mut reached, mut missed) = (hottest.min(super::cool::LEVEL_MAX), floor);
        let mut level = self.first_level(floor).min(f64::midpoint(missed, reached));
        let mut misses = 0;
        while misses < MISSES_MAX && reached - missed > LEVEL_STEP && self.looks > 0 {
            let all = self.bring_down_to(level, policy.high_water, &mut best);
            let hottest = self.keep(&mut best);
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

    /// Keeps what there is now, where it is the best so far.
    fn keep(&self, best: &mut (f64, Arrangement)) -> f64 {
        let hottest = self.search.hottest();
        if hottest < best.0 - 1e-9 {
            *best = (hottest, self.away());
        }
        hottest
    }

    fn away(&self) -> Arrangement {
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
    fn bring_down_to(&mut self, level: f64, high_water: f64, best: &mut (f64, Arrangement)) -> bool {
        for cell in self.layout().fleet().cells() {
            let zone = self.search.zones.of(cell);
            self.board.settle[cell.index()] = single(level.max(self.floors[zone]));
            self.begun[cell.index()] |= self.layout().peak(cell).share > high_water;
            self.board.measure(&self.search.layout, cell);
        }
        let (mut before, mut backs) = (self.total(), 0);
        loop {
            self.sweep();
            let after = self.total();
            let gains = after < before * WORTHWHILE;
            if self.looks == 0 || after <= NOTHING || (!gains && (backs > 0 || !self.is_used_up())) {
                break;
            }
            before = after;
            // Some moves do less than others would; whether what comes instead is better is not certain.
            if self.is_used_up() && backs < GIVE_BACKS_MAX {
                self.keep(best);
                self.give_back();
                backs += 1;
            }
        }
        let open = |cell: CellIx| self.begun[cell.index()] && self.board.excess[cell.index()] > self.idle;
        !self.layout().fleet().cells().any(|cell| open(cell) && self.search.is_alive(cell))
    }

    /// Looks at the worst cells again and again, until none of those that are left finds anything that gains.
    fn sweep(&mut self) {
        self.stuck.fill(false);
        loop {
            let cells = self.worst();
            if cells.is_empty() || self.looks == 0 {
                return;
            }
            let found = self.find_all(&cells);
            self.make_all(&cells, found);
        }
    }

    fn total(&self) -> f32 {
        self.board.excess.iter().sum()
    }

    fn is_used_up(&self) -> bool {
        self.search.steps.len() + self.moves >= self.search.request.bounds.moves_max as usize
    }

    /// Sends some home, those of whom it costs the least.
    fn give_back(&mut self) {
        let away = (0..self.items.len()).filter(|&index| self.items[index].at != self.items[index].home);
        let costs = away.map(|index| {
            let Item { home, at, .. } = self.items[index];
            let without = self.excess_with(at, index, -1.0, f32::INFINITY) - self.board.excess[at.index()];
            let with = self.excess_with(home, index, 1.0, f32::INFINITY) - self.board.excess[home.index()];
            (without + with, index)
        });
        let mut costs: Vec<(f32, usize)> = costs.collect();
        self.looks = self.looks.saturating_sub(2 * costs.len() as u64);
        costs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        costs.truncate(costs.len().div_ceil(GIVEN_BACK));
        for (_, index) in costs {
            let Item { home, at, .. } = self.items[index];
            let before = self.layout().peak(home).share;
            self.shift(index, home);
            let then = self.layout().peak(home).share;
            if then > 1.0 && then > before {
                self.shift(index, at);
            }
        }
    }

    /// The cells with the most above the level, the worst first.
    fn worst(&self) -> Vec<CellIx> {
        let open = |cell: &CellIx| {
            let at = cell.index();
            self.board.excess[at] > self.idle && self.begun[at] && !self.stuck[at] && self.search.is_alive(*cell)
        };
        let mut cells: Vec<CellIx> = self.layout().fleet().cells().filter(open).collect();
        let excess = |cell: &CellIx| self.board.excess[cell.index()];
        let order = |a: &CellIx, b: &CellIx| excess(b).total_cmp(&excess(a)).then(a.cmp(b));
        if cells.len() > TOGETHER {
            cells.select_nth_unstable_by(TOGETHER, order);
            cells.truncate(TOGETHER);
        }
        cells.sort_unstable_by(order);
        cells
    }

    /// Makes what has been found for some cells, one after the other. What no longer gains anything, because of one
    /// before it, is looked at again in the next turn.
    fn make_all(&mut self, cells: &[CellIx], found: Vec<Found>) {
        let mut is_as_seen = true;
        for (&cell, mut found) in cells.iter().zip(found) {
            self.account(&found);
            let mut made = self.make(cell, &found.moves);
            if !made && is_as_seen && found.moves.len() == 1 {
                found = self.find_pair(cell);
                self.account(&found);
                made = self.make(cell, &found.moves);
            }
            self.stuck[cell.index()] |= !made && (is_as_seen || found.moves.is_empty());
            is_as_seen &= !made;
        }
    }

    fn account(&mut self, found: &Found) {
        self.bounded |= found.bounded;
        self.looks = self.looks.saturating_sub(found.looks);
    }

    /// Makes one move off a cell, or an exchange with another, if it still may be made.
    fn make(&mut self, cell: CellIx, moves: &[Away]) -> bool {
        let [(first, target), rest @ ..] = moves else { return false };
        let stands = |&(index, to): &Away, at: CellIx| self.items[index].at == at && self.admits(index, to);
        let all: Vec<(usize, Option<CellIx>)> = moves.iter().map(|&(index, to)| (index, Some(to))).collect();
        stands(&(*first, *target), cell)
            && rest.iter().all(|back| stands(back, *target))
            && self.affords(&all)
            && self.try_all(moves)
    }

    /// Whether these may be moved together within the bounds, each to that cell or to any but its home: the cells' own
    /// bounds are asked with the target. One that goes home gives its move back.
    fn affords(&self, moves: &[(usize, Option<CellIx>)]) -> bool {
        let bounds = &self.search.request.bounds;
        let (mut count, mut bytes) = (self.search.steps.len() + self.moves, self.search.bytes + self.bytes);
        let (mut back, mut bytes_back) = (0, 0);
        for &(index, target) in moves {
            let item = &self.items[index];
            if item.at == item.home {
                (count, bytes) = (count + 1, bytes.saturating_add(item.bytes));
            } else if target == Some(item.home) {
                (back, bytes_back) = (back + 1, bytes_back + item.bytes);
            }
        }
        let is_none_new = moves.iter().all(|&(index, _)| self.items[index].at != self.items[index].home);
        is_none_new || (count - back <= bounds.moves_max as usize && bytes - bytes_back <= bounds.bytes_max)
    }

    /// Makes these moves; takes them back if the layout says that they gain nothing, or make a cell too full.
    fn try_all(&mut self, moves: &[(usize, CellIx)]) -> bool {
        let sources: Vec<CellIx> = moves.iter().map(|&(index, _)| self.items[index].at).collect();
        let mut cells: Vec<CellIx> =
            sources.iter().copied().chain(moves.iter().map(|&(_, target)| target)).collect();
        cells.sort_unstable();
        cells.dedup();
        let state = |evening: &Self| {
            let sum: f32 = cells.iter().map(|cell| evening.board.excess[cell.index()]).sum();
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
        [at, target].into_iter().for_each(|cell| self.board.refresh(&self.search.layout, cell));
    }
}
