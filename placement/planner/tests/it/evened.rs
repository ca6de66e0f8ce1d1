//! All cells evened out together, against answers that are known.

use cell_model::UnixMillis;
use cell_planner::{Bounds, Fleet, Goal, Hourly, Plan, Policy, Request, TenantEntry, plan};

use crate::world::{Dice, cell, fleet, on, tenant};

const CELLS: usize = 24;
const PIECES: usize = 40;

/// Cells of which each is full to exactly 70 % in all three resources; then so many tenants are put somewhere else. So
/// many moves are known to be enough to bring every cell back to 70 %, and no placement is better.
fn scattered(seed: u64, moved: usize) -> Fleet {
    let mut dice = Dice(seed);
    let mut tenants: Vec<TenantEntry> = Vec::new();
    for index in 0..CELLS {
        let mut cut = || {
            let mut cuts: Vec<u64> = (1..PIECES).map(|_| 1 + dice.next() % 69_999).collect();
            cuts.extend([0, 70_000]);
            cuts.sort_unstable();
            cuts.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1000.0).collect::<Vec<_>>()
        };
        let parts = [cut(), cut(), cut()];
        for at in 0..PIECES {
            let mut entry = on(&format!("c-{index:02}"), tenant(&format!("t-{index:02}-{at:02}"), parts[0][at]));
            entry.demand.connections.mean = Hourly::Flat(parts[1][at]);
            entry.demand.storage.mean = Hourly::Flat(parts[2][at]);
            tenants.push(entry);
        }
    }
    for _ in 0..moved {
        let index = dice.below(tenants.len());
        tenants[index].cell = format!("c-{:02}", dice.below(CELLS));
    }
    let whole = |index: usize| {
        let mut whole = cell(&format!("c-{index:02}"), 100.0);
        (whole.capacity.connections, whole.capacity.storage) = (100.0, 100.0);
        whole
    };
    fleet((0..CELLS).map(whole).collect(), tenants)
}

fn evened(fleet: &Fleet, moves_max: u32) -> Plan {
    let policy = Policy { gain_min: 1e-4, gain_min_per_terabyte: 0.0, ..Policy::default() }.even();
    let bounds = Bounds { moves_max, ..Bounds::default() };
    let request = Request { goal: Goal::Rebalance, bounds, now: UnixMillis(0) };
    plan(fleet, policy, None, &request).unwrap()
}

#[test]
fn what_was_scattered_is_nearly_brought_back_within_as_many_moves() {
    for seed in 1..=3 {
        let plan = evened(&scattered(seed, 200), 200);
        let quality = &plan.quality;
        assert!(plan.moves <= 200, "{} moves", plan.moves);
        assert!(quality.hottest_before > 0.85, "seed {seed}: {quality:?}");
        assert!((quality.lower_bound - 0.7).abs() < 1e-4, "the bound is what is known to be the best");
        assert!(quality.lower_bound_of_moves < 0.7 + 1e-4, "as many moves are known to be enough");
        assert!(quality.hottest_after < 0.7 * 1.03, "seed {seed}: {} of 0.7", quality.hottest_after);
    }
}

#[test]
fn a_cap_on_moves_has_a_bound_of_its_own_and_no_plan_ends_below_it() {
    for (seed, moves) in [(1, 5), (2, 12), (3, 20)] {
        let plan = evened(&scattered(seed, 400), moves);
        let quality = &plan.quality;
        assert!(plan.moves <= moves as usize);
        assert!(quality.lower_bound_of_moves > quality.lower_bound + 0.005, "{moves} moves: {quality:?}");
        assert!(quality.lower_bound_of_moves <= quality.hottest_after, "{moves} moves: {quality:?}");
        let distance = quality.hottest_after / quality.lower_bound_of_moves;
        assert!(distance < 1.25, "{moves} moves: {distance}");
    }
}

#[test]
fn the_same_fleet_is_evened_out_by_the_same_plan() {
    let made = || evened(&scattered(4, 200), 150).to_json();
    assert_eq!(made(), made());
}
