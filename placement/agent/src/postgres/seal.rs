//! The seal: a session that holds the tenant's exclusive lock, so that no transaction that has entered is open and
//! none can enter. The fence is made in this very session: if the session is lost, so is the lock, and the fence fails.

use std::time::Duration;

use cell_model::{Attempt, Generation, MoveId, TenantId};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::fault::Fault;
use super::records::{self, Rows};
use crate::record::Control;
use crate::refusal::Refusal;

/// See the module.
pub(crate) struct Seal {
    pub(crate) of: (MoveId, Attempt),
    client: Client,
}

/// A tenant's lock in this database, and who has it: the transaction of a session, or one that was prepared, which has none. The
/// lock on its own number tells which.
const HELD: &str = "
  FROM pg_locks l
  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN LATERAL (
       SELECT x.gid, x.owner, x.prepared
         FROM pg_locks o JOIN pg_prepared_xacts x ON x.transaction = o.transactionid
        WHERE l.pid IS NULL AND o.pid IS NULL AND o.locktype = 'transactionid'
          AND o.virtualtransaction = l.virtualtransaction LIMIT 1) p ON true
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.classid = ((cellway.lock_key($1) >> 32) & 4294967295)::oid
   AND l.objid = (cellway.lock_key($1) & 4294967295)::oid";

/// The holders, for the sentence that says who is waited for.
const HOLDERS: &str = "
SELECT count(*), string_agg(CASE WHEN l.pid IS NULL
           THEN format('prepared transaction %s (%s, open for %s ms), which waits for COMMIT PREPARED %L or ROLLBACK PREPARED %L',
                       p.gid, p.owner, (extract(epoch FROM clock_timestamp() - p.prepared) * 1000)::bigint, p.gid, p.gid)
           ELSE format('%s (%s, pid %s, open for %s ms)', coalesce(nullif(a.application_name, ''), '?'),
                       coalesce(a.usename::text, '?'), l.pid,
                       (extract(epoch FROM clock_timestamp() - a.xact_start) * 1000)::bigint) END, '; '
           ORDER BY coalesce(a.xact_start, p.prepared))";

/// Age of the oldest transaction that a seal taken now would wait for; zero where there is none, or where the agent's role
/// may not see when it began.
pub(crate) async fn oldest_write(client: &Client, tenant: &TenantId) -> Result<Duration, Fault> {
    const OLDEST: &str = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)) * 1000), 0)::bigint";
    let oldest = format!("{OLDEST} {HELD} AND l.mode = 'ShareLock'");
    let row = client.query_one(&oldest, &[&tenant.as_str()]).await?;
    Ok(Duration::from_millis(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default()))
}

/// Who has the lock, but for the session that asks.
async fn holders(client: &Client, tenant: &str) -> Result<String, Fault> {
    let sql = format!("{HOLDERS} {HELD} AND l.pid IS DISTINCT FROM pg_backend_pid()");
    let row = client.query_one(&sql, &[&tenant]).await?;
    let (count, holders): (i64, Option<String>) = (row.get(0), row.get(1));
    Ok(match holders {
        None => "they have ended meanwhile".into(),
        Some(holders) if count == 1 => holders,
        Some(holders) => format!("{count}, the oldest first: {holders}"),
    })
}

impl Seal {
    /// Waits in a session of its own until every transaction that has entered is done, at most for `patience`.
    pub(crate) async fn take(
        client: Client,
        tenant: &TenantId,
        of: (MoveId, Attempt),
        patience: Duration,
    ) -> Result<Self, Refusal> {
        let millis = patience.as_millis().max(1);
        client.batch_execute(&format!("SET lock_timeout = {millis}")).await?;
        let name = tenant.as_str();
        match client.execute("SELECT pg_advisory_lock(cellway.lock_key($1))", &[&name]).await {
            Ok(_) => Ok(Self { of, client }),
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                let holders = holders(&client, name).await?;
                Err(Refusal::new("NOT_QUIESCED", format!("transactions that are still open: {holders}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes `fenced` durable in the session that holds the lock, then lets go of the lock: whoever waited for it
    /// reads the new grant. The control's number.
    pub(crate) async fn fence(
        mut self,
        by: Generation,
        tenant: &TenantId,
        controls: (Option<&Control>, &Control),
    ) -> Result<u64, Refusal> {
        let number = records::change(&mut self.client, by, tenant, controls, Rows::Stay).await?;
        self.release().await;
        Ok(number)
    }

    /// Lets go of the lock. A session that does not answer is ended, which does the same.
    pub(crate) async fn release(self) {
        let unlocked = self.client.execute("SELECT pg_advisory_unlock_all()", &[]);
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_millis(500), unlocked).await {
            tracing::debug!(error = %Fault::from(error), "a seal's session was lost before it was released");
        }
    }
}

/// Waits until every transaction that has entered before this call is done, and with it visible to every snapshot
/// taken later: a transaction lets go of its locks after it has become visible. Nobody is held up.
pub(crate) async fn drain(client: &Client, tenant: &TenantId, patience: Duration) -> Result<(), Refusal> {
    let name = tenant.as_str();
    let deadline = tokio::time::Instant::now() + patience;
    let sql = format!("SELECT l.pid, l.virtualtransaction {HELD}");
    // A prepared transaction has no process.
    let open = |rows: Vec<tokio_postgres::Row>| -> Vec<(Option<i32>, String)> {
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let mut waiting_for = open(client.query(&sql, &[&name]).await?);
    while !waiting_for.is_empty() {
        if tokio::time::Instant::now() >= deadline {
            let holders = holders(client, name).await?;
            return Err(Refusal::new("BUSY", format!("transactions that are still open: {holders}")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        let still = open(client.query(&sql, &[&name]).await?);
        waiting_for.retain(|holder| still.contains(holder));
    }
    Ok(())
}
