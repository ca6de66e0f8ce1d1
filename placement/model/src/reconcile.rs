//! After a restore: what the cells hold durably is held against the records, and the highest grant is adopted.
//!
//! A backup is older than what has happened since. Until every cell has said what it holds, no tenant is made, moved or
//! deleted and nothing is reclaimed ([`crate::FleetHead::unreconciled`]); tenants are served meanwhile, because cells
//! refuse what is older than their grant, and send on whom they do not own.
//!
//! ```text
//! cells ──► [Held] ──► judge(record, held) ──► Confirmed
//!                                          ├─► Adopt: the record as it has to be, and why
//!                                          ├─► Unheld: the record stands, but its owner does not hold it
//!                                          └─► Contradictory: two cells own it, or one that has not spoken
//! ```
//! Grants are compared by (uid, epoch), as gates and routers do. A grant is never taken from a cell that serves. What a
//! move has left half-done (an import, a fence, a capture) becomes a move that takes it away, or brings it to its end
//! where the cells show that COMMIT was decided. Steps of it carry a higher attempt than any before the restore.

mod leftovers;
mod terms;
mod unowned;

use serde::{Deserialize, Serialize};

use crate::layout::since_5;
use crate::step::turn_to_cleanup;
use crate::{
    Attempt, CellId, End, Epoch, FleetView, Intent, Leg, Life, Lineage, Move, MoveId, MoveRecord, Phase, Rev,
    Stamp, TenantId, TenantRecord, Tier, Uid,
};

/// What a cell is to a tenant, as far as it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldRole {
    /// Serves at its epoch.
    Owner,
    /// Is copied to.
    Importing,
    /// Refuses everything until the control plane has decided.
    Fenced,
    /// Sends on whoever asks.
    Redirect,
    /// The tenant is deleted there.
    Deleted,
    /// Remembers it, and nothing more.
    Nothing,
}

impl HeldRole {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Importing => "importing",
            Self::Fenced => "fenced",
            Self::Redirect => "redirect",
            Self::Deleted => "deleted",
            Self::Nothing => "nothing",
        }
    }
}

/// What one cell says of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The cell.
    pub cell: CellId,
    /// Incarnation of the tenant that it knows.
    pub uid: Uid,
    /// Epoch of its grant.
    pub epoch: Epoch,
    /// What it is to the tenant.
    pub role: HeldRole,
    /// The newest move that a step has named there; 0 where none has.
    pub move_id: MoveId,
    /// Rows of the tenant are there, whole or in part.
    pub has_copy: bool,
    /// Its changes are kept for another cell.
    pub captures: bool,
    /// To whom it sends on, and the epoch of that one's grant.
    pub sends_to: Option<(CellId, Epoch)>,
    /// The tier that the tenant got with that grant, by the mapping that it hands out.
    #[serde(deserialize_with = "since_5")]
    pub sends_as: Option<Tier>,
}

/// Why a record is written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// The store did not know the tenant, or knew an earlier one of that name.
    Made,
    /// The tenant was deleted after the backup.
    Deleted,
    /// Another cell owns it, or the same at a higher epoch.
    Moved,
    /// COMMIT was decided and not yet carried out: it is now.
    CarriedOut,
    /// A cutover was fenced and not decided: the cell gets the tenant back, at a higher epoch.
    GivenBack,
    /// A move under way is called off.
    CalledOff,
    /// A move that has cut over goes on.
    GoesOn,
    /// Copies that moves have left are known again; or their move has ended since.
    Copies,
}

impl Adoption {
    /// One word, as tables print it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Deleted => "deleted",
            Self::Moved => "moved",
            Self::CarriedOut => "carried-out",
            Self::GivenBack => "given-back",
            Self::CalledOff => "called-off",
            Self::GoesOn => "goes-on",
            Self::Copies => "copies",
        }
    }
}

/// What has come of holding a record against what cells hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They agree.
    Confirmed,
    /// This is to be the record.
    Adopt {
        /// The record.
        record: Box<TenantRecord>,
        /// The move that the record had, where it is over.
        ended: Option<Box<MoveRecord>>,
        /// Why.
        why: Adoption,
    },
    /// Nothing higher is known than the record, but its owner does not hold it: nobody serves the tenant.
    Unheld {
        /// What was seen.
        reason: String,
    },
    /// It cannot be told who owns the tenant: people must look.
    Contradictory {
        /// What was seen.
        reason: String,
    },
}

