//! A client's connection from its first byte to its last: TLS or not, HTTP/1 or HTTP/2, and every timer on it.
//!
//! ```text
//! socket ─► TLS handshake ─► which protocol ─► HTTP/1: strict reader ─► hyper ─► pipeline
//!           (timed)          (first bytes       HTTP/2 ───────────────► hyper ─┘
//!                             or ALPN, timed)
//! ```
//! Between requests an HTTP/1 connection gives back what hyper needs for it (`resting`).
//! A connection ends when it is idle for too long, when its client reads nothing for too long, when most of what it
//! asks for it takes back, and when the router stops.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cell_client::net::Connection;
use futures::future::{self, Either};
use http::header::CONNECTION;
use http::{HeaderValue, Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::conn::{Came, Conn};
use crate::context::Worker;
use crate::identify::Proven;
use crate::options::Options;
use crate::patience::Patient;
use crate::pipeline;
use crate::resting;
use crate::seldom::Seldom;
use crate::strict::{Said, StrictLimits, StrictStream};
use crate::tls::{Accepted, TlsFront};
use crate::worker::Phase;

/// Small beside the connection's: what a client may send before anybody asks is what is held here of a held upload.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// Much more than one stream's: a held upload must not stop the others of its connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const READ_BUFFER_BYTES: usize = 64 << 10;
const SEND_BUFFER_BYTES: usize = 64 << 10;
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Streams that a client has reset before they were looked at, and streams that were reset here because the client broke
/// the protocol on them: more than that ends the connection (rapid reset, MadeYouReset).
const PENDING_RESETS_MAX: usize = 20;
const LOCAL_RESETS_MAX: usize = 100;
/// How many times the limit a head may have that is read all the same, so that its refusal has a code and a line in the log.
const HEAD_READ_FACTOR: usize = 4;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long to wait before looking again whether the rest of a preface has come.
const PREFACE_PAUSE: Duration = Duration::from_millis(10);
/// Headers that hyper takes unless it is told otherwise.
const HYPER_HEADERS: usize = 100;
/// How often a connection is looked at for what only time tells.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// After how long without a request an HTTP/1 connection rests.
const REST_AFTER: Duration = Duration::from_secs(1);
/// How long who has just come may take to say what it wants, once the router closes what is idle: it has come in time.
const LAST_WORD_TIME_MAX: Duration = Duration::from_secs(1);
/// How long saying goodbye to a client may take that has asked nothing.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);

/// A client's HTTP/1 connection.
type Client<S> = StrictStream<Patient<S>>;

/// What every connection of a thread needs.
pub(crate) struct Front {
    pub(crate) worker: Rc<Worker>,
    pub(crate) options: Arc<Options>,
    pub(crate) tls: Option<TlsFront>,
    pub(crate) quiescing: Rc<Cell<bool>>,
}

/// Runs what hyper spawns on the thread of its connection.
#[derive(Clone, Copy)]
pub(crate) struct SameThread;

impl<F: Future + 'static> hyper::rt::Executor<F> for SameThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// What h2 takes of a head, and by which it bounds the number of CONTINUATION frames. A larger one it answers itself, with a
/// bare 431, and four times this with the end of the connection; up to here a head is read and refused as any other.
fn header_list_bytes(header_bytes_max: usize) -> u32 {
    u32::try_from(header_bytes_max.saturating_mul(HEAD_READ_FACTOR)).unwrap_or(u32::MAX)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Http1,
    Http2,
    Undecided,
}

/// What the first bytes of a connection are the beginning of.
fn spoken(first: &[u8]) -> Spoken {
    let length = first.len().min(PREFACE.len());
    if first[..length] != PREFACE[..length] {
        Spoken::Http1
    } else if length == PREFACE.len() {
        Spoken::Http2
    } else {
        Spoken::Undecided
    }
}

impl Front {
    /// Serves a connection to its end.
    pub(crate) async fn connection(self: &Rc<Self>, stream: Connection, came: Came, phase: watch::Receiver<Phase>) {
        let peer = came.peer;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let outcome = match &self.tls {
            Some(tls) => Box::pin(self.over_tls(tls, stream, came, phase)).await,
            None => self.in_the_clear(stream, came, phase).await,
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, %peer, "a client's connection has broken");
        }
    }

    async fn over_tls(
        self: &Rc<Self>,
        tls: &TlsFront,
        stream: Connection,
        came: Came,
        phase: watch::Receiver<Phase>,
    ) -> hyper::Result<()> {
        let peer = came.peer;
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(self.worker.live().timeouts.handshake, tls.accept(stream)) => accepted,
            () = until_too_late(phase.clone()) => return Ok(()),
        };
        let came = Came { secure: true, ..came };
        let Accepted { mut stream, http2, certified } = match accepted {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => {
                self.worker.metrics.tls_failures.inc();
                tracing::debug!(%error, %peer, "a TLS handshake has failed");
                return Ok(());
            }
            Err(_) => {
                self.worker.metrics.tls_failures.inc();
                tracing::debug!(%peer, "a TLS handshake was not finished in time");
                return Ok(());
            }
        };
        let header = self.worker.live().timeouts.header;
        let speaks = async { matches!(tokio::time::timeout(header, stream.fill_buf()).await, Ok(Ok([_, ..]))) };
        let speaks = tokio::select! {
            speaks = speaks => speaks,
            () = until_too_late(phase.clone()) => return Ok(()),
        };
        if !speaks {
            tracing::debug!(%peer, "a client said nothing after its TLS handshake");
            return Ok(());
        }
        if http2 {
            let conn = Conn::new(came, certified, None);
            Box::pin(self.http2(stream, conn, phase)).await
        } else {
            let conn = Conn::new(came, certified, Some(Arc::default()));
            Box::pin(self.http1(stream, conn, phase)).await
        }
    }

    async fn in_the_clear(
        self: &Rc<Self>,
        mut stream: Connection,
        came: Came,
        phase: watch::Receiver<Phase>,
    ) -> hyper::Result<()> {
        let peer = came.peer;
        let first = tokio::select! {
            first = tokio::time::timeout(self.worker.live().timeouts.header, sniff(&mut stream)) => first,
            () = until_too_late(phase.clone()) => return Ok(()),
        };
        match first {
            Ok(Ok(Spoken::Http2)) => {
                Box::pin(self.http2(stream, Conn::new(came, Proven::Nobody, None), phase)).await
            }
            Ok(Ok(Spoken::Http1 | Spoken::Undecided)) => {
                Box::pin(self.http1(stream, Conn::new(came, Proven::Nobody, Some(Arc::default())), phase)).await
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, %peer, "a client left before it said anything");
                Ok(())
            }
            Err(_) => {
                tracing::debug!(%peer, "a client said nothing in time");
                Ok(())
            }
        }
    }

    async fn http1<S>(
        self: &Rc<Self>,
        stream: S,
        conn: Rc<Conn>,
        mut phase: watch::Receiver<Phase>,
    ) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (limits, timeouts) = (&self.options.limits, self.worker.live().timeouts.clone());
        let strict = StrictLimits { head: limits.head(), head_time: timeouts.header };
        let said: Arc<Said> = conn.said.clone().unwrap_or_default();
        let mut stream = StrictStream::new(Patient::new(stream, timeouts.write_idle), strict, said);
        loop {
            match Box::pin(self.speak_http1(stream, &conn, &mut phase)).await? {
                Some(back) => stream = back,
                None => return Ok(()),
            }
            conn.rests();
            if !self.rest(&mut stream, &conn, &mut phase).await {
                // What can be said to a client that has asked nothing, where it still listens.
                let _closed = tokio::time::timeout(CLOSE_TIME_MAX, stream.shutdown()).await;
                return Ok(());
            }
        }
    }

    /// Serves requests until the connection ends, or until nothing has been asked for a moment: then it gives the stream
    /// back. Boxed by its caller, so that a connection that rests does not carry it.
    async fn speak_http1<S>(
        self: &Rc<Self>,
        stream: Client<S>,
        conn: &Rc<Conn>,
        phase: &mut watch::Receiver<Phase>,
    ) -> hyper::Result<Option<Client<S>>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (limits, rest_after) = (&self.options.limits, REST_AFTER.min(self.worker.live().timeouts.idle));
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // A head that is coming in is timed by the strict reader, and no head at all by whoever lets the connection rest.
            .header_read_timeout(None)
            .max_header_size(limits.header_bytes_max)
            .max_buf_size(READ_BUFFER_BYTES.max(limits.header_bytes_max));
        // The strict reader counts them. hyper has room for a hundred at hand, and allocates it where it is told a number.
        if limits.headers_max > HYPER_HEADERS {
            builder.max_headers(limits.headers_max);
        }
        let (lent, lender) = resting::lend(stream);
        let (front, served) = (Rc::clone(self), Rc::clone(conn));
        let service = service_fn(move |request| front.serve(request, &served));
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(lent), service).with_upgrades());
        loop {
            let aside = Seldom::new(Box::pin(aside(phase, rest_after)));
            match future::select(connection.as_mut(), aside).await {
                Either::Left((ended, _)) => return ended.map(|()| None),
                Either::Right((Aside::Phase(Phase::Serving | Phase::Quiescing | Phase::HandedOver), _)) => {}
                Either::Right((Aside::Phase(Phase::Closing), _)) => connection.as_mut().graceful_shutdown(),
                Either::Right((Aside::Phase(Phase::Cut), _)) => return Ok(None),
                Either::Right((Aside::Time, _)) => {
                    let quiet = conn.activity.idle_since().is_some_and(|since| since.elapsed() >= rest_after);
                    if quiet && let Some(back) = lender.take_back(StrictStream::is_between_messages) {
                        return Ok(Some(back));
                    }
                }
            }
        }
    }

    /// Waits for the first bytes of the next request. False: the connection is over.
    async fn rest<S>(&self, stream: &mut Client<S>, conn: &Conn, phase: &mut watch::Receiver<Phase>) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let since = conn.activity.idle_since().unwrap_or_else(Instant::now);
        let over = since + self.worker.live().timeouts.idle;
        if *phase.borrow() >= Phase::Closing {
            return false;
        }
        tokio::select! {
            came = stream.first_bytes() => came.unwrap_or(false),
            () = tokio::time::sleep_until(over) => false,
            () = until_closing(phase.clone()) => false,
        }
    }

    async fn http2<S>(
        self: &Rc<Self>,
        stream: S,
        conn: Rc<Conn>,
        mut phase: watch::Receiver<Phase>,
    ) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (limits, timeouts) = (&self.options.limits, self.worker.live().timeouts.clone());
        let mut builder = hyper::server::conn::http2::Builder::new(SameThread);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_max)
            .max_header_list_size(header_list_bytes(limits.header_bytes_max))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(LOCAL_RESETS_MAX)
            .enable_connect_protocol()
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL);
        let (front, served) = (Rc::clone(self), Rc::clone(&conn));
        // Boxed, because each stream's is moved to a task of its own. Over HTTP/1 hyper has one place for it on each connection.
        let service = service_fn(move |request| Box::pin(front.serve(request, &served)));
        let io = TokioIo::new(Patient::new(stream, timeouts.write_idle));
        let mut connection = std::pin::pin!(builder.serve_connection(io, service));
        let mut now = *phase.borrow();
        let mut ending: Option<Instant> = None;
        let came = Instant::now();
        loop {
            // Who has just come would be sent away before it could ask.
            let is_new = !conn.activity.has_begun() && came.elapsed() < LAST_WORD_TIME_MAX;
            if (now >= Phase::Quiescing && !is_new) || ending.is_some() {
                connection.as_mut().graceful_shutdown();
            }
            let aside = Seldom::new(Box::pin(aside(&mut phase, WATCH_INTERVAL)));
            tokio::select! {
                ended = connection.as_mut() => return ended,
                came = aside => match came {
                    Aside::Phase(phase) => now = phase,
                    Aside::Time => {
                        let activity = &conn.activity;
                        if activity.stalled_since().is_some_and(|since| since.elapsed() >= timeouts.write_idle) {
                            tracing::debug!(peer = %conn.peer, "a client makes no room for its answer");
                            return Ok(());
                        }
                        if activity.idle_since().is_some_and(|since| since.elapsed() >= timeouts.idle) {
                            let since = *ending.get_or_insert_with(Instant::now);
                            if since.elapsed() > WATCH_INTERVAL * 2 {
                                return Ok(());
                            }
                        }
                    }
                },
                () = abused(&conn) => {
                    self.worker.metrics.abusive_connections.inc();
                    tracing::info!(peer = %conn.peer, "a client takes back most of its requests: its connection is closed");
                    return Ok(());
                }
            }
            if now == Phase::Cut {
                return Ok(());
            }
        }
    }

    /// One request.
    fn serve(
        &self,
        request: Request<Incoming>,
        conn: &Rc<Conn>,
    ) -> impl Future<Output = Result<http::Response<crate::answer::AnswerBody>, Infallible>> + use<> {
        let (worker, quiescing, conn) = (Rc::clone(&self.worker), Rc::clone(&self.quiescing), Rc::clone(conn));
        let has_connection_header = request.version() < Version::HTTP_2;
        async move {
            let mut response = pipeline::serve(&worker, request, &conn).await;
            let upgrades = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
            if has_connection_header && quiescing.get() && !upgrades {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        }
    }
}

