//! Preflight to Sync: the copy is made and kept up to date. Nothing here changes who owns the tenant.

use super::{Turn, advance, enter, forget_hold, require, require_attempt, require_phase, turn_to_cleanup};
use crate::{
    Difference, End, Event, InSyncAck, Intent, Leg, Move, Phase, Rejected, ReverseAck, Rule, Stamp, SyncMode,
    TenantRecord, VerifiedAck,
};

/// The phases of the copy that can be given up by going to Cleanup.
pub(super) const COPYING: [Phase; 5] =
    [Phase::Prepare, Phase::Backfill, Phase::CatchUp, Phase::Verify, Phase::Sync];

pub(super) fn take(
    record: &mut TenantRecord,
    movement: &mut Move,
    event: &Event,
    stamp: Stamp,
) -> Result<Turn, Rejected> {
    match event {
        Event::Admitted => admitted(record, movement, event)?,
        Event::PreflightPassed => {
            require_phase(Rule::PreflightPassedPhase, movement, event, &[Phase::Preflight])?;
            require(Rule::PreflightPassedAdmitted, movement.admitted, || Rejected::MissingAck {
                ack: "Admitted".into(),
            })?;
            advance(movement, Phase::Prepare, stamp);
        }
        Event::PreflightFailed { code, reason } => {
            require_phase(Rule::PreflightFailedPhase, movement, event, &[Phase::Preflight])?;
            return Ok(Turn::Ends(End::Aborted { code: code.clone(), reason: reason.clone() }));
        }
        Event::Weighed(weight) => {
            require_phase(Rule::WeighedPhase, movement, event, &[Phase::Preflight])?;
            movement.weight = Some(*weight);
        }
        Event::CaptureStarted { position } => {
            require_phase(Rule::CaptureStartedPhase, movement, event, &[Phase::Prepare])?;
            movement.acks.capture.get_or_insert(*position);
        }
        Event::ImportPrepared { generation } => {
            require_phase(Rule::ImportPreparedPhase, movement, event, &[Phase::Prepare])?;
            // The first chunk is only exact if the source was capturing before it was read.
            require(Rule::ImportPreparedCapture, movement.acks.capture.is_some(), || Rejected::MissingAck {
                ack: "CaptureStarted".into(),
            })?;
            movement.acks.import = Some(*generation);
            advance(movement, Phase::Backfill, stamp);
        }
        Event::BackfillDone { applied } => {
            require_phase(Rule::BackfillDonePhase, movement, event, &[Phase::Backfill])?;
            movement.acks.backfilled = Some(*applied);
            advance(movement, Phase::CatchUp, stamp);
        }
        Event::CaughtUp { .. } => caught_up(movement, event, stamp)?,
        Event::FullyVerified { seq, digest } => {
            require_phase(Rule::FullyVerifiedPhase, movement, event, &[Phase::Verify])?;
            let attempt = movement.attempt;
            movement.acks.verified_full = Some(VerifiedAck { attempt, seq: *seq, digest: *digest });
            advance(movement, Phase::Sync, stamp);
        }
        Event::Mismatched { reason } => {
            require_phase(
                Rule::MismatchedPhase,
                movement,
                event,
                &[Phase::CatchUp, Phase::Verify, Phase::Sync, Phase::Hold],
            )?;
            // On the way back there is no copy to give up: the owner keeps the tenant and the hold is missed.
            require(Rule::MismatchedLeg, movement.leg == Leg::Forward, || Rejected::WrongPhase {
                event: event.name().into(),
                phase: Some(movement.phase),
            })?;
            give_up(movement, "DIGEST_MISMATCH", reason, stamp);
        }
        Event::Differed(difference) => differed(movement, event, difference, stamp)?,
        Event::GaveUp { code, reason } => {
            require_phase(Rule::GaveUpPhase, movement, event, &COPYING)?;
            give_up(movement, code, reason, stamp);
        }
        _ => synchronous(movement, event, stamp)?,
    }
    Ok(Turn::Goes)
}

fn admitted(record: &TenantRecord, movement: &mut Move, event: &Event) -> Result<(), Rejected> {
    require_phase(Rule::AdmittedPhase, movement, event, &[Phase::Preflight])?;
    // An old copy that still follows would be captured for twice; one on the target would be mixed with the new one.
    let in_the_way = record.retained.iter().find(|copy| copy.may_follow() || copy.cell == movement.target);
    if let Some(copy) = in_the_way {
        require(Rule::AdmittedCopy, false, || Rejected::CopyRetained {
            tenant: record.id.clone(),
            cell: copy.cell.clone(),
        })?;
    }
    movement.admitted = true;
    Ok(())
}

fn caught_up(movement: &mut Move, event: &Event, stamp: Stamp) -> Result<(), Rejected> {
    require_phase(Rule::CaughtUpPhase, movement, event, &[Phase::CatchUp])?;
    require(Rule::CaughtUpAsync, movement.acks.sync == SyncMode::Async, || Rejected::MissingAck {
        ack: "SyncDisengaged".into(),
    })?;
    // A copy that was verified before sync degraded has been kept up to date, digest by digest, since.
    let next = if movement.acks.verified_full.is_some() { Phase::Sync } else { Phase::Verify };
    if next == Phase::Sync {
        // What was sent to leave sync may be on its way yet: it must not be obeyed once sync is engaged anew. The model
        // checker found this (configuration `late-disengage`).
        movement.attempt = movement.attempt.next();
    }
    advance(movement, next, stamp);
    Ok(())
}

