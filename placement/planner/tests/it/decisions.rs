//! One decision: who is refused and why, who is best and by what, and what would change the answer.

use cell_model::{CellState, Tier, UnixMillis};
use cell_planner::{
    Bounds, CellKind, Databases, Decision, Fleet, Goal, Hourly, Layout, PlaceError, Policy, RefusalCode, Request,
    TenantEntry, place,
};
use proptest::prelude::*;

use crate::world::{Shape, cell, fleet, on, placed, random, ring, tenant};

fn decide(fleet: &Fleet, tenant: &str) -> Decision {
    place(&Layout::new(fleet, Policy::default()), None, fleet.find_tenant(tenant).unwrap()).unwrap()
}

#[test]
fn a_refusal_counts_every_cell_and_says_what_would_admit() {
    let mut cells = vec![cell("c-1", 10.0), cell("c-2", 10.0), cell("c-3", 10.0), cell("c-4", 10.0)];
    cells[1].state = CellState::Cordoned;
    cells[2].state = CellState::Dead;
    cells[3].residency = "us".into();
    let mut full = on("c-1", tenant("full", 1.0));
    full.demand.storage.mean = Hourly::Flat(9_984.0);
    let mut newcomer = tenant("new", 1.0);
    newcomer.demand.storage.mean = Hourly::Flat(22.0);
    newcomer.residency = "eu".into();
    for cell in &mut cells[..3] {
        cell.residency = "eu".into();
    }
    let decision = decide(&fleet(cells, vec![full, newcomer]), "new");
    assert_eq!(decision.chosen, None);
    let counted: Vec<_> = decision.refused.iter().map(|of| (of.code, of.cells)).collect();
    assert_eq!(
        counted,
        [
            (RefusalCode::ResidencyViolated, 1),
            (RefusalCode::CellDead, 1),
            (RefusalCode::CellCordoned, 1),
            (RefusalCode::CapacityExceeded, 1)
        ]
    );
    let told: Vec<_> = decision.counterfactuals.iter().map(|of| of.sentence.as_str()).collect();
    assert_eq!(
        told,
        ["lifting the cordon of c-2 would admit it", "6 GB more at 00:00 on c-1 would admit it"],
        "a residency is never offered for lifting"
    );
    assert!(decision.to_string().contains("none of 4 cells admits it"), "{decision}");
}

#[test]
fn the_counterfactual_is_true() {
    let mut wide = cell("c-1", 10.0);
    wide.capacity.storage = 100.0;
    let mut big = on("c-1", tenant("big", 1.0));
    big.demand.storage.mean = Hourly::Flat(60.0);
    let mut newcomer = tenant("new", 1.0);
    newcomer.demand.storage.mean = Hourly::Flat(52.0);
    let with = |storage: f64, reserve: f64| {
        let mut cell = wide.clone();
        (cell.capacity.storage, cell.reserve) = (storage, reserve);
        decide(&fleet(vec![cell], vec![big.clone(), newcomer.clone()]), "new")
    };
    for (reserve, missing) in [(0.0, 12.0), (0.1, 24.445), (0.15, 31.765), (0.3, 60.0), (0.37, 77.778)] {
        let sentence = format!("{missing} GB more at 00:00 on c-1 would admit it");
        assert_eq!(with(100.0, reserve).counterfactuals[0].sentence, sentence, "reserve {reserve}");
        let almost = f64::round((99.999 + missing) * 1_000.0) / 1_000.0;
        assert_eq!(with(almost, reserve).chosen, None, "reserve {reserve}");
        let enough = f64::round((100.0 + missing) * 1_000.0) / 1_000.0;
        let admitted = with(enough, reserve).chosen;
        assert_eq!(admitted.as_ref().map(|cell| cell.as_str()), Some("c-1"), "reserve {reserve}");
    }
}

#[test]
fn tenants_that_peak_at_different_hours_share_a_cell() {
    let peaking = |id: &str, hour: usize| {
        let mut entry = tenant(id, 0.0);
        let values = (0..24).map(|at| if at == hour { 70.0 } else { 5.0 }).collect();
        entry.demand.cpu.mean = Hourly::ByHour(values);
        entry
    };
    let cells = || vec![cell("c-1", 100.0)];
    let apart = fleet(cells(), vec![on("c-1", peaking("morning", 8)), peaking("evening", 20)]);
    assert_eq!(decide(&apart, "evening").chosen.unwrap().as_str(), "c-1");
    let together = fleet(cells(), vec![on("c-1", peaking("morning", 8)), peaking("early", 8)]);
    let decision = decide(&together, "early");
    assert_eq!(decision.chosen, None);
    assert_eq!(decision.counterfactuals[0].sentence, "40 cores more at 08:00 on c-1 would admit it");
}

