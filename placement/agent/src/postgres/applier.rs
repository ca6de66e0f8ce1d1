//! Writes into the copy: each message of the change stream is one transaction, with the position after it.
//!
//! A chunk's commit does not wait for the disk; every so often one does, and the last one. What is not on disk is not
//! acknowledged, so the source keeps what a crash of the database would take away here: rows, frontier and position are of
//! one transaction and go together.
//!
//! Triggers and foreign keys are silent in its session, as in a replica's: the source has checked them. Rows beyond
//! the frontier are not there, so an update or deletion of one touches nothing; only an insert, and an update that
//! moves a key, must ask on which side of the frontier they lie, and the database itself compares the keys.

mod statements;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cell_model::{Generation, MoveId, Seq, TenantId};
use cell_protos::v1 as wire;
use cell_protos::v1::table_value::Value;
use futures::SinkExt as _;
use futures::future::try_join_all;
use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement, Transaction};

use statements::{Side, Whole, existed, is_unchanged, load_sql, moves_key, side, updated};

use super::captures::RowKey;
use super::catalogue::{Catalogue, Table};
use super::connect::Database;
use super::fault::Fault;
use super::records::{Copied, Reach, from_db, to_db};
use super::sql::Text;
use super::{backfill, wal};
use crate::record::Record as _;
use crate::refusal::Refusal;

/// Statements under way at once.
const PIPELINE: usize = 24;
/// Rows that are removed by their keys in one statement.
const REMOVED_AT_ONCE: usize = 500;
/// Statements that are kept prepared.
const STATEMENTS_MAX: usize = 500;
/// That the copy is as it is believed to be; whoever changes that waits.
const EXPECT: &str = "SELECT p.applied, p.frontier, g.role FROM cellway.copies p JOIN cellway.grants g USING (tenant) \
                      WHERE p.tenant = $1 FOR UPDATE OF p FOR SHARE OF g";
/// At the end, where it is not for long: whoever has taken this agent's place waits for what is under way.
const ADVANCE: &str = "UPDATE cellway.copies SET applied = $2, frontier = $3 WHERE tenant = $1 \
                       AND EXISTS (SELECT 1 FROM cellway.incarnation WHERE generation = $4 FOR SHARE)";
/// Of chunks that the database may lose in a crash: bytes, and
const LAZY_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// for how long.
const LAZY_MAX: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Applier {
    client: Client,
    /// The agent's generation.
    by: Generation,
    tenant: TenantId,
    move_id: MoveId,
    catalogue: Arc<Catalogue>,
    statements: HashMap<String, Statement>,
    /// What the database holds, and what it holds durably.
    pub(crate) copied: Copied,
    pub(crate) durable: Seq,
    /// How fast the copy was last allowed to come.
    pub(crate) bytes_per_second: u64,
    /// Chunks since: their bytes, and when one was last waited for.
    lazy: (u64, Instant),
    /// What the session says of commits now.
    waits: bool,
}

/// Why something was not applied.
#[derive(Debug)]
pub(crate) enum NotApplied {
    /// It may be, later.
    Later(Fault),
    /// It cannot be.
    Never(Refusal),
}

impl From<Fault> for NotApplied {
    fn from(fault: Fault) -> Self {
        if fault.may_pass() {
            return Self::Later(fault);
        }
        Self::Never(Refusal::new(
            "APPLY_FAILED",
            format!("the copying cell's database refused a change: {}", fault.reason),
        ))
    }
}

impl From<tokio_postgres::Error> for NotApplied {
    fn from(error: tokio_postgres::Error) -> Self {
        Fault::from(error).into()
    }
}

fn diverged(table: &Table, key: &[wire::TableValue], rows: u64) -> NotApplied {
    let key: Vec<&str> = key.iter().filter_map(wal::text).collect();
    let (name, key) = (&table.name, key.join(", "));
    let reason = format!("a change of row ({key}) of {name} has met {rows} rows in the copy");
    NotApplied::Never(Refusal::new("COPY_DIVERGED", reason))
}

fn not_loaded(table: &Table, rows: u64, loaded: u64) -> NotApplied {
    let reason = format!("of {rows} rows that were loaded into {} there are {loaded} in the copy", table.name);
    NotApplied::Never(Refusal::new("COPY_DIVERGED", reason))
}

fn unreadable() -> NotApplied {
    NotApplied::Never(Refusal::new("STREAM_BROKEN", "a change names a table or a column that is not there"))
}

fn not_as_it_was(move_id: MoveId) -> NotApplied {
    NotApplied::Never(Refusal::new("NOT_IMPORTING", format!("the copy for {move_id} is not as it was")))
}

