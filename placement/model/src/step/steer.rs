//! What an operator may do to a move under way.

use super::{Stepped, Turn, copy::COPYING, cutover, finish, require, settle, turn_to_cleanup};
use crate::{End, Intent, Leg, Move, MoveIntent, Phase, Rejected, Rule, Stamp, TenantRecord};

/// Pauses, resumes, cancels or rolls back.
///
/// # Errors
/// [`Rejected`] where the move is past the point at which that is possible; it then goes on as before.
pub(crate) fn steer(record: &TenantRecord, wanted: MoveIntent, stamp: Stamp) -> Result<Stepped, Rejected> {
    let mut next = record.clone();
    let Some(mut movement) = next.movement.take() else {
        return Err(Rejected::WrongPhase { event: "Steer".into(), phase: None });
    };
    let on_its_way_out = movement.ending.is_some() || (movement.leg == Leg::Back && movement.is_committed());
    require(Rule::SteerEnding, !on_its_way_out, || Rejected::MoveEnding { move_id: movement.id })?;
    let turn = match wanted {
        MoveIntent::Pause => pause(&mut movement)?,
        MoveIntent::Resume => {
            // Also takes back a rollback that has not been reached yet.
            if movement.intent != Intent::Cancel && movement.leg == Leg::Forward {
                movement.intent = Intent::Run;
            }
            Turn::Goes
        }
        MoveIntent::Cancel => cancel(&mut next, &mut movement, stamp)?,
        MoveIntent::Rollback => rollback(&mut movement)?,
    };
    let ended = settle(&mut next, movement, turn, stamp);
    Ok(finish(record, next, ended, stamp))
}

/// Lets the copy go slower, or faster.
///
/// # Errors
/// [`Rejected`] where nothing is copied any more.
pub(crate) fn throttle(record: &TenantRecord, bytes_per_second: u64, stamp: Stamp) -> Result<Stepped, Rejected> {
    let mut next = record.clone();
    let wrong = |phase| Rejected::WrongPhase { event: Rejected::THROTTLE.into(), phase };
    let movement = next.movement.as_mut().ok_or_else(|| wrong(None))?;
    let copying = matches!(movement.phase, Phase::Preflight | Phase::Prepare | Phase::Backfill);
    require(Rule::ThrottlePhase, copying, || wrong(Some(movement.phase)))?;
    movement.bytes_per_second = bytes_per_second;
    Ok(finish(record, next, None, stamp))
}

fn pause(movement: &mut Move) -> Result<Turn, Rejected> {
    let stays = matches!(movement.intent, Intent::Run | Intent::Pause);
    require(Rule::PauseIntent, stays, || Rejected::MoveEnding { move_id: movement.id })?;
    movement.intent = Intent::Pause;
    Ok(Turn::Goes)
}

fn cancel(record: &mut TenantRecord, movement: &mut Move, stamp: Stamp) -> Result<Turn, Rejected> {
    let move_id = movement.id;
    let committed = || Rejected::MoveCommitted { move_id };
    require(Rule::CancelLeg, movement.leg == Leg::Forward, committed)?;
    match movement.phase {
        // Nothing has been made yet.
        Phase::Preflight => return Ok(Turn::Ends(End::Cancelled)),
        // The source may be fenced already: only a decision that raises the epoch gives it the tenant back.
        Phase::Fenced => {
            movement.intent = Intent::Cancel;
            cutover::abort(record, movement, stamp);
        }
        Phase::Unfence => movement.intent = Intent::Cancel,
        phase => {
            require(Rule::CancelPhase, phase == Phase::Hold || COPYING.contains(&phase), committed)?;
            movement.intent = Intent::Cancel;
            turn_to_cleanup(movement, End::Cancelled, stamp);
        }
    }
    Ok(Turn::Goes)
}

fn rollback(movement: &mut Move) -> Result<Turn, Rejected> {
    let committed = movement.is_committed() || movement.leg == Leg::Back;
    require(Rule::RollbackCommitted, committed, || Rejected::MoveNotCommitted { move_id: movement.id })?;
    movement.intent = Intent::Rollback;
    Ok(Turn::Goes)
}
