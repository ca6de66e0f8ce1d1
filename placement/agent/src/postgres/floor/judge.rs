//! What is made of a tenant of which the database has less than was answered. Pure.
//!
//! | answered      | the database has                   | it becomes                                                      |
//! |---------------|------------------------------------|-----------------------------------------------------------------|
//! | owner         | owner, or the fence just before    | owner, as answered                                              |
//! | owner         | anything else: rows are missing    | fenced by nobody, and kept, until an operator decides           |
//! | fenced        | owner at that epoch                | fenced, as answered; kept, and follows nobody later             |
//! | redirect      | fenced at that epoch, or the same copy | redirect, and it follows on                                 |
//! | redirect      | anything else                      | redirect, and it follows no more; kept where it was an owner    |
//! | importing     | the same copy, shorter             | importing: its source knows whether that is too short           |
//! | importing     | anything else                      | importing, with nothing: the move ends                          |
//! | nothing, deleted | anything                        | as answered; what is there is deleted, but for what is kept     |
//!
//! Never an owner that was not answered for, and never a lower (uid, epoch).

use cell_model::{Attempt, MoveId, Seq};

use super::Least;
use crate::postgres::records::{Known, role_name};
use crate::record::{Control, Role};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has at least what was answered.
    Stands,
    Less(Box<Raised>),
}

/// What it has to have from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raised {
    pub(crate) control: Control,
    pub(crate) rows: RowsAfter,
    /// Rows are deleted only when an operator has let go of them.
    pub(crate) kept: bool,
    /// What was found, for people.
    pub(crate) what: String,
}

/// What becomes of the record of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowsAfter {
    Stays,
    /// They are those at the seal.
    IsWhole,
    Goes,
}

/// Fenced by no move: only an operator, or the tenant's deletion, ends it.
pub(crate) const NOBODY: Role = Role::Fenced { move_id: MoveId(0), attempt: Attempt(0), seq: Seq(0) };

pub(super) fn judge(least: &Least, found: Option<&Known>) -> Verdict {
    let was = &least.control;
    let grant = |control: &Control| (control.uid, control.epoch);
    let stands = found.is_some_and(|found| {
        let is = &found.control;
        let owns_again = is.role == Role::Owner && was.role != Role::Owner;
        grant(is) > grant(was) || grant(is) == grant(was) && found.number >= least.number && !owns_again
    });
    if stands {
        return Verdict::Stands;
    }
    let (control, rows, kept) = raised(least, found);
    let has = found.map_or_else(
        || "nothing".to_owned(),
        |found| format!("{} at epoch {}", role_name(found.control.role), found.control.epoch),
    );
    let what = format!("{} at epoch {} was answered, and the database had {has}", role_name(was.role), was.epoch);
    Verdict::Less(Box::new(Raised { control, rows, kept, what }))
}

fn raised(least: &Least, found: Option<&Known>) -> (Control, RowsAfter, bool) {
    let was = &least.control;
    let of_same = found.filter(|found| found.control.uid == was.uid);
    let has_rows = found.is_some_and(|found| found.copied.is_some() || found.control.emptying);
    // Writers were let in by what the database says, and by nothing else.
    let may_be_written = found.is_some_and(|found| found.control.role == Role::Owner);
    let closed = || (ended(Control { role: NOBODY, capture: None, ..was.clone() }), RowsAfter::Stays, has_rows);
    match was.role {
        Role::Owner if of_same.is_some_and(|found| goes_on(was, found)) => (was.clone(), RowsAfter::Stays, false),
        Role::Fenced { .. } if of_same.is_some_and(|found| is_before_the_fence(was, found)) => {
            // What it lacks, or has beside the others, no follower may have: for this move it is no copy.
            let ended = if may_be_written { was.ended.max(was.move_id) } else { was.ended };
            (Control { ended, ..was.clone() }, RowsAfter::Stays, may_be_written)
        }
        Role::Owner | Role::Fenced { .. } => closed(),
        Role::Redirect => match of_same.and_then(|found| followed(was, found)) {
            Some(rows) => (was.clone(), rows, false),
            None => {
                let emptying = has_rows && (was.emptying || !least.has_rows);
                let rows = if emptying { RowsAfter::Goes } else { RowsAfter::Stays };
                (Control { emptying, ..ended(was.clone()) }, rows, may_be_written)
            }
        },
        Role::Importing => {
            let is_copy = |found: &Known| {
                let move_id = |control: &Control| control.follow.as_ref().map(|follow| follow.move_id);
                found.control.role == Role::Importing && move_id(&found.control) == move_id(was)
            };
            let rows = if of_same.is_some_and(is_copy) { RowsAfter::Stays } else { RowsAfter::Goes };
            (was.clone(), rows, may_be_written)
        }
        Role::Nothing | Role::Deleted => {
            (Control { emptying: has_rows, ..was.clone() }, RowsAfter::Goes, may_be_written)
        }
    }
}

