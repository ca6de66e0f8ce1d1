//! Every expectation, and every promise of all drills, is seen to hold and to fail: one that cannot fail is worth nothing.

use super::*;
use crate::check::{FinalDoc, Findings};
use crate::drill::evidence::Sample;
use crate::history::Seen;

/// An expectation, evidence for which it holds, and evidence for which it does not.
type Case = (Expect, Evidence, Vec<Evidence>);

/// Which expectation it is. Whoever adds one finds that it needs a number here, and a case below.
const fn number(expect: &Expect) -> usize {
    match expect {
        Expect::Served(..) => 0,
        Expect::Quick(..) => 1,
        Expect::Radius(_) => 2,
        Expect::Back(_) => 3,
        Expect::Ends(_) => 4,
        Expect::Commands(_) => 5,
        Expect::Forbidden => 6,
        Expect::Refused(..) => 7,
        Expect::NotHaunted => 8,
        Expect::Fresh => 9,
        Expect::Agreed => 10,
        Expect::Fell => 11,
        Expect::Swallowed => 12,
        Expect::Slowed => 13,
        Expect::Hurt(_) => 14,
        Expect::Elected => 15,
        Expect::Redirected(_) => 16,
        Expect::FaultIn(_) => 17,
        Expect::Flooded(..) => 18,
        Expect::DiskFull => 19,
        Expect::Injected(_) => 20,
        Expect::PowerCuts(_) => 21,
        Expect::Clocked(_) => 22,
        Expect::Busy(_) => 23,
        Expect::EndsAsAsked => 24,
        Expect::FaultOnTheWayBack(_) => 25,
        Expect::Lost => 26,
        Expect::RetriesBounded(_) => 27,
        Expect::Bounded(..) => 28,
        Expect::Overloaded(_) => 29,
    }
}

/// How many there are.
const EXPECTATIONS: usize = 30;

fn usual() -> Evidence {
    evidence(Vec::new())
}

fn with(change: impl FnOnce(&mut Evidence)) -> Evidence {
    let mut evidence = usual();
    change(&mut evidence);
    evidence
}

fn a_move(end: &str) -> Evidence {
    with(|evidence| evidence.moves = vec![MoveTrace { end: end.into(), ..MoveTrace::default() }])
}

fn asked(wanted: &str, code: &str, took_ms: u64, kept: bool) -> Evidence {
    let (code, wanted) = (code.to_owned(), wanted.to_owned());
    let answered = Answered { what: "it".into(), at: 0, took_ms, code, wanted, made: None, kept };
    with(|evidence| evidence.commands = vec![answered])
}

fn staleness(ages: &[Option<u64>]) -> Evidence {
    let sample = Sample { at: 0, leader: "n1".into(), term: 1, staleness_ms: ages.to_vec() };
    with(|evidence| evidence.samples = vec![sample])
}

fn revisions(of: &[(&str, u64)]) -> Evidence {
    with(|evidence| evidence.revisions = of.iter().map(|(node, revision)| ((*node).into(), *revision)).collect())
}

fn without_key(code: &str) -> Evidence {
    let refused = Op { outcome: Outcome::Refused { code: code.into() }, ..op("a", 1_700, 5, true) };
    let fault = FaultSpan { lane: keys::LANE.into(), label: "a has no key".into(), from: 1_600_000, to: 2_000_000 };
    Evidence { faults: vec![fault], ..evidence(vec![refused]) }
}

fn haunted(served: bool) -> Evidence {
    with(|evidence| {
        evidence.moves = vec![MoveTrace { phases: vec![("activate".into(), 1_500_000)], ..MoveTrace::default() }];
        evidence.haunted = vec![op("a", 2_000, 5, true), op("a", 2_100, 5, !served)];
    })
}

fn fault_in(phase: &str) -> Evidence {
    with(|evidence| {
        let fault = |from| FaultSpan { lane: "network".into(), label: "cut".into(), from, to: 3_000_000 };
        evidence.faults = vec![fault(1_500_000)];
        evidence.moves = vec![MoveTrace { phases: vec![(phase.into(), 1_400_000)], ..MoveTrace::default() }];
    })
}

/// A fault in this phase of a move that has soaked.
fn after_soak(phase: &str) -> Evidence {
    let mut evidence = fault_in(phase);
    evidence.moves[0].phases.insert(0, ("soak".into(), 0));
    evidence
}

/// A move that was asked to end so, and has ended so.
fn steered(asked: &str, end: &str) -> Evidence {
    let mut evidence = a_move(end);
    evidence.moves[0].asked = asked.into();
    evidence
}

