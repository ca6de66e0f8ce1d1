//! The holds whose writes have all finished and that the agent has not been told of yet.
//!
//! Guards drop in code that cannot wait, so what they have to say is left here for the task that speaks to the agent.
//! It holds at most one entry for each hold of a tenant, and is emptied when a new stream to the agent begins.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Messages for the agent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    quiesced: Mutex<Vec<u64>>,
    filled: Notify,
}

impl Outbox {
    /// Leaves the news that hold `hold_id` has no more writes to wait for.
    pub(crate) fn quiesced(&self, hold_id: u64) {
        let mut quiesced = self.quiesced.lock().unwrap_or_else(PoisonError::into_inner);
        if !quiesced.contains(&hold_id) {
            quiesced.push(hold_id);
        }
        drop(quiesced);
        self.filled.notify_one();
    }

    /// Takes everything out.
    #[must_use]
    pub(crate) fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.quiesced.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until something has been left. It may be taken by then.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }
}
