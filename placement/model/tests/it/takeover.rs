//! Forced takeover: who may, when nothing is lost, and what becomes of the old owner's copy.

use cell_model::{
    Attempt, CellId, CellState, Command, CopySight, Effect, End, Envelope, Epoch, Event, Fleet, FleetHead,
    FleetView, Generation, Held, HeldRole, Leg, Life, Lineage, MoveIntent, MoveOptions, Outcome, Phase, Rejected,
    Revision, Seq, Stamp, SyncMode, Tail, TakeoverOrder, UnixMillis, Verdict, holder, judge, pending_effects,
};
use proptest::prelude::*;

use crate::world::*;

fn order(target: &str, applied: u64) -> TakeoverOrder {
    let copy = CopySight {
        generation: Generation(0),
        complete: true,
        applied: Seq(applied),
        heard: Seq(applied + 3),
        ungated: false,
    };
    TakeoverOrder {
        target: cell(target),
        evidence: "the rack has no power".into(),
        accept_data_loss: false,
        stopped: Generation(0),
        copy,
    }
}

fn take_over(order: TakeoverOrder) -> Command {
    Command::TakeOver { tenant: tenant("t"), order }
}

/// In Sync, and the target has had everything up to change 60.
fn in_sync() -> World {
    let mut world = World::new();
    world.moving(Phase::Sync, MoveOptions::default());
    world.tell("t", Event::SyncEngaged).unwrap();
    let attempt = world.attempt("t");
    world.tell("t", Event::InSync { attempt, lineage: Lineage(1), seq: Seq(60) }).unwrap();
    world
}

fn taken(world: &mut World, at: u64) {
    world.tell("t", Event::TakenOver { seq: Seq(at), generation: Generation(0) }).unwrap();
}

fn tail(changes: u64) -> Tail {
    Tail { changes, bytes: changes * 100, last: Seq(60 + changes), whole: true }
}

fn reached(world: &mut World, cell_name: &str, tail: Tail) {
    world.tell_as("t", Event::Quarantined { cell: cell(cell_name), tail }, None).unwrap();
}

#[test]
fn an_owner_lost_in_sync_is_taken_over_at_a_higher_epoch_and_nothing_is_asked_but_evidence() {
    let mut world = in_sync();
    let id = world.movement("t").id;
    world.ok(take_over(order("b", 60)));
    let record = world.record("t");
    assert_eq!((record.owner.clone(), record.epoch), (cell("b"), Epoch(2)));
    let movement = world.movement("t");
    assert_eq!((movement.phase, movement.leg), (Phase::Activate, Leg::Forward));
    let takeover = movement.takeover.unwrap();
    assert!(takeover.lossless && takeover.phase == Phase::Sync && takeover.from == cell("a"));
    assert_eq!(takeover.evidence, "the rack has no power");
    assert_eq!(pending_effects(&record), [Effect::TakeOver { epoch: Epoch(2) }], "nobody waits for the old owner");
    taken(&mut world, 64);
    assert_eq!(world.ended(id).end, End::TakenOver);
    let entry = world.fleet.audit().after(0).find(|entry| entry.action == "take-over").unwrap().clone();
    assert_eq!((entry.outcome.as_str(), entry.subject.as_str()), ("done", "tenant/t"));
    for told in
        ["applied=60", "heard=63", "from=a", "in=sync", "lossless=true", "epoch=2", "stopped=the_rack_has_no_power"]
    {
        assert!(entry.detail.contains(told), "{told} is not in {}", entry.detail);
    }
}

