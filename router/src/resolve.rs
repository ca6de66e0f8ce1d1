//! tenant → owner, and the waiting that goes with it.
//!
//! | the table says | young enough | older |
//! |---|---|---|
//! | one cell owns | go there | go there: the cell decides |
//! | writes, or all, are held | wait here, before the body is touched | go there: the cell decides |
//! | placed, not granted yet | wait here | go there |
//! | deleted | 410 | 410 |
//! | nothing | 404, once the table is known to be as of this request | 503, never 404 |
//!
//! Of an owner without a gate nobody but this router decides: [`crate::ungated`].

use std::sync::Arc;
use std::time::Duration;

use cell_model::{MappingState, RouterVerdict as Verdict, TenantId};
use tokio::time::Instant;

use crate::context::{RequestCtx, Worker};
use crate::policy;
use crate::refusal::{Code, Refusal};
use crate::table::Entry;
use crate::ungated::{stale, verdict};
use crate::waiting::Full;

/// A table that is fresh up to a moment is not any more after it.
const LOOK_AFTER: Duration = Duration::from_millis(1);
/// How long an unknown tenant's request waits to be sure that it is unknown.
const ASSURANCE_MAX: Duration = Duration::from_millis(500);

/// The entry to go by, after whatever waiting it asks for.
pub(crate) async fn resolve(
    worker: &Worker,
    ctx: &mut RequestCtx,
    tenant: &TenantId,
) -> Result<Arc<Entry>, Refusal> {
    let entry = match worker.directory.find_again(tenant, ctx.conn.last_entry()) {
        Some(entry) => entry,
        None => Box::pin(unknown(worker, ctx, tenant)).await?,
    };
    if entry.mapping.state == MappingState::Deleted {
        return Err(deleted(tenant));
    }
    if ctx.admitted.is_none() {
        // Whoever is refused from here on is told apart by its tier.
        ctx.entry = Some(Arc::clone(&entry));
        policy::admit(worker, ctx, &entry)?;
    }
    if verdict(&worker.directory, &entry, ctx.is_write, Instant::now()) != Verdict::Go {
        let began = Instant::now();
        let held = Box::pin(hold(worker, ctx, tenant)).await;
        ctx.held += began.elapsed();
        return held;
    }
    Ok(entry)
}

pub(crate) fn deleted(tenant: &TenantId) -> Refusal {
    Refusal::new(Code::TenantDeleted, format!("tenant {tenant} is deleted"))
}

pub(crate) fn full(full: Full, tenant: &TenantId) -> Refusal {
    let detail = match full {
        Full::Tenant(limit) => {
            format!("tenant {tenant} is moving and {limit} of its requests wait, which is the limit")
        }
        Full::Router(limit) => {
            format!("tenant {tenant} is moving and {limit} requests wait here, which is the limit")
        }
    };
    Refusal::new(Code::TenantMoving, detail)
}

/// Waits, with the body untouched, until the table says go, cannot be trusted to say wait, or the time is up.
async fn hold(worker: &Worker, ctx: &RequestCtx, tenant: &TenantId) -> Result<Arc<Entry>, Refusal> {
    let directory = &worker.directory;
    let waiting = directory.waiters.enter(tenant).map_err(|limit| full(limit, tenant))?;
    let began = Instant::now();
    let outcome = loop {
        let (changed, confirmed) = (waiting.changed(), directory.freshness.confirmed());
        let Some(entry) = directory.find(tenant) else {
            break Err(Refusal::new(Code::TenantUnknown, format!("there is no tenant {tenant} any more")));
        };
        let now = Instant::now();
        if entry.mapping.state == MappingState::Deleted {
            break Err(deleted(tenant));
        }
        let verdict = verdict(directory, &entry, ctx.is_write, now);
        if verdict == Verdict::Go {
            break Ok(entry);
        }
        if now >= ctx.deadline && verdict == Verdict::Stale {
            break Err(stale(directory, &entry, now));
        }
        if now >= ctx.deadline {
            let waited = now.duration_since(ctx.began);
            let detail =
                format!("tenant {tenant} is moving, and the request has waited for {} ms", waited.as_millis());
            break Err(Refusal::new(Code::TenantMoving, detail));
        }
        // Until then the table may say that it waits; by an owner without a gate it does so all the same.
        let fresh_until = directory.fresh_until().filter(|until| *until >= now);
        let look_again = fresh_until.map_or(ctx.deadline, |until| (until + LOOK_AFTER).min(ctx.deadline));
        tokio::select! {
            () = changed => {}
            () = confirmed, if verdict == Verdict::Stale => {}
            () = tokio::time::sleep_until(look_again) => {}
        }
    };
    worker.metrics.count_hold(began.elapsed());
    outcome
}

/// Nothing is known of the tenant: make sure that this is so as of now, before anybody is told that it does not exist.
async fn unknown(worker: &Worker, ctx: &RequestCtx, tenant: &TenantId) -> Result<Arc<Entry>, Refusal> {
    let directory = &worker.directory;
    let freshness = &directory.freshness;
    let not_yet = || {
        let detail = format!("this router does not know a tenant {tenant}, and its table may be behind");
        Refusal::new(Code::TenantUnknownYet, detail)
    };
    if !directory.is_fresh(Instant::now()) {
        return Err(not_yet());
    }
    let until = ctx.deadline.min(Instant::now() + ASSURANCE_MAX);
    let waiting = directory.waiters.enter(tenant).map_err(|_| not_yet())?;
    loop {
        let (changed, confirmed) = (waiting.changed(), freshness.confirmed());
        if let Some(entry) = directory.find(tenant) {
            return Ok(entry);
        }
        if freshness.as_of().is_some_and(|as_of| as_of >= ctx.began) {
            return Err(Refusal::new(Code::TenantUnknown, format!("there is no tenant {tenant}")));
        }
        freshness.want();
        tokio::select! {
            () = changed => {}
            () = confirmed => {}
            () = tokio::time::sleep_until(until) => return Err(not_yet()),
        }
    }
}
