//! What goes back to the client: a cell's answer as it streams in, or the router's own, with the account of the request
//! closed when the last byte has gone or the client has.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::body::Lingering;
use crate::conn::Busy;
use crate::fair::scheduler::Permit;
use crate::fair::tenants::OnItsWay;
use crate::metrics::Open;
use crate::observe::log::{Ended, Line};
use crate::pool::{CellBody, CellError, Lease};
use crate::room::{Kept, Rooms};
use crate::streams::Ongoing;

/// A cell's body, and the connection that it comes on.
pub(crate) struct Download {
    body: CellBody,
    lease: Option<Lease>,
    room: Option<Room>,
}

/// What an answer keeps of its cell until its end.
enum Room {
    /// Its place, for as long as its client reads.
    Inside(Rc<Kept>),
    /// It is one of those that go on without.
    Outside(#[expect(dead_code, reason = "counted until it is dropped")] Permit),
}

/// Up to here an answer is in buffers once its head is here, so that its cell has nothing left to do.
const BUFFERED_BYTES: u64 = 64 << 10;

impl Download {
    pub(crate) fn new(body: CellBody, lease: Lease) -> Self {
        let mut download = Self { body, lease: Some(lease), room: None };
        download.settle();
        download
    }

    /// Keeps its room in the cell for as long as the cell has something to do for it. An answer without a length may be a
    /// stream that is open for hours, and what it takes of the cell is not seen from here: it goes on without, if its tenant
    /// has not too many of those.
    #[must_use]
    pub(crate) fn keeping(mut self, permit: Option<Permit>, rooms: &Rc<Rooms>) -> Self {
        let left = self.body.size_hint().exact();
        if let Some(mut permit) =
            permit.filter(|_| self.lease.is_some() && left.is_none_or(|left| left > BUFFERED_BYTES))
        {
            if left.is_none() {
                permit.step_out();
            }
            self.room =
                Some(if permit.is_outside() { Room::Outside(permit) } else { Room::Inside(rooms.keep(permit)) });
        }
        self
    }

    /// The head of an answer after which the connection speaks another protocol.
    pub(crate) fn switched(body: CellBody, lease: Lease) -> Self {
        lease.upgraded();
        Self { body, lease: None, room: None }
    }

    /// Whether more of it comes, and nobody knows how much.
    pub(crate) fn has_no_end_in_sight(&self) -> bool {
        self.lease.is_some() && self.body.size_hint().exact().is_none()
    }

    /// Gives the connection back once nothing more comes on it.
    fn settle(&mut self) {
        if self.body.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            drop(self.room.take());
            lease.done();
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = CellError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CellError>>> {
        let this = &mut *self;
        if let Some(Room::Inside(kept)) = &this.room {
            kept.awaits_cell();
        }
        let frame = ready!(match &mut this.lease {
            Some(lease) => lease.poll_body(&mut this.body, cx),
            None => Pin::new(&mut this.body).poll_frame(cx),
        });
        match &frame {
            Some(Ok(_)) => {
                if let Some(Room::Inside(kept)) = &this.room {
                    kept.awaits_client();
                }
                this.settle();
            }
            Some(Err(_)) => drop(this.lease.take()),
            None => {
                if let Some(lease) = this.lease.take() {
                    lease.done();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// The cell's has broken off.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// The cell has sent nothing more of it for `timeouts.answer-idle`.
    #[error("the cell has stopped in the middle of its answer")]
    Stalled,
    /// It would go on in a cell that its tenant has left.
    #[error("the answer's tenant has moved")]
    Moved,
}

/// Whoever is polled so much later than its timer had gone off was not being read from.
const LATE_MAX: Duration = Duration::from_secs(1);

/// How long an answer may stand still. There is a timer only while one does.
struct Patience {
    for_so_long: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Whether nothing has come for too long, asked where nothing comes now.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.for_so_long)));
        if stalled.as_mut().poll(cx).is_pending() {
            return false;
        }
        if stalled.deadline().elapsed() < LATE_MAX {
            return true;
        }
        // Nobody has looked meanwhile, as the client took nothing: what the cell has sent since is read only now.
        stalled.as_mut().reset(Instant::now() + LATE_MAX);
        stalled.as_mut().poll(cx).is_ready()
    }
}

/// A body for the client.
pub(crate) struct AnswerBody {
    content: Content,
    /// With a cell that has told how long its answer is.
    patience: Option<Patience>,
    busy: Busy,
    _open: Open,
    on_its_way: Option<OnItsWay>,
    ongoing: Option<Box<Ongoing>>,
    /// Its line in the access log, where there is one.
    line: Option<Box<Line>>,
    /// Of a request that is still on its way.
    lingering: Option<Lingering>,
}

enum Content {
    Own(Option<Bytes>),
    Cell(Download),
}

impl AnswerBody {
    pub(crate) fn own(bytes: Bytes, open: Open, busy: Busy, line: Option<Box<Line>>) -> Self {
        let content = Content::Own(Some(bytes).filter(|bytes| !bytes.is_empty()));
        Self { content, patience: None, busy, _open: open, on_its_way: None, ongoing: None, line, lingering: None }
    }

