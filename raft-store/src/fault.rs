//! The first failure of storage, which stops the node: what is in memory may no longer be what is on disk.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::EngineError;

/// Set once, seen by everybody.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    first: Arc<watch::Sender<Option<EngineError>>>,
}

impl Fault {
    pub(crate) fn new() -> Self {
        Self { first: Arc::new(watch::Sender::new(None)) }
    }

    fn set(&self, error: &EngineError) {
        let is_first = self.first.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(error.clone());
            }
            is_first
        });
        if is_first {
            tracing::error!(%error, "storage failed, this node stops");
        }
    }

    /// The first failure.
    pub(crate) fn first(&self) -> Option<EngineError> {
        self.first.borrow().clone()
    }

    /// Refuses once something has failed.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        self.first().map_or(Ok(()), |first| Err(EngineError::Poisoned { reason: first.to_string() }))
    }

    /// Remembers the failure of an operation on its way to the caller.
    pub(crate) fn note<T>(&self, result: Result<T, EngineError>) -> Result<T, EngineError> {
        if let Err(error) = &result {
            self.set(error);
        }
        result
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<EngineError>> {
        self.first.subscribe()
    }
}
