//! Plans and placements for people, as text.

use std::fmt::Write as _;

use cell_planner::{CellChange, Goal, Left, Plan, PlannedMove, Reason, Verdict};

use super::{Loaded, plural};
use crate::render::table;

/// Tenants that stay although they should not are explained up to this many.
const LEFT_SHOWN: usize = 10;
/// Tenants on no cell that are named.
const WAITING_SHOWN: usize = 5;
/// Steps of the curve that are shown.
const CURVE_SHOWN: usize = 8;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A plan of moves.
pub(super) fn plan(plan: &Plan, loaded: &Loaded, headers: bool) -> String {
    let mut text = format!("{} of {} at revision {}\n", goal(&plan.request.goal), loaded.origin, plan.parent);
    push(&mut text, &format!("  {}: {}\n\n", verdict(plan.verdict), plan.why));
    push(&mut text, &summary(plan));
    if plan.moves > 0 {
        text.push('\n');
        text.push_str(&table(&["WAVE", "TENANT", "FROM", "TO", "COPIES", "REASON"], move_rows(plan), headers));
        text.push('\n');
        let columns = ["CELL", "TENANTS", "FULLEST BEFORE", "", "FULLEST AFTER", ""];
        text.push_str(&table(&columns, plan.cells.iter().map(cell_row), headers));
    }
    if !plan.left.is_empty() {
        push(&mut text, &left(&plan.left, plan.left_unlisted));
    }
    if plan.moves > 0 {
        let next = if loaded.is_live {
            "next: write it with -o json > plan.json, look at it again, then `cellctl apply -f plan.json`\n"
        } else {
            "next: -o html > plan.html shows it as a page; a plan of the live fleet can be applied\n"
        };
        text.push('\n');
        text.push_str(next);
    }
    text
}

/// The tenants that would move.
pub(super) fn names(plan: &Plan) -> String {
    let moves = plan.waves.iter().flat_map(|wave| &wave.moves);
    moves.map(|planned| format!("tenant/{}\n", planned.tenant)).collect()
}

fn push(text: &mut String, more: &str) {
    text.push_str(more);
}

pub(super) fn goal(goal: &Goal) -> String {
    match goal {
        Goal::Repair => "repair".into(),
        Goal::Rebalance => "rebalance".into(),
        Goal::Drain { cells } => {
            let names: Vec<&str> = cells.iter().map(cell_model::CellId::as_str).collect();
            format!("drain of {}", names.join(", "))
        }
    }
}

pub(super) const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::NothingToDo => "nothing to do",
        Verdict::Reached => "reached",
        Verdict::Partly => "reached in part",
        Verdict::Stuck => "nothing can be done",
    }
}

fn summary(plan: &Plan) -> String {
    let quality = &plan.quality;
    let mut text = String::new();
    let mut line = |name: &str, value: String| push(&mut text, &format!("  {name:<14}{value}\n"));
    let to = if plan.moves > 0 { format!(" → {}", percent(quality.hottest_after)) } else { String::new() };
    line("fullest cell", format!("{}{to}", percent(quality.hottest_before)));
    line("lower bound", format!("{}: {}", percent(quality.lower_bound), distance(plan)));
    if let Some(told) = waiting(plan) {
        line("waiting", told);
    }
    if plan.moves == 0 {
        return text;
    }
    let waves = plural(plan.waves.len(), "wave");
    let took = seconds(plan.seconds);
    line(
        "moves",
        format!(
            "{} in {waves}, {} copied, about {took} if the waves follow each other",
            plan.moves,
            size(plan.bytes)
        ),
    );
    line("worth it", curve(&quality.curve));
    let back = if plan.undo.feasible { "open: feasible at every step" } else { "leads back to what was wrong" };
    line("way back", back.into());
    text
}

/// Who is on no cell, if anybody is.
pub(super) fn waiting(plan: &Plan) -> Option<String> {
    let waiting = &plan.waiting;
    let names: Vec<&str> = waiting.first.iter().take(WAITING_SHOWN).map(cell_model::TenantId::as_str).collect();
    let more = if waiting.tenants > names.len() { " …" } else { "" };
    let is = if waiting.tenants == 1 { "is" } else { "are" };
    let told = format!("{} {is} on no cell: {}{more}", plural(waiting.tenants, "tenant"), names.join(", "));
    (waiting.tenants > 0).then(|| format!("{told}; `cellctl plan place` finds cells"))
}

/// How far from the best that is possible.
pub(super) fn distance(plan: &Plan) -> String {
    let quality = &plan.quality;
    if quality.gap < 5e-5 {
        return "no placement of these tenants is better".into();
    }
    let distance = format!("at most {} above the best that is possible", percent(quality.gap));
    // A cap on moves may be what is in the way.
    if quality.lower_bound_of_moves < quality.lower_bound + 5e-4 {
        return distance;
    }
    let (moves, least) = (plan.request.bounds.moves_max, percent(quality.lower_bound_of_moves));
    match moves {
        1 => format!("{distance}, but no single move gets below {least}"),
        moves => format!("{distance}, but no {moves} moves get below {least}"),
    }
}

