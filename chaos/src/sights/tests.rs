use std::time::Duration;

use super::*;

const A: &str = "cell-1";
const B: &str = "cell-2";

fn mapping(owner: &str, epoch: u64, rev: u64) -> wire::Mapping {
    let (tenant, owner) = ("t-1".to_owned(), owner.to_owned());
    wire::Mapping { lineage: 1, tenant, uid: 7, epoch, rev, revision: rev, owner, ..wire::Mapping::default() }
}

fn tenant(owner: &str, epoch: u64, rev: u64, phase: Option<wire::Phase>) -> wire::Tenant {
    let movement = phase.map(|phase| wire::Move {
        id: "m-9".into(),
        source: A.into(),
        target: B.into(),
        leg: wire::Leg::Forward.into(),
        phase: phase.into(),
        attempt: 1,
        sealed_seq: 5,
        ..wire::Move::default()
    });
    let mapping = Some(mapping(owner, epoch, rev));
    wire::Tenant { mapping, life: "live".into(), r#move: movement, ..wire::Tenant::default() }
}

/// What a cell says of the tenant: role, epoch, last change, and what its rows add up to.
fn says(cell: &str, role: wire::Role, epoch: u64, seq: u64, sum: u8) -> (CellId, wire::DescribeResponse) {
    let grant = wire::TenantGrant {
        tenant: "t-1".into(),
        uid: 7,
        epoch,
        role: role.into(),
        hold_id: 3,
        ..wire::TenantGrant::default()
    };
    let storage = wire::TenantStorage {
        tenant: "t-1".into(),
        uid: 7,
        last_seq: seq,
        applied_seq: if role == wire::Role::Importing { seq } else { 0 },
        digest: Some(wire::Digest { rows: 1, sum: vec![sum; 16].into() }),
        move_id: 9,
        has_copy: seq > 0,
        ..wire::TenantStorage::default()
    };
    let said = wire::DescribeResponse {
        cell: cell.into(),
        generation: 1,
        grants: vec![grant],
        storage: vec![storage],
        ..wire::DescribeResponse::default()
    };
    (CellId::new(cell).unwrap(), said)
}

/// So many looks, in each of which two cells serve.
pub(crate) fn two_owners(looks: u64) -> Sights {
    let mut sights = Sights::default();
    for at in 0..looks {
        let cells = vec![says(A, Owner, 1, 5, 5), says(B, Owner, 1, 5, 5)];
        sights.take(Duration::from_millis(at), &Look { tenants: vec![tenant(A, 1, 1, None)], cells });
    }
    sights
}

type Said = (CellId, wire::DescribeResponse);
/// When, and what store and cells said.
type One = (u64, wire::Tenant, Vec<Said>);

fn broken(looks: Vec<One>) -> Vec<&'static str> {
    let mut sights = Sights::default();
    for (at, tenant, cells) in looks {
        sights.take(Duration::from_millis(at), &Look { tenants: vec![tenant], cells });
    }
    assert!(sights.looks() > 0);
    sights.broken().keys().copied().collect()
}

use wire::Role::{Fenced, Holding, Importing, Owner, Redirect};

#[test]
fn a_cutover_as_it_should_be_breaks_nothing() {
    use wire::Phase;
    assert_eq!(
        broken(vec![
            (0, tenant(A, 1, 1, Some(Phase::Sync)), vec![says(A, Owner, 1, 4, 4), says(B, Importing, 1, 3, 3)]),
            (400, tenant(A, 1, 2, Some(Phase::Hold)), vec![says(A, Holding, 1, 5, 5), says(B, Importing, 1, 5, 5)]),
            (
                800,
                tenant(A, 1, 3, Some(Phase::Fenced)),
                vec![says(A, Fenced, 1, 5, 5), says(B, Importing, 1, 5, 5)]
            ),
            (1_200, tenant(B, 2, 4, Some(Phase::Soak)), vec![says(A, Redirect, 2, 5, 5), says(B, Owner, 2, 6, 6)]),
            (1_600, tenant(B, 2, 5, None), vec![says(B, Owner, 2, 9, 9)]),
        ]),
        [""; 0]
    );
}

