//! One check, and what came of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model, UniformChooser};

use crate::{Bounds, CellModel};

/// How to go through the states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// Every state that the bounds allow, depth first: the least memory.
    Exhaustive,
    /// Breadth first, until the first counterexample: the shortest one.
    Shortest,
    /// At random, from this seed, for this long: for bounds that are too large to be exhausted.
    Random {
        /// The seed of the first walk.
        seed: u64,
        /// The time.
        time: Duration,
    },
}

/// What came of a check.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// States generated, repetitions included.
    pub states: usize,
    /// Different states; in a random search the same as `states`.
    pub unique: usize,
    /// Length of the longest path.
    pub depth: usize,
    /// Wall-clock time.
    pub time: Duration,
    /// Broken promises, each with the actions that lead there.
    pub broken: BTreeMap<&'static str, Vec<String>>,
    /// What should have been reachable and was not.
    pub unreached: Vec<&'static str>,
    /// Every state within the bounds was seen.
    pub complete: bool,
}

impl Verdict {
    /// No promise is broken, and nothing holds in vain.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.broken.is_empty() && self.unreached.is_empty()
    }
}

/// Checks one configuration with that many threads.
#[must_use]
pub fn check(bounds: Bounds, search: Search, threads: usize) -> Verdict {
    let begun = Instant::now();
    let checker = CellModel::new(bounds).checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    match search {
        Search::Exhaustive => verdict(checker.spawn_dfs().join(), begun, true),
        Search::Shortest => verdict(checker.spawn_bfs().join(), begun, true),
        Search::Random { seed, time } => {
            let walks = checker.timeout(time).spawn_simulation(seed, UniformChooser);
            verdict(walks.join(), begun, false)
        }
    }
}

fn verdict(checker: impl Checker<CellModel>, begun: Instant, exhaustive: bool) -> Verdict {
    let properties = checker.model().properties();
    let found = checker.discoveries();
    let (mut broken, mut unreached) = (BTreeMap::new(), Vec::new());
    for property in properties {
        match (property.expectation, found.get(property.name)) {
            (Expectation::Always | Expectation::Eventually, Some(path)) => {
                let path = path.clone().into_actions();
                broken.insert(property.name, path.iter().map(|action| format!("{action:?}")).collect());
            }
            (Expectation::Sometimes, None) => unreached.push(property.name),
            (Expectation::Always | Expectation::Eventually, None) | (Expectation::Sometimes, Some(_)) => {}
        }
    }
    Verdict {
        states: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        time: begun.elapsed(),
        complete: exhaustive && broken.is_empty(),
        broken,
        unreached,
    }
}
