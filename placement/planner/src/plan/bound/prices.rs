//! Prices: a limit for plans that may make only so many moves, in which each move is paid for.
//!
//! One dimension, a level `t`, and a plan of at most `m` moves that ends nowhere above `t`. `W` is `risk²` times the
//! variance of a cell, so that a cell needs `M + √W`. Those who leave are `L`, those who come `E`.
//!
//! 1. *Variance.* `W ≥ W₀ − Σ_L p + Σ_E q` with `p = q = s²` for a tenant without a spike cluster, where `s` is `risk` times
//!    its deviation, and `p = 2 S s − s²`, `q = s²` for one of a cluster with a sum of `S` on the cell: of
//!    `(S − d + e)² ≥ S² − 2 S d + d² + e²` squares of sums are at least sums of squares.
//! 2. *Bands.* Where `√W` is between `low` and `high`, it is no less than its chord `(W + low · high) / (low + high)`. So in
//!    the band where the cell ends, `need − t · budget ≤ Σ_L w − Σ_E w'`: `need` is that of the cell as it is, by the
//!    chord, `w = mean + p / (low + high)` is what a tenant takes off it, `w' = mean + q / (low + high)` what one adds.
//! 3. *Prices.* Let room have a price `α` in each band, and let `u = min α w'` over all bands: nobody comes to any cell for
//!    less. Times `α`, over all cells: `Σ α (need − t · budget) ≤ Σ over those who move (α w − u)`, because whoever moves
//!    leaves one cell and comes to one.
//! 4. *Moves.* There are at most `m`. So `Σ over cells of ( α (need − t · budget) − Σ over its tenants of
//!    max(0, α w − u − 1) ) ≤ m`: who stays takes room, and who moves pays `u` and one move. In which band a cell ends is
//!    not known: the least over all bands counts.
//! 5. *A cell's own price.* It may be higher than the band's: those who come take no less room for it. So where a
//!    cell has to lose tenants, the price counts at which it loses them.
//!
//! Where the sum is above `m`, no such plan is. That holds for any prices; `prices/search.rs` looks for good ones, and
//! this file believes nothing of what it has found but the prices themselves.

mod curve;
mod search;

use super::Side;
use crate::fleet::TenantIx;
use crate::layout::Layout;

/// Into how many bands the deviations of cells are divided.
const BANDS: usize = 40;
/// The first band ends at so many times the least deviation of a cell, the last but one at so many times the largest.
const BELOW: f64 = 1.2;
const ABOVE: f64 = 1.85;
/// Steps of a search for a level, or for a price.
const BISECTIONS: usize = 24;
/// How many tenants of a cell say what its own price is ...
const RANKED_MAX: usize = 64;
/// ... and how many times the band's it is at the most.
const PRICE_MAX: f64 = 1e6;
/// Rounding of sums: so much of a sum of moves, and of a level, is not believed.
const ROUNDING: f64 = 1e-7;

/// Where the root of a cell's variance may end.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Band {
    /// One by the sum of both ends.
    slope: f64,
    /// The chord where there is no variance.
    start: f64,
    middle: f64,
}

/// One tenant in one dimension, as shares of the largest budget.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stay {
    mean: f64,
    /// What its leaving takes off the variance of its cell, at the most.
    leaves: f64,
    /// What its coming adds to that of another, at the least.
    comes: f64,
}

/// A cell as it is.
#[derive(Debug, Clone)]
struct Start {
    budget: f64,
    mean: f64,
    variance: f64,
    /// Its tenants, the largest mean first.
    tenants: std::ops::Range<usize>,
}

/// A zone in one dimension.
pub(super) struct Market {
    cells: Vec<Start>,
    tenants: Vec<Stay>,
    bands: [Band; BANDS],
}

/// What one tenant takes in one dimension: its mean, `risk` of its deviations, its spike cluster.
type Taken = (f64, f64, Option<usize>);

impl Market {
    /// The zone as it is; nothing where there is no room in that dimension. `most_full` is how full the cells may be at
    /// the most.
    pub(super) fn of(layout: &Layout<'_>, dim: usize, side: &Side, risk: f64, most_full: f64) -> Option<Self> {
        let fleet = layout.fleet();
        let cells = side.room.cells.iter().zip(&side.room.budgets);
        let taken = |&tenant: &TenantIx| {
            let (mean, deviation) = fleet.demand_at(tenant, dim);
            (mean, risk * deviation, fleet.tenant(tenant).spike_cluster())
        };
        let cells = cells.map(|(&cell, budget)| {
            let at_home = layout.members(cell).iter().filter(move |&&tenant| layout.home(tenant) == Some(cell));
            (budget[dim], at_home.map(taken).collect())
        });
        Self::new(cells, fleet.spike_cluster_count(), most_full)
    }

