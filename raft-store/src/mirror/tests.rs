//! What a restart reads is what was applied.

use cell_model::{
    CellId, CellTraits, ClusterId, Command, Limits, Lineage, NewCell, NewTenant, TenantId, Tier, UnixMillis,
};
use proptest::prelude::*;

use super::series::key;
use super::*;
use crate::engine::{LazyState, MemoryState, SledState};
use crate::wire::WireLogId;

fn in_memory() -> (Arc<dyn StateEngine>, Depot) {
    (Arc::new(MemoryState::default()), Depot::Memory(Arc::default()))
}

fn on_disk(directory: &std::path::Path) -> (Arc<dyn StateEngine>, Depot) {
    let engine = LazyState::new(SledState::open(directory.join("sm")).unwrap()).unwrap();
    (Arc::new(engine), Depot::open_directory(&directory.join("snapshot")).unwrap())
}

fn applied(index: u64) -> WireHead {
    WireHead { applied: Some(WireLogId { term: 1, node: 1, index }), ..WireHead::default() }
}

/// Makes a snapshot the current one.
fn put(depot: &Depot, head: &WireHead, fleet: &Fleet) {
    depot.adopt(&depot.write(head, &fleet.image()).unwrap()).unwrap();
}

fn command(choice: u8, number: u8) -> Command {
    let cell = CellId::new(format!("c{}", number % 8)).unwrap();
    let tenant = TenantId::new(format!("t{}", number % 32)).unwrap();
    match choice % 5 {
        0 => Command::CreateCell(NewCell {
            id: cell,
            gates: vec!["127.0.0.1:1".into()],
            agent: "127.0.0.1:2".into(),
            region: String::new(),
            residency: String::new(),
            traits: CellTraits::default(),
        }),
        1 => Command::SetLimits(Limits { moves_total: u32::from(number) + 1, ..Limits::default() }),
        2 => Command::DeleteTenant { tenant },
        _ => {
            let (residency, tier) = (String::new(), Tier::Gold);
            Command::CreateTenant(NewTenant { id: tenant, cell: Some(cell), tier, residency })
        }
    }
}

/// Applies `steps` with many a reload and snapshot between them, and holds the mirror against the fleet.
fn check((engine, depot): (Arc<dyn StateEngine>, Depot), steps: &[(u8, u8, Option<u8>, u32)]) {
    let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
    let mut head = WireHead::default();
    let mut at = 0;
    let (mut mirror, _) = Mirror::open(Arc::clone(&engine), &depot).unwrap();
    for (position, (choice, number, request, pause)) in steps.iter().enumerate() {
        at += u64::from(*pause);
        let envelope = Envelope {
            request_id: request.map(|request| RequestId(u128::from(request))),
            ..Envelope::new(UnixMillis(at), command(*choice, *number))
        };
        let (_, changes) = fleet.apply(&envelope);
        mirror.note(&fleet, &envelope, &changes);
        head = head_of(&fleet, &applied(position as u64));
        if position % 11 == 5 {
            // Within a batch, as it happens where commands go on while it is written.
            put(&depot, &head, &fleet);
            mirror.stands_on(head.revision);
        }
        mirror.commit(&head, 0).unwrap();
        if position % 7 == 0 || position + 1 == steps.len() {
            let (reloaded, loaded) = Mirror::open(Arc::clone(&engine), &depot).unwrap();
            assert_eq!(loaded.fleet, fleet);
            assert_eq!(loaded.head, head);
            mirror = reloaded;
        }
    }
    put(&depot, &head, &fleet);
    mirror.replace(&head, &fleet, 0).unwrap();
    assert_eq!(Mirror::load(engine, &depot).unwrap().1.fleet, fleet);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_a_restart_reads_is_what_was_applied(
        // Few request ids, so that they repeat; pauses up to a third of the time for which answers are kept.
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), prop::option::of(0..12_u8), 0..300_000_u32), 1..80)
    ) {
        check(in_memory(), &steps);
    }
}

