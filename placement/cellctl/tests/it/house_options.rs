//! `docs/options.md`, held against the programs: every option is there with the default that it has, and none that is none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cell_gate::GateOptions;
use clap::Args as _;

/// What the page says of an option.
struct Row {
    default: String,
    /// Unit, bounds and what it is.
    text: String,
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of one part of the page. Whatever stands for a name is `<>`.
fn part(title: &str) -> BTreeMap<String, Row> {
    let page = read("docs/options.md");
    let part = page.split("\n## ").find(|part| part.lines().next() == Some(title)).expect(title);
    let mut rows = BTreeMap::new();
    for line in part.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "not | option | default | unit, bounds | what it is |: {line}");
        let row = Row { default: cells[2].trim_matches('`').to_owned(), text: cells[3..].join(" ") };
        assert!(rows.insert(unnamed(cells[1].trim_matches('`')), row).is_none(), "twice: {line}");
    }
    rows
}

/// `fairness.tenants.<tenant>.rate` as `fairness.tenants.<>.rate`.
fn unnamed(option: &str) -> String {
    let parts = option.split('.').map(|part| if part.starts_with('<') { "<>" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

/// What the page and a program have, and the other has not.
fn assert_alike(title: &str, page: &BTreeMap<String, Row>, program: &BTreeSet<String>) {
    let rows: BTreeSet<String> = page.keys().cloned().collect();
    let lacks: Vec<&String> = program.difference(&rows).collect();
    let made_up: Vec<&String> = rows.difference(program).collect();
    assert!(
        lacks.is_empty() && made_up.is_empty(),
        "docs/options.md, {title}: add a row for each of {lacks:?}, and take out {made_up:?}, which no program knows"
    );
}

/// Fields of structs by name, with their types, as they stand in sources. Left out is what no file can say.
#[derive(Default)]
struct Structs(BTreeMap<String, Vec<(String, String)>>);

impl Structs {
    fn of(sources: &[&str]) -> Self {
        let mut structs = Self::default();
        for source in sources {
            structs.read(&read(source));
        }
        structs
    }

    fn read(&mut self, text: &str) {
        let (mut within, mut passed_over) = (None, false);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.strip_suffix(" {")) {
                within = Some(name.to_owned());
            } else if line == "}" {
                within = None;
            }
            let Some(name) = &within else { continue };
            let line = line.trim();
            if line == "#[serde(skip)]" || line.starts_with("#[cfg(feature") {
                passed_over = true;
            }
            let field = line.strip_prefix("pub ").and_then(|field| field.strip_suffix(','));
            if let Some((field, kind)) = field.and_then(|field| field.split_once(": ")) {
                if !passed_over {
                    let fields = self.0.entry(name.clone()).or_default();
                    fields.push((field.replace('_', "-"), kind.to_owned()));
                }
                passed_over = false;
            }
        }
    }

    /// Every option of a struct; those of a struct within it behind its name.
    fn options(&self, name: &str, before: &str) -> BTreeSet<String> {
        let fields = self.0.get(name).unwrap_or_else(|| panic!("there is no struct {name}"));
        let mut options = BTreeSet::new();
        for (field, kind) in fields {
            let (kind, many) = bare(kind);
            let option = format!("{before}{field}{many}");
            if self.0.contains_key(kind) {
                options.extend(self.options(kind, &format!("{option}.")));
            } else {
                options.insert(format!("{before}{field}"));
            }
        }
        options
    }
}

/// What a type is made of, and how its fields are written: `Vec<CertificateFiles>` as `CertificateFiles`, `[]`.
fn bare(kind: &str) -> (&str, &'static str) {
    let within = |before: &str| kind.strip_prefix(before).and_then(|rest| rest.strip_suffix('>'));
    if let Some(kind) = within("Option<") {
        bare(kind)
    } else if let Some(kind) = within("Vec<") {
        (kind, "[]")
    } else if let Some(kind) = within("BTreeMap<String, ") {
        (kind, ".<>")
    } else {
        (kind, "")
    }
}

const TIERS: [&str; 4] = ["bronze", "silver", "gold", "platinum"];

#[test]
fn every_option_of_the_router_is_on_its_page() {
    let folder = "router/src/options";
    let files = ["edge", "flow", "telemetry"].map(|file| format!("{folder}/{file}.rs"));
    let mut sources = vec!["router/src/options.rs"];
    sources.extend(files.iter().map(String::as_str));
    let options = Structs::of(&sources).options("Options", "");
    // A tier is like another.
    let of_any = |option: &String| {
        let tier = TIERS.iter().find(|tier| option.contains(&format!(".tiers.{tier}.")));
        tier.map_or_else(|| option.clone(), |tier| option.replace(tier, "<>"))
    };
    assert_alike("Router", &part("Router"), &options.iter().map(of_any).collect());
}

/// With every section in it; what it says has no default.
const FULL: &str = r#"
    control = ["c:1"]
    trusted-keys = ["00"]
    [tenant.token]
    jwks = "keys.json"
    issuer = "i"
    audience = "a"
    algorithms = ["EdDSA"]
    [context]
    key-file = "key"
    [tls]
    certificates = [{ certificate-file = "c", key-file = "k" }]
    [upstream.tls]
    ca-file = "ca"
    [containment.dependencies.payments]
    paths = ["/pay"]
    [usage]
    directory = "usage"
    [spans]
    endpoint = "http://c:4317"
"#;

#[test]
fn every_default_of_the_router_is_as_its_page_says() {
    let given: toml::Table = toml::from_str(FULL).unwrap();
    let options: cell_router::Options = toml::from_str(FULL).unwrap();
    let options: toml::Table = toml::from_str(&toml::to_string(&options).unwrap()).unwrap();
    let (mut needed, mut defaults) = (BTreeMap::new(), BTreeMap::new());
    flatten("", &toml::Value::Table(given), &mut needed);
    flatten("", &toml::Value::Table(options), &mut defaults);
    let page = part("Router");
    for (option, Row { default, .. }) in &page {
        let holds =
            if needed.contains_key(option) { "needed" } else { defaults.get(option).map_or("–", String::as_str) };
        assert_eq!(default, holds, "docs/options.md, router, default of {option}");
    }
    assert!(needed.keys().all(|option| page.contains_key(option)), "{needed:?}");
}

/// Each value by its option, as TOML writes it.
fn flatten(before: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let name = if before == "containment.dependencies" { "<>" } else { name.as_str() };
                let dot = if before.is_empty() { "" } else { "." };
                flatten(&format!("{before}{dot}{name}"), value, into);
            }
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            for item in items {
                flatten(&format!("{before}[]"), item, into);
            }
        }
        value => {
            into.insert(before.to_owned(), value.to_string());
        }
    }
}

