//! A whole demo whose cells keep their tenants in PostgreSQL: the real coordinator, routers and gates.

use crate::program::cellctl;
use crate::server;

#[test]
fn a_fleet_on_postgresql_loses_nothing_while_tenants_move() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let databases: Vec<String> = runtime.block_on(async {
        let mut databases = Vec::new();
        for _ in 0..3 {
            databases.push(format!("--database {}", server::database().await));
        }
        databases
    });
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.json");
    // A machine that has other tests to run misses no hold for that. Leaders and routers are killed and cut off elsewhere.
    let small = "--tenants 12 --moves 2 --without-faults --big 1 --writes-per-second 20 --max-hold 2s";
    let said =
        cellctl(&format!("demo --seed 5 {small} --shop --report {} {}", file.display(), databases.join(" ")));
    let report = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((said.code, report["verdict"].as_str()), (0, Some("pass")), "{}\n{report:#}", said.err);
    for counted in [
        "lost_writes",
        "duplicated_writes",
        "reordered_writes",
        "resurrected_deletes",
        "phantom_values",
        "torn_transactions",
        "failed_requests",
        "served_early",
    ] {
        assert_eq!(report[counted], 0, "{counted}");
    }
    for counted in ["orders", "orders_while_moving", "taken_back", "deliveries", "looks"] {
        assert!(report["shop"][counted].as_u64().unwrap() > 0, "{counted}: {report:#}");
    }
}