/// A session that writes as a replica does.
pub(crate) async fn session(database: &Database) -> Result<Client, Fault> {
    let client = database.connect().await?;
    client.batch_execute("SET session_replication_role = replica").await?;
    Ok(client)
}

fn value(value: &wire::TableValue) -> Text<'_> {
    Text(match &value.value {
        Some(Value::Text(text)) => Some(text),
        Some(Value::Unchanged(_) | Value::Null(_)) | None => None,
    })
}

/// What one transaction brings, in this order.
#[derive(Default)]
struct Brings<'a> {
    before: &'a [wire::TableTransaction],
    /// Rows with these keys go, if they are there.
    remove: &'a [wire::TableKey],
    rows: &'a [wire::TableRows],
    later: &'a [wire::TableTransaction],
}

/// A statement with its values.
struct Prepared<'a> {
    statement: Statement,
    values: Vec<Text<'a>>,
    table: &'a Table,
    /// Before the change.
    key: &'a [wire::TableValue],
    /// It must touch exactly one row.
    exact: bool,
}

impl Applier {
    pub(crate) async fn open(
        (database, by): (&Database, Generation),
        catalogue: Arc<Catalogue>,
        tenant: TenantId,
        move_id: MoveId,
    ) -> Result<Option<Self>, Fault> {
        let client = session(database).await?;
        // Written, so that it waits for a commit whose connection was lost, and makes durable what it finds.
        let sql = "UPDATE cellway.copies SET applied = applied WHERE tenant = $1 \
                   RETURNING applied, frontier, bytes_per_second";
        let Some(row) = client.query_opt(sql, &[&tenant.as_str()]).await? else { return Ok(None) };
        let reach = Reach::decode(row.get(1)).map_err(|error| Fault::new("DATABASE_FAILED", error.to_string()))?;
        let copied = Copied { applied: Seq(from_db(row.get(0))), reach };
        let (durable, lazy) = (copied.applied, (0, Instant::now()));
        let bytes_per_second = from_db(row.get(2));
        Ok(Some(Self {
            client,
            by,
            tenant,
            move_id,
            catalogue,
            statements: HashMap::new(),
            copied,
            durable,
            bytes_per_second,
            lazy,
            waits: true,
        }))
    }

    /// Applies whole transactions in order; those that are already here are passed over.
    pub(crate) async fn changes(
        &mut self,
        transactions: &[wire::TableTransaction],
        until: Seq,
    ) -> Result<(), NotApplied> {
        let after = Copied { applied: until.max(self.copied.applied), reach: self.copied.reach.clone() };
        if after == self.copied {
            return Ok(());
        }
        self.write(Brings { before: transactions, ..Brings::default() }, after, true).await
    }

    /// Puts these rows in the place of whatever is there under their keys. The copy is where they were read.
    pub(crate) async fn recopy(&mut self, recopied: &wire::RecopiedRows) -> Result<(), NotApplied> {
        let (seq, reach) = (Seq(recopied.seq), self.copied.reach.clone());
        if self.copied.applied > seq || !reach.done {
            return Err(unreadable());
        }
        let brings = Brings { remove: &recopied.keys, rows: &recopied.rows, ..Brings::default() };
        self.write(brings, Copied { applied: seq, reach }, true).await
    }

    /// Loads a chunk into its virgin range, with the transactions before and after its snapshot.
    pub(crate) async fn chunk(&mut self, chunk: &wire::TableChunk) -> Result<(), NotApplied> {
        let reach = Reach::decode(&chunk.last_key).map_err(|_| unreadable())?;
        let after = Copied { applied: Seq(chunk.seq), reach };
        let bytes = self.lazy.0 + chunk.rows.iter().map(|rows| rows.copy.len() as u64).sum::<u64>();
        let wait = after.reach.done || bytes > LAZY_BYTES_MAX || self.lazy.1.elapsed() > LAZY_MAX;
        let brings = Brings { before: &chunk.visible, rows: &chunk.rows, later: &chunk.later, ..Brings::default() };
        self.write(brings, after, wait).await?;
        if !wait {
            self.lazy.0 = bytes;
        }
        Ok(())
    }

