//! `plan capacity`: how long is there room, how many cells are missing, and what if some are lost? `plan fail-cell` asks
//! the last question alone.

use cell_model::{CellId, Revision};
use cell_planner::{
    CapacityError, CapacityReport, CapacityRequest, Fleet, Growth, HomeRing, Loss, LossReport, NewHome, Policy,
    ZoneCapacity,
};
use serde::Serialize;

use super::text::{percent, size, sparkline};
use super::{ask, html, load, plural, policy, ring};
use crate::cli::{CapacityArgs, FailCell, Global, JudgeArgs, Output};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::render::table;
use crate::view::API_VERSION;

/// Tenants that have lost their home that the text lists, with a new one and without.
const SHOWN: usize = 10;

#[derive(Debug, Serialize)]
struct Document<'a, T> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    origin: &'a str,
    #[serde(flatten)]
    report: T,
}

/// What losses would do, each for itself.
#[derive(Debug, Serialize)]
struct Losses<'a> {
    parent: Revision,
    items: &'a [LossReport],
}

pub(super) fn run(global: &Global, asked: &CapacityArgs) -> Result<Exit, Failure> {
    asked.unbounded.check("plan capacity")?;
    let loaded = load(global, &asked.of)?;
    let request = CapacityRequest {
        growth: Growth { monthly: asked.growth, rules: asked.growth_of.iter().map(|of| of.0.clone()).collect() },
        horizon_days: asked.horizon,
        survive: asked.survive.into(),
        shape: asked.shape,
        losses: ask::unique(losses(&asked.lose_cell, &asked.lose_domain, &asked.lose_region)),
    };
    let report = look(&loaded.fleet, &asked.judge, &request)?;
    console::data(&match global.output {
        Output::Table => text(&report, &loaded.origin, !global.no_headers),
        Output::Json => document("Capacity", &loaded.origin, &report),
        Output::Html => html::capacity(&report, &loaded.origin),
        Output::Name => report.zones.iter().map(|zone| format!("zone/{}\n", zone.zone)).collect(),
    });
    Ok(Exit::Done)
}

pub(super) fn fail(global: &Global, asked: &FailCell) -> Result<Exit, Failure> {
    asked.unbounded.check("plan fail-cell")?;
    let loaded = load(global, &asked.of)?;
    let lost = ask::unique(losses(&asked.cells, &asked.domain, &asked.region));
    let (policy, ring): (Policy, HomeRing) = (policy(&asked.judge)?, ring(&loaded.fleet, &asked.judge)?);
    let looking = || cell_planner::losses(&loaded.fleet, policy, Some(&ring), &lost);
    let items = console::while_waiting("looking for room", looking).map_err(|error| refused(&error))?;
    let parent = loaded.fleet.revision();
    console::data(&match global.output {
        Output::Table => {
            let told = items.iter().map(|of| loss(of, &loaded.origin, !global.no_headers));
            told.collect::<Vec<_>>().join("\n")
        }
        Output::Json => document("LossList", &loaded.origin, Losses { parent, items: &items }),
        Output::Html => html::losses(&items, parent, policy.high_water, &loaded.origin),
        Output::Name => {
            let stranded = items.iter().flat_map(|of| &of.stranded);
            stranded.map(|of| format!("tenant/{}\n", of.tenant)).collect()
        }
    });
    let stranded = |of: &LossReport| of.stranded.len() + of.stranded_unlisted;
    let Some(worst) = items.iter().max_by_key(|of| stranded(of)).filter(|of| stranded(of) > 0) else {
        return Ok(Exit::Done);
    };
    let who = plural(stranded(worst), "tenant");
    let message = format!("the loss of {} leaves {who} without a cell", name(&worst.loss));
    Err(Failure::new(
        "NO_CELL_ADMITS",
        message,
        "`cellctl plan capacity` counts the cells to add; -o json says what each lacks",
    ))
}

fn document(kind: &'static str, origin: &str, report: impl Serialize) -> String {
    super::to_json(&Document { api_version: API_VERSION, kind, origin, report })
}

fn losses(cells: &[CellId], domains: &[String], regions: &[String]) -> Vec<Loss> {
    let cells = cells.iter().map(|cell| Loss::Cell { cell: cell.clone() });
    let domains = domains.iter().map(|domain| Loss::Domain { domain: domain.clone() });
    let regions = regions.iter().map(|region| Loss::Region { region: region.clone() });
    cells.chain(domains).chain(regions).collect()
}

fn look(fleet: &Fleet, judge: &JudgeArgs, request: &CapacityRequest) -> Result<CapacityReport, Failure> {
    let (policy, ring): (Policy, HomeRing) = (policy(judge)?, ring(fleet, judge)?);
    let asked = || cell_planner::capacity(fleet, policy, Some(&ring), request);
    console::while_waiting("looking ahead", asked).map_err(|error| refused(&error))
}

fn refused(error: &CapacityError) -> Failure {
    let option = |hint| Failure::option(error.code(), error.to_string(), hint);
    let other = |hint| Failure::new(error.code(), error.to_string(), hint);
    match error {
        CapacityError::GrowthInvalid { .. } => option("such as --growth 5%"),
        CapacityError::HorizonInvalid { .. } => option("such as --horizon 365"),
        CapacityError::TooMany { .. } => option("ask in several goes, with fewer of them each"),
        CapacityError::ShapeInvalid { .. } => option("such as --shape cpu=16,connections=400,storage=800"),
        CapacityError::RegionUnknown { .. } => {
            other("name a region of the cells: `cellctl plan export` lists them")
        }
        CapacityError::LossUnknown { .. } => other("`cellctl plan export` lists what there is"),
        CapacityError::Policy(_) => option("correct the file of --policy"),
    }
}

