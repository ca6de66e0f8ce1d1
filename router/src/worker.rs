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
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cell_client::Random;
use cell_client::net::{Connection, Listener, Network};
use futures::FutureExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use crate::alarm::Alarms;
use crate::body::UploadLimits;
use crate::conn::{Came, Place};
use crate::context::{Dice, Worker};
use crate::directory::Directory;
use crate::exchange::Warnings;
use crate::flow::Flow;
use crate::front::Front;
use crate::identify::IdentityRules;
use crate::listen;
use crate::metrics::{Metrics, WorkerMetrics};
use crate::observe::log::Log;
use crate::observe::recent::Ring;
use crate::observe::spans::Spans;
use crate::options::Options;
use crate::pool::{Pool, PoolLimits};
use crate::room::Rooms;
use crate::sharing::{Counted, Handed, Sharing};
use crate::signing::{Contexts, Signer};
use crate::sockets::Socket;
use crate::streams::Streams;
use crate::tls::{TlsBack, TlsFront};
use crate::token::{Keys, TokenRules, Verifier};
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

/// Most connections that a thread takes out of the kernel's queue once it accepts no more, where newcomers cannot be kept out of
/// it: under load it would never be empty.
const QUEUED_MAX: u32 = 128;
/// Where they are kept out: how long the last step of a handshake takes that has begun.
const HALF_OPEN_TIME: Duration = Duration::from_millis(100);

/// What a thread is made of. The rest it makes itself.
pub(crate) struct Seed {
    pub(crate) index: u32,
    /// How many there are: those of the process before, if these are its sockets, where it had more.
    pub(crate) threads: usize,
    pub(crate) listener: Socket,
    pub(crate) network: Network,
    pub(crate) random: Random,
    pub(crate) options: Arc<Options>,
    pub(crate) identity: IdentityRules,
    pub(crate) tokens: Option<(TokenRules, Arc<Keys>)>,
    pub(crate) trusted: TrustedKeys,
    pub(crate) tls: Option<TlsFront>,
    pub(crate) upstream_tls: Option<TlsBack>,
    pub(crate) signer: Option<Arc<Signer>>,
    pub(crate) sharing: Sharing,
    /// Open connections of clients, of all threads.
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) flow: Arc<Flow>,
    pub(crate) ring: Arc<Ring>,
    pub(crate) log: Log,
    pub(crate) spans: Option<Spans>,
    pub(crate) metrics: Metrics,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Another process has the listening sockets, too.
    pub(crate) lent: Arc<AtomicBool>,
}

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the thread. It ends when its connections have, or are cut, and says so on `alive`.
///
/// On a network that was passed in it is a task of the runtime that it is called on.
pub(crate) fn start(seed: Seed, alive: mpsc::Sender<()>) -> io::Result<()> {
    if let Socket::Given(_) = seed.listener {
        tokio::task::spawn_local(async move {
            let _ended = Ended(alive);
            serve(seed).await;
        });
        return Ok(());
    }
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let name = format!("route-{}", seed.index);
    std::thread::Builder::new().name(name).spawn(move || {
        let _ended = Ended(alive);
        match builder.enable_all().build_local(tokio::runtime::LocalOptions::default()) {
            Ok(runtime) => runtime.block_on(serve(seed)),
            Err(error) => tracing::error!(%error, "cannot start the runtime of a thread"),
        }
    })?;
    Ok(())
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
    let listener = match seed.listener.bound() {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot use the listener of a thread"),
    };
    let mut phase = seed.phase;
    let most = seed.options.limits.connections_max.div_ceil(seed.threads).min(Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(most));
    let quiescing = Rc::new(Cell::new(false));
    let worker = Rc::new(Worker {
        directory: seed.directory,
        flow: seed.flow,
        ring: seed.ring,
        log: seed.log,
        spans: seed.spans,
        pool: Pool::new(pool_limits(&seed.options), seed.upstream_tls, seed.network),
        identity: seed.identity,
        verifier: seed.tokens.map(|(rules, keys)| Verifier::new(rules, keys)),
        protocol: seed.options.upstream.protocol,
        contexts: seed.signer.map(Contexts::new),
        phase: phase.clone(),
        trusted: seed.trusted,
        upload: UploadLimits {
            body_bytes_max: seed.options.limits.body_bytes_max,
            replay_bytes_max: seed.options.limits.replay_bytes_max,
            rate_min: seed.options.limits.body_rate_min,
        },
        head: seed.options.limits.head(),
        metrics: Rc::new(seed.metrics.worker(seed.index)),
        dice: Dice::new(seed.random.next()),
        alarms: Alarms::default(),
        rooms: Rooms::new(),
        streams: Streams::default(),
        gate_refusals: Warnings::default(),
        causes: Warnings::default(),
    });
    let front = Rc::new(Front {
        worker: Rc::clone(&worker),
        options: seed.options,
        tls: seed.tls,
        quiescing: Rc::clone(&quiescing),
    });
    tokio::task::spawn_local(sweep(Rc::downgrade(&worker.pool)));
    let mut sharing = seed.sharing;
    let full = Full { most, metrics: Rc::clone(&worker.metrics), said: Warnings::default() };
    loop {
        let now = *phase.borrow_and_update();
        quiescing.set(now > Phase::Serving);
        if now >= Phase::HandedOver {
            break;
        }
        // First a place, and then who takes it: until there is one, clients wait in the kernel.
        let place = tokio::select! {
            changed = phase.changed() => if changed.is_err() { return } else { continue },
            place = next_place(&places, &full) => place,
        };
        let came = tokio::select! {
            changed = phase.changed() => if changed.is_err() { return } else { continue },
            came = accept(&listener) => came,
            Some(handed) = sharing.handed.recv() => Arrived::FromOther(handed),
        };
        let Some(connection) = kept(&sharing, came) else { continue };
        take(&front, connection, place, &phase, sharing.count(), &seed.connections);
    }
    let rest =
        Rest { front: &front, sharing: &mut sharing, places: &places, full: &full, connections: &seed.connections };
    let queued = Queued::of(&listener, *phase.borrow(), &seed.lent);
    rest.take(&listener, queued, &mut phase).await;
    drop(listener);
    let cut = phase.wait_for(|phase| *phase == Phase::Cut);
    let all = u32::try_from(most).unwrap_or(u32::MAX);
    tokio::select! {
        _ = cut => {}
        _ = places.acquire_many(all) => {}
    }
}

