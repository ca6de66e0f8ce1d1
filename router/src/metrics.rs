//! What the router says of itself to Prometheus. No label has a value for each tenant.
//!
//! Every thread writes into series of its own (label `worker`), resolved once, so that no counter is shared on the path
//! of a request.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::directory::Directory;
use crate::refusal::Code;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkerLabel {
    worker: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    worker: u32,
    outcome: &'static str,
}

#[derive(Clone)]
struct Seconds {
    from: f64,
    buckets: u16,
}

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(self.from, 2.0, self.buckets))
    }
}

/// Every series of one router.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: Family<OutcomeLabel, Counter>,
    durations: Family<WorkerLabel, Histogram, Seconds>,
    held_seconds: Family<WorkerLabel, Histogram, Seconds>,
    in_flight: Family<WorkerLabel, Gauge>,
    stale_redirects: Family<WorkerLabel, Counter>,
    not_executed: Family<WorkerLabel, Counter>,
    replays: Family<WorkerLabel, Counter>,
    connect_failures: Family<WorkerLabel, Counter>,
    broken: Family<WorkerLabel, Counter>,
    untrusted_mappings: Family<WorkerLabel, Counter>,
    connections: Family<WorkerLabel, Gauge>,
    tls_failures: Family<WorkerLabel, Counter>,
    abusive_connections: Family<WorkerLabel, Counter>,
    tunnels: Family<WorkerLabel, Gauge>,
    tunnels_quiesced: Family<WorkerLabel, Counter>,
    pub(crate) tls_reload_failures: Counter,
    pub(crate) jwks_failures: Counter,
    pub(crate) watch_disconnects: Counter,
    pub(crate) confirm_failures: Counter,
    pub(crate) snapshot_failures: Counter,
    /// Unix time in seconds of the last written file.
    pub(crate) snapshot_written: Gauge<i64, AtomicI64>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry, directory: Arc<Directory>) -> Self {
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(Seconds { from: 0.000_25, buckets: 16 }),
            held_seconds: Family::new_with_constructor(Seconds { from: 0.001, buckets: 14 }),
            in_flight: Family::default(),
            stale_redirects: Family::default(),
            not_executed: Family::default(),
            replays: Family::default(),
            connect_failures: Family::default(),
            broken: Family::default(),
            untrusted_mappings: Family::default(),
            connections: Family::default(),
            tls_failures: Family::default(),
            abusive_connections: Family::default(),
            tunnels: Family::default(),
            tunnels_quiesced: Family::default(),
            tls_reload_failures: Counter::default(),
            jwks_failures: Counter::default(),
            watch_disconnects: Counter::default(),
            confirm_failures: Counter::default(),
            snapshot_failures: Counter::default(),
            snapshot_written: Gauge::default(),
        };
        let m = metrics.clone();
        let registry = registry.sub_registry_with_prefix("cell_router");
        registry.register(
            "requests",
            "Requests by outcome: answered by a cell, or the code of a refusal",
            m.requests,
        );
        registry.register(
            "request_duration_seconds",
            "From the head of a request to the end of its answer",
            m.durations,
        );
        registry.register("hold_duration_seconds", "How long held requests waited for a move", m.held_seconds);
        registry.register("requests_in_flight", "Requests whose answer has not gone to its end", m.in_flight);
        registry.register("stale_redirects", "Answers 421 of gates: the table was behind", m.stale_redirects);
        registry.register(
            "not_executed",
            "Answers 503 of gates that had surely not run the request",
            m.not_executed,
        );
        registry.register("replays", "Requests sent again", m.replays);
        registry.register("connect_failures", "Connections that no instance took", m.connect_failures);
        registry.register("broken_exchanges", "Connections that broke after a request was sent", m.broken);
        registry.register("untrusted_mappings", "Mappings from gates that were not believed", m.untrusted_mappings);
        registry.register("client_connections", "Open connections of clients", m.connections);
        registry.register("tls_failures", "TLS handshakes of clients that failed", m.tls_failures);
        registry.register(
            "abusive_connections",
            "Connections closed because most of their requests were taken back",
            m.abusive_connections,
        );
        registry.register("tunnels", "Open WebSockets", m.tunnels);
        registry.register("tunnels_quiesced", "WebSockets closed because their tenant moved", m.tunnels_quiesced);
        registry.register(
            "tls_reload_failures",
            "Times that new certificates were not used",
            m.tls_reload_failures,
        );
        registry.register("jwks_failures", "Times that the issuer's keys could not be fetched", m.jwks_failures);
        registry.register("watch_disconnects", "Times that the watch broke off", m.watch_disconnects);
        registry.register("confirm_failures", "Pings that no control node answered", m.confirm_failures);
        registry.register("snapshot_failures", "Times that the table could not be written", m.snapshot_failures);
        registry.register(
            "snapshot_written_timestamp_seconds",
            "When the file was last written",
            m.snapshot_written,
        );
        registry.register_collector(Box::new(TableCollector(directory)));
        metrics
    }

    /// The series of one thread.
    pub(crate) fn worker(&self, worker: u32) -> WorkerMetrics {
        let label = WorkerLabel { worker };
        let outcome = |outcome| self.requests.get_or_create_owned(&OutcomeLabel { worker, outcome });
        WorkerMetrics {
            answered: outcome("answered"),
            failed_by_cell: outcome("answered_5xx"),
            refused: Code::ALL.map(|code| outcome(code.as_str())),
            durations: self.durations.get_or_create_owned(&label),
            held_seconds: self.held_seconds.get_or_create_owned(&label),
            in_flight: self.in_flight.get_or_create_owned(&label),
            stale_redirects: self.stale_redirects.get_or_create_owned(&label),
            not_executed: self.not_executed.get_or_create_owned(&label),
            replays: self.replays.get_or_create_owned(&label),
            connect_failures: self.connect_failures.get_or_create_owned(&label),
            broken: self.broken.get_or_create_owned(&label),
            untrusted_mappings: self.untrusted_mappings.get_or_create_owned(&label),
            connections: self.connections.get_or_create_owned(&label),
            tls_failures: self.tls_failures.get_or_create_owned(&label),
            abusive_connections: self.abusive_connections.get_or_create_owned(&label),
            tunnels: self.tunnels.get_or_create_owned(&label),
            tunnels_quiesced: self.tunnels_quiesced.get_or_create_owned(&label),
        }
    }
}

