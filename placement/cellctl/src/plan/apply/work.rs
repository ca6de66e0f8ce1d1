//! What a file says is to be done: the moves of a plan, wave by wave, or the tiers of a list of proposals.
//!
//! Proposals have been made so that all of them can be carried out together, and are one wave.

use cell_model::{CellId, MoveOptions, Revision, TenantId, Tier};
use cell_planner::{PlannedMove, Wave};
use serde::Serialize;

use crate::failure::Failure;
use crate::plan::document::{self, PlanDocument};
use crate::plan::ticket::Tickets;
use crate::plan::tiers::Proposals;

/// Which tier it has, and which it is to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Tiers {
    pub(super) from: Tier,
    pub(super) to: Tier,
}

/// One thing to be done: a tenant is moved, gets another tier, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    pub(super) wave: usize,
    pub(super) tenant: TenantId,
    pub(super) source: CellId,
    /// The same where it stays.
    pub(super) target: CellId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tiers: Option<Tiers>,
    /// What the move's record and the audit trail keep of why it is done.
    #[serde(skip)]
    pub(super) reason: String,
}

impl Step {
    pub(super) fn is_move(&self) -> bool {
        self.source != self.target
    }
}

/// A file that can be applied.
#[derive(Debug)]
pub(super) struct Work {
    /// What each step is called.
    pub(super) noun: &'static str,
    /// Of what it was made.
    pub(super) origin: String,
    pub(super) cluster: String,
    pub(super) parent: Revision,
    pub(super) steps: Vec<Step>,
    pub(super) tickets: Tickets,
    /// The way back, and whether each step of it is feasible.
    back: (Vec<Step>, bool),
    back_tickets: Tickets,
    /// Why there is nothing to do, where there is nothing.
    pub(super) why: String,
    /// What is not done, and why.
    pub(super) left_out: Vec<String>,
}

impl Work {
    /// Reads what `plan … -o json` has written.
    ///
    /// # Errors
    /// It is something else, or has been cut short.
    pub(super) fn read(text: &str, name: &str) -> Result<Self, Failure> {
        if document::kind_of(text) == Proposals::KIND {
            return Proposals::from_json(text, name).map(|proposals| Self::of_proposals(&proposals));
        }
        PlanDocument::from_json(text, name).map(|document| Self::of_plan(&document))
    }

    fn of_plan(document: &PlanDocument) -> Self {
        let plan = &document.plan;
        let paper = document.to_json();
        Self {
            noun: "move",
            origin: document.origin.clone(),
            cluster: plan.cluster.clone(),
            parent: plan.parent,
            steps: steps(&plan.waves, "plan"),
            tickets: Tickets::of(&paper),
            back: (steps(&plan.undo.waves, "plan taken back"), plan.undo.feasible),
            back_tickets: Tickets::of_undo(&paper),
            why: plan.why.clone(),
            left_out: Vec::new(),
        }
    }

    fn of_proposals(proposals: &Proposals) -> Self {
        let paper = crate::plan::to_json(proposals);
        let mut left_out = Vec::new();
        let mut steps: Vec<Step> = Vec::new();
        for item in &proposals.items {
            let Some(target) = item.of.cost.target.clone() else {
                left_out.push(format!("{}: no cell admits it as {}", item.of.tenant, item.of.to.as_str()));
                continue;
            };
            steps.push(Step {
                wave: 1,
                tenant: item.of.tenant.clone(),
                source: item.cell.clone(),
                target,
                tiers: Some(Tiers { from: item.of.from, to: item.of.to }),
                reason: short(&format!("tier: {}", item.of.sentence)),
            });
        }
        let back = |step: &Step| Step {
            source: step.target.clone(),
            target: step.source.clone(),
            tiers: step.tiers.map(|Tiers { from, to }| Tiers { from: to, to: from }),
            reason: short(&format!("taken back: {}", step.reason)),
            ..step.clone()
        };
        Self {
            noun: "proposal",
            origin: proposals.origin.clone(),
            cluster: proposals.cluster.clone(),
            parent: proposals.parent,
            back: (steps.iter().map(back).collect(), true),
            steps,
            tickets: Tickets::of(&paper),
            back_tickets: Tickets::of_undo(&paper),
            why: "nobody is proposed another tier".into(),
            left_out,
        }
    }

    /// The way that is gone: its steps, with what they are asked for, and whether each of them is feasible.
    pub(super) fn way(&self, is_undo: bool) -> (&[Step], &Tickets, bool) {
        if is_undo { (&self.back.0, &self.back_tickets, self.back.1) } else { (&self.steps, &self.tickets, true) }
    }
}

