//! Why a command was refused: a stable code, a sentence, and what to do next.

mod of_cells;

use serde::{Deserialize, Serialize};

use crate::layout::since_5;
use crate::{
    Attempt, CellId, CellKind, Generation, Lineage, MoveId, Phase, RequestId, Revision, Seq, TenantId, Tier, Uid,
    UnixMillis,
};

/// A refusal. It changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the sentence of each variant is in `Display`, the remedy in `hint`")]
pub enum Rejected {
    TenantUnknown {
        tenant: TenantId,
    },
    TenantExists {
        tenant: TenantId,
    },
    TenantNotLive {
        tenant: TenantId,
    },
    CellUnknown {
        cell: CellId,
    },
    CellExists {
        cell: CellId,
    },
    CellCordoned {
        cell: CellId,
    },
    CellDead {
        cell: CellId,
    },
    NoEligibleCell {
        residency: String,
        #[serde(deserialize_with = "since_5")]
        tier: Tier,
        #[serde(deserialize_with = "since_5")]
        refused: Vec<(String, u32)>,
    },
    ResidencyViolated {
        tenant: TenantId,
        residency: String,
        cell: CellId,
        cell_residency: String,
    },
    SameCell {
        tenant: TenantId,
        cell: CellId,
    },
    MoveUnknown {
        move_id: MoveId,
    },
    MoveRunning {
        tenant: TenantId,
        move_id: MoveId,
    },
    MoveCommitted {
        move_id: MoveId,
    },
    MoveNotCommitted {
        move_id: MoveId,
    },
    MoveEnding {
        move_id: MoveId,
    },
    MoveLimit {
        limit: u32,
    },
    NoSlot {
        cell: Option<CellId>,
        limit: u32,
    },
    CopyRetained {
        tenant: TenantId,
        cell: CellId,
    },
    NothingHeld {
        tenant: TenantId,
        reason: String,
    },
    WouldLoseData {
        tenant: TenantId,
        applied: Seq,
        heard: Seq,
    },
    TailQuarantined {
        tenant: TenantId,
        cell: CellId,
    },
    NotQuarantined {
        tenant: TenantId,
        cell: CellId,
    },
    NotReached {
        tenant: TenantId,
        cell: CellId,
    },
    InvalidOption {
        option: String,
        rule: String,
    },
    StaleRevision {
        expected: Revision,
        actual: Revision,
    },
    StaleUid {
        expected: Uid,
        actual: Uid,
    },
    StaleMove {
        expected: MoveId,
    },
    StaleAttempt {
        expected: Attempt,
        actual: Attempt,
    },
    StaleGeneration {
        cell: CellId,
        expected: Generation,
        actual: Generation,
    },
    WrongPhase {
        event: String,
        phase: Option<Phase>,
    },
    NotDue {
        event: String,
    },
    MissingAck {
        ack: String,
    },
    AckMismatch {
        ack: String,
        detail: String,
    },
    NotReconciled {
        lineage: Lineage,
    },
    GrantsContradict {
        tenant: TenantId,
        reason: String,
    },
    CellNotHeard {
        cell: CellId,
    },
    RequestIdReused {
        id: RequestId,
    },
    RequestTooOld {
        id: RequestId,
        forgotten: UnixMillis,
    },
    CellInUse {
        cell: CellId,
        tenants: u64,
        what: String,
    },
    CellOccupied {
        tenant: TenantId,
        cell: CellId,
    },
    TierMismatch {
        tenant: TenantId,
        tier: Tier,
        cell: CellId,
        kind: CellKind,
    },
    TierNeedsMove {
        tenant: TenantId,
        tier: Tier,
        cell: CellId,
        kind: CellKind,
    },
}

/// What is left to do for whoever throttles a copy that is complete.
const COMPLETE: &str = "nothing: a copy that is complete reads no more of its source than is written there";

fn tell_of_phase(f: &mut std::fmt::Formatter<'_>, event: &str, phase: Option<Phase>) -> std::fmt::Result {
    match phase {
        Some(phase) if event == Rejected::THROTTLE => {
            write!(f, "the copy is complete: the move is in phase {phase}, where nothing goes slower or faster")
        }
        Some(phase) => write!(f, "{event} has no place in phase {phase}"),
        None => write!(f, "{event} has no place outside a move"),
    }
}

