//! A rolling upgrade under load, with the programs of two versions, in the order that docs/store.md asks for: the followers, one
//! after the other, the leader last. A history checker judges what clients were told.
//!
//! ```text
//! before  before  before      clients make tenants, a cell is granted them, all the while
//! today   before  before      the first: stopped again, refused by the version before, which changes nothing, started again
//! today   today   before      the last: hands over, comes back as it was and disturbs nobody, goes over
//! today   today   today       then all are killed at once, and started again
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cell_client::{ClientOptions, ControlClient, Link, ListOptions, WriteOptions, cluster};
use cell_figures::{Figure, Figures};
use cell_model::{NewTenant, TenantId, Tier};
use cell_protos::v1;

use crate::cell::Cell;
use crate::clients::{Clients, Put, RECOVERING, longest_gap, newest, progress, verdict};
use crate::ground::Ground;
use crate::history::{Ending, Operation, State, judge};
use crate::load::Keys;
use crate::nodes::{Kind, NodeOptions, Nodes, signal};
use crate::{number, say};

const NODES: usize = 3;
/// How long a client tries one command. One that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two commands of a client, so that the grants keep up.
const BETWEEN: Duration = Duration::from_millis(10);
/// How long the last grants may take.
const GRANTING: Duration = Duration::from_secs(60);
/// How long the version before is left to disturb today's.
const DISTURBING: Duration = Duration::from_secs(3);
/// A node has caught up that lacks no more entries, and was heard so lately.
const LAG_MAX: u64 = 64;
const HEARD_MS_MAX: u64 = 200;

/// How nodes are upgraded.
#[derive(Debug, clap::Args)]
pub(crate) struct Upgrade {
    /// The program `cell-control` of the version before (`make upgrade` builds it)
    #[arg(long, value_name = "PROGRAM")]
    from: PathBuf,
    /// How often, each time a new cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
}

pub(crate) async fn run(upgrade: &Upgrade, ground: &Ground, figures: &mut Figures) -> anyhow::Result<()> {
    ensure!(upgrade.from.is_file(), "{} is not there: `make upgrade` builds it", upgrade.from.display());
    let versions = (upgrade.from.as_path(), ground.control()?);
    for round in 1..=upgrade.rounds {
        let upgraded = one(round, (versions.0, &versions.1), ground, figures).await;
        upgraded.with_context(|| format!("in round {round}"))?;
    }
    Ok(())
}

async fn one(
    round: u32,
    (before, today): (&Path, &Path),
    ground: &Ground,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let directory = ground.directory()?;
    let options = NodeOptions { control: Some(before.to_owned()), ..NodeOptions::default() };
    let mut nodes = Nodes::start(Kind::Control, directory.path(), NODES, options).await?;
    let _cell = Cell::make(&nodes.addresses[nodes.leader().await?]).await?;
    let keys = Keys::default();
    let clients = Clients::start(&keys, |_| Ok(Commands(client(&nodes.addresses))))?;
    progress(&clients).await?;
    let begun = Instant::now();
    let mut left: Vec<usize> = (0..NODES).collect();
    while !left.is_empty() {
        let leader = nodes.leader().await?;
        let node = left.remove(left.iter().position(|node| *node != leader).unwrap_or(0));
        say(&format!("round {round}: node {node} goes over, node {leader} leads\n"));
        stop(&mut nodes, node).await?;
        if left.is_empty() {
            nodes.run(node, before)?;
            tokio::time::sleep(DISTURBING).await;
            progress(&clients).await.context("beside a node of the version before")?;
            stop(&mut nodes, node).await?;
        }
        start(&mut nodes, node, today).await?;
        if left.len() + 1 == NODES {
            no_way_back(&mut nodes, node, before).await?;
            start(&mut nodes, node, today).await?;
        }
        progress(&clients).await.with_context(|| format!("after node {node} has gone over"))?;
    }
    let until = Instant::now();
    let operations = clients.end().await;
    all_live(&nodes, operations.len()).await?;
    let mut broken = judged(&nodes, &operations).await?;
    for node in 0..NODES {
        nodes.kill(node)?;
    }
    for node in 0..NODES {
        nodes.spawn(node)?;
    }
    nodes.leader().await.context("after all were killed")?;
    let after = judged(&nodes, &operations).await?;
    broken.extend(after.into_iter().map(|broken| format!("after all were killed: {broken}")));

    let title = format!("upgrade, round {round}");
    verdict(&title, &operations, &broken, figures);
    let failed = operations.iter().filter(|operation| operation.ending == Ending::Unknown).count();
    let measure = |what: &str| format!("{title}: {what}");
    figures.add(Figure::at_most(measure("commands that have failed"), "", number(failed), Some(0.0), None));
    let gap = longest_gap(&operations, begun, until).0.as_secs_f64() * 1_000.0;
    figures.add(Figure::free(measure("longest time without an answer"), "ms", gap));
    Ok(())
}

fn client(addresses: &[String]) -> ControlClient {
    ControlClient::new(addresses.to_vec(), ClientOptions { deadline: PATIENCE, ..ClientOptions::default() })
}

/// Makes tenants through the client that everybody uses.
struct Commands(ControlClient);

