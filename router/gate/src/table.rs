//! Every tenant that the gate knows of, in a lock-free map.
//!
//! A tenant is in the table as long as the cell has a grant for it, and while a request waits for one to come.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use cell_model::TenantId;
use cell_protos::v1 as proto;
use http::HeaderValue;

use crate::decision::{Grant, Role};
use crate::outbox::Outbox;
use crate::slot::{Slot, Unquiesced};

/// Holds of which the agent is told at once what they wait for.
const UNQUIESCED_MAX: usize = 1_024;
/// Letters of a request's id that are told.
const REQUEST_ID_MAX: usize = 128;

/// A request's id as it is told: nothing where it has none that could be read.
fn named(request_id: Option<&HeaderValue>) -> String {
    let text = request_id.and_then(|id| id.to_str().ok()).unwrap_or_default();
    text.chars().take(REQUEST_ID_MAX).collect()
}

impl Unquiesced {
    fn to_wire(&self) -> proto::UnquiescedHold {
        proto::UnquiescedHold {
            hold_id: self.hold_id,
            writes: u32::try_from(self.writes).unwrap_or(u32::MAX),
            oldest_ms: u32::try_from(self.since.elapsed().as_millis()).unwrap_or(u32::MAX),
            request_id: named(self.request_id.as_ref()),
        }
    }
}

/// The grants of one cell, as one gate knows them.
#[derive(Debug, Default)]
pub(crate) struct GrantTable {
    slots: papaya::HashMap<TenantId, Arc<Slot>>,
    outbox: Arc<Outbox>,
    /// Tenants whose grant is gone while writes were still running: looked at again by [`Self::sweep`].
    leaving: Mutex<BTreeSet<TenantId>>,
    /// Tenants with a hold that had to wait for writes: those that it waits for still are told of by [`Self::unquiesced`].
    holding: Mutex<BTreeSet<TenantId>>,
}

impl GrantTable {
    /// The messages for the agent that changes of grants and finished writes produce.
    #[must_use]
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The slot of a tenant that is in the table.
    #[must_use]
    pub(crate) fn get(&self, tenant: &TenantId) -> Option<Arc<Slot>> {
        self.slots.pin().get(tenant).map(Arc::clone)
    }

    /// The slot of a tenant; an empty one is made where there is none.
    #[must_use]
    pub(crate) fn slot(&self, tenant: &TenantId) -> Arc<Slot> {
        let slots = self.slots.pin();
        if let Some(slot) = slots.get(tenant) {
            return Arc::clone(slot);
        }
        let made = || Arc::new(Slot::new(Arc::clone(&self.outbox)));
        Arc::clone(slots.get_or_insert_with(tenant.clone(), made))
    }