#[test]
fn lossless_is_only_what_the_log_shows() {
    let would_lose = |world: &mut World, applied| {
        let refused = world.refused(take_over(order("b", applied)));
        assert!(matches!(refused, Rejected::WouldLoseData { .. }), "{refused:?}");
        let accepted = TakeoverOrder { accept_data_loss: true, ..order("b", applied) };
        world.ok(take_over(accepted));
        assert!(!world.movement("t").takeover.unwrap().lossless);
    };
    // Engaged, but nobody knows whether what was answered before has arrived.
    let mut world = World::new();
    world.moving(Phase::Sync, MoveOptions::default());
    world.tell("t", Event::SyncEngaged).unwrap();
    would_lose(&mut world, 90);
    // It had everything once, and has less than that now.
    would_lose(&mut in_sync(), 59);
    // Given up since, and caught up again.
    let mut world = in_sync();
    let attempt = world.attempt("t");
    world.tell("t", Event::SyncDegraded { attempt }).unwrap();
    would_lose(&mut world, 90);
    let mut world = in_sync();
    let attempt = world.attempt("t");
    world.tell("t", Event::SyncDegraded { attempt }).unwrap();
    world.tell("t", Event::SyncDisengaged).unwrap();
    world.tell("t", Event::CaughtUp { applied: Seq(80) }).unwrap();
    world.tell("t", Event::SyncEngaged).unwrap();
    assert_eq!(
        world.movement("t").acks.in_sync,
        None,
        "what was known before sync was given up is not known any more"
    );
    would_lose(&mut world, 90);
    // Behind COMMIT the stream goes the other way, and no client waits for it.
    let mut world = World::new();
    world.moving(Phase::Soak, MoveOptions::default());
    let refused = world.refused(take_over(order("a", 90)));
    assert!(matches!(refused, Rejected::WouldLoseData { .. }), "{refused:?}");
}

#[test]
fn nothing_is_lossless_where_writers_come_that_no_gate_has_let_in() {
    let ungated = |accept_data_loss| {
        let order = order("b", 90);
        TakeoverOrder { accept_data_loss, copy: CopySight { ungated: true, ..order.copy }, ..order }
    };
    let mut world = in_sync();
    let refused = world.refused(take_over(ungated(false)));
    assert!(matches!(refused, Rejected::WouldLoseData { .. }), "{refused:?}");
    world.ok(take_over(ungated(true)));
    assert!(!world.movement("t").takeover.unwrap().lossless);
    // The same copy, and nobody else at the owner.
    let mut world = in_sync();
    world.ok(take_over(order("b", 90)));
    assert!(world.movement("t").takeover.unwrap().lossless);
}

#[test]
fn a_hold_and_a_fence_do_not_leave_sync() {
    for phase in [Phase::Hold, Phase::Fenced] {
        let mut world = in_sync();
        while world.phase("t") != phase {
            world.advance();
        }
        world.ok(take_over(order("b", 90)));
        assert!(world.movement("t").takeover.unwrap().lossless, "{phase}");
    }
    let mut world = in_sync();
    let id = world.movement("t").id;
    while world.phase("t") != Phase::Fenced {
        world.advance();
    }
    let attempt = world.attempt("t");
    let not_before = UnixMillis(0);
    world.tell("t", Event::Abort { attempt, reason: "late".into(), not_before }).unwrap();
    world.ok(take_over(order("b", 90)));
    assert_eq!((world.record("t").epoch, world.movement("t").takeover.unwrap().lossless), (Epoch(3), true));
    assert!(
        matches!(world.steer(id, MoveIntent::Cancel), Err(Rejected::MoveEnding { .. })),
        "it cannot be steered"
    );
    let late = world.tell("t", Event::Unfenced { attempt });
    assert!(late.is_err(), "what was under way belongs to an attempt that is over");
}

#[test]
fn who_holds_nothing_whole_takes_nothing_over() {
    let nothing = |refused: Rejected| matches!(refused, Rejected::NothingHeld { .. });
    let mut world = World::new();
    assert!(nothing(world.refused(take_over(order("b", 1)))), "no move");
    for phase in [Phase::Preflight, Phase::Prepare, Phase::Backfill] {
        let mut world = World::new();
        world.moving(phase, MoveOptions::default());
        assert!(nothing(world.refused(take_over(order("b", 1)))), "{phase}");
    }
    let mut world = in_sync();
    assert!(nothing(world.refused(take_over(order("c", 90)))), "the copy is elsewhere");
    assert!(matches!(world.refused(take_over(order("a", 90))), Rejected::SameCell { .. }));
    let partial = CopySight { complete: false, ..order("b", 90).copy };
    let refused =
        world.refused(take_over(TakeoverOrder { copy: partial, accept_data_loss: true, ..order("b", 90) }));
    assert!(nothing(refused), "an incomplete copy");
    let id = world.movement("t").id;
    world.steer(id, MoveIntent::Cancel).unwrap();
    assert!(nothing(world.refused(take_over(order("b", 90)))), "it is being taken away");
    let mut world = World::new();
    let id = world.moving(Phase::Soak, MoveOptions::default());
    while world.record("t").movement.is_some() {
        if world.phase("t") == Phase::Soak {
            world.tell("t", Event::MappingDelivered).unwrap();
        }
        world.advance();
    }
    assert_eq!(world.ended(id).end, End::Completed);
    assert!(nothing(world.refused(take_over(order("a", 90)))), "a retained copy is older than its owner");
    let mut world = in_sync();
    world.ok(take_over(order("b", 90)));
    assert!(nothing(world.refused(take_over(order("a", 90)))), "there is no takeover of a takeover");
}

