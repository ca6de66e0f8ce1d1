//! Cells as bins, and the search that empties one of them.
//!
//! The pool holds tenants without a bin. The one that came last is put where it fits, or where it fits once another
//! tenant has gone on to a third bin. Where neither is found it pushes out one or two others, those that have been hard
//! to place least often (Nagata and Bräysy's ejection pool), and the bins are shaken a little by feasible exchanges, so
//! that the search does not go in circles. Its random numbers come from a fixed seed.

use super::Item;

/// Rounding of sums of shares.
const FULL: f64 = 1.0 + 1e-9;
/// Exchanges that are tried after an ejection.
const SHAKES: usize = 60;

#[derive(Debug, Clone)]
struct Bin {
    mean: Vec<f64>,
    spread: Vec<f64>,
    items: Vec<usize>,
}

/// A packing.
#[derive(Debug, Clone)]
pub(super) struct Bins<'a> {
    all: &'a [Item],
    bins: Vec<Bin>,
    random: u64,
}

/// What goes out of a bin.
type Out = [Option<usize>; 2];

impl<'a> Bins<'a> {
    /// Puts the largest first, each where it leaves the least room.
    pub(super) fn filled(all: &'a [Item], dims: usize) -> Self {
        let mut packing = Self { all, bins: Vec::new(), random: 0x5EED };
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by(|&a, &b| all[b].size().total_cmp(&all[a].size()).then(a.cmp(&b)));
        for item in order {
            let bin = packing.fullest_that_fits(item, None).unwrap_or_else(|| {
                packing.bins.push(Bin { mean: vec![0.0; dims], spread: vec![0.0; dims], items: Vec::new() });
                packing.bins.len() - 1
            });
            packing.put(item, bin);
        }
        packing
    }

    pub(super) fn len(&self) -> usize {
        self.bins.len()
    }

    /// Empties the bin that is least full into the others. Says whether that was done; the packing is no use otherwise.
    pub(super) fn dissolve_one(&mut self, effort: u32) -> bool {
        let fill = |bin: &Bin| bin.mean.iter().sum::<f64>();
        let least = (0..self.bins.len()).min_by(|&a, &b| fill(&self.bins[a]).total_cmp(&fill(&self.bins[b])));
        let Some(least) = least else { return false };
        let mut pool = self.bins.swap_remove(least).items;
        pool.sort_by(|&a, &b| self.all[a].size().total_cmp(&self.all[b].size()).then(a.cmp(&b)));
        let mut hardness = vec![1u32; self.all.len()];
        for _ in 0..effort {
            let Some(item) = pool.pop() else { return true };
            if self.place(item) {
                continue;
            }
            hardness[item] += 1;
            let Some((bin, out)) = self.easiest_out(item, &hardness) else { return false };
            for &other in out.iter().flatten() {
                self.take(other, bin);
                pool.push(other);
            }
            self.put(item, bin);
            self.shake();
        }
        pool.is_empty()
    }

    /// Puts an item where it fits, if need be after another one has gone on.
    fn place(&mut self, item: usize) -> bool {
        if let Some(bin) = self.fullest_that_fits(item, None) {
            self.put(item, bin);
            return true;
        }
        for bin in 0..self.bins.len() {
            for at in 0..self.bins[bin].items.len() {
                let other = self.bins[bin].items[at];
                if !self.fits(bin, Some(item), [Some(other), None]) {
                    continue;
                }
                if let Some(further) = self.fullest_that_fits(other, Some(bin)) {
                    self.take(other, bin);
                    self.put(other, further);
                    self.put(item, bin);
                    return true;
                }
            }
        }
        false
    }

