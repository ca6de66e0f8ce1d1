//! The stage that holds a tenant to what it may have: its rate, and how many of its requests are on their way at once.
//! It comes before any waiting, so that a tenant that asks for too much is told at once.

use std::sync::Arc;

use crate::context::{RequestCtx, Worker};
use crate::fair::rate::retry_after;
use crate::fair::tenants::{Active, OnItsWay};
use crate::refusal::{Code, Refusal};
use crate::table::Entry;

/// A request that its tenant may make.
pub(crate) struct Admitted {
    pub(crate) active: Arc<Active>,
    pub(crate) weight: u32,
    /// Given back with the last byte of the answer.
    pub(crate) on_its_way: OnItsWay,
}

/// Takes the request off the tenant's allowance, once however often it is sent.
pub(crate) fn admit(worker: &Worker, ctx: &mut RequestCtx, entry: &Entry) -> Result<(), Refusal> {
    if ctx.admitted.is_some() {
        return Ok(());
    }
    let (flow, tenant) = (&worker.flow, &entry.mapping.tenant);
    let allowance = ctx.live.allowances.of(tenant, entry.mapping.tier);
    let active = flow.tenants.of(tenant, entry.mapping.uid);
    active.count();
    if let Some(rate) = allowance.rate {
        let share = active.share();
        if let Err(wait) = active.bucket.take(flow.clock.at(ctx.began), rate.shared(share)) {
            let (per_second, burst) = (allowance.per_second, allowance.burst);
            let detail = format!(
                "tenant {tenant} may ask {per_second} times a second and {burst} times at once, in the whole fleet; \
                 the next request is let in after {} ms",
                wait.as_millis()
            );
            return Err(Refusal::new(Code::RateLimited, detail).after(retry_after(wait)));
        }
    }
    let Some(on_its_way) = active.enter(allowance.concurrency_max) else {
        let most = allowance.concurrency_max;
        let detail = format!("{most} requests of tenant {tenant} are on their way here, which is its limit");
        return Err(Refusal::new(Code::TenantBusy, detail));
    };
    active.retries.request(flow.clock.at(ctx.began), ctx.live.budget);
    active.used.request(ctx.is_write);
    ctx.admitted = Some(Admitted { active, weight: allowance.weight, on_its_way });
    Ok(())
}
