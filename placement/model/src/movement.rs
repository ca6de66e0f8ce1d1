//! One move: its phase, its intent and every acknowledgement that the next decision will ask for.
//!
//! ```text
//!                    ┌──────────────────────── a missed hold ───────────────────────┐
//!                    ▼                                                              │
//! Preflight ► Prepare ► Backfill ► CatchUp ► Verify ► Sync ────────► Hold ──────────┤
//!     │          │         │          ▲         │      │ degraded     │ all acks     │
//!     │          │         │          └─────────┴──────┘              ▼              │
//!     │          └─────────┴──── cancel ──► Cleanup ◄── spent ── Unfence ◄─ abort ─ Fenced
//!     └─ refused ────────────────────────────►│                       │ ack         │
//!                                             ▼                       └──► Sync     │ COMMIT(B, e+1)
//!                                          (ended)                                  ▼
//!             (ended, copy retained) ◄── soak passed ── Soak ◄──────────────── Activate
//!                                                        │  ▲
//!                                              rollback  ▼  │ missed
//!                                     Hold ► Fenced ► COMMIT(A, e+2) ► Activate ► Cleanup ► (ended)      leg: Back
//! ```

use serde::{Deserialize, Serialize};

use crate::{
    Attempt, CellId, Difference, Digest, Epoch, Generation, Lineage, MoveId, Revision, RoutersAck, Seq, TenantId,
    Tier, TierChange, Uid, Ungated, UnixMillis,
};

/// Which way the tenant goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leg {
    /// From the cell that had it to the cell that was asked for.
    Forward,
    /// Back, by the reverse stream, after a rollback was asked for.
    Back,
}

/// What is being done. The protocol's table is in `docs/migration.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Checks; waits for a slot and for an old copy on the target to be reclaimed.
    Preflight,
    /// The source captures changes, the target makes room for the import.
    Prepare,
    /// The target copies the source, chunk by chunk.
    Backfill,
    /// The target applies what was captured until it is close behind.
    CatchUp,
    /// Full digests at a consistent cut.
    Verify,
    /// The source answers a write only when the target holds it too.
    Sync,
    /// Writes wait, reads are served. Lapses by itself.
    Hold,
    /// The source refuses everything, durably. Never lapses.
    Fenced,
    /// The epoch is raised and the other cell owns; it makes that durable.
    Activate,
    /// The new owner serves, the old one follows by the reverse stream.
    Soak,
    /// An abort after the fence: the source owns again at a higher epoch as soon as it says so.
    Unfence,
    /// What the move has made is taken away.
    Cleanup,
}

impl Phase {
    /// All, in the order of a move that goes well, then the ways back.
    pub const ALL: [Self; 12] = [
        Self::Preflight,
        Self::Prepare,
        Self::Backfill,
        Self::CatchUp,
        Self::Verify,
        Self::Sync,
        Self::Hold,
        Self::Fenced,
        Self::Activate,
        Self::Soak,
        Self::Unfence,
        Self::Cleanup,
    ];

    /// As the CLI prints and reads it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Prepare => "prepare",
            Self::Backfill => "backfill",
            Self::CatchUp => "catch-up",
            Self::Verify => "verify",
            Self::Sync => "sync",
            Self::Hold => "hold",
            Self::Fenced => "fenced",
            Self::Activate => "activate",
            Self::Soak => "soak",
            Self::Unfence => "unfence",
            Self::Cleanup => "cleanup",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Phase {
    type Err = crate::InvalidId;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text).ok_or_else(|| crate::InvalidId {
            kind: "phase",
            given: text.chars().take(80).collect(),
            rule: "one of preflight, prepare, backfill, catch-up, verify, sync, hold, fenced, activate, soak, \
                   unfence, cleanup",
        })
    }
}

/// What the operator wants of the move now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Intent {
    /// Go on.
    Run,
    /// Start no new phase before the hold; a capture that runs goes on.
    Pause,
    /// Take away what was made and leave the tenant where it is.
    Cancel,
    /// Bring the tenant back from Soak.
    Rollback,
}

