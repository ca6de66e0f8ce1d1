//! What peers may ask of this node. Messages of another cluster, or before this node has one, are refused.

use std::io::Write;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cell_protos::v1::RaftMessage;
use cell_protos::v1::raft_service_server::RaftService;
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::{Request, Response, Status, Streaming};

use crate::codec;
use crate::consensus::{LogId, Raft, Snapshot, SnapshotMeta, TypeConfig};
use crate::error::EngineError;
use crate::identity::Identity;
use crate::machine::MachineShared;
use crate::offload::offload;
use crate::snapshot::{self, Incoming, SnapshotData};
use crate::wire::{
    WireAppend, WireAppended, WireEntry, WireLogId, WireSnapshotMeta, WireSnapshotPart, WireSnapshotReply,
    WireTransfer, WireTransferReply, WireVote, WireVoteReply, WireVoteRequest,
};

/// How long the next part of a snapshot may take.
const PART_DEADLINE: Duration = Duration::from_secs(10);
/// The largest snapshot that is taken.
const SNAPSHOT_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// What the service needs of its node. The service does not keep the node alive.
#[derive(Debug)]
pub(crate) struct Node {
    pub raft: Raft,
    pub identity: Arc<Identity>,
    pub machine: Arc<MachineShared>,
}

/// The receiving end of [`crate::RaftServer`].
#[derive(Debug)]
pub struct RaftEndpoint {
    node: Weak<Node>,
}

impl RaftEndpoint {
    pub(crate) const fn new(node: Weak<Node>) -> Self {
        Self { node }
    }

    /// The node, if it lives and the message is of its cluster.
    fn admit(&self, message: &RaftMessage) -> Result<Arc<Node>, Status> {
        let node = self.node.upgrade().ok_or_else(stopped)?;
        match node.identity.cluster() {
            Some(own) if own.0 == message.cluster_id => Ok(node),
            Some(own) => Err(Status::failed_precondition(format!(
                "WRONG_CLUSTER: this node belongs to cluster {own}, and the message to {:016x}",
                message.cluster_id
            ))),
            None => Err(Status::failed_precondition("NO_CLUSTER: this node belongs to no cluster yet")),
        }
    }
}

fn stopped() -> Status {
    Status::unavailable("this node has stopped")
}

