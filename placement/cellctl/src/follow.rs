//! `--watch`: a move while it runs. Ctrl-C detaches; the move goes on.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use cell_client::{AgentOptions, AgentPool, ClientError, wire};
use cell_model::{CellId, HoldEnd, MoveId, TenantId};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::commands::Control;
use crate::console;
use crate::failure::{Exit, Failure};
use crate::render;
use crate::view::{MoveView, SetbackView};

const POLL: Duration = Duration::from_millis(150);

/// A step that comes to nothing for so long is told.
const STUCK_AFTER_MS: u64 = 5_000;

/// The rate of a copy is that of so long.
const RATE_OVER: Duration = Duration::from_secs(5);

/// What the target holds by now, and how it goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Copied {
    rows: u64,
    bytes: u64,
    lag_bytes: u64,
    lag_ms: u64,
    /// In a second, where it has been watched for long enough.
    rows_per_second: u64,
    bytes_per_second: u64,
    source: Source,
}

/// How the cell is that is copied from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Source {
    /// What a commit takes there; 0: not known.
    commit_us: u64,
    /// Bytes in a second to which copies are slowed down because of it; 0: they are not.
    slowed_to: u64,
    /// The next rows wait for changes to be applied.
    held_back: bool,
}

/// What was seen of a copy lately.
#[derive(Debug, Default)]
struct Seen(VecDeque<(Instant, u64, u64)>);

impl Seen {
    /// Takes a look, and says how fast it goes.
    fn rates(&mut self, now: Instant, rows: u64, bytes: u64) -> (u64, u64) {
        // A copy that was begun anew has less than before.
        if self.0.back().is_some_and(|(_, before, _)| *before > rows) {
            self.0.clear();
        }
        while self.0.front().is_some_and(|(at, ..)| now.duration_since(*at) > RATE_OVER) && self.0.len() > 2 {
            self.0.pop_front();
        }
        self.0.push_back((now, rows, bytes));
        let Some((at, first_rows, first_bytes)) = self.0.front().copied() else { return (0, 0) };
        let millis = u64::try_from(now.duration_since(at).as_millis()).unwrap_or(u64::MAX);
        let rate = |more: u64| more.saturating_mul(1_000).checked_div(millis).unwrap_or_default();
        (rate(rows.saturating_sub(first_rows)), rate(bytes.saturating_sub(first_bytes)))
    }
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
        "completed" | "paused" | "rehearsed" | "taken-over" => Exit::Done,
        _ => Exit::NotMoved,
    })
}

async fn until_end(control: &Control, id: MoveId, bar: &ProgressBar) -> Result<Option<MoveView>, Failure> {
    let agents = AgentPool::new(AgentOptions { link: control.target.link.clone(), ..AgentOptions::default() });
    let (mut target_agent, mut source_agent) = (None, None);
    let (mut said, mut told) = (BTreeSet::new(), BTreeSet::new());
    let mut seen = Seen::default();
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
        if let Some(stuck) = stuck(&movement)
            && told.insert((movement.phase.clone(), stuck.code.clone()))
        {
            bar.suspend(|| {
                console::note(&format!("{id}  {} does not go on: {}: {}", movement.phase, stuck.code, stuck.reason))
            });
        }
        if target_agent.is_none() {
            target_agent = agent_of(control, &movement.target).await;
            source_agent = agent_of(control, &movement.source).await;
        }
        let mut copied = match &target_agent {
            Some(agent) => copied(&agents, agent, &movement.tenant, &mut seen).await,
            None => None,
        };
        if let (Some(copied), Some(agent), "backfill") = (&mut copied, &source_agent, movement.phase.as_str()) {
            copied.source = source(&agents, agent, &movement.tenant).await;
        }
        bar.set_message(running(&movement, copied));
        tokio::time::sleep(POLL).await;
    }
}

/// What has been in its way for so long that whoever watches should know.
fn stuck(movement: &MoveView) -> Option<&SetbackView> {
    let is_long = |met: &&SetbackView| met.last_unix_ms.saturating_sub(met.since_unix_ms) >= STUCK_AFTER_MS;
    movement.setback.as_ref().filter(is_long)
}

async fn agent_of(control: &Control, cell: &str) -> Option<String> {
    let cell = CellId::new(cell).ok()?;
    control.client.get_cell(&cell).await.ok().map(|cell| cell.agent).filter(|agent| !agent.is_empty())
}

