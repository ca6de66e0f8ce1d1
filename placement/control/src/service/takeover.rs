//! Forced takeover: what the store can see is looked at first, then the cell that is to own says what it holds, and then the
//! log decides.
//!
//! Nothing here makes it safe: that the owner is stopped is what the operator attests. What a node can see only keeps
//! him from a mistake.

use cell_client::{AgentOptions, AgentPool, StepContext, StepError};
use cell_model::{
    Attempt, CellId, CellState, Command, CopySight, Envelope, FleetView, Generation, Move, Rejected, Reply,
    Revision, Seq, TakeoverOrder, TenantId, TenantRecord, holder,
};
use cell_protos::{Malformed, v1};
use tonic::{Code, Status};

use super::{Caller, Ground};
use crate::refusal::{malformed, refusal, rejected};

/// Looks, and decides unless that is all that was asked for.
pub(super) async fn take_over(
    ground: &Ground,
    wire: v1::TakeOverRequest,
    by: Caller,
) -> Result<v1::TakeOverResponse, Status> {
    let named = |field, error: cell_model::InvalidId| malformed(&Malformed::new(field, error.to_string()));
    let tenant: TenantId = wire.tenant.parse().map_err(|error| named("tenant", error))?;
    let target: CellId = wire.target.parse().map_err(|error| named("target", error))?;
    ground.leading()?;
    // The record that is judged is the one that a quorum has.
    ground.readable(false).await?;
    if let Some(known) = decided_before(ground, &wire, (&tenant, &target), &by).await? {
        return Ok(known);
    }
    let record = ground.view(|fleet| admissible(fleet, &tenant, &target)).map_err(|refused| rejected(&refused))?;
    let stopped = check_stopped(ground, &record.owner)?;
    let copy = look(ground, &record, &target).await?;
    let mut answer = told(ground, &record, &target, copy);
    if wire.look_only {
        return Ok(answer);
    }
    // The question has taken its time.
    check_stopped(ground, &record.owner)?;
    let order =
        TakeoverOrder { target, evidence: wire.evidence, accept_data_loss: wire.accept_data_loss, stopped, copy };
    let envelope = ground.envelope(Command::TakeOver { tenant, order }, wire.options, by)?;
    // What was judged is what is decided upon; a record that has changed meanwhile is looked at anew.
    let expected_revision = envelope.expected_revision.or(Some(record.revision));
    let (revision, _) = ground.submit(Envelope { expected_revision, ..envelope }).await?;
    answer.revision = revision.get();
    answer.epoch = record.epoch.next().get();
    answer.decided = true;
    Ok(answer)
}

/// The answer to a request that has run already: its client did not hear of it. An id that was given to another request is
/// refused, and that is in the audit trail.
async fn decided_before(
    ground: &Ground,
    wire: &v1::TakeOverRequest,
    (tenant, target): (&TenantId, &CellId),
    by: &Caller,
) -> Result<Option<v1::TakeOverResponse>, Status> {
    let Some(options) = wire.options.clone() else { return Ok(None) };
    let order = TakeoverOrder {
        target: target.clone(),
        evidence: wire.evidence.clone(),
        accept_data_loss: wire.accept_data_loss,
        stopped: Generation(0),
        copy: CopySight {
            generation: Generation(0),
            complete: false,
            applied: Seq(0),
            heard: Seq(0),
            ungated: false,
        },
    };
    let command = Command::TakeOver { tenant: tenant.clone(), order };
    let envelope = ground.envelope(command, Some(options), by.clone())?;
    let known = envelope.request_id.and_then(|id| ground.view(|fleet| fleet.answer(id).cloned()));
    let Some(known) = known else { return Ok(None) };
    if known.asked.is_some_and(|before| Some(before) != envelope.asked) {
        // No record is at revision 0: whatever becomes of the id meanwhile, nothing is decided.
        ground.submit(Envelope { expected_revision: Some(Revision(0)), ..envelope }).await?;
    }
    Ok(told_before(ground, wire, tenant, &known.reply))
}

fn told_before(
    ground: &Ground,
    wire: &v1::TakeOverRequest,
    tenant: &TenantId,
    reply: &Reply,
) -> Option<v1::TakeOverResponse> {
    reply.result.as_ref().ok()?;
    ground.view(|fleet| {
        let taken = |movement: &Move, epoch| Some((movement.id, movement.takeover.clone()?, epoch));
        let running = fleet.tenant(tenant).and_then(|record| taken(record.movement.as_deref()?, record.epoch));
        let mut of_tenant = fleet.ended_moves_before(None).filter(|ended| ended.tenant == *tenant);
        let (id, takeover, epoch) =
            running.or_else(|| of_tenant.find_map(|ended| taken(&ended.movement, ended.epoch)))?;
        Some(v1::TakeOverResponse {
            revision: reply.revision.get(),
            move_id: id.to_string(),
            from: takeover.from.to_string(),
            target: wire.target.clone(),
            phase: v1::Phase::from(takeover.phase).into(),
            lossless: takeover.lossless,
            applied_seq: takeover.applied.get(),
            heard_seq: takeover.heard.get(),
            epoch: epoch.get(),
            decided: true,
            silent_ms: None,
            ungated: false,
        })
    })
}

