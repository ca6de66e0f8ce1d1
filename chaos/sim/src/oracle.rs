//! Judges a run by what clients and watchers were told, and by what the nodes hold when everything has healed.
//!
//! The fleet remembers the answer to every request in the order in which they ran. So the oracle runs the very same
//! commands in that order through [`Fleet::apply`], alone and without any fault, and then holds everything against it:
//! answers, order, final states, snapshots and every single change that a watcher was sent.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use cell_model::{Change, Envelope, Fleet, Reply, RequestId, Revision};

use crate::history::{Ending, History, Operation, Sighting};

/// A promise of the store, as the oracle names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// What was answered is there at the end, with the answer that the client got.
    AnsweredIsKept,
    /// What surely did not run has not run.
    NotRunIsNotRun,
    /// No request id runs twice, and nothing runs that no client asked for.
    RequestRunsOnce,
    /// What ended before something else began comes before it; reads see every write answered before.
    OrderIsReal,
    /// Answers and final state are those of the commands run alone.
    ReplayAgrees,
    /// All nodes hold the same.
    NodesAgree,
    /// A watcher is sent every revision once, in order, and as it was.
    WatchIsWhole,
    /// When everything has healed, everybody gets through in time.
    HealedIsLive,
    /// No node ends without the power going.
    NodesStayUp,
    /// In a fleet: no acknowledged write is lost, done twice, reordered or back after its deletion, and none is with
    /// another tenant.
    WritesAreKept,
    /// In a fleet: each tenant has one owner, which holds what clients see.
    OneOwner,
    /// In a fleet: no look at store and cells has found a promise of `docs/invariants.md` broken.
    InvariantsHold,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AnsweredIsKept => "answered-is-kept",
            Self::NotRunIsNotRun => "not-run-is-not-run",
            Self::RequestRunsOnce => "request-runs-once",
            Self::OrderIsReal => "order-is-real",
            Self::ReplayAgrees => "replay-agrees",
            Self::NodesAgree => "nodes-agree",
            Self::WatchIsWhole => "watch-is-whole",
            Self::HealedIsLive => "healed-is-live",
            Self::NodesStayUp => "nodes-stay-up",
            Self::WritesAreKept => "writes-are-kept",
            Self::OneOwner => "one-owner",
            Self::InvariantsHold => "invariants-hold",
        })
    }
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// How.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

/// Judges everything except liveness. `finals` is what each node held at the end.
pub(crate) fn judge(history: &History, finals: &[Fleet]) -> Vec<Violation> {
    let mut violations = Violations::default();
    let Some((first, others)) = finals.split_first() else { return violations.0 };
    for (index, other) in others.iter().enumerate() {
        violations.require(other == first, Rule::NodesAgree, || {
            let of = |fleet: &Fleet| (fleet.head().revision, fleet.tenant_count(), fleet.head().answered.len());
            format!("node 1 holds {:?} (revision, tenants, answers), node {} {:?}", of(first), index + 2, of(other))
        });
    }
    let ran = Ran::of(first);
    judge_answers(history, &ran, &mut violations);
    judge_order(history, &ran, &mut violations);
    let replay = Replay::of(history, first, &mut violations);
    for (watcher, sightings) in history.sightings.iter().enumerate() {
        judge_watch(watcher, sightings, &replay, &mut violations);
    }
    violations.0
}

#[derive(Debug, Default)]
struct Violations(Vec<Violation>);

impl Violations {
    fn require(&mut self, holds: bool, rule: Rule, detail: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation { rule, detail: detail() });
        }
    }
}

/// Every request that ran: its place in the order, and its answer.
#[derive(Debug)]
struct Ran<'a> {
    by_id: BTreeMap<RequestId, (usize, &'a Reply)>,
    twice: Vec<RequestId>,
}

impl<'a> Ran<'a> {
    fn of(fleet: &'a Fleet) -> Self {
        let mut ran = Self { by_id: BTreeMap::new(), twice: Vec::new() };
        for (place, answered) in fleet.head().answered.iter().enumerate() {
            if ran.by_id.insert(answered.id, (place, &answered.reply)).is_some() {
                ran.twice.push(answered.id);
            }
        }
        ran
    }
}

fn request_of(operation: &Operation) -> Option<RequestId> {
    operation.envelope.as_ref().and_then(|envelope| envelope.request_id)
}

fn judge_answers(history: &History, ran: &Ran<'_>, violations: &mut Violations) {
    for id in &ran.twice {
        violations.require(false, Rule::RequestRunsOnce, || format!("request {:x} ran twice", id.0));
    }
    let asked: BTreeSet<RequestId> = history.operations.iter().filter_map(request_of).collect();
    for id in ran.by_id.keys() {
        violations.require(asked.contains(id), Rule::RequestRunsOnce, || {
            format!("request {:x} ran, and no client has recorded it", id.0)
        });
    }
    for operation in &history.operations {
        let Some(id) = request_of(operation) else { continue };
        let found = ran.by_id.get(&id).map(|(_, reply)| *reply);
        match &operation.ending {
            Ending::Answered(told, _) => violations.require(found == Some(told), Rule::AnsweredIsKept, || {
                format!("request {:x} was answered {told:?}, and in the end there is {found:?}", id.0)
            }),
            Ending::NotRun => violations.require(found.is_none(), Rule::NotRunIsNotRun, || {
                format!("request {:x} was said not to have run, and in the end there is {found:?}", id.0)
            }),
            Ending::Read(..) | Ending::Unknown => {}
        }
    }
}

