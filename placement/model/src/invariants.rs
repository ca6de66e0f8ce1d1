//! The promises I1–I16, each with its id, and as functions where a state can be checked.
//!
//! The same functions judge the model checker's states, the simulation and a running fleet. What only shows in the
//! history of what clients were told (an execution twice, a deleted key that comes back, a session that reads backwards)
//! is judged by the history checker, and says so here. Which judge can find which promise broken is in `docs/invariants.md`.

use crate::{Attempt, CellId, Digest, Epoch, Lineage, MoveId, MoveOptions, Phase, Seq, TenantRecord, Term, Uid};

/// How a promise is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// By one look at the store and the cells: [`check`].
    ByState,
    /// By two looks, one after the other: [`check_succession`].
    BySuccession,
    /// By what clients were told: the history checker.
    ByHistory,
}

/// One promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invariant {
    /// As it is named in code, metrics, reports and documents.
    pub id: &'static str,
    /// What is promised.
    pub statement: &'static str,
    /// How it is judged.
    pub judged: Judged,
}

/// All promises.
pub const ALL: [Invariant; 16] = {
    use Judged::{ByHistory, ByState, BySuccession};
    const fn promise(id: &'static str, judged: Judged, statement: &'static str) -> Invariant {
        Invariant { id, statement, judged }
    }
    [
        promise("I1", ByState, "at most one cell accepts writes of a tenant, in commit order"),
        promise("I2", BySuccession, "(lineage, uid, epoch) never goes back, in any cell or router"),
        promise("I3", ByState, "every acknowledged write up to S* is readable at B when B first serves"),
        promise("I4", ByState, "no write below epoch e+1 commits at A after the fence"),
        promise("I5", ByState, "B serves nothing before COMMIT"),
        promise("I6", ByState, "B at applied = s equals A at s"),
        promise("I7", ByHistory, "each change is applied exactly once"),
        promise("I8", ByHistory, "no deleted key comes back"),
        promise("I9", ByState, "a hold ends within its cap"),
        promise("I10", BySuccession, "a fence ends only by a Raft decision"),
        promise("I11", BySuccession, "a lower (lineage, term) has no effect"),
        promise("I12", ByState, "nothing is destroyed that is owned, nor before FINAL and retention"),
        promise("I13", ByHistory, "one idempotency key is one execution, across the cutover"),
        promise("I14", ByHistory, "a session's reads never go back across the cutover"),
        promise("I15", ByState, "whatever a move made belongs to a live move or is reclaimed within 60 s"),
        promise("I16", ByHistory, "no statement of the mover touches another tenant's rows"),
    ]
};

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub id: &'static str,
    /// What was seen.
    pub detail: String,
}

/// What a cell is to a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Serves reads and writes.
    Owner,
    /// Serves reads, lets writes wait.
    Holding,
    /// Takes changes from the mover and refuses everybody else.
    Importing,
    /// Refuses everything until a decision.
    Fenced,
    /// Hands out the newer mapping.
    Redirect,
    /// Knows nothing of the tenant.
    None,
}

impl Role {
    /// Whether the application can be reached.
    #[must_use]
    pub const fn serves(self) -> bool {
        matches!(self, Self::Owner | Self::Holding)
    }
}

/// What one look at a cell tells of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CellSight {
    /// Which cell.
    pub cell: CellId,
    /// Incarnation that its grant is for.
    pub uid: Uid,
    /// Epoch of its grant.
    pub epoch: Epoch,
    /// What its grant allows.
    pub role: Role,
    /// Last change that it holds, its own or applied.
    pub last_seq: Seq,
    /// Whether it holds every row up to `last_seq` (an import before its end does not).
    pub complete: bool,
    /// What its rows add up to, where it knows.
    pub digest: Option<Digest>,
    /// How long a hold has been standing, in milliseconds.
    pub held_ms: Option<u64>,
    /// The move for which it captures, imports or follows.
    pub works_for: Option<MoveId>,
    /// For how long that move has been over, in milliseconds; none where it is not.
    pub orphaned_ms: Option<u64>,
    /// Highest sender of steps that it has obeyed.
    pub obeyed: (Lineage, Term),
}

/// How long something may outlive its move: I15.
pub const ORPHAN_MS_MAX: u64 = 60_000;

