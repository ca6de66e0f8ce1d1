//! Rules that nothing else here meets: each is seen to refuse, by its own reason. `docs/guards.md` says which is held by which.

use std::sync::Arc;

use cell_model::{
    Acks, Attempt, CellRecord, CellState, Change, Command, CopySight, Difference, Differing, DifferingRow, Digest,
    Event, FleetView, Generation, Intent, MoveId, MoveIntent, MoveOptions, NewCell, Phase, Rejected, Seq, Sight,
    TakeoverOrder, UnixMillis,
};

use crate::world::*;

/// Puts a record in place that no command makes.
fn doctor(world: &mut World, change: impl FnOnce(&mut cell_model::TenantRecord)) {
    let mut record = world.record("t");
    change(&mut record);
    world.fleet.install(Change::Tenant(Arc::new(record)));
}

fn doctor_acks(world: &mut World, change: impl FnOnce(&mut Acks)) {
    doctor(world, |record| change(&mut record.movement.as_mut().unwrap().acks));
}

fn doctor_cell(world: &mut World, name: &str, change: impl FnOnce(&mut CellRecord)) {
    let mut record = world.fleet.cell(&cell(name)).unwrap().clone();
    change(&mut record);
    world.fleet.install(Change::Cell(Arc::new(record)));
}

/// Everything that COMMIT asks for is there.
fn fenced() -> World {
    let mut world = World::new();
    world.moving(Phase::Fenced, MoveOptions::default());
    let attempt = world.attempt("t");
    world.tell("t", Event::Fenced { attempt, seq: SEALED }).unwrap();
    world
}

fn commit(world: &mut World) -> Result<(), Rejected> {
    let attempt = world.attempt("t");
    world.tell("t", Event::Commit { attempt }).map(drop)
}

fn code(refused: Result<impl std::fmt::Debug, Rejected>) -> &'static str {
    refused.expect_err("it is refused").code()
}

#[test]
fn commit_believes_no_record_that_lacks_what_it_stands_on() {
    commit(&mut fenced()).unwrap();
    let refused = |change: fn(&mut Acks)| {
        let mut world = fenced();
        doctor_acks(&mut world, change);
        code(commit(&mut world))
    };
    assert_eq!(refused(|acks| acks.fenced = None), "MISSING_ACK");
    assert_eq!(refused(|acks| acks.applied = None), "MISSING_ACK");
    assert_eq!(refused(|acks| acks.verified = None), "MISSING_ACK");
    assert_eq!(refused(|acks| acks.reverse = None), "MISSING_ACK");
    let old = Attempt(0);
    assert_eq!(old.next(), Attempt(1), "an attempt of this move is later");
    assert_eq!(refused(|acks| acks.sealed.as_mut().unwrap().attempt = Attempt(0)), "STALE_ATTEMPT");
    assert_eq!(refused(|acks| acks.fenced.as_mut().unwrap().attempt = Attempt(0)), "STALE_ATTEMPT");
    assert_eq!(refused(|acks| acks.applied.as_mut().unwrap().attempt = Attempt(0)), "STALE_ATTEMPT");
    assert_eq!(refused(|acks| acks.verified.as_mut().unwrap().attempt = Attempt(0)), "STALE_ATTEMPT");
    assert_eq!(refused(|acks| acks.fenced.as_mut().unwrap().seq = Seq(1)), "ACK_MISMATCH");
    assert_eq!(refused(|acks| acks.applied.as_mut().unwrap().seq = Seq(1)), "ACK_MISMATCH");
    assert_eq!(refused(|acks| acks.verified.as_mut().unwrap().seq = Seq(1)), "ACK_MISMATCH");
    assert_eq!(refused(|acks| acks.applied.as_mut().unwrap().generation = Generation(7)), "STALE_GENERATION");
    assert_eq!(refused(|acks| acks.reverse.as_mut().unwrap().generation = Generation(7)), "STALE_GENERATION");
    let mut world = fenced();
    assert_eq!(code(world.tell("t", Event::Commit { attempt: old })), "STALE_ATTEMPT");
}

