//! An HTTP/1.1 connection to an instance as the socket that it is, for what most requests are: one that is here whole, and
//! an answer that says how long it is. Such a request is written as it stands, and of such an answer the head is read and
//! the bytes are counted. Whatever else a cell says is the library's to read, from its first byte on ([`Said::Otherwise`]).
//!
//! Whoever waits for something on it polls it, as with one that the library has (`driven`).

mod head;
#[cfg(any(test, feature = "fuzzing"))]
mod heard;

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, Response, Uri};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::hearing::{Hearing, Refused};
use super::{CellError, Counted, SendError};
use crate::tls::GateTls;

pub(crate) use self::head::Message;
#[cfg(test)]
pub(crate) use self::head::read;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::heard::heard;

/// What is spoken over: a socket, or TLS on one.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// What carries a connection.
pub(super) type Carrier = Hearing<Box<dyn Socket>>;

/// What the connections of one thread share: room to write requests in, and to read answers into.
#[derive(Default)]
pub(super) struct Pages {
    out: RefCell<Vec<u8>>,
    /// Empty, with room behind it; what was read is copied, or split off.
    page: RefCell<BytesMut>,
}

/// Room into which an answer is read, at the least where there is so much of it.
const PAGE_BYTES: usize = 16 << 10;
/// The size of the pieces of a long answer, at the most.
const PIECE_BYTES_MAX: u64 = 64 << 10;
/// Up to here what was read is copied: a client that is slow to take it must not keep a page.
const COPIED_MAX: usize = 4 << 10;
/// What is kept to write requests in.
const OUT_BYTES_MAX: usize = 64 << 10;

impl Pages {
    /// The beginning of a request.
    pub(super) fn message(&self, method: &Method, target: &Uri) -> Message {
        Message::new(self.out.take(), method, target)
    }

    /// What was written is not needed any more.
    fn clear(&self, Message(mut out): Message) {
        out.clear();
        if out.capacity() <= OUT_BYTES_MAX {
            self.out.replace(out);
        }
    }

    /// Reads what has come, of so many bytes that may.
    fn read(&self, carrier: &mut Carrier, cx: &mut Context<'_>, bytes: u64) -> Poll<io::Result<Bytes>> {
        let wanted = usize::try_from(bytes.min(PIECE_BYTES_MAX)).unwrap_or(PAGE_BYTES);
        let mut page = self.page.take();
        if page.capacity() < wanted.min(PAGE_BYTES) {
            page.reserve(wanted);
        }
        let read = poll_read_buf(Pin::new(carrier), cx, &mut page);
        let came = if page.len() <= COPIED_MAX {
            let came = Bytes::copy_from_slice(&page);
            page.clear();
            came
        } else {
            page.split().freeze()
        };
        self.page.replace(page);
        Poll::Ready(ready!(read).map(|_| came))
    }
}

/// A connection with nothing around it.
pub(super) struct Plain {
    pub(super) carrier: Carrier,
    pub(super) counted: Counted,
    pub(super) refused: Refused,
    /// What of the request has not gone out.
    pub(super) unsent: Vec<u8>,
    /// Of what has gone out some may still be on this side.
    unflushed: bool,
    /// Something has come that was not announced, if only the end.
    spoilt: bool,
}

/// A request that is here whole.
pub(crate) struct Whole {
    pub(crate) method: Method,
    pub(crate) message: Message,
}

/// What is still to come of an answer.
pub(crate) struct Rest {
    /// What came together with the head.
    first: Bytes,
    left: u64,
}

impl Rest {
    /// How much of it nobody has taken.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }
}

/// What a cell says to a request.
pub(super) enum Said {
    Plainly(Response<Rest>),
    /// The library is to read it: so far it is this.
    Otherwise(Bytes),
}

impl Plain {
    pub(super) fn new(socket: impl Socket + 'static, counted: Counted) -> Self {
        let (carrier, refused) = Hearing::new(Box::new(socket) as Box<dyn Socket>);
        Self { carrier, counted, refused, unsent: Vec::new(), unflushed: false, spoilt: false }
    }

    /// The gate does not take this router's certificate.
    pub(super) fn refused(&self) -> Option<GateTls> {
        self.refused.said()
    }

    /// Whether it can take a request, as far as can be seen.
    pub(super) fn is_usable(&mut self) -> bool {
        self.is_settled() && self.is_silent(&mut Context::from_waker(Waker::noop()))
    }

