//! What the agent puts into the database: its schema, the trigger on every tenant table, and the publication. Done
//! again it changes nothing.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use super::catalogue::{Catalogue, Table};
use super::connect::Database;
use super::fault::Fault;
use super::layout::Layout;
use super::sql::{ident, literal};

/// What the slot decodes.
pub(crate) const PUBLICATION: &str = "cellway";
/// Only one agent installs at a time.
const LOCK: i64 = 0x0063_656c_6c77_6179;
/// A writer that holds a table for longer makes the installation fail, and be tried again, rather than block others.
const LOCK_WAIT: &str = "SET LOCAL lock_timeout = '2s'";
/// Of triggers of one kind PostgreSQL takes the first by name first, and what looks at foreign keys is called `RI_…`.
///
/// Inserts are looked at *after* the row is there: a transaction that is refused has inserted nothing all the same, and a
/// table with a trigger before each insert, also a silent one, takes `COPY` row by row.
const TRIGGERS: [(&str, &str); 4] = [
    ("cellway_guard", "BEFORE UPDATE"),
    ("cellway_guard_gone", "BEFORE DELETE"),
    ("\"CW_guard_new\"", "AFTER INSERT"),
    ("cellway_guard_all", "BEFORE TRUNCATE"),
];

/// The triggers, as the catalogue has their names.
pub(crate) fn names() -> Vec<String> {
    TRIGGERS.iter().map(|(name, _)| name.trim_matches('"').to_owned()).collect()
}

/// Who reads one of our tables for long, as a backup does, keeps a change of it waiting, and with it all who come behind.
const INSTALL_WAIT: &str = "SET LOCAL lock_timeout = '3s'";
/// Schema, tables and functions. They are there with the transaction's end: not where the agent finds itself in the wrong
/// database, whose writers would be judged by the wrong options from then on.
pub(crate) async fn install_in(transaction: &Transaction<'_>, database: &Database) -> Result<(), Fault> {
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(installing)?;
    let (column, schema_of) = match &database.layout {
        Layout::Shared(place) => (place.column.as_deref().unwrap_or_default(), literal(&place.schema)),
        Layout::Schemas { before, after, .. } => {
            ("tenant_id", format!("{} || who || {}", literal(before), literal(after)))
        }
        Layout::Databases { schema, .. } | Layout::Whole { schema, .. } => ("tenant_id", literal(schema)),
    };
    let schema =
        include_str!("schema.sql").replace("{tenant_column}", &ident(column)).replace("{schema_of}", &schema_of);
    let digest = blake3::hash(schema.as_bytes()).to_hex().to_string();
    // Nothing is said twice: to add a column that is there already would wait for every reader all the same.
    if installed(transaction).await? == Some(with_functions(transaction, &digest).await?) {
        return Ok(());
    }
    transaction.batch_execute(INSTALL_WAIT).await?;
    transaction.batch_execute(&schema).await.map_err(blocked)?;
    let remember = "INSERT INTO cellway.installed (digest) VALUES ($1) \
                    ON CONFLICT (only_one) DO UPDATE SET digest = excluded.digest";
    let installed = with_functions(transaction, &digest).await?;
    transaction.execute(remember, &[&installed]).await.map_err(blocked)?;
    Ok(())
}

/// With what the functions are by now: an older version that ran in between has put its own back, and has not said so.
async fn with_functions(transaction: &Transaction<'_>, digest: &str) -> Result<String, Fault> {
    // md5() is refused by servers in FIPS mode.
    let sql = "SELECT encode(sha256(convert_to(coalesce(string_agg(p.proname || p.prosrc, '' ORDER BY p.oid), ''), \
                                               'UTF8')), 'hex') FROM pg_proc p \
               JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'cellway'";
    let functions: String = transaction.query_one(sql, &[]).await?.get(0);
    Ok(format!("{digest} {functions}"))
}

/// What was installed last.
async fn installed(transaction: &Transaction<'_>) -> Result<Option<String>, Fault> {
    let is_there = "SELECT to_regclass('cellway.installed') IS NOT NULL";
    if !transaction.query_one(is_there, &[]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    Ok(transaction.query_opt("SELECT digest FROM cellway.installed", &[]).await?.map(|row| row.get(0)))
}

fn blocked(error: tokio_postgres::Error) -> Fault {
    let reason = "somebody reads the tables of schema cellway, as a backup does, and they are to be changed: wait until that is \
                  over, and start the agent again";
    waited(error, reason)
}

fn installing(error: tokio_postgres::Error) -> Fault {
    let reason = "another agent puts the schema cellway, or its triggers, into this database at this moment: look at \
                  pg_stat_activity which one, wait until that is over, and start this one again";
    waited(error, reason)
}

fn waited(error: tokio_postgres::Error, reason: &str) -> Fault {
    if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
        return error.into();
    }
    Fault { state: error.code().map(|state| state.code().to_owned()), ..Fault::new("INSTALL_BLOCKED", reason) }
}

/// The trigger on every tenant table, and the publication of those that have a key to be followed by. Whether one was published that
/// was not: what was written to it before is in nobody's log.
pub(crate) async fn guard(client: &mut Client, catalogue: &Catalogue, tenant: &str) -> Result<bool, Fault> {
    let transaction = client.transaction().await?;
    let is_new = guard_in(&transaction, catalogue, tenant).await?;
    transaction.commit().await?;
    Ok(is_new)
}

