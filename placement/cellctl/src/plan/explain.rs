//! `explain tenant`: where it is, where it would be best, and what speaks against every other cell.

use std::fmt::Write as _;

use cell_model::{CellId, TenantId};
use cell_planner::{Candidate, Decision, Fleet, HomeRing, Layout, PlaceError, Policy, place};
use serde::Serialize;

use super::place::{find, moving};
use super::text::percent;
use super::{html, load, plural, policy, ring};
use crate::cli::{FleetArgs, Global, JudgeArgs, Output};
use crate::commands::{connect, on_runtime};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::render::table;
use crate::view::{API_VERSION, AuditView, MoveView};

/// What is said of one tenant.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explanation {
    api_version: &'static str,
    kind: &'static str,
    origin: String,
    /// The cell that it is on.
    pub(super) cell: Option<String>,
    /// Where a move takes it, or has brought it from.
    #[serde(rename = "moving", skip_serializing_if = "Option::is_none")]
    pub(super) under: Option<Under>,
    /// How it came to where it is, as it was said then; only of a live tenant.
    #[serde(flatten)]
    pub(super) kept: Kept,
    /// Where it would be best now; of one that moves, if it did not.
    #[serde(flatten)]
    pub(super) decision: Decision,
    /// How full each candidate is as it is, for the chart.
    #[serde(skip)]
    pub(super) now: Vec<f64>,
    #[serde(skip)]
    pub(super) high_water: f64,
}

/// A move that the tenant is under.
#[derive(Debug, Serialize)]
pub(super) struct Under {
    /// Where to, before the cutover.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<CellId>,
    /// Where from, behind it: the old copy follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<CellId>,
    /// The move; nothing of a fleet in a file.
    #[serde(rename = "move", skip_serializing_if = "Option::is_none")]
    movement: Option<MoveView>,
}

