//! Records as they are printed: plain text and numbers, the same for tables and for JSON.
//!
//! JSON has `apiVersion` and `kind`; fields are only ever added.

mod ahead;
mod audit;
mod cell;
mod difference;
mod quarantine;
mod router;
mod setback;
mod tier;
mod watched;

use cell_client::wire;
use cell_model::{Attempt, HeldFor, PhaseStamp, Revision, UnixMillis, holds};
use serde::Serialize;

pub use ahead::{EstimateView, FindingView, LimitsView, PreviewView};
pub use audit::AuditView;
pub(crate) use audit::hash_of;
pub use cell::{CapacityView, CellView};
pub use difference::{DifferenceView, DifferingRowView};
pub use quarantine::{QuarantineView, TakenView, TakeoverView};
pub use router::{RouterView, RoutersHeldView};
pub use setback::SetbackView;
pub use tier::TierChangeView;
pub use watched::WatchedView;

/// What every printed document says first.
pub const API_VERSION: &str = "cellway.dev/v1";

/// A record that can be printed.
pub trait View: Serialize {
    /// `Tenant`.
    const KIND: &'static str;
    /// Names of its columns.
    const COLUMNS: &'static [&'static str];
    /// One line of a table.
    fn row(&self) -> Vec<String>;
    /// `tenant/acme`.
    fn name(&self) -> String;
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantView {
    /// Its name.
    pub tenant: String,
    /// provisioning, live, deleting, deleted.
    pub life: String,
    /// ACTIVE, MIGRATING, CUTOVER, FINAL …
    pub state: String,
    /// Who owns it.
    pub cell: String,
    /// The other cell of a move.
    pub peer: Option<String>,
    /// Fencing token.
    pub epoch: u64,
    /// Incarnation.
    pub uid: u64,
    /// Version of the record.
    pub rev: u64,
    /// Revision of that version.
    pub revision: u64,
    /// What it has paid for.
    pub tier: String,
    /// Legal zone.
    pub residency: String,
    /// What waits: none, writes, all.
    pub hold: String,
    /// Its move.
    #[serde(rename = "move")]
    pub movement: Option<MoveView>,
    /// Copies left behind.
    pub retained: Vec<RetainedView>,
    /// Why it was placed where it was made; nothing where somebody named the cell.
    pub placed: Option<String>,
}

/// A copy that a move has left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetainedView {
    /// Where.
    pub cell: String,
    /// By which move.
    pub move_id: String,
    /// At which epoch that cell was fenced.
    pub fenced_epoch: u64,
    /// Kept until then.
    pub until_unix_ms: u64,
    /// Being deleted.
    pub reclaiming: bool,
    /// The cell was taken over by force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<QuarantineView>,
}

/// A move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MoveView {
    /// Its name.
    #[serde(rename = "move")]
    pub id: String,
    /// Whose.
    pub tenant: String,
    /// From where.
    pub source: String,
    /// To where.
    pub target: String,
    /// forward or back.
    pub leg: String,
    /// What is being done.
    pub phase: String,
    /// waiting, running, paused …; completed, cancelled, rolled-back, rehearsed, taken-over, aborted.
    pub status: String,
    /// Tries of the hold.
    pub attempt: u32,
    /// The tenant's epoch.
    pub epoch: u64,
    /// Pauses after this phase.
    pub until: Option<String>,
    /// The longest that writes may wait.
    pub hold_max_ms: u32,
    /// How long the new owner serves before the end.
    pub soak_ms: u32,
    /// How long the old copy is kept.
    pub retain_ms: u64,
    /// Missed holds that are left.
    pub retries_left: u32,
    /// Digest of the last verification.
    pub digest: Option<String>,
    /// Last write of the source.
    pub sealed_seq: Option<u64>,
    /// Why it was asked for.
    pub reason: Option<String>,
    /// The tier that the tenant gets with it, and the one that it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tiers: Option<TierChangeView>,
    /// Code of its end.
    pub end_code: Option<String>,
    /// Reason of its end.
    pub end_reason: Option<String>,
    /// When it ended.
    pub ended_unix_ms: Option<u64>,
    /// Everything up to the fence, and back.
    pub rehearse: bool,
    /// The most that the copy may read of the source in a second.
    pub bytes_per_second: Option<u64>,
    /// Rows that the tenant had in preflight.
    pub rows: Option<u64>,
    /// Bytes of them.
    pub bytes: Option<u64>,
    /// Requests that the old cell has turned away since, because they came under the older epoch.
    pub stale_rejected: Option<u64>,
    /// Transactions of writers that no gate has let in which holds have ended, where they may.
    pub ended_writers: Option<u32>,
    /// Cells of it that have no gate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ungated: Vec<String>,
    /// How the last hold of an owner without a gate found the routers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routers_held: Option<RoutersHeldView>,
    /// Every row of the copy was to be compared with its original, one by one.
    pub exact: bool,
    /// For how long writes and reads have waited, hold by hold.
    pub holds: Vec<HeldFor>,
    /// In Sync: the target has had everything, so that the owner can be taken over without a loss.
    pub in_sync: bool,
    /// What it has met last in its phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setback: Option<SetbackView>,
    /// What a forced takeover stood on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub takeover: Option<TakenView>,
    /// In what the copy was found to differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<DifferenceView>,
    /// Phases entered.
    pub history: Vec<StampView>,
}

