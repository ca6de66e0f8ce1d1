//! One move, from its beginning to each of its ends.

use cell_model::{
    Attempt, Command, Difference, Differing, DifferingRow, Digest, Effect, End, Epoch, Event, Generation, Hold,
    Intent, Leg, Life, MappingState, MoveIntent, MoveOptions, Phase, Rejected, Seq, SyncMode, UnixMillis,
    pending_effects,
};

use crate::world::{SEALED, World, cell, move_to, tenant};

#[test]
fn a_move_that_goes_well_raises_the_epoch_once_and_leaves_a_copy() {
    let mut world = World::new();
    let before = world.record("t");
    let id = world.moving(Phase::Soak, MoveOptions::default());
    let cutover = world.record("t");
    assert_eq!((cutover.owner.as_str(), cutover.epoch), ("b", before.epoch.next()));
    assert_eq!(cutover.mapping().state, MappingState::Cutover);

    world.advance();
    let record = world.record("t");
    assert_eq!(record.mapping().state, MappingState::Final);
    assert_eq!(record.epoch, before.epoch.next(), "soaking and ending raise nothing");
    assert_eq!(world.ended(id).end, End::Completed);
    let copy = record.retained_on(&cell("a")).expect("the old copy is kept").clone();
    assert_eq!((copy.fenced_epoch, copy.retired, copy.reclaiming), (before.epoch, false, false));

    world.tell("t", Event::Retired { cell: cell("a") }).unwrap();
    let early = world.tell("t", Event::RetentionOver { cell: cell("a") }).unwrap_err();
    assert!(matches!(early, Rejected::NotDue { .. }));
    world.now = copy.until.0;
    world.tell("t", Event::RetentionOver { cell: cell("a") }).unwrap();
    world.tell("t", Event::Reclaimed { cell: cell("a") }).unwrap();
    assert_eq!(world.record("t").mapping().state, MappingState::Active);
    assert_eq!(world.fleet.unsettled().count(), 0);
}

#[test]
fn every_phase_of_a_move_has_something_to_do_and_the_router_is_told_what_waits() {
    let mut world = World::new();
    world.ok(move_to("t", "b", MoveOptions::default()));
    let mut holds = Vec::new();
    while world.record("t").movement.is_some() {
        let record = world.record("t");
        assert!(!pending_effects(&record).is_empty(), "nothing to do in {}", world.phase("t"));
        let (phase, hold) = (world.phase("t"), record.mapping().hold);
        if hold != Hold::None {
            holds.push((phase, hold));
        }
        world.advance();
    }
    assert_eq!(holds, [(Phase::Hold, Hold::Writes), (Phase::Fenced, Hold::All)]);
}

#[test]
fn a_cancel_before_the_fence_is_free_and_keeps_the_epoch() {
    for phase in [Phase::Prepare, Phase::Backfill, Phase::CatchUp, Phase::Verify, Phase::Sync, Phase::Hold] {
        let mut world = World::new();
        let before = world.record("t");
        let id = world.moving(phase, MoveOptions::default());
        world.steer(id, MoveIntent::Cancel).unwrap();
        assert_eq!(world.phase("t"), Phase::Cleanup, "cancelled in {phase}");
        let wanted = world.record("t").movement.map(|movement| movement.intent);
        assert_eq!(
            wanted,
            Some(Intent::Cancel),
            "whoever looks sees that it is being cancelled, not that it rests"
        );
        world.advance();
        let record = world.record("t");
        assert_eq!((record.epoch, &record.owner), (before.epoch, &before.owner));
        assert_eq!(world.ended(id).end, End::Cancelled);
        assert!(record.retained.is_empty());
    }
}

#[test]
fn a_cancel_in_preflight_ends_at_once() {
    let mut world = World::new();
    let id = world.moving(Phase::Preflight, MoveOptions::default());
    world.steer(id, MoveIntent::Cancel).unwrap();
    assert_eq!(world.ended(id).end, End::Cancelled);
    assert!(world.record("t").movement.is_none());
}