    async fn write(&mut self, brings: Brings<'_>, after: Copied, wait: bool) -> Result<(), NotApplied> {
        let Brings { before, remove, rows, later } = brings;
        let applied = self.copied.applied;
        let new = |transactions: &'_ [wire::TableTransaction]| -> Vec<wire::TableMutation> {
            let new = transactions.iter().filter(|transaction| Seq(transaction.seq) > applied);
            new.flat_map(|transaction| transaction.mutations.iter().cloned()).collect()
        };
        let (before, later) = (new(before), new(later));
        // Before any of those that are needed now is there.
        if self.statements.len() > STATEMENTS_MAX {
            self.statements.clear();
        }
        self.prepare(&before, &self.copied.reach.clone()).await?;
        self.prepare(&later, &after.reach).await?;
        let tenant = self.tenant.clone();
        self.prepare_one(EXPECT).await?;
        self.prepare_one(ADVANCE).await?;
        for rows in rows {
            let load = load_sql(&self.catalogue, self.catalogue.table(rows.table).ok_or_else(unreadable)?);
            self.prepare_one(&load).await?;
        }
        if self.waits != wait {
            // As whoever gave the address wants it, or not at all.
            let say = if wait { "RESET synchronous_commit" } else { "SET synchronous_commit = off" };
            self.client.batch_execute(say).await?;
            self.waits = wait;
        }
        let transaction = self.client.transaction().await?;
        let work = Work {
            transaction: &transaction,
            tenant: &tenant,
            catalogue: &self.catalogue,
            statements: &self.statements,
        };
        work.expect(&self.copied, self.move_id).await?;
        work.mutate(&before, &self.copied.reach).await?;
        work.remove(remove).await?;
        for rows in rows {
            work.load(rows).await?;
        }
        work.mutate(&later, &after.reach).await?;
        let advance = work.statement(ADVANCE)?;
        let place: [&(dyn ToSql + Sync); 4] =
            [&tenant.as_str(), &to_db(after.applied.get()), &after.reach.encode(), &to_db(self.by.get())];
        if transaction.execute(&advance, &place).await? != 1 {
            return Err(not_as_it_was(self.move_id));
        }
        transaction.commit().await?;
        self.copied = after;
        if wait {
            (self.durable, self.lazy) = (self.copied.applied, (0, Instant::now()));
        }
        Ok(())
    }

    /// Prepares whatever these mutations need, outside the transaction.
    async fn prepare(&mut self, mutations: &[wire::TableMutation], reach: &Reach) -> Result<(), NotApplied> {
        for mutation in mutations {
            let table = self.catalogue.table(mutation.table).ok_or_else(unreadable)?;
            let whole = Whole { catalogue: &self.catalogue, tenant: &self.tenant.clone(), table };
            for sql in whole.statements(mutation, reach).into_iter().flatten() {
                self.prepare_one(&sql).await?;
            }
        }
        Ok(())
    }

    async fn prepare_one(&mut self, sql: &str) -> Result<(), NotApplied> {
        if !self.statements.contains_key(sql) {
            let statement = self.client.prepare(sql).await?;
            self.statements.insert(sql.to_owned(), statement);
        }
        Ok(())
    }
}

/// One transaction's work.
struct Work<'a> {
    transaction: &'a Transaction<'a>,
    tenant: &'a TenantId,
    catalogue: &'a Catalogue,
    statements: &'a HashMap<String, Statement>,
}

impl<'a> Work<'a> {
    /// The copy is as it is believed to be, and stays so until the end of the transaction.
    async fn expect(&self, copied: &Copied, move_id: MoveId) -> Result<(), NotApplied> {
        let row = self.transaction.query_opt(&self.statement(EXPECT)?, &[&self.tenant.as_str()]).await?;
        let as_believed = row.is_some_and(|row| {
            let role: &str = row.get(2);
            Seq(from_db(row.get(0))) == copied.applied
                && row.get::<_, &[u8]>(1) == copied.reach.encode()
                && matches!(role, "importing" | "redirect")
        });
        if as_believed {
            return Ok(());
        }
        Err(not_as_it_was(move_id))
    }

    /// Whether anything is there or not.
    async fn remove(&self, keys: &[wire::TableKey]) -> Result<(), NotApplied> {
        let keys: Vec<RowKey> = keys.iter().map(|key| (key.table, key.key.clone())).collect();
        let of_tables = keys.chunk_by(|one, other| one.0 == other.0);
        for some in of_tables.flat_map(|of_table| of_table.chunks(REMOVED_AT_ONCE)) {
            let table =
                some.first().and_then(|(number, _)| self.catalogue.table(*number)).ok_or_else(unreadable)?;
            let (name, of) =
                (self.catalogue.qualified(table), self.catalogue.of_tenant(table, self.tenant.as_str()));
            let sql = format!("DELETE FROM {name} WHERE {of} AND {}", backfill::among(table, some));
            self.transaction.execute(&sql, &[]).await?;
        }
        Ok(())
    }