/// The record, where the other cell of its move is the one that is to own.
fn admissible(fleet: &dyn FleetView, tenant: &TenantId, target: &CellId) -> Result<TenantRecord, Rejected> {
    let record = fleet.tenant(tenant).ok_or_else(|| Rejected::TenantUnknown { tenant: tenant.clone() })?;
    fleet.cell(target).ok_or_else(|| Rejected::CellUnknown { cell: target.clone() })?;
    if record.owner == *target {
        return Err(Rejected::SameCell { tenant: tenant.clone(), cell: target.clone() });
    }
    let held = holder(record, fleet.lineage())?;
    if held.cell != target {
        let reason = format!("the copy is at cell {}, not at {target}", held.cell);
        return Err(Rejected::NothingHeld { tenant: tenant.clone(), reason });
    }
    Ok(record.clone())
}

/// An owner that still reports is not stopped, whatever somebody believes; unless the cell is declared dead. The answer is the
/// incarnation that does not report: a later one is refused by the log.
fn check_stopped(ground: &Ground, owner: &CellId) -> Result<Generation, Status> {
    let cell = ground.view(|fleet| fleet.cell(owner).map(|cell| (cell.state, cell.generation)));
    let (state, generation) = cell.ok_or_else(|| rejected(&Rejected::CellUnknown { cell: owner.clone() }))?;
    let leading = ground.leading()?;
    if state == CellState::Dead || ground.liveness.is_unreachable(owner, leading) {
        return Ok(generation);
    }
    let message = match ground.liveness.silence(owner) {
        Some(silence) => {
            format!("the agent of cell {owner} has reported {} ms ago: it is not stopped", silence.as_millis())
        }
        None => format!("this node leads for {} s only: cell {owner} may still report", leading.as_secs()),
    };
    let hint = "stop it for good, wait some seconds and run the command again; while it runs, `cellctl move cancel` or \
                `rollback` lose nothing";
    Err(refusal(Code::FailedPrecondition, "OWNER_REACHABLE", message, hint))
}

async fn look(ground: &Ground, record: &TenantRecord, target: &CellId) -> Result<CopySight, Status> {
    let term = ground.store.leadership().borrow().term;
    let movement = record.movement.as_ref();
    let context = StepContext {
        lineage: ground.view(FleetView::lineage),
        term,
        tenant: record.id.clone(),
        uid: record.uid,
        move_id: movement.map(|movement| movement.id),
        attempt: movement.map_or(Attempt(0), |movement| movement.attempt),
        epoch: record.epoch,
        leg: movement.map(|movement| movement.leg),
    };
    let agent = ground.view(|fleet| fleet.cell(target).map(|cell| cell.agent.clone())).unwrap_or_default();
    let agents = AgentPool::new(AgentOptions { link: ground.link.clone(), ..AgentOptions::default() });
    let looked = agents.look_at_copy(&agent, &context).await;
    looked.map_err(|error| match error {
        // It has a database that it cannot ask now.
        StepError::Refused { code, reason } if code == "BUSY" || code.starts_with("DATABASE_") => {
            let message = format!("cell {target} does not say what it holds: {code}: {reason}");
            let hint = "see to the cell's database, then run the command again";
            refusal(Code::FailedPrecondition, "CELL_UNREACHABLE", message, hint)
        }
        StepError::Refused { code, reason } => {
            let message = format!("cell {target} cannot take {} over: {code}: {reason}", record.id);
            let hint = format!("`cellctl describe tenant {}` shows what is where", record.id);
            refusal(Code::FailedPrecondition, "NOTHING_HELD", message, &hint)
        }
        StepError::Unreachable { .. } | StepError::Unknown { .. } => {
            let message = format!("cell {target} does not say what it holds: {error}");
            let hint =
                format!("start the cell, then run the command again; `cellctl describe cell {target}` shows it");
            refusal(Code::FailedPrecondition, "CELL_UNREACHABLE", message, &hint)
        }
    })
}

fn told(ground: &Ground, record: &TenantRecord, target: &CellId, copy: CopySight) -> v1::TakeOverResponse {
    let movement = record.movement.as_ref();
    let lineage = ground.view(FleetView::lineage);
    let in_sync = holder(record, lineage).ok().and_then(|held| held.in_sync);
    let silence = ground.liveness.silence(&record.owner);
    v1::TakeOverResponse {
        revision: record.revision.get(),
        move_id: movement.map(|movement| movement.id.to_string()).unwrap_or_default(),
        from: record.owner.to_string(),
        target: target.to_string(),
        phase: movement.map_or(v1::Phase::Unspecified, |movement| v1::Phase::from(movement.phase)).into(),
        lossless: copy.complete && copy.is_lossless(in_sync),
        ungated: copy.ungated,
        applied_seq: copy.applied.get(),
        heard_seq: copy.heard.get(),
        epoch: record.epoch.get(),
        decided: false,
        silent_ms: silence.map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
    }
}
