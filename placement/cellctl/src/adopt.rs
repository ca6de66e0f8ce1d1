//! `adopt`: tenants that live in cells already become known to Cellway, where they are.
//!
//! ```text
//! file ──► manifest (lines read, every bad one told) ──► judge (file × store × databases) ──► findings: nothing is done
//!                                                                     └──► none: made known, granted, live
//! ```
//! Adopting moves nothing: the store places each tenant where the file says that its rows are, and that cell's agent is
//! granted it. Done again it goes on where it was.

mod judge;
mod manifest;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cell_client::{AgentOptions, AgentPool, wire};
use cell_model::{CellRecord, NewTenant, TenantId};
use futures::StreamExt as _;
use serde::Serialize;
use tokio::time::Instant;

use crate::cli::{Adopt, Output};
use crate::commands::Control;
use crate::console;
use crate::failure::{Exit, Failure};
use crate::pages::all;
use crate::view::API_VERSION;
use judge::{Ground, Judged, Standing};
use manifest::Entry;

const POLL: Duration = Duration::from_millis(50);

/// What is printed for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    api_version: &'a str,
    kind: &'a str,
    dry_run: bool,
    #[serde(flatten)]
    judged: &'a Judged,
}

pub(crate) async fn run(control: Control, asked: Adopt) -> Result<Exit, Failure> {
    let file = asked.from.display().to_string();
    let text = std::fs::read_to_string(&asked.from).map_err(|error| {
        let error = anyhow::Error::from(error).context(format!("cannot read {file}"));
        Failure::local("FILE_UNREADABLE", &error, "name a file with --from; it must be UTF-8")
    })?;
    let entries = manifest::read(&text).map_err(|wrong| {
        let lines: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        let message = format!("{} of {file} cannot be used:\n{}", counted(lines.len(), "line"), lines.join("\n"));
        Failure::new("MANIFEST_INVALID", message, "correct the lines; nothing was changed")
    })?;
    let ground = ground(&control, &entries).await?;
    let judged = judge::judge(&entries, &ground);
    tell(&control, &judged, asked.dry_run);
    if !judged.findings.is_empty() {
        let count = counted(judged.findings.len(), "finding");
        let message = format!("{count} in the way of adopting what {file} says; nothing was changed");
        return Err(Failure::new("ADOPTION_FINDINGS", message, "mend them, or take the lines out"));
    }
    if asked.dry_run || judged.new == 0 {
        return Ok(Exit::Done);
    }
    adopt(&control, &asked, &entries, &judged).await
}

fn counted(count: usize, of: &str) -> String {
    if count == 1 { format!("1 {of}") } else { format!("{count} {of}s") }
}

/// Everything that a file is judged by.
async fn ground(control: &Control, entries: &[Entry]) -> Result<Ground, Failure> {
    let client = &control.client;
    let cells = all(|options| client.list_cells(options)).await?;
    let tenants = all(|options| client.list_tenants(options)).await?;
    let named: BTreeSet<&str> = entries.iter().map(|entry| entry.cell.as_str()).collect();
    let asked = cells.iter().filter(|cell| named.contains(cell.id.as_str()));
    let existing = existing(control, asked).await;
    let cells = cells.into_iter().map(|cell| (cell.id.clone(), cell)).collect();
    let standing = |tenant: wire::Tenant| {
        let mapping = tenant.mapping.unwrap_or_default();
        (mapping.tenant, Standing { owner: mapping.owner, life: tenant.life })
    };
    let tenants = tenants.into_iter().map(standing).collect();
    Ok(Ground { cells, tenants, existing })
}

/// What each cell's database has; why not, where its agent does not say.
pub(crate) async fn existing<'a>(
    control: &Control,
    cells: impl Iterator<Item = &'a CellRecord>,
) -> BTreeMap<String, Result<Option<wire::Existing>, String>> {
    let link = control.target.link.clone();
    let agents = AgentPool::new(AgentOptions { step: control.global.timeout, link, ..AgentOptions::default() });
    let ask = cells.map(|cell| {
        let agents = agents.clone();
        async move {
            let told = agents.existing(&cell.agent).await.map_err(|error| error.to_string());
            (cell.id.to_string(), told)
        }
    });
    futures::future::join_all(ask).await.into_iter().collect()
}

