//! One node as a process: the store, its peers' service, and a front that speaks etcd's `KV`.
//!
//! A put makes the tenant that the key names: a whole command, with decision, request id, changes and remembered answer.
//! A get is a linearizable read of the tenant's record. The front adds nothing else, so that what is measured is the
//! store; the load speaks the same messages to etcd.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;

use cell_model::{
    CellTraits, Change, ClusterId, Command, Envelope, FleetView, NewCell, NewTenant, Rejected, RequestId, TenantId,
    Tier, UnixMillis,
};
use cell_protos::v1;
use cell_protos::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use cell_store::engine::LogKind;
use cell_store::{Feed, Member, ReadError, Store, StoreOptions, SubmitError};
use futures::Stream;
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::kv;
use crate::kv::kv_server::{Kv, KvServer};
use crate::kv::watch_server::{Watch, WatchServer};

/// How a node is started.
#[derive(Debug, clap::Args)]
pub(crate) struct Node {
    /// Where it keeps its data
    #[arg(long)]
    data_dir: PathBuf,
    /// Where it listens
    #[arg(long)]
    listen: SocketAddr,
    /// Bytes to keep free on the disk
    #[arg(long, default_value_t = 128 * 1024 * 1024)]
    reserve: u64,
    /// What keeps the log: segments or sled
    #[arg(long, default_value_t)]
    log: LogKind,
    /// A snapshot after so many entries
    #[arg(long)]
    snapshot_after: Option<u64>,
    /// Threads beside Raft's
    #[arg(long)]
    threads: Option<u8>,
}

impl Node {
    pub(crate) fn threads(&self) -> usize {
        self.threads.map_or_else(cell_store::worker_threads, usize::from)
    }
}

pub(crate) async fn run(node: Node) -> anyhow::Result<()> {
    let mut options = StoreOptions::new(&node.data_dir, node.listen.to_string());
    options.bounds.disk_reserve_bytes = node.reserve;
    options.log = node.log;
    if let Some(after) = node.snapshot_after {
        (options.bounds.snapshot_after, options.bounds.log_kept) = (after, after);
    }
    let store = Store::open(options).await?;
    let listener = TcpListener::bind(node.listen).await?;
    let server = tonic::transport::Server::builder()
        .add_service(store.raft_service())
        .add_service(ClusterServiceServer::new(Front(store.clone())))
        .add_service(KvServer::new(Front(store.clone())))
        .add_service(WatchServer::new(Front(store.clone())))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    let shutdown = CancellationToken::new();
    let mut told = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let stopping = shutdown.clone();
    tokio::spawn(async move {
        told.recv().await;
        stopping.cancel();
    });
    tokio::select! {
        served = server => Ok(served?),
        // Told to stop, it hands leadership over. A node whose storage has failed ends: the process with it.
        ended = store.run(shutdown) => Ok(ended?),
    }
}

#[derive(Debug, Clone)]
struct Front(Store);

type Answer<T> = Result<Response<T>, Status>;

fn name_of(key: &[u8]) -> Result<TenantId, Status> {
    let text = std::str::from_utf8(key).map_err(|error| Status::invalid_argument(error.to_string()))?;
    text.parse().map_err(|error: cell_model::InvalidId| Status::invalid_argument(error.to_string()))
}

/// The same for every try of the same key.
fn request_id(key: &[u8]) -> RequestId {
    let mut bytes = [0; 16];
    for (at, byte) in key.iter().rev().take(16).enumerate() {
        bytes[at] = *byte;
    }
    RequestId(u128::from_le_bytes(bytes))
}

impl Front {
    async fn submit(&self, key: &[u8], command: Command) -> Result<cell_model::Reply, Status> {
        let envelope = Envelope { request_id: Some(request_id(key)), ..Envelope::new(now(), command) };
        self.0.submit(envelope).await.map_err(|error| match &error {
            SubmitError::NotLeader { .. } => Status::failed_precondition(error.to_string()),
            SubmitError::DiskFull { .. } => Status::resource_exhausted(format!("DISK_FULL: {error}")),
            SubmitError::Busy { .. } => Status::resource_exhausted(error.to_string()),
            SubmitError::TooLarge { .. } => Status::invalid_argument(error.to_string()),
            SubmitError::Unknown { .. } => Status::unknown(error.to_string()),
            SubmitError::NoQuorum { .. } | SubmitError::Stopped => Status::unavailable(error.to_string()),
        })
    }

    fn header(&self, revision: u64) -> Option<kv::ResponseHeader> {
        let header = kv::ResponseHeader { member_id: self.0.node_id(), ..kv::ResponseHeader::default() };
        Some(kv::ResponseHeader { revision: i64::try_from(revision).unwrap_or(i64::MAX), ..header })
    }
}

fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[tonic::async_trait]
impl Kv for Front {
    async fn put(&self, request: Request<kv::PutRequest>) -> Answer<kv::PutResponse> {
        let key = request.into_inner().key;
        let command = if key.starts_with(b"cell-") {
            let id = std::str::from_utf8(&key).unwrap_or_default().parse();
            let id = id.map_err(|error: cell_model::InvalidId| Status::invalid_argument(error.to_string()))?;
            let (gates, agent) = (vec!["10.0.0.1:8080".to_owned()], "10.0.0.1:9090".to_owned());
            let (region, residency, traits) = (String::new(), String::new(), CellTraits::default());
            Command::CreateCell(NewCell { id, gates, agent, region, residency, traits })
        } else {
            let (id, cell) = (name_of(&key)?, "cell-1".parse().ok());
            Command::CreateTenant(NewTenant { id, cell, tier: Tier::Bronze, residency: String::new() })
        };
        let reply = self.submit(&key, command).await?;
        match reply.result {
            Ok(_) | Err(Rejected::CellExists { .. }) => {
                Ok(Response::new(kv::PutResponse { header: self.header(reply.revision.get()) }))
            }
            Err(rejected) => Err(Status::already_exists(rejected.to_string())),
        }
    }

