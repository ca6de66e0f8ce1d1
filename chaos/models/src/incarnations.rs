//! A name that is deleted and created again: what is late of one incarnation must not touch the next one.
//!
//! ```text
//! store   ── create (uid 1) ─ granted ─ delete ─ revoked ── create (uid 2) ─ granted ─ …
//! late         └─ Grant 1, Revoke 1, "granted", "revoked", requests stamped with uid 1, at any later moment ──►
//! ```
//! A model of its own beside [`crate::World`]: moves have enough states without it, and here there are none. The store is
//! the production [`cell_model::decide`] again; the cells follow `succeed`, `grant`, `revoke` and `admission` of
//! `placement/agent` by hand. A step may be lost, delivered twice or at any later moment; so may what the leader reports, and
//! a router may send a request with any stamp that was ever published. Which incarnation a client means is known here and
//! written on each step and request, beside the uid by which production tells them apart. Deleting the rows is one step with
//! its revocation here; that production goes on deleting afterwards, and takes no new copy meanwhile, is for the agent's tests.

mod holder;

use std::sync::Arc;

use cell_model::invariants::Violation;
use cell_model::{Effect, Event, Life, Uid};
use stateright::{Model, Property};

use crate::ledger::small;
use crate::{Desk, Ledger, Off, Place};

pub use holder::{Holder, Order, OrderKind, Role, Stamp};

/// One guard that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UidMutant {
    /// A tenant that is created again gets the uid that its name had before.
    Reused,
    /// A cell executes requests of whatever incarnation.
    Unchecked,
    /// A cell obeys steps for an older incarnation.
    OldObeyed,
}

impl UidMutant {
    /// All.
    pub const ALL: [Self; 3] = [Self::Reused, Self::Unchecked, Self::OldObeyed];

    /// As it is named on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reused => "uid-reused",
            Self::Unchecked => "uid-unchecked",
            Self::OldObeyed => "old-uid-obeyed",
        }
    }
}

/// What the leader tells the store of an incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Report {
    uid: u8,
    of: OrderKind,
    place: Place,
}

/// What may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Left {
    creates: u8,
    deletes: u8,
    writes: u8,
}

const LEFT: Left = Left { creates: 2, deletes: 2, writes: 2 };
/// Steps that are late at once.
const SLOTS: usize = 2;

/// One state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Names {
    ledger: Arc<Ledger>,
    /// Counted from 0, whatever its uid is.
    incarnation: u8,
    holders: [Holder; 2],
    /// What routers may believe.
    stamps: Vec<Stamp>,
    delayed: [Option<Order>; SLOTS],
    late: Option<Report>,
    /// Incarnations of which a write was acknowledged, a bit each.
    acked: u8,
    left: Left,
    broken: u8,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameAction {
    /// The leader's step is done and answered; a copy of it may stay under way, and its report may be late.
    Do {
        /// The step.
        order: Order,
        /// It will come a second time.
        again: bool,
        /// What it leads to is not applied yet.
        late: bool,
    },
    /// The leader's step is under way and will not be answered.
    Delay(Order),
    /// A step that nobody waits for arrives.
    Arrive(usize),
    /// The late report is applied.
    Apply,
    /// A request reaches the cell that its router believes in.
    Write(Stamp),
    /// An operator deletes the tenant.
    Delete,
    /// An operator creates it, on this cell.
    Create(Place),
}

/// The model, with a guard missing or whole.
#[derive(Debug, Default)]
pub struct Incarnations {
    /// The missing guard.
    pub mutant: Option<UidMutant>,
    desk: Arc<Desk>,
}

impl Incarnations {
    /// With this guard missing, or with none.
    #[must_use]
    pub fn new(mutant: Option<UidMutant>) -> Self {
        Self { mutant, desk: Arc::default() }
    }

    /// Without rules of the store.
    #[must_use]
    pub fn without(off: Off) -> Self {
        Self { mutant: None, desk: Arc::new(Desk::without(off)) }
    }
}

const I1: u8 = 1;
const I2: u8 = 1 << 1;
const I3: u8 = 1 << 2;
const I12: u8 = 1 << 3;
const STRAYED: u8 = 1 << 4;
const SERVED: u8 = 1 << 5;

type Condition = fn(&Incarnations, &Names) -> bool;

