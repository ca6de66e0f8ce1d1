//! The way into one cell: at once where there is room, else in a fair order.
//!
//! ```text
//! enter ─ room, nobody waits ─► Permit                          (one compare-and-swap, no lock, nothing allocated)
//!       └ else ─► Place in the queue ─ turn comes ─► Permit
//!                     │ deadline, client gone, displaced by a shorter queue
//!                     ▼ out, and nobody's turn is lost
//! ```
//! How many are in and how many wait stand in one word, so that whoever leaves either sees that nobody waits or takes
//! the lock and hands over. Shared by all threads.
//!
//! One tenant gets all places but a reserve ([`reserve_of`]), however many it asks for and however long it keeps them: so
//! there is one for whoever else comes, also where the limit sinks below what the tenant holds ([`spare`]). And a request of which only the client is awaited gives its place back
//! ([`Permit::step_out`]).

use std::sync::Arc;
use std::time::Duration;

use cell_model::TenantId;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::spare::Spare;
use super::adaptive::{Adaptive, LimitRange};
use super::meter::Meter;
use super::places::Places;
use super::queue::{FairQueue, NoPlace, Patience, QueueLimits, Share, Ticket};
use crate::atomics::{AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, PoisonError};
use crate::moment::{Moment, nanos};

/// One more in flight, in the upper half of the word.
const IN: u64 = 1 << 32;
/// One more that waits, in the lower half.
const WAITING: u64 = 1;

/// What bounds the way into a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScheduleOptions {
    pub(crate) range: LimitRange,
    pub(crate) queue: QueueLimits,
    /// How long a request waits for its turn.
    pub(crate) wait_max: Duration,
    /// Most requests of one tenant that go on without a place.
    pub(crate) outside_max: u32,
}

/// Who asks for room.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guest<'g> {
    pub(crate) tenant: &'g TenantId,
    pub(crate) places: &'g Arc<Places>,
    /// Of the mapping that names this cell.
    pub(crate) epoch: u64,
}

/// Why a request does not get into the cell. It has not been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turned {
    /// Its tenant has this many waiting already.
    FlowFull(usize),
    /// This many wait already, none of them longer.
    CellFull(usize),
    /// It has waited for its whole time.
    Late(Duration),
    /// It was the last of the longest queue when somebody with a shorter one came.
    Displaced,
}

/// What somebody who waits is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// Go in, on a place of the limit or on a spare one.
    In { spare: bool },
    /// Somebody with a shorter queue has come.
    Displaced,
}

/// Somebody who waits for a turn.
struct Turn {
    sender: oneshot::Sender<Call>,
    places: Arc<Places>,
    epoch: u64,
}

/// Places that one tenant alone never gets: an eighth, and one at the least. Where there are fewer than five there is
/// none, or a cell of one tenant would never look used up, and its limit never rise.
const fn reserve_of(limit: u32) -> u32 {
    if limit < 5 {
        0
    } else if limit < 16 {
        1
    } else {
        limit / 8
    }
}

/// The way into one cell.
pub(crate) struct Scheduler {
    word: AtomicU64,
    limit: AtomicU32,
    spare: Spare,
    queue: Mutex<FairQueue<TenantId, Turn>>,
    wait_max_nanos: AtomicU64,
    outside_max: AtomicU32,
    meter: Meter,
}

/// Room in a cell for one request, given back when it is dropped.
pub(crate) struct Permit {
    scheduler: Arc<Scheduler>,
    places: Arc<Places>,
    epoch: u64,
    /// It goes on without.
    outside: bool,
    /// Its place is beyond the limit.
    spare: bool,
}

impl Scheduler {
    pub(crate) fn new(options: ScheduleOptions, now: Moment) -> Arc<Self> {
        let adaptive = Adaptive::new(options.range);
        Arc::new(Self {
            word: AtomicU64::new(0),
            limit: AtomicU32::new(adaptive.limit()),
            spare: Spare::new(),
            queue: Mutex::new(FairQueue::new(options.queue)),
            wait_max_nanos: AtomicU64::new(nanos(options.wait_max)),
            outside_max: AtomicU32::new(options.outside_max),
            meter: Meter::new(adaptive, now),
        })
    }

    /// Takes new bounds; who waits goes on waiting.
    pub(crate) fn set_options(&self, options: ScheduleOptions) {
        self.lock().set_limits(options.queue);
        self.wait_max_nanos.store(nanos(options.wait_max), Ordering::Relaxed);
        self.outside_max.store(options.outside_max, Ordering::Relaxed);
        let limit = self.meter.set_range(options.range);
        self.set_limit(limit);
    }

