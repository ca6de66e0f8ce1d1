//! Answers that keep their room in a cell, and lose it while only their client is awaited: what a client does not read
//! is no work of the cell's, and must not keep others out of it.
//!
//! One look after the other over those of a thread, and none while there are none.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::fair::scheduler::Permit;

/// For how long a client may stand still before its request loses its room.
pub(crate) const STALL: Duration = Duration::from_millis(100);

/// Room in a cell that an answer keeps, and since when the client is the one who is awaited.
pub(crate) struct Kept {
    permit: RefCell<Permit>,
    client_since: Cell<Option<Instant>>,
}

impl Kept {
    /// The next piece is asked for.
    pub(crate) fn awaits_cell(&self) {
        self.client_since.set(None);
    }

    /// A piece was handed over.
    pub(crate) fn awaits_client(&self) {
        self.client_since.set(Some(Instant::now()));
    }

    /// Gives the room back where the client has stood still. Whether it is still to be looked at.
    fn look(&self) -> bool {
        let mut permit = self.permit.borrow_mut();
        if self.client_since.get().is_some_and(|since| since.elapsed() >= STALL) {
            permit.step_out();
        }
        !permit.is_outside()
    }
}

/// The answers of one thread that keep their room.
#[derive(Default)]
pub(crate) struct Rooms {
    kept: RefCell<Vec<Weak<Kept>>>,
    looks: Cell<bool>,
}

impl Rooms {
    pub(crate) fn new() -> Rc<Self> {
        Rc::default()
    }

    /// The room of an answer whose head is here, and of which nobody has asked for a piece yet.
    pub(crate) fn keep(self: &Rc<Self>, permit: Permit) -> Rc<Kept> {
        let kept = Rc::new(Kept { permit: RefCell::new(permit), client_since: Cell::new(Some(Instant::now())) });
        self.kept.borrow_mut().push(Rc::downgrade(&kept));
        if !self.looks.replace(true) {
            tokio::task::spawn_local(Rc::clone(self).look());
        }
        kept
    }

    async fn look(self: Rc<Self>) {
        while self.looks.get() {
            tokio::time::sleep(STALL).await;
            let mut kept = self.kept.borrow_mut();
            kept.retain(|answer| answer.upgrade().is_some_and(|answer| answer.look()));
            self.looks.set(!kept.is_empty());
        }
    }
}