#[test]
fn a_cancel_after_the_fence_raises_the_epoch_and_gives_the_tenant_back() {
    let mut world = World::new();
    let before = world.record("t");
    let id = world.moving(Phase::Fenced, MoveOptions::default());
    world.steer(id, MoveIntent::Cancel).unwrap();
    let record = world.record("t");
    assert_eq!((world.phase("t"), record.epoch), (Phase::Unfence, before.epoch.next()));
    assert_eq!(record.mapping().hold, Hold::All, "the source refuses until it says that it owns again");
    // The commit that raced with it comes too late.
    let attempt = world.attempt("t");
    assert!(matches!(world.tell("t", Event::Commit { attempt }), Err(Rejected::WrongPhase { .. })));
    world.advance();
    assert_eq!(world.phase("t"), Phase::Cleanup);
    world.advance();
    assert_eq!(world.ended(id).end, End::Cancelled);
    assert_eq!(world.record("t").owner, before.owner);
}

#[test]
fn a_cancel_after_the_commit_is_refused_with_the_way_back() {
    for phase in [Phase::Activate, Phase::Soak] {
        let mut world = World::new();
        let id = world.moving(phase, MoveOptions::default());
        let refused = world.steer(id, MoveIntent::Cancel).unwrap_err();
        assert_eq!(refused.code(), "MOVE_COMMITTED");
        assert!(refused.hint().contains("rollback"));
    }
}

#[test]
fn a_rollback_out_of_soak_is_the_same_cutover_mirrored() {
    let mut world = World::new();
    let before = world.record("t");
    let id = world.moving(Phase::Soak, MoveOptions::default());
    world.steer(id, MoveIntent::Rollback).unwrap();
    let mut phases = Vec::new();
    while let Some(movement) = world.record("t").movement {
        phases.push((movement.phase, movement.leg));
        if movement.phase == Phase::Cleanup {
            world.tell("t", Event::MappingDelivered).unwrap();
        }
        world.advance();
    }
    use Leg::{Back, Forward};
    let expected = [
        (Phase::Soak, Forward),
        (Phase::Hold, Back),
        (Phase::Fenced, Back),
        (Phase::Activate, Back),
        (Phase::Cleanup, Back),
    ];
    assert_eq!(phases, expected);
    let record = world.record("t");
    assert_eq!((record.owner, record.epoch.0), (before.owner, before.epoch.0 + 2));
    assert_eq!(world.ended(id).end, End::RolledBack);
    assert!(record.retained.is_empty(), "the copy on b is dropped, not retained");
}

#[test]
fn a_rolled_back_copy_is_dropped_only_after_it_redirects() {
    let mut world = World::new();
    let id = world.moving(Phase::Soak, MoveOptions::default());
    world.steer(id, MoveIntent::Rollback).unwrap();
    while world.phase("t") != Phase::Activate || world.movement("t").leg != Leg::Back {
        world.advance();
    }
    world.tell("t", Event::Activated { generation: Generation(0) }).unwrap();
    let effects = pending_effects(&world.record("t"));
    assert_eq!(effects, [Effect::DeliverMapping { cell: cell("b") }]);
    assert!(matches!(world.tell("t", Event::ImportDropped), Err(Rejected::MissingAck { .. })));
}

