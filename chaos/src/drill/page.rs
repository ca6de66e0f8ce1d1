//! One drill on one page, whole in itself: no script, no other file, fit to be printed and kept.
//!
//! The picture ([`chart`]) lays what was done above what was seen, on one axis of time.

mod chart;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use super::report::{DrillReport, NotRun, escaped};
use super::verdict::{DrillVerdict, Finding, Tally};

const STYLE: &str = include_str!("page/style.css");

/// The page of one drill.
#[must_use]
pub fn of(report: &DrillReport) -> String {
    let mut body = head_of(report);
    body.push_str(&figures(report));
    let _ =
        write!(body, "<h2>What was done, and what was seen</h2><div class=\"chart\">{}</div>", chart::of(report));
    let (exercise, promises): (Vec<&Finding>, Vec<&Finding>) =
        report.findings.iter().partition(|finding| finding.exercise);
    body.push_str(&findings("Did the experiment take place?", &exercise));
    body.push_str(&findings("Did it hold?", &promises));
    body.push_str(&availability(report));
    body.push_str(&moves(report));
    body.push_str(&commands(report));
    let _ = write!(
        body,
        "<h2>Run it again</h2><pre>{}\ncellctl drill replay {}.json</pre>",
        escaped(&report.reproduction()),
        escaped(&report.drill)
    );
    document(&format!("{} · {}", report.drill, report.verdict.as_str()), &body)
}

/// The page of all drills of a directory, also of those that have no report.
#[must_use]
pub fn summary(reports: &[DrillReport], not_run: &[NotRun]) -> String {
    let passed = reports.iter().filter(|report| report.verdict == DrillVerdict::Pass).count();
    let left_out = not_run.iter().filter(|one| !one.began).count();
    let all_pass = passed == reports.len() && left_out == not_run.len();
    let (class, word) = if all_pass { ("pass", "pass") } else { ("fail", "not all pass") };
    let newest = reports.iter().map(|report| report.ended_unix_ms).max().unwrap_or(0);
    let skipped = if left_out == 0 { String::new() } else { format!(", <b>{left_out}</b> skipped") };
    let mut body = format!(
        "<header><div><h1>Drills of a cell fleet</h1><div class=\"meta\"><b>{passed} of {}</b> passed{skipped} · {} requests, \
         <b>{}</b> acknowledged writes checked one by one · {}</div></div><div class=\"verdict {class}\">{word}</div></header>\
         <table><tr><th>drill</th><th>what was done</th><th>verdict</th><th class=\"n\">held</th>\
         <th class=\"n\">requests</th><th class=\"n\">failed</th><th class=\"n\">seconds</th></tr>",
        reports.len() + not_run.len() - left_out,
        reports.iter().map(|report| report.requests).sum::<usize>(),
        reports.iter().map(|report| report.acked_writes).sum::<u64>(),
        date(newest),
    );
    reports.iter().for_each(|report| summary_row(&mut body, report));
    for one in not_run {
        let color = if one.began { "no" } else { "maybe" };
        // Writing to a string cannot fail.
        let _ = write!(
            body,
            "<tr><td>{}</td><td>{}</td><td class=\"{color}\"><b>– {}</b></td><td class=\"n\" colspan=\"4\"></td></tr>",
            escaped(&one.drill),
            escaped(&one.reason),
            one.as_str()
        );
    }
    body.push_str("</table>");
    document("Drills", &body)
}

fn summary_row(body: &mut String, report: &DrillReport) {
    let held = report.findings.iter().filter(|finding| finding.held).count();
    let failed: usize = report.buckets.iter().map(|bucket| bucket.failed).sum();
    let (sign, color) = sign_of(report.verdict);
    let _ = write!(
        body,
        "<tr><td><a href=\"{0}.html\">{0}</a></td><td>{1}</td><td class=\"{color}\"><b>{sign} {2}</b></td>\
         <td class=\"n\">{held} of {3}</td><td class=\"n\">{4}</td><td class=\"n\">{failed}</td><td class=\"n\">{5:.0}</td></tr>",
        escaped(&report.drill),
        escaped(&report.title),
        report.verdict.as_str(),
        report.findings.len(),
        report.requests,
        report.seconds
    );
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{}</title><style>{STYLE}</style></head><body><main>{body}\
         <footer>Written by <code>cellctl drill</code>. Availability and latency are what clients measured; the checks \
         of writes compare each acknowledged request with what is there at the end.</footer></main></body></html>\n",
        escaped(title)
    )
}

