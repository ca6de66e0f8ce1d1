//! Kills and power cuts, while clients put; and the judgement.
//!
//! A *kill* is a SIGKILL at any instant: what the process had not handed to the kernel is gone. A *cut* is what a disk holds
//! when the power goes: the file system is a loop-mounted image, the node is stopped with SIGSTOP, the image is copied,
//! and the copy is opened as after the power has come back. What the kernel had not written is gone, too.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cell_figures::{Figure, Figures, median};
use cell_store::engine::LogKind;
use cell_store::{Store, StoreOptions};

use crate::clients::{Clients, Put, RECOVERING, longest_gap, newest, progress, verdict};
use crate::ground::Ground;
use crate::history::{Ending, Operation, State, judge};
use crate::kv::kv_client::KvClient;
use crate::load::{self, Keys};
use crate::nodes::{Kind, NodeOptions, Nodes, connect, signal};
use crate::{kv, say, watching};

/// How long a client tries one put.
const PATIENCE: Duration = Duration::from_secs(20);
const ATTEMPT: Duration = Duration::from_secs(2);
/// Before it asks the next node. It is part of every gap that a client sees.
const PAUSE: Duration = Duration::from_millis(3);
/// Of the image that stands for a disk.
const IMAGE_BYTES: u64 = 384 * 1024 * 1024;

/// How often nodes are ended.
#[derive(Debug, clap::Args)]
pub(crate) struct Kill {
    /// How often; every fourth time all three at once
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// What the choices follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What keeps the log: segments or sled
    #[arg(long, default_value_t)]
    log: LogKind,
}

/// How long writes wait when something happens to a node.
#[derive(Debug, clap::Args)]
pub(crate) struct Gaps {
    /// How often each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
}

/// How often the power goes.
#[derive(Debug, clap::Args)]
pub(crate) struct Cut {
    /// How often
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// What the choices follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What keeps the log: segments or sled
    #[arg(long, default_value_t)]
    log: LogKind,
}

/// Choices that follow a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Every node, asked in turn until one answers.
struct Services {
    nodes: Vec<KvClient<tonic::transport::Channel>>,
    at: usize,
}

impl Put for Services {
    /// With the same key and so with the same request id.
    async fn put(&mut self, key: String) -> Operation {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let mut service = self.nodes[self.at % self.nodes.len()].clone();
            let request = kv::PutRequest { key: key.clone().into(), value: Vec::new().into() };
            if let Ok(Ok(answer)) = tokio::time::timeout(ATTEMPT, service.put(request)).await {
                let revision = answer.into_inner().header.map_or(0, |header| header.revision);
                let revision = u64::try_from(revision).unwrap_or(0);
                return Operation { key, begun, ending: Ending::Answered(revision, Instant::now()) };
            }
            self.at += 1;
            tokio::time::sleep(PAUSE).await;
        }
        Operation { key, begun, ending: Ending::Unknown }
    }
}

fn start(addresses: &[String], keys: &Keys) -> anyhow::Result<Clients> {
    Clients::start(keys, |client| {
        let nodes = addresses.iter().map(|address| Ok(KvClient::new(connect(address)?)));
        Ok(Services { nodes: nodes.collect::<anyhow::Result<_>>()?, at: client })
    })
}

