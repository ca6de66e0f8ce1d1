//! What is read of a live fleet.

use cell_model::{Capacity, CellKind, CellState, Databases, Generation};

use super::*;

fn picture() -> Picture {
    let cell = |id: &str, state| CellRecord {
        id: CellId::new(id).unwrap(),
        state,
        gates: Vec::new(),
        agent: "h:1".into(),
        region: "eu-1".into(),
        residency: "eu".into(),
        traits: cell_model::CellTraits::default(),
        generation: Generation(1),
        revision: Revision(3),
    };
    let tenant = |id: &str, life: &str, peer: &str| wire::Tenant {
        mapping: Some(wire::Mapping {
            tenant: id.into(),
            owner: "c1".into(),
            peer: peer.into(),
            tier: wire::Tier::Platinum.into(),
            ..wire::Mapping::default()
        }),
        residency: "eu".into(),
        r#move: (!peer.is_empty()).then(|| wire::Move {
            source: "c1".into(),
            target: peer.into(),
            leg: wire::Leg::Forward.into(),
            ..wire::Move::default()
        }),
        life: life.into(),
        ..wire::Tenant::default()
    };
    Picture {
        revision: Revision(9),
        cluster: "00000000000000a7/1".into(),
        cells: vec![cell("c1", CellState::Active), cell("c2", CellState::Cordoned)],
        tenants: vec![tenant("acme", "live", ""), tenant("gone", "deleting", ""), tenant("mid", "live", "c2")],
        measured: BTreeMap::from([(("c1".into(), "acme".into()), 2.5)]),
        cooling: BTreeMap::new(),
    }
}

#[test]
fn places_come_from_the_control_plane_and_storage_from_the_agents() {
    let mut notes = Vec::new();
    let document = picture().without_profile(&mut notes);
    document.build().unwrap();
    let tenants: Vec<_> = document.tenants.iter().map(|of| (of.id.as_str(), of.moving_to.as_str())).collect();
    assert_eq!(tenants, [("acme", ""), ("mid", "c2")]);
    assert_eq!(most(&document.tenants[0].demand.storage.mean), 2.5);
    assert_eq!((document.cells[1].state, document.cluster.as_str()), (CellState::Cordoned, "00000000000000a7/1"));
    assert!(document.cells[0].capacity.storage > 2.5 && document.tenants[0].tier == Tier::Platinum);
    assert!(notes[0].contains("no --profile") && notes[0].contains("of 2 cells no"), "{notes:?}");
}

#[test]
fn a_move_is_read_the_way_that_it_goes_until_its_end() {
    let of = |owner: &str, peer: &str, leg: wire::Leg| {
        let mut picture = picture();
        let mid = &mut picture.tenants[2];
        let mapping = mid.mapping.as_mut().unwrap();
        (mapping.owner, mapping.peer) = (owner.into(), peer.into());
        mid.r#move.as_mut().unwrap().leg = leg.into();
        let entry = picture.tenant_entries().last().unwrap();
        (entry.moving_to, entry.arrived_from)
    };
    let (to, from) = (|cell: &str| (cell.to_owned(), String::new()), |cell: &str| (String::new(), cell.to_owned()));
    assert_eq!(of("c1", "c2", wire::Leg::Forward), to("c2"));
    assert_eq!(of("c2", "c1", wire::Leg::Forward), from("c1"), "in soak");
    assert_eq!(of("c2", "c1", wire::Leg::Back), to("c1"), "on the way back");
    assert_eq!(of("c1", "c2", wire::Leg::Back), from("c2"), "back again");
}

#[test]
fn what_was_declared_of_a_cell_counts_and_the_rest_is_assumed() {
    let mut picture = picture();
    let whole = Capacity { cpu: 16_000, connections: 400_000, storage: 800_000 };
    let domain = || "rack-1".to_owned();
    picture.cells[0].traits = CellTraits {
        kind: CellKind::Dedicated,
        domain: domain(),
        capacity: whole,
        reserve: 100,
        databases: Some(Databases::Own),
        ungated: false,
    };
    let part = Capacity { connections: 10_000, ..Capacity::default() };
    picture.cells[1].traits = CellTraits { capacity: part, reserve: 500, ..CellTraits::default() };
    let mut notes = Vec::new();
    let document = picture.without_profile(&mut notes);
    document.build().unwrap();
    let [declared, half] = document.cells.as_slice() else { panic!("two cells") };
    let expected = CellEntry {
        id: "c1".into(),
        kind: CellKind::Dedicated,
        region: "eu-1".into(),
        residency: "eu".into(),
        domain: domain(),
        capacity: Amounts { cpu: 16.0, connections: 400.0, storage: 800.0 },
        reserve: 0.1,
        databases: Some(Databases::Own),
        ..CellEntry::default()
    };
    assert_eq!(*declared, expected);
    assert_eq!((half.capacity.connections, half.reserve), (10.0, 0.5));
    let assumed = picture.room(&document.tenants).storage;
    assert!(half.capacity.storage * 0.5 >= assumed, "a reserve takes nothing from what is assumed");
    assert!(notes[0].contains("of 1 cell no"), "{notes:?}");
    assert_eq!(picture.assumed(None), [CellId::new("c2").unwrap()], "only its storage is not known");
    let text = r#"{"cells":[{"id":"c2","capacity":{"cpu":1,"connections":1,"storage":1}}]}"#;
    assert!(picture.assumed(Some(&FleetDocument::from_json(text).unwrap())).is_empty());
}

