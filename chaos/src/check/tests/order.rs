//! The order of requests on one key: by hand, and against stateright's tester of linearizability, which tries every order.

use stateright::semantics::register::{Register, RegisterOp, RegisterRet};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

use super::*;

const WRITER: u32 = 0;

fn request(session: u32, action: Action, (invoked, returned): (u64, u64), outcome: Outcome) -> Op {
    let failed = matches!(outcome, Outcome::Unknown { .. });
    Op { session, tenant: "t".into(), action, invoked, returned, outcome, failed }
}

fn outcome(known: bool) -> Outcome {
    if known { Outcome::Written } else { unknown() }
}

fn put(version: u64, at: (u64, u64), known: bool) -> Op {
    request(WRITER, Action::Put { key: "k".into(), version }, at, outcome(known))
}

fn delete(version: u64, at: (u64, u64), known: bool) -> Op {
    request(WRITER, Action::Delete { key: "k".into(), version }, at, outcome(known))
}

/// An attempt at a write that was refused.
fn refused_first(attempt: Op) -> Op {
    Op { outcome: refused(), failed: false, ..attempt }
}

fn read(session: u32, found: Option<u64>, at: (u64, u64)) -> Op {
    let found = found.map(|version| seen("t", version));
    request(session, Action::Get { key: "k".into() }, at, Outcome::Read(found))
}

fn get(session: u32, version: u64, at: (u64, u64)) -> Op {
    read(session, Some(version), at)
}

fn nothing(session: u32, at: (u64, u64)) -> Op {
    read(session, None, at)
}

/// These requests, and this version at the end, or nothing.
fn story(ops: Vec<Op>, end: Option<u64>) -> Story {
    let mut story = Story { ops, ..Story::default() };
    if let Some(version) = end {
        story.ends_at(version);
    }
    story
}

#[test]
fn what_one_session_has_read_another_one_does_not_read_older_afterwards() {
    let early = || vec![put(1, (0, 2), true), put(2, (10, 90), true), get(1, 2, (20, 30))];
    story([early(), vec![get(2, 1, (40, 50))]].concat(), Some(2)).is_only(FaultKind::Reordered, 1);
    // It was under way when the newer one was read.
    story([early(), vec![get(2, 1, (25, 50))]].concat(), Some(2)).is_clean();
}

#[test]
fn a_write_of_unknown_outcome_may_be_done_late_but_only_once() {
    let early = || vec![put(1, (0, 2), true), put(2, (10, 20), false), put(3, (30, 40), true)];
    story([early(), vec![get(1, 3, (50, 60)), get(2, 2, (70, 80))]].concat(), Some(2)).is_clean();
    let there_and_back = vec![get(1, 2, (50, 60)), get(2, 3, (70, 80)), get(1, 2, (90, 95))];
    assert!(!story([early(), there_and_back].concat(), Some(2)).findings().is_clean());
}

#[test]
fn what_one_session_has_found_gone_another_one_does_not_find_there_afterwards() {
    let early = || vec![put(1, (0, 2), true), delete(2, (10, 90), true), nothing(1, (20, 30))];
    story([early(), vec![get(2, 1, (40, 50))]].concat(), None).is_only(FaultKind::Reordered, 1);
    // It was under way when nothing was found.
    story([early(), vec![get(2, 1, (25, 50))]].concat(), None).is_clean();
}

#[test]
fn nothing_is_found_before_the_first_put_and_not_after_somebody_has_read_it() {
    let early = || vec![put(1, (10, 90), true), get(1, 1, (20, 30))];
    story([early(), vec![nothing(2, (1, 5)), nothing(2, (25, 40))]].concat(), Some(1)).is_clean();
    story([early(), vec![nothing(2, (35, 40))]].concat(), Some(1)).is_only(FaultKind::Reordered, 1);
}

