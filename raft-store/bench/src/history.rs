//! What clients were told, and whether it is true in the end.
//!
//! Each put makes a key that no other put makes, and its answer carries the revision at which it ran. So the check is one
//! sorted pass, also where outcomes stayed unknown: what is there has the revision that says when it ran.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// How a put ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It ran, at this revision.
    Answered(u64, Instant),
    /// Nobody knows.
    Unknown,
}

/// One put.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub key: String,
    pub begun: Instant,
    pub ending: Ending,
}

/// Keys and the revisions that made them, as one node has them.
pub(crate) type State = BTreeMap<String, u64>;

/// Every broken promise; none where all is well.
pub(crate) fn judge(operations: &[Operation], states: &[State]) -> Vec<String> {
    let mut broken = Vec::new();
    let Some((state, others)) = states.split_first() else { return vec!["no node was asked".into()] };
    for (node, other) in others.iter().enumerate() {
        if other != state {
            broken.push(format!(
                "node {} holds {} keys, node 0 {}, and they differ",
                node + 1,
                other.len(),
                state.len()
            ));
        }
    }
    let revisions: BTreeSet<u64> = state.values().copied().collect();
    if revisions.len() != state.len() {
        broken.push(format!("{} keys share {} revisions", state.len(), revisions.len()));
    }
    let asked: BTreeSet<&str> = operations.iter().map(|operation| operation.key.as_str()).collect();
    broken.extend(state.keys().filter(|key| !asked.contains(key.as_str())).map(|key| format!("nobody put {key}")));
    for operation in operations {
        if let Ending::Answered(told, _) = operation.ending {
            match state.get(&operation.key) {
                Some(found) if *found == told => {}
                Some(found) => broken.push(format!("{} was answered at {told} and ran at {found}", operation.key)),
                None => broken.push(format!("{} was answered at {told} and is lost", operation.key)),
            }
        }
    }
    broken.extend(judge_order(operations, state));
    broken
}

/// Whoever begins after somebody was answered runs after it.
fn judge_order(operations: &[Operation], state: &State) -> Vec<String> {
    let ran = |operation: &Operation| state.get(&operation.key).copied();
    let mut by_begin: Vec<&Operation> = operations.iter().filter(|operation| ran(operation).is_some()).collect();
    by_begin.sort_by_key(|operation| operation.begun);
    let mut by_end: Vec<(Instant, u64)> = operations
        .iter()
        .filter_map(|operation| match operation.ending {
            Ending::Answered(revision, at) => Some((at, revision)),
            Ending::Unknown => None,
        })
        .collect();
    by_end.sort_unstable();
    let (mut ended, mut newest, mut broken) = (by_end.into_iter().peekable(), 0, Vec::new());
    for operation in by_begin {
        while let Some((_, revision)) = ended.next_if(|(at, _)| *at < operation.begun) {
            newest = newest.max(revision);
        }
        let at = ran(operation).unwrap_or(u64::MAX);
        if at <= newest {
            broken.push(format!("{} ran at {at}, and {newest} was answered before it began", operation.key));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Three puts, one after another, of which the last stayed unknown.
    fn sample() -> (Vec<Operation>, State) {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let put = |key: &str, begun, ending| Operation { key: key.into(), begun: at(begun), ending };
        let operations = vec![
            put("a", 0, Ending::Answered(5, at(10))),
            put("b", 20, Ending::Answered(6, at(30))),
            put("c", 40, Ending::Unknown),
        ];
        (operations, BTreeMap::from([("a".into(), 5), ("b".into(), 6)]))
    }

    #[test]
    fn a_true_history_passes_whatever_became_of_the_unknown() {
        let (operations, mut state) = sample();
        assert_eq!(judge(&operations, &[state.clone(), state.clone()]), Vec::<String>::new());
        state.insert("c".into(), 7);
        assert_eq!(judge(&operations, &[state]), Vec::<String>::new());
    }

    #[test]
    fn each_lie_is_named() {
        let (operations, state) = sample();
        let with = |change: fn(&mut State) -> Option<u64>| {
            let mut changed = state.clone();
            change(&mut changed);
            judge(&operations, &[changed]).join("; ")
        };
        assert!(with(|state| state.remove("a")).contains("a was answered at 5 and is lost"));
        assert!(with(|state| state.insert("a".into(), 9)).contains("ran at 9"));
        assert!(with(|state| state.insert("x".into(), 9)).contains("nobody put x"));
        assert!(with(|state| state.insert("c".into(), 6)).contains("share"));
        assert!(with(|state| state.insert("c".into(), 4)).contains("c ran at 4, and 6 was answered before"));
        let split = judge(&operations, &[state.clone(), State::new()]).join("; ");
        assert!(split.contains("they differ"), "{split}");
    }
}
