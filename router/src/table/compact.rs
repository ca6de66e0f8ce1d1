//! An entry as the table keeps it: what tenants have in common is held once, so that a million of them fit.
//!
//! Written out, an entry takes about 250 bytes: two names, the owner's, and four allocations. Here the tenant's name is the
//! key alone, and owner, other cell, lineage and addresses are one shared [`Place`], of which there are as many as there are
//! cells and moves between them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use cell_model::{CellId, Epoch, Hold, Lineage, Mapping, MappingState, Rev, Revision, TenantId, Tier, Uid};

use super::{Endpoints, Entry};

/// What tenants of a cell have in common.
#[derive(Debug)]
pub(super) struct Place {
    lineage: Lineage,
    owner: CellId,
    peer: Option<CellId>,
    endpoints: Arc<Endpoints>,
}

/// One tenant, without its name.
#[derive(Debug, Clone)]
pub(super) struct Compact {
    uid: Uid,
    epoch: Epoch,
    rev: Rev,
    pub(super) revision: Revision,
    place: Arc<Place>,
    state: MappingState,
    hold: Hold,
    tier: Tier,
}

impl Compact {
    /// Whether it is newer than `other`, as [`Mapping::supersedes`] says it.
    pub(super) fn supersedes(&self, other: &Self) -> bool {
        self.order() > other.order()
    }

    fn order(&self) -> (Lineage, Uid, Epoch, Rev) {
        (self.place.lineage, self.uid, self.epoch, self.rev)
    }

    /// As everybody else knows it: `known`, where that still says the same, because another one takes two allocations.
    pub(super) fn entry_or(&self, tenant: &TenantId, known: Option<Arc<Entry>>) -> Arc<Entry> {
        known.filter(|known| self.is(tenant, known)).unwrap_or_else(|| self.entry(tenant))
    }

    fn is(&self, tenant: &TenantId, known: &Entry) -> bool {
        let (place, mapping) = (&*self.place, &known.mapping);
        let stands = |mapping: &Mapping| (mapping.uid, mapping.epoch, mapping.rev, mapping.revision);
        (self.uid, self.epoch, self.rev, self.revision) == stands(mapping)
            && (self.state, self.hold, self.tier) == (mapping.state, mapping.hold, mapping.tier)
            && Arc::ptr_eq(&place.endpoints, &known.endpoints)
            && place.lineage == mapping.lineage
            && mapping.tenant == *tenant
            && mapping.owner == place.owner
            && mapping.peer == place.peer
    }

    /// As everybody else knows it.
    pub(super) fn entry(&self, tenant: &TenantId) -> Arc<Entry> {
        let mapping = Mapping {
            lineage: self.place.lineage,
            tenant: tenant.clone(),
            uid: self.uid,
            epoch: self.epoch,
            rev: self.rev,
            revision: self.revision,
            state: self.state,
            owner: self.place.owner.clone(),
            peer: self.place.peer.clone(),
            hold: self.hold,
            tier: self.tier,
        };
        Arc::new(Entry { mapping, endpoints: Arc::clone(&self.place.endpoints) })
    }
}

/// By what a place is found again: lineage, owner, other cell, and which addresses.
type Key = (Lineage, CellId, Option<CellId>, usize);

/// Every place that some tenant is at.
#[derive(Debug, Default)]
pub(super) struct Places {
    known: HashMap<Key, Weak<Place>>,
    sweep_at: usize,
}

const SWEEP_MIN: usize = 64;

impl Places {
    /// The entry as the table keeps it.
    pub(super) fn compact(&mut self, entry: &Entry) -> Compact {
        let mapping = &entry.mapping;
        let key = (
            mapping.lineage,
            mapping.owner.clone(),
            mapping.peer.clone(),
            // A place holds its addresses, so that no others can be where they are while it is known.
            Arc::as_ptr(&entry.endpoints).addr(),
        );
        let known = self.known.get(&key).and_then(Weak::upgrade);
        let place = known.unwrap_or_else(|| {
            if self.known.len() >= self.sweep_at.max(SWEEP_MIN) {
                self.known.retain(|_, place| place.strong_count() > 0);
                self.sweep_at = self.known.len() * 2;
            }
            let place = Arc::new(Place {
                lineage: mapping.lineage,
                owner: mapping.owner.clone(),
                peer: mapping.peer.clone(),
                endpoints: Arc::clone(&entry.endpoints),
            });
            self.known.insert(key, Arc::downgrade(&place));
            place
        });
        Compact {
            uid: mapping.uid,
            epoch: mapping.epoch,
            rev: mapping.rev,
            revision: mapping.revision,
            place,
            state: mapping.state,
            hold: mapping.hold,
            tier: mapping.tier,
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }
}
