//! The last stage: what became of a request is counted and logged, and its answer made ready for the client.

use std::sync::Arc;
use std::time::SystemTime;

use http::{Response, StatusCode};
use tokio::time::Instant;

use crate::answer::{AnswerBody, Download};
use crate::conn::Busy;
use crate::context::{RequestCtx, Worker};
use crate::fair::tenants::OnItsWay;
use crate::headers;
use crate::metrics::Open;
use crate::observe::Record;
use crate::refusal::{Code, Refusal};

/// A request has begun. What is returned goes with the answer and is dropped with its last byte.
pub(crate) fn open(worker: &Worker, ctx: &RequestCtx) -> Open {
    worker.metrics.open(ctx.began.into_std())
}

/// A request has its answer, a cell's or our own.
pub(crate) fn close(
    worker: &Worker,
    ctx: RequestCtx,
    routed: Result<Response<Download>, Refusal>,
    mut open: Open,
    mut busy: Busy,
) -> Response<AnswerBody> {
    busy.answered();
    let tier = ctx.entry.as_ref().map(|entry| entry.mapping.tier);
    open.set_tier(tier);
    worker.metrics.replays.inc_by(u64::from(ctx.attempts.saturating_sub(1)));
    match routed {
        Ok(mut response) => {
            worker.metrics.count_answer(response.status(), tier);
            headers::to_client(response.status(), response.headers_mut(), &ctx.request_id);
            let on_its_way = record(worker, ctx, response.status(), None);
            response.map(|body| AnswerBody::cell(body, open, busy, on_its_way))
        }
        Err(refusal) => {
            worker.metrics.count_refusal(refusal.code, tier);
            tracing::debug!(
                request_id = ctx.request_id(), method = %ctx.method, attempts = ctx.attempts,
                tenant = ctx.tenant.as_ref().map(tracing::field::display), code = refusal.code.as_str(),
                detail = refusal.detail, "request refused"
            );
            let said = (refusal.code, refusal.detail.clone());
            let mut response =
                if ctx.is_grpc { refusal.into_grpc() } else { refusal.into_response(ctx.request_id()) };
            response.headers_mut().insert(&headers::REQUEST_ID, ctx.request_id.clone());
            // Its place is free before the answer goes: this one does nothing more for its tenant.
            drop(record(worker, ctx, response.status(), Some(said)));
            response.map(|bytes| AnswerBody::own(bytes, open, busy))
        }
    }
}

/// Remembers what became of the request. Answers the tenant's place that it has taken.
fn record(
    worker: &Worker,
    ctx: RequestCtx,
    status: StatusCode,
    refusal: Option<(Code, String)>,
) -> Option<OnItsWay> {
    let record = Arc::new(Record {
        at: SystemTime::now(),
        took: ctx
            .answered
            .filter(|_| refusal.is_none())
            .unwrap_or_else(Instant::now)
            .saturating_duration_since(ctx.began),
        request_id: ctx.request_id,
        method: ctx.method,
        tenant: ctx.tenant,
        entry: ctx.entry,
        table_revision: worker.directory.applied(),
        instance: ctx.instance,
        attempts: ctx.attempts,
        held: ctx.held,
        queued: ctx.queued,
        cell_limit: ctx.cell_limit,
        status,
        refusal,
    });
    if let (Some(trace), Some(spans)) = (ctx.trace, &worker.spans) {
        spans.end(*trace, &record);
    }
    worker.log.write(&record);
    worker.ring.push(record);
    ctx.admitted.map(|admitted| admitted.on_its_way)
}