/// Judges one look at a tenant's record and at its cells.
#[must_use]
pub fn check(record: &TenantRecord, cells: &[CellSight]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut broken = |id: &'static str, detail: String| violations.push(Violation { id, detail });
    let same_uid = || cells.iter().filter(|sight| sight.uid == record.uid);

    let serving: Vec<&CellSight> = same_uid().filter(|sight| sight.role.serves()).collect();
    if let [first, second, ..] = serving[..] {
        broken("I1", format!("{} and {} both serve {}", first.cell, second.cell, record.id));
    }
    for sight in &serving {
        if sight.cell != record.owner {
            broken("I5", format!("{} serves {}, which {} owns", sight.cell, record.id, record.owner));
        }
        if !sight.complete {
            broken("I12", format!("{} serves {} without all of its rows", sight.cell, record.id));
        }
    }
    for sight in same_uid() {
        let cap = u64::from(MoveOptions::HOLD_CAP_MS);
        if sight.held_ms.is_some_and(|held| held > cap) {
            broken("I9", format!("{} holds {} beyond {cap} ms", sight.cell, record.id));
        }
        if sight.orphaned_ms.is_some_and(|orphaned| orphaned > ORPHAN_MS_MAX) {
            broken("I15", format!("{} still works for an ended move of {}", sight.cell, record.id));
        }
    }
    violations.extend(check_cutover(record, cells));
    violations
}

/// What holds between the two cells of a move under way.
fn check_cutover(record: &TenantRecord, cells: &[CellSight]) -> Vec<Violation> {
    // After a takeover by force the two cells go ways of their own, until one is told.
    let Some(movement) = record.movement.as_ref().filter(|movement| movement.takeover.is_none()) else {
        return Vec::new();
    };
    let sight_of = |cell: &CellId| cells.iter().find(|sight| sight.cell == *cell && sight.uid == record.uid);
    let (from, to) = (sight_of(movement.from()), sight_of(movement.to()));
    let mut violations = Vec::new();
    let mut broken = |id: &'static str, detail: String| violations.push(Violation { id, detail });

    let sealed = movement.acks.sealed.filter(|sealed| sealed.attempt == movement.attempt);
    if let (Some(sealed), Phase::Activate | Phase::Soak) = (sealed, movement.phase)
        && let Some(to) = to
        && to.role.serves()
        && to.last_seq < sealed.seq
    {
        broken("I3", format!("{} serves from {}, S* is {}", to.cell, to.last_seq, sealed.seq));
    }
    if let (Some(sealed), Some(from)) = (sealed, from)
        && from.role == Role::Fenced
        && from.last_seq != sealed.seq
    {
        broken("I4", format!("{} is fenced at {}, S* is {}", from.cell, from.last_seq, sealed.seq));
    }
    // What an earlier move, or a takeover, has left at the target is no copy of this one until it begins anew there.
    let is_of_this_move = |sight: &CellSight| sight.role != Role::Redirect || sight.works_for == Some(movement.id);
    if let (Some(from), Some(to)) = (from, to)
        && from.complete
        && to.complete
        && is_of_this_move(to)
        && from.last_seq == to.last_seq
        && let (Some(ours), Some(theirs)) = (from.digest, to.digest)
        && ours != theirs
    {
        broken("I6", format!("at {} {} adds up to {ours}, {} to {theirs}", from.last_seq, from.cell, to.cell));
    }
    violations
}

/// Judges two looks at one cell, the later one second.
#[must_use]
pub fn check_succession(before: &CellSight, after: &CellSight) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut broken = |id: &'static str, detail: String| violations.push(Violation { id, detail });
    if (after.uid, after.epoch) < (before.uid, before.epoch) {
        let (was, is) = ((before.uid, before.epoch), (after.uid, after.epoch));
        broken("I2", format!("{} went back from {was:?} to {is:?}", after.cell));
    }
    let same_grant = (before.uid, before.epoch) == (after.uid, after.epoch);
    if before.role == Role::Fenced && after.role.serves() && same_grant {
        broken("I10", format!("{} serves again at epoch {}, at which it was fenced", after.cell, after.epoch));
    }
    if after.obeyed < before.obeyed {
        broken("I11", format!("{} obeyed {:?} after {:?}", after.cell, after.obeyed, before.obeyed));
    }
    violations
}

/// Judges two looks at one record, the later one second.
#[must_use]
pub fn check_record_succession(before: &TenantRecord, after: &TenantRecord) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut broken = |id: &'static str, detail: String| violations.push(Violation { id, detail });
    let fencing = |record: &TenantRecord| (record.lineage, record.uid, record.epoch);
    if fencing(after) < fencing(before) {
        broken("I2", format!("{} went back from {:?} to {:?}", after.id, fencing(before), fencing(after)));
    }
    if before.uid == after.uid && before.owner != after.owner && after.epoch <= before.epoch {
        broken("I1", format!("{} changed owner at epoch {}", after.id, after.epoch));
    }
    let attempt = |record: &TenantRecord| record.movement.as_ref().map(|m| (m.id, m.attempt)).unwrap_or_default();
    let ((was, tried), (is, tries)): ((MoveId, Attempt), (MoveId, Attempt)) = (attempt(before), attempt(after));
    if was == is && tries < tried {
        broken("I11", format!("{is} went back from attempt {tried} to {tries}"));
    }
    violations
}
