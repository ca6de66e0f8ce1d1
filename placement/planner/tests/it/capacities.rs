//! Capacity: days that are left, cells that are missing, losses in thought.

use cell_model::{CellId, CellState, Tier};
use cell_planner::{
    CapacityError, CapacityReport, CapacityRequest, CellKind, Fleet, Growth, GrowthRule, Hourly, Loss, Policy,
    RefusalCode, Survive, capacity,
};
use proptest::prelude::*;

use crate::world::{Shape, cell, fleet, on, placed, random, ring, tenant};

fn ask(fleet: &Fleet, request: &CapacityRequest) -> CapacityReport {
    capacity(fleet, Policy::default(), None, request).unwrap()
}

fn growing(monthly: f64) -> CapacityRequest {
    CapacityRequest { growth: Growth { monthly, rules: Vec::new() }, ..CapacityRequest::default() }
}

fn two_cells_of_sixty() -> Fleet {
    let tenants = vec![on("c-1", tenant("a", 60.0)), on("c-2", tenant("b", 40.0))];
    fleet(vec![cell("c-1", 100.0), cell("c-2", 100.0)], tenants)
}

#[test]
fn the_days_that_are_left_are_counted_for_cells_and_for_the_zone() {
    // 60 grows by a tenth in 30 days: 60 · 1.1^(d/30) passes 100 after 160.8 days, (60 + 40) / 2 after 218.2.
    let report = ask(&two_cells_of_sixty(), &growing(0.1));
    let zone = &report.zones[0];
    let breach = zone.cell_breach.as_ref().unwrap();
    assert_eq!((breach.days, breach.cell.as_ref().unwrap().as_str()), (161, "c-1"));
    assert_eq!(zone.zone_breach.as_ref().unwrap().days, 219);
    assert!(
        zone.sentence.starts_with("cell c-1 passes its budget in 161 days (cpu at 00:00)"),
        "{}",
        zone.sentence
    );
    let still = ask(&two_cells_of_sixty(), &growing(0.0));
    assert_eq!((&still.zones[0].cell_breach, &still.zones[0].zone_breach), (&None, &None));
}

#[test]
fn cells_to_add_keep_the_zone_below_the_high_water_with_the_largest_part_lost() {
    let wanted = |survive| {
        let request = CapacityRequest { survive, horizon_days: 30, ..growing(1.0) };
        ask(&two_cells_of_sixty(), &request).zones[0].cells_to_add
    };
    // 200 cores by 0.8 are 250: one of 100 more than there is, and another one for the one that is lost.
    assert_eq!(wanted(Survive::Nothing), 1);
    assert_eq!(wanted(Survive::Cell), 2);
    assert_eq!(wanted(Survive::Domain), 2, "a cell without a failure domain is one by itself");
}

#[test]
fn with_the_cells_that_are_asked_for_the_high_water_holds() {
    let tenants: Vec<_> = (0..40).map(|index| on("c-1", tenant(&format!("t-{index:02}"), 10.0))).collect();
    let crowded = fleet(vec![cell("c-1", 100.0)], tenants.clone());
    let request = CapacityRequest { survive: Survive::Nothing, ..growing(0.0) };
    let count = ask(&crowded, &request).zones[0].cells_to_add;
    assert_eq!(count, 4, "400 by 0.8 are 500");
    let cells = (1..=count + 1).map(|index| cell(&format!("c-{index}"), 100.0)).collect();
    let enough = fleet(cells, tenants);
    assert_eq!(ask(&enough, &request).zones[0].cells_to_add, 0);
}

#[test]
fn cells_that_have_nothing_of_what_is_short_are_not_asked_for() {
    let mut cells = vec![cell("c-1", 100.0), cell("c-2", 50.0)];
    // A cell to add is like the largest, and that one takes no connections.
    (cells[0].capacity.connections, cells[1].capacity.connections) = (0.0, 10.0);
    let mut wants = on("c-2", tenant("a", 1.0));
    wants.demand.connections.mean = Hourly::Flat(60.0);
    let zone = &ask(&fleet(cells, vec![wants]), &growing(0.0)).zones[0];
    assert_eq!(zone.lacking.map(|dim| dim.to_string()), Some("connections at 00:00".to_owned()));
    let told = "cells of this shape do not help: connections at 00:00 is short, and they have none";
    assert!(zone.cells_to_add == 0 && zone.sentence.contains(told), "{}", zone.sentence);
    assert_eq!(ask(&two_cells_of_sixty(), &growing(0.0)).zones[0].lacking, None);
}

#[test]
fn a_cell_that_gives_no_room_is_no_loss() {
    let request = CapacityRequest { survive: Survive::Cell, ..growing(0.0) };
    let mut empty = cell("c-2", 50.0);
    empty.state = CellState::Cordoned;
    let mut only = cell("c-1", 100.0);
    only.capacity.connections = 0.0;
    let mut idle = on("c-1", tenant("a", 1.0));
    idle.demand.connections.mean = Hourly::Flat(0.0);
    let zone = &ask(&fleet(vec![only, empty], vec![idle]), &request).zones[0];
    assert_eq!((zone.cells_to_add, zone.lacking), (1, None), "for the one cell that is left: {}", zone.sentence);
}

