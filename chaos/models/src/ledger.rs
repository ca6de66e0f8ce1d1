//! The store: the tenant's record and what [`cell_model::decide`] looks at besides, applied command by command.
//!
//! What only grows (revisions, the history of phases) is cleared after each command, and time stands still with every
//! waiting time at 0: whatever is due at some time is due at any time. Two records that differ in nothing that decides
//! are then one state.

mod rogue;
mod shown;
mod view;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use cell_model::invariants::{Violation, check_record_succession};
use cell_model::{
    CellId, CellRecord, CellState, CellTraits, Change, Command, CopySight, Effect, End, Envelope, Epoch, Event,
    Generation, Leg, Life, Lineage, Mapping, MoveId, MoveIntent, MoveOptions, NewTenant, Rejected, Rev, Revision,
    Stamp, TakeoverOrder, TenantId, TenantRecord, Tier, Uid, UnixMillis, decide, pending_effects,
};

pub use rogue::{Rogue, Slip};

use crate::desk::{Desk, Memory, Told};
use crate::{Mutant, Note, mutant};

/// Where a tenant can be: the two cells of every configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Where the tenant is at first.
    A,
    /// Where it is first moved to.
    B,
}

impl Place {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// Its place in arrays.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Which one a cell id names.
    #[must_use]
    pub fn of(cell: &CellId) -> Self {
        if cell.as_str() == "a" { Self::A } else { Self::B }
    }

    /// Its id.
    ///
    /// # Panics
    /// Never: both are well-formed.
    #[must_use]
    pub fn id(self) -> CellId {
        let name = match self {
            Self::A => "a",
            Self::B => "b",
        };
        CellId::new(name).expect("a letter is a label")
    }
}

/// How the last move ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ended {
    /// The tenant lives on the target.
    Completed,
    /// The operator cancelled.
    Cancelled,
    /// The operator brought it back.
    RolledBack,
    /// The engine gave up.
    Aborted,
    /// The other cell was made the owner by force.
    TakenOver,
}

/// The replicated state of one tenant and two cells.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// The record, without what only grows.
    pub record: TenantRecord,
    /// How the last move ended.
    pub ended: Option<Ended>,
    /// How many moves were asked for: their ids.
    pub moves: u8,
    /// The owner at each epoch so far, a bit each: what routers may still believe.
    pub owners: u16,
    /// Where a cell has no gate: each mapping that routers were shown, as far as it says who owns and what waits.
    shown: Vec<Mapping>,
    cells: [CellRecord; 2],
    fingerprint: u64,
    memory: Memory,
}

impl PartialEq for Ledger {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
            && self.record == other.record
            && self.cells == other.cells
            && self.shown == other.shown
            && (self.ended, self.moves, self.owners) == (other.ended, other.moves, other.owners)
    }
}

impl Eq for Ledger {}

impl Hash for Ledger {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.fingerprint);
    }
}

const NOW: UnixMillis = UnixMillis(0);

fn cell_record(place: Place, ungated: bool) -> CellRecord {
    CellRecord {
        id: place.id(),
        state: CellState::Active,
        gates: Vec::new(),
        agent: format!("{}:1", place.id()),
        region: String::new(),
        residency: String::new(),
        traits: CellTraits { ungated, ..CellTraits::default() },
        generation: Generation(0),
        revision: Revision(0),
    }
}

impl Ledger {
    /// A tenant that lives on A; which cells have no gate. It and whatever becomes of it is kept on the desk.
    ///
    /// # Panics
    /// Never: the names are well-formed.
    #[must_use]
    pub fn new(desk: &Arc<Desk>, ungated: [bool; 2]) -> Self {
        let record = TenantRecord {
            id: TenantId::new("t").expect("a letter is a label"),
            uid: Uid(1),
            lineage: Lineage(1),
            epoch: Epoch(1),
            rev: Rev(0),
            revision: Revision(0),
            owner: Place::A.id(),
            life: Life::Live,
            tier: Tier::Bronze,
            residency: "".into(),
            movement: None,
            retained: Vec::new(),
            placed: "".into(),
        };
        let cells = Place::ALL.map(|place| cell_record(place, ungated[place.index()]));
        let memory = Memory::of(desk);
        let shown = Vec::new();
        let mut ledger = Self { record, ended: None, moves: 0, owners: 0, shown, cells, fingerprint: 0, memory };
        ledger.settle();
        ledger
    }

