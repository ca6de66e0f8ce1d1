//! The load: clients that put or get one after another, and what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use hdrhistogram::Histogram;
use serde::Serialize;
use tonic::transport::Channel;

use crate::kv;
use crate::kv::kv_client::KvClient;
use crate::nodes::{Nodes, connect};

/// Clients on one connection.
const CLIENTS_PER_CONNECTION: usize = 32;
/// As large as the record that a put makes in our store.
const VALUE_BYTES: usize = 192;

/// What one round came to.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Round {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub worst_ms: f64,
    /// Processor time of all nodes for one operation: on a machine that is shared it says more than how many there were.
    pub node_cpu_us: f64,
}

impl Round {
    fn of(histogram: &Histogram<u64>, took: Duration, node_cpu_us: f64) -> Self {
        let ms = |quantile| {
            let micros = u32::try_from(histogram.value_at_quantile(quantile)).unwrap_or(u32::MAX);
            f64::from(micros) / 1_000.0
        };
        let count = u32::try_from(histogram.len()).unwrap_or(u32::MAX);
        Self {
            per_second: f64::from(count) / took.as_secs_f64(),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            worst_ms: ms(1.0),
            node_cpu_us,
        }
    }
}

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Put a key that is not there.
    Put,
    /// Read, linearizably, a key that is there.
    Get,
}

/// Keys that nobody has used yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys(Arc<AtomicU64>);

impl Keys {
    pub(crate) fn next(&self) -> String {
        key(self.0.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn used(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) fn key(number: u64) -> String {
    format!("t-{number:012}")
}

/// Runs `clients` for `lasting`, after a tenth of it as a warm-up.
pub(crate) async fn run(
    nodes: &Nodes,
    work: Work,
    clients: usize,
    lasting: Duration,
    keys: &Keys,
) -> anyhow::Result<Round> {
    let address = &nodes.addresses[nodes.leader().await?];
    let cpu_before = nodes.cpu()?;
    let connections = clients.div_ceil(CLIENTS_PER_CONNECTION);
    let channels = (0..connections).map(|_| connect(address)).collect::<Result<Vec<_>, _>>()?;
    let begin = Instant::now() + lasting / 10;
    let end = begin + lasting;
    let running = (0..clients).map(|client| {
        let (channel, keys) = (channels[client % connections].clone(), keys.clone());
        tokio::spawn(one_client(channel, work, client, (begin, end), keys))
    });
    let (mut all, mut done) = (Histogram::<u64>::new(3)?, 0);
    for client in futures::future::join_all(running).await {
        let (seen, operations) = client??;
        all.add(seen)?;
        done += operations;
    }
    let micros = (nodes.cpu()? - cpu_before).as_secs_f64() * 1e6;
    Ok(Round::of(&all, lasting, micros / f64::from(done.max(1))))
}

async fn one_client(
    channel: Channel,
    work: Work,
    client: usize,
    (begin, end): (Instant, Instant),
    keys: Keys,
) -> anyhow::Result<(Histogram<u64>, u32)> {
    let mut service = KvClient::new(channel);
    let (mut seen, mut done) = (Histogram::<u64>::new(3)?, 0);
    let mut turn = client as u64;
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok((seen, done));
        }
        match work {
            Work::Put => put(&mut service, &keys.next()).await?,
            Work::Get => {
                turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let wanted = key((turn >> 33) % keys.used().max(1));
                let answer = service.range(kv::RangeRequest { key: wanted.clone().into() }).await?.into_inner();
                if answer.kvs.len() != 1 {
                    bail!("{wanted} was put and is not found");
                }
            }
        }
        done += 1;
        // What was sent before the beginning or answered after the end does not count.
        let answered = Instant::now();
        if sent >= begin && answered <= end {
            seen.record(u64::try_from((answered - sent).as_micros())?)?;
        }
    }
}

pub(crate) async fn put(service: &mut KvClient<Channel>, key: &str) -> anyhow::Result<()> {
    let request = kv::PutRequest { key: key.to_owned().into(), value: vec![b'v'; VALUE_BYTES].into() };
    service.put(request).await?;
    Ok(())
}

/// Puts one key: our store needs its cell before its tenants.
pub(crate) async fn prepare(address: &str) -> anyhow::Result<()> {
    put(&mut KvClient::new(connect(address)?), "cell-1").await
}

/// Puts `count` keys as fast as it goes.
pub(crate) async fn fill(address: &str, count: u64, keys: &Keys) -> anyhow::Result<Duration> {
    const CLIENTS: usize = 512;
    let begin = Instant::now();
    let channels =
        (0..CLIENTS / CLIENTS_PER_CONNECTION).map(|_| connect(address)).collect::<Result<Vec<_>, _>>()?;
    let until = keys.used() + count;
    let running = (0..CLIENTS).map(|client| {
        let (mut service, keys) = (KvClient::new(channels[client % channels.len()].clone()), keys.clone());
        tokio::spawn(async move {
            while keys.used() + (CLIENTS as u64) <= until {
                put(&mut service, &keys.next()).await?;
            }
            anyhow::Ok(())
        })
    });
    for client in futures::future::join_all(running).await {
        client??;
    }
    Ok(begin.elapsed())
}
