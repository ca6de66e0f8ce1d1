//! How much of the log the slot may keep. What is lagging is given up before the log fills the disk: in whichever state a move is, and
//! also while nothing is read.

use std::time::Duration;

use tokio::time::Instant;

use super::Replication;
use crate::postgres::fault::Fault;
use crate::refusal::Refusal;

/// How often the log that is kept is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// More log is kept than may be.
#[derive(Debug, Clone, Copy, Default)]
struct Excess {
    since: Option<Instant>,
    /// When a move was last given up for it.
    given_up: Option<Instant>,
}

impl Replication {
    /// Measures the log that is kept, for ever.
    pub(super) async fn measure(&self) {
        let mut excess = Excess::default();
        loop {
            // Nobody's slot keeps nothing, and a session that rests is closed.
            let is_wanted = !self.wanted.borrow().is_empty();
            if is_wanted && let Err(fault) = self.keep_within_budget(&mut excess).await {
                tracing::debug!(%fault, "the log that is kept could not be measured");
            }
            tokio::time::sleep(MEASURE_EVERY).await;
        }
    }

    /// Gives up the slowest move before the log fills the source's disk; where none lags, such as behind a transaction that
    /// is never ended, all of them.
    async fn keep_within_budget(&self, excess: &mut Excess) -> Result<(), Fault> {
        let client = self.database.client().await?;
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, wal_status \
                   FROM pg_replication_slots WHERE slot_name = $1";
        let Some(row) = client.query_opt(sql, &[&self.slot]).await? else { return Ok(()) };
        drop(client);
        let (kept, status) = (row.get::<_, Option<i64>>(0).unwrap_or_default(), row.get::<_, Option<String>>(1));
        let lost = status.as_deref() == Some("lost");
        if !lost && kept.cast_unsigned() <= self.database.options.wal_bytes_max {
            *excess = Excess::default();
            return Ok(());
        }
        let reason = match lost {
            true => {
                "the replication slot has lost its log, and with it changes: max_slot_wal_keep_size is too small"
                    .into()
            }
            false => format!("{kept} bytes of the database's log are kept for this slot: more than allowed"),
        };
        let refusal = Refusal::new("CAPTURE_OVERFLOW", reason);
        let (now, grace) = (Instant::now(), Duration::from_secs(self.database.options.wal_grace_seconds.into()));
        let since = *excess.since.get_or_insert(now);
        let freed = |given_up: Option<Instant>| given_up.is_none_or(|at| now - at >= grace);
        if lost {
            tracing::warn!(slot = %self.slot, kept, "the slot has lost its log; every move is given up");
            self.captures().fail_all(&refusal);
        } else if !freed(excess.given_up) {
            return Ok(());
        } else if self.captures().fail_slowest(&refusal) {
            tracing::warn!(slot = %self.slot, kept, "too much log is kept; the slowest move is given up");
        } else if now - since >= grace {
            tracing::warn!(slot = %self.slot, kept, "too much log is kept, and by no move; every move is given up");
            self.captures().fail_all(&refusal);
        } else {
            return Ok(());
        }
        excess.given_up = Some(now);
        self.arrived.send_modify(|arrived| *arrived += 1);
        Ok(())
    }
}