/// Code of the end of a move that a restore has overtaken.
pub const OVERTAKEN: &str = "CONTROL_PLANE_RESTORED";

fn overtaken() -> End {
    End::Aborted { code: OVERTAKEN.into(), reason: "the control plane was restored from a backup".into() }
}

/// Holds one tenant's record against what the cells that were asked hold of it.
#[must_use]
pub fn judge(fleet: &dyn FleetView, tenant: &TenantId, held: &[Held], stamp: Stamp) -> Verdict {
    let record = fleet.tenant(tenant);
    let known = held.iter().filter(|held| held.role != HeldRole::Nothing);
    let uid = known.clone().map(|held| held.uid).chain(record.map(|record| record.uid)).max();
    let Some(uid) = uid else { return Verdict::Confirmed };
    let held: Vec<&Held> = known.filter(|held| held.uid == uid).collect();
    let case = Case { fleet, lineage: fleet.lineage(), tenant, uid, held, stamp, record };
    match case.standing() {
        Standing::Verdict(verdict) => verdict,
        Standing::Next { mut next, ended, why } => {
            let left = case.with_leftovers(&mut next);
            // A cutover that is carried out anew is of the same move: that one has not ended, or nobody could steer it.
            let goes_on = next.movement.as_ref().map(|movement| movement.id);
            let ended = ended.filter(|ended| Some(ended.movement.id) != goes_on);
            case.with_tier(&mut next);
            case.with_residency(&mut next);
            let why = why.or(left);
            let same = case.record_of_uid().is_some_and(|before| *before == *next) && ended.is_none();
            match why {
                Some(why) if !same => {
                    next.rev = record.map_or(Rev(0), |before| before.rev).next();
                    next.revision = stamp.revision;
                    Verdict::Adopt { record: next, ended, why }
                }
                _ => Verdict::Confirmed,
            }
        }
    }
}

/// Whether a move that had cut over by the time of the backup has been brought to its end since. As long as it soaks its new
/// owner keeps every change for the old one, from before it owns. When that is over, the cells take no step of the move any
/// more, whatever its attempt.
fn has_ended_since(record: &TenantRecord, owner: &Held) -> bool {
    let soaking = |movement: &Move| {
        movement.leg == Leg::Forward
            && matches!(movement.phase, Phase::Activate | Phase::Soak)
            // An owner by force captures for nobody.
            && movement.takeover.is_none()
    };
    !owner.captures && record.movement.as_deref().is_some_and(soaking)
}

/// One tenant, its record, and what is held of its newest incarnation.
struct Case<'a> {
    fleet: &'a dyn FleetView,
    lineage: Lineage,
    tenant: &'a TenantId,
    uid: Uid,
    held: Vec<&'a Held>,
    stamp: Stamp,
    record: Option<&'a TenantRecord>,
}

enum Standing {
    Verdict(Verdict),
    Next { next: Box<TenantRecord>, ended: Option<Box<MoveRecord>>, why: Option<Adoption> },
}

fn contradictory(reason: String) -> Standing {
    Standing::Verdict(Verdict::Contradictory { reason })
}

fn unheld(reason: String) -> Standing {
    Standing::Verdict(Verdict::Unheld { reason })
}