#[test]
fn a_missed_hold_keeps_the_copy_and_tries_again_later() {
    let mut world = World::new();
    let epoch = world.record("t").epoch;
    world.moving(Phase::Hold, MoveOptions { retries: 1, ..MoveOptions::default() });
    let attempt = world.attempt("t");
    let not_before = UnixMillis(world.now + 700);
    world.tell("t", Event::HoldMissed { attempt, reason: "slow".into(), not_before }).unwrap();
    let movement = world.movement("t");
    assert_eq!((movement.phase, movement.retries_left), (Phase::Sync, 0));
    assert!(movement.acks.verified_full.is_some() && movement.acks.sealed.is_none());
    assert!(matches!(movement.acks.sync, SyncMode::Engaged { .. }));
    assert!(matches!(world.tell("t", Event::HoldDue), Err(Rejected::NotDue { .. })));

    world.now = not_before.0;
    world.tell("t", Event::HoldDue).unwrap();
    assert_eq!(world.attempt("t"), attempt.next());
    // Whatever is still under way of the first hold counts for nothing.
    for late in [
        Event::Sealed { attempt, seq: SEALED },
        Event::Applied { attempt, seq: SEALED, generation: Generation(0) },
        Event::Verified { attempt, seq: SEALED, digest: Digest::default() },
    ] {
        assert!(matches!(world.tell("t", late), Err(Rejected::StaleAttempt { .. })));
    }
    let attempt = world.attempt("t");
    world.tell("t", Event::HoldMissed { attempt, reason: "slow again".into(), not_before }).unwrap();
    let ending = world.movement("t").ending.unwrap();
    assert_eq!(ending, End::Aborted { code: "HOLD_RETRIES_SPENT".into(), reason: "slow again".into() });
    assert_eq!(world.record("t").epoch, epoch);
}

/// The agent was started again in the hold, or the hold lapsed: the model checker found that the writes were held again and
/// again, each time with a seal that was refused.
#[test]
fn a_hold_that_is_sealed_a_second_time_at_another_change_is_missed() {
    let mut world = World::new();
    world.moving(Phase::Hold, MoveOptions { retries: 1, ..MoveOptions::default() });
    let attempt = world.attempt("t");
    world.tell("t", Event::Sealed { attempt, seq: SEALED }).unwrap();
    world.tell("t", Event::Sealed { attempt, seq: SEALED }).unwrap();
    assert_eq!(world.phase("t"), Phase::Hold, "said again, it is the same seal");
    world.tell("t", Event::Sealed { attempt, seq: SEALED.next() }).unwrap();
    let movement = world.movement("t");
    assert_eq!((movement.phase, movement.retries_left, movement.acks.sealed), (Phase::Sync, 0, None));
    let behind = Event::Applied { attempt, seq: SEALED, generation: Generation(0) };
    assert!(matches!(world.tell("t", behind), Err(Rejected::WrongPhase { .. })));
}

#[test]
fn commit_asks_for_each_acknowledgement_by_name() {
    let mut world = World::new();
    world.moving(Phase::Hold, MoveOptions::default());
    let attempt = world.attempt("t");
    let applied = Event::Applied { attempt, seq: SEALED, generation: Generation(0) };
    assert!(matches!(world.tell("t", applied), Err(Rejected::MissingAck { ack }) if ack == "Sealed"));
    world.tell("t", Event::Sealed { attempt, seq: SEALED }).unwrap();
    let behind = Event::Applied { attempt, seq: Seq(SEALED.0 - 1), generation: Generation(0) };
    assert!(matches!(world.tell("t", behind), Err(Rejected::AckMismatch { ack, .. }) if ack == "Applied"));
    assert!(matches!(world.tell("t", Event::Commit { attempt }), Err(Rejected::WrongPhase { .. })));
    world.advance();
    assert!(
        matches!(world.tell("t", Event::Commit { attempt }), Err(Rejected::MissingAck { ack }) if ack == "Fenced")
    );
    let beyond = Event::Fenced { attempt, seq: SEALED.next() };
    assert!(matches!(world.tell("t", beyond), Err(Rejected::AckMismatch { ack, .. }) if ack == "Fenced"));
    world.tell("t", Event::Fenced { attempt, seq: SEALED }).unwrap();
    world.tell("t", Event::Commit { attempt }).unwrap();
}

