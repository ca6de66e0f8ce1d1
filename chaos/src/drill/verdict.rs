//! The judge: evidence against expectations. It reads plain data and asks nobody.
//!
//! Some things must hold in every drill and are not listed in any: nothing lost, duplicated, reordered or back from the
//! dead; no value with another tenant; one owner of each tenant, whose data is what clients see; a steady state that was
//! steady; no process that fell.

mod always;
mod exercised;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use always::{always, looked_at};
use exercised::exercise;
use serde::{Deserialize, Serialize};

use super::evidence::{Evidence, FaultSpan, MoveTrace};
use super::{Drill, Expect, Group, Span, keys};
use crate::clock::Micros;
use crate::exercise::Spread;
use crate::history::{Op, Outcome};

/// How a drill has come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrillVerdict {
    /// The fault took place and everything held.
    Pass,
    /// Something did not hold.
    Fail,
    /// The fault, or the load that was to meet it, did not take place: nothing is proven.
    NotExercised,
}

impl DrillVerdict {
    /// Of these findings.
    #[must_use]
    pub fn of(findings: &[Finding]) -> Self {
        let broken = |exercise: bool| findings.iter().any(|one| one.exercise == exercise && !one.held);
        match (broken(false), broken(true)) {
            (true, _) => Self::Fail,
            (false, true) => Self::NotExercised,
            (false, false) => Self::Pass,
        }
    }

    /// As people read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::NotExercised => "not exercised",
        }
    }
}

/// One thing that was to hold, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was to hold.
    pub statement: String,
    /// The promises of `docs/invariants.md` that it stands for, if it does for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invariants: Vec<String>,
    /// Whether it says that the experiment took place.
    pub exercise: bool,
    /// Whether it held.
    pub held: bool,
    /// What was seen.
    pub observed: String,
}

/// How many requests of one tenant were answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// All that were sent.
    pub sent: usize,
    /// Failed: a 5xx, a broken connection, no answer in time.
    pub failed: usize,
}

impl Tally {
    /// Of these requests.
    pub(super) fn of<'a>(ops: impl Iterator<Item = &'a Op>) -> Self {
        ops.fold(Self::default(), |tally, op| Self {
            sent: tally.sent + 1,
            failed: tally.failed + usize::from(op.failed),
        })
    }

    /// Answered, of a hundred; of nothing sent, nothing was.
    #[must_use]
    pub fn percent(self) -> f64 {
        if self.sent == 0 { 0.0 } else { (self.sent - self.failed) as f64 * 100.0 / self.sent as f64 }
    }
}

/// Judges a drill.
pub(super) fn judge(drill: &Drill, evidence: &Evidence) -> Vec<Finding> {
    let mut findings: Vec<Finding> = drill.expects.iter().map(|expect| finding(expect, evidence)).collect();
    findings.extend(always(evidence));
    findings.extend(looked_at(evidence));
    findings
}

