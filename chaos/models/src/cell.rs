//! A cell, without its disk and its network: what it is to the tenant, and what each step makes of that.
//!
//! ```text
//!             Fence(S*)             DeliverMapping
//!   Owner ◄──────────────► Fenced ─────────────────► Redirect (following, then retired)
//!     ▲       Unfence(e+1)                              │ PrepareImport, once the old copy is gone
//!     │ Activate(e+1)                                   ▼
//!     └──────────────────────────────────────────── Importing ◄── PrepareImport ── Nothing
//! ```
//! These are the rules of `placement/agent`, on one tenant and with everything that takes time made one moment: a seal
//! is an instant, and so is the deletion of a copy. The grant, the rows and the captured changes are durable; a hold and
//! the answers that are still owed are not.

mod force;

use cell_model::invariants::{CellSight, Role};
use cell_model::{CellId, Epoch, Leg, Lineage, MoveId, Seq, Term, Uid};

use crate::{Log, Mutant};

/// What the cell may do for the tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Grant {
    /// It knows nothing of it.
    #[default]
    Nothing,
    /// Serves.
    Owner,
    /// Takes changes from the mover.
    Importing,
    /// Refuses everybody until a decision.
    Fenced {
        /// For this move
        move_id: u8,
        /// and attempt,
        attempt: u8,
        /// at S*.
        seq: u8,
    },
    /// Hands out the mapping.
    Redirect,
}

/// How much of the tenant is here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Rows {
    /// Nothing.
    #[default]
    Absent,
    /// Less than everything: an import before its end.
    Partial,
    /// Everything up to the last change of the log.
    Complete,
}

/// A log of changes kept for a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Capture {
    /// For this move.
    pub move_id: u8,
    /// Changes after this one.
    pub from: u8,
}

/// Writes wait. Gone after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hold {
    /// For this move
    pub move_id: u8,
    /// and attempt.
    pub attempt: u8,
    /// S*.
    pub sealed: u8,
}

/// Who sends a step, and what it knew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Header {
    /// The sender's term.
    pub term: u8,
    /// The tenant's epoch when the step was computed.
    pub epoch: u8,
    /// The move.
    pub move_id: u8,
    /// Its attempt; [`Header::OF_ENDED`] for a move that is over.
    pub attempt: u8,
    /// Whether it is on the way back.
    pub back: bool,
}

impl Header {
    /// Later than every attempt of a move.
    pub const OF_ENDED: u8 = u8::MAX;

    /// Which way the move goes.
    #[must_use]
    pub const fn leg(&self) -> Leg {
        if self.back { Leg::Back } else { Leg::Forward }
    }
}

/// What a cell is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Keep changes from now on.
    StartCapture,
    /// Copy from the other cell.
    PrepareImport,
    /// Answer writes only when the follower holds them, or no longer so.
    EngageSync(bool),
    /// Capture from the first own write on.
    PrepareReverse,
    /// Let writes wait, and seal.
    HoldWrites,
    /// Refuse everything for good, if the seal stands at this change.
    Fence(u8),
    /// Own again, at the header's epoch.
    Unfence,
    /// Own, at the header's epoch.
    Activate,
    /// Hand out the mapping of the header's epoch; follow the new owner on the way forward.
    DeliverMapping,
    /// Take away what was copied.
    DropImport,
    /// Keep changes no longer.
    StopCapture,
    /// Follow no longer.
    Retire,
    /// Delete the copy that was fenced at this epoch.
    Reclaim(u8),
    /// Find the rows that are not the owner's, and remember them; so many differences were told before.
    Examine(u8),
    /// Take them anew.
    Recopy,
    /// Own by force, at the header's epoch.
    OwnByForce,
    /// Own no more, and put aside what nobody else has.
    PutAside {
        /// It owned at this epoch at the most.
        fenced: u8,
        /// The new owner holds its changes up to here.
        after: u8,
    },
}

/// Why a step was refused, as far as the coordinator goes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// From an older leader.
    StaleTerm,
    /// Anything else.
    Other,
}

