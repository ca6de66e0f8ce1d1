//! What store and cells say of a tenant, as the invariants look at it.

use cell_client::wire;
use cell_model::invariants::{CellSight, Role};
use cell_model::{
    Acks, Attempt, CellId, Digest, Epoch, Intent, Leg, Life, Lineage, Move, MoveId, Phase, Rev, Revision,
    SealedAck, Seq, TenantId, TenantRecord, Term, Tier, Uid, Ungated, UnixMillis,
};

/// What a cell says of a tenant.
pub(super) struct View {
    pub(super) sight: CellSight,
    /// Of its agent.
    pub(super) generation: u64,
    /// The hold that stands.
    pub(super) hold: Option<u64>,
}

/// The record of a tenant that lives, as far as it is told and looked at.
pub(super) fn record(tenant: &wire::Tenant) -> Option<TenantRecord> {
    let mapping = tenant.mapping.as_ref().filter(|_| tenant.life == "live")?;
    // After a takeover by force the cells go ways of their own until one is told: the move says nothing of them.
    let movement = tenant.r#move.as_ref().filter(|movement| movement.takeover.is_none());
    Some(TenantRecord {
        id: TenantId::new(&mapping.tenant).ok()?,
        uid: Uid(mapping.uid),
        lineage: Lineage(mapping.lineage),
        epoch: Epoch(mapping.epoch),
        rev: Rev(mapping.rev),
        revision: Revision(mapping.revision),
        owner: CellId::new(&mapping.owner).ok()?,
        life: Life::Live,
        tier: Tier::default(),
        residency: "".into(),
        movement: movement.and_then(self::movement).map(Box::new),
        retained: Vec::new(),
        placed: "".into(),
    })
}

fn movement(told: &wire::Move) -> Option<Move> {
    let attempt = Attempt(told.attempt);
    // 0 is also what is told where nothing is sealed.
    let sealed = (told.sealed_seq > 0).then_some(SealedAck { attempt, seq: Seq(told.sealed_seq) });
    Some(Move {
        id: told.id.parse::<MoveId>().ok()?,
        source: CellId::new(&told.source).ok()?,
        target: CellId::new(&told.target).ok()?,
        leg: Leg::try_from(wire::Leg::try_from(told.leg).ok()?).ok()?,
        phase: Phase::try_from(wire::Phase::try_from(told.phase).ok()?).ok()?,
        attempt,
        intent: Intent::Run,
        until: None,
        rehearse: told.rehearse,
        bytes_per_second: told.bytes_per_second,
        weight: None,
        admitted: told.admitted,
        hold_max_ms: told.hold_max_ms,
        sync_steady_ms: told.sync_steady_ms,
        soak_ms: told.soak_ms,
        retain_ms: told.retain_ms,
        retries_left: told.retries_left,
        not_before: UnixMillis(0),
        acks: Acks { sealed, ..Acks::default() },
        fenced_epoch: None,
        stale_rejected: None,
        takeover: None,
        reason: told.reason.as_str().into(),
        tiers: None,
        differences: Vec::new(),
        terminate_writers: told.terminate_writers,
        ended_writers: told.ended_writers,
        ungated: Ungated { source: told.source_ungated, target: told.target_ungated },
        exact: told.exact,
        ending: None,
        history: Vec::new(),
    })
}

/// Whether this cell was taken over by force and has not been told, or had not when the record was read.
pub(super) fn is_to_be_told(tenant: &wire::Tenant, cell: &CellId) -> bool {
    let owner = tenant.mapping.as_ref().map_or("", |mapping| mapping.owner.as_str());
    let taken_over = tenant.r#move.as_ref().is_some_and(|movement| movement.takeover.is_some());
    let quarantined = |copy: &wire::Retained| copy.quarantine.is_some() && copy.cell == cell.as_str();
    (taken_over && owner != cell.as_str()) || tenant.retained.iter().any(quarantined)
}

/// What a cell says of a tenant; nothing where it knows nothing of it.
pub(super) fn view(record: &TenantRecord, cell: &CellId, said: &wire::DescribeResponse) -> Option<View> {
    let grant = said.grants.iter().find(|grant| grant.tenant == record.id.as_str())?;
    let storage = said.storage.iter().find(|storage| storage.tenant == record.id.as_str())?;
    let role = role(grant.role())?;
    let follows = storage.applied_seq > 0;
    let complete = match role {
        Role::Owner | Role::Holding | Role::Fenced => storage.has_copy,
        // Before that nobody has compared: an import may have its last change and lack rows.
        Role::Importing => record.movement.as_ref().is_some_and(|movement| {
            let phases = [Phase::Sync, Phase::Hold, Phase::Fenced, Phase::Activate];
            movement.leg == Leg::Forward && phases.contains(&movement.phase)
        }),
        Role::Redirect => follows && storage.has_copy,
        Role::None => false,
    };
    let digest = storage.digest.clone().and_then(|digest| Digest::try_from(digest).ok());
    let works_for = (role == Role::Importing || follows).then_some(MoveId(storage.move_id));
    Some(View {
        generation: said.generation,
        hold: (role == Role::Holding).then_some(grant.hold_id),
        sight: CellSight {
            cell: cell.clone(),
            uid: Uid(grant.uid),
            epoch: Epoch(grant.epoch),
            role,
            last_seq: Seq(storage.last_seq),
            complete,
            digest: digest.filter(|_| complete),
            held_ms: None,
            works_for,
            // What is left of ended moves is counted where that is the question, and for longer than a drill lasts.
            orphaned_ms: None,
            // No cell says whom it has obeyed.
            obeyed: (Lineage::default(), Term::default()),
        },
    })
}

const fn role(role: wire::Role) -> Option<Role> {
    Some(match role {
        wire::Role::Owner => Role::Owner,
        wire::Role::Holding => Role::Holding,
        wire::Role::Importing => Role::Importing,
        wire::Role::Fenced => Role::Fenced,
        wire::Role::Redirect => Role::Redirect,
        wire::Role::Deleted | wire::Role::None | wire::Role::Unspecified => return None,
    })
}
