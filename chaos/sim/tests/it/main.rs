//! The simulation as its users run it: the program, one process for each seed.

mod fleet;
mod sources;

use std::process::{Command, Output};

/// What is simulated, as the command line says it.
const STORE: &str = "";
const FLEET: &str = " --fleet";

fn simulate(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cell-sim")).args(arguments).output().expect("the program runs");
    let text = String::from_utf8(output.stdout.clone()).expect("it prints text");
    (output, text)
}

fn passes(seed: &str) {
    let (output, text) = simulate(&["--seed", seed, "--faults", "4"]);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with(&format!("seed {seed} passed: ")), "{text}");
    assert!(!text.contains(" 0 answered") && !text.contains(" 0 faults"), "{text}");
}

#[test]
fn seed_1_breaks_no_promise() {
    passes("1");
}

/// All nodes lose their power at once, and the leader some of its log. It once went on leading in the same term.
#[test]
fn seed_6_in_which_a_leader_loses_the_end_of_its_log_breaks_no_promise() {
    passes("6");
}

#[test]
fn the_same_seed_leaves_the_same_trace_and_another_seed_another_one() {
    let arguments = |seed| ["--seed", seed, "--faults", "3", "--trace"];
    let (first, first_text) = simulate(&arguments("7"));
    let (_, second_text) = simulate(&arguments("7"));
    let (_, other_text) = simulate(&arguments("8"));
    assert!(first.status.success(), "{first_text}");
    assert!(first_text.lines().count() > 100, "the trace tells a story: {first_text}");
    assert!(first_text == second_text, "one seed, two traces");
    let hash = |text: &str| text.rsplit(' ').next().map(str::to_owned);
    assert_ne!(hash(&first_text), hash(&other_text), "the hash depends on what happens");
}

/// Runs with a fault in the harness itself, from seed to seed until it matters: in which one it does changes with the code.
/// It must be found, by a rule that fits, with the line that runs it again.
fn is_found(of: &str, flaw: &str, faults: &str, rule: &str) {
    let found = (1..=8).find_map(|seed| finding(of, flaw, faults, seed));
    let text = found.unwrap_or_else(|| panic!("{flaw} was found in none of eight seeds"));
    assert!(text.contains(&format!("\n  {rule}")), "{text}");
}

/// The same, by a rule that looks now and then: where it comes too late, another has found the fault.
fn is_found_in_some_seed(of: &str, flaw: &str, faults: &str, rule: &str) {
    let has_seen = |seed| finding(of, flaw, faults, seed).is_some_and(|text| text.contains(&format!("\n  {rule}")));
    assert!((1..=8).any(has_seen), "{flaw} was found by {rule:?} in none of eight seeds");
}

/// What a run says that has found something.
fn finding(of: &str, flaw: &str, faults: &str, seed: u64) -> Option<String> {
    let line = format!("--seed {seed} --faults {faults}{of} --flaw {flaw}");
    let (output, text) = simulate(&line.split(' ').collect::<Vec<_>>());
    if output.status.success() {
        return None;
    }
    assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let again = format!("\n  again: cargo run -p cell-sim -- {line} --trace\n");
    assert!(text.contains(&again), "{text}");
    Some(text)
}

#[test]
fn a_disk_that_lies_about_its_syncs_is_found() {
    is_found(STORE, "lying-disk", "8", "answered-is-kept");
}

#[test]
fn a_disk_whose_failed_syncs_nobody_is_told_of_is_found() {
    is_found(STORE, "failing-disk", "8", "nodes-stay-up: what is stored in ");
}

/// Nobody may say that all is healed where somebody is still away.
#[test]
fn a_node_that_stays_away_is_found() {
    is_found(STORE, "dark-node", "1", "healed-is-live: ");
}

#[test]
fn a_client_that_writes_down_what_it_was_not_told_is_found() {
    is_found(STORE, "misrecording-client", "4", "answered-is-kept");
}

#[test]
fn a_retry_under_another_request_id_is_found() {
    is_found(STORE, "careless-retry", "4", "request-runs-once");
}

#[test]
fn a_watcher_that_drops_a_revision_is_found() {
    is_found(STORE, "skipping-watcher", "4", "watch-is-whole");
}

#[test]
fn many_seeds_get_a_line_each_and_a_failing_one_is_named() {
    let (output, text) = simulate(&["--seeds", "1..3", "--faults", "1", "--flaw", "misrecording-client"]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("seed 1 FAILED: ") && text.contains("seed 2 FAILED: "), "{text}");
    assert!(text.ends_with("2 of 2 seeds failed [1, 2]\n"), "{text}");
}
