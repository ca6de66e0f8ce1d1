//! What is declared of cells, and who may be on them because of that.

use cell_model::{
    Capacity, CellKind, CellTraits, Command, Declaration, Event, FleetView, MoveId, MoveIntent, MoveOptions,
    NewTenant, Outcome, Phase, Tier,
};

use crate::world::{World, cell, move_to, new_tenant, tenant};

fn declare(name: &str, declaration: Declaration) -> Command {
    Command::DeclareCell { cell: cell(name), declaration, only: None }
}

fn dedicated(name: &str, only: Option<&str>) -> Command {
    let declaration = Declaration { kind: Some(CellKind::Dedicated), ..Declaration::default() };
    Command::DeclareCell { cell: cell(name), declaration, only: only.map(tenant) }
}

fn pooled(name: &str) -> Command {
    declare(name, Declaration { kind: Some(CellKind::Pooled), ..Declaration::default() })
}

fn platinum(name: &str, on: Option<&str>) -> Command {
    let (id, cell) = (tenant(name), on.map(cell));
    Command::CreateTenant(NewTenant { id, cell, tier: Tier::Platinum, residency: String::new() })
}

#[test]
fn what_is_named_is_declared_and_the_rest_stays() {
    let mut world = World::new();
    let capacity = Capacity { cpu: 16_000, connections: 400_000, storage: 0 };
    let whole = Declaration {
        domain: Some("rack-1".into()),
        capacity: Some(capacity),
        reserve: Some(100),
        region: Some("eu-1".into()),
        ..Declaration::default()
    };
    world.ok(declare("a", whole.clone()));
    world.ok(declare("a", Declaration { reserve: Some(200), ..Declaration::default() }));
    let record = world.fleet.cell(&cell("a")).unwrap();
    let domain = "rack-1".into();
    let traits = CellTraits { kind: CellKind::Pooled, domain, capacity, reserve: 200, ungated: false };
    assert_eq!((&record.traits, record.region.as_str()), (&traits, "eu-1"));
    assert_eq!(
        world.ok(declare("a", Declaration { reserve: Some(200), ..Declaration::default() })),
        Outcome::Unchanged
    );
    let said: Vec<String> = world.fleet.audit().after(0).map(|entry| entry.detail.clone()).collect();
    let first = "domain=rack-1 capacity=cpu:16000m,connections:400000m,storage:0m reserve=100m region=eu-1";
    assert!(said.iter().any(|detail| detail == first), "{said:?}");

    let mut code = |declaration| world.refused(declare("a", declaration)).code();
    let too_much = Capacity { storage: Capacity::MAX + 1, ..Capacity::default() };
    assert_eq!(code(Declaration { reserve: Some(1_000), ..Declaration::default() }), "INVALID_OPTION");
    assert_eq!(code(Declaration { capacity: Some(too_much), ..Declaration::default() }), "INVALID_OPTION");
    for long in [
        Declaration { domain: Some("x".repeat(64)), ..Declaration::default() },
        Declaration { region: Some("x".repeat(64)), ..Declaration::default() },
        Declaration { residency: Some("x".repeat(64)), ..Declaration::default() },
    ] {
        assert_eq!(code(long), "INVALID_OPTION");
    }
    assert_eq!(world.refused(declare("nowhere", whole)).code(), "CELL_UNKNOWN");
}

#[test]
fn a_legal_zone_changes_only_where_nobody_is() {
    let mut world = World::new();
    let zone = |name: &str| Declaration { residency: Some(name.into()), ..Declaration::default() };
    world.ok(declare("a", zone("eu")));
    let refused = world.refused(declare("a", zone("us")));
    assert!(refused.code() == "CELL_IN_USE" && refused.to_string().contains("cell a has 1 tenant:"), "{refused}");
    assert!(refused.hint().contains("cellctl plan drain a"), "{}", refused.hint());
    assert_eq!(world.refused(declare("a", zone(""))).code(), "CELL_IN_USE");
    world.ok(declare("c", zone("us")));
    // A move that is on its way there was asked for with the zone as it was.
    world.ok(move_to("t", "c", MoveOptions::default()));
    let refused = world.refused(declare("c", zone("eu")));
    assert!(refused.code() == "CELL_IN_USE" && refused.to_string().contains("under way"), "{refused}");
}

