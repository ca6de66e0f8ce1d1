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

/// Who has a tenant's lock, for the sentence that says who is waited for.
const HOLDERS: &str = "
SELECT string_agg(format('%s (%s, pid %s, open for %s ms)', coalesce(nullif(a.application_name, ''), '?'),
                         coalesce(a.usename::text, '?'), l.pid,
                         (extract(epoch FROM clock_timestamp() - a.xact_start) * 1000)::bigint), '; ')
  FROM pg_locks l JOIN pg_stat_activity a USING (pid)
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
   AND l.classid = ((cellway.lock_key($1) >> 32) & 4294967295)::oid
   AND l.objid = (cellway.lock_key($1) & 4294967295)::oid AND l.pid <> pg_backend_pid()";

/// Age of the oldest transaction that a seal taken now would wait for; zero where there is none, or where the agent's role
/// may not see when it began.
pub(crate) async fn oldest_write(client: &Client, tenant: &TenantId) -> Result<Duration, Fault> {
    const OLDEST: &str = "
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - a.xact_start) * 1000), 0)::bigint
  FROM pg_locks l JOIN pg_stat_activity a USING (pid)
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.mode = 'ShareLock'
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.classid = ((cellway.lock_key($1) >> 32) & 4294967295)::oid
   AND l.objid = (cellway.lock_key($1) & 4294967295)::oid";
    let row = client.query_one(OLDEST, &[&tenant.as_str()]).await?;
    Ok(Duration::from_millis(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default()))
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
                let holders: Option<String> = client.query_one(HOLDERS, &[&name]).await?.get(0);
                let holders = holders.unwrap_or_else(|| "they have ended meanwhile".into());
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
    let sql = "SELECT l.pid, l.virtualtransaction FROM pg_locks l
                WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                  AND l.classid = ((cellway.lock_key($1) >> 32) & 4294967295)::oid
                  AND l.objid = (cellway.lock_key($1) & 4294967295)::oid";
    let open = |rows: Vec<tokio_postgres::Row>| -> Vec<(i32, String)> {
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let mut waiting_for = open(client.query(sql, &[&name]).await?);
    while !waiting_for.is_empty() {
        if tokio::time::Instant::now() >= deadline {
            let holders: Option<String> = client.query_one(HOLDERS, &[&name]).await?.get(0);
            let reason = format!("transactions that are still open: {}", holders.unwrap_or_default());
            return Err(Refusal::new("BUSY", reason));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        let still = open(client.query(sql, &[&name]).await?);
        waiting_for.retain(|holder| still.contains(holder));
    }
    Ok(())
}
