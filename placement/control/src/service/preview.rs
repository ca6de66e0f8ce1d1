//! What a move would meet: the store's own rules, then both cells looked at, and what earlier moves have taken.
//!
//! Nothing is changed: the command is decided upon and thrown away, and the one step that agents are sent only looks.

use std::sync::Arc;

use cell_client::{AgentOptions, AgentPool, Finding, PreflightReport, StepContext, StepError};
use cell_migration::out_of_reach;
use cell_model::{
    Attempt, CellId, CellRecord, Command, Envelope, Estimate, FleetView, MoveOptions, Rejected, Stamp, TenantId,
    TenantRecord, UnixMillis, Weight, decide,
};
use cell_protos::v1;
use tonic::Status;

use super::Ground;
use crate::refusal::rejected;

/// What a row takes on the wire, beside its key, where rows are compared one by one.
const EXACT_ROW_BYTES: u64 = 24;

/// What is to be looked at.
pub(super) struct Wanted {
    pub(super) tenant: TenantId,
    pub(super) target: CellId,
    pub(super) options: MoveOptions,
}

/// Looks.
pub(super) async fn preview(ground: &Ground, wanted: &Wanted) -> Result<v1::PreviewMoveResponse, Status> {
    ground.leading()?;
    // An agent remembers the highest term that it has heard of: it must be that of a leader whom a quorum follows.
    ground.readable(false).await?;
    let record =
        ground.view(|fleet| admissible(fleet, wanted, ground.now())).map_err(|refused| rejected(&refused))?;
    let leadership = ground.store.leadership();
    let term = leadership.borrow().term;
    let context = StepContext {
        lineage: ground.view(FleetView::lineage),
        term,
        tenant: record.id.clone(),
        uid: record.uid,
        move_id: None,
        attempt: Attempt(0),
        epoch: record.epoch,
        leg: None,
    };
    let agents = AgentPool::new(AgentOptions { link: ground.link.clone(), ..AgentOptions::default() });
    let agent_of = |cell: &CellId| ground.view(|fleet| fleet.cell(cell).map(|cell| cell.agent.clone()));
    let look = async |cell: &CellId, as_target: bool| match agent_of(cell) {
        Some(agent) => agents.preflight(&agent, &context, as_target).await,
        None => Err(StepError::Unreachable { agent: cell.to_string(), reason: "the cell is gone".into() }),
    };
    let (ours, theirs) = tokio::join!(look(&record.owner, false), look(&wanted.target, true));
    let unlike = match (&ours, &theirs) {
        (Ok(source), Ok(target)) => source.apart_from(target),
        _ => None,
    };
    let fenceless = |cell: &CellId, looked: &Result<PreflightReport, StepError>| {
        let ungated = ground.view(|fleet| fleet.cell(cell).is_some_and(|cell| cell.traits.ungated));
        let found = looked.as_ref().ok().filter(|_| ungated)?.without_fence(cell)?;
        Some(v1::PreviewFinding { cell: cell.to_string(), code: found.code, reason: found.reason })
    };
    let fenceless = [fenceless(&record.owner, &ours), fenceless(&wanted.target, &theirs)];
    let (ours, mut theirs) = (told(&record.owner, ours), told(&wanted.target, theirs));
    theirs.0.extend(fenceless.into_iter().flatten());
    theirs.0.extend(unlike.map(|Finding { code, reason }| {
        let cell = wanted.target.to_string();
        v1::PreviewFinding { cell, code, reason }
    }));
    let mut answer = v1::PreviewMoveResponse {
        revision: record.revision.get(),
        source: record.owner.to_string(),
        target: wanted.target.to_string(),
        ..v1::PreviewMoveResponse::default()
    };
    if let Some(copy) = record.retained_on(&wanted.target) {
        let reason = format!("the copy that {} has left there is deleted first: that is waited for", copy.move_id);
        let cell = wanted.target.to_string();
        answer.notes.push(v1::PreviewFinding { cell, code: "COPY_RETAINED".into(), reason });
    }
    let cells = ground.view(|fleet| (fleet.cell(&record.owner).cloned(), fleet.cell(&wanted.target).cloned()));
    if let (Some(source), Some(target)) = &cells {
        let (unreached, notes) = gates_of(source, target);
        theirs.0.extend(unreached);
        answer.notes.extend(notes);
    }
    if let Some(report) = &ours.1 {
        let weight = Weight { rows: report.rows, bytes: report.bytes };
        let at_most = wanted.options.bytes_per_second;
        let estimate = ground
            .view(|fleet| Estimate::from_moves(fleet.ended_moves_before(None).map(Arc::as_ref), weight, at_most));
        if wanted.options.exact {
            answer.notes.push(exact_cost(&record.owner, weight));
        }
        answer.weight = Some(v1::Weight { rows: weight.rows, bytes: weight.bytes });
        answer.estimate = Some(estimate.map(|known| estimate_to_wire(known, &wanted.options)).unwrap_or_default());
    }
    for (findings, report) in [ours, theirs] {
        let retained = record.retained_on(&wanted.target).is_some();
        // Of a copy that will have been deleted by then.
        answer.findings.extend(findings.into_iter().filter(|found| !(retained && found.code == "COPY_PRESENT")));
        answer.notes.extend(report.into_iter().flat_map(|report| report.notes));
    }
    Ok(answer)
}

