//! Answers to requests with an id, so that a retry runs once.
//!
//! ```text
//! forgotten … │ the oldest … the newest │ what is asked now
//!             └ `FleetHead::forgotten`: a try that may be as old as that is refused rather than run
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::layout::since_5;
use crate::{Envelope, FleetHead, Rejected, Reply, RequestId, UnixMillis};

/// What a request asks for, and who asks, in so many bytes that nobody finds two with the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Asked(pub [u8; 16]);

/// An answer that is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// To which request.
    pub id: RequestId,
    /// When it ran, by the proposer's clock.
    pub at: UnixMillis,
    /// What was asked; none where the proposer did not say.
    #[serde(deserialize_with = "since_5")]
    pub asked: Option<Asked>,
    /// How much had passed by then, by [`FleetHead::aging`].
    #[serde(deserialize_with = "since_5")]
    pub passed_ms: u64,
    /// What came of it.
    pub reply: Reply,
}

/// Time as answers grow old by it. It passes with the clocks of proposers from answer to answer, but by a second at the most: a clock
/// that jumps ahead makes nothing old. Where there is an answer each second or more it is as fast as the clock, otherwise slower.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aging {
    /// The proposers' clock that it follows.
    pub seen: UnixMillis,
    /// How much has passed, in milliseconds.
    pub passed_ms: u64,
}

impl Aging {
    /// By so much it passes at the most from one answer to the next.
    const STEP_MAX_MS: u64 = 1_000;
    /// A stamp may be older than the one before, as commands wait in queues between the two. One that is so much older is of a
    /// clock that was put back, or of another node's.
    const LATE_MAX_MS: u64 = 60_000;

    const fn pass(&mut self, at: UnixMillis) {
        if let Some(ahead) = at.0.checked_sub(self.seen.0) {
            let step = if ahead < Self::STEP_MAX_MS { ahead } else { Self::STEP_MAX_MS };
            self.passed_ms = self.passed_ms.saturating_add(step);
            self.seen = at;
        } else if self.seen.0 - at.0 > Self::LATE_MAX_MS {
            self.seen = at;
        }
    }
}

/// The newest answer that is not remembered any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Forgotten {
    /// How much had passed when it was given.
    pub passed_ms: u64,
    /// When that was, by the proposer's clock.
    pub at: UnixMillis,
}

/// Where in the trail of answers each one is. It follows from the trail, so it makes no two fleets differ.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    /// Counted from the first answer that this process has seen.
    places: BTreeMap<RequestId, u64>,
    /// Answers that have left the trail since.
    gone: u64,
}

impl PartialEq for Answers {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Answers {}

impl Answers {
    /// Answers are kept for this long,
    pub(crate) const KEPT_MS: u64 = 15 * 60 * 1_000;
    /// but not more of them than this: enough for ten minutes of 333 writes a second.
    pub(crate) const MAX: usize = 200_000;
    /// So many of the newest are kept however old they are.
    pub(crate) const MIN: usize = 1_000;

    pub(crate) fn of(head: &FleetHead) -> Self {
        Self { places: head.answered.iter().map(|answered| answered.id).zip(0..).collect(), gone: 0 }
    }

    pub(crate) fn get<'a>(&self, head: &'a FleetHead, id: RequestId) -> Option<&'a Answered> {
        let place = self.places.get(&id)?.checked_sub(self.gone)?;
        head.answered.get(usize::try_from(place).ok()?)
    }

    /// What becomes of an envelope without being run: it was run before, or may have been, or its name is another's. None:
    /// it is to be run.
    pub(crate) fn instead(&self, head: &FleetHead, envelope: &Envelope) -> Option<Result<Reply, Rejected>> {
        let id = envelope.request_id?;
        if let Some(known) = self.get(head, id) {
            let differs = known.asked.zip(envelope.asked).is_some_and(|(before, now)| before != now);
            return Some(if differs { Err(Rejected::RequestIdReused { id }) } else { Ok(known.reply.clone()) });
        }
        let (forgotten, tried) = (head.forgotten?, envelope.first_tried?);
        // Both are of one clock. It may be younger than what it is to count back.
        let ago = if tried.0 == 0 { u64::MAX } else { envelope.at.0.saturating_sub(tried.0) };
        let may_have_run = head.aging.passed_ms.saturating_sub(ago) <= forgotten.passed_ms;
        may_have_run.then_some(Err(Rejected::RequestTooOld { id, forgotten: forgotten.at }))
    }

    /// For a command of an earlier layout answers grow old by the wall clock, and what is forgotten is not noted: that is what the
    /// versions of then did.
    pub(crate) fn remember(&mut self, head: &mut FleetHead, mut answered: Answered, layout: u8) {
        let now = answered.at;
        if layout >= 5 {
            head.aging.pass(now);
        }
        answered.passed_ms = head.aging.passed_ms;
        let place = self.gone + head.answered.len() as u64;
        self.places.insert(answered.id, place);
        head.answered.push_back(answered);
        while let Some(oldest) = head.answered.front() {
            let is_old = if layout >= 5 {
                oldest.passed_ms.saturating_add(Self::KEPT_MS) < head.aging.passed_ms
            } else {
                oldest.at.0.saturating_add(Self::KEPT_MS) < now.0
            };
            let expired = is_old && head.answered.len() > Self::MIN;
            if !expired && head.answered.len() <= Self::MAX {
                break;
            }
            if layout >= 5 {
                let Answered { passed_ms, at, .. } = *oldest;
                head.forgotten = head.forgotten.max(Some(Forgotten { passed_ms, at }));
            }
            self.places.remove(&oldest.id);
            head.answered.pop_front();
            self.gone += 1;
        }
    }
}