#[test]
fn evidence_incarnation_residency_and_life_are_asked_for() {
    let mut world = in_sync();
    for words in ["", "  ", "two\nlines", &"x".repeat(257)] {
        let refused = world.refused(take_over(TakeoverOrder { evidence: words.into(), ..order("b", 90) }));
        assert_eq!(refused.code(), "INVALID_OPTION", "{words:?}");
    }
    let other = CopySight { generation: Generation(7), ..order("b", 90).copy };
    let refused = world.refused(take_over(TakeoverOrder { copy: other, ..order("b", 90) }));
    assert_eq!(refused.code(), "STALE_GENERATION");
    let started = TakeoverOrder { stopped: Generation(3), ..order("b", 90) };
    let refused = world.refused(take_over(started));
    assert!(matches!(&refused, Rejected::StaleGeneration { cell: of, .. } if *of == cell("a")), "{refused:?}");
    world.ok(Command::SetCellState { cell: cell("b"), state: CellState::Dead });
    assert_eq!(world.refused(take_over(order("b", 90))).code(), "CELL_DEAD");
    world.ok(Command::SetCellState { cell: cell("b"), state: CellState::Cordoned });
    world.ok(take_over(order("b", 90)));
}

#[test]
fn a_new_owner_that_is_lost_gives_the_tenant_back_to_the_old_one_in_every_phase_behind_commit() {
    for phase in [Phase::Activate, Phase::Soak] {
        let mut world = World::new();
        let id = world.moving(phase, MoveOptions::default());
        let accepted = |at| take_over(TakeoverOrder { accept_data_loss: true, ..order("a", at) });
        world.ok(accepted(90));
        let record = world.record("t");
        assert_eq!((record.owner, record.epoch), (cell("a"), Epoch(3)));
        assert_eq!(world.movement("t").leg, Leg::Back);
        taken(&mut world, 90);
        assert_eq!(world.ended(id).end, End::TakenOver);
        assert_eq!(world.record("t").retained_on(&cell("b")).unwrap().fenced_epoch, Epoch(2));
    }
    // On the way back the old owner follows until COMMIT, and the new one is fenced behind it.
    for (phase, target, epoch) in [(Phase::Hold, "a", 3), (Phase::Fenced, "a", 3), (Phase::Activate, "b", 4)] {
        let mut world = World::new();
        let id = world.moving(Phase::Soak, MoveOptions::default());
        world.tell("t", Event::MappingDelivered).unwrap();
        world.steer(id, MoveIntent::Rollback).unwrap();
        while !(world.phase("t") == phase && world.movement("t").leg == Leg::Back) {
            world.advance();
        }
        world.ok(take_over(TakeoverOrder { accept_data_loss: true, ..order(target, 90) }));
        assert_eq!((world.record("t").owner, world.record("t").epoch), (cell(target), Epoch(epoch)), "{phase}");
    }
}

