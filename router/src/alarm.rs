//! Limits on what nearly always comes in time, as answers do: their timers are used again.
//!
//! A timer costs most where it is put among the others and taken out again, and most of them never ring. So one that was not
//! needed stays where it stands, for the next wait: limits are nearly all alike, so it rings a little too early for that, if
//! it rings at all, and is set then.
//!
//! ```text
//! wait ─ not at once ─► a timer from the shelf, or a new one ─ rings ─► too early for this wait: set it, go on
//!                         ▲                          │                └ over
//!                         └──────── in time ─────────┘
//! ```

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// Timers on the shelf, at the most. Each keeps the task from being freed that has waited last with it, until it rings.
const KEPT_MAX: usize = 64;

/// The timers of one thread.
#[derive(Default)]
pub(crate) struct Alarms(RefCell<Vec<Pin<Box<Sleep>>>>);

impl Alarms {
    /// What comes of `future`, or none once it is `until` then.
    pub(crate) fn within<F: Future + Unpin>(&self, until: Instant, future: F) -> Within<'_, F> {
        Within { alarms: self, until, future, timer: None }
    }

    /// One that rings by then.
    fn take(&self, until: Instant) -> Pin<Box<Sleep>> {
        match self.0.borrow_mut().pop() {
            Some(mut timer) => {
                if timer.deadline() > until || timer.is_elapsed() {
                    timer.as_mut().reset(until);
                }
                timer
            }
            None => Box::pin(sleep_until(until)),
        }
    }

    fn give_back(&self, timer: Pin<Box<Sleep>>) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT_MAX {
            kept.push(timer);
        }
    }
}

/// A wait with a limit.
pub(crate) struct Within<'a, F> {
    alarms: &'a Alarms,
    until: Instant,
    future: F,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F: Future + Unpin> Future for Within<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Poll::Ready(output) = Pin::new(&mut this.future).poll(cx) {
            return Poll::Ready(Some(output));
        }
        let timer = this.timer.get_or_insert_with(|| this.alarms.take(this.until));
        // Whatever the task has used up of its turn: a limit is looked at.
        while std::pin::pin!(tokio::task::unconstrained(timer.as_mut())).poll(cx).is_ready() {
            if timer.deadline() >= this.until {
                return Poll::Ready(None);
            }
            timer.as_mut().reset(this.until);
        }
        Poll::Pending
    }
}

impl<F> Drop for Within<'_, F> {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.alarms.give_back(timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_limit_whatever_timer_it_was_given() {
        let alarms = Alarms::default();
        let after = |ms| Instant::now() + Duration::from_millis(ms);
        // The one that is left rings too early, too late, or has rung already.
        for (left, limit, pause) in [(100, 300, 0), (900, 50, 0), (20, 80, 1_000)] {
            assert_eq!(alarms.within(after(left), Box::pin(sleep(Duration::from_millis(10)))).await, Some(()));
            sleep(Duration::from_millis(pause)).await;
            let began = Instant::now();
            assert_eq!(alarms.within(after(limit), std::future::pending::<()>()).await, None);
            assert_eq!(began.elapsed(), Duration::from_millis(limit));
            assert_eq!(alarms.0.borrow().len(), 1, "there is one, and it was used again");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_time_comes_and_what_comes_at_once_needs_no_timer() {
        let alarms = Alarms::default();
        let far = Instant::now() + Duration::from_secs(30);
        assert_eq!(alarms.within(far, std::future::ready(7)).await, Some(7));
        assert_eq!(alarms.0.borrow().len(), 0);
        let waits = (0..KEPT_MAX + 9).map(|_| alarms.within(far, Box::pin(sleep(Duration::from_millis(5)))));
        assert!(futures::future::join_all(waits).await.iter().all(Option::is_some));
        assert_eq!(alarms.0.borrow().len(), KEPT_MAX, "no more than that are kept");
    }
}
