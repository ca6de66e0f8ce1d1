//! The replicated state as a whole, and the one way in which it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::answers::Answers;
use crate::shelves::{Keyed, Shelves, Trail};
use crate::{
    Aging, Answered, AuditEntry, AuditTrail, BrokenChain, CellId, CellRecord, Change, ClusterId, Command, Envelope,
    Forgotten, Lineage, MoveId, MoveRecord, Outcome, Reply, RequestId, Revision, TenantId, TenantRecord,
    UnixMillis, decide,
};

/// How many moves may be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// Moves that run at once in the whole fleet.
    pub moves_total: u32,
    /// Moves that run at once with one cell as source or target.
    pub moves_per_cell: u32,
    /// Moves that run or wait for a slot.
    pub moves_queued: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { moves_total: 8, moves_per_cell: 4, moves_queued: 1_000 }
    }
}

/// When, and at which revision, something is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The proposer's clock.
    pub at: UnixMillis,
    /// The revision that the command gets if it changes something.
    pub revision: Revision,
}

/// What [`decide`] may look at besides the one tenant's record.
pub trait FleetView {
    /// Incarnation of this history.
    fn lineage(&self) -> Lineage;
    /// The limits.
    fn limits(&self) -> Limits;
    /// At which revision they were set.
    fn limits_revision(&self) -> Revision;
    /// One cell.
    fn cell(&self, id: &CellId) -> Option<&CellRecord>;
    /// All cells, by name.
    fn cells(&self) -> Box<dyn Iterator<Item = &CellRecord> + '_>;
    /// One tenant, deleted ones included.
    fn tenant(&self, id: &TenantId) -> Option<&TenantRecord>;
    /// How many tenants a cell owns.
    fn tenants_on(&self, cell: &CellId) -> u64;
    /// Tenants with a move that waits or runs, by move.
    fn moving(&self) -> Box<dyn Iterator<Item = (MoveId, &TenantRecord)> + '_>;
    /// How many they are.
    fn moving_count(&self) -> usize;
    /// The tenant whose move this is, if it waits or runs.
    fn tenant_of_move(&self, id: MoveId) -> Option<&TenantRecord>;
    /// Since a restore nobody has adopted yet what the cells hold.
    fn unreconciled(&self) -> bool;
    /// A move that has ended.
    fn ended_move(&self, id: MoveId) -> Option<&MoveRecord>;
}

/// The part of the state that is not made of records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetHead {
    /// Which cluster this is.
    pub cluster: ClusterId,
    /// Incarnation of its history.
    pub lineage: Lineage,
    /// One more with each command that changed something.
    pub revision: Revision,
    /// The limits.
    pub limits: Limits,
    /// Made from a backup, and nobody has adopted yet what the cells hold.
    pub unreconciled: bool,
    /// At which revision the limits were set.
    pub limits_revision: Revision,
    /// Answers to requests with an id, the oldest first.
    pub answered: Trail<Answered>,
    /// By what they grow old.
    pub aging: Aging,
    /// The newest one that is not remembered any more.
    pub forgotten: Option<Forgotten>,
}

impl Keyed for TenantRecord {
    type Key = TenantId;
    fn key(&self) -> &TenantId {
        &self.id
    }
}

impl Keyed for MoveRecord {
    type Key = MoveId;
    fn key(&self) -> &MoveId {
        &self.movement.id
    }
}

/// The whole state at one moment, to be read while commands go on. Taking it costs microseconds, however large the fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetImage {
    /// The part that is not made of records.
    pub head: FleetHead,
    cells: BTreeMap<CellId, Arc<CellRecord>>,
    tenants: Shelves<Arc<TenantRecord>>,
    ended: Shelves<Arc<MoveRecord>>,
    audit: AuditTrail,
}

impl FleetImage {
    /// Who asked for what.
    #[must_use]
    pub const fn audit(&self) -> &AuditTrail {
        &self.audit
    }

