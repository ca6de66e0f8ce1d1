//! Where the log ends now, and that it has been decoded that far: one question to the database for all who ask at once.
//!
//! ```text
//! ask ──► a question that begins after this call, shared ──► all of it on disk? ──yes──► its end ─┐
//!                                                               └──no: a mark of our own, flushed ─┴──► decoded?
//! ```
//! In Sync every write of every tenant that is being moved asks after its commit. Each with a connection and a mark of its
//! own, they would be in each other's way, and in the way of the hold that waits for them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cell_model::Seq;
use tokio::time::Instant;

use super::connect::Database;
use super::fault::Fault;
use super::replication::Replication;
use crate::refusal::Refusal;

/// The end of a log that is on disk is decoded within this time, or helped along.
const HELP_AFTER: Duration = Duration::from_millis(20);

/// The end of the log, and whether everything before it is on disk: only then it is sent to whoever decodes.
const END: &str = "SELECT (o.log_end - '0/0'::pg_lsn)::bigint, pg_current_wal_flush_lsn() >= o.log_end \
                   FROM (SELECT pg_current_wal_insert_lsn() AS log_end OFFSET 0) AS o";
/// A mark says where, not whether: it is not worth a standby's time.
const MARK: &str = "SELECT (pg_logical_emit_message(true, 'cellway', '') - '0/0'::pg_lsn)::bigint \
                    FROM (SELECT set_config('synchronous_commit', 'local', true) OFFSET 0) AS o";

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LogEnd {
    /// Questions that have begun.
    begun: AtomicU64,
    /// The last one that was answered. Whoever has this asks.
    answered: tokio::sync::Mutex<(u64, Seq)>,
}

impl LogEnd {
    /// A position behind everything that was in the log when this was called. What lies before it is on disk, so it is
    /// decoded without anybody's help.
    pub(crate) async fn now(&self, database: &Database) -> Result<Seq, Fault> {
        let wanted = self.begun.load(Ordering::SeqCst) + 1;
        let mut answered = self.answered.lock().await;
        if answered.0 < wanted {
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            *answered = (number, ask(database).await?);
        }
        Ok(answered.1)
    }

    /// Returns when everything that was in the log when this was called has been decoded.
    pub(crate) async fn decoded(
        &self,
        database: &Database,
        replication: &Replication,
        patience: Duration,
    ) -> Result<Seq, Refusal> {
        let deadline = Instant::now() + patience;
        let end = self.now(database).await?;
        if replication.decoded(end, HELP_AFTER.min(patience)).await.is_ok() {
            return Ok(end);
        }
        // A position on the edge of a page is never reported as such: a mark of our own comes after it.
        let mark = mark(database).await?;
        replication.decoded(mark, deadline.saturating_duration_since(Instant::now())).await?;
        Ok(mark)
    }
}

async fn ask(database: &Database) -> Result<Seq, Fault> {
    let client = database.client().await?;
    let row = client.query_one(&client.prepare_cached(END).await?, &[]).await?;
    if row.get(1) {
        return Ok(Seq(row.get::<_, i64>(0).cast_unsigned()));
    }
    drop(client);
    mark(database).await
}

/// Writes a mark into the log, on disk with everything before it.
async fn mark(database: &Database) -> Result<Seq, Fault> {
    let client = database.client().await?;
    let row = client.query_one(&client.prepare_cached(MARK).await?, &[]).await?;
    Ok(Seq(row.get::<_, i64>(0).cast_unsigned()))
}
