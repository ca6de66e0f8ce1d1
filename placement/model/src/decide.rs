//! Every rule over the fleet: what a command changes, or why it is refused.

mod cells;
mod options;
mod takeover;
mod tier;

use std::sync::Arc;

pub use self::cells::copies_under_way;
use self::cells::{Choice, Kinds};
use self::options::{check_options, check_rate, invalid};
use crate::rule::require;
use crate::step::{Stepped, steer, step, throttle};
use crate::{
    Acks, Attempt, CellId, CellKind, CellRecord, CellState, Change, Command, Envelope, Epoch, Event, FleetView,
    Generation, Held, Intent, Leg, Life, Limits, Move, MoveId, MoveOptions, NewCell, NewTenant, Phase, PhaseStamp,
    Rejected, Rev, Revision, Rule, Stamp, StoreNote, Suggestion, TenantId, TenantRecord, TierChange, Uid, Ungated,
    UnixMillis, Verdict, judge,
};

/// Everything that a command changes; nothing where the state is already as wanted.
///
/// # Errors
/// [`Rejected`] says why not. Nothing has changed then.
pub fn decide(fleet: &dyn FleetView, envelope: &Envelope, stamp: Stamp) -> Result<Vec<Change>, Rejected> {
    if let Some(expected) = envelope.expected_revision {
        let actual = named_revision(fleet, &envelope.command);
        require(Rule::ExpectedRevision, actual == expected, || Rejected::StaleRevision { expected, actual })?;
    }
    if fleet.unreconciled() {
        check_unreconciled(fleet, &envelope.command)?;
    }
    let kinds = Kinds::of(envelope);
    match &envelope.command {
        Command::CreateCell(cell) => cells::create(fleet, cell, stamp),
        Command::SetCellState { cell, state } => cells::change(fleet, cell, stamp, |record| record.state = *state),
        Command::DeclareCell { cell, declaration, only } => {
            cells::declare(fleet, cell, declaration, only.as_ref(), stamp)
        }
        Command::ReportCell { cell, generation, gates, agent, partial } => {
            let known = if *partial { fleet.cell(cell).map(|cell| cell.gates.as_slice()) } else { None };
            let gates = cells::with_known(known.unwrap_or_default(), gates);
            cells::report(fleet, cell, *generation, &gates, agent, stamp)
        }
        Command::CreateTenant(tenant) => create_tenant(fleet, (tenant, kinds), None, stamp),
        Command::PlaceTenant { tenant, suggestion } => {
            create_tenant(fleet, (tenant, kinds), Some(suggestion), stamp)
        }
        Command::UnplacedTenant { tenant, explained } => {
            check_told("explained", explained, Suggestion::EXPLAINED_MAX)?;
            create_tenant(fleet, (tenant, kinds), None, stamp)
        }
        Command::SetTier { tenant, tier } => tier::set(fleet, tenant, *tier, stamp),
        Command::DeleteTenant { tenant } => delete_tenant(fleet, tenant, stamp),
        Command::MoveTenant { tenant, target, options } => {
            move_tenant(fleet, (tenant, kinds), target, options, stamp)
        }
        Command::Steer { move_id, intent } => steer_move(fleet, *move_id, |record| steer(record, *intent, stamp)),
        Command::ThrottleMove { move_id, bytes_per_second } => {
            check_rate(*bytes_per_second)?;
            steer_move(fleet, *move_id, |record| throttle(record, *bytes_per_second, stamp))
        }
        Command::Record { tenant, uid, move_id, leg, event } => {
            let record = known(fleet, tenant)?;
            require(Rule::RecordUid, record.uid == *uid, || Rejected::StaleUid {
                expected: *uid,
                actual: record.uid,
            })?;
            if let Some(move_id) = move_id {
                let stale = || Rejected::StaleMove { expected: *move_id };
                let current = record.movement.as_ref();
                require(Rule::RecordMove, current.is_some_and(|movement| movement.id == *move_id), stale)?;
                let same = leg.is_none_or(|leg| current.is_some_and(|movement| movement.leg == leg));
                require(Rule::RecordLeg, same, stale)?;
            }
            record_event(fleet, record, event, stamp)
        }
        Command::SetLimits(limits) => set_limits(fleet, *limits),
        Command::RoutersSaw { tenant, routers, .. } => {
            known(fleet, tenant)?;
            let most = Command::ROUTERS_TOLD_MAX;
            require(Rule::RoutersSawMany, routers.len() <= most, || {
                invalid("routers", format!("at most {most} are named"))
            })?;
            Ok(Vec::new())
        }
        Command::TakeOver { tenant, order } => takeover::forced(fleet, tenant, order, stamp),
        Command::DropQuarantine { tenant, cell } => takeover::drop_quarantine(fleet, tenant, cell, stamp),
        Command::Adopt { tenant, held } => adopt(fleet, tenant, held, stamp),
        Command::Reconciled { heard, without } => reconciled(fleet, heard, without),
        Command::Noted(note) => {
            let most = StoreNote::BYTES_MAX;
            require(Rule::NotedBytes, note.fits(), || invalid("note", format!("at most {most} bytes")))?;
            Ok(Vec::new())
        }
    }
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
        Command::SetCellState { cell, .. }
        | Command::DeclareCell { cell, .. }
        | Command::ReportCell { cell, .. } => of_cell(cell),
        Command::CreateTenant(NewTenant { id, .. })
        | Command::PlaceTenant { tenant: NewTenant { id, .. }, .. }
        | Command::UnplacedTenant { tenant: NewTenant { id, .. }, .. } => of_tenant(id),
        Command::DeleteTenant { tenant }
        | Command::MoveTenant { tenant, .. }
        | Command::Record { tenant, .. }
        | Command::TakeOver { tenant, .. }
        | Command::DropQuarantine { tenant, .. }
        | Command::Adopt { tenant, .. }
        | Command::SetTier { tenant, .. }
        | Command::RoutersSaw { tenant, .. } => of_tenant(tenant),
        Command::Steer { move_id, .. } | Command::ThrottleMove { move_id, .. } => {
            fleet.tenant_of_move(*move_id).map(|record| record.revision)
        }
        Command::SetLimits(_) => Some(fleet.limits_revision()),
        Command::Reconciled { .. } | Command::Noted(_) => None,
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
        | Command::DeclareCell { .. }
        | Command::ReportCell { .. }
        | Command::SetLimits(_)
        | Command::RoutersSaw { .. }
        | Command::Adopt { .. }
        | Command::Noted(_)
        | Command::Reconciled { .. } => Ok(()),
        Command::CreateTenant(_)
        | Command::PlaceTenant { .. }
        | Command::UnplacedTenant { .. }
        | Command::SetTier { .. }
        | Command::DeleteTenant { .. }
        | Command::MoveTenant { .. }
        | Command::Steer { .. }
        | Command::ThrottleMove { .. }
        | Command::TakeOver { .. }
        | Command::DropQuarantine { .. }
        | Command::Record { .. } => {
            require(Rule::Unreconciled, false, || Rejected::NotReconciled { lineage: fleet.lineage() })
        }
    }
}

