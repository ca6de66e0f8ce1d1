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
    /// What came of it.
    pub reply: Reply,
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
    /// So many of the newest are kept however old they are: a clock that jumps makes no retry run twice.
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
        let forgotten = head.forgotten?;
        let may_have_run = envelope.first_tried.is_some_and(|tried| tried <= forgotten);
        may_have_run.then_some(Err(Rejected::RequestTooOld { id, forgotten }))
    }

    /// What was forgotten for a command of an earlier layout is not noted: the versions of then did not either.
    pub(crate) fn remember(&mut self, head: &mut FleetHead, answered: Answered, layout: u8) {
        let now = answered.at;
        let place = self.gone + head.answered.len() as u64;
        self.places.insert(answered.id, place);
        head.answered.push_back(answered);
        while let Some(oldest) = head.answered.front() {
            let expired = oldest.at.0.saturating_add(Self::KEPT_MS) < now.0 && head.answered.len() > Self::MIN;
            if !expired && head.answered.len() <= Self::MAX {
                break;
            }
            if layout >= 5 {
                head.forgotten = head.forgotten.max(Some(oldest.at));
            }
            self.places.remove(&oldest.id);
            head.answered.pop_front();
            self.gone += 1;
        }
    }
}
