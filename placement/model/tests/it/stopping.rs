//! Moves that stop on their way or are taken back, and how fast they may copy.

use std::sync::Arc;

use cell_model::{
    Command, Effect, End, Estimate, Event, HoldEnd, Intent, MoveIntent, MoveOptions, Phase, Rejected, Weight,
    holds, pending_effects,
};

use crate::world::{World, move_to};

fn until(phase: Phase) -> MoveOptions {
    MoveOptions { until: Some(phase), ..MoveOptions::default() }
}

fn rehearsal() -> MoveOptions {
    MoveOptions { rehearse: true, ..MoveOptions::default() }
}

#[test]
fn a_rehearsal_goes_as_far_as_the_fence_and_the_owner_stays_at_a_higher_epoch() {
    let mut world = World::new();
    let before = world.record("t");
    let id = world.moving(Phase::Unfence, rehearsal());
    assert_eq!(world.record("t").owner, before.owner);
    assert_eq!(world.record("t").epoch, before.epoch.next(), "what the fence has refused stays refused");
    assert!(matches!(world.steer(id, MoveIntent::Cancel), Err(Rejected::MoveEnding { .. })));
    while world.record("t").movement.is_some() {
        world.advance();
    }
    let ended = world.ended(id);
    assert_eq!((ended.end, ended.epoch), (End::Rehearsed, before.epoch.next()));
    assert!(world.record("t").retained.is_empty(), "nothing is left anywhere");
    let measured = holds(&ended.movement.history);
    assert_eq!(measured.iter().map(|held| held.end).collect::<Vec<_>>(), [HoldEnd::TakenBack]);
}

#[test]
fn a_rehearsal_asks_for_every_acknowledgement_that_a_commit_asks_for() {
    let mut world = World::new();
    world.moving(Phase::Fenced, rehearsal());
    let attempt = world.attempt("t");
    let early = world.tell("t", Event::Commit { attempt }).unwrap_err();
    assert!(matches!(early, Rejected::MissingAck { .. }), "{early}");
    assert_eq!(world.phase("t"), Phase::Fenced);
}

#[test]
fn a_rehearsal_whose_fence_is_refused_is_tried_again() {
    let mut world = World::new();
    let id = world.moving(Phase::Fenced, rehearsal());
    let attempt = world.attempt("t");
    let not_before = cell_model::UnixMillis(0);
    world.tell("t", Event::Abort { attempt, reason: "the lock was lost".into(), not_before }).unwrap();
    world.advance();
    assert_eq!(world.phase("t"), Phase::Sync, "it was not measured yet");
    while world.record("t").movement.is_some() {
        world.advance();
    }
    assert_eq!(world.ended(id).end, End::Rehearsed);
}

#[test]
fn a_move_stops_behind_every_phase_that_it_is_told_to() {
    for (phase, rests_in, epochs) in [
        (Phase::Preflight, Phase::Prepare, 0),
        (Phase::Prepare, Phase::Backfill, 0),
        (Phase::Backfill, Phase::CatchUp, 0),
        (Phase::CatchUp, Phase::Verify, 0),
        (Phase::Verify, Phase::Sync, 0),
        (Phase::Sync, Phase::Sync, 0),
        (Phase::Hold, Phase::Sync, 0),
        (Phase::Fenced, Phase::Sync, 1),
        (Phase::Activate, Phase::Soak, 1),
        (Phase::Soak, Phase::Soak, 1),
    ] {
        let mut world = World::new();
        let before = world.record("t");
        world.ok(move_to("t", "b", until(phase)));
        let id = world.movement("t").id;
        while world.movement("t").intent == Intent::Run {
            world.advance();
        }
        while world.phase("t") == Phase::Unfence {
            world.advance();
        }
        let movement = world.movement("t");
        assert_eq!((movement.phase, movement.until), (rests_in, None), "{phase}");
        assert!(movement.history.iter().any(|stamp| stamp.phase == phase), "{phase}");
        assert_eq!(world.record("t").epoch.0, before.epoch.0 + epochs, "{phase}");
        assert_eq!(movement.retries_left, MoveOptions::default().retries, "{phase} is no miss");
        let waits = pending_effects(&world.record("t"));
        let decides = |effect: &Effect| matches!(effect, Effect::AwaitHold { .. } | Effect::AwaitSoak { .. });
        assert!(!waits.iter().any(decides), "{phase}: {waits:?}");
        world.steer(id, MoveIntent::Resume).unwrap();
        while world.record("t").movement.is_some() {
            world.advance();
        }
        assert_eq!(world.ended(id).end, End::Completed, "{phase}");
    }
}

