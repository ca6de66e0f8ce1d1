//! What a node that was just started must not do: break a promise that it has forgotten.
//!
//! Each message of a leader renews a promise of its followers: to elect nobody else for as long as the lease lasts. The
//! leader counts on it and answers reads by itself ([`crate::Timers::read_lease`]). The promise is in memory only, and a
//! follower that crashes and comes back within that time would not know of it. So a node that has ever voted takes no part
//! in an election until the longest promise that it may have given has run out, unless its leader asks for one.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Mutex;
use std::sync::PoisonError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::consensus::Raft;

/// Until when a promise may hold that was given before the start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Promise(Option<Instant>);

impl Promise {
    /// Looks at what `raft` was started with, and lets it stand for election as soon as it may. `voted` is whether it
    /// has ever voted, `lease` the longest promise.
    pub(crate) fn after_start(raft: &Raft, voted: bool, lease: Duration, stop: CancellationToken) -> Self {
        let alone = {
            let membership = raft.metrics().borrow_watched().membership_config.clone();
            membership.voter_ids().eq([*raft.node_id()])
        };
        if !voted || alone {
            // It has promised nothing to anybody else.
            raft.runtime_config().elect(true);
            return Self(None);
        }
        let until = Instant::now() + lease;
        let raft = raft.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep_until(until) => raft.runtime_config().elect(true),
            }
        });
        Self(Some(until))
    }

    /// Refuses a vote while the promise may hold.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match self.0 {
            Some(until) if Instant::now() < until => {
                Err("this node was just started, and may have promised its leader not to vote yet")
            }
            _ => Ok(()),
        }
    }
}

/// Tells whether this machine was asleep: its lease would have run on while its clock stood still.
#[derive(Debug)]
pub(crate) struct Sleep {
    /// By how much the clock that counts sleep is ahead of the one that does not, when a majority last confirmed. None: the
    /// machine is a simulated one.
    ahead: Option<Mutex<Duration>>,
}

/// Two readings of two clocks are not of the same instant.
const TOLERANCE: Duration = Duration::from_millis(5);

fn ahead() -> Duration {
    let of = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    // A pause between the two readings makes it larger, never smaller.
    let monotonic = of(ClockId::Monotonic);
    of(ClockId::Boottime).saturating_sub(monotonic)
}

impl Sleep {
    /// Of this machine, or of a simulated one. That one never sleeps, and what the real one does meanwhile must not show.
    pub(crate) fn new(simulated: bool) -> Self {
        Self { ahead: (!simulated).then(|| Mutex::new(ahead())) }
    }

    /// By how much the clocks differ now, if it is more than when a majority last confirmed.
    pub(crate) fn noticed(&self) -> Option<Duration> {
        self.noticed_at(ahead)
    }

    fn noticed_at(&self, now: impl FnOnce() -> Duration) -> Option<Duration> {
        let before = *self.ahead.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(now()).filter(|now| *now > before + TOLERANCE)
    }

    /// A majority has confirmed, and began to after `noticed`.
    pub(crate) fn confirmed(&self, noticed: Duration) {
        if let Some(ahead) = &self.ahead {
            *ahead.lock().unwrap_or_else(PoisonError::into_inner) = noticed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_slept_is_noticed_until_a_majority_has_confirmed() {
        let sleep = Sleep::new(false);
        assert_eq!(sleep.noticed(), None, "nobody has slept in between");
        let after = ahead() + Duration::from_secs(1);
        let noticed = sleep.noticed_at(|| after).expect("it has slept for a second");
        assert!(sleep.noticed_at(|| after).is_some(), "nobody has confirmed");
        sleep.confirmed(noticed);
        assert_eq!(sleep.noticed_at(|| after), None);
        assert!(sleep.noticed_at(|| after + Duration::from_secs(1)).is_some(), "it has slept again");
    }

    #[test]
    fn a_simulated_machine_does_not_look_at_the_clocks_of_the_real_one() {
        let sleep = Sleep::new(true);
        assert_eq!(sleep.noticed_at(|| panic!("it has looked")), None);
        sleep.confirmed(Duration::from_secs(1));
        assert_eq!(sleep.noticed_at(|| panic!("it has looked")), None);
    }
}
