//! How plans are asked for: options that make no sense, names that are not there, and words for small numbers.

use crate::program::{Said, cellctl};

/// Two cells in two legal zones, a dedicated one, and tenants.
const FLEET: &str = r#"{"revision": 3,
  "cells": [
    {"id":"eu-1","residency":"eu","capacity":{"cpu":10,"connections":100,"storage":100}},
    {"id":"us-1","residency":"us","capacity":{"cpu":10,"connections":100,"storage":100}},
    {"id":"us-2","residency":"us","kind":"dedicated","capacity":{"cpu":10,"connections":100,"storage":100}}],
  "tenants": [
    {"id":"euro","residency":"eu","cell":"eu-1","demand":{"cpu":{"mean":1}}},
    {"id":"yank","residency":"us","cell":"us-1","demand":{"cpu":{"mean":1}}},
    {"id":"prem","tier":"platinum","cell":"us-2","demand":{"cpu":{"mean":1}}},
    {"id":"left","cell":"eu-1","moving_to":"us-1","demand":{"cpu":{"mean":2}}},
    {"id":"came","cell":"us-1","arrived_from":"eu-1","demand":{"cpu":{"mean":1}}},
    {"id":"tiny","cell":"us-1","demand":{"cpu":{"mean":0.001}}}]}"#;

fn on(words: &str) -> Said {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("fleet.json");
    std::fs::write(&file, FLEET).unwrap();
    cellctl(&format!("{words} --fleet {}", file.display()))
}

fn json(words: &str) -> serde_json::Value {
    let said = on(&format!("{words} -o json"));
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

#[test]
fn an_option_out_of_its_range_is_wrong_usage_in_every_command() {
    for (words, code) in [
        ("plan rebalance --max-moves 0", "BOUND_INVALID"),
        ("plan repair --window 0s", "BOUND_INVALID"),
        ("plan drain eu-1 --at-once 0", "BOUND_INVALID"),
        ("plan capacity --horizon 0", "HORIZON_INVALID"),
        ("plan capacity --shape cpu=0,connections=1,storage=1", "SHAPE_INVALID"),
        ("simulate --days 0", "DAYS_INVALID"),
        ("simulate --smoothing 0", "SMOOTHING_INVALID"),
        ("simulate --max-moves 0", "BOUND_INVALID"),
    ] {
        let said = on(words);
        assert_eq!((said.code, said.out.as_str()), (64, ""), "{words}: {said:?}");
        assert!(said.err.contains(&format!("({code})")) && said.err.contains("\n  next: "), "{words}: {said:?}");
    }
    for words in [
        "plan capacity --growth -1%",
        "plan rebalance --max-bytes 0",
        "plan rebalance --cooldown 1h",
        "plan ring --add eu-1,zone=eu",
        "apply --file plan.json --soak soon",
    ] {
        assert_eq!(on(words).code, 64, "{words}");
    }
}

#[test]
fn a_name_that_is_not_there_is_no_wrong_usage() {
    for (words, code) in [
        ("plan drain mars-1", "CELL_UNKNOWN"),
        ("plan ring --remove mars-1", "CELL_UNKNOWN"),
        ("plan ring --add eu-1", "CELL_EXISTS"),
        ("plan fail-cell mars-1", "LOSS_UNKNOWN"),
        ("plan place nobody", "TENANT_UNKNOWN"),
        ("explain tenant nobody", "TENANT_UNKNOWN"),
    ] {
        let said = on(words);
        assert!(said.code == 1 && said.err.contains(&format!("({code})")), "{words}: {said:?}");
        assert!(said.err.contains("\n  next: "), "{words}: {said:?}");
    }
}

#[test]
fn who_is_named_twice_counts_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("fleet.json");
    std::fs::write(&file, FLEET).unwrap();
    let once = |words: &str| cellctl(&format!("{words} --fleet {}", file.display())).out;
    assert_eq!(
        once("plan drain us-1 us-1 --at 2026-03-01T06:00:00Z"),
        once("plan drain us-1 --at 2026-03-01T06:00:00Z")
    );
    assert_eq!(once("plan fail-cell eu-1 eu-1"), once("plan fail-cell eu-1"));
    assert_eq!(once("plan place tiny tiny"), once("plan place tiny"));
}

