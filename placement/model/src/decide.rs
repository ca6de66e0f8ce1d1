//! Every rule over the fleet: what a command changes, or why it is refused.

mod takeover;

use std::sync::Arc;

use crate::step::{Stepped, steer, step, throttle};
use crate::{
    Acks, Attempt, CellId, CellRecord, CellState, Change, Command, Envelope, Epoch, Event, FleetView, Generation,
    Held, Intent, Leg, Life, Limits, Move, MoveId, MoveOptions, NewCell, NewTenant, Phase, PhaseStamp, Rejected,
    Rev, Revision, Stamp, Suggestion, TenantId, TenantRecord, Uid, UnixMillis, Verdict, judge,
};

/// Everything that a command changes; nothing where the state is already as wanted.
///
/// # Errors
/// [`Rejected`] says why not. Nothing has changed then.
pub fn decide(fleet: &dyn FleetView, envelope: &Envelope, stamp: Stamp) -> Result<Vec<Change>, Rejected> {
    if let Some(expected) = envelope.expected_revision {
        let actual = named_revision(fleet, &envelope.command);
        require(actual == expected, || Rejected::StaleRevision { expected, actual })?;
    }
    if fleet.unreconciled() {
        check_unreconciled(fleet, &envelope.command)?;
    }
    match &envelope.command {
        Command::CreateCell(cell) => create_cell(fleet, cell, stamp),
        Command::SetCellState { cell, state } => change_cell(fleet, cell, stamp, |record| record.state = *state),
        Command::ReportCell { cell, generation, gates, agent, partial } => {
            let known = if *partial { fleet.cell(cell).map(|cell| cell.gates.as_slice()) } else { None };
            let gates = with_known(known.unwrap_or_default(), gates);
            report_cell(fleet, cell, *generation, &gates, agent, stamp)
        }
        Command::CreateTenant(tenant) => create_tenant(fleet, tenant, None, stamp),
        Command::PlaceTenant { tenant, suggestion } => create_tenant(fleet, tenant, Some(suggestion), stamp),
        Command::DeleteTenant { tenant } => delete_tenant(fleet, tenant, stamp),
        Command::MoveTenant { tenant, target, options } => move_tenant(fleet, tenant, target, options, stamp),
        Command::Steer { move_id, intent } => steer_move(fleet, *move_id, |record| steer(record, *intent, stamp)),
        Command::ThrottleMove { move_id, bytes_per_second } => {
            check_rate(*bytes_per_second)?;
            steer_move(fleet, *move_id, |record| throttle(record, *bytes_per_second, stamp))
        }
        Command::Record { tenant, uid, move_id, leg, event } => {
            let record = known(fleet, tenant)?;
            require(record.uid == *uid, || Rejected::StaleUid { expected: *uid, actual: record.uid })?;
            if let Some(move_id) = move_id {
                let current = record.movement.as_ref().filter(|movement| movement.id == *move_id);
                let movement = current.ok_or(Rejected::StaleMove { expected: *move_id })?;
                require(leg.is_none_or(|leg| leg == movement.leg), || Rejected::StaleMove { expected: *move_id })?;
            }
            record_event(fleet, record, event, stamp)
        }
        Command::SetLimits(limits) => set_limits(fleet, *limits),
        Command::RoutersSaw { tenant, routers, .. } => {
            known(fleet, tenant)?;
            let most = Command::ROUTERS_TOLD_MAX;
            require(routers.len() <= most, || invalid("routers", format!("at most {most} are named")))?;
            Ok(Vec::new())
        }
        Command::TakeOver { tenant, order } => takeover::forced(fleet, tenant, order, stamp),
        Command::DropQuarantine { tenant, cell } => takeover::drop_quarantine(fleet, tenant, cell, stamp),
        Command::Adopt { tenant, held } => adopt(fleet, tenant, held, stamp),
        Command::Reconciled { heard, without } => reconciled(fleet, heard, without),
    }
}

fn require(holds: bool, otherwise: impl FnOnce() -> Rejected) -> Result<(), Rejected> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn invalid(option: &str, rule: impl Into<String>) -> Rejected {
    Rejected::InvalidOption { option: option.into(), rule: rule.into() }
}