#[test]
fn commit_asks_the_fleet_once_more() {
    let mut world = fenced();
    doctor(&mut world, |record| record.residency = "eu".into());
    assert_eq!(code(commit(&mut world)), "RESIDENCY_VIOLATED");
    // Back to a cell that was declared dead meanwhile; under a cordon it is allowed.
    let mut world = World::new();
    let id = world.moving(Phase::Soak, MoveOptions::default());
    world.steer(id, MoveIntent::Rollback).unwrap();
    while world.phase("t") != Phase::Fenced {
        world.advance();
    }
    let attempt = world.attempt("t");
    world.tell("t", Event::Fenced { attempt, seq: SEALED }).unwrap();
    world.ok(Command::SetCellState { cell: cell("a"), state: CellState::Dead });
    assert_eq!(code(commit(&mut world)), "CELL_DEAD");
    world.ok(Command::SetCellState { cell: cell("a"), state: CellState::Cordoned });
    commit(&mut world).unwrap();
}

#[test]
fn a_difference_counts_in_the_phase_in_which_it_was_found() {
    let found = |phase| Difference::of_digests(phase, SEALED, Digest { rows: 2, sum: 1 }, Digest::default());
    let differed = |found: Difference| Event::Differed(Box::new(found));
    let mut world = World::new();
    world.moving(Phase::Backfill, MoveOptions::default());
    assert_eq!(code(world.tell("t", differed(found(Phase::Backfill)))), "WRONG_PHASE");
    let mut world = World::new();
    world.moving(Phase::Verify, MoveOptions::default());
    assert_eq!(code(world.tell("t", differed(found(Phase::Hold)))), "WRONG_PHASE");
    let row = DifferingRow { table: "orders".into(), key: "(7)".into(), differing: Differing::Missing };
    let many = Difference { rows: vec![row; Difference::ROWS_MAX + 1], ..found(Phase::Verify) };
    assert_eq!(code(world.tell("t", differed(many))), "INVALID_OPTION");
    world.tell("t", differed(found(Phase::Verify))).unwrap();
    let mut world = World::new();
    let id = world.moving(Phase::Soak, MoveOptions::default());
    world.steer(id, MoveIntent::Pause).unwrap();
    assert_eq!(code(world.tell("t", differed(found(Phase::Soak)))), "NOT_DUE");
}

#[test]
fn a_hold_stands_on_sync_a_way_back_digests_and_time() {
    let missing = |refused: Result<_, Rejected>| match refused {
        Err(Rejected::MissingAck { ack }) => ack,
        other => panic!("not for want of an acknowledgement: {other:?}"),
    };
    let mut world = World::new();
    world.moving(Phase::Sync, MoveOptions::default());
    let due = |world: &mut World| world.tell("t", Event::HoldDue);
    assert_eq!(missing(due(&mut world)), "SyncEngaged");
    world.tell("t", Event::SyncEngaged).unwrap();
    assert_eq!(missing(due(&mut world)), "ReverseReady");
    world.tell("t", Event::ReverseReady { position: Seq(40), generation: Generation(0) }).unwrap();
    assert!(MoveOptions::default().sync_steady_ms > 0);
    assert_eq!(code(due(&mut world)), "NOT_DUE");
    world.now += u64::from(MoveOptions::default().sync_steady_ms);
    let verified = world.movement("t").acks.verified_full;
    doctor_acks(&mut world, |acks| acks.verified_full = None);
    assert_eq!(missing(due(&mut world)), "FullyVerified");
    doctor_acks(&mut world, |acks| acks.verified_full = verified);
    due(&mut world).unwrap();
}

