//! Nodes that can be started, crashed and started again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cell_model::{
    CellId, CellTraits, ClusterId, Command, Envelope, Fleet, Lineage, NewCell, Reply, RequestId, Revision,
    TenantId, UnixMillis,
};
use cell_store::engine::LogKind;
use cell_store::{Bounds, Feed, Member, OpenError, Store, StoreOptions, SubmitError, Timers};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

pub(crate) const CLUSTER: ClusterId = ClusterId(0xce11);
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `look` finds something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) struct Node {
    pub(crate) directory: TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) bounds: Bounds,
    pub(crate) timers: Timers,
    pub(crate) log: LogKind,
    running: Option<(Store, JoinHandle<()>, CancellationToken)>,
}

impl Node {
    pub(crate) async fn start(bounds: Bounds, timers: Timers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self::start_behind(address, listener, bounds, timers).await
    }

    /// Others reach it at this address, wherever it listens itself.
    pub(crate) async fn start_behind(
        address: SocketAddr,
        listener: TcpListener,
        bounds: Bounds,
        timers: Timers,
    ) -> Self {
        // With RUST_LOG set, a failing test tells its story.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        drop(tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init());
        let directory = tempfile::tempdir().unwrap();
        let log = LogKind::default();
        let mut node = Self { directory, address, bounds, timers, log, running: None };
        node.run(listener).await;
        node
    }

    pub(crate) async fn restart(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        let address = self.address;
        let listener = eventually("the port is free", async || TcpListener::bind(address).await.ok()).await;
        self.run(listener).await;
    }

    async fn run(&mut self, listener: TcpListener) {
        let options = self.options();
        let store = eventually("the directory is free", async || match Store::open(options.clone()).await {
            Ok(store) => Some(store),
            Err(OpenError::Locked { .. }) => None,
            Err(error) => panic!("{error:?}"),
        })
        .await;
        let server = tonic::transport::Server::builder().add_service(store.raft_service());
        let end = CancellationToken::new();
        let ended = end.clone().cancelled_owned();
        let serving = tokio::spawn(async move {
            server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), ended).await.unwrap();
        });
        self.running = Some((store, serving, end));
    }

    pub(crate) fn options(&self) -> StoreOptions {
        let data_dir: PathBuf = self.directory.path().join("data");
        let Self { bounds, timers, log, .. } = *self;
        StoreOptions { bounds, timers, log, ..StoreOptions::new(data_dir, self.address.to_string()) }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.running.as_ref().expect("it runs").0
    }

    pub(crate) fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Ends at once: nothing is handed over, nothing synced.
    pub(crate) async fn crash(&mut self) {
        let (store, serving, end) = self.running.take().expect("it runs");
        drop(store);
        end.cancel();
        tokio::time::timeout(PATIENCE, serving).await.expect("the server ends").unwrap();
    }

    /// Ends in order.
    pub(crate) async fn stop(&mut self) {
        self.store().stop().await;
        self.crash().await;
    }
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
}

impl Cluster {
    pub(crate) async fn start(size: usize, bounds: Bounds) -> Self {
        Self::start_with(size, bounds, Timers::default()).await
    }