fn known<'a>(fleet: &'a dyn FleetView, tenant: &TenantId) -> Result<&'a TenantRecord, Rejected> {
    let record = fleet.tenant(tenant).filter(|record| record.life != Life::Deleted);
    record.ok_or_else(|| Rejected::TenantUnknown { tenant: tenant.clone() })
}

fn known_cell<'a>(fleet: &'a dyn FleetView, cell: &CellId) -> Result<&'a CellRecord, Rejected> {
    fleet.cell(cell).ok_or_else(|| Rejected::CellUnknown { cell: cell.clone() })
}

/// The revision of the record that a command names; 0 where there is none.
fn named_revision(fleet: &dyn FleetView, command: &Command) -> Revision {
    let of_tenant = |tenant: &TenantId| fleet.tenant(tenant).map(|record| record.revision);
    let of_cell = |cell: &CellId| fleet.cell(cell).map(|record| record.revision);
    let revision = match command {
        Command::CreateCell(NewCell { id, .. }) => of_cell(id),
        Command::SetCellState { cell, .. } | Command::ReportCell { cell, .. } => of_cell(cell),
        Command::CreateTenant(NewTenant { id, .. }) | Command::PlaceTenant { tenant: NewTenant { id, .. }, .. } => {
            of_tenant(id)
        }
        Command::DeleteTenant { tenant }
        | Command::MoveTenant { tenant, .. }
        | Command::Record { tenant, .. }
        | Command::TakeOver { tenant, .. }
        | Command::DropQuarantine { tenant, .. }
        | Command::Adopt { tenant, .. }
        | Command::RoutersSaw { tenant, .. } => of_tenant(tenant),
        Command::Steer { move_id, .. } | Command::ThrottleMove { move_id, .. } => {
            fleet.tenant_of_move(*move_id).map(|record| record.revision)
        }
        Command::SetLimits(_) | Command::Reconciled { .. } => None,
    };
    revision.unwrap_or_default()
}

// --- after a restore

/// Until the cells have said what they hold, the records may be older than the grants: nothing is made, moved or taken
/// away. (A tenant that is made might be there already.)
fn check_unreconciled(fleet: &dyn FleetView, command: &Command) -> Result<(), Rejected> {
    match command {
        Command::CreateCell(_)
        | Command::SetCellState { .. }
        | Command::ReportCell { .. }
        | Command::SetLimits(_)
        | Command::RoutersSaw { .. }
        | Command::Adopt { .. }
        | Command::Reconciled { .. } => Ok(()),
        Command::CreateTenant(_)
        | Command::PlaceTenant { .. }
        | Command::DeleteTenant { .. }
        | Command::MoveTenant { .. }
        | Command::Steer { .. }
        | Command::ThrottleMove { .. }
        | Command::TakeOver { .. }
        | Command::DropQuarantine { .. }
        | Command::Record { .. } => Err(Rejected::NotReconciled { lineage: fleet.lineage() }),
    }
}

fn adopt(fleet: &dyn FleetView, tenant: &TenantId, held: &[Held], stamp: Stamp) -> Result<Vec<Change>, Rejected> {
    require(fleet.unreconciled(), || Rejected::NotDue { event: "Adopt".into() })?;
    let most = Command::HELD_MAX;
    require(held.len() <= most, || invalid("held", format!("at most {most} cells")))?;
    held.iter().try_for_each(|held| known_cell(fleet, &held.cell).map(drop))?;
    match judge(fleet, tenant, held, stamp) {
        Verdict::Confirmed | Verdict::Unheld { .. } => Ok(Vec::new()),
        Verdict::Adopt { record, ended, .. } => {
            let ended = ended.map(|ended| Change::MoveEnded(Arc::from(ended)));
            Ok(std::iter::once(Change::Tenant(Arc::from(record))).chain(ended).collect())
        }
        Verdict::Contradictory { reason } => Err(Rejected::GrantsContradict { tenant: tenant.clone(), reason }),
    }
}

