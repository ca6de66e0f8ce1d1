//! One tenant at the gate: its grant, and the writes that were admitted under it.
//!
//! Admission and a change of the grant take the same short lock, so that a write is either counted before a hold
//! arrives, and then waited for, or sees the hold. A hold is quiesced exactly when the count reaches zero.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cell_model::{Epoch, Uid};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

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
    writes: u64,
    /// The hold that waits for `writes` to reach zero.
    quiescing: Option<u64>,
    /// Taken out of the table: whoever still has it looks the tenant up again.
    retired: bool,
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
            state.writes += 1;
            WriteGuard { slot: Arc::clone(self) }
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
                Some(Role::Holding { hold_id }) if state.writes == 0 => {
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
        let idle = state.grant.is_none() && state.writes == 0 && self.waiting.load(Ordering::Acquire) == 0;
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
        self.lock().writes
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
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        let mut state = self.slot.lock();
        state.writes -= 1;
        if state.writes == 0
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
