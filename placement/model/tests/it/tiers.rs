//! What a tenant has paid for, changed while it lives: where it is, or together with a move.

use cell_model::{
    CellKind, Command, CopySight, Declaration, Event, Generation, MoveIntent, MoveOptions, Outcome, Phase, Seq,
    TakeoverOrder, Tier, TierChange,
};

use crate::world::{World, cell, move_to, new_tenant, tenant};

fn set(name: &str, tier: Tier) -> Command {
    Command::SetTier { tenant: tenant(name), tier }
}

fn dedicate(world: &mut World, name: &str) {
    let declaration = Declaration { kind: Some(CellKind::Dedicated), ..Declaration::default() };
    world.ok(Command::DeclareCell { cell: cell(name), declaration, only: None });
}

fn with_tier(tier: Tier) -> MoveOptions {
    MoveOptions { tier: Some(tier), ..MoveOptions::default() }
}

#[test]
fn another_tier_is_one_command_and_is_in_the_trail() {
    let mut world = World::new();
    let before = world.record("t");
    assert_eq!(before.tier, Tier::Bronze);
    assert!(matches!(world.ok(set("t", Tier::Gold)), Outcome::Tenant { .. }));
    let after = world.record("t");
    assert_eq!((after.tier, after.rev), (Tier::Gold, before.rev.next()));
    assert_eq!((after.owner, after.epoch), (before.owner, before.epoch), "it stays where it is");
    assert_eq!(after.revision, world.fleet.head().revision);
    let kept = world.fleet.audit().last().unwrap();
    assert_eq!((kept.action.as_str(), kept.detail.as_str()), ("set-tier", "tier=gold before=bronze"));
    assert_eq!(world.ok(set("t", Tier::Gold)), Outcome::Unchanged);
    world.ok(set("t", Tier::Silver));
    assert_eq!(world.record("t").tier, Tier::Silver);
    assert_eq!(world.refused(set("nobody", Tier::Gold)).code(), "TENANT_UNKNOWN");
}

#[test]
fn a_tier_is_not_changed_before_a_tenant_lives_nor_while_it_moves() {
    let mut world = World::new();
    world.ok(new_tenant("u", Some("a")));
    assert_eq!(world.refused(set("u", Tier::Gold)).code(), "TENANT_NOT_LIVE");
    world.ok(move_to("t", "b", MoveOptions::default()));
    assert_eq!(world.refused(set("t", Tier::Gold)).code(), "MOVE_RUNNING");
}

#[test]
fn a_tier_that_the_cell_is_not_for_names_the_move_that_brings_it() {
    let mut world = World::new();
    let refused = world.refused(set("t", Tier::Platinum));
    assert_eq!(refused.code(), "TIER_NEEDS_MOVE");
    assert!(refused.to_string().contains("cell a, which is pooled: nobody is platinum there"), "{refused}");
    assert!(refused.hint().contains("cellctl move tenant t --to CELL --tier platinum"), "{}", refused.hint());
    dedicate(&mut world, "b");
    world.moving(Phase::Soak, with_tier(Tier::Platinum));
    while world.record("t").movement.is_some() {
        world.advance();
    }
    let refused = world.refused(set("t", Tier::Gold));
    assert_eq!(refused.code(), "TIER_NEEDS_MOVE");
    assert!(refused.hint().contains("--tier gold` takes it to a pooled cell"), "{}", refused.hint());
}

#[test]
fn a_tier_that_comes_with_a_move_is_there_with_the_cutover_and_goes_back_with_it() {
    let mut world = World::new();
    assert_eq!(world.refused(move_to("t", "b", with_tier(Tier::Platinum))).code(), "TIER_MISMATCH");
    dedicate(&mut world, "b");
    let id = world.moving(Phase::Fenced, with_tier(Tier::Platinum));
    assert_eq!(world.record("t").tier, Tier::Bronze, "it is still where it was");
    let change = TierChange { source: Tier::Bronze, target: Tier::Platinum };
    assert_eq!(world.movement("t").tiers, Some(change));
    world.advance();
    let there = world.record("t");
    assert_eq!((there.owner, there.tier), (cell("b"), Tier::Platinum));
    let kept = world.fleet.audit().last().unwrap().detail.clone();
    assert!(kept.contains("owner=b") && kept.contains(" tier=platinum "), "{kept}");
    while world.phase("t") != Phase::Soak {
        world.advance();
    }
    world.steer(id, MoveIntent::Rollback).unwrap();
    while world.record("t").movement.is_some() {
        world.advance();
    }
    let back = world.record("t");
    assert_eq!((back.owner, back.tier), (cell("a"), Tier::Bronze));
}

#[test]
fn a_move_that_is_cancelled_and_one_that_changes_nothing_leave_the_tier() {
    let mut world = World::new();
    dedicate(&mut world, "b");
    let id = world.moving(Phase::Sync, with_tier(Tier::Platinum));
    world.steer(id, MoveIntent::Cancel).unwrap();
    while world.record("t").movement.is_some() {
        world.advance();
    }
    let stays = world.record("t");
    assert_eq!((stays.owner, stays.tier), (cell("a"), Tier::Bronze));
    assert_eq!(
        world.ended(id).movement.tier_on(&cell("b")),
        Some(Tier::Platinum),
        "its record says what was wanted"
    );
    world.ok(move_to("t", "c", with_tier(Tier::Bronze)));
    assert_eq!(world.movement("t").tiers, None, "it has that tier");
}

#[test]
fn who_leaves_a_dedicated_cell_is_no_longer_platinum_and_nobody_comes_there_meanwhile() {
    let mut world = World::new();
    dedicate(&mut world, "b");
    world.moving(Phase::Soak, with_tier(Tier::Platinum));
    while world.record("t").movement.is_some() {
        world.advance();
    }
    assert_eq!(world.refused(move_to("t", "a", MoveOptions::default())).code(), "TIER_MISMATCH");
    // What the first move has left behind is gone by then.
    world.now += MoveOptions::default().retain_ms;
    for event in [Event::Retired { cell: cell("a") }, Event::RetentionOver { cell: cell("a") }] {
        world.tell("t", event).unwrap();
    }
    world.tell("t", Event::Reclaimed { cell: cell("a") }).unwrap();
    world.ok(move_to("t", "a", with_tier(Tier::Gold)));
    let platinum = Command::CreateTenant(cell_model::NewTenant {
        id: tenant("p"),
        cell: Some(cell("b")),
        tier: Tier::Platinum,
        residency: String::new(),
    });
    assert_eq!(world.refused(platinum.clone()).code(), "CELL_OCCUPIED");
    while world.phase("t") != Phase::Soak {
        world.advance();
    }
    let there = world.record("t");
    assert_eq!((there.owner, there.tier), (cell("a"), Tier::Gold));
    assert_eq!(world.refused(platinum).code(), "CELL_OCCUPIED", "it may still come back");
}

#[test]
fn a_forced_takeover_brings_the_tier_of_the_cell_that_owns_then() {
    let mut world = World::new();
    dedicate(&mut world, "b");
    world.moving(Phase::Sync, with_tier(Tier::Platinum));
    let copy =
        CopySight { generation: Generation(0), complete: true, applied: Seq(5), heard: Seq(9), ungated: false };
    let order = TakeoverOrder {
        target: cell("b"),
        evidence: "its host is switched off".into(),
        accept_data_loss: true,
        stopped: Generation(0),
        copy,
    };
    world.ok(Command::TakeOver { tenant: tenant("t"), order });
    let taken = world.record("t");
    assert_eq!((taken.owner, taken.tier), (cell("b"), Tier::Platinum));
}
