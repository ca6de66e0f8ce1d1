//! Takes load off one cell: at each step the move that lowers the fuller of its two cells the most.
//!
//! A move counts no further than to where the cell is to be brought, so among those that bring it there the one that
//! copies the least wins. A tenant cannot lower its cell by more than what it weighs in the dimension where the cell
//! is fullest; tenants are tried in that order, and the search stops where that is less than what has been found.

use super::{Fixed, Reason, Search, Step};
use crate::filter::Question;
use crate::fleet::{CellIx, TenantIx};
use crate::score::shared_fate;

/// How many cells that admit a tenant are compared, coldest first.
const TARGETS_MAX: usize = 12;
/// How many (tenant, cell) pairs are weighed for one move.
const EVALUATIONS_MAX: usize = 4_096;
const BYTES_PER_TERABYTE: f64 = 1e12;

/// Why a cell is relieved, and so how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// It is above its budget: bring it to the budget, whatever that gains.
    OverBudget,
    /// It is above the high water: bring it to the low water where that pays.
    Hot,
}

/// Why members of a cell were not moved.
#[derive(Debug, Default)]
struct Tally {
    pinned: usize,
    moving: usize,
    moved: usize,
    cooling: usize,
    bounded: usize,
    nowhere: usize,
    too_little: usize,
}

impl Tally {
    fn told(&self) -> String {
        let counted = [
            (self.pinned, "pinned"),
            (self.moving, "moving already"),
            (self.moved, "moved by this plan"),
            (self.cooling, "cooling down"),
            (self.bounded, "beyond the bounds of this plan"),
            (self.nowhere, "admitted nowhere"),
            (self.too_little, "would gain too little"),
        ];
        let told: Vec<String> =
            counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        if told.is_empty() { "it has no tenant".into() } else { told.join(", ") }
    }
}

struct Best {
    gain: u32,
    after: u32,
    bytes: u64,
    tenant: TenantIx,
    target: CellIx,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range just before")]
fn per_mille(share: f64) -> u32 {
    (share * 1000.0).clamp(0.0, 1e9) as u32
}

/// A finer unit for comparing gains: a hundred-thousandth of a budget.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range just before")]
fn grains(share: f64) -> u32 {
    (share * 1e5).clamp(0.0, 4e9) as u32
}

impl Search<'_> {
    /// Relieves a cell; says whether it is where it should be. Where it is not, the reason is noted.
    pub(super) fn relieve(&mut self, cell: CellIx, level: Level) -> bool {
        let settle = match level {
            Level::OverBudget => 1.0,
            Level::Hot => self.layout.policy().low_water,
        };
        loop {
            let before = self.layout.peak(cell);
            let settled = match level {
                Level::OverBudget => !before.is_over_budget(),
                Level::Hot => before.share <= settle,
            };
            if settled {
                return true;
            }
            let mut tally = Tally::default();
            let Some(best) = self.best_relief(cell, level, settle, &mut tally) else {
                self.give_up(cell, level, &tally);
                return false;
            };
            let source_per_mille = per_mille(before.share);
            let after_per_mille = best.after;
            let reason = match level {
                Level::OverBudget => Reason::Overloaded { source_per_mille, after_per_mille },
                Level::Hot => Reason::Hot { source_per_mille, after_per_mille },
            };
            self.make(Step { tenant: best.tenant, source: cell, target: best.target, bytes: best.bytes, reason });
        }
    }

    /// Below the high water a hot cell has cooled enough, even if it did not reach the low water.
    fn give_up(&mut self, cell: CellIx, level: Level, tally: &Tally) {
        let peak = self.layout.peak(cell);
        let enough = level == Level::Hot && peak.share <= self.layout.policy().high_water;
        if !enough {
            self.reached = false;
            let id = self.layout.cell_id(cell);
            let at = peak.report();
            let note = format!("{id} stays at {:.1} % ({}): {}", at.share * 100.0, at.at, tally.told());
            self.notes.push(note);
        }
    }

