//! What the router says of itself to Prometheus. No label has a value for each tenant.
//!
//! Every thread writes into series of its own (label `worker`), resolved once, so that no counter is shared on the path
//! of a request.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, Instant};

use cell_model::Tier;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::directory::Directory;
use crate::flow::Flow;
use crate::refusal::Code;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkerLabel {
    worker: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabel {
    worker: u32,
    tier: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    worker: u32,
    tier: &'static str,
    outcome: &'static str,
}

/// What a tenant has paid for, as a label; the first stands for requests of which that is not known.
const TIERS: [&str; 5] = ["none", "bronze", "silver", "gold", "platinum"];

fn tier_index(tier: Option<Tier>) -> usize {
    match tier {
        None => 0,
        Some(Tier::Bronze) => 1,
        Some(Tier::Silver) => 2,
        Some(Tier::Gold) => 3,
        Some(Tier::Platinum) => 4,
    }
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
    durations: Family<TierLabel, Histogram, Seconds>,
    held_seconds: Family<WorkerLabel, Histogram, Seconds>,
    queued_seconds: Family<WorkerLabel, Histogram, Seconds>,
    in_flight: Family<WorkerLabel, Gauge>,
    stale_redirects: Family<WorkerLabel, Counter>,
    not_executed: Family<WorkerLabel, Counter>,
    replays: Family<WorkerLabel, Counter>,
    connect_failures: Family<WorkerLabel, Counter>,
    broken: Family<WorkerLabel, Counter>,
    untrusted_mappings: Family<WorkerLabel, Counter>,
    breaker_refusals: Family<WorkerLabel, Counter>,
    breaker_openings: Family<WorkerLabel, Counter>,
    retries_denied: Family<WorkerLabel, Counter>,
    ejections: Family<WorkerLabel, Counter>,
    connections: Family<WorkerLabel, Gauge>,
    pub(crate) reloads: Counter,
    pub(crate) usage_failures: Counter,
    pub(crate) usage_waiting: Gauge,
    pub(crate) spans_left_out: Counter,
    pub(crate) log_lines_left_out: Counter,
    pub(crate) peer_failures: Counter,
    pub(crate) reloads_refused: Counter,
    tls_failures: Family<WorkerLabel, Counter>,
    abusive_connections: Family<WorkerLabel, Counter>,
    tunnels: Family<WorkerLabel, Gauge>,
    tunnels_quiesced: Family<WorkerLabel, Counter>,
    streams_quiesced: Family<WorkerLabel, Counter>,
    connections_full: Family<WorkerLabel, Counter>,
    pub(crate) tls_reload_failures: Counter,
    pub(crate) jwks_failures: Counter,
    pub(crate) watch_disconnects: Counter,
    pub(crate) check_failures: Counter,
    pub(crate) confirm_failures: Counter,
    pub(crate) snapshot_failures: Counter,
    /// Unix time in seconds of the last written file.
    pub(crate) snapshot_written: Gauge<i64, AtomicI64>,
}

impl Metrics {
    #[expect(clippy::too_many_lines, reason = "a list: one entry for each metric")]
    pub(crate) fn register(registry: &mut Registry, directory: Arc<Directory>, flow: Arc<Flow>) -> Self {
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(Seconds { from: 0.000_25, buckets: 16 }),
            held_seconds: Family::new_with_constructor(Seconds { from: 0.001, buckets: 14 }),
            queued_seconds: Family::new_with_constructor(Seconds { from: 0.001, buckets: 14 }),
            in_flight: Family::default(),
            stale_redirects: Family::default(),
            not_executed: Family::default(),
            replays: Family::default(),
            connect_failures: Family::default(),
            broken: Family::default(),
            untrusted_mappings: Family::default(),
            breaker_refusals: Family::default(),
            breaker_openings: Family::default(),
            retries_denied: Family::default(),
            ejections: Family::default(),
            connections: Family::default(),
            reloads: Counter::default(),
            usage_failures: Counter::default(),
            usage_waiting: Gauge::default(),
            spans_left_out: Counter::default(),
            log_lines_left_out: Counter::default(),
            peer_failures: Counter::default(),
            reloads_refused: Counter::default(),
            tls_failures: Family::default(),
            abusive_connections: Family::default(),
            tunnels: Family::default(),
            tunnels_quiesced: Family::default(),
            streams_quiesced: Family::default(),
            connections_full: Family::default(),
            tls_reload_failures: Counter::default(),
            jwks_failures: Counter::default(),
            watch_disconnects: Counter::default(),
            check_failures: Counter::default(),
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
        registry.register(
            "queue_duration_seconds",
            "How long requests waited for their turn in a cell",
            m.queued_seconds,
        );
        registry.register("breaker_refusals", "Requests that an open breaker has refused", m.breaker_refusals);
        registry.register("breaker_openings", "Times that a breaker has opened", m.breaker_openings);
        registry.register("retries_denied", "Retries for which no budget was left", m.retries_denied);
        registry.register(
            "instance_ejections",
            "Times that an instance was put last for its failures",
            m.ejections,
        );
        registry.register("instance_check_failures", "Health checks of instances that failed", m.check_failures);
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
        registry.register(
            "peer_failures",
            "Times that another router did not say what it sees: its part of rates is left to it",
            m.peer_failures,
        );
        registry.register(
            "access_log_lines_left_out",
            "Requests that are not in the access log, because it is slower than they come or cannot be written",
            m.log_lines_left_out,
        );
        registry.register(
            "usage_failures",
            "Batches of usage that could not be written: what is in them waits in memory",
            m.usage_failures,
        );
        registry.register("usage_batches_waiting", "Batches of usage that nobody has collected", m.usage_waiting);
        registry.register("spans_left_out", "Spans that the collector has not taken in time", m.spans_left_out);
        registry.register("reloads", "Times that options were read again and taken", m.reloads);
        registry.register(
            "reloads_refused",
            "Times that options were read again and were wrong",
            m.reloads_refused,
        );
        registry.register("tls_failures", "TLS handshakes of clients that failed", m.tls_failures);
        registry.register(
            "abusive_connections",
            "Connections closed because most of their requests were taken back",
            m.abusive_connections,
        );
        registry.register("tunnels", "Open WebSockets", m.tunnels);
        registry.register("tunnels_quiesced", "WebSockets closed because their tenant moved", m.tunnels_quiesced);
        registry.register("streams_quiesced", "Streams ended because their tenant moved", m.streams_quiesced);
        registry.register(
            "connections_full",
            "Times that a thread had its part of limits.connections-max: further clients wait to be let in",
            m.connections_full,
        );
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
        registry.register_collector(Box::new(FlowCollector(flow)));
        metrics
    }

    /// The series of one thread.
    pub(crate) fn worker(&self, worker: u32) -> WorkerMetrics {
        let label = WorkerLabel { worker };
        let outcome = |tier, outcome| self.requests.get_or_create_owned(&OutcomeLabel { worker, tier, outcome });
        WorkerMetrics {
            answered: TIERS.map(|tier| outcome(tier, "answered")),
            failed_by_cell: TIERS.map(|tier| outcome(tier, "answered_5xx")),
            refused: Code::ALL.map(|code| TIERS.map(|tier| outcome(tier, code.as_str()))),
            durations: TIERS.map(|tier| self.durations.get_or_create_owned(&TierLabel { worker, tier })),
            held_seconds: self.held_seconds.get_or_create_owned(&label),
            queued_seconds: self.queued_seconds.get_or_create_owned(&label),
            breaker_refusals: self.breaker_refusals.get_or_create_owned(&label),
            breaker_openings: self.breaker_openings.get_or_create_owned(&label),
            retries_denied: self.retries_denied.get_or_create_owned(&label),
            ejections: self.ejections.get_or_create_owned(&label),
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
            streams_quiesced: self.streams_quiesced.get_or_create_owned(&label),
            connections_full: self.connections_full.get_or_create_owned(&label),
        }
    }
}

/// The series of one thread, resolved.
pub(crate) struct WorkerMetrics {
    answered: [Counter<u64, AtomicU64>; TIERS.len()],
    failed_by_cell: [Counter<u64, AtomicU64>; TIERS.len()],
    refused: [[Counter<u64, AtomicU64>; TIERS.len()]; Code::ALL.len()],
    durations: [Histogram; TIERS.len()],
    held_seconds: Histogram,
    queued_seconds: Histogram,
    in_flight: Gauge,
    pub(crate) breaker_refusals: Counter,
    pub(crate) breaker_openings: Counter,
    pub(crate) retries_denied: Counter,
    pub(crate) ejections: Counter,
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
    pub(crate) streams_quiesced: Counter,
    pub(crate) connections_full: Counter,
}

impl WorkerMetrics {
    /// A request has begun.
    pub(crate) fn open(self: &Rc<Self>, began: Instant) -> Open {
        self.in_flight.inc();
        Open { began, metrics: Rc::clone(self), tier: None }
    }

    /// A cell has answered.
    pub(crate) fn count_answer(&self, status: http::StatusCode, tier: Option<Tier>) {
        let outcomes = if status.is_server_error() { &self.failed_by_cell } else { &self.answered };
        outcomes[tier_index(tier)].inc();
    }

    /// The router has answered.
    pub(crate) fn count_refusal(&self, code: Code, tier: Option<Tier>) {
        if let Some(at) = Code::ALL.iter().position(|other| *other == code) {
            self.refused[at][tier_index(tier)].inc();
        }
    }

    /// A request waited for its turn.
    pub(crate) fn count_queued(&self, waited: Duration) {
        self.queued_seconds.observe(waited.as_secs_f64());
    }

    /// A request was held for a move.
    pub(crate) fn count_hold(&self, waited: Duration) {
        self.held_seconds.observe(waited.as_secs_f64());
    }
}

/// A request whose answer has not gone to its end.
pub(crate) struct Open {
    began: Instant,
    metrics: Rc<WorkerMetrics>,
    tier: Option<Tier>,
}

impl Open {
    /// It is known whose the request is.
    pub(crate) fn set_tier(&mut self, tier: Option<Tier>) {
        self.tier = tier;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.durations[tier_index(self.tier)].observe(self.began.elapsed().as_secs_f64());
        self.metrics.in_flight.dec();
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

/// What is read off cells and tenants when somebody asks: a series for each cell, none for each tenant.
struct FlowCollector(Arc<Flow>);

impl fmt::Debug for FlowCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FlowCollector")
    }
}

impl Collector for FlowCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let flow = &self.0;
        let active = ConstGauge::new(flow.tenants.count() as f64);
        let gauge = prometheus_client::metrics::MetricType::Gauge;
        active.encode(encoder.encode_descriptor(
            "active_tenants",
            "Tenants of which something is kept",
            None,
            gauge,
        )?)?;
        let mut cells = Vec::new();
        flow.for_each_cell(|id, cell| {
            let scheduler = &cell.scheduler;
            let open = f64::from(u8::from(!cell.breaker.is_closed()));
            let values =
                [f64::from(scheduler.limit()), scheduler.in_flight() as f64, scheduler.waiting() as f64, open];
            cells.push((id.to_string(), values));
        });
        let described = [
            ("cell_concurrency_limit", "Requests that a cell gets at once now"),
            ("cell_requests", "Requests that a cell has now"),
            ("cell_queued_requests", "Requests that wait for their turn in a cell"),
            ("cell_breaker_open", "Whether no requests are sent to a cell, for want of connections"),
        ];
        for (at, (name, help)) in described.into_iter().enumerate() {
            let mut family = encoder.encode_descriptor(name, help, None, gauge)?;
            for (cell, values) in &cells {
                ConstGauge::new(values[at]).encode(family.encode_family(&[("cell", cell.as_str())])?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
