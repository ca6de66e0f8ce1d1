//! `cellctl move` against a control plane and two cells that run.

use std::time::{Duration, Instant};

use cell_control::key_file;
use cell_model::CellId;
use sample_cell::{Cell, Options};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::cli::ControlPlane;
use crate::program::{Said, cellctl};

/// One control node, cells c1 and c2, and tenant acme on c1.
pub(crate) struct Fleet {
    pub(crate) control: ControlPlane,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) runtime: Runtime,
    /// What each cell runs with, and the cell while it runs.
    cells: Vec<(Options, Option<(Cell, CancellationToken)>)>,
}

impl Fleet {
    pub(crate) fn start(databases: Option<[String; 2]>) -> Self {
        Self::start_with(databases, |_| {})
    }

    pub(crate) fn start_with(databases: Option<[String; 2]>, change: impl Fn(&mut Options)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let control = ControlPlane::start(directory.path());
        assert_eq!(control.run("cluster init").code, 0);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut cells = Vec::new();
        for number in 1..=2 {
            let name = format!("c{number}");
            let made = control.run(&format!("create cell {name} --agent 127.0.0.1:9"));
            assert_eq!(made.code, 0, "{made:?}");
            let mut options = Options::new(CellId::new(&name).unwrap(), directory.path().join(&name));
            options.insecure_plaintext = true;
            options.control = vec![control.address.clone()];
            if let Some(databases) = &databases {
                options.database = Some(databases[number - 1].clone());
            }
            change(&mut options);
            cells.push((options, None));
        }
        let mut fleet = Self { control, directory, runtime, cells };
        for number in 1..=2 {
            fleet.start_cell(number);
        }
        fleet.until("both cells have reported", |fleet| {
            let listed = fleet.control.run("get cells --no-headers").out;
            listed.lines().count() == 2 && !listed.contains("127.0.0.1:9 ")
        });
        let made = fleet.control.run("create tenant acme --cell c1");
        assert_eq!(made.code, 0, "{made:?}");
        fleet.until("acme lives", |fleet| fleet.describe("tenant acme")["life"] == "live");
        fleet
    }

    pub(crate) fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds(self) {
            assert!(Instant::now() < deadline, "not within twenty seconds: {what}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    pub(crate) fn describe(&self, what: &str) -> serde_json::Value {
        let said = self.control.run(&format!("describe {what} -o json"));
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }

    /// Starts a cell, anew on what it has.
    pub(crate) fn start_cell(&mut self, number: usize) {
        let (options, running) = &mut self.cells[number - 1];
        let stop = CancellationToken::new();
        let cell = self.runtime.block_on(Cell::start(options.clone(), stop.clone())).unwrap();
        assert!(running.replace((cell, stop)).is_none(), "c{number} runs already");
    }

    pub(crate) fn stop_cell(&mut self, number: usize) {
        let (cell, stop) = self.cells[number - 1].1.take().expect("it runs");
        stop.cancel();
        self.runtime.block_on(cell.stopped()).unwrap();
    }

    /// A gate of a cell that runs.
    pub(crate) fn gate(&self, number: usize) -> std::net::SocketAddr {
        self.cells[number - 1].1.as_ref().expect("it runs").0.addresses().gates[0]
    }

    /// Asks for a move; its name.
    pub(crate) fn ask(&self, words: &str) -> String {
        let said = self.control.run(&format!("move tenant acme {words} -o name"));
        assert_eq!(said.code, 0, "{said:?}");
        said.out.trim().trim_start_matches("move/").to_owned()
    }

    pub(crate) fn refused(&self, words: &str, code: &str) -> String {
        let said: Said = self.control.run(words);
        assert!(said.code != 0 && said.err.contains(code), "{said:?}");
        said.err
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for (cell, stop) in self.cells.drain(..).filter_map(|(_, running)| running) {
            stop.cancel();
            self.runtime.block_on(cell.stopped()).unwrap();
        }
    }
}

#[test]
fn a_move_is_tried_on_paper_then_rehearsed_then_made_and_each_says_what_it_took() {
    let fleet = Fleet::start(None);
    let looked = fleet.control.run("move tenant acme --to c2 --dry-run");
    assert_eq!(looked.code, 0, "{looked:?}");
    assert!(looked.out.contains("acme: c1 → c2, nothing was changed"), "{looked:?}");
    assert!(looked.out.contains("none: no move that could be measured has ended"), "{looked:?}");
    assert!(fleet.control.run("move list --all").err.contains("there is none"), "a dry run makes no move");
    fleet.refused("move tenant acme --to c1 --dry-run", "SAME_CELL");
    fleet.refused("move tenant nobody --to c2 --dry-run", "TENANT_UNKNOWN");

    let rehearsed = fleet.control.run("move tenant acme --to c2 --rehearse --steady 10ms");
    assert_eq!(rehearsed.code, 0, "{rehearsed:?}");
    assert!(rehearsed.out.contains("rehearsed: acme stays on c1 at epoch 2"), "{rehearsed:?}");
    assert!(rehearsed.out.contains("writes waited"), "{rehearsed:?}");
    assert_eq!(fleet.describe("tenant acme")["cell"], "c1");

    let looked = fleet.control.run("move tenant acme --to c2 --dry-run -o json");
    let looked: serde_json::Value = serde_json::from_str(&looked.out).unwrap();
    assert_eq!(looked["estimate"]["moves"], 1, "{looked:#}");
    assert!(looked["findings"].as_array().unwrap().is_empty(), "{looked:#}");

    let revision = |fleet: &Fleet| fleet.describe("tenant acme")["revision"].as_u64().unwrap();
    let before = revision(&fleet);
    let moved = fleet.control.run("move tenant acme --to c2 --watch --steady 10ms --soak 300ms --retain 0s");
    assert_eq!(moved.code, 0, "{moved:?}");
    // Whoever watches the cell that it has left has heard that it goes, and nothing of it since.
    let owners = |cell: &str| -> Vec<String> {
        let (words, until) = (format!("watch --cell {cell} --after {before} -o json"), revision(&fleet));
        let said = fleet.control.run(&format!("{words} --until {until}"));
        let lines = said.out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines
            .filter(|line| line["name"] == "tenant/acme")
            .map(|line| line["cell"].as_str().unwrap().into())
            .collect()
    };
    let (left, entered) = (owners("c1"), owners("c2"));
    assert_eq!(left.iter().filter(|owner| *owner == "c2").count(), 1, "{left:?}");
    assert!(left.len() > 3 && left.last().unwrap() == "c2", "{left:?}");
    assert!(entered.len() > 3 && entered.iter().all(|owner| owner == "c2"), "{entered:?}");
    assert!(moved.out.contains("completed: acme lives on c2 at epoch 3"), "{moved:?}");
    let listed = fleet.control.run("move list --all --no-headers").out;
    assert!(listed.contains("rehearsed") && listed.contains("completed"), "{listed}");
    let id = listed.lines().next().unwrap().split_whitespace().next().unwrap();
    let described = fleet.control.run(&format!("move describe {id}")).out;
    assert!(described.contains("Held:") && described.contains("cut-over"), "{described}");
    assert!(described.contains("Turned away:   0 stale requests"), "{described}");

    let file = fleet.directory.path().join("proof");
    let key = key_file::read(&fleet.directory.path().join("key")).unwrap().public();
    assert_eq!(fleet.control.run(&format!("move proof {id} --out {}", file.display())).code, 0);
    let check =
        |file: &std::path::Path| cellctl(&format!("move verify-proof {} --trusted-keys {key}", file.display()));
    let checked = check(&file);
    assert!(checked.code == 0 && checked.err.contains("its end signed by a trusted key"), "{checked:?}");
    let forged = fleet.directory.path().join("forged");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&forged, text.replacen("\"ownerAfter\":\"c2\"", "\"ownerAfter\":\"c1\"", 1)).unwrap();
    let checked = check(&forged);
    assert!(checked.code == 1 && checked.err.contains("ownerAfter") && checked.err.contains("PROOF_BROKEN"));
}

