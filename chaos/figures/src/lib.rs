//! Figures as benchmarks and the demo tell them: a list of measures, each with what it must hold.
//!
//! * [`Figure`] – one measure, beside a peer or alone; [`Figures`] – those of one run: table, file, verdict.
//!
//! What must hold can fail: a figure that could not be measured, because there was nothing to measure, misses its floor.
//! Only where the peer is not on this machine nothing is judged, and that is said.

mod figure;
mod figures;

pub use figure::{Figure, Standing};
pub use figures::{Figures, Missed};

/// The middle one, between two of them halfway; what is no number counts as the largest. Of none it is no number.
pub fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> =
        numbers.into_iter().map(|number| if number.is_nan() { f64::NAN } else { number }).collect();
    numbers.sort_by(f64::total_cmp);
    let upper = numbers.len() / 2;
    match (numbers.get(upper), numbers.len() % 2) {
        (None, _) => f64::NAN,
        (Some(middle), 1) => *middle,
        (Some(above), _) => f64::midpoint(numbers[upper - 1], *above),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "the numbers are handed through")]
    fn the_median_is_no_number_where_most_were_not_measured() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median([1.0, f64::NAN]).is_nan() && median([1.0, f64::INFINITY]).is_infinite());
        assert_eq!(median([3.0, f64::NAN, 1.0]), 3.0, "what was not measured is not good");
        assert!(median([f64::NAN, -f64::NAN, 1.0]).is_nan());
        assert!(median([]).is_nan());
    }
}
