//! What is promised in every state and over every step: the invariants of cell-model, and what only shows here, where
//! clients' writes have numbers.

use cell_model::invariants::{Violation, check, check_succession};
use cell_model::{Intent, Leg, Move, Phase, Uid};

use crate::cell::{Grant, Rows};
use crate::{Ended, Log, Mutant, Place, World};

/// A promise's bit.
pub type Promise = u16;

/// Broken promises, a bit each. P3 is the third principle of `docs/migration.md`; ORDER is that phases follow each other as they are
/// drawn there, and ASKED that a move does what its operator has asked for. WAITS: a cell without a gate refuses no write of a router that was not cut off
/// while it was on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Broken(u16);

macro_rules! promises {
    ($($name:ident $id:literal $bit:literal;)*) => {
        $(#[doc = concat!("The bit of ", $id, ".")] pub const $name: Promise = 1 << $bit;)*
        /// Every promise that is judged, with its bit.
        pub const IDS: &[(&str, Promise)] = &[$(($id, $name)),*];
    };
}

promises! {
    I1 "I1" 0;
    I2 "I2" 1;
    I3 "I3" 2;
    I4 "I4" 3;
    I5 "I5" 4;
    I6 "I6" 5;
    I7 "I7" 6;
    I10 "I10" 7;
    I11 "I11" 8;
    I12 "I12" 9;
    P3 "P3" 10;
    ORDER "ORDER" 11;
    ASKED "ASKED" 12;
    WAITS "WAITS" 13;
}

impl Broken {
    /// Whether any is.
    #[must_use]
    pub const fn any(self) -> bool {
        self.0 != 0
    }

    /// Whether this one is.
    #[must_use]
    pub const fn has(self, promise: Promise) -> bool {
        self.0 & promise != 0
    }

    /// This one is, too.
    pub const fn note(&mut self, promise: Promise) {
        self.0 |= promise;
    }

    /// These are, too.
    ///
    /// # Panics
    /// Where a promise is broken that this model cannot break: it has no time (I9, I15), and no more than one client that does
    /// not retry (I8, I13, I14), nor tables (I16). `docs/invariants.md` says where those are judged.
    pub fn add(&mut self, violations: &[Violation]) {
        for violation in violations {
            let known = IDS.iter().find(|(id, _)| *id == violation.id);
            self.0 |= known.expect("every promise of cell-model that a state can break has a bit").1;
        }
    }

    /// The ids of those that are.
    pub fn ids(self) -> impl Iterator<Item = &'static str> {
        IDS.iter().filter(move |(_, promise)| self.has(*promise)).map(|(id, _)| *id)
    }
}

/// Judges the step from `before` to `after`.
pub(crate) fn judge(before: &World, after: &mut World, mutant: Option<Mutant>) {
    if before.cells == after.cells && before.ledger == after.ledger && before.routers == after.routers {
        return;
    }
    let uid = Uid(1);
    let mut broken = after.broken;
    let sight = |world: &World, place: Place| world.cell(place).sight(place.id(), uid);
    let sights = Place::ALL.map(|place| sight(after, place));
    for place in Place::ALL {
        if before.cell(place) != after.cell(place) {
            broken.add(&check_succession(&sight(before, place), &sights[place.index()]));
        }
    }
    broken.add(&check(&after.ledger.record, &sights));
    for place in Place::ALL {
        judge_cell(after, place, &mut broken);
    }
    judge_copies(after, &mut broken);
    after.judge_reads(mutant, &mut broken);
    judge_course(before, after, &mut broken);
    after.broken = broken;
}

fn judge_cell(world: &World, place: Place, broken: &mut Broken) {
    let cell = world.cell(place);
    // Reads, too, must show every write that a client was told of.
    if cell.role().serves() && world.acked & !world.given_up & !cell.log.writes() != 0 {
        broken.note(I3);
    }
    // Clients number their writes in the order in which they are executed.
    if !is_rising(&cell.log) {
        broken.note(I7);
    }
    if matches!(cell.grant, Grant::Owner | Grant::Fenced { .. }) {
        if cell.rows != Rows::Complete {
            broken.note(I12);
        }
        if cell.damaged {
            broken.note(I6);
        }
    }
}

/// What a new owner by force has is what the old one had up to there; and what was given up with it is at the old one, until
/// an operator lets go of it.
fn judge_tails(world: &World, broken: &mut Broken) {
    for copy in &world.ledger.record.retained {
        let Some(quarantine) = copy.quarantine.filter(|quarantine| !quarantine.dropped) else { continue };
        let place = Place::of(&copy.cell);
        let (old, new) = (world.cell(place), world.cell(place.other()));
        let after = crate::ledger::small(quarantine.after.0);
        if old.rows == Rows::Complete && old.log.up_to(after) != new.log.up_to(after) {
            broken.note(I6);
        }
        if world.given_up & !old.log.writes() & !new.log.writes() != 0 {
            broken.note(I12);
        }
    }
}

fn is_rising(log: &Log) -> bool {
    (2..=log.last()).all(|seq| log.at(seq - 1) < log.at(seq))
}