#[test]
fn every_option_of_the_gate_is_on_its_page_with_its_default() {
    let sources = ["router/gate/src/options.rs", "router/gate/src/admission.rs", "router/gate/src/tls.rs"];
    let page = part("Gate");
    assert_alike("Gate", &page, &Structs::of(&sources).options("GateOptions", ""));
    let defaults = serde_json::to_value(GateOptions::new("agent", "instance", "listen")).unwrap();
    for (option, Row { default, .. }) in &page {
        let value = option.split('.').try_fold(&defaults, |value, part| value.get(part));
        let holds = match value {
            None | Some(serde_json::Value::Null) => "–".to_owned(),
            Some(serde_json::Value::String(name)) if name == option => "needed".to_owned(),
            Some(value) => value.to_string(),
        };
        assert_eq!(*default, holds, "docs/options.md, gate, default of {option}");
    }
}

/// Options of a command line, against one part of the page.
fn assert_as_typed(title: &str, command: &clap::Command) {
    let page = part(title);
    let typed: BTreeMap<String, &clap::Arg> =
        command.get_arguments().filter_map(|arg| Some((format!("--{}", arg.get_long()?), arg))).collect();
    let typed_here = typed.keys().filter(|option| *option != "--plant").cloned().collect();
    assert_alike(title, &page, &typed_here);
    for (option, Row { default, text }) in &page {
        let arg = typed[option];
        let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let holds = match (arg.is_required_set(), defaults.as_slice()) {
            (true, _) => "needed".to_owned(),
            (false, defaults) if arg.get_action().takes_values() && !defaults.is_empty() => defaults.join(","),
            _ => "–".to_owned(),
        };
        assert_eq!(*default, holds, "docs/options.md, {title}, default of {option}");
        if let Some(variable) = arg.get_env() {
            let variable = variable.to_string_lossy();
            assert!(text.contains(&format!("`{variable}`")), "docs/options.md, {title}, {option} lacks {variable}");
        }
    }
}

#[test]
fn every_option_of_a_cell_and_of_a_control_node_is_on_its_page_with_its_default() {
    assert_as_typed("Cell", &sample_cell::Options::augment_args(clap::Command::new("serve")));
    assert_as_typed("Control node", &cell_control::Options::augment_args(clap::Command::new("serve")));
}

#[test]
fn structs_are_read_as_they_are_written() {
    let mut structs = Structs::default();
    structs.read(
        "pub struct A {\n    /// One.\n    #[serde(default)]\n    pub one_more: Option<B>,\n    #[serde(skip)]\n    pub file: Option<F>,\n    \
         pub list: Vec<B>,\n    pub names: Vec<String>,\n    pub map: BTreeMap<String, B>,\n}\npub struct B {\n    pub x: u8,\n    \
         #[cfg(feature = \"p\")]\n    #[serde(default)]\n    pub planted: P,\n}\nfn f() { pub y: u8, }\n",
    );
    let options: Vec<String> = structs.options("A", "").into_iter().collect();
    assert_eq!(options, ["list[].x", "map.<>.x", "names", "one-more.x"]);
}
