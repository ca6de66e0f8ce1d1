//! What routers of cells without a gate go by: the mappings that they were shown, one after the other.
//!
//! A change that makes no difference to a router is none here: it says who owns, at which epoch, and what waits.

use cell_model::{Mapping, MappingState};

use super::Ledger;
use crate::Place;

impl Ledger {
    /// Whether a cell has no gate.
    #[must_use]
    pub const fn is_ungated(&self, place: Place) -> bool {
        self.cells[place.index()].traits.ungated
    }

    /// A mapping that routers were shown, counted from 0.
    #[must_use]
    pub fn shown(&self, change: u8) -> &Mapping {
        &self.shown[usize::from(change)]
    }

    /// The newest of them.
    ///
    /// # Panics
    /// Never: the bounds of a configuration keep numbers small.
    #[must_use]
    pub fn newest_shown(&self) -> u8 {
        let newest = self.shown.len().saturating_sub(1);
        u8::try_from(newest).expect("the bounds of a configuration keep numbers small")
    }

    /// Shows what has changed.
    pub(super) fn show(&mut self) {
        if !Place::ALL.into_iter().any(|place| self.is_ungated(place)) {
            return;
        }
        // The tenant lives; how far its move is makes no difference.
        let mapping = Mapping { state: MappingState::Active, peer: None, ..self.record.mapping() };
        if self.shown.last() != Some(&mapping) {
            self.shown.push(mapping);
        }
    }
}
