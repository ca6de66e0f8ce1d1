//! Every rule that is judged by a history is seen to fail, by itself where that can be. The others need a whole run: the
//! tests of the program show them.

use cell_model::{AuditEntry, ClusterId, Command, FleetHead, Limits, Lineage, UnixMillis};

use super::*;

/// Two writes and a read, one after another, as one watcher has followed them; and what three nodes hold.
struct Story {
    history: History,
    finals: Vec<Fleet>,
}

fn envelope(id: u128, moves_total: u32) -> Envelope {
    let command = Command::SetLimits(Limits { moves_total, ..Limits::default() });
    Envelope { request_id: Some(RequestId(id)), ..Envelope::new(UnixMillis(1), command) }
}

fn operation(envelope: Option<Envelope>, begun: u64, ending: Ending) -> Operation {
    Operation { client: 0, envelope, begun: Duration::from_secs(begun), ending }
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl Story {
    fn right() -> Self {
        let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
        let mut sightings = vec![Sighting::Reset(Lineage(1)), Sighting::Snapshot(Revision(0), Vec::new())];
        let mut operations = Vec::new();
        for (id, begun) in [(1, 0), (2, 2)] {
            let asked = envelope(id, u32::try_from(id).unwrap());
            let (reply, changes) = fleet.apply(&asked);
            sightings.push(Sighting::Revision(reply.revision, changes));
            operations.push(operation(Some(asked), begun, Ending::Answered(reply, seconds(begun + 1))));
        }
        operations.push(operation(None, 4, Ending::Read(Revision(2), seconds(5))));
        let history = History { operations, sightings: vec![sightings] };
        Self { history, finals: vec![fleet; 3] }
    }

    fn ending(&mut self, index: usize) -> &mut Ending {
        &mut self.history.operations[index].ending
    }

    /// All nodes hold the same with another head.
    fn head(&mut self, change: impl FnOnce(&mut FleetHead)) {
        let mut head = self.finals[0].head().clone();
        change(&mut head);
        let mut fleet = Fleet::from_head(head);
        for entry in self.finals[0].audit().after(0) {
            fleet.restore_audit(AuditEntry::clone(entry)).unwrap();
        }
        self.finals = vec![fleet; 3];
    }

    fn broken(&self) -> BTreeSet<Rule> {
        judge(&self.history, &self.finals).into_iter().map(|violation| violation.rule).collect()
    }
}

/// What is spoilt, and which rules it breaks.
type Case = (&'static str, fn(&mut Story), &'static [Rule]);

const CASES: [Case; 14] = [
    ("nothing", |_| {}, &[]),
    (
        "a node holds more than the others",
        |story| drop(story.finals[1].apply(&envelope(3, 3))),
        &[Rule::NodesAgree],
    ),
    (
        "an answered request has not run",
        |story| {
            let told = Ending::Answered(
                Reply { revision: Revision(2), result: Ok(cell_model::Outcome::Limits) },
                seconds(7),
            );
            story.history.operations.push(operation(Some(envelope(9, 9)), 6, told));
        },
        &[Rule::AnsweredIsKept],
    ),
    (
        "the client was told another answer",
        |story| {
            let Ending::Answered(reply, _) = story.ending(1) else { panic!("it was answered") };
            reply.revision = Revision(9);
            // Nobody came later than that.
            story.history.operations.pop();
        },
        &[Rule::AnsweredIsKept],
    ),
    ("what was said not to have run has run", |story| *story.ending(1) = Ending::NotRun, &[Rule::NotRunIsNotRun]),
    (
        "a request ran twice",
        |story| {
            story.head(|head| {
                let last = head.answered.iter().last().unwrap().clone();
                head.answered.push_back(last);
            });
        },
        &[Rule::RequestRunsOnce, Rule::ReplayAgrees],
    ),
    (
        "a request ran that nobody has asked for",
        |story| drop(story.history.operations.remove(1)),
        &[Rule::RequestRunsOnce, Rule::ReplayAgrees, Rule::WatchIsWhole],
    ),
    (
        "a read shows less than was answered before it",
        |story| *story.ending(2) = Ending::Read(Revision(1), seconds(5)),
        &[Rule::OrderIsReal],
    ),
    (
        "a request ran behind one that was sent after its answer",
        |story| {
            let operations = &mut story.history.operations;
            for (id, begun) in [(3, 8), (4, 6)] {
                // Nothing changes by them: only their places tell.
                let asked = envelope(id, 2);
                let replies: Vec<Reply> = story.finals.iter_mut().map(|fleet| fleet.apply(&asked).0).collect();
                operations.push(operation(
                    Some(asked),
                    begun,
                    Ending::Answered(replies[0].clone(), seconds(begun + 1)),
                ));
            }
        },
        &[Rule::OrderIsReal],
    ),
    (
        "the nodes agree on a state that the commands do not lead to",
        |story| story.head(|head| head.limits.moves_total = 7),
        &[Rule::ReplayAgrees],
    ),
    (
        "the nodes have kept, and told, an answer that the command does not give",
        |story| {
            let other = |reply: &mut Reply| reply.result = Ok(cell_model::Outcome::Unchanged);
            story.head(|head| {
                let mut answered: Vec<_> = head.answered.iter().cloned().collect();
                other(&mut answered[0].reply);
                head.answered = answered.into();
            });
            let Ending::Answered(reply, _) = story.ending(0) else { panic!("it was answered") };
            other(reply);
        },
        &[Rule::ReplayAgrees],
    ),
    ("a watcher misses a revision", |story| drop(story.history.sightings[0].remove(2)), &[Rule::WatchIsWhole]),
    (
        "a watcher is sent another change than the one that was",
        |story| story.history.sightings[0][3] = Sighting::Revision(Revision(2), Vec::new()),
        &[Rule::WatchIsWhole],
    ),
    (
        "a watcher is given a snapshot that is not the state",
        |story| {
            story.history.sightings[0][1] = Sighting::Snapshot(
                Revision(0),
                vec![Change::Limits(Limits { moves_total: 5, ..Limits::default() })],
            )
        },
        &[Rule::WatchIsWhole],
    ),
];

#[test]
fn every_rule_of_a_history_is_seen_to_fail() {
    for (what, spoil, rules) in CASES {
        let mut story = Story::right();
        spoil(&mut story);
        let broken = story.broken();
        assert_eq!(broken, rules.iter().copied().collect(), "{what}: {:#?}", judge(&story.history, &story.finals));
    }
}

/// Whether a history alone shows that it is broken. Whoever adds a rule says so here, and adds what breaks it.
const fn is_of_a_history(rule: Rule) -> bool {
    match rule {
        Rule::AnsweredIsKept
        | Rule::NotRunIsNotRun
        | Rule::RequestRunsOnce
        | Rule::OrderIsReal
        | Rule::ReplayAgrees
        | Rule::NodesAgree
        | Rule::WatchIsWhole => true,
        Rule::HealedIsLive | Rule::NodesStayUp | Rule::WritesAreKept | Rule::OneOwner | Rule::InvariantsHold => {
            false
        }
    }
}

/// How many there are.
const RULES: usize = 12;

#[test]
fn every_rule_is_broken_by_a_case_here_or_by_a_run_of_the_program() {
    let here: BTreeSet<Rule> = CASES.iter().flat_map(|(.., rules)| *rules).copied().collect();
    let runs = [Rule::HealedIsLive, Rule::NodesStayUp, Rule::WritesAreKept, Rule::OneOwner, Rule::InvariantsHold];
    assert!(here.iter().all(|rule| is_of_a_history(*rule)) && !runs.iter().any(|rule| is_of_a_history(*rule)));
    assert_eq!(here.len() + runs.len(), RULES);
    let program = concat!(include_str!("../../tests/it/main.rs"), include_str!("../../tests/it/fleet.rs"));
    for rule in runs {
        assert!(program.contains(&format!("\"{rule}: ")), "no run breaks {rule}");
    }
}

#[test]
fn a_watcher_that_ends_early_has_not_seen_all() {
    let mut story = Story::right();
    story.history.sightings[0].pop();
    assert_eq!(story.broken(), [Rule::WatchIsWhole].into());
}
