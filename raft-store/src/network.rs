//! How this node calls its peers: gRPC with our own payloads, a deadline on each call, connections that come back.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cell_protos::v1::RaftMessage;
use cell_protos::v1::raft_service_client::RaftServiceClient;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::acknowledged::Acknowledged;
use crate::codec;
use crate::consensus::{LogId, Snapshot, TypeConfig, Vote};
use crate::error::EngineError;
use crate::identity::Identity;
use crate::log::Written;
use crate::pipeline;
use crate::snapshot::SnapshotData;
use crate::transfer;
use crate::wire::{
    WireAppend, WireAppended, WireLogId, WireMatched, WireSnapshotHave, WireSnapshotReply, WireTransfer,
    WireTransferReply, WireVote, WireVoteReply, WireVoteRequest,
};

/// The largest message: [`crate::consensus`] bounds the entries in it.
pub(crate) const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A follower answers an append when it has synced it, and disks have bad moments.
pub(crate) const APPEND_DEADLINE: Duration = Duration::from_secs(1);
const CONNECT_DEADLINE: Duration = Duration::from_millis(500);

/// Makes a channel to `host:port` that connects when it is used and again whenever it breaks.
pub type Dialer = Arc<dyn Fn(&str) -> Result<Channel, String> + Send + Sync>;

/// Plain TCP.
#[must_use]
pub fn tcp_dialer() -> Dialer {
    Arc::new(|address| {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
        let endpoint = endpoint
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_DEADLINE)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        Ok(endpoint.connect_lazy())
    })
}

/// Makes a [`Peer`] for each node that openraft wants to talk to.
pub(crate) struct Network {
    identity: Arc<Identity>,
    dialer: Dialer,
    /// Calls to one address share a connection.
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
    written: Written,
    acknowledged: Acknowledged,
}

impl Network {
    pub(crate) fn new(identity: Arc<Identity>, dialer: Dialer, written: Written) -> Self {
        Self { identity, dialer, channels: Arc::default(), written, acknowledged: Acknowledged::default() }
    }

    fn peer(&self, target: u64, node: &BasicNode, channel: Result<Channel, String>) -> Peer {
        let client = channel.map(|channel| {
            RaftServiceClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        });
        let (identity, written) = (Arc::clone(&self.identity), self.written.clone());
        let acknowledged = self.acknowledged.clone();
        Peer { identity, target, address: node.addr.clone(), client, written, acknowledged }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(&node.addr) {
            Some(channel) => Ok(channel.clone()),
            None => (self.dialer)(&node.addr).inspect(|channel| {
                channels.insert(node.addr.clone(), channel.clone());
            }),
        };
        drop(channels);
        self.peer(target, node, channel)
    }

    /// A snapshot gets a connection of its own: it must not keep heartbeats waiting.
    async fn new_snapshot_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        self.peer(target, node, (self.dialer)(&node.addr))
    }
}

/// One node as another calls it.
pub(crate) struct Peer {
    identity: Arc<Identity>,
    target: u64,
    address: String,
    client: Result<RaftServiceClient<Channel>, String>,
    /// How far the log of this node goes.
    pub(crate) written: Written,
    acknowledged: Acknowledged,
}

pub(crate) type Rpc<T> = Result<T, RPCError<TypeConfig>>;

impl Peer {
    pub(crate) fn unreachable(&self, reason: &str) -> RPCError<TypeConfig> {
        RPCError::Unreachable(Unreachable::from_string(format!("{}: {reason}", self.address)))
    }

    /// A message with nothing in it yet, to this node and to no other that may be found at its address.
    pub(crate) fn envelope(&self) -> Rpc<RaftMessage> {
        let cluster = self.identity.cluster().ok_or_else(|| self.unreachable("this node has no cluster yet"))?;
        Ok(RaftMessage { cluster_id: cluster.0, node_id: self.target, ..RaftMessage::default() })
    }

    pub(crate) fn message(&self, payload: &impl Serialize) -> Rpc<RaftMessage> {
        Ok(RaftMessage { payload: codec::seal(payload).into(), ..self.envelope()? })
    }

    pub(crate) fn client(&self) -> Rpc<RaftServiceClient<Channel>> {
        self.client.clone().map_err(|reason| self.unreachable(&reason))
    }

    /// Notes what it has, and says so where it has lost something of that.
    pub(crate) fn notice(&self, vote: WireVote, answer: &WireMatched) {
        match answer {
            WireMatched::UpTo(Some(up_to)) => self.acknowledged.note(self.target, vote, *up_to),
            WireMatched::Conflict(at) => {
                if let Some(acknowledged) = self.acknowledged.lost(self.target, vote, *at) {
                    tracing::error!(
                        code = "MEMBER_WENT_BACK",
                        member = format!("{:016x}", self.target),
                        address = self.address,
                        acknowledged = acknowledged.index,
                        lacks = at.index,
                        "a member has lost entries that it had on its disk: it gets them again, but may have lost votes, too"
                    );
                }
            }
            WireMatched::UpTo(None) | WireMatched::HigherVote(_) => {}
        }
    }

