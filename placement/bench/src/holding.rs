//! Moves under load: for how long writes and reads wait, whether anything fails, and how many moves an hour has room for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use cell_chaos::check::FaultKind;
use cell_client::wire;
use cell_figures::{Figure, Figures, median};
use cell_model::{Attempt, HoldEnd, MoveOptions, PhaseStamp, Revision, TenantId, UnixMillis, holds};
use tokio::task::JoinSet;

use crate::Hold;
use crate::clients::{Clients, Seen};
use crate::figures::{say, spread};
use crate::fleet::{Fleet, entered, phases};
use crate::load::histogram;

/// Documents of a small tenant.
const SMALL: u32 = 200;
/// Tenants that move at once, each back and forth.
const AT_ONCE: u32 = 8;
const EACH: u32 = 5;

/// Everything that a move waits for by choice is made short: what is left is work.
fn brisk() -> MoveOptions {
    MoveOptions { sync_steady_ms: 100, soak_ms: 0, retain_ms: 0, retries: 100, ..MoveOptions::default() }
}

fn completed(movement: &wire::Move) -> bool {
    movement.end == "completed"
}

pub(crate) async fn run(fleet: &Fleet, wanted: &Hold, figures: &mut Figures) -> Result<()> {
    one_after_the_other(fleet, wanted, figures).await?;
    ten_megabytes(fleet, figures).await?;
    several_at_once(fleet, figures).await
}

async fn one_after_the_other(fleet: &Fleet, wanted: &Hold, figures: &mut Figures) -> Result<()> {
    let tenant = fleet.tenant("small").await?;
    let mut clients = Clients::of(fleet.router, "small").await?;
    clients.fill(SMALL).await?;
    say(&format!("hold: {} moves of a tenant with {} clients", wanted.moves, wanted.clients));
    let (mut writes, mut reads, mut whole) = (histogram(), histogram(), histogram());
    let (mut missed, all) = (0, Instant::now());
    clients.start(wanted.clients);
    for number in 1..=wanted.moves {
        let began = Instant::now();
        let (_, movement) = fleet.moved(&tenant, brisk(), completed).await?;
        whole.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        for held in holds(&stamps(&movement)) {
            if held.end == HoldEnd::CutOver {
                writes.saturating_record((held.writes_ms * 1_000).max(1));
                reads.saturating_record((held.reads_ms * 1_000).max(1));
            } else {
                missed += 1;
            }
        }
        if number % 20 == 0 {
            say(&format!("  {number} moves, writes waited {} ms at the most", writes.max() / 1_000));
        }
    }
    let took = all.elapsed();
    let seen = clients.end(&fleet.database_of(&tenant).await?).await?;
    say(&format!("  {} moves in {:.0} s, {} requests", wanted.moves, took.as_secs_f64(), seen.requests));
    spread(figures, "write hold, small tenant under load", &writes, [Some(50.0), Some(150.0), Some(2_000.0)]);
    spread(figures, "read gap, small tenant under load", &reads, [None, None, None]);
    spread(figures, "latency of a write, all the while", &seen.writes, [None, None, Some(2_000.0)]);
    spread(figures, "latency of a read, all the while", &seen.reads, [None, None, None]);
    spread(figures, "a whole move, small tenant", &whole, [None, None, None]);
    figures.add(Figure::at_most("holds that were missed and tried again", "", f64::from(missed), None, None));
    judged(&seen, &format!("{} moves", wanted.moves), SMALL + wanted.moves, figures);
    Ok(())
}