#[test]
fn a_rule_of_growth_is_for_its_own_tenants() {
    let mut gold = on("c-1", tenant("gold", 50.0));
    gold.tier = Tier::Gold;
    let fleet = fleet(vec![cell("c-1", 100.0)], vec![gold, on("c-1", tenant("other", 10.0))]);
    let rules = vec![GrowthRule { tier: Some(Tier::Gold), monthly: 1.0, ..GrowthRule::default() }];
    let request = CapacityRequest { growth: Growth { monthly: 0.0, rules }, ..CapacityRequest::default() };
    // 50 · 2^(d/30) + 10 passes 100 after 25.4 days.
    assert_eq!(ask(&fleet, &request).zones[0].cell_breach.as_ref().unwrap().days, 26);
}

#[test]
fn zones_that_share_no_tenant_are_judged_for_themselves() {
    let mut cells = vec![cell("c-1", 100.0), cell("c-2", 100.0), cell("own", 100.0)];
    cells[0].residency = "eu".into();
    cells[1].residency = "us".into();
    cells[2].kind = CellKind::Dedicated;
    let mut tenants = vec![on("c-1", tenant("a", 90.0)), on("c-2", tenant("b", 10.0))];
    tenants[0].residency = "eu".into();
    tenants[1].residency = "us".into();
    let report = ask(&fleet(cells, tenants), &CapacityRequest { survive: Survive::Nothing, ..growing(0.0) });
    let told: Vec<_> = report.zones.iter().map(|of| (of.zone.as_str(), of.cells_to_add, of.tenants)).collect();
    assert_eq!(told, [("eu", 1, 1), ("us", 0, 1), ("own dedicated", 0, 0)]);
}

fn lose(fleet: &Fleet, loss: Loss) -> cell_planner::LossReport {
    let request = CapacityRequest { losses: vec![loss], ..CapacityRequest::default() };
    ask(fleet, &request).losses.remove(0)
}

#[test]
fn the_loss_of_a_cell_says_who_finds_a_home_and_who_does_not() {
    let mut cells = vec![cell("c-1", 100.0), cell("c-2", 100.0), cell("c-3", 100.0)];
    cells[0].residency = "eu".into();
    let mut bound_to = on("c-1", tenant("bound", 20.0));
    bound_to.residency = "eu".into();
    let tenants =
        vec![on("c-1", tenant("free", 30.0)), bound_to, on("c-2", tenant("x", 60.0)), on("c-3", tenant("y", 50.0))];
    let fleet = fleet(cells, tenants);
    let report = lose(&fleet, Loss::Cell { cell: CellId::new("c-1").unwrap() });
    assert_eq!((report.tenants, report.rehomed, report.stranded.len()), (2, 1, 1));
    assert_eq!(report.stranded[0].tenant.as_str(), "bound");
    let decision = report.stranded[0].decision.as_ref().unwrap();
    let codes: Vec<_> = decision.refused.iter().map(|of| of.code).collect();
    assert_eq!(codes, [RefusalCode::ResidencyViolated, RefusalCode::CellDead]);
    assert!((report.tenants_share - 0.5).abs() < 1e-9);
    // 50 of 160 cores, but half of the connections.
    assert!((report.blast_radius - 0.5).abs() < 1e-9, "{}", report.blast_radius);
    let (hottest, peak) = report.hottest.as_ref().unwrap();
    assert_eq!((hottest.as_str(), peak.share), ("c-3", 0.8));
    assert!(
        report.sentence.starts_with("2 tenants lose their home, 1 finds another, 1 does not"),
        "{}",
        report.sentence
    );
}

#[test]
fn the_loss_of_a_domain_or_a_region_takes_all_of_its_cells() {
    let mut cells = vec![cell("c-1", 100.0), cell("c-2", 100.0), cell("c-3", 100.0)];
    for (cell, (domain, region)) in cells.iter_mut().zip([("rack-1", "n"), ("rack-1", "s"), ("rack-2", "s")]) {
        cell.domain = domain.into();
        cell.region = region.into();
    }
    let tenants = ["c-1", "c-2", "c-3"].map(|of| on(of, tenant(&format!("on-{of}"), 20.0))).to_vec();
    let fleet = fleet(cells, tenants);
    let names = |report: cell_planner::LossReport| -> Vec<String> {
        assert_eq!(report.rehomed, 2);
        report.cells.iter().map(ToString::to_string).collect()
    };
    assert_eq!(names(lose(&fleet, Loss::Domain { domain: "rack-1".into() })), ["c-1", "c-2"]);
    assert_eq!(names(lose(&fleet, Loss::Region { region: "s".into() })), ["c-2", "c-3"]);
}

