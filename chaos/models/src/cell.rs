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
mod steps;

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

    /// Whether a write commits now that no gate has looked at, and that names no epoch: the cell's database goes by the grant alone.
    #[must_use]
    pub fn commits(&self, mutant: Option<Mutant>) -> bool {
        let fenced = matches!(self.grant, Grant::Fenced { .. } | Grant::Redirect) && self.rows == Rows::Complete;
        self.executes(self.epoch, mutant) || (fenced && mutant == Some(Mutant::DatabaseUnfenced))
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
