//! Figures as benchmarks and the demo tell them: a list of measures, each with what it must hold.
//!
//! What must hold can fail: a figure that could not be measured, because there was nothing to measure, misses its floor.

use std::fmt::Write as _;

use serde::{Serialize, Serializer};

use crate::exercise::Spread;
use crate::report::Report;

/// Which way a figure gets better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    Less,
    More,
}

/// One figure.
#[derive(Debug, Clone, PartialEq)]
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
    /// How much of the peer's ours is.
    pub ratio: Option<f64>,
    /// What must hold: of the ratio where there is a peer, of the figure otherwise.
    pub floor: Option<f64>,
    /// What should hold.
    pub goal: Option<f64>,
    better: Better,
}

impl Figure {
    fn alone(
        measure: impl Into<String>,
        unit: &'static str,
        ours: f64,
        (floor, goal): (Option<f64>, Option<f64>),
        better: Better,
    ) -> Self {
        let (peer, peer_name, ratio) = (None, None, None);
        Self { measure: measure.into(), unit, ours, peer, peer_name, ratio, floor, goal, better }
    }

    /// A figure that must not exceed its floor.
    pub fn at_most(
        measure: impl Into<String>,
        unit: &'static str,
        ours: f64,
        floor: Option<f64>,
        goal: Option<f64>,
    ) -> Self {
        Self::alone(measure, unit, ours, (floor, goal), Better::Less)
    }

    /// A figure that must reach its floor.
    pub fn at_least(measure: impl Into<String>, unit: &'static str, ours: f64, floor: Option<f64>) -> Self {
        Self::alone(measure, unit, ours, (floor, None), Better::More)
    }

    /// A figure beside that of a peer, of which it must reach a part.
    pub fn beside(
        measure: impl Into<String>,
        unit: &'static str,
        (ours, peer): (f64, f64),
        peer_name: impl Into<String>,
        floor: f64,
    ) -> Self {
        let ratio = Some(if peer > 0.0 { ours / peer } else { f64::NAN });
        let (peer, peer_name) = (Some(peer), Some(peer_name.into()));
        let alone = Self::alone(measure, unit, ours, (Some(floor), None), Better::More);
        Self { peer, peer_name, ratio, ..alone }
    }

    /// Whether it holds what it must; true where nothing is asked.
    #[must_use]
    pub fn holds(&self) -> bool {
        let judged = self.ratio.unwrap_or(self.ours);
        // No number is neither at most nor at least anything.
        self.floor.is_none_or(|floor| match self.better {
            Better::Less => judged <= floor,
            Better::More => judged >= floor,
        })
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Told<'a> {
            measure: &'a str,
            unit: &'a str,
            ours: f64,
            peer: Option<f64>,
            peer_name: Option<&'a str>,
            ratio: Option<f64>,
            floor: Option<f64>,
            goal: Option<f64>,
            /// Absent where nothing is asked.
            #[serde(skip_serializing_if = "Option::is_none")]
            holds: Option<bool>,
        }
        let Self { measure, unit, ours, peer, peer_name, ratio, floor, goal, better: _ } = self;
        Told {
            measure,
            unit,
            ours: *ours,
            peer: *peer,
            peer_name: peer_name.as_deref(),
            ratio: *ratio,
            floor: *floor,
            goal: *goal,
            holds: floor.map(|_| self.holds()),
        }
        .serialize(serializer)
    }
}

/// Everything that a demo measures.
#[must_use]
pub fn of(report: &Report) -> Vec<Figure> {
    // What nobody met was not measured, and says nothing of how long it is.
    let met = |of: Spread| if of.count == 0 { Spread { p50: f64::NAN, p99: f64::NAN, ..of } } else { of };
    let machine = report.machine.unwrap_or_default();
    let (hold, gap, routed) =
        (met(report.write_hold_ms), met(report.read_gap_ms), met(machine.commit_to_router_ms));
    let largest = report.processes.values().map(|process| process.peak_mib).fold(0.0, f64::max);
    vec![
        Figure::at_most("write hold without a fault, p50", "ms", hold.p50, None, None),
        Figure::at_most("write hold without a fault, p99", "ms", hold.p99, Some(60.0), Some(15.0)),
        Figure::at_most("read gap without a fault, p50", "ms", gap.p50, None, None),
        Figure::at_most("read gap without a fault, p99", "ms", gap.p99, Some(20.0), None),
        Figure::at_most("write hold with a fault, p99", "ms", report.write_hold_with_fault_ms.p99, None, None),
        Figure::at_most("commit to router, p50", "ms", routed.p50, None, None),
        Figure::at_most("commit to router, p99", "ms", routed.p99, Some(10.0), None),
        Figure::at_most("largest process, peak", "MiB", largest, Some(200.0), None),
        Figure::at_most("same run: sync of 4 KiB, p50", "ms", machine.sync_ms.p50, None, None),
        Figure::at_most("same run: sync of 4 KiB, p99", "ms", machine.sync_ms.p99, None, None),
        Figure::at_most("same run: round trip, p50", "ms", machine.round_trip_ms.p50, None, None),
        Figure::at_most("same run: round trip, p99", "ms", machine.round_trip_ms.p99, None, None),
        Figure::at_most("same run: any write, p50", "ms", report.request_ms.write.p50, None, None),
        Figure::at_most("same run: any write, p99", "ms", report.request_ms.write.p99, None, None),
    ]
}

