//! `audit`: who asked for what, and the proof that nobody has rewritten it.

use std::path::{Path, PathBuf};

use cell_client::{ClientError, ClientOptions, ControlClient};
use cell_model::TenantId;
use cell_trust::{PublicKey, TrustedKeys};

use super::{Control, ask, client_options};
use crate::audit_chain::{Doubt, Trail};
use crate::cli::{Audit, Global};
use crate::console;
use crate::exports;
use crate::failure::{Exit, Failure};
use crate::view::AuditView;

pub(super) fn run(global: Global, command: Audit) -> Result<Exit, Failure> {
    match command {
        Audit::Verify { file: Some(file), trusted_keys, .. } => verify_file(&file, &keys(&trusted_keys)?),
        Audit::Verify { file: None, against, trusted_keys } => {
            let trusted = keys(&trusted_keys)?;
            let before = against.as_deref().map(|file| believed(file, &trusted)).transpose()?;
            ask(&global, |control| verify(control, trusted, before))
        }
        Audit::Show { tenant, last } => ask(&global, |control| show(control, tenant, last)),
        Audit::Export { out, after } => ask(&global, |control| export(control, out, after)),
    }
}

pub(super) fn keys(texts: &[String]) -> Result<TrustedKeys, Failure> {
    let key = |text: &String| {
        text.parse::<PublicKey>().map_err(|error| {
            Failure::usage(format!("--trusted-keys: {error}"), "`cellctl keygen --show FILE` prints it")
        })
    };
    texts.iter().map(key).collect()
}

fn doubted(doubt: &Doubt, what: &str) -> Failure {
    let hint = match doubt {
        Doubt::Line { .. } | Doubt::NoEnd => "give a whole file of `cellctl audit export`",
        Doubt::Gap { .. } => "export more often: the store keeps the newest 20,000 entries",
        _ => "keep all copies as they are and find out who could write to that node's disk; see docs/audit.md",
    };
    Failure::new(doubt.code(), format!("{what}: {doubt}"), hint)
}

fn read(file: &Path) -> Result<Trail, Failure> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| {
        Failure::usage(format!("cannot read {}: {error}", file.display()), "give a file of `cellctl audit export`")
    })?;
    Trail::from_lines(&text).map_err(|doubt| doubted(&doubt, &file.display().to_string()))
}

/// A file that proves itself: what nodes say is held against nothing less.
fn believed(file: &Path, trusted: &TrustedKeys) -> Result<Trail, Failure> {
    let trail = read(file)?;
    trail.verify(trusted).map_err(|doubt| doubted(&doubt, &file.display().to_string()))?;
    Ok(trail)
}

fn verify_file(file: &Path, trusted: &TrustedKeys) -> Result<Exit, Failure> {
    let trail = believed(file, trusted)?;
    let signed = if trusted.is_empty() { "; its signature was not checked: name --trusted-keys" } else { "" };
    console::note(&format!("{}{signed}", trail.told()));
    Ok(Exit::Done)
}

/// Every entry that a node keeps behind `after`.
pub(super) async fn trail(client: &ControlClient, after: u64) -> Result<Trail, ClientError> {
    let (mut entries, mut at) = (Vec::new(), after);
    loop {
        let page = client.list_audit(at, None).await?;
        entries.extend(page.entries);
        // The end may have moved on while pages were read: what is behind it is read, too.
        let reached = entries.last().map_or(after.max(page.end.number), |entry| entry.number);
        match page.next {
            Some(next) => at = next,
            None if reached < page.end.number => at = reached,
            None => {
                return Ok(Trail { entries, end: page.end, key_id: page.key_id, signature: page.signature });
            }
        }
    }
}

/// A client of one node that takes its own word.
pub(super) fn client_of(control: &Control, endpoint: &str) -> ControlClient {
    let options = ClientOptions {
        allow_stale: true,
        only_given_endpoints: true,
        ..client_options(&control.global, &control.target.link)
    };
    ControlClient::new(vec![endpoint.to_owned()], options)
}

async fn verify(control: Control, trusted: TrustedKeys, before: Option<Trail>) -> Result<Exit, Failure> {
    let mut first: Option<(String, Trail)> = None;
    let (mut nodes, mut silent) = (0, None);
    for endpoint in control.target.endpoints.clone() {
        let found = match trail(&client_of(&control, &endpoint), 0).await {
            Ok(found) => found,
            // What the others have is looked at all the same.
            Err(error) => {
                let failure = Failure::from(error);
                silent.get_or_insert(Failure { message: format!("{endpoint}: {}", failure.message), ..failure });
                continue;
            }
        };
        found.verify(&trusted).map_err(|doubt| doubted(&doubt, &endpoint))?;
        if let Some(before) = &before {
            found.continues(before).map_err(|doubt| doubted(&doubt, &endpoint))?;
        }
        if let Some((other, trail)) = &first {
            trail
                .agrees_with(&found)
                .map_err(|doubt| doubted(&doubt, &format!("{endpoint} and {other} differ")))?;
        }
        nodes += 1;
        if first.as_ref().is_none_or(|(_, trail)| trail.end.number < found.end.number) {
            first = Some((endpoint, found));
        }
    }
    let Some((_, trail)) = first else { return silent.map_or(Ok(Exit::Failed), Err) };
    let from = trail.entries.first().map_or(0, |entry| entry.number);
    console::note(&format!(
        "entries {from} to {} are one chain, the same on {nodes} node{}; its end is {}",
        trail.end.number,
        if nodes == 1 { "" } else { "s" },
        trail.end.hash
    ));
    if trusted.is_empty() {
        console::note("signatures were not checked: name the control plane's key with --trusted-keys");
    }
    silent.map_or(Ok(Exit::Done), Err)
}

async fn show(control: Control, tenant: Option<TenantId>, last: usize) -> Result<Exit, Failure> {
    let (mut entries, mut after) = (std::collections::VecDeque::new(), 0);
    let dropped = loop {
        let page = control.client.list_audit(after, tenant.as_ref()).await?;
        for entry in &page.entries {
            if entries.len() == last {
                entries.pop_front();
            }
            if last > 0 {
                entries.push_back(AuditView::from(entry));
            }
        }
        match page.next {
            Some(next) => after = next,
            None => break page.first > 1,
        }
    };
    control.print_list(entries.make_contiguous());
    if dropped && tenant.is_some() {
        console::note("older entries are no longer kept by the store: look into the exports");
    }
    Ok(Exit::Done)
}

async fn export(control: Control, out: Option<PathBuf>, after: u64) -> Result<Exit, Failure> {
    let trail = trail(&control.client, after).await?;
    if after > trail.end.number {
        let message = format!("--after {after} lies behind the newest entry, which is {}", trail.end.number);
        return Err(Failure::usage(
            message,
            "an earlier export may be of another cluster: `cellctl audit verify --against` tells",
        ));
    }
    let lines = trail.to_lines();
    match out {
        None => console::data(&lines),
        Some(out) => {
            exports::keep(&out, &lines)?;
            let next = trail.end.number;
            console::note(&format!(
                "{} entries up to {next}; `cellctl audit export --after {next}` continues it",
                trail.entries.len()
            ));
        }
    }
    Ok(Exit::Done)
}
