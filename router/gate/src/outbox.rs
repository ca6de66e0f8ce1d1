//! The holds whose writes have all finished and that the agent has not been told of yet; and what was turned away because it
//! came under an older epoch.
//!
//! Guards drop in code that cannot wait, so what they have to say is left here for the task that speaks to the agent.
//! It holds at most one entry for each hold of a tenant, and is emptied when a new stream to the agent begins.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use cell_model::{TenantId, Uid};
use cell_protos::v1::StaleCount;
use tokio::sync::Notify;

/// Tenants that are counted between two pings.
const STALE_MAX: usize = 1_024;

/// Messages for the agent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    quiesced: Mutex<Vec<u64>>,
    stale: Mutex<BTreeMap<(TenantId, Uid), u64>>,
    filled: Notify,
}

impl Outbox {
    /// Leaves the news that hold `hold_id` has no more writes to wait for.
    pub(crate) fn quiesced(&self, hold_id: u64) {
        let mut quiesced = self.quiesced.lock().unwrap_or_else(PoisonError::into_inner);
        if !quiesced.contains(&hold_id) {
            quiesced.push(hold_id);
        }
        drop(quiesced);
        self.filled.notify_one();
    }

    /// Takes everything out.
    #[must_use]
    pub(crate) fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.quiesced.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a request that came under an older epoch.
    pub(crate) fn stale(&self, tenant: &TenantId, uid: Uid) {
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        if stale.len() < STALE_MAX || stale.contains_key(&(tenant.clone(), uid)) {
            *stale.entry((tenant.clone(), uid)).or_default() += 1;
        }
    }

    /// Takes what was counted, for the next ping.
    pub(crate) fn take_stale(&self) -> Vec<StaleCount> {
        let taken = std::mem::take(&mut *self.stale.lock().unwrap_or_else(PoisonError::into_inner));
        let count = |((tenant, uid), rejected): ((TenantId, Uid), u64)| StaleCount {
            tenant: tenant.to_string(),
            uid: uid.get(),
            rejected,
        };
        taken.into_iter().map(count).collect()
    }

    /// Waits until something has been left. It may be taken by then.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }
}
