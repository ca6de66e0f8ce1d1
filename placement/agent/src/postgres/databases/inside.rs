//! Questions to a server about one of its databases, and to a database about what is in it.

use cell_protos::v1 as wire;
use tokio_postgres::GenericClient;

use crate::postgres::connect::Database;
use crate::postgres::fault::Fault;
use crate::postgres::sql::ident;

/// A database of the server, as the agent's role finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) oid: u32,
    pub(super) is_template: bool,
    /// Half dropped, as after a crash of the server.
    pub(super) is_invalid: bool,
    /// Its owner is the agent's role, or one that it is a member of: only then can it be dropped.
    pub(super) is_ours: bool,
    pub(super) owner: String,
}

pub(super) async fn found(client: &impl GenericClient, name: &str) -> Result<Option<Found>, Fault> {
    let sql = "SELECT d.oid, d.datistemplate, d.datconnlimit = -2, pg_has_role(d.datdba, 'USAGE'), \
                      pg_get_userbyid(d.datdba)::text FROM pg_database d WHERE d.datname = $1";
    let row = client.query_opt(sql, &[&name]).await?;
    Ok(row.map(|row| Found {
        oid: row.get(0),
        is_template: row.get(1),
        is_invalid: row.get(2),
        is_ours: row.get(3),
        owner: row.get(4),
    }))
}

fn finding(code: &str, reason: String) -> wire::Finding {
    wire::Finding { code: code.into(), reason }
}

/// Why a database could not be dropped when its tenant has left.
pub(super) fn undroppable(name: &str, found: &Found) -> Option<wire::Finding> {
    if found.is_template {
        let reason = format!(
            "database {name} is marked as a template, so it could not be dropped when the tenant has gone: ALTER DATABASE {} \
             IS_TEMPLATE false",
            ident(name)
        );
        return Some(finding("DATABASE_IS_TEMPLATE", reason));
    }
    if found.is_ours {
        return None;
    }
    let reason = format!(
        "database {name} is owned by {}, so it could not be dropped when the tenant has gone: ALTER DATABASE {} OWNER TO the \
         agent's role, or make that role a member of {}",
        found.owner,
        ident(name),
        ident(&found.owner)
    );
    Some(finding("DATABASE_NOT_OWNED", reason))
}

/// Who is connected to a database, in words.
pub(super) async fn guests(client: &impl GenericClient, oid: u32) -> Result<Option<String>, Fault> {
    let sql = "SELECT string_agg(DISTINCT format('%s (%s, pid %s)', coalesce(nullif(application_name, ''), '?'), \
                                 coalesce(usename::text, '?'), pid), '; ') \
               FROM pg_stat_activity WHERE datid = $1 AND backend_type IN ('client backend', 'walsender') \
                AND pid <> pg_backend_pid()";
    Ok(client.query_one(sql, &[&oid]).await?.get(0))
}

/// A table that has a row, wherever in the database it is. Tables of extensions come with these.
pub(super) async fn with_rows(client: &impl GenericClient) -> Result<Option<String>, Fault> {
    let sql = format!("SELECT format('%I.%I', n.nspname, c.relname) {RELATIONS} AND c.relkind = 'r' ORDER BY 1");
    for row in client.query(&sql, &[]).await? {
        let table: String = row.get(0);
        if client.query_one(&format!("SELECT EXISTS (SELECT 1 FROM {table})"), &[]).await?.get(0) {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// Whether there is, or was, an agent.
pub(super) async fn has_agent(client: &impl GenericClient) -> Result<bool, Fault> {
    Ok(client.query_one("SELECT to_regclass('cellway.agent') IS NOT NULL", &[]).await?.get(0))
}

/// What is in a tenant's database, and is neither in its schema nor of an extension: it would not be moved.
pub(super) async fn outside(client: &impl GenericClient, schema: &str) -> Result<Vec<wire::Finding>, Fault> {
    let sql = format!(
        "SELECT format('%s %I.%I', CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, n.nspname, c.relname) \
           {RELATIONS} AND c.relkind IN ('r', 'p', 'S') AND NOT c.relispartition AND n.nspname <> $1 \
            AND NOT EXISTS (SELECT 1 FROM pg_depend d JOIN pg_class o ON o.oid = d.refobjid \
                              JOIN pg_namespace s ON s.oid = o.relnamespace AND s.nspname IN ($1, n.nspname) \
                             WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND c.relkind = 'S' \
                               AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')) \
         UNION ALL \
         SELECT format('large object %s', m.oid) FROM (SELECT oid FROM pg_largeobject_metadata LIMIT 10) m \
         ORDER BY 1 LIMIT 100"
    );
    let told = |row: tokio_postgres::Row| {
        let what: String = row.get(0);
        let reason = format!(
            "{what} is in the tenant's database and outside of its schema {schema}, so it would not be moved: bring it into the \
             schema, or drop it"
        );
        finding("OUTSIDE_SCHEMA", reason)
    };
    Ok(client.query(&sql, &[&schema]).await?.into_iter().map(told).collect())
}

const RELATIONS: &str = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                         WHERE n.nspname NOT IN ('cellway', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%' \
                           AND c.relpersistence <> 't' \
                           AND NOT EXISTS (SELECT 1 FROM pg_depend e WHERE e.classid = 'pg_class'::regclass \
                                              AND e.objid = c.oid AND e.deptype = 'e')";

/// What is in the way of a move of a tenant out of its database, beside what its tables are like.
pub(crate) async fn of_whole(
    client: &impl GenericClient,
    database: &Database,
    schema: &str,
) -> Result<Vec<wire::Finding>, Fault> {
    let mut findings = outside(client, schema).await?;
    if let Some(found) = found(client, &database.name).await? {
        findings.extend(undroppable(&database.name, &found));
    }
    Ok(findings)
}

/// A number that no database of the server has: the one that is made with it is known again, whoever else makes one of that name.
pub(super) async fn free_oid(client: &impl GenericClient) -> Result<u32, Fault> {
    // Lower ones are the server's own.
    let sql = "SELECT n::oid FROM (SELECT 16384 + floor(random() * 4294950000)::bigint AS n FROM generate_series(1, 8)) c \
                WHERE NOT EXISTS (SELECT 1 FROM pg_database d WHERE d.oid = c.n::oid) LIMIT 1";
    let row = client.query_opt(sql, &[]).await?;
    let none = || Fault::new("DATABASE_FAILED", "no number was found that no database has: it is tried again");
    Ok(row.ok_or_else(none)?.get(0))
}

/// Drops the slots that are written down in a database that goes. False: one of them is in use still.
pub(super) async fn drop_slots(client: &impl GenericClient) -> Result<bool, Fault> {
    let ours = "SELECT s.slot_name::text, s.active FROM pg_replication_slots s \
                  JOIN cellway.made m ON m.kind = 'slot' AND m.name = s.slot_name \
                 WHERE s.database = current_database()";
    let mut all = true;
    for row in client.query(ours, &[]).await? {
        let (name, is_active): (String, bool) = (row.get(0), row.get(1));
        if is_active {
            all = false;
        } else {
            client.execute("SELECT pg_drop_replication_slot($1::text::name)", &[&name]).await?;
        }
    }
    Ok(all)
}

/// A slot that keeps the database from being dropped.
pub(super) async fn slot_in(client: &impl GenericClient, name: &str) -> Result<Option<String>, Fault> {
    let sql = "SELECT min(slot_name::text) FROM pg_replication_slots WHERE database = $1";
    Ok(client.query_one(sql, &[&name]).await?.get(0))
}