/// Nothing may be destroyed that a decision has made the tenant's home, or that is kept for a way back.
fn judge_copies(world: &World, broken: &mut Broken) {
    let record = &world.ledger.record;
    let is_gone = |cell: &cell_model::CellId| world.cell(Place::of(cell)).rows != Rows::Complete;
    let committed = record.movement.as_ref().filter(|movement| movement.phase == Phase::Activate);
    let home = committed.is_some_and(|movement| is_gone(movement.to()));
    let kept = record.retained.iter().any(|copy| !copy.reclaiming && is_gone(&copy.cell));
    judge_tails(world, broken);
    if home || kept {
        broken.note(I12);
    }
}

/// What became of a move in this step.
fn judge_course(before: &World, after: &World, broken: &mut Broken) {
    let (was, is) = (&before.ledger.record.movement, &after.ledger.record.movement);
    let Some(was) = was else { return };
    let Some(is) = is else {
        if !may_end(was) {
            broken.note(ORDER);
        }
        if after.ledger.ended == Some(Ended::Completed) && was.intent != Intent::Run {
            broken.note(ASKED);
        }
        return;
    };
    if was.id != is.id || !may_follow(was, is) {
        broken.note(ORDER);
    }
    let begins = |phase: Phase| was.phase == phase && is.phase == Phase::Hold;
    let leaves = begins(Phase::Sync) && was.intent != Intent::Run;
    let goes_back = begins(Phase::Soak) && was.intent != Intent::Rollback;
    // A cancel is refused, or it keeps the tenant where it is.
    let goes_on = was.intent == Intent::Cancel && is.intent != Intent::Cancel;
    if leaves || goes_back || goes_on {
        broken.note(ASKED);
    }
}

fn may_end(was: &Move) -> bool {
    match was.phase {
        Phase::Preflight | Phase::Soak | Phase::Cleanup => true,
        Phase::Activate => was.takeover.is_some(),
        _ => false,
    }
}

/// The picture of phases in `docs/migration.md`.
fn may_follow(was: &Move, is: &Move) -> bool {
    use Leg::{Back, Forward};
    use Phase::{
        Activate, Backfill, CatchUp, Cleanup, Fenced, Hold, Preflight, Prepare, Soak, Sync, Unfence, Verify,
    };
    if (was.leg, was.phase) == (is.leg, is.phase) {
        return true;
    }
    if is.takeover.is_some() && was.takeover.is_none() {
        return is.phase == Activate && !matches!(was.phase, Preflight | Prepare | Backfill | Cleanup);
    }
    if was.leg != is.leg {
        return matches!((was.leg, was.phase, is.phase), (Forward, Soak, Hold) | (Back, Hold | Unfence, Soak));
    }
    matches!(
        (is.leg, was.phase, is.phase),
        (Forward, Preflight, Prepare)
            | (Forward, Prepare, Backfill | Cleanup)
            | (Forward, Backfill, CatchUp | Cleanup)
            | (Forward, CatchUp, Verify | Sync | Cleanup)
            | (Forward, Verify, Sync | Cleanup)
            | (Forward, Sync, CatchUp | Hold | Cleanup)
            | (Forward, Hold, Fenced | Sync | CatchUp | Cleanup)
            | (Forward, Activate, Soak)
            | (Forward, Unfence, Sync | Cleanup)
            | (Back, Hold, Fenced)
            | (Back, Activate, Cleanup)
            | (_, Fenced, Activate | Unfence)
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cell_model::Digest;
    use cell_model::invariants::Role;

    use super::*;
    use crate::configurations::EVERYTHING;
    use crate::{Cell, Desk};

    #[test]
    fn the_page_of_invariants_says_what_the_model_judges() {
        let page = include_str!("../../../docs/invariants.md");
        let rows = page.lines().filter(|line| line.starts_with("| I"));
        let cells = rows.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
        let said: Vec<&str> = cells.filter(|cells| cells[4] == "yes").map(|cells| cells[1]).collect();
        let judged: Vec<&str> = IDS.iter().map(|(id, _)| *id).filter(|id| id.starts_with('I')).collect();
        assert_eq!(said, judged);
    }

    /// Found by a random walk: a tenant was taken over and its old owner's copy let go of, and before that was gone the next
    /// move went back there.
    #[test]
    fn what_an_earlier_move_has_left_at_the_target_is_not_compared_and_what_this_one_makes_is() {
        let world = World::first(&EVERYTHING, &Arc::<Desk>::default());
        let record = &world.ledger.record;
        let movement = record.movement.as_ref().expect("it begins with a move");
        let from = Cell::owner().sight(movement.from().clone(), Uid(1));
        let other = Digest { rows: 7, sum: 7 };
        let to = |role, works_for| {
            let mut to = Cell::owner().sight(movement.to().clone(), Uid(1));
            (to.role, to.works_for, to.digest) = (role, works_for, Some(other));
            check(record, &[from.clone(), to]).into_iter().map(|broken| broken.id).collect::<Vec<_>>()
        };
        assert_eq!(to(Role::Redirect, None), [""; 0]);
        assert_eq!(to(Role::Redirect, Some(movement.id)), ["I6"], "on the way back the old owner follows");
        assert_eq!(to(Role::Importing, Some(movement.id)), ["I6"]);
    }
}