    /// Every record, as changes that would make this fleet out of its head.
    pub fn records(&self) -> impl Iterator<Item = Change> + '_ {
        let cells = self.cells.values().cloned().map(Change::Cell);
        let tenants = self.tenants.iter().cloned().map(Change::Tenant);
        let ended = self.ended.iter().cloned().map(Change::MoveEnded);
        let unreconciled = self.head.unreconciled.then_some(Change::Reconciled(false));
        cells.chain(tenants).chain(ended).chain(unreconciled)
    }
}

/// The replicated state: plain data, and [`Fleet::apply`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    head: FleetHead,
    cells: BTreeMap<CellId, Arc<CellRecord>>,
    tenants: Shelves<Arc<TenantRecord>>,
    ended: Shelves<Arc<MoveRecord>>,
    audit: AuditTrail,
    // Derived from the above.
    moving: BTreeMap<MoveId, TenantId>,
    unsettled: BTreeSet<TenantId>,
    owned: BTreeMap<CellId, u64>,
    answers: Answers,
}

impl Fleet {
    /// Answers to requests with an id are kept for this long,
    pub const ANSWERS_KEPT_MS: u64 = Answers::KEPT_MS;
    /// but not more of them than this,
    pub const ANSWERS_MAX: usize = Answers::MAX;
    /// and so many of the newest however old they are.
    pub const ANSWERS_MIN: usize = Answers::MIN;
    /// How many ended moves are kept; the oldest are dropped beyond it.
    pub const ENDED_MAX: usize = 10_000;

    /// An empty fleet of a new cluster.
    #[must_use]
    pub fn new(cluster: ClusterId, lineage: Lineage) -> Self {
        Self { head: FleetHead { cluster, lineage, ..FleetHead::default() }, ..Self::default() }
    }

    /// A fleet from its head, to be filled by [`Fleet::install`]: cells before their tenants, so that these share their names.
    #[must_use]
    pub fn from_head(head: FleetHead) -> Self {
        Self { answers: Answers::of(&head), head, ..Self::default() }
    }

    /// The records of this fleet under another head. Whether it is reconciled is one of its records; the audit trail is not.
    #[must_use]
    pub fn under(self, head: FleetHead) -> Self {
        let other = Self::from_head(FleetHead { unreconciled: self.head.unreconciled, ..head });
        Self { head: other.head, answers: other.answers, audit: AuditTrail::default(), ..self }
    }

    /// The part that is not made of records.
    #[must_use]
    pub const fn head(&self) -> &FleetHead {
        &self.head
    }

