//! The migration protocol: what one event makes of one tenant's record.
//!
//! Total and deterministic: every event in every state is either taken, found to be done already, or refused with the
//! reason. Guards over the rest of the fleet (slots, cordons, residency, incarnations) are in [`mod@crate::decide`].
//!
//! * [`copy`]: preflight to sync, where an abort is free;
//! * [`cutover`]: hold, fence, COMMIT, ABORT, activation, soak and the way back;
//! * [`takeover`]: the other cell is made the owner by force;
//! * [`afterwards`]: cleanup, and the copy that a finished move leaves behind.

mod afterwards;
mod copy;
mod cutover;
mod steer;
mod takeover;

pub(crate) use steer::{steer, throttle};
pub use takeover::{Holder, holder};
pub(crate) use takeover::{drop_quarantine, take_over};

use crate::rule::require;
use crate::{
    Attempt, End, Event, Leg, Life, Move, MoveRecord, Phase, PhaseStamp, Rejected, Rule, Stamp, TenantRecord,
};

/// What an event makes of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stepped {
    /// The record after it. Equal to the one before where there was nothing left to do.
    pub record: TenantRecord,
    /// The move, if the event ended it.
    pub ended: Option<MoveRecord>,
}

/// What becomes of a move that an event has changed.
pub(crate) enum Turn {
    /// It goes on.
    Goes,
    /// It has ended.
    Ends(End),
}

/// Takes one event.
///
/// # Errors
/// [`Rejected`] where the event has no place in this state, belongs to another attempt, comes too early, or where an
/// acknowledgement that it stands on is missing. The record is then unchanged.
pub fn step(record: &TenantRecord, event: &Event, stamp: Stamp) -> Result<Stepped, Rejected> {
    let mut next = record.clone();
    let mut ended = None;
    match event {
        Event::Granted | Event::Revoked { .. } => life(&mut next, event)?,
        Event::Retired { .. } | Event::RetentionOver { .. } | Event::Reclaimed { .. } => {
            afterwards::retained(&mut next, event, stamp)?;
        }
        Event::Admitted
        | Event::PreflightPassed
        | Event::PreflightFailed { .. }
        | Event::ImportPrepared { .. }
        | Event::CaptureStarted { .. }
        | Event::BackfillDone { .. }
        | Event::CaughtUp { .. }
        | Event::FullyVerified { .. }
        | Event::Mismatched { .. }
        | Event::SyncEngaged
        | Event::InSync { .. }
        | Event::ReverseReady { .. }
        | Event::SyncDegraded { .. }
        | Event::SyncDisengaged
        | Event::Weighed(_)
        | Event::Differed(_)
        | Event::GaveUp { .. } => ended = within_move(&mut next, event, stamp, copy::take)?,
        Event::HoldDue
        | Event::Sealed { .. }
        | Event::Applied { .. }
        | Event::Verified { .. }
        | Event::WritersEnded { .. }
        | Event::RoutersHeld { .. }
        | Event::HoldMissed { .. }
        | Event::Fenced { .. }
        | Event::Commit { .. }
        | Event::Abort { .. }
        | Event::Unfenced { .. }
        | Event::Activated { .. }
        | Event::MappingDelivered
        | Event::Counted { .. }
        | Event::SoakPassed => ended = within_move(&mut next, event, stamp, cutover::take)?,
        Event::TakenOver { .. } => ended = within_move(&mut next, event, stamp, takeover::take)?,
        Event::Quarantined { .. } => takeover::quarantined(&mut next, event)?,
        Event::ImportDropped | Event::CaptureStopped => {
            ended = within_move(&mut next, event, stamp, afterwards::take)?;
        }
    }
    Ok(finish(record, next, ended, stamp))
}

/// Stamps the record if anything has changed.
pub(crate) fn finish(
    before: &TenantRecord,
    mut next: TenantRecord,
    ended: Option<MoveRecord>,
    stamp: Stamp,
) -> Stepped {
    if next != *before || ended.is_some() {
        next.rev = before.rev.next();
        next.revision = stamp.revision;
    }
    Stepped { record: next, ended }
}

type Take = fn(&mut TenantRecord, &mut Move, &Event, Stamp) -> Result<Turn, Rejected>;

fn within_move(
    record: &mut TenantRecord,
    event: &Event,
    stamp: Stamp,
    take: Take,
) -> Result<Option<MoveRecord>, Rejected> {
    let Some(mut movement) = record.movement.take() else {
        return Err(Rejected::WrongPhase { event: event.name().into(), phase: None });
    };
    let turn = take(record, &mut movement, event, stamp)?;
    Ok(settle(record, movement, turn, stamp))
}