fn adopt(fleet: &dyn FleetView, tenant: &TenantId, held: &[Held], stamp: Stamp) -> Result<Vec<Change>, Rejected> {
    require(Rule::AdoptUnreconciled, fleet.unreconciled(), || Rejected::NotDue { event: "Adopt".into() })?;
    let most = Command::HELD_MAX;
    require(Rule::AdoptMany, held.len() <= most, || invalid("held", format!("at most {most} cells")))?;
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
        require(Rule::ReconciledSilent, false, || Rejected::CellNotHeard { cell: cell.id.clone() })?;
    }
    Ok(if fleet.unreconciled() { vec![Change::Reconciled(true)] } else { Vec::new() })
}

// --- tenants

fn check_taking(rule: Rule, cell: &CellRecord) -> Result<(), Rejected> {
    require(rule, cell.state == CellState::Active, || match cell.state {
        CellState::Dead => Rejected::CellDead { cell: cell.id.clone() },
        CellState::Active | CellState::Cordoned => Rejected::CellCordoned { cell: cell.id.clone() },
    })
}

/// A dead cell neither takes nor gives.
fn check_alive(rule: Rule, cell: &CellRecord) -> Result<(), Rejected> {
    require(rule, cell.state != CellState::Dead, || Rejected::CellDead { cell: cell.id.clone() })
}

