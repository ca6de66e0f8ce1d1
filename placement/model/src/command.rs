//! What may be asked of the store, and what it answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::layout::{LAYOUT, since_5};
use crate::{
    Asked, CellId, CellRecord, CellState, CellTraits, Declaration, Event, Generation, Held, Leg, Limits, MoveId,
    MoveRecord, Phase, Rejected, RequestId, Revision, Seq, StoreNote, TenantId, TenantRecord, Tier, Uid,
    UnixMillis,
};

/// A cell to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCell {
    /// Its name.
    pub id: CellId,
    /// `host:port` of each application instance behind a gate.
    pub gates: Vec<String>,
    /// `host:port` of its agent.
    pub agent: String,
    /// Where it stands; may be empty.
    pub region: String,
    /// Legal zone of its data; may be empty.
    pub residency: String,
    /// What else is declared of it.
    #[serde(deserialize_with = "since_5")]
    pub traits: CellTraits,
}

/// A tenant to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTenant {
    /// Its name.
    pub id: TenantId,
    /// Where it is to live; where nobody says, the active cell of its residency with the fewest tenants.
    pub cell: Option<CellId>,
    /// What it has paid for.
    pub tier: Tier,
    /// Legal zone that its data may not leave; may be empty.
    pub residency: String,
}

/// Where a new tenant would be best, and why: what the planner has said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suggestion {
    /// The best cell.
    pub cell: CellId,
    /// Why, in a sentence or two. Kept in the tenant's record; at most [`Suggestion::WHY_MAX`] bytes.
    pub why: String,
    /// The best cells with each term of their score, how many each filter refused, by what the best is better than the next,
    /// and what would change the answer. Kept in the audit trail only; at most [`Suggestion::EXPLAINED_MAX`] bytes.
    #[serde(deserialize_with = "since_5")]
    pub explained: String,
}

impl Suggestion {
    /// A record for each tenant keeps it: a million of them must fit into memory.
    pub const WHY_MAX: usize = 400;
    /// The trail keeps so much for each of its newest entries.
    pub const EXPLAINED_MAX: usize = 1_536;
}

/// What a move may be told when it is asked for. Durations in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveOptions {
    /// Stop (pause) when this phase is done.
    pub until: Option<Phase>,
    /// The longest that writes may wait in one hold; 1 to 2,000.
    pub hold_max_ms: u32,
    /// How long Sync must be steady before the first hold.
    pub sync_steady_ms: u32,
    /// How long the new owner serves before the move is final.
    pub soak_ms: u32,
    /// How long the old copy is kept after that.
    pub retain_ms: u64,
    /// How many holds may be missed before the move is given up.
    pub retries: u32,
    /// Do everything up to the fence, on the tenant itself, and then take it back.
    pub rehearse: bool,
    /// The most that the copy may read of the source in a second; 0: as fast as it goes.
    pub bytes_per_second: u64,
    /// Why it is asked for; at most [`MoveOptions::REASON_MAX`] bytes, empty where nobody said.
    #[serde(deserialize_with = "since_5")]
    pub reason: String,
    /// The tier that the tenant has from COMMIT on; none: it keeps its own.
    #[serde(deserialize_with = "since_5")]
    pub tier: Option<Tier>,
    /// End transactions of writers that no gate has let in, where a hold would wait for them beyond half of its budget.
    #[serde(deserialize_with = "since_5")]
    pub terminate_writers: bool,
    /// In Verify, compare every row of the copy with its original, one by one, and not only what all of them add up to.
    #[serde(deserialize_with = "since_5")]
    pub exact: bool,
}

impl MoveOptions {
    /// Below it a copy would hardly ever end.
    pub const BYTES_PER_SECOND_MIN: u64 = 4_096;
    /// The hard cap of a hold: beyond it a client's own time-out becomes likely.
    pub const HOLD_CAP_MS: u32 = 2_000;
    /// A sentence.
    pub const REASON_MAX: usize = 200;
}

impl Default for MoveOptions {
    fn default() -> Self {
        Self {
            until: None,
            hold_max_ms: 500,
            sync_steady_ms: 500,
            soak_ms: 10_000,
            retain_ms: 3_600_000,
            retries: 10,
            rehearse: false,
            bytes_per_second: 0,
            reason: String::new(),
            tier: None,
            terminate_writers: false,
            exact: false,
        }
    }
}

/// What an operator wants of a move under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveIntent {
    /// Start no new phase.
    Pause,
    /// Go on.
    Resume,
    /// Take away what was made, before the cutover.
    Cancel,
    /// Bring the tenant back, out of soak.
    Rollback,
}

/// What a cell has said of its copy before it takes a tenant over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopySight {
    /// Incarnation of its agent.
    pub generation: Generation,
    /// Every row is there, up to
    pub complete: bool,
    /// this change of the owner.
    pub applied: Seq,
    /// The owner's last change that it has heard of.
    pub heard: Seq,
    /// At the owner writers come, or may, that no gate has let in, and that wait for nobody: nothing is lossless then.
    #[serde(deserialize_with = "since_5")]
    pub ungated: bool,
}

