//! Copies make room for the source's own work: while a tenant of more than one chunk is read, a small commit is made five
//! times a second, and by how long that takes, the [`Governor`] says how fast chunks may be read. What one copy reads counts
//! for all: they share the source.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::connect::Database;
use super::fault::Fault;
use super::governor::{Governor, LOOKS};
use crate::follow::Pace;

/// A commit of a few bytes, as durable as those of an application.
const PROBE: &str = "SELECT pg_logical_emit_message(true, 'cellway', '')";
/// Chunks of a copy that is slowed down are so small that several come in a second.
const CHUNKS: u64 = 4;
const CHUNK_MIN: u64 = 64 * 1024;

/// How the source is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// What a commit takes, smoothed.
    pub(crate) latency: Option<Duration>,
    /// Bytes that may be read in a second.
    pub(crate) rate: Option<u64>,
}

/// See the module.
pub(crate) struct Throttle {
    /// Nothing: copies go as fast as they can.
    limit: Option<Duration>,
    pace: Pace,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    governor: Option<Governor>,
    /// Bytes read since the last look.
    read: u64,
    /// Copies that have more to read, however long their next chunk is in coming.
    copies: usize,
}

/// A copy that has more than a chunk to read. With it, that is over.
pub(crate) struct UnderWay {
    throttle: Arc<Throttle>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.throttle.lock();
        state.copies = state.copies.saturating_sub(1);
    }
}

impl Throttle {
    pub(crate) fn new(limit_ms: u32) -> Self {
        let limit = (limit_ms > 0).then(|| Duration::from_millis(limit_ms.into()));
        Self { limit, pace: Pace::default(), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy has more to read than a chunk, until this is dropped.
    pub(crate) fn copying(self: &Arc<Self>) -> UnderWay {
        self.lock().copies += 1;
        UnderWay { throttle: Arc::clone(self) }
    }

    /// For how long the next chunk must wait yet.
    pub(crate) fn wait(&self) -> Option<Duration> {
        self.pace.wait()
    }

    /// So much was read.
    pub(crate) fn took(&self, bytes: u64) {
        self.pace.took(bytes);
        let mut state = self.lock();
        state.read = state.read.saturating_add(bytes);
    }

    /// How large a chunk may be, of one that is `most` where nothing is slowed down.
    pub(crate) fn chunk_bytes(&self, most: u64) -> u64 {
        self.standing().rate.map_or(most, |rate| (rate / CHUNKS).clamp(CHUNK_MIN.min(most), most))
    }

    pub(crate) fn standing(&self) -> Standing {
        let state = self.lock();
        let governor = state.governor.as_ref();
        Standing { latency: governor.and_then(Governor::latency), rate: governor.and_then(Governor::rate) }
    }

    fn is_wanted(&self) -> bool {
        self.lock().copies > 0
    }

    /// Whoever copies next begins without a limit.
    fn forget(&self) {
        let mut state = self.lock();
        *state = State { copies: state.copies, ..State::default() };
        drop(state);
        self.pace.limit(0);
    }

    fn look(&self, limit: Duration, latency: Duration) {
        let mut state = self.lock();
        let read = std::mem::take(&mut state.read);
        let governor = state.governor.get_or_insert_with(|| Governor::new(limit));
        let before = governor.rate();
        governor.look(latency, read);
        let rate = governor.rate();
        match (before, rate) {
            (None, Some(rate)) => {
                tracing::info!(?latency, ?limit, rate, "copies are slowed down: commits take long")
            }
            (Some(_), None) => tracing::info!(?latency, "copies are not slowed down any more"),
            _ => {}
        }
        drop(state);
        self.pace.limit(rate.unwrap_or(0));
    }

    /// Looks at the source for as long as somebody copies from it, for ever.
    pub(crate) async fn watch(&self, database: &Database) {
        // One that was dropped in the middle has left its limit.
        self.forget();
        let Some(limit) = self.limit else { return std::future::pending().await };
        loop {
            while !self.is_wanted() {
                tokio::time::sleep(every()).await;
            }
            if let Err(fault) = self.watch_copies(database, limit).await {
                tracing::debug!(%fault, "how long commits take could not be seen");
                tokio::time::sleep(every()).await;
            }
            self.forget();
        }
    }

    async fn watch_copies(&self, database: &Database, limit: Duration) -> Result<(), Fault> {
        let client = database.connect().await?;
        let probe = client.prepare(PROBE).await?;
        let mut next = tokio::time::interval(every());
        next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.is_wanted() {
            next.tick().await;
            let latency = self.commit(&client, &probe, limit).await?;
            self.look(limit, latency);
        }
        Ok(())
    }

    /// What a commit takes. One that does not end is told of while it lasts: it is not given up, since the server would go on
    /// with it, and the next one would wait, too.
    async fn commit(
        &self,
        client: &Client,
        probe: &tokio_postgres::Statement,
        limit: Duration,
    ) -> Result<Duration, Fault> {
        let began = Instant::now();
        let mut committing = std::pin::pin!(client.query(probe, &[]));
        loop {
            match tokio::time::timeout(every().max(limit), &mut committing).await {
                Ok(done) => return Ok(done.map(|_| began.elapsed())?),
                Err(_) => self.look(limit, began.elapsed()),
            }
        }
    }
}

fn every() -> Duration {
    Duration::from_secs(1) / LOOKS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::options::DatabaseOptions;

    const LIMIT: Duration = Duration::from_millis(100);

    fn throttle() -> Arc<Throttle> {
        Arc::new(Throttle::new(100))
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_is_watched_for_until_it_is_over_however_long_its_next_chunk_is_in_coming() {
        let throttle = throttle();
        assert!(!throttle.is_wanted());
        let (one, other) = (throttle.copying(), throttle.copying());
        tokio::time::advance(Duration::from_secs(600)).await;
        assert!(throttle.is_wanted());
        drop(one);
        assert!(throttle.is_wanted(), "the other one has more to read");
        throttle.forget();
        assert!(throttle.is_wanted(), "what is forgotten is the limit, and no copy");
        drop(other);
        assert!(!throttle.is_wanted());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_copy_reads_is_slowed_down_and_forgotten_for_the_next_one() {
        let throttle = throttle();
        throttle.took(1_000_000);
        assert_eq!((throttle.wait(), throttle.chunk_bytes(u64::MAX)), (None, u64::MAX));
        throttle.look(LIMIT, LIMIT * 2);
        throttle.took(10_000_000);
        assert!(throttle.wait().is_some());
        assert!(throttle.standing().rate.is_some_and(|rate| throttle.chunk_bytes(u64::MAX) == rate / CHUNKS));
        throttle.forget();
        assert_eq!((throttle.wait(), throttle.standing()), (None, Standing::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_begins_without_the_limit_that_one_before_it_has_left() {
        let throttle = throttle();
        throttle.look(LIMIT, LIMIT * 2);
        throttle.took(10_000_000);
        assert!(throttle.wait().is_some());
        // Nobody copies, so that nobody connects.
        let database = Database::new(DatabaseOptions::new("postgres://nobody@127.0.0.1:1/none")).unwrap();
        let watching = tokio::time::timeout(every(), throttle.watch(&database)).await;
        assert!(watching.is_err(), "it does not end");
        assert_eq!((throttle.wait(), throttle.standing()), (None, Standing::default()));
    }
}
