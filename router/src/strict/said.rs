//! What the reader of a client's bytes and the service that answers its requests tell each other, on one connection.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;

use cell_gate::Interim;
use futures::task::AtomicWaker;

use super::rule::Rule;

/// What follows a request that asked for an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Next {
    /// Not known yet: nothing is read.
    Undecided = 0,
    /// Another request.
    Request = 1,
    /// The other protocol.
    Tunnel = 2,
}

/// Shared by both halves. Both run on one thread; atomics only because hyper wants what it upgrades to be `Send`.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Heads that were passed on, the refused one included.
    passed: AtomicU64,
    /// Requests that the service was called for.
    called: AtomicU64,
    next: AtomicU8,
    early: AtomicBool,
    /// The rule that ended the connection: of the head that was passed on last, or of the body that belongs to it.
    broken: Mutex<Option<(Part, Rule)>>,
    reader: AtomicWaker,
    pub(crate) interim: Interim,
}

/// Which part of a message broke a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Body,
}

impl Said {
    /// The reader has passed a head on.
    pub(super) fn head_passed(&self, framing_is_open: bool) {
        self.passed.fetch_add(1, Ordering::Relaxed);
        if framing_is_open {
            self.next.store(Next::Undecided as u8, Ordering::Release);
            self.early.store(false, Ordering::Relaxed);
        }
    }

    /// The reader passes a stand-in on in place of a head that it refuses.
    pub(super) fn head_refused(&self, rule: Rule) {
        self.passed.fetch_add(1, Ordering::Relaxed);
        self.set_broken(Part::Head, rule);
    }

    pub(super) fn body_refused(&self, rule: Rule) {
        self.set_broken(Part::Body, rule);
    }

    fn set_broken(&self, part: Part, rule: Rule) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some((part, rule));
    }

    fn broken(&self) -> Option<(Part, Rule)> {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service is called for the next request: the rule that its head breaks, where it is a stand-in.
    pub(crate) fn next_request(&self) -> Option<Rule> {
        let number = self.called.fetch_add(1, Ordering::Relaxed) + 1;
        let (part, rule) = self.broken()?;
        // Nothing is passed on after a stand-in, so it is the last.
        (part == Part::Head && number == self.passed.load(Ordering::Relaxed)).then_some(rule)
    }

    /// The rule that the body of the last request breaks.
    pub(crate) fn body_rule(&self) -> Option<Rule> {
        self.broken().filter(|(part, _)| *part == Part::Body).map(|(_, rule)| rule)
    }

    pub(super) fn early_bytes(&self) {
        self.early.store(true, Ordering::Relaxed);
    }

    /// Whether the client has sent something after its request for an upgrade, before the answer.
    pub(crate) fn has_early_bytes(&self) -> bool {
        self.early.load(Ordering::Relaxed)
    }

    /// The service knows what follows a request that asked for an upgrade.
    pub(crate) fn decide(&self, next: Next) {
        self.next.store(next as u8, Ordering::Release);
        self.reader.wake();
    }

    pub(super) fn next(&self, waker: &Waker) -> Next {
        self.reader.register(waker);
        match self.next.load(Ordering::Acquire) {
            1 => Next::Request,
            2 => Next::Tunnel,
            _ => Next::Undecided,
        }
    }
}