/// What a connection waits for beside its requests.
enum Aside {
    /// The router has got so far.
    Phase(Phase),
    /// So much time has passed.
    Time,
}

async fn aside(phase: &mut watch::Receiver<Phase>, time: Duration) -> Aside {
    tokio::select! {
        changed = phase.changed() => Aside::Phase(match changed {
            Ok(()) => *phase.borrow_and_update(),
            // Nobody is left who could say so.
            Err(_) => Phase::Cut,
        }),
        () = tokio::time::sleep(time) => Aside::Time,
    }
}

/// Done once a connection is abused. Looked at whenever its other parts are: what is counted changes only then.
async fn abused(conn: &Conn) {
    std::future::poll_fn(|_| {
        if conn.activity.is_abused() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// Done once who has not said what it wants has had its time to, with a router that closes what is idle.
async fn until_too_late(mut phase: watch::Receiver<Phase>) {
    until_closing(phase.clone()).await;
    // An error means that nobody is left who could close it: then it is closed.
    let _cut = tokio::time::timeout(LAST_WORD_TIME_MAX, phase.wait_for(|phase| *phase == Phase::Cut)).await;
}

async fn until_closing(mut phase: watch::Receiver<Phase>) {
    // An error means that nobody is left who could close it: then it is closed.
    let _closing = phase.wait_for(|phase| *phase >= Phase::Closing).await;
}

/// Looks at the first bytes without taking them.
async fn sniff(stream: &mut Connection) -> io::Result<Spoken> {
    let mut first = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut first).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match spoken(&first[..length]) {
            Spoken::Undecided => tokio::time::sleep(PREFACE_PAUSE).await,
            decided => return Ok(decided),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_tells_http_2_from_everything_else() {
        assert_eq!(spoken(b"P"), Spoken::Undecided);
        assert_eq!(spoken(b"PRI * HTTP/2.0\r\n"), Spoken::Undecided);
        assert_eq!(spoken(PREFACE), Spoken::Http2);
        assert_eq!(spoken(b"PUT"), Spoken::Http1);
        assert_eq!(spoken(b"PRI * HTTP/1.1\r\n"), Spoken::Http1);
        assert_eq!(spoken(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Spoken::Http1);
    }
}
