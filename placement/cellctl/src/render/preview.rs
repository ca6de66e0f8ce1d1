//! What a move would meet, for people.

use std::fmt::Write as _;
use std::time::Duration;

use crate::follow::bytes;
use crate::view::PreviewView;

/// The answer of `move tenant --dry-run`.
#[must_use]
pub fn preview(found: &PreviewView) -> String {
    let mut text = format!("{}: {} → {}, nothing was changed\n", found.tenant, found.source, found.target);
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<10}{value}");
    };
    if let (Some(rows), Some(size)) = (found.rows, found.bytes) {
        line("weight", &format!("{rows} rows, {}", bytes(size)));
    }
    match &found.estimate {
        Some(estimate) => {
            line("copy", &format!("about {}", millis(estimate.copy_ms)));
            line(
                "until",
                &format!("about {} to the first request that {} serves", millis(estimate.total_ms), found.target),
            );
            line(
                "hold",
                &format!(
                    "about {}, {} at the most so far; the budget is {}",
                    millis(estimate.hold_ms),
                    millis(estimate.hold_max_ms),
                    millis(found.hold_max_ms.into())
                ),
            );
            let plural = if estimate.moves == 1 { "" } else { "s" };
            line("", &format!("estimated from {} ended move{plural}", estimate.moves));
        }
        None => line("estimate", "none: no move that could be measured has ended; --rehearse measures this one"),
    }
    for note in &found.notes {
        line("note", &format!("{}: {} ({})", note.cell, note.reason, note.code));
    }
    for finding in &found.findings {
        line("finding", &format!("{}: {} ({})", finding.cell, finding.reason, finding.code));
    }
    if found.findings.is_empty() {
        line("verdict", "every check passes");
    }
    text
}

fn millis(ms: u64) -> String {
    // Seconds are enough where there are many of them.
    let ms = if ms >= 10_000 { ms / 1_000 * 1_000 } else { ms };
    if ms == 0 { "0ms".into() } else { humantime::format_duration(Duration::from_millis(ms)).to_string() }
}

#[cfg(test)]
mod tests {
    use cell_client::wire;

    use super::*;

    #[test]
    fn what_stands_in_the_way_is_told_with_the_cell_and_what_mends_it() {
        let finding = wire::PreviewFinding {
            cell: "c1".into(),
            code: "WAL_LEVEL".into(),
            reason: "wal_level is replica: ALTER SYSTEM SET wal_level = logical, and restart the server".into(),
        };
        let found = wire::PreviewMoveResponse {
            source: "c1".into(),
            target: "c2".into(),
            findings: vec![finding],
            weight: Some(wire::Weight { rows: 12, bytes: 3 << 20 }),
            estimate: Some(wire::MoveEstimate::default()),
            ..wire::PreviewMoveResponse::default()
        };
        let text = preview(&PreviewView::new("acme".into(), found.clone(), 500));
        assert_eq!(
            text,
            "acme: c1 → c2, nothing was changed\n  weight    12 rows, 3.0 MiB\n  \
             estimate  none: no move that could be measured has ended; --rehearse measures this one\n  \
             finding   c1: wal_level is replica: ALTER SYSTEM SET wal_level = logical, and restart the server (WAL_LEVEL)\n"
        );
        let estimate =
            wire::MoveEstimate { moves: 3, copy_ms: 12_345, total_ms: 14_000, hold_ms: 31, hold_max_ms: 44 };
        let passes = wire::PreviewMoveResponse { findings: Vec::new(), estimate: Some(estimate), ..found };
        let text = preview(&PreviewView::new("acme".into(), passes, 500));
        assert!(text.contains("copy      about 12s\n"), "{text}");
        assert!(text.contains("hold      about 31ms, 44ms at the most so far; the budget is 500ms\n"), "{text}");
        assert!(text.ends_with("estimated from 3 ended moves\n  verdict   every check passes\n"), "{text}");
    }
}
