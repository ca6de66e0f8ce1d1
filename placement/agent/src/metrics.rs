//! What an agent says of itself to Prometheus, at an address of its own. No tenant's name is in it, and nothing is changed there.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cell_client::Link;
use cell_client::net::Listener;
use cell_protos::v1 as wire;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

use crate::driver::Driver;

const CONNECTIONS_MAX: usize = 16;
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
}

/// What a cell is to a tenant, as a label.
const ROLES: [(wire::Role, &str); 6] = [
    (wire::Role::Owner, "owner"),
    (wire::Role::Holding, "holding"),
    (wire::Role::Importing, "importing"),
    (wire::Role::Fenced, "fenced"),
    (wire::Role::Redirect, "redirect"),
    (wire::Role::Deleted, "deleted"),
];

/// See the module.
pub(crate) struct Metrics {
    listener: Listener,
    told: Arc<Told>,
}

struct Told {
    driver: Arc<dyn Driver>,
    registry: Registry,
    gates: Gauge,
    tenants: Family<RoleLabel, Gauge>,
}

impl Metrics {
    pub(crate) async fn listen(address: &str, link: &Link, driver: Arc<dyn Driver>) -> io::Result<Self> {
        let listener = link.listen(address).await?;
        Ok(Self { listener, told: Arc::new(Told::new(driver)) })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until it is dropped.
    pub(crate) async fn serve(self) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for metrics");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let told = Arc::clone(&self.told);
            tokio::spawn(async move {
                let service = service_fn(|request: Request<hyper::body::Incoming>| {
                    let answer = told.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let mut builder = hyper::server::conn::http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME_MAX);
                if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "a connection for metrics has broken");
                }
                drop(place);
            });
        }
    }
}

impl Told {
    fn new(driver: Arc<dyn Driver>) -> Self {
        let (registry, gates, tenants) = registered(driver.surroundings().ended_writers.clone());
        Self { driver, registry, gates, tenants }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n");
        }
        match request.uri().path() {
            "/metrics" => match self.scrape() {
                Ok(scraped) => typed(StatusCode::OK, OPEN_METRICS, scraped),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
            },
            "/livez" => text(StatusCode::OK, "alive\n"),
            _ => text(StatusCode::NOT_FOUND, "there are /livez and /metrics\n"),
        }
    }

    fn scrape(&self) -> Result<String, std::fmt::Error> {
        let board = &self.driver.surroundings().board;
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.gates.set(count(board.addresses().len()));
        let roles = board.roles();
        for (role, name) in ROLES {
            let of_role = roles.iter().filter(|other| **other == role).count();
            self.tenants.get_or_create(&RoleLabel { role: name }).set(count(of_role));
        }
        let mut scraped = String::new();
        encode(&mut scraped, &self.registry)?;
        Ok(scraped)
    }
}

fn registered(ended_writers: Counter) -> (Registry, Gauge, Family<RoleLabel, Gauge>) {
    let mut registry = Registry::with_prefix("cell_agent");
    let (gates, tenants) = (Gauge::default(), Family::<RoleLabel, Gauge>::default());
    registry.register("gates", "Gates that are connected to the agent now", gates.clone());
    registry.register("tenants", "Tenants by what this cell is to them", tenants.clone());
    registry.register(
        "ended_writers",
        "Transactions of writers that no gate has let in which holds have ended, since the agent was started",
        ended_writers,
    );
    (registry, gates, tenants)
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", text.to_owned())
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_is_on_the_page_of_metrics_and_every_one_there_is_registered() {
        let (registry, _gates, tenants) = registered(Counter::default());
        for (_, role) in ROLES {
            tenants.get_or_create(&RoleLabel { role }).set(0);
        }
        let mut scrape = String::new();
        encode(&mut scrape, &registry).unwrap();
        let kinds = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let registered: BTreeSet<(String, &str)> = kinds
            .map(|(name, kind)| {
                let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
                let labelled = scrape.contains(&format!("\n{name}{{role="));
                (if labelled { format!("{name}{{role}}") } else { name }, kind)
            })
            .collect();
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let page = std::fs::read_to_string(page).unwrap();
        let rows = page.lines().filter(|line| line.starts_with("| `cell_agent_"));
        let described: BTreeSet<(String, &str)> = rows
            .map(|row| {
                let cells: Vec<&str> = row.split('|').map(str::trim).collect();
                assert!(cells.len() == 5 && !cells[3].is_empty(), "not | metric | kind | what it says |: {row}");
                (cells[1].trim_matches('`').to_owned(), cells[2])
            })
            .collect();
        assert_eq!(registered, described, "docs/metrics.md, Cells: one row for each");
    }
}
