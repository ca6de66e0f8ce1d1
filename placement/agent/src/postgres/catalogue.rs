//! The tenants' tables, as the database's catalogue describes them.

use std::collections::BTreeMap;

use tokio_postgres::GenericClient;

use super::fault::Fault;
use super::layout::Place;
use super::sql::{ident, literal};

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
    /// Its only key is `true`: the table has one row at the most.
    pub(crate) constant: bool,
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignKey {
    pub(crate) name: String,
    /// The other table: by its name alone where it is in the same schema.
    pub(crate) to: String,
    /// Own column, the other's column.
    pub(crate) pairs: Vec<(String, String)>,
}

/// A table with rows of tenants. Columns are in the order of their names, so that both cells number them alike; the one that
/// says whose a row is stands apart, because where a tenant has a schema of its own there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) tenant: Option<Column>,
    /// The others.
    pub(crate) columns: Vec<Column>,
    /// Names of the primary key's columns, in its order.
    pub(crate) primary: Vec<String>,
    /// Those that tell one row of a tenant from another: without the tenant's column.
    pub(crate) key: Vec<String>,
    pub(crate) uniques: Vec<Unique>,
    pub(crate) foreign_keys: Vec<ForeignKey>,
    /// `pg_class.relreplident`.
    pub(crate) replica_identity: char,
    pub(crate) unlogged: bool,
    pub(crate) inherits: bool,
}

/// A sequence of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// As both cells know it: `table.column` that takes its values from it; `.name` where no column has it.
    pub(crate) of: String,
    /// Schema-qualified, quoted.
    pub(crate) name: String,
}

/// All of them, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Catalogue {
    pub(crate) place: Place,
    pub(crate) tables: Vec<Table>,
    pub(crate) sequences: Vec<Sequence>,
}

impl Table {
    /// Whether two rows of one tenant can be told apart: by a key, or because there are no two.
    pub(crate) fn is_keyed(&self) -> bool {
        !self.primary.is_empty() || self.uniques.iter().any(|unique| unique.constant)
    }

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

    /// One line with everything that must be alike in both cells, whatever their layouts.
    fn line(&self) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|column| format!("{} {}", column.name, column.like)).collect();
        let is_own = |name: &&String| self.tenant.as_ref().is_none_or(|tenant| tenant.name != **name);
        let own = |unique: &Unique| -> String {
            if unique.constant {
                return String::new();
            }
            unique.columns.iter().filter(is_own).map(String::as_str).collect::<Vec<_>>().join("+")
        };
        let mut uniques: Vec<String> = self.uniques.iter().map(own).collect();
        uniques.sort_unstable();
        format!("{}: {}; key {}; unique {}", self.name, columns.join(", "), self.key.join("+"), uniques.join(", "))
    }
}

impl Catalogue {
    /// The table's name, ready for a statement.
    pub(crate) fn qualified(&self, table: &Table) -> String {
        format!("{}.{}", ident(&self.place.schema), ident(&table.name))
    }

    /// Which rows of a table are the tenant's: `"tenant_id" = 'acme'::text`, or all of them.
    pub(crate) fn of_tenant(&self, table: &Table, tenant: &str) -> String {
        match &table.tenant {
            Some(column) => format!("{} = {}::{}", ident(&column.name), literal(tenant), column.type_name),
            None => "true".into(),
        }
    }

    /// What must be alike in both cells: tables, and sequences that no table would bring along.
    pub(crate) fn lines(&self) -> Vec<String> {
        let loose = self.sequences.iter().filter_map(|sequence| sequence.of.strip_prefix('.'));
        let loose = loose.map(|name| format!("sequence {name}"));
        self.tables.iter().map(Table::line).chain(loose).collect()
    }

    pub(crate) fn place_of(&self, name: &str) -> Option<u32> {
        let place = self.tables.iter().position(|table| table.name == name)?;
        u32::try_from(place).ok()
    }

    pub(crate) fn table(&self, place: u32) -> Option<&Table> {
        self.tables.get(usize::try_from(place).ok()?)
    }

