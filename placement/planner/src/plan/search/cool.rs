//! Rebalancing: bring down every cell that is above the high water, as far as the bounds allow.
//!
//! How far? To the low water, or to the lower bound of the cell's zone where that is higher: below that there is
//! nothing to gain. Where the bounds are too tight for that, spending them on the hottest cells one after the other
//! would cool a few and leave the rest. So the lowest *level* is looked for, by bisection, to which all of them can be
//! brought within the bounds; what is left of the bounds is then spent from there on, hottest first.
//!
//! Each turn relieves the cell that is hottest at that time by one move, so that the curve of benefit by number of
//! moves falls as steeply as it can. Where that gets stuck, all cells are evened out together (`even.rs`).

use super::relieve::{Aim, Relief};
use super::{Search, TRIES_MAX};
use crate::fleet::CellIx;
use crate::load::Peak;

/// Steps of the bisection at the most ...
const BISECTIONS: usize = 8;
/// ... and how close is close enough.
const LEVEL_STEP: f64 = 0.001;
/// No level above this is tried: a cell may be infinitely full.
pub(super) const LEVEL_MAX: f64 = 8.0;
/// Where more cells than these are to be evened out, they are not tried one by one first.
const ONE_BY_ONE_MAX: usize = 200;
/// How many cells that stay hot are named.
const STAYS_TOLD_MAX: usize = 20;

/// How a try ended.
struct Outcome {
    /// A bound was in the way of a move that was worth it.
    bounded: bool,
    /// By cell: what was found when nothing more could be done.
    given_up: Vec<(CellIx, String)>,
}

