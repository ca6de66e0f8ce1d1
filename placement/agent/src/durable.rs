//! Group commit: many batches, one sync.
//!
//! A batch that is in the store gets a ticket. One task syncs the store over and over while there are tickets that
//! are not durable; a ticket is durable when a sync that began after it has ended. A failed sync is the end: every
//! waiter is told, and the agent stops. So is a batch that the disk did not take: the engine takes none after it, and a
//! cell that lived on would refuse every write until somebody looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::{Applied, Batch, Engine, EngineError};

/// The place of a batch among all; higher is later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// Nobody knows whether a batch will last.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store was not synced: {0}")]
pub(crate) struct NotDurable(String);

#[derive(Debug, Clone, Default)]
struct Progress {
    durable: u64,
    failure: Option<String>,
}

/// The engine, with tickets.
pub(crate) struct Durable {
    engine: Arc<dyn Engine>,
    issued: AtomicU64,
    wanted: watch::Sender<u64>,
    progress: watch::Sender<Progress>,
    /// What the engine said when it did not take a batch.
    unwritten: watch::Sender<Option<String>>,
}

impl Durable {
    pub(crate) fn new(engine: Arc<dyn Engine>) -> Self {
        Self {
            engine,
            issued: AtomicU64::new(0),
            wanted: watch::Sender::new(0),
            progress: watch::Sender::new(Progress::default()),
            unwritten: watch::Sender::new(None),
        }
    }

    pub(crate) fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Applies a batch: a ticket to wait with, or nothing where a precondition did not hold.
    pub(crate) fn apply(&self, batch: &Batch) -> Result<Option<Ticket>, EngineError> {
        let applied = self.engine.apply(batch).inspect_err(|error| {
            if let EngineError::Write(reason) = error {
                self.unwritten.send_modify(|first| {
                    first.get_or_insert_with(|| reason.clone());
                });
            }
        });
        match applied? {
            Applied::No => Ok(None),
            Applied::Yes => {
                let ticket = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
                self.wanted.send_modify(|wanted| *wanted = (*wanted).max(ticket));
                Ok(Some(Ticket(ticket)))
            }
        }
    }

    /// Returns when the batch survives a power cut.
    pub(crate) async fn wait(&self, ticket: Ticket) -> Result<(), NotDurable> {
        let mut progress = self.progress.subscribe();
        let seen = progress.wait_for(|now| now.durable >= ticket.0 || now.failure.is_some()).await;
        match seen {
            Ok(now) if now.durable >= ticket.0 => Ok(()),
            Ok(now) => Err(NotDurable(now.failure.clone().unwrap_or_default())),
            Err(_) => Err(NotDurable("the agent has stopped".into())),
        }
    }

    /// The newest batch that is known to survive.
    pub(crate) fn synced(&self) -> Ticket {
        Ticket(self.progress.borrow().durable)
    }

    async fn sync(&self) -> Result<(), EngineError> {
        if !self.engine.sync_blocks() {
            tokio::time::sleep(self.engine.sync_delay()).await;
            return self.engine.sync();
        }
        let engine = Arc::clone(&self.engine);
        let synced = tokio::task::spawn_blocking(move || engine.sync()).await;
        synced.unwrap_or_else(|error| Err(EngineError::Sync(error.to_string())))
    }

    /// Syncs until `shutdown`, and once more then.
    pub(crate) async fn run(&self, shutdown: CancellationToken) -> Result<(), EngineError> {
        let (mut wanted, mut unwritten) = (self.wanted.subscribe(), self.unwritten.subscribe());
        // What was applied before this began waits, too.
        wanted.mark_changed();
        let result = loop {
            let ended = tokio::select! {
                biased;
                reason = unwritten.wait_for(Option::is_some) => {
                    break Err(EngineError::Write(reason.ok().and_then(|reason| reason.clone()).unwrap_or_default()));
                }
                _ = wanted.changed() => false,
                () = shutdown.cancelled() => true,
            };
            wanted.mark_unchanged();
            // Every ticket up to here was issued after its batch was applied.
            let target = self.issued.load(Ordering::SeqCst);
            match self.sync().await {
                Ok(()) => self.progress.send_modify(|now| now.durable = target),
                Err(error) => break Err(error),
            }
            if ended {
                break Ok(());
            }
        };
        let failure = result.as_ref().map_or_else(ToString::to_string, |()| "the agent has stopped".into());
        self.progress.send_modify(|now| now.failure = Some(failure));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Entry, MemoryEngine};

    struct Broken(MemoryEngine);

    impl Engine for Broken {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
            self.0.get(key)
        }
        fn scan(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Entry>, EngineError> {
            self.0.scan(from, until, limit)
        }
        fn apply(&self, batch: &Batch) -> Result<Applied, EngineError> {
            self.0.apply(batch)
        }
        fn sync(&self) -> Result<(), EngineError> {
            Err(EngineError::Sync("no space".into()))
        }
    }

    fn batch() -> Batch {
        let mut batch = Batch::default();
        batch.put(b"k".to_vec(), b"v".to_vec());
        batch
    }

    #[tokio::test]
    async fn a_failed_sync_is_told_to_every_waiter_and_ends_the_service() {
        let durable = Arc::new(Durable::new(Arc::new(Broken(MemoryEngine::default()))));
        let ticket = durable.apply(&batch()).unwrap().unwrap();
        let service = tokio::spawn({
            let durable = Arc::clone(&durable);
            async move { durable.run(CancellationToken::new()).await }
        });
        assert!(durable.wait(ticket).await.is_err());
        assert!(matches!(service.await.unwrap(), Err(EngineError::Sync(_))));
        let later = durable.apply(&batch()).unwrap().unwrap();
        assert!(durable.wait(later).await.is_err(), "nothing is acknowledged after a failed sync");
    }

    /// Takes a batch, and no other one.
    #[derive(Default)]
    struct Full(MemoryEngine, std::sync::atomic::AtomicBool);

    impl Engine for Full {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
            self.0.get(key)
        }
        fn scan(&self, from: &[u8], until: &[u8], limit: usize) -> Result<Vec<Entry>, EngineError> {
            self.0.scan(from, until, limit)
        }
        fn apply(&self, batch: &Batch) -> Result<Applied, EngineError> {
            if self.1.swap(true, Ordering::SeqCst) {
                return Err(EngineError::Write("no space".into()));
            }
            self.0.apply(batch)
        }
        fn sync(&self) -> Result<(), EngineError> {
            self.0.sync()
        }
    }

    #[tokio::test]
    async fn a_batch_that_the_disk_does_not_take_ends_the_service_though_no_sync_fails() {
        let durable = Arc::new(Durable::new(Arc::new(Full::default())));
        let service = tokio::spawn({
            let durable = Arc::clone(&durable);
            async move { durable.run(CancellationToken::new()).await }
        });
        let ticket = durable.apply(&batch()).unwrap().unwrap();
        durable.wait(ticket).await.unwrap();
        assert!(matches!(durable.apply(&batch()), Err(EngineError::Write(_))));
        assert!(matches!(service.await.unwrap(), Err(EngineError::Write(_))));
        assert!(durable.wait(Ticket(ticket.0 + 1)).await.is_err(), "nobody waits for what no sync brings");
    }

    #[tokio::test]
    async fn what_was_applied_before_a_shutdown_is_synced() {
        let durable = Durable::new(Arc::new(MemoryEngine::default()));
        let ticket = durable.apply(&batch()).unwrap().unwrap();
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        durable.run(shutdown).await.unwrap();
        durable.wait(ticket).await.unwrap();
    }
}