/// A phase entered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StampView {
    /// Which.
    pub phase: String,
    /// In which attempt.
    pub attempt: u32,
    /// When.
    pub at_unix_ms: u64,
    /// At which revision.
    pub revision: u64,
}

impl MoveView {
    /// It has ended.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended_unix_ms.is_some()
    }
}

/// The word of an enumeration: `PHASE_CATCH_UP` → `catch-up`.
fn word<E: TryFrom<i32>>(prefix: &str, number: i32, name: impl Fn(E) -> &'static str) -> String {
    E::try_from(number).map_or_else(
        |_| format!("unknown({number})"),
        |known| name(known).trim_start_matches(prefix).to_lowercase().replace('_', "-"),
    )
}

/// The word of a phase.
#[must_use]
pub fn phase_word(phase: i32) -> String {
    word("PHASE_", phase, |phase: wire::Phase| phase.as_str_name())
}

fn some_text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

const fn some_number(number: u64) -> Option<u64> {
    if number == 0 { None } else { Some(number) }
}

impl From<wire::Tenant> for TenantView {
    fn from(tenant: wire::Tenant) -> Self {
        let mapping = tenant.mapping.unwrap_or_default();
        let tenant_name = mapping.tenant.clone();
        let retained = |copy: wire::Retained| RetainedView {
            quarantine: QuarantineView::of(&tenant_name, &copy),
            cell: copy.cell,
            move_id: copy.move_id,
            fenced_epoch: copy.fenced_epoch,
            until_unix_ms: copy.until_unix_ms,
            reclaiming: copy.reclaiming,
        };
        Self {
            life: tenant.life,
            state: word("MAPPING_STATE_", mapping.state, |state: wire::MappingState| state.as_str_name())
                .to_uppercase(),
            tier: word("TIER_", mapping.tier, |tier: wire::Tier| tier.as_str_name()),
            hold: word("HOLD_", mapping.hold, |hold: wire::Hold| hold.as_str_name()),
            tenant: mapping.tenant,
            cell: mapping.owner,
            peer: some_text(mapping.peer),
            epoch: mapping.epoch,
            uid: mapping.uid,
            rev: mapping.rev,
            revision: mapping.revision,
            residency: tenant.residency,
            movement: tenant.r#move.map(MoveView::from),
            retained: tenant.retained.into_iter().map(retained).collect(),
            placed: some_text(tenant.placed),
        }
    }
}

