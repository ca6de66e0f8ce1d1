//! Interim answers (1xx other than 100 and 101, RFC 9110, 15.2) on their way to an HTTP/1.1 client, a router's or a gate's.
//!
//! hyper sends none, so they go past it, straight into the socket. That is sound at one moment alone: when everything that
//! hyper has written is flushed and the answer that they come before has not begun. The first holds whenever hyper flushes the
//! stream below it with nothing left of its own; the second because the service gives hyper the answer only once none waits.
//! What hyper says meanwhile (100) goes behind one that has gone out in part.
//!
//! ```text
//! 103 ─► push ─► queue (bounded) ─ hyper flushes, idle ─► poll_pass, socket ─► gone ─► the answer may follow
//! ```

use std::collections::VecDeque;
use std::io;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::admission::Standing;

/// Interim answers that wait at once, and bytes of one. What is more is left out, as a client that cannot take them would.
const WAITING_MAX: usize = 8;
const BYTES_MAX: usize = 16 << 10;

/// Those of one connection.
#[derive(Debug, Default)]
pub struct Interim {
    count: AtomicUsize,
    /// The first one has gone out in part.
    begun: AtomicBool,
    waiting: Mutex<Waiting>,
    /// Whoever flushes the connection, and whoever waits for that.
    connection: AtomicWaker,
    service: AtomicWaker,
}

#[derive(Debug, Default)]
struct Waiting {
    texts: VecDeque<Bytes>,
    /// Requests of the connection that have their answer.
    answered: u64,
}

impl Interim {
    /// Takes one to the client, before the answer that is being made. `headers` are clean of what belongs to a connection. What
    /// is no interim answer, too long or too much is left out.
    pub fn push(&self, status: StatusCode, headers: &HeaderMap) {
        self.push_if(status, headers, |_| true);
    }

    fn push_if(&self, status: StatusCode, headers: &HeaderMap, may: impl FnOnce(&Waiting) -> bool) {
        let Some(text) = written(status, headers) else { return };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.texts.len() < WAITING_MAX && may(&waiting) {
            waiting.texts.push_back(text);
            self.count.store(waiting.texts.len(), Ordering::Release);
            self.connection.wake();
        }
    }