/// What it takes to compare row by row, for whoever has asked for that.
fn exact_cost(source: &CellId, weight: Weight) -> v1::PreviewFinding {
    let Weight { rows, bytes } = weight;
    let sent = rows.saturating_mul(EXACT_ROW_BYTES);
    let reason = format!(
        "--exact: once the copy is complete both cells read all {rows} rows ({bytes} bytes) once more, page by page, and {sent} bytes \
         or a little more go from one to the other for their hashes, with the keys besides. Writers go on, no hold is longer for it, and --until verify \
         stops behind it"
    );
    v1::PreviewFinding { cell: source.to_string(), code: "EXACT_COST".into(), reason }
}

/// What is in the way because no router would reach the tenant, and what else is to be known of who stands before the cells.
fn gates_of(
    source: &CellRecord,
    target: &CellRecord,
) -> (Option<v1::PreviewFinding>, impl Iterator<Item = v1::PreviewFinding>) {
    let told = |Finding { code, reason }| v1::PreviewFinding { cell: target.id.to_string(), code, reason };
    let unreached = out_of_reach(source, target).map(told);
    let of_target = if unreached.is_none() { without_gate(target, true) } else { None };
    (unreached, without_gate(source, false).into_iter().chain(of_target))
}

/// Cells without a gate are not moved to and from as others are: said plainly, whether they were declared to be such cells or
/// their gates have not come.
fn without_gate(cell: &CellRecord, as_target: bool) -> Option<v1::PreviewFinding> {
    let (id, none) = (&cell.id, cell.gates.is_empty());
    let (code, reason) = match (cell.traits.ungated, as_target) {
        (false, _) if !none => return None,
        (false, true) => (
            "NO_GATE",
            format!(
                "no gate of cell {id} is known: nobody would serve the tenant there. Start its application with a gate that is connected \
                 to the agent"
            ),
        ),
        (false, false) => (
            "NO_GATE",
            format!(
                "no gate of cell {id} is known: nobody lets writes wait during the hold, and nobody sends requests on after the cutover. \
                 Where its tenants are in PostgreSQL the database fences whoever writes (he waits for its lock, and then meets SQLSTATE \
                 CW003 or CW005), and not who only reads. If it is to have none: `cellctl cell declare {id} --without-gate --gate HOST:PORT`"
            ),
        ),
        (true, _) if none => (
            "NO_GATE",
            format!(
                "cell {id} has no gate, and nobody has declared where its application is: routers reach nobody there. `cellctl cell \
                 declare {id} --gate HOST:PORT`"
            ),
        ),
        (true, true) => (
            "WITHOUT_GATE",
            format!(
                "cell {id} has no gate: routers let all requests of the tenant wait until it owns. From then on only its database refuses \
                 who comes past the routers, or through one that is cut off"
            ),
        ),
        (true, false) => (
            "WITHOUT_GATE",
            format!(
                "cell {id} has no gate: the move stands on its database, which fences whoever writes. The hold waits until each router has \
                 said that it holds back, or was silent for a second, and lets reads wait, too. Not covered: who writes past the routers \
                 meets the fence as an error (SQLSTATE CW003, CW005) and is not sent on; who reads past them, or through a router that is \
                 cut off (for up to 15 minutes), sees the old copy"
            ),
        ),
    };
    Some(v1::PreviewFinding { cell: id.to_string(), code: code.into(), reason })
}