    fn new(given: impl Iterator<Item = (f64, Vec<Taken>)>, clusters: usize, most_full: f64) -> Option<Self> {
        let (mut cells, mut tenants) = (Vec::new(), Vec::new());
        let mut sums = vec![0.0; clusters];
        for (budget, taken) in given {
            let first = tenants.len();
            sums.fill(0.0);
            for &(_, deviation, cluster) in &taken {
                if let Some(cluster) = cluster {
                    sums[cluster] += deviation;
                }
            }
            let (mut mean, mut variance) = (0.0, sums.iter().map(|sum| sum * sum).sum::<f64>());
            for (own, deviation, cluster) in taken {
                let square = deviation * deviation;
                mean += own;
                variance += if cluster.is_none() { square } else { 0.0 };
                let leaves = cluster.map_or(square, |cluster| 2.0 * sums[cluster] * deviation - square);
                tenants.push(Stay { mean: own, leaves, comes: square });
            }
            tenants[first..].sort_unstable_by(|a: &Stay, b| {
                b.mean.total_cmp(&a.mean).then(b.leaves.total_cmp(&a.leaves)).then(b.comes.total_cmp(&a.comes))
            });
            cells.push(Start { budget, mean, variance, tenants: first..tenants.len() });
        }
        let unit = cells.iter().map(|cell| cell.budget).fold(0.0, f64::max);
        if unit <= 0.0 || most_full <= 0.0 {
            return None;
        }
        for cell in &mut cells {
            (cell.budget, cell.mean, cell.variance) =
                (cell.budget / unit, cell.mean / unit, cell.variance / (unit * unit));
        }
        for of in &mut tenants {
            (of.mean, of.leaves, of.comes) = (of.mean / unit, of.leaves / (unit * unit), of.comes / (unit * unit));
        }
        let bands = bands(&cells, most_full);
        Some(Self { cells, tenants, bands })
    }

    /// No plan of so many moves makes all cells less full than this; one that makes them as full as `most_full` is known.
    pub(super) fn least(&self, moves_max: u32, most_full: f64) -> f64 {
        let moves = f64::from(moves_max) * (1.0 + ROUNDING) + ROUNDING;
        self.least_at(search::prices(self, moves, most_full), moves, most_full)
    }

    fn least_at(&self, prices: Vec<f64>, moves: f64, most_full: f64) -> f64 {
        let priced = Priced::of(self, prices);
        let is_far = |level: f64| priced.moves_closely(level) > moves;
        debug_assert!(!is_far(most_full * (1.0 + ROUNDING)), "a plan is known that ends at {most_full}");
        let roughly = highest((0.0, most_full), |level| priced.moves(level) > moves);
        highest((roughly, most_full), is_far) * (1.0 - ROUNDING)
    }
}

/// A market at prices, which are right if none is negative.
struct Priced<'m> {
    market: &'m Market,
    prices: Vec<f64>,
    /// By tenant: what moving it costs, the move included.
    pays: Vec<f64>,
    /// By cell and band: what the cell as it is costs, less what those save who would rather leave; its budget is not
    /// counted.
    costs: Vec<Vec<f64>>,
}

impl<'m> Priced<'m> {
    fn of(market: &'m Market, prices: Vec<f64>) -> Self {
        let rates: Vec<f64> = prices.iter().zip(&market.bands).map(|(price, band)| price * band.slope).collect();
        let comes = |tenant: &Stay| {
            let each = prices.iter().zip(&rates).map(|(price, rate)| price * tenant.mean + rate * tenant.comes);
            1.0 + each.fold(f64::INFINITY, lesser)
        };
        let pays: Vec<f64> = market.tenants.iter().map(comes).collect();
        let cost = |cell: &Start| {
            let each = prices.iter().zip(&market.bands).map(|(price, band)| price * cell.need(band));
            let mut costs: Vec<f64> = each.collect();
            for (tenant, pays) in market.tenants[cell.tenants.clone()].iter().zip(&pays[cell.tenants.clone()]) {
                for ((cost, price), rate) in costs.iter_mut().zip(&prices).zip(&rates) {
                    *cost -= positive(price * tenant.mean + rate * tenant.leaves - pays);
                }
            }
            costs
        };
        let costs = market.cells.iter().map(cost).collect();
        Self { market, prices, pays, costs }
    }

    /// By band: what a cell costs that is brought to the level, in moves.
    fn at_level(&self, cell: usize, level: f64) -> impl Iterator<Item = f64> {
        let room = level * self.market.cells[cell].budget;
        self.costs[cell].iter().zip(&self.prices).map(move |(cost, price)| cost - price * room)
    }