impl CopySight {
    /// Whether every write that was acknowledged is there. `in_sync`: once the copy holds this change, it has whatever was acknowledged by
    /// a gate.
    #[must_use]
    pub fn is_lossless(&self, in_sync: Option<Seq>) -> bool {
        !self.ungated && in_sync.is_some_and(|seq| self.applied >= seq)
    }
}

/// A forced takeover, as an operator orders it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeoverOrder {
    /// The cell that is to own.
    pub target: CellId,
    /// Why the owner counts as stopped, in the operator's words; 1 to [`TakeoverOrder::EVIDENCE_MAX`] bytes.
    pub evidence: String,
    /// Also where acknowledged writes may be missing.
    pub accept_data_loss: bool,
    /// Incarnation of the owner's agent that was found to be stopped.
    pub stopped: Generation,
    /// What the target holds.
    pub copy: CopySight,
}

impl TakeoverOrder {
    /// It stands in the audit trail beside the positions.
    pub const EVIDENCE_MAX: usize = 256;
}

/// One command. Everything that changes the store is one of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A cell joins.
    CreateCell(NewCell),
    /// A cell is told to take, or not to take, new tenants.
    SetCellState {
        /// Which.
        cell: CellId,
        /// What it is to be.
        state: CellState,
    },
    /// A cell's agent says where it and its gates are to be found and which incarnation it is.
    ReportCell {
        /// Which.
        cell: CellId,
        /// Its incarnation; lower than the known one is refused.
        generation: Generation,
        /// `host:port` of each application instance.
        gates: Vec<String>,
        /// `host:port` of the agent.
        agent: String,
        /// The agent has just started, and gates are still coming: those that are known stay.
        partial: bool,
    },
    /// A tenant is placed.
    CreateTenant(NewTenant),
    /// A tenant is refused from now on and its data deleted.
    DeleteTenant {
        /// Which.
        tenant: TenantId,
    },
    /// A tenant is to move.
    MoveTenant {
        /// Which.
        tenant: TenantId,
        /// To where.
        target: CellId,
        /// How.
        options: MoveOptions,
    },
    /// A move under way is told to pause, go on, cancel or roll back.
    Steer {
        /// Which.
        move_id: MoveId,
        /// What is wanted.
        intent: MoveIntent,
    },
    /// Something happened to a tenant: the result of an effect.
    Record {
        /// Whose.
        tenant: TenantId,
        /// Which incarnation.
        uid: Uid,
        /// The move that it belongs to; none for what happens outside a move.
        move_id: Option<MoveId>,
        /// Which way that move went when the effect was started.
        leg: Option<Leg>,
        /// What happened.
        event: Event,
    },
    /// The limits of the whole fleet.
    SetLimits(Limits),
    /// A tenant is placed where the planner suggests; as by [`Command::CreateTenant`] where that cell takes none by
    /// now.
    PlaceTenant {
        /// Who; a cell that it names outweighs the suggestion.
        tenant: NewTenant,
        /// Where to, and why.
        suggestion: Suggestion,
    },
    /// Evidence, kept in the audit trail: how each router stood to a commit. It changes no record.
    RoutersSaw {
        /// Whose owner has changed.
        tenant: TenantId,
        /// By which move.
        move_id: MoveId,
        /// The revision of the change.
        revision: Revision,
        /// Routers by name, those first that have not seen it; at most [`Command::ROUTERS_TOLD_MAX`].
        routers: Vec<(String, Sight)>,
        /// All of them, also those that are not named.
        #[serde(deserialize_with = "since_5")]
        crowd: Option<Crowd>,
    },
    /// A copy under way is to go slower, or faster.
    ThrottleMove {
        /// Which.
        move_id: MoveId,
        /// The most that it may read of the source in a second; 0: as fast as it goes.
        bytes_per_second: u64,
    },
    /// A tenant's owner is out of reach and stopped: the cell that holds a copy is to own it.
    TakeOver {
        /// Which.
        tenant: TenantId,
        /// How.
        order: TakeoverOrder,
    },
    /// What a cell that was taken over has put aside is not needed any more.
    DropQuarantine {
        /// Whose.
        tenant: TenantId,
        /// Where.
        cell: CellId,
    },
    /// After a restore: what cells hold of a tenant. The highest grant is adopted: see [`crate::judge`].
    Adopt {
        /// Whose.
        tenant: TenantId,
        /// What each cell that knows of it has said; at most [`Command::HELD_MAX`].
        held: Vec<Held>,
    },
    /// After a restore: every grant is adopted, and everything may be asked for again.
    Reconciled {
        /// The cells that have said what they hold.
        heard: Vec<CellId>,
        /// The cells that an operator has said to go without.
        without: Vec<CellId>,
    },
    /// Evidence, kept in the audit trail: what was done to the store itself. It changes no record.
    Noted(StoreNote),
    /// What an operator declares of a cell, anew.
    DeclareCell {
        /// Which.
        cell: CellId,
        /// What.
        declaration: Declaration,
        /// Where it is to be dedicated and is not empty: the platinum tenant that has it to itself.
        only: Option<TenantId>,
    },
    /// A tenant for which the planner finds no cell. As by [`Command::CreateTenant`] where one takes it by now; otherwise what
    /// the planner has said is kept in the audit trail, with the refusal.
    UnplacedTenant {
        /// Who; it names no cell.
        tenant: NewTenant,
        /// How many cells refuse it for what, and what would admit it; at most [`Suggestion::EXPLAINED_MAX`] bytes.
        explained: String,
    },
    /// A tenant has paid for something else. It stays where it is: where its cell is not for that tier, it is refused.
    SetTier {
        /// Who.
        tenant: TenantId,
        /// What it has paid for.
        tier: Tier,
    },
}

