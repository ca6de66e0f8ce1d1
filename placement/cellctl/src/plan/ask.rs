//! `plan`: ask the planner, print what it says.

use std::time::{SystemTime, UNIX_EPOCH};

use cell_model::UnixMillis;
use cell_planner::{Bounds, Goal, PlanError, Request, Verdict};

use super::document::PlanDocument;
use super::{capacity, html, load, place, policy, ring, source, text, tiers};
use crate::cli::{Asked, BoundArgs, FleetArgs, Global, Output, Plan};
use crate::console;
use crate::failure::{Exit, Failure};

pub(crate) fn run(global: &Global, plan: Plan) -> Result<Exit, Failure> {
    match plan {
        Plan::Place { tenants, of, judge } => place::run(global, &tenants, &of, &judge),
        Plan::Rebalance(asked) => moves(global, Goal::Rebalance, &asked),
        Plan::Repair(asked) => moves(global, Goal::Repair, &asked),
        Plan::Drain { cells, asked } => moves(global, Goal::Drain { cells }, &asked),
        Plan::FailCell(asked) => capacity::fail(global, &asked),
        Plan::Capacity(asked) => capacity::run(global, &asked),
        Plan::Tiers(asked) => tiers::run(global, &asked),
        Plan::Export { to, of } => export(global, to.as_deref(), &of),
    }
}

fn moves(global: &Global, goal: Goal, asked: &Asked) -> Result<Exit, Failure> {
    let loaded = load(global, &asked.of)?;
    let policy = policy(&asked.judge)?;
    let ring = ring(&loaded.fleet, &asked.judge)?;
    let request = Request { goal, bounds: bounds(&asked.bounds), now: asked.at.unwrap_or_else(now) };
    let planned = console::while_waiting("planning", || {
        cell_planner::plan(&loaded.fleet, policy, Some(&ring), &request).map_err(|error| refused(&error))
    })?;
    let (verdict, moves) = (planned.verdict, planned.moves);
    let printed = match global.output {
        Output::Table => text::plan(&planned, &loaded, !global.no_headers),
        Output::Json => PlanDocument::new(planned, &loaded).to_json(),
        Output::Html => html::plan(&planned, &loaded),
        Output::Name => text::names(&planned),
    };
    console::data(&printed);
    Ok(match verdict {
        Verdict::Stuck => Exit::Failed,
        _ if asked.detailed_exitcode && moves > 0 => Exit::Changes,
        _ => Exit::Done,
    })
}

pub(super) fn bounds(said: &BoundArgs) -> Bounds {
    Bounds {
        moves_max: said.max_moves,
        bytes_max: said.max_bytes.unwrap_or(u64::MAX),
        at_once_max: said.at_once,
        at_once_per_cell_max: said.at_once_per_cell,
        at_once_per_domain_max: said.at_once_per_domain.unwrap_or(u32::MAX),
        seconds_max: said.window.map_or(u64::MAX, |window| window.as_secs()),
        ..Bounds::default()
    }
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn refused(error: &PlanError) -> Failure {
    let hint = match error {
        PlanError::CellUnknown { .. } => "name a cell of the fleet",
        PlanError::NothingToDrain => "`cellctl plan drain CELL`",
        PlanError::BoundInvalid { .. } => "give at least 1",
        PlanError::Policy(_) => "correct the file of --policy",
    };
    Failure::new(error.code(), error.to_string(), hint)
}

fn export(global: &Global, to: Option<&std::path::Path>, of: &FleetArgs) -> Result<Exit, Failure> {
    let loaded = load(global, of)?;
    let document = loaded.fleet.to_document();
    match to {
        Some(path) => {
            source::write(path, &document)?;
            console::note(&format!(
                "{} and {} of {} at revision {} written to {}",
                super::plural(document.cells.len(), "cell"),
                super::plural(document.tenants.len(), "tenant"),
                loaded.origin,
                document.revision,
                path.display()
            ));
        }
        None => console::data(&document.to_json()),
    }
    Ok(Exit::Done)
}
