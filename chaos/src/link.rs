//! A network in user space: TCP forwarders whose lanes can be cut, slowed and narrowed.
//!
//! ```text
//! caller ──► front ──lane(caller → server)──► server
//!        ◄──       ◄─lane(server → caller)──
//! ```
//!
//! A cut lane behaves like a network that drops every packet: connections stay, new ones are accepted, and not a byte
//! gets through. When it heals, what waited goes on, as retransmission would see to it. One lane of the two may be cut.
//!
//! **Order.** TCP hands bytes over in order, so within a connection nothing can be reordered, and what is lost is only late.
//! Between connections jitter and loss do reorder: a piece overtakes one that was sent before it on another connection of
//! the same lane, and such pieces are counted. What a network does below TCP (duplicated, reordered or spoilt packets) no
//! proxy can show.
//!
//! A [`Link`] is one front with one lane for both directions and every caller.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::seed::Choices;

/// Pieces that are under way on one lane of one connection.
const UNDER_WAY: usize = 64;
const PIECE_BYTES: usize = 16 << 10;
/// What a lost packet costs a TCP connection at the least: the shortest time until it is sent again.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No port to listen on.
    #[error("cannot listen for a link to {target}")]
    Listen {
        /// Where it was to lead.
        target: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// How a lane carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Whether anything gets through.
    pub open: bool,
    /// How long each piece is under way.
    pub delay: Duration,
    /// Up to so much longer, each piece anew.
    pub jitter: Duration,
    /// Of a hundred pieces so many are lost once and sent again.
    pub loss_percent: u64,
}

impl Default for Condition {
    fn default() -> Self {
        Self { open: true, delay: Duration::ZERO, jitter: Duration::ZERO, loss_percent: 0 }
    }
}

/// A pipe of a certain width that lanes share: whatever passes one of them keeps the others waiting. Clones are the same.
#[derive(Debug, Clone)]
pub struct Pipe {
    bytes_per_second: u64,
    /// When what was sent so far has passed.
    free: Arc<Mutex<Instant>>,
}

impl Pipe {
    /// Nothing has passed yet.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free: Arc::new(Mutex::new(Instant::now())) }
    }

    /// When a piece of this length, sent now, has passed.
    fn pass(&self, length: usize) -> Instant {
        let micros = (length as u64).saturating_mul(1_000_000) / self.bytes_per_second;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = (*free).max(Instant::now()) + Duration::from_micros(micros);
        *free
    }
}

/// One direction. Clones are the same lane.
#[derive(Debug, Clone)]
pub struct Lane {
    condition: Arc<watch::Sender<Condition>>,
    counts: Arc<Counts>,
    ways: Arc<Mutex<Ways>>,
}

#[derive(Debug, Default)]
struct Counts {
    carried: AtomicU64,
    slowed: AtomicU64,
    held: AtomicU64,
    lost: AtomicU64,
    overtaken: AtomicU64,
}

/// What all connections of a lane have in common.
#[derive(Debug)]
struct Ways {
    /// Who is late and what is lost.
    choices: Choices,
    pipe: Option<Pipe>,
    /// When the last of the pieces that were sent so far arrives.
    latest: Instant,
}

impl Default for Lane {
    fn default() -> Self {
        Self::seeded(0)
    }
}

impl Lane {
    /// A lane whose losses and delays follow this seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        let ways = Ways { choices: Choices::new(seed), pipe: None, latest: Instant::now() };
        let condition = Arc::new(watch::channel(Condition::default()).0);
        Self { condition, counts: Arc::default(), ways: Arc::new(Mutex::new(ways)) }
    }

    /// Its losses and delays follow this seed from now on.
    pub fn seed(&self, seed: u64) {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner).choices = Choices::new(seed);
    }

    /// From now on it carries like this.
    pub fn set(&self, condition: Condition) {
        self.condition.send_replace(condition);
    }

    /// From now on everything passes this pipe, or none.
    pub fn narrow(&self, pipe: Option<Pipe>) {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner).pipe = pipe;
    }

    fn is_slow(&self) -> bool {
        let narrow = || self.ways.lock().unwrap_or_else(PoisonError::into_inner).pipe.is_some();
        self.condition() != Condition::default() || narrow()
    }

    /// When a piece of this length that is sent now arrives: never before `last`, an earlier one of its connection.
    fn due(&self, last: Instant, length: usize) -> Instant {
        let condition = self.condition();
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let jitter = u64::try_from(condition.jitter.as_micros()).unwrap_or(u64::MAX);
        let mut due = Instant::now() + condition.delay;
        if jitter > 0 {
            due += Duration::from_micros(ways.choices.below(jitter));
        }
        if condition.loss_percent > 0 && length > 0 && ways.choices.percent(condition.loss_percent) {
            due += RETRANSMISSION;
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(pipe) = &ways.pipe {
            due = due.max(pipe.pass(length));
        }
        let due = due.max(last);
        if due < ways.latest {
            self.counts.overtaken.fetch_add(1, Ordering::Relaxed);
        }
        ways.latest = ways.latest.max(due);
        due
    }

    /// How it carries.
    #[must_use]
    pub fn condition(&self) -> Condition {
        *self.condition.borrow()
    }

    /// Bytes carried so far.
    #[must_use]
    pub fn carried_bytes(&self) -> u64 {
        self.counts.carried.load(Ordering::Relaxed)
    }

    /// Bytes carried while it was slow, narrow or lossy.
    #[must_use]
    pub fn slowed_bytes(&self) -> u64 {
        self.counts.slowed.load(Ordering::Relaxed)
    }

    /// Pieces and connections that have met it while it was cut.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.counts.held.load(Ordering::Relaxed)
    }

    /// Pieces that were lost, and sent again.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Pieces that have overtaken one that was sent before them, on another connection.
    #[must_use]
    pub fn overtaken(&self) -> u64 {
        self.counts.overtaken.load(Ordering::Relaxed)
    }

    /// Waits while it is cut. False where it will never open again.
    async fn pass(&self) -> bool {
        let mut condition = self.condition.subscribe();
        if condition.borrow_and_update().open {
            return true;
        }
        self.counts.held.fetch_add(1, Ordering::Relaxed);
        condition.wait_for(|condition| condition.open).await.is_ok()
    }
}

