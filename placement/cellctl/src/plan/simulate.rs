//! `simulate`: days of a fleet on paper, with the code that places and plans in earnest.

use cell_planner::{
    DayReport, DayUsage, Forecast, Scenario, SimulateError, Simulation, SimulationReport, TenantIx, Usage, simulate,
};
use serde::Serialize;

use super::text::{percent, size};
use super::{ask, html, load, plural, policy, ring, usage};
use crate::cli::{Global, Output, Simulate};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::render::table;
use crate::view::API_VERSION;

/// Days that a table shows; of more of them every so many.
const ROWS: usize = 60;

#[derive(Debug, Serialize)]
struct Document<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    origin: &'a str,
    #[serde(flatten)]
    report: &'a SimulationReport,
}

/// What happens: made up, or recorded.
enum Days<'a> {
    MadeUp(cell_planner::Synthetic<'a>),
    Recorded(usage::Seen<'a>),
}

impl Usage for Days<'_> {
    fn day(&self, day: u32, tenant: TenantIx, into: &mut DayUsage) {
        match self {
            Self::MadeUp(days) => days.day(day, tenant, into),
            Self::Recorded(days) => days.day(day, tenant, into),
        }
    }

    fn arrives(&self, tenant: TenantIx) -> u32 {
        match self {
            Self::MadeUp(days) => days.arrives(tenant),
            Self::Recorded(days) => days.arrives(tenant),
        }
    }

    fn leaves(&self, tenant: TenantIx) -> Option<u32> {
        match self {
            Self::MadeUp(days) => days.leaves(tenant),
            Self::Recorded(days) => days.leaves(tenant),
        }
    }
}

pub(crate) fn run(global: &Global, asked: &Simulate) -> Result<Exit, Failure> {
    let loaded = load(global, &asked.of)?;
    let ring = ring(&loaded.fleet, &asked.judge)?;
    let simulation = Simulation {
        days: asked.days,
        policy: policy(&asked.judge)?,
        bounds: ask::bounds(&asked.bounds),
        forecast: asked.smoothing.map_or_else(Forecast::default, |smoothing| Forecast { smoothing }),
        plan_every_days: asked.plan_every,
        cooldown_days: asked.cooldown_days,
    };
    let days = match &asked.usage {
        Some(path) => {
            let seen = usage::Seen::read(path, &loaded.fleet)?;
            seen.note().iter().for_each(|note| console::note(note));
            Days::Recorded(seen)
        }
        None => Days::MadeUp(scenario(asked).over(&loaded.fleet)),
    };
    let bar = console::progress(u64::from(asked.days), "days");
    let mut each = |day: &DayReport| {
        bar.inc(1);
        bar.set_message(format!("fullest cell {}", percent(day.hottest)));
    };
    let report =
        simulate(&loaded.fleet, &days, Some(&ring), &simulation, &mut each).map_err(|error| refused(&error));
    bar.finish_and_clear();
    let report = report?;
    console::data(&match global.output {
        Output::Table => text(&report, &loaded.origin, !global.no_headers),
        Output::Json => super::to_json(&Document {
            api_version: API_VERSION,
            kind: "Simulation",
            origin: &loaded.origin,
            report: &report,
        }),
        Output::Html => html::simulation(&report, &loaded.origin),
        Output::Name => report.days.iter().map(|day| format!("day/{}\n", day.day)).collect(),
    });
    Ok(Exit::Done)
}

fn scenario(asked: &Simulate) -> Scenario {
    Scenario {
        seed: asked.judge.seed.unwrap_or(1),
        growth_monthly: asked.growth,
        weekend: asked.weekend,
        spike_chance: asked.spikes,
        arrivals: asked.arrivals,
        departures: asked.departures,
        arrival_days: asked.days.saturating_sub(1).max(1),
        ..Scenario::default()
    }
}

fn refused(error: &SimulateError) -> Failure {
    match error {
        SimulateError::DaysInvalid { .. } => Failure::option(error.code(), error.to_string(), "such as --days 30"),
        SimulateError::SmoothingInvalid { .. } => {
            Failure::option(error.code(), error.to_string(), "such as --smoothing 30%")
        }
        SimulateError::Plan(error) => ask::refused(error),
    }
}

fn text(report: &SimulationReport, origin: &str, headers: bool) -> String {
    let totals = &report.totals;
    let mut text = format!("{} of {origin}\n", plural(report.days.len(), "day"));
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<14}{value}\n"));
    line(
        "moves",
        format!(
            "{}, {} copied; {} of tenants that had just moved",
            totals.moves,
            size(totals.bytes),
            totals.moved_again
        ),
    );
    line(
        "violations",
        format!(
            "{} cell hours above capacity, {} of all",
            totals.hours_over_capacity,
            violation(totals.violation_share)
        ),
    );
    line("reserve eaten", format!("{} cell hours above budget", totals.hours_over_budget));
    line("fullest ever", percent(totals.hottest));
    line("density", format!("{:.1} tenants a cell", totals.density));
    text.push('\n');
    let columns = [
        "DAY",
        "TENANTS",
        "PLACED",
        "WAIT",
        "LEFT",
        "MOVES",
        "COPIED",
        "FULLEST",
        "EXPECTED",
        "OVER BUDGET",
        "OVER CAPACITY",
    ];
    let stride = report.days.len().div_ceil(ROWS).max(1);
    let shown = report.days.iter().filter(|day| (day.day as usize).is_multiple_of(stride));
    text.push_str(&table(&columns, shown.map(row), headers));
    text
}

/// A share that is small where all is well.
pub(super) fn violation(share: f64) -> String {
    format!("{:.3} %", share * 100.0)
}

/// A day's numbers.
pub(super) fn row(day: &DayReport) -> Vec<String> {
    vec![
        day.day.to_string(),
        day.tenants.to_string(),
        day.placed.to_string(),
        day.waiting.to_string(),
        day.left.to_string(),
        day.moves.to_string(),
        size(day.bytes),
        percent(day.hottest),
        day.verdict.map_or_else(|| "-".to_owned(), |_| percent(day.hottest_expected)),
        format!("{} h", day.hours_over_budget),
        format!("{} h", day.hours_over_capacity),
    ]
}
