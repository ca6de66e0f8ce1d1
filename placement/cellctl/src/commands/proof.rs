//! `move proof` and `move verify-proof`: what a move stands on, for whoever asks later.

use std::path::{Path, PathBuf};

use cell_model::MoveId;
use cell_trust::TrustedKeys;

use super::{Control, audit};
use crate::console;
use crate::exports;
use crate::failure::{Exit, Failure};
use crate::proof::{Proof, Summary, Unproven};

pub(super) async fn write(control: Control, id: MoveId, out: Option<PathBuf>) -> Result<Exit, Failure> {
    // Asked first: a move that nobody knows has an answer of its own.
    control.client.get_move(id).await?;
    let trail = audit::trail(&control.client, 0).await?;
    let proof = Proof::of(trail, id).map_err(|unproven| failure(&unproven, &id.to_string()))?;
    // What would not be believed later is not written.
    proof.verify(&TrustedKeys::default()).map_err(|unproven| failure(&unproven, &id.to_string()))?;
    match out {
        None => console::data(&proof.to_lines()),
        Some(out) => {
            exports::keep(&out, &proof.to_lines())?;
            console::note(&told(&proof.summary));
            console::note(&format!("`cellctl move verify-proof {} --trusted-keys KEY` checks it", out.display()));
        }
    }
    Ok(Exit::Done)
}

pub(super) fn verify(file: &Path, trusted_keys: &[String]) -> Result<Exit, Failure> {
    let trusted = audit::keys(trusted_keys)?;
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(format!("cannot read {}: {error}", file.display()), "give a file of `cellctl move proof`")
    })?;
    let proof = Proof::from_lines(&text).and_then(|proof| proof.verify(&trusted).map(|()| proof));
    let proof = proof.map_err(|unproven| failure(&unproven, &file.display().to_string()))?;
    console::note(&told(&proof.summary));
    let entries = proof.trail.entries.len();
    let signed = if trusted.is_empty() {
        "; the signature of its end was not checked: name --trusted-keys"
    } else {
        ", its end signed by a trusted key"
    };
    console::note(&format!("{entries} entries up to {} are one chain{signed}", proof.trail.end.number));
    Ok(Exit::Done)
}

fn told(summary: &Summary) -> String {
    let Summary { id, tenant, source, target, outcome, epoch_before, epoch_after, .. } = summary;
    let mut text = format!("{id}: {tenant}, {source} → {target}, {outcome}; epoch {epoch_before} → {epoch_after}");
    if let (Some(sealed), Some(digest)) = (summary.sealed, &summary.digest) {
        text.push_str(&format!("; sealed at {sealed}, both cells {digest}"));
    }
    for found in &summary.differences {
        text.push_str(&format!("; the copy differed: {found}"));
    }
    if let Some(held) = summary.holds.last() {
        let reads = if summary.routers_held.is_some() { held.writes_ms } else { held.reads_ms };
        text.push_str(&format!("; writes waited {} ms, reads {reads} ms", held.writes_ms));
    }
    if let Some(rejected) = summary.stale_rejected {
        text.push_str(&format!("; {rejected} stale requests turned away"));
    }
    if let Some(ended) = summary.ended_writers {
        text.push_str(&format!("; {ended} transactions of writers without a gate ended"));
    }
    if let (Some(held), Some(fenced)) = (summary.routers_held, summary.routers_fenced) {
        text.push_str(&format!("; its owner had no gate: {held} routers held back, {fenced} had no lease"));
    }
    text
}

fn failure(unproven: &Unproven, what: &str) -> Failure {
    let hint = match unproven {
        Unproven::NoSummary(_) | Unproven::Written { .. } => "give a whole, unchanged file of `cellctl move proof`",
        Unproven::NoBeginning(_) => {
            "the store keeps the newest 20,000 entries of its trail: prove moves soon after they have ended"
        }
        Unproven::NotEnded(_) => "`cellctl describe move` shows how it goes; prove it when it has ended",
        Unproven::Trail(_) | Unproven::Step { .. } | Unproven::Differs { .. } | Unproven::Unlawful { .. } => {
            "do not rely on this file; make it anew, and keep both: see docs/audit.md"
        }
    };
    Failure::new(unproven.code(), format!("{what}: {unproven}"), hint)
}