fn read<T: DeserializeOwned>(message: &RaftMessage) -> Result<T, Status> {
    codec::open(&message.payload, || "the message".into())
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

fn reply(node: &Node, payload: &impl Serialize) -> Response<RaftMessage> {
    let cluster_id = node.identity.cluster().unwrap_or_default().0;
    Response::new(RaftMessage { cluster_id, payload: codec::seal(payload).into() })
}

fn fatal(error: &Fatal<TypeConfig>) -> Status {
    Status::unavailable(format!("this node has stopped: {error}"))
}

fn raft_error(error: &RaftError<TypeConfig>) -> Status {
    Status::unavailable(format!("this node has stopped: {error}"))
}

#[tonic::async_trait]
impl RaftService for RaftEndpoint {
    async fn append(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let message = request.into_inner();
        let node = self.admit(&message)?;
        let append: WireAppend = read(&message)?;
        drop(message);
        let entries = append.entries.into_iter().map(WireEntry::into_entry).collect::<Result<_, _>>();
        let answer = node.raft.append_entries(AppendEntriesRequest {
            vote: append.vote.into(),
            prev_log_id: append.previous.map(LogId::from),
            entries: entries.map_err(Status::invalid_argument)?,
            leader_commit: append.commit.map(LogId::from),
        });
        let answer = match answer.await.map_err(|error| raft_error(&error))? {
            AppendEntriesResponse::Success => WireAppended::Success,
            AppendEntriesResponse::PartialSuccess(last) => {
                WireAppended::Partial(last.as_ref().map(WireLogId::from))
            }
            AppendEntriesResponse::Conflict => WireAppended::Conflict,
            AppendEntriesResponse::HigherVote(vote) => WireAppended::HigherVote((&vote).into()),
        };
        Ok(reply(&node, &answer))
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let message = request.into_inner();
        let node = self.admit(&message)?;
        let wire: WireVoteRequest = read(&message)?;
        let mut rpc = VoteRequest::new(wire.vote.into(), wire.last.map(LogId::from));
        rpc.leadership_transfer = wire.transfer;
        let answer = if wire.pre { node.raft.pre_vote(rpc).await } else { node.raft.vote(rpc).await };
        let answer = answer.map_err(|error| raft_error(&error))?;
        Ok(reply(&node, &WireVoteReply::from(&answer)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<RaftMessage>, Status> {
        let mut stream = request.into_inner();
        let first = next_part(&mut stream).await?;
        let node = self.admit(&first)?;
        let WireSnapshotPart::Offer { vote, meta, bytes } = read(&first)? else {
            return Err(Status::invalid_argument("the first message of a snapshot is an offer"));
        };
        if bytes > SNAPSHOT_BYTES_MAX {
            return Err(Status::invalid_argument(format!("{bytes} bytes are too many for a snapshot")));
        }
        let data = receive(&node, &mut stream, bytes).await?;
        let data = check(&node, data, meta.clone()).await?;
        let meta = SnapshotMeta::try_from(meta).map_err(Status::invalid_argument)?;
        let snapshot = Snapshot { meta, snapshot: data };
        let installed = node.raft.install_full_snapshot(vote.into(), snapshot).await;
        let installed = installed.map_err(|error| fatal(&error))?;
        Ok(reply(&node, &WireSnapshotReply { vote: (&installed.vote).into() }))
    }

    async fn transfer_leader(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let message = request.into_inner();
        let node = self.admit(&message)?;
        let wire: WireTransfer = read(&message)?;
        let rpc = TransferLeaderRequest::new(wire.from.into(), wire.to, wire.last.map(LogId::from));
        let answer = node.raft.handle_transfer_leader(rpc).await.map_err(|error| fatal(&error))?;
        let answer = match answer {
            Ok(()) => WireTransferReply::Accepted,
            Err(TransferLeaderError::VoteChanged { expected, actual }) => WireTransferReply::VoteChanged {
                expected: WireVote::from(&expected),
                actual: WireVote::from(&actual),
            },
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => WireTransferReply::LogNotFlushed {
                expected: expected.as_ref().map(WireLogId::from),
                actual: actual.as_ref().map(WireLogId::from),
            },
        };
        Ok(reply(&node, &answer))
    }
}

async fn next_part(stream: &mut Streaming<RaftMessage>) -> Result<RaftMessage, Status> {
    let late = |_| Status::deadline_exceeded("the next part of the snapshot did not come");
    let part = tokio::time::timeout(PART_DEADLINE, stream.message()).await.map_err(late)??;
    part.ok_or_else(|| Status::data_loss("the snapshot was cut off"))
}

fn local(error: &EngineError) -> Status {
    Status::unavailable(error.to_string())
}

/// Takes the chunks down and compares their digest.
async fn receive(node: &Node, stream: &mut Streaming<RaftMessage>, bytes: u64) -> Result<SnapshotData, Status> {
    let mut incoming = node.machine.depot().begin().map_err(|error| local(&error))?;
    let mut hasher = blake3::Hasher::new();
    let mut received = 0;
    loop {
        let message = next_part(stream).await?;
        match read(&message)? {
            WireSnapshotPart::Chunk(chunk) => {
                received += chunk.len() as u64;
                if received > bytes {
                    return Err(Status::data_loss("the snapshot is longer than offered"));
                }
                hasher.update(&chunk);
                incoming = put(node, incoming, chunk).await?;
            }
            WireSnapshotPart::End { digest } => {
                if received != bytes || *hasher.finalize().as_bytes() != digest {
                    return Err(Status::data_loss("the snapshot did not arrive as it was sent"));
                }
                break;
            }
            WireSnapshotPart::Offer { .. } => return Err(Status::invalid_argument("a second offer")),
        }
    }
    let blocks = node.machine.depot().blocks();
    let finished = offload(blocks, "syncing a snapshot", move || incoming.finish()).await;
    finished.map_err(|error| local(&error))
}

async fn put(node: &Node, mut incoming: Incoming, chunk: Vec<u8>) -> Result<Incoming, Status> {
    let failed =
        |error: std::io::Error| EngineError::Io { operation: "writing a snapshot", reason: error.to_string() };
    let put = move || incoming.write_all(&chunk).map(|()| incoming).map_err(failed);
    offload(node.machine.depot().blocks(), "writing a snapshot", put).await.map_err(|error| local(&error))
}

/// Reads the whole snapshot before Raft hears of it: a bad one must not stop this node.
async fn check(node: &Node, data: SnapshotData, meta: WireSnapshotMeta) -> Result<SnapshotData, Status> {
    let own = node.identity.cluster();
    let checked = offload(node.machine.depot().blocks(), "checking a snapshot", move || {
        let refuse = |detail: String| EngineError::Corrupt { what: "snapshot".into(), detail };
        let contents = snapshot::read(&mut data.reader())?;
        if Some(contents.head.cluster) != own {
            return Err(refuse(format!("it is of cluster {}", contents.head.cluster)));
        }
        if (WireSnapshotMeta { last: contents.head.applied, membership: contents.head.membership }) != meta {
            return Err(refuse("it covers something else than was offered".into()));
        }
        Ok(data)
    });
    checked.await.map_err(|error| local(&error))
}
