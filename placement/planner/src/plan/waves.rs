//! Puts moves in an order in which every prefix is feasible.
//!
//! The search found its moves one after the other, each feasible after those before it, as if a move took no time.
//! Here each takes time: during a wave a moving tenant counts on both cells. A wave takes moves in order as long as
//! their targets admit them on top of everything else in the wave. Once a move has been put off, no later move may go
//! to the same target in this wave: so the move that was found first among those that remain finds its target no
//! fuller than the search did, and every wave takes at least that one.

use super::{Bounds, Left};
use crate::explain::{choose, explain};
use crate::filter::Question;
use crate::layout::Layout;
use crate::plan::search::Step;

pub(super) struct Sequence<'a> {
    pub(super) waves: Vec<Vec<Step>>,
    pub(super) left: Vec<Left>,
    pub(super) end: Layout<'a>,
}

/// Orders the moves, starting from `start`.
pub(super) fn sequence<'a>(start: &Layout<'a>, steps: &[Step], bounds: &Bounds, draining: &[bool]) -> Sequence<'a> {
    let mut layout = start.clone();
    let mut remaining: Vec<Step> = steps.to_vec();
    let mut sequence = Sequence { waves: Vec::new(), left: Vec::new(), end: start.clone() };
    while !remaining.is_empty() {
        let (wave, rest) = next_wave(&mut layout, remaining, bounds, draining);
        remaining = rest;
        if wave.is_empty() {
            // Not reached while the argument above holds. If it ever does not, the move is not made.
            let step = remaining.remove(0);
            sequence.left.push(not_admitted(&layout, &step, draining));
            continue;
        }
        for step in &wave {
            layout.end_move(step.tenant, step.target);
        }
        sequence.waves.push(wave);
    }
    sequence.end = layout;
    sequence
}

fn next_wave(
    layout: &mut Layout<'_>,
    remaining: Vec<Step>,
    bounds: &Bounds,
    draining: &[bool],
) -> (Vec<Step>, Vec<Step>) {
    let cells = layout.fleet().cells().len();
    let mut busy = vec![0u32; cells];
    let mut closed = vec![false; cells];
    let mut wave = Vec::new();
    let mut rest = Vec::new();
    for step in remaining {
        let (source, target) = (step.source.index(), step.target.index());
        let at_once = u32::try_from(wave.len()).unwrap_or(u32::MAX) < bounds.at_once_max;
        let per_cell = busy[source].max(busy[target]) < bounds.at_once_per_cell_max;
        let admitted = || Question::new(layout, step.tenant, draining).ask(step.target).is_ok();
        if at_once && per_cell && !closed[target] && admitted() {
            layout.begin_move(step.tenant, step.target);
            busy[source] += 1;
            busy[target] += 1;
            wave.push(step);
        } else {
            closed[target] = true;
            rest.push(step);
        }
    }
    (wave, rest)
}

fn not_admitted(layout: &Layout<'_>, step: &Step, draining: &[bool]) -> Left {
    let question = Question::new(layout, step.tenant, draining);
    let fleet = layout.fleet();
    Left {
        tenant: fleet.tenant_id(step.tenant),
        cell: fleet.cell_id(step.source).clone(),
        why: format!("cell {} does not admit it while other moves run", fleet.cell_id(step.target)),
        decision: Some(Box::new(explain(&question, &choose(&question, None)))),
    }
}

pub(super) struct Reverse {
    pub(super) waves: Vec<Vec<Step>>,
    pub(super) feasible: bool,
}

/// The waves backwards, and whether every prefix of that is feasible too.
pub(super) fn undo(end: &Layout<'_>, waves: &[Vec<Step>]) -> Reverse {
    let mut layout = end.clone();
    let mut feasible = true;
    let mut reversed = Vec::with_capacity(waves.len());
    for wave in waves.iter().rev() {
        let back: Vec<Step> =
            wave.iter().map(|step| Step { source: step.target, target: step.source, ..step.clone() }).collect();
        for step in &back {
            feasible &= Question::new(&layout, step.tenant, &[]).ask(step.target).is_ok();
            layout.begin_move(step.tenant, step.target);
        }
        for step in &back {
            layout.end_move(step.tenant, step.target);
        }
        reversed.push(back);
    }
    Reverse { waves: reversed, feasible }
}