/// As [`guard`], with whatever else the transaction does. `tenant` is asked only of tables that are one tenant's.
pub(crate) async fn guard_in(
    transaction: &Transaction<'_>,
    catalogue: &Catalogue,
    tenant: &str,
) -> Result<bool, Fault> {
    transaction.batch_execute(LOCK_WAIT).await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    for table in &catalogue.tables {
        let guarded = transaction.query(GUARDED, &[&catalogue.place.schema, &table.name]).await?;
        let has = |name: &str| guarded.iter().any(|row| row.get::<_, &str>(0) == name);
        if TRIGGERS.iter().all(|(name, _)| has(name)) {
            continue;
        }
        let on = catalogue.qualified(table);
        for (name, event) in TRIGGERS {
            let (each, call) = match &table.tenant {
                Some(column) => (each(event, &ident(&column.name)), "cellway.guard()".to_owned()),
                None => (each_of(event, tenant), format!("cellway.guard_of({})", literal(tenant))),
            };
            let create = format!("CREATE OR REPLACE TRIGGER {name} {event} ON {on} {each} EXECUTE FUNCTION {call}");
            transaction.batch_execute(&create).await?;
        }
    }
    publish(transaction, catalogue).await
}

/// The transaction has not entered as the tenant that the expression names.
fn not_entered(whose: &str) -> String {
    format!(
        "pg_catalog.current_setting('cellway.entered', true) IS DISTINCT FROM \
         ({whose} || ' ' || pg_catalog.pg_current_xact_id()::text)"
    )
}

/// For which rows the function is called. Whoever has entered in this transaction is known without it: a condition costs next
/// to nothing.
fn each(event: &str, column: &str) -> String {
    let entered = |row: &str| not_entered(&format!("{row}.{column}::text"));
    match event {
        "BEFORE TRUNCATE" => "FOR EACH STATEMENT".into(),
        "BEFORE UPDATE" => {
            let handed_over = format!("OLD.{column}::text IS DISTINCT FROM NEW.{column}::text");
            format!("FOR EACH ROW WHEN ({handed_over} OR {})", entered("OLD"))
        }
        "BEFORE DELETE" => format!("FOR EACH ROW WHEN ({})", entered("OLD")),
        _ => format!("FOR EACH ROW WHEN ({})", entered("NEW")),
    }
}

/// The same of a table that is one tenant's.
fn each_of(event: &str, tenant: &str) -> String {
    let each = if event == "BEFORE TRUNCATE" { "STATEMENT" } else { "ROW" };
    format!("FOR EACH {each} WHEN ({})", not_entered(&literal(tenant)))
}

/// Publishes the tables that can be followed: all that there are where tenants share them, one more tenant's otherwise. Of one
/// whose rows the log cannot identify every update and delete would fail from then on, whoever's it is: it is left out, or
/// taken out. Whether one was added.
async fn publish(client: &Transaction<'_>, catalogue: &Catalogue) -> Result<bool, Fault> {
    let is_logged = |table: &&Table| !table.unlogged && table.unidentified.is_none();
    let followed: Vec<&Table> =
        catalogue.tables.iter().filter(|table| table.is_keyed()).filter(is_logged).collect();
    let known = client.query("SELECT 1 FROM pg_publication WHERE pubname = $1", &[&PUBLICATION]).await?;
    if known.is_empty() {
        let create = format!("CREATE PUBLICATION {PUBLICATION} WITH (publish_via_partition_root = true)");
        client.batch_execute(&create).await?;
    }
    let schema = &catalogue.place.schema;
    let is_shared = catalogue.place.column.is_some();
    let published = client.query(PUBLISHED, &[&PUBLICATION]).await?;
    let published = published.iter().map(|row| (row.get(0), row.get(1)));
    let mut published: Vec<(String, String)> =
        published.filter(|(of, _): &(String, String)| is_shared || of == schema).collect();
    let mut wanted: Vec<(String, String)> =
        followed.iter().map(|table| (schema.clone(), table.name.clone())).collect();
    published.sort();
    wanted.sort();
    let only = |of: &[(String, String)], than: &[(String, String)]| -> String {
        let names = of.iter().filter(|name| !than.contains(name));
        names.map(|(of, name)| format!("{}.{}", ident(of), ident(name))).collect::<Vec<_>>().join(", ")
    };
    let added = only(&wanted, &published);
    let is_new = !added.is_empty();
    for (how, names) in [("DROP", only(&published, &wanted)), ("ADD", added)] {
        if !names.is_empty() {
            client.batch_execute(&format!("ALTER PUBLICATION {PUBLICATION} {how} TABLE {names}")).await?;
        }
    }
    Ok(is_new)
}

const GUARDED: &str = "
SELECT quote_ident(t.tgname) FROM pg_trigger t
  JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relname = $2 AND NOT t.tgisinternal AND t.tgenabled <> 'D'";

/// Whether every table of a schema has all the triggers.
pub(crate) const ALL_GUARDED: &str = "
SELECT NOT EXISTS (
  SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition
     AND (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'
             AND t.tgname::text = ANY($2)) < cardinality($2))";

const PUBLISHED: &str = "
SELECT n.nspname::text, c.relname::text FROM pg_publication p
  JOIN pg_publication_rel r ON r.prpubid = p.oid
  JOIN pg_class c ON c.oid = r.prrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE p.pubname = $1";