#[test]
fn what_a_restart_reads_from_sled_is_what_was_applied() {
    let directory = tempfile::tempdir().unwrap();
    let steps: Vec<_> = (0..200_u8)
        .map(|step| (step, step.wrapping_mul(37), (step % 3 == 0).then_some(step % 16), 60_000))
        .collect();
    check(on_disk(directory.path()), &steps);
}

#[test]
fn what_is_forgotten_goes_with_its_row_and_counts_for_nothing_before() {
    let (engine, depot) = in_memory();
    let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
    let (mut mirror, _) = Mirror::open(Arc::clone(&engine), &depot).unwrap();
    let mut head = WireHead::default();
    let most = u32::try_from(cell_model::AuditTrail::ENTRIES_MAX).unwrap();
    for number in 1..=most + 500 {
        let limits = Limits { moves_total: number % 50 + 1, ..Limits::default() };
        // So late that only the fewest answers are kept.
        let at = UnixMillis(u64::from(number) * 1_000);
        let request_id = Some(RequestId(number.into()));
        let envelope = Envelope { request_id, ..Envelope::new(at, Command::SetLimits(limits)) };
        let (_, changes) = fleet.apply(&envelope);
        mirror.note(&fleet, &envelope, &changes);
        if number % 64 == 0 || number == most + 500 {
            head = head_of(&fleet, &head);
            mirror.commit(&head, 0).unwrap();
        }
    }
    let (reloaded, loaded) = Mirror::open(Arc::clone(&engine), &depot).unwrap();
    assert_eq!(loaded.fleet, fleet);
    assert_eq!((loaded.fleet.audit().first_number(), fleet.head().answered.len()), (501, Fleet::ANSWERS_MIN));
    assert!(reloaded.firsts.0 > u64::from(most) - 600, "{:?}", reloaded.firsts);
    let first = engine.get(&key(b'A', 0)).unwrap();
    assert_eq!(first, None, "the first row of answers is gone");
}

/// 1,502 commands, and a snapshot as of the last but two: some rows are gone by then.
fn standing_on_a_snapshot() -> (Arc<dyn StateEngine>, Depot, Fleet) {
    let (engine, depot) = in_memory();
    let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
    let (mut mirror, _) = Mirror::open(Arc::clone(&engine), &depot).unwrap();
    for number in 1..=1_502_u32 {
        let limits = Limits { moves_total: number % 50 + 1, ..Limits::default() };
        let envelope = Envelope::new(UnixMillis(number.into()), Command::SetLimits(limits));
        let (_, changes) = fleet.apply(&envelope);
        mirror.note(&fleet, &envelope, &changes);
        let head = head_of(&fleet, &applied(number.into()));
        if number == 1_500 {
            put(&depot, &head, &fleet);
            mirror.stands_on(head.revision);
        }
        mirror.commit(&head, 3).unwrap();
    }
    (engine, depot, fleet)
}

fn refused(engine: Arc<dyn StateEngine>, depot: &Depot) -> String {
    Mirror::load(engine, depot).expect_err("it is refused").to_string()
}

#[test]
fn an_unfinished_installation_counts_as_nothing_and_the_snapshot_as_all() {
    let (engine, depot, fleet) = standing_on_a_snapshot();
    engine.apply(&[(INSTALLING.to_vec(), Some(codec::seal(&0_u64)))]).unwrap();
    let (_, loaded) = Mirror::open(Arc::clone(&engine), &depot).unwrap();
    assert_eq!((loaded.fleet.head().revision, loaded.head.applied), (Revision(1_500), applied(1_500).applied));
    assert_ne!(loaded.fleet, fleet, "the rest is in the log");
    let (_, again) = Mirror::load(engine, &depot).unwrap();
    assert_eq!((again.footing, again.fleet), (Footing::Both, loaded.fleet));
    let (empty, depot) = in_memory();
    empty.apply(&[(INSTALLING.to_vec(), Some(codec::seal(&0_u64))), (b"D/rest".to_vec(), Some(vec![2]))]).unwrap();
    assert_eq!(Mirror::load(empty, &depot).unwrap().1.fleet, Fleet::default());
}

