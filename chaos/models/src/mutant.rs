//! Guards switched off, one at a time. A guard that can go without the checker finding a counterexample is a dead one,
//! or the model does not look where it should.
//!
//! Guards of cells and routers are switched off where the model plays their part. A guard of the store is switched off
//! around the production `decide`: what it asks for is put into the record ([`before_decide`]), or what it does is
//! taken back ([`after_decide`]).

use cell_model::{Acks, AppliedAck, Attempt, Event, FencedAck, Generation, Phase, TenantRecord, VerifiedAck};

/// One guard that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mutant {
    /// A cell executes writes whatever epoch they carry, fenced or not.
    EpochUnchecked,
    /// A cell fences whether or not its seal still stands.
    FenceWithoutSeal,
    /// The target serves as soon as its reverse capture is prepared.
    ServesBeforeCommit,
    /// A cell obeys every leader, however old.
    TermIgnored,
    /// In Sync a write is answered before the follower holds it.
    AnsweredBeforeApplied,
    /// COMMIT does not ask for the fence.
    CommitWithoutFence,
    /// COMMIT does not ask for S* to be applied and verified.
    CommitWithoutApplied,
    /// ABORT leaves the epoch as it is.
    AbortKeepsEpoch,
    /// COMMIT leaves the epoch as it is.
    CommitKeepsEpoch,
    /// A fenced cell serves again by itself.
    FenceTimesOut,
    /// A fence does not survive a restart.
    FenceForgotten,
    /// A router sends a write again although it may have been executed.
    UnknownReplayed,
    /// The follower applies a change that it has applied before.
    ChangeAppliedTwice,
    /// The copy of an ended move is dropped without a look at who owns.
    DropsWhatItOwns,
    /// An old copy is reclaimed without a look at the local grant.
    ReclaimsWithoutLooking,
    /// A copy is retained, and moves to its cell are admitted all the same.
    CopyInTheWayIgnored,
    /// An owner is taken over although it was not stopped.
    TakeoverWithoutEvidence,
    /// A takeover counts as lossless although sync was given up, or never had everything.
    TakeoverWhileDegraded,
    /// What a cell that was taken over has put aside is given to the new owner.
    TailMerged,
    /// A cell that starts in the middle of a move serves at once.
    StartsWithoutAsking,
    /// Nobody sees that a copy is not the original.
    DifferenceOverlooked,
    /// The database of a cell without a gate takes writes although its cell is fenced.
    DatabaseUnfenced,
    /// An owner without a gate is sealed before routers hold back, and they are said to.
    RoutersNotAwaited,
    /// A router that is silent counts as one without a lease while its lease runs.
    LeaseNotAwaited,
    /// A new leader does not wait for the end of leases that the one before has granted.
    FormerLeasesForgotten,
    /// A deposed leader grants leases: it does not ask a majority whether it still leads.
    LeaseWithoutQuorum,
    /// A router does not say that a write of the tenant is on its way.
    SendingUntold,
    /// A router sends writes to a cell without a gate although its lease has run out.
    LeaseIgnored,
    /// Routers go to a new owner without a gate before it may serve.
    EnteredBeforeActivated,
}

impl Mutant {
    /// All.
    pub const ALL: [Self; 29] = [
        Self::EpochUnchecked,
        Self::FenceWithoutSeal,
        Self::ServesBeforeCommit,
        Self::TermIgnored,
        Self::AnsweredBeforeApplied,
        Self::CommitWithoutFence,
        Self::CommitWithoutApplied,
        Self::AbortKeepsEpoch,
        Self::CommitKeepsEpoch,
        Self::FenceTimesOut,
        Self::FenceForgotten,
        Self::UnknownReplayed,
        Self::ChangeAppliedTwice,
        Self::DropsWhatItOwns,
        Self::ReclaimsWithoutLooking,
        Self::CopyInTheWayIgnored,
        Self::TakeoverWithoutEvidence,
        Self::TakeoverWhileDegraded,
        Self::TailMerged,
        Self::StartsWithoutAsking,
        Self::DifferenceOverlooked,
        Self::DatabaseUnfenced,
        Self::RoutersNotAwaited,
        Self::LeaseNotAwaited,
        Self::FormerLeasesForgotten,
        Self::LeaseWithoutQuorum,
        Self::SendingUntold,
        Self::LeaseIgnored,
        Self::EnteredBeforeActivated,
    ];

