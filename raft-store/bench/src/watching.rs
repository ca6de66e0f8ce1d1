//! Watchers beside a steady writer: how long after a put was answered each one sees the key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::kv;
use crate::kv::kv_client::KvClient;
use crate::kv::watch_client::WatchClient;
use crate::load::{Keys, put};
use crate::nodes::connect;
use crate::number;

const WATCHERS_PER_CONNECTION: usize = 16;
/// How long after the last put a watcher may see it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a watch may take until it begins.
const BEGINNING: Duration = Duration::from_secs(60);

/// What the watchers saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fanout {
    pub puts_per_second: f64,
    pub deliveries_per_second: f64,
    /// From the answer of the put to the arrival at a watcher: what the watch adds.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub lost: u64,
}

type Sightings = Vec<(Bytes, Instant)>;

/// Watches with `watchers` for `lasting`, at `rate` puts a second.
pub(crate) async fn run(
    address: &str,
    watchers: usize,
    rate: u32,
    lasting: Duration,
    keys: &Keys,
) -> anyhow::Result<Fanout> {
    let end = CancellationToken::new();
    let mut watching = JoinSet::new();
    let connections = watchers.div_ceil(WATCHERS_PER_CONNECTION);
    let channels = (0..connections).map(|_| connect(address)).collect::<Result<Vec<_>, _>>()?;
    for watcher in 0..watchers {
        let stream = begin(WatchClient::new(channels[watcher % connections].clone()), 0).await?;
        watching.spawn(watch(stream, end.clone()));
    }
    let begun = Instant::now();
    let answered = write(address, rate, lasting, keys).await?;
    let wrote = begun.elapsed().as_secs_f64();
    tokio::time::sleep(PATIENCE).await;
    end.cancel();
    let (mut late, mut deliveries, mut last) = (Histogram::<u64>::new(3)?, 0_u64, begun);
    while let Some(seen) = watching.join_next().await {
        for (key, at) in seen? {
            if let Some(answered) = answered.get(&key) {
                deliveries += 1;
                last = last.max(at);
                late.record(u64::try_from(at.saturating_duration_since(*answered).as_micros())?)?;
            }
        }
    }
    let ms = |quantile| if late.is_empty() { f64::NAN } else { number(late.value_at_quantile(quantile)) / 1_000.0 };
    let puts = answered.len() as u64;
    Ok(Fanout {
        puts_per_second: number(puts) / wrote,
        deliveries_per_second: number(deliveries) / last.duration_since(begun).as_secs_f64(),
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        lost: (puts * watchers as u64).saturating_sub(deliveries),
    })
}

/// A watch of all tenants; `from` 0: from now on, 1: everything that there is.
pub(crate) async fn begin(
    mut client: WatchClient<tonic::transport::Channel>,
    from: i64,
) -> anyhow::Result<Streaming<kv::WatchResponse>> {
    use kv::watch_request::RequestUnion::CreateRequest;
    let create = kv::WatchCreateRequest { key: "t-".into(), range_end: "t.".into(), start_revision: from };
    let first = kv::WatchRequest { request_union: Some(CreateRequest(create)) };
    // The requests stay open: etcd ends a watch with them.
    let requests = futures::StreamExt::chain(futures::stream::iter([first]), futures::stream::pending());
    let mut stream = client.watch(requests).await?.into_inner();
    let created = tokio::time::timeout(BEGINNING, stream.message()).await.context("the watch does not begin")?;
    let created = created?.context("the watch ended at once")?;
    anyhow::ensure!(created.created, "a watch begins with its creation");
    Ok(stream)
}

async fn watch(mut stream: Streaming<kv::WatchResponse>, end: CancellationToken) -> Sightings {
    let mut seen = Vec::new();
    loop {
        let next = tokio::select! {
            () = end.cancelled() => return seen,
            next = stream.message() => next,
        };
        let Ok(Some(response)) = next else { return seen };
        let at = Instant::now();
        seen.extend(response.events.into_iter().filter_map(|event| Some((event.kv?.key, at))));
    }
}

/// Puts at a steady rate. Answers when each was answered.
async fn write(
    address: &str,
    rate: u32,
    lasting: Duration,
    keys: &Keys,
) -> anyhow::Result<HashMap<Bytes, Instant>> {
    let answered: Arc<Mutex<HashMap<Bytes, Instant>>> = Arc::default();
    let channels = (0..8).map(|_| connect(address)).collect::<Result<Vec<_>, _>>()?;
    let (begin, mut sent, mut puts) = (Instant::now(), 0_u32, JoinSet::new());
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while begin.elapsed() < lasting {
        tick.tick().await;
        let due = begin.elapsed().mul_f64(f64::from(rate)).as_secs();
        while u64::from(sent) < due {
            let mut service = KvClient::new(channels[sent as usize % channels.len()].clone());
            let (key, answered) = (keys.next(), Arc::clone(&answered));
            puts.spawn(async move {
                put(&mut service, &key).await?;
                let at = Instant::now();
                answered.lock().unwrap_or_else(PoisonError::into_inner).insert(key.into(), at);
                anyhow::Ok(())
            });
            sent += 1;
        }
    }
    while let Some(done) = puts.join_next().await {
        done??;
    }
    let answered = std::mem::take(&mut *answered.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(answered)
}
