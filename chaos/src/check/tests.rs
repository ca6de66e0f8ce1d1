//! Hand-made histories, one for each way to be wrong, and random ones that are right until one thing is spoilt.

mod order;

use proptest::prelude::*;

use super::*;

/// Builds a history in which everything that is not said otherwise goes well, one request after the other.
#[derive(Default)]
struct Story {
    ops: Vec<Op>,
    now: u64,
    end: BTreeMap<Arc<str>, FinalTenant>,
}

impl Story {
    fn op(&mut self, session: u32, action: Action, outcome: Outcome) -> &mut Self {
        let invoked = self.now + 1;
        self.now += 2;
        let failed = matches!(outcome, Outcome::Unknown { .. });
        self.ops.push(Op { session, tenant: "t".into(), action, invoked, returned: self.now, outcome, failed });
        self
    }

    fn put(&mut self, version: u64, outcome: Outcome) -> &mut Self {
        self.op(1, Action::Put { key: "k".into(), version }, outcome)
    }

    fn delete(&mut self, version: u64, outcome: Outcome) -> &mut Self {
        self.op(1, Action::Delete { key: "k".into(), version }, outcome)
    }

    fn read(&mut self, session: u32, version: Option<u64>) -> &mut Self {
        self.op(session, Action::Get { key: "k".into() }, Outcome::Read(version.map(|version| seen("t", version))))
    }

    fn post(&mut self, nonce: u64, outcome: Outcome) -> &mut Self {
        self.op(1, Action::Post { nonce }, outcome)
    }

    fn count(&mut self, nonce: u64, outcome: Outcome) -> &mut Self {
        self.op(1, Action::Increment { counter: "n".into(), nonce }, outcome)
    }

    fn tenant(&mut self) -> &mut FinalTenant {
        self.end.entry("t".into()).or_default()
    }

    fn ends_at(&mut self, version: u64) -> &mut Self {
        self.tenant().docs.insert("k".into(), FinalDoc::Register(seen("t", version)));
        self
    }

    fn ends_with_post(&mut self, name: &str, nonce: u64) -> &mut Self {
        self.tenant().docs.insert(name.into(), FinalDoc::Posted { tenant: "t".into(), nonce });
        self
    }

    fn ends_counted(&mut self, value: u64) -> &mut Self {
        self.tenant().counters.insert("n".into(), value);
        self
    }

    fn findings(&self) -> Findings {
        check(&self.ops, &self.end)
    }

    /// Exactly these faults, and nothing besides.
    fn is_only(&self, kind: FaultKind, writes: u64) {
        let findings = self.findings();
        assert_eq!(findings.counts, BTreeMap::from([(kind, writes)]), "{:#?}", findings.faults);
    }

    fn is_clean(&self) {
        let findings = self.findings();
        assert!(findings.is_clean(), "{:#?}", findings.faults);
    }
}

fn seen(tenant: &str, version: u64) -> Seen {
    Seen { tenant: tenant.into(), key: "k".into(), version }
}

fn unknown() -> Outcome {
    Outcome::Unknown { reason: "no answer".into() }
}

fn refused() -> Outcome {
    Outcome::Refused { code: "TENANT_MOVING".into() }
}

fn created(id: &str) -> Outcome {
    Outcome::Created { id: id.into() }
}

const fn counted(value: u64) -> Outcome {
    Outcome::Counted { value }
}

#[test]
fn a_history_in_which_all_went_well_is_clean_and_counted() {
    let mut story = Story::default();
    story.put(1, Outcome::Written).read(2, Some(1)).delete(2, Outcome::Written).read(2, None);
    story.put(3, Outcome::Written).read(2, Some(3)).ends_at(3);
    story.post(1, created("a")).post(2, created("b")).ends_with_post("a", 1).ends_with_post("b", 2);
    story.count(3, counted(1)).count(4, counted(2)).ends_counted(2);
    story.is_clean();
    let findings = story.findings();
    assert_eq!((findings.acked_writes, findings.unknown_writes, findings.reads), (7, 0, 3));
}