    /// As it is named on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EpochUnchecked => "epoch-unchecked",
            Self::FenceWithoutSeal => "fence-without-seal",
            Self::ServesBeforeCommit => "serves-before-commit",
            Self::TermIgnored => "term-ignored",
            Self::AnsweredBeforeApplied => "answered-before-applied",
            Self::CommitWithoutFence => "commit-without-fence",
            Self::CommitWithoutApplied => "commit-without-applied",
            Self::AbortKeepsEpoch => "abort-keeps-epoch",
            Self::CommitKeepsEpoch => "commit-keeps-epoch",
            Self::FenceTimesOut => "fence-times-out",
            Self::FenceForgotten => "fence-forgotten",
            Self::UnknownReplayed => "unknown-replayed",
            Self::ChangeAppliedTwice => "change-applied-twice",
            Self::DropsWhatItOwns => "drops-what-it-owns",
            Self::ReclaimsWithoutLooking => "reclaims-without-looking",
            Self::CopyInTheWayIgnored => "copy-in-the-way-ignored",
            Self::TakeoverWithoutEvidence => "takeover-without-evidence",
            Self::TakeoverWhileDegraded => "takeover-while-degraded",
            Self::TailMerged => "tail-merged",
            Self::StartsWithoutAsking => "starts-without-asking",
            Self::DifferenceOverlooked => "difference-overlooked",
            Self::DatabaseUnfenced => "database-unfenced",
            Self::RoutersNotAwaited => "routers-not-awaited",
            Self::LeaseNotAwaited => "lease-not-awaited",
            Self::FormerLeasesForgotten => "former-leases-forgotten",
            Self::LeaseWithoutQuorum => "lease-without-quorum",
            Self::SendingUntold => "sending-untold",
            Self::LeaseIgnored => "lease-ignored",
            Self::EnteredBeforeActivated => "entered-before-activated",
        }
    }
}

/// Gives `decide` what the guard would have asked for.
pub(crate) fn before_decide(mutant: Mutant, record: &mut TenantRecord, event: Event) -> Event {
    if mutant == Mutant::CopyInTheWayIgnored && event == Event::Admitted {
        record.retained.clear();
    }
    let Some(movement) = &mut record.movement else { return event };
    let Acks { sealed, applied, verified, fenced, .. } = &mut movement.acks;
    match (mutant, &event) {
        (Mutant::CommitWithoutFence, Event::Commit { attempt }) => {
            if let (None, Some(sealed)) = (&fenced, &sealed) {
                *fenced = Some(FencedAck { attempt: *attempt, seq: sealed.seq });
            }
        }
        (Mutant::CommitWithoutApplied, Event::Sealed { attempt, seq }) if movement.phase == Phase::Hold => {
            let attempt: Attempt = *attempt;
            *applied = Some(AppliedAck { attempt, seq: *seq, generation: Generation(0) });
            *verified = Some(VerifiedAck { attempt, seq: *seq, digest: cell_model::Digest::default() });
        }
        _ => {}
    }
    event
}

/// Takes back what the guard would have done.
pub(crate) fn after_decide(mutant: Mutant, before: &TenantRecord, record: &mut TenantRecord) {
    let phase = |record: &TenantRecord| record.movement.as_ref().map(|movement| movement.phase);
    let entered = |wanted: Phase| phase(before) != Some(wanted) && phase(record) == Some(wanted);
    let keeps = match mutant {
        Mutant::AbortKeepsEpoch => entered(Phase::Unfence),
        Mutant::CommitKeepsEpoch => entered(Phase::Activate),
        _ => false,
    };
    if keeps {
        record.epoch = before.epoch;
    }
}
