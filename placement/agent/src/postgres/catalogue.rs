//! The tenants' tables, as the database's catalogue describes them.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::fault::Fault;
use super::options::DatabaseOptions;
use super::sql::ident;

/// A column of a tenant table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// With its modifier and, outside `pg_catalog`, its schema.
    pub(crate) type_name: String,
    /// Computed by the database from other columns: not copied.
    pub(crate) generated: bool,
    /// An identity that is always generated: an update never changes it, and may not name it.
    pub(crate) always: bool,
    /// Why its values cannot go from one database to another, if they cannot.
    pub(crate) unmovable: Option<String>,
    /// In whose order texts are compared, where it is not the database's.
    pub(crate) collation: Option<String>,
    /// Everything else that must be alike in both cells.
    pub(crate) like: String,
}

/// A unique index or a primary key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unique {
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignKey {
    pub(crate) name: String,
    pub(crate) to: String,
    /// Own column, the other's column.
    pub(crate) pairs: Vec<(String, String)>,
}

/// A table with the tenant column. Columns are in the order of their names, so that both cells number them alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) columns: Vec<Column>,
    /// Names of the primary key's columns, in its order.
    pub(crate) key: Vec<String>,
    pub(crate) uniques: Vec<Unique>,
    pub(crate) foreign_keys: Vec<ForeignKey>,
    /// `pg_class.relreplident`.
    pub(crate) replica_identity: char,
    pub(crate) unlogged: bool,
    pub(crate) inherits: bool,
}

/// All of them, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Catalogue {
    pub(crate) schema: String,
    pub(crate) tenant_column: String,
    pub(crate) tables: Vec<Table>,
    /// Sequences that the tables' columns take their values from: schema-qualified, quoted.
    pub(crate) sequences: Vec<String>,
}

impl Table {
    /// Columns whose values are copied.
    pub(crate) fn copied(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| !column.generated)
    }

    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Where the key's columns are among [`Table::copied`].
    pub(crate) fn key_places(&self) -> Vec<usize> {
        let place = |name: &String| self.copied().position(|column| column.name == *name);
        self.key.iter().filter_map(place).collect()
    }

    /// `"a", "b"`.
    pub(crate) fn key_list(&self) -> String {
        self.key.iter().map(|name| ident(name)).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn type_of(&self, name: &str) -> &str {
        self.column(name).map_or("pg_catalog.text", |column| column.type_name.as_str())
    }

    /// One line with everything that must be alike in both cells.
    fn line(&self) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|column| format!("{} {}", column.name, column.like)).collect();
        let uniques: Vec<String> = self.uniques.iter().map(|unique| unique.columns.join("+")).collect();
        format!("{}: {}; key {}; unique {}", self.name, columns.join(", "), self.key.join("+"), uniques.join(", "))
    }
}

impl Catalogue {
    /// The table's name, ready for a statement.
    pub(crate) fn qualified(&self, table: &Table) -> String {
        format!("{}.{}", ident(&self.schema), ident(&table.name))
    }

    /// `"tenant_id" = 'acme'::text`.
    pub(crate) fn of_tenant(&self, table: &Table, tenant: &str) -> String {
        let of = table.type_of(&self.tenant_column);
        format!("{} = {}::{of}", ident(&self.tenant_column), super::sql::literal(tenant))
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.tables.iter().map(Table::line).collect()
    }

    pub(crate) fn place(&self, name: &str) -> Option<u32> {
        let place = self.tables.iter().position(|table| table.name == name)?;
        u32::try_from(place).ok()
    }

    pub(crate) fn table(&self, place: u32) -> Option<&Table> {
        self.tables.get(usize::try_from(place).ok()?)
    }