/// Every cell counts, also one that was made while others were asked.
fn reconciled(fleet: &dyn FleetView, heard: &[CellId], without: &[CellId]) -> Result<Vec<Change>, Rejected> {
    let silent = fleet
        .cells()
        .find(|cell| cell.state != CellState::Dead && !heard.contains(&cell.id) && !without.contains(&cell.id));
    if let Some(cell) = silent {
        return Err(Rejected::CellNotHeard { cell: cell.id.clone() });
    }
    Ok(if fleet.unreconciled() { vec![Change::Reconciled(true)] } else { Vec::new() })
}

// --- cells

/// The most instances that one cell may name: each is an address in every router's table.
const GATES_MAX: usize = 256;

fn check_endpoint(option: &str, endpoint: &str) -> Result<(), Rejected> {
    let well_formed = endpoint.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && host.len() <= 255 && port.parse::<u16>().is_ok_and(|p| p != 0)
    });
    require(well_formed, || invalid(option, format!("{endpoint:?} is not HOST:PORT")))
}

fn check_endpoints(gates: &[String], agent: &str) -> Result<(), Rejected> {
    require(gates.len() <= GATES_MAX, || invalid("gates", format!("at most {GATES_MAX} instances a cell")))?;
    gates.iter().try_for_each(|gate| check_endpoint("gates", gate))?;
    check_endpoint("agent", agent)
}

fn create_cell(fleet: &dyn FleetView, cell: &NewCell, stamp: Stamp) -> Result<Vec<Change>, Rejected> {
    require(fleet.cell(&cell.id).is_none(), || Rejected::CellExists { cell: cell.id.clone() })?;
    check_endpoints(&cell.gates, &cell.agent)?;
    Ok(vec![Change::Cell(Arc::new(CellRecord {
        id: cell.id.clone(),
        state: CellState::Active,
        gates: cell.gates.clone(),
        agent: cell.agent.clone(),
        region: cell.region.clone(),
        residency: cell.residency.clone(),
        generation: Generation(0),
        revision: stamp.revision,
    }))])
}

fn change_cell(
    fleet: &dyn FleetView,
    cell: &CellId,
    stamp: Stamp,
    change: impl FnOnce(&mut CellRecord),
) -> Result<Vec<Change>, Rejected> {
    let before = known_cell(fleet, cell)?;
    let mut record = before.clone();
    change(&mut record);
    if record == *before {
        return Ok(Vec::new());
    }
    record.revision = stamp.revision;
    Ok(vec![Change::Cell(Arc::new(record))])
}

/// The gates that are known, and those that have come to an agent since it started. The known ones are kept until it
/// says that all of its gates have had the time to come.
fn with_known(known: &[String], come: &[String]) -> Vec<String> {
    let new = come.iter().filter(|gate| !known.contains(gate));
    known.iter().chain(new).cloned().collect()
}

fn report_cell(
    fleet: &dyn FleetView,
    cell: &CellId,
    generation: Generation,
    gates: &[String],
    agent: &str,
    stamp: Stamp,
) -> Result<Vec<Change>, Rejected> {
    check_endpoints(gates, agent)?;
    let known = known_cell(fleet, cell)?.generation;
    // A process that was paused, with a younger one in its place, must not point routers back to itself.
    require(generation >= known, || Rejected::StaleGeneration {
        cell: cell.clone(),
        expected: generation,
        actual: known,
    })?;
    change_cell(fleet, cell, stamp, |record| {
        record.generation = generation;
        record.gates = gates.to_vec();
        record.agent = agent.to_owned();
    })
}

// --- tenants

fn check_taking(cell: &CellRecord) -> Result<(), Rejected> {
    match cell.state {
        CellState::Active => Ok(()),
        CellState::Cordoned => Err(Rejected::CellCordoned { cell: cell.id.clone() }),
        CellState::Dead => Err(Rejected::CellDead { cell: cell.id.clone() }),
    }
}

fn allows_residency(residency: &str, cell: &CellRecord) -> bool {
    residency.is_empty() || residency == cell.residency
}

fn check_residency(tenant: &TenantId, residency: &str, cell: &CellRecord) -> Result<(), Rejected> {
    require(allows_residency(residency, cell), || Rejected::ResidencyViolated {
        tenant: tenant.clone(),
        residency: residency.into(),
        cell: cell.id.clone(),
        cell_residency: cell.residency.clone(),
    })
}

