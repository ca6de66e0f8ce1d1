//! The comparison: the same load on both stores, in turns, on the same disk; medians and their ratios.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use cell_store::engine::LogKind;
use serde::Serialize;

use crate::load::{self, Keys, Round, Work};
use crate::nodes::{Kind, NodeOptions, Nodes};
use crate::watching::{self, Fanout};

/// How long and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Compare {
    /// Rounds of each measurement; the stores take turns
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of one round
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Clients at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 128, 1024])]
    clients: Vec<usize>,
    /// What keeps our log: segments or sled
    #[arg(long, default_value_t)]
    log: LogKind,
    /// Only our store: what a profile needs
    #[arg(long)]
    alone: bool,
    /// Leave out the watchers
    #[arg(long)]
    no_watch: bool,
    /// Where the report goes
    #[arg(long, default_value = "target/bench/store.json")]
    out: PathBuf,
    /// Where the nodes keep their data [default: a temporary directory beside the report]
    #[arg(long)]
    data: Option<PathBuf>,
}

/// One figure of one store.
#[derive(Debug, Serialize)]
struct Figure {
    work: String,
    clients: usize,
    store: Kind,
    rounds: Vec<Round>,
    median: Round,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    figures: Vec<Figure>,
    /// Our median over etcd's: throughput, the 99th percentile of the latency, the nodes' processor time for one operation.
    ratios: BTreeMap<String, Ratio>,
    watch: BTreeMap<String, Vec<Fanout>>,
}

#[derive(Debug, Serialize)]
struct Ratio {
    throughput: f64,
    p99: f64,
    node_cpu: f64,
}

struct Sides {
    sides: Vec<(Kind, Nodes, Keys)>,
}

pub(crate) async fn run(compare: Compare) -> anyhow::Result<()> {
    let parent = compare.out.parent().context("the report has a directory")?;
    std::fs::create_dir_all(parent)?;
    let temporary = tempfile::tempdir_in(compare.data.as_deref().unwrap_or(parent))?;
    let sides = Sides::start(temporary.path(), &compare).await?;
    let mut report = Report { figures: Vec::new(), ratios: BTreeMap::new(), watch: BTreeMap::new() };
    for (work, name) in [(Work::Put, "put"), (Work::Get, "get")] {
        for clients in &compare.clients {
            let figures = sides.measure(work, name, *clients, &compare).await?;
            if let [ours, etcd] = &figures[..] {
                let ratio = Ratio {
                    throughput: ours.median.per_second / etcd.median.per_second,
                    p99: ours.median.p99_ms / etcd.median.p99_ms,
                    node_cpu: ours.median.node_cpu_us / etcd.median.node_cpu_us,
                };
                report.ratios.insert(format!("{name} x{clients:04}"), ratio);
            }
            report.figures.extend(figures);
        }
    }
    if !compare.no_watch {
        for watchers in [100, 200] {
            report.watch.insert(format!("{watchers:03} watchers"), sides.watch(watchers, &compare).await?);
        }
    }
    std::fs::write(&compare.out, serde_json::to_string_pretty(&report)? + "\n")?;
    crate::say(&table(&report, &sides));
    Ok(())
}

impl Sides {
    async fn start(directory: &Path, how: &Compare) -> anyhow::Result<Self> {
        let mut sides = Vec::new();
        for kind in [Kind::Cellway, Kind::Etcd].into_iter().take(if how.alone { 1 } else { 2 }) {
            let options =
                NodeOptions { extra: vec!["--log".into(), how.log.to_string()], ..NodeOptions::default() };
            let nodes = Nodes::start(kind, &directory.join(format!("{kind:?}")), 3, options).await?;
            let leader = nodes.leader().await?;
            if kind == Kind::Cellway {
                load::prepare(&nodes.addresses[leader]).await?;
            }
            sides.push((kind, nodes, Keys::default()));
        }
        Ok(Self { sides })
    }

    async fn measure(&self, work: Work, name: &str, clients: usize, how: &Compare) -> anyhow::Result<Vec<Figure>> {
        let mut rounds: BTreeMap<Kind, Vec<Round>> = BTreeMap::new();
        for _ in 0..how.rounds {
            for (kind, nodes, keys) in &self.sides {
                let round = load::run(nodes, work, clients, Duration::from_secs(how.seconds), keys).await?;
                crate::say(&format!(
                    "{kind:?} {name} x{clients}: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms, {:.0} µs of the nodes' processors\n",
                    round.per_second, round.p50_ms, round.p99_ms, round.node_cpu_us
                ));
                rounds.entry(*kind).or_default().push(round);
            }
        }
        let figure = |(store, mut rounds): (Kind, Vec<Round>)| {
            rounds.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
            let mut p99: Vec<f64> = rounds.iter().map(|round| round.p99_ms).collect();
            p99.sort_by(f64::total_cmp);
            let mut cpu: Vec<f64> = rounds.iter().map(|round| round.node_cpu_us).collect();
            cpu.sort_by(f64::total_cmp);
            let middle = rounds.len() / 2;
            let median = Round { p99_ms: p99[middle], node_cpu_us: cpu[middle], ..rounds[middle] };
            Figure { work: name.to_owned(), clients, store, rounds, median }
        };
        Ok(rounds.into_iter().map(figure).collect())
    }

    async fn watch(&self, watchers: usize, how: &Compare) -> anyhow::Result<Vec<Fanout>> {
        const RATE: u32 = 2_000;
        let mut seen = Vec::new();
        for (kind, nodes, keys) in &self.sides {
            let address = &nodes.addresses[nodes.leader().await?];
            let fanout = watching::run(address, watchers, RATE, Duration::from_secs(how.seconds), keys).await?;
            crate::say(&format!("{kind:?} {fanout:?}\n"));
            seen.push(fanout);
        }
        Ok(seen)
    }
}

fn table(report: &Report, sides: &Sides) -> String {
    let mut text = String::from(
        "\nwork        ours/s    etcd/s   ratio   ours p99   etcd p99   ratio   ours cpu   etcd cpu   ratio\n",
    );
    for figures in report.figures.chunks(sides.sides.len()) {
        let ours = figures[0].median;
        let name = format!("{} x{}", figures[0].work, figures[0].clients);
        if let [_, etcd] = figures {
            let etcd = etcd.median;
            text += &format!(
                "{name:<10} {:>7.0} {:>9.0} {:>7.2} {:>7.2} ms {:>7.2} ms {:>7.2} {:>7.0} µs {:>7.0} µs {:>7.2}\n",
                ours.per_second,
                etcd.per_second,
                ours.per_second / etcd.per_second,
                ours.p99_ms,
                etcd.p99_ms,
                ours.p99_ms / etcd.p99_ms,
                ours.node_cpu_us,
                etcd.node_cpu_us,
                ours.node_cpu_us / etcd.node_cpu_us
            );
        } else {
            let Round { per_second, p99_ms, node_cpu_us, .. } = ours;
            text +=
                &format!("{name:<10} {per_second:>7.0}                   {p99_ms:>7.2} ms {node_cpu_us:>7.0} µs\n");
        }
    }
    text
}
