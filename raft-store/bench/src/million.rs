//! A full store: what it weighs, how fast it fills a cold watcher and one that was away, and what it does to writes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use crate::load::{self, Keys, Round, Work};
use crate::nodes::{Kind, NodeOptions, Nodes};
use crate::watching;

/// Changes that a watcher has missed which was away.
const GAP: u64 = 100_000;
/// So few that snapshots of everything are taken while it is measured how long writes wait.
const SNAPSHOT_AFTER: &str = "2000";

/// A million mappings: how long they take to a cold watcher, what they weigh, how long a start takes
#[derive(Debug, clap::Args)]
pub(crate) struct Million {
    /// How many mappings
    #[arg(long, default_value_t = 1_000_000)]
    mappings: u64,
    /// Where the report goes
    #[arg(long, default_value = "target/bench/store-million.json")]
    out: PathBuf,
}

/// What a full store weighs.
#[derive(Debug, Serialize)]
struct Weight {
    mappings: u64,
    fill_seconds: f64,
    resident_mib: u64,
    bytes_per_mapping: u64,
    data_directory_mib: u64,
    cold_watch_seconds: f64,
    /// Until a watcher that has missed [`GAP`] changes has them all.
    resume_seconds: f64,
    /// Puts by 16 clients beside snapshots of everything.
    beside_snapshots: Round,
    snapshots_taken_by_then: bool,
    restart_seconds: f64,
}

pub(crate) async fn million(million: Million) -> anyhow::Result<()> {
    let parent = million.out.parent().context("the report has a directory")?;
    std::fs::create_dir_all(parent)?;
    let temporary = tempfile::tempdir_in(parent)?;
    let extra = ["--snapshot-after", SNAPSHOT_AFTER].map(str::to_owned).to_vec();
    let options = NodeOptions { extra, ..NodeOptions::default() };
    let mut nodes = Nodes::start(Kind::Cellway, temporary.path(), 3, options).await?;
    let leader = nodes.leader().await?;
    load::prepare(&nodes.addresses[leader]).await?;
    let keys = Keys::default();
    let empty = resident(nodes.pid(leader).context("it runs")?)?;
    let filled = load::fill(&nodes.addresses[leader], million.mappings, &keys).await?;
    let leader = nodes.leader().await?;
    let full = resident(nodes.pid(leader).context("it runs")?)?;
    let cold = followed(&nodes.addresses[leader], 1, keys.used()).await?;
    let missed = GAP.min(keys.used());
    // The cell has the first revision, and each mapping one.
    let resumed = followed(&nodes.addresses[leader], i64::try_from(keys.used() + 2 - missed)?, missed).await?;
    let snapshot = nodes.data_dir(leader).join("snapshot/current.snapshot");
    let taken = || std::fs::metadata(&snapshot).and_then(|file| file.modified()).ok();
    let before = taken();
    let beside_snapshots = load::run(&nodes, Work::Put, 16, Duration::from_secs(10), &keys).await?;
    let snapshots_taken_by_then = taken() != before;
    let leader = nodes.leader().await?;
    let data = bytes_of(&nodes.data_dir(leader))?;
    nodes.kill(leader)?;
    let begun = Instant::now();
    nodes.spawn(leader)?;
    let patience = Duration::from_millis(200);
    while cell_client::cluster::status(&nodes.addresses[leader], patience, &cell_client::Link::Plaintext)
        .await
        .is_err()
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let weight = Weight {
        mappings: keys.used(),
        fill_seconds: filled.as_secs_f64(),
        resident_mib: full >> 20,
        bytes_per_mapping: full.saturating_sub(empty) / keys.used().max(1),
        data_directory_mib: data >> 20,
        cold_watch_seconds: cold.as_secs_f64(),
        resume_seconds: resumed.as_secs_f64(),
        beside_snapshots,
        snapshots_taken_by_then,
        restart_seconds: begun.elapsed().as_secs_f64(),
    };
    let text = serde_json::to_string_pretty(&weight)? + "\n";
    std::fs::write(&million.out, &text)?;
    crate::say(&text);
    Ok(())
}

/// How long a new watcher takes to get `count` mappings from revision `from` on; 1: everything that there is.
async fn followed(address: &str, from: i64, count: u64) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let client = crate::kv::watch_client::WatchClient::new(crate::nodes::connect(address)?);
    let mut stream = watching::begin(client, from).await?;
    let mut got = 0;
    while got < count {
        got += stream.message().await?.context("the watch ended")?.events.len() as u64;
    }
    Ok(begun.elapsed())
}

fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the kernel says VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib * 1024)
}

fn bytes_of(directory: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { bytes_of(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