fn check_residency(rule: Rule, tenant: &TenantId, residency: &str, cell: &CellRecord) -> Result<(), Rejected> {
    require(rule, residency.is_empty() || residency == cell.residency, || Rejected::ResidencyViolated {
        tenant: tenant.clone(),
        residency: residency.into(),
        cell: cell.id.clone(),
        cell_residency: cell.residency.clone(),
    })
}

/// The cell, and why: nothing where the caller named it.
fn choose_cell<'a>(
    fleet: &'a dyn FleetView,
    (new, kinds): (&NewTenant, Kinds),
    suggestion: Option<&Suggestion>,
) -> Result<(&'a CellRecord, String), Rejected> {
    if let Some(wanted) = &new.cell {
        let cell = known_cell(fleet, wanted)?;
        check_taking(Rule::CreateTenantTaking, cell)?;
        check_residency(Rule::CreateTenantResidency, &new.id, &new.residency, cell)?;
        kinds.check_tier(fleet, &new.id, new.tier, cell)?;
        return Ok((cell, String::new()));
    }
    let choice = Choice::new(fleet, kinds, new);
    // The planner looked some milliseconds ago: the cell may have been cordoned since.
    if let Some(suggestion) = suggestion
        && let Some(cell) = fleet.cell(&suggestion.cell).filter(|cell| choice.takes(cell))
    {
        return Ok((cell, suggestion.why.clone()));
    }
    let fewest = fleet
        .cells()
        .filter(|cell| choice.takes(cell))
        .min_by_key(|cell| (choice.load(cell), cell.id.clone()))
        .ok_or_else(|| choice.none_takes())?;
    Ok((fewest, "fewest tenants among the cells that take it".into()))
}

fn check_told(option: &str, told: &str, most: usize) -> Result<(), Rejected> {
    require(Rule::CreateTenantWhy, told.len() <= most, || invalid(option, format!("at most {most} bytes")))
}