    pub(crate) async fn start_with(size: usize, bounds: Bounds, timers: Timers) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..size {
            nodes.push(Node::start(bounds, timers).await);
        }
        Self::of(nodes).await
    }

    /// Makes nodes that run a cluster.
    pub(crate) async fn of(nodes: Vec<Node>) -> Self {
        let mut members = Vec::new();
        for node in &nodes {
            let node_id = node.store().claim(CLUSTER).await.unwrap();
            members.push(Member { node_id, address: node.address.to_string(), voter: true });
        }
        nodes[0].store().initialize(CLUSTER, members).await.unwrap();
        let cluster = Self { nodes };
        cluster.leader().await;
        cluster
    }

    /// The index of the node that leads and can prove it.
    pub(crate) async fn leader(&self) -> usize {
        eventually("there is a leader", async || {
            for (index, node) in self.nodes.iter().enumerate() {
                // It says so a moment after it does so.
                let says = |node: &Node| node.store().leadership().borrow().is_leader;
                if node.runs() && node.store().read_index().await.is_ok() && says(node) {
                    return Some(index);
                }
            }
            None
        })
        .await
    }

    /// Submits as a client does: to whoever leads, again with the same request id where the outcome is unknown.
    pub(crate) async fn submit(&self, request: u128, command: Command) -> Reply {
        let envelope = Envelope { request_id: Some(RequestId(request)), ..Envelope::new(UnixMillis(1), command) };
        eventually("a command runs", async || {
            let leader = self.leader().await;
            match self.nodes[leader].store().submit(envelope.clone()).await {
                Ok(reply) => Some(reply),
                Err(
                    SubmitError::NotLeader { .. }
                    | SubmitError::NoQuorum { .. }
                    | SubmitError::Unknown { .. }
                    | SubmitError::Stopped,
                ) => None,
                Err(error) => panic!("{error}"),
            }
        })
        .await
    }

    /// Waits until every running node has applied a revision, and answers their fleets.
    pub(crate) async fn agree_on(&self, revision: Revision) -> Vec<Fleet> {
        let mut fleets = Vec::new();
        for node in self.nodes.iter().filter(|node| node.runs()) {
            eventually("a node has caught up", async || {
                (node.store().view(|fleet| fleet.head().revision) >= revision).then_some(())
            })
            .await;
            fleets.push(node.store().view(Fleet::clone));
        }
        fleets
    }
}

pub(crate) fn create_cell(number: u128) -> Command {
    Command::CreateCell(NewCell {
        id: CellId::new(format!("c{number}")).unwrap(),
        gates: vec![format!("127.0.0.1:{}", 1_000 + number % 1_000)],
        agent: "127.0.0.1:9".into(),
        region: "here".into(),
        residency: String::new(),
        traits: CellTraits::default(),
    })
}

pub(crate) fn create_tenant(number: u128) -> Command {
    Command::CreateTenant(cell_model::NewTenant {
        id: TenantId::new(format!("t{number}")).unwrap(),
        cell: None,
        tier: cell_model::Tier::Bronze,
        residency: String::new(),
    })
}

pub(crate) fn envelope(command: Command) -> Envelope {
    Envelope::new(UnixMillis(1), command)
}

/// A watcher's own copy of the state, that checks what it is sent.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    pub(crate) lineage: Lineage,
    pub(crate) revision: Revision,
    pub(crate) resets: usize,
    pub(crate) fleet: Fleet,
    pub(crate) in_snapshot: bool,
}

impl Replica {
    pub(crate) fn take(&mut self, feed: Feed) {
        match feed {
            Feed::Reset { lineage, .. } => {
                self.resets += 1;
                (self.lineage, self.in_snapshot, self.fleet) = (lineage, true, Fleet::default());
            }
            Feed::Snapshot { records, .. } => {
                assert!(self.in_snapshot, "a snapshot is announced");
                records.into_iter().for_each(|record| self.fleet.install(record));
            }
            Feed::SnapshotEnd { revision, lineage } => {
                assert!(self.in_snapshot && lineage == self.lineage);
                (self.in_snapshot, self.revision) = (false, revision);
            }
            Feed::Changes(committed) => {
                assert!(!self.in_snapshot && !committed.is_empty());
                for committed in committed {
                    assert_eq!(committed.revision, self.revision.next(), "no gap and no duplicate");
                    self.revision = committed.revision;
                    committed.changes.iter().cloned().for_each(|change| self.fleet.install(change));
                }
            }
        }
    }

    /// Whether it holds the records of `fleet`.
    pub(crate) fn equals(&self, fleet: &Fleet) -> bool {
        self.revision == fleet.head().revision
            && self.fleet.records().eq(fleet.records())
            && self.fleet.head().limits == fleet.head().limits
    }
}