#[test]
fn commit_is_refused_where_the_target_was_cordoned_or_its_agent_is_another() {
    let mut world = World::new();
    world.moving(Phase::Fenced, MoveOptions::default());
    let attempt = world.attempt("t");
    world.tell("t", Event::Fenced { attempt, seq: SEALED }).unwrap();
    world.ok(Command::SetCellState { cell: cell("b"), state: cell_model::CellState::Cordoned });
    assert!(matches!(world.tell("t", Event::Commit { attempt }), Err(Rejected::CellCordoned { .. })));
    world.ok(Command::SetCellState { cell: cell("b"), state: cell_model::CellState::Active });
    world.ok(Command::ReportCell {
        partial: false,
        cell: cell("b"),
        generation: Generation(1),
        gates: vec!["b:8080".into()],
        agent: "b:7000".into(),
    });
    assert!(matches!(world.tell("t", Event::Commit { attempt }), Err(Rejected::StaleGeneration { .. })));

    let not_before = UnixMillis(world.now);
    world.tell("t", Event::Abort { attempt, reason: "refused".into(), not_before }).unwrap();
    world.tell("t", Event::Unfenced { attempt }).unwrap();
    let movement = world.movement("t");
    assert_eq!(movement.phase, Phase::Sync);
    assert_eq!(movement.acks.reverse, None, "the reverse capture is prepared anew");
    assert_eq!(world.record("t").owner, cell("a"));
}

#[test]
fn sync_is_left_only_by_a_committed_degradation_that_the_source_has_seen() {
    let mut world = World::new();
    world.moving(Phase::Sync, MoveOptions::default());
    world.tell("t", Event::SyncEngaged).unwrap();
    let attempt = world.attempt("t");
    let stale = Attempt(attempt.0.wrapping_sub(1));
    assert!(matches!(world.tell("t", Event::SyncDegraded { attempt: stale }), Err(Rejected::StaleAttempt { .. })));
    world.tell("t", Event::SyncDegraded { attempt }).unwrap();
    assert_eq!(pending_effects(&world.record("t")), [Effect::DisengageSync]);
    let early = world.tell("t", Event::CaughtUp { applied: Seq(50) });
    assert!(matches!(early, Err(Rejected::MissingAck { .. })));
    world.tell("t", Event::SyncDisengaged).unwrap();
    world.tell("t", Event::CaughtUp { applied: Seq(50) }).unwrap();
    assert_eq!(world.phase("t"), Phase::Sync, "a copy that was verified is not scanned again");
}

#[test]
fn a_pause_starts_no_new_phase_but_keeps_watching_sync() {
    let mut world = World::new();
    let id = world.moving(Phase::Backfill, MoveOptions::default());
    world.steer(id, MoveIntent::Pause).unwrap();
    assert!(pending_effects(&world.record("t")).is_empty());
    world.steer(id, MoveIntent::Resume).unwrap();
    assert_eq!(pending_effects(&world.record("t")), [Effect::AwaitBackfill { bytes_per_second: 0 }]);
    while world.phase("t") != Phase::Sync {
        world.advance();
    }
    world.tell("t", Event::SyncEngaged).unwrap();
    world.steer(id, MoveIntent::Pause).unwrap();
    let attempt = world.attempt("t");
    assert_eq!(pending_effects(&world.record("t")), [Effect::WatchSync { attempt }]);
}

#[test]
fn a_move_told_to_stop_after_a_phase_stops_there() {
    for until in [Phase::Preflight, Phase::Backfill, Phase::Verify] {
        let mut world = World::new();
        world.ok(move_to("t", "b", MoveOptions { until: Some(until), ..MoveOptions::default() }));
        while world.movement("t").intent == Intent::Run {
            world.advance();
        }
        let movement = world.movement("t");
        assert_eq!(movement.history[movement.history.len() - 2].phase, until);
    }
    let mut world = World::new();
    world.moving(Phase::Sync, MoveOptions { until: Some(Phase::Sync), ..MoveOptions::default() });
    world.advance();
    world.advance();
    assert_eq!((world.phase("t"), world.movement("t").intent), (Phase::Sync, Intent::Pause));
}

