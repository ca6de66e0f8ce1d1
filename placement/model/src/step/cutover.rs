//! Hold, fence, COMMIT, ABORT, activation and soak, on either leg. Here, and only here, the epoch rises.

use super::{Turn, back_from_hold, enter, forget_hold, require, require_attempt, require_phase};
use crate::{
    AppliedAck, Attempt, End, Event, FencedAck, Intent, Leg, Move, Phase, Rejected, Retained, RoutersAck, Rule,
    SealedAck, Stamp, SyncMode, TenantRecord, UnixMillis, VerifiedAck,
};

pub(super) fn take(
    record: &mut TenantRecord,
    movement: &mut Move,
    event: &Event,
    stamp: Stamp,
) -> Result<Turn, Rejected> {
    match event {
        Event::HoldDue => hold_due(movement, event, stamp)?,
        Event::HoldMissed { attempt, reason, not_before } => {
            require_phase(Rule::HoldMissedPhase, movement, event, &[Phase::Hold])?;
            require_attempt(Rule::HoldMissedAttempt, movement, *attempt)?;
            movement.not_before = *not_before;
            back_from_hold(movement, stamp, reason);
        }
        Event::RoutersHeld { attempt, seen, fenced } => {
            require_phase(Rule::RoutersHeldPhase, movement, event, &[Phase::Hold])?;
            require_attempt(Rule::RoutersHeldAttempt, movement, *attempt)?;
            movement.acks.routers = Some(RoutersAck { attempt: *attempt, seen: *seen, fenced: *fenced });
        }
        Event::Sealed { .. } | Event::Applied { .. } | Event::Verified { .. } => held(movement, event, stamp)?,
        Event::Fenced { attempt, seq } => {
            require_phase(Rule::FencedPhase, movement, event, &[Phase::Fenced])?;
            require_attempt(Rule::FencedAttempt, movement, *attempt)?;
            let sealed = sealed(movement)?;
            require_seq(Rule::FencedSeq, "Fenced", *seq, sealed)?;
            movement.acks.fenced = Some(FencedAck { attempt: *attempt, seq: *seq });
        }
        Event::Commit { attempt } => commit(record, movement, event, *attempt, stamp)?,
        Event::Abort { attempt, reason: _, not_before } => {
            require_phase(Rule::AbortPhase, movement, event, &[Phase::Fenced])?;
            require_attempt(Rule::AbortAttempt, movement, *attempt)?;
            movement.not_before = *not_before;
            abort(record, movement, stamp);
        }
        Event::Unfenced { attempt } => {
            require_phase(Rule::UnfencedPhase, movement, event, &[Phase::Unfence])?;
            require_attempt(Rule::UnfencedAttempt, movement, *attempt)?;
            // Prepared for the commit that did not come; the incarnation that said so may be gone.
            movement.acks.reverse = None;
            back_from_hold(movement, stamp, "the cutover was aborted after the fence");
        }
        _ => return committed(record, movement, event, stamp),
    }
    Ok(Turn::Goes)
}

fn hold_due(movement: &mut Move, event: &Event, stamp: Stamp) -> Result<(), Rejected> {
    require_phase(Rule::HoldDuePhase, movement, event, &[Phase::Sync, Phase::Soak])?;
    let not_due = || Rejected::NotDue { event: "HoldDue".into() };
    require(Rule::HoldDueNotBefore, stamp.at >= movement.not_before, not_due)?;
    if movement.phase == Phase::Sync {
        require(Rule::HoldDueIntent, movement.intent == Intent::Run, not_due)?;
        let missing = |ack: &str| Rejected::MissingAck { ack: ack.into() };
        let since = match movement.acks.sync {
            SyncMode::Engaged { since } => Some(since),
            SyncMode::Async | SyncMode::Degrading => None,
        };
        require(Rule::HoldDueEngaged, since.is_some(), || missing("SyncEngaged"))?;
        require(Rule::HoldDueReverse, movement.acks.reverse.is_some(), || missing("ReverseReady"))?;
        require(Rule::HoldDueVerified, movement.acks.verified_full.is_some(), || missing("FullyVerified"))?;
        let steady = since.is_none_or(|since| stamp.at.0 >= since.0 + u64::from(movement.sync_steady_ms));
        require(Rule::HoldDueSteady, steady, not_due)?;
        if movement.until == Some(Phase::Sync) {
            movement.until = None;
            movement.intent = Intent::Pause;
            return Ok(());
        }
    } else {
        require(Rule::HoldDueRollback, movement.intent == Intent::Rollback, not_due)?;
        // The old owner must follow, or there is nothing to go back to.
        require(Rule::HoldDueMapping, movement.acks.mapping_delivered, || Rejected::MissingAck {
            ack: "MappingDelivered".into(),
        })?;
        movement.leg = Leg::Back;
    }
    movement.attempt = movement.attempt.next();
    forget_hold(movement);
    enter(movement, Phase::Hold, stamp);
    Ok(())
}