#[test]
fn a_platinum_tenant_is_beside_nobody() {
    let mut world = World::new();
    assert_eq!(world.refused(platinum("p", Some("b"))).code(), "TIER_MISMATCH");
    let none = world.refused(platinum("p", None));
    assert!(
        none.code() == "NO_ELIGIBLE_CELL" && none.to_string().ends_with(": 3 refused by TIER_MISMATCH"),
        "{none}"
    );
    world.ok(dedicated("b", None));
    world.ok(platinum("p", None));
    world.tell("p", Event::Granted).unwrap();
    assert_eq!(world.record("p").owner, cell("b"));
    for on in ["a", "b"] {
        let refused = world.refused(platinum("q", Some(on)));
        let expected = if on == "b" { "CELL_OCCUPIED" } else { "TIER_MISMATCH" };
        assert_eq!(refused.code(), expected);
        assert!(refused.hint().contains("--kind dedicated"), "{}", refused.hint());
    }
    let bronze = world.refused(new_tenant("u", Some("b")));
    assert!(bronze.code() == "TIER_MISMATCH" && bronze.hint().contains("choose a pooled cell"), "{bronze}");
    assert_eq!(world.refused(move_to("t", "b", MoveOptions::default())).code(), "TIER_MISMATCH");
    let shared = world.refused(move_to("p", "a", MoveOptions::default()));
    assert!(shared.code() == "TIER_MISMATCH" && shared.to_string().contains("would share it"), "{shared}");
    assert_eq!(world.refused(pooled("b")).code(), "CELL_IN_USE");
    // To another dedicated cell it may go, and until it has gone nobody else comes to either.
    world.ok(dedicated("c", None));
    world.ok(move_to("p", "c", MoveOptions::default()));
    assert_eq!(world.refused(platinum("q", Some("c"))).code(), "CELL_OCCUPIED");
    assert_eq!(world.refused(pooled("c")).code(), "CELL_IN_USE");
    let id = world.movement("p").id;
    assert_ne!(id, MoveId(0));
    world.ok(Command::Steer { move_id: id, intent: MoveIntent::Cancel });
    assert!(world.record("p").movement.is_none());
    world.ok(platinum("q", Some("c")));
}

#[test]
fn a_cell_in_use_becomes_dedicated_for_its_only_platinum_tenant_alone() {
    let mut world = World::new();
    assert_eq!(world.refused(dedicated("a", None)).code(), "CELL_IN_USE");
    assert_eq!(world.refused(dedicated("a", Some("t"))).code(), "CELL_IN_USE", "it is bronze");
    // As a fleet of before: a platinum tenant on a cell of which nobody has said anything.
    world.ok(dedicated("b", None));
    world.ok(platinum("p", None));
    let mut record = world.fleet.cell(&cell("b")).unwrap().clone();
    record.traits = CellTraits::default();
    world.fleet.install(cell_model::Change::Cell(record.into()));
    assert_eq!(world.refused(dedicated("b", None)).code(), "CELL_IN_USE");
    world.ok(new_tenant("u", Some("b")));
    assert_eq!(world.refused(dedicated("b", Some("p"))).code(), "CELL_IN_USE", "u is there, too");
    world.ok(Command::DeleteTenant { tenant: tenant("u") });
    world.ok(dedicated("b", Some("p")));
    assert_eq!(world.fleet.cell(&cell("b")).unwrap().traits.kind, CellKind::Dedicated);
}

#[test]
fn who_names_no_cell_comes_to_none_that_is_full() {
    let mut world = World::new();
    let room = |connections| Declaration {
        capacity: Some(Capacity { connections, ..Capacity::default() }),
        ..Declaration::default()
    };
    for (name, connections) in [("a", 1_000), ("b", 1_000), ("c", 2_999)] {
        world.ok(declare(name, room(connections)));
    }
    for name in ["u", "v", "w"] {
        world.ok(new_tenant(name, None));
    }
    assert_eq!(["u", "v", "w"].map(|name| world.record(name).owner), [cell("b"), cell("c"), cell("c")]);
    let full = world.refused(new_tenant("x", None));
    assert!(full.to_string().ends_with(": 3 refused by CAPACITY_EXCEEDED"), "{full}");
    assert!(full.hint().contains("cellctl get cells"), "{}", full.hint());
    world.ok(new_tenant("x", Some("a")));
}

#[test]
fn who_is_on_its_way_takes_room_on_both_cells() {
    let mut world = World::new();
    let room = |connections| Declaration {
        capacity: Some(Capacity { connections, ..Capacity::default() }),
        ..Declaration::default()
    };
    for (name, connections) in [("a", 1_000), ("b", 1_000), ("c", 2_000)] {
        world.ok(declare(name, room(connections)));
    }
    world.ok(move_to("t", "b", MoveOptions::default()));
    for name in ["u", "v"] {
        world.ok(new_tenant(name, None));
        assert_eq!(world.record(name).owner, cell("c"), "t is on a, and will be on b");
    }
    let full = world.refused(new_tenant("x", None));
    assert!(full.to_string().ends_with(": 3 refused by CAPACITY_EXCEEDED"), "{full}");
    let refused = |world: &World| world.fleet.audit().last().unwrap().detail.clone();
    assert!(refused(&world).ends_with(r#"refused="3 CAPACITY_EXCEEDED""#), "{}", refused(&world));
    // Behind the cutover the old copy follows, and takes as much as before.
    while world.phase("t") != Phase::Soak {
        world.advance();
    }
    assert_eq!(world.refused(new_tenant("x", None)).code(), "NO_ELIGIBLE_CELL");
    while world.record("t").movement.is_some() {
        world.advance();
    }
    world.ok(new_tenant("x", None));
    assert_eq!(world.record("x").owner, cell("a"));
}