    fn next(&self) -> Option<Bytes> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).texts.front().cloned()
    }

    /// So many bytes of the first one have gone.
    fn sent(&self, bytes: usize) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = waiting.texts.front_mut() else { return };
        let _gone = first.split_to(bytes.min(first.len()));
        self.begun.store(!first.is_empty(), Ordering::Release);
        if first.is_empty() {
            waiting.texts.pop_front();
        }
        self.count.store(waiting.texts.len(), Ordering::Release);
        if waiting.texts.is_empty() {
            self.service.wake();
        }
    }

    /// Writes those that wait. To be called where hyper flushes the connection, before that: nothing that it has written is left,
    /// so whatever comes before its next answer goes now. Whoever calls is woken by the next one.
    ///
    /// # Errors
    /// Those of `io`.
    pub fn poll_pass<S: AsyncWrite + Unpin>(&self, io: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.register(cx.waker());
        while self.count.load(Ordering::Acquire) > 0 {
            ready!(self.poll_some(io, cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Finishes one that has gone out in part. To be called before anything else is written.
    ///
    /// # Errors
    /// Those of `io`.
    pub fn poll_finish<S: AsyncWrite + Unpin>(&self, io: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.begun.load(Ordering::Acquire) {
            ready!(self.poll_some(io, cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Some bytes of the first one.
    fn poll_some<S: AsyncWrite + Unpin>(&self, io: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(text) = self.next() else { return Poll::Ready(Ok(())) };
        let sent = ready!(Pin::new(io).poll_write(cx, &text))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.sent(sent);
        Poll::Ready(Ok(()))
    }

    /// Done once none waits.
    pub async fn gone(&self) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        std::future::poll_fn(|cx| {
            self.service.register(cx.waker());
            if self.count.load(Ordering::Acquire) == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Those that belong to the request that is being answered.
    pub(crate) fn of_request(self: &Arc<Self>) -> EarlyAnswers {
        let request = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).answered;
        EarlyAnswers { connection: Arc::clone(self), request, under: None }
    }

    /// The request has its answer: whatever comes for it from now on is left out, and what has come is gone.
    pub(crate) async fn answered(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).answered += 1;
        self.gone().await;
    }
}

/// Left in the extensions of a request that has come over HTTP/1.1: takes interim answers to its client, before the answer. Where
/// there is none the client cannot be told, or not by hyper (HTTP/2).
#[derive(Clone)]
pub struct EarlyAnswers {
    connection: Arc<Interim>,
    request: u64,
    under: Option<Standing>,
}

impl EarlyAnswers {
    /// They are a read's, and may tell what a former owner has read: none goes out once what it was let in under has changed.
    pub(crate) fn while_it_stands(&mut self, under: Standing) {
        self.under = Some(under);
    }

    /// Sends one, 103 mostly. Left out is what is no interim answer (or 100, which the gate says itself, or 101), longer than 16 KiB,
    /// beyond eight that wait, late, or of a read of a tenant that is not the cell's any more. Fields that belong to one connection,
    /// and those that begin with `cell-`, do not pass.
    pub fn send(&self, status: StatusCode, mut headers: HeaderMap) {
        crate::relay::strip(&mut headers, false);
        headers.remove(http::header::CONTENT_LENGTH);
        crate::wire::strip_reserved(&mut headers);
        let stands = self.under.as_ref().is_none_or(Standing::holds);
        self.connection.push_if(status, &headers, |waiting| stands && waiting.answered == self.request);
    }
}

/// A connection on which they go out.
pub(crate) struct Passing<S> {
    inner: S,
    interim: Arc<Interim>,
}

impl<S> Passing<S> {
    pub(crate) const fn new(inner: S, interim: Arc<Interim>) -> Self {
        Self { inner, interim }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Passing<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Passing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.interim.poll_finish(&mut this.inner, cx))?;
        Pin::new(&mut this.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.interim.poll_finish(&mut this.inner, cx))?;
        Pin::new(&mut this.inner).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.interim.poll_pass(&mut this.inner, cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// As it goes over the wire. None: it is not one that is passed on, or too long.
fn written(status: StatusCode, headers: &HeaderMap) -> Option<Bytes> {
    let passes = status.is_informational() && !matches!(status.as_u16(), 100 | 101);
    if !passes {
        return None;
    }
    let mut text = Vec::with_capacity(256);
    let reason = status.canonical_reason().unwrap_or("Interim");
    write!(text, "HTTP/1.1 {} {reason}\r\n", status.as_u16()).ok()?;
    for (name, value) in headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    (text.len() <= BYTES_MAX).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn what_is_no_interim_answer_is_not_passed_on_and_a_flood_is_bounded() {
        let (interim, mut headers) = (Interim::default(), HeaderMap::new());
        for status in [100, 101, 200, 404] {
            interim.push(StatusCode::from_u16(status).unwrap(), &headers);
        }
        assert!(interim.next().is_none());
        headers.insert("link", HeaderValue::from_static("</a.css>; rel=preload"));
        for _ in 0..100 {
            interim.push(StatusCode::EARLY_HINTS, &headers);
        }
        let text = interim.next().unwrap();
        assert_eq!(text, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n");
        interim.sent(10);
        assert_eq!(interim.next().unwrap(), &text[10..]);
        interim.sent(text.len() - 10);
        for _ in 1..WAITING_MAX {
            interim.sent(text.len());
        }
        assert!(interim.next().is_none());
        headers.insert("big", HeaderValue::from_str(&"x".repeat(BYTES_MAX)).unwrap());
        interim.push(StatusCode::EARLY_HINTS, &headers);
        assert!(interim.next().is_none());
    }

    #[tokio::test]
    async fn what_comes_when_its_request_has_been_answered_is_left_out() {
        let interim = Arc::new(Interim::default());
        let (first, hints) = (interim.of_request(), HeaderMap::new());
        interim.answered().await;
        first.send(StatusCode::EARLY_HINTS, hints.clone());
        assert!(interim.next().is_none());
        interim.of_request().send(StatusCode::EARLY_HINTS, hints);
        assert!(interim.next().is_some());
    }

    #[tokio::test]
    async fn what_has_gone_out_in_part_is_finished_before_anything_else() {
        let (near, mut far) = tokio::io::duplex(16);
        let interim = Arc::<Interim>::default();
        let mut passing = Passing::new(near, Arc::clone(&interim));
        interim.push(StatusCode::EARLY_HINTS, &HeaderMap::new());
        let flushed = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut passing).poll_flush(cx))).await;
        assert!(flushed.is_pending());
        let writing = tokio::spawn(async move { passing.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await });
        let mut came = String::new();
        far.read_to_string(&mut came).await.unwrap();
        writing.await.unwrap().unwrap();
        assert_eq!(came, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
    }
}