/// The acknowledgements of a hold. With the last of them the move goes on to the fence, unless it was to stop here.
fn held(movement: &mut Move, event: &Event, stamp: Stamp) -> Result<(), Rejected> {
    require_phase(Rule::HeldPhase, movement, event, &[Phase::Hold])?;
    match *event {
        Event::Sealed { attempt, seq } => {
            require_attempt(Rule::SealedAttempt, movement, attempt)?;
            let held = movement.acks.routers.is_some_and(|routers| routers.attempt == attempt);
            require(Rule::SealedRouters, held || !movement.leaves_ungated(), || Rejected::MissingAck {
                ack: "RoutersHeld".into(),
            })?;
            if let Some(sealed) = movement.acks.sealed {
                if seq != sealed.seq {
                    // The seal that is known is gone, with its agent or because it lapsed, and writes have come since. To
                    // refuse this one would hold the writes again and again, for nothing.
                    back_from_hold(movement, stamp, "the hold was sealed a second time, at another change");
                }
                return Ok(());
            }
            movement.acks.sealed = Some(SealedAck { attempt, seq });
        }
        Event::Applied { attempt, seq, generation } => {
            require_attempt(Rule::AppliedAttempt, movement, attempt)?;
            require_seq(Rule::AppliedSeq, "Applied", seq, sealed(movement)?)?;
            movement.acks.applied = Some(AppliedAck { attempt, seq, generation });
        }
        Event::Verified { attempt, seq, digest } => {
            require_attempt(Rule::VerifiedAttempt, movement, attempt)?;
            require_seq(Rule::VerifiedSeq, "Verified", seq, sealed(movement)?)?;
            movement.acks.verified = Some(VerifiedAck { attempt, seq, digest });
        }
        _ => unreachable!("`take` sends only the acknowledgements of a hold here"),
    }
    if movement.acks.applied.is_some() && movement.acks.verified.is_some() {
        if movement.leg == Leg::Forward && movement.until == Some(Phase::Hold) {
            pause_here(movement);
            forget_hold(movement);
            enter(movement, Phase::Sync, stamp);
        } else {
            enter(movement, Phase::Fenced, stamp);
        }
    }
    Ok(())
}

/// Of an acknowledgement: it is there, it is of this attempt, it is for S*.
type Rules = [Rule; 3];

const FENCED: Rules = [Rule::CommitFenced, Rule::CommitFencedAttempt, Rule::CommitFencedSeq];
const APPLIED: Rules = [Rule::CommitApplied, Rule::CommitAppliedAttempt, Rule::CommitAppliedSeq];
const VERIFIED: Rules = [Rule::CommitVerified, Rule::CommitVerifiedAttempt, Rule::CommitVerifiedSeq];

/// COMMIT: the named list of acknowledgements, each of this attempt, and the epoch rises.
fn commit(
    record: &mut TenantRecord,
    movement: &mut Move,
    event: &Event,
    attempt: Attempt,
    stamp: Stamp,
) -> Result<(), Rejected> {
    require_phase(Rule::CommitPhase, movement, event, &[Phase::Fenced])?;
    require_attempt(Rule::CommitAttempt, movement, attempt)?;
    let missing = |ack: &str| Rejected::MissingAck { ack: ack.into() };
    let sealed = sealed(movement)?;
    let acks = &movement.acks;
    for (ack, rules, known) in [
        ("Fenced", FENCED, acks.fenced.map(|ack| (ack.attempt, ack.seq))),
        ("Applied", APPLIED, acks.applied.map(|ack| (ack.attempt, ack.seq))),
        ("Verified", VERIFIED, acks.verified.map(|ack| (ack.attempt, ack.seq))),
    ] {
        let [is_there, of_this_attempt, at_the_seal] = rules;
        require(is_there, known.is_some(), || missing(ack))?;
        if let Some((of, seq)) = known {
            require_attempt(of_this_attempt, movement, of)?;
            require_seq(at_the_seal, ack, seq, sealed)?;
        }
    }
    if movement.leg == Leg::Forward {
        // It must exist before the new owner's first write, or there would be no way back without loss.
        require(Rule::CommitReverse, movement.acks.reverse.is_some(), || missing("ReverseReady"))?;
    }
    if movement.stops_at_the_fence() {
        // Everything that COMMIT asks for is there: the tenant would be on the other cell now.
        if movement.rehearse {
            movement.ending = Some(End::Rehearsed);
        } else {
            pause_here(movement);
        }
        abort(record, movement, stamp);
        return Ok(());
    }
    movement.fenced_epoch = Some(record.epoch);
    movement.acks.mapping_delivered = false;
    record.epoch = record.epoch.next();
    record.tier = movement.tier_on(movement.to()).unwrap_or(record.tier);
    record.owner = movement.to().clone();
    enter(movement, Phase::Activate, stamp);
    Ok(())
}