    /// How many moves it takes at least to bring all cells to the level, as far as these prices tell.
    fn moves(&self, level: f64) -> f64 {
        (0..self.costs.len()).map(|cell| self.at_level(cell, level).fold(f64::INFINITY, lesser)).sum()
    }

    /// The same where each cell has a price of its own.
    fn moves_closely(&self, level: f64) -> f64 {
        (0..self.costs.len()).map(|cell| self.closely(cell, level)).sum()
    }

    /// The band that costs the least is looked at closely, until that is no longer the least.
    fn closely(&self, cell: usize, level: f64) -> f64 {
        let mut values: Vec<(f64, bool)> = self.at_level(cell, level).map(|value| (value, false)).collect();
        loop {
            let order = |a: &(usize, &(f64, bool)), b: &(usize, &(f64, bool))| a.1.0.total_cmp(&b.1.0);
            let (band, &(value, is_close)) = values.iter().enumerate().min_by(order).expect("there is a band");
            if is_close {
                return value;
            }
            values[band] = (value.max(self.own_price(cell, band, level)), true);
        }
    }

    /// What a cell costs in a band at a price of its own: the one at which as much leaves as there is too much, as far
    /// as its largest tenants tell. Any price that is no lower than the band's is right.
    fn own_price(&self, cell: usize, band: usize, level: f64) -> f64 {
        let (start, of) = (&self.market.cells[cell], &self.market.bands[band]);
        let over = start.need(of) - level * start.budget;
        if over <= 0.0 {
            return f64::NEG_INFINITY;
        }
        let (tenants, pays) = (&self.market.tenants[start.tenants.clone()], &self.pays[start.tenants.clone()]);
        let takes = |tenant: &Stay| tenant.mean + tenant.leaves * of.slope;
        let stays_full = |price: f64| {
            let leavers =
                tenants.iter().zip(pays).take(RANKED_MAX).filter(|(tenant, pays)| price * takes(tenant) > **pays);
            leavers.map(|(tenant, _)| takes(tenant)).sum::<f64>() < over
        };
        let least = self.prices[band];
        let mut most = least * 2.0;
        while stays_full(most) && most < least * PRICE_MAX {
            most *= 2.0;
        }
        let price = highest((least, most), stays_full);
        let saves = |(tenant, pays): (&Stay, &f64)| positive(price * takes(tenant) - pays);
        price * over - tenants.iter().zip(pays).map(saves).sum::<f64>()
    }
}

/// The highest value of a range that is right, or a little less: if one is, all below it are.
fn highest((mut low, mut high): (f64, f64), is_right: impl Fn(f64) -> bool) -> f64 {
    if !is_right(low) {
        return low;
    }
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if is_right(middle) { low = middle } else { high = middle }
    }
    low
}

impl Start {
    /// What the cell as it is needs by the chord of a band.
    fn need(&self, band: &Band) -> f64 {
        self.mean + self.variance * band.slope + band.start
    }
}

/// Up to the largest deviation that a cell may have where none is fuller than `most_full`.
fn bands(cells: &[Start], most_full: f64) -> [Band; BANDS] {
    let top = cells.iter().map(|cell| cell.budget).fold(0.0, f64::max) * most_full;
    let roots = || cells.iter().map(|cell| cell.variance.sqrt()).filter(|root| *root > 0.0);
    let first = roots().fold(f64::INFINITY, f64::min) * BELOW;
    let last = (roots().fold(0.0, f64::max) * ABOVE).min(top * 0.99);
    // Without any variance one band would do; they are as many all the same.
    let (first, last) = if first < last { (first, last) } else { (top * 0.01, top * 0.99) };
    #[expect(clippy::cast_precision_loss, reason = "a few bands")]
    let inner = (0..BANDS - 1).map(|at| first * libm::pow(last / first, at as f64 / (BANDS - 2) as f64));
    let edges: Vec<f64> = std::iter::once(0.0).chain(inner).chain([top]).collect();
    let band = |at: usize| {
        let (low, high) = (edges[at], edges[at + 1]);
        Band { slope: 1.0 / (low + high), start: low * high / (low + high), middle: f64::midpoint(low, high) }
    };
    std::array::from_fn(band)
}

/// `min` and `max` without their care for what is no number, which costs vector instructions.
#[inline]
fn lesser(value: f64, than: f64) -> f64 {
    if value < than { value } else { than }
}

#[inline]
fn positive(value: f64) -> f64 {
    if value > 0.0 { value } else { 0.0 }
}

#[cfg(test)]
mod tests;