const PROMISES: [(&str, Condition); 7] = [
    ("I1: one cell at most serves", |_, names| names.broken & I1 == 0),
    ("I2: (uid, epoch) never goes back", |_, names| names.broken & I2 == 0),
    ("I3: every acknowledged write is at whoever serves", |_, names| names.broken & I3 == 0),
    ("I12: nothing is destroyed that is owned", |_, names| names.broken & I12 == 0),
    ("a request reaches no other incarnation than the one it is for", |_, names| names.broken & STRAYED == 0),
    ("a deleted tenant is served nowhere", |_, names| names.broken & SERVED == 0),
    ("every creation and deletion ends once nothing more goes wrong", |model, names| {
        names.broken != 0 || names.comes_to_rest(model.mutant)
    }),
];

const REACHABLE: [(&str, Condition); 4] = [
    ("a name is created a third time and served", |_, names| {
        names.incarnation == 2 && names.ledger.record.life == Life::Live
    }),
    ("a late step meets a newer incarnation", |_, names| {
        names.delayed.iter().flatten().any(|order| names.holder(order.place).is_newer_than(order.uid))
    }),
    ("a late request meets a newer incarnation", |_, names| {
        names.stamps.iter().any(|stamp| names.holder(stamp.place).is_newer_than(stamp.uid))
    }),
    ("a late report meets a newer incarnation", |_, names| {
        names.late.is_some_and(|report| report.uid < names.uid())
    }),
];

impl Model for Incarnations {
    type State = Names;
    type Action = NameAction;

    fn init_states(&self) -> Vec<Names> {
        vec![Names::first(&self.desk)]
    }

    fn actions(&self, names: &Names, actions: &mut Vec<NameAction>) {
        if names.broken == 0 {
            names.actions(actions);
        }
    }

    fn next_state(&self, names: &Names, action: NameAction) -> Option<Names> {
        names.after(action, self.mutant)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let promises = PROMISES.map(|(name, holds)| Property::always(name, holds));
        let mut properties = promises.to_vec();
        if self.mutant.is_none() {
            properties.extend(REACHABLE.map(|(name, seen)| Property::sometimes(name, seen)));
        }
        properties
    }
}

impl Names {
    /// A tenant that lives on A.
    fn first(desk: &Arc<Desk>) -> Self {
        let mut names = Self {
            ledger: Ledger::new(desk, [false; 2]).shared(),
            incarnation: 0,
            holders: [Holder::owner(), Holder::default()],
            stamps: Vec::new(),
            delayed: [None; SLOTS],
            late: None,
            acked: 0,
            left: LEFT,
            broken: 0,
        };
        names.publish();
        names
    }

    const fn holder(&self, place: Place) -> &Holder {
        &self.holders[place.index()]
    }

    fn uid(&self) -> u8 {
        small(self.ledger.record.uid.0)
    }

    /// Routers learn of a tenant that lives, or is about to.
    fn publish(&mut self) {
        let record = &self.ledger.record;
        if matches!(record.life, Life::Live | Life::Provisioning) {
            let place = Place::of(&record.owner);
            let stamp = Stamp { place, uid: self.uid(), epoch: self.ledger.epoch(), incarnation: self.incarnation };
            if !self.stamps.contains(&stamp) {
                self.stamps.push(stamp);
            }
        }
    }

    /// What the leader has to do.
    fn order(&self) -> Option<Order> {
        let (uid, incarnation) = (self.uid(), self.incarnation);
        self.ledger.effects().iter().find_map(|effect| {
            let (cell, kind) = match effect {
                Effect::Grant { cell, .. } => (cell, OrderKind::Grant),
                Effect::Revoke { cell } => (cell, OrderKind::Revoke),
                _ => return None,
            };
            Some(Order { place: Place::of(cell), uid, epoch: self.ledger.epoch(), incarnation, kind })
        })
    }

    fn actions(&self, actions: &mut Vec<NameAction>) {
        let may_delay = self.delayed.iter().any(Option::is_none);
        if let Some(order) = self.order().filter(|order| self.late != Some(order.leads_to())) {
            for (again, late) in [(false, false), (true, false), (false, true), (true, true)] {
                if (!again || may_delay) && (!late || self.late.is_none()) {
                    actions.push(NameAction::Do { order, again, late });
                }
            }
            if may_delay {
                actions.push(NameAction::Delay(order));
            }
        }
        actions.extend((0..SLOTS).filter(|slot| self.delayed[*slot].is_some()).map(NameAction::Arrive));
        actions.extend(self.late.map(|_| NameAction::Apply));
        if self.left.writes > 0 {
            actions.extend(self.stamps.iter().copied().map(NameAction::Write));
        }
        if self.left.deletes > 0 {
            actions.push(NameAction::Delete);
        }
        if self.left.creates > 0 {
            actions.extend(Place::ALL.map(NameAction::Create));
        }
    }

