//! Bad input to the store, and what keeps a retry from running twice.

use cell_model::{
    Asked, CellState, Command, Crowd, Envelope, Event, Fleet, FleetView, Generation, Limits, MoveId, MoveIntent,
    MoveOptions, NewTenant, Outcome, Phase, Rejected, RequestId, Revision, Sight, StoreAction, StoreNote,
    Suggestion, Tier, UnixMillis,
};

use crate::world::{World, cell, move_to, new_cell, new_tenant, tenant};

#[test]
fn each_bad_move_is_refused_with_its_own_code() {
    let mut world = World::new();
    let options = MoveOptions::default;
    let mut code = |command: Command| world.refused(command).code();
    assert_eq!(code(move_to("nobody", "b", options())), "TENANT_UNKNOWN");
    assert_eq!(code(move_to("t", "nowhere", options())), "CELL_UNKNOWN");
    assert_eq!(code(move_to("t", "a", options())), "SAME_CELL");
    let bad = |change: fn(&mut MoveOptions)| {
        let mut bad = MoveOptions::default();
        change(&mut bad);
        move_to("t", "b", bad)
    };
    assert_eq!(code(bad(|o| o.hold_max_ms = 0)), "INVALID_OPTION");
    assert_eq!(code(bad(|o| o.hold_max_ms = 2_001)), "INVALID_OPTION");
    assert_eq!(code(bad(|o| o.until = Some(Phase::Unfence))), "INVALID_OPTION");
    assert_eq!(code(bad(|o| o.retries = 1_001)), "INVALID_OPTION");
    assert_eq!(code(Command::Steer { move_id: MoveId(77), intent: MoveIntent::Cancel }), "MOVE_UNKNOWN");

    world.ok(Command::SetCellState { cell: cell("b"), state: CellState::Cordoned });
    assert_eq!(world.refused(move_to("t", "b", options())).code(), "CELL_CORDONED");
    world.ok(Command::SetCellState { cell: cell("b"), state: CellState::Dead });
    assert_eq!(world.refused(move_to("t", "b", options())).code(), "CELL_DEAD");
    world.ok(Command::SetCellState { cell: cell("b"), state: CellState::Active });
    world.ok(move_to("t", "b", options()));
    assert_eq!(world.refused(move_to("t", "c", options())).code(), "MOVE_RUNNING");
    assert_eq!(world.refused(Command::DeleteTenant { tenant: tenant("t") }).code(), "MOVE_RUNNING");
}

#[test]
fn every_refusal_has_a_sentence_and_a_next_step() {
    let mut world = World::new();
    for command in [
        move_to("nobody", "b", MoveOptions::default()),
        new_tenant("t", None),
        new_cell("a"),
        new_tenant("u", Some("nowhere")),
        Command::SetLimits(Limits { moves_total: 0, ..Limits::default() }),
    ] {
        let refused = world.refused(command);
        assert!(!refused.to_string().is_empty() && !refused.hint().is_empty());
        assert!(refused.code().chars().all(|c| c.is_ascii_uppercase() || c == '_'));
    }
}

#[test]
fn residency_is_kept_when_placing_and_when_moving() {
    let mut world = World::new();
    let eu = |on: Option<&str>| {
        Command::CreateTenant(NewTenant {
            id: tenant("eu"),
            cell: on.map(cell),
            tier: Tier::Gold,
            residency: "eu".into(),
        })
    };
    assert_eq!(world.refused(eu(Some("a"))).code(), "RESIDENCY_VIOLATED");
    world.ok(eu(None));
    assert_eq!(world.record("eu").owner, cell("c"), "the only cell in its zone");
    world.tell("eu", Event::Granted).unwrap();
    assert_eq!(world.refused(move_to("eu", "a", MoveOptions::default())).code(), "RESIDENCY_VIOLATED");
}

#[test]
fn a_tenant_without_a_wish_goes_where_fewest_are() {
    let mut world = World::new();
    for name in ["u", "v", "w"] {
        world.ok(new_tenant(name, None));
    }
    let owners = ["u", "v", "w"].map(|name| world.record(name).owner.to_string());
    assert_eq!(owners, ["b", "c", "a"]);
}

