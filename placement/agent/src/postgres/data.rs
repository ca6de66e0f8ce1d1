//! A cell's database as the application beside it sees it.

use std::sync::Arc;

use cell_gate::RequestStamp;
use cell_model::Seq;
use tokio::time::Instant;

use super::cell::Cell;
use super::fault::Fault;

/// How the wait after a commit has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// The commit is as durable as the move asks: in Sync the copying cell holds it, too.
    Yes,
    /// The copying cell has not confirmed it in time. It may be lost if this cell is, so its outcome is unknown.
    Unknown,
}

/// See the module. Cheap to clone.
///
/// The application opens its transactions itself, on connections of its own, and begins each with
/// `SELECT cellway.enter(tenant, uid, epoch)`. After the commit of a write, and before it answers, it calls
/// [`TenantDatabase::committed`].
#[derive(Clone)]
pub struct TenantDatabase {
    cell: Arc<Cell>,
}

impl TenantDatabase {
    pub(crate) const fn new(cell: Arc<Cell>) -> Self {
        Self { cell }
    }

    /// Waits until what the tenant has committed up to now may be answered for.
    pub async fn committed(&self, stamp: &RequestStamp) -> Committed {
        let Some(tenant) = self.cell.get(&stamp.tenant) else { return Committed::Yes };
        let asked = || tenant.lock().control.as_ref().is_some_and(|control| control.sync);
        if !asked() {
            return Committed::Yes;
        }
        let deadline = Instant::now() + self.cell.limits.write_confirm();
        let waited = async {
            let decoded = self.cell.replication.barrier(self.cell.limits.write_confirm()).await;
            decoded.map_err(|refusal| Fault::new("DATABASE_FAILED", refusal.reason))?;
            let standing = |captured: &super::captures::Captures| captured.standing(&tenant.id);
            // Everything committed so far is decoded: this is the tenant's last change that matters here.
            let needed = match standing(&self.cell.replication.captures()) {
                Some(Ok(standing)) => standing.last,
                Some(Err(_)) => Seq(u64::MAX),
                None => Seq(0),
            };
            loop {
                let mut changed = tenant.subscribe();
                let acked = match standing(&self.cell.replication.captures()) {
                    Some(Ok(standing)) => standing.acked,
                    Some(Err(_)) => Seq(0),
                    None => Seq(u64::MAX),
                };
                if acked >= needed || !asked() {
                    return Ok::<_, Fault>(());
                }
                let _woken = changed.changed().await;
            }
        };
        match tokio::time::timeout_at(deadline, waited).await {
            Ok(Ok(())) => Committed::Yes,
            Ok(Err(fault)) => {
                tracing::warn!(tenant = %stamp.tenant, %fault, "a commit could not be confirmed");
                Committed::Unknown
            }
            Err(_) => Committed::Unknown,
        }
    }
}

impl std::fmt::Debug for TenantDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TenantDatabase").finish_non_exhaustive()
    }
}
