//! The program as it is used: what it writes, and how it ends.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::process::{Command, Output};

use serde_json::Value;

/// Runs it, and answers also the list that it has written.
fn run(change: impl FnOnce(&mut Command) -> &mut Command) -> (Output, Vec<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("bench/router.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-router"));
    let output = change(&mut command).arg("--out").arg(&out).output().unwrap();
    let list = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    (output, list)
}

#[test]
fn a_run_writes_a_list_of_figures_and_floors_of_more_than_was_measured_are_left_out() {
    let words = ["visible", "--tenants", "1000", "--changes", "3", "--rounds", "1", "--seconds", "1"];
    let (output, list) = run(|command| command.args(words));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("left out: visible: the floors of 1000000 tenants, because there were 1000"), "{said}");
    let named = |measure: &str| list.iter().find(|row| row["measure"] == measure).unwrap();
    let seen = named("1000 tenants: change of one until a request sees it, p99");
    assert!(seen["ours"].as_f64().unwrap() > 0.0 && seen["floor"].is_null() && seen["peer"].is_null());
    assert!(list.iter().all(|row| row.get("holds").is_none()), "nothing is asked: {list:?}");
}

#[test]
fn a_run_that_cannot_measure_ends_in_an_error_and_writes_so() {
    // No program is found: no load, and no proxies.
    let (output, list) = run(|command| command.args(["all", "--only", "http1,tls"]).env("PATH", "/nonexistent"));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("2 of 2 figures miss what they must hold: http1: measured to its end; tls"), "{said}");
    assert!(list.len() == 2 && list.iter().all(|row| row["holds"] == false), "{list:?}");
    assert!(said.contains("wrk is not here: `make bench-router` installs it"), "{said}");
}
