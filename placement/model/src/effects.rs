//! What must be done in the world for a record to go on. Recomputed from the record each time, never remembered.
//!
//! Two equal effects are the same work: the coordinator runs each once at a time. Every effect is idempotent, so that
//! a new leader may run it again without knowing whether the old one did.

use crate::{
    Attempt, CellId, Epoch, Intent, Leg, Life, Move, MoveId, Phase, Seq, SyncMode, TenantRecord, UnixMillis,
};

/// One thing to be done. The record's tenant, uid, epoch, move, leg and attempt go along with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Let `cell` own a new tenant. → [`crate::Event::Granted`]
    Grant {
        /// Where.
        cell: CellId,
        /// At.
        epoch: Epoch,
    },
    /// Let `cell` refuse and delete a deleted tenant. → [`crate::Event::Revoked`]
    Revoke {
        /// Where.
        cell: CellId,
    },
    /// Ask for a slot among the running moves. → [`crate::Event::Admitted`]
    Admit,
    /// Look at both cells. → [`crate::Event::PreflightPassed`] or [`crate::Event::PreflightFailed`]
    Preflight,
    /// → [`crate::Event::CaptureStarted`]
    StartCapture,
    /// → [`crate::Event::ImportPrepared`]
    PrepareImport,
    /// Wait until the frontier has reached the end. → [`crate::Event::BackfillDone`]
    AwaitBackfill {
        /// The most that it may read in a second; 0: as fast as it goes.
        bytes_per_second: u64,
    },
    /// Wait until the target is close behind. → [`crate::Event::CaughtUp`]
    AwaitCaughtUp,
    /// Compare full digests at a consistent cut. → [`crate::Event::FullyVerified`] or [`crate::Event::Mismatched`]
    VerifyFull,
    /// → [`crate::Event::SyncEngaged`]
    EngageSync,
    /// Tell the source that the degradation is committed. → [`crate::Event::SyncDisengaged`]
    DisengageSync,
    /// Watch whether the source asks to degrade. → [`crate::Event::SyncDegraded`]
    WatchSync {
        /// In this attempt.
        attempt: Attempt,
    },
    /// → [`crate::Event::ReverseReady`]
    PrepareReverse,
    /// Wait for a time, then → [`crate::Event::HoldDue`]
    AwaitHold {
        /// Not before.
        at: UnixMillis,
    },
    /// Before a rollback's hold: wait until the follower is close behind. → [`crate::Event::HoldDue`]
    AwaitFollower {
        /// Not before.
        at: UnixMillis,
    },
    /// Hold, seal, wait for the other cell, compare. → [`crate::Event::Sealed`], [`crate::Event::Applied`],
    /// [`crate::Event::Verified`], or [`crate::Event::HoldMissed`]
    Hold {
        /// This attempt.
        attempt: Attempt,
        /// Within this time.
        budget_ms: u32,
        /// Already sealed here.
        sealed: Option<Seq>,
    },
    /// → [`crate::Event::Fenced`] and [`crate::Event::Commit`], or [`crate::Event::Abort`]
    Fence {
        /// This attempt.
        attempt: Attempt,
        /// At S*.
        seq: Seq,
    },
    /// → [`crate::Event::Commit`], or [`crate::Event::Abort`]
    Commit {
        /// This attempt.
        attempt: Attempt,
    },
    /// Own by force, from what the cell holds. → [`crate::Event::TakenOver`]
    TakeOver {
        /// At.
        epoch: Epoch,
    },
    /// Tell a cell that was taken over, whenever it is reached, and let it put aside what nobody else has.
    /// → [`crate::Event::Quarantined`]
    Quarantine {
        /// Where.
        cell: CellId,
        /// The move in which it was taken over.
        move_id: MoveId,
        /// It owned at this epoch at the most.
        fenced_epoch: Epoch,
        /// The new owner holds its changes up to here.
        after: Seq,
    },
    /// → [`crate::Event::Activated`]
    Activate {
        /// At.
        epoch: Epoch,
    },
    /// Give the fenced cell the signed mapping. → [`crate::Event::MappingDelivered`]
    DeliverMapping {
        /// The fenced cell.
        cell: CellId,
    },
    /// Wait for a time, then → [`crate::Event::SoakPassed`]
    AwaitSoak {
        /// Not before.
        at: UnixMillis,
    },
    /// → [`crate::Event::Unfenced`]
    Unfence {
        /// At.
        epoch: Epoch,
        /// This attempt.
        attempt: Attempt,
    },
    /// → [`crate::Event::ImportDropped`]
    DropImport {
        /// Where.
        cell: CellId,
    },
    /// → [`crate::Event::CaptureStopped`]
    StopCapture {
        /// Where.
        cell: CellId,
    },
    /// Turn an old copy into a tombstone, and stop the capture for it. → [`crate::Event::Retired`]
    Retire {
        /// Where.
        cell: CellId,
        /// Where the tenant went.
        successor: CellId,
        /// The move that left the copy.
        move_id: MoveId,
    },
    /// Wait for a time, then → [`crate::Event::RetentionOver`]
    AwaitRetention {
        /// Where.
        cell: CellId,
        /// Not before.
        at: UnixMillis,
    },
    /// → [`crate::Event::Reclaimed`]
    Reclaim {
        /// Where.
        cell: CellId,
        /// Only if that cell was fenced at this epoch.
        fenced_epoch: Epoch,
        /// The move that left the copy.
        move_id: MoveId,
    },
}