    /// A cell's, which may stand still for so long.
    pub(crate) fn cell(
        download: Download,
        for_so_long: Duration,
        (open, busy): (Open, Busy),
        line: Option<Box<Line>>,
    ) -> Self {
        let patience = download.size_hint().exact().map(|_| Patience { for_so_long, stalled: None });
        let content = Content::Cell(download);
        Self { content, patience, busy, _open: open, on_its_way: None, ongoing: None, line, lingering: None }
    }

    /// With a request that is still on its way.
    #[must_use]
    pub(crate) fn before(mut self, lingering: Option<Lingering>) -> Self {
        self.lingering = lingering;
        self
    }

    /// With its tenant's place, which is free once it has gone, and with what ends it where no end of it is in sight.
    #[must_use]
    pub(crate) fn going_on(mut self, on_its_way: Option<OnItsWay>, ongoing: Option<Box<Ongoing>>) -> Self {
        (self.on_its_way, self.ongoing) = (on_its_way, ongoing);
        self
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        if let Some(ongoing) = &mut self.ongoing
            && let Some(last) = ongoing.end(cx)
        {
            self.content = Content::Own(None);
            self.ongoing = None;
            self.note(Ended::Moved);
            return Poll::Ready(last);
        }
        match &mut self.content {
            Content::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Cell(download) => {
                let Poll::Ready(frame) = Pin::new(download).poll_frame(cx) else {
                    if !self.patience.as_mut().is_some_and(|patience| patience.is_over(cx)) {
                        return Poll::Pending;
                    }
                    self.content = Content::Own(None);
                    return Poll::Ready(Some(Err(AnswerError::Stalled)));
                };
                if let Some(patience) = &mut self.patience {
                    patience.stalled = None;
                }
                Poll::Ready(frame.map(|frame| Ok(frame?)))
            }
        }
    }

    fn note(&mut self, ended: Ended) {
        if let Some(line) = &mut self.line {
            line.ended.get_or_insert(ended);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = &mut *self;
        this.busy.asked();
        let frame = match ready!(this.poll_content(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                this.note(if matches!(error, AnswerError::Stalled) { Ended::Stalled } else { Ended::Broken });
                return Poll::Ready(Some(Err(error)));
            }
            None => {
                this.note(Ended::Whole);
                return Poll::Ready(None);
            }
        };
        let piece = match &mut this.ongoing {
            Some(ongoing) => ongoing.pass(frame),
            None => frame,
        };
        this.busy.handed_over();
        if let Some(data) = piece.data_ref() {
            if let Some(on_its_way) = &this.on_its_way {
                on_its_way.answered(data.len());
            }
            if let Some(line) = &mut this.line {
                line.answered_bytes += data.len() as u64;
            }
        }
        Poll::Ready(Some(Ok(piece)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(bytes) => bytes.is_none(),
            Content::Cell(download) => download.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Content::Cell(download) => download.size_hint(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if self.is_end_stream() {
            self.note(Ended::Whole);
        }
    }
}
