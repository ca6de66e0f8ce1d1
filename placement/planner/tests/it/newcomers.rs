//! Tenants that are nowhere yet, placed together: all find a cell if they can, and the next plan leaves them there.

use cell_model::{CellState, UnixMillis};
use cell_planner::{
    Amounts, Batch, Bounds, CellEntry, Demand, Fleet, FleetDocument, Goal, Hourly, Policy, Reason, RefusalCode,
    Request, ResourceDemand, Room, TenantEntry, TenantIx, Verdict, place_all, plan,
};
use proptest::prelude::*;

use crate::world::{Dice, Shape, cell, fleet, on, random, ring, tenant};

fn room(moves_max: u32) -> Room {
    Room { bounds: Bounds { moves_max, ..Bounds::default() }, now: UnixMillis(1_000) }
}

fn homeless(fleet: &Fleet, document: &FleetDocument) -> Vec<TenantIx> {
    fleet.tenants().filter(|tenant| document.tenants[tenant.index()].cell.is_empty()).collect()
}

fn batch(fleet: &Fleet, tenants: &[TenantIx], room: &Room) -> Batch {
    place_all(fleet, Policy::default(), Some(&ring(fleet)), tenants, room, &mut || {}).unwrap()
}

/// The document with its homeless where `place_all` wants them, the moves before that made, and how many stay homeless.
fn placed_together(mut document: FleetDocument, room: &Room) -> (FleetDocument, usize) {
    let fleet = document.build().unwrap_or_else(|error| panic!("{error}"));
    let batch = batch(&fleet, &homeless(&fleet, &document), room);
    let mut nowhere = 0;
    let targets = batch.moves.iter().map(|of| (&of.tenant, Some(&of.target)));
    for (tenant, cell) in targets.chain(batch.decisions.iter().map(|of| (&of.tenant, of.chosen.as_ref()))) {
        let entry = &mut document.tenants[fleet.find_tenant(tenant.as_str()).unwrap().index()];
        entry.cell = cell.map(ToString::to_string).unwrap_or_default();
        nowhere += usize::from(cell.is_none());
    }
    (document, nowhere)
}

fn rebalanced(document: &FleetDocument, policy: Policy) -> cell_planner::Plan {
    let fleet = document.build().unwrap();
    let request = Request { goal: Goal::Rebalance, bounds: Bounds::default(), now: UnixMillis(1_000) };
    plan(&fleet, policy, Some(&ring(&fleet)), &request).unwrap()
}

