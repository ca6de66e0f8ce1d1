//! The backfill beside binary `COPY … | COPY …` by psql, between the same two servers, in turns.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use cell_client::wire;
use cell_figures::{Figure, Figures, median};
use cell_model::{MoveOptions, Phase, TenantId};
use cell_pg_server::unprivileged;

use crate::Copy;
use crate::figures::say;
use crate::fleet::{Fleet, entered};
use crate::load::{Entry, Writers, session};

/// Bytes of a document.
const ROW_BYTES: u32 = 400;
const PEER: &str = "psql COPY | psql COPY, binary";

pub(crate) async fn run(fleet: &Fleet, wanted: &Copy, figures: &mut Figures) -> Result<()> {
    let tenant = fleet.tenant("large").await?;
    let rows = wanted.megabytes * 1_000_000 / ROW_BYTES;
    let source = session(&fleet.servers[0].url()).await?;
    fleet.fill(&tenant, rows, ROW_BYTES).await?;
    // Each for itself: statements that are sent together are one transaction, which VACUUM refuses.
    source.batch_execute("VACUUM ANALYZE documents").await?;
    source.batch_execute("CHECKPOINT").await?;
    let bytes: i64 = source
        .query_one("SELECT sum(pg_column_size(d.*))::bigint FROM documents d WHERE tenant_id = 'large'", &[])
        .await?
        .get(0);
    let megabytes = f64::from(u32::try_from(bytes / 1_000).unwrap_or(u32::MAX)) / 1_000.0;
    say(&format!("copy: {rows} rows, {megabytes:.0} MB"));
    for (beside, floor) in [("idle", 0.9), ("beside writers", 0.7)] {
        let writers = if beside == "idle" { None } else { Some(writers(fleet, &tenant).await?) };
        let (mut ours, mut peer) = (Vec::new(), Vec::new());
        for round in 1..=wanted.rounds {
            let copied = peer_copy(fleet).await?;
            let backfilled = backfill(fleet, &tenant).await?;
            say(&format!(
                "  {beside}, round {round}: {:.1} MB/s beside {:.1} MB/s",
                megabytes / backfilled.as_secs_f64(),
                megabytes / copied.as_secs_f64()
            ));
            ours.push(megabytes / backfilled.as_secs_f64());
            peer.push(megabytes / copied.as_secs_f64());
        }
        if let Some(writers) = writers {
            writers.end().await?;
        }
        let rates = (median(ours), median(peer));
        figures.add(Figure::beside(format!("backfill, {beside}"), "MB/s", rates, PEER, floor));
    }
    Ok(())
}

/// About half of what the source can do: four writers that rest as long as they work.
async fn writers(fleet: &Fleet, tenant: &TenantId) -> Result<Writers> {
    let mapping = fleet.control.get_tenant(tenant).await?.mapping.unwrap_or_default();
    let entry = Entry::Enter { uid: mapping.uid.cast_signed(), epoch: mapping.epoch.cast_signed() };
    Writers::start(&fleet.servers[0].url(), tenant.as_str(), (4, Duration::from_millis(4)), &entry).await
}

/// From one server into a table like ours, with its key, on the other.
async fn peer_copy(fleet: &Fleet) -> Result<Duration> {
    let target = session(&fleet.servers[1].url()).await?;
    target
        .batch_execute(
            "DROP TABLE IF EXISTS peer.documents; CREATE SCHEMA IF NOT EXISTS peer; \
             CREATE TABLE peer.documents (LIKE public.documents INCLUDING ALL); CHECKPOINT",
        )
        .await?;
    let columns = "tenant_id, id, version, body";
    let psql = |server: usize, sql: &str| {
        let mut command = unprivileged(&fleet.servers[server].psql());
        command.args(["--no-psqlrc", "--quiet", &fleet.servers[server].url(), "-c", sql]);
        command
    };
    let out = format!("COPY (SELECT {columns} FROM documents WHERE tenant_id = 'large') TO STDOUT (FORMAT binary)");
    let into = format!("COPY peer.documents ({columns}) FROM STDIN (FORMAT binary)");
    let (mut reads, mut writes) = (psql(0, &out), psql(1, &into));
    let took = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let mut reading = reads.stdout(Stdio::piped()).spawn()?;
        let Some(pipe) = reading.stdout.take() else { bail!("the reader has no output") };
        let written = writes.stdin(pipe).status()?;
        if !(written.success() && reading.wait()?.success()) {
            bail!("COPY | COPY failed");
        }
        Ok(began.elapsed())
    });
    let took = took.await??;
    target.batch_execute("DROP TABLE peer.documents").await?;
    Ok(took)
}

/// A move as far as the end of its backfill; then it is taken back.
async fn backfill(fleet: &Fleet, tenant: &TenantId) -> Result<Duration> {
    session(&fleet.servers[1].url()).await?.batch_execute("CHECKPOINT").await?;
    let options = MoveOptions { until: Some(Phase::Backfill), ..MoveOptions::default() };
    let is_there = |movement: &wire::Move| entered(movement, wire::Phase::CatchUp).is_ok();
    let (id, movement) = fleet.moved(tenant, options, is_there).await?;
    let took = entered(&movement, wire::Phase::CatchUp)? - entered(&movement, wire::Phase::Backfill)?;
    fleet.cancel(id).await?;
    session(&fleet.servers[1].url()).await?.batch_execute("VACUUM documents").await?;
    Ok(Duration::from_millis(took.max(1)))
}
