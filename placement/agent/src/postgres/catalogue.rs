//! The tenants' tables, as the database's catalogue describes them.

use std::collections::BTreeMap;

use tokio_postgres::GenericClient;
use tokio_postgres::types::ToSql;

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

/// A unique index, a primary key or an exclusion constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unique {
    pub(crate) name: String,
    /// With its operator, where that is not equality.
    pub(crate) columns: Vec<String>,
    /// Its only key is `true`: the table has one row at the most.
    pub(crate) constant: bool,
    /// Rows exclude each other by operators.
    pub(crate) excludes: bool,
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignKey {
    pub(crate) name: String,
    /// The other table: by its name alone where it is in the same schema.
    pub(crate) to: String,
    /// Own column, the other's column.
    pub(crate) pairs: Vec<(String, String)>,
    /// What it does beside, where that is not nothing: `on delete cascade`.
    pub(crate) does: String,
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
    /// What the columns of a row have to be like, but for what is said of the tenant's.
    pub(crate) checks: Vec<String>,
    /// `pg_class.relreplident`.
    pub(crate) replica_identity: char,
    /// The statement without which the log could not say which row is updated or deleted: the server refuses that, to
    /// everybody, as soon as the table is published.
    pub(crate) unidentified: Option<String>,
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
    /// It is in another schema than the table.
    pub(crate) is_outside: bool,
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
            let columns = unique.columns.iter().filter(is_own).map(String::as_str).collect::<Vec<_>>().join("+");
            if unique.excludes { format!("excluding {columns}") } else { columns }
        };
        let leads = |key: &ForeignKey| -> Option<String> {
            let pairs = key.pairs.iter().filter(|(own, _)| is_own(&own));
            let pairs: Vec<String> = pairs.map(|(own, other)| format!("{own}→{other}")).collect();
            let does = if key.does.is_empty() { String::new() } else { format!(" {}", key.does) };
            // By whose it is alone: where tables are the tenant's own there is nothing that it could lead to.
            (!pairs.is_empty()).then(|| format!("{}({}){does}", key.to, pairs.join(", ")))
        };
        let uniques = sorted(self.uniques.iter().map(own));
        let (columns, key, uniques) = (columns.join(", "), self.key.join("+"), uniques.join(", "));
        let mut line = format!("{}: {columns}; key {key}; unique {uniques}", self.name);
        for (what, said) in [
            ("leads to", sorted(self.foreign_keys.iter().filter_map(leads))),
            ("check", sorted(self.checks.iter().map(|check| bare(check)))),
        ] {
            if !said.is_empty() {
                line = format!("{line}; {what} {}", said.join(", "));
            }
        }
        line
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
        let column = &place.column;
        // All at once: a move asks within its hold.
        let of: [&(dyn ToSql + Sync); 2] = [&place.schema, column];
        let (columns, uniques, foreign_keys, checks, unidentified, sequences) = tokio::try_join!(
            client.query(COLUMNS, &of),
            client.query(UNIQUES, &of[..1]),
            client.query(FOREIGN_KEYS, &of[..1]),
            client.query(CHECKS, &of),
            client.query(UNIDENTIFIED, &of[..1]),
            client.query(SEQUENCES, &of),
        )?;
        let mut tables: BTreeMap<String, Table> = BTreeMap::new();
        for row in columns {
            let name: String = row.get(0);
            let table = tables.entry(name.clone()).or_insert_with(|| Table {
                name,
                tenant: None,
                columns: Vec::new(),
                primary: Vec::new(),
                key: Vec::new(),
                uniques: Vec::new(),
                foreign_keys: Vec::new(),
                checks: Vec::new(),
                unidentified: None,
                replica_identity: row.get::<_, String>(6).chars().next().unwrap_or('d'),
                unlogged: row.get(7),
                inherits: row.get(8),
            });
            let found = Column {
                name: row.get(1),
                type_name: row.get(2),
                generated: row.get(3),
                unmovable: row.get(4),
                like: like(row.get(5), row.get(11), row.get(12)),
                collation: row.get(9),
                always: row.get(10),
            };
            if Some(&found.name) == column.as_ref() {
                table.tenant = Some(found);
            } else {
                table.columns.push(found);
            }
        }
        for row in uniques {
            let Some(table) = tables.get_mut(row.get::<_, &str>(0)) else { continue };
            let columns: Vec<String> = row.get(3);
            if row.get(2) {
                table.primary.clone_from(&columns);
                table.key = columns.iter().filter(|name| Some(*name) != column.as_ref()).cloned().collect();
            }
            table.uniques.push(Unique { name: row.get(1), columns, constant: row.get(4), excludes: row.get(5) });
        }
        for row in foreign_keys {
            let Some(table) = tables.get_mut(row.get::<_, &str>(0)) else { continue };
            let (own, others): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
            let pairs = own.into_iter().zip(others).collect();
            table.foreign_keys.push(ForeignKey { name: row.get(1), to: row.get(2), pairs, does: row.get(5) });
        }
        for row in checks {
            let Some(table) = tables.get_mut(row.get::<_, &str>(0)) else { continue };
            table.checks.push(row.get(1));
        }
        for row in unidentified {
            let Some(table) = tables.get_mut(row.get::<_, &str>(0)) else { continue };
            table.unidentified = Some(row.get(1));
        }
        Ok(Self {
            place: place.clone(),
            tables: tables.into_values().collect(),
            sequences: sequences
                .iter()
                .map(|row| Sequence { of: row.get(0), name: row.get(1), is_outside: row.get(2) })
                .collect(),
        })
    }
}

