//! What becomes of ledgers, worked out once.
//!
//! Millions of states share some thousands of ledgers. On a [`Desk`] a ledger that was seen before is the same object
//! again, and it remembers what each note has made of it and which effects are pending: the production functions are called
//! once for each, and not once for each state.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use cell_model::invariants::Violation;
use cell_model::{Effect, Rejected};

use crate::ledger::Slip;
use crate::{Ledger, Mutant, Note, Off};

/// What a ledger becomes by a note, with the promises that are broken by it; or why it stays.
pub type Told = Result<(Arc<Ledger>, Vec<Violation>), Rejected>;

/// More ledgers are not kept: random walks through large bounds would never end meeting new ones.
const LEDGERS_MAX: usize = 200_000;

/// The ledgers of one check.
#[derive(Debug, Default)]
pub struct Desk {
    known: Mutex<HashMap<u64, Arc<Ledger>>>,
    /// Rules that are switched off in this check.
    pub(crate) off: Off,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// Without these rules.
    pub(crate) fn without(off: Off) -> Self {
        Self { known: Mutex::default(), off }
    }

    /// The same ledger, if there was one; else this one, from now on.
    pub(crate) fn shared(&self, ledger: Ledger) -> Arc<Ledger> {
        let mut known = locked(&self.known);
        match known.get(&ledger.fingerprint()) {
            Some(same) if **same == ledger => return Arc::clone(same),
            Some(_) => return Arc::new(ledger),
            None => {}
        }
        let ledger = Arc::new(ledger);
        if known.len() < LEDGERS_MAX {
            known.insert(ledger.fingerprint(), Arc::clone(&ledger));
        }
        ledger
    }
}

/// Ledgers remember each other, in circles too.
impl Drop for Desk {
    fn drop(&mut self) {
        locked(&self.known).values().for_each(|ledger| ledger.memory().forget());
    }
}

/// What is told, and the guard that is missing meanwhile.
type Asked = (Note, Option<Mutant>);

/// What a ledger remembers. A copy, which is about to become another ledger, remembers nothing but the desk.
#[derive(Default)]
pub(crate) struct Memory {
    desk: Weak<Desk>,
    told: Mutex<HashMap<Asked, Arc<Told>>>,
    effects: OnceLock<Vec<Effect>>,
    slips: Mutex<Option<Arc<[Slip]>>>,
}

impl Memory {
    pub(crate) fn of(desk: &Arc<Desk>) -> Self {
        Self { desk: Arc::downgrade(desk), ..Self::default() }
    }

    pub(crate) fn desk(&self) -> Option<Arc<Desk>> {
        self.desk.upgrade()
    }

    pub(crate) fn told(&self, note: &Note, mutant: Option<Mutant>, work_out: impl FnOnce() -> Told) -> Arc<Told> {
        let known = locked(&self.told).get(&(*note, mutant)).map(Arc::clone);
        known.unwrap_or_else(|| {
            let told = Arc::new(work_out());
            // What is told holds the ledger that comes of it, and that one what it is told: once the desk is full, nothing
            // more is kept.
            if self.desk().is_some_and(|desk| locked(&desk.known).len() < LEDGERS_MAX) {
                locked(&self.told).insert((*note, mutant), Arc::clone(&told));
            }
            told
        })
    }

    pub(crate) fn effects(&self, work_out: impl FnOnce() -> Vec<Effect>) -> &[Effect] {
        self.effects.get_or_init(work_out)
    }

    /// What slips through where a rule is switched off.
    pub(crate) fn slips(&self, work_out: impl FnOnce() -> Arc<[Slip]>) -> Arc<[Slip]> {
        let known = locked(&self.slips).clone();
        known.unwrap_or_else(|| {
            let slips = work_out();
            *locked(&self.slips) = Some(Arc::clone(&slips));
            slips
        })
    }

    fn forget(&self) {
        locked(&self.told).clear();
        *locked(&self.slips) = None;
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self { desk: Weak::clone(&self.desk), ..Self::default() }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} notes)", locked(&self.told).len())
    }
}
