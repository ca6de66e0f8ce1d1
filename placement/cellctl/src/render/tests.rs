//! What is printed, word by word.

use super::*;
use crate::view::{CellView, MoveView, TenantView};
use cell_client::wire;

fn movement() -> wire::Move {
    let stamp = |phase: wire::Phase, at_unix_ms, revision| wire::PhaseStamp {
        phase: phase.into(),
        attempt: 1,
        at_unix_ms,
        revision,
    };
    wire::Move {
        id: "m-42".into(),
        tenant: "acme".into(),
        uid: 7,
        source: "c1".into(),
        target: "c2".into(),
        leg: wire::Leg::Forward.into(),
        phase: wire::Phase::CatchUp.into(),
        attempt: 1,
        intent: wire::Intent::Run.into(),
        admitted: true,
        hold_max_ms: 500,
        soak_ms: 10_000,
        retain_ms: 3_600_000,
        retries_left: 10,
        epoch: 3,
        history: vec![
            stamp(wire::Phase::Preflight, 1_700_000_000_000, 42),
            stamp(wire::Phase::CatchUp, 1_700_000_001_250, 45),
        ],
        ..wire::Move::default()
    }
}

fn tenant() -> wire::Tenant {
    wire::Tenant {
        mapping: Some(wire::Mapping {
            tenant: "acme".into(),
            uid: 7,
            epoch: 3,
            rev: 9,
            revision: 45,
            state: wire::MappingState::Migrating.into(),
            owner: "c1".into(),
            peer: "c2".into(),
            hold: wire::Hold::None.into(),
            tier: wire::Tier::Gold.into(),
            ..wire::Mapping::default()
        }),
        residency: "eu".into(),
        r#move: Some(movement()),
        retained: Vec::new(),
        placed: String::new(),
        life: "live".into(),
    }
}

fn cell(id: &str) -> CellView {
    CellView::from(wire::Cell {
        id: id.into(),
        state: wire::CellState::Cordoned.into(),
        gates: vec!["h:1".into(), "h:2".into()],
        agent: "h:3".into(),
        generation: 4,
        ..wire::Cell::default()
    })
}

#[test]
fn a_table_of_tenants() {
    let printed = list(&[TenantView::from(tenant())], Output::Table, true);
    assert_eq!(
        printed,
        "TENANT   STATE       CELL   EPOCH   TIER   RESIDENCY   MOVE\n\
         acme     MIGRATING   c1     3       gold   eu          m-42 catch-up ↔ c2\n"
    );
}

#[test]
fn a_table_without_column_names() {
    let printed = list(&[cell("c1"), cell("cell-02")], Output::Table, false);
    assert_eq!(
        printed,
        "c1        cordoned   pooled   h:3   h:1,h:2   -   -   -   -   4\n\
         cell-02   cordoned   pooled   h:3   h:1,h:2   -   -   -   -   4\n"
    );
}

#[test]
fn what_is_declared_of_a_cell_is_shown() {
    let declared = CellView::from(wire::Cell {
        id: "c1".into(),
        state: wire::CellState::Active.into(),
        kind: wire::CellKind::Dedicated.into(),
        domain: "rack-1".into(),
        capacity: Some(wire::Capacity { cpu: 16_500, connections: 0, storage: 800_000 }),
        reserve: 100,
        ..wire::Cell::default()
    });
    let printed = list(std::slice::from_ref(&declared), Output::Table, false);
    assert_eq!(printed, "c1   active   dedicated   -   -   -   -   rack-1   cpu=16.5,storage=800   0\n");
    let described = describe_cell(&declared, 1);
    assert!(described.contains("Capacity:      cpu=16.5,storage=800, 10 % in reserve\n"), "{described}");
    let document: serde_json::Value = serde_json::from_str(&list(&[declared], Output::Json, true)).unwrap();
    let cell = &document["items"][0];
    assert_eq!((&cell["cellKind"], &cell["reserve"]), (&"dedicated".into(), &0.1.into()));
    assert_eq!((&cell["capacity"]["cpu"], cell["capacity"]["connections"].is_null()), (&16.5.into(), true));
}

#[test]
fn a_cell_without_a_gate_and_a_move_from_one_say_on_which_fence_they_stand() {
    let ungated = CellView::from(wire::Cell { ungated: true, gates: vec!["h:1".into()], ..wire::Cell::default() });
    let described = describe_cell(&ungated, 1);
    assert!(described.contains("Application:   h:1\n"), "{described}");
    assert!(described.contains("Without gate:  its database fences, routers hold back\n"), "{described}");
    let document = |cell: CellView| list(&[cell], Output::Json, true).contains("\"ungated\"");
    assert!(document(ungated) && !document(cell("c1")));
    let held = wire::RoutersHeld { seen: 3, fenced: 1 };
    let of = |source_ungated, routers_held| {
        describe_move(&MoveView::from(wire::Move { source_ungated, routers_held, ..movement() }))
    };
    let described = of(true, Some(held));
    let line = "Without gate:  c1: its database fences, routers hold back; routers: 3 held back, 1 had no lease\n";
    assert!(described.contains(line), "{described}");
    assert!(!of(false, None).contains("Without gate"));
}

