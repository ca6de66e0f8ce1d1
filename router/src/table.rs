//! tenant → owner, as this router believes it: looked up by every request, changed one tenant at a time.
//!
//! Two ways of change, because cloning a map to change one tenant costs 177 ms at a million tenants:
//! * one tenant in place, in a lock-free map ([`Table::install`]);
//! * everything at once: a snapshot is built beside, block by block as it comes in ([`Draft`]), and exchanged as a whole
//!   *image* ([`Table::replace`]). Kept until its end as it comes, it would take three times the room, and the allocator
//!   would hold on to that for long after.
//!
//! Neither ever takes a tenant back to an older owner: [`Mapping::supersedes`] decides each entry. What is learned
//! from a gate while an image is being built stands in the one before, and what while they are exchanged is remembered:
//! both are carried into the new one.

mod compact;

use std::sync::Arc;

use arc_swap::ArcSwap;
use cell_model::{Mapping, Revision, TenantId};
use foldhash::fast::RandomState;
use papaya::{Compute, HashMap, Operation};

use self::compact::{Compact, Places};
use crate::atomics::{Mutex, MutexGuard, PoisonError, Steps};
use crate::instance::set::InstanceSet;

/// Where an owner is to be reached. Shared by all of its tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// The application's instances, each behind a gate.
    pub(crate) gates: Arc<InstanceSet>,
    /// `host:port` of its agent.
    pub(crate) agent: String,
}

/// What the router knows of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Who owns it, at which epoch.
    pub(crate) mapping: Mapping,
    /// Where the owner was to be reached when the mapping was signed.
    pub(crate) endpoints: Arc<Endpoints>,
}

/// What is done with entries, some at a time.
pub(crate) type Each<'e> = dyn FnMut(&[Arc<Entry>]) -> std::io::Result<()> + 'e;

/// All mappings that a router holds.
pub(crate) trait Table: Send + Sync + 'static {
    /// The entry of a tenant: `known`, where that is it.
    fn find(&self, tenant: &TenantId, known: Option<Arc<Entry>>) -> Option<Arc<Entry>>;
    /// Takes the entry if it supersedes what is held. Whether it was taken.
    fn install(&self, entry: Arc<Entry>) -> bool;
    /// Puts entries into an image that is not in use yet.
    fn add(&self, draft: &mut Draft, entries: &[Arc<Entry>]);
    /// Takes everything that the control plane had at a revision in place of what is held. What is held and newer
    /// than that stays.
    fn replace(&self, draft: Draft, at: Revision);
    /// Forgets everything: it was another cluster's.
    fn clear(&self);
    /// Everything that is held, in no particular order, so many at a time, until somebody has enough.
    fn blocks(&self, at_once: usize, each: &mut Each<'_>) -> std::io::Result<()>;
    /// How many tenants are held.
    fn count(&self) -> usize;
}

/// Hashed with a key of each image's own, quickly: names are looked up for each request, and only what an operator has placed is
/// ever put in.
type Image = HashMap<TenantId, Compact, RandomState>;

/// Everything that the control plane has at a revision, as far as it has come in.
#[derive(Default)]
pub(crate) struct Draft(Image);

impl Draft {
    /// How many tenants have come in.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// The table on a concurrent map.
#[derive(Default)]
pub(crate) struct ConcurrentTable {
    image: ArcSwap<Image>,
    /// Held by whoever changes an entry, for as long as that takes; never by a lookup. While an image is being exchanged
    /// it collects what is installed meanwhile.
    installing: Mutex<Installing>,
    steps: Steps,
}

#[derive(Default)]
struct Installing {
    places: Places,
    /// What was installed while an image is being exchanged.
    meanwhile: Option<Vec<(TenantId, Compact)>>,
}

impl ConcurrentTable {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Installing> {
        self.installing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entries of an image that are put into it under one lock.
const PUT_AT_ONCE: usize = 256;

/// Puts `entry` into `image` if it supersedes what is there.
fn put(image: &Image, tenant: &TenantId, entry: &Compact) -> bool {
    let image = image.pin();
    let outcome = image.compute(tenant.clone(), |held| match held {
        Some((_, held)) if !entry.supersedes(held) => Operation::Abort(()),
        _ => Operation::Insert(entry.clone()),
    });
    !matches!(outcome, Compute::Aborted(()))
}

impl Table for ConcurrentTable {
    fn find(&self, tenant: &TenantId, known: Option<Arc<Entry>>) -> Option<Arc<Entry>> {
        self.steps.between();
        self.image.load().pin().get(tenant).map(|held| held.entry_or(tenant, known))
    }

    fn install(&self, entry: Arc<Entry>) -> bool {
        let mut installing = self.lock();
        let compact = installing.places.compact(&entry);
        let tenant = &entry.mapping.tenant;
        self.steps.between();
        let taken = put(&self.image.load(), tenant, &compact);
        if taken && let Some(meanwhile) = installing.meanwhile.as_mut() {
            meanwhile.push((tenant.clone(), compact));
        }
        taken
    }

    fn add(&self, draft: &mut Draft, entries: &[Arc<Entry>]) {
        for block in entries.chunks(PUT_AT_ONCE) {
            // Not for all at once: whoever installs a change meanwhile waits for this lock.
            let mut installing = self.lock();
            for entry in block {
                put(&draft.0, &entry.mapping.tenant, &installing.places.compact(entry));
            }
        }
    }

    fn replace(&self, draft: Draft, at: Revision) {
        self.lock().meanwhile = Some(Vec::new());
        let next = draft.0;
        let held = self.image.load_full();
        for (tenant, entry) in &held.pin() {
            self.steps.between();
            let known = next.pin().contains_key(tenant);
            if known || entry.revision > at {
                put(&next, tenant, entry);
            }
        }
        let mut installing = self.lock();
        self.steps.between();
        for (tenant, entry) in installing.meanwhile.take().into_iter().flatten() {
            put(&next, &tenant, &entry);
        }
        self.steps.between();
        self.image.store(Arc::new(next));
    }

    fn clear(&self) {
        let mut installing = self.lock();
        if let Some(meanwhile) = installing.meanwhile.as_mut() {
            meanwhile.clear();
        }
        self.image.store(Arc::default());
    }

    fn blocks(&self, at_once: usize, each: &mut Each<'_>) -> std::io::Result<()> {
        let image = self.image.load_full();
        let image = image.pin();
        let mut entries = image.iter().map(|(tenant, held)| held.entry(tenant));
        loop {
            let block: Vec<_> = entries.by_ref().take(at_once).collect();
            if block.is_empty() {
                return Ok(());
            }
            each(&block)?;
        }
    }

    fn count(&self) -> usize {
        self.image.load().len()
    }
}

#[cfg(test)]
mod tests;
