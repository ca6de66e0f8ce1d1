//! One tenant at the gate: its grant, and the writes that were admitted under it.
//!
//! Admission and a change of the grant take the same short lock, so that a write is either counted before a hold
//! arrives, and then waited for, or sees the hold. A hold is quiesced exactly when the count reaches zero.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cell_model::{Epoch, Uid};
use http::HeaderValue;
use slab::Slab;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use crate::decision::{Grant, Role};
use crate::newest;
use crate::outbox::Outbox;

/// One tenant at the gate.
#[derive(Debug)]
pub(crate) struct Slot {
    state: Mutex<State>,
    changed: Notify,
    waiting: AtomicU32,
    /// The question for the newest mapping that its stale requests share.
    pub newest: newest::Shared,
    outbox: Arc<Outbox>,
}

#[derive(Debug, Default)]
struct State {
    grant: Option<Grant>,
    /// Rises with each change of the grant.
    version: u64,
    writes: Slab<Write>,
    /// The hold that waits until there are no `writes`.
    quiescing: Option<u64>,
    /// Taken out of the table: whoever still has it looks the tenant up again.
    retired: bool,
}

/// A write that is under way.
#[derive(Debug)]
struct Write {
    since: Instant,
    /// What the router calls the request.
    request_id: Option<HeaderValue>,
}

/// What a hold waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unquiesced {
    pub hold_id: u64,
    /// Writes that are under way.
    pub writes: usize,
    /// When the oldest of them was let in,
    pub since: Instant,
    /// and what the router calls it.
    pub request_id: Option<HeaderValue>,
}

/// What [`Slot::look`] found.
#[derive(Debug)]
pub(crate) enum Look<T> {
    /// The slot is in use, and the grant was this at `version`.
    Seen {
        /// What the closure said.
        value: T,
        /// Identifies the state of the grant.
        version: u64,
        /// (uid, epoch) of the grant.
        granted: Option<(Uid, Epoch)>,
        /// Counts the write, where it was admitted.
        write: Option<WriteGuard>,
    },
    /// The slot has left the table.
    Retired,
}

impl Slot {
    pub(crate) fn new(outbox: Arc<Outbox>) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            waiting: AtomicU32::new(0),
            newest: newest::Shared::default(),
            outbox,
        }
    }

    /// A panic under this lock is impossible in its few lines, and the numbers stay right even then.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes at the next change of the grant after it was enabled.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Lets `judge` look at the grant; where it returns true beside its value, a write is counted in the same step.
    pub(crate) fn look<T>(self: &Arc<Self>, judge: impl FnOnce(Option<&Grant>) -> (T, bool)) -> Look<T> {
        let mut state = self.lock();
        if state.retired {
            return Look::Retired;
        }
        let (value, counts_as_write) = judge(state.grant.as_ref());
        let write = counts_as_write.then(|| {
            let key = state.writes.insert(Write { since: Instant::now(), request_id: None });
            WriteGuard { slot: Arc::clone(self), key }
        });
        let granted = state.grant.as_ref().map(|grant| (grant.uid, grant.epoch));
        Look::Seen { value, version: state.version, granted, write }
    }

    /// Installs what the agent said, wakes who waits for it, and answers a hold that nobody delays. False where the
    /// slot has left the table.
    #[must_use]
    pub(crate) fn install(&self, grant: Option<Grant>) -> bool {
        {
            let mut state = self.lock();
            if state.retired {
                return false;
            }
            state.version += 1;
            state.quiescing = match grant.as_ref().map(|grant| &grant.role) {
                Some(Role::Holding { hold_id }) if state.writes.is_empty() => {
                    self.outbox.quiesced(*hold_id);
                    None
                }
                Some(Role::Holding { hold_id }) => Some(*hold_id),
                _ => None,
            };
            state.grant = grant;
        }
        self.changed.notify_waiters();
        true
    }

    /// Wakes everybody, though nothing has changed: the gate is closing.
    pub(crate) fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// Marks the slot as left where nothing holds on to it. `remove` runs under the lock.
    pub(crate) fn retire_if_idle(&self, remove: impl FnOnce()) {
        let mut state = self.lock();
        let idle = state.grant.is_none() && state.writes.is_empty() && self.waiting.load(Ordering::Acquire) == 0;
        if idle && !state.retired {
            state.retired = true;
            remove();
        }
    }

    /// Whether the grant is still the one of `version`.
    #[must_use]
    pub(crate) fn is_at(&self, version: u64) -> bool {
        self.lock().version == version
    }

    /// Whether the cell has no grant for the tenant.
    #[must_use]
    pub(crate) fn has_no_grant(&self) -> bool {
        self.lock().grant.is_none()
    }

    /// The number of admitted writes that have not finished.
    #[must_use]
    pub(crate) fn writes(&self) -> u64 {
        self.lock().writes.len() as u64
    }

    /// What a hold of the tenant waits for, if one does.
    #[must_use]
    pub(crate) fn unquiesced(&self) -> Option<Unquiesced> {
        let state = self.lock();
        let hold_id = state.quiescing?;
        let (_, oldest) = state.writes.iter().min_by_key(|(_, write)| write.since)?;
        let request_id = oldest.request_id.clone();
        Some(Unquiesced { hold_id, writes: state.writes.len(), since: oldest.since, request_id })
    }

    /// Takes a place among the waiting requests, if there are fewer than `most`.
    #[must_use]
    pub(crate) fn wait_place(self: &Arc<Self>, most: u32) -> Option<WaitPlace> {
        self.waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| (waiting < most).then_some(waiting + 1))
            .ok()
            .map(|_| WaitPlace { slot: Arc::clone(self) })
    }
}

/// Counts an admitted write until it is dropped.
#[derive(Debug)]
pub(crate) struct WriteGuard {
    slot: Arc<Slot>,
    key: usize,
}

impl WriteGuard {
    /// What the router calls the request, for whoever asks what a hold waits for.
    pub(crate) fn is_of(&self, request_id: &HeaderValue) {
        if let Some(write) = self.slot.lock().writes.get_mut(self.key) {
            write.request_id = Some(request_id.clone());
        }
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        let mut state = self.slot.lock();
        state.writes.remove(self.key);
        if state.writes.is_empty()
            && let Some(hold_id) = state.quiescing.take()
        {
            self.slot.outbox.quiesced(hold_id);
        }
    }
}

/// A waiting request's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct WaitPlace {
    slot: Arc<Slot>,
}

impl Drop for WaitPlace {
    fn drop(&mut self) {
        self.slot.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
