//! How far variance can be heaped up, where the cells' rooms are known: the least that the roots of their variances can
//! add up to.
//!
//! Let `room_k` be what the `k` roomiest cells have for tenants with variance, means and deviations together, and
//! `mean_for(V)` the least mean of any tenants whose variance adds up to `V`: those with the most variance for their
//! mean come first, so it is convex. Sort the cells of any placement by their variance, the largest first, and let `S_k`
//! be what the first `k` have. Two passes find limits that no `S_k` passes:
//!
//! 1. No cell has more than the `V₁` with `mean_for(V₁) + risk · √V₁ = room_1`, and up to there a root is at least
//!    `V / √V₁`. So `mean_for(S_k) + risk · S_k / √V₁ ≤ room_k`.
//! 2. Roots add up to the least where variance is heaped up the most (Karamata). With limits known, `k` cells with `S_k`
//!    of variance have roots of at least `Φ(S_k)`: those of the first limits' differences, until `S_k` is used up. So
//!    `mean_for(S_k) + risk · Φ(S_k) ≤ room_k`, which is a lower limit; what they enclose is made concave again.
//!
//! By the same argument the roots of all cells add up to at least those of the limits' differences.

/// Steps of a search for a limit: each halves what is left of it.
const BISECTIONS: usize = 40;
/// What does not fit by more than this part does not fit.
const ROUNDING: f64 = 1e-6;

/// Variance by how steep it is: the most of it by mean, and how much there is; the steepest first.
pub(super) struct Steps {
    steps: Vec<(f64, f64)>,
    /// Up to each step: the least mean, and the variance that comes with it.
    sums: Vec<(f64, f64)>,
}

/// The least that roots add up to, and whether all variance has found room.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Roots {
    pub(super) sum: f64,
    pub(super) fits: bool,
}

impl Steps {
    pub(super) fn new(steps: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut steps: Vec<(f64, f64)> = steps.into_iter().filter(|&(_, variance)| variance > 0.0).collect();
        steps.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let mut sums = vec![(0.0, 0.0)];
        let (mut mean, mut all) = (0.0, 0.0);
        for &(steepest, variance) in &steps {
            mean += variance / steepest;
            all += variance;
            sums.push((mean, all));
        }
        Self { steps, sums }
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.steps.is_empty()
    }

    fn all(&self) -> f64 {
        self.sums[self.steps.len()].1
    }

    /// The least mean that so much variance comes with.
    fn mean_for(&self, variance: f64) -> f64 {
        let after = self.sums.partition_point(|(_, sum)| *sum < variance);
        let Some(before) = after.checked_sub(1) else { return 0.0 };
        let (mean, sum) = self.sums[before];
        // More than there is comes with as much mean as the last of it.
        let steepest = self.steps[before.min(self.steps.len() - 1)].0;
        mean + (variance - sum) / steepest
    }

    /// `rooms` by number of cells: what so many have together, the roomiest first; it never falls. `sharp` says
    /// whether the second pass is made.
    pub(super) fn least_roots(&self, rooms: &[f64], risk: f64, sharp: bool) -> Roots {
        let all = self.all();
        let cells = rooms.len() - 1;
        if risk <= 0.0 || all <= 0.0 {
            return Roots { sum: 0.0, fits: true };
        }
        // A root of a sum is at most the sum of the roots.
        if cells == 0 || rooms[1] <= 0.0 || self.mean_for(all) + risk * all.sqrt() <= rooms[1] {
            return Roots { sum: all.sqrt(), fits: true };
        }
        let largest = largest((0.0, all), |variance| self.mean_for(variance) + risk * variance.sqrt() <= rooms[1]);
        let mut limits = self.first_limits(rooms, risk / largest.sqrt());
        if sharp {
            limits = self.second_limits(rooms, risk, &limits);
        }
        let sum = limits.windows(2).map(|pair| (pair[1] - pair[0]).max(0.0).sqrt()).sum();
        Roots { sum, fits: limits[cells] >= all * (1.0 - ROUNDING) }
    }

    /// Each unit of variance takes `each` besides its mean.
    fn first_limits(&self, rooms: &[f64], each: f64) -> Vec<f64> {
        let mut limits = vec![0.0];
        let (mut at, mut taken, mut sum) = (0, 0.0, 0.0);
        for pair in rooms.windows(2) {
            let mut left = pair[1] - pair[0];
            while let Some((steepest, variance)) = self.steps.get(at) {
                let price = 1.0 / steepest + each;
                let takes = (left / price).min(variance - taken);
                (sum, taken, left) = (sum + takes, taken + takes, left - takes * price);
                if taken < *variance {
                    break;
                }
                (at, taken) = (at + 1, 0.0);
            }
            limits.push(sum);
        }
        limits
    }

    fn second_limits(&self, rooms: &[f64], risk: f64, first: &[f64]) -> Vec<f64> {
        let mut roots = vec![0.0];
        let mut sum = 0.0;
        for pair in first.windows(2) {
            sum += (pair[1] - pair[0]).max(0.0).sqrt();
            roots.push(sum);
        }
        let least = |variance: f64| {
            let after = first.partition_point(|limit| *limit < variance);
            let before = after.saturating_sub(1).min(roots.len() - 1);
            roots[before] + (variance - first[before]).max(0.0).sqrt()
        };
        let mut limits = vec![0.0];
        let mut most = 0.0f64;
        for (room, limit) in rooms.iter().zip(first).skip(1) {
            // What is right for some cells is right for more of them.
            most = most
                .max(largest((most.min(*limit), *limit), |sum| self.mean_for(sum) + risk * least(sum) <= *room));
            limits.push(most);
        }
        concave(&limits)
    }
}

/// The largest value of a range that is right, or a little more.
fn largest((mut low, mut high): (f64, f64), is_right: impl Fn(f64) -> bool) -> f64 {
    if is_right(high) {
        return high;
    }
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if is_right(middle) { low = middle } else { high = middle }
    }
    high
}

/// The least concave values that are no lower.
fn concave(values: &[f64]) -> Vec<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a number of cells")]
    let slope = |from: usize, to: usize| (values[to] - values[from]) / (to - from) as f64;
    let mut corners: Vec<usize> = Vec::new();
    for at in 0..values.len() {
        while let [.., before, last] = corners[..] {
            if slope(before, last) > slope(last, at) {
                break;
            }
            corners.pop();
        }
        corners.push(at);
    }
    let mut hull = vec![values[0]];
    for pair in corners.windows(2) {
        let (from, each) = (pair[0], slope(pair[0], pair[1]));
        #[expect(clippy::cast_precision_loss, reason = "a number of cells")]
        hull.extend((from + 1..=pair[1]).map(|at| values[from] + each * (at - from) as f64));
    }
    hull
}

#[cfg(test)]
mod tests;
