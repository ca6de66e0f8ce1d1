//! A thread that serves requests: a runtime, a listener and a pool of its own.
//!
//! ```text
//! Serving ──► Quiescing ──────────────► Closing ──────────────────► Cut
//!    │        still accepts;            ▲ accepts no more;            drops what is left
//!    │        HTTP/1: connection: close │ idle connections end,
//!    │        HTTP/2: GOAWAY            │ requests in flight finish
//!    └──────► HandedOver ───────────────┘
//!             as Quiescing, but another process accepts
//! ```

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::body::UploadLimits;
use crate::context::{Dice, Worker};
use crate::directory::Directory;
use crate::flow::Flow;
use crate::identify::Domains;
use crate::metrics::{Metrics, WorkerMetrics};
use crate::observe::log::Log;
use crate::observe::recent::Ring;
use crate::options::Options;
use crate::pipeline;
use crate::pool::{Pool, PoolLimits};
use cell_trust::TrustedKeys;

/// How far a router is on its way to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    Quiescing,
    HandedOver,
    Closing,
    Cut,
}

/// What a thread is made of. The rest it makes itself.
pub(crate) struct Seed {
    pub(crate) index: u32,
    pub(crate) listener: TcpListener,
    pub(crate) options: Arc<Options>,
    pub(crate) domains: Domains,
    pub(crate) trusted: TrustedKeys,
    pub(crate) directory: Arc<Directory>,
    pub(crate) flow: Arc<Flow>,
    pub(crate) ring: Arc<Ring>,
    pub(crate) log: Log,
    pub(crate) metrics: Metrics,
    pub(crate) phase: watch::Receiver<Phase>,
}

const STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// Much more than one stream's: a held upload must not stop the others of its connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const READ_BUFFER_BYTES: usize = 64 << 10;
const PING_INTERVAL: Duration = Duration::from_secs(20);
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long to wait before looking again whether the rest of a preface has come.
const PREFACE_PAUSE: Duration = Duration::from_millis(10);

/// Starts the thread. It ends when its connections have, or are cut, and says so on `alive`.
pub(crate) fn start(seed: Seed, alive: mpsc::Sender<()>) -> io::Result<JoinHandle<()>> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let name = format!("route-{}", seed.index);
    std::thread::Builder::new().name(name).spawn(move || {
        let _ended = Ended(alive);
        match builder.enable_all().build_local(tokio::runtime::LocalOptions::default()) {
            Ok(runtime) => runtime.block_on(serve(seed)),
            Err(error) => tracing::error!(%error, "cannot start the runtime of a thread"),
        }
    })
}

/// Says that a thread has ended, in whatever way.
struct Ended(mpsc::Sender<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        // Full: somebody else has said it already.
        let _said = self.0.try_send(());
    }
}

async fn serve(seed: Seed) {
    let listener = match tokio::net::TcpListener::from_std(seed.listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot use the listener of a thread"),
    };
    let mut phase = seed.phase;
    let threads = seed.options.worker_count();
    let most = seed.options.limits.connections_max.div_ceil(threads).min(Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(most));
    let quiescing = Rc::new(Cell::new(false));
    let worker = Rc::new(Worker {
        directory: seed.directory,
        flow: seed.flow,
        ring: seed.ring,
        log: seed.log,
        pool: Pool::new(pool_limits(&seed.options)),
        domains: seed.domains,
        trusted: seed.trusted,
        upload: UploadLimits {
            body_bytes_max: seed.options.limits.body_bytes_max,
            replay_bytes_max: seed.options.limits.replay_bytes_max,
        },
        metrics: seed.metrics.worker(seed.index),
        dice: Dice::new(),
    });
    let front =
        Rc::new(Front { worker: Rc::clone(&worker), options: seed.options, quiescing: Rc::clone(&quiescing) });
    tokio::task::spawn_local(sweep(Rc::downgrade(&worker.pool)));
    loop {
        let now = *phase.borrow_and_update();
        quiescing.set(now > Phase::Serving);
        if now >= Phase::HandedOver {
            break;
        }
        tokio::select! {
            changed = phase.changed() => if changed.is_err() { return },
            accepted = accept(&listener, &places) => {
                let (stream, peer, place) = accepted;
                let (front, phase) = (Rc::clone(&front), phase.clone());
                tokio::task::spawn_local(async move {
                    front.worker.metrics.connections.inc();
                    let _open = Connected(&front.worker.metrics);
                    front.connection(stream, peer, phase).await;
                    drop(place);
                });
            }
        }
    }
    drop(listener);
    let cut = phase.wait_for(|phase| *phase == Phase::Cut);
    let all = u32::try_from(most).unwrap_or(u32::MAX);
    tokio::select! {
        _ = cut => {}
        _ = places.acquire_many(all) => {}
    }
}

