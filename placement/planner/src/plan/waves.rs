//! Puts moves in an order in which every prefix is feasible.
//!
//! The search found its moves one after the other, each feasible after those before it, as if a move took no time.
//! Here each takes time: during a wave a moving tenant counts on both cells. A wave takes moves in order as long as
//! their targets admit them on top of everything else in the wave. Once a move has been put off, no later move may go
//! to the same target in this wave: so the move that was found first among those that remain finds its target no
//! fuller than the search did, and every wave takes at least that one.
//!
//! A plan ends early where its waves would take longer than the window: what is left off is the end, and every prefix
//! is a feasible plan.

use super::bound::hottest;
use super::search::Step;
use super::{Bounds, Left};
use crate::explain::{choose, explain};
use crate::filter::Question;
use crate::fleet::{CellIx, NONE};
use crate::layout::Layout;
use crate::policy::Policy;

pub(super) struct Sequence {
    pub(super) waves: Vec<Vec<Step>>,
    pub(super) left: Vec<Left>,
    /// Moves that do not fit into the window.
    pub(super) cut: usize,
}

/// How long a wave is expected to take: as long as its longest move.
pub(super) fn seconds_of(policy: &Policy, wave: &[Step]) -> u64 {
    wave.iter().map(|step| policy.seconds_for(step.bytes)).max().unwrap_or(0)
}

/// Orders the moves. The layout is as it was at the start, and then as it is when all waves have run.
pub(super) fn sequence(layout: &mut Layout<'_>, steps: &[Step], bounds: &Bounds, draining: &[bool]) -> Sequence {
    let mut remaining: Vec<Step> = steps.to_vec();
    let mut sequence = Sequence { waves: Vec::new(), left: Vec::new(), cut: 0 };
    let mut seconds: u64 = 0;
    while !remaining.is_empty() {
        let mut wave = Filling::new(layout, bounds);
        let longest = bounds.seconds_max.saturating_sub(seconds);
        let rest = wave.fill(layout, remaining, longest, draining);
        let Filling { taken, too_long, .. } = wave;
        remaining = rest;
        if taken.is_empty() {
            if too_long {
                sequence.cut = remaining.len();
                break;
            }
            // Not reached while the argument above holds. If it ever does not, the move is not made.
            let step = remaining.remove(0);
            sequence.left.push(not_admitted(layout, &step, draining));
            continue;
        }
        for step in &taken {
            layout.end_move(step.tenant, step.target);
        }
        seconds = seconds.saturating_add(seconds_of(layout.policy(), &taken));
        sequence.waves.push(taken);
    }
    sequence
}

/// A wave as it fills.
struct Filling<'b> {
    bounds: &'b Bounds,
    taken: Vec<Step>,
    busy_cells: Vec<u32>,
    /// By failure domain: moves that it takes part in.
    busy_domains: Vec<u32>,
    closed: Vec<bool>,
    /// The first move of all could run, were it shorter.
    too_long: bool,
}

impl<'b> Filling<'b> {
    fn new(layout: &Layout<'_>, bounds: &'b Bounds) -> Self {
        let cells = layout.fleet().cells().len();
        Self {
            bounds,
            taken: Vec::new(),
            busy_cells: vec![0; cells],
            busy_domains: vec![0; layout.fleet().domain_count()],
            closed: vec![false; cells],
            too_long: false,
        }
    }

    /// Takes what may run together; gives back the rest.
    fn fill(&mut self, layout: &mut Layout<'_>, steps: Vec<Step>, longest: u64, draining: &[bool]) -> Vec<Step> {
        let mut rest = Vec::new();
        for step in steps {
            let fits = layout.policy().seconds_for(step.bytes) <= longest;
            if self.has_slot(layout, &step) && self.is_admitted(layout, &step, draining) {
                if fits {
                    self.take(layout, step);
                    continue;
                }
                self.too_long |= rest.is_empty();
            }
            self.closed[step.target.index()] = true;
            rest.push(step);
        }
        rest
    }

    fn has_slot(&self, layout: &Layout<'_>, step: &Step) -> bool {
        let busy = |cell: CellIx| self.busy_cells[cell.index()] < self.bounds.at_once_per_cell_max;
        let domains = domains_of(layout, step);
        let calm = |domain: usize| self.busy_domains[domain] < self.bounds.at_once_per_domain_max;
        u32::try_from(self.taken.len()).unwrap_or(u32::MAX) < self.bounds.at_once_max
            && busy(step.source)
            && busy(step.target)
            && domains.into_iter().flatten().all(calm)
            && !self.closed[step.target.index()]
    }

    fn is_admitted(&self, layout: &Layout<'_>, step: &Step, draining: &[bool]) -> bool {
        Question::new(layout, step.tenant, draining).ask(step.target).is_ok()
    }

    fn take(&mut self, layout: &mut Layout<'_>, step: Step) {
        layout.begin_move(step.tenant, step.target);
        self.busy_cells[step.source.index()] += 1;
        self.busy_cells[step.target.index()] += 1;
        for domain in domains_of(layout, &step).into_iter().flatten() {
            self.busy_domains[domain] += 1;
        }
        self.taken.push(step);
    }
}

/// The failure domains that a move takes part in, each once.
fn domains_of(layout: &Layout<'_>, step: &Step) -> [Option<usize>; 2] {
    let of = |cell: CellIx| {
        let domain = layout.fleet().cell(cell).domain;
        (domain != NONE).then_some(domain as usize)
    };
    let (source, target) = (of(step.source), of(step.target));
    [source, target.filter(|_| target != source)]
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

/// The waves backwards, and whether every prefix of that is feasible too. Takes the layout back to the start.
pub(super) fn undo(layout: &mut Layout<'_>, waves: &[Vec<Step>]) -> Reverse {
    let mut feasible = true;
    let mut reversed = Vec::with_capacity(waves.len());
    for wave in waves.iter().rev() {
        let back: Vec<Step> =
            wave.iter().map(|step| Step { source: step.target, target: step.source, ..step.clone() }).collect();
        for step in &back {
            feasible = feasible && Question::new(layout, step.tenant, &[]).ask(step.target).is_ok();
            layout.begin_move(step.tenant, step.target);
        }
        for step in &back {
            layout.end_move(step.tenant, step.target);
        }
        reversed.push(back);
    }
    Reverse { waves: reversed, feasible }
}

/// How full the fullest cell is after each move, from the start on.
pub(super) fn curve(layout: &mut Layout<'_>, waves: &[Vec<Step>]) -> Vec<f64> {
    let all = |layout: &Layout<'_>| hottest(layout, layout.fleet().cells());
    let mut curve = vec![all(layout)];
    for step in waves.iter().flatten() {
        layout.shift(step.tenant, step.target);
        curve.push(all(layout));
    }
    curve
}
