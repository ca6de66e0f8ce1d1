//! Looking after the store: members, disk, snapshots, backups.

use cell_model::{StoreAction, StoreNote};
use cell_protos::v1;
use cell_protos::v1::change_members_request::Change;
use cell_protos::v1::store_service_server::StoreService;
use cell_store::{Backup, Honesty, MemberChange, MemberProgress, Store};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::deeds::{self, Deed};
use super::{AsOf, Caller, Ground, reconcile};
use crate::refusal;

/// Chunks of a backup that wait to be taken.
const CHUNKS_AHEAD: usize = 2;

type Answer<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct StoreEndpoint(pub(crate) Ground);

impl StoreEndpoint {
    const fn store(&self) -> &Store {
        &self.0.store
    }

    fn this_node(&self) -> String {
        format!("node/{}", self.store().advertise())
    }

    /// A node as the audit trail names it: by its address where that is known.
    fn node(&self, node_id: u64) -> String {
        let members = self.store().members();
        let known = members.into_iter().find(|member| member.node_id == node_id);
        known.map_or_else(|| format!("node/{node_id:016x}"), |member| format!("node/{}", member.address))
    }

    fn deed_of(&self, change: &MemberChange, by: Caller) -> Deed {
        let (action, subject, detail) = match change {
            MemberChange::Add { node_id, address } => {
                (StoreAction::AddMember, format!("node/{address}"), format!("node-id={node_id:016x}"))
            }
            MemberChange::Promote { node_id } => {
                (StoreAction::PromoteMember, self.node(*node_id), format!("node-id={node_id:016x}"))
            }
            MemberChange::Remove { node_id } => {
                (StoreAction::RemoveMember, self.node(*node_id), format!("node-id={node_id:016x}"))
            }
            MemberChange::Replace { node_id, by } => (
                StoreAction::ReplaceMember,
                self.node(*node_id),
                format!("node-id={node_id:016x} by={} by-id={by:016x}", self.node(*by)),
            ),
        };
        Deed { action, subject, detail, by }
    }

    fn members(&self) -> v1::ListMembersResponse {
        let millis = |ago: std::time::Duration| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        let member = |member: MemberProgress| v1::StoreMember {
            node_id: member.node_id,
            address: member.address,
            voter: member.voter,
            leader: member.leader,
            lag: member.lag,
            heard_ms: member.heard.map(millis),
        };
        v1::ListMembersResponse { members: self.store().members().into_iter().map(member).collect() }
    }
}

fn change(wire: v1::ChangeMembersRequest) -> Result<MemberChange, Status> {
    Ok(match wire.change {
        Some(Change::Add(add)) => MemberChange::Add { node_id: add.node_id, address: add.address },
        Some(Change::Promote(promote)) => MemberChange::Promote { node_id: promote.node_id },
        Some(Change::Remove(remove)) => MemberChange::Remove { node_id: remove.node_id },
        Some(Change::Replace(replace)) => MemberChange::Replace { node_id: replace.node_id, by: replace.by },
        None => return Err(refusal::malformed(&cell_protos::Malformed::new("change", "it is missing"))),
    })
}

#[tonic::async_trait]
impl StoreService for StoreEndpoint {
    type BackupStream = std::pin::Pin<Box<dyn Stream<Item = Result<v1::BackupResponse, Status>> + Send>>;

    async fn list_members(&self, request: Request<v1::ListMembersRequest>) -> Answer<v1::ListMembersResponse> {
        let as_of = match (self.0.leading(), request.into_inner().allow_stale) {
            (Ok(_), _) => AsOf::of_leader(self.store()),
            (Err(_), true) => AsOf::of(self.store()),
            (Err(elsewhere), false) => return Err(elsewhere),
        };
        Ok(as_of.answer(self.members()))
    }

    async fn change_members(&self, request: Request<v1::ChangeMembersRequest>) -> Answer<v1::ListMembersResponse> {
        let by = Caller::of(&request);
        let change = change(request.into_inner())?;
        self.0.leading()?;
        let deed = self.deed_of(&change, by);
        deed.asked(&self.0).await?;
        let changed = self.store().change_members(&change).await;
        let changed = changed.map_err(|error| refusal::membership(&error, self.0.belongs()));
        deed.ended(&self.0, &changed).await;
        changed?;
        Ok(Response::new(self.members()))
    }

