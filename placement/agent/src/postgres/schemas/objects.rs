//! What in a tenant's schema, or upon it, would not go along: found before a move, and before a schema is made as another.

use cell_protos::v1 as wire;
use tokio_postgres::GenericClient;

use crate::postgres::fault::Fault;

/// See the module. Nothing where everything is carried.
pub(crate) async fn strange(client: &impl GenericClient, schema: &str) -> Result<Vec<wire::Finding>, Fault> {
    let mut found = Vec::new();
    for row in client.query(WITHIN, &[&schema]).await? {
        let (what, mend): (String, String) = (row.get(0), row.get(1));
        let reason = format!("{what} would not go along with the tables of schema {schema}: {mend}");
        found.push(wire::Finding { code: "SCHEMA_OBJECT".into(), reason });
    }
    for row in client.query(UPON, &[&schema]).await? {
        let what: String = row.get(0);
        let reason = format!(
            "{what} is built upon a table of schema {schema} from outside, so the table cannot be dropped when the tenant \
             has gone: drop it, or build it anew elsewhere"
        );
        found.push(wire::Finding { code: "SCHEMA_REFERENCED".into(), reason });
    }
    Ok(found)
}

/// The object, and what mends it.
const WITHIN: &str = "
SELECT format('%s %I', CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                                      WHEN 'f' THEN 'foreign table' ELSE 'composite type' END, c.relname) AS what,
       'keep it in another schema'
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE c.relkind IN ('v', 'm', 'f', 'c')
UNION ALL
SELECT format('function %I', p.proname), 'keep it in a schema that all tenants share'
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = $1
UNION ALL
SELECT format('type %I', t.typname), 'keep it in a schema that all tenants share'
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace AND n.nspname = $1
 WHERE t.typtype IN ('d', 'e', 'r')
UNION ALL
SELECT format('the row-level security of table %I', c.relname),
       format('ALTER TABLE %I.%I DISABLE ROW LEVEL SECURITY, and drop its policies', $1::text, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE c.relrowsecurity OR EXISTS (SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid)
UNION ALL
SELECT format('rule %I of table %I', r.rulename, c.relname), 'say it by a trigger'
  FROM pg_rewrite r
  JOIN pg_class c ON c.oid = r.ev_class AND c.relkind IN ('r', 'p')
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
UNION ALL
SELECT format('the rights on single columns of table %I', c.relname), 'grant them on the whole table'
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE c.relkind IN ('r', 'p')
   AND EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL)
UNION ALL
SELECT format('partition %I of table %I', c.relname, o.relname), 'keep the parts of a table in its schema'
  FROM pg_inherits i
  JOIN pg_class o ON o.oid = i.inhparent
  JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
  JOIN pg_namespace n ON n.oid = o.relnamespace AND n.nspname = $1
 WHERE o.relkind = 'p' AND c.relnamespace <> o.relnamespace
 ORDER BY what LIMIT 100";

const UPON: &str = "
SELECT DISTINCT format('view %I.%I', vn.nspname, v.relname) AS what
  FROM pg_depend d
  JOIN pg_rewrite r ON r.oid = d.objid
  JOIN pg_class v ON v.oid = r.ev_class
  JOIN pg_namespace vn ON vn.oid = v.relnamespace
  JOIN pg_class c ON c.oid = d.refobjid
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND vn.nspname <> $1
UNION
SELECT format('foreign key %I of %I.%I', f.conname, cn.nspname, c.relname)
  FROM pg_constraint f
  JOIN pg_class c ON c.oid = f.conrelid
  JOIN pg_namespace cn ON cn.oid = c.relnamespace
  JOIN pg_class o ON o.oid = f.confrelid
  JOIN pg_namespace n ON n.oid = o.relnamespace AND n.nspname = $1
 WHERE f.contype = 'f' AND f.conparentid = 0 AND cn.nspname <> $1
 ORDER BY what LIMIT 100";
