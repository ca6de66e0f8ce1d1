//! The stage that sends a request until it has been answered, for as long as it surely has not run:
//!
//! ```text
//! ┌► resolve (wait while the tenant moves) ─► exchange ─► answered: done
//! │                                              │ stale, not let in, unreachable: it has not run
//! └── learn, wait for a change ◄─────────────────┘
//! ```
//! Whatever waits here and is rare is boxed: a request's future is written anew for each, and has to be small.

use std::sync::Arc;
use std::time::Duration;

use cell_model::TenantId;
use cell_trust::SignedMapping;
use http::Response;
use tokio::time::Instant;

use crate::answer::Download;
use crate::context::{RequestCtx, Worker};
use crate::exchange::{Attempt, Outgoing, attempt, read_small_body};
use crate::refusal::{Code, Refusal};
use crate::resolve::{deleted, full, resolve};
use crate::schedule;
use crate::table::Entry;
use crate::ungated::may_go;

/// How many redirects of gates one request follows.
const REDIRECTS_MAX: u32 = 4;
/// How often a request that may have run is sent again where that is harmless.
const REPEATS_MAX: u32 = 2;
/// How often all instances of a cell are tried before it counts as unreachable, beyond the first time.
const ROUNDS_MAX: u32 = 2;
/// The first pause before a request that was not let in is sent again, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(4);
const PAUSE_MAX: Duration = Duration::from_millis(80);

/// Sends the request until it has been answered, for as long as it surely has not run.
pub(crate) async fn forward(
    worker: &Worker,
    ctx: &mut RequestCtx,
    tenant: &TenantId,
    outgoing: &mut Outgoing,
) -> Result<Response<Download>, Refusal> {
    let mut unclear = None;
    let answered = until_answered(worker, ctx, tenant, outgoing, &mut unclear).await;
    // Where it was sent before it may have run, whatever is known of it when it was sent again.
    answered.map_err(|last| unclear.filter(|_| ctx.is_write).unwrap_or(last))
}

/// `unclear`: what was to be said when it may have run, and was sent again all the same.
async fn until_answered(
    worker: &Worker,
    ctx: &mut RequestCtx,
    tenant: &TenantId,
    outgoing: &mut Outgoing,
    unclear: &mut Option<Refusal>,
) -> Result<Response<Download>, Refusal> {
    let (mut redirects, mut repeats, mut rounds, mut pause) = (0, 0, 0, PAUSE_MIN);
    loop {
        let entry = resolve(worker, ctx, tenant).await?;
        ctx.entry = Some(Arc::clone(&entry));
        if ctx.attempts == 0 {
            if let Some(admitted) = &ctx.admitted {
                outgoing.upload.meter(&admitted.active);
            }
            if !outgoing.upload.is_complete() {
                Box::pin(read_small_body(worker, ctx, outgoing)).await?;
            }
        }
        let mut leave = schedule::enter(worker, ctx, &entry).await?;
        if !may_go(worker, ctx, &entry) {
            // While it waited for its turn, or for its client.
            continue;
        }
        let timed = outgoing.upload.is_complete();
        let outcome = attempt(worker, ctx, &entry, outgoing, &mut leave).await;
        ctx.sending = ctx.sending.take().filter(|_| matches!(outcome, Attempt::Answered(_)));
        let permit = leave.tell(worker, ctx, &outcome, timed);
        match outcome {
            Attempt::Answered(response) => return Ok(response.map(|body| body.keeping(permit, &worker.rooms))),
            Attempt::Over(refusal) => return Err(refusal),
            Attempt::Broken(refusal) | Attempt::CutShort(refusal) => {
                if !ctx.may_repeat
                    || repeats == REPEATS_MAX
                    || !outgoing.upload.can_replay()
                    || !may_retry(worker, ctx, &entry)
                {
                    return Err(refusal);
                }
                *unclear = Some(refusal.clone());
                repeats += 1;
                // An instance that has broken off many at once must not get them back at once.
                Box::pin(wait_for_change(worker, ctx, &entry, &mut pause, refusal)).await?;
            }
            Attempt::Deleted if !has_changed(worker, &entry) => return Err(deleted(tenant)),
            Attempt::Deleted => {}
            // Nobody has had any work with it: trying again needs no budget.
            Attempt::NotTaken(_) if rounds < ROUNDS_MAX => rounds += 1,
            Attempt::Unreachable(unreachable) | Attempt::NotTaken(unreachable) => {
                if !has_changed(worker, &entry) && (rounds == ROUNDS_MAX || !may_retry(worker, ctx, &entry)) {
                    return Err(unreachable);
                }
                rounds += 1;
                Box::pin(wait_for_change(worker, ctx, &entry, &mut pause, unreachable)).await?;
            }
            Attempt::Stale(mapping) => {
                worker.metrics.stale_redirects.inc();
                if !has_changed(worker, &entry) {
                    learn(worker, &entry, mapping);
                }
                if redirects == REDIRECTS_MAX {
                    let detail = format!("tenant {tenant} was redirected {REDIRECTS_MAX} times");
                    return Err(Refusal::new(Code::TenantMoving, detail));
                }
                if has_changed(worker, &entry) {
                    redirects += 1;
                } else {
                    let detail = format!("cell {} does not own tenant {tenant} any more", entry.mapping.owner);
                    let refusal = Refusal::new(Code::CellRefused, detail);
                    Box::pin(wait_for_change(worker, ctx, &entry, &mut pause, refusal)).await?;
                }
            }
            Attempt::NotExecuted(code) => {
                worker.metrics.not_executed.inc();
                let detail = format!("cell {} did not let the request in: {code}", entry.mapping.owner);
                let refusal = Refusal::new(Code::CellRefused, detail);
                Box::pin(wait_for_change(worker, ctx, &entry, &mut pause, refusal)).await?;
            }
        }
        if !outgoing.upload.can_replay() {
            let detail =
                format!("cell {} refused the request after more of it was read than is kept", entry.mapping.owner);
            return Err(Refusal::new(Code::BodyNotReplayable, detail));
        }
    }
}

