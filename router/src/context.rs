//! What the stages of the pipeline know of one request, and what the thread that serves it has at hand.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cell_gate::wire;
use cell_model::TenantId;
use cell_trust::TrustedKeys;
use http::{HeaderMap, HeaderValue, Method, Version};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::alarm::Alarms;
use crate::body::{Upload, UploadLimits};
use crate::conn::Conn;
use crate::directory::Directory;
use crate::exchange::Warnings;
use crate::flow::Flow;
use crate::headers;
use crate::identify::IdentityRules;
use crate::live::Live;
use crate::metrics::WorkerMetrics;
use crate::observe::log::Log;
use crate::observe::recent::Ring;
use crate::observe::spans::{Spans, Trace};
use crate::options::UpstreamProtocol;
use crate::policy::Admitted;
use crate::pool::Pool;
use crate::room::Rooms;
use crate::signing::Contexts;
use crate::streams::Streams;
use crate::strict::{Field, Fields, HeadLimits, Said};
use crate::table::Entry;
use crate::token::Verifier;
use crate::ungated::Sending;
use crate::upgrade::Upgrade;
use crate::worker::Phase;

/// What one thread has at hand. Nothing in it is shared but the directory.
pub(crate) struct Worker {
    pub(crate) directory: Arc<Directory>,
    pub(crate) flow: Arc<Flow>,
    pub(crate) ring: Arc<Ring>,
    pub(crate) log: Log,
    pub(crate) spans: Option<Spans>,
    pub(crate) pool: Rc<Pool>,
    pub(crate) identity: IdentityRules,
    pub(crate) verifier: Option<Verifier>,
    pub(crate) protocol: UpstreamProtocol,
    pub(crate) contexts: Option<Contexts>,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) trusted: TrustedKeys,
    pub(crate) upload: UploadLimits,
    /// How much of a head there may be.
    pub(crate) head: HeadLimits,
    pub(crate) metrics: Rc<WorkerMetrics>,
    pub(crate) dice: Dice,
    pub(crate) alarms: Alarms,
    pub(crate) rooms: Rc<Rooms>,
    pub(crate) streams: Streams,
    /// Of what gates do not take.
    pub(crate) gate_refusals: Warnings,
    /// Of what is between this router and gates.
    pub(crate) causes: Warnings,
}

impl Worker {
    /// The options of now. Not to be kept over an await.
    pub(crate) fn live(&self) -> arc_swap::Guard<Arc<Live>> {
        self.flow.live.load()
    }
}

impl Worker {
    /// Done once the router lets nothing long go on.
    pub(crate) async fn stopping(&self) {
        // An error means that nobody is left who could say so.
        let mut phase = self.phase.clone();
        let _stopping = phase.wait_for(|phase| *phase >= Phase::Closing).await;
    }
}

/// One request on its way.
pub(crate) struct RequestCtx {
    /// The connection that it came on.
    pub(crate) conn: Rc<Conn>,
    /// The options when it came.
    pub(crate) live: Arc<Live>,
    pub(crate) began: Instant,
    /// When the head of the last answer of a cell came.
    pub(crate) answered: Option<Instant>,
    /// The end of all waiting and replaying.
    pub(crate) deadline: Instant,
    pub(crate) request_id: HeaderValue,
    /// What its head had when it came.
    pub(crate) fields: Fields,
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// Where requests are logged: its path.
    pub(crate) path: Option<Box<str>>,
    /// Its body, for as long as somebody wants to know of it.
    pub(crate) upload: Upload<Incoming>,
    pub(crate) is_write: bool,
    /// May be sent again although it may have run: it changes nothing, or the cell runs it once.
    pub(crate) may_repeat: bool,
    /// gRPC: refused with a status of its own, and sent over HTTP/2.
    pub(crate) is_grpc: bool,
    /// Asks for a WebSocket.
    pub(crate) upgrade: Option<Upgrade>,
    /// Where interim answers go, if the client takes them.
    pub(crate) interim: Option<Arc<Said>>,
    /// What it depends on beside its cell, as far as that is declared.
    pub(crate) dependency: Option<Arc<str>>,
    /// Whose it is, once that is known.
    pub(crate) tenant: Option<TenantId>,
    /// By what it was routed last.
    pub(crate) entry: Option<Arc<Entry>>,
    /// How often it was sent.
    pub(crate) attempts: u32,
    /// What it has taken of its tenant's allowance.
    pub(crate) admitted: Option<Admitted>,
    /// How long it has waited for its turn.
    pub(crate) queued: Duration,
    /// How long it has waited for a move.
    pub(crate) held: Duration,
    /// Requests that its cell got at once when it was sent.
    pub(crate) cell_limit: u32,
    /// Where it was sent last.
    pub(crate) instance: Option<Arc<str>>,
    /// It has a span.
    pub(crate) trace: Option<Box<Trace>>,
    /// It is a write on its way to a cell without a gate.
    pub(crate) sending: Option<Box<Sending>>,
}