/// One link. It ends when this is dropped.
#[derive(Debug)]
pub struct Link {
    front: Front,
    lane: Lane,
}

impl Link {
    /// A link to `target` (`host:port`), open.
    ///
    /// # Errors
    /// [`LinkError::Listen`].
    pub async fn open(target: &str) -> Result<Self, LinkError> {
        let lane = Lane::default();
        let both = (lane.clone(), lane.clone());
        let front = Front::open(target, Arc::new(move |_, _| Some(both.clone()))).await?;
        Ok(Self { front, lane })
    }

    /// Where to connect to in place of the target.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.front.address()
    }

    /// Nothing gets through from now on.
    pub fn cut(&self) {
        self.lane.set(Condition { open: false, ..self.lane.condition() });
    }

    /// Everything gets through again.
    pub fn heal(&self) {
        self.lane.set(Condition::default());
    }

    /// Bytes carried in both directions so far.
    #[must_use]
    pub fn carried_bytes(&self) -> u64 {
        self.lane.carried_bytes()
    }
}

/// Chooses the lanes of a connection, there and back, by the caller's own address and the one it has called. None: the caller
/// is refused.
pub type Choose = Arc<dyn Fn(SocketAddr, SocketAddr) -> Option<(Lane, Lane)> + Send + Sync>;

/// Where callers connect in place of a server. It ends when this is dropped.
pub struct Front {
    address: SocketAddr,
    stop: CancellationToken,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Front {
    /// A front of `target` (`host:port`).
    ///
    /// # Errors
    /// [`LinkError::Listen`].
    pub async fn open(target: &str, choose: Choose) -> Result<Self, LinkError> {
        let failed = |source| LinkError::Listen { target: target.to_owned(), source };
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, address, target.to_owned(), choose, stop.clone()));
        Ok(Self { address, stop })
    }

    /// Where to connect to in place of the target.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, here: SocketAddr, target: String, choose: Choose, stop: CancellationToken) {
    loop {
        let (near, caller) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a link cannot accept");
                    continue;
                }
            },
        };
        let (target, choose, stop) = (target.clone(), choose.clone(), stop.clone());
        tokio::spawn(async move {
            // Finding out who calls reads files.
            let chosen = tokio::task::spawn_blocking(move || choose(caller, here)).await;
            let Ok(Some((there, back))) = chosen else { return };
            tokio::select! {
                () = stop.cancelled() => {}
                () = carry(near, &target, there, back) => {}
            }
        });
    }
}

/// Both directions of one connection, until either side closes.
async fn carry(near: TcpStream, target: &str, there: Lane, back: Lane) {
    // A handshake needs both directions.
    if !there.pass().await || !back.pass().await {
        return;
    }
    let far = match TcpStream::connect(target).await {
        Ok(far) => far,
        Err(error) => {
            tracing::debug!(%target, %error, "the far end of a link refuses");
            return;
        }
    };
    // Latency of small messages is all that this could spoil.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::join!(copy(near_read, far_write, there), copy(far_read, near_write, back));
}

/// A piece of a connection, and when it arrives.
struct Piece {
    bytes: Vec<u8>,
    due: Instant,
}

/// Reads at one end what a lane brings to the other: in order, each piece when it is due.
async fn copy(mut from: OwnedReadHalf, to: OwnedWriteHalf, lane: Lane) {
    let (send, arriving) = mpsc::channel::<Piece>(UNDER_WAY);
    let sending = {
        let lane = lane.clone();
        async move {
            let mut buffer = vec![0; PIECE_BYTES];
            let mut last = Instant::now();
            // The end of a connection is news, too: it travels like a piece, as an empty one.
            loop {
                let length = from.read(&mut buffer).await.unwrap_or(0);
                last = lane.due(last, length);
                let is_over = send.send(Piece { bytes: buffer[..length].to_vec(), due: last }).await.is_err();
                if is_over || length == 0 {
                    return;
                }
            }
        }
    };
    tokio::join!(sending, deliver(to, arriving, lane));
}

async fn deliver(mut to: OwnedWriteHalf, mut arriving: mpsc::Receiver<Piece>, lane: Lane) {
    while let Some(piece) = arriving.recv().await {
        tokio::time::sleep_until(piece.due).await;
        if !lane.pass().await || piece.bytes.is_empty() || to.write_all(&piece.bytes).await.is_err() {
            break;
        }
        let bytes = piece.bytes.len() as u64;
        lane.counts.carried.fetch_add(bytes, Ordering::Relaxed);
        if lane.is_slow() {
            lane.counts.slowed.fetch_add(bytes, Ordering::Relaxed);
        }
    }
    // Nothing can be done for a peer that is gone.
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests;
