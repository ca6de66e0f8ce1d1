//! Looking after the store: members, disks, snapshots, backups.

use std::time::Duration;

use cell_model::{CellId, StoreNote};
use cell_protos::v1::change_members_request::Change;
use cell_protos::v1::cluster_service_client::ClusterServiceClient;
use cell_protos::v1::store_service_client::StoreServiceClient;
use cell_protos::{Malformed, v1};
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use crate::channel::told;
use crate::control::Kind;
use crate::{ClientError, ControlClient, WriteOptions};

/// What writes a whole state may take so long, on a node that can be reached.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the next chunk of a backup may take.
const CHUNK_PATIENCE: Duration = Duration::from_secs(30);

type Service = StoreServiceClient<Channel>;

impl ControlClient {
    /// The same client with time for work that takes long.
    fn patient(&self) -> Self {
        let mut patient = self.clone();
        patient.options.work = Some(PATIENCE);
        patient
    }

    /// The same client, asking one node only.
    fn of_node(&self, endpoint: &str) -> Self {
        Self::new(vec![endpoint.to_owned()], self.options.clone())
    }

    /// Everybody in the cluster, and how far each one is; where stale is allowed, as some node has it.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn members(&self) -> Result<Vec<v1::StoreMember>, ClientError> {
        let call = |channel, request| async move { Service::new(channel).list_members(request).await };
        let request = v1::ListMembersRequest { allow_stale: self.options.allow_stale };
        Ok(self.call_on(Kind::Repeatable, request, call).await?.members)
    }

    /// Changes who belongs to the cluster. The same change may be asked for again.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] where it would lose the quorum, or makes no sense as things are.
    pub async fn change_members(&self, change: Change) -> Result<Vec<v1::StoreMember>, ClientError> {
        let call = |channel, request| async move { Service::new(channel).change_members(request).await };
        let request = v1::ChangeMembersRequest { change: Some(change) };
        Ok(self.call_on(Kind::Repeatable, request, call).await?.members)
    }

    /// Hands leadership to a voter; 0: to the one that is the furthest along. Answers the new leader's address.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn move_leader(&self, node_id: u64) -> Result<String, ClientError> {
        let call = |channel, request| async move { Service::new(channel).move_leader(request).await };
        Ok(self.call_on(Kind::Repeatable, v1::MoveLeaderRequest { node_id }, call).await?.leader)
    }

    /// Has a new node agree to belong to this cluster, durably and for ever. Answers its node id and the address that
    /// it is reached at.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] where it belongs to another cluster.
    pub async fn claim_node(&self, endpoint: &str) -> Result<(u64, String), ClientError> {
        let status =
            |channel, request| async move { ClusterServiceClient::<Channel>::new(channel).status(request).await };
        let cluster_id = self.call_on(Kind::Repeatable, v1::StatusRequest {}, status).await?.cluster_id;
        let node = self.of_node(endpoint);
        let found = node.call_on(Kind::Repeatable, v1::StatusRequest {}, status).await?;
        let claim =
            |channel, request| async move { ClusterServiceClient::<Channel>::new(channel).claim(request).await };
        let node_id = node.call_on(Kind::Repeatable, v1::ClaimRequest { cluster_id }, claim).await?.node_id;
        let advertised = if found.advertise.is_empty() { endpoint.to_owned() } else { found.advertise };
        Ok((node_id, advertised))
    }

    /// Disk, log and snapshot of one node.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn disk_status(&self, endpoint: &str) -> Result<v1::DiskStatusResponse, ClientError> {
        let call = |channel, request| async move { Service::new(channel).disk_status(request).await };
        self.of_node(endpoint).call_on(Kind::Repeatable, v1::DiskStatusRequest {}, call).await
    }

    /// Has one node write a snapshot, and with `compact` drop the log that it covers. Answers the newest such entry.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn take_snapshot(&self, endpoint: &str, compact: bool) -> Result<u64, ClientError> {
        let call = |channel, request| async move { Service::new(channel).take_snapshot(request).await };
        let request = v1::TakeSnapshotRequest { compact };
        Ok(self.of_node(endpoint).patient().call_on(Kind::Repeatable, request, call).await?.index)
    }

    /// After a restore: what the cells hold is held against the records; with `adopt` the highest grants are adopted.
    /// Cells in `without` need not be heard.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn reconcile(&self, adopt: bool, without: &[CellId]) -> Result<v1::ReconcileResponse, ClientError> {
        let call = |channel, request| async move { Service::new(channel).reconcile(request).await };
        let without = without.iter().map(ToString::to_string).collect();
        self.patient().call_on(Kind::Repeatable, v1::ReconcileRequest { adopt, without }, call).await
    }

    /// Tells the leader what was done to the store, and by whom. For control nodes.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn note(&self, note: &StoreNote, actor: &str) -> Result<(), ClientError> {
        let (kind, options) = self.named(WriteOptions::default());
        let call = |channel, request| async move { Service::new(channel).note(request).await };
        let StoreNote { action, subject, detail, outcome } = note.clone();
        let (actor, action) = (actor.to_owned(), action.as_str().to_owned());
        let request = v1::NoteRequest { actor, action, subject, detail, outcome, options };
        self.call_on(kind, request, call).await.map(drop)
    }

    /// Begins a backup of everything that was acknowledged before, or of what some node has where stale is allowed.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn backup(&self) -> Result<BackupReader, ClientError> {
        let call = |channel, request: Request<v1::BackupRequest>| async move {
            Service::new(channel).backup(request).await
        };
        let request = v1::BackupRequest { allow_stale: self.options.allow_stale };
        let mut stream = self.patient().call_on(Kind::Repeatable, request, call).await?;
        match next(&mut stream).await? {
            Some(v1::backup_response::Part::Header(header)) => Ok(BackupReader { header, stream, read: 0 }),
            _ => Err(Malformed::new("part", "a backup begins with its header").into()),
        }
    }
}

/// A backup on its way here.
#[derive(Debug)]
pub struct BackupReader {
    header: v1::BackupHeader,
    stream: Streaming<v1::BackupResponse>,
    read: u64,
}

impl BackupReader {
    /// As of which revision.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.header.revision
    }

    /// The next piece; none when everything has come.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] where it was cut off.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        let cut_off = |reason: String| ClientError::Unavailable { reason };
        match next(&mut self.stream).await? {
            Some(v1::backup_response::Part::Chunk(chunk)) => {
                self.read += chunk.len() as u64;
                Ok(Some(chunk.into()))
            }
            Some(v1::backup_response::Part::Header(_)) => Err(Malformed::new("part", "a second header").into()),
            None if self.read == self.header.bytes => Ok(None),
            None => Err(cut_off(format!("{} of {} bytes of the backup came", self.read, self.header.bytes))),
        }
    }
}

async fn next(
    stream: &mut Streaming<v1::BackupResponse>,
) -> Result<Option<v1::backup_response::Part>, ClientError> {
    let late = |_| ClientError::Unavailable { reason: "the next part of the backup did not come".into() };
    let message = tokio::time::timeout(CHUNK_PATIENCE, stream.message()).await.map_err(late)?;
    let message = message.map_err(|status| ClientError::Unavailable { reason: told(&status) })?;
    Ok(message.and_then(|message| message.part))
}
