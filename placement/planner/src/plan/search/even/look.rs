//! What to do about one cell: the move, or else the exchange, for which the sum falls the most.
//!
//! Looking changes nothing, so several cells are looked at together, on as many threads as there are; what is found is
//! made one after the other. How many cells that are does not depend on the threads, so neither does the plan.

use std::collections::BTreeMap;

use super::excess::{Change, positive};
use super::{Evening, NOTHING};
use crate::filter::Wish;
use crate::fleet::CellIx;
use crate::resource::{DIMS, HOURS};
use crate::score::shared_fate;

/// How many tenants of a cell are tried for one move, those that take the most off it ...
const LEAVING_MAX: usize = 8;
/// ... and for one exchange ...
const PAIRED_MAX: usize = 16;
/// ... against the tenants of so many cells.
const PARTNERS_MAX: usize = 16;
/// So many cells at which one tenant glances take as long as one look.
const GLANCES_PER_LOOK: usize = 16;
/// Fleets with fewer cells are looked at by one thread: starting another takes as long.
const CELLS_PER_THREAD: usize = 100;

/// A tenant that takes part, and where it would go.
pub(super) type Away = (usize, CellIx);

/// What was found for one cell.
#[derive(Default)]
pub(super) struct Found {
    /// Moves to be made together; none where nothing gains anything.
    pub(super) moves: Vec<Away>,
    pub(super) looks: u64,
    /// A bound was in the way.
    pub(super) bounded: bool,
}

/// A tenant that may leave its cell, and what that takes off it.
type Leaving = (f32, usize);

impl Evening<'_, '_> {
    /// Looks at several cells, as they are now.
    pub(super) fn find_all(&self, cells: &[CellIx]) -> Vec<Found> {
        let most = self.layout().fleet().cells().len() / CELLS_PER_THREAD;
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(most);
        on_threads(threads, cells, |&cell| self.find(cell))
    }

    fn find(&self, cell: CellIx) -> Found {
        let mut found = Found::default();
        let leaving = self.leaving(cell, &mut found);
        let mut more = Vec::new();
        self.find_move(cell, &leaving, &mut more, &mut found);
        if found.moves.is_empty() {
            self.find_exchange(cell, &leaving, &mut more, &mut found);
        }
        found
    }

    /// The same, but without moving a single tenant: that has been tried.
    pub(super) fn find_pair(&self, cell: CellIx) -> Found {
        let mut found = Found::default();
        let leaving = self.leaving(cell, &mut found);
        self.find_exchange(cell, &leaving, &mut Vec::new(), &mut found);
        found
    }

    /// The tenants of a cell that may leave it, and what that takes off it; the most first.
    fn leaving(&self, cell: CellIx, found: &mut Found) -> Vec<Leaving> {
        let (own, settle) = (self.board.excess[cell.index()], self.board.settle[cell.index()]);
        let (stand, inverse) = (self.board.stand(cell), &self.board.inverse[cell.index()]);
        let share = |dim: usize| stand.need(dim) * inverse[dim / HOURS];
        let hot: Vec<(usize, f32)> =
            (0..DIMS).map(|dim| (dim, share(dim))).filter(|&(_, share)| share > settle).collect();
        let mut leaving = Vec::with_capacity(self.on[cell.index()].len());
        for &index in &self.on[cell.index()] {
            let item = &self.items[index];
            let change = self.change(cell, index, -1.0);
            let pays = |&(dim, share): &(usize, f32)| {
                let off = share - stand.need_with(dim, change) * inverse[dim / HOURS];
                off.min(share - settle) >= item.least
            };
            if item.at == item.home && !hot.iter().any(pays) {
                continue;
            }
            let relief = own - stand.excess_with(change, inverse, settle, own);
            if relief > NOTHING {
                leaving.push((relief, index));
            }
        }
        found.looks += leaving.len() as u64;
        leaving.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        leaving
    }

