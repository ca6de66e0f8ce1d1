//! The model as stateright checks it: promises that always hold, and situations that must be reachable, so that no
//! promise holds only because nothing ever happens.

use std::sync::Arc;

use cell_model::{Hold, HoldSight, Leg, Phase, SyncMode};
use stateright::{Model, Property};

use crate::cell::{Grant, Rows};
use crate::settling::Settled;
use crate::{Action, Bounds, Desk, Ended, Place, Router, World, judge, settling};

/// One configuration, ready to be checked.
#[derive(Debug)]
pub struct CellModel {
    /// How large it is.
    pub bounds: Bounds,
    settled: Settled,
    desk: Arc<Desk>,
    /// Actions that come to nothing are left out.
    walked: bool,
}

impl CellModel {
    /// A configuration.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let desk = Arc::new(Desk::without(bounds.off));
        Self { bounds, settled: Settled::default(), desk, walked: false }
    }

    /// A configuration for random walks. Stateright numbers the steps of a walk within what is left of a state's actions
    /// once it has tried one that comes to nothing, and cannot tell such a walk again: here each action is a step.
    #[must_use]
    pub(crate) fn walked(bounds: Bounds) -> Self {
        Self { walked: true, ..Self::new(bounds) }
    }
}

impl Model for CellModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::first(&self.bounds, &self.desk)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(&self.bounds, actions);
        if self.walked {
            actions.retain(|action| world.after(&self.bounds, *action).is_some());
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        world.after(&self.bounds, action)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.ledger.epoch() <= Bounds::EPOCH_MAX
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = PROMISES.map(|(name, holds)| Property::always(name, holds)).to_vec();
        if self.bounds.ends {
            properties.push(Property::always(ENDS, ends));
        }
        let wanted = REACHABLE.iter().filter(|(name, _)| self.bounds.reaches.contains(name));
        properties.extend(wanted.map(|(name, seen)| Property::sometimes(name, *seen)));
        properties
    }
}

type Condition = fn(&CellModel, &World) -> bool;

/// The name under which liveness is reported.
pub const ENDS: &str = "every move ends once nothing more goes wrong, and leaves nothing behind";

const PROMISES: [(&str, Condition); 14] = [
    ("I1: one cell at most accepts writes", |_, world| !world.broken.has(judge::I1)),
    ("I2: the epoch never goes back", |_, world| !world.broken.has(judge::I2)),
    ("I3: every acknowledged write is readable at whoever serves", |_, world| !world.broken.has(judge::I3)),
    ("I4: no write behind a fence", |_, world| !world.broken.has(judge::I4)),
    ("I5: the target serves nothing before COMMIT", |_, world| !world.broken.has(judge::I5)),
    ("I6: copies at the same change are equal", |_, world| !world.broken.has(judge::I6)),
    ("I7: each write is executed and applied once, in order", |_, world| !world.broken.has(judge::I7)),
    ("I10: a fence ends only by a decision", |_, world| !world.broken.has(judge::I10)),
    ("I11: an older leader has no effect", |_, world| !world.broken.has(judge::I11)),
    ("I12: nothing is destroyed that is owned or kept", |_, world| !world.broken.has(judge::I12)),
    ("P3: in Sync nothing is answered that the target lacks", |_, world| !world.broken.has(judge::P3)),
    ("ORDER: phases follow each other as they are drawn", |_, world| !world.broken.has(judge::ORDER)),
    ("ASKED: a move does what its operator has asked for", |_, world| !world.broken.has(judge::ASKED)),
    ("WAITS: no write of a router that is not cut off is refused where no gate is", |_, world| {
        !world.broken.has(judge::WAITS)
    }),
];

fn ends(model: &CellModel, world: &World) -> bool {
    world.broken.any() || settling::ends(world, &model.bounds, &model.settled)
}

fn phase_is(world: &World, wanted: Phase, leg: Leg) -> bool {
    world.ledger.record.movement.as_ref().is_some_and(|movement| (movement.phase, movement.leg) == (wanted, leg))
}

fn stands(world: &World, as_wanted: impl Fn(&Router, Option<HoldSight>) -> bool) -> bool {
    world.stands().iter().any(|(router, sight)| as_wanted(router, *sight))
}

