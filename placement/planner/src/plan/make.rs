//! From a question to a plan: search, order, judge.

use super::bound::{Bound, hottest, least_after};
use super::search::{Search, Step};
use super::{
    Bounds, CellChange, Goal, Plan, PlanError, PlannedMove, Quality, Request, Undo, Verdict, Waiting, Wave,
    ZoneQuality, waves,
};
use crate::fleet::{CellIx, Fleet};
use crate::layout::{Layout, rounded, rounded_down};
use crate::policy::Policy;
use crate::ring::HomeRing;
use crate::zone::Zones;

/// Makes a plan. The same input makes the same plan, byte for byte.
///
/// # Errors
/// [`PlanError`] where the question makes no sense. That nothing can be done is a plan that says why.
pub fn plan(fleet: &Fleet, policy: Policy, ring: Option<&HomeRing>, request: &Request) -> Result<Plan, PlanError> {
    policy.check()?;
    let draining = check(fleet, request)?;
    let zones = &fleet.standing().zones;
    let start = Layout::new(fleet, policy);
    let evens = request.goal == Goal::Rebalance && policy.high_water <= 0.0;
    let bound = Bound::new(&start, &draining, evens);
    let found = Search::new(start, ring, request, draining, &bound).run();
    let mut layout = found.layout;
    let touched = touched(&found.steps);
    let hottest = hottest_by_zone(&layout, zones);
    found.steps.iter().rev().for_each(|step| layout.shift(step.tenant, step.source));
    let of_moves = limit_of_moves(&layout, &bound, request, &hottest);
    let before = Picture::of(&layout, zones, &touched);
    let sequence = waves::sequence(&mut layout, &found.steps, &request.bounds, &found.draining);
    let after = Picture::of(&layout, zones, &touched);
    let undo = waves::undo(&mut layout, &sequence.waves);
    let curve = waves::curve(&mut layout, &sequence.waves);
    let quality = quality(zones, (&bound, of_moves), &before, &after, curve);
    let mut left = found.left;
    left.extend(sequence.left);
    let waves = told(fleet, &policy, &sequence.waves);
    let moves = waves.iter().map(|wave| wave.moves.len()).sum();
    let reached = left.is_empty() && found.reached && sequence.cut == 0;
    let verdict = match (found.wanted, reached, moves) {
        (false, ..) => Verdict::NothingToDo,
        (true, true, _) => Verdict::Reached,
        (true, false, 0) => Verdict::Stuck,
        (true, false, _) => Verdict::Partly,
    };
    let mut why = found.why;
    if sequence.cut > 0 {
        let seconds = request.bounds.seconds_max;
        why.push_str(&format!("; {} more moves do not fit into the window of {seconds} s", sequence.cut));
    }
    Ok(Plan {
        parent: fleet.revision(),
        cluster: fleet.cluster().to_owned(),
        request: request.clone(),
        policy,
        verdict,
        why,
        moves,
        bytes: waves.iter().flat_map(|wave| &wave.moves).map(|planned| planned.bytes).sum(),
        seconds: waves.iter().fold(0, |sum, wave| wave.seconds.saturating_add(sum)),
        left,
        left_unlisted: found.left_unlisted,
        cells: changes(before, after),
        waiting: Waiting::of(fleet),
        quality,
        undo: Undo { waves: told(fleet, &policy, &undo.waves), feasible: undo.feasible },
        waves,
    })
}

/// Checks a request against the fleet; says by cell whether it is to be emptied.
fn check(fleet: &Fleet, request: &Request) -> Result<Vec<bool>, PlanError> {
    let Bounds {
        moves_max,
        bytes_max,
        at_once_max,
        at_once_per_cell_max,
        at_once_per_domain_max,
        moves_per_cell_max,
        seconds_max,
    } = request.bounds;
    let given = [
        ("moves-max", moves_max == 0),
        ("bytes-max", bytes_max == 0),
        ("at-once-max", at_once_max == 0),
        ("at-once-per-cell-max", at_once_per_cell_max == 0),
        ("at-once-per-domain-max", at_once_per_domain_max == 0),
        ("moves-per-cell-max", moves_per_cell_max == 0),
        ("seconds-max", seconds_max == 0),
    ];
    if let Some((bound, _)) = given.into_iter().find(|(_, zero)| *zero) {
        return Err(PlanError::BoundInvalid { bound });
    }
    let mut draining = vec![false; fleet.cells().len()];
    if let Goal::Drain { cells } = &request.goal {
        if cells.is_empty() {
            return Err(PlanError::NothingToDrain);
        }
        for id in cells {
            let cell = fleet.find_cell(id.as_str()).ok_or_else(|| PlanError::CellUnknown { cell: id.clone() })?;
            draining[cell.index()] = true;
        }
    }
    Ok(draining)
}

pub(super) fn tell(fleet: &Fleet, step: &Step) -> PlannedMove {
    PlannedMove {
        tenant: fleet.tenant_id(step.tenant),
        source: fleet.cell_id(step.source).clone(),
        target: fleet.cell_id(step.target).clone(),
        bytes: step.bytes,
        reason: step.why.told(fleet),
    }
}