    fn best_relief(&self, cell: CellIx, level: Level, settle: f64, tally: &mut Tally) -> Option<Best> {
        let peak = self.layout.peak(cell);
        let candidates = self.by_weight(cell, peak.dim, level, tally);
        let targets = self.by_warmth(cell, peak.dim);
        let mut best: Option<Best> = None;
        let mut evaluations = 0;
        for (weight, tenant) in candidates {
            let at_most = grains(weight.min(peak.share - settle));
            if evaluations >= EVALUATIONS_MAX || best.as_ref().is_some_and(|best| at_most < best.gain) {
                break;
            }
            let bytes = self.bytes_of(tenant);
            if self.afford(bytes).is_err() {
                tally.bounded += 1;
                continue;
            }
            let least = self.gain_wanted(level, bytes);
            match self.best_target(cell, tenant, &targets, settle, &mut evaluations) {
                None => tally.nowhere += 1,
                Some((gain, ..)) if gain < least => tally.too_little += 1,
                Some((gain, after, target)) => {
                    let gain = grains(gain);
                    let better = best.as_ref().is_none_or(|best| (best.gain, bytes) < (gain, best.bytes));
                    if better {
                        best = Some(Best { gain, after: per_mille(after), bytes, tenant, target });
                    }
                }
            }
        }
        best
    }

    /// The gain that makes a move worth it: the payback rule. Any gain at all where a budget is broken.
    fn gain_wanted(&self, level: Level, bytes: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a size in terabytes needs no 53 bits")]
        let terabytes = bytes as f64 / BYTES_PER_TERABYTE;
        match level {
            Level::OverBudget => 1e-6,
            Level::Hot => {
                let policy = self.layout.policy();
                policy.gain_min + policy.gain_min_per_terabyte * terabytes
            }
        }
    }

    /// The tenants that may leave, by what that takes off the fullest dimension; the heaviest first.
    fn by_weight(&self, cell: CellIx, dim: usize, level: Level, tally: &mut Tally) -> Vec<(f64, TenantIx)> {
        let mut candidates = Vec::new();
        let now = self.layout.share_at(cell, dim, None);
        for &tenant in self.layout.members(cell) {
            match self.fixed(tenant) {
                Some(Fixed::Pinned) => tally.pinned += 1,
                Some(Fixed::Moving) => tally.moving += 1,
                Some(Fixed::Moved) => tally.moved += 1,
                None if level == Level::Hot && self.is_cooling(tenant) => tally.cooling += 1,
                None => {
                    let question = Question::new(&self.layout, tenant, &self.draining);
                    let without = self.layout.share_at(cell, dim, Some(question.leaving()));
                    candidates.push((now - without, tenant));
                }
            }
        }
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        candidates
    }

    /// All other cells, the coldest in that dimension first.
    fn by_warmth(&self, cell: CellIx, dim: usize) -> Vec<CellIx> {
        let others = self.layout.fleet().cells().filter(|&other| other != cell);
        let mut cells: Vec<(f64, CellIx)> =
            others.map(|other| (self.layout.share_at(other, dim, None), other)).collect();
        cells.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        cells.into_iter().map(|(_, cell)| cell).collect()
    }

    /// Gain, fullness of the fuller cell, and the target, for the best of the coldest cells that admit the tenant and
    /// do not bring it nearer to others of its group.
    fn best_target(
        &self,
        source: CellIx,
        tenant: TenantIx,
        targets: &[CellIx],
        settle: f64,
        evaluations: &mut usize,
    ) -> Option<(f64, f64, CellIx)> {
        let question = Question::new(&self.layout, tenant, &self.draining);
        let before = self.layout.peak(source).share;
        let source_after = self.layout.peak_with(source, question.leaving()).share;
        let fate = shared_fate(&question, source);
        let mut best: Option<(f64, f64, CellIx)> = None;
        let mut admitted = 0;
        for &target in targets {
            if admitted == TARGETS_MAX || *evaluations >= EVALUATIONS_MAX {
                break;
            }
            if question.ask_but_for_capacity(target).is_err() || shared_fate(&question, target) > fate {
                continue;
            }
            *evaluations += 1;
            let Ok(peak) = question.ask(target) else { continue };
            admitted += 1;
            let after = source_after.max(peak.share);
            let gain = before - after.max(settle);
            if best.is_none_or(|(found, ..)| gain > found) {
                best = Some((gain, after, target));
            }
        }
        best
    }
}
