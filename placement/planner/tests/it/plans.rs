//! Plans: feasible at every moment, bounded, explained, the same every time.

use std::collections::BTreeSet;

use cell_model::{CellId, TenantId, UnixMillis};
use cell_planner::{
    Bounds, Fleet, FleetDocument, Goal, Layout, Plan, PlanError, PlannedMove, Policy, Reason, RefusalCode, Request,
    TenantEntry, Verdict, Wave, place, plan,
};
use proptest::prelude::*;

use crate::prefixes::Checker;
use crate::world::{Dice, Shape, cell, fleet, on, placed, random, ring, tenant};

fn request(goal: Goal) -> Request {
    Request { goal, bounds: Bounds::default(), now: UnixMillis(1_000) }
}

fn planned(fleet: &Fleet, goal: Goal) -> Plan {
    plan(fleet, Policy::default(), None, &request(goal)).unwrap()
}

fn drain(cell: &str) -> Goal {
    Goal::Drain { cells: vec![CellId::new(cell).unwrap()] }
}

fn shape(careless: bool) -> impl Strategy<Value = Shape> {
    (any::<u64>(), 3usize..12, 0usize..60, 0.1f64..0.9).prop_map(move |(seed, cells, tenants, fill)| Shape {
        seed,
        cells,
        tenants,
        fill,
        careless,
    })
}

fn goal(cells: usize) -> impl Strategy<Value = Goal> {
    let drained = (0..cells).prop_map(|index| drain(&format!("c-{index:02}")));
    prop_oneof![Just(Goal::Repair), Just(Goal::Rebalance), drained]
}

fn shape_and_goal() -> impl Strategy<Value = (Shape, Goal)> {
    shape(true).prop_flat_map(|shape| (Just(shape), goal(shape.cells)))
}

pub(crate) fn check_prefixes(document: &FleetDocument, plan: &Plan, dice: &mut Dice) -> u64 {
    let fleet = document.build().unwrap();
    let draining: Vec<&str> = match &plan.request.goal {
        Goal::Drain { cells } => cells.iter().map(CellId::as_str).collect(),
        _ => Vec::new(),
    };
    let mut checker = Checker::new(&fleet, plan.policy.risk, &draining);
    let states = checker.run(&plan.waves, dice);
    for cell in &plan.cells {
        assert_eq!(checker.load(cell.cell.as_str()), cell.tenants_after, "{}", cell.cell);
    }
    states
}

