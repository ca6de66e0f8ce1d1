//! The stage before each attempt: is the breaker closed, and is there room in the cell, now or when the turn comes. And
//! what each attempt came to, told to those who go by it:
//!
//! | outcome | breaker of (tenant, cell) | breaker of the cell | adaptive limit |
//! |---|---|---|---|
//! | answered below 500 | good | good | the time to the head |
//! | answered 5xx | **bad** | good | the time to the head |
//! | not in time, or the connection broke | **bad** | good | not in time: **bad** |
//! | the connection broke while the body was on its way | says nothing | says nothing | says nothing |
//! | no instance took a connection | says nothing | **bad** | says nothing |
//! | a gate refused: it has not run | says nothing | good | says nothing |
//!
//! Where a request depends on something that is declared, the breaker of that in the cell stands in for the one of
//! (tenant, cell).

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::contain::breaker::{Breaker, Verdict};
use crate::context::{RequestCtx, Worker};
use crate::exchange::Attempt;
use crate::fair::queue::Share;
use crate::fair::rate::retry_after;
use crate::fair::scheduler::{Guest, Permit, Turned};
use crate::fair::tenants::Active;
use crate::flow::CellFlow;
use crate::refusal::{Code, Refusal};
use crate::table::Entry;

/// Leave to send a request once. What comes of it is to be told; dropped without, it says nothing.
pub(crate) struct Leave {
    cell: Arc<CellFlow>,
    tenant: Option<(Arc<Active>, Verdict)>,
    of_cell: Verdict,
    of_dependency: Option<(Arc<Breaker>, Verdict)>,
    epoch: u64,
    permit: Option<Permit>,
    began: Instant,
    told: bool,
}

/// Leave to send the request to the entry's owner, after whatever waiting that asks for.
pub(crate) async fn enter(worker: &Worker, ctx: &mut RequestCtx, entry: &Entry) -> Result<Leave, Refusal> {
    let flow = &worker.flow;
    let cell = flow.cell(&entry.mapping.owner);
    let began = Instant::now();
    let now = flow.clock.at(began);
    let mut leave = Leave {
        cell: Arc::clone(&cell),
        tenant: None,
        of_cell: Verdict::Pass,
        of_dependency: None,
        epoch: entry.mapping.epoch.get(),
        permit: None,
        began,
        told: false,
    };
    leave.of_cell = cell.breaker.ask(now);
    if let Verdict::Refuse(wait) = leave.of_cell {
        worker.metrics.breaker_refusals.inc();
        let detail = format!("no instance of cell {} has taken connections lately", entry.mapping.owner);
        return Err(open(detail, wait));
    }
    if let Some(name) = &ctx.dependency {
        let breaker = cell.dependencies.of(name);
        let verdict = breaker.ask(now);
        leave.of_dependency = Some((breaker, verdict));
        if let Verdict::Refuse(wait) = verdict {
            worker.metrics.breaker_refusals.inc();
            let detail =
                format!("requests that depend on {name} have failed in cell {} lately", entry.mapping.owner);
            return Err(open(detail, wait));
        }
    }
    let mut share = Share { cost: 1.0, weight: 1 };
    if let Some(admitted) = &ctx.admitted {
        let active = &admitted.active;
        if let Some(breaker) = active.breaker(leave.epoch) {
            let verdict = breaker.ask(now);
            leave.tenant = Some((Arc::clone(active), verdict));
            if let Verdict::Refuse(wait) = verdict {
                worker.metrics.breaker_refusals.inc();
                let (tenant, owner) = (&entry.mapping.tenant, &entry.mapping.owner);
                return Err(open(format!("requests of tenant {tenant} have failed in cell {owner} lately"), wait));
            }
        }
        share.weight = admitted.weight;
    }
    cell.retries.request(now, ctx.live.budget);
    ctx.cell_limit = cell.scheduler.limit();
    let places = ctx.admitted.as_ref().map(|admitted| Arc::clone(&admitted.active.places)).unwrap_or_default();
    let guest = Guest { tenant: &entry.mapping.tenant, places: &places, epoch: leave.epoch };
    leave.permit = cell.scheduler.try_enter(guest);
    if leave.permit.is_none() {
        if let Some(admitted) = &ctx.admitted {
            share.cost = admitted.active.cost(cell.scheduler.mean());
        }
        leave.permit = Some(Box::pin(wait_for_turn(worker, ctx, entry, &cell, guest, share)).await?);
        leave.began = Instant::now();
    }
    Ok(leave)
}