#[test]
fn a_write_that_is_gone_is_lost() {
    Story::default().put(1, Outcome::Written).is_only(FaultKind::Lost, 1);
    Story::default().post(1, created("a")).is_only(FaultKind::Lost, 1);
    Story::default().count(1, counted(1)).count(2, counted(2)).ends_counted(1).is_only(FaultKind::Lost, 1);
}

#[test]
fn a_post_that_is_there_under_another_name_is_lost() {
    Story::default().post(1, created("a")).ends_with_post("b", 1).is_only(FaultKind::Lost, 1);
}

#[test]
fn a_request_that_ran_twice_is_duplicated() {
    let mut twice = Story::default();
    twice.post(1, created("a")).ends_with_post("a", 1).ends_with_post("b", 1);
    twice.is_only(FaultKind::Duplicated, 1);
    Story::default().count(1, counted(1)).ends_counted(2).is_only(FaultKind::Duplicated, 1);
}

#[test]
fn a_request_sent_again_under_its_key_runs_once() {
    let mut once = Story::default();
    once.post(1, created("a")).post(1, created("a")).ends_with_post("a", 1);
    once.count(2, counted(1)).count(2, counted(1)).ends_counted(1);
    once.put(1, unknown()).put(1, Outcome::Written).ends_at(1);
    once.is_clean();
    assert_eq!(once.findings().acked_writes, 3);

    let mut twice = Story::default();
    twice.post(1, created("a")).post(1, created("b")).ends_with_post("a", 1).ends_with_post("b", 1);
    twice.is_only(FaultKind::Duplicated, 1);
    let mut answered_twice = Story::default();
    answered_twice.count(1, counted(1)).count(1, counted(2)).ends_counted(1);
    answered_twice.is_only(FaultKind::Duplicated, 1);
}

#[test]
fn an_older_version_at_the_end_is_reordered() {
    let mut story = Story::default();
    story.put(1, Outcome::Written).put(2, Outcome::Written).ends_at(1);
    story.is_only(FaultKind::Reordered, 1);
}

#[test]
fn a_read_that_goes_back_in_its_session_is_reordered() {
    let mut story = Story::default();
    story.put(1, Outcome::Written).ends_at(2);
    // Version 2 is under way while both reads happen.
    let slow = Op {
        session: 1,
        tenant: "t".into(),
        action: Action::Put { key: "k".into(), version: 2 },
        invoked: 2,
        returned: 1_000,
        outcome: Outcome::Written,
        failed: false,
    };
    story.ops.push(slow);
    story.read(2, Some(2)).read(2, Some(1));
    story.is_only(FaultKind::Reordered, 1);
}

#[test]
fn a_read_that_misses_an_acknowledged_write_is_reordered() {
    let mut older = Story::default();
    older.put(1, Outcome::Written).put(2, Outcome::Written).read(2, Some(1)).ends_at(2);
    older.is_only(FaultKind::Reordered, 1);
    let mut nothing = Story::default();
    nothing.put(1, Outcome::Written).read(2, None).ends_at(1);
    nothing.is_only(FaultKind::Reordered, 1);
}

#[test]
fn increments_answered_out_of_order_are_reordered() {
    let mut back = Story::default();
    back.count(1, counted(2)).count(2, counted(1)).ends_counted(2);
    back.is_only(FaultKind::Reordered, 1);
    let mut same = Story::default();
    same.count(1, counted(1)).count(2, counted(1)).count(3, counted(3)).ends_counted(3);
    same.is_only(FaultKind::Reordered, 1);
}

#[test]
fn a_deleted_document_that_is_back_is_resurrected() {
    let mut story = Story::default();
    story.put(1, Outcome::Written).delete(2, Outcome::Written).ends_at(1);
    story.is_only(FaultKind::Resurrected, 1);
}