proptest! {
    #![proptest_config(crate::cases(80))]

    #[test]
    fn every_prefix_of_every_plan_is_feasible((shape, goal) in shape_and_goal()) {
        let document = random(shape);
        let fleet = document.build().unwrap();
        let plan = plan(&fleet, Policy::default(), Some(&ring(&fleet)), &request(goal)).unwrap();
        let mut dice = Dice(shape.seed);
        for _ in 0..3 {
            check_prefixes(&document, &plan, &mut dice);
        }
        let curve = &plan.quality.curve;
        prop_assert_eq!(curve.len(), plan.moves + 1);
        prop_assert!((curve[plan.moves] - plan.quality.hottest_after).abs() < 1e-9);
        if plan.left.is_empty() && !matches!(plan.request.goal, Goal::Drain { .. }) {
            // The bound is one for legal placements. A drain repairs nobody else, and who is left may be astray.
            prop_assert!(plan.quality.lower_bound <= plan.quality.hottest_after + 1e-4);
        }
        let tenants: BTreeSet<_> = plan.waves.iter().flat_map(|wave| &wave.moves).map(|of| &of.tenant).collect();
        prop_assert_eq!(tenants.len(), plan.moves, "a tenant moves once");
        prop_assert!(!plan.why.is_empty());
    }

    #[test]
    fn the_way_back_of_a_feasible_plan_is_feasible(shape in shape(false), high in 0.3f64..0.8) {
        let policy = Policy { high_water: high, low_water: high * 0.9, ..Policy::default() };
        let document = placed(random(shape), Policy { low_water: 0.0, high_water: 0.0, ..policy });
        let fleet = document.build().unwrap();
        let plan = plan(&fleet, policy, None, &request(Goal::Rebalance)).unwrap();
        prop_assert!(plan.undo.feasible, "every tenant was legally placed, no cell is emptied");
        let mut checker = Checker::new(&fleet, policy.risk, &[]);
        let mut dice = Dice(shape.seed);
        checker.run(&plan.waves, &mut dice);
        checker.run(&plan.undo.waves, &mut dice);
        for of in plan.waves.iter().flat_map(|wave| &wave.moves) {
            prop_assert_eq!(checker.cell_of(of.tenant.as_str()), vec![of.source.as_str()]);
        }
    }

    #[test]
    fn the_same_input_gives_the_same_bytes((shape, goal) in shape_and_goal()) {
        let request = request(goal);
        let once = || {
            let fleet = random(shape).build().unwrap();
            plan(&fleet, Policy::default(), Some(&ring(&fleet)), &request).unwrap().to_json()
        };
        let text = once();
        prop_assert_eq!(&text, &once());
        prop_assert_eq!(Plan::from_json(&text).unwrap().to_json(), text);
        // Nor does the order in which the cells are listed matter.
        let mut turned = random(shape);
        turned.cells.reverse();
        let fleet = turned.build().unwrap();
        let again = plan(&fleet, Policy::default(), Some(&ring(&fleet)), &request).unwrap().to_json();
        prop_assert_eq!(again, once());
    }

    #[test]
    fn what_has_just_been_placed_stays(shape in shape(false)) {
        let shape = Shape { tenants: shape.tenants.max(20), ..shape };
        let fleet = placed(random(shape), Policy::default()).build().unwrap();
        let plan = planned(&fleet, Goal::Rebalance);
        let hot = plan.quality.hottest_before > Policy::default().high_water;
        prop_assert!(hot || plan.moves == 0, "{}", plan.why);
        prop_assert_eq!(plan.verdict == Verdict::NothingToDo, !hot);
    }

    #[test]
    fn a_newcomer_to_a_settled_fleet_is_not_moved_again(shape in shape(false)) {
        let document = placed(random(shape), Policy::default());
        let Some((newcomer, settled)) = document.tenants.split_last() else { return Ok(()) };
        let before = FleetDocument { tenants: settled.to_vec(), ..document.clone() }.build().unwrap();
        prop_assume!(planned(&before, Goal::Rebalance).verdict == Verdict::NothingToDo);
        let after = planned(&document.build().unwrap(), Goal::Rebalance);
        // Where no cell could take it without getting hot, moving on is what it is for.
        prop_assume!(after.quality.hottest_before <= Policy::default().high_water);
        for of in after.waves.iter().flat_map(|wave| &wave.moves) {
            prop_assert_ne!(of.tenant.as_str(), newcomer.id.as_str());
        }
    }

    #[test]
    fn bounds_hold(shape in shape(true), moves in 1u32..10, gigabytes in 1u64..300) {
        let fleet = random(shape).build().unwrap();
        let bounds = Bounds {
            moves_max: moves,
            bytes_max: gigabytes * 1_000_000_000,
            at_once_max: 3,
            at_once_per_cell_max: 1,
            ..Bounds::default()
        };
        let request = Request { bounds, ..request(drain("c-00")) };
        let plan = plan(&fleet, Policy::default(), None, &request).unwrap();
        prop_assert!(plan.moves <= moves as usize);
        prop_assert!(plan.bytes <= bounds.bytes_max);
        for wave in &plan.waves {
            prop_assert!((1..=3).contains(&wave.moves.len()));
            let mut cells: Vec<_> = wave.moves.iter().flat_map(|of| [&of.source, &of.target]).collect();
            let count = cells.len();
            cells.sort();
            cells.dedup();
            prop_assert_eq!(cells.len(), count, "one move a cell at once");
        }
    }
}

#[test]
fn noise_of_five_percent_moves_nobody() {
    let mut tried = 0;
    for seed in 0..20 {
        let shape = Shape { seed, cells: 10, tenants: 400, fill: 1.0, careless: false };
        let mut document = placed(random(shape), Policy::default());
        // Placing keeps cells below the low water where it can; in some of these fleets a legal zone is too full.
        let hottest = planned(&document.build().unwrap(), Goal::Rebalance).quality.hottest_before;
        if hottest > Policy::default().low_water {
            continue;
        }
        tried += 1;
        let mut dice = Dice(seed);
        for entry in &mut document.tenants {
            for of in [&mut entry.demand.cpu, &mut entry.demand.connections, &mut entry.demand.storage] {
                let factor = 0.95 + 0.1 * dice.share();
                if let cell_planner::Hourly::ByHour(values) = &mut of.mean {
                    values.iter_mut().for_each(|value| *value *= factor);
                }
            }
        }
        let plan = planned(&document.build().unwrap(), Goal::Rebalance);
        assert!(plan.quality.hottest_before > 0.5, "the fleet is loaded: {}", plan.quality.hottest_before);
        assert_eq!((plan.moves, plan.verdict), (0, Verdict::NothingToDo), "{}", plan.why);
        assert!(plan.why.contains("no cell is above the high water of 80 %: the fullest is c-"), "{}", plan.why);
    }
    assert!(tried >= 10, "enough of them fit: {tried}");
}