fn sorted(said: impl Iterator<Item = String>) -> Vec<String> {
    let mut said: Vec<String> = said.collect();
    said.sort_unstable();
    said
}

/// What a column is like: its type and so on, and where its values come from if nobody gives any.
fn like(of: String, from: Option<&str>, expression: Option<&str>) -> String {
    [Some(of), from.map(str::to_owned), expression.map(bare)].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// An expression as it comes out of any server. One with `character varying` is written with other casts and parentheses by a
/// database that was restored from a dump than by the one that was dumped.
fn bare(expression: &str) -> String {
    const VARYING: [&str; 6] = ["::character varying[]", "::character varying", "::text[]", "::text", "(", ")"];
    if !expression.contains(VARYING[1]) {
        return expression.to_owned();
    }
    VARYING.iter().fold(expression.to_owned(), |said, part| said.replace(part, ""))
}

/// Partitions are reached through the table that they are parts of.
const COLUMNS: &str = "
SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attgenerated <> '',
       CASE WHEN base.typtype = 'c' THEN 'a composite type'
            WHEN base.typtype = 'p' THEN 'a pseudo type'
            WHEN ns.nspname = 'pg_catalog' AND (base.typname = 'oid' OR base.typname LIKE 'reg%'
                 OR base.typcategory = 'A' AND (el.typname = 'oid' OR el.typname LIKE 'reg%'))
                THEN 'its values are object numbers'
            WHEN base.typcategory = 'A' AND base.typelem <> 0 AND ens.nspname <> 'pg_catalog'
                THEN 'an array of a type of this database'
            WHEN base.typsend = 0 THEN 'its type has no binary form' END,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod),
                 CASE WHEN a.attnotnull THEN 'not null' END,
                 CASE WHEN co.collname IS NOT NULL AND co.collname <> 'default' THEN co.collname END,
                 CASE WHEN co.collname = 'default' THEN db.datcollate || ' ' || coalesce(db.datcollversion, '') END,
                 (SELECT string_agg(e.enumlabel, '|' ORDER BY e.enumsortorder) FROM pg_enum e
                   WHERE e.enumtypid = base.oid)),
       c.relreplident::text, c.relpersistence = 'u',
       EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhrelid = c.oid OR (i.inhparent = c.oid AND c.relkind = 'r')),
       CASE WHEN co.collname <> 'default' THEN format('%I.%I', cn.nspname, co.collname) END,
       a.attidentity = 'a',
       CASE WHEN v.is_drawn THEN 'from a sequence'
            WHEN a.attgenerated <> '' AND v.is_of_tenant THEN 'generated with the tenant'
            WHEN a.attgenerated <> '' THEN 'generated as'
            WHEN def.oid IS NOT NULL THEN 'default' END,
       CASE WHEN NOT v.is_drawn AND NOT v.is_of_tenant THEN pg_get_expr(def.adbin, def.adrelid) END
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
  LEFT JOIN pg_attrdef def ON def.adrelid = c.oid AND def.adnum = a.attnum
 CROSS JOIN LATERAL (
       SELECT a.attidentity <> '' OR coalesce(pg_get_expr(def.adbin, def.adrelid), '') LIKE '%nextval(%' AS is_drawn,
              EXISTS (SELECT 1 FROM pg_depend p
                        JOIN pg_attribute w ON w.attrelid = c.oid AND w.attnum = p.refobjsubid AND w.attname = $2::text
                       WHERE p.refclassid = 'pg_class'::regclass AND p.refobjid = c.oid
                         AND (p.classid = 'pg_attrdef'::regclass AND p.objid = def.oid
                              OR p.classid = 'pg_class'::regclass AND p.objid = c.oid AND p.objsubid = a.attnum))
              AS is_of_tenant) v
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND ($2::text IS NULL
        OR EXISTS (SELECT 1 FROM pg_attribute w WHERE w.attrelid = c.oid AND w.attname = $2 AND NOT w.attisdropped))
 ORDER BY c.relname::text COLLATE \"C\", a.attname::text COLLATE \"C\"";