#[test]
fn another_tenants_value_is_a_leak_wherever_it_shows() {
    let mut at_the_end = Story::default();
    at_the_end.tenant().docs.insert("x".into(), FinalDoc::Register(seen("other", 1)));
    at_the_end.is_only(FaultKind::Leaked, 1);
    let mut posted = Story::default();
    posted.tenant().docs.insert("x".into(), FinalDoc::Posted { tenant: "other".into(), nonce: 9 });
    posted.is_only(FaultKind::Leaked, 1);
    let mut read = Story::default();
    let found = Outcome::Read(Some(seen("other", 1)));
    read.put(1, Outcome::Written).op(2, Action::Get { key: "k".into() }, found).ends_at(1);
    read.is_only(FaultKind::Leaked, 1);
}

#[test]
fn what_nobody_wrote_or_what_was_refused_is_a_phantom() {
    Story::default().ends_at(1).is_only(FaultKind::Phantom, 1);
    Story::default().ends_with_post("a", 1).is_only(FaultKind::Phantom, 1);
    Story::default().ends_counted(1).is_only(FaultKind::Phantom, 1);
    Story::default().put(1, refused()).ends_at(1).is_only(FaultKind::Phantom, 1);
    Story::default().post(1, refused()).ends_with_post("a", 1).is_only(FaultKind::Phantom, 1);
    Story::default().count(1, refused()).ends_counted(1).is_only(FaultKind::Duplicated, 1);
    Story::default().put(1, Outcome::Written).read(2, Some(7)).ends_at(1).is_only(FaultKind::Phantom, 1);
    let mut foreign = Story::default();
    foreign.tenant().docs.insert("x".into(), FinalDoc::Foreign { text: "[]".into() });
    foreign.is_only(FaultKind::Phantom, 1);
}

#[test]
fn an_unknown_outcome_may_be_either_and_may_come_late() {
    for there in [true, false] {
        let mut story = Story::default();
        story.put(1, Outcome::Written).put(2, unknown()).post(1, unknown()).count(2, unknown());
        if there {
            story.ends_at(2).ends_with_post("a", 1).ends_counted(1);
        } else {
            story.ends_at(1);
        }
        story.is_clean();
        assert_eq!(story.findings().unknown_writes, 3);
    }
    Story::default().put(1, unknown()).put(2, Outcome::Written).ends_at(1).is_clean();
    Story::default().delete(1, unknown()).put(2, Outcome::Written).is_clean();
    let mut late = Story::default();
    late.put(1, Outcome::Written).delete(2, unknown()).put(3, Outcome::Written).read(2, None);
    late.is_clean();
    // Once it is done there is nothing to come back.
    late.ends_at(3).is_only(FaultKind::Reordered, 1);
}

#[test]
fn faults_beyond_the_limit_are_counted_without_their_details() {
    let mut story = Story::default();
    for nonce in 0..500 {
        story.post(nonce, created(&format!("d{nonce}")));
    }
    let findings = story.findings();
    assert_eq!(findings.count(FaultKind::Lost), 500);
    assert_eq!(findings.faults.len(), Findings::FAULTS_MAX);
}

/// What a generated client does next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Put { unknown: bool, done: bool },
    Delete,
    Read { session: u32 },
    Post { unknown: bool, done: bool },
    Count { unknown: bool, done: bool },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (prop::bool::weighted(0.2), any::<bool>()).prop_map(|(unknown, done)| Step::Put { unknown, done }),
        1 => Just(Step::Delete),
        4 => (2u32..5).prop_map(|session| Step::Read { session }),
        3 => (prop::bool::weighted(0.2), any::<bool>()).prop_map(|(unknown, done)| Step::Post { unknown, done }),
        3 => (prop::bool::weighted(0.2), any::<bool>()).prop_map(|(unknown, done)| Step::Count { unknown, done }),
    ]
}

