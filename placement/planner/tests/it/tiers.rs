//! Tiers: proposals after enough days in a row, with their cost, and none for a tenant that wavers.

use cell_model::Tier;
use cell_planner::{
    CellKind, Databases, Fleet, Hourly, Layout, Policy, Proposal, Threshold, TierPolicy, TierWatch,
};

use crate::world::{cell, fleet, on, tenant};

fn tiers() -> TierPolicy {
    TierPolicy { promote_days: 3, demote_days: 5, ..TierPolicy::default() }
}

fn with_share(cpu: f64, tier: Tier) -> Fleet {
    let mut cells = vec![cell("c-1", 100.0), cell("own", 80.0)];
    cells[1].kind = CellKind::Dedicated;
    let mut one = on(if tier == Tier::Platinum { "own" } else { "c-1" }, tenant("one", cpu));
    one.tier = tier;
    one.demand.storage.mean = Hourly::Flat(100.0);
    fleet(cells, vec![one])
}

/// Shows the watch the same tenant with these shares, a day each; gives the proposals of the last day.
fn watched(shares: &[f64], tier: Tier) -> Vec<Proposal> {
    let mut watch = TierWatch::default();
    let mut proposals = Vec::new();
    for &cpu in shares {
        let fleet = with_share(cpu, tier);
        let layout = Layout::new(&fleet, Policy::default());
        watch.observe(&layout, &tiers()).unwrap();
        proposals = watch.proposals(&layout, None, &tiers());
    }
    proposals
}

#[test]
fn a_tenant_that_takes_a_quarter_of_its_cell_is_offered_a_cell_of_its_own_after_three_days() {
    assert_eq!(watched(&[30.0, 30.0], Tier::Bronze), []);
    let proposals = watched(&[30.0, 30.0, 30.0], Tier::Bronze);
    let only = &proposals[0];
    assert_eq!((only.from, only.to, only.days), (Tier::Bronze, Tier::Platinum, 3));
    assert_eq!(only.cost.target.as_ref().unwrap().as_str(), "own");
    assert_eq!((only.cost.moves, only.cost.bytes, only.cost.seconds), (true, 100_000_000_000, 2_010));
    let idle = only.cost.idle.unwrap();
    assert_eq!((idle.cpu, idle.connections, idle.storage), (50.0, 999.0, 9_900.0));
    assert_eq!(
        only.sentence,
        "one has outgrown bronze for 3 days in a row: it takes 30.0 % of its cell (cpu at 00:00); as platinum it moves \
         to own, 100000000000 bytes in about 2010 s"
    );
}

#[test]
fn what_every_day_of_the_streak_asked_for_is_proposed() {
    let proposals = watched(&[12.0, 40.0, 40.0], Tier::Bronze);
    assert_eq!(proposals[0].to, Tier::Gold);
    assert!(!proposals[0].cost.moves, "a database of its own, on the cell where it is");
}

/// What is proposed of a fleet that stays as it is for three days.
fn of_three_days(fleet: &Fleet) -> Vec<Proposal> {
    let layout = Layout::new(fleet, Policy::default());
    let mut watch = TierWatch::default();
    for _ in 0..3 {
        watch.observe(&layout, &tiers()).unwrap();
    }
    watch.proposals(&layout, None, &tiers())
}

fn targets(proposals: &[Proposal]) -> Vec<(&str, Tier, Option<&str>)> {
    let listed = proposals.iter();
    listed.map(|of| (of.tenant.as_str(), of.to, of.cost.target.as_ref().map(cell_model::CellId::as_str))).collect()
}

#[test]
fn proposals_can_be_carried_out_together() {
    let mut cells = vec![cell("c-1", 100.0), cell("own", 80.0)];
    cells[1].kind = CellKind::Dedicated;
    let large = |id: &str, cpu: f64| on("c-1", tenant(id, cpu));
    let of = |tenants| of_three_days(&fleet(cells.clone(), tenants));
    let both = of(vec![large("less", 30.0), large("more", 31.0)]);
    let expected = [("more", Tier::Platinum, Some("own")), ("less", Tier::Platinum, None)];
    assert_eq!(targets(&both), expected, "one cell is for one tenant");
    // Nobody is taken there before the other has left.
    let mut left = on("own", tenant("small", 1.0));
    left.tier = Tier::Platinum;
    let fleet = fleet(cells.clone(), vec![large("more", 31.0), left]);
    let layout = Layout::new(&fleet, Policy::default());
    let mut watch = TierWatch::default();
    for _ in 0..5 {
        watch.observe(&layout, &tiers()).unwrap();
    }
    let expected = [("more", Tier::Platinum, None), ("small", Tier::Bronze, Some("c-1"))];
    assert_eq!(targets(&watch.proposals(&layout, None, &tiers())), expected);
}