    /// The same ledger as everybody has it.
    #[must_use]
    pub fn shared(self) -> Arc<Self> {
        match self.memory.desk() {
            Some(desk) => desk.shared(self),
            None => Arc::new(self),
        }
    }

    pub(crate) const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    pub(crate) const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Does it with the rules of this check.
    #[cfg(feature = "planted")]
    pub(crate) fn ruled<T>(&self, work: impl FnOnce() -> T) -> T {
        let off = self.memory.desk().map_or([None; 4], |desk| desk.off);
        cell_model::planted::without(off, work)
    }

    /// Does it with the rules of this check: all of them.
    #[cfg(not(feature = "planted"))]
    pub(crate) fn ruled<T>(&self, work: impl FnOnce() -> T) -> T {
        debug_assert!(self.memory.desk().is_none_or(|desk| desk.off == [None; 4]), "rules are never off here");
        work()
    }

    /// What is pending.
    #[must_use]
    pub fn effects(&self) -> &[Effect] {
        self.memory.effects(|| pending_effects(&self.record))
    }

    /// The tenant's epoch.
    #[must_use]
    pub fn epoch(&self) -> u8 {
        small(self.record.epoch.0)
    }

    /// Who owned at `epoch`.
    #[must_use]
    pub const fn owner_at(&self, epoch: u8) -> Place {
        if self.owners >> epoch & 1 == 0 { Place::A } else { Place::B }
    }

    /// The incarnation that the store knows of a cell.
    #[must_use]
    pub fn generation(&self, place: Place) -> u8 {
        small(self.cells[place.index()].generation.0)
    }

    /// Whether a cell takes no new tenants.
    #[must_use]
    pub fn is_cordoned(&self, place: Place) -> bool {
        self.cells[place.index()].state == CellState::Cordoned
    }

    /// A move is asked for.
    ///
    /// # Errors
    /// As [`decide`] says.
    pub fn ask(&self, target: Place, retries: u8) -> Result<(Self, Vec<Violation>), Rejected> {
        let options = MoveOptions {
            until: None,
            hold_max_ms: 1,
            sync_steady_ms: 0,
            soak_ms: 0,
            retain_ms: 0,
            retries: retries.into(),
            rehearse: false,
            bytes_per_second: 0,
            reason: String::new(),
            tier: None,
            terminate_writers: false,
            exact: false,
        };
        let tenant = self.record.id.clone();
        let mut next = self.clone();
        let broken = next.apply(Command::MoveTenant { tenant, target: target.id(), options })?;
        next.moves += 1;
        Ok((next, broken))
    }

    /// An operator steers the move under way.
    ///
    /// # Errors
    /// As [`decide`] says.
    pub fn steer(&self, intent: MoveIntent) -> Result<(Self, Vec<Violation>), Rejected> {
        let move_id = self.record.movement.as_ref().map(|movement| movement.id).unwrap_or_default();
        let mut next = self.clone();
        let broken = next.apply(Command::Steer { move_id, intent })?;
        Ok((next, broken))
    }

    /// An operator orders a takeover, from what the target has said of its copy.
    ///
    /// # Errors
    /// As [`decide`] says.
    pub fn take_over(
        &self,
        target: Place,
        copy: CopySight,
        accept_data_loss: bool,
    ) -> Result<(Self, Vec<Violation>), Rejected> {
        let evidence = "it has stopped".to_owned();
        let stopped = self.cells[Place::of(&self.record.owner).index()].generation;
        let order = TakeoverOrder { target: target.id(), evidence, accept_data_loss, stopped, copy };
        let mut next = self.clone();
        let broken = next.apply(Command::TakeOver { tenant: self.record.id.clone(), order })?;
        Ok((next, broken))
    }

