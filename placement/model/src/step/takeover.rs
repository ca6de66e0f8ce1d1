//! Forced takeover: the owner is out of reach, and the other cell of the move is made the owner from what it holds.
//!
//! ```text
//!  owner A, copy at B ──TakeOver──► epoch+1, owner B, Activate ──TakenOver(s)──► ended; A's copy: quarantine after s
//!                                                                                            │ A is reached
//!                                   reclaimed ◄── retention ◄── dropped, or nothing in it ◄── Quarantined(tail)
//! ```
//! Who may take over, and when that loses nothing, is in `docs/adr/0036-a-takeover-stands-on-evidence-and-keeps-the-tail.md`.
//! Guards over the fleet (the cell, its incarnation, residency) are in [`mod@crate::decide`].

use super::{Stepped, Turn, enter, finish, require, require_phase};
use crate::{
    Acks, CellId, End, Event, Leg, Lineage, Move, Phase, Quarantine, Rejected, Retained, Rule, Seq, Stamp,
    SyncMode, Takeover, TakeoverOrder, TenantRecord, UnixMillis,
};

/// The cell that could take a tenant over, and what is known of its copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder<'a> {
    /// The cell.
    pub cell: &'a CellId,
    /// Once it holds this change, every write that was acknowledged is there. None where no such change is known.
    pub in_sync: Option<Seq>,
}

/// Who else holds the tenant, whole. `lineage`: of the history that asks.
///
/// # Errors
/// [`Rejected::NothingHeld`] says why nobody does.
pub fn holder(record: &TenantRecord, lineage: Lineage) -> Result<Holder<'_>, Rejected> {
    let nothing = |reason: &str| Rejected::NothingHeld { tenant: record.id.clone(), reason: reason.into() };
    let movement = record.movement.as_ref().ok_or_else(|| match record.retained.as_slice() {
        [] => nothing("it is not being moved, so no other cell has a copy of it"),
        _ => nothing(
            "it is not being moved: the copy of an earlier move follows no more and is older than its owner",
        ),
    })?;
    require(Rule::HolderTakenOver, movement.takeover.is_none(), || {
        nothing("it is being taken over already, and only that cell has everything")
    })?;
    let copying = matches!(movement.phase, Phase::Preflight | Phase::Prepare | Phase::Backfill);
    require(Rule::HolderCopying, !copying, || nothing("the copy that the move makes is not complete yet"))?;
    require(Rule::HolderCleanup, movement.phase != Phase::Cleanup, || {
        nothing("what the move has copied is being taken away")
    })?;
    require(Rule::HolderDiffers, !differs(movement), || {
        nothing("the copy that the move makes was found to differ from its owner, and not to be alike since")
    })?;
    let cell = match (movement.leg, movement.phase) {
        (_, Phase::Preflight | Phase::Prepare | Phase::Backfill | Phase::Cleanup)
        | (
            Leg::Forward,
            Phase::CatchUp | Phase::Verify | Phase::Sync | Phase::Hold | Phase::Fenced | Phase::Unfence,
        )
        | (Leg::Back, Phase::Activate) => &movement.target,
        (Leg::Forward, Phase::Activate | Phase::Soak)
        | (
            Leg::Back,
            Phase::CatchUp
            | Phase::Verify
            | Phase::Sync
            | Phase::Hold
            | Phase::Fenced
            | Phase::Soak
            | Phase::Unfence,
        ) => &movement.source,
    };
    Ok(Holder { cell, in_sync: in_sync(movement, lineage) })
}

/// The cell itself knows it only as long as its agent runs. Behind COMMIT the other cell is the one whose rows were right.
fn differs(movement: &Move) -> bool {
    let is_copied = movement.leg == Leg::Forward
        && matches!(movement.phase, Phase::CatchUp | Phase::Verify | Phase::Sync | Phase::Hold);
    is_copied && !movement.differences.is_empty() && movement.acks.verified_full.is_none()
}

/// Sync is left only by a committed degradation, and a hold or a fence does not leave it. In a history that was restored from
/// a backup nobody knows of what was committed since.
fn in_sync(movement: &Move, lineage: Lineage) -> Option<Seq> {
    let engaged = matches!(movement.acks.sync, SyncMode::Engaged { .. });
    let in_phase = matches!(movement.phase, Phase::Sync | Phase::Hold | Phase::Fenced | Phase::Unfence);
    let known = movement.acks.in_sync.filter(|known| known.lineage == lineage);
    known.filter(|_| engaged && in_phase && movement.leg == Leg::Forward).map(|known| known.seq)
}

