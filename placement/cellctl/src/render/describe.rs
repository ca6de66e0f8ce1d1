//! Everything about one record, for people.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use super::table;
use crate::follow::bytes;
use crate::view::{CellView, MoveView, QuarantineView, TenantView};

/// A tenant.
#[must_use]
pub fn describe_tenant(tenant: &TenantView) -> String {
    let mut text = fields(&[
        ("Tenant", tenant.tenant.clone()),
        ("Life", tenant.life.clone()),
        ("State", tenant.state.clone()),
        ("Cell", tenant.cell.clone()),
        ("Peer", tenant.peer.clone().unwrap_or_default()),
        ("Epoch", tenant.epoch.to_string()),
        ("Uid", tenant.uid.to_string()),
        ("Version", format!("rev {} at revision {}", tenant.rev, tenant.revision)),
        ("Tier", tenant.tier.clone()),
        ("Residency", tenant.residency.clone()),
        ("Placed", tenant.placed.clone().unwrap_or_default()),
        ("Waiting", if tenant.hold == "none" { String::new() } else { tenant.hold.clone() }),
    ]);
    for copy in &tenant.retained {
        let what = if let Some(kept) = copy.quarantine.as_ref().filter(|_| !copy.reclaiming) {
            quarantined(kept, copy.until_unix_ms)
        } else if copy.reclaiming {
            "is being deleted".to_owned()
        } else {
            format!("kept until {}", time(copy.until_unix_ms))
        };
        line(
            &mut text,
            "Old copy",
            &format!("{} (left by {}, fenced at epoch {}), {what}", copy.cell, copy.move_id, copy.fenced_epoch),
        );
    }
    if let Some(movement) = &tenant.movement {
        text.push('\n');
        text.push_str(&describe_move(movement));
    }
    text
}

/// How it stands with the copy of a cell that was taken over.
fn quarantined(kept: &QuarantineView, until_unix_ms: u64) -> String {
    let changes = kept.changes.unwrap_or_default();
    match kept.state.as_str() {
        "not reached" => format!("taken over at change {}; not reached since", kept.after),
        "empty" => format!("taken over, nothing is missing; kept until {}", time(until_unix_ms)),
        "dropped" => "taken over; its tail was dropped".to_owned(),
        state => format!("taken over at change {}; quarantined: {changes} changes, {state}", kept.after),
    }
}

/// A cell, with how many tenants it owns.
#[must_use]
pub fn describe_cell(cell: &CellView, tenants: usize) -> String {
    fields(&[
        ("Cell", cell.cell.clone()),
        ("State", cell.state.clone()),
        ("Agent", cell.agent.clone()),
        (if cell.ungated { "Application" } else { "Gates" }, cell.gates.join(", ")),
        ("Without gate", if cell.ungated { WITHOUT_GATE.into() } else { String::new() }),
        ("Region", cell.region.clone()),
        ("Residency", cell.residency.clone()),
        ("Kind", cell.cell_kind.clone()),
        ("Domain", cell.domain.clone()),
        ("Capacity", capacity(cell)),
        ("Databases", databases(cell.databases.as_deref()).into()),
        ("Generation", cell.generation.to_string()),
        ("Revision", cell.revision.to_string()),
        ("Tenants", tenants.to_string()),
    ])
}

/// What stands in for a gate.
const WITHOUT_GATE: &str = "its database fences, routers hold back";

/// What it means for who is there.
fn databases(said: Option<&str>) -> &'static str {
    match said {
        Some("own") => "own: each tenant has one of its own",
        Some("shared") => "shared by several tenants: nobody is gold here",
        _ => "",
    }
}

fn capacity(cell: &CellView) -> String {
    let Some(capacity) = &cell.capacity else { return String::new() };
    let reserve = if cell.reserve > 0.0 {
        format!(", {} % in reserve", (cell.reserve * 1e3).round() / 10.0)
    } else {
        String::new()
    };
    format!("{}{reserve}", capacity.text())
}

