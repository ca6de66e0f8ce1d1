//! What the simulation runs looks at nothing by which two runs of one seed could differ. What a word finds is either mended or
//! excused here, with the reason why no run can tell. An excuse is for a file and a word: another use of it there is not seen.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Sources that run in a simulation.
const SIMULATED: [&str; 13] = [
    "raft-store/src",
    "placement/control/src",
    "placement/agent/src",
    "placement/migration/src",
    "placement/model/src",
    "placement/planner/src",
    "protos/client/src",
    "protos/trust/src",
    "router/src",
    "router/gate/src",
    "chaos/sample-cell/src",
    "chaos/src",
    "chaos/sim/src",
];

/// Parts of them that do not: PostgreSQL, and drills and demos of real processes.
const REAL: [&str; 15] = [
    "placement/agent/src/postgres",
    "chaos/src/demo",
    "chaos/src/drill",
    "chaos/src/figures",
    "chaos/src/fleet",
    "chaos/src/gauge",
    "chaos/src/link",
    "chaos/src/ports",
    "chaos/src/process",
    "chaos/src/report",
    "chaos/src/wiring",
    "chaos/sample-cell/src/main",
    "chaos/sample-cell/src/app/tables",
    "placement/control/src/main",
    "router/src/interleavings",
];

/// What tells runs apart, by the words that name it.
const FORBIDDEN: [(&str, &[&str]); 5] = [
    ("the machine's clock", &["std::time::Instant", "SystemTime::now", "clock_gettime"]),
    ("another thread", &["thread::spawn", "thread::Builder", "spawn_blocking"]),
    ("the machine's random numbers", &["getrandom", "thread_rng", "rand::rng", "fastrand", "OsRng"]),
    ("an order that differs from run to run", &["HashMap", "HashSet"]),
    ("a choice without a seed", &["select_biased!", "futures::select!"]),
];

