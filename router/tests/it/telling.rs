//! What a router tells others of requests: usage that is collected exactly once, and spans of some of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::Full;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::client::{get, post, request, send};
use crate::control::FakeControl;
use crate::fleet::{Fleet, until};
use crate::gate::FakeGate;

fn control(gate: &FakeGate) -> Arc<FakeControl> {
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 3, |_| {});
    control.set_tenant("t-2", "a", 3, |_| {});
    control
}

/// The oldest batch that a router gives out.
async fn batch(fleet: &Fleet) -> Option<serde_json::Value> {
    let answer = fleet.admin("/usage").await;
    (answer.status == StatusCode::OK).then(|| serde_json::from_str(&answer.body).unwrap())
}

async fn collected(fleet: &Fleet, id: &str) {
    let request = Request::delete(format!("/usage/{id}")).header("host", "admin").body(Full::default()).unwrap();
    let answer = send::<Full<bytes::Bytes>>(fleet.router.addresses().admin, request).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_given_out_until_it_is_collected_and_outlives_the_process() {
    let gate = FakeGate::echo("a").await;
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_owned();
    let with_usage = move |options: &mut cell_router::Options| {
        let (interval, bytes_max) = (Duration::from_secs(3_600), 1 << 20);
        options.usage = Some(cell_router::UsageOptions { directory, interval, bytes_max, token_file: None });
    };
    let fleet = Fleet::start(control(&gate), with_usage.clone()).await;
    assert_eq!(post(fleet.address(), "t-1", "/", "12345").await.body, "a:12345");
    assert_eq!(get(fleet.address(), "t-1", "/").await.body, "a:");
    assert_eq!(get(fleet.address(), "t-2", "/").await.status, StatusCode::OK);
    assert_eq!(get(fleet.address(), "t-3", "/").await.status, StatusCode::NOT_FOUND);
    assert_eq!(fleet.admin("/usage").await.status, StatusCode::NO_CONTENT, "the interval is not over");
    fleet.stop().await;

    let fleet = Fleet::start(control(&gate), with_usage).await;
    assert_eq!(fleet.metric("cell_router_usage_batches_waiting", "").await, 1.0);
    let first = batch(&fleet).await.unwrap();
    let used = serde_json::json!({ "requests": 2, "writes": 1, "received_bytes": 5, "answered_bytes": 9 });
    assert_eq!(first["tenants"]["t-1"], used, "{first}");
    assert_eq!(first["tenants"]["t-2"]["requests"], 1);
    assert!(first["tenants"]["t-3"].is_null(), "a tenant that does not exist uses nothing");
    assert_eq!(batch(&fleet).await.unwrap(), first, "given out again, with the same id");
    let id = first["batch"].as_str().unwrap();
    collected(&fleet, id).await;
    collected(&fleet, id).await;
    assert_eq!(batch(&fleet).await, None);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_collects_while_requests_go_on_counts_each_of_them_once() {
    let gate = FakeGate::echo("a").await;
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_owned();
    let fleet = Fleet::start(control(&gate), move |options| {
        let (interval, bytes_max) = (Duration::from_millis(100), 1 << 20);
        options.usage = Some(cell_router::UsageOptions { directory, interval, bytes_max, token_file: None });
    })
    .await;
    let address = fleet.address();
    let asking = tokio::spawn(async move {
        for _ in 0..200 {
            assert_eq!(get(address, "t-1", "/").await.status, StatusCode::OK);
        }
    });
    let mut counted = std::collections::BTreeMap::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while counted.values().sum::<u64>() < 200 {
        assert!(tokio::time::Instant::now() < deadline, "{counted:?}");
        if let Some(batch) = batch(&fleet).await {
            let id = batch["batch"].as_str().unwrap().to_owned();
            let again = counted.insert(id.clone(), batch["tenants"]["t-1"]["requests"].as_u64().unwrap());
            assert_eq!(again, None, "a batch that was collected does not come again");
            collected(&fleet, &id).await;
        } else {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    asking.await.unwrap();
    assert_eq!(counted.values().sum::<u64>(), 200);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_nobody_else_collects() {
    let gate = FakeGate::echo("a").await;
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "0123456789abcdef\n").unwrap();
    std::fs::set_permissions(&token_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let directory = folder.path().join("usage");
    let fleet = Fleet::start(control(&gate), move |options| {
        let (interval, bytes_max, token_file) = (Duration::from_secs(60), 1 << 20, Some(token_file));
        options.usage = Some(cell_router::UsageOptions { directory, interval, bytes_max, token_file });
    })
    .await;
    let ask = async |method: &str, path: &str, token: &str| {
        let request = Request::builder().method(method).uri(path).header("host", "admin");
        let request = request.header("authorization", format!("Bearer {token}")).body(Full::default()).unwrap();
        send::<Full<bytes::Bytes>>(fleet.router.addresses().admin, request).await
    };
    for (method, path) in [("GET", "/usage"), ("DELETE", "/usage/one")] {
        let refused = ask(method, path, "0123456789abcdeX").await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::FORBIDDEN, "USAGE_FORBIDDEN"));
        assert_eq!(ask(method, path, "0123456789abcdef").await.status, StatusCode::NO_CONTENT);
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_options_for_it_usage_is_off_and_says_so() {
    let gate = FakeGate::echo("a").await;
    let fleet = Fleet::start(control(&gate), |_| {}).await;
    let answer = fleet.admin("/usage").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "USAGE_OFF"));
    fleet.stop().await;
}

/// A collector of spans.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.0.lock().unwrap().extend(spans);
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(serving.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
        (collector, format!("http://{address}"))
    }
}

fn text_of(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        other => Some(format!("{other:?}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_says_whose_the_request_was_and_the_cell_s_spans_are_its_children() {
    let gate = FakeGate::echo("a").await;
    let (collector, endpoint) = Collector::start().await;
    let fleet = Fleet::start(control(&gate), |options| {
        let (sample_percent, follow_clients) = (0.0, true);
        let spans = cell_router::SpanOptions { endpoint, sample_percent, follow_clients, ca_file: None };
        options.spans = Some(spans);
    })
    .await;
    let traced = |flags: &str| {
        let mut traced = request("GET", "t-1", "/docs?secret=1", "");
        let value = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        traced.headers_mut().insert("traceparent", value.parse().unwrap());
        traced
    };
    assert_eq!(send(fleet.address(), traced("00")).await.status, StatusCode::OK);
    assert_eq!(send(fleet.address(), traced("01")).await.status, StatusCode::OK);
    assert_eq!(get(fleet.address(), "t-1", "/").await.status, StatusCode::OK);
    until("the span has come", || !collector.0.lock().unwrap().is_empty()).await;
    fleet.stop().await;
    let spans = collector.0.lock().unwrap().clone();
    assert_eq!(spans.len(), 1, "the others were not sampled");
    let span = &spans[0];
    assert_eq!(text_of(span, "tenant.id").unwrap(), "t-1");
    assert_eq!(text_of(span, "cellway.cell").unwrap(), "a");
    assert_eq!(text_of(span, "url.path").unwrap(), "/docs", "without what may be secret");
    assert!(span.start_time_unix_nano < span.end_time_unix_nano);
    let seen: Vec<String> = gate
        .seen()
        .iter()
        .map(|seen| {
            seen.headers.get("traceparent").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        })
        .collect();
    assert_eq!(seen[0], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "passes as it came");
    let id: String = span.span_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(seen[1], format!("00-0af7651916cd43dd8448eb211c80319c-{id}-01"));
    assert_eq!(seen[2], "", "nothing is invented");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_gone_costs_spans_and_no_request() {
    let gate = FakeGate::echo("a").await;
    let fleet = Fleet::start(control(&gate), |options| {
        let (endpoint, sample_percent) = ("http://127.0.0.1:1".to_owned(), 100.0);
        let spans = cell_router::SpanOptions { endpoint, sample_percent, follow_clients: false, ca_file: None };
        options.spans = Some(spans);
    })
    .await;
    assert_eq!(get(fleet.address(), "t-1", "/").await.status, StatusCode::OK);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while fleet.metric("cell_router_spans_left_out_total", "").await < 1.0 {
        assert!(tokio::time::Instant::now() < deadline, "the span is neither sent nor counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fleet.stop().await;
}
