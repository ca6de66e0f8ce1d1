//! Takes load off one cell: the move that lowers the fuller of its two cells the most.
//!
//! A move counts no further than to where the cell is to be brought, so among those that bring it there the one that
//! copies the least wins. A tenant cannot lower its cell by more than what it weighs in the dimension where the cell
//! is fullest; tenants are tried in that order, and the search stops where that is less than what has been found.

use super::{Fixed, Search, Step, Why};
use crate::filter::{Question, Wish};
use crate::fleet::{CellIx, TenantIx};
use crate::layout::Layout;
use crate::load::Peak;
use crate::score::shared_fate;

/// How many cells that admit a tenant are compared, coldest first.
const TARGETS_MAX: usize = 12;
/// How many cells are looked at, coldest first, before all others of the zone.
const COLDEST: usize = 48;
/// How many (tenant, cell) pairs are weighed for one move.
const EVALUATIONS_MAX: usize = 2_048;
/// How many of the heaviest tenants of a cell are remembered.
const RANKED_MAX: usize = 512;
const BYTES_PER_TERABYTE: f64 = 1e12;

/// Why a cell is relieved, and so how far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Aim {
    /// It is above its budget: any gain is worth a move. Otherwise a move has to pay.
    over_budget: bool,
    /// Lowering it further than to this gains nothing.
    pub(super) settle: f64,
}

impl Aim {
    pub(super) const INTO_BUDGET: Self = Self { over_budget: true, settle: 1.0 };

    pub(super) fn of(peak: Peak, settle: f64) -> Self {
        Self { over_budget: peak.is_over_budget(), settle }
    }

    pub(super) fn why(self, before: f64, after: f64) -> Why {
        let (source_per_mille, after_per_mille) = (per_mille(before), per_mille(after));
        if self.over_budget {
            Why::Overloaded { source_per_mille, after_per_mille }
        } else {
            Why::Hot { source_per_mille, after_per_mille }
        }
    }
}

/// What became of an attempt to relieve a cell.
pub(super) enum Relief {
    /// It has been relieved, by a move or an exchange.
    Done,
    /// Nothing is worth it.
    None {
        /// A bound was in the way of something that might have been.
        bounded: bool,
        /// What was in the way of whom.
        told: String,
    },
}

/// Tenants of a cell by what they weigh in one dimension, heaviest first. Made once for a cell and dimension: who comes
/// later has been moved by this plan and stays.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranked {
    pub(super) by_weight: Vec<(f64, TenantIx)>,
    pinned: usize,
    moving: usize,
    cooling: usize,
    arrived: usize,
}

/// Why members of a cell were not moved.
#[derive(Debug, Default)]
struct Tally {
    bounded: usize,
    nowhere: usize,
    too_little: usize,
}

