//! A connection in use by one request.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body::{Body, Frame};

use super::alone::Alone;
use super::plain::{Message, Whole};
use super::shared::Shared;
use super::{CellBody, CellError, Pool, SendError, Sent};
use crate::instance::{Instance, Occupied};
use crate::tls::GateTls;

/// A connection in use by one request. Dropped before [`Lease::done`], the request is taken back: an HTTP/1.1 connection
/// is closed with whatever was on it, an HTTP/2 stream is reset by what hyper drops with it.
pub(crate) struct Lease {
    pool: Rc<Pool>,
    address: Arc<str>,
    leased: Leased,
    /// The instance counts it until it is dropped.
    occupied: Option<Occupied>,
}

enum Leased {
    Alone(Alone),
    Shared(InUse),
}

/// One of the requests on a shared connection.
struct InUse(Rc<Shared>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Lease {
    pub(super) fn alone(pool: &Rc<Pool>, address: &Arc<str>, connection: Alone) -> Self {
        Self::new(pool, address, Leased::Alone(connection))
    }

    pub(super) fn shared(pool: &Rc<Pool>, address: &Arc<str>, connection: Rc<Shared>) -> Self {
        connection.enter();
        Self::new(pool, address, Leased::Shared(InUse(connection)))
    }

    fn new(pool: &Rc<Pool>, address: &Arc<str>, leased: Leased) -> Self {
        Self { pool: Rc::clone(pool), address: Arc::clone(address), leased, occupied: None }
    }

    /// Counted by its instance from now on.
    #[must_use]
    pub(crate) fn to(mut self, occupied: Occupied) -> Self {
        self.occupied = Some(occupied);
        self
    }

    /// The instance that it goes to.
    pub(crate) fn instance(&self) -> Option<&Arc<Instance>> {
        self.occupied.as_ref().map(Occupied::instance)
    }

    /// Where it goes to.
    pub(crate) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// The beginning of a request, where it need not be the library that writes it.
    pub(crate) fn message(&self, method: &Method, target: &Uri) -> Option<Message> {
        let Leased::Alone(connection) = &self.leased else { return None };
        connection.message(&self.pool.pages, method, target)
    }

    /// Sends, and waits for the head of the answer. `whole`: the same as `request` makes, where it is here whole.
    pub(crate) async fn send(
        &mut self,
        whole: Option<Whole>,
        request: impl FnOnce() -> Request<Sent>,
    ) -> Result<Response<CellBody>, SendError> {
        match &mut self.leased {
            Leased::Alone(connection) => connection.send(&self.pool.pages, whole, request).await,
            Leased::Shared(connection) => Box::pin(connection.0.send(request())).await,
        }
    }

    /// The gate does not take this router's certificate, and has read nothing of the request.
    pub(crate) fn refused(&self) -> Option<GateTls> {
        match &self.leased {
            Leased::Alone(connection) => connection.refused(),
            Leased::Shared(connection) => connection.0.refused(),
        }
    }

    /// The request has not gone out whole, and goes on while its answer is read, or not read.
    pub(crate) fn goes_on_sending(&mut self) {
        if let Leased::Alone(connection) = &mut self.leased {
            connection.leave_to_a_task();
        }
    }

    /// The next piece of the answer.
    pub(crate) fn poll_body(
        &mut self,
        body: &mut CellBody,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CellError>>> {
        match &mut self.leased {
            Leased::Alone(connection) => connection.poll_body(&self.pool.pages, body, cx),
            Leased::Shared(_) => Pin::new(body).poll_frame(cx),
        }
    }

    /// The connection has become another protocol's and does not come back.
    pub(crate) fn upgraded(self) {
        if let Leased::Alone(connection) = self.leased {
            connection.upgraded();
        }
    }

    /// The answer was read to its end: the connection may serve another request.
    pub(crate) fn done(self) {
        let Leased::Alone(mut connection) = self.leased else { return };
        match connection.is_settled() {
            Some(true) => self.pool.give_back(&self.address, connection),
            Some(false) => {}
            None => {
                let (pool, address) = (self.pool, self.address);
                tokio::task::spawn_local(async move {
                    if connection.settle().await {
                        pool.give_back(&address, connection);
                    }
                });
            }
        }
    }
}