fn steps(waves: &[Wave], why: &str) -> Vec<Step> {
    let step = |wave: usize, planned: &PlannedMove| Step {
        wave,
        tenant: planned.tenant.clone(),
        source: planned.source.clone(),
        target: planned.target.clone(),
        tiers: None,
        reason: short(&format!("{why}: {}", crate::plan::text::reason(&planned.reason))),
    };
    (1..)
        .zip(waves)
        .flat_map(|(number, wave)| wave.moves.iter().map(move |planned| step(number, planned)))
        .collect()
}

/// As much of it as a record takes.
fn short(reason: &str) -> String {
    let end = (0..=MoveOptions::REASON_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
    reason[..end.unwrap_or_default()].to_owned()
}

#[cfg(test)]
mod tests {
    use cell_planner::{FleetDocument, Layout, Policy, TierPolicy, TierWatch};

    use super::*;

    /// Two of thirty cores on a cell of a hundred, and one dedicated cell.
    fn proposals() -> String {
        let text = r#"{"revision":7,"cluster":"a/1","cells":[
            {"id":"c1","capacity":{"cpu":100,"connections":9,"storage":9}},
            {"id":"own","kind":"dedicated","capacity":{"cpu":100,"connections":9,"storage":9}}],
          "tenants":[{"id":"more","cell":"c1","demand":{"cpu":{"mean":31}}},
            {"id":"less","cell":"c1","demand":{"cpu":{"mean":30}}},
            {"id":"mid","cell":"c1","demand":{"cpu":{"mean":12}}}]}"#;
        let fleet = FleetDocument::from_json(text).unwrap().build().unwrap();
        let layout = Layout::new(&fleet, Policy::default());
        let (mut watch, policy) = (TierWatch::default(), TierPolicy { promote_days: 1, ..TierPolicy::default() });
        watch.observe(&layout, &policy).unwrap();
        let items = watch.proposals(&layout, None, &policy);
        crate::plan::to_json(&Proposals::of(&fleet, "it".into(), policy, items))
    }

    #[test]
    fn proposals_are_steps_of_one_wave_and_who_finds_no_cell_is_left_out() {
        let work = Work::read(&proposals(), "f").unwrap();
        let told: Vec<String> = [false, true]
            .iter()
            .flat_map(|&undo| work.way(undo).0)
            .map(|step| {
                let Tiers { from, to } = step.tiers.unwrap();
                format!(
                    "{} {} {}→{} {}→{}",
                    step.wave,
                    step.tenant,
                    step.source,
                    step.target,
                    from.as_str(),
                    to.as_str()
                )
            })
            .collect();
        let forwards = ["1 more c1→own bronze→platinum", "1 mid c1→c1 bronze→gold"];
        let back = ["1 more own→c1 platinum→bronze", "1 mid c1→c1 gold→bronze"];
        assert_eq!(told, [forwards, back].concat());
        assert_eq!(work.left_out, ["less: no cell admits it as platinum"]);
        assert_eq!((work.parent, work.cluster.as_str()), (Revision(7), "a/1"));
        assert!(work.steps[0].reason.starts_with("tier: more has outgrown bronze"), "{}", work.steps[0].reason);
        assert!(work.steps[0].is_move() && !work.steps[1].is_move());
    }

    #[test]
    fn a_list_that_contradicts_itself_is_no_list() {
        let whole = proposals();
        let refused = |text: &str| Work::read(text, "f").unwrap_err();
        let cut = refused(&whole[..whole.len() - 30]);
        assert!(cut.code == "PLAN_SYNTAX" && cut.message.contains("EOF"), "{cut}");
        let twice = refused(&whole.replace("\"mid\"", "\"more\""));
        assert!(twice.message.contains("tenant more is proposed another tier twice"), "{twice}");
        let same = refused(&whole.replace("\"to\": \"gold\"", "\"to\": \"bronze\""));
        assert!(same.code == "PLAN_SYNTAX" && same.message.contains("the tier that it has"), "{same}");
        let later = refused(&whole.replacen("/v1", "/v9", 1));
        assert!(later.message.contains("its version is"), "{later}");
        let other = refused(r#"{"kind":"PlacementList"}"#);
        assert!(other.code == "PLAN_SYNTAX" && other.hint.contains("tiers"), "{other}");
    }
}
