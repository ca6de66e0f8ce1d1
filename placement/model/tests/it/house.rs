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
const ARROWS: [(&str, &[&str]); 21] = [
    ("cell-model", &[]),
    ("cell-figures", &[]),
    ("cell-planner", &["cell-model"]),
    ("cell-trust", &["cell-model"]),
    ("cell-protos", &["cell-model"]),
    ("cell-models", &["cell-model"]),
    ("cell-client", &["cell-protos", "cell-trust", "cell-model"]),
    ("cell-gate", &["cell-client", "cell-protos", "cell-trust", "cell-model"]),
    ("cell-router", &["cell-client", "cell-trust", "cell-gate", "cell-model"]),
    ("cell-router-bench", &["cell-client", "cell-trust", "cell-router", "cell-model", "cell-figures"]),
    ("cell-store", &["cell-protos", "cell-trust", "cell-model"]),
    (
        "cell-store-bench",
        &["cell-client", "cell-store", "cell-router", "cell-protos", "cell-trust", "cell-model", "cell-figures"],
    ),
    ("cell-migration", &["cell-client", "cell-trust", "cell-model"]),
    ("cell-agent", &["cell-gate", "cell-client", "cell-protos", "cell-trust", "cell-model"]),
    (
        "cell-control",
        &["cell-store", "cell-migration", "cell-planner", "cell-client", "cell-protos", "cell-trust", "cell-model"],
    ),
    ("sample-cell", &["cell-gate", "cell-agent", "cell-client", "cell-trust", "cell-model"]),
    ("cell-chaos", &["cell-control", "cell-client", "cell-trust", "cell-model", "cell-figures", "cell-pg-server"]),
    ("cell-pg-server", &[]),
    (
        "cell-move-bench",
        &[
            "cell-model",
            "cell-client",
            "cell-control",
            "cell-router",
            "sample-cell",
            "cell-chaos",
            "cell-figures",
            "cell-pg-server",
        ],
    ),
    (
        "cell-sim",
        &[
            "cell-model",
            "cell-trust",
            "cell-client",
            "cell-store",
            "cell-agent",
            "cell-control",
            "cell-router",
            "sample-cell",
            "cell-chaos",
        ],
    ),
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
            "cell-sim",
            "cell-models",
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

/// The standard library hands these on to the platform's own, and two of them differ in the last bit.
#[test]
fn the_planner_computes_alike_on_every_platform() {
    let banned = ["exp()", "f64::exp", ".exp2(", ".ln()", "f64::ln", ".ln_1p(", ".log", ".powf(", ".sin(", ".cos("];
    for file in sources(&root().join("placement/planner/src")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for word in banned {
                assert!(!line.contains(word), "{}:{}: take {word} from libm", file.display(), number + 1);
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
fn every_crate_is_in_the_drawing() {
    let page = read("docs/architecture.md");
    for (name, _) in ARROWS {
        assert!(page.contains(&format!(" {name} ")), "docs/architecture.md lacks {name}");
    }
}

/// Markdown that people read, by its path from the root.
fn pages() -> Vec<PathBuf> {
    let mut folders = vec![root().join("docs")];
    let mut pages = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

#[test]
fn every_link_of_the_docs_leads_somewhere() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !link.contains("://") {
                let to = page.parent().unwrap().join(file);
                assert!(to.exists(), "{} links to {link}, which is not there", page.display());
            }
        }
    }
}

#[test]
fn every_make_command_has_a_rule_of_its_own() {
    let makefile = read("Makefile");
    let rules: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', '#', '.']))
        .filter_map(|line| line.split_once(':'))
        .map(|(rule, _)| rule)
        .collect();
    let phony = makefile.lines().find_map(|line| line.strip_prefix(".PHONY: ")).expect("a line .PHONY");
    assert_eq!(phony.split_whitespace().collect::<BTreeSet<_>>(), rules, ".PHONY and the rules differ");
    // `## name: what it is for`; such a text may go on in further lines.
    let described = makefile.lines().filter_map(|line| line.strip_prefix("## ")?.split_once(": "));
    for (name, _) in described.filter(|(name, _)| !name.contains(' ')) {
        assert!(rules.contains(name), "the Makefile describes {name} and has no rule for it");
    }
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for named in text.split("`make ").skip(1).filter_map(|rest| rest.split(['`', ' ']).next()) {
            assert!(rules.contains(named), "{} names `make {named}`, and there is no such rule", page.display());
        }
    }
}

#[test]
fn every_promise_is_on_the_page_of_invariants() {
    let page = read("docs/invariants.md");
    for promise in invariants::ALL {
        let row = format!("| {} | {} |", promise.id, promise.statement);
        assert!(page.contains(&row), "docs/invariants.md lacks: {row}");
    }
    let tests: Vec<String> = ["placement", "router", "raft-store", "chaos"]
        .iter()
        .flat_map(|room| sources(&root().join(room)))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let rows = page.lines().filter(|line| line.starts_with("| I"));
    let besides = rows.filter_map(|row| row.trim_end_matches(" |").rsplit_once("| ").map(|(_, cell)| cell));
    for named in besides.flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
        let there = tests.iter().any(|text| text.contains(&format!("fn {named}()")));
        assert!(there, "docs/invariants.md names the test {named}, and there is none");
    }
}

