//! The way of a request, from its head to its answer, as one function that can be read from top to bottom:
//!
//! ```text
//! strict → identify → forward: ┌ resolve (wait while the tenant moves) → exchange ┐ → account
//!                              └────────── again, while it surely has not run ────┘
//! ```
//!
//! Every stage is a function over one [`RequestCtx`]: it reads what the stages before it have found out, and leaves
//! there what those after it, and the account, need. A stage that says no returns a [`Refusal`].

use http::{Request, Response};
use hyper::body::Incoming;

use crate::answer::{AnswerBody, Download};
use crate::body::Upload;
use crate::context::{RequestCtx, Worker};
use crate::exchange::{Outgoing, too_large};
use crate::refusal::Refusal;
use crate::{account, forward, headers, identify, strict};

/// Serves one request.
pub(crate) async fn serve(
    worker: &Worker,
    request: Request<Incoming>,
    peer: std::net::IpAddr,
) -> Response<AnswerBody> {
    let mut ctx = RequestCtx::new(worker, &request, peer);
    let open = account::open(worker, &ctx);
    let routed = route(worker, &mut ctx, request).await;
    account::close(worker, ctx, routed, open)
}

async fn route(
    worker: &Worker,
    ctx: &mut RequestCtx,
    request: Request<Incoming>,
) -> Result<Response<Download>, Refusal> {
    let (mut parts, body) = request.into_parts();
    strict::check(&parts)?;
    let tenant = identify::tenant_of(&parts, &worker.domains)?;
    ctx.tenant = Some(tenant.clone());
    let upload = Upload::new(body, worker.upload, ctx.began);
    if upload.is_too_large() {
        return Err(too_large(worker.upload.body_bytes_max));
    }
    headers::to_gate(&mut parts, ctx.peer, &ctx.request_id);
    forward::forward(worker, ctx, &tenant, &Outgoing { parts, upload }).await
}
