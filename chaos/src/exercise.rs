//! Whether a move was exercised, and what its clients felt: the client history laid beside the move's phase stamps.
//!
//! A move that nobody wrote to proves nothing. So a move counts only if writes were acknowledged while it copied
//! (Backfill) and while it acknowledged in both cells (Sync), and if at least one write waited in the hold: sent before
//! the commit that ended it, answered after.

use std::time::Duration;

use cell_model::Phase;
use serde::Serialize;

use crate::clock::Micros;
use crate::history::{Op, SessionId};

/// One entered phase, on the clock of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// Which.
    pub phase: Phase,
    /// When, to the millisecond.
    pub at: Micros,
}

/// What must have happened during a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Writes during Backfill and Sync, and one that waited in Hold.
    Everything,
    /// Writes while it copied: it was called off before it came further.
    Copying,
}

/// What did happen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Exercise {
    /// Writes acknowledged during Backfill.
    pub writes_in_backfill: usize,
    /// Writes acknowledged during Sync.
    pub writes_in_sync: usize,
    /// Writes that were under way at the commit of a hold and answered after it.
    pub writes_held: usize,
    /// Longest write that met a hold, in microseconds, for each hold.
    pub write_holds: Vec<Micros>,
    /// Longest read that met a fence, in microseconds, for each fence.
    pub read_gaps: Vec<Micros>,
}

impl Exercise {
    /// Lays the requests of the move's tenant beside its phases. `ended` closes the last phase.
    #[must_use]
    pub fn of(ops: &[&Op], entered: &[Entered], ended: Micros) -> Self {
        let spans = spans(entered, ended);
        let acked_in = |phase: Phase| {
            let during = |op: &&&Op| {
                let inside =
                    |span: &&Span| span.phase == phase && span.from <= op.returned && op.returned <= span.to;
                op.is_acked_write() && spans.iter().find(inside).is_some()
            };
            ops.iter().filter(during).count()
        };
        let longest = |from: Micros, to: Micros, writes: bool| {
            let overlaps = |op: &&&Op| op.action.is_write() == writes && op.invoked < to && op.returned > from;
            ops.iter().filter(overlaps).map(|op| op.latency()).max()
        };
        let interruptions = |first: Phase, writes: bool| {
            stretches(&spans, first).into_iter().filter_map(|(from, to)| longest(from, to, writes)).collect()
        };
        Self {
            writes_in_backfill: acked_in(Phase::Backfill),
            writes_in_sync: acked_in(Phase::Sync),
            writes_held: held(ops, &spans),
            write_holds: interruptions(Phase::Hold, true),
            read_gaps: interruptions(Phase::Fenced, false),
        }
    }

    /// What is missing, as a sentence; `None` where the move was exercised.
    #[must_use]
    pub fn missing(&self, wanted: Wanted) -> Option<String> {
        let mut missing = Vec::new();
        if self.writes_in_backfill == 0 {
            missing.push("no write was acknowledged during Backfill");
        }
        if wanted == Wanted::Everything {
            if self.writes_in_sync == 0 {
                missing.push("no write was acknowledged during Sync");
            }
            if self.writes_held == 0 {
                missing.push("no write waited in Hold");
            }
        }
        (!missing.is_empty()).then(|| missing.join(", "))
    }
}

#[derive(Debug, Clone, Copy)]
struct Span {
    phase: Phase,
    from: Micros,
    to: Micros,
}

fn spans(entered: &[Entered], ended: Micros) -> Vec<Span> {
    let ends = entered.iter().skip(1).map(|next| next.at).chain([ended]);
    entered.iter().zip(ends).map(|(stamp, to)| Span { phase: stamp.phase, from: stamp.at, to }).collect()
}

/// From each entry of `first` until the tenant is served without interruption again.
fn stretches(spans: &[Span], first: Phase) -> Vec<(Micros, Micros)> {
    let interrupted =
        |phase: Phase| phase == first || matches!(phase, Phase::Fenced | Phase::Activate | Phase::Unfence);
    let mut stretches = Vec::new();
    let mut open: Option<(Micros, Micros)> = None;
    for span in spans {
        match &mut open {
            Some((_, to)) if interrupted(span.phase) => *to = span.to,
            Some(done) => {
                stretches.push(*done);
                open = None;
            }
            None if span.phase == first => open = Some((span.from, span.to)),
            None => {}
        }
    }
    stretches.extend(open);
    stretches
}

/// Acknowledged writes that a client waited for in a hold: sent before its commit, answered only after it.
fn held(ops: &[&Op], spans: &[Span]) -> usize {
    let mut hold = false;
    let mut held = 0;
    for span in spans {
        match span.phase {
            Phase::Hold => hold = true,
            Phase::Activate => {
                let commit = span.from;
                let waited = |op: &&&Op| op.is_acked_write() && op.invoked < commit && commit <= op.returned;
                if std::mem::take(&mut hold) {
                    held += ops.iter().filter(waited).count();
                }
            }
            Phase::Fenced => {}
            Phase::Preflight
            | Phase::Prepare
            | Phase::Backfill
            | Phase::CatchUp
            | Phase::Verify
            | Phase::Sync
            | Phase::Soak
            | Phase::Unfence
            | Phase::Cleanup => hold = false,
        }
    }
    held
}

/// Requests of a probe that the target of a move has served before COMMIT, as far as the millisecond of its stamp tells.
#[must_use]
pub fn served_early(ops: &[&Op], probe: SessionId, entered: &[Entered]) -> usize {
    let commit = entered.iter().find(|stamp| stamp.phase == Phase::Activate).map_or(Micros::MAX, |stamp| stamp.at);
    ops.iter().filter(|op| op.session == probe && op.is_done() && op.returned < commit).count()
}