fn tell(control: &Control, judged: &Judged, dry_run: bool) {
    if control.global.output == Output::Json {
        let document = Document { api_version: API_VERSION, kind: "Adoption", dry_run, judged };
        let text = serde_json::to_string_pretty(&document).expect("it is made of text and numbers");
        console::data(&format!("{text}\n"));
        return;
    }
    for found in judged.findings.iter().chain(&judged.notes) {
        console::data(&format!("{found}\n"));
    }
    let (new, known) = (counted(judged.new, "tenant"), judged.known);
    console::data(&format!("{new} to adopt, {known} adopted already\n"));
}

/// Makes known what is not, and waits until it is served.
async fn adopt(control: &Control, asked: &Adopt, entries: &[Entry], judged: &Judged) -> Result<Exit, Failure> {
    let bar = console::progress(u64::try_from(judged.new).unwrap_or(u64::MAX), "tenants");
    let new = entries.iter().filter(|entry| judged.is_new(entry));
    let making = new.map(|entry| {
        let bar = bar.clone();
        async move {
            let made = make(control, entry).await;
            bar.inc(1);
            made.map_err(|failure| (entry.line, failure))
        }
    });
    let mut made = futures::stream::iter(making).buffer_unordered(usize::from(asked.at_once));
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    while let Some(made) = made.next().await {
        match made {
            Ok(tenant) => done.push(tenant),
            // What is wrong with the control plane is wrong with all of them.
            Err((_, failure)) if failure.exit == Exit::Unavailable => return Err(failure),
            Err((line, failure)) => failed.push((line, failure)),
        }
    }
    bar.finish_and_clear();
    if !failed.is_empty() {
        failed.sort_by_key(|(line, _)| *line);
        let lines: Vec<String> =
            failed.iter().map(|(line, why)| format!("  line {line}: {}: {}", why.code, why.message)).collect();
        let message = format!(
            "{} adopted, {} not:\n{}",
            counted(done.len(), "tenant"),
            counted(failed.len(), "line"),
            lines.join("\n")
        );
        return Err(Failure::new("ADOPTION_INCOMPLETE", message, "run it again: what is adopted is passed over"));
    }
    let waiting = await_live(control, asked.wait, &done).await?;
    if !waiting.is_empty() {
        let message = format!(
            "{} adopted; of them {} not served after {}: {}",
            counted(done.len(), "tenant"),
            waiting.len(),
            humantime::format_duration(asked.wait),
            some(waiting.iter().map(TenantId::as_str))
        );
        let hint = "are their cells' agents up? `cellctl get cells`; they are granted as soon as they answer";
        return Err(Failure::new("ADOPTION_INCOMPLETE", message, hint));
    }
    console::note(&format!("{} adopted; their cells serve them under an epoch now", counted(done.len(), "tenant")));
    Ok(Exit::Done)
}

/// A few of many names.
pub(crate) fn some<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let shown = names.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{shown} and {} more", names.len() - 5) } else { shown }
}

async fn make(control: &Control, entry: &Entry) -> Result<TenantId, Failure> {
    let Entry { tenant, cell, tier, residency, .. } = entry.clone();
    let new = NewTenant { id: tenant.clone(), cell: Some(cell), tier, residency };
    match control.client.create_tenant(new, cell_client::WriteOptions::default()).await {
        Ok(_) => Ok(tenant),
        // Somebody else adopts, too.
        Err(error) if error.code() == "TENANT_EXISTS" => {
            let known = control.client.get_tenant(&tenant).await?;
            let owner = known.mapping.unwrap_or_default().owner;
            if owner == entry.cell.as_str() { Ok(tenant) } else { Err(error.into()) }
        }
        Err(error) => Err(error.into()),
    }
}

/// Those that are not served when the time is up.
async fn await_live(control: &Control, patience: Duration, made: &[TenantId]) -> Result<Vec<TenantId>, Failure> {
    let deadline = Instant::now() + patience;
    let mut waiting = made.to_vec();
    loop {
        let mut still = Vec::new();
        for tenant in waiting {
            if control.client.get_tenant(&tenant).await?.life != "live" {
                still.push(tenant);
            }
        }
        if still.is_empty() || Instant::now() >= deadline {
            return Ok(still);
        }
        waiting = still;
        tokio::time::sleep(POLL).await;
    }
}