/// The cell, and why: nothing where the caller named it.
fn choose_cell<'a>(
    fleet: &'a dyn FleetView,
    new: &NewTenant,
    suggestion: Option<&Suggestion>,
) -> Result<(&'a CellRecord, String), Rejected> {
    if let Some(wanted) = &new.cell {
        let cell = known_cell(fleet, wanted)?;
        check_taking(cell)?;
        check_residency(&new.id, &new.residency, cell)?;
        return Ok((cell, String::new()));
    }
    let takes = |cell: &CellRecord| check_taking(cell).is_ok() && allows_residency(&new.residency, cell);
    // The planner looked some milliseconds ago: the cell may have been cordoned since.
    if let Some(suggestion) = suggestion
        && let Some(cell) = fleet.cell(&suggestion.cell).filter(|cell| takes(cell))
    {
        return Ok((cell, suggestion.why.clone()));
    }
    let fewest = fleet
        .cells()
        .filter(|cell| takes(cell))
        .min_by_key(|cell| (fleet.tenants_on(&cell.id), cell.id.clone()))
        .ok_or_else(|| Rejected::NoEligibleCell { residency: new.residency.clone() })?;
    Ok((fewest, "fewest tenants among the cells that take it".into()))
}

fn create_tenant(
    fleet: &dyn FleetView,
    new: &NewTenant,
    suggestion: Option<&Suggestion>,
    stamp: Stamp,
) -> Result<Vec<Change>, Rejected> {
    let length = suggestion.map_or(0, |suggestion| suggestion.why.len());
    require(length <= Suggestion::WHY_MAX, || invalid("why", format!("at most {} bytes", Suggestion::WHY_MAX)))?;
    let exists = fleet.tenant(&new.id).is_some_and(|record| record.life != Life::Deleted);
    require(!exists, || Rejected::TenantExists { tenant: new.id.clone() })?;
    let (cell, placed) = choose_cell(fleet, new, suggestion)?;
    Ok(vec![Change::Tenant(Arc::new(TenantRecord {
        id: new.id.clone(),
        uid: Uid(stamp.revision.0),
        lineage: fleet.lineage(),
        epoch: Epoch(1),
        rev: Rev(1),
        revision: stamp.revision,
        owner: cell.id.clone(),
        life: Life::Provisioning,
        tier: new.tier,
        residency: new.residency.as_str().into(),
        movement: None,
        retained: Vec::new(),
        placed: placed.into(),
    }))])
}

fn delete_tenant(fleet: &dyn FleetView, tenant: &TenantId, stamp: Stamp) -> Result<Vec<Change>, Rejected> {
    let before = known(fleet, tenant)?;
    if let Some(movement) = &before.movement {
        return Err(Rejected::MoveRunning { tenant: tenant.clone(), move_id: movement.id });
    }
    if matches!(before.life, Life::Deleting { .. }) {
        return Ok(Vec::new());
    }
    let mut record = before.clone();
    record.life = Life::Deleting { owner_revoked: false };
    record.epoch = record.epoch.next();
    record.lineage = fleet.lineage();
    record.rev = record.rev.next();
    record.revision = stamp.revision;
    Ok(vec![Change::Tenant(Arc::new(record))])
}

// --- moves

const RETRIES_MAX: u32 = 1_000;
const STEADY_MS_MAX: u32 = 10 * 60 * 1_000;
const SOAK_MS_MAX: u32 = 14 * 24 * 3_600 * 1_000;
const RETAIN_MS_MAX: u64 = 365 * 24 * 3_600 * 1_000;

