//! What the machine itself costs while a run goes on: a sync, a round trip, and how soon a commit is in a router.
//!
//! A hold is made of syncs and round trips. Told beside them, its length says something of the protocol and not only of
//! the disk and of whoever else uses the machine.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use cell_client::{ControlClient, WriteOptions};
use serde::Serialize;

use crate::exercise::Spread;
use crate::fleet::{RouterNode, fetch};

const SYNCS: usize = 100;
const ROUND_TRIPS: usize = 200;
const COMMITS: usize = 100;
const SYNC_BYTES: usize = 4_096;
const VISIBLE_WITHIN: Duration = Duration::from_secs(5);

/// What routers call the revision up to which their table is complete.
const TABLE_REVISION: &str = "cell_router_table_revision";

/// Costs of the same machine in the same run, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Gauges {
    /// Appending 4 KiB to a file and syncing it.
    pub sync_ms: Spread,
    /// A request to a router that it answers itself, connection included.
    pub round_trip_ms: Spread,
    /// From the answer to a command until a router says that it has its revision; a round trip is part of it.
    pub commit_to_router_ms: Spread,
}

impl Gauges {
    /// Takes them, one after the other.
    ///
    /// # Errors
    /// What could not be measured, and why.
    pub async fn take(directory: &Path, control: &ControlClient, router: &RouterNode) -> Result<Self, String> {
        let file = directory.join("gauge");
        let syncs = tokio::task::spawn_blocking(move || syncs(&file)).await.map_err(|error| error.to_string())?;
        Ok(Self {
            sync_ms: Spread::of_micros(syncs.map_err(|error| format!("sync: {error}"))?),
            round_trip_ms: Spread::of_micros(round_trips(router).await?),
            commit_to_router_ms: Spread::of_micros(commits(control, router).await?),
        })
    }
}

fn micros_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn syncs(path: &Path) -> std::io::Result<Vec<u64>> {
    let mut file = File::create(path)?;
    let mut took = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&[7; SYNC_BYTES])?;
        file.sync_data()?;
        took.push(micros_since(began));
    }
    drop(file);
    std::fs::remove_file(path)?;
    Ok(took)
}

async fn round_trips(router: &RouterNode) -> Result<Vec<u64>, String> {
    let mut took = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        fetch(&router.admin, "/livez").await?;
        took.push(micros_since(began));
    }
    Ok(took)
}

/// Changes a limit there and back again: a change like any other to the watch, and one that moves no tenant.
async fn commits(control: &ControlClient, router: &RouterNode) -> Result<Vec<u64>, String> {
    let limits = control.limits().await.map_err(|error| format!("limits: {error}"))?;
    let mut took = Vec::with_capacity(COMMITS);
    for round in 0..COMMITS {
        let mut wanted = limits;
        wanted.moves_queued += u32::from(round % 2 == 0);
        let revision = control.set_limits(wanted, WriteOptions::default()).await;
        let revision = revision.map_err(|error| format!("set limits: {error}"))?;
        let began = Instant::now();
        while router.counter(TABLE_REVISION).await? < revision.get() {
            if began.elapsed() > VISIBLE_WITHIN {
                return Err(format!("revision {revision} has not come to {} in {VISIBLE_WITHIN:?}", router.name));
            }
        }
        took.push(micros_since(began));
    }
    Ok(took)
}
