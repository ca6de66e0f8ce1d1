use std::sync::atomic::AtomicUsize;

use tokio::sync::Semaphore;

use super::asker::{PLAIN, tenant};
use super::*;
use crate::moment::Clock;

fn options(limit: u32) -> ScheduleOptions {
    ScheduleOptions {
        range: LimitRange { initial: limit, min: limit, max: limit, slack: Duration::from_millis(5) },
        queue: QueueLimits { per_flow_max: 64, total_max: 1_024 },
        wait_max: Duration::from_millis(250),
        outside_max: 2,
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[tokio::test(start_paused = true)]
async fn room_is_given_at_once_and_then_in_turn() {
    let scheduler = Scheduler::new(options(1), Moment(0));
    let (a, b) = (tenant("a"), tenant("b"));
    let first = scheduler.enter(a.guest(), PLAIN, far()).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    for (name, tenant) in [("a-1", &a), ("a-2", &a), ("b-1", &b)] {
        let (scheduler, tenant, order) = (Arc::clone(&scheduler), tenant.clone(), Arc::clone(&order));
        waiting.push(tokio::spawn(async move {
            let permit = scheduler.enter(tenant.guest(), PLAIN, far()).await.unwrap();
            order.lock().unwrap().push(name);
            drop(permit);
        }));
        tokio::task::yield_now().await;
    }
    assert_eq!((scheduler.in_flight(), scheduler.waiting()), (1, 3));
    drop(first);
    futures::future::join_all(waiting).await;
    assert_eq!(*order.lock().unwrap(), ["a-1", "b-1", "a-2"]);
    assert_eq!((scheduler.in_flight(), scheduler.waiting()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_turned_away_and_who_leaves_gives_up_the_place() {
    let scheduler = Scheduler::new(options(1), Moment(0));
    let a = tenant("a");
    let held = scheduler.enter(a.guest(), PLAIN, far()).await.unwrap();
    let began = Instant::now();
    let late = scheduler.enter(a.guest(), PLAIN, far()).await.err();
    assert_eq!(late, Some(Turned::Late(Duration::from_millis(250))));
    assert_eq!(began.elapsed(), Duration::from_millis(250));
    let sooner = scheduler.enter(a.guest(), PLAIN, Instant::now() + Duration::from_millis(20)).await.err();
    assert_eq!(sooner, Some(Turned::Late(Duration::from_millis(20))), "the request's own deadline is nearer");
    let gone = tokio::time::timeout(Duration::from_millis(10), scheduler.enter(a.guest(), PLAIN, far())).await;
    assert!(gone.is_err());
    assert_eq!((scheduler.in_flight(), scheduler.waiting()), (1, 0));
    drop(held);
    assert!(scheduler.try_enter(a.guest()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_as_its_client_goes_is_not_lost() {
    let scheduler = Scheduler::new(options(1), Moment(0));
    let (a, b) = (tenant("a"), tenant("b"));
    let held = scheduler.enter(a.guest(), PLAIN, far()).await.unwrap();
    let mut goes = Box::pin(scheduler.enter(a.guest(), PLAIN, far()));
    assert!(futures::poll!(&mut goes).is_pending());
    let mut stays = Box::pin(scheduler.enter(b.guest(), PLAIN, far()));
    assert!(futures::poll!(&mut stays).is_pending());
    drop(held);
    assert_eq!((scheduler.in_flight(), scheduler.waiting()), (1, 1), "the turn is with the one that goes");
    drop(goes);
    let permit = stays.await.unwrap();
    assert_eq!((scheduler.in_flight(), scheduler.waiting()), (1, 0));
    drop(permit);
    assert_eq!(scheduler.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_higher_limit_lets_in_those_that_wait_and_a_lower_one_cuts_nobody_off() {
    let scheduler = Scheduler::new(options(1), Moment(0));
    let a = tenant("a");
    let first = scheduler.enter(a.guest(), PLAIN, far()).await.unwrap();
    let mut second = Box::pin(scheduler.enter(a.guest(), PLAIN, far()));
    assert!(futures::poll!(&mut second).is_pending());
    scheduler.set_options(options(3));
    let second = second.await.unwrap();
    let third = scheduler.try_enter(a.guest()).unwrap();
    scheduler.set_options(options(1));
    assert_eq!((scheduler.limit(), scheduler.in_flight()), (1, 3));
    drop(first);
    drop(second);
    assert!(scheduler.try_enter(a.guest()).is_none(), "one is still in");
    drop(third);
    assert!(scheduler.try_enter(a.guest()).is_some());
}

/// The scenario of the bench in simulated time: an origin that can do 500 a second (10 at once, 20 ms each), and behind it
/// a queue that knows nothing of tenants. A asks 1,000 times a second, B ten times. Neither has a limit of its own.
#[tokio::test(start_paused = true)]
async fn a_quiet_tenant_is_served_quickly_beside_one_that_asks_for_twice_what_the_cell_can_do() {
    let clock = Clock::start();
    let range = LimitRange { initial: 16, min: 2, max: 4_096, slack: Duration::from_millis(3) };
    let scheduler = Scheduler::new(ScheduleOptions { range, ..options(0) }, clock.now());
    let origin = Arc::new(Semaphore::new(10));
    let answered_a = Arc::new(AtomicUsize::new(0));
    let took_b = Arc::new(Mutex::new(Vec::new()));
    let refused_b = Arc::new(AtomicUsize::new(0));
    let seconds = 30;
    let askers = [tenant("a"), tenant("b")];
    let ask = |name: &'static str| {
        let asker = askers[usize::from(name == "b")].clone();
        let (scheduler, origin) = (Arc::clone(&scheduler), Arc::clone(&origin));
        let (answered_a, took_b, refused_b) =
            (Arc::clone(&answered_a), Arc::clone(&took_b), Arc::clone(&refused_b));
        tokio::spawn(async move {
            let began = Instant::now();
            let Ok(permit) = scheduler.enter(asker.guest(), PLAIN, far()).await else {
                if name == "b" {
                    refused_b.fetch_add(1, Ordering::Relaxed);
                }
                return;
            };
            let sent = Instant::now();
            let place = origin.acquire().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(place);
            scheduler.answered(sent.elapsed(), clock.now());
            drop(permit);
            if name == "a" {
                answered_a.fetch_add(1, Ordering::Relaxed);
            } else {
                took_b.lock().unwrap().push(began.elapsed());
            }
        });
    };
    for ms in 0..seconds * 1_000 {
        ask("a");
        if ms % 100 == 37 {
            ask("b");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut took = took_b.lock().unwrap().clone();
    took.sort();
    assert_eq!(refused_b.load(Ordering::Relaxed), 0);
    let p99 = took[took.len() * 99 / 100 - 1];
    assert!(
        p99 <= Duration::from_millis(45),
        "B's p99 is {p99:?}, its slowest {:?}, the limit {}",
        took.iter().rev().take(9).collect::<Vec<_>>(),
        scheduler.limit()
    );
    let goodput = answered_a.load(Ordering::Relaxed) as f64 / (490.0 * seconds as f64);
    assert!(goodput >= 0.99, "A gets {goodput} of what is left");
    assert_eq!((scheduler.in_flight(), scheduler.waiting()), (0, 0));
}

/// Two hundred of one tenant at once, at a router that knows nothing of the cell yet: as many as the cell is given at first go
/// in, and the rest waits for its turn.
#[tokio::test(start_paused = true)]
async fn a_crowd_at_a_cold_start_is_served_and_not_refused_while_nobody_knows_what_the_cell_can_do() {
    let clock = Clock::start();
    let range = LimitRange { initial: 16, min: 2, max: 4_096, slack: Duration::from_millis(3) };
    let wait_max = Duration::from_secs(1);
    let scheduler = Scheduler::new(ScheduleOptions { range, wait_max, ..options(0) }, clock.now());
    let a = tenant("a");
    let most = Arc::new(AtomicUsize::new(0));
    let crowd = (0..200).map(|_| {
        let (scheduler, a, most) = (Arc::clone(&scheduler), a.clone(), Arc::clone(&most));
        tokio::spawn(async move {
            let permit = scheduler.enter(a.guest(), PLAIN, far()).await?;
            most.fetch_max(usize::try_from(scheduler.in_flight()).unwrap(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
            scheduler.answered(Duration::from_millis(5), clock.now());
            drop(permit);
            Ok::<_, Turned>(())
        })
    });
    let answers: Vec<_> = futures::future::join_all(crowd.collect::<Vec<_>>()).await;
    let refused = answers.into_iter().filter_map(|answer| answer.unwrap().err()).collect::<Vec<_>>();
    assert_eq!(refused, []);
    assert!(most.load(Ordering::Relaxed) <= 64, "the cell did not get all of them at once");
}

/// Once it is known what the cell can do, a tenant has as many waiting as it may.
#[tokio::test(start_paused = true)]
async fn a_cell_whose_limit_is_known_keeps_its_queues_short() {
    let clock = Clock::start();
    let range = LimitRange { initial: 16, min: 2, max: 4_096, slack: Duration::from_millis(3) };
    let scheduler = Scheduler::new(ScheduleOptions { range, ..options(0) }, clock.now());
    let (a, origin) = (tenant("a"), Arc::new(Semaphore::new(10)));
    let refused = Arc::new(AtomicUsize::new(0));
    let mut longest = 0;
    for ms in 0..5_000_u64 {
        let (scheduler_of, a, origin) = (Arc::clone(&scheduler), a.clone(), Arc::clone(&origin));
        let refused = Arc::clone(&refused);
        tokio::spawn(async move {
            match scheduler_of.enter(a.guest(), PLAIN, far()).await {
                Ok(permit) => {
                    let sent = Instant::now();
                    let place = origin.acquire().await.unwrap();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    drop(place);
                    scheduler_of.answered(sent.elapsed(), clock.now());
                    drop(permit);
                }
                Err(Turned::FlowFull(64)) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => {}
            }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        if ms > 2_000 {
            longest = longest.max(scheduler.waiting());
        }
    }
    assert!(longest <= 64, "{longest} have waited");
    assert!(refused.load(Ordering::Relaxed) > 1_000);
}

#[tokio::test(start_paused = true)]
async fn one_tenant_never_gets_the_last_places_and_others_do_at_once() {
    let scheduler = Scheduler::new(options(16), Moment(0));
    let (a, b) = (tenant("a"), tenant("b"));
    let mut held: Vec<_> = (0..14).map(|_| scheduler.try_enter(a.guest()).unwrap()).collect();
    assert!(scheduler.try_enter(a.guest()).is_none(), "two of sixteen are for others");
    assert_eq!((scheduler.in_flight(), a.places.held()), (14, 14));
    let mut more = Box::pin(scheduler.enter(a.guest(), PLAIN, far()));
    assert!(futures::poll!(&mut more).is_pending());
    let others = scheduler.enter(b.guest(), PLAIN, far()).await.unwrap();
    assert_eq!(
        (scheduler.in_flight(), scheduler.waiting()),
        (15, 1),
        "it has not waited behind the one that may not"
    );
    drop(others);
    assert_eq!((scheduler.in_flight(), scheduler.waiting()), (14, 1), "its place is not for the first one");
    drop(held.pop());
    let more = more.await.unwrap();
    assert_eq!((scheduler.in_flight(), scheduler.waiting(), a.places.held()), (14, 0, 14));
    drop((held, more));
    assert_eq!((scheduler.in_flight(), a.places.held()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_sinks_below_what_one_tenant_holds_keeps_nobody_else_out() {
    let scheduler = Scheduler::new(options(16), Moment(0));
    let (a, b, c) = (tenant("a"), tenant("b"), tenant("c"));
    let mut held: Vec<_> = (0..14).map(|_| scheduler.try_enter(a.guest()).unwrap()).collect();
    scheduler.set_limit(6);
    let first = scheduler.enter(b.guest(), PLAIN, far()).await.unwrap();
    assert_eq!((scheduler.in_flight(), b.places.held()), (15, 1));
    let mut second = Box::pin(scheduler.enter(b.guest(), PLAIN, far()));
    assert!(futures::poll!(&mut second).is_pending(), "it has one");
    let mut other = Box::pin(scheduler.enter(c.guest(), PLAIN, far()));
    assert!(futures::poll!(&mut other).is_pending(), "as many as the reserve, and no more");
    drop(first);
    assert!(futures::poll!(&mut other).is_pending(), "the order is fair here, too");
    let second = second.await.unwrap();
    assert_eq!((scheduler.in_flight(), scheduler.waiting()), (15, 1));
    drop(second);
    let other = other.await.unwrap();
    drop(other);
    // Five of six are all that one tenant may have: from there on the reserve is enough.
    held.truncate(5);
    assert!(scheduler.try_enter(a.guest()).is_none());
    let sixth = scheduler.try_enter(b.guest()).unwrap();
    let mut seventh = Box::pin(scheduler.enter(c.guest(), PLAIN, far()));
    assert!(futures::poll!(&mut seventh).is_pending(), "nobody has more than its part any more");
    drop((held, sixth));
    drop(seventh.await.unwrap());
    assert_eq!((scheduler.in_flight(), scheduler.waiting(), a.places.held()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_steps_out_makes_room_and_only_so_many_may() {
    let scheduler = Scheduler::new(options(3), Moment(0));
    let (a, b) = (tenant("a"), tenant("b"));
    let mut held: Vec<_> = (0..3).map(|_| scheduler.try_enter(a.guest()).unwrap()).collect();
    let mut waits = Box::pin(scheduler.enter(b.guest(), PLAIN, far()));
    assert!(futures::poll!(&mut waits).is_pending());
    held.iter_mut().for_each(Permit::step_out);
    assert_eq!(held.iter().map(Permit::is_outside).collect::<Vec<_>>(), [true, true, false], "two may");
    let turn = waits.await.unwrap();
    assert_eq!((scheduler.in_flight(), a.places.held(), a.places.outside()), (2, 1, 2));
    drop((held, turn));
    assert_eq!((scheduler.in_flight(), a.places.held(), a.places.outside()), (0, 0, 0));
}

/// Threads come, wait, give up and leave as they like: at the end nobody is in, nobody waits, and the limit was kept.
#[test]
fn no_turn_is_lost_between_threads() {
    let scheduler = Scheduler::new(options(3), Moment(0));
    let inside = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..4_u64)
        .map(|index| {
            let (scheduler, inside) = (Arc::clone(&scheduler), Arc::clone(&inside));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let name = tenant(["a", "b", "c", "d"][usize::try_from(index).unwrap()]);
                    let round = |n: u64| {
                        let (scheduler, inside, name) = (&scheduler, &inside, &name);
                        async move {
                            let patience = Duration::from_micros((n * 7_919 + index * 104_729) % 400);
                            let entering = scheduler.enter(name.guest(), PLAIN, far());
                            if let Ok(Ok(permit)) = tokio::time::timeout(patience, entering).await {
                                assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                                tokio::task::yield_now().await;
                                inside.fetch_sub(1, Ordering::SeqCst);
                                drop(permit);
                            }
                        }
                    };
                    for n in 0..300 {
                        futures::future::join_all((0..8).map(|k| round(n * 8 + k))).await;
                    }
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!((scheduler.in_flight(), scheduler.waiting()), (0, 0));
    assert_eq!(scheduler.lock().len(), 0);
}
