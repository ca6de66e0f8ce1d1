mod each;

use std::collections::BTreeMap;

use super::super::catalogue;
use super::super::evidence::{Answered, FaultSpan, Home, MoveTrace};
use super::*;
use crate::check::{FinalTenant, check};
use crate::history::Action;

fn op(tenant: &str, at_ms: u64, took_ms: u64, failed: bool) -> Op {
    let outcome = if failed { Outcome::Refused { code: "X".into() } } else { Outcome::Written };
    Op {
        session: 1,
        tenant: tenant.into(),
        action: Action::Put { key: "k".into(), version: at_ms },
        invoked: at_ms * 1_000,
        returned: (at_ms + took_ms) * 1_000,
        outcome,
        failed,
    }
}

/// Two cells with two tenants each; a second of steady state, two seconds of fault, one of recovery.
fn evidence(ops: Vec<Op>) -> Evidence {
    let home = |(index, name): (usize, &str)| Home { name: name.into(), cell: index % 2 };
    let mut all: Vec<Op> =
        ["a", "b", "c", "d"].iter().flat_map(|name| [op(name, 100, 5, false), op(name, 1_500, 5, false)]).collect();
    all.extend(ops);
    Evidence {
        homes: ["a", "b", "c", "d"].into_iter().enumerate().map(home).collect(),
        ops: all,
        steady: (0, 1_000_000),
        fault: (1_000_000, 3_000_000),
        end: 4_000_000,
        ..Evidence::default()
    }
}

fn holds(expect: &Expect, evidence: &Evidence) -> bool {
    finding(expect, evidence).held
}

#[test]
fn a_blast_radius_is_exact_in_both_directions() {
    let radius = Expect::Radius(Group::On(0));
    assert!(holds(&radius, &evidence(vec![op("a", 1_200, 5, true), op("c", 1_300, 5, true)])));
    let beyond = vec![op("a", 1_200, 5, true), op("c", 1_300, 5, true), op("b", 1_300, 5, true)];
    let told = finding(&radius, &evidence(beyond));
    assert!(!told.held && told.observed.contains("beyond the radius: b"), "{}", told.observed);
    let told = finding(&radius, &evidence(vec![op("a", 1_200, 5, true)]));
    assert!(!told.held && told.observed.contains("spared within it: c"), "{}", told.observed);
    assert!(!holds(&radius, &evidence(Vec::new())), "nobody was hit");
}

#[test]
fn availability_is_counted_for_its_group_and_its_part_of_the_run() {
    let failed = evidence(vec![op("a", 1_200, 5, true)]);
    assert!(!holds(&Expect::Served(Group::All, Span::Fault, 100), &failed));
    assert!(holds(&Expect::Served(Group::All, Span::Fault, 80), &failed), "one of five");
    assert!(!holds(&Expect::Served(Group::On(0), Span::Fault, 80), &failed), "one of three");
    assert!(holds(&Expect::Served(Group::NotOn(0), Span::Whole, 100), &failed));
    assert!(holds(&Expect::Served(Group::All, Span::Steady, 100), &failed));
    let nobody = Evidence { ops: Vec::new(), ..evidence(Vec::new()) };
    assert!(!holds(&Expect::Served(Group::All, Span::Whole, 1), &nobody), "nothing was sent, nothing was served");
}

#[test]
fn a_drill_whose_fault_did_not_take_place_proves_nothing() {
    let drill = catalogue::find("dead-cell").unwrap();
    for expect in [
        Expect::Swallowed,
        Expect::Slowed,
        Expect::Hurt(Group::All),
        Expect::Elected,
        Expect::Redirected(1),
        Expect::FaultIn(vec![cell_model::Phase::Hold]),
        Expect::Flooded(Group::All, 2),
        Expect::DiskFull,
    ] {
        let found = finding(&expect, &evidence(Vec::new()));
        assert!(found.exercise && !found.held, "{expect:?}: {}", found.observed);
        assert_eq!(DrillVerdict::of(&[found]), DrillVerdict::NotExercised);
    }
    assert!(judge(&drill, &evidence(Vec::new())).iter().any(|found| found.exercise && !found.held));
}

#[test]
fn without_its_key_a_tenant_is_refused_with_the_code_and_nothing_else() {
    let refused = Expect::Refused(Group::One(0), "TENANT_KEY_DISABLED");
    let asked =
        |code: &str, at_ms| Op { outcome: Outcome::Refused { code: code.into() }, ..op("a", at_ms, 5, true) };
    let told = |ops: Vec<Op>| {
        let label = "a has its key disabled".into();
        let disabled = FaultSpan { lane: keys::LANE.into(), label, from: 1_600_000, to: 2_000_000 };
        finding(&refused, &Evidence { faults: vec![disabled], ..evidence(ops) })
    };
    let held = told(vec![asked("TENANT_KEY_DISABLED", 1_700), op("a", 1_990, 20, false), op("b", 1_700, 5, false)]);
    assert!(held.held && !held.exercise, "{held:?}");
    assert!(!told(Vec::new()).held, "nobody asked");
    assert!(!told(vec![asked("TENANT_KEY_DISABLED", 1_700), op("a", 1_800, 5, false)]).held, "it was served");
    let other = told(vec![asked("TENANT_KEY_DISABLED", 1_700), asked("NO_LEASE", 1_800)]);
    assert!(!other.held && other.observed.contains("NO_LEASE"), "{other:?}");
}

#[test]
fn what_was_felt_is_failed_or_long() {
    let hurt = Expect::Hurt(Group::On(0));
    assert!(holds(&hurt, &evidence(vec![op("a", 1_200, 600, false)])));
    assert!(holds(&hurt, &evidence(vec![op("a", 1_200, 6, true)])));
    assert!(!holds(&hurt, &evidence(vec![op("b", 1_200, 600, true), op("a", 200, 600, true)])));
}

