//! A client's connection between two requests. hyper keeps two buffers of 8 KiB for each connection that it serves,
//! whether or not anything is asked on it; most connections of an edge wait. So hyper has the stream on loan: where
//! nothing has come for a moment, it is taken back, hyper's part is dropped, and the next byte makes a new one.
//!
//! ```text
//!            ┌─────────── a byte comes ────────────┐
//!            ▼                                     │
//! spoken (hyper, 18 KiB) ─ nothing for a moment ─► resting (the socket alone) ─ idle for too long, stopping ─► closed
//! ```
//! It is taken back only between messages: nothing read that hyper has not got, nothing written that is not flushed.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that somebody else reads and writes for as long as it is not taken back. The lock is never waited for: both
/// sides are on one thread, and it is one only because hyper wants what it upgrades to be `Send`.
pub(crate) struct Lent<S>(Arc<Mutex<Loan<S>>>);

/// The other side of the loan.
pub(crate) struct Lender<S>(Arc<Mutex<Loan<S>>>);

struct Loan<S> {
    stream: Option<S>,
    /// The last that was done in the direction of the client was to flush everything.
    flushed: bool,
    closing: bool,
}

/// Lends the stream.
pub(crate) fn lend<S>(stream: S) -> (Lent<S>, Lender<S>) {
    let loan = Arc::new(Mutex::new(Loan { stream: Some(stream), flushed: true, closing: false }));
    (Lent(Arc::clone(&loan)), Lender(loan))
}

impl<S> Lender<S> {
    /// The stream, where everything that was written has gone, and `rests` says that nothing is under way. From then on
    /// whoever has it on loan gets errors.
    pub(crate) fn take_back(&self, rests: impl FnOnce(&S) -> bool) -> Option<S> {
        let mut loan = lock(&self.0);
        let may = loan.flushed && !loan.closing && loan.stream.as_ref().is_some_and(rests);
        if may { loan.stream.take() } else { None }
    }
}

fn lock<S>(loan: &Mutex<Loan<S>>) -> MutexGuard<'_, Loan<S>> {
    loan.lock().unwrap_or_else(PoisonError::into_inner)
}

fn taken_back() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the stream was taken back")
}

impl<S: Unpin> Lent<S> {
    /// Does something with the stream, and notes whether it is flushed after that.
    fn with<T>(
        &self,
        flushed: Option<bool>,
        does: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut loan = lock(&self.0);
        let Some(stream) = loan.stream.as_mut() else { return Poll::Ready(Err(taken_back())) };
        let outcome = does(Pin::new(stream));
        if let Some(flushed) = flushed {
            loan.flushed = flushed && matches!(outcome, Poll::Ready(Ok(_)));
        }
        outcome
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lent<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(None, |stream| stream.poll_read(cx, into))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(Some(false), |stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(Some(false), |stream| stream.poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.0).stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(Some(true), |stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).closing = true;
        self.with(None, |stream| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_stream_is_taken_back_only_once_what_was_written_has_gone() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (mut lent, lender) = lend(ours);
        lent.write_all(b"answer").await.unwrap();
        assert!(lender.take_back(|_| true).is_none(), "it is not flushed");
        lent.flush().await.unwrap();
        assert!(lender.take_back(|_| false).is_none(), "something is under way");
        let mut back = lender.take_back(|_| true).unwrap();
        assert_eq!(lent.write_all(b"more").await.unwrap_err().kind(), io::ErrorKind::NotConnected);
        assert_eq!(lent.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::NotConnected);
        assert!(lender.take_back(|_| true).is_none(), "there is one of it");
        back.write_all(b", and more").await.unwrap();
        let mut read = [0; 16];
        theirs.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"answer, and more");
    }

    #[tokio::test]
    async fn a_stream_that_is_being_closed_is_left_to_whoever_closes_it() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let (mut lent, lender) = lend(ours);
        lent.shutdown().await.unwrap();
        assert!(lender.take_back(|_| true).is_none());
    }
}