/// A word, where it may stand, and why.
type Excuse = (&'static str, &'static [&'static str], &'static str);

const EXCUSED: [Excuse; 18] = [
    ("std::time::Instant", &["chaos/sim/src/seeds.rs"], "outside of a run: how fast runs are"),
    ("std::time::Instant", &["raft-store/src/honesty.rs", "raft-store/src/steady.rs"], "real disks only"),
    ("std::time::Instant", &["router/src/metrics.rs"], "a figure of TLS and of open connections"),
    (
        "SystemTime::now",
        &["protos/client/src/net.rs", "protos/client/src/link.rs", "chaos/src/clock.rs"],
        "where no host is passed in",
    ),
    (
        "SystemTime::now",
        &["placement/control/src/authority.rs", "protos/client/src/identity.rs", "router/src/tls/worries.rs"],
        "certificates: there is no TLS in a run",
    ),
    (
        "SystemTime::now",
        &[
            "placement/agent/src/hooks.rs",
            "router/gate/src/context.rs",
            "router/src/signing.rs",
            "router/src/token.rs",
        ],
        "calls from outside, and what expires in them: there is none in a run",
    ),
    (
        "SystemTime::now",
        &["chaos/sample-cell/src/app/write.rs", "router/src/account.rs"],
        "the age of a record, and the time in an access log: bytes, and not what happens",
    ),
    (
        "SystemTime::now",
        &["router/src/router.rs", "router/src/router/table_file.rs", "router/src/usage.rs"],
        "files, of which a router in a run has none",
    ),
    ("SystemTime::now", &["raft-store/src/backup.rs"], "a restore, which is done by hand, before a node starts"),
    ("clock_gettime", &["raft-store/src/promise.rs"], "a simulated machine does not look"),
    (
        "thread::Builder",
        &[
            "raft-store/src/engine/lazy.rs",
            "raft-store/src/engine/segments/mod.rs",
            "raft-store/src/log.rs",
            "raft-store/src/quarters.rs",
        ],
        "only where syncs block",
    ),
    (
        "thread::Builder",
        &["router/src/worker.rs", "chaos/sim/src/seeds.rs"],
        "a worker where no host is passed in; the one thread of a run",
    ),
    (
        "spawn_blocking",
        &[
            "raft-store/src/offload.rs",
            "raft-store/src/quarters.rs",
            "raft-store/src/space.rs",
            "raft-store/src/store.rs",
            "placement/control/src/node.rs",
            "placement/agent/src/agent.rs",
            "placement/agent/src/durable.rs",
        ],
        "real disks only",
    ),
    ("spawn_blocking", &["placement/control/src/service/watch.rs"], "only where no host is passed in"),
    (
        "spawn_blocking",
        &[
            "router/src/admin.rs",
            "router/src/handover.rs",
            "router/src/observe/log.rs",
            "router/src/router/table_file.rs",
            "router/src/usage.rs",
        ],
        "files, of which a router in a run has none",
    ),
    (
        "getrandom",
        &[
            "chaos/sample-cell/src/app/write.rs",
            "protos/client/src/random.rs",
            "protos/trust/src/keys.rs",
            "raft-store/src/entropy.rs",
            "raft-store/src/snapshot/depot.rs",
            "router/src/router.rs",
        ],
        "where nobody passes in a source or a key; names of files",
    ),
    (
        "HashMap",
        &[
            "chaos/src/load/writer.rs",
            "placement/control/src/liveness.rs",
            "placement/migration/src/coordinator.rs",
            "router/gate/src/context.rs",
            "router/gate/src/table.rs",
            "router/src/contain/dependency.rs",
            "router/src/directory.rs",
            "router/src/fair/fleet.rs",
            "router/src/fair/queue.rs",
            "router/src/fair/tenants.rs",
            "router/src/flow.rs",
            "router/src/live.rs",
            "router/src/pool.rs",
            "router/src/signing.rs",
            "router/src/table.rs",
            "router/src/table/compact.rs",
            "router/src/tls/names.rs",
            "router/src/token.rs",
            "router/src/token/keys.rs",
        ],
        "looked up by name; what goes through one sorts, or does the same in any order",
    ),
    ("HashSet", &["router/gate/src/table.rs"], "looked up by name"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry of a folder").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Lines of code, up to the tests, where they are in the same file: what stands behind `mod tests;` is code. One `use` of several names stands for each of them.
fn code(text: &str) -> impl Iterator<Item = String> + '_ {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines().map(str::trim).filter(|line| !line.starts_with("//"));
    lines.map(|line| {
        let several = line.strip_prefix("use std::time::{").filter(|names| names.contains("Instant"));
        several.map_or_else(|| line.to_owned(), |_| format!("{line} std::time::Instant"))
    })
}

/// Each forbidden word with each file that has it.
fn found() -> BTreeSet<(&'static str, String)> {
    let (root, mut paths) = (root(), Vec::new());
    SIMULATED.iter().for_each(|room| files(&root.join(room), &mut paths));
    let words: Vec<&str> = FORBIDDEN.iter().flat_map(|(_, words)| *words).copied().collect();
    let mut found = BTreeSet::new();
    for path in paths {
        let name = path.strip_prefix(&root).ok().and_then(Path::to_str).expect("it is under the root").to_owned();
        let is_test = name.contains("/tests/") || name.ends_with("/tests.rs") || name.contains("/interleavings");
        if is_test || REAL.iter().any(|part| name.starts_with(part)) {
            continue;
        }
        for line in code(&std::fs::read_to_string(&path).expect("a source is text")) {
            found.extend(words.iter().filter(|word| line.contains(**word)).map(|word| (*word, name.clone())));
        }
    }
    found
}

#[test]
fn what_is_simulated_looks_at_no_clock_thread_or_chance_of_the_machine() {
    let found = found();
    let excused: BTreeSet<(&str, String)> =
        EXCUSED.iter().flat_map(|(word, files, _)| files.iter().map(|file| (*word, (*file).to_owned()))).collect();
    let what = |word: &str| FORBIDDEN.iter().find(|(_, words)| words.contains(&word)).map_or("", |(what, _)| what);
    let new: Vec<String> =
        found.difference(&excused).map(|(word, file)| format!("{file}: {word} ({})", what(word))).collect();
    assert!(new.is_empty(), "mend it, or say in EXCUSED why no run can tell:\n{}", new.join("\n"));
    let gone: Vec<_> = excused.difference(&found).collect();
    assert!(gone.is_empty(), "nothing to excuse any more: {gone:?}");
}

#[test]
fn a_clock_that_is_used_under_a_short_name_is_found() {
    let of = |text: &str| code(text).any(|line| line.contains("std::time::Instant"));
    assert!(of("use std::time::{Duration, Instant};") && of("  let now = std::time::Instant::now();"));
    assert!(of("#[cfg(test)]\nmod tests;\nuse std::time::Instant;"), "the tests are in another file");
    assert!(
        !of("use std::time::Duration;")
            && !of("// std::time::Instant")
            && !of("#[cfg(test)]\nmod tests {\nuse std::time::Instant;")
    );
}
