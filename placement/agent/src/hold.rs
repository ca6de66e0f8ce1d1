//! A hold: writes wait, for a bounded time, until the control plane fences or lets go. Pure; the clock comes in.
//!
//! ```text
//! begin ──► open ──quiesced──► sealed at S* ──fence──► (durable, not here)
//!             └────── deadline, release ──────┴──► lapsed, for ever: its attempt is never fenced
//! ```
//! A hold is not durable. After a restart there is none, and a fence for it is refused.

use std::time::Duration;

use cell_model::{Attempt, MoveId, Seq};
use tokio::time::Instant;

use crate::refusal::Refusal;

/// The longest budget that is taken: beyond it a client's own time-out becomes likely.
pub(crate) const BUDGET_MAX: Duration = Duration::from_secs(2);

/// A hold under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold {
    /// Names it to the gates.
    pub(crate) id: u64,
    /// For this move
    pub(crate) move_id: MoveId,
    /// and attempt.
    pub(crate) attempt: Attempt,
    /// It lapses here.
    pub(crate) deadline: Instant,
    /// S*, once no write admitted before the hold runs any more.
    pub(crate) sealed: Option<Seq>,
}

/// The hold of one tenant, and the attempts that lie behind.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    current: Option<Hold>,
    // The newest attempt whose hold has ended without a fence.
    lapsed: Option<(MoveId, Attempt)>,
}

impl Holds {
    /// The hold that stands at `now`.
    pub(crate) fn standing(&self, now: Instant) -> Option<&Hold> {
        self.current.as_ref().filter(|hold| now < hold.deadline)
    }

    /// Begins a hold under the name `id`, or finds the same attempt's under way.
    pub(crate) fn begin(
        &mut self,
        (move_id, attempt): (MoveId, Attempt),
        id: u64,
        now: Instant,
        budget: Duration,
    ) -> Result<&Hold, Refusal> {
        self.expire(now);
        if self.lapsed.is_some_and(|lapsed| (move_id, attempt) <= lapsed) {
            return Err(Refusal::new("NOT_QUIESCED", format!("the hold of attempt {attempt} has lapsed")));
        }
        let same = self.current.as_ref().is_some_and(|hold| (hold.move_id, hold.attempt) == (move_id, attempt));
        if !same {
            self.end();
            let deadline = now + budget.min(BUDGET_MAX);
            self.current = Some(Hold { id, move_id, attempt, deadline, sealed: None });
        }
        Ok(self.current.as_ref().expect("it has just been made"))
    }

    /// Seals hold `id` at `seq`; the answer is the seal that stands.
    pub(crate) fn seal(&mut self, id: u64, seq: Seq, now: Instant) -> Result<Seq, Refusal> {
        self.expire(now);
        match &mut self.current {
            Some(hold) if hold.id == id => Ok(*hold.sealed.get_or_insert(seq)),
            _ => Err(Refusal::new("NOT_QUIESCED", "the hold has lapsed")),
        }
    }

    /// The seal of exactly this attempt, if it still stands.
    pub(crate) fn seal_of(&self, (move_id, attempt): (MoveId, Attempt), now: Instant) -> Result<Seq, Refusal> {
        self.standing(now)
            .filter(|hold| (hold.move_id, hold.attempt) == (move_id, attempt))
            .and_then(|hold| hold.sealed)
            .ok_or_else(|| Refusal::new("NOT_SEALED", format!("no seal of {move_id} attempt {attempt} stands")))
    }

    /// Ends whatever hold there is; true if there was one.
    pub(crate) fn end(&mut self) -> bool {
        let Some(hold) = self.current.take() else { return false };
        self.lapsed = self.lapsed.max(Some((hold.move_id, hold.attempt)));
        true
    }

    /// Ends the hold whose time is up; true if there was one.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        self.current.as_ref().is_some_and(|hold| now >= hold.deadline) && self.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRY: (MoveId, Attempt) = (MoveId(7), Attempt(2));
    const BUDGET: Duration = Duration::from_millis(500);

    #[test]
    fn a_seal_stands_until_the_deadline_and_never_again() {
        let now = Instant::now();
        let mut holds = Holds::default();
        let deadline = holds.begin(TRY, 1, now, BUDGET).unwrap().deadline;
        assert!(holds.seal_of(TRY, now).is_err(), "open is not sealed");
        assert_eq!(holds.seal(1, Seq(9), now), Ok(Seq(9)));
        assert_eq!(holds.seal(1, Seq(12), now), Ok(Seq(9)), "a seal does not move");
        assert_eq!(
            holds.begin(TRY, 2, now, BUDGET).unwrap().sealed,
            Some(Seq(9)),
            "the same attempt, the same hold"
        );
        assert_eq!(holds.seal_of(TRY, now), Ok(Seq(9)));
        assert!(holds.seal_of(TRY, deadline).is_err());
        assert!(holds.expire(deadline));
        assert!(holds.begin(TRY, 3, deadline, BUDGET).is_err(), "a lapsed attempt stays lapsed");
        assert!(holds.begin((MoveId(7), Attempt(1)), 3, deadline, BUDGET).is_err(), "and so do those before it");
        assert!(holds.seal(1, Seq(9), deadline).is_err());
        assert!(holds.begin((MoveId(7), Attempt(3)), 4, deadline, BUDGET).is_ok());
        assert!(holds.begin((MoveId(8), Attempt(0)), 5, deadline, BUDGET).is_ok(), "a newer move starts anew");
        assert!(holds.seal_of((MoveId(7), Attempt(3)), deadline).is_err(), "and ends the older one's");
    }

    #[test]
    fn a_budget_above_the_cap_is_cut() {
        let now = Instant::now();
        let mut holds = Holds::default();
        assert_eq!(holds.begin(TRY, 1, now, Duration::from_secs(60)).unwrap().deadline, now + BUDGET_MAX);
    }
}