#[test]
fn a_move_stops_where_it_is_told_to_and_goes_on_from_there() {
    let fleet = Fleet::start(None);
    let id = fleet.ask("--to c2 --until hold --steady 10ms --soak 200ms");
    let paused = |fleet: &Fleet| fleet.describe(&format!("move {id}"))["status"] == "paused";
    fleet.until("it pauses", paused);
    let described = fleet.describe(&format!("move {id}"));
    assert_eq!((&described["phase"], &described["holds"][0]["end"]), (&"sync".into(), &"let-go".into()));
    assert_eq!(fleet.describe("tenant acme")["epoch"], 1, "nothing was fenced");
    fleet.refused(&format!("move throttle {id} --bytes-per-second 1MiB"), "WRONG_PHASE");
    assert_eq!(fleet.control.run(&format!("move resume {id}")).code, 0);
    fleet.until("it is completed", |fleet| fleet.describe(&format!("move {id}"))["status"] == "completed");
    fleet.refused("move tenant acme --to c1 --until cleanup", "on the way back");
    fleet.refused("move tenant acme --to c1 --bytes-per-second 10", "at least 4096");
}

#[test]
fn a_move_that_compares_every_row_says_before_what_that_takes() {
    let fleet = Fleet::start(None);
    let looked = fleet.control.run("move tenant acme --to c2 --exact --dry-run");
    assert_eq!(looked.code, 0, "{looked:?}");
    assert!(looked.out.contains("EXACT_COST") && looked.out.contains("once more"), "{looked:?}");
    let looked = fleet.control.run("move tenant acme --to c2 --dry-run");
    assert!(!looked.out.contains("EXACT_COST"), "{looked:?}");
    let moved =
        fleet.control.run("move tenant acme --to c2 --exact --watch --steady 10ms --soak 100ms --retain 0s");
    assert_eq!(moved.code, 0, "{moved:?}");
    let listed = fleet.control.run("move list --all --no-headers").out;
    let id = listed.split_whitespace().next().unwrap();
    let described = fleet.control.run(&format!("move describe {id}")).out;
    assert!(described.contains("every row, one by one"), "{described}");
}

#[test]
fn limits_of_moves_are_shown_and_changed_one_by_one() {
    let fleet = Fleet::start(None);
    let shown = |words: &str| -> serde_json::Value {
        let said = fleet.control.run(&format!("move limits{words} -o json"));
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    };
    let before = shown("")["items"][0].clone();
    let after = shown(" --per-cell 1")["items"][0].clone();
    assert_eq!((&after["perCell"], &after["total"]), (&1.into(), &before["total"]));
    assert_eq!(fleet.control.run("create tenant other --cell c1").code, 0);
    fleet.until("other lives", |fleet| fleet.describe("tenant other")["life"] == "live");
    let id = fleet.ask("--to c2 --until verify");
    fleet.until("it pauses", |fleet| fleet.describe(&format!("move {id}"))["status"] == "paused");
    assert_eq!(fleet.control.run("move tenant other --to c2").code, 0);
    let both = shown("")["items"][0].clone();
    assert_eq!((&both["running"], &both["waiting"]), (&1.into(), &1.into()), "one at a time at a cell");
    fleet.refused("move limits --total 0", "between 1 and 100,000");
}
