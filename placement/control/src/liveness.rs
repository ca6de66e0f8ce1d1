//! When each cell was last heard of. Kept by whichever node the agents report to, which is the leader; never replicated.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cell_model::CellId;
use tokio::time::Instant;

/// Cheap to clone; clones share what was heard.
#[derive(Debug, Clone, Default)]
pub struct Liveness {
    heard: Arc<Mutex<HashMap<CellId, Instant>>>,
}

impl Liveness {
    /// A cell that is silent for longer is taken for unreachable.
    pub const SILENCE_MAX: Duration = Duration::from_secs(5);

    /// The agent of a cell has reported. Only for cells that the store knows, so that their number bounds the map.
    pub fn heard(&self, cell: &CellId) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(cell.clone(), Instant::now());
    }

    /// For how long a cell has been silent; none where it was never heard here.
    #[must_use]
    pub fn silence(&self, cell: &CellId) -> Option<Duration> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).get(cell).map(Instant::elapsed)
    }

    /// Whether a node that has been listening for `listening` should have heard of a cell and has not.
    #[must_use]
    pub fn is_unreachable(&self, cell: &CellId, listening: Duration) -> bool {
        listening > Self::SILENCE_MAX && self.silence(cell).is_none_or(|silence| silence > Self::SILENCE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_leader_takes_nobody_for_unreachable() {
        let (liveness, cell) = (Liveness::default(), CellId::new("c1").unwrap());
        assert!(!liveness.is_unreachable(&cell, Duration::from_secs(1)));
        assert!(liveness.is_unreachable(&cell, Duration::from_secs(6)));
        liveness.heard(&cell);
        assert!(!liveness.is_unreachable(&cell, Duration::from_secs(6)));
    }
}
