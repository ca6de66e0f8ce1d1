//! What a tenant has paid for, in a live fleet: given where it is, with a move, and proposed.

use std::time::{Duration, Instant};

use crate::apply::Fleet;

/// Waits until something of a tenant is so.
fn until(fleet: &Fleet, what: &str, holds: impl Fn(&serde_json::Value) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let tenant = fleet.json("get tenants acme")["items"][0].clone();
        if holds(&tenant) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {tenant}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_tier_is_given_where_the_tenant_is_or_with_a_move() {
    // Its two tenants are on a cell each.
    let fleet = Fleet::start("3");
    let ok = |words: &str| {
        let said = fleet.run(words);
        assert_eq!(said.code, 0, "{words}: {said:?}");
        said
    };
    until(&fleet, "it lives", |of| of["life"] == "live");
    let tenants = fleet.json("get tenants")["items"].as_array().unwrap().clone();
    let owner = |name: &str| {
        let of = tenants.iter().find(|of| of["tenant"] == name).unwrap();
        of["cell"].as_str().unwrap().to_owned()
    };
    let (here, taken) = (owner("acme"), owner("globex"));
    let cells = ["cell-1", "cell-2", "cell-3"];
    let empty = *cells.iter().find(|&&cell| cell != here && cell != taken).unwrap();
    let gold = ok("tenant set acme --tier gold");
    assert!(gold.out.contains("gold"), "{gold:?}");
    ok("tenant set acme --tier gold");
    let refused = fleet.run("tenant set acme --tier platinum");
    assert!(refused.code == 1 && refused.err.contains("(TIER_NEEDS_MOVE)"), "{refused:?}");
    assert!(refused.err.contains("`cellctl move tenant acme --to CELL --tier platinum`"), "{refused:?}");
    let stale = fleet.run("tenant set acme --tier silver --expected-revision 1");
    assert!(stale.code == 1 && stale.err.contains("(STALE_REVISION)"), "{stale:?}");
    assert_eq!(fleet.run("tenant set acme --tier tin").code, 64);

    // Why nobody takes a tenant is kept, though there is no tenant.
    let mars = fleet.run("create tenant ares --residency mars");
    assert!(mars.code == 1 && mars.err.contains("cellctl audit show --tenant"), "{mars:?}");
    let kept = ok("audit show --tenant ares -o json").out;
    assert!(
        kept.contains("NO_ELIGIBLE_CELL") && kept.contains("refused=") && kept.contains("explained="),
        "{kept}"
    );

    // An amount that is not named stays.
    ok(&format!("cell declare {empty} --kind dedicated --capacity cpu=4,storage=10"));
    ok(&format!("cell declare {empty} --capacity connections=9"));
    let capacity = fleet.json(&format!("get cells {empty}"))["items"][0]["capacity"].clone();
    assert_eq!(capacity, serde_json::json!({"cpu": 4.0, "connections": 9.0, "storage": 10.0}));
    ok(&format!("cell declare {empty} --capacity cpu=unknown"));

    // It goes to the cell that it is to have to itself, and is platinum once it is there.
    ok(&format!("move tenant acme --to {empty} --tier platinum --until sync --soak 300ms"));
    let moving = ok("explain tenant acme").out;
    let told = format!("is on {here} and moves to {empty}");
    assert!(moving.contains(&told) && moving.contains("cellctl move cancel m-"), "{moving}");
    let during = fleet.run("tenant set acme --tier bronze");
    assert!(during.code == 1 && during.err.contains("(MOVE_RUNNING)"), "{during:?}");
    let id = fleet.json("get moves")["items"][0]["move"].as_str().unwrap().to_owned();
    assert!(ok(&format!("describe move {id}")).out.contains("gold → platinum"), "it says what changes");
    until(&fleet, "it pauses", |of| of["move"]["status"] == "paused");
    ok(&format!("move resume {id}"));
    until(&fleet, "it is there", |of| of["tier"] == "platinum" && of["cell"] == empty && of["move"].is_null());
    let trail = ok("audit show --tenant acme -o json").out;
    assert!(trail.contains("set-tier") && trail.contains("tier=gold before=bronze"), "{trail}");
    let back = fleet.run("tenant set acme --tier gold");
    assert!(back.code == 1 && back.err.contains("--tier gold` takes it to a pooled cell"), "{back:?}");
}

#[test]
fn proposals_of_a_live_fleet_say_their_command_and_on_what_they_stand() {
    let fleet = Fleet::start("2");
    assert_eq!(fleet.run("create tenant hooli --cell cell-1").code, 0);
    fleet.settled();
    let proposed = fleet.run("plan tiers");
    assert_eq!(proposed.code, 0, "{proposed:?}");
    assert!(proposed.out.contains("assumed: of cells cell-1, cell-2 nobody has declared"), "{proposed:?}");
    let list = fleet.json("plan tiers");
    assert_eq!(list["assumed"], serde_json::json!(["cell-1", "cell-2"]));
    assert!(fleet.run("plan tiers -o html").out.contains("nobody has declared"));
    for cell in ["cell-1", "cell-2"] {
        let declared = fleet.run(&format!("cell declare {cell} --capacity connections=8,storage=100"));
        assert_eq!(declared.code, 0, "{declared:?}");
    }
    let list = fleet.json("plan tiers");
    assert!(list.get("assumed").is_none(), "{list}");
    let items = list["items"].as_array().unwrap();
    assert!(!items.is_empty() && items.iter().all(|of| of.get("assumed").is_none()), "{list}");
    let command = items[0]["command"].as_str().unwrap();
    let words = command.strip_prefix("cellctl ").unwrap();
    let said = fleet.run(words);
    assert_eq!(said.code, 0, "{command}: {said:?}");
    assert_eq!(fleet.run("plan rebalance --cooldown 24h").code, 0);
}

#[test]
fn proposals_are_applied_and_taken_back() {
    let fleet = Fleet::start("3");
    fleet.settled();
    let cell_of =
        |name: &str| fleet.json(&format!("get tenants {name}"))["items"][0]["cell"].as_str().unwrap().to_owned();
    let (small, large) = (cell_of("acme"), cell_of("globex"));
    let own = ["cell-1", "cell-2", "cell-3"].into_iter().find(|&cell| cell != small && cell != large).unwrap();
    // A quarter of its cell asks for one of its own, an eighth for a database.
    for (cell, more) in [(small.as_str(), "connections=4"), (&large, "connections=8"), (own, "connections=8")] {
        let kind = if cell == own { "--kind dedicated" } else { "--databases own" };
        let declared = fleet.run(&format!("cell declare {cell} --capacity {more},storage=100 {kind}"));
        assert_eq!(declared.code, 0, "{declared:?}");
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tiers.json");
    let propose = |words: &str| {
        let said = fleet.run(&format!("plan tiers{words} -o json"));
        assert_eq!(said.code, 0, "{said:?}");
        std::fs::write(&file, &said.out).unwrap();
        let list: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|of| of["tenant"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let apply = format!("apply -f {} --soak 300ms", file.display());
    let refused = |words: &str, code: &str| {
        let said = fleet.run(words);
        assert!(said.code == 1 && said.err.contains(code), "{words}: {said:?}");
    };
    assert_eq!(propose(" --fleet ../../docs/placement/fleet.json").len(), 9);
    refused(&apply, "(PLAN_OTHER_CLUSTER)");
    assert_eq!(fleet.run("plan tiers nobody").code, 1);
    assert_eq!(propose(" globex"), ["globex"]);
    let touched = fleet.run(&format!("cell declare {large} --domain r1"));
    assert_eq!(touched.code, 0, "{touched:?}");
    refused(&apply, "(PLAN_PARENT_MOVED)");
    assert_eq!(propose(""), ["acme", "globex"]);
    refused(&format!("{apply} --undo"), "(PLAN_NOT_APPLIED)");

    let applied = fleet.run(&apply);
    assert_eq!(applied.code, 0, "{applied:?}");
    assert_eq!(applied.out.matches(" done ").count(), 2, "{applied:?}");
    assert!(applied.out.contains("bronze → platinum") && applied.out.contains("bronze → gold"), "{applied:?}");
    let stands = |name: &str| {
        let of = fleet.json(&format!("get tenants {name}"))["items"][0].clone();
        (of["cell"].as_str().unwrap().to_owned(), of["tier"].as_str().unwrap().to_owned())
    };
    assert_eq!(stands("acme"), (own.to_owned(), "platinum".to_owned()));
    assert_eq!(stands("globex"), (large.clone(), "gold".to_owned()));
    let trail = fleet.run("audit show --tenant acme").out;
    assert!(trail.contains("reason=\"tier: acme has outgrown bronze"), "{trail}");
    let again = fleet.run(&format!("{apply} -o json"));
    assert!(again.code == 0 && again.err.contains("2 of 2 proposals were begun by an earlier run"), "{again:?}");
    let lines: serde_json::Value = serde_json::from_str(&again.out).unwrap();
    assert_eq!(lines["items"][1]["tiers"], serde_json::json!({"from": "bronze", "to": "gold"}), "{lines}");

    let back = fleet.run(&format!("{apply} --undo"));
    assert!(back.code == 0 && back.err.contains("2 of 2 proposals were made: taking them back"), "{back:?}");
    assert_eq!(stands("acme"), (small, "bronze".to_owned()));
    assert_eq!(stands("globex"), (large.clone(), "bronze".to_owned()));

    // Where tenants share a database nobody becomes gold.
    assert_eq!(fleet.run(&format!("cell declare {large} --databases shared")).code, 0);
    refused("tenant set globex --tier gold", "(TIER_NEEDS_MOVE)");
    refused(&format!("create tenant rich --tier gold --cell {large}"), "(TIER_MISMATCH)");
    let described = fleet.run(&format!("describe cell {large}")).out;
    assert!(described.contains("shared by several tenants: nobody is gold here"), "{described}");
}