    fn lock(&self) -> MutexGuard<'_, FairQueue<TenantId, Turn>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Most places that one tenant gets.
    fn part_of_one(&self) -> u64 {
        let limit = self.limit.load(Ordering::Relaxed);
        u64::from(limit - reserve_of(limit))
    }

    /// Room at once, if there is some and nobody waits for it.
    pub(crate) fn try_enter(self: &Arc<Self>, guest: Guest<'_>) -> Option<Permit> {
        let limit = u64::from(self.limit.load(Ordering::Relaxed));
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            if word / IN >= limit || !word.is_multiple_of(IN) {
                return None;
            }
            match self.word.compare_exchange_weak(word, word + IN, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(other) => word = other,
            }
        }
        let part = self.part_of_one();
        if self.spare.has_sunk() && word / IN <= part {
            // Under the lock: a limit of before would say that all is well.
            let _queue = self.lock();
            // Without the one that is being taken.
            self.spare.saw(self.in_flight().saturating_sub(1), self.part_of_one());
        }
        if guest.places.take(guest.epoch, part) {
            self.meter.saw(word / IN + 1);
            Some(self.permit(guest.places, guest.epoch, false))
        } else {
            // As whoever leaves: somebody may have begun to wait meanwhile.
            self.leave();
            None
        }
    }

    fn permit(self: &Arc<Self>, places: &Arc<Places>, epoch: u64, spare: bool) -> Permit {
        Permit { scheduler: Arc::clone(self), places: Arc::clone(places), epoch, outside: false, spare }
    }

    /// Room, at once or when the turn comes.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        guest: Guest<'_>,
        share: Share,
        until: Instant,
    ) -> Result<Permit, Turned> {
        if let Some(permit) = self.try_enter(guest) {
            return Ok(permit);
        }
        let began = Instant::now();
        let wait_max = Duration::from_nanos(self.wait_max_nanos.load(Ordering::Relaxed));
        let mut place = self.queue_up(guest, share)?;
        match tokio::time::timeout_at(until.min(began + wait_max), &mut place.turn).await {
            Ok(Ok(Call::In { spare })) => {
                place.over = true;
                Ok(self.permit(&place.places, place.epoch, spare))
            }
            Ok(Ok(Call::Displaced) | Err(_)) => {
                place.over = true;
                Err(Turned::Displaced)
            }
            Err(_) => Err(Turned::Late(began.elapsed())),
        }
    }

    /// A place in the queue, whose turn may have come already: some of the room may be there for others alone.
    fn queue_up(self: &Arc<Self>, guest: Guest<'_>, share: Share) -> Result<Place, Turned> {
        let Guest { tenant, places, epoch } = guest;
        let mut queue = self.lock();
        // From here on whoever leaves the cell sees that somebody waits, and waits for this lock.
        self.word.fetch_add(WAITING, Ordering::AcqRel);
        let (sender, turn) = oneshot::channel();
        // What a cell can do is not known yet: whoever comes first is not refused for that, and waits for a turn as long as
        // anybody. How many the cell gets is bounded all the same.
        let patience = if self.meter.is_finding_out() { Patience::Ample } else { Patience::Bounded };
        match queue.push(tenant, share, Turn { sender, places: Arc::clone(places), epoch }, patience) {
            Ok(pushed) => {
                if let Some(displaced) = pushed.displaced {
                    self.word.fetch_sub(WAITING, Ordering::AcqRel);
                    // Gone already: then nobody needs to be told.
                    let _told = displaced.sender.send(Call::Displaced);
                }
                if self.hand_over(&mut queue) == 0 {
                    self.meter.crowded();
                }
                Ok(Place {
                    scheduler: Arc::clone(self),
                    tenant: tenant.clone(),
                    places: Arc::clone(places),
                    epoch,
                    ticket: pushed.ticket,
                    turn,
                    over: false,
                })
            }
            Err(no_place) => {
                self.word.fetch_sub(WAITING, Ordering::AcqRel);
                self.meter.crowded();
                // Somebody may have left in between and found nobody to hand over to.
                self.hand_over(&mut queue);
                Err(match no_place {
                    NoPlace::Flow(limit) => Turned::FlowFull(limit),
                    NoPlace::All(limit) => Turned::CellFull(limit),
                })
            }
        }
    }

    /// Gives room to those that wait and may have it, for as long as there is some. Answers to how many.
    fn hand_over(&self, queue: &mut FairQueue<TenantId, Turn>) -> u32 {
        let mut given = 0;
        loop {
            let in_flight = self.word.load(Ordering::Acquire) / IN;
            let (limit, part) = (self.limit.load(Ordering::Relaxed), self.part_of_one());
            self.spare.saw(in_flight, part);
            let spare = in_flight >= u64::from(limit);
            if spare && !self.spare.has_one(limit) {
                break;
            }
            let most = if spare { 1 } else { part };
            // Of the limit's places at most one tenant has as many as it may, so this looks at two.
            let Some(next) = queue.pop_if(|turn| turn.places.take(turn.epoch, most)) else { break };
            if spare {
                self.spare.give();
            }
            let word = self.word.fetch_add(IN - WAITING, Ordering::AcqRel);
            if next.sender.send(Call::In { spare }).is_err() {
                // Gone, and not yet out of the queue.
                next.places.give_back(next.epoch);
                if spare {
                    self.spare.give_back();
                }
                self.word.fetch_sub(IN, Ordering::AcqRel);
            } else {
                given += 1;
                self.meter.saw(word / IN + 1);
            }
        }
        given
    }

    fn leave(&self) {
        let mut word = self.word.load(Ordering::Acquire);
        while word.is_multiple_of(IN) {
            match self.word.compare_exchange_weak(word, word - IN, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(other) => word = other,
            }
        }
        let mut queue = self.lock();
        self.word.fetch_sub(IN, Ordering::AcqRel);
        self.hand_over(&mut queue);
    }

    fn set_limit(&self, limit: u32) {
        if self.limit.load(Ordering::Relaxed) == limit {
            return;
        }
        // Under the lock, also where nobody is seen to wait: who is about to sees what has changed, and all of it.
        let mut queue = self.lock();
        let before = self.limit.swap(limit, Ordering::AcqRel);
        if limit < before && self.in_flight() > self.part_of_one() {
            self.spare.sink();
        }
        self.hand_over(&mut queue);
    }

    /// The cell has answered after so long.
    pub(crate) fn answered(&self, took: Duration, now: Moment) {
        self.meter.answered(took);
        self.look(now);
    }

    /// The cell has not answered in time.
    pub(crate) fn timed_out(&self, now: Moment) {
        self.meter.timed_out();
        self.look(now);
    }

    fn look(&self, now: Moment) {
        if let Some(limit) = self.meter.end_of_window(now, self.in_flight()) {
            self.set_limit(limit);
        }
    }

    /// The limit of now.
    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.word.load(Ordering::Relaxed) / IN
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.word.load(Ordering::Relaxed) % IN
    }

    /// What an answer takes while nothing waits in the cell.
    pub(crate) fn baseline(&self) -> Option<Duration> {
        self.meter.baseline()
    }

    /// What an answer has taken lately.
    pub(crate) fn mean(&self) -> Duration {
        self.meter.mean()
    }
}

