//! What can happen to a tenant: the results of effects, and decisions that become due.

use serde::{Deserialize, Serialize};

use crate::{Attempt, CellId, Difference, Digest, Generation, Lineage, Seq, Tail, UnixMillis, Weight};

/// One thing that happened. Acknowledgements of a hold carry the attempt that they belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The owner's grant of a new tenant is durable.
    Granted,
    /// A cell holds nothing more of a deleted tenant.
    Revoked {
        /// Which cell.
        cell: CellId,
    },

    /// A slot among the running moves is free. [`crate::decide`] counts them again.
    Admitted,
    /// Every check passed.
    PreflightPassed,
    /// A check failed: the move ends.
    PreflightFailed {
        /// Stable code.
        code: String,
        /// Which check, and why.
        reason: String,
    },
    /// The target refuses everybody but the mover, durably.
    ImportPrepared {
        /// Incarnation of its agent.
        generation: Generation,
    },
    /// The source captures, durably.
    CaptureStarted {
        /// From here on.
        position: Seq,
    },
    /// The frontier has reached the end.
    BackfillDone {
        /// The target holds everything up to here.
        applied: Seq,
    },
    /// The target is close behind the source.
    CaughtUp {
        /// The target holds everything up to here.
        applied: Seq,
    },
    /// Full digests are equal at a consistent cut.
    FullyVerified {
        /// The cut.
        seq: Seq,
        /// What both add up to.
        digest: Digest,
    },
    /// Digests differ, and nothing can be done about it: the copy is not the original. The move ends, the tenant stays.
    Mismatched {
        /// What differs.
        reason: String,
    },
    /// The source answers writes only when the target holds them.
    SyncEngaged,
    /// The coming owner's own capture is durable.
    ReverseReady {
        /// Where the reverse stream will start.
        position: Seq,
        /// Incarnation of its agent.
        generation: Generation,
    },
    /// While sync was engaged, the target has acknowledged what was the source's last change then: every write that was
    /// acknowledged before is at the target, too.
    InSync {
        /// In this attempt.
        attempt: Attempt,
        /// In this history.
        lineage: Lineage,
        /// That change.
        seq: Seq,
    },
    /// The target was too slow: the source asks to answer without it.
    SyncDegraded {
        /// The attempt in which it happened.
        attempt: Attempt,
    },
    /// The source has been told that it may answer without the target.
    SyncDisengaged,
    /// Sync has been steady for long enough: writes shall wait.
    HoldDue,
    /// Gates closed and quiesced, last sequence read.
    Sealed {
        /// Of this hold.
        attempt: Attempt,
        /// S*.
        seq: Seq,
    },
    /// The other cell holds everything up to S*.
    Applied {
        /// Of this hold.
        attempt: Attempt,
        /// Its last applied change.
        seq: Seq,
        /// Incarnation of its agent.
        generation: Generation,
    },
    /// Both cells add up to the same at S*.
    Verified {
        /// Of this hold.
        attempt: Attempt,
        /// The cut.
        seq: Seq,
        /// What both add up to.
        digest: Digest,
    },
    /// The hold could not be finished within its budget.
    HoldMissed {
        /// Of this hold.
        attempt: Attempt,
        /// Why.
        reason: String,
        /// No new hold before.
        not_before: UnixMillis,
    },
    /// The fence is durable.
    Fenced {
        /// Of this hold.
        attempt: Attempt,
        /// S*, checked in the transaction that flipped the fence.
        seq: Seq,
    },
    /// COMMIT: raise the epoch and give the tenant to the other cell, if every acknowledgement is there.
    Commit {
        /// Of this hold.
        attempt: Attempt,
    },
    /// ABORT: the fence was refused or the commit cannot be; the owner gets the tenant back at a higher epoch.
    Abort {
        /// Of this hold.
        attempt: Attempt,
        /// Why.
        reason: String,
        /// No new hold before.
        not_before: UnixMillis,
    },
    /// The owner owns again, at the epoch that ABORT raised.
    Unfenced {
        /// Of this hold.
        attempt: Attempt,
    },
    /// The new owner's grant is durable.
    Activated {
        /// Incarnation of its agent.
        generation: Generation,
    },
    /// The fenced cell holds the signed mapping that it hands out.
    MappingDelivered,
    /// The new owner has served for long enough.
    SoakPassed,
    /// The copying side of an ended move holds nothing more of it.
    ImportDropped,
    /// The captured side of an ended move holds nothing more of it.
    CaptureStopped,
    /// The engine gives the move up before the cutover.
    GaveUp {
        /// Stable code.
        code: String,
        /// Why.
        reason: String,
    },

    /// The cell that took the tenant over by force owns it, durably.
    TakenOver {
        /// It holds the old owner's changes up to here, and none after it.
        seq: Seq,
        /// Incarnation of its agent.
        generation: Generation,
    },
    /// A cell that was taken over was reached: it has stopped owning and put aside what nobody else holds.
    Quarantined {
        /// Where.
        cell: CellId,
        /// What it has put aside.
        tail: Tail,
    },
    /// The old copy is a tombstone that redirects.
    Retired {
        /// Where.
        cell: CellId,
    },
    /// The old copy need not be kept any longer.
    RetentionOver {
        /// Where.
        cell: CellId,
    },
    /// The old copy is gone.
    Reclaimed {
        /// Where.
        cell: CellId,
    },

    /// What preflight has found the tenant to weigh.
    Weighed(Weight),
    /// How many requests the fenced cell has turned away since, because they came under an older epoch.
    Counted {
        /// So many.
        stale_rejected: u64,
    },
    /// The copy is not the original, and this is known of where: rows that differ are copied anew, and everything is compared
    /// again. Not without end: see [`crate::Move::DIFFERENCES_MAX`].
    Differed(Box<Difference>),
    /// Transactions of writers that no gate has let in were ended, because a hold would have waited for them.
    WritersEnded {
        /// So many in this move by now.
        count: u32,
    },
    /// Where the owner has no gate: no router has a write of the tenant on its way, nor sends one before it has seen the hold's end.
    RoutersHeld {
        /// Of this hold.
        attempt: Attempt,
        /// Routers that have seen the hold and have let their writes finish.
        seen: u32,
        /// Routers whose lease has run out.
        fenced: u32,
    },
}