#[test]
fn storage_that_nobody_has_told_or_counted_is_said_to_be_unknown() {
    let cell = |bytes, not_counted| {
        let storage = wire::TenantStorage { tenant: "acme".into(), bytes, not_counted, ..Default::default() };
        Some(wire::DescribeResponse { storage: vec![storage], ..Default::default() })
    };
    let mut notes = Vec::new();
    let counted = cell(2_500_000_000, false);
    let sizes_of = sizes(vec![("c1".into(), counted.clone()), ("c2".into(), counted.clone())], &mut notes);
    assert_eq!(sizes_of.values().copied().collect::<Vec<_>>(), [2.5, 2.5]);
    assert!(notes.is_empty(), "{notes:?}");
    let told = vec![("c1".into(), counted), ("c2".into(), None), ("c3".into(), cell(0, true))];
    assert_eq!(sizes(told, &mut notes).len(), 2);
    assert!(notes[0].starts_with("the agents of c2 do not answer"), "{notes:?}");
    assert!(notes[1].starts_with("the databases of c3 are too large") && notes.len() == 2, "{notes:?}");
}

#[test]
fn a_tier_that_comes_with_a_move_counts_where_the_move_leads() {
    let of = |owner: &str, peer: &str, tier: wire::Tier, leg: wire::Leg| {
        let mut picture = picture();
        let mid = &mut picture.tenants[2];
        let mapping = mid.mapping.as_mut().unwrap();
        (mapping.owner, mapping.peer, mapping.tier) = (owner.into(), peer.into(), tier.into());
        let movement = mid.r#move.as_mut().unwrap();
        movement.leg = leg.into();
        movement.tiers =
            Some(wire::TierChange { source: wire::Tier::Gold.into(), target: wire::Tier::Platinum.into() });
        picture.tenant_entries().last().unwrap().tier
    };
    assert_eq!(of("c1", "c2", wire::Tier::Gold, wire::Leg::Forward), Tier::Platinum, "it is to be platinum");
    assert_eq!(of("c2", "c1", wire::Tier::Platinum, wire::Leg::Forward), Tier::Platinum, "it is");
    assert_eq!(of("c2", "c1", wire::Tier::Platinum, wire::Leg::Back), Tier::Gold, "it goes back to what it was");
}

#[test]
fn who_has_just_moved_is_left_alone_for_a_while() {
    let ended = |tenant: &str, end: &str, ended_unix_ms: u64| wire::Move {
        tenant: tenant.into(),
        end: end.into(),
        ended_unix_ms,
        ..wire::Move::default()
    };
    let moves = [
        ended("acme", "completed", 5_000),
        ended("acme", "rolled-back", 9_000),
        ended("acme", "completed", 7_000),
        ended("mid", "cancelled", 9_000),
        ended("mid", "", 0),
    ];
    let mut picture = picture();
    picture.cooling = cooling(&moves, Duration::from_secs(60));
    let until: Vec<u64> = picture.tenant_entries().map(|of| of.cooldown_until.0).collect();
    assert_eq!(until, [69_000, 0], "a move that came to nothing has moved nobody");
    // A profile may know of more.
    let text = r#"{"cells":[{"id":"c1"}],"tenants":[{"id":"acme","cooldown_until":70000},{"id":"mid","cooldown_until":5}]}"#;
    let document = picture.with_profile(&FleetDocument::from_json(text).unwrap(), &mut Vec::new());
    assert_eq!(document.tenants.iter().map(|of| of.cooldown_until.0).collect::<Vec<_>>(), [70_000, 5]);
}

#[test]
fn a_profile_says_what_is_wanted_and_not_where() {
    let profile = FleetDocument::from_json(
        r#"{"cells":[{"id":"c1","kind":"pooled","domain":"r1","region":"us","capacity":{"cpu":4,"connections":1,"storage":1}}],
            "tenants":[{"id":"acme","cell":"c9","pin":"c1","demand":{"cpu":{"mean":1.5},"storage":{"mean":1}}}]}"#,
    )
    .unwrap();
    let mut notes = Vec::new();
    let mut picture = picture();
    picture.cells[0].traits.kind = CellKind::Dedicated;
    picture.cells[0].traits.capacity.storage = 500_000;
    let document = picture.with_profile(&profile, &mut notes);
    let acme = &document.tenants[0];
    assert_eq!((acme.cell.as_str(), acme.pin.as_str(), most(&acme.demand.cpu.mean)), ("c1", "c1", 1.5));
    assert_eq!(most(&acme.demand.storage.mean), 2.5, "what has been measured is not planned away");
    let cell = &document.cells[0];
    assert_eq!((cell.region.as_str(), cell.domain.as_str(), cell.capacity.cpu), ("eu-1", "r1", 4.0));
    assert_eq!((cell.kind, cell.capacity.storage), (CellKind::Dedicated, 1.0));
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes[1].contains("c1 is dedicated (`cellctl cell declare`"), "{notes:?}");
}
