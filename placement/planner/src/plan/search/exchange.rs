//! Where no single move helps: two tenants change places, or one makes room for another.
//!
//! Both are two moves, one after the other, each of which is feasible when it is made: the waves keep their order. What
//! is tried is made on the layout and taken back, so that nothing is judged but what would really be.

use super::relieve::{Aim, Ranked};
use super::{Search, Step, Why};
use crate::explain::best;
use crate::filter::{Question, RefusalCode};
use crate::fleet::{CellIx, TenantIx};
use crate::score::shared_fate;

/// How many of the heaviest tenants of the hot cell are tried ...
const LEAVING_MAX: usize = 12;
/// ... against how many of the coldest cells ...
const CELLS_MAX: usize = 8;
/// ... and how many tenants of each.
const PARTNERS_MAX: usize = 3;
/// A tenant that leaves for another's sake goes to one of so many of the coldest.
const THIRDS_MAX: usize = 32;
/// How many cells may make room for a tenant ...
const ROOMS_MAX: usize = 12;
/// ... by how many tenants each.
const EJECTED_MAX: usize = 8;

/// Two moves that have been tried.
struct Pair {
    gain: f64,
    after: f64,
    first: Step,
    second: Step,
}

impl Search<'_> {
    /// Relieves a cell by two moves where that pays for both. Says whether it did.
    pub(super) fn exchange(&mut self, cell: CellIx, aim: Aim, ranked: &Ranked, targets: &[CellIx]) -> bool {
        if self.steps.len() + 2 > self.request.bounds.moves_max as usize {
            return false;
        }
        let peak = self.layout.peak(cell);
        // Two moves have to pay for both.
        if peak.share - aim.settle < 2.0 * self.gain_wanted(aim, 0) {
            return false;
        }
        let mut found: Option<Pair> = None;
        let leaving = ranked.by_weight.iter().filter(|(_, tenant)| !self.moved[tenant.index()]).take(LEAVING_MAX);
        for &(weight, tenant) in leaving.copied().collect::<Vec<_>>().iter() {
            for &target in targets.iter().take(CELLS_MAX) {
                let pairs = self.pairs(cell, (weight, tenant), target, targets, peak.dim, aim);
                for pair in pairs {
                    if found.as_ref().is_none_or(|best| pair.gain > best.gain + 1e-9) {
                        found = Some(pair);
                    }
                }
            }
            // Good enough: the cell is where it should be.
            if found.as_ref().is_some_and(|pair| pair.gain >= peak.share - aim.settle - 1e-9) {
                break;
            }
        }
        let Some(mut pair) = found else { return false };
        // The one that leaves the hot cell says why; the other says for whom.
        let why = aim.why(peak.share, pair.after);
        for step in [&mut pair.first, &mut pair.second] {
            if step.source == cell {
                step.why = why;
            }
        }
        self.make(pair.first);
        self.make(pair.second);
        true
    }

    /// What comes of `tenant` going to `target` while one of the lighter tenants there leaves it.
    fn pairs(
        &mut self,
        cell: CellIx,
        (weight, tenant): (f64, TenantIx),
        target: CellIx,
        targets: &[CellIx],
        dim: usize,
        aim: Aim,
    ) -> Vec<Pair> {
        let wanted = weight.min(self.layout.peak(cell).share - aim.settle);
        let partners = self.take_ranked(target, dim, true);
        // In shares of the target; cells of one zone are of like size, and what counts is tried.
        let lighter = partners.by_weight.iter().filter(|(other, _)| weight - other >= wanted * 0.5);
        let free = lighter.filter(|(_, other)| !self.moved[other.index()]);
        let chosen: Vec<TenantIx> = free.take(PARTNERS_MAX).map(|(_, other)| *other).collect();
        self.ranked.insert((target, dim, true), partners);
        let mut pairs = Vec::new();
        for other in chosen {
            let out = self.step(tenant, cell, target, Why::Exchange(other));
            let back = self.step(other, target, cell, Why::Exchange(tenant));
            let swap = self.try_pair(&out, &back, aim).or_else(|| self.try_pair(&back, &out, aim));
            if let Some(pair) = swap {
                pairs.push(pair);
                continue;
            }
            let question = Question::new(&self.layout, other, &self.draining);
            let cold = &targets[..targets.len().min(THIRDS_MAX)];
            let open = |to: CellIx| to != target && cold.contains(&to);
            if let Some((score, _)) = best(&question, None, open) {
                let away = self.step(other, target, score.cell, Why::MakeRoom(tenant));
                pairs.extend(self.try_pair(&away, &out, aim));
            }
        }
        pairs
    }

    pub(super) fn step(&self, tenant: TenantIx, source: CellIx, target: CellIx, why: Why) -> Step {
        Step { tenant, source, target, bytes: self.bytes_of(tenant), why }
    }

    /// Makes both moves and takes them back; gives what they come to if both are feasible and pay.
    fn try_pair(&mut self, first: &Step, second: &Step, aim: Aim) -> Option<Pair> {
        self.tries_left = self.tries_left.checked_sub(1)?;
        let cells = [first.source, first.target, second.source, second.target];
        let fullest = |search: &Self| cells.iter().map(|&cell| search.layout.peak(cell).share).fold(0.0, f64::max);
        let before = fullest(self);
        let keep = self.steps.len();
        let both = self.try_step(first) && self.try_step(second);
        let after = fullest(self);
        self.take_back(keep);
        let gain = before - after.max(aim.settle);
        let wanted = self.gain_wanted(aim, first.bytes) + self.gain_wanted(aim, second.bytes);
        (both && gain >= wanted).then(|| Pair { gain, after, first: first.clone(), second: second.clone() })
    }

    /// Makes a move if the bounds and the target allow it, and it brings nobody nearer to its group.
    pub(super) fn try_step(&mut self, step: &Step) -> bool {
        let question = Question::new(&self.layout, step.tenant, &self.draining);
        let allowed = self.afford(step.bytes, step.source).is_ok()
            && self.has_part_left(step.target)
            && shared_fate(&question, step.target) <= shared_fate(&question, step.source)
            && question.ask(step.target).is_ok();
        if allowed {
            self.make(step.clone());
        }
        allowed
    }

    /// For a tenant that must go and that no cell admits: another one leaves a cell that then does. Says whether that
    /// has been found.
    pub(super) fn make_room(&mut self, tenant: TenantIx, why: Why) -> bool {
        let Some(source) = self.layout.home(tenant) else { return false };
        if self.fixed(tenant).is_some_and(|fixed| fixed != super::Fixed::Pinned) {
            return false;
        }
        for room in self.rooms(tenant) {
            for other in self.ejected(tenant, room) {
                let keep = self.steps.len();
                let question = Question::new(&self.layout, other, &self.draining);
                let open = |to: CellIx| to != room && to != source && self.has_part_left(to);
                let Some((score, _)) = best(&question, None, open) else { continue };
                let away = self.step(other, room, score.cell, Why::MakeRoom(tenant));
                let come = self.step(tenant, source, room, why);
                if self.try_step(&away) && self.try_must(&come) {
                    return true;
                }
                self.take_back(keep);
            }
        }
        false
    }

    /// Makes the move of a tenant that must go.
    fn try_must(&mut self, step: &Step) -> bool {
        let question = Question::new(&self.layout, step.tenant, &self.draining);
        let allowed = self.afford(step.bytes, step.source).is_ok()
            && self.has_part_left(step.target)
            && question.ask(step.target).is_ok();
        if allowed {
            self.make(step.clone());
        }
        allowed
    }

    /// Cells that lack nothing but room for a tenant, those that lack least first.
    pub(super) fn rooms(&self, tenant: TenantIx) -> Vec<CellIx> {
        let question = Question::new(&self.layout, tenant, &self.draining);
        let full = |cell: &CellIx| question.ask(*cell) == Err(RefusalCode::CapacityExceeded);
        let cells = self.layout.fleet().cells().filter(|cell| Some(*cell) != question.home && full(cell));
        let mut cells: Vec<(f64, CellIx)> = cells.map(|cell| (question.peak_after(cell).share, cell)).collect();
        cells.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        cells.into_iter().take(ROOMS_MAX).map(|(_, cell)| cell).collect()
    }

    /// Tenants of a cell of which one leaving may make room enough for `tenant`, the lightest first.
    pub(super) fn ejected(&mut self, tenant: TenantIx, room: CellIx) -> Vec<TenantIx> {
        let peak = Question::new(&self.layout, tenant, &self.draining).peak_after(room);
        let ranked = self.take_ranked(room, peak.dim, true);
        let enough = ranked.by_weight.iter().filter(|(weight, _)| *weight >= peak.share - 1.0);
        let free: Vec<TenantIx> =
            enough.map(|(_, other)| *other).filter(|other| !self.moved[other.index()]).collect();
        self.ranked.insert((room, peak.dim, true), ranked);
        free.into_iter().rev().take(EJECTED_MAX).collect()
    }
}
