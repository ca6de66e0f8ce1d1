//! Rebalancing: bring down every cell that is above the high water, as far as the bounds allow.
//!
//! How far? To the low water, or to the lower bound of the cell's zone where that is higher: below that there is
//! nothing to gain. Where the bounds are too tight for that, spending them on the hottest cells one after the other
//! would cool a few and leave the rest. So the lowest *level* is looked for, by bisection, to which all of them can be
//! brought within the bounds; what is left of the bounds is then spent from there on, hottest first.
//!
//! Each turn relieves the cell that is hottest at that time by one move, so that the curve of benefit by number of
//! moves falls as steeply as it can.

use super::Search;
use super::relieve::{Aim, Relief};
use crate::fleet::CellIx;
use crate::load::Peak;

/// Steps of the bisection: a hundredth of the way between the lowest and the highest level.
const BISECTIONS: usize = 7;
/// No level above this is tried: a cell may be infinitely full.
const LEVEL_MAX: f64 = 8.0;
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
            self.notes.push(format!(
                "{} cells are above the high water of {:.0} %, the hottest is {} at {:.1} % ({})",
                hot.len(),
                high_water * 100.0,
                self.layout.cell_id(hottest),
                peak.share * 100.0,
                peak.at
            ));
        }
        let floors = self.floors();
        let mark = self.steps.len();
        let (mut low, mut high) = (self.layout.policy().low_water, self.layout.peak(hottest).share.min(LEVEL_MAX));
        let low_water = low;
        let mut outcome = self.bring_down_to(low_water, &floors, false);
        if outcome.bounded {
            self.take_back(mark);
            // No cell is brought below the lowest of the floors.
            low = low.max(floors.iter().copied().fold(f64::INFINITY, f64::min)).min(high);
            for _ in 0..BISECTIONS {
                let level = f64::midpoint(low, high);
                if self.bring_down_to(level, &floors, true).bounded {
                    low = level;
                } else {
                    high = level;
                }
                self.take_back(mark);
            }
            self.bring_down_to(high, &floors, true);
            outcome = self.bring_down_to(low_water, &floors, false);
        }
        self.conclude(&hot, mark, &floors, outcome);
    }

    /// By zone: what no legal placement can get below.
    fn floors(&self) -> Vec<f64> {
        let hottest = |cells: &[CellIx]| cells.iter().map(|&cell| self.layout.peak(cell).share).fold(0.0, f64::max);
        let zones = self.zones.all.iter().enumerate();
        zones.map(|(zone, of)| self.bound.of_zone(zone, hottest(&of.cells))).collect()
    }

    /// Relieves the hottest cell by one move, again and again, until every cell is at the level or given up. Stops at
    /// the first bound that is in the way if `whole` is asked for.
    fn bring_down_to(&mut self, level: f64, floors: &[f64], whole: bool) -> Outcome {
        let high_water = self.layout.policy().high_water;
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
