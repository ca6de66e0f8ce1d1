//! A schema of the tenant's own: made as the template is, and dropped with nothing but what belongs to the tenant.
//!
//! Everything is read from the catalogue while names are looked for in the template, so that what is in it is written
//! without a schema, and said again while names are looked for in the new one. What cannot be carried so (views, functions,
//! types, policies) is found before anything is made.

mod objects;

use tokio_postgres::error::SqlState;
use tokio_postgres::{GenericClient, Transaction};

pub(crate) use objects::strange;

use super::catalogue::Catalogue;
use super::fault::Fault;
use super::install;
use super::layout::Place;
use super::sql::ident;
use crate::refusal::Refusal;

/// One statement after another, each the answer to a question about `$1`, the template, for `$2`, the new schema. Names in
/// the answers are without a schema where they are the template's.
const STEPS: [&str; 12] = [
    SEQUENCES,
    TABLES,
    PARTITIONS,
    OPTIONS,
    DEFAULTS,
    OWNED,
    FOREIGN_KEYS,
    IDENTITIES,
    TRIGGERS,
    FIRING,
    GRANTS,
    OWNERS,
];

/// Whether there is such a schema.
pub(crate) async fn exists(client: &impl GenericClient, schema: &str) -> Result<bool, Fault> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)";
    Ok(client.query_one(sql, &[&schema]).await?.get(0))
}

/// Makes `place` as the template is, guarded and published. It is there with the transaction's end, or not at all.
pub(crate) async fn make(
    transaction: &Transaction<'_>,
    template: &Place,
    place: &Place,
    tenant: &str,
) -> Result<Catalogue, Refusal> {
    let pattern = Catalogue::read(transaction, template).await?;
    let unfit = |reason: String| Refusal::new("TABLES_UNFIT", format!("template {}: {reason}", template.schema));
    let mut findings = super::check::tables(&pattern);
    findings.extend(strange(transaction, &template.schema).await?);
    if let Some(finding) = findings.into_iter().next() {
        return Err(unfit(format!("{}: {}", finding.code, finding.reason)));
    }
    let schema = ident(&place.schema);
    let created = transaction.batch_execute(&format!("CREATE SCHEMA {schema}")).await;
    created.map_err(|error| match error.code() {
        Some(code) if *code == SqlState::DUPLICATE_SCHEMA => present(&place.schema),
        _ => error.into(),
    })?;
    for step in STEPS {
        look_in(transaction, &ident(&template.schema)).await?;
        let rows = transaction.query(step, &[&template.schema, &place.schema]).await?;
        let statements: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        if !statements.is_empty() {
            look_in(transaction, &schema).await?;
            transaction.batch_execute(&statements.join(";\n")).await?;
        }
    }
    look_in(transaction, "pg_catalog").await?;
    let made = Catalogue::read(transaction, place).await?;
    if made.lines() != pattern.lines() {
        let difference = cell_client::tables_differ(&pattern.lines(), &made.lines()).unwrap_or_default();
        return Err(unfit(format!("a schema that was made as it is came out otherwise: {difference}")));
    }
    install::guard_in(transaction, &made, tenant).await?;
    Ok(made)
}

/// Where names without a schema are looked for, until the transaction's end or the next time.
async fn look_in(transaction: &Transaction<'_>, path: &str) -> Result<(), Fault> {
    transaction.execute("SELECT set_config('search_path', $1, true)", &[&path]).await?;
    Ok(())
}

pub(crate) fn present(schema: &str) -> Refusal {
    let reason = format!(
        "schema {schema} is there already, and no copy has made it: DROP SCHEMA {}, if nobody needs what is in it",
        ident(schema)
    );
    Refusal::new("SCHEMA_PRESENT", reason)
}