/// Runs the steps on a store that does nothing wrong. `done` says whether an unknown one happened.
fn truthful(steps: &[Step]) -> Story {
    let mut story = Story::default();
    let (mut version, mut current, mut counter) = (0, None, 0);
    for (nonce, step) in (1..).zip(steps) {
        match *step {
            Step::Put { unknown: lost_answer, done } => {
                version += 1;
                if done || !lost_answer {
                    current = Some(version);
                }
                story.put(version, if lost_answer { unknown() } else { Outcome::Written });
            }
            Step::Delete => {
                version += 1;
                current = None;
                story.delete(version, Outcome::Written);
            }
            Step::Read { session } => {
                story.read(session, current);
            }
            Step::Post { unknown: lost_answer, done } => {
                let name = format!("d{nonce}");
                story.post(nonce, if lost_answer { unknown() } else { created(&name) });
                if done || !lost_answer {
                    story.ends_with_post(&name, nonce);
                }
            }
            Step::Count { unknown: lost_answer, done } => {
                if done || !lost_answer {
                    counter += 1;
                }
                story.count(nonce, if lost_answer { unknown() } else { counted(counter) });
            }
        }
    }
    if let Some(version) = current {
        story.ends_at(version);
    }
    story.ends_counted(counter);
    story
}

fn certain_posts(story: &Story) -> Vec<String> {
    let told = story.ops.iter().filter_map(|op| match &op.outcome {
        Outcome::Created { id } => Some((**id).to_owned()),
        _ => None,
    });
    told.collect()
}

proptest! {
    #[test]
    fn what_a_right_store_does_is_never_called_wrong(steps in prop::collection::vec(any_step(), 0..120)) {
        let findings = truthful(&steps).findings();
        prop_assert!(findings.is_clean(), "{:#?}", findings.faults);
    }

    #[test]
    fn one_post_taken_away_is_always_found(steps in prop::collection::vec(any_step(), 1..120), pick: prop::sample::Index) {
        let mut story = truthful(&steps);
        let names = certain_posts(&story);
        prop_assume!(!names.is_empty());
        story.tenant().docs.remove(pick.get(&names));
        prop_assert_eq!(story.findings().count(FaultKind::Lost), 1);
    }

    #[test]
    fn one_post_done_twice_is_always_found(steps in prop::collection::vec(any_step(), 1..120), pick: prop::sample::Index) {
        let mut story = truthful(&steps);
        let names = certain_posts(&story);
        prop_assume!(!names.is_empty());
        let copy = story.tenant().docs[pick.get(&names)].clone();
        story.tenant().docs.insert("another".into(), copy);
        prop_assert_eq!(story.findings().count(FaultKind::Duplicated), 1);
    }

    #[test]
    fn an_older_version_at_the_end_is_always_found(steps in prop::collection::vec(any_step(), 1..120)) {
        let mut story = truthful(&steps);
        let certain = story.ops.iter().filter(|op| op.outcome == Outcome::Written);
        let mut puts: Vec<u64> = certain.filter_map(|op| match op.action {
            Action::Put { version, .. } => Some(version),
            _ => None,
        }).collect();
        let newest = puts.pop();
        prop_assume!(newest.is_some() && !puts.is_empty());
        story.ends_at(puts[0]);
        prop_assert!(!story.findings().is_clean());
    }

    #[test]
    fn a_counter_that_is_too_low_or_too_high_is_always_found(steps in prop::collection::vec(any_step(), 1..120)) {
        let mut story = truthful(&steps);
        let of = |wanted: bool| story.ops.iter().filter(|op| {
            matches!(op.action, Action::Increment { .. }) && op.is_done() == wanted
        }).count() as u64;
        let (acked, unknown) = (of(true), of(false));
        prop_assume!(acked > 0);
        prop_assert!(story.ends_counted(acked - 1).findings().count(FaultKind::Lost) == 1);
        prop_assert!(story.ends_counted(acked + unknown + 1).findings().count(FaultKind::Duplicated) == 1);
    }
}