#[test]
fn one_of_them_is_no_plural_and_next_to_nothing_is_not_nothing() {
    let lost = on("plan fail-cell us-2").out;
    assert!(lost.contains("1 tenant loses its home, 0 find another, 1 does not"), "{lost}");
    let said = on("plan capacity --horizon 1").out;
    assert!(said.contains("1 day ahead") && said.contains("within a day") && !said.contains("1 days"), "{said}");
    let small = json("explain tenant tiny");
    assert_eq!(small["cell"], "us-1");
    for words in ["plan rebalance", "plan capacity --growth 0", "simulate --days 2", "plan ring"] {
        let told = on(words).out + &on(&format!("{words} -o json")).out;
        assert!(
            !told.contains("-0.0") && !told.contains("1 tenants") && !told.contains("1 cells"),
            "{words}: {told}"
        );
    }
}

#[test]
fn a_default_home_is_where_a_tenant_may_be() {
    let ring = json("plan ring euro yank prem tiny --shard 3");
    let of = |ring: &serde_json::Value, name: &str, field: &str| {
        let items = ring["items"].as_array().unwrap();
        items.iter().find(|of| of["tenant"] == name).unwrap()[field].clone()
    };
    assert_eq!([of(&ring, "euro", "home"), of(&ring, "yank", "home")], ["eu-1", "us-1"]);
    assert_eq!(of(&ring, "prem", "home"), "us-2", "nobody else may be there");
    assert_eq!(of(&ring, "euro", "shard"), serde_json::json!(["eu-1"]));
    assert_eq!(
        of(&ring, "tiny", "shard"),
        serde_json::json!(["eu-1", "us-1"]),
        "it may be on both that are pooled"
    );
    let without = json("plan ring euro yank --remove eu-1");
    assert_eq!(of(&without, "euro", "homeThen"), serde_json::Value::Null, "none is left in its zone");
    assert_eq!(of(&without, "yank", "homeThen"), "us-1");
    assert_eq!(without["nowhere"], serde_json::json!({"tenants": 0, "tenantsThen": 1}));
    let said = on("plan ring euro --remove eu-1").out;
    assert!(said.contains("; 1 of them may be on no cell"), "{said}");
    // A cell that comes takes those whom it is for.
    let added = json("plan ring euro --remove eu-1 --add eu-2,residency=eu");
    assert_eq!(of(&added, "euro", "homeThen"), "eu-2");
    let unsaid = on("plan ring euro --remove eu-1 --add eu-2");
    assert!(unsaid.err.contains("--add eu-2,residency=ZONE"), "{unsaid:?}");
    assert!(on("plan ring --add eu-9 --add eu-9").err.contains("to be added twice"));
}

#[test]
fn a_tenant_that_moves_is_explained_with_where_it_goes() {
    let said = on("explain tenant left");
    assert!(said.code == 0 && said.out.contains("is on eu-1 and moves to us-1"), "{said:?}");
    assert!(said.out.contains("if it did not move\ntenant left → cell "), "{said:?}");
    let moving = json("explain tenant left");
    assert_eq!((moving["cell"].as_str(), moving["moving"]["to"].as_str()), (Some("eu-1"), Some("us-1")));
    assert!(moving["candidates"].as_array().is_some_and(|of| !of.is_empty()), "{moving}");
    let came = json("explain tenant came");
    assert_eq!((came["cell"].as_str(), came["moving"]["from"].as_str()), (Some("us-1"), Some("eu-1")));
    let page = on("explain tenant came -o html").out;
    assert!(page.contains("where a move has brought it from eu-1"), "{page}");
    assert!(json("explain tenant tiny").get("moving").is_none());
}
