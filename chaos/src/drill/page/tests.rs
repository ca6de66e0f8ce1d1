use super::super::report::tests::sample;
use super::*;

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
    let mixed = summary(&[failed, passed.clone()]);
    assert!(mixed.contains("href=\"leader-alone.html\"") && mixed.contains("href=\"other.html\""));
    assert!(mixed.contains("not all pass") && mixed.contains("1 of 2"));
    assert!(!summary(&[passed]).contains("not all pass"));
}

#[test]
fn days_are_days_and_almost_all_is_not_all() {
    assert_eq!(date(0), "1970-01-01 00:00 UTC");
    assert_eq!(date(951_782_400_000), "2000-02-29 00:00 UTC");
    assert_eq!(date(1_795_258_740_000), "2026-11-21 10:59 UTC");
    assert_eq!(percent(Tally { sent: 100_000, failed: 1 }), "99.99 %");
    assert_eq!(percent(Tally { sent: 3, failed: 0 }), "100 %");
}
