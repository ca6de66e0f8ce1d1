//! The comparison: the same load on both stores, in turns, on the same disk; medians and their ratios.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cell_figures::{Figure, Figures, median};
use cell_store::engine::LogKind;

use crate::ground::Ground;
use crate::load::{self, Keys, Round, Work};
use crate::nodes::{Kind, NodeOptions, Nodes, Threads};
use crate::watching::{self, Fanout};
use crate::{number, say};

const PEER: &str = "etcd";
/// Puts a second beside watchers.
const WATCHED_RATE: u32 = 2_000;

/// How long and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Compare {
    /// Rounds of each measurement; the stores take turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of one round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Clients at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 128, 1024])]
    clients: Vec<usize>,
    /// What keeps our log: segments or sled
    #[arg(long, default_value_t)]
    log: LogKind,
    #[command(flatten)]
    threads: Threads,
    /// Only our store: what a profile needs
    #[arg(long)]
    alone: bool,
    /// Leave out the watchers
    #[arg(long)]
    no_watch: bool,
}

/// How many times etcd's puts must be, and should be, with so many clients.
fn wanted_of_puts(clients: usize) -> (Option<f64>, Option<f64>) {
    match clients {
        1 => (Some(1.0), Some(1.2)),
        16 => (Some(1.3), Some(1.6)),
        128 => (Some(1.6), Some(3.0)),
        _ => (None, None),
    }
}

/// How many times etcd's linearizable reads must be, with any number of clients.
const WANTED_OF_GETS: f64 = 2.0;
/// How much of etcd's p99 theirs may be.
const GET_P99_OF_ETCDS: f64 = 0.7;

struct Sides {
    sides: Vec<(Kind, Nodes, Keys)>,
}

pub(crate) async fn run(compare: &Compare, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
    let directory = ground.directory()?;
    let has_peer = !compare.alone && is_here("etcd");
    if !has_peer {
        let why = if compare.alone { "--alone" } else { "no etcd in PATH: apt-get install etcd-server" };
        figures.leave_out(format!("compare: etcd ({why})"));
    }
    let sides = Sides::start(directory.path(), compare, has_peer).await?;
    for (work, name) in [(Work::Put, "put"), (Work::Get, "get")] {
        for clients in &compare.clients {
            let medians = sides.measure(work, name, *clients, compare).await?;
            tell(work, &format!("{name} x{clients}"), *clients, &medians, figures);
        }
    }
    if !compare.no_watch {
        for watchers in [100, 200] {
            let seen = sides.watch(watchers, compare).await?;
            let measure = |what: &str| format!("bare watch, {watchers} watchers at {WATCHED_RATE}/s: {what}");
            let (ours, peer) = (seen[0], seen.get(1));
            let p99 = (ours.p99_ms, peer.map(|peer| peer.p99_ms));
            figures.add(Figure::less_beside(measure("answered until delivered, p99"), "ms", p99, PEER, None));
            let p50 = (ours.p50_ms, peer.map(|peer| peer.p50_ms));
            figures.add(Figure::less_beside(measure("p50"), "ms", p50, PEER, None));
            let puts = (ours.puts_per_second, peer.map(|peer| peer.puts_per_second));
            figures.add(Figure::beside(measure("puts"), "/s", puts, PEER, None));
            let rates = (ours.deliveries_per_second, peer.map(|peer| peer.deliveries_per_second));
            figures.add(Figure::beside(measure("deliveries"), "/s", rates, PEER, None));
            figures.add(Figure::at_most(measure("lost"), "", number(ours.lost), Some(0.0), None));
        }
    }
    Ok(())
}

/// Puts what was measured of a work into figures; the second median is the peer's.
fn tell(work: Work, name: &str, clients: usize, medians: &[Round], figures: &mut Figures) {
    let (ours, peer) = (medians[0], medians.get(1));
    let pair = |of: fn(&Round) -> f64| (of(&ours), peer.map(of));
    let (floor, goal, floor_of_p99) = match work {
        Work::Put => {
            let (floor, goal) = wanted_of_puts(clients);
            (floor, goal, None)
        }
        Work::Get => (Some(WANTED_OF_GETS), None, Some(1.0 / GET_P99_OF_ETCDS)),
    };
    figures.add(Figure::beside(name, "/s", pair(|round| round.per_second), PEER, floor).goal(goal));
    let p99 = pair(|round| round.p99_ms);
    figures.add(Figure::less_beside(format!("{name}: p99"), "ms", p99, PEER, floor_of_p99));
    let cpu = pair(|round| round.node_cpu_us);
    figures.add(Figure::less_beside(format!("{name}: processor time of all nodes"), "µs", cpu, PEER, None));
}

fn is_here(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder: PathBuf| folder.join(program).exists())
}

