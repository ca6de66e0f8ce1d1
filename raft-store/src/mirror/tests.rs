//! What a restart reads is what was applied.

use cell_model::{CellId, ClusterId, Command, Limits, Lineage, NewCell, NewTenant, TenantId, Tier, UnixMillis};
use proptest::prelude::*;

use super::*;
use crate::engine::{MemoryState, SledState};

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
        }),
        1 => Command::SetLimits(Limits { moves_total: u32::from(number) + 1, ..Limits::default() }),
        2 => Command::DeleteTenant { tenant },
        _ => {
            let (residency, tier) = (String::new(), Tier::Gold);
            Command::CreateTenant(NewTenant { id: tenant, cell: Some(cell), tier, residency })
        }
    }
}

/// Applies `steps` with a reload after each, and holds the mirror against the fleet.
fn check(engine: Arc<dyn StateEngine>, steps: &[(u8, u8, Option<u8>, u32)]) {
    let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
    let mut head = WireHead::default();
    let mut at = 0;
    let (mut mirror, _) = Mirror::load(Arc::clone(&engine)).unwrap();
    for (position, (choice, number, request, pause)) in steps.iter().enumerate() {
        at += u64::from(*pause);
        let envelope = Envelope {
            request_id: request.map(|request| RequestId(u128::from(request))),
            ..Envelope::new(UnixMillis(at), command(*choice, *number))
        };
        let (_, changes) = fleet.apply(&envelope);
        mirror.note(&fleet, &envelope, &changes);
        head = head_of(&fleet, &head);
        mirror.commit(&head, 0).unwrap();
        if position % 7 == 0 || position + 1 == steps.len() {
            let (reloaded, loaded) = Mirror::load(Arc::clone(&engine)).unwrap();
            assert_eq!(loaded.fleet, fleet);
            assert_eq!(loaded.head, head);
            mirror = reloaded;
        }
    }
    mirror.replace(&head, &fleet, 0).unwrap();
    assert_eq!(Mirror::load(engine).unwrap().1.fleet, fleet);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_a_restart_reads_is_what_was_applied(
        // Few request ids, so that they repeat; pauses up to a third of the time for which answers are kept.
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), prop::option::of(0..12_u8), 0..300_000_u32), 1..80)
    ) {
        check(Arc::new(MemoryState::default()), &steps);
    }
}

#[test]
fn what_a_restart_reads_from_sled_is_what_was_applied() {
    let directory = tempfile::tempdir().unwrap();
    let steps: Vec<_> = (0..200_u8)
        .map(|step| (step, step.wrapping_mul(37), (step % 3 == 0).then_some(step % 16), 60_000))
        .collect();
    check(Arc::new(SledState::open(directory.path().join("sm")).unwrap()), &steps);
}

#[test]
fn rows_of_earlier_versions_are_read_and_written_anew_with_the_next_batch() {
    let engine: Arc<dyn StateEngine> = Arc::new(MemoryState::default());
    let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
    let asked = |number: u8| Envelope {
        request_id: Some(RequestId(number.into())),
        ..Envelope::new(UnixMillis(number.into()), command(0, number))
    };
    (1..=200).for_each(|number| drop(fleet.apply(&asked(number))));
    // As it was written before: each answer by its request's id, each audit entry by its number.
    let mut writes: Vec<Write> =
        fleet.records().map(|record| (record_key(&record).unwrap(), Some(codec::seal(&record)))).collect();
    for ((id, at, reply), ordinal) in fleet.head().answered.iter().zip(700..) {
        let answer = WireAnswer { ordinal, id: *id, at: *at, reply: reply.clone() };
        writes.push((key(b'a', &id.0.to_be_bytes()), Some(codec::seal(&answer))));
    }
    for entry in fleet.audit().after(0) {
        writes.push((key(b'l', &entry.number.to_be_bytes()), Some(codec::seal(&**entry))));
    }
    let head = head_of(&fleet, &WireHead::default());
    writes.push((HEAD.to_vec(), Some(codec::seal(&head))));
    engine.apply(&writes).unwrap();

    let (mut mirror, loaded) = Mirror::load(Arc::clone(&engine)).unwrap();
    assert_eq!(loaded.fleet, fleet);
    let (_, changes) = fleet.apply(&asked(201));
    mirror.note(&fleet, &asked(201), &changes);
    mirror.commit(&head_of(&fleet, &head), 0).unwrap();
    assert_eq!(Mirror::load(Arc::clone(&engine)).unwrap().1.fleet, fleet);
    let mut kinds = BTreeMap::<u8, usize>::new();
    let counted = engine.scan(&mut |key, _| {
        *kinds.entry(key[0]).or_default() += 1;
        Ok(())
    });
    counted.unwrap();
    assert_eq!((kinds.get(&b'a'), kinds.get(&b'l')), (None, None));
    assert!((1..30).contains(&kinds[&b'A']) && (2..60).contains(&kinds[&b'L']), "{kinds:?}");
}

#[test]
fn what_is_forgotten_goes_with_its_row_and_counts_for_nothing_before() {
    let engine: Arc<dyn StateEngine> = Arc::new(MemoryState::default());
    let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
    let (mut mirror, _) = Mirror::load(Arc::clone(&engine)).unwrap();
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
    let (reloaded, loaded) = Mirror::load(Arc::clone(&engine)).unwrap();
    assert_eq!(loaded.fleet, fleet);
    assert_eq!((loaded.fleet.audit().first_number(), fleet.head().answered.len()), (501, Fleet::ANSWERS_MIN));
    assert!(reloaded.firsts.0 > u64::from(most) - 600, "{:?}", reloaded.firsts);
    let first = engine.get(&key(b'A', &0_u64.to_be_bytes())).unwrap();
    assert_eq!(first, None, "the first row of answers is gone");
}

#[test]
fn an_unfinished_installation_counts_as_nothing() {
    let engine: Arc<dyn StateEngine> = Arc::new(MemoryState::default());
    let (mut mirror, _) = Mirror::load(Arc::clone(&engine)).unwrap();
    mirror.replace(&WireHead::default(), &Fleet::new(ClusterId(1), Lineage(1)), 0).unwrap();
    engine.apply(&[(INSTALLING.to_vec(), Some(vec![1]))]).unwrap();
    let (_, loaded) = Mirror::load(engine).unwrap();
    assert_eq!(loaded.fleet, Fleet::default());
}

#[test]
fn a_flipped_byte_of_a_record_is_named() {
    let engine: Arc<dyn StateEngine> = Arc::new(MemoryState::default());
    let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
    let (mut mirror, _) = Mirror::load(Arc::clone(&engine)).unwrap();
    let envelope = Envelope::new(UnixMillis(1), command(0, 3));
    let (_, changes) = fleet.apply(&envelope);
    mirror.note(&fleet, &envelope, &changes);
    mirror.commit(&head_of(&fleet, &WireHead::default()), 0).unwrap();
    let key = b"c/c3".to_vec();
    let mut value = engine.get(&key).unwrap().unwrap();
    *value.last_mut().unwrap() ^= 1;
    engine.apply(&[(key, Some(value))]).unwrap();
    let refused = Mirror::load(engine).expect_err("flipped");
    assert!(refused.to_string().starts_with("state row c/c3 is corrupt"), "{refused}");
}
