//! Writers that no gate has let in: a `psql` session, a cron job, or a transaction of an application that names no epoch. A hold may end
//! their transactions, where that was asked for: they hold the tenant's lock, and a second one that says what they are.

use cell_model::{MoveId, TenantId};
use tokio_postgres::Client;

use super::cell::Cell;
use super::fault::Fault;
use super::records::{from_db, to_db};
use crate::refusal::Refusal;

/// Of one session at a time, so that one that may not be ended keeps nobody else from it. A prepared transaction has no session.
const OUTSIDE: &str = "
SELECT l.pid, coalesce(nullif(a.application_name, ''), '?') || ' (' || coalesce(a.usename::text, '?') || ', pid ' || l.pid || ')'
  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.classid = ((cellway.outside_key($1) >> 32) & 4294967295)::oid
   AND l.objid = (cellway.outside_key($1) & 4294967295)::oid";

const COUNT: &str = "
INSERT INTO cellway.ended_writers (tenant, move_id, ended) VALUES ($1, $2, 1)
ON CONFLICT (tenant) DO UPDATE SET move_id = excluded.move_id,
   ended = CASE WHEN ended_writers.move_id = excluded.move_id THEN ended_writers.ended ELSE 0 END + 1";

/// The lock is looked at once more: the number may be another session's by now.
const END: &str = "SELECT pg_terminate_backend(o.pid) FROM ({outside}) AS o (pid, who) WHERE o.pid = $2";

/// Ends the transactions of all of them, with their sessions. An error: of one at least it could not be done.
pub(crate) async fn end(cell: &Cell, tenant: &TenantId, move_id: MoveId) -> Result<(), Refusal> {
    let mut client = cell.database.client().await?;
    let name = tenant.as_str();
    let found = client.query(OUTSIDE, &[&name]).await?;
    let mut not_ended = None;
    for row in found {
        let (pid, who): (i32, String) = (row.get(0), row.get(1));
        let ended = async {
            let transaction = client.transaction().await?;
            let rows = transaction.query(&END.replace("{outside}", OUTSIDE), &[&name, &pid]).await?;
            if rows.iter().any(|row| row.get(0)) {
                transaction.execute(COUNT, &[&name, &to_db(move_id.0)]).await?;
                transaction.commit().await?;
                return Ok(true);
            }
            Ok::<_, Fault>(false)
        };
        match ended.await {
            Ok(true) => {
                cell.ended_writers.inc();
                tracing::warn!(%tenant, %who, "a transaction that no gate has let in was ended, as a hold waited for it");
            }
            Ok(false) => {}
            Err(fault) => {
                let hint =
                    "the agent's role has to be a member of the role of that session, or of pg_signal_backend";
                not_ended = Some(Refusal::new(fault.code, format!("{who}: {}: {hint}", fault.reason)));
            }
        }
    }
    not_ended.map_or(Ok(()), Err)
}

/// How many holds of a move have ended.
pub(crate) async fn ended(client: &Client, tenant: &TenantId, move_id: MoveId) -> Result<u32, Fault> {
    let sql = "SELECT ended FROM cellway.ended_writers WHERE tenant = $1 AND move_id = $2";
    let row = client.query_opt(sql, &[&tenant.as_str(), &to_db(move_id.0)]).await?;
    Ok(row.map_or(0, |row| u32::try_from(from_db(row.get(0))).unwrap_or(u32::MAX)))
}
