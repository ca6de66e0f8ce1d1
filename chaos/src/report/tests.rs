//! What a report makes of its evidence.

use super::*;
use crate::history::{Action, Outcome};

fn a_move(end: &str) -> MoveReport {
    MoveReport {
        id: "m-1".into(),
        tenant: "t-1".into(),
        source: "c1".into(),
        target: "c2".into(),
        twist: "plain".into(),
        fault: false,
        end: end.into(),
        wanted_end: "completed".into(),
        reason: String::new(),
        attempts: 1,
        seconds: 2.0,
        rows: 10,
        exercise: Exercise { write_holds: vec![9_000], ..Exercise::default() },
        served_early: 0,
        not_exercised: None,
    }
}

fn evidence() -> Evidence {
    let op = Op {
        session: 1,
        tenant: "t-1".into(),
        action: Action::Increment { counter: "c".into(), nonce: 1 },
        invoked: 0,
        returned: 1_000,
        outcome: Outcome::Counted { value: 1 },
        failed: false,
    };
    let end = crate::check::FinalTenant { counters: [("c".to_owned(), 1)].into(), ..Default::default() };
    Evidence {
        seed: 1,
        planted: None,
        seconds: 1.0,
        load_seconds: 1.0,
        tenants: 1,
        writes_per_second_wanted: 1,
        findings: crate::check::check(&[op], &[("t-1".into(), end)].into()),
        failed: Failed::default(),
        request_ms: Latencies::default(),
        moves: vec![a_move("completed")],
        observed: Observed::default(),
    }
}

#[test]
fn a_run_in_which_all_went_well_passes() {
    let report = Report::new(evidence());
    assert_eq!((report.verdict, report.reasons.as_slice()), (Verdict::Pass, &[][..]));
    assert!((report.write_hold_ms.max - 9.0).abs() < 1e-9);
    assert!(report.summary().contains("1 completed"), "{}", report.summary());
}

/// A reason that must be named, and what brings it about.
type Spoilt = (&'static str, fn(&mut Evidence));

#[test]
fn every_promise_that_was_not_kept_fails_the_run() {
    let spoil: [Spoilt; 11] = [
        ("before it owned", |evidence| evidence.moves[0].served_early = 1),
        ("requests failed", |evidence| evidence.failed.count = 1),
        ("copies differ", |evidence| evidence.observed.mismatches.push("t-1".into())),
        ("a process fell", |evidence| evidence.observed.trouble.push("a process fell".into())),
        ("were not exercised", |evidence| evidence.writes_per_second_wanted = 500),
        ("were not exercised", |evidence| evidence.moves[0].not_exercised = Some("no write".into())),
        ("were not exercised", |evidence| {
            let untouched = vec!["no order was made".to_owned()];
            let counts = Counts::default();
            evidence.observed.shop = Some(ShopReport { counts, orders_while_moving: 0, untouched });
        }),
        ("transactions are there in part", |evidence| {
            evidence.findings.add(FaultKind::Torn, &"t-1".into(), "order 1", 1, "it has no lines".into());
        }),
        ("is aborted", |evidence| evidence.moves[0].end = "aborted".into()),
        ("is unfinished", |evidence| evidence.moves[0].end = "unfinished".into()),
        ("writes are lost", |evidence| {
            let post = Action::Post { nonce: 1 };
            let outcome = Outcome::Created { id: "d".into() };
            let op = Op {
                session: 1,
                tenant: "t-1".into(),
                action: post,
                invoked: 0,
                returned: 1,
                outcome,
                failed: false,
            };
            evidence.findings = crate::check::check(&[op], &BTreeMap::new());
        }),
    ];
    for (reason, spoil) in spoil {
        let mut evidence = evidence();
        spoil(&mut evidence);
        let report = Report::new(evidence);
        assert_eq!(report.verdict, Verdict::Fail, "{reason}");
        assert!(report.reasons.iter().any(|given| given.contains(reason)), "{reason}: {:?}", report.reasons);
    }
}

#[test]
fn the_json_has_what_is_promised_of_it() {
    let json = serde_json::to_value(Report::new(evidence())).unwrap();
    for field in [
        "acked_writes",
        "lost_writes",
        "duplicated_writes",
        "reordered_writes",
        "failed_requests",
        "stale_redirects",
        "not_exercised",
        "verify_mismatches",
    ] {
        assert!(json[field].is_u64(), "{field}");
    }
    for field in ["completed", "cancelled", "rolled_back", "aborted"] {
        assert!(json["moves"][field].is_u64(), "{field}");
    }
    for field in ["p50", "p99", "max"] {
        assert!(json["write_hold_ms"][field].is_f64() && json["read_gap_ms"][field].is_f64(), "{field}");
    }
    assert_eq!(json["verdict"], "pass");
    assert_eq!(json["apiVersion"], "cellway.dev/v1");
}

#[test]
fn a_gap_that_nobody_met_holds_no_limit() {
    let figures = crate::figures::of(&Report::new(evidence()));
    let holds = |measure: &str| figures.iter().find(|figure| figure.measure == measure).unwrap().holds();
    assert!(holds("write hold without a fault, p99"), "one write was held for 9 ms");
    assert!(!holds("read gap without a fault, p99") && !holds("commit to router, p99"));
}
