//! Takes load off one cell: the move that takes the most of what it has above the level.
//!
//! A cell may be above the level at many hours and in several resources. What counts is the sum over all of them, less
//! what the target would get above the level: looking at the fullest hour alone gets stuck as soon as a second one is
//! nearly as full. A move counts no further than to the level, so among those that bring the cell there the one that
//! copies the least wins. And it has to pay: where its cell is fullest, it takes at least so much off.

use super::{Fixed, Search, Step, Why};
use crate::filter::Question;
use crate::fleet::{CellIx, TenantIx};
use crate::layout::Layout;
use crate::load::{Peak, above};
use crate::resource::{DIMS, RESOURCES};
use crate::score::shared_fate;

/// How many cells that admit a tenant are compared, coldest first.
const TARGETS_MAX: usize = 8;
/// How many cells are put in order, the coldest first, before all others of the zone.
const COLDEST: usize = 48;
/// How many (tenant, cell) pairs are weighed for one move ...
const EVALUATIONS_MAX: usize = 512;
/// ... and how many are looked at.
const LOOKS_MAX: usize = 5_000;
/// ... and for one tenant.
const LOOKS_EACH_MAX: usize = 300;
/// How many tenants are tried that bring the cell to the level where it is fullest, the lightest of them first ...
const HEAVIER_MAX: usize = 96;
/// ... and how many that do not, the heaviest first.
const LIGHTER_MAX: usize = 160;
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

    /// A move has to pay.
    pub(super) const WORTH_IT: Self = Self { over_budget: false, settle: 0.0 };

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

/// A tenant that may leave, and what that takes off its cell.
struct Candidate {
    tenant: TenantIx,
    bytes: u64,
    /// The least that must be gained where the cell is fullest.
    least: f64,
    /// Sum over all dimensions above the level.
    relief: f64,
}

/// A target for it.
#[derive(Clone, Copy)]
struct Target {
    cell: CellIx,
    /// How full the target is then.
    share: f64,
    /// What is taken off the source, less what the target gets above the level.
    net: f64,
}

struct Best {
    bytes: u64,
    tenant: TenantIx,
    target: Target,
}

/// How much of the search for one move may still be spent.
struct Purse {
    evaluations: usize,
    looks: usize,
}