/// Tests beside the router's metrics and an agent's hold the page of metrics against them.
#[test]
fn metrics_are_registered_where_their_page_is_held_against_them() {
    for (file, text) in sources_of_programs() {
        let registers = text.contains("prometheus_client") && text.contains(".register(");
        assert!(
            !registers || ["router/src/metrics.rs", "placement/agent/src/metrics.rs"].contains(&file.as_str()),
            "{file} registers metrics: describe them in docs/metrics.md, hold them against it as router/src/metrics/tests.rs does, \
             and name the file here"
        );
    }
}

/// Which page of `docs/errors` describes the codes of which folder. The first that fits counts.
const PAGES: [(&str, &str); 15] = [
    ("protos/client/src/identity.rs", "security.md"),
    ("protos/client/src/guard.rs", "security.md"),
    ("placement/control/src/authority.rs", "security.md"),
    ("placement/cellctl/src/audit_chain.rs", "security.md"),
    ("protos/src/", "control-plane.md"),
    ("protos/client/", "control-plane.md"),
    ("placement/model/", "control-plane.md"),
    ("placement/control/", "control-plane.md"),
    ("placement/migration/", "move.md"),
    ("placement/agent/", "move.md"),
    ("placement/planner/", "placement.md"),
    ("raft-store/", "store.md"),
    ("router/src/", "router.md"),
    ("router/gate/", "gate-and-cell.md"),
    ("chaos/sample-cell/", "gate-and-cell.md"),
];

/// What is written like a code and is none.
const NO_CODES: &[&str] = &[
    // Environment variables.
    "CARGO_PKG_VERSION",
    "CELL_DATABASE_URL",
    "CELLCTL_CONFIG",
    "CELLWAY_COMMIT",
    "CELLCTL_CONTEXT",
    "CELLCTL_ENDPOINTS",
    "CELLCTL_ROUTERS",
    "CELLCTL_IDENTITY",
    "CELLCTL_LOG",
    "CELLWAY_BENCH_DIR",
    "CELLWAY_CONTROL",
    "CELLWAY_ENVOY",
    "CELLWAY_ROUTER",
    "CELLWAY_FUZZ",
    "CELLWAY_PINGORA",
    "CELLWAY_ROUTER",
    "CELLWAY_TRUSTED_KEYS",
    "GLIBC_TUNABLES",
    "CELL_ADVERTISE",
    "CELL_CLUSTER",
    "CELL_THREADS",
    "CELL_DATA_DIR",
    "CELL_READ_BY_MAJORITY",
    "CELL_IDENTITY",
    "CELL_LISTEN",
    "CELL_LOG",
    "CELL_LOG_FORMAT",
    "CELL_ROUTER_CONFIG",
    "CELL_ROUTER_LOG",
    "CELL_SIGNING_KEY_FILE",
    "CELL_TRUSTED_KEYS",
    "NO_COLOR",
    "OUT_DIR",
    // How serde spells variants.
    "SCREAMING_SNAKE_CASE",
];

/// Calls whose first argument is a code. They tell codes of one word from other words in capital letters.
const CALLS: [&str; 7] = [
    "Refusal::new(",
    "refuse(",
    "Self::new(",
    "Failure::new(",
    "Failure::local(",
    "Admission::No(",
    "Admission::Wait(",
];

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let (described, twice) = described_codes();
    let raised = raised_codes();
    let mut wrong = twice;
    for (code, file) in &raised {
        if !described.contains_key(code) {
            let page = PAGES.iter().find(|(room, _)| file.starts_with(room)).map_or("cellctl.md", |(_, page)| page);
            wrong.push(format!(
                "{code} (in {file}) is described nowhere: add a row | `{code}` | what happened | what to do next | \
                 to docs/errors/{page}, or, if it is no code, add it to NO_CODES here"
            ));
        }
    }
    let source: String = sources_of_programs().into_iter().map(|(_, text)| text).collect();
    for (code, page) in &described {
        if !raised.contains_key(code) && !said_in(&source, code) {
            wrong.push(format!("docs/errors/{page} describes {code}, which no source says: remove the row"));
        }
    }
    assert!(wrong.is_empty(), "docs/errors and the sources differ:\n{}", wrong.join("\n"));
}

