//! A client's body on its way to a cell: streamed, counted, and kept up to a bound, so that a request that a gate has
//! refused can be sent again.
//!
//! ```text
//! client ──► Upload ──► attempt 1 (refused on its head) ✕
//!            │ keeps    attempt 2: first what was kept, then what still comes
//! ```
//! A refusal must not be lost: a gate that refuses on the head alone closes the connection with the body unread, which
//! resets it, and whoever is still writing may never see the answer. Hence a small body is read first and sent in one
//! piece with the head; any other is announced with `Expect: 100-continue` and kept back until the cell wants it. So a
//! refusal can be followed by another attempt however large the body is.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::fair::tenants::Active;
use crate::strict;

/// What a body may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UploadLimits {
    pub(crate) body_bytes_max: u64,
    pub(crate) replay_bytes_max: usize,
    /// What a client sends of it in a second, at the least, once it had the time that it may pause. 0: whatever it likes.
    pub(crate) rate_min: u64,
}

/// Why a body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UploadFault {
    /// It is larger than it may be.
    #[error("the body is larger than the limit")]
    TooLarge,
    /// Its trailers are larger, or more, than they may be.
    #[error("the trailers are larger than the limit")]
    TrailersTooLarge,
    /// The client has gone or has sent something that is no body.
    #[error("the client's body has broken off")]
    Broken,
    /// Another attempt sends the body now.
    #[error("the body is sent in another attempt")]
    Superseded,
}

/// Up to here a body is sent in one piece with the head.
const SMALL_BYTES: u64 = 8 << 10;

/// How long, and how much of it, a body is taken after its answer has gone.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 16 << 20;

/// Until it is dropped with the answer, the answer has not gone.
pub(crate) struct Lingering(#[expect(dead_code, reason = "its end is heard")] oneshot::Sender<()>);

impl<B: Body<Data = Bytes> + Unpin + 'static> Upload<B> {
    /// Over HTTP/2 a stream whose body nobody takes is reset behind its answer, and there are clients that take the reset for
    /// the answer (curl 7.88, while it sends): they are let finish, or see the answer, first.
    pub(crate) fn linger(self) -> Option<Lingering> {
        if self.is_complete() {
            return None;
        }
        let (going, gone) = oneshot::channel();
        tokio::task::spawn_local(async move {
            // An error says the same: it is dropped.
            let _gone = gone.await;
            // A cell may read on after it has answered.
            self.unsent().await;
            let _over = tokio::time::timeout(LINGER, self.drain(LINGER_BYTES_MAX)).await;
        });
        Some(Lingering(going))
    }
}

/// One request's body, for all of its attempts. None: it has none, as most have.
pub(crate) struct Upload<B>(Option<Rc<RefCell<Shared<B>>>>);

impl<B> Clone for Upload<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B> Default for Upload<B> {
    fn default() -> Self {
        Self(None)
    }
}

impl<B> Upload<B> {
    /// How much of it has come.
    pub(crate) fn received(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.borrow().received)
    }

    /// Nobody wants any more of it.
    pub(crate) fn abandon(&self) {
        if let Some(shared) = &self.0 {
            let mut shared = shared.borrow_mut();
            if !shared.ended {
                shared.fault = Some(UploadFault::Superseded);
                if let Some(sender) = shared.sender.take() {
                    sender.wake();
                }
            }
        }
    }
}

