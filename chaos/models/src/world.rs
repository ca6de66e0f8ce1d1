//! The whole: the store, two cells, a leader, a zombie, clients with routers as stale as can be, and everything that
//! can happen to them.
//!
//! A router is no state: it may hold any mapping that was ever published, and a request may be under way for as long as
//! it likes, so a write may reach any cell that ever owned the tenant, stamped with any of its epochs, at any time.
//! A step is done and answered at once, or it is delayed: then it is done at any later moment (or never), and nobody
//! hears the answer. A done step may be delivered once more in the same way. A proposal is applied at once or late.

mod force;
mod possible;
mod rogue;
mod routers;

use std::sync::Arc;

use cell_model::{MoveIntent, Phase, Rule, SyncMode};

use crate::judge::{self, Broken};
use crate::routers::{Routers, Stood, Turn};
use crate::{Bounds, Budget, Call, Cell, Coordinator, Desk, Ledger, Mutant, Note, Place, Said};

/// A deposed leader that does not know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Zombie {
    /// Its term.
    pub term: u8,
    /// What it knows of the store.
    pub ledger: Arc<Ledger>,
    /// How it had found routers to stand.
    pub stood: Option<Stood>,
}

/// One state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The store.
    pub ledger: Arc<Ledger>,
    /// The cells.
    pub cells: [Cell; 2],
    /// Where a cell has no gate: routers.
    pub routers: Option<Arc<Routers>>,
    /// The leader's term.
    pub term: u8,
    /// The leader before.
    pub zombie: Option<Zombie>,
    /// Steps that nobody waits for any more.
    pub delayed: [Option<Call>; Bounds::SLOTS],
    /// Proposals of this term that are not applied yet.
    pub late: [Option<Note>; Bounds::SLOTS],
    /// Writes that a cell has executed, a bit each.
    pub executed: u16,
    /// Writes that a client was told of.
    pub acked: u16,
    /// Those of them that an operator has given up by a takeover.
    pub given_up: u16,
    /// What may still happen.
    pub left: Budget,
    /// Promises that the last step broke. Nothing happens after that.
    pub broken: Broken,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The leader's step is done and answered; a copy of it may stay under way, and the answer's proposal may be late.
    Call {
        /// The step.
        call: Call,
        /// It will come a second time.
        again: bool,
        /// What it leads to is not applied yet.
        late: bool,
    },
    /// The leader's step is under way and will not be answered.
    Delay(Call),
    /// A step that nobody waits for arrives.
    Arrive(usize),
    /// A deposed leader's step arrives.
    Zombie(Call),
    /// The leader tells the store something.
    Propose {
        /// What.
        note: Note,
        /// It is not applied yet.
        late: bool,
    },
    /// A late proposal is applied.
    Apply(usize),
    /// A cell is sent a chunk or a change.
    Pull(Place),
    /// A write reaches a cell.
    Write {
        /// The cell.
        cell: Place,
        /// The epoch with which a router has stamped it.
        epoch: u8,
        /// Its number.
        write: u8,
    },
    /// Some row of a copy becomes another one.
    Damage(Place),
    /// A hold's time is up.
    Lapse(Place),
    /// A cell is killed and starts again.
    Crash(Place),
    /// A cell tells the store its incarnation.
    Report(Place),
    /// There is another leader.
    Elect,
    /// An operator steers the move.
    Steer(MoveIntent),
    /// An operator asks for a move.
    Ask(Place),
    /// An operator cordons a cell.
    Cordon(Place),
    /// A fenced cell serves again by itself: only where that guard is missing.
    TimeOut(Place),
    /// An owner stops: its process is gone.
    Stop(Place),
    /// It starts again.
    Start(Place),
    /// A cell that has started hears who owns.
    Confirm(Place),
    /// An operator makes the other cell the owner by force.
    TakeOver {
        /// Also where writes may be missing.
        accept_data_loss: bool,
    },
    /// Something happens to a router, where a cell has no gate.
    Router(Turn),
    /// An operator lets go of what a cell has put aside.
    Drop(Place),
    /// Somebody proposes what a rule would refuse: only where that rule is switched off.
    Slip(usize),
}

impl World {
    /// A tenant on A, and a move to B just asked for.
    ///
    /// # Panics
    /// Never: that move is in order.
    #[must_use]
    pub fn first(bounds: &Bounds, desk: &Arc<Desk>) -> Self {
        let (ledger, _) =
            Ledger::new(desk, bounds.ungated).ask(Place::B, bounds.retries).expect("a first move is taken");
        let left = Budget { moves: bounds.budget.moves - 1, ..bounds.budget };
        Self {
            ledger: ledger.shared(),
            cells: [Cell::owner(), Cell::default()],
            routers: (bounds.routers > 0).then(|| Arc::new(Routers::first(bounds.routers))),
            term: 1,
            zombie: None,
            delayed: [None; Bounds::SLOTS],
            late: [None; Bounds::SLOTS],
            executed: 0,
            acked: 0,
            given_up: 0,
            left,
            broken: Broken::default(),
        }
    }

