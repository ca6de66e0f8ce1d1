//! Work that waits for a disk goes to a thread of its own; the same work on memory stays where it is, so that a
//! simulation runs on one thread.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::{LogEngine, StateEngine};
use crate::error::EngineError;

/// Syncs a log, wherever that belongs.
pub(crate) async fn sync_log(engine: &Arc<dyn LogEngine>) -> Result<(), EngineError> {
    simulate(engine.sync_delay()).await;
    let engine = Arc::clone(engine);
    offload(engine.sync_blocks(), "syncing", move || engine.sync()).await
}

/// Syncs a state, wherever that belongs.
pub(crate) async fn sync_state(engine: &Arc<dyn StateEngine>) -> Result<(), EngineError> {
    simulate(engine.sync_delay()).await;
    let engine = Arc::clone(engine);
    offload(engine.sync_blocks(), "syncing", move || engine.sync()).await
}

async fn simulate(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

/// Does `work`, on another thread where it `blocks`.
pub(crate) async fn offload<T: Send + 'static>(
    blocks: bool,
    operation: &'static str,
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    if !blocks {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The runtime is ending, and with it whoever waits here: that is no failure of the disk.
        Err(ended) if ended.is_cancelled() => std::future::pending().await,
        Err(panicked) => Err(EngineError::Io { operation, reason: panicked.to_string() }),
    }
}
