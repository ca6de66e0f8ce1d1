//! What the trail tells of a command, and what it leaves out.

use std::fmt::{self, Write as _};

use crate::{
    AuditHash, AuditTrail, Capacity, CellTraits, Change, Command, Crowd, Declaration, Envelope, MoveIntent,
    NewCell, NewTenant, Phase, RoutersAck, Sight, StoreNote, Suggestion, TenantRecord, Tier,
};

/// A command as the trail tells of it.
pub(super) struct Noted {
    pub(super) action: &'static str,
    pub(super) subject: String,
    pub(super) detail: String,
    /// What is told in place of whether something was changed.
    pub(super) outcome: Option<String>,
}

impl Noted {
    fn new(action: &'static str, subject: String, detail: String) -> Self {
        Self { action, subject, detail, outcome: None }
    }

    /// What has happened to a tenant.
    fn of_event(
        subject: String,
        (event, move_id): (&crate::Event, Option<crate::MoveId>),
        (before, after): (&TenantRecord, &TenantRecord),
        ended: Option<&crate::MoveRecord>,
    ) -> Option<Self> {
        if let crate::Event::Quarantined { cell, tail: crate::Tail { changes, bytes, last, whole } } = event {
            let detail = format!("cell={cell} changes={changes} bytes={bytes} last={last} whole={whole}");
            return Some(Self::new("quarantine", subject, detail));
        }
        let turned = phase_change(before, after, (event.name(), move_id), ended);
        if let crate::Event::Differed(found) = event {
            // Noted also where the move stays in its phase: what was mended is part of what it stands on.
            let action = if turned.is_some() { "move-phase" } else { "move-differs" };
            let begins = turned.unwrap_or_else(|| {
                let name = move_id.map(|id| id.to_string()).unwrap_or_default();
                format!("event={} move={name}", event.name())
            });
            return Some(Self::new(action, subject, format!("{begins} {}", found.words())));
        }
        Some(Self::new("move-phase", subject, turned?))
    }

    /// None for what only keeps records up to date: a report that changes nothing, a step within a phase.
    pub(super) fn of(envelope: &Envelope, before: Option<&TenantRecord>, changes: &[Change]) -> Option<Self> {
        let after = changes.iter().find_map(|change| match change {
            Change::Tenant(record) => Some(record.as_ref()),
            Change::Cell(_) | Change::MoveEnded(_) | Change::Limits(_) | Change::Reconciled(_) => None,
        });
        let ended = changes.iter().find_map(|change| match change {
            Change::MoveEnded(ended) => Some(ended.as_ref()),
            Change::Tenant(_) | Change::Cell(_) | Change::Limits(_) | Change::Reconciled(_) => None,
        });
        let tenant = |id: &dyn fmt::Display| format!("tenant/{id}");
        let cell = |id: &dyn fmt::Display| format!("cell/{id}");
        let mover =
            |id: &dyn fmt::Display| before.map_or_else(|| format!("move/{id}"), |record| tenant(&record.id));
        Some(match &envelope.command {
            Command::CreateCell(new) => Self::new("create-cell", cell(&new.id), joined(new)),
            Command::DeclareCell { cell: id, declaration, .. } => {
                Self::new("declare-cell", cell(id), declared(declaration))
            }
            Command::SetCellState { cell: id, state } => {
                Self::new("set-cell-state", cell(id), format!("state={state:?}").to_lowercase())
            }
            Command::ReportCell { cell: id, generation, gates, agent, .. } => {
                if changes.is_empty() {
                    return None;
                }
                let gates = gates.join(",");
                Self::new("report-cell", cell(id), format!("generation={generation} agent={agent} gates={gates}"))
            }
            Command::CreateTenant(new) => {
                Self::new("create-tenant", tenant(&new.id), placed(new, None, (envelope, after)))
            }
            Command::PlaceTenant { tenant: new, suggestion } => {
                Self::new("create-tenant", tenant(&new.id), placed(new, Some(suggestion), (envelope, after)))
            }
            Command::UnplacedTenant { tenant: new, explained } => {
                Self::new("create-tenant", tenant(&new.id), unplaced(new, explained, (envelope, after)))
            }
            Command::SetTier { tenant: id, tier } => Self::new("set-tier", tenant(id), retiered(*tier, before)),
            Command::DeleteTenant { tenant: id } => Self::new("delete-tenant", tenant(id), String::new()),
            Command::MoveTenant { tenant: id, target, options } => {
                Self::new("move-tenant", tenant(id), asked(target, options, after))
            }
            Command::Steer { move_id, intent } => {
                // One that has made nothing yet ends at once; one in a hold or behind the fence turns round at once.
                let turned = before.zip(after).and_then(|(before, after)| {
                    phase_change(before, after, (&format!("{intent:?}"), Some(*move_id)), ended)
                });
                Self::new(steered(*intent), mover(move_id), turned.unwrap_or_else(|| format!("move={move_id}")))
            }
            Command::ThrottleMove { move_id, bytes_per_second } => {
                let detail = format!("move={move_id} bytes-per-second={bytes_per_second}");
                Self::new("throttle-move", mover(move_id), detail)
            }
            Command::Record { tenant: id, event, move_id, .. } => {
                Self::of_event(tenant(id), (event, *move_id), (before?, after?), ended)?
            }
            Command::SetLimits(limits) => Self::new("set-limits", "limits".into(), told_limits(*limits)),
            Command::TakeOver { tenant: id, order } => Self::new("take-over", tenant(id), taken_over(order, after)),
            Command::DropQuarantine { tenant: id, cell } => {
                Self::new("drop-quarantine", tenant(id), format!("cell={cell}"))
            }
            Command::Adopt { tenant: id, held } => Self::new("adopt", tenant(id), adopted(held, after)),
            Command::Reconciled { heard, without } => {
                let names =
                    |cells: &[crate::CellId]| cells.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                Self::new("reconcile", "store".into(), format!("heard={} without={}", names(heard), names(without)))
            }
            Command::RoutersSaw { tenant: id, move_id, revision, routers, crowd } => {
                let mut detail = format!("move={move_id} seen-revision={revision}");
                seen(&mut detail, crowd.as_ref(), routers);
                Self { outcome: Some(StoreNote::DONE.into()), ..Self::new("routers-saw", tenant(id), detail) }
            }
            Command::Noted(StoreNote { action, subject, detail, outcome }) => Self {
                outcome: Some(outcome.clone()),
                ..Self::new(action.as_str(), subject.clone(), detail.clone())
            },
        })
    }
}

