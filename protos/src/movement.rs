//! Tenants and their moves, as clients see them. One direction only: no client hands a move in.

use cell_model::{
    Difference, End, Life, Move, MoveRecord, PhaseStamp, Quarantine, Retained, Seq, Tail, Takeover, TenantRecord,
    TierChange,
};

use crate::v1;

impl From<&PhaseStamp> for v1::PhaseStamp {
    fn from(stamp: &PhaseStamp) -> Self {
        Self {
            phase: v1::Phase::from(stamp.phase).into(),
            attempt: stamp.attempt.get(),
            at_unix_ms: stamp.at.get(),
            revision: stamp.revision.get(),
        }
    }
}

impl From<&Retained> for v1::Retained {
    fn from(retained: &Retained) -> Self {
        Self {
            cell: retained.cell.to_string(),
            move_id: retained.move_id.to_string(),
            fenced_epoch: retained.fenced_epoch.get(),
            until_unix_ms: retained.until.get(),
            retired: retained.retired,
            reclaiming: retained.reclaiming,
            quarantine: retained.quarantine.as_ref().map(v1::Quarantine::from),
        }
    }
}

impl From<Tail> for v1::Tail {
    fn from(tail: Tail) -> Self {
        Self { changes: tail.changes, bytes: tail.bytes, last_seq: tail.last.get(), whole: tail.whole }
    }
}

impl From<v1::Tail> for Tail {
    fn from(wire: v1::Tail) -> Self {
        Self { changes: wire.changes, bytes: wire.bytes, last: Seq(wire.last_seq), whole: wire.whole }
    }
}

impl From<&Quarantine> for v1::Quarantine {
    fn from(quarantine: &Quarantine) -> Self {
        Self {
            after_seq: quarantine.after.get(),
            tail: quarantine.tail.map(v1::Tail::from),
            dropped: quarantine.dropped,
        }
    }
}

impl From<&Takeover> for v1::Takeover {
    fn from(takeover: &Takeover) -> Self {
        Self {
            evidence: takeover.evidence.clone(),
            from: takeover.from.to_string(),
            phase: v1::Phase::from(takeover.phase).into(),
            lossless: takeover.lossless,
            applied_seq: takeover.applied.get(),
            heard_seq: takeover.heard.get(),
        }
    }
}

impl From<&Difference> for v1::Difference {
    fn from(found: &Difference) -> Self {
        let row = |row: &cell_model::DifferingRow| v1::DifferingRow {
            table: row.table.clone(),
            key: row.key.clone(),
            differing: row.differing.as_str().to_owned(),
        };
        Self {
            phase: v1::Phase::from(found.phase).into(),
            seq: found.seq.get(),
            owner: found.owner.to_string(),
            copy: found.copy.to_string(),
            missing: found.missing,
            extra: found.extra,
            changed: found.changed,
            more: found.more,
            rows: found.rows.iter().map(row).collect(),
        }
    }
}

impl From<TierChange> for v1::TierChange {
    fn from(change: TierChange) -> Self {
        Self { source: v1::Tier::from(change.source).into(), target: v1::Tier::from(change.target).into() }
    }
}

/// What a move alone says, without its tenant.
fn of_move(movement: &Move) -> v1::Move {
    let acks = &movement.acks;
    let digest = acks.verified.or(acks.verified_full).map(|ack| ack.digest.to_string());
    v1::Move {
        id: movement.id.to_string(),
        source: movement.source.to_string(),
        target: movement.target.to_string(),
        leg: v1::Leg::from(movement.leg).into(),
        phase: v1::Phase::from(movement.phase).into(),
        attempt: movement.attempt.get(),
        intent: v1::Intent::from(movement.intent).into(),
        until: movement.until.map_or(v1::Phase::Unspecified, v1::Phase::from).into(),
        admitted: movement.admitted,
        rehearse: movement.rehearse,
        bytes_per_second: movement.bytes_per_second,
        weight: movement.weight.map(|weight| v1::Weight { rows: weight.rows, bytes: weight.bytes }),
        stale_rejected: movement.stale_rejected,
        in_sync: acks.in_sync.is_some(),
        takeover: movement.takeover.as_ref().map(v1::Takeover::from),
        reason: movement.reason.to_string(),
        tiers: movement.tiers.map(v1::TierChange::from),
        differences: movement.differences.iter().map(v1::Difference::from).collect(),
        terminate_writers: movement.terminate_writers,
        ended_writers: movement.ended_writers,
        source_ungated: movement.ungated.source,
        target_ungated: movement.ungated.target,
        routers_held: acks.routers.map(|held| v1::RoutersHeld { seen: held.seen, fenced: held.fenced }),
        exact: movement.exact,
        hold_max_ms: movement.hold_max_ms,
        sync_steady_ms: movement.sync_steady_ms,
        soak_ms: movement.soak_ms,
        retain_ms: movement.retain_ms,
        retries_left: movement.retries_left,
        history: movement.history.iter().map(v1::PhaseStamp::from).collect(),
        digest: digest.unwrap_or_default(),
        sealed_seq: acks.sealed.map(|ack| ack.seq.get()).unwrap_or_default(),
        ..v1::Move::default()
    }
}

fn with_end(wire: v1::Move, end: &End) -> v1::Move {
    let (code, reason) = match end {
        End::Aborted { code, reason } => (code.clone(), reason.clone()),
        End::Completed | End::Cancelled | End::RolledBack | End::Rehearsed | End::TakenOver => {
            (String::new(), String::new())
        }
    };
    v1::Move { end: end.as_str().to_owned(), end_code: code, end_reason: reason, ..wire }
}

impl v1::Move {
    /// The move that a tenant is under.
    #[must_use]
    pub fn running(record: &TenantRecord) -> Option<Self> {
        let movement = record.movement.as_ref()?;
        Some(Self {
            tenant: record.id.to_string(),
            uid: record.uid.get(),
            epoch: record.epoch.get(),
            revision: record.revision.get(),
            ..of_move(movement)
        })
    }

    /// Whether it has ended.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        !self.end.is_empty()
    }
}

impl From<&MoveRecord> for v1::Move {
    fn from(record: &MoveRecord) -> Self {
        let wire = Self {
            tenant: record.tenant.to_string(),
            uid: record.uid.get(),
            epoch: record.epoch.get(),
            ended_unix_ms: record.ended.get(),
            revision: record.revision.get(),
            ..of_move(&record.movement)
        };
        with_end(wire, &record.end)
    }
}

impl From<&TenantRecord> for v1::Tenant {
    fn from(record: &TenantRecord) -> Self {
        let life = match record.life {
            Life::Provisioning => "provisioning",
            Life::Live => "live",
            Life::Deleting { .. } => "deleting",
            Life::Deleted => "deleted",
        };
        Self {
            mapping: Some((&record.mapping()).into()),
            residency: record.residency.to_string(),
            r#move: v1::Move::running(record),
            retained: record.retained.iter().map(v1::Retained::from).collect(),
            life: life.to_owned(),
            placed: record.placed.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