    /// An operator lets go of what a cell has put aside.
    ///
    /// # Errors
    /// As [`decide`] says.
    pub fn drop_quarantine(&self, place: Place) -> Result<(Self, Vec<Violation>), Rejected> {
        let mut next = self.clone();
        let broken = next.apply(Command::DropQuarantine { tenant: self.record.id.clone(), cell: place.id() })?;
        Ok((next, broken))
    }

    /// A cell's agent reports its incarnation.
    ///
    /// # Errors
    /// As [`decide`] says.
    pub fn report(&self, place: Place, generation: u8) -> Result<(Self, Vec<Violation>), Rejected> {
        let record = &self.cells[place.index()];
        let command = Command::ReportCell {
            partial: false,
            cell: place.id(),
            generation: Generation(generation.into()),
            gates: Vec::new(),
            agent: record.agent.clone(),
        };
        let mut next = self.clone();
        let broken = next.apply(command)?;
        Ok((next, broken))
    }

    /// An operator deletes the tenant.
    ///
    /// # Errors
    /// As [`decide`] says.
    pub fn delete(&self) -> Result<(Self, Vec<Violation>), Rejected> {
        let mut next = self.clone();
        let broken = next.apply(Command::DeleteTenant { tenant: self.record.id.clone() })?;
        Ok((next, broken))
    }

    /// An operator creates the deleted tenant again, on this cell. `reused`: it gets the uid that it had.
    ///
    /// # Errors
    /// As [`decide`] says.
    pub fn create(&self, place: Place, reused: bool) -> Result<(Self, Vec<Violation>), Rejected> {
        let id = self.record.id.clone();
        let new = NewTenant { id, cell: Some(place.id()), tier: Tier::Bronze, residency: String::new() };
        let mut next = self.clone();
        // An incarnation is named after its revision, as a move is.
        next.moves += 1;
        let mut broken = next.apply(Command::CreateTenant(new))?;
        if reused {
            next.record.uid = self.record.uid;
            next.settle();
            broken.extend(check_record_succession(&self.record, &next.record));
        }
        Ok((next, broken))
    }

    /// What a leader reports of an incarnation: it is granted, or revoked.
    ///
    /// # Errors
    /// As [`decide`] says.
    pub fn lives(&self, uid: Uid, event: Event) -> Result<(Self, Vec<Violation>), Rejected> {
        let tenant = self.record.id.clone();
        let mut next = self.clone();
        let broken = next.apply(Command::Record { tenant, uid, move_id: None, leg: None, event })?;
        Ok((next, broken))
    }

    /// An operator cordons a cell.
    ///
    /// # Errors
    /// As [`decide`] says.
    pub fn cordon(&self, place: Place) -> Result<(Self, Vec<Violation>), Rejected> {
        let mut next = self.clone();
        let broken = next.apply(Command::SetCellState { cell: place.id(), state: CellState::Cordoned })?;
        Ok((next, broken))
    }

    /// Something happened: its events one by one, as the proposer puts them into one entry. A refusal of one does not
    /// keep the next from being tried.
    ///
    /// Refused, with the first refusal, if nothing has changed.
    #[must_use]
    pub fn told(&self, note: &Note, mutant: Option<Mutant>) -> Arc<Told> {
        self.memory.told(note, mutant, || {
            let (next, broken) = self.work_out(note, mutant)?;
            Ok((next.shared(), broken))
        })
    }

    fn work_out(&self, note: &Note, mutant: Option<Mutant>) -> Result<(Self, Vec<Violation>), Rejected> {
        let mut next = self.clone();
        let (mut broken, mut refused) = (Vec::new(), None);
        for event in note.events() {
            match next.record_event(note, event, mutant) {
                Ok(found) => broken.extend(found),
                Err(rejected) => refused = refused.or(Some(rejected)),
            }
        }
        match refused {
            Some(rejected) if next == *self => Err(rejected),
            _ => Ok((next, broken)),
        }
    }

