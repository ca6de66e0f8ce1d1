//! What the database has, whether Cellway knows it or not: whose rows there are, who writes, where sequences stand.

use std::collections::BTreeSet;

use cell_protos::v1 as wire;
use tokio_postgres::Client;

use super::catalogue::{Catalogue, Sequence, Table};
use super::cell::Cell;
use super::connect::Database;
use super::fault::Fault;
use super::layout::Layout;
use super::look::schemas;
use super::sql::ident;

/// Names that are told, and writers.
const TOLD_MAX: usize = 10_000;
/// One more says that there are more.
const ASKED_MAX: usize = TOLD_MAX + 1;
/// How long one question may take: an index that begins with the tenant answers it at once.
const PATIENCE: &str = "SET statement_timeout = '3s'";

/// Looks; nothing is changed.
pub(super) async fn look(cell: &Cell) -> Result<wire::Existing, Fault> {
    let client = cell.database.session().await?;
    client.batch_execute(PATIENCE).await?;
    let (strangers, sequences) = match &cell.database.layout {
        Layout::Shared(place) => {
            let catalogue = Catalogue::read(&client, place).await?;
            let mut strangers = BTreeSet::new();
            for table in &catalogue.tables {
                strangers.extend(strangers_in(&client, &catalogue, table).await?);
            }
            (strangers, sequences(&client, &catalogue).await?)
        }
        Layout::Databases { .. } => (databases_of_strangers(&client, &cell.database).await?, Vec::new()),
        // No two tenants draw from one of these.
        Layout::Schemas { .. } | Layout::Whole { .. } => {
            (schemas_of_strangers(&client, &cell.database.layout).await?, Vec::new())
        }
    };
    let mut observed = observed(&client).await?;
    let (more_strangers, more_observed) = (strangers.len() > TOLD_MAX, observed.len() > TOLD_MAX);
    observed.truncate(TOLD_MAX);
    Ok(wire::Existing {
        strangers: strangers.into_iter().take(TOLD_MAX).collect(),
        more_strangers,
        observes: cell.database.options.observe,
        observed,
        more_observed,
        sequences,
    })
}

/// Tenants with a schema of their own that the cell was never granted.
async fn schemas_of_strangers(client: &Client, layout: &Layout) -> Result<BTreeSet<String>, Fault> {
    let granted = client.query("SELECT tenant FROM cellway.controls", &[]).await?;
    let granted: BTreeSet<String> = granted.iter().map(|row| row.get(0)).collect();
    let named = schemas(client, layout).await?.into_iter().map(|(_, tenant)| tenant.to_string());
    Ok(named.filter(|tenant| !granted.contains(tenant)).take(ASKED_MAX).collect())
}

/// Tenants with a database of their own in which the cell was never granted one.
async fn databases_of_strangers(client: &Client, database: &Database) -> Result<BTreeSet<String>, Fault> {
    let sql = "SELECT d.datname::text FROM pg_database d \
               WHERE NOT EXISTS (SELECT 1 FROM cellway.databases k WHERE k.name = d.datname) ORDER BY 1";
    let rows = client.query(sql, &[]).await?;
    let granted = client.query("SELECT tenant FROM cellway.controls", &[]).await?;
    let granted: BTreeSet<String> = granted.iter().map(|row| row.get(0)).collect();
    let named = rows.iter().filter_map(|row| database.layout.tenant_of_database(row.get(0), &database.name));
    let named = named.map(|tenant| tenant.to_string());
    Ok(named.filter(|tenant| !granted.contains(tenant)).take(ASKED_MAX).collect())
}

/// Tenants with rows in a table that the cell was never granted: from each tenant straight to the next one, not through
/// all the rows. Those that it knows are left out before they are counted, or they would hide the others. Asked row by
/// row and not joined, so that it ends with the last one that is told.
async fn strangers_in(client: &Client, catalogue: &Catalogue, table: &Table) -> Result<Vec<String>, Fault> {
    let Some(column) = &table.tenant else { return Ok(Vec::new()) };
    let (name, column) = (catalogue.qualified(table), ident(&column.name));
    let sql = format!(
        "WITH RECURSIVE found AS ( \
           (SELECT {column} AS who FROM {name} WHERE {column} IS NOT NULL ORDER BY {column} LIMIT 1) \
           UNION ALL \
           SELECT (SELECT n.{column} FROM {name} AS n WHERE n.{column} > found.who ORDER BY n.{column} LIMIT 1) \
             FROM found WHERE found.who IS NOT NULL) \
         SELECT who::text FROM found \
          WHERE who IS NOT NULL AND (SELECT c.tenant FROM cellway.controls AS c WHERE c.tenant = who::text) IS NULL \
          LIMIT {ASKED_MAX}"
    );
    Ok(client.query(&sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// First writers of tenants that the cell has not been granted since, either.
async fn observed(client: &Client) -> Result<Vec<wire::ObservedWriter>, Fault> {
    let sql = format!(
        "SELECT tenant, (extract(epoch FROM first_at) * 1000)::bigint, writer FROM cellway.observed AS o \
          WHERE NOT EXISTS (SELECT 1 FROM cellway.controls AS c WHERE c.tenant = o.tenant) \
          ORDER BY tenant LIMIT {ASKED_MAX}"
    );
    let one = |row: &tokio_postgres::Row| wire::ObservedWriter {
        tenant: row.get(0),
        first_at_unix_ms: row.get::<_, i64>(1).cast_unsigned(),
        writer: row.get(2),
    };
    Ok(client.query(&sql, &[]).await?.iter().map(one).collect())
}

async fn sequences(client: &Client, catalogue: &Catalogue) -> Result<Vec<wire::SequenceStanding>, Fault> {
    let mut standing = Vec::new();
    // Several columns may draw from one.
    let names: BTreeSet<&String> = catalogue.sequences.iter().map(|Sequence { name, .. }| name).collect();
    for name in names {
        let sql = format!(
            "SELECT p.seqincrement, s.last_value, s.is_called, p.seqmax FROM {name} AS s, pg_sequence AS p \
             WHERE p.seqrelid = $1::text::regclass"
        );
        let row = client.query_one(&sql, &[name]).await?;
        standing.push(wire::SequenceStanding {
            name: name.clone(),
            increment: row.get(0),
            last_value: row.get(1),
            is_called: row.get(2),
            max_value: row.get(3),
        });
    }
    Ok(standing)
}
