//! The figures of a demo, as benchmarks tell theirs.

use cell_figures::{Figure, Figures};

use crate::exercise::Spread;
use crate::report::Report;

/// Everything that a demo measures.
#[must_use]
pub fn of(report: &Report) -> Figures {
    // What nobody met was not measured, and says nothing of how long it is.
    let met = |of: Spread| if of.count == 0 { Spread { p50: f64::NAN, p99: f64::NAN, ..of } } else { of };
    let machine = report.machine.unwrap_or_default();
    let (hold, gap, routed) =
        (met(report.write_hold_ms), met(report.read_gap_ms), met(machine.commit_to_router_ms));
    let largest = report.processes.values().map(|process| process.peak_mib).fold(0.0, f64::max);
    let all = [
        Figure::free("write hold without a fault, p50", "ms", hold.p50),
        Figure::at_most("write hold without a fault, p99", "ms", hold.p99, Some(60.0), Some(15.0)),
        Figure::free("read gap without a fault, p50", "ms", gap.p50),
        Figure::at_most("read gap without a fault, p99", "ms", gap.p99, Some(20.0), None),
        Figure::free("write hold with a fault, p99", "ms", report.write_hold_with_fault_ms.p99),
        Figure::free("commit to router, p50", "ms", routed.p50),
        Figure::at_most("commit to router, p99", "ms", routed.p99, Some(10.0), None),
        Figure::at_most("largest process, peak", "MiB", largest, Some(200.0), None),
        Figure::free("same run: sync of 4 KiB, p50", "ms", machine.sync_ms.p50),
        Figure::free("same run: sync of 4 KiB, p99", "ms", machine.sync_ms.p99),
        Figure::free("same run: round trip, p50", "ms", machine.round_trip_ms.p50),
        Figure::free("same run: round trip, p99", "ms", machine.round_trip_ms.p99),
        Figure::free("same run: any write, p50", "ms", report.request_ms.write.p50),
        Figure::free("same run: any write, p99", "ms", report.request_ms.write.p99),
    ];
    let mut figures = Figures::default();
    all.into_iter().for_each(|figure| figures.add(figure));
    figures
}