    /// The bin and the one or two items that have been hard to place least often, so that `item` fits without them.
    fn easiest_out(&mut self, item: usize, hardness: &[u32]) -> Option<(usize, Out)> {
        let mut best: Option<(u32, f64, usize, Out)> = None;
        let begin = self.below(self.bins.len());
        for turn in 0..self.bins.len() {
            let bin = (begin + turn) % self.bins.len();
            let items = &self.bins[bin].items;
            for (at, &first) in items.iter().enumerate() {
                let seconds = items[at + 1..].iter().copied().map(Some);
                for second in std::iter::once(None).chain(seconds) {
                    let out = [Some(first), second];
                    let hard = out.iter().flatten().map(|&of| hardness[of]).sum();
                    let size = out.iter().flatten().map(|&of| self.all[of].size()).sum::<f64>();
                    let better =
                        best.is_none_or(|(most, largest, ..)| hard < most || (hard == most && size < largest));
                    if better && self.fits(bin, Some(item), out) {
                        best = Some((hard, size, bin, out));
                    }
                }
            }
        }
        best.map(|(_, _, bin, out)| (bin, out))
    }

    /// A few exchanges between bins, wherever they happen to be feasible.
    fn shake(&mut self) {
        for _ in 0..SHAKES {
            let (a, b) = (self.below(self.bins.len()), self.below(self.bins.len()));
            if a == b || self.bins[a].items.is_empty() || self.bins[b].items.is_empty() {
                continue;
            }
            let (first, second) = (self.random_item(a), self.random_item(b));
            if self.fits(a, Some(second), [Some(first), None]) && self.fits(b, Some(first), [Some(second), None]) {
                self.take(first, a);
                self.take(second, b);
                self.put(first, b);
                self.put(second, a);
            }
        }
    }

    fn random_item(&mut self, bin: usize) -> usize {
        let at = self.below(self.bins[bin].items.len());
        self.bins[bin].items[at]
    }

    /// Of the bins that have room, the one that is fullest then.
    fn fullest_that_fits(&self, item: usize, but: Option<usize>) -> Option<usize> {
        let mut best: Option<(f64, usize)> = None;
        for bin in (0..self.bins.len()).filter(|&bin| Some(bin) != but) {
            if self.fits(bin, Some(item), [None, None]) {
                let of = &self.bins[bin];
                // Room left where it is wanted counts most: the product of what is used and what is wanted.
                let fill: f64 =
                    of.mean.iter().zip(&self.all[item].mean).map(|(used, more)| (used + more).powi(2)).sum();
                if best.is_none_or(|(most, _)| fill > most) {
                    best = Some((fill, bin));
                }
            }
        }
        best.map(|(_, bin)| bin)
    }

    fn fits(&self, bin: usize, item: Option<usize>, out: Out) -> bool {
        let of = &self.bins[bin];
        (0..of.mean.len()).all(|dim| {
            let (mut mean, mut spread) = (of.mean[dim], of.spread[dim]);
            if let Some(item) = item {
                mean += self.all[item].mean[dim];
                spread += self.all[item].spread[dim];
            }
            for &gone in out.iter().flatten() {
                mean -= self.all[gone].mean[dim];
                spread -= self.all[gone].spread[dim];
            }
            mean <= FULL && (spread <= 0.0 || mean + spread.sqrt() <= FULL)
        })
    }

    fn put(&mut self, item: usize, bin: usize) {
        let Self { all, bins, .. } = self;
        let bin = &mut bins[bin];
        bin.mean.iter_mut().zip(&all[item].mean).for_each(|(sum, more)| *sum += more);
        bin.spread.iter_mut().zip(&all[item].spread).for_each(|(sum, more)| *sum += more);
        bin.items.push(item);
    }

    fn take(&mut self, item: usize, bin: usize) {
        let Self { all, bins, .. } = self;
        let bin = &mut bins[bin];
        let at = bin.items.iter().position(|&of| of == item).expect("what is taken is there");
        bin.items.swap_remove(at);
        // From scratch, so that no rounding is carried along through many exchanges.
        bin.mean.fill(0.0);
        bin.spread.fill(0.0);
        for &of in &bin.items {
            bin.mean.iter_mut().zip(&all[of].mean).for_each(|(sum, more)| *sum += more);
            bin.spread.iter_mut().zip(&all[of].spread).for_each(|(sum, more)| *sum += more);
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.random >> 33) % bound.max(1) as u64).expect("below a count")
    }
}
