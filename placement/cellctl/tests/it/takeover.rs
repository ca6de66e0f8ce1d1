//! `cellctl move takeover` against a control plane and two cells that run, until one of them does not.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use cell_agent::Limits;

use crate::moves::Fleet;
use crate::server;

/// A request as a router would send it: the status line, and what comes behind the head.
fn ask(gate: SocketAddr, (uid, epoch): (u64, u64), line: &str, body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(gate).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nhost: cell\r\nconnection: close\r\ncell-tenant: acme\r\ncell-uid: {uid}\r\n\
         cell-epoch: {epoch}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.as_str(), ""));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

/// The same until the cell takes it: what a gate has turned away has not run.
fn served(fleet: &Fleet, cell: usize, stamp: (u64, u64), line: &str, body: &str) -> (String, String) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (status, answer) = ask(fleet.gate(cell), stamp, line, body);
        if !status.contains(" 503") || Instant::now() > deadline {
            return (status, answer);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn put(fleet: &Fleet, cell: usize, stamp: (u64, u64), name: &str) {
    let (status, body) = served(fleet, cell, stamp, &format!("PUT /docs/{name}"), &format!("\"{name}\""));
    assert!(status.contains(" 20"), "{name}: {status} {body}");
}

/// Whether a document is there.
fn has(fleet: &Fleet, cell: usize, stamp: (u64, u64), name: &str) -> bool {
    let (status, body) = served(fleet, cell, stamp, &format!("GET /docs/{name}"), "");
    assert!(status.contains(" 200") || status.contains(" 404"), "{name}: {status} {body}");
    status.contains(" 200")
}

/// Cells that give sync up only after a long while: on a slow machine, too, it is the owner's end that ends it.
fn patient(databases: Option<[String; 2]>) -> Fleet {
    Fleet::start_with(databases, |options| {
        options.agent_limits =
            Some(Limits { write_confirm_ms: 60_000, confirm_overdue_ms: 40_000, ..Limits::default() });
    })
}

fn uid(fleet: &Fleet) -> u64 {
    fleet.describe("tenant acme")["uid"].as_u64().unwrap()
}

fn quarantine(fleet: &Fleet) -> serde_json::Value {
    let listed = fleet.control.run("quarantine list --tenant acme -o json");
    let listed: serde_json::Value = serde_json::from_str(&listed.out).unwrap();
    listed["items"][0].clone()
}

/// The store has not heard of the owner for long enough.
fn until_silent(fleet: &Fleet, words: &str) {
    fleet.until("the owner is out of reach", |fleet| !fleet.control.run(words).err.contains("OWNER_REACHABLE"));
}

#[test]
fn an_owner_killed_in_sync_is_taken_over_without_a_loss_and_redirects_when_it_is_back() {
    let mut fleet = patient(None);
    let uid = uid(&fleet);
    let dry = "move takeover acme --to c2 --dry-run";
    let refused = fleet.refused(dry, "NOTHING_HELD");
    assert!(refused.contains("it is not being moved"), "{refused}");
    put(&fleet, 1, (uid, 1), "before");
    let id = fleet.ask("--to c2 --until sync --steady 10ms");
    fleet.until("it pauses in sync", |fleet| fleet.describe(&format!("move {id}"))["status"] == "paused");
    fleet.until("sync has everything", |fleet| fleet.describe(&format!("move {id}"))["inSync"] == true);
    for number in 0..20 {
        put(&fleet, 1, (uid, 1), &format!("in-sync-{number}"));
    }
    fleet.refused(dry, "OWNER_REACHABLE");
    fleet.refused("move takeover acme --to c1 --stopped x", "SAME_CELL");

    fleet.stop_cell(1);
    until_silent(&fleet, dry);
    let looked = fleet.control.run(&format!("{dry} -o json"));
    let looked: serde_json::Value = serde_json::from_str(&looked.out).unwrap_or_else(|_| panic!("{looked:?}"));
    let looked = &looked["items"][0];
    assert_eq!((&looked["lossless"], &looked["decided"]), (&true.into(), &false.into()), "{looked:#}");
    assert_eq!(fleet.describe("tenant acme")["cell"], "c1", "looking decides nothing");
    let taken = fleet.control.run("move takeover acme --to c2 --stopped rack-7-has-no-power");
    assert!(taken.code == 0 && taken.err.contains("acme belongs to cell c2 from epoch 2 on"), "{taken:?}");
    fleet.until("c2 owns", |fleet| fleet.describe(&format!("move {id}"))["status"] == "taken-over");
    assert!(has(&fleet, 2, (uid, 2), "before"));
    for number in 0..20 {
        assert!(
            has(&fleet, 2, (uid, 2), &format!("in-sync-{number}")),
            "write {number} was acknowledged and is gone"
        );
    }
    put(&fleet, 2, (uid, 2), "after");
    assert_eq!(quarantine(&fleet)["state"], "not reached");
    fleet.refused("quarantine drop acme --cell c1 --yes", "NOT_REACHED");

    fleet.start_cell(1);
    // It believes that it owns, and a router that has heard of nothing sends to it.
    let (status, body) = ask(fleet.gate(1), (uid, 1), "PUT /docs/stale", "1");
    assert!(status.contains(" 421") || status.contains(" 503"), "{status} {body}");
    fleet.until("c1 is told", |fleet| quarantine(fleet)["state"] == "empty");
    let (status, _) = ask(fleet.gate(1), (uid, 1), "GET /docs/before", "");
    assert!(status.contains(" 421"), "{status}");
    assert!(!has(&fleet, 2, (uid, 2), "stale") && has(&fleet, 2, (uid, 2), "after"));

    let described = fleet.control.run(&format!("move describe {id}")).out;
    assert!(described.contains("Taken over:    from c1 in sync, nothing lost"), "{described}");
    assert!(described.contains("Stopped:       rack-7-has-no-power"), "{described}");
    let trail = fleet.control.run("audit show --last 100 --no-headers").out;
    assert!(trail.contains("take-over") && trail.contains("stopped=rack-7-has-no-power"), "{trail}");
    let file = fleet.directory.path().join("proof");
    let proven = fleet.control.run(&format!("move proof {id} --out {}", file.display()));
    assert!(proven.code == 0 && proven.err.contains("taken-over; epoch 1 → 2"), "{proven:?}");
    // There is nothing in it, so it is in nobody's way.
    let moved = fleet.control.run("move tenant acme --to c1 --watch --steady 10ms --soak 50ms --retain 0s");
    assert!(moved.code == 0 && moved.out.contains("acme lives on c1 at epoch 3"), "{moved:?}");
}

#[test]
fn what_only_the_lost_owner_had_is_kept_apart_and_written_out_and_never_served() {
    kept_apart(None);
}

#[test]
fn what_only_a_lost_database_had_is_kept_apart_and_written_out_and_never_served() {
    kept_apart(Some(databases()));
}

fn databases() -> [String; 2] {
    let starting = tokio::runtime::Runtime::new().unwrap();
    starting.block_on(async { [server::database().await, server::database().await] })
}

#[test]
fn in_postgresql_a_takeover_in_sync_is_never_called_lossless_and_has_what_gates_have_answered() {
    let mut fleet = patient(Some(databases()));
    let uid = uid(&fleet);
    let id = fleet.ask("--to c2 --until sync --steady 10ms");
    fleet.until("it pauses in sync", |fleet| fleet.describe(&format!("move {id}"))["status"] == "paused");
    fleet.until("sync has everything", |fleet| fleet.describe(&format!("move {id}"))["inSync"] == true);
    put(&fleet, 1, (uid, 1), "in-sync");
    fleet.stop_cell(1);
    let dry = "move takeover acme --to c2 --dry-run";
    until_silent(&fleet, dry);
    let looked = fleet.control.run(dry);
    assert!(looked.err.contains("in the database of cell c1 writers may have come"), "{looked:?}");
    let words = "move takeover acme --to c2 --stopped rack-7-has-no-power";
    fleet.refused(words, "WOULD_LOSE_DATA");
    let taken = fleet.control.run(&format!("{words} --accept-data-loss"));
    assert_eq!(taken.code, 0, "{taken:?}");
    fleet.until("c2 owns", |fleet| fleet.describe(&format!("move {id}"))["status"] == "taken-over");
    assert!(has(&fleet, 2, (uid, 2), "in-sync"));
    put(&fleet, 2, (uid, 2), "after");
    fleet.start_cell(1);
    // It believes that it owns, and nobody is served before it has asked.
    let (status, body) = ask(fleet.gate(1), (uid, 1), "PUT /docs/stale", "1");
    assert!(status.contains(" 421") || status.contains(" 503"), "{status} {body}");
    fleet.until("c1 is told", |fleet| quarantine(fleet)["state"] == "empty");
    assert!(ask(fleet.gate(1), (uid, 1), "GET /docs/in-sync", "").0.contains(" 421"));
    assert!(!has(&fleet, 2, (uid, 2), "stale") && has(&fleet, 2, (uid, 2), "after"));
}

fn kept_apart(databases: Option<[String; 2]>) {
    let mut fleet = patient(databases);
    let uid = uid(&fleet);
    put(&fleet, 1, (uid, 1), "first");
    let id = fleet.ask("--to c2 --steady 10ms --soak 1h");
    fleet.until("c1 follows", |fleet| fleet.describe(&format!("move {id}"))["phase"] == "soak");
    put(&fleet, 2, (uid, 2), "followed");
    // The follower is gone, the owner goes on for a while, and then it is lost.
    fleet.stop_cell(1);
    for name in ["lost-1", "lost-2", "lost-3"] {
        put(&fleet, 2, (uid, 2), name);
    }
    fleet.stop_cell(2);
    fleet.start_cell(1);
    let words = "move takeover acme --to c1 --stopped burnt";
    until_silent(&fleet, "move takeover acme --to c1 --dry-run");
    fleet.until("c1 is reached", |fleet| {
        !fleet.control.run("move takeover acme --to c1 --dry-run").err.contains("CELL_UNREACHABLE")
    });
    let refused = fleet.refused(words, "WOULD_LOSE_DATA");
    assert!(refused.contains("--accept-data-loss"), "{refused}");
    let taken = fleet.control.run(&format!("{words} --accept-data-loss"));
    assert!(taken.code == 0 && taken.err.contains("acme belongs to cell c1 from epoch 3 on"), "{taken:?}");
    fleet.until("c1 owns", |fleet| fleet.describe(&format!("move {id}"))["status"] == "taken-over");
    assert!(has(&fleet, 1, (uid, 3), "first") && !has(&fleet, 1, (uid, 3), "lost-1"));
    put(&fleet, 1, (uid, 3), "goes-on");

    fleet.start_cell(2);
    fleet.until("c2 is told", |fleet| quarantine(fleet)["state"] == "kept");
    let kept = quarantine(&fleet);
    assert!(kept["changes"].as_u64().unwrap() >= 3, "{kept:#}");
    assert!(ask(fleet.gate(2), (uid, 2), "GET /docs/lost-1", "").0.contains(" 421"));
    assert!(!has(&fleet, 1, (uid, 3), "lost-1"), "a tail is never merged");
    let refused = fleet.refused("move tenant acme --to c2", "TAIL_QUARANTINED");
    assert!(refused.contains("cellctl quarantine export acme --cell c2"), "{refused}");

    let file = fleet.directory.path().join("tail");
    let written = fleet.control.run(&format!("quarantine export acme --cell c2 --out {}", file.display()));
    assert_eq!(written.code, 0, "{written:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["cell"], &first["whole"], &first["move"]),
        (&"c2".into(), &true.into(), &id.as_str().into())
    );
    for name in ["lost-1", "lost-2", "lost-3"] {
        assert!(text.contains(name), "{name} is not in the tail:\n{text}");
    }
    assert!(!text.contains("goes-on") && !text.contains("first"), "what the new owner has is not in it:\n{text}");
    fleet.refused("quarantine export acme --cell c1", "NOT_QUARANTINED");
    fleet.refused("quarantine drop acme --cell c2", "USAGE");
    assert_eq!(fleet.control.run("quarantine drop acme --cell c2 --yes").code, 0);
    fleet.until("it is deleted", |fleet| fleet.describe("tenant acme")["retained"].as_array().unwrap().is_empty());
    fleet.refused("quarantine export acme --cell c2", "NOT_QUARANTINED");
    let moved = fleet.control.run("move tenant acme --to c2 --watch --steady 10ms --soak 50ms --retain 0s");
    assert!(moved.code == 0 && moved.out.contains("acme lives on c2 at epoch 4"), "{moved:?}");
    assert!(has(&fleet, 2, (uid, 4), "goes-on") && !has(&fleet, 2, (uid, 4), "lost-1"));
}
