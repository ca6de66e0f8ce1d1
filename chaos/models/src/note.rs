//! What a coordinator proposes: small enough to wait in a state, and turned into events when it is applied.

use cell_model::{Attempt, Difference, Digest, Event, Generation, Lineage, Phase, Seq, Tail, UnixMillis};

use crate::{Log, Place};

/// Where a copy was found to differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Seen {
    /// When all rows were compared.
    AtVerify,
    /// When those were compared that have changed since, behind the seal.
    AtTheSeal,
    /// When some were compared in soak.
    InSoak,
}

impl Seen {
    const fn phase(self) -> Phase {
        match self {
            Self::AtVerify => Phase::Verify,
            Self::AtTheSeal => Phase::Hold,
            Self::InSoak => Phase::Soak,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the event of the same name in cell-model")]
pub enum Said {
    Admitted,
    PreflightPassed,
    PreflightFailed,
    CaptureStarted {
        from: u8,
    },
    ImportPrepared {
        generation: u8,
    },
    BackfillDone {
        applied: u8,
    },
    CaughtUp {
        applied: u8,
    },
    FullyVerified {
        log: Log,
    },
    Mismatched,
    Differed {
        seen: Seen,
    },
    SyncEngaged,
    InSync {
        attempt: u8,
        seq: u8,
    },
    SyncDisengaged,
    SyncDegraded {
        attempt: u8,
    },
    ReverseReady {
        position: u8,
        generation: u8,
    },
    HoldDue,
    /// Sealed, applied and verified: proposed together, as one entry.
    Held {
        attempt: u8,
        log: Log,
        applied: u8,
        generation: u8,
        /// How many have seen the hold, and how many have no lease, where the owner has no gate.
        routers: Option<(u8, u8)>,
    },
    Sealed {
        attempt: u8,
        seq: u8,
    },
    Applied {
        attempt: u8,
        seq: u8,
        generation: u8,
    },
    Verified {
        attempt: u8,
        seq: u8,
    },
    HoldMissed {
        attempt: u8,
    },
    /// The fence is there, and COMMIT behind it.
    Fenced {
        attempt: u8,
        seq: u8,
    },
    /// The fence alone.
    OnlyFenced {
        attempt: u8,
        seq: u8,
    },
    Commit {
        attempt: u8,
    },
    Abort {
        attempt: u8,
    },
    Unfenced {
        attempt: u8,
    },
    Activated {
        generation: u8,
    },
    TakenOver {
        seq: u8,
        generation: u8,
    },
    Quarantined {
        cell: Place,
        changes: u8,
        last: u8,
    },
    MappingDelivered,
    SoakPassed,
    ImportDropped,
    CaptureStopped,
    GaveUp,
    Retired {
        cell: Place,
    },
    RetentionOver {
        cell: Place,
    },
    Reclaimed {
        cell: Place,
    },
    Granted,
    Revoked {
        cell: Place,
    },
}

/// A proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Note {
    /// The move, and whether it was on the way back; none for what lies outside a move.
    pub within: Option<(u8, bool)>,
    /// What happened.
    pub said: Said,
}

fn generation(number: u8) -> Generation {
    Generation(number.into())
}

fn seq(number: u8) -> Seq {
    Seq(number.into())
}

fn routers_held(attempt: Attempt, (seen, fenced): (u8, u8)) -> Event {
    Event::RoutersHeld { attempt, seen: seen.into(), fenced: fenced.into() }
}

const NOW: UnixMillis = UnixMillis(0);

impl Note {
    /// The events, in the order in which they are put into one entry of the log.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        let attempt = |number: u8| Attempt(number.into());
        let one = match self.said {
            Said::Held { attempt: of, log, applied, generation: by, routers } => {
                let (attempt, sealed) = (attempt(of), seq(log.last()));
                let mut events: Vec<Event> =
                    routers.map(|stood| routers_held(attempt, stood)).into_iter().collect();
                events.extend([
                    Event::Sealed { attempt, seq: sealed },
                    Event::Applied { attempt, seq: seq(applied), generation: generation(by) },
                    Event::Verified { attempt, seq: sealed, digest: log.digest() },
                ]);
                return events;
            }
            Said::Fenced { attempt: of, seq: at } => {
                let attempt = attempt(of);
                return vec![Event::Fenced { attempt, seq: seq(at) }, Event::Commit { attempt }];
            }
            Said::HoldMissed { attempt: of } => {
                Event::HoldMissed { attempt: attempt(of), reason: String::new(), not_before: NOW }
            }
            Said::Abort { attempt: of } => {
                Event::Abort { attempt: attempt(of), reason: String::new(), not_before: NOW }
            }
            Said::Commit { attempt: of } => Event::Commit { attempt: attempt(of) },
            Said::Unfenced { attempt: of } => Event::Unfenced { attempt: attempt(of) },
            Said::SyncDegraded { attempt: of } => Event::SyncDegraded { attempt: attempt(of) },
            Said::Admitted => Event::Admitted,
            Said::PreflightPassed => Event::PreflightPassed,
            Said::PreflightFailed => {
                Event::PreflightFailed { code: "PREFLIGHT_FAILED".into(), reason: String::new() }
            }
            Said::Sealed { attempt: of, seq: at } => Event::Sealed { attempt: attempt(of), seq: seq(at) },
            Said::Applied { attempt: of, seq: at, generation: by } => {
                Event::Applied { attempt: attempt(of), seq: seq(at), generation: generation(by) }
            }
            Said::Verified { attempt: of, seq: at } => {
                Event::Verified { attempt: attempt(of), seq: seq(at), digest: Digest::default() }
            }
            Said::OnlyFenced { attempt: of, seq: at } => Event::Fenced { attempt: attempt(of), seq: seq(at) },
            Said::Granted => Event::Granted,
            Said::Revoked { cell } => Event::Revoked { cell: cell.id() },
            Said::CaptureStarted { from } => Event::CaptureStarted { position: seq(from) },
            Said::ImportPrepared { generation: by } => Event::ImportPrepared { generation: generation(by) },
            Said::BackfillDone { applied } => Event::BackfillDone { applied: seq(applied) },
            Said::CaughtUp { applied } => Event::CaughtUp { applied: seq(applied) },
            Said::FullyVerified { log } => Event::FullyVerified { seq: seq(log.last()), digest: log.digest() },
            Said::Mismatched => Event::Mismatched { reason: String::new() },
            Said::Differed { seen } => {
                let nothing = Digest::default();
                Event::Differed(Box::new(Difference::of_digests(seen.phase(), Seq(0), nothing, nothing)))
            }
            Said::SyncEngaged => Event::SyncEngaged,
            Said::InSync { attempt: of, seq: at } => {
                Event::InSync { attempt: attempt(of), lineage: Lineage(1), seq: seq(at) }
            }
            Said::TakenOver { seq: at, generation: by } => {
                Event::TakenOver { seq: seq(at), generation: generation(by) }
            }
            Said::Quarantined { cell, changes, last } => {
                let tail = Tail { changes: changes.into(), bytes: 0, last: seq(last), whole: true };
                Event::Quarantined { cell: cell.id(), tail }
            }
            Said::SyncDisengaged => Event::SyncDisengaged,
            Said::ReverseReady { position, generation: by } => {
                Event::ReverseReady { position: seq(position), generation: generation(by) }
            }
            Said::HoldDue => Event::HoldDue,
            Said::Activated { generation: by } => Event::Activated { generation: generation(by) },
            Said::MappingDelivered => Event::MappingDelivered,
            Said::SoakPassed => Event::SoakPassed,
            Said::ImportDropped => Event::ImportDropped,
            Said::CaptureStopped => Event::CaptureStopped,
            Said::GaveUp => Event::GaveUp { code: "COPY_FAILED".into(), reason: String::new() },
            Said::Retired { cell } => Event::Retired { cell: cell.id() },
            Said::RetentionOver { cell } => Event::RetentionOver { cell: cell.id() },
            Said::Reclaimed { cell } => Event::Reclaimed { cell: cell.id() },
        };
        vec![one]
    }
}
