//! In which form the rows of a chunk are read: as the follower's tables take them. A server that reads rows can add a constant
//! to each, or leave a column out, at no cost; one that loads them with `COPY` cannot.

use cell_model::TenantId;
use cell_protos::v1 as wire;

use super::catalogue::{Catalogue, Table};
use super::sql::{ident, literal};
use crate::refusal::Refusal;

/// Types that a tenant's name is written in for another cell. Nothing else that it says goes into a statement. `character` is
/// not among them: without its length it is one letter.
const TYPES: [&str; 7] = ["text", "character varying", "uuid", "bigint", "integer", "smallint", "numeric"];

/// For each table what stands before its columns, if anything does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Form {
    first: Vec<Option<String>>,
}

/// `character varying(40)` is `character varying`.
fn bare(type_name: &str) -> &str {
    type_name.split('(').next().unwrap_or(type_name).trim_end()
}

impl Form {
    /// What the follower has asked for.
    pub(crate) fn wanted(
        start: &wire::FollowStart,
        catalogue: &Catalogue,
        tenant: &TenantId,
    ) -> Result<Self, Refusal> {
        match start.layout() {
            wire::TableLayout::Schema => Ok(Self::default()),
            // With other tables than these it looks at what they are like, and asks for no rows.
            wire::TableLayout::Shared => {
                let pairs = catalogue.tables.iter().zip(&start.tenant_types);
                let first = pairs.map(|(table, wanted)| whose(table, wanted, tenant).map(Some));
                Ok(Self { first: first.collect::<Result<_, _>>()? })
            }
            wire::TableLayout::Unspecified => {
                let reason = "the agent of the other cell knows nothing of layouts: start the same version in both";
                Err(Refusal::new("STORAGE_DIFFERS", reason))
            }
        }
    }

    pub(crate) fn of(&self, table: u32) -> Option<&str> {
        self.first.get(usize::try_from(table).ok()?)?.as_deref()
    }

    /// What a follower says of its own tables.
    pub(crate) fn types(catalogue: &Catalogue) -> Vec<String> {
        let types = catalogue.tables.iter().filter_map(|table| table.tenant.as_ref());
        types.map(|column| column.type_name.clone()).collect()
    }
}

fn whose(table: &Table, wanted: &str, tenant: &TenantId) -> Result<String, Refusal> {
    let wanted = bare(wanted);
    match &table.tenant {
        Some(column) if bare(&column.type_name) == wanted => Ok(ident(&column.name)),
        _ if TYPES.contains(&wanted) => Ok(format!("{}::{wanted}", literal(tenant.as_str()))),
        _ => {
            let reason = format!(
                "the other cell tells rows of {} apart by a column of type {wanted}, in which this one does not write: \
                 make it text",
                table.name
            );
            Err(Refusal::new("SCHEMA_DIFFERS", reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::Column;
    use super::super::layout::Place;
    use super::*;

    fn catalogue(tenant_type: Option<&str>) -> Catalogue {
        let tenant = tenant_type.map(|type_name| Column {
            name: "tenant_id".into(),
            type_name: type_name.into(),
            generated: false,
            always: false,
            unmovable: None,
            collation: None,
            like: String::new(),
        });
        let table = Table {
            name: "orders".into(),
            tenant,
            columns: Vec::new(),
            primary: Vec::new(),
            key: Vec::new(),
            uniques: Vec::new(),
            foreign_keys: Vec::new(),
            checks: Vec::new(),
            replica_identity: 'd',
            unidentified: None,
            unlogged: false,
            inherits: false,
        };
        Catalogue { place: Place::default(), tables: vec![table], sequences: Vec::new() }
    }

    fn form(of: Option<&str>, layout: wire::TableLayout, types: &[&str]) -> Result<Option<String>, &'static str> {
        let start = wire::FollowStart {
            layout: layout.into(),
            tenant_types: types.iter().map(|name| (*name).to_owned()).collect(),
            ..wire::FollowStart::default()
        };
        let form = Form::wanted(&start, &catalogue(of), &TenantId::new("acme").unwrap());
        form.map(|form| form.of(0).map(str::to_owned)).map_err(|refusal| refusal.code)
    }

    #[test]
    fn rows_are_read_as_the_follower_takes_them() {
        let (shared, own) = (wire::TableLayout::Shared, wire::TableLayout::Schema);
        assert_eq!(form(Some("text"), shared, &["text"]), Ok(Some("\"tenant_id\"".into())));
        assert_eq!(
            form(Some("character varying(9)"), shared, &["character varying(5)"]),
            Ok(Some("\"tenant_id\"".into()))
        );
        assert_eq!(form(None, shared, &["text"]), Ok(Some("'acme'::text".into())));
        assert_eq!(
            form(Some("uuid"), shared, &["character varying(5)"]),
            Ok(Some("'acme'::character varying".into()))
        );
        assert_eq!(form(Some("text"), own, &[]), Ok(None));
        assert_eq!(form(None, own, &[]), Ok(None));
    }

    #[test]
    fn no_word_of_another_cell_gets_into_a_statement_unknown() {
        let shared = wire::TableLayout::Shared;
        assert_eq!(form(None, shared, &["text; DROP TABLE orders"]), Err("SCHEMA_DIFFERS"));
        assert_eq!(form(None, shared, &["public.color"]), Err("SCHEMA_DIFFERS"));
        assert_eq!(
            form(None, shared, &["character(10)"]),
            Err("SCHEMA_DIFFERS"),
            "it would be another tenant's row"
        );
        assert_eq!(form(None, wire::TableLayout::Unspecified, &[]), Err("STORAGE_DIFFERS"));
    }
}
