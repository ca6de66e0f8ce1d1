//! `plan`: ask the planner, print what it says.

use std::time::{SystemTime, UNIX_EPOCH};

use cell_model::UnixMillis;
use cell_planner::{Bounds, Goal, Left, PlanError, Request, Verdict};

use super::document::PlanDocument;
use super::{capacity, html, load, load_cooling, place, policy, ring, source, text, tiers};
use crate::cli::{Asked, BoundArgs, FleetArgs, Global, Output, Plan};
use crate::console;
use crate::failure::{Exit, Failure};

pub(crate) fn run(global: &Global, plan: Plan) -> Result<Exit, Failure> {
    match plan {
        Plan::Place(asked) => place::run(global, &asked),
        Plan::Rebalance(asked) => moves(global, Goal::Rebalance, &asked),
        Plan::Repair(asked) => moves(global, Goal::Repair, &asked),
        Plan::Drain { cells, asked } => moves(global, Goal::Drain { cells: unique(cells) }, &asked),
        Plan::FailCell(asked) => capacity::fail(global, &asked),
        Plan::Capacity(asked) => capacity::run(global, &asked),
        Plan::Tiers(asked) => tiers::run(global, &asked),
        Plan::Ring(asked) => super::ring::run(global, &asked),
        Plan::Export { to, of } => export(global, to.as_deref(), &of),
    }
}

fn moves(global: &Global, goal: Goal, asked: &Asked) -> Result<Exit, Failure> {
    let loaded = load_cooling(global, &asked.of, asked.cooldown)?;
    let policy = policy(&asked.judge)?;
    let ring = ring(&loaded.fleet, &asked.judge)?;
    let request = Request { goal, bounds: bounds(&asked.bounds), now: asked.at.unwrap_or_else(now) };
    let planned = console::while_waiting("planning", || {
        cell_planner::plan(&loaded.fleet, policy, Some(&ring), &request).map_err(|error| refused(&error))
    })?;
    let (verdict, moves) = (planned.verdict, planned.moves);
    let stays =
        planned.left.first().map(|first| incomplete(first, planned.left.len() + planned.left_unlisted, moves));
    let printed = match global.output {
        Output::Table => text::plan(&planned, &loaded, !global.no_headers),
        Output::Json => PlanDocument::new(planned, &loaded).to_json(),
        Output::Html => html::plan(&planned, &loaded),
        Output::Name => text::names(&planned),
    };
    console::data(&printed);
    if let Some(stays) = stays {
        return Err(stays);
    }
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
        moves_per_cell_max: said.max_moves_per_cell.unwrap_or(u32::MAX),
        seconds_max: said.window.map_or(u64::MAX, |window| window.as_secs()),
    }
}

pub(super) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Somebody stays although the goal wants it elsewhere.
fn incomplete(first: &Left, count: usize, moves: usize) -> Failure {
    let others = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    let message = format!("the plan leaves tenant {}{others} on {}: {}", first.tenant, first.cell, first.why);
    let nearest = first.decision.as_ref().and_then(|decision| decision.counterfactuals.first());
    let hint = nearest.map_or_else(
        || {
            let rest = if moves > 0 { "the plan that was printed does the rest; " } else { "" };
            format!("{rest}mend what is named, or widen the bounds of the plan")
        },
        |nearest| nearest.sentence.clone(),
    );
    Failure::new("PLAN_INCOMPLETE", message, hint)
}

/// The flag of a bound.
fn flag(bound: &str) -> &str {
    match bound {
        "moves-max" => "--max-moves",
        "bytes-max" => "--max-bytes",
        "at-once-max" => "--at-once",
        "at-once-per-cell-max" => "--at-once-per-cell",
        "at-once-per-domain-max" => "--at-once-per-domain",
        "moves-per-cell-max" => "--max-moves-per-cell",
        "seconds-max" => "--window",
        other => other,
    }
}

/// Each one once, in the order in which they were named.
pub(super) fn unique<T: PartialEq>(named: Vec<T>) -> Vec<T> {
    named.into_iter().fold(Vec::new(), |mut unique, name| {
        if !unique.contains(&name) {
            unique.push(name);
        }
        unique
    })
}

pub(super) fn refused(error: &PlanError) -> Failure {
    match error {
        PlanError::BoundInvalid { bound } => {
            let message = format!("{} is 0: a plan could hold no move", flag(bound));
            let least = if *bound == "seconds-max" { "1s" } else { "1" };
            Failure::option(error.code(), message, format!("give at least {least}, or leave it out"))
        }
        PlanError::NothingToDrain => {
            Failure::option(error.code(), error.to_string(), "name cells: `cellctl plan drain CELL`")
        }
        PlanError::CellUnknown { .. } => Failure::new(error.code(), error.to_string(), CELLS),
        PlanError::Policy(_) => Failure::option(error.code(), error.to_string(), "correct the file of --policy"),
    }
}

/// Where the names of cells are found.
pub(super) const CELLS: &str =
    "`cellctl get cells` lists those of the control plane, `cellctl plan export --fleet FILE` those of a file";

fn export(global: &Global, to: Option<&std::path::Path>, of: &FleetArgs) -> Result<Exit, Failure> {
    if global.output == Output::Html {
        return Err(Failure::usage(
            "`plan export` writes a fleet, which has no page",
            "-o json, or --to FILE|DIR/",
        ));
    }
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