impl Case<'_> {
    fn record_of_uid(&self) -> Option<&TenantRecord> {
        self.record.filter(|record| record.uid == self.uid)
    }

    fn in_role(&self, role: HeldRole) -> impl Iterator<Item = &Held> + '_ {
        self.held.iter().copied().filter(move |held| held.role == role)
    }

    fn on(&self, cell: &CellId) -> Option<&Held> {
        self.held.iter().copied().find(|held| held.cell == *cell)
    }

    /// The highest epoch that anybody knows of.
    fn highest(&self) -> Epoch {
        let said = self.held.iter().flat_map(|held| [Some(held.epoch), held.sends_to.as_ref().map(|(_, at)| *at)]);
        said.flatten().chain(self.record_of_uid().map(|record| record.epoch)).max().unwrap_or_default()
    }

    /// An attempt above all that were made before the restore, the same each time that this is judged.
    fn attempt(&self, at_least: Attempt) -> Attempt {
        let floor = u32::try_from(self.lineage.get().saturating_mul(1 << 16)).unwrap_or(u32::MAX >> 1);
        at_least.max(Attempt(floor))
    }

    fn standing(&self) -> Standing {
        if let Some(record) = self.record_of_uid()
            && matches!(record.life, Life::Deleting { .. } | Life::Deleted)
        {
            return self.deleted_in_the_record(record);
        }
        if let Some(deleted) = self.in_role(HeldRole::Deleted).next() {
            return self.deleted_since(deleted);
        }
        let mut owners: Vec<&Held> =
            self.in_role(HeldRole::Owner).filter(|held| !self.was_taken_over(held)).collect();
        owners.sort_by_key(|held| std::cmp::Reverse(held.epoch));
        match owners.as_slice() {
            [owner] => self.owned(owner),
            [first, second, ..] => contradictory(format!(
                "cell {} owns it at epoch {}, and so does cell {} at epoch {}",
                first.cell, first.epoch, second.cell, second.epoch
            )),
            [] => self.unowned(),
        }
    }

    /// It owned until somebody else was made the owner by force, and has not been told: the record does that.
    fn was_taken_over(&self, held: &Held) -> bool {
        let Some(record) = self.record_of_uid() else { return false };
        let copy = record.retained_on(&held.cell);
        let told_later = copy.is_some_and(|copy| copy.quarantine.is_some() && held.epoch <= copy.fenced_epoch);
        let now = record.movement.as_ref().is_some_and(|movement| {
            let from = movement.takeover.as_ref().map(|takeover| &takeover.from);
            from == Some(&held.cell) && movement.fenced_epoch.is_some_and(|fenced| held.epoch <= fenced)
        });
        told_later || now
    }

    /// The store has decided the deletion before the backup: it goes on.
    fn deleted_in_the_record(&self, record: &TenantRecord) -> Standing {
        let mut next = record.clone();
        let alive = self.held.iter().find(|held| held.role != HeldRole::Deleted && held.role != HeldRole::Redirect);
        if let (Life::Deleted, Some(held)) = (record.life, alive) {
            return contradictory(format!("it is deleted, and cell {} is its {}", held.cell, held.role.as_str()));
        }
        // A step of the deletion may not be older than the grant that it takes away.
        next.epoch = self.highest();
        let why = (next.epoch != record.epoch).then_some(Adoption::Deleted);
        Standing::Next { next: next.into(), ended: None, why }
    }

    fn deleted_since(&self, deleted: &Held) -> Standing {
        let Some(record) = self.record else { return self.made_and_deleted_since(deleted) };
        let mut next = record.clone();
        let ended = self.end_move(&mut next);
        if record.uid != self.uid {
            next.retained.clear();
            next.owner = deleted.cell.clone();
        }
        next.uid = self.uid;
        next.life = Life::Deleting { owner_revoked: false };
        self.raise(&mut next, self.highest());
        Standing::Next { next: next.into(), ended, why: Some(Adoption::Deleted) }
    }

    /// The store has never heard of it: a record is needed only where the deletion is not done everywhere.
    fn made_and_deleted_since(&self, deleted: &Held) -> Standing {
        if !self.held.iter().any(|held| leftovers::is_left_by_a_deletion(held)) {
            return Standing::Verdict(Verdict::Confirmed);
        }
        let mut next = self.new_record(deleted);
        next.life = Life::Deleting { owner_revoked: false };
        self.raise(&mut next, self.highest());
        Standing::Next { next: next.into(), ended: None, why: Some(Adoption::Deleted) }
    }

    /// One cell serves it.
    fn owned(&self, owner: &Held) -> Standing {
        if let Some((cell, epoch)) = self.sent_beyond(owner.epoch) {
            return contradictory(format!(
                "cell {} owns it at epoch {}, and another cell sends to {cell} at epoch {epoch}",
                owner.cell, owner.epoch
            ));
        }
        let Some(record) = self.record_of_uid() else {
            let mut next = self.new_record(owner);
            let ended = self.record.and_then(|old| self.end_move(&mut old.clone()));
            next.life = Life::Live;
            return Standing::Next { next: next.into(), ended, why: Some(Adoption::Made) };
        };
        let mut next = record.clone();
        if record.epoch > owner.epoch {
            let seen = format!("cell {} owns it at epoch {}", owner.cell, owner.epoch);
            if record.owner != owner.cell {
                return contradictory(format!(
                    "{seen}, and by the record cell {} at {}",
                    record.owner, record.epoch
                ));
            }
            if next.movement.is_none() {
                return unheld(format!("{seen}, and by the record at {}", record.epoch));
            }
            // An unfence that was decided before the backup, and that the cell has not done: it is done now.
            let why = self.go_on(&mut next);
            return Standing::Next { next: next.into(), ended: None, why };
        }
        let (mut ended, mut why) = (None, None);
        if next.life == Life::Provisioning {
            next.life = Life::Live;
            why = Some(Adoption::Moved);
        }
        if (&next.owner, next.epoch) == (&owner.cell, owner.epoch) {
            if self.has_newer_move(&next) {
                ended = self.end_move(&mut next);
                why = Some(Adoption::CalledOff);
            } else if has_ended_since(&next, owner) {
                ended = self.end_move(&mut next);
                why = Some(Adoption::Copies);
            } else if next.movement.is_some() {
                why = self.go_on(&mut next).or(why);
            }
        } else {
            ended = self.end_move_at(&mut next, &owner.cell);
            next.owner = owner.cell.clone();
            self.raise(&mut next, owner.epoch);
            why = Some(Adoption::Moved);
        }
        Standing::Next { next: next.into(), ended, why }
    }

    /// What becomes of the record's own move where the record is confirmed. Cells may have come further with it than the
    /// backup knows, so whatever was not committed is called off, and the rest goes on with a higher attempt.
    fn go_on(&self, next: &mut TenantRecord) -> Option<Adoption> {
        let movement = next.movement.as_mut()?;
        let attempt = self.attempt(movement.attempt);
        if movement.attempt == attempt {
            return None;
        }
        movement.attempt = attempt;
        let goes_on = match (movement.leg, movement.phase) {
            (_, Phase::Cleanup | Phase::Unfence | Phase::Activate) | (Leg::Forward, Phase::Soak) => true,
            (Leg::Forward, _) => false,
            // A rollback that was not committed: the new owner still serves.
            (Leg::Back, _) => {
                movement.leg = Leg::Forward;
                movement.intent = Intent::Run;
                crate::step::forget_hold(movement);
                crate::step::enter(movement, Phase::Soak, self.stamp);
                true
            }
        };
        if !goes_on {
            crate::step::forget_hold(movement);
            turn_to_cleanup(movement, overtaken(), self.stamp);
            return Some(Adoption::CalledOff);
        }
        if movement.phase == Phase::Unfence && movement.leg == Leg::Forward {
            // It would go back to Sync from there, and a cell may have come further.
            movement.ending.get_or_insert_with(overtaken);
        }
        Some(Adoption::GoesOn)
    }

    /// Whether cells have heard of a later move than the record's. That one is over then, and its steps would be refused
    /// whatever their attempt; what the later one has left is taken away by a move above both.
    fn has_newer_move(&self, record: &TenantRecord) -> bool {
        let own = record.movement.as_ref().map(|movement| movement.id);
        own.is_some_and(|own| self.held.iter().any(|held| held.move_id > own))
    }

    fn end_move(&self, next: &mut TenantRecord) -> Option<Box<MoveRecord>> {
        let owner = next.owner.clone();
        self.end_move_at(next, &owner)
    }

    /// The record's own move is over: the cells have gone on without it.
    fn end_move_at(&self, next: &mut TenantRecord, owner: &CellId) -> Option<Box<MoveRecord>> {
        let movement = next.movement.take()?;
        let completed = if movement.is_committed() { movement.source != *owner } else { movement.target == *owner };
        let end = if completed { End::Completed } else { overtaken() };
        Some(Box::new(MoveRecord {
            tenant: self.tenant.clone(),
            uid: next.uid,
            epoch: next.epoch,
            ended: self.stamp.at,
            revision: self.stamp.revision,
            movement: *movement,
            end,
        }))
    }

    /// The record gets an epoch that this history answers for.
    fn raise(&self, next: &mut TenantRecord, epoch: Epoch) {
        next.epoch = epoch;
        next.lineage = self.lineage;
    }

    /// Cells know neither tier nor residency.
    fn new_record(&self, held: &Held) -> TenantRecord {
        TenantRecord {
            id: self.tenant.clone(),
            uid: self.uid,
            lineage: self.lineage,
            epoch: held.epoch,
            rev: Rev(0),
            revision: self.stamp.revision,
            owner: held.cell.clone(),
            life: Life::Live,
            tier: Tier::default(),
            residency: "".into(),
            movement: None,
            retained: Vec::new(),
            placed: "found on the cell after a restore".into(),
        }
    }
}
