//! What a cell that was taken over has put aside, in its database: how far that has come, the changes, and what their numbers mean. And
//! where a cell that has taken over did so.

use std::collections::{BTreeMap, BTreeSet};

use cell_model::{Generation, MoveId, Seq, TenantId};
use cell_protos::v1 as wire;
use prost::Message as _;
use tokio_postgres::{Client, Transaction};

use super::catalogue::Catalogue;
use super::fault::Fault;
use super::records::{Known, from_db, superseded, to_db};
use crate::error::AgentError;
use crate::record::{Record as _, RecordError, TailRecord};
use crate::refusal::Refusal;

/// Transactions of one page, at the most.
const PAGE: i64 = 2_000;
/// Bytes of one page; a single larger transaction goes alone.
const PAGE_BYTES: i64 = 256 * 1024;

/// What the numbers in changes of these tables mean.
pub(super) fn describe(catalogue: &Catalogue) -> wire::TailTables {
    let tables = catalogue.tables.iter().map(|table| wire::TailTable {
        name: table.name.clone(),
        columns: table.copied().map(|column| column.name.clone()).collect(),
        key: table.key.clone(),
    });
    wire::TailTables { tables: tables.collect() }
}

fn damaged(error: &RecordError) -> Fault {
    Fault::new("DATABASE_FAILED", error.to_string())
}

/// Every one that there is.
pub(super) async fn load(client: &Client) -> Result<BTreeMap<TenantId, TailRecord>, AgentError> {
    let rows = client.query("SELECT tenant, tail FROM cellway.tails", &[]).await.map_err(Fault::from)?;
    let one = |row: &tokio_postgres::Row| -> Result<(TenantId, TailRecord), AgentError> {
        Ok((TenantId::new(row.get::<_, &str>(0))?, TailRecord::decode(row.get(1))?))
    };
    rows.iter().map(one).collect()
}

/// Tenants whose tables are needed as they are in the log: because of a move, or of what is being put aside.
pub(super) fn under_way(
    known: &BTreeMap<TenantId, Known>,
    tails: &BTreeMap<TenantId, TailRecord>,
) -> BTreeSet<TenantId> {
    let moved = known.iter().filter(|(_, known)| known.control.is_under_way()).map(|(id, _)| id);
    let put_aside = tails.iter().filter(|(_, tail)| !tail.done).map(|(id, _)| id);
    moved.chain(put_aside).cloned().collect()
}

/// That of one tenant.
pub(super) async fn find(client: &Client, tenant: &TenantId) -> Result<Option<TailRecord>, Fault> {
    let sql = "SELECT tail FROM cellway.tails WHERE tenant = $1";
    let row = client.query_opt(sql, &[&tenant.as_str()]).await?;
    row.map(|row| TailRecord::decode(row.get(0)).map_err(|error| damaged(&error))).transpose()
}

/// In the transaction in which the cell owns no more.
pub(super) async fn begin_in(
    transaction: &Transaction<'_>,
    tenant: &TenantId,
    tail: &TailRecord,
    tables: &wire::TailTables,
) -> Result<(), Refusal> {
    forget_in(transaction, tenant).await?;
    let sql = "INSERT INTO cellway.tails (tenant, tail, tables) VALUES ($1, $2, $3)";
    transaction.execute(sql, &[&tenant.as_str(), &tail.encode(), &tables.encode_to_vec()]).await?;
    Ok(())
}