#[test]
fn a_suggested_cell_is_taken_with_its_reason_unless_it_takes_nobody_by_now() {
    let mut world = World::new();
    let place = |name: &str, on: &str, why: &str| Command::PlaceTenant {
        tenant: NewTenant { id: tenant(name), cell: None, tier: Tier::Gold, residency: String::new() },
        suggestion: Suggestion { cell: cell(on), why: why.into(), explained: "c level=3; b level=5".into() },
    };
    world.ok(place("u", "c", "it has the most room"));
    let placed = world.record("u");
    assert_eq!((placed.owner, &*placed.placed), (cell("c"), "it has the most room"));
    world.ok(Command::SetCellState { cell: cell("c"), state: CellState::Cordoned });
    world.ok(place("v", "c", "it has the most room"));
    let placed = world.record("v");
    assert!(placed.owner != cell("c") && placed.placed.contains("fewest tenants"), "{placed:?}");
    world.ok(place("w", "nowhere", ""));
    let long = "x".repeat(Suggestion::WHY_MAX + 1);
    assert_eq!(world.refused(place("x", "a", &long)).code(), "INVALID_OPTION");
    let named = Command::PlaceTenant {
        tenant: NewTenant { id: tenant("y"), cell: Some(cell("a")), tier: Tier::Gold, residency: String::new() },
        suggestion: Suggestion { cell: cell("b"), why: "it has the most room".into(), explained: String::new() },
    };
    world.ok(named);
    let placed = world.record("y");
    assert_eq!((placed.owner, &*placed.placed), (cell("a"), ""), "who names a cell gets it");
}

#[test]
fn a_retry_with_the_same_id_runs_once_and_hears_the_first_answer() {
    let mut fleet = Fleet::new(cell_model::ClusterId(1), cell_model::Lineage(1));
    let envelope = |at: u64, id: u128| Envelope {
        request_id: Some(RequestId(id)),
        ..Envelope::new(UnixMillis(at), new_cell("a"))
    };
    let (first, changes) = fleet.apply(&envelope(0, 1));
    assert_eq!((first.revision, changes.len()), (Revision(1), 1));
    let (again, changes) = fleet.apply(&envelope(60_000, 1));
    assert_eq!((again, changes.len()), (first.clone(), 0));
    let (other, _) = fleet.apply(&envelope(0, 2));
    assert!(matches!(other.result, Err(Rejected::CellExists { .. })));
    // Kept for at least ten minutes, and through a snapshot, but not for ever.
    let mut restored = Fleet::from_head(fleet.head().clone());
    fleet.records().for_each(|change| restored.install(change));
    fleet.audit().after(0).for_each(|entry| restored.restore_audit(entry.as_ref().clone()).unwrap());
    assert_eq!(restored, fleet);
    assert_eq!(restored.apply(&envelope(600_000, 1)).0, first);
    // A clock that jumps by a day forgets nothing,
    let late = 24 * 3_600_000;
    fleet.apply(&envelope(late, 3));
    assert_eq!(fleet.apply(&envelope(late, 1)).0, first);
    // however much comes behind it,
    let most = u64::try_from(Fleet::ANSWERS_MIN).unwrap();
    (4..4 + most).for_each(|id| drop(fleet.apply(&envelope(late, id.into()))));
    assert_eq!(fleet.apply(&envelope(late, 1)).0, first);
    assert_eq!(fleet.head().forgotten, None);
    // but what is old is forgotten when there is enough that is younger.
    let seconds = Fleet::ANSWERS_KEPT_MS / 1_000 + 1;
    (0..seconds).for_each(|second| {
        drop(fleet.apply(&envelope(late + second * 1_000, (4 + most + second).into())));
    });
    assert!(!fleet.head().answered.iter().any(|answered| answered.id == RequestId(1)));
    let forgotten = fleet.head().forgotten.expect("that is how far back nothing is known any more");
    assert!(
        forgotten.at <= UnixMillis(late) && forgotten.passed_ms < fleet.head().aging.passed_ms,
        "{forgotten:?}"
    );
}

