//! Plans of a live fleet, carried out: three cells, three control nodes and a router, all of them real.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{Said, cellctl};

/// `cellctl dev`, until it is dropped.
pub(crate) struct Fleet {
    child: Child,
    /// Who calls, and where to: as `dev` prints it.
    config: String,
    /// Where its router listens.
    router: String,
}

impl Fleet {
    pub(crate) fn start(cells: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_cellctl"))
            .args(["dev", "--cells", cells, "--listen", "127.0.0.1:0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // From here on it is ended with the test, however that ends.
        let mut fleet = Self { child, config: String::new(), router: String::new() };
        let mut lines = Vec::new();
        for line in BufReader::new(fleet.child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some((_, router)) = line.split_once("router   http://") {
                let port = router.split([':', ' ']).nth(1).unwrap();
                fleet.router = format!("127.0.0.1:{port}");
            }
            if let Some(config) = line.trim().strip_prefix("export CELLCTL_CONFIG=") {
                config.clone_into(&mut fleet.config);
                return fleet;
            }
            lines.push(line);
        }
        panic!("dev has ended: {lines:?}");
    }

    pub(crate) fn run(&self, words: &str) -> Said {
        cellctl(&format!("{words} --config {}", self.config))
    }

    pub(crate) fn json(&self, words: &str) -> serde_json::Value {
        let said = self.run(&format!("{words} -o json"));
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }

    fn cell_of(&self, tenant: &str) -> String {
        self.json(&format!("get tenants {tenant}"))["items"][0]["cell"].as_str().unwrap().to_owned()
    }

    /// Waits until the fleet rests: tenants are granted one after the other, and cells report.
    pub(crate) fn settled(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut before = String::new();
        loop {
            let now = self.json("plan export")["revision"].to_string();
            let live = self.run("get tenants").out;
            if now == before && !live.contains("PROVISIONING") {
                return;
            }
            assert!(Instant::now() < deadline, "the fleet does not come to rest: {live}");
            before = now;
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_has_begun_is_waited_for_where_a_later_move_of_its_wave_is_refused() {
    let fleet = Fleet::start("3");
    for name in ["initech", "hooli", "stark", "wayne"] {
        assert_eq!(fleet.run(&format!("create tenant {name}")).code, 0);
    }
    for command in ["cell declare cell-1 --residency eu", "create tenant euro --residency eu", "cordon cell cell-2"]
    {
        let said = fleet.run(command);
        assert_eq!(said.code, 0, "{said:?}");
    }
    fleet.settled();
    let said = fleet.run("plan drain cell-2 -o json");
    assert_eq!(said.code, 0, "{said:?}");
    let mut plan: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let wave = plan["waves"][0]["moves"].as_array_mut().unwrap();
    let begun = wave.len();
    let mut abroad = wave[0].clone();
    for (field, value) in [("tenant", "euro"), ("source", "cell-1"), ("target", "cell-3")] {
        abroad[field] = value.into();
    }
    wave.push(abroad);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("plan.json");
    std::fs::write(&file, plan.to_string()).unwrap();
    let said = fleet.run(&format!("apply -f {} --soak 500ms", file.display()));
    assert!(
        said.code == 4 && said.err.contains("PLAN_STOPPED") && said.err.contains("euro was refused"),
        "{said:?}"
    );
    assert_eq!(said.out.matches(" done ").count(), begun, "{said:?}");
    let ended = fleet.json("get moves --all");
    let ended = ended["items"].as_array().unwrap();
    assert!(ended.len() == begun && ended.iter().all(|of| !of["endedUnixMs"].is_null()), "{ended:?}");
}

#[test]
fn a_drain_is_planned_applied_applied_again_and_refused_once_the_fleet_has_moved_on() {
    let fleet = Fleet::start("3");
    for name in ["initech", "hooli", "stark", "wayne"] {
        assert_eq!(fleet.run(&format!("create tenant {name}")).code, 0);
    }
    fleet.settled();
    let placed = fleet.run("explain tenant initech");
    assert!(placed.out.contains("when it was made: best of 3 cells"), "{placed:?}");
    let counts: Vec<usize> = ["cell-1", "cell-2", "cell-3"]
        .map(|cell| fleet.json(&format!("get tenants --cell {cell}"))["items"].as_array().unwrap().len())
        .into();
    assert_eq!(counts, [2, 2, 2], "who names no cell is spread by the planner");

    let source = fleet.cell_of("initech");
    assert_eq!(fleet.run(&format!("cordon cell {source}")).code, 0);
    fleet.settled();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("plan.json");
    let said = fleet.run(&format!("plan drain {source} -o json"));
    assert!(!said.err.contains("do not answer"), "the agents tell what they hold: {said:?}");
    assert!(said.code == 0 && said.err.contains("no --profile"), "{said:?}");
    std::fs::write(&file, &said.out).unwrap();
    let plan: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((plan["moves"].as_u64(), plan["verdict"].as_str()), (Some(2), Some("reached")), "{plan}");

    let apply = format!("apply -f {} --soak 500ms", file.display());
    // By hand, and wrong: nothing is begun of it.
    let one = plan["waves"][0]["moves"][0].clone();
    let (mut twice, mut stays, mut nowhere) = (plan.clone(), plan.clone(), plan.clone());
    twice["waves"][0]["moves"].as_array_mut().unwrap().push(one.clone());
    stays["waves"][0]["moves"][0]["target"] = one["source"].clone();
    let last = nowhere["waves"].as_array_mut().unwrap().last_mut().unwrap();
    last["moves"].as_array_mut().unwrap().last_mut().unwrap()["target"] = "c-99".into();
    let wrong = [
        (twice, "PLAN_SYNTAX", "a second one"),
        (stays, "PLAN_SYNTAX", "where it is"),
        (nowhere, "PLAN_STALE", "c-99"),
    ];
    for (plan, code, why) in wrong {
        std::fs::write(&file, plan.to_string()).unwrap();
        let said = fleet.run(&apply);
        assert!(said.code == 1 && said.err.contains(code) && said.err.contains(why), "{said:?}");
        assert_eq!(fleet.json("get moves --all")["items"], serde_json::json!([]));
    }
    std::fs::write(&file, plan.to_string()).unwrap();
    let said = fleet.run(&apply);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.out.matches(" done ").count(), 2, "{said:?}");
    assert_ne!(fleet.cell_of("initech"), source);
    assert_eq!(fleet.json(&format!("get tenants --cell {source}"))["items"], serde_json::json!([]));

    it_is_said_why_it_was_placed_and_moved(&fleet, &source);

    let again = fleet.run(&apply);
    assert!(again.code == 0 && again.err.contains("2 of 2 moves were begun by an earlier run"), "{again:?}");

    fleet.settled();
    assert_eq!(fleet.run(&format!("uncordon cell {source}")).code, 0);
    let back = fleet.run(&format!("{apply} --undo"));
    assert!(back.code == 0 && back.err.contains("2 of 2 moves were made: taking them back"), "{back:?}");
    assert_eq!(fleet.cell_of("initech"), source);
    let target = fleet.cell_of("wayne");
    let said = fleet.run(&format!("plan drain {target} -o json"));
    std::fs::write(&file, &said.out).unwrap();
    assert_eq!(fleet.run("create tenant tyrell").code, 0);
    let moved_on = fleet.run(&apply);
    assert!(moved_on.code == 1 && moved_on.err.contains("PLAN_PARENT_MOVED"), "{moved_on:?}");
    assert!(moved_on.err.contains("next: make the plan anew"), "{moved_on:?}");
    assert_eq!(fleet.cell_of("wayne"), target, "nothing was moved");

    // Neither does a move of somebody else's, with the plan's own source and target, make it an earlier run.
    let plan: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let moves = plan["waves"].as_array().unwrap().iter().flat_map(|wave| wave["moves"].as_array().unwrap());
    let wayne = moves.clone().find(|of| of["tenant"] == "wayne").unwrap();
    let rehearsal = format!("move tenant wayne --to {} --rehearse", wayne["target"].as_str().unwrap());
    let rehearsed = fleet.run(&rehearsal);
    assert_eq!(rehearsed.code, 0, "{rehearsed:?}");
    let not_ours = fleet.run(&apply);
    assert!(not_ours.code == 1 && not_ours.err.contains("PLAN_PARENT_MOVED"), "{not_ours:?}");
    let never = fleet.run(&format!("{apply} --undo"));
    assert!(never.code == 1 && never.err.contains("PLAN_NOT_APPLIED"), "{never:?}");

    let cluster = plan["cluster"].as_str().unwrap();
    std::fs::write(&file, said.out.replace(cluster, "00000000000000a7/1")).unwrap();
    let other = fleet.run(&apply);
    assert!(other.code == 1 && other.err.contains("PLAN_OTHER_CLUSTER"), "{other:?}");
}

fn it_is_said_why_it_was_placed_and_moved(fleet: &Fleet, source: &str) {
    let explained = fleet.run("explain tenant initech").out;
    assert!(explained.contains(" strain=0 ") && explained.contains("\n  moved last by m-"), "{explained}");
    assert!(explained.contains(", plan: its cell is emptied\n"), "{explained}");
    let trail = fleet.run("audit show --tenant initech").out;
    assert!(
        trail.contains("why=\"best of 3 cells") && trail.contains(&format!("explained=\"{source} strain=0 ")),
        "{trail}"
    );
    assert!(trail.contains("reason=\"plan: its cell is emptied\""), "{trail}");
    let moved = fleet.json("get moves --all")["items"][0]["reason"].clone();
    assert_eq!(moved, "plan: its cell is emptied", "the move's own record says it, too");
}

#[test]
fn a_platinum_tenant_has_a_declared_cell_to_itself_however_it_comes_there() {
    let fleet = Fleet::start("3");
    fleet.settled();
    let refused = |words: &str, code: &str, said: &str| {
        let told = fleet.run(words);
        assert!(told.code == 1 && told.err.contains(code) && told.err.contains(said), "{words}: {told:?}");
    };
    let make = "create tenant prem --tier platinum";
    refused(make, "NO_ELIGIBLE_CELL", "3 refused by TIER_MISMATCH");
    refused(make, "NO_ELIGIBLE_CELL", "`cellctl cell declare CELL --kind dedicated`");
    let tenants = |cell: &str| fleet.json(&format!("get tenants --cell {cell}"))["items"].as_array().unwrap().len();
    let own = ["cell-1", "cell-2", "cell-3"].into_iter().find(|cell| tenants(cell) == 0).expect("two are on three");
    let shared = fleet.cell_of("acme");
    assert_eq!(fleet.run(&format!("cell declare {own}")).code, 64, "nothing is declared");
    let whole = "--kind dedicated --capacity connections=40 --reserve 10% --domain r1";
    let declared = fleet.run(&format!("cell declare {own} {whole}"));
    assert!(declared.code == 0 && declared.out.contains("dedicated"), "{declared:?}");
    let described = fleet.run(&format!("describe cell {own}")).out;
    assert!(described.contains("connections=40, 10 % in reserve") && described.contains("r1\n"), "{described}");
    let exported = fleet.json("plan export");
    let cell = exported["cells"].as_array().unwrap().iter().find(|cell| cell["id"] == own).unwrap();
    assert_eq!((&cell["kind"], &cell["domain"]), (&"dedicated".into(), &"r1".into()));
    assert_eq!((cell["capacity"]["connections"].as_f64(), cell["reserve"].as_f64()), (Some(40.0), Some(0.1)));

    assert_eq!(fleet.run(make).code, 0);
    assert_eq!(fleet.cell_of("prem"), own);
    fleet.settled();
    refused("create tenant other --tier platinum", "NO_ELIGIBLE_CELL", "1 refused by CELL_OCCUPIED");
    let beside = format!("create tenant other --tier platinum --cell {own}");
    refused(&beside, "CELL_OCCUPIED", "cellctl cell enroll");
    refused(&format!("create tenant other --cell {own}"), "TIER_MISMATCH", "choose a pooled cell");
    refused(&format!("move tenant acme --to {own}"), "TIER_MISMATCH", "choose a pooled cell");
    refused(&format!("move tenant prem --to {shared}"), "TIER_MISMATCH", "would share it with others");
    refused(&format!("cell declare {own} --kind pooled"), "CELL_IN_USE", &format!("`cellctl plan drain {own}`"));
    let drain = fleet.run(&format!("plan drain {own}"));
    assert!(drain.code == 1 && drain.out.contains("TIER_MISMATCH"), "what is refused is not proposed: {drain:?}");
}

#[test]
fn a_request_is_explained_by_the_router_that_carried_it() {
    let fleet = Fleet::start("1");
    fleet.settled();
    let mut stream = TcpStream::connect(&fleet.router).unwrap();
    write!(stream, "GET /docs/none HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: acme\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let header =
        |line: &str| line.to_ascii_lowercase().strip_prefix("x-request-id:").map(|id| id.trim().to_owned());
    let id = answer.lines().find_map(header).unwrap_or_else(|| panic!("no request id: {answer}"));

    let told = fleet.run(&format!("explain request {id}"));
    assert!(told.out.contains("tenant    acme") && told.out.contains("cell cell-1, epoch 1"), "{told:?}");
    assert!(told.out.contains("sent      1 times") && told.out.contains("answered  404"), "{told:?}");
    let unknown = fleet.run("explain request never-seen");
    assert!(unknown.code == 1 && unknown.err.contains("REQUEST_UNKNOWN"), "{unknown:?}");
    let silent = fleet.run(&format!("explain request {id} --router 127.0.0.1:1"));
    assert!(silent.code == 75 && silent.err.contains("ROUTERS_SILENT"), "{silent:?}");
}

#[test]
fn moves_for_which_there_is_no_room_are_asked_for_again_now_and_then() {
    let fleet = Fleet::start("2");
    for name in ["initech", "hooli", "stark"] {
        assert_eq!(fleet.run(&format!("create tenant {name} --cell cell-1")).code, 0);
    }
    assert_eq!(fleet.run("move limits --queued 1").code, 0);
    assert_eq!(fleet.run("cordon cell cell-1").code, 0);
    fleet.settled();
    let plan = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(plan.path(), fleet.run("plan drain cell-1 -o json").out).unwrap();
    let applied = fleet.run(&format!("apply -f {} --soak 10ms -o json", plan.path().display()));
    assert_eq!(applied.code, 0, "{applied:?}");
    let moved = applied.out.matches("\"status\": \"done\"").count();
    assert!(moved >= 3, "{applied:?}");
    let refused = fleet.run("audit show --last 1000 --no-headers").out.matches("MOVE_LIMIT").count();
    assert!((1..=2 * moved).contains(&refused), "{refused} refusals of {moved} moves");
}
