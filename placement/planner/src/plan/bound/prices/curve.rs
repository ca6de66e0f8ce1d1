//! A curve through a few knots, and the way uphill on it.

/// How far a step may change a logarithm at the most.
const STEP_MAX: f64 = 0.3;
/// How often a step is made shorter or longer.
const TRIES: usize = 6;

/// Straight between its knots.
pub(super) struct Curve {
    knots: Vec<f64>,
    /// By place: the knot before it, and how far it is to the next one.
    places: Vec<(usize, f64)>,
}

impl Curve {
    /// So many knots between two places, closer together where they are low; outside of them the curve is flat.
    pub(super) fn new(places: &[f64], (first, last): (f64, f64), count: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a few knots")]
        let part = |at: usize| at as f64 / (count - 1) as f64;
        let knot = |at: usize| (first.sqrt() + part(at) * (last.sqrt() - first.sqrt())).powi(2);
        let knots: Vec<f64> = (0..count).map(knot).collect();
        let mut curve = Self { knots, places: Vec::new() };
        curve.places = places.iter().map(|&place| curve.place(place)).collect();
        curve
    }

    pub(super) fn knots(&self) -> &[f64] {
        &self.knots
    }

    fn place(&self, place: f64) -> (usize, f64) {
        let before = self.knots.partition_point(|knot| *knot <= place).clamp(1, self.knots.len() - 1) - 1;
        let (low, high) = (self.knots[before], self.knots[before + 1]);
        (before, if high > low { ((place - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 })
    }

    fn between(values: &[f64], (before, part): (usize, f64)) -> f64 {
        values[before] * (1.0 - part) + values[before + 1] * part
    }

    pub(super) fn at(&self, values: &[f64], place: f64) -> f64 {
        Self::between(values, self.place(place))
    }

    /// By place.
    pub(super) fn values(&self, values: &[f64]) -> Vec<f64> {
        self.places.iter().map(|&place| Self::between(values, place)).collect()
    }

    /// By knot, what the slopes by place come to.
    pub(super) fn gather(&self, slopes: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; self.knots.len()];
        for (&(before, part), slope) in self.places.iter().zip(slopes) {
            sums[before] += slope * (1.0 - part);
            sums[before + 1] += slope * part;
        }
        sums
    }
}

/// Goes uphill from a point, for so many looks at heights and slopes; gives the highest point that was seen. The method
/// is that of Broyden, Fletcher, Goldfarb and Shanno, which does well on functions with edges, too.
pub(super) fn climb(
    mut point: Vec<f64>,
    first: f64,
    looks: usize,
    look: impl Fn(&[f64]) -> (f64, Vec<f64>),
) -> Vec<f64> {
    let (mut height, mut slope) = look(&point);
    let mut best = (height, point.clone());
    let mut bend = round(&slope, first);
    let mut looked = 1;
    while looked < looks {
        let mut way: Vec<f64> = bend.iter().map(|row| dot(row, &slope)).collect();
        if dot(&way, &slope) <= 0.0 {
            bend = round(&slope, first);
            way = bend.iter().map(|row| dot(row, &slope)).collect();
        }
        let longest = way.iter().fold(0.0, |most: f64, part| most.max(part.abs()));
        if longest <= 1e-9 || !longest.is_finite() {
            break;
        }
        let shorter = (STEP_MAX / longest).min(1.0);
        way.iter_mut().for_each(|part| *part *= shorter);
        let rises = dot(&way, &slope);
        let (mut step, mut low, mut high) = (1.0, 0.0, None);
        let mut next = (point.clone(), height, slope.clone());
        for _ in 0..TRIES {
            let there: Vec<f64> = point.iter().zip(&way).map(|(at, way)| at + step * way).collect();
            let (then, slope_then) = look(&there);
            looked += 1;
            if then > best.0 {
                best = (then, there.clone());
            }
            next = (there, then, slope_then);
            if then < height + 1e-4 * step * rises {
                high = Some(step);
            } else if dot(&next.2, &way) > 0.9 * rises {
                low = step;
            } else {
                break;
            }
            step = high.map_or(2.0 * step, |high| f64::midpoint(low, high));
        }
        let moved: Vec<f64> = next.0.iter().zip(&point).map(|(there, here)| there - here).collect();
        let turned: Vec<f64> = slope.iter().zip(&next.2).map(|(here, there)| here - there).collect();
        bend_by(&mut bend, &moved, &turned);
        if next.1 >= height {
            (point, height, slope) = next;
        } else {
            bend.iter_mut().flatten().for_each(|of| *of *= 0.5);
        }
    }
    best.1
}

/// The same in all directions; the first step is so long.
fn round(slope: &[f64], first: f64) -> Vec<Vec<f64>> {
    let steepest = slope.iter().fold(f64::MIN_POSITIVE, |most, part| most.max(part.abs()));
    let row = |at: usize| (0..slope.len()).map(|of| if of == at { first / steepest } else { 0.0 }).collect();
    (0..slope.len()).map(row).collect()
}

/// What a step has shown of how slopes turn.
fn bend_by(bend: &mut [Vec<f64>], moved: &[f64], turned: &[f64]) {
    let both = dot(moved, turned);
    if both <= 1e-14 {
        return;
    }
    let across: Vec<f64> = bend.iter().map(|row| dot(row, turned)).collect();
    let along = (1.0 + dot(&across, turned) / both) / both;
    for (at, row) in bend.iter_mut().enumerate() {
        for (of, value) in row.iter_mut().enumerate() {
            *value += along * moved[at] * moved[of] - (across[at] * moved[of] + moved[at] * across[of]) / both;
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
