//! What the stamps of a move tell: for how long writes and reads have waited, and what the next move may be expected to
//! take. Pure arithmetic over [`PhaseStamp`]s.
//!
//! A phase is stamped when the coordinator proposes it, before the store has taken it. A wait is counted from the stamp
//! that begins it to the one that is proposed when it is over, so it is rather told too long than too short.

use serde::{Deserialize, Serialize};

use crate::{Attempt, End, MoveRecord, Phase, PhaseStamp, Weight};

/// How a hold has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldEnd {
    /// The other cell owned.
    CutOver,
    /// It was fenced, and the owner got the tenant back: a rehearsal, or an abort.
    TakenBack,
    /// It was let go of before the fence: over its budget, or told to stop there.
    LetGo,
}

impl HoldEnd {
    /// As it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CutOver => "cut-over",
            Self::TakenBack => "taken-back",
            Self::LetGo => "let-go",
        }
    }
}

/// One hold, measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldFor {
    /// Which.
    pub attempt: Attempt,
    /// For how long writes have waited, in milliseconds.
    pub writes_ms: u64,
    /// For how long reads have, too: from the fence on. 0 where it was let go of before. Of an owner without a gate they wait as
    /// long as writes, which the stamps do not tell.
    pub reads_ms: u64,
    /// How it has ended.
    pub end: HoldEnd,
}

/// Every hold that is over, the oldest first.
#[must_use]
pub fn holds(history: &[PhaseStamp]) -> Vec<HeldFor> {
    let begun = history.iter().enumerate().filter(|(_, stamp)| stamp.phase == Phase::Hold);
    let held = |(place, hold): (usize, &PhaseStamp)| {
        let mut fenced = None;
        let mut end = HoldEnd::LetGo;
        for stamp in &history[place + 1..] {
            match stamp.phase {
                Phase::Fenced => fenced = Some(stamp.at),
                Phase::Activate => end = HoldEnd::CutOver,
                Phase::Unfence => end = HoldEnd::TakenBack,
                _ => {
                    let since = |from: crate::UnixMillis| stamp.at.0.saturating_sub(from.0);
                    let (writes_ms, reads_ms) = (since(hold.at), fenced.map_or(0, since));
                    return Some(HeldFor { attempt: hold.attempt, writes_ms, reads_ms, end });
                }
            }
        }
        None
    };
    begun.filter_map(held).collect()
}

/// What a move may be expected to take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// From so many ended moves.
    pub moves: u32,
    /// The copy, in milliseconds.
    pub copy_ms: u64,
    /// Everything up to the first request that the other cell serves, in milliseconds.
    pub total_ms: u64,
    /// How long writes have waited in the middle one of those moves, in milliseconds;
    pub hold_ms: u64,
    /// and at the most.
    pub hold_max_ms: u64,
}

impl Estimate {
    /// So many of the newest moves are looked at.
    pub const MOVES_MAX: usize = 64;

    /// From moves that were completed, rolled back or rehearsed, the newest first. A rollback's way there counts like any
    /// other. None where there is none, or where each was throttled and this one is not to be.
    #[must_use]
    pub fn from_moves<'m>(
        ended: impl Iterator<Item = &'m MoveRecord>,
        weight: Weight,
        bytes_per_second: u64,
    ) -> Option<Self> {
        let seen: Vec<Seen> = ended.filter_map(Seen::of).take(Self::MOVES_MAX).collect();
        // A throttled copy says nothing of how fast it could have been.
        let free = || seen.iter().filter(|seen| !seen.throttled);
        if bytes_per_second == 0 && free().next().is_none() {
            return None;
        }
        let (bytes, ms) = free().fold((0, 0), |(bytes, ms), seen| (bytes + seen.bytes, ms + seen.copy_ms.max(1)));
        // Small tenants cost what every copy costs, however little there is.
        let least = free().map(|seen| seen.copy_ms).min().unwrap_or_default();
        let at_rate = |bytes_: u64| weight.bytes.saturating_mul(ms) / bytes_.max(1);
        let throttled = weight.bytes.saturating_mul(1_000).checked_div(bytes_per_second).unwrap_or_default();
        let copy_ms = at_rate(bytes).max(least).max(throttled);
        let mut holds: Vec<u64> = seen.iter().map(|seen| seen.hold_ms).collect();
        holds.sort_unstable();
        let mut rests: Vec<u64> = seen.iter().map(|seen| seen.rest_ms).collect();
        rests.sort_unstable();
        Some(Self {
            moves: u32::try_from(seen.len()).unwrap_or(u32::MAX),
            copy_ms,
            total_ms: copy_ms + middle(&rests)?,
            hold_ms: middle(&holds)?,
            hold_max_ms: *holds.last()?,
        })
    }
}

fn middle(sorted: &[u64]) -> Option<u64> {
    sorted.get(sorted.len() / 2).copied()
}

/// One move, as far as it tells of the next one.
struct Seen {
    bytes: u64,
    copy_ms: u64,
    rest_ms: u64,
    hold_ms: u64,
    throttled: bool,
}

impl Seen {
    fn of(record: &MoveRecord) -> Option<Self> {
        let movement = &record.movement;
        if !matches!(record.end, End::Completed | End::RolledBack | End::Rehearsed) {
            return None;
        }
        let weight = movement.weight?;
        let at = |phase: Phase| movement.history.iter().find(|stamp| stamp.phase == phase).map(|stamp| stamp.at.0);
        let copy_ms = at(Phase::CatchUp)?.saturating_sub(at(Phase::Backfill)?);
        let held = holds(&movement.history).into_iter().find(|held| held.end != HoldEnd::LetGo)?;
        let over = at(Phase::Soak).or_else(|| at(Phase::Cleanup))?;
        let whole = over.saturating_sub(movement.history.first()?.at.0);
        Some(Self {
            bytes: weight.bytes,
            copy_ms,
            rest_ms: whole.saturating_sub(copy_ms),
            hold_ms: held.writes_ms,
            throttled: movement.bytes_per_second != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Revision, UnixMillis};

    fn history(stamps: &[(Phase, u32, u64)]) -> Vec<PhaseStamp> {
        let stamp = |(phase, attempt, at): &(Phase, u32, u64)| PhaseStamp {
            phase: *phase,
            attempt: Attempt(*attempt),
            at: UnixMillis(*at),
            revision: Revision(*at),
        };
        stamps.iter().map(stamp).collect()
    }

    #[test]
    fn a_hold_is_measured_from_the_first_write_that_waits_to_the_first_that_is_served() {
        let story = history(&[
            (Phase::Sync, 1, 1_000),
            (Phase::Hold, 2, 2_000),
            (Phase::Sync, 2, 2_500),
            (Phase::Hold, 3, 4_000),
            (Phase::Fenced, 3, 4_020),
            (Phase::Unfence, 3, 4_025),
            (Phase::Sync, 3, 4_031),
            (Phase::Hold, 4, 5_000),
            (Phase::Fenced, 4, 5_012),
            (Phase::Activate, 4, 5_015),
            (Phase::Soak, 4, 5_019),
        ]);
        let held: Vec<_> =
            holds(&story).iter().map(|held| (held.attempt.0, held.writes_ms, held.reads_ms, held.end)).collect();
        assert_eq!(
            held,
            [(2, 500, 0, HoldEnd::LetGo), (3, 31, 11, HoldEnd::TakenBack), (4, 19, 7, HoldEnd::CutOver)]
        );
        assert_eq!(holds(&story[..9]).len(), 2, "one that is standing is not measured yet");
    }
}
