//! The last stage: what became of a request is counted and logged, and its answer made ready for the client.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::{Response, StatusCode, Version};
use tokio::time::Instant;

use crate::answer::{AnswerBody, Download};
use crate::conn::Busy;
use crate::context::{RequestCtx, Worker};
use crate::headers;
use crate::metrics::Open;
use crate::observe::log::Line;
use crate::observe::{CLIENT_LEFT, DETAIL_BYTES_MAX, Record, bounded, bounded_method};
use crate::refusal::{Code, Refusal};
use crate::streams::Ongoing;

/// A request has begun. What is returned goes with the answer and is dropped with its last byte.
pub(crate) fn open(worker: &Worker, ctx: &RequestCtx) -> Open {
    worker.metrics.open(ctx.began.into_std())
}

/// A request that has no answer yet: where its client goes away before there is one, that is written down.
pub(crate) struct Unanswered<'r> {
    worker: &'r Worker,
    pub(crate) ctx: &'r mut RequestCtx,
    answered: bool,
}

impl<'r> Unanswered<'r> {
    pub(crate) fn new(worker: &'r Worker, ctx: &'r mut RequestCtx) -> Self {
        Self { worker, ctx, answered: false }
    }

    pub(crate) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.answered {
            drop(record(self.worker, self.ctx, CLIENT_LEFT, None));
        }
    }
}

/// A request has its answer, a cell's or our own.
pub(crate) fn close(
    worker: &Rc<Worker>,
    mut ctx: RequestCtx,
    routed: Result<Response<Download>, Refusal>,
    mut open: Open,
    mut busy: Busy,
) -> Response<AnswerBody> {
    busy.answered();
    let tier = ctx.entry.as_ref().map(|entry| entry.mapping.tier);
    open.set_tier(tier);
    worker.metrics.replays.inc_by(u64::from(ctx.attempts.saturating_sub(1)));
    // Over HTTP/1 the library takes what still comes, or closes; a call of gRPC ends with its status, whatever its client does.
    let lingers = ctx.version == Version::HTTP_2 && !ctx.is_grpc;
    let lingering = if lingers { ctx.upload.clone().linger() } else { None };
    match routed {
        Ok(mut response) => {
            worker.metrics.count_answer(response.status(), tier);
            headers::to_client(response.status(), response.headers_mut(), &ctx.request_id);
            // The router's own, and not the cell's, which may be HTTP/1.0 (RFC 9110, 2.5).
            *response.version_mut() = Version::HTTP_11;
            let ongoing = match response.body().has_no_end_in_sight() {
                true => Ongoing::new(worker, &ctx, response.headers()),
                false => None,
            };
            let line = record(worker, &mut ctx, response.status(), None);
            let answer_idle = ctx.live.timeouts.answer_idle;
            let on_its_way = ctx.admitted.map(|admitted| admitted.on_its_way);
            let body = |body| AnswerBody::cell(body, answer_idle, (open, busy), line);
            response.map(|download| body(download).going_on(on_its_way, ongoing).before(lingering))
        }
        Err(refusal) => {
            worker.metrics.count_refusal(refusal.code, tier);
            tracing::debug!(
                request_id = ctx.request_id(), method = %ctx.method, attempts = ctx.attempts,
                tenant = ctx.tenant.as_ref().map(tracing::field::display), code = refusal.code.as_str(),
                detail = refusal.detail, "request refused"
            );
            let said = (refusal.code, refusal.in_full());
            if let Some(cause) = refusal.cause.as_deref()
                && worker.causes.is_due(Instant::now())
            {
                let (request_id, code) = (ctx.request_id(), refusal.code.as_str());
                tracing::warn!(
                    request_id,
                    code,
                    detail = refusal.detail,
                    cause,
                    "a request has failed on its way to a cell"
                );
            }
            let mut response =
                if ctx.is_grpc { refusal.into_grpc() } else { refusal.into_response(ctx.request_id()) };
            response.headers_mut().insert(&headers::REQUEST_ID, ctx.request_id.clone());
            let line = record(worker, &mut ctx, response.status(), Some(said));
            // Its place is free before the answer goes: this one does nothing more for its tenant.
            drop(ctx);
            response.map(|bytes| AnswerBody::own(bytes, open, busy, line).before(lingering))
        }
    }
}

/// Remembers what became of the request. Answers its line in the access log, which is written with the end of its answer.
fn record(
    worker: &Worker,
    ctx: &mut RequestCtx,
    status: StatusCode,
    refusal: Option<(Code, String)>,
) -> Option<Box<Line>> {
    let record = Arc::new(Record {
        at: SystemTime::now(),
        took: ctx
            .answered
            .filter(|_| refusal.is_none())
            .unwrap_or_else(Instant::now)
            .saturating_duration_since(ctx.began),
        request_id: ctx.request_id.clone(),
        client: ctx.conn.peer,
        version: ctx.version,
        secure: ctx.conn.secure,
        method: bounded_method(std::mem::take(&mut ctx.method)),
        path: ctx.path.take(),
        tenant: ctx.tenant.take(),
        entry: ctx.entry.take(),
        table_revision: worker.directory.applied(),
        instance: ctx.instance.take(),
        attempts: ctx.attempts,
        held: ctx.held,
        queued: ctx.queued,
        cell_limit: ctx.cell_limit,
        status,
        refusal: refusal.map(|(code, detail)| (code, bounded(detail, DETAIL_BYTES_MAX))),
    });
    if let (Some(trace), Some(spans)) = (ctx.trace.take(), &worker.spans) {
        spans.end(*trace, &record);
    }
    worker.ring.push(Arc::clone(&record));
    worker.log.line(record, std::mem::take(&mut ctx.upload), ctx.began)
}
