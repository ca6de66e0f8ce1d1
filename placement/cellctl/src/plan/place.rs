//! `plan place`: where tenants belong that are nowhere yet. The decisions build on each other, in the fleet's order.

use cell_model::{Revision, TenantId};
use cell_planner::{Decision, Fleet, HomeRing, Layout, PlaceError, Policy, TenantIx, place};
use serde::Serialize;

use super::text::percent;
use super::{Loaded, explain, html, load, plural, policy, ring};
use crate::cli::{FleetArgs, Global, JudgeArgs, Output};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::render::table;
use crate::view::API_VERSION;

/// Decisions, each made with those before it carried out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Placements {
    api_version: &'static str,
    kind: &'static str,
    origin: String,
    parent: Revision,
    pub(super) items: Vec<Decision>,
}

pub(super) fn run(
    global: &Global,
    tenants: &[TenantId],
    of: &FleetArgs,
    judge: &JudgeArgs,
) -> Result<Exit, Failure> {
    let loaded = load(global, of)?;
    let (policy, ring) = (policy(judge)?, ring(&loaded.fleet, judge)?);
    let asked = tenants.iter().map(|tenant| find(&loaded, tenant)).collect::<Result<Vec<_>, _>>()?;
    let items = decide(&loaded.fleet, policy, &ring, &asked)?;
    let refused: Vec<&Decision> = items.iter().filter(|decision| decision.chosen.is_none()).collect();
    let failure = refused.first().map(|first| nowhere(first, refused.len()));
    let placements = Placements {
        api_version: API_VERSION,
        kind: "PlacementList",
        parent: loaded.fleet.revision(),
        origin: loaded.origin,
        items,
    };
    console::data(&match global.output {
        Output::Table => text(&placements, !global.no_headers),
        Output::Json => super::to_json(&placements),
        Output::Name => placements.items.iter().map(|of| format!("tenant/{}\n", of.tenant)).collect(),
        Output::Html => html::placements(&placements),
    });
    failure.map_or(Ok(Exit::Done), Err)
}

/// A tenant of the fleet.
pub(super) fn find(loaded: &Loaded, tenant: &TenantId) -> Result<TenantIx, Failure> {
    loaded.fleet.find_tenant(tenant.as_str()).ok_or_else(|| {
        let hint = if loaded.is_live { "`cellctl get tenants` lists what there is" } else { "add it to the fleet" };
        Failure::new("TENANT_UNKNOWN", format!("{} has no tenant {tenant}", loaded.origin), hint)
    })
}

pub(super) fn moving(error: &PlaceError) -> Failure {
    let PlaceError::TenantMoving { tenant, .. } = error;
    let hint = format!("`cellctl get moves --tenant {tenant}` shows the move");
    Failure::new("TENANT_BETWEEN_CELLS", error.to_string(), hint)
}

/// Decides for those that are asked for, or for all that are nowhere; each one sees those before it at home.
fn decide(fleet: &Fleet, policy: Policy, ring: &HomeRing, asked: &[TenantIx]) -> Result<Vec<Decision>, Failure> {
    let mut layout = Layout::new(fleet, policy);
    let nowhere = |layout: &Layout<'_>, tenant| layout.home(tenant).is_none();
    let order: Vec<TenantIx> = if asked.is_empty() {
        fleet.tenants().filter(|&tenant| nowhere(&layout, tenant)).collect()
    } else {
        asked.to_vec()
    };
    let bar = console::progress(order.len() as u64, "tenants placed");
    let mut decisions = Vec::with_capacity(order.len());
    for tenant in order {
        let decision = place(&layout, Some(ring), tenant).map_err(|error| moving(&error))?;
        let chosen = decision.chosen.as_ref().and_then(|cell| fleet.find_cell(cell.as_str()));
        if let Some(cell) = chosen.filter(|_| nowhere(&layout, tenant)) {
            layout.settle(tenant, cell);
        }
        decisions.push(decision);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(decisions)
}

/// No cell admits a tenant: why, and what would let it in.
fn nowhere(first: &Decision, count: usize) -> Failure {
    let why: Vec<String> = first.refused.iter().map(|of| format!("{} by {}", of.cells, of.code)).collect();
    let others = if count > 1 { format!(" (and {} more tenants)", count - 1) } else { String::new() };
    let message = format!(
        "no cell admits tenant {}{others}: of {} {}",
        first.tenant,
        plural(first.cells_asked as usize, "cell"),
        why.join(", ")
    );
    let hint = match first.counterfactuals.first() {
        Some(nearest) => nearest.sentence.clone(),
        None => "add a cell that it may be on: region, residency, kind and state are what refuses it".into(),
    };
    Failure::new("NO_CELL_ADMITS", message, hint)
}

fn text(placements: &Placements, headers: bool) -> String {
    match placements.items.as_slice() {
        [] => format!("every tenant of {} is on a cell: there is nothing to place\n", placements.origin),
        [one] => explain::decision(one),
        many => table(&["TENANT", "CELL", "FULLEST THEN", "BETTER THAN"], many.iter().map(row), headers),
    }
}

fn row(decision: &Decision) -> Vec<String> {
    let best = decision.candidates.first();
    let peak = best.map(|of| format!("{} {}", percent(of.peak.share), of.peak.at));
    vec![
        decision.tenant.to_string(),
        decision.chosen.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
        peak.unwrap_or_else(|| "-".into()),
        explain::margin(decision).unwrap_or_else(|| "-".into()),
    ]
}
