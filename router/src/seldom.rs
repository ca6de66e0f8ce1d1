//! A future beside another of the same task, polled only once it was woken itself. What a connection waits for beside its
//! requests (the router's phase, that nothing comes for a while) is thus not looked at again for each of them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// A future that is polled the first time, and then whenever it was woken.
pub(crate) struct Seldom<F> {
    future: F,
    bell: Arc<Bell>,
    waker: Waker,
}

/// What it is woken by, in place of its task.
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future + Unpin> Seldom<F> {
    pub(crate) fn new(future: F) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        let waker = Waker::from(Arc::clone(&bell));
        Self { future, bell, waker }
    }
}

impl<F: Future + Unpin> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.bell.task.register(cx.waker());
        if !this.bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        Pin::new(&mut this.future).poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::FutureExt as _;
    use futures::future::poll_fn;

    use super::*;

    #[test]
    fn it_is_polled_at_first_and_when_it_was_woken_and_not_when_its_task_was() {
        let (polled, inner) = (Cell::new(0), AtomicWaker::new());
        let mut seldom = Seldom::new(poll_fn(|cx| {
            polled.set(polled.get() + 1);
            inner.register(cx.waker());
            if polled.get() == 3 { Poll::Ready("over") } else { Poll::Pending }
        }));
        for _ in 0..5 {
            assert!((&mut seldom).now_or_never().is_none());
        }
        assert_eq!(polled.get(), 1);
        inner.wake();
        assert!((&mut seldom).now_or_never().is_none());
        assert_eq!(polled.get(), 2);
        inner.wake();
        assert_eq!((&mut seldom).now_or_never(), Some("over"));
    }

    #[tokio::test]
    async fn it_wakes_the_task_that_waits_for_it() {
        let (say, heard) = tokio::sync::oneshot::channel();
        let waiting = tokio::spawn(Seldom::new(heard));
        tokio::task::yield_now().await;
        say.send(7).unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 7);
    }
}
