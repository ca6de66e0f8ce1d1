//! `quarantine`: what cells that were taken over have put aside.

use std::fmt::Write as _;
use std::path::PathBuf;

use cell_client::{AgentOptions, AgentPool, StepError, wire};
use cell_model::{CellId, Seq, TenantId};
use serde_json::{Value, json};

use super::Control;
use super::write::is_confirmed;
use crate::cli::OfQuarantine;
use crate::console;
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
        for transaction in &page.transactions {
            let _ = writeln!(text, "{}", change(transaction));
            (after, changes) = (Seq(transaction.seq), changes + 1);
        }
        if !page.more || page.transactions.is_empty() {
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
    std::fs::write(&out, text).map_err(|error| {
        let message = format!("cannot write {}: {error}", out.display());
        Failure::new("EXPORT_UNWRITABLE", message, "choose another --out")
    })?;
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
