//! One request sent once to one cell, and what came of it. Whatever the outcome, it says whether the request can have
//! run: on that alone it depends whether it may be sent again.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cell_gate::wire;
use cell_model::Hold;
use cell_trust::SignedMapping;
use http::header::{EXPECT, HOST};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{Extensions, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::answer::Download;
use crate::body::{Upload, UploadFault, Wanted};
use crate::conn::Say;
use crate::context::{RequestCtx, Worker};
use crate::headers;
use crate::options::UpstreamProtocol;
use crate::pool::{Ask, CellBody, ConnectError, Lease, SendError, Sent, Whole, Wire};
use crate::refusal::{Code, Refusal};
use crate::room::STALL;
use crate::schedule::Leave;
use crate::strict::{Rule, Said};
use crate::table::Entry;
use crate::unreached::{self, Unreached};

/// A request as it goes to cells: the head without a stamp, and the body.
pub(crate) struct Outgoing {
    pub(crate) parts: Parts,
    pub(crate) upload: Upload<Incoming>,
}

/// What came of one attempt.
pub(crate) enum Attempt {
    /// The cell has answered.
    Answered(Response<Download>),
    /// It has not run: the gate knows of a newer owner, and may have said which.
    Stale(Option<SignedMapping>),
    /// It has not run: the gate could not let it in, and has said why by this code.
    NotExecuted(String),
    /// It has not run: the gate says that the tenant is deleted.
    Deleted,
    /// It has not run: no instance took a connection.
    Unreachable(Refusal),
    /// It has not run: the instance closed the connection before it took the request.
    NotTaken(Refusal),
    /// It may have run: the connection broke.
    Broken(Refusal),
    /// It may have run: the connection broke while the body was on its way, for which the cell may have had reason.
    CutShort(Refusal),
    /// It is over: nothing that comes of sending it again would be better.
    Over(Refusal),
}

/// How much of the body of a refusal is read so that its connection can be used again.
const REFUSAL_BYTES_MAX: usize = 16 << 10;
/// At most so often a thread says that gates refuse what it sends.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);
const REFUSAL_TIME_MAX: Duration = Duration::from_millis(100);

/// Sends the request once to an instance of the entry's owner. `leave`: just given.
///
/// The first time over an idle connection that nobody has looked at: where it turns out to be closed, it is as if there had
/// been none, and another is looked for with the same leave.
pub(crate) async fn attempt(
    worker: &Worker,
    ctx: &mut RequestCtx,
    entry: &Arc<Entry>,
    outgoing: &mut Outgoing,
    leave: &mut Leave,
) -> Attempt {
    let (looks, began) = (ctx.attempts > 0, leave.began());
    match once(worker, ctx, entry, outgoing, leave, began, looks).await {
        Attempt::NotTaken(_) if !looks && outgoing.upload.can_replay() => {
            ctx.attempts = 0;
            Box::pin(once(worker, ctx, entry, outgoing, leave, Instant::now(), true)).await
        }
        other => other,
    }
}

/// `looks`: at an idle connection, before it is used.
async fn once(
    worker: &Worker,
    ctx: &mut RequestCtx,
    entry: &Arc<Entry>,
    outgoing: &mut Outgoing,
    leave: &mut Leave,
    began: Instant,
    looks: bool,
) -> Attempt {
    let wire = wire_of(worker, ctx);
    let body = outgoing.upload.whole().filter(|_| wire == Wire::Http1 && ctx.upgrade.is_none());
    // A last connection is tried even where the time for waiting is over.
    let (now, until) = (began, ctx.deadline.max(began + ctx.live.timeouts.connect));
    let ask = Ask { now, looks, whole: body.is_some(), until };
    let mut lease = match connect(worker, entry, wire, ask).await {
        Ok(lease) => lease,
        Err(unreached) => return Attempt::Unreachable(unreached),
    };
    ctx.attempts += 1;
    ctx.instance = Some(Arc::clone(lease.address()));
    // A stream of HTTP/2 that is refused takes nothing else along: its body needs not to be kept back.
    // Where no gate is, nobody refuses on the head alone, and an application may know nothing of `100 Continue`.
    let ungated = worker.directory.ungated.has(&entry.mapping.owner);
    let kept_back = wire == Wire::Http1 && !outgoing.upload.is_complete() && !ungated;
    let wanted = kept_back.then(Arc::<Wanted>::default);
    let answer = {
        let outgoing = &*outgoing;
        let whole = body.and_then(|body| whole(worker, ctx, entry, &outgoing.parts, &body, &lease));
        let sending = lease.send(whole, || streamed(worker, ctx, entry, outgoing, wire, wanted.as_ref()));
        match answer_in_time(worker, ctx, entry, outgoing, leave, sending).await {
            Ok(answer) => answer,
            Err(refusal) => {
                if refusal.code == Code::CellTimeout {
                    failed(worker, &lease);
                }
                return Attempt::Over(refusal);
            }
        }
    };
    match answer {
        Ok(response) => {
            let answered = Instant::now();
            ctx.answered = Some(answered);
            if let Some(instance) = lease.instance() {
                instance.succeeded(worker.flow.clock.at(answered));
            }
            // What the client has sent may still be on its way to the cell.
            if !(outgoing.upload.is_complete() && outgoing.upload.is_small()) {
                lease.goes_on_sending();
            }
            sort(worker, response, lease, entry, wanted).await
        }
        Err(error) => {
            if let Some(fault) = outgoing.upload.fault() {
                return Attempt::Over(refusal_of(worker, ctx, fault));
            }
            let (address, cell) = (lease.address(), &entry.mapping.owner);
            if let Some(refused) = lease.refused() {
                worker.metrics.connect_failures.inc();
                let mut tried = Unreached::default();
                tried.add(address, &ConnectError::Tls(refused));
                return Attempt::Unreachable(tried.refusal(cell));
            }
            let (SendError::NotTaken(why) | SendError::Broken(why)) = &error;
            let not_http = if why.is_parse() { " (it may want TLS: `upstream.tls`)" } else { "" };
            let cause = format!("{address}: {}{not_http}", unreached::in_full(why));
            if let SendError::NotTaken(_) = error {
                let detail = format!("an instance of cell {cell} has closed its connection");
                return Attempt::NotTaken(Refusal::new(Code::CellUnreachable, detail).because(cause));
            }
            worker.metrics.broken.inc();
            let detail = format!("the connection to an instance of cell {cell} has broken");
            let refusal = Refusal::new(Code::CellFailed, detail).because(cause);
            if outgoing.upload.is_complete() {
                failed(worker, &lease);
                Attempt::Broken(refusal)
            } else {
                Attempt::CutShort(refusal)
            }
        }
    }
}

/// The instance has not answered in time, or its connection broke.
fn failed(worker: &Worker, lease: &Lease) {
    let ejected = lease
        .instance()
        .is_some_and(|instance| instance.failed(worker.flow.clock.now(), worker.flow.live.load().instances));
    if ejected {
        worker.metrics.ejections.inc();
        tracing::warn!(address = %lease.address(), "an instance has failed several times in a row: it is asked last for a while");
    }
}

/// A connection to one of the owner's instances: the tenant's own first, those that are not well last.
async fn connect(worker: &Worker, entry: &Entry, wire: Wire, mut ask: Ask) -> Result<Lease, Refusal> {
    let (newest, other) = worker.directory.gates(entry);
    let cell = &entry.mapping.owner;
    if newest.instances().is_empty() {
        return Err(Unreached::default().refusal(cell));
    }
    let (clock, options) = (worker.flow.clock, worker.live().instances);
    let (mut tried, mut unreached) = (Vec::new(), Unreached::default());
    for set in std::iter::once(&newest).chain(&other) {
        while let Some(instance) = set.pick(&entry.mapping.tenant, &tried, clock.at(ask.now), options) {
            let occupied = instance.occupy();
            match worker.pool.checkout(instance.address(), wire, ask).await {
                Ok(lease) => return Ok(lease.to(occupied)),
                Err(error) => {
                    worker.metrics.connect_failures.inc();
                    ask.now = Instant::now();
                    if error.is_of_instance() && instance.unreachable(clock.at(ask.now), options) {
                        worker.metrics.ejections.inc();
                    }
                    unreached.add(instance.address(), &error);
                    tried.push(Arc::clone(instance));
                }
            }
        }
    }
    Err(unreached.refusal(cell))
}

/// The protocol that a request takes to its cell.
fn wire_of(worker: &Worker, ctx: &RequestCtx) -> Wire {
    match worker.protocol {
        _ if ctx.upgrade.is_some() => Wire::Http1,
        UpstreamProtocol::Http2 => Wire::Http2,
        UpstreamProtocol::Auto if ctx.is_grpc => Wire::Http2,
        UpstreamProtocol::Auto | UpstreamProtocol::Http1 => Wire::Http1,
    }
}

/// Says what a gate is told of the request: by whom it is asked, and for which placement of its tenant it is meant.
fn added(worker: &Worker, ctx: &RequestCtx, entry: &Arc<Entry>, say: &mut Say<'_>) {
    headers::added(&ctx.conn, &ctx.request_id, say);
    ctx.conn.stamp(entry, say);
    if let Some(contexts) = &worker.contexts {
        say(&wire::CONTEXT, &contexts.of(&entry.mapping));
    }
}

/// The request as it is written, where the connection takes it so.
fn whole(
    worker: &Worker,
    ctx: &RequestCtx,
    entry: &Arc<Entry>,
    parts: &Parts,
    body: &[Bytes],
    lease: &Lease,
) -> Option<Whole> {
    let mut message = lease.message(&parts.method, &parts.uri)?;
    for (name, value) in &parts.headers {
        message.field(name, value);
    }
    added(worker, ctx, entry, &mut |name, value| message.field(name, value));
    message.body(body);
    Some(Whole { method: parts.method.clone(), message })
}

/// The request for the library, which gets a copy of it, because it gives nothing back.
fn streamed(
    worker: &Worker,
    ctx: &RequestCtx,
    entry: &Arc<Entry>,
    outgoing: &Outgoing,
    wire: Wire,
    wanted: Option<&Arc<Wanted>>,
) -> Request<Sent> {
    let mut headers = outgoing.parts.headers.clone();
    headers.reserve(wire::ADDED_FIELDS_MAX);
    added(worker, ctx, entry, &mut |name, value| {
        headers.append(name, value.clone());
    });
    if wanted.is_some() {
        headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
    }
    let mut request = Request::new(outgoing.upload.attempt(wanted.cloned()));
    *request.method_mut() = outgoing.parts.method.clone();
    *request.uri_mut() = outgoing.parts.uri.clone();
    if wire == Wire::Http2 {
        *request.version_mut() = Version::HTTP_2;
        let host = headers.remove(HOST);
        *request.uri_mut() = with_authority(&outgoing.parts.uri, host.as_ref(), entry.mapping.tenant.as_str());
    }
    *request.headers_mut() = headers;
    *request.extensions_mut() = match (wanted, &ctx.interim) {
        (None, None) => Extensions::new(),
        (None, Some(said)) => ctx.conn.hearing(|| hearing(None, Some(Arc::clone(said)))),
        (Some(wanted), said) => hearing(Some(Arc::clone(wanted)), said.clone()),
    };
    request
}

/// What makes a request hear interim answers: whoever waits for the word that the body is wanted, and the client.
fn hearing(wanted: Option<Arc<Wanted>>, said: Option<Arc<Said>>) -> Extensions {
    let mut request = Request::new(());
    hyper::ext::on_informational(&mut request, move |response| match (response.status(), &wanted, &said) {
        (StatusCode::CONTINUE, Some(wanted), _) => wanted.say(),
        (status, _, Some(said)) => {
            let mut headers = response.headers().clone();
            headers::of_interim(&mut headers);
            said.interim.push(status, &headers);
        }
        _ => {}
    });
    std::mem::take(request.extensions_mut())
}

/// HTTP/2 has no `Host` but an authority; who came without one gets its tenant's name.
fn with_authority(target: &Uri, host: Option<&HeaderValue>, tenant: &str) -> Uri {
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = target.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = authority.or_else(|| tenant.parse().ok());
    Uri::from_parts(parts).unwrap_or_else(|_| target.clone())
}

type Sending = Result<Response<CellBody>, SendError>;

/// Waits for the head of the answer, counted from the last piece of the body that has passed.
async fn answer_in_time(
    worker: &Worker,
    ctx: &RequestCtx,
    entry: &Entry,
    outgoing: &Outgoing,
    leave: &mut Leave,
    sending: impl Future<Output = Sending>,
) -> Result<Sending, Refusal> {
    let mut sending = std::pin::pin!(sending);
    let (began, upload) = (Instant::now(), &outgoing.upload);
    let shorter = ctx.live.timeouts.answer.min(ctx.live.timeouts.body_idle);
    // A client that pauses is not to keep others out of the cell meanwhile: that is looked at more often.
    let pause = |complete| if complete { shorter } else { shorter.min(STALL) };
    let mut until = began + pause(upload.is_complete());
    loop {
        // The body may end while this waits, and then the other limit counts: hence the shorter.
        if let Some(answer) = worker.alarms.within(until, sending.as_mut()).await {
            return Ok(answer);
        }
        let complete = upload.is_complete();
        if !complete && upload.client_stands_still() >= STALL {
            leave.step_out();
        }
        if !complete && keeps_a_hold_waiting(worker, ctx, entry) {
            worker.metrics.streams_quiesced.inc();
            let (tenant, seconds) = (&entry.mapping.tenant, ctx.began.elapsed().as_secs());
            let detail = format!(
                "tenant {tenant} is being moved, and this call has gone on for {seconds} s without an answer"
            );
            return Err(Refusal::new(Code::CellFailed, detail));
        }
        // As it is by now: it may have been changed while this waited.
        let limit = if complete { worker.live().timeouts.answer } else { worker.live().timeouts.body_idle };
        let quiet = upload.last_progress().map_or(began, |last| last.max(began)).elapsed();
        if let Some(slow) = upload.is_too_slow(limit).filter(|_| !complete) {
            worker.metrics.broken.inc();
            return Err(Refusal::new(Code::BodyTimeout, slow));
        }
        if quiet < limit {
            until = Instant::now() + pause(complete);
            continue;
        }
        worker.metrics.broken.inc();
        let (cell, seconds) = (&entry.mapping.owner, limit.as_secs_f64());
        return Err(if complete {
            Refusal::new(Code::CellTimeout, format!("cell {cell} has not answered for {seconds} s"))
        } else {
            body_stalled(limit)
        });
    }
}

/// Whether it is a call whose client sends and sends, and its tenant's writes are held: the cell lets go of the tenant once all
/// that it has let in is answered, and for this one nobody knows when that is. What has an end in sight is waited for.
fn keeps_a_hold_waiting(worker: &Worker, ctx: &RequestCtx, entry: &Entry) -> bool {
    ctx.is_grpc
        && ctx.began.elapsed() >= ctx.live.timeouts.answer
        && worker.directory.find(&entry.mapping.tenant).is_some_and(|now| now.mapping.hold != Hold::None)
}

/// Reads a small body whole, so that it goes out in one piece with the head.
pub(crate) async fn read_small_body(worker: &Worker, ctx: &RequestCtx, outgoing: &Outgoing) -> Result<(), Refusal> {
    let limit = worker.live().timeouts.body_idle;
    match tokio::time::timeout(limit, outgoing.upload.read_small()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(fault)) => Err(refusal_of(worker, ctx, fault)),
        Err(_) => Err(body_stalled(limit)),
    }
}