    async fn range(&self, request: Request<kv::RangeRequest>) -> Answer<kv::RangeResponse> {
        let key = request.into_inner().key;
        let tenant = name_of(&key)?;
        let revision = self.0.read_index().await.map_err(|error| match &error {
            ReadError::NotLeader { .. } => Status::failed_precondition(error.to_string()),
            ReadError::Unavailable { .. } | ReadError::Stopped => Status::unavailable(error.to_string()),
        })?;
        let record = self.0.view(|fleet| fleet.tenant(&tenant).map(v1::Tenant::from));
        let kvs: Vec<_> = record
            .map(|record| kv::KeyValue { key, value: record.encode_to_vec().into(), ..kv::KeyValue::default() })
            .into_iter()
            .collect();
        let count = i64::from(!kvs.is_empty());
        Ok(Response::new(kv::RangeResponse { header: self.header(revision.get()), kvs, count }))
    }
}

#[tonic::async_trait]
impl Watch for Front {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<kv::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<Streaming<kv::WatchRequest>>) -> Answer<Self::WatchStream> {
        use kv::watch_request::RequestUnion::CreateRequest;
        let first = request.into_inner().message().await?.and_then(|first| first.request_union);
        let Some(CreateRequest(asked)) = first else { return Err(Status::invalid_argument("nothing to watch")) };
        let (lineage, revision) = self.0.view(|fleet| (fleet.head().lineage, fleet.head().revision));
        let after = match u64::try_from(asked.start_revision).unwrap_or(0) {
            0 => Some((lineage, revision)),
            // From the beginning: a snapshot first.
            1 => None,
            start => Some((lineage, cell_model::Revision(start - 1))),
        };
        let mut subscription = self.0.subscribe(after);
        let (frames, taken) = tokio::sync::mpsc::channel(16);
        let created =
            kv::WatchResponse { created: true, header: self.header(revision.get()), ..Default::default() };
        drop(frames.try_send(Ok(created)));
        let front = self.clone();
        tokio::spawn(async move {
            while let Ok(feed) = subscription.next().await {
                if frames.send(Ok(front.frame(feed))).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(taken))))
    }
}

impl Front {
    fn frame(&self, feed: Feed) -> kv::WatchResponse {
        let (revision, changes) = match feed {
            Feed::Reset { .. } => (0, Vec::new()),
            Feed::Snapshot { revision, records } => (revision.get(), records),
            Feed::SnapshotEnd { revision, .. } => (revision.get(), Vec::new()),
            Feed::Changes(committed) => {
                let last = committed.last().map_or(0, |last| last.revision.get());
                (last, committed.iter().flat_map(|one| one.changes.iter().cloned()).collect())
            }
        };
        let event = |change: Change| match change {
            Change::Tenant(record) => Some(kv::Event {
                kv: Some(kv::KeyValue {
                    key: record.id.as_str().as_bytes().to_vec().into(),
                    value: v1::Tenant::from(&*record).encode_to_vec().into(),
                    mod_revision: i64::try_from(record.revision.get()).unwrap_or(i64::MAX),
                    ..kv::KeyValue::default()
                }),
            }),
            Change::Cell(_) | Change::MoveEnded(_) | Change::Limits(_) | Change::Reconciled(_) => None,
        };
        let events = changes.into_iter().filter_map(event).collect();
        kv::WatchResponse { header: self.header(revision), events, ..kv::WatchResponse::default() }
    }
}

#[tonic::async_trait]
impl ClusterService for Front {
    async fn status(&self, _request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let status = self.0.status();
        let member =
            |member: Member| v1::Member { node_id: member.node_id, address: member.address, voter: member.voter };
        Ok(Response::new(v1::StatusResponse {
            node_id: status.node_id,
            cluster_id: status.cluster.unwrap_or_default().0,
            initialized: status.initialized,
            term: status.term.get(),
            leader: status.leader.unwrap_or_default(),
            is_leader: status.is_leader,
            revision: status.revision.get(),
            lineage: status.lineage.get(),
            last_log_index: status.last_log_index,
            applied_index: status.applied_index,
            members: status.members.into_iter().map(member).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            advertise: status.advertise,
            // Of the machine and of certificates nothing is measured here.
            ..v1::StatusResponse::default()
        }))
    }

    async fn claim(&self, request: Request<v1::ClaimRequest>) -> Answer<v1::ClaimResponse> {
        let claimed = self.0.claim(ClusterId(request.into_inner().cluster_id)).await;
        let node_id = claimed.map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(v1::ClaimResponse { node_id }))
    }

    async fn initialize(&self, request: Request<v1::InitializeRequest>) -> Answer<v1::InitializeResponse> {
        let wire = request.into_inner();
        let member =
            |member: v1::Member| Member { node_id: member.node_id, address: member.address, voter: member.voter };
        let members = wire.members.into_iter().map(member).collect();
        let made = self.0.initialize(ClusterId(wire.cluster_id), members).await;
        made.map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(v1::InitializeResponse {}))
    }
}