/// The series of one thread, resolved.
pub(crate) struct WorkerMetrics {
    answered: Counter<u64, AtomicU64>,
    failed_by_cell: Counter<u64, AtomicU64>,
    refused: [Counter<u64, AtomicU64>; Code::ALL.len()],
    durations: Histogram,
    held_seconds: Histogram,
    in_flight: Gauge,
    pub(crate) stale_redirects: Counter,
    pub(crate) not_executed: Counter,
    pub(crate) replays: Counter,
    pub(crate) connect_failures: Counter,
    pub(crate) broken: Counter,
    pub(crate) untrusted_mappings: Counter,
    pub(crate) connections: Gauge,
    pub(crate) tls_failures: Counter,
    pub(crate) abusive_connections: Counter,
    pub(crate) tunnels: Gauge,
    pub(crate) tunnels_quiesced: Counter,
}

impl WorkerMetrics {
    /// A request has begun.
    pub(crate) fn open(&self, began: Instant) -> Open {
        self.in_flight.inc();
        Open { began, durations: self.durations.clone(), in_flight: self.in_flight.clone() }
    }

    /// A cell has answered.
    pub(crate) fn count_answer(&self, status: http::StatusCode) {
        if status.is_server_error() {
            self.failed_by_cell.inc()
        } else {
            self.answered.inc()
        };
    }

    /// The router has answered.
    pub(crate) fn count_refusal(&self, code: Code) {
        if let Some(at) = Code::ALL.iter().position(|other| *other == code) {
            self.refused[at].inc();
        }
    }

    /// A request was held for a move.
    pub(crate) fn count_hold(&self, waited: Duration) {
        self.held_seconds.observe(waited.as_secs_f64());
    }
}

/// A request whose answer has not gone to its end.
pub(crate) struct Open {
    began: Instant,
    durations: Histogram,
    in_flight: Gauge,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.durations.observe(self.began.elapsed().as_secs_f64());
        self.in_flight.dec();
    }
}

/// What is read off the table when somebody asks.
struct TableCollector(Arc<Directory>);

impl fmt::Debug for TableCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TableCollector")
    }
}

impl Collector for TableCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let directory = &self.0;
        let staleness = directory.freshness.staleness(tokio::time::Instant::now());
        let gauges = [
            ("tenants", "Tenants in the table", directory.tenants() as f64),
            ("table_revision", "Revision up to which the table is complete", directory.applied().get() as f64),
            (
                "table_staleness_seconds",
                "How old the table may be; +Inf where no control node has ever confirmed it",
                staleness.map_or(f64::INFINITY, |staleness| staleness.as_secs_f64()),
            ),
            ("held_requests", "Requests that wait for a move now", directory.waiters.total() as f64),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                prometheus_client::metrics::MetricType::Gauge,
            )?)?;
        }
        Ok(())
    }
}
