//! The rules by which [`crate::decide`] and [`crate::step`] refuse, each with a name.
//!
//! A name costs nothing: it is what a rule is called in `docs/guards.md`, which says of each one how it is known that it
//! cannot go. In builds with the feature `planted` rules can be switched off (`planted::without`), and the model checker
//! and the tests must notice.
//!
//! Where a command names what is not there (a cell, a tenant, a move), nothing could be done: that is not a rule.

use crate::Rejected;

macro_rules! rules {
    ($($name:ident $id:literal $what:literal;)*) => {
        /// One rule. It is named after what it may refuse and what it looks at.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = concat!("Refuses ", $what, ".")] $name,)*
        }

        impl Rule {
            /// All, in the order of the page.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// As it is named in documents and on the command line.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// What it refuses.
            #[must_use]
            pub const fn refuses(self) -> &'static str {
                match self { $(Self::$name => $what,)* }
            }
        }
    };
}

rules! {
    // Every event of a tenant.
    RecordUid "record/uid" "what happened to another incarnation of the name";
    RecordMove "record/move" "what happened within another move";
    RecordLeg "record/leg" "what happened on the other leg";
    GrantedLife "granted/life" "a grant of a tenant that is being deleted";
    RevokedLife "revoked/life" "a revocation of a tenant that lives";
    // The copy.
    AdmittedPhase "admitted/phase" "a slot outside Preflight";
    AdmittedCopy "admitted/copy" "a slot while a copy that an earlier move has left may follow, or is on the target";
    AdmittedSlots "admitted/slots" "more moves at once than the limit";
    AdmittedCell "admitted/cell" "more moves of one cell at once than the limit";
    PreflightPassedPhase "preflight-passed/phase" "the end of checks outside Preflight";
    PreflightPassedAdmitted "preflight-passed/admitted" "a copy without a slot";
    PreflightFailedPhase "preflight-failed/phase" "failed checks outside Preflight";
    WeighedPhase "weighed/phase" "a weight outside Preflight";
    CaptureStartedPhase "capture-started/phase" "a capture outside Prepare";
    ImportPreparedPhase "import-prepared/phase" "an import outside Prepare";
    ImportPreparedCapture "import-prepared/capture" "an import before the source captures";
    BackfillDonePhase "backfill-done/phase" "a whole copy outside Backfill";
    CaughtUpPhase "caught-up/phase" "a copy close behind outside CatchUp";
    CaughtUpAsync "caught-up/async" "the same before the source has left sync";
    FullyVerifiedPhase "fully-verified/phase" "full digests outside Verify";
    MismatchedPhase "mismatched/phase" "unequal digests where none are compared";
    MismatchedLeg "mismatched/leg" "unequal digests on the way back";
    DifferedPhase "differed/phase" "rows that differ where none are compared";
    DifferedFound "differed/found" "rows that differ, found in another phase or on the way back";
    DifferedRows "differed/rows" "more rows, or longer keys, than are kept";
    DifferedIntent "differed/intent" "rows that differ in Soak, of a move that rests or goes back";
    GaveUpPhase "gave-up/phase" "a copy that failed where nothing is copied";
    SyncEngagedPhase "sync-engaged/phase" "sync outside Sync";
    InSyncPhase "in-sync/phase" "a copy that has everything, outside Sync";
    InSyncAttempt "in-sync/attempt" "the same of another attempt";
    InSyncEngaged "in-sync/engaged" "the same before sync is engaged";
    ReverseReadyPhase "reverse-ready/phase" "a reverse capture outside Sync";
    SyncDegradedPhase "sync-degraded/phase" "a degradation outside Sync";
    SyncDegradedAttempt "sync-degraded/attempt" "a degradation of another attempt";
    SyncDegradedEngaged "sync-degraded/engaged" "a degradation before sync is engaged";
    SyncDisengagedPhase "sync-disengaged/phase" "the end of sync outside CatchUp";
    // Hold, fence, COMMIT, ABORT.
    HoldDuePhase "hold-due/phase" "a hold outside Sync and Soak";
    HoldDueNotBefore "hold-due/not-before" "a hold too soon after a missed one";
    HoldDueIntent "hold-due/intent" "a hold of a move that was told to stop";
    HoldDueEngaged "hold-due/engaged" "a hold before sync is engaged";
    HoldDueReverse "hold-due/reverse" "a hold without a reverse capture";
    HoldDueVerified "hold-due/verified" "a hold without full digests";
    HoldDueSteady "hold-due/steady" "a hold before sync was steady";
    HoldDueRollback "hold-due/rollback" "a hold in Soak that nobody asked for";
    HoldDueMapping "hold-due/mapping" "a way back before the old owner follows";
    HoldMissedPhase "hold-missed/phase" "a missed hold outside Hold";
    HoldMissedAttempt "hold-missed/attempt" "a missed hold of another attempt";
    HeldPhase "held/phase" "an acknowledgement of a hold outside Hold";
    RoutersHeldPhase "routers-held/phase" "a word on what routers hold back outside Hold";
    RoutersHeldAttempt "routers-held/attempt" "the same of another attempt";
    SealedAttempt "sealed/attempt" "a seal of another attempt";
    SealedRouters "sealed/routers" "a seal of an owner without a gate while routers may send it writes";
    SealAttempt "seal/attempt" "whatever stands on the seal of another attempt";
    AppliedAttempt "applied/attempt" "a copy that holds S* of another attempt";
    AppliedSeq "applied/seq" "a copy that holds another change than S*";
    AppliedIncarnation "applied/incarnation" "the same, said by an agent that is gone";
    VerifiedAttempt "verified/attempt" "digests of another attempt";
    VerifiedSeq "verified/seq" "digests at another change than S*";
    FencedPhase "fenced/phase" "a fence outside Fenced";
    FencedAttempt "fenced/attempt" "a fence of another attempt";
    FencedSeq "fenced/seq" "a fence at another change than S*";
    CommitPhase "commit/phase" "COMMIT outside Fenced";
    CommitAttempt "commit/attempt" "COMMIT of another attempt";
    CommitFenced "commit/fenced" "COMMIT without the fence";
    CommitFencedAttempt "commit/fenced-attempt" "COMMIT with the fence of another attempt";
    CommitFencedSeq "commit/fenced-seq" "COMMIT with the fence at another change";
    CommitApplied "commit/applied" "COMMIT without S* at the other cell";
    CommitAppliedAttempt "commit/applied-attempt" "COMMIT with S* of another attempt";
    CommitAppliedSeq "commit/applied-seq" "COMMIT with another change than S* at the other cell";
    CommitVerified "commit/verified" "COMMIT without digests";
    CommitVerifiedAttempt "commit/verified-attempt" "COMMIT with digests of another attempt";
    CommitVerifiedSeq "commit/verified-seq" "COMMIT with digests at another change";
    CommitReverse "commit/reverse" "COMMIT without a way back";
    CommitTaking "commit/taking" "COMMIT to a cell that takes nobody";
    CommitHome "commit/home" "COMMIT back to a dead cell";
    CommitResidency "commit/residency" "COMMIT out of the legal zone";
    CommitAppliedIncarnation "commit/applied-incarnation" "COMMIT on what an agent has said that is gone";
    CommitReverseIncarnation "commit/reverse-incarnation" "COMMIT on a reverse capture of an agent that is gone";
    AbortPhase "abort/phase" "ABORT outside Fenced";
    AbortAttempt "abort/attempt" "ABORT of another attempt";
    UnfencedPhase "unfenced/phase" "a fence that is taken back outside Unfence";
    UnfencedAttempt "unfenced/attempt" "the same of another attempt";
    // After COMMIT.
    ActivatedPhase "activated/phase" "a new owner outside Activate";
    ActivatedTakeover "activated/takeover" "a new owner by force that does not say what it holds";
    MappingDelivered "mapping-delivered/committed" "a redirect before COMMIT";
    CountedPhase "counted/phase" "a count of stale requests outside Soak";
    WritersEndedPhase "writers-ended/phase" "a count of ended writers outside a hold";
    SoakPassedPhase "soak-passed/phase" "the end of Soak outside it";
    SoakPassedIntent "soak-passed/intent" "the end of a move that was told to stop or to go back";
    SoakPassedDue "soak-passed/due" "the end of Soak before its time";
    SoakPassedMapping "soak-passed/mapping" "the end of a move before the old owner redirects";
    CleanupPhase "cleanup/phase" "a cleanup outside Cleanup";
    ImportDroppedMapping "import-dropped/mapping" "a copy dropped after a rollback before its cell redirects";
    RetentionOverRetired "retention-over/retired" "the deletion of a copy that follows";
    RetentionOverKept "retention-over/kept" "the deletion of what nobody else has";
    RetentionOverDue "retention-over/due" "the deletion of a copy before its time";
    ReclaimedReclaiming "reclaimed/reclaiming" "a deleted copy whose deletion was not decided";
    // A takeover by force.
    HolderTakenOver "holder/taken-over" "a takeover from one that is not finished";
    HolderCopying "holder/copying" "a takeover by a cell whose copy is not whole";
    HolderCleanup "holder/cleanup" "a takeover by a cell whose copy is being taken away";
    HolderDiffers "holder/differs" "a takeover by a cell whose copy was found to differ";
    TakeOverTarget "take-over/target" "a takeover by another cell than the one with the copy";
    TakeOverComplete "take-over/complete" "a takeover by a cell that says that its copy is not whole";
    TakeOverLossless "take-over/lossless" "a takeover that may lose writes where that was not accepted";
    TakeOverLife "take-over/life" "a takeover of a tenant that is not live";
    TakeOverSameCell "take-over/same-cell" "a takeover by the owner";
    TakeOverDead "take-over/dead" "a takeover by a dead cell";
    TakeOverResidency "take-over/residency" "a takeover out of the legal zone";
    TakeOverEvidence "take-over/evidence" "a takeover without a word of evidence";
    TakeOverCopyIncarnation "take-over/copy-incarnation" "a takeover from a copy of which an agent has told that is gone";
    TakeOverStoppedIncarnation "take-over/stopped-incarnation" "a takeover of an owner that has started since it was found to be stopped";
    TakenOverPhase "taken-over/phase" "the end of a takeover outside Activate";
    DropQuarantineTail "drop-quarantine/tail" "letting go of what a cell that was not reached may have";
    // Operators.
    SteerEnding "steer/ending" "steering a move that is on its way out";
    SteerEnded "steer/ended" "steering a move that has ended";
    PauseIntent "pause/intent" "a pause of a move that is cancelled or goes back";
    CancelLeg "cancel/leg" "a cancel on the way back";
    CancelPhase "cancel/phase" "a cancel behind COMMIT";
    RollbackCommitted "rollback/committed" "a way back before COMMIT";
    ThrottlePhase "throttle/phase" "another speed where nothing is copied any more";
    MoveLife "move/life" "a move of a tenant that is not live";
    MoveRunning "move/running" "a second move of a tenant";
    MoveSameCell "move/same-cell" "a move to the owner";
    MoveTaking "move/taking" "a move to a cell that takes nobody";
    MoveSource "move/source" "a move away from a dead cell";
    MoveResidency "move/residency" "a move out of the legal zone";
    MoveTail "move/tail" "a move to a cell that keeps what nobody else has";
    MoveQueue "move/queue" "more waiting moves than the limit";
    OptionHold "option/hold" "a hold above the cap";
    OptionUntil "option/until" "a stop on the way back";
    OptionRehearse "option/rehearse" "a stop behind the end of a rehearsal";
    OptionRate "option/rate" "a speed at which nothing ends";
    OptionReason "option/reason" "a reason of more than a line";
    OptionRetries "option/retries" "too many retries";
    OptionSteady "option/steady" "too long a wait in Sync";
    OptionSoak "option/soak" "too long a soak";
    OptionRetain "option/retain" "too long a retention";
    CreateCellExists "create-cell/exists" "a cell with the name of another";
    CellGates "cell/gates" "more instances of a cell than routers are told of";
    CellEndpoint "cell/endpoint" "an address that is none";
    CellCapacity "cell/capacity" "a capacity that is none";
    CellReserve "cell/reserve" "a reserve that leaves nothing";
    CellLabel "cell/label" "too long a name of a region, a legal zone or a failure domain";
    DeclareInUse "declare/in-use" "another kind or legal zone of a cell with tenants";
    DeclareGate "declare/gate" "a gate that comes or goes while a move begins or ends there";
    DeclareInstances "declare/instances" "addresses of a cell that reports its gates itself";
    TierKind "tier/kind" "platinum on a pooled cell, others on a dedicated one, gold where tenants share a database";
    TierAlone "tier/alone" "a second tenant of a dedicated cell";
    ReportGeneration "report/generation" "the report of an agent that was replaced";
    CreateTenantWhy "create-tenant/why" "too long a reason";
    CreateTenantExists "create-tenant/exists" "a tenant with the name of another";
    CreateTenantTaking "create-tenant/taking" "a tenant on a cell that takes nobody";
    CreateTenantResidency "create-tenant/residency" "a tenant outside its legal zone";
    SetTierLife "set-tier/life" "another tier of a tenant that is not live";
    SetTierMoving "set-tier/moving" "another tier of a tenant that moves";
    SetTierKind "set-tier/kind" "a tier that the tenant's cell is not for";
    DeleteMoving "delete/moving" "the deletion of a tenant that moves";
    LimitsRange "limits/range" "limits that are none";
    RoutersSawMany "routers-saw/many" "too long a list of routers";
    NotedBytes "noted/bytes" "too long a note of what was done to the store";
    ExpectedRevision "expected-revision" "a command that was meant for another state";
    // After a restore.
    Unreconciled "unreconciled" "whatever makes, moves or takes away before the cells have said what they hold";
    AdoptUnreconciled "adopt/unreconciled" "an adoption where there was no restore";
    AdoptMany "adopt/many" "too long a list of cells";
    ReconciledSilent "reconciled/silent" "an end of the adoption before every cell has spoken";
}

