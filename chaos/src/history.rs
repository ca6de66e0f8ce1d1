//! What clients did and what they were told.
//!
//! Every request of the load is one [`Op`]: who, on which tenant, what, when it was sent, when its answer came and what
//! the answer was. An outcome is one of three kinds, and the third is never turned into one of the others:
//!
//! * done – the answer says what happened;
//! * [`Outcome::Refused`] – the answer says that nothing happened;
//! * [`Outcome::Unknown`] – it may or may not have happened, now or later.

use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Micros;

/// One client, with one request under way at a time.
pub type SessionId = u32;

/// Names one deliberate request for ever, so that a second execution of it shows.
pub type Nonce = u64;

/// What a client asked for. Keys belong to one writing session each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write the key; versions of one key rise by one with each write or delete.
    Put {
        /// Which document.
        key: Arc<str>,
        /// Which write of it.
        version: u64,
    },
    /// Delete the key; takes a version like a write.
    Delete {
        /// Which document.
        key: Arc<str>,
        /// Which write of it.
        version: u64,
    },
    /// Read the key.
    Get {
        /// Which document.
        key: Arc<str>,
    },
    /// Make a document whose name the server chooses. Sent again under its idempotency key it has the same nonce.
    Post {
        /// Carried inside the document.
        nonce: Nonce,
    },
    /// Add one. Sent again under its idempotency key it has the same nonce.
    Increment {
        /// Which counter.
        counter: Arc<str>,
        /// Of this request.
        nonce: Nonce,
    },
}

impl Action {
    /// Whether it changes anything.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        !matches!(self, Self::Get { .. })
    }
}

/// A document as a client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The tenant that the document says it belongs to.
    pub tenant: Arc<str>,
    /// The key that the document says it has.
    pub key: Arc<str>,
    /// The version that it carries.
    pub version: u64,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The write or delete is done.
    Written,
    /// The read found this; `None`: there is no such document.
    Read(Option<Seen>),
    /// The document was made under this name.
    Created {
        /// The server's name for it.
        id: Arc<str>,
    },
    /// The counter stands here after the increment.
    Counted {
        /// Its value.
        value: u64,
    },
    /// Surely not done.
    Refused {
        /// The code of the answer.
        code: Arc<str>,
    },
    /// Done or not.
    Unknown {
        /// Why nobody knows.
        reason: Arc<str>,
    },
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// Who sent it.
    pub session: SessionId,
    /// To which tenant.
    pub tenant: Arc<str>,
    /// What was asked.
    pub action: Action,
    /// When it was sent.
    pub invoked: Micros,
    /// When the answer came, or the client gave up.
    pub returned: Micros,
    /// The answer.
    pub outcome: Outcome,
    /// The request counts as failed: a 5xx, a connection that broke, or no answer in time. A documented overload
    /// answer (429) has not failed.
    pub failed: bool,
}

impl Op {
    /// A write that the client was told is done.
    #[must_use]
    pub const fn is_acked_write(&self) -> bool {
        self.action.is_write() && self.is_done()
    }

    /// The client was told what happened.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        match self.outcome {
            Outcome::Written | Outcome::Read(_) | Outcome::Created { .. } | Outcome::Counted { .. } => true,
            Outcome::Refused { .. } | Outcome::Unknown { .. } => false,
        }
    }

    /// How long the client waited.
    #[must_use]
    pub const fn latency(&self) -> Micros {
        self.returned.saturating_sub(self.invoked)
    }
}

/// Where clients note what they did. Clones write to the same history.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    ops: Arc<Mutex<Vec<Op>>>,
}

impl Recorder {
    /// Notes one finished request.
    pub fn record(&self, op: Op) {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).push(op);
    }

    /// How many acknowledged writes and how many failed requests there are at or after index `from`, and the index
    /// after the last: for progress without copying the history.
    #[must_use]
    pub fn tally_from(&self, from: usize) -> Tally {
        let ops = self.ops.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = ops.get(from..).unwrap_or_default();
        Tally {
            acked_writes: recent.iter().filter(|op| op.is_acked_write()).count(),
            failed: recent.iter().filter(|op| op.failed).count(),
            next: ops.len(),
        }
    }

    /// Requests that were answered, or given up, at this time or later.
    #[must_use]
    pub fn returned_since(&self, since: Micros) -> Vec<Op> {
        let ops = self.ops.lock().unwrap_or_else(PoisonError::into_inner);
        // Noted when they return: the newest are last.
        ops.iter().rev().take_while(|op| op.returned >= since).cloned().collect()
    }

    /// A copy of everything so far.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Op> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// See [`Recorder::tally_from`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Acknowledged writes.
    pub acked_writes: usize,
    /// Failed requests.
    pub failed: usize,
    /// Where to count from next time.
    pub next: usize,
}
