//! Plans of fleets in files: what is printed, what is refused and how, and the pages of the manual.

use std::path::{Path, PathBuf};

use crate::program::{Said, cellctl};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn example() -> String {
    root().join("docs/placement/fleet.json").to_str().unwrap().to_owned()
}

fn json(said: &Said) -> serde_json::Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// Runs a command on a fleet document that is written for it.
fn on(document: &str, words: &str) -> Said {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("fleet.json");
    std::fs::write(&file, document).unwrap();
    cellctl(&format!("{words} --fleet {}", file.display()))
}

/// Two cells and some tenants, as JSON; the tenants say the rest.
fn fleet(tenants: &str) -> String {
    format!(
        r#"{{"revision": 3,
            "cells": [
              {{"id":"c1","region":"eu-1","residency":"eu","capacity":{{"cpu":10,"connections":100,"storage":100}}}},
              {{"id":"c2","region":"us-1","residency":"us","capacity":{{"cpu":10,"connections":100,"storage":100}}}}],
            "tenants": [{tenants}]}}"#
    )
}

#[test]
fn the_manual_shows_what_the_program_prints() {
    let file = root().join("docs/placement.md");
    let manual = std::fs::read_to_string(&file).unwrap();
    let mut shown = String::new();
    let mut commands = 0;
    let mut lines = manual.lines();
    while let Some(line) = lines.next() {
        shown.push_str(line);
        shown.push('\n');
        if line != "```console" {
            continue;
        }
        let command = lines.next().unwrap();
        let words = command.strip_prefix("$ cellctl ").unwrap();
        let said = cellctl(&words.replace("docs/", &format!("{}/docs/", root().display())));
        let printed = format!("{}{}", said.out, said.err).replace(&format!("{}/", root().display()), "");
        shown.push_str(&format!("{command}\n{printed}```\n"));
        commands += 1;
        assert!(lines.any(|line| line == "```"), "the block of {command} ends");
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, &shown).unwrap();
    }
    assert_eq!(commands, 7);
    let differs = shown.lines().zip(manual.lines()).find(|(shown, manual)| shown != manual);
    assert_eq!(differs, None, "`BLESS=1 cargo nextest run -p cellctl the_manual` writes what the program prints");
    assert_eq!(shown.len(), manual.len());
}

#[test]
fn the_same_question_gives_the_same_bytes() {
    let ask =
        || cellctl(&format!("plan rebalance --fleet {} --at 2026-03-01T06:00:00Z --seed 7 -o json", example()));
    let plan = ask();
    assert_eq!(plan.out, ask().out);
    let plan = json(&plan);
    assert_eq!((plan["kind"].as_str(), plan["parent"].as_u64()), (Some("Plan"), Some(41)));
    assert!(plan["moves"].as_u64().unwrap() > 0, "{plan}");
}

