//! What the parts of a run share: the phase, the clock, the history and the trace. A simulation is one thread.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use cell_model::{Fleet, Revision};

use crate::history::History;
use crate::trace::Trace;

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The cluster is made; nothing breaks.
    Making,
    /// Safety: everything breaks.
    Faults,
    /// Liveness: nothing breaks any more, and everybody has to get through.
    Healed,
}

/// Shared by everybody in a run.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) phase: Cell<Phase>,
    pub(crate) history: RefCell<History>,
    pub(crate) trace: RefCell<Trace>,
    /// Clients that have got a write through after healing.
    pub(crate) clients_done: Cell<usize>,
    /// What each node held at the end; set by the judge.
    pub(crate) finals: RefCell<Vec<Fleet>>,
    /// Their revision: watchers end there.
    pub(crate) last: Cell<Option<Revision>>,
}

/// The stage as everybody holds it.
pub(crate) type SharedStage = Rc<Stage>;

impl Stage {
    pub(crate) fn new(watchers: usize) -> SharedStage {
        let history = History { operations: Vec::new(), sightings: vec![Vec::new(); watchers] };
        Rc::new(Self {
            phase: Cell::new(Phase::Making),
            history: RefCell::new(history),
            trace: RefCell::default(),
            clients_done: Cell::new(0),
            finals: RefCell::default(),
            last: Cell::new(None),
        })
    }

    /// Writes a line into the trace, from within a simulated host.
    pub(crate) fn note(&self, line: fmt::Arguments<'_>) {
        self.trace.borrow_mut().note(now(), line);
    }
}

/// Simulated time since the beginning, from within a simulated host.
pub(crate) fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}