/// Every key that a node has, once it has `revision`.
async fn state_of(address: &str, revision: u64) -> anyhow::Result<State> {
    let begun = Instant::now();
    // A node that was killed last may be starting still.
    let mut stream = loop {
        match watching::begin(crate::kv::watch_client::WatchClient::new(connect(address)?), 1).await {
            Ok(stream) => break stream,
            Err(error) if begun.elapsed() > RECOVERING => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    let mut state = State::new();
    loop {
        let next = tokio::time::timeout(RECOVERING, stream.message()).await;
        let response = next.context("a node does not catch up")??.context("the watch ended")?;
        let header = response.header.map_or(0, |header| header.revision);
        for kv in response.events.into_iter().filter_map(|event| event.kv) {
            state.insert(String::from_utf8(kv.key.to_vec())?, u64::try_from(kv.mod_revision)?);
        }
        if u64::try_from(header)? >= revision && state.values().max().copied().unwrap_or(0) >= revision {
            return Ok(state);
        }
    }
}

pub(crate) async fn kill(kill: &Kill, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
    let directory = ground.directory()?;
    let mut chance = Chance(kill.seed);
    // Small enough that snapshots, purges and their half-done states are hit, too.
    let extra = ["--snapshot-after", "150", "--log", &kill.log.to_string()].map(str::to_owned).to_vec();
    let mut nodes =
        Nodes::start(Kind::Cellway, directory.path(), 3, NodeOptions { extra, ..NodeOptions::default() }).await?;
    load::prepare(&nodes.addresses[nodes.leader().await?]).await?;
    let (keys, mut gaps) = (Keys::default(), Vec::new());
    let clients = start(&nodes.addresses, &keys)?;
    for round in 0..kill.rounds {
        tokio::time::sleep(Duration::from_millis(50 + chance.below(350))).await;
        let victims: Vec<usize> =
            if round % 4 == 3 { vec![0, 1, 2] } else { vec![usize::try_from(chance.below(3))?] };
        let killed = Instant::now();
        victims.iter().try_for_each(|victim| nodes.kill(*victim))?;
        tokio::time::sleep(Duration::from_millis(chance.below(120))).await;
        for victim in victims {
            nodes.spawn(victim)?;
        }
        progress(&clients).await.with_context(|| format!("after kill {round} of seed {}", kill.seed))?;
        gaps.push(killed.elapsed());
        for node in 0..3 {
            let runs = nodes.runs(node);
            let said = if runs { String::new() } else { nodes.last_words(node) };
            ensure!(runs, "node {node} does not start after kill {round} of seed {}:\n{said}", kill.seed);
        }
    }
    let operations = clients.end().await;
    let mut states = Vec::new();
    for address in &nodes.addresses {
        states.push(state_of(address, newest(&operations)).await?);
    }
    let middle = median(gaps.iter().map(Duration::as_secs_f64));
    say(&format!(
        "kill: seed {}, {} rounds, median time to the next answer {middle:.3} s\n",
        kill.seed, kill.rounds
    ));
    let title = format!("{} × SIGKILL", kill.rounds);
    verdict(&title, &operations, &judge(&operations, &states), figures);
    Ok(())
}

/// What each event does to a steady load: nothing (the measure of the machine), a leader that is told to stop, a leader
/// that is killed, a follower that was cut off (stopped) for longer than elections take and comes back; and nothing again, as
/// by then there is more in the store.
pub(crate) async fn gaps(gaps: &Gaps, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
    /// And for how many milliseconds writes may wait.
    const EVENTS: [(&str, Option<f64>); 5] = [
        ("nothing", None),
        ("leader told to stop", Some(50.0)),
        ("leader killed", Some(900.0)),
        ("cut-off member returns", Some(50.0)),
        ("nothing, in the end", None),
    ];
    const SETTLING: Duration = Duration::from_secs(2);
    let directory = ground.directory()?;
    let mut nodes = Nodes::start(Kind::Cellway, directory.path(), 3, NodeOptions::default()).await?;
    load::prepare(&nodes.addresses[nodes.leader().await?]).await?;
    let keys = Keys::default();
    let clients = start(&nodes.addresses, &keys)?;
    for (event, floor) in EVENTS {
        let (mut seen, mut begun) = (Vec::new(), Vec::new());
        for _ in 0..gaps.rounds {
            progress(&clients).await?;
            let leader = nodes.leader().await?;
            let follower = (leader + 1) % 3;
            if event == "cut-off member returns" {
                signal(nodes.pid(follower).context("it runs")?, "STOP")?;
                tokio::time::sleep(Duration::from_secs(6)).await;
            }
            let (since, ended) = (Instant::now(), clients.count());
            match event {
                "leader told to stop" => {
                    signal(nodes.pid(leader).context("it runs")?, "TERM")?;
                    nodes.ended(leader).await?;
                }
                "leader killed" => nodes.kill(leader)?,
                "cut-off member returns" => signal(nodes.pid(follower).context("it runs")?, "CONT")?,
                _ => {}
            }
            tokio::time::sleep(SETTLING).await;
            // A gap that lasts still is told as long as it becomes.
            progress(&clients).await.with_context(|| format!("after this: {event}"))?;
            let until = Instant::now();
            let (gap, after) = longest_gap(&clients.later(ended), since, until);
            seen.push(gap.as_secs_f64() * 1_000.0);
            begun.push(after.as_secs_f64() * 1_000.0);
            if !nodes.runs(leader) {
                nodes.spawn(leader)?;
                tokio::time::sleep(SETTLING).await;
            }
        }
        say(&format!(
            "{event}, {} puts by then: longest time without an answer, in ms {seen:.1?}, begun after {begun:.0?} ms\n",
            keys.used()
        ));
        let measure = |what: &str| format!("{event}: longest time without an answer, {what}");
        figures.add(Figure::at_most(measure("median"), "ms", median(seen.iter().copied()), floor, None));
        figures.add(Figure::free(measure("worst"), "ms", seen.into_iter().fold(0.0, f64::max)));
    }
    let operations = clients.end().await;
    let mut states = Vec::new();
    for address in &nodes.addresses {
        states.push(state_of(address, newest(&operations)).await?);
    }
    verdict("gaps", &operations, &judge(&operations, &states), figures);
    Ok(())
}

/// A file system of its own in a file. It goes with the value.
struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path, at: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&at)?;
        let status = quiet(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&at))?;
        ensure!(status.success(), "the image cannot be mounted");
        Ok(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: whoever still holds a file of it ends soon.
        drop(quiet(Command::new("umount").arg("-l").arg(&self.0)));
    }
}