#[test]
fn the_old_owner_is_told_whenever_it_comes_back_and_nothing_of_it_is_deleted_before_somebody_says_so() {
    let mut world = in_sync();
    world.ok(take_over(order("b", 64)));
    taken(&mut world, 64);
    let id = world.record("t").retained[0].move_id;
    let told = Effect::Quarantine { cell: cell("a"), move_id: id, fenced_epoch: Epoch(1), after: Seq(64) };
    assert_eq!(pending_effects(&world.record("t")), std::slice::from_ref(&told));
    let drop = || Command::DropQuarantine { tenant: tenant("t"), cell: cell("a") };
    assert!(matches!(world.refused(drop()), Rejected::NotReached { .. }));
    world.ok(Command::SetCellState { cell: cell("a"), state: CellState::Dead });
    assert_eq!(pending_effects(&world.record("t")), [told], "dead or not");
    // It is in nobody's way but its own: it follows nobody.
    world.ok(move_to("t", "c", MoveOptions::default()));
    world.tell("t", Event::Admitted).unwrap();
    let other = world.movement("t").id;
    world.steer(other, MoveIntent::Cancel).unwrap();
    world.ok(Command::SetCellState { cell: cell("a"), state: CellState::Active });
    reached(&mut world, "a", tail(3));
    assert!(pending_effects(&world.record("t")).is_empty(), "it waits for an operator");
    let early = world.tell_as("t", Event::RetentionOver { cell: cell("a") }, None);
    assert!(matches!(early, Err(Rejected::TailQuarantined { .. })), "{early:?}");
    assert!(matches!(world.refused(move_to("t", "a", MoveOptions::default())), Rejected::TailQuarantined { .. }));
    reached(&mut world, "a", tail(9));
    assert_eq!(
        world.record("t").retained[0].quarantine.unwrap().tail,
        Some(tail(3)),
        "said again, it changes nothing"
    );
    world.ok(drop());
    assert_eq!(world.apply(drop()).0.result, Ok(Outcome::Unchanged), "dropped once");
    assert!(matches!(pending_effects(&world.record("t"))[..], [Effect::AwaitRetention { .. }]));
    world.tell_as("t", Event::RetentionOver { cell: cell("a") }, None).unwrap();
    assert!(matches!(pending_effects(&world.record("t"))[..], [Effect::Reclaim { fenced_epoch: Epoch(1), .. }]));
    world.tell_as("t", Event::Reclaimed { cell: cell("a") }, None).unwrap();
    assert!(world.record("t").retained.is_empty());
    assert!(matches!(world.refused(drop()), Rejected::NotQuarantined { .. }));
    let trail: Vec<String> = world.fleet.audit().after(0).map(|entry| entry.action.clone()).collect();
    assert!(trail.contains(&"quarantine".to_owned()) && trail.contains(&"drop-quarantine".to_owned()), "{trail:?}");
}

#[test]
fn a_cell_that_is_declared_dead_is_not_waited_for_once_an_operator_lets_go_of_what_it_had() {
    let mut world = in_sync();
    world.ok(take_over(order("b", 64)));
    taken(&mut world, 64);
    world.ok(Command::SetCellState { cell: cell("a"), state: CellState::Dead });
    world.ok(Command::DropQuarantine { tenant: tenant("t"), cell: cell("a") });
    assert!(matches!(pending_effects(&world.record("t"))[..], [Effect::AwaitRetention { .. }]));
    world.tell_as("t", Event::RetentionOver { cell: cell("a") }, None).unwrap();
    world.tell_as("t", Event::Reclaimed { cell: cell("a") }, None).unwrap();
    assert!(world.record("t").retained.is_empty());
}

/// The same state under a higher lineage, as a restore leaves it.
fn restored(world: &mut World) {
    let head = FleetHead { lineage: Lineage(2), ..world.fleet.head().clone() };
    let mut fleet = Fleet::from_head(head);
    world.fleet.records().for_each(|change| fleet.install(change));
    world.fleet = fleet;
}

#[test]
fn what_was_known_of_sync_is_not_known_any_more_after_a_restore() {
    let mut world = in_sync();
    restored(&mut world);
    let refused = world.refused(take_over(order("b", 90)));
    assert!(
        matches!(refused, Rejected::WouldLoseData { .. }),
        "sync may have been given up since the backup: {refused:?}"
    );
    let attempt = world.attempt("t");
    world.tell("t", Event::InSync { attempt, lineage: Lineage(2), seq: Seq(70) }).unwrap();
    assert!(matches!(world.refused(take_over(order("b", 69))), Rejected::WouldLoseData { .. }));
    world.ok(take_over(order("b", 70)));
}

