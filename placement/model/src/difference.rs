//! What a comparison of the two cells of a move has found: in which rows they differ. Keys are told, values never: those are the
//! tenant's.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::{Digest, Phase, Seq};

/// In which way a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Differing {
    /// The owner has it, the copy does not.
    Missing,
    /// The copy has it, the owner does not.
    Extra,
    /// Both have one with this key, and they are not the same.
    Changed,
}

impl Differing {
    /// As it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Changed => "changed",
        }
    }
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DifferingRow {
    /// The table that it is in.
    pub table: String,
    /// The values of its key, without the one that says whose it is; cut off where it is long.
    pub key: String,
    /// In which way.
    pub differing: Differing,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Difference {
    /// The phase in which it was found. In a hold it is known only that there is one.
    pub phase: Phase,
    /// The change at which both cells were read.
    pub seq: Seq,
    /// What the rows of the owner add up to there,
    pub owner: Digest,
    /// and those of the copy.
    pub copy: Digest,
    /// Rows that the copy lacks.
    pub missing: u64,
    /// Rows that only the copy has.
    pub extra: u64,
    /// Rows that both have, and not alike.
    pub changed: u64,
    /// There are more: so many differ that not all were looked for.
    pub more: bool,
    /// The first of them, at most [`Difference::ROWS_MAX`].
    pub rows: Vec<DifferingRow>,
}

impl Difference {
    /// How many rows are named.
    pub const ROWS_MAX: usize = 8;
    /// The longest name of a table, and the longest key, in bytes.
    pub const TEXT_MAX: usize = 120;

    /// One that was found by digests alone.
    #[must_use]
    pub const fn of_digests(phase: Phase, seq: Seq, owner: Digest, copy: Digest) -> Self {
        Self { phase, seq, owner, copy, missing: 0, extra: 0, changed: 0, more: false, rows: Vec::new() }
    }

    /// With no more rows, and no longer names, than are kept.
    #[must_use]
    pub fn cut(mut self) -> Self {
        self.rows.truncate(Self::ROWS_MAX);
        for row in &mut self.rows {
            cut(&mut row.table);
            cut(&mut row.key);
        }
        self
    }

    /// Whether it is as [`Difference::cut`] leaves it.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        let fits = |row: &DifferingRow| row.table.len() <= Self::TEXT_MAX && row.key.len() <= Self::TEXT_MAX;
        self.rows.len() <= Self::ROWS_MAX && self.rows.iter().all(fits)
    }

    /// How many rows differ, as far as they were looked for.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.missing.saturating_add(self.extra).saturating_add(self.changed)
    }

    /// `a=1 b=2`, as the audit trail has it: keys as one word.
    #[must_use]
    pub fn words(&self) -> String {
        let Self { phase, seq, owner, copy, missing, extra, changed, more, rows } = self;
        let mut words = format!(
            "differs-in={phase} differs-at={seq} owner-sum={owner} copy-sum={copy} missing={missing} extra={extra} \
             changed={changed} more={more} keys="
        );
        for (number, row) in rows.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let key: String = format!("{}{}", row.table, row.key).chars().map(no_blank).collect();
            // Writing to a string cannot fail.
            let _ = write!(words, "{comma}{key}:{}", row.differing.as_str());
        }
        words
    }
}

fn no_blank(letter: char) -> char {
    if letter.is_whitespace() || letter.is_control() { '_' } else { letter }
}

fn cut(text: &mut String) {
    if text.len() > Difference::TEXT_MAX {
        let end = (0..=Difference::TEXT_MAX - '…'.len_utf8()).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
}

impl fmt::Display for DifferingRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, key, differing } = self;
        write!(f, "{table}{key} {}", differing.as_str())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, owner, copy, missing, extra, changed, more, rows, .. } = self;
        write!(f, "at change {seq} the owner adds up to {owner}, the copy to {copy}")?;
        if self.count() == 0 {
            return Ok(());
        }
        let least = if *more { "at least " } else { "" };
        write!(f, "; {least}{missing} rows missing, {extra} extra, {changed} changed: ")?;
        for (number, row) in rows.iter().enumerate() {
            write!(f, "{}{row}", if number == 0 { "" } else { ", " })?;
        }
        let unnamed = self.count().saturating_sub(rows.len() as u64);
        if unnamed > 0 { write!(f, " and {unnamed} more") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str) -> DifferingRow {
        DifferingRow { table: "orders".into(), key: key.into(), differing: Differing::Missing }
    }

    fn difference(rows: Vec<DifferingRow>) -> Difference {
        let digest = Digest { rows: 3, sum: 1 };
        Difference {
            missing: rows.len() as u64,
            rows,
            ..Difference::of_digests(Phase::Verify, Seq(7), digest, Digest::default())
        }
    }

    #[test]
    fn so_many_rows_are_named_and_all_are_counted() {
        let many = difference((0..20).map(|number| row(&format!("({number})"))).collect());
        assert!(!many.is_cut());
        let cut = many.cut();
        assert!(cut.is_cut());
        assert_eq!((cut.rows.len(), cut.count()), (Difference::ROWS_MAX, 20));
        let told = cut.to_string();
        assert!(told.contains("20 rows missing, 0 extra, 0 changed: orders(0) missing, orders(1)"), "{told}");
        assert!(told.ends_with("orders(7) missing and 12 more"), "{told}");
    }

    #[test]
    fn a_long_key_is_cut_between_its_letters_and_is_one_word_of_the_trail() {
        let cut = difference(vec![row(&"ü ".repeat(200))]).cut();
        assert!(cut.is_cut() && cut.rows[0].key.ends_with('…'));
        let words = cut.words();
        assert!(words.split(' ').all(|word| word.contains('=')), "{words}");
    }

    #[test]
    fn one_that_was_found_by_digests_names_no_rows() {
        let digest = |rows| Digest { rows, sum: 1 };
        let told = Difference::of_digests(Phase::Hold, Seq(7), digest(3), digest(2)).to_string();
        assert!(told.starts_with("at change 7 the owner adds up to 3:") && !told.contains("missing"), "{told}");
    }
}
