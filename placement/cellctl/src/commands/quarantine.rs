//! `quarantine`: what cells that were taken over have put aside.

use std::fmt::Write as _;
use std::path::PathBuf;

use cell_client::wire::table_value::Value as Known;
use cell_client::{AgentOptions, AgentPool, StepError, wire};
use cell_model::{CellId, Seq, TenantId};
use serde_json::{Value, json};

use super::Control;
use super::write::is_confirmed;
use crate::cli::OfQuarantine;
use crate::console;
use crate::exports;
use crate::failure::{Exit, Failure};
use crate::pages::all;
use crate::view::{QuarantineView, TenantView};

pub(super) async fn run(control: Control, of: OfQuarantine) -> Result<Exit, Failure> {
    match of {
        OfQuarantine::List { tenant } => list(&control, tenant).await,
        OfQuarantine::Export { tenant, cell, out } => export(&control, &tenant, &cell, out).await,
        OfQuarantine::Drop { tenant, cell, yes } => let_go(&control, &tenant, &cell, yes).await,
    }
}

async fn list(control: &Control, tenant: Option<TenantId>) -> Result<Exit, Failure> {
    let tenants = match tenant {
        Some(tenant) => vec![control.client.get_tenant(&tenant).await?],
        None => all(|options| control.client.list_tenants(options)).await?,
    };
    let kept = tenants.into_iter().map(TenantView::from).flat_map(|tenant| tenant.retained);
    let kept: Vec<QuarantineView> = kept.filter_map(|copy| copy.quarantine).collect();
    control.print_list(&kept);
    Ok(Exit::Done)
}

async fn let_go(control: &Control, tenant: &TenantId, cell: &CellId, yes: bool) -> Result<Exit, Failure> {
    let question = format!("Delete what cell {cell} alone has of tenant {tenant}, for good?");
    let unasked = format!("what cell {cell} alone has of {tenant} would be gone and nobody can be asked here");
    if !yes && !is_confirmed(&question, &unasked, &format!("cellctl quarantine drop {tenant} --cell {cell} --yes"))?
    {
        return Ok(Exit::Failed);
    }
    let dropped = control.client.drop_quarantine(tenant, cell, control.write()).await?;
    let kept = TenantView::from(dropped).retained.into_iter().filter_map(|copy| copy.quarantine);
    control.print_list(&kept.filter(|kept| kept.cell == cell.as_str()).collect::<Vec<_>>());
    Ok(Exit::Done)
}

/// The first line says what it is, each further one is a transaction.
async fn export(
    control: &Control,
    tenant: &TenantId,
    cell: &CellId,
    out: Option<PathBuf>,
) -> Result<Exit, Failure> {
    let agent = control.client.get_cell(cell).await?.agent;
    let agents = AgentPool::new(AgentOptions { link: control.target.link.clone(), ..AgentOptions::default() });
    let (mut text, mut after, mut changes, mut wanted) = (String::new(), Seq(0), 0, 0);
    loop {
        let page = agents.read_tail(&agent, tenant, after).await;
        let page = page.map_err(|error| unread(&error, tenant, cell))?;
        wanted = page.tail.unwrap_or_default().changes.max(wanted);
        // Writing to a string cannot fail.
        if text.is_empty() {
            let _ = writeln!(text, "{}", heading(tenant, cell, &page));
        }
        let tables = page.tables.as_ref().map_or(&[][..], |tables| &tables.tables);
        let of_rows = page.transactions.iter().map(|one| (one.seq, change(one)));
        let of_tables = page.table_transactions.iter().map(|one| (one.seq, change_of_tables(one, tables)));
        let before = changes;
        for (seq, line) in of_rows.chain(of_tables) {
            let _ = writeln!(text, "{line}");
            (after, changes) = (Seq(seq), changes + 1);
        }
        if !page.more || changes == before {
            break;
        }
    }
    if changes != wanted {
        let message =
            format!("cell {cell} has put {wanted} changes of {tenant} aside, and only {changes} could be read");
        return Err(Failure::new(
            "TAIL_UNREADABLE",
            message,
            "run it again; look at the cell's log if it comes back",
        ));
    }
    write(&text, out, changes)?;
    Ok(Exit::Done)
}

fn unread(error: &StepError, tenant: &TenantId, cell: &CellId) -> Failure {
    match error {
        StepError::Refused { code, reason } if code == "NOT_QUARANTINED" => {
            Failure::new("NOT_QUARANTINED", reason.clone(), "`cellctl quarantine list` lists what there is")
        }
        error => {
            let message = format!("cell {cell} does not say what it has put aside of {tenant}: {error}");
            let hint = format!("`cellctl describe cell {cell}` shows where it should be");
            Failure::new("CELL_UNREACHABLE", message, hint)
        }
    }
}

fn heading(tenant: &TenantId, cell: &CellId, page: &wire::ReadTailResponse) -> Value {
    let tail = page.tail.unwrap_or_default();
    json!({
        "apiVersion": crate::view::API_VERSION,
        "kind": "QuarantinedTail",
        "tenant": tenant.as_str(),
        "uid": page.uid,
        "cell": cell.as_str(),
        "move": cell_model::MoveId(page.move_id).to_string(),
        "epoch": page.fenced_epoch,
        "after": page.after_seq,
        "last": tail.last_seq,
        "changes": tail.changes,
        "whole": tail.whole,
    })
}

