//! A node with a large data directory that is killed: how long until it answers a linearizable read again.
//!
//! One node, so that nobody helps it: what it says when it is ready stands on its own disk.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cell_figures::{Figure, Figures};

use crate::ground::{Ground, bytes_of};
use crate::load::{self, Keys};
use crate::nodes::{Kind, NodeOptions, Nodes};
use crate::{number, say};

/// Mappings between two looks at the directory.
const STEP: u64 = 100_000;
/// More of them are not made, however small each one is.
const MAPPINGS_MAX: u64 = 30_000_000;
/// How long it may take.
const RECOVERING: Duration = Duration::from_secs(600);

/// How long a node needs that was killed on a large data directory
#[derive(Debug, clap::Args)]
pub(crate) struct Recover {
    /// Mappings are made until the data directory takes so many millions of bytes on its disk
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    megabytes: u64,
    /// How often it is killed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

pub(crate) async fn run(recover: &Recover, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
    let directory = ground.directory()?;
    let mut nodes = Nodes::start(Kind::Cellway, directory.path(), 1, NodeOptions::default()).await?;
    let (address, data) = (nodes.addresses[0].clone(), nodes.data_dir(0));
    load::prepare(&address).await?;
    // Names as long as names may be: a large directory of fewer mappings.
    let (keys, begun) = (Keys::long(), Instant::now());
    fill(recover, &nodes, &data, &keys).await?;
    say(&format!("{} mappings made in {:.0} s\n", keys.used(), begun.elapsed().as_secs_f64()));
    let (mut took, mut least) = (Vec::new(), f64::INFINITY);
    for round in 1..=recover.rounds {
        // A start writes a snapshot and lets go of the log before it: what the next one starts from is as much again.
        fill(recover, &nodes, &data, &keys).await?;
        nodes.kill(0)?;
        // What was being written when it was killed is there or not: as it is found is what is started from.
        let megabytes = number(bytes_of(&data)? / 1_000_000);
        least = least.min(megabytes);
        let killed = Instant::now();
        nodes.spawn(0)?;
        ready(&mut nodes, &address, &keys).await.with_context(|| format!("after kill {round}"))?;
        took.push(killed.elapsed().as_secs_f64());
        say(&format!("{megabytes:.0} MB: ready after {:.2} s\n", killed.elapsed().as_secs_f64()));
    }
    let measure = |what: &str| format!("killed node, {least:.0} MB of {} mappings: {what}", keys.used());
    figures.add(Figure::free(measure("until it answers a linearizable read"), "s", cell_figures::median(took)));
    figures.add(Figure::at_least(
        measure("data directory, the least"),
        "MB",
        least,
        Some(number(recover.megabytes) * 0.9),
    ));
    Ok(())
}

/// Makes mappings until the directory takes as much as was asked for.
async fn fill(recover: &Recover, nodes: &Nodes, data: &Path, keys: &Keys) -> anyhow::Result<()> {
    while bytes_of(data)? < recover.megabytes * 1_000_000 {
        ensure!(
            keys.used() < MAPPINGS_MAX,
            "{MAPPINGS_MAX} mappings take less than {} MB: ask for fewer --megabytes",
            recover.megabytes
        );
        load::fill(nodes, STEP, keys).await?;
    }
    Ok(())
}

/// Waits until the last mapping that was made is read again.
async fn ready(nodes: &mut Nodes, address: &str, keys: &Keys) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        match load::read(address, &keys.last()).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                ensure!(nodes.runs(0), "the node has ended:\n{}", nodes.last_words(0));
                ensure!(begun.elapsed() < RECOVERING, "it is not ready: {error:#}");
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
