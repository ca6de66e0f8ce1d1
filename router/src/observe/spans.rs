//! Spans of some requests (OpenTelemetry), to a collector over OTLP.
//!
//! ```text
//! request ─ lot, or the client's word ─┬─ no ─► nothing: no span, no allocation, `traceparent` passes as it came
//!                                      └─ yes ► Trace ─ answered ─► queue (bounded) ─► batch ─► collector
//! ```
//! Whether a request has a span is decided before there is anything of it. No request waits for the collector: spans that
//! it does not take in time are left out and counted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::Record;
use crate::context::Dice;
use crate::options::SpanOptions;

/// W3C Trace Context.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Spans that wait to be sent, and that are sent at once.
const WAITING_MAX: usize = 4_096;
const AT_ONCE: usize = 512;
/// How long spans wait for others to be sent with them.
const GATHER: Duration = Duration::from_secs(1);
pub(crate) const EXPORT_TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes of a path that a span shows.
const PATH_BYTES_MAX: usize = 256;

/// A request that has a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trace {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    /// The client's span; none where the trace begins here.
    parent: Option<[u8; 8]>,
    path: String,
}

/// Which requests have spans, and where these go. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Spans {
    /// Of 2^32.
    chances: u64,
    follow_clients: bool,
    sender: mpsc::Sender<(Trace, Arc<Record>)>,
    left_out: Counter,
}

impl Spans {
    /// Spans, and what sends them.
    pub(crate) fn new(options: &SpanOptions, router: &str, left_out: Counter) -> Result<(Self, Exporter), String> {
        let (sender, spans) = mpsc::channel(WAITING_MAX);
        #[expect(clippy::cast_possible_truncation, reason = "a part of 2^32, checked to be between 0 and 1")]
        let chances = (options.sample_percent / 100.0 * 4_294_967_296.0) as u64;
        // The connection is made when it is first needed. Within a runtime.
        let channel = endpoint(options)?.connect_lazy();
        let exporter = Exporter { channel, router: router.to_owned(), spans, left_out: left_out.clone() };
        Ok((Self { chances, follow_clients: options.follow_clients, sender, left_out }, exporter))
    }

    /// The request's trace, if it has one.
    pub(crate) fn begin(&self, headers: &HeaderMap, path: &str, dice: &Dice) -> Option<Trace> {
        let by_lot = dice.roll() >> 32 < self.chances;
        if !by_lot && !self.follow_clients {
            return None;
        }
        let theirs = headers.get(&TRACEPARENT).and_then(|value| parse(value.as_bytes()));
        if !by_lot && !theirs.is_some_and(|theirs| theirs.sampled) {
            return None;
        }
        let own = || {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&dice.roll().to_be_bytes());
            id[8..].copy_from_slice(&dice.roll().to_be_bytes());
            id
        };
        let end = path.floor_char_boundary(PATH_BYTES_MAX);
        Some(Trace {
            trace_id: theirs.map_or_else(own, |theirs| theirs.trace_id),
            span_id: dice.roll().max(1).to_be_bytes(),
            parent: theirs.map(|theirs| theirs.span_id),
            path: path[..end].to_owned(),
        })
    }

    /// The request is answered.
    pub(crate) fn end(&self, trace: Trace, record: &Arc<Record>) {
        if self.sender.try_send((trace, Arc::clone(record))).is_err() {
            self.left_out.inc();
        }
    }
}