fn quiet(command: &mut Command) -> std::io::Result<ExitStatus> {
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status()
}

fn make_image(path: &Path) -> anyhow::Result<()> {
    std::fs::File::create(path)?.set_len(IMAGE_BYTES)?;
    let made = quiet(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(path))?;
    ensure!(made.success(), "mkfs.ext4 has failed");
    Ok(())
}

pub(crate) async fn cut(cut: &Cut, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
    let directory = ground.directory()?;
    let image = directory.path().join("disk");
    let mounted = match make_image(&image).and_then(|()| Mounted::new(&image, directory.path().join("mnt"))) {
        Ok(mounted) => mounted,
        Err(error) => {
            figures.leave_out(format!("cut: skipped, because a loop mount needs root and mkfs.ext4: {error}"));
            return Ok(());
        }
    };
    let mut chance = Chance(cut.seed);
    let extra = ["--snapshot-after", "100", "--log", &cut.log.to_string()].map(str::to_owned).to_vec();
    // One node: nobody else has what it acknowledges.
    let mut nodes =
        Nodes::start(Kind::Cellway, &mounted.0, 1, NodeOptions { extra, ..NodeOptions::default() }).await?;
    load::prepare(&nodes.addresses[0]).await?;
    let keys = Keys::default();
    let clients = start(&nodes.addresses, &keys)?;
    let mut broken = Vec::new();
    for round in 0..cut.rounds {
        tokio::time::sleep(Duration::from_millis(20 + chance.below(200))).await;
        let pid = nodes.pid(0).context("it runs")?;
        signal(pid, "STOP")?;
        let told = clients.later(0);
        // A file and a mount point of its own: while something still holds a file of the last one, the kernel would show
        // that one's contents again.
        let copy = directory.path().join(format!("copy-{round}"));
        std::fs::copy(&image, &copy)?;
        signal(pid, "CONT")?;
        let opened = {
            let after = Mounted::new(&copy, directory.path().join(format!("after-{round}")))?;
            state_after(&after.0.join("node-0"), &nodes.addresses[0], cut.log).await
        };
        std::fs::remove_file(&copy)?;
        match opened {
            Ok(state) => broken.extend(lost(&told, &state).map(|lost| format!("cut {round}: {lost}"))),
            Err(error) => broken.push(format!("cut {round}: it does not open: {error:#}")),
        }
        let runs = nodes.runs(0);
        let said = if runs { String::new() } else { nodes.last_words(0) };
        ensure!(runs, "the node has ended after cut {round} of seed {}:\n{said}", cut.seed);
    }
    let operations = clients.end().await;
    let state = state_of(&nodes.addresses[0], newest(&operations)).await?;
    broken.extend(judge(&operations, &[state]));
    nodes.kill(0)?;
    say(&format!("cut: seed {}, {} rounds\n", cut.seed, cut.rounds));
    verdict(&format!("{} × power cut", cut.rounds), &operations, &broken, figures);
    Ok(())
}

/// What was answered and is not there. What was on its way may be there, too.
fn lost<'a>(told: &'a [Operation], state: &'a State) -> impl Iterator<Item = String> + 'a {
    told.iter().filter_map(|operation| match operation.ending {
        Ending::Answered(revision, _) if state.get(&operation.key) != Some(&revision) => {
            Some(format!("{} was answered at {revision} and is {:?}", operation.key, state.get(&operation.key)))
        }
        _ => None,
    })
}

/// Opens a data directory in this process and reads what it holds.
async fn state_after(data_dir: &Path, address: &str, log: LogKind) -> anyhow::Result<State> {
    let store = Store::open(StoreOptions { log, ..StoreOptions::new(data_dir, address) }).await?;
    let begin = Instant::now();
    while store.read_index().await.is_err() {
        ensure!(begin.elapsed() < RECOVERING, "it does not lead");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let state = store.view(|fleet| {
        fleet.tenants_after(None).map(|record| (record.id.to_string(), record.revision.get())).collect()
    });
    store.stop().await;
    Ok(state)
}
