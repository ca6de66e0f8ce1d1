//! A restore of an older backup: what the cells hold is adopted before anything is moved.

use cell_model::{
    CellState, Change, Command, End, Epoch, Fleet, FleetHead, FleetView, Held, HeldRole, Life, Lineage, MoveId,
    MoveOptions, OVERTAKEN, Phase, Rejected, Revision, TenantRecord, Uid, Verdict, judge, pending_effects,
};

use crate::world::{World, cell, move_to, new_cell, new_tenant, tenant};

/// The control plane as a restore of `backup` makes it.
fn restored(backup: &World) -> World {
    let old = backup.fleet.head();
    let head = FleetHead {
        lineage: Lineage(old.lineage.0 + 1),
        revision: Revision(old.revision.0 + (1 << 32)),
        ..old.clone()
    };
    let mut fleet = Fleet::from_head(head);
    backup.fleet.records().for_each(|record| fleet.install(record));
    fleet.install(Change::Reconciled(false));
    World { fleet, now: backup.now + 60_000 }
}

fn held(name: &str, record: &TenantRecord, epoch: u64, role: HeldRole) -> Held {
    let move_id = record.movement.as_ref().map_or(MoveId(0), |movement| movement.id);
    Held {
        cell: cell(name),
        uid: record.uid,
        epoch: Epoch(epoch),
        role,
        move_id,
        has_copy: true,
        captures: false,
        sends_to: None,
    }
}

/// What cells hold when a move from a to b has reached `phase`, which `truth` has just entered: before the steps of that
/// phase, or with all of them done.
fn cells_in(truth: &TenantRecord, phase: Phase, is_done: bool) -> Vec<Held> {
    use HeldRole::{Fenced, Importing, Owner, Redirect};
    let owner = |captures| Held { captures, ..held("a", truth, 1, Owner) };
    let importing = held("b", truth, 1, Importing);
    let redirect = Held { sends_to: Some((cell("b"), Epoch(2))), ..held("a", truth, 1, Redirect) };
    let new_owner = Held { captures: true, ..held("b", truth, 2, Owner) };
    match (phase, is_done) {
        (Phase::Preflight, _) | (Phase::Prepare, false) => vec![owner(false)],
        (Phase::Fenced, true) | (Phase::Activate, false) => vec![held("a", truth, 1, Fenced), importing],
        (Phase::Activate, true) | (Phase::Soak, _) => vec![redirect, new_owner],
        (Phase::Unfence | Phase::Cleanup, _) => unreachable!("the move goes well"),
        _ => vec![owner(true), importing],
    }
}

fn adopt(world: &mut World, held: Vec<Held>) -> Verdict {
    let stamp =
        cell_model::Stamp { at: cell_model::UnixMillis(world.now), revision: world.fleet.head().revision.next() };
    let verdict = judge(&world.fleet, &tenant("t"), &held, stamp);
    world.ok(Command::Adopt { tenant: tenant("t"), held });
    verdict
}

fn reconcile(world: &mut World) {
    let heard = ["a", "b", "c"].map(cell).to_vec();
    world.ok(Command::Reconciled { heard, without: Vec::new() });
}

#[test]
fn nothing_is_made_moved_or_deleted_before_the_cells_were_heard() {
    let mut world = restored(&World::new());
    let commands = [
        move_to("t", "b", MoveOptions::default()),
        new_tenant("u", Some("a")),
        Command::DeleteTenant { tenant: tenant("t") },
    ];
    for command in &commands {
        let refused = world.refused(command.clone());
        assert_eq!((refused.code(), refused), ("NOT_RECONCILED", Rejected::NotReconciled { lineage: Lineage(2) }));
    }
    world.ok(Command::SetCellState { cell: cell("c"), state: CellState::Cordoned });
    let only = vec![cell("a"), cell("c")];
    let silent = world.refused(Command::Reconciled { heard: only.clone(), without: Vec::new() });
    assert_eq!(silent, Rejected::CellNotHeard { cell: cell("b") });
    world.ok(new_cell("d"));
    let late = world.refused(Command::Reconciled { heard: only.clone(), without: vec![cell("b")] });
    assert_eq!(late, Rejected::CellNotHeard { cell: cell("d") }, "also a cell that has come meanwhile");
    world.ok(Command::Reconciled { heard: only, without: vec![cell("b"), cell("d")] });
    assert!(!world.fleet.unreconciled());
    world.ok(commands[0].clone());
    let late = world.refused(Command::Adopt { tenant: tenant("t"), held: Vec::new() });
    assert_eq!(late.code(), "NOT_DUE");
}

