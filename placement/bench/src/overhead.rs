//! What a move costs while it is under way: the requests of the tenant that moves, and of a neighbour in the same cell, phase by phase,
//! beside those a moment before. Both come through the router, as fast as they are answered but for a little rest.

use std::time::Duration;

use anyhow::Result;
use cell_client::{WriteOptions, wire};
use cell_figures::{Figure, Figures, median};
use cell_model::{MoveId, MoveIntent, MoveOptions, Phase};

use crate::Overhead;
use crate::clients::{Clients, Window};
use crate::figures::say;
use crate::fleet::{Fleet, entered};
use crate::holding::judged;

/// Of each of the two tenants.
const CLIENTS: u32 = 4;
/// Documents of each, besides those of its clients.
const DOCUMENTS: u32 = 500;
/// The tenant that moves is so large, and read so fast, that the copy lasts a window and a half.
const COPY_BYTES_PER_SECOND: u64 = 2 << 20;
const ROW_BYTES: u32 = 400;
const BEFORE: &str = "the same clients before the move";

/// In the order of a move.
const MEASURED: [&str; 4] = ["backfill", "caught up", "sync", "soak"];

/// What was seen in one phase, of whoever moves and of the neighbour.
#[derive(Debug, Default)]
struct Seen {
    moves: Vec<Window>,
    beside: Vec<Window>,
}

impl Seen {
    fn figures(&self, phase: &str, still: &Self, figures: &mut Figures) {
        for (whose, now, before) in
            [("the tenant that moves", &self.moves, &still.moves), ("its neighbour", &self.beside, &still.beside)]
        {
            let rate = |windows: &[Window]| median(windows.iter().map(|window| window.per_second));
            let late = |windows: &[Window]| median(windows.iter().map(|window| window.p99_ms));
            let rates = (rate(now), rate(before));
            let measure = format!("requests of {whose}, {phase}");
            figures.add(Figure::beside(measure, "/s", rates, BEFORE, None).goal(0.95));
            let measure = format!("p99 of {whose}, {phase}");
            figures.add(Figure::less_beside(measure, "ms", (late(now), late(before)), BEFORE, None));
        }
    }
}

/// Both, at once.
struct Pair<'a> {
    moves: &'a Clients,
    beside: &'a Clients,
    window: Duration,
}

impl Pair<'_> {
    async fn look(&self, into: &mut Seen) {
        let (moves, beside) = tokio::join!(self.moves.window(self.window), self.beside.window(self.window));
        into.moves.push(moves);
        into.beside.push(beside);
    }
}

pub(crate) async fn run(fleet: &Fleet, wanted: &Overhead, figures: &mut Figures) -> Result<()> {
    let window = Duration::from_secs(wanted.seconds.into());
    let (mover, neighbour) = (fleet.tenant("mover").await?, fleet.tenant("neighbour").await?);
    let mut clients = [Clients::of(fleet.router, "mover").await?, Clients::of(fleet.router, "neighbour").await?];
    for its in &mut clients {
        its.fill(DOCUMENTS).await?;
    }
    let bytes = COPY_BYTES_PER_SECOND * u64::from(wanted.seconds) * 3 / 2;
    let bulk = u32::try_from(bytes / u64::from(ROW_BYTES)).unwrap_or(u32::MAX);
    fleet.fill(&mover, bulk, ROW_BYTES).await?;
    for its in &mut clients {
        its.start(CLIENTS);
    }
    let (mut still, mut seen) = (Seen::default(), MEASURED.map(|_| Seen::default()));
    for round in 1..=wanted.rounds {
        let pair = Pair { moves: &clients[0], beside: &clients[1], window };
        tokio::time::sleep(window / 4).await;
        pair.look(&mut still).await;
        one_move(fleet, &mover, &pair, &mut seen).await?;
        // Back, where the neighbour is.
        let brisk = MoveOptions { sync_steady_ms: 100, soak_ms: 0, retain_ms: 0, ..MoveOptions::default() };
        fleet.reclaimed(&mover).await?;
        fleet.moved(&mover, brisk, |movement| movement.end == "completed").await?;
        fleet.reclaimed(&mover).await?;
        say(&format!("overhead, round {round}: measured in {}", MEASURED.join(", ")));
    }
    for (phase, seen) in MEASURED.iter().zip(&seen) {
        seen.figures(phase, &still, figures);
    }
    let missing = bulk.abs_diff(fleet.in_bulk(&mover).await?);
    figures.add(Figure::at_most(
        "rows of the tenant that moves, missing or too many",
        "",
        missing.into(),
        Some(0.0),
        None,
    ));
    for (its, tenant) in clients.into_iter().zip([&mover, &neighbour]) {
        let seen = its.end(&fleet.database_of(tenant).await?).await?;
        judged(&seen, &format!("phases of {tenant}"), DOCUMENTS, figures);
    }
    Ok(())
}

async fn one_move(
    fleet: &Fleet,
    mover: &cell_model::TenantId,
    pair: &Pair<'_>,
    seen: &mut [Seen; 4],
) -> Result<()> {
    let in_window = u32::try_from(pair.window.as_millis()).unwrap_or(u32::MAX);
    let options = MoveOptions {
        bytes_per_second: COPY_BYTES_PER_SECOND,
        until: Some(Phase::CatchUp),
        sync_steady_ms: in_window.saturating_mul(2),
        soak_ms: in_window.saturating_mul(2),
        retain_ms: 0,
        ..MoveOptions::default()
    };
    let is_in = |phase: wire::Phase| move |movement: &wire::Move| entered(movement, phase).is_ok();
    let (id, _) = fleet.moved(mover, options, is_in(wire::Phase::Backfill)).await?;
    pair.look(&mut seen[0]).await;
    let unthrottled = fleet.control.throttle_move(id, 0, WriteOptions::default()).await;
    // The copy may have ended by itself.
    drop(unthrottled);
    fleet.wait(id, is_in(wire::Phase::Verify)).await?;
    pair.look(&mut seen[1]).await;
    resume(fleet, id).await?;
    fleet.wait(id, |movement| movement.in_sync).await?;
    pair.look(&mut seen[2]).await;
    fleet.wait(id, is_in(wire::Phase::Soak)).await?;
    pair.look(&mut seen[3]).await;
    fleet.wait(id, |movement| movement.end == "completed").await.map(drop)
}

async fn resume(fleet: &Fleet, id: MoveId) -> Result<()> {
    fleet.control.steer_move(id, MoveIntent::Resume, WriteOptions::default()).await?;
    Ok(())
}