#[test]
fn an_id_that_was_given_to_another_command_or_by_somebody_else_is_refused_and_that_is_told() {
    let mut fleet = Fleet::new(cell_model::ClusterId(1), cell_model::Lineage(1));
    let named = |asked: u8, name: &str| Envelope {
        request_id: Some(RequestId(1)),
        asked: Some(Asked([asked; 16])),
        actor: format!("operator/{asked}"),
        ..Envelope::new(UnixMillis(1), new_cell(name))
    };
    let first = fleet.apply(&named(1, "a")).0;
    let before = fleet.audit().last_number();
    let (reused, changes) = fleet.apply(&named(2, "b"));
    assert_eq!(reused.result, Err(Rejected::RequestIdReused { id: RequestId(1) }));
    assert!(changes.is_empty() && fleet.cell(&cell("b")).is_none());
    let told = fleet.audit().last().unwrap();
    assert_eq!(
        (told.number, told.outcome.as_str(), told.actor.as_str()),
        (before + 1, "REQUEST_ID_REUSED", "operator/2")
    );
    assert_eq!(fleet.apply(&named(1, "a")).0, first, "the first one keeps its answer");
    // A log of before has no fingerprints.
    let unsaid = Envelope { asked: None, ..named(2, "b") };
    assert_eq!(fleet.apply(&unsaid).0, first);
}

#[test]
fn a_retry_whose_answer_may_be_forgotten_is_not_run_again() {
    let mut fleet = Fleet::new(cell_model::ClusterId(1), cell_model::Lineage(1));
    let named = |id: usize, at: u64| Envelope {
        request_id: Some(RequestId(id.try_into().unwrap())),
        ..Envelope::new(UnixMillis(at), Command::SetLimits(Limits::default()))
    };
    // More than are remembered, all within a minute: the first ones are forgotten.
    for id in 0..Fleet::ANSWERS_MAX + 10 {
        fleet.apply(&named(id, 1_000 + id as u64 / 10_000));
    }
    assert_eq!(fleet.head().answered.len(), Fleet::ANSWERS_MAX);
    assert_eq!(fleet.head().forgotten.map(|forgotten| forgotten.at), Some(UnixMillis(1_000)));
    let retry = |id: usize, tried: u64| Envelope { first_tried: Some(UnixMillis(tried)), ..named(id, 1_030) };
    let refused = fleet.apply(&retry(3, 999)).0.result.unwrap_err();
    assert_eq!(refused.code(), "REQUEST_TOO_OLD");
    assert!(refused.hint().contains("look whether it ran"), "{}", refused.hint());
    // One that was tried since has not run where nothing is remembered of it; one that is remembered is answered.
    assert!(fleet.apply(&retry(Fleet::ANSWERS_MAX + 50, 1_021)).0.result.is_ok());
    assert!(fleet.apply(&retry(Fleet::ANSWERS_MAX + 5, 999)).0.result.is_ok());
    // What is tried for the first time has not run before.
    assert!(fleet.apply(&named(3, 1_030)).0.result.is_ok());
}

#[test]
fn limits_are_changed_only_where_they_are_what_was_read() {
    let mut world = World::new();
    let envelope = |expected, total| Envelope {
        expected_revision: Some(expected),
        ..Envelope::new(UnixMillis(1), Command::SetLimits(Limits { moves_total: total, ..Limits::default() }))
    };
    world.ok(Command::SetLimits(Limits { moves_total: 3, ..Limits::default() }));
    let read = world.fleet.limits_revision();
    assert_eq!(read, world.fleet.head().revision);
    assert!(world.fleet.apply(&envelope(read, 4)).0.result.is_ok());
    let stale = world.fleet.apply(&envelope(read, 5)).0.result;
    assert!(matches!(stale, Err(Rejected::StaleRevision { .. })), "{stale:?}");
}