#[test]
fn a_move_back_waits_until_the_old_copy_is_reclaimed() {
    let mut world = World::new();
    world.moving(Phase::Soak, MoveOptions::default());
    world.advance();
    world.ok(move_to("t", "a", MoveOptions::default()));
    assert!(matches!(world.tell("t", Event::Admitted), Err(Rejected::CopyRetained { .. })));
    let record = world.record("t");
    assert!(matches!(pending_effects(&record)[..], [Effect::Retire { .. }]));
    world.tell("t", Event::Retired { cell: cell("a") }).unwrap();
    let record = world.record("t");
    assert_eq!(pending_effects(&record), [Effect::AwaitRetention { cell: cell("a"), at: UnixMillis(0) }]);
    world.tell("t", Event::RetentionOver { cell: cell("a") }).unwrap();
    world.tell("t", Event::Reclaimed { cell: cell("a") }).unwrap();
    world.tell("t", Event::Admitted).unwrap();
}

#[test]
fn a_deleted_tenant_is_revoked_everywhere_and_its_name_comes_back_with_a_higher_uid() {
    let mut world = World::new();
    world.moving(Phase::Soak, MoveOptions::default());
    world.advance();
    let before = world.record("t");
    world.ok(Command::DeleteTenant { tenant: tenant("t") });
    let record = world.record("t");
    assert_eq!(record.mapping().state, MappingState::Deleted);
    assert_eq!(record.epoch, before.epoch.next());
    assert_eq!(pending_effects(&record).len(), 2);
    world.tell("t", Event::Revoked { cell: cell("b") }).unwrap();
    assert_eq!(world.record("t").life, Life::Deleting { owner_revoked: true });
    world.tell("t", Event::Revoked { cell: cell("a") }).unwrap();
    assert_eq!(world.record("t").life, Life::Deleted);

    world.add_tenant("t", "c");
    let again = world.record("t");
    assert!(again.uid > before.uid);
    assert_eq!(again.epoch, Epoch(1));
    assert!(again.mapping().supersedes(&before.mapping()));
}

#[test]
fn an_event_of_another_move_leg_or_incarnation_is_refused() {
    let mut world = World::new();
    let id = world.moving(Phase::Prepare, MoveOptions::default());
    let event = || Event::CaptureStarted { position: Seq(1) };
    let other = cell_model::MoveId(id.0 + 1);
    assert!(matches!(world.tell_as("t", event(), Some((other, Leg::Forward))), Err(Rejected::StaleMove { .. })));
    assert!(matches!(world.tell_as("t", event(), Some((id, Leg::Back))), Err(Rejected::StaleMove { .. })));
    let stale = Command::Record {
        tenant: tenant("t"),
        uid: cell_model::Uid(999),
        move_id: Some(id),
        leg: None,
        event: event(),
    };
    assert!(matches!(world.refused(stale), Rejected::StaleUid { .. }));
}

fn difference(phase: Phase) -> Difference {
    let row = DifferingRow { table: "orders".into(), key: "(7)".into(), differing: Differing::Missing };
    let digest = |rows| Digest { rows, sum: 1 };
    let found = Difference::of_digests(phase, Seq(30), digest(3), digest(2));
    if phase == Phase::Hold { found } else { Difference { missing: 1, rows: vec![row], ..found } }
}