    fn record_event(
        &mut self,
        note: &Note,
        event: Event,
        mutant: Option<Mutant>,
    ) -> Result<Vec<Violation>, Rejected> {
        let before = self.record.clone();
        let event = match mutant {
            Some(mutant) => mutant::before_decide(mutant, &mut self.record, event),
            None => event,
        };
        let command = Command::Record {
            tenant: self.record.id.clone(),
            uid: self.record.uid,
            move_id: note.within.map(|(move_id, _)| MoveId(move_id.into())),
            leg: note.within.map(|(_, back)| if back { Leg::Back } else { Leg::Forward }),
            event,
        };
        let applied = self.apply(command);
        match applied {
            Ok(mut broken) => {
                if let Some(mutant) = mutant {
                    mutant::after_decide(mutant, &before, &mut self.record);
                    self.settle();
                    broken.extend(check_record_succession(&before, &self.record));
                }
                Ok(broken)
            }
            Err(rejected) => {
                self.record = before;
                Err(rejected)
            }
        }
    }

    fn apply(&mut self, command: Command) -> Result<Vec<Violation>, Rejected> {
        // A move is named after its revision, so revisions go by moves.
        let stamp = Stamp { at: NOW, revision: Revision(u64::from(self.moves) + 1) };
        let envelope = Envelope::new(NOW, command);
        let changes = self.ruled(|| decide(self, &envelope, stamp))?;
        let mut broken = Vec::new();
        for change in changes {
            match change {
                Change::Tenant(record) => {
                    broken.extend(check_record_succession(&self.record, &record));
                    self.record = Arc::unwrap_or_clone(record);
                }
                Change::Cell(record) => {
                    let place = Place::of(&record.id);
                    self.cells[place.index()] =
                        CellRecord { revision: Revision(0), ..Arc::unwrap_or_clone(record) };
                }
                Change::MoveEnded(ended) => self.ended = Some(Ended::of(&ended.end)),
                Change::Limits(_) | Change::Reconciled(_) => {}
            }
        }
        self.settle();
        Ok(broken)
    }

    /// Clears what only grows.
    fn settle(&mut self) {
        self.record.rev = Rev(0);
        self.record.revision = Revision(0);
        if let Some(movement) = &mut self.record.movement {
            movement.history.clear();
        }
        if Place::of(&self.record.owner) == Place::B {
            self.owners |= 1 << self.epoch();
        }
        self.show();
        let mut hasher = DefaultHasher::new();
        (self.ended, self.moves, self.owners).hash(&mut hasher);
        for cell in &self.cells {
            (cell.generation, cell.state).hash(&mut hasher);
        }
        for mapping in &self.shown {
            (mapping.epoch, &mapping.owner, mapping.hold).hash(&mut hasher);
        }
        let record = &self.record;
        (record.uid, record.epoch, &record.owner, record.life, &record.movement).hash(&mut hasher);
        for copy in &record.retained {
            (&copy.cell, copy.move_id, &copy.successor, copy.fenced_epoch).hash(&mut hasher);
            (copy.retired, copy.reclaiming, copy.quarantine).hash(&mut hasher);
        }
        self.fingerprint = hasher.finish();
    }
}

impl Ended {
    const fn of(end: &End) -> Self {
        match end {
            End::Completed => Self::Completed,
            End::Cancelled => Self::Cancelled,
            End::RolledBack => Self::RolledBack,
            End::TakenOver => Self::TakenOver,
            End::Rehearsed | End::Aborted { .. } => Self::Aborted,
        }
    }
}

/// A number of the record that the bounds keep small.
///
/// # Panics
/// Where they do not.
pub(crate) fn small(number: u64) -> u8 {
    u8::try_from(number).expect("the bounds of a configuration keep numbers small")
}
