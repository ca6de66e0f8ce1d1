//! What the application says to its database: where tenants share tables, each statement names the tenant first; where each has
//! a schema of its own, the transaction looks for names there, and nobody is named.

use tokio_postgres::types::ToSql;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statements {
    names_tenant: bool,
    /// Begins a transaction that writes,
    pub(super) enter: &'static str,
    /// and one that reads.
    pub(super) look: &'static str,
    pub(super) document: &'static str,
    pub(super) counter: &'static str,
    pub(super) page: &'static str,
    pub(super) next_version: &'static str,
    pub(super) recall: &'static str,
    pub(super) remember: &'static str,
    pub(super) forget: &'static str,
    pub(super) delete: &'static str,
    pub(super) count: &'static str,
    pub(super) put: &'static str,
}

impl Statements {
    /// Values with the tenant first, as these statements take them.
    pub(super) fn values<'v>(&self, values: &'v [&'v (dyn ToSql + Sync)]) -> &'v [&'v (dyn ToSql + Sync)] {
        if self.names_tenant { values } else { values.get(1..).unwrap_or_default() }
    }
}

pub(super) const SHARED: Statements = Statements {
    names_tenant: true,
    enter: "SELECT cellway.enter($1, $2, $3)",
    look: "SELECT cellway.look($1, $2, $3)",
    document: "SELECT version, body FROM documents WHERE tenant_id = $1 AND id = $2",
    counter: "SELECT value FROM counters WHERE tenant_id = $1 AND name = $2",
    page: "SELECT id, version, body FROM documents WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
    next_version: "INSERT INTO tallies VALUES ($1, 1) \
                   ON CONFLICT (tenant_id) DO UPDATE SET version = tallies.version + 1 RETURNING version",
    recall: "SELECT fingerprint, answer FROM answers WHERE tenant_id = $1 AND key = $2",
    remember: "INSERT INTO answers (tenant_id, key, fingerprint, version, answer) VALUES ($1, $2, $3, $4, $5)",
    forget: "DELETE FROM answers WHERE tenant_id = $1 AND key IN (SELECT key FROM answers \
             WHERE tenant_id = $1 AND (version <= $2 OR made_at < now() - $3 * interval '1 ms') \
             ORDER BY version LIMIT 2)",
    delete: "DELETE FROM documents WHERE tenant_id = $1 AND id = $2",
    count: "INSERT INTO counters VALUES ($1, $2, $3) \
            ON CONFLICT (tenant_id, name) DO UPDATE SET value = excluded.value",
    put: "INSERT INTO documents VALUES ($1, $2, $3, $4) ON CONFLICT (tenant_id, id) \
          DO UPDATE SET version = excluded.version, body = excluded.body",
};

pub(super) const OWN: Statements = Statements {
    names_tenant: false,
    enter: "SELECT cellway.enter($1, $2, $3), set_config('search_path', quote_ident(cellway.schema_of($1)), true)",
    look: "SELECT cellway.look($1, $2, $3), set_config('search_path', quote_ident(cellway.schema_of($1)), true)",
    document: "SELECT version, body FROM documents WHERE id = $1",
    counter: "SELECT value FROM counters WHERE name = $1",
    page: "SELECT id, version, body FROM documents WHERE id > $1 ORDER BY id LIMIT $2",
    next_version: "INSERT INTO tallies VALUES (1) \
                   ON CONFLICT ((true)) DO UPDATE SET version = tallies.version + 1 RETURNING version",
    recall: "SELECT fingerprint, answer FROM answers WHERE key = $1",
    remember: "INSERT INTO answers (key, fingerprint, version, answer) VALUES ($1, $2, $3, $4)",
    forget: "DELETE FROM answers WHERE key IN (SELECT key FROM answers \
             WHERE version <= $1 OR made_at < now() - $2 * interval '1 ms' ORDER BY version LIMIT 2)",
    delete: "DELETE FROM documents WHERE id = $1",
    count: "INSERT INTO counters VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    put: "INSERT INTO documents VALUES ($1, $2, $3) ON CONFLICT (id) \
          DO UPDATE SET version = excluded.version, body = excluded.body",
};
