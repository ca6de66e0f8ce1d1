//! The program as it is used: a few kills and power cuts, each judged. `make ordeal-store` does many.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::process::Command;

fn ordeal(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_bench-store")).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn eight_kills_at_any_instant_lose_nothing_that_was_acknowledged() {
    let text = ordeal(&["kill", "--rounds", "8", "--seed", "7"]);
    assert!(text.contains("8 rounds") && text.contains(" 0 broken promises"), "{text}");
    assert!(!text.contains("; 0 puts"), "{text}");
}

#[test]
#[expect(clippy::print_stderr, reason = "whoever reads the results must see that this one was not run")]
fn six_power_cuts_lose_nothing_that_was_acknowledged_and_the_disk_always_opens() {
    let text = ordeal(&["cut", "--rounds", "6", "--seed", "7"]);
    if text.contains("cut: skipped") {
        eprintln!("{text}");
        return;
    }
    assert!(text.contains("6 rounds") && text.contains(" 0 broken promises"), "{text}");
}

#[test]
fn an_upgrade_from_nothing_says_what_builds_it() {
    let words = ["upgrade", "--from", "nowhere/cell-control"];
    let output = Command::new(env!("CARGO_BIN_EXE_bench-store")).args(words).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && text.contains("`make upgrade` builds it"), "{text}");
}
