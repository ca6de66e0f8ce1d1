//! Pages.

use super::report::DrillReport;

/// The page of one drill.
#[must_use]
pub fn of(report: &DrillReport) -> String {
    report.title.clone()
}

/// The page of all.
#[must_use]
pub fn summary(reports: &[DrillReport]) -> String {
    reports.iter().map(of).collect()
}
