//! A client's HTTP/1 connection, read strictly: no byte of a message reaches hyper before this side knows that it can
//! be understood in one way only.
//!
//! ```text
//!          ┌──────────── the message ends ────────────┐
//!          ▼                                          │
//! socket ► Head ──► Body (length, chunks) ────────────┘
//!          │ └────► Deciding (upgrade) ──► Tunnel
//!          └ breaks a rule ► Refused: hyper gets a stand-in in its place, which the service answers with the rule
//! ```
//!
//! A head that comes in one piece is looked at where hyper will read it; only what comes in pieces is copied. After a
//! refusal nothing is passed on, and what the client still sends is read for a moment and dropped, so that the answer
//! is not lost in a reset.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::chunks::BodyScanner;
use super::head::{Framing, HeadLimits, HeadScanner, Progress};
use super::rule::Rule;
use super::said::{Next, Said};

/// What stands in for a head that is refused.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// How much and how long is read of what a client still sends when its connection is being closed.
const LINGER_BYTES_MAX: usize = 256 << 10;
const LINGER: Duration = Duration::from_secs(1);
/// How much is read at once where a connection rests.
const FIRST_BYTES_MAX: usize = 2 << 10;

/// How much, and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StrictLimits {
    pub(crate) head: HeadLimits,
    /// From the first byte of a head to its last.
    pub(crate) head_time: Duration,
}

enum State {
    Head(HeadScanner),
    Body(BodyScanner),
    Deciding,
    Tunnel,
    Refused,
    Broken,
}

/// A client's socket, or its TLS session.
pub(crate) struct StrictStream<S> {
    inner: S,
    limits: StrictLimits,
    state: State,
    /// Read and not passed on yet.
    held: Vec<u8>,
    /// So many bytes at the front of `held` may be passed on.
    cleared: usize,
    /// When the head that is coming in has to be there.
    head_until: Option<Pin<Box<Sleep>>>,
    lingering: Option<Lingering>,
    said: Arc<Said>,
}

struct Lingering {
    until: Pin<Box<Sleep>>,
    bytes: usize,
}

impl<S> StrictStream<S> {
    pub(crate) fn new(inner: S, limits: StrictLimits, said: Arc<Said>) -> Self {
        let state = State::Head(HeadScanner::default());
        Self { inner, limits, state, held: Vec::new(), cleared: 0, head_until: None, lingering: None, said }
    }

    /// Whether nothing of a message is here: all that came was passed on, and the next byte begins a head.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.held.is_empty() && self.lingering.is_none() && matches!(self.state, State::Head(_))
    }

    /// How many of the bytes at the front may be passed on, after those that stand there already were.
    fn scan(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.state {
                State::Head(scanner) => match scanner.scan(&bytes[at..], self.limits.head) {
                    Ok(Progress::Partial) => return at,
                    Ok(Progress::Complete(length, framing)) => {
                        at += length;
                        self.head_ended(framing);
                    }
                    Err(rule) => {
                        self.refuse(rule);
                        return at;
                    }
                },
                State::Body(scanner) => match scanner.scan(&bytes[at..]) {
                    Ok((taken, ended)) => {
                        at += taken;
                        if ended {
                            self.state = State::Head(HeadScanner::default());
                        }
                    }
                    Err(rule) => {
                        self.said.body_refused(rule);
                        self.state = State::Broken;
                        return at;
                    }
                },
                State::Deciding => {
                    self.said.early_bytes();
                    return at;
                }
                State::Tunnel => return bytes.len(),
                State::Refused | State::Broken => return at,
            }
        }
        at
    }

    fn head_ended(&mut self, framing: Framing) {
        self.head_until = None;
        self.said.head_passed(framing == Framing::Upgrade);
        self.state = match (framing, BodyScanner::new(framing)) {
            (Framing::Upgrade, _) => State::Deciding,
            (_, Some(body)) => State::Body(body),
            (_, None) => State::Head(HeadScanner::default()),
        };
    }

    fn refuse(&mut self, rule: Rule) {
        self.head_until = None;
        self.said.head_refused(rule);
        self.state = State::Refused;
    }

    /// Scans what is held and not cleared.
    fn scan_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.cleared = self.scan(&held);
        self.held = held;
        self.stand_in();
    }

    /// Puts the stand-in behind what is cleared, once a head was refused.
    fn stand_in(&mut self) {
        match self.state {
            State::Refused => {
                self.held.truncate(self.cleared);
                self.held.extend_from_slice(STAND_IN);
                self.cleared = self.held.len();
                // Later bytes are dropped where they are read.
                self.state = State::Broken;
            }
            State::Broken => self.held.truncate(self.cleared),
            _ => {}
        }
    }

    fn pass_on(&mut self, into: &mut ReadBuf<'_>) {
        let length = self.cleared.min(into.remaining());
        into.put_slice(&self.held[..length]);
        self.cleared -= length;
        if length == self.held.len() {
            self.held = Vec::new();
        } else {
            self.held.drain(..length);
        }
    }
}