impl Event {
    /// Its name, for messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Granted => "Granted",
            Self::Revoked { .. } => "Revoked",
            Self::Admitted => "Admitted",
            Self::PreflightPassed => "PreflightPassed",
            Self::PreflightFailed { .. } => "PreflightFailed",
            Self::ImportPrepared { .. } => "ImportPrepared",
            Self::CaptureStarted { .. } => "CaptureStarted",
            Self::BackfillDone { .. } => "BackfillDone",
            Self::CaughtUp { .. } => "CaughtUp",
            Self::FullyVerified { .. } => "FullyVerified",
            Self::Mismatched { .. } => "Mismatched",
            Self::SyncEngaged => "SyncEngaged",
            Self::InSync { .. } => "InSync",
            Self::TakenOver { .. } => "TakenOver",
            Self::Quarantined { .. } => "Quarantined",
            Self::ReverseReady { .. } => "ReverseReady",
            Self::SyncDegraded { .. } => "SyncDegraded",
            Self::SyncDisengaged => "SyncDisengaged",
            Self::HoldDue => "HoldDue",
            Self::Sealed { .. } => "Sealed",
            Self::Applied { .. } => "Applied",
            Self::Verified { .. } => "Verified",
            Self::HoldMissed { .. } => "HoldMissed",
            Self::Fenced { .. } => "Fenced",
            Self::Commit { .. } => "Commit",
            Self::Abort { .. } => "Abort",
            Self::Unfenced { .. } => "Unfenced",
            Self::Activated { .. } => "Activated",
            Self::MappingDelivered => "MappingDelivered",
            Self::SoakPassed => "SoakPassed",
            Self::ImportDropped => "ImportDropped",
            Self::CaptureStopped => "CaptureStopped",
            Self::GaveUp { .. } => "GaveUp",
            Self::Retired { .. } => "Retired",
            Self::RetentionOver { .. } => "RetentionOver",
            Self::Reclaimed { .. } => "Reclaimed",
            Self::Weighed(_) => "Weighed",
            Self::Counted { .. } => "Counted",
            Self::Differed(_) => "Differed",
            Self::WritersEnded { .. } => "WritersEnded",
            Self::RoutersHeld { .. } => "RoutersHeld",
        }
    }
}
