//! The whole fleet, one process for each seed.

use super::{FLEET, is_found, is_found_in_some_seed, simulate};

#[test]
fn a_tenant_that_moves_to_and_fro_while_things_break_loses_nothing_and_the_same_seed_leaves_the_same_trace() {
    let run = || simulate(&["--fleet", "--seed", "1", "--faults", "6", "--trace"]);
    let ((output, text), (_, again)) = (run(), run());
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("seed 1 passed: "), "{last}");
    assert!(!last.contains(" 0 writes acknowledged") && !last.contains(" 0 faults"), "{last}");
    assert!(!last.contains(" 0 moves") && !last.contains("which 0 completed"), "{last}");
    assert!(text.contains("PHASE_ACTIVATE") && text.contains("nemesis: "), "the trace tells a story");
    assert!(text.contains("renewed lives again"), "a name was given out twice");
    assert!(text.contains("is fenced, and hears nothing of the commit"), "a fence was prolonged");
    assert!(text == again, "one seed, two traces");
}

#[test]
fn a_cell_whose_disk_drops_documents_is_found() {
    is_found(FLEET, "losing-disk", "1", "writes-are-kept: ");
}

#[test]
fn a_cell_that_owns_what_has_left_it_is_found() {
    is_found(FLEET, "cloned-cell", "1", "one-owner: tenant moving is owned by [");
}

#[test]
fn two_owners_are_seen_by_a_look_at_store_and_cells() {
    is_found_in_some_seed(FLEET, "cloned-cell", "1", "invariants-hold: I1: ");
}

/// Nobody may say that tenants are served again where nobody has asked.
#[test]
fn tenants_that_nobody_writes_to_after_all_faults_are_named() {
    is_found(FLEET, "idle-clients", "1", "healed-is-live: no write of ");
}

#[test]
fn a_fault_that_the_fleet_has_no_place_for_is_refused() {
    let (output, text) = simulate(&["--fleet", "--seed", "1", "--flaw", "skipping-watcher"]);
    assert!(!output.status.success() && text.is_empty(), "{text}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("skipping-watcher")
            && told.contains("it knows lying-disk, losing-disk, cloned-cell, idle-clients"),
        "{told}"
    );
    let (output, text) = simulate(&["--seed", "1", "--flaw", "idle-clients"]);
    assert!(!output.status.success() && text.is_empty(), "{text}");
}
