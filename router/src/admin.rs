//! The router's own small server, for operators and for whoever asks whether it is alive.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cell_client::net::Listener;
use cell_model::TenantId;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::directory::Directory;
use crate::fair::fleet;
use crate::fair::rate::WHOLE;
use crate::fair::tenants::Active;
use crate::flow::Flow;
use crate::observe::recent::Recent;
use crate::usage::batches::Batches;
use crate::usage::collectors::Collectors;

const CONNECTIONS_MAX: usize = 64;
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Batches of usage, and who may have them.
pub(crate) struct Usage {
    pub(crate) batches: Arc<Batches>,
    pub(crate) collectors: Collectors,
}

/// Where clients connect, beside what other routers ask for.
pub(crate) const LISTEN_HEADER: &str = "cell-router-listen";

/// What the server tells.
pub(crate) struct Admin {
    /// Where clients connect.
    pub(crate) listen: SocketAddr,
    pub(crate) directory: Arc<Directory>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) flow: Arc<Flow>,
    pub(crate) recent: Arc<Recent>,
    /// What tenants have used; none where that is not written down.
    pub(crate) usage: Option<Usage>,
    pub(crate) quiescing: AtomicBool,
}

impl Admin {
    /// Answers until it is dropped.
    pub(crate) async fn serve(self: Arc<Self>, listener: Listener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes the semaphore");
            let (stream, caller) = match listener.accept().await {
                Ok((stream, caller)) => (stream, caller.ip()),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of an operator");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let admin = Arc::clone(&self);
            tokio::spawn(async move {
                let service = service_fn(|request: Request<hyper::body::Incoming>| {
                    let admin = Arc::clone(&admin);
                    async move {
                        Ok::<_, Infallible>(match request.uri().path().strip_prefix(USAGE) {
                            Some(id) => admin.usage(&request, id, caller).await,
                            None => admin.answer(&request),
                        })
                    }
                });
                let mut builder = hyper::server::conn::http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME_MAX);
                if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "an operator's connection has broken");
                }
                drop(place);
            });
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return problem(
                StatusCode::METHOD_NOT_ALLOWED,
                "METHOD_NOT_ALLOWED",
                "only GET and HEAD are answered here",
            );
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "alive\n"),
            "/readyz" => self.ready(),
            "/metrics" => self.metrics(),
            "/debug/cells" => answer(StatusCode::OK, "application/json", self.cells().to_string()),
            "/debug/top" => answer(StatusCode::OK, "application/json", self.top().to_string()),
            fleet::PATH => self.demand(),
            path => match (path.strip_prefix("/debug/tenant/"), path.strip_prefix("/debug/request/")) {
                (Some(tenant), _) => self.tenant(tenant),
                (_, Some(request_id)) => self.request(request_id),
                (None, None) => problem(
                    StatusCode::NOT_FOUND,
                    "PATH_UNKNOWN",
                    "there are /livez, /readyz, /metrics, /debug/cells, /debug/top, /debug/tenant/<id>, /debug/request/<id>, /fairness/demand and /usage",
                ),
            },
        }
    }

    /// `GET /usage`: the oldest batch that nobody has collected. `DELETE /usage/<id>`: it is collected.
    async fn usage<B>(&self, request: &Request<B>, id: &str, caller: IpAddr) -> Response<Full<Bytes>> {
        let Some(usage) = &self.usage else {
            let detail = "usage is not written down here: there is no [usage] in the options";
            return problem(StatusCode::NOT_FOUND, "USAGE_OFF", detail);
        };
        let (method, batches) = (request.method(), Arc::clone(&usage.batches));
        if let Some(detail) = usage.collectors.refuse(method, caller, request.headers()) {
            return problem(StatusCode::FORBIDDEN, "USAGE_FORBIDDEN", detail);
        }
        let id = id.trim_start_matches('/').to_owned();
        let (read, given) = (*method == Method::GET, !id.is_empty());
        let done = match (read, given) {
            (true, false) => {
                tokio::task::spawn_blocking(move || batches.oldest()).await.map(|oldest| match oldest {
                    Ok(Some((_, text))) => Ok(answer_bytes(StatusCode::OK, "application/json", text.into())),
                    Ok(None) => Ok(text(StatusCode::NO_CONTENT, "")),
                    Err(error) => Err(error),
                })
            }
            (false, true) if *method == Method::DELETE => {
                // Whether it was there or not, it is collected.
                let removed = tokio::task::spawn_blocking(move || batches.remove(&id)).await;
                removed.map(|removed| removed.map(|_was_there| text(StatusCode::NO_CONTENT, "")))
            }
            _ => {
                let detail =
                    "GET /usage answers the oldest batch, DELETE /usage/<its id> says that it is collected";
                return problem(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail);
            }
        };
        let failed = match done {
            Ok(Ok(response)) => return response,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        problem(StatusCode::INTERNAL_SERVER_ERROR, "USAGE_UNREADABLE", &failed)
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        if self.quiescing.load(Ordering::Acquire) {
            text(StatusCode::SERVICE_UNAVAILABLE, "quiescing: no new requests, please\n")
        } else if self.directory.loaded() {
            text(StatusCode::OK, "ready\n")
        } else {
            text(
                StatusCode::SERVICE_UNAVAILABLE,
                "no table yet: neither the control plane nor the file has given one\n",
            )
        }
    }

    /// For the other routers, and for whoever wants to know which router this is.
    fn demand(&self) -> Response<Full<Bytes>> {
        let mut response = answer(StatusCode::OK, "application/json", fleet::report(&self.flow));
        if let Ok(listen) = HeaderValue::try_from(self.listen.to_string()) {
            response.headers_mut().insert(LISTEN_HEADER, listen);
        }
        response
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut encoded = String::new();
        match prometheus_client::encoding::text::encode(&mut encoded, &self.registry) {
            Ok(()) => answer(StatusCode::OK, OPEN_METRICS, encoded),
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "METRICS_FAILED", &error.to_string()),
        }
    }

    /// What became of a request.
    fn request(&self, request_id: &str) -> Response<Full<Bytes>> {
        match self.recent.find(request_id) {
            Some(record) => answer(StatusCode::OK, "application/json", record.to_json().to_string()),
            None => problem(
                StatusCode::NOT_FOUND,
                "REQUEST_UNKNOWN",
                "no request of this id is among the last ones of this router",
            ),
        }
    }

    /// The way into each cell.
    fn cells(&self) -> Value {
        let mut cells = serde_json::Map::new();
        self.flow.for_each_cell(|id, cell| {
            let scheduler = &cell.scheduler;
            let shown = json!({
                "limit": scheduler.limit(),
                "requests": scheduler.in_flight(),
                "queued": scheduler.waiting(),
                "answer_ms": millis(scheduler.mean()),
                "answer_ms_when_not_pressed": scheduler.baseline().map(millis),
                "breaker": cell.breaker.state().to_string(),
                "dependencies": cell.dependencies.all().iter()
                    .map(|(name, breaker)| (name.to_string(), json!(breaker.state().to_string())))
                    .collect::<serde_json::Map<_, _>>(),
            });
            cells.insert(id.to_string(), shown);
        });
        let now = self.flow.clock.now();
        let instances = self.directory.instances.all();
        let instances = instances.iter().map(|instance| {
            json!({
                "address": &**instance.address(), "requests": instance.in_flight(),
                "healthy": instance.is_healthy(), "ejected": instance.is_ejected(now),
            })
        });
        json!({ "cells": cells, "instances": instances.collect::<Vec<_>>() })
    }

    /// Who asks most.
    fn top(&self) -> Value {
        let mut all = Vec::new();
        self.flow
            .tenants
            .for_each(|tenant, active| all.push((active.demand(), tenant.clone(), self.active(active))));
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        all.truncate(TOP);
        let shown = all.into_iter().map(|(_, tenant, active)| json!({ "tenant": tenant, "active": active }));
        json!({ "active_tenants": self.flow.tenants.count(), "top": shown.collect::<Vec<_>>() })
    }

    fn active(&self, active: &Active) -> Value {
        json!({
            "requests_per_second": active.demand(),
            "on_their_way": active.in_flight(),
            "places_in_the_cell": active.places.held(),
            "without_a_place": active.places.outside(),
            "share_of_rate": f64::from(active.share()) / f64::from(WHOLE),
            "breaker": active.last_breaker().state().to_string(),
        })
    }

    fn tenant(&self, tenant: &str) -> Response<Full<Bytes>> {
        let tenant = match TenantId::new(tenant) {
            Ok(tenant) => tenant,
            Err(invalid) => return problem(StatusCode::BAD_REQUEST, "TENANT_INVALID", &invalid.to_string()),
        };
        let staleness = self.directory.freshness.staleness(Instant::now());
        let table = json!({
            "revision": self.directory.applied(),
            "tenants": self.directory.tenants(),
            "staleness_seconds": staleness.map(|staleness| staleness.as_secs_f64()),
        });
        let Some(entry) = self.directory.find(&tenant) else {
            let unknown = json!({ "code": "TENANT_UNKNOWN", "tenant": tenant, "table": table });
            return answer(StatusCode::NOT_FOUND, "application/json", unknown.to_string());
        };
        let (gates, others) = self.directory.gates(&entry);
        let others = others
            .iter()
            .flat_map(|others| others.addresses().filter(|other| !gates.addresses().any(|gate| gate == *other)));
        let shown = json!({
            "mapping": entry.mapping,
            "gates": gates.addresses().chain(others).map(|gate| &**gate).collect::<Vec<_>>(),
            "agent": entry.endpoints.agent,
            "table": table,
            "active": self.flow.tenants.find(&tenant).map(|active| self.active(&active)),
        });
        answer(StatusCode::OK, "application/json", shown.to_string())
    }
}

/// Where batches of usage are collected.
const USAGE: &str = "/usage";
/// Tenants that are shown of those that ask most.
const TOP: usize = 20;

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", body.to_owned())
}

fn problem(status: StatusCode, code: &str, detail: &str) -> Response<Full<Bytes>> {
    let body = json!({ "status": status.as_u16(), "code": code, "detail": detail });
    answer(status, "application/problem+json", body.to_string())
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    answer_bytes(status, content_type, body.into())
}

fn answer_bytes(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