const UNIQUES: &str = "
SELECT c.relname::text, x.relname::text, i.indisprimary,
       ARRAY(SELECT coalesce(a.attname::text, '(expression)')
                    || CASE WHEN o.oprname <> '=' THEN ' ' || o.oprname ELSE '' END
               FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, at)
               LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num AND k.num > 0
               LEFT JOIN pg_operator o ON o.oid = e.conexclop[k.at]
              WHERE k.at <= i.indnkeyatts ORDER BY k.at),
       i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL
           AND coalesce(pg_get_expr(i.indexprs, i.indrelid), '') = 'true',
       NOT i.indisunique
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indrelid
  JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
  LEFT JOIN pg_constraint e ON e.conindid = i.indexrelid AND e.contype = 'x'
 WHERE i.indisunique OR i.indisexclusion ORDER BY 1, 3 DESC, 2";

/// As the server judges it: by the table and by each of its partitions. A primary key that is checked late identifies no row.
const UNIDENTIFIED: &str = "
SELECT c.relname::text,
       string_agg(format('ALTER TABLE %I.%I REPLICA IDENTITY %s', rn.nspname, r.relname,
                         CASE WHEN k.has_primary THEN 'DEFAULT' ELSE 'FULL' END), '; ' ORDER BY r.relname)
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 CROSS JOIN LATERAL (SELECT c.oid UNION SELECT t.relid::oid FROM pg_partition_tree(c.oid) t) part
  JOIN pg_class r ON r.oid = part.oid
  JOIN pg_namespace rn ON rn.oid = r.relnamespace
 CROSS JOIN LATERAL (
       SELECT coalesce(bool_or(i.indisprimary), false) AS has_primary,
              coalesce(bool_or(i.indisreplident), false) AS has_chosen
         FROM pg_index i
        WHERE i.indrelid = r.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL) k
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND CASE r.relreplident WHEN 'f' THEN false WHEN 'd' THEN NOT k.has_primary
                           WHEN 'i' THEN NOT (k.has_chosen AND r.oid = c.oid) ELSE true END
 GROUP BY 1";