    fn after(&self, action: NameAction, mutant: Option<UidMutant>) -> Option<Self> {
        let mut next = self.clone();
        next.happen(action, mutant)?;
        if next == *self {
            return None;
        }
        next.publish();
        next.judge(self);
        Some(next)
    }

    fn happen(&mut self, action: NameAction, mutant: Option<UidMutant>) -> Option<()> {
        match action {
            NameAction::Do { order, again, late } => {
                if again {
                    self.delay(order)?;
                }
                match (self.holders[order.place.index()].take(&order, mutant), late) {
                    (true, true) => self.late = Some(order.leads_to()),
                    (true, false) => self.report(order.leads_to())?,
                    (false, true) => return None,
                    (false, false) => {}
                }
            }
            NameAction::Delay(order) => self.delay(order)?,
            NameAction::Arrive(slot) => {
                let order = self.delayed[slot].take()?;
                self.delayed.sort_unstable();
                // Nobody waits for the answer, whatever it is.
                let _unheard = self.holders[order.place.index()].take(&order, mutant);
            }
            NameAction::Apply => {
                let report = self.late.take()?;
                // Refused where it is of another incarnation: then nothing has changed but that it is late no more.
                let _refused = self.report(report);
            }
            NameAction::Write(stamp) => {
                self.left.writes -= 1;
                let holder = &mut self.holders[stamp.place.index()];
                if holder.executes(&stamp, mutant) {
                    holder.rows |= 1 << stamp.incarnation;
                    self.acked |= 1 << stamp.incarnation;
                    if holder.incarnation != stamp.incarnation {
                        self.broken |= STRAYED;
                    }
                }
            }
            NameAction::Delete => {
                let deleted = self.ledger.delete().ok()?;
                self.left.deletes -= 1;
                self.take(deleted);
            }
            NameAction::Create(place) => {
                let created = self.ledger.create(place, mutant == Some(UidMutant::Reused)).ok()?;
                self.left.creates -= 1;
                self.incarnation += 1;
                self.take(created);
            }
        }
        Some(())
    }

    fn delay(&mut self, order: Order) -> Option<()> {
        if self.delayed.contains(&Some(order)) {
            return None;
        }
        *self.delayed.iter_mut().find(|slot| slot.is_none())? = Some(order);
        self.delayed.sort_unstable();
        Some(())
    }

    fn report(&mut self, report: Report) -> Option<()> {
        let event = match report.of {
            OrderKind::Grant => Event::Granted,
            OrderKind::Revoke => Event::Revoked { cell: report.place.id() },
        };
        let told = self.ledger.lives(Uid(report.uid.into()), event).ok()?;
        self.take(told);
        Some(())
    }

    fn take(&mut self, (ledger, violations): (Ledger, Vec<Violation>)) {
        self.ledger = ledger.shared();
        for violation in violations {
            self.broken |= if violation.id == "I1" { I1 } else { I2 };
        }
    }

    fn judge(&mut self, before: &Self) {
        let (uid, record) = (self.uid(), &self.ledger.record);
        let home = Place::of(&record.owner);
        let serves = |place: Place| self.holder(place).role == Role::Owner && self.holder(place).uid == uid;
        let mut broken = 0;
        if Place::ALL.into_iter().all(serves) {
            broken |= I1;
        }
        for place in Place::ALL {
            let (was, is) = (before.holder(place), self.holder(place));
            if (is.uid, is.epoch) < (was.uid, was.epoch) {
                broken |= I2;
            }
            let wrote = self.acked & 1 << is.incarnation;
            if is.role == Role::Owner && is.rows & wrote != wrote {
                broken |= I3;
            }
        }
        if record.life == Life::Live && !serves(home) {
            broken |= I12;
        }
        if record.life == Life::Deleted && Place::ALL.into_iter().any(serves) {
            broken |= SERVED;
        }
        self.broken |= broken;
    }

    /// The leader does what is pending, late reports are applied, nothing else happens: is it over soon?
    fn comes_to_rest(&self, mutant: Option<UidMutant>) -> bool {
        const STEPS_MAX: usize = 8;
        let mut now = self.clone();
        for _ in 0..STEPS_MAX {
            let order = now.order();
            let action = match (now.late, order) {
                (Some(_), _) => NameAction::Apply,
                (None, Some(order)) => NameAction::Do { order, again: false, late: false },
                (None, None) => return matches!(now.ledger.record.life, Life::Live | Life::Deleted),
            };
            match now.after(action, mutant) {
                Some(next) => now = next,
                None => return false,
            }
        }
        false
    }
}
