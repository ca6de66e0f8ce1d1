//! Standbys that may be promoted. What this cell has answered for has to be on them, or a failover takes it back.
//!
//! Where `synchronous_standby_names` is set, the server waits for them at each commit, and nothing is to be done here. Where it is not,
//! and `standbys_confirm` says how many there are, a step that gives or takes a tenant, and what a copy acknowledges, waits until that
//! many have the log on their disks, and everyone who is streaming.

use std::time::Duration;

use cell_model::Seq;
use cell_protos::v1 as wire;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::connect::Database;
use super::fault::Fault;
use super::records::{from_db, to_db};
use crate::refusal::Refusal;

const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long they are waited for before a log is let go of, or an owner is told that it may be. Less than the silence that an owner bears.
const HAVE_MAX: Duration = Duration::from_secs(2);

/// Standbys by streaming replication: not the readers of logical slots, not backups.
const STANDBYS: &str = "
  FROM pg_stat_replication r
 WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots s WHERE s.slot_type = 'logical' AND s.active_pid = r.pid)
   AND r.state IS DISTINCT FROM 'backup' AND r.application_name IS DISTINCT FROM 'pg_receivewal'";

/// Where the log ends now.
pub(crate) async fn log_end(client: &Client) -> Result<Seq, Fault> {
    let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
    Ok(Seq(from_db(client.query_one(sql, &[]).await?.get(0))))
}

/// Returns when the log up to `end` is on the disks of the standbys, if that is asked for; at the latest at `deadline`.
pub(crate) async fn confirm(database: &Database, end: Seq, deadline: Instant) -> Result<(), Refusal> {
    let wanted = i64::from(database.options.standbys_confirm);
    if wanted == 0 {
        return Ok(());
    }
    let ask = format!(
        "SELECT count(*) FILTER (WHERE r.flush_lsn >= '0/0'::pg_lsn + $1::bigint::numeric),
                string_agg(coalesce(r.application_name, '?') || ' is at ' || coalesce(r.flush_lsn::text, '?'), ', ')
                   FILTER (WHERE (r.flush_lsn >= '0/0'::pg_lsn + $1::bigint::numeric) IS NOT TRUE),
                count(*) FILTER (WHERE r.state IS NULL) {STANDBYS}"
    );
    let client = database.client().await?;
    let asked = client.prepare_cached(&ask).await?;
    loop {
        let row = client.query_one(&asked, &[&to_db(end.get())]).await?;
        let (have, behind, unseen): (i64, Option<String>, i64) = (row.get(0), row.get(1), row.get(2));
        if unseen > 0 {
            let reason = "standbys are to confirm, and the agent's role may not see how far they are: GRANT pg_read_all_stats TO it";
            return Err(Refusal::new("STANDBYS_UNSEEN", reason));
        }
        if have >= wanted && behind.is_none() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let behind = behind.map(|behind| format!("; {behind}")).unwrap_or_default();
            let reason = format!(
                "{have} of {wanted} standbys have what was done{behind}: start those that are missing, or say the right number in \
                 standbys_confirm; it is tried again"
            );
            return Err(Refusal::new("STANDBY_BEHIND", reason));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Returns when whatever the database has by now is on its standbys, where they are waited for.
pub(crate) async fn have_all(database: &Database) -> Result<(), Refusal> {
    if database.options.standbys_confirm == 0 {
        return Ok(());
    }
    let end = log_end(&**database.client().await?).await?;
    confirm(database, end, Instant::now() + HAVE_MAX).await
}

/// What preflight notes of standbys to which a failover could lose what was answered.
pub(crate) async fn notes(client: &Client, database: &Database) -> Result<Vec<wire::Finding>, Fault> {
    let ask = format!(
        "SELECT string_agg(r.application_name || ' (' || r.sync_state || ')', ', ' ORDER BY r.application_name)
                   FILTER (WHERE r.sync_state NOT IN ('sync', 'quorum')),
                count(*) FILTER (WHERE r.sync_state NOT IN ('sync', 'quorum')),
                count(*) FILTER (WHERE r.state IS NULL) {STANDBYS}"
    );
    let row = client.query_one(&ask, &[]).await?;
    let (names, count, unseen): (Option<String>, i64, i64) = (row.get(0), row.get(1), row.get(2));
    let mut notes = Vec::new();
    let mut note = |code: &str, reason: String| notes.push(wire::Finding { code: code.into(), reason });
    if let Some(names) = names.filter(|_| database.options.standbys_confirm == 0) {
        let reason = format!(
            "no commit waits for {names}: a failover to one of them may take back what this cell has answered for. Name those that may be \
             promoted: ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (…)', and SELECT pg_reload_conf(); or let the agent wait for \
             them where a tenant is given or taken: standbys_confirm = {count}"
        );
        note("STANDBY_ASYNCHRONOUS", reason);
    }
    if unseen > 0 {
        let reason = format!(
            "the server has {unseen} standbys, or others that read its log, of which the agent's role may not see how far they are: GRANT \
             pg_read_all_stats TO it"
        );
        note("STANDBYS_UNSEEN", reason);
    }
    Ok(notes)
}
