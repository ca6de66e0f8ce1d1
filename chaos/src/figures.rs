//! The figures of a demo as benchmarks tell them: a list of measures, each with what it must hold.

use std::fmt::Write as _;

use serde::Serialize;

use crate::report::Report;

/// One figure. Smaller is better in all that a demo measures; a demo has no peer to be compared with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub measure: String,
    /// In what.
    pub unit: &'static str,
    /// What it was.
    pub ours: f64,
    /// What the peer had.
    pub peer: Option<f64>,
    /// Who the peer is.
    pub peer_name: Option<String>,
    /// How much better ours is.
    pub ratio: Option<f64>,
    /// What it must not exceed.
    pub floor: Option<f64>,
    /// What it should not exceed.
    pub goal: Option<f64>,
}

impl Figure {
    fn new(
        measure: impl Into<String>,
        unit: &'static str,
        ours: f64,
        floor: Option<f64>,
        goal: Option<f64>,
    ) -> Self {
        Self { measure: measure.into(), unit, ours, peer: None, peer_name: None, ratio: None, floor, goal }
    }

    /// Whether it holds what it must; true where nothing is asked.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.floor.is_none_or(|floor| self.ours <= floor)
    }
}

/// Everything that a demo measures.
#[must_use]
pub fn of(report: &Report) -> Vec<Figure> {
    let (hold, gap, machine) = (report.write_hold_ms, report.read_gap_ms, report.machine.unwrap_or_default());
    let largest = report.processes.values().map(|process| process.peak_mib).fold(0.0, f64::max);
    vec![
        Figure::new("write hold without a fault, p50", "ms", hold.p50, None, None),
        Figure::new("write hold without a fault, p99", "ms", hold.p99, Some(60.0), Some(15.0)),
        Figure::new("read gap without a fault, p50", "ms", gap.p50, None, None),
        Figure::new("read gap without a fault, p99", "ms", gap.p99, Some(20.0), None),
        Figure::new("write hold with a fault, p99", "ms", report.write_hold_with_fault_ms.p99, None, None),
        Figure::new("commit to router, p50", "ms", machine.commit_to_router_ms.p50, None, None),
        Figure::new("commit to router, p99", "ms", machine.commit_to_router_ms.p99, Some(10.0), None),
        Figure::new("largest process, peak", "MiB", largest, Some(200.0), None),
        Figure::new("same run: sync of 4 KiB, p50", "ms", machine.sync_ms.p50, None, None),
        Figure::new("same run: sync of 4 KiB, p99", "ms", machine.sync_ms.p99, None, None),
        Figure::new("same run: round trip, p50", "ms", machine.round_trip_ms.p50, None, None),
        Figure::new("same run: round trip, p99", "ms", machine.round_trip_ms.p99, None, None),
        Figure::new("same run: any write, p50", "ms", report.request_ms.write.p50, None, None),
        Figure::new("same run: any write, p99", "ms", report.request_ms.write.p99, None, None),
    ]
}

/// The figures as a table.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    let mut text = format!("{:34} {:>10} {:>8} {:>8}\n", "measure", "ours", "limit", "goal");
    let shown = |limit: Option<f64>| limit.map_or_else(|| "-".to_owned(), |limit| format!("{limit:.0}"));
    for figure in figures {
        let mark = if figure.holds() { "" } else { "  above the limit" };
        let ours = format!("{:.1} {}", figure.ours, figure.unit);
        let (limit, goal) = (shown(figure.floor), shown(figure.goal));
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:34} {ours:>10} {limit:>8} {goal:>8}{mark}", figure.measure);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_above_its_limit_is_marked() {
        let figures = [
            Figure::new("held", "ms", 59.9, Some(60.0), Some(15.0)),
            Figure::new("not held", "ms", 60.1, Some(60.0), None),
            Figure::new("asked nothing", "ms", 1e9, None, None),
        ];
        assert_eq!(figures.each_ref().map(Figure::holds), [true, false, true]);
        let table = table(&figures);
        let marked: Vec<&str> = table.lines().filter(|line| line.contains("above the limit")).collect();
        assert!(matches!(marked[..], [line] if line.starts_with("not held")), "{table}");
    }
}