#[test]
fn a_copy_that_differs_is_mended_and_compared_again_and_given_up_when_that_does_not_help() {
    let mut world = World::new();
    let before = world.record("t");
    let id = world.moving(Phase::Verify, MoveOptions::default());
    for times in 1..=cell_model::Move::DIFFERENCES_MAX {
        world.tell("t", Event::Differed(Box::new(difference(Phase::Verify)))).unwrap();
        let movement = world.record("t").movement.unwrap();
        assert_eq!((movement.phase, movement.differences.len()), (Phase::Verify, times));
        assert_eq!(pending_effects(&world.record("t")), [Effect::VerifyFull]);
    }
    world.tell("t", Event::Differed(Box::new(difference(Phase::Verify)))).unwrap();
    assert_eq!(world.phase("t"), Phase::Cleanup);
    world.advance();
    let ended = world.ended(id);
    let End::Aborted { code, reason } = &ended.end else { panic!("{:?}", ended.end) };
    assert_eq!(code, "DIGEST_MISMATCH");
    assert!(reason.contains("orders(7) missing"), "{reason}");
    assert_eq!(ended.movement.differences.len(), cell_model::Move::DIFFERENCES_MAX + 1);
    assert_eq!((world.record("t").epoch, world.record("t").owner), (before.epoch, before.owner));
}

#[test]
fn a_difference_at_the_seal_lets_go_of_sync_and_compares_every_row_before_another_hold() {
    let mut world = World::new();
    let id = world.moving(Phase::Hold, MoveOptions::default());
    let attempt = world.record("t").movement.unwrap().attempt;
    world.tell("t", Event::Differed(Box::new(difference(Phase::Hold)))).unwrap();
    let movement = world.record("t").movement.unwrap();
    assert_eq!((movement.phase, movement.attempt), (Phase::CatchUp, attempt.next()));
    assert_eq!((movement.acks.sync, movement.acks.verified_full), (SyncMode::Degrading, None));
    assert_eq!(pending_effects(&world.record("t")), [Effect::DisengageSync]);
    let mut phases = Vec::new();
    while world.record("t").movement.is_some() {
        phases.push(world.phase("t"));
        world.advance();
    }
    assert!(phases.contains(&Phase::Verify), "{phases:?}");
    assert_eq!(world.ended(id).end, End::Completed);
}

#[test]
fn more_rows_than_are_kept_are_no_difference_and_on_the_way_back_there_is_none() {
    let mut world = World::new();
    world.moving(Phase::Verify, MoveOptions::default());
    let row = DifferingRow { table: "t".into(), key: "k".into(), differing: Differing::Extra };
    let many = Difference { rows: vec![row; Difference::ROWS_MAX + 1], ..difference(Phase::Verify) };
    assert!(matches!(world.tell("t", Event::Differed(Box::new(many))), Err(Rejected::InvalidOption { .. })));
    let early = World::new().tell("t", Event::Differed(Box::new(difference(Phase::Verify))));
    assert!(matches!(early, Err(Rejected::WrongPhase { .. })));
}

#[test]
fn rows_that_differ_in_soak_let_the_move_rest_until_somebody_has_looked() {
    let mut world = World::new();
    let id = world.moving(Phase::Soak, MoveOptions::default());
    let owner = world.record("t").owner;
    for times in 1..=cell_model::Move::DIFFERENCES_MAX + 3 {
        world.tell("t", Event::Differed(Box::new(difference(Phase::Soak)))).unwrap();
        let movement = world.record("t").movement.unwrap();
        assert_eq!((movement.phase, movement.intent), (Phase::Soak, Intent::Pause));
        assert_eq!(movement.differences.len(), times.min(cell_model::Move::DIFFERENCES_MAX + 1));
        let late = world.tell("t", Event::Differed(Box::new(difference(Phase::Verify))));
        assert!(matches!(late, Err(Rejected::WrongPhase { .. })), "it was found in another phase");
        let again = world.tell("t", Event::Differed(Box::new(difference(Phase::Soak))));
        assert!(matches!(again, Err(Rejected::NotDue { .. })), "it rests already");
        world.steer(id, MoveIntent::Resume).unwrap();
    }
    assert_eq!(world.record("t").owner, owner, "nothing is decided by it");
    world.advance();
    assert_eq!(world.ended(id).end, End::Completed);
}