impl RequestCtx {
    pub(crate) fn new<B>(worker: &Worker, request: &http::Request<B>, conn: &Rc<Conn>) -> Self {
        let began = Instant::now();
        let fields = Fields::of(request.headers());
        let given = if fields.has(Field::RequestId) { headers::request_id_of(request.headers()) } else { None };
        let request_id = given.unwrap_or_else(|| worker.dice.request_id());
        let upgrade = Upgrade::asked_for(request, fields);
        // What a WebSocket will carry may be writes.
        let is_write = wire::is_write(request.method()) || upgrade.is_some();
        let is_grpc = fields.has(Field::ContentType) && wire::is_grpc(request.headers());
        let begin = |spans: &Spans| spans.begin(request.headers(), request.uri().path(), &worker.dice);
        let trace = worker.spans.as_ref().and_then(begin).map(Box::new);
        let takes_interim = request.version() == Version::HTTP_11 && upgrade.is_none();
        let interim = conn.said.clone().filter(|_| takes_interim);
        let live = worker.flow.live.load_full();
        let hold = live.timeouts.hold;
        let patience =
            if is_grpc { grpc_timeout(request.headers()).map_or(hold, |own| own.min(hold)) } else { hold };
        Self {
            conn: Rc::clone(conn),
            live,
            began,
            answered: None,
            deadline: began + patience,
            request_id,
            fields,
            method: request.method().clone(),
            version: request.version(),
            path: worker.log.path_of(request.uri()),
            upload: Upload::default(),
            is_write,
            may_repeat: !is_write || fields.has(Field::IdempotencyKey),
            is_grpc,
            upgrade,
            interim,
            dependency: None,
            tenant: None,
            entry: None,
            attempts: 0,
            admitted: None,
            queued: Duration::ZERO,
            held: Duration::ZERO,
            cell_limit: 0,
            instance: None,
            trace,
            sending: None,
        }
    }

    pub(crate) fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }
}

/// `grpc-timeout: 250m`.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Random numbers for names and jitter (SplitMix64), not for secrets.
pub(crate) struct Dice(Cell<u64>);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    pub(crate) fn roll(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn request_id(&self) -> HeaderValue {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let lot = [self.roll().to_be_bytes(), self.roll().to_be_bytes()];
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(lot.as_flattened()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        HeaderValue::from_bytes(&text).expect("hexadecimal digits are a header value")
    }

    /// Between 0 and 1.
    pub(crate) fn part(&self) -> f64 {
        f64::from(u32::try_from(self.roll() >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
    }

    /// A key for a WebSocket that this router asks a cell for (RFC 6455, 4.1): 16 bytes that nobody has to guess.
    pub(crate) fn websocket_key(&self) -> HeaderValue {
        use base64::Engine as _;
        let bytes = [self.roll().to_be_bytes(), self.roll().to_be_bytes()].concat();
        let key = base64::engine::general_purpose::STANDARD.encode(bytes);
        HeaderValue::try_from(key).expect("base64 is a header value")
    }

    /// Some share of it.
    pub(crate) fn share_of(&self, duration: Duration) -> Duration {
        duration.mul_f64(self.part())
    }

    /// Between half of it and all of it.
    pub(crate) fn jittered(&self, duration: Duration) -> Duration {
        duration.mul_f64(0.5 + 0.5 * self.part())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_between_half_and_all() {
        let dice = Dice::new(7);
        let whole = Duration::from_millis(20);
        for _ in 0..1_000 {
            let jittered = dice.jittered(whole);
            assert!(jittered >= whole / 2 && jittered <= whole, "{jittered:?}");
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type_and_brings_its_deadline() {
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            headers
        };
        for (value, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; a=b", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(wire::is_grpc(&with("content-type", value)), grpc, "{value}");
        }
        for (value, timeout) in [
            ("250m", Some(Duration::from_millis(250))),
            ("2S", Some(Duration::from_secs(2))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("", None),
            ("5", None),
            ("S", None),
            ("123456789S", None),
            ("-1S", None),
            ("1\u{e4}", None),
        ] {
            if let Ok(value) = HeaderValue::from_str(value) {
                let mut headers = HeaderMap::new();
                headers.insert("grpc-timeout", value);
                assert_eq!(grpc_timeout(&headers), timeout);
            }
        }
    }

    #[test]
    fn request_ids_differ() {
        let dice = Dice::new(7);
        let ids: std::collections::HashSet<_> = (0..1_000).map(|_| dice.request_id()).collect();
        assert_eq!(ids.len(), 1_000);
    }
}
