//! The coordinator: from [`cell_model::pending_effects`] to steps for cells and proposals for the store, as `placement/migration`
//! does it.
//!
//! A call and its answer are one moment here, and so is a proposal; [`crate::World`] lets both come late. What
//! production learns by asking again and again (how far a copy is) is read from the cell when it is proposed; an answer
//! that is out of date by the time it counts is a late proposal.

use cell_model::{Effect, Intent, Leg, Move, Phase, Rejected, SyncMode, TenantRecord};

use crate::cell::{Capture, Refusal, Rows};
use crate::ledger::small;
use crate::routers::Stood;
use crate::{Cell, Header, Ledger, Mutant, Note, Place, Said, Seen, Step};

/// A step on its way to a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Call {
    /// Which cell.
    pub to: Place,
    /// Who sends it.
    pub header: Header,
    /// What is to be done.
    pub step: Step,
}

impl Call {
    /// Whether this is what an answer to the call makes a coordinator say.
    #[must_use]
    pub fn leads_to(&self, said: &Said) -> bool {
        match said {
            Said::CaptureStarted { .. } => self.step == Step::StartCapture,
            Said::ImportPrepared { .. } => self.step == Step::PrepareImport,
            Said::SyncEngaged => self.step == Step::EngageSync(true),
            Said::Differed { .. } => matches!(self.step, Step::Examine(_)),
            Said::TakenOver { .. } => self.step == Step::OwnByForce,
            Said::Quarantined { .. } => matches!(self.step, Step::PutAside { .. }),
            Said::SyncDisengaged => self.step == Step::EngageSync(false),
            Said::ReverseReady { .. } => self.step == Step::PrepareReverse,
            Said::Held { .. } | Said::HoldMissed { .. } => self.step == Step::HoldWrites,
            Said::Fenced { .. } | Said::Abort { .. } => matches!(self.step, Step::Fence(_)),
            Said::Unfenced { .. } => self.step == Step::Unfence,
            Said::Activated { .. } => self.step == Step::Activate,
            Said::MappingDelivered => self.step == Step::DeliverMapping,
            Said::ImportDropped => self.step == Step::DropImport,
            Said::CaptureStopped => self.step == Step::StopCapture,
            Said::Retired { .. } => self.step == Step::Retire,
            Said::Reclaimed { .. } => matches!(self.step, Step::Reclaim(_)),
            Said::Admitted
            | Said::PreflightPassed
            | Said::PreflightFailed
            | Said::Sealed { .. }
            | Said::Applied { .. }
            | Said::Verified { .. }
            | Said::OnlyFenced { .. }
            | Said::Granted
            | Said::Revoked { .. }
            | Said::BackfillDone { .. }
            | Said::CaughtUp { .. }
            | Said::InSync { .. }
            | Said::FullyVerified { .. }
            | Said::Mismatched
            | Said::SyncDegraded { .. }
            | Said::HoldDue
            | Said::Commit { .. }
            | Said::SoakPassed
            | Said::GaveUp
            | Said::RetentionOver { .. } => false,
        }
    }
}

/// One thing that a coordinator can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Ask a cell for something.
    Call(Call),
    /// Tell the store something.
    Propose(Note),
}

/// A coordinator in one term, looking at one state of the store.
pub struct Coordinator<'a> {
    /// Its term.
    pub term: u8,
    /// What it knows of the store.
    pub ledger: &'a Ledger,
    /// The cells, for what it learns by asking.
    pub cells: &'a [Cell; 2],
    /// How it has found routers to stand to a hold.
    pub stood: Option<Stood>,
    /// It does not wait for routers, and does not say that they hold back: only where the rule that asks for it is switched off.
    pub is_hasty: bool,
    /// The guard that is missing.
    pub mutant: Option<Mutant>,
}

