//! Where a node's random numbers come from: the operating system, or a seed in a simulation.
//!
//! The seed reaches all of openraft's choices, because its runtime hands the seed of a task on to the tasks that it
//! spawns: whatever runs within [`scope`] is decided by it.

use std::future::Future;

use openraft::impls::TokioRuntime;
use openraft::rt::deterministic_rng::DeterministicRng;

use crate::error::EngineError;

/// openraft's runtime: tokio with a random source of our own.
pub(crate) type Runtime = DeterministicRng<TokioRuntime>;

/// The given seed, or one of the operating system's.
pub(crate) fn seed(given: Option<u64>, operation: &'static str) -> Result<u64, EngineError> {
    match given {
        Some(given) => Ok(given),
        None => getrandom::u64().map_err(|error| EngineError::Io { operation, reason: error.to_string() }),
    }
}

/// Runs `future`, and every task that openraft spawns from it, on this seed.
pub(crate) fn scope<F: Future>(seed: u64, future: F) -> impl Future<Output = F::Output> {
    Runtime::scope(seed, future)
}
