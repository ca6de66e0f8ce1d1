//! Looks at the tables: at all of them when the agent starts, at those of one tenant before something is made of them, at
//! their sequences, and at how much there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cell_model::TenantId;
use cell_protos::v1 as wire;
use tokio_postgres::Client;

use super::catalogue::{Catalogue, Column};
use super::cell::Cell;
use super::connect::Database;
use super::fault::Fault;
use super::install;
use super::layout::{Layout, Place};
use super::replication::Replication;
use super::sql::{ident, literal};
use super::tenant::Tenant;
use crate::refusal::Refusal;

/// Puts the guard on every table of tenants, and reads those of which something is being made. Of these, whose tables were not all
/// published: what was written to one of them meanwhile is in nobody's log.
pub(super) async fn at_the_beginning(
    database: &Database,
    replication: &Replication,
    client: &mut Client,
    under_way: &BTreeSet<TenantId>,
) -> Result<BTreeSet<TenantId>, Fault> {
    let mut unpublished = BTreeSet::new();
    match &database.layout {
        Layout::Shared(place) => {
            let catalogue = Catalogue::read(&*client, place).await?;
            if install::guard(client, &catalogue, "").await? {
                unpublished.clone_from(under_way);
            }
            replication.share_catalogue(catalogue);
        }
        Layout::Schemas { .. } => {
            for (schema, tenant) in schemas(client, &database.layout).await? {
                if one(replication, client, under_way, (&schema, &tenant)).await? {
                    unpublished.insert(tenant);
                }
            }
        }
        Layout::Whole { tenant, schema } => {
            if one(replication, client, under_way, (schema, tenant)).await? {
                unpublished.insert(tenant.clone());
            }
        }
        // Nobody's rows are here.
        Layout::Databases { .. } => {}
    }
    Ok(unpublished)
}

/// A schema that is a tenant's own. Whether something is being made of it, and a table was published that was not.
async fn one(
    replication: &Replication,
    client: &mut Client,
    under_way: &BTreeSet<TenantId>,
    (schema, tenant): (&str, &TenantId),
) -> Result<bool, Fault> {
    let is_under_way = under_way.contains(tenant);
    if !is_under_way && is_guarded(client, schema).await? {
        return Ok(false);
    }
    let catalogue = Catalogue::read(&*client, &Place::of_one(schema)).await?;
    let is_new = install::guard(client, &catalogue, tenant.as_str()).await?;
    if is_under_way {
        replication.set_catalogue(tenant, catalogue);
    }
    Ok(is_under_way && is_new)
}

/// Schemas that are tenants', by their names, and whose.
pub(super) async fn schemas(client: &Client, layout: &Layout) -> Result<Vec<(String, TenantId)>, Fault> {
    let rows = client.query("SELECT nspname::text FROM pg_namespace ORDER BY 1", &[]).await?;
    let named = rows.iter().map(|row| row.get::<_, String>(0));
    Ok(named.filter_map(|schema| layout.tenant_of(&schema).map(|tenant| (schema, tenant))).collect())
}

async fn is_guarded(client: &Client, schema: &str) -> Result<bool, Fault> {
    Ok(client.query_one(install::ALL_GUARDED, &[&schema, &install::names()]).await?.get(0))
}

/// A tenant's name must come out of the column's type as it went in, as guards read it and as the log has it: one that is cut
/// off, padded or read as a number may be another tenant's as well.
async fn spell(client: &Client, catalogue: &Catalogue, tenant: &TenantId) -> Result<(), Refusal> {
    let mut spelled: Vec<&str> = Vec::new();
    for table in &catalogue.tables {
        let Some(Column { name, type_name, .. }) = &table.tenant else { continue };
        if spelled.contains(&type_name.as_str()) {
            continue;
        }
        spelled.push(type_name);
        let who = literal(tenant.as_str());
        let sql = format!("SELECT ({who}::{type_name})::text, concat({who}::{type_name})");
        let why = match client.query_one(&sql, &[]).await {
            Ok(row) => {
                let ways: [String; 2] = [row.get(0), row.get(1)];
                let Some(other) = ways.into_iter().find(|way| way != tenant.as_str()) else { continue };
                format!("it comes out as '{other}'")
            }
            Err(error) if error.as_db_error().is_some() => Fault::from(error).reason,
            Err(error) => return Err(error.into()),
        };
        let (of, column) = (catalogue.qualified(table), ident(name));
        let reason = format!(
            "'{tenant}' cannot be told apart in column {column} of {of}, of type {type_name} ({why}): make it text: ALTER TABLE \
             {of} ALTER {column} TYPE text"
        );
        return Err(Refusal::new("TENANT_KEY_TYPE", reason));
    }
    Ok(())
}

