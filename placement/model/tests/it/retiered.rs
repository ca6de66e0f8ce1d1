//! The tier after a restore: with the backup's own move, with one that was asked for since, and of tenants that were made since.

use cell_model::{
    CellKind, Command, Declaration, Epoch, Held, HeldRole, MoveIntent, MoveOptions, Phase, Tier, Verdict,
};

use crate::reconciling::{adopt, cells_in, held, reconcile, restored};
use crate::world::{World, cell, move_to, tenant};

#[test]
fn a_tier_that_came_with_a_cutover_after_the_backup_is_adopted_with_the_owner() {
    let mut truth = World::new();
    let declaration = Declaration { kind: Some(CellKind::Dedicated), ..Declaration::default() };
    truth.ok(Command::DeclareCell { cell: cell("b"), declaration, only: None });
    truth.moving(Phase::Sync, MoveOptions { tier: Some(Tier::Platinum), ..MoveOptions::default() });
    let mut world = restored(&truth);
    while truth.phase("t") != Phase::Soak {
        truth.advance();
    }
    let known = truth.record("t");
    adopt(&mut world, cells_in(&known, Phase::Soak, false));
    let adopted = world.record("t");
    assert_eq!((adopted.owner, adopted.tier), (cell("b"), Tier::Platinum));
}

#[test]
fn a_rollback_after_a_restore_brings_back_the_tier_that_came_with_the_cutover() {
    use HeldRole::{Fenced, Importing, Owner, Redirect};

    let mut backup = World::new();
    let declaration = Declaration { kind: Some(CellKind::Dedicated), ..Declaration::default() };
    backup.ok(Command::DeclareCell { cell: cell("b"), declaration, only: None });
    backup.moving(Phase::Hold, MoveOptions { tier: Some(Tier::Platinum), ..MoveOptions::default() });
    let known = backup.record("t");
    // COMMIT was decided after the backup: its mapping was handed out, or its owner serves and the other is not told.
    let handed_out = Held { sends_to: Some((cell("b"), Epoch(2))), ..held("a", &known, 1, Redirect) };
    let serves = Held { captures: true, ..held("b", &known, 2, Owner) };
    for said in [vec![handed_out, held("b", &known, 1, Importing)], vec![held("a", &known, 1, Fenced), serves]] {
        let mut world = restored(&backup);
        adopt(&mut world, said.clone());
        assert_eq!(adopt(&mut world, said.clone()), Verdict::Confirmed, "{said:?}");
        reconcile(&mut world);
        let adopted = world.record("t");
        assert_eq!((&adopted.owner, adopted.tier), (&cell("b"), Tier::Platinum), "{said:?}");
        while world.phase("t") != Phase::Soak {
            world.advance();
        }
        let id = world.movement("t").id;
        world.steer(id, MoveIntent::Rollback).unwrap();
        while world.record("t").movement.is_some() {
            world.advance();
        }
        let back = world.record("t");
        assert_eq!((&back.owner, back.tier), (&cell("a"), Tier::Bronze), "{said:?}");
    }
}

/// A world with a dedicated cell b, and what cells hold when a move there with a tier, asked for after the backup, has come to
/// Activate or to Soak: a hands out the mapping of then.
fn asked_for_since() -> (World, Held, World) {
    let mut truth = World::new();
    let declaration = Declaration { kind: Some(CellKind::Dedicated), ..Declaration::default() };
    truth.ok(Command::DeclareCell { cell: cell("b"), declaration, only: None });
    let backup = restored(&truth);
    truth.moving(Phase::Activate, MoveOptions { tier: Some(Tier::Platinum), ..MoveOptions::default() });
    let handed_out = Held {
        sends_to: Some((cell("b"), Epoch(2))),
        sends_as: Some(Tier::Platinum),
        ..held("a", &truth.record("t"), 1, HeldRole::Redirect)
    };
    (truth, handed_out, backup)
}

#[test]
fn a_tier_that_came_with_a_move_asked_for_after_the_backup_is_told_by_the_mapping_that_is_handed_out() {
    let (truth, handed_out, backup) = asked_for_since();
    let known = truth.record("t");
    let serves = Held { captures: true, ..held("b", &known, 2, HeldRole::Owner) };
    for owner in [serves, held("b", &known, 1, HeldRole::Importing)] {
        let mut world = World { fleet: backup.fleet.clone(), now: backup.now };
        let said = vec![handed_out.clone(), owner];
        adopt(&mut world, said.clone());
        let adopted = world.record("t");
        assert_eq!((adopted.owner, adopted.tier), (cell("b"), Tier::Platinum), "{said:?}");
        assert_eq!(adopt(&mut world, said.clone()), Verdict::Confirmed, "{said:?}");
    }
}

#[test]
fn a_rollback_of_a_move_asked_for_after_the_backup_brings_the_tier_back() {
    let (truth, handed_out, mut world) = asked_for_since();
    adopt(&mut world, vec![handed_out, held("b", &truth.record("t"), 1, HeldRole::Importing)]);
    reconcile(&mut world);
    while world.phase("t") != Phase::Soak {
        world.advance();
    }
    let id = world.movement("t").id;
    world.steer(id, MoveIntent::Rollback).unwrap();
    while world.record("t").movement.is_some() {
        world.advance();
    }
    let back = world.record("t");
    assert_eq!((back.owner, back.tier), (cell("a"), Tier::Bronze));
}

#[test]
fn a_tier_that_was_set_after_the_cutover_and_before_the_backup_stays() {
    let (mut truth, handed_out, _) = asked_for_since();
    while truth.record("t").movement.is_some() {
        truth.advance();
    }
    let record = truth.record("t");
    let mut world = restored(&truth);
    let earlier = Held { sends_as: Some(Tier::Silver), ..handed_out };
    adopt(&mut world, vec![earlier, held("b", &record, 2, HeldRole::Owner)]);
    assert_eq!(world.record("t").tier, Tier::Platinum, "the record names that grant itself");
}

#[test]
fn who_was_made_after_the_backup_stays_in_the_legal_zone_of_its_cell() {
    let mut truth = World::new();
    let mut world = restored(&truth);
    truth.add_tenant("late", "c");
    let said = vec![held("c", &truth.record("late"), 1, HeldRole::Owner)];
    world.ok(Command::Adopt { tenant: tenant("late"), held: said });
    let found = world.record("late");
    assert_eq!((&*found.residency, found.tier), ("eu", Tier::Bronze));
    reconcile(&mut world);
    let there = world.refused(move_to("late", "b", MoveOptions::default()));
    assert_eq!(there.code(), "RESIDENCY_VIOLATED");
}
