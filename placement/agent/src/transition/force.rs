//! Takeover by force, at both ends: pure, as every other step.
//!
//! ```text
//!  Importing, Redirect (following, or left by a rollback's COMMIT), Fenced ──OwnByForce(e+1)──► Owner, for nobody captured
//!  Owner, Fenced, Importing, Redirect, at an older epoch ──PutAside──► Redirect at the epoch at which it was taken over
//! ```

use cell_model::Epoch;

use super::{Context, Next, admit, refuse};
use crate::record::{Control, Role, TailRecord};
use crate::refusal::Refusal;
use cell_trust::{RoutedMapping, SignedMapping};

/// Whether this cell's copy is the one from which the tenant of this move may be taken over.
fn holds(control: &Control, context: &Context) -> Result<(), Refusal> {
    let copies = control.follow.as_ref().is_some_and(|follow| follow.move_id == context.move_id);
    let holds = match control.role {
        Role::Importing => copies,
        // It follows, or was fenced by this move and has not been told to do anything else: a retired copy is older.
        Role::Redirect => {
            copies || (control.move_id == context.move_id && control.ended < context.move_id && !control.emptying)
        }
        Role::Fenced { move_id, .. } => move_id == context.move_id,
        Role::Nothing | Role::Owner | Role::Deleted => false,
    };
    if holds {
        return Ok(());
    }
    let reason = format!("this cell is {:?} and has no copy of {}", control.role, context.move_id);
    Err(Refusal::new("NOT_IMPORTING", reason))
}

/// What it holds may be told: it could own.
pub(crate) fn look_at_copy(control: &Control, context: &Context) -> Result<(), Refusal> {
    let next = admit(control, context, false)?;
    holds(&next, context)
}

/// Own: the log has made this cell the owner, since the other one is out of reach.
pub(crate) fn own_by_force(control: &Control, context: &Context, complete: bool) -> Next {
    let next = admit(control, context, false)?;
    if next.role == Role::Owner && next.epoch == context.epoch {
        return Ok(next);
    }
    holds(control, context)?;
    if next.epoch >= context.epoch {
        return refuse("STALE_EPOCH", format!("the copy is of epoch {}; owning needs a higher one", next.epoch));
    }
    if !complete {
        return refuse("NOT_APPLIED", "the copy is not complete");
    }
    Ok(super::owned(next, context, None))
}

/// What a cell that was taken over is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict<'a> {
    pub(crate) signed: &'a SignedMapping,
    pub(crate) routed: &'a RoutedMapping,
    pub(crate) here: &'a cell_model::CellId,
    /// It owned at this epoch at the most.
    pub(crate) fenced: Epoch,
}

/// Own no more: somebody else does, by force. Whatever this cell is to the tenant, it only redirects from now on.
pub(crate) fn put_aside(control: &Control, context: &Context, verdict: Verdict<'_>) -> Next {
    let next = admit(control, context, false)?;
    let mapping = &verdict.routed.mapping;
    if mapping.uid != next.uid || mapping.epoch <= verdict.fenced || &mapping.owner == verdict.here {
        let reason = format!("the mapping names {} at epoch {}", mapping.owner, mapping.epoch);
        return refuse("STALE_EPOCH", reason);
    }
    if next.epoch > verdict.fenced {
        return refuse("OWNS", format!("this cell is {:?} at epoch {}", next.role, next.epoch));
    }
    match next.role {
        Role::Owner | Role::Fenced { .. } | Role::Importing | Role::Redirect | Role::Nothing => Ok(Control {
            role: Role::Redirect,
            epoch: verdict.fenced,
            mapping: Some(verdict.signed.clone()),
            capture: None,
            sync: false,
            follow: None,
            reverse: None,
            ended: next.ended.max(context.move_id),
            ..next
        }),
        Role::Deleted => refuse("STALE_UID", "the tenant is deleted"),
    }
}

/// Whoever lets go of a tail names the move in which it was put aside. After a restore of the control plane a copy may be reclaimed by
/// somebody who does not know of it.
pub(crate) fn let_go_of(tail: Option<&TailRecord>, context: &Context) -> Result<(), Refusal> {
    let kept = tail.filter(|tail| tail.move_id != context.move_id);
    match kept.filter(|tail| tail.changes > 0 || !tail.whole || !tail.done) {
        Some(tail) => Err(Refusal::new(
            "TAIL_QUARANTINED",
            format!("changes that nobody else has were put aside in {}", tail.move_id),
        )),
        None => Ok(()),
    }
}
