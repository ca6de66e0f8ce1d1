//! Every guard that can be switched off, whichever model it is in.

use crate::configurations::that_catches;
use crate::{Mutant, Search, UidMutant, Verdict, check, check_incarnations};

/// One guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Of a move.
    OfMoves(Mutant),
    /// Between incarnations of a name.
    OfNames(UidMutant),
}

impl Guard {
    /// All.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_moves = Mutant::ALL.into_iter().map(Self::OfMoves);
        of_moves.chain(UidMutant::ALL.into_iter().map(Self::OfNames))
    }

    /// As its absence is named on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OfMoves(mutant) => mutant.name(),
            Self::OfNames(mutant) => mutant.name(),
        }
    }

    /// The configuration in which its absence must show.
    #[must_use]
    pub const fn configuration(self) -> &'static str {
        match self {
            Self::OfMoves(mutant) => that_catches(mutant).name,
            Self::OfNames(_) => "incarnations",
        }
    }

    /// Checks that configuration without the guard, to the shortest counterexample.
    #[must_use]
    pub fn check_without(self, threads: usize) -> Verdict {
        match self {
            Self::OfMoves(mutant) => check(that_catches(mutant), Search::Shortest, threads),
            Self::OfNames(mutant) => check_incarnations(Some(mutant), threads),
        }
    }
}