/// In shared tables without those that look at the tenant: a table of the tenant's own has none to look at.
const CHECKS: &str = "
SELECT c.relname::text, pg_get_expr(k.conbin, k.conrelid)
  FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE k.contype = 'c'
   AND NOT EXISTS (SELECT 1 FROM pg_attribute w
                    WHERE w.attrelid = c.oid AND w.attnum = ANY (k.conkey) AND w.attname = $2::text)
 ORDER BY 1, 2";

const FOREIGN_KEYS: &str = "
SELECT c.relname::text, f.conname::text,
       CASE WHEN o.relnamespace = c.relnamespace THEN o.relname::text
            ELSE format('%I.%I', (SELECT e.nspname FROM pg_namespace e WHERE e.oid = o.relnamespace), o.relname) END,
       ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY AS k(num, at)
               JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.num ORDER BY k.at),
       ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY AS k(num, at)
               JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.num ORDER BY k.at),
       concat_ws(' ', 'on delete ' || CASE f.confdeltype WHEN 'r' THEN 'restrict' WHEN 'c' THEN 'cascade'
                                                         WHEN 'n' THEN 'set null' WHEN 'd' THEN 'set default' END,
                 'on update ' || CASE f.confupdtype WHEN 'r' THEN 'restrict' WHEN 'c' THEN 'cascade'
                                                    WHEN 'n' THEN 'set null' WHEN 'd' THEN 'set default' END,
                 CASE WHEN f.confmatchtype = 'f' THEN 'match full' END,
                 CASE WHEN f.condeferred THEN 'initially deferred' WHEN f.condeferrable THEN 'deferrable' END)
  FROM pg_constraint f
  JOIN pg_class c ON c.oid = f.conrelid
  JOIN pg_class o ON o.oid = f.confrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE f.contype = 'f' AND f.conparentid = 0 ORDER BY 1, 2";

/// Those that columns of the tables take their values from, by owning them or by a default that names them, and, where every
/// table of the schema is the tenant's, the others in it.
const SEQUENCES: &str = "
WITH drawn AS (
  SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid::int AS num
    FROM pg_depend d
   WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
  UNION
  SELECT d.refobjid, r.attrelid, r.attnum
    FROM pg_attrdef f
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
                    AND d.refclassid = 'pg_class'::regclass
    JOIN pg_attribute p ON p.attrelid = f.adrelid AND p.attnum = f.adnum
    JOIN pg_attribute r ON r.attrelid = coalesce(pg_partition_root(f.adrelid), f.adrelid) AND r.attname = p.attname
)
SELECT DISTINCT format('%s.%s', c.relname, a.attname), format('%I.%I', sn.nspname, s.relname),
       s.relnamespace <> c.relnamespace
  FROM drawn d
  JOIN pg_class s ON s.oid = d.sequence AND s.relkind = 'S'
  JOIN pg_namespace sn ON sn.oid = s.relnamespace
  JOIN pg_class c ON c.oid = d.relation
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.num
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE $2::text IS NULL
    OR EXISTS (SELECT 1 FROM pg_attribute w WHERE w.attrelid = c.oid AND w.attname = $2 AND NOT w.attisdropped)
UNION
SELECT format('.%s', s.relname), format('%I.%I', sn.nspname, s.relname), false
  FROM pg_class s
  JOIN pg_namespace sn ON sn.oid = s.relnamespace AND sn.nspname = $1
 WHERE $2::text IS NULL AND s.relkind = 'S'
   AND NOT EXISTS (SELECT 1 FROM drawn d JOIN pg_class c ON c.oid = d.relation AND c.relnamespace = s.relnamespace
                    WHERE d.sequence = s.oid)
 ORDER BY 1, 2";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_the_same_before_and_after_a_dump() {
        let made = "((x)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[]))";
        let restored = "((x)::text = ANY (ARRAY[('a'::character varying)::text, ('b'::character varying)::text]))";
        assert_eq!(bare(made), bare(restored));
        assert_ne!(bare(made), bare(&made.replace("'b'", "'c'")));
        assert_eq!(bare("((a + b) * 2)"), "((a + b) * 2)", "elsewhere parentheses mean something");
    }
}
