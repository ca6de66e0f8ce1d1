//! Plans beyond single moves: places exchanged, room made, a level for all hot cells, windows, zones.

use cell_model::{CellId, UnixMillis};
use cell_planner::{Bounds, Fleet, Goal, Plan, Policy, Reason, Request, TenantEntry, Verdict, pack, plan};
use proptest::prelude::*;

use crate::prefixes::Checker;
use crate::world::{Dice, Shape, cell, fleet, on, random, ring, tenant};

fn planned(fleet: &Fleet, goal: Goal, bounds: Bounds) -> Plan {
    plan(fleet, Policy::default(), None, &Request { goal, bounds, now: UnixMillis(0) }).unwrap()
}

fn moves(plan: &Plan) -> Vec<(&str, &str, &Reason)> {
    let all = plan.waves.iter().flat_map(|wave| &wave.moves);
    all.map(|of| (of.tenant.as_str(), of.target.as_str(), &of.reason)).collect()
}

fn check(fleet: &Fleet, plan: &Plan, draining: &[&str]) {
    for seed in 0..20 {
        Checker::new(fleet, plan.policy.risk, draining).run(&plan.waves, &mut Dice(seed));
    }
}

#[test]
fn two_tenants_change_places_where_no_single_move_helps() {
    let tenants = [("a", "c-1", 60.0), ("b", "c-1", 25.0), ("c", "c-2", 50.0), ("d", "c-2", 15.0)]
        .map(|(id, at, cpu)| on(at, tenant(id, cpu)));
    let fleet = fleet(vec![cell("c-1", 100.0), cell("c-2", 100.0)], tenants.to_vec());
    let plan = planned(&fleet, Goal::Rebalance, Bounds::default());
    assert_eq!((plan.verdict, plan.moves, plan.quality.hottest_after), (Verdict::Reached, 2, 0.75), "{plan:?}");
    let told = moves(&plan);
    assert!(
        matches!(told[0], ("b", "c-2", Reason::Hot { source_per_mille: 850, after_per_mille: 750 })),
        "{told:?}"
    );
    assert!(matches!(told[1], ("d", "c-1", Reason::Exchange { with }) if with.as_str() == "b"), "{told:?}");
    check(&fleet, &plan, &[]);
}

#[test]
fn a_tenant_makes_room_for_one_that_can_go_nowhere_else() {
    let mut cells = vec![cell("c-1", 100.0), cell("c-2", 100.0), cell("c-3", 100.0)];
    for cell in &mut cells[..2] {
        cell.residency = "eu".into();
    }
    let mut bound_to = on("c-1", tenant("bound", 30.0));
    bound_to.residency = "eu".into();
    let tenants = vec![
        bound_to,
        on("c-2", tenant("stays", 50.0)),
        on("c-2", tenant("goes", 30.0)),
        on("c-3", tenant("x", 20.0)),
    ];
    let fleet = fleet(cells, tenants);
    let drain = Goal::Drain { cells: vec![CellId::new("c-1").unwrap()] };
    let plan = planned(&fleet, drain.clone(), Bounds::default());
    assert_eq!((plan.verdict, plan.moves), (Verdict::Reached, 2), "{plan:?}");
    let told = moves(&plan);
    assert!(
        matches!(told[0], ("goes", "c-3", Reason::MakeRoom { waits }) if waits.as_str() == "bound"),
        "{told:?}"
    );
    assert_eq!(told[1], ("bound", "c-2", &Reason::Drain));
    assert_eq!(plan.waves.len(), 2, "while one leaves, the other waits");
    check(&fleet, &plan, &["c-1"]);
    let one = planned(&fleet, drain, Bounds { moves_max: 1, ..Bounds::default() });
    assert_eq!((one.verdict, one.moves), (Verdict::Stuck, 0), "room that nobody comes to is not made");
}

/// Four cells with ten tenants each, and four with none.
fn four_hot_cells() -> Fleet {
    four_cells_of_ten(9.5)
}

fn four_cells_of_ten(cpu: f64) -> Fleet {
    let hot = (0..4).flat_map(|of| (0..10).map(move |index| (of, index)));
    let tenants: Vec<TenantEntry> =
        hot.map(|(of, index)| on(&format!("c-{of}"), tenant(&format!("t-{of}{index}"), cpu))).collect();
    let cells = (0..8).map(|index| cell(&format!("c-{index}"), 100.0)).collect();
    fleet(cells, tenants)
}