/// Drops the tenant's tables and sequences, and then the schema if nothing else is in it: what somebody else has put there,
/// or built upon it from outside, is never taken along.
pub(crate) async fn drop(transaction: &Transaction<'_>, place: &Place) -> Result<(), Refusal> {
    for question in [ROOTS, LOOSE] {
        let rows = transaction.query(question, &[&place.schema]).await?;
        if let Some(statement) = rows.first().and_then(|row| row.get::<_, Option<String>>(0)) {
            transaction.batch_execute(&statement).await.map_err(|error| in_use(&place.schema, error))?;
        }
    }
    let last = format!("DROP SCHEMA IF EXISTS {}", ident(&place.schema));
    transaction.batch_execute(&last).await.map_err(|error| in_use(&place.schema, error))
}

fn in_use(schema: &str, error: tokio_postgres::Error) -> Refusal {
    if error.code() != Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) {
        return error.into();
    }
    let what = error.as_db_error().and_then(|error| error.detail()).unwrap_or_default().to_owned();
    let reason = format!(
        "schema {schema} cannot be dropped, something that is not the tenant's depends on it ({what}): drop that, or put it elsewhere"
    );
    Refusal::new("SCHEMA_IN_USE", reason)
}

/// `DROP TABLE` of all at once: keys among them are in nobody's way. One that the agent has never looked at, so that it has no
/// trigger of ours, is in no copy: it stays, and the schema with it.
const ROOTS: &str = "
SELECT 'DROP TABLE ' || string_agg(format('%I.%I', $1::text, c.relname), ', ')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'cellway_guard')";

const LOOSE: &str = "
SELECT 'DROP SEQUENCE ' || string_agg(format('%I.%I', $1::text, c.relname), ', ')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE c.relkind = 'S'";

/// Those of identities come with their columns.
const SEQUENCES: &str = "
SELECT format('CREATE SEQUENCE %I.%I AS %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s %s',
              $2::text, c.relname, format_type(s.seqtypid, NULL), s.seqincrement, s.seqmin, s.seqmax, s.seqstart,
              s.seqcache, CASE WHEN s.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END)
  FROM pg_sequence s
  JOIN pg_class c ON c.oid = s.seqrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                      AND d.deptype = 'i')
 ORDER BY c.relname";

const TABLES: &str = "
SELECT format('CREATE TABLE %I.%I (LIKE %I.%I INCLUDING ALL)%s', $2::text, c.relname, $1::text, c.relname,
              CASE WHEN c.relkind = 'p' THEN ' PARTITION BY ' || pg_get_partkeydef(c.oid) ELSE '' END)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY c.relname";

/// Each after what it is a part of.
const PARTITIONS: &str = "
SELECT format('CREATE TABLE %I.%I PARTITION OF %I.%I %s%s', $2::text, c.relname, $2::text, o.relname,
              pg_get_expr(c.relpartbound, c.oid),
              CASE WHEN c.relkind = 'p' THEN ' PARTITION BY ' || pg_get_partkeydef(c.oid) ELSE '' END)
  FROM pg_class r
  JOIN pg_namespace n ON n.oid = r.relnamespace AND n.nspname = $1
  CROSS JOIN LATERAL pg_partition_tree(r.oid) t
  JOIN pg_class c ON c.oid = t.relid
  JOIN pg_class o ON o.oid = t.parentrelid
 WHERE r.relkind = 'p' AND NOT r.relispartition ORDER BY t.level, c.relname";

const OPTIONS: &str = "
SELECT format('ALTER TABLE %I.%I SET (%s)', $2::text, c.relname, array_to_string(c.reloptions, ', '))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE c.relkind = 'r' AND c.reloptions IS NOT NULL ORDER BY c.relname";

/// Once more, though they were copied: those that take the next value of a sequence would take it from the template's.
const DEFAULTS: &str = "
SELECT format('ALTER TABLE %I.%I ALTER COLUMN %I SET DEFAULT %s', $2::text, c.relname, a.attname,
              pg_get_expr(d.adbin, d.adrelid))
  FROM pg_attrdef d
  JOIN pg_class c ON c.oid = d.adrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.adnum
 WHERE a.attgenerated = '' AND NOT c.relispartition ORDER BY c.relname, a.attnum";

