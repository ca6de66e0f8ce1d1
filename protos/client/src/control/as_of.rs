//! How old the answers were that may be stale.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cell_model::Revision;
use tonic::metadata::MetadataMap;

use crate::trailer;

/// What answers of one node were as of: of several the oldest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsOf {
    /// Which, as it was called.
    pub node: String,
    /// Up to here nothing is missing.
    pub revision: Revision,
    /// Nor what was acknowledged so long before, as far as the node can know: it was level with a leader then, or was
    /// confirmed as the leader by a majority. None: it was not since it was started.
    pub age: Option<Duration>,
}

/// By node. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct StaleAnswers(Arc<Mutex<BTreeMap<String, AsOf>>>);

/// More nodes than a cluster has; whoever calls more of them does not ask what they were as of.
const NODES_MAX: usize = 64;

impl StaleAnswers {
    /// Takes what an answer says of itself, if it does.
    pub(super) fn note(&self, node: &str, headers: &MetadataMap) {
        let number = |name| headers.get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let Some(revision) = number(trailer::AS_OF).map(Revision) else { return };
        let age = number(trailer::AGE).map(Duration::from_millis);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = known.get_mut(node) {
            before.revision = before.revision.min(revision);
            before.age = before.age.zip(age).map(|(before, now)| before.max(now));
        } else if known.len() < NODES_MAX {
            known.insert(node.to_owned(), AsOf { node: node.to_owned(), revision, age });
        }
    }

    pub(super) fn all(&self) -> Vec<AsOf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_answers_of_a_node_the_oldest_counts() {
        let answers = StaleAnswers::default();
        let note = |node, as_of: Option<u64>, age: Option<u64>| {
            let mut headers = MetadataMap::new();
            for (name, value) in [(trailer::AS_OF, as_of), (trailer::AGE, age)] {
                if let Some(value) = value {
                    headers.insert(name, value.into());
                }
            }
            answers.note(node, &headers);
        };
        note("n1", None, None);
        assert_eq!(answers.all(), [], "it was not stale");
        note("n1", Some(7), Some(30));
        note("n1", Some(6), Some(10));
        note("n2", Some(9), Some(10));
        note("n2", Some(9), None);
        let of = |node: &str, revision, age: Option<u64>| AsOf {
            node: node.into(),
            revision: Revision(revision),
            age: age.map(Duration::from_millis),
        };
        assert_eq!(answers.all(), [of("n1", 6, Some(30)), of("n2", 9, None)]);
    }
}