impl Coordinator<'_> {
    /// Everything that it can do now.
    #[must_use]
    pub fn deeds(&self) -> Vec<Deed> {
        let record = &self.ledger.record;
        let deeds = self.ledger.effects().iter().filter_map(|effect| self.deed(record, effect));
        deeds.chain(self.sampled()).chain(self.rash()).collect()
    }

    /// What a coordinator with a fault would propose: what only a guard of the store keeps from happening.
    fn rash(&self) -> Option<Deed> {
        let movement = self.ledger.record.movement.as_ref()?;
        let attempt = small(movement.attempt.0.into());
        let said = match (self.mutant?, movement.phase) {
            (Mutant::CommitWithoutFence, Phase::Fenced) => Said::Commit { attempt },
            (Mutant::CopyInTheWayIgnored, Phase::Preflight) if !movement.admitted => Said::Admitted,
            _ => return None,
        };
        Some(Deed::Propose(note(movement, said)))
    }

    fn deed(&self, record: &TenantRecord, effect: &Effect) -> Option<Deed> {
        match effect {
            Effect::Retire { cell, successor, move_id } => {
                return self.retire(Place::of(cell), Place::of(successor), small(move_id.0));
            }
            Effect::AwaitRetention { cell, .. } => {
                return Some(outside(Said::RetentionOver { cell: Place::of(cell) }));
            }
            Effect::Reclaim { cell, fenced_epoch, move_id } => {
                let header = self.header_of_ended(small(move_id.0));
                let step = Step::Reclaim(small(fenced_epoch.0));
                return Some(Deed::Call(Call { to: Place::of(cell), header, step }));
            }
            Effect::Quarantine { cell, move_id, fenced_epoch, after } => {
                let header = self.header_of_ended(small(move_id.0));
                let step = Step::PutAside { fenced: small(fenced_epoch.0), after: small(after.0) };
                return Some(Deed::Call(Call { to: Place::of(cell), header, step }));
            }
            _ => {}
        }
        self.within(record.movement.as_ref()?, effect)
    }

    fn within(&self, movement: &Move, effect: &Effect) -> Option<Deed> {
        let (from, to) = (Place::of(movement.from()), Place::of(movement.to()));
        let call = |to: Place, step: Step| Some(Deed::Call(Call { to, header: self.header(movement), step }));
        let propose = |said: Said| Some(Deed::Propose(note(movement, said)));
        let target = self.cell(to);
        let copied = target.rows == Rows::Complete && target.follow == Some(small(movement.id.0));
        let applied = target.log.last();
        match effect {
            Effect::Admit => propose(Said::Admitted),
            Effect::Preflight => propose(Said::PreflightPassed),
            Effect::StartCapture => call(from, Step::StartCapture),
            Effect::PrepareImport => call(to, Step::PrepareImport),
            Effect::AwaitBackfill { .. } if copied => propose(Said::BackfillDone { applied }),
            Effect::AwaitCaughtUp if copied => propose(Said::CaughtUp { applied }),
            Effect::VerifyFull if copied => self.verify(movement, from, to),
            Effect::EngageSync => call(from, Step::EngageSync(true)),
            Effect::DisengageSync => call(from, Step::EngageSync(false)),
            Effect::WatchSync { .. } if !self.cell(from).sync => call(from, Step::EngageSync(true)),
            Effect::WatchSync { .. } => self.in_sync(movement, from, to),
            Effect::PrepareReverse => call(to, Step::PrepareReverse),
            Effect::AwaitHold { .. } | Effect::AwaitFollower { .. } if self.is_followed(movement) => {
                propose(Said::HoldDue)
            }
            Effect::Hold { .. } => self.hold(movement, from, to),
            Effect::Fence { seq, .. } => call(from, Step::Fence(small(seq.0))),
            Effect::Commit { attempt } => propose(self.commit(movement, small(attempt.0.into()))),
            Effect::Activate { .. } => call(to, Step::Activate),
            Effect::TakeOver { .. } => call(to, Step::OwnByForce),
            Effect::DeliverMapping { cell } => call(Place::of(cell), Step::DeliverMapping),
            Effect::AwaitSoak { .. } => propose(Said::SoakPassed),
            Effect::Unfence { .. } => call(from, Step::Unfence),
            Effect::DropImport { cell } => call(Place::of(cell), Step::DropImport),
            Effect::StopCapture { cell } => call(Place::of(cell), Step::StopCapture),
            _ => None,
        }
    }

    const fn cell(&self, place: Place) -> &Cell {
        &self.cells[place.index()]
    }

    fn header(&self, movement: &Move) -> Header {
        Header {
            term: self.term,
            epoch: self.ledger.epoch(),
            move_id: small(movement.id.0),
            attempt: small(movement.attempt.0.into()),
            back: movement.leg == Leg::Back,
        }
    }

    fn header_of_ended(&self, move_id: u8) -> Header {
        Header { term: self.term, epoch: self.ledger.epoch(), move_id, attempt: Header::OF_ENDED, back: false }
    }

    /// Whether the cell to which the move goes, or would go back, has a whole copy.
    fn is_followed(&self, movement: &Move) -> bool {
        let follower = match movement.phase {
            Phase::Soak => Place::of(&movement.source),
            _ => Place::of(movement.to()),
        };
        let follower = self.cell(follower);
        follower.rows == Rows::Complete && follower.follow == Some(small(movement.id.0))
    }

    /// Full digests, at the position of the copy. What differs is found, told, and only then copied anew.
    fn verify(&self, movement: &Move, from: Place, to: Place) -> Option<Deed> {
        let (ours, target) = (self.cell(from).log, self.cell(to));
        let propose = |said: Said| Some(Deed::Propose(note(movement, said)));
        let call = |step: Step| Some(Deed::Call(Call { to, header: self.header(movement), step }));
        let theirs = target.log;
        let equal = (1..=theirs.last()).all(|seq| ours.at(seq) == theirs.at(seq)) && !self.is_damaged(target);
        let told = u8::try_from(movement.differences.len()).unwrap_or(u8::MAX);
        match target.examined {
            _ if equal => propose(Said::FullyVerified { log: theirs }),
            None => call(Step::Examine(told)),
            Some(before) if before < told => call(Step::Recopy),
            Some(_) => propose(Said::Differed { seen: Seen::AtVerify }),
        }
    }

    fn is_damaged(&self, copy: &Cell) -> bool {
        copy.damaged && self.mutant != Some(Mutant::DifferenceOverlooked)
    }

    /// In soak some rows of the old owner's copy are compared, or not.
    fn sampled(&self) -> Option<Deed> {
        let movement = self.ledger.record.movement.as_ref()?;
        let soaks = movement.phase == Phase::Soak && movement.leg == Leg::Forward && movement.intent == Intent::Run;
        let differs = soaks && self.is_damaged(self.cell(Place::of(&movement.source)));
        differs.then(|| Deed::Propose(note(movement, Said::Differed { seen: Seen::InSoak })))
    }

    /// The follower holds what was the owner's last change when it had begun to wait for it.
    fn in_sync(&self, movement: &Move, from: Place, to: Place) -> Option<Deed> {
        let (ours, theirs) = (self.cell(from), self.cell(to));
        let seq = ours.log.last();
        let holds = theirs.rows == Rows::Complete && theirs.log.last() >= seq && !ours.stopped && !theirs.stopped;
        let attempt = small(movement.attempt.0.into());
        let new = movement.acks.in_sync.is_none() && movement.acks.sync != SyncMode::Async;
        (holds && new).then(|| Deed::Propose(note(movement, Said::InSync { attempt, seq })))
    }

    /// Hold and seal; then wait until the other cell has applied S*, and compare.
    fn hold(&self, movement: &Move, from: Place, to: Place) -> Option<Deed> {
        let attempt = small(movement.attempt.0.into());
        let propose = |said: Said| Some(Deed::Propose(note(movement, said)));
        let given = (small(movement.id.0), attempt);
        let (ours, theirs) = (self.cell(from), self.cell(to));
        let routers = self.routers_hold_back(movement, given)?;
        let Some(hold) = ours.hold.filter(|hold| (hold.move_id, hold.attempt) == given) else {
            return Some(Deed::Call(Call { to: from, header: self.header(movement), step: Step::HoldWrites }));
        };
        let (log, applied, generation) = (ours.log, hold.sealed, theirs.generation);
        let held = Said::Held { attempt, log, applied, generation, routers };
        if self.mutant == Some(Mutant::CommitWithoutApplied) {
            return propose(held);
        }
        if theirs.rows != Rows::Complete || theirs.log.last() < hold.sealed {
            return None;
        }
        if theirs.log == ours.log && !self.is_damaged(theirs) {
            return propose(held);
        }
        match movement.leg {
            Leg::Forward if theirs.log.last() == hold.sealed => propose(Said::Differed { seen: Seen::AtTheSeal }),
            Leg::Forward | Leg::Back => propose(Said::HoldMissed { attempt }),
        }
    }

    /// What is to be told of routers, or nothing where the owner has a gate; none as long as a hold of an owner without one waits for them.
    #[expect(clippy::option_option, reason = "to wait is something else than to have nothing to tell")]
    fn routers_hold_back(&self, movement: &Move, given: (u8, u8)) -> Option<Option<(u8, u8)>> {
        if !movement.leaves_ungated() || self.is_hasty {
            return Some(None);
        }
        if self.mutant == Some(Mutant::RoutersNotAwaited) {
            return Some(Some((0, 0)));
        }
        let stood = self.stood.filter(|stood| stood.held == given)?;
        Some(Some((stood.seen, stood.fenced)))
    }

    /// COMMIT; where the store refuses it for good, ABORT.
    fn commit(&self, movement: &Move, attempt: u8) -> Said {
        match &*self.ledger.told(&note(movement, Said::Commit { attempt }), self.mutant) {
            Err(
                Rejected::CellCordoned { .. }
                | Rejected::CellDead { .. }
                | Rejected::CellUnknown { .. }
                | Rejected::ResidencyViolated { .. }
                | Rejected::StaleGeneration { .. }
                | Rejected::MissingAck { .. }
                | Rejected::AckMismatch { .. },
            ) => Said::Abort { attempt },
            _ => Said::Commit { attempt },
        }
    }

    /// First the old cell, then the new one; the store hears of it when both have answered.
    fn retire(&self, cell: Place, successor: Place, move_id: u8) -> Option<Deed> {
        let header = self.header_of_ended(move_id);
        let calls = [
            Call { to: cell, header, step: Step::Retire },
            Call { to: successor, header, step: Step::StopCapture },
        ];
        let next = calls.into_iter().find(|call| {
            let mut after = *self.cell(call.to);
            after.take(&call.header, call.step, self.mutant).is_err() || after != *self.cell(call.to)
        });
        Some(next.map_or_else(|| outside(Said::Retired { cell }), Deed::Call))
    }

    /// What it proposes once a call is answered.
    #[must_use]
    pub fn answered(&self, call: &Call, result: Result<(), Refusal>, after: &Cell) -> Option<Note> {
        if let Step::Reclaim(_) = call.step {
            return result.ok().map(|()| Note { within: None, said: Said::Reclaimed { cell: call.to } });
        }
        if let Step::PutAside { after: from, .. } = call.step {
            let last = after.log.last();
            let said = Said::Quarantined { cell: call.to, changes: last.saturating_sub(from), last };
            return result.ok().map(|()| Note { within: None, said });
        }
        let movement = self.ledger.record.movement.as_ref()?;
        let of_ended = call.header.attempt == Header::OF_ENDED;
        if of_ended || movement.id.0 != u64::from(call.header.move_id) {
            return None;
        }
        let said = match result {
            Ok(()) => said(movement, call, after)?,
            Err(refusal) => refused(call, refusal)?,
        };
        Some(note(movement, said))
    }
}