fn head_of(report: &DrillReport) -> String {
    let planted = if report.planted.is_empty() {
        String::new()
    } else {
        format!(" · <b>planted fault: {}</b>", escaped(&report.planted))
    };
    let class = report.verdict.as_str().replace(' ', "-");
    format!(
        "<header><div><h1>{}</h1><div class=\"meta\">drill <b>{}</b> · seed <b>{}</b> · wired by <b>{}</b> · {} · \
         Cellway {}{planted}</div></div><div class=\"verdict {class}\">{}</div></header>\
         <div class=\"cards\"><div class=\"card\"><h3>Hypothesis</h3><p>{}</p></div>\
         <div class=\"card\"><h3>Steady state</h3><p>{}</p></div><div class=\"card\"><h3>Fault</h3><p>{}</p></div></div>",
        escaped(&report.title),
        escaped(&report.drill),
        report.seed,
        report.net.as_str(),
        date(report.ended_unix_ms),
        escaped(&report.version),
        report.verdict.as_str(),
        escaped(&report.hypothesis),
        escaped(&report.steady_state),
        escaped(&report.fault)
    )
}

fn figures(report: &DrillReport) -> String {
    let sum = |of: fn(&super::report::CellRow) -> Tally| {
        report
            .cells
            .iter()
            .map(of)
            .fold(Tally::default(), |all, one| Tally { sent: all.sent + one.sent, failed: all.failed + one.failed })
    };
    let (fault, after) = (sum(|row| row.fault), sum(|row| row.after));
    let hit = report.tenants.iter().filter(|row| row.fault.failed + row.after.failed > 0).count();
    let worst = report.tenants.iter().map(|row| row.worst_ms).max().unwrap_or(0);
    let card = |name: &str, figure: String, beside: String| {
        format!("<div class=\"card\"><h3>{name}</h3><p>{figure}<small>{beside}</small></p></div>")
    };
    let cards = [
        card("Requests", report.requests.to_string(), format!("{} acknowledged writes", report.acked_writes)),
        card("Answered in the fault", percent(fault), format!("{} of {} failed", fault.failed, fault.sent)),
        card("Answered afterwards", percent(after), format!("{} of {} failed", after.failed, after.sent)),
        card("Tenants hit", format!("{hit} of {}", report.tenants.len()), "with a failed request".into()),
        card("Longest request", format!("{worst} ms"), "a client gives up after 5,000".into()),
    ];
    format!("<div class=\"figures\">{}</div>", cards.concat())
}

fn findings(title: &str, findings: &[&Finding]) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let row = |finding: &&Finding| {
        let (sign, color, class) = match (finding.held, finding.exercise) {
            (true, _) => ("✓", "ok", ""),
            (false, true) => ("?", "maybe", " class=\"broken\""),
            (false, false) => ("✗", "no", " class=\"broken\""),
        };
        let (statement, observed) = (escaped(&finding.statement), escaped(&finding.observed));
        let ids = finding.invariants.iter().map(|id| format!("<b>{}</b> ", escaped(id))).collect::<String>();
        format!(
            "<tr{class}><td class=\"sign {color}\">{sign}</td><td>{ids}{statement}</td><td class=\"seen\">{observed}</td></tr>"
        )
    };
    let rows: String = findings.iter().map(row).collect();
    format!("<h2>{title}</h2><table><tr><th></th><th>what must be</th><th>what was seen</th></tr>{rows}</table>")
}

