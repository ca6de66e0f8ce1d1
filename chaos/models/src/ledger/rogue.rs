//! What only a rule keeps out: whatever the types let anybody propose, and the rules refuse.
//!
//! With every rule in force none of it changes anything. Where one is switched off, what it alone would have refused slips
//! through, true or not: a report of a phase, attempt, leg or move that is over, an order of an operator that comes at the
//! wrong time, an agent that is gone. From there on everybody goes on as always.

use std::fmt;
use std::sync::Arc;

use cell_model::invariants::Violation;
use cell_model::{
    CellId, Command, CopySight, Generation, Leg, MoveIntent, MoveOptions, Rejected, Rule, Seq, TakeoverOrder,
};

use super::{Ledger, small};
use crate::desk::Memory;
use crate::{Note, Off, Place, Said};

/// One proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rogue {
    /// Something is said to have happened.
    Say(Note),
    /// A move is asked for.
    Move(Place),
    /// The move under way is steered.
    Steer(MoveIntent),
    /// It is to be slower.
    Throttle,
    /// The tenant is to be deleted.
    Delete,
    /// The tenant is to be made.
    Create(Place),
    /// An agent reports this incarnation.
    Report(Place, u8),
    /// A takeover by force.
    TakeOver {
        /// The new owner.
        target: Place,
        /// Also where writes may be missing.
        accept_data_loss: bool,
        /// Its copy is said to be whole.
        complete: bool,
        /// Its copy is said to go up to here.
        applied: u8,
        /// An incarnation of each cell.
        generations: [u8; 2],
    },
    /// What a cell has put aside is let go of.
    Drop(Place),
}

/// What has slipped through, and what it has led to.
pub struct Slip {
    /// What.
    pub rogue: Rogue,
    /// The store after it.
    pub ledger: Arc<Ledger>,
    /// Promises that this breaks at once.
    pub broken: Vec<Violation>,
}

impl fmt::Debug for Slip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rogue.fmt(f)
    }
}

/// Changes of a log that somebody may name.
const SEQS: std::ops::RangeInclusive<u8> = 0..=2;

impl Rogue {
    /// By which rules it can be refused: what their names begin with.
    const fn refused_by(&self) -> &'static [&'static str] {
        match self {
            Self::Move(_) => &["move"],
            Self::Steer(MoveIntent::Pause) => &["steer", "pause"],
            Self::Steer(MoveIntent::Resume) => &["steer"],
            Self::Steer(MoveIntent::Cancel) => &["steer", "cancel"],
            Self::Steer(MoveIntent::Rollback) => &["steer", "rollback"],
            Self::Throttle => &["throttle"],
            Self::Delete => &["delete"],
            Self::Create(_) => &["create-tenant"],
            Self::Report(..) => &["report"],
            Self::TakeOver { .. } => &["take-over", "holder"],
            Self::Drop(_) => &["drop-quarantine"],
            Self::Say(note) => match note.said {
                Said::Admitted => &["record", "admitted"],
                Said::PreflightPassed => &["record", "preflight-passed"],
                Said::PreflightFailed => &["record", "preflight-failed"],
                Said::CaptureStarted { .. } => &["record", "capture-started"],
                Said::ImportPrepared { .. } => &["record", "import-prepared"],
                Said::BackfillDone { .. } => &["record", "backfill-done"],
                Said::CaughtUp { .. } => &["record", "caught-up"],
                Said::FullyVerified { .. } => &["record", "fully-verified"],
                Said::Mismatched => &["record", "mismatched"],
                Said::Differed { .. } => &["record", "differed"],
                Said::SyncEngaged => &["record", "sync-engaged"],
                Said::InSync { .. } => &["record", "in-sync"],
                Said::SyncDisengaged => &["record", "sync-disengaged"],
                Said::SyncDegraded { .. } => &["record", "sync-degraded"],
                Said::ReverseReady { .. } => &["record", "reverse-ready"],
                Said::HoldDue => &["record", "hold-due"],
                Said::Sealed { .. } => &["record", "held", "sealed", "seal"],
                Said::Applied { .. } => &["record", "held", "applied", "seal"],
                Said::Verified { .. } => &["record", "held", "verified", "seal"],
                Said::HoldMissed { .. } => &["record", "hold-missed"],
                Said::OnlyFenced { .. } => &["record", "fenced", "seal"],
                Said::Commit { .. } => &["record", "commit", "seal"],
                Said::Abort { .. } => &["record", "abort"],
                Said::Unfenced { .. } => &["record", "unfenced"],
                Said::Activated { .. } => &["record", "activated"],
                Said::TakenOver { .. } => &["record", "taken-over"],
                Said::MappingDelivered => &["record", "mapping-delivered"],
                Said::SoakPassed => &["record", "soak-passed"],
                Said::ImportDropped => &["record", "cleanup", "import-dropped"],
                Said::CaptureStopped => &["record", "cleanup"],
                Said::GaveUp => &["record", "gave-up"],
                Said::RetentionOver { .. } => &["retention-over"],
                Said::Reclaimed { .. } => &["reclaimed"],
                Said::Granted => &["record", "granted"],
                Said::Revoked { .. } => &["record", "revoked"],
                // Several at once, or never refused.
                Said::Held { .. } | Said::Fenced { .. } | Said::Quarantined { .. } | Said::Retired { .. } => &[],
            },
        }
    }

    fn concerns(&self, off: Off) -> bool {
        let begins = |rule: Rule| rule.id().split('/').next().unwrap_or_default();
        off.into_iter().flatten().any(|rule| self.refused_by().contains(&begins(rule)))
    }
}

