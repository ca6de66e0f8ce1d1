//! Figures as every benchmark of the house tells them, as JSON and as a table.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

/// A line for whoever reads along. Nobody may.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()));
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) measure: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: f64,
    pub(crate) peer: Option<f64>,
    pub(crate) peer_name: Option<&'static str>,
    /// How much of the peer ours reaches; more is better.
    pub(crate) ratio: Option<f64>,
    /// What must hold: of the ratio where there is one, of the figure otherwise.
    pub(crate) floor: Option<f64>,
    pub(crate) goal: Option<f64>,
    /// Whether less is better.
    #[serde(skip)]
    less: bool,
}

/// All of a run.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    all: Vec<Figure>,
}

impl Figure {
    fn holds(&self) -> Option<bool> {
        let floor = self.floor?;
        Some(if self.less { self.ours <= floor } else { self.ratio.unwrap_or(self.ours) >= floor })
    }
}

impl Figures {
    /// A figure that must not exceed `most`.
    pub(crate) fn at_most(&mut self, measure: impl Into<String>, unit: &'static str, ours: f64, most: Option<f64>) {
        let measure = measure.into();
        let (peer, peer_name, ratio, goal) = (None, None, None, None);
        self.all.push(Figure { measure, unit, ours, peer, peer_name, ratio, floor: most, goal, less: true });
    }

    /// A figure that should be at least `least`.
    pub(crate) fn at_least(
        &mut self,
        measure: impl Into<String>,
        unit: &'static str,
        ours: f64,
        least: Option<f64>,
    ) {
        let measure = measure.into();
        let (peer, peer_name, ratio) = (None, None, None);
        self.all.push(Figure {
            measure,
            unit,
            ours,
            peer,
            peer_name,
            ratio,
            floor: None,
            goal: least,
            less: false,
        });
    }

    /// A figure beside that of a peer, of which it must reach a part.
    pub(crate) fn beside(
        &mut self,
        measure: impl Into<String>,
        unit: &'static str,
        (ours, peer): (f64, f64),
        peer_name: &'static str,
        floor: f64,
    ) {
        let ratio = if peer > 0.0 { Some(ours / peer) } else { None };
        let (peer, peer_name) = (Some(peer), Some(peer_name));
        let measure = measure.into();
        let (floor, goal) = (Some(floor), None);
        self.all.push(Figure { measure, unit, ours, peer, peer_name, ratio, floor, goal, less: false });
    }

    /// Percentiles of what was measured in microseconds, in milliseconds.
    pub(crate) fn spread(&mut self, measure: &str, of: &Histogram<u64>, floors: [Option<f64>; 3]) {
        let quantiles = [("p50", 0.5), ("p99", 0.99), ("max", 1.0)];
        for ((name, quantile), floor) in quantiles.into_iter().zip(floors) {
            let millis = std::time::Duration::from_micros(of.value_at_quantile(quantile)).as_secs_f64() * 1_000.0;
            self.at_most(format!("{measure}, {name}"), "ms", millis, floor);
        }
    }

    pub(crate) fn table(&self) -> String {
        let mut text =
            format!("\n{:<58} {:>10} {:<6} {:>10} {:>7} {:>7}\n", "measure", "ours", "", "peer", "ratio", "floor");
        for figure in &self.all {
            let number = |number: Option<f64>| number.map_or_else(|| "-".into(), |number| format!("{number:.2}"));
            let verdict = match figure.holds() {
                Some(true) => "",
                Some(false) => "  MISSED",
                None => "",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:<58} {:>10.2} {:<6} {:>10} {:>7} {:>7}{verdict}",
                figure.measure,
                figure.ours,
                figure.unit,
                number(figure.peer),
                number(figure.ratio),
                number(figure.floor)
            );
        }
        text
    }

    pub(crate) fn write(&self, out: &Path) -> Result<()> {
        if let Some(folder) = out.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let json = serde_json::to_string_pretty(&self.all)? + "\n";
        std::fs::write(out, json).with_context(|| format!("cannot write {}", out.display()))
    }
}

/// The middle one.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}
