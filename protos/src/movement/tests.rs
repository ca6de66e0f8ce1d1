use cell_model::{
    Acks, Attempt, CellId, Difference, Differing, DifferingRow, Digest, Epoch, Intent, Leg, Lineage, MappingState,
    MoveId, Phase, Rev, Revision, RoutersAck, SealedAck, Seq, TenantId, Tier, Uid, Ungated, UnixMillis,
    VerifiedAck,
};

use super::*;

fn difference() -> Difference {
    let digest = |sum| Digest { rows: 5, sum };
    let found = Difference::of_digests(Phase::Verify, Seq(11), digest(255), digest(254));
    let row = DifferingRow { table: "orders".into(), key: "(7)".into(), differing: Differing::Changed };
    Difference { changed: 1, rows: vec![row], ..found }
}

fn movement() -> Move {
    Move {
        id: MoveId(41),
        source: CellId::new("c1").unwrap(),
        target: CellId::new("c2").unwrap(),
        leg: Leg::Forward,
        phase: Phase::Hold,
        attempt: Attempt(3),
        intent: Intent::Run,
        until: None,
        rehearse: true,
        bytes_per_second: 4_096,
        weight: Some(cell_model::Weight { rows: 5, bytes: 500 }),
        admitted: true,
        hold_max_ms: 500,
        sync_steady_ms: 600,
        soak_ms: 700,
        retain_ms: 800,
        retries_left: 9,
        not_before: UnixMillis(0),
        acks: Acks {
            sealed: Some(SealedAck { attempt: Attempt(3), seq: Seq(12) }),
            verified: Some(VerifiedAck { attempt: Attempt(3), seq: Seq(12), digest: Digest { rows: 5, sum: 255 } }),
            routers: Some(RoutersAck { attempt: Attempt(3), seen: 4, fenced: 1 }),
            ..Acks::default()
        },
        fenced_epoch: None,
        stale_rejected: None,
        takeover: None,
        reason: "hot".into(),
        tiers: Some(TierChange { source: Tier::Bronze, target: Tier::Platinum }),
        differences: vec![difference()],
        terminate_writers: true,
        ended_writers: 2,
        ungated: Ungated { source: true, target: false },
        exact: true,
        ending: None,
        history: vec![PhaseStamp {
            phase: Phase::Hold,
            attempt: Attempt(3),
            at: UnixMillis(1_000),
            revision: Revision(50),
        }],
    }
}

fn tenant() -> TenantRecord {
    TenantRecord {
        id: TenantId::new("t-1").unwrap(),
        uid: Uid(7),
        lineage: Lineage(1),
        epoch: Epoch(2),
        rev: Rev(30),
        revision: Revision(50),
        owner: CellId::new("c1").unwrap(),
        life: Life::Live,
        tier: Tier::Bronze,
        residency: "eu".into(),
        movement: Some(Box::new(movement())),
        retained: vec![Retained {
            cell: CellId::new("c3").unwrap(),
            move_id: MoveId(20),
            successor: CellId::new("c1").unwrap(),
            fenced_epoch: Epoch(1),
            until: UnixMillis(99),
            retired: true,
            reclaiming: false,
            quarantine: None,
        }],
        placed: "".into(),
    }
}

#[test]
fn a_tenant_shows_its_mapping_its_move_and_its_copies() {
    let wire = v1::Tenant::from(&tenant());
    assert_eq!(wire.life, "live");
    assert_eq!(wire.residency, "eu");
    let mapping = cell_model::Mapping::try_from(wire.mapping.unwrap()).unwrap();
    assert_eq!((mapping.state, mapping.peer), (MappingState::Migrating, Some(CellId::new("c2").unwrap())));
    assert_eq!(wire.retained[0].move_id, "m-20");
    let movement = wire.r#move.unwrap();
    assert_eq!((movement.id.as_str(), movement.tenant.as_str(), movement.uid), ("m-41", "t-1", 7));
    assert_eq!((movement.phase(), movement.attempt, movement.epoch), (v1::Phase::Hold, 3, 2));
    assert_eq!((movement.hold_max_ms, movement.sync_steady_ms), (500, 600));
    assert_eq!((movement.soak_ms, movement.retain_ms), (700, 800));
    assert_eq!(movement.sealed_seq, 12);
    assert_eq!(movement.digest, format!("5:{:032x}", 255));
    assert_eq!(movement.history.len(), 1);
    let tiers = movement.tiers.unwrap();
    assert_eq!((tiers.source(), tiers.target()), (v1::Tier::Bronze, v1::Tier::Platinum));
    assert!(!movement.has_ended());
    assert_eq!((movement.source_ungated, movement.target_ungated), (true, false));
    assert_eq!(movement.routers_held, Some(v1::RoutersHeld { seen: 4, fenced: 1 }));
    let found = &movement.differences[0];
    assert_eq!((found.phase(), found.seq, found.changed, found.more), (v1::Phase::Verify, 11, 1, false));
    assert_eq!((found.owner.clone(), found.copy.clone()), (format!("5:{:032x}", 255), format!("5:{:032x}", 254)));
    let row = &found.rows[0];
    assert_eq!((row.table.as_str(), row.key.as_str(), row.differing.as_str()), ("orders", "(7)", "changed"));
}

#[test]
fn an_ended_move_says_how_and_why() {
    let record = MoveRecord {
        tenant: TenantId::new("t-1").unwrap(),
        uid: Uid(7),
        movement: movement(),
        end: End::Aborted { code: "MISMATCH".into(), reason: "a row differs".into() },
        epoch: Epoch(2),
        ended: UnixMillis(2_000),
        revision: Revision(60),
    };
    let wire = v1::Move::from(&record);
    assert!(wire.has_ended());
    assert_eq!((wire.end.as_str(), wire.end_code.as_str()), ("aborted", "MISMATCH"));
    assert_eq!((wire.end_reason.as_str(), wire.ended_unix_ms, wire.revision), ("a row differs", 2_000, 60));
    let completed = v1::Move::from(&MoveRecord { end: End::Completed, ..record });
    assert_eq!((completed.end.as_str(), completed.end_code.as_str()), ("completed", ""));
}

#[test]
fn a_takeover_and_what_it_has_left_are_shown() {
    let takeover = Takeover {
        evidence: "the rack has no power".into(),
        from: CellId::new("c1").unwrap(),
        phase: Phase::Sync,
        lossless: true,
        applied: Seq(12),
        heard: Seq(14),
    };
    let tail = Tail { changes: 2, bytes: 99, last: Seq(15), whole: true };
    let quarantine = Quarantine { after: Seq(13), tail: Some(tail), dropped: false };
    let mut record = tenant();
    record.movement.as_mut().unwrap().takeover = Some(takeover);
    record.retained[0].quarantine = Some(quarantine);
    let wire = v1::Tenant::from(&record);
    let shown = wire.r#move.unwrap().takeover.unwrap();
    assert_eq!(
        (shown.evidence.as_str(), shown.from.as_str(), shown.phase()),
        ("the rack has no power", "c1", v1::Phase::Sync)
    );
    assert_eq!((shown.lossless, shown.applied_seq, shown.heard_seq), (true, 12, 14));
    let kept = wire.retained[0].quarantine.unwrap();
    assert_eq!((kept.after_seq, kept.dropped, kept.tail.map(Tail::from)), (13, false, Some(tail)));
}

#[test]
fn a_tenant_without_a_move_has_none() {
    let record = TenantRecord { movement: None, ..tenant() };
    assert_eq!(v1::Tenant::from(&record).r#move, None);
}