fn synchronous(movement: &mut Move, event: &Event, stamp: Stamp) -> Result<(), Rejected> {
    match event {
        Event::SyncEngaged => {
            require_phase(Rule::SyncEngagedPhase, movement, event, &[Phase::Sync])?;
            if movement.acks.sync == SyncMode::Async {
                movement.acks.sync = SyncMode::Engaged { since: stamp.at };
            }
        }
        Event::InSync { attempt, lineage, seq } => {
            require_phase(Rule::InSyncPhase, movement, event, &[Phase::Sync])?;
            require_attempt(Rule::InSyncAttempt, movement, *attempt)?;
            require(Rule::InSyncEngaged, matches!(movement.acks.sync, SyncMode::Engaged { .. }), || {
                Rejected::MissingAck { ack: "SyncEngaged".into() }
            })?;
            let known = movement.acks.in_sync.filter(|known| known.lineage >= *lineage);
            movement.acks.in_sync = known.or(Some(InSyncAck { lineage: *lineage, seq: *seq }));
        }
        Event::ReverseReady { position, generation } => {
            require_phase(Rule::ReverseReadyPhase, movement, event, &[Phase::Sync])?;
            movement.acks.reverse = Some(ReverseAck { position: *position, generation: *generation });
        }
        Event::SyncDegraded { attempt } => {
            require_phase(Rule::SyncDegradedPhase, movement, event, &[Phase::Sync])?;
            require_attempt(Rule::SyncDegradedAttempt, movement, *attempt)?;
            require(Rule::SyncDegradedEngaged, matches!(movement.acks.sync, SyncMode::Engaged { .. }), || {
                Rejected::MissingAck { ack: "SyncEngaged".into() }
            })?;
            movement.acks.sync = SyncMode::Degrading;
            movement.acks.in_sync = None;
            movement.attempt = movement.attempt.next();
            enter(movement, Phase::CatchUp, stamp);
        }
        Event::SyncDisengaged => {
            require_phase(Rule::SyncDisengagedPhase, movement, event, &[Phase::CatchUp])?;
            movement.acks.sync = SyncMode::Async;
        }
        _ => unreachable!("`step` sends only the events of the copy here"),
    }
    Ok(())
}

/// The copy is not the original. In Verify the rows that differ are copied anew, and everything is compared again. At the seal it
/// is known only that some do, so every row is compared before another hold. One that is not to be mended is given up.
fn differed(movement: &mut Move, event: &Event, found: &Difference, stamp: Stamp) -> Result<(), Rejected> {
    require_phase(Rule::DifferedPhase, movement, event, &[Phase::Verify, Phase::Hold, Phase::Soak])?;
    // What was found in another phase says nothing of this one.
    let is_of_now = movement.leg == Leg::Forward && movement.phase == found.phase;
    require(Rule::DifferedFound, is_of_now, || Rejected::WrongPhase {
        event: event.name().into(),
        phase: Some(movement.phase),
    })?;
    require(Rule::DifferedRows, found.is_cut(), || Rejected::InvalidOption {
        option: "rows".into(),
        rule: format!("at most {} rows are named, each with a short key", Difference::ROWS_MAX),
    })?;
    if movement.phase == Phase::Soak {
        return in_soak(movement, event, found);
    }
    movement.differences.push(found.clone());
    if movement.differences.len() > Move::DIFFERENCES_MAX {
        give_up(movement, "DIGEST_MISMATCH", &found.to_string(), stamp);
    } else if movement.phase == Phase::Hold {
        compare_all_again(movement, stamp);
    }
    Ok(())
}

/// Behind the cutover nobody can say for sure which of the two is right. The move rests, so that the old copy is kept, until an
/// operator has looked: a rollback brings it back, to resume makes the move final.
fn in_soak(movement: &mut Move, event: &Event, found: &Difference) -> Result<(), Rejected> {
    require(Rule::DifferedIntent, movement.intent == Intent::Run, || Rejected::NotDue {
        event: event.name().into(),
    })?;
    if movement.differences.len() > Move::DIFFERENCES_MAX {
        movement.differences.pop();
    }
    movement.differences.push(found.clone());
    movement.intent = Intent::Pause;
    Ok(())
}

fn compare_all_again(movement: &mut Move, stamp: Stamp) {
    forget_hold(movement);
    if let Some(end) = movement.ending.take() {
        turn_to_cleanup(movement, end, stamp);
        return;
    }
    if movement.intent == Intent::Cancel {
        turn_to_cleanup(movement, End::Cancelled, stamp);
        return;
    }
    movement.acks.verified_full = None;
    movement.acks.in_sync = None;
    if movement.acks.sync != SyncMode::Async {
        // Nobody watches in Verify whether the target keeps up, and no write may wait for a decision that nobody takes.
        movement.acks.sync = SyncMode::Degrading;
    }
    movement.attempt = movement.attempt.next();
    enter(movement, Phase::CatchUp, stamp);
}

fn give_up(movement: &mut Move, code: &str, reason: &str, stamp: Stamp) {
    turn_to_cleanup(movement, End::Aborted { code: code.into(), reason: reason.into() }, stamp);
}