    fn find_move(&self, cell: CellIx, leaving: &[Leaving], more: &mut Vec<f32>, found: &mut Found) {
        let mut best = NOTHING;
        let mut left = LEAVING_MAX;
        for &(relief, index) in leaving {
            if left == 0 || relief <= best {
                break;
            }
            // Nobody at home is affordable when moves are used up; one that is away already costs no move more.
            if !self.affords(&[(index, None)]) {
                found.bounded = true;
                continue;
            }
            left -= 1;
            self.board.glance(&self.items[index].weight, more);
            found.looks += (more.len() / GLANCES_PER_LOOK) as u64;
            let zone = &self.search.zones.all[self.search.zones.of(cell)].cells;
            let others = || zone.iter().copied().filter(|&target| target != cell);
            // The most promising first: what it gains spares many others the look.
            let first = others().min_by(|a, b| more[a.index()].total_cmp(&more[b.index()]));
            for target in first.into_iter().chain(others().filter(|&target| Some(target) != first)) {
                let most = relief - best;
                if more[target.index()] >= most {
                    continue;
                }
                found.looks += 1;
                let before = self.board.excess[target.index()];
                let then = self.excess_with(target, index, 1.0, before + most);
                if then < before + most && self.admits(index, target) {
                    best = relief - (then - before);
                    found.moves = vec![(index, target)];
                }
            }
        }
    }

