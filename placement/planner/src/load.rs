//! What the tenants of one cell add up to, and where the cell is fullest: the arithmetic of every decision.
//!
//! A cell must have room for the mean of its tenants plus `risk` standard deviations of their sum. Deviations of
//! tenants of one spike cluster add up; all others are independent and their variances add up:
//!
//! `need = Σ mean + risk · √( Σ variance of the unclustered + Σ over clusters (Σ deviation)² )`
//!
//! Means, variances and the sums by cluster are whole numbers below 2^53, so the need of a cell depends on who is on it
//! and not on the order in which they came and went.
//!
//! The loops over the 72 dimensions have no branch and no division, so that the compiler makes vector code of them. The
//! one share that counts in the end is divided exactly.

use std::ops::Range;

use crate::demand::Profile;
use crate::resource::{ByDim, DIMS, HOURS, Resource};

/// Rounding of a root and a division: a cell is over its budget only beyond this.
const ROUNDING: f64 = 1e-9;
/// Lanes of the loop that looks for the largest share.
const LANES: usize = 8;
/// What is found in single precision may be wrong by this part of it, and by this much: some ten times the rounding.
const ROUGHNESS: f32 = 1e-6;

/// Shares in single precision, for a first look at many cells: half the memory, twice the lanes.
pub(crate) type Rough = [f32; DIMS];

/// In single precision: rounded by some part of 10⁻⁷.
#[expect(clippy::cast_possible_truncation, reason = "the rounding is what ROUGHNESS allows for")]
pub(crate) fn single(value: f64) -> f32 {
    value as f32
}

/// The same shares, roughly.
pub(crate) fn roughly(shares: &ByDim) -> Rough {
    shares.map(single)
}

/// The dimension in which a cell is fullest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Peak {
    /// Need by budget; infinite where there is need and no budget.
    pub(crate) share: f64,
    pub(crate) dim: usize,
}

impl Peak {
    pub(crate) const IDLE: Self = Self { share: 0.0, dim: 0 };

    pub(crate) fn is_over_budget(self) -> bool {
        self.share > 1.0 + ROUNDING
    }
}

/// What a cell offers, and the same upside down.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    pub(crate) amounts: ByDim,
    /// 1 by amount; very large where there is none.
    pub(crate) inverse: ByDim,
}

impl Budget {
    pub(crate) fn new(amounts: ByDim) -> Self {
        Self { amounts, inverse: amounts.map(|amount| if amount > 0.0 { 1.0 / amount } else { 1e200 }) }
    }

    pub(crate) fn share(&self, dim: usize, need: f64) -> f64 {
        let budget = self.amounts[dim];
        if need <= 0.0 {
            0.0
        } else if budget <= 0.0 {
            f64::INFINITY
        } else {
            need / budget
        }
    }
}

/// One tenant more or less than a load has.
#[derive(Clone, Copy)]
pub(crate) struct Delta<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) cluster: Option<usize>,
    /// 1 for one more, -1 for one less, 0 for one that is counted already.
    pub(crate) sign: f64,
}

/// What the tenants of one cell add up to.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    mean: ByDim,
    /// Of the tenants without a cluster.
    alone: ByDim,
    /// All variance: that of the tenants without a cluster, and Σ over clusters (Σ deviation)².
    variance: ByDim,
    /// Σ deviation, by cluster.
    clusters: Vec<ByDim>,
}

impl Load {
    pub(crate) fn new(clusters: usize) -> Self {
        Self { mean: [0.0; DIMS], alone: [0.0; DIMS], variance: [0.0; DIMS], clusters: vec![[0.0; DIMS]; clusters] }
    }

    pub(crate) fn apply(&mut self, delta: Delta<'_>) {
        self.add(delta);
        self.settle();
    }

    /// Adds a tenant, but leaves `variance` behind until [`Load::settle`].
    pub(crate) fn add(&mut self, delta: Delta<'_>) {
        let Profile { mean, deviation } = delta.profile;
        for (sum, mean) in self.mean.iter_mut().zip(mean) {
            *sum += delta.sign * mean;
        }
        match delta.cluster {
            None => {
                for (variance, deviation) in self.alone.iter_mut().zip(deviation) {
                    *variance += delta.sign * (deviation * deviation);
                }
            }
            Some(cluster) => {
                for (sum, deviation) in self.clusters[cluster].iter_mut().zip(deviation) {
                    *sum += delta.sign * deviation;
                }
            }
        }
    }

    /// Adds the variance up from scratch, so that no rounding is carried along.
    pub(crate) fn settle(&mut self) {
        self.variance = self.alone;
        for sums in &self.clusters {
            for (variance, sum) in self.variance.iter_mut().zip(sums) {
                *variance += sum * sum;
            }
        }
    }

    pub(crate) fn variance_with(&self, dim: usize, delta: Option<Delta<'_>>) -> f64 {
        let own = self.variance[dim];
        let Some(delta) = delta else { return own };
        let deviation = delta.profile.deviation[dim];
        let sum = delta.cluster.map_or(0.0, |cluster| self.clusters[cluster][dim]);
        (own + delta.change(deviation, sum)).max(0.0)
    }

