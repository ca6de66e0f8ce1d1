//! From where tenants end up to moves, one after the other, each of which is admitted when it is made.
//!
//! The hottest cell is relieved first, by the tenant that weighs most where it is fullest, so that the benefit of the
//! first moves is the largest. A move waits while its target would get hotter than the hottest cell is: by and by the
//! target is relieved as well.

use super::Arrangement;
use crate::filter::Question;
use crate::fleet::CellIx;
use crate::plan::search::relieve::Aim;
use crate::plan::search::{Search, Step, Why};
use crate::score::shared_fate;

impl Search<'_> {
    /// Makes the moves. One that is never admitted is not made.
    pub(super) fn carry_out(&mut self, away: Arrangement, floors: &[f64]) {
        let mut waiting: Vec<Vec<Step>> = vec![Vec::new(); self.layout.fleet().cells().len()];
        let mut arriving: Vec<Option<Step>> = vec![None; waiting.len()];
        let settle =
            |search: &Self, cell: CellIx| floors[search.zones.of(cell)].max(search.layout.policy().low_water);
        for (tenant, target) in away {
            let source = self.layout.home(tenant).expect("who takes part has a home");
            let step = self.step(tenant, source, target, Why::Drain);
            let arrives = &mut arriving[target.index()];
            if arrives.as_ref().is_none_or(|of| of.bytes < step.bytes) {
                *arrives = Some(step.clone());
            }
            waiting[source.index()].push(step);
        }
        let mut left: usize = waiting.iter().map(Vec::len).sum();
        while left > 0 {
            let Some((source, at)) = self.next(&waiting, false).or_else(|| self.next(&waiting, true)) else {
                return;
            };
            let mut step = waiting[source.index()].swap_remove(at);
            let before = self.layout.peak(source);
            let question = Question::new(&self.layout, step.tenant, &self.draining);
            let target = question.peak_after(step.target).share;
            let after = target.max(self.layout.peak_with(source, question.leaving()).share);
            step.why = match &arriving[source.index()] {
                Some(for_whom) if before.share <= after && !before.is_over_budget() => {
                    Why::MakeRoom(for_whom.tenant)
                }
                _ => Aim::of(before, settle(self, source)).why(before.share, after),
            };
            self.make(step);
            left -= 1;
        }
    }

    /// The next move: of the hottest cell that has one, the heaviest that is admitted. `anyhow`: though its target gets
    /// hotter than any cell is.
    fn next(&self, waiting: &[Vec<Step>], anyhow: bool) -> Option<(CellIx, usize)> {
        let mut cells: Vec<(f64, CellIx)> = Vec::new();
        for cell in self.layout.fleet().cells().filter(|cell| !waiting[cell.index()].is_empty()) {
            cells.push((self.layout.peak(cell).share, cell));
        }
        let most = if anyhow { 1.0 } else { self.hottest().min(1.0) };
        // A heap, because the first ones will do.
        let mut heap: std::collections::BinaryHeap<Hot> =
            cells.into_iter().map(|(share, cell)| Hot { share, cell }).collect();
        while let Some(Hot { cell, .. }) = heap.pop() {
            let dim = self.layout.peak(cell).dim;
            let mut steps: Vec<(f64, usize)> = waiting[cell.index()]
                .iter()
                .enumerate()
                .map(|(at, step)| (self.layout.weight_at(cell, step.tenant, dim), at))
                .collect();
            steps.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let admitted = |&&(_, at): &&(f64, usize)| {
                let step = &waiting[cell.index()][at];
                let question = Question::new(&self.layout, step.tenant, &self.draining);
                // The layout is not the one on which it was thought of: its group may be elsewhere by now.
                shared_fate(&question, step.target) <= shared_fate(&question, step.source)
                    && question.ask(step.target).is_ok_and(|peak| peak.share <= most)
            };
            if let Some(&(_, at)) = steps.iter().find(admitted) {
                return Some((cell, at));
            }
        }
        None
    }
}

/// A cell by how full it is; of equals the first one.
struct Hot {
    share: f64,
    cell: CellIx,
}

impl Ord for Hot {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.share.total_cmp(&other.share).then(other.cell.cmp(&self.cell))
    }
}

impl PartialOrd for Hot {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Hot {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Hot {}