fn finding(expect: &Expect, evidence: &Evidence) -> Finding {
    let (statement, held, observed) = match expect {
        Expect::Served(group, span, percent) => served(evidence, *group, *span, *percent),
        Expect::Quick(group, span, ms) => quick(evidence, *group, *span, *ms),
        Expect::Radius(group) => radius(evidence, *group),
        Expect::Back(ms) => back(evidence, *ms),
        Expect::Ends(end) => {
            let ends: BTreeSet<&str> = evidence.moves.iter().map(|one| one.end.as_str()).collect();
            let held = !evidence.moves.is_empty() && ends.iter().all(|other| other == end);
            (format!("every move ends {end}"), held, moves_told(evidence))
        }
        Expect::EndsAsAsked => {
            let asked = |one: &MoveTrace| if one.asked.is_empty() { "completed".into() } else { one.asked.clone() };
            let held = !evidence.moves.is_empty() && evidence.moves.iter().all(|one| one.end == asked(one));
            ("every move ends as it was asked to".into(), held, moves_told(evidence))
        }
        Expect::Commands(ms) => commands(evidence, *ms),
        Expect::Forbidden => {
            let asked: Vec<_> = evidence.commands.iter().filter(|one| !one.wanted.is_empty()).collect();
            let held = !asked.is_empty() && asked.iter().all(|one| one.code == one.wanted);
            let told: Vec<String> = asked.iter().map(|one| format!("{}: {}", one.what, shown(&one.code))).collect();
            ("what is forbidden was refused".into(), held, told.join("; "))
        }
        Expect::Refused(group, code) => refused(evidence, *group, code),
        Expect::Bounded(group, ms) => bounded(evidence, *group, *ms),
        Expect::NotHaunted => not_haunted(evidence),
        Expect::RetriesBounded(percent) => {
            let ((again, denied), sent) = (evidence.replays, evidence.ops.len() as u64);
            let held = sent > 0 && again * 100 <= sent * u64::from(*percent);
            let told = format!("{again} of {sent} were, {denied} more had no budget");
            (format!("routers send at most {percent} % of the requests again"), held, told)
        }
        Expect::Fell => fell(evidence),
        Expect::Fresh => {
            let last = evidence.samples.last().map(|sample| sample.staleness_ms.clone()).unwrap_or_default();
            let fresh = |age: &Option<u64>| age.is_some_and(|age| age <= 1_000);
            let told: Vec<String> =
                last.iter().map(|age| age.map_or("unknown".into(), |age| format!("{age} ms"))).collect();
            let held = !last.is_empty() && last.iter().all(fresh);
            ("in the end every router's table is at most a second old".into(), held, told.join(", "))
        }
        Expect::Agreed => {
            let revisions: BTreeSet<u64> = evidence.revisions.values().copied().collect();
            let held = evidence.revisions.len() == 3 && revisions.len() == 1;
            let told: Vec<String> =
                evidence.revisions.iter().map(|(node, revision)| format!("{node} at {revision}")).collect();
            ("in the end all control nodes are at one revision".into(), held, told.join(", "))
        }
        _ => exercise(expect, evidence),
    };
    Finding { statement, invariants: Vec::new(), exercise: expect.is_exercise(), held, observed }
}

/// Requests of a group that were sent within a part of the run.
fn during<'a>(evidence: &'a Evidence, group: Group, span: Span) -> impl Iterator<Item = &'a Op> + Clone + 'a {
    let (from, to) = match span {
        Span::Steady => evidence.steady,
        Span::Fault => evidence.fault,
        Span::Whole => (evidence.steady.0, evidence.end),
    };
    let names: BTreeSet<_> = evidence.members(group).into_iter().map(|home| home.name.clone()).collect();
    let is_in = move |op: &&Op| match span {
        Span::Steady => is_steady(op, (from, to)),
        Span::Fault | Span::Whole => from <= op.invoked && op.invoked < to,
    };
    evidence.ops.iter().filter(move |op| is_in(op) && names.contains(&op.tenant))
}

/// Whether a request belongs to the steady state. What was under way for a moment when the first fault came does not:
/// how it ended is the fault's doing.
pub(super) const fn is_steady(op: &Op, (from, to): (Micros, Micros)) -> bool {
    const MOMENT: Micros = 500_000;
    from <= op.invoked && op.invoked < to && (op.returned <= to || op.invoked + MOMENT < to)
}

fn served(evidence: &Evidence, group: Group, span: Span, percent: u32) -> (String, bool, String) {
    let tally = Tally::of(during(evidence, group, span));
    let statement = if percent == 100 {
        format!("every request of {} {} is answered", whom(group), when(span))
    } else {
        format!("at least {percent} % of the requests of {} {} are answered", whom(group), when(span))
    };
    let held = tally.sent > 0 && tally.failed * 100 <= tally.sent * (100 - percent as usize);
    let first = during(evidence, group, span).find(|op| op.failed);
    let first = first.map_or(String::new(), |op| format!("; the first: {} {:?}", op.tenant, op.outcome));
    (
        statement,
        held,
        format!("{} of {} failed ({:.2} % answered){first}", tally.failed, tally.sent, tally.percent()),
    )
}

