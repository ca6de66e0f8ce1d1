//! `explain tenant`: where it is, where it would be best, and what speaks against every other cell.

use std::fmt::Write as _;

use cell_model::TenantId;
use cell_planner::{Candidate, Decision, Layout, place};
use serde::Serialize;

use super::place::{find, moving};
use super::text::percent;
use super::{html, load, plural, policy, ring};
use crate::cli::{FleetArgs, Global, JudgeArgs, Output};
use crate::commands::{connect, on_runtime};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::render::table;
use crate::view::API_VERSION;

/// What is said of one tenant.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explanation {
    api_version: &'static str,
    kind: &'static str,
    origin: String,
    /// The cell that it is on.
    pub(super) cell: Option<String>,
    /// Why it came to the cell where it was made, as it was said then; only of a live tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) placed: Option<String>,
    /// Where it would be best now.
    #[serde(flatten)]
    pub(super) decision: Decision,
    /// How full each candidate is as it is, for the chart.
    #[serde(skip)]
    pub(super) now: Vec<f64>,
    #[serde(skip)]
    pub(super) high_water: f64,
}

pub(crate) fn run(global: &Global, name: &TenantId, of: &FleetArgs, judge: &JudgeArgs) -> Result<Exit, Failure> {
    let loaded = load(global, of)?;
    let (policy, ring) = (policy(judge)?, ring(&loaded.fleet, judge)?);
    let tenant = find(&loaded, name)?;
    let layout = Layout::new(&loaded.fleet, policy);
    let decision = place(&layout, Some(&ring), tenant).map_err(|error| moving(&error))?;
    let now = decision.candidates.iter().filter_map(|of| loaded.fleet.find_cell(of.cell.as_str()));
    let now = now.map(|cell| layout.peak_report(cell).share).collect();
    let explanation = Explanation {
        api_version: API_VERSION,
        kind: "Explanation",
        origin: loaded.origin,
        cell: layout.home(tenant).map(|cell| layout.cell_id(cell).to_string()),
        placed: if loaded.is_live { kept(global, name)? } else { None },
        decision,
        now,
        high_water: policy.high_water,
    };
    console::data(&match global.output {
        Output::Table => told(&explanation),
        Output::Json => super::to_json(&explanation),
        Output::Name => format!("tenant/{name}\n"),
        Output::Html => html::explanation(&explanation),
    });
    Ok(Exit::Done)
}

/// What the record says of how it was placed.
fn kept(global: &Global, name: &TenantId) -> Result<Option<String>, Failure> {
    let record = on_runtime(async { Ok(connect(global)?.client.get_tenant(name).await?) })?;
    Ok(Some(record.placed).filter(|placed| !placed.is_empty()))
}

fn told(explanation: &Explanation) -> String {
    let decision = &explanation.decision;
    let mut text = format!("{} at revision {}\n", explanation.origin, decision.parent);
    // Writing to a string cannot fail.
    let _ = match (&explanation.cell, &decision.chosen) {
        (None, _) => writeln!(text, "tenant {} is on no cell", decision.tenant),
        (Some(cell), Some(chosen)) if cell == chosen.as_str() => {
            writeln!(text, "tenant {} is on {cell}, which is the best cell for it", decision.tenant)
        }
        (Some(cell), Some(chosen)) => {
            writeln!(text, "tenant {} is on {cell}; {chosen} would be better", decision.tenant)
        }
        (Some(cell), None) => writeln!(text, "tenant {} is on {cell}, where it may not be", decision.tenant),
    };
    if let Some(placed) = &explanation.placed {
        let _ = writeln!(text, "  when it was made: {placed}");
    }
    text.push('\n');
    text.push_str(&self::decision(decision));
    text
}

/// A decision with everything that led there.
pub(super) fn decision(decision: &Decision) -> String {
    let asked = plural(decision.cells_asked as usize, "cell");
    let mut text = match &decision.chosen {
        Some(cell) => format!("tenant {} → cell {cell}, out of {asked}\n", decision.tenant),
        None => format!("tenant {}: none of {asked} admits it\n", decision.tenant),
    };
    if let Some(alone) = &decision.best_alone {
        let _ = writeln!(text, "  {alone} would be best for it alone; so all that are placed together do better");
    }
    if let Some(margin) = margin(decision) {
        let _ = writeln!(text, "  better than {margin}");
    }
    if let Some(best) = decision.candidates.first() {
        text.push('\n');
        let terms = best.terms.listed().into_iter().map(|(name, _)| name.to_uppercase().replace('_', " "));
        let columns: Vec<String> =
            ["CELL".to_owned(), "FULLEST THEN".to_owned()].into_iter().chain(terms).collect();
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        text.push_str(&table(&columns, decision.candidates.iter().map(candidate), true));
    }
    if !decision.refused.is_empty() {
        text.push_str("\nrefused\n");
    }
    for refused in &decision.refused {
        let _ = writeln!(text, "  {:>5}  {}", plural(refused.cells as usize, "cell"), refused.code);
    }
    if !decision.counterfactuals.is_empty() {
        text.push_str("\nwhat would change the answer\n");
    }
    for counterfactual in &decision.counterfactuals {
        let _ = writeln!(text, "  {}", counterfactual.sentence);
    }
    text
}

/// By what the best is better than the next.
pub(super) fn margin(decision: &Decision) -> Option<String> {
    let margin = decision.margin.as_ref()?;
    let by =
        if margin.by == 0 { "by its name only".into() } else { format!("by {} of {}", margin.by, margin.term) };
    Some(format!("{} {by}", margin.over))
}

fn candidate(candidate: &Candidate) -> Vec<String> {
    let peak = format!("{} {}", percent(candidate.peak.share), candidate.peak.at);
    let terms = candidate.terms.listed().into_iter().map(|(_, value)| value.to_string());
    [candidate.cell.to_string(), peak].into_iter().chain(terms).collect()
}
