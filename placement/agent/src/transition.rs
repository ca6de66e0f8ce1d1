//! What each step makes of a tenant's [`Control`]: pure, so that every order and repetition can be tried.
//!
//! ```text
//!             Grant                 Fence(S*)               DeliverMapping
//!  Nothing ──────────► Owner ◄──────────────► Fenced ─────────────────────► Redirect (following, then retired)
//!     │                  ▲     Unfence(e+1)                                    │     │
//!     │ PrepareImport    │ Activate(e+1)                                       │     │ PrepareImport, once
//!     └──────────────► Importing ◄─────────────────────────────────────────────┼─────┘ the old copy is gone
//!                                                             Activate(e+2) ──►┘ Owner
//! ```
//! Two rules stand above all: (uid, epoch) never falls, and nothing that this cell owns or might own again (Owner,
//! Fenced) is destroyed. What happens by force is in `force`.

mod force;

use cell_model::{Attempt, CellId, Epoch, Leg, MoveId, Seq, Uid};
use cell_trust::{RoutedMapping, SignedMapping};

use crate::record::{Capture, Control, Follow, Role};
use crate::refusal::Refusal;

pub(crate) use force::{Verdict, let_go_of, look_at_copy, own_by_force, put_aside};

/// Who sends a step, as far as a tenant is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) uid: Uid,
    /// The tenant's epoch in the record when the step was computed.
    pub(crate) epoch: Epoch,
    /// 0 outside a move.
    pub(crate) move_id: MoveId,
    pub(crate) attempt: Attempt,
    pub(crate) leg: Option<Leg>,
}

/// A change of a tenant's control, or none where the step was done before.
type Next = Result<Control, Refusal>;

fn refuse(code: &'static str, reason: impl Into<String>) -> Next {
    Err(Refusal::new(code, reason))
}

/// What every step must pass: not of an older incarnation, epoch or attempt. The answer remembers move and attempt.
/// Steps that clean up after an old move ([`retire`], [`reclaim`], [`stop_capture`], [`drop_import`]) may name it.
pub(crate) fn admit(control: &Control, context: &Context, names_an_old_move: bool) -> Next {
    if context.uid != control.uid {
        let code = if context.uid < control.uid { "STALE_UID" } else { "NOT_OWNER" };
        return refuse(code, format!("this cell knows uid {}, not {}", control.uid, context.uid));
    }
    if context.epoch < control.epoch {
        return refuse(
            "STALE_EPOCH",
            format!("the grant is at epoch {}, the step at {}", control.epoch, context.epoch),
        );
    }
    let mut next = control.clone();
    if context.move_id == MoveId(0) {
        return Ok(next);
    }
    let newest = (control.move_id, control.attempt);
    let given = (context.move_id, context.attempt);
    if given < newest {
        let old_move = names_an_old_move && context.move_id < control.move_id;
        if !old_move {
            return refuse("STALE_ATTEMPT", format!("{} attempt {} has been here", newest.0, newest.1));
        }
    } else {
        (next.move_id, next.attempt) = given;
    }
    Ok(next)
}

/// An older incarnation may give way to a newer one only where nothing of it can be served any more.
fn succeed(control: Option<&Control>, context: &Context, has_copy: bool) -> Next {
    let Some(control) = control else {
        return Ok(Control {
            uid: context.uid,
            move_id: context.move_id,
            attempt: context.attempt,
            ..Control::default()
        });
    };
    if context.uid <= control.uid {
        return admit(control, context, false);
    }
    match control.role {
        Role::Nothing | Role::Deleted | Role::Redirect if !has_copy => Ok(Control {
            uid: context.uid,
            move_id: context.move_id,
            attempt: context.attempt,
            ..Control::default()
        }),
        Role::Nothing | Role::Deleted | Role::Redirect | Role::Owner | Role::Importing | Role::Fenced { .. } => {
            refuse("BUSY", format!("uid {} is still here; it must be revoked first", control.uid))
        }
    }
}

fn owner(control: &Control, context: &Context, names_an_old_move: bool) -> Next {
    let next = admit(control, context, names_an_old_move)?;
    if control.role != Role::Owner || control.epoch != context.epoch {
        let reason = format!(
            "this cell is {:?} at epoch {}, the step is for {}",
            control.role, control.epoch, context.epoch
        );
        return refuse("NOT_OWNER", reason);
    }
    Ok(next)
}