#[test]
fn tenants_that_spike_together_need_more_room_than_others() {
    let spiky = |id: &str, cluster: &str| {
        let mut entry = tenant(id, 30.0);
        entry.demand.cpu.deviation = Hourly::Flat(12.0);
        entry.spike_cluster = cluster.into();
        entry
    };
    let admits = |cluster: &str| {
        let fleet = fleet(vec![cell("c-1", 100.0)], vec![on("c-1", spiky("a", "")), spiky("b", "")]);
        assert!(decide(&fleet, "b").chosen.is_some(), "60 + 2 · √288 is below 100");
        let tenants = vec![on("c-1", spiky("a", "retail")), spiky("b", cluster)];
        decide(&crate::world::fleet(vec![cell("c-1", 100.0)], tenants), "b").chosen.is_some()
    };
    assert!(admits("banks"), "60 + 2 · √(144 + 144) is below 100");
    assert!(!admits("retail"), "60 + 2 · 24 is above 100");
}

#[test]
fn platinum_gets_a_cell_of_its_own_and_nobody_else_does() {
    let mut cells = vec![cell("pooled", 100.0), cell("own-1", 100.0), cell("own-2", 100.0)];
    cells[1].kind = CellKind::Dedicated;
    cells[2].kind = CellKind::Dedicated;
    let platinum = |id: &str| {
        let mut entry = tenant(id, 1.0);
        entry.tier = Tier::Platinum;
        entry
    };
    let tenants = vec![on("own-1", platinum("first")), platinum("second"), tenant("small", 1.0)];
    let fleet = fleet(cells, tenants);
    assert_eq!(decide(&fleet, "second").chosen.unwrap().as_str(), "own-2");
    assert_eq!(decide(&fleet, "small").chosen.unwrap().as_str(), "pooled");
    let codes: Vec<_> = decide(&fleet, "second").refused.iter().map(|of| of.code).collect();
    assert_eq!(codes, [RefusalCode::TierMismatch, RefusalCode::CellOccupied]);
}

#[test]
fn gold_gets_a_database_of_its_own_where_it_is_known_who_gives_one() {
    let mut cells = vec![cell("c-1", 100.0), cell("c-2", 100.0)];
    cells[0].databases = Some(Databases::Shared);
    let gold = |entry: TenantEntry| TenantEntry { tier: Tier::Gold, ..entry };
    let tenants =
        vec![gold(on("c-1", tenant("before", 1.0))), gold(tenant("new", 1.0)), on("c-2", tenant("load", 50.0))];
    let fleet = fleet(cells, tenants);
    let new = decide(&fleet, "new");
    assert_eq!((new.chosen.unwrap().as_str(), new.refused[0].code), ("c-2", RefusalCode::TierMismatch));
    assert_eq!(decide(&fleet, "before").chosen.unwrap().as_str(), "c-2", "it is not to stay where it shares");
    // Who is where it may not be is what a repair is for.
    let request = Request { goal: Goal::Repair, bounds: Bounds::default(), now: UnixMillis(1) };
    let plan = cell_planner::plan(&fleet, Policy::default(), None, &request).unwrap();
    let moves: Vec<_> = plan.waves.iter().flat_map(|wave| &wave.moves).collect();
    assert_eq!((moves[0].tenant.as_str(), moves[0].target.as_str(), moves.len()), ("before", "c-2", 1));
}

