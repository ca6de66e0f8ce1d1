//! The protocol within small bounds, and the proof that the checker would have seen it fail.

use cell_models::configurations::{CI, EVERYTHING, LATE_DISENGAGE, SMALL, that_catches};
use cell_models::model::{ENDS, REACHABLE};
use cell_models::{Bounds, Mutant, Search, UidMutant, Verdict, check, check_incarnations};

fn exhausted(bounds: &Bounds) -> Verdict {
    let verdict = check(*bounds, Search::Exhaustive, 1);
    assert!(verdict.passes(), "{}: {verdict:#?}", bounds.name);
    assert!(verdict.complete, "{} was not gone through", bounds.name);
    verdict
}

fn exhaust(name: &str) {
    exhausted(SMALL.iter().find(|bounds| bounds.name == name).expect("a configuration of that name"));
}

#[test]
fn a_move_in_which_only_the_order_goes_wrong_keeps_every_promise_and_ends() {
    exhaust("calm");
}

#[test]
fn holds_that_lapse_and_cancels_at_any_moment_keep_every_promise() {
    exhaust("cutover");
}

#[test]
fn a_leader_that_was_deposed_and_goes_on_breaks_no_promise() {
    exhaust("leaders");
}

#[test]
fn a_cell_killed_at_any_moment_breaks_no_promise() {
    exhaust("crashes");
}

#[test]
fn a_rollback_at_any_moment_keeps_every_promise() {
    exhaust("rollback");
}

#[test]
fn a_slow_target_and_a_failed_copy_break_no_promise() {
    exhaust("sync");
}

#[test]
fn there_and_back_what_the_first_move_left_is_in_nobodys_way() {
    exhaust("return");
}

#[test]
fn a_copy_whose_rows_become_others_is_never_owned_and_the_move_ends() {
    exhaust("differing");
}

#[test]
fn an_owner_that_is_taken_over_and_comes_back_breaks_no_promise() {
    exhaust("takeover");
}

#[test]
fn an_owner_that_is_taken_over_on_the_way_back_breaks_no_promise() {
    exhaust("takeover-back");
}

#[test]
fn where_no_gate_is_a_hold_waits_for_routers_and_the_database_fences_whoever_comes_past_them() {
    exhaust("ungated");
}

/// Nothing that is late of one incarnation touches the next one: every state, and every guard that keeps it so.
#[test]
fn a_name_that_is_deleted_and_created_again_is_another_tenant() {
    let verdict = check_incarnations(None, 1);
    assert!(verdict.passes() && verdict.complete, "{verdict:#?}");
    assert!(verdict.unique > 1_000, "{verdict:?}");
    for (mutant, promise) in [
        (UidMutant::Reused, "I2: (uid, epoch) never goes back"),
        (UidMutant::Unchecked, "a request reaches no other incarnation than the one it is for"),
        (UidMutant::OldObeyed, "I12: nothing is destroyed that is owned"),
    ] {
        let verdict = check_incarnations(Some(mutant), 1);
        assert!(verdict.broken.contains_key(promise), "{}: {:?}", mutant.name(), verdict.broken);
    }
}

#[test]
fn the_same_bounds_have_the_same_states() {
    let bounds = SMALL.iter().find(|bounds| bounds.name == "rollback").unwrap();
    let (one, other) = (exhausted(bounds), exhausted(bounds));
    assert_eq!((one.states, one.unique, one.depth), (other.states, other.unique, other.depth));
    assert!(one.unique > 1_000, "{one:?}");
}

#[test]
fn every_guard_switched_off_has_a_counterexample() {
    for mutant in Mutant::ALL {
        let bounds = that_catches(mutant);
        let verdict = check(bounds, Search::Shortest, 1);
        assert!(!verdict.broken.is_empty(), "{} is not caught in {}", mutant.name(), bounds.name);
        // Only where cells refuse what the store has let through is it liveness that is lost, and not safety.
        let only_stuck = verdict.broken.keys().all(|promise| *promise == ENDS);
        assert_eq!(only_stuck, bounds.ends, "{}: {:?}", mutant.name(), verdict.broken.keys());
    }
}

#[test]
fn every_situation_that_a_configuration_names_is_known_and_every_one_is_named() {
    let named: Vec<&str> = CI.iter().flat_map(|bounds| bounds.reaches).copied().collect();
    for (situation, _) in REACHABLE {
        assert!(named.contains(&situation), "no configuration has to reach: {situation}");
    }
    for situation in named {
        assert!(REACHABLE.iter().any(|(known, _)| *known == situation), "nobody knows: {situation}");
    }
}

#[test]
fn a_search_within_memory_ends_where_it_is_told_and_does_not_claim_to_have_seen_everything() {
    let bounds = SMALL.iter().find(|bounds| bounds.name == "rollback").unwrap();
    let all = exhausted(bounds);
    let some = check(*bounds, Search::Within { states: all.states / 4 }, 1);
    assert!(some.states >= all.states / 4 && some.states < all.states, "{} of {}", some.states, all.states);
    assert!(!some.complete && some.passes(), "{some:?}");
    let more = check(*bounds, Search::Within { states: all.states * 2 }, 1);
    assert!(more.complete && (more.states, more.unique) == (all.states, all.unique), "{more:?}");
}

#[test]
fn random_walks_end_at_their_number_and_find_a_missing_guard() {
    let time = std::time::Duration::from_secs(60);
    let search = |states| Search::Random { seed: 3, states, time };
    let walk = check(EVERYTHING, search(20_000), 1);
    assert!(walk.passes() && !walk.complete && (20_000..60_000).contains(&walk.states), "{walk:?}");
    let unguarded = check(EVERYTHING.without(Mutant::EpochUnchecked), search(10_000_000), 1);
    assert!(!unguarded.broken.is_empty(), "{unguarded:?}");
}

/// A finding that was mended: re-entering Sync is a new attempt.
#[test]
fn a_late_step_out_of_sync_is_refused_once_sync_is_engaged_anew() {
    let verdict = check(LATE_DISENGAGE, Search::Shortest, 1);
    assert!(verdict.broken.is_empty(), "{:?}", verdict.broken);
    assert!(verdict.states > 1_000, "too few states to say anything: {}", verdict.states);
}