impl Trace {
    /// Tells the cell whose child its spans are.
    pub(crate) fn hand_on(&self, headers: &mut HeaderMap) {
        let text = format!("00-{}-{}-01", hex(&self.trace_id), hex(&self.span_id));
        headers.insert(&TRACEPARENT, HeaderValue::from_str(&text).expect("hexadecimal digits are a header value"));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Theirs {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    sampled: bool,
}

/// `00-<32 digits>-<16 digits>-<2 digits>`, in lower case; a later version may have more after that.
fn parse(value: &[u8]) -> Option<Theirs> {
    let text = std::str::from_utf8(value).ok()?;
    let mut parts = text.splitn(5, '-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let more = parts.next().is_some();
    let [version] = digits::<1>(version)?;
    if version == 0xff || (version == 0 && more) {
        return None;
    }
    let (trace_id, span_id) = (digits::<16>(trace)?, digits::<8>(span)?);
    let [flags] = digits::<1>(flags)?;
    let valid = trace_id != [0; 16] && span_id != [0; 8];
    valid.then_some(Theirs { trace_id, span_id, sampled: flags & 1 == 1 })
}

fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * N || !text.bytes().all(lower) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Whether spans can be sent as the options say.
pub(crate) fn check(options: &SpanOptions) -> Result<(), String> {
    endpoint(options).map(drop)
}

fn endpoint(options: &SpanOptions) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(options.endpoint.clone()).map_err(|error| error.to_string())?;
    let endpoint = endpoint.connect_timeout(EXPORT_TIME_MAX).timeout(EXPORT_TIME_MAX);
    match &options.ca_file {
        None => Ok(endpoint),
        Some(path) => {
            let pem = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            endpoint.tls_config(tls).map_err(|error| format!("{}: {error}", path.display()))
        }
    }
}

/// Sends spans.
pub(crate) struct Exporter {
    channel: Channel,
    router: String,
    spans: mpsc::Receiver<(Trace, Arc<Record>)>,
    left_out: Counter,
}

impl Exporter {
    /// Sends until nobody is left who could have any.
    pub(crate) async fn run(mut self) {
        let mut client = TraceServiceClient::new(self.channel.clone());
        let mut gathered = Vec::with_capacity(AT_ONCE);
        loop {
            let until = tokio::time::Instant::now() + GATHER;
            let mut over = false;
            while gathered.len() < AT_ONCE {
                let room = AT_ONCE - gathered.len();
                match tokio::time::timeout_at(until, self.spans.recv_many(&mut gathered, room)).await {
                    Ok(0) => {
                        over = true;
                        break;
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            if !gathered.is_empty() {
                let count = gathered.len() as u64;
                let spans = gathered.drain(..).map(|(trace, record)| span(trace, &record)).collect();
                let sending = client.export(request(&self.router, spans));
                let refused = match tokio::time::timeout(EXPORT_TIME_MAX, sending).await {
                    Ok(Ok(_)) => None,
                    Ok(Err(status)) => Some(status.to_string()),
                    Err(_) => Some(format!("no answer in {} s", EXPORT_TIME_MAX.as_secs())),
                };
                if let Some(reason) = refused {
                    self.left_out.inc_by(count);
                    tracing::warn!(code = "SPANS_NOT_TAKEN", reason, count, "the collector has not taken spans");
                }
            }
            if over {
                return;
            }
        }
    }
}

fn request(router: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let resource = Resource {
        attributes: vec![
            attribute("service.name", Value::StringValue("cell-router".into())),
            attribute("service.instance.id", Value::StringValue(router.into())),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope { name: "cellway".into(), ..InstrumentationScope::default() };
    let spans = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![spans],
            ..ResourceSpans::default()
        }],
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// From the head of the request to the head of its answer.
fn span(trace: Trace, record: &Record) -> Span {
    let text = |key, value: &str| attribute(key, Value::StringValue(value.to_owned()));
    let number = |key, value: u64| attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)));
    let millis = |key, value: Duration| attribute(key, Value::DoubleValue(value.as_secs_f64() * 1_000.0));
    let mut attributes = vec![
        text("http.request.method", record.method.as_str()),
        text("url.path", &trace.path),
        number("http.response.status_code", record.status.as_u16().into()),
        text("cellway.request.id", record.request_id.to_str().unwrap_or_default()),
        number("cellway.attempts", record.attempts.into()),
        millis("cellway.held_ms", record.held),
        millis("cellway.queued_ms", record.queued),
    ];
    if let Some(tenant) = &record.tenant {
        attributes.push(text("tenant.id", tenant.as_str()));
    }
    if let Some(mapping) = record.entry.as_ref().map(|entry| &entry.mapping) {
        attributes.push(text("cellway.cell", mapping.owner.as_str()));
        attributes.push(number("cellway.epoch", mapping.epoch.get()));
    }
    if let Some(instance) = &record.instance {
        attributes.push(text("server.address", instance));
    }
    if let Some((code, _)) = &record.refusal {
        attributes.push(text("error.type", code.as_str()));
    }
    let ended = nanos(record.at);
    let failed = record.status.is_server_error();
    Span {
        trace_id: trace.trace_id.to_vec(),
        span_id: trace.span_id.to_vec(),
        parent_span_id: trace.parent.map(Vec::from).unwrap_or_default(),
        name: format!("{} {}", record.method, if record.tenant.is_some() { "tenant" } else { "unknown" }),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: ended.saturating_sub(u64::try_from(record.took.as_nanos()).unwrap_or(u64::MAX)),
        end_time_unix_nano: ended,
        attributes,
        status: failed.then(|| Status {
            code: StatusCode::Error.into(),
            message: record.refusal.as_ref().map(|(_, detail)| detail.clone()).unwrap_or_default(),
        }),
        ..Span::default()
    }
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEIRS: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn spans(sample_percent: f64, follow_clients: bool) -> Spans {
        let options =
            SpanOptions { endpoint: "http://collector:4317".into(), sample_percent, follow_clients, ca_file: None };
        Spans::new(&options, "edge-1", Counter::default()).unwrap().0
    }

    fn headers(traceparent: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(TRACEPARENT.clone(), HeaderValue::from_static(traceparent))])
    }

    #[test]
    fn a_traceparent_is_read_as_the_recommendation_says() {
        let theirs = parse(THEIRS.as_bytes()).unwrap();
        assert!(theirs.sampled && hex(&theirs.trace_id) == "0af7651916cd43dd8448eb211c80319c");
        assert!(!parse(THEIRS.replace("-01", "-00").as_bytes()).unwrap().sampled);
        assert!(parse(b"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more").is_some());
        for wrong in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-01",
        ] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_request_has_a_span_by_lot_or_by_the_word_of_a_client_that_is_followed() {
        let dice = Dice::new(7);
        assert_eq!(spans(0.0, false).begin(&headers(THEIRS), "/", &dice), None, "nobody follows it");
        assert_eq!(spans(0.0, true).begin(&HeaderMap::new(), "/", &dice), None);
        let followed = spans(0.0, true).begin(&headers(THEIRS), "/", &dice).unwrap();
        assert_eq!(hex(&followed.trace_id), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(followed.parent.map(|id| hex(&id)).unwrap(), "b7ad6b7169203331");
        let own = spans(100.0, false).begin(&HeaderMap::new(), &"ä".repeat(200), &dice).unwrap();
        assert!(own.parent.is_none() && own.path.len() <= PATH_BYTES_MAX);
        let mut onward = headers(THEIRS);
        own.hand_on(&mut onward);
        let read = parse(onward[&TRACEPARENT].as_bytes()).unwrap();
        assert_eq!((read.trace_id, read.span_id, read.sampled), (own.trace_id, own.span_id, true));
        let some = spans(25.0, false);
        let count = (0..10_000).filter(|_| some.begin(&HeaderMap::new(), "/", &dice).is_some()).count();
        assert!((2_200..2_800).contains(&count), "{count} of 10,000");
    }
}
