//! Days of a fleet: what is expected, what is decided, what really comes.

use cell_planner::{
    DayUsage, Fleet, Policy, Recorded, Scenario, Simulation, SimulationReport, TenantIx, Usage, Verdict, simulate,
};
use proptest::prelude::*;

use crate::world::{Shape, cell, fleet, on, placed, random, ring, tenant};

fn run(fleet: &Fleet, usage: &impl Usage, simulation: &Simulation) -> SimulationReport {
    simulate(fleet, usage, Some(&ring(fleet)), simulation, &mut |_| {}).unwrap()
}

fn days(days: u32) -> Simulation {
    Simulation { days, ..Simulation::default() }
}

/// The same on every day.
struct Steady(f64);

impl Usage for Steady {
    fn day(&self, _day: u32, _tenant: TenantIx, into: &mut DayUsage) {
        into.amounts[0] = [self.0; 24];
    }
}

#[test]
fn a_fleet_that_is_as_expected_stays_as_it_is() {
    let tenants = (0..6).map(|index| on("c-1", tenant(&format!("t-{index}"), 10.0))).collect();
    let fleet = fleet(vec![cell("c-1", 100.0)], tenants);
    let report = run(&fleet, &Steady(10.0), &days(5));
    assert_eq!((report.totals.moves, report.totals.hours_over_budget), (0, 0));
    for day in &report.days {
        assert_eq!((day.verdict, day.hottest, day.fill), (Some(Verdict::NothingToDo), 0.6, 0.6), "{day:?}");
        assert_eq!((day.tenants, day.density, day.stacking), (6, 6.0, 1.0));
    }
}

#[test]
fn growth_is_learnt_a_plan_follows_and_violations_are_counted_by_the_hour() {
    let tenants = (0..6).map(|index| on("c-1", tenant(&format!("t-{index}"), 10.0))).collect();
    let fleet = fleet(vec![cell("c-1", 100.0), cell("c-2", 100.0)], tenants);
    // They were expected to use 10 each, and use 20.
    let report = run(&fleet, &Steady(20.0), &days(10));
    let first = &report.days[0];
    assert_eq!((first.hours_over_capacity, first.hottest, first.tenant_hours_over_capacity), (24, 1.2, 144));
    assert_eq!(first.forecast_error, 0.1667, "half of the cores, and none of two other resources");
    assert!(report.days[1].moves > 0, "what was learnt on the first day is planned with on the second");
    let last = report.days.last().unwrap();
    assert_eq!((last.hours_over_capacity, last.hottest), (0, 0.6), "three on each");
    assert_eq!(report.totals.moved_again, 0, "the cooldown holds");
    let hours = u32::try_from(report.totals.hours_over_capacity).unwrap();
    assert!((report.totals.violation_share - f64::from(hours) / 480.0).abs() < 1e-6, "two cells, ten days");
    let idle = Simulation { plan_every_days: 0, ..days(10) };
    let alone = run(&fleet, &Steady(20.0), &idle);
    assert_eq!((alone.totals.moves, alone.totals.hours_over_capacity), (0, 240));
}

#[test]
fn who_arrives_is_placed_and_who_leaves_is_gone() {
    let document = random(Shape { seed: 3, cells: 6, tenants: 60, fill: 0.3, careless: false });
    let fleet = document.build().unwrap();
    let scenario = Scenario { arrivals: 0.5, departures: 0.3, arrival_days: 5, ..Scenario::default() };
    let report = run(&fleet, &scenario.over(&fleet), &days(12));
    let count = |of: fn(&cell_planner::DayReport) -> usize| report.days.iter().map(of).sum::<usize>();
    assert!(report.days[0].placed > 20 && report.days[0].placed < 50, "{}", report.days[0].placed);
    assert!(count(|day| day.left) > 5);
    let last = report.days.last().unwrap();
    assert_eq!(last.tenants + last.waiting + count(|day| day.left), 60, "nobody is lost: {last:?}");
}

#[test]
fn recorded_days_come_again_from_the_first() {
    let tenants = vec![on("c-1", tenant("a", 10.0)), on("c-1", tenant("b", 10.0))];
    let fleet = fleet(vec![cell("c-1", 100.0)], tenants);
    let day = |cpu| DayUsage { amounts: [[cpu; 24], [0.0; 24], [0.0; 24]] };
    let usage = Recorded { days: vec![vec![day(10.0), day(30.0)], Vec::new()] };
    let report = run(&fleet, &usage, &days(4));
    let hottest: Vec<f64> = report.days.iter().map(|day| day.hottest).collect();
    assert_eq!(hottest, [0.1, 0.3, 0.1, 0.3]);
}

#[test]
fn a_week_of_noise_moves_nobody() {
    let shape = Shape { seed: 11, cells: 10, tenants: 400, fill: 0.8, careless: false };
    let fleet = placed(random(shape), Policy::default()).build().unwrap();
    let report = run(&fleet, &Scenario::default().over(&fleet), &days(7));
    assert!(report.totals.hottest > 0.3, "the fleet is loaded: {}", report.totals.hottest);
    assert_eq!(report.totals.moves, 0, "{:?}", report.days);
}

#[test]
fn questions_without_sense_have_codes() {
    let fleet = fleet(vec![cell("c-1", 1.0)], Vec::new());
    let code = |simulation: &Simulation| {
        let none = &mut |_: &cell_planner::DayReport| {};
        simulate(&fleet, &Steady(0.0), None, simulation, none).map(|_| ()).unwrap_err().code()
    };
    assert_eq!(code(&days(0)), "DAYS_INVALID");
    let mut simulation = days(1);
    simulation.forecast.smoothing = 0.0;
    assert_eq!(code(&simulation), "SMOOTHING_INVALID");
    let mut simulation = days(1);
    simulation.policy.risk = -1.0;
    assert_eq!(code(&simulation), "POLICY_INVALID");
    let mut simulation = days(1);
    simulation.bounds.moves_max = 0;
    assert_eq!(code(&simulation), "BOUND_INVALID");
}

proptest! {
    #![proptest_config(crate::cases(12))]

    #[test]
    fn the_same_seed_gives_the_same_days_and_another_seed_others(seed in any::<u64>()) {
        let document = random(Shape { seed, cells: 6, tenants: 50, fill: 0.7, careless: true });
        let fleet = document.build().unwrap();
        let scenario = Scenario { seed, spike_chance: 0.05, arrivals: 0.1, ..Scenario::default() };
        let told = |scenario: Scenario| {
            serde_json::to_string(&run(&fleet, &scenario.over(&fleet), &days(6))).unwrap()
        };
        prop_assert_eq!(told(scenario), told(scenario));
        prop_assert_ne!(told(scenario), told(Scenario { seed: seed ^ 1, ..scenario }));
    }
}
