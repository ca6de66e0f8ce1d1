//! The change stream between two cells: the copying cell's agent opens it and pulls.
//!
//! ```text
//! follower (copies)                                            owner (captures)
//!   Start(applied) ─────────────────────────────────────────────►
//!   NextChunk(frontier) ────────────────────────────────────────►  under the tenant's lock: rows, labelled seq s
//!   ◄────────────────────────────── Changes (applied, s], in order
//!   apply those at or below the frontier; those above it are in this chunk or a later one
//!   ◄────────────────────────────────────────────── Chunk at s
//!   load it, move the frontier: one batch                           … until done, then whole transactions only
//!   Ack(durable) ───────────────────────────────────────────────►  forgets what it captured, answers sync writes
//! ```
//! So the follower always equals the owner at `applied`, as far as its frontier goes, and after a crash it goes on
//! from there. The owner sends nothing that is not durable with it: a follower is never ahead of its source.

mod apply;
mod follower;
mod mending;
mod owner;
mod pace;
mod start;

use std::sync::Arc;

use cell_model::Seq;
use cell_protos::v1::FollowRequest;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::record::Follow;
use crate::refusal::Refusal;

pub(crate) use follower::ensure;
pub(crate) use mending::{Mending, PAGE_ROWS, Page, Told, key_to_wire};
pub(crate) use owner::serve;
pub(crate) use pace::Pace;
pub(crate) use start::started;

/// How a copy goes, as far as the status is concerned. Not durable.
#[derive(Default)]
pub(crate) struct Progress {
    /// The owner's last change that was heard of.
    pub(crate) source_seq: Seq,
    /// When anything was heard of the owner.
    pub(crate) heard: Option<Instant>,
    /// Since when the copy has been behind.
    pub(crate) behind_since: Option<Instant>,
    /// Rows and bytes loaded by chunks.
    pub(crate) copied: (u64, u64),
    /// Changes applied, and their bytes.
    pub(crate) applied: (u64, u64),
    /// How fast chunks may be asked for.
    pub(crate) pace: Arc<Pace>,
    /// Streams of changes that were lost, with whatever was on its way.
    pub(crate) lost: u64,
    /// Why the copy cannot go on.
    pub(crate) failure: Option<Refusal>,
    /// What it waits for that somebody has to see to.
    pub(crate) waits: Option<Refusal>,
    pub(crate) task: Option<(Follow, CancellationToken)>,
}

/// Asks for a chunk when it may be asked for. What the copy has to do meanwhile goes on. Where the stream has ended,
/// nobody is asked, and whoever reads it notices.
pub(crate) async fn ask_at_pace(pace: Arc<Pace>, requests: &mpsc::Sender<FollowRequest>, request: FollowRequest) {
    if pace.wait().is_none() {
        let _ended = requests.send(request).await;
        return;
    }
    let requests = requests.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = pace.ready() => {
                let _ended = requests.send(request).await;
            }
            () = requests.closed() => {}
        }
    });
}

impl Progress {
    pub(crate) fn heard_of(&mut self, source: Seq, applied: Seq) {
        let now = Instant::now();
        self.source_seq = self.source_seq.max(source);
        self.heard = Some(now);
        self.behind_since = if applied >= self.source_seq { None } else { self.behind_since.or(Some(now)) };
    }

    /// How much is missing, from what changes have weighed so far.
    pub(crate) fn lag_bytes(&self, applied: Seq) -> u64 {
        let behind = self.source_seq.get().saturating_sub(applied.get());
        behind.saturating_mul(self.applied.1 / self.applied.0.max(1)).max(behind)
    }

    /// How long the copy has been behind, or silent for longer than a live owner is.
    pub(crate) fn lag_ms(&self) -> u64 {
        let millis = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let behind = self.behind_since.map_or(0, millis);
        let silent = self.heard.map_or(u64::MAX, millis);
        if silent > SILENCE_MS { behind.max(silent) } else { behind }
    }
}

/// An owner that has nothing to say says so this often, in milliseconds;
pub(crate) const HEARTBEAT_MS: u64 = 200;
/// one that is silent for longer than this may have moved on, in milliseconds.
const SILENCE_MS: u64 = 3 * HEARTBEAT_MS;