    /// A cell.
    #[must_use]
    pub const fn cell(&self, place: Place) -> &Cell {
        &self.cells[place.index()]
    }

    /// The phase of the move under way.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        self.ledger.record.movement.as_ref().map(|movement| movement.phase)
    }

    /// The leader.
    #[must_use]
    pub fn leader(&self, mutant: Option<Mutant>) -> Coordinator<'_> {
        let stood = self.routers.as_ref().and_then(|routers| routers.stood);
        let is_hasty = self.left.rogues > 0 && self.ledger.is_without(Rule::SealedRouters);
        Coordinator { term: self.term, ledger: &self.ledger, cells: &self.cells, stood, is_hasty, mutant }
    }

    /// The state after `action`; none where it changes nothing.
    #[must_use]
    pub fn after(&self, bounds: &Bounds, action: Action) -> Option<Self> {
        let mut next = self.clone();
        next.happen(bounds, action)?;
        if next == *self {
            return None;
        }
        next.answer_clients(bounds.mutant);
        judge::judge(self, &mut next, bounds.mutant);
        Some(next)
    }

    fn happen(&mut self, bounds: &Bounds, action: Action) -> Option<()> {
        let mutant = bounds.mutant;
        match action {
            Action::Call { call, again, late } => self.call(bounds, call, again, late)?,
            Action::Delay(call) => self.delay(call)?,
            Action::Arrive(slot) => {
                let call = self.delayed[slot].take()?;
                self.delayed.sort_unstable();
                self.arrive(&call, mutant);
            }
            Action::Zombie(call) => self.arrive(&call, mutant),
            Action::Propose { note, late: true } => self.be_late(note)?,
            Action::Propose { note, late: false } => {
                self.pay_for(&note);
                self.tell(&note, mutant)?;
            }
            Action::Apply(slot) => {
                let note = self.late[slot].take()?;
                self.late.sort_unstable();
                // A refused proposal is gone, too.
                let _taken: Option<()> = self.tell(&note, mutant);
            }
            Action::Pull(place) => {
                let source = *self.cell(place.other());
                self.cells[place.index()].pull(&source, mutant);
            }
            Action::Write { cell, write, .. } => self.write(cell, write),
            Action::Router(turn) => self.turn(bounds, turn)?,
            Action::Damage(place) => {
                self.left.damages -= 1;
                self.cells[place.index()].damaged = true;
            }
            Action::Lapse(place) => {
                self.left.lapses = self.left.lapses.saturating_sub(1);
                self.cells[place.index()].end_hold();
            }
            Action::Crash(place) => {
                self.left.crashes -= 1;
                self.cells[place.index()].restart(bounds.budget.takeovers > 0, mutant);
            }
            Action::Stop(_) | Action::Start(_) | Action::Confirm(_) | Action::TakeOver { .. } | Action::Drop(_) => {
                self.force(bounds, action)?;
            }
            Action::Report(place) => {
                let reported = self.ledger.report(place, self.cell(place).generation);
                self.take(reported.ok()?);
            }
            Action::Elect => self.elect(),
            Action::Steer(intent) => {
                let steered = self.ledger.steer(intent).ok()?;
                match intent {
                    MoveIntent::Cancel => self.left.cancels -= 1,
                    MoveIntent::Rollback => self.left.rollbacks -= 1,
                    MoveIntent::Pause => self.left.pauses -= 1,
                    MoveIntent::Resume => {}
                }
                self.take(steered);
            }
            Action::Ask(target) => {
                let asked = self.ledger.ask(target, bounds.retries).ok()?;
                self.left.moves -= 1;
                self.take(asked);
            }
            Action::Cordon(place) => {
                self.left.cordons -= 1;
                let cordoned = self.ledger.cordon(place).ok()?;
                self.take(cordoned);
            }
            Action::TimeOut(place) => self.cells[place.index()].grant = crate::Grant::Owner,
            Action::Slip(which) => self.slip(which),
        }
        Some(())
    }

    fn call(&mut self, bounds: &Bounds, call: Call, again: bool, late: bool) -> Option<()> {
        let before = *self.cell(call.to);
        let result = self.cells[call.to.index()].take(&call.header, call.step, bounds.mutant);
        if bounds.mutant == Some(Mutant::TailMerged) {
            self.merge(&call, &before);
        }
        let answer = self.leader(bounds.mutant).answered(&call, result, self.cell(call.to));
        if again {
            self.delay(call)?;
        }
        match answer {
            Some(note) if late => self.be_late(note)?,
            Some(note) => {
                let _taken: Option<()> = self.tell(&note, bounds.mutant);
            }
            None if late => return None,
            None => {}
        }
        Some(())
    }

    fn arrive(&mut self, call: &Call, mutant: Option<Mutant>) {
        // Nobody waits for the answer, whatever it is.
        let _unheard = self.cells[call.to.index()].take(&call.header, call.step, mutant);
    }

    fn delay(&mut self, call: Call) -> Option<()> {
        if self.delayed.contains(&Some(call)) {
            return None;
        }
        *self.delayed.iter_mut().find(|slot| slot.is_none())? = Some(call);
        self.delayed.sort_unstable();
        Some(())
    }

    fn be_late(&mut self, note: Note) -> Option<()> {
        if self.late.contains(&Some(note)) {
            return None;
        }
        *self.late.iter_mut().find(|slot| slot.is_none())? = Some(note);
        self.late.sort_unstable();
        Some(())
    }

    fn tell(&mut self, note: &Note, mutant: Option<Mutant>) -> Option<()> {
        let told = self.ledger.told(note, mutant);
        let (ledger, violations) = (*told).as_ref().ok()?;
        self.ledger = Arc::clone(ledger);
        self.broken.add(violations);
        Some(())
    }

    fn take(&mut self, (ledger, violations): (Ledger, Vec<cell_model::invariants::Violation>)) {
        self.ledger = ledger.shared();
        self.broken.add(&violations);
    }

    /// Faults that are proposals cost what they cost.
    fn pay_for(&mut self, note: &Note) {
        let left = &mut self.left;
        match note.said {
            Said::HoldMissed { .. } => left.misses = left.misses.saturating_sub(1),
            Said::SyncDegraded { .. } => left.degrades -= 1,
            Said::GaveUp => left.failures -= 1,
            _ => {}
        }
    }

    fn write(&mut self, place: Place, write: u8) {
        let bit = 1 << write;
        if self.executed & bit == 0 {
            self.left.writes = self.left.writes.saturating_sub(1);
        }
        self.executed |= bit;
        let cell = &mut self.cells[place.index()];
        cell.log.push(write);
        cell.owed |= bit;
        if matches!(cell.grant, crate::Grant::Fenced { .. } | crate::Grant::Redirect) {
            self.broken.note(judge::I4);
        }
        if Place::of(&self.ledger.record.owner) != place {
            self.broken.note(judge::I1);
        }
    }

    /// A new leader. Proposals of the old one are in the log before anything of the new one, or never: those that are
    /// in it were applied before this moment.
    fn elect(&mut self) {
        self.left.elections -= 1;
        let stood = self.routers.as_ref().and_then(|routers| routers.stood);
        self.zombie = Some(Zombie { term: self.term, ledger: Arc::clone(&self.ledger), stood });
        if let Some(routers) = &mut self.routers {
            Arc::make_mut(routers).elect();
        }
        self.term += 1;
        self.late = [None; Bounds::SLOTS];
    }

    /// Every answer is given as soon as it may be: the earliest answer promises the most.
    fn answer_clients(&mut self, mutant: Option<Mutant>) {
        for place in Place::ALL {
            let (cell, other) = (*self.cell(place), *self.cell(place.other()));
            let follows = cell.capture.is_some_and(|capture| other.follow == Some(capture.move_id));
            let held = if follows { other.log.writes() } else { 0 };
            // Where no gate is, nobody waits for the follower, and nobody was promised it.
            let ungated = self.ledger.is_ungated(place);
            let waits = cell.sync && !ungated && mutant != Some(Mutant::AnsweredBeforeApplied);
            let answered = if waits { cell.owed & held } else { cell.owed };
            if answered == 0 {
                continue;
            }
            self.cells[place.index()].owed &= !answered;
            self.acked |= answered;
            if answered & !other.log.writes() != 0 && !ungated && self.promises_both(place) {
                self.broken.note(judge::P3);
            }
        }
    }

    /// Whether the store says that the owner answers only what its follower holds, too.
    fn promises_both(&self, owner: Place) -> bool {
        self.ledger.record.movement.as_ref().is_some_and(|movement| {
            let held_back = matches!(movement.phase, Phase::Sync | Phase::Hold | Phase::Fenced);
            let engaged = matches!(movement.acks.sync, SyncMode::Engaged { .. });
            held_back && engaged && movement.leg == cell_model::Leg::Forward && Place::of(movement.from()) == owner
        })
    }
}
