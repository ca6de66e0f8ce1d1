//! Ten million states on the way through random plans, each looked at by the second opinion of `prefixes`. It takes
//! minutes, so it runs by command; `plans` does the same with as many as a test suite has time for.
//!
//! `cargo nextest run --release -p cell-planner --run-ignored only many` (`CELLWAY_PREFIXES` says how many)

use cell_model::{CellId, UnixMillis};
use cell_planner::{Bounds, Goal, Policy, Request, plan};

use crate::plans::check_prefixes;
use crate::world::{Dice, Shape, random, ring};

/// How often each plan is run through, each time in another order.
const RUNS: u64 = 20;

fn goal(dice: &mut Dice, cells: usize) -> Goal {
    match dice.below(3) {
        0 => Goal::Repair,
        1 => Goal::Rebalance,
        _ => Goal::Drain { cells: vec![CellId::new(format!("c-{:02}", dice.below(cells))).unwrap()] },
    }
}

/// Goes through plans of seeds of its own until so many states have been seen. Gives them, and how many plans moved.
fn states_of(thread: u64, wanted: u64) -> (u64, u64) {
    let mut dice = Dice(thread);
    let (mut states, mut plans) = (0, 0);
    while states < wanted {
        let shape = Shape {
            seed: dice.next(),
            cells: 3 + dice.below(12),
            tenants: 20 + dice.below(100),
            fill: 0.2 + 0.7 * dice.share(),
            careless: true,
        };
        let document = random(shape);
        let fleet = document.build().unwrap();
        let bounds = Bounds { at_once_max: 1 + u32::try_from(dice.below(40)).unwrap(), ..Bounds::default() };
        let request = Request { goal: goal(&mut dice, shape.cells), bounds, now: UnixMillis(1_000) };
        let plan = plan(&fleet, Policy::default(), Some(&ring(&fleet)), &request).unwrap();
        plans += u64::from(plan.moves > 0);
        for _ in 0..RUNS {
            states += check_prefixes(&document, &plan, &mut dice);
        }
    }
    (states, plans)
}

#[test]
#[ignore = "it takes minutes; it runs by command"]
fn no_state_on_the_way_through_many_random_plans_breaks_a_constraint() {
    const THREADS: u64 = 2;
    let wanted: u64 = std::env::var("CELLWAY_PREFIXES").map_or(10_000_000, |many| many.parse().unwrap());
    let running: Vec<_> =
        (0..THREADS).map(|thread| std::thread::spawn(move || states_of(thread, wanted / THREADS))).collect();
    let done: Vec<(u64, u64)> = running.into_iter().map(|thread| thread.join().unwrap()).collect();
    let states: u64 = done.iter().map(|(states, _)| states).sum();
    let plans: u64 = done.iter().map(|(_, plans)| plans).sum();
    assert!(states + THREADS > wanted && plans > 0, "{states} states of {plans} plans");
}