fn joined(new: &NewCell) -> String {
    let NewCell { agent, region, residency, traits, .. } = new;
    let mut detail = format!("agent={agent} region={region} residency={residency}");
    if *traits != CellTraits::default() {
        detail.push_str(&declared(&whole(traits)));
    }
    detail
}

const fn steered(intent: MoveIntent) -> &'static str {
    match intent {
        MoveIntent::Pause => "pause-move",
        MoveIntent::Resume => "resume-move",
        MoveIntent::Cancel => "cancel-move",
        MoveIntent::Rollback => "rollback-move",
    }
}

/// The move that was asked for, and why.
fn asked(target: &crate::CellId, options: &crate::MoveOptions, after: Option<&TenantRecord>) -> String {
    let mut detail = format!("target={target}");
    if let Some(movement) = after.and_then(|record| record.movement.as_ref()) {
        let _ = write!(detail, " move={} source={}", movement.id, movement.source);
        for (ungated, cell) in [(movement.ungated.source, &movement.source), (movement.ungated.target, target)] {
            if ungated {
                let _ = write!(detail, " without-gate={cell}");
            }
        }
    }
    if let Some(tier) = options.tier {
        let _ = write!(detail, " tier={}", tier.as_str());
    }
    if !options.reason.is_empty() {
        let _ = write!(detail, " reason={:?}", options.reason);
    }
    detail
}

/// Where a tenant was put and why; what was suggested is told as it was, where that is what was done.
fn placed(
    new: &NewTenant,
    suggestion: Option<&Suggestion>,
    (envelope, after): (&Envelope, Option<&TenantRecord>),
) -> String {
    let owner = after.map(|record| &record.owner).or(new.cell.as_ref());
    let owner = owner.map(ToString::to_string).unwrap_or_default();
    let mut detail = format!("cell={owner} tier={} residency={}", new.tier.as_str(), new.residency);
    let Some(record) = after.filter(|record| envelope.layout >= 5 && !record.placed.is_empty()) else {
        return detail;
    };
    let _ = write!(detail, " why={:?}", record.placed);
    if let Some(suggestion) = suggestion.filter(|of| of.cell == record.owner && *of.why == *record.placed) {
        let _ = write!(detail, " explained={:?}", suggestion.explained);
    }
    detail
}

