//! How far a cell is above a level: the sum, over all dimensions, of the square of what is above it.
//!
//! Squares, because a little above the level at many hours is better than much at one. Single precision, but with the
//! root: a steep tenant adds less to a cell that has much variance already than to one that has little, and what is left
//! to gain near the bound is mostly that. Roots are drawn for a few hours at a time, and only where the cell may get
//! above the level at all. What is chosen by it is then made on the layout, and judged there.

use crate::demand::Profile;
use crate::load::{Load, Rough, roughly, single};
use crate::resource::{ByDim, DIMS, HOURS, RESOURCES};

/// One by the budget of a cell, by resource.
pub(super) type Inverse = [f32; RESOURCES];

/// Hours that are looked at together; those of a day divide by them.
const BLOCK: usize = 8;
const BLOCKS: usize = DIMS / BLOCK;

/// What a tenant takes, in thousandths: its mean, and `risk` of its own deviations.
pub(super) struct Weight {
    pub(super) mean: Rough,
    pub(super) deviation: Rough,
    /// By block: no cell gets more from it at any of the hours.
    most: [f32; BLOCKS],
    /// By resource: the dimension in which it takes the most.
    pub(super) heavy: [usize; RESOURCES],
}

/// What a cell has: its mean, and the square of `risk` of its deviations.
#[derive(Clone)]
pub(super) struct Stand {
    pub(super) mean: Rough,
    pub(super) variance: Rough,
    /// By block: how full it is where it is fullest.
    fullest: [f32; BLOCKS],
    /// The blocks, the fullest first: too much is seen early.
    order: [usize; BLOCKS],
}

/// The deviations of one spike cluster on a cell, and twice the risk.
pub(super) type Beside<'a> = (&'a ByDim, f32);

/// One tenant more or less.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    pub(super) weight: &'a Weight,
    pub(super) beside: Option<Beside<'a>>,
    /// 1 for one more, −1 for one less.
    pub(super) sign: f32,
}

impl Weight {
    pub(super) fn of(profile: &Profile, risk: f64) -> Self {
        let mean = roughly(&profile.mean);
        let deviation = profile.deviation.map(|deviation| single(risk * deviation));
        let takes = |dim: usize| mean[dim] + deviation[dim];
        let heavy = std::array::from_fn(|resource| {
            let dims = resource * HOURS..(resource + 1) * HOURS;
            dims.max_by(|&a, &b| takes(a).total_cmp(&takes(b))).expect("a day has hours")
        });
        Self { most: largest(takes), mean, deviation, heavy }
    }
}

impl Stand {
    pub(super) fn of(load: &Load, inverse: &Inverse, risk: f64) -> Self {
        let (mean, variance) = load.sums();
        Self::new(roughly(mean), variance.map(|variance| single(risk * risk * variance)), inverse)
    }

    fn new(mean: Rough, variance: Rough, inverse: &Inverse) -> Self {
        let share = |dim: usize| (mean[dim] + variance[dim].sqrt()) * inverse[dim / HOURS];
        let fullest = largest(share);
        let mut order = std::array::from_fn(|block| block);
        order.sort_unstable_by(|&a, &b| fullest[b].total_cmp(&fullest[a]).then(a.cmp(&b)));
        Self { fullest, order, mean, variance }
    }

    /// The same cell with that change.
    pub(super) fn with(&self, change: Change<'_>, inverse: &Inverse) -> Self {
        let (mut mean, mut variance) = (self.mean, self.variance);
        for dim in 0..DIMS {
            mean[dim] += change.sign * change.weight.mean[dim];
            variance[dim] = positive(variance[dim] + change.variance(dim));
        }
        Self::new(mean, variance, inverse)
    }

    /// What it needs in one dimension, with that change.
    pub(super) fn need_with(&self, dim: usize, change: Change<'_>) -> f32 {
        let variance = positive(self.variance[dim] + change.variance(dim));
        self.mean[dim] + change.sign * change.weight.mean[dim] + variance.sqrt()
    }

    pub(super) fn need(&self, dim: usize) -> f32 {
        self.mean[dim] + self.variance[dim].sqrt()
    }

    /// What it has above the level with that change; anything above `most` where it is more than that.
    pub(super) fn excess_with(&self, change: Change<'_>, inverse: &Inverse, level: f32, most: f32) -> f32 {
        let mut sum = 0.0;
        for block in self.order {
            let factor = inverse[block * RESOURCES / BLOCKS];
            // A root of a sum is at most the sum of the roots, within a cluster as well.
            let more = if change.sign > 0.0 { factor * change.weight.most[block] } else { 0.0 };
            if self.fullest[block] + more <= level {
                continue;
            }
            let first = block * BLOCK;
            sum += match change.beside {
                None => self.block(change, first, factor, level, |_, own| change.sign * own * own),
                Some((sums, twice)) => self.block(change, first, factor, level, |dim, own| {
                    own * (own + change.sign * twice * single(sums[dim]))
                }),
            };
            if sum > most {
                break;
            }
        }
        sum
    }

    #[inline]
    fn block(
        &self,
        change: Change<'_>,
        first: usize,
        factor: f32,
        level: f32,
        variance: impl Fn(usize, f32) -> f32,
    ) -> f32 {
        let mut lanes = [0.0; BLOCK];
        for lane in 0..BLOCK {
            let dim = first + lane;
            let mean = self.mean[dim] + change.sign * change.weight.mean[dim];
            let root = positive(self.variance[dim] + variance(dim, change.weight.deviation[dim])).sqrt();
            let above = positive((mean + root) * factor - level);
            lanes[lane] = above * above;
        }
        total(lanes)
    }
}

impl Change<'_> {
    /// What it changes in the variance of its cell.
    fn variance(&self, dim: usize) -> f32 {
        let own = self.weight.deviation[dim];
        match self.beside {
            None => self.sign * own * own,
            Some((sums, twice)) => own * (own + self.sign * twice * single(sums[dim])),
        }
    }
}

/// Of a cell as it is.
pub(super) fn excess(shares: &Rough, level: f32) -> f32 {
    let mut lanes = [0.0; BLOCK];
    for shares in shares.chunks_exact(BLOCK) {
        for lane in 0..BLOCK {
            let above = positive(shares[lane] - level);
            lanes[lane] += above * above;
        }
    }
    total(lanes)
}

fn largest(of: impl Fn(usize) -> f32) -> [f32; BLOCKS] {
    std::array::from_fn(|block| (block * BLOCK..(block + 1) * BLOCK).map(&of).fold(0.0, f32::max))
}

/// Added up by halves: eight one after the other would wait for each other.
#[inline]
fn total(lanes: [f32; BLOCK]) -> f32 {
    let half: [f32; BLOCK / 2] = std::array::from_fn(|lane| lanes[lane] + lanes[lane + BLOCK / 2]);
    (half[0] + half[2]) + (half[1] + half[3])
}

#[inline]
pub(super) fn positive(value: f32) -> f32 {
    if value > 0.0 { value } else { 0.0 }
}
