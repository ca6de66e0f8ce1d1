//! Where a tenant's rows lie in a cell's database: the one thing in which layouts differ.
//!
//! ```text
//! shared:  public.orders (tenant_id, id, …)      WHERE tenant_id = 'acme'      whose a change is: its tenant_id
//! schema:  tenant_acme.orders (id, …)            every row                     whose a change is: its schema
//! whole:   public.orders (id, …), in a database of the tenant's own, of which nothing is anybody else's
//! ```
//! Everything else asks the [`Place`] of the tenant, or the catalogue that was read there. What goes from cell to cell is
//! in neither layout: keys and rows without the column, tables and sequences by names without a schema. So each cell of a
//! move has a layout of its own.

use cell_model::TenantId;
use cell_protos::v1 as wire;

use super::options::DatabaseOptions;
use crate::refusal::Refusal;

/// Where the tenant stands in the name of a schema.
pub(crate) const SLOT: &str = "{id}";
/// What PostgreSQL takes as a name; it cuts the rest off without a word.
const NAME_MAX: usize = 63;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Tables of many tenants in one schema, told apart by a column.
    Shared(Place),
    /// A schema for each tenant, called by what stands before and after its name. New ones are made as `template` is.
    Schemas { before: String, after: String, template: String },
    /// A database for each tenant, called by what stands before and after its name: here is what the agent knows of all of them,
    /// and nobody's rows. In each, the tables are in `schema`. New ones are copies of the database `template`.
    Databases { before: String, after: String, template: String, schema: String },
    /// Such a database: all of it is the tenant's.
    Whole { tenant: TenantId, schema: String },
}

/// A schema, and the column that tells its rows apart where they are those of many tenants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) schema: String,
    pub(crate) column: Option<String>,
}

impl Place {
    pub(crate) fn of_one(schema: &str) -> Self {
        Self { schema: schema.to_owned(), column: None }
    }
}

impl Layout {
    pub(crate) fn new(options: &DatabaseOptions) -> Self {
        let parts = |pattern: &Option<String>| {
            let (before, after) = pattern.as_deref()?.split_once(SLOT)?;
            Some((before.to_owned(), after.to_owned()))
        };
        if let Some((before, after)) = parts(&options.tenant_database) {
            let (template, schema) = (options.template_database.clone(), options.schema.clone());
            return Self::Databases { before, after, template, schema };
        }
        match parts(&options.tenant_schema) {
            Some((before, after)) => Self::Schemas { before, after, template: options.template_schema.clone() },
            None => {
                Self::Shared(Place { schema: options.schema.clone(), column: Some(options.tenant_column.clone()) })
            }
        }
    }

    /// Where the rows of a tenant are, or would be.
    pub(crate) fn place(&self, tenant: &TenantId) -> Result<Place, Refusal> {
        match self {
            Self::Shared(place) => Ok(place.clone()),
            Self::Schemas { before, after, .. } => {
                let schema = format!("{before}{tenant}{after}");
                if schema.len() > NAME_MAX {
                    let reason = format!(
                        "the tenant's schema would be called {schema}: PostgreSQL cuts names after {NAME_MAX} bytes, so \
                         two tenants could meet in one: choose a shorter tenant_schema, or a cell of another layout"
                    );
                    return Err(Refusal::new("SCHEMA_NAME_TOO_LONG", reason));
                }
                if self.is_reserved(&schema) {
                    let reason = format!(
                        "the tenant's schema would be called {schema}, which is not any tenant's: call the tenant otherwise, \
                         or choose another tenant_schema"
                    );
                    return Err(Refusal::new("SCHEMA_NAME_RESERVED", reason));
                }
                Ok(Place::of_one(&schema))
            }
            Self::Whole { tenant: whose, schema } if whose == tenant => Ok(Place::of_one(schema)),
            Self::Whole { .. } | Self::Databases { .. } => {
                Err(Refusal::new("NOT_OWNER", format!("no rows of tenant {tenant} are in this database")))
            }
        }
    }