impl From<wire::Move> for MoveView {
    fn from(movement: wire::Move) -> Self {
        let stamp = |stamp: wire::PhaseStamp| StampView {
            phase: phase_word(stamp.phase),
            attempt: stamp.attempt,
            at_unix_ms: stamp.at_unix_ms,
            revision: stamp.revision,
        };
        let cells = [(movement.source_ungated, &movement.source), (movement.target_ungated, &movement.target)];
        let ungated = cells.into_iter().filter(|(ungated, _)| *ungated).map(|(_, cell)| cell.clone()).collect();
        Self {
            status: status_of(&movement),
            leg: word("LEG_", movement.leg, |leg: wire::Leg| leg.as_str_name()),
            phase: phase_word(movement.phase),
            until: (movement.until != 0).then(|| phase_word(movement.until)),
            id: movement.id,
            tenant: movement.tenant,
            source: movement.source,
            target: movement.target,
            attempt: movement.attempt,
            epoch: movement.epoch,
            hold_max_ms: movement.hold_max_ms,
            soak_ms: movement.soak_ms,
            retain_ms: movement.retain_ms,
            retries_left: movement.retries_left,
            digest: some_text(movement.digest),
            sealed_seq: some_number(movement.sealed_seq),
            reason: some_text(movement.reason),
            tiers: movement.tiers.map(TierChangeView::from),
            end_code: some_text(movement.end_code),
            end_reason: some_text(movement.end_reason),
            ended_unix_ms: some_number(movement.ended_unix_ms),
            rehearse: movement.rehearse,
            bytes_per_second: some_number(movement.bytes_per_second),
            rows: movement.weight.map(|weight| weight.rows),
            bytes: movement.weight.map(|weight| weight.bytes),
            stale_rejected: movement.stale_rejected,
            ended_writers: movement.terminate_writers.then_some(movement.ended_writers),
            ungated,
            routers_held: movement.routers_held.map(RoutersHeldView::from),
            exact: movement.exact,
            in_sync: movement.in_sync,
            setback: movement.setback.map(SetbackView::from),
            takeover: movement.takeover.map(TakenView::from),
            differences: movement.differences.into_iter().map(DifferenceView::from).collect(),
            holds: holds(&stamps_of(&movement.history)),
            history: movement.history.into_iter().map(stamp).collect(),
        }
    }
}

/// Stamps as the model has them; what this program does not know is left out.
fn stamps_of(history: &[wire::PhaseStamp]) -> Vec<PhaseStamp> {
    let known = |stamp: &wire::PhaseStamp| {
        let phase = wire::Phase::try_from(stamp.phase).ok()?.try_into().ok()?;
        let (at, revision) = (UnixMillis(stamp.at_unix_ms), Revision(stamp.revision));
        Some(PhaseStamp { phase, attempt: Attempt(stamp.attempt), at, revision })
    };
    history.iter().filter_map(known).collect()
}

/// One word for how a move stands.
fn status_of(movement: &wire::Move) -> String {
    if !movement.end.is_empty() {
        return movement.end.clone();
    }
    match wire::Intent::try_from(movement.intent) {
        Ok(wire::Intent::Pause) => "paused",
        Ok(wire::Intent::Cancel) => "cancelling",
        Ok(wire::Intent::Rollback) => "rolling-back",
        Ok(wire::Intent::Run | wire::Intent::Unspecified) | Err(_) if movement.admitted => "running",
        Ok(wire::Intent::Run | wire::Intent::Unspecified) | Err(_) => "waiting",
    }
    .to_owned()
}

impl View for TenantView {
    const KIND: &'static str = "Tenant";
    const COLUMNS: &'static [&'static str] = &["TENANT", "STATE", "CELL", "EPOCH", "TIER", "RESIDENCY", "MOVE"];

    fn row(&self) -> Vec<String> {
        let movement = self.movement.as_ref().map(|movement| {
            let other = if movement.target == self.cell { &movement.source } else { &movement.target };
            format!("{} {} ↔ {other}", movement.id, movement.phase)
        });
        vec![
            self.tenant.clone(),
            if self.life == "live" { self.state.clone() } else { self.life.to_uppercase() },
            self.cell.clone(),
            self.epoch.to_string(),
            self.tier.clone(),
            dash(&self.residency),
            movement.unwrap_or_else(|| "-".into()),
        ]
    }

    fn name(&self) -> String {
        format!("tenant/{}", self.tenant)
    }
}

impl View for MoveView {
    const KIND: &'static str = "Move";
    const COLUMNS: &'static [&'static str] =
        &["MOVE", "TENANT", "FROM", "TO", "STATUS", "PHASE", "ATTEMPT", "EPOCH"];

    fn row(&self) -> Vec<String> {
        let phase = if self.leg == "back" { format!("{} (back)", self.phase) } else { self.phase.clone() };
        vec![
            self.id.clone(),
            self.tenant.clone(),
            self.source.clone(),
            self.target.clone(),
            self.status.clone(),
            if self.has_ended() { "-".into() } else { phase },
            self.attempt.to_string(),
            self.epoch.to_string(),
        ]
    }

    fn name(&self) -> String {
        format!("move/{}", self.id)
    }
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.to_owned() }
}