#[test]
fn what_an_acknowledged_delete_took_away_is_not_read_again_though_nobody_knows_of_its_write() {
    let early = |at| vec![put(1, (4, 9), false), get(1, 1, (17, 18)), delete(2, (30, 40), true), get(1, 1, at)];
    story(early((50, 52)), None).is_only(FaultKind::Resurrected, 1);
    story(early((40, 52)), None).is_clean();
    // Nobody had read it before: it may have been done after the delete.
    let late = vec![put(1, (4, 9), false), delete(2, (30, 40), true), get(1, 1, (50, 52))];
    story(late, Some(1)).is_clean();
}

#[test]
fn a_delete_of_unknown_outcome_explains_nothing_found_before_a_put_that_follows_it() {
    let ops = vec![
        delete(1, (5, 6), false),
        put(2, (10, 12), true),
        put(3, (20, 60), true),
        delete(4, (70, 75), false),
        nothing(1, (15, 75)),
        get(1, 3, (80, 85)),
    ];
    story(ops, Some(3)).is_clean();
}

#[test]
fn a_delete_of_unknown_outcome_excuses_one_loss_and_not_the_next() {
    let early =
        || vec![put(1, (0, 2), true), delete(2, (5, 6), false), put(3, (10, 12), true), nothing(1, (20, 22))];
    story(early(), None).is_clean();
    let late = || [early(), vec![put(4, (30, 32), true)]].concat();
    story(late(), Some(4)).is_clean();
    story(late(), None).is_only(FaultKind::Lost, 1);
    story([late(), vec![nothing(1, (40, 42))]].concat(), Some(4)).is_only(FaultKind::Reordered, 1);
    // Another one explains it.
    let deleted_again = || vec![delete(5, (50, 52), false), nothing(1, (60, 62))];
    story([late(), deleted_again()].concat(), None).is_clean();
    story([late(), deleted_again(), vec![put(6, (70, 72), true)]].concat(), None).is_only(FaultKind::Lost, 1);
}

#[test]
fn a_value_that_nobody_has_read_needs_a_delete_behind_it_only_where_nothing_is_found_around_it() {
    let nothing_around = |at| vec![put(1, at, true), nothing(1, (1, 5)), nothing(2, (30, 35))];
    let with = |at, delete: Op| story([nothing_around(at), vec![delete]].concat(), None);
    with((10, 20), delete(2, (25, 50), true)).is_clean();
    with((10, 20), delete(2, (36, 50), true)).is_only(FaultKind::Reordered, 1);
    with((10, 20), delete(2, (36, 50), false)).is_only(FaultKind::Reordered, 1);
    with((10, 40), delete(2, (45, 50), true)).is_clean();
}

#[test]
fn what_was_refused_at_first_is_done_no_sooner_than_it_is_sent_again() {
    let early = || vec![refused_first(put(1, (0, 1), true)), put(1, (10, 12), true)];
    story([early(), vec![get(1, 1, (3, 5))]].concat(), Some(1)).is_only(FaultKind::Phantom, 1);
    story([early(), vec![get(1, 1, (11, 13))]].concat(), Some(1)).is_clean();
    let deleted = |found| {
        let (first, again) = (delete(2, (4, 5), true), delete(2, (40, 42), true));
        story(vec![put(1, (0, 2), true), refused_first(first), again, found], None)
    };
    deleted(nothing(1, (8, 10))).is_only(FaultKind::Reordered, 1);
    deleted(nothing(1, (8, 41))).is_clean();
    // In whichever order the two are told.
    let late = [put(1, (10, 12), false), refused_first(put(1, (0, 1), true)), get(1, 1, (3, 5))];
    story(late.to_vec(), Some(1)).is_only(FaultKind::Phantom, 1);
    story(vec![put(1, (0, 1), false), refused_first(put(1, (10, 12), true)), get(1, 1, (3, 5))], Some(1))
        .is_clean();
}

/// Pause before a request, how long it takes, and two choices.
type Drawn = (u64, u64, prop::sample::Index, prop::sample::Index);

fn drawn(count: usize) -> impl Strategy<Value = Vec<Drawn>> {
    let index = || any::<prop::sample::Index>();
    prop::collection::vec((1u64..4, 0u64..9, index(), index()), 1..count)
}

