//! When this node was last level with its leader: how old what it serves may be.
//!
//! ```text
//! message: committed up to 7     8     9          applied 7     8
//!                         │      └─────┼─── waits ──────┼─────┘ level since the second one came
//!                         └────────────┼─── waits ──────┘       level since the first one came
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Messages whose commit is not applied yet; more are passed over, which makes the node look older than it is.
const WAITING_MAX: usize = 256;

/// What a leader said was committed, and when it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said {
    at: Instant,
    committed: u64,
}

impl Said {
    /// It has come just now.
    pub(crate) fn now(committed: u64) -> Self {
        Self { at: Instant::now(), committed }
    }
}

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Level(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    heard: Option<Instant>,
    waiting: VecDeque<Said>,
}

impl State {
    fn settle(&mut self, applied: u64) {
        while self.waiting.front().is_some_and(|said| said.committed <= applied) {
            self.since = self.waiting.pop_front().map(|said| said.at);
        }
    }
}

impl Level {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message of a leader was taken. `applied`: what is applied here by now.
    pub(crate) fn heard(&self, said: Said, applied: u64) {
        let mut state = self.state();
        state.heard = Some(said.at);
        state.settle(applied);
        if let Some(last) = state.waiting.back_mut().filter(|last| last.committed == said.committed) {
            last.at = said.at;
        } else if state.waiting.len() < WAITING_MAX {
            state.waiting.push_back(said);
        }
        state.settle(applied);
    }

    /// How long ago a leader was heard, however far this node lags behind it; none since the start.
    pub(crate) fn heard_ago(&self) -> Option<Duration> {
        self.state().heard.map(|at| at.elapsed())
    }

    /// How long ago it was; none since the start.
    pub(crate) fn ago(&self, applied: u64) -> Option<Duration> {
        let mut state = self.state();
        state.settle(applied);
        state.since.map(|at| at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_is_as_old_as_the_last_commit_that_it_has_applied() {
        let level = Level::default();
        let ms = Duration::from_millis;
        let pass = async |millis| tokio::time::advance(ms(millis)).await;
        assert_eq!((level.ago(100), level.heard_ago()), (None, None), "it has heard nothing");
        level.heard(Said::now(7), 6);
        assert_eq!(level.ago(6), None, "what it heard of is not here yet");
        pass(10).await;
        level.heard(Said::now(8), 6);
        pass(10).await;
        // Heard of every moment, and yet as old as what is applied.
        assert_eq!((level.ago(7), level.heard_ago()), (Some(ms(20)), Some(ms(10))));
        level.heard(Said::now(8), 7);
        pass(5).await;
        assert_eq!(level.ago(7), Some(ms(25)));
        assert_eq!(level.ago(8), Some(ms(5)), "the same commit was said again");
        level.heard(Said::now(8), 8);
        assert_eq!(level.ago(8), Some(ms(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_lags_keeps_no_more_than_it_must_and_looks_no_fresher() {
        let level = Level::default();
        for committed in 1..=1_000 {
            level.heard(Said::now(committed), 0);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(level.state().waiting.len(), WAITING_MAX);
        assert_eq!(level.ago(1_000), Some(Duration::from_millis(1_000 - 255)));
    }
}