    pub(super) fn change(&self, cell: CellIx, index: usize, sign: f32) -> Change<'_> {
        let item = &self.items[index];
        self.board.change(self.layout(), cell, &item.weight, item.cluster, sign)
    }

    pub(super) fn excess_with(&self, cell: CellIx, index: usize, sign: f32, most: f32) -> f32 {
        let (inverse, settle) = (&self.board.inverse[cell.index()], self.board.settle[cell.index()]);
        self.board.stand(cell).excess_with(self.change(cell, index, sign), inverse, settle, most)
    }

    /// Two tenants that change places where that lowers the sum the most. Two of one spike cluster are looked at as if
    /// they were of two.
    fn find_exchange(&self, cell: CellIx, leaving: &[Leaving], more: &mut Vec<f32>, found: &mut Found) {
        let own = self.board.excess[cell.index()];
        let hottest = self.layout().peak(cell).dim;
        let (inverse, settle) = (&self.board.inverse[cell.index()], self.board.settle[cell.index()]);
        let root = self.board.stand(cell).variance[hottest].sqrt().max(f32::MIN_POSITIVE);
        let weighs = |index: usize| {
            let weight = &self.items[index].weight;
            weight.mean[hottest] + weight.deviation[hottest] * weight.deviation[hottest] / (2.0 * root)
        };
        let mut best = NOTHING;
        // Most partners are those of several tenants, and what their tenants take is far away in memory.
        let mut weighed: BTreeMap<CellIx, Vec<(f32, usize)>> = BTreeMap::new();
        for &(_, index) in leaving.iter().take(PAIRED_MAX) {
            let heavier = weighs(index);
            let without = self.board.stand(cell).with(self.change(cell, index, -1.0), inverse);
            for partner in self.partners(cell, index, more) {
                let at = partner.index();
                let (there, level) = (&self.board.inverse[at], self.board.settle[at]);
                let with = self.board.stand(partner).with(self.change(partner, index, 1.0), there);
                let others = || self.on[at].iter().map(|&other| (weighs(other), other)).collect();
                for &(weight, other) in &*weighed.entry(partner).or_insert_with(others) {
                    if weight >= heavier || !self.affords(&[(index, Some(partner)), (other, Some(cell))]) {
                        continue;
                    }
                    let both = own + self.board.excess[at] - best;
                    found.looks += 2;
                    let comes = self.change(cell, other, 1.0);
                    let here = without.excess_with(comes, inverse, settle, both);
                    if here >= both {
                        continue;
                    }
                    let sum = here + with.excess_with(self.change(partner, other, -1.0), there, level, both - here);
                    let after = |dim: usize| without.need_with(dim, comes) * inverse[dim / HOURS];
                    let pays = sum < both && self.pays(cell, (index, other), after);
                    if pays && self.admits(index, partner) && self.admits(other, cell) {
                        best = own + self.board.excess[at] - sum;
                        found.moves = vec![(index, partner), (other, cell)];
                    }
                }
            }
        }
    }

    /// Two moves have to pay for both; what has been moved already costs nothing more. `after`: how full the cell is
    /// then.
    fn pays(&self, cell: CellIx, pair: (usize, usize), after: impl Fn(usize) -> f32) -> bool {
        let least_of = |index: usize| {
            let item = &self.items[index];
            if item.at == item.home { item.least } else { 0.0 }
        };
        let least = least_of(pair.0) + least_of(pair.1);
        let (stand, inverse) = (self.board.stand(cell), &self.board.inverse[cell.index()]);
        let settle = self.board.settle[cell.index()];
        let gain = |dim: usize| {
            let share = stand.need(dim) * inverse[dim / HOURS];
            (share - after(dim)).min(positive(share - settle))
        };
        least <= 0.0 || (0..DIMS).any(|dim| gain(dim) >= least)
    }

    /// The cells that a tenant would bring the least above the level, as far as a glance tells.
    fn partners(&self, cell: CellIx, index: usize, more: &mut Vec<f32>) -> Vec<CellIx> {
        self.board.glance(&self.items[index].weight, more);
        let zone = &self.search.zones.all[self.search.zones.of(cell)];
        let others = zone.cells.iter().copied().filter(|&other| other != cell);
        let mut cells: Vec<(f32, CellIx)> = others.map(|other| (more[other.index()], other)).collect();
        let order = |a: &(f32, CellIx), b: &(f32, CellIx)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if cells.len() > PARTNERS_MAX {
            cells.select_nth_unstable_by(PARTNERS_MAX, order);
            cells.truncate(PARTNERS_MAX);
        }
        cells.sort_unstable_by(order);
        cells.into_iter().map(|(_, cell)| cell).collect()
    }

    /// Whether a tenant may be on a cell, room aside: by the filters, its group and the bounds of both cells.
    pub(super) fn admits(&self, index: usize, target: CellIx) -> bool {
        let item = &self.items[index];
        if target == item.home {
            return true;
        }
        let wish = Wish::new(self.layout(), item.tenant, &self.search.draining);
        let parts =
            self.search.has_part_left(target) && (item.at != item.home || self.search.has_part_left(item.home));
        parts && wish.ask(target).is_ok() && shared_fate(&wish, target) <= shared_fate(&wish, item.at)
    }
}

/// What is made of each, in their order, however many threads make it.
fn on_threads<I: Sync, O: Send>(threads: usize, of: &[I], make: impl Fn(&I) -> O + Sync) -> Vec<O> {
    if threads < 2 || of.len() < 2 {
        return of.iter().map(make).collect();
    }
    let make = &make;
    std::thread::scope(|scope| {
        let mut parts = of.chunks(of.len().div_ceil(threads));
        let own = parts.next().expect("there is something");
        let others: Vec<_> =
            parts.map(|part| scope.spawn(move || part.iter().map(make).collect::<Vec<_>>())).collect();
        let mut made: Vec<O> = own.iter().map(make).collect();
        for other in others {
            made.extend(other.join().expect("looking does not panic"));
        }
        made
    })
}

#[cfg(test)]
mod tests {
    use super::on_threads;

    #[test]
    fn what_several_threads_find_is_what_one_finds_in_the_same_order() {
        let numbers: Vec<usize> = (0..17).collect();
        let squares: Vec<usize> = numbers.iter().map(|number| number * number).collect();
        for threads in 0..=20 {
            assert_eq!(on_threads(threads, &numbers, |number| number * number), squares, "{threads} threads");
        }
        assert!(on_threads(2, &[], |number: &usize| *number).is_empty());
    }
}