/// Puts the move back into the record, or takes it out for good.
pub(crate) fn settle(
    record: &mut TenantRecord,
    movement: Box<Move>,
    turn: Turn,
    stamp: Stamp,
) -> Option<MoveRecord> {
    match turn {
        Turn::Goes => {
            record.movement = Some(movement);
            None
        }
        Turn::Ends(end) => Some(MoveRecord {
            tenant: record.id.clone(),
            uid: record.uid,
            epoch: record.epoch,
            ended: stamp.at,
            revision: stamp.revision,
            movement: *movement,
            end,
        }),
    }
}

fn life(record: &mut TenantRecord, event: &Event) -> Result<(), Rejected> {
    let wrong = || Rejected::WrongPhase { event: event.name().into(), phase: None };
    let Event::Revoked { cell } = event else {
        require(Rule::GrantedLife, matches!(record.life, Life::Provisioning | Life::Live), wrong)?;
        record.life = Life::Live;
        return Ok(());
    };
    require(Rule::RevokedLife, matches!(record.life, Life::Deleting { .. } | Life::Deleted), wrong)?;
    if record.life != Life::Deleted {
        record.retained.retain(|retained| retained.cell != *cell);
        let known = matches!(record.life, Life::Deleting { owner_revoked: true });
        let owner_revoked = known || *cell == record.owner;
        record.life = if owner_revoked && record.retained.is_empty() {
            Life::Deleted
        } else {
            Life::Deleting { owner_revoked }
        };
    }
    Ok(())
}

/// Enters a phase.
pub(crate) fn enter(movement: &mut Move, phase: Phase, stamp: Stamp) {
    movement.phase = phase;
    if movement.history.len() >= Move::HISTORY_MAX {
        // The first stamps tell when the move began and are kept; the middle of a long story goes.
        movement.history.remove(Move::HISTORY_MAX / 2);
    }
    let stamp = PhaseStamp { phase, attempt: movement.attempt, at: stamp.at, revision: stamp.revision };
    movement.history.push(stamp);
}

/// Leaves a finished phase for the next one; pauses there where that was asked for.
fn advance(movement: &mut Move, phase: Phase, stamp: Stamp) {
    if movement.until == Some(movement.phase) {
        movement.until = None;
        if movement.intent == crate::Intent::Run {
            movement.intent = crate::Intent::Pause;
        }
    }
    enter(movement, phase, stamp);
}

/// Turns to Cleanup: the tenant stays where it is, at the same epoch.
pub(crate) fn turn_to_cleanup(movement: &mut Move, end: End, stamp: Stamp) {
    movement.ending = Some(end);
    // Whatever is still under way belongs to an attempt that is over.
    movement.attempt = movement.attempt.next();
    enter(movement, Phase::Cleanup, stamp);
}

fn require_phase(rule: Rule, movement: &Move, event: &Event, phases: &[Phase]) -> Result<(), Rejected> {
    require(rule, phases.contains(&movement.phase), || Rejected::WrongPhase {
        event: event.name().into(),
        phase: Some(movement.phase),
    })
}

fn require_attempt(rule: Rule, movement: &Move, attempt: Attempt) -> Result<(), Rejected> {
    require(rule, movement.attempt == attempt, || Rejected::StaleAttempt {
        expected: attempt,
        actual: movement.attempt,
    })
}

/// Clears what belongs to one hold.
pub(crate) fn forget_hold(movement: &mut Move) {
    let acks = &mut movement.acks;
    acks.sealed = None;
    acks.applied = None;
    acks.verified = None;
    acks.fenced = None;
    acks.routers = None;
}

/// A hold that did not lead to a COMMIT: back to where the copy is kept up to date, or give up.
fn back_from_hold(movement: &mut Move, stamp: Stamp, reason: &str) {
    forget_hold(movement);
    if let Some(end) = movement.ending.take() {
        turn_to_cleanup(movement, end, stamp);
        return;
    }
    match movement.leg {
        Leg::Forward if movement.intent == crate::Intent::Cancel => {
            turn_to_cleanup(movement, End::Cancelled, stamp)
        }
        // It was told to stop: nothing was tried in vain.
        Leg::Forward if movement.intent == crate::Intent::Pause => enter(movement, Phase::Sync, stamp),
        Leg::Forward if movement.retries_left == 0 => {
            let end = End::Aborted { code: "HOLD_RETRIES_SPENT".into(), reason: reason.into() };
            turn_to_cleanup(movement, end, stamp);
        }
        Leg::Forward => {
            movement.retries_left -= 1;
            enter(movement, Phase::Sync, stamp);
        }
        // A rollback is tried again until it succeeds or the operator resumes the move.
        Leg::Back => {
            movement.leg = Leg::Forward;
            enter(movement, Phase::Soak, stamp);
        }
    }
}
