use super::super::verdict::judge;
use super::*;
use crate::history::{Action, Outcome};

/// A report of a run that nobody made, with one finding of each kind broken.
pub(in super::super) fn sample() -> DrillReport {
    let drill = crate::drill::catalogue::find("leader-alone").unwrap();
    let options = RunOptions {
        seed: 7,
        net: Net::Proxy,
        program: "cellctl".into(),
        directory: "d".into(),
        run: "r".into(),
        plant: None,
    };
    let op = |at: Micros, failed: bool| Op {
        session: 1,
        tenant: "t-1".into(),
        action: Action::Get { key: "k".into() },
        invoked: at,
        returned: at + 4_000,
        outcome: if failed { Outcome::Unknown { reason: "<x>".into() } } else { Outcome::Read(None) },
        failed,
    };
    let evidence = Evidence {
        homes: vec![super::super::evidence::Home { name: "t-1".into(), cell: 0 }],
        ops: vec![op(100_000, false), op(1_100_000, true), op(1_110_000, false), op(2_400_000, false)],
        steady: (0, 1_000_000),
        fault: (1_000_000, 2_000_000),
        end: 3_000_000,
        faults: vec![FaultSpan {
            lane: "network".into(),
            label: "a ⇎ b & c".into(),
            from: 1_000_000,
            to: 2_000_000,
        }],
        moves: vec![MoveTrace {
            id: "m-1".into(),
            tenant: "t-1".into(),
            source: "cell-1".into(),
            target: "cell-2".into(),
            end: "completed".into(),
            phases: vec![("sync".into(), 500_000), ("activate".into(), 1_200_000), ("soak".into(), 1_250_000)],
            ended: 2_000_000,
            ..MoveTrace::default()
        }],
        samples: vec![Sample { at: 0, leader: "control-1".into(), term: 1, staleness_ms: vec![Some(20), None] }],
        trouble: vec!["<script>alert(1)</script>".into()],
        ..Evidence::default()
    };
    let findings = judge(&drill, &evidence);
    DrillReport::new(&drill, &options, evidence, findings, Duration::from_secs(9))
}

#[test]
fn a_report_reads_back_as_it_was_written_and_says_how_to_run_it_again() {
    let report = sample();
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<DrillReport>(&text).unwrap(), report);
    assert_eq!(report.reproduction(), "cellctl drill run leader-alone --seed 7 --net proxy");
    assert_eq!(report.verdict, DrillVerdict::Fail);
}

#[test]
fn requests_are_counted_before_during_and_after_and_by_quarter_seconds() {
    let report = sample();
    let row = &report.tenants[0];
    let tally = |sent, failed| Tally { sent, failed };
    assert_eq!((row.steady, row.fault, row.after), (tally(1, 0), tally(2, 1), tally(1, 0)));
    assert_eq!(report.buckets.len(), 12);
    assert_eq!((report.buckets[4].done, report.buckets[4].failed, report.buckets[4].p99_ms), (1, 1, 4.0));
    assert_eq!(report.buckets.iter().map(|bucket| bucket.done + bucket.failed).sum::<usize>(), 4);
}

#[test]
fn each_finding_is_a_case_of_junit_and_each_broken_one_a_failure() {
    let report = sample();
    let text = junit_of_all(std::slice::from_ref(&report), &[]);
    let count = |what: &str| text.matches(what).count();
    assert_eq!((count("<testcase "), count("<failure ")), (report.findings.len(), report.broken().count()));
    assert!(count("<failure ") > 0 && text.contains("type=\"not exercised\"") && text.contains("type=\"fail\""));
    assert!(!text.contains("<script>") && text.contains("&lt;script&gt;"));
}

#[test]
fn a_report_has_the_verdict_of_its_findings_whatever_its_file_says() {
    let honest = sample();
    let doctored = DrillReport { verdict: DrillVerdict::Pass, ..honest.clone() };
    assert_eq!(doctored.judged_anew().unwrap(), honest);
    let emptied = DrillReport { findings: Vec::new(), verdict: DrillVerdict::Pass, ..honest };
    assert!(emptied.judged_anew().unwrap_err().contains("no findings"));
}

#[test]
fn what_did_not_run_is_a_suite_of_its_own() {
    let left_out = NotRun::new("full-disk", false, "needs <root>".into());
    let broken_off = NotRun::new("dead-cell", true, "no port".into());
    let text = junit_of_all(&[], &[left_out, broken_off]);
    assert!(text.contains("skipped=\"1\"") && text.contains("<skipped message=\"needs &lt;root&gt;\"/>"), "{text}");
    assert!(text.contains("errors=\"1\"") && text.contains("<error message=\"no port\"/>"), "{text}");
    assert_eq!(text.matches("<testsuite ").count(), 2);
}
