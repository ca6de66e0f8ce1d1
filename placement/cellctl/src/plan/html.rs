//! Reports as one page each: no script, nothing from outside, light and dark.

use cell_model::Revision;
use cell_planner::{CapacityReport, CellChange, Decision, Left, LossReport, Plan, SimulationReport, Verdict};

use super::chart::{self, Change, Day, Level, Line, escaped};
use super::explain::{self, Explanation};
use super::place::{self, Placements};
use super::ring::{self, Preview};
use super::text::{self, percent, size};
use super::tiers::{self, Item, Proposals};
use super::{Loaded, capacity, plural, simulate};

/// Rows of a table of a page; the JSON has them all.
const ROWS_MAX: usize = 2_000;
/// Cells of a chart of a page; those that change most.
const CELLS_MAX: usize = 40;
const STYLE: &str = include_str!("html/style.css");

/// A page in the making.
pub(super) struct Page {
    title: String,
    body: String,
}

impl Page {
    /// A page with its heading; `badge` is a word and its colour: good, bad or warn.
    pub(super) fn new(title: &str, badge: (&str, &str), under: &str) -> Self {
        let (word, colour) = badge;
        let word = if word.is_empty() {
            String::new()
        } else {
            format!("<span class=\"badge {colour}\">{}</span>", escaped(word))
        };
        let body = format!("<header><h1>{}{word}</h1><p>{}</p></header>\n", escaped(title), escaped(under));
        Self { title: title.to_owned(), body }
    }

    /// The few numbers that matter most.
    pub(super) fn tiles(&mut self, tiles: &[(String, &str)]) {
        self.body.push_str("<div class=tiles>");
        for (value, name) in tiles {
            let (value, name) = (escaped(value), escaped(name));
            self.body.push_str(&format!("<div class=tile><b>{value}</b><span>{name}</span></div>"));
        }
        self.body.push_str("</div>\n");
    }

    /// From here on it is about something else.
    fn part(&mut self, heading: &str) {
        self.body.push_str(&format!("<h1 class=part>{}</h1>\n", escaped(heading)));
    }

    /// A part with a heading, a sentence and what has been drawn.
    pub(super) fn section(&mut self, heading: &str, sentence: &str, drawn: &str) {
        let (heading, sentence) = (escaped(heading), escaped(sentence));
        self.body.push_str(&format!(
            "<section><h2>{heading}</h2><p>{sentence}</p><div class=scroll>{drawn}</div></section>\n"
        ));
    }

    pub(super) fn finish(self, next: &str) -> String {
        format!(
            "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\
             <meta name=viewport content=\"width=device-width, initial-scale=1\">\
             <title>{}</title><style>\n{STYLE}</style></head>\n<body><main>\n{}\
             <footer>cellctl {} · {}</footer>\n</main></body></html>\n",
            escaped(&self.title),
            self.body,
            env!("CARGO_PKG_VERSION"),
            escaped(next)
        )
    }
}

/// A table of a page; texts are escaped here.
pub(super) fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let cells = |tag: &str, texts: &mut dyn Iterator<Item = &str>| -> String {
        texts.map(|text| format!("<{tag}>{}</{tag}>", escaped(text))).collect()
    };
    let head = cells("th", &mut columns.iter().copied());
    let mut html = format!("<table><thead><tr>{head}</tr></thead><tbody>");
    let mut more = 0;
    for (index, row) in rows.enumerate() {
        if index >= ROWS_MAX {
            more += 1;
            continue;
        }
        let row = cells("td", &mut row.iter().map(String::as_str));
        html.push_str(&format!("<tr>{row}</tr>\n"));
    }
    html.push_str("</tbody></table>");
    if more > 0 {
        html.push_str(&format!("<p>and {more} more rows: -o json has them</p>"));
    }
    html
}

const fn badge(verdict: Verdict) -> (&'static str, &'static str) {
    let colour = match verdict {
        Verdict::NothingToDo | Verdict::Reached => "good",
        Verdict::Partly => "warn",
        Verdict::Stuck => "bad",
    };
    (text::verdict(verdict), colour)
}