#[test]
fn a_snapshot_that_is_newer_than_the_rows_is_gone_on_from() {
    let (engine, depot, mut fleet) = standing_on_a_snapshot();
    fleet.apply(&Envelope::new(UnixMillis(2_000), Command::SetLimits(Limits::default())));
    let head = head_of(&fleet, &applied(1_600));
    put(&depot, &head, &fleet);
    let (mut mirror, loaded) = Mirror::open(Arc::clone(&engine), &depot).unwrap();
    assert_eq!((loaded.fleet, loaded.head, loaded.log_synced), (fleet.clone(), head, 3));
    let envelope = Envelope::new(UnixMillis(2_001), command(0, 1));
    let (_, changes) = fleet.apply(&envelope);
    mirror.note(&fleet, &envelope, &changes);
    mirror.commit(&head_of(&fleet, &applied(1_601)), 0).unwrap();
    let (_, loaded) = Mirror::load(engine, &depot).unwrap();
    assert_eq!((loaded.fleet, loaded.footing, loaded.log_synced), (fleet, Footing::Both, 3));
}

#[test]
fn rows_that_do_not_reach_from_their_snapshot_to_their_head_are_refused() {
    let (engine, depot, _) = standing_on_a_snapshot();
    let mut left = Series::new(b'D');
    let mut first = None;
    let visited = engine.scan(&mut |key, value| {
        if key.starts_with(b"D/") && first.is_none() {
            let items: Vec<(Revision, Vec<Change>)> = left.found(key, value, String::new)?;
            first = Some(items[0].0);
        }
        Ok(())
    });
    visited.unwrap();
    let first = first.filter(|first| *first > Revision(1)).expect("what the snapshot has is gone");
    let missing = refused(Arc::clone(&engine), &Depot::Memory(Arc::default()));
    assert!(missing.contains(&format!("goes on with revision {first}, and 0 was the last")), "{missing}");
    assert!(missing.starts_with(SNAPSHOT_AND_ROWS), "{missing}");
    let older = Fleet::new(ClusterId(1), Lineage(1));
    put(&depot, &head_of(&older, &applied(2)), &older);
    assert!(refused(Arc::clone(&engine), &depot).contains("0 was the last"));
    let other = Fleet::new(ClusterId(2), Lineage(1));
    put(&depot, &head_of(&other, &applied(2)), &other);
    assert!(refused(engine, &depot).contains("another cluster"));

    let (engine, depot, _) = standing_on_a_snapshot();
    let mut rows = Vec::new();
    let visited = engine.scan(&mut |key, _| {
        rows.push(key.to_vec());
        Ok(())
    });
    visited.unwrap();
    for row in rows.iter().filter(|row| row.starts_with(b"D/")) {
        engine.apply(&[(row.clone(), None)]).unwrap();
    }
    let lost = refused(engine, &depot);
    assert!(lost.contains("it is at revision 1502, and what is there ends at 1500"), "{lost}");
}

#[test]
fn changes_that_a_snapshot_has_go_with_their_row() {
    let (engine, depot) = in_memory();
    let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
    let (mut mirror, _) = Mirror::open(Arc::clone(&engine), &depot).unwrap();
    let rows = || {
        let mut rows = 0;
        let counted = engine.scan(&mut |key, _| {
            rows += usize::from(key.starts_with(b"D/"));
            Ok(())
        });
        counted.unwrap();
        rows
    };
    let mut most = 0;
    for number in 0..=2_000 {
        let limits = Limits { moves_total: number % 50 + 1, ..Limits::default() };
        let envelope = Envelope::new(UnixMillis(1), Command::SetLimits(limits));
        let (_, changes) = fleet.apply(&envelope);
        mirror.note(&fleet, &envelope, &changes);
        let head = head_of(&fleet, &applied(number.into()));
        if number % 1_000 == 0 {
            most = most.max(rows());
            put(&depot, &head, &fleet);
            mirror.stands_on(head.revision);
        }
        mirror.commit(&head, 0).unwrap();
    }
    assert!(most > 2 && rows() <= 1, "{most} before, {} now", rows());
}

