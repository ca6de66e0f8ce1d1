//! The statements that bring a change into a copy: on which side of the frontier its row lies, and whose it is where a column
//! says that.

use cell_model::TenantId;
use cell_protos::v1 as wire;
use cell_protos::v1::table_value::Value;

use crate::postgres::backfill::{compare, listed};
use crate::postgres::catalogue::{Catalogue, Column, Table};
use crate::postgres::records::Reach;
use crate::postgres::sql::{ident, literal};

pub(super) fn is_unchanged(value: &wire::TableValue) -> bool {
    matches!(value.value, Some(Value::Unchanged(_)))
}

/// The owner has read the rows in this cell's form: whose they are first, where a column says it.
pub(super) fn load_sql(catalogue: &Catalogue, table: &Table) -> String {
    format!("COPY {} ({}) FROM STDIN (FORMAT binary)", catalogue.qualified(table), own_list(table))
}

fn own_list(table: &Table) -> String {
    listed(table.tenant.as_ref().map(|column| ident(&column.name)), table)
}

/// How much of a table lies before the frontier.
#[derive(PartialEq, Eq)]
pub(super) enum Side {
    Whole,
    Part,
    Nothing,
}

pub(super) fn side(reach: &Reach, table: u32) -> Side {
    if reach.done || table < reach.table {
        Side::Whole
    } else if table == reach.table && !reach.key.is_empty() {
        Side::Part
    } else {
        Side::Nothing
    }
}

/// The columns that an update sets, with their values.
pub(super) fn updated<'a>(
    table: &'a Table,
    new_row: &'a [wire::TableValue],
) -> impl Iterator<Item = (&'a Column, &'a wire::TableValue)> {
    table.copied().zip(new_row).filter(|(column, value)| !column.always && !is_unchanged(value))
}

/// Whether an update gives its row another key.
pub(super) fn moves_key(table: &Table, mutation: &wire::TableMutation) -> bool {
    let new = table.key_places().into_iter().map(|place| mutation.new_row.get(place));
    new.zip(&mutation.old_key).any(|(new, old)| new.is_some_and(|new| !is_unchanged(new) && new != old))
}

/// Whether there was a row before. Of a table of one row the key is empty, and says nothing.
pub(super) const fn existed(mutation: &wire::TableMutation) -> bool {
    mutation.existed || !mutation.old_key.is_empty()
}

/// A table as this cell has it, and whose rows of it are written: what statements are made of.
pub(super) struct Whole<'a> {
    pub(super) catalogue: &'a Catalogue,
    pub(super) tenant: &'a TenantId,
    pub(super) table: &'a Table,
}

impl Whole<'_> {
    /// The statements that a mutation may need: what is to be done, and, where a key moves across the frontier, the
    /// deletion and the insert that take its place.
    pub(super) fn statements(&self, mutation: &wire::TableMutation, reach: &Reach) -> [Option<String>; 3] {
        let insert = || self.insert(reach, mutation.table);
        match (existed(mutation), mutation.new_row.is_empty()) {
            (false, _) => [insert(), None, None],
            (true, true) => [Some(self.delete()), None, None],
            (true, false) if side(reach, mutation.table) == Side::Part && moves_key(self.table, mutation) => {
                [None, Some(self.delete()), insert()]
            }
            (true, false) => [Some(self.update(&mutation.new_row)), None, None],
        }
    }

    /// The row with a key that begins at parameter `first`.
    fn found(&self, first: usize) -> String {
        let one = |(place, name): (usize, &String)| {
            format!(" AND {} = ${}::{}", ident(name), first + place, self.table.type_of(name))
        };
        let key: String = self.table.key.iter().enumerate().map(one).collect();
        format!("{}{key}", self.catalogue.of_tenant(self.table, self.tenant.as_str()))
    }

    /// `INSERT … SELECT 'acme'::text, $1::int, … WHERE ROW(key) <= ROW(frontier)`.
    fn insert(&self, reach: &Reach, place: u32) -> Option<String> {
        let table = self.table;
        let columns: Vec<_> = table.copied().collect();
        let whose = table.tenant.as_ref();
        let whose = whose.map(|column| format!("{}::{}", literal(self.tenant.as_str()), column.type_name));
        let given = columns.iter().enumerate().map(|(at, column)| format!("${}::{}", at + 1, column.type_name));
        let values: Vec<String> = whose.into_iter().chain(given).collect();
        let mut sql = format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {}",
            self.catalogue.qualified(table),
            own_list(table),
            values.join(", ")
        );
        match side(reach, place) {
            Side::Whole => {}
            Side::Nothing => return None,
            Side::Part => {
                // The frontier is a constant of the statement: it stands still while a chunk is on its way.
                let keys = table.key_places();
                let in_order_of = |key: &usize| {
                    let column = columns[*key];
                    let order =
                        column.collation.as_ref().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
                    format!("${}::{}{order}", key + 1, column.type_name)
                };
                let names: Vec<String> = keys.iter().map(in_order_of).collect();
                let bound = compare(table, "<=", &reach.key).replacen(
                    &format!("ROW({})", table.key_list()),
                    &format!("ROW({})", names.join(", ")),
                    1,
                );
                sql = format!("{sql} WHERE {bound}");
            }
        }
        Some(sql)
    }

    fn update(&self, new_row: &[wire::TableValue]) -> String {
        let set = |(place, (column, _)): (usize, (&Column, _))| {
            format!("{} = ${}::{}", ident(&column.name), place + 1, column.type_name)
        };
        let sets: Vec<String> = updated(self.table, new_row).enumerate().map(set).collect();
        let (name, found) = (self.catalogue.qualified(self.table), self.found(sets.len() + 1));
        if sets.is_empty() {
            // Nothing of it is to be set: only that it is there is to be seen.
            return format!("SELECT 1 FROM {name} WHERE {found}");
        }
        format!("UPDATE {name} SET {} WHERE {found}", sets.join(", "))
    }

    fn delete(&self) -> String {
        format!("DELETE FROM {} WHERE {}", self.catalogue.qualified(self.table), self.found(1))
    }
}
