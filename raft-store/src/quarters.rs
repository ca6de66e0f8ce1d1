//! The thread that Raft has to itself.
//!
//! ```text
//! the process's runtime                    this thread                              log-sync
//! clients, watches, peers' connections ──► gatherer ─► core ─► log ──────────────►  one sync for all
//!                                                       │  └─► streams to peers ◄── matched
//!                                                       └─► apply ─► answers
//! ```
//!
//! A write is handed on a dozen times between tasks. On one thread that is a queue and no system call; among the workers of
//! a shared runtime each of them may wake a worker that sleeps. And whoever keeps the process busy (watchers, tables, TLS)
//! does not keep a heartbeat waiting. What waits for a disk goes to other threads ([`crate::offload`], `log-sync`).
//!
//! A node on a simulated disk has no such thread: a simulation runs on one, with everything in it.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::error::EngineError;

/// Where Raft's tasks run. They end with it.
#[derive(Debug)]
pub(crate) struct Quarters {
    /// None: on the runtime of whoever calls.
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    handle: Handle,
    end: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Quarters {
    /// With a thread of its own, or in the runtime around it.
    pub(crate) fn new(own: bool) -> Result<Self, EngineError> {
        if !own {
            return Ok(Self { own: None });
        }
        let failed =
            |error: std::io::Error| EngineError::Io { operation: "starting a thread", reason: error.to_string() };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (handle, end) = (runtime.handle().clone(), CancellationToken::new());
        let ended = end.clone();
        let live = move || runtime.block_on(ended.cancelled_owned());
        let thread = std::thread::Builder::new().name("raft".into()).spawn(live).map_err(failed)?;
        Ok(Self { own: Some(Own { handle, end, thread: Mutex::new(Some(thread)) }) })
    }

    /// Runs `future` here, and waits for it.
    pub(crate) async fn run<F>(&self, future: F) -> F::Output
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let Some(own) = &self.own else { return future.await };
        match own.handle.spawn(future).await {
            Ok(output) => output,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            // The thread has ended, and with it whoever waits here.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whatever `begin` spawns runs here.
    pub(crate) fn within<R>(&self, begin: impl FnOnce() -> R) -> R {
        let _here = self.own.as_ref().map(|own| own.handle.enter());
        begin()
    }

    /// Ends every task, and waits until none holds anything any more.
    pub(crate) async fn end(&self) {
        let Some(own) = &self.own else { return };
        own.end.cancel();
        let thread = own.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It can only have ended with the process's runtime, or have panicked, which tokio catches.
            drop(tokio::task::spawn_blocking(move || thread.join()).await);
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn name() -> Option<String> {
        std::thread::current().name().map(str::to_owned)
    }

    #[tokio::test]
    async fn what_runs_there_runs_on_its_thread_and_has_let_go_of_everything_when_it_has_ended() {
        let quarters = Quarters::new(true).unwrap();
        assert_eq!(quarters.run(async { name() }).await.as_deref(), Some("raft"));
        let held = Arc::new(());
        let holding = Arc::clone(&held);
        let spawned = quarters.within(|| {
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(holding);
            })
        });
        assert_eq!(Arc::strong_count(&held), 2);
        quarters.end().await;
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(spawned.await.expect_err("it was ended").is_cancelled());
        quarters.end().await;
    }

    #[tokio::test]
    async fn without_a_thread_everything_runs_where_it_is_called() {
        let quarters = Quarters::new(false).unwrap();
        assert_eq!(quarters.run(async { name() }).await, name());
        assert_eq!(quarters.within(|| tokio::spawn(async { name() })).await.unwrap(), name());
        quarters.end().await;
    }
}