fn refusal_of(worker: &Worker, ctx: &RequestCtx, fault: UploadFault) -> Refusal {
    if let Some(rule) = ctx.conn.said.as_ref().and_then(|said| said.body_rule()) {
        return rule.refusal();
    }
    match fault {
        UploadFault::TooLarge => too_large(worker.upload.body_bytes_max),
        UploadFault::TrailersTooLarge => Rule::TrailersTooLarge.refusal(),
        UploadFault::Broken | UploadFault::Superseded => {
            Refusal::new(Code::BodyTimeout, "the client's body has broken off")
        }
    }
}

fn body_stalled(limit: Duration) -> Refusal {
    Refusal::new(
        Code::BodyTimeout,
        format!("nothing of the request's body has passed for {} s", limit.as_secs_f64()),
    )
}

pub(crate) fn too_large(limit: u64) -> Refusal {
    Refusal::new(Code::BodyTooLarge, format!("the body is larger than {limit} bytes"))
}

/// An answer of the application, or one of its gate.
async fn sort(
    worker: &Worker,
    response: Response<CellBody>,
    lease: Lease,
    entry: &Entry,
    wanted: Option<Arc<Wanted>>,
) -> Attempt {
    if !wire::is_not_executed(response.headers()) {
        // An application that begins a streamed answer before it reads has said nothing else to get the body.
        let streams = response.status().is_success() && response.body().size_hint().exact().is_none();
        if let Some(wanted) = wanted.filter(|_| streams) {
            wanted.say();
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Attempt::Answered(response.map(|body| Download::switched(body, lease)));
        }
        return Attempt::Answered(response.map(|body| Download::new(body, lease)));
    }
    let status = response.status();
    let headers = response.headers();
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let code = text(&wire::CODE).unwrap_or_default().to_owned();
    let mapping = text(&wire::MAPPING).map(SignedMapping::from_header);
    let said = Box::pin(read_refusal(Download::new(response.into_body(), lease))).await;
    match status {
        StatusCode::MISDIRECTED_REQUEST => Attempt::Stale(mapping.and_then(Result::ok)),
        StatusCode::GONE => Attempt::Deleted,
        StatusCode::SERVICE_UNAVAILABLE => Attempt::NotExecuted(code),
        _ => {
            let cell = &entry.mapping.owner;
            let hint = serde_json::from_slice::<serde_json::Value>(&said).ok();
            let hint = hint.as_ref().and_then(|said| said["hint"].as_str()).unwrap_or("its log says why");
            if worker.gate_refusals.is_due(Instant::now()) {
                tracing::warn!(%cell, %status, code, hint, "a gate does not take what this router sends it");
            }
            let detail = format!("a gate of cell {cell} refused the request with {status} {code}: {hint}");
            // It would refuse it again.
            Attempt::Over(Refusal::new(Code::CellRefused, detail).hinting(hint))
        }
    }
}

/// Reads a short refusal to its end, so that the connection can be used again. Not read to its end, it takes its connection
/// along, and is empty here.
async fn read_refusal(refusal: Download) -> Bytes {
    let limited = http_body_util::Limited::new(refusal, REFUSAL_BYTES_MAX);
    match tokio::time::timeout(REFUSAL_TIME_MAX, limited.collect()).await {
        Ok(Ok(read)) => read.to_bytes(),
        _ => Bytes::new(),
    }
}

/// Says what is the same for every request at most once in a while.
#[derive(Default)]
pub(crate) struct Warnings(Cell<Option<Instant>>);

impl Warnings {
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let due = self.0.get().is_none_or(|last| now.saturating_duration_since(last) >= WARNING_INTERVAL);
        if due {
            self.0.set(Some(now));
        }
        due
    }
}