/// It has come to where it was told to stop.
fn pause_here(movement: &mut Move) {
    movement.until = None;
    if movement.intent == Intent::Run {
        movement.intent = Intent::Pause;
    }
}

/// ABORT: the owner stays, at a higher epoch, so that whatever the fence has refused stays refused.
pub(super) fn abort(record: &mut TenantRecord, movement: &mut Move, stamp: Stamp) {
    record.epoch = record.epoch.next();
    enter(movement, Phase::Unfence, stamp);
}

/// After COMMIT.
fn committed(
    record: &mut TenantRecord,
    movement: &mut Move,
    event: &Event,
    stamp: Stamp,
) -> Result<Turn, Rejected> {
    match event {
        Event::Activated { .. } => {
            require_phase(Rule::ActivatedPhase, movement, event, &[Phase::Activate])?;
            // By force, a cell has to say up to where it holds the old owner's changes.
            require(Rule::ActivatedTakeover, movement.takeover.is_none(), || Rejected::MissingAck {
                ack: "TakenOver".into(),
            })?;
            match movement.leg {
                Leg::Forward => super::advance(movement, Phase::Soak, stamp),
                Leg::Back => {
                    movement.ending = Some(End::RolledBack);
                    enter(movement, Phase::Cleanup, stamp);
                }
            }
        }
        Event::MappingDelivered => {
            let allowed = movement.is_committed();
            require(Rule::MappingDelivered, allowed, || Rejected::WrongPhase {
                event: event.name().into(),
                phase: Some(movement.phase),
            })?;
            movement.acks.mapping_delivered = true;
        }
        Event::Counted { stale_rejected } => {
            require_phase(Rule::CountedPhase, movement, event, &[Phase::Soak])?;
            movement.stale_rejected = Some(*stale_rejected);
        }
        Event::WritersEnded { count } => {
            require_phase(Rule::WritersEndedPhase, movement, event, &[Phase::Hold])?;
            // An owner that was put back may have forgotten some.
            movement.ended_writers = movement.ended_writers.max(*count);
        }
        Event::SoakPassed => return soak_passed(record, movement, event, stamp),
        _ => unreachable!("`step` sends only the events of a cutover here"),
    }
    Ok(Turn::Goes)
}

fn soak_passed(
    record: &mut TenantRecord,
    movement: &mut Move,
    event: &Event,
    stamp: Stamp,
) -> Result<Turn, Rejected> {
    require_phase(Rule::SoakPassedPhase, movement, event, &[Phase::Soak])?;
    let not_due = || Rejected::NotDue { event: "SoakPassed".into() };
    require(Rule::SoakPassedIntent, movement.intent == Intent::Run, not_due)?;
    let due = stamp.at >= UnixMillis(movement.soak_since().0 + u64::from(movement.soak_ms));
    require(Rule::SoakPassedDue, due, not_due)?;
    require(Rule::SoakPassedMapping, movement.acks.mapping_delivered, || Rejected::MissingAck {
        ack: "MappingDelivered".into(),
    })?;
    let fenced_epoch = movement.fenced_epoch.ok_or_else(|| Rejected::MissingAck { ack: "Fenced".into() })?;
    if movement.until == Some(Phase::Soak) {
        movement.until = None;
        movement.intent = Intent::Pause;
        return Ok(Turn::Goes);
    }
    record.retained.push(Retained {
        cell: movement.source.clone(),
        move_id: movement.id,
        successor: movement.target.clone(),
        fenced_epoch,
        until: UnixMillis(stamp.at.0 + movement.retain_ms),
        retired: false,
        reclaiming: false,
        quarantine: None,
    });
    Ok(Turn::Ends(End::Completed))
}

fn sealed(movement: &Move) -> Result<SealedAck, Rejected> {
    let sealed = movement.acks.sealed.ok_or_else(|| Rejected::MissingAck { ack: "Sealed".into() })?;
    require_attempt(Rule::SealAttempt, movement, sealed.attempt)?;
    Ok(sealed)
}

fn require_seq(rule: Rule, ack: &str, seq: crate::Seq, sealed: SealedAck) -> Result<(), Rejected> {
    require(rule, seq == sealed.seq, || Rejected::AckMismatch {
        ack: ack.into(),
        detail: format!("it is for change {seq}, the hold is sealed at {}", sealed.seq),
    })
}
