//! What comes of a request on a connection, whoever has written it there: an answer's body, or an error.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::Sent;
use super::plain::Rest;

/// A cell's body. What is plain comes only with its connection ([`Lease::poll_body`](super::Lease::poll_body)).
pub(crate) enum CellBody {
    Library(Incoming),
    Plain(Rest),
}

impl Body for CellBody {
    type Data = Bytes;
    type Error = CellError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CellError>>> {
        match self.get_mut() {
            Self::Library(body) => Pin::new(body).poll_frame(cx).map_err(CellError::Library),
            Self::Plain(rest) if rest.left() == 0 => Poll::Ready(None),
            Self::Plain(_) => Poll::Ready(Some(Err(CellError::Closed))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Library(body) => body.is_end_stream(),
            Self::Plain(rest) => rest.left() == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Library(body) => body.size_hint(),
            Self::Plain(rest) => SizeHint::with_exact(rest.left()),
        }
    }
}

/// What is wrong with a connection to a cell.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CellError {
    #[error(transparent)]
    Library(#[from] hyper::Error),
    #[error("connection error: {0}")]
    Io(#[from] io::Error),
    #[error("connection closed before message completed")]
    Closed,
    #[error("connection closed with {0} bytes of the answer still to come")]
    Short(u64),
}

impl CellError {
    /// What came is no HTTP.
    pub(crate) fn is_parse(&self) -> bool {
        matches!(self, Self::Library(error) if error.is_parse())
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Nothing of the request has gone out.
    NotTaken(CellError),
    /// It may have run.
    Broken(CellError),
}

impl SendError {
    pub(super) fn broken(error: impl Into<CellError>) -> Self {
        Self::Broken(error.into())
    }
}

impl From<TrySendError<Request<Sent>>> for SendError {
    fn from(mut error: TrySendError<Request<Sent>>) -> Self {
        let taken = error.take_message().is_none();
        let error = CellError::Library(error.into_error());
        if taken { Self::Broken(error) } else { Self::NotTaken(error) }
    }
}
