//! Prices that make the limit high.
//!
//! What a market costs is concave in its prices, so there is one summit, and going uphill finds it. Prices by band are
//! those of a curve through a few knots: first three, then nine, seventeen, thirty-three, each from where the one before
//! has ended. Only the largest tenants of each cell are asked, in single precision: a worse price makes a lower limit and
//! no wrong one.

use super::curve::{Curve, climb};
use super::{BANDS, Market, Start, Stay};
use crate::load::single;

/// How many tenants of a cell are asked, the largest, and as many that stand for those after them ...
const ASKED_MAX: usize = 48;
/// ... each for so many.
const STANDS_FOR: u8 = 4;
/// How many tenants of all cells are asked.
const TENANTS_MAX: usize = 96_000;
/// Looks at a curve of so many knots.
const LOOKS: [(usize, usize); 4] = [(3, 20), (9, 50), (17, 60), (33, 60)];
/// Where the search begins: moves for the room of a cell, and by how much more, in logarithms, for all of a cell's room
/// where it is left for deviations.
const SCALES: [f64; 6] = [1.0, 10.0, 100.0, 300.0, 1_000.0, 3_000.0];
const GROWTHS: [f64; 4] = [0.6, 0.9, 1.2, 1.5];
/// Between which bands the curve has knots: at parts of the first whole one and of the last.
const BELOW: f64 = 0.7;
const ABOVE: f64 = 0.68;
/// Steps of the search for the level.
const BISECTIONS: usize = 24;

type ByBand = [f32; BANDS];

/// The largest tenants of one cell, and the cell as it is.
struct Sketch {
    budget: f32,
    needs: ByBand,
    /// Mean, what leaving takes off the variance, what coming adds, and how many there are.
    tenants: Vec<[f32; 4]>,
}

/// What prices come to.
struct Seen {
    level: f64,
    /// By band: by how much the level rises with the logarithm of the price.
    slopes: [f64; BANDS],
}

struct View {
    cells: Vec<Sketch>,
    slopes: ByBand,
    moves: f64,
    most_full: f64,
}

/// By band, the prices that were found.
pub(super) fn prices(market: &Market, moves: f64, most_full: f64) -> Vec<f64> {
    let view = View::of(market, moves, most_full);
    let places: Vec<f64> = market.bands.iter().map(|band| band.middle).collect();
    let ends = (places[1] * BELOW, places[BANDS - 2] * ABOVE);
    let mut curve = Curve::new(&places, ends, LOOKS[0].0);
    let start = |scale: f64, growth: f64| {
        let knots: Vec<f64> = curve.knots().iter().map(|at| libm::log(scale) + growth * at).collect();
        (view.look(&curve.values(&knots)).level, knots)
    };
    let starts = SCALES.into_iter().flat_map(|scale| GROWTHS.map(|growth| start(scale, growth)));
    let (_, mut knots) = starts.max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are some");
    let mut step = 0.03;
    for (count, looks) in LOOKS {
        let finer = Curve::new(&places, ends, count);
        knots = finer.knots().iter().map(|&at| curve.at(&knots, at)).collect();
        curve = finer;
        let look = |knots: &[f64]| {
            let seen = view.look(&curve.values(knots));
            (seen.level, curve.gather(&seen.slopes))
        };
        knots = climb(knots, step, looks, look);
        step = 0.003;
    }
    curve.values(&knots).into_iter().map(libm::exp).collect()
}

impl View {
    fn of(market: &Market, moves: f64, most_full: f64) -> Self {
        let each = (TENANTS_MAX / 2 / market.cells.len().max(1)).clamp(1, ASKED_MAX);
        let sketch = |cell: &Start| {
            let (largest, others) = market.tenants[cell.tenants.clone()].split_at(each.min(cell.tenants.len()));
            let others =
                others.iter().skip(usize::from(STANDS_FOR / 2)).step_by(usize::from(STANDS_FOR)).take(each);
            let tenant = |of: &Stay, count: f64| [of.mean, of.leaves, of.comes, count].map(single);
            let count = f64::from(STANDS_FOR);
            Sketch {
                budget: single(cell.budget),
                needs: std::array::from_fn(|band| single(cell.need(&market.bands[band]))),
                tenants: largest
                    .iter()
                    .map(|of| tenant(of, 1.0))
                    .chain(others.map(|of| tenant(of, count)))
                    .collect(),
            }
        };
        let cells = market.cells.iter().map(sketch).collect();
        let slopes = std::array::from_fn(|band| single(market.bands[band].slope));
        Self { cells, slopes, moves, most_full }
    }