/// What is lost, in words.
pub(super) fn name(loss: &Loss) -> String {
    match loss {
        Loss::Cell { cell } => format!("cell {cell}"),
        Loss::Domain { domain } => format!("failure domain {domain}"),
        Loss::Region { region } => format!("region {region}"),
    }
}

fn text(report: &CapacityReport, origin: &str, headers: bool) -> String {
    let request = &report.request;
    let growth = percent(request.growth.monthly);
    let mut text = format!(
        "capacity of {origin} at revision {}: {} ahead, {growth} growth in 30 days\n\n",
        report.parent,
        plural(request.horizon_days as usize, "day")
    );
    let columns =
        ["ZONE", "CELLS", "TENANTS", "TIGHTEST", "NOW", "AT THE HORIZON", "FIRST CELL FULL", "ZONE FULL", "ADD"];
    text.push_str(&table(&columns, report.zones.iter().map(zone_row), headers));
    text.push('\n');
    for zone in &report.zones {
        text.push_str(&format!("  {}: {}\n", zone.zone, zone.sentence));
    }
    if let Some(told) = nowhere(report) {
        text.push_str(&format!("  {told}\n"));
    }
    for of in &report.losses {
        text.push('\n');
        text.push_str(&loss(of, origin, headers));
    }
    text
}

/// Tenants for which there is no cell at all, if there are any.
pub(super) fn nowhere(report: &CapacityReport) -> Option<String> {
    let who = plural(report.nowhere, "tenant");
    (report.nowhere > 0).then(|| {
        format!("{who} on no cell may be on none: add a cell of the region, residency and kind that each wants")
    })
}

/// A zone's numbers.
pub(super) fn zone_row(zone: &ZoneCapacity) -> Vec<String> {
    let tightest = zone.uses.iter().max_by(|a, b| a.share_at_horizon.total_cmp(&b.share_at_horizon));
    let days = |breach: Option<u32>| match breach {
        None => "not before".to_owned(),
        Some(0) => "is now".to_owned(),
        Some(days) => format!("in {}", plural(days as usize, "day")),
    };
    vec![
        zone.zone.clone(),
        zone.cells.to_string(),
        zone.tenants.to_string(),
        tightest.map_or_else(|| "-".into(), |of| of.at.to_string()),
        tightest.map_or_else(|| "-".into(), |of| percent(of.share)),
        tightest.map_or_else(|| "-".into(), |of| percent(of.share_at_horizon)),
        days(zone.cell_breach.as_ref().map(|breach| breach.days)),
        days(zone.zone_breach.as_ref().map(|breach| breach.days)),
        match (zone.cells_to_add, &zone.lacking) {
            (0, Some(_)) => "of another shape".into(),
            (0, None) => "none".into(),
            (count, _) => plural(count as usize, "cell"),
        },
    ]
}

/// Who goes where.
pub(super) fn home_row(home: &NewHome) -> Vec<String> {
    [home.tenant.to_string(), home.source.to_string(), home.target.to_string()].into()
}

fn loss(report: &LossReport, origin: &str, headers: bool) -> String {
    let mut text = format!("loss of {}, {origin}\n  {}\n\n", name(&report.loss), report.sentence);
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<14}{value}\n"));
    let tenants = plural(report.tenants, "tenant");
    line(
        "blast radius",
        format!(
            "{tenants}, {} of all; {} of all demand",
            percent(report.tenants_share),
            percent(report.blast_radius)
        ),
    );
    line("to restore", size(report.bytes));
    if !report.takers.is_empty() {
        let rows = report.takers.iter().map(|change| {
            let top = change.hours_before.iter().chain(&change.hours_after).copied().fold(1.0, f64::max);
            vec![
                change.cell.to_string(),
                format!("{} → {}", change.tenants_before, change.tenants_after),
                format!("{} → {}", percent(change.before.share), percent(change.after.share)),
                change.after.at.to_string(),
                sparkline(&change.hours_after, top),
            ]
        });
        text.push('\n');
        text.push_str(&table(&["TAKEN IN BY", "TENANTS", "FULLEST", "AT", "DAY AFTER"], rows, headers));
    }
    if !report.homes.is_empty() {
        let rows = report.homes.iter().take(SHOWN).map(home_row);
        text.push('\n');
        text.push_str(&table(&["TENANT", "FROM", "TO"], rows, headers));
        let more = report.rehomed.saturating_sub(SHOWN);
        if more > 0 {
            text.push_str(&format!("  and {more} more: -o json has them\n"));
        }
    }
    if !report.stranded.is_empty() {
        text.push_str("\nno room for\n");
    }
    for of in report.stranded.iter().take(SHOWN) {
        let nearest = of.decision.as_ref().and_then(|decision| decision.counterfactuals.first());
        text.push_str(&format!(
            "  {}: {}\n",
            of.tenant,
            nearest.map_or(of.why.as_str(), |near| near.sentence.as_str())
        ));
    }
    let more = (report.stranded.len() + report.stranded_unlisted).saturating_sub(SHOWN);
    if more > 0 {
        text.push_str(&format!("  and {more} more: -o json has them\n"));
    }
    text
}
