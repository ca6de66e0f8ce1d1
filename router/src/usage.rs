//! What each tenant has used, for whoever writes its bill: counted where it happens, written into batches that outlive
//! the process, and kept until it is said that they were collected.
//!
//! ```text
//! request, bytes ─► counters of the tenant ─ every interval ─► batch on disk ─ GET /usage ─► collector
//!                          ▲                        │ no room, disk fails          │ keeps it under its id
//!                          └──────── put back ──────┘                              ▼
//!                                                     removed ◄──── DELETE /usage/<id>
//! ```
//! A batch is given out again until it is removed, always under the same id: who keeps each id once has each count once.
//! Counts are taken from a tenant and never lost: those of a tenant that is forgotten meanwhile go into a drawer of their
//! own. What a process that is killed has counted since its last batch is lost.

pub(crate) mod batches;
pub(crate) mod collectors;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use cell_model::TenantId;
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};

use self::batches::Batches;
use crate::flow::Flow;

/// What a tenant has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Used {
    /// Requests that were let in.
    pub(crate) requests: u64,
    /// Those of them that may have written.
    pub(crate) writes: u64,
    /// Bytes of bodies that came from clients, and that went to them; of WebSockets everything.
    pub(crate) received_bytes: u64,
    pub(crate) answered_bytes: u64,
}

impl Used {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.writes += other.writes;
        self.received_bytes += other.received_bytes;
        self.answered_bytes += other.answered_bytes;
    }
}

/// The counters of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    writes: AtomicU64,
    received_bytes: AtomicU64,
    answered_bytes: AtomicU64,
}

impl Counters {
    pub(crate) fn request(&self, is_write: bool) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if is_write {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self, bytes: usize) {
        self.answered_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What was counted since the last time.
    pub(crate) fn take(&self) -> Used {
        let take = |counter: &AtomicU64| match counter.load(Ordering::Relaxed) {
            0 => 0,
            _ => counter.swap(0, Ordering::Relaxed),
        };
        Used {
            requests: take(&self.requests),
            writes: take(&self.writes),
            received_bytes: take(&self.received_bytes),
            answered_bytes: take(&self.answered_bytes),
        }
    }
}

/// Where the counts go of tenants that are forgotten, and of batches that could not be written. Shared by all of them.
#[derive(Debug, Default)]
pub(crate) struct Drawer(Mutex<BTreeMap<TenantId, Used>>);

impl Drawer {
    pub(crate) fn put(&self, tenant: &TenantId, used: Used) {
        if !used.is_nothing() {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.entry(tenant.clone()).or_default().add(used);
        }
    }

    pub(crate) fn take(&self) -> BTreeMap<TenantId, Used> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tenants of one batch. What is more goes into another.
const TENANTS_MAX: usize = 10_000;

/// Writes what is used into batches.
pub(crate) struct Meter {
    flow: Arc<Flow>,
    batches: Arc<Batches>,
    router: String,
    interval: Duration,
    failures: Counter,
}

/// A batch as it is written and given out.
#[derive(Debug, Serialize)]
struct Batch<'b> {
    batch: &'b str,
    router: &'b str,
    /// Since when and until when, by the clock of this machine.
    from_ms: u64,
    until_ms: u64,
    tenants: BTreeMap<&'b TenantId, &'b Used>,
}

impl Meter {
    pub(crate) fn new(
        flow: Arc<Flow>,
        batches: Arc<Batches>,
        router: String,
        interval: Duration,
        failures: Counter,
    ) -> Self {
        Self { flow, batches, router, interval, failures }
    }

    /// Writes a batch each interval, and a last one once `over` is done.
    pub(crate) async fn run(self, over: impl Future<Output = ()>) {
        let mut over = std::pin::pin!(over);
        let mut from = SystemTime::now();
        loop {
            let ends = tokio::select! {
                () = tokio::time::sleep(self.interval) => false,
                () = &mut over => true,
            };
            from = self.write(from).await;
            if ends {
                return;
            }
        }
    }

    /// Writes what was used since the last time. Answers since when the next batch counts.
    async fn write(&self, from: SystemTime) -> SystemTime {
        let until = SystemTime::now();
        let drawer = self.flow.tenants.drawer();
        let mut used = drawer.take();
        self.flow.tenants.for_each(|tenant, active| {
            let taken = active.used.take();
            if !taken.is_nothing() {
                used.entry(tenant.clone()).or_default().add(taken);
            }
        });
        let all: Vec<(TenantId, Used)> = used.into_iter().collect();
        let mut failed = false;
        for part in all.chunks(TENANTS_MAX) {
            let id = self.batches.next_id();
            let batch = Batch {
                batch: &id,
                router: &self.router,
                from_ms: millis(from),
                until_ms: millis(until),
                tenants: part.iter().map(|(tenant, used)| (tenant, used)).collect(),
            };
            let text = match serde_json::to_vec(&batch) {
                Ok(text) => text,
                Err(error) => {
                    tracing::error!(code = "USAGE_UNWRITABLE", %error, "usage cannot be written down");
                    self.failures.inc();
                    failed = true;
                    part.iter().for_each(|(tenant, used)| drawer.put(tenant, *used));
                    continue;
                }
            };
            let batches = Arc::clone(&self.batches);
            let written = tokio::task::spawn_blocking(move || batches.write(&id, &text)).await;
            let refused = match written {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            self.failures.inc();
            failed = true;
            tracing::error!(
                code = "USAGE_UNWRITABLE",
                reason = refused,
                "usage waits in memory for the next batch"
            );
            for (tenant, used) in part {
                drawer.put(tenant, *used);
            }
        }
        if failed { from } else { until }
    }
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_taken_once() {
        let counters = Counters::default();
        counters.request(true);
        counters.request(false);
        counters.received(10);
        counters.answered(20);
        let used = Used { requests: 2, writes: 1, received_bytes: 10, answered_bytes: 20 };
        assert_eq!(counters.take(), used);
        assert!(counters.take().is_nothing());
        let (drawer, tenant) = (Drawer::default(), TenantId::new("a").unwrap());
        drawer.put(&tenant, used);
        drawer.put(&tenant, used);
        drawer.put(&TenantId::new("b").unwrap(), Used::default());
        let kept = drawer.take();
        assert_eq!((kept.len(), kept[&tenant].requests), (1, 4));
    }
}