    async fn load(&self, rows: &wire::TableRows) -> Result<(), NotApplied> {
        let table = self.catalogue.table(rows.table).ok_or_else(unreadable)?;
        let load = self.statement(&load_sql(self.catalogue, table))?;
        let mut sink = pin!(self.transaction.copy_in::<_, Bytes>(&load).await?);
        sink.send(rows.copy.clone()).await?;
        let loaded = sink.finish().await?;
        if loaded == rows.rows { Ok(()) } else { Err(not_loaded(table, rows.rows, loaded)) }
    }

    /// In the source's order, many under way at once: the server runs them one after another.
    async fn mutate(&self, mutations: &[wire::TableMutation], reach: &Reach) -> Result<(), NotApplied> {
        for some in mutations.chunks(PIPELINE) {
            let mut ready: Vec<Prepared<'_>> = Vec::with_capacity(some.len());
            for mutation in some {
                let table = self.catalogue.table(mutation.table).ok_or_else(unreadable)?;
                if side(reach, mutation.table) == Side::Nothing {
                    continue;
                }
                if side(reach, mutation.table) == Side::Part
                    && existed(mutation)
                    && !mutation.new_row.is_empty()
                    && moves_key(table, mutation)
                {
                    self.run(std::mem::take(&mut ready)).await?;
                    self.move_key(table, mutation, reach).await?;
                    continue;
                }
                if let Some(prepared) = self.prepared(table, mutation, reach)? {
                    ready.push(prepared);
                }
            }
            self.run(ready).await?;
        }
        Ok(())
    }

    async fn run(&self, ready: Vec<Prepared<'_>>) -> Result<(), NotApplied> {
        let all = ready.into_iter().map(|prepared| self.one(prepared));
        try_join_all(all).await?;
        Ok(())
    }

    async fn one(&self, prepared: Prepared<'_>) -> Result<u64, NotApplied> {
        let values: Vec<&(dyn ToSql + Sync)> = prepared.values.iter().map(|value| value as _).collect();
        let rows = self.transaction.execute(&prepared.statement, &values).await?;
        if prepared.exact && rows != 1 { Err(diverged(prepared.table, prepared.key, rows)) } else { Ok(rows) }
    }

    const fn whole(&self, table: &'a Table) -> Whole<'a> {
        Whole { catalogue: self.catalogue, tenant: self.tenant, table }
    }

    fn statement(&self, sql: &str) -> Result<Statement, NotApplied> {
        self.statements.get(sql).cloned().ok_or_else(unreadable)
    }

    fn prepared<'m>(
        &'m self,
        table: &'a Table,
        mutation: &'m wire::TableMutation,
        reach: &Reach,
    ) -> Result<Option<Prepared<'m>>, NotApplied>
    where
        'a: 'm,
    {
        let [sql, _, _] = self.whole(table).statements(mutation, reach);
        let Some(sql) = sql else { return Ok(None) };
        let statement = self.statement(&sql)?;
        let values: Vec<Text<'_>> = match (existed(mutation), mutation.new_row.is_empty()) {
            (false, _) => mutation.new_row.iter().map(value).collect(),
            (true, true) => mutation.old_key.iter().map(value).collect(),
            (true, false) => {
                let changed = updated(table, &mutation.new_row).map(|(_, changed)| value(changed));
                changed.chain(mutation.old_key.iter().map(value)).collect()
            }
        };
        // Beyond the frontier there is nothing to touch yet.
        let exact = side(reach, mutation.table) == Side::Whole;
        Ok(Some(Prepared { statement, values, table, key: &mutation.old_key, exact }))
    }

    /// An update that gives a row of a half-copied table another key: the row may come over the frontier, or go.
    async fn move_key(
        &self,
        table: &'a Table,
        mutation: &wire::TableMutation,
        reach: &Reach,
    ) -> Result<(), NotApplied> {
        let [_, Some(delete), Some(insert)] = self.whole(table).statements(mutation, reach) else {
            return Err(unreadable());
        };
        if mutation.new_row.iter().any(is_unchanged) {
            let reason = format!(
                "a row of {} was given another key while it was copied, and its large values were not logged: move \
                 again",
                table.name
            );
            return Err(NotApplied::Never(Refusal::new("KEY_MOVED", reason)));
        }
        let old = Prepared {
            statement: self.statement(&delete)?,
            values: mutation.old_key.iter().map(value).collect(),
            table,
            key: &mutation.old_key,
            exact: false,
        };
        self.one(old).await?;
        let new = Prepared {
            statement: self.statement(&insert)?,
            values: mutation.new_row.iter().map(value).collect(),
            table,
            key: &mutation.old_key,
            exact: false,
        };
        self.one(new).await?;
        Ok(())
    }
}
