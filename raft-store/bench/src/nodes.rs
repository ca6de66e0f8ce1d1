//! Nodes as processes: ours, or etcd's.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use cell_client::cluster;
use tonic::transport::{Channel, Endpoint};

use crate::kv;
use crate::kv::maintenance_client::MaintenanceClient;

/// How long a cluster may take until it answers.
const STARTING: Duration = Duration::from_secs(30);
/// How long a node that was told to end may take.
const ENDING: Duration = Duration::from_secs(30);
/// How long a request may take until its answer begins. A watch may last longer.
const REQUEST: Duration = Duration::from_secs(60);

/// Whose nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The store of this repository, and nothing in front of it
    Cellway,
    /// The control plane of this repository, as it is run
    Control,
    /// Debian's etcd-server
    Etcd,
}

/// What is said to each of our nodes.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeOptions {
    pub extra: Vec<String>,
    /// The program of a node of the control plane.
    pub control: Option<PathBuf>,
}

/// How many threads each of our nodes has beside Raft's: by the cores of the machine, unless that is what is to be measured.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Threads {
    /// Threads of each of our nodes beside Raft's; without it as many as it takes by itself
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: Option<u8>,
}

impl Threads {
    /// What a node is told.
    pub(crate) fn words(self) -> impl Iterator<Item = String> {
        self.threads.into_iter().flat_map(|threads| ["--threads".to_owned(), threads.to_string()])
    }
}

/// Processes and their directories. They end with it.
#[derive(Debug)]
pub(crate) struct Nodes {
    kind: Kind,
    directory: PathBuf,
    pub(crate) addresses: Vec<String>,
    /// With which nodes of the control plane sign.
    pub(crate) public_key: String,
    peers: Vec<String>,
    processes: Vec<Option<Child>>,
    options: NodeOptions,
    /// Programs of nodes of the control plane that run another one than the rest.
    programs: BTreeMap<usize, PathBuf>,
}

/// Below the range from which the kernel gives outgoing connections theirs: such a port can be taken by anybody's
/// connection while a killed node is down, and the node could not start again.
fn free_addresses(count: usize) -> anyhow::Result<Vec<String>> {
    const LOW: u32 = 10_240;
    const WIDTH: u32 = 22_000;
    let first = std::process::id().wrapping_mul(97);
    let ports = (0..WIDTH).map(|step| LOW + first.wrapping_add(step) % WIDTH);
    let addresses = ports.map(|port| format!("127.0.0.1:{port}"));
    let free: Vec<String> = addresses.filter(|address| TcpListener::bind(address).is_ok()).take(count).collect();
    ensure!(free.len() == count, "fewer than {count} ports are free");
    Ok(free)
}

impl Nodes {
    /// Starts `count` nodes under `directory` and makes them a cluster.
    pub(crate) async fn start(
        kind: Kind,
        directory: &Path,
        count: usize,
        options: NodeOptions,
    ) -> anyhow::Result<Self> {
        let mut addresses = free_addresses(2 * count)?;
        let peers = addresses.split_off(count);
        let (directory, processes) = (directory.to_owned(), (0..count).map(|_| None).collect());
        let (public_key, programs) = (String::new(), BTreeMap::new());
        let mut nodes = Self { kind, directory, addresses, public_key, peers, processes, options, programs };
        nodes.make_key()?;
        (0..count).try_for_each(|node| nodes.spawn(node))?;
        if kind != Kind::Etcd {
            cluster::initialize(&nodes.addresses).await?;
        }
        nodes.leader().await?;
        Ok(nodes)
    }

    /// The key with which nodes of the control plane sign.
    fn make_key(&mut self) -> anyhow::Result<()> {
        let Some(control) = &self.options.control else { return Ok(()) };
        std::fs::create_dir_all(&self.directory)?;
        let made = Command::new(control).args(["keygen", "--out"]).arg(self.key()).output()?;
        ensure!(made.status.success(), "{} makes no key", control.display());
        self.public_key = String::from_utf8(made.stdout)?.trim().to_owned();
        Ok(())
    }

    fn key(&self) -> PathBuf {
        self.directory.join("signing.key")
    }

    pub(crate) fn data_dir(&self, node: usize) -> PathBuf {
        self.directory.join(format!("node-{node}"))
    }

    /// Starts one node of the control plane with this program, now and from now on.
    pub(crate) fn run(&mut self, node: usize, program: &Path) -> anyhow::Result<()> {
        self.programs.insert(node, program.to_owned());
        self.spawn(node)
    }

