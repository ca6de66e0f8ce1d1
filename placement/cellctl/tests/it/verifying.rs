//! What a killed node leaves behind is verified, and stays as it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::program::{Said, cellctl, cellctl_in};

/// A control node as a process of its own. It is killed with the value at the latest.
struct Node {
    process: Child,
    address: String,
}

impl Node {
    fn start(directory: &Path) -> Self {
        let at = |name: &str| directory.join(name);
        if !at("key").exists() {
            assert_eq!(cellctl(&format!("keygen --out {}", at("key").display())).code, 0);
        }
        let options = serde_json::json!({
            "data-dir": at("data"), "listen": "127.0.0.1:0", "signing-key-file": at("key"), "insecure-plaintext": true,
        });
        std::fs::write(at("options.json"), options.to_string()).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_cellctl"));
        program.args(["run", "control", "--options"]).arg(at("options.json")).env_remove("CELLCTL_LOG");
        let process = program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut node = Self { process, address: String::new() };
        let began = Instant::now();
        while node.address.is_empty() {
            let said = std::fs::read_to_string(at("log")).unwrap();
            let started = said.lines().find(|line| line.contains("node started"));
            let address = started.and_then(|line| line.split_once("address=\"")?.1.split_once('"'));
            node.address = address.map_or_else(String::new, |(address, _)| address.to_owned());
            assert!(began.elapsed() < Duration::from_secs(60), "it does not start: {said}");
            std::thread::sleep(Duration::from_millis(10));
        }
        node
    }

    fn run(&self, words: &str) -> Said {
        cellctl(&format!("{words} --insecure-plaintext --endpoints {}", self.address))
    }
}

impl Drop for Node {
    /// SIGKILL.
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Of each path when it was changed last, and the bytes of each file.
fn seen(path: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let (mut seen, mut left) = (BTreeMap::new(), vec![path.to_owned()]);
    while let Some(path) = left.pop() {
        let bytes = if path.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let changed = path.metadata().unwrap().modified().unwrap();
        seen.insert(path, (changed, bytes));
    }
    seen
}

#[test]
fn what_a_killed_node_has_left_is_verified_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (data, temporary) = (directory.path().join("data"), directory.path().join("temporary"));
    std::fs::create_dir(&temporary).unwrap();
    let verify = || cellctl_in(&temporary, &format!("store verify {}", data.display()));
    {
        let node = Node::start(directory.path());
        assert_eq!(node.run("cluster init").code, 0);
        for number in 1..=20 {
            assert_eq!(node.run(&format!("create cell c{number} --agent 127.0.0.1:9")).code, 0);
        }
        let running = verify();
        assert!(running.code == 1 && running.err.contains("(DATA_DIRECTORY_LOCKED)"), "{running:?}");
    }
    let before = seen(&data);
    let verified = verify();
    assert!(verified.code == 0 && verified.err.contains("every part has its checksum"), "{verified:?}");
    // So young a node has its commands in the log alone.
    assert!(
        verified.out.contains(" of them behind this state") && verified.err.contains("next start"),
        "{verified:?}"
    );
    assert!(seen(&data) == before, "it has changed");

    // Where the second record begins.
    let segment = data.join("segments/0000000000000001.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let before = seen(&data);
    let damaged = verify();
    assert!(damaged.code == 1 && damaged.err.contains("(STORE_CORRUPT)"), "{damaged:?}");
    assert!(damaged.err.contains("log segment 0000000000000001.log at offset"), "{damaged:?}");
    assert!(seen(&data) == before, "it has changed");
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "the copies are gone");

    let nowhere = cellctl_in(&directory.path().join("nowhere"), &format!("store verify {}", data.display()));
    assert!(nowhere.code == 1 && nowhere.err.contains("(NO_COPY)"), "{nowhere:?}");
    assert!(nowhere.err.contains("next: have TMPDIR name"), "{nowhere:?}");
}
