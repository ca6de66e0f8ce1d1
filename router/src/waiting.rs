//! Requests that wait for a tenant's entry to change: bounded per tenant and in all, woken by a change.
//!
//! A request enters, looks at the entry, and only then sleeps. A change is installed first and wakes after. Whoever
//! comes second under the lock sees the other, so that no wake-up is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cell_model::TenantId;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Who waits for which tenant.
pub(crate) struct Waiters {
    held: Mutex<Held>,
    per_tenant_max: usize,
    total_max: usize,
}

#[derive(Default)]
struct Held {
    total: usize,
    tenants: BTreeMap<TenantId, Slot>,
}

#[derive(Default)]
struct Slot {
    waiting: usize,
    changed: Arc<Notify>,
}

/// Too many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// Of this tenant.
    Tenant(usize),
    /// Of all tenants together.
    Router(usize),
}

impl Waiters {
    pub(crate) fn new(per_tenant_max: usize, total_max: usize) -> Self {
        Self { held: Mutex::default(), per_tenant_max, total_max }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place among the waiting, given back when it is dropped.
    pub(crate) fn enter<'w>(&'w self, tenant: &TenantId) -> Result<Waiting<'w>, Full> {
        let mut held = self.lock();
        if held.total >= self.total_max {
            return Err(Full::Router(self.total_max));
        }
        if held.tenants.get(tenant).map_or(0, |slot| slot.waiting) >= self.per_tenant_max {
            return Err(Full::Tenant(self.per_tenant_max));
        }
        held.total += 1;
        let slot = held.tenants.entry(tenant.clone()).or_default();
        slot.waiting += 1;
        let changed = Arc::clone(&slot.changed);
        Ok(Waiting { waiters: self, tenant: tenant.clone(), changed })
    }

    /// The entry of a tenant has changed.
    pub(crate) fn wake(&self, tenant: &TenantId) {
        let changed = self.lock().tenants.get(tenant).map(|slot| Arc::clone(&slot.changed));
        if let Some(changed) = changed {
            changed.notify_waiters();
        }
    }

    /// Any entry may have changed.
    pub(crate) fn wake_all(&self) {
        let all: Vec<Arc<Notify>> = self.lock().tenants.values().map(|slot| Arc::clone(&slot.changed)).collect();
        for changed in all {
            changed.notify_waiters();
        }
    }

    /// How many wait.
    pub(crate) fn total(&self) -> usize {
        self.lock().total
    }
}

/// A place among the waiting.
pub(crate) struct Waiting<'w> {
    waiters: &'w Waiters,
    tenant: TenantId,
    changed: Arc<Notify>,
}

impl Waiting<'_> {
    /// Done at the next change after this call. `notify_waiters` reaches every future made before it, polled or not.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut held = self.waiters.lock();
        held.total -= 1;
        if let Some(slot) = held.tenants.get_mut(&self.tenant) {
            slot.waiting -= 1;
            if slot.waiting == 0 {
                held.tenants.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(text: &str) -> TenantId {
        TenantId::new(text).unwrap()
    }

    #[test]
    fn places_are_bounded_for_one_tenant_and_for_all_and_come_back() {
        let waiters = Waiters::new(2, 3);
        let first = waiters.enter(&tenant("a")).ok().unwrap();
        let _second = waiters.enter(&tenant("a")).ok().unwrap();
        assert_eq!(waiters.enter(&tenant("a")).err(), Some(Full::Tenant(2)));
        let _other = waiters.enter(&tenant("b")).ok().unwrap();
        assert_eq!(waiters.enter(&tenant("c")).err(), Some(Full::Router(3)));
        drop(first);
        assert!(waiters.enter(&tenant("a")).is_ok());
        assert_eq!(waiters.total(), 2);
    }

    #[tokio::test]
    async fn a_change_between_entering_and_sleeping_is_not_missed() {
        let waiters = Waiters::new(2, 3);
        let waiting = waiters.enter(&tenant("a")).ok().unwrap();
        let changed = waiting.changed();
        waiters.wake(&tenant("b"));
        waiters.wake(&tenant("a"));
        changed.await;
    }
}