/// Real time: whoever begins after somebody was answered sees at least what that answer saw.
fn judge_order(history: &History, ran: &Ran<'_>, violations: &mut Violations) {
    struct Told {
        begun: Duration,
        ended: Duration,
        revision: Revision,
        place: Option<usize>,
        client: usize,
    }
    let mut by_begin: Vec<Told> = Vec::new();
    for operation in &history.operations {
        let (revision, ended) = match &operation.ending {
            Ending::Answered(reply, ended) => (reply.revision, *ended),
            Ending::Read(revision, ended) => (*revision, *ended),
            Ending::Unknown | Ending::NotRun => continue,
        };
        let place = request_of(operation).and_then(|id| ran.by_id.get(&id)).map(|(place, _)| *place);
        by_begin.push(Told { begun: operation.begun, ended, revision, place, client: operation.client });
    }
    by_begin.sort_by_key(|told| told.begun);
    let mut by_end: Vec<&Told> = by_begin.iter().collect();
    by_end.sort_by_key(|told| told.ended);
    let mut ended = by_end.into_iter().peekable();
    let (mut seen, mut placed) = (Revision(0), None);
    for told in &by_begin {
        while let Some(before) = ended.next_if(|before| before.ended < told.begun) {
            seen = seen.max(before.revision);
            placed = placed.max(before.place);
        }
        let in_order = told.revision >= seen && told.place.is_none_or(|place| Some(place) > placed);
        violations.require(in_order, Rule::OrderIsReal, || {
            format!(
                "client {} was told revision {} of what it began at {:.3} s, after somebody was told {seen}",
                told.client,
                told.revision,
                told.begun.as_secs_f64()
            )
        });
    }
}

/// The same commands, run alone.
struct Replay {
    changes: BTreeMap<Revision, Vec<Change>>,
    /// The state at each revision that a watcher was given a snapshot of.
    snapshots: BTreeMap<Revision, Fleet>,
    last: Revision,
}

impl Replay {
    fn of(history: &History, end: &Fleet, violations: &mut Violations) -> Self {
        let envelopes: BTreeMap<RequestId, &Envelope> = history
            .operations
            .iter()
            .filter_map(|operation| Some((request_of(operation)?, operation.envelope.as_ref()?)))
            .collect();
        let all = history.sightings.iter().flatten();
        let wanted: BTreeSet<Revision> = all
            .filter_map(|sighting| match sighting {
                Sighting::Snapshot(revision, _) => Some(*revision),
                Sighting::Reset(_) | Sighting::Revision(..) => None,
            })
            .collect();
        let mut fleet = Fleet::new(end.head().cluster, end.head().lineage);
        let mut replay = Self { changes: BTreeMap::new(), snapshots: BTreeMap::new(), last: end.head().revision };
        replay.snapshots.insert(Revision(0), fleet.clone());
        for cell_model::Answered { id, reply: kept, .. } in &end.head().answered {
            // A request that nobody asked for has been named already.
            let Some(envelope) = envelopes.get(id) else { continue };
            let (reply, changes) = fleet.apply(envelope);
            violations.require(reply == *kept, Rule::ReplayAgrees, || {
                format!("request {:x} gives {reply:?} alone, and gave {kept:?}", id.0)
            });
            if !changes.is_empty() {
                let revision = fleet.head().revision;
                replay.changes.insert(revision, changes);
                if wanted.contains(&revision) {
                    replay.snapshots.insert(revision, fleet.clone());
                }
            }
        }
        violations.require(fleet == *end, Rule::ReplayAgrees, || {
            let of = |fleet: &Fleet| {
                (fleet.head().revision, fleet.head().answered.len(), fleet.audit().last_number(), fleet.head().lineage)
            };
            let apart = fleet.audit().after(0).zip(end.audit().after(0)).find(|(alone, kept)| alone != kept);
            let (alone, kept) = (of(&fleet), of(end));
            format!("the commands alone lead to {alone:?}, the nodes are at {kept:?}; in the trail, first apart: {apart:?}")
        });
        replay
    }
}

fn judge_watch(watcher: usize, sightings: &[Sighting], replay: &Replay, violations: &mut Violations) {
    let mut position: Option<Revision> = None;
    for sighting in sightings {
        match sighting {
            Sighting::Reset(_) => position = None,
            Sighting::Snapshot(revision, records) => {
                position = Some(*revision);
                let equal = replay.snapshots.get(revision).is_some_and(|fleet| is_made_of(fleet, records));
                violations.require(equal, Rule::WatchIsWhole, || {
                    format!("watcher {watcher} got a snapshot of {revision} that is not the state at {revision}")
                });
            }
            Sighting::Revision(revision, changes) => {
                let expected = position.map(Revision::next);
                violations.require(Some(*revision) == expected, Rule::WatchIsWhole, || {
                    format!("watcher {watcher} was at {position:?} and was sent revision {revision}")
                });
                position = Some(*revision);
                violations.require(replay.changes.get(revision) == Some(changes), Rule::WatchIsWhole, || {
                    format!("watcher {watcher} was sent another revision {revision} than the one that was")
                });
            }
        }
    }
    violations.require(position == Some(replay.last), Rule::WatchIsWhole, || {
        format!("watcher {watcher} ended at {position:?}, and the last revision is {}", replay.last)
    });
}

/// Whether these records, put in place one after another, are the state.
fn is_made_of(fleet: &Fleet, records: &[Change]) -> bool {
    let mut copy = Fleet::default();
    records.iter().cloned().for_each(|record| copy.install(record));
    copy.records().eq(fleet.records()) && copy.head().limits == fleet.head().limits
}