/// Whether tenant and cell have a retry left. Both pay, so that neither one tenant nor all together multiply the load.
fn may_retry(worker: &Worker, ctx: &RequestCtx, entry: &Entry) -> bool {
    let (flow, now) = (&worker.flow, worker.flow.clock.now());
    let options = flow.live.load().budget;
    let tenant_may = ctx.admitted.as_ref().is_none_or(|admitted| admitted.active.retries.retry(now, options));
    let may = tenant_may && flow.cell(&entry.mapping.owner).retries.retry(now, options);
    if !may {
        worker.metrics.retries_denied.inc();
    }
    may
}

/// Takes a gate's word for a newer owner, if the control plane has signed it.
fn learn(worker: &Worker, sent_by: &Entry, mapping: Option<SignedMapping>) {
    let tenant = &sent_by.mapping.tenant;
    let Some(mapping) = mapping else {
        tracing::warn!(%tenant, cell = %sent_by.mapping.owner, "a gate redirects without a mapping");
        return;
    };
    match mapping.verify(&worker.trusted) {
        Ok(routed) if routed.mapping.tenant == *tenant => match worker.directory.entry(routed) {
            Ok(entry) => {
                let (owner, epoch) = (entry.mapping.owner.clone(), entry.mapping.epoch);
                if worker.directory.install(entry) {
                    tracing::info!(%tenant, cell = %owner, %epoch, "learned a newer owner from a gate");
                }
            }
            Err(other) => {
                worker.metrics.untrusted_mappings.inc();
                tracing::warn!(%tenant, ours = %other.ours, theirs = %other.theirs, "a gate redirects into another cluster");
            }
        },
        Ok(routed) => {
            worker.metrics.untrusted_mappings.inc();
            tracing::warn!(%tenant, other = %routed.mapping.tenant, "a gate redirects with another tenant's mapping");
        }
        Err(error) => {
            worker.metrics.untrusted_mappings.inc();
            tracing::warn!(%tenant, cell = %sent_by.mapping.owner, %error, "a gate's mapping is not believed");
        }
    }
}

/// Whether the table says something newer than `seen`.
fn has_changed(worker: &Worker, seen: &Entry) -> bool {
    worker.directory.find(&seen.mapping.tenant).is_none_or(|now| now.mapping != seen.mapping)
}

/// A short pause, ended early by a change of the tenant's entry; `refusal` where the time is up.
async fn wait_for_change(
    worker: &Worker,
    ctx: &RequestCtx,
    seen: &Entry,
    pause: &mut Duration,
    refusal: Refusal,
) -> Result<(), Refusal> {
    let tenant = &seen.mapping.tenant;
    let waiting = worker.directory.waiters.enter(tenant).map_err(|limit| full(limit, tenant))?;
    let changed = waiting.changed();
    if has_changed(worker, seen) {
        return Ok(());
    }
    let until = Instant::now() + worker.dice.jittered(*pause);
    *pause = (*pause * 2).min(PAUSE_MAX);
    if until >= ctx.deadline {
        return Err(refusal);
    }
    tokio::select! {
        () = changed => {}
        () = tokio::time::sleep_until(until) => {}
    }
    Ok(())
}