#[test]
fn a_takeover_that_is_in_the_backup_goes_on_after_the_restore_and_the_old_owner_contradicts_nobody() {
    let mut world = in_sync();
    world.ok(take_over(order("b", 64)));
    restored(&mut world);
    let record = world.record("t");
    let id = record.movement.as_ref().unwrap().id;
    let owns = |name: &str, epoch: u64, captures: bool| Held {
        cell: cell(name),
        uid: record.uid,
        epoch: Epoch(epoch),
        role: HeldRole::Owner,
        move_id: id,
        has_copy: true,
        captures,
        sends_to: None,
        sends_as: None,
    };
    let stamp = Stamp { at: UnixMillis(1), revision: Revision(99) };
    // It has been promoted since, and captures for nobody; the other one has not been told.
    for held in [vec![owns("b", 2, false)], vec![owns("a", 1, true), owns("b", 2, false)]] {
        let judged = judge(&world.fleet, &tenant("t"), &held, stamp);
        let Verdict::Adopt { record: next, ended: None, .. } = &judged else { panic!("{judged:?}") };
        let movement = next.movement.as_ref().expect("it goes on");
        assert!(movement.takeover.is_some() && movement.phase == Phase::Activate, "{movement:?}");
        assert_eq!(pending_effects(next), [Effect::TakeOver { epoch: Epoch(2) }]);
    }
}

#[test]
fn a_whole_and_empty_tail_is_an_old_copy_like_any_other_and_one_that_may_lack_changes_is_not() {
    let with = |tail: Tail| {
        let mut world = in_sync();
        world.ok(take_over(order("b", 64)));
        taken(&mut world, 64);
        reached(&mut world, "a", tail);
        pending_effects(&world.record("t"))
    };
    assert!(matches!(with(tail(0))[..], [Effect::AwaitRetention { .. }]));
    assert!(with(Tail { whole: false, ..tail(0) }).is_empty(), "the rows are kept until somebody has looked");
}

#[test]
fn a_tenant_whose_old_owner_is_away_may_be_deleted_and_that_one_is_told_then() {
    let mut world = in_sync();
    world.ok(take_over(order("b", 64)));
    taken(&mut world, 64);
    world.ok(Command::DeleteTenant { tenant: tenant("t") });
    let revoked = |name: &str| Effect::Revoke { cell: cell(name) };
    assert_eq!(pending_effects(&world.record("t")), [revoked("b"), revoked("a")]);
    world.tell_as("t", Event::Revoked { cell: cell("b") }, None).unwrap();
    assert!(matches!(world.record("t").life, Life::Deleting { owner_revoked: true }));
    world.tell_as("t", Event::Revoked { cell: cell("a") }, None).unwrap();
    assert_eq!(world.record("t").life, Life::Deleted);
}

#[test]
fn after_a_restore_an_owner_that_the_record_knows_as_taken_over_contradicts_nobody() {
    let mut world = in_sync();
    world.ok(take_over(order("b", 64)));
    taken(&mut world, 64);
    let record = world.record("t");
    let owns = |name: &str, epoch: u64| Held {
        cell: cell(name),
        uid: record.uid,
        epoch: Epoch(epoch),
        role: HeldRole::Owner,
        move_id: record.retained[0].move_id,
        has_copy: true,
        captures: name == "a",
        sends_to: None,
        sends_as: None,
    };
    let stamp = Stamp { at: UnixMillis(1), revision: Revision(99) };
    let judged = |held: &[Held]| judge(&world.fleet, &tenant("t"), held, stamp);
    assert_eq!(judged(&[owns("a", 1), owns("b", 2)]), Verdict::Confirmed);
    let later = judged(&[owns("a", 3), owns("b", 2)]);
    assert!(matches!(later, Verdict::Contradictory { .. }), "it owns since after the takeover: {later:?}");
}