const OWNED: &str = "
SELECT format('ALTER SEQUENCE %I.%I OWNED BY %I.%I.%I', $2::text, s.relname, $2::text, c.relname, a.attname)
  FROM pg_depend d
  JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_namespace n ON n.oid = s.relnamespace AND n.nspname = $1
  JOIN pg_class c ON c.oid = d.refobjid
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'a'
 ORDER BY s.relname";

/// Those of partitions come with what they are parts of.
const FOREIGN_KEYS: &str = "
SELECT format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', $2::text, c.relname, f.conname, pg_get_constraintdef(f.oid))
  FROM pg_constraint f
  JOIN pg_class c ON c.oid = f.conrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE f.contype = 'f' AND f.conparentid = 0 ORDER BY c.relname, f.conname";

const IDENTITIES: &str = "
SELECT format('ALTER TABLE %I.%I REPLICA IDENTITY FULL', $2::text, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE c.relkind IN ('r', 'p') AND c.relreplident = 'f' ORDER BY c.relname";

/// The application's. Cellway's own are put there for the tenant.
const TRIGGERS: &str = "
SELECT pg_get_triggerdef(t.oid, true)
  FROM pg_trigger t
  JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
  JOIN pg_proc p ON p.oid = t.tgfoid
 WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND p.pronamespace <> 'cellway'::regnamespace
   AND $2::text IS NOT NULL
 ORDER BY c.relname, t.tgname";

/// When they fire, where it is not as usual.
const FIRING: &str = "
SELECT format('ALTER TABLE %I.%I %s TRIGGER %I', $2::text, c.relname,
              CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE REPLICA' END, t.tgname)
  FROM pg_trigger t
  JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
  JOIN pg_proc p ON p.oid = t.tgfoid
 WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled <> 'O'
   AND p.pronamespace <> 'cellway'::regnamespace
 ORDER BY c.relname, t.tgname";

/// Rights on the schema, its tables and its sequences, as somebody gave them.
const GRANTS: &str = "
SELECT format('GRANT %s ON %s TO %s%s', g.privilege_type, g.what,
              CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
              CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
  FROM (SELECT format('SCHEMA %I', $2::text) AS what, a.*, n.nspowner AS owner
          FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = $1
        UNION ALL
        SELECT format('%s %I.%I', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, $2::text, c.relname),
               a.*, c.relowner
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1, aclexplode(c.relacl) a
         WHERE c.relkind IN ('r', 'p')
            OR c.relkind = 'S' AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                                                  AND d.objid = c.oid AND d.deptype = 'i')) g
 WHERE g.grantee <> g.owner ORDER BY 1";

/// Last: whoever is not the owner any more may change nothing. Sequences of columns go with their tables.
const OWNERS: &str = "
SELECT said FROM (
  SELECT 1 AS place, format('ALTER TABLE %I.%I OWNER TO %I', $2::text, c.relname, pg_get_userbyid(c.relowner)) AS said
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
   WHERE c.relkind IN ('r', 'p') AND pg_get_userbyid(c.relowner) <> current_user
  UNION ALL
  SELECT 2, format('ALTER SEQUENCE %I.%I OWNER TO %I', $2::text, c.relname, pg_get_userbyid(c.relowner))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
   WHERE c.relkind = 'S' AND pg_get_userbyid(c.relowner) <> current_user
     AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                        AND d.deptype IN ('a', 'i'))
  UNION ALL
  SELECT 0, format('GRANT CREATE, USAGE ON SCHEMA %I TO %I', $2::text, o.owner)
    FROM (SELECT DISTINCT pg_get_userbyid(c.relowner) AS owner FROM pg_class c
            JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
           WHERE c.relkind IN ('r', 'p', 'S') AND pg_get_userbyid(c.relowner) <> current_user) o
  UNION ALL
  SELECT 3, format('ALTER SCHEMA %I OWNER TO %I', $2::text, pg_get_userbyid(n.nspowner))
    FROM pg_namespace n WHERE n.nspname = $1 AND pg_get_userbyid(n.nspowner) <> current_user) s
 ORDER BY place, said";