/// What the judge found of so many writes at least.
pub(crate) fn judged(seen: &Seen, during: &str, writes: u32, figures: &mut Figures) {
    let mut none = |what: String, found: u64| {
        let found = f64::from(u32::try_from(found).unwrap_or(u32::MAX));
        figures.add(Figure::at_most(what, "", found, Some(0.0), None));
    };
    none(format!("failed requests in {during}"), seen.failed.len() as u64);
    use FaultKind::{Duplicated, Leaked, Lost, Phantom, Reordered, Resurrected};
    for kind in [Lost, Duplicated, Reordered, Resurrected, Leaked, Phantom] {
        none(format!("{} writes or reads in {during}", kind.as_str()), seen.findings.count(kind));
    }
    let judged = u32::try_from(seen.findings.acked_writes).unwrap_or(u32::MAX);
    // A judge who has seen nothing finds nothing.
    figures.add(Figure::at_least(
        "writes that were acknowledged and judged",
        "",
        f64::from(judged),
        Some(f64::from(writes)),
    ));
    let reads = u32::try_from(seen.findings.reads).unwrap_or(u32::MAX);
    figures.add(Figure::at_least("reads that were judged", "", f64::from(reads), Some(1.0)));
    for (number, failure) in seen.failed.iter().take(5).enumerate() {
        say(&format!("  failed request {}: {failure}", number + 1));
    }
    for fault in seen.findings.faults.iter().take(5) {
        say(&format!("  {}: {} of {}: {}", fault.kind.as_str(), fault.object, fault.tenant, fault.detail));
    }
}

fn stamps(movement: &wire::Move) -> Vec<PhaseStamp> {
    let known = |stamp: &wire::PhaseStamp| {
        let phase = wire::Phase::try_from(stamp.phase).ok()?.try_into().ok()?;
        let (at, revision) = (UnixMillis(stamp.at_unix_ms), Revision(stamp.revision));
        Some(PhaseStamp { phase, attempt: Attempt(stamp.attempt), at, revision })
    };
    movement.history.iter().filter_map(known).collect()
}

async fn ten_megabytes(fleet: &Fleet, figures: &mut Figures) -> Result<()> {
    let tenant = fleet.tenant("medium").await?;
    fleet.fill(&tenant, 23_500, 400).await?;
    let mut took = Vec::new();
    for _ in 0..5 {
        // The defaults of `cellctl move tenant`, half a second of sync among them; until the other cell serves.
        let options = MoveOptions { soak_ms: 0, retain_ms: 0, ..MoveOptions::default() };
        let (_, movement) = fleet.moved(&tenant, options, completed).await?;
        let served = entered(&movement, wire::Phase::Soak)?;
        let asked = entered(&movement, wire::Phase::Preflight)?;
        took.push(Duration::from_millis(served - asked).as_secs_f64());
        say(&format!("  10 MB: {:.2} s: {}", took.last().copied().unwrap_or_default(), phases(&movement)));
        fleet.reclaimed(&tenant).await?;
    }
    let took = median(took);
    figures.add(Figure::at_most("10 MB tenant, asked for until served, p50", "s", took, Some(2.0), None));
    Ok(())
}

async fn several_at_once(fleet: &Fleet, figures: &mut Figures) -> Result<()> {
    let mut tenants = Vec::new();
    for number in 1..=AT_ONCE {
        let name = format!("many-{number}");
        let tenant = fleet.tenant(&name).await?;
        Clients::of(fleet.router, &name).await?.fill(SMALL).await?;
        tenants.push(tenant);
    }
    let began = Instant::now();
    let mut driving = JoinSet::new();
    for tenant in tenants {
        let control = fleet.control.clone();
        let first = fleet.elsewhere(&tenant).await?;
        driving.spawn(async move { back_and_forth(&control, &tenant, &first).await });
    }
    while let Some(driven) = driving.join_next().await {
        driven??;
    }
    let per_hour = f64::from(AT_ONCE * EACH) / began.elapsed().as_secs_f64() * 3_600.0;
    let measure = format!("moves per hour, {AT_ONCE} tenants at once");
    figures.add(Figure::at_least(measure, "/h", per_hour, Some(2_000.0)));
    Ok(())
}

async fn back_and_forth(
    control: &cell_client::ControlClient,
    tenant: &TenantId,
    first: &cell_model::CellId,
) -> Result<()> {
    let mut target = first.clone();
    for _ in 0..EACH {
        let home = control.get_tenant(tenant).await?.mapping.unwrap_or_default().owner;
        let (id, _) = control.move_tenant(tenant, &target, brisk(), cell_client::WriteOptions::default()).await?;
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let movement = control.get_move(id).await?;
            if completed(&movement) {
                break;
            }
            if !movement.end.is_empty() || Instant::now() > deadline {
                bail!("{id} is {}: {} {}", movement.end, movement.end_code, movement.end_reason);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        target = cell_model::CellId::new(home)?;
    }
    Ok(())
}