    /// Installs one grant, or its absence.
    pub(crate) fn install(&self, tenant: &TenantId, grant: Option<Grant>) {
        let gone = grant.is_none();
        let holds = grant.as_ref().and_then(|grant| match grant.role {
            Role::Holding { hold_id } => Some(hold_id),
            _ => None,
        });
        self.note_missed(tenant, holds);
        while !self.slot(tenant).install(grant.clone()) {}
        if holds.is_some() {
            self.holding.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant.clone());
        }
        if gone {
            self.release(tenant);
        }
    }

    /// Installs everything there is: what is not among it is gone.
    pub(crate) fn install_all(&self, grants: Vec<(TenantId, Grant)>) {
        // What was to be said on the stream before is said again, where it still holds, by installing.
        drop(self.outbox.take());
        let named: HashSet<&TenantId> = grants.iter().map(|(tenant, _)| tenant).collect();
        let mut gone: Vec<TenantId> =
            self.slots.pin().keys().filter(|tenant| !named.contains(tenant)).cloned().collect();
        // Whoever waits is woken in this order, which is to be the same in each run of a simulation.
        gone.sort_unstable();
        for tenant in &gone {
            self.install(tenant, None);
        }
        for (tenant, grant) in grants {
            self.install(&tenant, Some(grant));
        }
    }

    /// Forgets a tenant without a grant, now or when nothing holds on to it any more.
    pub(crate) fn release(&self, tenant: &TenantId) {
        let slots = self.slots.pin();
        let Some(slot) = slots.get(tenant) else { return };
        slot.retire_if_idle(|| {
            slots.remove(tenant);
        });
        if slots.contains_key(tenant) {
            self.leaving.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant.clone());
        }
    }

    /// What holds wait for at this moment, for the agent.
    #[must_use]
    pub(crate) fn unquiesced(&self) -> Vec<proto::UnquiescedHold> {
        let mut holding = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = Vec::new();
        holding.retain(|tenant| {
            let found = self.get(tenant).and_then(|slot| slot.unquiesced());
            if let Some(found) = &found
                && told.len() < UNQUIESCED_MAX
            {
                told.push(found.to_wire());
            }
            found.is_some()
        });
        told
    }

    /// A hold that has not quiesced is over: whoever looks for the reason finds it here.
    fn note_missed(&self, tenant: &TenantId, holds: Option<u64>) {
        let waited = self.get(tenant).and_then(|slot| slot.unquiesced());
        if let Some(waited) = waited.filter(|waited| holds != Some(waited.hold_id)) {
            let Unquiesced { hold_id, writes, since, request_id } = waited;
            let (oldest_ms, request_id) = (since.elapsed().as_millis(), named(request_id.as_ref()));
            tracing::warn!(%tenant, hold_id, writes, oldest_ms, request_id, "a hold has ended while writes were under way");
        }
    }

    /// Looks again at tenants that could not be forgotten yet.
    pub(crate) fn sweep(&self) {
        let leaving = std::mem::take(&mut *self.leaving.lock().unwrap_or_else(PoisonError::into_inner));
        for tenant in &leaving {
            if self.get(tenant).is_some_and(|slot| slot.has_no_grant()) {
                self.release(tenant);
            }
        }
    }

    /// Lets every waiting request look again.
    pub(crate) fn wake_all(&self) {
        let slots = self.slots.pin();
        let mut waiting: Vec<_> = slots.iter().collect();
        waiting.sort_unstable_by_key(|(tenant, _)| *tenant);
        waiting.into_iter().for_each(|(_, slot)| slot.wake());
    }

    /// The number of tenants known.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no tenant is known.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The number of admitted writes that have not finished.
    #[must_use]
    pub(crate) fn writes(&self) -> u64 {
        self.slots.pin().values().map(|slot| slot.writes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use cell_model::{Epoch, Uid};

    use super::*;
    use crate::slot::Look;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn grant(role: Role) -> Grant {
        Grant { uid: Uid(1), epoch: Epoch(1), role }
    }

    fn admit_write(table: &GrantTable, of: &TenantId) -> crate::slot::WriteGuard {
        match table.slot(of).look(|_| ((), true)) {
            Look::Seen { write, .. } => write.unwrap(),
            Look::Retired => panic!("the slot is in use"),
        }
    }

    #[test]
    fn a_hold_without_writes_is_quiesced_at_once() {
        let table = GrantTable::default();
        table.install(&tenant("t"), Some(grant(Role::Holding { hold_id: 9 })));
        assert_eq!(table.outbox().take(), [9]);
    }

    #[test]
    fn a_hold_is_quiesced_with_the_last_of_the_earlier_writes() {
        let table = GrantTable::default();
        let t = tenant("t");
        table.install(&t, Some(grant(Role::Owner)));
        let (first, second) = (admit_write(&table, &t), admit_write(&table, &t));
        table.install(&t, Some(grant(Role::Holding { hold_id: 9 })));
        drop(second);
        assert!(table.outbox().take().is_empty(), "one write is still running");
        drop(first);
        assert_eq!(table.outbox().take(), [9]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_hold_waits_for_is_told_by_its_oldest_write_for_as_long_as_it_waits() {
        let table = GrantTable::default();
        let t = tenant("t");
        table.install(&t, Some(grant(Role::Owner)));
        let mut writes = Vec::new();
        for id in ["r-1", "r-2", "r-3"] {
            let write = admit_write(&table, &t);
            write.is_of(&HeaderValue::from_static(id));
            writes.push(write);
            tokio::time::advance(std::time::Duration::from_secs(1)).await;
        }
        assert_eq!(table.unquiesced(), [], "nobody waits for them");
        table.install(&t, Some(grant(Role::Holding { hold_id: 9 })));
        let told = |writes, oldest_ms, request_id: &str| proto::UnquiescedHold {
            hold_id: 9,
            writes,
            oldest_ms,
            request_id: request_id.into(),
        };
        assert_eq!(table.unquiesced(), [told(3, 3_000, "r-1")]);
        drop(writes.remove(0));
        assert_eq!(table.unquiesced(), [told(2, 2_000, "r-2")]);
        table.install(&t, Some(grant(Role::Owner)));
        assert_eq!(table.unquiesced(), [], "the hold is over");
        table.install(&t, Some(grant(Role::Holding { hold_id: 10 })));
        drop(writes);
        assert_eq!((table.unquiesced(), table.outbox().take()), (vec![], vec![10]));
    }

    #[test]
    fn a_hold_that_lapsed_is_not_reported_later() {
        let table = GrantTable::default();
        let t = tenant("t");
        table.install(&t, Some(grant(Role::Owner)));
        let write = admit_write(&table, &t);
        table.install(&t, Some(grant(Role::Holding { hold_id: 9 })));
        table.install(&t, Some(grant(Role::Owner)));
        drop(write);
        assert!(table.outbox().take().is_empty());
    }

    #[test]
    fn a_new_stream_hears_of_a_hold_again() {
        let table = GrantTable::default();
        let t = tenant("t");
        let holding = || grant(Role::Holding { hold_id: 9 });
        table.install(&t, Some(holding()));
        table.install_all(vec![(t.clone(), holding())]);
        assert_eq!(table.outbox().take(), [9]);
        assert!(table.outbox().take().is_empty());
    }

    #[test]
    fn what_is_not_among_all_grants_is_gone_but_its_writes_are_still_counted() {
        let table = GrantTable::default();
        let (kept, gone) = (tenant("kept"), tenant("gone"));
        for t in [&kept, &gone] {
            table.install(t, Some(grant(Role::Owner)));
        }
        let write = admit_write(&table, &gone);
        table.install_all(vec![(kept.clone(), grant(Role::Owner))]);
        assert_eq!((table.len(), table.writes()), (2, 1));

        table.install(&gone, Some(grant(Role::Holding { hold_id: 4 })));
        assert!(table.outbox().take().is_empty(), "the write from before still counts");
        drop(write);
        assert_eq!(table.outbox().take(), [4]);
        table.install(&gone, None);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_sweep_forgets_a_tenant_when_its_last_write_has_finished() {
        let table = GrantTable::default();
        let t = tenant("t");
        table.install(&t, Some(grant(Role::Owner)));
        let write = admit_write(&table, &t);
        table.install(&t, None);
        table.sweep();
        assert_eq!(table.len(), 1);
        drop(write);
        table.sweep();
        assert!(table.is_empty());
    }

    #[test]
    fn a_slot_that_has_left_the_table_admits_nothing() {
        let table = GrantTable::default();
        let t = tenant("t");
        let orphan = table.slot(&t);
        table.release(&t);
        assert!(table.is_empty());
        assert!(matches!(orphan.look(|_| ((), true)), Look::Retired));
        assert!(!orphan.install(Some(grant(Role::Owner))));
        table.install(&t, Some(grant(Role::Owner)));
        assert_eq!(table.len(), 1);
    }
}
