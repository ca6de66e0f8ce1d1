//! One check, and what came of it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model, UniformChooser};

use crate::incarnations::{Incarnations, UidMutant};
use crate::{Bounds, CellModel, Off};

/// How to go through the states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// Every state that the bounds allow, depth first: the least memory.
    Exhaustive,
    /// Breadth first, until the first counterexample: the shortest one.
    Shortest,
    /// The same, until so many states were generated: for bounds that may not fit into memory.
    Within {
        /// How many.
        states: usize,
    },
    /// At random, from this seed, until so many states were generated or this time is over: for bounds that are too large to
    /// be exhausted. It keeps nothing but the path that it is on.
    Random {
        /// The seed of the first walk.
        seed: u64,
        /// How many states.
        states: usize,
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
    /// No promise is broken, and nothing holds in vain. What was not gone through to its end may not have reached everything.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.broken.is_empty() && (self.unreached.is_empty() || !self.complete)
    }
}

/// How often a check looks whether it is done, and how often it says how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Checks one configuration with that many threads.
#[must_use]
pub fn check(bounds: Bounds, search: Search, threads: usize) -> Verdict {
    check_telling(bounds, search, threads, &mut |_| {})
}

/// The same; `tell` hears now and then how many states there are so far.
pub fn check_telling(bounds: Bounds, search: Search, threads: usize, tell: &mut dyn FnMut(usize)) -> Verdict {
    let begun = Instant::now();
    let model =
        if matches!(search, Search::Random { .. }) { CellModel::walked(bounds) } else { CellModel::new(bounds) };
    let checker = model.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    match search {
        Search::Exhaustive => verdict(end(checker.spawn_dfs(), tell), begun, usize::MAX),
        Search::Shortest => verdict(end(checker.spawn_bfs(), tell), begun, usize::MAX),
        Search::Within { states } => {
            verdict(end(checker.target_state_count(states.max(1)).spawn_dfs(), tell), begun, states)
        }
        Search::Random { seed, states, time } => {
            let walks = checker.target_state_count(states.max(1)).timeout(time);
            verdict(end(walks.spawn_simulation(seed, UniformChooser), tell), begun, 0)
        }
    }
}

/// Checks names that are deleted and created again, to the shortest counterexample where a guard is missing.
#[must_use]
pub fn check_incarnations(mutant: Option<UidMutant>, threads: usize) -> Verdict {
    exhaust_incarnations(Incarnations::new(mutant), threads)
}

/// The same without rules of the store.
#[must_use]
pub fn check_incarnations_without(off: Off) -> Verdict {
    exhaust_incarnations(Incarnations::without(off), 1)
}

fn exhaust_incarnations(model: Incarnations, threads: usize) -> Verdict {
    let begun = Instant::now();
    let checker = model.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    verdict(end(checker.spawn_bfs(), &mut |_| {}), begun, usize::MAX)
}

/// Waits for its end.
fn end<M: Model, C: Checker<M>>(checker: C, tell: &mut dyn FnMut(usize)) -> C {
    let mut told = Instant::now();
    while !checker.is_done() {
        std::thread::sleep(LOOK_EVERY);
        if told.elapsed() > TELL_EVERY {
            tell(checker.state_count());
            told = Instant::now();
        }
    }
    checker.join()
}

/// `states_max`: with so many states it has not come to its end.
fn verdict<M: Model<Action: Clone + Debug + PartialEq, State: Clone + Debug + Hash + PartialEq>>(
    checker: impl Checker<M>,
    begun: Instant,
    states_max: usize,
) -> Verdict {
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
        complete: broken.is_empty() && checker.state_count() < states_max,
        broken,
        unreached,
    }
}