    async fn move_leader(&self, request: Request<v1::MoveLeaderRequest>) -> Answer<v1::MoveLeaderResponse> {
        let by = Caller::of(&request);
        let node_id = request.into_inner().node_id;
        self.0.leading()?;
        let subject = if node_id == 0 { "node/any".into() } else { self.node(node_id) };
        let deed = Deed { action: StoreAction::MoveLeader, subject, detail: String::new(), by };
        deed.asked(&self.0).await?;
        let moved = match node_id {
            0 => self.store().transfer_leader().await,
            node_id => self.store().transfer_leader_to(node_id).await,
        };
        let leader = self.store().leadership().borrow().leader.clone();
        let moved = moved.map_err(|error| refusal::transfer(&error, leader.as_deref()));
        deed.ended(&self.0, &moved).await;
        moved?;
        Ok(Response::new(v1::MoveLeaderResponse { leader: leader.unwrap_or_default() }))
    }

    async fn disk_status(&self, _request: Request<v1::DiskStatusRequest>) -> Answer<v1::DiskStatusResponse> {
        let status = self.store().status();
        let honesty = match status.sync_path.as_ref().map(|path| path.honesty) {
            Some(Honesty::Durable) => v1::SyncHonesty::Durable,
            Some(Honesty::Volatile) => v1::SyncHonesty::Volatile,
            Some(Honesty::Lying) => v1::SyncHonesty::Lying,
            Some(Honesty::Unknown) | None => v1::SyncHonesty::Unspecified,
        };
        let (filesystem, device, median) =
            status.sync_path.map(|path| (path.filesystem, path.device, path.median)).unwrap_or_default();
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Ok(Response::new(v1::DiskStatusResponse {
            node_id: status.node_id,
            last_log_index: status.last_log_index,
            applied_index: status.applied_index,
            snapshot_index: status.snapshot_index,
            purged_index: status.purged_index,
            available_bytes: status.disk_available.unwrap_or(0),
            full: status.disk_full,
            filesystem,
            device,
            honesty: honesty.into(),
            sync_us: micros(median),
            revision: status.revision.get(),
            apply_stall_us: micros(status.pace.longest),
            snapshot_stall_us: micros(status.pace.longest_in_snapshot),
            last_snapshot_stall_us: micros(status.pace.last_in_snapshot),
            snapshots: status.pace.snapshots,
        }))
    }

    async fn take_snapshot(&self, request: Request<v1::TakeSnapshotRequest>) -> Answer<v1::TakeSnapshotResponse> {
        let by = Caller::of(&request);
        let compact = request.into_inner().compact;
        let taken = if compact { self.store().compact().await } else { self.store().snapshot().await };
        let taken = taken.map_err(|error| refusal::compact(&error));
        let action = if compact { StoreAction::Compact } else { StoreAction::Snapshot };
        let detail = taken.as_ref().map(|index| format!("entry={index}")).unwrap_or_default();
        Deed { action, subject: self.this_node(), detail, by }.ended(&self.0, &taken).await;
        Ok(Response::new(v1::TakeSnapshotResponse { index: taken? }))
    }

    async fn reconcile(&self, request: Request<v1::ReconcileRequest>) -> Answer<v1::ReconcileResponse> {
        let by = Caller::of(&request);
        let wanted = reconcile::Wanted::read(request.into_inner())?;
        reconcile::reconcile(&self.0, wanted, by.actor).await.map(Response::new)
    }

    async fn note(&self, request: Request<v1::NoteRequest>) -> Answer<v1::NoteResponse> {
        deeds::hear(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Answer<Self::BackupStream> {
        let by = Caller::of(&request);
        let allow_stale = request.into_inner().allow_stale;
        let as_of = self.0.readable(allow_stale).await?;
        let backup = self.store().backup().await.map_err(|error| refusal::backup(&error))?;
        let detail = format!("as-of={} bytes={}", backup.revision, backup.bytes);
        let deed = Deed { action: StoreAction::Backup, subject: self.this_node(), detail, by };
        match deed.done(&self.0).await {
            Err(untold) if allow_stale => deed.untold(StoreNote::DONE, &untold),
            told => told?,
        }
        let (parts, taken) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(hand_out(backup, parts));
        Ok(as_of.answer(Box::pin(ReceiverStream::new(taken))))
    }
}

/// Ends where nobody takes it any more.
async fn hand_out(mut backup: Backup, parts: mpsc::Sender<Result<v1::BackupResponse, Status>>) {
    use v1::backup_response::Part;
    let header = v1::BackupHeader { revision: backup.revision.get(), bytes: backup.bytes };
    let mut next = Ok(Part::Header(header));
    loop {
        let is_last = next.is_err();
        let part = next.map(|part| v1::BackupResponse { part: Some(part) });
        if parts.send(part).await.is_err() || is_last {
            return;
        }
        next = match backup.chunk().await {
            Ok(Some(chunk)) => Ok(Part::Chunk(chunk.into())),
            Ok(None) => return,
            Err(error) => Err(refusal::backup(&error)),
        };
    }
}