fn curve(curve: &[f64]) -> String {
    let last = curve.len().saturating_sub(1);
    let mut shown: Vec<usize> = (0..CURVE_SHOWN).map(|step| last * step / (CURVE_SHOWN - 1)).collect();
    shown.dedup();
    let told: Vec<String> =
        shown.into_iter().filter_map(|at| Some(format!("{at}: {}", percent(*curve.get(at)?)))).collect();
    format!("fullest cell after so many moves: {}", told.join(", "))
}

fn move_rows(plan: &Plan) -> impl Iterator<Item = Vec<String>> + '_ {
    let numbered = (1..).zip(&plan.waves);
    numbered.flat_map(|(number, wave)| wave.moves.iter().map(move |planned| move_row(number, planned)))
}

fn move_row(wave: usize, planned: &PlannedMove) -> Vec<String> {
    let (source, target) = (planned.source.to_string(), planned.target.to_string());
    vec![wave.to_string(), planned.tenant.to_string(), source, target, size(planned.bytes), reason(&planned.reason)]
}

/// Why a tenant moves, in some words.
pub(super) fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Violation { filter } => format!("may not be there: {filter}"),
        Reason::Overloaded { source_per_mille, after_per_mille } => {
            format!("above budget: {} → {}", per_mille(*source_per_mille), per_mille(*after_per_mille))
        }
        Reason::Drain => "its cell is emptied".into(),
        Reason::Exchange { with } => format!("changes places with {with}"),
        Reason::MakeRoom { waits } => format!("makes room for {waits}"),
        Reason::Hot { source_per_mille, after_per_mille } => {
            format!("hot: {} → {}", per_mille(*source_per_mille), per_mille(*after_per_mille))
        }
    }
}

fn cell_row(change: &CellChange) -> Vec<String> {
    let top = change.hours_before.iter().chain(&change.hours_after).copied().fold(1.0, f64::max);
    vec![
        change.cell.to_string(),
        format!("{} → {}", change.tenants_before, change.tenants_after),
        format!("{} {}", percent(change.before.share), change.before.at),
        sparkline(&change.hours_before, top),
        format!("{} {}", percent(change.after.share), change.after.at),
        sparkline(&change.hours_after, top),
    ]
}

fn left(left: &[Left], unlisted: usize) -> String {
    let mut text = format!("\nstay although they should not ({}):\n", left.len() + unlisted);
    for of in left.iter().take(LEFT_SHOWN) {
        push(&mut text, &format!("  {} on {}: {}\n", of.tenant, of.cell, of.why));
        let Some(decision) = &of.decision else { continue };
        for refused in &decision.refused {
            // Writing to a string cannot fail.
            let asked = plural(decision.cells_asked as usize, "cell");
            let _ = writeln!(text, "    {} of {asked}: {}", refused.cells, refused.code);
        }
        for counterfactual in &decision.counterfactuals {
            let _ = writeln!(text, "    {}", counterfactual.sentence);
        }
    }
    let more = (left.len() + unlisted).saturating_sub(LEFT_SHOWN);
    if more > 0 {
        push(&mut text, &format!("  and {more} more: -o json has them\n"));
    }
    text
}

/// One bar an hour, from 00:00.
pub(super) fn sparkline(hours: &[f64], top: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the bars")]
    let bar = |share: &f64| BARS[((share / top * 8.0).ceil() - 1.0).clamp(0.0, 7.0) as usize];
    hours.iter().map(bar).collect()
}

/// A share as people read it. A cell without budget is said to be full beyond measure.
pub(super) fn percent(share: f64) -> String {
    match share {
        share if share >= 1e4 => "∞".into(),
        // What is not nothing is not told as nothing.
        share if share > 0.0 && share < 5e-4 => "below 0.1 %".into(),
        share if share.abs() < 5e-4 => "0.0 %".into(),
        share => format!("{:.1} %", share * 100.0),
    }
}

fn per_mille(share: u32) -> String {
    percent(f64::from(share) / 1000.0)
}

/// A time as people say it.
pub(super) fn seconds(seconds: u64) -> String {
    // Nobody plans by the second of an hour, or by the minute of a day.
    let step = match seconds {
        0..3_600 => 1,
        3_600..86_400 => 60,
        _ => 3_600,
    };
    humantime::format_duration(std::time::Duration::from_secs(seconds.div_ceil(step) * step)).to_string()
}

/// Bytes in the units that disks are sold in: demands are in gigabytes of 10⁹.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_as_people_read_them() {
        assert_eq!([percent(0.8126), percent(1e6)], ["81.3 %", "∞"]);
        assert_eq!([percent(0.0), percent(-0.0), percent(-1e-9)], ["0.0 %"; 3]);
        assert_eq!([percent(0.000_49), percent(0.0005)], ["below 0.1 %", "0.1 %"]);
        assert_eq!([size(999), size(1_500_000), size(999_960_000_000)], ["999 B", "1.5 MB", "1.0 TB"]);
    }

    #[test]
    fn times_are_told_as_finely_as_they_matter() {
        assert_eq!([seconds(59), seconds(3_601), seconds(90_000)], ["59s", "1h 1m", "1day 1h"]);
    }

    #[test]
    fn an_hour_that_is_full_has_the_highest_bar_and_an_idle_one_the_lowest() {
        assert_eq!(sparkline(&[0.0, 0.5, 1.0], 1.0), "▁▄█");
        assert_eq!(sparkline(&[2.0, 1.0], 2.0), "█▄");
    }
}