/// Asked only to be shown: where the agent does not say, nothing is shown.
async fn copied(agents: &AgentPool, agent: &str, tenant: &str, seen: &mut Seen) -> Option<Copied> {
    let storage = storage(agents, agent, tenant).await?;
    let (rows, bytes) = (storage.copied_rows, storage.copied_bytes);
    let (rows_per_second, bytes_per_second) = seen.rates(Instant::now(), rows, bytes);
    let (lag_bytes, lag_ms) = (storage.lag_bytes, storage.lag_ms);
    let source = Source::default();
    Some(Copied { rows, bytes, lag_bytes, lag_ms, rows_per_second, bytes_per_second, source })
}

async fn source(agents: &AgentPool, agent: &str, tenant: &str) -> Source {
    let storage = storage(agents, agent, tenant).await.unwrap_or_default();
    Source { commit_us: storage.commit_us, slowed_to: storage.slowed_to, held_back: storage.held_back }
}

async fn storage(agents: &AgentPool, agent: &str, tenant: &str) -> Option<wire::TenantStorage> {
    let tenant = TenantId::new(tenant).ok()?;
    let described: wire::DescribeResponse = agents.describe_uncounted(agent, Some(&tenant)).await.ok()?;
    described.storage.into_iter().find(|storage| storage.tenant == tenant.as_str())
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
    let copied = copied.map_or_else(String::new, |copied| progress(movement, &copied));
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

/// How the copy goes: how much of it is done and when it will be, or how far it lags.
fn progress(movement: &MoveView, copied: &Copied) -> String {
    let so_far = format!("{} rows, {}", copied.rows, bytes(copied.bytes));
    match (movement.phase.as_str(), movement.rows) {
        ("backfill", Some(all)) if all > 0 => {
            let percent = (copied.rows.saturating_mul(100) / all).min(100);
            let rate = format!("{}/s", bytes(copied.bytes_per_second));
            let left = all.saturating_sub(copied.rows).checked_div(copied.rows_per_second);
            let left = left.map_or_else(String::new, |seconds| format!(", {} left", rounded(seconds)));
            let source = of_source(copied.source);
            format!(" · {percent} % of {all} rows, {} at {rate}{left}{source}", bytes(copied.bytes))
        }
        ("catch-up" | "verify" | "sync" | "soak", _) => {
            // A copy that was not heard of yet has no lag that could be told.
            let lag = if copied.lag_ms == u64::MAX {
                "not heard of yet".into()
            } else {
                format!("lag {} ms, {}", copied.lag_ms, bytes(copied.lag_bytes))
            };
            format!(" · {so_far}, {lag}")
        }
        _ => format!(" · {so_far}"),
    }
}

/// What a commit takes where the tenant is, and that the copy makes room for it.
fn of_source(source: Source) -> String {
    let commits = format!("commits there take {}.{} ms", source.commit_us / 1_000, source.commit_us % 1_000 / 100);
    match source {
        Source { held_back: true, .. } => ", waits for changes to be applied".into(),
        Source { commit_us: 0, .. } => String::new(),
        Source { slowed_to: 0, .. } => format!(", {commits}"),
        Source { slowed_to, .. } => format!(", slowed down to {}/s: {commits}", bytes(slowed_to)),
    }
}

fn rounded(seconds: u64) -> String {
    let seconds = if seconds > 600 { seconds / 60 * 60 } else { seconds };
    humantime::format_duration(Duration::from_secs(seconds.max(1))).to_string()
}

/// What the last hold took, where there was one.
fn held(movement: &MoveView) -> String {
    let last = movement.holds.iter().rev().find(|held| held.end != HoldEnd::LetGo);
    last.map_or_else(String::new, |held| {
        // Where no gate is they wait from the beginning on.
        let reads = if movement.routers_held.is_some() { held.writes_ms } else { held.reads_ms };
        format!("; writes waited {} ms, reads {reads} ms", held.writes_ms)
    })
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
            "{} completed: {} lives on {} at epoch {}{}",
            movement.id,
            movement.tenant,
            movement.target,
            movement.epoch,
            held(movement)
        ),
        "rehearsed" => format!(
            "{} rehearsed: {} stays on {} at epoch {}, {} was ready{}",
            movement.id,
            movement.tenant,
            movement.source,
            movement.epoch,
            movement.target,
            held(movement)
        ),
        "taken-over" => format!(
            "{} taken over by force: `cellctl describe tenant {}` shows its owner",
            movement.id, movement.tenant
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
            Some(Copied { rows: 12, bytes: 3_500_000, ..Copied::default() }),
        );
        assert_eq!(
            running,
            "m-7  backfill · 12 rows, 3.3 MiB · attempt 2 · hold ≤ 500 ms · cancel is free · Ctrl-C detaches"
        );
    }

    #[test]
    fn a_copy_of_known_weight_tells_how_much_is_done_how_fast_and_when_it_ends() {
        let mut watched = movement(wire::Phase::Backfill, wire::Intent::Run, None, "");
        watched.rows = Some(1_000);
        let began = Instant::now();
        let mut seen = Seen::default();
        assert_eq!(seen.rates(began, 100, 10 << 20), (0, 0), "one look tells no rate");
        let (rows_per_second, bytes_per_second) = seen.rates(began + Duration::from_secs(2), 300, 30 << 20);
        let copied = Copied { rows: 300, bytes: 30 << 20, rows_per_second, bytes_per_second, ..Copied::default() };
        assert_eq!(progress(&watched, &copied), " · 30 % of 1000 rows, 30.0 MiB at 10.0 MiB/s, 7s left");
        let source = Source { commit_us: 4_260, ..Source::default() };
        let told = progress(&watched, &Copied { source, ..copied });
        assert!(told.ends_with(", 7s left, commits there take 4.2 ms"), "{told}");
        let source = Source { commit_us: 130_000, slowed_to: 3 << 20, held_back: false };
        let told = progress(&watched, &Copied { source, ..copied });
        assert!(told.ends_with(", slowed down to 3.0 MiB/s: commits there take 130.0 ms"), "{told}");
        let told = progress(&watched, &Copied { source: Source { held_back: true, ..source }, ..copied });
        assert!(told.ends_with(", 7s left, waits for changes to be applied"), "{told}");
        watched.phase = "sync".into();
        let copied = Copied { lag_ms: 12, lag_bytes: 2_048, ..copied };
        assert_eq!(progress(&watched, &copied), " · 300 rows, 30.0 MiB, lag 12 ms, 2.0 KiB");
    }

    #[test]
    fn what_is_in_the_way_of_a_move_is_told_when_it_has_been_there_for_long() {
        let mut watched = movement(wire::Phase::Prepare, wire::Intent::Run, None, "");
        assert_eq!(stuck(&watched), None);
        let met = |last_unix_ms| SetbackView {
            code: "BUSY".into(),
            reason: "start capture: transactions that are still open".into(),
            since_unix_ms: 1_000,
            last_unix_ms,
        };
        watched.setback = Some(met(5_999));
        assert_eq!(stuck(&watched), None);
        watched.setback = Some(met(6_000));
        assert_eq!(stuck(&watched), watched.setback.as_ref());
        let described = render::describe_move(&watched);
        assert!(
            described.contains("In its way:    BUSY: start capture: transactions that are still open (since 1970"),
            "{described}"
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
    fn where_no_gate_is_reads_have_waited_as_long_as_writes() {
        let of = |routers_held| {
            let stamp = |phase: wire::Phase, at_unix_ms| wire::PhaseStamp {
                phase: phase.into(),
                attempt: 2,
                at_unix_ms,
                revision: 1,
            };
            let history = vec![
                stamp(wire::Phase::Hold, 1_000),
                stamp(wire::Phase::Fenced, 1_030),
                stamp(wire::Phase::Activate, 1_040),
                stamp(wire::Phase::Soak, 1_050),
            ];
            let phase = wire::Phase::Soak.into();
            let moved = wire::Move {
                routers_held,
                history,
                phase,
                attempt: 2,
                end: "completed".into(),
                ..wire::Move::default()
            };
            closing(&MoveView::from(moved))
        };
        let gated = of(None);
        assert!(gated.ends_with("writes waited 50 ms, reads 20 ms"), "{gated}");
        let ungated = of(Some(wire::RoutersHeld { seen: 3, fenced: 0 }));
        assert!(ungated.ends_with("writes waited 50 ms, reads 50 ms"), "{ungated}");
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
