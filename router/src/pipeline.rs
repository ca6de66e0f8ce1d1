//! The way of a request, from its head to its answer, as one function that can be read from top to bottom:
//!
//! ```text
//! strict → identify → forward: ┌ resolve (wait while the tenant moves) → exchange ┐ → upgrade → account
//!                              └────────── again, while it surely has not run ────┘
//! ```
//!
//! Every stage is a function over one [`RequestCtx`]: it reads what the stages before it have found out, and leaves
//! there what those after it, and the account, need. A stage that says no returns a [`Refusal`].

use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::answer::{AnswerBody, Download};
use crate::body::Upload;
use crate::conn::{Busy, Conn};
use crate::context::{RequestCtx, Worker};
use crate::exchange::{Outgoing, too_large};
use crate::refusal::Refusal;
use crate::{account, forward, headers, identify, strict, upgrade};

/// Serves one request.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    request: Request<Incoming>,
    conn: &Rc<Conn>,
) -> Response<AnswerBody> {
    let mut ctx = RequestCtx::new(worker, &request, conn);
    let (open, busy) = (account::open(worker, &ctx), Busy::new(conn));
    let unanswered = account::Unanswered::new(worker, &mut ctx);
    let routed = route(worker, unanswered.ctx, request).await;
    unanswered.answered();
    account::close(worker, ctx, routed, open, busy)
}

async fn route(
    worker: &Rc<Worker>,
    ctx: &mut RequestCtx,
    request: Request<Incoming>,
) -> Result<Response<Download>, Refusal> {
    if let Some(rule) = ctx.conn.said.as_ref().and_then(|said| said.next_request()) {
        return Err(rule.refusal());
    }
    let (mut parts, body) = request.into_parts();
    let pending = upgrade::prepare(worker, ctx, &mut parts)?;
    strict::check(&parts, ctx.fields, worker.head)?;
    let (rules, verifier) = (&worker.identity, worker.verifier.as_ref());
    let tenant = identify::identify(rules, verifier, &ctx.conn.certified, &mut parts).await?;
    ctx.tenant = Some(tenant.clone());
    ctx.dependency = ctx.live.dependencies.of(parts.uri.path());
    upgrade::has_room(worker, ctx)?;
    let mut limits = worker.upload;
    if ctx.is_grpc {
        // A stream of messages has no length; each message has its own limit where it is read.
        limits.body_bytes_max = u64::MAX;
        limits.rate_min = 0;
    }
    let upload = Upload::new(body, limits, ctx.began);
    ctx.upload = upload.clone();
    if upload.is_too_large() {
        return Err(too_large(limits.body_bytes_max));
    }
    headers::to_gate(&mut parts, ctx.fields);
    if let Some(trace) = &ctx.trace {
        trace.hand_on(&mut parts.headers);
    }
    if ctx.upgrade.is_some() {
        upgrade::ask(&mut parts.headers);
    }
    let response = forward::forward(worker, ctx, &tenant, &mut Outgoing { parts, upload }).await;
    if let Some(said) = &ctx.interim {
        // Whatever came before the answer goes before it.
        said.interim.gone().await;
    }
    let response = response?;
    upgrade::establish(worker, ctx, pending, response)
}