/// Everything that can be done for `record` now.
#[must_use]
pub fn pending_effects(record: &TenantRecord) -> Vec<Effect> {
    match record.life {
        Life::Provisioning => vec![Effect::Grant { cell: record.owner.clone(), epoch: record.epoch }],
        Life::Deleting { owner_revoked } => {
            let owner = (!owner_revoked).then(|| Effect::Revoke { cell: record.owner.clone() });
            let copies = record.retained.iter().map(|retained| Effect::Revoke { cell: retained.cell.clone() });
            owner.into_iter().chain(copies).collect()
        }
        Life::Deleted => Vec::new(),
        Life::Live => {
            let mut effects = retained_effects(record);
            if let Some(movement) = &record.movement {
                effects.extend(move_effects(record, movement));
            }
            effects
        }
    }
}

fn retained_effects(record: &TenantRecord) -> Vec<Effect> {
    let wanted_target = record.movement.as_ref().map(|movement| &movement.target);
    let effect_of = |retained: &crate::Retained| {
        let cell = retained.cell.clone();
        if let (false, Some(quarantine)) = (retained.retired, &retained.quarantine) {
            let (move_id, fenced_epoch) = (retained.move_id, retained.fenced_epoch);
            Effect::Quarantine { cell, move_id, fenced_epoch, after: quarantine.after }
        } else if !retained.retired {
            Effect::Retire { cell, successor: retained.successor.clone(), move_id: retained.move_id }
        } else if retained.reclaiming {
            Effect::Reclaim { cell, fenced_epoch: retained.fenced_epoch, move_id: retained.move_id }
        } else {
            let at = if wanted_target == Some(&retained.cell) { UnixMillis(0) } else { retained.until };
            Effect::AwaitRetention { cell, at }
        }
    };
    let waits_for_an_operator = |retained: &&crate::Retained| retained.retired && !retained.lets_go();
    record.retained.iter().filter(|retained| !waits_for_an_operator(retained)).map(effect_of).collect()
}

