//! What a move leaves behind: the cleanup of one that did not cut over or was rolled back, and the retained copy of
//! one that did.

use super::{Turn, require, require_phase};
use crate::{Event, Leg, Move, Phase, Rejected, Rule, Stamp, TenantRecord};

pub(super) fn take(
    _record: &mut TenantRecord,
    movement: &mut Move,
    event: &Event,
    _stamp: Stamp,
) -> Result<Turn, Rejected> {
    require_phase(Rule::CleanupPhase, movement, event, &[Phase::Cleanup])?;
    match event {
        Event::ImportDropped => {
            // After a rollback the copy's cell must redirect before it forgets the rows.
            let redirects = movement.leg == Leg::Forward || movement.acks.mapping_delivered;
            require(Rule::ImportDroppedMapping, redirects, || Rejected::MissingAck {
                ack: "MappingDelivered".into(),
            })?;
            movement.acks.import_dropped = true;
        }
        Event::CaptureStopped => movement.acks.capture_stopped = true,
        _ => unreachable!("`step` sends only the events of a cleanup here"),
    }
    if !(movement.acks.import_dropped && movement.acks.capture_stopped) {
        return Ok(Turn::Goes);
    }
    let end =
        movement.ending.clone().ok_or_else(|| Rejected::MissingAck { ack: "the reason of the cleanup".into() })?;
    Ok(Turn::Ends(end))
}

pub(super) fn retained(record: &mut TenantRecord, event: &Event, stamp: Stamp) -> Result<(), Rejected> {
    let (Event::Retired { cell } | Event::RetentionOver { cell } | Event::Reclaimed { cell }) = event else {
        unreachable!("`step` sends only the events of a retained copy here")
    };
    let wanted = record.movement.as_ref().is_some_and(|movement| movement.target == *cell);
    let Some(at) = record.retained.iter().position(|retained| retained.cell == *cell) else {
        // Already gone: said again by somebody who did not hear the answer.
        return Ok(());
    };
    let copy = &mut record.retained[at];
    match event {
        Event::Retired { .. } => copy.retired = true,
        Event::RetentionOver { .. } => {
            require(Rule::RetentionOverRetired, copy.retired, || Rejected::MissingAck { ack: "Retired".into() })?;
            // What nobody else has is not deleted because time passes.
            require(Rule::RetentionOverKept, copy.lets_go(), || Rejected::TailQuarantined {
                tenant: record.id.clone(),
                cell: copy.cell.clone(),
            })?;
            require(Rule::RetentionOverDue, wanted || stamp.at >= copy.until, || Rejected::NotDue {
                event: "RetentionOver".into(),
            })?;
            copy.reclaiming = true;
        }
        _ => {
            require(Rule::ReclaimedReclaiming, copy.reclaiming, || Rejected::MissingAck {
                ack: "RetentionOver".into(),
            })?;
            record.retained.remove(at);
        }
    }
    Ok(())
}
