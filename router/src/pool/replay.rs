//! A connection that the library takes over in the middle of an exchange: the request has gone out, and the answer has begun.
//! The library writes the same request, which goes nowhere, and then reads from the answer's first byte on. It writes all of it
//! before it reads, because nothing that it writes waits for anything; and nothing of its next request goes out before what is
//! left of this one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the library speaks over.
pub(super) struct Replay<S> {
    inner: S,
    came: Came,
    /// What of the request has not gone out.
    unsent: Vec<u8>,
}

/// How far the library is in what has been.
enum Came {
    /// It has not asked yet, and must not be answered before.
    Unasked {
        answer: Bytes,
        reader: Option<Waker>,
    },
    Asked(Bytes),
    /// It has caught up.
    Read,
}

impl<S> Replay<S> {
    /// `answer`: what has come of it, where a request has gone out.
    pub(super) fn new(inner: S, answer: Option<Bytes>, unsent: Vec<u8>) -> Self {
        let came = answer.map_or(Came::Read, |answer| Came::Unasked { answer, reader: None });
        Self { inner, came, unsent }
    }

    /// Whether the library is still asking what has been asked.
    fn repeats(&mut self) -> bool {
        if let Came::Unasked { answer, reader } = &mut self.came {
            if let Some(reader) = reader.take() {
                reader.wake();
            }
            self.came = Came::Asked(std::mem::take(answer));
        }
        !matches!(self.came, Came::Read)
    }
}

impl<S: AsyncWrite + Unpin> Replay<S> {
    /// What has not gone out goes before everything else.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let some = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.unsent))?;
            if some == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.drain(..some);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.came {
            Came::Unasked { reader, .. } => {
                *reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Came::Asked(answer) => {
                let some = answer.len().min(into.remaining());
                into.put_slice(&answer[..some]);
                answer.advance(some);
                if answer.is_empty() {
                    self.came = Came::Read;
                }
                Poll::Ready(Ok(()))
            }
            Came::Read => Pin::new(&mut self.inner).poll_read(cx, into),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.repeats() {
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(self.poll_unsent(cx))?;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.repeats() {
            return Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()));
        }
        ready!(self.poll_unsent(cx))?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let flushed = match this.poll_unsent(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut this.inner).poll_flush(cx),
            other => other,
        };
        // The library must have written the whole request before it reads of the answer: else it would write the rest in earnest.
        // It flushes whenever it is polled, so that what is left is not forgotten.
        if flushed.is_pending() && !matches!(this.came, Came::Read) { Poll::Ready(Ok(())) } else { flushed }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
