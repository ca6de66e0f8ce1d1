//! `plan ring`: the default homes of tenants, and how many of them change when cells come or go.
//!
//! The ring orders cells for a tenant and decides nothing: residency, room and all other filters come first. A tenant is
//! not moved because its default home changes; what changes is where it would be put if several cells were equally good.

use std::collections::BTreeMap;

use cell_model::{CellId, Revision};
use cell_planner::{Churn, HomeRing};
use serde::Serialize;

use super::place::find;
use super::text::percent;
use super::{html, load, plural, ring_of};
use crate::cli::{Global, Output, RingArgs};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::render::table;
use crate::view::API_VERSION;

/// Tenants that are listed at the most.
const LISTED_MAX: usize = 10_000;
/// Tenants, and flows, that the text shows.
const SHOWN: usize = 20;

/// A cell's part in the ring.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    /// Tenants of which it is the default home.
    pub(super) tenants: usize,
    /// The same with the cells that come, and without those that go.
    pub(super) tenants_then: usize,
}

/// A tenant's default homes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Home {
    tenant: String,
    home: Option<CellId>,
    home_then: Option<CellId>,
    /// The first cells of its walk: its shard.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shard: Vec<CellId>,
}

/// What there is to be said.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Preview {
    api_version: &'static str,
    kind: &'static str,
    pub(super) origin: String,
    pub(super) parent: Revision,
    /// Cells by name.
    pub(super) cells: BTreeMap<CellId, Part>,
    /// Tenants in all.
    pub(super) tenants: usize,
    /// Tenants whose default home changes.
    pub(super) changed: usize,
    /// What share of all names that could be changes, and between which cells.
    pub(super) churn: Churn,
    /// Who was asked for, or whose default home changes.
    items: Vec<Home>,
    /// How many more of them there are.
    unlisted: usize,
}

pub(super) fn run(global: &Global, asked: &RingArgs) -> Result<Exit, Failure> {
    asked.unbounded.check("plan ring")?;
    let loaded = load(global, &asked.of)?;
    let fleet = &loaded.fleet;
    let named = asked.tenants.iter().map(|tenant| find(&loaded, tenant)).collect::<Result<Vec<_>, _>>()?;
    let cells: Vec<CellId> = fleet.cells().map(|cell| fleet.cell_id(cell).clone()).collect();
    let then = changed_cells(&cells, &asked.add, &asked.remove)?;
    let (before, after) = (ring_of(cells, asked.seed)?, ring_of(then, asked.seed)?);
    let both = before.cells().iter().chain(after.cells());
    let mut parts: BTreeMap<CellId, Part> = both.map(|cell| (cell.clone(), Part::default())).collect();
    let (mut items, mut unlisted, mut changed) = (Vec::new(), 0, 0);
    let bar = console::progress(fleet.tenants().len() as u64, "tenants");
    for tenant in fleet.tenants() {
        let name = fleet.tenant_id(tenant);
        let home = |ring: &HomeRing| ring.home(name.as_str(), |_| true).cloned();
        let (home, home_then) = (home(&before), home(&after));
        home.iter().for_each(|cell| parts.entry(cell.clone()).or_default().tenants += 1);
        home_then.iter().for_each(|cell| parts.entry(cell.clone()).or_default().tenants_then += 1);
        let changes = home != home_then;
        changed += usize::from(changes);
        if named.contains(&tenant) || (named.is_empty() && changes) {
            let shard = asked.shard.map_or_else(Vec::new, |size| after.shard(name.as_str(), size.into()));
            if items.len() < LISTED_MAX {
                items.push(Home { tenant: name.to_string(), home, home_then, shard });
            } else {
                unlisted += 1;
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let preview = Preview {
        api_version: API_VERSION,
        kind: "RingPreview",
        parent: fleet.revision(),
        cells: parts,
        tenants: fleet.tenants().len(),
        changed,
        churn: before.churn(&after),
        items,
        unlisted,
        origin: loaded.origin,
    };
    console::data(&match global.output {
        Output::Table => text(&preview, asked.shard.is_some(), !global.no_headers),
        Output::Json => super::to_json(&preview),
        Output::Html => html::ring(&preview),
        Output::Name => preview.items.iter().map(|of| format!("tenant/{}\n", of.tenant)).collect(),
    });
    Ok(Exit::Done)
}

/// The cells as they would be.
fn changed_cells(cells: &[CellId], add: &[CellId], remove: &[CellId]) -> Result<Vec<CellId>, Failure> {
    if let Some(there) = add.iter().find(|cell| cells.contains(cell)) {
        return Err(Failure::usage(format!("cell {there} is in the fleet already"), "name another one to --add"));
    }
    if let Some(unknown) = remove.iter().find(|cell| !cells.contains(cell)) {
        return Err(Failure::usage(
            format!("cell {unknown} is not in the fleet"),
            "name one of its cells to --remove",
        ));
    }
    let mut then: Vec<CellId> = cells.iter().filter(|cell| !remove.contains(cell)).chain(add).cloned().collect();
    then.sort();
    then.dedup();
    Ok(then)
}

/// All of it in a sentence.
pub(super) fn heading(preview: &Preview) -> String {
    let Preview { tenants, changed, churn, .. } = preview;
    let of = plural(*tenants, "tenant");
    if churn.flows.is_empty() {
        return format!("default homes of {of} on {}", plural(preview.cells.len(), "cell"));
    }
    let names = percent(churn.moved);
    format!("{changed} of {of} get another default home; of all names that could be, {names} do")
}

fn text(preview: &Preview, with_shards: bool, headers: bool) -> String {
    let mut text = format!("ring of {} at revision {}\n  {}\n\n", preview.origin, preview.parent, heading(preview));
    let rows = preview
        .cells
        .iter()
        .map(|(cell, part)| vec![cell.to_string(), part.tenants.to_string(), part.tenants_then.to_string()]);
    text.push_str(&table(&["CELL", "HOME OF", "THEN"], rows, headers));
    if !preview.churn.flows.is_empty() {
        let mut flows: Vec<_> = preview.churn.flows.iter().collect();
        flows.sort_by(|a, b| b.share.total_cmp(&a.share));
        let rows = flows.iter().take(SHOWN);
        let rows = rows.map(|flow| vec![flow.source.to_string(), flow.target.to_string(), percent(flow.share)]);
        text.push('\n');
        text.push_str(&table(&["FROM", "TO", "OF ALL NAMES"], rows, headers));
    }
    if !preview.items.is_empty() {
        let columns = ["TENANT", "DEFAULT HOME", "THEN", "SHARD"];
        let columns = if with_shards { &columns[..] } else { &columns[..3] };
        text.push('\n');
        text.push_str(&table(columns, preview.items.iter().take(SHOWN).map(|of| row(of, with_shards)), headers));
    }
    let more = (preview.items.len() + preview.unlisted).saturating_sub(SHOWN);
    if more > 0 {
        text.push_str(&format!("  and {more} more: -o json has them\n"));
    }
    text
}

fn row(of: &Home, with_shards: bool) -> Vec<String> {
    let told = |cell: &Option<CellId>| cell.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let mut row = vec![of.tenant.clone(), told(&of.home), told(&of.home_then)];
    if with_shards {
        row.push(of.shard.iter().map(CellId::as_str).collect::<Vec<_>>().join(", "));
    }
    row
}
