//! An HTTP/1.1 connection to an instance that the library speaks on. It has no task of its own. Whoever waits for something
//! that comes on it polls it, so that a request and its answer need no scheduler between the client's connection and the
//! cell's:
//!
//! ```text
//!            ┌── send, and wait for the head ──┐    ┌── read the body ──┐
//! idle ──────┤                                 ├────┤                   ├──► idle
//! (looked at └───── polled by the request ─────┘    └─ by the answer ───┘
//!  every second)       │
//!                                      └► by a task: the client still sends its body, or it has become another protocol's
//! ```
//! An answer that comes before the request has gone out whole must not keep the rest of that waiting for a client that
//! does not read: from then on a task polls.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

use super::Sent;
use super::hearing::Refused;
use super::plain::Plain;
use super::replay::Replay;
use crate::tls::GateTls;

/// What hyper may buffer of an answer, and the size of the pieces of a body.
const BUFFER_BYTES: usize = 64 << 10;
/// How long a connection may take until it can have another request.
const SETTLE: Duration = Duration::from_millis(200);

/// A connection, and who polls it.
pub(super) struct Driven {
    sender: http1::SendRequest<Sent>,
    driver: Driver,
    refused: Refused,
}

/// Who polls the connection.
enum Driver {
    Here(Box<Here>),
    Task(AbortOnDropHandle<()>),
    /// It is over.
    Ended,
}

/// A connection that is polled by whoever waits for something on it.
struct Here {
    connection: Pin<Box<dyn Future<Output = ()>>>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// What the connection wakes: the task that has polled it last, but not while somebody does something to it who polls it
/// next.
struct Bell {
    task: AtomicWaker,
    hushed: AtomicBool,
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.hushed.load(Ordering::Acquire) {
            self.rung.store(true, Ordering::Release);
        } else {
            self.task.wake();
        }
    }
}

impl Here {
    fn new(connection: impl Future<Output = ()> + 'static) -> Box<Self> {
        let bell = Bell { task: AtomicWaker::new(), hushed: AtomicBool::new(false), rung: AtomicBool::new(false) };
        let bell = Arc::new(bell);
        Box::new(Self { connection: Box::pin(connection), waker: Waker::from(Arc::clone(&bell)), bell })
    }
}

impl Driver {
    /// From here on something is done to the connection. That something was sent, taken, or is wanted, is told to it by
    /// waking whoever has polled it last, which is this very task, or one that has no more to do with it: neither need run
    /// for that, if this one polls the connection before it waits.
    fn hush(&self) {
        if let Self::Here(here) = self {
            here.bell.rung.store(false, Ordering::Relaxed);
            here.bell.hushed.store(true, Ordering::Release);
        }
    }

    /// It is done. Whether the connection was told something.
    fn listen(&self) -> bool {
        let Self::Here(here) = self else { return false };
        here.bell.hushed.store(false, Ordering::Release);
        here.bell.rung.load(Ordering::Acquire)
    }

    /// Lets it do what it can. Whatever it finds for others is there afterwards.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Self::Here(here) = self {
            here.bell.task.register(cx.waker());
            if here.connection.as_mut().poll(&mut Context::from_waker(&here.waker)).is_ready() {
                *self = Self::Ended;
            }
        }
    }

    /// Polls what only the connection brings, with the connection.
    fn with<T>(&mut self, cx: &mut Context<'_>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if let Self::Here(_) = self {
            self.hush();
            let outcome = poll(&mut Context::from_waker(Waker::noop()));
            self.listen();
            // Whoever has got something polls again, and who has not lets the connection go on.
            if outcome.is_ready() {
                return outcome;
            }
            self.drive(cx);
        }
        if let Self::Here(_) = self {
            self.hush();
            let outcome = poll(&mut Context::from_waker(Waker::noop()));
            if self.listen() && outcome.is_pending() {
                cx.waker().wake_by_ref();
            }
            return outcome;
        }
        poll(cx)
    }

    /// From now on a task polls.
    fn leave_to_a_task(&mut self) {
        *self = match std::mem::replace(self, Self::Ended) {
            Self::Here(here) => Self::Task(AbortOnDropHandle::new(tokio::task::spawn_local(here.connection))),
            other => other,
        };
    }
}

impl Driven {
    /// Gives a connection to the library. `answer`: what has come of it, where a request has gone out that is sent next.
    pub(super) async fn take_over(plain: Plain, answer: Option<Bytes>) -> hyper::Result<Self> {
        let Plain { carrier, counted, refused, unsent, .. } = plain;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES)
            .handshake(TokioIo::new(Replay::new(carrier, answer, unsent)))
            .await?;
        let here = Here::new(async move {
            let _counted = counted;
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a cell has broken");
            }
        });
        Ok(Self { sender, driver: Driver::Here(here), refused })
    }

    /// The gate does not take this router's certificate.
    pub(super) fn refused(&self) -> Option<GateTls> {
        self.refused.said()
    }

    /// Whether it can take a request. While it is idle nobody else notices that the other side has closed it.
    pub(super) fn is_usable(&mut self) -> bool {
        self.driver.drive(&mut Context::from_waker(Waker::noop()));
        self.sender.is_ready()
    }

    /// Sends, and waits for the head of the answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Sent>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Sent>>> {
        let (sender, driver) = (&mut self.sender, &mut self.driver);
        // What the connection has found must not be kept back because this task has done much already: nobody would wake it.
        driver.hush();
        let sent = sender.try_send_request(request);
        driver.listen();
        let mut answer = std::pin::pin!(tokio::task::unconstrained(sent));
        std::future::poll_fn(|cx| driver.with(cx, |cx| answer.as_mut().poll(cx))).await
    }

    /// The next piece of the answer's body.
    pub(super) fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.driver.with(cx, |cx| Pin::new(&mut *body).poll_frame(cx))
    }

    /// Goes on without anybody who waits for it.
    pub(super) fn leave_to_a_task(&mut self) {
        self.driver.leave_to_a_task();
    }

    /// Goes on to its end as another protocol's, without anybody who could take it back.
    pub(super) fn upgraded(mut self) {
        self.driver.leave_to_a_task();
        if let Driver::Task(task) = self.driver {
            // Nobody waits for it, and nobody takes it back.
            drop(task.detach());
        }
    }

    /// Whether it can take another request, now that the answer was read. None: that is not yet known.
    pub(super) fn is_settled(&self) -> Option<bool> {
        if self.sender.is_ready() {
            Some(true)
        } else if self.sender.is_closed() || matches!(self.driver, Driver::Ended) {
            Some(false)
        } else {
            None
        }
    }

    /// hyper says a moment later that it can take another request, or never, where the cell has not read the body.
    pub(super) async fn settle(&mut self) -> bool {
        let ready = std::future::poll_fn(|cx| {
            self.driver.drive(cx);
            self.sender.poll_ready(cx)
        });
        matches!(tokio::time::timeout(SETTLE, ready).await, Ok(Ok(())))
    }
}