/// How a move ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The tenant lives on the target.
    Completed,
    /// The operator cancelled before the cutover.
    Cancelled,
    /// The operator brought it back out of soak.
    RolledBack,
    /// It was a rehearsal: everything was done up to the fence, and taken back.
    Rehearsed,
    /// The other cell was made the owner by force, because this one was out of reach.
    TakenOver,
    /// The engine gave up before the cutover.
    Aborted {
        /// Stable code of the reason.
        code: String,
        /// The reason, as a sentence.
        reason: String,
    },
}

impl End {
    /// One word, as tables print it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::RolledBack => "rolled-back",
            Self::Rehearsed => "rehearsed",
            Self::TakenOver => "taken-over",
            Self::Aborted { .. } => "aborted",
        }
    }
}

/// While sync was engaged, the target held what was the source's last change then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InSyncAck {
    /// The history in which it was said: what came after it is not known any more once that was restored from a backup.
    pub lineage: Lineage,
    /// That change.
    pub seq: Seq,
}

/// The gates are closed and quiesced; `seq` is the last write of this attempt's hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SealedAck {
    /// The hold that it belongs to.
    pub attempt: Attempt,
    /// S*.
    pub seq: Seq,
}

/// The other cell has durably applied everything up to `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AppliedAck {
    /// The hold that it belongs to.
    pub attempt: Attempt,
    /// Last applied change.
    pub seq: Seq,
    /// Incarnation of the agent that said so.
    pub generation: Generation,
}

/// Both cells add up to the same at `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VerifiedAck {
    /// The hold that it belongs to.
    pub attempt: Attempt,
    /// The cut at which they were compared.
    pub seq: Seq,
    /// What both add up to.
    pub digest: Digest,
}

/// The fenced cell refuses everything durably, and no write came after `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FencedAck {
    /// The hold that it belongs to.
    pub attempt: Attempt,
    /// S*, checked in the transaction that flipped the fence.
    pub seq: Seq,
}

/// The coming owner captures its own writes from its first one on, durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReverseAck {
    /// Position from which the reverse stream starts.
    pub position: Seq,
    /// Incarnation of the agent that said so.
    pub generation: Generation,
}

/// How the source answers writes during a move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncMode {
    /// As soon as it holds them itself.
    #[default]
    Async,
    /// Only when the target holds them, too. Left only by a committed degradation.
    Engaged {
        /// Since when.
        since: UnixMillis,
    },
    /// The degradation is committed, the source has not yet been told.
    Degrading,
}

/// Everything that cells have acknowledged and that a decision may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Acks {
    /// The source captures from this position on, durably.
    pub capture: Option<Seq>,
    /// The target refuses everybody but the mover, durably; incarnation of its agent.
    pub import: Option<Generation>,
    /// The frontier has reached the end; position up to which the target holds everything.
    pub backfilled: Option<Seq>,
    /// Full digest at a consistent cut before the hold.
    pub verified_full: Option<VerifiedAck>,
    /// Whether the source answers writes only when the target holds them.
    pub sync: SyncMode,
    /// The target held, while sync was engaged, everything up to this change, which was the source's last one: from then on
    /// every acknowledged write is there. Gone with a degradation.
    pub in_sync: Option<InSyncAck>,
    /// The coming owner's own capture is ready.
    pub reverse: Option<ReverseAck>,
    /// Acknowledgements of the current hold.
    pub sealed: Option<SealedAck>,
    /// See [`AppliedAck`].
    pub applied: Option<AppliedAck>,
    /// Digests at S*.
    pub verified: Option<VerifiedAck>,
    /// See [`FencedAck`].
    pub fenced: Option<FencedAck>,
    /// The fenced cell holds the signed mapping that it hands out.
    pub mapping_delivered: bool,
    /// In Cleanup: the copying side has nothing left.
    pub import_dropped: bool,
    /// In Cleanup: the captured side has nothing left.
    pub capture_stopped: bool,
    /// Of the current hold: see [`RoutersAck`].
    #[serde(deserialize_with = "crate::layout::since_5")]
    pub routers: Option<RoutersAck>,
}