/// What a machine that is busy with everything at once may add to the slowest requests.
const SLOWER: f64 = 3.0;

fn quick(evidence: &Evidence, group: Group, span: Span, ms: u64) -> (String, bool, String) {
    let p99 = |span| {
        let done = during(evidence, group, span).filter(|op| op.is_done());
        Spread::of_micros(done.map(Op::latency).collect())
    };
    let (before, now) = (p99(Span::Steady), p99(span));
    let most = (before.p99 * SLOWER).max(ms as f64);
    let statement = format!(
        "99 of 100 requests of {} {} take at most {ms} ms, or {SLOWER} times as long as before",
        whom(group),
        when(span)
    );
    let told = format!("p99 {:.0} ms, p50 {:.0} ms; before: p99 {:.0} ms", now.p99, now.p50, before.p99);
    (statement, now.count > 0 && now.p99 <= most, told)
}

fn radius(evidence: &Evidence, group: Group) -> (String, bool, String) {
    let wanted: BTreeSet<&str> = evidence.members(group).iter().map(|home| &*home.name).collect();
    let failed = during(evidence, Group::All, Span::Whole).filter(|op| op.failed);
    let hit: BTreeSet<&str> = failed.map(|op| &*op.tenant).collect();
    let beyond: Vec<&str> = hit.difference(&wanted).copied().collect();
    let spared: Vec<&str> = wanted.difference(&hit).copied().collect();
    let told = format!(
        "{} of {} tenants hit; beyond the radius: {}; spared within it: {}",
        hit.len(),
        evidence.homes.len(),
        shown(&beyond.join(", ")),
        shown(&spared.join(", "))
    );
    (format!("the blast radius is exactly {}", whom(group)), hit == wanted && !hit.is_empty(), told)
}

fn back(evidence: &Evidence, ms: u64) -> (String, bool, String) {
    let healed = evidence.fault.1;
    let last = evidence.ops.iter().filter(|op| op.failed && op.invoked >= healed).map(|op| op.invoked).max();
    let took = last.map_or(0, |last| (last - healed) / 1_000);
    let statement = format!("{ms} ms after the last heal no request fails any more");
    let told =
        last.map_or("none failed after the heal".into(), |_| format!("the last to fail was sent {took} ms after"));
    (statement, took <= ms, told)
}

fn commands(evidence: &Evidence, ms: u64) -> (String, bool, String) {
    let asked: Vec<_> = evidence.commands.iter().filter(|one| one.wanted.is_empty()).collect();
    let good = |one: &&&super::evidence::Answered| one.code.is_empty() && one.took_ms <= ms && one.kept;
    let held = !asked.is_empty() && asked.iter().filter(good).count() == asked.len();
    let told = |one: &&super::evidence::Answered| {
        let kept = if one.kept || !one.code.is_empty() { "" } else { ", and is not there" };
        format!(
            "{}: {} after {} ms{kept}",
            one.what,
            if one.code.is_empty() { "done" } else { &one.code },
            one.took_ms
        )
    };
    let told: Vec<String> = asked.iter().map(told).collect();
    (format!("commands are done within {ms} ms and are there at the end"), held, told.join("; "))
}

/// What was sent and answered while the tenant's key was disabled.
fn refused(evidence: &Evidence, group: Group, wanted: &str) -> (String, bool, String) {
    let disabled = |op: &&Op| {
        let of_it =
            |fault: &&FaultSpan| fault.lane == keys::LANE && fault.label.starts_with(&format!("{} ", op.tenant));
        let mut faults = evidence.faults.iter().filter(of_it);
        faults.any(|fault| fault.from <= op.invoked && op.returned <= fault.to)
    };
    let asked: Vec<&Op> = during(evidence, group, Span::Whole).filter(disabled).collect();
    let is_refused = |op: &&&Op| matches!(&op.outcome, Outcome::Refused { code } if **code == *wanted);
    let count = asked.iter().filter(is_refused).count();
    let other = asked.iter().find(|op| !is_refused(op)).map(|op| format!("; another: {:?}", op.outcome));
    (
        format!("without its key every request of {} is refused with {wanted}", whom(group)),
        count > 0 && count == asked.len(),
        format!("{count} of {} were{}", asked.len(), other.unwrap_or_default()),
    )
}