impl Put for Commands {
    async fn put(&mut self, key: String) -> Operation {
        let id = TenantId::new(key.clone()).expect("keys are names of tenants");
        let cell = "cell-1".parse().ok();
        let tenant = NewTenant { id, cell, tier: Tier::Bronze, residency: String::new() };
        let begun = Instant::now();
        let made = self.0.create_tenant(tenant, WriteOptions::default()).await;
        let ended = Instant::now();
        let ending = match made {
            Ok(tenant) => Ending::Answered(revision_of(&tenant), ended),
            Err(error) => {
                say(&format!("{key}: {error}\n"));
                Ending::Unknown
            }
        };
        tokio::time::sleep(BETWEEN).await;
        Operation { key, begun, ending }
    }
}

/// At which it was made: its uid.
fn revision_of(tenant: &v1::Tenant) -> u64 {
    tenant.mapping.as_ref().map_or(0, |mapping| mapping.uid)
}

async fn stop(nodes: &mut Nodes, node: usize) -> anyhow::Result<()> {
    if nodes.runs(node) {
        signal(nodes.pid(node).context("it runs")?, "TERM")?;
        nodes.ended(node).await?;
    }
    Ok(())
}

/// Starts a node and waits until `cellctl store members` would show no lag.
async fn start(nodes: &mut Nodes, node: usize, program: &Path) -> anyhow::Result<()> {
    nodes.run(node, program)?;
    let (address, begun) = (nodes.addresses[node].clone(), Instant::now());
    let (all, patience) = (client(&nodes.addresses), Duration::from_secs(1));
    loop {
        let answers = cluster::status(&address, patience, &Link::Plaintext).await.is_ok();
        // The leader may remember what it was before.
        if answers && all.members().await?.iter().any(|member| member.address == address && is_level(member)) {
            return Ok(());
        }
        let late = begun.elapsed() > RECOVERING;
        ensure!(!late, "node {node} has not caught up:\n{}", nodes.last_words(node));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn is_level(member: &v1::StoreMember) -> bool {
    let is_near = member.lag.is_some_and(|lag| lag <= LAG_MAX);
    member.leader || (is_near && member.heard_ms.is_some_and(|ago| ago <= HEARD_MS_MAX))
}

/// The version before takes the directory no more, says why, and changes nothing.
async fn no_way_back(nodes: &mut Nodes, node: usize, before: &Path) -> anyhow::Result<()> {
    stop(nodes, node).await?;
    let (path, mut found) = (nodes.data_dir(node), BTreeMap::new());
    contents(&path, &mut found)?;
    nodes.run(node, before)?;
    nodes.ended(node).await.context("the version before starts on a directory of today's")?;
    let said = nodes.last_words(node);
    ensure!(said.contains("DATA_DIRECTORY_FORMAT"), "the version before does not say what is wrong:\n{said}");
    let mut left = BTreeMap::new();
    contents(&path, &mut left)?;
    ensure!(found == left, "the version before has changed {}", path.display());
    Ok(())
}

/// The bytes of every file.
fn contents(directory: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            contents(&path, found)?;
        } else {
            found.insert(path.clone(), std::fs::read(&path)?);
        }
    }
    Ok(())
}

/// Every tenant, as this client reads it, and up to which revision that is.
async fn tenants(client: &ControlClient) -> anyhow::Result<(Vec<v1::Tenant>, u64)> {
    let (mut tenants, mut revision, mut page_token) = (Vec::new(), u64::MAX, String::new());
    loop {
        let page =
            client.list_tenants(ListOptions { page_size: 1_000, page_token, ..ListOptions::default() }).await?;
        tenants.extend(page.items);
        revision = revision.min(page.revision.get());
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok((tenants, revision));
        }
    }
}

/// What was begun under one version is brought to its end under the other.
async fn all_live(nodes: &Nodes, made: usize) -> anyhow::Result<()> {
    let (client, begun) = (client(&nodes.addresses), Instant::now());
    loop {
        let (tenants, _) = tenants(&client).await?;
        let waiting = tenants.iter().filter(|tenant| tenant.life != "live").count();
        if waiting == 0 {
            return Ok(());
        }
        ensure!(begun.elapsed() < GRANTING, "{waiting} of {made} tenants are not granted");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What each node has by itself, once it has everything that was answered, beside what clients were told.
async fn judged(nodes: &Nodes, operations: &[Operation]) -> anyhow::Result<Vec<String>> {
    let (mut states, wanted) = (Vec::new(), newest(operations));
    for address in &nodes.addresses {
        let (client, begun) = (client(std::slice::from_ref(address)).allowing_stale_reads(), Instant::now());
        let state = loop {
            let (tenants, revision) = tenants(&client).await?;
            if revision >= wanted {
                break tenants.iter().map(|tenant| (name_of(tenant), revision_of(tenant))).collect::<State>();
            }
            ensure!(begun.elapsed() < RECOVERING, "{address} has only what was made up to {revision} of {wanted}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        states.push(state);
    }
    Ok(judge(operations, &states))
}

fn name_of(tenant: &v1::Tenant) -> String {
    tenant.mapping.as_ref().map(|mapping| mapping.tenant.clone()).unwrap_or_default()
}
