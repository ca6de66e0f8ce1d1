//! Whole demos, small ones: of an honest build, and with each fault planted.

use crate::program::cellctl;

const SMALL: &str = "--tenants 24 --moves 6 --big 8 --writes-per-second 60";

fn demo(seed: u64, more: &str) -> (i32, serde_json::Value, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.json");
    let said = cellctl(&format!("demo --seed {seed} {SMALL} --report {}{more}", file.display()));
    let report = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    (said.code, serde_json::from_str(&report).unwrap(), said.err)
}

#[test]
#[cfg(not(feature = "planted"))]
fn an_honest_fleet_loses_nothing_while_tenants_move() {
    let (code, report, said) = demo(7, "");
    assert_eq!((code, report["verdict"].as_str()), (0, Some("pass")), "{said}\n{report:#}");
    for counted in
        ["lost_writes", "duplicated_writes", "reordered_writes", "failed_requests", "served_early", "not_exercised"]
    {
        assert_eq!(report[counted], 0, "{counted}");
    }
    assert_eq!(report["moves"]["cancelled"], 1);
    assert_eq!(report["moves"]["rolled_back"], 1);
    assert!(report["stale_redirects"].as_u64().unwrap() > 0);
}

/// A planted fault is caught by the comparison of clients and cells, not by a move that merely fails.
#[cfg(feature = "planted")]
fn caught(fault: &str, shows_in: &[&str]) {
    let (code, report, said) = demo(7, &format!(" --plant {fault}"));
    assert_eq!((code, report["verdict"].as_str()), (1, Some("fail")), "{said}\n{report:#}");
    let found: u64 = shows_in.iter().map(|field| report[*field].as_u64().unwrap()).sum();
    assert!(found > 0, "{fault} does not show in {shows_in:?}\n{said}\n{report:#}");
}

#[test]
#[cfg(feature = "planted")]
fn an_acknowledged_write_that_was_not_done_is_caught() {
    caught("lost-write", &["lost_writes", "reordered_writes"]);
}

#[test]
#[cfg(feature = "planted")]
fn a_source_that_goes_on_serving_after_the_fence_is_caught() {
    caught("stale-epoch", &["lost_writes", "duplicated_writes", "reordered_writes", "verify_mismatches"]);
}

#[test]
#[cfg(feature = "planted")]
fn a_target_that_serves_before_the_commit_is_caught() {
    caught("early-serve", &["served_early"]);
}
