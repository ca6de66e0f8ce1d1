use super::super::evidence::MoveTrace;
use super::super::report::tests::sample;
use super::*;
use crate::clock::Micros;

#[test]
fn a_page_is_whole_in_itself_and_runs_nothing() {
    let page = of(&sample());
    for foreign in ["<script", "http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("&lt;script&gt;alert(1)"), "what was observed is shown as text");
    assert!(page.contains("a ⇎ b &amp; c"));
}

#[test]
fn a_page_says_hypothesis_verdict_seed_cutover_and_how_to_run_it_again() {
    let report = sample();
    let page = of(&report);
    for said in [
        escaped(&report.hypothesis).as_str(),
        "class=\"verdict fail\"",
        "seed <b>7</b>",
        "cutover of t-1",
        "cellctl drill run leader-alone --seed 7 --net proxy",
        "control-1 term 1",
        "50.00 %",
    ] {
        assert!(page.contains(said), "{said}");
    }
    for finding in &report.findings {
        assert!(page.contains(&escaped(&finding.statement)), "{}", finding.statement);
    }
}

#[test]
fn every_lane_lies_on_the_paper() {
    let page = of(&sample());
    let numbers = |attribute: &str| {
        let cut: Vec<f64> = page
            .split(&format!(" {attribute}=\""))
            .skip(1)
            .filter_map(|rest| rest.split('"').next()?.parse().ok())
            .collect();
        cut
    };
    assert!(numbers("x").len() > 20);
    assert!(numbers("x").iter().all(|x| (0.0..=1_100.0).contains(x)));
    assert!(!page.contains("NaN") && !page.contains("inf\""));
}

#[test]
fn the_summary_leads_to_each_page_and_is_green_only_if_all_are() {
    let failed = sample();
    let mut passed = sample();
    passed.verdict = DrillVerdict::Pass;
    passed.drill = "other".into();
    let mixed = summary(&[failed, passed.clone()], &[]);
    assert!(mixed.contains("href=\"leader-alone.html\"") && mixed.contains("href=\"other.html\""));
    assert!(mixed.contains("not all pass") && mixed.contains("1 of 2"));
    assert!(!summary(&[passed.clone()], &[]).contains("not all pass"));
    let one = |began| NotRun::new("full-disk", began, "needs <root>".into());
    let left_out = summary(&[passed.clone()], &[one(false)]);
    assert!(left_out.contains("1 of 1") && left_out.contains("skipped") && left_out.contains("needs &lt;root&gt;"));
    assert!(!left_out.contains("not all pass"));
    let broken_off = summary(&[passed], &[one(true)]);
    assert!(
        broken_off.contains("1 of 2") && broken_off.contains("no verdict") && broken_off.contains("not all pass")
    );
}

/// Ten moves and more each have a row with their phases; of more than there is room for, those whom a fault has met have one.
#[test]
fn phases_are_drawn_of_the_moves_that_a_fault_has_met_however_many_there_are() {
    let mut report = sample();
    let template = report.moves[0].clone();
    report.moves = (0..40u64)
        .map(|number| {
            let shifted = |at: Micros| at + number * 80_000;
            MoveTrace {
                id: format!("m-{number}"),
                phases: template.phases.iter().map(|(phase, at)| (phase.clone(), shifted(*at))).collect(),
                ended: shifted(1_260_000),
                ..template.clone()
            }
        })
        .collect();
    let met = |one: &MoveTrace| one.phases[0].1 <= 1_990_000 && 1_990_000 < one.ended;
    report.faults[0].from = 1_990_000;
    let page = of(&report);
    let drawn = |one: &MoveTrace| page.contains(&format!("<title>{} sync</title>", one.id));
    assert!(report.moves.iter().any(met) && report.moves.iter().filter(|one| met(one)).all(drawn));
    let rows = report.moves.iter().filter(|one| drawn(one)).count();
    assert!((10..40).contains(&rows), "{rows}");
    report.moves.truncate(10);
    let page = of(&report);
    assert!(report.moves.iter().all(|one| page.contains(&format!("<title>{} sync</title>", one.id))));
}

#[test]
fn days_are_days_and_almost_all_is_not_all() {
    assert_eq!(date(0), "1970-01-01 00:00 UTC");
    assert_eq!(date(951_782_400_000), "2000-02-29 00:00 UTC");
    assert_eq!(date(1_795_258_740_000), "2026-11-21 10:59 UTC");
    assert_eq!(percent(Tally { sent: 100_000, failed: 1 }), "99.99 %");
    assert_eq!(percent(Tally { sent: 3, failed: 0 }), "100 %");
}
