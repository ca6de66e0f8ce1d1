//! The way into a cell in every order of steps: nobody's turn is lost, and the count comes out even.

use loom::thread;

use super::asker::{PLAIN, tenant};
use super::*;
use crate::fair::queue::QueueLimits;

fn scheduler(limit: u32) -> Arc<Scheduler> {
    let range = LimitRange { initial: limit, min: limit, max: limit, slack: Duration::from_millis(5) };
    let queue = QueueLimits { per_flow_max: 1, total_max: 2 };
    Scheduler::new(
        ScheduleOptions { range, queue, wait_max: Duration::from_millis(250), outside_max: 1 },
        Moment(0),
    )
}

/// What came of somebody who asked for room, once nobody else does anything any more.
fn got_in(queued: Result<Place, Turned>) -> Option<bool> {
    let mut place = queued.ok()?;
    let turn = place.turn.try_recv();
    let Ok(Call::In { spare }) = turn else { return Some(false) };
    place.over = true;
    drop(place.scheduler.permit(&place.places, place.epoch, spare));
    Some(true)
}

fn nothing_is_left(scheduler: &Scheduler) {
    assert_eq!((scheduler.in_flight(), scheduler.waiting()), (0, 0));
    assert_eq!(scheduler.lock().len(), 0);
}

#[test]
fn who_queues_while_the_last_one_leaves_gets_the_turn() {
    loom::model(|| {
        let scheduler = scheduler(1);
        let inside = scheduler.try_enter(tenant("c").guest()).unwrap();
        let leaving = thread::spawn(move || drop(inside));
        let queued = scheduler.queue_up(tenant("a").guest(), PLAIN);
        leaving.join().unwrap();
        assert_eq!(got_in(queued), Some(true), "nobody is inside, and nobody is told");
        nothing_is_left(&scheduler);
    });
}

#[test]
fn two_who_want_in_while_one_leaves_both_get_their_turn() {
    loom::model(|| {
        let scheduler = scheduler(1);
        let inside = scheduler.try_enter(tenant("c").guest()).unwrap();
        let leaving = thread::spawn(move || drop(inside));
        let other = Arc::clone(&scheduler);
        let quick = thread::spawn(move || drop(other.try_enter(tenant("d").guest())));
        let queued = scheduler.queue_up(tenant("a").guest(), PLAIN);
        leaving.join().unwrap();
        quick.join().unwrap();
        assert_eq!(got_in(queued), Some(true));
        nothing_is_left(&scheduler);
    });
}

#[test]
fn a_turn_that_comes_to_somebody_who_has_gone_goes_to_the_next() {
    loom::model(|| {
        let scheduler = scheduler(1);
        let inside = scheduler.try_enter(tenant("c").guest()).unwrap();
        let goes = scheduler.queue_up(tenant("a").guest(), PLAIN).ok().unwrap();
        let stays = scheduler.queue_up(tenant("b").guest(), PLAIN);
        let going = thread::spawn(move || drop(goes));
        drop(inside);
        going.join().unwrap();
        assert_eq!(got_in(stays), Some(true));
        nothing_is_left(&scheduler);
    });
}

#[test]
fn who_finds_the_queue_full_takes_nobody_s_turn_along() {
    loom::model(|| {
        let scheduler = scheduler(1);
        let inside = scheduler.try_enter(tenant("c").guest()).unwrap();
        let first = scheduler.queue_up(tenant("a").guest(), PLAIN);
        let leaving = thread::spawn(move || drop(inside));
        // One of a tenant may wait: this one is turned away, or finds the other's turn already come.
        let second = scheduler.queue_up(tenant("a").guest(), PLAIN);
        leaving.join().unwrap();
        assert_eq!(got_in(first), Some(true));
        assert_ne!(got_in(second), Some(false), "it was told that it waits, and nobody comes");
        nothing_is_left(&scheduler);
    });
}

#[test]
fn who_has_all_that_one_may_have_gets_the_turn_when_its_own_leaves() {
    loom::model(|| {
        let scheduler = scheduler(5);
        let a = tenant("a");
        let mut held: Vec<_> = (0..4).map(|_| scheduler.try_enter(a.guest()).unwrap()).collect();
        let leaves = held.pop();
        let leaving = thread::spawn(move || drop(leaves));
        let queued = scheduler.queue_up(a.guest(), PLAIN);
        leaving.join().unwrap();
        assert_eq!(got_in(queued), Some(true), "it has one less than it may have, and nobody is told");
        drop(held);
        assert_eq!(a.places.held(), 0);
        nothing_is_left(&scheduler);
    });
}

#[test]
fn a_spare_place_goes_to_one_that_has_none_as_the_limit_sinks() {
    loom::model(|| {
        let scheduler = scheduler(4);
        let a = tenant("a");
        let held: Vec<_> = (0..4).map(|_| scheduler.try_enter(a.guest()).unwrap()).collect();
        let sinks = Arc::clone(&scheduler);
        let sinking = thread::spawn(move || sinks.set_limit(3));
        let queued = scheduler.queue_up(tenant("b").guest(), PLAIN);
        sinking.join().unwrap();
        assert_eq!(got_in(queued), Some(true), "four of three places are one tenant's, and nobody is told");
        drop(held);
        nothing_is_left(&scheduler);
    });
}
