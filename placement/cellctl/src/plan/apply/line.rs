//! One move of a plan that is carried out, and where it stands: read from the tenant's record alone.

use cell_client::wire;
use cell_model::{CellRecord, CellState, Revision, TenantId};
use serde::Serialize;

use crate::failure::Failure;

/// Where one move of the plan stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
pub(super) enum Standing {
    /// It has not begun.
    Pending {
        #[serde(skip)]
        record: Revision,
    },
    /// It is under way.
    Running { id: String, phase: String },
    /// The tenant is where the plan wants it.
    Done,
    /// The move has ended otherwise.
    Failed { id: String, why: String },
    /// Somebody else has moved the tenant, or it is gone.
    Elsewhere { why: String },
}

/// One move of the plan.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) wave: usize,
    pub(super) tenant: String,
    pub(super) source: String,
    pub(super) target: String,
    #[serde(flatten)]
    pub(super) standing: Standing,
}

pub(super) fn tenant_of(line: &Line) -> Result<TenantId, Failure> {
    TenantId::new(&line.tenant).map_err(|error| {
        Failure::new(
            "PLAN_SYNTAX",
            format!("the plan names a tenant that cannot be: {error}"),
            "make the plan anew: `cellctl plan … -o json`",
        )
    })
}

/// Why a move that has not begun would be refused because of its target.
pub(super) fn unfit(line: &Line, cells: &[CellRecord]) -> Option<String> {
    let Line { tenant, target, .. } = line;
    if !matches!(line.standing, Standing::Pending { .. }) {
        return None;
    }
    let Some(cell) = cells.iter().find(|cell| cell.id.as_str() == target) else {
        return Some(format!("tenant {tenant} is to go to cell {target}, and there is none"));
    };
    let state = match cell.state {
        CellState::Active => return None,
        CellState::Cordoned => "cordoned",
        CellState::Dead => "dead",
    };
    Some(format!("tenant {tenant} is to go to cell {target}, which is {state}"))
}

/// What a tenant's record says of a planned move; `ended` is the move that was seen under way, if it has ended.
pub(super) fn standing(line: &Line, record: &wire::Tenant, ended: Option<&wire::Move>) -> Standing {
    let mapping = record.mapping.clone().unwrap_or_default();
    let (tenant, owner) = (&line.tenant, &mapping.owner);
    if let Some(movement) = &record.r#move {
        if movement.rehearse {
            return Standing::Elsewhere { why: format!("a move of tenant {tenant} is rehearsed: {}", movement.id) };
        }
        if movement.source == line.source && movement.target == line.target {
            let phase = crate::view::phase_word(movement.phase);
            return Standing::Running { id: movement.id.clone(), phase };
        }
        let why = format!("tenant {tenant} is moving from {} to {}", movement.source, movement.target);
        return Standing::Elsewhere { why };
    }
    if record.life != "live" {
        return Standing::Elsewhere { why: format!("tenant {tenant} is {}", record.life) };
    }
    match ended {
        Some(ended) if ended.end != "completed" => {
            let reason = [ended.end_code.as_str(), ended.end_reason.as_str()];
            let reason: Vec<&str> = reason.into_iter().filter(|text| !text.is_empty()).collect();
            let reason = if reason.is_empty() { String::new() } else { format!(" ({})", reason.join(": ")) };
            Standing::Failed { id: ended.id.clone(), why: format!("{}{reason}", ended.end) }
        }
        _ if *owner == line.target => Standing::Done,
        _ if *owner == line.source => Standing::Pending { record: Revision(mapping.revision) },
        _ => {
            let why = format!("tenant {tenant} is on {owner}, neither on {} nor on {}", line.source, line.target);
            Standing::Elsewhere { why }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        let [tenant, source, target] = ["acme", "c1", "c2"].map(String::from);
        Line { wave: 1, tenant, source, target, standing: Standing::Done }
    }

    fn record(owner: &str, movement: Option<(&str, &str)>) -> wire::Tenant {
        let mapping = wire::Mapping { owner: owner.into(), revision: 5, ..wire::Mapping::default() };
        let movement = movement.map(|(source, target)| wire::Move {
            id: "m-7".into(),
            source: source.into(),
            target: target.into(),
            phase: wire::Phase::Backfill.into(),
            ..wire::Move::default()
        });
        wire::Tenant { mapping: Some(mapping), r#move: movement, life: "live".into(), ..wire::Tenant::default() }
    }

    #[test]
    fn where_a_move_stands_is_read_from_the_record_alone() {
        let of = |owner, movement| standing(&line(), &record(owner, movement), None);
        assert_eq!(of("c1", None), Standing::Pending { record: Revision(5) });
        let running = Standing::Running { id: "m-7".into(), phase: "backfill".into() };
        assert_eq!(of("c1", Some(("c1", "c2"))), running);
        assert_eq!(of("c2", Some(("c1", "c2"))), running, "after the cutover it is not done before its end");
        assert_eq!(of("c2", None), Standing::Done);
        assert!(matches!(of("c3", None), Standing::Elsewhere { .. }));
        assert!(matches!(of("c1", Some(("c1", "c3"))), Standing::Elsewhere { .. }));
    }

    #[test]
    fn a_target_that_cannot_take_a_tenant_is_found_before_anything_is_moved() {
        let cell = |name: &str, state| CellRecord {
            id: name.parse().unwrap(),
            state,
            gates: Vec::new(),
            agent: String::new(),
            region: String::new(),
            residency: String::new(),
            traits: cell_model::CellTraits::default(),
            generation: cell_model::Generation(0),
            revision: Revision(1),
        };
        let pending = Line { standing: Standing::Pending { record: Revision(5) }, ..line() };
        assert_eq!(unfit(&pending, &[cell("c2", CellState::Active)]), None);
        assert!(unfit(&pending, &[cell("c1", CellState::Active)]).unwrap().contains("there is none"));
        assert!(unfit(&pending, &[cell("c2", CellState::Cordoned)]).unwrap().contains("which is cordoned"));
        assert_eq!(unfit(&line(), &[]), None, "it is there already");
    }

    #[test]
    fn a_move_that_was_rolled_back_has_failed_and_is_not_begun_again() {
        let end = |end: &str| wire::Move { id: "m-7".into(), end: end.into(), ..wire::Move::default() };
        let of = |owner, ended: &str| standing(&line(), &record(owner, None), Some(&end(ended)));
        assert!(matches!(of("c1", "rolled-back"), Standing::Failed { .. }));
        assert!(matches!(of("c1", "aborted"), Standing::Failed { .. }));
        assert_eq!(of("c2", "completed"), Standing::Done);
    }
}