/// The tenant's record, if the store would take the command.
fn admissible(fleet: &dyn FleetView, wanted: &Wanted, at: UnixMillis) -> Result<TenantRecord, Rejected> {
    let Wanted { tenant, target, options } = wanted;
    let (tenant, target, options) = (tenant.clone(), target.clone(), options.clone());
    let record = fleet.tenant(&tenant).cloned();
    let envelope = Envelope::new(at, Command::MoveTenant { tenant: tenant.clone(), target, options });
    decide(fleet, &envelope, Stamp { at, revision: cell_model::Revision(u64::MAX) })?;
    record.ok_or(Rejected::TenantUnknown { tenant })
}

/// What a cell has said of itself, as far as it is of interest.
struct Told {
    rows: u64,
    bytes: u64,
    notes: Vec<v1::PreviewFinding>,
}

/// A cell that refuses the question, or does not answer it, is a finding, too.
fn told(cell: &CellId, looked: Result<PreflightReport, StepError>) -> (Vec<v1::PreviewFinding>, Option<Told>) {
    let of = |found: Finding| v1::PreviewFinding { cell: cell.to_string(), code: found.code, reason: found.reason };
    match looked {
        Ok(PreflightReport { findings, notes, rows, bytes, .. }) => {
            let notes = notes.into_iter().map(of).collect();
            (findings.into_iter().map(of).collect(), Some(Told { rows, bytes, notes }))
        }
        Err(StepError::Refused { code, reason }) => (vec![of(Finding { code, reason })], None),
        Err(error) => {
            let found = Finding { code: "CELL_UNREACHABLE".into(), reason: error.to_string() };
            (vec![of(found)], None)
        }
    }
}

fn estimate_to_wire(estimate: Estimate, options: &MoveOptions) -> v1::MoveEstimate {
    let Estimate { moves, copy_ms, total_ms, hold_ms, hold_max_ms } = estimate;
    // Sync has to be steady for longer, or for shorter, than it was in those moves only if that was asked for.
    let default = MoveOptions::default().sync_steady_ms;
    let total_ms = total_ms.saturating_add(options.sync_steady_ms.into()).saturating_sub(default.into());
    v1::MoveEstimate { moves, copy_ms, total_ms, hold_ms, hold_max_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_takes_to_compare_row_by_row_is_told_in_rows_and_bytes() {
        let note = exact_cost(&CellId::new("c1").unwrap(), Weight { rows: 1_000, bytes: 90_000 });
        assert_eq!((note.cell.as_str(), note.code.as_str()), ("c1", "EXACT_COST"));
        for said in ["1000 rows", "90000 bytes", "24000 bytes"] {
            assert!(note.reason.contains(said), "{}", note.reason);
        }
    }

    #[test]
    fn a_cell_without_a_gate_is_told_with_what_that_means_on_its_side() {
        let mut cell = CellRecord {
            id: CellId::new("c1").unwrap(),
            state: cell_model::CellState::Active,
            gates: Vec::new(),
            agent: "10.0.0.7:7002".into(),
            region: String::new(),
            residency: String::new(),
            traits: cell_model::CellTraits::default(),
            generation: cell_model::Generation(1),
            revision: cell_model::Revision(1),
        };
        let source = without_gate(&cell, false).unwrap();
        assert_eq!((source.cell.as_str(), source.code.as_str()), ("c1", "NO_GATE"));
        assert!(source.reason.contains("CW003"), "{}", source.reason);
        assert!(without_gate(&cell, true).unwrap().reason.contains("nobody would serve"));
        cell.gates = vec!["10.0.0.7:7001".into()];
        assert_eq!((without_gate(&cell, false), without_gate(&cell, true)), (None, None));
        cell.traits.ungated = true;
        let told = |cell: &CellRecord, as_target| {
            let note = without_gate(cell, as_target).unwrap();
            (note.code, note.reason)
        };
        let (code, reason) = told(&cell, false);
        assert!(code == "WITHOUT_GATE" && reason.contains("Not covered: who writes past the routers"), "{reason}");
        let (code, reason) = told(&cell, true);
        assert!(code == "WITHOUT_GATE" && reason.contains("wait until it owns"), "{reason}");
        cell.gates.clear();
        let (code, reason) = told(&cell, true);
        assert!(code == "NO_GATE" && reason.contains("cellctl cell declare c1 --gate HOST:PORT"), "{reason}");
    }
}
