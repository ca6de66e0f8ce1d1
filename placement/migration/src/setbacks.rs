//! What moves have met that kept them from going on, as the coordinator of this node has heard it last. It is shown, and never acted
//! upon: a new leader begins without any.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cell_model::{Leg, Move, MoveId, Phase, UnixMillis};

/// Moves of which one is kept; beyond that, what was met longest ago is forgotten.
const KEPT_MAX: usize = 4_096;
/// Letters of a reason that are kept.
const REASON_MAX: usize = 1_000;
/// Met again after a longer time in which nothing was, it is another one.
const APART_MS: u64 = 60_000;
/// What is met for so long is said in the log, once.
const TELL_AFTER_MS: u64 = 5_000;

/// Why a step of a move has come to nothing, again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSetback {
    /// Stable.
    pub code: String,
    /// The step, and a sentence.
    pub reason: String,
    /// When it was first met,
    pub since: UnixMillis,
    /// and last.
    pub last: UnixMillis,
}

#[derive(Debug)]
struct Met {
    within: (Leg, Phase),
    seen: LastSetback,
    is_told: bool,
}

/// See the module. Cheap to clone; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Setbacks(Arc<Mutex<BTreeMap<MoveId, Met>>>);

impl Setbacks {
    /// The last one of the phase in which the move is.
    #[must_use]
    pub fn of(&self, movement: &Move) -> Option<LastSetback> {
        self.within(movement.id, (movement.leg, movement.phase))
    }

    fn within(&self, id: MoveId, within: (Leg, Phase)) -> Option<LastSetback> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&id).filter(|met| met.within == within).map(|met| met.seen.clone())
    }

    /// Keeps one. Whether it is to be said now that it is met for long.
    pub(crate) fn met(
        &self,
        id: MoveId,
        within: (Leg, Phase),
        (code, reason): (&str, &str),
        now: UnixMillis,
    ) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT_MAX && !all.contains_key(&id) {
            let oldest = all.iter().min_by_key(|(_, met)| met.seen.last).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                all.remove(&oldest);
            }
        }
        let is_same = |met: &Met| {
            met.within == within && met.seen.code == code && now.0.saturating_sub(met.seen.last.0) <= APART_MS
        };
        let before = all.get(&id).filter(|met| is_same(met));
        let (since, was_told) = before.map_or((now, false), |met| (met.seen.since, met.is_told));
        let is_told = was_told || now.0.saturating_sub(since.0) >= TELL_AFTER_MS;
        let reason = reason.chars().take(REASON_MAX).collect();
        let seen = LastSetback { code: code.into(), reason, since, last: now };
        all.insert(id, Met { within, seen, is_told });
        is_told && !was_told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: MoveId = MoveId(1);
    const COPYING: (Leg, Phase) = (Leg::Forward, Phase::Backfill);

    #[test]
    fn one_that_is_met_again_is_as_old_as_when_it_was_first_met_and_is_said_once() {
        let kept = Setbacks::default();
        let met = |at, code| kept.met(ID, COPYING, (code, &format!("at {at}")), UnixMillis(at));
        let told = [1_000, 5_999, 6_000, 60_000, 61_000].map(|at| met(at, "BUSY"));
        assert_eq!(told, [false, false, true, false, false]);
        let seen = kept.within(ID, COPYING).unwrap();
        assert_eq!((seen.since, seen.last), (UnixMillis(1_000), UnixMillis(61_000)));
        assert_eq!(seen.reason, "at 61000");
        assert!(!met(121_001, "BUSY"), "nothing was in its way for long");
        assert_eq!(kept.within(ID, COPYING).unwrap().since, UnixMillis(121_001));
        met(121_002, "NOT_APPLIED");
        assert_eq!(kept.within(ID, COPYING).unwrap().since, UnixMillis(121_002));
    }

    #[test]
    fn one_of_another_phase_or_leg_is_in_nobodys_way_any_more() {
        let kept = Setbacks::default();
        kept.met(ID, COPYING, ("BUSY", "r"), UnixMillis(1));
        assert_eq!(kept.within(ID, (Leg::Forward, Phase::Soak)), None);
        assert_eq!(kept.within(ID, (Leg::Back, Phase::Backfill)), None);
        assert_eq!(kept.within(MoveId(2), COPYING), None);
        assert!(kept.within(ID, COPYING).is_some());
    }

    #[test]
    fn so_many_are_kept_and_those_that_were_met_last() {
        let (kept, long) = (Setbacks::default(), "r".repeat(2 * REASON_MAX));
        for id in 0..=KEPT_MAX as u64 {
            kept.met(MoveId(id), COPYING, ("BUSY", &long), UnixMillis(id));
        }
        assert_eq!(kept.within(MoveId(0), COPYING), None);
        assert_eq!(kept.within(MoveId(1), COPYING).unwrap().reason.len(), REASON_MAX);
    }
}
