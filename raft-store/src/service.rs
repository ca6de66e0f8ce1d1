//! What peers may ask of this node. Messages of another cluster, or before this node has one, are refused.

use std::sync::{Arc, Weak};

use cell_protos::v1::RaftMessage;
use cell_protos::v1::raft_service_server::RaftService;
use futures::stream::BoxStream;
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::codec::{self, layout_of};
use crate::consensus::{LogId, Raft, Snapshot, SnapshotMeta, TypeConfig};
use crate::entropy;
use crate::identity::Identity;
use crate::level::{Level, Said};
use crate::machine::MachineShared;
use crate::pipeline;
use crate::promise::Promise;
use crate::quarters::Quarters;
use crate::space::Space;
use crate::transfer::Arrivals;
use crate::wire::{
    WireAppend, WireAppended, WireLogId, WireSnapshotHave, WireSnapshotPart, WireSnapshotReply, WireTransfer,
    WireTransferReply, WireVote, WireVoteReply, WireVoteRequest,
};

/// What the service needs of its node. The service does not keep the node alive.
#[derive(Debug)]
pub(crate) struct Node {
    pub raft: Raft,
    pub identity: Arc<Identity>,
    pub machine: Arc<MachineShared>,
    pub arrivals: Arrivals,
    pub space: Space,
    pub promise: Promise,
    pub level: Level,
    /// What its random choices follow.
    pub seed: u64,
    pub quarters: Quarters,
    pub stop: CancellationToken,
}

impl Node {
    /// Refuses where the disk is nearly full: the leader tries again, and goes on with the others.
    pub(crate) fn may_write(&self) -> Result<(), Status> {
        self.space.check().map_err(|full| Status::resource_exhausted(format!("DISK_FULL: {full}")))
    }
}

/// The receiving end of [`crate::RaftServer`].
#[derive(Debug, Clone)]
pub struct RaftEndpoint {
    node: Weak<Node>,
}

impl RaftEndpoint {
    pub(crate) const fn new(node: Weak<Node>) -> Self {
        Self { node }
    }

    /// The node, if it lives and the message is of its cluster and to it. Where the addresses of two members lead here, an answer
    /// to what is meant for the other one would count as that one's: its vote, or a copy on its disk.
    pub(crate) fn admit(&self, message: &RaftMessage) -> Result<Arc<Node>, Status> {
        let node = self.node.upgrade().ok_or_else(stopped)?;
        let (meant, node_id) = (message.node_id, node.identity.node_id());
        match node.identity.cluster() {
            // A program of before does not say to whom.
            Some(own) if own.0 == message.cluster_id && (meant == node_id || meant == 0) => Ok(node),
            Some(own) if own.0 == message.cluster_id => Err(Status::failed_precondition(format!(
                "WRONG_NODE: this is node {node_id:016x}, and the message is to {meant:016x}"
            ))),
            Some(own) => Err(Status::failed_precondition(format!(
                "WRONG_CLUSTER: this node belongs to cluster {own}, and the message to {:016x}",
                message.cluster_id
            ))),
            None => Err(Status::failed_precondition("NO_CLUSTER: this node belongs to no cluster yet")),
        }
    }
}

pub(crate) fn stopped() -> Status {
    Status::unavailable("this node has stopped")
}

pub(crate) fn read<T: DeserializeOwned>(message: &RaftMessage) -> Result<T, Status> {
    codec::open(&message.payload, || "the message".into())
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

/// An answer in the layout in which was asked: in the course of a rolling upgrade the leader may be of the version before.
/// (No answer is laid out in another way there.)
pub(crate) fn reply(node: &Node, layout: u8, payload: &impl Serialize) -> Response<RaftMessage> {
    let cluster_id = node.identity.cluster().unwrap_or_default().0;
    let payload = codec::seal_as(layout, payload).into();
    Response::new(RaftMessage { cluster_id, payload, ..RaftMessage::default() })
}

pub(crate) fn fatal(error: &Fatal<TypeConfig>) -> Status {
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
        let said = Said::now(append.commit.map_or(0, |commit| commit.index));
        let layout = layout_of(&message.payload);
        drop(message);
        if !append.entries.is_empty() {
            node.may_write()?;
        }
        let append = AppendEntriesRequest::try_from(append).map_err(Status::invalid_argument)?;
        let answer = node.raft.append_entries(append);
        let answer = match answer.await.map_err(|error| raft_error(&error))? {
            AppendEntriesResponse::Success => WireAppended::Success,
            AppendEntriesResponse::PartialSuccess(last) => {
                WireAppended::Partial(last.as_ref().map(WireLogId::from))
            }
            AppendEntriesResponse::Conflict => WireAppended::Conflict,
            AppendEntriesResponse::HigherVote(vote) => WireAppended::HigherVote((&vote).into()),
        };
        if matches!(answer, WireAppended::Success | WireAppended::Partial(_)) {
            node.level.heard(said, node.machine.pace.applied_index());
        }
        Ok(reply(&node, layout, &answer))
    }

    type AppendStreamStream = BoxStream<'static, Result<RaftMessage, Status>>;

    async fn append_stream(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let node = self.node.upgrade().ok_or_else(stopped)?;
        let (endpoint, messages) = (self.clone(), request.into_inner());
        // openraft begins a task for it.
        let receiving = || pipeline::receive(&node, endpoint, messages);
        let answers = entropy::scope(node.seed, async { node.quarters.within(receiving) });
        Ok(Response::new(answers.await))
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let message = request.into_inner();
        let node = self.admit(&message)?;
        let wire: WireVoteRequest = read(&message)?;
        if !wire.transfer {
            node.promise.check().map_err(Status::unavailable)?;
        }
        let mut rpc = VoteRequest::new(wire.vote.into(), wire.last.map(LogId::from));
        rpc.leadership_transfer = wire.transfer;
        let answer = if wire.pre { node.raft.pre_vote(rpc).await } else { node.raft.vote(rpc).await };
        let answer = answer.map_err(|error| raft_error(&error))?;
        Ok(reply(&node, layout_of(&message.payload), &WireVoteReply::from(&answer)))
    }

    async fn snapshot_progress(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let message = request.into_inner();
        let node = self.admit(&message)?;
        let bytes = node.arrivals.have(&read(&message)?);
        Ok(reply(&node, layout_of(&message.payload), &WireSnapshotHave { bytes }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<RaftMessage>, Status> {
        let mut stream = request.into_inner();
        let first = stream.message().await?.ok_or_else(|| Status::invalid_argument("no snapshot came"))?;
        let node = self.admit(&first)?;
        let WireSnapshotPart::Resume { vote, name, from } = read(&first)? else {
            return Err(Status::invalid_argument("a snapshot begins with its name"));
        };
        node.may_write()?;
        let data = node.arrivals.receive(&node.machine, first.cluster_id, &name, from, &mut stream).await?;
        let meta = SnapshotMeta::try_from(name.meta).map_err(Status::invalid_argument)?;
        let snapshot = Snapshot { meta, snapshot: data };
        let installed = node.raft.install_full_snapshot(vote.into(), snapshot).await;
        let installed = installed.map_err(|error| fatal(&error))?;
        Ok(reply(&node, layout_of(&first.payload), &WireSnapshotReply { vote: (&installed.vote).into() }))
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
        Ok(reply(&node, layout_of(&message.payload), &answer))
    }
}

#[cfg(test)]
mod tests;
