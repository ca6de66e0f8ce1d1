//! Reads chunks of a tenant's tables, in the order of their primary keys, each under a snapshot of its own.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use cell_model::TenantId;
use cell_protos::v1 as wire;
use futures::TryStreamExt as _;
use tokio_postgres::Client;

use super::captures::RowKey;
use super::catalogue::{Catalogue, Table};
use super::fault::Fault;
use super::form::Form;
use super::records::Reach;
use super::snapshot::Snapshot;
use super::sql::{ident, literal};

/// Rows of a chunk before anything is known of their size.
const ROWS_FIRST: u64 = 256;
/// How large a row is taken to be until then.
const ROW_GUESSED: u64 = 1_024;
const ROWS_MAX: u64 = 50_000;
/// Rows that are read by their keys in one statement, so that large ones do not come too many at once,
const KEYS_AT_ONCE: usize = 64;
/// and bytes of them after which no more are read.
const KEYS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A chunk as the snapshot saw it.
pub(crate) struct Chunk {
    pub(crate) rows: Vec<wire::TableRows>,
    pub(crate) reach: Reach,
    pub(crate) row_size: Option<RowSize>,
}

/// How large the rows of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowSize {
    table: u32,
    bytes: u64,
}

/// `SELECT` of the columns that are copied.
fn copied_list(table: &Table) -> String {
    table.copied().map(|column| ident(&column.name)).collect::<Vec<_>>().join(", ")
}

/// As [`copied_list`], behind what says whose a row is, where something does.
pub(crate) fn listed(whose: Option<String>, table: &Table) -> String {
    let columns = Some(copied_list(table)).filter(|columns| !columns.is_empty());
    whose.into_iter().chain(columns).collect::<Vec<_>>().join(", ")
}

/// `ROW("a", "b") > ROW('x'::text, '1'::bigint)`. Whose the rows are is not part of it: with that column the server would
/// begin at the tenant's first row, and pass over everything that has been read, for each chunk again.
pub(crate) fn compare(table: &Table, operator: &str, key: &[String]) -> String {
    let typed = |(name, value): (&String, &String)| format!("{}::{}", literal(value), table.type_of(name));
    let values: Vec<String> = table.key.iter().zip(key).map(typed).collect();
    format!("ROW({}) {operator} ROW({})", table.key_list(), values.join(", "))
}

/// Begins a transaction whose every read is of one moment, and says which.
pub(crate) async fn begin(client: &Client) -> Result<Snapshot, Fault> {
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
    let text: String = client.query_one("SELECT pg_current_snapshot()::text", &[]).await?.get(0);
    Snapshot::parse(&text).ok_or_else(|| Fault::new("DATABASE_FAILED", format!("{text} is no snapshot")))
}

/// Reads on from `reach` in the transaction that [`begin`] has begun, about `bytes` of rows. What the chunk before has
/// found of their size says how many that are.
pub(crate) async fn read(
    client: &Client,
    catalogue: &Catalogue,
    (tenant, form): (&TenantId, &Form),
    (reach, row_size): (&Reach, Option<RowSize>),
    bytes: u64,
) -> Result<Chunk, Fault> {
    let (mut rows, mut reach) = (Vec::new(), reach.clone());
    let first = (bytes / ROW_GUESSED).clamp(16, ROWS_FIRST);
    let mut row_size = row_size.filter(|size| size.table == reach.table);
    let fitting = |bytes: u64, size: RowSize| (bytes / size.bytes).clamp(16, ROWS_MAX);
    let (mut read, mut wanted) = (0, row_size.map_or(first, |size| fitting(bytes, size)));
    while let Some(table) = catalogue.table(reach.table).filter(|_| !reach.done) {
        if !reach.key.is_empty() && reach.key.len() != table.key.len() {
            let reason = format!("a frontier of {} has another key than the table", table.name);
            return Err(Fault::new("DATABASE_FAILED", reason));
        }
        let ends_at = boundary(client, catalogue, tenant, (table, &reach.key), wanted).await?;
        let (copy, count) =
            copy_out(client, catalogue, (tenant, form.of(reach.table)), table, (&reach.key, ends_at.as_deref()))
                .await?;
        read += copy.len() as u64;
        if let Some(average) = (copy.len() as u64).checked_div(count) {
            let size = RowSize { table: reach.table, bytes: average.max(1) };
            wanted = fitting(bytes.saturating_sub(read), size);
            row_size = Some(size);
            rows.push(wire::TableRows { table: reach.table, copy, rows: count });
        }
        reach = match ends_at {
            Some(key) => Reach { key, ..reach },
            None => {
                // What is known of the rows of one table says nothing of those of the next.
                wanted = first;
                Reach { table: reach.table + 1, key: Vec::new(), done: false }
            }
        };
        // What is nearly full is full: a few rows more would cost as much as many.
        if read >= bytes - bytes / 16 {
            break;
        }
    }
    reach.done = catalogue.table(reach.table).is_none();
    Ok(Chunk { rows, reach, row_size })
}