impl Cell {
    /// Looks at a tenant's tables anew: they may have been changed, and others may have come.
    pub(crate) async fn look_at_tables(&self, tenant: &TenantId) -> Result<Arc<Catalogue>, Refusal> {
        let place = self.database.layout.place(tenant)?;
        let mut client = self.database.session().await?;
        let catalogue = Catalogue::read(&client, &place).await?;
        spell(&client, &catalogue, tenant).await?;
        install::guard(&mut client, &catalogue, tenant.as_str()).await?;
        Ok(self.replication.set_catalogue(tenant, catalogue))
    }

    /// Looks whether the tables are still as they were when the move began; it ends where they are not. Of one that has come
    /// since nothing is copied.
    pub(crate) async fn look_once_more(&self, tenant: &TenantId) -> Result<(), Refusal> {
        let known = self.catalogue(tenant).await?;
        let client = self.database.client().await?;
        let now = Catalogue::read(&**client, &known.place).await?;
        let (before, after) = (known.lines(), now.lines());
        let other = |of: &[String], than: &[String]| of.iter().find(|line| !than.contains(line)).cloned();
        let Some(changed) = other(&after, &before).or_else(|| other(&before, &after)) else { return Ok(()) };
        self.replication.set_catalogue(tenant, now);
        let reason = format!("a table was added, dropped or changed while the tenant was being moved: {changed}");
        Err(Refusal::new("SCHEMA_CHANGED", reason))
    }

    /// In which files the rows of a tenant's tables are, partition by partition. They are others after what no log tells of: a
    /// partition that was truncated, attached or detached.
    pub(crate) async fn files(&self, tenant: &TenantId) -> Result<String, Refusal> {
        let catalogue = self.catalogue(tenant).await?;
        let tables: Vec<&str> = catalogue.tables.iter().map(|table| table.name.as_str()).collect();
        let client = self.database.client().await?;
        Ok(client.query_one(FILES, &[&catalogue.place.schema, &tables]).await?.get(0))
    }

    /// Whether the tables that tenants share tell this one apart from all others.
    pub(crate) async fn can_spell(&self, tenant: &TenantId) -> Result<(), Refusal> {
        let catalogue = self.catalogue(tenant).await?;
        spell(&*self.database.client().await?, &catalogue, tenant).await
    }

    /// A tenant's tables as they were last looked at.
    pub(crate) async fn catalogue(&self, tenant: &TenantId) -> Result<Arc<Catalogue>, Refusal> {
        if let Some(known) = self.replication.catalogue(tenant) {
            return Ok(known);
        }
        let place = self.database.layout.place(tenant)?;
        let read = Catalogue::read(&self.database.session().await?, &place).await?;
        Ok(self.replication.set_catalogue(tenant, read))
    }

    /// Where the sequences of a tenant's tables stand: at the last number that was drawn, or, where one was set and not drawn
    /// from since, at the number before the next.
    pub(crate) async fn sequences(&self, tenant: &TenantId) -> Result<Vec<wire::TableSequence>, Refusal> {
        let catalogue = self.catalogue(tenant).await?;
        let client = self.database.client().await?;
        let mut standing = Vec::new();
        for sequence in &catalogue.sequences {
            let sql = format!(
                "SELECT s.last_value, s.is_called, p.seqstart, p.seqincrement FROM {} AS s, pg_sequence AS p \
                  WHERE p.seqrelid = $1::text::regclass",
                sequence.name
            );
            let row = client.query_one(&sql, &[&sequence.name]).await?;
            let (last, is_called, start, stride): (i64, bool, i64, i64) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            if is_called || last != start {
                let last_value = if is_called { last } else { last.saturating_sub(stride) };
                standing.push(wire::TableSequence { name: sequence.of.clone(), last_value });
            }
        }
        Ok(standing)
    }