/// One cell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Cell {
    /// What it may do.
    pub grant: Grant,
    /// The epoch of its grant.
    pub epoch: u8,
    /// What it holds.
    pub log: Log,
    /// How much of it.
    pub rows: Rows,
    /// Some of it is not what was copied.
    pub damaged: bool,
    /// Which rows those are is known here, and how many differences were told before. Gone after a restart.
    pub examined: Option<u8>,
    /// What it keeps for its follower.
    pub capture: Option<Capture>,
    /// A write is answered only when the follower holds it.
    pub sync: bool,
    /// The move for which it copies.
    pub follow: Option<u8>,
    /// The move for which it will capture its own writes.
    pub reverse: Option<u8>,
    /// It has a mapping to hand out.
    pub redirects: bool,
    /// The newest move that has been here,
    pub move_id: u8,
    /// and its newest attempt.
    pub attempt: u8,
    /// The newest move that has ended here.
    pub ended: u8,
    /// Writes wait.
    pub hold: Option<Hold>,
    /// The newest (move, attempt) whose hold is over.
    pub lapsed: (u8, u8),
    /// The highest term that it has obeyed.
    pub term: u8,
    /// How often its agent was started.
    pub generation: u8,
    /// Executed writes that are not answered yet, a bit each.
    pub owed: u16,
    /// The move in which it took over by force, and its last change then.
    pub taken: Option<(u8, u8)>,
    /// It was taken over: its changes behind this one are put aside.
    pub put_aside: Option<u8>,
    /// Its process is not there.
    pub stopped: bool,
    /// It has started in the middle of a move, and nobody has said yet who owns.
    pub unconfirmed: bool,
}

impl Cell {
    /// The tenant's first owner.
    #[must_use]
    pub fn owner() -> Self {
        Self { grant: Grant::Owner, epoch: 1, rows: Rows::Complete, ..Self::default() }
    }

