//! WebSockets: after the cell has agreed to one, two streams of bytes, one each way, until either side ends, both fall
//! silent, or the tenant moves.
//!
//! A tunnel outlives the request that it was let in with, so it is closed when its tenant's mapping says anything else
//! than at its beginning: within a short, jittered time both sides get a close frame with code 1012, *service restart*, at
//! the next border between two frames, and the client connects again and is routed anew.
//!
//! ```text
//! Open ── a side ends ─────────────────────────────────────► Closed
//!  │  └── silent for too long ── close frames, 1001 ──┐
//!  └───── the mapping has changed ── close frames, 1012 ──► Closing ── both have ended, or time is up ──► Closed
//! ```
//! A gate does not wait for that: it cuts what a hold must not wait for, mostly before this router has heard of the hold. So a cell
//! that goes without a close frame is spoken for: its client gets one with 1012, within the same time.

mod frames;

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use cell_model::{Hold, Mapping};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::context::Worker;
use crate::streams::has_left;
use crate::table::Entry;
use frames::{Border, close_frame};

const PIECE_BYTES: usize = 16 << 10;
/// How long the sides may take to say good-bye.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long hyper may take to hand both connections over.
const HANDOVER: Duration = Duration::from_secs(5);

/// *Going away*, and *service restart*: come back (RFC 6455, 7.4.1, and the registry of close codes).
const GOING_AWAY: u16 = 1001;
const SERVICE_RESTART: u16 = 1012;

/// Carries what both sides say until the tunnel ends.
pub(crate) async fn run(worker: Rc<Worker>, entry: std::sync::Arc<Entry>, client: OnUpgrade, cell: OnUpgrade) {
    let both = async { tokio::try_join!(client, cell) };
    let (client, cell) = match tokio::time::timeout(HANDOVER, both).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => return tracing::debug!(%error, "a tunnel was not made"),
        Err(_) => return tracing::debug!("a tunnel was not made in time"),
    };
    worker.metrics.tunnels.inc();
    let _open = Open(&worker);
    let (ending, end) = watch::channel(None);
    let last = std::cell::Cell::new(Instant::now());
    let spread = worker.dice.share_of(worker.live().timeouts.tunnel_close_spread);
    let parting = Parting { client_left: std::cell::Cell::new(false), spread };
    let (client_reads, client_writes) = tokio::io::split(TokioIo::new(client));
    let (cell_reads, cell_writes) = tokio::io::split(TokioIo::new(cell));
    let up = Direction { from: client_reads, to: cell_writes, masked: true };
    let down = Direction { from: cell_reads, to: client_writes, masked: false };
    let active = worker.flow.tenants.of(&entry.mapping.tenant, entry.mapping.uid);
    let went_up = |bytes| {
        last.set(Instant::now());
        active.used.received(bytes);
    };
    let went_down = |bytes| {
        last.set(Instant::now());
        active.used.answered(bytes);
    };
    let mut carried = std::pin::pin!(async {
        tokio::join!(up.carry(end.clone(), &parting, went_up), down.carry(end.clone(), &parting, went_down))
    });
    let why = tokio::select! {
        _ = &mut carried => return,
        () = has_moved(&worker, &entry.mapping) => {
            worker.metrics.tunnels_quiesced.inc();
            tokio::select! {
                _ = &mut carried => return,
                () = tokio::time::sleep(spread) => {}
            }
            SERVICE_RESTART
        }
        () = is_silent(&last, worker.live().timeouts.tunnel_idle) => GOING_AWAY,
        () = worker.stopping() => SERVICE_RESTART,
    };
    ending.send_replace(Some(why));
    // Whoever has not ended by then is cut.
    let _ended = tokio::time::timeout(FAREWELL, carried).await;
}

struct Open<'w>(&'w Worker);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.metrics.tunnels.dec();
    }
}

/// Whether a tunnel that was opened under `opened` must end, as the tenant is mapped now.
fn must_end(opened: &Mapping, now: Option<&Mapping>) -> bool {
    has_left(opened, now) || now.is_some_and(|now| now.hold != Hold::None)
}

async fn has_moved(worker: &Worker, opened: &Mapping) {
    let directory = &worker.directory;
    // There was a place when the request came. Where there is none any more, the tunnel ends rather than not be told.
    let Ok(place) = directory.tunnels.enter(&opened.tenant) else { return };
    loop {
        let changed = place.changed();
        if must_end(opened, directory.find(&opened.tenant).as_deref().map(|entry| &entry.mapping)) {
            return;
        }
        changed.await;
    }
}

