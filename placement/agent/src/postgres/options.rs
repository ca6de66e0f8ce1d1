//! Where a cell's database is, and what of it is the tenants'.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::layout::{Layout, SLOT};
use crate::error::AgentError;

/// See the module.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseOptions {
    /// `postgres://user:password@host:port/database`, or `host=… user=…`. Of several hosts the first that answers. Over TLS
    /// with `sslmode`, `sslrootcert`, `sslcert` and `sslkey`, see [`DatabaseAddress`](super::DatabaseAddress).
    pub url: String,
    /// The schema with the tenants' tables.
    #[serde(default = "public")]
    pub schema: String,
    /// The column that says whose a row is. A table without it belongs to nobody and is not moved.
    #[serde(default = "tenant_id")]
    pub tenant_column: String,
    /// Where each tenant has a schema of its own: what it is called, with `{id}` in the tenant's place, as `tenant_{id}`.
    /// Then `schema` and `tenant_column` say nothing. Absent: tenants share tables.
    #[serde(default)]
    pub tenant_schema: Option<String>,
    /// The schema with empty tables as which a tenant's own schema is made.
    #[serde(default = "template_schema")]
    pub template_schema: String,
    /// Where each tenant has a database of its own on this server: what it is called, with `{id}` in the tenant's place, as
    /// `tenant_{id}`. Then `url` names the cell's own database, in which nobody's rows are, `schema` the schema with the tables in
    /// each tenant's, and `tenant_column` says nothing. Absent: all tenants are in the database that `url` names.
    #[serde(default)]
    pub tenant_database: Option<String>,
    /// The database without rows that a tenant's own is made as a copy of.
    #[serde(default = "template_database")]
    pub template_database: String,
    /// How many tenants may have a database here. Each costs a session of the server, also where nothing happens.
    #[serde(default = "tenant_databases_max")]
    pub tenant_databases_max: u32,
    /// Rows of one chunk of a copy, in bytes. The first ones are smaller.
    #[serde(default = "chunk_bytes")]
    pub chunk_bytes: u32,
    /// Log that the source may have to keep for slow copies before their moves are given up, in bytes.
    #[serde(default = "wal_bytes_max")]
    pub wal_bytes_max: u64,
    /// How long, in seconds, more than that may be kept though no copy lags, before every move is given up. A slot lets go of
    /// log only when the server writes down what runs, every 15 s.
    #[serde(default = "wal_grace_seconds")]
    pub wal_grace_seconds: u32,
    /// What a commit in this database may take, in milliseconds, while tenants are copied out of it: the copies are slowed
    /// down until it does. 0: they are not.
    #[serde(default = "source_latency_ms_max")]
    pub source_latency_ms_max: u32,
    /// The directory with the server's data, or another one on the same disk, as this agent sees it: what is free there is free for
    /// tenants that come. Absent: the server is elsewhere, or nobody minds.
    #[serde(default)]
    pub data_directory: Option<PathBuf>,
    /// How many bytes the databases of the server may take together, where that is known and the disk is not to be seen. 0: it is not.
    #[serde(default)]
    pub disk_bytes_max: u64,
    /// How many standbys have to have on their disks what gives or takes a tenant before it is answered for, and whatever else is
    /// streaming; at most 32. 0: none but those that the server's `synchronous_standby_names` waits for.
    #[serde(default)]
    pub standbys_confirm: u32,
    /// While what exists is adopted: writers that come without an epoch, for a tenant that this cell was never granted, are
    /// let in and noted, not refused.
    #[serde(default)]
    pub observe: bool,
}

fn public() -> String {
    "public".into()
}

fn tenant_id() -> String {
    "tenant_id".into()
}

fn template_schema() -> String {
    "cellway_template".into()
}

fn template_database() -> String {
    "cellway_template".into()
}

const fn tenant_databases_max() -> u32 {
    64
}

const fn chunk_bytes() -> u32 {
    8 * 1024 * 1024
}

const fn wal_grace_seconds() -> u32 {
    20
}

const fn source_latency_ms_max() -> u32 {
    100
}

const fn wal_bytes_max() -> u64 {
    4 * 1024 * 1024 * 1024
}