    pub(crate) async fn read(client: &Client, options: &DatabaseOptions) -> Result<Self, Fault> {
        let rows = client.query(COLUMNS, &[&options.schema, &options.tenant_column]).await?;
        let mut tables: BTreeMap<String, Table> = BTreeMap::new();
        for row in rows {
            let name: String = row.get(0);
            let table = tables.entry(name.clone()).or_insert_with(|| Table {
                name,
                columns: Vec::new(),
                key: Vec::new(),
                uniques: Vec::new(),
                foreign_keys: Vec::new(),
                replica_identity: row.get::<_, String>(6).chars().next().unwrap_or('d'),
                unlogged: row.get(7),
                inherits: row.get(8),
            });
            table.columns.push(Column {
                name: row.get(1),
                type_name: row.get(2),
                generated: row.get(3),
                unmovable: row.get(4),
                like: row.get(5),
                collation: row.get(9),
                always: row.get(10),
            });
        }
        for row in client.query(UNIQUES, &[&options.schema]).await? {
            let Some(table) = tables.get_mut(row.get::<_, &str>(0)) else { continue };
            let columns: Vec<String> = row.get(3);
            if row.get(2) {
                table.key.clone_from(&columns);
            }
            table.uniques.push(Unique { name: row.get(1), columns });
        }
        for row in client.query(FOREIGN_KEYS, &[&options.schema]).await? {
            let Some(table) = tables.get_mut(row.get::<_, &str>(0)) else { continue };
            let (own, others): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
            let pairs = own.into_iter().zip(others).collect();
            table.foreign_keys.push(ForeignKey { name: row.get(1), to: row.get(2), pairs });
        }
        let sequences = client.query(SEQUENCES, &[&options.schema, &options.tenant_column]).await?;
        Ok(Self {
            schema: options.schema.clone(),
            tenant_column: options.tenant_column.clone(),
            tables: tables.into_values().collect(),
            sequences: sequences.iter().map(|row| row.get(0)).collect(),
        })
    }
}

/// Partitions are reached through the table that they are parts of.
const COLUMNS: &str = "
SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attgenerated <> '',
       CASE WHEN base.typtype = 'c' THEN 'a composite type'
            WHEN base.typtype = 'p' THEN 'a pseudo type'
            WHEN base.typname LIKE 'reg%' AND ns.nspname = 'pg_catalog' THEN 'its values are object numbers'
            WHEN base.typcategory = 'A' AND base.typelem <> 0 AND ens.nspname <> 'pg_catalog'
                THEN 'an array of a type of this database'
            WHEN base.typsend = 0 THEN 'its type has no binary form' END,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod),
                 CASE WHEN a.attnotnull THEN 'not null' END,
                 CASE WHEN a.attgenerated <> '' THEN 'generated' END,
                 CASE WHEN co.collname IS NOT NULL AND co.collname <> 'default' THEN co.collname END,
                 CASE WHEN co.collname = 'default' THEN db.datcollate || ' ' || coalesce(db.datcollversion, '') END,
                 (SELECT string_agg(e.enumlabel, '|' ORDER BY e.enumsortorder) FROM pg_enum e
                   WHERE e.enumtypid = base.oid)),
       c.relreplident::text, c.relpersistence = 'u',
       EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhrelid = c.oid OR (i.inhparent = c.oid AND c.relkind = 'r')),
       CASE WHEN co.collname <> 'default' THEN format('%I.%I', cn.nspname, co.collname) END,
       a.attidentity = 'a'
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_type base ON base.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
  JOIN pg_namespace ns ON ns.oid = base.typnamespace
  LEFT JOIN pg_type el ON el.oid = base.typelem
  LEFT JOIN pg_namespace ens ON ens.oid = el.typnamespace
  LEFT JOIN pg_collation co ON co.oid = a.attcollation
  LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
  JOIN pg_database db ON db.datname = current_database()
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND EXISTS (SELECT 1 FROM pg_attribute w WHERE w.attrelid = c.oid AND w.attname = $2 AND NOT w.attisdropped)
 ORDER BY c.relname::text COLLATE \"C\", a.attname::text COLLATE \"C\"";

const UNIQUES: &str = "
SELECT c.relname::text, x.relname::text, i.indisprimary,
       ARRAY(SELECT coalesce(a.attname::text, '(expression)')
               FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, at)
               LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num AND k.num > 0
              WHERE k.at <= i.indnkeyatts ORDER BY k.at)
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indrelid
  JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE i.indisunique ORDER BY 1, 3 DESC, 2";

const FOREIGN_KEYS: &str = "
SELECT c.relname::text, f.conname::text, o.relname::text,
       ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY AS k(num, at)
               JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.num ORDER BY k.at),
       ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY AS k(num, at)
               JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.num ORDER BY k.at)
  FROM pg_constraint f
  JOIN pg_class c ON c.oid = f.conrelid
  JOIN pg_class o ON o.oid = f.confrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE f.contype = 'f' AND f.conparentid = 0 ORDER BY 1, 2";

const SEQUENCES: &str = "
SELECT DISTINCT format('%I.%I', sn.nspname, s.relname)
  FROM pg_depend d
  JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_namespace sn ON sn.oid = s.relnamespace
  JOIN pg_class c ON c.oid = d.refobjid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
   AND EXISTS (SELECT 1 FROM pg_attribute w WHERE w.attrelid = c.oid AND w.attname = $2 AND NOT w.attisdropped)
 ORDER BY 1";