#[test]
fn how_far_the_log_was_synced_outlives_an_installation_that_is_cut_off_and_two_starts_behind_it() {
    let (engine, depot, fleet) = standing_on_a_snapshot();
    put(&depot, &head_of(&fleet, &applied(1_600)), &fleet);
    // As a crash leaves it that comes when the rows are gone.
    engine.apply(&[(INSTALLING.to_vec(), Some(codec::seal(&1_555_u64)))]).unwrap();
    engine.clear_but(INSTALLING).unwrap();
    for _ in 0..2 {
        let (_, loaded) = Mirror::load(Arc::clone(&engine), &depot).unwrap();
        assert_eq!((loaded.log_synced, loaded.footing), (1_555, Footing::Snapshot));
    }
    Mirror::open(Arc::clone(&engine), &depot).unwrap();
    let (_, loaded) = Mirror::load(Arc::clone(&engine), &depot).unwrap();
    assert_eq!((loaded.log_synced, loaded.footing), (1_555, Footing::Both));
}

#[test]
fn rows_that_are_many_go_some_at_a_time_so_that_no_command_waits_for_them() {
    let mut series = Series::new(b'D');
    let mut writes = Vec::new();
    for number in 1..=200 {
        series.push(number, &vec![0_u8; 4_096], &mut writes);
    }
    let mut gone = |series: &mut Series, before| {
        writes.clear();
        series.forget_before(before, &mut writes);
        assert!(writes.iter().all(|(_, value)| value.is_none()));
        writes.len()
    };
    assert_eq!(gone(&mut series, 0), 0);
    assert_eq!([gone(&mut series, 151), gone(&mut series, 151), gone(&mut series, 151)], [64, 64, 22]);
    // Where more come at once, more go: they never grow in number.
    for number in 201..=300 {
        series.push(number, &vec![0_u8; 4_096], &mut Vec::new());
    }
    assert_eq!([gone(&mut series, 300), gone(&mut series, 300)], [149, 0]);
}

#[test]
fn a_directory_that_had_no_cluster_yet_is_gone_on_with() {
    let (engine, depot) = in_memory();
    engine.apply(&[(HEAD.to_vec(), Some(codec::seal(&applied(1))))]).unwrap();
    let (mut mirror, loaded) = Mirror::open(Arc::clone(&engine), &depot).unwrap();
    assert_eq!((loaded.fleet, loaded.head), (Fleet::default(), applied(1)));
    let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
    mirror.commit(&head_of(&fleet, &applied(2)), 0).unwrap();
    let (mut mirror, _) = Mirror::open(Arc::clone(&engine), &depot).unwrap();
    let envelope = Envelope::new(UnixMillis(1), command(0, 1));
    let (_, changes) = fleet.apply(&envelope);
    mirror.note(&fleet, &envelope, &changes);
    mirror.commit(&head_of(&fleet, &applied(3)), 0).unwrap();
    assert_eq!(Mirror::load(engine, &depot).unwrap().1.fleet, fleet);
}

#[test]
fn a_flipped_byte_of_a_change_is_named() {
    let (engine, depot) = in_memory();
    let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
    let (mut mirror, _) = Mirror::open(Arc::clone(&engine), &depot).unwrap();
    let envelope = Envelope::new(UnixMillis(1), command(0, 3));
    let (_, changes) = fleet.apply(&envelope);
    mirror.note(&fleet, &envelope, &changes);
    mirror.commit(&head_of(&fleet, &WireHead::default()), 0).unwrap();
    let key = key(b'D', 1);
    let mut value = engine.get(&key).unwrap().unwrap();
    *value.last_mut().unwrap() ^= 1;
    engine.apply(&[(key, Some(value))]).unwrap();
    let refused = refused(engine, &depot);
    assert!(refused.starts_with("state row D/") && refused.contains("is corrupt"), "{refused}");
}
