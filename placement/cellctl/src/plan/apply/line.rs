//! One step of what is carried out, and where it stands: read from the tenant's record alone.

use cell_client::wire;
use cell_model::{CellId, CellRecord, CellState, Revision, Tier};
use serde::Serialize;

use super::work::{Step, Tiers};

/// Where one step stands.
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
    /// The tenant is where it is wanted, and has the tier that it is to have.
    Done,
    /// The move has ended otherwise.
    Failed { id: String, why: String },
    /// Somebody else has moved the tenant, or it is gone.
    Elsewhere { why: String },
}

/// One step, and where it stands.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    #[serde(flatten)]
    pub(super) step: Step,
    #[serde(flatten)]
    pub(super) standing: Standing,
}

/// Why a step that has not begun would be refused because of its target.
pub(super) fn unfit(line: &Line, cells: &[CellRecord]) -> Option<String> {
    let Step { tenant, target, tiers, .. } = &line.step;
    if !matches!(line.standing, Standing::Pending { .. }) {
        return None;
    }
    let Some(cell) = cells.iter().find(|cell| cell.id == *target) else {
        return Some(format!("tenant {tenant} is to go to cell {target}, and there is none"));
    };
    if let Some(Tiers { to, .. }) = tiers
        && !cell.traits.is_for(*to)
    {
        return Some(format!("tenant {tenant} is to be {} on cell {target}, where nobody is", to.as_str()));
    }
    let state = match cell.state {
        CellState::Cordoned if line.step.is_move() => "cordoned",
        CellState::Dead => "dead",
        CellState::Active | CellState::Cordoned => return None,
    };
    let what = if line.step.is_move() { "to go to" } else { "on" };
    Some(format!("tenant {tenant} is {what} cell {target}, which is {state}"))
}

/// What a tenant's record says of a step; `ended` is the move that was seen under way, if it has ended.
pub(super) fn standing(step: &Step, record: &wire::Tenant, ended: Option<&wire::Move>) -> Standing {
    let mapping = record.mapping.clone().unwrap_or_default();
    let (tenant, owner) = (&step.tenant, mapping.owner.as_str());
    if let Some(movement) = &record.r#move {
        if movement.rehearse {
            return Standing::Elsewhere { why: format!("a move of tenant {tenant} is rehearsed: {}", movement.id) };
        }
        if movement.source == step.source.as_str() && movement.target == step.target.as_str() {
            let phase = crate::view::phase_word(movement.phase);
            return Standing::Running { id: movement.id.clone(), phase };
        }
        let why = format!("tenant {tenant} is moving from {} to {}", movement.source, movement.target);
        return Standing::Elsewhere { why };
    }
    if record.life != "live" {
        return Standing::Elsewhere { why: format!("tenant {tenant} is {}", record.life) };
    }
    let tier =
        wire::Tier::try_from(mapping.tier).ok().and_then(|tier| Tier::try_from(tier).ok()).unwrap_or_default();
    let is = |cell: &CellId, wanted: Option<Tier>| owner == cell.as_str() && wanted.is_none_or(|of| of == tier);
    match ended {
        Some(ended) if ended.end != "completed" => {
            let reason = [ended.end_code.as_str(), ended.end_reason.as_str()];
            let reason: Vec<&str> = reason.into_iter().filter(|text| !text.is_empty()).collect();
            let reason = if reason.is_empty() { String::new() } else { format!(" ({})", reason.join(": ")) };
            Standing::Failed { id: ended.id.clone(), why: format!("{}{reason}", ended.end) }
        }
        _ if is(&step.target, step.tiers.map(|tiers| tiers.to)) => Standing::Done,
        _ if is(&step.source, step.tiers.map(|tiers| tiers.from)) => {
            Standing::Pending { record: Revision(mapping.revision) }
        }
        _ => Standing::Elsewhere { why: elsewhere(step, owner, tier) },
    }
}

