//! How large a model is: what may go wrong, and how often.

use cell_model::Rule;

use crate::Mutant;

/// Rules of the store that are switched off: one, or some that stand behind each other.
pub type Off = [Option<Rule>; 4];

/// What may still happen. Counts go down as it happens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Writes of clients.
    pub writes: u8,
    /// Moves that operators ask for.
    pub moves: u8,
    /// Cancels.
    pub cancels: u8,
    /// Rollbacks.
    pub rollbacks: u8,
    /// Changes of the leader; the one before goes on as a zombie.
    pub elections: u8,
    /// Cells that are killed and start again.
    pub crashes: u8,
    /// Holds whose time is up.
    pub lapses: u8,
    /// Holds that the coordinator gives up, although they stand.
    pub misses: u8,
    /// Sync given up because the target is slow.
    pub degrades: u8,
    /// Copies that fail.
    pub failures: u8,
    /// Copies of which some row becomes another one.
    pub damages: u8,
    /// Cells that are cordoned.
    pub cordons: u8,
    /// Owners that stop, and are out of reach until they start again.
    pub stops: u8,
    /// Forced takeovers.
    pub takeovers: u8,
    /// Pauses.
    pub pauses: u8,
    /// Proposals that a rule would refuse, where it is switched off.
    pub rogues: u8,
    /// Routers that are cut off until their lease has run out.
    pub silences: u8,
    /// Routers that are killed and start again.
    pub restarts: u8,
}

/// One model to check.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// What may happen.
    pub budget: Budget,
    /// Steps under way at the same time that come late, or a second time, at any later moment; up to [`Bounds::SLOTS`].
    pub delayed: usize,
    /// Proposals under way at the same time that are applied late, at any later moment of the same term.
    pub late: usize,
    /// Holds that may be missed before the move is given up.
    pub retries: u8,
    /// Which cells have no gate, by their places.
    pub ungated: [bool; 2],
    /// Routers with a table and a lease of their own, where a cell has no gate. Those of cells with gates are no state: see [`crate::World`].
    pub routers: usize,
    /// Whether each state is also judged by a run without faults from it on: does the move end?
    pub ends: bool,
    /// What must be reachable, by name; see [`crate::model::REACHABLE`].
    pub reaches: &'static [&'static str],
    /// The guard that is missing.
    pub mutant: Option<Mutant>,
    /// Only builds with the feature `planted` switch rules off.
    pub off: Off,
}

impl Bounds {
    /// The most delayed steps, and the most late proposals.
    pub const SLOTS: usize = 2;
    /// States beyond this epoch are not visited. A rollback whose COMMIT is refused is tried again for as long as it is,
    /// and each time raises the epoch: while a restarted cell has not reported, without end.
    pub const EPOCH_MAX: u8 = 8;

    /// The same, without a guard.
    #[must_use]
    pub const fn without(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }
}
