//! Letting requests in: the decision on the grant, again and again until it says yes or no or the time is up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use cell_model::TenantId;
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::decision::{Grant, Otherwise, Verdict, decide};
use crate::lease::Lease;
use crate::newest::{Asker, Redirect};
use crate::slot::{Look, Slot, WaitPlace, WriteGuard};
use crate::stamp::RequestStamp;
use crate::table::GrantTable;
use crate::wire::Code;

/// How often a tunnel looks whether the gate still has its lease.
const LEASE_LOOK: Duration = Duration::from_millis(200);

/// How long and how many requests may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct WaitLimits {
    /// The longest that a request waits for a grant to change, in milliseconds.
    pub wait_ms: u64,
    /// Waiting requests of one tenant.
    pub waiting_per_tenant: u32,
    /// Waiting requests of all tenants.
    pub waiting_total: u32,
}

impl Default for WaitLimits {
    fn default() -> Self {
        Self { wait_ms: 3_000, waiting_per_tenant: 1_000, waiting_total: 20_000 }
    }
}

/// Why a request is not let in. The application has not run.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// The router is stale: this is the newest mapping.
    Stale(Arc<Redirect>),
    /// Refused with a code.
    Refused(Code),
}

impl Refusal {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Stale(_) => Code::Stale,
            Self::Refused(code) => *code,
        }
    }
}

/// A request that is let in. A write counts as running until this is dropped.
#[derive(Debug)]
pub struct Admission {
    slot: Arc<Slot>,
    version: u64,
    write: Option<WriteGuard>,
}

impl Admission {
    /// The tenant that it is for.
    pub(crate) fn slot(&self) -> Arc<Slot> {
        Arc::clone(&self.slot)
    }

    /// What the router calls the request: said where a write is waited for.
    pub(crate) fn is_of(&self, request_id: &HeaderValue) {
        if let Some(write) = &self.write {
            write.is_of(request_id);
        }
    }

    /// The write has finished: nothing waits for it any more.
    pub fn finish(&mut self) {
        self.write = None;
    }
}

/// What a request was let in under.
#[derive(Clone)]
pub(crate) struct Standing {
    gatekeeper: Arc<Gatekeeper>,
    slot: Arc<Slot>,
    version: u64,
}

impl Standing {
    pub(crate) fn of(gatekeeper: &Arc<Gatekeeper>, admission: &Admission) -> Self {
        let (gatekeeper, slot) = (Arc::clone(gatekeeper), Arc::clone(&admission.slot));
        Self { gatekeeper, slot, version: admission.version }
    }

    /// Whether nothing has changed since.
    pub(crate) fn holds(&self) -> bool {
        self.gatekeeper.stands(&self.slot, self.version)
    }
}

/// How often what has happened, since the start of the gate.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Requests let in.
    pub admitted: AtomicU64,
    /// Requests answered with a newer mapping.
    pub redirected: AtomicU64,
    /// Requests refused with a code.
    pub refused: AtomicU64,
    /// Requests that had to wait.
    pub waited: AtomicU64,
}

/// The state that decides on requests: grants, lease, and who waits.
#[derive(Debug)]
pub(crate) struct Gatekeeper {
    /// The grants.
    pub table: GrantTable,
    /// For how long to believe them.
    pub lease: Lease,
    /// What has happened.
    pub counters: Counters,
    asker: Asker,
    limits: WaitLimits,
    waiting: AtomicU32,
    closing: AtomicBool,
    #[cfg(feature = "planted")]
    planted: crate::decision::Planted,
}

impl Gatekeeper {
    /// One that knows no grant yet and refuses everything.
    #[must_use]
    pub(crate) fn new(asker: Asker, limits: WaitLimits) -> Self {
        Self {
            table: GrantTable::default(),
            lease: Lease::new(),
            counters: Counters::default(),
            asker,
            limits,
            waiting: AtomicU32::new(0),
            closing: AtomicBool::new(false),
            #[cfg(feature = "planted")]
            planted: crate::decision::Planted::default(),
        }
    }

