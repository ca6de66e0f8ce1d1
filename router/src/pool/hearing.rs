//! A connection on which an answer is still heard when nothing more can be sent: a cell that has refused a body, and closes,
//! has said why, and that must not be lost in the error of the next write. And neither that a gate does not take this router's
//! certificate: with TLS 1.3 that is heard of after the handshake, and over HTTP/2 the library makes a text of it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tls::GateTls;

/// After a write has found the other side gone, the rest goes nowhere, and reading says how it ends: with an answer, or at
/// once.
pub(super) struct Hearing<S> {
    inner: S,
    gone: bool,
    /// The gate has said something, so that it may have read something, too.
    has_spoken: bool,
    refused: Refused,
}

/// That the gate does not take this router's certificate, once it has said so. Until then it has not read anything.
#[derive(Clone, Default)]
pub(super) struct Refused(Arc<OnceLock<GateTls>>);

impl Refused {
    pub(super) fn said(&self) -> Option<GateTls> {
        self.0.get().cloned()
    }
}

impl<S> Hearing<S> {
    pub(super) fn new(inner: S) -> (Self, Refused) {
        let refused = Refused::default();
        (Self { inner, gone: false, has_spoken: false, refused: refused.clone() }, refused)
    }

    /// `all`: what would have been written.
    fn judge(&mut self, written: Poll<io::Result<usize>>, all: usize) -> Poll<io::Result<usize>> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        match written {
            Poll::Ready(Err(error)) if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset) => {
                self.gone = true;
                Poll::Ready(Ok(all))
            }
            other => other,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Hearing<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, into);
        match &read {
            Poll::Ready(Ok(())) => self.has_spoken |= into.filled().len() > before,
            Poll::Ready(Err(error)) if !self.has_spoken => {
                if let Some(refused) = GateTls::refused(error) {
                    self.refused.0.get_or_init(|| refused);
                }
            }
            _ => {}
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Hearing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.gone {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.judge(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = pieces.iter().map(|piece| piece.len()).sum();
        if self.gone {
            return Poll::Ready(Ok(all));
        }
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, pieces);
        self.judge(written, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gone { Poll::Ready(Ok(())) } else { Pin::new(&mut self.inner).poll_flush(cx) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gone { Poll::Ready(Ok(())) } else { Pin::new(&mut self.inner).poll_shutdown(cx) }
    }
}