/// Refuses where a rule does not hold.
pub(crate) fn require(rule: Rule, holds: bool, otherwise: impl FnOnce() -> Rejected) -> Result<(), Rejected> {
    if holds || is_off(rule) { Ok(()) } else { Err(otherwise()) }
}

#[cfg(not(feature = "planted"))]
const fn is_off(_rule: Rule) -> bool {
    false
}

#[cfg(feature = "planted")]
fn is_off(rule: Rule) -> bool {
    planted::OFF.get().contains(&Some(rule))
}

/// Rules switched off, and a uid given out twice, to prove that it is found. Not in any other build.
#[cfg(feature = "planted")]
pub mod planted {
    use std::cell::Cell;

    use super::Rule;
    use crate::Uid;

    /// One rule, or some that stand behind each other.
    pub type Off = [Option<Rule>; 4];

    thread_local! {
        pub(super) static OFF: Cell<Off> = const { Cell::new([None; 4]) };
        static REUSES_UIDS: Cell<bool> = const { Cell::new(false) };
    }

    /// A tenant that is made under the name of a deleted one gets its uid, on this thread, from now on.
    pub fn reuse_uids() {
        REUSES_UIDS.set(true);
    }

    /// The uid of a new tenant, whose name had that one before.
    pub(crate) fn uid(before: Option<Uid>, fresh: Uid) -> Uid {
        before.filter(|_| REUSES_UIDS.get()).unwrap_or(fresh)
    }

    /// Without these rules, on this thread, from now on.
    pub fn switch_off(rules: Off) {
        OFF.set(rules);
    }

    /// Does it without these rules.
    pub fn without<T>(rules: Off, work: impl FnOnce() -> T) -> T {
        let before = OFF.replace(rules);
        let done = work();
        OFF.set(before);
        done
    }
}