    /// Plants faults.
    #[cfg(feature = "planted")]
    #[must_use]
    pub(crate) fn planting(mut self, planted: crate::decision::Planted) -> Self {
        self.planted = planted;
        self
    }

    /// Lets nobody in any more, and sends home who waits.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.asker.close();
        self.table.wake_all();
    }

    /// Whether the gate lets requests in at all.
    #[must_use]
    pub(crate) fn is_open(&self) -> bool {
        !self.closing.load(Ordering::Acquire) && self.lease.is_live()
    }

    /// Lets a request in, or says why not; waits where a change of the grant may help.
    ///
    /// # Errors
    /// [`Refusal`]: surely not executed.
    pub(crate) async fn admit(&self, stamp: &RequestStamp, is_write: bool) -> Result<Admission, Refusal> {
        let deadline = Instant::now() + Duration::from_millis(self.limits.wait_ms);
        let outcome = self.admit_until(stamp, is_write, deadline).await;
        let counter = match &outcome {
            Ok(_) => &self.counters.admitted,
            Err(Refusal::Stale(_)) => &self.counters.redirected,
            Err(Refusal::Refused(_)) => &self.counters.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.note_stale(stamp, outcome.as_ref().err());
        outcome
    }

    /// What to tell a router whose request the data layer has refused with `code` after it was let in: the grant is
    /// changing under it. Waits shortly for the news to arrive here too.
    pub(crate) async fn after_refusal(&self, stamp: &RequestStamp, admission: Admission, code: Code) -> Refusal {
        let Admission { slot, version, write } = admission;
        drop(write);
        let patience = Duration::from_millis(self.limits.wait_ms.min(250));
        let changed = slot.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if slot.is_at(version) {
            // The time being up is no news: the refusal is then passed on as it came.
            let _ = tokio::time::timeout(patience, changed).await;
        }
        let deadline = Instant::now() + Duration::from_millis(self.limits.wait_ms);
        match self.admit_until(stamp, false, deadline).await {
            Ok(_) => Refusal::Refused(code),
            Err(refusal) => {
                self.note_stale(stamp, Some(&refusal));
                refusal
            }
        }
    }

    /// The agent is told how many came late: it is part of what a move leaves as evidence.
    fn note_stale(&self, stamp: &RequestStamp, refusal: Option<&Refusal>) {
        if matches!(refusal, Some(Refusal::Stale(_))) {
            self.table.outbox().stale(&stamp.tenant, stamp.uid);
        }
    }

    /// Whether a read that was let in may still be answered: its data may have been read after the cell had stopped
    /// to own.
    ///
    /// # Errors
    /// The code under which it would be refused now.
    pub(crate) fn confirm_read(&self, stamp: &RequestStamp, admission: &Admission) -> Result<(), Code> {
        if self.stands(&admission.slot, admission.version) {
            return Ok(());
        }
        let verdict = match admission.slot.look(|grant| (self.judge(grant, stamp, false), false)) {
            Look::Seen { value, .. } => value,
            Look::Retired => return Err(Code::NotOwner),
        };
        match verdict {
            // What was admitted finishes, also while the gate closes.
            Verdict::Admit | Verdict::Refuse(Code::ShuttingDown) => Ok(()),
            Verdict::Wait(code) | Verdict::Refuse(code) => Err(code),
            Verdict::Redirect(_) => Err(Code::Stale),
            Verdict::AskNewest(Otherwise::Wait(code) | Otherwise::Refuse(code)) => Err(code),
        }
    }

    fn stands(&self, slot: &Slot, version: u64) -> bool {
        self.lease.is_live() && slot.is_at(version)
    }

    /// Done once a write under this stamp would not be let in any more.
    pub(crate) async fn until_withdrawn(&self, stamp: &RequestStamp, slot: &Arc<Slot>) {
        loop {
            let changed = slot.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match slot.look(|grant| (self.judge(grant, stamp, true), false)) {
                Look::Seen { value: Verdict::Admit, .. } => {}
                Look::Seen { .. } | Look::Retired => return,
            }
            tokio::select! {
                () = changed => {}
                // A lease runs out without anybody saying so.
                () = tokio::time::sleep(LEASE_LOOK) => {}
            }
        }
    }

    fn judge(&self, grant: Option<&Grant>, stamp: &RequestStamp, is_write: bool) -> Verdict {
        if self.closing.load(Ordering::Acquire) {
            return Verdict::Refuse(Code::ShuttingDown);
        }
        let verdict = decide(grant, self.lease.is_live(), (stamp.uid, stamp.epoch), is_write);
        #[cfg(feature = "planted")]
        let verdict = self.planted.spoil(verdict, grant);
        verdict
    }

    async fn admit_until(
        &self,
        stamp: &RequestStamp,
        is_write: bool,
        deadline: Instant,
    ) -> Result<Admission, Refusal> {
        let mut place: Option<Place<'_>> = None;
        let mut asked_at_version: Option<u64> = None;
        loop {
            let known = match &place {
                Some(place) => Some(Arc::clone(&place.slot)),
                None => self.table.get(&stamp.tenant),
            };
            let Some(slot) = known else {
                if let Verdict::Refuse(code) = self.judge(None, stamp, is_write) {
                    return Err(Refusal::Refused(code));
                }
                place = Some(self.take_place(&stamp.tenant)?);
                continue;
            };
            let changed = slot.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let look = slot.look(|grant| {
                let verdict = self.judge(grant, stamp, is_write);
                let counts = is_write && matches!(verdict, Verdict::Admit);
                (verdict, counts)
            });
            let Look::Seen { value: verdict, version, granted, write } = look else {
                place = None;
                continue;
            };
            let code = match verdict {
                Verdict::Admit => return Ok(Admission { slot: Arc::clone(&slot), version, write }),
                Verdict::Redirect(redirect) => return Err(Refusal::Stale(redirect)),
                Verdict::Refuse(code) => return Err(Refusal::Refused(code)),
                Verdict::AskNewest(otherwise) if asked_at_version == Some(version) => match otherwise {
                    Otherwise::Refuse(code) => return Err(Refusal::Refused(code)),
                    Otherwise::Wait(code) => code,
                },
                Verdict::AskNewest(Otherwise::Refuse(code) | Otherwise::Wait(code)) | Verdict::Wait(code) => code,
            };
            // A place first, then one more look: a slot in which somebody waits stays in the table.
            if place.is_none() {
                place = Some(self.take_place(&stamp.tenant)?);
                continue;
            }
            let asks = matches!(verdict, Verdict::AskNewest(_)) && asked_at_version != Some(version);
            let asking = async {
                if asks {
                    self.asker.news(&stamp.tenant, &slot.newest, (stamp.uid, stamp.epoch), granted).await
                } else {
                    std::future::pending().await
                }
            };
            tokio::select! {
                biased;
                () = &mut changed => {}
                news = asking => match news {
                    Some(redirect) => return Err(Refusal::Stale(redirect)),
                    None => asked_at_version = Some(version),
                },
                () = tokio::time::sleep_until(deadline) => return Err(Refusal::Refused(code)),
            }
        }
    }

    fn take_place(&self, tenant: &TenantId) -> Result<Place<'_>, Refusal> {
        let too_many = Refusal::Refused(Code::TooManyWaiting);
        let taken = self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
            (waiting < self.limits.waiting_total).then_some(waiting + 1)
        });
        if taken.is_err() {
            return Err(too_many);
        }
        let mut place =
            Place { gatekeeper: self, tenant: tenant.clone(), slot: self.table.slot(tenant), own: None };
        place.own = place.slot.wait_place(self.limits.waiting_per_tenant);
        if place.own.is_none() {
            return Err(too_many);
        }
        self.counters.waited.fetch_add(1, Ordering::Relaxed);
        Ok(place)
    }

    /// The number of waiting requests.
    #[must_use]
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Acquire)
    }
}

/// A request's place among those that wait; given back also when the client goes away.
struct Place<'g> {
    gatekeeper: &'g Gatekeeper,
    tenant: TenantId,
    slot: Arc<Slot>,
    own: Option<WaitPlace>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.own = None;
        self.gatekeeper.waiting.fetch_sub(1, Ordering::AcqRel);
        if self.slot.has_no_grant() {
            self.gatekeeper.table.release(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests;