/// Rounded as the cells of the plan are, so that a move and its cells tell the same.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range just before")]
fn per_mille(share: f64) -> u32 {
    (share * 1000.0).round().clamp(0.0, 1e9) as u32
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
            Some(Best { tenant, bytes, target }) => {
                let left = Question::new(&self.layout, tenant, &self.draining);
                let after = self.layout.peak_with(cell, left.leaving()).share.max(target.share);
                let why = aim.why(before.share, after);
                self.make(Step { tenant, source: cell, target: target.cell, bytes, why });
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
        let candidates = self.candidates(cell, aim, ranked, tally);
        let mut purse = Purse { evaluations: EVALUATIONS_MAX, looks: LOOKS_MAX };
        let mut best: Option<Best> = None;
        for candidate in &candidates {
            let enough = |best: &Best| grains(best.target.net) >= grains(candidate.relief);
            if purse.evaluations == 0 || purse.looks == 0 || best.as_ref().is_some_and(enough) {
                break;
            }
            let found = best.as_ref().map_or(0.0, |best| best.target.net);
            match self.best_target(cell, aim.settle, candidate, targets, found, &mut purse) {
                None => tally.nowhere += 1,
                Some(target) if grains(target.net) > grains(found) => {
                    best = Some(Best { bytes: candidate.bytes, tenant: candidate.tenant, target });
                }
                Some(_) => {}
            }
        }
        best
    }

    /// The tenants that may leave a cell and whose leaving pays, the one that takes the most off it first.
    fn candidates(&self, cell: CellIx, aim: Aim, ranked: &Ranked, tally: &mut Tally) -> Vec<Candidate> {
        let wanted = self.layout.peak(cell).share - aim.settle;
        let above = self.layout.above(cell, aim.settle);
        let by_weight = &ranked.by_weight;
        let (heavier, lighter) = by_weight.split_at(by_weight.partition_point(|(weight, _)| *weight >= wanted));
        let free = |of: &&(f64, TenantIx)| !self.moved[of.1.index()];
        let heavier = heavier.iter().rev().filter(free).take(HEAVIER_MAX);
        let mut candidates = Vec::with_capacity(HEAVIER_MAX + LIGHTER_MAX);
        for &(weight, tenant) in heavier.chain(lighter.iter().filter(free).take(LIGHTER_MAX)) {
            let bytes = self.bytes_of(tenant);
            let least = self.gain_wanted(aim, bytes);
            if weight.min(wanted) < least {
                tally.too_little += 1;
            } else if self.afford(bytes, cell).is_err() {
                tally.bounded += 1;
            } else {
                let relief = self.layout.relief(cell, tenant, &above, aim.settle);
                candidates.push(Candidate { tenant, bytes, least, relief });
            }
        }
        // A stable sort: among equals, the order of weights.
        candidates.sort_by_key(|of| (std::cmp::Reverse(grains(of.relief)), of.bytes));
        candidates
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
                Some(Fixed::Moving | Fixed::Arrived) => ranked.moving += 1,
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

    /// The best of the coldest cells that admit the tenant and do not bring it nearer to others of its group; better
    /// than `found`.
    fn best_target(
        &self,
        source: CellIx,
        level: f64,
        candidate: &Candidate,
        targets: &[CellIx],
        found: f64,
        purse: &mut Purse,
    ) -> Option<Target> {
        let question = Question::new(&self.layout, candidate.tenant, &self.draining);
        // No fuller than this, so that the move pays.
        let most = self.layout.peak(source).share - candidate.least;
        let fate = shared_fate(&question, source);
        let heavy = question.heaviest();
        let mut best: Option<Target> = None;
        let mut admitted = 0;
        for &cell in targets.iter().take(LOOKS_EACH_MAX) {
            if admitted == TARGETS_MAX || purse.evaluations == 0 || purse.looks == 0 {
                break;
            }
            purse.looks -= 1;
            // A first look at three of the 72 dimensions: what is above the level there already.
            let (fullest, above) = self.layout.glance(cell, &heavy, level);
            let to_beat = best.map_or(found, |best| best.net);
            if fullest > most || candidate.relief - above <= to_beat - 1e-9 || candidate.relief <= above {
                continue;
            }
            if question.wish().ask(cell).is_err() || shared_fate(&question, cell) > fate {
                continue;
            }
            purse.evaluations -= 1;
            let (peak, above) = self.layout.peak_above(cell, question.joining(), level);
            if peak.share > most.min(1.0) {
                continue;
            }
            let net = candidate.relief - (above - self.layout.excess(cell, level));
            if net <= 1e-9 {
                continue;
            }
            admitted += 1;
            let better = |of: &Target| (grains(net), of.share) > (grains(of.net), peak.share);
            if best.as_ref().is_none_or(better) {
                best = Some(Target { cell, share: peak.share, net });
            }
        }
        best
    }
}

impl Layout<'_> {
    /// The dimensions in which a cell is above a level.
    fn above(&self, cell: CellIx, level: f64) -> Vec<usize> {
        let shares = self.shares(cell);
        (0..DIMS).filter(|&dim| shares[dim] > level).collect()
    }

    /// By how much a cell is above a level, all dimensions together.
    fn excess(&self, cell: CellIx, level: f64) -> f64 {
        if self.peak(cell).share > level { above(self.shares(cell), level) } else { 0.0 }
    }

    /// How much less a cell is above a level without one of its tenants; `dims` are those in which it is.
    fn relief(&self, cell: CellIx, tenant: TenantIx, dims: &[usize], level: f64) -> f64 {
        let fleet = self.fleet();
        let cluster = fleet.tenant(tenant).spike_cluster();
        let (shares, inverse) = (self.shares(cell), &fleet.cell(cell).budget.inverse);
        let of = |&dim: &usize| {
            let without = self.need_without(cell, dim, fleet.demand_at(tenant, dim), cluster) * inverse[dim];
            shares[dim] - without.max(level)
        };
        dims.iter().map(of).sum()
    }

    /// A least value, by three dimensions, of how full a cell would be with so much more there, and of how much all
    /// dimensions together would be above a level that are not now.
    fn glance(&self, cell: CellIx, heavy: &[(usize, f64); RESOURCES], level: f64) -> (f64, f64) {
        let (shares, inverse) = (self.shares(cell), &self.fleet().cell(cell).budget.inverse);
        let (mut fullest, mut above) = (self.peak(cell).share, 0.0);
        for &(dim, mean) in heavy {
            let then = shares[dim] + mean * inverse[dim];
            fullest = fullest.max(then);
            above += (then - level.max(shares[dim])).max(0.0);
        }
        (fullest, above)
    }

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