    /// Starts one node.
    pub(crate) fn spawn(&mut self, node: usize) -> anyhow::Result<()> {
        let mut command = match self.kind {
            Kind::Cellway => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("node").arg("--data-dir").arg(self.data_dir(node));
                command.args(["--listen", &self.addresses[node]]).args(&self.options.extra);
                command
            }
            Kind::Control => {
                let program = self.programs.get(&node).or(self.options.control.as_ref());
                let mut command = Command::new(program.context("it has a program")?);
                command.arg("serve").arg("--insecure-plaintext").arg("--data-dir").arg(self.data_dir(node));
                command.args(["--listen", &self.addresses[node], "--signing-key-file"]).arg(self.key());
                command.args(&self.options.extra);
                command
            }
            Kind::Etcd => self.etcd(node),
        };
        std::fs::create_dir_all(&self.directory)?;
        let log =
            std::fs::File::options().create(true).append(true).open(self.directory.join(format!("{node}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.processes[node] = Some(command.spawn().with_context(|| format!("cannot start {command:?}"))?);
        Ok(())
    }

    fn etcd(&self, node: usize) -> Command {
        let url = |address: &str| format!("http://{address}");
        let members: Vec<String> =
            self.peers.iter().enumerate().map(|(node, peer)| format!("n{node}={}", url(peer))).collect();
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("n{node}")]).arg("--data-dir").arg(self.data_dir(node));
        command.args(["--listen-client-urls", &url(&self.addresses[node])]);
        command.args(["--advertise-client-urls", &url(&self.addresses[node])]);
        command.args(["--listen-peer-urls", &url(&self.peers[node])]);
        command.args(["--initial-advertise-peer-urls", &url(&self.peers[node])]);
        command.args(["--initial-cluster", &members.join(","), "--initial-cluster-state", "new"]);
        // Room for the whole load.
        command.args(["--quota-backend-bytes", "4000000000"]);
        command
    }

    pub(crate) fn pid(&self, node: usize) -> Option<u32> {
        self.processes[node].as_ref().map(Child::id)
    }

    /// Processor time that the nodes that run have taken since they were started.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let nodes = self.processes.iter().flatten();
        nodes.map(|process| processor_time(&format!("/proc/{}/stat", process.id()))).sum()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: usize) -> anyhow::Result<()> {
        if let Some(mut process) = self.processes[node].take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Waits until a node that was told to has ended.
    pub(crate) async fn ended(&mut self, node: usize) -> anyhow::Result<()> {
        let begin = Instant::now();
        while self.runs(node) {
            ensure!(begin.elapsed() < ENDING, "node {node} does not end:\n{}", self.last_words(node));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.processes[node] = None;
        Ok(())
    }

    /// The end of what a node has said.
    pub(crate) fn last_words(&self, node: usize) -> String {
        let log = std::fs::read_to_string(self.directory.join(format!("{node}.log"))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    pub(crate) fn runs(&mut self, node: usize) -> bool {
        self.processes[node].as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// The node that leads: the load goes there, to both stores.
    pub(crate) async fn leader(&self) -> anyhow::Result<usize> {
        let begin = Instant::now();
        while begin.elapsed() < STARTING {
            for (node, address) in self.addresses.iter().enumerate() {
                if self.processes[node].is_some() && leads(self.kind, address).await.unwrap_or(false) {
                    return Ok(node);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("no node of {:?} leads; their logs are in {}", self.kind, self.directory.display())
    }
}

/// Processor time that a process or a thread has taken, as the kernel says it in that file.
pub(crate) fn processor_time(stat: &str) -> anyhow::Result<Duration> {
    /// The unit in which the kernel says it, on every architecture.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(stat)?;
    // The name of the program, in brackets, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("the kernel says the name in brackets")?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    let mut ticks = 0;
    for _ in ["user", "system"] {
        ticks += fields.next().context("the kernel says the time of user and system")??;
    }
    Ok(TICK * ticks)
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in 0..self.processes.len() {
            // It has ended already, or ends with this process's other children.
            drop(self.kill(node));
        }
    }
}

async fn leads(kind: Kind, address: &str) -> anyhow::Result<bool> {
    let patience = Duration::from_millis(500);
    match kind {
        Kind::Cellway | Kind::Control => {
            Ok(cluster::status(address, patience, &cell_client::Link::Plaintext).await?.is_leader)
        }
        Kind::Etcd => {
            let mut client = MaintenanceClient::new(connect(address)?);
            let asked = client.status(kv::StatusRequest {});
            let status = tokio::time::timeout(patience, asked).await??.into_inner();
            let member = status.header.map_or(0, |header| header.member_id);
            Ok(status.leader != 0 && status.leader == member)
        }
    }
}

/// Sends a process a signal, by its name.
pub(crate) fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let mut command = Command::new("kill");
    command.args(["-s", name, &pid.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    ensure!(command.status()?.success(), "no signal reaches the node");
    Ok(())
}

/// A connection of its own.
pub(crate) fn connect(address: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).timeout(REQUEST);
    Ok(endpoint.connect_timeout(Duration::from_millis(500)).connect_lazy())
}