/// The figures as a table. The columns of a peer are there where one of them has a peer.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    let width = figures.iter().map(|figure| figure.measure.len()).max().unwrap_or_default().max(34);
    let has_peer = figures.iter().any(|figure| figure.peer.is_some());
    let beside = |peer: &str, ratio: &str| {
        if has_peer { format!(" {peer:>10} {ratio:>6}") } else { String::new() }
    };
    let mut text =
        format!("{:width$} {:>12}{} {:>8} {:>8}\n", "measure", "ours", beside("peer", "ratio"), "limit", "goal");
    let shown = |limit: Option<f64>| match limit {
        Some(limit) if limit.fract() == 0.0 => format!("{limit:.0}"),
        Some(limit) => format!("{limit:.2}"),
        None => "-".to_owned(),
    };
    let number = |number: Option<f64>, digits| number.map_or_else(|| "-".into(), |of| format!("{of:.digits$}"));
    for figure in figures {
        let mark = match (figure.holds(), figure.better) {
            (true, _) => "",
            (false, Better::Less) => "  above the limit",
            (false, Better::More) => "  below the limit",
        };
        let ours = format!("{:.1} {}", figure.ours, figure.unit);
        let peer = beside(&number(figure.peer, 1), &number(figure.ratio, 2));
        let (limit, goal) = (shown(figure.floor), shown(figure.goal));
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:width$} {ours:>12}{peer} {limit:>8} {goal:>8}{mark}", figure.measure);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_beyond_its_limit_is_marked_on_either_side_and_says_so_in_json() {
        let figures = [
            Figure::at_most("held", "ms", 59.9, Some(60.0), Some(15.0)),
            Figure::at_most("not held", "ms", 60.1, Some(60.0), None),
            Figure::at_most("asked nothing", "ms", 1e9, None, None),
            Figure::at_least("reached", "/h", 2_000.0, Some(2_000.0)),
            Figure::at_least("not reached", "/h", 1_999.9, Some(2_000.0)),
            Figure::beside("most of the peer", "/s", (90.0, 100.0), "peer", 0.9),
            Figure::beside("little of the peer", "/s", (500.0, 1_000.0), "peer", 0.9),
        ];
        assert_eq!(figures.each_ref().map(Figure::holds), [true, false, true, true, false, true, false]);
        let table = table(&figures);
        let marked: Vec<&str> = table.lines().filter(|line| line.contains("the limit")).collect();
        let begins = ["not held", "not reached", "little of the peer"];
        assert!(marked.iter().zip(begins).all(|(line, begin)| line.starts_with(begin)), "{table}");
        assert_eq!(marked.len(), begins.len(), "{table}");
        let told: Vec<_> =
            figures.iter().map(|figure| serde_json::to_value(figure).unwrap().get("holds").cloned()).collect();
        let told: Vec<_> = told.iter().map(|holds| holds.as_ref().and_then(serde_json::Value::as_bool)).collect();
        assert_eq!(
            told,
            [Some(true), Some(false), None, Some(true), Some(false), Some(true), Some(false)],
            "where nothing is asked, nothing is said"
        );
    }

    #[test]
    fn what_could_not_be_measured_does_not_hold() {
        assert!(!Figure::at_most("no sample", "ms", f64::NAN, Some(60.0), None).holds());
        assert!(!Figure::at_least("no sample", "/h", f64::NAN, Some(1.0)).holds());
        assert!(!Figure::beside("no peer", "/s", (5.0, 0.0), "peer", 0.9).holds());
    }
}