pub(crate) fn run(global: &Global, name: &TenantId, of: &FleetArgs, judge: &JudgeArgs) -> Result<Exit, Failure> {
    let loaded = load(global, of)?;
    let (policy, ring) = (policy(judge)?, ring(&loaded.fleet, judge)?);
    let tenant = find(&loaded, name)?;
    let layout = Layout::new(&loaded.fleet, policy);
    let home = layout.home(tenant).map(|cell| layout.cell_id(cell).to_string());
    let (kept, movement) = if loaded.is_live { kept(global, name)? } else { Default::default() };
    let (decision, now, under) = match place(&layout, Some(&ring), tenant) {
        Ok(decision) => {
            let now = shares(&layout, &decision);
            (decision, now, None)
        }
        // It counts on two cells: what is best is asked as if it stayed where it is.
        Err(PlaceError::TenantMoving { target, .. }) => {
            let (decision, now) = still(&loaded.fleet, name, policy, &ring)?;
            (decision, now, Some(Under { to: Some(target), from: None, movement }))
        }
        Err(PlaceError::TenantArrived { origin, .. }) => {
            let (decision, now) = still(&loaded.fleet, name, policy, &ring)?;
            (decision, now, Some(Under { to: None, from: Some(origin), movement }))
        }
    };
    let explanation = Explanation {
        api_version: API_VERSION,
        kind: "Explanation",
        origin: loaded.origin,
        cell: home,
        under,
        kept,
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

/// How full each candidate is as it is.
fn shares(layout: &Layout<'_>, decision: &Decision) -> Vec<f64> {
    let cells = decision.candidates.iter().filter_map(|of| layout.fleet().find_cell(of.cell.as_str()));
    cells.map(|cell| layout.peak_report(cell).share).collect()
}

/// What would be best for a tenant if it were not moving.
fn still(fleet: &Fleet, name: &TenantId, policy: Policy, ring: &HomeRing) -> Result<(Decision, Vec<f64>), Failure> {
    let mut document = fleet.to_document();
    for of in document.tenants.iter_mut().filter(|of| of.id == name.as_str()) {
        of.moving_to.clear();
        of.arrived_from.clear();
    }
    let unmoved = document.build().map_err(|error| {
        let code = error.problems.first().map_or("FLEET_SYNTAX", |problem| problem.code.as_str());
        Failure::new(code, format!("without its move the fleet is none:\n  {error}"), "correct the fleet")
    })?;
    let unknown = || Failure::new("TENANT_UNKNOWN", format!("there is no tenant {name}"), "name one of the fleet");
    let tenant = unmoved.find_tenant(name.as_str()).ok_or_else(unknown)?;
    let layout = Layout::new(&unmoved, policy);
    let decision = place(&layout, Some(ring), tenant).map_err(|error| moving(&error))?;
    let now = shares(&layout, &decision);
    Ok((decision, now))
}

/// What the record and the audit trail have kept of a tenant's way.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Kept {
    /// Why it came to the cell where it was made; nothing where somebody named that cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) placed: Option<String>,
    /// The best cells then with their terms, who refused for what, and what would have changed the answer; nothing where the
    /// trail goes back less far.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    explained: Vec<String>,
    /// Its last move, where a reason was given for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    moved: Option<String>,
}

impl Kept {
    /// From the newest that the trail says of it.
    fn of(placed: String, trail: &[AuditView]) -> Self {
        let last = |action: &str| trail.iter().rev().find(|of| of.action == action && of.outcome == "done");
        let explained = last("create-tenant").and_then(|of| of.said("explained")).unwrap_or_default();
        let moved = last("move-tenant").and_then(|of| {
            let id = of.detail.split(' ').find_map(|word| word.strip_prefix("move="))?;
            Some(format!("{id}, {}", of.said("reason")?))
        });
        Self {
            placed: Some(placed).filter(|placed| !placed.is_empty()),
            explained: explained.split("; ").filter(|item| !item.is_empty()).map(ToOwned::to_owned).collect(),
            moved,
        }
    }
}

fn kept(global: &Global, name: &TenantId) -> Result<(Kept, Option<MoveView>), Failure> {
    on_runtime(async {
        let client = connect(global)?.client;
        let record = client.get_tenant(name).await?;
        let (mut trail, mut next) = (Vec::new(), Some(0));
        while let Some(after) = next {
            let page = client.list_audit(after, Some(name)).await?;
            trail.extend(page.entries.iter().map(AuditView::from));
            next = page.next;
        }
        Ok((Kept::of(record.placed, &trail), record.r#move.map(MoveView::from)))
    })
}

fn told(explanation: &Explanation) -> String {
    let decision = &explanation.decision;
    let mut text = format!("{} at revision {}\n", explanation.origin, decision.parent);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "tenant {} {}", decision.tenant, whereabouts(explanation));
    if let Some(movement) = explanation.under.as_ref().and_then(|under| under.movement.as_ref()) {
        let MoveView { id, status, phase, .. } = movement;
        let tier = movement.tiers.as_ref().map(|of| format!("its tier goes from {} to {}", of.source, of.target));
        let why = movement.reason.clone().or(tier).unwrap_or_else(|| "nobody said why".into());
        let back =
            if explanation.under.as_ref().is_some_and(|under| under.to.is_some()) { "cancel" } else { "rollback" };
        let _ = writeln!(text, "  by {id}, {status} in {phase}: {why}");
        let _ = writeln!(text, "  `cellctl describe move {id}` shows it, `cellctl move {back} {id}` takes it back");
    }
    let Kept { placed, explained, moved } = &explanation.kept;
    if let Some(placed) = placed {
        let _ = writeln!(text, "  when it was made: {placed}");
    }
    for item in explained {
        let _ = writeln!(text, "    {item}");
    }
    if let Some(moved) = moved {
        let _ = writeln!(text, "  moved last by {moved}");
    }
    text.push_str(if explanation.under.is_some() { "\nif it did not move\n" } else { "\n" });
    text.push_str(&self::decision(decision));
    text
}

/// Where it is, and whether that is where it should be, or where it is going.
pub(super) fn whereabouts(explanation: &Explanation) -> String {
    let cell = explanation.cell.as_deref();
    match (cell, &explanation.under, &explanation.decision.chosen) {
        (None, ..) => "is on no cell".into(),
        (Some(cell), Some(Under { to: Some(to), .. }), _) => {
            format!("is on {cell} and moves to {to}: until the cutover {cell} serves it, and it counts on both")
        }
        (Some(cell), Some(Under { from, .. }), _) => {
            let from = from.as_ref().map_or("another cell", CellId::as_str);
            format!(
                "is on {cell}, where a move has brought it from {from}: the copy there follows, and it counts on both"
            )
        }
        (Some(cell), None, Some(chosen)) if cell == chosen.as_str() => {
            format!("is on {cell}, which is the best cell for it")
        }
        (Some(cell), None, Some(chosen)) => format!("is on {cell}; {chosen} would be better"),
        (Some(cell), None, None) => format!("is on {cell}, where it may not be"),
    }
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

#[cfg(test)]
mod tests {
    use cell_model::{AuditEntry, AuditHash, Revision, UnixMillis};

    use super::*;

    fn entry(action: &str, detail: &str, outcome: &str) -> AuditView {
        AuditView::from(&AuditEntry {
            number: 1,
            at: UnixMillis(1),
            actor: String::new(),
            request_id: None,
            action: action.into(),
            subject: "tenant/acme".into(),
            detail: detail.into(),
            revision: Revision(1),
            outcome: outcome.into(),
            previous: AuditHash::default(),
            hash: AuditHash::default(),
        })
    }

    #[test]
    fn what_was_said_when_it_was_placed_and_moved_is_found_in_the_trail() {
        let trail = [
            entry("create-tenant", r#"cell=c9 tier=gold residency= why="a" explained="c9 level=1""#, "done"),
            entry("delete-tenant", "", "done"),
            entry(
                "create-tenant",
                r#"cell=c1 tier=gold residency= why="b" explained="c1 level=3; c2 level=5""#,
                "done",
            ),
            entry("move-tenant", r#"target=c2 move=m-7 source=c1 reason="plan: \"hot\"""#, "done"),
            entry("move-tenant", r#"target=c3 reason="no""#, "MOVE_RUNNING"),
        ];
        let kept = Kept::of("b".into(), &trail);
        assert_eq!(kept.explained, ["c1 level=3", "c2 level=5"]);
        assert_eq!((kept.placed.as_deref(), kept.moved.as_deref()), (Some("b"), Some("m-7, plan: \"hot\"")));
        assert_eq!(Kept::of(String::new(), &trail[1..2]), Kept::default());
    }
}
