//! A forced takeover and what it has left, as they are printed.

use cell_client::wire;
use serde::Serialize;

use super::{View, phase_word};

/// What a takeover would be, or is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TakeoverView {
    /// Whose.
    pub tenant: String,
    /// In which move.
    #[serde(rename = "move")]
    pub move_id: String,
    /// The cell that owns, or has owned.
    pub from: String,
    /// The other one.
    pub to: String,
    /// Where the move is.
    pub phase: String,
    /// Every acknowledged write is known to be there.
    pub lossless: bool,
    /// Up to where its copy goes.
    pub applied: u64,
    /// The owner's last change that it has heard of.
    pub heard: u64,
    /// The tenant's epoch.
    pub epoch: u64,
    /// How long the owner's agent has been silent, in milliseconds.
    pub silent_ms: Option<u64>,
    /// It is decided.
    pub decided: bool,
    /// At the owner writers come, or may, that no gate has let in.
    pub ungated: bool,
}

impl TakeoverView {
    /// Of an answer.
    #[must_use]
    pub fn new(tenant: String, told: wire::TakeOverResponse) -> Self {
        Self {
            tenant,
            move_id: told.move_id,
            from: told.from,
            to: told.target,
            phase: phase_word(told.phase),
            lossless: told.lossless,
            applied: told.applied_seq,
            heard: told.heard_seq,
            epoch: told.epoch,
            silent_ms: told.silent_ms,
            decided: told.decided,
            ungated: told.ungated,
        }
    }
}

impl View for TakeoverView {
    const KIND: &'static str = "Takeover";
    const COLUMNS: &'static [&'static str] =
        &["TENANT", "FROM", "TO", "PHASE", "LOSSLESS", "COPY UP TO", "HEARD OF", "EPOCH", "DECIDED"];

    fn row(&self) -> Vec<String> {
        let word = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        vec![
            self.tenant.clone(),
            self.from.clone(),
            self.to.clone(),
            self.phase.clone(),
            word(self.lossless),
            self.applied.to_string(),
            self.heard.to_string(),
            self.epoch.to_string(),
            word(self.decided),
        ]
    }

    fn name(&self) -> String {
        format!("tenant/{}", self.tenant)
    }
}

/// What a forced takeover stood on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenView {
    /// What the operator knew of the owner.
    pub stopped: String,
    /// The cell that owned.
    pub from: String,
    /// Where the move was.
    pub phase: String,
    /// Every acknowledged write is at the new owner.
    pub lossless: bool,
    /// Up to where its copy went.
    pub applied: u64,
    /// The owner's last change that it had heard of.
    pub heard: u64,
}

impl From<wire::Takeover> for TakenView {
    fn from(takeover: wire::Takeover) -> Self {
        Self {
            stopped: takeover.evidence,
            from: takeover.from,
            phase: phase_word(takeover.phase),
            lossless: takeover.lossless,
            applied: takeover.applied_seq,
            heard: takeover.heard_seq,
        }
    }
}

/// What a cell that was taken over has put aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuarantineView {
    /// Whose.
    pub tenant: String,
    /// Which cell.
    pub cell: String,
    /// In which move it was taken over.
    #[serde(rename = "move")]
    pub move_id: String,
    /// The new owner holds its changes up to here.
    pub after: u64,
    /// waiting for the cell, kept, empty, incomplete, dropped.
    pub state: String,
    /// How many changes it alone has, once it was reached.
    pub changes: Option<u64>,
    /// Of so many bytes.
    pub bytes: Option<u64>,
    /// Its last change.
    pub last: Option<u64>,
}

impl QuarantineView {
    /// Of a copy, where its cell was taken over.
    #[must_use]
    pub fn of(tenant: &str, copy: &wire::Retained) -> Option<Self> {
        let quarantine = copy.quarantine?;
        let state = match quarantine.tail {
            _ if quarantine.dropped => "dropped",
            None => "not reached",
            Some(tail) if !tail.whole => "incomplete",
            Some(tail) if tail.changes == 0 => "empty",
            Some(_) => "kept",
        };
        Some(Self {
            tenant: tenant.to_owned(),
            cell: copy.cell.clone(),
            move_id: copy.move_id.clone(),
            after: quarantine.after_seq,
            state: state.to_owned(),
            changes: quarantine.tail.map(|tail| tail.changes),
            bytes: quarantine.tail.map(|tail| tail.bytes),
            last: quarantine.tail.map(|tail| tail.last_seq),
        })
    }
}

impl View for QuarantineView {
    const KIND: &'static str = "Quarantine";
    const COLUMNS: &'static [&'static str] =
        &["TENANT", "CELL", "MOVE", "STATE", "BEHIND", "LAST", "CHANGES", "BYTES"];

    fn row(&self) -> Vec<String> {
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        vec![
            self.tenant.clone(),
            self.cell.clone(),
            self.move_id.clone(),
            self.state.clone(),
            self.after.to_string(),
            number(self.last),
            number(self.changes),
            number(self.bytes),
        ]
    }

    fn name(&self) -> String {
        format!("quarantine/{}/{}", self.tenant, self.cell)
    }
}
