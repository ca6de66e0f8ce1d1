//! The order of requests on one key: by hand, and against stateright's tester of linearizability, which tries every order.

use stateright::semantics::register::{Register, RegisterOp, RegisterRet};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

use super::*;

const WRITER: u32 = 0;

fn request(session: u32, action: Action, (invoked, returned): (u64, u64), outcome: Outcome) -> Op {
    let failed = matches!(outcome, Outcome::Unknown { .. });
    Op { session, tenant: "t".into(), action, invoked, returned, outcome, failed }
}

fn put(version: u64, at: (u64, u64), known: bool) -> Op {
    let outcome = if known { Outcome::Written } else { Outcome::Unknown { reason: "x".into() } };
    request(WRITER, Action::Put { key: "k".into(), version }, at, outcome)
}

fn get(session: u32, version: u64, at: (u64, u64)) -> Op {
    request(session, Action::Get { key: "k".into() }, at, Outcome::Read(Some(seen("t", version))))
}

/// These requests, and this version at the end.
fn story(ops: Vec<Op>, end: u64) -> Story {
    let mut story = Story { ops, ..Story::default() };
    story.ends_at(end);
    story
}

#[test]
fn what_one_session_has_read_another_one_does_not_read_older_afterwards() {
    let early = || vec![put(1, (0, 2), true), put(2, (10, 90), true), get(1, 2, (20, 30))];
    story([early(), vec![get(2, 1, (40, 50))]].concat(), 2).is_only(FaultKind::Reordered, 1);
    // It was under way when the newer one was read.
    story([early(), vec![get(2, 1, (25, 50))]].concat(), 2).is_clean();
}

#[test]
fn a_write_of_unknown_outcome_may_be_done_late_but_only_once() {
    let early = || vec![put(1, (0, 2), true), put(2, (10, 20), false), put(3, (30, 40), true)];
    story([early(), vec![get(1, 3, (50, 60)), get(2, 2, (70, 80))]].concat(), 2).is_clean();
    let there_and_back = vec![get(1, 2, (50, 60)), get(2, 3, (70, 80)), get(1, 2, (90, 95))];
    assert!(!story([early(), there_and_back].concat(), 2).findings().is_clean());
}

/// Pause before a request, how long it takes, and which of the versions so far it shows, or whether its outcome is known.
type Drawn = (u64, u64, prop::sample::Index);

fn drawn(count: usize) -> impl Strategy<Value = Vec<Drawn>> {
    prop::collection::vec((1u64..4, 1u64..9, any::<prop::sample::Index>()), 1..count)
}

/// Requests of one session, one after another. No two sessions do anything at the same time.
fn times(session: u32, drawn: &[Drawn]) -> Vec<(u64, u64)> {
    let mut now = 10;
    let mut next = |pause: u64| {
        now += pause;
        now * 8 + u64::from(session)
    };
    drawn.iter().map(|(pause, length, _)| (next(*pause), next(*length))).collect()
}

/// One writer, who does not know of every fifth write what became of it; and readers, who are told any version that was
/// sent by then.
fn history(writer: &[Drawn], readers: &[Vec<Drawn>]) -> Vec<Op> {
    let mut ops = vec![put(1, (0, 1), true)];
    let written = times(WRITER, writer).into_iter().zip(writer).zip(2..);
    ops.extend(written.map(|((at, (.., pick)), version)| put(version, at, pick.index(5) > 0)));
    let sent: Vec<u64> = ops.iter().map(|op| op.invoked).collect();
    for (reader, session) in readers.iter().zip(1..) {
        for (at, (.., pick)) in times(session, reader).into_iter().zip(reader) {
            let versions = sent.partition_point(|invoked| *invoked < at.1);
            // Mostly one of the newest, so that many histories have an order.
            let back = pick.index(3).min(versions - 1);
            ops.push(get(session, (versions - back) as u64, at));
        }
    }
    ops
}

fn has_an_order(ops: &[Op], end: u64) -> bool {
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        events.push((op.invoked, false, index));
        if op.is_done() {
            events.push((op.returned, true, index));
        }
    }
    events.sort_unstable();
    let mut tester = LinearizabilityTester::new(Register(0));
    // A request each has a thread of its own: one without an end keeps it for ever.
    for (_, ends, index) in events {
        let (asked, told) = match (&ops[index].action, &ops[index].outcome) {
            (Action::Put { version, .. }, _) => (RegisterOp::Write(*version), RegisterRet::WriteOk),
            (_, Outcome::Read(Some(seen))) => (RegisterOp::Read, RegisterRet::ReadOk(seen.version)),
            other => panic!("{other:?} is not drawn"),
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
    #[test]
    fn what_has_an_order_is_clean_and_what_has_none_is_found(
        writer in drawn(5),
        readers in prop::collection::vec(drawn(4), 2),
        back in 0usize..2,
    ) {
        let ops = history(&writer, &readers);
        let end = (writer.len() + 1 - back.min(writer.len())) as u64;
        let findings = story(ops.clone(), end).findings();
        prop_assert_eq!(findings.is_clean(), has_an_order(&ops, end), "{:#?}\n{:#?}", ops, findings.faults);
    }
}