/// Serve a new tenant.
pub(crate) fn grant(control: Option<&Control>, context: &Context, has_copy: bool) -> Next {
    let next = succeed(control, context, has_copy)?;
    match next.role {
        Role::Owner if next.epoch == context.epoch => Ok(next),
        // A grant makes a tenant; it never takes one back. Raising the epoch is for Activate and Unfence.
        Role::Nothing if next.epoch == Epoch(0) => Ok(Control { epoch: context.epoch, role: Role::Owner, ..next }),
        Role::Nothing | Role::Owner | Role::Importing | Role::Fenced { .. } | Role::Redirect | Role::Deleted => {
            refuse("NOT_OWNER", format!("this cell was {:?} at epoch {} before", next.role, next.epoch))
        }
    }
}

/// Refuse a deleted tenant for good.
pub(crate) fn revoke(control: Option<&Control>, context: &Context, has_copy: bool) -> Next {
    let next = succeed(control, context, has_copy)?;
    Ok(Control {
        role: Role::Deleted,
        epoch: context.epoch,
        capture: None,
        sync: false,
        follow: None,
        reverse: None,
        mapping: None,
        emptying: true,
        ..next
    })
}

/// Copy from another cell.
pub(crate) fn prepare_import(
    control: Option<&Control>,
    context: &Context,
    has_copy: bool,
    source: (&CellId, &str),
) -> Next {
    let next = succeed(control, context, has_copy)?;
    let move_id = context.move_id;
    let follow = Follow { move_id, leg: context.leg, cell: source.0.clone(), agent: source.1.into() };
    let same = next.follow.as_ref().is_some_and(|follow| follow.move_id == move_id);
    match next.role {
        Role::Importing if same => Ok(Control { follow: Some(follow), epoch: context.epoch, ..next }),
        Role::Nothing | Role::Redirect if move_id <= next.ended => {
            refuse("STALE_ATTEMPT", format!("the copy of {move_id} has ended here"))
        }
        Role::Nothing | Role::Redirect if !has_copy => Ok(Control {
            role: Role::Importing,
            epoch: context.epoch,
            follow: Some(follow),
            capture: None,
            sync: false,
            reverse: None,
            ..next
        }),
        Role::Nothing | Role::Redirect | Role::Importing => refuse("BUSY", "an older copy is still here"),
        Role::Owner | Role::Fenced { .. } => refuse("OWNS", "this cell owns the tenant itself"),
        Role::Deleted => refuse("NOT_IMPORTING", "the tenant is deleted"),
    }
}

/// Keep changes from `last` on for the copying cell.
pub(crate) fn start_capture(control: &Control, context: &Context, last: Seq) -> Next {
    let next = owner(control, context, false)?;
    match &next.capture {
        Some(capture) if capture.move_id == context.move_id && capture.overflowed => {
            refuse("CAPTURE_OVERFLOW", "more changes were captured than are kept")
        }
        Some(capture) if capture.move_id == context.move_id => Ok(next),
        _ => {
            let capture = Some(Capture { move_id: context.move_id, from: last, overflowed: false });
            Ok(Control { capture, sync: false, ..next })
        }
    }
}

fn captured_for<'a>(control: &'a Control, context: &Context) -> Result<&'a Capture, Refusal> {
    match &control.capture {
        Some(capture) if capture.move_id == context.move_id && capture.overflowed => {
            Err(Refusal::new("CAPTURE_OVERFLOW", "more changes were captured than are kept"))
        }
        Some(capture) if capture.move_id == context.move_id => Ok(capture),
        _ => Err(Refusal::new("NOT_OWNER", format!("nothing is captured for {}", context.move_id))),
    }
}

/// Answer writes only when the follower holds them, or no longer so.
pub(crate) fn engage_sync(control: &Control, context: &Context, engaged: bool) -> Next {
    let next = owner(control, context, false)?;
    if engaged {
        captured_for(&next, context)?;
    }
    Ok(Control { sync: engaged, ..next })
}

/// Capture from the first own write on.
pub(crate) fn prepare_reverse(control: &Control, context: &Context) -> Next {
    let next = admit(control, context, false)?;
    match &next.follow {
        Some(follow) if next.role == Role::Importing && follow.move_id == context.move_id => {
            Ok(Control { reverse: Some(context.move_id), ..next })
        }
        _ => refuse("NOT_IMPORTING", format!("nothing is imported for {}", context.move_id)),
    }
}

/// What a hold needs. The hold itself is not durable.
pub(crate) fn hold_writes(control: &Control, context: &Context) -> Next {
    let next = owner(control, context, false)?;
    captured_for(&next, context)?;
    Ok(next)
}