fn check_options(options: &MoveOptions) -> Result<(), Rejected> {
    let cap = MoveOptions::HOLD_CAP_MS;
    require((1..=cap).contains(&options.hold_max_ms), || {
        invalid("max-hold", format!("{} ms is not between 1 ms and the cap of {cap} ms", options.hold_max_ms))
    })?;
    if let Some(until) = options.until {
        require(!matches!(until, Phase::Unfence | Phase::Cleanup), || {
            invalid("until", format!("{until} is on the way back: choose a phase from preflight to soak"))
        })?;
        require(!options.rehearse || until < Phase::Fenced, || {
            invalid("until", format!("a rehearsal never comes behind {until}: leave one of the two out"))
        })?;
    }
    check_rate(options.bytes_per_second)?;
    require(options.retries <= RETRIES_MAX, || invalid("retries", format!("at most {RETRIES_MAX}")))?;
    require(options.sync_steady_ms <= STEADY_MS_MAX, || invalid("sync-steady", "at most ten minutes"))?;
    require(options.soak_ms <= SOAK_MS_MAX, || invalid("soak", "at most fourteen days"))?;
    require(options.retain_ms <= RETAIN_MS_MAX, || invalid("retain", "at most a year"))
}

fn check_rate(bytes_per_second: u64) -> Result<(), Rejected> {
    let least = MoveOptions::BYTES_PER_SECOND_MIN;
    require(bytes_per_second == 0 || bytes_per_second >= least, || {
        invalid("bytes-per-second", format!("{bytes_per_second} is too slow: at least {least}, or 0 for no limit"))
    })
}

fn move_tenant(
    fleet: &dyn FleetView,
    tenant: &TenantId,
    target: &CellId,
    options: &MoveOptions,
    stamp: Stamp,
) -> Result<Vec<Change>, Rejected> {
    let before = known(fleet, tenant)?;
    require(before.life == Life::Live, || Rejected::TenantNotLive { tenant: tenant.clone() })?;
    if let Some(movement) = &before.movement {
        return Err(Rejected::MoveRunning { tenant: tenant.clone(), move_id: movement.id });
    }
    let cell = known_cell(fleet, target)?;
    require(before.owner != *target, || Rejected::SameCell { tenant: tenant.clone(), cell: target.clone() })?;
    check_taking(cell)?;
    let source = known_cell(fleet, &before.owner)?;
    require(source.state != CellState::Dead, || Rejected::CellDead { cell: source.id.clone() })?;
    check_residency(tenant, &before.residency, cell)?;
    let kept = before.retained_on(target).is_some_and(|copy| !copy.lets_go());
    require(!kept, || Rejected::TailQuarantined { tenant: tenant.clone(), cell: target.clone() })?;
    check_options(options)?;
    let limit = fleet.limits().moves_queued;
    let waiting = u32::try_from(fleet.moving_count()).unwrap_or(u32::MAX);
    require(waiting < limit, || Rejected::MoveLimit { limit })?;

    let mut record = before.clone();
    record.movement = Some(Box::new(new_move(&before.owner, &cell.id, options, stamp)));
    record.rev = record.rev.next();
    record.revision = stamp.revision;
    Ok(vec![Change::Tenant(Arc::new(record))])
}

/// A move as it begins.
pub(crate) fn new_move(source: &CellId, target: &CellId, options: &MoveOptions, stamp: Stamp) -> Move {
    let attempt = Attempt(1);
    Move {
        id: MoveId(stamp.revision.0),
        source: source.clone(),
        target: target.clone(),
        leg: Leg::Forward,
        phase: Phase::Preflight,
        attempt,
        intent: Intent::Run,
        until: options.until,
        rehearse: options.rehearse,
        bytes_per_second: options.bytes_per_second,
        weight: None,
        admitted: false,
        hold_max_ms: options.hold_max_ms,
        sync_steady_ms: options.sync_steady_ms,
        soak_ms: options.soak_ms,
        retain_ms: options.retain_ms,
        retries_left: options.retries,
        not_before: UnixMillis(0),
        acks: Acks::default(),
        fenced_epoch: None,
        stale_rejected: None,
        takeover: None,
        differences: Vec::new(),
        ending: None,
        history: vec![PhaseStamp { phase: Phase::Preflight, attempt, at: stamp.at, revision: stamp.revision }],
    }
}

fn steer_move(
    fleet: &dyn FleetView,
    move_id: MoveId,
    steered: impl FnOnce(&TenantRecord) -> Result<Stepped, Rejected>,
) -> Result<Vec<Change>, Rejected> {
    if fleet.ended_move(move_id).is_some() {
        return Err(Rejected::MoveEnding { move_id });
    }
    let record = fleet.tenant_of_move(move_id).ok_or(Rejected::MoveUnknown { move_id })?;
    changes(fleet, record, steered(record)?)
}

