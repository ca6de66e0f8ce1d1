//! Cells without a gate: routers hold back what gates would, a hold waits for them, and so does the new owner.

use cell_model::{
    Command, Declaration, End, Event, FleetView, Generation, Hold, MoveIntent, MoveOptions, Phase, UnixMillis,
};

use crate::world::{SEALED, World, cell, move_to};

fn declare(name: &str, declaration: Declaration) -> Command {
    Command::DeclareCell { cell: cell(name), declaration, only: None }
}

fn without_gate(name: &str) -> Command {
    declare(name, Declaration { ungated: Some(true), ..Declaration::default() })
}

fn with_instances(name: &str, instances: &[&str]) -> Command {
    let instances = Some(instances.iter().map(ToString::to_string).collect());
    declare(name, Declaration { instances, ..Declaration::default() })
}

fn hold(world: &World) -> Hold {
    world.record("t").mapping().hold
}

#[test]
fn an_owner_without_a_gate_is_sealed_only_once_routers_hold_back_for_this_hold() {
    let mut world = World::new();
    world.ok(without_gate("a"));
    world.moving(Phase::Hold, MoveOptions::default());
    assert_eq!(hold(&world), Hold::All, "nobody else keeps reads from it");
    let attempt = world.attempt("t");
    let seal = |world: &mut World| {
        let attempt = world.attempt("t");
        world.tell("t", Event::Sealed { attempt, seq: SEALED }).map_err(|refused| refused.code())
    };
    let held = |world: &mut World, attempt| {
        world.tell("t", Event::RoutersHeld { attempt, seen: 3, fenced: 1 }).map_err(|refused| refused.code())
    };
    assert_eq!(seal(&mut world).unwrap_err(), "MISSING_ACK");
    assert_eq!(held(&mut world, cell_model::Attempt(attempt.0 - 1)).unwrap_err(), "STALE_ATTEMPT");
    held(&mut world, attempt).unwrap();
    seal(&mut world).unwrap();

    let missed = Event::HoldMissed { attempt, reason: "late".into(), not_before: UnixMillis(0) };
    world.tell("t", missed).unwrap();
    assert_eq!((world.phase("t"), hold(&world)), (Phase::Sync, Hold::None));
    assert_eq!(held(&mut world, attempt).unwrap_err(), "WRONG_PHASE");
    while world.phase("t") != Phase::Hold {
        world.advance();
    }
    assert_eq!(seal(&mut world).unwrap_err(), "MISSING_ACK", "they have sent writes since");
    let id = world.movement("t").id;
    while world.record("t").movement.is_some() {
        world.advance();
    }
    assert_eq!(world.ended(id).end, End::Completed);
    let mut said = world.fleet.audit().after(0).map(|entry| entry.detail.as_str());
    assert!(
        said.any(|detail| detail.contains("event=Commit") && detail.contains("routers-held=2 routers-fenced=0"))
    );
}

#[test]
fn nobody_waits_for_routers_where_a_gate_is() {
    let mut world = World::new();
    world.moving(Phase::Hold, MoveOptions::default());
    assert_eq!(hold(&world), Hold::Writes);
    let attempt = world.attempt("t");
    world.tell("t", Event::Sealed { attempt, seq: SEALED }).unwrap();
    world.moving_on(Phase::Activate);
    assert_eq!(hold(&world), Hold::None, "the new owner's gate lets them wait");
}

#[test]
fn routers_wait_until_a_new_owner_without_a_gate_may_serve_and_on_the_way_back_it_is_the_one_that_is_left() {
    let mut world = World::new();
    world.ok(without_gate("b"));
    let id = world.moving(Phase::Hold, MoveOptions::default());
    assert_eq!(hold(&world), Hold::Writes, "its owner has a gate");
    world.moving_on(Phase::Activate);
    assert_eq!(hold(&world), Hold::All);
    world.tell("t", Event::Activated { generation: Generation(0) }).unwrap();
    assert_eq!(hold(&world), Hold::None);

    world.tell("t", Event::MappingDelivered).unwrap();
    world.steer(id, MoveIntent::Rollback).unwrap();
    world.moving_on(Phase::Hold);
    assert_eq!(hold(&world), Hold::All);
    let attempt = world.attempt("t");
    assert_eq!(world.tell("t", Event::Sealed { attempt, seq: SEALED }).unwrap_err().code(), "MISSING_ACK");
    world.moving_on(Phase::Activate);
    assert_eq!(hold(&world), Hold::None, "home is a gate");
}

#[test]
fn a_move_stands_on_the_gates_that_there_were_when_it_was_asked_for() {
    let mut world = World::new();
    world.ok(move_to("t", "b", MoveOptions::default()));
    for name in ["a", "b"] {
        let refused = world.refused(without_gate(name));
        assert!(
            refused.code() == "CELL_IN_USE" && refused.to_string().contains("under way: its gate"),
            "{refused}"
        );
        assert!(refused.hint().contains("cellctl get moves"), "{}", refused.hint());
    }
    world.ok(without_gate("c"));
    // Whatever else of it is declared anew.
    world.ok(declare("a", Declaration { reserve: Some(100), ungated: Some(false), ..Declaration::default() }));
}

#[test]
fn where_an_application_without_a_gate_is_its_operator_says_and_its_agent_does_not() {
    let mut world = World::new();
    let refused = world.refused(with_instances("a", &["10.0.0.7:8080"]));
    assert!(refused.code() == "INVALID_OPTION" && refused.to_string().contains("gates"), "{refused}");
    let whole = Declaration {
        ungated: Some(true),
        instances: Some(vec!["10.0.0.7:8080".into(), "10.0.0.8:8080".into()]),
        ..Declaration::default()
    };
    world.ok(declare("a", whole));
    let detail = world.fleet.audit().last().unwrap().detail.clone();
    assert_eq!(detail, "without-gate=true gates=10.0.0.7:8080,10.0.0.8:8080");
    let report = Command::ReportCell {
        cell: cell("a"),
        generation: Generation(4),
        gates: vec!["10.0.0.7:7001".into()],
        agent: "10.0.0.7:7000".into(),
        partial: false,
    };
    world.ok(report.clone());
    let gates = |world: &World| world.fleet.cell(&cell("a")).unwrap().gates.clone();
    assert_eq!(gates(&world), ["10.0.0.7:8080", "10.0.0.8:8080"]);
    assert_eq!(world.refused(with_instances("a", &["nowhere"])).code(), "INVALID_OPTION");
    world.ok(declare("a", Declaration { ungated: Some(false), ..Declaration::default() }));
    assert!(gates(&world).is_empty(), "they are no gates");
    world.ok(report);
    assert_eq!(gates(&world), ["10.0.0.7:7001"]);
}