impl<S: AsyncRead + Unpin> StrictStream<S> {
    /// Reads once, into `into`, and leaves there what may be passed on. `None`: nothing of it may be yet.
    fn poll_more(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<Option<()>>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, into))?;
        let came = into.filled().len() - before;
        if came == 0 {
            return Poll::Ready(Ok(Some(())));
        }
        if self.held.is_empty() {
            let cleared = self.scan(&into.filled()[before..]);
            if cleared < came {
                self.held.extend_from_slice(&into.filled()[before + cleared..]);
                into.set_filled(before + cleared);
                self.stand_in();
            }
            if cleared > 0 {
                return Poll::Ready(Ok(Some(())));
            }
        } else {
            self.held.extend_from_slice(&into.filled()[before..]);
            into.set_filled(before);
            self.scan_held();
        }
        Poll::Ready(Ok(None))
    }

    /// Waits for the first bytes of the next message, and keeps them for whoever reads next. False: the client has closed.
    pub(crate) async fn first_bytes(&mut self) -> io::Result<bool> {
        std::future::poll_fn(|cx| {
            let mut piece = [0; FIRST_BYTES_MAX];
            let mut into = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut into))?;
            self.held.extend_from_slice(into.filled());
            self.scan_held();
            Poll::Ready(Ok(!into.filled().is_empty()))
        })
        .await
    }

    /// Whether the time for the head that is coming in is over.
    fn head_is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if self.held.is_empty() || !matches!(self.state, State::Head(_)) {
            return false;
        }
        let limit = self.limits.head_time;
        let until = self.head_until.get_or_insert_with(|| Box::pin(sleep(limit)));
        until.as_mut().poll(cx).is_ready()
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !matches!(self.state, State::Body(_) | State::Broken | State::Refused) {
            return Poll::Ready(());
        }
        let lingering = self.lingering.get_or_insert_with(|| Lingering {
            until: Box::pin(tokio::time::sleep_until(Instant::now() + LINGER)),
            bytes: 0,
        });
        let mut piece = [0; 4096];
        while lingering.bytes < LINGER_BYTES_MAX {
            let mut into = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.inner).poll_read(cx, &mut into) {
                Poll::Ready(Ok(())) if !into.filled().is_empty() => lingering.bytes += into.filled().len(),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return lingering.until.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StrictStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.cleared > 0 {
                this.pass_on(into);
                return Poll::Ready(Ok(()));
            }
            if matches!(this.state, State::Deciding) {
                match this.said.next(cx.waker()) {
                    Next::Undecided => {}
                    Next::Request => this.state = State::Head(HeadScanner::default()),
                    Next::Tunnel => this.state = State::Tunnel,
                }
                if !matches!(this.state, State::Deciding) && !this.held.is_empty() {
                    this.scan_held();
                    continue;
                }
            }
            match this.state {
                State::Broken if this.said.body_rule().is_some() => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the body breaks a rule")));
                }
                // The stand-in is being answered. Then hyper closes.
                State::Broken | State::Refused => return Poll::Pending,
                // One look at what came too early is enough.
                State::Deciding if !this.held.is_empty() => return Poll::Pending,
                _ => {}
            }
            match this.poll_more(cx, into) {
                Poll::Ready(Ok(Some(()))) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if this.head_is_late(cx) => {
                    this.refuse(Rule::HeadTooSlow);
                    this.stand_in();
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for StrictStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.said.interim.poll_finish(&mut this.inner, cx))?;
        Pin::new(&mut this.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.said.interim.poll_finish(&mut this.inner, cx))?;
        Pin::new(&mut this.inner).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.said.interim.poll_pass(&mut this.inner, cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        }
        ready!(self.poll_linger(cx));
        Poll::Ready(Ok(()))
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