    /// Every record, as changes that would make this fleet out of its head.
    pub fn records(&self) -> impl Iterator<Item = Change> + '_ {
        let cells = self.cells.values().cloned().map(Change::Cell);
        let tenants = self.tenants.iter().cloned().map(Change::Tenant);
        let ended = self.ended.iter().cloned().map(Change::MoveEnded);
        let unreconciled = self.head.unreconciled.then_some(Change::Reconciled(false));
        cells.chain(tenants).chain(ended).chain(unreconciled)
    }

    /// The whole state as it is now.
    #[must_use]
    pub fn image(&self) -> FleetImage {
        FleetImage {
            head: self.head.clone(),
            cells: self.cells.clone(),
            tenants: self.tenants.clone(),
            ended: self.ended.clone(),
            audit: self.audit.clone(),
        }
    }

    /// The answer to a request that has run.
    #[must_use]
    pub fn answer(&self, id: RequestId) -> Option<&Answered> {
        self.answers.get(&self.head, id)
    }

    /// Runs one command. This is the whole of the store's `apply`; equal fleets and envelopes give equal results.
    pub fn apply(&mut self, envelope: &Envelope) -> (Reply, Vec<Change>) {
        self.apply_seen(envelope, |_, _| {})
    }

    /// The same. `see` is shown what is decided while what was there before is still in place.
    pub fn apply_seen(&mut self, envelope: &Envelope, see: impl FnOnce(&Self, &[Change])) -> (Reply, Vec<Change>) {
        match self.answers.instead(&self.head, envelope) {
            Some(Ok(known)) => return (known, Vec::new()),
            Some(Err(rejected)) => {
                let reply = Reply { revision: self.head.revision, result: Err(rejected) };
                self.audit.note(self.head.cluster, envelope, None, &[], &reply);
                return (reply, Vec::new());
            }
            None => {}
        }
        let stamp = Stamp { at: envelope.at, revision: self.head.revision.next() };
        let before = self.named_tenant(&envelope.command).cloned();
        let (reply, changes) = match decide(&*self, envelope, stamp) {
            Ok(changes) => {
                if !changes.is_empty() {
                    self.head.revision = stamp.revision;
                }
                if envelope.layout >= 5 && changes.iter().any(|change| matches!(change, Change::Limits(_))) {
                    self.head.limits_revision = stamp.revision;
                }
                let outcome = outcome_of(&changes);
                see(self, &changes);
                for change in &changes {
                    self.install(change.clone());
                }
                (Reply { revision: self.head.revision, result: Ok(outcome) }, changes)
            }
            Err(rejected) => (Reply { revision: self.head.revision, result: Err(rejected) }, Vec::new()),
        };
        self.audit.note(self.head.cluster, envelope, before.as_ref(), &changes, &reply);
        if let Some(id) = envelope.request_id {
            let Envelope { at, asked, .. } = *envelope;
            let answered = Answered { id, at, asked, passed_ms: 0, reply: reply.clone() };
            self.answers.remember(&mut self.head, answered, envelope.layout);
        }
        (reply, changes)
    }

    /// The tenant that the audit trail compares before and after: only where a step may change more than it says.
    fn named_tenant(&self, command: &Command) -> Option<&TenantRecord> {
        match command {
            Command::Record { tenant, .. } | Command::TakeOver { tenant, .. } | Command::SetTier { tenant, .. } => {
                self.tenant(tenant)
            }
            Command::Steer { move_id, .. } | Command::ThrottleMove { move_id, .. } => self.tenant_of_move(*move_id),
            _ => None,
        }
    }

    /// Who asked for what, and what came of it.
    #[must_use]
    pub const fn audit(&self) -> &AuditTrail {
        &self.audit
    }

    /// Takes an entry of the audit trail that was kept before, the oldest first.
    ///
    /// # Errors
    /// [`BrokenChain`] where it does not follow from the one before it.
    pub fn restore_audit(&mut self, entry: AuditEntry) -> Result<(), BrokenChain> {
        self.audit.restore(entry)
    }

    /// Puts one record in place of what was there.
    pub fn install(&mut self, change: Change) {
        match change {
            Change::Tenant(record) => self.install_tenant(record),
            Change::Cell(record) => {
                self.cells.insert(record.id.clone(), record);
            }
            Change::MoveEnded(record) => {
                self.ended.insert(record);
                while self.ended.len() > Self::ENDED_MAX {
                    self.ended.pop_first();
                }
            }
            Change::Limits(limits) => self.head.limits = limits,
            Change::Reconciled(done) => self.head.unreconciled = !done,
        }
    }

    fn install_tenant(&mut self, mut record: Arc<TenantRecord>) {
        // One that was just read has its owner's name to itself.
        if let Some(own) = Arc::get_mut(&mut record)
            && let Some(cell) = self.cells.get(&own.owner)
        {
            own.owner = cell.id.clone();
        }
        if let Some(before) = self.tenants.insert(Arc::clone(&record)) {
            if let Some(movement) = &before.movement {
                self.moving.remove(&movement.id);
            }
            if counts_as_owned(&before) {
                let left = self.owned.remove(&before.owner).unwrap_or_default().saturating_sub(1);
                if left > 0 {
                    self.owned.insert(before.owner.clone(), left);
                }
            }
        }
        if let Some(movement) = &record.movement {
            self.moving.insert(movement.id, record.id.clone());
        }
        if counts_as_owned(&record) {
            *self.owned.entry(record.owner.clone()).or_default() += 1;
        }
        if is_settled(&record) {
            self.unsettled.remove(&record.id);
        } else {
            self.unsettled.insert(record.id.clone());
        }
    }

    /// All tenants by name, deleted ones included, beginning after `after`.
    pub fn tenants_after<'a>(
        &'a self,
        after: Option<&TenantId>,
    ) -> Box<dyn Iterator<Item = &'a Arc<TenantRecord>> + 'a> {
        match after {
            Some(after) => Box::new(self.tenants.after(after)),
            None => Box::new(self.tenants.iter()),
        }
    }

    /// One tenant, to be kept.
    #[must_use]
    pub fn shared_tenant(&self, id: &TenantId) -> Option<Arc<TenantRecord>> {
        self.tenants.get(id).map(Arc::clone)
    }

    /// Every cell, to be kept.
    pub fn shared_cells(&self) -> impl Iterator<Item = &Arc<CellRecord>> {
        self.cells.values()
    }

    /// One cell, to be kept.
    #[must_use]
    pub fn shared_cell(&self, id: &CellId) -> Option<Arc<CellRecord>> {
        self.cells.get(id).map(Arc::clone)
    }

    /// Ended moves, the newest first, beginning before `before`.
    pub fn ended_moves_before(&self, before: Option<MoveId>) -> impl Iterator<Item = &Arc<MoveRecord>> {
        self.ended.before(&before.unwrap_or(MoveId(u64::MAX)))
    }

    /// Tenants for which something is to be done, now or later: the only ones with pending effects.
    pub fn unsettled(&self) -> impl Iterator<Item = &TenantRecord> {
        self.unsettled.iter().filter_map(|tenant| self.tenant(tenant))
    }

    /// Number of tenants, tombstones included.
    #[must_use]
    pub fn tenant_count(&self) -> usize {
        self.tenants.len()
    }
}

