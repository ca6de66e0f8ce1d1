//! Does every move end? From a state on, nothing more goes wrong: the leader does what is pending, cells are sent what
//! they lack, late proposals are applied, delayed steps are lost. The move must then end within [`STEPS_MAX`] steps and
//! leave nothing behind.
//!
//! That is liveness under one fair schedule from every state that the faults can reach, not under every fair schedule:
//! a checker of finite runs cannot promise more.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use crate::cell::{Grant, Rows};
use crate::{Action, Bounds, Budget, Deed, Place, World};

/// The most steps that a move needs, from any state, if nothing more goes wrong.
pub const STEPS_MAX: usize = 120;

/// States from which a run without faults is known to end well, by fingerprint: most runs soon meet another one's.
#[derive(Debug, Default)]
pub struct Settled(Mutex<HashSet<u64>>);

impl Settled {
    fn has(&self, fingerprint: u64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&fingerprint)
    }

    fn learn(&self, fingerprints: Vec<u64>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(fingerprints);
    }
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Whether a run without faults comes to rest within [`STEPS_MAX`], with one owner and nothing left over.
#[must_use]
pub fn ends(world: &World, bounds: &Bounds, settled: &Settled) -> bool {
    let (delayed, zombie) = (Default::default(), None);
    let mut now = World { left: Budget::default(), delayed, zombie, ..world.clone() };
    let mut passed = Vec::new();
    for _ in 0..STEPS_MAX {
        let met = fingerprint(&now);
        if settled.has(met) {
            settled.learn(passed);
            return true;
        }
        passed.push(met);
        let Some(next) = step(&now, bounds) else {
            let rests = is_at_rest(&now);
            if rests {
                settled.learn(passed);
            }
            return rests;
        };
        now = next;
    }
    false
}

/// The first thing that changes something.
fn step(world: &World, bounds: &Bounds) -> Option<World> {
    let late = (0..Bounds::SLOTS).filter(|slot| world.late[*slot].is_some()).map(Action::Apply);
    let starts = Place::ALL.into_iter().filter(|place| world.cell(*place).stopped).map(Action::Start);
    let confirms = Place::ALL.into_iter().filter(|place| world.cell(*place).unconfirmed).map(Action::Confirm);
    let drops = Place::ALL.into_iter().map(Action::Drop);
    let reports =
        Place::ALL.into_iter().filter(|place| world.cell(*place).generation != world.ledger.generation(*place));
    let pulls = Place::ALL.into_iter().filter(|place| world.cell(*place).can_pull(world.cell(place.other())));
    let deeds = world.deeds(bounds).into_iter().map(|deed| match deed {
        Deed::Call(call) => Action::Call { call, again: false, late: false },
        Deed::Propose(note) => Action::Propose { note, late: false },
    });
    let cells =
        starts.chain(late).chain(confirms).chain(reports.map(Action::Report)).chain(pulls.map(Action::Pull));
    // An operator who has paused a move has it go on, some time.
    let paused = |world: &World| {
        let movement = world.ledger.record.movement.as_ref();
        movement.is_some_and(|movement| movement.intent == cell_model::Intent::Pause)
    };
    let resumes = paused(world).then_some(Action::Steer(cell_model::MoveIntent::Resume));
    let routers = world.turns_of_a_hold().into_iter();
    let mut actions = cells.chain(routers).chain(deeds).chain(drops).chain(resumes);
    actions.find_map(|action| world.after(bounds, action))
}

/// Whether one cell owns the tenant at the record's epoch, and nothing is left of any move.
#[must_use]
pub fn is_at_rest(world: &World) -> bool {
    let record = &world.ledger.record;
    let owner = Place::of(&record.owner);
    let (home, other) = (world.cell(owner), world.cell(owner.other()));
    record.movement.is_none()
        && record.retained.is_empty()
        && home.grant == Grant::Owner
        && home.epoch == world.ledger.epoch()
        && home.capture.is_none()
        && home.hold.is_none()
        && home.role().serves()
        && matches!(other.grant, Grant::Nothing | Grant::Redirect)
        && other.rows == Rows::Absent
        && other.follow.is_none()
        && other.capture.is_none()
        && !world.broken.any()
}
