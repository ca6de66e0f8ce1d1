//! What an application leaves of a request's body: it comes back to whoever reads on, so that the answer is not lost in a
//! reset of the connection.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Where a body comes back to that was not read to its end.
pub(crate) struct Unread<B>(Arc<Mutex<Option<Left<B>>>>);

/// What is left of a body.
pub(crate) struct Left<B> {
    pub(crate) body: B,
    /// Somebody has asked for a piece of it, so that the client sends it.
    pub(crate) begun: bool,
}

impl<B> Unread<B> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// The body for the application.
    pub(crate) fn lend(&self, body: B) -> Lent<B> {
        Lent { body: Some(body), begun: false, back: Arc::clone(&self.0) }
    }

    /// What has come back of it by now.
    pub(crate) fn take(&self) -> Option<Left<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A body that comes back when it is dropped before its end.
pub(crate) struct Lent<B> {
    /// None: it has ended.
    body: Option<B>,
    begun: bool,
    back: Arc<Mutex<Option<Left<B>>>>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Lent<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.begun = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> Drop for Lent<B> {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            let left = Left { body, begun: self.begun };
            *self.back.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
        }
    }
}