#[test]
fn gold_is_proposed_where_there_is_a_database_of_its_own() {
    let mut cells = vec![cell("c-1", 100.0), cell("c-2", 100.0)];
    let gold = |cells: &[cell_planner::CellEntry]| {
        let proposals = of_three_days(&fleet(cells.to_vec(), vec![on("c-1", tenant("one", 12.0))]));
        targets(&proposals)[0].2.map(str::to_owned)
    };
    assert_eq!(gold(&cells).as_deref(), Some("c-1"), "nobody has said that tenants share there");
    cells[0].databases = Some(Databases::Shared);
    assert_eq!(gold(&cells).as_deref(), Some("c-2"));
    cells[1].databases = Some(Databases::Own);
    assert_eq!(gold(&cells).as_deref(), Some("c-2"));
    cells[1].databases = Some(Databases::Shared);
    assert_eq!(gold(&cells), None);
}

#[test]
fn who_is_being_moved_is_proposed_nothing() {
    let mut moving = on("c-1", tenant("one", 30.0));
    moving.moving_to = "c-2".into();
    assert_eq!(of_three_days(&fleet(vec![cell("c-1", 100.0), cell("c-2", 100.0)], vec![moving])), []);
}

#[test]
fn a_tenant_that_wavers_is_left_alone() {
    assert_eq!(watched(&[30.0, 30.0, 7.0, 30.0, 30.0], Tier::Bronze), [], "the streak broke");
    // Between leave and enter nothing is asked for, however long.
    assert_eq!(watched(&[7.0; 60], Tier::Bronze), []);
    assert_eq!(watched(&[7.0; 60], Tier::Gold), []);
}

#[test]
fn a_lower_tier_is_proposed_after_a_longer_time() {
    assert_eq!(watched(&[2.0; 4], Tier::Gold), []);
    let proposals = watched(&[2.0; 5], Tier::Gold);
    assert_eq!((proposals[0].to, proposals[0].days), (Tier::Bronze, 5));
    let back = watched(&[1.0; 5], Tier::Platinum);
    assert_eq!(back[0].cost.target.as_ref().unwrap().as_str(), "c-1", "back to a pooled cell");
}

#[test]
fn spikes_ask_for_silver() {
    let mut spiky = on("c-1", tenant("spiky", 1.0));
    spiky.demand.cpu.deviation = Hourly::Flat(1.5);
    let fleet = fleet(vec![cell("c-1", 100.0)], vec![spiky]);
    let layout = Layout::new(&fleet, Policy::default());
    let mut watch = TierWatch::default();
    for _ in 0..3 {
        watch.observe(&layout, &tiers()).unwrap();
    }
    let proposals = watch.proposals(&layout, None, &tiers());
    assert_eq!((proposals[0].from, proposals[0].to), (Tier::Bronze, Tier::Silver));
    assert!(proposals[0].sentence.contains("deviates by 1.50 of its mean"), "{}", proposals[0].sentence);
}

#[test]
fn the_watch_survives_a_restart_as_json() {
    let fleet = with_share(30.0, Tier::Bronze);
    let layout = Layout::new(&fleet, Policy::default());
    let mut watch = TierWatch::default();
    for _ in 0..3 {
        watch.observe(&layout, &tiers()).unwrap();
        watch = serde_json::from_str(&serde_json::to_string(&watch).unwrap()).unwrap();
    }
    assert_eq!(watch.proposals(&layout, None, &tiers()).len(), 1);
}

#[test]
fn a_policy_without_hysteresis_is_refused() {
    let check = |change: &dyn Fn(&mut TierPolicy)| {
        let mut policy = TierPolicy::default();
        change(&mut policy);
        policy.check().unwrap_err().option
    };
    TierPolicy::default().check().unwrap();
    assert_eq!(check(&|of| of.gold = Threshold { enter: 0.1, leave: 0.1 }), "gold");
    assert_eq!(check(&|of| of.silver.enter = f64::NAN), "silver");
    assert_eq!(check(&|of| of.platinum = Threshold { enter: 0.08, leave: 0.06 }), "gold");
    assert_eq!(check(&|of| of.promote_days = 0), "promote-days");
}