#[test]
fn every_view_of_a_plan_tells_of_the_same_moves() {
    let of = |more: &str| cellctl(&format!("plan drain eu-1 --fleet {}{more}", example()));
    let plan = json(&of(" -o json"));
    let moves: Vec<String> = plan["waves"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|wave| wave["moves"].as_array().unwrap().clone())
        .map(|planned| planned["tenant"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(moves.len(), 4);
    let (table, names, page) = (of("").out, of(" -o name").out, of(" -o html").out);
    for tenant in &moves {
        assert!(table.contains(tenant.as_str()), "{table}");
        assert!(names.contains(&format!("tenant/{tenant}\n")), "{names}");
        assert!(page.contains(&format!("<td>{tenant}</td>")), "{tenant}");
    }
    for outside in ["<script", "http://", "https://", "@import", "url("] {
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(outside), "the page asks for {outside}");
    }
}

#[test]
fn exit_codes_tell_a_script_what_is_to_be_done() {
    let of = |words: &str| cellctl(&format!("{words} --fleet {}", example())).code;
    assert_eq!(of("plan drain eu-1"), 0);
    assert_eq!(of("plan drain eu-1 --detailed-exitcode"), 2);
    assert_eq!(of("plan repair --detailed-exitcode"), 0, "nothing is to be repaired");
    assert_eq!(of("plan drain mars-1"), 1);
    assert_eq!(of("plan rebalance --max-moves 0"), 64);
    let window = cellctl(&format!("plan rebalance --window 0s --fleet {}", example()));
    assert!(window.code == 64 && window.err.contains("--window is 0"), "{window:?}");
    assert_eq!(of("plan export -o html"), 64, "a fleet has no page");
    let nobody = cellctl("plan rebalance");
    assert!(nobody.code == 64 && nobody.err.contains("--fleet FILE"), "{nobody:?}");
    assert_eq!(cellctl("plan rebalance --fleet /nowhere/fleet.json").code, 64);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.json");
    for (text, command) in [
        (r#"{"high_water": 0.1}"#, "plan rebalance --policy"),
        (r#"{"high_watre": 0.1}"#, "plan capacity --policy"),
        (r#"{"risk": 99}"#, "simulate --policy"),
        (r#"{"gold": {"enter": 0.1, "leave": 0.2}}"#, "plan tiers --tier-policy"),
        ("{", "explain tenant acme --policy"),
    ] {
        std::fs::write(&file, text).unwrap();
        let said = cellctl(&format!("{command} {} --fleet {}", file.display(), example()));
        assert!(said.code == 64 && said.err.contains("POLICY_INVALID"), "{command}: {said:?}");
    }
    assert_eq!(cellctl("get tenants -o html --insecure-plaintext --endpoints 127.0.0.1:1").code, 64);
}

#[test]
fn a_fleet_goes_from_a_document_to_tables_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let tables = directory.path().join("tables");
    let said = cellctl(&format!("plan export --fleet {} --to {}/", example(), tables.display()));
    assert_eq!(said.code, 0, "{said:?}");
    let plan = |fleet: &str| cellctl(&format!("plan drain eu-2 --fleet {fleet} -o name")).out;
    assert_eq!(plan(tables.to_str().unwrap()), plan(&example()));
    let cells = std::fs::read_to_string(tables.join("cells.csv")).unwrap();
    std::fs::write(tables.join("cells.csv"), cells.replacen("16", "sixteen", 1)).unwrap();
    let said = cellctl(&format!("plan repair --fleet {}", tables.display()));
    assert!(said.code == 1 && said.err.contains("cells.csv:2:") && said.err.contains("FLEET_SYNTAX"), "{said:?}");
    let tenants = std::fs::read_to_string(tables.join("tenants.csv")).unwrap();
    std::fs::write(tables.join("cells.csv"), cells).unwrap();
    std::fs::write(tables.join("tenants.csv"), &tenants[..tenants.len() - 40]).unwrap();
    let said = cellctl(&format!("plan repair --fleet {}", tables.display()));
    assert!(said.code == 1 && said.err.contains("tenants.csv:13:") && said.err.contains("cut short"), "{said:?}");
}

/// Each line of what a fleet may have wrong: its code, its place and a remedy are said, and nothing on standard output.
#[test]
fn what_is_wrong_with_a_fleet_is_said_with_place_and_remedy() {
    let flat = |value: &str| format!(r#""demand":{{"cpu":{{"mean":{value}}}}}"#);
    let cases = [
        (fleet(r#"{"id":"t","pin":"c1","residency":"us"}"#), "CONSTRAINTS_CONTRADICT", "drop the pin"),
        (fleet(r#"{"id":"t","region":"eu-1","residency":"us"}"#), "CONSTRAINTS_CONTRADICT", "drop the region"),
        (fleet(&format!(r#"{{"id":"t",{}}}"#, flat("-1"))), "DEMAND_INVALID", "from 0"),
        (fleet(&format!(r#"{{"id":"t",{}}}"#, flat("[1,2]"))), "DEMAND_INVALID", "one value, or 24"),
        (fleet(&format!(r#"{{"id":"t",{}}}"#, flat("NaN"))), "FLEET_SYNTAX", "mean of t is NaN"),
        (
            fleet(&format!(r#"{{"id":"t",{}}}"#, flat("null"))),
            "DEMAND_INVALID",
            "cpu mean of tenant t is not a number",
        ),
        (fleet(&format!(r#"{{"id":"t",{}}}"#, flat("\"much\""))), "DEMAND_INVALID", "give cores from 0 to 2000000"),
        (fleet(r#"{"id":"t","region":"mars-1"}"#), "REGION_UNKNOWN", "eu-1, us-1"),
        (fleet(r#"{"id":"t","residency":"mars"}"#), "RESIDENCY_UNKNOWN", "choose one of: eu, us"),
        (fleet(r#"{"id":"t"},{"id":"t"}"#), "ID_DUPLICATE", "rename or remove"),
        (fleet(r#"{"id":"t","cell":"c9"}"#), "CELL_UNKNOWN", "add that cell"),
        (r#"{"cells":[],"tenants":[]}"#.to_owned(), "FLEET_EMPTY", "add at least one cell"),
        (fleet("")[..60].to_owned(), "FLEET_SYNTAX", "ends too early"),
        (fleet(r#"{"id":"t","celll":"c1"}"#), "FLEET_SYNTAX", "correct it there"),
        (String::new(), "FLEET_SYNTAX", "ends too early"),
    ];
    for (document, code, remedy) in cases {
        for words in ["plan place", "plan rebalance -o json", "plan drain c1 -o html", "plan fail-cell c1"] {
            let said = on(&document, words);
            assert!(said.code == 1 && said.out.is_empty(), "{code}: {said:?}");
            assert!(
                said.err.contains(code) && said.err.contains(remedy) && said.err.contains("fleet.json"),
                "{said:?}"
            );
        }
    }
    let nan = "id,cpu_mean\nt,NaN\n";
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("cells.csv"), "id,cpu\nc1,4\n").unwrap();
    std::fs::write(directory.path().join("tenants.csv"), nan).unwrap();
    let said = cellctl(&format!("plan place --fleet {}", directory.path().display()));
    assert!(said.code == 1 && said.err.contains("tenants.csv:2: cpu mean of tenant t is not a number"), "{said:?}");
}

#[test]
fn where_no_cell_is_eligible_the_reason_and_the_way_out_are_said() {
    let big = r#"{"id":"big","residency":"eu","demand":{"cpu":{"mean":12}}}"#;
    let said = on(&fleet(big), "plan place big");
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("NO_CELL_ADMITS") && said.err.contains("2 cores more"), "{said:?}");
    assert!(
        said.err.contains("1 by RESIDENCY_VIOLATED") && said.err.contains("1 by CAPACITY_EXCEEDED"),
        "{said:?}"
    );
    assert!(said.out.contains("none of 2 cells admits it"), "{said:?}");
    let unknown = on(&fleet(big), "plan place nobody");
    assert!(unknown.code == 1 && unknown.err.contains("TENANT_UNKNOWN"), "{unknown:?}");
}

#[test]
fn the_loss_of_a_cell_names_who_finds_no_room() {
    let tenants = r#"{"id":"eu-only","cell":"c1","residency":"eu"},
        {"id":"pinned","cell":"c1","pin":"c1"},{"id":"free","cell":"c1"},{"id":"other","cell":"c2"}"#;
    let loss = json(&on(&fleet(tenants), "plan fail-cell c1 -o json"));
    assert_eq!(loss["kind"], "LossList");
    let loss = &loss["items"][0];
    assert_eq!((loss["tenants"].as_u64(), loss["rehomed"].as_u64()), (Some(3), Some(1)));
    let stranded: Vec<&str> =
        loss["stranded"].as_array().unwrap().iter().map(|of| of["tenant"].as_str().unwrap()).collect();
    assert_eq!(stranded, ["eu-only", "pinned"], "residency and pins hold in an emergency, too");
    let said = on(&fleet(tenants), "plan fail-cell c1");
    assert!(said.out.contains("3 tenants lose their home, 1 finds another, 2 do not"), "{said:?}");
    assert!(said.code == 1 && said.err.contains("NO_CELL_ADMITS"), "somebody is left without a cell: {said:?}");
    assert_eq!(loss["homes"], serde_json::json!([{"tenant": "free", "source": "c1", "target": "c2"}]));
    let table: Vec<&str> = said.out.lines().filter(|line| line.starts_with("free")).collect();
    assert_eq!(
        table.iter().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect::<Vec<_>>(),
        [["free", "c1", "c2"]]
    );
    assert_eq!(on(&fleet(tenants), "plan fail-cell c2").code, 0);
    let unknown = on(&fleet(tenants), "plan fail-cell c9");
    assert!(unknown.code == 1 && unknown.err.contains("LOSS_UNKNOWN"), "{unknown:?}");
    let region = json(&on(&fleet(tenants), "plan fail-cell --region eu-1 -o json"));
    assert_eq!(region["items"][0]["cells"], serde_json::json!(["c1"]));
    assert_eq!(on(&fleet(tenants), "plan fail-cell").code, 64, "something must be lost");
}

#[test]
fn a_plan_that_leaves_somebody_where_it_should_not_be_fails_and_names_it() {
    let said = on(&fleet(r#"{"id":"t","cell":"c1","residency":"eu"},{"id":"u","cell":"c1"}"#), "plan drain c1");
    assert!(said.code == 1 && said.out.contains("reached in part"), "{said:?}");
    assert!(said.err.contains("PLAN_INCOMPLETE") && said.err.contains("leaves tenant t on c1"), "{said:?}");
    let abroad = on(&fleet(r#"{"id":"t","cell":"c1","moving_to":"c2","residency":"eu"}"#), "plan repair");
    assert!(abroad.code == 1 && abroad.err.contains("RESIDENCY_VIOLATED): cancel that move"), "{abroad:?}");
}

#[test]
fn a_batch_is_placed_with_the_moves_that_make_room_for_it() {
    let batch = r#"{"id":"s1","cell":"c1","demand":{"cpu":{"mean":3}}},{"id":"s2","cell":"c2","demand":{"cpu":{"mean":3}}},
        {"id":"big","demand":{"cpu":{"mean":8}}}"#;
    let placed = json(&on(&fleet(batch), "plan place -o json"));
    let first = &placed["first"][0];
    assert_eq!(first["reason"], serde_json::json!({"code": "make-room", "waits": "big"}), "{placed}");
    assert_eq!(placed["items"][0]["chosen"], first["source"], "{placed}");
    let told = on(&fleet(batch), "plan place");
    assert!(told.code == 0 && told.out.contains("makes room for big"), "{told:?}");
    let alone = on(&fleet(batch), "plan place --max-moves 0");
    assert!(alone.code == 1 && alone.err.contains("NO_CELL_ADMITS"), "{alone:?}");
    let waits = on(&fleet(batch), "plan rebalance");
    assert!(waits.out.contains("1 tenant is on no cell: big; `cellctl plan place` finds cells"), "{waits:?}");
}

#[test]
fn what_cannot_be_written_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cellctl"))
        .args(["plan", "rebalance", "-o", "json", "--fleet", &example()])
        .stdout(full)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("FILE_WRITE") && said.contains("standard output"), "{said}");
}

#[test]
fn tables_that_were_cut_short_are_noticed_or_at_least_counted() {
    let directory = tempfile::tempdir().unwrap();
    let tables = directory.path().join("tables");
    assert_eq!(cellctl(&format!("plan export --fleet {} --to {}/", example(), tables.display())).code, 0);
    let ask = || cellctl(&format!("plan repair --fleet {}", tables.display()));
    assert!(ask().err.contains("has 4 cells and 12 tenants"), "{:?}", ask());
    let tenants = std::fs::read_to_string(tables.join("tenants.csv")).unwrap();
    std::fs::write(tables.join("tenants.csv"), tenants.trim_end()).unwrap();
    let said = ask();
    assert!(said.code == 1 && said.err.contains("tenants.csv:13: the last line does not end"), "{said:?}");
}

#[test]
fn the_ring_says_whose_default_home_changes_when_cells_come_or_go() {
    let of = |more: &str| cellctl(&format!("plan ring --fleet {}{more}", example()));
    let still = json(&of(" -o json"));
    assert_eq!((still["changed"].as_u64(), still["items"].as_array().unwrap().len()), (Some(0), 0), "{still}");
    let gone = json(&of(" --remove eu-1 --shard 2 -o json"));
    let lost = gone["cells"]["eu-1"]["tenants"].as_u64().unwrap();
    assert_eq!(gone["changed"].as_u64(), Some(lost), "only who was at home there: {gone}");
    assert_eq!(gone["cells"]["eu-1"]["tenantsThen"], 0);
    let items = gone["items"].as_array().unwrap();
    let shard = |of: &serde_json::Value| of["shard"].as_array().unwrap().clone();
    assert!(items.iter().all(|of| of["home"] == "eu-1" && !shard(of).contains(&"eu-1".into())), "{gone}");
    assert!(items.iter().any(|of| shard(of).len() == 2), "{gone}");
    let more = json(&of(" --add eu-3 acme -o json"));
    let moved = more["churn"]["moved"].as_f64().unwrap();
    assert!((0.1..0.3).contains(&moved), "a fifth of all names go to the fifth cell: {moved}");
    assert_eq!(more["items"][0]["tenant"], "acme");
    assert!(
        of(" --add eu-3,residency=eu").out.contains("another default home") && of(" -o html").out.contains("<svg")
    );
    assert_eq!([of(" --add eu-1").code, of(" --remove mars").code], [1, 1]);
}

#[test]
fn every_page_has_a_chart() {
    let all = ["plan place", "plan rebalance", "plan fail-cell eu-1", "plan capacity", "plan tiers", "plan ring"];
    for words in all.into_iter().chain(["explain tenant acme", "simulate --days 2"]) {
        let page = cellctl(&format!("{words} --fleet {} -o html", example())).out;
        assert!(page.contains("<svg"), "{words}");
    }
}

#[test]
fn explaining_a_tenant_needs_no_control_plane() {
    let said = cellctl(&format!("explain tenant acme --fleet {}", example()));
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("tenant acme is on eu-1") && said.out.contains("RESIDENCY_VIOLATED"), "{said:?}");
    let page = cellctl(&format!("explain tenant acme --fleet {} -o html", example()));
    assert!(page.out.starts_with("<!doctype html>"), "{page:?}");
}

#[test]
fn only_a_plan_of_this_kind_is_applied() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("plan.json");
    let plan = cellctl(&format!("plan drain eu-1 --fleet {} -o json", example())).out;
    for (text, why) in [
        (plan[..plan.len() / 2].to_owned(), "EOF"),
        (plan.replacen("\"Plan\"", "\"Plot\"", 1), "Plot"),
        ("{}".to_owned(), "missing field"),
    ] {
        std::fs::write(&file, text).unwrap();
        let said = cellctl(&format!("apply -f {} --insecure-plaintext --endpoints 127.0.0.1:1", file.display()));
        assert!(said.code == 1 && said.err.contains("PLAN_SYNTAX") && said.err.contains(why), "{said:?}");
    }
    assert_eq!(cellctl("apply -f /nowhere/plan.json --insecure-plaintext --endpoints 127.0.0.1:1").code, 64);
}

#[test]
fn capacity_says_how_long_there_is_room_and_what_is_missing() {
    let of = |more: &str| cellctl(&format!("plan capacity --fleet {}{more}", example()));
    let report = json(&of(" --growth 20% --horizon 180 -o json"));
    assert_eq!(report["kind"], "Capacity");
    let zones = report["zones"].as_array().unwrap();
    assert!(!zones.is_empty());
    let missing: u64 = zones.iter().map(|zone| zone["cells_to_add"].as_u64().unwrap()).sum();
    assert!(missing > 0, "at 20 % a month half a year is long: {report}");
    let still = json(&of(" --growth 0 --survive nothing -o json"));
    assert!(still["zones"].as_array().unwrap().iter().all(|zone| zone["zone_breach"].is_null()), "{still}");
    assert!(of(" --lose-domain zone-a").out.contains("loss of failure domain zone-a"));
    assert!(of(" -o html").out.contains("<svg"));
    let small = json(&of(" --growth 20% --horizon 180 --shape cpu=1,connections=25,storage=50 -o json"));
    let more: u64 = small["zones"].as_array().unwrap().iter().map(|of| of["cells_to_add"].as_u64().unwrap()).sum();
    assert!(more > 10 * missing, "sixteen of them make one of the others: {more}");
    assert!(of(" --shape cpu=0,connections=1,storage=1").err.contains("SHAPE_INVALID"));
    let unknown = of(" --growth-of region=mars:3%");
    assert!(unknown.code == 1 && unknown.err.contains("REGION_UNKNOWN"), "{unknown:?}");
    assert_eq!(of(" --growth lots").code, 64);
    assert!(of(" --horizon 0").err.contains("HORIZON_INVALID"));
}

#[test]
fn a_simulation_is_repeatable_and_takes_recorded_days() {
    let of = |more: &str| cellctl(&format!("simulate --fleet {} --days 10{more}", example()));
    let report = of(" --spikes 5% --growth 10% --seed 3 -o json");
    assert_eq!(report.out, of(" --spikes 5% --growth 10% --seed 3 -o json").out);
    assert_ne!(report.out, of(" --spikes 5% --growth 10% --seed 4 -o json").out);
    let report = json(&report);
    assert_eq!((report["kind"].as_str(), report["days"].as_array().unwrap().len()), (Some("Simulation"), 10));
    assert!(of("").out.contains("moves") && of(" -o html").out.contains("<svg"));

    let directory = tempfile::tempdir().unwrap();
    let usage = directory.path().join("usage.csv");
    let busy = vec!["40"; 24].join(" ");
    std::fs::write(&usage, format!("tenant,resource,values\nacme,cpu,{busy}\n")).unwrap();
    let recorded = json(&of(&format!(" --plan-every 0 --usage {} -o json", usage.display())));
    let hours = recorded["totals"]["hours_over_capacity"].as_u64().unwrap();
    assert_eq!(hours, 240, "acme wants more than its cell has, in every hour of ten days: {recorded}");
    // Who is left out uses what the fleet says, and so do resources that are.
    let idle = vec!["0"; 24].join(" ");
    std::fs::write(&usage, format!("tenant,resource,values\nacme,cpu,{idle}\n")).unwrap();
    let said = of(&format!(" --plan-every 0 --usage {} -o json", usage.display()));
    assert!(said.err.contains("nothing of 11 of 12 tenants, and not every resource of 1 more"), "{said:?}");
    let hottest = json(&said)["totals"]["hottest"].as_f64().unwrap();
    assert!((0.5..0.8).contains(&hottest), "eleven tenants are as they mean to be: {hottest}");
    for (text, why) in [
        ("tenant,values\n", "usage.csv:1:"),
        ("tenant,resource,values\nnobody,cpu,1\n", "no tenant nobody"),
        ("tenant,resource,values\nacme,cpu,1 2 3\n", "usage.csv:2: not 24 numbers a day"),
        ("tenant,resource,values\n\nacme,tea,1\n", "usage.csv:3: the resource"),
        (
            "tenant,resource,values\nacme,cpu,DAY\nacme,cpu,DAY\n",
            "usage.csv:3: cpu of tenant acme is already on line 2",
        ),
        ("tenant,resource,values\nacme,cpu,DAY DAY\nacme,storage,DAY\n", "usage.csv:3: 1 day of tenant acme"),
        ("tenant,resource,values\nacme,cpu,DAY", "usage.csv:2: the last line does not end"),
        ("tenant,resource,values\nacme,cpu,DAY 1e9\n", "usage.csv:2: not 24 numbers a day"),
    ] {
        std::fs::write(&usage, text.replace("DAY", &idle)).unwrap();
        let said = of(&format!(" --usage {}", usage.display()));
        assert!(said.code == 1 && said.err.contains(why) && said.err.contains("USAGE_SYNTAX"), "{said:?}");
    }
    assert!(of("0000").err.contains("DAYS_INVALID"));
}

#[test]
fn another_tier_is_proposed_with_its_cost_once_it_has_been_asked_for_on_enough_days() {
    let document = r#"{"revision": 3,
        "cells": [
          {"id":"c1","capacity":{"cpu":10,"connections":100,"storage":100}},
          {"id":"own","kind":"dedicated","capacity":{"cpu":8,"connections":100,"storage":100}}],
        "tenants": [
          {"id":"big","cell":"c1","demand":{"cpu":{"mean":4},"storage":{"mean":50}}},
          {"id":"small","cell":"c1","demand":{"cpu":{"mean":0.1}}},
          {"id":"idle","tier":"gold","cell":"c1","demand":{"cpu":{"mean":0.1}}}]}"#;
    let at_once = json(&on(document, "plan tiers -o json"));
    let of = |index: usize| {
        let item = &at_once["items"][index];
        [&item["tenant"], &item["from"], &item["to"]].map(|text| text.as_str().unwrap().to_owned())
    };
    assert_eq!(of(0), ["big", "bronze", "platinum"]);
    assert_eq!(of(1), ["idle", "gold", "bronze"]);
    let cost = &at_once["items"][0]["cost"];
    assert_eq!((cost["target"].as_str(), cost["bytes"].as_u64()), (Some("own"), Some(50_000_000_000)));
    assert_eq!(cost["idle"]["cpu"].as_f64(), Some(4.0));
    let directory = tempfile::tempdir().unwrap();
    let watch = directory.path().join("watch.json");
    let at = |time: &str| on(document, &format!("plan tiers -o name --watch {} --at {time}", watch.display()));
    let first = at("2026-03-01T06:00:00Z");
    assert_eq!((first.out.as_str(), first.err.as_str()), ("", ""));
    for again in ["2026-03-01T06:00:01Z", "2026-03-01T23:59:59Z", "2026-02-28T12:00:00Z"] {
        let said = at(again);
        assert!(said.out.is_empty() && said.err.contains("has counted this day already"), "{again}: {said:?}");
    }
    assert_eq!(
        [at("2026-03-02T00:00:00Z").out, at("2026-03-03T05:00:00Z").out],
        ["", "tenant/big\n"],
        "three days for a higher tier, 30 for a lower one"
    );
    std::fs::write(&watch, "{").unwrap();
    let said = at("2026-03-04T06:00:00Z");
    assert!(said.code == 1 && said.err.contains("TIER_WATCH_SYNTAX"), "{said:?}");
    assert_eq!(std::fs::read_to_string(&watch).unwrap(), "{", "what cannot be read is not written over");
    let page = on(document, "plan tiers -o html").out;
    assert!(page.contains("<td>big</td>") && page.contains("moves to own"), "{page}");
    assert_eq!(on(document, "plan tiers --days 0").code, 64);
    let named = json(&on(document, "plan tiers small idle -o json"));
    assert_eq!((named["items"].as_array().unwrap().len(), &named["items"][0]["tenant"]), (1, &"idle".into()));
    let nobody = on(document, "plan tiers nobody");
    assert!(nobody.code == 1 && nobody.err.contains("TENANT_UNKNOWN"), "{nobody:?}");
}

#[test]
fn a_bound_where_nobody_is_moved_is_refused_by_naming_who_takes_it() {
    for (words, bound) in [
        ("plan fail-cell eu-1 --max-moves 3", "--max-moves"),
        ("plan fail-cell eu-1 --window", "--window"),
        ("plan capacity --max-bytes 5GB", "--max-bytes"),
        ("plan capacity --window 2h", "--window"),
        ("plan tiers --max-moves -1", "--max-moves"),
        ("plan ring --max-moves=1", "--max-moves"),
        ("plan place --window 2h", "--window"),
    ] {
        let said = cellctl(&format!("{words} --fleet {}", example()));
        assert_eq!((said.code, said.out.as_str()), (64, ""), "{words}: {said:?}");
        assert!(said.err.contains(&format!("{bound} has nothing to bound here")), "{words}: {said:?}");
        assert!(said.err.contains("`cellctl plan rebalance`"), "{words}: {said:?}");
        let help = cellctl(&format!("{} --help", words.split(' ').take(2).collect::<Vec<_>>().join(" ")));
        assert!(!help.out.contains("--window"), "{}", help.out);
    }
}