    /// Does one step. Refused: nothing but the term has changed.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn take(&mut self, header: &Header, step: Step, mutant: Option<Mutant>) -> Result<(), Refusal> {
        if header.term < self.term && mutant != Some(Mutant::TermIgnored) {
            return Err(Refusal::StaleTerm);
        }
        self.term = header.term;
        let mut next = *self;
        next.step(header, step, mutant)?;
        *self = next;
        Ok(())
    }

    fn step(&mut self, header: &Header, step: Step, mutant: Option<Mutant>) -> Result<(), Refusal> {
        match step {
            Step::StartCapture => self.start_capture(header),
            Step::PrepareImport => self.prepare_import(header),
            Step::EngageSync(engaged) => self.engage_sync(header, engaged),
            Step::PrepareReverse => self.prepare_reverse(header, mutant),
            Step::HoldWrites => self.hold_writes(header),
            Step::Fence(seq) => self.fence(header, seq, mutant),
            Step::Unfence => self.unfence(header),
            Step::Activate => self.activate(header),
            Step::DeliverMapping => self.deliver_mapping(header),
            Step::DropImport => self.drop_import(header, mutant),
            Step::StopCapture => self.stop_capture(header),
            Step::Retire => self.retire(header),
            Step::Reclaim(fenced) => self.reclaim(header, fenced, mutant),
            Step::Examine(told) => self.examine(header, told),
            Step::Recopy => self.recopy(header),
            Step::OwnByForce => self.own_by_force(header),
            Step::PutAside { fenced, after } => self.put_aside(header, fenced, after),
        }
    }

    /// What every step must pass; remembers move and attempt.
    fn admit(&mut self, header: &Header, names_an_old_move: bool) -> Result<(), Refusal> {
        require(header.epoch >= self.epoch)?;
        let given = (header.move_id, header.attempt);
        if given < (self.move_id, self.attempt) {
            return require(names_an_old_move && header.move_id < self.move_id);
        }
        (self.move_id, self.attempt) = given;
        Ok(())
    }

    fn owns(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, false)?;
        require(self.grant == Grant::Owner && self.epoch == header.epoch)
    }

    fn captures_for(&self, move_id: u8) -> bool {
        self.capture.is_some_and(|capture| capture.move_id == move_id)
    }

    fn start_capture(&mut self, header: &Header) -> Result<(), Refusal> {
        self.owns(header)?;
        if !self.captures_for(header.move_id) {
            self.capture = Some(Capture { move_id: header.move_id, from: self.log.last() });
            self.sync = false;
        }
        Ok(())
    }

    fn prepare_import(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, false)?;
        match self.grant {
            Grant::Importing if self.follow == Some(header.move_id) => self.epoch = header.epoch,
            Grant::Nothing | Grant::Redirect => {
                require(header.move_id > self.ended && self.rows == Rows::Absent)?;
                self.grant = Grant::Importing;
                self.epoch = header.epoch;
                self.follow = Some(header.move_id);
                self.capture = None;
                self.sync = false;
                self.reverse = None;
                self.rows = Rows::Partial;
            }
            Grant::Importing | Grant::Owner | Grant::Fenced { .. } => return Err(Refusal::Other),
        }
        Ok(())
    }

    fn engage_sync(&mut self, header: &Header, engaged: bool) -> Result<(), Refusal> {
        self.owns(header)?;
        require(!engaged || self.captures_for(header.move_id))?;
        self.sync = engaged;
        Ok(())
    }

    fn prepare_reverse(&mut self, header: &Header, mutant: Option<Mutant>) -> Result<(), Refusal> {
        self.admit(header, false)?;
        require(self.grant == Grant::Importing && self.follow == Some(header.move_id))?;
        self.reverse = Some(header.move_id);
        if mutant == Some(Mutant::ServesBeforeCommit) && self.rows == Rows::Complete {
            self.grant = Grant::Owner;
        }
        Ok(())
    }

    fn hold_writes(&mut self, header: &Header) -> Result<(), Refusal> {
        self.owns(header)?;
        require(self.captures_for(header.move_id))?;
        let given = (header.move_id, header.attempt);
        require(given > self.lapsed)?;
        if self.hold.is_none_or(|hold| (hold.move_id, hold.attempt) != given) {
            self.end_hold();
            self.hold = Some(Hold { move_id: given.0, attempt: given.1, sealed: self.log.last() });
        }
        Ok(())
    }

    fn fence(&mut self, header: &Header, wanted: u8, mutant: Option<Mutant>) -> Result<(), Refusal> {
        self.admit(header, false)?;
        let fenced = Grant::Fenced { move_id: header.move_id, attempt: header.attempt, seq: wanted };
        if self.grant == fenced && self.epoch == header.epoch {
            return Ok(());
        }
        self.owns(header)?;
        let seal = Hold { move_id: header.move_id, attempt: header.attempt, sealed: wanted };
        let stands = self.hold == Some(seal) && self.log.last() == wanted;
        require(stands || mutant == Some(Mutant::FenceWithoutSeal))?;
        self.grant = fenced;
        Ok(())
    }

    fn unfence(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, false)?;
        match self.grant {
            Grant::Owner if self.epoch == header.epoch => {}
            // Also where the fence was refused: the epoch rose all the same.
            Grant::Owner | Grant::Fenced { .. } if self.epoch < header.epoch => {
                self.grant = Grant::Owner;
                self.epoch = header.epoch;
            }
            Grant::Nothing | Grant::Owner | Grant::Importing | Grant::Fenced { .. } | Grant::Redirect => {
                return Err(Refusal::Other);
            }
        }
        self.end_hold();
        Ok(())
    }

    fn activate(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, false)?;
        if self.grant == Grant::Owner && self.epoch == header.epoch {
            return Ok(());
        }
        let copies =
            self.follow == Some(header.move_id) && matches!(self.grant, Grant::Importing | Grant::Redirect);
        require(copies && self.epoch < header.epoch && self.rows == Rows::Complete)?;
        self.grant = Grant::Owner;
        self.epoch = header.epoch;
        // On the way back, too, where nobody follows: until the move is over the owner may be taken over.
        let captures = header.back || self.reverse == Some(header.move_id);
        self.capture = captures.then_some(Capture { move_id: header.move_id, from: self.log.last() });
        self.sync = false;
        self.follow = None;
        self.reverse = None;
        self.redirects = false;
        Ok(())
    }

    fn deliver_mapping(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, false)?;
        require(header.epoch > self.epoch)?;
        let alive = match self.grant {
            Grant::Fenced { .. } => true,
            Grant::Redirect => self.follow.is_some(),
            Grant::Nothing | Grant::Owner | Grant::Importing => return Err(Refusal::Other),
        };
        let follows = !header.back && alive && header.move_id > self.ended;
        self.grant = Grant::Redirect;
        self.redirects = true;
        self.capture = None;
        self.sync = false;
        self.reverse = None;
        self.follow = follows.then_some(header.move_id);
        self.end_hold();
        Ok(())
    }

    fn copies(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, false)?;
        require(self.follow == Some(header.move_id) && self.rows == Rows::Complete)
    }

    fn examine(&mut self, header: &Header, told: u8) -> Result<(), Refusal> {
        self.copies(header)?;
        self.examined = Some(told);
        Ok(())
    }

    fn recopy(&mut self, header: &Header) -> Result<(), Refusal> {
        self.copies(header)?;
        require(self.examined.is_some())?;
        (self.damaged, self.examined) = (false, None);
        Ok(())
    }

    fn drop_import(&mut self, header: &Header, mutant: Option<Mutant>) -> Result<(), Refusal> {
        self.admit(header, true)?;
        let grant = match self.grant {
            _ if mutant == Some(Mutant::DropsWhatItOwns) => self.grant,
            Grant::Importing | Grant::Redirect | Grant::Owner if self.move_id > header.move_id => return Ok(()),
            Grant::Importing if self.redirects => Grant::Redirect,
            Grant::Importing | Grant::Nothing => Grant::Nothing,
            Grant::Redirect if header.back || self.rows == Rows::Absent => Grant::Redirect,
            Grant::Redirect => {
                self.ended = self.ended.max(header.move_id);
                return Ok(());
            }
            Grant::Owner | Grant::Fenced { .. } => return Err(Refusal::Other),
        };
        self.grant = grant;
        self.empty(header);
        Ok(())
    }

    fn stop_capture(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, true)?;
        if self.capture.is_some_and(|capture| capture.move_id <= header.move_id) {
            require(!matches!(self.grant, Grant::Fenced { .. }))?;
            self.capture = None;
            self.sync = false;
            self.end_hold();
        }
        Ok(())
    }

    fn retire(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, true)?;
        match self.grant {
            Grant::Redirect => {
                self.follow = self.follow.filter(|follow| *follow > header.move_id);
                self.ended = self.ended.max(header.move_id);
                Ok(())
            }
            Grant::Nothing | Grant::Importing => Ok(()),
            Grant::Owner | Grant::Fenced { .. } => Err(Refusal::Other),
        }
    }

    fn reclaim(&mut self, header: &Header, fenced: u8, mutant: Option<Mutant>) -> Result<(), Refusal> {
        if mutant == Some(Mutant::ReclaimsWithoutLooking) {
            self.empty(header);
            return Ok(());
        }
        self.admit(header, true)?;
        match self.grant {
            Grant::Redirect if self.epoch > fenced => {}
            Grant::Redirect => {
                require(self.epoch == fenced && self.follow.is_none())?;
                self.empty(header);
            }
            Grant::Nothing | Grant::Importing => {}
            Grant::Owner | Grant::Fenced { .. } => return Err(Refusal::Other),
        }
        Ok(())
    }

    fn empty(&mut self, header: &Header) {
        self.log = Log::default();
        self.rows = Rows::Absent;
        (self.damaged, self.examined) = (false, None);
        self.put_aside = None;
        self.follow = None;
        self.reverse = None;
        self.ended = self.ended.max(header.move_id);
        self.end_hold();
    }

    /// Ends the hold, for ever: its attempt is never fenced.
    pub fn end_hold(&mut self) {
        if let Some(hold) = self.hold.take() {
            self.lapsed = self.lapsed.max((hold.move_id, hold.attempt));
        }
    }

    /// The process is killed and started again: what is durable stays. `asks`: where a move is under way, it does not serve
    /// before it has heard who owns.
    pub fn restart(&mut self, asks: bool, mutant: Option<Mutant>) {
        let fenced = matches!(self.grant, Grant::Fenced { .. });
        let moves = fenced || self.capture.is_some() || self.follow.is_some() || self.reverse.is_some();
        self.unconfirmed = asks && moves && mutant != Some(Mutant::StartsWithoutAsking);
        self.stopped = false;
        self.generation += 1;
        self.hold = None;
        self.lapsed = (0, 0);
        self.owed = 0;
        self.examined = None;
        if mutant == Some(Mutant::FenceForgotten) && matches!(self.grant, Grant::Fenced { .. }) {
            self.grant = Grant::Owner;
        }
    }

    /// Whether a write that a router has stamped with `epoch` is executed now.
    #[must_use]
    pub fn executes(&self, epoch: u8, mutant: Option<Mutant>) -> bool {
        if mutant == Some(Mutant::EpochUnchecked) && self.rows == Rows::Complete {
            return !matches!(self.grant, Grant::Importing | Grant::Nothing);
        }
        let serves = self.grant == Grant::Owner && !self.stopped && !self.unconfirmed;
        serves && epoch == self.epoch && self.hold.is_none()
    }

    /// Whether `self` may still be sent changes by `source`, and has not all of them.
    #[must_use]
    pub fn can_pull(&self, source: &Self) -> bool {
        if self.stopped || source.stopped {
            return false;
        }
        let Some(capture) = source.capture.filter(|capture| self.follow == Some(capture.move_id)) else {
            return false;
        };
        match self.rows {
            Rows::Absent => false,
            Rows::Partial => true,
            Rows::Complete => self.log.last() < source.log.last() && self.log.last() >= capture.from,
        }
    }

    /// Takes the copy, or the next change.
    pub fn pull(&mut self, source: &Self, mutant: Option<Mutant>) {
        if self.rows == Rows::Partial {
            self.log = source.log;
            self.rows = Rows::Complete;
            return;
        }
        let next = self.log.last() + 1;
        let at = if mutant == Some(Mutant::ChangeAppliedTwice) { next.saturating_sub(1).max(1) } else { next };
        if let Some(write) = source.log.at(at) {
            self.log.push(write);
        }
    }

    /// What a look at it tells.
    #[must_use]
    pub fn sight(&self, cell: CellId, uid: Uid) -> CellSight {
        let complete = self.rows == Rows::Complete;
        CellSight {
            cell,
            uid,
            epoch: Epoch(self.epoch.into()),
            role: self.role(),
            last_seq: Seq(self.log.last().into()),
            complete,
            // What is wrong with a copy nobody has seen until somebody compares.
            digest: (complete && !self.damaged).then(|| self.log.digest()),
            held_ms: None,
            works_for: self.follow.map(|follow| MoveId(follow.into())),
            orphaned_ms: None,
            obeyed: (Lineage(1), Term(self.term.into())),
        }
    }

    /// Its grant, as gates see it.
    #[must_use]
    pub const fn role(&self) -> Role {
        match self.grant {
            // Nobody is served.
            Grant::Owner if self.stopped || self.unconfirmed => Role::None,
            Grant::Nothing => Role::None,
            Grant::Owner if self.hold.is_some() => Role::Holding,
            Grant::Owner => Role::Owner,
            Grant::Importing => Role::Importing,
            Grant::Fenced { .. } => Role::Fenced,
            Grant::Redirect => Role::Redirect,
        }
    }
}

const fn require(holds: bool) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal::Other) }
}