impl Command {
    /// How many routers a [`Command::RoutersSaw`] may name.
    pub const ROUTERS_TOLD_MAX: usize = 64;
    /// How many cells may say what they hold of one tenant.
    pub const HELD_MAX: usize = 64;
}

/// How a router stands to a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sight {
    /// Its table has it.
    Seen,
    /// Its lease has run out: it takes its table for stale by itself.
    Fenced,
    /// It has a lease, and has not said that it has it.
    Waiting,
}

impl Sight {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Fenced => "fenced",
            Self::Waiting => "waiting",
        }
    }
}

/// How many routers stood how to a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crowd {
    /// Routers that had seen it.
    pub seen: u32,
    /// Routers whose lease had run out.
    pub fenced: u32,
    /// Routers that had a lease and had not said that they had it.
    pub waiting: u32,
    /// SHA-256 of a line `name=sight` for each, sorted by name: whoever has kept the list can prove it.
    pub digest: [u8; 32],
}

impl Crowd {
    /// Counts them.
    #[must_use]
    pub fn of(routers: &[(String, Sight)]) -> Self {
        let count = |wanted| {
            let counted = routers.iter().filter(|(_, sight)| *sight == wanted).count();
            u32::try_from(counted).unwrap_or(u32::MAX)
        };
        let mut lines: Vec<String> =
            routers.iter().map(|(name, sight)| format!("{name}={}\n", sight.as_str())).collect();
        lines.sort_unstable();
        let digest = Sha256::digest(lines.concat()).into();
        Self { seen: count(Sight::Seen), fenced: count(Sight::Fenced), waiting: count(Sight::Waiting), digest }
    }
}

/// A command with what the proposer adds to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The layout of the version that has proposed it. What later ones do besides they do only for their own: a log is applied
    /// to the same by whichever version applies it.
    #[serde(deserialize_with = "since_5")]
    pub layout: u8,
    /// A retry with the same id runs once and gets the first answer.
    pub request_id: Option<RequestId>,
    /// What is asked for under that id: another request with the same id is refused. None: it is not compared.
    #[serde(deserialize_with = "since_5")]
    pub asked: Option<Asked>,
    /// When it was tried first, by the proposer's clock, where this is another try. It is refused where its answer might be
    /// forgotten.
    #[serde(deserialize_with = "since_5")]
    pub first_tried: Option<UnixMillis>,
    /// Refused unless the named tenant's or cell's record, or the limits, are still at this revision.
    pub expected_revision: Option<Revision>,
    /// The proposer's clock.
    pub at: UnixMillis,
    /// Who asks, as `operator/alice`: role and name of the certificate. Empty where nobody had to say.
    pub actor: String,
    /// The command.
    pub command: Command,
}

impl Envelope {
    /// A command with nothing but its time.
    #[must_use]
    pub const fn new(at: UnixMillis, command: Command) -> Self {
        Self {
            layout: LAYOUT,
            request_id: None,
            asked: None,
            first_tried: None,
            expected_revision: None,
            at,
            actor: String::new(),
            command,
        }
    }
}

/// One record of the replicated state put in place of another. The watch is made of these. The fleet and whoever watches
/// share the records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A tenant's record.
    Tenant(#[serde(with = "crate::shared")] Arc<TenantRecord>),
    /// A cell's record.
    Cell(#[serde(with = "crate::shared")] Arc<CellRecord>),
    /// A move that has ended.
    MoveEnded(#[serde(with = "crate::shared")] Arc<MoveRecord>),
    /// The limits of the fleet.
    Limits(Limits),
    /// Whether what the cells hold has been adopted since the last restore.
    Reconciled(bool),
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing: the state was already as wanted.
    Unchanged,
    /// A tenant's record was written. For [`Command::MoveTenant`] it names the move.
    Tenant {
        /// Which.
        tenant: TenantId,
        /// Its incarnation.
        uid: Uid,
        /// Its move, if it has one.
        move_id: Option<MoveId>,
    },
    /// A cell's record was written.
    Cell(CellId),
    /// The limits were written.
    Limits,
    /// What the cells hold counts as adopted.
    Reconciled,
}

/// The answer to one command: the revision at which it ran, and what it did or why it was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The store's revision after the command.
    pub revision: Revision,
    /// What it did, or why it was refused.
    pub result: Result<Outcome, Rejected>,
}