fn told(fleet: &Fleet, policy: &Policy, waves: &[Vec<Step>]) -> Vec<Wave> {
    let wave = |wave: &Vec<Step>| Wave {
        moves: wave.iter().map(|step| tell(fleet, step)).collect(),
        seconds: waves::seconds_of(policy, wave),
    };
    waves.iter().map(wave).collect()
}

fn touched(steps: &[Step]) -> Vec<CellIx> {
    let mut cells: Vec<_> = steps.iter().flat_map(|step| [step.source, step.target]).collect();
    cells.sort_unstable();
    cells.dedup();
    cells
}

impl CellChange {
    pub(crate) fn between(start: &Layout<'_>, end: &Layout<'_>, cell: CellIx) -> Self {
        Self {
            cell: start.cell_id(cell).clone(),
            tenants_before: start.members(cell).len(),
            tenants_after: end.members(cell).len(),
            before: start.peak_report(cell),
            after: end.peak_report(cell),
            hours_before: start.hours(cell),
            hours_after: end.hours(cell),
        }
    }
}

/// What a plan says of a layout.
struct Picture {
    cells: Vec<CellChange>,
    /// By zone: how full its fullest cell is, and how many copies of tenants it holds.
    zones: Vec<(f64, usize)>,
}

impl Picture {
    fn of(layout: &Layout<'_>, zones: &Zones, cells: &[CellIx]) -> Self {
        let zone = |cells: &[CellIx]| {
            let tenants = cells.iter().map(|&cell| layout.members(cell).len()).sum();
            (hottest(layout, cells.iter().copied()), tenants)
        };
        Self {
            cells: cells.iter().map(|&cell| CellChange::between(layout, layout, cell)).collect(),
            zones: zones.all.iter().map(|of| zone(&of.cells)).collect(),
        }
    }

    fn hottest(&self) -> f64 {
        self.zones.iter().map(|(share, _)| *share).fold(0.0, f64::max)
    }
}

/// The cells that differ.
fn changes(before: Picture, after: Picture) -> Vec<CellChange> {
    let pairs = before.cells.into_iter().zip(after.cells).filter(|(before, after)| before != after);
    let told = pairs.map(|(before, after)| CellChange {
        tenants_before: before.tenants_before,
        before: before.before,
        hours_before: before.hours_before,
        ..after
    });
    told.collect()
}

fn gap(hottest: f64, bound: f64) -> f64 {
    if bound > 0.0 { (hottest / bound - 1.0).max(0.0) } else { 0.0 }
}

fn hottest_by_zone(layout: &Layout<'_>, zones: &Zones) -> Vec<f64> {
    zones.all.iter().map(|zone| hottest(layout, zone.cells.iter().copied())).collect()
}

/// What the number of moves alone keeps a plan from, where evening out is what it is for. `reached`: how full each zone's
/// fullest cell is after the moves that were found; the layout is as it is before them.
fn limit_of_moves(start: &Layout<'_>, bound: &Bound, request: &Request, reached: &[f64]) -> f64 {
    if request.goal != Goal::Rebalance {
        return 0.0;
    }
    let moves_max = request.bounds.moves_max;
    let floor = reached.iter().enumerate().map(|(zone, &most)| bound.floor_of_zone(zone, most)).fold(0.0, f64::max);
    let staying = reached.iter().enumerate().map(|(zone, &most)| bound.of_zone_after(start, zone, moves_max, most));
    staying.fold(least_after(start, start.fleet().cells(), floor, moves_max), f64::max)
}

fn quality(
    zones: &Zones,
    (bound, of_moves): (&Bound, f64),
    before: &Picture,
    after: &Picture,
    curve: Vec<f64>,
) -> Quality {
    let bounds = after.zones.iter().enumerate().map(|(zone, &(hottest, _))| bound.of_zone(zone, hottest));
    let bounds: Vec<f64> = bounds.collect();
    let of_zone = |(index, zone): (usize, &crate::zone::Zone)| {
        let (lower_bound, (hottest_after, tenants)) = (bounds[index], after.zones[index]);
        ZoneQuality {
            zone: zone.name.clone(),
            cells: zone.cells.len(),
            tenants,
            hottest_before: rounded(before.zones[index].0),
            hottest_after: rounded(hottest_after),
            lower_bound: rounded_down(lower_bound),
            gap: rounded(gap(hottest_after, lower_bound)),
        }
    };
    let hottest_after = after.hottest();
    let lower_bound = bounds.iter().copied().fold(0.0, f64::max);
    debug_assert!(
        of_moves <= hottest_after + 1e-6,
        "a plan of so many moves ends at {hottest_after}, below its bound of {of_moves}"
    );
    Quality {
        hottest_before: rounded(before.hottest()),
        hottest_after: rounded(hottest_after),
        lower_bound: rounded_down(lower_bound),
        lower_bound_of_moves: rounded_down(lower_bound.max(of_moves.min(hottest_after))),
        gap: rounded(gap(hottest_after, lower_bound)),
        curve: curve.into_iter().map(rounded).collect(),
        zones: zones.all.iter().enumerate().map(of_zone).collect(),
    }
}