/// The same of a tenant for which the planner has found no cell. Where the store has, in the meantime, its own words count.
fn unplaced(new: &NewTenant, explained: &str, of: (&Envelope, Option<&TenantRecord>)) -> String {
    let mut detail = placed(new, None, of);
    if of.1.is_none() && !explained.is_empty() {
        let _ = write!(detail, " explained={explained:?}");
    }
    detail
}

/// Which tier it gets, and which it had.
fn retiered(tier: Tier, before: Option<&TenantRecord>) -> String {
    let had = before.map_or("", |record| record.tier.as_str());
    format!("tier={} before={had}", tier.as_str())
}

/// A new cell's traits as the declaration that they are.
fn whole(traits: &CellTraits) -> Declaration {
    let CellTraits { kind, domain, capacity, reserve, databases, ungated } = traits.clone();
    let (kind, capacity, reserve) = (Some(kind), Some(capacity), Some(reserve));
    // Cells have gates: only that one has none is told.
    let ungated = ungated.then_some(true);
    Declaration { kind, domain: Some(domain), capacity, reserve, databases, ungated, ..Declaration::default() }
}

fn declared(declaration: &Declaration) -> String {
    let Declaration { kind, domain, capacity, reserve, region, residency, databases, ungated, instances } =
        declaration;
    let mut detail = String::new();
    let mut tell = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = write!(detail, " {name}={value}");
        }
    };
    tell("kind", kind.map(|kind| kind.as_str().into()));
    tell("domain", domain.clone());
    tell(
        "capacity",
        capacity.map(|Capacity { cpu, connections, storage }| {
            format!("cpu:{cpu}m,connections:{connections}m,storage:{storage}m")
        }),
    );
    tell("reserve", reserve.map(|thousandths| format!("{thousandths}m")));
    tell("region", region.clone());
    tell("residency", residency.clone());
    tell("databases", databases.map(|databases| databases.as_str().into()));
    tell("without-gate", ungated.map(|ungated| ungated.to_string()));
    tell("gates", instances.as_ref().map(|instances| instances.join(",")));
    detail
}

/// How routers stood to it; in layout 4 those that were named and no counts.
fn seen(detail: &mut String, crowd: Option<&Crowd>, routers: &[(String, Sight)]) {
    match crowd {
        Some(crowd) => crowded(detail, crowd, routers),
        None => {
            for (router, sight) in routers {
                let _ = write!(detail, " {router}={}", sight.as_str());
            }
        }
    }
}

/// Counts and digest of all; by name those that had not seen it, and then the others, as many as there is room for.
fn crowded(detail: &mut String, crowd: &Crowd, routers: &[(String, Sight)]) {
    /// For how many there are that were not named.
    const LEFT_BYTES: usize = 32;
    let Crowd { seen, fenced, waiting, digest } = crowd;
    let _ = write!(detail, " seen={seen} fenced={fenced} waiting={waiting} digest={}", AuditHash(*digest));
    let all = u64::from(*seen) + u64::from(*fenced) + u64::from(*waiting);
    let mut named = 0;
    let (unseen, others): (Vec<_>, Vec<_>) = routers.iter().partition(|(_, sight)| *sight != Sight::Seen);
    for (router, sight) in unseen.into_iter().chain(others) {
        let one = format!(" {router}={}", sight.as_str());
        if detail.len() + one.len() + LEFT_BYTES > AuditTrail::SHORT_BYTES_MAX {
            break;
        }
        detail.push_str(&one);
        named += 1;
    }
    if named < all {
        let _ = write!(detail, " unnamed={}", all - named);
    }
}

fn told_limits(limits: crate::Limits) -> String {
    let crate::Limits { moves_total, moves_per_cell, moves_queued } = limits;
    format!("moves-total={moves_total} moves-per-cell={moves_per_cell} moves-queued={moves_queued}")
}