    /// What the database of a tenant is called, or would be. `home` is the cell's own.
    pub(crate) fn database_of(&self, tenant: &TenantId, home: &str) -> Result<String, Refusal> {
        let Self::Databases { before, after, .. } = self else { return Ok(home.to_owned()) };
        let name = format!("{before}{tenant}{after}");
        if name.len() > NAME_MAX {
            let reason = format!(
                "the tenant's database would be called {name}: PostgreSQL cuts names after {NAME_MAX} bytes, so two tenants \
                 could meet in one: choose a shorter tenant_database, or a cell of another layout"
            );
            return Err(Refusal::new("DATABASE_NAME_TOO_LONG", reason));
        }
        if self.is_other_database(&name, home) {
            let reason = format!(
                "the tenant's database would be called {name}, which is not any tenant's: call the tenant otherwise, or \
                 choose another tenant_database"
            );
            return Err(Refusal::new("DATABASE_NAME_RESERVED", reason));
        }
        Ok(name)
    }

    /// Whose a database is, by its name.
    pub(crate) fn tenant_of_database(&self, name: &str, home: &str) -> Option<TenantId> {
        let Self::Databases { before, after, .. } = self else { return None };
        if self.is_other_database(name, home) {
            return None;
        }
        TenantId::new(name.strip_prefix(before.as_str())?.strip_suffix(after.as_str())?).ok()
    }

    /// Databases that no tenant can have: the server's, the cell's, the template.
    fn is_other_database(&self, name: &str, home: &str) -> bool {
        let is_template = matches!(self, Self::Databases { template, .. } if template == name);
        is_template || name == home || matches!(name, "postgres" | "template0" | "template1")
    }

    /// The tables that every tenant's are like: the shared ones, or the template's.
    pub(crate) fn pattern(&self) -> Place {
        match self {
            Self::Shared(place) => place.clone(),
            Self::Schemas { template, .. } => Place::of_one(template),
            // In the template, which is another database.
            Self::Databases { schema, .. } | Self::Whole { schema, .. } => Place::of_one(schema),
        }
    }

    /// Whose a schema is, by its name.
    pub(crate) fn tenant_of(&self, schema: &str) -> Option<TenantId> {
        match self {
            Self::Schemas { before, after, .. } if !self.is_reserved(schema) => {
                TenantId::new(schema.strip_prefix(before.as_str())?.strip_suffix(after.as_str())?).ok()
            }
            Self::Whole { tenant, schema: own } if own == schema => Some(tenant.clone()),
            Self::Shared(_) | Self::Schemas { .. } | Self::Databases { .. } | Self::Whole { .. } => None,
        }
    }

    /// Schemas that no tenant can have: ours, PostgreSQL's, the template.
    fn is_reserved(&self, schema: &str) -> bool {
        let is_template = matches!(self, Self::Schemas { template, .. } if template == schema);
        is_template || matches!(schema, "cellway" | "information_schema") || schema.starts_with("pg_")
    }

    pub(crate) const fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    pub(crate) const fn has_schemas(&self) -> bool {
        matches!(self, Self::Schemas { .. })
    }

    pub(crate) const fn is_whole(&self) -> bool {
        matches!(self, Self::Whole { .. })
    }