/// What has come to a thread by the time that it accepts no more.
struct Rest<'t> {
    front: &'t Rc<Front>,
    sharing: &'t mut Sharing,
    places: &'t Arc<Semaphore>,
    full: &'t Full,
    connections: &'t Arc<AtomicUsize>,
}

impl Rest<'_> {
    /// From here on the other threads keep what they accept. What they have handed on already is answered; and so is what waits
    /// in the kernel's queue, where no other process has it.
    async fn take(self, listener: &Listener, mut queued: Queued, phase: &mut watch::Receiver<Phase>) {
        self.sharing.handed.close();
        loop {
            let came = match self.sharing.handed.recv().await {
                Some(handed) => Arrived::FromOther(handed),
                None => {
                    let Some(came) = queued.next(listener).await else { return };
                    came
                }
            };
            let place = tokio::select! {
                _ = phase.wait_for(|phase| *phase == Phase::Cut) => return,
                place = next_place(self.places, self.full) => place,
            };
            let Some(connection) = kept(self.sharing, came) else { continue };
            take(self.front, connection, place, phase, self.sharing.count(), self.connections);
        }
    }
}

/// What waits in the kernel's queue when a thread accepts no more.
enum Queued {
    /// Another process accepts it.
    None,
    /// So many of it: more and more may come.
    Some(u32),
    /// All of it, and whoever is in the middle of a handshake until then: nobody new comes.
    All(Instant),
}

