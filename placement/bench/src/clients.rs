//! Clients of one tenant, through the router; each answer is noted, and judged against what is there at the end.
//!
//! The tenant stays small: each writer comes back to a few registers of its own, deletes them at times, and counts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cell_chaos::check::{FinalTenant, Findings, check};
use cell_chaos::clock::RunClock;
use cell_chaos::history::{Op, Recorder};
use cell_chaos::load::documents::recognise;
use cell_chaos::load::session::Session;
use cell_chaos::load::{Filling, Load, LoadOptions};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::fleet::BULK;
use crate::load::{histogram, session};

/// The router's domain.
pub(crate) const DOMAIN: &str = "cells.test";
/// Between two requests of a client.
const GAP: Duration = Duration::from_millis(4);
/// A client gives up a request that takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Registers that each writer keeps,
const SLOTS: usize = 8;
/// counters that all of them share,
const COUNTERS: u64 = 2;
/// and bytes of a document.
const DOCUMENT: usize = 200;

/// See the module.
pub(crate) struct Clients {
    tenant: Arc<str>,
    load: Load,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// What clients saw in a while.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Requests that were answered.
    pub(crate) per_second: f64,
    /// What all but one of a hundred took at the most.
    pub(crate) p99_ms: f64,
}

/// What clients saw.
pub(crate) struct Seen {
    pub(crate) writes: Histogram<u64>,
    pub(crate) reads: Histogram<u64>,
    pub(crate) requests: usize,
    pub(crate) failed: Vec<String>,
    pub(crate) findings: Findings,
}

impl Clients {
    /// Nobody yet, of a tenant that the router knows.
    pub(crate) async fn of(router: SocketAddr, tenant: &str) -> Result<Self> {
        let options = LoadOptions {
            routers: vec![router.to_string()],
            domain: DOMAIN.into(),
            writes_per_second: 0,
            reads_per_second: 0,
            writers: 0,
            readers: 0,
            deadline: PATIENCE,
            seed: 1,
            network: cell_client::net::Network::default(),
        };
        let tenant: Arc<str> = tenant.into();
        // The router may learn of the tenant a moment later: who asks until then is no part of the history.
        let mut early = Load::new(options.clone(), RunClock::start(), Recorder::default()).session();
        let deadline = Instant::now() + PATIENCE;
        while !early.get(&tenant, &"nothing".into()).await {
            ensure!(Instant::now() < deadline, "the router does not serve tenant {tenant}");
            tokio::time::sleep(GAP * 10).await;
        }
        let load = Load::new(options, RunClock::start(), Recorder::default());
        Ok(Self { tenant, load, stop: CancellationToken::new(), tasks: JoinSet::new() })
    }

    /// Makes documents, every one.
    pub(crate) async fn fill(&self, docs: u32) -> Result<()> {
        let filling = Filling { tenant: self.tenant.clone(), docs, doc_bytes: DOCUMENT };
        self.load.fill(vec![filling], 4, &self.stop, |_| {}).await;
        let ops = self.load.recorder().snapshot();
        let made = ops.iter().filter(|op| op.action.is_write() && op.is_done()).count();
        ensure!(made as u64 == u64::from(docs), "of {docs} documents of {} only {made} were made", self.tenant);
        Ok(())
    }

    /// Three writers to each reader, and one reader at least of two clients or more.
    pub(crate) fn start(&mut self, count: u32) {
        let keys: Arc<[Arc<str>]> =
            (0..count).flat_map(|place| (0..SLOTS).map(move |slot| key(place, slot))).collect();
        for place in 0..count {
            let client = Client {
                session: self.load.session(),
                tenant: self.tenant.clone(),
                load: self.load.clone(),
                stop: self.stop.clone(),
            };
            if place > 0 && place % 4 == 3.min(count - 1) {
                self.tasks.spawn(client.read(keys.clone()));
            } else {
                self.tasks.spawn(client.write(place));
            }
        }
    }

