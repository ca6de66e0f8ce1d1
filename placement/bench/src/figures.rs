//! How figures of this bench are made and told.

use std::io::Write as _;

use cell_figures::{Figure, Figures};
use hdrhistogram::Histogram;

/// A line for whoever reads along. Nobody may.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()));
}

/// Percentiles of what was measured in microseconds, in milliseconds. Nothing measured is no number.
pub(crate) fn spread(figures: &mut Figures, measure: &str, of: &Histogram<u64>, floors: [Option<f64>; 3]) {
    let quantiles = [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)];
    for ((name, quantile), floor) in quantiles.into_iter().zip(floors) {
        let micros = std::time::Duration::from_micros(of.value_at_quantile(quantile));
        let millis = if of.is_empty() { f64::NAN } else { micros.as_secs_f64() * 1_000.0 };
        figures.add(Figure::at_most(format!("{measure}, {name}"), "ms", millis, floor, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_nothing_measured_no_floor_holds() {
        let mut figures = Figures::default();
        spread(&mut figures, "hold", &crate::load::histogram(), [Some(50.0), Some(150.0), None]);
        assert!(figures.hold().unwrap_err().to_string().starts_with("2 of 3 figures"));
    }
}