    /// Σ deviation of one cluster, with `delta` counted.
    pub(crate) fn cluster_with(&self, cluster: usize, dim: usize, delta: Delta<'_>) -> f64 {
        self.clusters[cluster][dim] + delta.sign * delta.profile.deviation[dim]
    }

    pub(crate) fn need_with(&self, dim: usize, risk: f64, delta: Option<Delta<'_>>) -> f64 {
        let mean = self.mean[dim] + delta.map_or(0.0, |delta| delta.sign * delta.profile.mean[dim]);
        mean + risk * self.variance_with(dim, delta).sqrt()
    }

    /// The need in one dimension without a tenant of that mean and deviation.
    pub(crate) fn need_without(
        &self,
        dim: usize,
        risk: f64,
        (mean, deviation): (f64, f64),
        cluster: Option<usize>,
    ) -> f64 {
        let variance = match cluster {
            None => deviation * deviation,
            Some(cluster) => deviation * (2.0 * self.clusters[cluster][dim] - deviation),
        };
        self.mean[dim] - mean + risk * positive(self.variance[dim] - variance).sqrt()
    }

    /// Σ mean, and all variance.
    pub(crate) const fn sums(&self) -> (&ByDim, &ByDim) {
        (&self.mean, &self.variance)
    }

    /// Σ deviation of one cluster.
    pub(crate) fn cluster(&self, cluster: usize) -> &ByDim {
        &self.clusters[cluster]
    }

    /// Adds its variance, and the deviations of each cluster, to sums of them.
    pub(crate) fn add_spread_to(&self, variance: &mut ByDim, clusters: &mut [ByDim]) {
        let own = std::iter::once(&self.variance).chain(&self.clusters);
        for (sums, own) in std::iter::once(variance).chain(clusters).zip(own) {
            sums.iter_mut().zip(own).for_each(|(sum, more)| *sum += more);
        }
    }

    /// Need by budget in each dimension.
    pub(crate) fn shares(&self, budget: &Budget, risk: f64) -> ByDim {
        let mut shares = [0.0; DIMS];
        for dim in 0..DIMS {
            shares[dim] = (self.mean[dim] + risk * self.variance[dim].sqrt()) * budget.inverse[dim];
        }
        shares
    }

    /// Where the cell is fullest; `shares` are its own.
    pub(crate) fn peak(&self, shares: &ByDim, budget: &Budget, risk: f64) -> Peak {
        self.fullest(shares, budget, risk, None)
    }

    /// Where the cell would be fullest.
    pub(crate) fn peak_with(&self, budget: &Budget, risk: f64, delta: Delta<'_>) -> Peak {
        self.fullest(&self.shares_with(budget, risk, delta), budget, risk, Some(delta))
    }

    /// The same, and by how much all dimensions together would be above `level`.
    pub(crate) fn peak_above(&self, budget: &Budget, risk: f64, delta: Delta<'_>, level: f64) -> (Peak, f64) {
        let shares = self.shares_with(budget, risk, delta);
        (self.fullest(&shares, budget, risk, Some(delta)), above(&shares, level))
    }

    #[inline]
    fn shares_with(&self, budget: &Budget, risk: f64, delta: Delta<'_>) -> ByDim {
        let Profile { mean, deviation } = delta.profile;
        let mut shares = [0.0; DIMS];
        match delta.cluster {
            None => {
                for dim in 0..DIMS {
                    let variance = self.variance[dim] + delta.change(deviation[dim], 0.0);
                    let mean = self.mean[dim] + delta.sign * mean[dim];
                    shares[dim] = (mean + risk * positive(variance).sqrt()) * budget.inverse[dim];
                }
            }
            Some(cluster) => {
                let sums = &self.clusters[cluster];
                for dim in 0..DIMS {
                    let variance = self.variance[dim] + delta.change(deviation[dim], sums[dim]);
                    let mean = self.mean[dim] + delta.sign * mean[dim];
                    shares[dim] = (mean + risk * positive(variance).sqrt()) * budget.inverse[dim];
                }
            }
        }
        shares
    }

    /// As [`Load::peak_with`] of one more, where the load's own shares are known, roughly. A tenant adds at least its
    /// mean and at most its mean and its own deviation (the root of a sum is at most the sum of the roots, within a
    /// cluster as well), so most dimensions are out of the question before a root is drawn.
    pub(crate) fn peak_within(
        &self,
        shares: &Rough,
        budget: &Budget,
        risk: f64,
        delta: Delta<'_>,
        reach: &Reach,
    ) -> Peak {
        // Rounded down once for the least and once for what is compared with it.
        let least = lower(lower(most(shares, &reach.least, 0..DIMS)));
        let (mut fullest, mut dim) = (0.0, 0);
        for resource in Resource::ALL {
            let dims = resource.first_dim()..resource.first_dim() + HOURS;
            if most(shares, &reach.most, dims.clone()) < least {
                continue;
            }
            for at in dims.filter(|&at| shares[at] + reach.most[at] >= least) {
                let share = self.need_with(at, risk, Some(delta)) * budget.inverse[at];
                if share > fullest {
                    (fullest, dim) = (share, at);
                }
            }
        }
        if fullest > 0.0 {
            Peak { share: budget.share(dim, self.need_with(dim, risk, Some(delta))), dim }
        } else {
            Peak::IDLE
        }
    }

