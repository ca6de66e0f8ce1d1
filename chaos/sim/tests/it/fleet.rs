//! The whole fleet, one process for each seed.

use super::{is_found_in, simulate};

#[test]
fn a_tenant_that_moves_to_and_fro_while_things_break_loses_nothing() {
    let (output, text) = simulate(&["--fleet", "--seed", "1", "--faults", "6"]);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("seed 1 passed: "), "{text}");
    assert!(!text.contains(" 0 writes acknowledged") && !text.contains(" 0 faults"), "{text}");
    assert!(!text.contains(" 0 moves") && !text.contains("which 0 completed"), "{text}");
}

#[test]
fn the_same_seed_leaves_the_same_trace_of_the_whole_fleet_and_another_seed_another_one() {
    let arguments = |seed| ["--fleet", "--seed", seed, "--faults", "3", "--trace"];
    let (first, first_text) = simulate(&arguments("7"));
    let (_, second_text) = simulate(&arguments("7"));
    let (_, other_text) = simulate(&arguments("8"));
    assert!(first.status.success(), "{first_text}");
    assert!(first_text.contains("PHASE_ACTIVATE") && first_text.contains("nemesis: "), "the trace tells a story");
    assert!(first_text == second_text, "one seed, two traces");
    let hash = |text: &str| text.rsplit(' ').next().map(str::to_owned);
    assert_ne!(hash(&first_text), hash(&other_text), "the hash depends on what happens");
}

#[test]
fn cells_whose_disks_lie_about_their_syncs_are_found() {
    is_found_in(&["--fleet"], "lying-disk", ("1", "12"), "healed-is-live");
}