/// Half, nearly all, all: of a list of durations, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Half of them are not longer.
    pub p50: f64,
    /// 99 of 100 are not longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
    /// How many there are.
    pub count: usize,
}

impl Spread {
    /// Of durations in microseconds.
    #[must_use]
    pub fn of_micros(mut durations: Vec<Micros>) -> Self {
        durations.sort_unstable();
        let at = |percent: usize| {
            let rank = (durations.len() * percent).div_ceil(100).max(1) - 1;
            durations.get(rank).map_or(0.0, |&micros| Duration::from_micros(micros).as_secs_f64() * 1e3)
        };
        Self { p50: at(50), p99: at(99), max: at(100), count: durations.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Action, Outcome};

    const STAMPS: [(Phase, Micros); 9] = [
        (Phase::Preflight, 1_000),
        (Phase::Prepare, 2_000),
        (Phase::Backfill, 3_000),
        (Phase::CatchUp, 5_000),
        (Phase::Sync, 7_000),
        (Phase::Hold, 9_000),
        (Phase::Fenced, 10_000),
        (Phase::Activate, 11_000),
        (Phase::Soak, 12_000),
    ];

    fn entered(stamps: &[(Phase, Micros)]) -> Vec<Entered> {
        stamps.iter().map(|&(phase, at)| Entered { phase, at }).collect()
    }

    fn write(invoked: Micros, returned: Micros) -> Op {
        let action = Action::Put { key: "k".into(), version: 1 };
        Op { session: 1, tenant: "t".into(), action, invoked, returned, outcome: Outcome::Written, failed: false }
    }

    fn read(invoked: Micros, returned: Micros) -> Op {
        Op { action: Action::Get { key: "k".into() }, outcome: Outcome::Read(None), ..write(invoked, returned) }
    }

    fn exercise(ops: &[Op], stamps: &[(Phase, Micros)]) -> Exercise {
        Exercise::of(&ops.iter().collect::<Vec<_>>(), &entered(stamps), 20_000)
    }

    #[test]
    fn a_move_with_a_write_in_each_phase_was_exercised() {
        let ops = [write(3_100, 3_200), write(7_100, 7_200), write(9_500, 11_700), read(10_500, 11_400)];
        let found = exercise(&ops, &STAMPS);
        assert_eq!((found.writes_in_backfill, found.writes_in_sync, found.writes_held), (1, 1, 1));
        assert_eq!((found.write_holds.as_slice(), found.read_gaps.as_slice()), (&[2_200][..], &[900][..]));
        assert_eq!(found.missing(Wanted::Everything), None);
    }

    #[test]
    fn a_move_without_one_of_them_was_not() {
        let found = exercise(&[write(3_100, 3_200), write(7_100, 7_200), write(9_100, 9_200)], &STAMPS);
        assert_eq!(found.missing(Wanted::Everything), Some("no write waited in Hold".into()));
        let found = exercise(&[write(1_100, 1_200), write(9_500, 11_500)], &STAMPS);
        let missing = found.missing(Wanted::Everything).unwrap();
        assert!(missing.contains("Backfill") && missing.contains("Sync"), "{missing}");
        assert_eq!(found.missing(Wanted::Copying), Some("no write was acknowledged during Backfill".into()));
    }

    #[test]
    fn a_write_that_was_not_acknowledged_exercises_nothing() {
        let unknown = Op { outcome: Outcome::Unknown { reason: "".into() }, ..write(3_100, 3_200) };
        assert_eq!(exercise(&[unknown], &STAMPS).writes_in_backfill, 0);
    }

    #[test]
    fn each_hold_of_a_move_that_went_back_is_felt_on_its_own() {
        let mut stamps = STAMPS.to_vec();
        stamps.extend([
            (Phase::Hold, 15_000),
            (Phase::Fenced, 16_000),
            (Phase::Activate, 17_000),
            (Phase::Cleanup, 18_000),
        ]);
        let found = exercise(&[write(9_500, 11_700), write(15_100, 17_400), read(16_100, 17_100)], &stamps);
        assert_eq!((found.writes_held, found.write_holds, found.read_gaps), (2, vec![2_200, 2_300], vec![1_000]));
    }

    #[test]
    fn a_missed_hold_holds_nobody_but_is_felt() {
        let stamps = [(Phase::Sync, 1_000), (Phase::Hold, 2_000), (Phase::Sync, 3_000), (Phase::Cleanup, 4_000)];
        let found = exercise(&[write(2_100, 3_100)], &stamps);
        assert_eq!((found.writes_held, found.write_holds), (0, vec![1_000]));
    }

    #[test]
    fn what_a_target_serves_before_its_commit_is_early() {
        let ops = [write(9_500, 10_900), write(10_500, 11_200), write(3_000, 3_100)];
        let ops: Vec<&Op> = ops.iter().collect();
        assert_eq!(served_early(&ops, 1, &entered(&STAMPS)), 2);
        assert_eq!(served_early(&ops, 2, &entered(&STAMPS)), 0);
        assert_eq!(served_early(&ops, 1, &entered(&STAMPS[..5])), 3, "a move without a commit");
    }

    #[test]
    fn a_spread_names_half_nearly_all_and_all() {
        let spread = Spread::of_micros((1..=200).map(|n| n * 1_000).rev().collect());
        assert_eq!(spread, Spread { p50: 100.0, p99: 198.0, max: 200.0, count: 200 });
        assert_eq!(Spread::of_micros(Vec::new()), Spread::default());
    }
}