async fn is_silent(last: &std::cell::Cell<Instant>, limit: Duration) {
    loop {
        let until = last.get() + limit;
        if Instant::now() >= until {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

type Io = TokioIo<Upgraded>;

/// What both ways know of the end of the other.
struct Parting {
    /// The client has sent a close frame, or nothing more comes of it.
    client_left: std::cell::Cell<bool>,
    /// How long a client is not told yet, so that they do not all come back at once.
    spread: Duration,
}

/// Why a direction carries no more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// It was told to, with this code.
    Told(u16),
    /// Nothing more comes.
    Source,
    /// Nothing more is taken.
    Sink,
}

/// One way of a tunnel.
struct Direction {
    from: ReadHalf<Io>,
    to: WriteHalf<Io>,
    /// Frames of clients are masked, those of servers are not.
    masked: bool,
}

impl Direction {
    /// Carries bytes until there are no more, or until the border of a frame after `end` has been told; `carries` is told
    /// how many.
    async fn carry(mut self, mut end: watch::Receiver<Option<u16>>, parting: &Parting, carries: impl Fn(usize)) {
        let mut piece = vec![0; PIECE_BYTES];
        let mut border = Border::default();
        let ended = loop {
            let told = *end.borrow_and_update();
            if let Some(code) = told.filter(|_| border.is_here()) {
                break Ended::Told(code);
            }
            let read = tokio::select! {
                read = self.from.read(&mut piece) => read,
                changed = end.changed(), if told.is_none() => match changed {
                    Ok(()) => continue,
                    Err(_) => break Ended::Source,
                },
            };
            let Ok(length @ 1..) = read else { break Ended::Source };
            carries(length);
            // Told meanwhile: nothing is carried beyond the next border.
            let length = if end.borrow().is_some() {
                border.pass_to_border(&piece[..length])
            } else {
                border.pass(&piece[..length])
            };
            if self.masked && border.has_closed() {
                parting.client_left.set(true);
            }
            if self.to.write_all(&piece[..length]).await.is_err() || self.to.flush().await.is_err() {
                break Ended::Sink;
            }
        };
        if self.masked && ended == Ended::Source {
            parting.client_left.set(true);
        }
        let code = match ended {
            Ended::Told(code) => Some(code),
            Ended::Source if !self.masked && border.is_here() && !border.has_closed() => {
                unsaid(&mut end, parting).await
            }
            Ended::Source | Ended::Sink => None,
        };
        if let Some(code) = code {
            let farewell = close_frame(code, self.masked);
            if self.to.write_all(&farewell).await.is_ok() && self.to.flush().await.is_ok() {
                drain(&mut self.from, &mut piece).await;
            }
        } else if self.masked && ended == Ended::Sink {
            // The cell has gone. What its client still sends goes nowhere, and is read: left unread, it would reset the
            // connection, and what is said to the client with it.
            let _ended = tokio::time::timeout(parting.spread + FAREWELL, drain(&mut self.from, &mut piece)).await;
        }
        // Tells the other side that nothing more comes; it may be gone already.
        let _gone = Pin::new(&mut self.to).shutdown().await;
    }
}

/// What is said to a client whose cell has gone without a word.
async fn unsaid(end: &mut watch::Receiver<Option<u16>>, parting: &Parting) -> Option<u16> {
    let told = tokio::time::timeout(parting.spread, end.wait_for(Option::is_some)).await;
    let code = told.ok().and_then(Result::ok).and_then(|told| *told).unwrap_or(SERVICE_RESTART);
    (!parting.client_left.get()).then_some(code)
}

/// Reads what a side still says, so that it gets to read what was said to it.
async fn drain(from: &mut ReadHalf<Io>, piece: &mut [u8]) {
    while let Ok(1..) = from.read(piece).await {}
}

#[cfg(test)]
pub(crate) mod tests {
    use cell_model::{CellId, Epoch, Lineage, MappingState, Rev, Revision, TenantId, Tier, Uid};

    use super::*;

    pub(crate) fn mapping() -> Mapping {
        Mapping {
            lineage: Lineage(1),
            tenant: TenantId::new("t-1").unwrap(),
            uid: Uid(3),
            epoch: Epoch(2),
            rev: Rev(9),
            revision: Revision(40),
            state: MappingState::Active,
            owner: CellId::new("a").unwrap(),
            peer: None,
            hold: Hold::None,
            tier: Tier::Gold,
        }
    }

    #[test]
    fn a_tunnel_ends_with_the_hold_and_not_with_the_copying_before() {
        let opened = mapping();
        let now = |change: fn(&mut Mapping)| {
            let mut now = mapping();
            now.rev = Rev(10);
            change(&mut now);
            must_end(&opened, Some(&now))
        };
        assert!(!now(|_| {}));
        assert!(!now(|now| now.state = MappingState::Migrating));
        assert!(now(|now| now.hold = Hold::Writes));
        assert!(now(|now| now.epoch = Epoch(3)));
        assert!(now(|now| now.uid = Uid(4)));
        assert!(now(|now| now.state = MappingState::Deleted));
        assert!(must_end(&opened, None));
    }
}