/// Anything that may happen to a move, in any order.
fn any_event() -> impl Strategy<Value = Event> {
    let seq = (55_u64..66).prop_map(Seq);
    let attempt = (1_u32..5).prop_map(Attempt);
    let generation = Generation(0);
    prop_oneof![
        Just(Event::SyncEngaged),
        (attempt.clone(), seq.clone()).prop_map(|(attempt, seq)| Event::InSync {
            attempt,
            lineage: Lineage(1),
            seq
        }),
        attempt.clone().prop_map(|attempt| Event::SyncDegraded { attempt }),
        Just(Event::SyncDisengaged),
        seq.clone().prop_map(|applied| Event::CaughtUp { applied }),
        Just(Event::ReverseReady { position: Seq(40), generation }),
        Just(Event::HoldDue),
        (attempt.clone(), seq.clone()).prop_map(|(attempt, seq)| Event::Sealed { attempt, seq }),
        attempt.clone().prop_map(|attempt| Event::HoldMissed {
            attempt,
            reason: "late".into(),
            not_before: UnixMillis(0)
        }),
        attempt.prop_map(|attempt| Event::Abort { attempt, reason: "late".into(), not_before: UnixMillis(0) }),
        seq.prop_map(move |seq| Event::TakenOver { seq, generation }),
        Just(Event::Activated { generation }),
        Just(Event::MappingDelivered),
        Just(Event::SoakPassed),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn no_order_of_events_makes_a_takeover_lossless_that_the_log_does_not_show(
        before in prop::collection::vec(any_event(), 0..12),
        applied in 55_u64..66,
        after in prop::collection::vec(any_event(), 0..12),
    ) {
        let mut world = World::new();
        world.moving(Phase::Sync, MoveOptions::default());
        // What the log shows: the change up to which the target had everything, since sync was last engaged.
        let mut shown = None;
        for event in before {
            world.now += 1_000;
            let taken = world.tell("t", event.clone()).is_ok();
            match event {
                Event::InSync { seq, .. } if taken => shown = shown.or(Some(seq)),
                Event::SyncDegraded { .. } if taken => shown = None,
                _ => {}
            }
            if world.record("t").movement.is_none() {
                return Ok(());
            }
        }
        let record = world.record("t");
        let Ok(held) = holder(&record, Lineage(1)) else { return Ok(()) };
        prop_assert_ne!(held.cell, &record.owner);
        let target: CellId = held.cell.clone();
        let lossless = world.apply(take_over(order(target.as_str(), applied))).0.result.is_ok();
        let engaged = record.movement.as_ref().is_some_and(|m| matches!(m.acks.sync, SyncMode::Engaged { .. }));
        let is_shown = shown.is_some_and(|seq| Seq(applied) >= seq) && engaged;
        prop_assert_eq!(lossless, is_shown, "shown {:?}, applied {}", shown, applied);
        if !lossless {
            world.ok(take_over(TakeoverOrder { accept_data_loss: true, ..order(target.as_str(), applied) }));
        }
        let taken = world.record("t");
        prop_assert_eq!((taken.epoch, &taken.owner), (record.epoch.next(), &target));
        // From now on only its own end counts.
        for event in after {
            let ends = matches!(event, Event::TakenOver { .. });
            let result = world.tell("t", event.clone());
            let now = world.record("t");
            prop_assert_eq!((now.epoch, &now.owner), (taken.epoch, &target), "{:?}", event);
            if ends {
                prop_assert!(result.is_ok() && now.movement.is_none());
                break;
            }
            prop_assert!(now.movement.is_some(), "{:?} ended it", event);
        }
    }
}

#[test]
fn a_retry_of_a_takeover_gets_its_first_answer() {
    let mut world = in_sync();
    let envelope = Envelope {
        request_id: Some(cell_model::RequestId(5)),
        ..Envelope::new(UnixMillis(1), take_over(order("b", 90)))
    };
    let first = world.fleet.apply(&envelope).0;
    assert!(first.result.is_ok());
    let fleet: &mut Fleet = &mut world.fleet;
    assert_eq!(fleet.apply(&envelope).0, first);
    assert_eq!(fleet.tenant(&tenant("t")).unwrap().epoch, Epoch(2), "once");
}