/// What was refused has a code, and nobody was left without an answer.
fn bounded(evidence: &Evidence, group: Group, ms: u64) -> (String, bool, String) {
    let asked: Vec<&Op> = during(evidence, group, Span::Fault).collect();
    let code = |op: &Op| match &op.outcome {
        // The client's own word for a connection that it did not get.
        Outcome::Refused { code } if **code != *"NO_CONNECTION" => Some(code.clone()),
        _ => None,
    };
    let codes: BTreeSet<_> = asked.iter().filter_map(|op| code(op)).collect();
    let other = asked.iter().find(|op| !op.is_done() && code(op).is_none());
    let longest = asked.iter().map(|op| op.latency() / 1_000).max().unwrap_or(0);
    let held = !codes.is_empty() && other.is_none() && longest <= ms;
    let codes: Vec<&str> = codes.iter().map(|code| &**code).collect();
    let other = other.map_or(String::new(), |op| format!("; another end: {:?}", op.outcome));
    (
        format!(
            "every request of {} during the fault is done, or refused with a code, within {ms} ms",
            whom(group)
        ),
        held,
        format!("refused with {}; the longest took {longest} ms{other}", shown(&codes.join(", "))),
    )
}

fn not_haunted(evidence: &Evidence) -> (String, bool, String) {
    let commit = evidence
        .moves
        .iter()
        .filter_map(|one| one.phases.iter().find(|(phase, _)| phase == "activate").map(|(_, at)| *at));
    let commit = commit.min().unwrap_or(0);
    let after: Vec<&Op> = evidence.haunted.iter().filter(|op| op.invoked >= commit).collect();
    let served = after.iter().filter(|op| op.is_done()).count();
    let refused = after.iter().filter(|op| matches!(op.outcome, Outcome::Refused { .. })).count();
    let held = served == 0 && refused > 0;
    let told = format!("{served} of {} calls under the old epoch were served, {refused} refused", after.len());
    ("the former owner serves nobody".into(), held, told)
}

fn fell(evidence: &Evidence) -> (String, bool, String) {
    let told = |(name, why): &(String, Option<String>)| {
        format!("{name}: {}", why.as_deref().unwrap_or("it has not said why"))
    };
    let told: Vec<String> = evidence.fallen.iter().map(told).collect();
    let held = !evidence.fallen.is_empty() && evidence.fallen.iter().all(|(_, why)| why.is_some());
    ("a node that cannot keep what it is told ends and says why".into(), held, shown(&told.join("; ")).to_owned())
}

fn moves_told(evidence: &Evidence) -> String {
    let mut ends: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for one in &evidence.moves {
        *ends.entry(if one.end.is_empty() { "unfinished" } else { &one.end }).or_default() += 1;
    }
    let counted: Vec<String> = ends.iter().map(|(end, count)| format!("{count} {end}")).collect();
    let reasons = evidence.moves.iter().filter(|one| one.end != "completed" && !one.reason.is_empty());
    let reasons: Vec<String> = reasons.take(3).map(|one| format!("{}: {}", one.id, one.reason)).collect();
    [shown(&counted.join(", ")).to_owned(), reasons.join("; ")]
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

fn shown(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn whom(group: Group) -> String {
    match group {
        Group::All => "all tenants".into(),
        Group::On(cell) => format!("the tenants of cell-{}", cell + 1),
        Group::NotOn(cell) => format!("the tenants outside cell-{}", cell + 1),
        Group::One(_) => "the one tenant".into(),
        Group::AllBut(_) => "all other tenants".into(),
        Group::Beside(_) => "the tenants beside the one".into(),
        Group::Moving => "tenants that move".into(),
        Group::NotMoving => "tenants that do not move".into(),
    }
}

const fn when(span: Span) -> &'static str {
    match span {
        Span::Steady => "in the steady state",
        Span::Fault => "during the fault",
        Span::Whole => "in the whole run",
    }
}