#[test]
fn too_few_moves_are_spent_on_the_level_and_not_on_one_cell() {
    let plan = planned(&four_hot_cells(), Goal::Rebalance, Bounds { moves_max: 4, ..Bounds::default() });
    assert_eq!((plan.verdict, plan.moves), (Verdict::Partly, 4));
    assert_eq!(plan.quality.hottest_after, 0.855, "each of the four has lost one");
    let enough = planned(&four_hot_cells(), Goal::Rebalance, Bounds::default());
    assert_eq!((enough.verdict, enough.moves, enough.quality.hottest_after), (Verdict::Reached, 12, 0.665));
}

#[test]
fn cells_above_their_budget_share_the_bounds_too() {
    let plan = planned(&four_cells_of_ten(11.0), Goal::Rebalance, Bounds { moves_max: 4, ..Bounds::default() });
    assert_eq!((plan.verdict, plan.moves, plan.quality.hottest_after), (Verdict::Partly, 4, 0.99));
    assert!(moves(&plan).iter().all(|(.., why)| matches!(why, Reason::Overloaded { source_per_mille: 1_100, .. })));
    assert!(plan.why.contains("0 tenants may not be where they are, 4 cells above their budget"), "{}", plan.why);
}

#[test]
fn a_window_cuts_the_plan_between_waves() {
    let bounds = Bounds { at_once_max: 2, ..Bounds::default() };
    let whole = planned(&four_hot_cells(), Goal::Rebalance, bounds);
    // Ten seconds for each move, and a gigabyte at 50 MB/s.
    assert_eq!((whole.waves.len(), whole.waves[0].seconds, whole.seconds), (6, 30, 180));
    let cut = planned(&four_hot_cells(), Goal::Rebalance, Bounds { seconds_max: 100, ..bounds });
    assert_eq!((cut.waves.len(), cut.seconds, cut.verdict), (3, 90, Verdict::Partly));
    assert_eq!(cut.waves, whole.waves[..3]);
    assert!(cut.why.ends_with("6 more moves do not fit into the window of 100 s"), "{}", cut.why);
    assert_eq!(cut.quality.curve.len(), 7);
    let none = planned(&four_hot_cells(), Goal::Rebalance, Bounds { seconds_max: 29, ..bounds });
    assert_eq!((none.moves, none.verdict), (0, Verdict::Stuck), "no move fits");
}

#[test]
fn a_cell_and_a_domain_take_part_in_so_many_moves_and_no_more() {
    let bounds = Bounds { moves_per_cell_max: 2, ..Bounds::default() };
    let plan = planned(&four_hot_cells(), Goal::Rebalance, bounds);
    for cell in &plan.cells {
        assert!(cell.tenants_before.abs_diff(cell.tenants_after) <= 2, "{cell:?}");
    }
    assert_eq!((plan.moves, plan.quality.hottest_after), (8, 0.76));
    let mut document = four_hot_cells().to_document();
    for (index, cell) in document.cells.iter_mut().enumerate() {
        cell.domain = format!("rack-{}", index % 2);
    }
    let one = Bounds { at_once_per_domain_max: 1, ..Bounds::default() };
    let fleet = document.build().unwrap();
    let plan = planned(&fleet, Goal::Rebalance, one);
    let domain = |cell: &CellId| &document.cells.iter().find(|of| of.id == cell.as_str()).unwrap().domain;
    for wave in &plan.waves {
        for rack in ["rack-0", "rack-1"] {
            let parts = wave.moves.iter().filter(|of| domain(&of.source) == rack || domain(&of.target) == rack);
            assert!(parts.count() <= 1, "{wave:?}");
        }
    }
}

#[test]
fn zones_are_judged_against_their_own_bounds() {
    let mut cells = vec![cell("c-1", 100.0), cell("c-2", 100.0), cell("c-3", 100.0)];
    cells[0].residency = "eu".into();
    cells[1].residency = "eu".into();
    cells[2].residency = "us".into();
    let bound = |residency: &str, tenant: TenantEntry| TenantEntry { residency: residency.into(), ..tenant };
    let mut tenants: Vec<TenantEntry> =
        (0..9).map(|index| bound("eu", on("c-1", tenant(&format!("t-{index}"), 10.0)))).collect();
    tenants.push(bound("us", on("c-3", tenant("american", 20.0))));
    let plan = planned(&fleet(cells, tenants), Goal::Rebalance, Bounds::default());
    let told: Vec<_> = plan
        .quality
        .zones
        .iter()
        .map(|of| (of.zone.as_str(), of.cells, of.hottest_after, of.lower_bound))
        .collect();
    assert_eq!(told, [("eu", 2, 0.7, 0.45), ("us", 1, 0.2, 0.2)]);
}

