//! Where a tenant's rows lie in a cell's database: the one thing in which layouts differ.
//!
//! ```text
//! shared:  public.orders (tenant_id, id, …)      WHERE tenant_id = 'acme'      whose a change is: its tenant_id
//! schema:  tenant_acme.orders (id, …)            every row                     whose a change is: its schema
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
        match options.tenant_schema.as_deref().and_then(|pattern| pattern.split_once(SLOT)) {
            Some((before, after)) => Self::Schemas {
                before: before.to_owned(),
                after: after.to_owned(),
                template: options.template_schema.clone(),
            },
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
        }
    }

    /// The tables that every tenant's are like: the shared ones, or the template's.
    pub(crate) fn pattern(&self) -> Place {
        match self {
            Self::Shared(place) => place.clone(),
            Self::Schemas { template, .. } => Place::of_one(template),
        }
    }

    /// Whose a schema is, by its name.
    pub(crate) fn tenant_of(&self, schema: &str) -> Option<TenantId> {
        let Self::Schemas { before, after, .. } = self else { return None };
        if self.is_reserved(schema) {
            return None;
        }
        TenantId::new(schema.strip_prefix(before.as_str())?.strip_suffix(after.as_str())?).ok()
    }

    /// Schemas that no tenant can have: ours, PostgreSQL's, the template.
    fn is_reserved(&self, schema: &str) -> bool {
        let is_template = matches!(self, Self::Schemas { template, .. } if template == schema);
        is_template || matches!(schema, "cellway" | "information_schema") || schema.starts_with("pg_")
    }

    pub(crate) const fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    pub(crate) const fn to_wire(&self) -> wire::TableLayout {
        match self {
            Self::Shared(_) => wire::TableLayout::Shared,
            Self::Schemas { .. } => wire::TableLayout::Schema,
        }
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shared(_) => f.write_str("shared"),
            Self::Schemas { before, after, .. } => write!(f, "{before}{SLOT}{after}"),
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
}
