//! `plan fail-cell`: what losing cells would do. Who is on them needs another home at once; the largest go first, and
//! each finds its cell as any other tenant does.

use std::collections::BTreeSet;

use cell_model::{CellId, CellState, Revision};
use cell_planner::{CellChange, Decision, Fleet, FleetDocument, HomeRing, Layout, Policy, TenantEntry, place};
use serde::Serialize;

use super::live::most;
use super::text::{percent, sparkline};
use super::{html, load, plural, policy, ring};
use crate::cli::{FleetArgs, Global, JudgeArgs, Output};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::render::table;
use crate::view::API_VERSION;

/// Tenants without a home that the text lists.
const SHOWN: usize = 10;

/// What the loss would do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Loss {
    api_version: &'static str,
    kind: &'static str,
    pub(super) origin: String,
    pub(super) parent: Revision,
    /// The cells that are lost.
    pub(super) cells: Vec<CellId>,
    /// Tenants on them.
    pub(super) tenants: usize,
    /// All tenants of the fleet.
    pub(super) tenants_of_fleet: usize,
    /// Where those who find room go, the largest first.
    pub(super) placed: Vec<Decision>,
    /// Those who find none, and what each cell says.
    pub(super) nowhere: Vec<Decision>,
    /// Pinned to a lost cell, so that no other may be asked.
    pub(super) pinned: Vec<String>,
    /// How full the fullest cell that is left was, and is then.
    pub(super) hottest_before: f64,
    /// As above.
    pub(super) hottest_after: f64,
    /// The cells that take somebody in.
    pub(super) changes: Vec<CellChange>,
}

pub(super) fn run(global: &Global, cells: &[CellId], of: &FleetArgs, judge: &JudgeArgs) -> Result<Exit, Failure> {
    let loaded = load(global, of)?;
    super::ask::check_known(&loaded, cells)?;
    let (policy, ring) = (policy(judge)?, ring(&loaded.fleet, judge)?);
    let loss = console::while_waiting("losing cells on paper", || {
        lose(&loaded.fleet, &loaded.origin, cells, policy, &ring)
    })?;
    console::data(&match global.output {
        Output::Table => text(&loss, !global.no_headers),
        Output::Json => super::to_json(&loss),
        Output::Html => html::loss(&loss, policy.high_water),
        Output::Name => loss.nowhere.iter().map(|of| format!("tenant/{}\n", of.tenant)).collect(),
    });
    Ok(Exit::Done)
}

fn lose(fleet: &Fleet, origin: &str, cells: &[CellId], policy: Policy, ring: &HomeRing) -> Result<Loss, Failure> {
    let lost: BTreeSet<&str> = cells.iter().map(CellId::as_str).collect();
    let Homeless { document, tenants, pinned } = without(fleet.to_document(), &lost);
    let rest = document.build().map_err(|error| {
        let code = error.problems.first().map_or("FLEET_SYNTAX", |problem| problem.code.as_str());
        Failure::new(code, format!("without these cells the fleet makes no sense: {error}"), "correct the fleet")
    })?;
    let before = Layout::new(&rest, policy);
    let mut layout = before.clone();
    let (mut placed, mut nowhere) = (Vec::new(), Vec::new());
    for name in &tenants {
        let tenant = rest.find_tenant(name).expect("it is in the document that the fleet was built from");
        let decision = place(&layout, Some(ring), tenant).map_err(|error| super::place::moving(&error))?;
        match decision.chosen.as_ref().and_then(|cell| rest.find_cell(cell.as_str())) {
            Some(cell) => {
                layout.settle(tenant, cell);
                placed.push(decision);
            }
            None => nowhere.push(decision),
        }
    }
    let hottest = |layout: &Layout<'_>| {
        let shares = rest.cells().map(|cell| layout.peak_report(cell).share);
        shares.fold(0.0, f64::max)
    };
    let count = tenants.len() + pinned.len();
    Ok(Loss {
        api_version: API_VERSION,
        kind: "CellLoss",
        origin: origin.to_owned(),
        parent: fleet.revision(),
        cells: cells.to_vec(),
        tenants: count,
        tenants_of_fleet: fleet.tenants().len(),
        hottest_before: hottest(&before),
        hottest_after: hottest(&layout),
        changes: changes(&rest, &before, &layout),
        placed,
        nowhere,
        pinned,
    })
}

/// The fleet without the lost cells' tenants, and who they are, the largest first.
struct Homeless {
    document: FleetDocument,
    tenants: Vec<String>,
    pinned: Vec<String>,
}

