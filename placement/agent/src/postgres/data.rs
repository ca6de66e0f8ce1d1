//! A cell's database as the application beside it sees it.

use std::sync::Arc;

use cell_gate::RequestStamp;
use cell_model::{Seq, TenantId};
use tokio::time::Instant;

use super::cell::Cell;
use super::databases::Databases;
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
/// [`TenantDatabase::committed`]. Where each tenant has a database of its own, [`TenantDatabase::name`] says which one to connect
/// to.
#[derive(Clone)]
pub struct TenantDatabase {
    whose: Whose,
}

#[derive(Clone)]
enum Whose {
    /// All tenants are in one.
    All(Arc<Cell>),
    Each(Arc<Databases>),
}

impl TenantDatabase {
    pub(crate) const fn new(cell: Arc<Cell>) -> Self {
        Self { whose: Whose::All(cell) }
    }

    pub(crate) const fn of_each(databases: Arc<Databases>) -> Self {
        Self { whose: Whose::Each(databases) }
    }

    fn cell_of(&self, tenant: &TenantId) -> Option<Arc<Cell>> {
        match &self.whose {
            Whose::All(cell) => Some(Arc::clone(cell)),
            Whose::Each(databases) => databases.cell_of(tenant),
        }
    }

    /// The database with the tenant's rows, on the server of the cell's own. None: the tenant has none here that is open, so
    /// nothing of it can be served here now.
    ///
    /// One that is to go is dropped only when nobody is connected to it: close what rests, and what is refused with `CW…`.
    #[must_use]
    pub fn name(&self, tenant: &TenantId) -> Option<String> {
        self.cell_of(tenant).map(|cell| cell.database.name.clone())
    }

    /// Waits until what the tenant has committed up to now may be answered for.
    pub async fn committed(&self, stamp: &RequestStamp) -> Committed {
        // Its database was open while this was written, and is lost: what the move has asked for is not known.
        let Some(cell) = self.cell_of(&stamp.tenant) else { return Committed::Unknown };
        let Some(tenant) = cell.get(&stamp.tenant) else { return Committed::Yes };
        let asked = || tenant.lock().control.as_ref().is_some_and(|control| control.sync);
        // Nobody waits for the other cell any more, because it owns.
        let taken_over = || tenant.lock().tail.is_some();
        if !asked() {
            return if taken_over() { Committed::Unknown } else { Committed::Yes };
        }
        let deadline = Instant::now() + cell.limits.write_confirm();
        let waited = async {
            let decoded = cell.replication.barrier(cell.limits.write_confirm()).await;
            decoded.map_err(|refusal| Fault::new("DATABASE_FAILED", refusal.reason))?;
            let standing = |captured: &super::captures::Captures| captured.standing(&tenant.id);
            // Everything committed so far is decoded: this is the tenant's last change that matters here.
            let needed = match standing(&cell.replication.captures()) {
                Some(Ok(standing)) => standing.last,
                Some(Err(_)) => Seq(u64::MAX),
                None => Seq(0),
            };
            loop {
                let mut changed = tenant.subscribe();
                let acked = match standing(&cell.replication.captures()) {
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
            Ok(Ok(())) if taken_over() => {
                tracing::warn!(tenant = %stamp.tenant, "a commit was not confirmed before the tenant was taken over by force");
                Committed::Unknown
            }
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