/// It follows and captures no more.
fn ended(control: Control) -> Control {
    let followed = control.follow.as_ref().map_or(MoveId(0), |follow| follow.move_id);
    Control { ended: control.ended.max(followed), follow: None, reverse: None, sync: false, ..control }
}

/// Nobody else has owned the tenant since, so nothing is missing but what the standby had not got.
fn goes_on(was: &Control, found: &Known) -> bool {
    let is = &found.control;
    let follows_at_once = was.epoch.0 == is.epoch.0 + 1;
    let goes_on = match is.role {
        Role::Owner => was.epoch == is.epoch || follows_at_once,
        // The next epoch was another cell's, or that of the end of this very fence.
        Role::Fenced { .. } => follows_at_once && is.role != NOBODY,
        Role::Nothing | Role::Importing | Role::Redirect | Role::Deleted => false,
    };
    goes_on && found.copied.is_some()
}

fn is_before_the_fence(was: &Control, found: &Known) -> bool {
    let is = &found.control;
    let owned = matches!(is.role, Role::Owner | Role::Fenced { .. });
    was.epoch == is.epoch && owned && found.copied.is_some()
}

/// How a copy that follows its new owner goes on; none where its rows are not known to be those that it had.
fn followed(was: &Control, found: &Known) -> Option<RowsAfter> {
    let is = &found.control;
    let has_copy = was.follow.is_some() && was.epoch == is.epoch && found.copied.is_some();
    match is.role {
        Role::Redirect if has_copy && is.follow == was.follow => Some(RowsAfter::Stays),
        Role::Fenced { .. } if has_copy => Some(RowsAfter::IsWhole),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use cell_model::{CellId, Epoch, Uid};

    use super::*;
    use crate::postgres::records::Copied;
    use crate::record::Follow;

    const FENCED: Role = Role::Fenced { move_id: MoveId(4), attempt: Attempt(1), seq: Seq(90) };

    fn follow() -> Follow {
        Follow { move_id: MoveId(4), leg: None, cell: CellId::new("b").unwrap(), agent: "b:1".into() }
    }

    fn control(role: Role, epoch: u64) -> Control {
        let follow = matches!(role, Role::Importing | Role::Redirect).then(follow);
        Control { uid: Uid(7), epoch: Epoch(epoch), role, move_id: MoveId(4), follow, ..Control::default() }
    }

    fn least(role: Role, epoch: u64) -> Least {
        Least { control: control(role, epoch), number: 5, has_rows: true }
    }

    fn has(role: Role, epoch: u64) -> Known {
        let copied = Some(Copied::whole());
        Known { control: control(role, epoch), copied, number: 4 }
    }

    fn less(least: &Least, found: Option<&Known>) -> Raised {
        match judge(least, found) {
            Verdict::Less(raised) => *raised,
            Verdict::Stands => panic!("{found:?} was taken for {least:?}"),
        }
    }

    #[test]
    fn what_is_as_new_or_newer_stands() {
        let same = Known { number: 5, ..has(Role::Owner, 2) };
        assert_eq!(judge(&least(Role::Owner, 2), Some(&same)), Verdict::Stands);
        assert_eq!(judge(&least(FENCED, 2), Some(&has(Role::Owner, 3))), Verdict::Stands, "a higher epoch");
        let newer = Known { number: 6, ..has(FENCED, 2) };
        assert_eq!(judge(&least(Role::Owner, 2), Some(&newer)), Verdict::Stands);
        // Whatever was counted elsewhere meanwhile: nobody owns again what was fenced at that epoch.
        let counted = Known { number: 50, ..has(Role::Owner, 2) };
        assert_eq!(less(&least(FENCED, 2), Some(&counted)).control.role, FENCED);
    }

    #[test]
    fn a_fence_that_was_lost_is_there_again_and_what_may_have_been_written_is_kept() {
        let raised = less(&least(FENCED, 2), Some(&has(Role::Owner, 2)));
        assert_eq!((raised.control.role, raised.rows, raised.kept), (FENCED, RowsAfter::Stays, true));
        assert_eq!(raised.control.ended, MoveId(4), "nor does it follow when the new owner is known");
        let raised = less(&least(Role::Redirect, 2), Some(&has(Role::Owner, 2)));
        assert_eq!((raised.control.role, raised.control.follow, raised.kept), (Role::Redirect, None, true));
        assert_eq!(raised.control.ended, MoveId(4), "it lacks what the standby had not got, and follows no more");
        let raised = less(&least(Role::Redirect, 2), Some(&has(FENCED, 2)));
        assert_eq!(
            (raised.control, raised.rows, raised.kept),
            (control(Role::Redirect, 2), RowsAfter::IsWhole, false)
        );
    }

    #[test]
    fn an_owner_goes_on_only_where_nobody_else_has_owned_since() {
        let owner = least(Role::Owner, 3);
        for before in [has(Role::Owner, 3), has(Role::Owner, 2), has(FENCED, 2)] {
            let raised = less(&owner, Some(&before));
            assert_eq!((raised.control, raised.kept), (owner.control.clone(), false), "{before:?}");
        }
        for before in [has(Role::Owner, 1), has(FENCED, 1), has(Role::Redirect, 1), has(Role::Importing, 2)] {
            let raised = less(&owner, Some(&before));
            assert_eq!(
                (raised.control.role, raised.control.epoch, raised.kept),
                (NOBODY, Epoch(3), true),
                "{before:?}"
            );
        }
        assert_eq!(less(&owner, None).control.role, NOBODY);
    }

    #[test]
    fn a_copy_goes_on_where_it_is_the_same_and_is_none_where_it_is_not() {
        let importing = least(Role::Importing, 2);
        assert_eq!(less(&importing, Some(&has(Role::Importing, 2))).rows, RowsAfter::Stays);
        for before in [Some(has(Role::Owner, 1)), Some(has(Role::Redirect, 1)), None] {
            let raised = less(&importing, before.as_ref());
            assert_eq!((raised.control.role, raised.rows), (Role::Importing, RowsAfter::Goes), "{before:?}");
        }
        let gone = Least { has_rows: false, ..least(Role::Redirect, 2) };
        let raised = less(&gone, Some(&has(Role::Redirect, 1)));
        assert!(
            raised.control.emptying && raised.rows == RowsAfter::Goes && !raised.kept,
            "what was deleted goes again"
        );
    }

    #[test]
    fn nobody_owns_that_was_not_answered_for_and_what_was_raised_stands() {
        let roles = [Role::Nothing, Role::Owner, Role::Importing, FENCED, NOBODY, Role::Redirect, Role::Deleted];
        let epochs = 1..=4;
        for (was, had) in roles.iter().flat_map(|was| roles.iter().map(move |had| (*was, *had))) {
            for (epoch, had_epoch) in epochs.clone().flat_map(|one| epochs.clone().map(move |other| (one, other))) {
                for copied in [true, false] {
                    let (least, mut found) = (least(was, epoch), has(had, had_epoch));
                    found.copied = found.copied.filter(|_| copied);
                    let Verdict::Less(raised) = judge(&least, Some(&found)) else { continue };
                    let now = &raised.control;
                    assert!((now.uid, now.epoch) >= (least.control.uid, least.control.epoch));
                    assert!(now.role != Role::Owner || was == Role::Owner && now.epoch == least.control.epoch);
                    assert!(raised.kept || had != Role::Owner || now.role == Role::Owner || !copied);
                    let copied = found.copied.filter(|_| raised.rows != RowsAfter::Goes);
                    let again = Known { control: now.clone(), copied, number: 6 };
                    let noted = Least { control: now.clone(), number: 6, has_rows: again.copied.is_some() };
                    assert_eq!(judge(&noted, Some(&again)), Verdict::Stands);
                }
            }
        }
    }
}