    /// Looks on for so long.
    pub(crate) async fn window(&self, length: Duration) -> Window {
        let (since, began) = (self.load.clock().now(), Instant::now());
        tokio::time::sleep(length).await;
        let took = began.elapsed().as_secs_f64();
        let mut latencies = histogram();
        for op in self.load.recorder().returned_since(since).iter().filter(|op| op.is_done()) {
            latencies.saturating_record(op.latency().max(1));
        }
        let p99 = Duration::from_micros(latencies.value_at_quantile(0.99)).as_secs_f64() * 1_000.0;
        Window {
            per_second: f64::from(u32::try_from(latencies.len()).unwrap_or(u32::MAX)) / took,
            // Of nothing there is none.
            p99_ms: if latencies.is_empty() { f64::NAN } else { p99 },
        }
    }

    /// Lets each client finish its request, and judges what they were told by what is in the owner's database.
    pub(crate) async fn end(mut self, owner: &str) -> Result<Seen> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        let ops = self.load.recorder().snapshot();
        let ends = BTreeMap::from([(self.tenant.clone(), found(owner, &self.tenant).await?)]);
        let mut seen = Seen {
            writes: histogram(),
            reads: histogram(),
            requests: ops.len(),
            failed: ops.iter().filter(|op| op.failed).map(told).collect(),
            findings: check(&ops, &ends),
        };
        for op in ops.iter().filter(|op| op.is_done()) {
            let into = if op.action.is_write() { &mut seen.writes } else { &mut seen.reads };
            into.saturating_record(op.latency().max(1));
        }
        Ok(seen)
    }
}

fn told(op: &Op) -> String {
    format!("{:?} after {} ms: {:?}", op.action, op.latency() / 1_000, op.outcome)
}

fn key(place: u32, slot: usize) -> Arc<str> {
    format!("r-{place}-{slot}").into()
}

/// The tenant as its owner has it, but for what no client has made.
async fn found(owner: &str, tenant: &str) -> Result<FinalTenant> {
    let client = session(owner).await?;
    let of_clients = "SELECT id, body FROM documents WHERE tenant_id = $1 AND NOT starts_with(id, $2)";
    let rows = client.query(of_clients, &[&tenant, &BULK]).await?;
    let docs = rows.iter().map(|row| (row.get(0), recognise(row.get::<_, &str>(1).as_bytes()))).collect();
    let rows = client.query("SELECT name, value FROM counters WHERE tenant_id = $1", &[&tenant]).await?;
    let counters = rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1).cast_unsigned())).collect();
    Ok(FinalTenant { docs, counters })
}

/// One of them.
struct Client {
    session: Session,
    tenant: Arc<str>,
    load: Load,
    stop: CancellationToken,
}

impl Client {
    async fn write(mut self, place: u32) {
        let (mut versions, mut turn) = ([0_u64; SLOTS], 0_usize);
        let counter: Arc<str> = format!("c-{}", u64::from(place) % COUNTERS).into();
        while !self.stop.is_cancelled() {
            turn += 1;
            let slot = turn % SLOTS;
            match turn % 10 {
                4 | 9 => {
                    self.session.increment(&self.tenant, &counter, self.load.nonce(), None).await;
                }
                kind => {
                    versions[slot] += 1;
                    let (key, version) = (key(place, slot), versions[slot]);
                    if kind == 0 {
                        self.session.delete(&self.tenant, &key, version, None).await;
                    } else {
                        self.session.put(&self.tenant, &key, version, DOCUMENT, None).await;
                    }
                }
            }
            tokio::time::sleep(GAP).await;
        }
    }

    async fn read(mut self, keys: Arc<[Arc<str>]>) {
        let mut turn = 0_usize;
        while !self.stop.is_cancelled() {
            turn += 1;
            if let Some(key) = keys.get(turn % keys.len().max(1)) {
                self.session.get(&self.tenant, key).await;
            }
            tokio::time::sleep(GAP).await;
        }
    }
}