#[test]
fn names_only() {
    assert_eq!(list(&[MoveView::from(movement())], Output::Name, true), "move/m-42\n");
    assert_eq!(list::<CellView>(&[], Output::Name, true), "");
}

#[test]
fn json_says_what_it_is() {
    let printed = list(&[TenantView::from(tenant())], Output::Json, true);
    let document: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&document["apiVersion"], &document["kind"]), (&"cellway.dev/v1".into(), &"TenantList".into()));
    let first = &document["items"][0];
    assert_eq!(
        (&first["tenant"], &first["epoch"], &first["state"]),
        (&"acme".into(), &3.into(), &"MIGRATING".into())
    );
    assert_eq!(first["move"]["phase"], "catch-up");

    let printed = one(&cell("c1"), Output::Json, |_| unreachable!("JSON was asked for"));
    let document: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        (&document["kind"], &document["cell"], &document["gates"][1]),
        (&"Cell".into(), &"c1".into(), &"h:2".into())
    );
}

#[test]
fn a_move_says_in_which_rows_its_copy_has_differed() {
    let row = |key: &str, differing: &str| wire::DifferingRow {
        table: "orders".into(),
        key: key.into(),
        differing: differing.into(),
    };
    let found = wire::Difference {
        phase: wire::Phase::Verify.into(),
        seq: 812,
        missing: 1,
        changed: 4,
        rows: vec![row("(7)", "missing"), row("(9)", "changed")],
        ..wire::Difference::default()
    };
    let in_hold = wire::Difference {
        phase: wire::Phase::Hold.into(),
        seq: 900,
        owner: "3:aa".into(),
        copy: "3:bb".into(),
        ..wire::Difference::default()
    };
    let of = |end_code: &str, differences: Vec<wire::Difference>| {
        let moved = wire::Move { end_code: end_code.into(), differences, ..movement() };
        describe_move(&MoveView::from(moved))
    };
    let rows = "1 rows missing, 0 extra, 4 changed: orders(7) missing, orders(9) changed and 3 more";
    let mended = of("", vec![in_hold.clone(), found.clone()]);
    assert!(mended.contains("Differed:      hold at change 900: owner 3:aa, copy 3:bb\n"), "{mended}");
    assert!(mended.contains(&format!("Differed:      verify at change 812: {rows}; copied anew\n")), "{mended}");
    let left = of("DIGEST_MISMATCH", vec![found]);
    assert!(left.contains(&format!("Differed:      verify at change 812: {rows}\n")), "{left}");
}

#[test]
fn a_move_is_described_with_its_history() {
    let printed = describe_move(&MoveView::from(movement()));
    let expected = "\
Move:          m-42
Tenant:        acme
From:          c1
To:            c2
Status:        running
Phase:         catch-up
Attempt:       1
Epoch:         3
Hold budget:   500ms
Soak:          10s
Retention:     1h
Retries left:  10
History
    PHASE       ATTEMPT   ENTERED                    TOOK       REVISION
    preflight   1         2023-11-14T22:13:20.000Z   1s 250ms   42
    catch-up    1         2023-11-14T22:13:21.250Z   …          45
";
    assert_eq!(printed, expected);
}

#[test]
fn an_ended_move_says_how_and_why() {
    let ended = wire::Move {
        end: "aborted".into(),
        end_code: "CAPTURE_OVERFLOW".into(),
        end_reason: "the target was too slow".into(),
        ended_unix_ms: 1_700_000_002_000,
        ..movement()
    };
    let view = MoveView::from(ended);
    assert_eq!(view.row()[4..6], ["aborted", "-"]);
    let printed = describe_move(&view);
    assert!(
        printed.contains("Status:        aborted\nReason:        CAPTURE_OVERFLOW: the target was too slow\n"),
        "{printed}"
    );
}

#[test]
fn the_status_follows_what_the_operator_wants() {
    let of = |intent: wire::Intent, admitted| {
        MoveView::from(wire::Move { intent: intent.into(), admitted, ..movement() }).status
    };
    assert_eq!(of(wire::Intent::Run, false), "waiting");
    assert_eq!(of(wire::Intent::Pause, true), "paused");
    assert_eq!(of(wire::Intent::Cancel, true), "cancelling");
    assert_eq!(of(wire::Intent::Rollback, true), "rolling-back");
}

#[test]
fn a_tenant_with_an_old_copy_says_until_when_it_is_kept() {
    let mut wired = tenant();
    wired.retained.push(wire::Retained {
        cell: "c3".into(),
        move_id: "m-30".into(),
        fenced_epoch: 2,
        until_unix_ms: 1_700_000_000_000,
        ..wire::Retained::default()
    });
    let printed = describe_tenant(&TenantView::from(wired));
    assert!(
        printed
            .contains("Old copy:      c3 (left by m-30, fenced at epoch 2), kept until 2023-11-14T22:13:20.000Z\n"),
        "{printed}"
    );
    assert!(printed.contains("\nMove:          m-42\n"), "{printed}");
}

#[test]
fn a_number_that_is_not_known_is_shown_as_such() {
    let view = MoveView::from(wire::Move { phase: 99, ..movement() });
    assert_eq!(view.phase, "unknown(99)");
}