/// A plan of moves.
pub(super) fn plan(plan: &Plan, loaded: &Loaded) -> String {
    let goal = text::goal(&plan.request.goal);
    let under = format!("{}. Made from {} at revision {}.", sentence(&plan.why), loaded.origin, plan.parent);
    let mut page = Page::new(&format!("Plan: {goal}"), badge(plan.verdict), &under);
    let quality = &plan.quality;
    page.tiles(&[
        (plan.moves.to_string(), if plan.waves.len() == 1 { "moves in one wave" } else { "moves, in waves" }),
        (size(plan.bytes), "copied"),
        (text::seconds(plan.seconds), "if the waves follow each other"),
        (percent(quality.hottest_before), "fullest cell now"),
        (percent(quality.hottest_after), "fullest cell then"),
        (percent(quality.lower_bound), "no placement is below this"),
    ]);
    if plan.moves > 0 {
        let levels = [
            level(quality.lower_bound, "lower bound", "bound"),
            level(plan.policy.high_water, "high water", "water"),
        ];
        let line = Line { name: "fullest", class: "after", values: &quality.curve };
        let sentence =
            "How full the fullest cell is after so many moves. Where the line flattens, further moves buy little.";
        page.section("What each move is worth", sentence, &chart::lines(&[line], &levels, "moves"));
        cells(&mut page, &plan.cells, plan.policy.high_water);
        let sentence = "Moves of one wave may run at the same time; a wave begins when the one before has ended. At every \
                        moment in between, each moving tenant counts on both cells, and no cell passes its budget that \
                        was below it before.";
        page.section("Moves", sentence, &moves(plan));
    }
    left(&mut page, "Who stays although it should not", &plan.left, plan.left_unlisted);
    if let Some(waiting) = text::waiting(plan) {
        page.section("Who waits", &format!("{waiting}."), "");
    }
    page.section("How good it is", &format!("{}.", sentence_of(&text::distance(plan))), &undo(plan));
    page.finish("times are UTC, shares are of each cell's budget, 1 GB is 10⁹ bytes")
}

pub(super) fn level(share: f64, name: &str, class: &'static str) -> Level {
    Level { share, name: name.to_owned(), class }
}

fn sentence(text: &str) -> &str {
    text.trim_end_matches('.')
}