impl Permit {
    /// Gives the room back and goes on without, while only the client is awaited. Of one tenant's requests only so many
    /// may; one beyond them keeps its room.
    pub(crate) fn step_out(&mut self) {
        if !self.outside && self.places.step_out(self.scheduler.outside_max.load(Ordering::Relaxed)) {
            self.outside = true;
            self.give_back();
        }
    }

    pub(crate) fn is_outside(&self) -> bool {
        self.outside
    }

    fn give_back(&self) {
        // First the tenant's count: whoever hands over looks at it.
        self.places.give_back(self.epoch);
        if self.spare {
            self.scheduler.spare.give_back();
        }
        self.scheduler.leave();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.outside {
            self.places.end_outside();
        } else {
            self.give_back();
        }
    }
}

/// A place in the queue; left when it is dropped.
struct Place {
    scheduler: Arc<Scheduler>,
    tenant: TenantId,
    places: Arc<Places>,
    epoch: u64,
    ticket: Ticket,
    turn: oneshot::Receiver<Call>,
    /// The turn has come, or never will.
    over: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut queue = self.scheduler.lock();
        if queue.remove(&self.tenant, self.ticket).is_some() {
            self.scheduler.word.fetch_sub(WAITING, Ordering::AcqRel);
            return;
        }
        drop(queue);
        self.turn.close();
        // The turn came while nobody looked any more: it goes to the next.
        if let Ok(Call::In { spare }) = self.turn.try_recv() {
            drop(self.scheduler.permit(&self.places, self.epoch, spare));
        }
    }
}

mod spare;

#[cfg(test)]
mod asker;
#[cfg(all(test, feature = "loom"))]
mod interleavings;
#[cfg(test)]
mod tests;