#[test]
fn what_lies_on_the_way_back_is_no_place_to_stop_and_a_rehearsal_does_not_come_far() {
    let mut world = World::new();
    let told = |world: &mut World, options| world.refused(move_to("t", "b", options)).to_string();
    for phase in [Phase::Unfence, Phase::Cleanup] {
        assert!(told(&mut world, until(phase)).contains("on the way back"));
    }
    let far = MoveOptions { rehearse: true, ..until(Phase::Activate) };
    assert!(told(&mut world, far).contains("a rehearsal never comes behind activate"));
    let slow = MoveOptions { bytes_per_second: 100, ..MoveOptions::default() };
    assert!(told(&mut world, slow).contains("at least 4096"));
}

#[test]
fn a_copy_goes_as_fast_as_it_was_last_told_to_while_there_is_something_to_copy() {
    let mut world = World::new();
    let id = world.moving(Phase::Backfill, MoveOptions { bytes_per_second: 8_192, ..MoveOptions::default() });
    assert_eq!(pending_effects(&world.record("t")), [Effect::AwaitBackfill { bytes_per_second: 8_192 }]);
    let throttle = |bytes_per_second| Command::ThrottleMove { move_id: id, bytes_per_second };
    world.ok(throttle(1 << 20));
    assert_eq!(pending_effects(&world.record("t")), [Effect::AwaitBackfill { bytes_per_second: 1 << 20 }]);
    world.ok(throttle(0));
    assert!(matches!(world.refused(throttle(1)), Rejected::InvalidOption { .. }));
    let told = world.fleet.audit().last().unwrap();
    assert_eq!((told.action.as_str(), told.outcome.as_str()), ("throttle-move", "INVALID_OPTION"));
    world.advance();
    let refused = world.refused(throttle(8_192));
    assert_eq!(refused.code(), "WRONG_PHASE");
    assert!(refused.to_string().contains("the copy is complete"), "{refused}");
    assert!(refused.hint().starts_with("nothing"), "the coordinator has no part in it: {}", refused.hint());
}

#[test]
fn the_trail_has_what_the_cutover_stood_on() {
    let mut world = World::new();
    world.ok(move_to("t", "b", MoveOptions::default()));
    world.tell("t", Event::Weighed(Weight { rows: 12, bytes: 3_000 })).unwrap();
    while world.phase("t") != Phase::Soak {
        world.advance();
    }
    world.tell("t", Event::Counted { stale_rejected: 4 }).unwrap();
    world.advance();
    let details: Vec<&str> = world.fleet.audit().after(0).map(|entry| entry.detail.as_str()).collect();
    let has = |words: &str| details.iter().any(|detail| detail.contains(words));
    assert!(has("phase=prepare attempt=1 rows=12 bytes=3000"), "{details:#?}");
    assert!(has("event=FullyVerified") && has("verified=30 digest=3:"), "{details:#?}");
    let commit = details.iter().find(|detail| detail.contains("event=Commit")).unwrap();
    assert!(commit.contains("owner=b epoch=2") && commit.contains("sealed=90 applied=90 fenced=90"), "{commit}");
    assert!(has("event=SoakPassed") && has("end=completed attempt=2 stale-rejected=4"), "{details:#?}");
}

#[test]
fn an_estimate_is_made_from_what_moves_have_taken() {
    let mut world = World::new();
    let nothing = Estimate::from_moves(world.fleet.ended_moves_before(None).map(Arc::as_ref), Weight::default(), 0);
    assert_eq!(nothing, None, "nothing is guessed");
    let ready = |world: &mut World, to: &str| {
        world.ok(move_to("t", to, rehearsal()));
        world.tell("t", Event::Weighed(Weight { rows: 1_000, bytes: 1 << 20 })).unwrap();
        while world.record("t").movement.is_some() {
            world.now += match world.phase("t") {
                Phase::Backfill => 2_000,
                Phase::Hold => 30,
                Phase::Fenced => 10,
                _ => 100,
            };
            world.advance();
        }
    };
    for _ in 0..3 {
        ready(&mut world, "b");
    }
    let of = |bytes, limit| {
        Estimate::from_moves(
            world.fleet.ended_moves_before(None).map(Arc::as_ref),
            Weight { rows: 1, bytes },
            limit,
        )
        .unwrap()
    };
    let same = of(1 << 20, 0);
    assert_eq!((same.moves, same.copy_ms), (3, 2_000));
    assert!(same.hold_ms >= 40 && same.hold_ms < 200 && same.hold_max_ms >= same.hold_ms, "{same:?}");
    assert!(same.total_ms > same.copy_ms, "{same:?}");
    assert_eq!(of(10 << 20, 0).copy_ms, 20_000);
    assert_eq!(of(10, 0).copy_ms, 2_000, "no copy is shorter than the shortest");
    assert_eq!(of(10 << 20, 1 << 20).copy_ms, 20_000);
    assert_eq!(of(10 << 20, 1 << 18).copy_ms, 40_000, "a throttle is reckoned with");
}