impl Tally {
    fn told(&self, ranked: &Ranked) -> String {
        let counted = [
            (ranked.pinned, "pinned"),
            (ranked.moving, "moving already"),
            (ranked.arrived, "moved by this plan"),
            (ranked.cooling, "cooling down"),
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
    after: f64,
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
    /// Brings a cell that is above its budget into it; where that cannot be, the reason is noted.
    pub(super) fn bring_into_budget(&mut self, cell: CellIx) {
        while self.layout.peak(cell).is_over_budget() {
            if let Relief::None { told, .. } = self.relieve(cell, Aim::INTO_BUDGET) {
                self.reached = false;
                let id = self.layout.cell_id(cell);
                let at = self.layout.peak(cell).report();
                self.notes.push(format!("{id} stays at {:.1} % ({}): {told}", at.share * 100.0, at.at));
                return;
            }
        }
    }

    /// Relieves a cell by the best single move, or where there is none by an exchange.
    pub(super) fn relieve(&mut self, cell: CellIx, aim: Aim) -> Relief {
        let before = self.layout.peak(cell);
        let cooling = !aim.over_budget;
        let ranked = self.take_ranked(cell, before.dim, cooling);
        let targets = self.by_warmth(cell);
        let mut tally = Tally::default();
        let best = self.best_relief(cell, aim, &ranked, &targets, &mut tally);
        let relief = match best {
            Some(best) => {
                let why = aim.why(before.share, best.after);
                self.make(Step { tenant: best.tenant, source: cell, target: best.target, bytes: best.bytes, why });
                Relief::Done
            }
            None if self.exchange(cell, aim, &ranked, &targets) => Relief::Done,
            None => Relief::None { bounded: tally.bounded > 0, told: tally.told(&ranked) },
        };
        self.ranked.insert((cell, before.dim, cooling), ranked);
        relief
    }

    fn best_relief(
        &self,
        cell: CellIx,
        aim: Aim,
        ranked: &Ranked,
        targets: &[CellIx],
        tally: &mut Tally,
    ) -> Option<Best> {
        let peak = self.layout.peak(cell);
        let mut best: Option<Best> = None;
        let mut evaluations = 0;
        for &(weight, tenant) in &ranked.by_weight {
            let at_most = grains(weight.min(peak.share - aim.settle));
            if evaluations >= EVALUATIONS_MAX || best.as_ref().is_some_and(|best| at_most < best.gain) {
                break;
            }
            if self.moved[tenant.index()] {
                continue;
            }
            let bytes = self.bytes_of(tenant);
            let least = self.gain_wanted(aim, bytes);
            if weight < least {
                tally.too_little += 1;
                continue;
            }
            if self.afford(bytes, cell).is_err() {
                tally.bounded += 1;
                continue;
            }
            match self.best_target(cell, tenant, targets, aim.settle, &mut evaluations) {
                None => tally.nowhere += 1,
                Some((gain, ..)) if gain < least => tally.too_little += 1,
                Some((gain, after, target)) => {
                    let gain = grains(gain);
                    if best.as_ref().is_none_or(|best| (best.gain, bytes) < (gain, best.bytes)) {
                        best = Some(Best { gain, after, bytes, tenant, target });
                    }
                }
            }
        }
        best
    }

    /// The gain that makes a move worth it: the payback rule. Any gain at all where a budget is broken.
    pub(super) fn gain_wanted(&self, aim: Aim, bytes: u64) -> f64 {
        if aim.over_budget {
            return 1e-6;
        }
        #[expect(clippy::cast_precision_loss, reason = "a size in terabytes needs no 53 bits")]
        let terabytes = bytes as f64 / BYTES_PER_TERABYTE;
        let policy = self.layout.policy();
        policy.gain_min + policy.gain_min_per_terabyte * terabytes
    }

    /// The tenants that may leave a cell, by what that takes off one dimension; heaviest first. `cooling`: without those
    /// that are cooling down. Give it back when done.
    pub(super) fn take_ranked(&mut self, cell: CellIx, dim: usize, cooling: bool) -> Ranked {
        self.ranked.remove(&(cell, dim, cooling)).unwrap_or_else(|| self.rank(cell, dim, cooling))
    }

    fn rank(&self, cell: CellIx, dim: usize, cooling: bool) -> Ranked {
        let mut ranked = Ranked::default();
        // Who has left may come back, when moves that were tried are taken back. Who has come never leaves again.
        let left = self.steps.iter().filter(|step| step.source == cell).map(|step| step.tenant);
        for tenant in self.layout.members(cell).iter().copied().chain(left) {
            match self.fixed(tenant) {
                Some(Fixed::Pinned) => ranked.pinned += 1,
                Some(Fixed::Moving) => ranked.moving += 1,
                Some(Fixed::Moved) if self.layout.home(tenant) == Some(cell) => ranked.arrived += 1,
                _ if cooling && self.is_cooling(tenant) => ranked.cooling += 1,
                _ => ranked.by_weight.push((self.layout.weight_at(cell, tenant, dim), tenant)),
            }
        }
        let order = |a: &(f64, TenantIx), b: &(f64, TenantIx)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if ranked.by_weight.len() > RANKED_MAX {
            ranked.by_weight.select_nth_unstable_by(RANKED_MAX, order);
            ranked.by_weight.truncate(RANKED_MAX);
        }
        ranked.by_weight.sort_unstable_by(order);
        ranked
    }

    /// The other cells of the zone: first those that are coldest where they are fullest, in that order, then the rest.
    fn by_warmth(&self, cell: CellIx) -> Vec<CellIx> {
        let zone = &self.zones.all[self.zones.of(cell)];
        let others = zone.cells.iter().filter(|&&other| other != cell && self.has_part_left(other));
        let mut cells: Vec<(f64, CellIx)> = others.map(|&other| (self.layout.peak(other).share, other)).collect();
        let order = |a: &(f64, CellIx), b: &(f64, CellIx)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if cells.len() > COLDEST {
            cells.select_nth_unstable_by(COLDEST, order);
            cells[..COLDEST].sort_unstable_by(order);
            cells[COLDEST..].sort_unstable_by_key(|(_, cell)| *cell);
        } else {
            cells.sort_unstable_by(order);
        }
        cells.into_iter().map(|(_, cell)| cell).collect()
    }

    /// Gain, fullness of the fuller cell, and the target, for the best of the coldest cells that admit the tenant and
    /// do not bring it nearer to others of its group.
    pub(super) fn best_target(
        &self,
        source: CellIx,
        tenant: TenantIx,
        targets: &[CellIx],
        settle: f64,
        evaluations: &mut usize,
    ) -> Option<(f64, f64, CellIx)> {
        let wish = Wish::new(&self.layout, tenant, &self.draining);
        let mut question = None;
        let before = self.layout.peak(source).share;
        let fate = shared_fate(&wish, source);
        let mut best: Option<(f64, f64, CellIx)> = None;
        let mut admitted = 0;
        for &target in targets {
            // A cell that is as full already cannot be the better one.
            let so_full = self.layout.peak(target).share;
            let hopeless = best.is_some_and(|(gain, ..)| before - so_full.max(settle) < gain);
            if admitted == TARGETS_MAX || *evaluations >= EVALUATIONS_MAX {
                break;
            }
            if hopeless || so_full >= before || wish.ask(target).is_err() || shared_fate(&wish, target) > fate {
                continue;
            }
            *evaluations += 1;
            let (question, source_after) = question.get_or_insert_with(|| {
                let question = Question::new(&self.layout, tenant, &self.draining);
                let source_after = self.layout.peak_with(source, question.leaving()).share;
                (question, source_after)
            });
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

impl Layout<'_> {
    /// What a cell's share in one dimension loses without one of its tenants.
    pub(super) fn weight_at(&self, cell: CellIx, tenant: TenantIx, dim: usize) -> f64 {
        let fleet = self.fleet();
        let demand = fleet.demand_at(tenant, dim);
        let cluster = fleet.tenant(tenant).spike_cluster();
        let now = self.need_at(cell, dim, None);
        let without = self.need_without(cell, dim, demand, cluster);
        let budget = &fleet.cell(cell).budget;
        budget.share(dim, now) - budget.share(dim, without)
    }
}