fn elsewhere(step: &Step, owner: &str, tier: Tier) -> String {
    let Step { tenant, source, target, tiers, .. } = step;
    match tiers {
        None => format!("tenant {tenant} is on {owner}, neither on {source} nor on {target}"),
        Some(Tiers { from, to }) => format!(
            "tenant {tenant} is {} on {owner}, neither {} on {source} nor {} on {target}",
            tier.as_str(),
            from.as_str(),
            to.as_str()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step() -> Step {
        Step {
            wave: 1,
            tenant: "acme".parse().unwrap(),
            source: "c1".parse().unwrap(),
            target: "c2".parse().unwrap(),
            tiers: None,
            reason: String::new(),
        }
    }

    fn waiting(step: Step) -> Line {
        Line { step, standing: Standing::Pending { record: Revision(5) } }
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
        let of = |owner, movement| standing(&step(), &record(owner, movement), None);
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
        let pending = waiting(step());
        assert_eq!(unfit(&pending, &[cell("c2", CellState::Active)]), None);
        assert!(unfit(&pending, &[cell("c1", CellState::Active)]).unwrap().contains("there is none"));
        assert!(unfit(&pending, &[cell("c2", CellState::Cordoned)]).unwrap().contains("which is cordoned"));
        assert_eq!(unfit(&Line { step: step(), standing: Standing::Done }, &[]), None, "it is there already");
        let platinum = Tiers { from: Tier::Bronze, to: Tier::Platinum };
        let promoted = waiting(Step { tiers: Some(platinum), ..step() });
        assert!(
            unfit(&promoted, &[cell("c2", CellState::Active)])
                .unwrap()
                .contains("platinum on cell c2, where nobody is")
        );
        let gold = Tiers { to: Tier::Gold, ..platinum };
        let stays = waiting(Step { tiers: Some(gold), target: step().source, ..step() });
        assert_eq!(unfit(&stays, &[cell("c1", CellState::Cordoned)]), None, "it is there already");
        assert!(unfit(&stays, &[cell("c1", CellState::Dead)]).unwrap().contains("on cell c1, which is dead"));
    }

    #[test]
    fn a_tier_is_done_where_the_tenant_has_it_on_its_cell() {
        let promoted = Step { tiers: Some(Tiers { from: Tier::Bronze, to: Tier::Gold }), ..step() };
        let stays = Step { target: step().source, ..promoted.clone() };
        let of = |step: &Step, owner: &str, tier: wire::Tier| {
            let mut record = record(owner, None);
            record.mapping.as_mut().unwrap().tier = tier.into();
            standing(step, &record, None)
        };
        let pending = Standing::Pending { record: Revision(5) };
        assert_eq!(of(&promoted, "c1", wire::Tier::Bronze), pending);
        assert_eq!(of(&promoted, "c2", wire::Tier::Gold), Standing::Done);
        assert_eq!(of(&stays, "c1", wire::Tier::Bronze), pending);
        assert_eq!(of(&stays, "c1", wire::Tier::Gold), Standing::Done);
        for (owner, tier) in [("c2", wire::Tier::Bronze), ("c1", wire::Tier::Silver), ("c3", wire::Tier::Gold)] {
            let Standing::Elsewhere { why } = of(&promoted, owner, tier) else { panic!("{owner}") };
            assert!(why.ends_with(&format!("on {owner}, neither bronze on c1 nor gold on c2")), "{why}");
        }
        let moving = standing(&stays, &record("c1", Some(("c1", "c2"))), None);
        assert!(matches!(moving, Standing::Elsewhere { .. }), "{moving:?}");
    }

    #[test]
    fn a_move_that_was_rolled_back_has_failed_and_is_not_begun_again() {
        let end = |end: &str| wire::Move { id: "m-7".into(), end: end.into(), ..wire::Move::default() };
        let of = |owner, ended: &str| standing(&step(), &record(owner, None), Some(&end(ended)));
        assert!(matches!(of("c1", "rolled-back"), Standing::Failed { .. }));
        assert!(matches!(of("c1", "aborted"), Standing::Failed { .. }));
        assert_eq!(of("c2", "completed"), Standing::Done);
    }
}
