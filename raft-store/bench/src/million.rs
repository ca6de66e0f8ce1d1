//! A full store: what it weighs, how fast it fills a cold watcher and one that was away, and what it does to writes.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cell_client::{Link, cluster};
use cell_figures::{Figure, Figures};

use crate::ground::{Ground, bytes_of};
use crate::load::{self, Keys, Work};
use crate::nodes::{Kind, NodeOptions, Nodes};
use crate::{number, say, watching};

/// Changes that a watcher has missed which was away.
const GAP: u64 = 100_000;
/// Of how many mappings the floors are.
const WHOLE: u64 = 1_000_000;
/// A million commands leave a data directory of so many megabytes at the most.
const DIRECTORY_MB_MAX: f64 = 512.0;
/// So few that snapshots of everything are taken while it is measured how long writes wait.
const SNAPSHOT_AFTER: &str = "2000";
const PATIENCE: Duration = Duration::from_millis(200);
/// How long a node that was killed may take until it answers.
const STARTING: Duration = Duration::from_secs(120);
/// How long the next frame of a watch may take.
const FOLLOWING: Duration = Duration::from_secs(60);

/// A million mappings: how long they take to a cold watcher, what they weigh, how long a start takes
#[derive(Debug, clap::Args)]
pub(crate) struct Million {
    /// How many mappings
    #[arg(long, default_value_t = WHOLE, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    mappings: u64,
}

pub(crate) async fn run(million: &Million, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
    let directory = ground.directory()?;
    let extra = ["--snapshot-after", SNAPSHOT_AFTER].map(str::to_owned).to_vec();
    let options = NodeOptions { extra, ..NodeOptions::default() };
    let mut nodes = Nodes::start(Kind::Cellway, directory.path(), 3, options).await?;
    let leader = nodes.leader().await?;
    load::prepare(&nodes.addresses[leader]).await?;
    let keys = Keys::default();
    let empty = resident(nodes.pid(leader).context("it runs")?)?;
    let filled = load::fill(&nodes, million.mappings, &keys).await?;
    say(&format!("{} mappings made in {:.1} s\n", keys.used(), filled.as_secs_f64()));
    weigh(&nodes, &keys, empty, figures).await?;
    resume(&nodes, &keys, figures).await?;
    beside_snapshots(&nodes, &keys, figures).await?;
    restart(&mut nodes, &keys, figures).await
}

/// Memory and disk of the leader, and how long a cold watcher takes.
async fn weigh(nodes: &Nodes, keys: &Keys, empty: u64, figures: &mut Figures) -> anyhow::Result<()> {
    let (leader, mappings) = (nodes.leader().await?, keys.used());
    let whole = mappings >= WHOLE;
    if !whole {
        figures.leave_out(format!("million: floors of {WHOLE} mappings, because there were {mappings}"));
    }
    let full = resident(nodes.pid(leader).context("it runs")?)?;
    let cold = followed(&nodes.addresses[leader], 1, mappings).await?;
    let disk = bytes_of(&nodes.data_dir(leader))?;
    let measure = |what: &str| format!("{mappings} mappings: {what}");
    let (floor, goal) = (whole.then_some(800.0), whole.then_some(400.0));
    let megabytes = |bytes: u64| number(bytes / 1_000) / 1_000.0;
    figures.add(Figure::at_most(measure("resident, leader"), "MB", megabytes(full), floor, goal));
    figures.add(Figure::free(measure("bytes of each"), "B", number(full.saturating_sub(empty) / mappings.max(1))));
    let bound = whole.then_some(DIRECTORY_MB_MAX);
    figures.add(Figure::at_most(measure("data directory"), "MB", megabytes(disk), bound, None));
    figures.add(Figure::free(measure("to a cold watcher, unsigned"), "s", cold.as_secs_f64()));
    Ok(())
}

/// How long a watcher takes that has missed [`GAP`] events.
async fn resume(nodes: &Nodes, keys: &Keys, figures: &mut Figures) -> anyhow::Result<()> {
    let address = &nodes.addresses[nodes.leader().await?];
    let missed = GAP.min(keys.used());
    if missed < GAP {
        figures.leave_out(format!("million: the floor of a gap of {GAP} events, because there were {missed}"));
    }
    // Each of the last events has a revision of its own.
    let until = cluster::status(address, PATIENCE, &Link::Plaintext).await?.revision;
    let from = i64::try_from(until + 1 - missed)?;
    let mut took = Vec::new();
    for _ in 0..5 {
        took.push(followed(address, from, missed).await?.as_secs_f64());
    }
    let measure = format!("watch resumed over a gap of {missed} events");
    let floor = (missed == GAP).then_some(0.5);
    figures.add(Figure::at_most(measure, "s", cell_figures::median(took), floor, None));
    Ok(())
}

/// Puts by 16 clients beside snapshots of everything. What they wait for is mostly the disk, which syncs the snapshots of
/// three nodes; how long applying alone stands still is in `cold`.
async fn beside_snapshots(nodes: &Nodes, keys: &Keys, figures: &mut Figures) -> anyhow::Result<()> {
    let snapshot = nodes.data_dir(nodes.leader().await?).join("snapshot/current.snapshot");
    let taken = || std::fs::metadata(&snapshot).and_then(|file| file.modified()).ok();
    let before = taken();
    let puts = load::run(nodes, Work::Put, 16, Duration::from_secs(10), keys).await?;
    let measure = |what: &str| format!("put x16 beside snapshots of everything: {what}");
    figures.add(Figure::free(measure("p50"), "ms", puts.p50_ms));
    figures.add(Figure::free(measure("p99"), "ms", puts.p99_ms));
    figures.add(Figure::free(measure("worst"), "ms", puts.worst_ms));
    let were_taken = f64::from(u8::from(taken() != before));
    figures.add(Figure::at_least(measure("a snapshot was taken"), "", were_taken, Some(1.0)));
    Ok(())
}

async fn restart(nodes: &mut Nodes, keys: &Keys, figures: &mut Figures) -> anyhow::Result<()> {
    let leader = nodes.leader().await?;
    nodes.kill(leader)?;
    let begun = Instant::now();
    nodes.spawn(leader)?;
    while cluster::status(&nodes.addresses[leader], PATIENCE, &Link::Plaintext).await.is_err() {
        ensure!(nodes.runs(leader), "the node does not start:\n{}", nodes.last_words(leader));
        ensure!(begun.elapsed() < STARTING, "the node does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let measure = format!("{} mappings: killed node until it answers", keys.used());
    figures.add(Figure::free(measure, "s", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// How long a new watcher takes to get `count` mappings from revision `from` on; 1: everything that there is.
async fn followed(address: &str, from: i64, count: u64) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let client = crate::kv::watch_client::WatchClient::new(crate::nodes::connect(address)?);
    let mut stream = watching::begin(client, from).await?;
    let mut got = 0;
    while got < count {
        let next = tokio::time::timeout(FOLLOWING, stream.message()).await;
        let next = next.with_context(|| format!("{got} events came of {count}, and no more come"))?;
        got += next?.context("the watch ended")?.events.len() as u64;
    }
    ensure!(got == count, "{got} events came, and {count} were missed");
    Ok(begun.elapsed())
}

fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the kernel says VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib * 1024)
}