impl Rejected {
    /// What an operator asks for, and not the coordinator tells.
    pub(crate) const THROTTLE: &str = "Throttle";

    /// Stable code, with a row in `docs/errors`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TenantUnknown { .. } => "TENANT_UNKNOWN",
            Self::TenantExists { .. } => "TENANT_EXISTS",
            Self::TenantNotLive { .. } => "TENANT_NOT_LIVE",
            Self::CellUnknown { .. } => "CELL_UNKNOWN",
            Self::CellExists { .. } => "CELL_EXISTS",
            Self::CellCordoned { .. } => "CELL_CORDONED",
            Self::CellDead { .. } => "CELL_DEAD",
            Self::CellInUse { .. } => "CELL_IN_USE",
            Self::CellOccupied { .. } => "CELL_OCCUPIED",
            Self::NoEligibleCell { .. } => "NO_ELIGIBLE_CELL",
            Self::TierMismatch { .. } => "TIER_MISMATCH",
            Self::TierNeedsMove { .. } => "TIER_NEEDS_MOVE",
            Self::ResidencyViolated { .. } => "RESIDENCY_VIOLATED",
            Self::SameCell { .. } => "SAME_CELL",
            Self::MoveUnknown { .. } => "MOVE_UNKNOWN",
            Self::MoveRunning { .. } => "MOVE_RUNNING",
            Self::MoveCommitted { .. } => "MOVE_COMMITTED",
            Self::MoveNotCommitted { .. } => "MOVE_NOT_COMMITTED",
            Self::MoveEnding { .. } => "MOVE_ENDING",
            Self::MoveLimit { .. } => "MOVE_LIMIT",
            Self::NoSlot { .. } => "NO_SLOT",
            Self::CopyRetained { .. } => "COPY_RETAINED",
            Self::NothingHeld { .. } => "NOTHING_HELD",
            Self::WouldLoseData { .. } => "WOULD_LOSE_DATA",
            Self::TailQuarantined { .. } => "TAIL_QUARANTINED",
            Self::NotQuarantined { .. } => "NOT_QUARANTINED",
            Self::NotReached { .. } => "NOT_REACHED",
            Self::InvalidOption { .. } => "INVALID_OPTION",
            Self::StaleRevision { .. } => "STALE_REVISION",
            Self::StaleUid { .. } => "STALE_UID",
            Self::StaleMove { .. } => "STALE_MOVE",
            Self::StaleAttempt { .. } => "STALE_ATTEMPT",
            Self::StaleGeneration { .. } => "STALE_GENERATION",
            Self::WrongPhase { .. } => "WRONG_PHASE",
            Self::NotDue { .. } => "NOT_DUE",
            Self::MissingAck { .. } => "MISSING_ACK",
            Self::AckMismatch { .. } => "ACK_MISMATCH",
            Self::NotReconciled { .. } => "NOT_RECONCILED",
            Self::GrantsContradict { .. } => "GRANTS_CONTRADICT",
            Self::CellNotHeard { .. } => "CELL_NOT_HEARD",
            Self::RequestIdReused { .. } => "REQUEST_ID_REUSED",
            Self::RequestTooOld { .. } => "REQUEST_TOO_OLD",
        }
    }

    fn hint_of_takeover(&self) -> String {
        match self {
            Self::NothingHeld { tenant, .. } => format!(
                "start the owner again; where it is lost for good, `cellctl delete tenant {tenant}` and restore a backup of \
                 your own into a new one"
            ),
            Self::WouldLoseData { .. } => {
                "start the owner again; or, where it is lost for good, --accept-data-loss: \
                 what is missing is kept apart if the cell ever comes back"
                    .into()
            }
            Self::TailQuarantined { tenant, cell } => {
                format!(
                    "`cellctl quarantine export {tenant} --cell {cell}` writes it out, `cellctl quarantine drop {tenant} \
                     --cell {cell}` lets go of it"
                )
            }
            Self::NotQuarantined { .. } => "`cellctl quarantine list` lists what there is".into(),
            Self::NotReached { cell, .. } => {
                format!("it is asked every second; where it is lost for good, `cellctl cell dead {cell}` first")
            }
            _ => String::new(),
        }
    }

    /// What the caller may do next.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::TenantUnknown { .. } => "`cellctl get tenants` lists what there is".into(),
            Self::TenantExists { tenant } => format!("`cellctl describe tenant {tenant}` shows it"),
            Self::TenantNotLive { tenant } => format!("wait until `cellctl describe tenant {tenant}` says live"),
            Self::CellUnknown { cell } => {
                format!(
                    "`cellctl get cells` lists what there is; `cellctl create cell {cell} --agent HOST:PORT` makes it"
                )
            }
            Self::CellExists { cell } => format!("`cellctl describe cell {cell}` shows it"),
            Self::CellCordoned { cell } => {
                format!("choose another cell, or `cellctl uncordon cell {cell}` to let it take tenants again")
            }
            Self::CellDead { cell } => {
                format!("choose another cell; `cellctl uncordon cell {cell}` where it is alive after all")
            }
            Self::CellInUse { .. }
            | Self::CellOccupied { .. }
            | Self::NoEligibleCell { .. }
            | Self::TierNeedsMove { .. }
            | Self::TierMismatch { .. } => self.hint_of_kind(),
            Self::ResidencyViolated { residency, .. } => {
                format!("choose a cell whose residency is {residency:?}: `cellctl get cells`")
            }
            Self::SameCell { tenant, .. } => {
                format!("nothing to do; `cellctl describe tenant {tenant}` shows where it is")
            }
            Self::MoveUnknown { .. } => "`cellctl get moves --all` lists running and ended moves".into(),
            Self::MoveRunning { move_id, .. } => {
                format!("`cellctl describe move {move_id}` shows it; `cellctl move cancel {move_id}` ends it")
            }
            Self::MoveCommitted { move_id } => {
                format!(
                    "the tenant has already moved: `cellctl move rollback {move_id}` brings it back during soak"
                )
            }
            Self::MoveNotCommitted { move_id } => {
                format!("it has not cut over yet: `cellctl move cancel {move_id}` is free")
            }
            Self::MoveEnding { move_id } => format!("`cellctl describe move {move_id}` shows how it ends"),
            Self::MoveLimit { .. } => "wait until moves have ended: `cellctl get moves`".into(),
            Self::NoSlot { .. } => "it waits for a slot by itself".into(),
            Self::CopyRetained { tenant, .. } => {
                format!("the old copy is being reclaimed; `cellctl describe tenant {tenant}` shows when it is gone")
            }
            Self::NothingHeld { .. }
            | Self::WouldLoseData { .. }
            | Self::TailQuarantined { .. }
            | Self::NotQuarantined { .. }
            | Self::NotReached { .. } => self.hint_of_takeover(),
            Self::InvalidOption { .. } => "correct the option and run the command again".into(),
            Self::StaleRevision { .. } => "read the record again and decide anew".into(),
            Self::WrongPhase { event, .. } if event == Self::THROTTLE => COMPLETE.into(),
            Self::StaleUid { .. }
            | Self::StaleMove { .. }
            | Self::StaleAttempt { .. }
            | Self::StaleGeneration { .. }
            | Self::WrongPhase { .. }
            | Self::NotDue { .. }
            | Self::MissingAck { .. }
            | Self::AckMismatch { .. } => "the coordinator looks again by itself".into(),
            Self::NotReconciled { .. } => {
                "`cellctl store reconcile` shows what the cells hold; with --yes it adopts it".into()
            }
            Self::GrantsContradict { .. } => {
                "look at both cells; `cellctl store reconcile --without CELL` goes without the one that is wrong"
                    .into()
            }
            Self::CellNotHeard { cell } => {
                format!("start the cell, or go without it: `cellctl store reconcile --without {cell}`")
            }
            Self::RequestIdReused { .. } => {
                "repeat the very command that the id was given to, or leave --request-id out: each command gets an id of its own"
                    .into()
            }
            Self::RequestTooOld { .. } => {
                "look whether it ran (`cellctl audit show`, or read the record); if not, run it without --request-id".into()
            }
        }
    }
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TenantUnknown { tenant } => write!(f, "there is no tenant {tenant}"),
            Self::TenantExists { tenant } => write!(f, "there is a tenant {tenant} already"),
            Self::TenantNotLive { tenant } => write!(f, "tenant {tenant} is being made or deleted"),
            Self::CellUnknown { cell } => write!(f, "there is no cell {cell}"),
            Self::CellExists { cell } => write!(f, "there is a cell {cell} already"),
            Self::CellCordoned { cell } => write!(f, "cell {cell} is cordoned and takes no tenants"),
            Self::CellDead { cell } => write!(f, "cell {cell} is dead"),
            Self::CellInUse { .. }
            | Self::CellOccupied { .. }
            | Self::NoEligibleCell { .. }
            | Self::TierNeedsMove { .. }
            | Self::TierMismatch { .. } => self.tell_of_kind(f),
            Self::ResidencyViolated { tenant, residency, cell, cell_residency } => {
                write!(f, "tenant {tenant} may not leave {residency:?}, and cell {cell} is in {cell_residency:?}")
            }
            Self::SameCell { tenant, cell } => write!(f, "tenant {tenant} is on cell {cell} already"),
            Self::MoveUnknown { move_id } => write!(f, "there is no move {move_id} under way"),
            Self::MoveRunning { tenant, move_id } => write!(f, "tenant {tenant} is being moved by {move_id}"),
            Self::MoveCommitted { move_id } => write!(f, "move {move_id} has cut over and cannot be cancelled"),
            Self::MoveNotCommitted { move_id } => {
                write!(f, "move {move_id} has not cut over, nothing to roll back")
            }
            Self::MoveEnding { move_id } => write!(f, "move {move_id} is ending already"),
            Self::MoveLimit { limit } => write!(f, "{limit} moves are waiting or running, which is the limit"),
            Self::NoSlot { cell: Some(cell), limit } => {
                write!(f, "{limit} moves run at cell {cell}, which is the limit")
            }
            Self::NoSlot { cell: None, limit } => write!(f, "{limit} moves run, which is the limit"),
            Self::CopyRetained { tenant, cell } => {
                write!(f, "cell {cell} still has a copy of {tenant} from an earlier move")
            }
            Self::NothingHeld { tenant, reason } => write!(f, "nobody can take tenant {tenant} over: {reason}"),
            Self::WouldLoseData { tenant, applied, heard } => write!(
                f,
                "acknowledged writes of {tenant} may be missing: the copy goes up to change {applied}, the last one that it \
                 has heard of is {heard}, and there may be later ones"
            ),
            Self::TailQuarantined { tenant, cell } => {
                write!(f, "cell {cell} was taken over and has changes of {tenant} that nobody else has")
            }
            Self::NotQuarantined { tenant, cell } => write!(f, "cell {cell} keeps nothing of {tenant} apart"),
            Self::NotReached { tenant, cell } => {
                write!(
                    f,
                    "cell {cell} was not reached since {tenant} was taken over: it may have changes of its own"
                )
            }
            Self::InvalidOption { option, rule } => write!(f, "{option}: {rule}"),
            Self::StaleRevision { expected, actual } => {
                write!(f, "the record is at revision {actual}, not at {expected}")
            }
            Self::StaleUid { expected, actual } => write!(f, "the tenant's uid is {actual}, not {expected}"),
            Self::StaleMove { expected } => write!(f, "{expected} is not the move under way"),
            Self::StaleAttempt { expected, actual } => write!(f, "attempt {actual} is running, not {expected}"),
            Self::StaleGeneration { cell, expected, actual } => {
                write!(f, "the agent of {cell} is at generation {actual}, not {expected}")
            }
            Self::WrongPhase { event, phase } => tell_of_phase(f, event, *phase),
            Self::NotDue { event } => write!(f, "{event} is not due"),
            Self::MissingAck { ack } => write!(f, "the acknowledgement {ack} is missing"),
            Self::AckMismatch { ack, detail } => write!(f, "the acknowledgement {ack} does not fit: {detail}"),
            Self::NotReconciled { lineage } => write!(
                f,
                "the control plane was restored from a backup (lineage {lineage}), and what the cells hold is not yet \
                 adopted"
            ),
            Self::GrantsContradict { tenant, reason } => write!(f, "tenant {tenant}: {reason}"),
            Self::CellNotHeard { cell } => write!(f, "cell {cell} has not said what it holds"),
            Self::RequestIdReused { id } => {
                write!(f, "request id {id} was given to another command, or by somebody else: this one has not run")
            }
            Self::RequestTooOld { id, forgotten } => write!(
                f,
                "request {id} may have run: it was first tried before answers that are forgotten by now (up to {forgotten} ms \
                 since 1970), and is not run again"
            ),
        }
    }
}

impl std::error::Error for Rejected {}
