//! Cells without a gate: nobody there refuses a request that came too late, so routers hold back what gates would.
//!
//! | the table says | fresh | stale |
//! |---|---|---|
//! | nothing is held | go there | a write waits until the table is fresh; a read goes there for a quarter of an hour |
//! | held | wait | wait |
//!
//! A hold is done here once the table has it and no write is on its way that was sent before. Both are told with the ping:
//!
//! ```text
//! request   counted as on its way ──► looks at the table again ──► sent, unless it is held by now ──► answered
//! ping      what the table has ─────► who is on its way ──► told
//! ```
//! Whoever is counted later than the ping has looked sees what the ping has told of. What writes all the same, past a router or
//! after a pause of its whole process, is the cell's database to refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use cell_model::{CellId, Hold, Mapping, RouterVerdict as Verdict, TableAge, TenantId};
use tokio::time::Instant;

use crate::context::{RequestCtx, Worker};
use crate::directory::{Cells, Directory};
use crate::refusal::{Code, Refusal};
use crate::table::Entry;

/// Up to such an age a table may say where to read, though the tenant may have moved meanwhile.
const READS_STALE_MAX: Duration = Duration::from_secs(15 * 60);
/// Tenants that are named to the control plane as on their way: more than move at once.
const NAMED_MAX: usize = 1_024;

/// Which cells have no gate, and whose writes are on their way there.
#[derive(Default)]
pub(crate) struct Ungated {
    /// Most fleets have none, and nobody is to look for one then.
    any: AtomicBool,
    cells: ArcSwap<BTreeSet<CellId>>,
    sending: Mutex<BTreeMap<TenantId, usize>>,
}

/// Whose writes are on their way, as the control plane is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnTheirWay {
    /// Of these tenants that are held,
    pub tenants: Vec<TenantId>,
    /// and of more than are named.
    pub more: bool,
}

impl Ungated {
    pub(crate) fn set(&self, cells: &Cells) {
        let without: BTreeSet<CellId> =
            cells.values().filter(|cell| cell.traits.ungated).map(|cell| cell.id.clone()).collect();
        let any = !without.is_empty();
        self.cells.store(Arc::new(without));
        self.any.store(any, Ordering::Release);
    }

