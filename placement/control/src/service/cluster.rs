//! Making and looking after the cluster itself. Answered before there is one, too.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cell_model::{ClusterId, FleetView, StoreAction};
use cell_protos::v1;
use cell_protos::v1::cluster_service_server::ClusterService;
use cell_store::{Member, Store};
use tonic::{Request, Response, Status};

use super::deeds::Deed;
use super::{Caller, Ground, now};
use crate::refusal;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct ClusterEndpoint {
    pub(crate) ground: Ground,
    pub(crate) data_dir: PathBuf,
}

impl ClusterEndpoint {
    const fn store(&self) -> &Store {
        &self.ground.store
    }

    /// A new cluster's first entry in its audit trail. It is waited for as long as an election takes, and told later where
    /// that takes longer.
    async fn tell_of_beginning(&self, members: &[Member], by: Caller) {
        const ELECTION: Duration = Duration::from_secs(3);
        let addresses: Vec<&str> = members.iter().map(|member| member.address.as_str()).collect();
        let (subject, detail) = ("store".into(), format!("members={}", addresses.join(",")));
        let (deed, ground) = (Deed { action: StoreAction::InitCluster, subject, detail, by }, self.ground.clone());
        let telling = tokio::spawn(async move {
            let knows_its_members = async {
                while ground.store.status().members.is_empty() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            // Where it never does, the node's log has what the trail has not.
            let _ = tokio::time::timeout(ELECTION, knows_its_members).await;
            deed.ended(&ground, &Ok(())).await;
        });
        let _ = tokio::time::timeout(ELECTION, telling).await;
    }
}

/// Free and total bytes where the data is; zeros where the system does not say.
fn room(data_dir: &Path) -> (u64, u64) {
    match rustix::fs::statvfs(data_dir) {
        Ok(found) => (found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)),
        Err(error) => {
            tracing::debug!(%error, "the system does not say how much room there is");
            (0, 0)
        }
    }
}

fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[tonic::async_trait]
impl ClusterService for ClusterEndpoint {
    async fn status(&self, _request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let status = self.store().status();
        let (disk_free_bytes, disk_total_bytes) = room(&self.data_dir);
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
            clock_unix_ms: now(&self.ground.link).get(),
            disk_free_bytes,
            disk_total_bytes,
            quorum_ack_ms: status.quorum_ack.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
            unreconciled: self.store().view(FleetView::unreconciled),
            certificate_not_after_unix_s: self
                .ground
                .link
                .identity()
                .map_or(0, |identity| unix_s(identity.not_after())),
        }))
    }

    async fn claim(&self, request: Request<v1::ClaimRequest>) -> Result<Response<v1::ClaimResponse>, Status> {
        let cluster = ClusterId(request.into_inner().cluster_id);
        let node_id = self.store().claim(cluster).await.map_err(|error| refusal::claim(&error))?;
        Ok(Response::new(v1::ClaimResponse { node_id }))
    }

    async fn initialize(
        &self,
        request: Request<v1::InitializeRequest>,
    ) -> Result<Response<v1::InitializeResponse>, Status> {
        let by = Caller::of(&request);
        let wire = request.into_inner();
        let member =
            |member: v1::Member| Member { node_id: member.node_id, address: member.address, voter: member.voter };
        let members: Vec<Member> = wire.members.into_iter().map(member).collect();
        let is_new = !self.store().status().initialized;
        let made = self.store().initialize(ClusterId(wire.cluster_id), members.clone()).await;
        made.map_err(|error| refusal::initialize(&error))?;
        if is_new {
            self.tell_of_beginning(&members, by).await;
        }
        Ok(Response::new(v1::InitializeResponse {}))
    }
}