fn without(mut document: FleetDocument, lost: &BTreeSet<&str>) -> Homeless {
    let is_lost = |cell: &str| lost.contains(cell);
    for cell in document.cells.iter_mut().filter(|cell| is_lost(&cell.id)) {
        cell.state = CellState::Dead;
    }
    let affected = |tenant: &TenantEntry| is_lost(&tenant.cell);
    let pinned: Vec<String> = document
        .tenants
        .iter()
        .filter(|tenant| is_lost(&tenant.pin))
        .filter(|tenant| affected(tenant))
        .map(|tenant| tenant.id.clone())
        .collect();
    // Who is pinned there and elsewhere now cannot come back: for this question it stays where it is.
    document.tenants.retain(|tenant| !is_lost(&tenant.pin));
    let mut largest: Vec<(f64, String)> = Vec::new();
    for tenant in &mut document.tenants {
        if is_lost(&tenant.moving_to) {
            tenant.moving_to.clear();
        }
        if affected(tenant) {
            largest.push((weight(tenant), tenant.id.clone()));
            tenant.cell.clear();
            tenant.moving_to.clear();
        }
    }
    largest.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    Homeless { document, tenants: largest.into_iter().map(|(_, id)| id).collect(), pinned }
}

/// How hard it is to place: a rough measure that only orders.
fn weight(tenant: &TenantEntry) -> f64 {
    let demand = &tenant.demand;
    let of = [(&demand.cpu, 64.0), (&demand.connections, 1_000.0), (&demand.storage, 4_000.0)];
    of.into_iter().map(|(demand, usual)| (most(&demand.mean) + 2.0 * most(&demand.deviation)) / usual).sum()
}

fn changes(rest: &Fleet, before: &Layout<'_>, after: &Layout<'_>) -> Vec<CellChange> {
    let changed = rest.cells().filter(|&cell| before.members(cell).len() != after.members(cell).len());
    let change = |cell| CellChange {
        cell: rest.cell_id(cell).clone(),
        tenants_before: before.members(cell).len(),
        tenants_after: after.members(cell).len(),
        before: before.peak_report(cell),
        after: after.peak_report(cell),
        hours_before: before.hours(cell),
        hours_after: after.hours(cell),
    };
    changed.map(change).collect()
}

impl Loss {
    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.cells.iter().map(CellId::as_str).collect();
        names.join(", ")
    }

    /// Tenants that find no home.
    pub(super) fn homeless(&self) -> usize {
        self.nowhere.len() + self.pinned.len()
    }

    /// How much of the fleet is hit.
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    pub(super) fn share(&self) -> f64 {
        self.tenants as f64 / self.tenants_of_fleet.max(1) as f64
    }

    /// What it comes to, in a sentence.
    pub(super) fn verdict(&self) -> String {
        let affected = plural(self.tenants, "tenant");
        match self.homeless() {
            _ if self.tenants == 0 => "nobody is on it: nothing is lost".into(),
            0 => format!("all of its {affected} find room elsewhere"),
            homeless => format!("{homeless} of its {affected} find no room"),
        }
    }
}

fn text(loss: &Loss, headers: bool) -> String {
    let mut text = format!("loss of {}, {} at revision {}\n", loss.names(), loss.origin, loss.parent);
    text.push_str(&format!("  {}\n\n", loss.verdict()));
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<14}{value}\n"));
    line(
        "blast radius",
        format!("{} of {} tenants, {}", loss.tenants, loss.tenants_of_fleet, percent(loss.share())),
    );
    line("fullest left", format!("{} → {}", percent(loss.hottest_before), percent(loss.hottest_after)));
    if !loss.changes.is_empty() {
        let rows = loss.changes.iter().map(|change| {
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
        let columns = ["TAKEN IN BY", "TENANTS", "FULLEST", "AT", "DAY AFTER"];
        text.push_str(&table(&columns, rows, headers));
    }
    if loss.homeless() > 0 {
        text.push_str("\nno room for\n");
    }
    for id in loss.pinned.iter().take(SHOWN) {
        text.push_str(&format!("  {id}: it is pinned to a lost cell\n"));
    }
    for decision in loss.nowhere.iter().take(SHOWN) {
        let nearest = decision.counterfactuals.first().map_or("no cell may take it", |of| of.sentence.as_str());
        text.push_str(&format!("  {}: {nearest}\n", decision.tenant));
    }
    let more = loss.nowhere.len().saturating_sub(SHOWN) + loss.pinned.len().saturating_sub(SHOWN);
    if more > 0 {
        text.push_str(&format!("  and {more} more: -o json has them\n"));
    }
    text
}