fn told(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

/// What must hold.
fn promised() -> Vec<Case> {
    let failed = || evidence(vec![op("a", 1_600, 5, true)]);
    let both = || evidence(vec![op("a", 1_600, 5, true), op("c", 1_600, 5, true)]);
    let fell = |who: &[(&str, Option<&str>)]| {
        with(|evidence| {
            evidence.fallen = who.iter().map(|(who, why)| ((*who).into(), why.map(str::to_owned))).collect();
        })
    };
    vec![
        (Expect::Served(Group::All, Span::Fault, 100), usual(), vec![failed()]),
        (
            Expect::Quick(Group::All, Span::Fault, 100),
            evidence(vec![op("a", 1_600, 100, false)]),
            vec![evidence(vec![op("a", 1_600, 101, false)]), Evidence { ops: Vec::new(), ..usual() }],
        ),
        (Expect::Radius(Group::On(0)), both(), vec![failed(), usual()]),
        (Expect::Back(400), evidence(vec![op("a", 3_400, 5, true)]), vec![evidence(vec![op("a", 3_401, 5, true)])]),
        (Expect::Ends("completed"), a_move("completed"), vec![a_move("aborted"), a_move(""), usual()]),
        (
            Expect::EndsAsAsked,
            steered("cancelled", "cancelled"),
            vec![steered("cancelled", "completed"), steered("", "cancelled"), a_move(""), usual()],
        ),
        (
            Expect::Commands(100),
            asked("", "", 100, true),
            vec![asked("", "", 101, true), asked("", "BUSY", 1, true), asked("", "", 1, false), usual()],
        ),
        (
            Expect::Forbidden,
            asked("NO", "NO", 1, false),
            vec![asked("NO", "", 1, true), asked("NO", "BUSY", 1, false), usual()],
        ),
        (
            Expect::Refused(Group::One(0), "TENANT_KEY_DISABLED"),
            without_key("TENANT_KEY_DISABLED"),
            vec![without_key("NO_LEASE"), usual()],
        ),
        (
            Expect::Bounded(Group::One(0), 100),
            refusals(&[("DATABASE_SLOW", 100)]),
            vec![
                refusals(&[("DATABASE_SLOW", 101)]),
                refusals(&[("DATABASE_SLOW", 5), ("NO_CONNECTION", 5)]),
                evidence(vec![Op {
                    outcome: Outcome::Unknown { reason: "late".into() },
                    ..op("a", 1_600, 5, true)
                }]),
                usual(),
            ],
        ),
        // Of the eight requests of everybody.
        (Expect::RetriesBounded(25), replays(2), vec![replays(3), Evidence { ops: Vec::new(), ..usual() }]),
        (Expect::NotHaunted, haunted(false), vec![haunted(true), usual()]),
        (
            Expect::Fresh,
            staleness(&[Some(1_000), Some(0)]),
            vec![staleness(&[Some(1_001), Some(0)]), staleness(&[Some(0), None]), usual()],
        ),
        (
            Expect::Agreed,
            revisions(&[("n1", 7), ("n2", 7), ("n3", 7)]),
            vec![revisions(&[("n1", 7), ("n2", 8), ("n3", 7)]), revisions(&[("n1", 7), ("n2", 7)]), usual()],
        ),
        (
            Expect::Fell,
            fell(&[("n1", Some("no disk"))]),
            vec![fell(&[("n1", Some("no disk")), ("n2", None)]), usual()],
        ),
    ]
}

/// What says that the experiment took place.
fn exercised() -> Vec<Case> {
    let flood: Vec<Op> = (0..3).map(|number| op("a", 1_600 + number, 5, false)).collect();
    vec![
        (Expect::Swallowed, with(|evidence| evidence.swallowed = 1), vec![usual()]),
        (Expect::Slowed, with(|evidence| evidence.slowed_bytes = 1), vec![usual()]),
        (Expect::Lost, with(|evidence| evidence.lost_pieces = 1), vec![with(|evidence| evidence.overtaken = 1)]),
        (
            Expect::Hurt(Group::On(0)),
            evidence(vec![op("a", 1_600, 501, false)]),
            vec![evidence(vec![op("a", 1_600, 500, false)]), evidence(vec![op("b", 1_600, 501, true)])],
        ),
        (Expect::Elected, with(|evidence| evidence.elections = told(&["n2"])), vec![usual()]),
        (
            Expect::Redirected(2),
            with(|evidence| evidence.redirects = 2),
            vec![with(|evidence| evidence.redirects = 1)],
        ),
        (Expect::FaultIn(vec![cell_model::Phase::Hold]), fault_in("hold"), vec![fault_in("sync"), usual()]),
        (
            Expect::FaultOnTheWayBack(cell_model::Phase::Hold),
            after_soak("hold"),
            vec![after_soak("activate"), fault_in("hold"), usual()],
        ),
        (Expect::Flooded(Group::One(0), 2), evidence(flood.clone()), vec![evidence(flood[..2].to_vec()), usual()]),
        (Expect::DiskFull, with(|evidence| evidence.disk_full = told(&["n1 is full"])), vec![usual()]),
        (Expect::Injected(2), with(|evidence| evidence.injected = 2), vec![with(|evidence| evidence.injected = 1)]),
        (
            Expect::PowerCuts(2),
            with(|evidence| evidence.power_cuts = told(&["n1", "n1"])),
            vec![with(|evidence| evidence.power_cuts = told(&["n1"]))],
        ),
        (
            Expect::Clocked(2),
            with(|evidence| evidence.clocks = told(&["n1 is ahead", "n2 is ahead"])),
            vec![with(|evidence| evidence.clocks = told(&["n1 is ahead", "n1 is behind"]))],
        ),
        (
            Expect::Overloaded(2),
            overload(2, &["cell-1: 9"]),
            vec![overload(1, &["cell-1: 9"]), overload(2, &[]), usual()],
        ),
        (
            Expect::Busy(Group::All),
            usual(),
            vec![with(|evidence| evidence.ops.retain(|op| &*op.tenant != "d")), evidence_of_nobody()],
        ),
    ]
}

/// Requests of one tenant that were refused so after so many milliseconds.
fn refusals(of: &[(&str, u64)]) -> Evidence {
    let refused = |(code, ms): &(&str, u64)| {
        let outcome = Outcome::Refused { code: (*code).into() };
        Op { outcome, ..op("a", 1_600, *ms, true) }
    };
    evidence(of.iter().map(refused).collect())
}

fn overload(waited: u64, taken: &[&str]) -> Evidence {
    with(|evidence| (evidence.locked_out, evidence.sessions_taken) = (waited, told(taken)))
}

fn replays(count: u64) -> Evidence {
    with(|evidence| evidence.replays = (count, 0))
}

fn evidence_of_nobody() -> Evidence {
    Evidence { homes: Vec::new(), ..usual() }
}

#[test]
fn every_expectation_is_seen_to_hold_and_to_fail() {
    let cases = [promised(), exercised()].concat();
    let seen: BTreeSet<usize> = cases.iter().map(|(expect, ..)| number(expect)).collect();
    assert_eq!(seen, (0..EXPECTATIONS).collect(), "each has a case");
    for (expect, right, wrong) in cases {
        let found = finding(&expect, &right);
        assert!(found.held && found.exercise == expect.is_exercise(), "{found:?}");
        for wrong in wrong {
            let found = finding(&expect, &wrong);
            assert!(!found.held, "{found:?}");
        }
    }
}

/// What clients were told of one document, and what is there at the end.
fn found(writes: Vec<(Action, Outcome)>, end: &[(&str, FinalDoc)]) -> Findings {
    let sent = |(index, (action, outcome))| Op { action, outcome, ..op("a", 200 + 10 * index as u64, 5, false) };
    let ops: Vec<Op> = writes.into_iter().enumerate().map(sent).collect();
    let docs = end.iter().map(|(name, doc)| ((*name).to_owned(), doc.clone())).collect();
    check(&ops, &[("a".into(), FinalTenant { docs, ..FinalTenant::default() })].into())
}

fn version(tenant: &str, version: u64) -> FinalDoc {
    FinalDoc::Register(Seen { tenant: tenant.into(), key: "k".into(), version })
}

#[test]
fn every_promise_of_all_drills_is_seen_to_fail_alone() {
    let put = |version| (Action::Put { key: "k".into(), version }, Outcome::Written);
    let delete = |version| (Action::Delete { key: "k".into(), version }, Outcome::Written);
    let post = || (Action::Post { nonce: 1 }, Outcome::Created { id: "d".into() });
    let posted = || FinalDoc::Posted { tenant: "a".into(), nonce: 1 };
    let of = |findings| Evidence { findings, ..usual() };
    let broken = [
        evidence(vec![op("a", 300, 5, true)]),
        of(found(vec![put(1)], &[])),
        of(found(vec![post()], &[("d", posted()), ("e", posted())])),
        of(found(vec![put(1), put(2)], &[("k", version("a", 1))])),
        of(found(vec![put(1), delete(2)], &[("k", version("a", 1))])),
        of(found(Vec::new(), &[("k", version("b", 1))])),
        of(found(Vec::new(), &[("k", version("a", 1))])),
        with(|evidence| evidence.mismatches = told(&["tenant a has two owners"])),
        with(|evidence| evidence.trouble = told(&["n1 fell"])),
    ];
    assert!(always(&usual()).iter().all(|found| found.held && !found.exercise));
    assert_eq!(broken.len(), always(&usual()).len(), "each has a case");
    for (index, evidence) in broken.iter().enumerate() {
        let held: Vec<bool> = always(evidence).iter().map(|found| found.held).collect();
        let alone: Vec<bool> = (0..broken.len()).map(|other| other != index).collect();
        assert_eq!(held, alone, "{:#?}", always(evidence));
    }
}

#[test]
fn a_promise_that_looks_have_found_broken_fails_a_drill_and_one_without_looks_proves_nothing() {
    let findings = looked_at(&with(|evidence| evidence.sights = crate::sights::tests::two_owners(60)));
    let broken: Vec<&str> = findings.iter().filter(|one| !one.held).map(|one| &*one.invariants[0]).collect();
    assert_eq!(broken, ["I1", "I5"], "{findings:#?}");
    assert_eq!(DrillVerdict::of(&findings), DrillVerdict::Fail);
    assert_eq!(DrillVerdict::of(&looked_at(&usual())), DrillVerdict::NotExercised);
}