/// Makes the other cell the owner.
///
/// # Errors
/// [`Rejected`] where it holds nothing whole, or where acknowledged writes may be missing and that was not accepted.
pub(crate) fn take_over(
    record: &TenantRecord,
    order: &TakeoverOrder,
    lineage: Lineage,
    stamp: Stamp,
) -> Result<Stepped, Rejected> {
    let Holder { cell, in_sync } = holder(record, lineage)?;
    let nothing = |reason: String| Rejected::NothingHeld { tenant: record.id.clone(), reason };
    require(Rule::TakeOverTarget, *cell == order.target, || {
        nothing(format!("the copy is at cell {cell}, not at {}", order.target))
    })?;
    require(Rule::TakeOverComplete, order.copy.complete, || {
        nothing(format!("the copy at cell {cell} is not complete"))
    })?;
    let (applied, heard) = (order.copy.applied, order.copy.heard);
    let lossless = order.copy.is_lossless(in_sync);
    require(Rule::TakeOverLossless, lossless || order.accept_data_loss, || Rejected::WouldLoseData {
        tenant: record.id.clone(),
        applied,
        heard,
    })?;
    let mut next = record.clone();
    let Some(movement) = &mut next.movement else {
        return Err(Rejected::WrongPhase { event: "TakeOver".into(), phase: None });
    };
    movement.takeover = Some(Takeover {
        evidence: order.evidence.clone(),
        from: record.owner.clone(),
        phase: movement.phase,
        lossless,
        applied,
        heard,
    });
    movement.ending = Some(End::TakenOver);
    movement.leg = if movement.target == order.target { Leg::Forward } else { Leg::Back };
    // Whatever is under way belongs to attempts that are over.
    movement.attempt = movement.attempt.next();
    movement.acks = Acks::default();
    movement.fenced_epoch = Some(record.epoch);
    enter(movement, Phase::Activate, stamp);
    next.tier = movement.tier_on(&order.target).unwrap_or(next.tier);
    next.owner = order.target.clone();
    next.epoch = record.epoch.next();
    Ok(finish(record, next, None, stamp))
}

/// The cell owns: the move has ended, and the old owner's copy is to be kept apart as soon as it is reached.
pub(super) fn take(
    record: &mut TenantRecord,
    movement: &mut Move,
    event: &Event,
    stamp: Stamp,
) -> Result<Turn, Rejected> {
    let Event::TakenOver { seq, .. } = event else { unreachable!("`step` sends only the end of a takeover here") };
    require_phase(Rule::TakenOverPhase, movement, event, &[Phase::Activate])?;
    let missing = |ack: &str| Rejected::MissingAck { ack: ack.into() };
    let from = movement.takeover.as_ref().map(|takeover| takeover.from.clone());
    let (from, fenced_epoch) = from.zip(movement.fenced_epoch).ok_or_else(|| missing("TakeOver"))?;
    record.retained.retain(|copy| copy.cell != from);
    record.retained.push(Retained {
        cell: from,
        move_id: movement.id,
        successor: record.owner.clone(),
        fenced_epoch,
        until: UnixMillis(stamp.at.0 + movement.retain_ms),
        retired: false,
        reclaiming: false,
        quarantine: Some(Quarantine { after: *seq, tail: None, dropped: false }),
    });
    Ok(Turn::Ends(End::TakenOver))
}

/// A cell that was taken over has put aside what it alone has.
pub(super) fn quarantined(record: &mut TenantRecord, event: &Event) -> Result<(), Rejected> {
    let Event::Quarantined { cell, tail } = event else {
        unreachable!("`step` sends only what a cell has put aside here")
    };
    let copy = record.retained.iter_mut().find(|copy| copy.cell == *cell);
    // Gone: said again by somebody who did not hear the answer.
    let Some(copy) = copy else { return Ok(()) };
    let quarantine = copy.quarantine.as_mut().ok_or_else(|| Rejected::MissingAck { ack: "TakenOver".into() })?;
    if quarantine.tail.is_none() {
        quarantine.tail = Some(*tail);
        copy.retired = true;
    }
    Ok(())
}

/// Lets go of what a cell has put aside. `dead`: the cell is, and nobody waits for what it may have.
///
/// # Errors
/// [`Rejected`] where there is nothing of the kind, or where the cell was not reached yet.
pub(crate) fn drop_quarantine(
    record: &TenantRecord,
    cell: &CellId,
    dead: bool,
    stamp: Stamp,
) -> Result<Stepped, Rejected> {
    let mut next = record.clone();
    let found = next.retained.iter_mut().find(|copy| copy.cell == *cell);
    let Some((copy, quarantine)) = found.and_then(|copy| copy.quarantine.map(|quarantine| (copy, quarantine)))
    else {
        return Err(Rejected::NotQuarantined { tenant: record.id.clone(), cell: cell.clone() });
    };
    require(Rule::DropQuarantineTail, quarantine.tail.is_some() || dead, || Rejected::NotReached {
        tenant: record.id.clone(),
        cell: cell.clone(),
    })?;
    if !quarantine.dropped {
        copy.quarantine = Some(Quarantine { dropped: true, ..quarantine });
        copy.until = stamp.at;
        copy.retired = true;
    }
    Ok(finish(record, next, None, stamp))
}
