//! The bounds of a plan against every placement that there is, added up by a second arithmetic.

use cell_model::UnixMillis;
use cell_planner::{Bounds, FleetDocument, Goal, Hourly, Plan, Policy, Request, TenantEntry, plan};

use crate::world::{Dice, cell, fleet, on, tenant};

const CELLS: usize = 3;
const RISK: f64 = 2.0;

fn evened(document: &FleetDocument, moves_max: u32) -> Plan {
    let policy = Policy { gain_min: 1e-4, gain_min_per_terabyte: 0.0, ..Policy::default() }.even();
    let bounds = Bounds { moves_max, ..Bounds::default() };
    let request = Request { goal: Goal::Rebalance, bounds, now: UnixMillis(0) };
    plan(&document.build().unwrap(), policy, None, &request).unwrap()
}

/// What one tenant needs of the one resource that counts: mean, deviation, spike cluster.
type Need = (f64, f64, usize);

/// How full the fullest cell is; `at` says where each tenant is.
fn fullest(needs: &[Need], at: &[usize], budget: f64) -> f64 {
    let of = |cell: usize| {
        let here = || needs.iter().zip(at).filter(|of| *of.1 == cell).map(|of| of.0);
        let mean: f64 = here().map(|need| need.0).sum();
        let alone: f64 = here().filter(|need| need.2 == 0).map(|need| need.1 * need.1).sum();
        let cluster = |of: usize| here().filter(|need| need.2 == of).map(|need| need.1).sum::<f64>();
        (mean + RISK * (alone + cluster(1).powi(2) + cluster(2).powi(2)).sqrt()) / budget
    };
    (0..CELLS).map(of).fold(0.0, f64::max)
}

fn some_fleet(dice: &mut Dice, tenants: usize) -> (FleetDocument, Vec<Need>, Vec<usize>) {
    let (mut needs, mut at, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..tenants {
        // A few steep ones among small ones without much deviation.
        let size = if dice.chance(0.4) { 6.0 + 6.0 * dice.share() } else { 0.5 + dice.share() };
        // A multiple of what packing keeps exactly.
        let deviation = (size * size * 0.05 * dice.share() / 0.064).floor() * 0.064;
        let need = (size, deviation, dice.below(3));
        // One cell is much fuller than the others.
        let home = if dice.chance(0.6) { 0 } else { dice.below(CELLS) };
        let mut entry = on(&format!("c-{home}"), tenant(&format!("t-{index}"), need.0));
        entry.demand.cpu.deviation = Hourly::Flat(need.1);
        entry.spike_cluster = ["", "s-1", "s-2"][need.2].into();
        needs.push(need);
        at.push(home);
        entries.push(entry);
    }
    let cells = (0..CELLS).map(|index| cell(&format!("c-{index}"), 100.0)).collect();
    (fleet(cells, entries).to_document(), needs, at)
}

#[test]
fn no_placement_is_below_the_bound_and_none_of_so_many_moves_below_theirs() {
    let (mut with_moves, mut sharper) = (0, 0);
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let (document, needs, start) = some_fleet(&mut dice, 8);
        let moves_max = 1 + seed % 3;
        let quality = evened(&document, u32::try_from(moves_max).unwrap()).quality;
        let (mut least, mut least_after) = (f64::INFINITY, f64::INFINITY);
        for code in 0..CELLS.pow(8) {
            let at: Vec<usize> = (0..8).map(|index| code / CELLS.pow(index) % CELLS).collect();
            let moves = at.iter().zip(&start).filter(|(now, then)| now != then).count();
            let full = fullest(&needs, &at, 100.0);
            least = least.min(full);
            if moves as u64 <= moves_max {
                least_after = least_after.min(full);
            }
        }
        // Packing rounds a mean up by less than a thousandth.
        assert!(quality.lower_bound <= least + 1e-3, "seed {seed}: {quality:?}, in fact {least}");
        let of_moves = quality.lower_bound_of_moves;
        assert!(of_moves <= least_after + 1e-3, "seed {seed}: {quality:?}, in fact {least_after}");
        assert!(quality.hottest_after >= least_after - 1e-3, "seed {seed}: {quality:?}, in fact {least_after}");
        with_moves += u32::from(of_moves > quality.lower_bound + 1e-3);
        sharper += u32::from(quality.lower_bound > 0.5 * least);
    }
    assert!(with_moves > 10 && sharper > 50, "the bounds say something: {with_moves}, {sharper}");
}

/// Twenty cells full of small tenants without deviations, each with a few steep ones.
fn crowded() -> FleetDocument {
    let mut dice = Dice(5);
    let mut tenants: Vec<TenantEntry> = Vec::new();
    for index in 0..20 {
        for small in 0..40 {
            tenants.push(on(&format!("c-{index:02}"), tenant(&format!("small-{index:02}-{small:02}"), 1.0)));
        }
        for steep in 0..3 {
            let mut entry = on(
                &format!("c-{index:02}"),
                tenant(&format!("steep-{index:02}-{steep}"), 8.0 + 2.0 * dice.share()),
            );
            entry.demand.cpu.deviation = Hourly::Flat(6.0);
            tenants.push(entry);
        }
    }
    fleet((0..20).map(|index| cell(&format!("c-{index:02}"), 100.0)).collect(), tenants).to_document()
}

#[test]
fn what_so_many_moves_cannot_clear_away_raises_the_bound() {
    let document = crowded();
    let of = |moves_max: u32| evened(&document, moves_max).quality;
    let (few, many) = (of(40), of(800));
    assert!((few.lower_bound - many.lower_bound).abs() < 0.01, "{few:?} {many:?}");
    assert!(few.lower_bound_of_moves > few.lower_bound + 0.01, "{few:?}");
    assert!(few.lower_bound_of_moves > many.lower_bound_of_moves + 0.005, "{few:?} {many:?}");
    assert!(few.lower_bound_of_moves <= few.hottest_after && few.hottest_after < 0.92, "{few:?}");
}
