//! What goes back to the client: a cell's answer as it streams in, or the router's own, with the account of the request
//! closed when the last byte has gone or the client has.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::conn::Busy;
use crate::fair::scheduler::Permit;
use crate::fair::tenants::OnItsWay;
use crate::metrics::Open;
use crate::pool::Lease;

/// A cell's body, and the connection that it comes on.
pub(crate) struct Download {
    body: Incoming,
    lease: Option<Lease>,
    permit: Option<Permit>,
}

impl Download {
    pub(crate) fn new(body: Incoming, lease: Lease) -> Self {
        let mut download = Self { body, lease: Some(lease), permit: None };
        download.settle();
        download
    }

    /// Keeps its room in the cell until its end, if that is in sight: an answer without a length may be a stream that is
    /// open for hours, and what it takes of the cell is not seen from here.
    #[must_use]
    pub(crate) fn keeping(mut self, permit: Option<Permit>) -> Self {
        self.permit = permit.filter(|_| self.lease.is_some() && self.body.size_hint().exact().is_some());
        self
    }

    /// The head of an answer after which the connection speaks another protocol.
    pub(crate) fn switched(body: Incoming, lease: Lease) -> Self {
        lease.upgraded();
        Self { body, lease: None, permit: None }
    }

    /// Gives the connection back once nothing more comes on it.
    fn settle(&mut self) {
        if self.body.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            drop(self.permit.take());
            lease.done();
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let frame = ready!(match &mut this.lease {
            Some(lease) => lease.poll_body(&mut this.body, cx),
            None => Pin::new(&mut this.body).poll_frame(cx),
        });
        match &frame {
            Some(Ok(_)) => this.settle(),
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

/// A body for the client.
pub(crate) struct AnswerBody {
    content: Content,
    busy: Busy,
    _open: Open,
    on_its_way: Option<OnItsWay>,
}

enum Content {
    Own(Option<Bytes>),
    Cell(Download),
}

impl AnswerBody {
    pub(crate) fn own(bytes: Bytes, open: Open, busy: Busy) -> Self {
        Self {
            content: Content::Own(Some(bytes).filter(|bytes| !bytes.is_empty())),
            busy,
            _open: open,
            on_its_way: None,
        }
    }

    pub(crate) fn cell(download: Download, open: Open, busy: Busy, on_its_way: Option<OnItsWay>) -> Self {
        Self { content: Content::Cell(download), busy, _open: open, on_its_way }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.busy.asked();
        let frame = match &mut self.content {
            Content::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Cell(download) => Pin::new(download).poll_frame(cx),
        };
        if let Poll::Ready(Some(Ok(piece))) = &frame {
            self.busy.handed_over();
            if let (Some(on_its_way), Some(data)) = (&self.on_its_way, piece.data_ref()) {
                on_its_way.answered(data.len());
            }
        }
        frame
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
