//! `--watch`: a move while it runs. Ctrl-C detaches; the move goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use cell_client::{AgentOptions, AgentPool, ClientError, wire};
use cell_model::{CellId, MoveId, TenantId};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::commands::Control;
use crate::console;
use crate::failure::{Exit, Failure};
use crate::render;
use crate::view::MoveView;

const POLL: Duration = Duration::from_millis(150);

/// What the target holds by now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Copied {
    rows: u64,
    bytes: u64,
}

/// Shows a move until it ends, or until it pauses.
pub(crate) async fn follow(control: &Control, id: MoveId) -> Result<Exit, Failure> {
    let bar = ProgressBar::with_draw_target(
        None,
        if console::is_live() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
    );
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar.enable_steady_tick(Duration::from_millis(120));
    let ended = tokio::select! {
        ended = until_end(control, id, &bar) => ended,
        _ = tokio::signal::ctrl_c() => Ok(None),
    };
    bar.finish_and_clear();
    let Some(movement) = ended? else {
        console::note(&format!("detached; {id} goes on"));
        console::note(&format!(
            "  `cellctl describe move {id}` shows it, `cellctl move cancel {id}` ends it before the cutover"
        ));
        return Ok(Exit::Done);
    };
    console::data(&render::one(&movement, control.global.output, |movement| closing(movement) + "\n"));
    Ok(match movement.status.as_str() {
        "completed" | "paused" => Exit::Done,
        _ => Exit::NotMoved,
    })
}

