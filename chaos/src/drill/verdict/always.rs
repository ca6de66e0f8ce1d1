//! What must hold in every drill, and is listed in none.

use cell_model::invariants;

use super::{Finding, Group, Span, Tally, during};
use crate::check::FaultKind;
use crate::drill::evidence::Evidence;
use crate::sights::JUDGED;

pub(super) fn always(evidence: &Evidence) -> Vec<Finding> {
    let found = &evidence.findings;
    let none = |what: &str, kind: FaultKind| {
        let examples = found.faults.iter().filter(|fault| fault.kind == kind).take(3);
        let examples: Vec<String> =
            examples.map(|fault| format!("{} {}: {}", fault.tenant, fault.object, fault.detail)).collect();
        let held = found.count(kind) == 0;
        let seen = promise(what.into(), held, or_none(found.count(kind), &examples));
        Finding { invariants: owned(kind.promises()), ..seen }
    };
    let steady = Tally::of(during(evidence, Group::All, Span::Steady));
    let acked = found.acked_writes;
    vec![
        promise(
            "the steady state was steady: every request was answered".into(),
            steady.failed == 0 && steady.sent > 0,
            format!("{} of {} failed", steady.failed, steady.sent),
        ),
        none(&format!("none of {acked} acknowledged writes is lost"), FaultKind::Lost),
        none("no write was done twice", FaultKind::Duplicated),
        none("no value and no read went back", FaultKind::Reordered),
        none("nothing that was deleted is there again", FaultKind::Resurrected),
        none("no tenant has another tenant's value", FaultKind::Leaked),
        none("nothing is there that nobody wrote", FaultKind::Phantom),
        Finding {
            invariants: owned(&["I1"]),
            ..promise(
                "each tenant has one owner, which holds what clients see".into(),
                evidence.mismatches.is_empty(),
                or_none(evidence.mismatches.len() as u64, &evidence.mismatches),
            )
        },
        promise(
            "every step of the drill could be done, and no process fell".into(),
            evidence.trouble.is_empty(),
            or_none(evidence.trouble.len() as u64, &evidence.trouble),
        ),
    ]
}

fn owned(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// Store and cells were looked at while the drill ran.
pub(super) fn looked_at(evidence: &Evidence) -> Vec<Finding> {
    const LOOKS_MIN: usize = 50;
    let (looks, broken) = (evidence.sights.looks(), evidence.sights.broken());
    let judged = invariants::ALL.iter().filter(|promise| JUDGED.contains(&promise.id)).map(|invariant| {
        let examples = broken.get(invariant.id).map_or(&[][..], Vec::as_slice);
        let told = or_none(examples.len() as u64, examples);
        let seen = promise(invariant.statement.into(), examples.is_empty(), format!("{told} in {looks} looks"));
        Finding { invariants: owned(&[invariant.id]), ..seen }
    });
    let took_place = Finding {
        statement: format!("cells were looked at together with the store at least {LOOKS_MIN} times"),
        exercise: true,
        invariants: Vec::new(),
        held: looks >= LOOKS_MIN,
        observed: format!("{looks} times"),
    };
    judged.chain([took_place]).collect()
}

fn or_none(count: u64, examples: &[String]) -> String {
    if count == 0 {
        return "none".into();
    }
    let shown: Vec<&str> = examples.iter().take(3).map(String::as_str).collect();
    format!("{count}: {}", shown.join("; "))
}

fn promise(statement: String, held: bool, observed: String) -> Finding {
    Finding { statement, invariants: Vec::new(), exercise: false, held, observed }
}
