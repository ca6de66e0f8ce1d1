//! What the agent puts into the database: its schema, the trigger on every tenant table, and the publication. Done
//! again it changes nothing.

use tokio_postgres::Client;

use super::catalogue::{Catalogue, Table};
use super::fault::Fault;
use super::options::DatabaseOptions;
use super::sql::ident;

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

/// Schema, tables and functions.
pub(crate) async fn install(client: &mut Client, options: &DatabaseOptions) -> Result<(), Fault> {
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let schema = include_str!("schema.sql").replace("{tenant_column}", &ident(&options.tenant_column));
    transaction.batch_execute(&schema).await?;
    transaction.commit().await?;
    Ok(())
}

/// The trigger on every tenant table, and the publication of those that have a key to be followed by.
pub(crate) async fn guard(client: &mut Client, catalogue: &Catalogue) -> Result<(), Fault> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(LOCK_WAIT).await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    for table in &catalogue.tables {
        let guarded = transaction.query(GUARDED, &[&catalogue.schema, &table.name]).await?;
        let has = |name: &str| guarded.iter().any(|row| row.get::<_, &str>(0) == name);
        if TRIGGERS.iter().all(|(name, _)| has(name)) {
            continue;
        }
        let on = catalogue.qualified(table);
        for (name, event) in TRIGGERS {
            let each = each(event, &ident(&catalogue.tenant_column));
            let create =
                format!("CREATE OR REPLACE TRIGGER {name} {event} ON {on} {each} EXECUTE FUNCTION cellway.guard()");
            transaction.batch_execute(&create).await?;
        }
    }
    publish(&transaction, catalogue).await?;
    transaction.commit().await?;
    Ok(())
}

/// For which rows the function is called. Whoever has entered in this transaction is known without it: a condition costs next
/// to nothing.
fn each(event: &str, column: &str) -> String {
    let entered = |row: &str| {
        format!(
            "pg_catalog.current_setting('cellway.entered', true) IS DISTINCT FROM \
             ({row}.{column}::text || ' ' || pg_catalog.pg_current_xact_id()::text)"
        )
    };
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

async fn publish(client: &tokio_postgres::Transaction<'_>, catalogue: &Catalogue) -> Result<(), Fault> {
    let followed: Vec<&Table> =
        catalogue.tables.iter().filter(|table| !table.key.is_empty() && !table.unlogged).collect();
    let known = client.query("SELECT 1 FROM pg_publication WHERE pubname = $1", &[&PUBLICATION]).await?;
    if known.is_empty() {
        let create = format!("CREATE PUBLICATION {PUBLICATION} WITH (publish_via_partition_root = true)");
        client.batch_execute(&create).await?;
    }
    let published = client.query(PUBLISHED, &[&PUBLICATION]).await?;
    let mut published: Vec<(String, String)> = published.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut wanted: Vec<(String, String)> =
        followed.iter().map(|table| (catalogue.schema.clone(), table.name.clone())).collect();
    published.sort();
    wanted.sort();
    if published != wanted && !wanted.is_empty() {
        let names: Vec<String> = followed.iter().map(|table| catalogue.qualified(table)).collect();
        client.batch_execute(&format!("ALTER PUBLICATION {PUBLICATION} SET TABLE {}", names.join(", "))).await?;
    }
    Ok(())
}

const GUARDED: &str = "
SELECT quote_ident(t.tgname) FROM pg_trigger t
  JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relname = $2 AND NOT t.tgisinternal AND t.tgenabled <> 'D'";

const PUBLISHED: &str = "
SELECT n.nspname::text, c.relname::text FROM pg_publication p
  JOIN pg_publication_rel r ON r.prpubid = p.oid
  JOIN pg_class c ON c.oid = r.prrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE p.pubname = $1";