fn record_event(
    fleet: &dyn FleetView,
    record: &TenantRecord,
    event: &Event,
    stamp: Stamp,
) -> Result<Vec<Change>, Rejected> {
    match (event, &record.movement) {
        (Event::Admitted, Some(movement)) if !movement.admitted => check_slots(fleet, movement)?,
        // Before the fence: found out only at COMMIT, each further try would be a gap for readers, too.
        (Event::Applied { generation, .. }, Some(movement)) => {
            check_incarnation(known_cell(fleet, movement.to())?, *generation)?;
        }
        (Event::Commit { .. }, Some(movement)) => check_commit(fleet, record, movement)?,
        _ => {}
    }
    changes(fleet, record, step(record, event, stamp)?)
}

/// The store's own record of the result: nothing where nothing changed.
fn changes(fleet: &dyn FleetView, before: &TenantRecord, stepped: Stepped) -> Result<Vec<Change>, Rejected> {
    let Stepped { mut record, ended } = stepped;
    if record == *before && ended.is_none() {
        return Ok(Vec::new());
    }
    if record.epoch != before.epoch {
        record.lineage = fleet.lineage();
    }
    let ended = ended.map(|ended| Change::MoveEnded(Arc::new(ended)));
    Ok(std::iter::once(Change::Tenant(Arc::new(record))).chain(ended).collect())
}

fn check_slots(fleet: &dyn FleetView, movement: &Move) -> Result<(), Rejected> {
    let limits = fleet.limits();
    let running =
        || fleet.moving().filter_map(|(_, record)| record.movement.as_ref()).filter(|other| other.admitted);
    let count = |of: &dyn Fn(&Move) -> bool| u32::try_from(running().filter(|m| of(m)).count()).unwrap_or(u32::MAX);
    require(count(&|_| true) < limits.moves_total, || Rejected::NoSlot { cell: None, limit: limits.moves_total })?;
    for cell in [&movement.source, &movement.target] {
        require(count(&|other| other.source == *cell || other.target == *cell) < limits.moves_per_cell, || {
            Rejected::NoSlot { cell: Some(cell.clone()), limit: limits.moves_per_cell }
        })?;
    }
    Ok(())
}

/// What COMMIT asks of the fleet, beside the acknowledgements in the record.
fn check_commit(fleet: &dyn FleetView, record: &TenantRecord, movement: &Move) -> Result<(), Rejected> {
    let to = known_cell(fleet, movement.to())?;
    match movement.leg {
        Leg::Forward => check_taking(to)?,
        // Going home is allowed under a cordon, not to the dead.
        Leg::Back => require(to.state != CellState::Dead, || Rejected::CellDead { cell: to.id.clone() })?,
    }
    check_residency(&record.id, &record.residency, to)?;
    if let Some(applied) = movement.acks.applied {
        check_incarnation(to, applied.generation)?;
    }
    match (movement.leg, movement.acks.reverse) {
        (Leg::Forward, Some(reverse)) => check_incarnation(to, reverse.generation),
        (Leg::Forward | Leg::Back, _) => Ok(()),
    }
}

/// An acknowledgement counts only while the agent that gave it is the one that runs.
fn check_incarnation(cell: &CellRecord, acknowledged: Generation) -> Result<(), Rejected> {
    require(acknowledged == cell.generation, || Rejected::StaleGeneration {
        cell: cell.id.clone(),
        expected: acknowledged,
        actual: cell.generation,
    })
}

fn set_limits(fleet: &dyn FleetView, limits: Limits) -> Result<Vec<Change>, Rejected> {
    for (option, value) in [
        ("moves-total", limits.moves_total),
        ("moves-per-cell", limits.moves_per_cell),
        ("moves-queued", limits.moves_queued),
    ] {
        require((1..=100_000).contains(&value), || invalid(option, "between 1 and 100,000"))?;
    }
    if limits == fleet.limits() {
        return Ok(Vec::new());
    }
    Ok(vec![Change::Limits(limits)])
}
