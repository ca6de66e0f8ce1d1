//! The numbers that an operator may turn. Everything else about a decision is the order of filters and of the score.

use serde::{Deserialize, Serialize};

/// How careful to be, and how much better a move must make things.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Standard deviations above the mean for which a cell must have room.
    pub risk: f64,
    /// A cell above this share of its budget is hot: rebalancing looks at it.
    pub high_water: f64,
    /// A hot cell is brought down to this share, and placing prefers cells that stay below it. The distance to
    /// `high_water` is the hysteresis: demand may wander by that much without a move.
    pub low_water: f64,
    /// A rebalancing move must lower the hotter of its two cells by at least this share of its budget.
    pub gain_min: f64,
    /// ... and by at least this much more for each terabyte that it copies: the payback rule.
    pub gain_min_per_terabyte: f64,
    /// How long the list of candidates in an explanation is.
    pub candidates_shown: usize,
    /// What one move is expected to copy in a second: the migration engine's own figure, where there is one.
    pub copy_bytes_per_second: u64,
    /// What a move takes besides copying.
    pub move_seconds: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            risk: 2.0,
            high_water: 0.80,
            low_water: 0.75,
            gain_min: 0.005,
            gain_min_per_terabyte: 0.01,
            candidates_shown: 5,
            copy_bytes_per_second: 50_000_000,
            move_seconds: 10,
        }
    }
}

/// The longest list of candidates: an explanation is read by people.
const CANDIDATES_MAX: usize = 1_000;
/// The longest that a move may take besides copying: a year.
const MOVE_SECONDS_MAX: u64 = 365 * 24 * 60 * 60;

/// Why a policy is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy: {option} is {given}, but must be {rule}")]
pub struct PolicyInvalid {
    /// The number.
    pub option: &'static str,
    /// As given.
    pub given: String,
    /// What it must be.
    pub rule: &'static str,
}

impl Policy {
    /// A policy that evens cells out as far as moves still gain anything: any cell may be relieved, down to the lower
    /// bound of its zone.
    #[must_use]
    pub fn even(self) -> Self {
        Self { high_water: 0.0, low_water: 0.0, ..self }
    }

    /// How long a move that copies so much is expected to take.
    #[must_use]
    pub const fn seconds_for(&self, bytes: u64) -> u64 {
        self.move_seconds.saturating_add(bytes.div_ceil(self.copy_bytes_per_second))
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`PolicyInvalid`] names the first one that breaks its rule.
    pub fn check(&self) -> Result<(), PolicyInvalid> {
        let share = 0.0..=1.0;
        let gain = 0.0..=10.0;
        let rules = [
            ("risk", self.risk, (0.0..=10.0).contains(&self.risk), "between 0 and 10 deviations"),
            ("high-water", self.high_water, share.contains(&self.high_water), "a share between 0 and 1"),
            (
                "low-water",
                self.low_water,
                (0.0..=self.high_water).contains(&self.low_water),
                "a share between 0 and high-water",
            ),
            (
                "gain-min",
                self.gain_min,
                self.gain_min > 0.0 && share.contains(&self.gain_min),
                "above 0, at most 1",
            ),
            (
                "gain-min-per-terabyte",
                self.gain_min_per_terabyte,
                gain.contains(&self.gain_min_per_terabyte),
                "between 0 and 10",
            ),
        ];
        let counts = [
            ("candidates-shown", self.candidates_shown as u64, 1..=CANDIDATES_MAX as u64, "between 1 and 1000"),
            (
                "copy-bytes-per-second",
                self.copy_bytes_per_second,
                1..=u64::MAX,
                "at least 1: nothing would ever be copied",
            ),
            ("move-seconds", self.move_seconds, 0..=MOVE_SECONDS_MAX, "at most 31536000: a year"),
        ];
        if let Some((option, given, _, rule)) =
            counts.into_iter().find(|(_, given, range, _)| !range.contains(given))
        {
            return Err(PolicyInvalid { option, given: given.to_string(), rule });
        }
        match rules.into_iter().find(|(_, _, holds, _)| !holds) {
            None => Ok(()),
            Some((option, given, _, rule)) => Err(PolicyInvalid { option, given: given.to_string(), rule }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_cannot_hold_is_named() {
        Policy::default().check().expect("the default holds");
        let upside_down = Policy { low_water: 0.9, ..Policy::default() };
        assert_eq!(upside_down.check().expect_err("low above high").option, "low-water");
        let nan = Policy { risk: f64::NAN, ..Policy::default() };
        assert_eq!(nan.check().expect_err("not a number").option, "risk");
        let endless = Policy { candidates_shown: usize::MAX, ..Policy::default() };
        assert_eq!(endless.check().expect_err("a list without end").option, "candidates-shown");
        let none = Policy { candidates_shown: 0, ..Policy::default() };
        assert_eq!(none.check().expect_err("a list of nothing").option, "candidates-shown");
        let slow = Policy { move_seconds: u64::MAX, ..Policy::default() };
        assert_eq!(slow.check().expect_err("longer than time").option, "move-seconds");
        let still = Policy { copy_bytes_per_second: 0, ..Policy::default() };
        assert_eq!(still.check().expect_err("nothing is copied").option, "copy-bytes-per-second");
    }
}