#[test]
fn every_page_of_errors_is_in_the_index() {
    let index = read("docs/errors/README.md");
    let pages = error_pages();
    for page in &pages {
        assert!(index.contains(&format!("]({page})")), "docs/errors/README.md does not lead to {page}");
    }
    for (_, page) in PAGES {
        assert!(pages.contains(page), "docs/errors/{page} is missing");
    }
}

#[test]
fn codes_are_told_from_other_text() {
    let text = r#"
        Self::Gone => "TENANT_GONE", // no "COMMENTED_OUT" one
        Status::failed("WRONG_PLACE: it is elsewhere");
        Err(Refusal::new(
            "BUSY", "A_SENTENCE with capitals"))
        word("PREFIX_", "POST", "A1", "NO_COLOR")
        #[cfg(test)]
        mod tests { "IN_A_TEST" }"#;
    let found: Vec<String> = codes_in(&without_tests(text)).into_iter().collect();
    assert_eq!(found, ["BUSY", "TENANT_GONE", "WRONG_PLACE"]);
    assert!(said_in(text, "POST") && said_in(text, "WRONG_PLACE") && !said_in(text, "TENANT"));
}

fn error_pages() -> BTreeSet<String> {
    std::fs::read_dir(root().join("docs/errors"))
        .expect("docs/errors is there")
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".md") && name != "README.md")
        .collect()
}

/// Each code that has a row, with its page; and what is wrong with the rows.
fn described_codes() -> (BTreeMap<String, String>, Vec<String>) {
    let (mut described, mut wrong) = (BTreeMap::<String, String>::new(), Vec::new());
    for page in error_pages() {
        let text = read(&format!("docs/errors/{page}"));
        for row in text.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let code = cells[0].trim_matches('`').to_owned();
            if cells.len() != 3 || cells.iter().any(|cell| cell.is_empty()) || !is_capital(&code) {
                wrong.push(format!("docs/errors/{page}: not `CODE`, what happened, what to do next: {row}"));
            } else if let Some(other) = described.insert(code.clone(), page.clone()) {
                wrong.push(format!("{code} has a row in docs/errors/{other} and one in {page}: keep one"));
            }
        }
    }
    (described, wrong)
}

/// Each code that a source raises, with the first file that does.
fn raised_codes() -> BTreeMap<String, String> {
    let mut raised = BTreeMap::new();
    for (file, text) in sources_of_programs() {
        for code in codes_in(&text) {
            raised.entry(code).or_insert_with(|| file.clone());
        }
    }
    raised
}

/// Path and text of every source that is part of a program: no tests, and no model checker, which makes up codes.
fn sources_of_programs() -> Vec<(String, String)> {
    let root = root();
    ["protos", "placement", "raft-store", "router", "chaos"]
        .iter()
        .flat_map(|room| sources(&root.join(room)))
        .map(|path| (path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), path))
        .filter(|(file, _)| file.contains("/src/") && !file.starts_with("chaos/models/"))
        .filter(|(file, _)| !file.contains("/tests/") && !file.ends_with("/tests.rs"))
        .map(|(file, path)| (file, without_tests(&std::fs::read_to_string(path).unwrap())))
        .collect()
}

/// The text up to its tests and without comments.
fn without_tests(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let is_end = |pair: &[&str]| pair[0].trim() == "#[cfg(test)]" && pair[1].trim().starts_with("mod tests");
    let end = lines.windows(2).position(is_end).unwrap_or(lines.len());
    let code = lines[..end].iter().map(|line| line.split(" //").next().unwrap_or_default());
    code.filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect()
}

/// Codes are literals in capital letters: with an underscore anywhere, alone or before `: `; of one word only as the
/// first argument of [`CALLS`].
fn codes_in(text: &str) -> BTreeSet<String> {
    let literals = text.match_indices('"').filter_map(|(at, _)| {
        let after = &text[at + 1..];
        let end = after.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
        let (code, rest) = after.split_at(end);
        let is_whole = rest.starts_with('"') || (rest.starts_with(": ") && code.contains('_'));
        let is_called = || CALLS.iter().any(|call| text[..at].trim_end().ends_with(call));
        let is_code = is_whole && is_capital(code) && (code.contains('_') || is_called());
        (is_code && !NO_CODES.contains(&code)).then(|| code.to_owned())
    });
    literals.collect()
}

fn is_capital(word: &str) -> bool {
    let is_part =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
    word.len() > 2 && word.starts_with(|c: char| c.is_ascii_uppercase()) && word.split('_').all(is_part)
}

fn said_in(source: &str, code: &str) -> bool {
    source.contains(&format!("\"{code}\"")) || source.contains(&format!("\"{code}: "))
}