#[test]
fn a_hot_cell_is_brought_down_with_few_bytes() {
    let tenants = (0..10).map(|index| on("c-1", tenant(&format!("t-{index}"), 9.0))).collect();
    let fleet = fleet(vec![cell("c-1", 100.0), cell("c-2", 100.0)], tenants);
    let plan = planned(&fleet, Goal::Rebalance);
    assert_eq!(plan.verdict, Verdict::Reached);
    assert_eq!(plan.moves, 2, "90 % to 72 % is two of them: {plan:?}");
    assert_eq!(plan.quality.curve, [0.9, 0.81, 0.72]);
    assert!((plan.quality.lower_bound - 0.45).abs() < 1e-9);
    let first = &plan.waves[0].moves[0];
    assert!(matches!(first.reason, Reason::Hot { source_per_mille: 900, .. }), "{first:?}");
}

#[test]
fn a_move_must_pay_for_its_bytes() {
    let mut heavy = tenant("heavy", 30.0);
    heavy.demand.storage.mean = cell_planner::Hourly::Flat(5_000.0);
    let rest = on("c-1", TenantEntry { pin: "c-1".into(), ..tenant("pinned", 55.0) });
    let cells = vec![cell("c-1", 100.0), cell("c-2", 100.0)];
    let fleet = fleet(cells, vec![on("c-1", heavy), rest]);
    let dear = Policy { gain_min_per_terabyte: 0.05, ..Policy::default() };
    let stuck = plan(&fleet, dear, None, &request(Goal::Rebalance)).unwrap();
    assert_eq!(stuck.verdict, Verdict::Stuck);
    assert!(stuck.why.contains("1 pinned, 1 would gain too little"), "{}", stuck.why);
    let cheap = Policy { gain_min_per_terabyte: 0.001, ..Policy::default() };
    let reached = plan(&fleet, cheap, None, &request(Goal::Rebalance)).unwrap();
    assert_eq!((reached.verdict, reached.moves), (Verdict::Reached, 1), "{}", reached.why);
}

#[test]
fn a_drain_moves_each_tenant_once_and_says_who_stays() {
    let mut cells = vec![cell("c-1", 100.0), cell("c-2", 60.0), cell("c-3", 60.0)];
    cells[0].residency = "eu".into();
    let mut bound_to = on("c-1", tenant("bound", 1.0));
    bound_to.residency = "eu".into();
    let tenants = (0..8).map(|index| on("c-1", tenant(&format!("t-{index}"), 10.0))).chain([bound_to]).collect();
    let fleet = fleet(cells, tenants);
    let plan = planned(&fleet, drain("c-1"));
    assert_eq!((plan.verdict, plan.moves, plan.left.len()), (Verdict::Partly, 8, 1));
    let left = &plan.left[0];
    assert_eq!((left.tenant.as_str(), left.why.as_str()), ("bound", "no other cell admits it"));
    let decision = left.decision.as_ref().expect("the first ones are explained");
    assert_eq!(decision.chosen, None);
    let count = |code| decision.refused.iter().find(|of| of.code == code).map_or(0, |of| of.cells);
    assert_eq!(count(RefusalCode::ResidencyViolated), 2);
    assert!(plan.waves.iter().all(|wave| wave.moves.len() <= 4), "four at once on the source");
}

#[test]
fn who_has_arrived_and_is_still_followed_stays_on_the_new_cell_and_leaves_the_old_one() {
    let mut soaker = on("c-2", tenant("soaker", 10.0));
    soaker.arrived_from = "c-1".into();
    let cells = (1..=3).map(|index| cell(&format!("c-{index}"), 100.0)).collect();
    let fleet = fleet(cells, vec![soaker]);
    let of_old = planned(&fleet, drain("c-1"));
    assert_eq!((of_old.verdict, of_old.moves, of_old.left.len()), (Verdict::NothingToDo, 0, 0), "{}", of_old.why);
    assert!(of_old.why.contains("soaker leaves with the move that has taken it away"), "{}", of_old.why);
    let of_new = planned(&fleet, drain("c-2"));
    assert_eq!((of_new.moves, of_new.left.len()), (0, 1), "{}", of_new.why);
    assert!(of_new.left[0].why.starts_with("it has just come here"), "{:?}", of_new.left[0]);
    let layout = Layout::new(&fleet, Policy::default());
    let refused = place(&layout, None, fleet.find_tenant("soaker").unwrap()).unwrap_err();
    assert!(refused.to_string().contains("has come from cell c-1"), "{refused}");
    let both = ["c-1", "c-2", "c-3"].map(|id| layout.members(fleet.find_cell(id).unwrap()).len());
    assert_eq!(both, [1, 1, 0], "it counts on both");
}

