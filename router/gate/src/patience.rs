//! How long an application may take: so long since its client was last heard. A large upload over a slow line is no slow
//! application; who sends too slowly is the router's to say, which knows the line.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// The time that one request has.
pub(crate) struct Patience {
    heard: Arc<Mutex<Instant>>,
    most: Duration,
}

impl Patience {
    pub(crate) fn new(most: Duration) -> Self {
        Self { heard: Arc::new(Mutex::new(Instant::now())), most }
    }

    /// The body, each piece of which begins the time anew.
    pub(crate) fn listen<B>(&self, body: B) -> Heard<B> {
        Heard { body, heard: Arc::clone(&self.heard) }
    }

    /// None: the time was over first.
    pub(crate) async fn wait<F: Future>(&self, answer: F) -> Option<F::Output> {
        let mut answer = pin!(answer);
        loop {
            let until = *self.heard.lock().unwrap_or_else(PoisonError::into_inner) + self.most;
            if let Ok(answered) = tokio::time::timeout_at(until, &mut answer).await {
                return Some(answered);
            }
            if *self.heard.lock().unwrap_or_else(PoisonError::into_inner) + self.most <= Instant::now() {
                return None;
            }
        }
    }
}

/// A body that notes when a piece of it has come.
pub(crate) struct Heard<B> {
    body: B,
    heard: Arc<Mutex<Instant>>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Heard<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