fn sentence_of(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// The cells that take part: how full they are before and after, over the day.
fn cells(page: &mut Page, cells: &[CellChange], high_water: f64) {
    let mut order: Vec<&CellChange> = cells.iter().collect();
    let change = |of: &CellChange| (of.before.share - of.after.share).abs();
    order.sort_by(|a, b| change(b).total_cmp(&change(a)));
    let shown = order.len().min(CELLS_MAX);
    order.truncate(shown);
    order.sort_by(|a, b| b.before.share.total_cmp(&a.before.share).then(a.cell.cmp(&b.cell)));
    let changes: Vec<Change> = order
        .iter()
        .map(|of| Change {
            name: of.cell.to_string(),
            before: of.before.share,
            after: of.after.share,
            note: format!("{} → {} tenants", of.tenants_before, of.tenants_after),
        })
        .collect();
    let levels = [level(1.0, "budget", "budget"), level(high_water, "high water", "water")];
    let more = match cells.len() - shown {
        0 => String::new(),
        more => format!(" The {shown} cells that change most; {more} more are in the JSON."),
    };
    let sentence = format!("How full each cell is at its worst hour: ring before, dot after.{more}");
    page.section("Cells", &sentence, &chart::changes(&changes, &levels));
    let days: Vec<Day<'_>> = order
        .iter()
        .map(|of| Day { name: of.cell.to_string(), before: &of.hours_before, after: &of.hours_after })
        .collect();
    let sentence = "Each field is an hour (UTC): the fuller the cell's fullest resource, the stronger the colour.";
    page.section("The day", sentence, &chart::days(&days));
}

fn moves(plan: &Plan) -> String {
    let rows = (1..).zip(&plan.waves).flat_map(|(number, wave): (usize, _)| {
        wave.moves.iter().map(move |planned| {
            vec![
                number.to_string(),
                planned.tenant.to_string(),
                planned.source.to_string(),
                planned.target.to_string(),
                size(planned.bytes),
                text::reason(&planned.reason),
            ]
        })
    });
    table(&["Wave", "Tenant", "From", "To", "Copies", "Reason"], rows)
}

fn left(page: &mut Page, heading: &str, left: &[Left], unlisted: usize) {
    if left.is_empty() {
        return;
    }
    let rows = left.iter().map(|of| {
        let nearest = of.decision.as_ref().and_then(|decision| decision.counterfactuals.first());
        let nearest = nearest.map(|of| of.sentence.clone()).unwrap_or_default();
        vec![of.tenant.to_string(), of.cell.to_string(), of.why.clone(), nearest]
    });
    let drawn = table(&["Tenant", "Cell", "Why", "What would change it"], rows);
    let count = plural(left.len() + unlisted, "tenant");
    page.section(heading, &format!("{count}."), &drawn);
}

fn undo(plan: &Plan) -> String {
    if plan.moves == 0 {
        return String::new();
    }
    let told = if plan.undo.feasible {
        "The way back is open: the waves in reverse are feasible at every step."
    } else {
        "The way back leads to what was wrong: not every step of it is feasible."
    };
    format!("<p>{told}</p>")
}

/// Several placements.
pub(super) fn placements(placements: &Placements, high_water: f64) -> String {
    let items = &placements.items;
    let placed = items.iter().filter(|decision| decision.chosen.is_some()).count();
    let badge = if placed == items.len() { ("all placed", "good") } else { ("some have no cell", "bad") };
    let mut page = Page::new("Placements", badge, "Each decision is made with those before it carried out.");
    page.tiles(&[(items.len().to_string(), "tenants"), (placed.to_string(), "find a cell")]);
    if !placements.first.is_empty() {
        let columns = ["First", "Tenant", "From", "To", "Copies", "Reason"];
        let sentence = "To make room, these move one after the other before anybody is placed.";
        page.section("First", sentence, &table(&columns, (1..).zip(&placements.first).map(place::first_row)));
    }
    let rows = items.iter().map(|decision| {
        let nearest = decision.counterfactuals.first().map(|of| of.sentence.clone());
        vec![
            decision.tenant.to_string(),
            decision.chosen.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
            place::fullest(decision).unwrap_or_default(),
            explain::margin(decision).unwrap_or_default(),
            nearest.unwrap_or_default(),
        ]
    });
    let columns = ["Tenant", "Cell", "Fullest then", "Better than", "What would change it"];
    page.section("Decisions", "", &table(&columns, rows));
    if !placements.cells.is_empty() {
        cells(&mut page, &placements.cells, high_water);
    }
    page.finish("shares are of each cell's budget")
}

/// One tenant.
pub(super) fn explanation(explanation: &Explanation) -> String {
    let decision = &explanation.decision;
    let is_best = explanation.cell.as_deref() == decision.chosen.as_ref().map(cell_model::CellId::as_str);
    let badge = match (&explanation.cell, &decision.chosen) {
        _ if explanation.under.is_some() => ("it moves", "warn"),
        (Some(_), Some(_)) if is_best => ("on its best cell", "good"),
        (_, Some(_)) => ("another cell is better", "warn"),
        (_, None) => ("no cell admits it", "bad"),
    };
    let under = format!("It {}; looked at revision {}.", explain::whereabouts(explanation), decision.parent);
    let mut page = Page::new(&format!("Tenant {}", decision.tenant), badge, &under);
    page.section(
        "The decision",
        &one_line(decision),
        &format!("<pre>{}</pre>", escaped(&explain::decision(decision))),
    );
    if !decision.candidates.is_empty() {
        let changes: Vec<Change> = (1..)
            .zip(decision.candidates.iter().zip(&explanation.now))
            .map(|(place, (of, now)): (usize, _)| Change {
                name: of.cell.to_string(),
                before: *now,
                after: of.peak.share,
                note: format!("{place}. {}", of.peak.at),
            })
            .collect();
        let levels = [level(1.0, "budget", "budget"), level(explanation.high_water, "high water", "water")];
        let sentence = "How full the best cells are at their worst hour: ring now, dot with the tenant on it.";
        page.section("The best cells", sentence, &chart::changes(&changes, &levels));
    }
    page.finish("less is better in every term, and an earlier term outweighs all later ones")
}

fn one_line(decision: &Decision) -> String {
    let chosen = decision.chosen.as_ref().map_or_else(|| "no cell".to_owned(), ToString::to_string);
    format!("{chosen} out of {}", plural(decision.cells_asked as usize, "cell"))
}

/// What losses would do.
pub(super) fn losses(losses: &[LossReport], parent: Revision, high_water: f64, origin: &str) -> String {
    let stranded = losses.iter().map(|of| of.stranded.len() + of.stranded_unlisted).sum::<usize>();
    let badge = if stranded == 0 { ("everybody finds room", "good") } else { ("some find no room", "bad") };
    let names: Vec<String> = losses.iter().map(|of| capacity::name(&of.loss)).collect();
    let under = format!("{origin} at revision {parent}. Each is lost for itself.");
    let mut page = Page::new(&format!("Loss of {}", names.join(", ")), badge, &under);
    losses.iter().for_each(|of| loss(&mut page, of, high_water));
    page.finish("a lost cell's tenants are restored or taken over by force: docs/migration.md")
}

fn loss(page: &mut Page, of: &LossReport, high_water: f64) {
    let stranded = of.stranded.len() + of.stranded_unlisted;
    page.part(&format!("Loss of {}", capacity::name(&of.loss)));
    page.tiles(&[
        (of.tenants.to_string(), "tenants lose their cell"),
        (percent(of.tenants_share), "of all tenants"),
        (percent(of.blast_radius), "of all demand, where it is most"),
        (stranded.to_string(), "find no room"),
        (size(of.bytes), "to restore"),
    ]);
    if !of.takers.is_empty() {
        cells(page, &of.takers, high_water);
        let rows = of.homes.iter().map(capacity::home_row);
        let more = of.homes_unlisted;
        let more = if more == 0 { String::new() } else { format!(" {more} more are only counted.") };
        let sentence = format!("The hardest to place come first.{more}");
        page.section("Who goes where", &sentence, &table(&["Tenant", "From", "To"], rows));
    }
    left(page, "Who finds no room", &of.stranded, of.stranded_unlisted);
}

/// Who should have another tier.
pub(super) fn tiers(proposals: &Proposals) -> String {
    let badge = if proposals.items.is_empty() { ("nothing is proposed", "good") } else { ("proposals", "warn") };
    let under = format!("{}.", sentence_of(&tiers::heading(proposals)));
    let mut page = Page::new("Tiers", badge, &under);
    let up = proposals.items.iter().filter(|item| item.of.to > item.of.from).count();
    page.tiles(&[
        (up.to_string(), "have outgrown their tier"),
        ((proposals.items.len() - up).to_string(), "no longer need theirs"),
        (proposals.waiting.to_string(), "have not asked for long enough"),
        (size(proposals.items.iter().map(|item| item.of.cost.bytes).sum()), "to copy for all of them"),
    ]);
    let told = "Share of its cell that a tenant takes by itself, where that is most.";
    let assumed = tiers::assumed(proposals).map(|told| sentence_of(&told));
    let told = assumed.map_or_else(|| told.to_owned(), |assumed| format!("{told} {assumed}."));
    let unsaid = tiers::databases_unsaid(proposals).map(|told| sentence_of(&told));
    let told = unsaid.map_or_else(|| told.clone(), |unsaid| format!("{told} {unsaid}."));
    if !proposals.items.is_empty() {
        let changes: Vec<Change> = proposals
            .items
            .iter()
            .take(CELLS_MAX)
            .map(|Item { of, .. }| Change {
                name: of.tenant.to_string(),
                before: of.signal.share,
                after: of.signal.share,
                note: format!("{} → {}", of.from.as_str(), of.to.as_str()),
            })
            .collect();
        let policy = &proposals.policy;
        let levels = [level(policy.gold.enter, "gold", "bound"), level(policy.platinum.enter, "platinum", "water")];
        page.section("How large they are", &told, &chart::changes(&changes, &levels));
    }
    let columns = ["Tenant", "Has", "Wants", "Days", "Largest share", "On", "Copies", "Takes", "Leaves idle"];
    page.section("Proposals", &told, &table(&columns, proposals.items.iter().map(tiers::row)));
    let commands: Vec<String> = proposals.items.iter().filter_map(|item| item.command.clone()).collect();
    if !commands.is_empty() {
        let listed = format!("<pre>{}</pre>", escaped(&commands.join("\n")));
        page.section("Commands", "What gives each of them its tier, once that is agreed.", &listed);
    }
    page.finish(tiers::next(proposals))
}

/// Default homes.
pub(super) fn ring(preview: &Preview) -> String {
    let under = format!("{} at revision {}.", preview.origin, preview.parent);
    let mut page = Page::new("Default homes", ("", ""), &under);
    page.tiles(&[
        (preview.tenants.to_string(), "tenants"),
        (preview.changed.to_string(), "get another default home"),
        (percent(preview.churn.moved), "of all names that could be and may be anywhere"),
    ]);
    #[expect(clippy::cast_precision_loss, reason = "a share is drawn")]
    let share = |count: usize| count as f64 / preview.tenants.max(1) as f64;
    let changes: Vec<Change> = preview
        .cells
        .iter()
        .take(CELLS_MAX)
        .map(|(cell, part)| Change {
            name: cell.to_string(),
            before: share(part.tenants),
            after: share(part.tenants_then),
            note: format!("{} → {}", part.tenants, part.tenants_then),
        })
        .collect();
    let sentence = format!("{}. Ring now, dot then.", sentence_of(&ring::heading(preview)));
    page.section(
        "Of which share of tenants each cell is the default home",
        &sentence,
        &chart::changes(&changes, &[]),
    );
    page.finish("a default home is the first cell of a walk round the ring on which a tenant may ever be")
}

/// How long there is room.
pub(super) fn capacity(report: &CapacityReport, origin: &str) -> String {
    let to_add: u32 = report.zones.iter().map(|zone| zone.cells_to_add).sum();
    let lacks = report.zones.iter().any(|zone| zone.lacking.is_some());
    let badge = if to_add == 0 && !lacks { ("there is room", "good") } else { ("cells are missing", "warn") };
    let days = plural(report.request.horizon_days as usize, "day");
    let under = format!("{origin} at revision {}, {days} ahead.", report.parent);
    let mut page = Page::new("Capacity", badge, &under);
    let first = report.zones.iter().filter_map(|zone| zone.cell_breach.as_ref()).map(|breach| breach.days).min();
    page.tiles(&[
        (report.zones.len().to_string(), "zones"),
        (first.map_or_else(|| "none".into(), |days| days.to_string()), "days until the first cell is full"),
        (to_add.to_string(), "cells to add"),
        (percent(report.request.growth.monthly), "growth in 30 days"),
    ]);
    let columns =
        ["Zone", "Cells", "Tenants", "Tightest", "Now", "At the horizon", "First cell full", "Zone full", "Add"];
    let sentence = "A zone is a set of cells between which tenants may move. Its first cell is full when nobody is moved; the \
                    zone is full however well its tenants are spread.";
    page.section("Zones", sentence, &table(&columns, report.zones.iter().map(capacity::zone_row)));
    let changes: Vec<Change> = report
        .zones
        .iter()
        .flat_map(|zone| zone.uses.iter().map(move |of| (zone, of)))
        .take(CELLS_MAX)
        .map(|(zone, of)| Change {
            name: format!("{} {}", zone.zone, of.at.resource.name()),
            before: of.share,
            after: of.share_at_horizon,
            note: format!("at {:02}:00", of.at.hour),
        })
        .collect();
    let levels = [level(1.0, "budget", "budget"), level(report.policy.high_water, "high water", "water")];
    let sentence = format!("Each zone's need by its budget at its worst hour: ring now, dot in {days}.");
    page.section("From now to the horizon", &sentence, &chart::changes(&changes, &levels));
    let rows = report.zones.iter().map(|zone| vec![zone.zone.clone(), zone.sentence.clone()]);
    let nowhere = capacity::nowhere(report).map(|told| vec!["none".to_owned(), told]);
    let rows = rows.chain(nowhere);
    page.section("In words", "", &table(&["Zone", "What it comes to"], rows));
    report.losses.iter().for_each(|of| loss(&mut page, of, report.policy.high_water));
    page.finish("shares are of each cell's budget")
}

/// Days on paper.
pub(super) fn simulation(report: &SimulationReport, origin: &str) -> String {
    let totals = &report.totals;
    let badge = if totals.hours_over_capacity == 0 { ("no violation", "good") } else { ("violations", "bad") };
    let days = plural(report.days.len(), "day");
    let mut page = Page::new(&format!("{days} on paper"), badge, &format!("Simulated from {origin}."));
    page.tiles(&[
        (totals.moves.to_string(), "moves"),
        (size(totals.bytes), "copied"),
        (totals.hours_over_capacity.to_string(), "cell hours above capacity"),
        (simulate::violation(totals.violation_share), "of all cell hours"),
        (percent(totals.hottest), "fullest cell ever"),
        (format!("{:.1}", totals.density), "tenants a cell"),
    ]);
    let hottest: Vec<f64> = report.days.iter().map(|day| day.hottest).collect();
    let expected: Vec<f64> = report.days.iter().map(|day| day.hottest_expected).collect();
    let lines = [
        Line { name: "was", class: "after", values: &hottest },
        Line { name: "expected", class: "before", values: &expected },
    ];
    let levels =
        [level(1.0, "budget", "budget"), level(report.simulation.policy.high_water, "high water", "water")];
    let sentence = "How full the fullest cell was on each day, and how full it was expected to be the day before.";
    page.section("The fullest cell", sentence, &chart::lines(&lines, &levels, "days"));
    let fill: Vec<f64> = report.days.iter().map(|day| day.fill).collect();
    let line = Line { name: "used", class: "after", values: &fill };
    let sentence = "What was used of all capacity, in the resource and hour in which that was most.";
    page.section("The whole fleet", sentence, &chart::lines(&[line], &[], "days"));
    let columns = [
        "Day",
        "Tenants",
        "Placed",
        "Wait",
        "Left",
        "Moves",
        "Copied",
        "Fullest",
        "Expected",
        "Over budget",
        "Over capacity",
    ];
    page.section("Day by day", "", &table(&columns, report.days.iter().map(simulate::row)));
    page.finish("over budget: the reserve was eaten; over capacity: more was wanted than there is")
}