/// A move, with its history.
#[must_use]
pub fn describe_move(movement: &MoveView) -> String {
    let phase = if movement.leg == "back" {
        format!("{}, on the way back", movement.phase)
    } else {
        movement.phase.clone()
    };
    let end =
        [&movement.end_code, &movement.end_reason].into_iter().flatten().cloned().collect::<Vec<_>>().join(": ");
    let mut text = fields(&[
        ("Move", movement.id.clone()),
        ("Tenant", movement.tenant.clone()),
        ("From", movement.source.clone()),
        ("To", movement.target.clone()),
        ("Status", movement.status.clone()),
        ("Asked for", movement.reason.clone().unwrap_or_default()),
        ("Tier", movement.tiers.as_ref().map(|of| format!("{} → {}", of.source, of.target)).unwrap_or_default()),
        ("Reason", end),
        ("Phase", phase),
        ("Rehearsal", if movement.rehearse { "taken back at the fence".into() } else { String::new() }),
        ("Pauses after", movement.until.clone().unwrap_or_default()),
        ("Attempt", movement.attempt.to_string()),
        ("Epoch", movement.epoch.to_string()),
        ("Hold budget", duration(u64::from(movement.hold_max_ms))),
        ("Compares", if movement.exact { "every row, one by one".into() } else { String::new() }),
        ("Throttle", movement.bytes_per_second.map(|most| format!("{}/s", bytes(most))).unwrap_or_default()),
        ("Weight", weight(movement)),
        ("Soak", duration(u64::from(movement.soak_ms))),
        ("Retention", duration(movement.retain_ms)),
        ("Retries left", movement.retries_left.to_string()),
        ("Digest", movement.digest.clone().unwrap_or_default()),
        ("Sealed at", movement.sealed_seq.map(|seq| seq.to_string()).unwrap_or_default()),
        ("In sync", if movement.in_sync { "the target has everything".into() } else { String::new() }),
        ("Turned away", movement.stale_rejected.map(|count| format!("{count} stale requests")).unwrap_or_default()),
        ("Without gate", without_gate(movement)),
        ("Writers ended", movement.ended_writers.map(|count| count.to_string()).unwrap_or_default()),
        ("Ended", movement.ended_unix_ms.map(time).unwrap_or_default()),
    ]);
    if let Some(met) = &movement.setback {
        let (since, last) = (time(met.since_unix_ms), time(met.last_unix_ms));
        line(&mut text, "In its way", &format!("{}: {} (since {since}, last {last})", met.code, met.reason));
    }
    if let Some(taken) = &movement.takeover {
        let loss = if taken.lossless { "nothing lost" } else { "data loss accepted" };
        let (from, phase, applied, heard) = (&taken.from, &taken.phase, taken.applied, taken.heard);
        let stood = format!("from {from} in {phase}, {loss}: copy up to {applied}, heard of {heard}");
        line(&mut text, "Taken over", &stood);
        line(&mut text, "Stopped", &taken.stopped);
    }
    for (number, found) in movement.differences.iter().enumerate() {
        // The last one of a move that ended because of it was left as it was.
        let is_left =
            movement.end_code.as_deref() == Some("DIGEST_MISMATCH") && number + 1 == movement.differences.len();
        let mended = match found.phase.as_str() {
            "soak" => "; it rests: `move rollback`, or `move resume`",
            _ if is_left || found.rows.is_empty() => "",
            _ => "; copied anew",
        };
        line(&mut text, "Differed", &format!("{}{mended}", found.told()));
    }
    for held in &movement.holds {
        let reads = match held.reads_ms {
            // Where no gate is they wait from the beginning on.
            _ if movement.routers_held.is_some() => ", reads as long".to_owned(),
            0 => String::new(),
            ms => format!(", reads {ms} ms"),
        };
        let (attempt, writes, end) = (held.attempt, held.writes_ms, held.end.as_str());
        line(&mut text, "Held", &format!("attempt {attempt}: writes {writes} ms{reads}, {end}"));
    }
    let ends = movement.history.iter().skip(1).map(|next| Some(next.at_unix_ms)).chain([movement.ended_unix_ms]);
    let rows = movement.history.iter().zip(ends).map(|(stamp, end)| {
        let took = end.map_or_else(|| "…".to_owned(), |end| duration(end.saturating_sub(stamp.at_unix_ms)));
        let (phase, attempt) = (stamp.phase.clone(), stamp.attempt.to_string());
        vec![String::new(), phase, attempt, time(stamp.at_unix_ms), took, stamp.revision.to_string()]
    });
    if !movement.history.is_empty() {
        text.push_str("History\n");
        text.push_str(&table(&["", "PHASE", "ATTEMPT", "ENTERED", "TOOK", "REVISION"], rows, true));
    }
    text
}

/// On which fence it stands, where that is no gate.
fn without_gate(movement: &MoveView) -> String {
    if movement.ungated.is_empty() {
        return String::new();
    }
    let held = movement.routers_held.map_or_else(String::new, |held| {
        format!("; routers: {} held back, {} had no lease", held.seen, held.fenced)
    });
    format!("{}: {WITHOUT_GATE}{held}", movement.ungated.join(" and "))
}

fn weight(movement: &MoveView) -> String {
    match (movement.rows, movement.bytes) {
        (Some(rows), Some(size)) => format!("{rows} rows, {}", bytes(size)),
        _ => String::new(),
    }
}

/// Leaves out what is empty.
fn fields(fields: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        line(&mut text, name, value);
    }
    text
}

fn line(text: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:<15}{value}", format!("{name}:"));
}

fn time(unix_ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

fn duration(ms: u64) -> String {
    if ms == 0 { "0ms".into() } else { humantime::format_duration(Duration::from_millis(ms)).to_string() }
}