#[test]
fn cells_are_evened_out_down_to_the_bound() {
    let policy = Policy::default().even();
    let request = Request { goal: Goal::Rebalance, bounds: Bounds::default(), now: UnixMillis(0) };
    let plan = plan(&four_hot_cells(), policy, None, &request).unwrap();
    assert_eq!((plan.quality.lower_bound, plan.quality.hottest_after), (0.475, 0.475));
    assert_eq!((plan.moves, plan.verdict, plan.quality.gap), (20, Verdict::Reached, 0.0));
    let again = plan_after(&four_hot_cells(), &plan, policy, &request);
    assert_eq!((again.moves, again.verdict), (0, Verdict::NothingToDo), "{}", again.why);
}

fn plan_after(fleet: &Fleet, done: &Plan, policy: Policy, request: &Request) -> Plan {
    plan(&fleet.after(&done.waves), policy, None, request).unwrap()
}

#[test]
fn a_perfect_packing_is_nearly_found_again() {
    // 30 cells, each cut into six parts in every resource.
    let mut dice = Dice(5);
    let mut tenants = Vec::new();
    for index in 0..30 {
        let mut cut = || {
            let mut cuts: Vec<u64> = (0..5).map(|_| 1 + dice.next() % 59_999).collect();
            cuts.extend([0, 60_000]);
            cuts.sort_unstable();
            cuts.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1000.0).collect::<Vec<_>>()
        };
        let parts = [cut(), cut(), cut()];
        for at in 0..6 {
            let mut entry = tenant(&format!("t-{index}-{at}"), parts[0][at]);
            entry.demand.connections.mean = cell_planner::Hourly::Flat(parts[1][at]);
            entry.demand.storage.mean = cell_planner::Hourly::Flat(parts[2][at]);
            tenants.push(entry);
        }
    }
    let mut whole = cell("c-1", 60.0);
    (whole.capacity.connections, whole.capacity.storage) = (60.0, 60.0);
    let fleet = fleet(vec![whole], tenants);
    let packed = pack(&fleet, Policy::default(), 3_000).unwrap();
    assert_eq!((packed[0].tenants, packed[0].lower_bound, packed[0].too_large), (180, 30, 0));
    assert!((30..=32).contains(&packed[0].cells_packed), "{:?}", packed[0]);
    assert_eq!(packed, pack(&fleet, Policy::default(), 3_000).unwrap());
}

#[test]
fn what_no_cell_can_hold_is_counted_and_not_packed() {
    let fleet = fleet(vec![cell("c-1", 100.0)], vec![tenant("giant", 101.0), tenant("small", 1.0)]);
    let packed = &pack(&fleet, Policy::default(), 10).unwrap()[0];
    assert_eq!((packed.tenants, packed.too_large, packed.cells_packed, packed.cells_now), (1, 1, 1, 0));
}

proptest! {
    #![proptest_config(crate::cases(80))]

    #[test]
    fn every_prefix_holds_however_eager_the_policy(seed in any::<u64>(), fill in 0.3f64..1.1, moves in 1u32..40) {
        let document = random(Shape { seed, cells: 7, tenants: 30, fill, careless: true });
        let fleet = document.build().unwrap();
        let policy = Policy { gain_min: 1e-6, gain_min_per_terabyte: 0.0, ..Policy::default() }.even();
        let bounds = Bounds { moves_max: moves, ..Bounds::default() };
        let request = Request { goal: Goal::Rebalance, bounds, now: UnixMillis(0) };
        let plan = plan(&fleet, policy, Some(&ring(&fleet)), &request).unwrap();
        prop_assert!(plan.moves <= moves as usize);
        for turn in 0..3 {
            Checker::new(&fleet, policy.risk, &[]).run(&plan.waves, &mut Dice(seed ^ turn));
        }
        for zone in &plan.quality.zones {
            prop_assert!(!plan.left.is_empty() || zone.lower_bound <= zone.hottest_after + 1e-4);
        }
        // No tenant is ever moved for nothing: what was planned leaves less to do.
        prop_assert!(plan.quality.hottest_after <= plan.quality.hottest_before + 1e-4 || !plan.left.is_empty()
            || plan.why.contains("may not be where they are"));
    }
}