#[test]
fn in_soak_nothing_is_done_before_it_is_due_or_asked_for() {
    let mut world = World::new();
    let id = world.moving(Phase::Soak, MoveOptions::default());
    assert!(MoveOptions::default().soak_ms > 0);
    assert_eq!(code(world.tell("t", Event::SoakPassed)), "NOT_DUE");
    assert_eq!(code(world.tell("t", Event::HoldDue)), "NOT_DUE");
    // A copy that still follows is not deleted, however late it is.
    world.advance();
    assert!(world.record("t").movement.is_none());
    world.now += 400 * 24 * 3_600_000;
    assert_eq!(code(world.tell("t", Event::RetentionOver { cell: cell("a") })), "MISSING_ACK");
    assert_eq!(code(world.steer(id, MoveIntent::Pause)), "MOVE_ENDING");
}

#[test]
fn what_is_said_out_of_its_phase_is_refused_also_where_it_says_nothing_new() {
    let out_of = |phase: Phase, event: Event| {
        let mut world = World::new();
        world.moving(phase, MoveOptions::default());
        code(world.tell("t", event))
    };
    assert_eq!(out_of(Phase::Prepare, Event::Admitted), "WRONG_PHASE");
    assert_eq!(out_of(Phase::Prepare, Event::Weighed(cell_model::Weight::default())), "WRONG_PHASE");
    let ready = Event::ReverseReady { position: Seq(1), generation: Generation(0) };
    assert_eq!(out_of(Phase::Prepare, ready), "WRONG_PHASE");
    assert_eq!(out_of(Phase::Sync, Event::SyncDisengaged), "WRONG_PHASE");
    assert_eq!(out_of(Phase::Sync, Event::MappingDelivered), "WRONG_PHASE");
    assert_eq!(out_of(Phase::Sync, Event::Counted { stale_rejected: 1 }), "WRONG_PHASE");
    assert_eq!(out_of(Phase::Sync, Event::WritersEnded { count: 1 }), "WRONG_PHASE");
    let taken = Event::TakenOver { seq: Seq(1), generation: Generation(0) };
    assert_eq!(out_of(Phase::Soak, taken), "WRONG_PHASE");
}

#[test]
fn what_belongs_to_an_older_attempt_costs_the_move_nothing() {
    let (old, not_before) = (Attempt(0), UnixMillis(0));
    let mut world = World::new();
    world.moving(Phase::Hold, MoveOptions::default());
    let (attempt, reason) = (world.attempt("t"), String::new);
    assert_eq!(
        code(world.tell("t", Event::HoldMissed { attempt: old, reason: reason(), not_before })),
        "STALE_ATTEMPT"
    );
    world.tell("t", Event::Sealed { attempt, seq: SEALED }).unwrap();
    let applied = Event::Applied { attempt, seq: SEALED, generation: Generation(7) };
    assert_eq!(code(world.tell("t", applied)), "STALE_GENERATION");
    let verified = Event::Verified { attempt, seq: Seq(1), digest: Digest::default() };
    assert_eq!(code(world.tell("t", verified)), "ACK_MISMATCH");
    let mut world = fenced();
    assert_eq!(code(world.tell("t", Event::Abort { attempt: old, reason: reason(), not_before })), "STALE_ATTEMPT");
    commit(&mut world).unwrap();
}

#[test]
fn who_steers_hears_what_is_not_possible_any_more_or_not_yet() {
    let mut world = World::new();
    let id = world.moving(Phase::Sync, MoveOptions::default());
    assert_eq!(code(world.steer(id, MoveIntent::Rollback)), "MOVE_NOT_COMMITTED");
    let mut world = World::new();
    let id = world.moving(Phase::Fenced, MoveOptions::default());
    world.steer(id, MoveIntent::Cancel).unwrap();
    assert_eq!(world.movement("t").intent, Intent::Cancel);
    assert_eq!(code(world.steer(id, MoveIntent::Pause)), "MOVE_ENDING");
}