    fn look(&self, logarithms: &[f64]) -> Seen {
        let prices: ByBand = std::array::from_fn(|band| single(libm::exp(logarithms[band])));
        let rates: ByBand = std::array::from_fn(|band| prices[band] * self.slopes[band]);
        let (mut pays, mut costs) = (Vec::new(), Vec::with_capacity(self.cells.len()));
        for cell in &self.cells {
            let mut cost: ByBand = std::array::from_fn(|band| prices[band] * cell.needs[band]);
            for tenant in &cell.tenants {
                let least = least(&prices, &rates, tenant);
                let moves = 1.0 + least;
                for band in 0..BANDS {
                    let saves = positive32(prices[band] * tenant[0] + rates[band] * tenant[1] - moves);
                    cost[band] -= tenant[3] * saves;
                }
                pays.push(moves);
            }
            costs.push(cost);
        }
        let level = self.level(&prices, &costs);
        Seen { level, slopes: self.slopes(&prices, &rates, &costs, &pays, level) }
    }

    fn level(&self, prices: &ByBand, costs: &[ByBand]) -> f64 {
        let (mut low, mut high) = (0.0, self.most_full);
        for _ in 0..BISECTIONS {
            let level = f64::midpoint(low, high);
            let of = |(cell, cost): (&Sketch, &ByBand)| {
                let room = single(level) * cell.budget;
                let each = cost.iter().zip(prices).map(|(cost, price)| cost - price * room);
                f64::from(each.fold(f32::INFINITY, |a, b| if a < b { a } else { b }))
            };
            let total: f64 = self.cells.iter().zip(costs).map(of).sum();
            if total > self.moves { low = level } else { high = level }
        }
        low
    }

    /// What more of a price brings where it is asked, over what it costs.
    fn slopes(&self, prices: &ByBand, rates: &ByBand, costs: &[ByBand], pays: &[f32], level: f64) -> [f64; BANDS] {
        let mut slopes = [0.0; BANDS];
        let (mut room, mut pays) = (0.0, pays.iter());
        for (cell, cost) in self.cells.iter().zip(costs) {
            let at = |band: usize| cost[band] - prices[band] * single(level) * cell.budget;
            let band = (0..BANDS).min_by(|&a, &b| at(a).total_cmp(&at(b))).expect("there are bands");
            let mut takes = f64::from(cell.needs[band]) - level * f64::from(cell.budget);
            for (tenant, pays) in cell.tenants.iter().zip(pays.by_ref()) {
                if prices[band] * tenant[0] + rates[band] * tenant[1] <= *pays {
                    continue;
                }
                takes -= f64::from(tenant[3] * (tenant[0] + self.slopes[band] * tenant[1]));
                let comes = |band: usize| prices[band] * tenant[0] + rates[band] * tenant[2];
                let to = (0..BANDS).min_by(|&a, &b| comes(a).total_cmp(&comes(b))).expect("there are bands");
                slopes[to] += f64::from(tenant[3] * comes(to));
            }
            slopes[band] += f64::from(prices[band]) * takes;
            room += f64::from(prices[band] * cell.budget);
        }
        slopes.map(|slope| slope / room)
    }
}

#[inline]
fn least(prices: &ByBand, rates: &ByBand, tenant: &[f32; 4]) -> f32 {
    const LANES: usize = 8;
    let mut lanes = [f32::INFINITY; LANES];
    for (prices, rates) in prices.chunks_exact(LANES).zip(rates.chunks_exact(LANES)) {
        for lane in 0..LANES {
            let comes = prices[lane] * tenant[0] + rates[lane] * tenant[2];
            lanes[lane] = if comes < lanes[lane] { comes } else { lanes[lane] };
        }
    }
    lanes.into_iter().fold(f32::INFINITY, |a, b| if a < b { a } else { b })
}

#[inline]
fn positive32(value: f32) -> f32 {
    if value > 0.0 { value } else { 0.0 }
}