    pub(crate) const fn to_wire(&self) -> wire::TableLayout {
        match self {
            Self::Shared(_) => wire::TableLayout::Shared,
            // Rows go without whose they are.
            Self::Schemas { .. } | Self::Databases { .. } | Self::Whole { .. } => wire::TableLayout::Schema,
        }
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shared(_) => f.write_str("shared"),
            Self::Schemas { before, after, .. } => write!(f, "{before}{SLOT}{after}"),
            Self::Databases { before, after, .. } => write!(f, "databases {before}{SLOT}{after}"),
            Self::Whole { tenant, .. } => write!(f, "the database of tenant {tenant}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(pattern: &str) -> Layout {
        Layout::new(&DatabaseOptions {
            tenant_schema: Some(pattern.into()),
            ..DatabaseOptions::new("postgres://u@h/d")
        })
    }

    #[test]
    fn a_schema_is_called_as_the_pattern_says_and_is_known_by_its_name() {
        let (layout, acme) = (own("t_{id}_v1"), TenantId::new("acme").unwrap());
        assert_eq!(layout.place(&acme).unwrap(), Place::of_one("t_acme_v1"));
        assert_eq!(layout.tenant_of("t_acme_v1"), Some(acme));
        for other in ["t_acme", "acme_v1", "t__v1", "t_ACME_v1", "public", ""] {
            assert_eq!(layout.tenant_of(other), None, "{other}");
        }
        assert_eq!(layout.pattern(), Place::of_one("cellway_template"));
    }

    #[test]
    fn names_that_postgresql_would_cut_are_refused() {
        let layout = own("tenant_{id}");
        assert!(layout.place(&TenantId::new("x".repeat(56)).unwrap()).is_ok());
        let refused = layout.place(&TenantId::new("x".repeat(57)).unwrap()).unwrap_err();
        assert_eq!(refused.code, "SCHEMA_NAME_TOO_LONG");
    }

    #[test]
    fn no_tenant_is_given_a_schema_that_is_somebody_elses() {
        for (pattern, tenant) in [
            ("cell{id}", "way"),
            ("{id}_schema", "information"),
            ("p{id}_toast", "g"),
            ("{id}_template", "cellway"),
        ] {
            let (layout, tenant) = (own(pattern), TenantId::new(tenant).unwrap());
            assert_eq!(layout.place(&tenant).unwrap_err().code, "SCHEMA_NAME_RESERVED", "{pattern}");
            assert_eq!(layout.tenant_of(&pattern.replace(SLOT, tenant.as_str())), None, "{pattern}");
            assert!(layout.place(&TenantId::new("acme").unwrap()).is_ok());
        }
    }

    #[test]
    fn shared_tables_are_everybodys_and_no_schema_is_anybodys() {
        let layout = Layout::new(&DatabaseOptions::new("postgres://u@h/d"));
        let place = layout.place(&TenantId::new("acme").unwrap()).unwrap();
        assert_eq!((place.schema.as_str(), place.column.as_deref()), ("public", Some("tenant_id")));
        assert_eq!(layout.tenant_of("public"), None);
        assert!(layout.is_shared());
    }
    fn databases(pattern: &str) -> Layout {
        Layout::new(&DatabaseOptions {
            tenant_database: Some(pattern.into()),
            ..DatabaseOptions::new("postgres://u@h/home")
        })
    }

    #[test]
    fn a_database_is_called_as_the_pattern_says_and_never_as_one_that_is_somebody_elses() {
        let (layout, acme) = (databases("t_{id}"), TenantId::new("acme").unwrap());
        assert_eq!(layout.database_of(&acme, "home").unwrap(), "t_acme");
        assert_eq!(layout.tenant_of_database("t_acme", "home"), Some(acme.clone()));
        assert_eq!(layout.tenant_of_database("t_ACME", "home"), None);
        assert_eq!(layout.place(&acme).unwrap_err().code, "NOT_OWNER", "no rows are in the cell's own");
        let long = TenantId::new("x".repeat(62)).unwrap();
        assert_eq!(layout.database_of(&long, "home").unwrap_err().code, "DATABASE_NAME_TOO_LONG");
        for (pattern, tenant) in
            [("post{id}", "gres"), ("h{id}", "ome"), ("template{id}", "1"), ("cellway_{id}", "template")]
        {
            let (layout, tenant) = (databases(pattern), TenantId::new(tenant).unwrap());
            assert_eq!(
                layout.database_of(&tenant, "home").unwrap_err().code,
                "DATABASE_NAME_RESERVED",
                "{pattern}"
            );
            assert_eq!(
                layout.tenant_of_database(&pattern.replace(SLOT, tenant.as_str()), "home"),
                None,
                "{pattern}"
            );
        }
        let whole = Layout::Whole { tenant: acme.clone(), schema: "public".into() };
        assert_eq!(whole.place(&acme).unwrap(), Place::of_one("public"));
        assert_eq!((whole.tenant_of("public"), whole.tenant_of("audit")), (Some(acme.clone()), None));
        assert_eq!(whole.place(&TenantId::new("other").unwrap()).unwrap_err().code, "NOT_OWNER");
    }
}