/// What a tenant weighs, as its cell has counted it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Weight {
    /// Rows.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// When a phase was entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PhaseStamp {
    /// The phase.
    pub phase: Phase,
    /// The attempt in which it was entered.
    pub attempt: Attempt,
    /// The proposer's clock.
    pub at: UnixMillis,
    /// The revision that entered it.
    pub revision: Revision,
}

/// What a forced takeover stood on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Takeover {
    /// What the operator knows of the owner: why it counts as stopped.
    pub evidence: String,
    /// The cell that owned.
    pub from: CellId,
    /// Where the move was.
    pub phase: Phase,
    /// Every acknowledged write is known to be at the new owner.
    pub lossless: bool,
    /// Up to where the new owner's copy went when it was decided,
    pub applied: Seq,
    /// and the old owner's last change that it had heard of.
    pub heard: Seq,
}

/// A move under way. `source` and `target` stay as they were asked for; [`Move::from`] and [`Move::to`] go by the leg.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Move {
    /// Its name.
    pub id: MoveId,
    /// A: the cell that owned the tenant when the move was asked for.
    pub source: CellId,
    /// B: the cell that was asked for.
    pub target: CellId,
    /// Which way it goes.
    pub leg: Leg,
    /// What is being done.
    pub phase: Phase,
    /// The current attempt; rises with every hold and every re-entered copy.
    pub attempt: Attempt,
    /// What the operator wants.
    pub intent: Intent,
    /// Pause by itself when this phase is done, before the next one starts.
    pub until: Option<Phase>,
    /// Everything is to be done up to the fence, on the tenant itself, and then taken back.
    pub rehearse: bool,
    /// The most that the copy may read of the source in a second; 0: as fast as it goes.
    pub bytes_per_second: u64,
    /// What preflight has found the tenant to weigh.
    pub weight: Option<Weight>,
    /// It has a slot among the moves that may run at once.
    pub admitted: bool,
    /// The longest that writes may wait in one hold, in milliseconds.
    pub hold_max_ms: u32,
    /// How long Sync must have been steady before a hold, in milliseconds.
    pub sync_steady_ms: u32,
    /// How long the new owner must have served before the move is final, in milliseconds.
    pub soak_ms: u32,
    /// How long the old copy is kept after that, in milliseconds.
    pub retain_ms: u64,
    /// Holds that may still be missed before the move is given up.
    pub retries_left: u32,
    /// No hold before this time.
    pub not_before: UnixMillis,
    /// What cells have acknowledged.
    pub acks: Acks,
    /// Epoch of the grant that COMMIT has fenced: what a reclaim of that copy checks.
    pub fenced_epoch: Option<Epoch>,
    /// How many requests the fenced cell has turned away because they came under the older epoch, at the end of soak.
    pub stale_rejected: Option<u64>,
    /// The owner was out of reach, and the other cell was made the owner by force.
    pub takeover: Option<Takeover>,
    /// Why it was asked for; empty where nobody said.
    #[serde(deserialize_with = "crate::layout::since_5")]
    pub reason: Box<str>,
    /// The tenant gets another tier with it.
    #[serde(deserialize_with = "crate::layout::since_5")]
    pub tiers: Option<TierChange>,
    /// In what the copy was found to differ, the last one last: at most one more than [`Move::DIFFERENCES_MAX`].
    #[serde(deserialize_with = "crate::layout::since_5")]
    pub differences: Vec<Difference>,
    /// Transactions of writers that no gate has let in are ended, where a hold would wait for them for too long.
    #[serde(deserialize_with = "crate::layout::since_5")]
    pub terminate_writers: bool,
    /// How many were.
    #[serde(deserialize_with = "crate::layout::since_5")]
    pub ended_writers: u32,
    /// Cells of it without a gate: there routers hold back what gates would.
    #[serde(deserialize_with = "crate::layout::since_5")]
    pub ungated: Ungated,
    /// In Verify every row of the copy is compared with its original, one by one.
    #[serde(deserialize_with = "crate::layout::since_5")]
    pub exact: bool,
    /// Why it will end as it will, once it has turned to Cleanup.
    pub ending: Option<End>,
    /// Phases entered, the newest last; the oldest are dropped beyond [`Move::HISTORY_MAX`].
    pub history: Vec<PhaseStamp>,
}

