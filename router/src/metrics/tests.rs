use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cell_model::{CellId, TenantId};

use super::*;
use crate::live::Live;
use crate::options::Options;
use crate::waiting::Waiters;

fn registered() -> (Registry, Metrics, Arc<Flow>) {
    let directory = Arc::new(Directory::new(Waiters::new(1, 1), Waiters::new(1, 1), Duration::from_secs(1)));
    let flow = Flow::new(Live::new(&Options::default()), directory.instances.clock(), false, BTreeMap::default());
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry, directory, Arc::clone(&flow));
    (registry, metrics, flow)
}

fn scraped(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

/// Each metric as a scrape has it: `cell_router_tunnels{worker}`, counters with their `_total`; and its kind.
fn metrics_in(scrape: &str) -> BTreeMap<String, String> {
    let mut metrics = BTreeMap::new();
    for (name, kind) in scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')) {
        let (sample, shown) = match kind {
            "counter" => (format!("{name}_total"), format!("{name}_total")),
            "histogram" => (format!("{name}_count"), name.to_owned()),
            _ => (name.to_owned(), name.to_owned()),
        };
        let of_it = |line: &&str| line.strip_prefix(&sample).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let line = scrape.lines().find(of_it).unwrap_or_else(|| panic!("{name} has no series"));
        let labels =
            line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
        let labels: Vec<&str> =
            labels.split(',').filter_map(|label| label.split_once('=')).map(|(label, _)| label).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        metrics.insert(format!("{shown}{labels}"), kind.to_owned());
    }
    metrics
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

#[test]
fn every_metric_is_on_the_page_of_metrics_and_every_one_there_is_registered() {
    let (registry, metrics, flow) = registered();
    let _one_thread = metrics.worker(0);
    flow.cell(&CellId::new("c1").unwrap());
    let registered = metrics_in(&scraped(&registry));
    let page = std::fs::read_to_string(docs().join("metrics.md")).unwrap();
    let mut described = BTreeMap::new();
    let tables = page.split("\n## What to be told of").next().unwrap();
    for row in tables.lines().filter(|line| line.starts_with("| `cell_router_")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 5, "not | metric | kind | what it says |: {row}");
        assert!(!cells[3].is_empty(), "what does it say? {row}");
        let before = described.insert(cells[1].trim_matches('`').to_owned(), cells[2].to_owned());
        assert!(before.is_none(), "twice: {row}");
    }
    let lacks: Vec<_> = registered.iter().filter(|(metric, kind)| described.get(*metric) != Some(kind)).collect();
    let made_up: Vec<_> = described.iter().filter(|(metric, kind)| registered.get(*metric) != Some(kind)).collect();
    assert!(
        lacks.is_empty() && made_up.is_empty(),
        "docs/metrics.md: add | `metric{{labels}}` | kind | what it says | for each of {lacks:?}, and take out {made_up:?}"
    );
}

#[test]
fn every_metric_that_a_page_names_is_one() {
    let (registry, metrics, flow) = registered();
    let _one_thread = metrics.worker(0);
    flow.cell(&CellId::new("c1").unwrap());
    let mut names = BTreeSet::new();
    for (metric, kind) in metrics_in(&scraped(&registry)) {
        let name = metric.split('{').next().unwrap_or_default().to_owned();
        if kind == "histogram" {
            names.extend(["bucket", "sum", "count"].map(|of_it| format!("{name}_{of_it}")));
        }
        names.insert(name);
    }
    let mut folders = vec![docs()];
    let mut wrong = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = std::fs::read_to_string(&path).unwrap();
                let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
                for rest in text.split("cell_router_").skip(1) {
                    let end = rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
                    let name = format!("cell_router_{}", &rest[..end]);
                    // The prefix alone, before dots, stands for all of them.
                    if end > 0 && !names.contains(&name) {
                        wrong.push(format!("{}: {name}", path.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "no scrape has these, as counters end in _total: {wrong:#?}");
}

#[test]
fn a_hundred_thousand_active_tenants_add_no_series() {
    let (registry, metrics, flow) = registered();
    let worker = Rc::new(metrics.worker(0));
    let series = |registry: &Registry| scraped(registry).lines().filter(|line| !line.starts_with('#')).count();
    let before = series(&registry);
    for n in 0..100_000_u32 {
        let tenant = TenantId::new(format!("t-{n}")).unwrap();
        flow.tenants.of(&tenant, cell_model::Uid(1)).count();
        let tier = [None, Some(Tier::Bronze), Some(Tier::Gold)][n as usize % 3];
        let mut open = worker.open(Instant::now());
        open.set_tier(tier);
        worker.count_answer(http::StatusCode::OK, tier);
        worker.count_refusal(Code::ALL[n as usize % Code::ALL.len()], tier);
    }
    assert_eq!(flow.tenants.count(), 100_000);
    assert_eq!(series(&registry), before);
    assert!(before < 500, "{before} series for one thread");
}