impl Ledger {
    /// Whether a rule is switched off in this check.
    #[must_use]
    pub fn is_without(&self, rule: Rule) -> bool {
        self.memory.desk().is_some_and(|desk| desk.off.contains(&Some(rule)))
    }

    /// What slips through here.
    #[must_use]
    pub fn slips(&self) -> Arc<[Slip]> {
        self.memory.slips(|| self.work_out_slips().into())
    }

    fn work_out_slips(&self) -> Vec<Slip> {
        let off = self.memory.desk().map_or([None; 4], |desk| desk.off);
        // One that is on no desk has every rule in force.
        let ruled = Self { memory: Memory::default(), ..self.clone() };
        let mut slips: Vec<Slip> = Vec::new();
        for rogue in self.rogues().into_iter().filter(|rogue| rogue.concerns(off)) {
            let Ok((next, broken)) = self.after_rogue(&rogue) else { continue };
            if next == *self || ruled.after_rogue(&rogue).is_ok() {
                continue;
            }
            let ledger = next.shared();
            if !slips.iter().any(|slip| slip.ledger == ledger && slip.broken.is_empty() == broken.is_empty()) {
                slips.push(Slip { rogue, ledger, broken });
            }
        }
        slips
    }

    fn after_rogue(&self, rogue: &Rogue) -> Result<(Self, Vec<Violation>), Rejected> {
        match *rogue {
            Rogue::Say(note) => self.work_out(&note, None),
            Rogue::Move(target) => self.ask(target, 1),
            Rogue::Steer(intent) => self.steer(intent),
            Rogue::Throttle => {
                let move_id = self.record.movement.as_ref().map(|movement| movement.id).unwrap_or_default();
                let bytes_per_second = MoveOptions::BYTES_PER_SECOND_MIN;
                self.after_command(Command::ThrottleMove { move_id, bytes_per_second })
            }
            Rogue::Delete => self.delete(),
            Rogue::Create(place) => self.create(place, false),
            Rogue::Report(place, generation) => self.report(place, generation),
            Rogue::TakeOver { target, accept_data_loss, complete, applied, generations } => {
                let of = |place: Place| Generation(generations[place.index()].into());
                let applied = Seq(applied.into());
                let copy = CopySight { generation: of(target), complete, applied, heard: applied, ungated: false };
                let stopped = of(Place::of(&self.record.owner));
                let evidence = "it has stopped".to_owned();
                let order = TakeoverOrder { target: target.id(), evidence, accept_data_loss, stopped, copy };
                self.after_command(Command::TakeOver { tenant: self.record.id.clone(), order })
            }
            Rogue::Drop(place) => self.drop_quarantine(place),
        }
    }

