//! The figures of a run, in the order in which they were measured.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cell_chaos::figures::{Figure, table};
use hdrhistogram::Histogram;

/// A line for whoever reads along. Nobody may.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()));
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    all: Vec<Figure>,
}

impl Figures {
    pub(crate) fn add(&mut self, figure: Figure) {
        self.all.push(figure);
    }

    /// Percentiles of what was measured in microseconds, in milliseconds. Nothing measured is no number.
    pub(crate) fn spread(&mut self, measure: &str, of: &Histogram<u64>, floors: [Option<f64>; 3]) {
        let quantiles = [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)];
        for ((name, quantile), floor) in quantiles.into_iter().zip(floors) {
            let micros = std::time::Duration::from_micros(of.value_at_quantile(quantile));
            let millis = if of.is_empty() { f64::NAN } else { micros.as_secs_f64() * 1_000.0 };
            self.add(Figure::at_most(format!("{measure}, {name}"), "ms", millis, floor, None));
        }
    }

    pub(crate) fn table(&self) -> String {
        format!("\n{}", table(&self.all))
    }

    pub(crate) fn write(&self, out: &Path) -> Result<()> {
        if let Some(folder) = out.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let json = serde_json::to_string_pretty(&self.all)? + "\n";
        std::fs::write(out, json).with_context(|| format!("cannot write {}", out.display()))
    }

    /// Whether every figure holds what it must.
    pub(crate) fn hold(&self) -> Result<()> {
        let missed: Vec<&str> =
            self.all.iter().filter(|figure| !figure.holds()).map(|figure| figure.measure.as_str()).collect();
        ensure!(
            missed.is_empty(),
            "{} of {} figures miss what they must hold: {}",
            missed.len(),
            self.all.len(),
            missed.join("; ")
        );
        Ok(())
    }
}

/// The middle one; of none it is no number.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_misses_its_floor_ends_the_run_in_an_error_that_names_it() {
        let mut figures = Figures::default();
        figures.add(Figure::at_most("failed requests", "", 0.0, Some(0.0), None));
        assert!(figures.hold().is_ok());
        figures.add(Figure::beside("backfill", "MB/s", (20.0, 70.0), "COPY | COPY", 0.9));
        let said = figures.hold().unwrap_err().to_string();
        assert!(said.starts_with("1 of 2 figures") && said.ends_with("backfill"), "{said}");
    }

    #[test]
    fn of_nothing_measured_no_floor_holds() {
        let mut figures = Figures::default();
        figures.spread("hold", &crate::load::histogram(), [Some(50.0), Some(150.0), None]);
        assert!(figures.hold().unwrap_err().to_string().starts_with("2 of 3 figures"));
        assert!(median(Vec::new()).is_nan());
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
