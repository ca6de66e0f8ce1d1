//! `plan ring`: the default homes of tenants, and how many of them change when cells come or go.
//!
//! A default home is the first cell of a tenant's walk round the ring on which it may ever be: residency, region, kind, pins and dead
//! cells count, as where tenants are placed; room and cordons do not. A tenant is not moved because its default home
//! changes; what changes is where it would be put if several cells were equally good.

use std::collections::BTreeMap;

use cell_model::{CellId, Revision};
use cell_planner::{CellEntry, Churn, Fleet, HomeRing, Layout, Policy, TenantIx, never};
use serde::Serialize;

use super::place::find;
use super::text::percent;
use super::{ask, html, load, plural, ring_of};
use crate::cli::{AddedCell, Global, Output, RingArgs};
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
    /// The first cells of its walk on which it may be: its shard.
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
    /// Tenants that may be on no cell, now and then.
    pub(super) nowhere: Part,
    /// What share of all names that could be changes, and between which cells, where a tenant may be anywhere.
    pub(super) churn: Churn,
    /// Who was asked for, or whose default home changes.
    items: Vec<Home>,
    /// How many more of them there are.
    unlisted: usize,
}

/// Cells in a ring, and a fleet that knows what each of them is.
struct Ring<'a> {
    ring: HomeRing,
    layout: Layout<'a>,
}

impl<'a> Ring<'a> {
    fn new(fleet: &'a Fleet, cells: Vec<CellId>, seed: Option<u64>) -> Result<Self, Failure> {
        Ok(Self { ring: ring_of(cells, seed)?, layout: Layout::new(fleet, Policy::default()) })
    }

    /// Whether the tenant may ever be there.
    fn may(&self, tenant: TenantIx, cell: &CellId) -> bool {
        let cell = self.layout.fleet().find_cell(cell.as_str());
        cell.is_some_and(|cell| never(&self.layout, tenant, cell).is_none())
    }

    fn home(&self, tenant: TenantIx, name: &str) -> Option<CellId> {
        self.ring.home(name, |cell| self.may(tenant, cell)).cloned()
    }

    fn shard(&self, tenant: TenantIx, name: &str, size: usize) -> Vec<CellId> {
        let walk = self.ring.walk(name).filter(|cell| self.may(tenant, cell));
        let mut shard: Vec<CellId> = walk.take(size).cloned().collect();
        shard.sort();
        shard
    }
}

pub(super) fn run(global: &Global, asked: &RingArgs) -> Result<Exit, Failure> {
    asked.unbounded.check("plan ring")?;
    let loaded = load(global, &asked.of)?;
    let fleet = &loaded.fleet;
    let named = asked.tenants.iter().map(|tenant| find(&loaded, tenant)).collect::<Result<Vec<_>, _>>()?;
    let cells: Vec<CellId> = fleet.cells().map(|cell| fleet.cell_id(cell).clone()).collect();
    let then = changed_cells(&cells, &asked.add, &asked.remove)?;
    let with_added = with(fleet, &asked.add)?;
    let before = Ring::new(fleet, cells, asked.seed)?;
    let after = Ring::new(with_added.as_ref().unwrap_or(fleet), then, asked.seed)?;
    let both = before.ring.cells().iter().chain(after.ring.cells());
    let mut parts: BTreeMap<CellId, Part> = both.map(|cell| (cell.clone(), Part::default())).collect();
    let mut nowhere = Part::default();
    let (mut items, mut unlisted, mut changed) = (Vec::new(), 0, 0);
    let bar = console::progress(fleet.tenants().len() as u64, "tenants");
    for tenant in fleet.tenants() {
        let name = fleet.tenant_id(tenant);
        // Both fleets have the same tenants, in the same order.
        let (home, home_then) = (before.home(tenant, name.as_str()), after.home(tenant, name.as_str()));
        home.as_ref().and_then(|cell| parts.get_mut(cell)).unwrap_or(&mut nowhere).tenants += 1;
        home_then.as_ref().and_then(|cell| parts.get_mut(cell)).unwrap_or(&mut nowhere).tenants_then += 1;
        let changes = home != home_then;
        changed += usize::from(changes);
        if named.contains(&tenant) || (named.is_empty() && changes) {
            let shard = asked.shard.map_or_else(Vec::new, |size| after.shard(tenant, name.as_str(), size.into()));
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
        nowhere,
        churn: before.ring.churn(&after.ring),
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

/// The fleet with the cells that come, so that it is known who may be on them; nothing where none comes.
fn with(fleet: &Fleet, added: &[AddedCell]) -> Result<Option<Fleet>, Failure> {
    if added.is_empty() {
        return Ok(None);
    }
    let mut document = fleet.to_document();
    if document.cells.iter().any(|cell| !cell.residency.is_empty()) {
        for of in added.iter().filter(|of| of.residency.is_empty()) {
            let id = &of.id;
            console::note(&format!(
                "note: cell {id} is of no residency, so that nobody who needs one has it as a home: --add {id},residency=ZONE"
            ));
        }
    }
    document.cells.extend(added.iter().map(|of| CellEntry {
        id: of.id.to_string(),
        kind: of.kind,
        region: of.region.clone(),
        residency: of.residency.clone(),
        ..CellEntry::default()
    }));
    let wrong = |error: cell_planner::FleetError| {
        let code = error.problems.first().map_or("FLEET_SYNTAX", |problem| problem.code.as_str());
        Failure::new(code, format!("the fleet with the added cells is none:\n  {error}"), "correct --add")
    };
    document.build().map(Some).map_err(wrong)
}

/// The cells as they would be.
fn changed_cells(cells: &[CellId], add: &[AddedCell], remove: &[CellId]) -> Result<Vec<CellId>, Failure> {
    if let Some(there) = add.iter().find(|added| cells.contains(&added.id)) {
        let message = format!("cell {} is in the fleet already", there.id);
        return Err(Failure::new("CELL_EXISTS", message, "name another one to --add"));
    }
    if let Some(twice) = (1..add.len()).find(|&at| add[..at].iter().any(|before| before.id == add[at].id)) {
        let message = format!("cell {} is to be added twice", add[twice].id);
        return Err(Failure::usage(message, "name it once to --add"));
    }
    if let Some(unknown) = remove.iter().find(|cell| !cells.contains(cell)) {
        let message = format!("cell {unknown} is not in the fleet, so it cannot go");
        return Err(Failure::new("CELL_UNKNOWN", message, ask::CELLS));
    }
    let stay = cells.iter().filter(|cell| !remove.contains(cell));
    let mut then: Vec<CellId> = stay.chain(add.iter().map(|added| &added.id)).cloned().collect();
    then.sort();
    Ok(then)
}

/// All of it in a sentence.
pub(super) fn heading(preview: &Preview) -> String {
    let Preview { tenants, changed, churn, nowhere, .. } = preview;
    let of = plural(*tenants, "tenant");
    let homeless = match nowhere.tenants_then {
        0 => String::new(),
        count => format!("; {count} of them may be on no cell"),
    };
    if churn.flows.is_empty() {
        return format!("default homes of {of} on {}{homeless}", plural(preview.cells.len(), "cell"));
    }
    let names = percent(churn.moved);
    let get = if *changed == 1 { "gets" } else { "get" };
    format!(
        "{changed} of {of} {get} another default home{homeless}; of all names that could be, if they may be anywhere, {names} do"
    )
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