/// Refuse everything from now on: the seal of this attempt stands, and nothing was written after it.
pub(crate) fn fence(
    control: &Control,
    context: &Context,
    wanted: Seq,
    sealed: Result<Seq, Refusal>,
    last: Seq,
) -> Next {
    let next = admit(control, context, false)?;
    let fenced = Role::Fenced { move_id: context.move_id, attempt: context.attempt, seq: wanted };
    if next.role == fenced && next.epoch == context.epoch {
        return Ok(next);
    }
    let next = owner(control, context, false)?;
    let sealed = sealed?;
    if sealed != wanted || last != wanted {
        return refuse("NOT_SEALED", format!("sealed at {sealed}, last write {last}, asked to fence at {wanted}"));
    }
    Ok(Control { role: fenced, ..next })
}

/// Own again, at a higher epoch.
pub(crate) fn unfence(control: &Control, context: &Context) -> Next {
    let next = admit(control, context, false)?;
    match next.role {
        Role::Owner if next.epoch == context.epoch => Ok(next),
        // Also where the fence was refused: the epoch rose all the same.
        Role::Owner | Role::Fenced { .. } if next.epoch < context.epoch => {
            Ok(Control { role: Role::Owner, epoch: context.epoch, ..next })
        }
        Role::Nothing | Role::Owner | Role::Importing | Role::Fenced { .. } | Role::Redirect | Role::Deleted => {
            refuse("NOT_FENCED", format!("this cell is {:?} at epoch {}", next.role, next.epoch))
        }
    }
}

/// Own: COMMIT has raised the epoch. `complete`: every row is here and nothing has failed.
pub(crate) fn activate(
    control: &Control,
    context: &Context,
    complete: bool,
    last: Seq,
    keeps_follower: bool,
) -> Next {
    let next = admit(control, context, false)?;
    if next.role == Role::Owner && next.epoch == context.epoch {
        return Ok(next);
    }
    let copies = next.follow.as_ref().is_some_and(|follow| follow.move_id == context.move_id);
    if !(copies && matches!(next.role, Role::Importing | Role::Redirect)) {
        return refuse(
            "NOT_IMPORTING",
            format!("this cell is {:?} and copies nothing of {}", next.role, context.move_id),
        );
    }
    if next.epoch >= context.epoch {
        return refuse(
            "STALE_EPOCH",
            format!("the copy was prepared at epoch {}; owning needs a higher one", next.epoch),
        );
    }
    if !complete {
        return refuse("NOT_APPLIED", "the copy is not complete");
    }
    let captures = keeps_follower || next.reverse == Some(context.move_id);
    let capture = captures.then_some(Capture { move_id: context.move_id, from: last, overflowed: false });
    Ok(owned(next, context, capture))
}

/// The one that owns from now on, at the epoch of this step.
fn owned(before: Control, context: &Context, capture: Option<Capture>) -> Control {
    Control {
        role: Role::Owner,
        epoch: context.epoch,
        capture,
        sync: false,
        follow: None,
        reverse: None,
        mapping: None,
        ..before
    }
}

/// A mapping whose signature holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery<'a> {
    pub(crate) signed: &'a SignedMapping,
    pub(crate) routed: &'a RoutedMapping,
    pub(crate) here: &'a CellId,
    pub(crate) follow: Option<(&'a CellId, &'a str)>,
}

/// Hand out the mapping from now on, and follow the new owner where that is wanted.
pub(crate) fn deliver_mapping(control: &Control, context: &Context, delivery: Delivery<'_>) -> Next {
    let next = admit(control, context, false)?;
    let mapping = &delivery.routed.mapping;
    if mapping.uid != next.uid || mapping.epoch <= next.epoch || &mapping.owner == delivery.here {
        let reason =
            format!("the mapping names {} at epoch {}, this cell has {}", mapping.owner, mapping.epoch, next.epoch);
        return refuse("STALE_EPOCH", reason);
    }
    match next.role {
        Role::Fenced { .. } | Role::Redirect => {}
        Role::Nothing | Role::Owner | Role::Importing | Role::Deleted => {
            return refuse("NOT_FENCED", format!("this cell is {:?}, not fenced", next.role));
        }
    }
    // A copy that has been retired may be half deleted: it never follows again.
    let alive = !next.emptying && (next.role != Role::Redirect || next.follow.is_some());
    let follow = delivery.follow.filter(|_| alive && context.move_id > next.ended).map(|(cell, agent)| Follow {
        move_id: context.move_id,
        leg: context.leg,
        cell: cell.clone(),
        agent: agent.into(),
    });
    Ok(Control {
        role: Role::Redirect,
        mapping: Some(delivery.signed.clone()),
        capture: None,
        sync: false,
        reverse: None,
        follow,
        ..next
    })
}

