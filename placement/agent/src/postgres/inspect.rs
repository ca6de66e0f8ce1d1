//! Looks at a database before a cell is made of it. Nothing is changed.

use cell_model::CellId;
use cell_protos::v1 as wire;
use tokio_postgres::Client;

use super::catalogue::Catalogue;
use super::check::{self, Server};
use super::connect::Database;
use super::fault::Fault;
use super::layout::Layout;
use super::options::DatabaseOptions;
use super::{databases, replication, schemas};
use crate::error::AgentError;

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Stable.
    pub code: String,
    /// The object, why, and the statement that mends it.
    pub reason: String,
}

/// What a database is like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// What is in the way of moves.
    pub findings: Vec<Found>,
    /// What is not.
    pub notes: Vec<Found>,
    /// Whose it is already.
    pub cell: Option<String>,
    /// Tables with the tenant's column.
    pub tables: usize,
    /// The role that has asked,
    pub role: String,
    /// and whether it may make others, as the sample application does.
    pub makes_roles: bool,
}

/// Looks at a database that is to become that of cell `here`.
///
/// # Errors
/// [`AgentError`] where it cannot be asked.
pub async fn inspect_database(here: &CellId, options: DatabaseOptions) -> Result<Inspection, AgentError> {
    let database = Database::new(options)?;
    let client = database.session().await?;
    let server = server(&client, &replication::slot_name(here, &database.address())).await?;
    let (catalogue, of_tables) = match &database.layout {
        Layout::Databases { .. } => {
            let looked = databases::look_at_template(&database, None).await;
            looked.map_err(|refusal| Fault::new(refusal.code, refusal.reason))?
        }
        layout => {
            let pattern = layout.pattern();
            let catalogue = Catalogue::read(&client, &pattern).await?;
            let mut found = check::tables(&catalogue);
            if layout.has_schemas() {
                found.extend(schemas::strange(&client, &pattern.schema).await?);
            }
            (catalogue, found)
        }
    };
    let makes_roles = "SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user";
    let makes_roles = client.query_one(makes_roles, &[]).await.map_err(Fault::from)?.get(0);
    let told = |finding: wire::Finding| Found { code: finding.code, reason: finding.reason };
    Ok(Inspection {
        findings: check::server(&server).into_iter().chain(of_tables).map(told).collect(),
        notes: check::notes(&server, database.options.wal_bytes_max).into_iter().map(told).collect(),
        cell: owner(&client).await?,
        tables: catalogue.tables.len(),
        role: server.role,
        makes_roles,
    })
}

async fn owner(client: &Client) -> Result<Option<String>, Fault> {
    let known: bool = client.query_one("SELECT to_regclass('cellway.agent') IS NOT NULL", &[]).await?.get(0);
    if !known {
        return Ok(None);
    }
    let row = client.query_opt("SELECT cell FROM cellway.agent", &[]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// What the server allows, to the role that asks.
pub(super) async fn server(client: &Client, slot: &str) -> Result<Server, Fault> {
    const ASK: &str = "
SELECT current_setting('wal_level'),
       current_setting('max_replication_slots')::bigint - (SELECT count(*) FROM pg_replication_slots),
       current_setting('max_wal_senders')::bigint - (SELECT count(*) FROM pg_stat_replication),
       EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = $1),
       r.rolreplication OR r.rolsuper, r.rolbypassrls OR r.rolsuper, r.rolname::text,
       pg_size_bytes(current_setting('max_slot_wal_keep_size')), current_setting('server_version_num')::int
  FROM pg_roles r WHERE r.rolname = current_user";
    let row = client.query_one(ASK, &[&slot]).await?;
    let silenced = client.batch_execute("SET session_replication_role = replica").await;
    client.batch_execute("SET session_replication_role = origin").await.ok();
    Ok(Server {
        wal_level: row.get(0),
        slots_free: row.get(1),
        senders_free: row.get(2),
        has_slot: row.get(3),
        may_replicate: row.get(4),
        sees_all_rows: row.get(5),
        may_silence_triggers: silenced.is_ok(),
        role: row.get(6),
        slot_wal_max: u64::try_from(row.get::<_, i64>(7)).ok(),
        version: row.get(8),
    })
}

/// The oldest transaction of the server that has written, if it has been open for long: the slot of a move waits for its end,
/// in whatever database it is. Of sessions of others the agent's role sees nothing unless it may read all statistics.
pub(super) async fn open_for_long(client: &Client) -> Result<Option<wire::Finding>, Fault> {
    const OLDEST: &str = "
SELECT o.who, extract(epoch FROM clock_timestamp() - o.since)::bigint, o.mend
  FROM (SELECT a.xact_start AS since, format('SELECT pg_terminate_backend(%s)', a.pid) AS mend,
               format('transaction of %s (%s, pid %s) in database %s', coalesce(nullif(a.application_name, ''), '?'),
                      a.usename, a.pid, a.datname) AS who
          FROM pg_stat_activity a
         WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_backend_pid()
        UNION ALL
        SELECT p.prepared, format('COMMIT PREPARED %L, or ROLLBACK PREPARED %L, there', p.gid, p.gid),
               format('prepared transaction %s (%s) in database %s', p.gid, p.owner, p.database)
          FROM pg_prepared_xacts p) o
 WHERE o.since < clock_timestamp() - interval '1 second' ORDER BY o.since LIMIT 1";
    let told = |row: tokio_postgres::Row| {
        let (who, seconds, mend): (String, i64, String) = (row.get(0), row.get(1), row.get(2));
        let reason = format!(
            "{who} has been open for {seconds} s and has written: a move waits for its end before it copies: end it where it \
             was begun, or {mend}"
        );
        wire::Finding { code: "OPEN_TRANSACTION".into(), reason }
    };
    Ok(client.query_opt(OLDEST, &[]).await?.map(told))
}

/// Whether the server takes the number that a database is to have.
pub(super) async fn can_choose_oids(client: &Client) -> Result<(), Fault> {
    let found = client.query_one("SELECT current_setting('server_version_num')::int", &[]).await?.get(0);
    match check::version(found) {
        Some(finding) => Err(Fault::new("SERVER_TOO_OLD", finding.reason)),
        None => Ok(()),
    }
}
