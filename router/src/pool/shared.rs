//! An HTTP/2 connection to an instance: many requests at once, and a task of its own that polls it for all of them.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::hearing::{Hearing, Refused};
use super::{CellBody, ConnectError, Counted, Pool, SendError, Sent};
use crate::front::SameThread;
use crate::tls::GateTls;

/// Requests at once on one HTTP/2 connection; the next one is opened for more.
const STREAMS_MAX: usize = 100;
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// An HTTP/2 connection that does not answer a ping is dead, though TCP may not know yet.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTP/2 connection.
pub(super) struct Shared {
    sender: http2::SendRequest<Sent>,
    task: AbortHandle,
    streams: Cell<usize>,
    used: Cell<Instant>,
    refused: Refused,
}

impl Shared {
    pub(super) async fn open<S>(stream: S, counted: Counted) -> Result<Rc<Self>, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stream, refused) = Hearing::new(stream);
        let (sender, connection) = http2::Builder::new(SameThread)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Handshake)?;
        let task = tokio::task::spawn_local(async move {
            let _counted = counted;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a cell has broken");
            }
        });
        let (streams, used) = (Cell::new(0), Cell::new(Instant::now()));
        Ok(Rc::new(Self { sender, task: task.abort_handle(), streams, used, refused }))
    }

    /// The gate does not take this router's certificate.
    pub(super) fn refused(&self) -> Option<GateTls> {
        self.refused.said()
    }

    pub(super) fn has_room(&self) -> bool {
        self.sender.is_ready() && self.streams.get() < STREAMS_MAX
    }

    /// One request more.
    pub(super) fn enter(&self) {
        self.streams.set(self.streams.get() + 1);
    }

    /// One request less.
    pub(super) fn leave(&self) {
        self.streams.set(self.streams.get() - 1);
        self.used.set(Instant::now());
    }

    /// Whether it is to be kept: neither closed, nor unused for so long. One that is unused is closed.
    pub(super) fn is_wanted(&self, idle_max: Duration) -> bool {
        let rested = self.streams.get() == 0 && self.used.get().elapsed() >= idle_max;
        if rested {
            self.task.abort();
        }
        !rested && !self.sender.is_closed()
    }

    /// Sends, and waits for the head of the answer.
    pub(super) async fn send(&self, request: Request<Sent>) -> Result<Response<CellBody>, SendError> {
        let mut sender = self.sender.clone();
        Ok(sender.try_send_request(request).await?.map(CellBody::Library))
    }
}

/// Somebody opens a connection that many will share; those wait until this is dropped.
pub(super) struct Opening<'p> {
    pub(super) pool: &'p Rc<Pool>,
    pub(super) address: &'p Arc<str>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let opening = self.pool.hosts.borrow_mut().get_mut(self.address).and_then(|host| host.opening.take());
        if let Some(opening) = opening {
            opening.notify_waiters();
        }
    }
}
