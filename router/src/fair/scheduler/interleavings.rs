//! The way into a cell in every order of steps: nobody's turn is lost, and the count comes out even.

use loom::thread;

use super::*;
use crate::fair::queue::QueueLimits;

fn scheduler(limit: u32) -> Arc<Scheduler> {
    let range = LimitRange { initial: limit, min: limit, max: limit, slack: Duration::from_millis(5) };
    let queue = QueueLimits { per_flow_max: 1, total_max: 2 };
    Scheduler::new(ScheduleOptions { range, queue, wait_max: Duration::from_millis(250) }, Moment(0))
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

const PLAIN: Share = Share { cost: 1.0, weight: 1 };

/// What came of somebody who asked for room, once nobody else does anything any more.
fn got_in(queued: Result<Queued, Turned>) -> Option<bool> {
    match queued {
        Ok(Queued::Entered(permit)) => {
            drop(permit);
            Some(true)
        }
        Ok(Queued::Waits(mut place)) => {
            let turn = place.turn.try_recv();
            if turn == Ok(true) {
                place.over = true;
                drop(Permit { scheduler: Arc::clone(&place.scheduler) });
            }
            Some(turn == Ok(true))
        }
        Err(_) => None,
    }
}

fn nothing_is_left(scheduler: &Scheduler) {
    assert_eq!((scheduler.in_flight(), scheduler.waiting()), (0, 0));
    assert_eq!(scheduler.lock().len(), 0);
}

#[test]
fn who_queues_while_the_last_one_leaves_gets_the_turn() {
    loom::model(|| {
        let scheduler = scheduler(1);
        let inside = scheduler.try_enter().unwrap();
        let leaving = thread::spawn(move || drop(inside));
        let queued = scheduler.queue_up(&tenant("a"), PLAIN);
        leaving.join().unwrap();
        assert_eq!(got_in(queued), Some(true), "nobody is inside, and nobody is told");
        nothing_is_left(&scheduler);
    });
}

#[test]
fn two_who_want_in_while_one_leaves_both_get_their_turn() {
    loom::model(|| {
        let scheduler = scheduler(1);
        let inside = scheduler.try_enter().unwrap();
        let leaving = thread::spawn(move || drop(inside));
        let other = Arc::clone(&scheduler);
        let quick = thread::spawn(move || drop(other.try_enter()));
        let queued = scheduler.queue_up(&tenant("a"), PLAIN);
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
        let inside = scheduler.try_enter().unwrap();
        let goes = scheduler.queue_up(&tenant("a"), PLAIN).ok().unwrap();
        let stays = scheduler.queue_up(&tenant("b"), PLAIN);
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
        let inside = scheduler.try_enter().unwrap();
        let first = scheduler.queue_up(&tenant("a"), PLAIN);
        let leaving = thread::spawn(move || drop(inside));
        // One of a tenant may wait: this one is turned away, or finds the other's turn already come.
        let second = scheduler.queue_up(&tenant("a"), PLAIN);
        leaving.join().unwrap();
        assert_eq!(got_in(first), Some(true));
        assert_ne!(got_in(second), Some(false), "it was told that it waits, and nobody comes");
        nothing_is_left(&scheduler);
    });
}