fn change(transaction: &wire::Transaction) -> Value {
    let rows: Vec<Value> = transaction
        .mutations
        .iter()
        .map(|row| json!({ "key": readable(&row.key), "value": row.value.as_ref().map(|value| readable(value)) }))
        .collect();
    json!({ "seq": transaction.seq, "rows": rows })
}

/// Of tables in PostgreSQL: each value as the server writes it, `null` where it is, and an object where the log does not have it because
/// the value was too large to be logged again and had not changed.
fn change_of_tables(transaction: &wire::TableTransaction, tables: &[wire::TailTable]) -> Value {
    let row = |mutation: &wire::TableMutation| {
        let unknown = wire::TailTable { name: format!("table {}", mutation.table), ..wire::TailTable::default() };
        let table = usize::try_from(mutation.table).ok().and_then(|place| tables.get(place)).unwrap_or(&unknown);
        let key = mutation.existed.then(|| named(&table.key, &mutation.old_key));
        let row = (!mutation.new_row.is_empty()).then(|| named(&table.columns, &mutation.new_row));
        json!({ "table": table.name, "key": key, "row": row })
    };
    json!({ "seq": transaction.seq, "rows": transaction.mutations.iter().map(row).collect::<Vec<_>>() })
}

/// Values by the names of their columns; by their places where these are not known.
fn named(names: &[String], values: &[wire::TableValue]) -> Value {
    let one = |(place, value): (usize, &wire::TableValue)| {
        let name = names.get(place).cloned().unwrap_or_else(|| place.to_string());
        let value = match &value.value {
            Some(Known::Text(text)) => json!(text),
            Some(Known::Unchanged(_)) => json!({ "unchanged": true }),
            Some(Known::Null(_)) | None => Value::Null,
        };
        (name, value)
    };
    Value::Object(values.iter().enumerate().map(one).collect())
}

/// Text as text, anything else in hexadecimal digits.
fn readable(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

/// Only when all of it is there: half a tail looks like a whole one.
fn write(text: &str, out: Option<PathBuf>, changes: u64) -> Result<(), Failure> {
    let Some(out) = out else {
        console::data(text);
        return Ok(());
    };
    exports::keep(&out, text)?;
    console::note(&format!("{changes} changes in {}", out.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_written_as_text_where_it_is_text_and_a_deletion_has_no_value() {
        let row = |key: &[u8], value: Option<&[u8]>| wire::Mutation {
            key: key.to_vec().into(),
            value: value.map(|value| value.to_vec().into()),
        };
        let mutations = vec![row(b"name", Some("Zo\u{eb}".as_bytes())), row(&[0xff, 0x0a], None)];
        let line = change(&wire::Transaction { seq: 12, mutations, digest: None });
        assert_eq!(line["seq"], 12);
        assert_eq!(line["rows"][0], json!({ "key": { "text": "name" }, "value": { "text": "Zo\u{eb}" } }));
        assert_eq!(line["rows"][1], json!({ "key": { "hex": "ff0a" }, "value": null }));
    }

    #[test]
    fn a_change_of_a_table_has_its_values_by_name_a_key_only_where_a_row_was_and_a_row_only_where_one_is() {
        let text = |text: &str| wire::TableValue { value: Some(Known::Text(text.into())) };
        let null = wire::TableValue { value: Some(Known::Null(true)) };
        let same = wire::TableValue { value: Some(Known::Unchanged(true)) };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let orders =
            wire::TailTable { name: "orders".into(), columns: names(&["id", "note", "scan"]), key: names(&["id"]) };
        let mutations = vec![
            wire::TableMutation { new_row: vec![text("1"), null, text("x")], ..wire::TableMutation::default() },
            wire::TableMutation {
                old_key: vec![text("1")],
                new_row: vec![text("1"), text("Zo\u{eb}"), same],
                existed: true,
                ..wire::TableMutation::default()
            },
            wire::TableMutation {
                table: 7,
                old_key: vec![text("1")],
                existed: true,
                ..wire::TableMutation::default()
            },
        ];
        let line = change_of_tables(&wire::TableTransaction { seq: 12, mutations }, &[orders]);
        assert_eq!(line["seq"], 12);
        let inserted = json!({ "table": "orders", "key": null, "row": { "id": "1", "note": null, "scan": "x" } });
        assert_eq!(line["rows"][0], inserted);
        assert_eq!(line["rows"][1]["key"], json!({ "id": "1" }));
        assert_eq!(line["rows"][1]["row"]["note"], "Zo\u{eb}");
        assert_eq!(line["rows"][1]["row"]["scan"], json!({ "unchanged": true }));
        assert_eq!(line["rows"][2], json!({ "table": "table 7", "key": { "0": "1" }, "row": null }));
    }

    #[test]
    fn the_first_line_says_whose_tail_it_is_and_whether_it_is_whole() {
        let tail = Some(wire::Tail { changes: 3, bytes: 90, last_seq: 15, whole: true });
        let page = wire::ReadTailResponse {
            uid: 7,
            move_id: 20,
            fenced_epoch: 1,
            after_seq: 12,
            tail,
            ..Default::default()
        };
        let first = heading(&TenantId::new("acme").unwrap(), &CellId::new("c1").unwrap(), &page);
        assert_eq!((first["kind"].as_str(), first["move"].as_str()), (Some("QuarantinedTail"), Some("m-20")));
        assert_eq!((first["after"].as_u64(), first["last"].as_u64()), (Some(12), Some(15)));
        assert_eq!((first["changes"].as_u64(), first["whole"].as_bool()), (Some(3), Some(true)));
    }
}
