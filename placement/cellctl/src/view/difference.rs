//! In what a copy was found to differ.

use std::fmt::Write as _;

use cell_client::wire;
use serde::Serialize;

use super::phase_word;

/// What a comparison of both cells has found. Every one before the hold was mended, but for a last one that ended the move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DifferenceView {
    /// The phase in which it was found; in a hold only digests are known.
    pub phase: String,
    /// The change at which both cells were read.
    pub seq: u64,
    /// What the owner's rows add up to there.
    pub owner: String,
    /// What the copy's do.
    pub copy: String,
    /// Rows that the copy lacks.
    pub missing: u64,
    /// Rows that only the copy has.
    pub extra: u64,
    /// Rows that are not alike.
    pub changed: u64,
    /// So many differ that not all were looked for.
    pub more: bool,
    /// The first of them.
    pub rows: Vec<DifferingRowView>,
}

/// A row that differs. Its values are not told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DifferingRowView {
    /// Which table.
    pub table: String,
    /// Its key, without what says whose it is.
    pub key: String,
    /// missing, extra, changed.
    pub differing: String,
}

impl DifferenceView {
    /// For people.
    #[must_use]
    pub fn told(&self) -> String {
        let Self { phase, seq, owner, copy, missing, extra, changed, .. } = self;
        let count = missing + extra + changed;
        let mut text = format!("{phase} at change {seq}: ");
        if count == 0 {
            text.push_str(&format!("owner {owner}, copy {copy}"));
            return text;
        }
        let least = if self.more { "at least " } else { "" };
        text.push_str(&format!("{least}{missing} rows missing, {extra} extra, {changed} changed"));
        for (number, row) in self.rows.iter().enumerate() {
            let comma = if number == 0 { ": " } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(text, "{comma}{}{} {}", row.table, row.key, row.differing);
        }
        let unnamed = count.saturating_sub(self.rows.len() as u64);
        if unnamed > 0 {
            let _ = write!(text, " and {unnamed} more");
        }
        text
    }
}

impl From<wire::Difference> for DifferenceView {
    fn from(found: wire::Difference) -> Self {
        let row =
            |row: wire::DifferingRow| DifferingRowView { table: row.table, key: row.key, differing: row.differing };
        Self {
            phase: phase_word(found.phase),
            seq: found.seq,
            owner: found.owner,
            copy: found.copy,
            missing: found.missing,
            extra: found.extra,
            changed: found.changed,
            more: found.more,
            rows: found.rows.into_iter().map(row).collect(),
        }
    }
}