    /// Reads what is at `place`: the tables that have its column, or, where it has none, every table.
    pub(crate) async fn read(client: &impl GenericClient, place: &Place) -> Result<Self, Fault> {
        let (schema, column) = (&place.schema, &place.column);
        let mut tables: BTreeMap<String, Table> = BTreeMap::new();
        for row in client.query(COLUMNS, &[schema, column]).await? {
            let name: String = row.get(0);
            let table = tables.entry(name.clone()).or_insert_with(|| Table {
                name,
                tenant: None,
                columns: Vec::new(),
                primary: Vec::new(),
                key: Vec::new(),
                uniques: Vec::new(),
                foreign_keys: Vec::new(),
                replica_identity: row.get::<_, String>(6).chars().next().unwrap_or('d'),
                unlogged: row.get(7),
                inherits: row.get(8),
            });
            let found = Column {
                name: row.get(1),
                type_name: row.get(2),
                generated: row.get(3),
                unmovable: row.get(4),
                like: row.get(5),
                collation: row.get(9),
                always: row.get(10),
            };
            if Some(&found.name) == column.as_ref() {
                table.tenant = Some(found);
            } else {
                table.columns.push(found);
            }
        }
        for row in client.query(UNIQUES, &[schema]).await? {
            let Some(table) = tables.get_mut(row.get::<_, &str>(0)) else { continue };
            let columns: Vec<String> = row.get(3);
            if row.get(2) {
                table.primary.clone_from(&columns);
                table.key = columns.iter().filter(|name| Some(*name) != column.as_ref()).cloned().collect();
            }
            table.uniques.push(Unique { name: row.get(1), columns, constant: row.get(4) });
        }
        for row in client.query(FOREIGN_KEYS, &[schema]).await? {
            let Some(table) = tables.get_mut(row.get::<_, &str>(0)) else { continue };
            let (own, others): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
            let pairs = own.into_iter().zip(others).collect();
            table.foreign_keys.push(ForeignKey { name: row.get(1), to: row.get(2), pairs });
        }
        let sequences = client.query(SEQUENCES, &[schema, column]).await?;
        Ok(Self {
            place: place.clone(),
            tables: tables.into_values().collect(),
            sequences: sequences.iter().map(|row| Sequence { of: row.get(0), name: row.get(1) }).collect(),
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
   AND ($2::text IS NULL
        OR EXISTS (SELECT 1 FROM pg_attribute w WHERE w.attrelid = c.oid AND w.attname = $2 AND NOT w.attisdropped))
 ORDER BY c.relname::text COLLATE \"C\", a.attname::text COLLATE \"C\"";

const UNIQUES: &str = "
SELECT c.relname::text, x.relname::text, i.indisprimary,
       ARRAY(SELECT coalesce(a.attname::text, '(expression)')
               FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, at)
               LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num AND k.num > 0
              WHERE k.at <= i.indnkeyatts ORDER BY k.at),
       i.indnkeyatts = 1 AND i.indpred IS NULL AND coalesce(pg_get_expr(i.indexprs, i.indrelid), '') = 'true'
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indrelid
  JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE i.indisunique ORDER BY 1, 3 DESC, 2";

const FOREIGN_KEYS: &str = "
SELECT c.relname::text, f.conname::text,
       CASE WHEN o.relnamespace = c.relnamespace THEN o.relname::text
            ELSE format('%I.%I', (SELECT e.nspname FROM pg_namespace e WHERE e.oid = o.relnamespace), o.relname) END,
       ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY AS k(num, at)
               JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.num ORDER BY k.at),
       ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY AS k(num, at)
               JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.num ORDER BY k.at)
  FROM pg_constraint f
  JOIN pg_class c ON c.oid = f.conrelid
  JOIN pg_class o ON o.oid = f.confrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE f.contype = 'f' AND f.conparentid = 0 ORDER BY 1, 2";

/// Those that columns of the tables take their values from, and, where every table of the schema is the tenant's, the others
/// in it.
const SEQUENCES: &str = "
SELECT DISTINCT format('%s.%s', c.relname, a.attname), format('%I.%I', sn.nspname, s.relname)
  FROM pg_depend d
  JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_namespace sn ON sn.oid = s.relnamespace
  JOIN pg_class c ON c.oid = d.refobjid
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
   AND ($2::text IS NULL
        OR EXISTS (SELECT 1 FROM pg_attribute w WHERE w.attrelid = c.oid AND w.attname = $2 AND NOT w.attisdropped))
UNION
SELECT format('.%s', s.relname), format('%I.%I', sn.nspname, s.relname)
  FROM pg_class s
  JOIN pg_namespace sn ON sn.oid = s.relnamespace AND sn.nspname = $1
 WHERE $2::text IS NULL AND s.relkind = 'S'
   AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = s.oid AND d.classid = 'pg_class'::regclass
                      AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))
 ORDER BY 1, 2";