impl DatabaseOptions {
    /// Options with everything but the necessary left at its default.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            schema: public(),
            tenant_column: tenant_id(),
            tenant_schema: None,
            template_schema: template_schema(),
            tenant_database: None,
            template_database: template_database(),
            tenant_databases_max: tenant_databases_max(),
            chunk_bytes: chunk_bytes(),
            wal_bytes_max: wal_bytes_max(),
            wal_grace_seconds: wal_grace_seconds(),
            source_latency_ms_max: source_latency_ms_max(),
            data_directory: None,
            disk_bytes_max: 0,
            standbys_confirm: 0,
            observe: false,
        }
    }

    pub(crate) fn check(&self) -> Result<(), AgentError> {
        let invalid = |option, rule| Err(AgentError::InvalidOption { option, rule });
        let is_name = |name: &str| !name.is_empty() && name.len() < 64 && !name.contains('\0');
        let is_schema = |name: &str| is_name(name) && name != "cellway" && !name.starts_with("pg_");
        if !is_schema(&self.schema) {
            return invalid("database.schema", "the name of the schema with the tenants' tables");
        }
        if !is_name(&self.tenant_column) {
            return invalid("database.tenant_column", "the name of a column");
        }
        let is_pattern = |pattern: &str| {
            let parts: Vec<&str> = pattern.split(SLOT).collect();
            parts.len() == 2 && !parts.concat().is_empty() && is_schema(pattern) && !pattern.contains('"')
        };
        if let Some(pattern) = &self.tenant_schema {
            if !is_pattern(pattern) {
                return invalid(
                    "database.tenant_schema",
                    "the name of a tenant's schema with {id} in it once, beside other letters: tenant_{id}",
                );
            }
            if !is_schema(&self.template_schema) {
                return invalid(
                    "database.template_schema",
                    "the name of the schema that tenants' schemas are made as",
                );
            }
            let own = Layout::new(&Self { template_schema: String::new(), ..self.clone() });
            if own.tenant_of(&self.template_schema).is_some() {
                return invalid(
                    "database.template_schema",
                    "a name that no tenant's schema can have: another one than tenant_schema makes of a tenant",
                );
            }
        }
        if let Some(pattern) = &self.tenant_database {
            if !is_pattern(pattern) || self.tenant_schema.is_some() {
                return invalid(
                    "database.tenant_database",
                    "the name of a tenant's database with {id} in it once, beside other letters: tenant_{id}; and no tenant_schema \
                     beside it",
                );
            }
            if !is_name(&self.template_database) {
                return invalid(
                    "database.template_database",
                    "the name of the database that tenants' are copies of",
                );
            }
            let own = Layout::new(&Self { template_database: String::new(), ..self.clone() });
            if own.tenant_of_database(&self.template_database, "").is_some() {
                return invalid(
                    "database.template_database",
                    "a name that no tenant's database can have: another one than tenant_database makes of a tenant",
                );
            }
            if !(1..=1_000).contains(&self.tenant_databases_max) {
                return invalid("database.tenant_databases_max", "between 1 and 1,000");
            }
            if self.observe {
                return invalid(
                    "database.observe",
                    "not with tenant_database: a database that no tenant was granted in is not touched, and its writers \
                     write as ever",
                );
            }
        }
        if !(4_096..=16 * 1024 * 1024).contains(&self.chunk_bytes) {
            return invalid("database.chunk_bytes", "between 4 KiB and 16 MiB");
        }
        if self.wal_bytes_max < 64 * 1024 * 1024 {
            return invalid("database.wal_bytes_max", "at least 64 MiB");
        }
        if self.standbys_confirm > 32 {
            return invalid("database.standbys_confirm", "at most 32; 0: those that the server itself waits for");
        }
        if self.source_latency_ms_max > 10_000 {
            return invalid("database.source_latency_ms_max", "at most 10,000; 0: copies are not slowed down");
        }
        self.check_disk()
    }

    fn check_disk(&self) -> Result<(), AgentError> {
        let seen = self.data_directory.as_deref().map(super::disk::free_at);
        if seen.is_some_and(|free| free.is_err()) {
            return Err(AgentError::InvalidOption {
                option: "database.data_directory",
                rule: "a directory of this machine on the disk with the server's data, which the agent may look at",
            });
        }
        Ok(())
    }
}

// The address has a password in it.
impl std::fmt::Debug for DatabaseOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseOptions").field("schema", &self.schema).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_names_no_schema_of_one_tenant_is_refused() {
        let checked = |pattern: &str, template: &str| {
            let options = DatabaseOptions {
                tenant_schema: Some(pattern.into()),
                template_schema: template.into(),
                ..DatabaseOptions::new("postgres://u@h/d")
            };
            match options.check() {
                Ok(()) => "",
                Err(AgentError::InvalidOption { option, .. }) => option,
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(checked("tenant_{id}", "cellway_template"), "");
        assert_eq!(checked("{id}_rows", "cellway_template"), "");
        for pattern in ["tenant", "{id}", "", "{id}{id}", "t_{id}_{id}", "pg_{id}", "a\"{id}"] {
            assert_eq!(checked(pattern, "cellway_template"), "database.tenant_schema", "{pattern}");
        }
        for template in ["tenant_template", "tenant_a", "cellway", "", "pg_x"] {
            assert_eq!(checked("tenant_{id}", template), "database.template_schema", "{template}");
        }
    }

    #[test]
    fn a_pattern_that_names_no_database_of_one_tenant_is_refused() {
        let checked = |change: &dyn Fn(&mut DatabaseOptions)| {
            let mut options = DatabaseOptions::new("postgres://u@h/d");
            options.tenant_database = Some("tenant_{id}".into());
            change(&mut options);
            match options.check() {
                Ok(()) => "",
                Err(AgentError::InvalidOption { option, .. }) => option,
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(checked(&|_| {}), "");
        for pattern in ["tenant", "{id}", "", "{id}{id}", "pg_{id}", "a\"{id}"] {
            let named = |options: &mut DatabaseOptions| options.tenant_database = Some(pattern.into());
            assert_eq!(checked(&named), "database.tenant_database", "{pattern}");
        }
        let both = |options: &mut DatabaseOptions| options.tenant_schema = Some("t_{id}".into());
        assert_eq!(checked(&both), "database.tenant_database");
        for template in ["tenant_template", ""] {
            let named = |options: &mut DatabaseOptions| options.template_database = template.into();
            assert_eq!(checked(&named), "database.template_database", "{template}");
        }
        assert_eq!(checked(&|options| options.tenant_databases_max = 0), "database.tenant_databases_max");
        assert_eq!(checked(&|options| options.observe = true), "database.observe");
        let nowhere = |options: &mut DatabaseOptions| options.data_directory = Some("/nowhere/at/all".into());
        assert_eq!(checked(&nowhere), "database.data_directory");
    }
}
