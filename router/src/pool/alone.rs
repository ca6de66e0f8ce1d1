//! An HTTP/1.1 connection to an instance, for one request at a time. It begins as a socket ([`Plain`]), and the library has
//! it ([`Driven`]) from the first request or answer on that only the library can write or read.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body::Frame;

use super::driven::Driven;
use super::plain::{Message, Pages, Plain, Said, Whole};
use super::{CellBody, CellError, SendError, Sent};
use crate::tls::GateTls;

/// An HTTP/1.1 connection. Boxed once, because it is handed from stage to stage with each answer.
pub(super) enum Alone {
    Plain(Box<Plain>),
    Driven(Box<Driven>),
    /// It could not be given to the library.
    Over,
}

impl Alone {
    /// The gate does not take this router's certificate.
    pub(super) fn refused(&self) -> Option<GateTls> {
        match self {
            Self::Plain(plain) => plain.refused(),
            Self::Driven(driven) => driven.refused(),
            Self::Over => None,
        }
    }

    /// Whether the library has it.
    pub(super) fn is_driven(&self) -> bool {
        matches!(self, Self::Driven(_))
    }

    /// Whether it can take a request. While it is idle nobody else notices that the other side has closed it.
    pub(super) fn is_usable(&mut self) -> bool {
        match self {
            Self::Plain(plain) => plain.is_usable(),
            Self::Driven(driven) => driven.is_usable(),
            Self::Over => false,
        }
    }

    /// The beginning of a request, where it need not be the library that writes it.
    pub(super) fn message(&self, pages: &Pages, method: &Method, target: &Uri) -> Option<Message> {
        matches!(self, Self::Plain(_)).then(|| pages.message(method, target))
    }

    /// Sends, and waits for the head of the answer. `request` makes what `whole` is for the library.
    pub(super) async fn send(
        &mut self,
        pages: &Pages,
        whole: Option<Whole>,
        request: impl FnOnce() -> Request<Sent>,
    ) -> Result<Response<CellBody>, SendError> {
        let mut answer = None;
        if let (Self::Plain(plain), Some(whole)) = (&mut *self, whole) {
            match plain.send(pages, whole).await? {
                Said::Plainly(response) => return Ok(response.map(CellBody::Plain)),
                Said::Otherwise(came) => answer = Some(came),
            }
        }
        // Boxed, as whatever is less frequent.
        Box::pin(self.send_driven(answer, request())).await
    }

    async fn send_driven(
        &mut self,
        answer: Option<Bytes>,
        request: Request<Sent>,
    ) -> Result<Response<CellBody>, SendError> {
        let has_gone = answer.is_some();
        if let Self::Plain(_) = self
            && let Self::Plain(plain) = std::mem::replace(self, Self::Over)
        {
            let driven = Driven::take_over(*plain, answer).await;
            *self = Self::Driven(Box::new(driven.map_err(|error| SendError::Broken(CellError::Library(error)))?));
        }
        let Self::Driven(driven) = self else { return Err(SendError::NotTaken(CellError::Closed)) };
        match driven.send(request).await {
            Ok(response) => Ok(response.map(CellBody::Library)),
            Err(error) => Err(match SendError::from(error) {
                // Whatever the library says: it was written before.
                SendError::NotTaken(error) if has_gone => SendError::Broken(error),
                other => other,
            }),
        }
    }

    /// The next piece of the answer's body.
    pub(super) fn poll_body(
        &mut self,
        pages: &Pages,
        body: &mut CellBody,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CellError>>> {
        match (self, body) {
            (Self::Plain(plain), CellBody::Plain(rest)) => plain.poll_rest(rest, pages, cx),
            (Self::Driven(driven), CellBody::Library(body)) => {
                driven.poll_body(body, cx).map_err(CellError::Library)
            }
            _ => Poll::Ready(Some(Err(CellError::Closed))),
        }
    }

    /// Goes on without anybody who waits for it.
    pub(super) fn leave_to_a_task(&mut self) {
        if let Self::Driven(driven) = self {
            driven.leave_to_a_task();
        }
    }

    /// Goes on to its end as another protocol's, without anybody who could take it back.
    pub(super) fn upgraded(self) {
        if let Self::Driven(driven) = self {
            driven.upgraded();
        }
    }

    /// Whether it can take another request, now that the answer was read. None: that is not yet known.
    pub(super) fn is_settled(&self) -> Option<bool> {
        match self {
            Self::Plain(plain) => Some(plain.is_settled()),
            Self::Driven(driven) => driven.is_settled(),
            Self::Over => Some(false),
        }
    }

    /// Waits a moment until that is known.
    pub(super) async fn settle(&mut self) -> bool {
        match self {
            Self::Plain(plain) => plain.is_settled(),
            Self::Driven(driven) => driven.settle().await,
            Self::Over => false,
        }
    }
}