    /// Moves a sequence beyond what the other cell has handed out, in whole steps of its own stride, and never back. Where
    /// other tenants draw from it at the same time, it lands well ahead of them; a tenant's own goes on where it was.
    pub(crate) async fn advance_sequence(
        &self,
        catalogue: &Catalogue,
        sequence: &wire::TableSequence,
    ) -> Result<(), Fault> {
        let ahead = if self.database.layout.is_shared() { 1_000_i64 } else { 0 };
        for own in catalogue.sequences.iter().filter(|own| own.of == sequence.name) {
            let client = self.database.client().await?;
            let sql = format!(
                "SELECT setval($1::text::regclass, s.last_value + p.seqincrement * \
                        (ceil(abs(($2 - s.last_value)::numeric / p.seqincrement))::bigint + {ahead})) \
                   FROM {} s, pg_sequence p \
                  WHERE p.seqrelid = $1::text::regclass \
                    AND (CASE WHEN p.seqincrement > 0 THEN s.last_value < $2 ELSE s.last_value > $2 END \
                         OR s.last_value = $2 AND NOT s.is_called)",
                own.name
            );
            client.query(&sql, &[&own.name, &sequence.last_value]).await?;
        }
        Ok(())
    }
}

const FILES: &str = "
SELECT coalesce(string_agg(concat_ws(' ', f.oid, pg_relation_filenode(f.oid)), ',' ORDER BY f.oid), '')
  FROM (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
         WHERE c.relkind = 'r' AND c.relname::text = ANY($2)
        UNION
        SELECT t.relid::oid
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
         CROSS JOIN LATERAL pg_partition_tree(c.oid) t
         WHERE c.relkind = 'p' AND c.relname::text = ANY($2)) f";

/// Counts rows and bytes of tenants.
pub(super) async fn count(database: &Database, tenants: &[Arc<Tenant>]) -> Result<(), Fault> {
    let client = database.session().await?;
    client.batch_execute("SET statement_timeout = '2s'").await?;
    let counted = match &database.layout {
        Layout::Shared(place) => count_shared(&client, place, tenants).await?,
        Layout::Schemas { .. } | Layout::Whole { .. } => count_own(&client, &database.layout, tenants).await?,
        Layout::Databases { .. } => return Ok(()),
    };
    for tenant in tenants {
        tenant.lock().counted = counted.get(tenant.id.as_str()).copied().unwrap_or_default();
    }
    Ok(())
}

/// Rows and bytes, by tenant.
type Counted = BTreeMap<String, (u64, u64)>;

fn add(counted: &mut Counted, row: &tokio_postgres::Row) {
    let sum = counted.entry(row.get(0)).or_default();
    sum.0 += row.get::<_, i64>(1).cast_unsigned();
    sum.1 += row.get::<_, i64>(2).cast_unsigned();
}

async fn count_shared(client: &Client, place: &Place, tenants: &[Arc<Tenant>]) -> Result<Counted, Fault> {
    let catalogue = Catalogue::read(client, place).await?;
    let one = if let [one] = tenants { Some(one.id.as_str()) } else { None };
    let mut counted = Counted::new();
    for table in &catalogue.tables {
        let Some(column) = &table.tenant else { continue };
        let column = ident(&column.name);
        let of = one.map(|tenant| format!("WHERE {}", catalogue.of_tenant(table, tenant))).unwrap_or_default();
        let sql = format!(
            "SELECT {column}::text, count(*), sum(pg_column_size(t.*))::bigint FROM {} t {of} GROUP BY {column}",
            catalogue.qualified(table),
        );
        for row in client.query(&sql, &[]).await? {
            add(&mut counted, &row);
        }
    }
    Ok(counted)
}

/// Schema by schema, table by table, all of a tenant's in one question.
async fn count_own(client: &Client, layout: &Layout, tenants: &[Arc<Tenant>]) -> Result<Counted, Fault> {
    const TABLES: &str = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                          WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition";
    let mut counted = Counted::new();
    for tenant in tenants {
        let Ok(place) = layout.place(&tenant.id) else { continue };
        let whose = literal(tenant.id.as_str());
        let one = |row: tokio_postgres::Row| {
            let table = format!("{}.{}", ident(&place.schema), ident(row.get(0)));
            format!("SELECT {whose}::text, count(*), coalesce(sum(pg_column_size(t.*)), 0)::bigint FROM {table} t")
        };
        let tables: Vec<String> = client.query(TABLES, &[&place.schema]).await?.into_iter().map(one).collect();
        if tables.is_empty() {
            continue;
        }
        for row in client.query(&tables.join(" UNION ALL "), &[]).await? {
            add(&mut counted, &row);
        }
    }
    Ok(counted)
}
