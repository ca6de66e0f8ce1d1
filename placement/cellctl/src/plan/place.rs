//! `plan place`: where tenants belong that are nowhere yet. The decisions build on each other, the hardest first, and are
//! made so that the next rebalancing leaves them alone.

use cell_model::{Revision, TenantId};
use cell_planner::{
    Batch, Bounds, CellChange, Decision, Fleet, HomeRing, PlaceError, PlannedMove, Policy, Room, TenantIx,
    place_all,
};
use serde::Serialize;

use super::text::{self, percent};
use super::{Loaded, ask, explain, html, load_cooling, plural, policy, ring};
use crate::cli::{Global, Output, Place};
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
    /// Moves of others that make room, to be made one after the other before anybody is placed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) first: Vec<PlannedMove>,
    pub(super) items: Vec<Decision>,
    /// The cells that take part.
    pub(super) cells: Vec<CellChange>,
}

pub(super) fn run(global: &Global, asked: &Place) -> Result<Exit, Failure> {
    asked.windowless.check("moves that make room are made one after the other")?;
    let loaded = load_cooling(global, &asked.of, asked.cooldown)?;
    let (policy, ring) = (policy(&asked.judge)?, ring(&loaded.fleet, &asked.judge)?);
    let tenants = asked.tenants.iter().map(|tenant| find(&loaded, tenant)).collect::<Result<Vec<_>, _>>()?;
    let tenants = ask::unique(tenants);
    let bounds =
        Bounds { moves_max: asked.max_moves, bytes_max: asked.max_bytes.unwrap_or(u64::MAX), ..Bounds::default() };
    let room = Room { bounds, now: asked.at.unwrap_or_else(ask::now) };
    let Batch { moves, decisions: items, cells } = decide(&loaded.fleet, policy, &ring, tenants, &room)?;
    let refused: Vec<&Decision> = items.iter().filter(|decision| decision.chosen.is_none()).collect();
    let failure = refused.first().map(|first| nowhere(first, refused.len()));
    let placements = Placements {
        api_version: API_VERSION,
        kind: "PlacementList",
        parent: loaded.fleet.revision(),
        origin: loaded.origin,
        first: moves,
        items,
        cells,
    };
    console::data(&match global.output {
        Output::Table => told(&placements, !global.no_headers),
        Output::Json => super::to_json(&placements),
        Output::Name => placements.items.iter().map(|of| format!("tenant/{}\n", of.tenant)).collect(),
        Output::Html => html::placements(&placements, policy.high_water),
    });
    failure.map_or(Ok(Exit::Done), Err)
}

/// A tenant of the fleet.
pub(super) fn find(loaded: &Loaded, tenant: &TenantId) -> Result<TenantIx, Failure> {
    loaded.fleet.find_tenant(tenant.as_str()).ok_or_else(|| {
        let hint = if loaded.is_live {
            format!(
                "`cellctl get tenants` lists what there is; `cellctl audit show --tenant {tenant}` says whether it was refused, \
                 and why"
            )
        } else {
            "add it to the fleet, or name one of its tenants".to_owned()
        };
        Failure::new("TENANT_UNKNOWN", format!("{} has no tenant {tenant}", loaded.origin), hint)
    })
}

pub(super) fn moving(error: &PlaceError) -> Failure {
    let (PlaceError::TenantMoving { tenant, .. } | PlaceError::TenantArrived { tenant, .. }) = error;
    let hint = format!("`cellctl get moves --tenant {tenant}` shows the move");
    Failure::new("TENANT_BETWEEN_CELLS", error.to_string(), hint)
}

/// Decides for those that are asked for, or for all that are nowhere.
fn decide(
    fleet: &Fleet,
    policy: Policy,
    ring: &HomeRing,
    asked: Vec<TenantIx>,
    room: &Room,
) -> Result<Batch, Failure> {
    let tenants = if asked.is_empty() {
        fleet.tenants().filter(|&tenant| fleet.home(tenant).is_none()).collect()
    } else {
        asked
    };
    let bar = console::progress(tenants.len() as u64, "tenants placed");
    let batch = place_all(fleet, policy, Some(ring), &tenants, room, &mut || bar.inc(1));
    bar.finish_and_clear();
    batch.map_err(|error| moving(&error))
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
        None => {
            "add a cell that it may be on: region, residency, kind, databases and state are what refuses it".into()
        }
    };
    Failure::new("NO_CELL_ADMITS", message, hint)
}

fn told(placements: &Placements, headers: bool) -> String {
    let decided = match placements.items.as_slice() {
        [] => format!("every tenant of {} is on a cell: there is nothing to place\n", placements.origin),
        [one] => explain::decision(one),
        many => table(&["TENANT", "CELL", "FULLEST THEN", "BETTER THAN"], many.iter().map(row), headers),
    };
    if placements.first.is_empty() {
        return decided;
    }
    let columns = ["FIRST", "TENANT", "FROM", "TO", "COPIES", "REASON"];
    let moves = table(&columns, (1..).zip(&placements.first).map(first_row), headers);
    format!("to make room, these move first, one after the other\n{moves}\n{decided}")
}

/// A move that makes room.
pub(super) fn first_row((number, planned): (usize, &PlannedMove)) -> Vec<String> {
    let (source, target) = (planned.source.to_string(), planned.target.to_string());
    let (copies, reason) = (text::size(planned.bytes), text::reason(&planned.reason));
    vec![number.to_string(), planned.tenant.to_string(), source, target, copies, reason]
}

fn row(decision: &Decision) -> Vec<String> {
    vec![
        decision.tenant.to_string(),
        decision.chosen.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
        fullest(decision).unwrap_or_else(|| "-".into()),
        explain::margin(decision).unwrap_or_else(|| "-".into()),
    ]
}

/// How full the chosen cell is then, where it is among those that are listed.
pub(super) fn fullest(decision: &Decision) -> Option<String> {
    let chosen = decision.chosen.as_ref()?;
    let of = decision.candidates.iter().find(|of| of.cell == *chosen)?;
    Some(format!("{} {}", percent(of.peak.share), of.peak.at))
}