impl Move {
    /// How many phase stamps are kept.
    pub const HISTORY_MAX: usize = 128;
    /// How often a copy that differs is mended. Found to differ once more, it is given up.
    pub const DIFFERENCES_MAX: usize = 3;

    /// The cell that owns now and is to be left, on this leg, until COMMIT.
    #[must_use]
    pub const fn from(&self) -> &CellId {
        match self.leg {
            Leg::Forward => &self.source,
            Leg::Back => &self.target,
        }
    }

    /// The cell that is to own, on this leg.
    #[must_use]
    pub const fn to(&self) -> &CellId {
        match self.leg {
            Leg::Forward => &self.target,
            Leg::Back => &self.source,
        }
    }

    /// The tier that goes with owning on that cell, where the move changes it.
    #[must_use]
    pub fn tier_on(&self, cell: &CellId) -> Option<Tier> {
        let TierChange { source, target } = self.tiers?;
        (*cell == self.target).then_some(target).or_else(|| (*cell == self.source).then_some(source))
    }

    /// Whether COMMIT is to become an ABORT once every acknowledgement is there: a rehearsal, or a stop at the fence.
    #[must_use]
    pub fn stops_at_the_fence(&self) -> bool {
        self.leg == Leg::Forward && (self.rehearse || self.until == Some(Phase::Fenced))
    }

    /// When the current phase was entered.
    #[must_use]
    pub fn phase_since(&self) -> UnixMillis {
        self.history.last().map_or(UnixMillis(0), |stamp| stamp.at)
    }

    /// When the new owner first served: a rollback that was missed does not begin the soak anew.
    #[must_use]
    pub fn soak_since(&self) -> UnixMillis {
        let soak = self.history.iter().find(|stamp| stamp.phase == Phase::Soak);
        soak.map_or_else(|| self.phase_since(), |stamp| stamp.at)
    }

    /// Whether COMMIT of this leg lies behind.
    #[must_use]
    pub const fn is_committed(&self) -> bool {
        match (self.leg, self.phase) {
            (Leg::Forward, Phase::Activate | Phase::Soak) => true,
            // On the way back only Activate and the Cleanup after it lie behind COMMIT(A, e+2).
            (Leg::Back, Phase::Activate | Phase::Cleanup) => true,
            (
                Leg::Forward,
                Phase::Preflight
                | Phase::Prepare
                | Phase::Backfill
                | Phase::CatchUp
                | Phase::Verify
                | Phase::Sync
                | Phase::Hold
                | Phase::Fenced
                | Phase::Unfence
                | Phase::Cleanup,
            )
            | (
                Leg::Back,
                Phase::Preflight
                | Phase::Prepare
                | Phase::Backfill
                | Phase::CatchUp
                | Phase::Verify
                | Phase::Sync
                | Phase::Hold
                | Phase::Fenced
                | Phase::Soak
                | Phase::Unfence,
            ) => false,
        }
    }
}

/// A move that has ended, as kept for questions later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRecord {
    /// Whose.
    pub tenant: TenantId,
    /// Which incarnation.
    pub uid: Uid,
    /// The move as it was at its end.
    pub movement: Move,
    /// How it ended.
    pub end: End,
    /// The tenant's epoch at its end.
    pub epoch: Epoch,
    /// When.
    pub ended: UnixMillis,
    /// Revision that ended it.
    pub revision: Revision,
}