fn said(movement: &Move, call: &Call, after: &Cell) -> Option<Said> {
    let attempt = call.header.attempt;
    Some(match call.step {
        Step::StartCapture => Said::CaptureStarted { from: after.capture.map_or(0, |Capture { from, .. }| from) },
        Step::PrepareImport => Said::ImportPrepared { generation: after.generation },
        // Engaged again after a restart: the record has known it all the time.
        Step::EngageSync(true) if movement.acks.sync != SyncMode::Async => return None,
        Step::EngageSync(true) => Said::SyncEngaged,
        Step::EngageSync(false) => Said::SyncDisengaged,
        Step::PrepareReverse => Said::ReverseReady { position: after.log.last(), generation: after.generation },
        Step::Examine(_) => Said::Differed { seen: Seen::AtVerify },
        Step::Fence(seq) => Said::Fenced { attempt, seq },
        Step::Unfence => Said::Unfenced { attempt },
        Step::Activate => Said::Activated { generation: after.generation },
        Step::OwnByForce => Said::TakenOver { seq: after.taken?.1, generation: after.generation },
        Step::DeliverMapping => Said::MappingDelivered,
        Step::DropImport => Said::ImportDropped,
        Step::StopCapture => Said::CaptureStopped,
        // What came of the hold is read when it is proposed.
        Step::HoldWrites | Step::Recopy | Step::Retire | Step::Reclaim(_) | Step::PutAside { .. } => return None,
    })
}

fn refused(call: &Call, refusal: Refusal) -> Option<Said> {
    let attempt = call.header.attempt;
    match (call.step, refusal) {
        (Step::HoldWrites, Refusal::Other) => Some(Said::HoldMissed { attempt }),
        (Step::Fence(_), Refusal::Other) => Some(Said::Abort { attempt }),
        // Anything else is tried again.
        _ => None,
    }
}

/// A proposal that belongs to the move.
#[must_use]
pub(crate) fn note(movement: &Move, said: Said) -> Note {
    Note { within: Some((small(movement.id.0), movement.leg == Leg::Back)), said }
}

const fn outside(said: Said) -> Deed {
    Deed::Propose(Note { within: None, said })
}