#[test]
fn questions_without_sense_have_codes() {
    let fleet = two_cells_of_sixty();
    let code = |request: CapacityRequest| {
        capacity(&fleet, Policy::default(), None, &request).map(|_| ()).map_err(|error| error.code()).unwrap_err()
    };
    assert_eq!(code(growing(f64::NAN)), "GROWTH_INVALID");
    assert_eq!(code(growing(-0.1)), "GROWTH_INVALID");
    assert_eq!(code(CapacityRequest { horizon_days: 0, ..growing(0.0) }), "HORIZON_INVALID");
    let elsewhere = GrowthRule { region: "mars".into(), ..GrowthRule::default() };
    let request =
        CapacityRequest { growth: Growth { monthly: 0.0, rules: vec![elsewhere.clone()] }, ..growing(0.0) };
    assert_eq!(code(request), "REGION_UNKNOWN");
    let many = Growth { monthly: 0.0, rules: vec![GrowthRule::default(); 65] };
    assert_eq!(code(CapacityRequest { growth: many, ..growing(0.0) }), "RULES_TOO_MANY");
    let nowhere = Loss::Domain { domain: "rack-9".into() };
    let error =
        capacity(&fleet, Policy::default(), None, &CapacityRequest { losses: vec![nowhere], ..growing(0.0) });
    assert!(matches!(error, Err(CapacityError::LossUnknown { what: "failure domain", .. })), "{error:?}");
}

proptest! {
    #![proptest_config(crate::cases(30))]

    #[test]
    fn a_loss_accounts_for_every_tenant_and_is_the_same_every_time(seed in any::<u64>(), fill in 0.2f64..0.9) {
        let shape = Shape { seed, cells: 8, tenants: 40, fill, careless: false };
        let document = placed(random(shape), Policy::default());
        let fleet = document.build().unwrap();
        let loss = Loss::Cell { cell: CellId::new("c-00").unwrap() };
        let request = CapacityRequest { losses: vec![loss], ..growing(0.05) };
        let report = capacity(&fleet, Policy::default(), Some(&ring(&fleet)), &request).unwrap();
        let lost = &report.losses[0];
        let on_it = document.tenants.iter().filter(|of| of.cell == "c-00").count();
        prop_assert_eq!(lost.tenants, on_it);
        prop_assert_eq!(lost.rehomed + lost.stranded.len() + lost.stranded_unlisted, on_it);
        let taken: usize = lost.takers.iter().map(|of| of.tenants_after - of.tenants_before).sum();
        prop_assert_eq!(taken, lost.rehomed);
        for of in &lost.takers {
            prop_assert!(of.after.share <= 1.0001, "{} is full", of.cell);
        }
        for zone in &report.zones {
            // Who waits is on no cell, and counts in the zone.
            let (first, whole) = (&zone.cell_breach, &zone.zone_breach);
            if let (Some(cell), Some(all), 0) = (first, whole, zone.waiting) {
                prop_assert!(cell.days <= all.days, "a zone is full when its fullest cell is, or later");
            }
        }
        let again = capacity(&fleet, Policy::default(), Some(&ring(&fleet)), &request).unwrap();
        prop_assert_eq!(report, again);
    }
}

#[test]
fn who_waits_for_a_cell_counts_in_its_zone_and_in_the_cells_to_add() {
    let wanting = |cpu: f64| {
        let homed = [on("c-0", tenant("h-0", 3.0)), on("c-1", tenant("h-1", 3.0))];
        let waiting = (0..20).map(|index| tenant(&format!("w-{index:02}"), cpu));
        fleet(vec![cell("c-0", 10.0), cell("c-1", 10.0)], homed.into_iter().chain(waiting).collect())
    };
    let report = ask(&wanting(8.0), &growing(0.0));
    let zone = &report.zones[0];
    assert_eq!((zone.tenants, zone.waiting, zone.stranded), (2, 20, 20));
    assert_eq!(zone.cells_to_add, 20, "one for each of them: {}", zone.sentence);
    assert_eq!(zone.zone_breach.as_ref().map(|of| of.days), Some(0), "{}", zone.sentence);
    assert!(
        zone.sentence.ends_with("20 tenants wait for a cell, 20 of them admitted by none"),
        "{}",
        zone.sentence
    );
    // Each of these fits beside what is there, two find a cell, and no two of them fit into one.
    let report = ask(&wanting(6.0), &CapacityRequest { survive: Survive::Nothing, ..growing(0.0) });
    let zone = &report.zones[0];
    assert_eq!((zone.stranded, zone.cells_to_add), (18, 18), "more than their sum asks for: {}", zone.sentence);
    let mut own = tenant("own", 1.0);
    own.tier = cell_model::Tier::Platinum;
    let report = ask(&fleet(vec![cell("c-0", 10.0)], vec![own]), &growing(0.0));
    assert_eq!((report.nowhere, report.zones[0].waiting), (1, 0), "there is no dedicated cell at all");
}