impl Queued {
    fn of(listener: &Listener, phase: Phase, lent: &AtomicBool) -> Self {
        let Listener::Kernel(kernel) = listener else { return Self::Some(QUEUED_MAX) };
        if phase == Phase::HandedOver {
            return Self::None;
        }
        // What another process has is not to be spoilt for it.
        if lent.load(Ordering::Acquire) {
            return Self::Some(QUEUED_MAX);
        }
        match listen::keep_newcomers_out(kernel) {
            Ok(()) => Self::All(Instant::now() + HALF_OPEN_TIME),
            Err(error) => {
                tracing::debug!(%error, "the kernel does not keep newcomers out of the queue of a socket that is closed");
                Self::Some(QUEUED_MAX)
            }
        }
    }

    async fn next(&mut self, listener: &Listener) -> Option<Arrived> {
        match self {
            Self::None | Self::Some(0) => None,
            Self::Some(left) => {
                *left -= 1;
                accept(listener).now_or_never()
            }
            Self::All(until) => tokio::time::timeout_at(*until, accept(listener)).await.ok(),
        }
    }
}

/// Serves a connection, on this thread.
fn take(
    front: &Rc<Front>,
    (stream, peer): (Connection, IpAddr),
    place: Place,
    phase: &watch::Receiver<Phase>,
    counted: Counted,
    connections: &Arc<AtomicUsize>,
) {
    let (front, phase, connections) = (Rc::clone(front), phase.clone(), Arc::clone(connections));
    tokio::task::spawn_local(async move {
        let _open = (counted, Connected::new(&front.worker.metrics, connections));
        front.connection(stream, Came { peer, secure: false, place: Some(place) }, phase).await;
    });
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

/// A new connection, and whether it may go to an idler thread.
enum Arrived {
    Here(Connection, IpAddr),
    FromOther(Handed),
}

/// Says that there is no place for another connection.
struct Full {
    most: usize,
    metrics: Rc<WorkerMetrics>,
    said: Warnings,
}

impl Full {
    fn say(&self) {
        self.metrics.connections_full.inc();
        if self.said.is_due(Instant::now()) {
            tracing::warn!(
                code = "CONNECTIONS_FULL",
                connections = self.most,
                "a thread has as many connections as it may: further clients wait until one ends"
            );
        }
    }
}

/// A place for another connection, once there is one.
async fn next_place(places: &Arc<Semaphore>, full: &Full) -> Place {
    if let Ok(place) = Arc::clone(places).try_acquire_owned() {
        return place;
    }
    full.say();
    Arc::clone(places).acquire_owned().await.expect("nobody closes the semaphore")
}

/// The next connection.
async fn accept(listener: &Listener) -> Arrived {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return Arrived::Here(stream, peer.ip()),
            Err(error) => {
                // Out of file descriptors, or a client that has left already: neither is cured by trying at once.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// The connection, where it stays on this thread.
fn kept(sharing: &Sharing, came: Arrived) -> Option<(Connection, IpAddr)> {
    let handed = match came {
        Arrived::Here(stream, peer) if !sharing.has_idler() => return Some((stream, peer)),
        Arrived::Here(stream @ Connection::Given(_), peer) => return Some((stream, peer)),
        Arrived::Here(Connection::Kernel(stream), peer) => {
            let socket =
                stream.into_std().inspect_err(|error| tracing::warn!(%error, "cannot hand a connection over"));
            match sharing.hand_on((socket.ok()?, peer)) {
                Ok(()) => return None,
                Err(kept) => kept,
            }
        }
        Arrived::FromOther(handed) => handed,
    };
    let stream =
        TcpStream::from_std(handed.0).inspect_err(|error| tracing::warn!(%error, "cannot take a connection over"));
    Some((Connection::Kernel(stream.ok()?), handed.1))
}

/// An open connection, in the metrics and in the count.
struct Connected<'m> {
    metrics: &'m WorkerMetrics,
    all: Arc<AtomicUsize>,
}

impl<'m> Connected<'m> {
    fn new(metrics: &'m WorkerMetrics, all: Arc<AtomicUsize>) -> Self {
        metrics.connections.inc();
        all.fetch_add(1, Ordering::Relaxed);
        Self { metrics, all }
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.metrics.connections.dec();
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}