async fn wait_for_turn(
    worker: &Worker,
    ctx: &mut RequestCtx,
    entry: &Entry,
    cell: &CellFlow,
    guest: Guest<'_>,
    share: Share,
) -> Result<Permit, Refusal> {
    let began = Instant::now();
    let turn = cell.scheduler.enter(guest, share, ctx.deadline).await;
    let waited = began.elapsed();
    ctx.queued += waited;
    worker.metrics.count_queued(waited);
    turn.map_err(|turned| {
        let (tenant, owner, limit) = (&entry.mapping.tenant, &entry.mapping.owner, cell.scheduler.limit());
        let detail = match turned {
            Turned::FlowFull(most) => format!(
                "cell {owner} has {limit} requests, which is its limit now, and {most} of tenant {tenant} wait already"
            ),
            Turned::CellFull(most) => {
                format!("cell {owner} has {limit} requests, which is its limit now, and {most} wait already")
            }
            Turned::Late(waited) => format!(
                "cell {owner} has {limit} requests, which is its limit now, and the turn has not come in {} ms",
                waited.as_millis()
            ),
            Turned::Displaced => format!(
                "cell {owner} has {limit} requests, which is its limit now, and those of tenant {tenant} are most of \
                 what waits"
            ),
        };
        Refusal::new(Code::CellBusy, detail)
    })
}

fn open(detail: String, wait: Duration) -> Refusal {
    Refusal::new(Code::BreakerOpen, detail).after(retry_after(wait))
}

impl Leave {
    /// When it was given.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Only the client is awaited now: the cell has room for somebody else.
    pub(crate) fn step_out(&mut self) {
        if let Some(permit) = &mut self.permit {
            permit.step_out();
        }
    }

    /// Tells those who go by it what came of the attempt. `timed`: the request was complete when it was sent, so that the
    /// time to its answer was the cell's. Answers the room in the cell, which a long answer may keep to its end.
    pub(crate) fn tell(
        mut self,
        worker: &Worker,
        ctx: &RequestCtx,
        outcome: &Attempt,
        timed: bool,
    ) -> Option<Permit> {
        self.told = true;
        let ended = ctx.answered.filter(|_| matches!(outcome, Attempt::Answered(_))).unwrap_or_else(Instant::now);
        let (now, took) = (worker.flow.clock.at(ended), ended.saturating_duration_since(self.began));
        // For the cell, and for the tenant: None says nothing.
        let (cell_failed, tenant_failed) = match outcome {
            Attempt::Answered(response) => {
                if timed {
                    self.cell.scheduler.answered(took, now);
                    if let Some((active, _)) = &self.tenant {
                        active.took(took);
                    }
                }
                (Some(false), Some(is_failure(response.status())))
            }
            Attempt::Over(refusal) if refusal.code == Code::CellTimeout => {
                self.cell.scheduler.timed_out(now);
                (Some(false), Some(true))
            }
            Attempt::Broken(_) => (Some(false), Some(true)),
            // What broke on the way of a body may have broken for what the client sends.
            Attempt::Over(_) | Attempt::NotTaken(_) | Attempt::CutShort(_) => (None, None),
            Attempt::Unreachable(_) => (Some(true), None),
            Attempt::Stale(_) | Attempt::NotExecuted(_) | Attempt::Deleted => (Some(false), None),
        };
        let (options, jitter) = (worker.live().breaker, worker.dice.part());
        match cell_failed {
            Some(failed) => {
                if self.cell.breaker.tell(self.of_cell, failed, now, options, jitter) {
                    worker.metrics.breaker_openings.inc();
                    tracing::warn!("the breaker of a cell has opened: no instance takes connections");
                }
            }
            None => self.cell.breaker.withdraw(self.of_cell),
        }
        // What depends on something else says nothing of the tenant's other requests.
        let (dependency_failed, tenant_failed) = match &self.of_dependency {
            Some(_) => (tenant_failed, None),
            None => (None, tenant_failed),
        };
        if let Some((breaker, verdict)) = &self.of_dependency {
            match dependency_failed {
                Some(failed) => {
                    if breaker.tell(*verdict, failed, now, options, jitter) {
                        worker.metrics.breaker_openings.inc();
                        tracing::warn!("the breaker of a declared dependency has opened");
                    }
                }
                None => breaker.withdraw(*verdict),
            }
        }
        if let Some((active, verdict)) = &self.tenant
            && let Some(breaker) = active.breaker(self.epoch)
        {
            match tenant_failed {
                Some(failed) => {
                    if breaker.tell(*verdict, failed, now, options, jitter) {
                        worker.metrics.breaker_openings.inc();
                    }
                }
                None => breaker.withdraw(*verdict),
            }
        }
        self.permit.take()
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        self.cell.breaker.withdraw(self.of_cell);
        if let Some((breaker, verdict)) = &self.of_dependency {
            breaker.withdraw(*verdict);
        }
        if let Some((active, verdict)) = &self.tenant
            && let Some(breaker) = active.breaker(self.epoch)
        {
            breaker.withdraw(*verdict);
        }
    }
}

/// Whether an answer says that the application has failed. 501 says that it never will do that.
fn is_failure(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
}