fn create_tenant(
    fleet: &dyn FleetView,
    (new, kinds): (&NewTenant, Kinds),
    suggestion: Option<&Suggestion>,
    stamp: Stamp,
) -> Result<Vec<Change>, Rejected> {
    if let Some(Suggestion { why, explained, .. }) = suggestion {
        check_told("why", why, Suggestion::WHY_MAX)?;
        check_told("explained", explained, Suggestion::EXPLAINED_MAX)?;
    }
    let exists = fleet.tenant(&new.id).is_some_and(|record| record.life != Life::Deleted);
    require(Rule::CreateTenantExists, !exists, || Rejected::TenantExists { tenant: new.id.clone() })?;
    let (cell, placed) = choose_cell(fleet, (new, kinds), suggestion)?;
    let uid = Uid(stamp.revision.0);
    #[cfg(feature = "planted")]
    let uid = crate::planted::uid(fleet.tenant(&new.id).map(|before| before.uid), uid);
    Ok(vec![Change::Tenant(Arc::new(TenantRecord {
        id: new.id.clone(),
        uid,
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
    check_still(Rule::DeleteMoving, before)?;
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

fn check_still(rule: Rule, record: &TenantRecord) -> Result<(), Rejected> {
    let Some(movement) = &record.movement else { return Ok(()) };
    require(rule, false, || Rejected::MoveRunning { tenant: record.id.clone(), move_id: movement.id })
}

fn move_tenant(
    fleet: &dyn FleetView,
    (tenant, kinds): (&TenantId, Kinds),
    target: &CellId,
    options: &MoveOptions,
    stamp: Stamp,
) -> Result<Vec<Change>, Rejected> {
    let before = known(fleet, tenant)?;
    require(Rule::MoveLife, before.life == Life::Live, || Rejected::TenantNotLive { tenant: tenant.clone() })?;
    check_still(Rule::MoveRunning, before)?;
    let cell = known_cell(fleet, target)?;
    require(Rule::MoveSameCell, before.owner != *target, || Rejected::SameCell {
        tenant: tenant.clone(),
        cell: target.clone(),
    })?;
    check_taking(Rule::MoveTaking, cell)?;
    check_alive(Rule::MoveSource, known_cell(fleet, &before.owner)?)?;
    check_residency(Rule::MoveResidency, tenant, &before.residency, cell)?;
    let tiers = options.tier.filter(|tier| *tier != before.tier);
    kinds.check_tier(fleet, tenant, tiers.unwrap_or(before.tier), cell)?;
    let kept = before.retained_on(target).is_some_and(|copy| !copy.lets_go());
    require(Rule::MoveTail, !kept, || Rejected::TailQuarantined { tenant: tenant.clone(), cell: target.clone() })?;
    check_options(options)?;
    let limit = fleet.limits().moves_queued;
    let waiting = u32::try_from(fleet.moving_count()).unwrap_or(u32::MAX);
    require(Rule::MoveQueue, waiting < limit, || Rejected::MoveLimit { limit })?;

    let mut record = before.clone();
    let mut movement = new_move(&before.owner, &cell.id, options, stamp);
    movement.tiers = tiers.map(|target| TierChange { source: before.tier, target });
    movement.ungated =
        Ungated { source: known_cell(fleet, &before.owner)?.traits.ungated, target: cell.traits.ungated };
    record.movement = Some(Box::new(movement));
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
        reason: options.reason.as_str().into(),
        tiers: None,
        differences: Vec::new(),
        terminate_writers: options.terminate_writers,
        ended_writers: 0,
        ungated: Ungated::default(),
        exact: options.exact,
        ending: None,
        history: vec![PhaseStamp { phase: Phase::Preflight, attempt, at: stamp.at, revision: stamp.revision }],
    }
}

fn steer_move(
    fleet: &dyn FleetView,
    move_id: MoveId,
    steered: impl FnOnce(&TenantRecord) -> Result<Stepped, Rejected>,
) -> Result<Vec<Change>, Rejected> {
    let ended = fleet.ended_move(move_id).is_some();
    require(Rule::SteerEnded, !ended, || Rejected::MoveEnding { move_id })?;
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
            check_incarnation(Rule::AppliedIncarnation, known_cell(fleet, movement.to())?, *generation)?;
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
    require(Rule::AdmittedSlots, count(&|_| true) < limits.moves_total, || Rejected::NoSlot {
        cell: None,
        limit: limits.moves_total,
    })?;
    for cell in [&movement.source, &movement.target] {
        let of_cell = count(&|other| other.source == *cell || other.target == *cell);
        require(Rule::AdmittedCell, of_cell < limits.moves_per_cell, || Rejected::NoSlot {
            cell: Some(cell.clone()),
            limit: limits.moves_per_cell,
        })?;
    }
    Ok(())
}

/// What COMMIT asks of the fleet, beside the acknowledgements in the record.
fn check_commit(fleet: &dyn FleetView, record: &TenantRecord, movement: &Move) -> Result<(), Rejected> {
    let to = known_cell(fleet, movement.to())?;
    match movement.leg {
        Leg::Forward => {
            check_taking(Rule::CommitTaking, to)?;
            // Of a pooled cell it was looked at when the move was asked for, and neither tier nor kind changes meanwhile. What is declared
            // of its databases since then is a plan's to put right, not a gap in the service.
            if to.traits.kind == CellKind::Dedicated {
                let tier = movement.tier_on(&to.id).unwrap_or(record.tier);
                Kinds::Count.check_tier(fleet, &record.id, tier, to)?;
            }
        }
        // Going home is allowed under a cordon, not to the dead.
        Leg::Back => check_alive(Rule::CommitHome, to)?,
    }
    check_residency(Rule::CommitResidency, &record.id, &record.residency, to)?;
    if let Some(applied) = movement.acks.applied {
        check_incarnation(Rule::CommitAppliedIncarnation, to, applied.generation)?;
    }
    match (movement.leg, movement.acks.reverse) {
        (Leg::Forward, Some(reverse)) => check_incarnation(Rule::CommitReverseIncarnation, to, reverse.generation),
        (Leg::Forward | Leg::Back, _) => Ok(()),
    }
}

/// An acknowledgement counts only while the agent that gave it is the one that runs.
fn check_incarnation(rule: Rule, cell: &CellRecord, acknowledged: Generation) -> Result<(), Rejected> {
    require(rule, acknowledged == cell.generation, || Rejected::StaleGeneration {
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
        require(Rule::LimitsRange, (1..=100_000).contains(&value), || invalid(option, "between 1 and 100,000"))?;
    }
    if limits == fleet.limits() {
        return Ok(Vec::new());
    }
    Ok(vec![Change::Limits(limits)])
}