/// Whatever phase the backup is of, and however far the move has come since.
#[test]
fn from_every_phase_to_every_phase_the_cell_that_serves_goes_on_and_what_was_half_done_ends() {
    let phases: Vec<Phase> =
        Phase::ALL.into_iter().filter(|phase| !matches!(phase, Phase::Unfence | Phase::Cleanup)).collect();
    let mut cases = 0;
    for (first, in_backup) in std::iter::once(None).chain(phases.iter().copied().map(Some)).enumerate() {
        for now in phases.iter().skip(first.saturating_sub(1)) {
            for is_done in [false, true] {
                let mut backup = World::new();
                let mut truth = World::new();
                if let Some(phase) = in_backup {
                    backup.moving(phase, MoveOptions::default());
                }
                truth.moving(*now, MoveOptions::default());
                let said = cells_in(&truth.record("t"), *now, is_done);
                goes_on(restored(&backup), &said, &format!("backup {in_backup:?}, now {now}, done {is_done}"));
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 2 * (10 + 55), "none before the move, and each pair of phases in order");
}

fn goes_on(mut world: World, said: &[Held], case: &str) {
    let verdict = adopt(&mut world, said.to_vec());
    assert!(matches!(verdict, Verdict::Confirmed | Verdict::Adopt { .. }), "{case}: {verdict:?}");
    let record = world.record("t");
    let again = adopt(&mut world, said.to_vec());
    assert_eq!(again, Verdict::Confirmed, "{case}: adopted once is adopted");
    let serves = said.iter().find(|held| held.role == HeldRole::Owner);
    let fenced = said.iter().find(|held| held.role == HeldRole::Fenced);
    match (serves, fenced) {
        (Some(owner), _) => assert_eq!((&record.owner, record.epoch), (&owner.cell, owner.epoch), "{case}"),
        (None, Some(fenced)) => {
            let above = record.epoch > fenced.epoch;
            assert!(above, "{case}: who was fenced serves under a higher epoch only, or the other one does");
            let is_carried_out = record.movement.as_ref().is_some_and(cell_model::Move::is_committed);
            assert_eq!(record.owner == fenced.cell, !is_carried_out, "{case}");
        }
        (None, None) => unreachable!("somebody always holds it"),
    }
    reconcile(&mut world);
    // Whatever is left to do is taken, and comes to an end.
    for _ in 0..20 {
        let record = world.record("t");
        let Some(movement) = &record.movement else { break };
        assert!(!pending_effects(&record).is_empty(), "{case}: something is to be done in {}", movement.phase);
        assert!(movement.attempt.0 >= 2 << 16, "{case}: above what cells have heard of");
        world.advance();
    }
    let settled = world.record("t");
    assert_eq!((&settled.movement, &settled.owner), (&None, &record.owner), "{case}");
    if settled.epoch.0 > 1 && settled.owner == cell("b") {
        assert!(settled.retained_on(&cell("a")).is_some(), "{case}: the old copy is known");
    }
}

#[test]
fn a_backup_from_before_a_move_gets_the_new_owner_and_the_copy_that_was_left() {
    let backup = World::new();
    let mut truth = World::new();
    truth.moving(Phase::Soak, MoveOptions::default());
    let mut world = restored(&backup);
    let said = cells_in(&truth.record("t"), Phase::Soak, true);
    let Verdict::Adopt { why, ended, .. } = adopt(&mut world, said) else { panic!("it is adopted") };
    assert_eq!((why.as_str(), ended), ("moved", None));
    let record = world.record("t");
    assert_eq!((record.owner, record.epoch, record.lineage), (cell("b"), Epoch(2), Lineage(2)));
    let copy = &record.retained[0];
    assert_eq!((&copy.cell, &copy.successor, copy.fenced_epoch), (&cell("a"), &cell("b"), Epoch(1)));
    let mapping = world.record("t").mapping();
    let old = truth.record("t").mapping();
    assert!(mapping.fencing() > old.fencing(), "no router takes what it had for newer");
}

#[test]
fn a_backup_from_within_a_move_that_has_ended_since_tells_how_it_ended() {
    let mut backup = World::new();
    let id = backup.moving(Phase::Sync, MoveOptions::default());
    let mut truth = World::new();
    truth.moving(Phase::Soak, MoveOptions::default());
    let mut world = restored(&backup);
    adopt(&mut world, cells_in(&truth.record("t"), Phase::Soak, true));
    assert_eq!(world.ended(id).end, End::Completed);

    // It was given up instead, and the tenant stayed.
    let mut world = restored(&backup);
    let stayed = held("a", &backup.record("t"), 1, HeldRole::Owner);
    adopt(&mut world, vec![stayed]);
    reconcile(&mut world);
    world.advance();
    let End::Aborted { code, .. } = world.ended(id).end else { panic!("aborted") };
    assert_eq!(code, OVERTAKEN);
}

#[test]
fn a_tenant_that_was_made_deleted_or_made_again_since_the_backup_is_what_the_cells_say() {
    let backup = World::new();
    let record = backup.record("t");
    let mut world = restored(&backup);
    let made = Held { uid: Uid(99), ..held("c", &record, 1, HeldRole::Owner) };
    world.ok(Command::Adopt { tenant: tenant("new"), held: vec![made.clone()] });
    let new = world.record("new");
    assert_eq!((new.owner, new.uid, new.life), (cell("c"), Uid(99), Life::Live));

    let deleted = held("a", &record, 2, HeldRole::Deleted);
    adopt(&mut world, vec![deleted]);
    assert_eq!(world.record("t").life, Life::Deleting { owner_revoked: false });
    assert_eq!(world.record("t").epoch, Epoch(2));
    assert_eq!(pending_effects(&world.record("t")).len(), 1);

    let mut world = restored(&backup);
    adopt(&mut world, vec![held("a", &record, 2, HeldRole::Deleted), made]);
    let again = world.record("t");
    assert_eq!((again.owner, again.uid, again.epoch, again.life), (cell("c"), Uid(99), Epoch(1), Life::Live));
}

#[test]
fn what_contradicts_itself_is_refused_and_what_nobody_holds_is_left_alone() {
    let backup = World::new();
    let record = backup.record("t");
    let mut world = restored(&backup);
    let both = vec![held("a", &record, 1, HeldRole::Owner), held("b", &record, 2, HeldRole::Owner)];
    let refused = world.refused(Command::Adopt { tenant: tenant("t"), held: both });
    assert_eq!(refused.code(), "GRANTS_CONTRADICT");
    // It was sent on to a cell that has not spoken.
    let sent = Held { sends_to: Some((cell("b"), Epoch(2))), ..held("a", &record, 1, HeldRole::Redirect) };
    let refused = world.refused(Command::Adopt { tenant: tenant("t"), held: vec![sent] });
    assert!(refused.to_string().contains("cell b at epoch 2"), "{refused}");
    let unknown = held("elsewhere", &record, 1, HeldRole::Owner);
    let refused = world.refused(Command::Adopt { tenant: tenant("t"), held: vec![unknown] });
    assert_eq!(refused.code(), "CELL_UNKNOWN");
    let many = vec![held("a", &record, 1, HeldRole::Owner); Command::HELD_MAX + 1];
    assert_eq!(world.refused(Command::Adopt { tenant: tenant("t"), held: many }).code(), "INVALID_OPTION");

    let verdict = adopt(&mut world, Vec::new());
    assert!(matches!(verdict, Verdict::Unheld { .. }), "{verdict:?}");
    assert_eq!(world.record("t"), record);
}