/// Requests of one session, one after another. Those of different sessions may begin and end at the same time.
fn times(drawn: &[Drawn]) -> Vec<(u64, u64)> {
    let mut now = 0;
    let mut next = |pause: u64| {
        now += pause;
        now
    };
    drawn.iter().map(|(pause, length, ..)| (next(*pause), next(*length))).collect()
}

/// One writer, who deletes now and then, and does not always know what became of a write; and readers, who are told any
/// version that was sent by then, or nothing. Each write whose bit is set in `refused` was refused at first.
fn history(writer: &[Drawn], readers: &[Vec<Drawn>], refused: u8) -> Vec<Op> {
    let begun = times(writer);
    let (mut writes, mut attempts) = (Vec::new(), Vec::new());
    for (((begin, end), (.., what, known)), version) in begun.iter().zip(writer).zip(1..) {
        let known = known.index(3) > 0;
        let write = |at| if what.index(5) < 2 { delete(version, at, known) } else { put(version, at, known) };
        let middle = u64::midpoint(*begin, *end);
        if middle < *end && (refused >> version) & 1 == 1 {
            attempts.push(refused_first(write((*begin, middle))));
            writes.push(write((middle + 1, *end)));
        } else {
            writes.push(write((*begin, *end)));
        }
    }
    let mut ops = writes.clone();
    ops.append(&mut attempts);
    for (reader, session) in readers.iter().zip(1..) {
        for (at, (.., what, back)) in times(reader).into_iter().zip(reader) {
            // Mostly what was there lately, so that many histories have an order.
            let sent = begun.partition_point(|(begin, _)| *begin <= at.1);
            let shown = sent.checked_sub(1 + back.index(3)).filter(|_| what.index(6) > 0);
            ops.push(read(session, shown.and_then(|index| left_by(&writes[index])), at));
        }
    }
    ops
}

/// What a write leaves.
fn left_by(write: &Op) -> Option<u64> {
    match write.action {
        Action::Put { version, .. } => Some(version),
        _ => None,
    }
}

fn has_an_order(ops: &[Op], end: Option<u64>) -> bool {
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    let done = |op: &Op| !matches!(op.outcome, Outcome::Refused { .. });
    for (index, op) in ops.iter().enumerate().filter(|(_, op)| done(op)) {
        events.push((op.invoked, false, index));
        if op.is_done() {
            events.push((op.returned, true, index));
        }
    }
    events.sort_unstable();
    let mut tester = LinearizabilityTester::new(Register(None));
    // A request each has a thread of its own: one without an end keeps it for ever.
    for (_, ends, index) in events {
        let (asked, told) = match (&ops[index].action, &ops[index].outcome) {
            (Action::Get { .. }, Outcome::Read(found)) => {
                let found = found.as_ref().map(|seen| seen.version);
                (RegisterOp::Read, RegisterRet::ReadOk(found))
            }
            _ => (RegisterOp::Write(left_by(&ops[index])), RegisterRet::WriteOk),
        };
        if ends {
            tester.on_return(index, told).unwrap();
        } else {
            tester.on_invoke(index, asked).unwrap();
        }
    }
    tester.on_invoke(usize::MAX, RegisterOp::Read).unwrap();
    tester.on_return(usize::MAX, RegisterRet::ReadOk(end)).unwrap();
    tester.is_consistent()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_has_an_order_is_clean_and_what_has_none_is_found(
        writer in drawn(6),
        readers in prop::collection::vec(drawn(4), 2),
        back in any::<prop::sample::Index>(),
        refused in any::<u8>(),
    ) {
        let ops = history(&writer, &readers, refused);
        let end = writer.len().checked_sub(1 + back.index(3)).and_then(|index| left_by(&ops[index]));
        let findings = story(ops.clone(), end).findings();
        prop_assert_eq!(findings.is_clean(), has_an_order(&ops, end), "{:#?}\n{:#?}", ops, findings.faults);
    }
}