/// Whether a step that ends something may go on to delete rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Nothing of that move is here any more.
    Gone,
    /// Nothing is to be deleted, but this is to be remembered.
    Keep(Control),
    /// Make this durable, then delete the copy, checking it in each batch.
    Empty(Control),
}

/// Take away what an ended move has copied here. Remembered even where nothing is here, so that a late PrepareImport
/// makes no orphan.
pub(crate) fn drop_import(control: Option<&Control>, context: &Context) -> Result<Ending, Refusal> {
    let ended = context.move_id;
    let Some(control) = control.filter(|control| control.uid >= context.uid) else {
        return match succeed(control, context, true) {
            Ok(next) => Ok(Ending::Keep(Control { ended, ..next })),
            Err(_) => Ok(Ending::Gone),
        };
    };
    if control.uid > context.uid {
        return Ok(Ending::Gone);
    }
    let next = admit(control, context, true)?;
    let ended = next.ended.max(ended);
    let emptied = |role: Role, next: Control| {
        Ending::Empty(Control { role, follow: None, reverse: None, ended, emptying: true, ..next })
    };
    match next.role {
        // A newer move's copy stays, and so does what a newer move has made of this cell.
        Role::Importing | Role::Redirect | Role::Owner if next.move_id > context.move_id => Ok(Ending::Gone),
        Role::Importing if next.mapping.is_some() => Ok(emptied(Role::Redirect, next)),
        Role::Nothing if !next.emptying => Ok(Ending::Keep(Control { ended, ..next })),
        Role::Importing | Role::Nothing => Ok(emptied(Role::Nothing, next)),
        // The way back has left this copy behind, or it was being dropped before.
        Role::Redirect if next.emptying || context.leg == Some(Leg::Back) => Ok(emptied(Role::Redirect, next)),
        // The tombstone of an earlier move, or a retained copy: reclaim is for that.
        Role::Redirect => Ok(Ending::Keep(Control { ended, ..next })),
        Role::Deleted => Ok(Ending::Gone),
        Role::Owner | Role::Fenced { .. } => {
            Err(Refusal::new("OWNS", format!("this cell is {:?} at epoch {}", next.role, next.epoch)))
        }
    }
}

/// Keep no changes any more for a move that has ended.
pub(crate) fn stop_capture(control: &Control, context: &Context) -> Next {
    let next = admit(control, context, true)?;
    match &next.capture {
        Some(capture) if capture.move_id <= context.move_id => match next.role {
            Role::Fenced { .. } => refuse("BUSY", "the cell is fenced: the control plane decides first"),
            Role::Nothing | Role::Owner | Role::Importing | Role::Redirect | Role::Deleted => {
                Ok(Control { capture: None, sync: false, ..next })
            }
        },
        _ => Ok(next),
    }
}

/// Follow nobody any more; only redirect.
pub(crate) fn retire(control: &Control, context: &Context) -> Next {
    let next = admit(control, context, true)?;
    let ended = next.ended.max(context.move_id);
    match next.role {
        Role::Redirect => {
            let follow = next.follow.clone().filter(|follow| follow.move_id > context.move_id);
            Ok(Control { follow, ended, ..next })
        }
        // A newer copy has taken its place, or nothing is left.
        Role::Nothing | Role::Importing | Role::Deleted => Ok(next),
        Role::Owner | Role::Fenced { .. } => {
            refuse("OWNS", format!("this cell is {:?} at epoch {}", next.role, next.epoch))
        }
    }
}

/// Delete an old copy: only behind a tombstone, fenced at exactly that epoch.
pub(crate) fn reclaim(control: Option<&Control>, context: &Context, fenced: Epoch) -> Result<Ending, Refusal> {
    let Some(control) = control else { return Ok(Ending::Gone) };
    if control.uid > context.uid {
        return Ok(Ending::Gone);
    }
    let next = admit(control, context, true)?;
    match next.role {
        Role::Redirect if next.epoch > fenced => Ok(Ending::Gone),
        Role::Redirect if next.epoch < fenced => {
            Err(Refusal::new("NOT_FENCED", format!("this cell was fenced at {}, not at {fenced}", next.epoch)))
        }
        Role::Redirect if next.follow.is_some() => Err(Refusal::new("BUSY", "the copy still follows the owner")),
        Role::Redirect => {
            Ok(Ending::Empty(Control { ended: next.ended.max(context.move_id), emptying: true, ..next }))
        }
        Role::Nothing | Role::Importing | Role::Deleted => Ok(Ending::Gone),
        Role::Owner | Role::Fenced { .. } => {
            Err(Refusal::new("OWNS", format!("this cell is {:?} at epoch {}", next.role, next.epoch)))
        }
    }
}

#[cfg(test)]
mod tests;
