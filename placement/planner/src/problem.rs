//! What is wrong with a fleet, where, and what to do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The most problems that one error lists; a broken file would otherwise print itself back.
pub const PROBLEMS_MAX: usize = 50;

/// Stable name of a kind of problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ProblemCode {
    /// The text does not parse: not JSON, not CSV, cut short.
    FleetSyntax,
    /// There are no cells, so nothing can be decided.
    FleetEmpty,
    /// Larger than the planner takes.
    FleetTooLarge,
    /// An id is not a lower-case DNS label.
    IdInvalid,
    /// Two entries have the same id.
    IdDuplicate,
    /// A demand is negative, not a number, too large, or not one or 24 values.
    DemandInvalid,
    /// A capacity or reserve is negative, not a number or too large.
    CapacityInvalid,
    /// A tenant names a region in which no cell stands.
    RegionUnknown,
    /// A tenant names a residency that no cell has.
    ResidencyUnknown,
    /// A tenant names a cell that is not in the fleet.
    CellUnknown,
    /// Two constraints cannot both hold.
    ConstraintsContradict,
}

impl ProblemCode {
    /// The code as text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FleetSyntax => "FLEET_SYNTAX",
            Self::FleetEmpty => "FLEET_EMPTY",
            Self::FleetTooLarge => "FLEET_TOO_LARGE",
            Self::IdInvalid => "ID_INVALID",
            Self::IdDuplicate => "ID_DUPLICATE",
            Self::DemandInvalid => "DEMAND_INVALID",
            Self::CapacityInvalid => "CAPACITY_INVALID",
            Self::RegionUnknown => "REGION_UNKNOWN",
            Self::ResidencyUnknown => "RESIDENCY_UNKNOWN",
            Self::CellUnknown => "CELL_UNKNOWN",
            Self::ConstraintsContradict => "CONSTRAINTS_CONTRADICT",
        }
    }
}

/// Where in its source a thing was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The fleet as a whole.
    Fleet,
    /// Line and column of a text, both from 1; column 0 where it is not known.
    Text {
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// Entry of `cells`, from 0.
    Cell(usize),
    /// Entry of `tenants`, from 0.
    Tenant(usize),
    /// Line of the table of cells, from 1.
    CellLine(usize),
    /// Line of the table of tenants, from 1.
    TenantLine(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("fleet"),
            Self::Text { line, column: 0 } => write!(f, "line {line}"),
            Self::Text { line, column } => write!(f, "line {line}, column {column}"),
            Self::Cell(index) => write!(f, "cells[{index}]"),
            Self::Tenant(index) => write!(f, "tenants[{index}]"),
            Self::CellLine(line) => write!(f, "cells, line {line}"),
            Self::TenantLine(line) => write!(f, "tenants, line {line}"),
        }
    }
}

/// One thing wrong with a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable name of its kind.
    pub code: ProblemCode,
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub sentence: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}); {}", self.place, self.sentence, self.code.as_str(), self.remedy)
    }
}

/// Why a fleet was not taken: at least one problem, at most [`PROBLEMS_MAX`] of them listed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.summary())]
pub struct FleetError {
    /// What is wrong, in the order of the source.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub unlisted: usize,
}

impl FleetError {
    pub(crate) fn one(code: ProblemCode, place: Place, sentence: impl Into<String>, remedy: &str) -> Self {
        let problem = Problem { code, place, sentence: sentence.into(), remedy: remedy.into() };
        Self { problems: vec![problem], unlisted: 0 }
    }

    fn summary(&self) -> String {
        let mut lines: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        if self.unlisted > 0 {
            lines.push(format!("and {} more", self.unlisted));
        }
        lines.join("\n")
    }
}

/// Collects problems and counts those beyond the limit.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    listed: Vec<Problem>,
    unlisted: usize,
}

impl Problems {
    pub(crate) fn add(
        &mut self,
        code: ProblemCode,
        place: Place,
        sentence: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if self.listed.len() < PROBLEMS_MAX {
            self.listed.push(Problem { code, place, sentence: sentence.into(), remedy: remedy.into() });
        } else {
            self.unlisted += 1;
        }
    }

    pub(crate) fn or<T>(self, fleet: T) -> Result<T, FleetError> {
        if self.listed.is_empty() {
            Ok(fleet)
        } else {
            Err(FleetError { problems: self.listed, unlisted: self.unlisted })
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }
}