/// The reference mix in small: 95 % small tenants, 4 % mid, 1 % enterprises, a quarter of them in the EU only, on cells
/// that are full to seven tenths if all load is spread evenly.
fn mix(seed: u64, tenants: usize, cells: usize) -> FleetDocument {
    let mut dice = Dice(seed);
    let log_normal = |dice: &mut Dice, sigma: f64| {
        let (a, b) = (dice.share().max(1e-12), dice.share());
        (sigma * (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()).exp()
    };
    let tenants: Vec<TenantEntry> = (0..tenants)
        .map(|index| {
            let kind = dice.share();
            let base = if kind < 0.95 { 0.01 } else { [0.12, 1.0][usize::from(kind >= 0.99)] };
            let size = base * log_normal(&mut dice, 0.6);
            let (peak, height) = ([8usize, 14, 20][dice.below(3)], 2.0 + 3.0 * dice.share());
            let (connections, storage) = (log_normal(&mut dice, 0.5), log_normal(&mut dice, 0.8));
            let hourly = |scale: f64| {
                let at = |hour: usize| {
                    let distance = (hour + 24 - peak) % 24;
                    let distance = distance.min(24 - distance) as f64;
                    size * scale * (1.0 + (height - 1.0) * (-(distance / 4.0).powi(2)).exp())
                };
                let deviation = Hourly::ByHour((0..24).map(|hour| 0.3 * at(hour)).collect());
                ResourceDemand { mean: Hourly::ByHour((0..24).map(at).collect()), deviation }
            };
            let flat = |value| ResourceDemand { mean: Hourly::Flat(value), deviation: Hourly::Flat(0.0) };
            TenantEntry {
                id: format!("t-{index:05}"),
                residency: if dice.chance(0.25) { "eu".into() } else { String::new() },
                spike_cluster: if dice.chance(0.2) { format!("s-{}", dice.below(8)) } else { String::new() },
                demand: Demand {
                    cpu: hourly(1.0),
                    connections: hourly(10.0 * connections),
                    storage: flat(size * 20.0 * storage),
                },
                ..TenantEntry::default()
            }
        })
        .collect();
    let worst = |of: fn(&Demand) -> &ResourceDemand| {
        let at = |hourly: &Hourly, hour: usize| match hourly {
            Hourly::Flat(value) => *value,
            Hourly::ByHour(values) => values[hour],
        };
        let need = |hour: usize| {
            let mean: f64 = tenants.iter().map(|of_tenant| at(&of(&of_tenant.demand).mean, hour)).sum();
            let variance: f64 =
                tenants.iter().map(|of_tenant| at(&of(&of_tenant.demand).deviation, hour).powi(2)).sum();
            mean / cells as f64 + 2.0 * (variance / cells as f64).sqrt()
        };
        let alone = |of_tenant: &TenantEntry, hour: usize| {
            at(&of(&of_tenant.demand).mean, hour) + 2.0 * at(&of(&of_tenant.demand).deviation, hour)
        };
        // No tenant is larger than what a cell is to be full to.
        let largest = |hour: usize| tenants.iter().map(|of_tenant| alone(of_tenant, hour)).fold(0.0, f64::max);
        (0..24).map(|hour| need(hour).max(largest(hour))).fold(0.0, f64::max) / 0.7
    };
    let capacity = Amounts {
        cpu: worst(|demand| &demand.cpu),
        connections: worst(|demand| &demand.connections),
        storage: worst(|demand| &demand.storage),
    };
    let cell = |index: usize| CellEntry {
        id: format!("c-{index:04}"),
        residency: if index % 5 < 2 { "eu" } else { "us" }.into(),
        capacity,
        ..CellEntry::default()
    };
    FleetDocument { cells: (0..cells).map(cell).collect(), tenants, ..FleetDocument::default() }
}

#[test]
fn the_order_of_the_file_decides_nothing() {
    let cells = || vec![cell("c-1", 10.0), cell("c-2", 10.0)];
    let mut tenants = vec![tenant("s-1", 3.0), tenant("s-2", 3.0), tenant("s-3", 3.0), tenant("big", 8.0)];
    for _ in 0..4 {
        tenants.rotate_left(1);
        let fleet = fleet(cells(), tenants.clone());
        let all: Vec<TenantIx> = fleet.tenants().collect();
        let batch = batch(&fleet, &all, &room(0));
        assert!(batch.decisions.iter().all(|of| of.chosen.is_some()), "{:?}", batch.decisions);
        assert_eq!(batch.decisions[0].tenant.as_str(), "big", "the hardest first");
    }
}

#[test]
fn place_then_optimise_is_no_move_on_the_reference_mix() {
    for seed in 1..=6 {
        let (document, nowhere) = placed_together(mix(seed, 1_200, 5), &room(0));
        let plan = rebalanced(&document, Policy::default());
        assert_eq!((nowhere, plan.moves), (0, 0), "seed {seed}: {}", plan.why);
    }
}

#[test]
fn somebody_makes_room_for_a_newcomer_that_no_cell_admits() {
    let tenants = vec![on("c-1", tenant("s-1", 3.0)), on("c-2", tenant("s-2", 3.0)), tenant("big", 8.0)];
    let document =
        FleetDocument { cells: vec![cell("c-1", 10.0), cell("c-2", 10.0)], tenants, ..FleetDocument::default() };
    let fleet = document.build().unwrap();
    let new = homeless(&fleet, &document);
    let alone = batch(&fleet, &new, &room(0));
    assert_eq!((alone.moves.len(), &alone.decisions[0].chosen), (0, &None), "nobody may be moved");
    let roomy = batch(&fleet, &new, &room(1));
    let [only] = roomy.moves.as_slice() else { panic!("{roomy:?}") };
    assert!(matches!(&only.reason, Reason::MakeRoom { waits } if waits.as_str() == "big"), "{only:?}");
    assert_eq!(roomy.decisions[0].chosen.as_ref(), Some(&only.source), "where room was made");
    let mut cooling = document.clone();
    cooling.tenants.iter_mut().for_each(|entry| entry.cooldown_until = UnixMillis(2_000));
    let fleet = cooling.build().unwrap();
    assert!(batch(&fleet, &new, &room(9)).moves.is_empty(), "who is cooling down is left alone");
}

#[test]
fn a_tenant_on_its_way_to_where_it_may_never_be_is_told_of() {
    let mut cells = vec![cell("c-1", 10.0), cell("c-2", 10.0), cell("c-3", 10.0)];
    (cells[0].residency, cells[1].residency, cells[2].state) = ("eu".into(), "us".into(), CellState::Dead);
    let going = |id: &str, to: &str| TenantEntry { moving_to: to.into(), ..on("c-1", tenant(id, 1.0)) };
    let abroad = TenantEntry { residency: "eu".into(), ..going("abroad", "c-2") };
    let torn = TenantEntry { pin: "c-1".into(), ..going("torn", "c-2") };
    let document = FleetDocument {
        cells,
        tenants: vec![abroad, torn, going("lost", "c-3"), going("fine", "c-2")],
        ..FleetDocument::default()
    };
    let plan = rebalanced(&document, Policy::default());
    assert_eq!(plan.verdict, Verdict::Stuck, "{}", plan.why);
    assert!(plan.why.starts_with("3 tenants may not be where they are"), "{}", plan.why);
    let left: Vec<(&str, &str)> = plan.left.iter().map(|of| (of.tenant.as_str(), of.why.as_str())).collect();
    for ((tenant, why), (wanted, target, code)) in left.iter().zip([
        ("abroad", "c-2", RefusalCode::ResidencyViolated),
        ("torn", "c-2", RefusalCode::PinnedElsewhere),
        ("lost", "c-3", RefusalCode::CellDead),
    ]) {
        assert_eq!(*tenant, wanted);
        assert_eq!(*why, format!("it is moving to {target}, where it may not be ({code}): cancel that move"));
    }
    assert_eq!(left.len(), 3, "who goes where it may be is left alone");
}

#[test]
fn who_leaves_a_cell_where_it_may_not_be_with_a_move_under_way_is_no_longer_told_of() {
    let mut cells = vec![cell("c-1", 10.0), cell("c-2", 10.0)];
    cells[1].kind = cell_planner::CellKind::Dedicated;
    let promoted =
        TenantEntry { tier: cell_model::Tier::Platinum, moving_to: "c-2".into(), ..on("c-1", tenant("p", 1.0)) };
    let stays = TenantEntry { moving_to: String::new(), ..promoted.clone() };
    let of = |tenant: TenantEntry| FleetDocument {
        cells: cells.clone(),
        tenants: vec![tenant],
        ..FleetDocument::default()
    };
    assert_eq!(rebalanced(&of(stays), Policy::default()).moves, 1, "it may not be beside others");
    let plan = rebalanced(&of(promoted), Policy::default());
    assert_eq!((plan.verdict, plan.left.len(), plan.moves), (Verdict::NothingToDo, 0, 0), "{}", plan.why);
}

#[test]
fn a_tenant_of_a_dead_cell_is_taken_over_only_where_there_is_a_copy() {
    let mut cells = vec![cell("c-1", 10.0), cell("c-2", 10.0)];
    cells[0].state = CellState::Dead;
    let moving = TenantEntry { moving_to: "c-2".into(), ..on("c-1", tenant("moving", 1.0)) };
    let document = FleetDocument {
        cells,
        tenants: vec![moving, on("c-1", tenant("resting", 1.0))],
        ..FleetDocument::default()
    };
    let plan = rebalanced(&document, Policy::default());
    let why = |name: &str| plan.left.iter().find(|of| of.tenant.as_str() == name).unwrap().why.clone();
    assert!(why("moving").ends_with("take it over by force on c-2"), "{}", why("moving"));
    assert!(why("resting").ends_with("start the cell again, or restore its backup"), "{}", why("resting"));
}

#[test]
fn who_waits_for_a_cell_is_named_by_a_plan() {
    let tenants = (0..30).map(|index| tenant(&format!("t-{index:02}"), 0.1)).collect();
    let document = FleetDocument { cells: vec![cell("c-1", 10.0)], tenants, ..FleetDocument::default() };
    let plan = rebalanced(&document, Policy::default());
    assert_eq!((plan.verdict, plan.waiting.tenants, plan.waiting.first.len()), (Verdict::NothingToDo, 30, 20));
    assert_eq!(plan.waiting.first[0].as_str(), "t-00");
}

proptest! {
    #![proptest_config(crate::cases(60))]

    #[test]
    fn who_has_been_placed_together_stays(seed in any::<u64>(), cells in 3usize..12, fill in 0.2f64..0.9) {
        let shape = Shape { seed, cells, tenants: 40, fill, careless: false };
        let (document, _) = placed_together(random(shape), &room(0));
        let plan = rebalanced(&document, Policy::default());
        prop_assert_eq!(plan.moves, 0, "{}", plan.why);
    }

    #[test]
    fn moves_that_make_room_are_feasible_one_after_the_other(seed in any::<u64>(), fill in 0.7f64..1.1) {
        let shape = Shape { seed, cells: 5, tenants: 30, fill, careless: false };
        let (mut document, _) = placed_together(random(shape), &room(0));
        // Some who were placed come a second time, with others before them.
        document.tenants.iter_mut().step_by(7).for_each(|entry| entry.cell.clear());
        let fleet = document.build().unwrap();
        let batch = batch(&fleet, &homeless(&fleet, &document), &room(5));
        prop_assert!(batch.moves.len() <= 5);
        let waves = batch.moves.iter().map(|of| cell_planner::Wave { moves: vec![of.clone()], seconds: 0 });
        let waves: Vec<_> = waves.collect();
        crate::prefixes::Checker::new(&fleet, 2.0, &[]).run(&waves, &mut Dice(seed));
    }
}

#[test]
fn a_hot_cell_that_no_placement_improves_is_told_of() {
    let cells = vec![cell("c-1", 10.0), cell("c-2", 10.0)];
    let document = FleetDocument { cells, tenants: vec![on("c-1", tenant("t", 9.0))], ..FleetDocument::default() };
    let plan = rebalanced(&document, Policy::default());
    assert_eq!((plan.verdict, plan.moves), (Verdict::Reached, 0));
    let told = "c-1 is at 90.0 % (cpu at 00:00) and no placement of its zone's tenants is better";
    assert!(plan.why.ends_with(told), "{}", plan.why);
}

#[test]
fn two_tenants_that_are_pinned_to_one_dedicated_cell_contradict_each_other() {
    let mut own = cell("own", 10.0);
    own.kind = cell_planner::CellKind::Dedicated;
    let platinum =
        |id: &str| TenantEntry { tier: cell_model::Tier::Platinum, pin: "own".into(), ..tenant(id, 1.0) };
    let document =
        FleetDocument { cells: vec![own], tenants: vec![platinum("a"), platinum("b")], ..FleetDocument::default() };
    let error = document.build().unwrap_err().to_string();
    assert!(error.contains("tenants[1]: tenants a and b are both pinned to cell own"), "{error}");
    assert!(error.contains("CONSTRAINTS_CONTRADICT"), "{error}");
}