/// Each promise that looks can judge, seen to be broken.
#[test]
fn each_promise_that_looks_judge_can_be_seen_to_be_broken() {
    use wire::Phase;
    let steady = |at, cells| (at, tenant(A, 1, 1, None), cells);
    let hold = |at: u64, role| (at, tenant(A, 1, 1, Some(Phase::Hold)), vec![says(A, role, 1, 5, 5)]);
    let in_phase = |phase, cells| (0, tenant(A, 1, 1, Some(phase)), cells);
    let cap = u64::from(cell_model::MoveOptions::HOLD_CAP_MS);
    let cases: Vec<(&str, Vec<One>)> = vec![
        ("I1", vec![steady(0, vec![says(A, Owner, 1, 5, 5), says(B, Owner, 1, 5, 5)])]),
        ("I2", vec![steady(0, vec![says(A, Owner, 2, 5, 5)]), steady(1, vec![says(A, Owner, 1, 5, 5)])]),
        ("I3", vec![(0, tenant(B, 2, 1, Some(Phase::Soak)), vec![says(B, Owner, 2, 4, 4)])]),
        ("I4", vec![hold(0, Holding), (1, tenant(A, 1, 2, Some(Phase::Fenced)), vec![says(A, Fenced, 1, 6, 6)])]),
        ("I5", vec![steady(0, vec![says(B, Owner, 1, 5, 5)])]),
        ("I6", vec![in_phase(Phase::Sync, vec![says(A, Owner, 1, 5, 5), says(B, Importing, 1, 5, 6)])]),
        ("I9", vec![hold(0, Holding), hold(cap + 1, Holding)]),
        ("I10", vec![hold(0, Holding), hold(1, Fenced), hold(2, Owner)]),
        ("I12", vec![steady(0, vec![says(A, Owner, 1, 0, 0)])]),
    ];
    assert_eq!(cases.iter().map(|(id, _)| *id).collect::<Vec<_>>(), JUDGED);
    for (id, looks) in cases {
        assert!(broken(looks).contains(&id), "{id}");
    }
}

#[test]
fn what_only_looks_like_a_fault_is_none() {
    use wire::Phase;
    // A cell that starts in the middle of a move shows itself as fenced until it has heard that it owns.
    let asks = |at, role, generation| {
        let (cell, mut said) = says(A, role, 1, 6, 6);
        said.generation = generation;
        (at, tenant(A, 1, 1, Some(Phase::Sync)), vec![(cell, said)])
    };
    assert_eq!(broken(vec![asks(0, Owner, 1), asks(1, Fenced, 2), asks(2, Owner, 2)]), [""; 0]);
    // Another hold is not the same one for longer.
    let cap = u64::from(cell_model::MoveOptions::HOLD_CAP_MS);
    let hold = |at, id| {
        let (cell, mut said) = says(A, Holding, 1, 5, 5);
        said.grants[0].hold_id = id;
        (at, tenant(A, 1, 1, Some(Phase::Hold)), vec![(cell, said)])
    };
    assert_eq!(broken(vec![hold(0, 1), hold(cap * 2, 2)]), [""; 0]);
    // The old owner has not heard of the takeover.
    let mut taken = tenant(B, 2, 2, None);
    taken.retained = vec![wire::Retained {
        cell: A.into(),
        quarantine: Some(wire::Quarantine::default()),
        ..Default::default()
    }];
    assert_eq!(broken(vec![(0, taken, vec![says(A, Owner, 1, 9, 9), says(B, Owner, 2, 5, 5)])]), [""; 0]);
}

#[test]
fn the_page_of_invariants_says_what_looks_and_histories_judge() {
    let page = include_str!("../../../docs/invariants.md");
    let said = |column: usize| {
        let rows = page.lines().filter(|line| line.starts_with("| I"));
        let cells = rows.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
        cells.filter(|cells| cells[column] == "yes").map(|cells| cells[1].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(said(5), JUDGED, "judged by looks at the fleet");
    let mut by_history: Vec<&str> =
        crate::check::FaultKind::ALL.iter().flat_map(|kind| kind.promises()).copied().collect();
    by_history.sort_by_key(|id| id[1..].parse::<u32>().unwrap());
    by_history.dedup();
    assert_eq!(said(6), by_history, "judged by what clients were told");
}