#[test]
fn of_many_routers_those_that_had_not_seen_it_are_named_and_all_are_counted() {
    let mut world = World::new();
    let all: Vec<(String, Sight)> = (0..200)
        .map(|number| (format!("router-{number:03}"), if number % 50 == 7 { Sight::Waiting } else { Sight::Seen }))
        .collect();
    let crowd = Crowd::of(&all);
    let mut routers = all.clone();
    routers.sort_by_key(|(_, sight)| *sight == Sight::Seen);
    routers.truncate(Command::ROUTERS_TOLD_MAX);
    let (move_id, revision) = (MoveId(9), Revision(9));
    world.ok(Command::RoutersSaw { tenant: tenant("t"), move_id, revision, routers, crowd: Some(crowd) });
    let told = world.fleet.audit().last().unwrap().detail.clone();
    assert!(told.contains(" seen=196 fenced=0 waiting=4 digest="), "{told}");
    for number in [7, 57, 107, 157] {
        assert!(told.contains(&format!(" router-{number:03}=waiting")), "{told}");
    }
    let named = told.matches("router-").count();
    assert!(told.ends_with(&format!(" unnamed={}", 200 - named)) && told.len() <= 512, "{told}");
    // In whatever order they were heard of.
    let reversed: Vec<_> = all.into_iter().rev().collect();
    assert_eq!(Crowd::of(&reversed), crowd);
}

#[test]
fn what_is_done_to_the_store_is_told_with_its_outcome_and_changes_nothing() {
    let mut world = World::new();
    let note = |outcome: &str, detail: &str| {
        Command::Noted(StoreNote {
            action: StoreAction::RemoveMember,
            subject: "node/10.0.0.1:7401".into(),
            detail: detail.into(),
            outcome: outcome.into(),
        })
    };
    let revision = world.fleet.head().revision;
    for outcome in ["asked", "QUORUM_AT_RISK", "done"] {
        world.ok(note(outcome, "node-id=7"));
        let told = world.fleet.audit().last().unwrap();
        assert_eq!((told.action.as_str(), told.outcome.as_str()), ("remove-member", outcome));
        assert_eq!((told.subject.as_str(), told.detail.as_str()), ("node/10.0.0.1:7401", "node-id=7"));
    }
    assert_eq!(world.fleet.head().revision, revision);
    assert_eq!(world.refused(note("done", &"x".repeat(StoreNote::BYTES_MAX))).code(), "INVALID_OPTION");
}

#[test]
fn a_command_that_expects_another_revision_is_refused() {
    let mut world = World::new();
    let revision = world.record("t").revision;
    let envelope = |expected| Envelope {
        expected_revision: Some(expected),
        ..Envelope::new(UnixMillis(world.now), move_to("t", "b", MoveOptions::default()))
    };
    let stale = envelope(Revision(revision.0 - 1));
    let fitting = envelope(revision);
    assert!(matches!(world.fleet.apply(&stale).0.result, Err(Rejected::StaleRevision { .. })));
    assert!(world.fleet.apply(&fitting).0.result.is_ok());
}

#[test]
fn an_agent_that_was_replaced_cannot_point_routers_back_to_itself() {
    let mut world = World::new();
    let report = |generation| Command::ReportCell {
        partial: false,
        cell: cell("a"),
        generation: Generation(generation),
        gates: vec![format!("a{generation}:80")],
        agent: "a:7000".into(),
    };
    world.ok(report(2));
    assert!(matches!(world.refused(report(1)), Rejected::StaleGeneration { .. }));
    let revision = world.fleet.head().revision;
    assert_eq!(world.ok(report(2)), Outcome::Unchanged, "said again, nothing is replicated");
    assert_eq!(world.fleet.head().revision, revision);
}

#[test]
fn an_agent_that_has_just_started_does_not_take_away_gates_that_are_still_coming() {
    let mut world = World::new();
    let report = |gates: &[&str], partial| Command::ReportCell {
        cell: cell("a"),
        generation: Generation(3),
        gates: gates.iter().map(ToString::to_string).collect(),
        agent: "a:7000".into(),
        partial,
    };
    let gates = |world: &World| world.fleet.cell(&cell("a")).unwrap().gates.clone();
    world.ok(report(&["a1:80", "a2:80"], false));
    world.ok(report(&[], true));
    assert_eq!(gates(&world), ["a1:80", "a2:80"]);
    world.ok(report(&["a2:80", "a3:80"], true));
    assert_eq!(gates(&world), ["a1:80", "a2:80", "a3:80"]);
    world.ok(report(&["a2:80", "a3:80"], false));
    assert_eq!(gates(&world), ["a2:80", "a3:80"], "those that have not come in time are gone");
}

