//! The load: clients that put or get one after another, and what they saw.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use hdrhistogram::Histogram;
use tonic::transport::Channel;

use crate::kv;
use crate::kv::kv_client::KvClient;
use crate::nodes::{Nodes, connect};

/// Clients on one connection.
const CLIENTS_PER_CONNECTION: usize = 32;
/// As large as the record that a put makes in our store.
const VALUE_BYTES: usize = 192;

/// What one round came to.
#[derive(Debug, Clone, Copy)]
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
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    used: Arc<AtomicU64>,
    digits: usize,
}

const DIGITS: usize = 12;
/// As many as the longest name of a tenant has room for, which has 63 characters.
const DIGITS_MAX: usize = 61;

impl Default for Keys {
    fn default() -> Self {
        Self { used: Arc::default(), digits: DIGITS }
    }
}

impl Keys {
    /// As long as the names of tenants may be.
    pub(crate) fn long() -> Self {
        Self { digits: DIGITS_MAX, ..Self::default() }
    }

    fn name(&self, number: u64) -> String {
        format!("t-{number:0digits$}", digits = self.digits)
    }

    pub(crate) fn next(&self) -> String {
        self.name(self.used.fetch_add(1, Ordering::Relaxed))
    }

    /// The next one, while fewer than `end` are used: of so many clients that ask, none gets one too many.
    pub(crate) fn next_below(&self, end: u64) -> Option<String> {
        let more = |used| (used < end).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|number| self.name(number))
    }

    /// The one that was used last.
    pub(crate) fn last(&self) -> String {
        self.name(self.used().saturating_sub(1))
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// A key as [`Keys::default`] makes them.
pub(crate) fn key(number: u64) -> String {
    format!("t-{number:0DIGITS$}")
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
                get(&mut service, &key((turn >> 33) % keys.used().max(1))).await?;
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

async fn get(service: &mut KvClient<Channel>, key: &str) -> anyhow::Result<()> {
    let answer = service.range(kv::RangeRequest { key: key.to_owned().into() }).await?.into_inner();
    if answer.kvs.len() != 1 {
        bail!("{key} was put and is not found");
    }
    Ok(())
}

/// Reads one key, linearizably, over a connection of its own.
pub(crate) async fn read(address: &str, key: &str) -> anyhow::Result<()> {
    get(&mut KvClient::new(connect(address)?), key).await
}

/// Puts one key: our store needs its cell before its tenants.
pub(crate) async fn prepare(address: &str) -> anyhow::Result<()> {
    put(&mut KvClient::new(connect(address)?), "cell-1").await
}

/// How long a key or a tenant is tried that is turned away.
pub(crate) const FILLING: Duration = Duration::from_secs(60);

/// Puts `count` keys as fast as it goes, neither more nor less. What is turned away, or by a node that does not lead any
/// more, is tried again at the next: the same key is the same request, which runs once.
pub(crate) async fn fill(nodes: &Nodes, count: u64, keys: &Keys) -> anyhow::Result<Duration> {
    const CLIENTS: usize = 512;
    let (begin, until) = (Instant::now(), keys.used() + count);
    let leader = nodes.leader().await?;
    let mut addresses = nodes.addresses.clone();
    addresses.rotate_left(leader);
    let connection = |_| addresses.iter().map(|address| connect(address)).collect::<Result<Vec<_>, _>>();
    let channels = (0..CLIENTS / CLIENTS_PER_CONNECTION).map(connection).collect::<Result<Vec<_>, _>>()?;
    let running = (0..CLIENTS).map(|client| {
        let nodes = channels[client % channels.len()].iter().cloned().map(KvClient::new);
        let (mut services, keys) = (nodes.collect::<VecDeque<_>>(), keys.clone());
        tokio::spawn(async move {
            while let Some(key) = keys.next_below(until) {
                let begun = Instant::now();
                while let Err(error) = put(&mut services[0], &key).await {
                    ensure!(begun.elapsed() < FILLING, "{key} is not put: {error:#}");
                    services.rotate_left(1);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            anyhow::Ok(())
        })
    });
    for client in futures::future::join_all(running).await {
        client??;
    }
    ensure!(keys.used() == until, "{} keys are used, and not {until}", keys.used());
    Ok(begin.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_keys_as_are_wanted_are_given_out_whoever_asks_at_once() {
        for wanted in [0, 1, 511, 1_000] {
            let keys = Keys::default();
            let mut given: Vec<String> = std::thread::scope(|scope| {
                let asking = [(); 8].map(|()| {
                    let keys = keys.clone();
                    scope.spawn(move || std::iter::from_fn(|| keys.next_below(wanted)).collect::<Vec<_>>())
                });
                asking.into_iter().flat_map(|asked| asked.join().unwrap()).collect()
            });
            given.sort_unstable();
            assert_eq!(given, (0..wanted).map(key).collect::<Vec<_>>());
            assert_eq!(keys.used(), wanted);
        }
    }

    #[test]
    fn long_keys_are_names_that_tenants_may_have_and_no_longer_ones_are() {
        let keys = Keys::long();
        let name = keys.next();
        assert_eq!(keys.last(), name);
        assert!(cell_model::TenantId::new(name.clone()).is_ok());
        assert!(cell_model::TenantId::new(name + "0").is_err(), "there is room for no more");
    }
}