fn pool_limits(options: &Options) -> PoolLimits {
    PoolLimits {
        connections_per_instance_max: options.limits.connections_per_instance_max,
        idle_per_instance_max: options.limits.idle_per_instance_max,
        idle_max: options.timeouts.pool_idle,
        connect: options.timeouts.connect,
    }
}

async fn sweep(pool: std::rc::Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.sweep();
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

/// The next connection, once there is a place for it: until then it waits in the kernel.
async fn accept(listener: &tokio::net::TcpListener, places: &Arc<Semaphore>) -> (TcpStream, IpAddr, Place) {
    let place = Arc::clone(places).acquire_owned().await.expect("nobody closes the semaphore");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer.ip(), place),
            Err(error) => {
                // Out of file descriptors, or a client that has left already: neither is cured by trying at once.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

struct Connected<'m>(&'m WorkerMetrics);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

/// What every connection of a thread needs.
struct Front {
    worker: Rc<Worker>,
    options: Arc<Options>,
    quiescing: Rc<Cell<bool>>,
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
    async fn connection(&self, stream: TcpStream, peer: IpAddr, phase: watch::Receiver<Phase>) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let first = tokio::select! {
            first = tokio::time::timeout(self.worker.live().timeouts.header, sniff(&stream)) => first,
            () = until_closing(phase.clone()) => return,
        };
        let outcome = match first {
            Ok(Ok(Spoken::Http2)) => self.http2(stream, peer, phase).await,
            Ok(Ok(Spoken::Http1 | Spoken::Undecided)) => self.http1(stream, peer, phase).await,
            Ok(Err(error)) => return tracing::debug!(%error, %peer, "a client left before it said anything"),
            Err(_) => return tracing::debug!(%peer, "a client said nothing in time"),
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, %peer, "a client's connection has broken");
        }
    }

    async fn http1(&self, stream: TcpStream, peer: IpAddr, mut phase: watch::Receiver<Phase>) -> hyper::Result<()> {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.worker.live().timeouts.header)
            .max_headers(self.options.limits.headers_max)
            .max_header_size(self.options.limits.header_bytes_max)
            .max_buf_size(READ_BUFFER_BYTES.max(self.options.limits.header_bytes_max));
        let service = service_fn(|request| self.serve(request, peer));
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        loop {
            tokio::select! {
                ended = connection.as_mut() => return ended,
                changed = phase.changed() => match *phase.borrow_and_update() {
                    _ if changed.is_err() => return Ok(()),
                    Phase::Serving | Phase::Quiescing | Phase::HandedOver => {}
                    Phase::Closing => connection.as_mut().graceful_shutdown(),
                    Phase::Cut => return Ok(()),
                },
            }
        }
    }

    async fn http2(&self, stream: TcpStream, peer: IpAddr, mut phase: watch::Receiver<Phase>) -> hyper::Result<()> {
        let limits = &self.options.limits;
        let mut builder = hyper::server::conn::http2::Builder::new(SameThread);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_max)
            .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL);
        // Streams are tasks of their own, so what serves them cannot be borrowed from the connection.
        let front = Rc::new(Self {
            worker: Rc::clone(&self.worker),
            options: Arc::clone(&self.options),
            quiescing: Rc::clone(&self.quiescing),
        });
        let service = service_fn(move |request| {
            let front = Rc::clone(&front);
            async move { front.serve(request, peer).await }
        });
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut now = *phase.borrow();
        loop {
            if now >= Phase::Quiescing {
                connection.as_mut().graceful_shutdown();
            }
            tokio::select! {
                ended = connection.as_mut() => return ended,
                changed = phase.changed() => {
                    now = if changed.is_ok() { *phase.borrow_and_update() } else { Phase::Cut };
                }
            }
            if now == Phase::Cut {
                return Ok(());
            }
        }
    }

    /// One request. Boxed, so that an idle connection does not carry the size of a busy one.
    fn serve(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
    ) -> impl Future<Output = Result<http::Response<crate::answer::AnswerBody>, Infallible>> + 'static {
        let (worker, quiescing) = (Rc::clone(&self.worker), Rc::clone(&self.quiescing));
        let has_connection_header = request.version() < Version::HTTP_2;
        Box::pin(async move {
            let mut response = pipeline::serve(&worker, request, peer).await;
            if has_connection_header && quiescing.get() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}

async fn until_closing(mut phase: watch::Receiver<Phase>) {
    // An error means that nobody is left who could close it: then it is closed.
    let _closing = phase.wait_for(|phase| *phase >= Phase::Closing).await;
}

/// Looks at the first bytes without taking them.
async fn sniff(stream: &TcpStream) -> io::Result<Spoken> {
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

/// Runs what hyper spawns on the thread of its connection.
#[derive(Clone, Copy)]
struct SameThread;

impl<F: Future + 'static> hyper::rt::Executor<F> for SameThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
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