    /// Waits for an answer within a deadline, and reads it.
    async fn answer<T: DeserializeOwned>(
        &self,
        action: RPCTypes,
        deadline: Duration,
        call: impl Future<Output = Result<tonic::Response<RaftMessage>, tonic::Status>>,
    ) -> Rpc<T> {
        let answer = tokio::time::timeout(deadline, call).await.map_err(|_| self.timed_out(action, deadline))?;
        self.read(&answer.map_err(|status| self.refused(&status))?.into_inner())
    }

    pub(crate) fn timed_out(&self, action: RPCTypes, timeout: Duration) -> RPCError<TypeConfig> {
        RPCError::Timeout(Timeout { action, id: self.identity.node_id(), target: self.target, timeout })
    }

    pub(crate) fn refused(&self, status: &tonic::Status) -> RPCError<TypeConfig> {
        self.unreachable(&format!("{:?} {}", status.code(), status.message()))
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, message: &RaftMessage) -> Rpc<T> {
        codec::open(&message.payload, || "an answer".into()).map_err(|error| self.unreachable(&error.to_string()))
    }

    async fn ask_for_vote(
        &self,
        pre: bool,
        rpc: VoteRequest<TypeConfig>,
        deadline: Duration,
    ) -> Rpc<WireVoteReply> {
        let request = self.message(&WireVoteRequest {
            pre,
            vote: (&rpc.vote).into(),
            last: rpc.last_log_id.as_ref().map(WireLogId::from),
            transfer: rpc.leadership_transfer,
        })?;
        let mut client = self.client()?;
        self.answer(RPCTypes::Vote, deadline, client.vote(request)).await
    }

    async fn send_snapshot(&self, vote: &Vote, snapshot: &Snapshot, deadline: Duration) -> Rpc<WireSnapshotReply> {
        let failed = |error: EngineError| self.unreachable(&error.to_string());
        let name = transfer::name(&snapshot.snapshot, (&snapshot.meta).into()).await.map_err(failed)?;
        let (asked, mut client) = (self.message(&name)?, self.client()?);
        let have: WireSnapshotHave =
            self.answer(RPCTypes::InstallSnapshot, deadline, client.snapshot_progress(asked)).await?;
        if have.bytes > 0 {
            tracing::info!(target = self.target, from = have.bytes, bytes = name.bytes, "snapshot resumed");
        }
        let envelope = self.envelope()?;
        let (parts, fed) = transfer::send(snapshot.snapshot.clone(), envelope, vote.into(), name, have.bytes);
        let call = client.install_snapshot(ReceiverStream::new(parts));
        let (fed, answer) = tokio::join!(fed, self.answer(RPCTypes::InstallSnapshot, deadline, call));
        fed.map_err(failed)?;
        answer
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let is_heartbeat = rpc.entries.is_empty();
        let deadline = if is_heartbeat { option.soft_ttl() } else { option.soft_ttl().max(APPEND_DEADLINE) };
        let request = self.message(&WireAppend::from(&rpc))?;
        let mut client = self.client()?;
        let answer = self.answer(RPCTypes::AppendEntries, deadline, client.append(request)).await?;
        Ok(match answer {
            WireAppended::Success => AppendEntriesResponse::Success,
            WireAppended::Partial(last) => AppendEntriesResponse::PartialSuccess(last.map(LogId::from)),
            WireAppended::Conflict => {
                let lacked = rpc.prev_log_id.as_ref().map(WireLogId::from);
                lacked.iter().for_each(|at| self.notice((&rpc.vote).into(), &WireMatched::Conflict(*at)));
                AppendEntriesResponse::Conflict
            }
            WireAppended::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        Box::pin(pipeline::send(self, input))
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        Ok(self.ask_for_vote(false, rpc, option.soft_ttl()).await?.into())
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        Ok(self.ask_for_vote(true, rpc, option.soft_ttl()).await?.into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let reply = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            reply = self.send_snapshot(&vote, &snapshot, option.hard_ttl()) => reply?,
        };
        Ok(SnapshotResponse::new(reply.vote.into()))
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let request = self.message(&WireTransfer {
            from: rpc.from_leader().into(),
            to: *rpc.to_node_id(),
            last: rpc.last_log_id().map(WireLogId::from),
        })?;
        let mut client = self.client()?;
        let answer =
            self.answer(RPCTypes::TransferLeader, option.soft_ttl(), client.transfer_leader(request)).await?;
        Ok(match answer {
            WireTransferReply::Accepted => Ok(()),
            WireTransferReply::VoteChanged { expected, actual } => {
                Err(TransferLeaderError::VoteChanged { expected: expected.into(), actual: actual.into() })
            }
            WireTransferReply::LogNotFlushed { expected, actual } => Err(TransferLeaderError::LogNotFlushed {
                expected: expected.map(LogId::from),
                actual: actual.map(LogId::from),
            }),
        })
    }
}