fn counts_as_owned(record: &TenantRecord) -> bool {
    match record.life {
        crate::Life::Provisioning | crate::Life::Live => true,
        crate::Life::Deleting { .. } | crate::Life::Deleted => false,
    }
}

fn is_settled(record: &TenantRecord) -> bool {
    match record.life {
        crate::Life::Live => record.movement.is_none() && record.retained.is_empty(),
        crate::Life::Deleted => true,
        crate::Life::Provisioning | crate::Life::Deleting { .. } => false,
    }
}

fn outcome_of(changes: &[Change]) -> Outcome {
    let of_change = |change: &Change| match change {
        Change::Tenant(record) => Some(Outcome::Tenant {
            tenant: record.id.clone(),
            uid: record.uid,
            move_id: record.movement.as_ref().map(|movement| movement.id),
        }),
        Change::Cell(record) => Some(Outcome::Cell(record.id.clone())),
        Change::Limits(_) => Some(Outcome::Limits),
        Change::Reconciled(_) => Some(Outcome::Reconciled),
        Change::MoveEnded(_) => None,
    };
    changes.iter().find_map(of_change).unwrap_or(Outcome::Unchanged)
}

impl FleetView for Fleet {
    fn lineage(&self) -> Lineage {
        self.head.lineage
    }

    fn limits(&self) -> Limits {
        self.head.limits
    }

    fn limits_revision(&self) -> Revision {
        self.head.limits_revision
    }

    fn cell(&self, id: &CellId) -> Option<&CellRecord> {
        self.cells.get(id).map(Arc::as_ref)
    }

    fn cells(&self) -> Box<dyn Iterator<Item = &CellRecord> + '_> {
        Box::new(self.cells.values().map(Arc::as_ref))
    }

    fn tenant(&self, id: &TenantId) -> Option<&TenantRecord> {
        self.tenants.get(id).map(Arc::as_ref)
    }

    fn tenants_on(&self, cell: &CellId) -> u64 {
        self.owned.get(cell).copied().unwrap_or(0)
    }

    fn moving(&self) -> Box<dyn Iterator<Item = (MoveId, &TenantRecord)> + '_> {
        Box::new(self.moving.iter().filter_map(|(id, tenant)| Some((*id, self.tenant(tenant)?))))
    }

    fn moving_count(&self) -> usize {
        self.moving.len()
    }

    fn unreconciled(&self) -> bool {
        self.head.unreconciled
    }

    fn tenant_of_move(&self, id: MoveId) -> Option<&TenantRecord> {
        self.moving.get(&id).and_then(|tenant| self.tenant(tenant))
    }

    fn ended_move(&self, id: MoveId) -> Option<&MoveRecord> {
        self.ended.get(&id).map(Arc::as_ref)
    }
}