/// Each measure's own median.
fn medians(rounds: &[Round]) -> Round {
    let of = |of: fn(&Round) -> f64| median(rounds.iter().map(of));
    Round {
        per_second: of(|round| round.per_second),
        p50_ms: of(|round| round.p50_ms),
        p99_ms: of(|round| round.p99_ms),
        worst_ms: of(|round| round.worst_ms),
        node_cpu_us: of(|round| round.node_cpu_us),
    }
}

impl Sides {
    async fn start(directory: &Path, how: &Compare, has_peer: bool) -> anyhow::Result<Self> {
        let mut sides = Vec::new();
        for kind in [Kind::Cellway, Kind::Etcd].into_iter().take(if has_peer { 2 } else { 1 }) {
            let extra = ["--log".to_owned(), how.log.to_string()].into_iter().chain(how.threads.words()).collect();
            let options = NodeOptions { extra, ..NodeOptions::default() };
            let nodes = Nodes::start(kind, &directory.join(format!("{kind:?}")), 3, options).await?;
            let leader = nodes.leader().await?;
            if kind == Kind::Cellway {
                load::prepare(&nodes.addresses[leader]).await?;
            }
            sides.push((kind, nodes, Keys::default()));
        }
        Ok(Self { sides })
    }

    /// The medians of each store, ours first.
    async fn measure(&self, work: Work, name: &str, clients: usize, how: &Compare) -> anyhow::Result<Vec<Round>> {
        let mut rounds: BTreeMap<Kind, Vec<Round>> = BTreeMap::new();
        for round in 0..how.rounds {
            let mut turn: Vec<_> = self.sides.iter().collect();
            // Who is always second finds the disk as the first has left it.
            turn.rotate_left(round as usize % self.sides.len());
            for (kind, nodes, keys) in turn {
                let round = load::run(nodes, work, clients, Duration::from_secs(how.seconds), keys).await?;
                say(&format!(
                    "{kind:?} {name} x{clients}: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms, {:.0} µs of the nodes' processors\n",
                    round.per_second, round.p50_ms, round.p99_ms, round.node_cpu_us
                ));
                rounds.entry(*kind).or_default().push(round);
            }
        }
        Ok(self.sides.iter().map(|(kind, ..)| medians(&rounds[kind])).collect())
    }

    async fn watch(&self, watchers: usize, how: &Compare) -> anyhow::Result<Vec<Fanout>> {
        let mut seen = Vec::new();
        for (kind, nodes, keys) in &self.sides {
            let address = &nodes.addresses[nodes.leader().await?];
            let lasting = Duration::from_secs(how.seconds);
            let fanout = watching::run(address, watchers, WATCHED_RATE, lasting, keys).await?;
            say(&format!("{kind:?} {watchers} watchers: {fanout:?}\n"));
            seen.push(fanout);
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(per_second: f64, p99_ms: f64) -> Round {
        Round { per_second, p50_ms: p99_ms, p99_ms, worst_ms: p99_ms, node_cpu_us: 1.0 }
    }

    fn missed(work: Work, clients: usize, medians: &[Round]) -> Vec<String> {
        let mut figures = Figures::default();
        tell(work, "it", clients, medians, &mut figures);
        assert_eq!(figures.iter().count(), 3);
        figures.hold().map_or_else(|missed| missed.missed, |()| Vec::new())
    }

    #[test]
    fn puts_and_gets_must_be_as_many_times_etcds_as_is_asked_with_so_many_clients() {
        let etcd = round(100.0, 10.0);
        for (clients, enough) in [(1, 100.0), (16, 130.0), (128, 160.0)] {
            assert!(missed(Work::Put, clients, &[round(enough, 99.0), etcd]).is_empty());
            assert_eq!(missed(Work::Put, clients, &[round(enough - 1.0, 1.0), etcd]), ["it (beside etcd)"]);
        }
        assert!(missed(Work::Put, 1_024, &[round(1.0, 99.0), etcd]).is_empty(), "nothing is asked");
        for clients in [1, 1_024] {
            assert!(missed(Work::Get, clients, &[round(200.0, 6.9), etcd]).is_empty());
            assert_eq!(missed(Work::Get, clients, &[round(200.0, 7.1), etcd]), ["it: p99 (beside etcd)"]);
            assert_eq!(missed(Work::Get, clients, &[round(199.0, 6.9), etcd]), ["it (beside etcd)"]);
        }
        assert!(missed(Work::Put, 1, &[round(1.0, 99.0)]).is_empty(), "no peer is no shortfall");
    }

    #[test]
    fn each_measure_of_rounds_has_its_own_median() {
        let of = medians(&[round(1.0, 30.0), round(2.0, 10.0), round(3.0, 20.0)]);
        assert!((of.per_second - 2.0).abs() < f64::EPSILON && (of.p99_ms - 20.0).abs() < f64::EPSILON);
    }
}
