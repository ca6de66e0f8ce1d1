//! The store, as the coordinator sees it.

use std::future::Future;

use cell_model::{
    CellId, CellRecord, Envelope, Lineage, Reply, Revision, TenantId, TenantRecord, Term, UnixMillis,
};
use cell_trust::SignedMapping;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// This node's part in the cluster, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// Somebody else leads, or nobody.
    Follower,
    /// This node leads.
    Leader {
        /// In this term.
        term: Term,
        /// In this history.
        lineage: Lineage,
    },
}

/// What is to be looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// One tenant's record has changed.
    Tenant(TenantId),
    /// Changes were missed: everything.
    All,
}

/// Why commands have no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead any more; the commands have not run.
    #[error("this node is not the leader")]
    NotLeader,
    /// The commands may or may not have run.
    #[error("the outcome of the commands is unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
}

/// How the routers were found once none of them sends writes of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutersStood {
    /// They had seen that it is held, and had no write of it on its way.
    pub seen: u32,
    /// They were silent until their lease had run out: they send no writes by themselves.
    pub fenced: u32,
}

/// The store of this node.
pub trait ControlPlane: Send + Sync + 'static {
    /// Runs commands in this order, if possible in one entry of the log.
    fn propose(&self, commands: Vec<Envelope>) -> impl Future<Output = Result<Vec<Reply>, ProposeError>> + Send;

    /// Returns once this node has applied everything that was committed before the call and still leads.
    fn confirm(&self) -> impl Future<Output = Result<(), ProposeError>> + Send;

    /// A tenant's record, as this node has applied it.
    fn record(&self, tenant: &TenantId) -> Option<TenantRecord>;

    /// A cell's record, as this node has applied it.
    fn cell(&self, cell: &CellId) -> Option<CellRecord>;

    /// Every tenant for which something is to be done.
    fn unsettled(&self) -> Vec<TenantId>;

    /// Whether a hold of an owner without a gate that is begun now would find each router: none has fallen silent and may hold a lease
    /// still, and none holds nothing back.
    fn routers_at_hand(&self) -> bool;

    /// Returns once no router sends writes of a tenant any more that is held since `revision`, or has any on their way; at the
    /// deadline with a sentence on those that may. Only on the leader: nobody else hears of routers.
    fn routers_hold_back(
        &self,
        tenant: &TenantId,
        revision: Revision,
        deadline: Instant,
    ) -> impl Future<Output = Result<RoutersStood, String>> + Send;

    /// The record's mapping under this node's signature.
    fn sign(&self, record: &TenantRecord) -> SignedMapping;

    /// Which records change from now on. A slow reader gets [`Wake::All`] instead of what it missed.
    fn wakes(&self) -> mpsc::Receiver<Wake>;

    /// Whether this node leads.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// The wall clock, for stamps and pauses.
    fn now(&self) -> UnixMillis;
}
