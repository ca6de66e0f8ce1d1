//! Work that waits for a disk goes to a thread of its own; the same work on memory stays where it is, so that a
//! simulation runs on one thread.

use crate::error::EngineError;

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