/// Situations that configurations name as those that they must reach.
pub const REACHABLE: [(&str, Condition); 34] = [
    ("a hold waits for a router that has not seen it", |_, world| {
        world.awaits_routers() && stands(world, |_, sight| sight == Some(HoldSight::Behind))
    }),
    ("a hold waits for a write that a router has sent", |_, world| {
        let sends = |router: &Router, sight| router.sending.is_some() && sight == Some(HoldSight::Sending);
        world.awaits_routers() && stands(world, sends)
    }),
    ("a hold goes on without a router whose lease has run out", |_, world| {
        let routers = world.ledger.record.movement.as_ref().and_then(|movement| movement.acks.routers);
        phase_is(world, Phase::Fenced, Leg::Forward) && routers.is_some_and(|routers| routers.fenced > 0)
    }),
    ("a way back waits for a router", |_, world| phase_is(world, Phase::Hold, Leg::Back) && world.awaits_routers()),
    ("a new leader waits for leases of the one before", |_, world| {
        let former = |router: &Router, _| router.lease.is_some_and(|term| term < world.term);
        world.awaits_routers() && world.zombie.is_some() && stands(world, former)
    }),
    ("a write of a router that was cut off meets the fence", |_, world| {
        let refused = |place: Place| matches!(world.cell(place).grant, Grant::Fenced { .. } | Grant::Redirect);
        stands(world, |router, _| router.sending.is_some_and(|sending| sending.cut && refused(sending.to)))
    }),
    ("writes wait until a new owner without a gate may serve", |_, world| {
        let (newest, waits) = (world.ledger.newest_shown(), |table| world.ledger.shown(table).hold == Hold::All);
        let waits = |router: &Router, _| router.lease.is_some() && router.table == newest && waits(newest);
        phase_is(world, Phase::Activate, Leg::Forward) && stands(world, waits)
    }),
    ("a router sends to the new owner", |_, world| {
        stands(world, |router, _| router.sending.is_some_and(|sending| sending.to == Place::B))
    }),
    ("a copy that differs is mended", |_, world| {
        let verified = |movement: &cell_model::Move| movement.acks.verified_full.is_some();
        world.ledger.record.movement.as_ref().is_some_and(|movement| {
            verified(movement) && !movement.differences.is_empty() && !world.cell(Place::of(movement.to())).damaged
        })
    }),
    ("a copy that differs at the seal is compared as a whole again", |_, world| {
        let at_the_seal = |found: &cell_model::Difference| found.phase == Phase::Hold;
        phase_is(world, Phase::Verify, Leg::Forward)
            && world
                .ledger
                .record
                .movement
                .as_ref()
                .is_some_and(|movement| movement.differences.iter().any(at_the_seal))
    }),
    ("a copy that differs too often is given up", |_, world| {
        phase_is(world, Phase::Cleanup, Leg::Forward)
            && world.ledger.record.movement.as_ref().is_some_and(|movement| movement.differences.len() > 3)
    }),
    ("a move rests because the old owner's copy differs", |_, world| {
        phase_is(world, Phase::Soak, Leg::Forward)
            && world.ledger.record.movement.as_ref().is_some_and(|movement| {
                movement.intent == cell_model::Intent::Pause && !movement.differences.is_empty()
            })
    }),
    ("a tenant is taken over on its way back", |_, world| {
        world.ledger.ended == Some(Ended::TakenOver) && world.ledger.epoch() == 4
    }),
    ("a tenant is taken over and nothing is lost", |_, world| {
        world.ledger.ended == Some(Ended::TakenOver) && world.acked != 0 && world.given_up == 0
    }),
    ("a tenant is taken over and writes are missing", |_, world| {
        world.ledger.ended == Some(Ended::TakenOver) && world.given_up != 0
    }),
    ("a tail is put aside and the new owner goes on", |_, world| {
        Place::ALL.into_iter().any(|place| {
            let (old, new) = (world.cell(place), world.cell(place.other()));
            let tail = old.put_aside.is_some_and(|after| old.log.last() > after);
            tail && new.taken.is_some_and(|(_, seq)| new.log.last() > seq)
        })
    }),
    ("a cell that was taken over has started and asks", |_, world| {
        Place::ALL.into_iter().any(|place| {
            let old = world.cell(place);
            old.unconfirmed && old.grant == Grant::Owner && Place::of(&world.ledger.record.owner) != place
        })
    }),
    ("the new owner is taken over by the old one", |_, world| {
        world.ledger.ended == Some(Ended::TakenOver) && Place::of(&world.ledger.record.owner) == Place::A
    }),
    ("a move completes", |_, world| world.ledger.ended == Some(Ended::Completed)),
    ("a move is rolled back", |_, world| world.ledger.ended == Some(Ended::RolledBack)),
    ("a move is cancelled", |_, world| world.ledger.ended == Some(Ended::Cancelled)),
    ("a move is given up", |_, world| world.ledger.ended == Some(Ended::Aborted)),
    ("an abort after the fence", |_, world| {
        phase_is(world, Phase::Unfence, Leg::Forward) && matches!(world.cell(Place::A).grant, Grant::Fenced { .. })
    }),
    ("a rollback is aborted and the new owner goes on", |_, world| {
        phase_is(world, Phase::Soak, Leg::Forward) && world.ledger.epoch() > 2
    }),
    ("a hold lapses between seal and fence", |_, world| {
        let source = world.cell(Place::A);
        phase_is(world, Phase::Fenced, Leg::Forward) && source.grant == Grant::Owner && source.hold.is_none()
    }),
    ("a write after a lapsed hold", |_, world| {
        let sealed = world.ledger.record.movement.as_ref().and_then(|movement| movement.acks.sealed);
        let last = u64::from(world.cell(Place::A).log.last());
        phase_is(world, Phase::Fenced, Leg::Forward) && sealed.is_some_and(|sealed| sealed.seq.0 < last)
    }),
    ("a zombie is refused", |model, world| {
        let old = world.zombie.as_ref().map(|zombie| zombie.term);
        let calls = world.zombie_calls(model.bounds.mutant);
        old.is_some_and(|term| calls.iter().any(|call| world.cell(call.to).term > term))
    }),
    ("a zombie is obeyed where nobody newer has been", |model, world| {
        let calls = world.zombie_calls(model.bounds.mutant);
        calls.into_iter().any(|call| world.after(&model.bounds, Action::Zombie(call)).is_some())
    }),
    ("a write waits for the follower", |_, world| world.cell(Place::A).owed != 0),
    ("a write during the copy is acknowledged", |_, world| {
        let source = world.cell(Place::A);
        source.sync && world.acked != 0 && world.cell(Place::B).rows == Rows::Complete
    }),
    ("sync is given up", |_, world| {
        world.ledger.record.movement.as_ref().is_some_and(|movement| movement.acks.sync == SyncMode::Degrading)
    }),
    ("the new owner acknowledges a write that the old one then follows", |_, world| {
        let (old, new) = (world.cell(Place::A), world.cell(Place::B));
        phase_is(world, Phase::Soak, Leg::Forward)
            && new.log.last() > 0
            && old.follow.is_some()
            && old.log == new.log
    }),
    ("an old copy is reclaimed", |_, world| {
        let old = world.cell(Place::A);
        world.ledger.ended == Some(Ended::Completed) && old.grant == Grant::Redirect && old.rows == Rows::Absent
    }),
    ("a tenant moves there and back", |_, world| {
        world.ledger.moves == 2
            && world.ledger.ended == Some(Ended::Completed)
            && world.ledger.record.movement.is_none()
            && Place::of(&world.ledger.record.owner) == Place::A
    }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configurations::EVERYTHING;

    #[test]
    fn each_action_of_a_walk_is_a_step() {
        let (all, walked) = (CellModel::new(EVERYTHING), CellModel::walked(EVERYTHING));
        let mut world = walked.init_states().remove(0);
        let mut nothing = 0;
        for turn in 0..2_000 {
            let (mut offered, mut steps) = (Vec::new(), Vec::new());
            all.actions(&world, &mut offered);
            walked.actions(&world, &mut steps);
            nothing += offered.len() - steps.len();
            let next = steps.iter().map(|action| walked.next_state(&world, *action));
            let mut next: Vec<World> = next.map(|next| next.expect("it is a step")).collect();
            assert_eq!(steps, offered.into_iter().filter(|action| steps.contains(action)).collect::<Vec<_>>());
            world = match next.len() {
                0 => walked.init_states().remove(0),
                many => next.swap_remove(turn * 7_919 % many),
            };
        }
        assert!(nothing > 0, "some of what may happen comes to nothing");
    }
}