    pub(crate) fn has(&self, cell: &CellId) -> bool {
        self.any.load(Ordering::Acquire) && self.cells.load().contains(cell)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TenantId, usize>> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tenants of which writes are on their way, as far as `is_held` says that anybody waits for them.
    pub(crate) fn on_their_way(&self, is_held: impl Fn(&TenantId) -> bool) -> OnTheirWay {
        if !self.any.load(Ordering::Acquire) && self.lock().is_empty() {
            return OnTheirWay::default();
        }
        let sending: Vec<TenantId> = self.lock().keys().cloned().collect();
        let mut held = sending.into_iter().filter(is_held);
        let tenants = held.by_ref().take(NAMED_MAX).collect();
        OnTheirWay { tenants, more: held.next().is_some() }
    }
}

/// A write on its way to a cell without a gate, for as long as this is kept.
pub(crate) struct Sending {
    directory: Arc<Directory>,
    tenant: TenantId,
}

impl Sending {
    fn new(directory: &Arc<Directory>, tenant: &TenantId) -> Self {
        *directory.ungated.lock().entry(tenant.clone()).or_default() += 1;
        Self { directory: Arc::clone(directory), tenant: tenant.clone() }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let directory = &self.directory;
        let was_last = {
            let mut sending = directory.ungated.lock();
            let left = sending.get_mut(&self.tenant).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left == 0 {
                sending.remove(&self.tenant);
            }
            left == 0
        };
        if was_last && directory.find(&self.tenant).is_some_and(|entry| entry.mapping.hold != Hold::None) {
            // Somebody waits to hear of it.
            directory.freshness.want();
        }
    }
}

/// How old the table is.
#[derive(Debug, Clone, Copy)]
struct Age {
    fresh: bool,
    staleness: Option<Duration>,
}

impl Age {
    fn of_table(self) -> TableAge {
        match self.staleness {
            _ if self.fresh => TableAge::Fresh,
            Some(age) if age <= READS_STALE_MAX => TableAge::Aging,
            _ => TableAge::Old,
        }
    }
}

/// What a request does by an entry now.
pub(crate) fn verdict(directory: &Directory, entry: &Entry, is_write: bool, now: Instant) -> Verdict {
    let ungated = directory.ungated.has(&entry.mapping.owner);
    if !ungated && !entry.mapping.must_wait(is_write) {
        return Verdict::Go;
    }
    // No hold waits for a router without a lease, however fresh its table is.
    let fresh = directory.is_fresh(now) && (!ungated || directory.has_lease());
    let age = Age { fresh, staleness: directory.freshness.staleness(now) };
    entry.mapping.verdict(ungated, is_write, age.of_table())
}

/// Whether a request may be sent by an entry that it was resolved to a while ago. To a cell without a gate it counts as on its
/// way from here on.
pub(crate) fn may_go(worker: &Worker, ctx: &mut RequestCtx, entry: &Entry) -> bool {
    ctx.sending = None;
    let directory = &worker.directory;
    if !directory.ungated.has(&entry.mapping.owner) {
        return true;
    }
    // First counted, then looked: see above.
    let sending = ctx.is_write.then(|| Box::new(Sending::new(directory, &entry.mapping.tenant)));
    let now = directory.find(&entry.mapping.tenant);
    let same = now.is_some_and(|now| {
        now.mapping.fencing() == entry.mapping.fencing()
            && now.mapping.owner == entry.mapping.owner
            && verdict(directory, &now, ctx.is_write, Instant::now()) == Verdict::Go
    });
    if same {
        ctx.sending = sending;
    }
    same
}

/// Nobody confirms the table, and without that a write may come to a cell that is not the tenant's any more.
pub(crate) fn stale(directory: &Directory, entry: &Entry, now: Instant) -> Refusal {
    let Mapping { tenant, owner, .. } = &entry.mapping;
    let why = if directory.is_fresh(now) && !directory.has_lease() {
        "the control plane grants this router no lease: it knows as many as it can count"
    } else {
        "this router has not heard from the control plane lately"
    };
    let detail = format!("cell {owner} of tenant {tenant} has no gate, and {why}: the tenant may have moved");
    Refusal::new(Code::TableStale, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::tests::mapping;

    #[test]
    fn where_no_gate_is_a_hold_is_believed_at_any_age_and_a_write_goes_only_by_a_fresh_table() {
        use Verdict::{Go, Held, Stale};
        let of = |hold, ungated, is_write, staleness: Option<u64>| {
            let staleness = staleness.map(Duration::from_secs);
            let fresh = staleness.is_some_and(|age| age <= Duration::from_secs(1));
            Mapping { hold, ..mapping() }.verdict(ungated, is_write, Age { fresh, staleness }.of_table())
        };
        for (hold, age, write, read) in [
            (Hold::None, Some(1), Go, Go),
            (Hold::None, Some(2), Stale, Go),
            (Hold::None, Some(900), Stale, Go),
            (Hold::None, Some(901), Stale, Stale),
            (Hold::None, None, Stale, Stale),
            (Hold::Writes, Some(1), Held, Go),
            (Hold::Writes, Some(2), Held, Go),
            (Hold::All, Some(1), Held, Held),
            (Hold::All, Some(901), Held, Held),
            (Hold::All, None, Held, Held),
        ] {
            assert_eq!([of(hold, true, true, age), of(hold, true, false, age)], [write, read], "{hold:?} {age:?}");
        }
        // The cell's gate decides where the table is not fresh.
        assert_eq!([of(Hold::All, false, true, Some(1)), of(Hold::All, false, true, Some(2))], [Held, Go]);
        assert_eq!([of(Hold::None, false, true, None), of(Hold::Writes, false, false, Some(1))], [Go, Go]);
    }
}
