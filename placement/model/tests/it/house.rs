//! The house as its documents describe it: arrows between crates, pages for codes, promises by name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use cell_model::invariants;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Who may name whom. `docs/architecture.md` draws it, `docs/adr/0006-arrows-between-crates.md` says why.
const ARROWS: [(&str, &[&str]); 16] = [
    ("cell-model", &[]),
    ("cell-planner", &["cell-model"]),
    ("cell-trust", &["cell-model"]),
    ("cell-protos", &["cell-model"]),
    ("cell-models", &["cell-model"]),
    ("cell-client", &["cell-protos", "cell-trust", "cell-model"]),
    ("cell-gate", &["cell-client", "cell-protos", "cell-trust", "cell-model"]),
    ("cell-router", &["cell-client", "cell-trust", "cell-gate", "cell-model"]),
    ("cell-store", &["cell-protos", "cell-trust", "cell-model"]),
    ("cell-migration", &["cell-client", "cell-trust", "cell-model"]),
    ("cell-agent", &["cell-gate", "cell-client", "cell-protos", "cell-trust", "cell-model"]),
    (
        "cell-control",
        &["cell-store", "cell-migration", "cell-planner", "cell-client", "cell-protos", "cell-trust", "cell-model"],
    ),
    ("sample-cell", &["cell-gate", "cell-agent", "cell-client", "cell-trust", "cell-model"]),
    (
        "cell-chaos",
        &[
            "cell-model",
            "cell-planner",
            "cell-trust",
            "cell-protos",
            "cell-client",
            "cell-gate",
            "cell-router",
            "cell-store",
            "cell-migration",
            "cell-agent",
            "cell-control",
            "sample-cell",
        ],
    ),
    ("cell-sim", &["cell-model", "cell-protos", "cell-store"]),
    (
        "cellctl",
        &[
            "cell-model",
            "cell-planner",
            "cell-trust",
            "cell-protos",
            "cell-client",
            "cell-gate",
            "cell-router",
            "cell-store",
            "cell-migration",
            "cell-agent",
            "cell-control",
            "sample-cell",
            "cell-chaos",
        ],
    ),
];

fn metadata() -> serde_json::Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

#[test]
fn the_arrows_between_crates_point_as_drawn() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(name, arrows)| (*name, arrows.iter().copied().collect())).collect();
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let names: BTreeSet<&str> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    assert_eq!(names, allowed.keys().copied().collect(), "every crate has its place in the drawing");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            // Tests may look from outside: a dev-dependency is no arrow.
            if names.contains(to) && dependency["kind"].is_null() {
                assert!(allowed[name].contains(to), "{name} names {to}: see docs/adr/0006");
            }
        }
    }
}

#[test]
fn the_core_names_no_clock_runtime_random_source_or_file() {
    let banned =
        ["tokio", "tonic", "std::time", "std::fs", "std::net", "rand::", "getrandom", "HashMap", "HashSet"];
    for room in ["placement/model/src", "placement/planner/src"] {
        for file in sources(&root().join(room)) {
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for (number, line) in code.enumerate() {
                for word in banned {
                    assert!(!line.contains(word), "{}: {word} in line of code {}", file.display(), number + 1);
                }
            }
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn every_promise_is_on_the_page_of_invariants() {
    let page = read("docs/invariants.md");
    for promise in invariants::ALL {
        let row = format!("| {} | {} |", promise.id, promise.statement);
        assert!(page.contains(&row), "docs/invariants.md lacks: {row}");
    }
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let index = read("docs/errors/README.md");
    let pages: BTreeSet<String> = std::fs::read_dir(root().join("docs/errors"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".md").map(str::to_owned))
        .filter(|name| name != "README")
        .collect();
    let source: String = ["protos", "placement", "raft-store", "router", "chaos"]
        .iter()
        .flat_map(|room| sources(&root().join(room)))
        .filter(|file| !file.components().any(|part| part.as_os_str() == "tests"))
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    for page in &pages {
        assert!(source.contains(&format!("\"{page}\"")), "docs/errors/{page}.md: no code says this");
        assert!(index.contains(&format!("[{page}]({page}.md)")), "docs/errors/README.md does not list {page}");
    }
    for code in codes_in(&source) {
        assert!(pages.contains(&code), "docs/errors/{code}.md is missing");
    }
}

/// Codes are named in one way: as the text of `code()` functions and of `code` fields.
fn codes_in(source: &str) -> BTreeSet<String> {
    let shown_to_users =
        source.lines().filter(|line| line.contains("=> \"") && !line.trim_start().starts_with("//"));
    shown_to_users
        .filter_map(|line| line.split("=> \"").nth(1)?.split('"').next())
        .filter(|code| code.len() > 3 && code.contains('_'))
        .filter(|code| code.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .map(str::to_owned)
        .collect()
}