impl Search<'_> {
    pub(super) fn cool(&mut self) {
        let high_water = self.layout.policy().high_water;
        let hot = self.cells_above(|peak| peak.share > high_water);
        let Some(&hottest) = hot.first() else {
            let note = format!("no cell is above the high water of {:.0} %", high_water * 100.0);
            self.notes.push(format!("{note}: {}", self.hottest_told()));
            return;
        };
        // Evened out as far as moves gain anything: there is no water to be above.
        if high_water > 0.0 {
            let peak = self.layout.peak(hottest).report();
            let are = if hot.len() == 1 { "1 cell is".to_owned() } else { format!("{} cells are", hot.len()) };
            self.notes.push(format!(
                "{are} above the high water of {:.0} %, the hottest is {} at {:.1} % ({})",
                high_water * 100.0,
                self.layout.cell_id(hottest),
                peak.share * 100.0,
                peak.at
            ));
        }
        let floors = self.floors();
        let mark = self.steps.len();
        let low_water = self.layout.policy().low_water;
        let floor = floors.iter().copied().fold(high_water, f64::max);
        let even = high_water <= 0.0;
        let mut outcome = Outcome { bounded: false, given_up: Vec::new() };
        // Cell by cell, unless all of a large fleet are to be evened out: that would take long and not get as far.
        if !even || hot.len() <= ONE_BY_ONE_MAX {
            outcome = self.bring_down_to(low_water, &floors, false);
            if outcome.bounded || self.hottest() > floor + LEVEL_STEP {
                self.find_level(mark, &floors);
                // What is left of the bounds is spent from there on.
                outcome = self.bring_down_to(low_water, &floors, false);
            }
        }
        let is_stuck = self.hottest() > floor + LEVEL_STEP;
        if is_stuck && (even || !outcome.bounded) && self.is_better_evened_out(mark, &floors, &mut outcome.bounded)
        {
            outcome.given_up.clear();
        }
        self.conclude(&hot, mark, &floors, outcome);
    }

    /// Goes back to `mark` and evens all cells out together; keeps that where it ends lower.
    fn is_better_evened_out(&mut self, mark: usize, floors: &[f64], bounded: &mut bool) -> bool {
        let hottest = self.hottest();
        let before = self.steps[mark..].to_vec();
        self.take_back(mark);
        let together = self.even_out(floors);
        let better = self.hottest() < hottest - 1e-9;
        if better {
            *bounded = together;
        } else {
            self.take_back(mark);
            before.into_iter().for_each(|step| self.make(step));
        }
        better
    }

    /// Looks for the level at which the bounds bring the fullest cell down the most, and makes those moves. The first
    /// answer has been made already: to go for the lowest level, hottest cell first. Where that spends the bounds, or
    /// leaves no cell with room below the level, it is not the best. From a level that has been reached the search goes
    /// on to the next lower one.
    fn find_level(&mut self, mark: usize, floors: &[f64]) {
        let floor = floors.iter().copied().fold(f64::INFINITY, f64::min);
        let (mut low, mut high) = (self.layout.policy().low_water.max(floor), self.hottest().min(LEVEL_MAX));
        let mut best = self.hottest();
        let first = self.steps[mark..].to_vec();
        let mut reached = mark;
        for _ in 0..BISECTIONS {
            if high - low < LEVEL_STEP {
                break;
            }
            self.take_back(reached);
            let level = f64::midpoint(low, high);
            let outcome = self.bring_down_to(level, floors, true);
            let hottest = self.hottest();
            if outcome.bounded || hottest > best + 1e-9 {
                low = level;
            } else {
                (high, best, reached) = (level, hottest, self.steps.len());
            }
        }
        self.take_back(reached);
        if reached == mark {
            first.into_iter().for_each(|step| self.make(step));
        }
    }

    /// How full the fullest living cell is.
    pub(super) fn hottest(&self) -> f64 {
        self.hottest_where(|_, _| true).map_or(0.0, |cell| self.layout.peak(cell).share)
    }

    /// By zone: what no legal placement can get below.
    fn floors(&self) -> Vec<f64> {
        let hottest = |cells: &[CellIx]| cells.iter().map(|&cell| self.layout.peak(cell).share).fold(0.0, f64::max);
        let zones = self.zones.all.iter().enumerate();
        zones.map(|(zone, of)| self.bound.floor_of_zone(zone, hottest(&of.cells))).collect()
    }

    /// Relieves the hottest cell by one move, again and again, until every cell is at the level or given up. Stops at
    /// the first bound that is in the way if `whole` is asked for.
    fn bring_down_to(&mut self, level: f64, floors: &[f64], whole: bool) -> Outcome {
        let high_water = self.layout.policy().high_water;
        self.tries_left = TRIES_MAX;
        let mut outcome = Outcome { bounded: false, given_up: Vec::new() };
        let mut given_up = vec![false; self.layout.fleet().cells().len()];
        // A cell that was hot is brought down to the level, not just below the high water.
        let mut begun = vec![false; given_up.len()];
        loop {
            let settle = |cell: CellIx| level.max(floors[self.zones.of(cell)]);
            let is_hot = |cell: CellIx, peak: Peak| {
                let trigger = if begun[cell.index()] { 0.0 } else { high_water };
                !given_up[cell.index()] && peak.share > settle(cell).max(trigger) + 1e-9
            };
            let Some(cell) = self.hottest_where(is_hot) else { return outcome };
            begun[cell.index()] = true;
            let aim = Aim::of(self.layout.peak(cell), settle(cell));
            match self.relieve(cell, aim) {
                Relief::Done => {}
                Relief::None { bounded, told } => {
                    given_up[cell.index()] = true;
                    outcome.bounded |= bounded;
                    outcome.given_up.push((cell, told));
                    if whole && bounded {
                        return outcome;
                    }
                }
            }
        }
    }

    fn hottest_where(&self, condition: impl Fn(CellIx, Peak) -> bool) -> Option<CellIx> {
        let mut best: Option<(f64, CellIx)> = None;
        for cell in self.layout.fleet().cells() {
            let peak = self.layout.peak(cell);
            if best.is_none_or(|(share, _)| peak.share > share) && condition(cell, peak) && self.is_alive(cell) {
                best = Some((peak.share, cell));
            }
        }
        best.map(|(_, cell)| cell)
    }

    /// Says what was found and what came of it.
    fn conclude(&mut self, hot: &[CellIx], mark: usize, floors: &[f64], outcome: Outcome) {
        let high_water = self.layout.policy().high_water;
        let still = |cell: CellIx, share: f64| share > high_water && share > floors[self.zones.of(cell)] + 1e-9;
        let stays: Vec<CellIx> =
            hot.iter().copied().filter(|&cell| still(cell, self.layout.peak(cell).share)).collect();
        let moves = self.steps.len() - mark;
        if high_water > 0.0 {
            self.wanted = true;
            self.reached &= stays.is_empty();
        } else {
            self.wanted |= moves > 0 || outcome.bounded;
            self.reached &= !outcome.bounded;
            let gains = if outcome.bounded { "the bounds allow" } else { "moves gain anything" };
            self.notes.push(format!("evened out as far as {gains}; {}", self.hottest_told()));
        }
        let at_bound = |cell: &CellIx| {
            let share = self.layout.peak(*cell).share;
            high_water > 0.0 && share > high_water && !stays.contains(cell)
        };
        let at_bound: Vec<CellIx> = hot.iter().copied().filter(at_bound).take(STAYS_TOLD_MAX).collect();
        for cell in at_bound {
            let at = self.layout.peak(cell).report();
            let (id, share) = (self.layout.cell_id(cell), at.share * 100.0);
            self.notes.push(format!(
                "{id} is at {share:.1} % ({}) and no placement of its zone's tenants is better",
                at.at
            ));
        }
        for (cell, told) in
            outcome.given_up.into_iter().filter(|(cell, _)| stays.contains(cell)).take(STAYS_TOLD_MAX)
        {
            let id = self.layout.cell_id(cell);
            let at = self.layout.peak(cell).report();
            self.notes.push(format!("{id} stays at {:.1} % ({}): {told}", at.share * 100.0, at.at));
        }
    }

    fn hottest_told(&self) -> String {
        let hottest = self.hottest_where(|_, peak| peak.share > 0.0);
        hottest.map_or_else(
            || "no cell is loaded".to_owned(),
            |cell| {
                let peak = self.layout.peak(cell).report();
                let id = self.layout.cell_id(cell);
                format!("the fullest is {id} at {:.1} % ({})", peak.share * 100.0, peak.at)
            },
        )
    }
}