#[test]
fn a_group_keeps_to_different_cells_and_if_it_can_to_different_domains() {
    let mut cells = vec![cell("c-1", 100.0), cell("c-2", 100.0), cell("c-3", 100.0)];
    for (cell, domain) in cells.iter_mut().zip(["north", "north", "south"]) {
        cell.domain = domain.into();
    }
    let member = |id: &str| {
        let mut entry = tenant(id, 10.0);
        entry.group = "bank".into();
        entry
    };
    let tenants = vec![on("c-1", member("a")), member("b"), on("c-3", tenant("load", 30.0))];
    let decision = decide(&fleet(cells, tenants), "b");
    assert_eq!(decision.chosen.unwrap().as_str(), "c-3", "fuller, but another domain");
    let margin = decision.margin.unwrap();
    assert_eq!((margin.over.as_str(), margin.term.as_str(), margin.by), ("c-2", "shared_fate", 1));
    assert_eq!(decision.refused[0].code, RefusalCode::AntiAffinity);
}

#[test]
fn a_running_move_counts_on_both_cells() {
    let mut moving = on("c-1", tenant("moving", 60.0));
    moving.moving_to = "c-2".into();
    let fleet = fleet(vec![cell("c-1", 100.0), cell("c-2", 100.0)], vec![moving, tenant("new", 50.0)]);
    let decision = decide(&fleet, "new");
    assert_eq!(decision.chosen, None);
    assert_eq!((decision.refused[0].code, decision.refused[0].cells), (RefusalCode::CapacityExceeded, 2));
    let layout = Layout::new(&fleet, Policy::default());
    let refused = place(&layout, None, fleet.find_tenant("moving").unwrap()).unwrap_err();
    assert!(matches!(refused, PlaceError::TenantMoving { .. }), "{refused}");
}

#[test]
fn of_cells_that_are_equally_good_the_default_home_is_taken() {
    let cells = (0..50).map(|index| cell(&format!("c-{index:02}"), 100.0)).collect();
    let tenants = (0..40).map(|index| tenant(&format!("t-{index}"), 0.01)).collect();
    let fleet = fleet(cells, tenants);
    let ring = ring(&fleet);
    let layout = Layout::new(&fleet, Policy::default());
    for index in fleet.tenants() {
        let decision = place(&layout, Some(&ring), index).unwrap();
        let home = ring.home(fleet.tenant_id(index).as_str(), |_| true).cloned();
        assert_eq!(decision.chosen, home);
        assert_eq!(decision.candidates[0].terms.detour, 0);
    }
}

proptest! {
    #![proptest_config(crate::cases(60))]

    #[test]
    fn a_decision_accounts_for_every_cell_and_chooses_the_best(seed in any::<u64>(), fill in 0.1f64..1.2) {
        let shape = Shape { seed, cells: 12, tenants: 40, fill, careless: true };
        let document = random(shape);
        let fleet = document.build().unwrap();
        let layout = Layout::new(&fleet, Policy { candidates_shown: 100, ..Policy::default() });
        for tenant in fleet.tenants() {
            let Ok(decision) = place(&layout, None, tenant) else {
                let of = &document.tenants[tenant.index()];
                prop_assert!(!of.moving_to.is_empty() || !of.arrived_from.is_empty());
                continue;
            };
            let refused: u32 = decision.refused.iter().map(|of| of.cells).sum();
            prop_assert_eq!(refused as usize + decision.candidates.len(), 12);
            prop_assert!(decision.candidates.is_sorted_by(|a, b| (a.terms, &a.cell) < (b.terms, &b.cell)));
            prop_assert_eq!(decision.chosen.as_ref(), decision.candidates.first().map(|of| &of.cell));
            let entry = &document.tenants[tenant.index()];
            for of in &decision.candidates {
                let cell = document.cells.iter().find(|cell| cell.id == of.cell.as_str()).unwrap();
                prop_assert!(entry.residency.is_empty() || entry.residency == cell.residency);
                prop_assert!(of.peak.share <= 1.0001 || entry.cell == cell.id);
            }
        }
    }

    #[test]
    fn who_has_been_placed_would_be_placed_there_again(seed in any::<u64>()) {
        let shape = Shape { seed, cells: 10, tenants: 30, fill: 0.3, careless: false };
        let document = placed(random(shape), Policy::default());
        let fleet = document.build().unwrap();
        let layout = Layout::new(&fleet, Policy::default());
        let last = fleet.tenants().last().unwrap();
        let decision = place(&layout, Some(&ring(&fleet)), last).unwrap();
        let cell = &document.tenants[last.index()].cell;
        prop_assert_eq!(decision.chosen.map(|cell| cell.to_string()).unwrap_or_default(), cell.clone());
    }
}