fn move_effects(record: &TenantRecord, movement: &Move) -> Vec<Effect> {
    let acks = &movement.acks;
    let paused = movement.intent == Intent::Pause;
    let attempt = movement.attempt;
    match movement.phase {
        Phase::Preflight | Phase::Prepare | Phase::Backfill | Phase::Verify if paused => Vec::new(),
        Phase::Preflight if !movement.admitted => {
            let ready = record.retained.iter().all(|copy| !copy.may_follow() && copy.cell != movement.target);
            if ready { vec![Effect::Admit] } else { Vec::new() }
        }
        Phase::Preflight => vec![Effect::Preflight],
        // The source must capture before the target asks for its first chunk.
        Phase::Prepare if acks.capture.is_none() => vec![Effect::StartCapture],
        Phase::Prepare => vec![Effect::PrepareImport],
        Phase::Backfill => vec![Effect::AwaitBackfill { bytes_per_second: movement.bytes_per_second }],
        Phase::CatchUp => match acks.sync {
            SyncMode::Degrading | SyncMode::Engaged { .. } => vec![Effect::DisengageSync],
            SyncMode::Async if paused => Vec::new(),
            SyncMode::Async => vec![Effect::AwaitCaughtUp],
        },
        Phase::Verify => vec![Effect::VerifyFull],
        Phase::Sync => sync_effects(movement, paused),
        Phase::Hold => vec![Effect::Hold {
            attempt,
            budget_ms: movement.hold_max_ms,
            sealed: acks.sealed.map(|sealed| sealed.seq),
        }],
        Phase::Fenced => match (acks.sealed, acks.fenced) {
            (Some(sealed), None) => vec![Effect::Fence { attempt, seq: sealed.seq }],
            (_, Some(_)) => vec![Effect::Commit { attempt }],
            (None, None) => Vec::new(),
        },
        // The old owner is told when it is reached, after the move.
        Phase::Activate if movement.takeover.is_some() => vec![Effect::TakeOver { epoch: record.epoch }],
        Phase::Activate => {
            // The owner first: its answer is what requests wait for.
            let mut effects = vec![Effect::Activate { epoch: record.epoch }];
            effects.extend(mapping_delivery(movement));
            effects
        }
        Phase::Soak => soak_effects(movement, paused),
        Phase::Unfence => vec![Effect::Unfence { epoch: record.epoch, attempt }],
        Phase::Cleanup => {
            let mut effects = Vec::new();
            // After a rollback the copy that is dropped must redirect first.
            if movement.leg == Leg::Back && !acks.mapping_delivered {
                return mapping_delivery(movement).into_iter().collect();
            }
            if !acks.import_dropped {
                effects.push(Effect::DropImport { cell: movement.target.clone() });
            }
            if !acks.capture_stopped {
                effects.push(Effect::StopCapture { cell: movement.source.clone() });
            }
            effects
        }
    }
}

fn sync_effects(movement: &Move, paused: bool) -> Vec<Effect> {
    let acks = &movement.acks;
    let SyncMode::Engaged { since } = acks.sync else {
        return if paused { Vec::new() } else { vec![Effect::EngageSync] };
    };
    // Also while paused: the source must never wait for a decision that nobody takes.
    let mut effects = vec![Effect::WatchSync { attempt: movement.attempt }];
    if paused {
        return effects;
    }
    if acks.reverse.is_none() {
        effects.push(Effect::PrepareReverse);
    } else {
        let steady = UnixMillis(since.0 + u64::from(movement.sync_steady_ms));
        effects.push(Effect::AwaitHold { at: steady.max(movement.not_before) });
    }
    effects
}

fn soak_effects(movement: &Move, paused: bool) -> Vec<Effect> {
    let mut effects: Vec<Effect> = mapping_delivery(movement).into_iter().collect();
    match movement.intent {
        // The way back needs a follower, which the delivery makes.
        Intent::Rollback if movement.acks.mapping_delivered => {
            effects.push(Effect::AwaitFollower { at: movement.not_before });
        }
        Intent::Run if !paused => {
            effects
                .push(Effect::AwaitSoak { at: UnixMillis(movement.soak_since().0 + u64::from(movement.soak_ms)) });
        }
        Intent::Run | Intent::Rollback | Intent::Pause | Intent::Cancel => {}
    }
    effects
}

fn mapping_delivery(movement: &Move) -> Option<Effect> {
    (!movement.acks.mapping_delivered).then(|| Effect::DeliverMapping { cell: movement.from().clone() })
}