    /// Whether nothing is left of the request and of its answer, which was read to its end.
    pub(super) fn is_settled(&self) -> bool {
        !self.spoilt && self.has_sent()
    }

    fn has_sent(&self) -> bool {
        self.unsent.is_empty() && !self.unflushed
    }

    /// Nothing may come before a request, and not the end either. Looked at however much this task has done already.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let carrier = &mut self.carrier;
        let look = std::future::poll_fn(|cx| Pin::new(&mut *carrier).poll_read(cx, &mut ReadBuf::new(&mut [0])));
        self.spoilt |= pin!(tokio::task::unconstrained(look)).poll(cx).is_ready();
        !self.spoilt
    }

    /// Sends, and waits for the head of the answer.
    pub(super) async fn send(&mut self, pages: &Pages, request: Whole) -> Result<Said, SendError> {
        let Whole { method, message } = request;
        let mut message = Some(message);
        std::future::poll_fn(|cx| {
            if let Some(ready) = message.take() {
                // What was closed while it was idle is found here, before anything of the request has gone.
                if !self.is_silent(cx) {
                    return Poll::Ready(Err(SendError::NotTaken(CellError::Closed)));
                }
                let Poll::Ready(written) = self.begin(cx, &ready.0) else {
                    message = Some(ready);
                    return Poll::Pending;
                };
                pages.clear(ready);
                written.map_err(SendError::broken)?;
            } else if !self.has_sent() {
                self.go_on(cx).map_err(SendError::broken)?;
            }
            let came = ready!(pages.read(&mut self.carrier, cx, PAGE_BYTES as u64)).map_err(SendError::broken)?;
            if came.is_empty() {
                return Poll::Ready(Err(SendError::Broken(CellError::Closed)));
            }
            Poll::Ready(Ok(self.take(came, &method)))
        })
        .await
    }

    /// The beginning of an answer.
    fn take(&mut self, came: Bytes, method: &Method) -> Said {
        let Some((head, bytes, length)) = head::read(&came, method) else { return Said::Otherwise(came) };
        let mut first = came.slice(bytes..);
        self.count(&mut first, length);
        Said::Plainly(head.map(|()| Rest { first, left: length }))
    }

    /// What is more than is still to come is nothing that anybody has asked for.
    fn count(&mut self, piece: &mut Bytes, left: u64) {
        if let Ok(left) = usize::try_from(left)
            && piece.len() > left
        {
            piece.truncate(left);
            self.spoilt = true;
        }
    }

    /// Writes the request, in one piece where it goes out as one. Pending: nothing of it has gone.
    fn begin(&mut self, cx: &mut Context<'_>, message: &[u8]) -> Poll<io::Result<()>> {
        let mut written = some_of(ready!(Pin::new(&mut self.carrier).poll_write(cx, message)))?;
        while written < message.len()
            && let Poll::Ready(some) = Pin::new(&mut self.carrier).poll_write(cx, &message[written..])
        {
            written += some_of(some)?;
        }
        self.unflushed = true;
        self.unsent.extend_from_slice(&message[written..]);
        Poll::Ready(self.go_on(cx))
    }

    /// Writes what is left of it.
    fn go_on(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let Poll::Ready(some) = Pin::new(&mut self.carrier).poll_write(cx, &self.unsent) else { return Ok(()) };
            self.unsent.drain(..some_of(some)?);
        }
        if let Poll::Ready(flushed) = Pin::new(&mut self.carrier).poll_flush(cx) {
            flushed?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// The next piece of the answer.
    pub(super) fn poll_rest(
        &mut self,
        rest: &mut Rest,
        pages: &Pages,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CellError>>> {
        if rest.left == 0 {
            return Poll::Ready(None);
        }
        if !self.has_sent() {
            self.go_on(cx).map_err(CellError::Io)?;
        }
        let mut piece = std::mem::take(&mut rest.first);
        if piece.is_empty() {
            piece = ready!(pages.read(&mut self.carrier, cx, rest.left)).map_err(CellError::Io)?;
            if piece.is_empty() {
                return Poll::Ready(Some(Err(CellError::Short(rest.left))));
            }
            self.count(&mut piece, rest.left);
        }
        rest.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

/// How much was written: a socket that takes nothing takes nothing more.
fn some_of(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