fn availability(report: &DrillReport) -> String {
    let head = "<th class=\"n\">before</th><th class=\"n\">fault</th><th class=\"n\">after</th>";
    let three = |steady: Tally, fault: Tally, after: Tally| [steady, fault, after].map(shaded).concat();
    let cells: String = report
        .cells
        .iter()
        .map(|row| format!("<tr><td>cell-{}</td>{}</tr>", row.cell, three(row.steady, row.fault, row.after)))
        .collect();
    let mut sorted: Vec<_> = report.tenants.iter().collect();
    sorted.sort_by_key(|row| (row.cell, row.name.clone()));
    let tenants: String = sorted
        .iter()
        .map(|row| {
            let figures = three(row.steady, row.fault, row.after);
            let (name, cell, worst) = (escaped(&row.name), row.cell, row.worst_ms);
            format!("<tr><td>{name}</td><td>cell-{cell}</td>{figures}<td class=\"n\">{worst}</td></tr>")
        })
        .collect();
    format!(
        "<h2>Availability, as clients measured it</h2><div class=\"two\"><table><tr><th>tenants that began on</th>{head}</tr>\
         {cells}</table><table><tr><th>tenant</th><th>began on</th>{head}<th class=\"n\">longest ms</th></tr>{tenants}</table></div>"
    )
}

fn moves(report: &DrillReport) -> String {
    if report.moves.is_empty() {
        return String::new();
    }
    const SHOWN: usize = 24;
    let row = |one: &super::evidence::MoveTrace| {
        let began = one.phases.first().map_or(0, |(_, at)| *at);
        let seconds = one.ended.saturating_sub(began) as f64 / 1e6;
        let reason = if one.reason.is_empty() { String::new() } else { format!(" · {}", one.reason) };
        let end = if one.end.is_empty() { "unfinished" } else { &one.end };
        format!(
            "<tr><td>{}</td><td>{}</td><td>{} → {}</td><td class=\"n\">{seconds:.1}</td><td>{}</td></tr>",
            escaped(&one.id),
            escaped(&one.tenant),
            escaped(&one.source),
            escaped(&one.target),
            escaped(&format!("{end}{reason}"))
        )
    };
    let rows: String = report.moves.iter().take(SHOWN).map(row).collect();
    let more = report.moves.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!("<tr><td colspan=\"5\">and {more} more</td></tr>") };
    format!(
        "<h2>Moves</h2><table><tr><th>move</th><th>tenant</th><th>from, to</th><th class=\"n\">seconds</th><th>end</th></tr>\
         {rows}{more}</table>"
    )
}

fn commands(report: &DrillReport) -> String {
    if report.commands.is_empty() {
        return String::new();
    }
    let row = |one: &super::evidence::Answered| {
        let answer = if one.code.is_empty() { "done" } else { &one.code };
        let at = one.at.saturating_sub(report.parts.steady.0) as f64 / 1e6;
        format!(
            "<tr><td class=\"n\">{at:.1}</td><td>{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            escaped(&one.what),
            one.took_ms,
            escaped(answer)
        )
    };
    let rows: String = report.commands.iter().map(row).collect();
    format!(
        "<h2>Commands to the control plane</h2><table><tr><th class=\"n\">at second</th><th>command</th>\
         <th class=\"n\">ms</th><th>answer</th></tr>{rows}</table>"
    )
}

fn sign_of(verdict: DrillVerdict) -> (&'static str, &'static str) {
    match verdict {
        DrillVerdict::Pass => ("✓", "ok"),
        DrillVerdict::Fail => ("✗", "no"),
        DrillVerdict::NotExercised => ("?", "maybe"),
    }
}

fn percent(tally: Tally) -> String {
    match (tally.sent, tally.failed) {
        (0, _) => "–".into(),
        (_, 0) => "100 %".into(),
        // Never rounded up to what it was not.
        _ => format!("{:.2} %", (tally.percent() * 100.0).floor() / 100.0),
    }
}

/// The redder, the more has failed.
fn shaded(tally: Tally) -> String {
    let lost = if tally.sent == 0 { 0.0 } else { 1.0 - tally.percent() / 100.0 };
    let shade = if lost > 0.0 { 0.12 + lost * 0.5 } else { 0.0 };
    format!("<td class=\"n\" style=\"background:rgba(194,49,47,{shade:.2})\">{}</td>", percent(tally))
}

/// A day and a time, in UTC (Howard Hinnant's civil_from_days).
fn date(unix_ms: u64) -> String {
    let (days, second) = (unix_ms / 86_400_000, unix_ms / 1_000 % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year_of_era + era * 400 + carry;
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", second / 3_600, second / 60 % 60)
}