#[test]
fn a_lost_write_fails_every_drill_and_outweighs_what_was_not_exercised() {
    let drill = catalogue::find("leader-alone").unwrap();
    let mut lost = evidence(Vec::new());
    let finals: BTreeMap<_, _> = [(std::sync::Arc::from("a"), FinalTenant::default())].into();
    lost.findings = check(&lost.ops, &finals);
    let findings = judge(&drill, &lost);
    let found = findings.iter().find(|found| found.statement.contains("is lost")).unwrap();
    assert!(!found.held && found.observed.contains("a k"), "{}", found.observed);
    assert_eq!(DrillVerdict::of(&findings), DrillVerdict::Fail);
}

#[test]
fn an_unsteady_state_a_second_owner_and_a_fallen_process_fail_every_drill() {
    let broken = |evidence: &Evidence| always(evidence).into_iter().filter(|found| !found.held).count();
    assert_eq!(broken(&evidence(Vec::new())), 0);
    assert_eq!(broken(&evidence(vec![op("a", 300, 5, true)])), 1);
    assert_eq!(broken(&Evidence { mismatches: vec!["two".into()], ..evidence(Vec::new()) }), 1);
    assert_eq!(broken(&Evidence { trouble: vec!["fell".into()], ..evidence(Vec::new()) }), 1);
}

#[test]
fn what_was_under_way_when_the_fault_came_is_the_faults_doing_and_what_hung_before_is_not() {
    let steady = Expect::Served(Group::All, Span::Steady, 100);
    assert!(holds(&steady, &evidence(vec![op("a", 990, 5_000, true)])));
    assert!(!holds(&steady, &evidence(vec![op("a", 400, 5_000, true)])));
    assert!(!holds(&steady, &evidence(vec![op("a", 990, 5, true)])));
}

#[test]
fn recovery_is_over_when_the_last_request_has_failed() {
    let late = evidence(vec![op("a", 2_900, 5, true), op("a", 3_400, 5, true)]);
    assert!(holds(&Expect::Back(400), &late) && !holds(&Expect::Back(399), &late));
}

#[test]
fn a_former_owner_that_serves_one_request_after_the_cutover_is_caught() {
    let moved = MoveTrace { phases: vec![("activate".into(), 1_500_000)], ..MoveTrace::default() };
    let haunted = |ops| Evidence { haunted: ops, moves: vec![moved.clone()], ..evidence(Vec::new()) };
    let refused = || op("a", 2_000, 5, true);
    assert!(holds(&Expect::NotHaunted, &haunted(vec![op("a", 1_400, 5, false), refused()])));
    assert!(!holds(&Expect::NotHaunted, &haunted(vec![refused(), op("a", 1_600, 5, false)])));
    assert!(!holds(&Expect::NotHaunted, &haunted(Vec::new())), "nobody called");
}

#[test]
fn a_command_must_be_quick_and_must_be_there_at_the_end() {
    let asked = |code: &str, took_ms, kept| Evidence {
        commands: vec![Answered {
            what: "create".into(),
            at: 0,
            took_ms,
            code: code.into(),
            wanted: String::new(),
            made: Some("t".into()),
            kept,
        }],
        ..evidence(Vec::new())
    };
    assert!(holds(&Expect::Commands(100), &asked("", 100, true)));
    assert!(!holds(&Expect::Commands(99), &asked("", 100, true)));
    assert!(!holds(&Expect::Commands(100), &asked("", 5, false)), "acknowledged, and not there");
    assert!(!holds(&Expect::Commands(100), &asked("UNAVAILABLE", 5, true)));
}

#[test]
fn a_fault_meets_the_phase_that_the_move_was_in_when_it_began() {
    let fault = |from| FaultSpan { lane: "network".into(), label: "cut".into(), from, to: 9_000_000 };
    let one = MoveTrace {
        phases: vec![("sync".into(), 1_000_000), ("hold".into(), 2_000_000), ("soak".into(), 2_100_000)],
        end: "completed".into(),
        ended: 2_500_000,
        ..MoveTrace::default()
    };
    let during = |from| Evidence { moves: vec![one.clone()], faults: vec![fault(from)], ..evidence(Vec::new()) };
    let hold = Expect::FaultIn(vec![cell_model::Phase::Hold]);
    assert!(holds(&hold, &during(2_050_000)));
    assert!(
        !holds(&hold, &during(1_900_000)) && !holds(&hold, &during(2_200_000)) && !holds(&hold, &during(2_600_000))
    );
}

#[test]
fn every_drill_says_what_it_believes_and_how_it_knows_that_it_took_place() {
    let drills = catalogue::all();
    let names: BTreeSet<&str> = drills.iter().map(|drill| drill.name).collect();
    assert_eq!(names.len(), drills.len(), "each has a name of its own");
    for drill in &drills {
        let exercises = drill.expects.iter().filter(|expect| expect.is_exercise()).count();
        assert!(exercises >= 1 && exercises < drill.expects.len(), "{}", drill.name);
        assert!(!drill.script.is_empty() && drill.hypothesis.len() > 60, "{}", drill.name);
    }
}

#[test]
fn who_is_beside_a_tenant_is_on_its_cell_and_is_not_the_tenant() {
    let evidence = evidence(Vec::new());
    let names = |group| evidence.members(group).into_iter().map(|home| home.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(Group::Beside(0)), ["c"]);
    assert_eq!(names(Group::Beside(3)), ["b"]);
    assert!(names(Group::Beside(9)).is_empty());
}
