//! Cells without a gate: nobody stands before their application, so routers hold back what gates would.
//!
//! What is written there is fenced in the cell's database, whoever writes it. What that does not do is let requests wait
//! instead of fail, and keep reads from an owner that is none any more. Routers do, and a hold waits for them:
//!
//! ```text
//! Hold is committed ─► each router sees it, and lets its writes finish ─► RoutersHeld ─► Sealed ─► … ─► COMMIT ─► Activated
//!                      or its lease runs out: it sends no writes then      └── nothing goes to the old owner ──┘  and only now
//!                                                                                                                 to the new one
//! ```

use serde::{Deserialize, Serialize};

use crate::{Attempt, Leg, Move};

/// No router has a write of the tenant on its way to its cell, nor will send one, before it has seen the hold's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RoutersAck {
    /// The hold that it belongs to.
    pub attempt: Attempt,
    /// Routers that have seen the hold and have let their writes finish.
    pub seen: u32,
    /// Routers that were silent until their lease had run out: they send no writes by themselves.
    pub fenced: u32,
}

/// Which of a move's cells have no gate, as it was when the move was asked for; it stays so until that ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ungated {
    /// The source.
    pub source: bool,
    /// The target.
    pub target: bool,
}

impl Move {
    /// The cell that is to be left, on this leg, has no gate.
    #[must_use]
    pub const fn leaves_ungated(&self) -> bool {
        match self.leg {
            Leg::Forward => self.ungated.source,
            Leg::Back => self.ungated.target,
        }
    }

    /// The cell that is to own, on this leg, has no gate.
    #[must_use]
    pub const fn enters_ungated(&self) -> bool {
        match self.leg {
            Leg::Forward => self.ungated.target,
            Leg::Back => self.ungated.source,
        }
    }
}