/// The rows with these keys, of one table behind the other, in the transaction that [`begin`] has begun; and which keys they are:
/// beyond so many bytes the rest is left for another time.
pub(crate) async fn read_keys(
    client: &Client,
    catalogue: &Catalogue,
    (tenant, form): (&TenantId, &Form),
    keys: &[RowKey],
) -> Result<(Vec<RowKey>, Vec<wire::TableRows>), Fault> {
    let (mut read, mut rows, mut bytes) = (Vec::new(), Vec::new(), 0);
    let of_tables = keys.chunk_by(|one, other| one.0 == other.0);
    for some in of_tables.flat_map(|of_table| of_table.chunks(KEYS_AT_ONCE)) {
        let Some(table) = some.first().and_then(|(number, _)| catalogue.table(*number)) else { continue };
        if bytes > KEYS_BYTES_MAX {
            break;
        }
        let condition = format!("{} AND {}", catalogue.of_tenant(table, tenant.as_str()), among(table, some));
        let (copy, count) = copy_where(client, catalogue, form.of(some[0].0), table, &condition).await?;
        bytes += copy.len();
        read.extend_from_slice(some);
        if count > 0 {
            rows.push(wire::TableRows { table: some[0].0, copy, rows: count });
        }
    }
    Ok((read, rows))
}

/// `("a", "b") IN (VALUES ('x'::text, '1'::bigint), …)`, so that keys that are equal and written otherwise name a row once.
pub(crate) fn among(table: &Table, keys: &[RowKey]) -> String {
    if table.key.is_empty() {
        // The tenant has one row at the most.
        return "true".into();
    }
    let value = |(name, text): (&String, &String)| format!("{}::{}", literal(text), table.type_of(name));
    let typed =
        |(_, key): &RowKey| format!("({})", table.key.iter().zip(key).map(value).collect::<Vec<_>>().join(", "));
    let values: Vec<String> = keys.iter().map(typed).collect();
    format!("({}) IN (VALUES {})", table.key_list(), values.join(", "))
}

/// The key of the `count`th row after `after`; none where fewer are left.
async fn boundary(
    client: &Client,
    catalogue: &Catalogue,
    tenant: &TenantId,
    (table, after): (&Table, &[String]),
    count: u64,
) -> Result<Option<Vec<String>>, Fault> {
    if table.key.is_empty() {
        // The tenant has one row at the most.
        return Ok(None);
    }
    // A cast is called like its column, and ORDER BY would take it for that: 10 would come before 9, and a boundary that
    // is so many rows away by text may be the whole table away by number.
    let as_text = |(place, name): (usize, &String)| format!("{}::text AS \"boundary {place}\"", ident(name));
    let sql = format!(
        "SELECT {} FROM {} WHERE {}{} ORDER BY {} OFFSET {} LIMIT 1",
        table.key.iter().enumerate().map(as_text).collect::<Vec<_>>().join(", "),
        catalogue.qualified(table),
        catalogue.of_tenant(table, tenant.as_str()),
        if after.is_empty() { String::new() } else { format!(" AND {}", compare(table, ">", after)) },
        table.key_list(),
        count.saturating_sub(1),
    );
    let row = client.query_opt(&sql, &[]).await?;
    Ok(row.map(|row| (0..row.len()).map(|place| row.get(place)).collect()))
}

async fn copy_out(
    client: &Client,
    catalogue: &Catalogue,
    (tenant, whose): (&TenantId, Option<&str>),
    table: &Table,
    (after, until): (&[String], Option<&[String]>),
) -> Result<(Bytes, u64), Fault> {
    let mut condition = catalogue.of_tenant(table, tenant.as_str());
    if !after.is_empty() {
        condition = format!("{condition} AND {}", compare(table, ">", after));
    }
    if let Some(until) = until {
        condition = format!("{condition} AND {}", compare(table, "<=", until));
    }
    copy_where(client, catalogue, whose, table, &condition).await
}

async fn copy_where(
    client: &Client,
    catalogue: &Catalogue,
    whose: Option<&str>,
    table: &Table,
    condition: &str,
) -> Result<(Bytes, u64), Fault> {
    let sql = format!(
        "COPY (SELECT {} FROM {} WHERE {condition}) TO STDOUT (FORMAT binary)",
        listed(whose.map(str::to_owned), table),
        catalogue.qualified(table),
    );
    let mut stream = pin!(client.copy_out(&sql).await?);
    let (mut copy, mut messages) = (BytesMut::new(), 0_u64);
    while let Some(data) = stream.try_next().await? {
        copy.extend_from_slice(&data);
        messages += 1;
    }
    // The header comes with the first row, the end in a message of its own.
    Ok((copy.freeze(), messages.saturating_sub(1)))
}