/// Who has the tenant now, up to where, and what the operator knew: his words as one word, since they may hold anything.
fn taken_over(order: &crate::TakeoverOrder, after: Option<&TenantRecord>) -> String {
    let (target, copy) = (&order.target, &order.copy);
    let mut detail = format!(
        "target={target} applied={} heard={} accept-data-loss={}",
        copy.applied, copy.heard, order.accept_data_loss
    );
    if let Some(after) = after
        && let Some(movement) = &after.movement
        && let Some(takeover) = &movement.takeover
    {
        let _ = write!(
            detail,
            " event=TakeOver owner={} epoch={} move={} phase={} attempt={} from={} in={} lossless={}",
            after.owner,
            after.epoch,
            movement.id,
            movement.phase,
            movement.attempt,
            takeover.from,
            takeover.phase,
            takeover.lossless
        );
    }
    let words: String = order.evidence.chars().map(|c| if c.is_whitespace() { '_' } else { c }).collect();
    let _ = write!(detail, " stopped={words}");
    detail
}

/// What cells have said, and what has come of it.
fn adopted(held: &[crate::Held], after: Option<&TenantRecord>) -> String {
    let mut detail = String::from("held=");
    for (number, held) in held.iter().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        let _ = write!(detail, "{comma}{}:{}@{}", held.cell, held.role.as_str(), held.epoch);
    }
    if let Some(after) = after {
        let _ = write!(detail, " owner={} uid={} epoch={}", after.owner, after.uid, after.epoch);
    }
    detail
}

/// What a step of a move has changed for others than the mover; none where it has not.
fn phase_change(
    before: &TenantRecord,
    after: &TenantRecord,
    (event, move_id): (&str, Option<crate::MoveId>),
    ended: Option<&crate::MoveRecord>,
) -> Option<String> {
    let phase = |record: &TenantRecord| record.movement.as_ref().map(|movement| movement.phase);
    let same = (before.epoch, &before.owner, before.life, phase(before))
        == (after.epoch, &after.owner, after.life, phase(after));
    if same {
        return None;
    }
    let mut detail = format!("event={event} owner={} epoch={}", after.owner, after.epoch);
    if before.tier != after.tier {
        let _ = write!(detail, " tier={}", after.tier.as_str());
    }
    if let Some(move_id) = move_id {
        let _ = write!(detail, " move={move_id}");
    }
    if let Some(phase) = phase(after) {
        let _ = write!(detail, " phase={phase}");
    }
    if let Some(ended) = ended {
        let _ = write!(detail, " end={}", ended.end.as_str());
    }
    if let Some(movement) = ended.map(|ended| &ended.movement).or(after.movement.as_deref()) {
        evidence(&mut detail, movement);
    }
    Some(detail)
}

/// What a move stands on at this point: it is in the chain, so a proof can be checked against it.
fn evidence(detail: &mut String, movement: &crate::Move) {
    let acks = &movement.acks;
    let _ = write!(detail, " attempt={}", movement.attempt);
    match movement.phase {
        Phase::Prepare => {
            if let Some(weight) = movement.weight {
                let _ = write!(detail, " rows={} bytes={}", weight.rows, weight.bytes);
            }
        }
        Phase::Sync => {
            if let Some(full) = acks.verified_full {
                let _ = write!(detail, " verified={} digest={}", full.seq, full.digest);
            }
        }
        Phase::Fenced | Phase::Activate | Phase::Unfence => {
            for (name, seq) in [
                ("sealed", acks.sealed.map(|ack| ack.seq)),
                ("applied", acks.applied.map(|ack| ack.seq)),
                ("fenced", acks.fenced.map(|ack| ack.seq)),
            ] {
                if let Some(seq) = seq {
                    let _ = write!(detail, " {name}={seq}");
                }
            }
            if let Some(verified) = acks.verified {
                let _ = write!(detail, " digest={}", verified.digest);
            }
            if let Some(RoutersAck { seen, fenced, .. }) = acks.routers {
                let _ = write!(detail, " routers-held={seen} routers-fenced={fenced}");
            }
        }
        Phase::Soak => {
            if let Some(rejected) = movement.stale_rejected {
                let _ = write!(detail, " stale-rejected={rejected}");
            }
        }
        Phase::Preflight | Phase::Backfill | Phase::CatchUp | Phase::Verify | Phase::Hold | Phase::Cleanup => {}
    }
    if movement.ended_writers > 0 {
        let _ = write!(detail, " ended-writers={}", movement.ended_writers);
    }
}