    fn fullest(&self, shares: &ByDim, budget: &Budget, risk: f64, delta: Option<Delta<'_>>) -> Peak {
        let mut lanes = [0.0; LANES];
        for chunk in shares.chunks_exact(LANES) {
            for (most, &share) in lanes.iter_mut().zip(chunk) {
                *most = if share > *most { share } else { *most };
            }
        }
        let most = lanes.into_iter().fold(0.0, f64::max);
        let Some(dim) = shares.iter().position(|&share| share >= most && share > 0.0) else { return Peak::IDLE };
        Peak { share: budget.share(dim, self.need_with(dim, risk, delta)), dim }
    }
}

impl Delta<'_> {
    /// What the tenant changes in the variance of a cell where its cluster has `sum`.
    #[inline]
    fn change(&self, deviation: f64, sum: f64) -> f64 {
        // (sum ± deviation)² - sum² within a cluster, ± deviation² without one.
        let square = if self.cluster.is_some() { self.sign.abs() } else { self.sign };
        self.sign * (2.0 * sum * deviation) + square * (deviation * deviation)
    }
}

/// What one tenant adds to the shares of cells of one size: in each dimension at least, and at most.
pub(crate) struct Reach {
    size: Option<u32>,
    least: Rough,
    most: Rough,
    /// The largest of `most`.
    largest: f32,
}

impl Reach {
    pub(crate) const NOTHING: Self = Self { size: None, least: [0.0; DIMS], most: [0.0; DIMS], largest: 0.0 };

    /// Made anew only where the cell is of another size than the one before.
    pub(crate) fn look_at(&mut self, size: u32, budget: &Budget, risk: f64, profile: &Profile) {
        if self.size == Some(size) {
            return;
        }
        self.size = Some(size);
        for dim in 0..DIMS {
            self.least[dim] = single(profile.mean[dim] * budget.inverse[dim]);
            self.most[dim] = single((profile.mean[dim] + risk * profile.deviation[dim]) * budget.inverse[dim]);
        }
        self.largest = self.most.iter().copied().fold(0.0, f32::max);
    }

    /// How full a cell with these shares is with the tenant on it: at least, and at most. `peak` is how full it is where
    /// it is fullest; no dimension gets more than that and the largest addition, and most cells need no closer look.
    pub(crate) fn range(&self, shares: &Rough, peak: f64) -> (f64, f64) {
        let least = f64::from(lower(most(shares, &self.least, 0..DIMS)));
        let surely = f64::from(higher(single(peak) + self.largest));
        let is_clear = least > 1.0 || surely < 1.0;
        (least, if is_clear { surely } else { f64::from(higher(most(shares, &self.most, 0..DIMS))) })
    }
}

/// Surely no more than what a rough share stands for.
fn lower(share: f32) -> f32 {
    share * (1.0 - ROUGHNESS) - ROUGHNESS
}

/// Surely no less.
fn higher(share: f32) -> f32 {
    share * (1.0 + ROUGHNESS) + ROUGHNESS
}

/// The largest sum of two in some dimensions, whose number divides by the lanes.
#[inline]
fn most(shares: &Rough, more: &Rough, dims: Range<usize>) -> f32 {
    let mut lanes = [0.0; LANES];
    for (shares, more) in shares[dims.clone()].chunks_exact(LANES).zip(more[dims].chunks_exact(LANES)) {
        for lane in 0..LANES {
            let sum = shares[lane] + more[lane];
            lanes[lane] = larger(sum, lanes[lane]);
        }
    }
    // By halves: eight one after the other would wait for each other.
    let half: [f32; LANES / 2] = std::array::from_fn(|lane| larger(lanes[lane], lanes[lane + LANES / 2]));
    larger(larger(half[0], half[2]), larger(half[1], half[3]))
}

/// `max` without its care for what is no number.
#[inline]
fn larger(value: f32, than: f32) -> f32 {
    if value > than { value } else { than }
}

/// By how much all dimensions together are above `level`.
pub(crate) fn above(shares: &ByDim, level: f64) -> f64 {
    let mut lanes = [0.0; LANES];
    for chunk in shares.chunks_exact(LANES) {
        for (sum, &share) in lanes.iter_mut().zip(chunk) {
            *sum += positive(share - level);
        }
    }
    lanes.into_iter().sum()
}

/// `max` without its care for what is no number, which costs a vector instruction.
#[inline]
fn positive(value: f64) -> f64 {
    if value > 0.0 { value } else { 0.0 }
}