async fn until_end(control: &Control, id: MoveId, bar: &ProgressBar) -> Result<Option<MoveView>, Failure> {
    let agents = AgentPool::new(AgentOptions { link: control.target.link.clone(), ..AgentOptions::default() });
    let mut target_agent = None;
    let mut said = BTreeSet::new();
    loop {
        let movement = match control.client.get_move(id).await {
            Ok(movement) => MoveView::from(movement),
            // The move does not need us: look again.
            Err(error @ ClientError::Unavailable { .. }) => {
                bar.set_message(format!("{id}  {error}"));
                tokio::time::sleep(POLL).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for stamp in &movement.history {
            if said.insert(stamp.revision) {
                bar.suspend(|| console::note(&entered(&movement, &stamp.phase, stamp.attempt)));
            }
        }
        if movement.has_ended() || is_paused_at(&movement) {
            return Ok(Some(movement));
        }
        if target_agent.is_none() {
            target_agent = agent_of(control, &movement.target).await;
        }
        let copied = match &target_agent {
            Some(agent) => copied(&agents, agent, &movement.tenant).await,
            None => None,
        };
        bar.set_message(running(&movement, copied));
        tokio::time::sleep(POLL).await;
    }
}

async fn agent_of(control: &Control, cell: &str) -> Option<String> {
    let cell = CellId::new(cell).ok()?;
    control.client.get_cell(&cell).await.ok().map(|cell| cell.agent).filter(|agent| !agent.is_empty())
}

/// Asked only to be shown: where the agent does not say, nothing is shown.
async fn copied(agents: &AgentPool, agent: &str, tenant: &str) -> Option<Copied> {
    let tenant = TenantId::new(tenant).ok()?;
    let described: wire::DescribeResponse = agents.describe(agent, Some(&tenant)).await.ok()?;
    let storage = described.storage.into_iter().find(|storage| storage.tenant == tenant.as_str())?;
    Some(Copied { rows: storage.rows, bytes: storage.bytes })
}

/// It was told to stop after a phase and has come there.
fn is_paused_at(movement: &MoveView) -> bool {
    movement.status == "paused"
        && movement.until.as_ref().is_none_or(|until| *until == movement.phase || past(movement))
}

fn past(movement: &MoveView) -> bool {
    movement.until.as_ref().is_some_and(|until| movement.history.iter().any(|stamp| stamp.phase == *until))
}

fn entered(movement: &MoveView, phase: &str, attempt: u32) -> String {
    let again = if attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
    format!("{}  {}  {} → {}  {phase}{again}", movement.id, movement.tenant, movement.source, movement.target)
}

fn running(movement: &MoveView, copied: Option<Copied>) -> String {
    let copied =
        copied.map_or_else(String::new, |copied| format!(" · {} rows, {}", copied.rows, bytes(copied.bytes)));
    let free = match movement.phase.as_str() {
        "activate" | "soak" => "cut over; `cellctl move rollback` brings it back",
        "cleanup" => "cleaning up",
        _ => "cancel is free",
    };
    format!(
        "{}  {}{copied} · attempt {} · hold ≤ {} ms · {free} · Ctrl-C detaches",
        movement.id, movement.phase, movement.attempt, movement.hold_max_ms
    )
}

fn closing(movement: &MoveView) -> String {
    let reason =
        [&movement.end_code, &movement.end_reason].into_iter().flatten().cloned().collect::<Vec<_>>().join(": ");
    let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    match movement.status.as_str() {
        "paused" => format!(
            "{} pauses in {}; `cellctl move resume {}` lets it go on",
            movement.id, movement.phase, movement.id
        ),
        "completed" => format!(
            "{} completed: {} lives on {} at epoch {}",
            movement.id, movement.tenant, movement.target, movement.epoch
        ),
        other => format!("{} {other}{reason}: {} stays on {}", movement.id, movement.tenant, movement.source),
    }
}

/// Bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut whole = bytes;
    let mut rest = 0;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        rest = whole % 1024;
        whole /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{whole} B") } else { format!("{whole}.{} {}", rest * 10 / 1024, UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn movement(phase: wire::Phase, intent: wire::Intent, until: Option<wire::Phase>, end: &str) -> MoveView {
        MoveView::from(wire::Move {
            id: "m-7".into(),
            tenant: "acme".into(),
            source: "c1".into(),
            target: "c2".into(),
            phase: phase.into(),
            intent: intent.into(),
            until: until.map_or(0, i32::from),
            attempt: 2,
            admitted: true,
            hold_max_ms: 500,
            epoch: 4,
            end: end.into(),
            end_code: if end == "aborted" { "DIGEST_MISMATCH".into() } else { String::new() },
            ended_unix_ms: u64::from(!end.is_empty()),
            history: vec![wire::PhaseStamp { phase: phase.into(), attempt: 2, at_unix_ms: 1, revision: 1 }],
            ..wire::Move::default()
        })
    }

    #[test]
    fn a_running_move_shows_phase_copy_attempt_and_hold() {
        let running = running(
            &movement(wire::Phase::Backfill, wire::Intent::Run, None, ""),
            Some(Copied { rows: 12, bytes: 3_500_000 }),
        );
        assert_eq!(
            running,
            "m-7  backfill · 12 rows, 3.3 MiB · attempt 2 · hold ≤ 500 ms · cancel is free · Ctrl-C detaches"
        );
    }

    #[test]
    fn the_last_line_says_where_the_tenant_is() {
        let done = closing(&movement(wire::Phase::Soak, wire::Intent::Run, None, "completed"));
        assert_eq!(done, "m-7 completed: acme lives on c2 at epoch 4");
        let aborted = closing(&movement(wire::Phase::Verify, wire::Intent::Run, None, "aborted"));
        assert_eq!(aborted, "m-7 aborted (DIGEST_MISMATCH): acme stays on c1");
    }

    #[test]
    fn a_move_that_was_told_to_stop_is_left_when_it_has() {
        let verify = Some(wire::Phase::Verify);
        assert!(is_paused_at(&movement(wire::Phase::Verify, wire::Intent::Pause, verify, "")));
        assert!(!is_paused_at(&movement(wire::Phase::Backfill, wire::Intent::Pause, verify, "")));
        assert!(!is_paused_at(&movement(wire::Phase::Verify, wire::Intent::Run, verify, "")));
        assert!(is_paused_at(&movement(wire::Phase::Backfill, wire::Intent::Pause, None, "")));
    }

    #[test]
    fn bytes_are_told_in_units() {
        assert_eq!([bytes(5), bytes(1_536), bytes(3 << 30)], ["5 B", "1.5 KiB", "3.0 GiB"]);
    }
}