#[test]
fn no_more_moves_run_at_once_than_the_limits_allow() {
    let mut world = World::new();
    world.ok(Command::SetLimits(Limits { moves_total: 2, moves_per_cell: 1, moves_queued: 3 }));
    world.add_tenant("u", "a");
    world.add_tenant("v", "c");
    world.add_tenant("w", "c");
    world.ok(move_to("t", "b", MoveOptions::default()));
    world.ok(move_to("u", "b", MoveOptions::default()));
    world.ok(move_to("v", "b", MoveOptions::default()));
    assert_eq!(world.refused(move_to("w", "b", MoveOptions::default())).code(), "MOVE_LIMIT");
    world.tell("t", Event::Admitted).unwrap();
    assert!(matches!(world.tell("u", Event::Admitted), Err(Rejected::NoSlot { cell: Some(_), .. })));
    world.ok(Command::SetLimits(Limits { moves_total: 1, moves_per_cell: 9, moves_queued: 3 }));
    assert!(matches!(world.tell("u", Event::Admitted), Err(Rejected::NoSlot { cell: None, .. })));
    let id = world.movement("t").id;
    world.steer(id, MoveIntent::Cancel).unwrap();
    world.tell("u", Event::Admitted).unwrap();
}

#[test]
fn an_endpoint_that_is_none_is_refused() {
    let mut world = World::new();
    for bad in ["", "host", "host:", ":80", "host:0", "host:99999"] {
        let Command::CreateCell(mut new) = new_cell("d") else { unreachable!() };
        new.agent = bad.into();
        assert_eq!(world.refused(Command::CreateCell(new)).code(), "INVALID_OPTION", "{bad:?}");
    }
    assert!(world.fleet.cell(&cell("d")).is_none());
}

#[test]
fn an_explanation_and_a_reason_have_limits() {
    let mut world = World::new();
    let endless = Command::PlaceTenant {
        tenant: NewTenant { id: tenant("z"), cell: None, tier: Tier::Gold, residency: String::new() },
        suggestion: Suggestion {
            cell: cell("b"),
            why: String::new(),
            explained: "x".repeat(Suggestion::EXPLAINED_MAX + 1),
        },
    };
    assert_eq!(world.refused(endless).code(), "INVALID_OPTION");
    for reason in ["x".repeat(MoveOptions::REASON_MAX + 1), "a\nb".into()] {
        let options = MoveOptions { reason, ..MoveOptions::default() };
        let move_it = Command::MoveTenant { tenant: tenant("t"), target: cell("b"), options };
        assert_eq!(world.refused(move_it).code(), "INVALID_OPTION");
    }
}

#[test]
fn the_audit_trail_keeps_why_a_tenant_was_placed_and_why_it_was_moved() {
    let mut world = World::new();
    let place = |name: &str, on: &str| Command::PlaceTenant {
        tenant: NewTenant { id: tenant(name), cell: None, tier: Tier::Gold, residency: String::new() },
        suggestion: Suggestion {
            cell: cell(on),
            why: "most room".into(),
            explained: "a level=3; b level=5".into(),
        },
    };
    let kept = |world: &World| world.fleet.audit().last().unwrap().detail.clone();
    world.ok(place("u", "a"));
    assert!(kept(&world).ends_with(r#"why="most room" explained="a level=3; b level=5""#), "{}", kept(&world));
    world.ok(Command::SetCellState { cell: cell("a"), state: CellState::Cordoned });
    world.ok(place("v", "a"));
    let otherwise = kept(&world);
    assert!(otherwise.contains("cell=b") && otherwise.contains("fewest tenants"), "{otherwise}");
    assert!(!otherwise.contains("explained"), "the suggestion was not followed: {otherwise}");
    let options = MoveOptions { reason: "plan: hot".into(), ..MoveOptions::default() };
    world.ok(Command::MoveTenant { tenant: tenant("t"), target: cell("b"), options });
    assert!(kept(&world).ends_with(r#"reason="plan: hot""#), "{}", kept(&world));
    let movement = world.fleet.tenant(&tenant("t")).unwrap().movement.clone().unwrap();
    assert_eq!(&*movement.reason, "plan: hot", "the move says it, too");
}