    fn after_command(&self, command: Command) -> Result<(Self, Vec<Violation>), Rejected> {
        let mut next = self.clone();
        let broken = next.apply(command)?;
        Ok((next, broken))
    }

    /// Whatever anybody can propose, in small numbers.
    fn rogues(&self) -> Vec<Rogue> {
        let mut rogues = vec![Rogue::Throttle, Rogue::Delete];
        let intents = [MoveIntent::Pause, MoveIntent::Resume, MoveIntent::Cancel, MoveIntent::Rollback];
        rogues.extend(intents.map(Rogue::Steer));
        for cell in Place::ALL {
            let retained = [Said::RetentionOver { cell }, Said::Reclaimed { cell }, Said::Revoked { cell }];
            rogues.extend(retained.map(|said| Rogue::Say(Note { within: None, said })));
            rogues.extend([Rogue::Move(cell), Rogue::Create(cell), Rogue::Drop(cell)]);
            rogues.extend(self.known_and_other(cell).map(|generation| Rogue::Report(cell, generation)));
            for accept_data_loss in [false, true] {
                for complete in [true, false] {
                    for applied in SEQS {
                        let [a, b] = Place::ALL.map(|place| self.known_and_other(place));
                        for generations in [[a[0], b[0]], [a[1], b[0]], [a[0], b[1]]] {
                            let target = cell;
                            rogues.push(Rogue::TakeOver {
                                target,
                                accept_data_loss,
                                complete,
                                applied,
                                generations,
                            });
                        }
                    }
                }
            }
        }
        rogues.push(Rogue::Say(Note { within: None, said: Said::Granted }));
        rogues.extend(self.rogues_of_move());
        rogues
    }

    /// The incarnation that the store knows, and the one before.
    fn known_and_other(&self, place: Place) -> [u8; 2] {
        let known = self.generation(place);
        [known, known.saturating_sub(1)]
    }

    fn rogues_of_move(&self) -> Vec<Rogue> {
        let Some(movement) = &self.record.movement else { return Vec::new() };
        let (id, back) = (small(movement.id.0), movement.leg == Leg::Back);
        let attempt = small(movement.attempt.0.into());
        let to = |cell: &CellId| self.known_and_other(Place::of(cell));
        let mut said = vec![
            Said::Admitted,
            Said::PreflightPassed,
            Said::PreflightFailed,
            Said::CaptureStarted { from: 0 },
            Said::BackfillDone { applied: 0 },
            Said::CaughtUp { applied: 0 },
            Said::FullyVerified { log: crate::Log::default() },
            Said::Mismatched,
            Said::SyncEngaged,
            Said::SyncDisengaged,
            Said::HoldDue,
            Said::MappingDelivered,
            Said::SoakPassed,
            Said::ImportDropped,
            Said::CaptureStopped,
            Said::GaveUp,
        ];
        for generation in to(movement.to()) {
            said.push(Said::ImportPrepared { generation });
            said.push(Said::ReverseReady { position: 0, generation });
            said.push(Said::Activated { generation });
            said.extend(SEQS.map(|seq| Said::TakenOver { seq, generation }));
        }
        for attempt in [attempt, attempt.saturating_sub(1)] {
            said.push(Said::SyncDegraded { attempt });
            said.push(Said::HoldMissed { attempt });
            said.push(Said::Commit { attempt });
            said.push(Said::Abort { attempt });
            said.push(Said::Unfenced { attempt });
            for seq in SEQS {
                said.push(Said::InSync { attempt, seq });
                said.push(Said::Sealed { attempt, seq });
                said.push(Said::Verified { attempt, seq });
                said.push(Said::OnlyFenced { attempt, seq });
                let by = to(movement.to());
                said.extend(by.map(|generation| Said::Applied { attempt, seq, generation }));
            }
        }
        let within = [Some((id, back)), Some((id, !back)), Some((id.saturating_sub(1), back))];
        let notes = within.into_iter().flat_map(|within| said.iter().map(move |said| Note { within, said: *said }));
        notes.map(Rogue::Say).collect()
    }
}