/// More of it is here, durably; if it is as it was, and this agent, `by` its generation, is still the newest one.
pub(super) async fn advance(
    client: &mut Client,
    by: Generation,
    tenant: &TenantId,
    (old, new): (&TailRecord, &TailRecord),
    changes: &[wire::TableTransaction],
) -> Result<(), Refusal> {
    const ADVANCE: &str = "UPDATE cellway.tails SET tail = $3 WHERE tenant = $1 AND tail = $2 \
                             AND EXISTS (SELECT 1 FROM cellway.incarnation WHERE generation = $4 FOR SHARE)";
    const ADD: &str = "INSERT INTO cellway.tail_changes (tenant, seq, change) \
                       SELECT $1, c.seq, c.change FROM unnest($2::bigint[], $3::bytea[]) AS c (seq, change)";
    let name = tenant.as_str();
    let transaction = client.transaction().await?;
    let advanced = transaction.execute(ADVANCE, &[&name, &old.encode(), &new.encode(), &to_db(by.get())]).await?;
    if advanced != 1 {
        return Err(superseded());
    }
    if !changes.is_empty() {
        let seqs: Vec<i64> = changes.iter().map(|change| to_db(change.seq)).collect();
        let bytes: Vec<Vec<u8>> = changes.iter().map(prost::Message::encode_to_vec).collect();
        transaction.execute(ADD, &[&name, &seqs, &bytes]).await?;
    }
    Ok(transaction.commit().await?)
}

/// Part of it: what comes behind `after`, in order.
pub(super) async fn page(
    client: &Client,
    tenant: &TenantId,
    after: Seq,
) -> Result<(Vec<wire::TableTransaction>, wire::TailTables), Refusal> {
    const READ: &str = "
        SELECT change
          FROM (SELECT seq, change, sum(length(change)) OVER (ORDER BY seq) - length(change) AS sent
                  FROM (SELECT seq, change FROM cellway.tail_changes
                         WHERE tenant = $1 AND seq > $2 ORDER BY seq LIMIT $3) c) d
         WHERE sent < $4 ORDER BY seq";
    let name = tenant.as_str();
    let rows = client.query(READ, &[&name, &to_db(after.get()), &PAGE, &PAGE_BYTES]).await?;
    let changes = rows.iter().map(|row| wire::TableTransaction::decode(row.get::<_, &[u8]>(0)));
    let changes = changes.collect::<Result<_, _>>().map_err(unreadable)?;
    Ok((changes, tables(client, tenant).await?))
}

/// What the numbers in its changes mean.
pub(super) async fn tables(client: &Client, tenant: &TenantId) -> Result<wire::TailTables, Refusal> {
    let sql = "SELECT tables FROM cellway.tails WHERE tenant = $1";
    let tables = client.query_opt(sql, &[&tenant.as_str()]).await?;
    let tables = tables.map(|row| wire::TailTables::decode(row.get::<_, &[u8]>(0))).transpose();
    Ok(tables.map_err(unreadable)?.unwrap_or_default())
}

fn unreadable(error: prost::DecodeError) -> Refusal {
    Refusal::internal(format!("what was put aside is damaged: {error}"))
}

/// With the rows beside which it was kept.
pub(super) async fn forget_in(transaction: &Transaction<'_>, tenant: &TenantId) -> Result<(), Refusal> {
    for table in ["tail_changes", "tails", "taken"] {
        let sql = format!("DELETE FROM cellway.{table} WHERE tenant = $1");
        transaction.execute(&sql, &[&tenant.as_str()]).await?;
    }
    Ok(())
}

/// In the transaction in which a cell takes over: up to where it held what the other one has done.
pub(super) async fn take_in(
    transaction: &Transaction<'_>,
    tenant: &TenantId,
    (move_id, seq): (MoveId, Seq),
) -> Result<(), Refusal> {
    let sql = "INSERT INTO cellway.taken (tenant, move_id, seq) VALUES ($1, $2, $3) \
               ON CONFLICT (tenant) DO UPDATE SET move_id = excluded.move_id, seq = excluded.seq";
    transaction.execute(sql, &[&tenant.as_str(), &to_db(move_id.0), &to_db(seq.get())]).await?;
    Ok(())
}

/// As it was said when this cell took over in this move.
pub(super) async fn taken(client: &Client, tenant: &TenantId, move_id: MoveId) -> Result<Option<Seq>, Fault> {
    let sql = "SELECT seq FROM cellway.taken WHERE tenant = $1 AND move_id = $2";
    let row = client.query_opt(sql, &[&tenant.as_str(), &to_db(move_id.0)]).await?;
    Ok(row.map(|row| Seq(from_db(row.get(0)))))
}
