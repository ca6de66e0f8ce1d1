//! A few nodes in temporary directories, each of which can be stopped and started again.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use cell_client::{ClientOptions, ControlClient, WriteOptions, cluster};
use cell_control::{Error, Handle, Options, Service, key_file};
use cell_model::{CellId, CellRecord, CellTraits, ClusterId, NewCell, NewTenant, TenantId, Tier};
use cell_trust::TrustedKeys;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

pub(crate) struct Node {
    options: Options,
    running: Option<Running>,
}

impl Node {
    pub(crate) fn handle(&self) -> &Handle {
        &self.running.as_ref().expect("the node runs").handle
    }

    pub(crate) fn endpoint(&self) -> String {
        self.options.listen.to_string()
    }

    /// What it is told at its next start.
    pub(crate) const fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    pub(crate) async fn start(&mut self) {
        let service = Service::start(self.options.clone()).await.expect("the node starts");
        let handle = service.handle();
        // From now on it listens where it was found the first time.
        self.options.listen = handle.local_addr();
        let stop = CancellationToken::new();
        let task = tokio::spawn(service.run(stop.clone()));
        self.running = Some(Running { handle, stop, task });
    }

    pub(crate) async fn stop(&mut self) {
        let Running { handle, stop, task } = self.running.take().expect("the node runs");
        drop(handle);
        stop.cancel();
        task.await.expect("no panic").expect("it stops in order");
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.handle.store().status().is_leader)
    }
}

pub(crate) struct Nodes {
    pub(crate) dir: TempDir,
    pub(crate) nodes: Vec<Node>,
}

impl Nodes {
    /// Nodes that run and belong to no cluster yet.
    pub(crate) async fn start(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        key_file::generate(&key).unwrap();
        let mut nodes = Vec::new();
        for number in 0..count {
            let options = options(dir.path().join(format!("node-{number}")), key.clone());
            let mut node = Node { options, running: None };
            node.start().await;
            nodes.push(node);
        }
        Self { dir, nodes }
    }

    /// A cluster.
    pub(crate) async fn cluster(count: usize) -> (Self, ClusterId) {
        let nodes = Self::start(count).await;
        let cluster = cluster::initialize(&nodes.endpoints()).await.expect("a cluster");
        (nodes, cluster)
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(Node::endpoint).collect()
    }

    pub(crate) fn client(&self) -> ControlClient {
        ControlClient::new(self.endpoints(), ClientOptions { deadline: PATIENCE, ..ClientOptions::default() })
    }

    /// A client that knows of one node only.
    pub(crate) fn client_of(&self, node: usize) -> ControlClient {
        let options = ClientOptions { deadline: PATIENCE, ..ClientOptions::default() };
        ControlClient::new(vec![self.nodes[node].endpoint()], options)
    }

    pub(crate) fn trusted(&self) -> TrustedKeys {
        TrustedKeys::new([self.nodes[0].handle().public_key()])
    }

    pub(crate) async fn leader(&self) -> usize {
        eventually("a node leads", || async { self.nodes.iter().position(Node::is_leader) }).await
    }
}

pub(crate) fn options(data_dir: PathBuf, signing_key_file: PathBuf) -> Options {
    let listen = "127.0.0.1:0".parse().unwrap();
    Options {
        data_dir,
        listen,
        advertise: None,
        signing_key_file,
        identity: None,
        insecure_plaintext: true,
        trusted_keys: Vec::new(),
        cluster: None,
        log_engine: Default::default(),
        read_by_majority: false,
    }
}

/// The service by whose health balancers send requests.
pub(crate) const CONTROL_SERVICE: &str = "cellway.v1.ControlService";

/// What a node says of its health.
pub(crate) async fn health(endpoint: &str, service: &str) -> Option<ServingStatus> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
    let request = HealthCheckRequest { service: service.into() };
    let answer = HealthClient::new(endpoint.connect_lazy()).check(request).await.ok()?;
    ServingStatus::try_from(answer.into_inner().status).ok()
}

/// Asks again until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn cell_id(id: &str) -> CellId {
    CellId::new(id).unwrap()
}

pub(crate) fn tenant_id(id: &str) -> TenantId {
    TenantId::new(id).unwrap()
}

pub(crate) fn new_cell(id: &str) -> NewCell {
    NewCell {
        id: cell_id(id),
        gates: vec!["127.0.0.1:8080".into()],
        // Nobody listens there: the coordinator finds nobody, and tenants stay as they were made.
        agent: "127.0.0.1:1".into(),
        region: "here".into(),
        residency: "eu".into(),
        traits: CellTraits::default(),
    }
}

pub(crate) fn new_tenant(id: &str, cell: &str) -> NewTenant {
    NewTenant { id: tenant_id(id), cell: Some(cell_id(cell)), tier: Tier::Gold, residency: "eu".into() }
}

pub(crate) async fn create_cell(client: &ControlClient, id: &str) -> CellRecord {
    client.create_cell(new_cell(id), WriteOptions::default()).await.expect("a cell")
}