#[test]
fn a_tenant_outside_its_legal_zone_is_moved_before_anything_else() {
    let mut cells = vec![cell("c-1", 100.0), cell("c-2", 100.0)];
    cells[1].residency = "eu".into();
    let mut astray = on("c-1", tenant("astray", 10.0));
    astray.residency = "eu".into();
    let fleet = fleet(cells, vec![on("c-1", tenant("other", 10.0)), astray]);
    let plan = planned(&fleet, Goal::Repair);
    assert_eq!((plan.verdict, plan.moves), (Verdict::Reached, 1));
    let only = &plan.waves[0].moves[0];
    assert_eq!((only.tenant.as_str(), only.target.as_str()), ("astray", "c-2"));
    assert_eq!(only.reason, Reason::Violation { filter: RefusalCode::ResidencyViolated });
    assert!(!plan.undo.feasible, "the way back leads out of the zone");
}

#[test]
fn an_overfull_cell_loses_until_it_fits_and_gains_nobody() {
    let tenants = (0..12).map(|index| on("c-1", tenant(&format!("t-{index:02}"), 10.0))).collect();
    let fleet = fleet(vec![cell("c-1", 100.0), cell("c-2", 100.0)], tenants);
    let plan = planned(&fleet, Goal::Repair);
    assert_eq!((plan.verdict, plan.moves), (Verdict::Reached, 2));
    assert_eq!(plan.quality.curve, [1.2, 1.1, 1.0]);
}

#[test]
fn a_question_without_sense_is_refused() {
    let fleet = fleet(vec![cell("c-1", 1.0)], Vec::new());
    let ask = |request: &Request| plan(&fleet, Policy::default(), None, request).unwrap_err();
    assert_eq!(ask(&request(drain("nowhere"))).code(), "CELL_UNKNOWN");
    assert_eq!(ask(&request(Goal::Drain { cells: Vec::new() })), PlanError::NothingToDrain);
    let bounds = Bounds { moves_max: 0, ..Bounds::default() };
    assert_eq!(ask(&Request { bounds, ..request(Goal::Repair) }), PlanError::BoundInvalid { bound: "moves-max" });
    let policy = Policy { risk: -1.0, ..Policy::default() };
    assert_eq!(plan(&fleet, policy, None, &request(Goal::Repair)).unwrap_err().code(), "POLICY_INVALID");
}

#[test]
#[should_panic(expected = "c-2 needs 120")]
fn the_second_opinion_notices_a_move_that_does_not_fit() {
    let tenants = vec![on("c-1", tenant("a", 60.0)), on("c-2", tenant("b", 60.0))];
    let fleet = fleet(vec![cell("c-1", 100.0), cell("c-2", 100.0)], tenants);
    let too_much = PlannedMove {
        tenant: TenantId::new("a").unwrap(),
        source: CellId::new("c-1").unwrap(),
        target: CellId::new("c-2").unwrap(),
        bytes: 0,
        reason: Reason::Drain,
    };
    Checker::new(&fleet, 2.0, &[]).run(&[Wave { moves: vec![too_much], ..Wave::default() }], &mut Dice(0));
}

#[test]
fn a_move_waits_for_the_room_that_another_one_makes() {
    let cells = vec![cell("c-1", 100.0), cell("c-2", 100.0), cell("c-3", 100.0)];
    let mut big = on("c-1", tenant("big", 90.0));
    let mut astray = on("c-2", tenant("astray", 50.0));
    astray.pin = "c-3".into();
    big.pin = "c-2".into();
    // The one that has to wait is asked first.
    let fleet = fleet(cells, vec![big, astray]);
    let plan = planned(&fleet, Goal::Repair);
    assert_eq!(plan.verdict, Verdict::Reached, "{plan:?}");
    let order: Vec<Vec<&str>> =
        plan.waves.iter().map(|wave| wave.moves.iter().map(|of| of.tenant.as_str()).collect()).collect();
    assert_eq!(order, [["astray"], ["big"]], "two waves: while astray is moving it still counts on c-2");
}
