//! A restore of an older backup: what the cells hold is adopted before anything is moved.

use cell_model::{
    CellState, Change, Command, End, Epoch, Event, Fleet, FleetHead, FleetView, Held, HeldRole, Life, Lineage,
    MoveId, MoveOptions, OVERTAKEN, Phase, Rejected, Revision, TenantRecord, Uid, Verdict, judge, pending_effects,
};

use crate::world::{World, cell, move_to, new_cell, new_tenant, tenant};

/// The control plane as a restore of `backup` makes it.
pub(crate) fn restored(backup: &World) -> World {
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

pub(crate) fn held(name: &str, record: &TenantRecord, epoch: u64, role: HeldRole) -> Held {
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
        sends_as: None,
    }
}

/// What cells hold when a move from a to b has reached `phase`, which `truth` has just entered: before the steps of that
/// phase, or with all of them done.
pub(crate) fn cells_in(truth: &TenantRecord, phase: Phase, is_done: bool) -> Vec<Held> {
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

pub(crate) fn adopt(world: &mut World, held: Vec<Held>) -> Verdict {
    let stamp =
        cell_model::Stamp { at: cell_model::UnixMillis(world.now), revision: world.fleet.head().revision.next() };
    let verdict = judge(&world.fleet, &tenant("t"), &held, stamp);
    world.ok(Command::Adopt { tenant: tenant("t"), held });
    verdict
}

pub(crate) fn reconcile(world: &mut World) {
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
            let is_carried_out = record.movement.as_deref().is_some_and(cell_model::Move::is_committed);
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
    // It was sent on to a cell that the store does not know: whoever makes it may hear it.
    let sent = Held { sends_to: Some((cell("new"), Epoch(2))), ..held("a", &record, 1, HeldRole::Redirect) };
    let refused = world.refused(Command::Adopt { tenant: tenant("t"), held: vec![sent] });
    assert!(refused.to_string().contains("cell new at epoch 2"), "{refused}");
    let unknown = held("elsewhere", &record, 1, HeldRole::Owner);
    let refused = world.refused(Command::Adopt { tenant: tenant("t"), held: vec![unknown] });
    assert_eq!(refused.code(), "CELL_UNKNOWN");
    let many = vec![held("a", &record, 1, HeldRole::Owner); Command::HELD_MAX + 1];
    assert_eq!(world.refused(Command::Adopt { tenant: tenant("t"), held: many }).code(), "INVALID_OPTION");

    let verdict = adopt(&mut world, Vec::new());
    assert!(matches!(verdict, Verdict::Unheld { .. }), "{verdict:?}");
    assert_eq!(world.record("t"), record);
}

/// What comes of the move that is left to be done, with cells that refuse steps older than what they have heard of.
fn settle(world: &mut World, said: &[Held], case: &str) -> TenantRecord {
    assert_eq!(adopt(world, said.to_vec()), Verdict::Confirmed, "{case}: adopted once is adopted");
    reconcile(world);
    for _ in 0..20 {
        let Some(movement) = world.record("t").movement else { break };
        let newest = said.iter().map(|held| held.move_id).max().unwrap();
        assert!(movement.id > newest, "{case}: cells answer STALE_ATTEMPT to {} after {newest}", movement.id);
        world.advance();
    }
    let settled = world.record("t");
    assert_eq!(settled.movement, None, "{case}");
    settled
}

/// The backup is of one move to b; that one has ended, and another to c was under way at the loss.
#[test]
fn a_newer_move_than_the_backups_is_taken_away_by_one_above_both() {
    use HeldRole::{Fenced, Importing, Owner};
    for in_backup in [Phase::Preflight, Phase::Prepare, Phase::Backfill, Phase::Sync, Phase::Hold, Phase::Fenced] {
        let mut backup = World::new();
        let first = backup.moving(in_backup, MoveOptions::default());
        let record = backup.record("t");
        let second = MoveId(first.0 + 10);
        let of_second = |held: Held| Held { move_id: second, ..held };
        let capturing = Held { captures: true, ..of_second(held("a", &record, 1, Owner)) };
        let fenced = Held { captures: true, ..of_second(held("a", &record, 1, Fenced)) };
        let coming = of_second(held("c", &record, 1, Importing));
        for (said, why, phase, target) in [
            (vec![capturing.clone(), coming.clone()], "called-off", Phase::Cleanup, "c"),
            (vec![capturing], "called-off", Phase::Cleanup, "a"),
            (vec![fenced, coming], "given-back", Phase::Unfence, "c"),
        ] {
            let case = format!("backup in {in_backup}, {why}, {} heard", said.len());
            let mut world = restored(&backup);
            let Verdict::Adopt { why: found, .. } = adopt(&mut world, said.clone()) else { panic!("{case}") };
            assert_eq!(found.as_str(), why, "{case}");
            let End::Aborted { code, .. } = world.ended(first).end else { panic!("{case}: aborted") };
            assert_eq!(code, OVERTAKEN);
            let movement = world.movement("t");
            assert_eq!((movement.phase, &movement.target), (phase, &cell(target)), "{case}");
            assert_eq!(movement.acks.import_dropped, target == "a", "{case}: what is copied to is taken away");
            assert!(!movement.acks.capture_stopped, "{case}: the owner keeps nothing for anybody");
            assert_eq!(settle(&mut world, &said, &case).owner, cell("a"), "{case}");
        }
    }
}

#[test]
fn a_move_that_had_cut_over_in_the_backup_and_has_ended_since_is_not_begun_again() {
    for (in_backup, has_copy) in
        [(Phase::Activate, true), (Phase::Activate, false), (Phase::Soak, true), (Phase::Soak, false)]
    {
        let case = format!("backup in {in_backup}, with a copy: {has_copy}");
        let mut backup = World::new();
        let first = backup.moving(in_backup, MoveOptions::default());
        let record = backup.record("t");
        let left = Held { sends_to: Some((cell("b"), Epoch(2))), ..held("a", &record, 1, HeldRole::Redirect) };
        // Every step that ends a move raises its attempt beyond all others: the cells take none of it any more.
        let said = vec![Held { has_copy, ..left }, held("b", &record, 2, HeldRole::Owner)];
        let mut world = restored(&backup);
        let Verdict::Adopt { why, .. } = adopt(&mut world, said.clone()) else { panic!("{case}") };
        assert_eq!(why.as_str(), "copies", "{case}");
        assert_eq!(world.ended(first).end, End::Completed, "{case}");
        let settled = settle(&mut world, &said, &case);
        assert_eq!((&settled.owner, settled.epoch), (&cell("b"), Epoch(2)), "{case}");
        assert_eq!(settled.retained_on(&cell("a")).is_some(), has_copy, "{case}");
    }
}

#[test]
fn a_move_after_the_one_that_had_cut_over_in_the_backup_is_called_off_and_the_first_has_completed() {
    let mut backup = World::new();
    let first = backup.moving(Phase::Soak, MoveOptions::default());
    let record = backup.record("t");
    let second = MoveId(first.0 + 10);
    let left = Held { sends_to: Some((cell("b"), Epoch(2))), ..held("a", &record, 1, HeldRole::Redirect) };
    let owner = Held { captures: true, move_id: second, ..held("b", &record, 2, HeldRole::Owner) };
    let coming = Held { move_id: second, ..held("c", &record, 2, HeldRole::Importing) };
    let said = vec![left.clone(), owner.clone(), coming];
    let mut world = restored(&backup);
    adopt(&mut world, said.clone());
    assert_eq!(world.ended(first).end, End::Completed);
    let settled = settle(&mut world, &said, "soak");
    assert_eq!((&settled.owner, settled.epoch), (&cell("b"), Epoch(2)));
    assert!(settled.retained_on(&cell("a")).is_some(), "the old copy is known");

    // The first has ended in the backup, too: retiring its copy ends no capture of the second.
    while backup.record("t").movement.is_some() {
        backup.advance();
    }
    assert!(!backup.record("t").retained[0].retired);
    let mut world = restored(&backup);
    let said = vec![left, owner];
    adopt(&mut world, said.clone());
    assert_eq!((world.phase("t"), world.movement("t").source), (Phase::Cleanup, cell("b")));
    settle(&mut world, &said, "retained");
}

#[test]
fn a_lost_cell_that_tenants_were_moved_to_is_not_in_the_way() {
    let mut truth = World::new();
    let before = restored(&truth);
    truth.moving(Phase::Soak, MoveOptions::default());
    let after = restored(&truth);
    let record = truth.record("t");
    let said = || vec![Held { sends_to: Some((cell("b"), Epoch(2))), ..held("a", &record, 1, HeldRole::Redirect) }];
    let unheld = |verdict: Verdict| matches!(verdict, Verdict::Unheld { .. });

    let mut world = before;
    let Verdict::Adopt { why, .. } = adopt(&mut world, said()) else { panic!("COMMIT was decided") };
    assert_eq!(why.as_str(), "moved");
    let adopted = world.record("t");
    assert_eq!((&adopted.owner, adopted.epoch, adopted.lineage), (&cell("b"), Epoch(2), Lineage(2)));
    assert!(adopted.retained_on(&cell("a")).is_some(), "the copy that is left is known");
    assert!(unheld(adopt(&mut world, said())), "and nobody serves it until that cell is back");
    assert_eq!(world.record("t"), adopted);

    let mut world = after;
    let stands = world.record("t");
    assert!(unheld(adopt(&mut world, said())), "the record says so already");
    assert_eq!(world.record("t"), stands);

    // Made since, and moved to the lost cell.
    let held: Vec<Held> = said().into_iter().map(|held| Held { uid: Uid(99), ..held }).collect();
    world.ok(Command::Adopt { tenant: tenant("new"), held });
    let made = world.record("new");
    assert_eq!((made.owner, made.epoch, made.uid, made.life), (cell("b"), Epoch(2), Uid(99), Life::Live));
}

#[test]
fn a_rollback_whose_mapping_was_handed_out_before_the_old_owner_was_activated_is_carried_out() {
    for in_backup in [None, Some(Phase::Sync), Some(Phase::Soak)] {
        let (mut backup, mut truth) = (World::new(), World::new());
        let of_backup = in_backup.map(|phase| backup.moving(phase, MoveOptions::default()));
        let id = truth.moving(Phase::Soak, MoveOptions::default());
        let record = truth.record("t");
        let old = Held { sends_to: Some((cell("b"), Epoch(2))), ..held("a", &record, 1, HeldRole::Redirect) };
        let fenced = Held { sends_to: Some((cell("a"), Epoch(3))), ..held("b", &record, 2, HeldRole::Redirect) };
        let mut world = restored(&backup);
        let Verdict::Adopt { why, ended, .. } = adopt(&mut world, vec![old.clone(), fenced.clone()]) else {
            panic!("{in_backup:?}: COMMIT was decided")
        };
        assert_eq!((why.as_str(), ended), ("carried-out", None), "{in_backup:?}");
        let movement = world.movement("t");
        assert_eq!(
            (movement.id, of_backup.unwrap_or(id)),
            (id, id),
            "a follows for that move, and owns for no other"
        );
        assert_eq!((movement.phase, &movement.source, &movement.target), (Phase::Activate, &cell("b"), &cell("a")));
        assert_eq!(adopt(&mut world, vec![old.clone(), fenced.clone()]), Verdict::Confirmed, "{in_backup:?}");
        reconcile(&mut world);
        while world.record("t").movement.is_some() {
            world.advance();
        }
        let settled = world.record("t");
        assert_eq!((&settled.owner, settled.epoch), (&cell("a"), Epoch(3)), "{in_backup:?}");
        assert_eq!(settled.retained_on(&cell("b")).map(|copy| copy.fenced_epoch), Some(Epoch(2)));

        // A tombstone without a copy can own nothing.
        let mut world = restored(&backup);
        let empty = Held { has_copy: false, ..old };
        let refused = world.refused(Command::Adopt { tenant: tenant("t"), held: vec![empty, fenced] });
        assert_eq!(refused.code(), "GRANTS_CONTRADICT", "{in_backup:?}");
    }
}

#[test]
fn what_is_left_of_a_tenant_that_was_made_and_deleted_since_the_backup_is_deleted() {
    let backup = World::new();
    let gone = |name: &str, epoch, role| Held {
        uid: Uid(99),
        has_copy: false,
        ..held(name, &backup.record("t"), epoch, role)
    };
    let deleted = gone("a", 3, HeldRole::Deleted);
    let copy = Held { has_copy: true, ..gone("b", 2, HeldRole::Redirect) };
    for (left, effects) in [
        (vec![deleted.clone(), gone("b", 2, HeldRole::Redirect)], 0),
        (vec![deleted.clone(), copy.clone()], 2),
        (vec![deleted.clone(), copy, gone("c", 2, HeldRole::Importing)], 3),
        (vec![deleted.clone(), Held { has_copy: true, ..gone("b", 3, HeldRole::Deleted) }], 2),
        (vec![Held { has_copy: true, ..deleted }], 1),
    ] {
        let mut world = restored(&backup);
        world.ok(Command::Adopt { tenant: tenant("new"), held: left.clone() });
        let record = world.fleet.tenant(&tenant("new")).cloned();
        assert_eq!(record.as_ref().map_or(0, |record| pending_effects(record).len()), effects, "{left:?}");
        let Some(record) = record else { continue };
        assert_eq!(
            (record.life, record.epoch, record.uid),
            (Life::Deleting { owner_revoked: false }, Epoch(3), Uid(99))
        );
        world.ok(Command::Adopt { tenant: tenant("new"), held: left.clone() });
        assert_eq!(world.record("new"), record, "adopted once is adopted");
        reconcile(&mut world);
        for held in left {
            world.tell("new", Event::Revoked { cell: held.cell }).unwrap();
        }
        assert_eq!(world.record("new").life, Life::Deleted);
    }
}