#[test]
fn a_tenant_that_does_not_live_is_neither_moved_nor_taken_over_and_a_dead_cell_gives_nobody_away() {
    let mut world = World::new();
    world.ok(new_tenant("u", Some("a")));
    assert_eq!(world.refused(move_to("u", "b", MoveOptions::default())).code(), "TENANT_NOT_LIVE");
    let copy =
        CopySight { generation: Generation(0), complete: true, applied: Seq(1), heard: Seq(1), ungated: false };
    let order = |stopped| TakeoverOrder {
        target: cell("b"),
        evidence: "the rack has no power".into(),
        accept_data_loss: true,
        stopped: Generation(stopped),
        copy,
    };
    let forced = Command::TakeOver { tenant: tenant("u"), order: order(0) };
    assert_eq!(world.refused(forced).code(), "TENANT_NOT_LIVE");
    world.moving(Phase::Sync, MoveOptions::default());
    doctor_cell(&mut world, "b", |record| record.residency = "us".into());
    doctor(&mut world, |record| record.residency = "eu".into());
    let forced = Command::TakeOver { tenant: tenant("t"), order: order(0) };
    assert_eq!(world.refused(forced).code(), "RESIDENCY_VIOLATED");
    let mut world = World::new();
    world.ok(Command::SetCellState { cell: cell("a"), state: CellState::Dead });
    assert_eq!(world.refused(move_to("t", "b", MoveOptions::default())).code(), "CELL_DEAD");
    world.ok(Command::SetCellState { cell: cell("b"), state: CellState::Cordoned });
    assert_eq!(world.refused(new_tenant("v", Some("b"))).code(), "CELL_CORDONED");
}

#[test]
fn a_copy_that_was_found_to_differ_takes_nothing_over_before_it_was_found_to_be_alike() {
    let forced = |target: &str| {
        let copy = CopySight {
            generation: Generation(0),
            complete: true,
            applied: Seq(90),
            heard: Seq(90),
            ungated: false,
        };
        let order = TakeoverOrder {
            target: cell(target),
            evidence: "the rack has no power".into(),
            accept_data_loss: true,
            stopped: Generation(0),
            copy,
        };
        Command::TakeOver { tenant: tenant("t"), order }
    };
    let differed = |phase: Phase| {
        let mut world = World::new();
        world.moving(phase, MoveOptions::default());
        let digest = |rows| Digest { rows, sum: 1 };
        let found = Difference::of_digests(phase, Seq(30), digest(3), digest(2));
        world.tell("t", Event::Differed(Box::new(found))).unwrap();
        world
    };
    for phase in [Phase::Verify, Phase::Hold] {
        let mut world = differed(phase);
        while world.movement("t").acks.verified_full.is_none() {
            // Its agent may have been started again, and know nothing of it.
            let refused = world.refused(forced("b"));
            let told = matches!(&refused, Rejected::NothingHeld { reason, .. } if reason.contains("differ"));
            assert!(told, "{refused:?}");
            world.advance();
        }
        world.ok(forced("b"));
    }
    // What was found in soak is of an old owner's rows, of which an operator is told.
    differed(Phase::Soak).ok(forced("a"));
}

#[test]
fn what_grows_with_a_command_has_a_limit() {
    let mut world = World::new();
    let over = |change: fn(&mut MoveOptions)| {
        let mut options = MoveOptions::default();
        change(&mut options);
        move_to("t", "b", options)
    };
    for command in [
        over(|options| options.sync_steady_ms = 600_001),
        over(|options| options.soak_ms = 14 * 24 * 3_600_000 + 1),
        over(|options| options.retain_ms = 365 * 24 * 3_600_000 + 1),
    ] {
        assert_eq!(world.refused(command).code(), "INVALID_OPTION");
    }
    let Command::CreateCell(new) = new_cell("d") else { unreachable!() };
    let gates = vec!["d:8080".to_owned(); 257];
    assert_eq!(world.refused(Command::CreateCell(NewCell { gates, ..new })).code(), "INVALID_OPTION");
    let many = Command::ROUTERS_TOLD_MAX + 1;
    let revision = world.record("t").revision;
    let routers = vec![("edge-1".to_owned(), Sight::Seen); many];
    let saw = Command::RoutersSaw { tenant: tenant("t"), move_id: MoveId(1), revision, routers, crowd: None };
    assert_eq!(world.refused(saw).code(), "INVALID_OPTION");
}