struct Shared<B> {
    body: B,
    limits: UploadLimits,
    hint: SizeHint,
    received: u64,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// More has passed than was kept.
    forgotten: bool,
    fault: Option<UploadFault>,
    attempt: u32,
    last_progress: Instant,
    /// Since when the client is awaited, and how long it was before.
    awaited_since: Option<Instant>,
    awaited: Duration,
    /// Who sends it, while the client is awaited.
    sender: Option<Waker>,
    /// Attempts that may still take of it, and who waits until there is none.
    attempts: usize,
    last_gone: Option<Waker>,
    /// Whose bytes they are.
    metered: Option<Arc<Active>>,
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B> {
    pub(crate) fn new(body: B, limits: UploadLimits, now: Instant) -> Self {
        let (hint, ended) = (body.size_hint(), body.is_end_stream());
        if ended {
            return Self(None);
        }
        Self(Some(Rc::new(RefCell::new(Shared {
            body,
            limits,
            hint,
            received: 0,
            kept: Vec::new(),
            kept_bytes: 0,
            trailers: None,
            ended,
            forgotten: false,
            fault: None,
            attempt: 0,
            last_progress: now,
            awaited_since: None,
            awaited: Duration::ZERO,
            sender: None,
            attempts: 0,
            last_gone: None,
            metered: None,
        }))))
    }

    /// What `of` says of the body, or `else_`, where there is none.
    fn say<T>(&self, of: impl FnOnce(&Shared<B>) -> T, else_: T) -> T {
        self.0.as_ref().map_or(else_, |shared| of(&shared.borrow()))
    }

    /// From now on its bytes are the tenant's, those included that have come.
    pub(crate) fn meter(&self, active: &Arc<Active>) {
        let Some(shared) = &self.0 else { return };
        let mut shared = shared.borrow_mut();
        if shared.metered.is_none() {
            active.used.received(usize::try_from(shared.received).unwrap_or(usize::MAX));
            shared.metered = Some(Arc::clone(active));
        }
    }

    /// Whether the body is known to be larger than it may be.
    pub(crate) fn is_too_large(&self) -> bool {
        self.say(|shared| shared.hint.lower() > shared.limits.body_bytes_max, false)
    }

    /// Whether it goes out in one piece with the head, so that nothing of it waits for room.
    pub(crate) fn is_small(&self) -> bool {
        let small = |shared: &Shared<B>| {
            let limit = SMALL_BYTES.min(shared.limits.replay_bytes_max as u64);
            shared.hint.exact().is_some_and(|length| length <= limit)
        };
        self.say(small, true)
    }

    /// Reads a small body whole; leaves any other alone.
    pub(crate) async fn read_small(&self) -> Result<(), UploadFault> {
        if self.is_small() {
            let mut reading = self.attempt(None);
            while let Some(frame) = futures::future::poll_fn(|cx| Pin::new(&mut reading).poll_frame(cx)).await {
                frame?;
            }
        }
        Ok(())
    }

    /// All of it, where it is small and has come whole, and as long as was announced.
    pub(crate) fn whole(&self) -> Option<Vec<Bytes>> {
        let whole = |shared: &Shared<B>| {
            let is_whole = shared.ended && !shared.forgotten && shared.fault.is_none() && shared.trailers.is_none();
            let as_announced = shared.hint.exact() == Some(shared.kept_bytes as u64);
            (is_whole && as_announced && shared.kept_bytes as u64 <= SMALL_BYTES).then(|| shared.kept.clone())
        };
        self.say(whole, Some(Vec::new()))
    }

    /// Done once nobody sends it any more.
    async fn unsent(&self) {
        let Some(shared) = &self.0 else { return };
        std::future::poll_fn(|cx| {
            let mut shared = shared.borrow_mut();
            if shared.attempts == 0 {
                return Poll::Ready(());
            }
            shared.last_gone = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Throws away what still comes of it, until it ends or has been so much. Nobody else may take of it any more.
    async fn drain(&self, bytes_max: u64) {
        let Some(shared) = &self.0 else { return };
        let mut drained = 0;
        std::future::poll_fn(|cx| {
            let mut shared = shared.borrow_mut();
            (shared.kept, shared.forgotten) = (Vec::new(), true);
            while !shared.ended && shared.fault != Some(UploadFault::Broken) && drained < bytes_max {
                let Some(frame) = ready!(Pin::new(&mut shared.body).poll_frame(cx)) else {
                    shared.ended = true;
                    break;
                };
                match frame {
                    Ok(frame) => {
                        let bytes = frame.data_ref().map_or(0, Bytes::len);
                        drained += bytes as u64;
                        shared.count(bytes);
                    }
                    Err(_) => shared.fault = Some(UploadFault::Broken),
                }
                shared.ended |= shared.body.is_end_stream();
            }
            Poll::Ready(())
        })
        .await;
    }

    /// The body for another attempt; the one before gets no more of it.
    pub(crate) fn attempt(&self, wanted: Option<Arc<Wanted>>) -> UploadBody<B> {
        UploadBody(self.0.as_ref().map(|upload| {
            let mut shared = upload.borrow_mut();
            shared.attempt += 1;
            shared.attempts += 1;
            let attempt = shared.attempt;
            Sending { shared: Rc::clone(upload), attempt, sent: 0, trailers_sent: false, wanted }
        }))
    }

    /// Whether the body can be sent again from its beginning.
    pub(crate) fn can_replay(&self) -> bool {
        self.say(|shared| !shared.forgotten && shared.fault.is_none(), true)
    }

    /// Why it ended before its end.
    pub(crate) fn fault(&self) -> Option<UploadFault> {
        self.say(|shared| shared.fault, None)
    }

    /// Whether the client has sent all of it.
    pub(crate) fn is_complete(&self) -> bool {
        self.say(|shared| shared.ended, true)
    }

    /// For how long nothing but the client has been awaited.
    pub(crate) fn client_stands_still(&self) -> Duration {
        let since = self.say(|shared| shared.awaited_since, None);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// What is to be said where the client takes longer than it may, all its pauses together. What the cell takes to want
    /// more of it does not count.
    pub(crate) fn is_too_slow(&self, pause_max: Duration) -> Option<String> {
        let shared = self.0.as_ref()?.borrow();
        let (rate_min, received) = (shared.limits.rate_min, shared.received);
        let earned = Duration::from_secs(received.checked_div(rate_min)?);
        let awaited = shared.awaited + shared.awaited_since.map_or(Duration::ZERO, |since| since.elapsed());
        (awaited > pause_max + earned).then(|| {
            let seconds = awaited.as_secs();
            format!("{received} bytes of the request's body have come in {seconds} s, which is below {rate_min} a second")
        })
    }

    /// When the last piece of it came, if it has any.
    pub(crate) fn last_progress(&self) -> Option<Instant> {
        self.say(|shared| Some(shared.last_progress), None)
    }
}

/// The cell's word that it wants the body.
#[derive(Default)]
pub(crate) struct Wanted {
    said: AtomicBool,
    waker: AtomicWaker,
}

impl Wanted {
    /// The cell wants it.
    pub(crate) fn say(&self) {
        self.said.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.said.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A body as one attempt sends it.
pub(crate) struct UploadBody<B>(Option<Sending<B>>);

struct Sending<B> {
    shared: Rc<RefCell<Shared<B>>>,
    attempt: u32,
    /// Kept pieces that this attempt has sent.
    sent: usize,
    trailers_sent: bool,
    wanted: Option<Arc<Wanted>>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for UploadBody<B> {
    type Data = Bytes;
    type Error = UploadFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |sending| sending.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Sending::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |sending| sending.shared.borrow().hint)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Sending<B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        let mut shared = self.shared.borrow_mut();
        if shared.attempt != self.attempt {
            return Poll::Ready(Some(Err(UploadFault::Superseded)));
        }
        if let Some(fault) = shared.fault {
            return Poll::Ready(Some(Err(fault)));
        }
        if let Some(piece) = shared.kept.get(self.sent) {
            self.sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if shared.ended {
            let trailers = shared.trailers.clone().filter(|_| !std::mem::replace(&mut self.trailers_sent, true));
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if let Some(wanted) = &self.wanted
            && wanted.poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        let Poll::Ready(frame) = Pin::new(&mut shared.body).poll_frame(cx) else {
            shared.awaited_since.get_or_insert_with(Instant::now);
            if shared.sender.as_ref().is_none_or(|sender| !sender.will_wake(cx.waker())) {
                shared.sender = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        let taken = shared.take(frame.map(|frame| frame.map_err(|_| UploadFault::Broken)));
        // Nobody asks for more of a body whose length is known.
        shared.ended |= shared.body.is_end_stream();
        self.sent = shared.kept.len();
        self.trailers_sent = shared.trailers.is_some();
        Poll::Ready(taken)
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.shared.borrow();
        shared.attempt == self.attempt
            && shared.ended
            && self.sent >= shared.kept.len()
            && (self.trailers_sent || shared.trailers.is_none())
    }
}

impl<B> Drop for Sending<B> {
    fn drop(&mut self) {
        let mut shared = self.shared.borrow_mut();
        shared.attempts -= 1;
        if shared.attempts == 0
            && let Some(waiting) = shared.last_gone.take()
        {
            waiting.wake();
        }
    }
}

impl<B> Shared<B> {
    fn count(&mut self, bytes: usize) {
        self.received += bytes as u64;
        if let Some(active) = &self.metered {
            active.used.received(bytes);
        }
    }

    /// Counts and keeps what has come.
    fn take(
        &mut self,
        frame: Option<Result<Frame<Bytes>, UploadFault>>,
    ) -> Option<Result<Frame<Bytes>, UploadFault>> {
        self.last_progress = Instant::now();
        if let Some(since) = self.awaited_since.take() {
            self.awaited += self.last_progress.saturating_duration_since(since);
        }
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(fault)) => {
                self.fault = Some(fault);
                return Some(Err(fault));
            }
            None => {
                self.ended = true;
                return None;
            }
        };
        if let Some(data) = frame.data_ref() {
            self.count(data.len());
            if self.received > self.limits.body_bytes_max {
                self.fault = Some(UploadFault::TooLarge);
                return Some(Err(UploadFault::TooLarge));
            }
            if self.kept_bytes + data.len() > self.limits.replay_bytes_max {
                self.forgotten = true;
                self.kept = Vec::new();
            }
            if !self.forgotten {
                self.kept_bytes += data.len();
                self.kept.push(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            // Over HTTP/1 they were counted as bytes.
            if !strict::are_few(trailers) {
                self.fault = Some(UploadFault::TrailersTooLarge);
                return Some(Err(UploadFault::TrailersTooLarge));
            }
            self.trailers = Some(trailers.clone());
            self.ended = true;
        }
        Some(Ok(frame))
    }
}

#[cfg(test)]
mod tests;
