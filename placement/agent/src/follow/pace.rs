//! How fast a copy may read its source: chunks are asked for no sooner than their bytes fit into the limit.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A limit that was changed is noticed this soon.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(crate) struct Pace {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes in a second; 0: no limit.
    limit: u64,
    /// Somebody has said it.
    said: bool,
    /// Bytes that were read and are not paid for by the time since.
    owed: u64,
    paid_until: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self { state: Mutex::new(State { limit: 0, said: false, owed: 0, paid_until: Instant::now() }) }
    }
}

impl Pace {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in a second from now on; 0: as fast as it goes.
    pub(crate) fn limit(&self, bytes_per_second: u64) {
        let mut state = self.lock();
        state.said = true;
        state.set(bytes_per_second);
    }

    /// Whether it has not been said before.
    pub(crate) fn is_news(&self, bytes_per_second: u64) -> bool {
        let state = self.lock();
        !state.said || state.limit != bytes_per_second
    }

    /// As somebody has said it before this agent was started, unless it was said anew.
    pub(crate) fn begin_at(&self, bytes_per_second: u64) {
        let mut state = self.lock();
        if !state.said {
            state.set(bytes_per_second);
        }
    }

    /// So much was read.
    pub(crate) fn took(&self, bytes: u64) {
        let mut state = self.lock();
        state.pay(Instant::now());
        state.owed = state.owed.saturating_add(bytes);
    }

    /// For how long the next chunk must wait yet.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let mut state = self.lock();
        state.pay(Instant::now());
        if state.owed == 0 { None } else { Some(state.time_for(state.owed)) }
    }

    /// Returns when the next chunk may be asked for.
    pub(crate) async fn ready(&self) {
        while let Some(wait) = self.wait() {
            tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
        }
    }
}

impl State {
    fn set(&mut self, bytes_per_second: u64) {
        if self.limit != bytes_per_second {
            self.pay(Instant::now());
            self.limit = bytes_per_second;
        }
    }

    fn time_for(&self, bytes: u64) -> Duration {
        let millis = bytes.saturating_mul(1_000).checked_div(self.limit).unwrap_or_default();
        Duration::from_millis(millis.max(1))
    }

    /// What the time since has paid for; with no limit that is everything.
    fn pay(&mut self, now: Instant) {
        let nanos = u64::try_from(now.duration_since(self.paid_until).as_nanos()).unwrap_or(u64::MAX);
        let paid = u128::from(nanos) * u128::from(self.limit) / 1_000_000_000;
        let paid = if self.limit == 0 { u64::MAX } else { u64::try_from(paid).unwrap_or(u64::MAX) };
        // Time that has paid for less than a byte is kept.
        if paid > 0 {
            self.owed = self.owed.saturating_sub(paid);
            self.paid_until = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_a_restart_holds_until_something_else_is_said() {
        let pace = Pace::default();
        pace.begin_at(500);
        pace.took(1_000);
        assert!(pace.wait().is_some());
        assert!(pace.is_news(500), "nobody has said it to this agent");
        pace.limit(0);
        assert!(!pace.is_news(0));
        pace.begin_at(500);
        assert_eq!(pace.wait(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn chunks_come_no_faster_than_the_limit_and_a_lifted_limit_is_noticed() {
        let pace = Pace::default();
        pace.took(1_000_000);
        assert_eq!(pace.wait(), None, "there is no limit");
        pace.limit(100_000);
        let began = Instant::now();
        for _ in 0..5 {
            pace.ready().await;
            pace.took(50_000);
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(1_950) && took < Duration::from_millis(2_300), "{took:?}");
        pace.took(100_000_000);
        pace.limit(0);
        tokio::time::timeout(Duration::from_secs(1), pace.ready()).await.expect("nothing holds it back");
    }
}
