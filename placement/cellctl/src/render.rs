//! Records to text. Pure: what is printed is decided here, where it goes elsewhere.

mod describe;
mod preview;
#[cfg(test)]
mod tests;

use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use crate::cli::Output;
use crate::view::{API_VERSION, View};

pub use describe::{describe_cell, describe_move, describe_tenant};
pub use preview::preview;

#[derive(Serialize)]
struct One<'a, V> {
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    kind: &'a str,
    #[serde(flatten)]
    item: &'a V,
}

#[derive(Serialize)]
struct List<'a, V> {
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    kind: String,
    items: &'a [V],
}

/// A list of records.
#[must_use]
pub fn list<V: View>(items: &[V], output: Output, headers: bool) -> String {
    match output {
        Output::Table | Output::Html => table(V::COLUMNS, items.iter().map(View::row), headers),
        Output::Json => json(&List { api_version: API_VERSION, kind: format!("{}List", V::KIND), items }),
        Output::Name => items.iter().map(|item| item.name() + "\n").collect(),
    }
}

/// One record: `text` says how it looks to people.
#[must_use]
pub fn one<V: View>(item: &V, output: Output, text: impl FnOnce(&V) -> String) -> String {
    match output {
        Output::Table | Output::Html => text(item),
        Output::Json => json(&One { api_version: API_VERSION, kind: V::KIND, item }),
        Output::Name => item.name() + "\n",
    }
}

/// Columns without borders.
#[must_use]
pub fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>, headers: bool) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if headers {
        table.set_header(columns);
    }
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn json(document: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(document).expect("views are made of text and numbers");
    text.push('\n');
    text
}
